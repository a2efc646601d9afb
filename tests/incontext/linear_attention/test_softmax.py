"""The softmax layer: by the sum over tokens, its limits, dtypes, bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from refimpl.incontext.linear_attention import (
    LinearAttentionWeights,
    centred,
    softmax_self_attention,
    softmax_self_attention_vjp,
    two_head_softmax_gd_weights,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.linear_attention.softmax import layer_arguments

TOKENS = np.ones((2, 3, 4))
WEIGHTS = LinearAttentionWeights(*(np.ones((2, 3, 3)) for _ in range(4)))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(layer_arguments())
def test_it_is_the_sum_over_heads_and_keys(case: Arguments) -> None:
    """Head by head and key by key, without the product of keys and queries, and with the softmax as quotients."""
    tokens, weights, n_context, scale, include_query = case.values()
    n_keys = tokens.shape[-1] if include_query else n_context
    expected, size = tokens.copy(), 1 + np.abs(tokens)
    largest = 1.0
    for key, query, value, projection in zip(*weights, strict=True):
        logits = scale * (np.swapaxes(key @ tokens[..., :n_keys], -1, -2) @ (query @ tokens))
        largest = max(largest, float(np.max(np.abs(logits))))
        for i in range(n_keys):
            share = 1 / np.exp(np.clip(logits - logits[..., i : i + 1, :], None, 700)).sum(axis=-2, keepdims=True)
            expected = expected + (projection @ (value @ tokens[..., i : i + 1])) * share
            size = size + (np.abs(projection) @ (np.abs(value) @ np.abs(tokens[..., i : i + 1]))) * share
    # A logit is off by some roundoffs of its size and of what cancelled in it, and so is a share relative to itself.
    bound = 1e-13 * largest * (1 + np.max(np.abs(tokens)) ** 2) * size
    assert np.all(np.abs(softmax_self_attention(**case) - expected) <= bound)


def test_at_scale_zero_every_token_receives_the_mean_value() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((5, 3, 7))
    weights = LinearAttentionWeights(*rng.standard_normal((4, 2, 3, 3)))
    update = softmax_self_attention(tokens, weights, 6, scale=0.0) - tokens
    mean = weights.projection_value.sum(axis=0) @ tokens[..., :6].mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(update, np.broadcast_to(mean, update.shape), atol=1e-14)


def test_large_logits_select_a_key_without_overflow() -> None:
    tokens = np.array([[1.0, 2.0, 3.0]])
    weights = LinearAttentionWeights(*(np.ones((1, 1, 1)) for _ in range(4)))
    np.testing.assert_array_equal(softmax_self_attention(tokens, weights, 2, scale=1e6), tokens + 2.0)


def test_the_two_heads_do_not_need_the_number_of_context_points() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((3, 6))
    weights = two_head_softmax_gd_weights(2, 1, 0.5, 0.01)
    twice = np.concatenate([tokens[:, :5], tokens], axis=-1)
    once = softmax_self_attention(tokens, weights, 5)[:, -1]
    np.testing.assert_allclose(softmax_self_attention(twice, weights, 10)[:, -1], once, atol=1e-12)


def test_centred_columns_sum_to_zero() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 7))
    assert np.max(np.abs(centred(x).sum(axis=-1))) < 1e-14
    np.testing.assert_allclose(centred(x), x - x.mean(axis=-1, keepdims=True), atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_the_dtype_is_kept(dtype: Any) -> None:
    weights = two_head_softmax_gd_weights(2, 1, 0.5, 0.1, np.ones((1, 2), dtype))
    output = softmax_self_attention(TOKENS.astype(dtype), weights, 3, 0.5)
    assert {array.dtype for array in (*weights, output)} == {np.dtype(dtype)}


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: softmax_self_attention(np.ones(3), WEIGHTS, 3), "tokens"),
    (lambda: softmax_self_attention(TOKENS, WEIGHTS, 4), "n_context"),
    (lambda: softmax_self_attention(TOKENS, WEIGHTS, 3, np.inf), "scale: expected a number"),
    (lambda: softmax_self_attention_vjp(TOKENS, WEIGHTS, 3, np.nan), "scale: expected a number"),
    (lambda: softmax_self_attention(TOKENS, WEIGHTS._replace(query=np.ones((2, 3, 2))), 3), "query"),
    (lambda: softmax_self_attention(TOKENS * np.nan, WEIGHTS, 3), "tokens: expected finite"),
    (lambda: two_head_softmax_gd_weights(2, 1, 0.5, 0.0), "scale"),
    (lambda: two_head_softmax_gd_weights(2, 1, 0.5, np.inf), "scale"),
    (lambda: two_head_softmax_gd_weights(2, 1, -0.5, 0.1), "learning_rate"),
    (lambda: two_head_softmax_gd_weights(2, 1, 0.5, 0.1, np.ones((2, 1))), "initial_weights"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
