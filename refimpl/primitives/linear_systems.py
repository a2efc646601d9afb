"""Symmetric positive definite systems in every number system: LAPACK where it has the dtype, else elimination, and
elimination too for many small systems at once."""

import math
from typing import Any

import numpy as np

from refimpl.primitives.checks import check_shapes
from refimpl.primitives.numbers import Array, is_symbolic

MANY, SMALL = 256, 5
"""From so many systems of at most this size on elimination over all of them at once is faster than LAPACK on each."""


def solve(matrix: Array, right: Array) -> Array:
    """``matrix^-1 @ right`` for a symmetric positive definite matrix; arguments unchecked.

    Elimination takes the pivots as they come, which is stable for these matrices and exact for symbols and rationals;
    of a 1 x 1 array of blocks it leaves the inverse of the block times the right-hand side.

    Parameters
    ----------
    matrix : array, shape (..., d, d)
    right : array, shape (..., d, k)

    Returns
    -------
    array, shape (..., d, k)
    """
    batch = np.broadcast_shapes(matrix.shape[:-2], right.shape[:-2])
    plain = type(matrix) is np.ndarray and type(right) is np.ndarray and matrix.dtype.char in "fd"
    if plain and (math.prod(batch) < MANY or matrix.shape[-1] > SMALL):
        return np.linalg.solve(matrix, right)
    left, rest = _systems_last(matrix, batch), _systems_last(right, batch)
    size = len(left)
    rows = []
    for k in range(size):
        # The product with the inverse from the left, for blocks do not commute.
        inverse = 1 / left[0, 0]
        row, solved, column = inverse * left[0, 1:], inverse * rest[0], left[1:, 0, None]
        rows.append((row, solved))
        if k + 1 < size:
            left, rest = left[1:, 1:] - column * row, rest[1:] - column * solved
    solution = np.empty_like(rest, shape=(size, *rest.shape[1:]))
    for k, (_, solved) in enumerate(rows):
        solution[k] = solved
    for k in range(size - 2, -1, -1):
        solution[k] -= np.add.reduce(rows[k][0][:, None] * solution[k + 1 :], axis=0)
    return np.asanyarray(solution.transpose(2, 0, 1).copy().reshape(*batch, *right.shape[-2:]))


def _systems_last(matrices: Array, batch: tuple[int, ...]) -> Array:
    """The batch as one last axis, along which NumPy's inner loops run."""
    if matrices.shape[:-2] != batch:
        matrices = np.broadcast_to(matrices, (*batch, *matrices.shape[-2:]))
    return matrices.reshape(-1, *matrices.shape[-2:]).transpose(1, 2, 0).copy()


def check_positive_definite(name: str, value: Any, size: int | None = None) -> Array:
    """Return `value` if it is a symmetric positive definite matrix (of this size), or one of symbols.

    Raises
    ------
    ValueError
        If it is not square, has another size or a non-finite entry, is not symmetric to roundoff, or Cholesky's
        factorisation fails.
    """
    wanted = "d d" if size is None else f"{size} {size}"
    check_shapes(**{name: (value, wanted)})
    matrix = np.asanyarray(value)
    if is_symbolic(matrix):
        return matrix
    asymmetry = float(np.max(np.abs(matrix - matrix.T)))
    # Two orders of the same sums differ by a few units in the last place of the largest entry.
    if asymmetry > 8 * float(np.finfo(matrix.dtype).eps) * float(np.max(np.abs(matrix))):
        raise ValueError(f"{name}: expected a symmetric matrix, got entries that differ by {asymmetry:.3g} across it")
    try:
        np.linalg.cholesky(np.asarray(matrix, dtype=np.float64))
    except np.linalg.LinAlgError:
        lowest = np.linalg.eigvalsh(np.asarray(matrix, dtype=np.float64))[0]
        raise ValueError(f"{name}: expected a positive definite matrix, got eigenvalue {lowest:.3g}") from None
    return matrix
