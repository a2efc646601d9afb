"""Judging a faster implementation against the reference at the precision that the mathematics allows."""

from refimpl.oracle.cases import load_case, save_case
from refimpl.oracle.compare import Report, compare
from refimpl.oracle.spec import Relation, Spec, specs

__all__ = ["Relation", "Report", "Spec", "compare", "load_case", "save_case", "specs"]
