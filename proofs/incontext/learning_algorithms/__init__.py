"""What is true of "What learning algorithm is in-context learning?" (arXiv 2211.15661), in the paper's order."""

from proofs.incontext.learning_algorithms import operators, probing, programs, raw, regression, trained

__all__ = ["operators", "probing", "programs", "raw", "regression", "trained"]
