"""GD++: its weights, its prediction and the population loss of its scalars."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.linear_attention import (
    apply_linear,
    gd_plus_plus_population_loss,
    gd_plus_plus_population_loss_vjp,
    gd_plus_plus_predict,
    gd_plus_plus_step,
    gd_plus_plus_weights,
    initial_state,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.oracle.specs.incontext.linear_attention.construction import (
    CONTEXT,
    FRACTIONS,
    construction_arguments,
    largest_eigenvalue,
    prompts,
    reflect,
    stable_rate,
    unchanged,
)
from refimpl.primitives.numbers import Array

DEPTHS = st.sampled_from((1, 2, 3, 6, 12))


@st.composite
def _weights_arguments(draw: st.DrawFn) -> Arguments:
    n_inputs, n_outputs, learning_rate, n_context, initial_weights = draw(construction_arguments()).values()
    return {
        "n_inputs": n_inputs,
        "n_outputs": n_outputs,
        "learning_rate": learning_rate,
        "gamma": draw(st.sampled_from((0.0, 1 / 64, 0.179))),
        "n_context": n_context,
        "initial_weights": initial_weights,
    }


register(
    Spec(
        name="linear_attention/gd_plus_plus_weights",
        reference=gd_plus_plus_weights,
        arguments=_weights_arguments(),
        symbols=lambda: {
            "n_inputs": 2,
            "n_outputs": 1,
            "learning_rate": symbols("eta").item(),
            "gamma": symbols("gamma").item(),
            "n_context": 3,
            "initial_weights": symbols("w", 1, 2),
        },
    )
)


@st.composite
def predict_arguments(draw: st.DrawFn) -> Arguments:
    r"""Prompts and stable schedules: $\eta\lambda_{\max}(XX^\top/N)<2$ and $\gamma\lambda_{\max}(XX^\top)<1$."""
    prompt = draw(prompts())
    x, depth = prompt["x"], draw(DEPTHS)
    fractions = draw(st.lists(st.tuples(FRACTIONS, FRACTIONS | st.just(0.0)), min_size=depth, max_size=depth))
    return prompt | {
        "learning_rates": [stable_rate(fraction, x) for fraction, _ in fractions],
        "gammas": [fraction / largest_eigenvalue(x) for _, fraction in fractions],
    }


def _twice(x: Any, axis: int = -1) -> Any:
    return np.concatenate([x, x], axis=axis)


def _mean_of_outer_products(**arguments: Any) -> Array:
    n_context = arguments["x"].shape[-1]
    return gd_plus_plus_predict(**arguments | {"gammas": [gamma / n_context for gamma in arguments["gammas"]]})


def _inputs_first(x: Array, y: Array, x_query: Array, learning_rates: Any, gammas: Any) -> Array:
    state = initial_state(x, y)
    for learning_rate, gamma in zip(learning_rates, gammas, strict=True):
        transform = gd_plus_plus_step(state, x, y, learning_rate, gamma).transform
        state = gd_plus_plus_step(state._replace(transform=transform), x, y, learning_rate, 0)
    return apply_linear(state.weights, x_query)


def _mix(y: Any, axis: int) -> Any:
    """The running sums over the outputs: a linear map of them that is not diagonal."""
    return np.cumsum(y, axis=axis)


register(
    Spec(
        name="linear_attention/gd_plus_plus_predict",
        reference=gd_plus_plus_predict,
        arguments=predict_arguments(),
        symbols=lambda: {
            "x": symbols("x", 1, 2),
            "y": symbols("y", 1, 2),
            "x_query": symbols("q", 1),
            "learning_rates": list(symbols("eta", 2)),
            "gammas": list(symbols("gamma", 2)),
        },
        relations=(
            Relation(
                "context in reverse",
                lambda arguments: arguments | {"x": np.flip(arguments["x"], -1), "y": np.flip(arguments["y"], -1)},
                unchanged,
            ),
            Relation(
                "all inputs reflected",
                lambda arguments: (
                    arguments | {"x": reflect(arguments["x"]), "x_query": reflect(arguments["x_query"], -1)}
                ),
                unchanged,
            ),
            Relation(
                "inputs times 2, rates and gammas over 4",
                lambda arguments: (
                    arguments
                    | {
                        "x": 2 * arguments["x"],
                        "x_query": 2 * arguments["x_query"],
                        "learning_rates": [rate / 4 for rate in arguments["learning_rates"]],
                        "gammas": [gamma / 4 for gamma in arguments["gammas"]],
                    }
                ),
                unchanged,
            ),
            Relation(
                "targets times -4",
                lambda arguments: arguments | {"y": -4 * arguments["y"]},
                lambda output, arguments: -4 * output,
            ),
            Relation(
                "context twice, gammas over 2",
                lambda arguments: (
                    arguments
                    | {
                        "x": _twice(arguments["x"]),
                        "y": _twice(arguments["y"]),
                        "gammas": [gamma / 2 for gamma in arguments["gammas"]],
                    }
                ),
                unchanged,
            ),
            Relation(
                "additive in the targets: outputs replaced by their running sums",
                lambda arguments: arguments | {"y": _mix(arguments["y"], -2)},
                lambda output, arguments: _mix(output, -1),
            ),
        ),
        mistakes={
            ("normaliser", "gamma multiplies the mean of the outer products, not their sum"): _mean_of_outer_products,
            ("order", "the targets' update reads the inputs that the same layer has changed"): _inputs_first,
        },
    )
)


@st.composite
def _population_arguments(draw: st.DrawFn) -> Arguments:
    shape = draw(st.tuples(st.sampled_from((1, 2, 20)), st.sampled_from((1, 2, 10))))
    eigenvalues = np.abs(draw(real_arrays(shape)))
    n_context, depth = draw(CONTEXT), draw(st.integers(1, 5))
    top = float(eigenvalues.max()) or 1.0
    fractions = np.array(draw(st.lists(st.tuples(FRACTIONS, FRACTIONS | st.just(0.0)), min_size=depth, max_size=depth)))
    return {
        "eigenvalues": eigenvalues,
        "learning_rates": 2 * n_context * fractions[:, 0] / top,
        "gammas": fractions[:, 1] / top,
        "n_context": n_context,
        "second_moment": draw(st.sampled_from((1 / 12, 1.0))),
    }


register(
    Spec(
        name="linear_attention/gd_plus_plus_population_loss",
        reference=gd_plus_plus_population_loss,
        arguments=_population_arguments(),
        vjp=gd_plus_plus_population_loss_vjp,
        symbols=lambda: {
            "eigenvalues": symbols("lambda", 1, 2),
            "learning_rates": symbols("eta", 2),
            "gammas": symbols("gamma", 2),
            "n_context": 3,
            "second_moment": symbols("mu2").item(),
        },
        relations=(
            Relation(
                "tasks and eigenvalues in reverse",
                lambda arguments: arguments | {"eigenvalues": np.flip(arguments["eigenvalues"])},
                unchanged,
            ),
            Relation(
                "eigenvalues times 4, rates and gammas over 4",
                lambda arguments: (
                    arguments
                    | {
                        "eigenvalues": 4 * arguments["eigenvalues"],
                        "learning_rates": arguments["learning_rates"] / 4,
                        "gammas": arguments["gammas"] / 4,
                    }
                ),
                unchanged,
            ),
        ),
    )
)
