"""The exact solutions of a single mode."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.deep_linear import (
    chain_gradients,
    learning_time,
    learning_time_infinite_depth,
    mode_trajectory,
    mode_trajectory_nonwhite,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, register, symbols
from refimpl.oracle.specs.dynamics.deep_linear.network import BATCHES, FULL_DTYPES, unchanged

DEPTHS = st.sampled_from((1, 2, 3, 4, 7, 20, 99, 100))
# Of the time constant: powers of two, so that scaling does not round.
TAUS = st.sampled_from((0.25, 1.0, 1024.0))


def log_uniform(rng: np.random.Generator, low: float, high: float, shape: Any) -> Any:
    return np.exp(rng.uniform(np.log(low), np.log(high), shape))


@st.composite
def _passages(draw: st.DrawFn, smallest: float = 1e-8) -> Arguments:
    """Strengths s in [1e-3, 1e3], starts from `smallest` to 0.9 of them or above them, and ends well between."""
    rng, shape = draw(generators()), draw(BATCHES)
    s = np.asarray(log_uniform(rng, 1e-3, 1e3, shape))
    start = log_uniform(rng, smallest, 0.9, shape)
    end = start + (0.99 - start) * rng.uniform(0.05, 1, shape)
    if draw(st.integers(0, 3)) == 0:
        start = log_uniform(rng, 1.1, 1e3, shape)
        end = start + (1.01 - start) * rng.uniform(0.05, 1, shape)
    return {"s": s, "u0": np.asarray(s * start), "uf": np.asarray(s * end), "n_weights": draw(DEPTHS)} | {
        "tau": draw(TAUS)
    }


def _times(names: tuple[str, ...], factor: float) -> Any:
    return lambda arguments: arguments | {name: arguments[name] * factor for name in names}


SLOWER = Relation("time constant times 4", _times(("tau",), 4), lambda output, arguments: 4 * output)


def _symbolic_passage() -> Arguments:
    return {name: symbols(name) for name in ("s", "u0", "uf")} | {"n_weights": 2, "tau": 1}


register(
    Spec(
        name="deep_linear/learning_time",
        reference=learning_time,
        arguments=_passages(),
        symbols=_symbolic_passage,
        dtypes=FULL_DTYPES,
        relations=(
            SLOWER,
            Relation(
                "strengths times 16",
                _times(("s", "u0", "uf"), 16),
                lambda output, arguments: (
                    output / np.asarray(16, output.dtype) ** (2 - np.asarray(2, output.dtype) / arguments["n_weights"])
                ),
            ),
        ),
        mistakes={
            ("off by one", "layers of neurons counted in place of matrices"): lambda s, u0, uf, n_weights, tau: (
                learning_time(s, u0, uf, n_weights + 1, tau)
            ),
            ("constant factor", "the rate of one layer for all"): lambda s, u0, uf, n_weights, tau: (
                n_weights * learning_time(s, u0, uf, n_weights, tau)
            ),
        },
    )
)

register(
    Spec(
        name="deep_linear/learning_time_infinite_depth",
        reference=learning_time_infinite_depth,
        arguments=_passages(),
        symbols=_symbolic_passage,
        dtypes=FULL_DTYPES,
        relations=(
            SLOWER,
            Relation("strengths times 16", _times(("s", "u0", "uf"), 16), lambda output, arguments: output / 256),
        ),
    )
)


@st.composite
def _trajectories(draw: st.DrawFn) -> Arguments:
    # From smaller starts at great depth the time knows the strength to fewer digits than there are.
    passage = draw(_passages(1e-3))
    time = learning_time(**passage) * draw(st.sampled_from((0.0, 0.5, 1.0, 2.0)))
    return {"t": time} | {name: passage[name] for name in ("s", "u0", "n_weights", "tau")}


LATER = Relation("time and time constant times 4", _times(("t", "tau"), 4), unchanged)


register(
    Spec(
        name="deep_linear/mode_trajectory",
        reference=mode_trajectory,
        arguments=_trajectories(),
        symbols=lambda: {name: symbols(name) for name in ("t", "s", "u0")} | {"n_weights": 2, "tau": 1},
        dtypes=FULL_DTYPES,
        relations=(
            LATER,
            Relation(
                "strengths over 16 at the later time",
                lambda arguments: (
                    arguments
                    | {
                        "t": arguments["t"]
                        * np.asarray(16, arguments["t"].dtype)
                        ** (2 - np.asarray(2, arguments["t"].dtype) / arguments["n_weights"]),
                        "s": arguments["s"] / 16,
                        "u0": arguments["u0"] / 16,
                    }
                ),
                lambda output, arguments: output / 16,
            ),
        ),
        mistakes={
            ("off by one", "layers of neurons counted in place of matrices"): lambda t, s, u0, n_weights, tau: (
                mode_trajectory(t, s, u0, n_weights + 1, tau)
            ),
            ("constant factor", "rate s in place of 2s"): lambda t, s, u0, n_weights, tau: mode_trajectory(
                t / 2, s, u0, n_weights, tau
            ),
        },
    )
)


@st.composite
def _nonwhite(draw: st.DrawFn) -> Arguments:
    drawn = draw(_trajectories())
    eigenvalue = np.full(np.shape(drawn["s"]), draw(st.sampled_from((0.5, 1.0, 4.0))))
    return {"t": drawn["t"], "s": drawn["s"], "eigenvalue": eigenvalue} | drawn


register(
    Spec(
        name="deep_linear/mode_trajectory_nonwhite",
        reference=mode_trajectory_nonwhite,
        arguments=_nonwhite(),
        symbols=lambda: {name: symbols(name) for name in ("t", "s", "eigenvalue", "u0")} | {"n_weights": 2, "tau": 1},
        dtypes=FULL_DTYPES,
        relations=(
            LATER,
            Relation(
                "task and inputs times 4, time over 4",
                lambda arguments: (
                    arguments
                    | {"t": arguments["t"] / 4, "s": arguments["s"] * 4, "eigenvalue": arguments["eigenvalue"] * 4}
                ),
                unchanged,
            ),
        ),
        mistakes={
            ("missing term", "inputs taken as white"): lambda t, s, eigenvalue, u0, n_weights, tau: mode_trajectory(
                t, s, u0, n_weights, tau
            ),
        },
    )
)


@st.composite
def chains(draw: st.DrawFn) -> Arguments:
    rng, batch = draw(generators()), draw(BATCHES)
    n = draw(DEPTHS)
    a = np.exp(rng.standard_normal((*batch, n)) / np.sqrt(n)) * rng.choice([-1, 1], (*batch, n))
    if draw(st.booleans()):
        a[..., 0] = 0
    return {"a": a, "s": np.asarray(log_uniform(rng, 1e-2, 1e2, batch))}


register(
    Spec(
        name="deep_linear/chain_gradients",
        reference=chain_gradients,
        arguments=chains(),
        symbols=lambda: {"a": symbols("a", 3), "s": symbols("s")},
        dtypes=FULL_DTYPES,
        relations=(
            Relation(
                "factors in reverse",
                lambda arguments: arguments | {"a": arguments["a"][..., ::-1]},
                lambda output, arguments: output[..., ::-1],
            ),
        ),
    )
)
