"""GD++: other routes to the same values, the fit of its scalars, dtypes, bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

from refimpl.incontext.linear_attention import (
    apply_linear,
    fit_gd_plus_plus,
    gd_plus_plus_condition_number,
    gd_plus_plus_eigenvalue_map,
    gd_plus_plus_population_loss,
    gd_plus_plus_predict,
    gd_plus_plus_weights,
    gradient_descent,
    gram_eigenvalues,
    make_tokens,
    one_step_population_loss,
    optimal_learning_rate,
    read_prediction,
    spectrum_condition_number,
    stack_forward,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.linear_attention.plus_plus import predict_arguments
from refimpl.tasks.linear_regression import sample_linear_tasks, uniform_moments

X, Y, QUERY = np.ones((2, 3)), np.ones((1, 3)), np.ones(2)
TASKS = sample_linear_tasks(2000, 10, 10, 0.5, 1.0, np.random.default_rng(0))
EIGENVALUES = gram_eigenvalues(TASKS.x)
RATE = optimal_learning_rate(10, 10, *uniform_moments(0.5))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(predict_arguments())
def test_without_curvature_it_is_gradient_descent(case: Arguments) -> None:
    x, y, query, rates, _ = case.values()
    predicted = gd_plus_plus_predict(x, y, query, rates, [0.0] * len(rates))
    expected = apply_linear(gradient_descent(x, y, rates), query)
    # The same operations but for products with the identity.
    assert np.max(np.abs(predicted - expected)) <= 1e-12 * (1 + np.max(np.abs(expected)))


def test_a_start_elsewhere_goes_into_the_tokens_not_into_the_values() -> None:
    """With residuals as targets and zeros in the values, layers and recursion agree; with W_0 in the values they do not
    from the second layer on, which applies it to inputs that have changed."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((1, 10))
    rates, gammas = [4.0, 8.0, 16.0], [0.1, 0.1, 0.1]
    residuals = TASKS.y - start @ TASKS.x
    expected = apply_linear(np.broadcast_to(start, (2000, 1, 10)), TASKS.x_query) + gd_plus_plus_predict(
        TASKS.x, residuals, TASKS.x_query, rates, gammas
    )

    def layers(values: np.ndarray | None) -> list[Any]:
        return [gd_plus_plus_weights(10, 1, *scalars, 10, values) for scalars in zip(rates, gammas, strict=True)]

    tokens = make_tokens(TASKS.x, residuals, TASKS.x_query)
    tokens[:, 10:, -1] = -(start @ TASKS.x_query[..., None])[..., 0]
    np.testing.assert_allclose(read_prediction(stack_forward(tokens, layers(None), 10), 10), expected, atol=1e-13)
    tokens = make_tokens(TASKS.x, TASKS.y, TASKS.x_query, start)
    assert np.mean(np.abs(read_prediction(stack_forward(tokens, layers(start), 10), 10) - expected)) > 1e-3


def test_the_spectral_loss_is_the_mean_over_teachers_and_queries() -> None:
    """Against the squared error of sampled teachers and queries, within 5 standard errors."""
    rates, gammas = np.array([13.5, 13.5]), np.array([0.176, 0.176])
    spectral = gd_plus_plus_population_loss(EIGENVALUES, rates, gammas, 10)
    predicted = gd_plus_plus_predict(TASKS.x, TASKS.y, TASKS.x_query, rates, gammas)
    errors = ((predicted - TASKS.y_query) ** 2)[:, 0]
    assert abs(np.mean(errors) - spectral) < 5 * stats.sem(errors)


def test_one_plain_step_has_the_loss_in_closed_form() -> None:
    """The spectral loss still averages over inputs by sampling; the closed form does not."""
    moments = uniform_moments(0.5)
    sampled = [gd_plus_plus_population_loss(row[None], np.array([4.0]), np.array([0.0]), 10) for row in EIGENVALUES]
    closed = one_step_population_loss(4.0, 10, 10, *moments)
    assert abs(np.mean(sampled) - closed) < 5 * stats.sem(sampled)
    scaled = gd_plus_plus_population_loss(EIGENVALUES, np.array([4.0]), np.array([0.0]), 10, 1 / 6, 3, 2.0)
    assert scaled == pytest.approx(12 * np.mean(sampled), rel=1e-12)


def test_the_fit_ends_where_the_loss_is_stationary() -> None:
    fitted = fit_gd_plus_plus(EIGENVALUES, 2, 10, RATE)
    assert fitted.loss == pytest.approx(
        float(gd_plus_plus_population_loss(EIGENVALUES, fitted.learning_rates, fitted.gammas, 10)), rel=1e-12
    )
    for change in (0.98, 1.02):
        for rates, gammas in [
            (change * fitted.learning_rates, fitted.gammas),
            (fitted.learning_rates, change * fitted.gammas),
        ]:
            assert gd_plus_plus_population_loss(EIGENVALUES, rates, gammas, 10) > fitted.loss


@pytest.mark.parametrize("plain", [True, False])
def test_more_freedom_and_more_steps_never_hurt(plain: bool) -> None:
    losses = {
        (tied, depth): fit_gd_plus_plus(EIGENVALUES[:500], depth, 10, RATE, tied, plain).loss
        for tied in (True, False)
        for depth in (1, 2, 3, 4, 5)
    }
    assert all(losses[False, depth] <= losses[True, depth] * (1 + 1e-9) for depth in (1, 2, 3, 4, 5))
    assert all(losses[tied, depth + 1] < losses[tied, depth] for tied in (True, False) for depth in (1, 2, 3, 4))


def test_plain_descent_has_no_curvature_term_and_tied_scalars_are_equal() -> None:
    plain = fit_gd_plus_plus(EIGENVALUES, 3, 10, RATE, plain=True)
    assert np.all(plain.gammas == 0)
    assert np.ptp(plain.learning_rates) == 0
    one = fit_gd_plus_plus(EIGENVALUES, 1, 10, RATE, plain=True)
    assert one.learning_rates[0] == pytest.approx(RATE, rel=0.05)


def test_condition_numbers_by_hand() -> None:
    # f(1/3) = 4/27, f(1/10) = 81/1000, f(2) = 2 at gamma 1.
    assert gd_plus_plus_condition_number(0.1, 2.0, 1.0) == pytest.approx(4000 / 2187)
    assert spectrum_condition_number(np.array([0.1, 2.0]), 1.0) == pytest.approx(2000 / 81)
    assert spectrum_condition_number(np.array([0.1, 2.0]), 0.0) == pytest.approx(20)
    assert gd_plus_plus_eigenvalue_map(2.0, 0.25) == 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_the_dtype_is_kept(dtype: Any) -> None:
    x, y, query = (a.astype(dtype) for a in (X, Y, QUERY))
    weights = gd_plus_plus_weights(2, 1, 0.5, 0.1, 3, np.zeros((1, 2), dtype))
    rates = np.array([0.5, 0.5], dtype)
    results = [
        *weights,
        gd_plus_plus_predict(x, y, query, rates, np.array([0.1, 0.1])),
        gd_plus_plus_predict(x, y, query, [0.5], [0.1]),
        gd_plus_plus_population_loss(np.ones((2, 3), dtype), rates, rates, 3),
    ]
    assert {array.dtype for array in results} == {np.dtype(dtype)}


ONE = np.ones(1)
BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: gd_plus_plus_weights(2, 1, 0.5, -0.1, 3), r"gamma: expected a number in \[0, inf\), got -0.1"),
    (lambda: gd_plus_plus_weights(2, 1, 0.0, 0.1, 3), "learning_rate"),
    (lambda: gd_plus_plus_weights(2, 1, 0.5, 0.1, 0), "n_context"),
    (lambda: gd_plus_plus_weights(2, 1, 0.5, 0.1, 3, np.ones((2, 1))), "initial_weights"),
    (lambda: gd_plus_plus_predict(X, Y, QUERY, [0.5, 0.5], [0.1]), "gammas: expected 2 numbers as in learning_rates"),
    (lambda: gd_plus_plus_predict(X, Y, QUERY, [0.5], [-0.1]), "gammas"),
    (lambda: gd_plus_plus_predict(X, Y, QUERY, [np.nan], [0.1]), "learning_rates"),
    (lambda: gd_plus_plus_predict(X, Y, QUERY, [], []), "learning_rates: expected at least one"),
    (lambda: gd_plus_plus_predict(X, Y, np.ones(3), [0.5], [0.1]), "x_query"),
    (lambda: gd_plus_plus_predict(X, Y[:, :2], QUERY, [0.5], [0.1]), "y: expected n_context 3"),
    (lambda: gd_plus_plus_predict(X, Y * np.nan, QUERY, [0.5], [0.1]), "y: expected finite"),
    (lambda: gd_plus_plus_population_loss(np.ones(3), ONE, ONE, 3), "eigenvalues: expected shape"),
    (lambda: gd_plus_plus_population_loss(np.ones((0, 3)), ONE, ONE, 3), "eigenvalues: expected n_tasks >= 1"),
    (lambda: gd_plus_plus_population_loss(np.ones((2, 3)), ONE, np.ones(2), 3), "gammas: expected n_steps 1"),
    (lambda: gd_plus_plus_population_loss(np.ones((2, 3)), ONE, ONE, 0), "n_context"),
    (lambda: gd_plus_plus_population_loss(np.ones((2, 3)), ONE, ONE, 3, 0.0), "second_moment"),
    (lambda: fit_gd_plus_plus(np.ones((2, 3)), 0, 3, 0.5), "n_steps"),
    (lambda: fit_gd_plus_plus(np.ones((2, 3)), 1, 3, -0.5), "learning_rate"),
    (lambda: fit_gd_plus_plus(np.ones(3), 1, 3, 0.5), "eigenvalues"),
    (lambda: gram_eigenvalues(np.ones(3)), "x: expected shape"),
    (lambda: gd_plus_plus_condition_number(0.0, 1.0, 0.1), "smallest"),
    (lambda: gd_plus_plus_condition_number(2.0, 1.0, 0.1), "largest"),
    (lambda: gd_plus_plus_condition_number(1.0, 2.0, 0.0), "gamma"),
    (lambda: spectrum_condition_number(np.array([0.0, 1.0]), 0.1), "eigenvalues: expected positive entries"),
    (lambda: spectrum_condition_number(np.array([0.5, 1.0]), -0.1), "gamma"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
