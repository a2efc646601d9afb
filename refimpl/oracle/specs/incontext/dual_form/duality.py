"""The dual form of gradient descent, attention with and without softmax, and the losses it descends."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext import dual_form as d
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.primitives.numbers import Array

WIDTHS = st.sampled_from((1, 2, 3, 5, 16, 64))
TOKENS = st.sampled_from((1, 2, 3, 5, 40, 300))
BATCHES = st.sampled_from(((), (), (3,), (2, 3)))
SMALL_BATCHES = st.sampled_from(((), (1,)))


def unchanged(output: Any, arguments: Arguments) -> Any:
    return output


def rescaled(factor: Any, *names: str) -> Callable[[Arguments], Arguments]:
    return lambda arguments: arguments | {name: factor * arguments[name] for name in names}


def times(factor: Any) -> Callable[[Any, Arguments], Any]:
    return lambda output, arguments: factor * output


def reflect(x: Any, axis: int = -1) -> Any:
    r"""Multiply by the orthogonal matrix $I-\frac2n\mathbf 1\mathbf 1^\top$ along an axis."""
    return x - 2 * x.sum(axis=axis, keepdims=True) / x.shape[axis]


def reflected(**axes: int) -> Callable[[Arguments], Arguments]:
    return lambda arguments: arguments | {name: reflect(arguments[name], axis) for name, axis in axes.items()}


def reversed_columns(*names: str) -> Callable[[Arguments], Arguments]:
    return lambda arguments: arguments | {name: np.flip(arguments[name], -1) for name in names}


def doubled_columns(*names: str) -> Callable[[Arguments], Arguments]:
    return lambda arguments: arguments | {name: np.concatenate([arguments[name]] * 2, axis=-1) for name in names}


@st.composite
def arrays(draw: st.DrawFn, **shapes: str) -> Arguments:
    """Arrays of these shapes with named sizes; a name that begins with ``n`` counts tokens."""
    batch = draw(BATCHES)
    sizes: dict[str, int] = {}
    for name in (name for shape in shapes.values() for name in shape.split()):
        if name not in sizes:
            few = st.sampled_from((1, 2, 3, 5)) if batch else TOKENS if name.startswith("n") else WIDTHS
            sizes[name] = draw(few)
    return {name: draw(real_arrays((*batch, *map(sizes.get, shape.split())))) for name, shape in shapes.items()}  # type: ignore[arg-type]


# --- linear layers ---


def _dual_symbols() -> Arguments:
    return {
        "initial_weights": symbols("w", 2, 2),
        "errors": symbols("e", 2, 3),
        "inputs": symbols("x", 2, 3),
        "x": symbols("q", 2),
    }


register(
    Spec(
        name="dual_form/linear_attention",
        reference=d.linear_attention,
        arguments=arrays(values="d_value n", keys="d n", query="d"),
        symbols=lambda: {"values": symbols("v", 2, 3), "keys": symbols("k", 2, 3), "query": symbols("q", 2)},
        relations=(
            Relation("tokens in reverse", reversed_columns("values", "keys"), unchanged),
            Relation("every token twice", doubled_columns("values", "keys"), times(2)),
            Relation("values times 4", rescaled(4, "values"), times(4)),
            Relation("keys and query reflected", reflected(keys=-2, query=-1), unchanged),
        ),
        mistakes={
            ("normalisation", "divided by the number of tokens"): lambda values, keys, query: (
                d.linear_attention(values, keys, query) / values.shape[-1]
            )
        },
    )
)

register(
    Spec(
        name="dual_form/dual_form",
        reference=d.dual_form,
        arguments=arrays(initial_weights="d_out d_in", errors="d_out n", inputs="d_in n", x="d_in"),
        symbols=_dual_symbols,
        relations=(
            Relation("steps in reverse", reversed_columns("errors", "inputs"), unchanged),
            Relation("inputs and x reflected", reflected(initial_weights=-1, inputs=-2, x=-1), unchanged),
            Relation("weights and errors times 4", rescaled(4, "initial_weights", "errors"), times(4)),
        ),
    )
)


@st.composite
def descents(draw: st.DrawFn) -> Arguments:
    """A layer and its examples, with a rate at which no step overshoots."""
    drawn: Arguments = draw(arrays(weights="d_out d_in", inputs="d_in n", targets="d_out n"))
    largest = float(np.max((drawn["inputs"] ** 2).sum(axis=-2))) or 1.0
    return drawn | {"learning_rate": draw(st.sampled_from((0.125, 0.5, 1.0))) / largest}


def _frozen(weights: Array, inputs: Array, targets: Array, learning_rate: Any) -> tuple[Array, Array]:
    errors = learning_rate * (targets - weights @ inputs)
    return weights + errors @ np.swapaxes(inputs, -1, -2), errors


register(
    Spec(
        name="dual_form/linear_layer_sgd",
        reference=d.linear_layer_sgd,
        arguments=descents(),
        symbols=lambda: {
            "weights": symbols("w", 1, 2),
            "inputs": symbols("x", 2, 2),
            "targets": symbols("y", 1, 2),
            "learning_rate": symbols("r").item(),
        },
        relations=(
            Relation(
                "weights and targets times 4",
                rescaled(4, "weights", "targets"),
                lambda output, arguments: tuple(4 * one for one in output),
            ),
        ),
        mistakes={("off trajectory", "all errors at the initial weights"): _frozen},
        dtypes=("float64", "float32"),
    )
)

# --- attention ---

HEAD = {"value": "d_value d", "key": "d_head d", "demos": "d n_demos", "context": "d n_context", "query": "d_head"}


@st.composite
def heads(draw: st.DrawFn, least: int = 0) -> Arguments:
    """A head with at least so many demonstrations; none now and then, where that is allowed."""
    drawn: Arguments = draw(arrays(**HEAD))
    if least == 0 and draw(st.integers(0, 7)) == 0:
        drawn["demos"] = drawn["demos"][..., :0]
    return drawn


def _head_symbols() -> Arguments:
    return {
        "value": symbols("v", 1, 2),
        "key": symbols("k", 2, 2),
        "demos": symbols("x", 2, 2),
        "context": symbols("c", 2, 1),
        "query": symbols("q", 2),
    }


HEAD_RELATIONS = (
    Relation("demonstrations in reverse", reversed_columns("demos"), unchanged),
    Relation(
        "demonstrations and context swapped",
        lambda arguments: (
            arguments | {"demos": arguments["context"], "context": arguments["demos"]}
            if arguments["demos"].shape[-1]
            else arguments
        ),
        unchanged,
    ),
    Relation("values times 4", rescaled(4, "value"), times(4)),
    Relation("keys and query reflected", reflected(key=-2, query=-1), unchanged),
    Relation("tokens and matrices reflected", reflected(value=-1, key=-1, demos=-2, context=-2), unchanged),
)

register(
    Spec(
        name="dual_form/relaxed_attention",
        reference=d.relaxed_attention,
        arguments=heads(),
        vjp=d.relaxed_attention_vjp,
        symbols=_head_symbols,
        relations=(
            *HEAD_RELATIONS,
            Relation("every token twice", doubled_columns("demos", "context"), times(2)),
        ),
        mistakes={
            ("scale", "scores divided by the root of the head's width"): lambda **head: (
                d.relaxed_attention(**head) / head["query"].shape[-1] ** 0.5
            ),
            ("missing term", "without the demonstrations"): lambda **head: d.relaxed_attention(
                **head | {"demos": head["demos"][..., :0]}
            ),
        },
    )
)


# --- the matrices that demonstrations and fine-tuning add ---


def _without(*names: str) -> Callable[[], Arguments]:
    return lambda: {name: value for name, value in _head_symbols().items() if name not in names}


@st.composite
def updates(draw: st.DrawFn) -> Arguments:
    drawn: Arguments = draw(heads())
    return {name: drawn[name] for name in ("value", "key", "demos")}


MATRIX_RELATIONS = (
    Relation("values times 4", rescaled(4, "value"), times(4)),
    Relation("keys reflected", reflected(key=-2), lambda output, arguments: reflect(output)),
)

register(
    Spec(
        name="dual_form/implicit_update",
        reference=d.implicit_update,
        arguments=updates(),
        symbols=_without("context", "query"),
        relations=(
            *MATRIX_RELATIONS,
            Relation("demonstrations in reverse", reversed_columns("demos"), unchanged),
            Relation("every demonstration twice", doubled_columns("demos"), times(2)),
            Relation("tokens and matrices reflected", reflected(value=-1, key=-1, demos=-2), unchanged),
        ),
        mistakes={
            ("transposition", "keys times values"): lambda value, key, demos: d.implicit_update(key, value, demos),
            ("normalisation", "the mean over demonstrations"): lambda value, key, demos: (
                d.implicit_update(value, key, demos) / max(demos.shape[-1], 1)
            ),
        },
    )
)

register(
    Spec(
        name="dual_form/zero_shot_matrix",
        reference=d.zero_shot_matrix,
        arguments=arrays(value="d_value d", key="d_head d", context="d n"),
        symbols=_without("demos", "query"),
        relations=(
            *MATRIX_RELATIONS,
            Relation("tokens in reverse", reversed_columns("context"), unchanged),
        ),
    )
)


def _first_order(value: Array, key: Array, value_change: Array, key_change: Array, context: Array) -> Array:
    full = d.explicit_update(value, key, value_change, key_change, context)
    return full - d.zero_shot_matrix(value_change, key_change, context)


register(
    Spec(
        name="dual_form/explicit_update",
        reference=d.explicit_update,
        arguments=arrays(
            value="d_value d", key="d_head d", value_change="d_value d", key_change="d_head d", context="d n"
        ),
        symbols=lambda: {
            "value": symbols("v", 1, 2),
            "key": symbols("k", 2, 2),
            "value_change": symbols("a", 1, 2),
            "key_change": symbols("b", 2, 2),
            "context": symbols("c", 2, 2),
        },
        relations=(
            Relation("tokens in reverse", reversed_columns("context"), unchanged),
            Relation("every token twice", doubled_columns("context"), times(2)),
            Relation("values and their change times 4", rescaled(4, "value", "value_change"), times(4)),
            Relation(
                "keys and their change reflected",
                reflected(key=-2, key_change=-2),
                lambda output, arguments: reflect(output),
            ),
        ),
        mistakes={("missing term", "the product of both changes"): _first_order},
    )
)


# --- the losses ---


@st.composite
def losses(draw: st.DrawFn) -> Arguments:
    drawn: Arguments = draw(arrays(weights="d_value d", values="d_value n", keys="d n"))
    return drawn | {"kind": draw(st.sampled_from(("bilinear", "squared")))}


register(
    Spec(
        name="dual_form/implied_loss",
        reference=d.implied_loss,
        arguments=losses(),
        vjp=d.implied_loss_vjp,
        symbols=lambda: {
            "weights": symbols("w", 2, 2),
            "values": symbols("v", 2, 2),
            "keys": symbols("k", 2, 2),
            "kind": "squared",
        },
        relations=(
            Relation("tokens in reverse", reversed_columns("values", "keys"), unchanged),
            Relation("every token twice", doubled_columns("values", "keys"), times(2)),
            Relation("weights and values times 4", rescaled(4, "weights", "values"), times(16)),
            Relation("weights and keys reflected", reflected(weights=-1, keys=-2), unchanged),
        ),
    )
)
