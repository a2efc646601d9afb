"""The hinge loss, the perceptron and SGD on given batches."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.sgd_noise_regimes import (
    hinge_loss,
    hinge_loss_vjp,
    perceptron_data,
    perceptron_outputs,
    perceptron_outputs_vjp,
    sgd_hinge,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register, symbols
from refimpl.primitives.numbers import Array

SINGLE = ("float64", "float32")
SIZES = st.sampled_from((1, 2, 3, 10, 60))
MARGINS = st.sampled_from((0.0, 0.1, 1.0, 3.0))


def reversed_rows(*names: str) -> Any:
    return lambda arguments: arguments | {name: np.flip(arguments[name], 0) for name in names}


def same(output: Any, arguments: Arguments) -> Any:
    return output


def times_four(output: Any, arguments: Arguments) -> Any:
    return 4 * output


def reflect(x: Array) -> Array:
    r"""Multiply rows by the orthogonal matrix $I-\frac2n\mathbf 1\mathbf 1^\top$."""
    return x - 2 * x.sum(axis=-1, keepdims=True) / x.shape[-1]


def positive_symbol(name: str) -> Any:
    import sympy

    return sympy.Symbol(name, positive=True)


@st.composite
def _losses(draw: st.DrawFn) -> Arguments:
    n = draw(SIZES)
    rng = draw(generators())
    return {
        "predictions": draw(real_arrays((n,))),
        "labels": 1 - 2 * rng.integers(2, size=n),
        "margin": draw(MARGINS),
    }


register(
    Spec(
        name="sgd_noise_regimes/hinge_loss",
        reference=hinge_loss,
        arguments=_losses(),
        vjp=hinge_loss_vjp,
        symbols=lambda: {
            "predictions": symbols("f", 3),
            "labels": np.array([1, -1, -1]),
            "margin": positive_symbol("kappa"),
        },
        relations=(
            Relation("samples in reverse", reversed_rows("predictions", "labels"), same),
            Relation(
                "labels and predictions of the other sign",
                lambda arguments: (
                    arguments | {"predictions": -arguments["predictions"], "labels": -arguments["labels"]}
                ),
                same,
            ),
            Relation(
                "predictions and margin times 4",
                lambda arguments: (
                    arguments | {"predictions": 4 * arguments["predictions"], "margin": 4 * arguments["margin"]}
                ),
                times_four,
            ),
        ),
        mistakes={
            ("constant factor", "the sum over samples"): lambda predictions, labels, margin: (
                hinge_loss(predictions, labels, margin) * len(predictions)
            ),
            ("missing term", "no margin"): lambda predictions, labels, margin: hinge_loss(
                predictions, labels, 0.0 * margin
            ),
        },
    )
)


@st.composite
def _outputs(draw: st.DrawFn) -> Arguments:
    n, d = draw(SIZES), draw(SIZES)
    return {"weights": draw(real_arrays((d,))), "inputs": draw(real_arrays((n, d)))}


register(
    Spec(
        name="sgd_noise_regimes/perceptron_outputs",
        reference=perceptron_outputs,
        arguments=_outputs(),
        vjp=perceptron_outputs_vjp,
        symbols=lambda: {"weights": symbols("w", 3), "inputs": symbols("x", 2, 3)},
        relations=(
            Relation("samples in reverse", reversed_rows("inputs"), lambda output, arguments: np.flip(output, 0)),
            Relation(
                "inputs and weights reflected",
                lambda arguments: {name: reflect(value) for name, value in arguments.items()},
                same,
            ),
        ),
        mistakes={
            ("constant factor", "no root of the width"): lambda weights, inputs: (
                perceptron_outputs(weights, inputs) * inputs.shape[-1] ** 0.5
            )
        },
    )
)


# --- SGD ---


def _is_decided(arguments: Arguments) -> bool:
    """No agreement comes so close to the margin that float32 may decide otherwise: rounding is about 1e-6 here."""
    inputs, margin, batches = arguments["inputs"], arguments["margin"], arguments["batches"]
    v = arguments["labels"][:, None] * inputs / inputs.shape[1] ** 0.5
    weights, active = np.zeros(inputs.shape[1]), np.ones(len(inputs), bool)
    for batch in batches:
        chosen = batch[active[batch]]
        if chosen.size:
            weights = weights + arguments["learning_rate"] / arguments["batch_size"] * v[chosen].sum(axis=0)
            gaps = np.abs(v @ weights - margin)
            if gaps.min() <= 1e-5 * (1 + np.abs(v @ weights).max()):
                return False
            active = v @ weights <= margin
    return True


@st.composite
def _runs(draw: st.DrawFn) -> Arguments:
    rng = draw(generators())
    n, d, steps = draw(st.sampled_from((3, 20, 60))), draw(st.sampled_from((2, 5, 16))), draw(st.integers(1, 200))
    inputs, labels = perceptron_data(n, d, draw(st.sampled_from((0.0, 1.0, 3.0))), rng)
    batch_size = draw(st.sampled_from((1, 2, 3)))
    return {
        "inputs": inputs,
        "labels": labels.astype(int),
        "learning_rate": draw(st.sampled_from((0.125, 1.0, 4.0))),
        "batch_size": batch_size,
        "margin": draw(MARGINS),
        "batches": rng.integers(n, size=(steps, batch_size)),
    }


class Trained(NamedTuple):
    """Of a run on given batches, what has the same shape for all of them."""

    weights: Array
    time: float


def trained(inputs: Array, labels: Array, learning_rate: Any, batch_size: int, margin: Any, batches: Array) -> Trained:
    """:func:`sgd_hinge` on these batches: the weights where it stopped, and when."""
    run = sgd_hinge(inputs, labels, learning_rate, batch_size, margin, None, len(batches), batches)
    return Trained(run.weights, run.time)


def _scaled_rate(arguments: Arguments) -> Arguments:
    return arguments | {"learning_rate": 4 * arguments["learning_rate"], "margin": 4 * arguments["margin"]}


def _four_times_as_far(output: Trained, arguments: Arguments) -> Trained:
    return output._replace(weights=4 * output.weights, time=4 * output.time)


def _relabelled(arguments: Arguments) -> Arguments:
    last = len(arguments["inputs"]) - 1
    return reversed_rows("inputs", "labels")(arguments) | {"batches": last - arguments["batches"]}


def _rotate_across(x: Array) -> Array:
    return np.concatenate([x[..., :1], reflect(x[..., 1:])], axis=-1)


def _summed_gradient(learning_rate: float, batch_size: int, **others: Any) -> Trained:
    run = trained(learning_rate=learning_rate * batch_size, batch_size=batch_size, **others)
    return run._replace(time=run.time / batch_size)


register(
    Spec(
        name="sgd_noise_regimes/sgd_hinge",
        reference=trained,
        arguments=_runs().filter(_is_decided),
        dtypes=SINGLE,
        relations=(
            Relation("samples in reverse, batches relabelled", _relabelled, same),
            Relation(
                "inputs reflected across the signal",
                lambda arguments: arguments | {"inputs": _rotate_across(arguments["inputs"])},
                lambda output, arguments: output._replace(weights=_rotate_across(output.weights)),
            ),
            Relation("learning rate and margin times 4", _scaled_rate, _four_times_as_far),
            Relation(
                "inputs and labels of the other sign",
                lambda arguments: arguments | {"inputs": -arguments["inputs"], "labels": -arguments["labels"]},
                same,
            ),
        ),
        mistakes={("constant factor", "gradient summed over the batch"): _summed_gradient},
    )
)
