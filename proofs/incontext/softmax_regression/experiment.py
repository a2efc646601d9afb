"""The experiment: the trained attention model comes close to one step of gradient descent."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from proofs.ledger import Control, Evidence, Figure, Series, at_least, at_most, claim, figure, within
from proofs.statistics import lies_above, lies_below, mean_interval
from proofs.symbolic import array, vanishes
from refimpl.incontext.softmax_regression import (
    AttentionTraining,
    ModelComparison,
    attention_sensitivity,
    attention_training,
    compare_models,
    grid_search_learning_rate,
    one_step_sensitivity,
    train_attention_model,
)
from refimpl.primitives.numbers import Array
from refimpl.tasks.softmax_regression import sample_softmax_tasks

Train = Callable[[int, int, np.random.Generator, AttentionTraining], tuple[Array, Array]]


class Run(NamedTuple):
    """A trained matrix beside gradient descent at its best rate, on fresh tasks."""

    comparison: ModelComparison
    diagonal_ratio: float
    """Mean diagonal of $W$ over the best rate by n."""


def run_of(n: int, d: int, rng: np.random.Generator, settings: AttentionTraining, train: Train) -> Run:
    """Train, choose the rate on 1024 tasks, compare on 512 others."""
    matrix, _ = train(n, d, rng, settings)
    rate = best_rate(n, d, rng)
    comparison = compare_models(matrix, rate, sample_softmax_tasks(512, n, d, rng))
    return Run(comparison, float(np.trace(matrix) / d / (rate / n)))


def best_rate(n: int, d: int, rng: np.random.Generator) -> float:
    return grid_search_learning_rate(sample_softmax_tasks(1024, n, d, rng), n * 2.0 ** np.arange(0, 4.01, 0.05))


def random_matrix(n: int, d: int, rng: np.random.Generator, settings: AttentionTraining) -> tuple[Array, Array]:
    """No training: a Gaussian matrix of about the norm that training reaches."""
    return 5 * rng.standard_normal((d, d)) / d**0.5, np.zeros(0)


SMALL_SIZES = ((15, 10), (40, 8), (25, 5))
# At d = 40 the noise of a batch of 16 would leave off-diagonal entries of 0.5 in W, which cost 0.1 of the cosine.
LARGE_BATCH = AttentionTraining(batch_size=64)


@claim(
    "softmax_regression/S11",
    title="A trained attention model predicts nearly what one step of gradient descent does",
    source="Experiments: prediction difference, model difference, cosine of sensitivities",
    statement=r"W\approx\tfrac\eta nI,\quad\cos\big(\partial\hat x_{SA}/\partial b,\,"
    r"\partial\hat x_{GD}/\partial b\big)\to\lVert A-\mathbf 1\bar a^\top\rVert_F/\lVert A\rVert_F\approx\sqrt{1-1/n}",
    method="experiment",
    scope="n = 25, d = 20: 12 trainings of 1200 steps, mean with its interval; (n, d) = (15, 10), (40, 8), (25, 5): 2 "
    "each, and (25, 40) with 64 tasks a step, each inside; 1024 tasks to choose the rate, 512 to compare; the ceiling "
    "of the cosine for every multiple of the identity, all n and d, by symbols",
    control=Control("a random matrix in place of the trained", train=random_matrix),
)
def attention_is_near_one_step(rng: np.random.Generator, train: Train = train_attention_model) -> Evidence:
    runs = [run_of(25, 20, rng, AttentionTraining(), train) for _ in range(12)]
    cosines = [run.comparison.cosine for run in runs]
    ratios = [run.comparison.attention_loss / run.comparison.descent_loss for run in runs]
    evidence = (
        lies_above(mean_interval(cosines), 0.93, "n = 25, d = 20: cosine")
        & lies_below(mean_interval(ratios), 1.4, "loss over gradient descent's")
        & at_most(
            float(np.mean([run.comparison.prediction_distance / run.comparison.prediction_scale for run in runs])),
            0.35,
            "distance of predictions over how far one step moves them",
        )
        & within(float(np.mean([run.diagonal_ratio for run in runs])), 0.92, 1.08, "mean diagonal of W over the rate")
    )
    others = [(n, d, AttentionTraining()) for n, d in SMALL_SIZES for _ in range(2)] + [(25, 40, LARGE_BATCH)]
    found = [run_of(n, d, rng, settings, train) for n, d, settings in others]
    return (
        evidence
        & at_least(min(run.comparison.cosine for run in found), 0.93, "other sizes: least cosine")
        & at_most(
            max(run.comparison.attention_loss / run.comparison.descent_loss for run in found), 1.4, "largest loss ratio"
        )
        & ceiling_of_the_cosine()
    )


def ceiling_of_the_cosine() -> Evidence:
    r"""With $W=wI$ and $K=I-\frac1n\mathbf 1\mathbf 1^\top$ the sensitivities are multiples of $A^\top$ and $A^\top K$.

    Their inner product is the squared norm of the latter, so the cosine is the ratio of their norms. Each column of $A$
    adds a term of its own, and two rows meet in a term.
    """
    data = array("a", (3, 1))
    identity = np.array([[1]], dtype=object)
    plain, centred = attention_sensitivity(data, identity), one_step_sensitivity(data, 3)
    return vanishes(
        [(plain * centred).sum() - (centred * centred).sum(), centred[0] - (data[:, 0] - data.sum() / 3)],
        "inner product less the squared norm",
    )


# --- during training ---

CHECKPOINTS = (1, 2, 4, 8, 16, 32, 64)
TRACKED_SIZES = ((25, 20), (15, 10), (40, 8), (25, 5), (25, 40))
Steps = Callable[[int, int, np.random.Generator], Iterator[tuple[float, Array]]]


def random_steps(n: int, d: int, rng: np.random.Generator) -> Iterator[tuple[float, Array]]:
    """Steps of Adam's size in random directions, from a random matrix."""
    matrix, _ = random_matrix(n, d, rng, AttentionTraining())
    while True:
        matrix = matrix + AttentionTraining().learning_rate * rng.choice([-1.0, 1.0], (d, d))
        yield 0.0, matrix


def tracked(
    n: int, d: int, rng: np.random.Generator, steps: Steps, checkpoints: tuple[int, ...]
) -> list[ModelComparison]:
    """The comparison at these steps of one training, all on the same 512 held-out tasks."""
    rate, held_out = best_rate(n, d, rng), sample_softmax_tasks(512, n, d, rng)
    history = itertools.islice(steps(n, d, rng), checkpoints[-1])
    return [
        compare_models(matrix, rate, held_out) for step, (_, matrix) in enumerate(history, 1) if step in checkpoints
    ]


@claim(
    "softmax_regression/S12",
    title="During training the sensitivities align and the predictions approach",
    source="Experiments: metrics over training steps",
    statement=r"\cos\ \text{rises and}\ \lVert\hat y_{GD}-\hat y_{SA}\rVert\ \text{falls with the training step}",
    method="experiment",
    scope="(n, d) = (25, 20), (15, 10), (40, 8), (25, 5), (25, 40), 2 trainings each: Spearman's rank correlation with "
    "the step over the checkpoints 1, 2, 4, ..., 64, on 512 held-out tasks; the mean over the trainings",
    control=Control("random steps from a random matrix", steps=random_steps),
)
def alignment_rises_in_training(rng: np.random.Generator, steps: Steps = attention_training) -> Evidence:
    correlations: dict[str, list[float]] = {"cosine": [], "prediction_distance": []}
    for n, d in TRACKED_SIZES * 2:
        history = tracked(n, d, rng, steps, CHECKPOINTS)
        for name, values in correlations.items():
            values.append(float(spearmanr(CHECKPOINTS, [getattr(one, name) for one in history]).statistic))
    return lies_above(mean_interval(correlations["cosine"]), 0.9, "rank correlation of the cosine") & lies_below(
        mean_interval(correlations["prediction_distance"]), -0.9, "of the distance"
    )


@figure(
    "softmax_regression/F3",
    title="Training of the attention model beside one step of gradient descent",
    caption="At n = 25, d = 20: the loss of the attention model falls from that of the uniform prediction to near that "
    "of one step of gradient descent at its best rate, while the cosine of their sensitivities rises to near its "
    "ceiling, the root of 1 - 1/n.",
    answers_to="loss curves and model comparison over training steps",
)
def training_figure(rng: np.random.Generator) -> Figure:
    checkpoints = tuple(sorted({round(1.3**k) for k in range(28)}))
    history = tracked(25, 20, rng, attention_training, checkpoints)
    steps = list(checkpoints)
    named = {
        "loss, attention model": [one.attention_loss for one in history],
        "loss, one step of gradient descent": [one.descent_loss for one in history],
        "loss, uniform prediction": [one.uniform_loss for one in history],
        "distance of the predictions": [one.prediction_distance for one in history],
        "cosine of the sensitivities": [one.cosine for one in history],
        "ceiling of the cosine": [one.cosine_ceiling for one in history],
    }
    return Figure(
        tuple(Series(title, steps, values) for title, values in named.items()),
        x_label="training step",
        y_label="loss, distance, cosine",
        x_scale="log",
        y_scale="log",
    )


@figure(
    "softmax_regression/F4",
    title="Both models over the size of the embedding",
    caption="Losses on fresh tasks for documents of 25 and 200 words. The trained attention model stays close to one "
    "step of gradient descent at its best rate at every size; both are far below the uniform prediction.",
    answers_to="loss against embedding size",
    cost="full",
)
def sweep_figure(rng: np.random.Generator) -> Figure:
    sizes = (5, 10, 20, 40)
    series = []
    for n in (25, 200):
        found = [run_of(n, d, rng, AttentionTraining(), train_attention_model).comparison for d in sizes]
        for title, name in {
            "attention model": "attention_loss",
            "one step of gradient descent": "descent_loss",
            "uniform prediction": "uniform_loss",
        }.items():
            series.append(Series(f"{title}, n = {n}", sizes, [getattr(one, name) for one in found]))
    return Figure(tuple(series), x_label="embedding size $d$", y_label="mean loss", y_scale="log")
