"""Metrics, interpolation and roll-out: other routes to the same values, and bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from refimpl.incontext.linear_attention import (
    LinearAttentionWeights,
    Response,
    alignment_metrics,
    apply_linear,
    dampened_roll_out,
    evaluation_loss,
    from_products,
    gd_plus_plus_predict,
    gd_plus_plus_response,
    gradient_descent,
    gradient_descent_response,
    gradient_descent_weights,
    interpolate_weights,
    key_query_scale,
    linear_response,
    linear_self_attention,
    make_prompts,
    make_tokens,
    predict,
    read_prediction,
    rescale_weights,
    transformer_response,
)
from refimpl.tasks.linear_regression import sample_linear_tasks

RNG = np.random.default_rng(0)
TASKS = sample_linear_tasks(7, 3, 5, 0.5, 1.0, RNG, n_outputs=2)
PROMPTS = make_prompts(TASKS)
TOKENS = make_tokens(TASKS.x, TASKS.y, TASKS.x_query)
STEP = gradient_descent_weights(3, 2, 2.0, 5)
LAYER = LinearAttentionWeights(*RNG.standard_normal((4, 1, 5, 5)))
TWO_HEADS = LinearAttentionWeights(*RNG.standard_normal((4, 2, 5, 5)))
RESPONSE = Response(RNG.standard_normal((7, 2)), RNG.standard_normal((7, 2, 3)))


def test_constructed_layers_respond_as_gradient_descent_does() -> None:
    layers, descent = transformer_response([STEP] * 3, PROMPTS), gradient_descent_response([2.0] * 3, TASKS)
    np.testing.assert_allclose(layers.prediction, descent.prediction, atol=1e-14)
    np.testing.assert_allclose(layers.sensitivity, descent.sensitivity, atol=1e-14)


def test_sensitivity_is_the_derivative_by_the_query() -> None:
    """The query enters each layer linearly, so a difference quotient at any step is the derivative."""
    response = transformer_response([LAYER, TWO_HEADS], PROMPTS)
    for index in range(3):
        moved = TASKS.x_query.copy()
        moved[:, index] += 1
        change = predict(make_prompts(TASKS._replace(x_query=moved)).tokens, [LAYER, TWO_HEADS], 2).T
        size = 1 + np.abs(response.prediction).max()
        np.testing.assert_allclose(change - response.prediction, response.sensitivity[..., index], atol=1e-12 * size)


def test_gd_plus_plus_responds_with_its_prediction() -> None:
    rates, gammas = [1.0, 2.0], [0.1, 0.05]
    response = gd_plus_plus_response(rates, gammas, TASKS)
    expected = gd_plus_plus_predict(TASKS.x, TASKS.y, TASKS.x_query, rates, gammas)
    np.testing.assert_allclose(response.prediction, expected, rtol=1e-12)


def test_the_loss_is_half_the_mean_square() -> None:
    error = RESPONSE.prediction - TASKS.y_query
    assert evaluation_loss(RESPONSE, TASKS) == pytest.approx((error**2).sum(axis=1).mean() / 2, rel=1e-14)


def test_metrics_of_a_model_with_itself_its_double_and_its_negative() -> None:
    norm = np.linalg.norm(RESPONSE.sensitivity.reshape(7, -1), axis=1).mean()
    distance = np.linalg.norm(RESPONSE.prediction, axis=1).mean()
    for factor in (1, 2, -1):
        other = Response(factor * RESPONSE.prediction, factor * RESPONSE.sensitivity)
        metrics = alignment_metrics(RESPONSE, other)
        assert metrics.cosine == pytest.approx(np.sign(factor), abs=1e-7)
        assert metrics.model_distance == pytest.approx(abs(factor - 1) * norm, abs=1e-12)
        assert metrics.prediction_distance == pytest.approx(abs(factor - 1) * distance, abs=1e-12)


def test_a_model_that_ignores_the_query_has_cosine_0() -> None:
    assert alignment_metrics(RESPONSE, RESPONSE._replace(sensitivity=np.zeros((7, 2, 3)))).cosine == 0


def test_rescaling_changes_the_scale_and_not_the_layer() -> None:
    rescaled = rescale_weights(LAYER, 3)
    assert key_query_scale(rescaled, 3) == pytest.approx(1, rel=1e-12)
    expected = linear_self_attention(TOKENS, LAYER, 5)
    np.testing.assert_allclose(linear_self_attention(TOKENS, rescaled, 5), expected, rtol=1e-9)


def test_interpolating_is_blind_to_scale_and_stays_at_equal_ends() -> None:
    scaled = LAYER._replace(key=3 * LAYER.key, value=LAYER.value / 3)
    for one, other in ((LAYER, LAYER), (LAYER, scaled), (scaled, LAYER)):
        between = interpolate_weights(one, other, 3)
        expected = rescale_weights(LAYER, 3)
        np.testing.assert_allclose(between.key_query, expected.key_query, rtol=1e-9)
        np.testing.assert_allclose(between.projection_value, expected.projection_value, rtol=1e-9)
    middle = interpolate_weights(LAYER, STEP, 3).key_query
    ends = (rescale_weights(LAYER, 3).key_query + rescale_weights(STEP, 3).key_query) / 2
    np.testing.assert_allclose(middle, ends, rtol=1e-12)


def test_rolled_out_construction_is_gradient_descent_at_the_dampened_rate() -> None:
    rolled = dampened_roll_out(TOKENS, STEP, 5, 2, 6, 0.75)
    for n_steps in (1, 3, 6):
        weights = gradient_descent(TASKS.x, TASKS.y, [1.5] * n_steps)
        np.testing.assert_allclose(rolled[n_steps - 1], apply_linear(weights, TASKS.x_query), atol=1e-14)


def test_a_roll_out_updates_targets_and_leaves_inputs() -> None:
    first = dampened_roll_out(TOKENS, LAYER, 5, 2, 1, 1.0)[0]
    full = linear_self_attention(TOKENS, LAYER, 5)
    np.testing.assert_allclose(first, read_prediction(full, 3), rtol=1e-12)
    inputs_kept = np.concatenate([TOKENS[:, :3], full[:, 3:]], axis=1)
    second = read_prediction(linear_self_attention(inputs_kept, LAYER, 5), 3)
    np.testing.assert_allclose(dampened_roll_out(TOKENS, LAYER, 5, 2, 2, 1.0)[1], second, rtol=1e-10)


def test_a_roll_out_that_diverges_says_so_without_a_warning() -> None:
    steep = gradient_descent_weights(3, 2, 1e4, 5)
    assert not np.all(np.isfinite(dampened_roll_out(TOKENS, steep, 5, 2, 200, 1.0)[-1]))


def test_dtype_is_kept() -> None:
    narrow = LinearAttentionWeights(*(matrix.astype(np.float32) for matrix in LAYER))
    single = TASKS.astype(np.float32)
    response = transformer_response([narrow], make_prompts(single))
    assert {array.dtype for array in response} == {np.dtype(np.float32)}
    assert rescale_weights(narrow, 3).query.dtype == np.float32
    assert interpolate_weights(narrow, narrow, 3).value.dtype == np.float32
    assert dampened_roll_out(TOKENS.astype(np.float32), narrow, 5, 2, 2, 0.75).dtype == np.float32
    assert {array.dtype for array in gradient_descent_response([0.5], single)} == {np.dtype(np.float32)}


TRACELESS = from_products(np.diag([1.0, -1, 0, 0, 5]), np.eye(5))
BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: alignment_metrics(RESPONSE, RESPONSE._replace(prediction=np.zeros((6, 2)))), "second.prediction"),
    (lambda: alignment_metrics(RESPONSE, RESPONSE._replace(sensitivity=np.zeros((7, 2, 4)))), "second.sensitivity"),
    (lambda: alignment_metrics(Response(np.zeros((0, 2)), np.zeros((0, 2, 3))), RESPONSE), "first.prediction"),
    (lambda: alignment_metrics(RESPONSE._replace(prediction=np.full((7, 2), np.inf)), RESPONSE), "first.prediction"),
    (lambda: linear_response(np.ones((7, 2, 4)), TASKS), "x_query"),
    (lambda: key_query_scale(TWO_HEADS, 3), "weights: expected one head"),
    (lambda: key_query_scale(LAYER, 5), "n_inputs"),
    (lambda: key_query_scale(TRACELESS, 2), "non-zero mean diagonal"),
    (lambda: interpolate_weights(LAYER, TRACELESS, 2), "non-zero mean diagonal"),
    (lambda: interpolate_weights(LAYER, TWO_HEADS, 3), "constructed"),
    (lambda: interpolate_weights(LAYER, gradient_descent_weights(4, 2, 1.0, 5), 3), "constructed"),
    (lambda: from_products(np.eye(3), np.eye(4)), "projection_value"),
    (lambda: dampened_roll_out(TOKENS, LAYER, 6, 2, 3, 0.75), "n_context"),
    (lambda: dampened_roll_out(TOKENS, LAYER, 5, 5, 3, 0.75), "n_outputs"),
    (lambda: dampened_roll_out(TOKENS, LAYER, 5, 2, 0, 0.75), "n_steps"),
    (lambda: dampened_roll_out(TOKENS, LAYER, 5, 2, 3, 0.0), "dampening"),
    (lambda: dampened_roll_out(TOKENS, LAYER, 5, 2, 3, np.inf), "dampening"),
    (lambda: dampened_roll_out(TOKENS[:, :4], LAYER, 5, 2, 3, 0.75), "key"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
