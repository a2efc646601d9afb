"""Attention as it is, with softmax: what it is made of, and what it is where scores are small."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refimpl.incontext.dual_form.duality import linear_attention, matrix_vector, relaxed_attention
from refimpl.primitives.attention import softmax_attention, softmax_attention_vjp
from refimpl.primitives.checks import check_shapes, checked
from refimpl.primitives.numbers import Array, constant, exp, row_max, row_sum, sqrt, transpose


@checked(relaxed_attention.check)
def full_attention(value: Array, key: Array, demos: Array, context: Array, query: Array) -> Array:
    r"""$W_V[X';X]\,\mathrm{softmax}\big((W_K[X';X])^\top q/\sqrt{d'}\big)$.

    Parameters, result and errors as in :func:`relaxed_attention`.

    Source: arXiv 2212.10559, Eq. 10.
    """
    return full_attention_vjp.unchecked(value, key, demos, context, query)[0]


@checked(relaxed_attention.check)
def full_attention_vjp(
    value: Array, key: Array, demos: Array, context: Array, query: Array
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array, Array, Array]]]:
    """:func:`full_attention` and its pullback ``cotangent -> (value, key, demos, context, query)``."""
    tokens = np.concatenate([demos, context], axis=-1)
    rows, pull_attention = softmax_attention_vjp.unchecked(
        query[..., None, :], transpose(key @ tokens), transpose(value @ tokens)
    )

    def pullback(cotangent: Array) -> tuple[Array, Array, Array, Array, Array]:
        to_query, *to_rows = pull_attention(cotangent[..., None, :])
        to_keys, to_values = map(transpose, to_rows)
        to_tokens = transpose(key) @ to_keys + transpose(value) @ to_values
        by_token, n_demos = transpose(tokens), demos.shape[-1]
        to_value, to_key = to_values @ by_token, to_keys @ by_token
        return to_value, to_key, to_tokens[..., :n_demos], to_tokens[..., n_demos:], to_query[..., 0, :]

    return np.asanyarray(rows[..., 0, :]), pullback


class SoftmaxSplit(NamedTuple):
    r"""$F=\mu\,\mathrm{Attn}(X;q)+(1-\mu)\,\mathrm{Attn}(X';q)$."""

    zero_shot_share: Array
    r"""$\mu$, shape ``(...)``."""
    zero_shot_part: Array
    """Attention over the context alone, shape ``(..., d_value)``."""
    demo_part: Array
    """Attention over the demonstrations alone, shape ``(..., d_value)``."""


def _check_split(value: Array, key: Array, demos: Array, context: Array, query: Array) -> None:
    check_shapes(demos=(demos, "... d n_demos"))
    relaxed_attention.check(value, key, demos, context, query)


@checked(_check_split)
def softmax_attention_split(value: Array, key: Array, demos: Array, context: Array, query: Array) -> SoftmaxSplit:
    r"""What softmax attention over demonstrations and context is made of, exactly.

    The share $\mu=Z_X/(Z_X+Z_{X'})$, $Z_S=\sum_{s\in S}e^{k_s^\top q/\sqrt{d'}}$, depends on the query, so that no
    fixed matrix added to a zero-shot matrix is the whole.

    Parameters and errors as in :func:`relaxed_attention`, but with at least one demonstration.

    Source: derived from arXiv 2212.10559, Eq. 10.
    """
    tokens = np.concatenate([demos, context], axis=-1)
    scores = matrix_vector(transpose(key @ tokens), query) / sqrt(constant(query.shape[-1], query))
    weights = exp(scores - row_max(scores))
    n_demos = demos.shape[-1]
    mass_demos, mass_context = row_sum(weights[..., :n_demos]), row_sum(weights[..., n_demos:])

    # Each part has a softmax of its own: where all mass is elsewhere, its share of the weights above is 0/0.
    def part(columns: Array) -> Array:
        rows = softmax_attention.unchecked(query[..., None, :], transpose(key @ columns), transpose(value @ columns))
        return np.asanyarray(rows[..., 0, :])

    return SoftmaxSplit(np.asanyarray((mass_context / (mass_context + mass_demos))[..., 0]), part(context), part(demos))


@checked(linear_attention.check)
def small_score_attention(values: Array, keys: Array, query: Array) -> Array:
    r"""Softmax attention to first order in the scores: $\bar v+\frac1{n\sqrt{d}}\sum_i(v_i-\bar v)k_i^\top q$.

    Parameters and errors as in :func:`linear_attention`.

    Source: derived; the zeroth-order term is what Eq. 11 of arXiv 2212.10559 loses.
    """
    n = values.shape[-1]
    mean = values.sum(axis=-1, keepdims=True) / n
    scores = matrix_vector(transpose(keys), query) / sqrt(constant(query.shape[-1], query))
    return np.asanyarray(mean[..., 0] + matrix_vector(values - mean, scores) / n)
