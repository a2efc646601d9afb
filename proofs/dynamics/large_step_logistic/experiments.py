"""Digits with steps of all sizes, in balance and out of it, and where the iterates point to (L11 to L14)."""

from collections.abc import Callable

import numpy as np

from proofs.dynamics.large_step_logistic.setting import digits, threes_and
from proofs.ledger import Control, Evidence, Figure, Series, at_least, at_most, claim, equal, figure, within
from refimpl.dynamics.large_step_logistic import (
    DescentRun,
    batch_perceptron,
    batch_perceptron_weights,
    iterates,
    logistic_gradient,
    logistic_loss,
    lr_gd,
    lr_gd_weights,
    margin,
    normalized_batch_perceptron,
    normalized_lr_gd,
    normalized_margin,
    perceptron,
    sample_margins,
)
from refimpl.primitives.numbers import Array

Run = Callable[[Array, float, int], DescentRun]
STEP_SIZES = (0.1, 1.0, 10.0, 100.0, 1000.0, 1e5)
MOST = 5000


@claim(
    "large_step_logistic/L11",
    title="Larger steps mean a larger, oscillating loss, and fewer iterations to a separator",
    source="Figures 1 to 3",
    statement=r"T(\gamma)\ \text{falls to the batch perceptron's as }\gamma\text{ grows, while }"
    r"\max_tf(\theta_t)\sim\gamma",
    method="experiment",
    scope="digits 3 against 8 of scikit-learn (357 samples, 65 features), step sizes .1 to 10^5; not the paper's "
    "CIFAR-10, FashionMNIST, EuroSAT",
    uses=["large_step_logistic/L2", "large_step_logistic/L17"],
    control=Control(
        "normalized steps, whose loss grows less and which are not the batch perceptron", run=normalized_lr_gd
    ),
    requires=["sklearn"],
)
def large_steps_on_digits(run: Run = lr_gd) -> Evidence:
    runs = [run(digits(), step_size, MOST) for step_size in STEP_SIZES]
    highest = [float(np.max(one.losses)) for one in runs]
    falls = [bool(np.all(np.diff(one.losses) <= 0)) for one in runs]
    return (
        # No margin of these runs is near enough to 0 for roundoff to change a count.
        equal([one.n_iterations for one in runs], [2777, 278, 92, 69, 72, 72], "iterations at .1, 1, .., 1000, 10^5")
        & equal(batch_perceptron(digits(), MOST).n_iterations, 72, "those of the batch perceptron")
        & equal(falls, [True, True, False, False, False, False], "the loss falls all the way")
        & equal([one.solved for one in runs], [True] * 6, "every sample is right in the end")
        & within(highest[0], np.log(2) - 1e-12, np.log(2) + 1e-12, "largest loss at .1")
        & within(highest[4] / highest[3], 9, 11, "at 1000 over that at 100")
        & within(highest[5] / highest[4], 99, 101, "at 10^5 over that at 1000")
    )


def _curves(quantity: str, end: int | None = None) -> tuple[Series, ...]:
    parts = []
    for step_size in (0.1, 1.0, 10.0, 100.0, 1e5):
        found = getattr(lr_gd(digits(), step_size, MOST), quantity)[:end][:300]
        parts.append(Series(f"LR+GD, step size {step_size:g}", [float(t) for t in range(len(found))], found.tolist()))
    return tuple(parts)


def _perceptron_path() -> Array:
    """The batch perceptron's iterates, times the largest step size."""
    n_steps = batch_perceptron(digits(), MOST).n_iterations
    return 1e5 * iterates(digits(), batch_perceptron_weights, n_steps)


CAPTION = "Digits 3 against 8. "


@figure(
    "large_step_logistic/F4",
    title="Accuracy of LR+GD for steps of all sizes",
    caption=CAPTION + "The curves for step sizes from 100 on follow the batch perceptron and are the first to reach 1.",
    answers_to="Figures 1 to 3, accuracy",
)
def accuracy_figure(rng: np.random.Generator) -> Figure:
    path = _perceptron_path()
    right = np.mean(sample_margins(path, digits()) > 0, axis=1)
    limit = Series("batch perceptron", [float(t) for t in range(len(path))], right.tolist(), "points")
    return Figure((*_curves("accuracies"), limit), x_label="iteration $t$", y_label="accuracy")


@figure(
    "large_step_logistic/F5",
    title="Loss of LR+GD for steps of all sizes",
    caption=CAPTION + "The larger the step, the larger the loss and its oscillations, up to the last iterate that is "
    "wrong about a sample, where the curves end.",
    answers_to="Figures 1 to 3, loss",
)
def loss_figure(rng: np.random.Generator) -> Figure:
    path = _perceptron_path()[:-1]
    limit = Series(
        "batch perceptron, times 10^5",
        [float(t) for t in range(len(path))],
        logistic_loss(path, digits()).tolist(),
        "points",
    )
    return Figure(
        (*_curves("losses", -1), limit), x_label="iteration $t$", y_label=r"loss $f(\theta_t)$", y_scale="log"
    )


@figure(
    "large_step_logistic/F6",
    title="Gradient norm of LR+GD for steps of all sizes",
    caption=CAPTION
    + "It does not fall with the distance to a separator either: with large steps it oscillates to the end.",
    answers_to="Figures 1 to 3, gradient norm",
)
def gradient_figure(rng: np.random.Generator) -> Figure:
    path = _perceptron_path()[:-1]
    norms = np.linalg.norm(logistic_gradient(path, digits()), axis=1)
    limit = Series("batch perceptron, times 10^5", [float(t) for t in range(len(path))], norms.tolist(), "points")
    return Figure(
        (*_curves("gradient_norms", -1), limit),
        x_label="iteration $t$",
        y_label=r"$\Vert\nabla f(\theta_t)\Vert$",
        y_scale="log",
    )


@claim(
    "large_step_logistic/L12",
    title="A low loss is not a short way to go",
    source="Section 4",
    statement=r"f(\theta_{10}^{(.1)})<f(\theta_{10}^{(100)}),\qquad T^{(.1)}=2777\gg69=T^{(100)}",
    method="experiment",
    scope="digits 3 against 8, step sizes .1 and 100",
    uses=["large_step_logistic/L11"],
    control=Control("a step size of 1 in place of 100", large=1.0),
    requires=["sklearn"],
)
def low_loss_is_not_close(large: float = 100.0) -> Evidence:
    slow, fast = (lr_gd(digits(), step_size, MOST) for step_size in (0.1, large))
    return (
        at_least(float(fast.losses[10] / slow.losses[10]), 20, "loss at step 10, large step over small")
        & at_least(float(slow.n_iterations / fast.n_iterations), 40, "iterations, small step over large")
        & at_most(float(fast.losses[50] / slow.losses[50]), 0.2, "loss at step 50, large step over small")
        & at_least(
            float(np.linalg.norm(logistic_gradient(iterates_at(large, 10), digits())) / slow.gradient_norms[10]),
            1,
            "norm of the gradient at step 10, large step over small",
        )
    )


def iterates_at(step_size: float, n_steps: int) -> Array:
    return np.asarray(iterates(digits(), lambda m, t: lr_gd_weights(m, step_size), n_steps)[-1])


@figure(
    "large_step_logistic/F7",
    title="Loss at step 10 against the iterations still to go",
    caption=CAPTION
    + "One point for each step size from .1 to 10^4. The lowest losses belong to step sizes near 1; larger "
    "steps have losses higher by orders of magnitude and fewer iterations to go.",
    answers_to="Section 4",
)
def scatter_figure(rng: np.random.Generator) -> Figure:
    runs = [lr_gd(digits(), step_size, MOST) for step_size in np.geomspace(0.1, 1e4, 26)]
    return Figure(
        (
            Series(
                "step sizes .1 to 10^4",
                [float(run.losses[10]) for run in runs],
                [float(run.n_iterations - 10) for run in runs],
                "points",
            ),
        ),
        x_label=r"loss $f(\theta_{10})$",
        y_label="iterations to go, $T-10$",
        x_scale="log",
        y_scale="log",
    )


def pair_of_counts(z: Array) -> tuple[int, int]:
    """Iterations of the normalized and of the plain batch perceptron."""
    return normalized_batch_perceptron(z, MOST).n_iterations, batch_perceptron(z, MOST).n_iterations


def imbalanced(eights: Array) -> Array:
    return threes_and(eights)


def balanced(eights: Array) -> Array:
    return digits()


@claim(
    "large_step_logistic/L13",
    title="Where classes are out of balance the normalized methods need far fewer iterations",
    source="Figure 7, Table 1",
    statement=r"T_{\mathrm{Norm.}}<T_{\mathrm{Batch}},\ \text{ in the mean below }.4\,T_{\mathrm{Batch}}",
    method="experiment",
    scope="digits: all 183 threes against 1 eight (each of the 174) and 2 eights (40 random pairs); all threes ten "
    "times against 5 eights (3 random fives); the five first eights and all of them at the paper's step sizes",
    uses=["large_step_logistic/L9"],
    control=Control("threes and eights in balance", subset=balanced),
    requires=["sklearn"],
)
def imbalance(rng: np.random.Generator, subset: Callable[[Array], Array] = imbalanced) -> Evidence:
    everything, few = digits(), subset(np.arange(5))
    single = np.array([pair_of_counts(subset(np.array([i]))) for i in range(174)])
    pairs = np.array([pair_of_counts(subset(rng.choice(174, 2, replace=False))) for _ in range(40)])
    tenfold = np.array([pair_of_counts(threes_and(rng.choice(174, 5, replace=False), 10)) for _ in range(3)])

    def normalized_lr(z: Array) -> list[int]:
        return [normalized_lr_gd(z, g, MOST).n_iterations for g in (100.0, 10.0, 1.0, 0.1)]

    evidence = equal(
        [*pair_of_counts(everything), perceptron(everything, MOST).n_iterations, *normalized_lr(everything)],
        [43, 72, 108, 67, 52, 75, 179],
        "in balance: normalized, batch, single, normalized LR+GD at 100, 10, 1, .1",
    ) & equal(
        [*pair_of_counts(few), lr_gd(few, 100.0, MOST).n_iterations, *normalized_lr(few)],
        [18, 25, 24, 18, 16, 19, 45],
        "5 eights: normalized, batch, LR+GD at 100, normalized LR+GD at 100, 10, 1, .1",
    )
    for name, counts in (("1 eight", single), ("2 eights", pairs)):
        ratios = counts[:, 0] / counts[:, 1]
        evidence &= at_most(float(np.max(ratios)), 1 - 1e-9, f"{name}: largest ratio") & at_most(
            float(np.mean(ratios)), 0.4, f"{name}: mean ratio"
        )
    return evidence & at_most(
        float(np.max(tenfold[:, 0] / tenfold[:, 1])), 0.25, "threes ten times, 5 eights: largest ratio"
    )


@figure(
    "large_step_logistic/F8",
    title="Iterations against the number of eights beside 183 threes",
    caption=CAPTION + "Means over 10 random subsets. The batch perceptron suffers from a strong imbalance, the "
    "normalized one does not; from ten to a hundred eights it is the normalized one that takes somewhat more.",
    answers_to="Figure 7",
)
def imbalance_figure(rng: np.random.Generator) -> Figure:
    numbers = [1, 2, 5, 10, 30, 100]
    means = []
    for number in numbers:
        drawn = [pair_of_counts(threes_and(rng.choice(174, number, replace=False))) for _ in range(10)]
        means.append(np.mean(drawn, axis=0))
    return Figure(
        tuple(
            Series(name, [float(n) for n in numbers], [float(mean[i]) for mean in means])
            for i, name in enumerate(("normalized batch perceptron", "batch perceptron"))
        ),
        x_label="images of eights",
        y_label="iterations $T$",
        x_scale="log",
    )


THREE_SAMPLES = np.array([[1.0, 0.2], [0.3, 1.0], [2.0, -0.3]])


@claim(
    "large_step_logistic/L14",
    title="With a finite step the direction tends, slowly, to the largest margin; a perceptron's stays where it stops",
    source="Section 8, on the implicit bias",
    statement=r"\frac{\min_i\langle z_i,\theta_t\rangle}{\lVert\theta_t\rVert}\to\mu\ \ (t\to\infty)",
    method="experiment",
    scope="3 samples in the plane, 20000 steps at step sizes .5 and 5; at 500 that many do not suffice, and the batch "
    "perceptron has stopped",
    control=Control("100 steps in place of 20000", n_steps=100),
)
def slow_bias(n_steps: int = 20_000) -> Evidence:
    z = THREE_SAMPLES
    best = margin(z)
    step_sizes = np.array([[0.5], [5.0], [500.0]])
    path = iterates(z, lambda m, t: lr_gd_weights.unchecked(m, step_sizes), n_steps, np.zeros((3, 2)))
    reached = normalized_margin(path[-1], z) / best.margin
    halfway = normalized_margin(path[n_steps // 10], z) / best.margin
    stopped = normalized_margin(batch_perceptron(z, 100).theta, z) / best.margin
    return (
        at_least(float(reached[0]), 0.99, "margin over the largest, step size .5")
        & at_least(float(reached[1]), 0.99, "step size 5")
        & at_most(float(reached[2]), 0.7, "step size 500")
        & at_most(float(stopped), 0.7, "batch perceptron")
        & at_least(
            float(np.min((reached - halfway)[:2])), 1e-3, "gained by these two in the last nine tenths of the steps"
        )
    )


@figure(
    "large_step_logistic/F9",
    title="The margin of the direction of the iterates",
    caption="Three samples. Small steps approach the largest margin slowly, large ones later still: a step size of 500 "
    "has not begun to after 5000 steps. The batch perceptron has stopped at .625.",
    answers_to="Section 8",
)
def bias_figure(rng: np.random.Generator) -> Figure:
    z = THREE_SAMPLES
    best = margin(z).margin
    step_sizes = np.array([[0.5], [5.0], [500.0]])
    path = iterates(z, lambda m, t: lr_gd_weights.unchecked(m, step_sizes), 5000, np.zeros((3, 2)))
    steps = np.unique(np.geomspace(1, 5000, 60).astype(int))
    reached = normalized_margin(path[steps], z) / best
    stopped = float(normalized_margin(batch_perceptron(z, 100).theta, z) / best)
    parts = [
        Series(f"step size {g:g}", [float(t) for t in steps], reached[:, i].tolist())
        for i, g in enumerate(step_sizes[:, 0])
    ]
    parts.append(Series("batch perceptron", [1.0, 5000.0], [stopped] * 2))
    return Figure(tuple(parts), x_label="step", y_label=r"margin over the largest, $\mu$", x_scale="log")
