r"""What SGD and gradient descent reach from large weights (Section 5)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.ledger import Control, Evidence, Figure, Series, at_least, at_most, claim, figure
from proofs.statistics import lies_above, lies_below, mean_interval
from proofs.symbolic import array, scalar, vanishes
from refimpl.dynamics.dynamical_stability import (
    DiagonalNet,
    DiagonalSettings,
    ReluNet,
    ReluSettings,
    critical_learning_rate,
    diagonal_net_vjp,
    diagonal_norm_bound,
    diagonal_step,
    population_trace,
    relu_step,
    run_balancing_experiment,
    run_diagonal_experiment,
    run_relu_experiment,
    sgd_path_norm_bound,
)
from refimpl.dynamics.dynamical_stability.experiments import UNIFORM_VARIANCE, DiagonalMinima, Method, ReluMinima
from refimpl.primitives.numbers import Array

DIAGONAL, RELU = DiagonalSettings(), ReluSettings()
UNCLIPPED, LONGER = DIAGONAL._replace(max_norm=None), DIAGONAL._replace(sgd_steps=20_000)
INTERPOLATES = 1e-4


@claim(
    "dynamical_stability/S10",
    title="Minima that SGD reaches obey the trace bound, and with it the bounds on their norms",
    source="Section 4 and 5",
    statement=r"\eta\operatorname{Tr}G\le2,\qquad\|\theta\|_{\mathcal P}\le\frac2{\eta\sqrt d},\qquad "
    r"\|\beta\|_1\le\frac1{\eta\operatorname{Var}x}",
    method="experiment",
    scope="3 runs each of ReLU networks (d = 20, m = 40, n = 60) at 0.006 and 0.012 and of diagonal networks (d = 200, "
    "n = 80) at 0.032 and 0.05, SGD with single examples from large weights, trained until they interpolate; in the "
    "population the norm bounds follow from the trace bound and the equivalences",
    uses=["dynamical_stability/S3", "dynamical_stability/S9", "dynamical_stability/S11"],
    control=Control("gradient descent in SGD's place", method="gd"),
)
def stable_minima_have_small_norms(rng: np.random.Generator, method: Method = "sgd") -> Evidence:
    relu_rates, rates = np.array([0.006, 0.012]), np.array([0.032, 0.05])
    relu = run_relu_experiment(RELU, relu_rates, 3, rng, method)
    diagonal = run_diagonal_experiment(DIAGONAL, rates, 3, rng, method)
    path_bounds = np.array([sgd_path_norm_bound(float(rate), RELU.d) for rate in relu_rates])
    l1_bounds = np.array([diagonal_norm_bound(float(rate), UNIFORM_VARIANCE) for rate in rates])
    return (
        at_most(float(max(relu.train_error.max(), diagonal.train_error.max())), INTERPOLATES, "training error, most")
        & at_most(float((relu_rates * relu.sharpness.trace).max()), 2, "ReLU: rate times trace, most")
        & at_most(float((relu.norm / path_bounds).max()), 1, "path norm over its bound, most")
        & at_most(float((rates * diagonal.sharpness.trace).max()), 2, "diagonal: rate times trace, most")
        & at_most(float((diagonal.norm / l1_bounds).max()), 1, "l1 norm over its bound, most")
    )


# --- balance ---


def one_layer_after_the_other(net: DiagonalNet, x: Array, y: Array, learning_rate: Any) -> DiagonalNet:
    r"""The step with $b$ updated by the new $a$."""
    residuals = (x @ (net.a * net.b)[:, None])[:, 0] - y
    to_product = residuals @ x / len(y)
    a = net.a - learning_rate * to_product * net.b
    return DiagonalNet(a, net.b - learning_rate * to_product * a)


@claim(
    "dynamical_stability/S12",
    title="SGD balances the layers whatever the start, by an exact law of each step; gradient descent does not",
    source="Section 5 (balance); the laws derived",
    statement=r"a_j^2-b_j^2\leftarrow(a_j^2-b_j^2)(1-\eta^2h_j^2),\qquad\|w_j\|^2-a_j^2\leftarrow\|w_j\|^2-a_j^2"
    r"+\eta^2r^2\sigma'\big(a_j^2\|x\|^2-(w_j^\top x)^2\big)",
    method="symbolic",
    scope="the laws for all weights and data, at 2 inputs and one example, and at 2 ReLU units and one example; the "
    "flow's conservation; 60 runs at each of r0 = 2, 4, 16 (d = 200, n = 80, clipped to 50): SGD at 0.07 for 20000 "
    "steps, intervals of the mean; gradient descent at 0.001 for 3000 steps",
    cost="full",
    control=[
        Control("gradient descent in SGD's place", method="gd"),
        Control("the second layer updated with the new first one", step=one_layer_after_the_other),
    ],
)
def noise_balances(
    rng: np.random.Generator, method: Method = "sgd", step: Callable[..., DiagonalNet] = diagonal_step
) -> Evidence:
    eta = scalar("eta", positive=True)
    a, b, x, y = array("a", (2,)), array("b", (2,)), array("x", (1, 2)), array("y", (1,))
    net = DiagonalNet(a, b)
    moved = step(net, x, y, eta)
    h = (x @ (a * b) - y) @ x
    law = moved.a**2 - moved.b**2 - (a**2 - b**2) * (1 - eta**2 * h**2)
    output, pullback = diagonal_net_vjp(net, x)
    to_net, _ = pullback(output - y)
    flow = 2 * a * to_net.a - 2 * b * to_net.b
    w, z, target = array("w", (2, 2)), array("x", (1, 2)), array("y", (1,))
    relu = ReluNet(a, w)
    relu_moved = relu_step(relu, z, target, eta)
    inputs = (z @ w.T)[0]
    active = np.array([sympy.Heaviside(one, 0) for one in inputs], dtype=object)
    residual = (a * inputs * active).sum() - target[0]
    gap = a**2 * (z**2).sum() - inputs**2
    relu_law = (relu_moved.w**2).sum(axis=-1) - relu_moved.a**2 - ((w**2).sum(axis=-1) - a**2)
    relu_law = relu_law - eta**2 * residual**2 * active * gap
    ratios = [2.0, 4.0, 16.0]
    rate, steps, settings = (0.07, 20_000, DIAGONAL) if method == "sgd" else (0.001, 3000, UNCLIPPED)
    noisy = run_balancing_experiment(settings, ratios, 60, rate, steps, rng, method)
    plain = run_balancing_experiment(UNCLIPPED, ratios, 3, 0.001, 3000, rng, "gd")
    evidence = (
        vanishes(law, "diagonal network") & vanishes(flow, "flow") & vanishes(on_either_side(relu_law), "ReLU network")
    )
    for index, r0 in enumerate(ratios):
        after, remaining = np.log(noisy.after[:, index]), np.log(noisy.remaining[:, index])
        evidence &= (
            lies_below(mean_interval(after), float(np.log(2.2)), f"r0 = {r0:.0f}: log of the final ratio")
            & lies_below(mean_interval(remaining), float(np.log(0.1)), "log of the imbalance left")
            & at_least(float(plain.remaining[:, index].min()), 0.99, "by gradient descent, least")
        )
    return evidence


def on_either_side(expressions: Array) -> Array:
    """The expressions with every unit off or on, 0 or 1 for its step and as much of its input for its positive part."""
    found = []
    for expression in expressions:
        steps = sorted(sympy.sympify(expression).atoms(sympy.Heaviside), key=str)
        for values in np.ndindex(*[2] * len(steps)):
            sides = {step.args[0]: int(value) for step, value in zip(steps, values, strict=True)}
            replaced = expression.replace(sympy.Heaviside, lambda z, *at_zero, sides=sides: sides[z])
            found.append(replaced.replace(sympy.Max, lambda *z, sides=sides: rectified(z, sides)))
    return np.array(found, dtype=object)


def rectified(arguments: tuple[Any, ...], sides: dict[Any, int]) -> Any:
    z = next(one for one in arguments if one != 0)
    return sides[z] * z


# --- sharpness and test error against the learning rate ---


def log_ratio(one: Array, other: Array) -> Array:
    return np.asarray(np.log(one) - np.log(other))


@claim(
    "dynamical_stability/S13",
    title="Diagonal networks: the larger the rate of SGD, the flatter and better the minimum; gradient descent's stays",
    source="Section 5, figure of sharpness and test error against the learning rate (diagonal networks)",
    statement=r"\eta\operatorname{Tr}G\le2,\qquad\frac{\mathrm{test}(\mathrm{SGD},\eta)}{\mathrm{test}(\mathrm{GD})}"
    r"<0.3\text{ at }0.032,\ <0.08\text{ at }0.05",
    method="experiment",
    scope="30 runs from Gaussian weights (d = 200, n = 80, 3 nonzero, gradients clipped to 50), single examples for "
    "20000 steps at 0.016, 0.032 and 0.05, gradient descent for 2000; intervals of the mean log ratio. A small "
    "counterpart of the figure, which has d = 1000 and n = 300",
    uses=["dynamical_stability/S3", "dynamical_stability/S11"],
    cost="full",
    control=Control("gradient descent in SGD's place", method="gd"),
)
def larger_rates_find_flatter_minima(rng: np.random.Generator, method: Method = "sgd") -> Evidence:
    rates = np.array([0.016, 0.032, 0.05])
    seed = int(rng.integers(2**32))  # of both methods: the same data and the same start
    found = run_diagonal_experiment(LONGER, rates, 30, np.random.default_rng(seed), method)
    plain = run_diagonal_experiment(LONGER, rates[[0, 2]], 30, np.random.default_rng(seed), "gd")
    ratios = log_ratio(found.test_error, plain.test_error[:, 1:])
    traces = rates * found.sharpness.trace
    interpolating = found.train_error < INTERPOLATES
    changes = np.diff(ratios, axis=1)
    return (
        at_most(float(found.train_error.max()), INTERPOLATES, "training error, most")
        & at_most(float(np.max(traces[interpolating], initial=0)), 2, "rate times trace, most")
        & lies_below(mean_interval(ratios[:, 1]), float(np.log(0.3)), "log of test error over GD's at 0.032")
        & lies_below(mean_interval(ratios[:, 2]), float(np.log(0.08)), "at 0.05")
        & at_most(float(changes.max()), 0, "its largest change from rate to rate")
        & at_most(
            float(np.max(np.abs(log_ratio(plain.test_error[:, 0], plain.test_error[:, 1])))),
            0.05,
            "log of GD's test error at 0.016 over that at 0.05, most",
        )
        & at_most(
            float(np.max(np.abs(log_ratio(plain.sharpness.trace[:, 0], plain.sharpness.trace[:, 1])))),
            0.05,
            "of its trace",
        )
    )


@claim(
    "dynamical_stability/S14",
    title="ReLU networks: SGD at a larger rate finds a flatter minimum that generalises, gradient descent does not",
    source="Section 5, figure of sharpness and test error against the learning rate (ReLU networks)",
    statement=r"\eta\operatorname{Tr}G\le2,\quad\mathrm{test}(\mathrm{SGD})<0.3\,\mathrm{test}(\mathrm{GD}),\quad "
    r"\operatorname{Tr}(\mathrm{SGD})<\tfrac12\operatorname{Tr}(\mathrm{GD})",
    method="experiment",
    scope="20 runs from large weights (d = 20, m = 40, n = 60, 4 teacher units, gradients clipped to 50), single "
    "examples for 12000 steps at 0.012, gradient descent for 1500; intervals of the mean log ratio. A small "
    "counterpart of the figure, which has d = m = 100 and n = 300",
    uses=["dynamical_stability/S3", "dynamical_stability/S9"],
    control=Control("gradient descent in SGD's place", method="gd"),
)
def relu_networks_too(rng: np.random.Generator, method: Method = "sgd") -> Evidence:
    seed, rate = int(rng.integers(2**32)), [0.012]
    found = run_relu_experiment(RELU, rate, 20, np.random.default_rng(seed), method)
    plain = run_relu_experiment(RELU, rate, 20, np.random.default_rng(seed), "gd")
    tests = log_ratio(found.test_error, plain.test_error)[:, 0]
    traces = log_ratio(found.sharpness.trace, plain.sharpness.trace)[:, 0]
    worst = float(max(found.train_error.max(), plain.train_error.max()))
    return (
        at_most(worst, INTERPOLATES, "training error, most")
        & at_most(float(rate[0] * found.sharpness.trace.max()), 2, "rate times trace, most")
        & lies_below(mean_interval(tests), float(np.log(0.3)), "log of test error over GD's")
        & lies_below(mean_interval(traces), float(np.log(0.5)), "log of trace over GD's")
    )


def trace_without_dimension(net: ReluNet) -> Array:
    return ((net.w**2).sum(axis=(-2, -1)) + (net.a**2).sum(axis=-1)) / 2


@claim(
    "dynamical_stability/S15",
    title="At trained minima the measured trace is close to the population's formula",
    source="abstract (equivalence of sharpness and norm)",
    statement=r"\operatorname{Tr}G_n\approx\tfrac12\sum_j(\|w_j\|^2+d\,a_j^2)",
    method="experiment",
    scope="16 runs of SGD (d = 20, m = 40, n = 60) at 0.006 and 0.012, intervals of the mean log ratio within 20%, "
    "although the weights depend on the examples",
    uses=["dynamical_stability/S9", "dynamical_stability/S14"],
    control=Control("the formula without the factor d", formula=trace_without_dimension),
)
def measured_trace_is_the_population_s(
    rng: np.random.Generator, formula: Callable[[ReluNet], Array] = population_trace
) -> Evidence:
    rates = [0.006, 0.012]
    found = run_relu_experiment(RELU, rates, 16, rng)
    ratios = log_ratio(found.sharpness.trace, formula(found.net))
    evidence = at_most(float(found.train_error.max()), INTERPOLATES, "training error, most")
    for index, rate in enumerate(rates):
        interval = mean_interval(ratios[:, index])
        evidence &= lies_below(interval, float(np.log(1.2)), f"at {rate}: log of trace over formula")
        evidence &= lies_above(interval, float(np.log(0.8)), "the same")
    return evidence


# --- figures ---

METHODS: tuple[tuple[Method, str], ...] = (("sgd", "SGD"), ("gd", "GD"))
DIAGONAL_RATES = np.round(10 ** np.linspace(-2.4, -1.2, 7), 5)
RELU_RATES = np.array([0.001, 0.002, 0.004, 0.008, 0.012])


def diagonal_runs(rng: np.random.Generator) -> dict[str, DiagonalMinima]:
    seed = int(rng.integers(2**32))
    return {
        name: run_diagonal_experiment(DIAGONAL, DIAGONAL_RATES, 3, np.random.default_rng(seed), method)
        for method, name in METHODS
    }


def relu_runs(rng: np.random.Generator) -> dict[str, ReluMinima]:
    seed = int(rng.integers(2**32))
    return {
        name: run_relu_experiment(RELU, RELU_RATES, 3, np.random.default_rng(seed), method) for method, name in METHODS
    }


def over_seeds(values: Array) -> list[float]:
    """The geometric mean of the runs."""
    return [float(one) for one in np.exp(np.mean(np.log(values), axis=0))]


def sharpness_series(runs: dict[str, Any], rates: Array) -> Figure:
    x = rates.tolist()
    measures = (
        ("trace", r"$\mathrm{Tr}\,G$"),
        ("frobenius", r"$\Vert G\Vert_F$"),
        ("operator_norm", r"$\lambda_1(G)$"),
    )
    curves = [
        Series(f"{name}: {title}", x, over_seeds(getattr(found.sharpness, measure)))
        for name, found in runs.items()
        for measure, title in measures
    ]
    bound = Series("2 / learning rate", x, (2 / rates).tolist())
    return Figure((*curves, bound), r"learning rate $\eta$", "sharpness", "log", "log")


@figure(
    "dynamical_stability/F1",
    title="Sharpness of the minima against the learning rate, diagonal networks",
    caption="SGD's trace falls as the line 2 / learning rate comes down to it, stays below, and pulls the other two "
    "measures along. Gradient descent's trace does not move and crosses the line, for its largest eigenvalue stays "
    "below. Means of 3 runs.",
    answers_to="Section 5, sharpness against the learning rate (diagonal networks)",
)
def diagonal_sharpness_figure(rng: np.random.Generator) -> Figure:
    return sharpness_series(diagonal_runs(rng), DIAGONAL_RATES)


@figure(
    "dynamical_stability/F2",
    title="Test error of the minima against the learning rate, diagonal networks",
    caption="SGD's falls by orders of magnitude as its trace is pressed down; gradient descent's stays. Means of 3 "
    "runs.",
    answers_to="Section 5, test error against the learning rate (diagonal networks)",
)
def diagonal_test_figure(rng: np.random.Generator) -> Figure:
    runs = diagonal_runs(rng)
    curves = [Series(name, DIAGONAL_RATES.tolist(), over_seeds(found.test_error)) for name, found in runs.items()]
    return Figure(tuple(curves), r"learning rate $\eta$", "population error", "log", "log")


@figure(
    "dynamical_stability/F3",
    title="Balance after training against balance before",
    caption="SGD ends nearly balanced, whatever the start. Gradient descent keeps the differences of squares, and its "
    "ratio even rises where the product shrinks. Means of 3 runs.",
    answers_to="Section 5, r after training against r before",
)
def balance_figure(rng: np.random.Generator) -> Figure:
    ratios = [1.0, 2.0, 4.0, 8.0, 16.0]
    curves = []
    for (method, name), rate, steps, settings in zip(
        METHODS, (0.07, 0.001), (20_000, 3000), (DIAGONAL, UNCLIPPED), strict=True
    ):
        found = run_balancing_experiment(settings, ratios, 3, rate, steps, rng, method)
        curves.append(Series(name, ratios, over_seeds(found.after)))
    return Figure(
        (*curves, Series("unchanged", ratios, ratios)),
        r"balance ratio $r(\theta)$ before training",
        "after training",
        "log",
        "log",
    )


@figure(
    "dynamical_stability/F4",
    title="Sharpness of the minima against the learning rate, ReLU networks",
    caption="As for diagonal networks: SGD's trace stays below the line 2 / learning rate, gradient descent's crosses "
    "it. Means of 3 runs.",
    answers_to="Section 5, sharpness against the learning rate (ReLU networks)",
)
def relu_sharpness_figure(rng: np.random.Generator) -> Figure:
    return sharpness_series(relu_runs(rng), RELU_RATES)


@figure(
    "dynamical_stability/F5",
    title="The largest stable rate of the minima reached, against the rate that reached them, ReLU networks",
    caption="SGD ends where its own rate is linearly stable: its points stay above the diagonal and rise with it. "
    "Gradient descent, which knows nothing of that condition, ends at one and the same largest stable rate, below its "
    "own from 0.006 on. Means of 3 runs.",
    answers_to="Section 3 and 5 (linear stability of trained minima)",
)
def stable_rate_figure(rng: np.random.Generator) -> Figure:
    x = RELU_RATES.tolist()
    curves = []
    for name, found in relu_runs(rng).items():
        stable = [[float(critical_learning_rate(jacobian)) for jacobian in runs] for runs in found.jacobian]
        curves.append(Series(name, x, over_seeds(np.array(stable)), "points"))
    return Figure(
        (*curves, Series("equal", x, x)), r"learning rate $\eta$", r"largest stable rate $\eta^*$", "log", "log"
    )
