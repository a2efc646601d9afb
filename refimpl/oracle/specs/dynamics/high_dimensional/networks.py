"""Deep linear students, two-layer networks and complexity bounds."""

import itertools

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.high_dimensional import (
    BalancedState,
    TwoLayer,
    balanced_descent_step,
    deep_linear_descent_step,
    deep_linear_flow,
    deep_linear_flow_step,
    rademacher_bound_naive,
    random_features,
    train_two_layer_relu,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.oracle.specs.dynamics.high_dimensional.linear import (
    BATCHES,
    REVERSED,
    SINGLE,
    SIZES,
    changed,
    problems,
    reflect,
    reverse,
    times_four,
    unchanged,
)
from refimpl.primitives.numbers import Array, transpose

RATES = st.sampled_from((0.001, 0.01, 0.1))


@st.composite
def _flow_steps(draw: st.DrawFn) -> Arguments:
    problem = draw(problems())
    weights = problem["initial"]
    return {
        "weights": np.where(np.any(weights, axis=-1, keepdims=True), weights, 1.0),
        "x": problem["x"],
        "y": problem["y"],
        "n_weights": draw(st.integers(1, 5)),
        "learning_rate": draw(RATES),
    }


def _decoupled(weights: Array, x: Array, y: Array, n_weights: int, learning_rate: float) -> Array:
    """Without the second term, each coordinate by itself."""
    norm = np.sqrt((weights * weights).sum(axis=-1, keepdims=True))
    step = deep_linear_flow_step(weights, x, y, 1, learning_rate) - weights
    return weights + n_weights * norm ** (2 - 2 / n_weights) * step


register(
    Spec(
        name="high_dimensional/deep_linear_flow_step",
        reference=deep_linear_flow_step,
        arguments=_flow_steps(),
        symbols=lambda: {
            "weights": symbols("w", 2),
            "x": symbols("x", 2, 2),
            "y": symbols("y", 2),
            "n_weights": 3,
            "learning_rate": symbols("eta").item(),
        },
        dtypes=SINGLE,
        relations=(
            REVERSED,
            Relation(
                "inputs and weights reflected",
                changed(x=lambda x: reflect(x, -2), weights=reflect),
                lambda output, arguments: reflect(output),
            ),
        ),
        mistakes={("missing term", "all modes alike"): _decoupled},
    )
)


@st.composite
def _flows(draw: st.DrawFn) -> Arguments:
    step = draw(_flow_steps())
    x, y = step.pop("x"), step.pop("y")
    moments = {"correlation": x @ transpose(x), "moment": (x @ y[..., None])[..., 0]}
    return step | moments | {"n_steps": draw(st.integers(0, 4))}


register(
    Spec(
        name="high_dimensional/deep_linear_flow",
        reference=deep_linear_flow,
        arguments=_flows(),
        dtypes=SINGLE,
        relations=(
            Relation(
                "inputs and weights reflected",
                changed(correlation=lambda c: reflect(reflect(c, -1), -2), moment=reflect, weights=reflect),
                lambda output, arguments: reflect(output),
            ),
        ),
    )
)


@st.composite
def _balanced(draw: st.DrawFn) -> Arguments:
    problem = draw(problems())
    batch = problem["y"].shape[:-1]
    state = BalancedState(problem["initial"], draw(real_arrays((*batch, draw(st.integers(0, 4))))))
    return {"state": state, "x": problem["x"], "y": problem["y"], "learning_rate": draw(RATES)}


def _reflected_state(arguments: Arguments) -> Arguments:
    state = arguments["state"]
    return arguments | {"state": state._replace(row=reflect(state.row)), "x": reflect(arguments["x"], -2)}


register(
    Spec(
        name="high_dimensional/balanced_descent_step",
        reference=balanced_descent_step,
        arguments=_balanced(),
        symbols=lambda: {
            "state": BalancedState(symbols("q", 2), symbols("c", 2)),
            "x": symbols("x", 2, 2),
            "y": symbols("y", 2),
            "learning_rate": symbols("eta").item(),
        },
        dtypes=SINGLE,
        relations=(
            REVERSED,
            Relation(
                "inputs and row reflected",
                _reflected_state,
                lambda output, arguments: output._replace(row=reflect(output.row)),
            ),
            Relation(
                "scales in reverse",
                lambda arguments: (
                    arguments | {"state": arguments["state"]._replace(scales=np.flip(arguments["state"].scales, -1))}
                ),
                lambda output, arguments: output._replace(scales=np.flip(output.scales, -1)),
            ),
        ),
    )
)


@st.composite
def _matrices(draw: st.DrawFn) -> Arguments:
    n_inputs, n_examples = draw(SIZES), draw(SIZES)
    widths = [n_inputs, *(draw(st.sampled_from((1, 2, 4))) for _ in range(draw(st.integers(0, 2)))), 1]
    return {
        "layers": [draw(real_arrays((after, before), before**-0.5)) for before, after in itertools.pairwise(widths)],
        "x": draw(real_arrays((n_inputs, n_examples), n_inputs**-0.5)),
        "y": draw(real_arrays((n_examples,))),
        "learning_rate": draw(RATES),
    }


register(
    Spec(
        name="high_dimensional/deep_linear_descent_step",
        reference=deep_linear_descent_step,
        arguments=_matrices(),
        symbols=lambda: {
            "layers": [symbols("u", 2, 2), symbols("v", 1, 2)],
            "x": symbols("x", 2, 2),
            "y": symbols("y", 2),
            "learning_rate": symbols("eta").item(),
        },
        dtypes=SINGLE,
        relations=(REVERSED,),
    )
)

# --- nonlinear ---


@st.composite
def _training(draw: st.DrawFn) -> Arguments:
    problem = draw(problems())
    x, n_hidden = problem["x"], draw(st.sampled_from((1, 2, 5, 40)))
    network = TwoLayer(
        draw(real_arrays((*x.shape[:-2], n_hidden, x.shape[-2]))),
        draw(real_arrays((*x.shape[:-2], n_hidden), n_hidden**-0.5)),
    )
    return {
        "x": x,
        "y": problem["y"],
        "network": network,
        "learning_rate": draw(RATES),
        "n_steps": draw(st.sampled_from((0, 1, 1, 3))),
    }


def _flipped_units(network: TwoLayer) -> TwoLayer:
    return TwoLayer(np.flip(network.inner, -2), np.flip(network.outer, -1))


register(
    Spec(
        name="high_dimensional/train_two_layer_relu",
        reference=train_two_layer_relu,
        arguments=_training(),
        symbols=lambda: {
            "x": symbols("x", 2, 2),
            "y": symbols("y", 2),
            "network": TwoLayer(symbols("w", 2, 2), symbols("v", 2)),
            "learning_rate": symbols("eta").item(),
            "n_steps": 1,
        },
        dtypes=SINGLE,
        relations=(
            REVERSED,
            Relation(
                "units in reverse", changed(network=_flipped_units), lambda output, arguments: _flipped_units(output)
            ),
        ),
        mistakes={
            ("constant factor", "the sum over examples"): lambda x, y, network, learning_rate, n_steps: (
                train_two_layer_relu(x, y, network, float(learning_rate * y.shape[-1]), n_steps)
            )
        },
    )
)


@st.composite
def _features(draw: st.DrawFn) -> Arguments:
    batch, n_inputs, n_examples, n_hidden = draw(BATCHES), draw(SIZES), draw(SIZES), draw(SIZES)
    return {
        "x": draw(real_arrays((*batch, n_inputs, n_examples))),
        "first_layer": draw(real_arrays((*batch, n_hidden, n_inputs))),
    }


register(
    Spec(
        name="high_dimensional/random_features",
        reference=random_features,
        arguments=_features(),
        symbols=lambda: {"x": symbols("x", 2, 1), "first_layer": symbols("w", 4, 2)},
        relations=(
            Relation("examples in reverse", changed(x=reverse), lambda output, arguments: np.flip(output, -1)),
            Relation("inputs times 4", changed(x=times_four), lambda output, arguments: 4 * output),
        ),
        mistakes={
            ("missing term", "not over the root of the width"): lambda x, first_layer: (
                random_features(x, first_layer) * first_layer.shape[-2] ** 0.5
            )
        },
    )
)


@st.composite
def _bounds(draw: st.DrawFn) -> Arguments:
    batch, n_hidden, n_examples = draw(BATCHES), draw(SIZES), draw(SIZES)
    return {
        "weights": draw(real_arrays((*batch, n_hidden))),
        "features": draw(real_arrays((*batch, n_hidden, n_examples))),
    }


register(
    Spec(
        name="high_dimensional/rademacher_bound_naive",
        reference=rademacher_bound_naive,
        arguments=_bounds(),
        symbols=lambda: {"weights": symbols("w", 2), "features": symbols("h", 2, 2)},
        dtypes=SINGLE,
        relations=(
            Relation("examples in reverse", changed(features=reverse), unchanged),
            Relation("weights times 4", changed(weights=times_four), lambda output, arguments: 4 * output),
        ),
    )
)
