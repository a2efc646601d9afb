"""Stopping times against a search for the minimum, and ridge's closed form against sums."""

from typing import Any

import numpy as np
import pytest
from scipy import optimize

from refimpl.dynamics.high_dimensional import (
    eigenvalue_edges,
    generalization_error,
    mode_stopping_time,
    optimal_ridge,
    optimal_ridge_error,
    optimal_stopping_time,
    ridge_generalization_error,
    ridge_generalization_error_empirical,
)
from refimpl.oracle.spec import symbols
from refimpl.primitives.marchenko_pastur import marchenko_pastur_quadrature


@pytest.mark.parametrize("load", [0.05, 0.3, 0.999, 1.0, 1.0001, 3.0, 20.0])
@pytest.mark.parametrize("snr", [0.01, 1.0, 1e4])
def test_a_search_finds_no_better_time(load: float, snr: float) -> None:
    found = float(optimal_stopping_time(load, snr, 0.5, 2.0))

    def error(log_time: float) -> float:
        return float(generalization_error(np.exp(log_time), load, snr, 1.0, 0.5, 2.0))

    ends = [float(np.log(mode_stopping_time(np.asarray(edge), snr, 0.5, 2.0))) for edge in eigenvalue_edges(load)[::-1]]
    searched = optimize.minimize_scalar(error, bounds=ends, method="bounded", options={"xatol": 1e-9})
    assert error(np.log(found)) <= searched.fun * (1 + 1e-13)
    # The search sees the minimum to the root of roundoff only.
    assert np.log(found) == pytest.approx(searched.x, abs=2e-4)


def test_the_time_that_a_search_over_a_wide_interval_misses() -> None:
    """The error is flat at late times: a bounded search from e^-7 to e^9 ended at 168."""
    assert optimal_stopping_time(0.3, 50.0) == pytest.approx(9.06962729, rel=1e-8)


def test_many_ratios_at_once_and_none() -> None:
    snr = np.array([[0.0, 0.5], [50.0, 5000.0]])
    together = optimal_stopping_time(1.0, snr)
    assert together.shape == (2, 2)
    assert together[0, 0] == 0
    for index in ((0, 1), (1, 0), (1, 1)):
        assert together[index] == pytest.approx(float(optimal_stopping_time(1.0, float(snr[index]))), rel=1e-13)
    assert optimal_stopping_time(1.0, 0.0) == 0


def test_a_small_ratio_stops_at_once() -> None:
    """To first order in the ratio the time is the ratio, whatever the eigenvalue."""
    for load in (0.3, 1.0, 3.0):
        assert optimal_stopping_time(load, 1e-9) == pytest.approx(1e-9, rel=1e-7)


def test_mode_times_fall_with_the_eigenvalue_and_start_at_the_ratio() -> None:
    eigenvalues = np.concatenate([[0], np.geomspace(1e-12, 10, 200)])
    found = mode_stopping_time(eigenvalues, 7.0, 2.0, 3.0)
    assert found[0] == 27
    assert np.all(np.diff(found) <= 0)
    np.testing.assert_allclose(found[1], 27, rtol=1e-10)


def test_ridge_is_the_sum_over_the_law() -> None:
    penalty = np.array([0.01, 0.3, 5.0])
    for load in (0.4, 1.0, 2.0):
        nodes, weights, at_zero = marchenko_pastur_quadrature(1 / load, load, 4000)
        summed = [
            ridge_generalization_error_empirical(np.asarray(g), nodes[:, None], 2.0, 0.5) @ weights
            + at_zero * ridge_generalization_error_empirical(np.asarray(g), np.zeros(1), 2.0, 0.5)
            for g in penalty
        ]
        np.testing.assert_allclose(ridge_generalization_error(penalty, load, 2.0, 0.5), summed, rtol=1e-12)


def test_optimal_ridge_at_the_ends() -> None:
    assert optimal_ridge(np.inf) == 0
    assert optimal_ridge(0.0) == np.inf
    assert optimal_ridge(4.0) == 0.25
    for load in (0.5, 1.0, 2.0):
        best = ridge_generalization_error(np.asarray(0.25), load, 4.0, 1.0)
        assert optimal_ridge_error(load, 4.0, 1.0) == pytest.approx(float(best), rel=1e-13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimal_stopping_time(0.0, 1.0), "load: expected a number in"),
        (lambda: optimal_stopping_time(1.0, -1.0), "snr: expected numbers >= 0"),
        (lambda: optimal_stopping_time(1.0, np.inf), "snr: expected finite entries"),
        (lambda: optimal_stopping_time(1.0, 1.0, -1.0), "inr: expected a number in"),
        (lambda: optimal_stopping_time(1.0, 1.0, 0.0, 0.0), "tau: expected a number in"),
        (lambda: optimal_stopping_time(1.0, symbols("s", 1)), "snr: expected a floating-point array"),
        (lambda: mode_stopping_time(np.array([-1.0]), 1.0), "eigenvalues: expected numbers >= 0"),
        (lambda: ridge_generalization_error(np.zeros(1), 1.0, 1.0, 1.0), "shift: expected positive numbers"),
        (lambda: ridge_generalization_error(np.ones(1), 1.0, -1.0, 1.0), "signal_variance: expected a number in"),
        (
            lambda: ridge_generalization_error_empirical(np.zeros(1), np.ones(2), 1.0, 1.0),
            "penalty: expected numbers > 0",
        ),
        (lambda: optimal_ridge(-1.0), "snr: expected a number in"),
        (lambda: optimal_ridge_error(1.0, 1.0, 0.0), "noise_variance: expected a number in"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
