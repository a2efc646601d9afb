"""The Marchenko-Pastur law: masses, moments, resolvent, and a sampled spectrum."""

import numpy as np
import pytest

from refimpl.primitives.marchenko_pastur import (
    marchenko_pastur_density,
    marchenko_pastur_edges,
    marchenko_pastur_quadrature,
    marchenko_pastur_resolvent,
)

RATIOS = (0.2, 0.9, 1.0, 1.7, 6.0)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("variance", [1.0, 0.3])
def test_moments(ratio: float, variance: float) -> None:
    nodes, weights, at_zero = marchenko_pastur_quadrature(ratio, variance)
    assert weights.sum() + at_zero == pytest.approx(1, abs=1e-12)
    assert weights @ nodes == pytest.approx(variance, abs=1e-12)
    assert weights @ nodes**2 == pytest.approx(variance**2 * (1 + ratio), abs=1e-12)
    assert weights @ nodes**3 == pytest.approx(variance**3 * (1 + 3 * ratio + ratio**2), abs=1e-11)


@pytest.mark.parametrize("ratio", RATIOS)
def test_resolvent_is_the_integral(ratio: float) -> None:
    nodes, weights, at_zero = marchenko_pastur_quadrature(ratio, 0.7, 4000)
    for shift in (0.05, 1.0, 30.0):
        expected = weights @ (1 / (nodes + shift)) + at_zero / shift
        assert marchenko_pastur_resolvent(shift, ratio, 0.7) == pytest.approx(expected, rel=1e-12)


def test_density_is_what_the_quadrature_integrates() -> None:
    low, high = marchenko_pastur_edges(0.5, 2.0)
    grid = np.linspace(low, high, 20001)
    density = marchenko_pastur_density(grid, 0.5, 2.0)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-5)  # square-root edges: the trapezoid errs h^1.5
    assert marchenko_pastur_density(np.array([low / 2, 2 * high]), 0.5, 2.0).tolist() == [0, 0]


def test_a_sampled_spectrum_follows_the_law() -> None:
    rng = np.random.default_rng(0)
    n, p = 1200, 400
    x = rng.standard_normal((n, p))
    eigenvalues = np.linalg.eigvalsh(x.T @ x / n)
    nodes, weights, _ = marchenko_pastur_quadrature(p / n)
    for level in (0.3, 0.8, 1.5, 2.2):
        # Linear statistics of such a spectrum fluctuate by O(1/p); 5/p leaves room.
        assert np.mean(eigenvalues < level) == pytest.approx(weights[nodes < level].sum(), abs=5 / p)


@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_dtype_is_kept(dtype: type) -> None:
    nodes, weights, _ = marchenko_pastur_quadrature(1.7, 1.0, 50, dtype)
    outputs = (nodes, weights, marchenko_pastur_density(nodes, 1.7), marchenko_pastur_resolvent(nodes, 1.7))
    assert {output.dtype for output in outputs} == {np.dtype(dtype)}


def test_the_smallest_nodes_keep_their_digits() -> None:
    """At ratio 1 the law starts at 0, and times of a million ask for eigenvalues of a millionth."""
    nodes = marchenko_pastur_quadrature(1.0, 1.0, 10**5)[0]
    exact = marchenko_pastur_quadrature(1.0, 1.0, 10**5, np.longdouble)[0]
    assert float(np.max(np.abs(nodes / exact - 1))) < 8 * np.finfo(float).eps


def test_bad_input() -> None:
    for call, message in (
        (lambda: marchenko_pastur_edges(0.0), "ratio"),
        (lambda: marchenko_pastur_density(1.0, 1.0, -1.0), "variance"),
        (lambda: marchenko_pastur_quadrature(1.0, 1.0, 0), "n_nodes"),
        (lambda: marchenko_pastur_resolvent(0.0, 1.0), "shift: expected positive"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
