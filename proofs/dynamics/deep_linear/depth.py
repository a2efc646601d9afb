r"""Depth on real images: orthogonal against Gaussian weights, and pretraining (Section 3, Figures 5 and 6)."""

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from proofs.ledger import Control, Evidence, Figure, Series, at_least, at_most, claim, figure, within
from refimpl.dynamics.deep_linear import (
    gradient_steps,
    greedy_pretraining,
    loss,
    orthogonal_init,
    pretraining_consistency,
    scaled_gaussian_init,
    small_random_init,
)
from refimpl.primitives.numbers import Array
from refimpl.tasks.real_data import digit_images

Draw = Callable[[tuple[int, ...], np.random.Generator], Array]
RATES = np.logspace(-3, 0, 10)
CAP = 600


class Task(NamedTuple):
    """Correlations as means over the examples, and the loss that descent must reach."""

    sigma_11: Array
    sigma_31: Array
    trace_yy: float

    def threshold(self) -> float:
        """A tenth of what can be gained left, from an output of zero."""
        zero, best = self.trace_yy / 2, self.least()
        return best + 0.1 * (zero - best)

    def least(self) -> float:
        """The loss of least squares."""
        solution = self.sigma_31 @ np.linalg.pinv(self.sigma_11, rcond=1e-10, hermitian=True)
        return float(loss([solution], self.sigma_11, self.sigma_31, self.trace_yy))


@cache
def digits(centred: bool = False) -> Task:
    images, labels = digit_images()
    targets = np.eye(10)[labels]
    if centred:
        images, targets = images - images.mean(axis=0), targets - targets.mean(axis=0)
    n = len(images)
    sigma_11 = images.T @ images / n
    return Task((sigma_11 + sigma_11.T) / 2, targets.T @ images / n, float(np.sum(targets**2) / n))


def widths(n_weights: int) -> list[int]:
    return [64] * n_weights + [10]


def steps_to_learn(weights: Sequence[Array], task: Task, rate: float, cap: int) -> int:
    """Steps until the loss is at the threshold; the cap if it is not by then, or diverges."""
    threshold, start = task.threshold(), task.trace_yy
    with np.errstate(over="ignore", invalid="ignore"):
        for step, current in enumerate(gradient_steps(weights, *task[:2], rate), 1):
            value = float(loss.unchecked(current, *task)) if np.all(np.isfinite(current[-1])) else np.inf
            if value <= threshold or step >= cap:
                return step
            if value > 100 * start:
                return cap
    raise AssertionError("descent has no end")


def fewest_steps(weights: Sequence[Array], task: Task, rates: Any = RATES, cap: int = CAP) -> int:
    """The best rate's steps; a rate that has not learned by the best so far is given up."""
    best = cap
    for rate in rates[::-1]:
        best = min(best, steps_to_learn(weights, task, float(rate), best))
    return best


def network(draw: Draw, n_weights: int, rng: np.random.Generator) -> list[Array]:
    return [draw((after, before), rng) for before, after in itertools.pairwise(widths(n_weights))]


DEPTHS, N_SEEDS = (2, 5, 10, 20, 40), 3


@claim(
    "deep_linear/K17",
    title="From orthogonal weights the time to learn does not grow with depth, from scaled Gaussian ones it does",
    source="Section 3, Figure 6A",
    statement=r"T_n^{orth}=O(1),\qquad T_n^{Gauss}\text{ grows until descent fails}",
    method="experiment",
    scope="scikit-learn's digits in place of MNIST, widths 64, .., 64, 10, the best of 10 rates from 10^-3 to 1, at "
    "most 600 steps to a tenth of the gain left; 3 seeds, n = 2 to 40",
    uses=["deep_linear/K15"],
    cost="full",
    requires=["sklearn"],
    control=Control("Gaussian weights in place of orthogonal ones", orthogonal=scaled_gaussian_init),
)
def depth_on_digits(rng: np.random.Generator, orthogonal: Draw = orthogonal_init) -> Evidence:
    task = digits()
    seeds = [[fewest_steps(network(orthogonal, n, rng), task) for n in DEPTHS] for _ in range(N_SEEDS)]
    worst = np.max(seeds, axis=0)
    gaussian = np.array(
        [[fewest_steps(network(scaled_gaussian_init, n, rng), task) for n in DEPTHS] for _ in range(N_SEEDS)]
    )
    growth = np.mean(gaussian / gaussian[:, :1], axis=0)
    return (
        at_most(float(worst[-1] / worst[0]), 1, "orthogonal steps at n = 40 over those at 2")
        & at_most(float(np.max(worst)), CAP / 2, "most orthogonal steps")
        & at_least(float(growth[2]), 1.5, "Gaussian steps at n = 10 over those at 2, mean")
        & at_least(float(growth[3]), 2.5, "at n = 20, mean")
        & at_least(float(growth[4]), 3, "at n = 40, mean")
        & at_least(float(np.min(gaussian[:, 4]) / worst[4]), 5, "fewest Gaussian over most orthogonal steps at n = 40")
    )


@figure(
    "deep_linear/F6",
    title="Steps to learn digits against depth",
    caption="From orthogonal weights deeper networks are no slower. From Gaussian weights steps grow with depth, up to "
    "the cap of 600 where no rate learns. The best of 10 rates at each depth, one draw.",
    answers_to="Figure 6A",
    cost="full",
)
def depth_figure(rng: np.random.Generator) -> Figure:
    task, depths = digits(), DEPTHS[:-1]
    parts = []
    for title, draw in (("orthogonal", orthogonal_init), ("Gaussian", scaled_gaussian_init)):
        counts = [float(fewest_steps(network(draw, n, rng), task)) for n in depths]
        parts.append(Series(title, depths, counts, "points"))
    return Figure(tuple(parts), x_label="matrices $n$", y_label="steps", x_scale="log", y_scale="log")


# --- pretraining ---


def off_the_manifold(encoder: Array, v: Array) -> float:
    r"""The share of $V^\top W^\top WV$ beside its diagonal: 0 if the layer's input modes are the task's."""
    gram = v.T @ encoder.T @ encoder @ v
    return float(1 - np.sum(np.diagonal(gram) ** 2) / np.sum(gram**2))


def orthonormal_like(rng: np.random.Generator, task: Task) -> Array:
    """The task's correlations with its input singular vectors replaced by random ones."""
    u, s, vt = np.linalg.svd(task.sigma_31, full_matrices=False)
    return np.asanyarray((u * s) @ orthogonal_init(vt.shape, rng))


def own(rng: np.random.Generator, task: Task) -> Array:
    return task.sigma_31


@claim(
    "deep_linear/K18",
    title="Pretraining leads onto the decoupled manifold if the task's singular vectors are the inputs' axes",
    source="Section 3, Eq. 18, Figure 5",
    statement=r"W^{21}\to RM^{1/2}Q^\top;\qquad V^\top\Sigma^{11}V\approx\text{diagonal}",
    method="experiment",
    scope="digits, uncentred and centred, against 200 random sets of vectors; four matrices of width 64, each hidden "
    "one pretrained for 400 steps at rate 0.08 from standard deviation 0.05, then rate 0.215 and the best of 13 from "
    "0.1 to 1, 2 draws; 6 inputs whose axes are the task's vectors or are not, after 180 and 2000 steps",
    erratum="The paper prints the criterion as V Sigma^11 V^T. With the singular vectors in the columns of V, as its "
    "SVD has them, that is not diagonal where pretraining helps; V^T Sigma^11 V is. And a layer pretrained to the end "
    "is a rotation (M = I), on the manifold of every task: the criterion decides only before that.",
    requires=["sklearn"],
    control=Control("random singular vectors for the task", correlate=orthonormal_like),
)
def pretraining(rng: np.random.Generator, correlate: Callable[[np.random.Generator, Task], Array] = own) -> Evidence:
    raw, centred = digits(), digits(True)
    consistency = [float(pretraining_consistency(task.sigma_11, correlate(rng, task))) for task in (raw, centred)]
    by_chance = np.array(
        [
            [float(pretraining_consistency(task.sigma_11, orthonormal_like(rng, task))) for task in (raw, centred)]
            for _ in range(200)
        ]
    )
    axes, other = orthogonal_init((2, 6, 6), rng)
    variances = np.array([3.0, 2.0, 1.4, 0.9, 0.5, 0.25])
    sigma_11 = (axes * variances) @ axes.T
    sigma_11 = (sigma_11 + sigma_11.T) / 2
    early, late = (greedy_pretraining(sigma_11, [6, 6], 0.05, n_steps, 1e-5, rng)[0] for n_steps in (180, 2000))
    printed = axes @ sigma_11 @ axes.T
    beside = 1 - np.sum(np.diagonal(printed) ** 2) / np.sum(printed**2)
    task = Task(raw.sigma_11, correlate(rng, raw), raw.trace_yy)
    pretrained: list[list[int]] = []
    from_scratch: list[list[int]] = []
    for _ in range(2):
        # Where an autoencoder has learned, descent is stable up to the rate 1/lambda_1 = 0.096.
        encoders = greedy_pretraining(raw.sigma_11, [64] * 4, 0.08, 400, 0.05, rng)
        starts = [*encoders, *small_random_init([64, 10], 0.05, rng)], small_random_init(widths(4), 0.05, rng)
        for weights, found in zip(starts, (pretrained, from_scratch), strict=True):
            found.append([fewest_steps(weights, task, rates) for rates in (RATES[7:8], np.logspace(-1, 0, 13))])
    ratio = np.mean(np.array(pretrained) / np.array(from_scratch), axis=0)
    total = np.min((1200 + np.array(pretrained)) / np.array(from_scratch))
    return (
        at_least(consistency[0], 0.999, "consistency of digits")
        & at_least(consistency[1], 0.95, "of centred digits")
        & within(float(np.mean(by_chance[:, 0])), 0.25, 0.45, "of random vectors, mean")
        & at_most(float(np.max(by_chance[:, 0])), 0.9, "most")
        & within(float(np.mean(by_chance[:, 1])), 0.6, 0.8, "of random vectors, centred, mean")
        & at_most(float(np.max(by_chance[:, 1])), 0.95, "most")
        & at_most(off_the_manifold(early, axes), 1e-3, "pretrained layer off the manifold of a task with its axes")
        & at_least(off_the_manifold(early, other), 0.05, "of a task with others")
        & at_most(off_the_manifold(late, other), 1e-3, "of a task with others, pretrained to the end")
        & at_least(float(beside), 0.01, "printed criterion beside the diagonal where pretraining is ideal")
        & at_most(float(ratio[0]), 0.5, "steps after pretraining over those from scratch at rate 0.215, mean")
        & at_most(float(ratio[1]), 0.75, "at the best rate, mean")
        & at_least(float(total), 1, "with the steps of pretraining, least")
    )
