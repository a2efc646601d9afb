"""The reference algorithms and the metrics: second routes, symmetries, worked numbers, bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from refimpl.incontext.learning_algorithms import (
    bayes_ridge_weights,
    gd_weights,
    implicit_linear_weight_difference,
    implicit_linear_weights,
    knn_predict,
    least_norm_risk,
    linear_predictor,
    mean_prediction_difference_below,
    one_layer_rate,
    one_layer_risk,
    online_predictions,
    regularized_loss,
    regularized_loss_vjp,
    ridge_risk,
    sample_prompts,
    sgd_weights,
    sherman_morrison_update,
    squared_prediction_difference,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.learning_algorithms.regression import problems
from refimpl.primitives.least_squares import induced_weights, ols_weights, ridge_weights
from refimpl.primitives.numbers import Array


def examples(n: int = 5, d: int = 3, dtype: Any = np.float64) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in ((2, n, d), (2, n), (2, d)))  # type: ignore[return-value]


def rotation(d: int) -> Array:
    return np.linalg.qr(np.random.default_rng(3).standard_normal((d, d)))[0]


# --- descent ---


def test_sgd_takes_the_examples_one_by_one() -> None:
    x, y, start = examples()
    for task in range(2):
        weights = start[task].copy()
        for one, target in zip(x[task], y[task], strict=True):
            weights -= 2 * 0.05 * ((weights @ one - target) * one + 0.5 * weights)
        np.testing.assert_allclose(sgd_weights(x, y, 0.05, 0.5, start)[task], weights, rtol=1e-13)


def test_a_clipped_gradient_moves_each_weight_by_the_bound() -> None:
    x, y, _ = examples(1)
    np.testing.assert_allclose(sgd_weights(x, 1e3 * y, 0.1, clip=20), 2 * np.sign(x[:, 0] * y), rtol=1e-14)
    np.testing.assert_array_equal(sgd_weights(x, y, 0.1, clip=1e3), sgd_weights(x, y, 0.1))


def test_gd_descends_the_loss() -> None:
    x, y, start = examples()
    _, pullback = regularized_loss_vjp(start, x, y, 0.25)
    expected = start - 0.02 * pullback(np.ones(2))[0]
    np.testing.assert_allclose(gd_weights(x, y, 0.02, 0.25, start), expected, rtol=1e-13)
    twice = gd_weights(x, y, 0.02, 0.25, gd_weights(x, y, 0.02, 0.25, start))
    np.testing.assert_allclose(gd_weights(x, y, 0.02, 0.25, start, n_steps=2), twice, rtol=1e-13)


def test_one_example_leaves_nothing_to_order() -> None:
    x, y, _ = examples(1)
    np.testing.assert_allclose(sgd_weights(x, y, 0.1, 0.5), gd_weights(x, y, 0.1, 0.5), rtol=1e-14)


def test_the_order_of_examples_matters_to_sgd_only() -> None:
    x, y, _ = examples()
    turned = x[:, ::-1], y[:, ::-1]
    assert np.max(np.abs(sgd_weights(x, y, 0.1) - sgd_weights(*turned, 0.1))) > 1e-2
    for fit in (ols_weights, lambda x, y: ridge_weights(x, y, 0.1), lambda x, y: gd_weights(x, y, 0.1)):
        np.testing.assert_allclose(fit(*turned), fit(x, y), rtol=1e-10, atol=1e-12)


# --- all linear algorithms, and neighbours ---

ALGORITHMS = {
    "ols": linear_predictor(ols_weights),
    "ridge": linear_predictor(ridge_weights, penalty=0.1),
    "bayes": linear_predictor(bayes_ridge_weights, noise_var=0.25, prior_var=2.0),
    "gd": linear_predictor(gd_weights, learning_rate=0.02),
    "sgd": linear_predictor(sgd_weights, learning_rate=0.02),
    "knn": knn_predict,
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_rotated_inputs_leave_every_prediction(name: str) -> None:
    x, y, _ = examples(7)
    turned = online_predictions(ALGORITHMS[name], x @ rotation(3), y)
    np.testing.assert_allclose(turned, online_predictions(ALGORITHMS[name], x, y), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_only_earlier_examples_are_used(name: str) -> None:
    x, y, _ = examples(6)
    changed_x, changed_y = x.copy(), y.copy()
    changed_x[:, 4:] += 1
    changed_y[:, 3:] += 1
    before = online_predictions(ALGORITHMS[name], x, y)
    after = online_predictions(ALGORITHMS[name], changed_x, changed_y)
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.all(before[:, 4] != after[:, 4])


def test_scaled_examples_leave_ridge_weights_at_the_squared_penalty() -> None:
    x, y, _ = examples()
    np.testing.assert_allclose(ridge_weights(3 * x, 3 * y, 9 * 0.1), ridge_weights(x, y, 0.1), rtol=1e-12)


def test_without_noise_the_posterior_mean_is_the_interpolant_of_least_norm() -> None:
    x, y, _ = examples(2)
    np.testing.assert_array_equal(bayes_ridge_weights(x, y, 0, 2.0), ols_weights(x, y))
    np.testing.assert_allclose(bayes_ridge_weights(x, y, 1e-9, 2.0), ols_weights(x, y), rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("power", [0, 1, 2])
def test_neighbours_one_by_one(n: int, power: int) -> None:
    x, y, query = examples(n)
    for task in range(2):
        distances = [float(np.linalg.norm(one - query[task])) for one in x[task]]
        nearest = sorted(range(n), key=distances.__getitem__)[:3]
        weights = [distances[i] ** -power for i in nearest]
        expected = sum(w * y[task, i] for w, i in zip(weights, nearest, strict=True)) / sum(weights)
        assert knn_predict(x, y, query, power=power)[task] == pytest.approx(expected, rel=1e-12)


def test_an_example_at_the_query_decides() -> None:
    x = np.array([[0.0], [1.0], [0.0], [4.0]])
    y = np.array([1.0, 10.0, 3.0, 20.0])
    assert knn_predict(x, y, np.zeros(1)) == 2.0
    assert knn_predict(x, y, np.ones(1)) == 10.0
    # Distances whose squares underflow against the others.
    assert knn_predict(x, y, np.full(1, 1e-200)) == pytest.approx(2.0)


def test_sherman_morrison_is_an_inverse() -> None:
    x, _, query = examples(4)
    matrix = np.swapaxes(x, -1, -2) @ x + np.eye(3)
    outer = query[..., None] * query[..., None, :]
    np.testing.assert_allclose(
        sherman_morrison_update(np.linalg.inv(matrix), query), np.linalg.inv(matrix + outer), rtol=1e-10, atol=1e-12
    )


@settings(max_examples=50, deadline=None, derandomize=True)
@given(problems())
def test_least_squares_is_where_the_loss_has_no_slope(case: Arguments) -> None:
    x, y = case["x"], case["y"]
    weights = bayes_ridge_weights(x, y, 0.5, 2.0)
    slope = regularized_loss_vjp(weights, x, y, 0.25)[1](np.ones(x.shape[:-2]))[0]
    size = 1 + np.linalg.norm(x, axis=(-2, -1)).max() ** 2
    assert np.max(np.abs(slope)) <= 1e-12 * size * (1 + np.abs(weights).max() + np.abs(y).max())


# --- risks ---


def test_worked_risks() -> None:
    assert one_layer_rate(10, 8, 0.5, 2.0) == pytest.approx(1 / 19.25)
    assert one_layer_risk(0.0, 10, 8, 0.5, 2.0) == 16.0
    # At its best rate the risk is d tau^2 (1 - eta n).
    rate = one_layer_rate(10, 8, 0.25, 1.0)
    assert one_layer_risk(rate, 10, 8, 0.25, 1.0) == pytest.approx(8 * (1 - 10 * rate))
    assert [least_norm_risk(n, 8, 0.0, 2.0) for n in (1, 8, 12)] == [14.0, 0.0, 0.0]
    assert [least_norm_risk(n, 8, 1.0, 2.0) for n in (7, 8, 9)] == [float("inf")] * 3
    assert least_norm_risk(4, 9, 0.25, 1.0) == pytest.approx(5.25)
    assert least_norm_risk(12, 5, 0.25, 1.0) == pytest.approx(5 / 24)
    assert ridge_risk(np.array([0.0, 1.0]), 1.0, 0.5, 2.0) == pytest.approx(2.0 + (2 + 0.5) / 4)


def test_the_risk_of_ridge_is_a_trace() -> None:
    x = examples(2)[0][0]
    gram = x.T @ x
    inverse = np.linalg.inv(gram + 0.3 * np.eye(3))
    bias = 0.3**2 * np.trace(inverse @ inverse) * 1.5
    variance = 0.7 * np.trace(inverse @ gram @ inverse)
    found = ridge_risk(np.linalg.eigvalsh(gram).clip(0), 0.3, 0.7, 1.5)
    assert found == pytest.approx(bias + variance, rel=1e-10)


# --- metrics ---


def test_differences_of_predictions() -> None:
    first, second = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]]), np.array([[1.0, 0.0, 6.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(squared_prediction_difference(first, second), [13 / 3, 0])
    np.testing.assert_allclose(squared_prediction_difference(second, first), [13 / 3, 0])
    np.testing.assert_allclose(mean_prediction_difference_below(first, second, 3), [2, 0])
    np.testing.assert_allclose(mean_prediction_difference_below(first, second, 4), [13 / 3, 0])


def test_implied_weights_by_least_squares() -> None:
    x, y, _ = examples(7)
    np.testing.assert_allclose(implicit_linear_weights(x, y), induced_weights(x, y), rtol=1e-10)
    between = induced_weights(x, y) - induced_weights(x, np.tanh(y))
    found = implicit_linear_weight_difference(x, y, np.tanh(y))
    np.testing.assert_allclose(found, (between**2).sum(axis=-1), rtol=1e-9)
    np.testing.assert_array_equal(implicit_linear_weight_difference(x, y, y), 0)


def test_the_probes_of_a_linear_predictor_tell_its_weights() -> None:
    x, y, _ = examples(5)
    probes = np.random.default_rng(4).standard_normal((2, 9, 3))
    predict = linear_predictor(ridge_weights, penalty=0.3)
    answers = np.stack([predict(x, y, probes[:, i]) for i in range(9)], axis=-1)
    np.testing.assert_allclose(implicit_linear_weights(probes, answers), ridge_weights(x, y, 0.3), rtol=1e-10)


def test_float32_is_kept() -> None:
    x, y, query = examples(5, dtype=np.float32)
    eigenvalues = np.ones(3, np.float32)
    results = [
        sgd_weights(x, y, 0.1, 0.25, clip=20.0),
        gd_weights(x, y, 0.1, 0.25, n_steps=2),
        bayes_ridge_weights(x, y, 0.25, 1.0),
        bayes_ridge_weights(x, y, 0.0, 1.0),
        *(knn_predict(x, y, query, power=power) for power in (0, 1, 2)),
        regularized_loss(query, x, y, 0.25),
        sherman_morrison_update(np.eye(3, dtype=np.float32)[None].repeat(2, 0), query),
        ridge_risk(eigenvalues, 0.5, 0.25, 1.0),
        squared_prediction_difference(y, y + 1),
        mean_prediction_difference_below(y, y + 1, 3),
        implicit_linear_weights(x, y),
        implicit_linear_weight_difference(x, y, y + 1),
        online_predictions(ALGORITHMS["ridge"], x, y),
    ]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}


X, Y, QUERY = examples()
TASKS = sample_prompts(2, 4, 3, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sgd_weights(X, Y[:, :4], 0.1), "y: expected n 5"),
        (lambda: sgd_weights(X[:, :0], Y[:, :0], 0.1), "x: expected n >= 1"),
        (lambda: sgd_weights(X, Y, 0.0), "learning_rate: expected"),
        (lambda: sgd_weights(X, Y, 0.1, -1.0), "weight_decay: expected"),
        (lambda: sgd_weights(X, Y, 0.1, clip=0.0), "clip: expected"),
        (lambda: sgd_weights(X, Y, 0.1, initial_weights=QUERY[:, :2]), "initial_weights: expected d 3"),
        (lambda: sgd_weights(X, Y * np.nan, 0.1), "y: expected finite"),
        (lambda: gd_weights(X, Y, 0.0), "learning_rate: expected"),
        (lambda: gd_weights(X, Y, 0.1, n_steps=-1), "n_steps: expected"),
        (lambda: bayes_ridge_weights(X, Y, -0.1, 1.0), "noise_var: expected"),
        (lambda: bayes_ridge_weights(X, Y, 0.1, 0.0), "prior_var: expected"),
        (lambda: bayes_ridge_weights(X, Y, 0.1, -1.0), "prior_var: expected"),
        (lambda: knn_predict(X, Y, QUERY[:, :2]), "x_query: expected d 3"),
        (lambda: knn_predict(X, Y, QUERY, 0), "n_neighbours: expected"),
        (lambda: knn_predict(X, Y, QUERY, power=-1), "power: expected"),
        (lambda: regularized_loss(QUERY, X, Y, -1.0), "weight_decay: expected"),
        (lambda: regularized_loss_vjp(QUERY[:, :2], X, Y), "x: expected d 2"),
        (lambda: sherman_morrison_update(np.eye(2), QUERY[0]), "x: expected d 2"),
        (lambda: sherman_morrison_update(np.ones((2, 3)), QUERY[0]), "inverse: expected"),
        (lambda: online_predictions(knn_predict, X[:, :1], Y[:, :1]), "x: expected at least 2 examples"),
        (lambda: ridge_risk(np.array([-1.0]), 1.0, 1.0, 1.0), "eigenvalues: expected none below 0"),
        (lambda: ridge_risk(np.array([1.0]), 0.0, 1.0, 1.0), "ridge: expected"),
        (lambda: ridge_risk(np.array([1.0]), 1.0, -1.0, 1.0), "noise_var: expected"),
        (lambda: ridge_risk(np.array([1.0]), 1.0, 1.0, 0.0), "prior_var: expected"),
        (lambda: least_norm_risk(0, 2, 0.0, 1.0), "n_examples: expected"),
        (lambda: least_norm_risk(1, 2, -1.0, 1.0), "noise_var: expected"),
        (lambda: one_layer_rate(1, 0, 0.0, 1.0), "n_inputs: expected"),
        (lambda: one_layer_risk(np.nan, 1, 1, 0.0, 1.0), "learning_rate: expected"),
        (lambda: squared_prediction_difference(Y, Y[:, :3]), "second: expected n 5"),
        (lambda: mean_prediction_difference_below(Y, Y, 1), "n_inputs: expected"),
        (lambda: mean_prediction_difference_below(Y, Y, 7), "n_inputs: expected"),
        (lambda: implicit_linear_weights(X[:, :2], Y[:, :2]), "x_probe: expected at least 3 probes"),
        (lambda: implicit_linear_weights(np.ones((4, 2)), np.ones(4)), "x_probe: expected probes that span"),
        (lambda: implicit_linear_weight_difference(X[:, :2], Y[:, :2], Y[:, :2]), "x_probe: expected at least 3"),
        (lambda: implicit_linear_weight_difference(X, Y, Y[:, :4]), "predictions: expected n 5"),
    ],
)
def test_bad_input(call: Callable[[], Any], message: str) -> None:
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=message):
        call()
