r"""The operator that the paper builds its four from: read, arithmetic, write (Lemmas 2 and 3, Appendix C).

$$h_i'[w]\leftarrow W_o\Big(\big(W_a\tfrac1{|K(i)|}\sum_{k\in K(i)}h_k[r]\big)\star Wh_i[s]\Big),\;\star\in\{+,\odot\}$$

with a map $K$ from a time step to earlier ones, itself included; where it is empty the mean is 0. Instances are ``mov``
into empty rows, ``aff`` and the dot product; ``mul`` is many dot products side by side. ``div`` is none.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from refimpl.incontext.learning_algorithms.layer import LayerParams
from refimpl.incontext.learning_algorithms.operators import (
    ATTENTION_STRENGTH,
    linear_pairs,
    one_hot,
    products,
    two_layers,
)
from refimpl.primitives.attention import MultiHeadAttention
from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.column_operators import Rows, check_rows
from refimpl.primitives.numbers import Array, common_dtype, constant

TimeMap = Sequence[Sequence[int]]
Arithmetic = Literal["sum", "product"]


class ReadArithmeticWrite(NamedTuple):
    """One such operator."""

    time_map: TimeMap
    """$K(i)$ for each column i."""
    rows_read: Rows
    """$r$."""
    rows_self: Rows
    """$s$."""
    rows_write: Rows
    """$w$."""
    weight_out: Array
    """$W_o$, shape ``(len(rows_write), m)``."""
    weight_read: Array
    """$W_a$, shape ``(m, len(rows_read))``."""
    weight_self: Array
    """$W$, shape ``(m, len(rows_self))``."""
    arithmetic: Arithmetic


def check_operator(operator: ReadArithmeticWrite, n_rows: int, n_columns: int) -> None:
    """Raise ``ValueError`` unless the operator's parts fit each other and such a hidden state."""
    sizes = check_shapes(
        weight_out=(operator.weight_out, "n_write m"),
        weight_read=(operator.weight_read, "m n_read"),
        weight_self=(operator.weight_self, "m n_self"),
    )
    for name in ("read", "self", "write"):
        check_rows(f"rows_{name}", getattr(operator, f"rows_{name}"), n_rows, sizes[f"n_{name}"])
    if operator.arithmetic not in ("sum", "product"):
        raise ValueError(f"arithmetic: expected 'sum' or 'product', got {operator.arithmetic!r}")
    if len(operator.time_map) != n_columns:
        raise ValueError(f"time_map: expected a set for each of {n_columns} columns, got {len(operator.time_map)}")
    for i, earlier in enumerate(operator.time_map):
        for k in earlier:
            check_integer(f"time_map[{i}]", k, 0, i)
        if len(set(earlier)) != len(earlier):
            raise ValueError(f"time_map[{i}]: expected columns that differ, got {list(earlier)}")


def raw(hidden: Array, operator: ReadArithmeticWrite) -> Array:
    """The operator itself, exact.

    Parameters
    ----------
    hidden : array, shape (..., n_rows, n_columns)
    operator : ReadArithmeticWrite

    Returns
    -------
    array, shape (..., n_rows, n_columns)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, rows are out of range or repeated, or a step reads a later one.

    Source: arXiv 2211.15661, Lemma 2.
    """
    check_shapes(hidden=(hidden, "... n_rows n_columns"))
    check_operator(operator, *hidden.shape[-2:])
    weights = operator.weight_out, operator.weight_read, operator.weight_self
    dtype = common_dtype(hidden, *weights)
    averages = np.zeros(2 * hidden.shape[-1:], dtype=dtype)
    for i, earlier in enumerate(operator.time_map):
        if earlier:
            averages[list(earlier), i] = constant(1, averages) / len(earlier)
    read = operator.weight_read @ (hidden[..., list(operator.rows_read), :] @ averages)
    own = operator.weight_self @ hidden[..., list(operator.rows_self), :]
    out = hidden.astype(dtype)
    combined = read + own if operator.arithmetic == "sum" else read * own
    out[..., list(operator.rows_write), :] = operator.weight_out @ combined
    return out


def raw_layer(
    n_rows: int,
    operator: ReadArithmeticWrite,
    scratch: Rows,
    positions: Rows,
    strength: Any = ATTENTION_STRENGTH,
    epsilon: Any = 1e-3,
) -> LayerParams:
    r"""The layer that does it; to be run with the sink, which takes the columns that read nothing.

    With $M_{ki}=1$ for $k\in K(i)$, keys $p_k$ and queries $(2NM-N\mathbf 1\mathbf 1^\top)p_i$ have the logits $N$ on
    $K(i)$ and $-N$ elsewhere. Attention writes $W_a$ of the mean into the scratch rows, and the MLP combines them.

    Parameters
    ----------
    n_rows : int >= 1
    operator : ReadArithmeticWrite
    scratch : sequence of m ints
        Rows of zeros, none of the others; they are zero again afterwards.
    positions : sequence of ints, one a column
        The rows of the one-hot code of the column.
    strength : float >= 0
        $N$.
    epsilon : float > 0
        Of the products; see :func:`.mul_layer`.

    Returns
    -------
    LayerParams
        One head; 2 w + 2 m hidden units for w rows written, and 3 m more for products.

    Raises
    ------
    ValueError
        If shapes do not fit, rows are out of range or repeated, or scratch rows are among the others.

    Source: arXiv 2211.15661, Lemmas 2 and 3.
    """
    n_rows = check_integer("n_rows", n_rows, 1)
    check_rows("positions", positions, n_rows)
    check_operator(operator, n_rows, len(positions))
    weight_out, weight_read, weight_self = operator.weight_out, operator.weight_read, operator.weight_self
    check_rows("scratch", scratch, n_rows, len(weight_read))
    others = {*operator.rows_read, *operator.rows_self, *operator.rows_write, *positions}
    if set(scratch) & others:
        raise ValueError(f"scratch: expected rows that are none of the others, got {list(scratch)}")
    strength = check_number("strength", strength, "[0, inf)")
    epsilon = check_number("epsilon", epsilon, "(0, inf)")

    dtype = common_dtype(weight_out, weight_read, weight_self)
    code, at_scratch = one_hot(positions, n_rows, dtype), one_hot(scratch, n_rows, dtype)
    logits = np.full((len(positions), len(positions)), -strength, dtype=dtype)
    for i, earlier in enumerate(operator.time_map):
        logits[list(earlier), i] = strength
    attention = MultiHeadAttention(
        query=(logits @ code)[None],
        key=code[None],
        value=(weight_read @ one_hot(operator.rows_read, n_rows, dtype))[None],
        output=at_scratch.T[None],
    )
    own = weight_self @ one_hot(operator.rows_self, n_rows, dtype)
    at_write = one_hot(operator.rows_write, n_rows, dtype)
    cleared = linear_pairs(-at_scratch, np.zeros(len(scratch), dtype), scratch)
    none = np.zeros(len(operator.rows_write), dtype)
    if operator.arithmetic == "sum":
        written = linear_pairs(weight_out @ (at_scratch + own) - at_write, none, operator.rows_write)
        return LayerParams(attention, two_layers(n_rows, *written, *cleared))
    combined = products(at_scratch, own, weight_out.T @ at_write, epsilon)
    erased = linear_pairs(-at_write, none, operator.rows_write)
    return LayerParams(attention, two_layers(n_rows, *combined, *erased, *cleared))
