"""The loss, the data, SGD on the perceptron against a plain loop, and the faster simulation of its law."""

from typing import Any

import numpy as np
import pytest
import sympy

from refimpl.dynamics.sgd_noise_regimes import (
    event_driven_perceptron,
    hinge_active,
    hinge_loss,
    hinge_loss_vjp,
    perceptron_data,
    perceptron_outputs,
    perceptron_outputs_vjp,
    sgd_hinge,
)


def problem(n_samples: int = 60, n_features: int = 5, chi: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return perceptron_data(n_samples, n_features, chi, np.random.default_rng(seed))


def test_the_loss_is_that_of_the_scaled_predictor_over_the_scale() -> None:
    _, y = problem()
    f = np.random.default_rng(1).standard_normal(60)
    alpha = 8.0
    expected = np.mean(np.maximum(1 - y * alpha * f, 0)) / alpha
    np.testing.assert_allclose(hinge_loss(f, y, 1 / alpha), expected, rtol=1e-14)


def test_a_point_at_the_margin_is_fitted_but_not_at_zero() -> None:
    y = np.array([1, -1, 1])
    np.testing.assert_array_equal(hinge_active(np.array([0.5, -0.5, 0.4]), y, 0.5), [False, False, True])
    np.testing.assert_array_equal(hinge_active(np.array([0.0, -0.1, 0.1]), y, 0.0), [True, False, False])


def test_a_fitted_set_has_no_loss_and_no_gradient() -> None:
    inputs, labels = problem()
    weights = 100 * np.eye(5)[0]
    outputs = perceptron_outputs(weights, inputs)
    loss, pull = hinge_loss_vjp(outputs, labels, np.min(labels * outputs))
    assert loss == 0
    np.testing.assert_array_equal(pull(np.ones(()))[0], 0)


@pytest.mark.parametrize("chi", [-0.6, 0.0, 2.3])
def test_the_signal_coordinate_has_the_stated_moments(chi: float) -> None:
    inputs, labels = perceptron_data(200_000, 3, chi, np.random.default_rng(2))
    np.testing.assert_array_equal(np.sign(inputs[:, 0]), labels)
    square = inputs[:, 0] ** 2
    # A chi-squared variable has mean k and variance 2k; 5 standard errors.
    assert abs(square.mean() - (chi + 1)) < 5 * (2 * (chi + 1) / 200_000) ** 0.5
    assert abs(labels.mean()) < 5 / 200_000**0.5
    assert np.max(np.abs(np.cov(inputs[:, 1:].T) - np.eye(2))) < 5 * (2 / 200_000) ** 0.5


@pytest.mark.parametrize(("batch_size", "margin"), [(1, 0.0), (1, 0.7), (4, 0.0), (4, 0.7)])
def test_sgd_is_its_plain_loop(batch_size: int, margin: float) -> None:
    inputs, labels = problem()
    batches = np.random.default_rng(3).integers(60, size=(20000, batch_size))
    run = sgd_hinge(inputs, labels, 4.0, batch_size, margin, None, 20000, batches)
    weights, steps = np.zeros(5), 0
    for batch in batches[: run.steps]:
        gradient = np.zeros(5)
        f, pull = perceptron_outputs_vjp(weights, inputs[batch])
        for y, output, point in zip(labels[batch], f, inputs[batch], strict=True):
            if y * output < margin or (margin == 0 and output == 0):
                gradient -= y * point / 5**0.5 / batch_size
        np.testing.assert_allclose(
            pull(-labels[batch] * hinge_active(f, labels[batch], margin) / batch_size)[0], gradient, atol=1e-13
        )
        weights = weights - 4 * gradient
        steps += 1
        if not np.any(hinge_active(inputs @ weights / 5**0.5, labels, margin)):
            break
    assert run.converged
    assert (run.steps, run.time) == (steps, 4.0 * steps)
    assert run.unfitted[-1] == 0
    assert np.all(run.unfitted[:-1] > 0)
    np.testing.assert_allclose(run.weights, weights, rtol=1e-12)


def test_batches_one_by_one_are_the_same_as_in_one_array() -> None:
    batches = np.random.default_rng(3).integers(60, size=(300, 2))
    whole, single = (sgd_hinge(*problem(), 0.5, 2, 0.1, None, 300, one) for one in (batches, iter(list(batches))))
    np.testing.assert_array_equal(whole.weights, single.weights)
    np.testing.assert_array_equal(whole.unfitted, single.unfitted)


def test_a_run_out_of_steps_or_batches_is_not_converged() -> None:
    inputs, labels = problem()
    short = sgd_hinge(inputs, labels, 0.5, 1, 1.0, np.random.default_rng(0), 3)
    assert (short.steps, short.converged, len(short.unfitted)) == (3, False, 3)
    assert sgd_hinge(inputs, labels, 0.5, 1, 1.0, None, 100, np.array([[0], [1]])).steps == 2
    capped = event_driven_perceptron(inputs, labels, 0.5, 1.0, np.random.default_rng(0), max_updates=2)
    assert (capped.updates, capped.converged) == (2, False)


def test_exact_numbers_give_exact_weights() -> None:
    inputs = np.array([[sympy.Rational(1, 2), 1, 0, 3], [-1, sympy.Rational(1, 3), 2, 0]], dtype=object)
    run = sgd_hinge(inputs, np.array([1, -1]), sympy.Rational(1, 7), 1, 0, None, 2, np.array([[0], [1]]))
    assert all(isinstance(entry, sympy.Rational) for entry in run.weights)
    assert run.weights[0] == sympy.Rational(1, 7) * (sympy.Rational(1, 2) + int(run.steps == 2)) / 2


@pytest.mark.parametrize(("batch_size", "margin"), [(1, 0.0), (1, 0.5), (8, 0.0), (30, 0.5)])
def test_the_event_driven_run_has_the_law_of_sgd(batch_size: int, margin: float) -> None:
    inputs, labels = problem(30, 4, 2.0, 5)
    rng = np.random.default_rng(6)
    plain = [sgd_hinge(inputs, labels, 1.0 * batch_size, batch_size, margin, rng, 10**5) for _ in range(300)]
    events = [event_driven_perceptron(inputs, labels, 1.0 * batch_size, margin, rng, batch_size) for _ in range(300)]
    assert all(run.converged for run in (*plain, *events))
    for measure in (lambda run: run.time, lambda run: run.weights[0], lambda run: run.weights[1] ** 2):
        a, b = (np.array([measure(run) for run in runs]) for runs in (plain, events))
        error = ((a.var(ddof=1) + b.var(ddof=1)) / 300) ** 0.5
        assert (
            abs(a.mean() - b.mean()) < 5 * error + 1e-9
        )  # passed by chance once in a million; equal where there is no spread


def test_the_perceptron_keeps_novikoffs_bound() -> None:
    inputs, labels = problem(200, 6, 1.0, 7)
    run = event_driven_perceptron(inputs, labels, 0.3, 0.0, np.random.default_rng(0))
    v = labels[:, None] * inputs
    # With the first unit vector as a separator: the norm and the margin of the points, without the root of the width.
    bound = np.max((v**2).sum(axis=1)) / np.min(v[:, 0]) ** 2
    assert run.converged
    assert run.updates <= bound
    assert np.all(v @ run.weights > 0)


def test_rows_that_are_not_kept_give_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, labels = problem(200, 6, 1.0, 7)
    kept = event_driven_perceptron(inputs, labels, 0.3, 0.2, np.random.default_rng(0), 4)
    monkeypatch.setattr("refimpl.dynamics.sgd_noise_regimes.training.GRAM_SAMPLES", 10)
    again = event_driven_perceptron(inputs, labels, 0.3, 0.2, np.random.default_rng(0), 4)
    np.testing.assert_array_equal(kept.weights, again.weights)
    assert kept[1:] == again[1:]


def test_float32_is_kept() -> None:
    inputs, labels = problem()
    single = inputs.astype(np.float32)
    batches = np.random.default_rng(3).integers(60, size=(50, 2))
    run = sgd_hinge(single, labels, 0.5, 2, 0.1, None, 50, batches)
    assert run.weights.dtype == np.float32
    np.testing.assert_allclose(
        run.weights, sgd_hinge(inputs, labels, 0.5, 2, 0.1, None, 50, batches).weights, rtol=1e-5, atol=1e-5
    )
    event = event_driven_perceptron(single, labels, 0.5, 0.1, np.random.default_rng(0), 2)
    assert event.weights.dtype == np.float32
    assert hinge_loss(single[:, 0], labels, 0.5).dtype == np.float32


INPUTS, LABELS = problem()
GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": INPUTS[:0], "labels": LABELS[:0]}, "inputs: expected n_samples >= 1"),
        ({"inputs": INPUTS[:, :1]}, "inputs: expected n_features >= 2"),
        ({"inputs": np.where(INPUTS[3, 1] == INPUTS, np.nan, INPUTS)}, "inputs: expected finite"),
        ({"labels": LABELS[:-1]}, r"labels: expected an array of shape \(60,\)"),
        ({"labels": 2 * LABELS}, "labels: expected signs"),
        ({"labels": list(LABELS)}, "labels: expected an array"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number in"),
        ({"batch_size": 0}, "batch_size: expected an integer from 1 to 60"),
        ({"batch_size": 61}, "batch_size: expected an integer from 1 to 60"),
        ({"batch_size": 2.0}, "batch_size: expected an integer"),
        ({"margin": -0.1}, "margin: expected a number in"),
    ],
)
def test_what_runs_refuse(changes: dict[str, Any], message: str) -> None:
    arguments = {
        "inputs": INPUTS,
        "labels": LABELS,
        "learning_rate": 0.5,
        "batch_size": 1,
        "margin": 0.0,
        "rng": GENERATOR,
    } | changes
    with pytest.raises(ValueError, match=message):
        sgd_hinge(**arguments, max_steps=10)
    with pytest.raises(ValueError, match=message):
        event_driven_perceptron(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 0}, "max_steps: expected an integer >= 1"),
        ({"rng": None}, "rng: expected a generator"),
        ({"batches": np.array([[0, 1]])}, "batches: expected 1 integers from 0 to 59"),
        ({"batches": np.array([[60]])}, "batches: expected 1 integers from 0 to 59"),
        ({"batches": [np.array([-1])]}, "batches: expected 1 integers from 0 to 59"),
        ({"batches": [np.array([0.0])]}, "batches: expected 1 integers from 0 to 59"),
    ],
)
def test_what_sgd_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sgd_hinge(
            **{
                "inputs": INPUTS,
                "labels": LABELS,
                "learning_rate": 0.5,
                "batch_size": 1,
                "margin": 0.0,
                "rng": GENERATOR,
                "max_steps": 10,
            }
            | changes
        )


def test_what_the_rest_refuses() -> None:
    with pytest.raises(ValueError, match="n_samples: expected an integer >= 1"):
        perceptron_data(0, 3, 0.0, GENERATOR)
    with pytest.raises(ValueError, match="n_features: expected an integer >= 2"):
        perceptron_data(3, 1, 0.0, GENERATOR)
    with pytest.raises(ValueError, match=r"chi: expected a number in \(-1, inf\)"):
        perceptron_data(3, 3, -1.0, GENERATOR)
    with pytest.raises(ValueError, match="inputs: expected n_features 4"):
        perceptron_outputs(np.ones(4), INPUTS)
    for function in (hinge_loss, hinge_active):
        with pytest.raises(ValueError, match="labels: expected an array of shape"):
            function(INPUTS[:, 0], LABELS[1:], 0.0)
        with pytest.raises(ValueError, match="margin: expected a number in"):
            function(INPUTS[:, 0], LABELS, -1.0)
    with pytest.raises(ValueError, match="max_updates: expected an integer >= 1"):
        event_driven_perceptron(INPUTS, LABELS, 0.5, 0.0, GENERATOR, max_updates=0)
