"""What is true of "On the Generalization Mystery in Deep Learning" (arXiv 2203.10036).

Statements about samples of any size are proved by adding one gradient, a block of any length, to what the shipped
accumulator keeps of any number of them.
"""

from proofs.dynamics.gradient_coherence import coherence, illustration, stability, suppression, training

__all__ = ["coherence", "illustration", "stability", "suppression", "training"]
