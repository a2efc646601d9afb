r"""Trained variants of the layer: softmax heads (A.9) and layer normalisation before attention (A.11).

One layer each, on prompts with the tasks last (see :mod:`refimpl.incontext.linear_attention.training`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.linear_attention.training import (
    LayerPullback,
    Prompts,
    check_read,
    check_targets,
    half_mean_square,
    read_query,
)
from refimpl.primitives.checks import check_shapes, checked
from refimpl.primitives.linear_self_attention import LinearAttentionWeights
from refimpl.primitives.normalization import layer_norm_vjp
from refimpl.primitives.numbers import Array, constant, exp, sqrt

# --- softmax heads ---


def _check_softmax(tokens: Array, weights: LinearAttentionWeights, n_outputs: int) -> None:
    check_read(tokens, {"weights": weights}, n_outputs)


@checked(_check_softmax)
def softmax_predict(tokens: Array, weights: LinearAttentionWeights, n_outputs: int) -> Array:
    r"""The prediction of one layer of softmax heads, $\mathrm{softmax}(C^\top Ae_q/\sqrt D)$ over the context.

    Parameters
    ----------
    tokens : array, shape (n_tokens, D, n_tasks)
        The last token is the query's.
    weights : LinearAttentionWeights
    n_outputs : int from 1 to D - 1

    Returns
    -------
    array, shape (n_outputs, n_tasks)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or `n_outputs` is out of range.

    Source: arXiv 2212.07677, Appendix A.9; the scale is that of the authors' code.
    """
    return _read_softmax(tokens, weights, n_outputs)[0]


@checked(_check_softmax)
def softmax_predict_vjp(
    tokens: Array, weights: LinearAttentionWeights, n_outputs: int
) -> tuple[Array, Callable[[Array], tuple[Array, LinearAttentionWeights]]]:
    """:func:`softmax_predict` and its pullback ``cotangent -> (tokens, weights)``."""
    prediction, backward = _read_softmax(tokens, weights, n_outputs)
    return prediction, lambda cotangent: backward(cotangent, True)


def _check_softmax_loss(weights: LinearAttentionWeights, prompts: Prompts) -> None:
    check_targets(prompts)
    _check_softmax(prompts.tokens, weights, len(prompts.targets))


@checked(_check_softmax_loss)
def softmax_loss_and_gradients(weights: LinearAttentionWeights, prompts: Prompts) -> tuple[Any, LinearAttentionWeights]:
    """``loss_and_gradients`` of one layer of softmax heads; same errors."""
    prediction, backward = _read_softmax(prompts.tokens, weights, len(prompts.targets))
    loss, residual = half_mean_square(prediction, prompts.targets)
    return loss, backward(residual, False)[1]


def _read_softmax(tokens: Array, weights: LinearAttentionWeights, n_outputs: int) -> tuple[Array, LayerPullback]:
    scale = sqrt(constant(tokens.shape[1], tokens))

    def attention_vjp(scores: Array) -> tuple[Array, Callable[[Array], Array]]:
        scores = scores / scale
        attention = exp(scores - (0 if scores.dtype == object else scores.max(axis=0)))
        attention /= attention.sum(axis=0)

        def pullback(cotangent: Array) -> Array:
            return attention * (cotangent - (attention * cotangent).sum(axis=0)) / scale

        return attention, pullback

    return read_query(tokens, weights, n_outputs, attention_vjp)


# --- layer normalisation ---


class NormedLayer(NamedTuple):
    """Layer normalisation and, on what it returns, linear attention; the residual connection goes past both."""

    scale: Array
    """Shape ``(D,)``."""
    offset: Array
    """Shape ``(D,)``."""
    attention: LinearAttentionWeights


def _check_normed(tokens: Array, layer: NormedLayer, n_outputs: int) -> None:
    check_read(tokens, {"layer.attention": layer.attention}, n_outputs)
    check_shapes(
        tokens=(tokens, "n_tokens D n_tasks"),
        **{"layer.scale": (layer.scale, "D"), "layer.offset": (layer.offset, "D")},
    )


@checked(_check_normed)
def normed_predict(tokens: Array, layer: NormedLayer, n_outputs: int) -> Array:
    r"""The prediction of one layer with its keys, queries and values from $\mathrm{LayerNorm}(e)$.

    Parameters
    ----------
    tokens : array, shape (n_tokens, D, n_tasks)
        The last token is the query's.
    layer : NormedLayer
    n_outputs : int from 1 to D - 1

    Returns
    -------
    array, shape (n_outputs, n_tasks)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or `n_outputs` is out of range.

    Source: arXiv 2212.07677, Appendix A.11 and the authors' code.
    """
    return _read_normed(tokens, layer, n_outputs)[0]


def _check_normed_loss(layer: NormedLayer, prompts: Prompts) -> None:
    check_targets(prompts)
    _check_normed(prompts.tokens, layer, len(prompts.targets))


@checked(_check_normed_loss)
def normed_loss_and_gradients(layer: NormedLayer, prompts: Prompts) -> tuple[Any, NormedLayer]:
    """``loss_and_gradients`` of one layer with layer normalisation; same errors."""
    prediction, pullback = _read_normed(prompts.tokens, layer, len(prompts.targets))
    loss, residual = half_mean_square(prediction, prompts.targets)
    return loss, pullback(residual)[1]


def _read_normed(
    tokens: Array, layer: NormedLayer, n_outputs: int
) -> tuple[Array, Callable[[Array], tuple[Array, NormedLayer]]]:
    rows, pull_norm = layer_norm_vjp.unchecked(tokens.swapaxes(-1, -2), layer.scale, layer.offset)
    normed = np.ascontiguousarray(rows.swapaxes(-1, -2))
    read, backward = read_query(normed, layer.attention, n_outputs)
    past = normed[-1, -n_outputs:] - tokens[-1, -n_outputs:]

    def pullback(cotangent: Array) -> tuple[Array, NormedLayer]:
        to_normed, to_attention = backward(cotangent, True)
        to_normed[-1, -n_outputs:] += cotangent
        to_rows, to_scale, to_offset = pull_norm(to_normed.swapaxes(-1, -2))
        to_tokens = to_rows.swapaxes(-1, -2).copy()
        to_tokens[-1, -n_outputs:] -= cotangent
        return to_tokens, NormedLayer(to_scale, to_offset, to_attention)

    return read + past, pullback
