"""Training steps of the small language model, its two objectives, and the stacks in all orders, beside jitted JAX.

``python -m tests.benchmarks.bench_order_sensitivity``. Sizes are those of the experiments; they train in float32, which
is measured beside float64. To reach: never slower by more than a tenth. Softmax regression on one draw alone, which no
experiment runs, is printed too: there Python's calls cost more than the arithmetic, and a compiler saves them.
"""

import sys
from functools import partial
from typing import Any

from tests.benchmarks.jax_transformer import compare_training_steps, token_loss
from tests.benchmarks.side_by_side import compare, header, pin_to_one_core, verdict

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np

from refimpl.incontext.order_sensitivity import (
    LabelTask,
    Pretraining,
    draw_chain,
    draw_maps,
    icl_distributions,
    random_attention_stack,
    random_orders,
    train_on_demonstrations,
)
from refimpl.incontext.order_sensitivity.language import PAIR, chain_documents, pair_documents
from refimpl.primitives.language_model import initial_language_model, token_loss_and_gradients
from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.trees import tree_map

TASK, SETTINGS = LabelTask(), Pretraining()


def stack_distributions(stack: Any, inputs: Any, labels: Any, orders: Any, queries: Any) -> jax.Array:
    """One causal stack of one head a layer, all orders and queries at once."""

    def one(order: Any, query: Any) -> jax.Array:
        demonstrations = inputs[order] @ stack.embedding.T + stack.label_embedding[labels[order]]
        stream = jnp.concatenate([demonstrations, (stack.embedding @ query)[None]]) + stack.positions
        mask = jnp.tri(len(stream), dtype=bool)
        for block in stack.blocks:
            query_, key, value, output = (w[0] for w in block.attention)
            scores = (stream @ query_.T) @ (stream @ key.T).T / jnp.sqrt(len(query_))
            weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
            stream = stream + weights @ (stream @ value.T) @ output.T
        return jax.nn.softmax(stack.readout @ stream[-1])

    return jax.vmap(lambda order: jax.vmap(lambda query: one(order, query))(queries))(orders)


def regression(inputs: Any, labels: Any, orders: Any, batch_size: int, epochs: int, rate: float) -> jax.Array:
    """Softmax regression from zero on batches in each of the orders."""

    def loss(weights: Any, rows: Any) -> jax.Array:
        logits = jax.nn.log_softmax(inputs[rows] @ weights.T)
        return -jnp.take_along_axis(logits, labels[rows, None], axis=-1).mean()

    def train(order: Any) -> jax.Array:
        batches = jnp.tile(order.reshape(-1, batch_size), (epochs, 1))
        start = jnp.zeros((6, inputs.shape[-1]))
        return jax.lax.scan(lambda w, rows: (w - rate * jax.grad(loss)(w, rows), None), start, batches)[0]

    return jax.vmap(train)(orders)


def main() -> int:
    pin_to_one_core()
    keep_freed_memory()
    rng = np.random.default_rng(0)
    header()
    ratios = []
    maps, transitions = draw_maps(TASK, 64, rng), draw_chain(TASK, rng)
    initial = initial_language_model(
        TASK.vocabulary, TASK.length, SETTINGS.d, SETTINGS.n_blocks, SETTINGS.n_heads, rng, tied=True
    )
    n_chain = round(SETTINGS.chain_share * SETTINGS.batch)
    text = np.concatenate(
        [
            pair_documents(TASK, maps, SETTINGS.batch - n_chain, rng),
            chain_documents(transitions, n_chain, TASK.length, rng),
        ]
    )
    pairs, at_labels = pair_documents(TASK, maps, SETTINGS.batch, rng), np.arange(0, TASK.length, PAIR)
    cases: list[tuple[str, Any, Any, Any]] = [
        ("text", text, text[:, 1:], slice(0, TASK.length - 1)),
        ("labels", pairs, pairs[:, at_labels + 1], at_labels),
    ]
    for dtype in (np.float64, np.float32):
        model = tree_map(lambda leaf, dtype=dtype: leaf.astype(dtype), initial)
        for objective, tokens, targets, at in cases:
            ratios.append(
                compare_training_steps(
                    f"objective {objective}, 64 x 48 tokens, {np.dtype(dtype)}",
                    model,
                    lambda model, t=tokens, y=targets, at=at: token_loss_and_gradients(model, t, y, at),
                    lambda p, t, y, at=at: token_loss(p, t, y, at),
                    (tokens, targets),
                    max_norm=1.0,
                )
            )

    n_demos, n_queries = 8, 40
    inputs, queries = rng.standard_normal((n_demos, 8)), rng.standard_normal((n_queries, 8))
    labels, orders = rng.integers(6, size=n_demos), random_orders(10, n_demos, rng)
    for n_layers in (1, 2):
        stack = random_attention_stack(n_layers, rng, n_slots=n_demos + 1)
        given = jax.tree.map(jnp.asarray, (stack, inputs, labels, orders, queries))
        compiled = jax.jit(stack_distributions)
        ours = icl_distributions(stack, inputs, labels, orders, queries)
        np.testing.assert_allclose(ours, compiled(*given), rtol=1e-9)
        ratios.append(
            compare(
                f"stack of {n_layers} layers, 10 orders, 40 queries",
                lambda stack=stack: icl_distributions(stack, inputs, labels, orders, queries),
                lambda compiled=compiled, given=given: jax.block_until_ready(compiled(*given)),
            )
        )
    start = np.zeros((6, 8))
    draws = [(rng.standard_normal((8, 8)), rng.integers(6, size=8), random_orders(10, 8, rng)) for _ in range(40)]
    together = tuple(np.stack(parts) for parts in zip(*draws, strict=True))
    for name, data in (("40 draws in 10 orders", together), ("(one draw in 10 orders)", draws[0])):
        for batch_size in (1, 2, 4, 8):
            train = partial(regression, batch_size=batch_size, epochs=20, rate=0.1)
            compiled = jax.jit(jax.vmap(train) if data is together else train)
            given = tuple(map(jnp.asarray, data))
            found = train_on_demonstrations(start, *data, 0.1, 20, batch_size)
            np.testing.assert_allclose(found, compiled(*given), rtol=1e-9, atol=1e-12)
            ratio = compare(
                f"softmax regression, {name}, 20 epochs, batches of {batch_size}",
                lambda size=batch_size, data=data: train_on_demonstrations(start, *data, 0.1, 20, size),
                lambda compiled=compiled, given=given: jax.block_until_ready(compiled(*given)),
            )
            if data is together:
                ratios.append(ratio)
    return verdict(ratios)


if __name__ == "__main__":
    sys.exit(main())
