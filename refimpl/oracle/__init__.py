"""Judging a faster implementation against the reference at the precision that the mathematics allows."""

from refimpl.oracle.cases import load_case, save_case
from refimpl.oracle.compare import Report, compare
from refimpl.oracle.spec import Relation, Spec, all_specs, find_spec

__all__ = ["Relation", "Report", "Spec", "all_specs", "compare", "find_spec", "load_case", "save_case"]
