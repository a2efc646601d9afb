"""Similarities of predictions, and the weights that predictions induce."""

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.higher_order import similarity_of_errors
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register, symbols
from refimpl.oracle.specs.incontext.higher_order.newton import (
    BATCHES,
    FULL_DTYPES,
    reflect,
    rescaled,
    unchanged,
)
from refimpl.primitives.least_squares import induced_weights
from refimpl.primitives.numbers import Array


@st.composite
def _predictions(draw: st.DrawFn) -> Arguments:
    shape = (*draw(BATCHES), draw(st.sampled_from((1, 2, 5, 40))))
    y = draw(real_arrays(shape))

    def away(residuals: Array) -> Array:
        """No sequence without an error."""
        residuals[..., 0] += np.where(residuals[..., 0] < 0, -1, 1)
        return y + residuals

    return {"predictions_a": away(draw(real_arrays(shape))), "predictions_b": away(draw(real_arrays(shape))), "y": y}


register(
    Spec(
        name="higher_order/similarity_of_errors",
        reference=similarity_of_errors,
        arguments=_predictions(),
        symbols=lambda: {name: symbols(name[-1], 2) for name in ("predictions_a", "predictions_b", "y")},
        dtypes=FULL_DTYPES,
        relations=(
            Relation(
                "the two algorithms swapped",
                lambda arguments: (
                    arguments
                    | {
                        "predictions_a": arguments["predictions_b"],
                        "predictions_b": arguments["predictions_a"],
                    }
                ),
                unchanged,
            ),
            Relation(
                "everything times 4",
                lambda arguments: rescaled(arguments, predictions_a=4, predictions_b=4, y=4),
                unchanged,
            ),
        ),
        mistakes={
            (
                "missing term",
                "the cosine of the predictions, not of their errors",
            ): lambda predictions_a, predictions_b, y: similarity_of_errors(predictions_a, predictions_b, 0 * y)
        },
    )
)


@st.composite
def _queries(draw: st.DrawFn) -> Arguments:
    batch, d = draw(BATCHES), draw(st.sampled_from((1, 2, 3, 5)))
    rng = draw(generators())
    queries = rng.standard_normal((*batch, draw(st.sampled_from((2 * d, 40))), d))
    return {"queries": queries, "predictions": draw(real_arrays(queries.shape[:-1]))}


register(
    Spec(
        name="primitives/induced_weights",
        reference=induced_weights,
        arguments=_queries(),
        dtypes=("float32",),
        relations=(
            Relation(
                "queries reflected",
                lambda arguments: arguments | {"queries": reflect(arguments["queries"])},
                lambda output, arguments: reflect(output),
            ),
            Relation(
                "queries times 2",
                lambda arguments: rescaled(arguments, queries=2),
                lambda output, arguments: output / 2,
            ),
            Relation(
                "predictions times 4",
                lambda arguments: rescaled(arguments, predictions=4),
                lambda output, arguments: 4 * output,
            ),
        ),
    )
)
