"""What is trained: predictions of layers on prompts with the tasks last."""

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.linear_attention.sine import SineNetwork, sine_predict, sine_predict_vjp
from refimpl.incontext.linear_attention.training import predict, predict_vjp
from refimpl.incontext.linear_attention.variants import (
    NormedLayer,
    normed_predict,
    normed_predict_vjp,
    softmax_predict,
    softmax_predict_vjp,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.primitives.layers import Linear
from refimpl.primitives.linear_self_attention import LinearAttentionWeights
from refimpl.primitives.numbers import Array

N_TOKENS, N_TASKS = st.sampled_from((2, 3, 6)), st.sampled_from((1, 3))


@st.composite
def _layer(draw: st.DrawFn, size: int) -> LinearAttentionWeights:
    n_heads = draw(st.sampled_from((1, 2)))
    return LinearAttentionWeights(*(draw(real_arrays((n_heads, size, size))) / size for _ in range(4)))


def _symbolic_layer(name: str, size: int = 2) -> LinearAttentionWeights:
    return LinearAttentionWeights(*(symbols(f"{name}{matrix}", 1, size, size) for matrix in "kqvp"))


@st.composite
def _prompts(draw: st.DrawFn, size: int) -> Array:
    return draw(real_arrays((draw(N_TOKENS), size, draw(N_TASKS))))


def _reverse_context(arguments: Arguments) -> Arguments:
    tokens = arguments["tokens"]
    return arguments | {"tokens": np.concatenate([tokens[:-1][::-1], tokens[-1:]])}


def _reverse_tasks(arguments: Arguments) -> Arguments:
    return arguments | {"tokens": arguments["tokens"][..., ::-1]}


RELATIONS = (
    Relation("context in another order", _reverse_context, lambda output, arguments: output),
    Relation("tasks in another order", _reverse_tasks, lambda output, arguments: output[..., ::-1]),
)


@st.composite
def _stacks(draw: st.DrawFn) -> Arguments:
    size = draw(st.sampled_from((2, 5)))
    return {
        "tokens": draw(_prompts(size)),
        "layers": [draw(_layer(size)) for _ in range(draw(st.integers(1, 2)))],
        "n_outputs": draw(st.integers(1, size - 1)),
    }


register(
    Spec(
        name="linear_attention/predict",
        reference=predict,
        arguments=_stacks(),
        vjp=predict_vjp,
        symbols=lambda: {"tokens": symbols("e", 2, 2, 1), "layers": [_symbolic_layer("w")], "n_outputs": 1},
        relations=RELATIONS,
    )
)


@st.composite
def _softmax_layers(draw: st.DrawFn) -> Arguments:
    size = draw(st.sampled_from((2, 5)))
    return {"tokens": draw(_prompts(size)), "weights": draw(_layer(size)), "n_outputs": draw(st.integers(1, size - 1))}


register(
    Spec(
        name="linear_attention/softmax_predict",
        reference=softmax_predict,
        arguments=_softmax_layers(),
        vjp=softmax_predict_vjp,
        symbols=lambda: {"tokens": symbols("e", 2, 2, 1), "weights": _symbolic_layer("w"), "n_outputs": 1},
        relations=RELATIONS,
        dtypes=("float64", "float32"),  # its einsum over tasks is for training, which half precision is not
    )
)


@st.composite
def _normed_layers(draw: st.DrawFn) -> Arguments:
    size = draw(st.sampled_from((3, 5)))
    scale, offset = 1 + draw(real_arrays((size,))) / 8, draw(real_arrays((size,))) / 8
    layer = NormedLayer(scale, offset, draw(_layer(size)))
    # Gaussian tokens: on a constant one the norm magnifies whatever differs by 300, and no derivative can be measured.
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tokens = rng.standard_normal((draw(N_TOKENS), size, draw(N_TASKS)))
    return {"tokens": tokens, "layer": layer, "n_outputs": draw(st.integers(1, size - 1))}


register(
    Spec(
        name="linear_attention/normed_predict",
        reference=normed_predict,
        arguments=_normed_layers(),
        vjp=normed_predict_vjp,
        relations=RELATIONS,
        dtypes=("float64", "float32"),
    )
)


@st.composite
def _sine_networks(draw: st.DrawFn) -> Arguments:
    size, hidden = draw(st.sampled_from((2, 4))), 3

    def affine(n_outputs: int, n_inputs: int, bias: bool = True) -> Linear:
        weight = draw(real_arrays((n_outputs, n_inputs))) / n_inputs
        return Linear(weight, draw(real_arrays((n_outputs,))) / 4 if bias else None)

    network = SineNetwork(affine(size, 2, False), [affine(hidden, size), affine(size, hidden)], draw(_layer(size)))
    return {"tokens": draw(_prompts(2)), "network": network}


register(
    Spec(
        name="linear_attention/sine_predict",
        reference=sine_predict,
        arguments=_sine_networks(),
        vjp=sine_predict_vjp,
        relations=RELATIONS,
        dtypes=("float64", "float32"),
    )
)
