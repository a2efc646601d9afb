"""The closed forms on their edges and against each other, and the generators against their law."""

from typing import Any

import numpy as np
import pytest

from refimpl.dynamics.batch_hessian import (
    additive_extremal_eigenvalues,
    bulk_edge,
    effective_batch_size,
    eigenvector_overlap,
    ggn_extremal_eigenvalue,
    noise_scale,
    outlier_position,
    spiked_covariance_samples,
    spiked_wigner,
    stieltjes_slope,
    wigner_noise,
)

GRID = np.linspace(-3, 3, 61)


def test_effective_size() -> None:
    assert effective_batch_size(10, 10) == float("inf")
    assert effective_batch_size(1, 1) == float("inf")
    assert effective_batch_size(5, 10) == 10
    assert effective_batch_size(1, 10**9) == pytest.approx(1)
    assert noise_scale(100, 0.04, 4.0) == pytest.approx(1)
    assert noise_scale(100, 0.04, float("inf")) == 0


def test_without_noise_nothing_moves() -> None:
    """A bulk at 0 is all that is left of eigenvalues on its other side."""
    largest, smallest = additive_extremal_eigenvalues(GRID, -np.abs(GRID), 100, 1.0, float("inf"))
    np.testing.assert_array_equal(largest, np.maximum(GRID, 0))
    np.testing.assert_array_equal(smallest, -np.abs(GRID))
    np.testing.assert_array_equal(eigenvector_overlap(np.array([-1.0, 2.0]), 100, 0.0, 8.0), 1)
    np.testing.assert_array_equal(outlier_position(GRID, np.array([-1.0, 0.5]), 0.0), np.maximum(GRID, 0.5))


def test_an_outlier_moves_to_less_than_twice_its_value() -> None:
    eigenvalues = np.linspace(1.0001, 50, 200)
    largest, _ = additive_extremal_eigenvalues(eigenvalues, -eigenvalues, 1, 1.0, 1.0)
    assert np.all((largest > eigenvalues) & (largest < 2 * eigenvalues))


def test_more_examples_never_raise_the_top() -> None:
    tops = [additive_extremal_eigenvalues(GRID, GRID, 1000, 0.01, b)[0] for b in (1.0, 4.0, 16.0, 300.0, np.inf)]
    assert np.all(np.diff(tops, axis=0) <= 1e-15)
    tops = [ggn_extremal_eigenvalue(np.abs(GRID), 1000, b, 1.0) for b in (1, 10, 100, 10**4, 10**6)]
    assert np.all(np.diff(tops, axis=0) <= 0)


def test_both_lines_meet_at_the_threshold() -> None:
    just = np.array([1 - 1e-9, 1 + 1e-9])
    np.testing.assert_allclose(additive_extremal_eigenvalues(just, -just, 1, 1.0, 1.0)[0], 2, rtol=1e-15)
    np.testing.assert_allclose(eigenvector_overlap(just, 1, 1.0, 1.0), 0, atol=1e-8)
    threshold = 1 + 2**0.5
    moved = ggn_extremal_eigenvalue(threshold * just, 200, 100, 1.0)
    np.testing.assert_allclose(moved, threshold**2, rtol=1e-13)


def test_the_edge_solves_its_equation() -> None:
    rng = np.random.default_rng(0)
    for n, scale in ((1, 0.3), (7, 1.0), (200, 0.05), (200, 20.0)):
        bulk = rng.standard_normal(n)
        edge = bulk_edge(bulk, scale)
        assert edge > bulk.max()
        assert scale**2 * stieltjes_slope(edge, bulk) == pytest.approx(1, rel=1e-9)
    assert bulk_edge(np.zeros(3), 2.0) == 2


def test_the_top_is_continuous_and_grows_with_the_outlier() -> None:
    bulk = np.random.default_rng(1).standard_normal(50)
    tops = outlier_position(np.linspace(-1, 10, 2000), bulk, 0.7)
    assert np.all(np.diff(tops) >= 0)
    assert np.max(np.diff(tops)) < 0.006  # the grid's step: the slope is at most 1


def test_wigner_entries_have_their_variances() -> None:
    draws = wigner_noise(np.random.default_rng(2).standard_normal((40000, 3, 3)), 1.5, 3)
    np.testing.assert_array_equal(draws, draws.transpose(0, 2, 1))
    # Off the diagonal s^2/P, on it twice that; 40000 draws know a variance to 0.7%, five of them.
    np.testing.assert_allclose(draws.var(axis=0), 0.75 * (1 + np.eye(3)), rtol=0.035)


def test_spikes_are_the_first_eigenvalues() -> None:
    matrix = spiked_wigner(np.array([3.0, -2.0]), 5, 0.0, np.random.default_rng(3))
    np.testing.assert_array_equal(matrix, np.diag([3.0, -2.0, 0, 0, 0]))


def test_samples_have_their_covariance() -> None:
    x = spiked_covariance_samples(9.0, 3, 200_000, 0.25, np.random.default_rng(4))
    # 200000 rows know a variance to 0.3%, five of them, and an inner product of columns to 0.2% of their lengths.
    np.testing.assert_allclose(x.T @ x / len(x), np.diag([9.0, 0.25, 0.25]), rtol=0.016, atol=0.02)


def test_float32_is_kept() -> None:
    x, half = GRID.astype(np.float32), np.float64(0.5)  # NumPy's number must not promote either
    outputs = [
        *additive_extremal_eigenvalues(x, x, 10, half, 3.0),
        eigenvector_overlap(x, 10, half, 3.0),
        ggn_extremal_eigenvalue(np.abs(x), 10, 3, half),
        outlier_position(x, x, half),
        bulk_edge(x, half),
        wigner_noise(np.eye(3, dtype=np.float32), half, 3),
    ]
    assert {output.dtype for output in outputs} == {np.dtype(np.float32)}


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: effective_batch_size(0, 5), "batch_size: expected an integer from 1 to 5, got 0"),
        (lambda: effective_batch_size(6, 5), "batch_size: expected an integer from 1 to 5, got 6"),
        (lambda: effective_batch_size(1, 0), "n_samples: expected an integer >= 1"),
        (lambda: noise_scale(0, 1.0, 1.0), "n_params: expected an integer >= 1"),
        (lambda: additive_extremal_eigenvalues(1.0, 0.0, 10, -1.0, 1.0), "variance: expected a number in"),
        (lambda: additive_extremal_eigenvalues(1.0, 0.0, 10, 1.0, 0.0), "effective_batch: expected a number in"),
        (lambda: additive_extremal_eigenvalues(1.0, 2.0, 10, 1.0, 1.0), "lambda_min: expected at most lambda_max"),
        (lambda: additive_extremal_eigenvalues(GRID, GRID[1:], 10, 1.0, 1.0), "lambda_min: expected shape"),
        (lambda: additive_extremal_eigenvalues(np.nan, 0.0, 10, 1.0, 1.0), "lambda_max: expected finite entries"),
        (lambda: eigenvector_overlap(np.inf, 10, 1.0, 1.0), "eigenvalue: expected finite entries"),
        (lambda: ggn_extremal_eigenvalue(1.0, 10, 0, 1.0), "batch_size: expected an integer >= 1"),
        (lambda: ggn_extremal_eigenvalue(1.0, 10, 5, -1.0), "variance: expected a number in"),
        (lambda: outlier_position(1.0, np.empty(0), 1.0), "bulk_eigenvalues: expected n >= 1"),
        (lambda: outlier_position(1.0, GRID, -1.0), "noise_scale: expected a number in"),
        (lambda: wigner_noise(np.ones((2, 3)), 1.0, 3), "gaussian: expected p 2"),
        (lambda: spiked_wigner(np.ones(3), 2, 1.0, RNG), "n_params: expected an integer >= 3"),
        (lambda: spiked_covariance_samples(-1.0, 2, 2, 1.0, RNG), "lambda_max: expected a number in"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
