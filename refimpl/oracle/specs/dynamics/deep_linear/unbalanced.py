"""A mode of two layers whose factors start apart."""

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.deep_linear import learning_time_unbalanced, mode_trajectory, mode_trajectory_unbalanced
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, register, symbols
from refimpl.oracle.specs.dynamics.deep_linear.modes import LATER, SLOWER, TAUS, log_uniform
from refimpl.oracle.specs.dynamics.deep_linear.network import BATCHES, FULL_DTYPES, unchanged


@st.composite
def _unbalanced(draw: st.DrawFn, time: bool) -> Arguments:
    rng, shape = draw(generators()), draw(BATCHES)
    s = np.asarray(log_uniform(rng, 1e-2, 1e2, shape))
    first, second = (np.asarray(log_uniform(rng, 1e-3, 0.9, shape) * np.sqrt(s)) for _ in range(2))
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
