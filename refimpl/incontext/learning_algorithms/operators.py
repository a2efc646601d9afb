r"""Weights by which one transformer layer does ``mov``, ``mul``, ``div`` or ``aff`` (Lemmas 1, 4, 5, 6, Appendix C).

What each is to compute stands in :mod:`refimpl.primitives.column_operators`; here is how nearly a layer computes it.

=======  ==============================================================  =====================================
Layer    Needs                                                           Error
=======  ==============================================================  =====================================
``aff``                                                                  none, or that of the paper's bypass
``mul``                                                                  at most $\frac43b\,\epsilon^2\max|h|^4$
``mov``  one-hot positions, a row of ones, the sink                      $O(e^{-N})$
``div``  positions, three pads and ``rows_out`` of zeros, layer norm on  relative, at most $q/(4N^2c^2)$
=======  ==============================================================  =====================================

So a ``div`` in one layer that touches only its output rows is out of reach: behind a layer norm nothing else than the
row itself, un-normalised, could be erased, so those rows must be empty; and the pads stay dirty, to be cleaned by an
``aff`` before they are used again.
"""

from typing import Any

import numpy as np

from refimpl.incontext.learning_algorithms.layer import LayerParams
from refimpl.primitives.attention import MultiHeadAttention
from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.column_operators import Rows, check_rows
from refimpl.primitives.layers import Linear
from refimpl.primitives.normalization import layer_norm
from refimpl.primitives.numbers import Array, common_dtype, constant, sqrt

ATTENTION_STRENGTH = 60.0  # a logit: what softmax leaves to the other tokens, e^-60, is below float64's roundoff of 1


def aff_layer(
    n_rows: int,
    rows_a: Rows,
    rows_b: Rows,
    rows_out: Rows,
    w1: Array,
    w2: Array,
    bias: Array | None = None,
    shift: Any = None,
) -> LayerParams:
    r"""The layer that writes $W_1h_a+W_2h_b+b$ into `rows_out` of every column.

    The MLP adds $z=W_1h_a+W_2h_b+b-h_{out}$. A linear functional passes it exactly by two units, $g(z)-g(-z)=z$, or in
    the paper's way by one, $g(z+N)-N=z-(z+N)\Phi(-z-N)$.

    Parameters
    ----------
    n_rows : int >= 1
    rows_a, rows_b, rows_out : sequences of ints
        They may overlap.
    w1 : array, shape (n_out, n_a)
    w2 : array, shape (n_out, n_b)
    bias : array, shape (n_out,), or None for zeros
    shift : float >= 0, or None for the exact pair of units
        $N$.

    Returns
    -------
    LayerParams
        Without attention; 2 n_out hidden units, or n_out with a shift.

    Raises
    ------
    ValueError
        If shapes do not fit, or rows are out of range or repeated.

    Source: arXiv 2211.15661, Lemma 5 and Appendix C.
    """
    sizes = check_shapes(w1=(w1, "n_out n_a"), w2=(w2, "n_out n_b"))
    n_rows = check_integer("n_rows", n_rows, 1)
    for name, rows, size in (("rows_a", rows_a, "n_a"), ("rows_b", rows_b, "n_b"), ("rows_out", rows_out, "n_out")):
        check_rows(name, rows, n_rows, sizes[size])
    if bias is not None:
        check_shapes(w1=(w1, "n_out n_a"), bias=(bias, "n_out"))
    if shift is not None:
        shift = check_number("shift", shift, "[0, inf)")
    dtype = common_dtype(w1, w2, *([] if bias is None else [bias]))
    functional = np.zeros((sizes["n_out"], n_rows), dtype=dtype)
    functional[:, list(rows_a)] += w1
    functional[:, list(rows_b)] += w2
    functional -= one_hot(rows_out, n_rows, dtype)
    offset = np.zeros(sizes["n_out"], dtype=dtype) if bias is None else bias.astype(dtype)
    if shift is None:
        return LayerParams(mlp=two_layers(n_rows, *linear_pairs(functional, offset, rows_out)))
    out = np.zeros(n_rows, dtype=dtype)
    out[list(rows_out)] = -shift
    return LayerParams(mlp=(Linear(functional, offset + shift), Linear(one_hot(rows_out, n_rows, dtype).T, out)))


def mul_layer(
    n_rows: int,
    a: int,
    b: int,
    c: int,
    rows_a: Rows,
    rows_b: Rows,
    rows_out: Rows,
    epsilon: Any = 1e-3,
    dtype: Any = np.float64,
) -> LayerParams:
    r"""The layer that writes the product of an a x b and a b x c matrix, both read row by row, into every column.

    A scalar product takes three units, $uv\approx\kappa\big(g(\epsilon(u+v))-g(\epsilon u)-g(\epsilon v)\big)$ with
    $\kappa=\sqrt{\pi/2}/\epsilon^2$. GeLU has no cubic term, so the error is $\epsilon^2$ times a quartic; roundoff
    grows as $1/\epsilon$, and the best $\epsilon$ is about the cube root of the unit roundoff.

    Parameters
    ----------
    n_rows, a, b, c : int >= 1
    rows_a, rows_b, rows_out : sequences of a b, b c and a c ints
        They may overlap.
    epsilon : float > 0
    dtype : of the weights

    Returns
    -------
    LayerParams
        Without attention; 3 a b c + 2 a c hidden units.

    Raises
    ------
    ValueError
        If a size is below 1, `epsilon` is not positive, or rows are out of range, repeated or not as many as the sizes.

    Source: arXiv 2211.15661, Lemma 4 and Appendix C. (Its remainder is stated as cubic.)
    """
    n_rows, a, b, c = (check_integer(*pair, 1) for pair in (("n_rows", n_rows), ("a", a), ("b", b), ("c", c)))
    for name, rows, size in (("rows_a", rows_a, a * b), ("rows_b", rows_b, b * c), ("rows_out", rows_out, a * c)):
        check_rows(name, rows, n_rows, size)
    epsilon = check_number("epsilon", epsilon, "(0, inf)")
    i, j, k = (index.reshape(-1) for index in np.indices((a, b, c)))
    first = one_hot(np.asarray(rows_a)[i * b + j], n_rows, dtype)
    second = one_hot(np.asarray(rows_b)[j * c + k], n_rows, dtype)
    written = one_hot(np.asarray(rows_out)[i * c + k], n_rows, dtype)
    erased = linear_pairs(-one_hot(rows_out, n_rows, dtype), np.zeros(a * c, dtype=dtype), rows_out)
    return LayerParams(mlp=two_layers(n_rows, *products(first, second, written, epsilon), *erased))


def mov_layer(
    n_rows: int,
    source: int,
    target: int,
    rows_from: Rows,
    rows_to: Rows,
    positions: Rows,
    one_row: int,
    strength: Any = ATTENTION_STRENGTH,
    dtype: Any = np.float64,
) -> LayerParams:
    r"""The layer that copies rows of column `source` into rows of column `target`.

    Queries $(2Np_i[t],-N)$ with keys $(p_j[s],1)$ give the pair $(t,s)$ the logit $N$ and all others $-N$ or less, so
    that the sink takes every column but the target. A second head, with keys $(p_j[t],1)$, erases what was there.

    Parameters
    ----------
    n_rows : int >= 1
    source, target : int
        Columns; the target may not lie before the source.
    rows_from, rows_to : sequences of ints, equally long
    positions : sequence of ints, one a column
        The rows of the one-hot code of the column.
    one_row : int
        A row of ones.
    strength : float >= 0
        $N$.
    dtype : of the weights

    Returns
    -------
    LayerParams
        Two heads, no MLP; to be run with the sink. The heads' values are the moved rows only, and $W^F$ places them.

    Raises
    ------
    ValueError
        If rows or columns are out of range or repeated, lengths differ, or the target lies before the source.

    Source: arXiv 2211.15661, Appendix C; the sink is its imaginary time step.
    """
    n_rows = check_integer("n_rows", n_rows, 1)
    check_rows("positions", positions, n_rows)
    source = check_integer("source", source, 0, len(positions) - 1)
    target = check_integer("target", target, source, len(positions) - 1)
    check_rows("rows_from", rows_from, n_rows)
    check_rows("rows_to", rows_to, n_rows, len(rows_from))
    check_integer("one_row", one_row, 0, n_rows - 1)
    strength = check_number("strength", strength, "[0, inf)")
    at_source, at_target, one = one_hot([positions[source], positions[target], one_row], n_rows, dtype)
    query = np.stack([2 * strength * at_target, -strength * one])
    moved, erased = one_hot(rows_from, n_rows, dtype), one_hot(rows_to, n_rows, dtype)
    return LayerParams(
        attention=MultiHeadAttention(
            query=np.stack([query, query]),
            key=np.stack([np.stack([at_source, one]), np.stack([at_target, one])]),
            value=np.stack([moved, erased]),
            output=np.stack([erased.T, -erased.T]),
        )
    )


def div_layer(
    n_rows: int,
    rows: Rows,
    denom_row: int,
    rows_out: Rows,
    pads: Rows,
    positions: Rows,
    scale: Any = 1e5,
    strength: Any = ATTENTION_STRENGTH,
    dtype: Any = np.float64,
) -> LayerParams:
    r"""The layer that adds $h_{rows}/|c|$, $c=h_{denom}$, to `rows_out`; to be run with layer norm.

    Attending to itself, a column writes $Nc$, $-Nc$ and minus the sum of its rows into the pads. So its mean is 0 and
    its variance $(2N^2c^2+q)/D$, with $q=\sum_rh_r^2+(\sum_rh_r)^2$ over the rows that are no pads, and the norm
    divides by $|c|$: written is $h_r/\sqrt{c^2+q/(2N^2)}$.

    Parameters
    ----------
    n_rows : int >= 1
    rows, rows_out : sequences of ints, equally long, that do not overlap
        `rows_out` must hold zeros for this to be an overwrite.
    denom_row : int
    pads : sequence of 3 ints
        Rows of zeros, none of the others; they do not stay zero.
    positions : sequence of ints, one a column
        The rows of the one-hot code of the column.
    scale : float > 0
        $N$.
    strength : float >= 0
        The logit by which a column attends to itself.
    dtype : of the weights

    Returns
    -------
    LayerParams
        One head and 2 len(rows) hidden units.

    Raises
    ------
    ValueError
        If rows are out of range or repeated, lengths differ, pads are among other rows, or `rows_out` among `rows`.

    Source: arXiv 2211.15661, Appendix C.
    """
    n_rows = check_integer("n_rows", n_rows, 1)
    check_rows("rows", rows, n_rows)
    check_rows("rows_out", rows_out, n_rows, len(rows))
    check_rows("pads", pads, n_rows, 3)
    check_rows("positions", positions, n_rows)
    check_integer("denom_row", denom_row, 0, n_rows - 1)
    if set(pads) & {*rows, *rows_out, *positions, denom_row}:
        raise ValueError(f"pads: expected rows that are none of the others, got {list(pads)}")
    if set(rows_out) & set(rows):
        raise ValueError(f"rows_out: expected rows other than {list(rows)}, got {list(rows_out)}")
    scale = check_number("scale", scale, "(0, inf)")
    strength = check_number("strength", strength, "[0, inf)")
    code, denominator = one_hot(positions, n_rows, dtype), one_hot([denom_row], n_rows, dtype)[0]
    total = np.ones(n_rows, dtype=dtype)
    total[list(pads)] = 0
    read = one_hot(rows, n_rows, dtype) * (scale * sqrt(2 / constant(n_rows, code)))
    pairs = linear_pairs(read, np.zeros(len(rows), dtype=dtype), rows_out)
    return LayerParams(
        attention=MultiHeadAttention(
            query=(strength * code)[None],
            key=code[None],
            value=np.stack([scale * denominator, -scale * denominator, -total])[None],
            output=one_hot(pads, n_rows, dtype).T[None],
        ),
        mlp=two_layers(n_rows, *pairs),
    )


def bypass_layer_norm(hidden: Array, scale: Any, separate_sum: bool = True) -> Array:
    r"""The rows of each column after pads, layer norm and rescaling: $\sqrt{2N^2/D}\,\lambda([h;\text{pads}])_h\to h$.

    Parameters
    ----------
    hidden : array, shape (..., n_rows, n_columns)
    scale : float > 0
        $N$.
    separate_sum : bool
        Pads $N,-N,-\sum h$, which leave $h_r/\sqrt{1+q/(2N^2)}$ with $q=\sum h_r^2+(\sum h_r)^2$; or the two pads
        $N,-N-\sum h$, whose error falls only as $1/N$.

    Returns
    -------
    array, shape (..., n_rows, n_columns)

    Raises
    ------
    ValueError
        If `hidden` is no such array, an entry is not finite or `scale` is not positive.

    Source: arXiv 2211.15661, Lemma 6.
    """
    check_shapes(hidden=(hidden, "... n_rows n_columns"))
    scale = check_number("scale", scale, "(0, inf)")
    total = hidden.sum(axis=-2, keepdims=True)
    pads = [scale + 0 * total, -scale + 0 * total, -total] if separate_sum else [scale + 0 * total, -scale - total]
    rows = np.swapaxes(np.concatenate([hidden, *pads], axis=-2), -1, -2)
    normalized = np.swapaxes(layer_norm(rows, epsilon=0), -1, -2)[..., : hidden.shape[-2], :]
    return normalized * (scale * sqrt(2 / constant(rows.shape[-1], hidden)))


# --- hidden units ---

Units = tuple[
    Array, Array, Array
]  # input weights (n_units, n_rows), biases (n_units,), output weights (n_rows, n_units)


def one_hot(rows: Rows, n_rows: int, dtype: Any) -> Array:
    """The rows of the identity that select these rows."""
    out = np.zeros((len(rows), n_rows), dtype=dtype)
    out[np.arange(len(rows)), list(rows)] = 1
    return out


def linear_pairs(functional: Array, offset: Array, rows_out: Rows) -> tuple[Units, Units]:
    """Two units for each linear functional of a column, which add its value to a row: g(z) - g(-z) = z."""
    written = one_hot(rows_out, functional.shape[1], functional.dtype).T
    return (functional, offset, written), (-functional, -offset, -written)


def products(first: Array, second: Array, written: Array, epsilon: Any) -> tuple[Units, Units, Units]:
    """Three units for each product of two linear functionals, added with weights `written`, (n_products, n_rows)."""
    factor = sqrt(constant("pi", first) / 2) / epsilon**2
    none = np.zeros(len(first), dtype=first.dtype)
    return (
        (epsilon * (first + second), none, factor * written.T),
        (epsilon * first, none, -factor * written.T),
        (epsilon * second, none, -factor * written.T),
    )


def two_layers(n_rows: int, *units: Units) -> tuple[Linear, Linear]:
    """The perceptron of all these units."""
    inputs, biases, outputs = zip(*units, strict=True)
    zeros = np.zeros(n_rows, dtype=inputs[0].dtype)
    return Linear(np.concatenate(inputs), np.concatenate(biases)), Linear(np.concatenate(outputs, axis=1), zeros)
