"""Prompts, the layer, the gradient-descent weights and the stack."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.linear_attention import (
    LinearAttentionWeights,
    gradient_descent_weights,
    linear_self_attention,
    stack_forward,
    stack_forward_vjp,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.primitives.numbers import Array

INPUTS = st.sampled_from((1, 2, 3, 5, 10, 24, 64))
OUTPUTS = st.sampled_from((1, 2, 3, 8))
CONTEXT = st.sampled_from((1, 2, 3, 5, 10, 40, 256))
BATCHES = st.sampled_from(((), (1,), (3,), (2, 2)))
FRACTIONS = st.floats(1 / 16, 0.95, allow_subnormal=False)


@st.composite
def prompts(draw: st.DrawFn) -> Arguments:
    """Context and query: ``x``, ``y`` and ``x_query``."""
    batch, n_inputs, n_context = draw(BATCHES), draw(INPUTS), draw(CONTEXT)
    return {
        "x": draw(real_arrays((*batch, n_inputs, n_context))),
        "y": draw(real_arrays((*batch, draw(OUTPUTS), n_context))),
        "x_query": draw(real_arrays((*batch, n_inputs))),
    }


def largest_eigenvalue(x: Array) -> float:
    r"""The largest eigenvalue of $XX^\top$ in the batch; 1 if the inputs vanish."""
    return float(np.max(np.linalg.norm(x, ord=2, axis=(-2, -1)))) ** 2 or 1.0


def stable_rate(fraction: float, x: Array) -> float:
    r"""A learning rate with $\eta\lambda_{\max}(XX^\top/N)=2\cdot$ `fraction`."""
    return 2 * fraction * x.shape[-1] / largest_eigenvalue(x)


def reverse_columns(x: Any, n: int) -> Any:
    """The first `n` columns in reverse, the others as they are."""
    return np.concatenate([np.flip(x[..., :n], -1), x[..., n:]], axis=-1)


def reflect(x: Any, axis: int = -2) -> Any:
    r"""Multiply by the orthogonal matrix $I-\frac2n\mathbf 1\mathbf 1^\top$ along an axis."""
    return x - 2 * x.sum(axis=axis, keepdims=True) / x.shape[axis]


def _opposite(x: Any, axis: int = -2) -> Any:
    """Multiply by an orthogonal matrix that commutes with clipping."""
    return -np.flip(x, axis)


def unchanged(output: Any, arguments: Arguments) -> Any:
    return output


def _context_reversed(arguments: Arguments) -> Arguments:
    return arguments | {"tokens": reverse_columns(arguments["tokens"], arguments["n_context"])}


CONTEXT_REVERSED = Relation(
    "context tokens in reverse",
    _context_reversed,
    lambda output, arguments: reverse_columns(output, arguments["n_context"]),
)


@st.composite
def random_layers(draw: st.DrawFn, n_layers: st.SearchStrategy[int], max_heads: int) -> Arguments:
    """Tokens and layers of random weights, scaled so that a layer's update is about as large as the tokens."""
    batch, size, n_context = draw(BATCHES), draw(st.sampled_from((2, 3, 5, 11, 24))), draw(CONTEXT)
    tokens = draw(real_arrays((*batch, size, n_context + 1)))

    def weights() -> LinearAttentionWeights:
        n_heads = draw(st.integers(1, max_heads))
        key, query, value, projection = (draw(real_arrays((n_heads, size, size), size**-0.5)) for _ in range(4))
        return LinearAttentionWeights(key, query, value, projection / max(1.0, largest_eigenvalue(tokens)))

    return {"tokens": tokens, "layers": [weights() for _ in range(draw(n_layers))], "n_context": n_context}


@st.composite
def _layer_arguments(draw: st.DrawFn) -> Arguments:
    arguments = draw(random_layers(st.just(1), max_heads=3))
    return {
        "tokens": arguments["tokens"],
        "weights": arguments["layers"][0],
        "n_context": arguments["n_context"],
        "include_query": draw(st.booleans()),
    }


def reflect_layer(weights: LinearAttentionWeights, by: Callable[..., Any] = reflect) -> LinearAttentionWeights:
    """The weights that do to reflected tokens what `weights` do to the tokens themselves."""
    key, query, value, projection = weights
    return LinearAttentionWeights(by(key, -1), by(query, -1), by(value, -1), by(projection, -2))


# Its gradient is judged by ``primitives/linear_self_attention``.
register(
    Spec(
        name="linear_attention/linear_self_attention",
        reference=linear_self_attention,
        arguments=_layer_arguments(),
        symbols=lambda: {
            "tokens": symbols("e", 2, 2),
            "weights": LinearAttentionWeights(*(symbols(name, 1, 2, 2) for name in ("k", "q", "v", "p"))),
            "n_context": 1,
            "include_query": False,
        },
        relations=(
            CONTEXT_REVERSED,
            Relation(
                "all tokens reflected, weights with them",
                lambda arguments: (
                    arguments | {"tokens": reflect(arguments["tokens"]), "weights": reflect_layer(arguments["weights"])}
                ),
                lambda output, arguments: reflect(output),
            ),
            Relation(
                "keys and queries reflected by one matrix",
                lambda arguments: (
                    arguments
                    | {
                        "weights": arguments["weights"]._replace(
                            key=reflect(arguments["weights"].key), query=reflect(arguments["weights"].query)
                        )
                    }
                ),
                unchanged,
            ),
            Relation(
                "keys times 4, values over 4",
                lambda arguments: (
                    arguments
                    | {
                        "weights": arguments["weights"]._replace(
                            key=4 * arguments["weights"].key, value=arguments["weights"].value / 4
                        )
                    }
                ),
                unchanged,
            ),
        ),
    )
)


@st.composite
def construction_arguments(draw: st.DrawFn) -> Arguments:
    """Arguments of :func:`gradient_descent_weights`."""
    n_inputs, n_outputs = draw(INPUTS), draw(OUTPUTS)
    return {
        "n_inputs": n_inputs,
        "n_outputs": n_outputs,
        "learning_rate": draw(st.floats(1 / 64, 8)),
        "n_context": draw(CONTEXT),
        "initial_weights": draw(real_arrays((n_outputs, n_inputs))),
    }


register(
    Spec(
        name="linear_attention/gradient_descent_weights",
        reference=gradient_descent_weights,
        arguments=construction_arguments(),
        symbols=lambda: {
            "n_inputs": 2,
            "n_outputs": 1,
            "learning_rate": symbols("eta").item(),
            "n_context": 3,
            "initial_weights": symbols("w", 1, 2),
        },
        relations=(
            Relation(
                "twice the rate doubles the projection",
                lambda arguments: arguments | {"learning_rate": 2 * arguments["learning_rate"]},
                lambda output, arguments: output._replace(projection=2 * output.projection),
            ),
            Relation(
                "twice the context halves the projection",
                lambda arguments: arguments | {"n_context": 2 * arguments["n_context"]},
                lambda output, arguments: output._replace(projection=output.projection / 2),
            ),
        ),
    )
)


def _query_attended(tokens: Array, layers: Any, n_context: int, clip: Any, dampening: Any) -> Array:
    for layer in layers:
        damped = layer._replace(projection=dampening * layer.projection)
        tokens = linear_self_attention(tokens, damped, n_context, include_query=True)
        tokens = tokens if clip is None else np.clip(tokens, -clip, clip)
    return tokens


@st.composite
def _stack_arguments(draw: st.DrawFn) -> Arguments:
    return draw(random_layers(st.integers(1, 4), max_heads=2)) | {
        "clip": draw(st.sampled_from((None, 10.0))),
        "dampening": draw(st.sampled_from((1.0, 0.75))),
    }


register(
    Spec(
        name="linear_attention/stack_forward",
        reference=stack_forward,
        arguments=_stack_arguments(),
        vjp=stack_forward_vjp,
        symbols=lambda: {
            "tokens": symbols("e", 1, 2),
            "layers": [
                LinearAttentionWeights(*(symbols(f"{name}{layer}", 1, 1, 1) for name in ("k", "q", "v", "p")))
                for layer in range(2)
            ],
            "n_context": 1,
            "clip": None,
            "dampening": symbols("d").item(),
        },
        relations=(
            CONTEXT_REVERSED,
            Relation(
                "entries of tokens in reverse with the opposite sign, weights with them",
                lambda arguments: (
                    arguments
                    | {
                        "tokens": _opposite(arguments["tokens"]),
                        "layers": [reflect_layer(layer, _opposite) for layer in arguments["layers"]],
                    }
                ),
                lambda output, arguments: _opposite(output),
            ),
        ),
        mistakes={("mask", "the query gives keys and values too"): _query_attended},
    )
)
