"""Softmax regression: second routes to the same values, what is refused, and what stays accurate."""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.incontext.softmax_regression import (
    AttentionTraining,
    accumulated_target,
    attention_model,
    attention_sensitivity,
    attention_training,
    compare_models,
    core_product,
    data_lipschitz_chain,
    data_shift,
    data_shift_report,
    equivalent_data_shift,
    exp_features,
    gauss_newton,
    gradient_descent,
    grid_search_learning_rate,
    hessian,
    hessian_core,
    hessian_quadratic_form,
    hessian_vector_product,
    linear_shifted_target,
    lipschitz_chain,
    loss_gradient,
    loss_gradient_vjp,
    normaliser,
    one_step_model,
    one_step_sensitivity,
    paper_shift_bound,
    regularised_newton_step,
    residual,
    sharp_data_factor,
    sharp_weight_factor,
    shifted_target,
    softmax_prediction,
    softmax_regression_loss,
    train_attention_model,
    weight_shift,
)
from refimpl.incontext.softmax_regression.experiment import loss_and_gradient
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.softmax_regression import (
    attention_heads,
    cores,
    forward_arguments,
    hessian_products,
    problems,
)
from refimpl.tasks.softmax_regression import SoftmaxTasks, diabetes_softmax_tasks, sample_softmax_tasks

each_input = settings(max_examples=40, deadline=None, derandomize=True)
EPSILON = float(np.finfo(float).eps)


def size(*arrays: Any) -> float:
    """The product of the largest entries: what a product of the arrays is rounded relative to."""
    return float(np.prod([np.max(np.abs(array), initial=1e-300) for array in arrays]))


def sample(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def one_problem(n: int = 6, d: int = 3, seed: int = 0) -> tuple[Any, Any, Any]:
    return sample(seed, n, d), sample(seed + 1, d), scipy.special.softmax(sample(seed + 2, n))


# --- two routes ---


@each_input
@given(forward_arguments())
def test_prediction_and_normaliser_by_scipy(arguments: Arguments) -> None:
    z = (arguments["data"] @ arguments["weights"][..., None])[..., 0]
    np.testing.assert_allclose(softmax_prediction(**arguments), scipy.special.softmax(z, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(normaliser(**arguments), scipy.special.logsumexp(z, axis=-1), rtol=1e-13, atol=1e-13)
    u, alpha = exp_features(**arguments), normaliser(**arguments, log=False)
    np.testing.assert_allclose(u / alpha[..., None], softmax_prediction(**arguments), rtol=1e-12)


@each_input
@given(hessian_products())
def test_five_ways_to_multiply_by_the_hessian(arguments: Arguments) -> None:
    problem = (arguments["data"], arguments["weights"], arguments["target"])
    data, v = arguments["data"], arguments["direction"]
    prediction = softmax_prediction(*problem[:2])
    core = hessian_core(prediction, problem[2])
    along = (data @ v[..., None])[..., 0]
    # The core cancels in five terms of size 1, so that is what they all round relative to.
    allowed = 200 * EPSILON * data.shape[-2] * size(data, data, v)
    expected = (hessian(*problem) @ v[..., None])[..., 0]
    for product in (
        hessian_vector_product(*problem, v),
        loss_gradient_vjp(*problem)[1](v)[1],
        (np.swapaxes(data, -1, -2) @ (core @ along[..., None]))[..., 0],
        (np.swapaxes(data, -1, -2) @ core_product(prediction, problem[2], along)[..., None])[..., 0],
    ):
        np.testing.assert_allclose(product, expected, rtol=0, atol=allowed)
    form = hessian_quadratic_form(prediction, problem[2], along)
    np.testing.assert_allclose(form, np.vecdot(v, expected), rtol=0, atol=allowed * size(v) * v.shape[-1])


@each_input
@given(problems(), st.integers(0, 99))
def test_mixed_derivative_is_the_pullback_transposed(arguments: Arguments, seed: int) -> None:
    """Along E the gradient changes by E'Jc + A'BEx."""
    data, x, target = arguments.values()
    v, e = sample(seed, *x.shape), sample(seed + 1, *data.shape)
    f = softmax_prediction(data, x)
    c = f - target
    on_logits = f * (c - np.vecdot(f, c)[..., None])
    change = np.einsum("...nd,...n->...d", e, on_logits) + np.einsum(
        "...nd,...nm,...m->...d", data, hessian_core(f, target), np.einsum("...nd,...d->...n", e, x)
    )
    pulled = loss_gradient_vjp(**arguments)[1](v)[0]
    allowed = 400 * EPSILON * data.size * (1 + size(data)) * (1 + size(x)) * size(v, e)
    np.testing.assert_allclose(np.sum(v * change), np.sum(pulled * e), rtol=0, atol=allowed)


@each_input
@given(forward_arguments())
def test_gauss_newton_with_the_jacobian_formed(arguments: Arguments) -> None:
    f = softmax_prediction(**arguments)
    jacobian = np.eye(f.shape[-1]) * f[..., None] - f[..., :, None] * f[..., None, :]
    moved = jacobian @ arguments["data"]
    found = gauss_newton(**arguments)
    allowed = 50 * EPSILON * f.shape[-1] * size(arguments["data"]) ** 2
    np.testing.assert_allclose(found, np.swapaxes(moved, -1, -2) @ moved, rtol=0, atol=allowed)
    assert np.linalg.eigvalsh(found).min() >= -allowed * f.shape[-1]


@each_input
@given(cores(directions=True))
def test_the_core_does_not_see_a_constant_direction(arguments: Arguments) -> None:
    moved = arguments | {"direction": arguments["direction"] + 1}
    np.testing.assert_allclose(
        core_product(**arguments), core_product(**moved), rtol=0, atol=1e-13 * (1 + size(moved["direction"]))
    )


def test_a_common_vector_in_all_rows_costs_the_hessian_no_digits() -> None:
    """Formed as A'BA it is off by eight digits more."""
    data, x, target = one_problem()
    moved = np.ldexp(np.round(np.ldexp(data, 20)), -20)
    common = np.full(3, 2.0**20)
    expected = hessian(moved, x, target)
    shifted = moved + common
    assert np.array_equal(shifted - common, moved)
    found = hessian(shifted, x, target)
    plain = shifted.T @ hessian_core(softmax_prediction(shifted, x), target) @ shifted
    assert np.max(np.abs(found - expected)) < 1e-7 * np.max(np.abs(expected))
    assert np.max(np.abs(plain - expected)) > 1e3 * np.max(np.abs(found - expected))


def test_descent_is_one_gradient_step_after_another() -> None:
    data, x, target = (np.stack(pair) for pair in zip(one_problem(), one_problem(seed=9), strict=True))
    trajectory = gradient_descent(data, target, x, 0.3, 4)
    assert trajectory.shape == (5, 2, 3)
    for now, following in itertools.pairwise(trajectory):
        np.testing.assert_array_equal(following, now - 0.3 * loss_gradient(data, now, target))
    np.testing.assert_array_equal(gradient_descent(data, target, x, 0.3, 0), x[None])


def test_newton_finds_what_scipy_minimises() -> None:
    data, x, target = one_problem()
    penalty = np.linspace(0.6, 1.2, 6)

    def penalised(weights: Any) -> Any:
        return softmax_regression_loss(data, weights, target) + np.sum((penalty * (data @ weights)) ** 2) / 2

    expected = scipy.optimize.minimize(penalised, x, method="BFGS", options={"gtol": 1e-9}).x
    for _ in range(8):
        x = regularised_newton_step(data, x, target, penalty)
    np.testing.assert_allclose(x, expected, atol=1e-6)
    gradient = loss_gradient(data, x, target) + data.T @ (penalty**2 * (data @ x))
    assert np.linalg.norm(gradient) < 1e-14


def test_newton_without_enough_penalty_is_refused() -> None:
    """At two rows with p = (9 - root 33) / 24 the curvature is -0.2404 times the squared distance of the rows."""
    p = (9 - 33**0.5) / 24
    data, x, target = np.array([[0.5], [-0.5]]), np.array([np.log(p / (1 - p))]), np.array([1.0, 0.0])
    with pytest.raises(ValueError, match="row_penalty: expected a positive definite Hessian"):
        regularised_newton_step(data, x, target, np.full(2, 0.2404**0.5))
    regularised_newton_step(data, x, target, np.full(2, 0.2405**0.5))


@each_input
@given(attention_heads())
def test_data_shift_row_by_row(arguments: Arguments) -> None:
    data, query, key, value, projection = arguments.values()
    found = data_shift(**arguments)
    for index in np.ndindex(*data.shape[:-2]):
        a = data[index]
        for j in range(min(3, len(a))):
            attended = a.T @ scipy.special.softmax(a @ key.T @ (query @ a[j]))
            expected = projection @ (value @ attended)
            allowed = 1e3 * EPSILON * a.shape[1] ** 2 * size(projection, value, a) * (1 + size(a, key, query, a))
            np.testing.assert_allclose(found[(*index, j)], expected, rtol=0, atol=allowed)


def test_effective_targets() -> None:
    data, x, target = one_problem()
    moved = sample(7, 4, 3)
    predictions = softmax_prediction(np.stack([data] * 4), moved)
    accumulated = accumulated_target(predictions, target)
    one_by_one = target
    for old, new, total in zip(predictions[:-1], predictions[1:], accumulated, strict=True):
        one_by_one = shifted_target(old, new, one_by_one)
        np.testing.assert_allclose(total, one_by_one, atol=1e-15)
    np.testing.assert_array_equal(linear_shifted_target(data, x, target), target - data @ x)


def test_equivalent_shift_is_the_least() -> None:
    """Least squares for the rows of the shift gives it by pseudo-inverse."""
    data, x, _ = one_problem()
    step = sample(5, 3)
    np.testing.assert_allclose(
        equivalent_data_shift(data, x, step), (data @ step)[:, None] @ np.linalg.pinv(x[:, None]), atol=1e-14
    )


@pytest.mark.parametrize("moving", ["weights", "data"])
def test_chain_from_exponentials_formed(moving: str) -> None:
    data, x, _ = one_problem()
    data, x = data / np.linalg.norm(data, 2), x / np.linalg.norm(x) / 2
    if moving == "weights":
        y, step = x + 1e-3 * sample(3, 3), 1e-3 * np.linalg.norm(sample(3, 3))
        found, pair = lipschitz_chain(data, x, y, 1), (data, y)
    else:
        moved = 0.99 * data
        step = 0.01
        found, pair = data_lipschitz_chain(data, moved, x, 1), (moved, x)
    u, v = exp_features(data, x), exp_features(*pair)
    f, g = softmax_prediction(data, x), softmax_prediction(*pair)
    norm, e, n = np.linalg.norm, np.e, 6
    expected = {
        "features": (max(norm(u), norm(v)), n**0.5 * e),
        "inverse_normaliser": (1 / min(u.sum(), v.sum()), e),
        "feature_shift": (norm(u - v), 2 * n**0.5 * e * step),
        "normaliser_shift": (abs(u.sum() - v.sum()), n**0.5 * norm(u - v)),
        "inverse_shift": (abs(1 / u.sum() - 1 / v.sum()), e**2 * abs(u.sum() - v.sum())),
        "prediction_split": (norm(f - g), e * norm(u - v) + abs(1 / u.sum() - 1 / v.sum()) * norm(v)),
        "prediction_shift": (norm(f - g), (2 * n**0.5 * e**2 + 2 * n**1.5 * e**4) * step),
        "theorem": (norm(f - g), n**1.5 * e**10 * step),
    }
    assert list(found) == list(expected)
    for name, (left, right) in expected.items():
        np.testing.assert_allclose(np.exp(found[name]), [left, right], rtol=1e-9, err_msg=name)


def test_a_step_of_nothing_is_within_every_bound() -> None:
    data, x, _ = one_problem()
    data = data / np.linalg.norm(data, 2)
    found = lipschitz_chain(data, x / np.linalg.norm(x), x / np.linalg.norm(x), 1)
    assert found["feature_shift"].log_left == found["feature_shift"].log_right == -np.inf


def test_paper_factor_and_its_logarithm() -> None:
    value, log = paper_shift_bound(30, 4)
    assert value == pytest.approx(30**1.5 * np.exp(160), rel=1e-12)
    assert log == pytest.approx(1.5 * np.log(30) + 160)
    assert paper_shift_bound(30, 9) == (np.inf, pytest.approx(1.5 * np.log(30) + 810))


def test_reports_say_which_assumption_fails() -> None:
    """And are computed all the same; each problem of the batch breaks another one."""
    data, x, target = (np.stack([array] * 5) for array in one_problem())
    data, x = data / np.linalg.norm(data, 2, axis=(-2, -1))[:, None, None], x / np.linalg.norm(x, axis=-1)[:, None]
    step = np.full(x.shape, 1e-4)
    data[1] *= 5
    x[2] *= 5
    target[3] *= 5
    step[4] = 0.05
    found = weight_shift(data, target, x, x + step, 4)
    assert found.assumptions.radius_at_least_four
    flags = np.array(list(found.assumptions[1:]))
    expected = np.ones((4, 5), bool)
    np.fill_diagonal(expected[:, 1:], False)
    expected[3, 1] = expected[3, 1] and bool(np.max(np.abs(data[1] @ step[1])) < 0.01)
    np.testing.assert_array_equal(flags, expected)
    np.testing.assert_array_equal(found.assumptions.met(), [True, False, False, False, False])
    shift = np.linalg.norm(softmax_prediction(data, x + step) - softmax_prediction(data, x), axis=-1)
    np.testing.assert_allclose(found.shift_norm, shift, atol=1e-15)
    np.testing.assert_allclose(found.sharp_bound, sharp_weight_factor(data) * np.linalg.norm(step, axis=-1))
    assert not weight_shift(data, target, x, x + step, 3).assumptions.radius_at_least_four

    moved = data + 1e-4
    found = data_shift_report(data, moved, target, x, 4)
    np.testing.assert_array_equal(found.assumptions.met(), [True, False, False, False, True])
    np.testing.assert_allclose(found.sharp_bound, sharp_data_factor(x) * np.linalg.norm(moved - data, 2, axis=(-2, -1)))
    residual_there = residual(moved, x, target)
    np.testing.assert_allclose(residual_there, softmax_prediction(data, x) - found.target, atol=1e-15)


# --- the experiment ---


def test_models_and_their_sensitivities_by_second_routes() -> None:
    data, target = sample_softmax_tasks(4, 7, 3, np.random.default_rng(0))
    matrix = sample(1, 3, 3)
    read = np.einsum("tnd,tn->td", data, target)
    np.testing.assert_allclose(
        attention_model(data, target, matrix), softmax_prediction(data, read @ matrix.T), rtol=1e-13
    )
    one_step = np.einsum("tnd,tn->td", data, target - 1 / 7) * 5 / 7
    np.testing.assert_allclose(one_step_model(data, target, 5), softmax_prediction(data, one_step), rtol=1e-12)
    # Both sets of weights are linear in the target.
    unit = np.eye(7)[2]
    changes = [-5 * loss_gradient(data, np.zeros((4, 3)), target + s * unit) for s in (0, 1)]
    np.testing.assert_allclose(one_step_sensitivity(data, 5)[..., 2], changes[1] - changes[0], atol=1e-14)
    np.testing.assert_allclose(attention_sensitivity(data, matrix)[..., 2], data[:, 2] @ matrix.T, atol=1e-14)


def test_training_gradient_by_differences() -> None:
    tasks = sample_softmax_tasks(5, 6, 3, np.random.default_rng(0))
    matrix, direction = sample(1, 3, 3), sample(2, 3, 3)
    loss, gradient = loss_and_gradient(matrix, tasks)
    assert loss == pytest.approx(np.mean(np.sum((attention_model(*tasks, matrix) - tasks.target) ** 2, -1)) / 2)
    up, down = (loss_and_gradient(matrix + s * 1e-5 * direction, tasks)[0] for s in (1, -1))
    assert np.sum(gradient * direction) == pytest.approx((up - down) / 2e-5, abs=1e-9)


def test_grid_search_takes_the_best() -> None:
    tasks = sample_softmax_tasks(50, 25, 5, np.random.default_rng(0))
    grid = [10.0, 80.0, 1000.0]
    losses = [np.mean(np.sum((one_step_model(*tasks, rate) - tasks.target) ** 2, axis=-1)) for rate in grid]
    assert grid_search_learning_rate(tasks, grid) == grid[int(np.argmin(losses))] == 80.0


def test_a_multiple_of_the_identity_reaches_the_ceiling() -> None:
    tasks = sample_softmax_tasks(20, 25, 5, np.random.default_rng(0))
    found = compare_models(3 * np.eye(5), 75.0, tasks)
    assert found.cosine == pytest.approx(found.cosine_ceiling, rel=1e-12)
    assert found.cosine_ceiling == pytest.approx((1 - 1 / 25) ** 0.5, abs=0.01)


def test_training_is_repeatable_and_takes_its_settings() -> None:
    settings_ = AttentionTraining(n_steps=20, batch_size=4)
    first, losses = train_attention_model(8, 3, np.random.default_rng(3), settings_)
    again, _ = train_attention_model(8, 3, np.random.default_rng(3), settings_)
    np.testing.assert_array_equal(first, again)
    assert losses.shape == (20,)
    _, one = next(attention_training(8, 3, np.random.default_rng(3), settings_))
    np.testing.assert_allclose(np.abs(one), 0.1, rtol=1e-3)  # Adam's first step from 0


def test_on_patients_the_trained_model_outdoes_one_step() -> None:
    """Their features correlate: the law is no longer that of rotated data, and W becomes a preconditioner."""
    rng = np.random.default_rng(0)

    def sample_tasks() -> SoftmaxTasks:
        return diabetes_softmax_tasks(16, 25, rng)

    matrix, _ = train_attention_model(25, 10, rng, AttentionTraining(n_steps=400), sample_tasks)
    held_out = diabetes_softmax_tasks(200, 25, rng)
    rate = grid_search_learning_rate(held_out, 25 * 2.0 ** np.arange(-2, 3, 0.25))
    found = compare_models(matrix, rate, held_out)
    assert found.attention_loss < 0.95 * found.descent_loss < 0.6 * found.uniform_loss
    assert 0.5 < found.cosine < 0.8 < found.cosine_ceiling


# --- dtypes, shapes and number systems ---


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_dtype_and_batch_axes_are_kept(dtype: Any, batch: tuple[int, ...]) -> None:
    data, x, target = (
        array.astype(dtype) + np.zeros((*batch, 1, 1), dtype)[..., : array.ndim] for array in one_problem()
    )
    data, x, target = (
        data.reshape(*batch, 6, 3),
        x[..., :1, :].reshape(*batch, 3),
        target[..., :1, :].reshape(*batch, 6),
    )
    f = softmax_prediction(data, x)
    matrix = np.eye(3, dtype=dtype)
    shapes = {
        "prediction": (f, (6,)),
        "features": (exp_features(data / 8, x), (6,)),
        "normaliser": (normaliser(data, x), ()),
        "alpha": (normaliser(data / 8, x, log=False), ()),
        "loss": (softmax_regression_loss(data, x, target), ()),
        "gradient": (loss_gradient(data, x, target), (3,)),
        "core": (hessian_core(f, target), (6, 6)),
        "form": (hessian_quadratic_form(f, target, target), ()),
        "hessian": (hessian(data, x, target), (3, 3)),
        "product": (hessian_vector_product(data, x, target, x), (3,)),
        "shift": (data_shift(data, matrix, matrix, matrix, matrix), (6, 3)),
        "equivalent": (equivalent_data_shift(data, x, x), (6, 3)),
        "attention": (attention_model(data, target, matrix), (6,)),
        "one step": (one_step_model(data, target, 2), (6,)),
        "sensitivity": (one_step_sensitivity(data, 2), (3, 6)),
    }
    for name, (array, shape) in shapes.items():
        assert type(array) is np.ndarray, name
        assert array.dtype == dtype, name
        assert array.shape == (*batch, *shape), name
    assert gradient_descent(data, target, x, 0.5, 2).dtype == dtype


def test_a_batch_is_its_problems_one_by_one() -> None:
    data, x, target = (np.stack(pair) for pair in zip(one_problem(), one_problem(seed=9), strict=True))
    for function in (loss_gradient, hessian):
        together = function(data, x, target)
        for index in range(2):
            np.testing.assert_allclose(together[index], function(data[index], x[index], target[index]), rtol=1e-13)


def test_descent_on_symbols() -> None:
    eta, data = sympy.Symbol("eta"), np.array([[sympy.Integer(1)], [sympy.Integer(0)]], dtype=object)
    target, start = np.array([sympy.Integer(1), sympy.Integer(0)], dtype=object), np.array([sympy.Integer(0)], object)
    assert gradient_descent(data, target, start, eta, 1)[1, 0] == eta / 4


# --- overflow ---


def test_logits_beyond_the_exponential() -> None:
    data, x = np.array([[1.0], [-1.0]]), np.array([5000.0])
    np.testing.assert_array_equal(softmax_prediction(data, x), [1, 0])
    assert normaliser(data, x) == 5000
    for refused in (lambda: exp_features(data, x), lambda: normaliser(data, x, log=False)):
        with pytest.raises(ValueError, match=r"expected logits of at most 709 in absolute value, got 5000; take log"):
            refused()
    with pytest.raises(ValueError, match="expected logits of at most 88 in absolute value"):
        exp_features(data.astype(np.float32), np.array([90.0], np.float32))


# --- bad input ---

DATA, WEIGHTS, TARGET = one_problem()
UNIT_DATA, UNIT_WEIGHTS = DATA / np.linalg.norm(DATA, 2), WEIGHTS / np.linalg.norm(WEIGHTS)
NOT_FINITE = np.where(np.arange(3) == 1, np.nan, WEIGHTS)
TASKS = SoftmaxTasks(DATA[None], TARGET[None])


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: softmax_prediction(DATA, NOT_FINITE), "weights: expected finite entries, got nan"),
        (lambda: softmax_prediction(DATA[:1], WEIGHTS), "data: expected n >= 2"),
        (lambda: softmax_prediction(DATA[:, :0], WEIGHTS[:0]), "data: expected d >= 1"),
        (lambda: softmax_prediction(DATA.astype(int), WEIGHTS), "data: expected a floating-point array"),
        (lambda: softmax_prediction(DATA, WEIGHTS[:2]), "weights: expected d 3 as in data"),
        (lambda: softmax_prediction(DATA[None], WEIGHTS), "weights: expected batch axes"),
        (lambda: exp_features(DATA[:1], WEIGHTS), "data: expected n >= 2"),
        (lambda: normaliser(DATA[:1], WEIGHTS), "data: expected n >= 2"),
        (lambda: residual(DATA, WEIGHTS, TARGET[:5]), "target: expected n 6 as in data"),
        (lambda: softmax_regression_loss(DATA, WEIGHTS, TARGET[:5]), "target: expected n 6 as in data"),
        (lambda: loss_gradient(DATA, WEIGHTS, np.inf * TARGET), "target: expected finite entries"),
        (lambda: hessian_core(TARGET[:1], TARGET[:1]), "prediction: expected n >= 2"),
        (lambda: core_product(TARGET, TARGET, TARGET[:5]), "direction: expected n 6"),
        (lambda: hessian_quadratic_form(TARGET, TARGET[:5], TARGET), "target: expected n 6"),
        (lambda: hessian(DATA, WEIGHTS, TARGET[:5]), "target: expected n 6"),
        (lambda: hessian_vector_product(DATA, WEIGHTS, TARGET, WEIGHTS[:2]), "direction: expected d 3"),
        (lambda: gauss_newton(DATA, WEIGHTS[:2]), "weights: expected d 3"),
        (
            lambda: gradient_descent(DATA, TARGET, WEIGHTS, 0, 1),
            r"learning_rate: expected a number in \(0, inf\), got 0",
        ),
        (lambda: gradient_descent(DATA, TARGET, WEIGHTS, -1.0, 1), "learning_rate: expected"),
        (lambda: gradient_descent(DATA, TARGET, WEIGHTS, 1.0, -1), "n_steps: expected an integer >= 0"),
        (lambda: gradient_descent(DATA, TARGET, WEIGHTS[:2], 1.0, 1), "initial_weights: expected d 3"),
        (lambda: regularised_newton_step(DATA, WEIGHTS, TARGET, TARGET[:5]), "row_penalty: expected n 6"),
        (lambda: shifted_target(TARGET, TARGET[:5], TARGET), "new: expected n 6 as in old"),
        (lambda: linear_shifted_target(DATA, WEIGHTS, TARGET[:5]), "target: expected n 6"),
        (lambda: accumulated_target(TARGET[None], TARGET), "predictions: expected at least two"),
        (lambda: data_shift(DATA, DATA, DATA, DATA, DATA), "projection: expected d 3"),
        (lambda: equivalent_data_shift(DATA, 0 * WEIGHTS, WEIGHTS), "weights: expected weights other than 0"),
        (lambda: paper_shift_bound(2, 0.5), r"radius: expected a number in \[1, inf\), got 0.5"),
        (lambda: paper_shift_bound(1, 4), "n: expected an integer >= 2"),
        (lambda: sharp_weight_factor(WEIGHTS), "data: expected shape"),
        (lambda: sharp_data_factor(NOT_FINITE), "weights: expected finite entries"),
        (lambda: lipschitz_chain(2 * UNIT_DATA, UNIT_WEIGHTS, UNIT_WEIGHTS, 1), "data: expected a norm of at most 1"),
        (
            lambda: lipschitz_chain(UNIT_DATA, UNIT_WEIGHTS, 2 * UNIT_WEIGHTS, 1),
            "next_weights: expected a norm of at most 1, got 2",
        ),
        (
            lambda: lipschitz_chain(UNIT_DATA, UNIT_WEIGHTS, 0 * UNIT_WEIGHTS, 1),
            "step: expected logits to move by less than 0.01",
        ),
        (
            lambda: data_lipschitz_chain(UNIT_DATA, 1.1 * UNIT_DATA, UNIT_WEIGHTS, 1),
            "next_data: expected a norm of at most 1, got 1.1",
        ),
        (lambda: lipschitz_chain(UNIT_DATA, UNIT_WEIGHTS, UNIT_WEIGHTS, 0.9), "radius: expected a number"),
        (lambda: weight_shift(DATA, TARGET, WEIGHTS, WEIGHTS[:2], 4), "weights: expected d 3"),
        (lambda: data_shift_report(DATA, DATA[:, :2], TARGET, WEIGHTS, 4), "weights: expected d 2"),
        (lambda: attention_model(DATA, TARGET, np.eye(2)), "matrix: expected d 3"),
        (lambda: attention_model(DATA[:1], TARGET[:1], np.eye(3)), "data: expected n >= 2"),
        (lambda: one_step_model(DATA, TARGET, 0), "learning_rate: expected"),
        (lambda: one_step_model(DATA, TARGET[:5], 1.0), "target: expected n 6"),
        (lambda: one_step_sensitivity(DATA, -1.0), "learning_rate: expected"),
        (lambda: attention_sensitivity(DATA, np.eye(2)), "matrix: expected d 3"),
        (lambda: grid_search_learning_rate(TASKS, []), "grid: expected at least one rate"),
        (lambda: grid_search_learning_rate(TASKS, [1.0, -1.0]), "grid: expected a number"),
        (lambda: compare_models(np.zeros((3, 3)), 1.0, TASKS), "b: expected vectors that are not zero"),
        (lambda: compare_models(np.eye(2), 1.0, TASKS), "matrix: expected d 3"),
        (lambda: attention_training(1, 3, np.random.default_rng()), "n: expected an integer >= 2"),
        (
            lambda: train_attention_model(5, 3, np.random.default_rng(), AttentionTraining(n_steps=3)),
            "n_steps: expected an integer >= 4",
        ),
        (
            lambda: train_attention_model(5, 3, np.random.default_rng(), AttentionTraining(learning_rate=0.0)),
            "learning_rate: expected",
        ),
        (lambda: sample_softmax_tasks(0, 5, 3, np.random.default_rng()), "n_tasks: expected an integer >= 1"),
        (lambda: diabetes_softmax_tasks(1, 1, np.random.default_rng()), "n: expected an integer from 2 to 441"),
    ],
)
def test_bad_input(call: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        call()
