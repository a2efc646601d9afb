r"""The predictors of Section 4: which one is best, their limits, and what the two metrics measure."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.ledger import Control, Evidence, Figure, Matrix, Series, at_most, claim, equal, figure
from proofs.statistics import FALSE_ALARM, covers, lies_above, mean_interval
from proofs.symbolic import array, block, scalar, vanishes
from proofs.wick import Gaussian, expectation
from refimpl.incontext.learning_algorithms import (
    bayes_ridge_weights,
    gd_weights,
    implicit_linear_weight_difference,
    implicit_linear_weights,
    knn_predict,
    least_norm_risk,
    linear_predictor,
    one_layer_rate,
    one_layer_risk,
    online_predictions,
    ridge_risk,
    sample_prompts,
    sgd_weights,
    squared_prediction_difference,
)
from refimpl.primitives.least_squares import ols_weights, ridge_weights
from refimpl.primitives.numbers import Array, transpose
from refimpl.primitives.traces import trace_symbol

Fit = Callable[..., Array]

ROUNDOFF = float(np.finfo(float).eps) / 2
SIZES = N, D = tuple(sympy.Symbol(name, integer=True, positive=True) for name in "nd")
NOISE, PRIOR, RIDGE, ETA = (scalar(name, positive=True) for name in ("s", "t", "rho", "eta"))
X, W, E = block("X"), block("w", "column"), block("e", "column")


def in_one_block(fit: Fit, **arguments: Any) -> Any:
    """What a fit makes of the examples X and X w + e, blocks of any size."""
    return fit(np.array([[X]], dtype=object), np.array([X * W + E], dtype=object), **arguments)[0]


def law(weight_variance: Any = PRIOR, noise_variance: Any = NOISE) -> tuple[Gaussian, Gaussian]:
    """The weights and the noise, of variances tau^2 and sigma^2."""
    return Gaussian(W, D, 1, weight_variance), Gaussian(E, N, 1, noise_variance)


def squared_length(column: Any) -> Any:
    return trace_symbol()(sympy.expand(sympy.transpose(column) * column))


# --- the best predictor (Section 4.3) ---


def penalty_of_deviations(x: Array, y: Array, noise_var: Any, prior_var: Any) -> Array:
    """Ridge with the ratio of the standard deviations for penalty."""
    ratio = sympy.sqrt(noise_var / prior_var) if x.dtype == object else np.sqrt(noise_var / prior_var)
    return ridge_weights(x, y, ratio)


@claim(
    "learning_algorithms/K8",
    title="The posterior mean is ridge regression at the ratio of the variances, the best penalty for every X",
    source="Eq. 18 and 19",
    statement=r"\tau^2X^\top(\tau^2XX^\top+\sigma^2I)^{-1}=(X^\top X+\tfrac{\sigma^2}{\tau^2}I)^{-1}X^\top;\quad "
    r"\mathbb E\lVert\hat w_\lambda-w\rVert^2=\sum_i\tfrac{\tau^2\lambda^2+\sigma^2s_i}{(s_i+\lambda)^2},\ "
    r"\partial_\lambda=\sum_i\tfrac{2s_i(\tau^2\lambda-\sigma^2)}{(s_i+\lambda)^3}",
    method="symbolic",
    scope="all n and d, every X (blocks; the risk over w and noise by Wick's rules, then by eigenvalues); sampled "
    "with 6 examples of 8 inputs, 20 000 tasks, four pairs of variances against five other penalties each, jointly at "
    "a false-alarm rate of 10^-6",
    control=Control("the ratio of the standard deviations", bayes=penalty_of_deviations),
)
def bayes_is_ridge(rng: np.random.Generator, bayes: Fit = bayes_ridge_weights) -> Evidence:
    # The fit is the inverse of G = X^T X + sigma^2/tau^2 times the moment; times G, both sides lose their inverse.
    inverse = block("R", "symmetric")
    gram = sympy.transpose(X) * X
    fitted = in_one_block(bayes, noise_var=NOISE, prior_var=PRIOR).xreplace({1 / (gram + NOISE / PRIOR): inverse})
    targets = X * W + E
    kernel = PRIOR * X * sympy.transpose(X) + NOISE
    posterior = [
        fitted - inverse * sympy.transpose(X) * targets,
        (gram + NOISE / PRIOR) * PRIOR * sympy.transpose(X) - sympy.transpose(X) * kernel,
    ]

    # The error at any penalty, averaged over w and the noise: a trace of functions of X^T X.
    error = inverse * sympy.transpose(X) * targets - W
    trace = trace_symbol()
    shrunk = inverse * gram
    averaged = PRIOR * (trace(sympy.expand(sympy.transpose(shrunk) * shrunk)) - 2 * trace(shrunk) + D)
    averaged += NOISE * trace(inverse * gram * inverse)
    s = scalar("s_i", positive=True)
    share = s / (s + RIDGE)
    by_eigenvalue = PRIOR * (share**2 - 2 * share + 1) + NOISE * share / (s + RIDGE)
    risk = ridge_risk(np.array([s], dtype=object), RIDGE, NOISE, PRIOR)[()]
    slope = 2 * s * (PRIOR * RIDGE - NOISE) / (s + RIDGE) ** 3
    risks = [
        expectation(squared_length(error), *law()) - averaged,
        risk - by_eigenvalue,
        sympy.diff(risk, RIDGE) - slope,
    ]
    evidence = vanishes(posterior, "posterior mean") & vanishes(risks, "risk and its slope")

    penalties = (1 / 64, 1 / 16, 1 / 9, 1 / 4, 4 / 9, 1.0)
    settings = ((1.0, 0.25), (1.5, 0.5), (1.0, 0.5), (0.75, 0.5))
    least = []
    for prior_std, noise_std in settings:
        tasks = sample_prompts(20_000, 6, 8, rng, prior_std, noise_std)

        def errors(weights: Array, tasks: Any = tasks) -> Array:
            return ((weights - tasks.weights) ** 2).sum(axis=-1)

        best = errors(bayes(tasks.x, tasks.y, noise_var=noise_std**2, prior_var=prior_std**2))
        for penalty in penalties:
            if not np.isclose(penalty, noise_std**2 / prior_std**2):
                gaps = errors(ridge_weights(tasks.x, tasks.y, penalty)) - best
                least.append(mean_interval(gaps, FALSE_ALARM / 20))
    worst = min(least, key=lambda interval: interval.low)
    count = equal(len(least), 20, "penalties compared")
    return evidence & count & lies_above(worst, 0, "least gap to another penalty")


@figure(
    "learning_algorithms/F2",
    title="Risk of ridge regression against noise",
    caption="For each noise level the least risk, relative to which the columns are shown, is at the penalty equal to "
    "the ratio of the variances: a dark diagonal.",
    answers_to="Figure 2",
)
def risk_of_ridge(rng: np.random.Generator) -> Figure:
    ratios = (1e-6, 1 / 16, 1 / 9, 1 / 4, 4 / 9)
    tasks = sample_prompts(4000, 6, 8, rng)
    eigenvalues = np.linalg.eigvalsh(transpose(tasks.x) @ tasks.x).clip(0)
    risks = np.array([[ridge_risk(eigenvalues, penalty, noise, 1.0).mean() for noise in ratios] for penalty in ratios])
    labels = "0, 1/16, 1/9, 1/4, 4/9"
    return Figure(
        (
            Matrix(
                "risk over the column's least, less 1",
                risks / risks.min(axis=0) - 1,
                f"penalty {labels}",
                f"noise {labels}",
            ),
        )
    )


# --- its limits ---


def twice_the_rate(x: Array, y: Array, learning_rate: float) -> Array:
    return gd_weights(x, y, 2 * learning_rate)


@claim(
    "learning_algorithms/K9",
    title="Ridge is least squares at small penalties and one gradient step at large ones",
    source="Section 4.3",
    statement=r"\lVert\hat w_\lambda-X^+y\rVert\le\lambda\,\tfrac{\lVert X^\top y\rVert}{s_{\min}^2},\qquad "
    r"\lVert\lambda\hat w_\lambda-X^\top y\rVert\le\tfrac{s_{\max}}\lambda\lVert X^\top y\rVert,\ "
    r"X^\top y/\lambda\text{ being one step at }\alpha=\tfrac1{2\lambda}",
    method="symbolic",
    scope="all sizes, by eigenvalues s > 0 of X^T X: the two distances are s(s + lambda) and s + lambda in a "
    "denominator; the bounds in floats at 200 standard normal problems of 5 examples and 8 inputs, and of 12 and 8, "
    "each at six penalties from 10^-6 to 10^6",
    control=Control("one step at 1/lambda", step=twice_the_rate),
)
def limits_of_ridge(rng: np.random.Generator, step: Fit = gd_weights) -> Evidence:
    a, b = scalar("a", positive=True), scalar("b")
    one = np.array([[a]], dtype=object), np.array([b], dtype=object)
    s = a**2
    ridge = ridge_weights(*one, RIDGE)[0]
    stepped = step(*one, learning_rate=1 / (2 * RIDGE))[0]
    identities = [
        ridge - a * b / s + a * b * RIDGE / (s * (s + RIDGE)),
        ridge - stepped + a * b * s / (RIDGE * (s + RIDGE)),
    ]

    ratios = []
    for n in (5, 12):
        tasks = sample_prompts(200, n, 8, rng, noise_std=0.5)
        moment = np.linalg.norm(transpose(tasks.x) @ tasks.y[..., None], axis=(-2, -1))
        singular = np.linalg.svd(tasks.x, compute_uv=False)
        least, largest = singular[:, -1] ** 2, singular[:, 0] ** 2
        for penalty in (1e-6, 1e-4, 1e-2, 1e2, 1e4, 1e6):
            ridge = ridge_weights(tasks.x, tasks.y, penalty)
            to_least_squares = np.linalg.norm(ridge - ols_weights(tasks.x, tasks.y), axis=-1)
            to_step = np.linalg.norm(ridge - step(tasks.x, tasks.y, learning_rate=1 / (2 * penalty)), axis=-1)
            # A solver's backward error is a few units of the matrix's norm times the solution's, over its least
            # eigenvalue: penalty itself where there are fewer examples than inputs.
            smallest = penalty if n < 8 else least + penalty
            rounded = 100 * ROUNDOFF * (largest + penalty) / smallest * np.linalg.norm(ridge, axis=-1)
            rounded += 100 * ROUNDOFF * largest / least * np.linalg.norm(ridge, axis=-1)
            ratios += [
                float(np.max(to_least_squares / (penalty * moment / least**2 + rounded))),
                float(np.max(to_step / (largest / penalty * moment / penalty + rounded))),
            ]
    return vanishes(identities, "distances by eigenvalue") & at_most(max(ratios), 1, "distance over its bound")


@claim(
    "learning_algorithms/K10",
    title="The best single gradient step, which one linear-attention layer takes, has the rate 1/(n+d+1+sigma^2/tau^2)",
    source="derived here; behind Figure 3, one layer is like one gradient step",
    statement=r"\mathbb E\lVert\eta X^\top y-w\rVert^2=\tau^2d-2\eta\tau^2nd+\eta^2nd\,(\tau^2(n+d+1)+\sigma^2),\quad "
    r"\eta^*=\tfrac1{n+d+1+\sigma^2/\tau^2}",
    method="symbolic",
    scope="all n and d, standard normal inputs (the shipped step on blocks, averaged by Wick's rules over X, w and "
    "the noise); sampled at three settings, 50 000 tasks each",
    control=[
        Control("the rate 1/n", rate=lambda n, d, noise, prior: 1 / n),
        Control("n + d in place of n + d + 1", rate=lambda n, d, noise, prior: 1 / (n + d + noise / prior)),
    ],
)
def best_single_step(rng: np.random.Generator, rate: Callable[..., Any] = one_layer_rate) -> Evidence:
    # The paper's alpha is half of eta.
    error = in_one_block(gd_weights, learning_rate=ETA / 2) - W
    averaged = expectation(squared_length(error), *law(), Gaussian(X, N, D))
    risk = one_layer_risk(ETA, N, D, NOISE, PRIOR)
    slope = sympy.diff(risk, ETA).subs(ETA, rate(N, D, NOISE, PRIOR))
    evidence = vanishes(averaged - risk, "risk") & vanishes(slope, "slope of the risk at the rate")
    for n, d, noise_std, prior_std in ((10, 8, 0.0, 1.0), (10, 8, 0.5, 1.0), (4, 8, 1.0, 0.5)):
        tasks = sample_prompts(50_000, n, d, rng, prior_std, noise_std)
        eta = rate(n, d, noise_std**2, prior_std**2)
        errors = ((gd_weights(tasks.x, tasks.y, eta / 2) - tasks.weights) ** 2).sum(axis=-1)
        known = one_layer_risk(eta, n, d, noise_std**2, prior_std**2)
        evidence &= covers(
            mean_interval(errors, FALSE_ALARM / 3), known, f"sampled risk, n = {n}, sigma = {noise_std}:"
        )
    return evidence


# --- the metrics (Section 4.1) ---


def of_unit_covariance(difference: Array, covariance: Array) -> Any:
    return difference @ difference


def of_the_covariance(difference: Array, covariance: Array) -> Any:
    return difference @ covariance @ difference


@claim(
    "learning_algorithms/K11",
    title="For linear algorithms the two metrics agree on standard normal queries, and differ by the covariance "
    "otherwise",
    source="Section 4.1",
    statement=r"\mathbb E_{x'}\mathrm{SPD}=\Delta^\top\Sigma\,\Delta,\quad\mathrm{ILWD}=\lVert\Delta\rVert^2,\quad "
    r"\Delta=\hat w_{A_1}-\hat w_{A_2}",
    method="symbolic",
    scope="SPD on every three probes of 2 inputs is the quadratic form of their second moments; over Gaussian probes "
    "its mean, and ILWD on every set of probes, for all sizes (blocks, Wick's rules); sampled with d = 8, 200 000 "
    "queries, Sigma = I and Sigma with eigenvalues from 1/4 to 4",
    control=Control("SPD = ILWD whatever the covariance", expected=of_unit_covariance),
)
def metrics_of_linear_algorithms(
    rng: np.random.Generator, expected: Callable[[Array, Array], Any] = of_the_covariance
) -> Evidence:
    probes, first, second = array("x", (3, 2)), array("a", (2,)), array("b", (2,))
    spd = squared_prediction_difference(probes @ first, probes @ second)
    given = vanishes(spd - expected(first - second, probes.T @ probes / 3), "SPD on given probes")

    # n probes Z of covariance C, and the weights that their predictions Z D imply.
    probe, delta, covariance, inverse = (
        block("Z"),
        block("D", "column"),
        block("C", "symmetric"),
        block("R", "symmetric"),
    )
    trace, gram = trace_symbol(), sympy.transpose(probe) * probe
    form = trace(sympy.transpose(delta) * gram * delta) / N
    averaged = expectation(form, Gaussian(probe, N, covariance))
    implied = implicit_linear_weights(np.array([[probe]], dtype=object), np.array([probe * delta], dtype=object))[0]
    implied = sympy.expand(implied.xreplace({1 / gram: inverse})).subs(gram, 1 / inverse)
    differences = [averaged - trace(sympy.transpose(delta) * covariance * delta), implied - delta]
    in_general = vanishes(differences, "SPD over Gaussian probes, and implied weights")

    scales = np.linspace(0.5, 2, 8)
    delta = rng.standard_normal((2, 8))
    x = rng.standard_normal((16, 8))
    between = delta[0] - delta[1]
    ilwd = float(implicit_linear_weight_difference(x, x @ delta[0], x @ delta[1]))
    # The normal equations square the condition number, and solving them and the square rounds at most 100 units more.
    allowed = 200 * ROUNDOFF * np.linalg.cond(x) ** 2 * (between @ between + np.linalg.norm(delta) ** 2)
    agree = at_most(abs(ilwd - between @ between) / allowed, 1, "ILWD error over rounding bound")
    evidence = given & in_general & agree
    for name, deviations in (("Sigma = I", np.ones(8)), ("Sigma not I", scales)):
        queries = deviations * rng.standard_normal((200_000, 8))
        predictions = queries @ delta.T
        sampled = squared_prediction_difference(predictions[:, :1], predictions[:, 1:])
        known = float(expected(between, np.diag(deviations**2)))
        evidence &= covers(mean_interval(sampled, FALSE_ALARM / 2), known, f"sampled SPD, {name}:")
    return evidence


# --- least squares around n = d (Figure 1) ---


def little_ridge(x: Array, y: Array) -> Array:
    return ridge_weights(x, y, 0.1)


@claim(
    "learning_algorithms/K12",
    title="Least squares of least norm misses the directions it has not seen, and peaks with noise where n = d",
    source="Figure 1, n < d",
    statement=r"\mathbb E\lVert X^+y-w\rVert^2=\tau^2(d-n)\text{ without noise, for every X of rank n};\ "
    r"+\tfrac{\sigma^2n}{d-n-1}\text{ for Gaussian X},\ n\le d-2;\ \tfrac{\sigma^2d}{n-d-1}\text{ for }n\ge d+2",
    method="symbolic",
    scope="all n <= d, every X of full rank (blocks: X X^T has the inverse Q, and a trace is a rank); the shipped fit "
    "at 50 Gaussian X for each of 1 to 8 examples of 8 inputs, to roundoff; sampled at (n, d) = (5, 8), (4, 14), (20, "
    "5), where the mean of an inverse Wishart matrix enters, 50 000 tasks each",
    control=Control("ridge(0.1) in place of least norm", fit=little_ridge),
)
def least_norm_errors(rng: np.random.Generator, fit: Fit = ols_weights) -> Evidence:
    # The fit without noise is P w with P = X^T Q X.
    inverse = block("Q", "symmetric")
    product = X * sympy.transpose(X)
    projection = sympy.transpose(X) * inverse * X
    idempotent = sympy.expand(projection * projection).subs(product, 1 / inverse)
    # tr P is that of Q X X^T, which is the n x n identity.
    turned = sympy.expand(inverse * product).subs(product, 1 / inverse)
    noise_part = expectation(squared_length(sympy.transpose(X) * inverse * E), law()[1])
    trace = trace_symbol()
    identities = [
        sympy.expand(idempotent - projection),
        turned - 1,
        noise_part - NOISE * trace(inverse * product * inverse),
        inverse * product.subs(product, 1 / inverse) * inverse - inverse,
    ]

    errors, count = [], 0
    for n in range(1, 9):
        x = rng.standard_normal((50, n, 8))
        # Fitted to the targets of each unit vector in turn, the fit is the projection.
        fitted = np.stack([fit(x, x[..., j]) for j in range(8)], axis=-1)
        missed = ((np.eye(8) - fitted) ** 2).sum(axis=(-2, -1))
        condition = np.linalg.cond(x)
        errors.append(float(np.max(np.abs(missed - (8 - n)) / (1000 * ROUNDOFF * condition))))
        count += len(x)
    evidence = vanishes(identities, "projection, its rank, and the noise")
    evidence &= at_most(max(errors), 1, "error over rounding bound") & equal(count, 400, "inputs")
    for n, d, noise_std in ((5, 8, 0.0), (4, 14, 0.5), (20, 5, 0.5)):
        tasks = sample_prompts(50_000, n, d, rng, noise_std=noise_std)
        sampled = ((fit(tasks.x, tasks.y) - tasks.weights) ** 2).sum(axis=-1)
        known = float(least_norm_risk(n, d, noise_std**2, 1.0))
        evidence &= covers(mean_interval(sampled, FALSE_ALARM / 3), known, f"sampled error, n = {n}, d = {d}:")
    return evidence


@figure(
    "learning_algorithms/F1",
    title="How far each algorithm is from least squares",
    caption="All but least squares itself stay away from it at every number of examples; its own error drops to 0 at "
    "n = d = 8. Half-widths are two standard errors.",
    answers_to="Figure 1",
)
def distance_from_least_squares(rng: np.random.Generator) -> Figure:
    n_tasks, n_points, d = 400, 17, 8
    tasks = sample_prompts(n_tasks, n_points, d, rng)
    reference = online_predictions(linear_predictor(ols_weights), tasks.x, tasks.y)
    predictors = {
        "SGD(0.01)": linear_predictor(sgd_weights, learning_rate=0.01),
        "GD(0.02)": linear_predictor(gd_weights, learning_rate=0.02),
        "3 nearest neighbours": knn_predict,
        "ridge(0.1)": linear_predictor(ridge_weights, penalty=0.1),
    }
    counts = list(range(1, n_points))

    def curve(title: str, values: Array) -> Series:
        spread = 2 * values.std(axis=0) / np.sqrt(n_tasks)
        return Series(title, counts, values.mean(axis=0).tolist(), spread=spread.tolist())

    parts = [
        curve(name, (online_predictions(one, tasks.x, tasks.y) - reference) ** 2 / d)
        for name, one in predictors.items()
    ]
    parts.append(curve("least squares against the truth", (reference - tasks.y[:, 1:]) ** 2 / d))
    return Figure(tuple(parts), "examples $n$", "SPD / d")
