r"""The population loss in closed form, and the rate and the loss of the best step (Theorem 1)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.incontext.one_step_optimality.setting import (
    ETA,
    NOISE,
    ROUNDOFF,
    SIGMA,
    THETA,
    D,
    E,
    N,
    S,
    W,
    X,
    column,
    error,
    isotropic,
    on_blocks,
    over_prompts,
    over_tasks,
)
from proofs.ledger import Control, Evidence, claim
from proofs.properties import for_all
from proofs.statistics import covers, mean_interval
from proofs.symbolic import blocks, vanishes
from refimpl.incontext.one_step_optimality import (
    EffectiveWeights,
    effective_weights,
    gd_lsa_parameters,
    loss_given_task,
    lsa_predict,
    optimal_learning_rate,
    optimal_loss,
    population_loss,
    population_loss_by_quadrature,
    population_loss_vjp,
)
from refimpl.incontext.one_step_optimality.population import MAX_NODES, law_moments, population_core
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.one_step_optimality.population import law_arguments
from refimpl.primitives.least_squares import ridge_weights
from refimpl.tasks.linear_regression import ScalarTasks, sample_gaussian_tasks

GENERIC = 3, 6, 0.7  # d, n, sigma


def step(learning_rate: Any, n_inputs: int = 1) -> EffectiveWeights:
    """The effective weights of the shipped construction; on blocks of any size for `n_inputs` = 1."""
    return effective_weights(gd_lsa_parameters(n_inputs, learning_rate))


def step_loss(learning_rate: Any) -> sympy.Expr:
    """The shipped population loss of a step, for all sizes."""
    return isotropic(population_loss(step(learning_rate), N, SIGMA, blocks([[S]]), blocks([[W]])).item())


def squared_errors(weights: EffectiveWeights, tasks: ScalarTasks) -> Any:
    return (lsa_predict(weights, tasks.x, tasks.y, tasks.x_query) - tasks.y_query) ** 2


# --- the rate and the loss of the best step ---


def rate_without_one(n_inputs: Any, n_context: Any, noise_std: Any) -> Any:
    """As if the fourth moment of a Gaussian were that of independent squares: n + d instead of n + d + 1."""
    return 1 / (n_context + n_inputs + noise_std**2)


@claim(
    "one_step_optimality/OS4",
    title="The best rate is 1/(n + d + 1 + sigma^2), and the ratio of two moments of the ridge solution",
    source="Theorem 1",
    statement=r"\eta^*=\frac{\mathbb E[\hat w_D^\top X^\top y]}{\mathbb E\lVert X^\top y\rVert^2}="
    r"\frac1{n+d+1+\sigma^2},\quad\mathbb E[\hat w_D^\top X^\top y]=nd",
    method="symbolic",
    scope="all d, n, sigma (the shipped loss as a polynomial of the rate; both moments by Isserlis' theorem); and 200 "
    "000 tasks at d = 3, n = 6, sigma = 0.7 with the shipped ridge weights",
    uses=["one_step_optimality/OS3", "one_step_optimality/OS6"],
    control=Control("n + d instead of n + d + 1", rate=rate_without_one),
)
def best_rate(rng: np.random.Generator, rate: Callable[..., Any] = optimal_learning_rate) -> Evidence:
    best = rate(D, N, SIGMA)
    # The ridge solution is the mean of the task given the prompt, which r = X'y is part of: E[w'r] = E[theta'r].
    products = sympy.transpose(X) * (X * THETA + NOISE)
    numerator = isotropic(over_tasks(over_prompts(sympy.transpose(THETA) * products)))
    denominator = isotropic(over_tasks(over_prompts(sympy.transpose(products) * products)))
    exact = vanishes(sympy.diff(step_loss(ETA), ETA).subs(ETA, best), "slope of the loss there") & vanishes(
        [numerator - N * D, best - numerator / denominator], "numerator - nd, rate - ratio"
    )

    tasks = sample_gaussian_tasks(200_000, *GENERIC, rng)
    correlation = (np.swapaxes(tasks.x, -1, -2) @ tasks.y[..., None])[..., 0]
    ridge = ridge_weights(tasks.x, tasks.y, GENERIC[2] ** 2)
    aligned, square = (ridge * correlation).sum(-1), (correlation**2).sum(-1)
    sampled = rate(*GENERIC)
    return (
        exact
        & covers(mean_interval(aligned), GENERIC[0] * GENERIC[1], "E[w'X'y]")
        & covers(mean_interval(aligned - sampled * square), 0, "E[w'X'y] - rate E|X'y|^2")
    )


def loss_without_one(n_inputs: Any, n_context: Any, noise_std: Any) -> Any:
    return noise_std**2 + n_inputs * (n_inputs + noise_std**2) / (n_context + n_inputs + noise_std**2)


@claim(
    "one_step_optimality/OS5",
    title="The loss of the best step in closed form",
    source="Theorem 1 (the value is derived here)",
    statement=r"L^*=\sigma^2+\frac{d(d+1+\sigma^2)}{n+d+1+\sigma^2};\quad L^*=d+\sigma^2\text{ at }n=0,\ "
    r"L^*\to\sigma^2\text{ for }n\to\infty",
    method="symbolic",
    scope="all d, n, sigma; and 200 000 tasks at d = 3, n = 6, sigma = 0.7",
    uses=["one_step_optimality/OS4"],
    control=Control("n + d instead of n + d + 1", loss=loss_without_one),
)
def loss_of_the_best_step(rng: np.random.Generator, loss: Callable[..., Any] = optimal_loss) -> Evidence:
    best = loss(D, N, SIGMA)
    exact = vanishes(step_loss(optimal_learning_rate(D, N, SIGMA)) - best, "loss of the shipped step")
    limits = vanishes([loss(D, 0, SIGMA) - D - SIGMA**2, sympy.limit(best, N, sympy.oo) - SIGMA**2], "limits")
    rate = optimal_learning_rate(*GENERIC)
    tasks = sample_gaussian_tasks(200_000, *GENERIC, rng)
    sampled = mean_interval(squared_errors(step(rate, GENERIC[0]), tasks))
    return exact & limits & covers(sampled, loss(*GENERIC), "mean squared error of the layer")


# --- any weights ---


def without_context_noise(weights: Any, n: Any, noise_std: Any, *covariances: Any) -> Any:
    """The noise of the query's target alone."""
    return population_loss(weights, n, 0, *covariances) + noise_std**2


def given_task_without_context_noise(weights: Any, task: Any, n: Any, noise_std: Any, *covariance: Any) -> Any:
    return loss_given_task(weights, task, n, 0, *covariance) + noise_std**2


@claim(
    "one_step_optimality/OS6",
    title="The population loss of any weights in closed form, for any covariances of inputs and tasks",
    source="Section 2 (derived here)",
    statement=r"L(w,M)=\mathbb E_\theta\big[n\,\mathrm{tr}(\mathcal M\Gamma_\theta)w^\top\Gamma_\theta w+n(n+1)w^\top"
    r"\Gamma_\theta\mathcal M\Gamma_\theta w-2n\theta^\top\Sigma M^\top\Gamma_\theta w+\theta^\top\Sigma\theta\big]"
    r"+\sigma^2,\ \mathcal M=M\Sigma M^\top",
    method="symbolic",
    scope="all d, n, sigma, covariances and weights (Isserlis' theorem on the shipped layer, blocks); quadrature with "
    "3 to 5 nodes a dimension on 40 laws with d <= 6; and 200 000 tasks of one law",
    control=[
        Control("two quadrature nodes a dimension", nodes=(2,)),
        Control("no noise in the context", loss=without_context_noise, given_task=given_task_without_context_noise),
    ],
)
def loss_of_any_weights(
    rng: np.random.Generator,
    loss: Callable[..., Any] = population_loss,
    given_task: Callable[..., Any] = loss_given_task,
    nodes: tuple[int, ...] = (3, 4, 5),
) -> Evidence:
    residual = error(on_blocks())
    conditional = over_prompts(residual * sympy.transpose(residual))
    in_words = given_task(on_blocks(), column(THETA), N, SIGMA, blocks([[S]]))
    averaged = loss(on_blocks(), N, SIGMA, blocks([[S]]), blocks([[W]]))
    exact = vanishes(in_words - conditional, "given the task") & vanishes(
        averaged - over_tasks(conditional), "over tasks"
    )

    def distance(case: Arguments) -> float:
        weights, n_context, noise_std, cov_x, cov_w = case.values()
        n_inputs, root = len(cov_x), np.abs(np.linalg.cholesky(cov_w))
        rules = [k for k in nodes if k**n_inputs <= MAX_NODES]
        found = [population_loss_by_quadrature.unchecked(weights, n_context, noise_std, cov_x, cov_w, k) for k in rules]
        # Both routes round sums of products some 50 + 10 d times, and no sum exceeds that of the absolute values: the
        # loss of absolute weights and covariances, M negated so that the term linear in it adds. Where absolute values
        # spoil the independence of the d coordinates of a node, each of four may cost a root of d.
        absolute = EffectiveWeights(np.abs(weights.value), -np.abs(weights.key_query))
        size, _ = population_core(absolute, law_moments(n_context, noise_std**2, np.abs(cov_x), root @ root.T))
        allowed = (50 + 10 * n_inputs) * n_inputs**2 * ROUNDOFF * size
        return float(np.max(np.abs(np.array(found) - loss(*case.values()))) / allowed)

    by_quadrature = for_all(rng, law_arguments(), distance, 1, examples=40, quantity="quadrature, over its bound")

    cov_x, cov_w = np.diag([2.0, 1.0, 0.5]), np.eye(3) / 2 + 0.25
    weights = EffectiveWeights(np.array([0.1, -0.2, 0.1, 0.6]), np.arange(12.0).reshape(4, 3) % 5 / 60 - 0.03)
    tasks = sample_gaussian_tasks(200_000, 3, 4, 0.5, rng, cov_x, cov_w)
    sampled = covers(
        mean_interval(squared_errors(weights, tasks)), float(loss(weights, 4, 0.5, cov_x, cov_w)), "one law, sampled"
    )
    return exact & by_quadrature & sampled


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, float]:
    return draw(st.integers(1, 8)), draw(st.integers(1, 200)), draw(st.floats(0, 3))


@claim(
    "one_step_optimality/OS7",
    title="The best step is a stationary point of the population loss, in all weights",
    source="Theorem 1",
    statement=r"\nabla_wL=0,\ \nabla_ML=0\ \text{ at }\ w=e_{d+1},\ M=[\eta^*I;0]",
    method="symbolic",
    scope="all d, n, sigma (the shipped gradient on blocks); and in floats at 200 sizes d <= 8, n <= 200, sigma <= 3",
    uses=["one_step_optimality/OS4"],
    control=Control("n + d instead of n + d + 1", rate=rate_without_one),
)
def stationary_point(rng: np.random.Generator, rate: Callable[..., Any] = optimal_learning_rate) -> Evidence:
    best = rate(D, N, SIGMA)
    _, pullback = population_loss_vjp(on_blocks(0, 1, best * E, 0), N, SIGMA, blocks([[S]]), blocks([[W]]))
    gradient = pullback(np.array(1, dtype=object))[0]
    exact = vanishes([isotropic(entry) for part in gradient for entry in part.flat], "gradient, all sizes")

    def largest(case: tuple[int, int, float]) -> float:
        n_inputs, n_context, noise_std = case
        weights = step(rate(*case), n_inputs)
        _, pullback = population_loss_vjp(weights, n_context, noise_std)
        found = max(float(np.max(np.abs(part))) for part in pullback(np.ones(()))[0])
        # A component is a difference of terms whose sizes add to 4n (in M) or 4 n d eta (in w), each of some 3d + 16
        # rounded operations.
        return found / (4 * n_context * (3 * n_inputs + 16) * ROUNDOFF)

    return exact & for_all(rng, sizes(), largest, 1, examples=200, quantity="gradient over rounding bound")
