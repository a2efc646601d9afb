r"""A small causal language model: embeddings in, logits of the next token out, and its loss on sequences of tokens.

Embedding, learned positions, the blocks of :mod:`refimpl.primitives.transformer`, and a read-out that may be the
embedding again (tied).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_shapes, checked
from refimpl.primitives.layers import linear_vjp
from refimpl.primitives.losses import cross_entropy_vjp
from refimpl.primitives.numbers import Array
from refimpl.primitives.transformer import (
    Attend,
    Block,
    causal_attention,
    initial_transformer,
    stack_blocks,
    transformer_vjp,
)

Integers = np.ndarray[Any, np.dtype[np.integer[Any]]]


class LanguageModel(NamedTuple):
    """A causal transformer with learned positions; a gradient has the same type."""

    embedding: Array
    """Shape ``(n_tokens, d)``."""
    positions: Array
    """Shape ``(longest, d)``."""
    blocks: list[Block]
    readout: Array | None = None
    """Shape ``(n_tokens, d)``; None for the embedding."""


def initial_language_model(
    vocabulary: int, longest: int, d: int, n_blocks: int, n_heads: int, rng: np.random.Generator, tied: bool = False
) -> LanguageModel:
    """Gaussian weights: embeddings and positions of standard deviation 0.5, the rest of variance 1/fan-in.

    A tied embedding has variance 1/d too, for it is the read-out as well.

    Raises
    ------
    ValueError
        If a size is below 1 or `n_heads` does not divide `d`.
    """
    for name, value in {"vocabulary": vocabulary, "longest": longest, "d": d}.items():
        check_integer(name, value, 1)
    deviation = d**-0.5 if tied else 0.5
    return LanguageModel(
        rng.standard_normal((vocabulary, d)) * deviation,
        rng.standard_normal((longest, d)) * deviation,
        initial_transformer(n_blocks, d, n_heads, rng, d_mlp=2 * d),
        None if tied else rng.standard_normal((vocabulary, d)) / d**0.5,
    )


def _check_model(embeddings: Array, model: LanguageModel) -> None:
    readout = {} if model.readout is None else {"model.readout": (model.readout, "vocabulary d")}
    sizes = check_shapes(
        embeddings=(embeddings, "... n_tokens d"),
        **{
            "model.embedding": (model.embedding, "vocabulary d"),
            "model.positions": (model.positions, "longest d"),
            **readout,
        },
    )
    if sizes["n_tokens"] > sizes["longest"]:
        raise ValueError(f"embeddings: expected at most {sizes['longest']} tokens, got {sizes['n_tokens']}")
    transformer_vjp.check(embeddings, model.blocks)


@checked(_check_model)
def next_token_logits(embeddings: Array, model: LanguageModel) -> Array:
    """Logits of the next token at each position.

    Parameters
    ----------
    embeddings : array, shape (..., n_tokens, d)
    model : LanguageModel

    Returns
    -------
    array, shape (..., n_tokens, vocabulary)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or there are more tokens than positions.
    """
    return next_token_logits_vjp.unchecked(embeddings, model)[0]


@checked(_check_model)
def next_token_logits_vjp(
    embeddings: Array, model: LanguageModel
) -> tuple[Array, Callable[[Array], tuple[Array, LanguageModel]]]:
    """:func:`next_token_logits` and its pullback ``cotangent -> (embeddings, model)``.

    The embedding table enters through the embeddings, and through the read-out where they are tied: only the latter is
    in its own cotangent here.
    """
    return logits_with(embeddings, model, causal_attention)


def logits_with(
    embeddings: Array, model: LanguageModel, attend: Attend, at: Any = None
) -> tuple[Array, Callable[[Array], tuple[Array, LanguageModel]]]:
    """:func:`next_token_logits_vjp` with another causal attention in the blocks, at some of the positions or at all; as
    in :func:`stack_blocks`, arguments unchecked."""
    n_tokens = embeddings.shape[-2]
    tied = model.readout is None
    hidden, pull_blocks = stack_blocks(embeddings + model.positions[:n_tokens], model.blocks, attend, at=at)
    logits, pull_readout = linear_vjp.unchecked(hidden, model.embedding if tied else model.readout)  # type: ignore[arg-type]

    def pullback(cotangent: Array) -> tuple[Array, LanguageModel]:
        to_hidden, to_readout = pull_readout(cotangent)
        to_embeddings, to_blocks = pull_blocks(to_hidden)
        to_positions = np.zeros_like(model.positions)
        to_positions[:n_tokens] = to_embeddings.reshape(-1, *to_embeddings.shape[-2:]).sum(axis=0)
        if tied:
            return to_embeddings, LanguageModel(to_readout, to_positions, list(to_blocks))
        return to_embeddings, LanguageModel(np.zeros_like(model.embedding), to_positions, list(to_blocks), to_readout)

    return logits, pullback


def add_by_token(table: Array, tokens: Integers, rows: Array) -> None:
    """Add to each row of the table, in place, the sum of the rows of its token; arguments unchecked.

    ``np.add.at`` goes row by row; a sum over rows in the order of their tokens is several times as fast.
    """
    order = np.argsort(tokens, axis=None, kind="stable")
    sorted_tokens = tokens.reshape(-1)[order]
    starts = np.flatnonzero(np.diff(sorted_tokens, prepend=-1))
    table[sorted_tokens[starts]] += np.add.reduceat(rows.reshape(-1, rows.shape[-1])[order], starts, axis=0)


def token_loss_and_gradients(
    model: LanguageModel, tokens: Integers, targets: Integers, at: Any, attend: Attend = causal_attention
) -> tuple[float, LanguageModel]:
    """The mean cross-entropy of the targets at these positions, and its gradient; arguments unchecked.

    Parameters
    ----------
    model : LanguageModel
    tokens : array of integers, shape (n_sequences, n_tokens)
    targets : array of integers, shape (n_sequences, n_positions)
    at : slice, or array of integers, shape (n_positions,), or None for all
        The positions whose next token is predicted.
    attend : the attention in the blocks, as of :func:`stack_blocks`
    """
    logits, pull_model = logits_with(model.embedding[tokens], model, attend, at)
    losses, pull_loss = cross_entropy_vjp.unchecked(logits, targets)
    to_embeddings, gradient = pull_model(*pull_loss(np.full_like(losses, 1 / losses.size)))
    add_by_token(gradient.embedding, tokens, to_embeddings)
    return float(losses.mean()), gradient
