"""The rival methods against each other and against what defines their answers."""

from typing import Any

import numpy as np
import pytest

from refimpl.incontext.higher_order import (
    best_learning_rate,
    bfgs,
    chebyshev_iteration,
    conjugate_gradient,
    lbfgs,
    online_gradient_descent,
)
from refimpl.oracle.specs.incontext.higher_order.newton import gram_of
from refimpl.primitives.least_squares import least_squares_gradient, ols_weights


def tall(n: int = 15, d: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((4, n, d)), rng.standard_normal((4, n))


def test_conjugate_gradients_reduce_the_loss_most_over_the_krylov_space() -> None:
    x, y = tall()
    gram, moment = gram_of(x), np.swapaxes(x, -1, -2) @ y[..., None]
    for k in (1, 2, 3):
        gradient = least_squares_gradient(conjugate_gradient(x, y, k), x, y)
        space = np.concatenate([np.linalg.matrix_power(gram, i) @ moment for i in range(k)], axis=-1)
        space /= np.linalg.norm(space, axis=-2, keepdims=True)
        np.testing.assert_allclose(gradient[:, None] @ space, 0, atol=1e-11)


def test_lbfgs_with_all_its_memory_is_bfgs() -> None:
    x, y = tall()
    for k in range(6):
        np.testing.assert_allclose(lbfgs(x, y, k, 5), bfgs(x, y, k)[0], atol=1e-12)
    np.testing.assert_allclose(lbfgs(x, y, 5, 1), ols_weights(x, y), atol=1e-12)  # exact line search: any memory does


def test_methods_that_have_arrived_stay() -> None:
    """On a singular Gram matrix, long after convergence."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((6, 2, 7)), rng.standard_normal((6, 2))
    wanted = ols_weights(x, y)
    np.testing.assert_allclose(conjugate_gradient(x, y, 50), wanted, atol=1e-12)
    weights, inverse = bfgs(x, y, 50)
    np.testing.assert_allclose(weights, wanted, atol=1e-12)
    np.testing.assert_allclose(inverse, bfgs(x, y, 2)[1], atol=1e-9)
    np.testing.assert_allclose(lbfgs(x, y, 50, 3), wanted, atol=1e-12)
    zero = np.zeros_like(y)
    for solved in (conjugate_gradient(x, zero, 3), bfgs(x, zero, 3)[0], lbfgs(x, zero, 3, 2)):
        np.testing.assert_array_equal(solved, 0)


def test_chebyshev_converges_at_its_rate() -> None:
    x, y = tall()
    values = np.linalg.eigvalsh(gram_of(x))
    low, high = float(values.min()), float(values.max())
    error = [
        np.linalg.norm(chebyshev_iteration(x, y, k, low, high) - ols_weights(x, y), axis=-1).max() for k in (0, 10, 60)
    ]
    angle = np.arccosh((high + low) / (high - low))
    assert error[1] <= error[0] / np.cosh(10 * angle) * (1 + 1e-9)
    assert error[2] < 1e-10


def test_online_descent_is_its_recursion() -> None:
    x, y = tall()
    for rate in (None, 0.05):
        weights = np.zeros((4, 5))
        for k in range(15):
            for task in range(4):
                step = 1 / (x[task, k] @ x[task, k]) if rate is None else rate
                weights[task] -= step * (weights[task] @ x[task, k] - y[task, k]) * x[task, k]
        np.testing.assert_allclose(online_gradient_descent(x, y, rate), weights, atol=1e-13)


def test_the_best_rate_balances_the_ends_of_the_spectrum() -> None:
    gram = np.stack([np.diag([1.0, 4.0, 9.0]), np.eye(3)])
    np.testing.assert_allclose(best_learning_rate(gram), [0.2, 1])


def test_float32_is_kept() -> None:
    x, y = (array.astype(np.float32) for array in tall())
    outputs = [
        online_gradient_descent(x, y),
        online_gradient_descent(x, y, 0.1),
        conjugate_gradient(x, y, 3),
        chebyshev_iteration(x, y, 3, 0.5, 40.0),
        *bfgs(x, y, 3),
        lbfgs(x, y, 3, 2),
        best_learning_rate(gram_of(x)),
    ]
    assert {output.dtype for output in outputs} == {np.dtype(np.float32)}


X, Y = np.ones((3, 2)), np.ones(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: online_gradient_descent(X, Y, 0.0), "learning_rate: expected a number in"),
        (lambda: online_gradient_descent(np.zeros((3, 2)), Y), "x: expected no input of norm 0"),
        (lambda: online_gradient_descent(X, np.ones(2)), "y: expected n 3"),
        (lambda: conjugate_gradient(X, Y, -1), "n_steps: expected an integer >= 0"),
        (lambda: conjugate_gradient(X * np.nan, Y, 1), "x: expected finite entries"),
        (lambda: bfgs(X, Y, 0.5), "n_steps: expected an integer >= 0"),
        (lambda: lbfgs(X, Y, 1, 0), "memory: expected an integer >= 1"),
        (lambda: chebyshev_iteration(X, Y, 1, 0.0, 1.0), "smallest: expected a number in"),
        (lambda: chebyshev_iteration(X, Y, 1, 2.0, 2.0), "largest: expected a number in"),
        (lambda: best_learning_rate(np.ones((2, 3))), "gram: expected d"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_an_input_of_norm_zero_is_fine_at_a_given_rate() -> None:
    np.testing.assert_array_equal(online_gradient_descent(np.zeros((3, 2)), Y, 0.1), 0)
