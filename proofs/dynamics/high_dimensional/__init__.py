"""What is true of "High-dimensional dynamics of generalization error in neural networks" (arXiv 1710.03667).

Expectations for given inputs are taken exactly, by running the shipped solution on unit vectors; Monte Carlo confirms
their limits, with the shift that finite size is known to give.
"""

# In the paper's order, which is the ledger's.
from proofs.dynamics.high_dimensional import linear, errors, tuning, deep, nonlinear  # noqa: I001

__all__ = ["deep", "errors", "linear", "nonlinear", "tuning"]
