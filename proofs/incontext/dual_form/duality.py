r"""The identities of Sections 2.2 and 3.1, for matrices of all sizes.

The shipped code runs on blocks: columns come in two or three blocks of any number each, so that what holds of the
blocks in any order holds for all numbers of tokens.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.ledger import Control, Evidence, at_most, claim
from proofs.properties import for_all
from proofs.symbolic import block, blocks, induction, vanishes
from refimpl.incontext.dual_form import (
    dual_form,
    explicit_update,
    full_attention,
    implicit_update,
    implied_loss,
    implied_loss_vjp,
    linear_layer_sgd,
    relaxed_attention,
    zero_shot_matrix,
)
from refimpl.oracle.spec import Arguments, find_spec
from refimpl.primitives.normalization import softmax
from refimpl.primitives.numbers import Array, transpose
from refimpl.primitives.traces import inner

EPS = float(np.finfo(np.float64).eps)


def one(name: str) -> Array:
    return blocks([[block(name)]])


def side_by_side(*names: str) -> Array:
    return blocks([[block(name) for name in names]])


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
    errors, inputs = side_by_side("E1", "E2"), side_by_side("X1", "X2")
    start, x = one("W"), vector("x")
    return vanishes((start + outer(errors, inputs)) @ x - dual_form(start, errors, inputs, x), "difference")


def _errors_at_the_start(
    weights: Array, inputs: Array, targets: Array, learning_rate: Any, *gradient: Any
) -> tuple[Array, Array]:
    trained, _ = linear_layer_sgd(weights, inputs, targets, learning_rate, *gradient)
    step = gradient[0] if gradient else lambda prediction, target: prediction - target
    return trained, -learning_rate * step(weights @ inputs, targets)


def _softmax_error(logits: Array, target: Array) -> Array:
    """The gradient of cross-entropy with a soft target."""
    return transpose(softmax(transpose(logits)) - softmax(transpose(target)))


@claim(
    "dual_form/D2",
    title="Gradient descent on one example after another has a dual form, with the errors of its trajectory",
    source="Section 2.2, Eq. 7 to 9",
    statement=r"W_t=W_0+\sum_{i\le t}e_i\otimes x_i',\quad e_i=-\gamma\,\partial\ell(W_{i-1}x_i')",
    method="symbolic",
    scope="all sizes, any loss of the layer's output (its gradient is an arbitrary block), all numbers of steps by "
    "induction: the layer of t steps is a start plus outer products; two steps on squared error in full; 60 runs of 40 "
    "steps on squared error and on cross-entropy in float64",
    uses=["dual_form/D1"],
    control=Control("the errors are all taken at the initial weights", train=_errors_at_the_start),
)
def trained_layer_is_attention(
    rng: np.random.Generator, train: Callable[..., tuple[Array, Array]] = linear_layer_sgd
) -> Evidence:
    rate, start, query = sympy.Symbol("gamma", positive=True), one("W"), vector("q")

    def gap(before: Array, history: tuple[Array, Array] | None, inputs: Array, targets: Array, *gradient: Any) -> Any:
        """Of the layer that is trained from where the history has led, and the dual form of both together."""
        trained, errors = train(before, inputs, targets, rate, *gradient)
        if history is not None:
            errors, inputs = (np.concatenate(pair, axis=1) for pair in zip(history, (errors, inputs), strict=True))
        return trained @ query - dual_form(start, errors, inputs, query)

    history = one("E"), one("X")
    any_loss = (one("x"), one("y"), lambda prediction, target: one("g"))
    proof = induction(
        vanishes(gap(start, None, *any_loss), "first step"),
        vanishes(gap(start + history[0] @ transpose(history[1]), history, *any_loss), "next step"),
    ) & vanishes(gap(start, None, side_by_side("x1", "x2"), side_by_side("y1", "y2")), "two steps on squared error")

    def error(case: tuple[int, int, int, bool]) -> float:
        d_out, d_in, seed, squared = case
        draw = np.random.default_rng(seed)
        weights, inputs, targets, x = (
            draw.standard_normal(shape) for shape in ((d_out, d_in), (d_in, 40), (d_out, 40), d_in)
        )
        inputs /= np.linalg.norm(inputs, axis=0)
        trained, errors = train(weights, inputs, targets, 0.5, *() if squared else (_softmax_error,))
        size = np.abs(weights) @ np.abs(x) + np.abs(errors) @ (np.abs(inputs.T) @ np.abs(x))
        return float(np.max(np.abs(trained @ x - dual_form(weights, errors, inputs, x)) / size))

    cases = st.tuples(st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**32 - 1), st.booleans())
    # Each of the two sums over 40 steps and d_in entries rounds at most 50 times, relative to the sum of sizes.
    return proof & for_all(rng, cases, error, 2 * 50 * EPS, 60, "trained layer")


@claim(
    "dual_form/D3",
    title="Attention without softmax adds to the zero-shot matrix one of rank at most the number of demonstrations",
    source="Eq. 11 and 12",
    statement=r"W_V[X';X](W_K[X';X])^\top q=(W_{ZSL}+\Delta W_{ICL})q,\quad "
    r"\mathrm{rank}\,\Delta W_{ICL}\le\min(N,d')",
    method="symbolic",
    scope="all sizes; the rank exactly, of 60 integer matrices up to 6 by 6, and attained by one of each size up to 4",
    control=[
        Control("values and keys trade places", update=lambda v, k, x: implicit_update(k, v, x)),
        Control(
            "one more outer product than demonstrations",
            update=lambda v, k, x: implicit_update(v, k, x) + implicit_update(v, k, x[..., :1] ** 0),
        ),
    ],
)
def demonstrations_add_a_matrix(rng: np.random.Generator, update: Callable[..., Array] = implicit_update) -> Evidence:
    value, key, demos, context, query = one("V"), one("K"), side_by_side("D1", "D2"), one("X"), vector("q")
    matrix = zero_shot_matrix(value, key, context) + update(value, key, demos)
    identity = vanishes(matrix @ query - relaxed_attention(value, key, demos, context, query), "difference")

    def rank(d_head: int, n_demos: int, seed: int, high: int = 3) -> int:
        draw = np.random.default_rng(seed)
        shapes = (d_head, 7), (d_head, 7), (7, n_demos)
        head = (draw.integers(-high, high + 1, size=shape).astype(object) for shape in shapes)
        return int(sympy.Matrix(update(*head)).rank())

    cases = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
    excess = for_all(rng, cases, lambda case: rank(*case) - min(case[:2]), 0, 60, "rank above min(N, d')")
    missed = max(
        min(d_head, n_demos) - rank(d_head, n_demos, int(rng.integers(2**32)), 10**6)
        for d_head in range(1, 5)
        for n_demos in range(1, 5)
    )
    return identity & excess & at_most(missed, 0, "rank missed by")


@claim(
    "dual_form/D4",
    title="Fine-tuning keys and values adds a matrix, second-order term included",
    source="Eq. 13",
    statement=r"(W_V+\Delta W_V)XX^\top(W_K+\Delta W_K)^\top=W_{ZSL}+\Delta W_{FT}",
    method="symbolic",
    scope="all sizes",
    control=Control(
        "the second-order term dropped",
        update=lambda v, k, dv, dk, x: explicit_update(v, k, dv, dk, x) - zero_shot_matrix(dv, dk, x),
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
    statement=r"-\nabla_W\big(-\sum_iv_i^\top Wk_i\big)=\Delta W_{ICL},\quad "
    r"-\nabla_W\tfrac12\sum_i\|v_i-Wk_i\|^2=\Delta W_{ICL}-W\sum_ik_ik_i^\top",
    method="symbolic",
    scope="all sizes and numbers of demonstrations; that the pullback's matrix is the gradient too: the loss at W + H "
    "is that at W, the inner product with H, and a remainder of second order in H",
    control=Control("squared error in place of the bilinear loss, at W other than 0", kind="squared"),
)
def update_is_a_gradient_step(kind: Any = "bilinear") -> Evidence:
    weights, change, value, key, demos = one("W"), one("H"), one("V"), one("K"), side_by_side("D1", "D2")
    values, keys = value @ demos, key @ demos
    update = implicit_update(value, key, demos)

    def gradient(at: Array, kind: Any) -> Array:
        return implied_loss_vjp(at, values, keys, kind)[1](np.array(1, dtype=object))[0]

    def remainder(kind: Any) -> Any:
        moved, here = (implied_loss(at, values, keys, kind) for at in (weights + change, weights))
        second_order = inner(change @ keys, change @ keys)[0, 0] / 2 if kind == "squared" else 0
        return moved - here - inner(gradient(weights, kind), change)[0, 0] - second_order

    return (
        vanishes(-gradient(weights, kind) - update, "step minus update")
        & vanishes(-gradient(0 * weights, "squared") - update, "squared error at zero")
        & vanishes(-gradient(weights, "squared") - update + weights @ keys @ transpose(keys), "squared error elsewhere")
        & vanishes([remainder("bilinear"), remainder("squared")], "beyond first order")
    )


def _descent(value: Array, key: Array, demos: Array) -> Array:
    """The change of a layer from zero, one step of squared error a demonstration."""
    keys, values = key @ demos, value @ demos
    return linear_layer_sgd(0 * values[..., :1] @ transpose(keys[..., :1]), keys, values, 1)[0]


@claim(
    "dual_form/D6",
    title="Demonstrations act in any order; their number counts in the implicit update, not in softmax over them alone",
    source="Section 3.1, meta-gradients are summed",
    statement=r"\Delta W_{ICL}(X'\Pi)=\Delta W_{ICL}(X'),\quad\Delta W_{ICL}([X',X'])=2\Delta W_{ICL}(X'),\quad "
    r"\mathrm{Attn}([X',X'];q)=\mathrm{Attn}(X';q)",
    method="symbolic",
    scope="the update at all sizes: two neighbouring blocks of columns trade places, which generates all orders; "
    "softmax on 60 heads of the oracle's domain, in reverse and random orders, to roundoff. One layer without "
    "positions: batch-1 descent, stacked causal layers and positions do tell orders apart",
    control=Control("a layer trained on one demonstration after another", update=_descent),
)
def order_does_not_matter(rng: np.random.Generator, update: Callable[..., Array] = implicit_update) -> Evidence:
    value, key = one("V"), one("K")
    ordered = update(value, key, side_by_side("D1", "D2", "D3", "D4"))
    swapped = update(value, key, side_by_side("D1", "D3", "D2", "D4"))
    doubled = update(value, key, side_by_side("D1", "D2", "D1", "D2"))
    proof = vanishes(ordered - swapped, "two neighbours swapped") & vanishes(
        doubled - 2 * update(value, key, side_by_side("D1", "D2")), "every demonstration twice"
    )

    def error(case: tuple[Arguments, int]) -> float:
        head, seed = case
        demos, nothing = head["demos"], head["demos"][..., :0]
        order = np.random.default_rng(seed).permutation(demos.shape[-1])
        plain = full_attention(**head)
        alone = head | {"demos": nothing, "context": demos}
        twice = alone | {"context": np.concatenate([demos, demos], axis=-1)}
        differences = [
            full_attention(**head | {"demos": demos[..., order]}) - plain,
            full_attention(**head | {"demos": demos[..., ::-1]}) - plain,
            full_attention(**twice) - full_attention(**alone),
        ]
        return max(float(np.max(np.abs(d) / attention_roundoff(head))) for d in differences)

    cases = st.tuples(find_spec("dual_form/softmax_attention_split").arguments, st.integers(0, 2**32 - 1))
    return proof & for_all(rng, cases, error, 1, 60, "softmax attention, in units of roundoff")


def attention_roundoff(head: Arguments) -> Any:
    """A bound on twice the rounding error of softmax attention over all tokens of a head, an array (..., 1).

    A product of d terms is off by d eps of the product of absolute values. A score that is off by s multiplies its
    weight by at most 1 + 2s; a weighted mean of n values is off by n + 5 eps of the largest, and each value by d eps.
    """
    tokens = np.abs(np.concatenate([head["demos"], head["context"]], axis=-1))
    values = np.max(np.abs(head["value"]) @ tokens, axis=(-1, -2))
    scores = np.max(np.swapaxes(np.abs(head["key"]) @ tokens, -1, -2) @ np.abs(head["query"])[..., None], axis=(-1, -2))
    d, d_head, n = tokens.shape[-2], head["query"].shape[-1], tokens.shape[-1]
    score_error = (d + d_head + 3) * EPS * scores / d_head**0.5
    return (2 * values * (2 * score_error + (2 * n + d + 5) * EPS) + 1e-300)[..., None]
