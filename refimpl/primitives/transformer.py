r"""A small pre-norm transformer on rows of tokens, with its pullback: what the papers' trained models share.

Embedding and read-out are the papers' own; this is the stack of blocks between them,
$x\leftarrow x+\mathrm{MHA}(\mathrm{LN}(x))$, $x\leftarrow x+\mathrm{MLP}(\mathrm{LN}(x))$, where a norm or the
perceptron may be absent.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from refimpl.primitives.attention import MultiHeadAttention, multi_head_attention_vjp
from refimpl.primitives.checks import check_integer, checked
from refimpl.primitives.layers import Linear, mlp_vjp
from refimpl.primitives.normalization import layer_norm_vjp
from refimpl.primitives.numbers import Array

Kind = Literal["softmax", "linear"]
Attend = Callable[[Array, MultiHeadAttention], tuple[Array, Callable[[Array], tuple[Array, MultiHeadAttention]]]]


class Norm(NamedTuple):
    """The scale and offset of a layer norm, each of shape (d,)."""

    scale: Array
    offset: Array


class Block(NamedTuple):
    """One block; ``mlp`` is None for attention alone, a norm None for none."""

    attention: MultiHeadAttention
    mlp: list[Linear] | None = None
    attention_norm: Norm | None = None
    mlp_norm: Norm | None = None


def _check_transformer(
    x: Array, blocks: Sequence[Block], causal: bool = True, kind: Kind = "softmax", activation: str = "gelu"
) -> None:
    if not isinstance(blocks, list | tuple) or not blocks or not all(isinstance(block, Block) for block in blocks):
        raise ValueError(f"blocks: expected a list of at least one Block, got {blocks!r:.80}")
    for index, block in enumerate(blocks):
        try:
            multi_head_attention_vjp.check(x, block.attention, kind, causal)
            if block.mlp is not None:
                mlp_vjp.check(x, block.mlp, activation)
            for norm in (block.attention_norm, block.mlp_norm):
                if norm is not None:
                    layer_norm_vjp.check(x, *norm)
        except ValueError as error:
            raise ValueError(f"blocks[{index}].{error}") from None
        if block.mlp is not None and block.mlp[-1].weight.shape[0] != x.shape[-1]:
            raise ValueError(
                f"blocks[{index}].mlp: expected {x.shape[-1]} outputs, got {block.mlp[-1].weight.shape[0]}"
            )


@checked(_check_transformer)
def transformer(
    x: Array, blocks: Sequence[Block], causal: bool = True, kind: Kind = "softmax", activation: str = "gelu"
) -> Array:
    """The blocks applied one after another.

    Parameters
    ----------
    x : array, shape (..., n_tokens, d)
    blocks : list of Block
    causal : bool
        A token attends to itself and the tokens before it.
    kind : "softmax" or "linear" attention
    activation : name in ``ACTIVATIONS``, of the perceptrons

    Returns
    -------
    array, shape (..., n_tokens, d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, there is no block or a name is unknown.

    Source: Vaswani et al., arXiv 1706.03762; the norm's place from Radford et al. (2019).
    """
    return transformer_vjp.unchecked(x, blocks, causal, kind, activation)[0]


@checked(_check_transformer)
def transformer_vjp(
    x: Array, blocks: Sequence[Block], causal: bool = True, kind: Kind = "softmax", activation: str = "gelu"
) -> tuple[Array, Callable[[Array], tuple[Array, Sequence[Block]]]]:
    """:func:`transformer` and its pullback ``cotangent -> (x, blocks)``."""

    def attend(rows: Array, weights: MultiHeadAttention) -> Any:
        return multi_head_attention_vjp.unchecked(rows, weights, kind, causal)

    return stack_blocks(x, blocks, attend, activation)


def causal_attention(rows: Array, weights: MultiHeadAttention) -> Any:
    """Causal softmax attention and its pullback ``cotangent -> (rows, weights)``; arguments unchecked."""
    return multi_head_attention_vjp.unchecked(rows, weights, "softmax", True)


def stack_blocks(
    x: Array, blocks: Sequence[Block], attend: Attend = causal_attention, activation: str = "gelu", at: Any = None
) -> tuple[Array, Callable[[Array], tuple[Array, Sequence[Block]]]]:
    """The blocks with any attention in them, and their pullback ``cotangent -> (x, blocks)``; arguments unchecked.

    Parameters
    ----------
    x, blocks, activation : as in :func:`transformer`
    attend : maps rows and a block's attention weights to the attended rows and the pullback to both
    at : slice, or array of distinct integers, or None for all
        The tokens that are read: the output has only these, and the last perceptron leaves the others out.
    """
    pulls = []
    for index, block in enumerate(blocks, start=1):
        x, pull = _block_vjp(x, block, attend, activation, at if index == len(blocks) else None)
        pulls.append(pull)

    def pullback(cotangent: Array) -> tuple[Array, Sequence[Block]]:
        to_blocks = []
        for pull in reversed(pulls):
            cotangent, to_block = pull(cotangent)
            to_blocks.append(to_block)
        return cotangent, type(blocks)(reversed(to_blocks))  # type: ignore[call-arg]

    return x, pullback


def _block_vjp(
    x: Array, block: Block, attend: Attend, activation: str, at: Any
) -> tuple[Array, Callable[[Array], tuple[Array, Block]]]:
    rows, pull_attention_norm = optional_norm(x, block.attention_norm)
    attended, pull_attention = attend(rows, block.attention)
    x = x + attended
    shape = x.shape
    if at is not None:
        x = x[..., at, :]
    if block.mlp is not None:
        rows, pull_mlp_norm = optional_norm(x, block.mlp_norm)
        transformed, pull_mlp = mlp_vjp.unchecked(rows, block.mlp, activation)
        x = x + transformed

    def pullback(cotangent: Array) -> tuple[Array, Block]:
        to_mlp, to_mlp_norm = None, None
        if block.mlp is not None:
            to_rows, to_mlp = pull_mlp(cotangent)
            to_x, to_mlp_norm = pull_mlp_norm(to_rows)
            cotangent = cotangent + to_x
        if at is not None:
            of_read, cotangent = cotangent, np.zeros_like(cotangent, shape=shape)
            cotangent[..., at, :] = of_read
        to_rows, to_attention = pull_attention(cotangent)
        to_x, to_attention_norm = pull_attention_norm(to_rows)
        return cotangent + to_x, Block(to_attention, to_mlp, to_attention_norm, to_mlp_norm)  # type: ignore[arg-type]

    return x, pullback


def optional_norm(x: Array, norm: Norm | None) -> tuple[Array, Callable[[Array], tuple[Array, Norm | None]]]:
    """The layer norm, or the rows themselves, and the pullback ``cotangent -> (x, norm)``; arguments unchecked."""
    if norm is None:
        return x, lambda cotangent: (cotangent, None)
    output, pull = layer_norm_vjp.unchecked(x, *norm)

    def pullback(cotangent: Array) -> tuple[Array, Norm | None]:
        to_x, *to_norm = pull(cotangent)
        return to_x, Norm(*to_norm)

    return output, pullback


def initial_transformer(
    n_blocks: int,
    d: int,
    n_heads: int,
    rng: np.random.Generator,
    d_mlp: int | None = None,
    norm: bool = True,
    dtype: Any = np.float64,
) -> list[Block]:
    r"""Gaussian weights of variance 1/fan-in, over $\sqrt{2\,n_{blocks}}$ where they write to the residual stream.

    Parameters
    ----------
    n_blocks, d, n_heads : int
        `n_heads` must divide `d`.
    rng : np.random.Generator
    d_mlp : int or None
        Width of the perceptrons; None for attention alone.
    norm : bool
        Layer norms before each part.
    dtype : floating dtype

    Raises
    ------
    ValueError
        If a size is below 1 or `n_heads` does not divide `d`.

    Source: the residual scaling from Radford et al. (2019), Section 2.3.
    """
    check_integer("n_blocks", n_blocks, 1)
    check_integer("d", d, 1)
    if d % check_integer("n_heads", n_heads, 1):
        raise ValueError(f"n_heads: expected a divisor of d = {d}, got {n_heads}")
    to_residual = (2 * n_blocks) ** -0.5

    def gaussian(*shape: int, scale: float = 1.0) -> Array:
        return (rng.standard_normal(shape) * (scale / shape[-1] ** 0.5)).astype(dtype)

    def unit_norm() -> Norm | None:
        return Norm(np.ones(d, dtype), np.zeros(d, dtype)) if norm else None

    blocks = []
    for _ in range(n_blocks):
        d_head = d // n_heads
        attention = MultiHeadAttention(
            query=gaussian(n_heads, d_head, d),
            key=gaussian(n_heads, d_head, d),
            value=gaussian(n_heads, d_head, d),
            output=gaussian(n_heads, d, d_head, scale=to_residual * n_heads**-0.5),
        )
        layers = None
        if d_mlp is not None:
            check_integer("d_mlp", d_mlp, 1)
            layers = [
                Linear(gaussian(d_mlp, d), np.zeros(d_mlp, dtype)),
                Linear(gaussian(d, d_mlp, scale=to_residual), np.zeros(d, dtype)),
            ]
        blocks.append(Block(attention, layers, unit_norm(), unit_norm() if layers else None))
    return blocks
