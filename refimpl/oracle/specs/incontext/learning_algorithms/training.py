"""The trained learner and the probe."""

from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.learning_algorithms import (
    Learner,
    PositionAttentionProbe,
    initial_learner,
    learner_loss,
    learner_loss_vjp,
    learner_predictions,
    learner_predictions_vjp,
    position_attention_probe,
    position_attention_probe_vjp,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register, symbols
from refimpl.primitives.attention import MultiHeadAttention
from refimpl.primitives.layers import Linear
from refimpl.primitives.numbers import Array
from refimpl.primitives.transformer import Block

BATCHES = st.sampled_from(((), (1,), (3,)))


@st.composite
def learners(draw: st.DrawFn) -> Arguments:
    batch, n_points, n_inputs = draw(BATCHES), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    rng = draw(generators())
    n_heads = draw(st.integers(1, 2))
    learner = initial_learner(n_points, n_inputs, draw(st.integers(1, 2)), 4 * n_heads, n_heads, rng, np.float64)
    return {
        "x": np.clip(draw(real_arrays((*batch, n_points, n_inputs))), -3, 3),
        "y": np.clip(draw(real_arrays((*batch, n_points))), -3, 3),
        "learner": learner,
    }


def _symbolic_learner() -> Arguments:
    """One token of one dimension, without norms, whose epsilon is no exact number."""
    attention = MultiHeadAttention(*(symbols(name, 1, 1, 1) for name in "qkvo"))
    learner = Learner(
        Linear(symbols("e", 1, 2), symbols("b", 1)),
        symbols("p", 1, 1),
        [Block(attention)],
        None,
        Linear(symbols("r", 1, 1), symbols("c", 1)),
    )
    return {"x": symbols("x", 1, 1), "y": symbols("y", 1), "learner": learner}


def _last_target_changed(arguments: Arguments) -> Arguments:
    y = arguments["y"]
    return arguments | {"y": np.concatenate([y[..., :-1], 1 + y[..., -1:]], axis=-1)}


register(
    Spec(
        name="learning_algorithms/learner_predictions",
        reference=learner_predictions,
        arguments=learners(),
        vjp=learner_predictions_vjp,
        symbols=_symbolic_learner,
        relations=(
            Relation("the last target changed: it is not seen", _last_target_changed, lambda output, arguments: output),
        ),
    )
)
register(
    Spec(
        name="learning_algorithms/learner_loss",
        reference=learner_loss,
        arguments=learners(),
        vjp=learner_loss_vjp,
        symbols=_symbolic_learner,
    )
)


@st.composite
def _probes(draw: st.DrawFn) -> Arguments:
    n_rows, n_columns, n_values, n_target = (draw(st.integers(1, 4)) for _ in range(4))

    def matrix(*shape: int) -> Array:
        return draw(real_arrays(shape)) / shape[-1] ** 0.5

    widths = [n_values, n_target] if draw(st.booleans()) else [n_values, 5, n_target]
    layers = [Linear(matrix(outputs, inputs), draw(real_arrays((outputs,)))) for inputs, outputs in pairwise(widths)]
    return {
        "hidden": draw(real_arrays((*draw(BATCHES), n_rows, n_columns))),
        "params": PositionAttentionProbe(draw(real_arrays((n_columns,))), matrix(n_values, n_rows), layers),
    }


def _columns_reversed(arguments: Arguments) -> Arguments:
    params = arguments["params"]
    return {
        "hidden": arguments["hidden"][..., ::-1],
        "params": params._replace(scores=params.scores[::-1]),
    }


register(
    Spec(
        name="learning_algorithms/position_attention_probe",
        reference=position_attention_probe,
        arguments=_probes(),
        vjp=position_attention_probe_vjp,
        symbols=lambda: {
            "hidden": symbols("h", 2, 2),
            "params": PositionAttentionProbe(
                symbols("s", 2), symbols("v", 1, 2), [Linear(symbols("w", 1, 1), symbols("b", 1))]
            ),
        },
        relations=(Relation("columns in reverse, scores too", _columns_reversed, lambda output, arguments: output),),
    )
)
