"""Errors over time, the law of the eigenvalues, early stopping and ridge."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.high_dimensional import (
    eigenvalue_density,
    eigenvalue_edges,
    eigenvalue_resolvent,
    generalization_error,
    generalization_error_empirical,
    generalization_error_slope,
    input_eigenvalues,
    mode_stopping_time,
    optimal_stopping_time,
    ridge_generalization_error,
    ridge_generalization_error_empirical,
    training_error,
    training_error_empirical,
    weight_norm,
    weight_norm_empirical,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, register, symbols
from refimpl.oracle.specs.dynamics.high_dimensional.linear import (
    SINGLE,
    TIME_CONSTANTS,
    changed,
    inputs,
    times,
    times_four,
    unchanged,
)
from refimpl.primitives.numbers import Array

LOADS = st.one_of(st.sampled_from((1.0, 0.5, 2.0, 0.99, 1.001)), st.floats(0.05, 20))
VARIANCES = st.sampled_from((0.0, 0.01, 0.5, 1.0, 30.0))
NAMES = ("signal_variance", "noise_variance", "init_variance")


@st.composite
def variances(draw: st.DrawFn) -> Arguments:
    return {name: draw(VARIANCES) for name in NAMES} | {"tau": draw(TIME_CONSTANTS)}


@st.composite
def in_the_limit(draw: st.DrawFn) -> Arguments:
    return {"t": draw(times()), "load": draw(LOADS)} | draw(variances())


@st.composite
def at_finite_size(draw: st.DrawFn) -> Arguments:
    return {"t": draw(times()), "eigenvalues": input_eigenvalues(draw(inputs()))} | draw(variances())


@st.composite
def training_at_finite_size(draw: st.DrawFn) -> Arguments:
    x = draw(inputs())
    return {"t": draw(times()), "eigenvalues": input_eigenvalues(x), "n_examples": x.shape[-1]} | draw(variances())


def all_variances(output: Any, arguments: Arguments) -> Any:
    return 0 * output + sum(arguments[name] for name in NAMES)


TIMES_DOUBLED = Relation(
    "times and time constant doubled", changed(t=lambda t: 2 * t, tau=lambda tau: 2 * tau), unchanged
)
VARIANCES_SCALED = Relation(
    "variances times 4",
    changed(signal_variance=times_four, noise_variance=times_four, init_variance=times_four),
    lambda output, arguments: 4 * output,
)
SWAPPED = Relation(
    "the start's variance given to the teacher",
    lambda arguments: (
        arguments
        | {
            "signal_variance": arguments["signal_variance"] + arguments["init_variance"],
            "init_variance": 0 * arguments["init_variance"],
        }
    ),
    unchanged,
)
AT_THE_START = Relation("at time 0", changed(t=lambda t: 0 * t), all_variances)


def _symbols_at_finite_size() -> Arguments:
    return {"t": symbols("t", 1), "eigenvalues": symbols("l", 2)} | {
        name: symbols(name).item() for name in (*NAMES, "tau")
    }


def _without_test_noise(t: Array, load: float, **others: float) -> Array:
    return generalization_error(t, load, **others) - others["noise_variance"]


def _without_zero_modes(t: Array, load: float, **others: float) -> Array:
    missing = max(0, 1 - load) * (others["signal_variance"] + others["init_variance"])
    return generalization_error(t, load, **others) - missing


register(
    Spec(
        name="high_dimensional/generalization_error",
        reference=generalization_error,
        arguments=in_the_limit(),
        dtypes=SINGLE,
        relations=(TIMES_DOUBLED, VARIANCES_SCALED, SWAPPED, AT_THE_START),
        mistakes={
            ("missing term", "noise of the test labels"): _without_test_noise,
            ("missing term", "modes without data"): _without_zero_modes,
        },
    )
)

register(
    Spec(
        name="high_dimensional/generalization_error_slope",
        reference=generalization_error_slope,
        arguments=in_the_limit(),
        dtypes=SINGLE,
        relations=(
            VARIANCES_SCALED,
            SWAPPED,
            Relation(
                "times and time constant doubled",
                TIMES_DOUBLED.transform,
                lambda output, arguments: output / 2,
            ),
        ),
    )
)

register(
    Spec(
        name="high_dimensional/training_error",
        reference=training_error,
        arguments=in_the_limit(),
        dtypes=SINGLE,
        relations=(TIMES_DOUBLED, VARIANCES_SCALED, SWAPPED, AT_THE_START),
        mistakes={
            ("missing term", "labels that cannot be fit"): lambda t, load, **others: (
                training_error(t, load, **others) - max(0, 1 - 1 / load) * others["noise_variance"]
            )
        },
    )
)

register(
    Spec(
        name="high_dimensional/weight_norm",
        reference=weight_norm,
        arguments=in_the_limit(),
        dtypes=SINGLE,
        relations=(
            TIMES_DOUBLED,
            VARIANCES_SCALED,
            Relation(
                "at time 0",
                AT_THE_START.transform,
                lambda output, arguments: 0 * output + arguments["init_variance"],
            ),
        ),
    )
)

register(
    Spec(
        name="high_dimensional/generalization_error_empirical",
        reference=generalization_error_empirical,
        arguments=at_finite_size(),
        symbols=_symbols_at_finite_size,
        dtypes=SINGLE,
        relations=(TIMES_DOUBLED, VARIANCES_SCALED, SWAPPED, AT_THE_START),
    )
)

register(
    Spec(
        name="high_dimensional/training_error_empirical",
        reference=training_error_empirical,
        arguments=training_at_finite_size(),
        symbols=lambda: (
            {
                "t": symbols("t", 1),
                "eigenvalues": symbols("l", 2),
                "n_examples": 3,
            }
            | {name: symbols(name).item() for name in (*NAMES, "tau")}
        ),
        dtypes=SINGLE,
        relations=(TIMES_DOUBLED, VARIANCES_SCALED, SWAPPED),
    )
)

register(
    Spec(
        name="high_dimensional/weight_norm_empirical",
        reference=weight_norm_empirical,
        arguments=at_finite_size(),
        symbols=_symbols_at_finite_size,
        dtypes=SINGLE,
        relations=(TIMES_DOUBLED, VARIANCES_SCALED),
    )
)

# --- the law of the eigenvalues ---


@st.composite
def _densities(draw: st.DrawFn) -> Arguments:
    load = draw(LOADS)
    low, high = eigenvalue_edges(load)
    # Not at an edge, from which the density rises like a root: there the last digit of the load decides.
    inside, outside = st.floats(0.01, 0.99), st.sampled_from((-0.2, -0.01, 1.01, 1.2))
    places = np.array([draw(st.one_of(inside, inside, outside)) for _ in range(5)])
    return {"eigenvalues": np.abs(low + (high - low) * places), "load": load}


register(
    Spec(
        name="high_dimensional/eigenvalue_density",
        reference=eigenvalue_density,
        arguments=_densities(),
        dtypes=SINGLE,
        relations=(
            Relation(
                "inputs and examples swapped",
                lambda arguments: (
                    arguments
                    | {"eigenvalues": arguments["eigenvalues"] / arguments["load"], "load": 1 / arguments["load"]}
                ),
                unchanged,
            ),
        ),
    )
)


@st.composite
def _penalties(draw: st.DrawFn) -> Array:
    return np.array([10.0 ** draw(st.floats(-2, 2)) for _ in range(4)])


register(
    Spec(
        name="high_dimensional/eigenvalue_resolvent",
        reference=eigenvalue_resolvent,
        arguments=st.fixed_dictionaries({"shift": _penalties(), "load": LOADS}),
        symbols=lambda: {"shift": symbols("g", 2), "load": symbols("a").item()},
        dtypes=SINGLE,
        relations=(
            Relation(
                "inputs and examples swapped",
                lambda arguments: (
                    arguments | {"shift": arguments["shift"] / arguments["load"], "load": 1 / arguments["load"]}
                ),
                lambda output, arguments: output + (arguments["load"] - 1) / arguments["shift"],
            ),
        ),
    )
)

# --- tuning ---

RATIOS = st.floats(-2, 4).map(lambda e: 10.0**e)


@st.composite
def _stops(draw: st.DrawFn) -> Arguments:
    return {
        "load": draw(LOADS),
        "snr": np.array([draw(RATIOS) for _ in range(draw(st.sampled_from((1, 3))))]),
        "inr": draw(st.sampled_from((0.0, 0.5, 10.0))),
        "tau": draw(TIME_CONSTANTS),
    }


@st.composite
def _mode_stops(draw: st.DrawFn) -> Arguments:
    stops = draw(_stops())
    del stops["load"]
    eigenvalues = np.array([draw(st.one_of(st.just(0.0), RATIOS)) for _ in range(len(stops["snr"]))])
    return {"eigenvalues": eigenvalues} | stops


START_AS_SIGNAL = Relation(
    "the start's ratio given to the signal",
    lambda arguments: arguments | {"snr": arguments["snr"] + arguments["inr"], "inr": 0 * arguments["inr"]},
    unchanged,
)
SLOWER = Relation("time constant doubled", changed(tau=lambda tau: 2 * tau), lambda output, arguments: 2 * output)

register(
    Spec(
        name="high_dimensional/optimal_stopping_time",
        reference=optimal_stopping_time,
        arguments=_stops(),
        dtypes=SINGLE,
        relations=(START_AS_SIGNAL, SLOWER),
    )
)

register(
    Spec(
        name="high_dimensional/mode_stopping_time",
        reference=mode_stopping_time,
        arguments=_mode_stops(),
        symbols=lambda: {
            "eigenvalues": symbols("l", 2),
            "snr": symbols("s", 2),
            "inr": symbols("i").item(),
            "tau": symbols("tau").item(),
        },
        dtypes=SINGLE,
        relations=(START_AS_SIGNAL, SLOWER),
    )
)


@st.composite
def _ridges(draw: st.DrawFn) -> Arguments:
    return {
        "penalty": draw(_penalties()),
        "load": draw(LOADS),
        "signal_variance": draw(VARIANCES),
        "noise_variance": draw(VARIANCES),
    }


@st.composite
def _ridges_at_finite_size(draw: st.DrawFn) -> Arguments:
    ridge = draw(_ridges())
    return {
        "penalty": ridge["penalty"],
        "eigenvalues": input_eigenvalues(draw(inputs())),
        "signal_variance": ridge["signal_variance"],
        "noise_variance": ridge["noise_variance"],
    }


BOTH_SCALED = Relation(
    "variances times 4",
    changed(signal_variance=times_four, noise_variance=times_four),
    lambda output, arguments: 4 * output,
)

register(
    Spec(
        name="high_dimensional/ridge_generalization_error",
        reference=ridge_generalization_error,
        arguments=_ridges(),
        symbols=lambda: {
            "penalty": symbols("g", 2),
            "load": symbols("a").item(),
            "signal_variance": symbols("s").item(),
            "noise_variance": symbols("n").item(),
        },
        dtypes=SINGLE,
        relations=(BOTH_SCALED,),
    )
)

register(
    Spec(
        name="high_dimensional/ridge_generalization_error_empirical",
        reference=ridge_generalization_error_empirical,
        arguments=_ridges_at_finite_size(),
        symbols=lambda: {
            "penalty": symbols("g", 2),
            "eigenvalues": symbols("l", 2),
            "signal_variance": symbols("s").item(),
            "noise_variance": symbols("n").item(),
        },
        dtypes=SINGLE,
        relations=(
            BOTH_SCALED,
            Relation(
                "eigenvalues and penalty doubled, noise too",
                changed(eigenvalues=lambda e: 2 * e, penalty=lambda g: 2 * g, noise_variance=lambda n: 2 * n),
                lambda output, arguments: output + arguments["noise_variance"],
            ),
        ),
    )
)
