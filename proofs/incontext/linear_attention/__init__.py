"""What is true of "Transformers learn in-context by gradient descent" (arXiv 2212.07677), in the paper's order.

Most of the constructions are proved on blocks: the shipped weights and the shipped layer run on a 2 x 2 array whose
entries are matrices of any size, so that one computation covers all numbers of inputs, outputs and context points.
"""

from proofs.incontext.linear_attention import (
    construction,
    copying,
    depth,
    kernel,
    plus_plus,
    population,
    raw_tokens,
    real_data,
    sine,
    softmax,
    trained,
    variants,
)

__all__ = [
    "construction",
    "copying",
    "depth",
    "kernel",
    "plus_plus",
    "population",
    "raw_tokens",
    "real_data",
    "sine",
    "softmax",
    "trained",
    "variants",
]
