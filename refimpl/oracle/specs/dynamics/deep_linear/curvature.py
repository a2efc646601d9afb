"""The curvature of a mode's energy."""

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.deep_linear import mode_hessian, solution_sharpness
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, register, symbols
from refimpl.oracle.specs.dynamics.deep_linear.modes import chains
from refimpl.oracle.specs.dynamics.deep_linear.network import BATCHES, FULL_DTYPES, unchanged

register(
    Spec(
        name="deep_linear/solution_sharpness",
        reference=solution_sharpness,
        arguments=chains().map(lambda drawn: {"a": np.where(drawn["a"] == 0, 1.0, drawn["a"])}),
        symbols=lambda: {"a": symbols("a", 3)},
        dtypes=FULL_DTYPES,
        relations=(Relation("factors in reverse", lambda arguments: {"a": arguments["a"][..., ::-1]}, unchanged),),
    )
)


@st.composite
def _equal_factors(draw: st.DrawFn) -> Arguments:
    rng, shape = draw(generators()), draw(BATCHES)
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
