"""Gradient coherence: second routes to the same values, the stream, states, what is refused, dtypes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.dynamics.gradient_coherence import (
    CoherenceAccumulator,
    RollingMedian3,
    batch_rule,
    coherence,
    coherence_curve,
    coherence_debiased,
    debiased_square_of_mean,
    disagreement_bound,
    example_coherence,
    gradient_diversity,
    gradient_matrix,
    initial_perceptron,
    layer_coherence,
    logistic_descent,
    logistic_gradients,
    logistic_loss,
    logistic_loss_vjp,
    m_coherence,
    median_of_three,
    median_rule,
    middle_of_three,
    minibatch_coherence,
    mlp_m_coherence,
    replace_one_bound,
    rolling_median_rule,
    sample_digits,
    signal_to_noise,
    squared_disagreement,
    squared_loss_gradients,
    stability_bound,
    step_weights,
    streamed_coherence,
    toy_dataset,
    toy_limit,
    training_accuracies,
    trimmed_count,
    winsorized_mean,
    winsorized_rule,
)
from refimpl.oracle.specs.dynamics.gradient_coherence import batches, gradient_samples, labelled, networks
from refimpl.primitives.curvature import mlp_curvature, pack

ONES = np.ones((4, 3))


@settings(max_examples=40, deadline=None)
@given(gradient_samples())
def test_batch_axes_are_samples(gradients: Any) -> None:
    stacked = np.stack([gradients, gradients[::-1] + 1])
    for function in (coherence, m_coherence, squared_disagreement):
        alone = [function(one) for one in stacked if np.any(one)]
        if len(alone) == 2:
            np.testing.assert_allclose(function(stacked), alone, rtol=1e-9, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(gradient_samples(), st.integers(1, 40))
def test_a_stream_in_any_parts_has_the_sample_s_coherence(gradients: Any, cut: int) -> None:
    empty = CoherenceAccumulator.empty(gradients.shape[1])
    parts = [part for part in (gradients[:cut], gradients[cut:]) if len(part)]
    streams = [empty.update(part) for part in parts]
    merged = streams[0] if len(streams) == 1 else streams[1].merge(streams[0])
    assert merged.count == len(gradients)
    for found in (merged.coherence(), streamed_coherence(parts)):
        np.testing.assert_allclose(found, coherence(gradients), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(merged.m_coherence(), m_coherence(gradients), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        merged.squared_disagreement(), squared_disagreement(gradients), atol=1e-12 * np.sum(gradients**2), rtol=1e-9
    )


def test_an_accumulator_without_gradients_has_no_coherence() -> None:
    with pytest.raises(ValueError, match="squared norm"):
        CoherenceAccumulator.empty(3).coherence()


def test_half_precision_sums_in_single() -> None:
    gradients = np.full((4000, 3), 1.0, dtype=np.float16)  # of which half precision can count 2048
    assert coherence(gradients) == 1
    assert coherence(gradients).dtype == np.float16


@settings(max_examples=40, deadline=None)
@given(batches(), st.sampled_from((0.0, 0.02, 0.1, 0.29, 0.49)))
def test_winsorized_mean_is_that_of_clipped_entries(gradients: Any, level: float) -> None:
    count = trimmed_count(level, gradients.shape[-2])
    ordered = np.sort(gradients, axis=-2)
    clipped = np.clip(gradients, ordered[..., count, :][..., None, :], ordered[..., -count - 1, :][..., None, :])
    scale = np.max(np.abs(gradients), initial=0)
    np.testing.assert_allclose(winsorized_mean(gradients, level), clipped.mean(axis=-2), atol=1e-13 * (1 + scale))
    if count:
        backwards = winsorized_mean(gradients[..., ::-1, :], level)
        np.testing.assert_array_equal(winsorized_mean(gradients, level), backwards)


def test_the_level_is_meant_as_a_decimal() -> None:
    assert int(0.29 * 100) == 28
    assert trimmed_count(0.29, 100) == 29
    assert trimmed_count(0.49, 3) == 1
    assert trimmed_count(0.4999999999999, 2) == 0


@given(st.permutations([1.0, 5.0, 2.5]))
def test_middle_of_three_in_any_order(values: list[float]) -> None:
    assert middle_of_three(*(np.array([value]) for value in values)) == 2.5


def test_rolling_median_starts_at_the_third_gradient() -> None:
    state = RollingMedian3()
    steps = []
    for value in (3.0, 1.0, 2.0, 9.0):
        step, state = state.update(np.array([value]))
        steps.append(None if step is None else float(step[0]))
    assert steps == [None, None, 2.0, 2.0]
    assert RollingMedian3().earlier == ()


@settings(max_examples=30, deadline=None)
@given(networks())
def test_rows_of_the_gradient_matrix_average_to_the_gradient(arguments: Any) -> None:
    matrix = gradient_matrix(**arguments)
    batch = pack(mlp_curvature(arguments["layers"], arguments["x"], arguments["labels"], "relu").gradient)
    np.testing.assert_allclose(matrix.mean(axis=0), batch, atol=1e-12 * (1 + np.max(np.abs(matrix))))
    step, _ = batch_rule(None, arguments["layers"], arguments["x"], arguments["labels"])
    np.testing.assert_allclose(step, batch, atol=1e-12 * (1 + np.max(np.abs(matrix))))
    if np.sum(matrix**2) > 0:
        np.testing.assert_allclose(mlp_m_coherence(**arguments), m_coherence(matrix), rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(labelled())
def test_logistic_gradients_pull_back_ones(arguments: Any) -> None:
    losses, pullback = logistic_loss_vjp(**arguments)
    np.testing.assert_allclose(losses, logistic_loss(**arguments), rtol=1e-14)
    gradients = logistic_gradients(**arguments)
    scale = 1 + np.max(np.abs(gradients))
    np.testing.assert_allclose(gradients.sum(axis=-2), pullback(np.ones_like(losses))[0], atol=1e-12 * scale)


@settings(max_examples=20, deadline=None)
@given(labelled())
def test_descent_steps_along_the_mean_gradient(arguments: Any) -> None:
    x, y = arguments["x"], arguments["y"]
    rates = np.array([0.3, 0.1])
    trajectory = logistic_descent(x, y, rates)
    assert not np.any(trajectory[0])
    for before, after, rate in zip(trajectory[:-1], trajectory[1:], rates, strict=True):
        step = before - rate * logistic_gradients(before, x, y).mean(axis=-2)
        np.testing.assert_allclose(after, step, atol=1e-13 * (1 + np.max(np.abs(x))))


def test_the_bound_is_the_recursion_s_end() -> None:
    rng = np.random.default_rng(0)
    coherences, rates = rng.uniform(0, 1, 9), rng.uniform(0, 1, 9)
    for convex in (False, True):
        last = replace_one_bound(disagreement_bound(coherences, 2.0), rates, 1.5, 7, convex)[-1]
        np.testing.assert_allclose(stability_bound(coherences, rates, 2.0, 1.5, 7, convex), 2 * last, rtol=1e-13)


@pytest.mark.parametrize("name", ["coherences", "learning_rates", "lipschitz", "smoothness"])
def test_the_bound_is_monotone(name: str) -> None:
    arguments = {
        "coherences": np.full(5, 0.3),
        "learning_rates": np.full(5, 0.2),
        "lipschitz": 1.0,
        "smoothness": 0.5,
        "n_samples": 10,
    }
    raised = stability_bound(**arguments | {name: arguments[name] * 1.1})  # type: ignore[operator]
    base = stability_bound(**arguments)  # type: ignore[arg-type]
    assert raised < base if name == "coherences" else raised > base
    assert stability_bound(**arguments | {"n_samples": 11}) < base  # type: ignore[arg-type]


def test_the_toy_limit_of_one_example() -> None:
    limit = toy_limit(1, 1.0)
    assert (limit.own, limit.shared, limit.prediction, limit.coherence) == (0.5, 0.5, 0.5, 1.0)
    x, y = toy_dataset(2, 3.0, np.array([1.0, -1.0]))
    np.testing.assert_array_equal(x, [[1, 0, 3], [0, 1, -3]])
    np.testing.assert_array_equal(y, [1, -1])


def test_digits_drawn_anew_are_partly_the_same() -> None:
    rng = np.random.default_rng(0)
    problem = sample_digits(1000, 0.5, rng)
    assert problem.x.shape == (1000, 64)
    assert problem.test_x.shape == (797, 64)
    assert 400 < problem.corrupted.sum() < 500
    assert not sample_digits(1000, 0.0, rng).corrupted.any()


@pytest.mark.parametrize("rule", [batch_rule, median_rule, rolling_median_rule, winsorized_rule(0.02)])
def test_every_rule_learns_the_digits(rule: Any) -> None:
    rng = np.random.default_rng(1)
    run = training_accuracies(sample_digits(400, 0.0, rng), rule, 0.3, 50, 12, rng)
    assert run.test[-1] > 0.8
    assert np.isnan(run.corrupted).all()


def test_a_curve_s_epochs_come_in_the_order_asked_for() -> None:
    problem = sample_digits(100, 0.0, np.random.default_rng(2))
    forth, back = (coherence_curve(problem, 0.2, 25, one, np.random.default_rng(3)) for one in ((0, 2), (2, 0)))
    np.testing.assert_array_equal(forth, back[::-1])
    start = initial_perceptron(np.random.default_rng(3))
    np.testing.assert_allclose(forth[0], mlp_m_coherence(start, problem.x, problem.labels), rtol=1e-13)


RATES, ALPHAS = np.full(3, 0.1), np.full(3, 0.5)
DIGITS_START = initial_perceptron(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (coherence, (np.ones((0, 3)),), "m >= 1"),
        (coherence, (np.ones(3),), "gradients: expected shape"),
        (coherence, (np.zeros((4, 3)),), "squared norm"),
        (m_coherence, (np.full((4, 3), np.nan),), "finite"),
        (coherence, (np.ones((4, 3), dtype=int),), "floating-point"),
        (gradient_diversity, (np.zeros((4, 3)),), "squared norm"),
        (coherence_debiased, (np.ones((1, 3)),), ">= 2"),
        (debiased_square_of_mean, (1.0, 1.0, 1), ">= 2"),
        (squared_disagreement, (np.full((4, 3), np.inf),), "finite"),
        (streamed_coherence, ([],), "chunks: expected at least one"),
        (streamed_coherence, ([ONES, np.ones((4, 2))],), r"chunks\[1\]"),
        (layer_coherence, ([],), "blocks: expected at least one"),
        (layer_coherence, ([ONES, np.ones((3, 2))],), r"blocks\[1\]"),
        (layer_coherence, ([ONES, 0 * ONES],), r"blocks\[1\]"),
        (minibatch_coherence, (1.5, 2), "alpha"),
        (minibatch_coherence, (0.5, 0), "batch_size"),
        (example_coherence, (-0.1, 2), "alpha_b"),
        (signal_to_noise, (1.0,), "alpha"),
        (winsorized_mean, (ONES, 0.5), "level"),
        (winsorized_mean, (ONES, -0.1), "level"),
        (winsorized_mean, (np.full((4, 3), np.inf), 0.1), "finite"),
        (trimmed_count, (0.1, 0), "batch_size"),
        (median_of_three, (ONES,), "three equal parts"),
        (middle_of_three, (ONES, ONES, ONES[:2]), "third"),
        (RollingMedian3((ONES,)).update, (ONES[:1],), "gradient: expected shape"),
        (CoherenceAccumulator.empty(2).update, (ONES,), "total"),
        (stability_bound, (ALPHAS, RATES[:2], 1, 1, 3), "learning_rates"),
        (stability_bound, (ALPHAS + 1, RATES, 1, 1, 3), "coherences"),
        (stability_bound, (ALPHAS, -RATES, 1, 1, 3), "learning_rates"),
        (stability_bound, (ALPHAS, RATES, -1, 1, 3), "lipschitz"),
        (stability_bound, (ALPHAS, RATES, 1, -1, 3), "smoothness"),
        (stability_bound, (ALPHAS, RATES, 1, 1, 0), "n_samples"),
        (stability_bound, (ALPHAS, 30 * RATES, 1, 1, 3, True), "2 / smoothness"),
        (step_weights, (-RATES, 1), "learning_rates"),
        (disagreement_bound, (-ALPHAS, 1), "coherences"),
        (replace_one_bound, (-ALPHAS, RATES, 1, 3), "gradient_differences"),
        (replace_one_bound, (ALPHAS, RATES[:1], 1, 3), "learning_rates"),
        (logistic_loss, (np.ones(2), ONES, np.ones(4)), "x"),
        (logistic_gradients, (np.ones(3), ONES, np.ones(3)), "y"),
        (logistic_descent, (ONES, np.ones(4), -RATES), "learning_rates"),
        (squared_loss_gradients, (np.ones(2), ONES, np.ones(4)), "x"),
        (toy_dataset, (2, 1.0, np.array([1.0, 0.5])), "labels"),
        (toy_dataset, (3, 1.0, np.array([1.0, -1.0])), "labels"),
        (toy_limit, (0, 1.0), "n"),
        (gradient_matrix, (DIGITS_START, np.ones((2, 64)), np.array([0, 10])), "labels"),
        (gradient_matrix, (DIGITS_START, np.ones((2, 63)), np.array([0, 1])), "weight"),
        (mlp_m_coherence, (DIGITS_START, np.ones((2, 64)), np.array([0.0, 1.0])), "labels"),
        (sample_digits, (1001, 0.0, np.random.default_rng(0)), "n_train"),
        (sample_digits, (10, 1.5, np.random.default_rng(0)), "redrawn"),
    ],
)
def test_what_is_refused(function: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_dtypes_are_kept(dtype: Any) -> None:
    gradients = np.random.default_rng(0).standard_normal((6, 3)).astype(dtype)
    y = np.where(gradients[:, 0] > 0, 1, -1).astype(dtype)
    rates, alphas = np.full(2, 0.1, dtype), np.full(2, 0.5, dtype)
    outputs = [
        coherence(gradients),
        coherence_debiased(gradients),
        squared_disagreement(gradients),
        *layer_coherence([gradients[:, :1], gradients[:, 1:]]),
        streamed_coherence([gradients]),
        winsorized_mean(gradients, 0.2),
        winsorized_mean(gradients, 0.0),
        median_of_three(gradients),
        step_weights(rates, 0.25),
        stability_bound(alphas, rates, 1.0, 0.25, 3),
        replace_one_bound(alphas, rates, 0.25, 3),
        logistic_loss(gradients[0], gradients, y),
        logistic_gradients(gradients[0], gradients, y),
        logistic_descent(gradients, y, rates),
        squared_loss_gradients(gradients[0], gradients, y),
        toy_dataset(6, 0.6, y)[0],
    ]
    assert {output.dtype for output in outputs} == {np.dtype(dtype)}
