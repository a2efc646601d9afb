"""The population loss of any weights."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.one_step_optimality import (
    EffectiveWeights,
    loss_given_task,
    loss_given_task_vjp,
    population_loss,
    population_loss_vjp,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.oracle.specs.incontext.one_step_optimality.model import (
    BATCHES,
    CONTEXT,
    INPUTS,
    NOISE,
    RESCALED,
    SINGLE,
    covariances,
    effective_weights,
    reflect,
    reflect_weights,
    stretch_weights,
    unchanged,
)
from refimpl.primitives.numbers import Array


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


def _points_met_once(**arguments: Any) -> Array:
    r"""$n^2$ for $n(n+1)$: a point paired with itself as with any other. The loss is a quadratic of $n$."""
    n = arguments["n_context"]
    fewer, loss, more = (population_loss(**arguments | {"n_context": n + k}) for k in (-1, 0, 1))
    return loss - n * (more - 2 * loss + fewer) / 2


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
            ("missing term", "a context point's pairing with itself: n^2 for n (n + 1)"): _points_met_once,
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
