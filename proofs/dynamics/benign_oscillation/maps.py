"""One sample: the maps of the shares, their oscillation, what it makes of the weak feature, and where it ends."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.ledger import (
    Control,
    Evidence,
    Figure,
    Series,
    at_least,
    at_most,
    claim,
    equal,
    figure,
    holds,
    run_seed,
    within,
)
from proofs.properties import for_all
from proofs.symbolic import scalar, vanishes
from refimpl.dynamics.benign_oscillation import (
    feature_gain,
    learning_steps,
    least_growth_rate,
    minimum_weak_share,
    oscillation_window,
    period_two_errors,
    period_two_growth_rate,
    slow_weak_share,
    strong_map,
    transversal_growth_rate,
    two_feature_errors,
    two_feature_map,
)
from refimpl.oracle.spec import generators
from refimpl.primitives.numbers import Array

EPSILON = float(np.finfo(float).eps)
Z, A = scalar("z", positive=True), scalar("a", positive=True)
THETA = scalar("theta", positive=True)
BURN_IN, STEPS = 5000, 20_000


@cache
def attractor(seed: int, gains: tuple[float, ...]) -> Array:
    """Errors of the strong map after the transient, (n_gains, STEPS), each from a random start."""
    start = np.random.default_rng([seed, 1]).uniform(0.1, 0.9, size=len(gains))
    _, settled, none = two_feature_errors(start, 0 * start, np.array(gains), 0.0, BURN_IN)
    errors, _, _ = two_feature_errors(settled, none, np.array(gains), 0.0, STEPS)
    return errors.T


# --- the strong map ---


def without_square(share: Any, gain: Any) -> Any:
    """An additive step in place of the multiplicative one: plain ReLU's."""
    return share * (1 + gain * (1 - share))


@claim(
    "benign_oscillation/B3",
    title="The strong feature's map settles below gain 1, oscillates for good above, and leaves above 1.598",
    source="the single-sample example; derived",
    statement=r"g(z)=z(1+a(1-z))^2:\quad g'(1)=1-2a,\quad g_{\max}=\tfrac{4(1+a)^3}{27a},\quad "
    r"g_{\max}\le\tfrac{1+a}a\iff a\le\tfrac{3\sqrt3}2-1",
    method="symbolic",
    scope="all gains; the ends of the window to roundoff; 50 random starts at each of 1.62, 1.68, 2 leave the interval "
    "within 3000 steps, at each of 1.05, 1.3, 1.59 none does",
    control=Control("plain ReLU, whose map has no square", map_of=without_square),
)
def window_of_oscillation(rng: np.random.Generator, map_of: Callable[..., Any] = strong_map) -> Evidence:
    g = map_of(Z, A)
    slope = sympy.diff(g, Z)
    peak, end = (1 + A) / (3 * A), (1 + A) / A
    exact = vanishes(
        [
            slope.subs(Z, 1) - (1 - 2 * A),
            slope.subs(Z, peak),
            slope.subs(Z, end),
            g.subs(Z, peak) - 4 * (1 + A) ** 3 / (27 * A),
            # The interval is kept iff this is not positive: its sign is that of 4 (1 + a)^2 - 27.
            g.subs(Z, peak) - end - (1 + A) * (4 * (1 + A) ** 2 - 27) / (27 * A),
        ],
        "slope, critical points, largest value",
    )
    low, high = oscillation_window()
    evidence = exact & equal(low, 1.0, "lower end") & at_most(abs(high - (27**0.5 / 2 - 1)), 4 * EPSILON, "upper end")
    for gain, leaves in ((1.62, 50), (1.68, 50), (2.0, 50), (1.05, 0), (1.3, 0), (1.59, 0)):
        share, gone = rng.uniform(0.01, 1, size=50), np.zeros(50, dtype=bool)
        for _ in range(3000):
            share = np.where(gone, 1.0, map_of(share, gain))
            gone |= share > (1 + gain) / gain
        evidence &= equal(int(gone.sum()), leaves, f"starts that leave at a = {gain}")
    return evidence


# --- growth of the weak feature ---

GAINS = (1.2, 1.5)
RATIOS = (0.01, 0.05, 0.2, 0.5)


@claim(
    "benign_oscillation/B4",
    title="On the oscillation the strong feature does not grow, and every weaker one does",
    source="the main lemma",
    statement=r"h(a)=\overline{\ln(1+a\ell)}:\quad h(a_u)=0,\quad h(a_v)>0\ \text{for }0<a_v<a_u",
    method="property",
    scope="gains 1.2 (period 2) and 1.5, ratios 0.01 to 0.5, 20 000 steps after 5000; the mean over T steps is the "
    "logarithm of the share's change over 2T, within the attractor's range",
    control=[
        Control("a gain at which the map settles", gains=(0.5, 0.9)),
        Control("a feature of larger gain than the strong one", ratios=(1.05,)),
    ],
)
def oscillation_makes_weak_features_grow(
    rng: np.random.Generator, gains: tuple[float, ...] = GAINS, ratios: tuple[float, ...] = RATIOS
) -> Evidence:
    evidence = Evidence(())
    for gain, errors in zip(gains, attractor(run_seed(rng), gains), strict=True):
        # z_T = z_0 exp(2 T h): h is at most half the logarithm of the attractor's range over T.
        shares = 1 - errors
        still = float(np.log(shares.max() / shares.min())) / (2 * STEPS) + STEPS * EPSILON
        evidence &= at_most(abs(float(transversal_growth_rate(errors, gain))), still, f"rate of growth at a = {gain}")
        for ratio in ratios:
            rate = float(transversal_growth_rate(errors, ratio * gain))
            evidence &= at_least(rate, 1e-4, f"rate at {ratio} of a = {gain}")
    return evidence


def only_second_order(strong_gain: float, weak_gain: float) -> float:
    """The growth by the variance alone, without the bias of the mean."""
    return -weak_gain * weak_gain / 2


def quadratic_factor(strong_gain: Any, weak_gain: Any) -> Any:
    r"""What multiplies $\overline{\ell^2}$ in the growth to second order."""
    return weak_gain * (strong_gain - weak_gain) / 2


@claim(
    "benign_oscillation/B5",
    title="The growth is half the product of the gains' gap and the weak gain, times the mean squared error",
    source="the main lemma; derived",
    statement=r"h(a_v)\approx\tfrac12a_v(a_u-a_v)\overline{\ell^2};\quad\text{period 2: }"
    r"\frac{h}{\cdot}=\frac{2\ln[1+\theta(1-\theta)(a-1)]}{\theta(1-\theta)(a^2-1)}\to\tfrac2{a+1}\ (\theta\to0,1)",
    method="symbolic",
    scope="the ratio on the cycle of two and its limits exactly; within 20% at gains 1.05 to 1.59 for ratios up to "
    "0.5, "
    "20 000 steps. Not small for ratios near 1 in the chaotic range (1.6 at 0.8 of 1.59)",
    uses=["benign_oscillation/B4", "benign_oscillation/B6"],
    control=Control("the variance alone, without the mean that balances it", factor=only_second_order),
)
def growth_to_second_order(rng: np.random.Generator, factor: Callable[[Any, Any], Any] = quadratic_factor) -> Evidence:
    mean_square = sum(one**2 for one in period_two_errors(A)) / 2
    ratio = period_two_growth_rate(A, THETA) / (factor(A, THETA * A) * mean_square)
    stated = 2 * sympy.log(1 + THETA * (1 - THETA) * (A - 1)) / (THETA * (1 - THETA) * (A**2 - 1))
    limits = [sympy.limit(stated, THETA, end) - 2 / (A + 1) for end in (0, 1)]
    gains, worst = (1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.55, 1.59), []
    for gain, errors in zip(gains, attractor(run_seed(rng), gains), strict=True):
        for theta in (0.01, 0.05, 0.2, 0.5):
            rate = float(transversal_growth_rate(errors, theta * gain))
            worst.append(rate / (factor(gain, theta * gain) * float(np.mean(errors**2))))
    return (
        vanishes([ratio - stated], "ratio on the cycle of two")
        & vanishes(limits, "its limits")
        & within(min(worst), 0.8, 1.2, "least ratio")
        & within(max(worst), 0.8, 1.2, "largest ratio")
    )


def swapped_signs(gain: Any) -> tuple[Any, Any]:
    first, second = period_two_errors(gain)
    return -first, -second


@claim(
    "benign_oscillation/B6",
    title="Just above gain 1 the error alternates between two values, in closed form",
    source="derived",
    statement=r"\ell_{1,2}\text{ roots of }x^2-\tfrac{a-1}ax-\tfrac{a-1}{a^2},\ (1+a\ell_1)(1+a\ell_2)=1,\ "
    r"\overline\ell=\tfrac{a-1}{2a},\ \overline{\ell^2}=\tfrac{a^2-1}{2a^2},\ "
    r"h(\theta a)=\tfrac12\ln[1+\theta(1-\theta)(a-1)]",
    method="symbolic",
    scope="all gains: a cycle of the shipped map, its multiplier 7 - 4a - 2a^2, stable for 1 < a < sqrt 5 - 1; "
    "simulated "
    "at 1.2, where the mean is 1/12 and the mean square 11/72",
    control=Control("both errors with the other sign", errors_of=swapped_signs),
)
def cycle_of_two(rng: np.random.Generator, errors_of: Callable[[Any], Any] = period_two_errors) -> Evidence:
    first, second = errors_of(A)
    slope = sympy.diff(strong_map(Z, A), Z)
    multiplier = slope.subs(Z, 1 - first) * slope.subs(Z, 1 - second)
    growth = sympy.expand((1 + THETA * A * first) * (1 + THETA * A * second))
    exact = [
        strong_map(1 - first, A) - (1 - second),
        strong_map(1 - second, A) - (1 - first),
        (1 + A * first) * (1 + A * second) - 1,
        (first + second) / 2 - (A - 1) / (2 * A),
        (first**2 + second**2) / 2 - (A**2 - 1) / (2 * A**2),
        multiplier - (7 - 4 * A - 2 * A**2),
        growth - sympy.exp(2 * period_two_growth_rate(A, THETA)),
        (7 - 4 * A - 2 * A**2).subs(A, 1) - 1,
        (7 - 4 * A - 2 * A**2).subs(A, sympy.sqrt(5) - 1) + 1,
    ]
    (errors,) = attractor(run_seed(rng), (1.2,))
    # The cycle is reached to roundoff: its multiplier at 1.2 is -0.68, and the mean of T numbers rounds by T u at most.
    rounding = STEPS * EPSILON
    return (
        vanishes(exact, "the cycle")
        & at_most(abs(float(errors.mean()) - 1 / 12), rounding, "mean error less 1/12")
        & at_most(abs(float((errors**2).mean()) - 11 / 72), rounding, "mean square less 11/72")
    )


@st.composite
def error_sequences(draw: st.DrawFn) -> dict[str, Any]:
    """Gains, an amplitude, and errors of at least that size between -1/a_u and 1."""
    rng = draw(generators())
    strong_gain = float(rng.choice((0.1, 1.0, 1.5, 10.0)) * rng.uniform(0.5, 1.5))
    amplitude = float(rng.uniform(0.01, 0.9)) * min(1.0, 1 / strong_gain)
    negative = -rng.uniform(amplitude, 1 / strong_gain, size=200)
    positive = rng.uniform(amplitude, 1, size=200)
    errors = np.where(rng.random(200) < draw(st.sampled_from((0.0, 0.3, 0.7, 1.0))), positive, negative)
    return {
        "errors": errors[1 + strong_gain * errors > 1e-9],
        "gains": (strong_gain, float(strong_gain * rng.uniform(0.01, 0.99))),
        "amplitude": amplitude,
    }


def without_denominator(strong_gain: Any, weak_gain: Any, amplitude: Any) -> Any:
    return weak_gain * (strong_gain - weak_gain) * amplitude * amplitude / 2


def squared_denominator(strong_gain: Any, weak_gain: Any, amplitude: Any) -> Any:
    return least_growth_rate.unchecked(strong_gain, weak_gain, amplitude) / ((1 + strong_gain) * (1 + weak_gain))


@claim(
    "benign_oscillation/B7",
    title="Whatever the errors are, each of size delta feeds the weak feature at least by a constant",
    source="the main lemma; constant derived",
    statement=r"-\tfrac1{a_u}<\ell_t\le1,\ \lvert\ell_t\rvert\ge\delta,\ \sum_t\ln(1+a_u\ell_t)\ge-C\ \Rightarrow\ "
    r"\sum_{t<T}\ln(1+a_v\ell_t)\ge cT-\tfrac{a_v}{a_u}C",
    method="symbolic",
    scope="the integral behind the bound and its constant exactly; the pointwise bound, of which the sum is one, on "
    "100 "
    "sequences of 200 errors at gains 0.05 to 15",
    control=[
        Control("no denominator: more than large errors give", bound=without_denominator),
        Control("the gains' roles exchanged", exchanged=True),
        Control("a denominator that is squared does not follow from the integral", bound=squared_denominator),
    ],
)
def each_error_feeds_the_weak_feature(
    rng: np.random.Generator, bound: Callable[..., Any] = least_growth_rate.unchecked, exchanged: bool = False
) -> Evidence:
    x, weak, strong, delta = (scalar(name, positive=True) for name in ("x", "a_v", "a_u", "delta"))
    phi = sympy.log(1 + THETA * x) - THETA * sympy.log(1 + x)
    integrand = THETA * (1 - THETA) * x / ((1 + THETA * x) * (1 + x))
    # Below x the denominator is at most (1 + theta x_+)(1 + x_+), where x = a_u l is at most a_u, and theta a_u = a_v.
    least = THETA * (1 - THETA) * (strong * delta) ** 2 / (2 * (1 + THETA * strong) * (1 + strong))
    exact = vanishes(
        [sympy.diff(phi, x) - integrand, phi.subs(x, 0), least.subs(THETA, weak / strong) - bound(strong, weak, delta)],
        "integral and constant",
    )

    def violation(case: Any) -> float:
        strong_gain, weak_gain = case["gains"][::-1] if exchanged else case["gains"]
        errors = case["errors"][1 + max(case["gains"]) * case["errors"] > 0]
        gained = np.log1p(weak_gain * errors) - weak_gain / strong_gain * np.log1p(strong_gain * errors)
        short = bound(strong_gain, weak_gain, case["amplitude"]) - gained
        # Each logarithm rounds by u of itself and by u over its argument.
        size = np.abs(np.log1p(strong_gain * errors)) + np.abs(np.log1p(weak_gain * errors))
        size += 1 / (1 + strong_gain * errors) + 1 / (1 + weak_gain * errors)
        return float(np.max(short / (4 * EPSILON * size)))

    return exact & for_all(rng, error_sequences(), violation, 1, quantity="bound less growth, over rounding")


# --- small rates, and where the oscillation ends ---


def inverse_ratio(weak_share: Any, strong_start: Any, strong_end: Any, norm_ratio_squared: Any) -> Any:
    return weak_share * (strong_end / strong_start) ** (norm_ratio_squared**0.5)


@claim(
    "benign_oscillation/B8",
    title="At small rates the weak share grows by a power of the strong one's growth, and no more",
    source="derived",
    statement=r"\eta\to0:\quad\frac{z_v(t)}{z_v(0)}=\Big(\frac{z_u(t)}{z_u(0)}\Big)^{\lVert v\rVert^2/\lVert u"
    r"\rVert^2}",
    method="symbolic",
    scope="the flow keeps the difference of logarithms over squared norms (first order in the rate, on the shipped "
    "map); strong share from 1e-3 to 1, squared norms 1 : 0.05, gains 0.1 to 0.001: the excess is linear in the gain",
    control=Control("the ratio of norms in place of their squares", law=inverse_ratio),
)
def slow_training_learns_no_weak_feature(law: Callable[..., Any] = slow_weak_share) -> Evidence:
    rate, u, v, m, weak = (scalar(name, positive=True) for name in ("eta", "u", "v", "m", "z_v"))
    strong_after, weak_after = two_feature_map(Z, weak, feature_gain(rate, u**2, m), feature_gain(rate, v**2, m))
    kept = sympy.log(strong_after) / u**2 - sympy.log(weak_after) / v**2
    flow = vanishes([sympy.diff(kept, rate).subs(rate, 0)], "change of the kept quantity")
    start, excess, gains = 1e-3, [], (0.1, 0.01, 0.001)
    for gain in gains:
        strong, weak_share = np.array(start), np.array(1e-9)
        _, strong, weak_share = two_feature_errors(strong, weak_share, gain, 0.05 * gain, round(15 / gain))
        excess.append(float(weak_share) / law(1e-9, start, float(strong), 0.05) - 1)
    slope = float(np.polyfit(np.log(gains), np.log(np.abs(excess)), 1)[0])
    # The map's second order in the gain is its first correction; over two decades it bends the slope by a gain of 0.1.
    return flow & at_most(abs(excess[-1]), 1e-3, "excess at gain 0.001") & within(slope, 0.9, 1.1, "order in the gain")


def by_strong_gain(strong_gain: Any, weak_gain: Any) -> Any:
    return (strong_gain - 1) / strong_gain


@claim(
    "benign_oscillation/B9",
    title="The oscillation ends where the weak share has made the fit flat enough",
    source="derived",
    statement=r"z_u+z_v=1\text{ is stable iff }a_uz_u+a_vz_v<1,\text{ i.e. }z_v>\frac{a_u-1}{a_u-a_v}",
    method="symbolic",
    scope="the Jacobian of the shipped map on the line of fits, all gains: eigenvalues 1 and 1 - 2(a_u z_u + a_v z_v); "
    "four "
    "pairs of gains simulated until the error is 0: the share ends less than a tenth above the bound",
    uses=["benign_oscillation/B4"],
    control=[
        Control("the weak feature's own gain left out", least=by_strong_gain),
        Control("a gain at which nothing oscillates", scale=0.75),
    ],
)
def oscillation_ends_at_a_flat_fit(
    least: Callable[[Any, Any], Any] = minimum_weak_share.unchecked, scale: float = 1.0
) -> Evidence:
    a_u, a_v, weak = (scalar(name, positive=True) for name in ("a_u", "a_v", "z_v"))
    after = sympy.Matrix(two_feature_map(Z, weak, a_u, a_v))
    jacobian = after.jacobian([Z, weak]).subs(weak, 1 - Z)
    other = 1 - 2 * (a_u * Z + a_v * (1 - Z))
    edge = other.subs(Z, 1 - least(a_u, a_v))
    evidence = vanishes(
        [jacobian.trace() - 1 - other, jacobian.det() - other, edge + 1],
        "eigenvalues on the fits, and multiplier -1 at the least share",
    )
    pairs = ((1.2, 0.06), (1.2, 0.3), (1.4, 0.1), (1.5, 0.1))
    strong_gains, weak_gains = scale * np.array(pairs).T
    start = np.full(len(pairs), 0.3), np.full(len(pairs), 1e-6)
    errors, _, ends = two_feature_errors(*start, strong_gains, weak_gains, 100_000)
    for (strong_gain, weak_gain), error, end in zip(pairs, errors[-1], ends, strict=True):
        ratio = float(end) / least(strong_gain, weak_gain)
        evidence &= within(ratio, 1, 1.1, f"end over least share at ({strong_gain}, {weak_gain})")
        evidence &= at_most(abs(float(error)), 1e-6, "error")
    return evidence


@claim(
    "benign_oscillation/B14",
    title="While it oscillates the network under-fits on average",
    source="derived",
    statement=r"\overline\ell\ge\frac{h(a)}a,\qquad\overline\ell=\tfrac{a-1}{2a}\text{ for }1<a<\sqrt5-1,"
    r"\qquad\overline\ell>0",
    method="property",
    scope="gains 1.02, 1.2, 1.3, 1.4, 1.5 over 20 000 steps: above half the mean of l^2 / (1 + l) a, which concavity "
    "gives, and equal to the closed form on the cycle of two",
    uses=["benign_oscillation/B6"],
    control=Control("a gain at which the map settles", gains=(0.9, 0.95)),
)
def error_is_positive_on_average(
    rng: np.random.Generator, gains: tuple[float, ...] = (1.02, 1.2, 1.3, 1.4, 1.5)
) -> Evidence:
    evidence = Evidence(())
    for gain, errors in zip(gains, attractor(run_seed(rng), gains), strict=True):
        mean = float(errors.mean())
        shares = 1 - errors
        # a l - ln(1 + a l) >= (a l)^2 / (2 (1 + a)) for l <= 1, and the mean of the logarithm is bounded as in B4.
        still = float(np.log(shares.max() / shares.min())) / (2 * STEPS)
        bound = (gain * float((errors**2).mean()) / (2 * (1 + gain))) - still / gain
        evidence &= at_least(mean, bound, f"mean error at a = {gain}")
        evidence &= holds(mean > 1e-4, "> 1e-4", f"{mean:.3g}", f"mean error at a = {gain}")
        if 1 < gain < 5**0.5 - 1:
            # Near 1 the cycle is reached like exp(-4 (a - 1) t).
            evidence &= at_most(abs(mean - (gain - 1) / (2 * gain)), STEPS * EPSILON, "less the closed form")
    return evidence


# --- figures ---


@figure(
    "benign_oscillation/F3",
    title="How fast the weak feature grows on the oscillation",
    caption="Rate of growth at a fifth of the strong gain, over the strong gain: 0 up to 1, then the closed form of "
    "the "
    "cycle of two, and near the quadratic approximation through the chaotic range.",
    answers_to="the main lemma",
)
def growth_by_gain(rng: np.random.Generator) -> Figure:
    gains = tuple(float(gain) for gain in np.linspace(0.8, 1.59, 80))
    errors = attractor(run_seed(rng), gains)
    ratio = 0.2
    rates = [float(transversal_growth_rate(row, ratio * gain)) for gain, row in zip(gains, errors, strict=True)]
    approximate = [
        quadratic_factor(gain, ratio * gain) * float(np.mean(row**2)) for gain, row in zip(gains, errors, strict=True)
    ]
    cycle = [gain for gain in gains if 1 < gain < 5**0.5 - 1]
    return Figure(
        (
            Series("simulated", list(gains), rates, "points"),
            Series("quadratic approximation", list(gains), approximate),
            Series("cycle of two, exact", cycle, [float(period_two_growth_rate(gain, ratio)) for gain in cycle]),
        ),
        "strong gain $a_u$",
        "growth rate $h(a_u/5)$ per step",
    )


@figure(
    "benign_oscillation/F1",
    title="The weak feature rises on the oscillation and then ends it",
    caption="Shares of the two features and size of the error for one sample, gain 1.2 (weak: 0.06) and gain 0.8 "
    "(weak: "
    "0.04), from a weak share of 1e-6. At 1.2 the error oscillates while the weak share rises exponentially, as fast "
    "as "
    "predicted, until the fit is stable; at 0.8 the error dies at once and the weak share stays.",
    answers_to="the single-sample example",
)
def shares_over_steps(rng: np.random.Generator) -> Figure:
    n_steps, parts = 3000, []
    for strong_gain, weak_gain in ((1.2, 0.06), (0.8, 0.04)):
        strong, weak = np.array(0.3), np.array(1e-6)
        errors, weaks = [], []
        for _ in range(n_steps):
            error, strong, weak = two_feature_errors(strong, weak, strong_gain, weak_gain, 1)
            errors.append(max(abs(float(error[0])), 1e-9))
            weaks.append(float(weak))
        steps = list(range(1, n_steps + 1, 10))
        parts.append(Series(f"weak share, gain {strong_gain}", steps, weaks[::10]))
        # The largest of ten neighbours: the error passes through small values on its way.
        envelope = np.array(errors).reshape(-1, 10).max(axis=1).tolist()
        parts.append(Series(f"size of the error, gain {strong_gain}", steps, envelope))
    predicted = learning_steps(1e-6, period_two_growth_rate(1.2, 0.05))
    parts.append(Series("predicted learning time", [float(predicted)] * 2, [1e-6, 1.0]))
    return Figure(tuple(parts), "step", "share; error", y_scale="log")
