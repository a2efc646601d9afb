r"""Softmax attention in place of the linear one: two heads at small scale do a gradient step on centred data (A.9)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.primitives.attention import softmax_attention, softmax_attention_vjp
from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.linear_self_attention import (
    LinearAttentionWeights,
    check_weights,
    factor_cotangents,
    gradient_descent_weights,
    sum_batch,
)
from refimpl.primitives.numbers import Array, transpose


def softmax_self_attention(
    tokens: Array, weights: LinearAttentionWeights, n_context: int, scale: Any = 1, include_query: bool = False
) -> Array:
    r"""$e_j\leftarrow e_j+\sum_hP_hW_{V,h}\,C\,\mathrm{softmax}(s\,C^\top W_{K,h}^\top W_{Q,h}e_j)$.

    Parameters
    ----------
    tokens : array, shape (..., D, n_tokens)
    weights : LinearAttentionWeights
    n_context : int from 1 to n_tokens - 1
        How many tokens give keys and values; the softmax runs over them.
    scale : number
        $s$; the authors' code takes $1/\sqrt D$.
    include_query : bool
        Let all tokens give keys and values instead.

    Returns
    -------
    array, shape (..., D, n_tokens)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry or `scale` is not finite, or `n_context` is out of range.

    Source: arXiv 2212.07677, Eq. 2 and Appendix A.9.
    """
    tokens, keys, scale = _check(tokens, weights, n_context, scale, include_query)
    output = tokens
    for a, b in zip(weights.key_query, weights.projection_value, strict=True):
        output = output + b @ transpose(softmax_attention.unchecked(transpose(a @ tokens), keys, keys, None, scale))
    return output


def softmax_self_attention_vjp(
    tokens: Array, weights: LinearAttentionWeights, n_context: int, scale: Any = 1, include_query: bool = False
) -> tuple[Array, Callable[[Array], tuple[Array, LinearAttentionWeights]]]:
    """:func:`softmax_self_attention` and its pullback ``cotangent -> (tokens, weights)``."""
    tokens, keys, scale = _check(tokens, weights, n_context, scale, include_query)
    key_query, projection_value = weights.key_query, weights.projection_value
    output, heads = tokens, []
    for a, b in zip(key_query, projection_value, strict=True):
        gathered, pull = softmax_attention_vjp.unchecked(transpose(a @ tokens), keys, keys, None, scale)
        heads.append((a, b, transpose(gathered), pull))
        output = output + b @ transpose(gathered)

    def pullback(cotangent: Array) -> tuple[Array, LinearAttentionWeights]:
        to_tokens = cotangent.copy()
        to_a, to_b = [], []
        for a, b, gathered, pull in heads:
            to_queries, to_keys, to_values = pull(transpose(cotangent) @ b)
            to_a.append(sum_batch(transpose(tokens @ to_queries)))
            to_b.append(sum_batch(cotangent @ transpose(gathered)))
            to_tokens = to_tokens + transpose(to_queries @ a)
            to_tokens[..., : keys.shape[-2]] += transpose(to_keys + to_values)
        return to_tokens, factor_cotangents(weights, np.stack(to_a), np.stack(to_b))

    return output, pullback


def two_head_softmax_gd_weights(
    n_inputs: int, n_outputs: int, learning_rate: Any, scale: Any, initial_weights: Array | None = None
) -> LinearAttentionWeights:
    r"""Two softmax heads whose difference is linear attention on centred data, up to $O(s^2)$.

    $$\tfrac1{2s}\big[\mathrm{softmax}(sz)-\mathrm{softmax}(-sz)\big]_i=\tfrac1N(z_i-\bar z)+O(s^2),$$

    so that with keys of opposite sign and values of opposite sign the layer does one gradient step on $x_i-\bar x$ and
    $y_i-\bar y$: the softmax's normaliser subtracts the mean logit. The number of context points does not enter.

    Parameters
    ----------
    n_inputs, n_outputs : int >= 1
    learning_rate : number > 0
    scale : number > 0
        $s$.
    initial_weights : array, shape (n_outputs, n_inputs), optional

    Returns
    -------
    LinearAttentionWeights with two heads

    Raises
    ------
    ValueError
        If a size is below 1, a number is not positive, or $W_0$ has another shape.

    Source: arXiv 2212.07677, Appendix A.9, Eq. 14 to 21.
    """
    scale = check_number("scale", scale, "(0, inf)")
    key, query, value, projection = gradient_descent_weights(n_inputs, n_outputs, learning_rate, 1, initial_weights)
    halved = projection / (2 * scale)
    return LinearAttentionWeights(
        np.concatenate([key * scale, -key * scale]),
        np.concatenate([query, query]),
        np.concatenate([value, value]),
        np.concatenate([halved, -halved]),
    )


def centred(x: Array) -> Array:
    """The columns less their mean, same shape."""
    return np.asanyarray(x - x.sum(axis=-1, keepdims=True) / x.shape[-1])


def _check(
    tokens: Any, weights: LinearAttentionWeights, n_context: int, scale: Any, include_query: bool
) -> tuple[Array, Array, Any]:
    tokens = np.asanyarray(tokens)
    check_weights(weights, tokens)
    n_context = check_integer("n_context", n_context, 1, tokens.shape[-1] - 1)
    keys = transpose(tokens if include_query else tokens[..., :n_context])
    return tokens, keys, check_number("scale", scale)
