"""The algorithms that a learner is compared with, their risks, and the metrics."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.learning_algorithms import (
    bayes_ridge_weights,
    gd_weights,
    implicit_linear_weight_difference,
    knn_predict,
    least_norm_risk,
    linear_predictor,
    mean_prediction_difference_below,
    one_layer_rate,
    one_layer_risk,
    online_predictions,
    regularized_loss,
    regularized_loss_vjp,
    ridge_risk,
    sgd_weights,
    sherman_morrison_update,
    squared_prediction_difference,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register, symbols
from refimpl.primitives.least_squares import ridge_weights
from refimpl.primitives.numbers import Array

BATCHES = st.sampled_from(((), (1,), (3,), (2, 2)))
INPUTS = st.sampled_from((1, 2, 3, 8))
EXAMPLES = st.sampled_from((1, 2, 5, 8, 20))
FULL = ("float64", "float32")


def reflect(x: Any) -> Any:
    r"""Multiply rows by the orthogonal matrix $I-\frac2d\mathbf 1\mathbf 1^\top$."""
    return x - 2 * x.sum(axis=-1, keepdims=True) / x.shape[-1]


def unchanged(output: Any, arguments: Arguments) -> Any:
    return output


@st.composite
def problems(draw: st.DrawFn) -> Arguments:
    """Examples: ``x`` and ``y``."""
    batch, n, d = draw(BATCHES), draw(EXAMPLES), draw(INPUTS)
    return {"x": draw(real_arrays((*batch, n, d))), "y": draw(real_arrays((*batch, n)))}


def with_weights(draw: st.DrawFn, examples: Arguments) -> Array:
    """Weights that fit the examples."""
    return draw(real_arrays((*examples["x"].shape[:-2], examples["x"].shape[-1])))


def stable_rate(draw: st.DrawFn, x: Array) -> float:
    """A rate at which no step grows the weights."""
    return draw(st.floats(1 / 16, 0.45)) / (float(np.max(np.linalg.norm(x, axis=(-2, -1)))) ** 2 or 1.0)


ROTATED = Relation(
    "inputs reflected: so are the weights",
    lambda arguments: arguments | {name: reflect(arguments[name]) for name in _turning(arguments)},
    lambda output, arguments: reflect(output),
)
REORDERED = Relation(
    "examples in reverse",
    lambda arguments: arguments | {"x": arguments["x"][..., ::-1, :], "y": arguments["y"][..., ::-1]},
    unchanged,
)


def _turning(arguments: Arguments) -> list[str]:
    names = ("weights", "x", "x_query", "initial_weights")
    return [name for name in names if arguments.get(name) is not None]


# --- the loss and its descent ---


@st.composite
def _loss(draw: st.DrawFn) -> Arguments:
    examples = draw(problems())
    weights = with_weights(draw, examples)
    return {"weights": weights, **examples, "weight_decay": draw(st.sampled_from((0, 1 / 4)))}


register(
    Spec(
        name="learning_algorithms/regularized_loss",
        reference=regularized_loss,
        arguments=_loss(),
        vjp=regularized_loss_vjp,
        symbols=lambda: {
            "weights": symbols("w", 2),
            "x": symbols("x", 2, 2),
            "y": symbols("y", 2),
            "weight_decay": symbols("decay").item(),
        },
        relations=(
            REORDERED,
            Relation(
                "inputs and weights reflected",
                lambda arguments: arguments | {name: reflect(arguments[name]) for name in _turning(arguments)},
                unchanged,
            ),
        ),
    )
)


@st.composite
def _descent(draw: st.DrawFn, more: st.SearchStrategy[Arguments]) -> Arguments:
    examples = draw(problems())
    return {
        **examples,
        "learning_rate": stable_rate(draw, examples["x"]),
        "weight_decay": draw(st.sampled_from((0, 1 / 64))),
        "initial_weights": draw(st.sampled_from((None, with_weights(draw, examples)))),
        **draw(more),
    }


def _symbolic_descent() -> Arguments:
    return {
        "x": symbols("x", 2, 2),
        "y": symbols("y", 2),
        "learning_rate": symbols("rate").item(),
        "weight_decay": symbols("decay").item(),
        "initial_weights": symbols("w", 2),
    }


register(
    Spec(
        name="learning_algorithms/gd_weights",
        reference=gd_weights,
        arguments=_descent(st.builds(dict, n_steps=st.integers(1, 4))),
        symbols=_symbolic_descent,
        relations=(ROTATED, REORDERED),
        mistakes={
            ("constant factor", "a mean over the examples"): lambda x, learning_rate, **others: gd_weights(
                x=x, learning_rate=learning_rate / x.shape[-2], **others
            )
        },
    )
)
# Clipping acts on coordinates, and so breaks the symmetry; the order of the examples matters.
register(
    Spec(
        name="learning_algorithms/sgd_weights",
        reference=sgd_weights,
        arguments=_descent(st.builds(dict, clip=st.none())),
        symbols=_symbolic_descent,
        relations=(ROTATED,),
    )
)
register(
    Spec(
        name="learning_algorithms/sgd_weights_clipped",
        reference=sgd_weights,
        arguments=_descent(st.builds(dict, clip=st.sampled_from((1 / 4, 20.0)))),
        relations=(
            Relation(
                "coordinates in reverse",
                lambda arguments: arguments | {name: np.flip(arguments[name], -1) for name in _turning(arguments)},
                lambda output, arguments: np.flip(output, -1),
            ),
        ),
    )
)


# --- ridge and neighbours ---


@st.composite
def _bayes(draw: st.DrawFn) -> Arguments:
    return draw(problems()) | {
        "noise_var": draw(st.floats(1 / 16, 4)),
        "prior_var": draw(st.floats(1 / 4, 4)),
    }


def _scaled(arguments: Arguments) -> Arguments:
    return arguments | {"x": 2 * arguments["x"], "y": 2 * arguments["y"], "noise_var": 4 * arguments["noise_var"]}


register(
    Spec(
        name="learning_algorithms/bayes_ridge_weights",
        reference=bayes_ridge_weights,
        arguments=_bayes(),
        symbols=lambda: {
            "x": symbols("x", 2, 2),
            "y": symbols("y", 2),
            "noise_var": symbols("s").item(),
            "prior_var": symbols("t").item(),
        },
        relations=(
            ROTATED,
            REORDERED,
            Relation("examples times 2, noise with them", _scaled, unchanged),
            Relation(
                "both variances times 4",
                lambda arguments: (
                    arguments | {"noise_var": 4 * arguments["noise_var"], "prior_var": 4 * arguments["prior_var"]}
                ),
                unchanged,
            ),
        ),
        dtypes=FULL,  # NumPy solves no system in half precision
        mistakes={
            ("constant factor", "a penalty of the mean of squares"): lambda x, noise_var, **others: bayes_ridge_weights(
                x=x, noise_var=noise_var * x.shape[-2], **others
            )
        },
    )
)


@st.composite
def _update(draw: st.DrawFn) -> Arguments:
    batch, d = draw(BATCHES), draw(INPUTS)
    factor = draw(real_arrays((*batch, d, d)))
    return {
        "inverse": np.swapaxes(factor, -1, -2) @ factor / d + np.eye(d) / 2,
        "x": draw(real_arrays((*batch, d))),
    }


register(
    Spec(
        name="learning_algorithms/sherman_morrison_update",
        reference=sherman_morrison_update,
        arguments=_update(),
        symbols=lambda: {"inverse": symbols("a", 2, 2), "x": symbols("x", 2)},
        relations=(
            Relation(
                "the example times -1",
                lambda arguments: arguments | {"x": -arguments["x"]},
                unchanged,
            ),
        ),
    )
)


@st.composite
def _neighbours(draw: st.DrawFn) -> Arguments:
    """Examples of different distances: ties would be a matter of taste."""
    batch, n, d = draw(BATCHES), draw(EXAMPLES), draw(INPUTS)
    query = np.clip(draw(real_arrays((*batch, d))), -2, 2)
    directions = draw(generators()).standard_normal((*batch, n, d))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    distances = np.array(draw(st.permutations(range(1, n + 1)))) / 4
    return {
        "x": query[..., None, :] + distances[:, None] * directions,
        "y": draw(real_arrays((*batch, n))),
        "x_query": query,
        "n_neighbours": draw(st.integers(1, 5)),
        "power": draw(st.integers(0, 2)),
    }


register(
    Spec(
        name="learning_algorithms/knn_predict",
        reference=knn_predict,
        arguments=_neighbours(),
        relations=(
            REORDERED,
            Relation(
                "inputs reflected",
                lambda arguments: arguments | {name: reflect(arguments[name]) for name in _turning(arguments)},
                unchanged,
            ),
            Relation(
                "targets times 4",
                lambda arguments: arguments | {"y": 4 * arguments["y"]},
                lambda output, arguments: 4 * output,
            ),
        ),
        dtypes=FULL,  # in half precision the distances tie
    )
)


def online_ridge(x: Array, y: Array, penalty: float) -> Array:
    """:func:`online_predictions` of ridge regression."""
    return online_predictions(linear_predictor(ridge_weights, penalty=penalty), x, y)


@st.composite
def _online(draw: st.DrawFn) -> Arguments:
    batch, n, d = draw(BATCHES), draw(st.sampled_from((2, 5, 9))), draw(INPUTS)
    return {
        "x": draw(real_arrays((*batch, n, d))),
        "y": draw(real_arrays((*batch, n))),
        "penalty": draw(st.floats(1 / 8, 4)),
    }


def _sees_itself(x: Array, y: Array, penalty: float) -> Array:
    weights = [ridge_weights(x[..., :i, :], y[..., :i], penalty) for i in range(2, x.shape[-2] + 1)]
    return np.stack([(w * x[..., i + 1, :]).sum(axis=-1) for i, w in enumerate(weights)], axis=-1)


register(
    Spec(
        name="learning_algorithms/online_predictions",
        reference=online_ridge,
        arguments=_online(),
        relations=(
            Relation("inputs reflected", lambda arguments: arguments | {"x": reflect(arguments["x"])}, unchanged),
            Relation(
                "the last target changed: it is not seen",
                lambda arguments: (
                    arguments | {"y": np.concatenate([arguments["y"][..., :-1], 1 + arguments["y"][..., -1:]], axis=-1)}
                ),
                unchanged,
            ),
        ),
        dtypes=FULL,
        mistakes={("mask", "the example itself is among those fitted"): _sees_itself},
    )
)


# --- risks ---


@st.composite
def _ridge_risk(draw: st.DrawFn) -> Arguments:
    return {
        "eigenvalues": np.abs(draw(real_arrays((*draw(BATCHES), draw(INPUTS))))),
        "ridge": draw(st.floats(1 / 16, 4)),
        "noise_var": draw(st.floats(1 / 16, 4)),
        "prior_var": draw(st.floats(1 / 4, 4)),
    }


register(
    Spec(
        name="learning_algorithms/ridge_risk",
        reference=ridge_risk,
        arguments=_ridge_risk(),
        symbols=lambda: {
            "eigenvalues": symbols("s", 2),
            **{name: symbols(name).item() for name in ("ridge", "noise_var", "prior_var")},
        },
        relations=(
            Relation(
                "variances times 4",
                lambda arguments: (
                    arguments | {"noise_var": 4 * arguments["noise_var"], "prior_var": 4 * arguments["prior_var"]}
                ),
                lambda output, arguments: 4 * output,
            ),
        ),
    )
)


@st.composite
def _law(draw: st.DrawFn) -> Arguments:
    return {
        "n_examples": draw(st.integers(1, 40)),
        "n_inputs": draw(st.integers(1, 40)),
        "noise_var": draw(st.floats(1 / 16, 4)),
        "prior_var": draw(st.floats(1 / 4, 4)),
    }


def _with_rate(law: Arguments) -> Arguments:
    return {"learning_rate": 1 / (law["n_examples"] + 2.0), **law}


SYMBOLIC_LAW = ("n_examples", "n_inputs", "noise_var", "prior_var")
VARIANCES_TIMES_FOUR = Relation(
    "variances times 4",
    lambda arguments: arguments | {name: 4 * arguments[name] for name in ("noise_var", "prior_var")},
    lambda output, arguments: 4 * output,
)
register(
    Spec(
        name="learning_algorithms/one_layer_risk",
        reference=one_layer_risk,
        arguments=_law().map(_with_rate),
        symbols=lambda: {name: symbols(name).item() for name in ("learning_rate", *SYMBOLIC_LAW)},
        relations=(VARIANCES_TIMES_FOUR,),
    )
)
register(
    Spec(
        name="learning_algorithms/one_layer_rate",
        reference=one_layer_rate,
        arguments=_law(),
        symbols=lambda: {name: symbols(name).item() for name in SYMBOLIC_LAW},
        relations=(
            Relation(
                "examples for inputs",
                lambda a: a | {"n_examples": a["n_inputs"], "n_inputs": a["n_examples"]},
                unchanged,
            ),
        ),
    )
)
register(
    Spec(
        name="learning_algorithms/least_norm_risk",
        reference=least_norm_risk,
        arguments=_law().filter(lambda law: abs(law["n_inputs"] - law["n_examples"]) > 1),
        relations=(VARIANCES_TIMES_FOUR,),
    )
)


# --- metrics ---


@st.composite
def _predictions(draw: st.DrawFn) -> Arguments:
    shape = (*draw(BATCHES), draw(st.integers(1, 20)))
    return {"first": draw(real_arrays(shape)), "second": draw(real_arrays(shape))}


SYMMETRIC = Relation("in the other order", lambda a: a | {"first": a["second"], "second": a["first"]}, unchanged)
ZERO_OF_EQUALS = Relation(
    "an algorithm against itself", lambda a: a | {"second": a["first"]}, lambda output, arguments: 0 * output
)

register(
    Spec(
        name="learning_algorithms/squared_prediction_difference",
        reference=squared_prediction_difference,
        arguments=_predictions(),
        symbols=lambda: {"first": symbols("a", 3), "second": symbols("b", 3)},
        relations=(SYMMETRIC, ZERO_OF_EQUALS),
    )
)


@st.composite
def _prefixes(draw: st.DrawFn) -> Arguments:
    n_inputs = draw(st.integers(2, 6))
    shape = (*draw(BATCHES), draw(st.integers(n_inputs - 1, 9)))
    return {"first": draw(real_arrays(shape)), "second": draw(real_arrays(shape)), "n_inputs": n_inputs}


register(
    Spec(
        name="learning_algorithms/mean_prediction_difference_below",
        reference=mean_prediction_difference_below,
        arguments=_prefixes(),
        symbols=lambda: {"first": symbols("a", 3), "second": symbols("b", 3), "n_inputs": 3},
        relations=(SYMMETRIC, ZERO_OF_EQUALS),
    )
)


@st.composite
def _probed(draw: st.DrawFn) -> Arguments:
    """Probes that determine the weights well."""
    batch, d = draw(BATCHES), draw(INPUTS)
    n = d + draw(st.integers(0, 12))
    x = draw(generators()).standard_normal((*batch, n, d)) / 8
    x[..., range(d), range(d)] += 2
    return {"x_probe": x, "first": draw(real_arrays((*batch, n))), "second": draw(real_arrays((*batch, n)))}


register(
    Spec(
        name="learning_algorithms/implicit_linear_weight_difference",
        reference=implicit_linear_weight_difference,
        arguments=_probed(),
        symbols=lambda: {"x_probe": symbols("x", 2, 2), "first": symbols("a", 2), "second": symbols("b", 2)},
        relations=(
            SYMMETRIC,
            ZERO_OF_EQUALS,
            Relation("probes reflected", lambda a: a | {"x_probe": reflect(a["x_probe"])}, unchanged),
        ),
        dtypes=FULL,
    )
)
