r"""The copying layer: from raw sequences to the tokens that a gradient-descent layer needs (Proposition 3, A.5)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.incontext.linear_attention.construction import ETA, N, X, descent_rounding, over, x
from proofs.ledger import Control, Evidence, claim, equal, within
from proofs.properties import for_all
from proofs.symbolic import block, blocks, scalar, vanishes
from refimpl.incontext.linear_attention import (
    LinearAttentionWeights,
    apply_linear,
    copy_layer_weights,
    gradient_descent,
    gradient_descent_weights,
    interleave_tokens,
    linear_self_attention,
    read_prediction,
    softmax_self_attention,
)
from refimpl.oracle.spec import Arguments, real_arrays
from refimpl.oracle.specs.incontext.linear_attention.construction import FRACTIONS, stable_rate

Copy = Callable[..., LinearAttentionWeights]


def without_head(head: int) -> Copy:
    """The copying layer with one of its heads silenced."""

    def construct(*arguments: Any) -> LinearAttentionWeights:
        weights = copy_layer_weights(*arguments)
        projection = weights.projection.copy()
        projection[head] = 0
        return weights._replace(projection=projection)

    return construct


@st.composite
def sequences(draw: st.DrawFn) -> Arguments:
    n_context = draw(st.sampled_from((1, 2, 3, 5, 10)))
    n_inputs = draw(st.integers(1, min(2 * n_context + 1, 10)))
    batch = draw(st.sampled_from(((), (3,))))
    x = draw(real_arrays((*batch, n_inputs, n_context)))
    return {
        "x": x,
        "y": draw(real_arrays((*batch, draw(st.integers(1, n_inputs)), n_context))),
        "x_query": draw(real_arrays((*batch, n_inputs))),
        "learning_rate": stable_rate(draw(FRACTIONS), x),
    }


def pattern_mismatches(construct: Copy, n_context: int, n_inputs: int) -> int:
    """In how many entries the weights differ from those for one context point and one input with identity blocks in
    place of ones: for content, even positions, odd positions and the query's position."""
    sizes = [n_inputs, n_context, n_context, 1]
    position = n_inputs + np.arange(2 * n_context + 1)
    order = np.concatenate([np.arange(n_inputs), position[:-1:2], position[1::2], position[-1:]])
    mismatches = 0
    for name, small in construct(1, 1)._asdict().items():
        large = getattr(construct(n_context, n_inputs), name)
        for head in range(len(small)):
            entries = small[head].copy()
            embeds = entries[1:, 0].any()
            entries[1:, 0] = 0
            expected = np.block([[entries[i, j] * np.eye(sizes[i], sizes[j]) for j in range(4)] for i in range(4)])[
                np.argsort(order)
            ][:, np.argsort(order)]
            if embeds:
                expected[n_inputs : 2 * n_inputs, :n_inputs] = np.eye(n_inputs)
            mismatches += int(np.sum(large[head] != expected))
    return mismatches


@claim(
    "linear_attention/LA24",
    title="One copying layer and one gradient-descent layer do a step on raw sequences, exactly with linear attention",
    source="Proposition 3, Appendix A.5",
    statement=r"x_1,(0,y_1),\dots,x_N,(0,y_N),x_q\ \mapsto\ [x_j;(0,y_j);0],\,0,\,[x_q;0]\ \mapsto\ \hat y=\Delta Wx_q",
    method="symbolic",
    scope="all numbers of context points, inputs and outputs (blocks); the shipped weights have that block pattern for "
    "N <= 12 and N_x <= min(T, 8); softmax weights at T = 3, 7, 11 for any logit scale; 100 batches of sequences in "
    "floats",
    uses=["linear_attention/LA1"],
    erratum="The proof takes a softmax to leave one-hot logits as they are. At unit scale the token to be copied "
    "has weight e / (e + T - 1), 0.214 for T = 11, and the logits must grow like log T; and the printed values leave "
    "the targets' own tokens and the position entries in place, which heads 2 and 3 remove.",
    control=[
        Control("no head to erase the targets' own tokens", construct=without_head(1)),
        Control("no head to clear the query's position", construct=without_head(2)),
        Control("softmax at unit scale", scale=1.0),
    ],
)
def copying_is_exact(rng: np.random.Generator, construct: Copy = copy_layer_weights, scale: float = 20.0) -> Evidence:
    # Token groups: even context positions, odd ones, the query. J embeds a token's content in the position slots.
    Z = block("Z")  # targets, padded with zeros to the size of inputs
    J = [block(f"J{group}") for group in range(3)]
    tokens = blocks([[X, Z, x], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    weights = construct(1, 1, object)
    value = weights.value.copy()
    value[0, 1:, 0] = J
    copied = linear_self_attention(tokens, weights._replace(value=value), 2, include_query=True)
    exact = vanishes(copied - blocks([[X, 0, x], *([j * Z, 0, 0] for j in J)]), "copied tokens")

    stacked = blocks([[X, 0, x], [block("J") * Z, 0, 0]])
    stepped = linear_self_attention(stacked, gradient_descent_weights(1, 1, ETA, N), 2)
    predicted = read_prediction(stepped, 1)[0]
    step = vanishes(predicted - ETA / N * block("J") * Z * sympy.transpose(X) * x, "prediction after the second layer")

    mismatches = sum(
        pattern_mismatches(construct, n_context, n_inputs)
        for n_context in range(1, 13)
        for n_inputs in range(1, min(2 * n_context + 1, 8) + 1)
    )
    pattern = equal(mismatches, 0, "entries off the block pattern")

    def error(case: Arguments) -> float:
        inputs, targets, query, rate = case.values()
        (n_inputs, n_context), n_outputs = inputs.shape[-2:], targets.shape[-2]
        n_tokens = 2 * n_context + 1
        copied = linear_self_attention(
            interleave_tokens(inputs, targets, query), construct(n_context, n_inputs), n_tokens - 1, include_query=True
        )
        layer = gradient_descent_weights(n_inputs, n_tokens, rate, n_context)
        block_of_targets = read_prediction(linear_self_attention(copied, layer, n_tokens - 1), n_inputs)
        expected = np.zeros_like(block_of_targets)
        expected[..., n_inputs - n_outputs : n_inputs] = apply_linear(gradient_descent(inputs, targets, [rate]), query)
        # The second layer sums over twice as many tokens and T outputs, all of them zeros.
        bound = 4 * descent_rounding(inputs, targets, query, 1)
        return over(float(np.max(np.abs(block_of_targets - expected))), bound)

    in_floats = for_all(rng, sequences(), error, 1, quantity="error over rounding bound")
    return exact & step & pattern & in_floats & softmax_weights(scale)


def softmax_weights(scale: float) -> Evidence:
    """What a softmax makes of the one-hot logits of the copying head, on the shipped layer."""
    tau = scalar("tau", positive=True)
    deficits = {}
    differences = []
    for n_context in (1, 3, 5):
        n_tokens = 2 * n_context + 1
        nothing = blocks([[0] * n_context])
        tokens = interleave_tokens(nothing, nothing, nothing[:, 0])
        weights = LinearAttentionWeights(*(matrix[:1] for matrix in copy_layer_weights(n_context, 1, object)))
        # Values that pass the tokens on: what a token gains in the position slots are its attention weights.
        identity = np.eye(n_tokens + 1, dtype=int).astype(object)[None]
        weights = weights._replace(value=identity, projection=identity)
        gained = softmax_self_attention(tokens, weights, n_tokens - 1, tau, include_query=True) - tokens
        on_next = gained[2, 0]
        deficits[n_tokens] = sympy.lambdify(tau, 1 - on_next)
        differences.append(1 - on_next - (n_tokens - 1) / (sympy.exp(tau) + n_tokens - 1))
    return (
        vanishes(differences, "softmax deficit less (T-1)/(e^tau+T-1)")
        & within(float(deficits[11](1.0)), 0.785, 0.787, "deficit at unit scale, T = 11")
        & within(float(deficits[11](scale)), 0, 1e-6, "deficit at the copying scale")
    )
