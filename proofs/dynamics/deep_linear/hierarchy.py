r"""Learning a hierarchy: descent from small random weights against the analytic sigmoids (Section 1.3, Figure 3)."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from proofs.ledger import Control, Evidence, Figure, Series, at_most, claim, equal, figure, within
from refimpl.dynamics.deep_linear import (
    gradient_steps,
    learning_time,
    mode_strengths,
    mode_trajectory,
    small_random_init,
    tanh_gradient_steps,
    tanh_mode_strengths,
)
from refimpl.primitives.numbers import Array
from refimpl.tasks.hierarchy import hierarchical_correlation, hierarchical_dataset

DEPTH, N_FEATURES, FLIP = 5, 1000, 0.1
N_ITEMS, N_HIDDEN = 2**DEPTH, 32
RATE, ASSUMED_START, STD = 0.5e-3, 1e-6, 1e-4
PLOTTED = (1, 2, 3, 5, 12, 18, 31)
N_STEPS, N_SEEDS = 2000, 6


class Run(NamedTuple):
    """Items in one-hot code, outputs in the basis of the data's singular vectors, and weights to start from.

    Descent commutes with a rotation of the outputs. In the basis of the 32 singular vectors, and beyond them of what
    the second layer's random start spans, all but 64 of the 1000 outputs are and stay 0.
    """

    strengths: Array
    v: Array
    outputs: Array
    weights: list[Array]


def start(rng: np.random.Generator) -> Run:
    features = hierarchical_dataset(DEPTH, N_FEATURES, FLIP, rng)
    u, s, vt = np.linalg.svd(features, full_matrices=False)
    w21, w32 = small_random_init((N_ITEMS, N_HIDDEN, N_FEATURES), STD, rng)
    seen = u.T @ w32
    beyond = np.linalg.qr(w32 - u @ seen, mode="r")
    outputs = np.concatenate([s[:, None] * vt, np.zeros((N_HIDDEN, N_ITEMS))])
    return Run(s, vt.T, outputs, [w21, np.concatenate([seen, beyond])])


def basis() -> Array:
    """The output singular vectors in their own basis."""
    return np.eye(N_ITEMS + N_HIDDEN, N_ITEMS)


def recorded(run: Run, steps: Iterator[list[Array]], measure: Callable[[list[Array]], Array], n_steps: int) -> Array:
    return np.array([measure(weights) for weights in [run.weights, *itertools.islice(steps, n_steps)]])


def linear_strengths(run: Run, n_steps: int = N_STEPS) -> Array:
    """Mode strengths before and after each step, shape (n_steps + 1, 32)."""
    steps = gradient_steps(run.weights, np.eye(N_ITEMS), run.outputs, RATE)
    u = basis()
    return recorded(run, steps, lambda weights: mode_strengths.unchecked(weights, u, run.v), n_steps)


def half_times(history: Array, strengths: Array) -> Array:
    """The step, interpolated, at which each mode has learned half its strength."""
    late = np.argmax(history >= strengths / 2, axis=0)
    modes = np.arange(len(strengths))
    after, before = history[late, modes], history[late - 1, modes]
    return late - (after - strengths / 2) / (after - before)


def growing_part(run: Run) -> Array:
    r"""$\frac14\lVert a^\alpha+b^\alpha\rVert^2$ at the start: what of a random start grows, as a strength."""
    total = run.weights[0] @ run.v + run.weights[1][:N_ITEMS].T
    return np.asanyarray(np.sum(total * total, axis=0) / 4)


def logistic_half_time(strengths: Array, starts: Array) -> Array:
    r"""The half time of discrete descent: $e^{2s\lambda}$ a step is $(1+\lambda s)^2$ where the mode is small."""
    return np.asanyarray(np.log(strengths / starts - 1) / (2 * np.log1p(RATE * strengths)))


def at_half_the_rate(strengths: Array, starts: Array) -> Array:
    return 2 * logistic_half_time(strengths, starts)


@claim(
    "deep_linear/K11",
    title="From small random weights modes are learned as the sigmoids say, a modest fraction later, strong ones first",
    source="Section 1.3, Figure 3 (right)",
    statement=r"t_{1/2}^\alpha=\frac{\ln(s_\alpha/u_0-1)}{2\ln(1+\lambda s_\alpha)},\qquad "
    r"u_0=\tfrac14\lVert a^\alpha(0)+b^\alpha(0)\rVert^2",
    method="experiment",
    scope="the paper's setting: a binary tree of 32 items and 1000 features that flip with probability 0.1, 32 hidden "
    "units, rate 0.0005, start of standard deviation 10^-4, modes 1, 2, 3, 5, 12, 18, 31; means over 6 draws of data "
    "and start",
    uses=["deep_linear/K4"],
    control=Control("rate s in place of 2s", predict=at_half_the_rate),
)
def small_random_start(
    rng: np.random.Generator, predict: Callable[[Array, Array], Array] = logistic_half_time
) -> Evidence:
    plotted = np.array(PLOTTED) - 1
    excess, ratios, in_order, tree = [], [], [], []
    eigenvalues = np.sort(np.linalg.eigvalsh(hierarchical_correlation(DEPTH, FLIP)))[::-1]
    for _ in range(N_SEEDS):
        run = start(rng)
        seen = half_times(linear_strengths(run), run.strengths)[plotted]
        strengths = run.strengths[plotted]
        assumed = learning_time(strengths, ASSUMED_START, strengths / 2, 2, 1 / RATE)
        excess.append(seen / assumed)
        ratios.append(seen / predict(strengths, growing_part(run)[plotted]))
        in_order.append(bool(np.all(np.diff(seen) > 0)))
        # Singular values within a level of the tree are one number, which 1000 features know to a few percent.
        levels = np.split(run.strengths**2 / N_FEATURES / eigenvalues, (1, 2, 4, 8, 16))
        tree.append([np.sqrt(np.mean(level)) - 1 for level in levels])
    late, ratio = np.mean(excess, axis=0), np.mean(ratios, axis=0)
    return (
        at_most(float(np.max(np.abs(np.mean(tree, axis=0)))), 0.05, "levels of singular values off the tree's by")
        & equal(in_order, [True] * N_SEEDS, "stronger modes first")
        & within(float(np.min(late)), 1, 1.5, "over the time from u0 = 10^-6, least")
        & within(float(np.max(late)), 1, 1.5, "most")
        & within(float(np.min(ratio[:5])), 0.98, 1.06, "modes 1 to 12 over the time from their own start, least")
        & within(float(np.max(ratio[:5])), 0.98, 1.06, "most")
        & within(float(ratio[5]), 0.98, 1.15, "mode 18")
        & within(float(ratio[6]), 1, 1.5, "mode 31, which still competes")
    )


@figure(
    "deep_linear/F1",
    title="Mode strengths while a hierarchy is learned",
    caption="Each mode rises in a step of its own, the stronger the sooner. Descent from small random weights follows "
    "the analytic sigmoid from its own growing part; a tanh network learns the same modes in the same order.",
    answers_to="Figure 3",
)
def strengths_figure(rng: np.random.Generator) -> Figure:
    run, n_steps, shown = start(rng), 1400, (1, 3, 12, 31)
    linear = linear_strengths(run, n_steps)
    items, u = np.eye(N_ITEMS), basis()
    steps = tanh_gradient_steps(run.weights, items, run.outputs.T, RATE)
    saturating = recorded(run, steps, lambda weights: tanh_mode_strengths(weights, items, u, run.v), n_steps)
    kept = np.arange(0, n_steps + 1, 10)
    starts = growing_part(run)
    parts: list[Any] = []
    for mode in shown:
        s = run.strengths[mode - 1]
        analytic = mode_trajectory(kept * 1.0, s, starts[mode - 1], 2, 1 / RATE)
        parts += [
            Series(f"mode {mode}, analytic", kept.tolist(), analytic.tolist()),
            Series(f"mode {mode}, linear network", kept[::4].tolist(), linear[kept[::4], mode - 1].tolist(), "points"),
            Series(f"mode {mode}, tanh network", kept.tolist(), saturating[kept, mode - 1].tolist(), "steps"),
        ]
    return Figure(tuple(parts), x_label="step", y_label="mode strength $u$")
