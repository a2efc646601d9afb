r"""Attention stacks that read demonstrations: which of them are free of the order, and which cannot be (Section 4).

A demonstration is one token, its input's embedding plus its label's; the query comes last, and its label is read off
the last column. Attention alone: no norm, no perceptron. With random weights a stack is no pretrained model; what it
shows is which architectures can be order-stable at all.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.order_sensitivity.sensitivity import Integers, check_labels, check_orders
from refimpl.primitives.attention import MultiHeadAttention
from refimpl.primitives.checks import check_integer, check_shapes, checked
from refimpl.primitives.layers import linear_vjp
from refimpl.primitives.losses import cross_entropy_vjp
from refimpl.primitives.normalization import softmax
from refimpl.primitives.numbers import Array
from refimpl.primitives.transformer import Block, Kind, transformer_vjp


class AttentionStack(NamedTuple):
    """The parameters; a gradient has the same type."""

    embedding: Array
    """Of inputs, shape ``(D, d_input)``."""
    label_embedding: Array
    """Shape ``(n_classes, D)``."""
    blocks: list[Block]
    readout: Array
    """Shape ``(n_classes, D)``."""
    positions: Array | None = None
    """Shape ``(longest, D)``; None for a stack that does not know where a token stands."""


def random_attention_stack(
    n_layers: int,
    rng: np.random.Generator,
    *,
    n_slots: int | None = None,
    d_input: int = 8,
    n_classes: int = 6,
    d: int = 24,
) -> AttentionStack:
    r"""Gaussian weights: embeddings of unit size, matrices of deviation $1.2/\sqrt D$, read-out $2/\sqrt D$.

    Parameters
    ----------
    n_layers : int >= 1
    rng : np.random.Generator
    n_slots : int or None
        With it there are codes of deviation 0.5 for that many positions.
    d_input, n_classes, d : int >= 1

    Raises
    ------
    ValueError
        If a size is below 1.
    """
    for name, value in {"n_layers": n_layers, "d_input": d_input, "n_classes": n_classes, "d": d}.items():
        check_integer(name, value, 1)
    if n_slots is not None:
        check_integer("n_slots", n_slots, 1)

    def gaussian(*shape: int, scale: float) -> Array:
        return rng.standard_normal(shape) * scale

    blocks = []
    for _ in range(n_layers):
        matrices = [gaussian(1, d, d, scale=1.2 / d**0.5) for _ in range(3)]
        blocks.append(Block(MultiHeadAttention(matrices[0], matrices[1], matrices[2], np.eye(d)[None])))
    return AttentionStack(
        gaussian(d, d_input, scale=d_input**-0.5),
        gaussian(n_classes, d, scale=1.0),
        blocks,
        gaussian(n_classes, d, scale=2 / d**0.5),
        None if n_slots is None else gaussian(n_slots, d, scale=0.5),
    )


def _check_stack(
    stack: AttentionStack, inputs: Array, labels: Integers, queries: Array, causal: bool = True, kind: Kind = "softmax"
) -> None:
    positions = {} if stack.positions is None else {"stack.positions": (stack.positions, "longest D")}
    sizes = check_shapes(
        inputs=(inputs, "... n_demos d_input"),
        queries=(queries, "... n_queries d_input"),
        **{
            "stack.embedding": (stack.embedding, "D d_input"),
            "stack.label_embedding": (stack.label_embedding, "n_classes D"),
            "stack.readout": (stack.readout, "n_classes D"),
            **positions,
        },
    )
    check_labels(labels, (*sizes["..."], sizes["n_demos"]), sizes["n_classes"])
    if stack.positions is not None and sizes["n_demos"] >= sizes["longest"]:
        raise ValueError(f"inputs: expected fewer than {sizes['longest']} demonstrations, got {sizes['n_demos']}")
    transformer_vjp.check(np.zeros((1, sizes["D"]), dtype=stack.embedding.dtype), stack.blocks, causal, kind)


@checked(_check_stack)
def stack_logits(
    stack: AttentionStack, inputs: Array, labels: Integers, queries: Array, causal: bool = True, kind: Kind = "softmax"
) -> Array:
    """The classes' logits at each query after the same demonstrations, each query in a prompt of its own.

    Parameters
    ----------
    stack : AttentionStack
    inputs : array, shape (..., n_demos, d_input)
    labels : integers, shape (..., n_demos)
    queries : array, shape (..., n_queries, d_input)
    causal : bool
        A token attends to itself and the tokens before it; else to all, the query too.
    kind : "softmax" or "linear" attention

    Returns
    -------
    array, shape (..., n_queries, n_classes)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is no class, or there are more tokens than positions.
    """
    return stack_logits_vjp.unchecked(stack, inputs, labels, queries, causal, kind)[0]


@checked(_check_stack)
def stack_logits_vjp(
    stack: AttentionStack, inputs: Array, labels: Integers, queries: Array, causal: bool = True, kind: Kind = "softmax"
) -> tuple[Array, Callable[[Array], tuple[AttentionStack, Array, Array]]]:
    """:func:`stack_logits` and its pullback ``cotangent -> (stack, inputs, queries)``."""
    n_demos, d = inputs.shape[-2], stack.embedding.shape[0]
    batch = queries.shape[:-1]
    embedded, pull_inputs = linear_vjp.unchecked(inputs, stack.embedding)
    embedded_queries, pull_queries = linear_vjp.unchecked(queries, stack.embedding)
    demonstrations = embedded + stack.label_embedding[labels]
    shown = np.broadcast_to(demonstrations[..., None, :, :], (*batch, n_demos, d))
    tokens = np.concatenate([shown, embedded_queries[..., None, :]], axis=-2)
    if stack.positions is not None:
        tokens = tokens + stack.positions[: n_demos + 1]
    hidden, pull_blocks = transformer_vjp.unchecked(tokens, stack.blocks, causal, kind)
    logits, pull_readout = linear_vjp.unchecked(hidden[..., -1, :], stack.readout)

    def pullback(cotangent: Array) -> tuple[AttentionStack, Array, Array]:
        to_last, to_readout = pull_readout(cotangent)
        to_hidden = np.zeros_like(hidden)
        to_hidden[..., -1, :] = to_last
        to_tokens, to_blocks = pull_blocks(to_hidden)
        to_demonstrations = to_tokens[..., :-1, :].sum(axis=-3)
        to_labels = np.zeros_like(stack.label_embedding)
        np.add.at(to_labels, labels, to_demonstrations)
        to_inputs, through_inputs = pull_inputs(to_demonstrations)
        to_queries, through_queries = pull_queries(to_tokens[..., -1, :])
        to_positions = None
        if stack.positions is not None:
            to_positions = np.zeros_like(stack.positions)
            to_positions[: n_demos + 1] = to_tokens.reshape(-1, n_demos + 1, d).sum(axis=0)
        to_stack = AttentionStack(
            through_inputs + through_queries, to_labels, list(to_blocks), to_readout, to_positions
        )
        return to_stack, to_inputs, to_queries

    return logits, pullback


def icl_distributions(
    stack: AttentionStack,
    inputs: Array,
    labels: Integers,
    orders: Integers,
    queries: Array,
    causal: bool = True,
    kind: Kind = "softmax",
) -> Array:
    """What the stack predicts at each query, with the demonstrations in each of the orders.

    Parameters
    ----------
    stack : AttentionStack
    inputs : array, shape (n_demos, d_input)
    labels : integers, shape (n_demos,)
    orders : integers, shape (n_orders, n_demos)
    queries : array, shape (n_queries, d_input)
    causal : bool
    kind : "softmax" or "linear" attention

    Returns
    -------
    array, shape (n_orders, n_queries, n_classes)

    Raises
    ------
    ValueError
        As :func:`stack_logits`, and if an order is no permutation.
    """
    sizes = check_shapes(inputs=(inputs, "n_demos d_input"), queries=(queries, "n_queries d_input"))
    labels = check_labels(labels, (sizes["n_demos"],), len(stack.label_embedding))
    orders = check_orders("orders", orders, sizes["n_demos"])
    everywhere = np.broadcast_to(queries, (*orders.shape[:-1], *queries.shape))
    return softmax.unchecked(stack_logits(stack, inputs[orders], labels[orders], everywhere, causal, kind))


def stack_label_loss(inputs: Array, labels: Integers) -> Callable[[AttentionStack, Any], tuple[float, AttentionStack]]:
    """The loss of the labels of these demonstrations, each asked for without any other in the prompt, and its gradient.

    Returns
    -------
    function ``(stack, rows) -> (loss, gradient)``
        The mean over the demonstrations `rows`.
    """

    def loss_and_gradients(stack: AttentionStack, rows: Any) -> tuple[float, AttentionStack]:
        logits, pull_stack = stack_logits_vjp.unchecked(stack, inputs[:0], labels[:0], inputs[rows])
        losses, pull_loss = cross_entropy_vjp.unchecked(logits, labels[rows])
        (to_logits,) = pull_loss(np.full_like(losses, 1 / losses.size))
        return float(losses.mean()), pull_stack(to_logits)[0]

    return loss_and_gradients
