"""The limit of large steps is a perceptron, on generic data alone (L2, L3, L15)."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.dynamics.large_step_logistic.setting import digits, exact
from proofs.ledger import Control, Evidence, Figure, Series, at_least, at_most, claim, equal, figure
from proofs.properties import for_all
from proofs.symbolic import scalar, vanishes
from refimpl.dynamics.large_step_logistic import (
    batch_perceptron,
    batch_perceptron_weights,
    iterates,
    lr_gd_weights,
    normalized_batch_perceptron,
    normalized_batch_perceptron_weights,
    normalized_lr_gd_weights,
    radius,
    sample_margins,
)
from refimpl.oracle.spec import generators
from refimpl.oracle.specs.dynamics.large_step_logistic.setting import separable_sets
from refimpl.primitives.numbers import Array

Weights = Callable[[Array, int], Array]
GAMMA = scalar("gamma", positive=True)


def normalized_weights(margins: Array, step: int) -> Array:
    return normalized_batch_perceptron_weights(margins)


def without_the_half(margins: Array, step: int) -> Array:
    """A whole first step."""
    return batch_perceptron_weights(margins, 1)


def as_printed(n: int, n_wrong: int) -> int:
    r"""$\beta_t\to|S_t|$."""
    return n_wrong


def scaled_iterates(z: Array, step_size: Any, n_steps: int, weights: Any = lr_gd_weights) -> Array:
    r"""$\theta_t/\gamma$."""
    return np.asarray(iterates(z, lambda m, t: weights.unchecked(m, step_size), n_steps) / step_size)


def gaps(z: Array, step_size: float, n_steps: int, weights: Any, of_limit: Weights) -> Array:
    r"""$\lVert\theta_t/\gamma-\hat\theta_t\rVert_\infty$ for $t=0,\dots,T$."""
    return np.asarray(
        np.max(np.abs(scaled_iterates(z, step_size, n_steps, weights) - iterates(z, of_limit, n_steps)), axis=1)
    )


def sides(weights: Any) -> list[Any]:
    """The limits of the weights over the step size, where of two samples one is right and one wrong."""
    m, k = scalar("m", positive=True), scalar("k", positive=True)
    found = weights(np.array([GAMMA * m, -GAMMA * k], dtype=object), GAMMA) / GAMMA
    return [sympy.limit(one, GAMMA, sympy.oo) for one in found]


@claim(
    "large_step_logistic/L2",
    title="As the step size grows, LR+GD becomes the batch perceptron, and normalized LR+GD the normalized one",
    source="Theorem 3.2, Section 6",
    statement=r"\theta_t/\gamma\to\hat\theta_t\ \ (\gamma\to\infty)\ \text{ for every }t,\quad\text{within }"
    r"tR\,e^{-49}\text{ at }\gamma=50/\min|\hat m|",
    method="property",
    scope="the weights' limits (symbolic); 100 random separable sets of at most 24 samples, 60 steps, with 50 over "
    "their smallest margin as step size; digits 3 against 8, 72 and 43 steps at five step sizes",
    erratum="Section 6 prints that the gradient tends to the mean over the wrong samples and the normalisation beta to "
    "their number |S|. The gradient tends to minus one n-th of their sum, and beta to n/|S|; their product is what "
    "the paper uses.",
    control=[
        Control("a whole first step of the perceptron", of_limit=without_the_half),
        Control("beta's limit as printed", beta_limit=as_printed),
    ],
    requires=["sklearn"],
)
def large_steps_are_a_perceptron(
    rng: np.random.Generator,
    of_limit: Weights = batch_perceptron_weights,
    beta_limit: Callable[[int, int], Any] = lambda n, n_wrong: sympy.Rational(n, n_wrong),
) -> Evidence:
    one_of_each = np.array([sympy.Integer(1), sympy.Integer(-1)], dtype=object)
    plain, normalized = sides(lr_gd_weights), sides(normalized_lr_gd_weights)
    evidence = vanishes(
        [
            np.array(plain, dtype=object) - batch_perceptron_weights(one_of_each, 1),
            np.array(normalized, dtype=object) - normalized_batch_perceptron_weights(one_of_each),
        ],
        "limits of the weights less a perceptron's",
    ) & vanishes(normalized[1] / plain[1] - beta_limit(2, 1), "limit of beta")

    def off(z: Array) -> float:
        n_steps = batch_perceptron(z, 60).n_iterations
        decisive = np.abs(sample_margins(iterates(z, of_limit, n_steps)[1:-1], z))
        step_size = 50 / np.min(decisive, initial=50)
        return float(np.max(gaps(z, step_size, n_steps, lr_gd_weights, of_limit)) / radius(z))

    # While |m| > 49/gamma a weight is off by less than e^-49/n. Sixty steps of at most R, each a sum of 24, round by
    # less than 60^2 * 30 roundoffs of R.
    evidence &= for_all(rng, separable_sets(), off, 1e-11, quantity="random sets: largest gap over R")
    z = digits()
    found = [gaps(z, step_size, 72, lr_gd_weights, of_limit) for step_size in (1e1, 1e2, 1e3, 1e4, 1e6)]
    largest = [float(np.max(one)) for one in found]
    steps = normalized_batch_perceptron(z, 100).n_iterations
    fast = [float(np.max(gaps(z, g, steps, normalized_lr_gd_weights, normalized_weights))) for g in (1e2, 1e4, 1e6)]
    return (
        evidence
        & equal(largest, sorted(largest, reverse=True), "digits: largest gap at 10, 10^2, 10^3, 10^4, 10^6")
        & at_most(largest[-1], 1e-10, "the last of them")
        & at_most(float(found[-1][-1]), 1e-10, "digits: last gap at 10^6")
        & equal(fast, sorted(fast, reverse=True), "normalized: largest gap at 10^2, 10^4, 10^6")
        & at_most(fast[-1], 1e-10, "the last of them")
    )


@figure(
    "large_step_logistic/F1",
    title="How far LR+GD is from the batch perceptron",
    caption="Digits 3 against 8, first 72 steps. The gap falls slowly until the step size exceeds one over the "
    "smallest margin of the run, 1.4e-4, and then to roundoff.",
    answers_to="Theorem 3.2",
)
def gap_figure(rng: np.random.Generator) -> Figure:
    step_sizes = np.geomspace(1, 1e7, 29)
    found = [gaps(digits(), g, 72, lr_gd_weights, batch_perceptron_weights) for g in step_sizes]
    return Figure(
        (
            Series("largest of the first 72 steps", step_sizes.tolist(), [float(np.max(one)) for one in found]),
            Series("at step 72", step_sizes.tolist(), [max(float(one[-1]), 1e-17) for one in found], "points"),
        ),
        x_label=r"step size $\gamma$",
        y_label=r"$\Vert\theta_t/\gamma-\hat\theta_t\Vert_\infty$",
        x_scale="log",
        y_scale="log",
    )


DEGENERATE = ((1.0, 0.0), (-1.0, 2.0))


@claim(
    "large_step_logistic/L3",
    title="Where a margin of the perceptron is exactly 0 the limit is another",
    source="Assumption 3.1",
    statement=r"z=(1,0),(-1,2):\quad\hat\theta_1=(0,\tfrac12),\ \hat m_1=0,\quad\theta_2/\gamma\to(\tfrac14,\tfrac12)"
    r"\ne(\tfrac12,\tfrac12)=\hat\theta_2",
    method="symbolic",
    scope="the two samples, the shipped iteration with the step size a symbol",
    uses=["large_step_logistic/L2"],
    control=Control("samples that satisfy the assumption: (1,0), (-2,3)", samples=((1.0, 0.0), (-2.0, 3.0))),
)
def degenerate_data(samples: Any = DEGENERATE) -> Evidence:
    z = exact(np.array(samples))
    descent = scaled_iterates(z, GAMMA, 2)
    perceptron = iterates(z, batch_perceptron_weights, 2)
    limits = [sympy.limit(one, GAMMA, sympy.oo) for one in descent[2]]
    margins = sample_margins(perceptron[1], z)
    quarter, half = sympy.Rational(1, 4), sympy.Rational(1, 2)
    float_run = scaled_iterates(np.array(samples), 1e5, 2)[2]
    return (
        vanishes(descent[1] - perceptron[1], "first steps less each other")
        & equal(margins[0], 0, "margin of the first sample after one step")
        & equal(list(perceptron[2]), [half, half], "perceptron's second step")
        & equal(limits, [quarter, half], "limit of the second step of LR+GD")
        & equal(float_run.tolist(), [0.25, 0.5], "the same in floats at a step size of 10^5")
    )


@st.composite
def integer_sets(draw: st.DrawFn) -> Array:
    """Separable samples with integer entries, as fractions; a few large ones pull the mean off the others' side."""
    rng = draw(generators())
    n, d = draw(st.integers(2, 8)), draw(st.integers(2, 3))
    direction = rng.integers(1, 4, d) * rng.choice([-1, 1], d)
    z = rng.integers(-5, 6, (n, d))
    heights = z @ direction
    z = np.where(heights[:, None] == 0, direction, z * np.sign(heights)[:, None]) * rng.choice([1, 1, 1, 12], (n, 1))
    return np.array([[Fraction(int(entry)) for entry in row] for row in z], dtype=object)


@claim(
    "large_step_logistic/L15",
    title="The batch perceptron's iterates are half-integer combinations of the samples",
    source="Theorem 3.2, proof",
    statement=r"\hat\theta_t=\tfrac1n\sum_i(\tfrac12+k_i)z_i,\qquad k_i\in\mathbb N_0\ \text{ non-decreasing in }t",
    method="property",
    scope="60 separable sets of 2 to 8 integer samples in 2 or 3 dimensions, at most 12 steps, in exact rationals; the "
    "stopped run likewise",
    control=Control("a whole first step", weights=without_the_half),
)
def half_integer_combinations(rng: np.random.Generator, weights: Weights = batch_perceptron_weights) -> Evidence:
    steps = []

    def off(z: Array) -> float:
        n_steps = batch_perceptron(z, 12).n_iterations
        steps.append(n_steps)
        found = iterates(z, weights, n_steps)
        wrong = np.asarray(found @ z.T <= 0, dtype=bool)
        differences = []
        counts = np.zeros(len(z), dtype=int)
        for t in range(1, n_steps + 1):
            if t > 1:
                counts = counts + wrong[t - 1]
            halves = np.array([Fraction(1 + 2 * int(k), 2 * len(z)) for k in counts], dtype=object)
            differences.append(halves @ z - found[t])
        differences.append(batch_perceptron(z, 12).theta - found[-1])
        return float(np.sum([entry != 0 for one in differences for entry in one]))

    exact_in_all = for_all(rng, integer_sets(), off, 0, 60, "entries that differ")
    return exact_in_all & at_least(sum(taken >= 3 for taken in steps), 5, "sets that take three steps or more")
