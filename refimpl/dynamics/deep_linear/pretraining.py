r"""Greedy pretraining, and when it leads onto the decoupled manifold (Section 3, Eq. 18).

A layer trained as a linear auto-encoder aligns with the principal axes of its input. That helps a later task to the
extent that these are the task's right singular vectors.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl.dynamics.deep_linear.initialisation import check_layer_sizes, small_random_init
from refimpl.dynamics.deep_linear.network import check_correlations, gradient_steps
from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.numbers import Array, transpose


def pretraining_consistency(sigma_11: Array, sigma_31: Array) -> Any:
    r"""How nearly diagonal $V^\top\Sigma^{11}V$ is: the share of its squared norm on its diagonal.

    LAPACK: floats only. The paper prints $V\Sigma^{11}V^\top$; with singular vectors in columns it must be this. $V$
    holds those of singular values above roundoff only: a basis of the rest would be arbitrary, and so would the number.

    Parameters
    ----------
    sigma_11 : array, shape (n_inputs, n_inputs), symmetric, not 0
    sigma_31 : array, shape (n_outputs, n_inputs), not 0

    Returns
    -------
    number in (0, 1]

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, sigma_11 is not symmetric, or a matrix is 0.

    Source: arXiv 1312.6120, Eq. 18.
    """
    check_correlations(sigma_11, sigma_31)
    _, s, vt = np.linalg.svd(sigma_31, full_matrices=False)
    kept = vt[s > max(sigma_31.shape) * np.finfo(s.dtype).eps * s[0]]
    if not len(kept):
        raise ValueError("sigma_31: expected a matrix other than 0")
    seen = kept @ sigma_11 @ transpose(kept)
    total = np.sum(seen * seen)
    if not total > 0:
        raise ValueError("sigma_11: expected variance along the singular vectors of sigma_31, got none")
    diagonal = np.diagonal(seen)
    return np.sum(diagonal * diagonal) / total


def greedy_pretraining(
    sigma_11: Array,
    layer_sizes: Sequence[int],
    learning_rate: float,
    n_steps: int,
    std: float,
    rng: np.random.Generator,
) -> list[Array]:
    r"""Encoders of linear auto-encoders, each trained on the code of those before it from small random weights.

    Parameters
    ----------
    sigma_11 : array, shape (n_inputs, n_inputs), symmetric
    layer_sizes : widths of the input and of the hidden layers
    learning_rate : number > 0
    n_steps : int >= 1
        Of gradient descent, for each layer.
    std : number > 0
        Of the entries of the weights at the start.
    rng : numpy.random.Generator

    Returns
    -------
    list of arrays, shapes (layer_sizes[l + 1], layer_sizes[l])

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, sigma_11 is not symmetric, or a number is out of range.

    Source: arXiv 1312.6120, Section 3.
    """
    check_correlations(sigma_11, sigma_11)
    sizes = check_layer_sizes(layer_sizes)
    if sizes[0] != sigma_11.shape[0]:
        raise ValueError(f"layer_sizes: expected {sigma_11.shape[0]} inputs as in sigma_11, got {sizes[0]}")
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    n_steps = check_integer("n_steps", n_steps, 1)
    encoders, code = [], sigma_11
    for before, after in itertools.pairwise(sizes):
        start = small_random_init((before, after, before), std, rng)
        steps = gradient_steps.unchecked(start, code, code, learning_rate)
        encoder = next(weights for step, weights in enumerate(steps, 1) if step == n_steps)[0]
        encoders.append(encoder)
        code = encoder @ code @ transpose(encoder)
    return encoders
