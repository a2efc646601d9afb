"""Judging a faster implementation against the reference at the precision that the mathematics allows."""
