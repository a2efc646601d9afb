"""The population loss and its gradient: second routes, changes of variables, dtypes, bad input."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.incontext.one_step_optimality import (
    EffectiveWeights,
    best_scale,
    loss_given_task,
    population_loss,
    population_loss_by_quadrature,
    population_loss_vjp,
    rescaled,
    whiten_parameters,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.one_step_optimality.model import covariances
from refimpl.oracle.specs.incontext.one_step_optimality.population import law_arguments
from tests.incontext.one_step_optimality.common import COV, prompt, weights


@settings(max_examples=25, deadline=None, derandomize=True)
@given(law_arguments().filter(lambda case: len(case["cov_x"]) <= 4))
def test_the_gradient_is_the_average_of_the_papers_formula_with_gamma(case: Arguments) -> None:
    (value, key_query), n, noise_std, cov_x, cov_w = case.values()
    d = len(cov_x)
    root = np.linalg.cholesky(cov_w)
    to_value, to_key_query = np.zeros(d + 1), np.zeros((d + 1, d))
    for nodes in itertools.product([(-(3**0.5), 1 / 6), (0.0, 2 / 3), (3**0.5, 1 / 6)], repeat=d):
        theta = root @ np.array([point for point, _ in nodes])
        mass = np.prod([part for _, part in nodes])
        s_theta = cov_x @ theta
        gamma = np.block([[cov_x, s_theta[:, None]], [s_theta[None], np.array([[theta @ s_theta + noise_std**2]])]])
        spread = key_query @ cov_x @ key_query.T
        g_w = gamma @ value
        to_value += mass * 2 * n * np.trace(spread @ gamma) * g_w
        to_value += mass * (2 * n * (n + 1) * gamma @ spread @ g_w - 2 * n * gamma @ key_query @ s_theta)
        to_key_query += mass * 2 * n * (value @ g_w) * gamma @ key_query @ cov_x
        to_key_query += mass * 2 * n * np.outer(g_w, (n + 1) * g_w @ key_query @ cov_x - s_theta)
    _, pullback = population_loss_vjp(**case)
    found = pullback(np.ones(()))[0]
    condition = np.linalg.cond(cov_x) * np.linalg.cond(cov_w)
    for one, other in zip(found, (to_value, to_key_query), strict=True):
        scale = np.max(np.abs(other))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-13 * scale * condition + 1e-13)


def test_a_batch_of_weights_has_the_losses_of_its_members() -> None:
    many = [weights(2, seed) for seed in range(3)]
    batch = EffectiveWeights(*(np.stack(parts) for parts in zip(*many, strict=True)))
    losses, pullback = population_loss_vjp(batch, 5, 0.5, COV)
    gradient = pullback(np.ones(3))[0]
    for i, one in enumerate(many):
        loss, pullback = population_loss_vjp(one, 5, 0.5, COV)
        assert losses[i] == pytest.approx(float(loss), rel=1e-13)
        np.testing.assert_allclose(gradient.key_query[i], pullback(np.ones(()))[0].key_query, rtol=1e-12)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(law_arguments())
def test_whitened_weights_have_the_same_loss(case: Arguments) -> None:
    eigenvalues, vectors = np.linalg.eigh(case["cov_x"])
    root = vectors * np.sqrt(eigenvalues) @ vectors.T
    cov_w = root @ case["cov_w"] @ root
    there = population_loss(
        whiten_parameters(case["weights"], case["cov_x"]),
        case["n_context"],
        case["noise_std"],
        None,
        (cov_w + cov_w.T) / 2,
    )
    condition = np.linalg.cond(case["cov_x"]) * np.linalg.cond(case["cov_w"])
    assert float(there) == pytest.approx(float(population_loss(**case)), rel=1e-14 * condition + 1e-12)


def test_best_scale_is_where_the_slope_vanishes() -> None:
    given_weights, law = weights(), (5, 0.5, COV)
    scale = float(best_scale(given_weights, *law))
    at = [float(population_loss(rescaled(given_weights, scale + h), *law)) for h in (-1e-4, 0, 1e-4)]
    assert at[0] == pytest.approx(at[2], rel=1e-10)
    assert at[1] < at[0]


def test_float32_is_kept() -> None:
    single = weights(dtype=np.float32)
    x_query = prompt(dtype=np.float32)[2]
    cov = COV.astype(np.float32)
    results = [
        population_loss(single, 4, 0.5, cov, cov),
        population_loss(single, 4, np.float64(0.5)),
        loss_given_task(single, x_query, 4, 0.5, cov),
        *population_loss_vjp(single, 4, 0.5)[1](np.ones((), dtype=np.float32))[0],
    ]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.data())
def test_single_precision_loses_no_more_than_its_digits(data: st.DataObject) -> None:
    cov_x = data.draw(covariances(3, condition=10.0))
    double = float(population_loss(weights(3), 10, 0.5, cov_x))
    single = population_loss(weights(3, dtype=np.float32), 10, 0.5, cov_x.astype(np.float32))
    assert float(single) == pytest.approx(double, rel=1e-4)


BAD_LAWS: list[tuple[dict[str, Any], str]] = [
    ({"noise_std": -0.1}, "noise_std: expected a number in"),
    ({"noise_std": np.nan}, "noise_std: expected a number in"),
    ({"noise_std": np.inf}, "noise_std: expected a number in"),
    ({"n_context": -1}, "n_context: expected an integer >= 0"),
    ({"n_context": 2.5}, "n_context: expected an integer"),
    ({"cov_x": np.ones((2, 3))}, "cov_x: expected shape"),
    ({"cov_x": np.eye(3)}, "cov_x: expected shape"),
    ({"cov_x": np.array([[1.0, 0.5], [0.0, 1.0]])}, "cov_x: expected a symmetric matrix"),
    ({"cov_x": np.diag([1.0, 0.0])}, "cov_x: expected a positive definite matrix"),
    ({"cov_w": np.diag([1.0, -1.0])}, "cov_w: expected a positive definite matrix"),
    ({"cov_w": np.array([[1.0, np.nan], [np.nan, 1.0]])}, "cov_w: expected finite"),
    ({"weights": weights()._replace(value=np.ones(2))}, "key_query: expected token_size 2|value: expected"),
    ({"weights": EffectiveWeights(np.ones(2), np.ones((2, 2)))}, "value: expected 3 entries, one more than inputs"),
    ({"weights": EffectiveWeights(np.ones(3), np.ones((3, 3)))}, "value: expected 4 entries, one more than inputs"),
    ({"weights": weights()._replace(value=np.array([1.0, np.inf, 0.0]))}, "value: expected finite"),
]


@pytest.mark.parametrize(("changed", "message"), BAD_LAWS)
@pytest.mark.parametrize("function", [population_loss, population_loss_vjp, population_loss_by_quadrature])
def test_bad_laws(function: Callable[..., Any], changed: dict[str, Any], message: str) -> None:
    arguments = {"weights": weights(), "n_context": 3, "noise_std": 0.5, "cov_x": COV, "cov_w": COV}
    with pytest.raises(ValueError, match=message):
        function(**arguments | changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": np.ones(3)}, "task: expected shape"),
        ({"task": np.array([np.inf, 0.0])}, "task: expected finite"),
        ({"noise_std": -1}, "noise_std"),
        ({"cov_x": -np.eye(2)}, "cov_x: expected a positive definite"),
    ],
)
def test_bad_tasks(changed: dict[str, Any], message: str) -> None:
    arguments = {"weights": weights(), "task": np.ones(2), "n_context": 3, "noise_std": 0.5, "cov_x": COV}
    with pytest.raises(ValueError, match=message):
        loss_given_task(**arguments | changed)


def test_bad_quadrature() -> None:
    with pytest.raises(ValueError, match="n_nodes: expected an integer >= 3, got 2"):
        population_loss_by_quadrature(weights(), 3, 0.5, n_nodes=2)
    with pytest.raises(ValueError, match=r"n_nodes: expected at most 19683 points, got 3\*\*10"):
        population_loss_by_quadrature(weights(10), 3, 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: whiten_parameters(weights(), np.eye(3)), "cov_x: expected shape"),
    ],
)
def test_bad_arguments(call: Callable[[], Any], message: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        call()
