"""Which architectures are order-stable: one layer without positions, any depth without a mask."""

from typing import Any

import numpy as np
import sympy

from proofs.incontext.order_sensitivity.sensitivity import N_DEMOS, setting
from proofs.ledger import Control, Evidence, at_least, at_most, claim, equal
from proofs.properties import for_all
from proofs.statistics import lies_above, mean_interval
from proofs.symbolic import array, block, blocks, scalar, vanishes
from refimpl.incontext.order_sensitivity import (
    AttentionStack,
    icl_distributions,
    order_sensitivity,
    random_attention_stack,
    stack_logits,
)
from refimpl.oracle.specs.incontext.order_sensitivity import stacks_and_prompts
from refimpl.primitives.attention import MultiHeadAttention, softmax_attention
from refimpl.primitives.numbers import Array
from refimpl.primitives.transformer import Block, transformer


def exact_stack(n_layers: int) -> AttentionStack:
    """A stack of width 1 with rational weights."""
    ones = [np.array([[[sympy.Integer(1)]]], dtype=object) for _ in range(4)]
    blocks_ = [Block(MultiHeadAttention(ones[0], ones[1], ones[2], ones[3])) for _ in range(n_layers)]
    one = np.array([[sympy.Integer(1)]], dtype=object)
    labels = np.array([[sympy.Integer(0)], [sympy.Rational(1, 2)]], dtype=object)
    return AttentionStack(one, labels, blocks_, np.concatenate([one, -one]))


def symbolic_stack(n_layers: int) -> AttentionStack:
    """A stack of width 1 with weights that are symbols."""
    layers = [
        Block(MultiHeadAttention(*[array(f"{name}{layer}", (1, 1, 1)) for name in "qkvo"])) for layer in range(n_layers)
    ]
    return AttentionStack(array("e", (1, 1)), array("l", (2, 1)), layers, array("u", (2, 1)))


def merged(score: Any, value: Any, scores: Any, values: Any) -> tuple[Any, Any]:
    """Two keys as one: the log of the summed exponentials, and the value that attention to both gives."""
    both = np.array([[score], [scores]], dtype=object)
    attended = softmax_attention(
        np.array([[sympy.Integer(1)]], dtype=object), both, np.array([[value], [values]]), scale=1
    )
    return sympy.log(sympy.exp(score) + sympy.exp(scores)), attended[0, 0]


Masks = dict[str, bool]
NO_MASK: Masks = {"deep": False}
ALL_CAUSAL: Masks = {"deep": True}


@claim(
    "order_sensitivity/O12",
    title="One layer without positions is free of the order, and any depth without a mask; two causal layers are not",
    source="derived (Section 4: which transformers can be order-stable)",
    statement=r"\mathrm{Sen}=0:\ \text{1 layer, or no mask};\qquad"
    r"\mathrm{Sen}>0:\ \ge2\text{ causal layers, or positions}",
    method="symbolic",
    scope="softmax attention of one query merges keys by an operation that is commutative and associative, and attends "
    "to three keys as to two merged and the third (symbols: so it is a function of the multiset of any size); linear "
    "attention for all sizes by blocks, one causal layer and two without a mask; softmax stacks of width 1 with 2 "
    "demonstrations by entries; one exact pair of orders that two causal layers tell apart; 60 stacks of the "
    "oracle's inputs; 20 random stacks each of 1 causal, 2 and 3 unmasked layers in floats, of 2 causal layers and "
    "of 1 with positions for the converse",
    control=Control("a causal mask in the deep stacks", masks=ALL_CAUSAL),
)
def order_free_architectures(rng: np.random.Generator, masks: Masks = NO_MASK) -> Evidence:
    evidence = merging_keys() & exchange_in_linear_attention(masks["deep"])

    # By entries: two demonstrations and a query, in either order.
    inputs, query, labels = array("x", (2, 1)), array("z", (1, 1)), np.array([0, 1])

    def exchanged(stack: AttentionStack, causal: bool) -> Array:
        first = stack_logits.unchecked(stack, inputs, labels, query, causal)
        return first - stack_logits.unchecked(stack, inputs[::-1], labels[::-1], query, causal)

    evidence &= vanishes(exchanged(symbolic_stack(1), True), "one causal layer")
    deep = exchanged(symbolic_stack(2), masks["deep"])
    evidence &= equal([entry == 0 for entry in deep.flat], [True, True], "two unmasked layers: the same expression")

    # Exact numbers: the demonstrations 1 and -1, and the query 1.
    shown, asked = (np.array([[sympy.Integer(v)] for v in values], dtype=object) for values in ((1, -1), (1,)))
    told = [stack_logits(exact_stack(2), shown[o], labels[o], asked)[0, 0] for o in ([0, 1], [1, 0])]
    evidence &= at_least(abs(float(sympy.N(told[0] - told[1], 30))), 1e-3, "two causal layers, exact: logits apart")

    def largest(case: dict[str, Any]) -> float:
        stack, inputs, labels, queries = case["stack"], case["inputs"], case["labels"], case["queries"]
        stack = stack._replace(positions=None)
        causal = masks["deep"] if len(stack.blocks) > 1 else case["causal"]
        first = stack_logits(stack, inputs, labels, queries, causal, case["kind"])
        second = stack_logits(stack, inputs[..., ::-1, :], labels[..., ::-1], queries, causal, case["kind"])
        # Linear attention may be large: its sums round in units of their size.
        return float(np.max(np.abs(first - second)) / (1 + np.max(np.abs(first))))

    evidence &= for_all(rng, stacks_and_prompts(), largest, 1e-12, examples=60, quantity="oracle's inputs, relative")

    def sensitivities(n_layers: int, causal: bool, positions: bool = False) -> list[float]:
        out = []
        for _ in range(20):
            inputs, labels, orders, tests = setting(rng)
            stack = random_attention_stack(n_layers, rng, n_slots=N_DEMOS + 1 if positions else None)
            out.append(float(order_sensitivity(icl_distributions(stack, inputs, labels, orders, tests, causal))))
        return out

    # Three layers whose logits are some units, sums of 24 products each: a few hundred units of roundoff.
    return (
        evidence
        & at_most(max(sensitivities(1, True)), 1e-13, "1 causal layer")
        & at_most(max(sensitivities(2, masks["deep"])), 1e-13, "2 unmasked")
        & at_most(max(sensitivities(3, masks["deep"])), 1e-13, "3 unmasked")
        & lies_above(mean_interval(sensitivities(2, True)), 0.05, "2 causal")
        & lies_above(mean_interval(sensitivities(1, True, positions=True)), 0.05, "1 with positions")
    )


def merging_keys() -> Evidence:
    """The merge is commutative and associative, and attention to three keys is a merge and one more."""
    pairs = [(scalar(f"s{i}"), scalar(f"v{i}")) for i in range(3)]
    left = merged(*merged(*pairs[0], *pairs[1]), *pairs[2])
    right = merged(*pairs[0], *merged(*pairs[1], *pairs[2]))
    swapped = [a - b for a, b in zip(merged(*pairs[0], *pairs[1]), merged(*pairs[1], *pairs[0]), strict=True)]
    keys, values = (np.array([[pair[place]] for pair in pairs], dtype=object) for place in (0, 1))
    three = softmax_attention(np.array([[sympy.Integer(1)]], dtype=object), keys, values, scale=1)[0, 0]
    associative = [sympy.exp(left[0]) - sympy.exp(right[0]), left[1] - right[1]]
    return vanishes(swapped, "merge: commutes") & vanishes(
        [*associative, three - left[1]], "associates, and is attention"
    )


def exchange_in_linear_attention(deep_causal: bool) -> Evidence:
    """Two groups of demonstrations of any size in either order: one causal layer, and two layers."""
    rows = [block(name) for name in ("A", "B", "z")]
    one = [blocks([[block(name)]])[None] for name in ("Q1", "K1", "V1", "O1", "Q2", "K2", "V2", "O2")]
    layers = [Block(MultiHeadAttention(*one[:4])), Block(MultiHeadAttention(*one[4:]))]

    def last(order: list[int], n_layers: int, causal: bool) -> Any:
        tokens = blocks([[rows[place]] for place in order])
        return transformer.unchecked(tokens, layers[:n_layers], causal, "linear")[-1, 0]

    # A causal mask between groups is that between their demonstrations as far as the last token sees them; within a
    # group there is none, so that only one layer may be causal here.
    shallow = last([0, 1, 2], 1, True) - last([1, 0, 2], 1, True)
    deep = last([0, 1, 2], 2, deep_causal) - last([1, 0, 2], 2, deep_causal)
    return vanishes(shallow, "linear, one causal layer, all sizes") & vanishes(deep, "linear, two layers, all sizes")
