r"""Correlated inputs: a preconditioned step, and what becomes of it under other priors (Theorem 2)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.incontext.one_step_optimality.relaxation import (
    KAPPA,
    P,
    at_optimum,
    is_the_inverse,
    plain_descent,
)
from proofs.incontext.one_step_optimality.setting import M1, ROUNDOFF, SIGMA, C, D, E, M, N, S, Trace, U, W, on_blocks
from proofs.ledger import Control, Evidence, Figure, Series, at_least, claim, figure
from proofs.properties import for_all
from proofs.symbolic import array, block, blocks, vanishes
from proofs.wick import at_identity
from refimpl.incontext.one_step_optimality import (
    EffectiveWeights,
    GaussianOptimum,
    best_scale,
    on_products,
    optimal_learning_rate,
    optimal_loss,
    population_loss,
    population_loss_vjp,
    preconditioned_lsa_parameters,
    preconditioned_optimum,
    rescaled,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.one_step_optimality.population import law_arguments
from refimpl.primitives.numbers import Array

T = sympy.transpose


def rounding_bound(case: Arguments, n_inputs: int) -> float:
    """The relative error of the loss and of its gradient: products of up to seven matrices of size d and an inverse."""
    condition = np.linalg.cond(case["cov_x"]) * np.linalg.cond(case["cov_w"])
    return float(20 * (n_inputs + 2) ** 2 * ROUNDOFF * condition)


def gradient_ratio(weights: EffectiveWeights, case: Arguments, cov_w: Array) -> float:
    """The largest entry of the gradient over that at twice the prediction, where its terms do not cancel."""
    law = case["n_context"], case["noise_std"], case["cov_x"], cov_w
    at, beside = (
        np.concatenate([np.abs(part).ravel() for part in population_loss_vjp(one, *law)[1](np.ones(()))[0]])
        for one in (weights, rescaled(weights, 2.0))
    )
    return float(np.max(at) / np.max(beside))


@claim(
    "one_step_optimality/OS11",
    title="For correlated inputs and tasks of the inverse covariance a preconditioned step attains the same loss",
    source="Theorem 2",
    statement=r"x\sim N(0,\Sigma),\ \theta\sim N(0,\Sigma^{-1}):\quad\hat y=\eta^*\sum_iy_i(\Sigma^{-1}x_i)^\top"
    r" x_{n+1}\text{ has }L=L^*,\ \nabla L=0",
    method="symbolic",
    scope="all d, n, sigma and covariances (blocks), with the change of variables that proves it for all invertible "
    "maps; and in floats for 50 covariances of condition up to 10^4, d <= 6",
    uses=["one_step_optimality/OS5", "one_step_optimality/OS20"],
    control=Control("plain gradient descent at the same rate", precondition=plain_descent),
)
def preconditioned_step(
    rng: np.random.Generator, precondition: Callable[..., EffectiveWeights] = preconditioned_lsa_parameters
) -> Evidence:
    matrix = precondition(blocks([[S]]), optimal_learning_rate(D, N, SIGMA)).key_query[0, 0]
    law = N, SIGMA, blocks([[S]]), blocks([[E * S**-1]])
    loss, pullback = population_loss_vjp(on_blocks(0, 1, matrix * E, 0), *law)
    gradient = [entry for part in pullback(np.array(1, dtype=object))[0] for entry in part.flat]
    attained = vanishes(at_identity(loss.item(), {E: D}) - optimal_loss(D, N, SIGMA), "loss - L*, all sizes")
    stationary = vanishes([at_identity(entry, {E: D}) for entry in gradient], "gradient, all sizes")

    # x = A x' for any invertible A: whitening is A = Sigma^(1/2).
    A = block("A")
    there = on_blocks(T(A) * U, C, T(A) * M1 * A, T(A) * M)
    inverse = 1 / A
    whitened = population_loss(there, N, SIGMA, blocks([[inverse * S * T(inverse)]]), blocks([[T(A) * W * A]]))
    here = population_loss(on_blocks(), N, SIGMA, blocks([[S]]), blocks([[W]]))
    invariant = vanishes(whitened - here, "loss after a change of variables - before")

    def error(case: Arguments) -> float:
        n_inputs = len(case["cov_x"])
        cov_w = np.linalg.inv(case["cov_x"])
        sizes = n_inputs, case["n_context"], case["noise_std"]
        weights = precondition(case["cov_x"], optimal_learning_rate(*sizes))
        found = population_loss(weights, *sizes[1:], case["cov_x"], (cov_w + cov_w.T) / 2)
        off = abs(float(found) - optimal_loss(*sizes)) / (n_inputs + case["noise_std"] ** 2)
        slope = gradient_ratio(weights, case, (cov_w + cov_w.T) / 2)
        return max(off, slope) / rounding_bound(case | {"cov_w": cov_w}, n_inputs)

    in_floats = for_all(rng, law_arguments(), error, 1, examples=50, quantity="loss and gradient over rounding bound")
    return attained & stationary & invariant & in_floats


def theorem_two_for_any_prior(cov_x: Array, cov_w: Array, n_context: Any, noise_std: Any) -> GaussianOptimum:
    """The rate times the inverse covariance, as if the prior were the inverse covariance."""
    rate = optimal_learning_rate(len(cov_x) if cov_x.dtype != object else D, n_context, noise_std)
    weights = preconditioned_lsa_parameters(cov_x, rate)
    return GaussianOptimum(weights, preconditioned_optimum(cov_x, cov_w, n_context, noise_std).loss)


@claim(
    "one_step_optimality/OS12",
    title="Under another prior the best preconditioner is not the inverse covariance",
    source="Theorem 2, its scope (derived here)",
    statement=r"\theta\sim N(0,\Sigma_w):\quad M_1=\big[(n+1)\Sigma+\kappa\Sigma_w^{-1}\big]^{-1},\ "
    r"\kappa=\mathrm{tr}(\Sigma\Sigma_w)+\sigma^2,\quad L(M_1+\Delta)-L(M_1)=n\kappa\lVert\Sigma^{1/2}\Delta"
    r"\Sigma^{1/2}\rVert^2+n(n+1)\lVert\Sigma_w^{1/2}\Sigma\Delta\Sigma^{1/2}\rVert^2",
    method="symbolic",
    scope="all d, n, sigma and covariances of inputs and tasks (blocks), every other matrix in place of M_1; the "
    "limit of long contexts at d = 2; and in floats, against the best multiple of the inverse covariance for standard "
    "normal tasks, for 50 covariances of condition up to 10^4",
    uses=["one_step_optimality/OS20"],
    control=Control("Theorem 2's matrix whatever the prior", optimum=theorem_two_for_any_prior),
)
def other_priors(
    rng: np.random.Generator, optimum: Callable[..., GaussianOptimum] = preconditioned_optimum
) -> Evidence:
    def loss_at(matrix: Any) -> sympy.Expr:
        return population_loss(on_blocks(0, 1, matrix, 0), N, SIGMA, blocks([[S]]), blocks([[W]])).item()

    delta = block("Delta")
    form = N * KAPPA * Trace(T(delta) * S * delta * S) + N * (N + 1) * Trace(T(delta) * S * W * S * delta * S)
    shipped = optimum(blocks([[S]]), blocks([[W]]), N, SIGMA)
    least = Trace(S * W) + SIGMA**2 - N * Trace(P * S * W * S)
    exact = vanishes(
        [at_optimum(loss_at(P + delta) - loss_at(P) - form), at_optimum(loss_at(P) - least)],
        "loss at any other matrix - the form, loss there - its value",
    )
    value = sympy.expand(shipped.loss.item()).xreplace({sympy.expand(shipped.weights.key_query[0, 0]): P})
    evidence = is_the_inverse(optimum) & exact & vanishes(value - least, "the shipped value")

    cov_x = np.diag(array("lambda", (2,), positive=True))
    long = N * optimum(cov_x, np.eye(2, dtype=object), N, SIGMA).weights.key_query[:-1]
    limit = [sympy.limit(entry, N, sympy.oo) for entry in long.flat]
    evidence &= vanishes(limit - np.diag([1 / v for v in np.diag(cov_x)]).ravel(), "n M_1 for long contexts - inverse")

    def error(case: Arguments) -> float:
        sizes = case["n_context"], case["noise_std"]
        best = optimum(case["cov_x"], case["cov_w"], *sizes)
        found = population_loss(best.weights, *sizes, case["cov_x"], case["cov_w"])
        scale = float(np.trace(case["cov_x"] @ case["cov_w"])) + case["noise_std"] ** 2
        off = abs(float(found - best.loss)) / scale
        slope = gradient_ratio(best.weights, case, case["cov_w"])
        return max(off, slope) / rounding_bound(case, len(case["cov_x"]))

    evidence &= for_all(rng, law_arguments(), error, 1, examples=50, quantity="loss and gradient over rounding bound")

    def margin(case: Arguments) -> float:
        """The optimum's loss minus that of the best multiple of the inverse covariance, over the target's variance."""
        law = case["n_context"], case["noise_std"], case["cov_x"], np.eye(len(case["cov_x"]))
        inverse = on_products(np.linalg.inv(case["cov_x"]))
        multiple = population_loss(rescaled(inverse, best_scale(inverse, *law)), *law)
        return float(optimum(law[2], law[3], *law[:2]).loss - multiple) / (float(np.trace(law[2])) + law[1] ** 2)

    example = {"n_context": 6, "noise_std": 0.7, "cov_x": np.diag([4.0, 1.0, 0.25])}

    def above(case: Arguments) -> float:
        return margin(case) / rounding_bound(case | {"cov_w": np.eye(1)}, len(case["cov_x"]))

    return (
        evidence
        & for_all(
            rng, law_arguments(), above, 1, examples=50, quantity="optimum minus best multiple over rounding bound"
        )
        & at_least(-margin(example), 0.01, "relative gap at covariance diag(4, 1, 1/4)")
    )


@figure(
    "one_step_optimality/F4",
    title="The loss of a step against the condition number of the inputs",
    caption="d = 4, n = 10, sigma = 0.5, eigenvalues spread evenly in the logarithm around 1. Tasks of the inverse "
    "covariance: the preconditioned step keeps the loss of white inputs, the best plain step loses it. Standard "
    "normal tasks: the best multiple of the inverse covariance is worse than the true optimum as soon as inputs are "
    "correlated.",
    answers_to="Theorem 2 (the paper has no figure)",
)
def loss_against_condition(rng: np.random.Generator) -> Figure:
    n_inputs, n_context, noise_std = 4, 10, 0.5
    conditions = np.geomspace(1, 1000, 16).tolist()
    curves: dict[str, list[float]] = {
        "preconditioned step, tasks of the inverse covariance": [],
        "best plain step, tasks of the inverse covariance": [],
        "optimum, standard normal tasks": [],
        "best multiple of the inverse, standard normal tasks": [],
    }
    for condition in conditions:
        cov_x = np.diag(condition ** np.linspace(-0.5, 0.5, n_inputs))
        inverse, identity = np.linalg.inv(cov_x), np.eye(n_inputs)
        losses = []
        for matrix, cov_w in [(inverse, inverse), (identity, inverse), (None, identity), (inverse, identity)]:
            law = n_context, noise_std, cov_x, cov_w
            if matrix is None:
                losses.append(preconditioned_optimum(cov_x, cov_w, n_context, noise_std).loss)
                continue
            weights = on_products(matrix)
            losses.append(population_loss(rescaled(weights, best_scale(weights, *law)), *law))
        for curve, loss in zip(curves.values(), losses, strict=True):
            curve.append(float(loss))
    return Figure(
        tuple(Series(title, conditions, values) for title, values in curves.items()),
        "condition number of the inputs' covariance",
        "population loss",
        "log",
        "log",
    )
