"""Activity and gradients through a saturating network, and their mean field."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.deep_linear import forward, forward_vjp, jacobian, variance_map
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register, symbols
from refimpl.oracle.specs.dynamics.deep_linear.network import BATCHES, FULL_DTYPES
from refimpl.primitives.numbers import Array

GAINS = st.sampled_from((0.5, 0.9, 1.0, 1.1, 2.0))


@st.composite
def _networks(draw: st.DrawFn) -> Arguments:
    rng = draw(generators())
    n, depth = draw(st.sampled_from((1, 2, 3, 8, 32))), draw(st.sampled_from((1, 2, 5, 20)))
    return {
        "x": draw(real_arrays((*draw(BATCHES), n))),
        "weights": [np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(depth)],
        "gain": draw(GAINS),
    }


def _symbols() -> Arguments:
    return {"x": symbols("x", 2), "weights": [symbols("v", 2, 2), symbols("w", 2, 2)], "gain": symbols("g").item()}


def _negated(arguments: Arguments) -> Arguments:
    return arguments | {"x": -arguments["x"]}


def _reversed(arguments: Arguments) -> Arguments:
    """The units of every layer in reverse."""
    return arguments | {
        "x": arguments["x"][..., ::-1],
        "weights": [one[::-1, ::-1] for one in arguments["weights"]],
    }


register(
    Spec(
        name="deep_linear/forward",
        reference=forward,
        arguments=_networks(),
        vjp=forward_vjp,
        symbols=_symbols,
        dtypes=FULL_DTYPES,
        relations=(
            Relation("input negated", _negated, lambda output, arguments: -output),
            Relation("units in reverse", _reversed, lambda output, arguments: output[..., ::-1]),
        ),
        mistakes={
            ("constant factor", "the gain inside the nonlinearity"): lambda x, weights, gain: _gain_inside(
                x, weights, gain
            ),
        },
    )
)


def _gain_inside(x: Array, weights: Any, gain: float) -> Array:
    layers = [x]
    for weight in weights:
        layers.append(np.tanh(gain * layers[-1]) @ weight.T)
    return np.stack(layers)


register(
    Spec(
        name="deep_linear/jacobian",
        reference=jacobian,
        arguments=_networks(),
        symbols=_symbols,
        dtypes=FULL_DTYPES,
        relations=(
            Relation("input negated", _negated, lambda output, arguments: output),
            Relation("units in reverse", _reversed, lambda output, arguments: output[..., ::-1, ::-1]),
        ),
        mistakes={
            ("missing term", "the slopes left out"): lambda x, weights, gain: jacobian(0 * x, weights, gain),
        },
    )
)


@st.composite
def _variances(draw: st.DrawFn) -> Arguments:
    return {"q": np.abs(draw(real_arrays(draw(BATCHES)))), "gain": draw(GAINS)}


register(
    Spec(
        name="deep_linear/variance_map",
        reference=variance_map,
        arguments=_variances(),
        symbols=lambda: {"q": symbols("q", 1), "gain": symbols("g").item()},
        dtypes=FULL_DTYPES,
        relations=(
            Relation(
                "gain times 2",
                lambda arguments: arguments | {"gain": 2 * arguments["gain"]},
                lambda output, arguments: 4 * output,
            ),
        ),
        mistakes={
            ("constant factor", "the variance in place of the standard deviation"): lambda q, gain: variance_map(
                q * q, gain
            ),
        },
    )
)
