r"""Small networks trained: the largest usable learning rate by batch size, and the learner against fixed rates."""

import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np

from proofs.dynamics.batch_hessian.digits import seed_of
from proofs.ledger import Control, Evidence, Figure, Series, at_least, at_most, claim, figure, holds
from refimpl.dynamics.batch_hessian import (
    LanczosMomentumLearner,
    Pace,
    initial_perceptron,
    train,
)
from refimpl.primitives.curvature import mlp_curvature
from refimpl.primitives.layers import Linear
from refimpl.primitives.numbers import Array
from refimpl.primitives.optimizers import Optimizer, adam, sgd
from refimpl.primitives.training import run, training_steps
from refimpl.tasks.real_data import digit_images

BATCHES = (2, 4, 8, 16, 32, 64, 128, 256)
GRID = tuple(2.0 ** (j / 2) for j in range(-12, 5))


def mean_loss(optimizer: Optimizer, batch_size: int, rng: np.random.Generator) -> float:
    """The loss of all digits after 100 steps, 60 from batches of 64 on, in the mean of 8 runs."""
    images, labels = digit_images()

    def sample() -> tuple[Array, Array]:
        chosen = rng.permutation(len(images))[:batch_size]
        return images[chosen], labels[chosen]

    def loss_and_gradients(layers: list[Linear], batch: tuple[Array, Array]) -> tuple[Array, list[Linear]]:
        found = mlp_curvature.unchecked(layers, *batch)
        return found.loss, found.gradient

    losses = []
    for _ in range(8):
        steps = training_steps(initial_perceptron(rng), loss_and_gradients, sample, optimizer)
        layers, _ = run(steps, 60 if batch_size >= 64 else 100)
        losses.append(mlp_curvature.unchecked(layers, images, labels).loss)
    return float(np.mean(losses))


@cache
def largest_rates(batches: tuple[int, ...], seed: int) -> dict[str, Array]:
    """For SGD and Adam the largest rate of the grid that still learns, by batch size."""
    rng = np.random.default_rng(seed)
    return {
        name: np.array(
            [next(rate for rate in GRID[::-1] if mean_loss(make(rate), size, rng) < np.log(10)) for size in batches]
        )
        for name, make in (("SGD", sgd), ("Adam", adam))
    }


@claim(
    "batch_hessian/H18",
    title="The largest usable learning rate grows with the batch size and then stays",
    source="Experiments on the largest learning rate",
    statement=r"\eta_{max}(B)\text{ is non-decreasing, and constant for large }B",
    method="experiment",
    scope="a perceptron 64-32-10 on digits, SGD and Adam, batches of 2 to 256, rates 2^(j/2), usable if the loss after "
    "100 steps (60 from B = 64 on) is below ln 10 in the mean of 8 runs; not the paper's VGG-16 and WideResNet",
    uses=["batch_hessian/H11", "batch_hessian/H12"],
    cost="full",
    requires=["sklearn"],
    control=Control("batches of 256 at every size", batches=(256,) * 8),
)
def usable_rates(rng: np.random.Generator, batches: Sequence[int] = BATCHES) -> Evidence:
    evidence = Evidence(())
    for name, rates in largest_rates(tuple(batches), seed_of(rng)).items():
        steps = np.log2(rates) * 2
        shown = " ".join(f"{rate:.3g}" for rate in rates)
        evidence &= (
            holds(
                bool(np.all(np.diff(steps) >= -1.01)),
                "non-decreasing up to a step of the grid",
                shown,
                f"{name}: rates",
            )
            & at_least(float(rates[-1] / rates[0]), 2, f"{name}: last over first")
            & at_most(float(np.ptp(steps[-3:])), 1.01, f"{name}: steps between the last three")
        )
    return evidence


# --- the learner ---

RUNS = 12
Learner = LanczosMomentumLearner | Pace


@cache
def losses(learner: Learner, n_epochs: int, n_runs: int, seed: int) -> Array:
    """The loss of all digits after each epoch of batches of 128, by run; infinite once no curvature is left."""
    (images, labels), rng = digit_images(), np.random.default_rng(seed)
    found = np.full((n_runs, n_epochs), np.inf)
    for row in found:
        epochs = train(initial_perceptron(rng), images, labels, 128, learner, rng)
        try:
            for index, epoch in enumerate(itertools.islice(epochs, n_epochs)):
                row[index] = epoch.loss
        except ValueError as error:  # weights so large that the loss is flat around them
            if "positive eigenvalue" not in str(error):
                raise
    return found


@claim(
    "batch_hessian/H20",
    title="The learner beats a badly chosen rate without tuning; so that its loss never jumps it needs a safety factor",
    source="Experiments with the Lanczos learner",
    statement=r"\eta=s\Big(\frac2{\sqrt{\lambda_1'}+\sqrt{\lambda_n'}}\Big)^2,\qquad\rho=\Big(\frac{\sqrt{\lambda_1'}-"
    r"\sqrt{\lambda_n'}}{\sqrt{\lambda_1'}+\sqrt{\lambda_n'}}\Big)^2",
    method="experiment",
    scope="a perceptron 64-32-10 on digits, batches of 128, 12 runs each: losses after 5 epochs against rate 0.01 and "
    "momentum 0.9; no epoch worse than the one before at a safety of 1/4, and a mean loss below 0.2 after 8 at 1/2; "
    "not the paper's ResNet on CIFAR-100",
    uses=["batch_hessian/H8", "batch_hessian/H15"],
    requires=["sklearn"],
    control=Control("Polyak's rate itself, a safety factor of 1", careful=1.0),
)
def learner_against_fixed_rates(rng: np.random.Generator, careful: float = 0.25) -> Evidence:
    settings: list[tuple[Learner, int]] = [
        (Pace(0.01, 0.9), 5),
        (LanczosMomentumLearner(), 5),
        (LanczosMomentumLearner(safety=0.5), 8),
        (LanczosMomentumLearner(safety=careful), 8),
    ]
    fixed, untuned, halved, quartered = (
        losses(learner, n_epochs, RUNS, seed_of(rng)) for learner, n_epochs in settings
    )
    with np.errstate(invalid="ignore"):  # of a run that is lost
        growth = float(np.max(quartered[:, 1:] / quartered[:, :-1]))
    bad = float(np.mean(fixed[:, 4]))
    return (
        at_most(float(np.median(untuned[:, 4])) / bad, 1 / 3, "median loss after 5 epochs over that of a bad rate")
        & at_most(float(np.max(halved[:, 4])) / bad, 1 / 3, "largest at a safety of 1/2")
        & at_most(float(np.mean(halved[:, 7])), 0.2, "its mean loss after 8 epochs")
        & at_most(growth, 1.1, "largest ratio of successive losses")
    )


# --- figures ---


@figure(
    "batch_hessian/F3",
    title="The largest usable learning rate of a small network",
    caption="A perceptron on digits. The rates of SGD and of Adam rise with the batch size and reach a plateau; "
    "dashed, the slopes of the linear and of the square-root rule from the first points. A grid of steps of sqrt 2.",
    answers_to="the experiments on the largest learning rate",
    cost="full",
)
def usable_rates_figure(rng: np.random.Generator) -> Figure:
    found = largest_rates(BATCHES, seed_of(rng))
    sizes = [float(size) for size in BATCHES]
    parts = []
    for (name, rates), power in zip(found.items(), (1, 0.5), strict=True):
        parts.append(Series(name, sizes, rates.tolist(), "points"))
        parts.append(
            Series(f"slope {power:g}", sizes[:4], [float(rates[0] * (size / 2) ** power) for size in sizes[:4]])
        )
    return Figure(
        tuple(parts),
        x_label="batch size $B$",
        y_label=r"largest usable learning rate $\eta$",
        x_scale="log",
        y_scale="log",
    )


@figure(
    "batch_hessian/F9",
    title="The learner's loss by epoch",
    caption="A perceptron on digits, batches of 128, medians of 6 runs. The learner needs no rate; at Polyak's own "
    "rate single runs jump, with a safety factor they do not, and either is far ahead of a rate chosen badly.",
    answers_to="the experiments with the Lanczos learner",
)
def learner_figure(rng: np.random.Generator) -> Figure:
    learners: dict[str, Learner] = {
        "learner": LanczosMomentumLearner(),
        "learner, safety 1/2": LanczosMomentumLearner(safety=0.5),
        "learner, safety 1/4": LanczosMomentumLearner(safety=0.25),
        "rate 0.1, momentum 0.9": Pace(0.1, 0.9),
        "rate 0.01, momentum 0.9": Pace(0.01, 0.9),
    }
    series = []
    for title, learner in learners.items():
        found = losses(learner, 8, 6, seed_of(rng))
        series.append(Series(title, list(range(1, 9)), np.median(found, axis=0).tolist()))
        if title == "learner":
            series.append(Series("learner, worst of the runs", list(range(1, 9)), np.max(found, axis=0).tolist()))
    return Figure(tuple(series), x_label="epoch", y_label="loss of all the data", y_scale="log")
