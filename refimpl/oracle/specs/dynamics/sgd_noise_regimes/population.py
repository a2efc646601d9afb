"""Expectations over the perceptron's data, the covariance of SGD's noise, and what the order parameters do."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.sgd_noise_regimes import (
    late_time_overlap_ratio,
    late_time_signal,
    noise_covariance,
    noise_moments,
    noise_restoring,
    noise_restoring_vjp,
    order_parameter_rates,
    population_functions,
    population_loss,
    population_loss_vjp,
    signal_drive,
    signal_drive_vjp,
    unfitted_fraction,
    unfitted_fraction_vjp,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register
from refimpl.oracle.specs.dynamics.sgd_noise_regimes.hinge import MARGINS, SINGLE, positive_symbol, reflect, same
from refimpl.primitives.numbers import Array

CHIS = st.one_of(st.sampled_from((0.0, 1.0, 3.0)), st.floats(-0.9, 5))
SHAPES = st.sampled_from(((), (1,), (3,)))


@st.composite
def powers_of_ten(draw: st.DrawFn, low: float, high: float, shape: tuple[int, ...]) -> Array:
    """Evenly in the logarithm."""
    rng = draw(generators())
    return np.asarray(10 ** rng.uniform(low, high, shape))


@st.composite
def _ratios(draw: st.DrawFn) -> Arguments:
    return {"overlap_ratio": draw(powers_of_ten(-3, 3, draw(SHAPES))), "chi": draw(CHIS)}


def _positive(name: str, n: int = 2) -> Array:
    return np.array([positive_symbol(f"{name}_{index}") for index in range(n)], dtype=object)


def _symbolic_ratio(chi: Any = None) -> Arguments:
    return {"overlap_ratio": _positive("lambda"), "chi": positive_symbol("chi") if chi is None else chi}


def _even() -> Arguments:
    """Where SymPy knows that two Gamma functions are one."""
    import sympy

    return _symbolic_ratio(sympy.Integer(2))


for closed, closed_vjp in (
    (unfitted_fraction, unfitted_fraction_vjp),
    (signal_drive, signal_drive_vjp),
    (noise_restoring, noise_restoring_vjp),
):
    register(
        Spec(
            name=f"sgd_noise_regimes/{closed.__name__}",  # type: ignore[attr-defined]
            reference=closed,
            arguments=_ratios(),
            vjp=closed_vjp,
            symbols=_even if closed is signal_drive else _symbolic_ratio,
            dtypes=SINGLE,
            relations=(
                Relation(
                    "in reverse",
                    lambda arguments: arguments | {"overlap_ratio": np.flip(arguments["overlap_ratio"])},
                    lambda output, arguments: np.flip(output),
                ),
            ),
            mistakes={
                ("constant factor", "one degree of freedom too many"): lambda overlap_ratio, chi, of=closed: of(
                    overlap_ratio, chi + 1
                )
            },
        )
    )


# --- with a margin ---


@st.composite
def _states(draw: st.DrawFn) -> Arguments:
    shape = draw(SHAPES)
    return {
        "signal": draw(st.sampled_from((-1, 0, 1, 1, 1))) * draw(powers_of_ten(-2, 2, shape)),
        "noise": draw(powers_of_ten(-0.5, 1, shape)),
        "margin": draw(st.sampled_from((0, 1, 1))) * draw(powers_of_ten(-1, 0.5, shape)),
        "chi": draw(CHIS),
    }


@st.composite
def _smooth_states(draw: st.DrawFn) -> Arguments:
    """Where finite differences of float64 tell something: the loss bends little over their step."""
    rng = draw(generators())
    shape = draw(SHAPES)
    return {name: rng.uniform(5, 15, shape) for name in ("signal", "noise", "margin")} | {"chi": draw(CHIS)}


def _all_times_four(arguments: Arguments) -> Arguments:
    return arguments | {name: 4 * arguments[name] for name in ("signal", "noise", "margin")}


def _margin_of_the_other_sign(signal: Array, noise: Array, margin: Array, chi: Any) -> Any:
    """Of a point that is fitted by more than the margin, not by less."""
    n, drive, restoring = population_functions(signal, noise, margin, chi)
    return margin * 0 - margin * n - signal * drive + noise * restoring


register(
    Spec(
        name="sgd_noise_regimes/population_loss",
        reference=population_loss,
        arguments=_smooth_states(),
        vjp=population_loss_vjp,
        dtypes=SINGLE,
        relations=(
            Relation("order parameters and margin times 4", _all_times_four, lambda output, arguments: 4 * output),
        ),
        mistakes={("sign", "of the margin"): _margin_of_the_other_sign},
    )
)

EXPECTATIONS: dict[str, Callable[..., Any]] = {
    "population_functions": population_functions,
    "noise_moments": noise_moments,
}
for name, expectations in EXPECTATIONS.items():
    register(
        Spec(
            name=f"sgd_noise_regimes/{name}",
            reference=expectations,
            arguments=_states(),
            dtypes=SINGLE,
            relations=(Relation("order parameters and margin times 4", _all_times_four, same),),
        )
    )


@st.composite
def _weights(draw: st.DrawFn) -> Arguments:
    weights = draw(real_arrays((draw(st.sampled_from((2, 3, 7, 30))),)))
    weights[1:] = weights[1:] if np.any(weights[1:]) else 1.0
    return {"weights": weights, "margin": draw(MARGINS), "chi": draw(CHIS)}


def _binomial(weights: Array, margin: Any, chi: Any) -> Array:
    """n (1 - n) across, as if the components of a point were the same for all points."""
    n = noise_covariance(weights, margin, chi)[-1, -1] * len(weights)
    return noise_covariance(weights, margin, chi) * (1 - n)


register(
    Spec(
        name="sgd_noise_regimes/noise_covariance",
        reference=noise_covariance,
        arguments=_weights(),
        dtypes=SINGLE,
        relations=(
            Relation(
                "weights and margin times 4",
                lambda arguments: arguments | {"weights": 4 * arguments["weights"], "margin": 4 * arguments["margin"]},
                same,
            ),
            Relation(
                "weights reflected across the signal",
                lambda arguments: arguments | {"weights": _reflect_across(arguments["weights"])},
                lambda output, arguments: np.swapaxes(
                    _reflect_across(np.swapaxes(_reflect_across(output), 0, 1)), 0, 1
                ),
            ),
        ),
        mistakes={("missing term", "the variance of an indicator"): _binomial},
    )
)


def _reflect_across(x: Array) -> Array:
    return np.concatenate([x[..., :1], reflect(x[..., 1:])], axis=-1)


# --- order parameters ---


@st.composite
def _flows(draw: st.DrawFn) -> Arguments:
    state = draw(_states())
    return {
        "signal": state["signal"],
        "noise": state["noise"],
        "temperature": draw(st.sampled_from((0.0, 0.1, 1.0, 10.0))),
        "margin": draw(MARGINS),
        "chi": state["chi"],
    }


register(
    Spec(
        name="sgd_noise_regimes/order_parameter_rates",
        reference=order_parameter_rates,
        arguments=_flows(),
        dtypes=SINGLE,
        relations=(
            Relation(
                "order parameters, temperature and margin times 4",
                lambda arguments: _all_times_four(arguments) | {"temperature": 4 * arguments["temperature"]},
                lambda output, arguments: output._replace(log_noise=output.log_noise / 4),
            ),
        ),
        mistakes={
            ("missing term", "no heating by the noise"): lambda signal, noise, temperature, margin, chi: (
                order_parameter_rates(signal, noise, 0 * temperature, margin, chi)
            )
        },
    )
)


@st.composite
def _late(draw: st.DrawFn) -> Arguments:
    return {
        "tau": draw(powers_of_ten(0, 6, draw(SHAPES))),
        "temperature": draw(st.sampled_from((0.1, 1.0, 10.0))),
        "chi": draw(CHIS),
    }


for late, factor in ((late_time_overlap_ratio, 1), (late_time_signal, 4)):
    register(
        Spec(
            name=f"sgd_noise_regimes/{late.__name__}",  # type: ignore[attr-defined]
            reference=late,
            arguments=_late(),
            symbols=lambda: {
                "tau": _positive("tau"),
                "temperature": positive_symbol("T"),
                "chi": positive_symbol("chi"),
            },
            dtypes=SINGLE,
            relations=(
                Relation(
                    "times and temperature times 4",
                    lambda arguments: (
                        arguments | {"tau": 4 * arguments["tau"], "temperature": 4 * arguments["temperature"]}
                    ),
                    lambda output, arguments, factor=factor: factor * output,  # type: ignore[misc]
                ),
            ),
        )
    )
