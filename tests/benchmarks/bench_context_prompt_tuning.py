"""Training steps of the small language model, and tuning of the closed-form one, beside jitted JAX.

``python -m tests.benchmarks.bench_context_prompt_tuning``. Sizes are those of the experiments. The language model
trains in float32, which is measured beside float64. To reach: never slower by more than a tenth. Ours leaves the last
perceptron out where nothing is read; beside JAX that does so too (in parentheses) it is not judged.
"""

import sys
from typing import Any

from tests.benchmarks.jax_transformer import compare_training_steps, token_loss
from tests.benchmarks.side_by_side import compare, header, pin_to_one_core, verdict

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np

from refimpl.incontext.context_prompt_tuning import (
    SetTask,
    draw_sets,
    few_shots,
    recency_weights,
    sample_examples,
    tune_kernel_prompt,
)
from refimpl.incontext.context_prompt_tuning.language_model import EXAMPLE_LENGTH
from refimpl.primitives.language_model import initial_language_model, token_loss_and_gradients
from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.trees import tree_map

TASK, N_EXAMPLES = SetTask(), 6
SHARPNESS, N_STEPS, RATE = 6.0, 60, 1.2


def kernel_loss(keys: Any, inputs: Any, values: Any, context_weights: Any) -> jax.Array:
    """One draw: the appended examples, and each context label from what stands before it."""
    n = len(keys)

    def cross_entropies(queries: Any, mask: Any) -> jax.Array:
        scores = jnp.where(mask, SHARPNESS * queries @ keys.T, -jnp.inf)
        logits = SHARPNESS * jax.nn.softmax(scores) @ values
        return -(values * jax.nn.log_softmax(logits)).sum(axis=-1)

    before = jnp.tri(n, k=-1, dtype=bool).at[0, 0].set(True)  # the first has no context, and no weight
    appended = cross_entropies(inputs, jnp.ones((n, n), bool)).mean()
    return (appended + (context_weights * cross_entropies(keys, before)).sum()) / n


def tune(inputs: Any, values: Any, context_weights: Any, radius: float, n_steps: int) -> jax.Array:
    """The perturbations of all draws after projected gradient descent."""

    def one(inputs: Any, values: Any) -> jax.Array:
        def step(perturbation: Any, _: None) -> Any:
            gradient = jax.grad(kernel_loss)(inputs + perturbation, inputs, values, context_weights)
            moved = perturbation - RATE * gradient
            length = jnp.linalg.norm(moved, axis=-1, keepdims=True)
            return moved * jnp.minimum(1, radius / jnp.maximum(length, 1e-300)), None

        return jax.lax.scan(step, jnp.zeros_like(inputs), None, n_steps)[0]

    return jax.vmap(one)(inputs, values)


def main() -> int:
    pin_to_one_core()
    keep_freed_memory()
    rng = np.random.default_rng(0)
    header()
    ratios = []
    length = N_EXAMPLES * EXAMPLE_LENGTH
    initial = initial_language_model(TASK.vocabulary, length, 32, 2, 4, rng)
    at_labels = np.arange(2 * EXAMPLE_LENGTH - 2, length, EXAMPLE_LENGTH)
    classes = rng.integers(TASK.n_classes, size=(64, N_EXAMPLES))
    tokens = sample_examples(TASK, draw_sets(TASK, 64, rng), classes, rng).reshape(64, -1)
    targets = tokens[:, at_labels + 1]
    for dtype in (np.float64, np.float32):
        for early in (False, True):
            name = f"language model, width 32, 64 x {length} tokens, {np.dtype(dtype)}"
            ratio = compare_training_steps(
                f"({name}, labels early)" if early else name,
                tree_map(lambda leaf, dtype=dtype: leaf.astype(dtype), initial),
                lambda model: token_loss_and_gradients(model, tokens, targets, at_labels),
                lambda p, t, y, early=early: token_loss(p, t, y, at_labels, early=early),
                (tokens, targets),
                max_norm=1.0,
            )
            if not early:
                ratios.append(ratio)
    for n_draws, per_class in ((1000, 3), (1000, 1), (100, 3)):
        n = 4 * per_class
        inputs = rng.standard_normal((n_draws, n, 16))
        inputs /= np.linalg.norm(inputs, axis=-1, keepdims=True)
        labels = rng.permuted(np.tile(np.arange(n) % 4, (n_draws, 1)), axis=1)
        shots, context_weights = few_shots(inputs, labels, 4), recency_weights(n, 0.9)
        compiled = jax.jit(tune, static_argnums=4)
        given = (*map(jnp.asarray, (inputs, shots.values, context_weights)), 0.6)
        # The steps are so large that a roundoff grows twofold in each: alike are only the first.
        ours = tune_kernel_prompt(shots, 0.6, context_weights, n_steps=10)
        np.testing.assert_allclose(ours.perturbation, compiled(*given, 10), atol=1e-6)
        ratios.append(
            compare(
                f"kernel model, {n_draws} draws of {n} shots, 60 steps",
                lambda shots=shots, w=context_weights: tune_kernel_prompt(shots, 0.6, w, n_steps=N_STEPS),
                lambda compiled=compiled, given=given: jax.block_until_ready(compiled(*given, N_STEPS)),
                rounds=5,
            )
        )
    return verdict(ratios)


if __name__ == "__main__":
    sys.exit(main())
