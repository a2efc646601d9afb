"""The layer and its effective weights: second routes, dtypes, bad input, and the layer of the neighbour paper."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from refimpl.incontext import linear_attention
from refimpl.incontext.one_step_optimality import (
    AttentionWeights,
    EffectiveWeights,
    effective_weights,
    gd_lsa_parameters,
    lsa_predict,
    lsa_predict_full,
    lsa_predict_full_vjp,
    lsa_predict_vjp,
    optimal_learning_rate,
    preconditioned_lsa_parameters,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.one_step_optimality.model import predict_arguments
from tests.incontext.one_step_optimality.common import COV, full_weights, prompt, weights


@settings(max_examples=50, deadline=None, derandomize=True)
@given(predict_arguments())
def test_the_prediction_is_the_papers_product_with_the_gram_matrix(case: Arguments) -> None:
    (value, key_query), x, y, x_query = case.values()
    tokens = np.concatenate([x, y[..., None]], axis=-1)
    gram = np.einsum("...ia,...ib->...ab", tokens, tokens)
    expected = np.einsum("a,...ab,bk,...k->...", value, gram, key_query, x_query)
    # Of size^2 n products each route rounds n + 2 size + 3 sums of, which no absolute sum falls short of.
    slack = 4 * (x.shape[-2] + 2 * len(value) + 3) * np.finfo(float).eps
    by_absolute = np.einsum("...ia,...ib->...ab", np.abs(tokens), np.abs(tokens))
    size = np.einsum("a,...ab,bk,...k->...", np.abs(value), by_absolute, np.abs(key_query), np.abs(x_query))
    assert np.all(np.abs(lsa_predict(**case) - expected) <= slack * size)


def test_the_gradient_of_the_layer_is_that_of_its_effective_weights() -> None:
    given_weights, cotangent = full_weights(3), np.array([1.0, -2.0, 0.5])
    _, pullback = lsa_predict_full_vjp(given_weights, *prompt(3))
    to_full = pullback(cotangent)[0]
    _, pullback = lsa_predict_vjp(effective_weights(given_weights), *prompt(3))
    to_value, to_key_query = pullback(cotangent)[0]
    to_product = np.concatenate([to_key_query, np.zeros((4, 1))], axis=1)
    expected = AttentionWeights(
        given_weights.query @ to_product.T,
        given_weights.key @ to_product,
        np.outer(given_weights.head, to_value),
        given_weights.value @ to_value,
    )
    for found, right in zip(to_full, expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_the_squared_error_is_the_residuals_outer_product() -> None:
    x, y, x_query = (array[:1] for array in prompt())
    prediction, pullback = lsa_predict_vjp(weights(), x, y, x_query)
    residual = prediction - 0.3
    to_weights = pullback(2 * residual)[0]
    tokens = np.concatenate([x[0], y[0][:, None]], axis=-1)
    gram = tokens.T @ tokens
    value, key_query = weights()
    np.testing.assert_allclose(to_weights.value, 2 * residual[0] * gram @ key_query @ x_query[0], rtol=1e-12)
    np.testing.assert_allclose(to_weights.key_query, 2 * residual[0] * np.outer(gram @ value, x_query[0]), rtol=1e-12)


def test_the_layer_of_linear_attention_at_n_times_the_rate_predicts_the_same() -> None:
    x, y, x_query = prompt(3, 5)
    rate = optimal_learning_rate(3, 5, 0.5)
    columns, targets = np.swapaxes(x, -1, -2), y[:, None]
    tokens = linear_attention.make_tokens(columns, targets, x_query)
    layer = linear_attention.gradient_descent_weights(3, 1, 5 * rate, 5)
    there = linear_attention.read_prediction(linear_attention.linear_self_attention(tokens, layer, 5), 3)[:, 0]
    np.testing.assert_allclose(lsa_predict_full(gd_lsa_parameters(3, rate), x, y, x_query), there, rtol=1e-13)
    # The rate of that paper, for the mean of noiseless squares.
    in_mean = linear_attention.optimal_learning_rate(3, 5, 1.0, 3.0)
    assert 5 * optimal_learning_rate(3, 5, 0.0) == pytest.approx(in_mean, rel=1e-14)


def test_float32_is_kept() -> None:
    single = weights(dtype=np.float32)
    x, y, x_query = prompt(dtype=np.float32)
    cov = COV.astype(np.float32)
    full = AttentionWeights(*(part.astype(np.float32) for part in full_weights()))
    results = [
        lsa_predict(single, x, y, x_query),
        lsa_predict_full(full, x, y, x_query),
        *effective_weights(full),
        *preconditioned_lsa_parameters(cov, 0.1),
    ]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}


@pytest.mark.parametrize("function", [lsa_predict, lsa_predict_vjp])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": np.ones((3, 4, 3))}, "x: expected shape"),
        ({"x": np.ones((3, 0, 2))}, "x: expected n_context >= 1"),
        ({"y": np.ones((3, 5))}, "y: expected n_context 4"),
        ({"y": np.full((3, 4), np.nan)}, "y: expected finite"),
        ({"x_query": np.ones((3, 3))}, "x_query: expected shape"),
        ({"x_query": np.ones((2, 2))}, "x_query: expected batch axes"),
        ({"x": [[1.0]]}, "x: expected an array"),
        ({"weights": EffectiveWeights(np.ones(4), np.ones((4, 2)))}, "value: expected 3 entries"),
        ({"weights": EffectiveWeights(np.ones((1, 3)), np.ones((3, 2)))}, "value: expected shape"),
    ],
)
def test_bad_prompts(function: Callable[..., Any], changed: dict[str, Any], message: str) -> None:
    x, y, x_query = prompt()
    with pytest.raises(ValueError, match=message):
        function(**{"weights": weights(), "x": x, "y": y, "x_query": x_query} | changed)


@pytest.mark.parametrize("function", [lsa_predict_full, lsa_predict_full_vjp])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"key": np.ones((3, 2))}, "key: expected token_size"),
        ({"query": np.ones((4, 4))}, "query: expected token_size 3"),
        ({"value": np.ones(3)}, "value: expected shape"),
        ({"head": np.ones(2)}, "head: expected token_size 3"),
        ({"head": np.array([0.0, np.nan, 1.0])}, "head: expected finite"),
    ],
)
def test_bad_layers(function: Callable[..., Any], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(full_weights()._replace(**changed), *prompt())
    with pytest.raises(ValueError, match=message):
        effective_weights(full_weights()._replace(**changed))


def test_a_layer_needs_an_input() -> None:
    with pytest.raises(ValueError, match="key: expected at least 2 rows"):
        effective_weights(AttentionWeights(*np.ones((3, 1, 1)), np.ones(1)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gd_lsa_parameters(0, 0.1), "n_inputs"),
        (lambda: gd_lsa_parameters(2, -0.1), "learning_rate"),
        (lambda: preconditioned_lsa_parameters(-COV, 0.1), "cov_x: expected a positive definite"),
    ],
)
def test_bad_arguments(call: Callable[[], Any], message: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        call()
