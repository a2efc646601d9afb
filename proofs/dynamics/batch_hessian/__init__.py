"""What is true of "Learning Rates as a Function of Batch Size" (arXiv 2006.09092).

The random-matrix formulas meet draws of the matrices they are about, and softmax regression on scanned digits, whose
fluctuations are those of data. What the paper derives from them on learning rates is algebra, proved on the shipped
code; Lanczos and the learner are run.
"""

from proofs.dynamics.batch_hessian import krylov, learning_rates, levels, spiked, training

__all__ = ["krylov", "learning_rates", "levels", "spiked", "training"]
