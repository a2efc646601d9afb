"""The network in the singular vectors of its task."""

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.deep_linear import mode_flow, mode_strengths
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.oracle.specs.dynamics.deep_linear.network import (
    BATCHES,
    FULL_DTYPES,
    INSIDE,
    WIDTHS,
    reflect,
    shallow_problems,
    turned_inside,
    unchanged,
)


@st.composite
def _mode_pairs(draw: st.DrawFn) -> Arguments:
    batch, n_1, n_2, n_3 = draw(BATCHES), *(draw(WIDTHS) for _ in range(3))
    n_modes = draw(st.integers(1, min(n_1, n_3)))
    return {
        "a": draw(real_arrays((*batch, n_1, n_2))),
        "b": draw(real_arrays((*batch, n_3, n_2))),
        "strengths": np.sort(np.abs(draw(real_arrays((n_modes,)))))[::-1].copy(),
    }


register(
    Spec(
        name="deep_linear/mode_flow",
        reference=mode_flow,
        arguments=_mode_pairs(),
        symbols=lambda: {"a": symbols("a", 2, 2), "b": symbols("b", 2, 2), "strengths": symbols("s", 2)},
        dtypes=FULL_DTYPES,
        relations=(
            Relation(
                "hidden layer reflected",
                lambda arguments: arguments | {"a": reflect(arguments["a"]), "b": reflect(arguments["b"])},
                lambda output, arguments: (reflect(output[0]), reflect(output[1])),
            ),
            Relation(
                "a and b exchanged",
                lambda arguments: arguments | {"a": arguments["b"], "b": arguments["a"]},
                lambda output, arguments: (output[1], output[0]),
            ),
        ),
    )
)


@st.composite
def _strengths(draw: st.DrawFn) -> Arguments:
    weights = draw(shallow_problems())["weights"]
    k = draw(WIDTHS)
    return {
        "weights": weights,
        "u": draw(real_arrays((weights[-1].shape[-2], k))),
        "v": draw(real_arrays((weights[0].shape[-1], k))),
    }


register(
    Spec(
        name="deep_linear/mode_strengths",
        reference=mode_strengths,
        arguments=_strengths(),
        symbols=lambda: {
            "weights": [symbols("v", 2, 2), symbols("w", 1, 2)],
            "u": symbols("u", 1, 1),
            "v": symbols("t", 2, 1),
        },
        dtypes=FULL_DTYPES,
        relations=(
            Relation(
                "vectors in reverse",
                lambda arguments: arguments | {name: arguments[name][:, ::-1] for name in "uv"},
                lambda output, arguments: output[..., ::-1],
            ),
            Relation(INSIDE.name, turned_inside, unchanged),
        ),
    )
)
