"""The softmax regression problem, its derivatives, its descent, and the attention model that is compared with it."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.softmax_regression import (
    attention_model,
    attention_model_vjp,
    data_shift,
    equivalent_data_shift,
    gauss_newton,
    gradient_descent,
    hessian,
    hessian_core,
    hessian_quadratic_form,
    hessian_vector_product,
    loss_gradient,
    loss_gradient_vjp,
    normaliser,
    softmax_prediction,
    softmax_prediction_vjp,
    softmax_regression_loss,
    softmax_regression_loss_vjp,
)
from refimpl.incontext.softmax_regression.problem import outer
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.primitives.normalization import softmax
from refimpl.primitives.numbers import Array, row_dot, sqrt

ROWS = st.sampled_from((2, 3, 5, 25, 200))
COLUMNS = st.sampled_from((1, 2, 5, 20))
BATCHES = st.sampled_from(((), (1,), (3,), (2, 2)))
# Of a residual, and of its curvature, 8 or 11 bits leave nothing to judge where a prediction is close to its target.
SINGLE = ("float64", "float32")
LARGEST_LOGIT = 50


@st.composite
def forward_arguments(draw: st.DrawFn) -> Arguments:
    """``data`` and ``weights`` with logits of at most 50."""
    batch, n, d = draw(BATCHES), draw(ROWS), draw(COLUMNS)
    data, weights = draw(real_arrays((*batch, n, d))), draw(real_arrays((*batch, d)))
    largest = np.max(np.abs(data @ weights[..., None]))
    if largest > LARGEST_LOGIT:
        weights = weights / 2.0 ** np.ceil(np.log2(largest / LARGEST_LOGIT))
    return {"data": data, "weights": weights}


@st.composite
def simplex_points(draw: st.DrawFn, shape: tuple[int, ...], vertices: bool = True) -> Array:
    """Points of the simplex: spread out, near a vertex, or a vertex, if those are wanted."""
    kinds = ("spread", "spread", "near a vertex", "vertex")
    kind = draw(st.sampled_from(kinds if vertices else kinds[:-1]))
    scores = draw(real_arrays(shape, 6.0 if kind == "near a vertex" else 1.0))
    if kind == "vertex":
        return np.eye(shape[-1])[np.argmax(scores, axis=-1)]
    return softmax.unchecked(scores)


@st.composite
def problems(draw: st.DrawFn) -> Arguments:
    """``data``, ``weights`` and ``target``: on the simplex, or any vector of norm at most 1."""
    arguments = draw(forward_arguments())
    shape = arguments["data"].shape[:-1]
    if draw(st.booleans()):
        return arguments | {"target": draw(simplex_points(shape))}
    target = draw(real_arrays(shape))
    return arguments | {"target": target / np.maximum(1, np.linalg.norm(target, axis=-1, keepdims=True))}


@st.composite
def cores(draw: st.DrawFn, directions: bool = False) -> Arguments:
    """``prediction`` and ``target`` on the simplex, and a ``direction`` if wanted."""
    shape = (*draw(BATCHES), draw(ROWS))
    arguments = {"prediction": draw(simplex_points(shape, vertices=False)), "target": draw(simplex_points(shape))}
    return arguments | ({"direction": draw(real_arrays(shape))} if directions else {})


# --- relations ---


def reflect(x: Any, axis: int = -1) -> Any:
    r"""Multiply by the orthogonal matrix $I-\frac2n\mathbf 1\mathbf 1^\top$ along an axis."""
    return x - 2 * x.sum(axis=axis, keepdims=True) / x.shape[axis]


def unchanged(output: Any, arguments: Arguments) -> Any:
    return output


def reversed_rows(**axes: int) -> Any:
    """The rows of the problem in reverse: each argument flipped along its axis of rows."""
    return lambda arguments: arguments | {name: np.flip(arguments[name], axis) for name, axis in axes.items()}


def rotated(**axes: int) -> Any:
    """The columns of the data reflected, and with them what else has such an axis."""
    return lambda arguments: arguments | {name: reflect(arguments[name], axis) for name, axis in axes.items()}


def shifted(arguments: Arguments) -> Arguments:
    """A vector added to every row of the data; in halves, which round little."""
    data = arguments["data"]
    return arguments | {"data": data + np.arange(1, data.shape[-1] + 1, dtype=data.dtype) / 2}


def scaled(arguments: Arguments) -> Arguments:
    return arguments | {"data": 4 * arguments["data"], "weights": arguments["weights"] / 4}


SHIFTED = Relation("the same vector added to every row", shifted, unchanged)
PREDICTION_REVERSED = Relation(
    "rows in reverse", reversed_rows(data=-2), lambda output, arguments: np.flip(output, axis=-1)
)
PREDICTION_ROTATED = Relation("data and weights reflected", rotated(data=-1, weights=-1), unchanged)
PREDICTION_SCALED = Relation("data times 4, weights over 4", scaled, unchanged)
PROBLEM_REVERSED = Relation("rows in reverse", reversed_rows(data=-2, target=-1), unchanged)
GRADIENT_ROTATED = Relation(
    "data and weights reflected", rotated(data=-1, weights=-1), lambda output, arguments: reflect(output)
)
GRADIENT_SCALED = Relation("data times 4, weights over 4", scaled, lambda output, arguments: 4 * output)


# --- the problem ---


def _unnormalised(data: Array, weights: Array) -> Array:
    z = (data @ weights[..., None])[..., 0]
    return np.exp(z - z.max(axis=-1, keepdims=True))


def _forward_symbols() -> Arguments:
    return {"data": symbols("a", 2, 2), "weights": symbols("x", 2)}


register(
    Spec(
        name="softmax_regression/softmax_prediction",
        reference=softmax_prediction,
        arguments=forward_arguments(),
        vjp=softmax_prediction_vjp,
        symbols=_forward_symbols,
        relations=(SHIFTED, PREDICTION_REVERSED, PREDICTION_ROTATED, PREDICTION_SCALED),
        mistakes={("normalisation", "not divided by the sum"): _unnormalised},
    )
)

register(
    Spec(
        name="softmax_regression/normaliser",
        reference=normaliser,
        arguments=forward_arguments(),
        symbols=_forward_symbols,
        relations=(
            Relation("rows in reverse", reversed_rows(data=-2), unchanged),
            PREDICTION_ROTATED,
            PREDICTION_SCALED,
        ),
        mistakes={
            ("normalisation", "the mean of the exponentials, not their sum"): lambda data, weights: (
                normaliser(data, weights) - np.log(data.shape[-2])
            )
        },
    )
)


def _problem_symbols() -> Arguments:
    return {"data": symbols("a", 2, 1), "weights": symbols("x", 1), "target": symbols("b", 2)}


register(
    Spec(
        name="softmax_regression/softmax_regression_loss",
        reference=softmax_regression_loss,
        arguments=problems(),
        vjp=softmax_regression_loss_vjp,
        symbols=_problem_symbols,
        relations=(SHIFTED, PROBLEM_REVERSED, PREDICTION_ROTATED, PREDICTION_SCALED),
        dtypes=SINGLE,
        mistakes={
            ("loss", "the norm of the paper's title, not half its square"): lambda data, weights, target: (
                np.linalg.norm(softmax_prediction(data, weights) - target, axis=-1)
            )
        },
    )
)


# --- its derivatives ---


def _with_gradient_at_logits(of: Any) -> Any:
    """The gradient in the weights from another gradient at the logits."""

    def wrong(data: Array, weights: Array, target: Array) -> Array:
        prediction = softmax_prediction(data, weights)
        return (of(prediction, prediction - target)[..., None, :] @ data)[..., 0, :]

    return wrong


register(
    Spec(
        name="softmax_regression/loss_gradient",
        reference=loss_gradient,
        arguments=problems(),
        vjp=loss_gradient_vjp,
        symbols=_problem_symbols,
        relations=(SHIFTED, PROBLEM_REVERSED, GRADIENT_ROTATED, GRADIENT_SCALED),
        dtypes=SINGLE,
        mistakes={
            ("missing term", "f<f, c> left out"): _with_gradient_at_logits(lambda f, c: f * c),
            ("wrong loss", "the gradient of the cross-entropy"): _with_gradient_at_logits(lambda f, c: c),
            ("wrong loss", "the gradient of the norm, not of half its square"): _with_gradient_at_logits(
                lambda f, c: f * (c - row_dot(f, c)) / sqrt(row_dot(c, c))
            ),
        },
    )
)


def core_as_often_written(prediction: Array, target: Array) -> Array:
    r"""A version of $B$ that circulates: $+\langle c,f\rangle\operatorname{diag}f$, and $b\circ f$ in the outer
    products."""
    f, b = prediction, target
    factor = row_dot(3 * f - 2 * b, f)[..., None]
    core = factor * outer(f, f) + outer(b * f, f) + outer(f, b * f)
    index = np.arange(f.shape[-1])
    core[..., index, index] += row_dot(f - b, f) * f + (2 * f - b) * f
    return core


def _gauss_newton_core(prediction: Array, target: Array) -> Array:
    jacobian = np.eye(prediction.shape[-1]) * prediction[..., None] - outer(prediction, prediction)
    return jacobian @ jacobian


register(
    Spec(
        name="softmax_regression/hessian_core",
        reference=hessian_core,
        arguments=cores(),
        symbols=lambda: {"prediction": symbols("f", 3), "target": symbols("b", 3)},
        relations=(
            Relation(
                "entries in reverse",
                reversed_rows(prediction=-1, target=-1),
                lambda output, arguments: np.flip(output, axis=(-2, -1)),
            ),
        ),
        dtypes=SINGLE,
        mistakes={
            ("sign", "+<f - b, f> on the diagonal, b * f in the outer products"): core_as_often_written,
            ("missing term", "the Gauss-Newton part alone"): _gauss_newton_core,
        },
    )
)


register(
    Spec(
        name="softmax_regression/hessian_quadratic_form",
        reference=hessian_quadratic_form,
        arguments=cores(directions=True),
        symbols=lambda: {"prediction": symbols("f", 3), "target": symbols("b", 3), "direction": symbols("v", 3)},
        relations=(
            Relation("entries in reverse", reversed_rows(prediction=-1, target=-1, direction=-1), unchanged),
            Relation(
                "direction times 2",
                lambda arguments: arguments | {"direction": 2 * arguments["direction"]},
                lambda output, arguments: 4 * output,
            ),
            Relation(
                "direction shifted by 1",
                lambda arguments: arguments | {"direction": arguments["direction"] + 1},
                unchanged,
            ),
        ),
        dtypes=SINGLE,
    )
)


@st.composite
def hessian_products(draw: st.DrawFn) -> Arguments:
    """A problem and a ``direction`` in the weights."""
    arguments = draw(problems())
    return arguments | {"direction": draw(real_arrays(arguments["weights"].shape))}


def _gauss_newton_product(data: Array, weights: Array, target: Array, direction: Array) -> Array:
    return (gauss_newton(data, weights) @ direction[..., None])[..., 0]


register(
    Spec(
        name="softmax_regression/hessian_vector_product",
        reference=hessian_vector_product,
        arguments=hessian_products(),
        symbols=lambda: _problem_symbols() | {"direction": symbols("v", 1)},
        relations=(
            SHIFTED,
            PROBLEM_REVERSED,
            Relation(
                "data, weights and direction reflected",
                rotated(data=-1, weights=-1, direction=-1),
                lambda output, arguments: reflect(output),
            ),
            Relation(
                "direction times -2",
                lambda arguments: arguments | {"direction": -2 * arguments["direction"]},
                lambda output, arguments: -2 * output,
            ),
        ),
        dtypes=SINGLE,
        mistakes={("missing term", "the Gauss-Newton part alone"): _gauss_newton_product},
    )
)

register(
    Spec(
        name="softmax_regression/hessian",
        reference=hessian,
        arguments=problems(),
        symbols=_problem_symbols,
        relations=(
            SHIFTED,
            PROBLEM_REVERSED,
            Relation(
                "data and weights reflected",
                rotated(data=-1, weights=-1),
                lambda output, arguments: reflect(reflect(output, -1), -2),
            ),
            Relation("data times 4, weights over 4", scaled, lambda output, arguments: 16 * output),
        ),
        dtypes=SINGLE,
        mistakes={
            ("missing term", "the Gauss-Newton part alone"): lambda data, weights, target: gauss_newton(data, weights)
        },
    )
)


# --- descent, shifts, and the attention model ---


@st.composite
def descents(draw: st.DrawFn) -> Arguments:
    """A problem, and a learning rate at which the loss decreases."""
    arguments = draw(problems())
    largest = float(np.max(np.linalg.norm(arguments["data"], 2, axis=(-2, -1)))) ** 2 or 1.0
    return {
        "data": arguments["data"],
        "target": arguments["target"],
        "initial_weights": arguments["weights"],
        "learning_rate": draw(st.floats(1 / 16, 1)) / largest,
        "n_steps": draw(st.integers(0, 10)),
    }


def _ascent(data: Array, target: Array, initial_weights: Array, learning_rate: Any, n_steps: int) -> Array:
    trajectory = [initial_weights]
    for _ in range(n_steps):
        trajectory.append(trajectory[-1] + learning_rate * loss_gradient(data, trajectory[-1], target))
    return np.stack(trajectory)


register(
    Spec(
        name="softmax_regression/gradient_descent",
        reference=gradient_descent,
        arguments=descents(),
        symbols=lambda: {
            "data": symbols("a", 2, 1),
            "target": symbols("b", 2),
            "initial_weights": symbols("x", 1),
            "learning_rate": symbols("eta").item(),
            "n_steps": 1,
        },
        relations=(
            SHIFTED,
            PROBLEM_REVERSED,
            Relation(
                "data and weights reflected",
                rotated(data=-1, initial_weights=-1),
                lambda output, arguments: reflect(output),
            ),
        ),
        dtypes=SINGLE,
        mistakes={("sign", "the step goes up the gradient"): _ascent},
    )
)


@st.composite
def equivalent_shifts(draw: st.DrawFn) -> Arguments:
    """Data, weights other than 0, and a step."""
    arguments = draw(forward_arguments())
    weights = arguments["weights"]
    nothing = ~np.any(weights, axis=-1, keepdims=True)
    return {
        "data": arguments["data"],
        "weights": weights + nothing,
        "step": draw(real_arrays(weights.shape)),
    }


register(
    Spec(
        name="softmax_regression/equivalent_data_shift",
        reference=equivalent_data_shift,
        arguments=equivalent_shifts(),
        symbols=lambda: {"data": symbols("a", 2, 2), "weights": symbols("x", 2), "step": symbols("s", 2)},
        relations=(
            Relation(
                "weights and step times 2",
                lambda arguments: arguments | {"weights": 2 * arguments["weights"], "step": 2 * arguments["step"]},
                unchanged,
            ),
            Relation(
                "data, weights and step reflected",
                rotated(data=-1, weights=-1, step=-1),
                lambda output, arguments: reflect(output),
            ),
        ),
        mistakes={
            ("scale", "divided by the norm of the weights, not its square"): lambda data, weights, step: (
                equivalent_data_shift(data, weights, step) * np.linalg.norm(weights, axis=-1)[..., None, None]
            )
        },
    )
)


@st.composite
def attention_heads(draw: st.DrawFn) -> Arguments:
    """Data, and the four matrices of a head, at scores of order 1."""
    batch, n, d = draw(BATCHES), draw(ROWS), draw(COLUMNS)
    d_head, d_value = draw(st.sampled_from((1, 3))), draw(st.sampled_from((1, 2)))
    data = draw(real_arrays((*batch, n, d)))
    query, key = (draw(real_arrays((d_head, d), d**-0.5)) for _ in range(2))
    largest = float(np.max(np.abs((data @ query.T) @ np.swapaxes(data @ key.T, -1, -2))))
    if largest > LARGEST_LOGIT:
        query = query / 2.0 ** np.ceil(np.log2(largest / LARGEST_LOGIT))
    return {
        "data": data,
        "query": query,
        "key": key,
        "value": draw(real_arrays((d_value, d))),
        "projection": draw(real_arrays((d, d_value))),
    }


register(
    Spec(
        name="softmax_regression/data_shift",
        reference=data_shift,
        arguments=attention_heads(),
        symbols=lambda: {
            "data": symbols("a", 2, 1),
            "query": symbols("q", 1, 1),
            "key": symbols("k", 1, 1),
            "value": symbols("v", 1, 1),
            "projection": symbols("p", 1, 1),
        },
        relations=(
            Relation("rows in reverse", reversed_rows(data=-2), lambda output, arguments: np.flip(output, axis=-2)),
            Relation(
                "values times 2",
                lambda arguments: arguments | {"value": 2 * arguments["value"]},
                lambda output, arguments: 2 * output,
            ),
            Relation(
                "keys times 4, queries over 4",
                lambda arguments: arguments | {"key": 4 * arguments["key"], "query": arguments["query"] / 4},
                unchanged,
            ),
        ),
        mistakes={
            ("scale", "scores over the root of the size of a head"): lambda data, query, key, value, projection: (
                data_shift(data, query / np.sqrt(len(query)), key, value, projection)
            ),
            ("transposed", "queries and keys exchanged"): lambda data, query, key, value, projection: data_shift(
                data, key, query, value, projection
            ),
        },
    )
)


@st.composite
def attention_problems(draw: st.DrawFn) -> Arguments:
    """Data, target and a matrix with logits of at most 50."""
    arguments = draw(problems())
    data, target, d = arguments["data"], arguments["target"], arguments["data"].shape[-1]
    matrix = draw(real_arrays((d, d)))
    largest = float(np.max(np.abs(data @ (matrix @ (target[..., None, :] @ data).swapaxes(-1, -2)))))
    if largest > LARGEST_LOGIT:
        matrix = matrix / 2.0 ** np.ceil(np.log2(largest / LARGEST_LOGIT))
    return {"data": data, "target": target, "matrix": matrix}


register(
    Spec(
        name="softmax_regression/attention_model",
        reference=attention_model,
        arguments=attention_problems(),
        vjp=attention_model_vjp,
        symbols=lambda: {"data": symbols("a", 2, 1), "target": symbols("b", 2), "matrix": symbols("w", 1, 1)},
        relations=(
            Relation(
                "rows in reverse",
                reversed_rows(data=-2, target=-1),
                lambda output, arguments: np.flip(output, axis=-1),
            ),
            Relation(
                "data and matrix reflected",
                lambda arguments: (
                    arguments
                    | {"data": reflect(arguments["data"]), "matrix": reflect(reflect(arguments["matrix"], -1), -2)}
                ),
                unchanged,
            ),
        ),
        dtypes=SINGLE,
        mistakes={
            ("transposed", "the matrix transposed"): lambda data, target, matrix: attention_model(
                data, target, matrix.T
            )
        },
    )
)
