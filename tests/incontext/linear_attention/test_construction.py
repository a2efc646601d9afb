"""The inner problem, the construction, the stack and the population loss: other routes to the same values, dtypes, bad
input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.incontext.linear_attention import (
    LinearAttentionWeights,
    apply_linear,
    gradient_descent,
    gradient_descent_weights,
    gradient_step,
    inner_loss,
    line_search_learning_rate,
    linear_self_attention,
    make_tokens,
    one_step_population_loss,
    optimal_learning_rate,
    read_prediction,
    stack_forward,
    stack_forward_vjp,
    transform_targets,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.linear_attention.construction import (
    FRACTIONS,
    prompts,
    random_layers,
    stable_rate,
)
from refimpl.primitives.trees import leaves, tree_map
from refimpl.tasks.linear_regression import RegressionTasks, sample_linear_tasks, uniform_moments

X, Y, QUERY = np.ones((2, 3)), np.ones((1, 3)), np.ones(2)
TOKENS = make_tokens(X, Y, QUERY)
LAYER = gradient_descent_weights(2, 1, 0.5, 3)
TASKS = sample_linear_tasks(2000, 4, 6, 0.5, 1.0, np.random.default_rng(0))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(prompts())
def test_a_step_follows_the_gradient_of_the_loss(case: Arguments) -> None:
    """The loss is quadratic, so its central difference is its derivative, along any direction and at any step."""
    x, y, _ = case.values()
    rng = np.random.default_rng(0)
    weights, direction = rng.standard_normal((2, *y.shape[:-1], x.shape[-2]))
    slope = inner_loss(weights + direction, x, y) - inner_loss(weights - direction, x, y)
    along = ((gradient_step(weights, x, y, 1.0) - weights) * direction).sum(axis=(-1, -2))
    size = inner_loss(np.abs(weights) + np.abs(direction), np.abs(x), -np.abs(y))
    assert np.all(np.abs(slope / 2 + along) <= 1e-12 * size)


def test_the_loss_of_one_point_by_hand() -> None:
    assert inner_loss(np.array([[2.0, 1.0]]), np.array([[1.0], [3.0]]), np.array([[1.0]])) == 8.0
    np.testing.assert_array_equal(
        gradient_step(np.array([[2.0, 1.0]]), np.array([[1.0], [3.0]]), np.array([[1.0]]), 0.5), [[0.0, -5.0]]
    )


@settings(max_examples=50, deadline=None, derandomize=True)
@given(prompts(), FRACTIONS)
def test_a_stable_step_lowers_the_loss_on_old_targets_and_moved_ones_agree(case: Arguments, fraction: float) -> None:
    x, y, _ = case.values()
    rate = stable_rate(fraction, x)
    before = np.zeros((*y.shape[:-1], x.shape[-2]))
    after = gradient_step(before, x, y, rate)
    roundoff = 1e-12 * inner_loss(before, x, y)
    assert np.all(inner_loss(after, x, y) <= inner_loss(before, x, y) + roundoff)
    moved = inner_loss(before, x, transform_targets(before, x, y, rate))
    assert np.all(np.abs(moved - inner_loss(after, x, y)) <= roundoff)


def test_tokens_hold_the_prompt_and_the_query_is_read_with_its_sign() -> None:
    start = np.array([[2.0, -1.0]])
    tokens = make_tokens(np.array([[1.0], [2.0]]), np.array([[3.0]]), np.array([4.0, 5.0]), start)
    np.testing.assert_array_equal(tokens, [[1.0, 4.0], [2.0, 5.0], [3.0, -3.0]])
    np.testing.assert_array_equal(read_prediction(tokens, 2), start @ np.array([4.0, 5.0]))


def test_the_authors_projection_is_the_same_layer() -> None:
    """Their code has eta/N in the lower right block only; the upper rows of the values vanish."""
    rng = np.random.default_rng(0)
    weights = gradient_descent_weights(3, 2, 0.5, 4, rng.standard_normal((2, 3)))
    lower = weights.projection * (np.arange(5) >= 3)
    np.testing.assert_array_equal(
        LinearAttentionWeights(*weights[:3], lower).projection_value, weights.projection_value
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(random_layers(st.integers(1, 3), max_heads=2))
def test_a_stack_is_its_layers_one_by_one(case: Arguments) -> None:
    tokens, layers, n_context = case.values()
    expected = tokens
    for layer in layers:
        expected = linear_self_attention(expected, layer, n_context)
    np.testing.assert_array_equal(stack_forward(tokens, layers, n_context), expected)
    np.testing.assert_array_equal(stack_forward_vjp(tokens, layers, n_context)[0], expected)


def test_dampening_scales_the_update_and_clipping_bounds_every_entry() -> None:
    update = stack_forward(TOKENS, [LAYER], 3) - TOKENS
    np.testing.assert_allclose(stack_forward(TOKENS, [LAYER], 3, dampening=0.75), TOKENS + 0.75 * update, rtol=1e-15)
    clipped = stack_forward(100 * TOKENS, [LAYER, LAYER], 3, clip=10.0)
    assert np.max(np.abs(clipped)) == 10.0


def test_tied_layers_have_the_sum_of_the_layers_gradients() -> None:
    """Against a difference quotient of the shared weights."""
    rng = np.random.default_rng(0)
    tokens, cotangent = rng.standard_normal((2, 4, 6))
    layer = LinearAttentionWeights(*rng.standard_normal((4, 1, 4, 4)) / 4)
    direction = LinearAttentionWeights(*rng.standard_normal((4, 1, 4, 4)))

    def output(step: float) -> float:
        moved = tree_map(lambda w, d: w + step * d, layer, direction)
        return float((cotangent * stack_forward(tokens, [moved] * 3, 5)).sum())

    _, pullback = stack_forward_vjp(tokens, [layer] * 3, 5)
    summed = tree_map(lambda *parts: sum(parts), *pullback(cotangent)[1])
    claimed = sum((a * b).sum() for a, b in zip(leaves(summed), leaves(direction), strict=True))
    measured = (8 * (output(1e-3) - output(-1e-3)) - (output(2e-3) - output(-2e-3))) / 12e-3
    assert abs(claimed - measured) <= 1e-8 * abs(measured)


@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_the_dtype_is_kept(dtype: Any) -> None:
    x, y, query, start = (a.astype(dtype) for a in (X, Y, QUERY, np.ones((1, 2))))
    weights = gradient_descent_weights(2, 1, 0.5, 3, start)
    tokens = make_tokens(x, y, query, start)
    results = [
        *weights,
        tokens,
        stack_forward(tokens, [weights] * 3, 3, clip=10.0, dampening=0.75),
        gradient_descent(x, y, [0.5, 0.25], start),
        gradient_descent(x, y, np.array([0.5, 0.25])),
        transform_targets(start, x, y, 0.5),
        inner_loss(start, x, y),
    ]
    assert {array.dtype for array in results} == {np.dtype(dtype)}


def test_nothing_is_written_into_the_arguments() -> None:
    arrays = [X.copy(), Y.copy(), QUERY.copy(), np.ones((1, 2))]
    for array in arrays:
        array.setflags(write=False)
    tokens = make_tokens(*arrays)
    tokens.setflags(write=False)
    _, pullback = stack_forward_vjp(tokens, [LAYER, LAYER], 3, clip=10.0)
    pullback(tokens)
    gradient_descent(arrays[0], arrays[1], [0.5], arrays[3])


def test_the_line_search_finds_the_optimal_rate() -> None:
    rate = line_search_learning_rate(TASKS, np.arange(0.25, 12, 0.25))
    optimal = optimal_learning_rate(4, 6, *uniform_moments(0.5))
    # The loss is flat at its minimum: its sampling noise moves the minimiser by a few per cent.
    assert abs(rate / optimal - 1) < 0.1
    assert line_search_learning_rate(TASKS, [0.5, optimal], n_steps=2) == pytest.approx(optimal)


def test_the_population_loss_of_several_outputs_and_other_teachers_scales() -> None:
    moments = uniform_moments(0.5)
    one = one_step_population_loss(2.0, 4, 6, *moments)
    assert one_step_population_loss(2.0, 4, 6, *moments, 3, 4.0) == pytest.approx(12 * one, rel=1e-15)


def without(tasks: RegressionTasks) -> RegressionTasks:
    return RegressionTasks(*(array[:0] for array in tasks))


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: make_tokens(np.ones(3), Y, QUERY), r"x: expected shape \(..., n_inputs, n_context\), got \(3,\)"),
    (lambda: make_tokens(X, np.ones((1, 4)), QUERY), "y: expected n_context 3"),
    (lambda: make_tokens(X, Y[0], QUERY), "y: expected shape"),
    (lambda: make_tokens(X[:, :0], Y[:, :0], QUERY), "x: expected n_context >= 1"),
    (lambda: make_tokens(X, Y, np.ones(3)), "x_query: expected n_inputs 2"),
    (lambda: make_tokens(X, Y, np.array([1.0, np.nan])), r"x_query: expected finite entries, got nan at index \(1,\)"),
    (lambda: make_tokens(X, Y * np.inf, QUERY), "y: expected finite"),
    (lambda: make_tokens(X, Y, QUERY, np.ones((2, 1))), "initial_weights: expected shape"),
    (lambda: make_tokens(X.astype(int), Y, QUERY), "x: expected a floating-point array, got dtype int64"),
    (lambda: make_tokens(np.ones((4, 2, 3)), np.ones((5, 1, 3)), np.ones((4, 2))), "y: expected batch axes"),
    (lambda: read_prediction(TOKENS, 3), "n_inputs: expected an integer from 1 to 2"),
    (lambda: gradient_descent_weights(0, 1, 0.5, 3), "n_inputs"),
    (lambda: gradient_descent_weights(2, 1.5, 0.5, 3), "n_outputs"),  # type: ignore[arg-type]
    (lambda: gradient_descent_weights(2, 1, 0.0, 3), r"learning_rate: expected a number in \(0, inf\), got 0.0"),
    (lambda: gradient_descent_weights(2, 1, -0.5, 3), "learning_rate"),
    (lambda: gradient_descent_weights(2, 1, np.inf, 3), "learning_rate"),
    (lambda: gradient_descent_weights(2, 1, np.nan, 3), "learning_rate"),
    (lambda: gradient_descent_weights(2, 1, 0.5, 0), "n_context"),
    (lambda: gradient_descent_weights(2, 1, 0.5, 3, np.ones((2, 1))), "initial_weights"),
    (lambda: stack_forward(TOKENS, [LAYER._replace(key=np.ones((1, 3, 2)))], 3), "key"),
    (lambda: stack_forward(TOKENS, [LAYER._replace(value=np.ones((1, 2, 2)))], 3), "value: expected D 3"),
    (lambda: stack_forward(TOKENS, [LAYER], 0), "n_context: expected an integer from 1 to 3, got 0"),
    (lambda: stack_forward(TOKENS, [LAYER], 4), "n_context"),
    (lambda: stack_forward(TOKENS, [LAYER], 3, dampening=0.0), "dampening"),
    (lambda: stack_forward(TOKENS, [LAYER], 3, dampening=np.inf), "dampening"),
    (lambda: stack_forward(TOKENS, [LAYER], 3, clip=-1.0), "clip"),
    (lambda: stack_forward_vjp(TOKENS, [LAYER], 4), "n_context"),
    (lambda: gradient_step(np.ones((1, 3)), X, Y, 0.5), "weights: expected n_inputs 2"),
    (lambda: gradient_step(np.ones((1, 2)), X, Y, -1.0), "learning_rate"),
    (lambda: gradient_descent(X, Y, []), "learning_rates: expected at least one number"),
    (lambda: gradient_descent(X, Y, [0.5, 0.0]), "learning_rates"),
    (lambda: inner_loss(np.ones(2), X, Y), "weights: expected shape"),
    (lambda: one_step_population_loss(0.5, 2, 3, 0.0, 1.0), "second_moment"),
    (lambda: one_step_population_loss(0.5, 2, 0, 0.1, 1.0), "n_context"),
    (lambda: one_step_population_loss(-0.5, 2, 3, 0.1, 1.0), "learning_rate"),
    (lambda: one_step_population_loss(0.5, 2, 3, 0.1, 1.0, 1, -1.0), "weight_variance"),
    (lambda: optimal_learning_rate(2, 3, 0.1, np.nan), "fourth_moment"),
    (lambda: line_search_learning_rate(without(TASKS)), "tasks: expected at least one task"),
    (lambda: line_search_learning_rate(TASKS, []), "grid"),
    (lambda: line_search_learning_rate(TASKS, [-1.0]), "grid"),
    (lambda: line_search_learning_rate(TASKS, n_steps=0), "n_steps"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_one_step_from_zero_is_a_kernel_smoother_of_the_targets() -> None:
    prediction = apply_linear(gradient_descent(TASKS.x, TASKS.y, [1.5]), TASKS.x_query)
    similarity = (TASKS.x_query[:, None] @ TASKS.x)[:, 0]
    np.testing.assert_allclose(prediction[:, 0], 1.5 / 6 * (TASKS.y[:, 0] * similarity).sum(axis=-1), atol=1e-15)
