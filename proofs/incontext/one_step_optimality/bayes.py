r"""The Bayes predictor: ridge regression turns the loss into a distance (Lemma 1), and one step stays above it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.incontext.one_step_optimality.population import loss_without_one
from proofs.incontext.one_step_optimality.setting import NOISE, SIGMA, THETA, D, N, Trace, X, column
from proofs.ledger import Control, Evidence, Figure, Series, claim, figure, holds
from proofs.statistics import covers, lies_above, lies_below, mean_interval
from proofs.symbolic import block, blocks, scalar, vanishes
from proofs.wick import Gaussian, expectation
from refimpl.incontext.one_step_optimality import (
    EffectiveWeights,
    bayes_risk_bounds,
    bayes_risk_monte_carlo,
    conditional_bayes_risk,
    optimal_learning_rate,
    optimal_loss,
    population_loss,
)
from refimpl.primitives.least_squares import gradient_descent, ols_weights, ridge_weights
from refimpl.primitives.numbers import Array
from refimpl.tasks.linear_regression import sample_gaussian_tasks

T = sympy.transpose
Y, B = block("y", "column"), block("B")


def least_squares_without_penalty(x: Array, y: Array, penalty: Any) -> Array:
    """Ordinary least squares where there are numbers; on blocks the normal equations with half the penalty."""
    return ridge_weights(x, y, penalty / 2) if x.dtype == object else ols_weights(x, y)


@claim(
    "one_step_optimality/OS3",
    title="The loss is the distance to the ridge solution plus the Bayes risk",
    source="Lemma 1",
    statement=r"L(w,M)=\mathbb E\lVert M^\top G_Dw-\hat w_D\rVert^2+C,\quad\hat w_D=(X^\top X+\sigma^2I)^{-1}X^\top y,"
    r"\ C=\sigma^2+\sigma^2\,\mathbb E\,\mathrm{tr}(X^\top X+\sigma^2I)^{-1}",
    method="symbolic",
    scope="all d, n, sigma, given any inputs (blocks): what the ridge solution misses of the task is uncorrelated "
    "with the targets, hence independent of the prompt, and has covariance sigma^2 K^-1; and 50 000 tasks for each of "
    "three random weights at d = 3, n = 9, sigma = 0.7",
    uses=["one_step_optimality/OS6"],
    control=Control("least squares with another penalty", posterior_mean=least_squares_without_penalty),
)
def loss_is_a_distance(rng: np.random.Generator, posterior_mean: Callable[..., Array] = ridge_weights) -> Evidence:
    kernel = T(X) * X + SIGMA**2
    ridge = posterior_mean(blocks([[X]]), column(Y), SIGMA**2)[0]
    normal = vanishes(kernel * ridge - T(X) * Y, "K times the ridge solution - X'y")
    # K times what it misses of the task, X being given.
    targets = X * THETA + NOISE
    missed = sympy.expand(kernel * THETA - T(X) * targets)
    given_inputs = Gaussian(THETA, D, 1), Gaussian(NOISE, N, 1, SIGMA**2)
    uncorrelated = expectation(Trace(sympy.expand(missed * T(targets) * B)), *given_inputs)
    covariance = expectation(Trace(sympy.expand(missed * T(missed) * B)), *given_inputs)
    risk = conditional_bayes_risk(blocks([[X]]), SIGMA).item()
    exact = vanishes(
        [
            uncorrelated,
            covariance - SIGMA**2 * Trace(sympy.expand(kernel * B)),
            risk - SIGMA**2 - SIGMA**2 * Trace(1 / kernel),
        ],
        "covariance with y, own covariance, risk given the inputs",
    )

    evidence = normal & exact
    for index in range(3):
        weights = EffectiveWeights(rng.normal(0, 0.2, 4), rng.normal(0, 0.05, (4, 3)))
        tasks = sample_gaussian_tasks(50_000, 3, 9, 0.7, rng)
        tokens = np.concatenate([tasks.x, tasks.y[..., None]], axis=-1)
        read = np.swapaxes(tokens, -1, -2) @ (tokens @ weights.value[:, None])
        predictor = (weights.key_query.T @ read)[..., 0]
        distance = ((predictor - posterior_mean(tasks.x, tasks.y, 0.49)) ** 2).sum(axis=-1)
        right = mean_interval(distance + conditional_bayes_risk(tasks.x, 0.7))
        evidence &= covers(right, float(population_loss(weights, 9, 0.7)), f"weights {index + 1}")
    return evidence


# --- one step against Bayes ---


def one_step(x: Array, y: Array, penalty: Any) -> Array:
    """The best step in place of the ridge solution."""
    if x.dtype == object:
        return gradient_descent(x, y, 1, optimal_learning_rate(D, N, SIGMA))
    return gradient_descent(x, y, 1, optimal_learning_rate(x.shape[-1], x.shape[-2], float(np.sqrt(penalty))))


def risk_of_one_step(
    n_inputs: int, n_context: int, noise_std: float, n_samples: int, rng: np.random.Generator
) -> Array:
    tasks = sample_gaussian_tasks(n_samples, n_inputs, n_context, noise_std, rng)
    predictor = one_step(tasks.x, tasks.y, noise_std**2)
    return ((predictor * tasks.x_query).sum(-1) - tasks.y_query) ** 2


@claim(
    "one_step_optimality/OS17",
    title="With noise the best step is strictly worse than Bayes",
    source="Introduction; the bounds are derived here",
    statement=r"\sigma>0:\quad L^*>C,\qquad\frac{\sigma^2d}{n+\sigma^2}\le C-\sigma^2\le\frac{\sigma^2d}{n-d-1}\ "
    r"(n>d+1)",
    method="symbolic",
    scope="strictness for all d, n, sigma > 0: at a prompt with one row and one input other than zero (blocks) the "
    "two predictors differ, hence in a neighbourhood of it, and by Lemma 1 the gap is the mean of that difference; "
    "bounds and gap at (n, d, sigma) = (6, 3, .7), (20, 3, .7), (40, 5, .5) on 20 000 draws of the inputs",
    uses=["one_step_optimality/OS3", "one_step_optimality/OS5"],
    control=Control("the step itself in place of Bayes", bayes=one_step, risk=risk_of_one_step),
)
def worse_than_bayes(
    rng: np.random.Generator,
    bayes: Callable[..., Array] = ridge_weights,
    risk: Callable[..., Array] = bayes_risk_monte_carlo,
) -> Evidence:
    # The other inputs and rows, however many, are blocks of zeros.
    x = np.array([[scalar("x"), 0], [0, 0]], dtype=object)
    y = column(scalar("t"), 0)
    difference = one_step(x, y, SIGMA**2) - bayes(x, y, SIGMA**2)
    at_one = sympy.factor(difference[0].subs({scalar("x"): 1, scalar("t"): 1}))
    strict = holds(at_one.is_negative is True, "< 0 for all d, n, sigma", str(at_one), "step - ridge at x = y = 1")

    # Jensen's inequality needs the mean of K alone.
    kernel = expectation(Trace(sympy.expand((T(X) * X + SIGMA**2) * B)), Gaussian(X, N, D))
    evidence = strict & vanishes(kernel - (N + SIGMA**2) * Trace(B), "mean of K - (n + sigma^2) I")
    for n_context, n_inputs, noise_std in [(6, 3, 0.7), (20, 3, 0.7), (40, 5, 0.5)]:
        found = mean_interval(risk(n_inputs, n_context, noise_std, 20_000, rng))
        low, high = bayes_risk_bounds(n_inputs, n_context, noise_std)
        place = f"at n = {n_context}, d = {n_inputs}"
        evidence &= lies_above(found, low, f"risk {place}") & lies_below(found, high, f"risk {place}")
        evidence &= lies_below(found, optimal_loss(n_inputs, n_context, noise_std), f"risk against one step {place}")
    return evidence


@claim(
    "one_step_optimality/OS18",
    title="The excess of one step falls like d(d + 1 + sigma^2)/n, that of Bayes like sigma^2 d/n",
    source="derived here from Theorem 1 and Lemma 1",
    statement=r"(L^*-\sigma^2)(n+d+1+\sigma^2)=d(d+1+\sigma^2);\quad n(C-\sigma^2)\to\sigma^2d\ \text{ for }n\to\infty",
    method="symbolic",
    scope="all d, sigma; both bounds on Bayes have the limit. And n times its excess, sampled at n = 10, 25, 50 for d "
    "= 3, sigma = 0.7 (20 000 draws each), between n times the bounds",
    uses=["one_step_optimality/OS5", "one_step_optimality/OS17"],
    control=Control("n + d instead of n + d + 1", loss=loss_without_one),
)
def rates_of_decay(rng: np.random.Generator, loss: Callable[..., Any] = optimal_loss) -> Evidence:
    excess = loss(D, N, SIGMA) - SIGMA**2
    at_infinity = [sympy.limit(N * (bound - SIGMA**2), N, sympy.oo) for bound in bayes_risk_bounds(D, N, SIGMA)]
    evidence = vanishes(
        [
            excess * (N + D + 1 + SIGMA**2) - D * (D + 1 + SIGMA**2),
            sympy.limit(N * excess, N, sympy.oo) - D * (D + 1 + SIGMA**2),
            *(limit - SIGMA**2 * D for limit in at_infinity),
        ],
        "exact decay, its limit, limits of the bounds on Bayes",
    )
    for n_context in (10, 25, 50):
        found = mean_interval(n_context * (bayes_risk_monte_carlo(3, n_context, 0.7, 20_000, rng) - 0.49))
        low, high = (n_context * (bound - 0.49) for bound in bayes_risk_bounds(3, n_context, 0.7))
        quantity = f"n times the excess of Bayes at {n_context}"
        evidence &= lies_above(found, low, quantity) & lies_below(found, high, quantity)
    return evidence


@figure(
    "one_step_optimality/F1",
    title="The best step and Bayes against the length of the context",
    caption="Loss in excess of the noise for d = 5: the best step stays above ridge regression (without noise that is "
    "exact from n = d on, and not shown), and both fall like 1/n. Points: the layer on sampled tasks, with intervals "
    "that miss once in a million.",
    answers_to="Theorem 1 (the paper has no figure)",
)
def excess_against_context(rng: np.random.Generator) -> Figure:
    n_inputs, contexts = 5, [1, 2, 3, 5, 8, 12, 20, 35, 60, 100, 200]
    parts = []
    for noise_std in (0.0, 0.5, 1.0):
        excess = [optimal_loss(n_inputs, n, noise_std) - noise_std**2 for n in contexts]
        parts.append(Series(f"one step, $\\sigma$ = {noise_std}", [n / n_inputs for n in contexts], excess))
        if noise_std:
            bayes = [np.mean(bayes_risk_monte_carlo(n_inputs, n, noise_std, 2000, rng)) for n in contexts]
            values = [float(risk) - noise_std**2 for risk in bayes]
            parts.append(Series(f"Bayes, $\\sigma$ = {noise_std}", [n / n_inputs for n in contexts], values))
        at = contexts[2::3]
        found = [mean_interval(risk_of_one_step(n_inputs, n, noise_std, 20_000, rng)) for n in at]
        parts.append(
            Series(
                f"sampled, $\\sigma$ = {noise_std}",
                [n / n_inputs for n in at],
                [one.estimate - noise_std**2 for one in found],
                "points",
                [one.high - one.estimate for one in found],
            )
        )
    return Figure(tuple(parts), "context points per input $n/d$", r"loss minus noise, $L-\sigma^2$", "log", "log")
