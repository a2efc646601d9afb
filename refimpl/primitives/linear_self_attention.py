r"""Linear self-attention on tokens that are columns, as the in-context papers write it.

$$e_j\leftarrow e_j+\sum_h P_hW_{V,h}\,C\,(C^\top W_{K,h}^\top W_{Q,h}\,e_j)$$

where the columns of $C$ are the context tokens: they alone give keys and values. Associativity is the point of the
layer: $G=CC^\top$ is $D\times D$, so the cost is linear in the number of tokens and no score matrix is built.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.numbers import Array, is_symbolic, transpose


class LinearAttentionWeights(NamedTuple):
    """The four matrices of each head, all of shape ``(n_heads, D, D)``; a gradient has the same type."""

    key: Array
    query: Array
    value: Array
    projection: Array

    @property
    def key_query(self) -> Array:
        r"""$A=W_K^\top W_Q$, shape ``(n_heads, D, D)``."""
        return transpose(self.key) @ self.query

    @property
    def projection_value(self) -> Array:
        r"""$B=PW_V$, shape ``(n_heads, D, D)``."""
        return self.projection @ self.value


def check_weights(weights: LinearAttentionWeights, tokens: Array) -> None:
    """Raise ``ValueError`` unless each matrix has shape ``(n_heads, D, D)`` with the tokens' D."""
    check_shapes(
        tokens=(tokens, "... D n_tokens"),
        **{name: (matrix, "n_heads D D") for name, matrix in weights._asdict().items()},
    )


def gradient_descent_weights(
    n_inputs: int, n_outputs: int, learning_rate: Any, n_context: int, initial_weights: Array | None = None
) -> LinearAttentionWeights:
    r"""Weights with which one layer is one gradient step: $x_j$ stays, $y_j\leftarrow y_j-\Delta Wx_j$.

    $$W_K=W_Q=\begin{pmatrix}I&0\\0&0\end{pmatrix},\quad W_V=\begin{pmatrix}0&0\\W_0&-I\end{pmatrix},\quad
    P=\frac\eta NI.$$

    Parameters
    ----------
    n_inputs, n_outputs, n_context : int >= 1
    learning_rate : number > 0
    initial_weights : array, shape (n_outputs, n_inputs), optional
        $W_0$; zeros if None. The weights have its dtype, float64 without it.

    Returns
    -------
    LinearAttentionWeights with one head

    Raises
    ------
    ValueError
        If a size is below 1, the learning rate is not positive, or $W_0$ has another shape.

    Source: arXiv 2212.07677, Proposition 1 and Eq. 8.
    """
    n_inputs = check_integer("n_inputs", n_inputs, 1)
    n_outputs = check_integer("n_outputs", n_outputs, 1)
    n_context = check_integer("n_context", n_context, 1)
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    rate = learning_rate / n_context
    start = initial_or_zero(initial_weights, n_outputs, n_inputs, object if is_symbolic(rate) else float)
    identity = np.eye(n_inputs + n_outputs, dtype=start.dtype)
    on_x = identity.copy()
    on_x[n_inputs:] = 0
    value = on_x - identity
    value[n_inputs:, :n_inputs] = start
    return LinearAttentionWeights(on_x[None], on_x[None], value[None], (rate * identity)[None])


def initial_or_zero(weights: Array | None, n_outputs: int, n_inputs: int, dtype: Any) -> Array:
    """The initial weights, checked, or zeros of this dtype."""
    if weights is None:
        return np.zeros((n_outputs, n_inputs), dtype=dtype)
    check_shapes(initial_weights=(weights, f"{n_outputs} {n_inputs}"))
    return np.asanyarray(weights)


def linear_self_attention(
    tokens: Array, weights: LinearAttentionWeights, n_context: int, include_query: bool = False
) -> Array:
    """One linear self-attention layer with a residual connection; every token is updated from the old tokens.

    Parameters
    ----------
    tokens : array, shape (..., D, n_tokens)
        Columns are tokens; the first `n_context` of them are the context.
    weights : LinearAttentionWeights
    n_context : int from 1 to n_tokens - 1
        How many tokens give keys and values.
    include_query : bool
        Let all tokens give keys and values instead.

    Returns
    -------
    array, shape (..., D, n_tokens)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or `n_context` is out of range.

    Source: arXiv 2212.07677, Eq. 3 and Section 2.
    """
    tokens, n_keys = _check(tokens, weights, n_context, include_query)
    return attend(tokens, weights.key_query, weights.projection_value, n_keys)


def linear_self_attention_vjp(
    tokens: Array, weights: LinearAttentionWeights, n_context: int, include_query: bool = False
) -> tuple[Array, Callable[[Array], tuple[Array, LinearAttentionWeights]]]:
    """:func:`linear_self_attention` and its pullback ``cotangent -> (tokens, weights)``."""
    tokens, n_keys = _check(tokens, weights, n_context, include_query)
    output, pull_products = attend_vjp(tokens, weights.key_query, weights.projection_value, n_keys)

    def pullback(cotangent: Array) -> tuple[Array, LinearAttentionWeights]:
        to_tokens, to_key_query, to_projection_value = pull_products(cotangent)
        return to_tokens, factor_cotangents(weights, to_key_query, to_projection_value)

    return output, pullback


def factor_cotangents(
    weights: LinearAttentionWeights, to_key_query: Array, to_projection_value: Array
) -> LinearAttentionWeights:
    """From the cotangents of the products $A$ and $B$ to those of their factors."""
    return LinearAttentionWeights(
        key=weights.query @ transpose(to_key_query),
        query=weights.key @ to_key_query,
        value=transpose(weights.projection) @ to_projection_value,
        projection=to_projection_value @ transpose(weights.value),
    )


def attend(tokens: Array, key_query: Array, projection_value: Array, n_keys: int) -> Array:
    """The layer in the two products that matter, $A$ and $B$, each ``(n_heads, D, D)``; arguments unchecked."""
    context = tokens[..., :n_keys]
    gram = context @ transpose(context)
    output = tokens
    for a, b in zip(key_query, projection_value, strict=True):
        output = output + b @ (gram @ (a @ tokens))
    return output


def attend_vjp(
    tokens: Array, key_query: Array, projection_value: Array, n_keys: int
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    """:func:`attend` and its pullback ``cotangent -> (tokens, key_query, projection_value)``; arguments unchecked.

    Source: arXiv 2212.07677, Appendix A (derived there by automatic differentiation, here by hand).
    """
    context = tokens[..., :n_keys]
    gram = context @ transpose(context)
    projected = [a @ tokens for a in key_query]
    gathered = [gram @ z for z in projected]
    output = tokens
    for b, u in zip(projection_value, gathered, strict=True):
        output = output + b @ u

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        to_tokens = cotangent.copy()
        to_gram = np.zeros_like(gram)
        to_a, to_b = [], []
        for a, b, z, u in zip(key_query, projection_value, projected, gathered, strict=True):
            to_gathered = transpose(b) @ cotangent
            to_projected = gram @ to_gathered
            to_gram = to_gram + to_gathered @ transpose(z)
            to_a.append(sum_batch(to_projected @ transpose(tokens)))
            to_b.append(sum_batch(cotangent @ transpose(u)))
            to_tokens = to_tokens + transpose(a) @ to_projected
        to_tokens[..., :n_keys] += (to_gram + transpose(to_gram)) @ context
        return to_tokens, np.stack(to_a), np.stack(to_b)

    return output, pullback


def sum_batch(matrices: Array) -> Array:
    """Sum over all axes but the last two."""
    return matrices.reshape(-1, *matrices.shape[-2:]).sum(axis=0)


def _check(tokens: Any, weights: LinearAttentionWeights, n_context: int, include_query: bool) -> tuple[Array, int]:
    tokens = np.asanyarray(tokens)
    check_weights(weights, tokens)
    n_context = check_integer("n_context", n_context, 1, tokens.shape[-1] - 1)
    return tokens, tokens.shape[-1] if include_query else n_context
