"""The fully connected networks, and the map between scales."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.sgd_noise_regimes import (
    feature_regime_map,
    hidden_layer,
    hidden_layer_vjp,
    linearised_outputs,
    network_outputs,
    network_outputs_vjp,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.oracle.specs.dynamics.sgd_noise_regimes.hinge import positive_symbol, reflect, same
from refimpl.primitives.numbers import Array

SIZES = st.sampled_from((1, 2, 3, 10, 40))


@st.composite
def _layers(draw: st.DrawFn) -> Arguments:
    n, n_inputs, n_outputs = draw(SIZES), draw(SIZES), draw(SIZES)
    return {"x": draw(real_arrays((n, n_inputs))), "weight": draw(real_arrays((n_outputs, n_inputs)))}


register(
    Spec(
        name="sgd_noise_regimes/hidden_layer",
        reference=hidden_layer,
        arguments=_layers(),
        vjp=hidden_layer_vjp,
        symbols=lambda: {"x": symbols("x", 2, 2), "weight": symbols("w", 2, 2)},
        relations=(
            Relation(
                "inputs and weights reflected",
                lambda arguments: {name: reflect(value) for name, value in arguments.items()},
                same,
            ),
            Relation(
                "inputs times 4, weights over 4",
                lambda arguments: {"x": 4 * arguments["x"], "weight": arguments["weight"] / 4},
                same,
            ),
        ),
        mistakes={
            ("constant factor", "no root of two"): lambda x, weight: hidden_layer(x, weight) / 2**0.5,
            ("constant factor", "no root of the inputs"): lambda x, weight: (
                hidden_layer(x, weight) * x.shape[-1] ** 0.5
            ),
        },
    )
)


def _draw_weights(draw: st.DrawFn, sizes: list[int]) -> list[Array]:
    return [draw(real_arrays((after, before))) for before, after in zip(sizes, [*sizes[1:], 1], strict=True)]


@st.composite
def _networks(draw: st.DrawFn) -> Arguments:
    sizes = [draw(SIZES) for _ in range(draw(st.integers(2, 4)))]
    return {"x": draw(real_arrays((draw(SIZES), sizes[0]))), "weights": _draw_weights(draw, sizes)}


def _units_reversed(weights: list[Array]) -> list[Array]:
    first, second, *others = weights
    return [np.flip(first, 0), np.flip(second, 1), *others]


def _degree(weights: list[Array]) -> list[Array]:
    return [2 * one for one in weights]


register(
    Spec(
        name="sgd_noise_regimes/network_outputs",
        reference=network_outputs,
        arguments=_networks(),
        vjp=network_outputs_vjp,
        symbols=lambda: {"x": symbols("x", 1, 2), "weights": [symbols("w", 2, 2), symbols("v", 1, 2)]},
        relations=(
            Relation(
                "hidden units in reverse",
                lambda arguments: arguments | {"weights": _units_reversed(arguments["weights"])},
                same,
            ),
            Relation(
                "all weights doubled",
                lambda arguments: arguments | {"weights": _degree(arguments["weights"])},
                lambda output, arguments: 2 ** len(arguments["weights"]) * output,
            ),
            Relation(
                "samples in reverse",
                lambda arguments: arguments | {"x": np.flip(arguments["x"], 0)},
                lambda output, arguments: np.flip(output, 0),
            ),
        ),
    )
)


@st.composite
def _linearised(draw: st.DrawFn) -> Arguments:
    arguments = draw(_networks())
    sizes = [matrix.shape[1] for matrix in arguments["weights"]]
    return arguments | {"displacement": _draw_weights(draw, sizes)}


register(
    Spec(
        name="sgd_noise_regimes/linearised_outputs",
        reference=linearised_outputs,
        # No preactivation at its kink, on either side of which the tangent is another.
        arguments=_linearised().filter(lambda arguments: _off_kinks(arguments["x"], arguments["weights"])),
        symbols=lambda: {
            "x": symbols("x", 1, 2),
            "weights": [symbols("w", 2, 2), symbols("v", 1, 2)],
            "displacement": [symbols("dw", 2, 2), symbols("dv", 1, 2)],
        },
        dtypes=("float64", "float32"),
        relations=(
            Relation(
                "displacement times 4",
                lambda arguments: arguments | {"displacement": [4 * one for one in arguments["displacement"]]},
                lambda output, arguments: 4 * output,
            ),
            # Euler: the tangent at the weights, along them, is the degree times the output.
            Relation(
                "along the weights",
                lambda arguments: arguments | {"displacement": arguments["weights"]},
                lambda output, arguments: (
                    len(arguments["weights"]) * network_outputs(arguments["x"], arguments["weights"])
                ),
            ),
        ),
    )
)


def _off_kinks(x: Array, weights: list[Array]) -> bool:
    for matrix in weights[:-1]:
        before = x @ matrix.T / x.shape[1] ** 0.5
        if np.any(np.abs(before) <= 1e-5 * (1 + np.abs(before).max())):
            return False
        x = np.maximum(before, 0)
    return True


@st.composite
def _maps(draw: st.DrawFn) -> Arguments:
    n_hidden = draw(st.integers(1, 5))
    return {
        "weights": _draw_weights(draw, [draw(SIZES) for _ in range(n_hidden + 1)]),
        "learning_rate": draw(st.sampled_from((0.01, 0.5, 2.0))),
        "alpha": draw(st.sampled_from((1e-4, 0.1, 1.0, 100.0))),
        "n_hidden": n_hidden,
    }


def _layers_counted(weights: Any, learning_rate: float, alpha: float, n_hidden: int) -> Any:
    return feature_regime_map(weights, learning_rate, alpha, n_hidden + 1)


register(
    Spec(
        name="sgd_noise_regimes/feature_regime_map",
        reference=feature_regime_map,
        arguments=_maps(),
        symbols=lambda: {
            "weights": [symbols("w", 2, 2), symbols("v", 1, 2)],
            "learning_rate": positive_symbol("eta"),
            "alpha": positive_symbol("alpha"),
            "n_hidden": positive_symbol("D"),
        },
        dtypes=("float64", "float32"),
        relations=(
            Relation(
                "learning rate times 4",
                lambda arguments: arguments | {"learning_rate": 4 * arguments["learning_rate"]},
                lambda output, arguments: (output[0], 4 * output[1]),
            ),
        ),
        mistakes={("constant factor", "layers of weights counted as hidden ones"): _layers_counted},
    )
)
