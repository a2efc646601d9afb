"""The loss and its curvature."""

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.large_step_logistic import (
    hessian_vector_product,
    logistic_gradient,
    logistic_gradient_vjp,
    logistic_hessian,
    logistic_loss,
    logistic_loss_vjp,
    normalized_margin,
    sample_margins,
    smoothness,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.oracle.specs.dynamics.large_step_logistic.setting import (
    BATCHES,
    DOUBLED,
    FEATURES,
    REVERSED,
    SAMPLES,
    SINGLE,
    changed,
    reflect,
    reverse,
    unchanged,
)
from refimpl.primitives.numbers import Array


@st.composite
def points(draw: st.DrawFn) -> Arguments:
    """``theta`` and ``z``."""
    batch, n, d = draw(BATCHES), draw(SAMPLES), draw(FEATURES)
    return {"theta": draw(real_arrays((*batch, d))), "z": draw(real_arrays((n, d)))}


@st.composite
def _directed_points(draw: st.DrawFn) -> Arguments:
    point = draw(points())
    return point | {"vector": draw(real_arrays(point["theta"].shape))}


def _symbolic_point() -> Arguments:
    return {"theta": symbols("t", 2), "z": symbols("z", 2, 2)}


ROTATED = changed(theta=reflect, z=reflect)


def _summed(theta: Array, z: Array) -> Array:
    return len(z) * logistic_loss(theta, z)


register(
    Spec(
        name="large_step_logistic/logistic_loss",
        reference=logistic_loss,
        arguments=points(),
        vjp=logistic_loss_vjp,
        symbols=_symbolic_point,
        dtypes=SINGLE,
        relations=(REVERSED, DOUBLED, Relation("features and weights reflected", ROTATED, unchanged)),
        mistakes={("constant factor", "the sum over samples in place of the mean"): _summed},
    )
)

register(
    Spec(
        name="large_step_logistic/logistic_gradient",
        reference=logistic_gradient,
        arguments=points(),
        vjp=logistic_gradient_vjp,
        symbols=_symbolic_point,
        dtypes=SINGLE,
        relations=(
            REVERSED,
            DOUBLED,
            Relation(
                "features and weights reflected",
                ROTATED,
                lambda output, arguments: reflect(output),
            ),
        ),
    )
)


def _reflect_both(output: Array, arguments: Arguments) -> Array:
    return np.swapaxes(reflect(np.swapaxes(reflect(output), -1, -2)), -1, -2)


register(
    Spec(
        name="large_step_logistic/logistic_hessian",
        reference=logistic_hessian,
        arguments=points(),
        symbols=_symbolic_point,
        dtypes=SINGLE,
        relations=(
            REVERSED,
            DOUBLED,
            Relation("features and weights reflected", ROTATED, _reflect_both),
            Relation("weights negated", changed(theta=lambda theta: -theta), unchanged),
        ),
    )
)

register(
    Spec(
        name="large_step_logistic/hessian_vector_product",
        reference=hessian_vector_product,
        arguments=_directed_points(),
        symbols=lambda: _symbolic_point() | {"vector": symbols("v", 2)},
        dtypes=SINGLE,
        relations=(
            REVERSED,
            DOUBLED,
            Relation("vector times 4", changed(vector=lambda v: 4 * v), lambda output, arguments: 4 * output),
        ),
    )
)

register(
    Spec(
        name="large_step_logistic/sample_margins",
        reference=sample_margins,
        arguments=points(),
        symbols=_symbolic_point,
        dtypes=SINGLE,
        relations=(
            Relation("features and weights reflected", ROTATED, unchanged),
            Relation("samples in reverse", changed(z=reverse), lambda output, arguments: output[..., ::-1]),
        ),
    )
)


@st.composite
def _directions(draw: st.DrawFn) -> Arguments:
    point = draw(points())
    theta = point["theta"]
    return point | {"theta": np.where(np.any(theta, axis=-1, keepdims=True), theta, 1.0)}


register(
    Spec(
        name="large_step_logistic/normalized_margin",
        reference=normalized_margin,
        arguments=_directions(),
        dtypes=SINGLE,
        relations=(
            REVERSED,
            DOUBLED,
            Relation("weights times 4", changed(theta=lambda theta: 4 * theta), unchanged),
            Relation("features doubled", changed(z=lambda z: 2 * z), lambda output, arguments: 2 * output),
        ),
    )
)

register(
    Spec(
        name="large_step_logistic/smoothness",
        reference=smoothness,
        arguments=points().map(lambda point: {"z": point["z"]}),
        dtypes=SINGLE,
        relations=(
            REVERSED,
            DOUBLED,
            Relation("features doubled", changed(z=lambda z: 2 * z), lambda output, arguments: 4 * output),
        ),
    )
)
