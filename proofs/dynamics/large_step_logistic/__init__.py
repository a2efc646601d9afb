"""What is true of "From Logistic Regression to the Perceptron Algorithm" (arXiv 2412.08424).

Limits in the step size are taken by SymPy on the shipped iteration, perceptrons run on exact rationals where a margin
may be 0, and the bounds are checked step by step along their own proofs.
"""

# In the paper's order, which is the ledger's.
from proofs.dynamics.large_step_logistic import loss, limit, bounds, examples, experiments  # noqa: I001

__all__ = ["bounds", "examples", "experiments", "limit", "loss"]
