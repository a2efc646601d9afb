"""The iteration by other routes, its spectral form at the edges, and what it refuses."""

from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings

from refimpl.incontext.higher_order import (
    frobenius_scale,
    gradient_steps_needed,
    iterative_newton,
    krylov_steps_needed,
    newton_iterations_needed,
    newton_moment_coefficients,
    newton_schulz_inverse,
    newton_schulz_step_vjp,
    preconditioned_gradient_descent,
    spectral_filter,
    spectral_residual,
    spectral_scale,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.higher_order.newton import gram_of, problems
from refimpl.primitives.least_squares import gradient_descent, ols_weights


def tall(n_tasks: int = 3, n: int = 12, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n_tasks, n, d)), rng.standard_normal((n_tasks, n))


def test_converges_to_least_squares_and_the_inverse() -> None:
    x, y = tall()
    np.testing.assert_allclose(iterative_newton(x, y, 16), ols_weights(x, y), atol=1e-13)
    np.testing.assert_allclose(newton_schulz_inverse(gram_of(x), 16), np.linalg.inv(gram_of(x)), atol=1e-14)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(problem=problems())
def test_a_batch_is_its_members(problem: Arguments) -> None:
    x, y = problem["x"], problem["y"]
    together = iterative_newton(x, y, 3)
    for index in np.ndindex(x.shape[:-2]):
        np.testing.assert_allclose(iterative_newton(x[index], y[index], 3), together[index], rtol=1e-9, atol=1e-12)


def test_scales_of_a_batch() -> None:
    gram = gram_of(tall()[0])
    scales = frobenius_scale(gram)
    np.testing.assert_array_equal(newton_schulz_inverse(gram, 4), newton_schulz_inverse(gram, 4, scales))
    one = newton_schulz_inverse(gram, 4, float(np.min(scales)))
    index = int(np.argmin(scales))
    np.testing.assert_array_equal(one[index], newton_schulz_inverse(gram, 4)[index])
    assert np.all(scales <= spectral_scale(gram))


@pytest.mark.parametrize("fraction", [0.1, 1.0, 1.9])
def test_the_spectral_form_is_the_loop(fraction: float) -> None:
    x, y = tall()
    values, vectors = np.linalg.eigh(gram_of(x))
    scale = fraction * spectral_scale(gram_of(x))
    for k in (0, 1, 5):
        filters = spectral_filter(values, scale[:, None] * values**2, 2**k)
        inverse = (vectors * filters[:, None]) @ np.swapaxes(vectors, -1, -2)
        np.testing.assert_allclose(newton_schulz_inverse(gram_of(x), k, scale), inverse, atol=1e-13)
    filters = spectral_filter(values, 0.02 * values, 7)
    weights = ((vectors * filters[:, None]) @ np.swapaxes(vectors, -1, -2) @ np.swapaxes(x, -1, -2) @ y[..., None])[
        ..., 0
    ]
    np.testing.assert_allclose(gradient_descent(x, y, 7, 0.02), weights, atol=1e-14)


def test_the_spectral_form_at_the_edges() -> None:
    rates = np.array([0.0, 1e-12, 0.5, 1.0, 1 + 4e-16, 1.5, 2.0])
    np.testing.assert_allclose(
        spectral_residual(rates, 3), [1, 1 - 3e-12, 0.125, 0, 0, -0.125, -1], rtol=1e-15, atol=1e-300
    )
    assert spectral_residual(np.array(1e-9), 2.0**30) == pytest.approx(np.exp(-(2**30) * 1e-9), rel=1e-8)
    # 1 - (1 - z)^p of a tiny z keeps its digits, and an eigenvalue of 0 is left alone.
    filters = spectral_filter(np.array([1e-10, 0.0]), np.array([1e-20, 0.0]), 4)
    np.testing.assert_allclose(filters, [4e-10, 0], rtol=1e-14)
    np.testing.assert_allclose(spectral_filter(np.array([2.0]), np.array([1.5]), 3), [(1 + 0.125) / 2])
    with pytest.raises(ValueError, match="n_steps: expected integers where the rate exceeds 1"):
        spectral_residual(np.array([1.5]), 0.5)
    with pytest.raises(ValueError, match="rate: expected numbers >= 0"):
        spectral_residual(np.array([-0.1]), 1)
    with pytest.raises(ValueError, match="n_steps: expected numbers > 0"):
        spectral_filter(np.ones(1), np.ones(1), 0)


def test_pulling_back_through_converged_steps_is_the_derivative_of_the_inverse() -> None:
    x, _ = tall(1)
    gram = gram_of(x[0])
    inverse, pulls = newton_schulz_inverse(gram, 0), []
    for _ in range(16):
        inverse, pull = newton_schulz_step_vjp(inverse, gram)
        pulls.append(pull)
    cotangent = np.random.default_rng(1).standard_normal(gram.shape)
    to_inverse, to_gram = cotangent, np.zeros_like(gram)
    for pull in reversed(pulls):
        to_inverse, to_this = pull(to_inverse)
        to_gram = to_gram + to_this
    np.testing.assert_allclose(to_gram, -inverse.T @ cotangent @ inverse.T, atol=1e-14)
    np.testing.assert_allclose(to_inverse, 0, atol=1e-14)  # where it started no longer matters


def test_single_precision_at_the_iterations_advised_for_singular_matrices() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((20, 3, 8)).astype(np.float32)
    noise = [newton_schulz_inverse(gram_of(x), k) - np.linalg.pinv(gram_of(x.astype(float))) for k in (13, 30)]
    size = np.linalg.norm(np.linalg.pinv(gram_of(x.astype(float))), 2, axis=(-2, -1))
    relative = [np.median(np.linalg.norm(each, 2, axis=(-2, -1)) / size) for each in noise]
    assert relative[0] < 1e-2
    assert relative[1] > 1


def test_float32_is_kept() -> None:
    x, y = (array.astype(np.float32) for array in tall())
    gram = gram_of(x)
    outputs = [
        iterative_newton(x, y, 2),
        newton_schulz_inverse(gram, 2),
        newton_schulz_inverse(gram, 2, 1e-4),
        newton_schulz_inverse(gram, 2, frobenius_scale(gram).astype(np.float64)),
        preconditioned_gradient_descent(x, y, 2, 1e-4),
        frobenius_scale(gram),
        spectral_scale(gram),
    ]
    assert {output.dtype for output in outputs} == {np.dtype(np.float32)}


def test_moment_coefficients_are_exact_or_floats() -> None:
    np.testing.assert_array_equal(newton_moment_coefficients(1, 0.5), [1, -0.25])
    assert newton_moment_coefficients(2, sympy.Rational(1, 3))[1] == sympy.Rational(-6, 9)
    with pytest.raises(ValueError, match="scale"):
        newton_moment_coefficients(1, 0.0)


def test_counts_at_known_condition_numbers() -> None:
    decades = 10.0 ** np.arange(1, 5)
    np.testing.assert_allclose(krylov_steps_needed(decades, 1e-6), [22.2, 72.3, 229.3, 725.4], atol=0.1)
    np.testing.assert_allclose(gradient_steps_needed(3.0, 0.25), 2)
    np.testing.assert_allclose(newton_iterations_needed(np.sqrt(2.0), 0.25), 1)
    for count in (newton_iterations_needed, gradient_steps_needed, krylov_steps_needed):
        with pytest.raises(ValueError, match="condition_number: expected numbers > 1"):
            count(1.0, 0.1)
        with pytest.raises(ValueError, match="accuracy"):
            count(10.0, 1.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": np.ones((0, 2)), "y": np.ones(0)}, "x: expected n >= 1"),
        ({"y": np.ones(4)}, "y: expected n 3"),
        ({"x": np.full((3, 2), np.inf)}, "x: expected finite entries"),
        ({"y": np.array([1.0, np.nan, 1.0])}, "y: expected finite entries"),
        ({"x": np.zeros((3, 2))}, "x: expected inputs that are not all zero"),
        ({"n_iterations": -1}, "n_iterations: expected an integer >= 0"),
        ({"n_iterations": 1.5}, "n_iterations: expected an integer >= 0"),
        ({"scale": 0.0}, "scale: expected a number in"),
        ({"scale": -1.0}, "scale: expected a number in"),
        ({"scale": np.array([1.0, 1.0])}, r"scale: expected positive numbers of shape \(\)"),
        ({"scale": 1.0, "check": True}, "scale: expected numbers below 2 / lambda_1"),
    ],
)
def test_bad_problems(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "x": np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),
        "y": np.ones(3),
        "n_iterations": 1,
    }
    with pytest.raises(ValueError, match=message):
        iterative_newton(**arguments | changed)


def test_the_largest_scale_allowed() -> None:
    gram = np.diag([4.0, 1.0])
    newton_schulz_inverse(gram, 1, 2 / 16 * (1 - 1e-12), check=True)
    with pytest.raises(ValueError, match=r"below 2 / lambda_1\^2 = 0\.125"):
        newton_schulz_inverse(gram, 1, 2 / 16, check=True)
    assert np.all(np.isfinite(newton_schulz_inverse(gram, 3, 2 / 16)))  # unasked, it is the caller's business


@pytest.mark.parametrize(
    ("gram", "message"),
    [
        (np.ones((2, 3)), "gram: expected d"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), "gram: expected symmetric matrices"),
        (np.zeros((2, 2)), "gram: expected matrices that are not zero"),
        (np.stack([np.eye(2), np.zeros((2, 2))]), "gram: expected matrices that are not zero"),
        (np.ones((2, 2), dtype=int), "gram: expected a floating-point array"),
    ],
)
def test_bad_matrices(gram: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        newton_schulz_inverse(gram, 1)
