"""Cosines between vectors, by which the in-context papers compare algorithms."""

import numpy as np

from refimpl.primitives.checks import check_shapes
from refimpl.primitives.numbers import Array, is_symbolic, row_dot, sqrt


def cosine_similarity(a: Array, b: Array) -> Array:
    r"""$\langle a,b\rangle/(\lVert a\rVert\lVert b\rVert)$ over the last axis.

    Parameters
    ----------
    a, b : array, shape (..., d), no vector of norm 0

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or a vector is zero, whose angle with anything is undefined.
    """
    check_shapes(a=(a, "... d"), b=(b, "... d"))
    for name, vectors in (("a", a), ("b", b)):
        if not is_symbolic(vectors) and not np.all(np.any(vectors, axis=-1)):
            raise ValueError(f"{name}: expected vectors that are not zero")
    directions = [vectors / sqrt(row_dot(vectors, vectors)) for vectors in map(_to_size_one, (a, b))]
    return np.asanyarray(row_dot(*directions)[..., 0])


def _to_size_one(vectors: Array) -> Array:
    """Vectors along the same directions, with a largest entry of 1, whose squares neither underflow nor overflow."""
    return vectors if is_symbolic(vectors) else vectors / np.max(np.abs(vectors), axis=-1, keepdims=True)
