"""Starting weights, random products and pretraining: laws, second routes, and what is refused."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from refimpl.dynamics.deep_linear import (
    eigenvalue_radius_law,
    estimate_lyapunov_exponents,
    greedy_pretraining,
    lyapunov_exponents,
    orthogonal_init,
    pretraining_consistency,
    product_eigenvalues,
    product_moments,
    product_singular_values,
    random_products,
    scaled_gaussian_init,
    small_random_init,
)


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7), (2, 4, 4)])
def test_orthogonal_matrices_are(shape: tuple[int, ...]) -> None:
    q = orthogonal_init(shape, np.random.default_rng(0))
    assert q.shape == shape
    singular = np.linalg.svd(q, compute_uv=False)
    np.testing.assert_allclose(singular, 1, atol=1e-14)


def test_the_orthogonal_law_is_haars() -> None:
    """The trace of a Haar matrix has mean 0 and variance 1; without the choice of signs LAPACK's has another mean."""
    traces = np.trace(orthogonal_init((20000, 3, 3), np.random.default_rng(1)), axis1=-2, axis2=-1)
    assert abs(np.mean(traces)) < 5 / np.sqrt(20000)
    assert abs(np.var(traces) - 1) < 0.08


def test_the_same_generator_gives_the_same_weights() -> None:
    for draw in (orthogonal_init, scaled_gaussian_init):
        first, second = (draw((3, 4), np.random.default_rng(2)) for _ in range(2))
        np.testing.assert_array_equal(first, second)


def test_variances_of_gaussian_starts() -> None:
    rng = np.random.default_rng(3)
    np.testing.assert_allclose(np.var(scaled_gaussian_init((400, 300), rng)) * 300, 1, rtol=0.02)
    weights = small_random_init((300, 400, 2), 0.01, rng)
    assert [weight.shape for weight in weights] == [(400, 300), (2, 400)]
    np.testing.assert_allclose(np.std(weights[0]), 0.01, rtol=0.02)


def test_spectra_belong_to_the_products() -> None:
    values = product_singular_values(scaled_gaussian_init, 6, 3, 4, np.random.default_rng(4))
    eigenvalues = product_eigenvalues(scaled_gaussian_init, 6, 3, 4, np.random.default_rng(4))
    products = random_products(scaled_gaussian_init, 6, 3, 4, np.random.default_rng(4))
    np.testing.assert_allclose(np.sum(values**2, axis=1), np.sum(products**2, axis=(1, 2)))
    np.testing.assert_allclose(np.sum(eigenvalues, axis=1).real, np.trace(products, axis1=1, axis2=2), atol=1e-12)
    np.testing.assert_allclose(np.prod(values, axis=1), np.abs(np.linalg.det(products)))


def test_moments_of_one_factor_are_wisharts() -> None:
    assert product_moments(5, 1) == (Fraction(2) + Fraction(1, 5), 1 + Fraction(2, 25))
    fourth, square = product_moments(10**6, 7)
    assert abs(float(fourth) - 8) < 1e-4
    assert abs(float(square) - 1) < 1e-4


def test_lyapunov_exponents_sum_to_the_mean_log_determinant() -> None:
    """Of one Gaussian factor: the product of independent chi variables."""
    exponents = lyapunov_exponents(4)
    assert np.all(np.diff(exponents) < 0)
    draws = np.linalg.slogdet(scaled_gaussian_init((40000, 4, 4), np.random.default_rng(5)))[1]
    assert abs(np.mean(draws) - np.sum(exponents)) < 5 * np.std(draws) / 200
    estimate = estimate_lyapunov_exponents(4, 1, np.random.default_rng(6))
    determinant = np.linalg.slogdet(scaled_gaussian_init((4, 4), np.random.default_rng(6)))[1]
    np.testing.assert_allclose(np.sum(estimate), determinant)


def test_the_radius_law() -> None:
    np.testing.assert_allclose(eigenvalue_radius_law(np.array([0.0, 0.25, 1.0]), 4), [0, 0.5, 1])


def test_consistency_knows_only_the_learnable_part_of_the_inputs() -> None:
    rng = np.random.default_rng(7)
    v, u = orthogonal_init((6, 6), rng), orthogonal_init((3, 3), rng)
    sigma_11 = (v * np.array([5.0, 4, 3, 2, 1, 0.5])) @ v.T
    sigma_11 = (sigma_11 + sigma_11.T) / 2
    aligned = (u * np.array([3.0, 2.0, 1.0])) @ v[:, :3].T
    np.testing.assert_allclose(pretraining_consistency(sigma_11, aligned), 1)
    # A singular value of roundoff brings no arbitrary vector in.
    rank_two = (u[:, :2] * np.array([3.0, 2.0])) @ v[:, :2].T
    np.testing.assert_allclose(pretraining_consistency(sigma_11, rank_two), 1)
    turned = aligned @ orthogonal_init((6, 6), rng)
    assert pretraining_consistency(sigma_11, turned) < 0.95
    assert pretraining_consistency(sigma_11.astype(np.float32), aligned.astype(np.float32)).dtype == np.float32


def test_a_pretrained_layer_codes_what_varies_most() -> None:
    rng = np.random.default_rng(8)
    axes = orthogonal_init((5, 5), rng)
    sigma = (axes * np.array([2.0, 1.5, 0.05, 0.04, 0.03])) @ axes.T
    encoders = greedy_pretraining((sigma + sigma.T) / 2, (5, 4, 2), 0.1, 300, 0.01, rng)
    assert [encoder.shape for encoder in encoders] == [(4, 5), (2, 4)]
    np.testing.assert_allclose(np.linalg.svd(encoders[0], compute_uv=False)[:2], 1, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(encoders[0] @ axes[:, 2:]), 0, atol=0.1)


RNG, ONE = np.random.default_rng(0), np.eye(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: orthogonal_init((3,), RNG), "shape: expected a tuple"),
        (lambda: orthogonal_init((0, 3), RNG), r"shape\[0\]: expected an integer >= 1"),
        (lambda: scaled_gaussian_init((2, 0), RNG), r"shape\[1\]: expected an integer >= 1"),
        (lambda: small_random_init((2, 2), 0.0, RNG), "std: expected a number in"),
        (lambda: small_random_init((2,), 0.1, RNG), "layer_sizes: expected at least two"),
        (lambda: random_products(orthogonal_init, 2, 0, 1, RNG), "n_weights: expected an integer >= 1"),
        (lambda: product_moments(0, 1), "width: expected an integer >= 1"),
        (lambda: lyapunov_exponents(0), "width: expected an integer >= 1"),
        (lambda: estimate_lyapunov_exponents(2, 0, RNG), "n_weights: expected an integer >= 1"),
        (lambda: eigenvalue_radius_law(1.5, 2), "radius: expected numbers in"),
        (lambda: pretraining_consistency(ONE, np.zeros((3, 2))), "sigma_31: expected a matrix other than 0"),
        (lambda: pretraining_consistency(0 * ONE, ONE), "sigma_11: expected variance"),
        (lambda: pretraining_consistency(np.triu(np.ones((2, 2))), ONE), "sigma_11: expected a symmetric matrix"),
        (lambda: greedy_pretraining(ONE, (3, 2), 0.1, 1, 0.1, RNG), "layer_sizes: expected 2 inputs"),
        (lambda: greedy_pretraining(ONE, (2, 2), 0.1, 0, 0.1, RNG), "n_steps: expected an integer >= 1"),
        (lambda: greedy_pretraining(ONE, (2, 2), -0.1, 1, 0.1, RNG), "learning_rate: expected a number in"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
