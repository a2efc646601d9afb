r"""What training finds: descent on the exact population loss, and Adam on fresh tasks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.one_step_optimality.model import (
    EffectiveWeights,
    check_weights,
    lsa_predict,
    predict_and_pull_weights,
)
from refimpl.incontext.one_step_optimality.population import check_law, law_moments, population_core
from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.numbers import Array
from refimpl.primitives.optimizers import adam
from refimpl.primitives.training import run, training_steps
from refimpl.tasks.linear_regression import ScalarTasks

ROUND = 400
"""Iterations between two balancings of the weights."""

BLOCK = 1024
"""Tasks that are taken at once: their tokens stay in the cache."""


def random_weights(n_inputs: int, standard_deviation: float, rng: np.random.Generator) -> EffectiveWeights:
    """Independent normal entries. Zero weights are a saddle, so the deviation must be positive.

    Raises
    ------
    ValueError
        If `n_inputs` is below 1 or the deviation not positive.
    """
    size = check_integer("n_inputs", n_inputs, 1) + 1
    deviation = check_number("standard_deviation", standard_deviation, "(0, inf)")
    return EffectiveWeights(deviation * rng.standard_normal(size), deviation * rng.standard_normal((size, size - 1)))


def balanced(weights: EffectiveWeights) -> EffectiveWeights:
    r"""$(aw,M/a)$ with equal norms: the same predictor, where the loss is best conditioned; unchecked."""
    factor = np.sqrt(np.linalg.norm(weights.key_query) / np.linalg.norm(weights.value))
    return EffectiveWeights(factor * weights.value, weights.key_query / factor)


class PopulationTraining(NamedTuple):
    """Where the descent ended: balanced weights, their loss, and the norm of its gradient there."""

    weights: EffectiveWeights
    loss: float
    gradient_norm: float


def train_on_population_loss(
    start: EffectiveWeights,
    n_context: int,
    noise_std: float,
    cov_x: Array | None = None,
    cov_w: Array | None = None,
    max_rounds: int = 25,
    tolerance: float = 1e-6,
) -> PopulationTraining:
    r"""BFGS on the exact population loss, in rounds of 400 iterations between which the weights are balanced.

    Left alone it drifts along $(aw,M/a)$, which does not change the loss, and stalls where the gradient in one of the
    two is a thousand times that in the other. It may end in a minimum that is not the global one.

    Parameters
    ----------
    start : EffectiveWeights
    n_context : int >= 1
    noise_std : float >= 0
    cov_x, cov_w : array, shape (d, d), symmetric positive definite; the identity if None
    max_rounds : int >= 1
    tolerance : float > 0
        Of the norm of the gradient.

    Returns
    -------
    PopulationTraining

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a number is out of range, or a covariance is none.

    Source: arXiv 2307.03576, Section 2 (the population loss that pre-training minimises).
    """
    from scipy import optimize

    n_inputs = check_weights(start)
    n_context = check_integer("n_context", n_context, 1)
    law = law_moments(*check_law(start, n_context, noise_std, cov_x, cov_w, n_inputs))
    max_rounds = check_integer("max_rounds", max_rounds, 1)
    tolerance = check_number("tolerance", tolerance, "(0, inf)")

    def unpacked(flat: Array) -> EffectiveWeights:
        return EffectiveWeights(flat[: n_inputs + 1], flat[n_inputs + 1 :].reshape(n_inputs + 1, n_inputs))

    def packed(weights: EffectiveWeights) -> Array:
        return np.concatenate([weights.value, weights.key_query.ravel()])

    def loss_and_gradient(flat: Array) -> tuple[float, Array]:
        loss, pullback = population_core(unpacked(flat), law)
        return float(loss), packed(pullback(np.ones(()))[0])

    descend: Any = optimize.minimize
    flat = packed(balanced(start))
    for _ in range(max_rounds):
        options = {"maxiter": ROUND, "gtol": tolerance / 10}
        flat = descend(loss_and_gradient, flat, jac=True, method="BFGS", options=options).x
        flat = packed(balanced(unpacked(flat)))
        loss, gradient = loss_and_gradient(flat)
        if np.linalg.norm(gradient) <= tolerance:
            break
    return PopulationTraining(unpacked(flat), loss, float(np.linalg.norm(gradient)))


class SampleTraining(NamedTuple):
    """The weights after the last step, and the loss of each step's batch before the step."""

    weights: EffectiveWeights
    losses: Array


def sample_loss_and_gradients(weights: EffectiveWeights, tasks: ScalarTasks) -> tuple[Any, EffectiveWeights]:
    r"""The mean of $(\hat y-y_{n+1})^2$ over the tasks and its gradient; arguments unchecked."""
    n_tasks = len(tasks.y_query)
    losses, gradients = [], []
    for start in range(0, n_tasks, BLOCK):
        x, y, x_query, y_query = (part[start : start + BLOCK] for part in tasks[:4])
        prediction, pull_weights = predict_and_pull_weights(weights, x, y, x_query)
        residual = prediction - y_query
        losses.append(residual @ residual / n_tasks)
        gradients.append(pull_weights((2 / n_tasks) * residual))
    value, key_query = (sum(parts[1:], parts[0]) for parts in zip(*gradients, strict=True))
    return sum(losses), EffectiveWeights(value, key_query)


def train_on_tasks(
    start: EffectiveWeights, sample: Callable[[], ScalarTasks], n_steps: int, learning_rate: float = 1e-2
) -> SampleTraining:
    r"""Adam on the mean squared error of fresh tasks.

    Parameters
    ----------
    start : EffectiveWeights
    sample : function of no arguments
        Returns the batch of a step.
    n_steps : int >= 1
    learning_rate : float > 0

    Returns
    -------
    SampleTraining

    Raises
    ------
    ValueError
        If the first batch does not fit the weights, or a number is out of range.
    """
    check_weights(start)
    first = sample()
    lsa_predict.check(start, first.x, first.y, first.x_query)
    steps = training_steps(start, sample_loss_and_gradients, sample, adam(learning_rate))
    return SampleTraining(*run(steps, check_integer("n_steps", n_steps, 1)))
