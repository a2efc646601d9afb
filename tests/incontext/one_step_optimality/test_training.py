"""Descent on the population loss and on tasks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from refimpl.incontext.one_step_optimality import (
    balanced,
    population_loss,
    preconditioned_optimum,
    random_weights,
    train_on_population_loss,
    train_on_tasks,
    weights_tensor,
)
from refimpl.tasks.linear_regression import ScalarTasks, sample_gaussian_tasks
from tests.incontext.one_step_optimality.common import COV, weights


def test_training_on_correlated_inputs_finds_the_preconditioner() -> None:
    rng = np.random.default_rng(0)
    best = preconditioned_optimum(COV, np.eye(2), 6, 0.5)
    runs = (train_on_population_loss(random_weights(2, 0.1, rng), 6, 0.5, COV, np.eye(2)) for _ in range(4))
    found = min(runs, key=lambda run: run.loss)
    assert found.loss == pytest.approx(float(best.loss), abs=1e-10)
    np.testing.assert_allclose(weights_tensor(found.weights), weights_tensor(best.weights), atol=1e-5)
    assert np.linalg.norm(found.weights.value) == pytest.approx(float(np.linalg.norm(found.weights.key_query)))


def test_training_on_tasks_lowers_the_loss() -> None:
    rng = np.random.default_rng(0)
    start = random_weights(2, 0.1, rng)
    trained = train_on_tasks(start, lambda: sample_gaussian_tasks(64, 2, 6, 0.5, rng), 300)
    assert trained.losses.shape == (300,)
    assert population_loss(trained.weights, 6, 0.5) < 0.75 * population_loss(start, 6, 0.5)


def test_balancing_keeps_the_predictor() -> None:
    there = balanced(weights())
    np.testing.assert_allclose(weights_tensor(there), weights_tensor(weights()), rtol=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_weights(2, 0.0, np.random.default_rng(0)), "standard_deviation"),
        (lambda: train_on_population_loss(weights(), 0, 0.5), "n_context"),
        (lambda: train_on_population_loss(weights(), 3, 0.5, max_rounds=0), "max_rounds"),
        (lambda: train_on_population_loss(weights(), 3, 0.5, tolerance=0.0), "tolerance"),
    ],
)
def test_bad_arguments(call: Callable[[], Any], message: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        call()


def tasks_of(n_inputs: int, n_tasks: int = 4) -> Callable[[], ScalarTasks]:
    return lambda: sample_gaussian_tasks(n_tasks, n_inputs, 3, 0.5, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((tasks_of(2), 0), "n_steps: expected an integer >= 1"),
        ((tasks_of(2), 5, 0.0), "learning_rate"),
        ((tasks_of(3), 5), "x: expected shape"),
        ((tasks_of(2, 0), 5), "n_tasks"),
    ],
)
def test_bad_training(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_on_tasks(weights(), *arguments)
