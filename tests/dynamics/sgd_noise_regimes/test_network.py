"""Networks by other routes: the perceptron's layer, the tangent by differences, SGD by a plain loop, and refusals."""

from typing import Any

import numpy as np
import pytest

from refimpl.dynamics.sgd_noise_regimes import (
    feature_regime_map,
    hidden_layer,
    hinge_loss,
    hinge_loss_vjp,
    initial_network,
    linearised_outputs,
    network_outputs,
    network_outputs_vjp,
    relative_weight_change,
    train_network,
)

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((40, 6)), np.where(RNG.standard_normal(40) > 0, 1, -1)
START = initial_network(6, 9, 2, RNG)


def test_outputs_are_written_out() -> None:
    a = X.T
    for weight in START[:-1]:
        a = np.sqrt(2) * np.maximum(weight @ a / np.sqrt(len(a)), 0)
    np.testing.assert_allclose(network_outputs(X, START), (START[-1] @ a / np.sqrt(len(a)))[0], rtol=1e-13)


def test_layers_keep_the_mean_square_at_initialisation() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((50, 100))
    kept = hidden_layer(x, rng.standard_normal((4000, 100)))
    np.testing.assert_allclose((kept**2).mean(axis=1) / (x**2).mean(axis=1), 1, atol=0.2)


def test_the_tangent_is_the_slope_and_what_the_pullback_says() -> None:
    direction = [np.random.default_rng(2).standard_normal(matrix.shape) for matrix in START]
    tangent = linearised_outputs(X, START, direction)
    h = 1e-6
    moved = [[w + s * h * v for w, v in zip(START, direction, strict=True)] for s in (1, -1)]
    slope = (network_outputs(X, moved[0]) - network_outputs(X, moved[1])) / (2 * h)
    np.testing.assert_allclose(tangent, slope, atol=1e-7)
    cotangent = np.random.default_rng(3).standard_normal(40)
    _, to_weights = network_outputs_vjp(X, START)[1](cotangent)
    pulled = sum(float((a * b).sum()) for a, b in zip(to_weights, direction, strict=True))
    np.testing.assert_allclose(cotangent @ tangent, pulled, rtol=1e-12)


@pytest.mark.parametrize("n_hidden", [1, 3])
def test_training_is_its_plain_loop(n_hidden: int) -> None:
    start = initial_network(6, 9, n_hidden, np.random.default_rng(4))
    batches = np.random.default_rng(5).integers(40, size=(3000, 3))
    run = train_network(X, Y, start, 0.5, 3, 0.2, None, 3000, 1, batches)
    weights, offset, steps = [w.copy() for w in start], network_outputs(X, start), 0
    for batch in batches[: run.steps]:
        f, pull = network_outputs_vjp(X[batch], weights)
        to_f = hinge_loss_vjp(f - offset[batch], Y[batch], 0.2)[1](np.ones(()))[0]
        weights = [w - 0.5 * g for w, g in zip(weights, pull(to_f)[1], strict=True)]
        steps += 1
        if hinge_loss(network_outputs(X, weights) - offset, Y, 0.2) == 0:
            break
    assert run.converged
    assert (run.steps, run.time) == (steps, 0.5 * steps)
    for a, b in zip(run.weights, weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_runs_together_are_each_alone() -> None:
    rng = np.random.default_rng(6)
    inputs, labels = rng.standard_normal((2, 3, 40, 6)), np.where(rng.standard_normal((2, 3, 40)) > 0, 1, -1)
    starts = [rng.standard_normal((2, 3, *matrix.shape)) for matrix in START]
    batches = rng.integers(40, size=(2000, 2, 3, 3))
    inputs[1, 2, 0], labels[1, 2, :2] = inputs[1, 2, 1], (1, -1)  # one that cannot be fitted
    together = train_network(inputs, labels, starts, 0.5, 3, 0.2, None, 2000, 10, batches)
    assert len(np.unique(together.steps)) > 2
    assert 0 < together.converged.sum() < 6
    assert not together.converged[1, 2]
    for run in np.ndindex(2, 3):
        alone = train_network(
            inputs[run], labels[run], [one[run] for one in starts], 0.5, 3, 0.2, None, 2000, 10, batches[:, *run]
        )
        assert (alone.time, alone.steps, alone.converged) == tuple(value[run] for value in together[1:])
        for a, b in zip(alone.weights, together.weights, strict=True):
            np.testing.assert_allclose(a, b[run], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(
            relative_weight_change(together.weights, starts)[run],
            relative_weight_change(alone.weights, [one[run] for one in starts]),
        )


@pytest.mark.parametrize("n", [7, 450])
def test_networks_of_many_points_and_runs_are_each_alone(n: int) -> None:
    rng = np.random.default_rng(7)
    x, cotangent = rng.standard_normal((2, 3, n, 6)), rng.standard_normal((2, 3, n))
    weights, moves = ([rng.standard_normal((2, 3, *matrix.shape)) for matrix in START] for _ in range(2))
    outputs, pull = network_outputs_vjp(x, weights)
    to_x, to_weights = pull(cotangent)
    for run in np.ndindex(2, 3):
        own, changes = [one[run] for one in weights], [one[run] for one in moves]
        singly = [network_outputs(row[None], own)[0] for row in x[run]]
        for found in (outputs, network_outputs(x, weights)):
            np.testing.assert_allclose(found[run], singly, rtol=1e-12, atol=1e-12)
        tangents = [linearised_outputs(row[None], own, changes)[0] for row in x[run]]
        np.testing.assert_allclose(linearised_outputs(x, weights, moves)[run], tangents, rtol=1e-12, atol=1e-12)
        pulls = [network_outputs_vjp(x[run][i : i + 1], own)[1](cotangent[run][i : i + 1]) for i in range(n)]
        np.testing.assert_allclose(to_x[run], np.concatenate([one for one, _ in pulls]), rtol=1e-12, atol=1e-12)
        for index, found in enumerate(to_weights):
            np.testing.assert_allclose(found[run], sum(one[index] for _, one in pulls), rtol=1e-10, atol=1e-10)


def test_tests_now_and_then_stop_later_and_change_nothing_before() -> None:
    batches = np.random.default_rng(5).integers(40, size=(3000, 3))
    every = train_network(X, Y, START, 0.5, 3, 0.2, None, 3000, 1, batches)
    seldom = train_network(X, Y, START, 0.5, 3, 0.2, None, 3000, 50, batches)
    assert every.converged
    assert seldom.converged
    assert every.steps <= seldom.steps < every.steps + 100
    assert seldom.steps % 50 == 0
    again = train_network(X, Y, START, 0.5, 3, 0.2, None, every.steps, 50, batches)
    np.testing.assert_array_equal(again.weights[0], every.weights[0])


def test_a_run_that_diverges_is_reported_and_the_start_kept() -> None:
    before = [w.copy() for w in START]
    run = train_network(X, Y, START, 1e200, 3, 0.5, np.random.default_rng(0), 50)
    assert not run.converged
    assert run.steps < 50
    for a, b in zip(before, START, strict=True):
        np.testing.assert_array_equal(a, b)


def test_float32_is_kept() -> None:
    single = [w.astype(np.float32) for w in START]
    x = X.astype(np.float32)
    batches = np.random.default_rng(5).integers(40, size=(5, 3))
    run = train_network(x, Y, single, 0.2, 3, 0.5, None, 5, 1, batches)
    assert {w.dtype for w in run.weights} == {np.dtype(np.float32)}
    double = train_network(X, Y, START, 0.2, 3, 0.5, None, 5, 1, batches)
    for a, b in zip(run.weights, double.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert feature_regime_map(single, 0.1, 0.01, 2)[0][0].dtype == np.float32


def test_the_map_goes_back_and_leaves_one_layers_rate() -> None:
    u, rate = feature_regime_map(START, 0.3, 1e-3, 2)
    back, again = feature_regime_map(u, rate, 1e3, 2)
    np.testing.assert_allclose(back[0], START[0], rtol=1e-14)
    assert again == pytest.approx(0.3, rel=1e-14)
    assert feature_regime_map(START, 0.3, 1e-3, 1)[1] == 0.3
    np.testing.assert_allclose(network_outputs(X, u), network_outputs(X, START) * 1e-3, rtol=1e-12)


def test_the_weight_change_is_relative() -> None:
    assert relative_weight_change([2 * w for w in START], START) == pytest.approx(1)
    assert relative_weight_change(START, START) == 0


def changed(**changes: Any) -> dict[str, Any]:
    return {
        "inputs": X,
        "labels": Y,
        "weights": START,
        "learning_rate": 0.1,
        "batch_size": 3,
        "margin": 0.5,
        "rng": np.random.default_rng(0),
        "max_steps": 5,
    } | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": Y[1:]}, "labels: expected an array of shape"),
        ({"labels": 0 * Y}, "labels: expected signs"),
        ({"inputs": X[:, 1:]}, r"weights\[0\]: expected n_0 5"),
        ({"inputs": np.inf * X}, "x: expected finite"),
        ({"weights": START[:1]}, "weights: expected a list of two or more matrices"),
        ({"weights": START[:2]}, r"weights\[1\]: expected shape"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number"),
        ({"batch_size": 41}, "batch_size: expected an integer from 1 to 40"),
        ({"margin": -1.0}, "margin: expected a number"),
        ({"max_steps": 0}, "max_steps: expected an integer >= 1"),
        ({"check_every": 0}, "check_every: expected an integer >= 1"),
        ({"rng": None}, "rng: expected a generator"),
        ({"batches": np.array([[40, 0, 0]])}, "batches: expected 3 integers"),
    ],
)
def test_what_training_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_network(**changed(**changes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: initial_network(6, 9, 0, RNG), "n_hidden: expected an integer >= 1"),
        (lambda: initial_network(6, 0, 1, RNG), "width: expected an integer >= 1"),
        (lambda: feature_regime_map(START, 0.1, 0.0, 2), "alpha: expected a number"),
        (lambda: feature_regime_map(START, 0.1, 1.0, 0), "n_hidden: expected an integer >= 1"),
        (lambda: feature_regime_map(START, -0.1, 1.0, 2), "learning_rate: expected a number"),
        (lambda: linearised_outputs(X, START, [np.nan * w for w in START]), r"displacement\[0\]: expected finite"),
        (lambda: linearised_outputs(X, START, START[1:]), "displacement: expected the shapes"),
        (lambda: hidden_layer(X, np.ones((2, 5))), "weight: expected n_inputs 6"),
        (lambda: relative_weight_change(START, [0 * w for w in START]), "initial: expected weights that are not all 0"),
    ],
)
def test_what_the_rest_refuses(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
