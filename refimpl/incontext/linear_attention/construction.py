r"""The weights with which one layer is one step of gradient descent, and stacks of them (Section 2, A.1)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refimpl.incontext.linear_attention.descent import apply_linear, check_context
from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.linear_self_attention import (
    LinearAttentionWeights,
    attend,
    attend_vjp,
    check_weights,
    factor_cotangents,
    initial_or_zero,
)
from refimpl.primitives.numbers import Array, common_dtype


def make_tokens(x: Array, y: Array, x_query: Array, initial_weights: Array | None = None) -> Array:
    r"""Tokens $[x_j;y_j]$ as columns and, last, the query $[x_q;-W_0x_q]$.

    Parameters
    ----------
    x : array, shape (..., n_inputs, n_context)
    y : array, shape (..., n_outputs, n_context)
    x_query : array, shape (..., n_inputs)
    initial_weights : array, shape (n_outputs, n_inputs), optional
        $W_0$; zeros if None.

    Returns
    -------
    array, shape (..., n_inputs + n_outputs, n_context + 1)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2212.07677, Section 2 and Appendix A.1.
    """
    check_context(x, y)
    check_shapes(x=(x, "... n_inputs n_context"), x_query=(x_query, "... n_inputs"))
    start = initial_or_zero(initial_weights, y.shape[-2], x.shape[-2], common_dtype(x, y, x_query))
    query = np.concatenate([x_query, -apply_linear(start, x_query)], axis=-1)
    return np.concatenate([np.concatenate([x, y], axis=-2), query[..., None]], axis=-1)


def read_prediction(tokens: Array, n_inputs: int) -> Array:
    r"""The prediction: $-1$ times the $y$-part of the last token.

    Parameters
    ----------
    tokens : array, shape (..., D, n_tokens)
    n_inputs : int from 1 to D - 1

    Returns
    -------
    array, shape (..., D - n_inputs)

    Source: arXiv 2212.07677, Section 2 (the query's $y$-part holds $-Wx_q$).
    """
    check_shapes(tokens=(tokens, "... D n_tokens"))
    return np.asanyarray(-tokens[..., check_integer("n_inputs", n_inputs, 1, tokens.shape[-2] - 1) :, -1])


# --- depth ---


def stack_forward(
    tokens: Array,
    layers: Sequence[LinearAttentionWeights],
    n_context: int,
    clip: float | None = None,
    dampening: Any = 1,
) -> Array:
    """The layers one after another; the query gives no keys and values.

    Parameters
    ----------
    tokens : array, shape (..., D, n_tokens)
    layers : sequence of LinearAttentionWeights
        The same weights again and again for a looped transformer.
    n_context : int from 1 to n_tokens - 1
    clip : float > 0, optional
        Clip the entries of all tokens to ``[-clip, clip]`` after every layer; the paper takes 10 beyond two layers.
        Needs numbers, not symbols.
    dampening : number > 0
        Factor of every layer's update.

    Returns
    -------
    array, shape (..., D, n_tokens)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, `n_context` is out of range, or `clip` or `dampening` is not
        positive.

    Source: arXiv 2212.07677, Section 3; Appendix A.6 (dampening) and A.12 (clipping).
    """
    tokens, n_context, dampening = _check_stack(tokens, layers, n_context, clip, dampening)
    for layer in layers:
        tokens = attend(tokens, layer.key_query, dampening * layer.projection_value, n_context)
        if clip is not None:
            tokens = np.clip(tokens, -clip, clip)
    return tokens


def stack_forward_vjp(
    tokens: Array,
    layers: Sequence[LinearAttentionWeights],
    n_context: int,
    clip: float | None = None,
    dampening: Any = 1,
) -> tuple[Array, Callable[[Array], tuple[Array, list[LinearAttentionWeights]]]]:
    """:func:`stack_forward` and its pullback ``cotangent -> (tokens, [weights of each layer])``.

    A clipped entry passes no gradient. For tied layers sum the gradients of the layers.
    """
    tokens, n_context, dampening = _check_stack(tokens, layers, n_context, clip, dampening)
    pulls, masks = [], []
    for layer in layers:
        tokens, pull = attend_vjp(tokens, layer.key_query, dampening * layer.projection_value, n_context)
        pulls.append(pull)
        if clip is not None:
            masks.append(np.abs(tokens) < clip)
            tokens = np.clip(tokens, -clip, clip)

    def pullback(cotangent: Array) -> tuple[Array, list[LinearAttentionWeights]]:
        to_layers = []
        for index in reversed(range(len(layers))):
            if masks:
                cotangent = cotangent * masks[index]
            cotangent, to_key_query, to_projection_value = pulls[index](cotangent)
            to_layers.append(factor_cotangents(layers[index], to_key_query, dampening * to_projection_value))
        return cotangent, to_layers[::-1]

    return tokens, pullback


def _check_stack(
    tokens: Any, layers: Sequence[LinearAttentionWeights], n_context: int, clip: float | None, dampening: Any
) -> tuple[Array, int, Any]:
    tokens = np.asanyarray(tokens)
    for layer in layers:
        check_weights(layer, tokens)
    if clip is not None:
        check_number("clip", clip, "(0, inf)")
    n_context = check_integer("n_context", n_context, 1, tokens.shape[-1] - 1)
    return tokens, n_context, check_number("dampening", dampening, "(0, inf)")
