"""The two-layer ReLU network."""

import numpy as np
from hypothesis import strategies as st

from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.primitives.numbers import Array
from refimpl.primitives.two_layer import two_layer_relu, two_layer_relu_vjp


@st.composite
def _networks(draw: st.DrawFn) -> Arguments:
    batch = draw(st.sampled_from(((), (2,))))
    n, n_inputs, n_hidden = (draw(st.sampled_from((1, 2, 3, 10, 40))) for _ in range(3))
    return {
        "x": draw(real_arrays((*batch, n, n_inputs))),
        "inner": draw(real_arrays((*batch, n_hidden, n_inputs))),
        "outer": draw(real_arrays((*batch, n_hidden))),
    }


def _slope_everywhere(x: Array, inner: Array, outer: Array) -> Array:
    return np.asanyarray(((x @ np.swapaxes(inner, -1, -2)) @ outer[..., None])[..., 0])


register(
    Spec(
        name="primitives/two_layer_relu",
        reference=two_layer_relu,
        arguments=_networks(),
        vjp=two_layer_relu_vjp,
        symbols=lambda: {"x": symbols("x", 2, 2), "inner": symbols("w", 2, 2), "outer": symbols("a", 2)},
        relations=(
            Relation(
                "units in reverse",
                lambda arguments: (
                    arguments | {"inner": np.flip(arguments["inner"], -2), "outer": np.flip(arguments["outer"], -1)}
                ),
                lambda output, arguments: output,
            ),
            Relation(
                "inner weights times 4, outer over 4",
                lambda arguments: arguments | {"inner": 4 * arguments["inner"], "outer": arguments["outer"] / 4},
                lambda output, arguments: output,
            ),
            Relation(
                "examples in reverse",
                lambda arguments: arguments | {"x": np.flip(arguments["x"], -2)},
                lambda output, arguments: np.flip(output, -1),
            ),
        ),
        mistakes={("missing term", "no activation"): _slope_everywhere},
    )
)
