"""ReLU attention and the transformer made of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.higher_order import (
    ReluHeads,
    ReluMLP,
    newton_schulz_inverse,
    newton_transformer,
    relu_attention,
    relu_attention_vjp,
    run_newton_transformer,
    transformer_block,
    transformer_block_vjp,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.oracle.specs.incontext.higher_order.newton import (
    BATCHES,
    FULL_DTYPES,
    REVERSED,
    TARGETS,
    gram_of,
    problems,
    reflect,
    rescaled,
    smallest_scale,
    twice,
    unchanged,
)
from refimpl.primitives.numbers import Array


@st.composite
def _attention(draw: st.DrawFn) -> Arguments:
    size, width, n_heads, n_columns = draw(st.sampled_from((1, 2, 4, 7))), *(draw(st.integers(1, 3)) for _ in range(3))
    n_columns = draw(st.sampled_from((n_columns, 9)))
    key_columns = draw(st.one_of(st.none(), st.lists(st.integers(0, n_columns - 1), min_size=1, unique=True)))
    return {
        "hidden": draw(real_arrays((*draw(BATCHES), size, n_columns))),
        "heads": ReluHeads(
            query=draw(real_arrays((n_heads, width, size), size**-0.5)),
            key=draw(real_arrays((n_heads, width, size), size**-0.5)),
            value=draw(real_arrays((n_heads, size, size), 1 / size)),
        ),
        "n_context": draw(st.sampled_from((None, 1, n_columns))),
        "key_columns": key_columns,
    }


def symbolic_heads() -> ReluHeads:
    return ReluHeads(symbols("q", 1, 1, 2), symbols("k", 1, 1, 2), symbols("v", 1, 2, 2))


HEADS_REVERSED = Relation(
    "heads in reverse",
    lambda arguments: arguments | {"heads": ReluHeads(*(matrix[::-1] for matrix in arguments["heads"]))},
    unchanged,
)
SCORES_KEPT = Relation(
    "queries times 4, values over 4",
    lambda arguments: (
        arguments
        | {"heads": arguments["heads"]._replace(query=4 * arguments["heads"].query, value=arguments["heads"].value / 4)}
    ),
    unchanged,
)

register(
    Spec(
        name="higher_order/relu_attention",
        reference=relu_attention,
        arguments=_attention(),
        vjp=relu_attention_vjp,
        symbols=lambda: {
            "hidden": symbols("h", 2, 2),
            "heads": symbolic_heads(),
            "n_context": None,
            "key_columns": [0, 1],
        },
        dtypes=FULL_DTYPES,
        relations=(HEADS_REVERSED, SCORES_KEPT),
        mistakes={
            ("mask", "every column gives keys"): lambda hidden, heads, n_context, key_columns: relu_attention(
                hidden, heads, n_context
            ),
            ("missing residual", "no residual connection"): lambda hidden, heads, n_context, key_columns: (
                relu_attention(hidden, heads, n_context, key_columns) - hidden
            ),
        },
    )
)


@st.composite
def _blocks(draw: st.DrawFn) -> Arguments:
    hidden, heads, n_context, key_columns = draw(_attention()).values()
    size, width = hidden.shape[-2], draw(st.sampled_from((1, 2, 6)))
    mlp = ReluMLP(draw(real_arrays((width, size), size**-0.5)), draw(real_arrays((size, width), width**-0.5)))
    has_heads, has_mlp = draw(st.sampled_from(((True, True), (True, True), (True, False), (False, True))))
    return {
        "hidden": hidden,
        "heads": heads if has_heads else None,
        "mlp": mlp if has_mlp else None,
        "n_context": n_context,
        "key_columns": key_columns,
    }


def _with_mlp(arguments: Arguments, change: Callable[[ReluMLP], ReluMLP]) -> Arguments:
    return arguments | {"mlp": None if arguments["mlp"] is None else change(arguments["mlp"])}


def _units_reversed(arguments: Arguments) -> Arguments:
    return _with_mlp(arguments, lambda mlp: ReluMLP(mlp.inner[::-1], mlp.outer[:, ::-1]))


def _units_rescaled(arguments: Arguments) -> Arguments:
    return _with_mlp(arguments, lambda mlp: ReluMLP(4 * mlp.inner, mlp.outer / 4))


def _without_skip(hidden: Array, heads: Any, mlp: Any, n_context: Any, key_columns: Any) -> Array:
    attended = transformer_block(hidden, heads, None, n_context, key_columns)
    if mlp is None:
        return attended
    return mlp.outer @ np.maximum(mlp.inner @ attended, 0)


register(
    Spec(
        name="higher_order/transformer_block",
        reference=transformer_block,
        arguments=_blocks(),
        vjp=transformer_block_vjp,
        symbols=lambda: {
            "hidden": symbols("h", 2, 1),
            "heads": symbolic_heads(),
            "mlp": ReluMLP(symbols("a", 1, 2), symbols("b", 2, 1)),
            "n_context": 3,
            "key_columns": None,
        },
        dtypes=FULL_DTYPES,
        relations=(
            Relation("hidden units in reverse", _units_reversed, unchanged),
            Relation("inner weights times 4, outer over 4", _units_rescaled, unchanged),
        ),
        mistakes={("missing residual", "no skip past the perceptron"): _without_skip},
    )
)


def predict_by_transformer(x: Array, y: Array, x_query: Array, n_iterations: int, scale: Any, read_out: Any) -> Array:
    """The constructed transformer for this prompt, built and run."""
    layers = newton_transformer(n_iterations, x.shape[-1], x.shape[-2], scale, read_out, x.dtype)
    return run_newton_transformer(layers, x, y, x_query)


@st.composite
def prompts(draw: st.DrawFn) -> Arguments:
    """Prompts for the constructed transformer, with a scale at which it converges."""
    problem = draw(problems(st.sampled_from((1, 2, 3, 8))))
    x = problem["x"] = problem["x"][..., :24, :]
    x = problem["x"] = np.where(np.any(x, axis=(-2, -1), keepdims=True), x, np.eye(*x.shape[-2:]))
    return problem | {
        "y": problem["y"][..., :24],
        "x_query": draw(real_arrays((*x.shape[:-2], x.shape[-1]))),
        "n_iterations": draw(st.sampled_from((0, 1, 2, 4, 8))),
        "scale": smallest_scale(x),
        "read_out": draw(st.sampled_from(("paper", "short"))),
    }


def _key_of_its_own(x: Array, y: Array, x_query: Array, n_iterations: int, scale: Any, read_out: Any) -> Array:
    """As if the query's token were among the keys."""
    extended = np.concatenate([x, x_query[..., None, :]], axis=-2)
    inverse = newton_schulz_inverse(gram_of(extended), n_iterations, scale)
    weights = inverse @ (np.swapaxes(x, -1, -2) @ y[..., None])
    return (x_query[..., None, :] @ weights)[..., 0, 0]


register(
    Spec(
        name="higher_order/run_newton_transformer",
        reference=predict_by_transformer,
        arguments=prompts(),
        symbols=lambda: {
            "x": symbols("x", 1, 1),
            "y": symbols("y", 1),
            "x_query": symbols("q", 1),
            "n_iterations": 0,
            "scale": symbols("alpha").item(),
            "read_out": "short",
        },
        dtypes=FULL_DTYPES,
        relations=(
            TARGETS,
            REVERSED,
            Relation(
                "inputs and query reflected",
                lambda arguments: arguments | {"x": reflect(arguments["x"]), "x_query": reflect(arguments["x_query"])},
                unchanged,
            ),
            Relation(
                "inputs times 2, scale over 16",
                lambda arguments: rescaled(arguments, x=2, scale=1 / 16),
                lambda output, arguments: output / 2,
            ),
            Relation(
                "examples twice, scale over 4",
                lambda arguments: rescaled(twice(arguments), scale=1 / 4),
                unchanged,
            ),
        ),
        mistakes={("mask", "the query gives a key too"): _key_of_its_own},
    )
)
