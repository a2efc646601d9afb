"""What is true of "Why Can GPT Learn In-Context?" (arXiv 2212.10559): the identities, for matrices of all sizes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from proofs.ledger import Control, Evidence, claim
from proofs.symbolic import block, blocks, vanishes
from refimpl.incontext.dual_form import (
    dual_form,
    explicit_update,
    implicit_update,
    implied_loss_vjp,
    zero_shot_matrix,
)
from refimpl.primitives.numbers import Array, transpose


def one(name: str) -> Array:
    return blocks([[block(name)]])


def vector(name: str) -> Array:
    return one(name)[0]


@claim(
    "dual_form/D1",
    title="A linear layer plus outer products is the layer plus linear attention",
    source="Eq. 7 to 9",
    statement=r"(W_0+\sum_ie_i\otimes x_i')x=W_0x+E(X'^\top x)",
    method="symbolic",
    scope="all sizes and all numbers of examples: E and X' are two blocks of columns each",
    control=Control("outer products transposed", outer=lambda e, x: x @ transpose(e)),
)
def linear_layer_is_attention(outer: Callable[..., Array] = lambda e, x: e @ transpose(x)) -> Evidence:
    errors = blocks([[block("E1"), block("E2")]])
    inputs = blocks([[block("X1"), block("X2")]])
    start, x = one("W"), vector("x")
    return vanishes((start + outer(errors, inputs)) @ x - dual_form(start, errors, inputs, x), "difference")


@claim(
    "dual_form/D4",
    title="Fine-tuning keys and values adds a matrix, second-order term included",
    source="Eq. 13",
    statement=r"(W_V+\Delta W_V)XX^\top(W_K+\Delta W_K)^\top=W_{ZSL}+\Delta W_{FT}",
    method="symbolic",
    scope="all sizes",
    control=Control(
        "the second-order term dropped",
        update=lambda v, k, dv, dk, x: explicit_update(v, k, dv, dk, x) - dv @ x @ transpose(dk @ x),
    ),
)
def finetuning_adds_a_matrix(update: Callable[..., Array] = explicit_update) -> Evidence:
    value, key, to_value, to_key, context = (one(name) for name in ("V", "K", "dV", "dK", "X"))
    tuned = zero_shot_matrix(value + to_value, key + to_key, context)
    found = zero_shot_matrix(value, key, context) + update(value, key, to_value, to_key, context)
    return vanishes(tuned - found, "difference")


@claim(
    "dual_form/D5",
    title="The implicit update is a gradient step on a bilinear loss everywhere, on squared error at zero only",
    source="implied by Section 3.1",
    statement=r"-\nabla_W\big(-\sum_iv_i^\top Wk_i\big)=\Delta W_{ICL},\quad"
    r"-\nabla_W\tfrac12\sum_i\|v_i-Wk_i\|^2=\Delta W_{ICL}-W\sum_ik_ik_i^\top",
    method="symbolic",
    scope="entry by entry at 2 outputs, 2 inputs, 3 demonstrations; the gradients are those of the pullback, which is "
    "itself checked against the loss by differentiation",
    control=Control("squared error in place of the bilinear loss, at W other than 0", kind="squared"),
)
def update_is_a_gradient_step(kind: Any = "bilinear") -> Evidence:
    from proofs.symbolic import array

    weights, values, keys = array("w", (2, 2)), array("v", (2, 3)), array("k", (2, 3))
    identity = np.eye(2, dtype=int).astype(object)

    def step(at: Array, kind: Any) -> Array:
        return -implied_loss_vjp(at, values, keys, kind)[1](np.array(1, dtype=object))[0]

    update = implicit_update(
        np.hstack([identity, 0 * identity]), np.hstack([0 * identity, identity]), np.vstack([values, keys])
    )
    excess = update - step(weights, "squared") - weights @ keys @ keys.T
    return (
        vanishes(step(weights, kind) - update, "step minus update")
        & vanishes(step(0 * weights, "squared") - update, "squared error at zero")
        & vanishes(excess, "squared error elsewhere")
    )
