"""Saturating networks: second routes, precision, and what is refused."""

import itertools
from typing import Any

import numpy as np
import pytest

from refimpl.dynamics.deep_linear import (
    fixed_point_variance,
    forward,
    jacobian,
    mode_strengths,
    orthogonal_init,
    tanh_gradient_steps,
    tanh_mode_strengths,
    variance_map,
)


def network(n: int = 6, n_layers: int = 4) -> Any:
    rng = np.random.default_rng(0)
    return rng.standard_normal((3, n)), list(orthogonal_init((n_layers, n, n), rng))


def test_the_jacobian_is_the_derivative_of_the_last_layer() -> None:
    x, weights = network()
    found, h = jacobian(x, weights, 1.3), 1e-6
    for unit in range(6):
        step = h * np.eye(6)[unit]
        difference = forward(x + step, weights, 1.3)[-1] - forward(x - step, weights, 1.3)[-1]
        np.testing.assert_allclose(found[..., unit], difference / (2 * h), atol=1e-8)


def test_orthogonal_weights_keep_the_variance_of_what_they_get() -> None:
    x, weights = network()
    layers = forward(x, weights, 1.3)
    np.testing.assert_array_equal(layers[0], x)
    for before, after in itertools.pairwise(layers):
        np.testing.assert_allclose(np.sum(after**2, axis=-1), 1.69 * np.sum(np.tanh(before) ** 2, axis=-1))


def test_the_variance_map_is_its_expectation() -> None:
    z = np.random.default_rng(1).standard_normal(400_000)
    for q in (0.1, 1.0, 30.0):
        sample = np.tanh(np.sqrt(q) * z) ** 2
        assert abs(variance_map(q, 1.0) - np.mean(sample)) < 5 * np.std(sample) / np.sqrt(z.size)
    small = 1e-6
    np.testing.assert_allclose(variance_map(small, 2.0), 4 * (small - 2 * small**2), rtol=1e-10)
    assert variance_map(0.0, 2.0) == 0
    np.testing.assert_allclose(variance_map(np.array([[1.0, 2.0]]), 1.5).shape, (1, 2))


def test_fixed_points_are_fixed_and_attract() -> None:
    for gain in (1.001, 1.3, 3.0, 10.0):
        q = fixed_point_variance(gain)
        np.testing.assert_allclose(variance_map(q, gain), q, rtol=1e-9)
        assert abs(float(variance_map(q * 1.01, gain)) / q - 1) < 0.01
    assert fixed_point_variance(1.0) == fixed_point_variance(0.2) == 0


def test_the_tanh_network_descends_and_is_linear_when_small() -> None:
    rng = np.random.default_rng(2)
    x, y = np.eye(4), rng.standard_normal((4, 3))
    weights = [0.3 * rng.standard_normal((5, 4)), 0.3 * rng.standard_normal((3, 5))]

    def error(weights: Any) -> float:
        return float(np.sum((np.tanh(x @ weights[0].T) @ weights[1].T - y) ** 2) / 2)

    first = next(tanh_gradient_steps(weights, x, y, 1e-6))
    drop = sum(np.sum((new - old) ** 2) for new, old in zip(first, weights, strict=True)) / 1e-6
    np.testing.assert_allclose(error(weights) - error(first), drop, rtol=1e-4)
    tiny = [1e-4 * weight for weight in weights]
    u, _, vt = np.linalg.svd(y.T, full_matrices=False)
    np.testing.assert_allclose(tanh_mode_strengths(tiny, x, u, vt.T), mode_strengths(tiny, u, vt.T), rtol=1e-6)


def test_float32_is_kept() -> None:
    x, weights = network()
    x, weights = x.astype(np.float32), [weight.astype(np.float32) for weight in weights]
    outputs = [forward(x, weights, 1.1), jacobian(x, weights, 1.1), variance_map(x**2, 1.1)]
    outputs += next(tanh_gradient_steps([weights[0], weights[1]], x, x, 0.1))
    outputs.append(tanh_mode_strengths(weights[:2], x, weights[0], weights[1]))
    assert {output.dtype for output in outputs} == {np.dtype(np.float32)}


X, ONE = np.ones(2), np.eye(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: forward(X, [], 1.0), "weights: expected a list of at least one matrix"),
        (lambda: forward(X, [np.ones((2, 3))], 1.0), r"weights\[0\]: expected n 2"),
        (lambda: forward(X, [ONE], 0.0), "gain: expected a number in"),
        (lambda: jacobian(X * np.nan, [ONE], 1.0), "x: expected finite entries"),
        (lambda: variance_map(-1.0, 1.0), "q: expected variances >= 0"),
        (lambda: variance_map(np.inf, 1.0), "q: expected finite entries"),
        (lambda: fixed_point_variance(-1.0), "gain: expected a number in"),
        (lambda: tanh_gradient_steps([ONE, ONE], np.eye(2), np.ones((3, 2)), 0.1), "y: expected n 2"),
        (lambda: tanh_gradient_steps([ONE, ONE], np.eye(2), np.eye(2), 0.0), "learning_rate: expected a number in"),
        (lambda: tanh_mode_strengths([ONE, ONE], np.eye(2), np.ones((3, 1)), np.ones((2, 1))), "u: expected n_3 2"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
