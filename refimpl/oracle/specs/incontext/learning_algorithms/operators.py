"""The layer, and the layers of weights that do ``mov``, ``mul``, ``div``, ``aff`` and read-arithmetic-write.

An operator is judged by what its layer does to a hidden state, not by how its weights are arranged. Half
precisions are left out: a product is a difference of second order in epsilon, of which they keep no digit.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.learning_algorithms import (
    LayerParams,
    ReadArithmeticWrite,
    aff_layer,
    bypass_layer_norm,
    div_layer,
    mov_layer,
    mul_layer,
    raw,
    raw_layer,
    transformer_layer,
    transformer_layer_vjp,
)
from refimpl.incontext.learning_algorithms.raw import Arithmetic, TimeMap
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.primitives import column_operators
from refimpl.primitives.attention import MultiHeadAttention
from refimpl.primitives.column_operators import Rows
from refimpl.primitives.layers import Linear
from refimpl.primitives.numbers import Array

BATCHES = st.sampled_from(((), (1,), (2, 2)))
FEW = st.integers(1, 3)
FULL = ("float64", "float32")


# --- the layer ---


@st.composite
def layers(draw: st.DrawFn) -> Arguments:
    """A hidden state and a layer of random weights; no column is constant."""
    n_rows, n_columns, n_heads = draw(st.sampled_from((3, 5, 12))), draw(st.sampled_from((1, 2, 7))), draw(FEW)

    def matrix(*shape: int) -> Array:
        return draw(real_arrays(shape)) / (2 * shape[-1] ** 0.5)

    d_key, d_value, n_hidden = draw(FEW), draw(FEW), draw(st.sampled_from((1, 4, 16)))
    attention = MultiHeadAttention(
        matrix(n_heads, d_key, n_rows),
        matrix(n_heads, d_key, n_rows),
        matrix(n_heads, d_value, n_rows),
        matrix(n_heads, n_rows, d_value),
    )
    mlp = (
        Linear(matrix(n_hidden, n_rows), draw(real_arrays((n_hidden,))) / 2),
        Linear(matrix(n_rows, n_hidden), draw(real_arrays((n_rows,))) / 2),
    )
    parts = draw(st.sampled_from(("both", "attention", "mlp")))
    use_layernorm = draw(st.booleans())
    if use_layernorm:  # what attention adds may not cancel the steps that keep a column from being constant
        attention = attention._replace(output=attention.output / 64)
    hidden = draw(real_arrays((*draw(BATCHES), n_rows, n_columns)))
    return {
        "hidden": np.clip(hidden, -3, 3) + 8 * np.arange(n_rows)[:, None] if use_layernorm else hidden,
        "params": LayerParams(None if parts == "mlp" else attention, None if parts == "attention" else mlp),
        "use_layernorm": use_layernorm,
        "sink": draw(st.booleans()),
        "activation": draw(st.sampled_from(("gelu", "gelu_tanh"))),
    }


def _symbolic_layer() -> Arguments:
    attention = MultiHeadAttention(*(symbols(name, 1, 1, 1) for name in "qkvo"))
    mlp = Linear(symbols("w", 1, 1), symbols("b", 1)), Linear(symbols("u", 1, 1), symbols("c", 1))
    return {
        "hidden": symbols("h", 1, 2),
        "params": LayerParams(attention, mlp),
        "use_layernorm": False,
        "sink": True,
        "activation": "relu",
    }


def _heads_reversed(arguments: Arguments) -> Arguments:
    params = arguments["params"]
    if params.attention is None:
        return arguments
    return arguments | {"params": params._replace(attention=MultiHeadAttention(*(w[::-1] for w in params.attention)))}


def _units_reversed(arguments: Arguments) -> Arguments:
    params = arguments["params"]
    if params.mlp is None:
        return arguments
    first, second = params.mlp
    turned = Linear(first.weight[::-1], first.bias[::-1]), Linear(second.weight[:, ::-1], second.bias)
    return arguments | {"params": params._replace(mlp=turned)}


def _without_the_sink(sink: bool, **arguments: Any) -> Array:
    return transformer_layer(**arguments, sink=not sink)


register(
    Spec(
        name="learning_algorithms/transformer_layer",
        reference=transformer_layer,
        arguments=layers(),
        vjp=transformer_layer_vjp,
        symbols=_symbolic_layer,
        relations=(
            Relation("heads in another order", _heads_reversed, lambda output, arguments: output),
            Relation("hidden units in another order", _units_reversed, lambda output, arguments: output),
        ),
        mistakes={("missing term", "the sink is there where it should not be, or missing"): _without_the_sink},
    )
)


# --- the operators, each as one layer ---

# Rows of the states below: six of content, three pads, one of ones, and a position code for each column.
CONTENT, PADS, ONE = range(6), range(6, 9), 9


def state(draw: st.DrawFn, n_columns: int) -> Array:
    """A hidden state with content, empty pads, ones and positions."""
    shape = draw(BATCHES)
    hidden = np.zeros((*shape, 10 + n_columns, n_columns))
    hidden[..., :6, :] = draw(real_arrays((*shape, 6, n_columns)))
    hidden[..., ONE, :] = 1
    hidden[..., 10:, :] = np.eye(n_columns)
    return hidden


def content_rows(draw: st.DrawFn, length: int, among: Rows = CONTENT) -> list[int]:
    """Some rows of the content."""
    return draw(st.permutations(list(among)))[:length]


def positions(hidden: Array) -> range:
    """The rows of the position code."""
    return range(10, hidden.shape[-2])


@st.composite
def mov_arguments(draw: st.DrawFn) -> Arguments:
    """Arguments of :func:`mov_by_layer`."""
    n_columns = draw(st.integers(1, 6))
    target, length = draw(st.integers(0, n_columns - 1)), draw(FEW)
    return {
        "hidden": state(draw, n_columns),
        "source": draw(st.integers(0, target)),
        "target": target,
        "rows_from": content_rows(draw, length),
        "rows_to": content_rows(draw, length),
    }


def mov_by_layer(hidden: Array, source: int, target: int, rows_from: Rows, rows_to: Rows) -> Array:
    """``mov`` by one layer."""
    moved = source, target, rows_from, rows_to
    return transformer_layer(hidden, mov_layer(hidden.shape[-2], *moved, positions(hidden), ONE, dtype=hidden.dtype))


@st.composite
def mul_arguments(draw: st.DrawFn) -> Arguments:
    """Arguments of :func:`mul_by_layer`."""
    a, b, c = draw(st.sampled_from(((1, 1, 1), (1, 3, 1), (2, 1, 2), (2, 2, 1), (1, 2, 3))))
    return {
        "hidden": np.clip(state(draw, draw(st.integers(1, 4))), -3, 3),
        "a": a,
        "b": b,
        "c": c,
        "rows_a": content_rows(draw, a * b),
        "rows_b": content_rows(draw, b * c),
        "rows_out": content_rows(draw, a * c),
        "epsilon": draw(st.sampled_from((1 / 8, 1 / 16, 1 / 32))),
    }


def mul_by_layer(
    hidden: Array, a: int, b: int, c: int, rows_a: Rows, rows_b: Rows, rows_out: Rows, epsilon: float
) -> Array:
    """``mul`` by one layer, with its error of second order in epsilon."""
    params = mul_layer(hidden.shape[-2], a, b, c, rows_a, rows_b, rows_out, epsilon, hidden.dtype)
    return transformer_layer(hidden, params)


@st.composite
def div_arguments(draw: st.DrawFn) -> Arguments:
    """Arguments of :func:`div_by_layer`."""
    hidden, length = np.clip(state(draw, draw(st.integers(1, 4))), -3, 3), draw(st.integers(1, 2))
    denom_row, *others = content_rows(draw, 6)
    hidden[..., denom_row, :] += np.where(hidden[..., denom_row, :] < 0, -1 / 2, 1 / 2)
    rows_out = others[:length]
    hidden[..., rows_out, :] = 0
    return {
        "hidden": hidden,
        "rows": others[length : 2 * length],
        "denom_row": denom_row,
        "rows_out": rows_out,
        "scale": draw(st.sampled_from((4.0, 64.0, 1024.0))),
    }


def div_by_layer(hidden: Array, rows: Rows, denom_row: int, rows_out: Rows, scale: float) -> Array:
    """``div`` by one layer, the pads included that it leaves dirty."""
    params = div_layer(hidden.shape[-2], rows, denom_row, rows_out, PADS, positions(hidden), scale, dtype=hidden.dtype)
    return transformer_layer(hidden, params, use_layernorm=True)


@st.composite
def aff_arguments(draw: st.DrawFn) -> Arguments:
    """Arguments of :func:`aff_by_layer`."""
    n_a, n_b, n_out = draw(FEW), draw(FEW), draw(FEW)
    return {
        "hidden": state(draw, draw(st.integers(1, 4))),
        "rows_a": content_rows(draw, n_a),
        "rows_b": content_rows(draw, n_b),
        "rows_out": content_rows(draw, n_out),
        "w1": draw(real_arrays((n_out, n_a))),
        "w2": draw(real_arrays((n_out, n_b))),
        "bias": draw(real_arrays((n_out,))),
        "shift": draw(st.sampled_from((None, 4.0, 20.0))),
    }


def aff_by_layer(
    hidden: Array, rows_a: Rows, rows_b: Rows, rows_out: Rows, w1: Array, w2: Array, bias: Array, shift: float | None
) -> Array:
    """``aff`` by one layer, exact without a shift."""
    return transformer_layer(hidden, aff_layer(hidden.shape[-2], rows_a, rows_b, rows_out, w1, w2, bias, shift))


@st.composite
def raw_arguments(draw: st.DrawFn) -> Arguments:
    """Arguments of :func:`raw_by_layer`."""
    n_columns, n_read, n_self, n_write, m = draw(st.integers(1, 6)), draw(FEW), draw(FEW), draw(FEW), draw(FEW)
    return {
        "hidden": np.clip(state(draw, n_columns), -3, 3),
        "time_map": [draw(st.lists(st.integers(0, i), unique=True, max_size=3)) for i in range(n_columns)],
        "rows_read": content_rows(draw, n_read),
        "rows_self": content_rows(draw, n_self),
        "rows_write": content_rows(draw, n_write),
        "weight_out": draw(real_arrays((n_write, m))) / 2,
        "weight_read": np.clip(draw(real_arrays((m, n_read))), -2, 2),
        "weight_self": np.clip(draw(real_arrays((m, n_self))), -2, 2),
        "arithmetic": draw(st.sampled_from(("sum", "product"))),
    }


def raw_of_parts(
    hidden: Array,
    time_map: TimeMap,
    rows_read: Rows,
    rows_self: Rows,
    rows_write: Rows,
    weight_out: Array,
    weight_read: Array,
    weight_self: Array,
    arithmetic: Arithmetic,
) -> Array:
    """:func:`raw` with the parts of the operator as arguments."""
    rows, weights = (rows_read, rows_self, rows_write), (weight_out, weight_read, weight_self)
    return raw(hidden, ReadArithmeticWrite(time_map, *rows, *weights, arithmetic))


def raw_by_layer(
    hidden: Array,
    time_map: TimeMap,
    rows_read: Rows,
    rows_self: Rows,
    rows_write: Rows,
    weight_out: Array,
    weight_read: Array,
    weight_self: Array,
    arithmetic: Arithmetic,
) -> Array:
    """Read-arithmetic-write by one layer, its products with epsilon = 1/16."""
    rows, weights = (rows_read, rows_self, rows_write), (weight_out, weight_read, weight_self)
    operator = ReadArithmeticWrite(time_map, *rows, *weights, arithmetic)
    scratch = PADS[: len(weight_read)]
    return transformer_layer(hidden, raw_layer(hidden.shape[-2], operator, scratch, positions(hidden), epsilon=1 / 16))


def _reverse(arguments: Arguments) -> Arguments:
    return arguments | {"hidden": np.flip(arguments["hidden"], -1)}


COLUMNS_REVERSED = Relation("columns in reverse", _reverse, lambda output, arguments: np.flip(output, -1))


def _content_times_four(hidden: Array) -> Array:
    out = hidden.copy()
    out[..., :6, :] *= 4
    return out


def _exact(name: str) -> Any:
    """The plain operator: what one forgets then is that the layer only comes near."""
    plain = getattr(column_operators, name)
    known = {"mul": "epsilon", "div": "scale"}
    return lambda **arguments: plain(**{key: value for key, value in arguments.items() if key != known[name]})


register(
    Spec(
        name="learning_algorithms/mov_layer",
        reference=mov_by_layer,
        arguments=mov_arguments(),
        relations=(
            Relation(
                "content times 4",
                lambda arguments: arguments | {"hidden": _content_times_four(arguments["hidden"])},
                lambda output, arguments: _content_times_four(output),
            ),
        ),
        dtypes=FULL,
    )
)
register(
    Spec(
        name="learning_algorithms/mul_layer",
        reference=mul_by_layer,
        arguments=mul_arguments(),
        relations=(COLUMNS_REVERSED,),
        dtypes=FULL,
        mistakes={("approximation", "the product itself, without the error of GeLU's"): _exact("mul")},
    )
)
register(
    Spec(
        name="learning_algorithms/div_layer",
        reference=div_by_layer,
        arguments=div_arguments(),
        relations=(COLUMNS_REVERSED,),
        dtypes=FULL,
        mistakes={("approximation", "the quotient itself, without the norm's share of the rows"): _exact("div")},
    )
)
register(
    Spec(
        name="learning_algorithms/aff_layer",
        reference=aff_by_layer,
        arguments=aff_arguments(),
        relations=(COLUMNS_REVERSED,),
        dtypes=FULL,
    )
)
WRITTEN_TWICE = Relation(
    "twice the output weights",
    lambda arguments: arguments | {"weight_out": 2 * arguments["weight_out"]},
    lambda output, arguments: _written_times_two(output, arguments["rows_write"]),
)


def _written_times_two(output: Array, rows: Rows) -> Array:
    out = output.copy()
    out[..., list(rows), :] *= 2
    return out


def _later_steps_too(time_map: TimeMap, **others: Any) -> Array:
    whole = [list(range(i + 1)) for i in range(len(time_map))]
    return raw_of_parts(time_map=whole, **others)


register(
    Spec(
        name="learning_algorithms/raw",
        reference=raw_of_parts,
        arguments=raw_arguments(),
        symbols=lambda: {
            "hidden": symbols("h", 3, 2),
            "time_map": [[], [0, 1]],
            "rows_read": [0],
            "rows_self": [1],
            "rows_write": [2],
            "weight_out": symbols("o", 1, 1),
            "weight_read": symbols("a", 1, 1),
            "weight_self": symbols("w", 1, 1),
            "arithmetic": "product",
        },
        relations=(WRITTEN_TWICE,),
        dtypes=FULL,
        mistakes={("mask", "every earlier step is read"): _later_steps_too},
    )
)
register(
    Spec(
        name="learning_algorithms/raw_layer",
        reference=raw_by_layer,
        arguments=raw_arguments(),
        relations=(WRITTEN_TWICE,),
        dtypes=FULL,
    )
)


@st.composite
def _bypass(draw: st.DrawFn) -> Arguments:
    return {
        "hidden": np.clip(draw(real_arrays((*draw(BATCHES), draw(st.integers(1, 8)), draw(FEW)))), -3, 3),
        "scale": draw(st.sampled_from((4.0, 64.0, 1024.0))),
        "separate_sum": draw(st.booleans()),
    }


register(
    Spec(
        name="learning_algorithms/bypass_layer_norm",
        reference=bypass_layer_norm,
        arguments=_bypass(),
        symbols=lambda: {"hidden": symbols("h", 2, 1), "scale": symbols("N").item(), "separate_sum": True},
        relations=(
            COLUMNS_REVERSED,
            Relation(
                "rows and pads times 4",
                lambda arguments: arguments | {"hidden": 4 * arguments["hidden"], "scale": 4 * arguments["scale"]},
                lambda output, arguments: 4 * output,
            ),
        ),
        dtypes=FULL,
    )
)
