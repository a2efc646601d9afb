"""What is true of "Transformers Learn Higher-Order Optimization Methods for In-Context Learning" (arXiv 2310.17086).

Newton's iteration and the layers that perform it are proved on blocks, matrices of any size: the shipped code runs on
arrays whose entries stand for whole matrices, and what holds of one iteration or layer holds of all by induction.
"""

from proofs.incontext.higher_order import comparison, construction, newton, rates, training

__all__ = ["comparison", "construction", "newton", "rates", "training"]
