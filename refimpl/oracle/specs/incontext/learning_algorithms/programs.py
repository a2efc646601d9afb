"""Both theorem programs, executed by the transformer."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.learning_algorithms import gradient_descent_program, sherman_morrison_program
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register
from refimpl.oracle.specs.incontext.learning_algorithms.operators import BATCHES, FULL


def prompt(draw: st.DrawFn, max_examples: int, max_inputs: int) -> Arguments:
    """Examples and a query of moderate size."""
    batch, n, d = draw(BATCHES), draw(st.integers(1, max_examples)), draw(st.integers(1, max_inputs))
    return {
        "x": np.clip(draw(real_arrays((*batch, n, d))), -2, 2),
        "y": np.clip(draw(real_arrays((*batch, n))), -2, 2),
        "x_query": np.clip(draw(real_arrays((*batch, d))), -2, 2),
    }


@st.composite
def _descent(draw: st.DrawFn) -> Arguments:
    examples = prompt(draw, 3, 4)
    return examples | {
        "initial_weights": np.clip(draw(real_arrays(examples["x_query"].shape)), -2, 2),
        "learning_rate": draw(st.floats(1 / 64, 1 / 8)),
        "weight_decay": draw(st.sampled_from((0, 1 / 4))),
        "epsilon": draw(st.sampled_from((1 / 8, 1 / 32))),
    }


@st.composite
def _ridge(draw: st.DrawFn) -> Arguments:
    return prompt(draw, 2, 2) | {
        "ridge": draw(st.floats(1 / 2, 4)),
        "epsilon": draw(st.sampled_from((1 / 8, 1 / 32))),
        "scale": draw(st.sampled_from((64.0, 1024.0))),
    }


def _coordinates_reversed(arguments: Arguments) -> Arguments:
    turned = [name for name in ("x", "x_query", "initial_weights") if name in arguments]
    return arguments | {name: np.flip(arguments[name], -1) for name in turned}


def _weights_reversed(output: Any, arguments: Arguments) -> Any:
    return output._replace(weights=np.flip(output.weights, -1))


COORDINATES_REVERSED = Relation("coordinates in another order", _coordinates_reversed, _weights_reversed)


def _half_rate(learning_rate: float, **arguments: Any) -> Any:
    return gradient_descent_program(**arguments, learning_rate=learning_rate / 2)


register(
    Spec(
        name="learning_algorithms/gradient_descent_program",
        reference=gradient_descent_program,
        arguments=_descent(),
        relations=(COORDINATES_REVERSED,),
        dtypes=FULL,
        mistakes={("constant factor", "the rate of a loss with one half in front"): _half_rate},
    )
)
register(
    Spec(
        name="learning_algorithms/sherman_morrison_program",
        reference=sherman_morrison_program,
        arguments=_ridge(),
        relations=(COORDINATES_REVERSED,),
        dtypes=FULL,
    )
)
