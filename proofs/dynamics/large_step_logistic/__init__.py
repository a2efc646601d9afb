"""What is true of "From Logistic Regression to the Perceptron Algorithm" (arXiv 2412.08424).

Limits in the step size are taken by SymPy on the shipped iteration, perceptrons run on exact rationals where a margin
may be 0, and the bounds are checked step by step along their own proofs.
"""

from proofs.dynamics.large_step_logistic import bounds, examples, experiments, limit, loss

__all__ = ["bounds", "examples", "experiments", "limit", "loss"]
