"""What the exact operators on columns offer to be compared with."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.primitives.column_operators import aff, div, mov, mul
from refimpl.primitives.numbers import Array

BATCHES = st.sampled_from(((), (1,), (2, 3)))
FEW = st.integers(1, 3)


def _rows(draw: st.DrawFn, length: int, n_rows: int) -> list[int]:
    return draw(st.permutations(range(n_rows)))[:length]


def _hidden(draw: st.DrawFn, n_rows: int) -> Array:
    return draw(real_arrays((*draw(BATCHES), n_rows, draw(st.integers(1, 6)))))


@st.composite
def _mov(draw: st.DrawFn) -> Arguments:
    hidden = _hidden(draw, 7)
    length, n_columns = draw(FEW), hidden.shape[-1]
    target = draw(st.integers(0, n_columns - 1))
    return {
        "hidden": hidden,
        "source": draw(st.integers(0, target)),
        "target": target,
        "rows_from": _rows(draw, length, 7),
        "rows_to": _rows(draw, length, 7),
    }


@st.composite
def _mul(draw: st.DrawFn) -> Arguments:
    a, b, c = draw(FEW), draw(FEW), draw(FEW)
    rows = {
        name: _rows(draw, length, 9) for name, length in (("rows_a", a * b), ("rows_b", b * c), ("rows_out", a * c))
    }
    return {"hidden": _hidden(draw, 9), "a": a, "b": b, "c": c} | rows


@st.composite
def _div(draw: st.DrawFn) -> Arguments:
    hidden, denom_row, length = _hidden(draw, 7), draw(st.integers(0, 6)), draw(FEW)
    hidden[..., denom_row, :] += np.where(hidden[..., denom_row, :] < 0, -1 / 8, 1 / 8)
    rows = _rows(draw, length, 7)
    return {"hidden": hidden, "rows": rows, "denom_row": denom_row, "rows_out": _rows(draw, length, 7)}


@st.composite
def _aff(draw: st.DrawFn) -> Arguments:
    n_a, n_b, n_out = draw(FEW), draw(FEW), draw(FEW)
    return {
        "hidden": _hidden(draw, 7),
        "rows_a": _rows(draw, n_a, 7),
        "rows_b": _rows(draw, n_b, 7),
        "rows_out": _rows(draw, n_out, 7),
        "w1": draw(real_arrays((n_out, n_a))),
        "w2": draw(real_arrays((n_out, n_b))),
        "bias": draw(real_arrays((n_out,))),
    }


def _times_four(arguments: Arguments) -> Arguments:
    return arguments | {"hidden": 4 * arguments["hidden"]}


def _reverse(arguments: Arguments) -> Arguments:
    return arguments | {"hidden": np.flip(arguments["hidden"], -1)}


def _written(output: Any, arguments: Arguments, written: Callable[[Any], Any], others: Callable[[Any], Any]) -> Any:
    """The output with one function applied to the rows that were written and another to the rest."""
    out = others(output)
    out[..., arguments["rows_out"], :] = written(output[..., arguments["rows_out"], :])
    return out


def _column_by_column(hidden: Array, a: int, b: int, c: int, rows_a: Any, rows_b: Any, rows_out: Any) -> Array:
    def transposed(rows: Any, m: int, n: int) -> list[int]:
        return np.reshape(rows, (n, m)).T.reshape(-1).tolist()

    return mul(hidden, a, b, c, transposed(rows_a, a, b), transposed(rows_b, b, c), transposed(rows_out, a, c))


def _signed(hidden: Array, rows: Any, denom_row: int, rows_out: Any) -> Array:
    signs = np.sign(hidden[..., denom_row, None, :])
    return _written(div(hidden, rows, denom_row, rows_out), {"rows_out": rows_out}, lambda x: x * signs, lambda x: x)


COLUMNS_REVERSED = Relation("columns in reverse", _reverse, lambda output, arguments: np.flip(output, -1))

register(
    Spec(
        name="primitives/mov",
        reference=mov,
        arguments=_mov(),
        symbols=lambda: {"hidden": symbols("h", 2, 2), "source": 0, "target": 1, "rows_from": [0], "rows_to": [1]},
        relations=(Relation("hidden states times 4", _times_four, lambda output, arguments: 4 * output),),
    )
)

register(
    Spec(
        name="primitives/mul",
        reference=mul,
        arguments=_mul(),
        symbols=lambda: {
            "hidden": symbols("h", 4, 2),
            "a": 1,
            "b": 2,
            "c": 1,
            "rows_a": [0, 1],
            "rows_b": [2, 3],
            "rows_out": [1],
        },
        relations=(
            COLUMNS_REVERSED,
            Relation(
                "hidden states times 4",
                _times_four,
                lambda output, arguments: _written(output, arguments, lambda x: 16 * x, lambda x: 4 * x),
            ),
        ),
        mistakes={("transposition", "matrices are read column by column"): _column_by_column},
    )
)

register(
    Spec(
        name="primitives/div",
        reference=div,
        arguments=_div(),
        symbols=lambda: {"hidden": symbols("h", 3, 2), "rows": [0], "denom_row": 1, "rows_out": [2]},
        relations=(
            COLUMNS_REVERSED,
            Relation(
                "hidden states times 4",
                _times_four,
                lambda output, arguments: _written(output, arguments, lambda x: x, lambda x: 4 * x),
            ),
            Relation(
                "hidden states times -1: the denominator's sign does not count",
                lambda arguments: arguments | {"hidden": -arguments["hidden"]},
                lambda output, arguments: -output,
            ),
        ),
        mistakes={("sign", "divides by the denominator, not by its absolute value"): _signed},
    )
)

register(
    Spec(
        name="primitives/aff",
        reference=aff,
        arguments=_aff(),
        symbols=lambda: {
            "hidden": symbols("h", 3, 2),
            "rows_a": [0],
            "rows_b": [1],
            "rows_out": [2],
            "w1": symbols("w", 1, 1),
            "w2": symbols("v", 1, 1),
            "bias": symbols("b", 1),
        },
        relations=(
            COLUMNS_REVERSED,
            Relation(
                "hidden states and bias times 4",
                lambda arguments: _times_four(arguments) | {"bias": 4 * arguments["bias"]},
                lambda output, arguments: 4 * output,
            ),
        ),
    )
)
