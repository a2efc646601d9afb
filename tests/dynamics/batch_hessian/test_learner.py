"""Learning rates, damping and the learner: recursions against matrices, a known spectrum, and training step by step."""

import itertools
from typing import Any

import numpy as np
import pytest

from refimpl.dynamics.batch_hessian import (
    LanczosMomentumLearner,
    Pace,
    damped_step,
    heavy_ball_matrix,
    initial_perceptron,
    learned_pace,
    max_learning_rate_adaptive,
    max_learning_rate_sgd,
    minimal_damping,
    polyak_pace,
    scale_learning_rate,
    train,
    train_softmax_regression,
    with_constant,
)
from refimpl.primitives.curvature import mlp_curvature, pack, unpack
from refimpl.primitives.layers import Linear
from refimpl.primitives.trees import tree_map

RNG = np.random.default_rng(0)


def test_the_matrix_is_the_recursion() -> None:
    rate, momentum, curvature = 0.3, 0.8, np.array([0.5, 4.0])
    w, velocity = np.array([1.0, -2.0]), np.array([0.3, 0.1])
    states = np.stack([w, w - velocity], axis=-1)
    for _ in range(5):
        velocity = momentum * velocity - rate * curvature * w
        w = w + velocity
        states = (heavy_ball_matrix(rate, momentum, curvature) @ states[..., None])[..., 0]
    np.testing.assert_allclose(states, np.stack([w, w - velocity], axis=-1), rtol=1e-13)


def test_equal_curvatures_are_one_newton_step() -> None:
    assert polyak_pace(4.0, 4.0) == Pace(0.25, 0)


def test_rules_compose() -> None:
    for rule in ("linear", "sqrt"):
        there = scale_learning_rate(0.1, 32, 100, rule)  # type: ignore[arg-type]
        np.testing.assert_allclose(scale_learning_rate(there, 100, 32, rule), 0.1, rtol=1e-15)  # type: ignore[arg-type]


def test_damping_is_enough_where_the_estimate_is_right() -> None:
    """With the true curvature any rate below 2 needs none; a step of rate 1 is Newton's."""
    assert minimal_damping(1.9, 3.0, 3.0) == 0
    matrix = np.array([[2.0, 0.5], [0.5, 1.0]])
    np.testing.assert_allclose(matrix @ damped_step(np.array([1.0, -1.0]), matrix, 0.0, 1.0), [-1, 1], rtol=1e-14)
    np.testing.assert_allclose(damped_step(np.array([1.0, -1.0]), 0 * matrix, 4.0, 2.0), [-0.5, 0.5], rtol=1e-15)


SPECTRUM = np.array([-0.25, 0.1, 0.4, 4.0])


def look(learner: LanczosMomentumLearner, spectrum: np.ndarray = SPECTRUM, previous: Pace | None = None) -> Pace:
    return learned_pace(learner, lambda v: spectrum * v, len(spectrum), np.random.default_rng(5), previous)


def test_pace_of_a_known_spectrum() -> None:
    np.testing.assert_allclose(look(LanczosMomentumLearner()), polyak_pace(4.0, 0.25), rtol=1e-12)
    np.testing.assert_allclose(look(LanczosMomentumLearner(floor=0.5)), polyak_pace(4.0, 0.5), rtol=1e-12)
    np.testing.assert_allclose(look(LanczosMomentumLearner(), np.array([-9.0, 4.0])), polyak_pace(4.0, 4.0), rtol=1e-7)
    rate, momentum = look(LanczosMomentumLearner(safety=0.5))
    np.testing.assert_allclose([2 * rate, momentum], polyak_pace(4.0, 0.25), rtol=1e-12)
    smoothed = look(LanczosMomentumLearner(smoothing=0.75), previous=Pace(0.0, 0.0))
    np.testing.assert_allclose(4 * np.array(smoothed), polyak_pace(4.0, 0.25), rtol=1e-12)
    np.testing.assert_array_equal(look(LanczosMomentumLearner(smoothing=0.75)), look(LanczosMomentumLearner()))


def data() -> tuple[list[Linear], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(6)
    return initial_perceptron(rng, (3, 4, 2)), rng.standard_normal((10, 3)), rng.integers(2, size=10)


def test_an_epoch_step_by_step() -> None:
    """Batches of 4 from 10 examples: two steps, and two examples left out."""
    layers, x, labels = data()
    epochs = list(itertools.islice(train(layers, x, labels, 4, Pace(0.1, 0.9), np.random.default_rng(7)), 2))
    rng = np.random.default_rng(7)
    w, velocity = pack(layers), 0.0
    for epoch in epochs:
        order = rng.permutation(10)
        for chosen in (order[:4], order[4:8]):
            velocity = 0.9 * velocity - 0.1 * pack(mlp_curvature(unpack(w, layers), x[chosen], labels[chosen]).gradient)
            w = w + velocity
        np.testing.assert_allclose(pack(epoch.layers), w, rtol=1e-12)
        assert epoch.loss == pytest.approx(float(mlp_curvature(unpack(w, layers), x, labels).loss))


def test_the_learner_looks_when_it_is_its_turn() -> None:
    layers, x, labels = data()
    learner = LanczosMomentumLearner(refresh=2)
    paces = [epoch.pace for epoch in itertools.islice(train(layers, x, labels, 5, learner, RNG), 4)]
    assert paces[0] == paces[1] != paces[2] == paces[3]


def test_training_changes_nothing_that_it_was_given() -> None:
    layers, x, labels = data()
    before = pack(layers)
    next(train(layers, x, labels, 5, LanczosMomentumLearner(), RNG))
    np.testing.assert_array_equal(pack(layers), before)


def test_softmax_regression_learns() -> None:
    rng = np.random.default_rng(8)
    x = with_constant(rng.standard_normal((200, 2)))
    labels = (x[:, 1] + x[:, 2] > 0.3).astype(int)
    weights = train_softmax_regression(x, labels, 2)
    assert np.mean((x @ weights.T).argmax(axis=1) == labels) > 0.97
    np.testing.assert_allclose(weights.sum(axis=0), 0, atol=1e-12)  # the gradients of the classes sum to 0
    np.testing.assert_array_equal(train_softmax_regression(x, labels, 2, n_steps=0), 0)


def test_float32_is_kept() -> None:
    curvature, tenth = np.array([0.5, 3.0], dtype=np.float32), np.float64(0.1)  # a number that must not promote
    layers, x, labels = data()
    layers, x = tree_map(lambda leaf: leaf.astype(np.float32), layers), x.astype(np.float32)
    outputs = [
        *(
            pack(next(train(layers, x, labels, 5, learner, RNG)).layers)
            for learner in (LanczosMomentumLearner(), Pace(tenth, tenth))
        ),
        heavy_ball_matrix(tenth, tenth, curvature),
        max_learning_rate_sgd(curvature, tenth),
        max_learning_rate_adaptive(curvature, tenth),
        scale_learning_rate(curvature, 32, 100, "sqrt"),
        minimal_damping(tenth, curvature, curvature),
        damped_step(curvature, np.eye(2, dtype=np.float32), tenth, tenth),
        train_softmax_regression(np.ones((3, 2), dtype=np.float32), np.array([0, 1, 1]), 2),
    ]
    assert {output.dtype for output in outputs} == {np.dtype(np.float32)}


def start(learner: Any, batch_size: int = 5) -> Any:
    return train(*data(), batch_size, learner, RNG)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: heavy_ball_matrix(0.1, 1.0, 1.0), r"momentum: expected a number in \[0, 1\), got 1.0"),
        (lambda: heavy_ball_matrix(0.0, 0.5, 1.0), "learning_rate: expected a number in"),
        (lambda: max_learning_rate_sgd(0.0), "lambda_max_batch: expected positive curvature, got 0.0"),
        (lambda: max_learning_rate_sgd(1.0, -0.1), "momentum: expected a number in"),
        (lambda: max_learning_rate_adaptive(1.0, -0.1), "damping: expected a number in"),
        (lambda: max_learning_rate_adaptive(-1.0), "lambda_max_batch: expected positive curvature"),
        (lambda: scale_learning_rate(0.1, 32, 64, "cubic"), "rule: expected linear or sqrt, got 'cubic'"),  # type: ignore[arg-type]
        (lambda: scale_learning_rate(0.1, 0, 64, "sqrt"), "base_batch: expected an integer >= 1"),
        (lambda: scale_learning_rate(-0.1, 1, 64, "sqrt"), "base_rate: expected positive"),
        (lambda: minimal_damping(0.0, 1.0, 1.0), "learning_rate: expected a number in"),
        (lambda: minimal_damping(0.1, np.ones(2), np.ones(3)), "estimated_curvature: expected shape"),
        (lambda: damped_step(np.ones(2), np.eye(2), -1.0, 1.0), "damping: expected a number in"),
        (lambda: damped_step(np.ones(2), np.array([[1.0, 0], [1e-3, 1]]), 0.0, 1.0), "estimated_hessian: expected"),
        (lambda: damped_step(np.ones(2), -np.eye(2), 0.5, 1.0), "estimated_hessian: expected"),
        (lambda: polyak_pace(1.0, 0.0), "smallest: expected a number in"),
        (lambda: polyak_pace(1.0, 2.0), "largest: expected a number in"),
        (lambda: look(LanczosMomentumLearner(), -np.abs(SPECTRUM)), "expected a batch Hessian with a positive eig"),
        (lambda: look(LanczosMomentumLearner(n_lanczos=0)), "n_lanczos: expected an integer >= 1"),
        (lambda: start(LanczosMomentumLearner(refresh=0)), "refresh: expected an integer >= 1"),
        (lambda: start(LanczosMomentumLearner(safety=0.0)), "safety: expected a number in"),
        (lambda: start(LanczosMomentumLearner(smoothing=1.0)), "smoothing: expected a number in"),
        (lambda: start(LanczosMomentumLearner(floor=0.0)), "floor: expected a number in"),
        (lambda: start(Pace(0.1, 1.0)), "momentum: expected a number in"),
        (lambda: start(Pace(0.1, 0.9), 11), "batch_size: expected an integer from 1 to 10"),
        (lambda: initial_perceptron(RNG, (3,)), "widths: expected at least inputs and outputs"),
        (lambda: initial_perceptron(RNG, (3, 0)), "widths: expected an integer >= 1"),
        (
            lambda: train_softmax_regression(np.ones((2, 1)), np.array([0, 2]), 2),
            "targets: expected classes from 0 to 1",
        ),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
