"""The network on patches and its maps: second routes, symmetries, dtypes, and what is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from refimpl.dynamics.benign_oscillation import (
    Setting,
    feature_gain,
    feature_shares,
    forward,
    hessian_vector_product,
    initial_weights,
    is_admissible,
    learning_steps,
    least_growth_rate,
    loss,
    loss_vjp,
    minimum_weak_share,
    oscillation_window,
    period_two_errors,
    period_two_growth_rate,
    run_benign_oscillation_experiment,
    sample_feature_noise_data,
    sgd_step,
    signal_recursion,
    slow_weak_share,
    start,
    strong_map,
    train_sgd,
    transversal_growth_rate,
    two_feature_errors,
    two_feature_map,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.dynamics.benign_oscillation import losses

EPSILON = float(np.finfo(float).eps)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20231)


# --- data ---


def test_patches_are_what_they_say(rng: np.random.Generator) -> None:
    data = sample_feature_noise_data(40, 30, 0.9, 2.0, 0.5, 0.8, rng, (3,))
    assert data.patches.shape == (3, 40, 3, 30)
    assert data.has_strong.sum() == 36
    np.testing.assert_array_equal(data.patches[..., 0, :], data.labels[..., None] * data.weak)
    np.testing.assert_array_equal(data.patches[:, :36, 1], data.labels[:, :36, None] * data.strong)
    assert not data.patches[:, 36:, 1].any()
    assert data.strong @ data.weak == 0
    assert not (data.patches[..., 2, :] @ np.stack([data.strong, data.weak], axis=-1)).any()


def test_noise_has_its_norm(rng: np.random.Generator) -> None:
    data = sample_feature_noise_data(2000, 50, 0, 1.0, 1.0, 0.8, rng)
    squares = (data.patches[:, 2] ** 2).sum(axis=-1)
    # A chi-squared of 48 degrees of freedom over 50 times 0.8: deviation 0.8 sqrt(96) / 50 of one, over sqrt(2000).
    assert abs(squares.mean() - 0.8 * 48 / 50) < 6 * 0.8 * 96**0.5 / 50 / 2000**0.5


# --- the network ---


@given(losses())
def test_network_sample_by_sample(case: Arguments) -> None:
    weights, x = (case[name].reshape(-1, *case[name].shape[-3:]) for name in ("weights", "x"))
    found = forward(case["weights"], case["x"]).reshape(len(weights), -1)
    m = weights.shape[-2]
    for run, (w, samples) in enumerate(zip(weights, x, strict=True)):
        for index, patches in enumerate(samples):
            squares = [[max(float(w[j, r] @ p), 0) ** 2 for r in range(m) for p in patches] for j in (0, 1)]
            expected = (sum(squares[0]) - sum(squares[1])) / m
            size = sum(map(sum, squares)) + sum(np.abs(w).max() * np.abs(p).max() * len(p) for p in patches) ** 2
            assert abs(found[run, index] - expected) <= 100 * len(patches[0]) * EPSILON * size


@given(losses())
def test_hessian_is_the_gradients_difference(case: Arguments) -> None:
    weights = case["weights"].astype(np.longdouble)
    x, labels = case["x"].astype(np.longdouble), case["labels"].astype(np.longdouble)
    direction = np.cos(np.arange(weights.size)).reshape(weights.shape).astype(np.longdouble)
    direction *= max(np.abs(weights).max(), 1 / (1 + np.abs(x).max()))

    def gradient(step: float) -> Any:
        value, pull = loss_vjp(weights + step * direction, x, labels)
        return pull(np.ones_like(value))[0]

    step = 1e-9
    difference = (gradient(step) - gradient(-step)) / (2 * step)
    scores = np.einsum("...jmd,...npd->...njmp", weights, x)
    moved = step * np.abs(np.einsum("...jmd,...npd->...njmp", direction, x))
    if np.any(np.abs(scores) <= moved):  # a kink lies between the two points
        return
    found = hessian_vector_product(weights, x, labels, direction)
    size = np.abs(gradient(0)).max() + np.abs(gradient(1)).max() + np.abs(gradient(-1)).max()
    assert np.max(np.abs(found - difference)) <= 1e-7 * size


def test_curvature_at_a_fit_is_that_of_the_shares(rng: np.random.Generator) -> None:
    """At a fit the only curvature is the squared gradient, 4/m (|u|^2 z_u + |v|^2 z_v)."""
    m, strong, weak = 3, np.eye(6)[0], 0.5 * np.eye(6)[1]
    weights = np.zeros((2, m, 6))
    weights[0] = np.abs(rng.standard_normal((m, 6)))
    x = np.stack([weak, strong, 0 * weak])[None]
    weights /= forward(weights, x)[0] ** 0.5
    shares = feature_shares(weights, strong, weak)
    direction = rng.standard_normal(weights.shape)
    gradient = 2 / m * (weights @ x[0].T).clip(0) @ x[0] * np.array([1, -1])[:, None, None]
    product = hessian_vector_product(weights, x, np.ones(1), direction)
    inside = np.einsum("jmp,jmd,pd->jmp", (weights @ x[0].T > 0) * 1.0, direction, x[0])
    residual = forward(weights, x)[0] - 1
    curved = 2 / m * residual * np.einsum("jmp,pd->jmd", inside, x[0]) * np.array([1, -1])[:, None, None]
    np.testing.assert_allclose(product, gradient * np.sum(gradient * direction) + curved, atol=1e-13)
    assert abs(residual) < 1e-14
    assert np.isclose(np.sum(gradient**2), 4 / m * (shares.strong[0] + 0.25 * shares.weak[0]), rtol=1e-13)


def test_step_is_down_the_gradient(rng: np.random.Generator) -> None:
    data = sample_feature_noise_data(7, 12, 0.5, 1.0, 0.3, 0.8, rng)
    weights = initial_weights(4, 12, 0.3, rng)
    moved, error = sgd_step(weights, data.patches[2], data.labels[2], 0.7)
    sample, label = data.patches[2:3], data.labels[2:3]
    value, pull = loss_vjp(weights, sample, label)
    np.testing.assert_allclose(moved, weights - 0.7 * pull(np.ones_like(value))[0], atol=1e-14)
    assert np.isclose(error**2, 2 * loss(weights, sample, label))


def test_runs_do_not_touch_each_other(rng: np.random.Generator) -> None:
    data = sample_feature_noise_data(5, 8, 0.5, 1.0, 0.3, 0.8, rng, (2,))
    weights = initial_weights(3, 8, 0.3, rng, (2,))
    indices = rng.integers(5, size=(2, 20))
    together, errors = train_sgd(weights, data.patches, data.labels, 0.5, indices)
    for run in range(2):
        alone, error = train_sgd(weights[run], data.patches[run], data.labels[run], 0.5, indices[run])
        np.testing.assert_allclose(alone, together[run], rtol=1e-12)
        np.testing.assert_allclose(error, errors[run], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dim", [14, 15, 40])
def test_training_is_steps_one_by_one_with_few_patches_or_many(dim: int, rng: np.random.Generator) -> None:
    data = sample_feature_noise_data(5, dim, 0.5, 1.0, 0.3, 0.8, rng, (2,))
    weights, indices = initial_weights(3, dim, 0.3, rng, (2,)), rng.integers(5, size=(2, 20))
    trained, errors = train_sgd(weights, data.patches, data.labels, 0.5, indices)
    for step, chosen in enumerate(indices.T):
        x, label = data.patches[[0, 1], chosen], data.labels[[0, 1], chosen]
        weights, error = sgd_step(weights, x, label, 0.5)
        np.testing.assert_allclose(errors[:, step], error, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(trained, weights, rtol=1e-10, atol=1e-13)


def test_a_run_that_diverges_leaves_the_others_alone(rng: np.random.Generator) -> None:
    data = sample_feature_noise_data(5, 8, 1, 1.0, 0.3, 0.8, rng, (2,))
    weights = initial_weights(3, 8, 0.3, rng, (2,))
    weights[0] *= 1e3
    indices = rng.integers(5, size=(2, 50))
    trained, _ = train_sgd(weights, data.patches, data.labels, 0.5, indices)
    assert not np.isfinite(trained[0]).all()
    alone, _ = train_sgd(weights[1], data.patches[1], data.labels[1], 0.5, indices[1])
    np.testing.assert_allclose(trained[1], alone, rtol=1e-12)


def test_float32_stays(rng: np.random.Generator) -> None:
    data = sample_feature_noise_data(5, 8, 0.5, 1.0, 0.3, 0.8, rng)
    weights = initial_weights(3, 8, 0.3, rng).astype(np.float32)
    x, labels = data.patches.astype(np.float32), data.labels.astype(np.float32)
    trained, errors = train_sgd(weights, x, labels, 0.5, rng.integers(5, size=10))
    assert trained.dtype == errors.dtype == np.float32
    assert hessian_vector_product(weights, x, labels, weights).dtype == np.float32
    assert strong_map(np.float32([0.5]), np.float32([1.2])).dtype == np.float32
    assert transversal_growth_rate(errors, 0.1).dtype == np.float32


# --- maps ---


def test_network_of_one_sample_is_the_map(rng: np.random.Generator) -> None:
    """Filters of the other class have nothing to say about a sample without noise that they do not see."""
    strong, weak, m = np.eye(4)[0], 0.5 * np.eye(4)[1], 2
    weights = np.zeros((2, m, 4))
    weights[0, :, :2] = np.abs(rng.standard_normal((m, 2)))
    x, rate = np.stack([weak, strong, 0 * weak]), 0.4
    for _ in range(5):
        before = feature_shares(weights, strong, weak)
        gains = (feature_gain(rate, 1.0, m), feature_gain(rate, 0.25, m))
        expected = two_feature_map(before.strong[0], before.weak[0], *gains)
        weights, _ = sgd_step(weights, x, np.asarray(1.0), rate)
        after = feature_shares(weights, strong, weak)
        np.testing.assert_allclose((after.strong[0], after.weak[0]), expected, rtol=1e-12)


def test_errors_without_a_weak_share_are_the_strong_maps() -> None:
    share = np.array([0.2, 0.7])
    errors, strong, weak = two_feature_errors(share, 0 * share, np.array([1.2, 0.5]), 0.1, 4)
    for error in errors:
        np.testing.assert_allclose(error, 1 - share, rtol=1e-14)
        share = strong_map(share, np.array([1.2, 0.5]))
    np.testing.assert_allclose(strong, share, rtol=1e-14)
    assert not weak.any()


def test_known_numbers() -> None:
    np.testing.assert_allclose(period_two_errors(1.05), (5 / 21, -4 / 21), rtol=1e-14)
    np.testing.assert_allclose(period_two_errors(1.2), (0.465215, -0.298548), atol=1e-6)
    assert np.isclose(minimum_weak_share(1.2, 0.06), 0.175439, atol=1e-6)
    assert np.isclose(oscillation_window()[1], 1.598076, atol=1e-6)
    assert np.isclose(slow_weak_share(1.0, 1e-3, 1.0, 0.05), 1.41254, atol=1e-5)
    rate = period_two_growth_rate(1.2, 0.05)
    assert np.isclose(rate, 0.004728, atol=1e-6)
    assert np.isclose(learning_steps(np.exp(-2 * rate), rate), 1)


# --- the experiment ---


def test_weights_are_redrawn_until_every_route_is_open(rng: np.random.Generator) -> None:
    setting = Setting(n_samples=10, dim=20, n_filters=2, strong_fraction=0.7)
    data, weights = start(setting, 30, rng)
    assert is_admissible(weights, data).all()
    data, weights = start(setting._replace(redraw=False), 200, rng)
    admissible = is_admissible(weights, data)
    assert 0 < admissible.sum() < 200
    for run in range(20):
        own = [weights[run, 0 if data.labels[run, i] > 0 else 1] @ data.patches[run, i, 2] for i in range(7, 10)]
        routes = [own_scores.max() > 0 for own_scores in own]
        for feature in (data.strong, data.weak):
            routes += [(weights[run, 0] @ feature).max() > 0, (weights[run, 1] @ -feature).max() > 0]
        assert admissible[run] == all(routes)


def test_outcome_of_a_short_run(rng: np.random.Generator) -> None:
    setting = Setting(n_samples=10, dim=20, n_filters=4)
    found = run_benign_oscillation_experiment(setting, 0.7, 3, rng, n_test=50)
    assert found.errors.shape == found.strong_steps.shape == (3, 6000)
    assert found.shares.weak.shape == (3, 2)
    assert np.all(found.train_accuracy == 1)
    assert np.all(found.strong_accuracy == 1)


# --- what is refused ---


def weights_and_data() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, 3, 4)), rng.standard_normal((5, 3, 4)), np.ones(5)


W, PATCHES, LABELS = weights_and_data()
GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: forward(W[0], PATCHES), "weights"),
        (lambda: forward(np.concatenate([W, W]), PATCHES), "weights"),
        (lambda: forward(W, PATCHES[0, 0]), "x"),
        (lambda: forward(W, PATCHES[..., :3]), "x"),
        (lambda: forward(W, PATCHES * np.nan), "x"),
        (lambda: loss(W, PATCHES, 0 * LABELS), "labels"),
        (lambda: loss(W, PATCHES, LABELS[:-1]), "labels"),
        (lambda: sgd_step(W, PATCHES[0], np.asarray(2.0), 0.1), "label"),
        (lambda: sgd_step(W, PATCHES[0], np.asarray(1.0), 0), "learning_rate"),
        (lambda: sgd_step(W, PATCHES[0], np.asarray(1.0), -1.0), "learning_rate"),
        (lambda: train_sgd(W, PATCHES, LABELS, 0.1, np.array([5])), "indices"),
        (lambda: train_sgd(W, PATCHES, LABELS, 0.1, np.array([-1])), "indices"),
        (lambda: train_sgd(W, PATCHES, LABELS, 0.1, np.array([0.5])), "indices"),
        (lambda: sample_feature_noise_data(5, 9, 1.1, 1, 1, 1, GENERATOR), "strong_fraction"),
        (lambda: sample_feature_noise_data(5, 9, -0.1, 1, 1, 1, GENERATOR), "strong_fraction"),
        (lambda: sample_feature_noise_data(5, 2, 0.5, 1, 1, 1, GENERATOR), "dim"),
        (lambda: sample_feature_noise_data(0, 9, 0.5, 1, 1, 1, GENERATOR), "n_samples"),
        (lambda: sample_feature_noise_data(5, 9, 0.5, 1, 1, -1, GENERATOR), "noise_norm_squared"),
        (lambda: feature_shares(W, W[0, 0], W[0, 0, :2]), "weak"),
        (lambda: signal_recursion(W[0, 0], 0.1, 2, 0.5), "label_sign"),
        (lambda: signal_recursion(W[0, 0], -0.1, 1, 0.5), "gain"),
        (lambda: strong_map(-0.1, 1.2), "share"),
        (lambda: strong_map(np.array([0.1, np.nan]), 1.2), "share"),
        (lambda: two_feature_map(0.1, -0.1, 1.2, 0.1), "weak"),
        (lambda: two_feature_errors(np.array(0.1), np.array(0.1), 1.2, 0.1, 0), "n_steps"),
        (lambda: minimum_weak_share(1.2, 1.2), "weak_gain"),
        (lambda: minimum_weak_share(1.0, 0.1), "strong_gain"),
        (lambda: least_growth_rate(1.0, 1.5, 0.1), "weak_gain"),
        (lambda: least_growth_rate(1.0, 0.5, 1.0), "amplitude"),
        (lambda: transversal_growth_rate(np.array([-2.0]), 0.5), "errors"),
        (lambda: transversal_growth_rate(np.array([0.1]), 0.0), "gain"),
        (lambda: period_two_errors(1.0), "gain"),
        (lambda: period_two_errors(1.3), "gain"),
        (lambda: period_two_growth_rate(1.1, 1.5), "ratio"),
        (lambda: learning_steps(1.5, 0.1), "weak_share"),
        (lambda: slow_weak_share(0.1, 0.1, 1.0, 1.0), "norm_ratio_squared"),
        (lambda: run_benign_oscillation_experiment(Setting(), -1, 2, GENERATOR), "learning_rate"),
        (lambda: initial_weights(0, 3, 1.0, GENERATOR), "n_filters"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        call()
