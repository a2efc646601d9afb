"""One linear self-attention layer, its population loss, and the closed forms of its optimum."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.one_step_optimality import (
    AttentionWeights,
    EffectiveWeights,
    TargetMoments,
    loss_given_task,
    loss_given_task_vjp,
    lsa_predict,
    lsa_predict_full,
    lsa_predict_full_vjp,
    lsa_predict_vjp,
    nonlinear_learning_rate,
    optimal_learning_rate,
    optimal_loss,
    population_loss,
    population_loss_vjp,
    preconditioned_lsa_parameters,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
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
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
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


def products_only(weights: EffectiveWeights) -> EffectiveWeights:
    """The weights with $u=m=0$: only the products of inputs and targets are read."""
    value, key_query = weights
    return EffectiveWeights(
        np.concatenate([0 * value[..., :-1], value[..., -1:]], axis=-1),
        np.concatenate([key_query[..., :-1, :], 0 * key_query[..., -1:, :]], axis=-2),
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


# --- the population loss ---


@st.composite
def law_arguments(draw: st.DrawFn) -> Arguments:
    """Arguments of :func:`population_loss`."""
    n_inputs = draw(INPUTS)
    return {
        "weights": draw(effective_weights(n_inputs)),
        "n_context": draw(CONTEXT),
        "noise_std": draw(NOISE),
        "cov_x": draw(covariances(n_inputs)),
        "cov_w": draw(covariances(n_inputs)),
    }


def _law_reflected(arguments: Arguments) -> Arguments:
    return arguments | {
        "weights": reflect_weights(arguments["weights"]),
        "cov_x": reflect(reflect(arguments["cov_x"]), -2),
        "cov_w": reflect(reflect(arguments["cov_w"]), -2),
    }


def _law_stretched(arguments: Arguments) -> Arguments:
    """Inputs times 2, tasks over 2: the targets stay."""
    return arguments | {
        "weights": stretch_weights(arguments["weights"]),
        "cov_x": 4 * arguments["cov_x"],
        "cov_w": arguments["cov_w"] / 4,
    }


def _targets_flipped(arguments: Arguments) -> Arguments:
    value, key_query = arguments["weights"]
    return arguments | {
        "weights": EffectiveWeights(
            np.concatenate([value[..., :-1], -value[..., -1:]], axis=-1),
            np.concatenate([-key_query[..., :-1, :], key_query[..., -1:, :]], axis=-2),
        )
    }


def _one_point_fewer(**arguments: Any) -> Array:
    return population_loss(**arguments | {"n_context": arguments["n_context"] - 1})


def _noiseless_query(**arguments: Any) -> Array:
    return population_loss(**arguments) - arguments["noise_std"] ** 2


register(
    Spec(
        name="one_step_optimality/population_loss",
        reference=population_loss,
        arguments=law_arguments(),
        vjp=population_loss_vjp,
        symbols=lambda: {
            "weights": EffectiveWeights(symbols("w", 3), symbols("m", 3, 2)),
            "n_context": symbols("n").item(),
            "noise_std": symbols("s").item(),
        },
        relations=(
            RESCALED,
            Relation("inputs and tasks reflected, weights with them", _law_reflected, unchanged),
            Relation("inputs times 2, tasks over 2, weights undo it", _law_stretched, unchanged),
            Relation("all targets flipped, prediction with them", _targets_flipped, unchanged),
        ),
        dtypes=SINGLE,
        constants=("cov_x", "cov_w"),
        mistakes={
            ("off by one", "one context point too few"): _one_point_fewer,
            ("missing term", "the noise of the query's target"): _noiseless_query,
        },
    )
)


@st.composite
def _task_arguments(draw: st.DrawFn) -> Arguments:
    n_inputs = draw(INPUTS)
    return {
        "weights": draw(effective_weights(n_inputs)),
        "task": draw(real_arrays((*draw(BATCHES), n_inputs))),
        "n_context": draw(CONTEXT),
        "noise_std": draw(NOISE),
        "cov_x": draw(covariances(n_inputs)),
    }


def _task_reflected(arguments: Arguments) -> Arguments:
    return arguments | {
        "weights": reflect_weights(arguments["weights"]),
        "task": reflect(arguments["task"]),
        "cov_x": reflect(reflect(arguments["cov_x"]), -2),
    }


register(
    Spec(
        name="one_step_optimality/loss_given_task",
        reference=loss_given_task,
        arguments=_task_arguments(),
        vjp=loss_given_task_vjp,
        symbols=lambda: {
            "weights": EffectiveWeights(symbols("w", 3), symbols("m", 3, 2)),
            "task": symbols("t", 2),
            "n_context": symbols("n").item(),
            "noise_std": symbols("s").item(),
        },
        relations=(
            RESCALED,
            Relation("inputs and task reflected, weights with them", _task_reflected, unchanged),
            Relation(
                "task flipped, prediction with it",
                lambda arguments: _targets_flipped(arguments) | {"task": -arguments["task"]},
                unchanged,
            ),
        ),
        dtypes=SINGLE,
        constants=("cov_x",),
    )
)


# --- closed forms ---


@st.composite
def _sizes(draw: st.DrawFn) -> Arguments:
    return {"n_inputs": draw(st.integers(1, 50)), "n_context": draw(st.integers(1, 200)), "noise_std": draw(NOISE)}


def _symbolic_sizes() -> Arguments:
    return {name: symbols(name).item() for name in ("n_inputs", "n_context", "noise_std")}


def _one_input_to_context(arguments: Arguments) -> Arguments:
    return arguments | {"n_inputs": arguments["n_inputs"] + 1, "n_context": arguments["n_context"] - 1}


register(
    Spec(
        name="one_step_optimality/optimal_learning_rate",
        reference=optimal_learning_rate,
        arguments=_sizes(),
        symbols=_symbolic_sizes,
        relations=(Relation("one input more, one context point fewer", _one_input_to_context, unchanged),),
        mistakes={
            ("normaliser", "the rate of the mean"): lambda n_inputs, n_context, noise_std: (
                n_context * optimal_learning_rate(n_inputs, n_context, noise_std)
            ),
            ("missing term", "the noise"): lambda n_inputs, n_context, noise_std: optimal_learning_rate(
                n_inputs, n_context, 0.0
            ),
        },
    )
)
register(
    Spec(
        name="one_step_optimality/optimal_loss",
        reference=optimal_loss,
        arguments=_sizes(),
        symbols=_symbolic_sizes,
        relations=(
            Relation(
                "without context, the variance of the target",
                lambda arguments: arguments | {"n_context": 0},
                lambda output, arguments: arguments["n_inputs"] + arguments["noise_std"] ** 2,
            ),
        ),
        mistakes={
            ("missing term", "the noise of the query's target"): lambda n_inputs, n_context, noise_std: (
                optimal_loss(n_inputs, n_context, noise_std) - noise_std**2
            )
        },
    )
)


@st.composite
def _preconditioned_arguments(draw: st.DrawFn) -> Arguments:
    return {"cov_x": draw(covariances(draw(INPUTS))), "learning_rate": draw(st.floats(1 / 64, 1))}


register(
    Spec(
        name="one_step_optimality/preconditioned_lsa_parameters",
        reference=preconditioned_lsa_parameters,
        arguments=_preconditioned_arguments(),
        symbols=lambda: {"cov_x": symbols("s", 2, 2), "learning_rate": symbols("eta").item()},
        relations=(
            Relation(
                "covariance times 4",
                lambda arguments: arguments | {"cov_x": 4 * arguments["cov_x"]},
                lambda output, arguments: output._replace(key_query=output.key_query / 4),
            ),
            Relation(
                "inputs reflected",
                lambda arguments: arguments | {"cov_x": reflect(reflect(arguments["cov_x"]), -2)},
                lambda output, arguments: reflect_weights(output),
            ),
        ),
        dtypes=SINGLE,
    )
)


@st.composite
def _nonlinear_arguments(draw: st.DrawFn) -> Arguments:
    square = draw(st.floats(1 / 16, 4))
    correlation = draw(st.sampled_from((-1.0, -0.5, 0.25, 0.75, 1.0))) * square**0.5
    return {
        "moments": TargetMoments(correlation, square, square * draw(st.floats(1 / 4, 6))),
        "n_inputs": draw(st.integers(1, 50)),
        "n_context": draw(st.integers(1, 200)),
        "noise_std": draw(NOISE),
    }


def _targets_doubled(arguments: Arguments) -> Arguments:
    """Targets and noise times 2, which leaves the best rate alone."""
    correlation, square, weighted = arguments["moments"]
    return arguments | {
        "moments": TargetMoments(2 * correlation, 4 * square, 4 * weighted),
        "noise_std": 2 * arguments["noise_std"],
    }


register(
    Spec(
        name="one_step_optimality/nonlinear_learning_rate",
        reference=nonlinear_learning_rate,
        arguments=_nonlinear_arguments(),
        symbols=lambda: {
            "moments": TargetMoments(*(symbols(name).item() for name in ("k", "a", "b"))),
            **_symbolic_sizes(),
        },
        relations=(Relation("targets and noise times 2", _targets_doubled, unchanged),),
        mistakes={
            ("missing term", "the noise"): lambda moments, n_inputs, n_context, noise_std: nonlinear_learning_rate(
                moments, n_inputs, n_context, 0.0
            )
        },
    )
)
