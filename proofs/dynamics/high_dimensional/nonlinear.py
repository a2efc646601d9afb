"""Nonlinear students: the peak, the gap in the spectrum, complexity bounds, and two trained layers (H16 to H19)."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from proofs.dynamics.high_dimensional.setting import ROUNDOFF
from proofs.ledger import Control, Evidence, Figure, Series, at_least, at_most, claim, equal, figure, within
from refimpl.dynamics.high_dimensional import (
    displacement_norm,
    gradient_flow_weights,
    input_eigenvalues,
    mean_squared_error,
    rademacher_bound,
    rademacher_bound_displacement,
    rademacher_bound_naive,
    random_feature_student,
    random_features,
    sample_two_layer,
    train_two_layer_relu,
)
from refimpl.primitives.numbers import Array
from refimpl.tasks.real_data import diabetes_prompts
from refimpl.tasks.teacher_student import ReluProblems, sample_relu_problems

# --- a fixed first layer ---

N_EXAMPLES = 60
WIDTHS = (6, 15, 30, 48, 60, 75, 120, 240, 600, 1500)
TIMES = np.geomspace(0.1, 1e7, 81)


class Sweep(NamedTuple):
    """Of students with random features, arrays of shape (n_widths,): medians over problems."""

    final: Array
    best: Array
    displacement: Array
    smallest: Array
    naive: Array
    moved: Array


def features_of(problems: ReluProblems, n_hidden: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Training and test features of every problem, through a first layer of its own."""
    n_problems, n_inputs = problems.x.shape[:2]
    first = rng.standard_normal((n_problems, n_hidden, n_inputs)) / n_inputs**0.5
    return random_features(problems.x, first), random_features(problems.x_test, first)


def teachers(rng: np.random.Generator, n_test: int = 200) -> ReluProblems:
    return sample_relu_problems(12, 20, 10, N_EXAMPLES, n_test, 0.09, rng)


def patients(rng: np.random.Generator) -> ReluProblems:
    """Of the 442 patients of the diabetes data, 60 to train on and 200 others, 12 times."""
    drawn = diabetes_prompts(12, N_EXAMPLES + 200, rng)
    x, y = drawn.x, drawn.y[:, 0]
    return ReluProblems(x[..., :N_EXAMPLES], y[:, :N_EXAMPLES], x[..., N_EXAMPLES:], y[:, N_EXAMPLES:])


def sweep(
    problems: ReluProblems, init_variance: float, rng: np.random.Generator, widths: tuple[int, ...] = WIDTHS
) -> Sweep:
    """Gradient flow of the readout up to t = 10^7, on the same problems at every width."""
    medians = []
    for n_hidden in widths:
        found = []
        for h, h_test, y, y_test in zip(
            *features_of(problems, n_hidden, rng), problems.y, problems.y_test, strict=True
        ):
            initial = init_variance**0.5 * rng.standard_normal(n_hidden)
            curve = random_feature_student(h, y, h_test, y_test, initial, TIMES)
            found.append(
                (
                    curve.test_error[-1],
                    curve.test_error.min(),
                    curve.displacement[-1],
                    curve.smallest_eigenvalue,
                    rademacher_bound(curve.norm[-1], h),
                    rademacher_bound(curve.displacement[-1], h),
                )
            )
        medians.append(np.median(found, axis=0))
    return Sweep(*np.array(medians).T)


def at(n_hidden: int) -> int:
    return WIDTHS.index(n_hidden)


def at_the_end(found: Sweep) -> Array:
    return found.final


def at_the_best_time(found: Sweep) -> Array:
    return found.best


@claim(
    "high_dimensional/H16",
    title="With a fixed first layer the fully trained error peaks at as many hidden units as examples",
    source="Nonlinear networks, fixed first layer",
    statement=r"E(N_h=P)\gg E(N_h=P/2),E(2P),\quad E(N_h\ge4P)<E(P/2),\quad\min_tE(t)\ \text{without the peak}",
    method="experiment",
    scope="20 inputs, a ReLU teacher of 10 units, 60 examples, noise .3, 12 problems, 6 to 1500 hidden units, trained "
    "by gradient flow to t = 10^7; medians, for at the peak the error is heavy-tailed. The peak also on the diabetes "
    "data, 60 of 442 patients 12 times, where wide networks trained to the end stay above 30 units",
    requires=["sklearn"],
    control=Control("the best time in place of the end", fully_trained=at_the_best_time),
)
def peak_of_random_features(rng: np.random.Generator, fully_trained: Callable[[Sweep], Array] = at_the_end) -> Evidence:
    found, real = sweep(teachers(rng), 0.0, rng), sweep(patients(rng), 0.0, rng)
    final, final_real = fully_trained(found), fully_trained(real)
    return (
        peak_without_stopping(found.best, final, "")
        & at_most(float(max(final[at(240) :]) / final[at(30)]), 1, "most at 240 or more over that at 30")
        & peak_without_stopping(real.best, final_real, "diabetes: ")
        & at_most(float(max(final_real[at(240) :]) / final_real[at(120)]), 1, "most at 240 or more over that at 120")
    )


def peak_without_stopping(best: Array, final: Array, data: str) -> Evidence:
    """A peak of the final error at as many hidden units as examples, and none of the best."""
    return (
        at_least(float(final[at(60)] / final[at(30)]), 10, f"{data}error at 60 units over that at 30")
        & at_least(float(final[at(60)] / final[at(120)]), 10, "over that at 120")
        & at_most(float(best[at(60)] / best[at(30)]), 1.2, "best in time, at 60 over at 30")
    )


def all_eigenvalues(features: Array) -> Array:
    """The smallest eigenvalue, zeros included."""
    return input_eigenvalues(features).min(axis=-1)


def nonzero_eigenvalues(features: Array) -> Array:
    """The smallest of the eigenvalues that are not 0."""
    found = input_eigenvalues(features)
    return np.where(found == 0, np.inf, found).min(axis=-1)


@claim(
    "high_dimensional/H17",
    title="The gap above the zero eigenvalues closes at as many hidden units as examples, and opens again",
    source="Nonlinear networks, the eigengap",
    statement=r"\min\{\lambda_i(HH^\top)>0\}\ \text{least at}\ N_h=P",
    method="experiment",
    scope="as for the peak: 12 problems, 6 to 1500 hidden units, medians",
    control=Control("zeros included", smallest=all_eigenvalues),
)
def gap_of_random_features(
    rng: np.random.Generator, smallest: Callable[[Array], Array] = nonzero_eigenvalues
) -> Evidence:
    problems = sample_relu_problems(12, 20, 10, N_EXAMPLES, 1, 0.0, rng)
    gaps = [float(np.median(smallest(features_of(problems, n_hidden, rng)[0]))) for n_hidden in WIDTHS]
    peak = at(N_EXAMPLES)
    return (
        equal(WIDTHS[int(np.argmin(gaps))], N_EXAMPLES, "hidden units where the gap is least")
        & at_least(float(min(gaps[peak - 1], gaps[peak + 1]) / gaps[peak]), 10, "gap at 48 and 75 over that at 60")
        & at_least(float(np.min(np.diff(gaps[peak : at(600) + 1]))), 1e-9, "least increase from 60 to 600")
        & at_most(float(np.max(np.diff(gaps[: peak + 1]))), -1e-9, "largest increase up to 60")
    )


# --- complexity ---


def around_the_start(found: Sweep) -> Array:
    return found.moved


def around_zero(found: Sweep) -> Array:
    return found.naive


@claim(
    "high_dimensional/H18",
    title="A complexity bound by the distance trained falls with width; one by the norm of the weights grows",
    source="Complexity bounds",
    statement=r"\hat{\mathcal R}\le\tfrac BP\sqrt{\operatorname{tr}H^\top H},\quad B=\lVert w(t)-w(0)\rVert\ "
    r"\text{peaks at}\ N_h=P,\quad B=\lVert w(t)\rVert\sim\sqrt{N_h}\,\sigma_w^0",
    method="experiment",
    scope="the bound over all 256 signs of 8 examples; its radius against the solution; then as for the peak, initial "
    "weights of variance 0 and 1, 12 problems, medians",
    uses=["high_dimensional/H1", "high_dimensional/H16", "high_dimensional/H17"],
    control=Control("the class centred at 0 in place of the start", alternative=around_zero),
)
def complexity_bounds(rng: np.random.Generator, alternative: Callable[[Sweep], Array] = around_the_start) -> Evidence:
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=8)))
    features, y, initial = rng.standard_normal((5, 20, 8)), rng.standard_normal((5, 8)), rng.standard_normal((5, 20))
    norms = np.linalg.norm(features @ signs.T, axis=-2)
    exact, bound = norms.mean(axis=-1) / 8, rademacher_bound(1.0, features)
    # The class's supremum is the norm of H s, and the bound is exact for its square.
    evidence = at_most(float(np.max(exact / bound)), 1, "complexity over its bound") & at_most(
        float(np.max(np.abs(np.sqrt((norms**2).mean(axis=-1)) / 8 / bound - 1))),
        100 * ROUNDOFF,
        "mean square off it by",
    )
    times = np.array([0.01, 0.3, 100.0])
    weights = gradient_flow_weights(features, y, initial, times)
    moved = np.linalg.norm(weights - initial, axis=-1)
    evidence &= at_most(
        float(np.max(np.abs(displacement_norm(features, y, initial, times) / moved - 1))),
        1e4 * ROUNDOFF,
        "radius off by",
    )
    evidence &= at_most(
        float(
            np.max(np.abs(rademacher_bound_displacement(features, y, initial, times) / (moved * bound) - 1))
            + np.max(
                np.abs(rademacher_bound_naive(weights[0], features) / np.linalg.norm(weights[0], axis=-1) / bound - 1)
            )
        ),
        1e4 * ROUNDOFF,
        "both bounds off theirs by",
    )
    small, large = sweep(teachers(rng, 1), 0.0, rng), sweep(teachers(rng, 1), 1.0, rng)
    twice, widest = at(120), at(1500)
    peaks = [WIDTHS[int(np.argmax(bounds))] for bounds in (large.naive, alternative(large), small.moved)]
    falls = np.diff(small.moved[at(75) : at(600) + 1])
    return (
        evidence
        & equal(peaks, [60, 60, 60], "hidden units where naive and alternative bound, and the latter from 0, are most")
        & at_least(float(large.naive[widest] / large.naive[twice]), 1.7, "naive bound at 1500 units over that at 120")
        & at_most(float(alternative(large)[widest] / alternative(large)[twice]), 0.9, "alternative bound's ratio")
        & at_most(float(np.max(falls)), -1e-9, "start at 0: largest rise of the alternative bound from 75 to 600 units")
        & at_most(float(small.moved[widest] / small.moved[at(240)]), 1, "that at 1500 over that at 240")
        & within(
            float(np.log(large.naive[widest] / large.naive[at(600)]) / np.log(2.5)),
            0.3,
            0.6,
            "exponent of the naive bound",
        )
    )


@figure(
    "high_dimensional/F8",
    title="Random ReLU features: test error, distance trained and smallest eigenvalue against width",
    caption="Medians over 12 problems of 60 examples. At 60 hidden units the fully trained error and the distance peak "
    "and the gap closes; stopped at the best time there is no peak, and wide networks are as good as any.",
    answers_to="the figures of nonlinear networks with a fixed first layer",
)
def random_feature_figure(rng: np.random.Generator) -> Figure:
    widths = (6, 10, 15, 22, 30, 40, 48, 54, 60, 66, 75, 90, 120, 170, 240, 400, 700, 1200)
    found = sweep(teachers(rng), 0.0, rng, widths)
    named = {
        "test error, fully trained": found.final,
        "test error, best time": found.best,
        "distance trained": found.displacement,
        "smallest eigenvalue": found.smallest,
    }
    return Figure(
        tuple(Series(title, list(widths), values.tolist()) for title, values in named.items()),
        x_label="hidden units $N_h$",
        y_label="error, distance, eigenvalue",
        x_scale="log",
        y_scale="log",
    )


@figure(
    "high_dimensional/F9",
    title="Two complexity bounds against width",
    caption="From initial weights of variance 1. The bound by the norm of the weights grows with the root of the "
    "width, the one by the distance trained falls from its peak at 60 hidden units, like the test error.",
    answers_to="the figure of the Rademacher complexity bounds",
)
def bound_figure(rng: np.random.Generator) -> Figure:
    found = sweep(teachers(rng, 1), 1.0, rng)
    return Figure(
        (
            Series("norm of the weights", list(WIDTHS), found.naive.tolist()),
            Series("distance trained", list(WIDTHS), found.moved.tolist()),
        ),
        x_label="hidden units $N_h$",
        y_label="bound",
        x_scale="log",
        y_scale="log",
    )


# --- both layers trained ---

TRAINED_WIDTHS = (2, 10, 30, 60, 100, 150)
SCALES = (0.1, 1.0, 2.0, 3.0)


class Run(NamedTuple):
    """Test and training error over training, shape (n_records, n_problems)."""

    test: Array
    train: Array


def relu_problems(n_problems: int, rng: np.random.Generator) -> ReluProblems:
    return sample_relu_problems(n_problems, 10, 5, N_EXAMPLES, 500, 0.25, rng)


def train_both(
    problems: ReluProblems, n_hidden: int, scale: float, rate: float, n_steps: int, rng: np.random.Generator
) -> Run:
    """Full-batch descent in both layers, with the errors every 10 steps."""
    network = sample_two_layer(len(problems.x), 10, n_hidden, scale, rng)
    test, train = [], []
    for _ in range(n_steps // 10):
        network = train_two_layer_relu(problems.x, problems.y, network, rate, 10)
        test.append(mean_squared_error(network, problems.x_test, problems.y_test))
        train.append(mean_squared_error(network, problems.x, problems.y))
    return Run(np.array(test), np.array(train))


def train_readout(
    problems: ReluProblems, n_hidden: int, scale: float, rate: float, n_steps: int, rng: np.random.Generator
) -> Run:
    """The first layer fixed and the readout trained to the end."""
    curves = [
        random_feature_student(h, y, h_test, y_test, np.zeros(n_hidden), TIMES)
        for h, h_test, y, y_test in zip(*features_of(problems, n_hidden, rng), problems.y, problems.y_test, strict=True)
    ]
    return Run(np.array([one.test_error for one in curves]).T, np.array([one.train_error for one in curves]).T)


@claim(
    "high_dimensional/H19",
    title="With both layers trained no width is catastrophic, and large initial weights hurt",
    source="Nonlinear networks, both layers trained",
    statement=r"\max_{N_h}E/\min_{N_h}E<2,\qquad E(\sigma=.1)<E(1)<E(2),E(3)",
    method="experiment",
    scope="10 inputs, a ReLU teacher of 5 units, 60 examples, noise .5; widths 2 to 150 at rate .05 over 3000 steps, 5 "
    "problems; initial scales .1, 1, 2, 3 of 100 units at rate .02 over 2000 steps, 4 problems; mean errors, and at "
    "the training error that the smallest scale reaches",
    uses=["high_dimensional/H16"],
    cost="full",
    control=Control("the first layer fixed", train=train_readout),
)
def both_layers_trained(rng: np.random.Generator, train: Callable[..., Run] = train_both) -> Evidence:
    problems = relu_problems(5, rng)
    final = [float(train(problems, width, 1.0, 0.05, 3000, rng).test[-1].mean()) for width in TRAINED_WIDTHS]
    wide = final[1:]
    evidence = within(max(wide) / min(wide), 1, 2, "largest over smallest error at 10 to 150 units")
    problems = relu_problems(4, rng)
    runs = [train(problems, 100, scale, 0.02, 2000, rng) for scale in SCALES]
    ends = [float(run.test[-1].mean()) for run in runs]
    level = float(runs[0].train[-1].mean())
    # The first record at which a run fits as well as the one from small weights does at its end.
    alike = [float(run.test[int(np.argmax(run.train.mean(axis=1) <= level))].mean()) for run in runs]
    return (
        evidence
        & at_most(ends[0] / ends[1], 0.6, "error from scale .1 over that from 1")
        & at_least(ends[2] / ends[1], 1.25, "from 2 over that from 1")
        & at_least(ends[3] / ends[1], 1.25, "from 3 over that from 1")
        & at_most(alike[0] / alike[1], 1, "at equal training error: from .1 over that from 1")
        & at_least(min(alike[2:]) / alike[1], 1, "from 2 or 3 over that from 1")
    )


@figure(
    "high_dimensional/F10",
    title="Two trained layers: test error against width and initial scale",
    caption="At the end of training the error hardly depends on the width, unlike with a fixed first layer; at the "
    "best time it is lower. Initial weights of larger scale end higher.",
    answers_to="the figure of fully trained ReLU networks",
    cost="full",
)
def trained_figure(rng: np.random.Generator) -> Figure:
    problems = relu_problems(5, rng)
    runs = [train_both(problems, width, 1.0, 0.05, 3000, rng).test.mean(axis=1) for width in TRAINED_WIDTHS]
    fixed = [np.median(train_readout(problems, width, 1.0, 0.05, 0, rng).test[-1]) for width in TRAINED_WIDTHS]
    scaled = [train_both(problems, 100, scale, 0.02, 2000, rng).test[-1].mean() for scale in SCALES]
    return Figure(
        (
            Series("at the end, by width", list(TRAINED_WIDTHS), [float(run[-1]) for run in runs]),
            Series("at the best time, by width", list(TRAINED_WIDTHS), [float(run.min()) for run in runs]),
            Series("first layer fixed, by width", list(TRAINED_WIDTHS), [float(one) for one in fixed]),
            Series("100 units, by 100 times the initial scale", [100 * s for s in SCALES], [float(s) for s in scaled]),
        ),
        x_label="hidden units $N_h$, or 100 times the scale",
        y_label="test error $E_g$",
        x_scale="log",
        y_scale="log",
    )
