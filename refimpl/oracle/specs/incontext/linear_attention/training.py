"""What is trained: predictions with the tasks last, their variants, the sine network and the raw transformer."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.linear_attention import (
    LinearAttentionWeights,
    NormedLayer,
    RawTransformer,
    SineNetwork,
    normed_predict,
    predict,
    predict_vjp,
    raw_predict,
    sine_predict,
    softmax_predict,
    softmax_predict_vjp,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.primitives.layers import Linear
from refimpl.primitives.numbers import Array

# einsum, on which these rest, does not know bfloat16, and has no accumulation of its own in float16.
FLOATS = ("float64", "float32")
CONTEXT = st.sampled_from((1, 2, 5, 10))
TASKS = st.sampled_from((1, 2, 7))


def _energy(tokens: Array) -> float:
    """The largest squared norm of a context, at least 1: by it a layer multiplies tokens."""
    return max(1.0, float((tokens[:-1] ** 2).sum(axis=(0, 1)).max()))


@st.composite
def _weights(draw: st.DrawFn, size: int, energy: float) -> LinearAttentionWeights:
    """A layer whose update is at most about as large as the tokens."""
    n_heads = draw(st.integers(1, 3))
    key, query, value, projection = (draw(real_arrays((n_heads, size, size), size**-0.5)) for _ in range(4))
    return LinearAttentionWeights(key, query, value, projection / energy)


@st.composite
def stacks(draw: st.DrawFn, n_layers: int) -> Arguments:
    """Tokens with the tasks last, that many layers, and the number of outputs."""
    size = draw(st.sampled_from((2, 3, 5, 11)))
    tokens = draw(real_arrays((draw(CONTEXT) + 1, size, draw(TASKS))))
    layers = [draw(_weights(size, 4**depth * _energy(tokens))) for depth in range(n_layers)]
    return {"tokens": tokens, "layers": layers, "n_outputs": draw(st.integers(1, min(2, size - 1)))}


@st.composite
def _stack_arguments(draw: st.DrawFn) -> Arguments:
    arguments = draw(stacks(draw(st.integers(1, 3))))
    return arguments | {"clip": draw(st.sampled_from((None, None, 0.5, 10.0)))}


@st.composite
def _softmax_arguments(draw: st.DrawFn) -> Arguments:
    arguments = draw(stacks(1))
    (weights,) = arguments.pop("layers")
    return {"tokens": arguments["tokens"], "weights": weights, "n_outputs": arguments["n_outputs"]}


@st.composite
def _normed_arguments(draw: st.DrawFn) -> Arguments:
    arguments = draw(stacks(1))
    size = arguments["tokens"].shape[1]
    # Normalised, a token has squared norm D at most.
    weights = draw(_weights(size, float(size * len(arguments["tokens"]))))
    layer = NormedLayer(draw(real_arrays((size,))), draw(real_arrays((size,))), weights)
    return {"tokens": arguments["tokens"], "layer": layer, "n_outputs": arguments["n_outputs"]}


@st.composite
def _sine_arguments(draw: st.DrawFn) -> Arguments:
    size, hidden = draw(st.sampled_from((2, 3, 7))), draw(st.sampled_from((1, 4, 9)))
    tokens = draw(real_arrays((draw(CONTEXT) + 1, 2, draw(TASKS))))
    network = SineNetwork(
        Linear(draw(real_arrays((size, 2), 2**-0.5))),
        [
            Linear(draw(real_arrays((hidden, size), size**-0.5)), draw(real_arrays((hidden,)))),
            Linear(draw(real_arrays((size, hidden), hidden**-0.5)), draw(real_arrays((size,)))),
        ],
        draw(_weights(size, 4 * size * _energy(tokens))),
    )
    return {"tokens": tokens, "network": network}


@st.composite
def _raw_arguments(draw: st.DrawFn) -> Arguments:
    arguments = draw(stacks(2))
    softmax, linear = arguments["layers"]
    tokens = np.ascontiguousarray(arguments["tokens"].transpose(2, 1, 0))
    return {"tokens": tokens, "layers": RawTransformer(softmax, linear), "n_outputs": arguments["n_outputs"]}


def _symbolic_weights(prefix: str, size: int) -> LinearAttentionWeights:
    return LinearAttentionWeights(*(symbols(prefix + name, 1, size, size) for name in ("k", "q", "v", "p")))


def _relations(tasks_axis: int, tokens_axis: int, scored: bool) -> tuple[Relation, ...]:
    """What holds of every prediction: prompts do not mix, and the order of the context does not matter."""

    def reversed_context(tokens: Any) -> Any:
        context, query = np.split(tokens, [tokens.shape[tokens_axis] - 1], axis=tokens_axis)
        return np.concatenate([np.flip(context, tokens_axis), query], axis=tokens_axis)

    twice = Relation(
        "every prompt twice",
        lambda arguments: arguments | {"tokens": np.concatenate([arguments["tokens"]] * 2, axis=tasks_axis)},
        lambda output, arguments: np.concatenate([output, output], axis=-1),
    )
    order = Relation(
        "context tokens in reverse",
        lambda arguments: arguments | {"tokens": reversed_context(arguments["tokens"])},
        lambda output, arguments: output,
    )
    doubled = Relation(
        "every context token twice, averaged by the softmax",
        lambda arguments: arguments | {"tokens": np.concatenate([arguments["tokens"][:-1], arguments["tokens"]])},
        lambda output, arguments: output,
    )
    return (twice, order, doubled) if scored else (twice, order)


register(
    Spec(
        name="linear_attention/predict",
        reference=predict,
        arguments=_stack_arguments(),
        vjp=predict_vjp,
        symbols=lambda: {
            "tokens": symbols("e", 2, 2, 1),
            "layers": [_symbolic_weights("", 2)],
            "n_outputs": 1,
            "clip": None,
        },
        relations=_relations(-1, 0, scored=False),
        dtypes=FLOATS,
    )
)
register(
    Spec(
        name="linear_attention/softmax_predict",
        reference=softmax_predict,
        arguments=_softmax_arguments(),
        vjp=softmax_predict_vjp,
        symbols=lambda: {"tokens": symbols("e", 2, 2, 1), "weights": _symbolic_weights("", 2), "n_outputs": 1},
        relations=_relations(-1, 0, scored=True),
        dtypes=FLOATS,
    )
)
register(
    Spec(
        name="linear_attention/normed_predict",
        reference=normed_predict,
        arguments=_normed_arguments(),
        symbols=lambda: {
            "tokens": symbols("e", 2, 2, 1),
            "layer": NormedLayer(symbols("s", 2), symbols("o", 2), _symbolic_weights("", 2)),
            "n_outputs": 1,
        },
        relations=_relations(-1, 0, scored=False),
        dtypes=FLOATS,
    )
)
register(
    Spec(
        name="linear_attention/sine_predict",
        reference=sine_predict,
        arguments=_sine_arguments(),
        symbols=lambda: {
            "tokens": symbols("e", 2, 2, 1),
            "network": SineNetwork(
                Linear(symbols("w", 2, 2)),
                [Linear(symbols("u", 1, 2), symbols("b", 1)), Linear(symbols("v", 2, 1), symbols("c", 2))],
                _symbolic_weights("", 2),
            ),
        },
        relations=_relations(-1, 0, scored=False),
        dtypes=FLOATS,
    )
)
register(
    Spec(
        name="linear_attention/raw_predict",
        reference=raw_predict,
        arguments=_raw_arguments(),
        symbols=lambda: {
            "tokens": symbols("e", 1, 2, 2),
            "layers": RawTransformer(_symbolic_weights("a", 2), _symbolic_weights("b", 2)),
            "n_outputs": 1,
        },
        relations=_relations(0, -1, scored=False),
        dtypes=FLOATS,
    )
)
