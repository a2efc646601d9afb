"""The methods that Newton is compared with."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.higher_order import bfgs, conjugate_gradient, online_gradient_descent
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.oracle.specs.incontext.higher_order.newton import (
    FRACTIONS,
    FULL_DTYPES,
    REVERSED,
    ROTATED,
    TARGETS,
    largest_eigenvalue,
    problems,
    reflect,
    rescaled,
    twice,
    unchanged,
)
from refimpl.primitives.least_squares import gradient_descent
from refimpl.primitives.numbers import Array


@st.composite
def _descents(draw: st.DrawFn) -> Arguments:
    problem = draw(problems())
    weights = draw(st.booleans())
    return problem | {
        "n_steps": draw(st.sampled_from((0, 1, 2, 5, 30))),
        "learning_rate": 2 * draw(FRACTIONS) / (largest_eigenvalue(problem["x"]) + 1),
        "initial_weights": draw(real_arrays((*problem["x"].shape[:-2], problem["x"].shape[-1]))) if weights else None,
        "penalty": draw(st.sampled_from((0.0, 1.0))),
    }


register(
    Spec(
        name="primitives/gradient_descent",
        reference=gradient_descent,
        arguments=_descents(),
        symbols=lambda: {
            "x": symbols("x", 2, 2),
            "y": symbols("y", 2),
            "n_steps": 1,
            "learning_rate": symbols("eta").item(),
        },
        dtypes=FULL_DTYPES,
        relations=(
            REVERSED,
            Relation(
                "inputs reflected, initial weights too",
                lambda arguments: (
                    arguments
                    | {
                        name: None if arguments[name] is None else reflect(arguments[name])
                        for name in ("x", "initial_weights")
                    }
                ),
                lambda output, arguments: reflect(output),
            ),
            Relation(
                "targets and initial weights times 4",
                lambda arguments: rescaled(arguments, y=4, initial_weights=4),
                lambda output, arguments: 4 * output,
            ),
            Relation(
                "examples twice, rate halved, penalty doubled",
                lambda arguments: rescaled(twice(arguments), learning_rate=1 / 2, penalty=2),
                unchanged,
            ),
        ),
        mistakes={
            ("constant factor", "the mean over examples, not their sum"): lambda x, **others: gradient_descent(
                x, **others | {"learning_rate": others["learning_rate"] / x.shape[-2]}
            ),
            (
                "constant factor",
                "the mean over examples, not their sum, with the penalty as it is",
            ): lambda x, **others: gradient_descent(
                x,
                **others
                | {
                    "learning_rate": others["learning_rate"] / x.shape[-2],
                    "penalty": others["penalty"] * x.shape[-2],
                },
            ),
        },
    )
)


@st.composite
def _online(draw: st.DrawFn) -> Arguments:
    problem = draw(problems())
    x = problem["x"]
    x = np.where(np.any(x, axis=-1, keepdims=True), x, np.eye(1, x.shape[-1]))
    rate = 2 * draw(FRACTIONS) / float(np.max(np.sum(x**2, axis=-1)))
    return problem | {"x": x, "learning_rate": draw(st.sampled_from((None, rate)))}


def _fixed_norm(x: Array, y: Array, learning_rate: Any) -> Array:
    """The adaptive rate with the norm in place of its square."""
    if learning_rate is not None:
        return online_gradient_descent(x, y, learning_rate)
    weights = 0 * x[..., 0, :]
    for k in range(x.shape[-2]):
        residual = (weights * x[..., k, :]).sum(axis=-1) - y[..., k]
        weights = weights - (residual / np.sqrt((x[..., k, :] ** 2).sum(axis=-1)))[..., None] * x[..., k, :]
    return weights


register(
    Spec(
        name="higher_order/online_gradient_descent",
        reference=online_gradient_descent,
        arguments=_online(),
        symbols=lambda: {"x": symbols("x", 2, 2), "y": symbols("y", 2), "learning_rate": symbols("eta").item()},
        dtypes=FULL_DTYPES,
        relations=(
            ROTATED,
            TARGETS,
            Relation(
                "inputs times 2, rate over 4",
                lambda arguments: rescaled(arguments, x=2, learning_rate=1 / 4),
                lambda output, arguments: output / 2,
            ),
        ),
        mistakes={
            ("axis", "examples in reverse"): lambda x, y, learning_rate: online_gradient_descent(
                np.flip(x, -2), np.flip(y, -1), learning_rate
            ),
            ("missing term", "divides by the norm, not by its square"): _fixed_norm,
        },
    )
)


@st.composite
def _krylov(draw: st.DrawFn) -> Arguments:
    problem = draw(problems(st.sampled_from((1, 2, 3, 5, 10))))
    return problem | {"n_steps": draw(st.integers(0, 4))}


INPUTS_DOUBLED = Relation(
    "inputs times 2", lambda arguments: rescaled(arguments, x=2), lambda output, arguments: output / 2
)
EXAMPLES_TWICE = Relation("examples twice", twice, unchanged)

register(
    Spec(
        name="higher_order/conjugate_gradient",
        reference=conjugate_gradient,
        arguments=_krylov(),
        symbols=lambda: {"x": symbols("x", 2, 2), "y": symbols("y", 2), "n_steps": 1},
        dtypes=FULL_DTYPES,
        relations=(ROTATED, TARGETS, REVERSED, INPUTS_DOUBLED, EXAMPLES_TWICE),
        mistakes={
            ("missing term", "steepest descent: directions are not conjugate"): lambda x, y, n_steps: _steepest(
                x, y, n_steps
            )
        },
    )
)


def _steepest(x: Array, y: Array, n_steps: int) -> Array:
    weights = 0 * x[..., 0, :]
    for _ in range(n_steps):
        weights = weights + conjugate_gradient(x, y - (x @ weights[..., None])[..., 0], 1)
    return weights


register(
    Spec(
        name="higher_order/bfgs",
        reference=bfgs,
        arguments=_krylov(),
        symbols=lambda: {"x": symbols("x", 2, 2), "y": symbols("y", 2), "n_steps": 1},
        dtypes=FULL_DTYPES,
        relations=(
            REVERSED,
            Relation(
                "inputs reflected",
                lambda arguments: arguments | {"x": reflect(arguments["x"])},
                lambda output, arguments: (reflect(output[0]), reflect(reflect(output[1]), -2)),
            ),
            Relation(
                "targets times 4",
                lambda arguments: rescaled(arguments, y=4),
                lambda output, arguments: (4 * output[0], output[1]),
            ),
        ),
    )
)
