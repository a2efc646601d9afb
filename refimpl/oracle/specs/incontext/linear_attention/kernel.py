"""Gradient descent in the feature space of a kernel."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.linear_attention import kernel_gd_predict
from refimpl.oracle.spec import Arguments, Relation, Spec, register, symbols
from refimpl.oracle.specs.incontext.linear_attention.construction import (
    FRACTIONS,
    prompts,
    stable_rate,
    unchanged,
)
from refimpl.primitives.numbers import Array


@st.composite
def kernel_arguments(draw: st.DrawFn) -> Arguments:
    r"""A linear kernel of drawn features, and a rate with $\eta\lambda_{\max}(\mathcal K/N)<2$."""
    x, y, x_query = draw(prompts()).values()
    return {
        "kernel": np.swapaxes(x, -1, -2) @ x,
        "y": y,
        "kernel_query": (x_query[..., None, :] @ x)[..., 0, :],
        "learning_rate": stable_rate(draw(FRACTIONS), x),
        "n_steps": draw(st.sampled_from((1, 2, 3, 12))),
    }


def _reversed(arguments: Arguments) -> Arguments:
    return arguments | {
        "kernel": np.flip(arguments["kernel"], (-1, -2)),
        "y": np.flip(arguments["y"], -1),
        "kernel_query": np.flip(arguments["kernel_query"], -1),
    }


def _scaled(arguments: Arguments) -> Arguments:
    return arguments | {
        "kernel": 4 * arguments["kernel"],
        "kernel_query": 4 * arguments["kernel_query"],
        "learning_rate": arguments["learning_rate"] / 4,
    }


def _twice(x: Any, *axes: int) -> Any:
    for axis in axes:
        x = np.concatenate([x, x], axis=axis)
    return x


def _doubled(arguments: Arguments) -> Arguments:
    return arguments | {
        "kernel": _twice(arguments["kernel"], -1, -2),
        "y": _twice(arguments["y"], -1),
        "kernel_query": _twice(arguments["kernel_query"], -1),
    }


def _rate_of_the_sum(**arguments: Any) -> Array:
    n_context = arguments["y"].shape[-1]
    return kernel_gd_predict(**arguments | {"learning_rate": n_context * arguments["learning_rate"]})


register(
    Spec(
        name="linear_attention/kernel_gd_predict",
        reference=kernel_gd_predict,
        arguments=kernel_arguments(),
        symbols=lambda: {
            "kernel": symbols("k", 2, 2),
            "y": symbols("y", 1, 2),
            "kernel_query": symbols("q", 2),
            "learning_rate": symbols("eta").item(),
            "n_steps": 2,
        },
        relations=(
            Relation("context in reverse", _reversed, unchanged),
            Relation("kernel times 4, rate over 4", _scaled, unchanged),
            Relation("context twice", _doubled, unchanged),
            Relation(
                "additive in the targets: outputs replaced by their running sums",
                lambda arguments: arguments | {"y": np.cumsum(arguments["y"], axis=-2)},
                lambda output, arguments: np.cumsum(output, axis=-1),
            ),
        ),
        mistakes={("normaliser", "the rate is not divided by the number of context points"): _rate_of_the_sum},
    )
)
