"""Lanczos and quadrature against dense eigenvalues."""

import numpy as np
import pytest

from refimpl.primitives.lanczos import lanczos, spectral_density, trace_of_function


def symmetric(n: int, seed: int) -> np.ndarray:
    a = np.random.default_rng(seed).standard_normal((n, n))
    return (a + a.T) / (2 * n) ** 0.5


def test_all_steps_give_all_eigenvalues() -> None:
    h = symmetric(40, 0)
    found = lanczos(lambda v: h @ v, 40, 40, np.random.default_rng(1))
    np.testing.assert_allclose(found.eigenvalues(), np.linalg.eigvalsh(h), atol=1e-12)
    np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(40), atol=1e-14)


def test_extreme_eigenpairs_come_first() -> None:
    h = symmetric(200, 2)
    h[0, 0] += 10
    values, vectors = lanczos(lambda v: h @ v, 200, 30, np.random.default_rng(3)).ritz_pairs()
    assert values[-1] == pytest.approx(np.linalg.eigvalsh(h)[-1], abs=1e-10)
    np.testing.assert_allclose(h @ vectors[-1], values[-1] * vectors[-1], atol=1e-8)


def test_stops_in_an_invariant_space() -> None:
    spectrum = np.repeat([1.0, 2.0, 5.0], 20)
    found = lanczos(lambda v: spectrum * v, 60, 30, np.random.default_rng(4))
    np.testing.assert_allclose(found.eigenvalues(), [1, 2, 5], atol=1e-12)
    assert len(lanczos(lambda v: 0 * v, 5, 4, np.random.default_rng(5)).diagonal) == 1


def test_quadrature_is_exact_for_polynomials() -> None:
    h = symmetric(30, 6)
    start = np.random.default_rng(7).standard_normal(30)
    nodes, weights = lanczos(lambda v: h @ v, 30, 6, start=start).quadrature()
    unit = start / np.linalg.norm(start)
    for power in range(12):  # 6 nodes: exact up to degree 11
        assert weights @ nodes**power == pytest.approx(unit @ np.linalg.matrix_power(h, power) @ unit, abs=1e-12)


def test_density_has_the_moments_of_the_spectrum() -> None:
    h = symmetric(300, 8)
    nodes, weights = spectral_density(lambda v: h @ v, 300, 20, 50, np.random.default_rng(9))
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    # tr H^4 = 2n for such a matrix: one probe's v'H^2v errs by (2 tr H^4)^(1/2) / n = 11 %, 50 probes by 1.6 %;
    # four of them.
    second = np.trace(h @ h) / 300
    assert weights @ nodes**2 == pytest.approx(second, rel=0.07)


def test_trace_of_a_function() -> None:
    h = symmetric(200, 10)
    exact = np.exp(np.linalg.eigvalsh(h)).sum()
    found = trace_of_function(np.exp, lambda v: h @ v, 200, 20, 50, np.random.default_rng(11))
    # One probe errs by (2 tr exp(2H))^(1/2) / tr exp(H) = 14 %, 50 probes by 2 %; five of them.
    assert found == pytest.approx(exact, rel=0.1)


def test_float32_is_kept() -> None:
    h = symmetric(20, 12).astype(np.float32)
    start = np.ones(20, dtype=np.float32)
    assert lanczos(lambda v: h @ v, 20, 5, start=start).diagonal.dtype == np.float32


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="start: expected a vector that is not zero"):
        lanczos(lambda v: v, 3, 2, start=np.zeros(3))
    with pytest.raises(ValueError, match="rng: expected a generator, or a start vector"):
        lanczos(lambda v: v, 3, 2)
    with pytest.raises(ValueError, match="start: expected shape"):
        lanczos(lambda v: v, 3, 2, start=np.ones(4))
    with pytest.raises(ValueError, match="n_steps"):
        lanczos(lambda v: v, 3, 0, start=np.ones(3))


def test_a_bulk_far_below_the_outliers_is_not_taken_for_roundoff() -> None:
    """In single precision with outliers of 1e5 over a bulk of width 1, whose off-diagonals are about 1/4."""
    rng = np.random.default_rng(13)
    spectrum = np.concatenate([rng.uniform(0, 1, 198), [1e5, 3e4]]).astype(np.float32)
    start = np.asarray(rng.standard_normal(200), dtype=np.float32)
    assert len(lanczos(lambda v: spectrum * v, 200, 40, start=start).diagonal) == 40


def test_signs_are_exact_on_a_diagonal_matrix() -> None:
    """A Rademacher probe has one weight for all eigenvectors, the unit vectors."""
    spectrum = np.linspace(-1, 2, 12)
    for n_probes in (1, 3):
        found = trace_of_function(
            np.exp, lambda v: spectrum * v, 12, 12, n_probes, np.random.default_rng(14), "rademacher"
        )
        assert found == pytest.approx(np.exp(spectrum).sum(), rel=1e-12)
    nodes, weights = spectral_density(lambda v: spectrum * v, 12, 6, 1, np.random.default_rng(15))
    assert 12 * weights @ np.exp(nodes) != pytest.approx(np.exp(spectrum).sum(), rel=1e-3)


def test_bad_sizes_and_probes() -> None:
    with pytest.raises(ValueError, match="n_steps: expected an integer from 1 to 3, got 4"):
        lanczos(lambda v: v, 3, 4, start=np.ones(3))
    with pytest.raises(ValueError, match="n_probes: expected an integer >= 1"):
        spectral_density(lambda v: v, 3, 2, 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="probes: expected gaussian or rademacher, got 'uniform'"):
        spectral_density(lambda v: v, 3, 2, 1, np.random.default_rng(0), "uniform")  # type: ignore[arg-type]
