"""One linear self-attention layer, as it is trained and by its effective weights."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.one_step_optimality import (
    AttentionWeights,
    EffectiveWeights,
    lsa_predict,
    lsa_predict_full,
    lsa_predict_full_vjp,
    lsa_predict_vjp,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register, symbols
from refimpl.primitives.numbers import Array

INPUTS = st.sampled_from((1, 2, 3, 4, 6))
CONTEXT = st.sampled_from((1, 2, 3, 5, 10, 40, 200))
BATCHES = st.sampled_from(((), (1,), (3,), (2, 2)))
NOISE = st.one_of(st.just(0.0), st.floats(1 / 64, 3, allow_subnormal=False))
# Covariances of condition 10^4 may be none any more once rounded to 8 or 11 bits.
SINGLE = ("float64", "float32")


@st.composite
def effective_weights(draw: st.DrawFn, n_inputs: int) -> EffectiveWeights:
    """Weights of any kind, of about the size at which they predict well."""
    size = n_inputs + 1
    return EffectiveWeights(draw(real_arrays((size,), 0.5)), draw(real_arrays((size, n_inputs), 0.5)))


@st.composite
def covariances(draw: st.DrawFn, n_inputs: int, condition: float = 1e4) -> Array:
    """A covariance matrix with eigenvalues between the inverse root of the condition number and its root."""
    rng = draw(generators())
    vectors, _ = np.linalg.qr(rng.standard_normal((n_inputs, n_inputs)))
    spread = draw(st.sampled_from((0.0, 0.5, 1.0)))
    eigenvalues = condition ** (spread * rng.uniform(-0.5, 0.5, n_inputs))
    matrix = vectors * eigenvalues @ vectors.T
    return (matrix + matrix.T) / 2


@st.composite
def prompts(draw: st.DrawFn, n_inputs: int) -> Arguments:
    """Context and query with samples in rows: ``x``, ``y`` and ``x_query``."""
    batch, n_context = draw(BATCHES), draw(CONTEXT)
    return {
        "x": draw(real_arrays((*batch, n_context, n_inputs))),
        "y": draw(real_arrays((*batch, n_context))),
        "x_query": draw(real_arrays((*batch, n_inputs))),
    }


def unchanged(output: Any, arguments: Arguments) -> Any:
    return output


def reflect(x: Any, axis: int = -1) -> Any:
    r"""Multiply by the orthogonal matrix $I-\frac2n\mathbf 1\mathbf 1^\top$ along an axis."""
    return x - 2 * x.sum(axis=axis, keepdims=True) / x.shape[axis]


def reflect_weights(weights: EffectiveWeights) -> EffectiveWeights:
    """The weights that do to reflected inputs what `weights` do to the inputs themselves."""
    value, key_query = weights
    return EffectiveWeights(
        np.concatenate([reflect(value[..., :-1]), value[..., -1:]], axis=-1),
        reflect(np.concatenate([reflect(key_query[..., :-1, :], -2), key_query[..., -1:, :]], axis=-2)),
    )


def stretch_weights(weights: EffectiveWeights) -> EffectiveWeights:
    """The weights that do to doubled inputs what `weights` do to the inputs themselves."""
    value, key_query = weights
    return EffectiveWeights(
        np.concatenate([value[..., :-1] / 2, value[..., -1:]], axis=-1),
        np.concatenate([key_query[..., :-1, :] / 4, key_query[..., -1:, :] / 2], axis=-2),
    )


def rescale(arguments: Arguments) -> Arguments:
    """$w$ times 4, $M$ over 4."""
    value, key_query = arguments["weights"]
    return arguments | {"weights": EffectiveWeights(4 * value, key_query / 4)}


RESCALED = Relation("w times 4, M over 4", rescale, unchanged)


# --- the prediction ---


def _query_attended(weights: EffectiveWeights, x: Array, y: Array, x_query: Array) -> Array:
    x = np.concatenate([x, x_query[..., None, :]], axis=-2)
    return lsa_predict(weights, x, np.concatenate([y, 0 * y[..., :1]], axis=-1), x_query)


def _mean_over_context(weights: EffectiveWeights, x: Array, y: Array, x_query: Array) -> Array:
    return lsa_predict(weights, x, y, x_query) / x.shape[-2]


PROMPT_RELATIONS = (
    Relation(
        "context in reverse",
        lambda arguments: (
            arguments | {"x": np.flip(arguments["x"], -2).copy(), "y": np.flip(arguments["y"], -1).copy()}
        ),
        unchanged,
    ),
    Relation(
        "query times 4",
        lambda arguments: arguments | {"x_query": 4 * arguments["x_query"]},
        lambda output, arguments: 4 * output,
    ),
    Relation(
        "inputs and targets of the context times 2",
        lambda arguments: arguments | {"x": 2 * arguments["x"], "y": 2 * arguments["y"]},
        lambda output, arguments: 4 * output,
    ),
)


@st.composite
def predict_arguments(draw: st.DrawFn) -> Arguments:
    n_inputs = draw(INPUTS)
    return {"weights": draw(effective_weights(n_inputs)), **draw(prompts(n_inputs))}


def _inputs_doubled(arguments: Arguments) -> Arguments:
    return arguments | {
        "weights": stretch_weights(arguments["weights"]),
        "x": 2 * arguments["x"],
        "x_query": 2 * arguments["x_query"],
    }


def _inputs_reflected(arguments: Arguments) -> Arguments:
    return arguments | {
        "weights": reflect_weights(arguments["weights"]),
        "x": reflect(arguments["x"]),
        "x_query": reflect(arguments["x_query"]),
    }


def _targets_flipped(arguments: Arguments) -> Arguments:
    """And the signs of $u$ and $m$: where they vanish, flipping the targets alone flips the prediction."""
    value, key_query = arguments["weights"]
    flipped = EffectiveWeights(
        np.concatenate([-value[:-1], value[-1:]]), np.concatenate([key_query[:-1], -key_query[-1:]])
    )
    return arguments | {"weights": flipped, "y": -arguments["y"]}


register(
    Spec(
        name="one_step_optimality/lsa_predict",
        reference=lsa_predict,
        arguments=predict_arguments(),
        vjp=lsa_predict_vjp,
        symbols=lambda: {
            "weights": EffectiveWeights(symbols("w", 3), symbols("m", 3, 2)),
            "x": symbols("x", 2, 2),
            "y": symbols("y", 2),
            "x_query": symbols("q", 2),
        },
        relations=(
            *PROMPT_RELATIONS,
            RESCALED,
            Relation("inputs times 2, weights undo it", _inputs_doubled, unchanged),
            Relation("inputs reflected, weights with them", _inputs_reflected, unchanged),
            Relation("targets, u and m flipped", _targets_flipped, lambda output, arguments: -output),
        ),
        mistakes={
            ("mask", "the query gives a key and a value too"): _query_attended,
            ("normaliser", "the sum over the context is a mean"): _mean_over_context,
        },
    )
)


@st.composite
def _full_arguments(draw: st.DrawFn) -> Arguments:
    n_inputs = draw(INPUTS)
    size = n_inputs + 1
    key, query, value = (draw(real_arrays((size, size), size**-0.5)) for _ in range(3))
    return {"weights": AttentionWeights(key, query, value, draw(real_arrays((size,)))), **draw(prompts(n_inputs))}


def _last_query_column(arguments: Arguments) -> Arguments:
    query = arguments["weights"].query.copy()
    query[:, -1] += 1
    return arguments | {"weights": arguments["weights"]._replace(query=query)}


def _query_token_of_one(weights: AttentionWeights, x: Array, y: Array, x_query: Array) -> Array:
    tokens = np.concatenate([x, y[..., None]], axis=-1)
    query = weights.query @ np.concatenate([x_query, np.ones_like(x_query[..., :1])], axis=-1)[..., None]
    scores = tokens @ weights.key.T @ query
    return ((tokens @ weights.value.T @ weights.head)[..., None] * scores)[..., 0].sum(axis=-1)


register(
    Spec(
        name="one_step_optimality/lsa_predict_full",
        reference=lsa_predict_full,
        arguments=_full_arguments(),
        vjp=lsa_predict_full_vjp,
        symbols=lambda: {
            "weights": AttentionWeights(symbols("k", 2, 2), symbols("q", 2, 2), symbols("v", 2, 2), symbols("h", 2)),
            "x": symbols("x", 2, 1),
            "y": symbols("y", 2),
            "x_query": symbols("z", 1),
        },
        relations=(
            *PROMPT_RELATIONS,
            Relation("last column of the query matrix is never read", _last_query_column, unchanged),
        ),
        mistakes={("input", "the query token ends in 1 instead of 0"): _query_token_of_one},
    )
)
