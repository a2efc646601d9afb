r"""The paper's transformer layer: ReLU attention, full or causal, and a perceptron, on tokens that are columns."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_shapes, checked
from refimpl.primitives.linear_self_attention import sum_batch
from refimpl.primitives.numbers import Array, positive_part, transpose, unit_step


class ReluHeads(NamedTuple):
    """The heads of a ReLU attention layer; a gradient has the same type."""

    query: Array
    """Shape ``(n_heads, m, D)``."""
    key: Array
    """Shape ``(n_heads, m, D)``."""
    value: Array
    """Shape ``(n_heads, D, D)``."""


class ReluMLP(NamedTuple):
    """One hidden layer without biases; a gradient has the same type."""

    inner: Array
    """Shape ``(width, D)``."""
    outer: Array
    """Shape ``(D, width)``."""


def _check_attention(
    hidden: Array, heads: ReluHeads, n_context: Any | None = None, key_columns: Sequence[int] | None = None
) -> None:
    check_shapes(
        hidden=(hidden, "... D n_columns"),
        query=(heads.query, "n_heads m D"),
        key=(heads.key, "n_heads m D"),
        value=(heads.value, "n_heads D D"),
    )
    if n_context is not None:
        check_integer("n_context", n_context, 1)
    if key_columns is not None:
        for column in key_columns:
            check_integer("key_columns", column, 0, hidden.shape[-1] - 1)
        if not len(key_columns) or len(set(key_columns)) != len(key_columns):
            raise ValueError(f"key_columns: expected at least one column, all different, got {list(key_columns)}")


@checked(_check_attention)
def relu_attention(
    hidden: Array, heads: ReluHeads, n_context: Any | None = None, key_columns: Sequence[int] | None = None
) -> Array:
    r"""$\tilde h_t=h_t+\sum_m\sum_j\sigma(\langle Q_mh_t,K_mh_j\rangle)V_mh_j$, $\sigma$ a ReLU over $n$ or over $t$.

    Parameters
    ----------
    hidden : array, shape (..., D, n_columns)
    heads : ReluHeads
    n_context : int >= 1, or None
        With the $n$ of $\frac1n\mathrm{ReLU}$ every column attends to every key. Without, the layer is causal: column
        $t=1,2,\dots$ attends to the keys $j\le t$ with $\frac1t\mathrm{ReLU}$.
    key_columns : sequence of ints, or None for all
        The columns that give keys and values.

    Returns
    -------
    array, shape (..., D, n_columns)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, `n_context` is below 1 or a key column is out of range.

    Source: arXiv 2310.17086, Definitions 3.1 (causal) and B.1 (full).
    """
    return _attend(hidden, heads, n_context, key_columns)[0]


@checked(_check_attention)
def relu_attention_vjp(
    hidden: Array, heads: ReluHeads, n_context: Any | None = None, key_columns: Sequence[int] | None = None
) -> tuple[Array, Callable[[Array], tuple[Array, ReluHeads]]]:
    """:func:`relu_attention` and its pullback ``cotangent -> (hidden, heads)``, with derivative 0 at the kink."""
    keys = _keys(hidden, key_columns)
    output, (tokens, keyed, queried, scores, attention, gathered) = _attend(hidden, heads, n_context, key_columns)
    query, key = _flat(heads.query), _flat(heads.key)

    def pullback(cotangent: Array) -> tuple[Array, ReluHeads]:
        to_gathered = np.stack([transpose(matrix) @ cotangent for matrix in heads.value], axis=-3)
        to_attention = transpose(tokens)[..., None, :, :] @ to_gathered
        to_scores = _normalise(to_attention, keys, n_context) * unit_step(scores)
        to_queried = _flat(keyed @ to_scores)
        to_keyed = _flat(queried @ transpose(to_scores))
        to_hidden = cotangent + transpose(query) @ to_queried
        to_tokens = transpose(key) @ to_keyed + (to_gathered @ transpose(attention)).sum(axis=-3)
        to_hidden[..., keys] += to_tokens
        to_value = cotangent[..., None, :, :] @ transpose(gathered)
        return to_hidden, ReluHeads(
            query=sum_batch(to_queried @ transpose(hidden)).reshape(heads.query.shape),
            key=sum_batch(to_keyed @ transpose(tokens)).reshape(heads.key.shape),
            value=to_value.reshape(-1, *heads.value.shape).sum(axis=0),
        )

    return output, pullback


def _attend(
    hidden: Array, heads: ReluHeads, n_context: Any | None, key_columns: Sequence[int] | None
) -> tuple[Array, tuple[Array, ...]]:
    """The layer, and what its pullback needs. All heads at once: products of small matrices cost their overhead."""
    keys = _keys(hidden, key_columns)
    tokens = hidden.take(keys, axis=-1)
    n_heads = len(heads.query)
    keyed = _by_head(_flat(heads.key) @ tokens, n_heads)
    queried = _by_head(_flat(heads.query) @ hidden, n_heads)
    scores = transpose(keyed) @ queried
    attention = _normalise(positive_part(scores), keys, n_context)
    gathered = tokens[..., None, :, :] @ attention
    values = heads.value.swapaxes(0, 1).reshape(hidden.shape[-2], -1)
    return hidden + values @ _flat(gathered), (tokens, keyed, queried, scores, attention, gathered)


def _flat(matrices: Array) -> Array:
    """Heads and rows in one axis: (..., n_heads, rows, columns) to (..., n_heads rows, columns)."""
    return matrices.reshape(*matrices.shape[:-3], -1, matrices.shape[-1])


def _by_head(rows: Array, n_heads: int) -> Array:
    return rows.reshape(*rows.shape[:-2], n_heads, -1, rows.shape[-1])


def _keys(hidden: Array, key_columns: Sequence[int] | None) -> Any:
    return np.arange(hidden.shape[-1]) if key_columns is None else np.asarray(key_columns)


def _normalise(scores: Array, keys: Any, n_context: Any | None) -> Array:
    """Divide rectified scores (..., n_keys, n_columns) by n; or mask them causally and divide by the position."""
    if n_context is not None:
        return np.asanyarray(scores / n_context)
    position = np.arange(1, scores.shape[-1] + 1)
    seen = (keys[:, None] < position).astype(int).astype(scores.dtype)  # of objects, integers
    return np.asanyarray(scores * seen / position.astype(scores.dtype))


def _check_block(
    hidden: Array,
    heads: ReluHeads | None,
    mlp: ReluMLP | None,
    n_context: Any | None = None,
    key_columns: Sequence[int] | None = None,
) -> None:
    if heads is not None:
        _check_attention(hidden, heads, n_context, key_columns)
    if mlp is not None:
        check_shapes(hidden=(hidden, "... D n_columns"), inner=(mlp.inner, "width D"), outer=(mlp.outer, "D width"))


@checked(_check_block)
def transformer_block(
    hidden: Array,
    heads: ReluHeads | None,
    mlp: ReluMLP | None,
    n_context: Any | None = None,
    key_columns: Sequence[int] | None = None,
) -> Array:
    r"""ReLU attention, then $h\leftarrow h+W_2\mathrm{ReLU}(W_1h)$ in every column; either part may be absent.

    Parameters
    ----------
    hidden : array, shape (..., D, n_columns)
    heads : ReluHeads or None
    mlp : ReluMLP or None
    n_context, key_columns
        Of the attention, as for :func:`relu_attention`.

    Returns
    -------
    array, shape (..., D, n_columns)

    Raises
    ------
    ValueError
        As for :func:`relu_attention`, and if the perceptron's shapes do not fit.

    Source: arXiv 2310.17086, Section 3.2 and Appendix B.
    """
    if heads is not None:
        hidden = relu_attention.unchecked(hidden, heads, n_context, key_columns)
    if mlp is not None:
        hidden = hidden + mlp.outer @ positive_part(mlp.inner @ hidden)
    return hidden


@checked(_check_block)
def transformer_block_vjp(
    hidden: Array,
    heads: ReluHeads | None,
    mlp: ReluMLP | None,
    n_context: Any | None = None,
    key_columns: Sequence[int] | None = None,
) -> tuple[Array, Callable[[Array], tuple[Any, ...]]]:
    """:func:`transformer_block` and its pullback ``cotangent -> (hidden, heads, mlp)``, without a part that is None."""
    pull_attention = None
    if heads is not None:
        hidden, pull_attention = relu_attention_vjp.unchecked(hidden, heads, n_context, key_columns)
    output = hidden
    if mlp is not None:
        before = mlp.inner @ hidden
        active = positive_part(before)
        output = hidden + mlp.outer @ active

    def pullback(cotangent: Array) -> tuple[Any, ...]:
        to_parts: list[Any] = []
        if mlp is not None:
            to_before = (transpose(mlp.outer) @ cotangent) * unit_step(before)
            to_parts = [ReluMLP(sum_batch(to_before @ transpose(hidden)), sum_batch(cotangent @ transpose(active)))]
            cotangent = cotangent + transpose(mlp.inner) @ to_before
        if pull_attention is not None:
            cotangent, to_heads = pull_attention(cotangent)
            to_parts = [to_heads, *to_parts]
        return (cotangent, *to_parts)

    return output, pullback
