r"""How many iterations suffice (L4 to L7): Novikoff's argument, step by step along the runs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.dynamics.large_step_logistic.setting import ROUNDOFF
from proofs.ledger import Control, Evidence, at_most, claim, equal
from proofs.properties import for_all
from proofs.symbolic import block, scalar, vanishes
from refimpl.dynamics.large_step_logistic import (
    batch_perceptron,
    batch_perceptron_bound,
    batch_perceptron_bound_tight,
    batch_perceptron_weights,
    iterates,
    lr_gd,
    lr_gd_bound,
    lr_gd_weights,
    margin,
    normalized_batch_perceptron,
    normalized_batch_perceptron_weights,
    normalized_lr_gd,
    normalized_lr_gd_bound,
    normalized_lr_gd_weights,
    perceptron,
    perceptron_bound,
    perceptron_weights,
    radius,
    sample_margins,
    worst_case_dataset,
)
from refimpl.oracle.specs.dynamics.large_step_logistic.setting import separable_sets
from refimpl.primitives.numbers import Array
from refimpl.tasks.classification import signed_features

MOST = 10**6
# Margins, norms and the data's margin itself are computed to some hundred roundoffs, magnified by R/mu < 10^3.
ROUNDED = 1 + 10**6 * ROUNDOFF
N = sympy.Symbol("n", integer=True, positive=True)
R, MU, GAMMA = (scalar(name, positive=True) for name in ("R", "mu", "gamma"))


def worst_case(n_samples: int) -> Array:
    return signed_features(*worst_case_dataset(n_samples))


def norm_after_a_step() -> Evidence:
    """The shipped step on blocks: any number of samples and features, any weights."""
    z, weights, theta = block("Z"), block("c", "column"), block("theta", "column")
    row = np.array([sympy.transpose(theta)], dtype=object)
    samples = np.array([[z]], dtype=object)
    after = iterates(samples, lambda m, t: np.array([sympy.transpose(weights)], dtype=object), 1, row)[1, 0]
    margins = sample_margins(row, samples)[0]
    step = sympy.transpose(weights) * z
    difference = (
        after * sympy.transpose(after)
        - sympy.transpose(theta) * theta
        - margins * weights
        - sympy.transpose(margins * weights)
        - step * sympy.transpose(step)
    )
    return vanishes(sympy.expand(difference), "squared norm after a step less before, less 2 <c, m>, less the step's")


def potentials(z: Array, weights: Callable[[Array, int], Array], n_steps: int, drift: float = 0) -> float:
    r"""How far the proof's two inequalities are from being violated, at the worst iterate: at most 1.

    With $K_t$ the sum of all weights so far, $\mu K_t\le\langle\theta_t,\theta^*\rangle$ and $\lVert\theta_t\rVert^2\le
    \sum(R\sum c)^2+2\cdot\mathtt{drift}\cdot K_t$.
    """
    best = margin(z)
    found = iterates(z, weights, n_steps)
    sums = np.array([weights(sample_margins(one, z), t).sum() for t, one in enumerate(found[:-1])])
    total, squares = np.cumsum(sums), np.cumsum(sums**2)
    along, norms = found[1:] @ best.direction, (found[1:] ** 2).sum(axis=1)
    return float(
        max(np.max(best.margin * total / along), np.max(norms / (radius(z) ** 2 * squares + 2 * drift * total)))
    )


def iterations(run: Callable[..., Any], z: Array, *options: Any) -> float:
    """The number of iterations, infinite if it does not end."""
    found = run(z, *options)
    return float(found.n_iterations) if found.solved else float("inf")


def whole_first_step(n_samples: Any, radius: Any, margin: Any) -> Any:
    """The tight bound less one more half."""
    return batch_perceptron_bound_tight(n_samples, radius, margin) - sympy.Rational(1, 2) * n_samples


def normalized_for_batch(n_samples: int, radius: Any, margin: Any) -> Any:
    """The bound without the number of samples."""
    return perceptron_bound(radius, margin)


@claim(
    "large_step_logistic/L4",
    title="The batch perceptron needs at most n R²/μ² iterations",
    source="Theorem 3.3",
    statement=r"T\le n\Big(\frac{R^2}{\mu^2}-\frac12\Big)+1\le\frac{nR^2}{\mu^2}\quad(n\ge2)",
    method="property",
    scope="the step's identity for all sizes and weights (blocks), the proof's quadratic for all symbols; 300 random "
    "separable sets of at most 24 samples in 5 dimensions, both inequalities of the proof at every iterate; worst "
    "cases up to n = 400",
    control=[
        Control("the bound of the normalized perceptron", bound=normalized_for_batch),
        Control("a tight bound smaller by n/2", tight=whole_first_step),
    ],
)
def batch_bound(
    rng: np.random.Generator,
    bound: Callable[[Any, Any, Any], Any] = batch_perceptron_bound,
    tight: Callable[[Any, Any, Any], Any] = batch_perceptron_bound_tight,
) -> Evidence:
    # The weights' sums are 1/2, then at least 1/n each and at most 1, so that squares are at most the sums themselves:
    # mu^2 A^2 <= R^2 A for A = 1/2 + (T - 1)/n at least.
    least = sympy.Rational(1, 2) + (tight(N, R, MU) - 1) / N
    evidence = norm_after_a_step() & vanishes(
        [MU**2 * least**2 - R**2 * least, batch_perceptron_bound(N, R, MU) - tight(N, R, MU) - N / 2 + 1],
        "the proof's quadratic at the tight bound; the plain bound less it",
    )
    worst: list[float] = []

    def ratio(z: Array) -> float:
        n_steps = iterations(batch_perceptron, z, MOST)
        worst.append(potentials(z, batch_perceptron_weights, int(n_steps)))
        found = radius(z), margin(z).margin
        return max(n_steps / bound(len(z), *found), n_steps / float(tight(len(z), *found)))

    evidence &= for_all(rng, separable_sets(), ratio, ROUNDED, 300, "largest T over a bound")
    for n in (10, 50, 400):
        evidence &= at_most(ratio(worst_case(n)), ROUNDED, f"worst case n = {n}")
    return evidence & at_most(max(worst), ROUNDED, "the proof's inequalities at the worst iterate")


@claim(
    "large_step_logistic/L5",
    title="The perceptron and the normalized batch perceptron need at most R²/μ² iterations",
    source="Theorems 5.2 and 5.3",
    statement=r"T\le\frac{R^2}{\mu^2}",
    method="property",
    scope="the proof's quadratic for all symbols; 300 random separable sets of at most 24 samples in 5 dimensions, "
    "three selections of the sample, both inequalities of the proof at every iterate; worst cases up to n = 400",
    uses=["large_step_logistic/L4"],
    control=Control("the batch perceptron without normalisation", normalized=batch_perceptron),
)
def perceptron_bounds(
    rng: np.random.Generator, normalized: Callable[[Array, int], Any] = normalized_batch_perceptron
) -> Evidence:
    count = perceptron_bound(R, MU)
    evidence = vanishes(MU**2 * count**2 - R**2 * count, "the proof's quadratic at the bound")
    worst: list[float] = []

    def ratio(z: Array) -> float:
        n_steps = [iterations(normalized, z, MOST)]
        n_steps += [iterations(perceptron, z, MOST, selection, rng) for selection in ("first", "worst", "random")]
        worst.append(potentials(z, lambda m, t: normalized_batch_perceptron_weights(m), int(n_steps[0])))
        worst.append(potentials(z, lambda m, t: perceptron_weights(m), int(n_steps[1])))
        return max(n_steps) / float(perceptron_bound(radius(z), margin(z).margin))

    evidence &= for_all(rng, separable_sets(), ratio, ROUNDED, 300, "largest T over the bound")
    for n in (10, 50, 400):
        evidence &= at_most(ratio(worst_case(n)), ROUNDED, f"worst case n = {n}")
    return evidence & at_most(max(worst), ROUNDED, "the proof's inequalities at the worst iterate")


@claim(
    "large_step_logistic/L6",
    title="Normalized LR+GD needs no factor n, at any step size; LR+GD needs at most 2n times as many iterations",
    source="Theorem 6.1; its proof applied to LR+GD (derived)",
    statement=r"T\le\frac{R^2}{\mu^2}+\frac{2\ln(2n-1)}{\gamma\mu^2},\qquad T_{\mathrm{LR+GD}}\le2n\Big(\frac{R^2}"
    r"{\mu^2}+\frac{2\ln(2n-1)}{\gamma\mu^2}\Big)",
    method="property",
    scope="the proof's quadratics for all symbols; 200 random separable sets of at most 24 samples in 5 "
    "dimensions, step sizes log-uniform from .01 to 10^4, both inequalities of the proof at every iterate; the worst "
    "case at n = 400",
    uses=["large_step_logistic/L4", "large_step_logistic/L7"],
    control=Control("LR+GD against the bound for normalized steps", plain_bound=normalized_lr_gd_bound),
)
def descent_bounds(rng: np.random.Generator, plain_bound: Callable[..., Any] = lr_gd_bound) -> Evidence:
    # With S the sum of the normalized weights over gamma, gamma^2 mu^2 S^2 <= (gamma^2 R^2 + 2 gamma ln(2n-1)) S. For
    # normalized steps S is T; for plain ones it is at least T/(2n), a wrong sample having p >= 1/2.
    quadratic = [
        (GAMMA * MU * total) ** 2 - (GAMMA**2 * R**2 + 2 * GAMMA * sympy.log(2 * N - 1)) * total
        for total in (normalized_lr_gd_bound(N, R, MU, GAMMA), plain_bound(N, R, MU, GAMMA) / (2 * N))
    ]
    evidence = vanishes(quadratic, "the proof's quadratics at the bounds")
    worst: list[float] = []

    def ratios(z: Array, step_size: float) -> list[float]:
        found = []
        for run, bound, weights in (
            (normalized_lr_gd, normalized_lr_gd_bound, normalized_lr_gd_weights),
            (lr_gd, plain_bound, lr_gd_weights),
        ):
            n_steps = iterations(run, z, step_size, MOST)
            found.append(n_steps / float(bound(len(z), radius(z), margin(z).margin, step_size)))
            few = min(int(n_steps), 100)

            def rule(m: Array, t: int, weights: Any = weights) -> Any:
                return weights.unchecked(m, step_size)

            worst.append(potentials(z, rule, few, float(np.log(2 * len(z) - 1))))
        return found

    def ratio(z: Array) -> float:
        return max(ratios(z, 10.0 ** rng.uniform(-2, 4)))

    evidence &= for_all(rng, separable_sets(least_gap=0.1), ratio, ROUNDED, 200, "largest T over its bound")
    return (
        evidence
        & at_most(max(ratios(worst_case(400), 100.0)), ROUNDED, "worst case, n = 400, step size 100: T over its bound")
        & equal(lr_gd(worst_case(400), 100.0, 1000).n_iterations, 124, "its T for LR+GD")
        & at_most(max(worst), ROUNDED, "the proof's inequalities at the worst iterate")
    )


def with_a_wrong_sample(margins: Array, at: int) -> Array:
    """One margin made non-positive."""
    margins = margins.copy()
    margins[at] = -abs(margins[at])
    return margins


def all_right(margins: Array, at: int) -> Array:
    """The assumption dropped: every sample is right."""
    return np.abs(margins)


def weighted_margin(margins: Array) -> Any:
    r"""$\sum p_im_i/\sum p_i$ by the shipped weights of normalized LR+GD."""
    return normalized_lr_gd_weights(margins, 1) @ margins


def largest_weighted_margin(n_samples: int) -> float:
    """One margin 0, the others equal: the largest over a grid."""
    margins = np.zeros((4001, n_samples))
    margins[:, 1:] = np.linspace(0, 20, 4001)[:, None]
    return float(np.max((normalized_lr_gd_weights(margins, 1) * margins).sum(axis=1)))


@claim(
    "large_step_logistic/L7",
    title="While a sample is wrong the weighted mean margin is at most ln(2n - 1)",
    source="Theorem 6.1, lemma of its proof",
    statement=r"\min_jm_j\le0\ \Rightarrow\ \frac{\sum_ip_im_i}{\sum_ip_i}\le\ln\Big(\frac n{\sum_ip_i}-1\Big)"
    r"\le\ln(2n-1)",
    method="symbolic",
    scope="all numbers of samples and all margins: the margin is a logarithm of p, whose tangent bounds it, and what "
    "is left sums in closed form; 300 draws of up to 400 margins of sizes .1 to 10^3; the worst case with equal "
    "margins at n = 2, 5, 50, 1000",
    control=Control("no sample is wrong", prepare=all_right),
)
def lemma(rng: np.random.Generator, prepare: Callable[[Array, int], Array] = with_a_wrong_sample) -> Evidence:
    m, x, a, p, total = (scalar(name, positive=True) for name in ("m", "x", "a", "p", "P"))
    above = x / a - 1 - sympy.log(x / a)
    probability = lr_gd_weights(np.array([m], dtype=object), 1).item()
    evidence = vanishes(
        [
            sympy.exp(m) - (1 - probability) / probability,
            # The tangent at a lies above the logarithm, by a function with its only minimum, 0, at a.
            above.subs(x, a),
            sympy.diff(above, x) - (x - a) / (a * x),
            # Weighted by p/P the odds (1 - p)/p leave (1 - p)/P, whose sum over n samples is (n - P)/P.
            p / total * (1 - p) / p - (1 - p) / total,
            (N - total) / total - (N / total - 1),
            # A wrong sample has p >= 1/2, at margin 0 exactly, and so has P.
            lr_gd_weights(np.array([sympy.Integer(0)], dtype=object), 1).item() - sympy.Rational(1, 2),
            (N / total - 1).subs(total, sympy.Rational(1, 2)) - (2 * N - 1),
        ],
        "steps of the proof",
    )
    ratios = []
    for _ in range(300):
        n_samples = int(rng.integers(2, 401))
        margins = 10.0 ** rng.uniform(-1, 3) * rng.standard_normal(n_samples)
        if rng.integers(2):
            margins = np.abs(margins)
        margins = prepare(margins, int(rng.integers(n_samples)))
        ratios.append(float(weighted_margin(margins) / np.log(2 * n_samples - 1)))
    return (
        evidence
        & at_most(max(ratios), 1, "largest weighted mean over ln(2n - 1)")
        & equal(
            [round(largest_weighted_margin(n), 2) for n in (2, 5, 50, 1000)],
            [0.40, 0.98, 2.60, 4.99],
            "largest with equal margins at n = 2, 5, 50, 1000",
        )
    )
