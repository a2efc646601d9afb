"""The exact solutions of a single mode."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.deep_linear import (
    chain_gradients,
    learning_time,
    learning_time_infinite_depth,
    learning_time_unbalanced,
    mode_hessian,
    mode_trajectory,
    mode_trajectory_nonwhite,
    mode_trajectory_unbalanced,
    solution_sharpness,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, register, symbols
from refimpl.oracle.specs.dynamics.deep_linear.network import BATCHES, FULL_DTYPES, unchanged

DEPTHS = st.sampled_from((1, 2, 3, 4, 7, 20, 99, 100))
SEEDS = st.integers(0, 2**32 - 1)
# Of the time constant: powers of two, so that scaling does not round.
TAUS = st.sampled_from((0.25, 1.0, 1024.0))


def _log_uniform(rng: np.random.Generator, low: float, high: float, shape: Any) -> Any:
    return np.exp(rng.uniform(np.log(low), np.log(high), shape))


@st.composite
def _passages(draw: st.DrawFn, smallest: float = 1e-8) -> Arguments:
    """Strengths s in [1e-3, 1e3], starts from `smallest` to 0.9 of them or above them, and ends well between."""
    rng, shape = np.random.default_rng(draw(SEEDS)), draw(BATCHES)
    s = np.asarray(_log_uniform(rng, 1e-3, 1e3, shape))
    start = _log_uniform(rng, smallest, 0.9, shape)
    end = start + (0.99 - start) * rng.uniform(0.05, 1, shape)
    if draw(st.integers(0, 3)) == 0:
        start = _log_uniform(rng, 1.1, 1e3, shape)
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
def _unbalanced(draw: st.DrawFn, time: bool) -> Arguments:
    rng, shape = np.random.default_rng(draw(SEEDS)), draw(BATCHES)
    s = np.asarray(_log_uniform(rng, 1e-2, 1e2, shape))
    first, second = (np.asarray(_log_uniform(rng, 1e-3, 0.9, shape) * np.sqrt(s)) for _ in range(2))
    kind = draw(st.sampled_from(("apart", "apart", "equal", "opposite")))
    if kind == "equal":
        second = first.copy()
    if kind == "opposite":
        second = -second / 2 - first * (np.abs(second / 2 - first) < first / 10)
    if time:
        product = first * second
        return {"a0": first, "b0": second, "uf": product + (s - product) * rng.uniform(0.05, 0.98, shape), "s": s} | {
            "tau": draw(TAUS)
        }
    tau = draw(TAUS)
    return {"t": np.asarray(tau / s * rng.uniform(0, 6, shape)), "a0": first, "b0": second, "s": s, "tau": tau}


SWAPPED = Relation(
    "factors exchanged", lambda arguments: arguments | {"a0": arguments["b0"], "b0": arguments["a0"]}, unchanged
)

register(
    Spec(
        name="deep_linear/mode_trajectory_unbalanced",
        reference=mode_trajectory_unbalanced,
        arguments=_unbalanced(time=False),
        symbols=lambda: {name: symbols(name) for name in ("t", "a0", "b0", "s")} | {"tau": 1},
        dtypes=FULL_DTYPES,
        relations=(
            LATER,
            SWAPPED,
            Relation(
                "factors times 4, strength times 16, time over 16",
                lambda arguments: (
                    arguments
                    | {"t": arguments["t"] / 16, "s": arguments["s"] * 16}
                    | {name: arguments[name] * 4 for name in ("a0", "b0")}
                ),
                lambda output, arguments: output * 16,
            ),
        ),
        mistakes={
            ("missing term", "equal factors of the same product"): lambda t, a0, b0, s, tau: mode_trajectory(
                t, s, np.abs(a0 * b0), 2, tau
            ),
        },
    )
)

register(
    Spec(
        name="deep_linear/learning_time_unbalanced",
        reference=learning_time_unbalanced,
        arguments=_unbalanced(time=True),
        symbols=lambda: {name: symbols(name) for name in ("a0", "b0", "uf", "s")} | {"tau": 1},
        dtypes=FULL_DTYPES,
        relations=(SLOWER, SWAPPED),
    )
)


@st.composite
def _chains(draw: st.DrawFn) -> Arguments:
    rng, batch = np.random.default_rng(draw(SEEDS)), draw(BATCHES)
    n = draw(DEPTHS)
    a = np.exp(rng.standard_normal((*batch, n)) / np.sqrt(n)) * rng.choice([-1, 1], (*batch, n))
    if draw(st.booleans()):
        a[..., 0] = 0
    return {"a": a, "s": np.asarray(_log_uniform(rng, 1e-2, 1e2, batch))}


register(
    Spec(
        name="deep_linear/chain_gradients",
        reference=chain_gradients,
        arguments=_chains(),
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

register(
    Spec(
        name="deep_linear/solution_sharpness",
        reference=solution_sharpness,
        arguments=_chains().map(lambda drawn: {"a": np.where(drawn["a"] == 0, 1.0, drawn["a"])}),
        symbols=lambda: {"a": symbols("a", 3)},
        dtypes=FULL_DTYPES,
        relations=(Relation("factors in reverse", lambda arguments: {"a": arguments["a"][..., ::-1]}, unchanged),),
    )
)


@st.composite
def _equal_factors(draw: st.DrawFn) -> Arguments:
    rng, shape = np.random.default_rng(draw(SEEDS)), draw(BATCHES)
    n = draw(st.sampled_from((1, 2, 3, 7, 20)))
    a = np.asarray(rng.uniform(0.5, 1.5, shape))
    return {"a": a, "s": np.asarray(a**n * rng.uniform(0.5, 2, shape)), "n_weights": n}


register(
    Spec(
        name="deep_linear/mode_hessian",
        reference=mode_hessian,
        arguments=_equal_factors(),
        symbols=lambda: {"a": symbols("a"), "s": symbols("s"), "n_weights": 3},
        dtypes=FULL_DTYPES,
        relations=(
            Relation("symmetric", lambda arguments: arguments, lambda output, arguments: np.swapaxes(output, -1, -2)),
        ),
        mistakes={
            ("missing term", "Gauss-Newton: the product's own curvature left out"): lambda a, s, n_weights: (
                mode_hessian(a, a**n_weights, n_weights)
            ),
        },
    )
)
