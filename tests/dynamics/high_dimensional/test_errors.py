"""The errors over time against adaptive quadrature and known values, at the edges of their domain."""

from typing import Any

import numpy as np
import pytest
from scipy import integrate

from refimpl.dynamics.high_dimensional import (
    asymptotic_generalization_error,
    eigenvalue_average,
    eigenvalue_density,
    eigenvalue_edges,
    eigenvalue_resolvent,
    generalization_error,
    generalization_error_empirical,
    generalization_error_slope,
    training_error,
    training_error_empirical,
    weight_norm,
)
from refimpl.oracle.spec import examples, find_spec
from refimpl.primitives.marchenko_pastur import marchenko_pastur_quadrature

VARIANCES = (1.0, 0.5, 0.3)


@pytest.mark.parametrize(
    ("load", "test", "training"),
    [
        (0.5, [1.476921, 1.395598, 1.562795, 1.649245], [0.595143, 0.115987, 0.00451239, 5.6297e-7]),
        (1.0, [1.236556, 1.111204, 1.473080, 2.666701], [0.541739, 0.182383, 0.0669416, 0.0285579]),
        (2.0, [0.928550, 0.830120, 0.976656, 0.999995], [0.471899, 0.275469, 0.250207, 0.250000]),
    ],
)
def test_known_values(load: float, test: list[float], training: list[float]) -> None:
    t = np.array([0.5, 2.0, 10.0, 50.0])
    np.testing.assert_allclose(generalization_error(t, load, *VARIANCES), test, atol=6e-7)
    np.testing.assert_allclose(training_error(t, load, *VARIANCES), training, rtol=1e-5, atol=6e-7)


@pytest.mark.parametrize("load", [0.3, 0.97, 1.0, 1.02, 3.0])
@pytest.mark.parametrize("t", [0.0, 0.3, 20.0])
def test_the_integral_by_another_quadrature(load: float, t: float) -> None:
    """SciPy's, adaptive, over the density itself with its roots at the edges as weights."""
    low, high = eigenvalue_edges(load)

    def mode(eigenvalue: float) -> float:
        noise = 0.5 * np.expm1(-eigenvalue * t) ** 2 / eigenvalue if eigenvalue > 0 else 0.0
        return (1.3 * np.exp(-2 * eigenvalue * t) + noise) / (2 * np.pi)

    if low > 0:
        bulk = integrate.quad(lambda e: mode(e) / e, low, high, weight="alg", wvar=(0.5, 0.5), epsabs=1e-12, limit=400)
    else:
        bulk = integrate.quad(mode, low, high, weight="alg", wvar=(-0.5, 0.5), epsabs=1e-12)
    expected = bulk[0] + max(0, 1 - load) * 1.3 + 0.5
    assert generalization_error(t, load, *VARIANCES) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("load", [0.2, 0.999, 1.0, 1.0001, 1.01, 7.0])
def test_nodes_suffice_at_every_time(load: float) -> None:
    """Against 200,000 nodes and the exact mass: late, early, and close to a load of 1, where the density has a pole."""
    t = np.array([0.01, 1.0, 50.0, 1e3, 1e5, 1e6])
    nodes, weights, _ = marchenko_pastur_quadrature(1 / load, load, 200_000)
    decay = np.exp(-np.multiply.outer(t, nodes))
    at_zero = 1 - weights.sum()
    expected = 1.3 * (decay**2 @ weights + at_zero) + 0.5 * ((1 - decay) ** 2 @ (weights / nodes)) + 0.5
    for index, time in enumerate(t):
        alone = generalization_error(time, load, *VARIANCES)
        assert alone == pytest.approx(expected[index], rel=1e-11)
    np.testing.assert_allclose(generalization_error(t, load, *VARIANCES), expected, rtol=1e-11)


def test_the_slope_is_the_derivative() -> None:
    for load in (0.4, 1.0, 2.5):
        for t in (0.05, 1.0, 12.0):
            h = 1e-4 * t
            around = generalization_error(np.array([t - h, t + h]), load, *VARIANCES, 2.0)
            slope = generalization_error_slope(t, load, *VARIANCES, 2.0)
            assert (around[1] - around[0]) / (2 * h) == pytest.approx(float(slope), rel=1e-6, abs=1e-9)


def test_without_noise_the_ratio_is_infinite_and_the_error_finite() -> None:
    assert generalization_error(1e6, 0.5, 1.0, 0.0, 0.3) == pytest.approx(0.65, abs=1e-12)
    assert asymptotic_generalization_error(1.0, 1.0, 0.0, 0.3) == 0
    assert asymptotic_generalization_error(1.0, 1.0, 0.1, 0.3) == np.inf
    assert training_error(1e6, 0.5, 1.0, 0.0, 0.3) == pytest.approx(0, abs=1e-12)


def test_norm_starts_and_ends_where_it_should() -> None:
    assert weight_norm(0.0, 0.7, *VARIANCES) == pytest.approx(0.3, abs=1e-14)
    # Above a load of 1 the weights end at the teacher's plus amplified noise.
    assert weight_norm(1e4, 3.0, *VARIANCES) == pytest.approx(1.0 + 0.5 / 2, abs=1e-12)


def test_many_eigenvalues_make_the_integral() -> None:
    """The spectral sum over quantiles of the law, zeros included."""
    t = np.array([0.0, 1.0, 7.0])
    for load in (0.5, 2.0):
        nodes, weights, _ = marchenko_pastur_quadrature(1 / load, load, 20_000)
        count = 4000
        places = (np.arange(round(count * min(1, load))) + 0.5) / count
        quantiles = np.interp(places, np.cumsum(weights) - weights / 2, nodes)
        eigenvalues = np.concatenate([np.zeros(count - len(quantiles)), quantiles])
        test = generalization_error_empirical(t, eigenvalues, *VARIANCES)
        np.testing.assert_allclose(test, generalization_error(t, load, *VARIANCES), rtol=1e-4)
        training = training_error_empirical(t, eigenvalues, round(count * load), *VARIANCES)
        np.testing.assert_allclose(training, training_error(t, load, *VARIANCES), rtol=1e-3, atol=1e-6)


def test_tiny_eigenvalues_keep_their_digits() -> None:
    eigenvalues = np.array([1e-30, 1e-20, 0.0])
    exact = 0.5 * (1e-30 + 1e-20) * 1e12 / 3
    measured = generalization_error_empirical(1e6, eigenvalues, 0.0, 0.5, 0.0) - 0.5
    assert measured == pytest.approx(exact, abs=1e-16)


def test_average_without_its_zeros() -> None:
    for load in (0.3, 3.0):
        ones = eigenvalue_average(np.ones_like, load, include_zero=False)
        assert ones == pytest.approx(min(1, load), abs=1e-12)
        inverse = eigenvalue_average(lambda e: 1 / e, load, include_zero=False)
        assert inverse == pytest.approx(min(1, load) / abs(1 - load), rel=1e-12)
    assert eigenvalue_average(lambda e: 1 / (e + 2), 0.3) == pytest.approx(float(eigenvalue_resolvent(2.0, 0.3)))


NAMES = [
    "generalization_error",
    "generalization_error_slope",
    "training_error",
    "weight_norm",
    "generalization_error_empirical",
    "training_error_empirical",
    "weight_norm_empirical",
    "eigenvalue_density",
    "eigenvalue_resolvent",
    "optimal_stopping_time",
    "mode_stopping_time",
    "ridge_generalization_error",
    "ridge_generalization_error_empirical",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_dtype_is_kept(name: str, dtype: Any) -> None:
    spec = find_spec(f"high_dimensional/{name}")
    for arguments in examples(spec, 10, 0):
        cast = {
            key: value.astype(dtype) if isinstance(value, np.ndarray) else value for key, value in arguments.items()
        }
        output = spec.reference(**cast)
        assert output.dtype == dtype
        assert np.all(np.isfinite(output))


def test_density_of_a_grid_and_outside() -> None:
    low, high = eigenvalue_edges(0.5)
    assert eigenvalue_density(np.array([low / 2, 2 * high]), 0.5).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generalization_error(1.0, 0.0, *VARIANCES), "load: expected a number in"),
        (lambda: generalization_error(1.0, -1.0, *VARIANCES), "load: expected a number in"),
        (lambda: generalization_error(1.0, 1.0, -1.0, 0.5, 0.3), "signal_variance: expected a number in"),
        (lambda: generalization_error(1.0, 1.0, 1.0, -0.5, 0.3), "noise_variance: expected a number in"),
        (lambda: generalization_error(1.0, 1.0, 1.0, 0.5, -0.3), "init_variance: expected a number in"),
        (lambda: generalization_error(-1.0, 1.0, *VARIANCES), "t: expected times >= 0"),
        (lambda: generalization_error(1.0, 1.0, *VARIANCES, 0.0), "tau: expected a number in"),
        (lambda: generalization_error(np.nan, 1.0, *VARIANCES), "t: expected finite entries"),
        (lambda: generalization_error(np.array(["t"], object), 1.0, *VARIANCES), "t: expected a floating-point array"),
        (lambda: training_error(1.0, np.inf, *VARIANCES), "load: expected a number in"),
        (lambda: asymptotic_generalization_error(0.0, *VARIANCES), "load: expected a number in"),
        (
            lambda: generalization_error_empirical(1.0, np.array([-1.0]), *VARIANCES),
            "eigenvalues: expected numbers >= 0",
        ),
        (lambda: generalization_error_empirical(1.0, np.zeros(0), *VARIANCES), "eigenvalues: expected shape"),
        (lambda: training_error_empirical(1.0, np.ones(3), 2, *VARIANCES), "eigenvalues: expected 1 zeros first"),
        (lambda: training_error_empirical(1.0, np.ones(3), 0, *VARIANCES), "n_examples: expected an integer >= 1"),
        (lambda: eigenvalue_resolvent(np.zeros(1), 1.0), "shift: expected positive numbers"),
        (lambda: eigenvalue_resolvent(np.ones(1), 0.0), "load: expected a number in"),
        (lambda: eigenvalue_density(np.ones(1), -1.0), "load: expected a number in"),
        (lambda: eigenvalue_average(np.ones_like, 1.0, n_nodes=0), "n_nodes: expected an integer >= 1"),
        (lambda: eigenvalue_edges(0.0), "load: expected a number in"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
