"""Predictions from prefixes against the algorithms run on each, and the similarities at known values."""

from typing import Any

import numpy as np
import pytest

from refimpl.incontext.higher_order import (
    best_matching_steps,
    forgetting_curve,
    frobenius_scale,
    iterative_newton,
    prefix_predictions,
    prefix_spectra,
    similarity_matrix,
    similarity_of_errors,
    similarity_of_weights,
    spectral_filter,
)
from refimpl.oracle.specs.incontext.higher_order.newton import gram_of
from refimpl.primitives.least_squares import gradient_descent
from refimpl.tasks.linear_regression import sample_gaussian_tasks


def test_prefix_predictions_are_the_algorithms_on_each_prefix() -> None:
    tasks = sample_gaussian_tasks(4, 3, 6, 0.3, np.random.default_rng(0))
    spectra = prefix_spectra(tasks)
    values = spectra.eigenvalues
    scale = 1 / np.sqrt(np.sum(values**4, axis=-1, keepdims=True))
    newton = prefix_predictions(spectra, spectral_filter(values, scale * values**2, 2**4))
    descent = prefix_predictions(spectra, spectral_filter(values, 0.02 * values, 9))
    for t in range(1, 7):
        x, y = tasks.x[:, :t], tasks.y[:, :t]
        following = tasks.x[:, t] if t < 6 else tasks.x_query
        np.testing.assert_allclose(scale[:, t - 1, 0], frobenius_scale(gram_of(x)), rtol=1e-12)
        for found, weights in ((newton, iterative_newton(x, y, 4)), (descent, gradient_descent(x, y, 9, 0.02))):
            np.testing.assert_allclose(found[:, t - 1], (weights * following).sum(axis=-1), atol=1e-12)
    np.testing.assert_array_equal(spectra.targets[:, :-1], tasks.y[:, 1:])
    np.testing.assert_array_equal(spectra.targets[:, -1], tasks.y_query)


def test_similarity_of_errors_at_known_angles() -> None:
    y = np.array([[1.0, 2.0], [0.0, 1.0]])
    along, across = np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[0.0, 3.0], [0.0, -1.0]])
    assert similarity_of_errors(y + along, y + 5 * along, y) == 1
    assert similarity_of_errors(y + along, y + across, y) == 0
    assert similarity_of_errors(y + along, y - along, y) == -1
    assert similarity_of_errors(y + along, y + np.stack([along[0], across[1]]), y) == 0.5
    matrix = similarity_matrix(np.stack([y + along, y - along]), np.stack([y + along, y + across, y - along]), y)
    np.testing.assert_array_equal(matrix, [[1, 0, -1], [-1, 0, 1]])


def test_similarity_of_weights_is_the_mean_cosine() -> None:
    a = np.array([[[1.0, 0.0], [1.0, 1.0]]])
    b = np.array([[[2.0, 0.0], [1.0, -1.0]]])
    assert similarity_of_weights(a, b) == pytest.approx(0.5, abs=1e-16)


def test_the_first_of_equal_matches_is_taken() -> None:
    np.testing.assert_array_equal(best_matching_steps(np.array([[0.5, 0.9, 0.9], [1.0, 0.2, 1.0]])), [1, 0])


def test_the_forgetting_curve_starts_with_the_last_example() -> None:
    x, y = np.eye(3), np.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(forgetting_curve(lambda x, y: np.zeros(3), x, y), [9, 4, 1])


def test_float32_is_kept() -> None:
    a, b, y = np.random.default_rng(0).standard_normal((3, 2, 5)).astype(np.float32)
    assert similarity_of_errors(a, b, y).dtype == similarity_of_weights(a, b).dtype == np.float32
    tasks = sample_gaussian_tasks(2, 3, 4, 0.0, np.random.default_rng(0), dtype=np.float32)
    spectra = prefix_spectra(tasks)
    filters = spectral_filter(spectra.eigenvalues, spectra.eigenvalues / 100, 5)
    assert prefix_predictions(spectra, filters).dtype == np.float32


Y = np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: similarity_of_errors(Y, 2 * Y, Y), "expected vectors that are not zero"),
        (lambda: similarity_of_errors(2 * Y, np.ones((2, 4)), Y), "predictions_b: expected n 3"),
        (lambda: similarity_of_weights(0 * Y, Y), "a: expected vectors that are not zero"),
        (lambda: similarity_matrix(Y, Y[None], Y), r"predictions_a: expected shape \(n_a, n_tasks, n\)"),
        (lambda: best_matching_steps(np.array([[np.nan, 1.0]])), "similarity: expected finite entries"),
        (lambda: best_matching_steps(np.ones(3)), "similarity: expected shape"),
        (lambda: best_matching_steps([[1.0]]), "similarity: expected an array"),
        (lambda: forgetting_curve(lambda x, y: x[0], np.ones((3, 2)), np.ones(2)), "y: expected n 3"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
