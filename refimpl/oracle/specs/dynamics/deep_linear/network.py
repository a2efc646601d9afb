"""Loss, gradients, curvature and descent of a deep linear network."""

import itertools
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.deep_linear import (
    gradients,
    hessian_vector_product,
    loss,
    loss_vjp,
    train_gd,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register, symbols
from refimpl.primitives.numbers import Array

WIDTHS = st.sampled_from((1, 2, 3, 5, 8, 32))
BATCHES = st.sampled_from(((), (1,), (3,), (2, 2)))
FULL_DTYPES = ("float64", "float32")


def reflect(x: Any, axis: int = -1) -> Any:
    r"""Multiply by the orthogonal matrix $I-\frac2n\mathbf 1\mathbf 1^\top$ along an axis."""
    return x - 2 * x.sum(axis=axis, keepdims=True) / x.shape[axis]


def unchanged(output: Any, arguments: Arguments) -> Any:
    return output


@st.composite
def correlations(draw: st.DrawFn, n_inputs: int, n_outputs: int) -> Arguments:
    """Of inputs and outputs, means over a few examples; exactly symmetric."""
    rng = draw(generators())
    n = draw(st.sampled_from((1, 4, 40)))
    x, y = rng.standard_normal((n_inputs, n)), rng.standard_normal((n_outputs, n))
    sigma_11 = x @ x.T / n
    return {"sigma_11": (sigma_11 + sigma_11.T) / 2, "sigma_31": y @ x.T / n}


@st.composite
def shallow_problems(draw: st.DrawFn) -> Arguments:
    """One to three matrices with degenerate cases among them."""
    batch, widths = draw(BATCHES), [draw(WIDTHS) for _ in range(draw(st.integers(2, 4)))]
    weights = [draw(real_arrays((*batch, n, m), scale=1 / np.sqrt(m))) for m, n in itertools.pairwise(widths)]
    return {"weights": weights} | draw(correlations(widths[0], widths[-1]))


@st.composite
def deep_problems(draw: st.DrawFn, depths: tuple[int, ...] = (1, 2, 3, 10, 40, 100)) -> Arguments:
    """Up to a hundred matrices that neither blow up nor vanish much."""
    rng = draw(generators())
    batch, depth = draw(BATCHES), draw(st.sampled_from(depths))
    widths = rng.choice([1, 2, 3, 5, 8] if depth < 10 else [8, 16, 32], depth + 1)
    weights = [rng.standard_normal((*batch, n, m)) / np.sqrt(m) for m, n in itertools.pairwise(widths)]
    return {"weights": weights} | draw(correlations(int(widths[0]), int(widths[-1])))


def turned_ends(arguments: Arguments) -> Arguments:
    """Inputs and outputs reflected."""
    weights = list(arguments["weights"])
    weights[-1] = reflect(weights[-1], -2)
    weights[0] = reflect(weights[0])
    changed = {
        "weights": weights,
        "sigma_11": _symmetric(reflect(reflect(arguments["sigma_11"]), -2)),
        "sigma_31": reflect(reflect(arguments["sigma_31"]), -2),
    }
    return arguments | changed


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


def turn_ends(output: Any, arguments: Arguments) -> Any:
    output = list(output)
    output[-1] = reflect(output[-1], -2)
    output[0] = reflect(output[0])
    return output


def turned_inside(arguments: Arguments) -> Arguments:
    """Every hidden layer reflected."""
    return arguments | {"weights": turn_inside(arguments["weights"], arguments)}


def turn_inside(output: Any, arguments: Arguments) -> Any:
    last = len(output) - 1
    half = [reflect(one, -2) if layer < last else one for layer, one in enumerate(output)]
    return [reflect(one) if layer else one for layer, one in enumerate(half)]


ENDS = Relation("inputs and outputs reflected", turned_ends, turn_ends)
INSIDE = Relation("hidden layers reflected", turned_inside, turn_inside)


def _small() -> Arguments:
    """Two matrices of symbols; the correlation of inputs, whose entries do not vary one by one, of numbers."""
    import sympy

    sigma_11 = np.array([[sympy.Integer(3), sympy.Integer(1)], [sympy.Integer(1), sympy.Integer(2)]], dtype=object)
    return {
        "weights": [symbols("v", 2, 2), symbols("w", 1, 2)],
        "sigma_11": sigma_11,
        "sigma_31": symbols("m", 1, 2),
    }


@st.composite
def _losses(draw: st.DrawFn) -> Arguments:
    return draw(shallow_problems()) | {"trace_yy": draw(st.sampled_from((0.0, 1.0, 12.5)))}


register(
    Spec(
        name="deep_linear/loss",
        reference=loss,
        arguments=_losses(),
        vjp=loss_vjp,
        symbols=lambda: _small() | {"trace_yy": 3},
        constants=("sigma_11",),
        dtypes=FULL_DTYPES,
        relations=(
            Relation("inputs and outputs reflected", turned_ends, unchanged),
            Relation("hidden layers reflected", turned_inside, unchanged),
        ),
        mistakes={
            ("constant factor", "the squared error without its half"): lambda weights, sigma_11, sigma_31, trace_yy: (
                2 * loss(weights, sigma_11, sigma_31, trace_yy)
            ),
        },
    )
)


register(
    Spec(
        name="deep_linear/gradients",
        reference=gradients,
        arguments=deep_problems(),
        symbols=_small,
        dtypes=FULL_DTYPES,
        relations=(ENDS, INSIDE),
        mistakes={
            ("missing term", "inputs taken as white"): lambda weights, sigma_11, sigma_31: gradients(
                weights, np.eye(len(sigma_11), dtype=sigma_11.dtype), sigma_31
            ),
            ("sign", "the learning rule, which descends"): lambda weights, sigma_11, sigma_31: [
                -one for one in gradients(weights, sigma_11, sigma_31)
            ],
        },
    )
)


@st.composite
def _products(draw: st.DrawFn) -> Arguments:
    problem = draw(shallow_problems())
    directions = [draw(real_arrays(one.shape)) for one in problem["weights"]]
    return {"weights": problem["weights"], "directions": directions} | problem


def _both(turn: Any) -> Any:
    """Turn the directions as the weights."""

    def transform(arguments: Arguments) -> Arguments:
        directions = turn(arguments | {"weights": arguments["directions"]})["weights"]
        return turn(arguments) | {"directions": directions}

    return transform


register(
    Spec(
        name="deep_linear/hessian_vector_product",
        reference=hessian_vector_product,
        arguments=_products(),
        symbols=lambda: {
            "weights": _small()["weights"],
            "directions": [symbols("x", 2, 2), symbols("y", 1, 2)],
            **{name: _small()[name] for name in ("sigma_11", "sigma_31")},
        },
        dtypes=FULL_DTYPES,
        relations=(
            Relation(ENDS.name, _both(turned_ends), turn_ends),
            Relation(INSIDE.name, _both(turned_inside), turn_inside),
            Relation(
                "direction times 4",
                lambda arguments: arguments | {"directions": [4 * one for one in arguments["directions"]]},
                lambda output, arguments: [4 * one for one in output],
            ),
        ),
        mistakes={
            ("missing term", "Gauss-Newton: the residual's part left out"): (
                lambda weights, directions, sigma_11, sigma_31: hessian_vector_product(
                    weights, directions, sigma_11, _fitted(weights, sigma_11)
                )
            ),
        },
    )
)


def _fitted(weights: Any, sigma_11: Array) -> Array:
    """The correlation that the first network of a batch has learned."""
    product = weights[0]
    for weight in weights[1:]:
        product = weight @ product
    return np.asarray(product.reshape(-1, *product.shape[-2:])[0] @ sigma_11)


@st.composite
def _descents(draw: st.DrawFn) -> Arguments:
    problem = draw(deep_problems((1, 2, 3, 10)))
    # Small against the curvature, so that descent does not diverge where the domain's largest weights multiply.
    size = max(1.0, max(float(np.max(np.sum(one * one, axis=(-2, -1)))) for one in problem["weights"]))
    trace = max(1.0, float(np.trace(problem["sigma_11"])))
    rate = draw(st.sampled_from((1 / 4, 1 / 32))) / (
        len(problem["weights"]) * size ** (len(problem["weights"])) * trace
    )
    return problem | {"learning_rate": rate, "n_steps": draw(st.sampled_from((0, 1, 2, 5, 20)))}


register(
    Spec(
        name="deep_linear/train_gd",
        reference=train_gd,
        arguments=_descents(),
        symbols=lambda: _small() | {"learning_rate": symbols("lambda").item(), "n_steps": 1},
        dtypes=FULL_DTYPES,
        relations=(ENDS, INSIDE),
        mistakes={
            ("sign", "ascends"): lambda weights, sigma_11, sigma_31, learning_rate, n_steps: _ascent(
                weights, sigma_11, sigma_31, learning_rate, n_steps
            ),
        },
    )
)


def _ascent(weights: Any, sigma_11: Array, sigma_31: Array, learning_rate: float, n_steps: int) -> list[Array]:
    history = [list(weights)]
    for _ in range(n_steps):
        slopes = gradients(history[-1], sigma_11, sigma_31)
        history.append([w + learning_rate * g for w, g in zip(history[-1], slopes, strict=True)])
    return [np.stack(layer) for layer in zip(*history, strict=True)]
