r"""Two layers on raw sequences $x_1,y_1,x_2,\dots,x_q$: one learns to copy, the other to descend (Section 4, Figure 5).

Tokens are columns with the tasks first, as for :func:`softmax_self_attention`: below its content each token carries a
fixed positional encoding. The first layer is a softmax head, the second a linear one, read at the query's last entry.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.linear_attention.copying import interleave_tokens
from refimpl.incontext.linear_attention.softmax import softmax_self_attention_vjp
from refimpl.incontext.linear_attention.training import half_mean_square, read_query
from refimpl.primitives.checks import check_integer, check_shapes, checked
from refimpl.primitives.linear_self_attention import LinearAttentionWeights
from refimpl.primitives.numbers import Array, constant, sqrt
from refimpl.tasks.linear_regression import RegressionTasks, check_tasks


class RawPrompts(NamedTuple):
    """A batch of raw sequences, tasks first."""

    tokens: Array
    """Shape ``(n_tasks, n_inputs + size, T)`` with $T=2N+1$."""
    targets: Array
    """Shape ``(n_outputs, n_tasks)``."""


class RawTransformer(NamedTuple):
    """Its two layers."""

    softmax: LinearAttentionWeights
    linear: LinearAttentionWeights


def positional_encoding(n_tokens: int, size: int) -> Array:
    r"""Columns $\sin(j/10000^{2i/s})$ and, alternating with them, $\cos$ of the same, for positions $j=0,1,\dots$

    Parameters
    ----------
    n_tokens : int >= 1
    size : even int >= 2

    Returns
    -------
    array, shape (size, n_tokens)

    Raises
    ------
    ValueError
        If a size is out of range or `size` is odd.

    Source: Vaswani et al., arXiv 1706.03762, Section 3.5; the authors' ``create_pos_encoding``.
    """
    n_tokens = check_integer("n_tokens", n_tokens, 1)
    if check_integer("size", size, 2) % 2:
        raise ValueError(f"size: expected an even integer, got {size}")
    angles = np.arange(n_tokens) / 10000 ** (np.arange(0, size, 2) / size)[:, None]
    return np.stack([np.sin(angles), np.cos(angles)], axis=1).reshape(size, n_tokens)


def make_raw_prompts(tasks: RegressionTasks, size: int) -> RawPrompts:
    """Inputs and zero-padded targets by turns, then the query, each above its positional encoding of this size.

    Raises
    ------
    ValueError
        If the arrays of the tasks do not fit each other, have not one leading axis or more outputs than inputs, or
        `size` is not an even number.

    Source: arXiv 2212.07677, Section 4 and the authors' ``create_reg_data_classic_token``.
    """
    sizes = check_tasks(tasks)
    if len(sizes["..."]) != 1:
        raise ValueError(f"tasks: expected one leading axis, got {sizes['...']}")
    content = interleave_tokens(tasks.x, tasks.y, tasks.x_query)[:, : sizes["n_inputs"]]
    places = positional_encoding(content.shape[-1], size).astype(content.dtype)
    tokens = np.concatenate([content, np.broadcast_to(places, (len(content), *places.shape))], axis=1)
    return RawPrompts(tokens, np.ascontiguousarray(tasks.y_query.T))


def _check_raw(tokens: Array, layers: RawTransformer, n_outputs: int) -> None:
    sizes = check_shapes(
        tokens=(tokens, "n_tasks D n_tokens"),
        **{
            f"layers.{layer}.{name}": (matrix, f"{layer}_heads D D")
            for layer, weights in layers._asdict().items()
            for name, matrix in weights._asdict().items()
        },
    )
    if sizes["n_tokens"] < 2:
        raise ValueError(f"tokens: expected a context token and the query, got {sizes['n_tokens']} token")
    check_integer("n_outputs", n_outputs, 1, sizes["D"] - 1)


@checked(_check_raw)
def raw_predict(tokens: Array, layers: RawTransformer, n_outputs: int) -> Array:
    r"""The prediction: $-1$ times the last entries of the query's token after a softmax and a linear layer.

    Parameters
    ----------
    tokens : array, shape (n_tasks, D, n_tokens)
    layers : RawTransformer
    n_outputs : int from 1 to D - 1

    Returns
    -------
    array, shape (n_outputs, n_tasks)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or `n_outputs` is out of range.

    Source: arXiv 2212.07677, Section 4, Figure 5. The query gives no keys and values in either layer, logits are
    divided by $\sqrt D$ and the last entries are those of the positional encoding, all as in the authors' code.
    """
    return _raw_predict(tokens, layers, n_outputs)[0]


def _check_raw_loss(layers: RawTransformer, prompts: RawPrompts) -> None:
    _check_raw(prompts.tokens, layers, len(prompts.targets))
    check_shapes(tokens=(prompts.tokens, "n_tasks D n_tokens"), targets=(prompts.targets, "n_outputs n_tasks"))


@checked(_check_raw_loss)
def raw_loss_and_gradients(layers: RawTransformer, prompts: RawPrompts) -> tuple[Any, RawTransformer]:
    """Half the mean squared error, and its gradient; errors as for :func:`raw_predict`."""
    prediction, pullback = _raw_predict(prompts.tokens, layers, len(prompts.targets))
    loss, residual = half_mean_square(prediction, prompts.targets)
    return loss, pullback(residual)[1]


def _raw_predict(
    tokens: Array, layers: RawTransformer, n_outputs: int
) -> tuple[Array, Callable[[Array], tuple[Array, RawTransformer]]]:
    hidden, pull_first = _first_layer_vjp(tokens, layers.softmax)
    prediction, backward = read_query(np.ascontiguousarray(hidden.transpose(2, 1, 0)), layers.linear, n_outputs)

    def pullback(cotangent: Array) -> tuple[Array, RawTransformer]:
        to_hidden, to_linear = backward(cotangent, True)
        to_tokens, to_softmax = pull_first(np.ascontiguousarray(to_hidden.transpose(2, 1, 0)))
        return to_tokens, RawTransformer(to_softmax, to_linear)

    return prediction, pullback


def _first_layer_vjp(
    tokens: Array, weights: LinearAttentionWeights
) -> tuple[Array, Callable[[Array], tuple[Array, LinearAttentionWeights]]]:
    scale = (1 / sqrt(constant(tokens.shape[-2], tokens)))[()]
    return softmax_self_attention_vjp(tokens, weights, tokens.shape[-1] - 1, scale)


class CopySensitivity(NamedTuple):
    r"""Norms of $\partial e^{(1)}_j/\partial e_i$, means over the context positions $j$ but the last."""

    own: float
    """$i=j$."""
    following: float
    """$i=j+1$: where a token's target stands."""
    other: float
    """The mean over all other tokens $i$."""


def copy_sensitivity(tokens: Array, weights: LinearAttentionWeights) -> CopySensitivity:
    """How much each token reads of itself, of the next one and of the others in the first layer.

    The derivative is of the sum of the token's entries and averaged over the tasks before its norm is taken.

    Parameters
    ----------
    tokens : array, shape (n_tasks, D, n_tokens)
        At least three tokens.
    weights : LinearAttentionWeights
        Of the softmax layer.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or there are fewer than three tokens.

    Source: arXiv 2212.07677, Figure 5 (right) and the authors' ``analyse_copy``.
    """
    sizes = check_shapes(tokens=(tokens, "n_tasks D n_tokens"))
    n_tokens = check_integer("n_tokens", sizes["n_tokens"], 3)
    output, pullback = _first_layer_vjp(tokens, weights)
    rows = []
    for position in range(n_tokens - 2):
        cotangent = np.zeros_like(output)
        cotangent[:, :, position] = 1
        to_tokens, _ = pullback(cotangent)
        norms = np.linalg.norm(to_tokens.mean(axis=0), axis=0)
        own, following = norms[position], norms[position + 1]
        rows.append((own, following, (norms.sum() - own - following) / (n_tokens - 2)))
    return CopySensitivity(*(float(value) for value in np.mean(rows, axis=0)))
