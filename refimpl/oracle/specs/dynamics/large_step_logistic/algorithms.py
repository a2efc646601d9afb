"""The samples' weights in a step, the five loops, and how many iterations they take."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.large_step_logistic import (
    batch_perceptron,
    batch_perceptron_weights,
    iterates,
    lr_gd,
    lr_gd_weights,
    normalized_batch_perceptron,
    normalized_batch_perceptron_weights,
    normalized_lr_gd,
    normalized_lr_gd_weights,
    perceptron,
    perceptron_weights,
)
from refimpl.dynamics.large_step_logistic.weights import Selection, Weights
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.oracle.specs.dynamics.large_step_logistic.setting import (
    BATCHES,
    DOUBLED,
    REVERSED,
    SAMPLES,
    SELECTIONS,
    SINGLE,
    STEP_SIZES,
    changed,
    reflect,
    separable_sets,
    unchanged,
)
from refimpl.primitives.numbers import Array

# --- weights ---


@st.composite
def _margins(draw: st.DrawFn) -> Arguments:
    batch, n = draw(BATCHES), draw(SAMPLES)
    return {"margins": draw(real_arrays((*batch, n), draw(st.sampled_from((1.0, 30.0, 1e3)))))}


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
