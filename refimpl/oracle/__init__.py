"""Judging a faster implementation against the reference at the precision that the mathematics allows."""

from refimpl.oracle.cases import Case, cases, load_case, save_case
from refimpl.oracle.compare import compare
from refimpl.oracle.report import Report
from refimpl.oracle.spec import Relation, Spec, all_specs, find_spec

__all__ = ["Case", "Relation", "Report", "Spec", "all_specs", "cases", "compare", "find_spec", "load_case", "save_case"]
