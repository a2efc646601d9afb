"""What the paper offers to be compared with: the loss and its curvature, the weights, the five loops, the bounds."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.large_step_logistic import (
    batch_perceptron,
    batch_perceptron_bound,
    batch_perceptron_bound_tight,
    batch_perceptron_weights,
    hessian_vector_product,
    iterates,
    logistic_gradient,
    logistic_gradient_vjp,
    logistic_hessian,
    logistic_loss,
    logistic_loss_vjp,
    lr_gd,
    lr_gd_bound,
    lr_gd_weights,
    margin,
    normalized_batch_perceptron,
    normalized_batch_perceptron_weights,
    normalized_lr_gd,
    normalized_lr_gd_bound,
    normalized_lr_gd_weights,
    normalized_margin,
    perceptron,
    perceptron_bound,
    perceptron_weights,
    sample_margins,
    smoothness,
)
from refimpl.dynamics.large_step_logistic.algorithms import Selection, Weights
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.primitives.numbers import Array
from refimpl.tasks.classification import sample_separable_data, signed_features

# Where a margin's sign decides, 8 or 11 bits decide differently.
SINGLE = ("float64", "float32")
BATCHES = st.sampled_from(((), (1,), (3,)))
SAMPLES = st.sampled_from((1, 2, 3, 8, 24, 200))
FEATURES = st.sampled_from((1, 2, 3, 5, 30))
SELECTIONS: tuple[Selection, ...] = ("first", "worst")
STEP_SIZES = st.sampled_from((1e-3, 0.1, 1.0, 30.0, 1e3, 1e6))


def unchanged(output: Any, arguments: Arguments) -> Any:
    return output


def changed(**changes: Callable[[Any], Any]) -> Callable[[Arguments], Arguments]:
    """These arguments through these functions."""
    return lambda arguments: arguments | {name: change(arguments[name]) for name, change in changes.items()}


def reflect(x: Array) -> Array:
    r"""Multiply by the orthogonal matrix $I-\frac2d\mathbf 1\mathbf 1^\top$ along the last axis."""
    return x - 2 * x.sum(axis=-1, keepdims=True) / x.shape[-1]


def twice(z: Array) -> Array:
    """The data set two times."""
    return np.concatenate([z, z])


def reverse(z: Array) -> Array:
    return z[::-1]


REVERSED = Relation("samples in reverse", changed(z=reverse), unchanged)
DOUBLED = Relation("every sample twice", changed(z=twice), unchanged)

# --- loss and curvature ---


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

# --- weights ---


@st.composite
def _margins(draw: st.DrawFn) -> Arguments:
    batch, n = draw(BATCHES), draw(SAMPLES)
    return {"margins": draw(real_arrays((*batch, n), draw(st.sampled_from((1.0, 30.0)))))}


@st.composite
def _descent_margins(draw: st.DrawFn) -> Arguments:
    return draw(_margins()) | {"step_size": draw(STEP_SIZES)}


@st.composite
def _margins_at_a_step(draw: st.DrawFn) -> Arguments:
    return draw(_margins()) | {"step": draw(st.integers(0, 2))}


ORDER = Relation(
    "samples in reverse",
    changed(margins=lambda margins: margins[..., ::-1]),
    lambda output, arguments: output[..., ::-1],
)
LARGER = Relation("margins times 4", changed(margins=lambda margins: 4 * margins), unchanged)
LONGER = Relation(
    "step size times 4", changed(step_size=lambda step_size: 4 * step_size), lambda output, arguments: 4 * output
)

for _name, _weights in {"lr_gd_weights": lr_gd_weights, "normalized_lr_gd_weights": normalized_lr_gd_weights}.items():
    register(
        Spec(
            name=f"large_step_logistic/{_name}",
            reference=_weights,
            arguments=_descent_margins(),
            symbols=lambda: {"margins": symbols("m", 2), "step_size": symbols("g").item()},
            dtypes=SINGLE,
            relations=(ORDER, LONGER),
        )
    )

register(
    Spec(
        name="large_step_logistic/batch_perceptron_weights",
        reference=batch_perceptron_weights,
        arguments=_margins_at_a_step(),
        symbols=lambda: {"margins": symbols("m", 2), "step": 1},
        dtypes=SINGLE,
        relations=(ORDER, LARGER),
        mistakes={
            ("missing term", "the half of the first step"): lambda margins, step: batch_perceptron_weights(margins, 1)
        },
    )
)

register(
    Spec(
        name="large_step_logistic/normalized_batch_perceptron_weights",
        reference=normalized_batch_perceptron_weights,
        arguments=_margins(),
        dtypes=SINGLE,
        relations=(ORDER, LARGER),
    )
)


@st.composite
def _single_margins(draw: st.DrawFn) -> Arguments:
    return draw(_margins()) | {"selection": draw(st.sampled_from(SELECTIONS))}


register(
    Spec(
        name="large_step_logistic/perceptron_weights",
        reference=perceptron_weights,
        arguments=_single_margins(),
        dtypes=SINGLE,
        relations=(LARGER,),
    )
)

# --- the five loops ---


@st.composite
def separable_sets(draw: st.DrawFn, largest: int = 24, least_gap: float = 1e-2) -> Array:
    """Signed features of a random separable set of at most `largest` samples."""
    n, d = draw(st.integers(1, largest)), draw(st.integers(1, 5))
    gap = 10.0 ** draw(st.floats(np.log10(least_gap), 0))
    data = sample_separable_data(n, d, gap, np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    return signed_features(*data)


def lr_gd_iterates(z: Array, n_steps: int, step_size: float) -> Array:
    return iterates(z, lambda margins, t: lr_gd_weights(margins, step_size), n_steps)


def normalized_lr_gd_iterates(z: Array, n_steps: int, step_size: float) -> Array:
    return iterates(z, lambda margins, t: normalized_lr_gd_weights(margins, step_size), n_steps)


def batch_perceptron_iterates(z: Array, n_steps: int) -> Array:
    return iterates(z, batch_perceptron_weights, n_steps)


def normalized_batch_perceptron_iterates(z: Array, n_steps: int) -> Array:
    return iterates(z, lambda margins, t: normalized_batch_perceptron_weights(margins), n_steps)


def perceptron_iterates(z: Array, n_steps: int, selection: Selection) -> Array:
    return iterates(z, lambda margins, t: perceptron_weights(margins, selection), n_steps)


UNDECIDED = 1e-4  # a thousand roundoffs of float32, relative to the largest margin that the norms allow


def clear_steps(z: Array, weights: Weights, n_steps: int) -> int:
    """How many steps there are before a margin is so near to 0 that low precision may judge it differently.

    Of the first step every algorithm knows the margins exactly, for they are 0.
    """
    found = iterates(z, weights, n_steps)[1:]
    largest = np.linalg.norm(found, axis=1) * np.max(np.linalg.norm(z, axis=1))
    near = np.min(np.abs(found @ z.T), axis=1) < UNDECIDED * largest
    return int(np.argmax(near)) + 1 if np.any(near) else n_steps


@st.composite
def _descents(draw: st.DrawFn, weights: Callable[[Array, float], Array]) -> Arguments:
    z, step_size = draw(separable_sets()), draw(STEP_SIZES)
    n_steps = clear_steps(z, lambda margins, t: weights(margins, step_size), draw(st.sampled_from((1, 3, 8))))
    return {"z": z, "n_steps": n_steps, "step_size": step_size}


@st.composite
def _perceptions(draw: st.DrawFn, weights: Weights) -> Arguments:
    z = draw(separable_sets())
    return {"z": z, "n_steps": clear_steps(z, weights, draw(st.sampled_from((1, 3, 20, 200))))}


@st.composite
def _single_perceptions(draw: st.DrawFn) -> Arguments:
    z, selection = draw(separable_sets()), draw(st.sampled_from(SELECTIONS))
    n_steps = clear_steps(z, lambda margins, t: perceptron_weights(margins, selection), 40)
    return {"z": z, "n_steps": n_steps, "selection": selection}


REFLECTED = Relation("features reflected", changed(z=reflect), lambda output, arguments: reflect(output))
GROWN = Relation("features doubled", changed(z=lambda z: 2 * z), lambda output, arguments: 2 * output)
FINER = Relation(
    "features doubled, step size a quarter",
    changed(z=lambda z: 2 * z, step_size=lambda step_size: step_size / 4),
    lambda output, arguments: output / 2,
)

_DESCENTS: tuple[tuple[Callable[..., Array], Callable[..., Array]], ...] = (
    (lr_gd_iterates, lr_gd_weights.unchecked),
    (normalized_lr_gd_iterates, normalized_lr_gd_weights.unchecked),
)
for _descent, _rule in _DESCENTS:
    register(
        Spec(
            name=f"large_step_logistic/{_descent.__name__}",
            reference=_descent,
            arguments=_descents(_rule),
            dtypes=SINGLE,
            relations=(REVERSED, DOUBLED, REFLECTED, FINER),
        )
    )

_PERCEPTRONS: tuple[tuple[Callable[..., Array], Weights], ...] = (
    (batch_perceptron_iterates, batch_perceptron_weights),
    (normalized_batch_perceptron_iterates, lambda margins, t: normalized_batch_perceptron_weights(margins)),
)
for _perceptron, _rule in _PERCEPTRONS:
    register(
        Spec(
            name=f"large_step_logistic/{_perceptron.__name__}",
            reference=_perceptron,
            arguments=_perceptions(_rule),
            dtypes=SINGLE,
            relations=(REVERSED, DOUBLED, REFLECTED, GROWN),
        )
    )

register(
    Spec(
        name="large_step_logistic/perceptron_iterates",
        reference=perceptron_iterates,
        arguments=_single_perceptions(),
        dtypes=SINGLE,
        relations=(REFLECTED, GROWN, DOUBLED),
    )
)

# --- how many iterations ---


def lr_gd_count(z: Array, max_iterations: int, step_size: float) -> int:
    return lr_gd(z, step_size, max_iterations).n_iterations


def normalized_lr_gd_count(z: Array, max_iterations: int, step_size: float) -> int:
    return normalized_lr_gd(z, step_size, max_iterations).n_iterations


def batch_perceptron_count(z: Array, max_iterations: int) -> int:
    return batch_perceptron(z, max_iterations).n_iterations


def normalized_batch_perceptron_count(z: Array, max_iterations: int) -> int:
    return normalized_batch_perceptron(z, max_iterations).n_iterations


def perceptron_count(z: Array, max_iterations: int, selection: Selection) -> int:
    return perceptron(z, max_iterations, selection).n_iterations


def counted(arguments: Arguments) -> Arguments:
    """A cut run's number of steps as the largest number of iterations."""
    return {"z": arguments["z"], "max_iterations": arguments["n_steps"]} | {
        name: value for name, value in arguments.items() if name not in ("z", "n_steps")
    }


AS_MANY = (REVERSED, DOUBLED, Relation("features reflected", changed(z=reflect), unchanged))
AS_MANY_GROWN = Relation("features doubled", changed(z=lambda z: 2 * z), unchanged)
AS_MANY_FINER = Relation("features doubled, step size a quarter", FINER.transform, unchanged)

register(
    Spec(
        name="large_step_logistic/lr_gd_count",
        reference=lr_gd_count,
        arguments=_descents(lr_gd_weights.unchecked).map(counted),
        dtypes=SINGLE,
        relations=(*AS_MANY, AS_MANY_FINER),
    )
)

register(
    Spec(
        name="large_step_logistic/normalized_lr_gd_count",
        reference=normalized_lr_gd_count,
        arguments=_descents(normalized_lr_gd_weights.unchecked).map(counted),
        dtypes=SINGLE,
        relations=(*AS_MANY, AS_MANY_FINER),
    )
)

register(
    Spec(
        name="large_step_logistic/batch_perceptron_count",
        reference=batch_perceptron_count,
        arguments=_perceptions(batch_perceptron_weights).map(counted),
        dtypes=SINGLE,
        relations=(*AS_MANY, AS_MANY_GROWN),
    )
)

register(
    Spec(
        name="large_step_logistic/normalized_batch_perceptron_count",
        reference=normalized_batch_perceptron_count,
        arguments=_perceptions(lambda margins, t: normalized_batch_perceptron_weights(margins)).map(counted),
        dtypes=SINGLE,
        relations=(*AS_MANY, AS_MANY_GROWN),
    )
)

register(
    Spec(
        name="large_step_logistic/perceptron_count",
        reference=perceptron_count,
        arguments=_single_perceptions().map(counted),
        dtypes=SINGLE,
        relations=(AS_MANY[-1], AS_MANY_GROWN),
    )
)

# --- margin and bounds ---


def _scaled_margin(output: Any, arguments: Arguments) -> Any:
    return output._replace(margin=2 * output.margin)


register(
    Spec(
        name="large_step_logistic/margin",
        reference=margin,
        arguments=separable_sets().map(lambda z: {"z": z}),
        dtypes=SINGLE,
        relations=(
            REVERSED,
            DOUBLED,
            Relation(
                "features reflected",
                changed(z=reflect),
                lambda output, arguments: output._replace(direction=reflect(output.direction)),
            ),
            Relation("features doubled", changed(z=lambda z: 2 * z), _scaled_margin),
        ),
    )
)


@st.composite
def _geometries(draw: st.DrawFn, *names: str) -> Arguments:
    found = {
        "n_samples": draw(st.integers(1, 5000)),
        "radius": 10.0 ** draw(st.floats(-1, 2)),
        "margin": 0.0,
        "step_size": 10.0 ** draw(st.floats(-2, 4)),
    }
    found["margin"] = found["radius"] * 10.0 ** draw(st.floats(-3, 0))
    return {name: found[name] for name in names}


def _symbolic_geometry(*names: str) -> Arguments:
    import sympy

    found = {name: sympy.Symbol(name, positive=True) for name in ("radius", "margin", "step_size")} | {
        "n_samples": sympy.Symbol("n_samples", integer=True, positive=True)
    }
    return {name: found[name] for name in names}


BIGGER = Relation("radius and margin doubled", changed(radius=lambda r: 2 * r, margin=lambda m: 2 * m), unchanged)
BIGGER_FINER = Relation(
    "radius and margin doubled, step size a quarter",
    changed(radius=lambda r: 2 * r, margin=lambda m: 2 * m, step_size=lambda s: s / 4),
    unchanged,
)

for _bound, _names, _relation in (
    (perceptron_bound, ("radius", "margin"), BIGGER),
    (batch_perceptron_bound, ("n_samples", "radius", "margin"), BIGGER),
    (batch_perceptron_bound_tight, ("n_samples", "radius", "margin"), BIGGER),
    (normalized_lr_gd_bound, ("n_samples", "radius", "margin", "step_size"), BIGGER_FINER),
    (lr_gd_bound, ("n_samples", "radius", "margin", "step_size"), BIGGER_FINER),
):
    register(
        Spec(
            name=f"large_step_logistic/{_bound.__name__}",
            reference=_bound,
            arguments=_geometries(*_names),
            symbols=partial(_symbolic_geometry, *_names),
            dtypes=SINGLE,
            relations=(_relation,),
        )
    )
