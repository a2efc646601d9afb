"""Deep networks on digits: power laws of the lazy regime, its limit, and the feature regime (S12, S14, S15)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from proofs.ledger import Control, Evidence, Figure, Matrix, Series, at_least, at_most, claim, figure, within
from refimpl.dynamics.sgd_noise_regimes import (
    initial_network,
    linearised_outputs,
    network_outputs,
    relative_weight_change,
    train_network,
)
from refimpl.primitives.numbers import Array
from refimpl.tasks.real_data import digit_images

WIDTH = 64


class Parity(NamedTuple):
    """Digits and whether they are odd; the rest of the images to test on."""

    x: Array
    y: Array
    x_test: Array
    y_test: Array


def parity(n_samples: int, rng: np.random.Generator) -> Parity:
    """A random training set of this size; pixels standardised by one mean and deviation."""
    images, digits = digit_images()
    images = (images - images.mean()) / images.std()
    labels = 1 - 2 * (digits % 2)
    order = rng.permutation(len(images))
    train, test = order[:n_samples], order[n_samples:]
    return Parity(images[train], labels[train], images[test], labels[test])


def seeds(n_seeds: int, n_samples: int, n_hidden: int, rng: np.random.Generator) -> tuple[Parity, list[Array]]:
    """A data set and a network of each, stacked."""
    drawn = [(parity(n_samples, rng), initial_network(64, WIDTH, n_hidden, rng)) for _ in range(n_seeds)]
    data, starts = zip(*drawn, strict=True)
    return Parity(*map(np.stack, zip(*data, strict=True))), [np.stack(same) for same in zip(*starts, strict=True)]


class Trained(NamedTuple):
    """Means over seeds."""

    change: float
    time: float


def trained(
    n_samples: int,
    learning_rate: float,
    batch_size: int,
    rng: np.random.Generator,
    alpha: float = 100.0,
    n_seeds: int = 3,
    check_every: int = 20,
) -> Trained:
    """Networks of two hidden layers to zero loss."""
    data, starts = seeds(n_seeds, n_samples, 2, rng)
    run = train_network(data.x, data.y, starts, learning_rate, batch_size, 1 / alpha, rng, 20000, check_every)
    times = np.where(run.converged, run.time, np.nan)
    return Trained(float(relative_weight_change(run.weights, starts).mean()), float(times.mean()))


def slope(x: Any, y: Any) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


TEMPERATURES = (0.0125, 0.05, 0.2, 0.8)
SIZES = (300, 600, 1200)


def at_fixed_temperature(batch_size: int) -> float:
    return 0.2 * batch_size


def at_fixed_rate(batch_size: int) -> float:
    return 0.8


@claim(
    "sgd_noise_regimes/S12",
    title="In the lazy regime weight change and training time are increasing powers of temperature and size",
    source="Weight change and training time of deep networks in the lazy regime",
    statement=r"\Delta w\sim T^\delta P^\gamma,\qquad t^*\sim TP^b",
    method="experiment",
    scope="parity of scikit-learn's digits, two hidden layers of 64, scale 100, batches of 4: T = .0125 to .8 at P = "
    "600, P = 300 to 1200 at T = .2, batches of 2, 4, 8 at T = .2; means of 3, 10, 10 seeds, tested every 20 steps",
    uses=["sgd_noise_regimes/S6"],
    cost="full",
    requires=["sklearn"],
    control=Control("the learning rate kept in place of the temperature", rate=at_fixed_rate),
)
def power_laws(rng: np.random.Generator, rate: Callable[[int], float] = at_fixed_temperature) -> Evidence:
    heated = [trained(600, 4 * heat, 4, rng) for heat in TEMPERATURES]
    sized = [trained(n_samples, 0.8, 4, rng, n_seeds=10) for n_samples in SIZES]
    batched = [trained(600, rate(size), size, rng, n_seeds=10).change for size in (2, 4, 8)]
    steps = np.concatenate([np.diff([one.change for one in heated]), np.diff([one.change for one in sized])])
    times = np.concatenate([np.diff([one.time for one in heated]), np.diff([one.time for one in sized])])
    return (
        within(slope(TEMPERATURES, [one.change for one in heated]), 0.6, 1.1, "delta")
        & within(slope(SIZES, [one.change for one in sized]), 0.15, 0.7, "gamma")
        & within(slope(TEMPERATURES, [one.time for one in heated]), 0.6, 1.3, "exponent of the time in T")
        & within(slope(SIZES, [one.time for one in sized]), 0.8, 2, "b")
        & at_least(float(min(steps.min(), times.min())), 1e-9, "least increase of change and time")
        & at_most(
            float(np.max(np.abs(np.diff(np.log(batched))))), np.log(1.25), "log of the change from batch to batch"
        )
    )


# --- the lazy limit ---


def rate_over_scale(alpha: float) -> float:
    return 0.5 / alpha


def constant_rate(alpha: float) -> float:
    return 0.5


@claim(
    "sgd_noise_regimes/S14",
    title="At large scales the network is its tangent, and weights change by the inverse scale",
    source="The lazy regime",
    statement=r"\alpha\,\lvert F-F_{lin}\rvert\sim1/\alpha\ \text{at most points},\quad"
    r"\sim1\ \text{at a share}\sim1/\alpha;\qquad\Delta w\sim1/\alpha\quad(T\to0)",
    method="experiment",
    scope="parity of digits, P = 300, two hidden layers of 64, batches of 4, rate .5 over the scale: 200 steps at "
    "scales 10 to 10^4, 1800 points of 6 seeds: a point whose unit has crossed its kink is off by its whole change, so "
    "that the root mean square falls only as the root of the share; to zero loss at 10, 100, 1000, 6 seeds",
    requires=["sklearn"],
    control=Control("the same rate at every scale", rate=constant_rate),
)
def lazy_limit(rng: np.random.Generator, rate: Callable[[float], float] = rate_over_scale) -> Evidence:
    gaps, scales = [], (10.0, 100.0, 1000.0, 10000.0)
    for alpha in scales:
        data, starts = seeds(6, 300, 2, rng)
        run = train_network(data.x, data.y, starts, rate(alpha), 4, 1 / alpha, rng, 200, 200)
        moved = network_outputs(data.x, run.weights) - network_outputs(data.x, starts)
        displacement = [after - before for after, before in zip(run.weights, starts, strict=True)]
        gaps.append(np.abs(alpha * (moved - linearised_outputs(data.x, starts, displacement))))
    squares = [float(np.mean(gap**2) ** 0.5) for gap in gaps]
    medians = [float(np.median(gap)) for gap in gaps]
    crossed = [float(np.mean(gap > 0.01)) for gap in gaps[1:]]
    changes = [trained(300, rate(alpha), 4, rng, alpha, n_seeds=6).change for alpha in scales[:3]]
    return (
        within(slope(scales, medians), -1.2, -0.9, "exponent of the median gap to the tangent")
        & at_most(medians[3], 1e-3, "at 10^4")
        & at_most(float(np.max(np.diff(squares[:3]))), -1e-9, "largest increase of its root mean square to 1000")
        & at_most(squares[2], 0.02, "at 1000")
        & at_most(crossed[2] / crossed[0], 0.1, "share of points farther off than .01, at 10^4 over 100")
        & within(slope(scales[:3], changes), -1.05, -0.95, "exponent of the weight change")
    )


# --- the feature regime ---

SCALES = (1e-5, 1e-4, 1e-3)


def reaches_zero_loss(alpha: float, learning_rate: float, n_hidden: int, rng: np.random.Generator) -> bool:
    """At least three of five seeds, within 4000 steps."""
    data, starts = seeds(5, 200, n_hidden, rng)
    run = train_network(data.x, data.y, starts, learning_rate, 4, 1 / alpha, rng, 4000, 50)
    return int(run.converged.sum()) >= 3


def largest_rate(alpha: float, n_hidden: int, rng: np.random.Generator, low: int, high: int) -> float:
    r"""On the grid $2^{j/4}$ the largest rate that trains, by bisection between one that does and one that does not."""
    while not reaches_zero_loss(alpha, 2 ** (low / 4), n_hidden, rng):
        low -= 4
    while reaches_zero_loss(alpha, 2 ** (high / 4), n_hidden, rng):
        low, high = high, high + 4
    while high - low > 1:
        middle = (low + high) // 2
        if reaches_zero_loss(alpha, 2 ** (middle / 4), n_hidden, rng):
            low = middle
        else:
            high = middle
    return float(2 ** (low / 4))


def depth_exponent(n_hidden: int) -> float:
    return (n_hidden - 1) / (n_hidden + 1)


def exponent_of_one_layer_less(n_hidden: int) -> float:
    return depth_exponent(n_hidden % 3 + 1)


@claim(
    "sgd_noise_regimes/S15",
    title="In the feature regime the largest temperature that trains is a power of the scale, by depth",
    source="Phase diagram, T_opt ~ alpha^k",
    statement=r"T_{max}\sim\alpha^{\frac{D-1}{D+1}}",
    method="experiment",
    scope="parity of digits, P = 200, 1 to 3 hidden layers of 64, batches of 4, scales 10^-5 to 10^-3, rates on a grid "
    "of the fourth root of two by bisection; trained: zero loss within 4000 steps for 3 of 5 seeds",
    uses=["sgd_noise_regimes/S10"],
    cost="full",
    requires=["sklearn"],
    control=Control("the exponent of another depth", exponent=exponent_of_one_layer_less),
)
def largest_temperature(rng: np.random.Generator, exponent: Callable[[int], float] = depth_exponent) -> Evidence:
    evidence = None
    for n_hidden, start in ((1, 12), (2, -10), (3, -20)):
        rates: list[float] = []
        for alpha in SCALES:
            # Where the last scale's largest rate would be by the exponent, give or take.
            shift = 0 if not rates else round(4 * np.log2(10 ** depth_exponent(n_hidden)))
            low = start if not rates else round(4 * np.log2(rates[-1])) + shift - 3
            rates.append(largest_rate(alpha, n_hidden, rng, low, low + 6))
        found = slope(SCALES, rates)
        middle = exponent(n_hidden)
        checks = within(found, middle - 0.1, middle + 0.1, f"{n_hidden} hidden: exponent")
        evidence = checks if evidence is None else evidence & checks
    assert evidence is not None
    return evidence


@figure(
    "sgd_noise_regimes/F5",
    title="Digits in the lazy regime: weight change against temperature",
    caption="Near-parallel lines in a doubly logarithmic plot: a power of the temperature times a power of the number "
    "of training points. Means of 2 seeds.",
    answers_to="the weight change of deep networks against temperature, for several sizes",
    cost="full",
)
def change_figure(rng: np.random.Generator) -> Figure:
    parts = [
        Series(
            f"{n_samples} samples",
            list(TEMPERATURES),
            [trained(n_samples, 4 * heat, 4, rng, n_seeds=2).change for heat in TEMPERATURES],
        )
        for n_samples in SIZES
    ]
    return Figure(
        tuple(parts),
        x_label="temperature $T$",
        y_label=r"relative weight change $\Delta w$",
        x_scale="log",
        y_scale="log",
    )


@figure(
    "sgd_noise_regimes/F6",
    title="Test error in the plane of scale and temperature",
    caption="Percent of digits of wrong parity after training to zero loss from 300, mean of 2 seeds; 50 where "
    "training diverged or did not end within 4000 steps. In the feature regime, on the left, the largest temperature "
    "that trains grows with the scale.",
    answers_to="the phase diagrams of generalisation",
    cost="full",
)
def phase_figure(rng: np.random.Generator) -> Figure:
    scales = 10.0 ** np.arange(-4, 3)
    rates = 4.0 ** np.arange(-4, 3)
    errors = np.empty((len(rates), len(scales)))
    for column, alpha in enumerate(scales):
        for row, rate in enumerate(rates):
            data, starts = seeds(2, 300, 2, rng)
            run = train_network(data.x, data.y, starts, float(rate), 4, float(1 / alpha), rng, 4000, 50)
            with np.errstate(over="ignore", invalid="ignore"):  # of a run that diverged
                moved = network_outputs.unchecked(data.x_test, run.weights) - network_outputs(data.x_test, starts)
            wrong = 100 * np.mean(data.y_test * moved <= 0, axis=-1)
            errors[row, column] = np.where(run.converged, wrong, 50).mean()
    return Figure(
        (
            Matrix(
                "test error in percent",
                errors,
                rows="log4 of the learning rate, -4 to 2",
                columns="log10 of the scale, -4 to 2",
            ),
        )
    )
