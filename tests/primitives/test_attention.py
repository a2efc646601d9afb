"""Attention by second routes: loops, one query at a time, keys in blocks, the score matrix that is never built."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings

from proofs.symbolic import block, blocks, vanishes
from refimpl.oracle.spec import Arguments, all_specs, symbols
from refimpl.primitives.attention import (
    CHUNK,
    MultiHeadAttention,
    causal_mask,
    linear_attention,
    linear_attention_vjp,
    multi_head_attention,
    softmax_attention,
    softmax_attention_vjp,
)
from refimpl.primitives.linear_self_attention import LinearAttentionWeights, linear_self_attention
from refimpl.primitives.numbers import transpose

SPECS = all_specs()


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12 * (1 + np.abs(b).max()))


def full_mask(arguments: Arguments) -> Any:
    shape = (*arguments["query"].shape[:-1], arguments["key"].shape[-2])
    return np.broadcast_to(True if arguments["mask"] is None else arguments["mask"], shape)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SPECS["primitives/softmax_attention"].arguments)
def test_softmax_attention_sees_the_allowed_keys_and_no_others(arguments: Arguments) -> None:
    """Query by query, over the allowed keys only: no mask, no infinity."""
    query, key, value, _, scale = arguments.values()
    output, mask = softmax_attention(**arguments), full_mask(arguments)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    for index in np.ndindex(*query.shape[:-1]):
        batch, allowed = index[:-1], mask[index]
        scores = key[batch][allowed] @ query[index] * scale
        weights = np.exp(scores - scores.max())
        close(output[index], weights @ value[batch][allowed] / weights.sum())


@settings(max_examples=20, deadline=None, derandomize=True)
@given(SPECS["primitives/softmax_attention"].arguments)
def test_softmax_attention_by_an_online_softmax(arguments: Arguments) -> None:
    """Keys one at a time, with a running maximum and sum."""
    query, key, value, _, scale = arguments.values()
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    largest = np.full(query.shape[:-1], -np.inf)
    total, gathered = np.zeros(query.shape[:-1]), np.zeros((*query.shape[:-1], value.shape[-1]))
    mask = full_mask(arguments)
    for j in range(key.shape[-2]):
        score = np.where(mask[..., j], (query * key[..., j : j + 1, :]).sum(axis=-1) * scale, -np.inf)
        new = np.maximum(largest, score)
        safe = np.where(np.isfinite(new), new, 0)
        kept, weight = np.exp(largest - safe), np.exp(score - safe)
        total = total * kept + weight
        gathered = gathered * kept[..., None] + weight[..., None] * value[..., j : j + 1, :]
        largest = new
    close(softmax_attention(**arguments), gathered / total[..., None])


def test_softmax_attention_and_its_pullback_on_symbols() -> None:
    """Two queries, three keys of width two, causal with one key more: the definition, and SymPy's derivative of it."""
    q, k, v = symbols("q", 2, 2), symbols("k", 3, 2), symbols("v", 3, 1)
    mask = np.array([[True, True, False], [True, True, True]])
    output, pullback = softmax_attention_vjp(q, k, v, mask=mask)

    def expected(i: int) -> Any:
        allowed = [j for j in range(3) if mask[i, j]]
        weights = [sympy.exp(sum(q[i] * k[j]) / sympy.sqrt(2)) for j in allowed]
        return sum(w * v[j, 0] for w, j in zip(weights, allowed, strict=True)) / sum(weights)

    assert vanishes(output[:, 0] - np.array([expected(0), expected(1)], dtype=object)).holds
    to_query, to_key, to_value = pullback(np.array([[sympy.Integer(0)], [sympy.Integer(1)]], dtype=object))
    differences = [
        cotangent[index] - sympy.diff(expected(1), argument[index])
        for argument, cotangent in ((q, to_query), (k, to_key), (v, to_value))
        for index in ((1, 0), (1, -1))
    ]
    assert vanishes(np.array(differences, dtype=object)).holds
    assert list(to_query[0]) == [0, 0]


def scores_first(query: Any, key: Any, value: Any, causal: bool, key_mask: Any) -> Any:
    """Linear attention through the matrix of scores."""
    scores = np.einsum("...id,...jd->...ij", query, key)
    if causal:
        scores = np.tril(scores)
    if key_mask is not None:
        scores = scores * key_mask[..., None, :]
    return scores @ value


@settings(max_examples=40, deadline=None, derandomize=True)
@given(SPECS["primitives/linear_attention"].arguments)
def test_linear_attention_is_the_product_of_scores_and_values(arguments: Arguments) -> None:
    close(linear_attention(**arguments), scores_first(**arguments))


@pytest.mark.parametrize("n_tokens", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7])
def test_chunks_join_without_a_seam(n_tokens: int) -> None:
    rng = np.random.default_rng(n_tokens)
    query, key, value = (rng.standard_normal((2, n_tokens, d)) for d in (3, 3, 4))
    close(linear_attention(query, key, value, causal=True), scores_first(query, key, value, True, None))


def test_linear_attention_on_blocks_of_any_size() -> None:
    """Two blocks of queries and of keys with values, of any numbers of tokens and features."""
    q, k, v, g = (blocks([[block(f"{name}1")], [block(f"{name}2")]]) for name in "QKVG")
    output, pullback = linear_attention_vjp(q, k, v)
    assert vanishes(output - (q @ transpose(k)) @ v).holds
    scores = q @ transpose(k)
    expected = (g @ transpose(v) @ k, v @ transpose(g) @ q, transpose(scores) @ g)
    assert vanishes([a - b for a, b in zip(pullback(g), expected, strict=True)]).holds


def test_small_scores_make_softmax_attention_linear() -> None:
    r"""$\operatorname{softmax}(s)V=\bar v+\frac1n(s-\bar s)V+O(s^2)$: halving the scale quarters the rest."""
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((5, 3)) for _ in range(3))
    centred = key - key.mean(axis=0)

    def rest(scale: float) -> Any:
        first = linear_attention(scale * query, centred, value) / 5
        return np.abs(softmax_attention(query, key, value, scale=scale) - value.mean(axis=0) - first).max()

    assert 3.9 < rest(2e-3) / rest(1e-3) < 4.1


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SPECS["primitives/multi_head_attention"].arguments)
def test_multi_head_attention_is_a_sum_over_heads(arguments: Arguments) -> None:
    x, weights, kind, causal, key_mask = arguments.values()
    n_tokens = x.shape[-2]
    seen = np.ones(n_tokens, bool) if key_mask is None else key_mask
    expected = np.zeros_like(x)
    for query, key, value, output in zip(*weights, strict=True):
        q, k, v = x @ query.T, x @ key.T, x @ value.T
        if kind == "linear":
            head = linear_attention(q, k, v, causal, seen)
        else:
            mask = causal_mask(n_tokens) if causal else np.ones((n_tokens, n_tokens), bool)
            head = softmax_attention(q, k, v, mask & seen[..., None, :])
        expected = expected + head @ output.T
    np.testing.assert_allclose(
        multi_head_attention(**arguments), expected, rtol=1e-9, atol=1e-11 * (1 + np.abs(expected).max())
    )


def test_tokens_as_rows_and_as_columns_agree() -> None:
    """One layer, two conventions: linear_self_attention has the residual and sees the context only."""
    rng = np.random.default_rng(3)
    tokens, n_context = rng.standard_normal((2, 4, 6)), 5
    weights = LinearAttentionWeights(*(rng.standard_normal((3, 4, 4)) for _ in range(4)))
    rows = MultiHeadAttention(weights.query, weights.key, weights.value, weights.projection)
    attended = multi_head_attention(transpose(tokens), rows, "linear", key_mask=np.arange(6) < n_context)
    close(linear_self_attention(tokens, weights, n_context), tokens + transpose(attended))


@pytest.mark.parametrize("causal", [False, True])
def test_linear_attention_never_builds_the_scores(causal: bool) -> None:
    n_tokens = 20_000  # the scores would take 3.2 GB
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((n_tokens, 4)) for _ in range(3))
    tracemalloc.start()
    try:
        output, pullback = linear_attention_vjp(query, key, value, causal)
        pullback(output)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * query.nbytes


def test_a_mask_of_ones_hides_nothing_and_a_hidden_token_does_not_matter() -> None:
    rng = np.random.default_rng(4)
    query, key, value = (rng.standard_normal((4, 3)) for _ in range(3))
    np.testing.assert_array_equal(
        softmax_attention(query, key, value, mask=np.ones((4, 4), bool)), softmax_attention(query, key, value)
    )
    changed = key.copy()
    changed[3] = 1e6
    mask = causal_mask(4)
    before, after = (softmax_attention(query, k, value, mask=mask) for k in (key, changed))
    np.testing.assert_array_equal(before[:3], after[:3])
    before, after = (linear_attention(query, k, value, causal=True) for k in (key, changed))
    np.testing.assert_array_equal(before[:3], after[:3])


def test_a_numpy_scale_promotes_nothing() -> None:
    x = np.ones((2, 3), np.float32)
    assert softmax_attention(x, x, x, scale=np.float64(0.5)).dtype == np.float32


QUERY = np.ones((2, 3, 4))
WEIGHTS = MultiHeadAttention(*(np.ones((2, 4, 4)) for _ in range(4)))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: softmax_attention(QUERY, np.ones((2, 3, 5)), QUERY), "key"),
        (lambda: softmax_attention(QUERY, QUERY, np.ones((2, 4, 4))), "value"),
        (lambda: softmax_attention(QUERY, QUERY[0], QUERY), "key"),
        (lambda: softmax_attention(QUERY, QUERY, QUERY, np.ones((3, 3))), "mask"),
        (lambda: softmax_attention(QUERY, QUERY, QUERY, "causal"), "mask"),  # type: ignore[arg-type]
        (lambda: softmax_attention(QUERY, QUERY, QUERY, np.ones((3, 2), bool)), "mask"),
        (lambda: softmax_attention(QUERY, QUERY, QUERY, np.ones((3, 3, 3), bool)), "mask"),
        (lambda: softmax_attention(QUERY, QUERY, QUERY, np.ones((1, 2, 3, 3), bool)), "mask"),
        (lambda: softmax_attention(QUERY, QUERY, QUERY, np.tri(3, k=-1, dtype=bool)), "mask"),
        (lambda: softmax_attention(QUERY, QUERY, QUERY, scale=float("nan")), "scale"),
        (lambda: linear_attention(QUERY, np.ones((2, 2, 4)), np.ones((2, 2, 4)), causal=True), "causal"),
        (lambda: linear_attention(QUERY, QUERY, QUERY, key_mask=np.ones(3)), "key_mask"),
        (lambda: linear_attention(QUERY, QUERY, QUERY, key_mask=np.ones(2, bool)), "key_mask"),
        (lambda: linear_attention(QUERY * np.nan, QUERY, QUERY), "query"),
        (lambda: multi_head_attention(QUERY, WEIGHTS._replace(value=np.ones((2, 4, 3)))), "weights.value"),
        (lambda: multi_head_attention(QUERY, WEIGHTS._replace(output=np.ones((1, 4, 4)))), "weights.output"),
        (lambda: multi_head_attention(QUERY, WEIGHTS, "cosine"), "kind"),  # type: ignore[arg-type]
        (lambda: multi_head_attention(QUERY, WEIGHTS, key_mask=np.zeros(3, bool)), "key_mask"),
        (
            lambda: multi_head_attention(QUERY, WEIGHTS, causal=True, key_mask=np.array([False, True, True])),
            "key_mask",
        ),
    ],
)
def test_bad_input(call: Callable[[], Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()
