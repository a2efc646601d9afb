"""The weights of the copying layer."""

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.linear_attention import copy_layer_weights
from refimpl.oracle.spec import Arguments, Spec, register


@st.composite
def copy_arguments(draw: st.DrawFn) -> Arguments:
    n_context = draw(st.sampled_from((1, 2, 3, 5, 10, 24)))
    return {"n_context": n_context, "n_inputs": draw(st.integers(1, min(2 * n_context + 1, 24)))}


register(
    Spec(
        name="linear_attention/copy_layer_weights",
        reference=copy_layer_weights,
        arguments=copy_arguments(),
        symbols=lambda: {"n_context": 1, "n_inputs": 2, "dtype": np.dtype(object)},
        dtypes=("float64",),  # small integers, exact in any precision, and no array among the arguments to name one
    )
)
