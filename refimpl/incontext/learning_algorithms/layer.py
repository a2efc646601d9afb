r"""The transformer layer that all constructions live in (Section 2), tokens as columns.

Causal softmax attention without $1/\sqrt d$, its output matrices summed over heads, then an MLP, each with a skip. The
softmax may also see an imaginary token of logit and value 0, a *sink*, so that attending to nothing is possible:
$\operatorname{softmax}_1(s)_j=e^{s_j}/(1+\sum_ke^{s_k})$.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.activations import check_activation, gelu_of_both_signs
from refimpl.primitives.attention import (
    Mask,
    MultiHeadAttention,
    attention_weights,
    causal_mask,
    softmax_attention_vjp,
)
from refimpl.primitives.checks import check_shapes, checked
from refimpl.primitives.layers import Linear
from refimpl.primitives.normalization import layer_norm, layer_norm_vjp
from refimpl.primitives.numbers import Array, common_dtype
from refimpl.primitives.trees import leaves


class LayerParams(NamedTuple):
    """A layer; without ``attention`` or ``mlp``, that part is the identity.

    ``attention.output`` holds the column blocks of $W^F$, one a head; ``mlp`` is $(W_1,\\beta_1)$ and $(W_2,\\beta_2)$.
    """

    attention: MultiHeadAttention | None = None
    mlp: tuple[Linear, Linear] | None = None


def _check_layer(
    hidden: Array, params: LayerParams, use_layernorm: bool = False, sink: bool = True, activation: str = "gelu"
) -> None:
    shapes: dict[str, tuple[Any, str]] = {"hidden": (hidden, "... n_rows n_columns")}
    if params.attention is not None:
        for name, matrix in zip(MultiHeadAttention._fields, params.attention, strict=True):
            size = {"value": "d_value", "output": "d_value"}.get(name, "d_key")
            shape = f"n_heads n_rows {size}" if name == "output" else f"n_heads {size} n_rows"
            shapes[f"params.attention.{name}"] = (matrix, shape)
    if params.mlp is not None:
        for index, (inputs, outputs) in enumerate((("n_rows", "n_hidden"), ("n_hidden", "n_rows"))):
            shapes[f"params.mlp[{index}].weight"] = (params.mlp[index].weight, f"{outputs} {inputs}")
            shapes[f"params.mlp[{index}].bias"] = (params.mlp[index].bias, outputs)
    check_shapes(**shapes)
    check_activation("activation", activation)


@checked(_check_layer)
def transformer_layer(
    hidden: Array, params: LayerParams, use_layernorm: bool = False, sink: bool = True, activation: str = "gelu"
) -> Array:
    r"""$x_i=h_i+W^F[b^1_i;\dots;b^M_i]$, then $x_i+W_2\,g(W_1\lambda(x_i)+\beta_1)+\beta_2$.

    Here $b^m_i=\sum_{j\le i}\operatorname{softmax}_j\big((W^Q_mh_i)^\top(W^K_mh_j)\big)W^V_mh_j$.

    Parameters
    ----------
    hidden : array, shape (..., n_rows, n_columns)
        Columns are time steps.
    params : LayerParams
    use_layernorm : bool
        $\lambda$ is the layer norm over the rows without affine part and without $\epsilon$, or the identity.
    sink : bool
        Let every softmax see a token of logit and value 0.
    activation : name in ``ACTIVATIONS``
        $g$: "gelu", or "gelu_tanh" for the approximation that the paper displays.

    Returns
    -------
    array, shape (..., n_rows, n_columns)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, the activation is unknown, or a column is constant where it is to
        be normalised (0/0).

    Source: arXiv 2211.15661, Section 2; the sink is the imaginary time step of Appendix C.
    """
    columns = flatten(hidden, common_dtype(hidden, *leaves(params)))
    apply_layer(columns, CompactLayer(params), hidden.shape[-1], use_layernorm, sink, activation)
    return unflatten(columns, hidden.shape)


@checked(_check_layer)
def transformer_layer_vjp(
    hidden: Array, params: LayerParams, use_layernorm: bool = False, sink: bool = True, activation: str = "gelu"
) -> tuple[Array, Callable[[Array], tuple[Array, LayerParams]]]:
    """:func:`transformer_layer` and its pullback ``cotangent -> (hidden, params)``."""
    columns, shape = flatten(hidden, common_dtype(hidden, *leaves(params))), hidden.shape
    x, pull_attention = _attention_vjp(columns, params.attention, shape[-1], sink)
    output, pull_mlp = _mlp_vjp(x, params.mlp, use_layernorm, activation)

    def pullback(cotangent: Array) -> tuple[Array, LayerParams]:
        to_x, to_mlp = pull_mlp(flatten(cotangent, cotangent.dtype))
        to_hidden, to_attention = pull_attention(to_x)
        return unflatten(to_hidden, shape), LayerParams(to_attention, to_mlp)

    return unflatten(output, shape), pullback


# --- the columns of the whole batch side by side, (n_rows, n_batch * n_columns): one matrix product for all ---


def flatten(hidden: Array, dtype: Any) -> Array:
    """A copy of the columns of the whole batch side by side."""
    rows_first = np.moveaxis(hidden, -2, 0)
    return np.array(rows_first, dtype=dtype).reshape(len(rows_first), -1)


def unflatten(columns: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of :func:`flatten`, for a hidden state of this shape."""
    return np.ascontiguousarray(np.moveaxis(columns.reshape(shape[-2], *shape[:-2], shape[-1]), 0, -2))


Index = slice | Array
EVERY_ROW = slice(None)


class CompactLayer(NamedTuple):
    """A layer without the rows that it neither reads nor writes, and which rows the others are.

    Its first hidden units stand for two each, of opposite inputs: ``opposite``, of shape (n_written, n_opposite), is
    what the second of the two writes.
    """

    params: LayerParams
    attention_reads: Index = EVERY_ROW
    attention_writes: Index = EVERY_ROW
    mlp_reads: Index = EVERY_ROW
    mlp_writes: Index = EVERY_ROW
    opposite: Array | None = None


def compact(params: LayerParams) -> CompactLayer:
    """The same layer, of GeLU units, without zeros and repetitions, of which a program's layers are nearly made."""
    layer = CompactLayer(params)
    attention, mlp = params
    if attention is not None:
        reads, writes = _where(*(_stack(w).T for w in attention[:3])), _where(_stack_inputs(attention.output))
        query, key, value = (w[..., reads] for w in attention[:3])
        attention = MultiHeadAttention(query, key, value, attention.output[:, writes])
        layer = layer._replace(attention_reads=reads, attention_writes=writes)
    if mlp is not None:
        (w1, b1), (w2, b2) = mlp
        assert b1 is not None
        assert b2 is not None
        reads, writes = _where(w1.T), _where(w2, b2[:, None])
        first, second, opposite = _merge_units(Linear(w1[:, reads], b1), w2[writes])
        mlp = first, Linear(second, b2[writes])
        layer = layer._replace(mlp_reads=reads, mlp_writes=writes, opposite=opposite)
    return layer._replace(params=LayerParams(attention, mlp))


def _merge_units(first: Linear, output: Array) -> tuple[Linear, Array, Array]:
    """Hidden units that have the same input as one, and those of opposite input in the order of their partners, which
    come first."""
    inputs = np.concatenate([first.weight, first.bias[:, None]], axis=1)  # type: ignore[index]
    units: dict[tuple[Any, ...], list[Any]] = {}
    for unit, (weights, opposite) in enumerate(zip(inputs.tolist(), (-inputs).tolist(), strict=True)):
        sign = 1 if tuple(opposite) in units else 0
        columns = units.setdefault(tuple(opposite if sign else weights), [0, 0])
        columns[sign] = columns[sign] + output[:, unit]
    ordered = sorted(units.items(), key=lambda unit: isinstance(unit[1][1], int))
    merged = np.array([weights for weights, _ in ordered], dtype=inputs.dtype)
    plus = np.stack([columns[0] for _, columns in ordered], axis=1)
    minus = [columns[1] for _, columns in ordered if not isinstance(columns[1], int)]
    return Linear(merged[:, :-1], merged[:, -1]), plus, np.stack(minus, axis=1) if minus else plus[:, :0]


def _where(*matrices: Array) -> Index:
    """The rows in which any of these matrices has an entry, as a slice where they are neighbours."""
    found = np.flatnonzero(np.any(np.concatenate(matrices, axis=1) != 0, axis=1))
    if len(found) and found[-1] - found[0] + 1 == len(found):
        return slice(int(found[0]), int(found[-1]) + 1)
    return found


def apply_layer(
    columns: Array,
    layer: CompactLayer,
    n_columns: int,
    use_layernorm: bool = False,
    sink: bool = True,
    activation: str = "gelu",
) -> None:
    """:func:`transformer_layer` in place, on (n_rows, n_batch * n_columns); arguments unchecked."""
    attention, mlp = layer.params
    if attention is not None:
        attended = _attend(columns[layer.attention_reads], attention, n_columns, sink)
        columns[layer.attention_writes] += _stack_inputs(attention.output) @ attended
    if mlp is not None:
        first, second = mlp
        units = first.weight @ (_normalized(columns) if use_layernorm else columns)[layer.mlp_reads]
        units += first.bias[:, None]  # type: ignore[index]
        if layer.opposite is None:
            written = second.weight @ check_activation("activation", activation).function(units)
        else:
            plus, minus = gelu_of_both_signs(units, layer.opposite.shape[1])
            written = second.weight @ plus
            written += layer.opposite @ minus
        written += second.bias[:, None]  # type: ignore[index]
        columns[layer.mlp_writes] += written


def _attend(columns: Array, weights: MultiHeadAttention, n_columns: int, sink: bool) -> Array:
    """What the heads read, (n_heads * d_value, n_batch * n_columns)."""
    n_heads = len(weights.query)
    query, key, value = ((_stack(w) @ columns).reshape(n_heads, w.shape[1], -1, n_columns) for w in weights[:3])
    # Queries and keys that depend on nothing but the position attend alike in the whole batch.
    alike = bool((query == query[:, :, :1]).all() and (key == key[:, :, :1]).all())
    query, key = (x[:, :, : 1 if alike else None].transpose(2, 0, 3, 1) for x in (query, key))
    # The sink's value is 0: it takes its share, and gives nothing.
    shares = attention_weights(query, _with_zeros(key) if sink else key, _mask(n_columns, sink))[..., :n_columns]
    if alike:
        attended = value.reshape(n_heads, -1, n_columns) @ np.swapaxes(shares[0], -1, -2)
    else:
        attended = (value.transpose(2, 0, 1, 3) @ np.swapaxes(shares, -1, -2)).transpose(1, 2, 0, 3)
    return attended.reshape(-1, columns.shape[1])


def _normalized(columns: Array) -> Array:
    return layer_norm(columns.T, epsilon=0).T


def _attention_vjp(
    x: Array, weights: MultiHeadAttention | None, n_columns: int, sink: bool
) -> tuple[Array, Callable[[Array], tuple[Array, MultiHeadAttention | None]]]:
    if weights is None:
        return x, lambda cotangent: (cotangent, None)
    query, key, value = _heads(x, weights, n_columns, sink)
    attended, pull_attended = softmax_attention_vjp.unchecked(query, key, value, _mask(n_columns, sink), 1)
    merged, output = _merge(attended), _stack_inputs(weights.output)

    def pullback(cotangent: Array) -> tuple[Array, MultiHeadAttention]:
        to_output = (cotangent @ merged.T).reshape(len(cotangent), len(weights.output), -1).swapaxes(0, 1)
        to_heads = pull_attended(_split(output.T @ cotangent, len(weights.output), n_columns))
        to_x, to_weights = cotangent, []
        for w, to_head in zip(weights[:3], to_heads, strict=True):
            to_projected = _merge(to_head[..., :n_columns, :])
            to_x = to_x + _stack(w).T @ to_projected
            to_weights.append((to_projected @ x.T).reshape(w.shape))
        to_query, to_key, to_value = to_weights
        return to_x, MultiHeadAttention(to_query, to_key, to_value, to_output)

    return x + output @ merged, pullback


def _mlp_vjp(
    x: Array, layers: tuple[Linear, Linear] | None, use_layernorm: bool, activation: str
) -> tuple[Array, Callable[[Array], tuple[Array, tuple[Linear, Linear] | None]]]:
    if layers is None:
        return x, lambda cotangent: (cotangent, None)
    first, second = layers
    if use_layernorm:
        rows, pull_norm = layer_norm_vjp(x.T, epsilon=0)
    inputs = rows.T if use_layernorm else x
    function = check_activation("activation", activation).vjp
    units, pull_units = function(first.weight @ inputs + first.bias[:, None])  # type: ignore[index]

    def pullback(cotangent: Array) -> tuple[Array, tuple[Linear, Linear]]:
        to_second = Linear(cotangent @ units.T, cotangent.sum(axis=1))
        (to_units,) = pull_units(second.weight.T @ cotangent)
        to_first = Linear(to_units @ inputs.T, to_units.sum(axis=1))
        to_inputs = first.weight.T @ to_units
        if use_layernorm:
            to_inputs = pull_norm(to_inputs.T)[0].T
        return cotangent + to_inputs, (to_first, to_second)

    return x + second.weight @ units + second.bias[:, None], pullback  # type: ignore[index]


@cache
def _mask(n_columns: int, sink: bool) -> Mask:
    mask = causal_mask(n_columns)
    return np.concatenate([mask, np.ones((n_columns, 1), dtype=bool)], axis=1) if sink else mask


def _heads(columns: Array, weights: MultiHeadAttention, n_columns: int, sink: bool) -> tuple[Array, Array, Array]:
    """Queries, keys and values, (n_batch, n_heads, n_columns, .); the sink is one more key and value of zeros."""
    query, key, value = (_split(_stack(w) @ columns, len(w), n_columns) for w in weights[:3])
    return (query, _with_zeros(key), _with_zeros(value)) if sink else (query, key, value)


def _with_zeros(tokens: Array) -> Array:
    """One more token of zeros, behind the others."""
    return np.concatenate([tokens, 0 * tokens[..., :1, :]], axis=-2)


def _stack(matrices: Array) -> Array:
    """The heads' matrices on top of one another: (n_heads, d_head, n_rows) -> (n_heads * d_head, n_rows)."""
    return matrices.reshape(-1, matrices.shape[-1])


def _stack_inputs(matrices: Array) -> Array:
    """$W^F$ from its column blocks: (n_heads, n_rows, d_value) -> (n_rows, n_heads * d_value)."""
    return matrices.swapaxes(0, 1).reshape(matrices.shape[1], -1)


def _split(projected: Array, n_heads: int, n_columns: int) -> Array:
    """(n_heads * d_head, n_batch * n_columns) -> (n_batch, n_heads, n_columns, d_head)."""
    d_head, n_batch = len(projected) // n_heads, math.prod(projected.shape[1:]) // n_columns
    return projected.reshape(n_heads, d_head, n_batch, n_columns).transpose(2, 0, 3, 1)


def _merge(heads: Array) -> Array:
    """(n_batch, n_heads, n_columns, d_head) -> (n_heads * d_head, n_batch * n_columns)."""
    n_batch, n_heads, n_columns, d_head = heads.shape
    return heads.transpose(1, 3, 0, 2).reshape(n_heads * d_head, n_batch * n_columns)
