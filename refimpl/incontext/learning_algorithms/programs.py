r"""Programs of ``mov``, ``mul``, ``div`` and ``aff`` that learn from a prompt (Theorems 1 and 2, Appendix C).

A program is a list of instructions on named *registers*, blocks of rows that every column has. Two machines run it: the
exact operators of :mod:`refimpl.primitives.column_operators`, one after another, and a transformer, whose layers
:func:`compile_program` makes of the instructions one by one.

Columns alternate $x_1,y_1,x_2,y_2,\dots,x_n,y_n,x_{query}$. Work on example $i$ is done in the column of $y_i$, the
only one that holds meaningful numbers: all but ``mov`` act on every column alike.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.learning_algorithms.layer import (
    CompactLayer,
    LayerParams,
    apply_layer,
    compact,
    flatten,
    unflatten,
)
from refimpl.incontext.learning_algorithms.operators import aff_layer, div_layer, mov_layer, mul_layer
from refimpl.primitives import column_operators
from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.numbers import Array, common_dtype

Registers = tuple[str, ...]


class Mov(NamedTuple):
    """Copy registers of one column into registers of another."""

    first: Registers
    out: Registers
    source: int
    target: int


class Mul(NamedTuple):
    """Write the product of two registers, read as an a x b and a b x c matrix."""

    a: Any
    b: Any
    c: Any
    first: str
    second: str
    out: str


class Div(NamedTuple):
    """Write a register over the absolute value of a register of one row; the pads come out dirty."""

    first: str
    second: str
    out: str


class Aff(NamedTuple):
    """Write ``coefficients[0] * first + coefficients[1] * second + constant``."""

    first: Registers
    second: Registers
    out: Registers
    coefficients: tuple[Any, Any]
    constant: Any = 0


Instruction = Mov | Mul | Div | Aff


class Program(NamedTuple):
    """Instructions, and the size of each register in the order of its rows.

    ``positions`` (a one-hot code of the column, one row each), ``one`` (a row of ones) and, for ``Div``, ``pads``
    (three rows) are what the transformer needs; the exact machine ignores them.
    """

    instructions: tuple[Instruction, ...]
    registers: Mapping[str, Any]

    def rows(self, *names: str) -> list[int]:
        """The rows of these registers, one after another."""
        starts = dict(zip(self.registers, np.cumsum([0, *self.registers.values()]), strict=False))
        return [int(starts[name]) + i for name in names for i in range(self.registers[name])]

    @property
    def n_rows(self) -> int:
        return sum(self.registers.values())


class CompiledLayer(NamedTuple):
    """A layer of the transformer that runs a program, with the sink; ``compact`` is the same without its zeros."""

    params: LayerParams
    use_layernorm: bool
    compact: CompactLayer


class ProgramResult(NamedTuple):
    """What the transformer computed, and how large it was."""

    prediction: Array
    """Shape (...)."""
    weights: Array
    """The learned weights, shape (..., d)."""
    n_layers: int
    hidden_size: int


# --- the two listings ---


def gradient_descent_listing(n_inputs: Any, n_examples: int, learning_rate: Any, weight_decay: Any = 0) -> Program:
    r"""One step of SGD for each example, $w\leftarrow w-2\alpha(x\,w^\top x-yx+\lambda w)$: 6n + 1 instructions.

    Parameters
    ----------
    n_inputs : int >= 1
    n_examples : int >= 1
    learning_rate : float > 0
        $\alpha$ of the loss $(w^\top x-y)^2+\lambda\lVert w\rVert^2$.
    weight_decay : float >= 0
        $\lambda$.

    Returns
    -------
    Program
        With 4 d + 5 + T rows for T = 2 n + 1 columns; starts from what `weights` holds in every column.

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: arXiv 2211.15661, Theorem 1 and Appendix C.
    """
    d = check_integer("n_inputs", n_inputs, 1)
    n = check_integer("n_examples", n_examples, 1)
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    weight_decay = check_number("weight_decay", weight_decay, "[0, inf)")
    instructions: list[Instruction] = []
    for i in range(n):
        at = 2 * i + 1
        following = 2 * i + 3 if i + 1 < n else 2 * n
        instructions += [
            Mov(("x",), ("copied_x",), at - 1, at),
            Mul(1, d, 1, "weights", "copied_x", "product"),
            Aff(("product",), ("y",), ("error",), (1, -1)),
            Mul(d, 1, 1, "copied_x", "error", "gradient"),
            Aff(
                ("weights",),
                ("gradient",),
                ("weights",),
                (1 - 2 * learning_rate * weight_decay, -2 * learning_rate),
            ),
            Mov(("weights",), ("weights",), at, following),
        ]
    instructions.append(Mul(1, d, 1, "weights", "x", "out"))
    registers = {"y": 1, "x": d, "weights": d, "product": 1, "error": 1, "gradient": d, "copied_x": d, "out": 1}
    return Program(tuple(instructions), registers | {"positions": 2 * n + 1, "one": 1})


def sherman_morrison_listing(n_inputs: Any, n_examples: int) -> Program:
    r"""Ridge regression, a rank-one update of $A=(\lambda I+\sum_ix_ix_i^\top)^{-1}$ an example: 11n + 2 instructions.

    Parameters
    ----------
    n_inputs : int >= 1
    n_examples : int >= 1

    Returns
    -------
    Program
        With 3 d^2 + 6 d + 7 + T rows for T = 2 n + 1 columns. It starts from what `inverse` holds in every column,
        which is to be $I/\lambda$.

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: arXiv 2211.15661, Theorem 2 and Appendix C.
    """
    d = check_integer("n_inputs", n_inputs, 1)
    n = check_integer("n_examples", n_examples, 1)
    state = ("inverse", "moment")
    instructions: list[Instruction] = []
    for i in range(n):
        at = 2 * i + 1
        if i:
            instructions.append(Mov(state, state, at - 2, at))
        instructions += [
            Mov(("x",), ("copied_x",), at - 1, at),
            Mul(d, d, 1, "inverse", "copied_x", "direction"),
            Mul(1, d, 1, "copied_x", "direction", "scale"),
            Aff(("scale",), ("scale",), ("scale",), (1, 0), 1),
            Mul(d, 1, d, "direction", "direction", "outer"),
            Aff(("scaled_outer", "pads"), ("scaled_outer", "pads"), ("scaled_outer", "pads"), (0, 0)),
            Div("outer", "scale", "scaled_outer"),
            Aff(("inverse",), ("scaled_outer",), ("inverse",), (1, -1)),
            Mul(d, 1, 1, "copied_x", "y", "moment_step"),
            Aff(("moment",), ("moment_step",), ("moment",), (1, 1)),
        ]
    instructions += [
        Mul(d, d, 1, "inverse", "moment", "weights"),
        Mov(("weights",), ("weights",), 2 * n - 1, 2 * n),
        Mul(1, d, 1, "weights", "x", "out"),
    ]
    registers = {"y": 1, "x": d, "copied_x": d, "inverse": d * d, "moment": d, "direction": d, "outer": d * d}
    registers |= {"scale": 1, "scaled_outer": d * d, "moment_step": d, "weights": d, "out": 1, "pads": 3}
    return Program(tuple(instructions), registers | {"positions": 2 * n + 1, "one": 1})


# --- the prompt, and the two machines ---


def encode_prompt(
    program: Program, x: Array, y: Array, x_query: Array, initial: Mapping[str, Array] | None = None
) -> Array:
    r"""The hidden state before the first layer: $[0,x_i]$ and $[y_i,0]$ in turn, positions, ones and initial registers.

    Parameters
    ----------
    program : Program
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    x_query : array, shape (..., d)
    initial : registers that start otherwise than at 0, the same in every column
        Arrays of shape (..., size) or (size,).

    Returns
    -------
    array, shape (..., n_rows, 2 n + 1)

    Raises
    ------
    ValueError
        If shapes do not fit the program, or an entry is not finite.
    """
    initial = dict(initial or {})
    sizes = check_shapes(x=(x, "... n d"), y=(y, "... n"), x_query=(x_query, "... d"))
    if sizes["d"] != program.registers["x"] or 2 * sizes["n"] + 1 != program.registers["positions"]:
        wanted = f"{(program.registers['positions'] - 1) // 2} examples of {program.registers['x']} inputs"
        raise ValueError(f"x: expected {wanted}, as the program has it, got shape {x.shape}")
    for name, value in initial.items():
        batch = "... " if value.ndim > 1 else ""
        check_shapes(x=(x, "... n d"), **{name: (value, f"{batch}{program.registers[name]}")})
    n_columns = 2 * sizes["n"] + 1
    dtype = common_dtype(x, y, x_query, *initial.values())
    hidden = np.zeros((*sizes["..."], program.n_rows, n_columns), dtype=dtype)
    inputs = program.rows("x")
    hidden[..., inputs, :-1:2] = np.swapaxes(x, -1, -2)
    hidden[..., inputs, -1] = x_query
    hidden[..., program.rows("y")[0], 1::2] = y
    hidden[..., program.rows("positions"), :] = np.eye(n_columns, dtype=dtype)
    hidden[..., program.rows("one"), :] = 1
    for name, value in initial.items():
        hidden[..., program.rows(name), :] = value[..., None]
    return hidden


def run_exactly(program: Program, hidden: Array) -> Array:
    """The hidden state after all instructions, each as the exact operator.

    Parameters
    ----------
    program : Program
    hidden : array, shape (..., n_rows, n_columns)

    Returns
    -------
    array, shape (..., n_rows, n_columns)

    Raises
    ------
    ValueError
        If the rows are not the program's, an entry is not finite or a denominator is 0.
    """
    check_shapes(hidden=(hidden, f"... {program.n_rows} n_columns"))
    for step in program.instructions:
        first, second, out = _operands(program, step)
        match step:
            case Mov():
                hidden = column_operators.mov(hidden, step.source, step.target, first, out)
            case Mul():
                hidden = column_operators.mul(hidden, step.a, step.b, step.c, first, second, out)
            case Div():
                hidden = column_operators.div(hidden, first, second[0], out)
            case Aff():
                hidden = column_operators.aff(hidden, first, second, out, *_affine(step, len(out), hidden.dtype))
    return hidden


def compile_program(
    program: Program, epsilon: Any = 1e-3, scale: Any = 1e5, dtype: Any = np.float64
) -> list[CompiledLayer]:
    """The transformer that runs the program, a layer an instruction.

    Parameters
    ----------
    program : Program
    epsilon : float > 0
        Of :func:`.mul_layer`.
    scale : float > 0
        Of :func:`.div_layer`.
    dtype : of the weights

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    n_rows = program.n_rows
    positions, one = program.rows("positions"), program.rows("one")[0]
    layers = []
    for step in program.instructions:
        first, second, out = _operands(program, step)
        match step:
            case Mov():
                params = mov_layer(n_rows, step.source, step.target, first, out, positions, one, dtype=dtype)
            case Mul():
                params = mul_layer(n_rows, step.a, step.b, step.c, first, second, out, epsilon, dtype)
            case Div():
                pads = program.rows("pads")
                params = div_layer(n_rows, first, second[0], out, pads, positions, scale, dtype=dtype)
            case Aff():
                params = aff_layer(n_rows, first, second, out, *_affine(step, len(out), dtype))
        layers.append(CompiledLayer(params, isinstance(step, Div), compact(params)))
    return layers


def execute(layers: Sequence[CompiledLayer], hidden: Array) -> Array:
    """The hidden state after these layers.

    Parameters
    ----------
    layers : sequence of CompiledLayer
    hidden : array, shape (..., n_rows, n_columns)

    Returns
    -------
    array, shape (..., n_rows, n_columns)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    if not layers:
        raise ValueError("layers: expected at least one layer, got none")
    # Layers come checked, and those of one program have the same rows and dtype.
    attention, mlp = layers[0].params
    weights = mlp[0].weight if attention is None else attention.query  # type: ignore[index]
    check_shapes(hidden=(hidden, f"... {weights.shape[-1]} n_columns"))
    columns = flatten(hidden, common_dtype(hidden, weights))
    for layer in layers:
        apply_layer(columns, layer.compact, hidden.shape[-1], layer.use_layernorm)
    return unflatten(columns, hidden.shape)


def _operands(program: Program, step: Instruction) -> tuple[list[int], list[int], list[int]]:
    """The rows of its operands and of its output; a ``Mov`` has no second operand."""
    names = (step.first, () if isinstance(step, Mov) else step.second, step.out)
    first, second, out = (program.rows(*((name,) if isinstance(name, str) else name)) for name in names)
    return first, second, out


def _affine(step: Aff, size: int, dtype: Any) -> tuple[Array, Array, Array]:
    """Its two matrices, multiples of the identity, and its bias."""
    first, second = ((coefficient * np.eye(size, dtype=dtype)).astype(dtype) for coefficient in step.coefficients)
    return first, second, np.full(size, step.constant, dtype=dtype)


# --- both theorems ---


def gradient_descent_program(
    x: Array,
    y: Array,
    x_query: Array,
    initial_weights: Array,
    learning_rate: Any,
    weight_decay: Any = 0,
    epsilon: Any = 1e-3,
) -> ProgramResult:
    r"""SGD on the examples of the prompt, by a transformer of 6n + 1 layers and O(d) rows.

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    x_query : array, shape (..., d)
    initial_weights : array, shape (..., d) or (d,)
    learning_rate : float > 0
        $\alpha$ of the loss $(w^\top x-y)^2+\lambda\lVert w\rVert^2$.
    weight_decay : float >= 0
        $\lambda$.
    epsilon : float > 0
        Of the products.

    Returns
    -------
    ProgramResult

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a number is out of range.

    Source: arXiv 2211.15661, Theorem 1.
    """
    batch = "... " if np.ndim(initial_weights) > 1 else ""
    sizes = check_shapes(x=(x, "... n d"))
    check_shapes(x=(x, "... n d"), initial_weights=(initial_weights, f"{batch}d"))
    program = gradient_descent_listing(sizes["d"], sizes["n"], learning_rate, weight_decay)
    hidden = encode_prompt(program, x, y, x_query, {"weights": initial_weights})
    layers = compile_program(program, epsilon, dtype=hidden.dtype)
    return _result(program, layers, execute(layers, hidden))


def sherman_morrison_program(
    x: Array, y: Array, x_query: Array, ridge: Any, epsilon: Any = 1e-3, scale: Any = 1e5
) -> ProgramResult:
    r"""Ridge regression on the examples of the prompt, by a transformer of 11n + 2 layers and O(d^2) rows.

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    x_query : array, shape (..., d)
    ridge : float > 0
        $\lambda$, of the sum of squares.
    epsilon : float > 0
        Of the products.
    scale : float > 0
        Of the divisions.

    Returns
    -------
    ProgramResult

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a number is out of range.

    Source: arXiv 2211.15661, Theorem 2.
    """
    sizes = check_shapes(x=(x, "... n d"))
    ridge = check_number("ridge", ridge, "(0, inf)")
    program = sherman_morrison_listing(sizes["d"], sizes["n"])
    inverse = np.eye(sizes["d"], dtype=x.dtype).reshape(-1) / ridge
    hidden = encode_prompt(program, x, y, x_query, {"inverse": inverse})
    layers = compile_program(program, epsilon, scale, hidden.dtype)
    return _result(program, layers, execute(layers, hidden))


def _result(program: Program, layers: Sequence[CompiledLayer], hidden: Array) -> ProgramResult:
    prediction = hidden[..., program.rows("out")[0], -1]
    return ProgramResult(prediction, hidden[..., program.rows("weights"), -1], len(layers), program.n_rows)
