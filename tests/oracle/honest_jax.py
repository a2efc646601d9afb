"""Honest implementations in JAX, as somebody would write them who has the formula and not our code."""

from typing import Any

import jax
import jax.numpy as jnp

from tests.oracle.honest import Honest

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "tanh": lambda x: jnp.tanh(x),  # takes no keyword
    "erf": jax.scipy.special.erf,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": jax.nn.gelu,
}


def layer_norm(x: Any, scale: Any, offset: Any, epsilon: Any) -> Any:
    mean = jnp.mean(x, axis=-1, keepdims=True)
    normalized = (x - mean) * jax.lax.rsqrt(jnp.var(x, axis=-1, keepdims=True) + epsilon)
    scaled = normalized if scale is None else normalized * scale
    return scaled if offset is None else scaled + offset


def squared_error(prediction: Any, target: Any) -> Any:
    return jnp.sum(jnp.square(prediction - target), axis=-1)


def cross_entropy(logits: Any, labels: Any) -> Any:
    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1)[..., 0]


def one_hot_cross_entropy(logits: Any, labels: Any) -> Any:
    return -jnp.sum(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) * jax.nn.log_softmax(logits), axis=-1)


def linear(x: Any, weight: Any, bias: Any) -> Any:
    output = jnp.einsum("...i,oi->...o", x, weight)
    return output if bias is None else output + bias


def mlp(x: Any, layers: Any, activation: str) -> Any:
    for index, layer in enumerate(layers):
        x = linear(ACTIVATIONS[activation](x) if index else x, *layer)
    return x


def softmax_attention(query: Any, key: Any, value: Any, mask: Any, scale: Any) -> Any:
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = jnp.einsum("...qd,...kd->...qk", query, key) * scale
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    return jnp.einsum("...qk,...kv->...qv", jax.nn.softmax(scores, axis=-1), value)


def online_softmax_attention(query: Any, key: Any, value: Any, mask: Any, scale: Any, block: int = 2) -> Any:
    """Block after block of keys, with a running maximum and sum in float32 at least."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    shape = jnp.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    seen = jnp.broadcast_to(True if mask is None else mask, (*shape, query.shape[-2], key.shape[-2]))
    largest = jnp.full((*shape, query.shape[-2], 1), -1e30, wide)
    total, output = jnp.zeros_like(largest), jnp.zeros((*shape, query.shape[-2], value.shape[-1]), wide)
    for start in range(0, key.shape[-2], block):
        here = slice(start, start + block)
        scores = jnp.einsum("...qd,...kd->...qk", query, key[..., here, :], preferred_element_type=wide) * scale
        scores = jnp.where(seen[..., here], scores, -jnp.inf)
        new = jax.lax.stop_gradient(jnp.maximum(largest, jnp.max(scores, axis=-1, keepdims=True)))
        weights, shrink = jnp.exp(scores - new), jnp.exp(largest - new)
        total = total * shrink + jnp.sum(weights, axis=-1, keepdims=True)
        output = output * shrink + jnp.einsum("...qk,...kv->...qv", weights, value[..., here, :].astype(wide))
        largest = new
    return (output / total).astype(query.dtype)


def linear_attention(query: Any, key: Any, value: Any, causal: Any, key_mask: Any) -> Any:
    scores = jnp.einsum("...qd,...kd->...qk", query, key)
    if causal:
        scores = jnp.tril(scores)
    if key_mask is not None:
        scores = jnp.where(key_mask[..., None, :], scores, 0)
    return jnp.einsum("...qk,...kv->...qv", scores, value)


def multi_head_attention(x: Any, weights: Any, kind: str, causal: bool, key_mask: Any) -> Any:
    query, key, value = (jnp.einsum("...td,hed->...hte", x, w) for w in weights[:3])
    seen = None if key_mask is None else key_mask[..., None, :]
    if kind == "linear":
        heads = linear_attention(query, key, value, causal, seen)
    else:
        mask = jnp.tril(jnp.ones((x.shape[-2],) * 2, bool)) if causal else jnp.ones((1, 1), bool)
        if seen is not None:
            mask = mask & seen[..., None, :]
        heads = softmax_attention(query, key, value, mask, None)
    return jnp.einsum("...hte,hde->...td", heads, weights.output)


def linear_self_attention(tokens: Any, weights: Any, n_context: int, include_query: bool) -> Any:
    context = tokens if include_query else tokens[..., :n_context]
    scores = jnp.einsum("hed,...dc,hef,...ft->...hct", weights.key, context, weights.query, tokens)
    values = jnp.einsum("hde,hef,...fc->...hdc", weights.projection, weights.value, context)
    return tokens + jnp.einsum("...hdc,...hct->...dt", values, scores)


def attend(tokens: Any, key_query: Any, projection_value: Any, n_keys: int) -> Any:
    context = tokens[..., :n_keys]
    scores = jnp.einsum("...dc,hde,...et->...hct", context, key_query, tokens)
    return tokens + jnp.einsum("hde,...ec,...hct->...dt", projection_value, context, scores)


def stack_forward(tokens: Any, layers: Any, n_context: int, clip: Any, dampening: Any) -> Any:
    for layer in layers:
        update = linear_self_attention(tokens, layer, n_context, False) - tokens
        tokens = tokens + dampening * update
        tokens = tokens if clip is None else jnp.clip(tokens, -clip, clip)
    return tokens


def candidates() -> list[Honest]:
    named = ACTIVATIONS | {
        "softmax": jax.nn.softmax,
        "log_sum_exp": lambda x: jax.nn.logsumexp(x, axis=-1),
        "layer_norm": layer_norm,
        "squared_error": squared_error,
        "cross_entropy": cross_entropy,
        "linear": linear,
        "mlp": mlp,
        "softmax_attention": softmax_attention,
        "linear_attention": linear_attention,
        "multi_head_attention": multi_head_attention,
        "linear_self_attention": linear_self_attention,
        "attend": attend,
    }
    dtypes = ("float64", "float32", "bfloat16")
    found = [Honest("JAX", f"primitives/{name}", function, dtypes, None, "jax") for name, function in named.items()]
    return [
        *found,
        Honest("JAX, online softmax", "primitives/softmax_attention", online_softmax_attention, dtypes, None, "jax"),
        Honest("JAX, one-hot", "primitives/cross_entropy", one_hot_cross_entropy, dtypes, None, "jax"),
        Honest("JAX", "linear_attention/stack_forward", stack_forward, ("float64", "float32"), None, "jax"),
    ]
