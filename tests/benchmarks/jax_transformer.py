"""The small transformer of :mod:`refimpl.primitives.language_model` as a user of JAX writes it, and a training step."""

from collections.abc import Callable
from typing import Any

from tests.benchmarks.side_by_side import compare  # isort: skip  (sets JAX's environment)

import jax
import jax.numpy as jnp
import numpy as np

from refimpl.primitives.language_model import LanguageModel
from refimpl.primitives.optimizers import Optimizer, adam, chain, clip_by_global_norm
from refimpl.primitives.training import training_steps
from refimpl.primitives.trees import leaves

LEARNING_RATE = 1e-3


def hidden_states(model: LanguageModel, embeddings: Any, eta: float = 0.0, at: Any = None) -> jax.Array:
    """The blocks on (n_batch, n_tokens, d), each head's attention plus the momentum of its values; with `at` the last
    perceptron leaves out what is not read, as ours does and few would write."""

    def norm(rows: Any, affine: Any) -> Any:
        centred = rows - rows.mean(axis=-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * affine.scale + affine.offset

    n_tokens = embeddings.shape[1]
    stream, mask = embeddings + model.positions[:n_tokens], jnp.tri(n_tokens, dtype=bool)
    age = jnp.arange(n_tokens)[:, None] - jnp.arange(n_tokens)
    kernel = jnp.where(age > 0, eta ** jnp.maximum(age, 1), 0.0)
    for block in model.blocks:
        rows = norm(stream, block.attention_norm)
        query, key, value = (jnp.einsum("bti,hki->bhtk", rows, w) for w in block.attention[:3])
        scores = query @ jnp.swapaxes(key, -1, -2) / jnp.sqrt(query.shape[-1]).astype(rows.dtype)
        weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)
        attended = weights @ value if eta == 0 else (weights + kernel) @ value
        stream = stream + jnp.einsum("bhtv,hiv->bti", attended, block.attention.output)
        if at is not None and block is model.blocks[-1]:
            stream = stream[:, at]
        (w1, b1), (w2, b2) = block.mlp  # type: ignore[misc]
        stream = stream + jax.nn.gelu(norm(stream, block.mlp_norm) @ w1.T + b1, approximate=False) @ w2.T + b2
    return stream


def cross_entropy(logits: Any, labels: Any) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1).mean()


def token_loss(
    model: LanguageModel, tokens: Any, targets: Any, at: Any, eta: float = 0.0, early: bool = False
) -> jax.Array:
    """The mean cross-entropy of the targets at these positions, chosen last, or before the last perceptron."""
    readout = model.embedding if model.readout is None else model.readout
    embeddings = model.embedding[tokens]
    hidden = hidden_states(model, embeddings, at=at) if early else hidden_states(model, embeddings, eta)[:, at]
    return cross_entropy(hidden @ readout.T, targets)


def first_step(loss: Callable[..., Any], max_norm: float | None) -> Callable[..., Any]:
    """The first step of Adam on this loss, with the gradient clipped at a global norm or not."""

    def step(params: Any, moments: Any, *batch: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, *batch)
        clipped = gradient
        if max_norm is not None:
            norm = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(gradient)))
            clipped = jax.tree.map(lambda g: jnp.where(norm < max_norm, g, g / norm * max_norm), gradient)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], clipped)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], clipped)
        moved = jax.tree.map(
            lambda p, m, v: p - LEARNING_RATE * (m / 0.1) / (jnp.sqrt(v / 0.001) + 1e-8), params, first, second
        )
        return value, gradient, moved, (first, second)

    return jax.jit(step)


def compare_training_steps(
    name: str,
    model: Any,
    ours: Callable[[Any], tuple[Any, Any]],
    theirs: Callable[..., Any],
    batch: tuple[Any, ...],
    max_norm: float | None = None,
) -> float:
    """Compare one step on this batch, from loss and gradient to the new parameters; return theirs over ours.

    Parameters
    ----------
    ours : ``model -> (loss, gradient)``, the batch inside
    theirs : ``(model, *batch) -> loss``
    max_norm : of the clipped gradient; None for no clipping
    """
    optimizer: Optimizer = adam(LEARNING_RATE)
    if max_norm is not None:
        optimizer = chain(clip_by_global_norm(max_norm), optimizer)
    steps = training_steps(model, lambda model, _: ours(model), lambda: None, optimizer)
    params = jax.tree.map(jnp.asarray, model)
    zeros = jax.tree.map(jnp.zeros_like, params)
    compiled, given = first_step(theirs, max_norm), (params, (zeros, zeros), *map(jnp.asarray, batch))
    tolerance = 1e-8 if next(leaves(model)).dtype == np.float64 else 1e-2
    for mine, other in zip(jax.tree.leaves(ours(model)), jax.tree.leaves(compiled(*given)[:2]), strict=True):
        np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance / 100)
    return compare(name, steps.__next__, lambda: jax.block_until_ready(compiled(*given)))
