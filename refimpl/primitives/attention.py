r"""Softmax and linear attention on tokens that are rows, single and multi-head, with their pullbacks.

Linear attention $(QK^\top)V=Q(K^\top V)$ never builds the matrix of scores: its cost is linear in the number of tokens,
with a causal mask too. Tokens that are columns: :mod:`refimpl.primitives.linear_self_attention`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_number, check_shapes, checked
from refimpl.primitives.layers import linear, linear_vjp
from refimpl.primitives.numbers import Array, constant, exp, row_dot, row_max, row_sum, sqrt, transpose

Mask = np.ndarray[Any, np.dtype[np.bool_]]
QueryKeyValue = tuple[Array, Array, Array]

CHUNK = 64  # tokens whose mutual scores causal linear attention holds at a time


def causal_mask(n_tokens: int) -> Mask:
    """The mask of shape (n_tokens, n_tokens) by which a token attends to itself and the tokens before it."""
    return np.tri(n_tokens, dtype=bool)


def _check_mask(name: str, mask: Any, shape: tuple[int, ...]) -> None:
    """Check a boolean array that broadcasts to `shape`."""
    if not np.issubdtype(getattr(mask, "dtype", object), np.bool_):
        raise ValueError(f"{name}: expected a boolean array, got {getattr(mask, 'dtype', type(mask).__name__)}")
    fits = mask.ndim <= len(shape) and all(
        size in (1, whole) for size, whole in zip(mask.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(f"{name}: expected a shape that broadcasts to {shape}, got {mask.shape}")


def _check_softmax_attention(
    query: Array, key: Array, value: Array, mask: Mask | None = None, scale: float | None = None
) -> None:
    sizes = check_shapes(
        query=(query, "... n_queries d"), key=(key, "... n_keys d"), value=(value, "... n_keys d_value")
    )
    if mask is not None:
        _check_mask("mask", mask, (*sizes["..."], sizes["n_queries"], sizes["n_keys"]))
        if not np.all(np.any(mask, axis=-1)):
            raise ValueError("mask: expected a key for every query, got a query that sees none")
    if scale is not None:
        check_number("scale", scale)


@checked(_check_softmax_attention)
def softmax_attention(
    query: Array, key: Array, value: Array, mask: Mask | None = None, scale: float | None = None
) -> Array:
    r"""$\operatorname{softmax}(sQK^\top)V$, the softmax over the keys that the mask allows.

    Parameters
    ----------
    query : array, shape (..., n_queries, d)
    key : array, shape (..., n_keys, d)
    value : array, shape (..., n_keys, d_value)
    mask : boolean array that broadcasts to (..., n_queries, n_keys), or None
        True where the query may see the key; at least one key for each query.
    scale : float, or None for $1/\sqrt d$

    Returns
    -------
    array, shape (..., n_queries, d_value)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, the mask is not boolean or hides all keys from a query.

    Source: Vaswani et al., arXiv 1706.03762, Eq. 1.
    """
    return attention_weights(query * _scale(scale, query), key, mask) @ value


@checked(_check_softmax_attention)
def softmax_attention_vjp(
    query: Array, key: Array, value: Array, mask: Mask | None = None, scale: float | None = None
) -> tuple[Array, Callable[[Array], QueryKeyValue]]:
    """:func:`softmax_attention` and its pullback ``cotangent -> (query, key, value)``."""
    factor = _scale(scale, query)
    scaled = query * factor
    weights = attention_weights(scaled, key, mask)
    output = weights @ value

    def pullback(cotangent: Array) -> QueryKeyValue:
        to_scores = cotangent @ transpose(value)
        # The mean of to_scores under the weights, computed where it is smaller: over the features of the output.
        to_scores -= row_dot(cotangent, output)
        to_scores *= weights
        to_query = to_scores @ key
        to_query *= factor
        return to_query, transpose(to_scores) @ scaled, transpose(weights) @ cotangent

    return output, pullback


def _scale(scale: float | None, query: Array) -> Any:
    return 1 / sqrt(constant(query.shape[-1], query)) if scale is None else check_number("scale", scale)


def attention_weights(query: Array, key: Array, mask: Mask | None = None) -> Array:
    """Softmax over the allowed keys of the unscaled scores, (..., n_queries, n_keys); arguments unchecked."""
    scores = query @ transpose(key)
    if mask is not None and scores.dtype != object:
        scores += np.where(mask, 0, -np.inf).astype(scores.dtype)
    scores -= row_max(scores)
    if mask is None:
        weights = exp(scores)
    elif scores.dtype == object:
        weights = exp(scores) * mask.astype(int)
    else:  # the exponential of -inf is 0, but takes several times as long as that of a number
        weights = np.exp(scores, out=np.zeros_like(scores), where=mask)
    weights /= row_sum(weights)
    return weights


def _check_linear_attention(
    query: Array, key: Array, value: Array, causal: bool = False, key_mask: Mask | None = None
) -> None:
    sizes = check_shapes(
        query=(query, "... n_queries d"), key=(key, "... n_keys d"), value=(value, "... n_keys d_value")
    )
    if causal and sizes["n_queries"] != sizes["n_keys"]:
        raise ValueError(
            f"causal: expected as many queries as keys, got {sizes['n_queries']} queries and {sizes['n_keys']} keys"
        )
    if key_mask is not None:
        _check_mask("key_mask", key_mask, (*sizes["..."], sizes["n_keys"]))


@checked(_check_linear_attention)
def linear_attention(
    query: Array, key: Array, value: Array, causal: bool = False, key_mask: Mask | None = None
) -> Array:
    r"""$(QK^\top\odot M)V$ with $M$ all ones or lower triangular: attention without softmax, scale or normalisation.

    Parameters
    ----------
    query : array, shape (..., n_queries, d)
    key : array, shape (..., n_keys, d)
    value : array, shape (..., n_keys, d_value)
    causal : bool
        A token attends to itself and the tokens before it; needs as many queries as keys.
    key_mask : boolean array that broadcasts to (..., n_keys), or None
        True where a key may be seen.

    Returns
    -------
    array, shape (..., n_queries, d_value)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or the mask is not boolean.

    Source: Katharopoulos et al., arXiv 2006.16236, Eq. 5 and 9 with the identity as feature map.
    """
    return (_attend_before if causal else _attend_all)(query, _hide(key, key_mask), value)


@checked(_check_linear_attention)
def linear_attention_vjp(
    query: Array, key: Array, value: Array, causal: bool = False, key_mask: Mask | None = None
) -> tuple[Array, Callable[[Array], QueryKeyValue]]:
    r""":func:`linear_attention` and its pullback ``cotangent -> (query, key, value)``.

    The sum $\sum_{ij}M_{ij}(q_i\cdot k_j)(v_j\cdot g_i)$ is unchanged when queries trade places with cotangents and
    keys with values, or both with each other under $M^\top$: so each cotangent is a linear attention again.

    Source: Katharopoulos et al., arXiv 2006.16236, Eq. 13 to 15.
    """
    seen = _hide(key, key_mask)
    attend, attend_transposed = (_attend_before, _attend_after) if causal else (_attend_all, _attend_all)

    def pullback(cotangent: Array) -> QueryKeyValue:
        to_key = attend_transposed(value, cotangent, query)
        return attend(cotangent, value, seen), _hide(to_key, key_mask), attend_transposed(seen, query, cotangent)

    return attend(query, seen, value), pullback


def _hide(key: Array, key_mask: Mask | None) -> Array:
    """The keys, with zeros for those that the mask hides."""
    return key if key_mask is None else key * key_mask[..., None].astype(int).astype(key.dtype)


def _attend_all(query: Array, key: Array, value: Array) -> Array:
    return query @ (transpose(key) @ value)


def _attend_before(query: Array, key: Array, value: Array) -> Array:
    """Causal linear attention: scores within a chunk of tokens, a running sum of outer products for those before it."""
    n_tokens = query.shape[-2]
    if n_tokens <= CHUNK:
        return _attend_within(query, key, value)
    output = np.empty_like(value, shape=(*query.shape[:-1], value.shape[-1]))
    state: Array | None = None
    for start in range(0, n_tokens, CHUNK):
        chunk = (..., slice(start, start + CHUNK), slice(None))
        q, k, v = query[chunk], key[chunk], value[chunk]
        output[chunk] = _attend_within(q, k, v)
        if state is None:
            state = transpose(k) @ v
        else:
            output[chunk] += q @ state
            state += transpose(k) @ v
    return output


def _attend_within(query: Array, key: Array, value: Array) -> Array:
    scores = query @ transpose(key)
    scores *= np.tri(query.shape[-2], dtype=int).astype(scores.dtype)
    return scores @ value


def _attend_after(query: Array, key: Array, value: Array) -> Array:
    """Linear attention to the token itself and those after it."""
    query, key, value = (x[..., ::-1, :] for x in (query, key, value))
    return _attend_before(query, key, value)[..., ::-1, :]


class MultiHeadAttention(NamedTuple):
    """The matrices of each head: `query`, `key` (n_heads, d_head, d), `value` (n_heads, d_value, d) and
    `output` (n_heads, d, d_value); a gradient has the same type."""

    query: Array
    key: Array
    value: Array
    output: Array


def _check_multi_head_attention(
    x: Array,
    weights: MultiHeadAttention,
    kind: Literal["softmax", "linear"] = "softmax",
    causal: bool = False,
    key_mask: Mask | None = None,
) -> None:
    sizes = check_shapes(
        x=(x, "... n_tokens d"),
        **{
            "weights.query": (weights.query, "n_heads d_head d"),
            "weights.key": (weights.key, "n_heads d_head d"),
            "weights.value": (weights.value, "n_heads d_value d"),
            "weights.output": (weights.output, "n_heads d d_value"),
        },
    )
    if kind not in ("softmax", "linear"):
        raise ValueError(f"kind: expected 'softmax' or 'linear', got {kind!r}")
    if key_mask is None:
        return
    _check_mask("key_mask", key_mask, (*sizes["..."], sizes["n_tokens"]))
    # The first token is all that the first query may see where causal.
    seen = key_mask[..., :1] if causal else key_mask
    if kind == "softmax" and not np.all(np.any(seen, axis=-1)):
        raise ValueError("key_mask: expected a key for every query, got a query that sees none")


@checked(_check_multi_head_attention)
def multi_head_attention(
    x: Array,
    weights: MultiHeadAttention,
    kind: Literal["softmax", "linear"] = "softmax",
    causal: bool = False,
    key_mask: Mask | None = None,
) -> Array:
    r"""Multi-head self-attention without biases.

    $$\sum_h\operatorname{attend}(xW_{Q,h}^\top,\;xW_{K,h}^\top,\;xW_{V,h}^\top)\,W_{O,h}^\top$$

    Parameters
    ----------
    x : array, shape (..., n_tokens, d)
    weights : MultiHeadAttention
    kind : "softmax" for :func:`softmax_attention` at its usual scale, "linear" for :func:`linear_attention`
    causal : bool
        A token attends to itself and the tokens before it.
    key_mask : boolean array that broadcasts to (..., n_tokens), or None
        True where a token may be seen.

    Returns
    -------
    array, shape (..., n_tokens, d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, `kind` is unknown, or a softmax has nothing to see.

    Source: Vaswani et al., arXiv 1706.03762, Section 3.2.2.
    """
    attend, _ = _KINDS[kind]
    rows = linear.unchecked(x, _stack(weights))
    heads = attend(*_projections(rows, weights), **_masks(x, kind, causal, key_mask))
    return linear.unchecked(_merge(heads), _stack_inputs(weights.output))


@checked(_check_multi_head_attention)
def multi_head_attention_vjp(
    x: Array,
    weights: MultiHeadAttention,
    kind: Literal["softmax", "linear"] = "softmax",
    causal: bool = False,
    key_mask: Mask | None = None,
) -> tuple[Array, Callable[[Array], tuple[Array, MultiHeadAttention]]]:
    """:func:`multi_head_attention` and its pullback ``cotangent -> (x, weights)``."""
    masks = _masks(x, kind, causal, key_mask)
    return multi_head_with(x, weights, partial(_KINDS[kind][1], **masks))


def multi_head_with(
    x: Array, weights: MultiHeadAttention, attend_vjp: Callable[[Array, Array, Array], Any]
) -> tuple[Array, Callable[[Array], tuple[Array, MultiHeadAttention]]]:
    """Heads of any attention, and their pullback ``cotangent -> (x, weights)``; arguments unchecked.

    Parameters
    ----------
    x, weights : as in :func:`multi_head_attention`
    attend_vjp : maps query, key and value of all heads, (..., n_heads, n_tokens, d_head), to what they attend to and
        the pullback to the three
    """
    n_heads = len(weights.query)
    rows, pull_rows = linear_vjp.unchecked(x, _stack(weights))
    heads, pull_heads = attend_vjp(*_projections(rows, weights))
    output, pull_output = linear_vjp.unchecked(_merge(heads), _stack_inputs(weights.output))

    def pullback(cotangent: Array) -> tuple[Array, MultiHeadAttention]:
        to_merged, to_output = pull_output(cotangent)
        to_heads = pull_heads(_split(to_merged, n_heads))
        to_rows = np.concatenate([part.swapaxes(-3, -2) for part in to_heads], axis=-1)
        to_x, to_stacked = pull_rows(to_rows.reshape(*to_rows.shape[:-2], -1))
        of_heads = _parts(to_stacked.reshape(n_heads, -1, x.shape[-1]).swapaxes(1, 2), weights)
        to_query, to_key, to_value = (part.swapaxes(1, 2) for part in of_heads)
        to_output = to_output.reshape(-1, n_heads, weights.output.shape[-1]).swapaxes(0, 1)
        return to_x, MultiHeadAttention(to_query, to_key, to_value, to_output)

    return output, pullback


_KINDS: dict[str, tuple[Callable[..., Array], Callable[..., Any]]] = {
    "softmax": (softmax_attention.unchecked, softmax_attention_vjp.unchecked),
    "linear": (linear_attention.unchecked, linear_attention_vjp.unchecked),
}


def _masks(x: Array, kind: str, causal: bool, key_mask: Mask | None) -> dict[str, Any]:
    """The mask arguments of the single-head attention; batch axes are followed by the axis of heads."""
    if kind == "linear":
        return {"causal": causal, "key_mask": None if key_mask is None else key_mask[..., None, :]}
    mask = causal_mask(x.shape[-2]) if causal else None
    if key_mask is not None:
        seen = key_mask[..., None, None, :]
        mask = seen if mask is None else mask & seen
    return {"mask": mask}


def _stack(weights: MultiHeadAttention) -> Array:
    """Each head's query, key and value matrix on top of one another, and the heads likewise, for one product."""
    return np.concatenate(weights[:3], axis=1).reshape(-1, weights.query.shape[-1])


def _projections(rows: Array, weights: MultiHeadAttention) -> tuple[Array, Array, Array]:
    """Query, key and value of each head, (..., n_heads, n_tokens, d_head), from the product with the stacked matrix."""
    return _parts(_split(rows, len(weights.query)), weights)


def _parts(stacked: Array, weights: MultiHeadAttention) -> tuple[Array, Array, Array]:
    """What belongs to query, key and value, along the last axis."""
    d_head = weights.query.shape[1]
    return stacked[..., :d_head], stacked[..., d_head : 2 * d_head], stacked[..., 2 * d_head :]


def _stack_inputs(matrices: Array) -> Array:
    """The heads' matrices side by side: (n_heads, d, d_value) -> (d, n_heads * d_value)."""
    return matrices.swapaxes(0, 1).reshape(matrices.shape[1], -1)


def _split(rows: Array, n_heads: int) -> Array:
    """(..., n_tokens, n_heads * d_head) -> (..., n_heads, n_tokens, d_head)."""
    return rows.reshape(*rows.shape[:-1], n_heads, -1).swapaxes(-3, -2)


def _merge(heads: Array) -> Array:
    """(..., n_heads, n_tokens, d_head) -> (..., n_tokens, n_heads * d_head)."""
    rows = heads.swapaxes(-3, -2)
    return rows.reshape(*rows.shape[:-2], -1)
