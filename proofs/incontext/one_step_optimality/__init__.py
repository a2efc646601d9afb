"""What is true of "One Step of Gradient Descent is Provably the Optimal In-Context Learner" (arXiv 2307.03576)."""

from proofs.incontext.one_step_optimality import (
    bayes,
    model,
    nonlinear,
    population,
    preconditioned,
    relaxation,
    setting,
)

__all__ = [
    "bayes",
    "model",
    "nonlinear",
    "population",
    "preconditioned",
    "relaxation",
    "setting",
]
