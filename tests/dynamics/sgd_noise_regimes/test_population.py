"""Expectations, flow and exponents by second routes, in other number systems, and what they refuse."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy import integrate, special, stats

from refimpl.dynamics.sgd_noise_regimes import (
    critical_temperature_exponent,
    late_time_overlap_ratio,
    late_time_signal,
    noise_covariance,
    noise_moments,
    noise_restoring,
    order_parameter_flow,
    order_parameter_rates,
    perceptron_exponents,
    population_functions,
    population_loss,
    predicted_training_time,
    signal_drive,
    simulate_order_parameters,
    tail_constants,
    unfitted_fraction,
)


@pytest.mark.parametrize("chi", [-0.9, -0.3, 0.0, 1.0, 4.7])
@pytest.mark.parametrize(("m", "q", "kappa"), [(0.7, 0.4, 0.5), (0.0, 1.0, 1.0), (-0.5, 0.3, 0.2), (50.0, 0.01, 1.0)])
def test_expectations_are_adaptive_quadratures(m: float, q: float, kappa: float, chi: float) -> None:
    k = chi + 1

    def mean(function: Any) -> float:
        # In u = s^k the density has no singularity.
        def integrand(u: float) -> float:
            s = u ** (1 / k)
            density = 2 ** (1 - k / 2) / special.gamma(k / 2) * np.exp(-s * s / 2) / k
            return function(s, (kappa - m * s) / q) * density

        ends = sorted({0.0, *(max(kappa / m + j * q / abs(m), 0) ** k if m else 1.0 for j in (-6, 0, 6)), 14.0**k})
        pieces = [integrate.quad(integrand, a, b, limit=200)[0] for a, b in pairwise(ends)]
        return float(np.sum(pieces))

    at = [np.array(one) for one in (m, q, kappa)]
    n, drive, restoring = population_functions(*at, chi)
    moments = noise_moments(*at, chi)
    found = [n, drive, restoring, population_loss(*at, chi), *moments]
    expected = [
        mean(lambda s, a: stats.norm.cdf(a)),
        mean(lambda s, a: s * stats.norm.cdf(a)),
        mean(lambda s, a: stats.norm.pdf(a)),
        mean(lambda s, a: q * (a * stats.norm.cdf(a) + stats.norm.pdf(a))),
        mean(lambda s, a: s * s * stats.norm.cdf(a)),
        mean(lambda s, a: stats.norm.cdf(a) - a * stats.norm.pdf(a)),
        mean(lambda s, a: -s * stats.norm.pdf(a)),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_closed_forms_are_scipys_and_the_gaussians() -> None:
    ratios = np.array([-3.0, -0.5, 0.0, 1e-3, 0.7, 1.0, 3.0, 1e3])
    for chi in (-0.5, 0.0, 2.3):
        k = chi + 1
        np.testing.assert_allclose(unfitted_fraction(ratios, chi), stats.t.cdf(-ratios * k**0.5, k), rtol=1e-12)
    np.testing.assert_allclose(unfitted_fraction(ratios, 0.0), np.arctan2(1, ratios) / np.pi, rtol=1e-14)
    hypotenuse = np.sqrt(1 + ratios**2)
    survival = 1 / (hypotenuse * (ratios + hypotenuse)) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(signal_drive(ratios[2:], 0.0), survival[2:], rtol=1e-14)
    np.testing.assert_allclose(noise_restoring(ratios, 0.0), 1 / hypotenuse / np.sqrt(2 * np.pi), rtol=1e-14)


@pytest.mark.parametrize("chi", [-0.9, 0.0, 1.0, 5.0])
def test_more_digits_confirm_float64_and_float32(chi: float) -> None:
    ratios = 10 ** np.linspace(-3, 3, 25)
    for function in (unfitted_fraction, signal_drive, noise_restoring):
        true = function(ratios.astype(np.longdouble), np.longdouble(chi))
        assert true.dtype == np.longdouble
        # The condition of a power of 1 + ratio^2, up to 7.
        np.testing.assert_allclose(function(ratios, chi), true.astype(float), rtol=1e-14)
        single = function(ratios.astype(np.float32), chi)
        assert single.dtype == np.float32
        # SciPy's incomplete beta function has five digits of single precision at few degrees of freedom.
        np.testing.assert_allclose(single, true.astype(float), rtol=1e-4)
    state = [ratios, np.ones(25), np.full(25, 0.3)]
    for found in (population_functions, noise_moments):
        single, double = found(*(one.astype(np.float32) for one in state), chi), found(*state, chi)
        assert all(one.dtype == np.float32 for one in single)
        for a, b in zip(single, double, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_covariance_is_that_of_an_axis_aligned_noise_rotated() -> None:
    weights = np.array([0.8, 0.0, 2.0, 0.0])
    covariance = noise_covariance(weights, 0.3, 1.0)
    rotation = np.eye(4)
    rotation[1:, 1:] = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    np.testing.assert_allclose(
        noise_covariance(rotation @ weights, 0.3, 1.0), rotation @ covariance @ rotation.T, atol=1e-15
    )
    assert covariance[1, 1] == covariance[3, 3]
    np.testing.assert_array_equal(covariance[1, [0, 2, 3]], 0)
    assert np.min(np.linalg.eigvalsh(covariance)) > 0
    assert noise_covariance(weights.astype(np.float32), 0.3, 1.0).dtype == np.float32


# --- the flow ---


def test_rates_without_a_margin_are_the_limit_of_those_with_one() -> None:
    m, q = np.array([0.2, 3.0]), np.array([0.5, 0.1])
    for chi in (-0.5, 0.0, 2.0):
        closed, limit = (order_parameter_rates(m, q, 0.7, kappa, chi) for kappa in (0.0, 1e-12))
        np.testing.assert_allclose(closed, limit, rtol=1e-9)


def test_the_flow_is_eulers_in_small_steps() -> None:
    m, log_q, step = np.array(0.1), np.log(np.array(0.8)), 1e-3
    for _ in range(2000):
        rates = order_parameter_rates(m, np.exp(log_q), 0.6, 0.4, 1.0)
        m, log_q = m + step * rates.signal, log_q + step * rates.log_noise
    found = order_parameter_flow(0.6, 1.0, 0.4, np.array([2.0]), 0.1, 0.8)
    np.testing.assert_allclose([found.signal[0], found.noise[0]], [m, np.exp(log_q)], rtol=1e-3)


def test_scaling_temperature_margin_start_and_time_scales_the_flow() -> None:
    tau = np.array([0.0, 0.5, 0.5, 30.0, 1000.0])
    one = order_parameter_flow(0.6, 1.0, 0.4, tau, 0.1, 0.8)
    seven = order_parameter_flow(7 * 0.6, 1.0, 7 * 0.4, 7 * tau, 7 * 0.1, 7 * 0.8)
    np.testing.assert_allclose(seven, 7 * np.array(one), rtol=1e-6)
    assert (one.signal[0], one.noise[0]) == (0.1, pytest.approx(0.8))
    assert one.signal[1] == one.signal[2]
    np.testing.assert_allclose(order_parameter_flow(0.6, 1.0, 0.4, np.zeros(2), 0.1, 0.8).noise, 0.8)


def test_without_temperature_the_noise_decays_without_turning_negative() -> None:
    found = order_parameter_flow(0.0, 0.0, 0.0, np.array([1.0, 100.0, 1e4]), 0.0, 1.0)
    assert np.all(found.noise >= 0)
    assert np.all(np.diff(found.noise) < 0)
    # The angle is all there is: the signal ends at its limit for a noise that is gone.
    assert found.signal[-1] == pytest.approx(0.5, rel=1e-6)


def test_reduced_runs_have_the_law_of_sgd_on_fresh_samples() -> None:
    d, batch_size, temperature, chi, kappa, n_runs, steps = 5, 3, 0.8, 0.5, 0.4, 4000, 12
    rng = np.random.default_rng(1)
    weights = np.zeros((n_runs, d))
    weights[:, 1] = d**0.5
    for _ in range(steps):
        v = rng.standard_normal((n_runs, batch_size, d))
        v[..., 0] = np.sqrt(rng.chisquare(chi + 1, (n_runs, batch_size)))
        active = (v @ weights[..., None])[..., 0] / d**0.5 < kappa
        weights += temperature * (active[..., None] * v).sum(axis=1) / d**0.5
    tau = np.array([steps * temperature * batch_size / d])
    found = simulate_order_parameters(n_runs, d, temperature, batch_size, chi, kappa, tau, 0.0, 1.0, rng)
    plain = weights[:, 0] / d**0.5, np.linalg.norm(weights[:, 1:], axis=1) / d**0.5
    for a, b in zip(plain, found, strict=True):
        for power in (1, 2):
            error = ((np.var(a**power) + np.var(b[0] ** power)) / n_runs) ** 0.5
            assert abs(np.mean(a**power) - np.mean(b[0] ** power)) < 5 * error  # by chance once in a million


def test_late_times_and_exponents_fit_together() -> None:
    tau = np.array([1e6])
    for chi in (0.0, 1.0, 2.5):
        signal, ratio = late_time_signal(tau, 0.3, chi), late_time_overlap_ratio(tau, 0.3, chi)
        np.testing.assert_allclose(signal / ratio, 0.3 * tail_constants(chi).noise, rtol=1e-14)
        # When the time is up one point is left.
        time = predicted_training_time(0.3, 10**6, 50, chi)
        left = 10**6 * unfitted_fraction(late_time_overlap_ratio(np.array([time / 50]), 0.3, chi), chi)
        np.testing.assert_allclose(left, 1, rtol=1e-2)
        exponents = perceptron_exponents(chi)
        assert exponents.b == pytest.approx((chi + 3) / (chi + 1))
        assert exponents.a == critical_temperature_exponent(exponents.delta, exponents.gamma)
    assert late_time_signal(tau.astype(np.float32), 0.3, 1.0).dtype == np.float32
    assert tail_constants(1.0).noise == pytest.approx(0.3133285)


ONE = np.ones(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: population_functions(ONE, 0 * ONE, ONE, 0.0), "noise: expected numbers > 0"),
        (lambda: population_functions(ONE, ONE, -ONE, 0.0), "margin: expected numbers >= 0"),
        (lambda: population_functions(ONE, ONE[:1], ONE, 0.0), "noise: expected batch axes"),
        (lambda: population_functions(ONE, ONE, np.nan * ONE, 0.0), "margin: expected finite"),
        (lambda: population_loss(ONE, ONE, ONE, -1.0), "chi: expected a number"),
        (lambda: noise_moments(1.0, ONE, ONE, 0.0), "signal: expected an array"),
        (lambda: unfitted_fraction(ONE, -1.5), "chi: expected a number"),
        (lambda: signal_drive(np.array([1, 2]), 0.0), "overlap_ratio: expected a floating"),
        (lambda: noise_covariance(np.array([1.0, 0.0]), 0.0, 0.0), "weights: expected one of them besides"),
        (lambda: noise_covariance(np.ones(1), 0.0, 0.0), "weights: expected one of them besides"),
        (lambda: noise_covariance(ONE, -1.0, 0.0), "margin: expected a number"),
        (lambda: order_parameter_rates(ONE, -ONE, 1.0, 0.0, 0.0), "noise: expected numbers > 0"),
        (lambda: order_parameter_rates(ONE, ONE, -1.0, 0.0, 0.0), "temperature: expected a number"),
        (lambda: order_parameter_flow(1.0, 0.0, 0.0, ONE[:0], 0.0, 1.0), "tau: expected n_times >= 1"),
        (lambda: order_parameter_flow(1.0, 0.0, 0.0, np.array([2.0, 1.0]), 0.0, 1.0), "tau: expected times >= 0"),
        (lambda: order_parameter_flow(1.0, 0.0, 0.0, -ONE, 0.0, 1.0), "tau: expected times >= 0"),
        (lambda: order_parameter_flow(1.0, 0.0, 0.0, ONE, 0.0, 0.0), "noise0: expected a number"),
        (lambda: order_parameter_flow(1.0, 0.0, -1.0, ONE, 0.0, 1.0), "margin: expected a number"),
        (
            lambda: simulate_order_parameters(2, 2, 1.0, 1, 0.0, 0.0, ONE, 0.0, 1.0, np.random.default_rng(0)),
            "n_features: expected an integer >= 3",
        ),
        (
            lambda: simulate_order_parameters(2, 5, 0.0, 1, 0.0, 0.0, ONE, 0.0, 1.0, np.random.default_rng(0)),
            "temperature: expected a number",
        ),
        (lambda: late_time_signal(0 * ONE, 1.0, 0.0), "tau: expected times > 0"),
        (lambda: late_time_overlap_ratio(ONE, 0.0, 0.0), "temperature: expected a number"),
        (lambda: tail_constants(-1.0), "chi: expected a number"),
        (lambda: predicted_training_time(1.0, 0, 5, 0.0), "n_samples: expected an integer >= 1"),
        (lambda: predicted_training_time(1.0, 5, 1, 0.0), "n_features: expected an integer >= 2"),
        (lambda: perceptron_exponents(-1.0), "chi: expected a number"),
        (lambda: critical_temperature_exponent(0.0, 1.0), "delta: expected a number"),
    ],
)
def test_what_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
