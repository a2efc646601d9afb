"""Solving by elimination against LAPACK, and on symbols against the equation."""

import numpy as np
import pytest

from proofs.symbolic import block, blocks, vanishes
from refimpl.oracle.spec import symbols
from refimpl.primitives.linear_systems import check_positive_definite, solve


def problem(size: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(size)
    root = rng.standard_normal((3, size, size + 2))
    return (root @ np.swapaxes(root, -1, -2)).astype(dtype), rng.standard_normal((3, size, 2)).astype(dtype)


@pytest.mark.parametrize("size", [1, 2, 5, 12])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_residual(size: int, dtype: type) -> None:
    matrix, right = problem(size, dtype)
    found = solve(matrix, right)
    assert found.dtype == dtype
    residual = np.abs(matrix @ found - right)
    # Backward stable: 3 d roundings against |A||x| (Higham, Theorem 10.4 with elimination's constant).
    allowed = 8 * size * np.finfo(dtype).eps * (np.abs(matrix) @ np.abs(found) + np.abs(right))
    assert np.all(residual <= allowed)


def test_symbols_satisfy_the_equation() -> None:
    matrix, right = symbols("a", 2, 2), symbols("b", 2, 1)
    assert vanishes(matrix @ solve(matrix, right) - right).holds


def test_a_block_is_inverted() -> None:
    assert solve(blocks([[block("S")]]), blocks([[block("X")]]))[0, 0] == block("S") ** -1 * block("X")


def test_positive_definite_matrices_pass() -> None:
    matrix = problem(3, float)[0][0]
    assert check_positive_definite("cov", matrix) is matrix
    slightly_off = matrix + np.triu(np.spacing(np.abs(matrix)), 1)
    check_positive_definite("cov", slightly_off, 3)
    check_positive_definite("cov", symbols("s", 2, 2))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones((2, 3)), "cov: expected shape"),
        (np.eye(2), "cov: expected shape"),
        (np.array([[1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), "cov: expected a symmetric"),
        (np.diag([1.0, -1.0, 1.0]), "cov: expected a positive definite matrix, got eigenvalue -1"),
        (np.zeros((3, 3)), "cov: expected a positive definite"),
        (np.full((3, 3), np.nan), "cov: expected finite"),
        ([[1.0]], "cov: expected an array"),
    ],
)
def test_others_do_not(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_positive_definite("cov", value, 3)
