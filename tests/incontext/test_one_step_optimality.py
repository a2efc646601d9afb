"""The code of one_step_optimality: bad input, dtypes, second routes to the same values, and the paper's neighbours."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.incontext import linear_attention
from refimpl.incontext.one_step_optimality import (
    AttentionWeights,
    EffectiveWeights,
    TargetMoments,
    balanced,
    bayes_risk_bounds,
    bayes_risk_monte_carlo,
    best_scale,
    conditional_bayes_risk,
    cubic_features,
    effective_weights,
    gd_lsa_parameters,
    loss_given_task,
    lsa_predict,
    lsa_predict_full,
    lsa_predict_full_vjp,
    lsa_predict_vjp,
    nonlinear_learning_rate,
    nonlinear_loss,
    on_products,
    one_direction_weights,
    optimal_learning_rate,
    optimal_loss,
    population_loss,
    population_loss_by_quadrature,
    population_loss_vjp,
    preconditioned_lsa_parameters,
    preconditioned_optimum,
    random_weights,
    relaxed_least_squares,
    rescaled,
    ridge_predict,
    rotate_tensor,
    sample_single_index_tasks,
    signed_permutations,
    symmetrised,
    target_moments,
    tensor_blocks,
    train_on_population_loss,
    train_on_tasks,
    weights_tensor,
    whiten_parameters,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.one_step_optimality import covariances, law_arguments, predict_arguments
from refimpl.primitives.numbers import Array
from refimpl.tasks.linear_regression import ScalarTasks, sample_gaussian_tasks
from refimpl.tasks.real_data import diabetes_prompts

COV = np.array([[2.0, 0.5], [0.5, 1.0]])


def weights(n_inputs: int = 2, seed: int = 0, dtype: Any = np.float64) -> EffectiveWeights:
    rng = np.random.default_rng(seed)
    return EffectiveWeights(
        rng.standard_normal(n_inputs + 1).astype(dtype), rng.standard_normal((n_inputs + 1, n_inputs)).astype(dtype)
    )


def full_weights(n_inputs: int = 2, seed: int = 0) -> AttentionWeights:
    rng = np.random.default_rng(seed)
    size = n_inputs + 1
    return AttentionWeights(*rng.standard_normal((3, size, size)), rng.standard_normal(size))


def prompt(n_inputs: int = 2, n_context: int = 4, dtype: Any = np.float64) -> tuple[Array, Array, Array]:
    tasks = sample_gaussian_tasks(3, n_inputs, n_context, 0.5, np.random.default_rng(1), dtype=dtype)
    return tasks.x, tasks.y, tasks.x_query


# --- second routes ---


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


def test_features_times_the_tensor_are_the_layer() -> None:
    x, y, x_query = prompt(3, 5)
    tensor = weights_tensor(weights(3))
    rows, columns = np.triu_indices(4)
    coefficients = tensor[rows, columns] * np.where(rows == columns, 1, 2)[:, None]
    found = cubic_features(x, y, x_query) @ coefficients.ravel()
    np.testing.assert_allclose(found, lsa_predict(weights(3), x, y, x_query), rtol=1e-12)


def test_least_squares_recovers_a_tensor() -> None:
    tasks = sample_gaussian_tasks(200, 2, 3, 0.5, np.random.default_rng(0))
    targets = lsa_predict(weights(), tasks.x, tasks.y, tasks.x_query)
    fit = relaxed_least_squares(cubic_features(tasks.x, tasks.y, tasks.x_query), targets)
    np.testing.assert_allclose(fit.tensor, weights_tensor(weights()), atol=1e-10)
    assert np.max(fit.standard_error) < 1e-10


def test_a_rotated_tensor_predicts_on_rotated_inputs() -> None:
    x, y, x_query = prompt()
    angle = 0.3
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    value, key_query = weights()
    lifted = np.block([[rotation, np.zeros((2, 1))], [np.zeros((1, 2)), np.ones((1, 1))]])
    turned = EffectiveWeights(lifted.T @ value, lifted.T @ key_query @ rotation)
    np.testing.assert_allclose(
        lsa_predict(turned, x, y, x_query), lsa_predict(weights(), x @ rotation.T, y, x_query @ rotation.T), rtol=1e-12
    )
    np.testing.assert_allclose(rotate_tensor(weights_tensor(weights()), rotation), weights_tensor(turned), atol=1e-14)


def test_signed_permutations_are_a_group_of_orthogonal_matrices() -> None:
    group = signed_permutations(3)
    assert group.shape == (48, 3, 3)
    np.testing.assert_array_equal(group @ np.swapaxes(group, -1, -2), np.broadcast_to(np.eye(3), group.shape))
    keys = {one.tobytes() for one in group + 0.0}
    assert len(keys) == 48
    assert {(group[5] @ one + 0.0).tobytes() for one in group} == keys


def test_the_mean_of_a_step_over_the_group_is_the_step() -> None:
    tensor = weights_tensor(on_products(np.eye(3)))
    np.testing.assert_allclose(symmetrised(tensor, signed_permutations(3)), tensor, atol=1e-16)
    np.testing.assert_array_equal(tensor_blocks(tensor).correlations, np.eye(3))


# --- numbers worked by hand ---


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


@pytest.mark.parametrize(
    ("phi", "expected"),
    [
        (lambda g: np.maximum(g, 0), (0.5, 0.5, 1.5)),
        (lambda g: g, (1, 1, 3)),
        (lambda g: g**3 - 2 * g, (1, 7, 57)),
        (np.abs, (0, 1, 3)),
        (lambda g: 0 * g + 2, (0, 4, 4)),
    ],
)
def test_moments_of_targets(phi: Callable[[Array], Array], expected: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(target_moments(phi), expected, atol=1e-10)


def test_the_identity_is_a_linear_task_of_norm_one() -> None:
    moments = target_moments(lambda g: g)
    # A task of norm 1 is one of unit coordinates over sqrt(d): so is the noise.
    assert nonlinear_learning_rate(moments, 4, 6, 0.5) == pytest.approx(optimal_learning_rate(4, 6, 1.0), rel=1e-9)
    assert 4 * nonlinear_loss(moments, 4, 6, 0.5) == pytest.approx(optimal_loss(4, 6, 1.0), rel=1e-9)


def test_single_index_tasks() -> None:
    tasks = sample_single_index_tasks(np.tanh, 50, 3, 4, 0.0, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(tasks.weights, axis=-1), 1, rtol=1e-14)
    np.testing.assert_allclose(tasks.y, np.tanh(np.einsum("tnd,td->tn", tasks.x, tasks.weights)), rtol=1e-13)
    assert tasks.y_query.shape == (50,)


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


# --- training ---


def test_training_on_correlated_inputs_finds_the_preconditioner() -> None:
    rng = np.random.default_rng(0)
    best = preconditioned_optimum(COV, np.eye(2), 6, 0.5)
    runs = (train_on_population_loss(random_weights(2, 0.1, rng), 6, 0.5, COV, np.eye(2)) for _ in range(4))
    found = min(runs, key=lambda run: run.loss)
    assert found.loss == pytest.approx(float(best.loss), abs=1e-10)
    np.testing.assert_allclose(weights_tensor(found.weights), weights_tensor(best.weights), atol=1e-5)
    assert np.linalg.norm(found.weights.value) == pytest.approx(float(np.linalg.norm(found.weights.key_query)))


def test_training_on_tasks_lowers_the_loss() -> None:
    rng = np.random.default_rng(0)
    start = random_weights(2, 0.1, rng)
    trained = train_on_tasks(start, lambda: sample_gaussian_tasks(64, 2, 6, 0.5, rng), 300)
    assert trained.losses.shape == (300,)
    assert population_loss(trained.weights, 6, 0.5) < 0.75 * population_loss(start, 6, 0.5)


def test_balancing_keeps_the_predictor() -> None:
    there = balanced(weights())
    np.testing.assert_allclose(weights_tensor(there), weights_tensor(weights()), rtol=1e-14)


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


# --- dtypes ---


def test_float32_is_kept() -> None:
    single = weights(dtype=np.float32)
    x, y, x_query = prompt(dtype=np.float32)
    cov = COV.astype(np.float32)
    full = AttentionWeights(*(part.astype(np.float32) for part in full_weights()))
    results = [
        lsa_predict(single, x, y, x_query),
        lsa_predict_full(full, x, y, x_query),
        *effective_weights(full),
        population_loss(single, 4, 0.5, cov, cov),
        population_loss(single, 4, np.float64(0.5)),
        loss_given_task(single, x_query, 4, 0.5, cov),
        *population_loss_vjp(single, 4, 0.5)[1](np.ones((), dtype=np.float32))[0],
        *preconditioned_lsa_parameters(cov, 0.1),
        preconditioned_optimum(cov, cov, 4, 0.5).loss,
        ridge_predict(x, y, x_query, 0.5),
        conditional_bayes_risk(x, 0.5),
        cubic_features(x, y, x_query),
        weights_tensor(single),
        *one_direction_weights(single.value[:2], 4, 0.5),
    ]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.data())
def test_single_precision_loses_no_more_than_its_digits(data: st.DataObject) -> None:
    cov_x = data.draw(covariances(3, condition=10.0))
    double = float(population_loss(weights(3), 10, 0.5, cov_x))
    single = population_loss(weights(3, dtype=np.float32), 10, 0.5, cov_x.astype(np.float32))
    assert float(single) == pytest.approx(double, rel=1e-4)


# --- bad input ---

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
        (lambda: optimal_learning_rate(0, 1, 0.0), "n_inputs: expected an integer >= 1"),
        (lambda: optimal_learning_rate(1, -1, 0.0), "n_context: expected an integer >= 0"),
        (lambda: optimal_loss(1, 1, -1.0), "noise_std"),
        (lambda: gd_lsa_parameters(0, 0.1), "n_inputs"),
        (lambda: gd_lsa_parameters(2, -0.1), "learning_rate"),
        (lambda: preconditioned_lsa_parameters(-COV, 0.1), "cov_x: expected a positive definite"),
        (lambda: preconditioned_optimum(COV, np.eye(3), 4, 0.5), "cov_w: expected shape"),
        (lambda: preconditioned_optimum(COV, COV, 4, -0.5), "noise_std"),
        (lambda: whiten_parameters(weights(), np.eye(3)), "cov_x: expected shape"),
        (lambda: ridge_predict(*prompt(), 0.0), "noise_std"),
        (lambda: conditional_bayes_risk(np.ones((2, 2)), 0.0), "noise_std"),
        (lambda: bayes_risk_monte_carlo(2, 0, 0.5, 10, np.random.default_rng(0)), "n_context"),
        (lambda: bayes_risk_monte_carlo(2, 3, 0.5, 0, np.random.default_rng(0)), "n_samples"),
        (lambda: bayes_risk_bounds(3, 4, 0.5), "n_context: expected an integer >= 5"),
        (lambda: nonlinear_learning_rate(TargetMoments(1.0, 0.5, 1.0), 2, 3, 0.1), "no function has"),
        (lambda: nonlinear_loss(TargetMoments(np.nan, 0.5, 1.0), 2, 3, 0.1), "moments.correlation"),
        (lambda: nonlinear_loss(TargetMoments(0.0, -0.5, 1.0), 2, 3, 0.1), "moments.square"),
        (lambda: nonlinear_learning_rate(TargetMoments(0.5, 0.5, 1.0), 2, 0, 0.1), "n_context"),
        (lambda: target_moments(lambda g: g / 0 * 0), "phi: expected finite"),
        (lambda: target_moments(lambda g: g[:3]), "phi: expected values of shape"),
        (lambda: sample_single_index_tasks(np.abs, 0, 2, 3, 0.1, np.random.default_rng(0)), "n_tasks"),
        (lambda: sample_single_index_tasks(np.abs, 2, 0, 3, 0.1, np.random.default_rng(0)), "n_inputs"),
        (lambda: sample_single_index_tasks(np.abs, 2, 2, 3, -0.1, np.random.default_rng(0)), "noise_std"),
        (lambda: sample_single_index_tasks(np.log, 2, 2, 3, 0.1, np.random.default_rng(0)), "phi: expected finite"),
        (lambda: cubic_features(np.ones((2, 3)), np.ones(3), np.ones(3)), "y: expected n_context 2"),
        (lambda: relaxed_least_squares(np.ones((5, 3)), np.ones(4)), "targets: expected n_tasks 5"),
        (lambda: relaxed_least_squares(np.ones((3, 3)), np.ones(3)), "features: expected more tasks than the 3"),
        (lambda: relaxed_least_squares(np.ones((9, 4)), np.ones(9)), "features: expected d"),
        (lambda: signed_permutations(7), "n_inputs: expected an integer from 1 to 6"),
        (lambda: one_direction_weights(np.zeros(2), 3, 0.5), "direction: expected a vector other than zero"),
        (lambda: random_weights(2, 0.0, np.random.default_rng(0)), "standard_deviation"),
        (lambda: train_on_population_loss(weights(), 0, 0.5), "n_context"),
        (lambda: train_on_population_loss(weights(), 3, 0.5, max_rounds=0), "max_rounds"),
        (lambda: train_on_population_loss(weights(), 3, 0.5, tolerance=0.0), "tolerance"),
    ],
)
def test_bad_arguments(call: Callable[[], Any], message: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        call()


def tasks_of(n_inputs: int, n_tasks: int = 4) -> Callable[[], ScalarTasks]:
    return lambda: sample_gaussian_tasks(n_tasks, n_inputs, 3, 0.5, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((tasks_of(2), 0), "n_steps: expected an integer >= 1"),
        ((tasks_of(2), 5, 0.0), "learning_rate"),
        ((tasks_of(3), 5), "x: expected shape"),
        ((tasks_of(2, 0), 5), "n_tasks"),
    ],
)
def test_bad_training(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_on_tasks(weights(), *arguments)
