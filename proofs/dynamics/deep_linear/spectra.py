r"""What products of many random matrices look like (Section 3, Eq. 19, Figure 6)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
from scipy import special

from proofs.ledger import (
    Control,
    Evidence,
    Figure,
    Series,
    at_least,
    at_most,
    claim,
    figure,
    within,
)
from proofs.statistics import covers, mean_interval
from proofs.symbolic import block, scalar, vanishes
from proofs.wick import Gaussian, expectation
from refimpl.dynamics.deep_linear import (
    eigenvalue_radius_law,
    estimate_lyapunov_exponents,
    lyapunov_exponents,
    moment_step,
    orthogonal_init,
    product_eigenvalues,
    product_moments,
    product_singular_values,
    scaled_gaussian_init,
)
from refimpl.primitives.numbers import Array
from refimpl.primitives.traces import trace_symbol

Draw = Callable[..., Array]
WIDTH = 100


def excess_kurtosis(values: Array) -> float:
    """Of all the values together."""
    centred = values - values.mean()
    return float(np.mean(centred**4) / np.mean(centred**2) ** 2 - 3)


@claim(
    "deep_linear/K15",
    title="Orthogonal products keep every singular value at 1, Gaussian ones only their mean square, on ever fewer",
    source="Section 3, Figure 6B",
    statement=r"\mathbb E\tfrac1N\sum\sigma_i^2=1,\quad x_{n+1}=(1+\tfrac1N)x_n+y_n,\ y_{n+1}=y_n+\tfrac2{N^2}x_n,"
    r"\quad x_n=\mathbb E\tfrac1N\sum\sigma_i^4,\ y_n=\mathbb E(\tfrac1N\sum\sigma_i^2)^2",
    method="symbolic",
    scope="the moments for every width and depth, by one more factor in front of any product; 20,000 products of two "
    "7 x 7 factors; the shape at width 100, 10 draws, of 1, 5 and 99 factors",
    control=[
        Control("Gaussian factors in place of orthogonal ones", orthogonal=scaled_gaussian_init),
        Control("orthogonal factors in place of Gaussian ones", gaussian=orthogonal_init),
    ],
)
def product_spectra(
    rng: np.random.Generator, orthogonal: Draw = orthogonal_init, gaussian: Draw = scaled_gaussian_init
) -> Evidence:
    trace, size = trace_symbol(), scalar("N", positive=True)
    w, p = block("W"), block("P")
    gram = p * p.transpose()
    grown = w * gram * w.transpose()
    factor = Gaussian(w, size, size, 1 / size)
    second = trace(gram) / size
    fourth, square = trace(gram * gram) / size, second**2
    after = moment_step(fourth, square, size)
    recursion = [
        expectation(trace(grown) / size, factor) - second,
        expectation(trace(grown * grown) / size, factor) - after[0],
        expectation((trace(grown) / size) ** 2, factor) - after[1],
    ]
    exact = [float(product_moments(WIDTH, n)[0]) for n in (1, 5, 99)]
    fourths = np.mean(product_singular_values(gaussian, 7, 2, 20000, rng) ** 4, axis=1)
    # Batches of 100, for the fourth moment has a heavy tail.
    batches = fourths.reshape(200, 100).mean(axis=1)
    deviation = np.max(np.abs(product_singular_values(orthogonal, WIDTH, 99, 2, rng) - 1))
    drawn = [product_singular_values(gaussian, WIDTH, n, 10, rng) for n in (1, 5, 99)]
    medians, kurtosis = [float(np.median(one)) for one in drawn], [excess_kurtosis(one) for one in drawn]
    # A product of n factors rounds each entry by about sqrt(n N) units, and Householder's vectors by N each.
    return (
        vanishes(recursion, "moments after one more factor")
        & at_most(float(np.max(np.abs(np.array(exact) / [2.01, 6.156, 229.3] - 1))), 5e-4, "x_n at N = 100 off by")
        & covers(mean_interval(batches), float(product_moments(7, 2)[0]), "fourth moment of two factors")
        & at_most(float(deviation), 99 * WIDTH * 2.0**-53, "orthogonal singular values off 1 by")
        & within(medians[0], 0.75, 0.85, "median Gaussian singular value at n = 1")
        & within(medians[1], 0.1, 0.3, "at n = 5")
        & at_most(medians[2], 1e-10, "at n = 99")
        & at_most(kurtosis[0], 0, "excess kurtosis at n = 1")
        & at_least(kurtosis[1], 1, "at n = 5")
        & at_least(kurtosis[2], 20, "at n = 99")
    )


def share_at_the_origin(eigenvalues: Array) -> Array:
    """The share of each draw's eigenvalues in the square of side 0.1 around 0."""
    inside = (np.abs(eigenvalues.real) <= 0.05) & (np.abs(eigenvalues.imag) <= 0.05)
    return np.asanyarray(inside.mean(axis=-1))


@claim(
    "deep_linear/K16",
    title="A third of the eigenvalues of five Gaussian factors, and nearly all of ninety-nine, lie at the origin",
    source="Figure 6C (caption)",
    statement=r"P(|\mathrm{Re}\,z|,|\mathrm{Im}\,z|\le0.05)=32\%\ (n=5),\ 94\%\ (n=99);\qquad P(|z|\le r)\to r^{2/n}",
    method="statistical",
    scope="width 100, 20 draws, Student's interval of the draws' shares at 10^-6; two percentage points from the "
    "caption and from the law at the radius of the same area",
    control=[
        Control("orthogonal factors", draw=orthogonal_init),
        Control("half as many factors", fewer=2),
    ],
)
def eigenvalues_at_the_origin(rng: np.random.Generator, draw: Draw = scaled_gaussian_init, fewer: int = 1) -> Evidence:
    shares = [share_at_the_origin(product_eigenvalues(draw, WIDTH, n // fewer, 20, rng)) for n in (5, 99)]
    intervals = [mean_interval(one) for one in shares]
    law = eigenvalue_radius_law(np.full(2, 0.1 / np.sqrt(np.pi)), 5)[0], eigenvalue_radius_law(0.1 / np.sqrt(np.pi), 99)
    evidence = at_most(max(i.high - i.low for i in intervals), 0.08, "widest interval")
    for interval, caption, by_law, n in zip(intervals, (0.32, 0.94), law, (5, 99), strict=True):
        evidence &= within(interval.estimate, caption - 0.02, caption + 0.02, f"share at n = {n}")
        evidence &= at_most(abs(interval.estimate - float(by_law)), 0.02, f"off the law at n = {n} by")
    return evidence


def without_the_index(width: int) -> Array:
    return np.full(width, lyapunov_exponents(width)[0])


@claim(
    "deep_linear/K22",
    title="The logarithms of a Gaussian product's singular values grow at known rates, all different",
    source="Section 3 (Lyapunov exponents, after Newman)",
    statement=r"\lim_{n\to\infty}\tfrac1n\ln\sigma_i=\tfrac12\Big[\ln\frac2N+\psi\Big(\frac{N-i+1}2\Big)\Big]",
    method="statistical",
    scope="widths 30 and 60, 2000 factors, every exponent: an unbiased mean with standard error "
    "sqrt(psi'((N - i + 1)/2) / 4T); false alarm below 10^-5 for all 90 together",
    control=Control("without the index i", exponents=without_the_index),
)
def lyapunov(rng: np.random.Generator, exponents: Callable[[int], Array] = lyapunov_exponents) -> Evidence:
    n_factors, worst = 2000, []
    # ln of a chi variable with k degrees of freedom has the mean [psi(k/2) + ln 2]/2: one factor, a symbol for k.
    k, t = sympy.Symbol("k", positive=True), sympy.Symbol("t", positive=True)
    moment = 2 ** (t / 2) * sympy.gamma((k + t) / 2) / sympy.gamma(k / 2)
    mean = sympy.diff(sympy.log(moment), t).subs(t, 0)
    chi = vanishes(mean - (sympy.log(2) + sympy.digamma(k / 2)) / 2, "mean logarithm of a chi variable")
    for width in (30, 60):
        error = np.sqrt(special.polygamma(1, np.arange(width, 0, -1) / 2) / (4 * n_factors))
        worst.append(np.max(np.abs(estimate_lyapunov_exponents(width, n_factors, rng) - exponents(width)) / error))
    return chi & at_most(float(max(worst)), 5.5, "worst deviation in standard errors")


def histogram(title: str, values: Array, edges: Array) -> Series:
    counts, _ = np.histogram(values, edges)
    density: list[Any] = (counts / values.size / np.diff(edges)).tolist()
    return Series(title, ((edges[1:] + edges[:-1]) / 2).tolist(), density, "steps")


@figure(
    "deep_linear/F3",
    title="Singular values of products of random matrices",
    caption="One Gaussian factor has singular values up to 2. Of five most are small and some large, of 99 almost all "
    "have vanished, at the same mean square. Those of orthogonal factors are all 1. Width 100, 20 draws.",
    answers_to="Figure 6B",
)
def spectra_figure(rng: np.random.Generator) -> Figure:
    edges = np.linspace(0, 4, 41)
    drawn = [
        histogram(
            f"Gaussian, n = {n}",
            product_singular_values(scaled_gaussian_init, 100, n, 20, rng),
            edges,
        )
        for n in (1, 5, 99)
    ]
    orthogonal = product_singular_values(orthogonal_init, WIDTH, 5, 2, rng)
    return Figure(
        (*drawn, histogram("orthogonal, n = 5", orthogonal, edges)),
        x_label="singular value",
        y_label="density",
    )
