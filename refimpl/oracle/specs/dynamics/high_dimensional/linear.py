"""The linear student: its loss, and its weights over training."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.high_dimensional import (
    displacement_norm,
    frozen_projector,
    gradient_descent_weights,
    gradient_flow_weights,
    input_eigenvalues,
    student_loss,
    student_loss_vjp,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.primitives.numbers import Array

# Of a small residual, or of a small eigenvalue over a long time, 8 or 11 bits leave nothing to judge.
SINGLE = ("float64", "float32")
BATCHES = st.sampled_from(((), (1,), (3,)))
SIZES = st.sampled_from((1, 2, 3, 5, 12, 30))


@st.composite
def inputs(draw: st.DrawFn) -> Array:
    """Inputs in columns, at the paper's scale."""
    batch, n_inputs, n_examples = draw(BATCHES), draw(SIZES), draw(SIZES)
    return draw(real_arrays((*batch, n_inputs, n_examples), n_inputs**-0.5))


@st.composite
def problems(draw: st.DrawFn) -> Arguments:
    """``x``, ``y`` and ``initial``."""
    x = draw(inputs())
    return {
        "x": x,
        "y": draw(real_arrays((*x.shape[:-2], x.shape[-1]))),
        "initial": draw(real_arrays(x.shape[:-1])),
    }


@st.composite
def times(draw: st.DrawFn, largest: float = 1e6) -> Array:
    """Zero, or anything from a hundredth on, evenly in the logarithm."""
    shape = draw(st.sampled_from(((), (1,), (3,))))
    exponents = st.floats(-2, np.log10(largest), allow_subnormal=False)
    values = [draw(st.one_of(st.just(0.0), exponents.map(lambda e: 10.0**e))) for _ in range(int(np.prod(shape)))]
    return np.array(values).reshape(shape)


TIME_CONSTANTS = st.sampled_from((1.0, 1.0, 0.5, 10.0))


def reflect(x: Array, axis: int = -1) -> Array:
    r"""Multiply by the orthogonal matrix $I-\frac2n\mathbf 1\mathbf 1^\top$ along an axis."""
    return x - 2 * x.sum(axis=axis, keepdims=True) / x.shape[axis]


def unchanged(output: Any, arguments: Arguments) -> Any:
    return output


def changed(**changes: Callable[[Any], Any]) -> Callable[[Arguments], Arguments]:
    """These arguments through these functions."""
    return lambda arguments: arguments | {name: change(arguments[name]) for name, change in changes.items()}


def times_four(x: Any) -> Any:
    return 4 * x


def reverse(x: Array) -> Array:
    return np.flip(x, -1)


REVERSED = Relation("examples in reverse", changed(x=reverse, y=reverse), unchanged)
ROTATED = Relation(
    "inputs and weights reflected",
    changed(x=lambda x: reflect(x, -2), initial=reflect),
    lambda output, arguments: reflect(output),
)
SCALED = Relation(
    "labels and initial weights times 4",
    changed(y=times_four, initial=times_four),
    lambda output, arguments: 4 * output,
)


@st.composite
def _losses(draw: st.DrawFn) -> Arguments:
    problem = draw(problems())
    return {
        "weights": problem["initial"],
        "x": problem["x"],
        "y": problem["y"],
        "penalty": draw(st.sampled_from((0.0, 1.0))),
    }


register(
    Spec(
        name="high_dimensional/student_loss",
        reference=student_loss,
        arguments=_losses(),
        vjp=student_loss_vjp,
        symbols=lambda: {
            "weights": symbols("w", 2),
            "x": symbols("x", 2, 2),
            "y": symbols("y", 2),
            "penalty": symbols("g").item(),
        },
        dtypes=SINGLE,
        relations=(
            REVERSED,
            Relation("inputs and weights reflected", changed(x=lambda x: reflect(x, -2), weights=reflect), unchanged),
            Relation(
                "labels and weights times 4",
                changed(y=times_four, weights=times_four),
                lambda output, arguments: 16 * output,
            ),
        ),
        mistakes={
            ("constant factor", "the mean over examples"): lambda weights, x, y, penalty: (
                student_loss(weights, x, y, penalty * y.shape[-1]) / y.shape[-1]
            )
        },
    )
)


@st.composite
def _flows(draw: st.DrawFn) -> Arguments:
    return draw(problems()) | {"t": draw(times()), "tau": draw(TIME_CONSTANTS)}


def _mean_gradient(x: Array, y: Array, initial: Array, t: Array, tau: float) -> Array:
    return gradient_flow_weights(x, y, initial, t, tau * x.shape[-1])


register(
    Spec(
        name="high_dimensional/gradient_flow_weights",
        reference=gradient_flow_weights,
        arguments=_flows(),
        dtypes=SINGLE,
        relations=(
            REVERSED,
            ROTATED,
            SCALED,
            Relation("times and time constant doubled", changed(t=lambda t: 2 * t, tau=lambda tau: 2 * tau), unchanged),
            Relation(
                "inputs times 2, initial weights halved, times over 4",
                changed(x=lambda x: 2 * x, initial=lambda w: w / 2, t=lambda t: t / 4),
                lambda output, arguments: output / 2,
            ),
            Relation(
                "at time 0",
                changed(t=lambda t: 0 * t),
                lambda output, arguments: 0 * output + arguments["initial"],
            ),
        ),
        mistakes={("constant factor", "gradient of the mean over examples"): _mean_gradient},
    )
)


@st.composite
def _descents(draw: st.DrawFn) -> Arguments:
    problem = draw(problems())
    largest = np.max(np.linalg.norm(problem["x"], 2, axis=(-2, -1))) ** 2
    fraction = draw(st.sampled_from((0.01, 0.3, 0.5, 0.9)))
    return problem | {
        "learning_rate": float(2 * fraction / (largest if largest > 0 else 1)),
        "n_steps": draw(st.sampled_from((0, 1, 2, 10, 1000))),
    }


register(
    Spec(
        name="high_dimensional/gradient_descent_weights",
        reference=gradient_descent_weights,
        arguments=_descents(),
        dtypes=SINGLE,
        relations=(
            REVERSED,
            ROTATED,
            SCALED,
            Relation(
                "inputs times 2, initial weights halved, rate over 4",
                changed(x=lambda x: 2 * x, initial=lambda w: w / 2, learning_rate=lambda rate: rate / 4),
                lambda output, arguments: output / 2,
            ),
        ),
        mistakes={
            (
                "missing term",
                "the flow's filter in place of the steps'",
            ): lambda x, y, initial, learning_rate, n_steps: gradient_flow_weights(
                x, y, initial, float(learning_rate * n_steps)
            )
        },
    )
)

register(
    Spec(
        name="high_dimensional/displacement_norm",
        reference=displacement_norm,
        arguments=_flows(),
        dtypes=SINGLE,
        relations=(
            REVERSED,
            Relation("inputs and weights reflected", changed(x=lambda x: reflect(x, -2), initial=reflect), unchanged),
            SCALED,
        ),
    )
)

register(
    Spec(
        name="high_dimensional/frozen_projector",
        reference=frozen_projector,
        # With as many examples as inputs there is nothing frozen, and nothing but roundoff to compare.
        arguments=st.fixed_dictionaries({"x": inputs().filter(lambda x: x.shape[-1] < x.shape[-2])}),
        dtypes=SINGLE,
        relations=(
            Relation("examples in reverse", changed(x=reverse), unchanged),
            Relation("inputs times 4", changed(x=times_four), unchanged),
            Relation(
                "inputs reflected",
                changed(x=lambda x: reflect(x, -2)),
                lambda output, arguments: reflect(reflect(output), -2),
            ),
        ),
    )
)

register(
    Spec(
        name="high_dimensional/input_eigenvalues",
        reference=input_eigenvalues,
        arguments=st.fixed_dictionaries({"x": inputs()}),
        dtypes=SINGLE,
        relations=(
            Relation("examples in reverse", changed(x=reverse), unchanged),
            Relation("inputs reflected", changed(x=lambda x: reflect(x, -2)), unchanged),
            Relation("inputs times 4", changed(x=times_four), lambda output, arguments: 16 * output),
        ),
        mistakes={
            ("constant factor", "the mean over examples"): lambda x: input_eigenvalues(x) / x.shape[-1],
        },
    )
)
