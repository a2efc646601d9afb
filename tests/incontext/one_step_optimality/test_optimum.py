"""The closed forms of the optimum and the Bayes predictor: numbers worked by hand, real inputs, bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from refimpl.incontext.one_step_optimality import (
    EffectiveWeights,
    bayes_risk_bounds,
    bayes_risk_monte_carlo,
    best_scale,
    conditional_bayes_risk,
    effective_weights,
    gd_lsa_parameters,
    lsa_predict,
    on_products,
    one_direction_weights,
    optimal_learning_rate,
    optimal_loss,
    population_loss,
    preconditioned_lsa_parameters,
    preconditioned_optimum,
    rescaled,
    ridge_predict,
)
from refimpl.tasks.real_data import diabetes_prompts
from tests.incontext.one_step_optimality.common import COV, prompt, weights


def test_worked_numbers() -> None:
    assert optimal_learning_rate(2, 4, 0.5) == 1 / 7.25
    assert optimal_loss(2, 4, 0.5) == pytest.approx(0.25 + 2 * 3.25 / 7.25, rel=1e-15)
    assert optimal_loss(2, 0, 0.5) == pytest.approx(2.25, rel=1e-15)
    assert (optimal_learning_rate(1, 1, 0.0), optimal_loss(1, 1, 0.0)) == pytest.approx((1 / 3, 2 / 3), rel=1e-15)
    cov_x = np.diag([4.0, 1.0])
    np.testing.assert_allclose(
        preconditioned_lsa_parameters(cov_x, 1 / 7.25).key_query[:2], np.diag([1 / 29, 1 / 7.25]), rtol=1e-15
    )
    matrix = preconditioned_optimum(cov_x, np.eye(2), 4, 0.5).weights.key_query[:2]
    np.testing.assert_allclose(matrix, np.diag([1 / 25.25, 1 / 10.25]), rtol=1e-14)
    assert population_loss(effective_weights(gd_lsa_parameters(1, 1 / 3)), 1, 0.0) == pytest.approx(2 / 3, rel=1e-15)


def test_one_step_on_a_long_white_context_is_exact() -> None:
    n = 10**7
    assert n * optimal_learning_rate(3, n, 0.5) == pytest.approx(1, abs=1e-6)
    assert optimal_loss(3, n, 0.5) == pytest.approx(0.25, abs=2e-6)


def test_ridge_prediction_and_its_risk() -> None:
    x, y, x_query = prompt(3, 5)
    kernel = np.swapaxes(x, -1, -2) @ x + 0.25 * np.eye(3)
    estimate = np.linalg.solve(kernel, np.einsum("tnd,tn->td", x, y)[..., None])[..., 0]
    np.testing.assert_allclose(ridge_predict(x, y, x_query, 0.5), (estimate * x_query).sum(-1), rtol=1e-12)
    expected = 0.25 + 0.25 * np.trace(np.linalg.inv(kernel), axis1=-2, axis2=-1)
    np.testing.assert_allclose(conditional_bayes_risk(x, 0.5), expected, rtol=1e-12)
    risks = bayes_risk_monte_carlo(2, 10, 0.5, 500, np.random.default_rng(0))
    low, high = bayes_risk_bounds(2, 10, 0.5)
    assert risks.shape == (500,)
    assert low < risks.mean() < high


def test_preconditioning_helps_on_real_inputs() -> None:
    """Diabetes patients for inputs, whose law is no Gaussian: Theorem 2 holds of it nearly."""
    rng = np.random.default_rng(0)
    patients = diabetes_prompts(10_000, 20, rng)
    x, x_query = np.swapaxes(patients.x, -1, -2), patients.x_query
    cov_x = np.einsum("ti,tj->ij", x_query, x_query) / len(x_query)
    inverse = np.linalg.inv(cov_x)
    inverse = (inverse + inverse.T) / 2
    tasks = rng.standard_normal((len(x), 10)) @ np.linalg.cholesky(inverse).T
    y = np.einsum("tnd,td->tn", x, tasks) + 0.5 * rng.standard_normal(x.shape[:2])
    y_query = (x_query * tasks).sum(-1) + 0.5 * rng.standard_normal(len(x))

    def loss(layer: EffectiveWeights) -> float:
        return float(np.mean((lsa_predict(layer, x, y, x_query) - y_query) ** 2))

    plain = on_products(np.eye(10))
    plain = rescaled(plain, best_scale(plain, 20, 0.5, cov_x, inverse))
    preconditioned = preconditioned_lsa_parameters(cov_x, optimal_learning_rate(10, 20, 0.5))
    assert loss(preconditioned) < 1.25 * optimal_loss(10, 20, 0.5)
    assert loss(plain) > 1.75 * optimal_loss(10, 20, 0.5)


def test_float32_is_kept() -> None:
    single = weights(dtype=np.float32)
    x, y, x_query = prompt(dtype=np.float32)
    cov = COV.astype(np.float32)
    results = [
        preconditioned_optimum(cov, cov, 4, 0.5).loss,
        ridge_predict(x, y, x_query, 0.5),
        conditional_bayes_risk(x, 0.5),
        *one_direction_weights(single.value[:2], 4, 0.5),
    ]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimal_learning_rate(0, 1, 0.0), "n_inputs: expected an integer >= 1"),
        (lambda: optimal_learning_rate(1, -1, 0.0), "n_context: expected an integer >= 0"),
        (lambda: optimal_loss(1, 1, -1.0), "noise_std"),
        (lambda: preconditioned_optimum(COV, np.eye(3), 4, 0.5), "cov_w: expected shape"),
        (lambda: preconditioned_optimum(COV, COV, 4, -0.5), "noise_std"),
        (lambda: ridge_predict(*prompt(), 0.0), "noise_std"),
        (lambda: conditional_bayes_risk(np.ones((2, 2)), 0.0), "noise_std"),
        (lambda: bayes_risk_monte_carlo(2, 0, 0.5, 10, np.random.default_rng(0)), "n_context"),
        (lambda: bayes_risk_monte_carlo(2, 3, 0.5, 0, np.random.default_rng(0)), "n_samples"),
        (lambda: bayes_risk_bounds(3, 4, 0.5), "n_context: expected an integer >= 5"),
        (lambda: one_direction_weights(np.zeros(2), 3, 0.5), "direction: expected a vector other than zero"),
    ],
)
def test_bad_arguments(call: Callable[[], Any], message: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        call()
