r"""Exact operators on hidden states whose columns are tokens: ``mov``, ``mul``, ``div``, ``aff``.

They are what the in-context papers write their programs in. Each reads some rows of $H\in\mathbb R^{D\times T}$ and
**overwrites** others; rows are sequences of indices from 0, columns too. How nearly a transformer layer realises an
operator is a matter of the papers; here each is exact, one layer of a program, and all but ``mov`` act on every column.

Source: Akyurek et al., arXiv 2211.15661, Section 3 and Appendix C (Lemma 1).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl.primitives.checks import check_integer, check_shapes, checked
from refimpl.primitives.numbers import Array, absolute, common_dtype

Rows = Sequence[int]


def check_rows(name: str, rows: Any, n_rows: int, length: int | None = None) -> None:
    """Raise ``ValueError`` unless these are rows from 0 to n_rows - 1, all different, and as many as expected."""
    if isinstance(rows, str) or not isinstance(rows, Sequence | np.ndarray) or not len(rows):
        raise ValueError(f"{name}: expected a sequence of at least one row, got {rows!r:.80}")
    if length is not None and len(rows) != length:
        raise ValueError(f"{name}: expected {length} rows, got {len(rows)}")
    for row in rows:
        check_integer(name, row, 0, n_rows - 1)
    if len(set(rows)) != len(rows):
        raise ValueError(f"{name}: expected rows that differ, got {list(rows)}")


def _overwrite(hidden: Array, rows: Rows, values: Array) -> Array:
    out = hidden.astype(common_dtype(hidden, values))
    out[..., list(rows), :] = values
    return out


def _check_mov(
    hidden: Array, source: int | Sequence[int], target: int | Sequence[int], rows_from: Rows, rows_to: Rows
) -> None:
    check_shapes(hidden=(hidden, "... n_rows n_columns"))
    n_rows, n_columns = hidden.shape[-2:]
    columns = {"source": np.atleast_1d(np.asarray(source)), "target": np.atleast_1d(np.asarray(target))}
    for name, each in columns.items():
        if each.ndim != 1 or not each.size:
            raise ValueError(f"{name}: expected a column or a sequence of columns, got {each.tolist()}")
        for column in each.tolist():
            check_integer(name, column, 0, n_columns - 1)
    sources, targets = (each.tolist() for each in columns.values())
    if len(sources) != len(targets) or len(set(targets)) != len(targets):
        raise ValueError(f"target: expected as many columns as sources, all different, got {targets} for {sources}")
    for one, other in zip(sources, targets, strict=True):
        if other < one:
            raise ValueError(f"target: expected a column not before its source {one}, got {other}")
    check_rows("rows_from", rows_from, n_rows)
    check_rows("rows_to", rows_to, n_rows, len(rows_from))


@checked(_check_mov)
def mov(
    hidden: Array, source: int | Sequence[int], target: int | Sequence[int], rows_from: Rows, rows_to: Rows
) -> Array:
    """Copy rows of column `source` into rows of column `target`; all else is unchanged.

    Parameters
    ----------
    hidden : array, shape (..., n_rows, n_columns)
    source, target : int, or sequences of ints, column by column
        No target may lie before its source: a token sees itself and those before it.
    rows_from, rows_to : sequences of ints, equally long

    Returns
    -------
    array, shape (..., n_rows, n_columns)

    Raises
    ------
    ValueError
        If a row or column is out of range or repeated, lengths differ, or a target lies before its source.
    """
    out = hidden.copy()
    moved = hidden[..., list(rows_from), :][..., np.atleast_1d(np.asarray(source))]
    out[..., np.asarray(rows_to)[:, None], np.atleast_1d(np.asarray(target))] = moved
    return out


def _check_mul(hidden: Array, a: int, b: int, c: int, rows_a: Rows, rows_b: Rows, rows_out: Rows) -> None:
    check_shapes(hidden=(hidden, "... n_rows n_columns"))
    a, b, c = (check_integer(name, size, 1) for name, size in (("a", a), ("b", b), ("c", c)))
    check_rows("rows_a", rows_a, hidden.shape[-2], a * b)
    check_rows("rows_b", rows_b, hidden.shape[-2], b * c)
    check_rows("rows_out", rows_out, hidden.shape[-2], a * c)


@checked(_check_mul)
def mul(hidden: Array, a: int, b: int, c: int, rows_a: Rows, rows_b: Rows, rows_out: Rows) -> Array:
    r"""In every column read two matrices, row by row, and write their product $A_1A_2$.

    Parameters
    ----------
    hidden : array, shape (..., n_rows, n_columns)
    a, b, c : int >= 1
        $A_1\in\mathbb R^{a\times b}$, $A_2\in\mathbb R^{b\times c}$.
    rows_a, rows_b, rows_out : sequences of a b, b c and a c ints
        They may overlap.

    Returns
    -------
    array, shape (..., n_rows, n_columns)

    Raises
    ------
    ValueError
        If a size is below 1, or the rows are out of range, repeated or not as many as the sizes say.
    """
    columns = np.swapaxes(hidden, -1, -2)
    first = columns[..., list(rows_a)].reshape(*columns.shape[:-1], a, b)
    second = columns[..., list(rows_b)].reshape(*columns.shape[:-1], b, c)
    product = (first @ second).reshape(*columns.shape[:-1], a * c)
    return _overwrite(hidden, rows_out, np.swapaxes(product, -1, -2))


def _check_div(hidden: Array, rows: Rows, denom_row: int, rows_out: Rows) -> None:
    check_shapes(hidden=(hidden, "... n_rows n_columns"))
    check_rows("rows", rows, hidden.shape[-2])
    check_rows("rows_out", rows_out, hidden.shape[-2], len(rows))
    check_integer("denom_row", denom_row, 0, hidden.shape[-2] - 1)
    if np.any(hidden[..., denom_row, :] == 0):
        raise ValueError(f"hidden: expected no zero in the row of the denominator, {denom_row}")


@checked(_check_div)
def div(hidden: Array, rows: Rows, denom_row: int, rows_out: Rows) -> Array:
    r"""In every column write $h_{rows}/|h_{denom}|$: the **absolute value** divides, as in the paper.

    Parameters
    ----------
    hidden : array, shape (..., n_rows, n_columns)
    rows, rows_out : sequences of ints, equally long
    denom_row : int

    Returns
    -------
    array, shape (..., n_rows, n_columns)

    Raises
    ------
    ValueError
        If a row is out of range or repeated, lengths differ, or a denominator is 0.
    """
    return _overwrite(hidden, rows_out, hidden[..., list(rows), :] / absolute(hidden[..., denom_row, None, :]))


def _check_aff(
    hidden: Array, rows_a: Rows, rows_b: Rows, rows_out: Rows, w1: Array, w2: Array, bias: Array | None = None
) -> None:
    sizes = check_shapes(w1=(w1, "n_out n_a"), w2=(w2, "n_out n_b"))
    check_shapes(hidden=(hidden, "... n_rows n_columns"))
    if bias is not None:
        check_shapes(w1=(w1, "n_out n_a"), bias=(bias, "n_out"))
    check_rows("rows_a", rows_a, hidden.shape[-2], sizes["n_a"])
    check_rows("rows_b", rows_b, hidden.shape[-2], sizes["n_b"])
    check_rows("rows_out", rows_out, hidden.shape[-2], sizes["n_out"])


@checked(_check_aff)
def aff(
    hidden: Array, rows_a: Rows, rows_b: Rows, rows_out: Rows, w1: Array, w2: Array, bias: Array | None = None
) -> Array:
    r"""In every column write $W_1h_a+W_2h_b+b$.

    Parameters
    ----------
    hidden : array, shape (..., n_rows, n_columns)
    rows_a, rows_b, rows_out : sequences of ints
        They may overlap.
    w1 : array, shape (n_out, n_a)
    w2 : array, shape (n_out, n_b)
    bias : array, shape (n_out,), or None for zeros

    Returns
    -------
    array, shape (..., n_rows, n_columns)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or a row is out of range or repeated.
    """
    values = w1 @ hidden[..., list(rows_a), :] + w2 @ hidden[..., list(rows_b), :]
    return _overwrite(hidden, rows_out, values if bias is None else values + bias[:, None])
