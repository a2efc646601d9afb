"""What is true of "High-dimensional dynamics of generalization error in neural networks" (arXiv 1710.03667).

Expectations for given inputs are taken exactly, by running the shipped solution on unit vectors; Monte Carlo confirms
their limits, with the shift that finite size is known to give.
"""

from proofs.dynamics.high_dimensional import deep, errors, linear, nonlinear, tuning

__all__ = ["deep", "errors", "linear", "nonlinear", "tuning"]
