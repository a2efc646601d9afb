"""Training and test error over time, at the end of training, and against the load (H3 to H7, H13, H20)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.dynamics.high_dimensional.setting import (
    ROUNDOFF,
    VARIANCES,
    Sampler,
    finite_size_shift,
    shares,
    unit_variance_inputs,
)
from proofs.ledger import Control, Evidence, Figure, Series, at_least, at_most, claim, equal, figure, within
from proofs.statistics import FALSE_ALARM, covers, mean_interval
from proofs.symbolic import scalar, vanishes
from refimpl.dynamics.high_dimensional import (
    asymptotic_generalization_error,
    effective_noise_variance,
    eigenvalue_edges,
    eigenvalue_resolvent,
    generalization_error,
    generalization_error_empirical,
    gradient_flow_weights,
    input_eigenvalues,
    optimal_ridge_error,
    optimal_stopping_time,
    training_error,
    training_error_empirical,
    weight_norm_empirical,
)
from refimpl.primitives.numbers import Array
from refimpl.tasks.teacher_student import LinearProblems, sample_linear_problems

TIMES = np.array([0.5, 2.0, 10.0, 50.0])
SIZES = ((12, 7), (10, 10), (7, 12))


def errors_of(problems: LinearProblems, weights: Array, noise_variance: float) -> tuple[Array, Array]:
    """Test error, noise of the test labels included, and training error, each (n_times, n_problems)."""
    test = ((weights - problems.teacher) ** 2).mean(axis=-1) + noise_variance
    fitted = (weights[..., None, :] @ problems.x)[..., 0, :]
    return test, ((problems.y - fitted) ** 2).mean(axis=-1)


def solution(y: Array, initial: Array, x: Array) -> Array:
    return gradient_flow_weights(x, y, initial, TIMES)


def exact_expectations(rng: np.random.Generator, what: str) -> float:
    """How far spectral sums are from expectations taken through the solution itself, relative to the largest."""
    worst = 0.0
    for n_inputs, n_examples in SIZES:
        x = sample_linear_problems(1, n_inputs, n_examples, 0, 0, 0, rng).x[0]
        eigenvalues = input_eigenvalues(x)
        if what == "test":
            parts = shares(x, solution, lambda weights, teacher, y: weights - teacher)
            found = parts.expectation(*VARIANCES) / n_inputs + VARIANCES[1]
            expected = generalization_error_empirical(TIMES, eigenvalues, *VARIANCES)
        elif what == "training":
            parts = shares(x, solution, lambda weights, teacher, y: y - weights @ x)  # noqa: B023 - called at once
            found = parts.expectation(*VARIANCES) / n_examples
            expected = training_error_empirical(TIMES, eigenvalues, n_examples, *VARIANCES)
        else:
            parts = shares(x, solution, lambda weights, teacher, y: weights)
            found = parts.expectation(*VARIANCES) / n_inputs
            expected = weight_norm_empirical(TIMES, eigenvalues, *VARIANCES)
        worst = max(worst, float(np.max(np.abs(found - expected)) / np.max(expected)))
    return worst


def generalization_shift(times: Array, load: float, variances: tuple[float, float, float]) -> Array:
    """How far the mean of a spectral sum of test errors is from the integral, times the number of inputs."""

    def excess(eigenvalues: Array) -> Array:
        return generalization_error_empirical(times, eigenvalues[:, None], *variances) - variances[1]

    return finite_size_shift(excess, load)


def training_shift(times: Array, load: float) -> Array:
    """The same of training errors, times the number of examples; modes that no data reach are not there."""

    def one_mode(eigenvalues: Array) -> Array:
        return training_error_empirical(times, eigenvalues[:, None], 1, *VARIANCES)

    return finite_size_shift(one_mode, load)


@claim(
    "high_dimensional/H3",
    title="The ensemble mean of the test error follows the formula in time",
    source="The generalization error over training",
    statement=r"E_g(t)=\textstyle\int\rho_\alpha\big[(\sigma_w^2+(\sigma_w^0)^2)e^{-2\lambda t/\tau}+"
    r"\tfrac{\sigma_\epsilon^2}\lambda(1-e^{-\lambda t/\tau})^2\big]d\lambda+\sigma_\epsilon^2",
    method="statistical",
    scope="exact for given inputs: spectral sums of test error and norm against the solution run on unit vectors, "
    "sizes (N, P) = (12, 7), (10, 10), (7, 12); their limit: 120 draws of 100 inputs at loads .5, 1, 2 and times .5, "
    "2, 10, 50, intervals of a joint false-alarm rate of 10^-6 around sums and simulated errors, against the integral "
    "and its known shift at finite size",
    uses=["high_dimensional/H1", "high_dimensional/H2"],
    control=Control("inputs of variance 1", sample=unit_variance_inputs),
)
def generalization_over_time(rng: np.random.Generator, sample: Sampler = sample_linear_problems) -> Evidence:
    # The 4 times share a decomposition of at most 12 modes with a condition number of a few hundred.
    evidence = at_most(exact_expectations(rng, "test"), 1e4 * ROUNDOFF, "exact expectation of E_g off by")
    evidence &= at_most(exact_expectations(rng, "norm"), 1e4 * ROUNDOFF, "of the norm")
    n_inputs, n_draws = 100, 120
    false_alarm = FALSE_ALARM / (2 * 3 * TIMES.size)
    for load in (0.5, 1.0, 2.0):
        problems = sample(n_draws, n_inputs, round(load * n_inputs), *VARIANCES, rng)
        simulated, _ = errors_of(
            problems, gradient_flow_weights(problems.x, problems.y, problems.initial, TIMES), VARIANCES[1]
        )
        sums = generalization_error_empirical(TIMES, input_eigenvalues(problems.x), *VARIANCES)
        expected = (
            generalization_error(TIMES, load, *VARIANCES) + generalization_shift(TIMES, load, VARIANCES) / n_inputs
        )
        for index, time in enumerate(TIMES):
            evidence &= covers(
                mean_interval(simulated[index], false_alarm), float(expected[index]), f"load {load:g}, t {time:g}: E_g"
            )
            evidence &= covers(mean_interval(sums[index], false_alarm), float(expected[index]), "sum")
    return evidence


@claim(
    "high_dimensional/H4",
    title="The ensemble mean of the training error follows the formula in time",
    source="The training error over training",
    statement=r"E_t(t)=\tfrac1\alpha\textstyle\int_{\lambda>0}\rho_\alpha\big[\lambda(\sigma_w^2+(\sigma_w^0)^2)+"
    r"\sigma_\epsilon^2\big]e^{-2\lambda t/\tau}d\lambda+(1-\tfrac1\alpha)_+\sigma_\epsilon^2",
    method="statistical",
    scope="exact for given inputs, sizes (N, P) = (12, 7), (10, 10), (7, 12); 60 draws of 100 inputs at loads .5, 1, "
    "2: simulated errors against their expectation for given inputs at times .5 to 50, that against the integral and "
    "its shift at finite size at times .5 to 10; the rate at which the error vanishes below a load of 1",
    uses=["high_dimensional/H1", "high_dimensional/H2"],
    control=Control("inputs of variance 1", sample=unit_variance_inputs),
)
def training_over_time(rng: np.random.Generator, sample: Sampler = sample_linear_problems) -> Evidence:
    # As for the test error.
    evidence = at_most(exact_expectations(rng, "training"), 1e4 * ROUNDOFF, "exact expectation of E_t off by")
    n_inputs, n_draws = 100, 60
    false_alarm = FALSE_ALARM / (3 * (TIMES.size + 3))
    for load in (0.5, 1.0, 2.0):
        n_examples = round(load * n_inputs)
        problems = sample(n_draws, n_inputs, n_examples, *VARIANCES, rng)
        _, simulated = errors_of(
            problems, gradient_flow_weights(problems.x, problems.y, problems.initial, TIMES), VARIANCES[1]
        )
        sums = training_error_empirical(TIMES, input_eigenvalues(problems.x), n_examples, *VARIANCES)
        for index, time in enumerate(TIMES):
            difference = simulated[index] - sums[index]
            evidence &= covers(mean_interval(difference, false_alarm), 0, f"load {load:g}, t {time:g}: E_t less sum")
        early = TIMES[:3]
        expected = training_error(early, load, *VARIANCES) + training_shift(early, load) / n_examples
        for index, time in enumerate(early):
            evidence &= covers(mean_interval(sums[index], false_alarm), float(expected[index]), f"t {time:g}: sum")
    low, _ = eigenvalue_edges(0.5)
    late = np.array([60.0, 120.0])
    decay = np.diff(np.log(training_error(late, 0.5, *VARIANCES)))[0] / -60
    # The density rises from its edge like a root, so e^(-2 low t) comes with a power t^(-3/2) and a factor 1 + O(1/t).
    return evidence & within(
        decay - 1.5 * np.log(2) / 60, 2 * low * 0.95, 2 * low * 1.05, "load .5: rate at which E_t vanishes"
    )


# --- the end of training ---


def without_zero_modes(load: float, signal: float, noise: float, init: float) -> float:
    return float(asymptotic_generalization_error(load, 0, noise, 0)) if load != 1 else float("inf")


@claim(
    "high_dimensional/H5",
    title="Fully trained, the error has a closed form that diverges only where examples equal parameters",
    source="The end of training",
    statement=r"E_g(\infty)=(1-\alpha)_+(\sigma_w^2+(\sigma_w^0)^2)+\sigma_\epsilon^2\tfrac{\min(\alpha,1)}{|1-\alpha|}"
    r"+\sigma_\epsilon^2",
    method="property",
    scope="44 loads from .05 to 20 apart from 1, against the integral at a time when all modes are learned; at a load "
    "of 1 its growth up to t = 10^6",
    uses=["high_dimensional/H2"],
    control=Control("the modes without data forgotten", closed_form=without_zero_modes),
)
def end_of_training(closed_form: Callable[..., Any] = asymptotic_generalization_error) -> Evidence:
    loads = [load for load in np.geomspace(0.05, 20, 40) if load != 1] + [0.5, 0.9, 1.1, 2.0]
    off = []
    for load in loads:
        low, _ = eigenvalue_edges(load)
        # Twice e^-40 of a mode is below roundoff.
        reached = generalization_error(40 / low, load, *VARIANCES)
        off.append(abs(float(reached) / closed_form(load, *VARIANCES) - 1))
    growing = generalization_error(np.array([1e2, 1e4, 1e6]), 1.0, *VARIANCES)
    # Weights over eigenvalues are sums of up to some thousand terms; close to 1 the load's own roundoff is amplified.
    return (
        at_most(max(off), 1e5 * ROUNDOFF, "closed form off the integral by")
        & equal(closed_form(1.0, *VARIANCES), float("inf"), "at load 1")
        & at_least(float(np.min(growing[1:] / growing[:-1])), 5, "growth of E_g at load 1 over two decades of time")
    )


LOADS = np.linspace(0.1, 4, 40)
MORE_LOADS = np.linspace(0.1, 6, 60)


def stopped_error(load: float, snr: float) -> float:
    """The error at the optimal time, with noise of variance 1 and a start at 0."""
    return float(generalization_error(optimal_stopping_time(load, snr), load, snr, 1.0, 0.0))


def untuned_error(load: float, snr: float) -> float:
    return float(asymptotic_generalization_error(load, snr, 1.0, 0.0))


@claim(
    "high_dimensional/H6",
    title="The peak at equally many examples and parameters is gone with early stopping or ridge",
    source="Double descent; early stopping and ridge",
    statement=r"\arg\max_\alpha E_g(\infty)=1,\qquad\min_tE_g(t)\ \text{and}\ \min_\gamma E_g(\gamma)\ "
    r"\text{decrease in}\ \alpha,\quad\partial_\alpha m=-\tfrac m{\sqrt{(\gamma+\alpha-1)^2+4\gamma}}",
    method="symbolic",
    scope="ridge for every load and ratio; stopping at 40 loads in [.1, 4] and a ratio of signal to noise of 5, 60 "
    "loads in [.1, 6] at .5 and 50",
    uses=["high_dimensional/H5", "high_dimensional/H8", "high_dimensional/H10"],
    control=Control("training to the end", tuned=untuned_error),
)
def double_descent(tuned: Callable[[float, float], float] = stopped_error) -> Evidence:
    gamma, alpha = scalar("gamma", positive=True), scalar("alpha", positive=True)
    m = eigenvalue_resolvent(np.asarray(gamma), alpha).item()
    evidence = vanishes(
        sympy.diff(m, alpha) + m / sympy.sqrt((gamma + alpha - 1) ** 2 + 4 * gamma), "slope of the resolvent"
    )
    untuned = [untuned_error(load, 5.0) for load in LOADS]
    evidence &= within(float(LOADS[np.argmax(untuned)]), 0.999, 1.001, "untuned error largest at load")
    rises = []
    for snr, loads in ((5.0, LOADS), (0.5, MORE_LOADS), (50.0, MORE_LOADS)):
        errors = [tuned(load, snr) for load in loads]
        rises.append(float(np.max(np.diff(errors))))
        ridge = [float(optimal_ridge_error(load, snr, 1.0)) for load in loads]
        rises.append(float(np.max(np.diff(ridge))))
    return evidence & at_most(max(rises), -1e-6, "largest rise of a tuned error from load to load")


@claim(
    "high_dimensional/H7",
    title="With as many examples as parameters the noise term grows like the root of time",
    source="The divergence at load 1 (derived)",
    statement=r"\textstyle\int\tfrac{\rho_1}\lambda(1-e^{-\lambda t/\tau})^2d\lambda=\tfrac{2(2-\sqrt2)}{\sqrt\pi}"
    r"\sqrt{t/\tau}-\tfrac12+O(t^{-1/2})",
    method="symbolic",
    scope="the constant from the density at its edge, by integration; the integral itself at t = 10^2, .., 10^6",
    uses=["high_dimensional/H2"],
    control=Control("a load of 1.1", load=1.1),
)
def growth_of_the_noise(load: float = 1.0) -> Evidence:
    x = scalar("x", positive=True)
    # With lambda = x^2/t the density 1/(pi lambda^(1/2)) gives sqrt(t) times a number.
    integrand = sympy.expand((1 - sympy.exp(-(x**2))) ** 2)
    by_parts = sympy.integrate(sympy.expand(sympy.diff(integrand, x) / x), (x, 0, sympy.oo))
    limit = 2 * (2 - sympy.sqrt(2)) / sympy.sqrt(sympy.pi)
    evidence = vanishes(2 / sympy.pi * by_parts - limit, "constant")
    lam = scalar("l", positive=True)
    edge = eigenvalue_resolvent(np.asarray(lam), sympy.Integer(1)).item()
    # The next term is that of the resolvent at its singularity, which a power of time shares.
    evidence &= vanishes(sympy.limit(edge - 1 / sympy.sqrt(lam), lam, 0, "+") + sympy.Rational(1, 2), "next term")
    times = 10.0 ** np.arange(2, 7)
    noise = generalization_error(times, load, 0.0, 1.0, 0.0) - 1
    rest = (noise - float(limit) * np.sqrt(times) + 0.5) * np.sqrt(times)
    ratios = noise / np.sqrt(times)
    return (
        evidence
        & within(float(ratios[-1]), float(limit) - 0.001, float(limit), "noise over the root of time at 10^6")
        # The next coefficient of the density is 1/8 of the first; the integral of its mode adds a constant of order 1.
        & at_most(float(np.max(np.abs(rest))), 0.25, "what two terms leave, times the root of time")
    )


# --- the start ---


def start_in_the_span(problems: LinearProblems) -> LinearProblems:
    """Initial weights without a component where there are no data."""
    left, _, _ = np.linalg.svd(problems.x, full_matrices=False)
    inside = (problems.initial[:, None] @ left) @ np.swapaxes(left, -1, -2)
    return problems._replace(initial=inside[:, 0])


def as_drawn(problems: LinearProblems) -> LinearProblems:
    return problems


@claim(
    "high_dimensional/H13",
    title="Large initial weights hurt for ever where parameters outnumber examples, and not at all elsewhere",
    source="The frozen subspace; small initial weights",
    statement=r"E_g(\infty)\big|_{\sigma_w^0}-E_g(\infty)\big|_0=(1-\alpha)_+(\sigma_w^0)^2",
    method="property",
    scope="the closed form at loads .5 and 2; 40 unit vectors as starts with 40 inputs and 20, 80 examples, exact",
    uses=["high_dimensional/H5", "high_dimensional/H12"],
    control=Control("starts in the span of the data", start=start_in_the_span),
)
def initial_weights(rng: np.random.Generator, start: Callable[[LinearProblems], LinearProblems] = as_drawn) -> Evidence:
    table = [
        [round(asymptotic_generalization_error(load, 1.0, 0.1, init), 12) for init in (0.0, 0.5, 2.0)]
        for load in (0.5, 2.0)
    ]
    evidence = equal(table, [[0.7, 0.95, 1.7], [0.2, 0.2, 0.2]], "E_g at the end for starts of variance 0, .5, 2")
    for n_examples, share in ((20, 0.5), (80, 0.0)):
        drawn = sample_linear_problems(1, 40, n_examples, 0, 0, 0, rng)
        same = LinearProblems(*(np.repeat(field, 40, axis=0) for field in drawn))._replace(initial=np.eye(40))
        problems = start(same)
        low, _ = eigenvalue_edges(n_examples / 40)
        kept = gradient_flow_weights(problems.x, problems.y, problems.initial, 1000 / low)
        # Projections whose 40 entries are sums of at most 40 terms.
        evidence &= within(
            float((kept**2).sum() / 40),
            share - 1e4 * ROUNDOFF,
            share + 1e4 * ROUNDOFF,
            f"share of a start that stays at load {n_examples / 40:g}",
        )
    return evidence


# --- inputs that the student does not see ---


def label_noise_alone(signal: float, noise: float, n_inputs: int, n_teacher_inputs: int) -> float:
    return noise


@claim(
    "high_dimensional/H20",
    title="Inputs of the teacher that the student does not see act as label noise",
    source="Target and student mismatch; the linear instance (derived)",
    statement=r"\sigma_{\rm eff}^2=\sigma_\epsilon^2+\tfrac{M-N}N\sigma_w^2\ \text{in place of}\ \sigma_\epsilon^2",
    method="statistical",
    scope="(N, M, P) = (120, 150, 60) and (100, 180, 150), 100 draws each, times .5, 3, 15; intervals of a joint "
    "false-alarm rate of 10^-6 for simulated errors less their expectations for given inputs, and for these less the "
    "integral and its shift",
    uses=["high_dimensional/H3", "high_dimensional/H4"],
    control=Control("the label noise alone", effective=label_noise_alone),
)
def unseen_inputs(rng: np.random.Generator, effective: Callable[..., float] = effective_noise_variance) -> Evidence:
    signal, noise, init = 1.0, 0.2, 0.1
    times = np.array([0.5, 3.0, 15.0])
    sizes = ((120, 150, 60), (100, 180, 150))
    false_alarm = FALSE_ALARM / (3 * len(sizes) * times.size)
    evidence = None
    for n_inputs, n_teacher, n_examples in sizes:
        variances = signal, effective(signal, noise, n_inputs, n_teacher), init
        problems = sample_linear_problems(
            100, n_inputs, n_examples, signal, noise, init, rng, n_unseen=n_teacher - n_inputs
        )
        weights = gradient_flow_weights(problems.x, problems.y, problems.initial, times)
        # The unseen inputs of a test example add their share to its label.
        test, training = errors_of(problems, weights, noise + signal * (n_teacher - n_inputs) / n_inputs)
        eigenvalues = input_eigenvalues(problems.x)
        sums = generalization_error_empirical(times, eigenvalues, *variances)
        fitted = training_error_empirical(times, eigenvalues, n_examples, *variances)
        load = n_examples / n_inputs
        expected = (
            generalization_error(times, load, *variances) + generalization_shift(times, load, variances) / n_inputs
        )
        for index, time in enumerate(times):
            checks = (
                covers(
                    mean_interval(test[index] - sums[index], false_alarm), 0, f"N {n_inputs}, t {time:g}: E_g less sum"
                )
                & covers(mean_interval(training[index] - fitted[index], false_alarm), 0, "E_t less sum")
                & covers(mean_interval(sums[index], false_alarm), float(expected[index]), "sum")
            )
            evidence = checks if evidence is None else evidence & checks
    assert evidence is not None
    return evidence


# --- figures ---


@figure(
    "high_dimensional/F2",
    title="Training and test error over time",
    caption="Lines: the formulas; points: means over 20 simulations of 100 inputs. The test error falls and rises "
    "again, most at a load of 1, while the training error only falls.",
    answers_to="the figure of the dynamics of training and generalization error",
)
def dynamics_figure(rng: np.random.Generator) -> Figure:
    parts = []
    line, points = np.geomspace(0.1, 1000, 80), np.geomspace(0.1, 1000, 13)
    for load in (0.5, 1.0, 2.0):
        problems = sample_linear_problems(20, 100, round(100 * load), *VARIANCES, rng)
        weights = gradient_flow_weights(problems.x, problems.y, problems.initial, points)
        for name, theory, simulated in zip(
            ("test", "training"), (generalization_error, training_error), errors_of(problems, weights, 0.5), strict=True
        ):
            parts.append(Series(f"{name} error, load {load:g}", line.tolist(), theory(line, load, *VARIANCES).tolist()))
            parts.append(
                Series(f"{name}, simulated, load {load:g}", points.tolist(), simulated.mean(axis=1).tolist(), "points")
            )
    return Figure(tuple(parts), x_label=r"time $t/\tau$", y_label="mean squared error", x_scale="log")


@figure(
    "high_dimensional/F3",
    title="Test error against the load, tuned and untuned",
    caption="The error at fixed times peaks ever higher at a load of 1; optimally stopped and with optimal ridge it "
    "falls, on two curves that nearly coincide. Ratio of signal to noise 5, noise of variance 1.",
    answers_to="the figure of the generalization error against the number of examples per parameter",
)
def double_descent_figure(rng: np.random.Generator) -> Figure:
    loads = np.geomspace(0.1, 6, 81)
    curves = {
        f"t = {time:g}": [float(generalization_error(time, load, 5.0, 1.0, 0.0)) for load in loads]
        for time in (3.0, 30.0, 300.0, 3000.0)
    }
    curves["optimally stopped"] = [stopped_error(load, 5.0) for load in loads]
    curves["optimal ridge"] = [float(optimal_ridge_error(load, 5.0, 1.0)) for load in loads]
    return Figure(
        tuple(Series(title, loads.tolist(), values) for title, values in curves.items()),
        x_label=r"load $\alpha=P/N$",
        y_label=r"test error $E_g/\sigma_\epsilon^2$",
        x_scale="log",
        y_scale="log",
    )


@figure(
    "high_dimensional/F4",
    title="The size of the initial weights at the end of training",
    caption="Below a load of 1 the error at the end of training rises with the initial variance by the share of "
    "weights that never move; above it is the same for all.",
    answers_to="the figure of the effect of initialization",
)
def initial_figure(rng: np.random.Generator) -> Figure:
    loads = [*(1 - np.geomspace(0.95, 0.005, 30)), *(1 + np.geomspace(0.005, 2, 30))]  # it diverges at 1
    return Figure(
        tuple(
            Series(
                f"initial variance {init:g}",
                loads,
                [asymptotic_generalization_error(load, 1.0, 0.1, init) for load in loads],
            )
            for init in (0.0, 0.5, 2.0)
        ),
        x_label=r"load $\alpha=P/N$",
        y_label=r"test error $E_g(\infty)$",
        y_scale="log",
    )
