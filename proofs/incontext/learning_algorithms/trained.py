r"""What trained learners resemble (Sections 4.2 and 4.3, Figures 1 to 3), at a scale that a core trains in minutes.

Learners of width 32 with 4 heads see up to eight examples of two inputs; the paper's have 16 blocks of width 512 and 40
examples of eight. MSPD is SPD at fewer examples than inputs, one here, where infinitely many weights fit and what is
best depends on the noise most.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from proofs.ledger import Control, Evidence, Figure, Matrix, Series, at_most, claim, equal, figure
from proofs.statistics import FALSE_ALARM, lies_above, lies_below, mean_interval
from refimpl.incontext.learning_algorithms import (
    Learner,
    gd_weights,
    initial_learner,
    knn_predict,
    learner_predictions,
    linear_predictor,
    one_layer_rate,
    online_predictions,
    sample_prompts,
    sgd_weights,
    train_learner,
)
from refimpl.incontext.learning_algorithms.regression import Predictor
from refimpl.primitives.least_squares import ols_weights, ridge_weights
from refimpl.primitives.numbers import Array

N_INPUTS, N_POINTS = 2, 8
NOISE_VARIANCES = (0, 1 / 16, 1 / 9, 1 / 4, 4 / 9)


def run_seed(rng: np.random.Generator) -> int:
    """The seed of the whole run, which a claim's generator has in common with all others'."""
    return int(np.atleast_1d(rng.bit_generator.seed_seq.entropy)[0])  # type: ignore[attr-defined]


@cache
def trained(seed: int, index: int, noise_var: float, n_blocks: int, n_steps: int) -> Learner:
    """The training run of this index, the same for all claims and figures of a process, in float32."""
    rng = np.random.default_rng([seed, index])
    learner = initial_learner(N_POINTS, N_INPUTS, n_blocks, 32, 4, rng)
    return train_learner(
        learner,
        lambda rng: sample_prompts(64, N_POINTS, N_INPUTS, rng, noise_std=noise_var**0.5, dtype=np.float32),
        n_steps,
        rng,
        learning_rate=3e-3,
    )


def best_single_step(x: Array, y: Array) -> Array:
    """One gradient step at the rate that is best for this number of examples, without noise."""
    return gd_weights(x, y, one_layer_rate(x.shape[-2], x.shape[-1], 0, 1) / 2)


RIVALS: dict[str, Predictor] = {
    "ridge(0.1)": linear_predictor(ridge_weights, penalty=0.1),
    **{f"SGD({rate})": linear_predictor(sgd_weights, learning_rate=rate) for rate in (0.01, 0.02, 0.03)},
    **{f"GD({rate})": linear_predictor(gd_weights, learning_rate=rate) for rate in (0.01, 0.02, 0.03)},
    "best GD step": linear_predictor(best_single_step),
    "3 nearest neighbours": lambda x, y, x_query: knn_predict(x, y, x_query, power=0),
    "weighted neighbours": knn_predict,
}


def ridge_or_limit(penalty: float) -> Predictor:
    """Ridge regression, at penalty 0 its limit."""
    return linear_predictor(ridge_weights, penalty=penalty) if penalty else linear_predictor(ols_weights)


def squared_differences(
    rng: np.random.Generator,
    learner: Learner,
    predictors: dict[str, Predictor],
    noise_var: float = 0,
    n_tasks: int = 20_000,
    n_points: int = N_POINTS,
) -> dict[str, Array]:
    """SPD / d of the learner and each algorithm: by fresh prompt, and by number of examples from one on."""
    tasks = sample_prompts(n_tasks, n_points, N_INPUTS, rng, noise_std=noise_var**0.5)
    # In the precision that it was trained in.
    answers = learner_predictions(tasks.x.astype(np.float32), tasks.y.astype(np.float32), learner)[:, 1:]
    return {
        name: (answers - online_predictions(predictor, tasks.x, tasks.y)) ** 2 / N_INPUTS
        for name, predictor in predictors.items()
    }


SCALE = (
    "d = 2, 8 examples, width 32 with 4 heads, Adam on 64 prompts a step (the paper: d = 8, 40 examples, 16 blocks of "
    "width 512, 500 000 steps)"
)


@claim(
    "learning_algorithms/K13",
    title="A learner trained without noise agrees with least squares, not with ridge(0.1), gradient descent or "
    "neighbours",
    source="Figure 1",
    statement=r"\tfrac1d\mathrm{SPD}(T_\theta,\mathrm{OLS})<0.01,\quad "
    r"\mathrm{MSPD}(T_\theta,\mathrm{OLS})<\mathrm{MSPD}(T_\theta,A)\text{ and }"
    r"\mathrm{SPD}(T_\theta,\mathrm{OLS})<\mathrm{SPD}(T_\theta,A)",
    method="experiment",
    scope=f"{SCALE}; 4 blocks, 10 000 steps, 2 seeds, each judged on 20 000 prompts at a false-alarm rate of 10^-6 "
    "over all rivals; SPD is the mean over 1 to 7 examples (0.02 at two, where the inputs may be nearly dependent), "
    "MSPD that of one",
    control=[
        Control("a learner of one block", n_blocks=1),
        Control("training stopped after 500 steps", n_steps=500),
    ],
    cost="full",
)
def least_squares_without_noise(rng: np.random.Generator, n_blocks: int = 4, n_steps: int = 10_000) -> Evidence:
    n_seeds = 2
    spd, mspd, gaps = [], [], []
    for index in range(n_seeds):
        learner = trained(run_seed(rng), index, 0, n_blocks, n_steps)
        differences = squared_differences(rng, learner, RIVALS | {"least squares": linear_predictor(ols_weights)})
        own = differences.pop("least squares")
        spd.append(mean_interval(own.mean(axis=1), FALSE_ALARM / (4 * n_seeds)))
        mspd.append(mean_interval(own[:, 0], FALSE_ALARM / (4 * n_seeds)))
        alarm = FALSE_ALARM / (4 * n_seeds * len(RIVALS))
        for rival in differences.values():
            excess = rival - own
            gaps += [mean_interval(excess.mean(axis=1), alarm), mean_interval(excess[:, 0], alarm)]
    worst_spd, worst_mspd = (max(intervals, key=lambda interval: interval.high) for intervals in (spd, mspd))
    least = min(gaps, key=lambda interval: interval.low)
    return (
        lies_below(worst_spd, 0.01, "largest SPD / d to least squares")
        & lies_below(worst_mspd, 0.01, "largest MSPD / d to least squares")
        & lies_above(least, 0, "least excess of a rival's SPD / d or MSPD / d")
    )


def mspd_by_noise(rng: np.random.Generator, n_steps: int, penalty: Callable[[float], float]) -> tuple[Array, list[Any]]:
    """MSPD / d to ridge regression, at the penalty of each noise level (rows), of learners trained at each (columns),
    on prompts with their noise; and the intervals of its excess over the diagonal.

    Least squares has no finite expectation at one noisy example of two inputs, so that its row is left out of the
    intervals; its mean over any number of prompts only errs on the small side.
    """
    means, excess = np.zeros((5, 5)), []
    for column, noise_var in enumerate(NOISE_VARIANCES):
        learner = trained(run_seed(rng), 0, noise_var, 2, n_steps)
        predictors = {str(row): ridge_or_limit(penalty(other)) for row, other in enumerate(NOISE_VARIANCES)}
        differences = squared_differences(rng, learner, predictors, noise_var, 50_000, n_points=2)
        means[:, column] = [difference[:, 0].mean() for difference in differences.values()]
        excess += [
            mean_interval(differences[str(row)][:, 0] - differences[str(column)][:, 0], FALSE_ALARM / 16)
            for row in range(1, 5)
            if row != column
        ]
    return means, excess


@claim(
    "learning_algorithms/K14",
    title="A learner trained with noise is closest to ridge regression at the ratio of the variances, the Bayes "
    "predictor",
    source="Figure 2",
    statement=r"\arg\min_\lambda\mathrm{MSPD}(T_\theta,\mathrm{ridge}(\lambda))=\sigma^2/\tau^2",
    method="experiment",
    scope=f"{SCALE}; 2 blocks, 10 000 steps, one seed for each of the paper's noise levels 0, 1/16, 1/9, 1/4, 4/9, "
    "each against the five penalties of the same numbers on 50 000 prompts at a false-alarm rate of 10^-6 over all",
    control=[
        Control("the ratio of the standard deviations for the penalty", penalty=lambda ratio: ratio**0.5),
        Control("training stopped after 500 steps", n_steps=500),
    ],
    uses=["learning_algorithms/K8"],
    cost="full",
)
def ridge_at_the_noise(
    rng: np.random.Generator, n_steps: int = 10_000, penalty: Callable[[float], float] = lambda ratio: ratio
) -> Evidence:
    means, excess = mspd_by_noise(rng, n_steps, penalty)
    least = min(excess, key=lambda interval: interval.low)
    return (
        equal(means.argmin(axis=0).tolist(), list(range(5)), "closest penalty at each noise level")
        & lies_above(least, 0, "least excess of another penalty's MSPD / d")
        & at_most(float(means.diagonal().max()), 0.01, "largest MSPD / d to the Bayes predictor")
    )


# --- depth ---

DESCENT_STEPS = {"one step": (1, 2, 4), "ridge": (8, 64, 256), "least squares": (4096,)}


@cache
def descent_distances(seed: int, ridge: Callable[..., Array]) -> dict[int, Array]:
    r"""The mean of $\lVert w-w'\rVert^2$ after so many gradient steps from 0, for each of 5 sets of tasks, to one step,
    ridge(0.1) and least squares: over 1 to 16 examples of 8 inputs without noise, 50 tasks of each number."""
    rng = np.random.default_rng([seed, 15])
    steps = [count for counts in DESCENT_STEPS.values() for count in counts]
    distances = {count: np.zeros((5, 3)) for count in steps}
    for n in range(1, 17):
        tasks = sample_prompts(250, n, 8, rng)
        x, y = tasks.x, tasks.y
        references = gd_weights(x, y, 0.01), ridge(x, y, penalty=0.1), ols_weights(x, y)
        weights, taken = np.zeros((250, 8)), 0
        for count in steps:
            weights = gd_weights(x, y, 0.01, initial_weights=weights, n_steps=count - taken)
            taken = count
            for which, reference in enumerate(references):
                missed = ((weights - reference) ** 2).sum(axis=1)
                distances[count][:, which] += missed.reshape(5, 50).mean(axis=1) / 16
    return distances


def without_penalty(x: Array, y: Array, penalty: float) -> Array:
    return ols_weights(x, y)


def nearer_than_others(distances: Array, which: int) -> float:
    """The largest ratio of the distance to one reference to that to the nearest of the others."""
    others = np.delete(distances, which, axis=-1).min(axis=-1)
    return float(np.max(distances[..., which] / others))


@claim(
    "learning_algorithms/K15",
    title="With more layers a learner goes from a gradient step over ridge regression to least squares",
    source="Figure 3",
    statement=r"w_k,\ k\text{ gradient steps: nearest to }w_1\text{ for }k\le4,\ \mathrm{ridge}(0.1)\text{ for }"
    r"k=8,\dots,256,\ \mathrm{OLS}\text{ for }k=4096;\quad T_\theta\text{: ridge with 1 block, OLS with 4}",
    method="experiment",
    scope="steps of gradient descent for layers: d = 8, rate 0.01, no noise, 1 to 16 examples, 50 tasks of each number "
    f"in each of 5 sets. Trained learners of 1 and 4 blocks: {SCALE}, 10 000 steps, on 20 000 prompts at a false-alarm "
    "rate of 10^-6; at this size one block is nearer to ridge than to the best gradient step already. Widths, and 8 "
    "and more layers at d = 8, are not covered",
    uses=["learning_algorithms/K9"],
    control=[
        Control("ridge without penalty leaves no middle phase", ridge=without_penalty),
        Control("one block for four", deep=1),
    ],
    cost="full",
)
def phases_of_depth(rng: np.random.Generator, ridge: Callable[..., Array] = ridge_weights, deep: int = 4) -> Evidence:
    distances = descent_distances(run_seed(rng), ridge)
    ratios = [
        nearer_than_others(distances[count], which)
        for which, counts in enumerate(DESCENT_STEPS.values())
        for count in counts
    ]
    # Ratios of exactly 1 are ties, which no phase has.
    evidence = at_most(max(ratios), 1 - 1e-9, "largest ratio of distances, nearest over second, of gradient descent")
    references = {
        "step": linear_predictor(best_single_step),
        "ridge": linear_predictor(ridge_weights, penalty=0.1),
        "least squares": linear_predictor(ols_weights),
    }
    for n_blocks, nearest in ((1, "ridge"), (deep, "least squares")):
        learner = trained(run_seed(rng), 0, 0, n_blocks, 10_000)
        differences = {
            name: values.mean(axis=1) for name, values in squared_differences(rng, learner, references).items()
        }
        own = differences.pop(nearest)
        gaps = [mean_interval(other - own, FALSE_ALARM / 4) for other in differences.values()]
        least = min(gaps, key=lambda interval: interval.low)
        evidence &= lies_above(least, 0, f"{n_blocks} blocks, excess of the SPD / d to others over that to {nearest}:")
    return evidence


# --- figures ---


@figure(
    "learning_algorithms/F4",
    title="Gradient descent passes ridge regression on its way to least squares",
    caption="Each curve is the distance of the weights after k gradient steps to a reference: nearest is one step "
    "first, then ridge(0.1), and least squares in the end.",
    answers_to="Figure 3",
)
def phases_by_steps(rng: np.random.Generator) -> Figure:
    distances = descent_distances(run_seed(rng), ridge_weights)
    counts = list(distances)
    curves = np.stack([distances[count].mean(axis=0) for count in counts])
    return Figure(
        (
            Series("one step", counts[1:], curves[1:, 0].tolist()),  # which is at distance 0 from itself
            Series("ridge(0.1)", counts, curves[:, 1].tolist()),
            Series("least squares", counts, curves[:, 2].tolist()),
        ),
        "gradient steps $k$",
        "mean squared distance of the weights",
        "log",
        "log",
    )


@figure(
    "learning_algorithms/F6",
    title="How far a trained learner is from each algorithm",
    caption="The learner of 4 blocks, trained without noise, stays near least squares at every number of examples; "
    "without as many examples as inputs (n = 1 of d = 2) all others are far, and nearest neighbours always.",
    answers_to="Figure 1",
    cost="full",
)
def distance_of_the_learner(rng: np.random.Generator) -> Figure:
    predictors = {name: RIVALS[name] for name in ("ridge(0.1)", "SGD(0.03)", "best GD step", "weighted neighbours")}
    learner = trained(run_seed(rng), 0, 0, 4, 10_000)
    differences = squared_differences(rng, learner, predictors | {"least squares": linear_predictor(ols_weights)})
    counts = list(range(1, N_POINTS))
    parts = tuple(Series(name, counts, values.mean(axis=0).tolist()) for name, values in differences.items())
    return Figure(parts, "examples $n$", "SPD / d", y_scale="log")


@figure(
    "learning_algorithms/F7",
    title="Trained at each noise level, and the ridge penalty that fits",
    caption="The MSPD / d over the least of its column, in decades: each learner is closest to ridge regression at its "
    "own ratio of variances, a dark diagonal.",
    answers_to="Figure 2",
    cost="full",
)
def penalty_that_fits(rng: np.random.Generator) -> Figure:
    means, _ = mspd_by_noise(rng, 10_000, lambda ratio: ratio)
    labels = "0, 1/16, 1/9, 1/4, 4/9"
    return Figure(
        (
            Matrix(
                "log10 of MSPD over the column's least",
                np.log10(means / means.min(axis=0)),
                f"penalty {labels}",
                f"noise {labels}",
            ),
        )
    )
