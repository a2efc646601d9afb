r"""The layer, its effective weights, and the gradient step that it can be (Section 2)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.incontext.one_step_optimality.setting import ETA, QUERY, X, column
from proofs.ledger import Control, Evidence, claim
from proofs.symbolic import array, block, blocks, vanishes
from refimpl.incontext.one_step_optimality import (
    AttentionWeights,
    effective_weights,
    gd_lsa_parameters,
    lsa_predict,
    lsa_predict_full,
)
from refimpl.primitives.least_squares import gradient_descent
from refimpl.primitives.numbers import Array, transpose

Y = block("y", "column")


def query_token_of_one(weights: AttentionWeights, x: Array, y: Array, x_query: Array) -> Array:
    """The layer on a query token that ends in 1: the last column of the query matrix is read."""
    tokens = np.concatenate([x, y[:, None]], axis=-1)
    query = weights.query @ column(*x_query, 1)[:, None]
    scores = tokens @ transpose(weights.key) @ query
    return np.asanyarray(transpose(tokens @ transpose(weights.value) @ weights.head[:, None]) @ scores)[0, 0]


@claim(
    "one_step_optimality/OS1",
    title="The prediction depends on the four matrices only through w and M",
    source="Section 2",
    statement=r"h^\top\sum_iW_Vv_i\,(v_i^\top W_K^\top W_Qv_{n+1})=w^\top G_DM\,x_{n+1},\quad w=W_V^\top h,\ "
    r"M=(W_K^\top W_Q)_{:,1:d}",
    method="symbolic",
    scope="all numbers of inputs and context points, all weights (blocks); again by entries at 2 inputs, 2 points",
    control=Control("a query token that ends in 1 instead of 0", predict=query_token_of_one),
)
def only_w_and_m_matter(predict: Callable[..., Array] = lsa_predict_full) -> Evidence:
    def difference(weights: AttentionWeights, *prompt: Any) -> Array:
        return predict(weights, *prompt) - lsa_predict(effective_weights(weights), *prompt)

    key, query, value = (blocks([[block(f"{name}{i}{j}") for j in "12"] for i in "12"]) for name in "kqv")
    weights = AttentionWeights(key, query, value, column(block("h1"), block("h2")))
    of_symbols = array("k", (3, 3)), array("q", (3, 3)), array("v", (3, 3))
    entries = AttentionWeights(*of_symbols, array("h", (3,)))
    return vanishes(difference(weights, blocks([[X]]), column(Y), column(QUERY)), "all sizes") & vanishes(
        difference(entries, array("x", (2, 2)), array("y", (2,)), array("z", (2,))), "entries"
    )


def reading_inputs(n_inputs: int, learning_rate: Any) -> AttentionWeights:
    weights = gd_lsa_parameters(n_inputs, learning_rate)
    return weights._replace(head=weights.head + learning_rate)


def keys_of_targets(n_inputs: int, learning_rate: Any) -> AttentionWeights:
    """Queries that write what they ask for into the entry of the target, and keys that read it."""
    weights = gd_lsa_parameters(n_inputs, learning_rate)
    query = weights.query.copy()
    query[-1, 0] = block("k")
    return weights._replace(key=weights.value, query=query)


@claim(
    "one_step_optimality/OS2",
    title="With these weights the layer is one step of gradient descent on the sum of squares, from zero",
    source="Theorem 1 (construction)",
    statement=r"W_K=W_Q=\mathrm{diag}(I_d,0),\ W_V=I,\ h=\eta e_{d+1}:\quad\hat y=\eta\sum_iy_ix_i^\top x_{n+1}="
    r"(0-\eta\nabla\tfrac12\lVert Xw-y\rVert^2|_{w=0})^\top x_{n+1}",
    method="symbolic",
    scope="all numbers of inputs and context points, all rates (blocks)",
    uses=["one_step_optimality/OS1"],
    control=[
        Control("a head that reads the inputs too", construct=reading_inputs),
        Control("keys that read the targets", construct=keys_of_targets),
    ],
)
def layer_is_a_step(construct: Callable[..., AttentionWeights] = gd_lsa_parameters) -> Evidence:
    prompt = blocks([[X]]), column(Y), column(QUERY)
    prediction = lsa_predict_full(construct(1, ETA), *prompt)
    step = gradient_descent(prompt[0], prompt[1], 1, ETA)
    return vanishes(prediction - ETA * sympy.transpose(Y) * X * QUERY, "all sizes") & vanishes(
        prediction - (transpose(step[:, None]) @ prompt[2][:, None])[0, 0], "against the shared gradient step"
    )
