"""Weights and prompts that the tests share."""

from typing import Any

import numpy as np

from refimpl.incontext.one_step_optimality import (
    AttentionWeights,
    EffectiveWeights,
)
from refimpl.primitives.numbers import Array
from refimpl.tasks.linear_regression import sample_gaussian_tasks

COV = np.array([[2.0, 0.5], [0.5, 1.0]])


def weights(n_inputs: int = 2, seed: int = 0, dtype: Any = np.float64) -> EffectiveWeights:
    rng = np.random.default_rng(seed)
    return EffectiveWeights(
        rng.standard_normal(n_inputs + 1).astype(dtype), rng.standard_normal((n_inputs + 1, n_inputs)).astype(dtype)
    )


def full_weights(n_inputs: int = 2, seed: int = 0) -> AttentionWeights:
    rng = np.random.default_rng(seed)
    size = n_inputs + 1
    return AttentionWeights(*rng.standard_normal((3, size, size)), rng.standard_normal(size))


def prompt(n_inputs: int = 2, n_context: int = 4, dtype: Any = np.float64) -> tuple[Array, Array, Array]:
    tasks = sample_gaussian_tasks(3, n_inputs, n_context, 0.5, np.random.default_rng(1), dtype=dtype)
    return tasks.x, tasks.y, tasks.x_query
