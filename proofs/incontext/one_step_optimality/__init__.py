"""What is true of "One step of gradient descent is provably the optimal in-context learner" (arXiv 2307.03576).

The shipped layer and the shipped population loss run on blocks, matrices of any size, and Isserlis' theorem takes their
expectations (:mod:`proofs.wick`): so that the theorems are proved for all numbers of inputs and context points.
"""

from proofs.incontext.one_step_optimality import (
    bayes,
    landscape,
    model,
    nonlinear,
    population,
    preconditioned,
    relaxation,
    training,
)

__all__ = ["bayes", "landscape", "model", "nonlinear", "population", "preconditioned", "relaxation", "training"]
