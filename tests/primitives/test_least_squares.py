"""Least-squares solvers against the equations that define their answers."""

import numpy as np
import pytest
import sympy

from refimpl.oracle.spec import symbols
from refimpl.primitives.least_squares import (
    gradient_descent,
    induced_weights,
    least_squares_gradient,
    ols_weights,
    ridge_weights,
)


@pytest.fixture
def problem() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((4, 9, 3)), rng.standard_normal((4, 9))


def test_ols_makes_the_residual_orthogonal_to_the_inputs(problem: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = problem
    assert np.max(np.abs(least_squares_gradient(ols_weights(x, y), x, y))) < 1e-13  # a sum of 9 products


def test_ols_is_the_shortest_of_the_exact_fits() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 5)), rng.standard_normal(2)
    weights = ols_weights(x, y)
    np.testing.assert_allclose(x @ weights, y, atol=1e-13)
    out_of_span = weights - x.T @ np.linalg.solve(x @ x.T, x @ weights)
    assert np.max(np.abs(out_of_span)) < 1e-13


def test_ridge_solves_its_normal_equations(problem: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = problem
    weights = ridge_weights(x, y, 0.7)
    assert np.max(np.abs(least_squares_gradient(weights, x, y) + 0.7 * weights)) < 1e-13


def test_gradient_descent_converges_to_ridge(problem: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = problem
    found = gradient_descent(x, y, 3000, 0.02, penalty=0.7)
    np.testing.assert_allclose(found, ridge_weights(x, y, 0.7), atol=1e-13)


def test_gradient_is_the_derivative_of_half_the_squares() -> None:
    x, y, w = symbols("x", 3, 2), symbols("y", 3), symbols("w", 2)
    residual = x @ w - y
    loss = residual @ residual / 2
    gradient = least_squares_gradient(w, x, y)
    assert [sympy.expand(sympy.diff(loss, a) - b) for a, b in zip(w, gradient, strict=True)] == [0, 0]


def test_float32_is_kept(problem: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = (one.astype(np.float32) for one in problem)
    for weights in (ols_weights(x, y), ridge_weights(x, y, 0.5), gradient_descent(x, y, 3, 0.01)):
        assert weights.dtype == np.float32


def test_induced_weights_of_a_linear_predictor_are_its_own() -> None:
    rng = np.random.default_rng(3)
    weights, queries = rng.standard_normal((2, 3)), rng.standard_normal((2, 7, 3))
    np.testing.assert_allclose(induced_weights(queries, (queries @ weights[..., None])[..., 0]), weights, atol=1e-13)
    with pytest.raises(ValueError, match="queries: expected at least d = 3 of them, got 2"):
        induced_weights(queries[:, :2], np.ones((2, 2)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y": np.ones(3)}, "y: expected n 2"),
        ({"n_steps": -1}, "n_steps"),
        ({"n_steps": 1.5}, "n_steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"penalty": -1.0}, "penalty"),
        ({"x": np.array([[1.0, np.nan]] * 2)}, "x: expected finite"),
        ({"initial_weights": np.ones(3)}, "initial_weights"),
    ],
)
def test_bad_input(changed: dict[str, object], message: str) -> None:
    arguments = {"x": np.ones((2, 2)), "y": np.ones(2), "n_steps": 1, "learning_rate": 0.1} | changed
    with pytest.raises(ValueError, match=message):
        gradient_descent(**arguments)  # type: ignore[arg-type]
