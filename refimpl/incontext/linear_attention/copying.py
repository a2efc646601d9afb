r"""A first layer that copies targets onto their inputs' tokens, for sequences $x_1,y_1,x_2,\dots$ (Prop. 3, A.5)."""

from typing import Any

import numpy as np

from refimpl.primitives.checks import check_integer, check_shapes
from refimpl.primitives.linear_self_attention import LinearAttentionWeights
from refimpl.primitives.numbers import Array, common_dtype


def interleave_tokens(x: Array, y: Array, x_query: Array) -> Array:
    r"""The raw sequence $x_1,(0,y_1),\dots,x_N,(0,y_N),x_q$ of $T=2N+1$ tokens, each above its one-hot position.

    Parameters
    ----------
    x : array, shape (..., n_inputs, n_context)
    y : array, shape (..., n_outputs, n_context)
        At most as many outputs as inputs; zeros fill the entries above them.
    x_query : array, shape (..., n_inputs)

    Returns
    -------
    array, shape (..., n_inputs + T, T)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or there are more outputs than inputs.

    Source: arXiv 2212.07677, Proposition 3 and Appendix A.5.
    """
    sizes = check_shapes(
        x=(x, "... n_inputs n_context"), y=(y, "... n_outputs n_context"), x_query=(x_query, "... n_inputs")
    )
    n_inputs, n_outputs, n_context = sizes["n_inputs"], sizes["n_outputs"], sizes["n_context"]
    if n_outputs > n_inputs:
        raise ValueError(f"y: expected at most {n_inputs} outputs, as many as inputs, got {n_outputs}")
    n_tokens = 2 * n_context + 1
    tokens = np.zeros((*sizes["..."], n_inputs + n_tokens, n_tokens), dtype=common_dtype(x, y, x_query))
    tokens[..., :n_inputs, 0:-1:2] = x
    tokens[..., n_inputs - n_outputs : n_inputs, 1::2] = y
    tokens[..., :n_inputs, -1] = x_query
    tokens[..., n_inputs:, :] = np.eye(n_tokens, dtype=tokens.dtype)
    return tokens


def copy_layer_weights(n_context: int, n_inputs: int, dtype: Any = float) -> LinearAttentionWeights:
    r"""Three heads of linear attention, with keys and values from all tokens, that pair each $x_j$ with its $y_j$.

    Keys are the one-hot positions. Head 1: a token at an even position looks at the next one, writes its content over
    the start of its own position slots and takes its own position away. Head 2 erases the tokens at odd positions.
    Head 3 erases the position of the query. What comes out are the tokens $[x_j;(0,y_j);0]$ at even positions, zeros
    at odd ones and $[x_q;0]$, on which a gradient-descent layer with $T$ outputs does its step.

    Parameters
    ----------
    n_context : int >= 1
    n_inputs : int from 1 to T = 2 * n_context + 1
    dtype : of the matrices; ``object`` for exact integers

    Returns
    -------
    LinearAttentionWeights with D = n_inputs + T

    Raises
    ------
    ValueError
        If a size is out of range.

    Source: arXiv 2212.07677, Proposition 3 and Appendix A.5; heads 2 and 3 clear what the printed weights leave over.
    """
    n_context = check_integer("n_context", n_context, 1)
    n_tokens = 2 * n_context + 1
    n_inputs = check_integer("n_inputs", n_inputs, 1, n_tokens)
    size = n_inputs + n_tokens
    position = slice(n_inputs, size)

    def on_positions(matrix: Any) -> Array:
        full = np.zeros((size, size), dtype=dtype)
        full[position, position] = matrix
        return full

    places = np.arange(n_tokens)
    is_query = (places == n_tokens - 1).astype(int)
    is_odd = places % 2
    is_even = 1 - is_odd - is_query
    next_place = np.eye(n_tokens, k=-1, dtype=dtype) * is_even

    copy = on_positions(-next_place.T)
    copy[n_inputs : 2 * n_inputs, :n_inputs] = np.eye(n_inputs, dtype=dtype)
    erase = -np.eye(size, dtype=dtype)
    clean = on_positions(-np.eye(n_tokens, dtype=dtype))

    identity = np.eye(size, dtype=dtype)
    return LinearAttentionWeights(
        key=np.stack([on_positions(np.eye(n_tokens, dtype=dtype))] * 3),
        query=np.stack([on_positions(next_place), on_positions(np.diag(is_odd)), on_positions(np.diag(is_query))]),
        value=np.stack([copy, erase, clean]),
        projection=np.stack([identity] * 3),
    )
