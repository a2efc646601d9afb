"""Symmetric positive definite systems in every number system: LAPACK where it has the dtype, else elimination."""

from typing import Any

import numpy as np

from refimpl.primitives.checks import check_shapes
from refimpl.primitives.numbers import Array, is_symbolic


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
    if type(matrix) is np.ndarray and type(right) is np.ndarray and matrix.dtype.char in "fd":
        return np.linalg.solve(matrix, right)
    size = matrix.shape[-1]
    rows = []
    for k in range(size):
        # The product with the inverse from the left, for blocks do not commute.
        inverse = 1 / matrix[..., :1, :1]
        row, column = inverse * matrix[..., :1, 1:], matrix[..., 1:, :1]
        solved = inverse * right[..., :1, :]
        rows.append((row, solved))
        if k + 1 < size:
            matrix, right = matrix[..., 1:, 1:] - column * row, right[..., 1:, :] - column * solved
    row, solution = rows.pop()
    while rows:
        row, solved = rows.pop()
        solution = np.concatenate([solved - row @ solution, solution], axis=-2)
    return np.asanyarray(solution)


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
