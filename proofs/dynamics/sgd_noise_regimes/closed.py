"""Expectations over the perceptron's data in closed form, their tails, the loss, and SGD's noise (S1 to S3, S13)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.ledger import Control, Evidence, at_most, claim
from proofs.properties import for_all
from proofs.statistics import covers, mean_interval
from proofs.symbolic import scalar, vanishes
from refimpl.dynamics.sgd_noise_regimes import (
    NoiseMoments,
    TailConstants,
    noise_covariance,
    noise_moments,
    noise_restoring,
    perceptron_data,
    population_functions,
    population_loss,
    signal_drive,
    tail_constants,
    unfitted_fraction,
)
from refimpl.dynamics.sgd_noise_regimes.population import closed_noise_moments
from refimpl.primitives.numbers import Array
from refimpl.primitives.special import student_tail

ROUNDOFF = float(np.finfo(float).eps) / 2
Closed = Callable[[Array, Any], Array]

RATIO, FREEDOM = scalar("lambda", positive=True), scalar("k", positive=True)
CHIS = st.floats(-0.6, 4.5)


def at_ratio(function: Closed, chi: Any) -> sympy.Expr:
    """The shipped function at a symbol for the ratio."""
    return function(np.array([RATIO], dtype=object), chi)[0]


def mean_over_signal(function: Callable[[sympy.Symbol], Any]) -> sympy.Expr:
    r"""$\mathbb E f(s)$ by integration against the density $2^{1-k/2}s^{k-1}e^{-s^2/2}/\Gamma(k/2)$."""
    s = scalar("s", positive=True)
    density = 2 ** (1 - FREEDOM / 2) * s ** (FREEDOM - 1) * sympy.exp(-(s**2) / 2) / sympy.gamma(FREEDOM / 2)
    return sympy.gammasimp(sympy.integrate(sympy.powsimp(function(s) * density), (s, 0, sympy.oo), conds="none"))


def normal(x: Any) -> sympy.Expr:
    return sympy.exp(-(x**2) / 2) / sympy.sqrt(2 * sympy.pi)


def far_out(expression: sympy.Expr) -> sympy.Expr:
    r"""The value at $\lambda=\infty$, where the incomplete beta function is an integral from 0 to 0."""
    at_infinity = expression.subs(RATIO, sympy.oo)
    return at_infinity.replace(sympy.betainc, lambda *a: sympy.betainc(*a).rewrite(sympy.Integral).doit())


def one_freedom_more(overlap_ratio: Array, chi: Any) -> Array:
    return student_tail(overlap_ratio, chi + 2)


def vanishes_with_gamma(difference: Any, quantity: str) -> Evidence:
    """As :func:`vanishes`, Gamma functions at distances of integers made one first."""
    reduced = [sympy.gammasimp(sympy.powsimp(sympy.expand_func(sympy.simplify(one)))) for one in difference]
    return vanishes(reduced, quantity)


@claim(
    "sgd_noise_regimes/S1",
    title="Without a margin the unfitted fraction and both forces are Student's law of the signal-to-noise ratio",
    source="The perceptron (derived)",
    statement=r"n=F_{t_k}(-\lambda\sqrt k),\quad g_1=\sqrt2\,\tfrac{\Gamma((k+1)/2)}{\Gamma(k/2)}"
    r"F_{t_{k+1}}(-\lambda\sqrt{k+1}),\quad g_\perp=\tfrac{(1+\lambda^2)^{-k/2}}{\sqrt{2\pi}},\quad k=\chi+1",
    method="symbolic",
    scope="all ratios > 0 and exponents > -1: derivatives in the ratio against Gamma integrals, and values at "
    "infinity; 200 cases of the quadrature, ratios .01 to 100, exponents -.6 to 4.5",
    control=Control("one degree of freedom too many in the unfitted fraction", fraction=one_freedom_more),
)
def closed_forms(rng: np.random.Generator, fraction: Closed = unfitted_fraction) -> Evidence:
    chi = FREEDOM - 1
    n, drive = at_ratio(fraction, chi), at_ratio(signal_drive, chi)
    # The expectations of Phi(-lambda s) and s Phi(-lambda s), differentiated under the integral.
    derivatives = [
        sympy.diff(n, RATIO) + mean_over_signal(lambda s: s * normal(RATIO * s)),
        sympy.diff(drive, RATIO) + mean_over_signal(lambda s: s**2 * normal(RATIO * s)),
    ]
    evidence = vanishes_with_gamma(derivatives, "derivatives of n and g_1 less the expectations'")
    evidence &= vanishes([far_out(n), far_out(drive)], "n and g_1 at infinity")
    restoring = at_ratio(noise_restoring, chi) - mean_over_signal(lambda s: normal(RATIO * s))
    evidence &= vanishes_with_gamma([restoring], "g_perp less the expectation")
    gaussian = [
        sympy.diff(at_ratio(fraction, sympy.Integer(0)) - sympy.atan(1 / RATIO) / sympy.pi, RATIO),
        sympy.diff(
            at_ratio(signal_drive, sympy.Integer(0))
            - (1 - RATIO / sympy.sqrt(1 + RATIO**2)) / sympy.sqrt(2 * sympy.pi),
            RATIO,
        ),
    ]
    evidence &= vanishes_with_gamma(gaussian, "derivatives of the Gaussian's forms less theirs")

    def error(case: tuple[float, float]) -> float:
        ratio, one, zero = np.array([10 ** case[0]]), np.ones(1), np.zeros(1)
        found = population_functions.unchecked(ratio, one, zero, case[1])
        exact = (fraction(ratio, case[1]), signal_drive(ratio, case[1]), noise_restoring(ratio, case[1]))
        return max(float(np.max(np.abs(a / b - 1))) for a, b in zip(found, exact, strict=True))

    # A sum of 742 nodes, whose masses and ordinates are off by some 10 roundoffs each.
    cases = st.tuples(st.floats(-2, 2), CHIS)
    return evidence & for_all(rng, cases, error, 742 * 10 * ROUNDOFF, 200, "quadrature off by")


# --- tails ---


def swapped_gammas(chi: Any) -> TailConstants:
    r"""$\Gamma(k/2)$ and $\Gamma((k+1)/2)$ swapped."""
    unfitted, drive, noise = tail_constants(chi)
    half = (chi + 1) / 2 if not isinstance(chi, float) else sympy.Float((chi + 1) / 2)
    squared = (sympy.gamma(half + sympy.Rational(1, 2)) / sympy.gamma(half)) ** 2
    squared = float(squared) if isinstance(chi, float) else squared
    return TailConstants(unfitted / squared, drive, noise / squared)


@claim(
    "sgd_noise_regimes/S2",
    title="At large ratios the forces are powers, and the quasi-static noise is proportional to the temperature",
    source="The perceptron at late times (derived)",
    statement=r"n\simeq C_n\lambda^{-k},\quad g_1\simeq C_1\lambda^{-(k+1)},\quad "
    r"q^*=\tfrac{Tn}{2g_\perp}\to c_qT",
    method="symbolic",
    scope="all exponents: the derivatives of n and g_1 are the powers' times (1 + 1/ratio^2) to a power, which tends "
    "to 1 (l'Hopital); numbers at a ratio of 200 for exponents 0, .5, 1, 2.3",
    uses=["sgd_noise_regimes/S1"],
    control=Control("two Gamma functions swapped", constants=swapped_gammas),
)
def tails(constants: Callable[[Any], TailConstants] = tail_constants) -> Evidence:
    chi = FREEDOM - 1
    unfitted, drive, noise = constants(chi)
    factor = 1 + RATIO**-2
    powers = [
        sympy.diff(at_ratio(unfitted_fraction, chi), RATIO)
        - sympy.diff(unfitted * RATIO**-FREEDOM, RATIO) * factor ** (-(FREEDOM + 1) / 2),
        sympy.diff(at_ratio(signal_drive, chi), RATIO)
        - sympy.diff(drive * RATIO ** -(FREEDOM + 1), RATIO) * factor ** (-(FREEDOM + 2) / 2),
        at_ratio(noise_restoring, chi) - RATIO**-FREEDOM * factor ** (-FREEDOM / 2) / sympy.sqrt(2 * sympy.pi),
        unfitted * sympy.sqrt(2 * sympy.pi) / 2 - noise,
    ]
    evidence = vanishes_with_gamma(powers, "derivatives and ratio of tails less the powers'")
    ratio, worst = np.array([200.0]), []
    for one in (0.0, 0.5, 1.0, 2.3):
        found = constants(one)
        n, g1, across = (f(ratio, one)[0] for f in (unfitted_fraction, signal_drive, noise_restoring))
        worst += [
            n / (found.unfitted * 200 ** -(one + 1)) - 1,
            g1 / (found.drive * 200 ** -(one + 2)) - 1,
            n / (2 * across) / found.noise - 1,
        ]
    # The defects are at most (k + 2) / 2 of 1 / 200^2.
    return evidence & at_most(float(np.max(np.abs(worst))), 1e-4, "tails at a ratio of 200 off by")


# --- the loss ---


@st.composite
def states(draw: st.DrawFn) -> tuple[Array, float]:
    """Signal, noise and margin, and the exponent."""
    return np.array([draw(st.floats(0.2, 3)) for _ in range(3)]), draw(CHIS)


@claim(
    "sgd_noise_regimes/S3",
    title="The forces and the unfitted fraction are the loss's derivatives, and add up to it",
    source="The perceptron (derived)",
    statement=r"\ell=\kappa n-mg_1+qg_\perp,\quad \partial_m\ell=-g_1,\ \partial_q\ell=g_\perp,\ \partial_\kappa\ell=n",
    method="symbolic",
    scope="every signal, noise, margin and value of s, by integration over z; 50 states of the shipped quadrature by "
    "finite differences; 10^6 samples of the data at m = .7, q = .4, kappa = .5, chi = 1",
    control=Control("a margin of the other sign", sign=-1),
)
def loss_and_derivatives(rng: np.random.Generator, sign: int = 1) -> Evidence:
    m, q, kappa, s, z = (scalar(name, positive=True) for name in ("m", "q", "kappa", "s", "z"))
    a = (kappa - m * s) / q
    below = (1 + sympy.erf(a / sympy.sqrt(2))) / 2
    z = scalar("z")
    end = scalar("a")
    mass, mean = (sympy.integrate(one * normal(z), (z, -sympy.oo, end)) for one in (1, z))
    given_s = ((kappa - m * s) * mass - q * mean).rewrite(sympy.erf).subs(end, a)
    n, g1, across = below, s * below, normal(a)
    evidence = vanishes(
        [
            given_s - (sign * kappa * n - m * g1 + q * across),
            sympy.diff(given_s, m) + g1,
            sympy.diff(given_s, q) - across,
            sympy.diff(given_s, kappa) - sign * n,
        ],
        "loss given s, and its derivatives, less the forces'",
    )

    def loss_at(state: Array, chi: float) -> Array:
        signal, noise, margin = np.split(state, 3)
        return population_loss.unchecked(signal, noise, margin, chi)

    def error(case: tuple[Array, float]) -> float:
        state, chi = case
        signal, noise, margin = np.split(state, 3)
        loss, (n, g1, across) = loss_at(state, chi), population_functions.unchecked(signal, noise, margin, chi)
        slopes = []
        for index in range(3):
            step = np.zeros(3)
            step[index] = 1e-4
            slopes.append((loss_at(state + step, chi) - loss_at(state - step, chi)) / 2e-4)
        euler = loss - (sign * state[2] * n - state[0] * g1 + state[1] * across)
        return float(np.max(np.abs([euler, *(np.array(slopes) - np.array([-g1, across, n]))])))

    # Central differences at 1e-4 are off by 2e-9 of the third derivative, at most 1 / (2 pi q^2) < 50.
    evidence &= for_all(rng, states(), error, 1e-7, 50, "shipped sums and derivatives off by")
    inputs, labels = perceptron_data(10**6, 2, 1.0, rng)
    signal, noise = labels * inputs[:, 0], labels * inputs[:, 1]
    missing = 0.5 - 0.7 * signal - 0.4 * noise
    active = missing > 0
    at = (np.array([0.7]), np.array([0.4]), np.array([0.5]), 1.0)
    expected = (population_loss(*at)[0], *(one[0] for one in population_functions(*at)))
    samples = (missing * active, 1.0 * active, signal * active, -noise * active)
    for name, drawn, value in zip(("loss", "n", "g_1", "g_perp"), samples, expected, strict=True):
        evidence &= covers(mean_interval(drawn, 1e-6 / 4), float(value), f"{name} over the samples")
    return evidence


# --- noise ---


def binomial_across(weights: Array, margin: float, chi: float) -> Array:
    """n (1 - n) in place of n on the block across."""
    covariance = noise_covariance(weights, margin, chi)
    direction = np.concatenate([[0.0], weights[1:] / np.linalg.norm(weights[1:])])
    first = np.eye(len(weights))[0]
    across = np.eye(len(weights)) - np.outer(first, first) - np.outer(direction, direction)
    n = np.trace(across @ covariance) * len(weights) / (len(weights) - 2)
    return covariance - across * n**2 / len(weights)


def opposite_cross(weights: Array, margin: float, chi: float) -> Array:
    covariance = noise_covariance(weights, margin, chi)
    covariance[0, 1:] *= -1
    covariance[1:, 0] *= -1
    return covariance


@claim(
    "sgd_noise_regimes/S13",
    title="The covariance of SGD's noise in closed form: isotropic but for a plane",
    source="The stochastic differential equation of SGD (derived)",
    statement=r"\Sigma=\tfrac1d\operatorname{Cov}(v\mathbb 1)=\tfrac nd I\ \text{across}\ e_1,\hat w_\perp",
    method="statistical",
    scope="10^6 samples at d = 7, chi = .5, kappa = .4, all 28 entries, false alarm 10^-6 together; the block across "
    "to roundoff; 100 cases of the second moments without a margin, ratios .01 to 100",
    uses=["sgd_noise_regimes/S1"],
    control=[
        Control("the variance of an indicator across", covariance=binomial_across),
        Control("the cross term of the other sign", covariance=opposite_cross),
    ],
)
def covariance_of_noise(
    rng: np.random.Generator, covariance: Callable[[Array, float, float], Array] = noise_covariance
) -> Evidence:
    d, chi, margin = 7, 0.5, 0.4
    weights = np.concatenate([[1.5], rng.standard_normal(d - 1)])
    stated = covariance(weights, margin, chi)
    inputs, labels = perceptron_data(10**6, d, chi, rng)
    v = labels[:, None] * inputs
    moved = v * (v @ weights / d**0.5 < margin)[:, None] / d**0.5
    centred = moved - moved.mean(axis=0)
    products = centred.T @ centred / len(moved)
    errors = np.sqrt(((centred**2).T @ centred**2 / len(moved) - products**2) / len(moved))
    worst = float(np.max(np.abs(products - stated) / errors))
    # Of 28 normal numbers the largest exceeds 5.5 standard errors once in a million.
    evidence = at_most(worst, 5.5, "largest deviation in standard errors")
    basis = np.linalg.qr(np.column_stack([np.eye(d)[0], weights, rng.standard_normal((d, d - 2))]))[0][:, 2:]
    state = (weights[:1] / d**0.5, np.array([np.linalg.norm(weights[1:]) / d**0.5]), np.array([margin]))
    n = population_functions(*state, chi).unfitted[0]
    block = np.max(np.abs(basis.T @ stated @ basis - n / d * np.eye(d - 2)))
    evidence &= at_most(float(block), 100 * ROUNDOFF, "block across off n / d by")

    def error(case: tuple[float, float]) -> float:
        ratio = np.array([10 ** case[0]])
        found: NoiseMoments = noise_moments.unchecked(ratio, np.ones(1), np.zeros(1), case[1])
        return max(
            float(np.max(np.abs(a / b - 1))) for a, b in zip(found, closed_noise_moments(ratio, case[1]), strict=True)
        )

    cases = st.tuples(st.floats(-2, 2), CHIS)
    return evidence & for_all(rng, cases, error, 742 * 10 * ROUNDOFF, 100, "moments without a margin off by")
