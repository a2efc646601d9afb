"""The linear student by second routes, its precision, and what it refuses."""

from typing import Any

import numpy as np
import pytest

from refimpl.dynamics.high_dimensional import (
    displacement_norm,
    frozen_projector,
    gradient_descent_weights,
    gradient_flow_weights,
    input_eigenvalues,
    largest_learning_rate,
    student_loss,
    student_loss_vjp,
)
from refimpl.dynamics.high_dimensional.linear import descent_filter
from refimpl.oracle.spec import examples, find_spec
from refimpl.primitives.least_squares import ols_weights
from refimpl.tasks.teacher_student import LinearProblems, sample_linear_problems


def sampled(n_inputs: int, n_examples: int, n_problems: int = 3) -> LinearProblems:
    return sample_linear_problems(n_problems, n_inputs, n_examples, 1.0, 0.5, 0.3, np.random.default_rng(0))


@pytest.mark.parametrize(("n_inputs", "n_examples"), [(8, 5), (6, 6), (5, 8)])
def test_the_flow_solves_its_equation(n_inputs: int, n_examples: int) -> None:
    problems = sampled(n_inputs, n_examples)
    tau, step = 2.0, 1e-4
    around = gradient_flow_weights(problems.x, problems.y, problems.initial, np.array([1 - step, 1.0, 1 + step]), tau)
    _, pull = student_loss_vjp(around[1], problems.x, problems.y)
    descent = -pull(np.ones(3))[0]
    np.testing.assert_allclose(tau * (around[2] - around[0]) / (2 * step), descent, atol=1e-6)


def test_the_flow_is_the_matrix_exponential() -> None:
    """By the eigenvectors of the correlation, the other decomposition."""
    problems = sampled(8, 5)
    for index in range(3):
        x, y, initial = problems.x[index], problems.y[index], problems.initial[index]
        values, vectors = np.linalg.eigh(x @ x.T)
        values = np.maximum(values, 0)
        for t in (0.0, 0.7, 30.0):
            decay = np.exp(-values * t)
            gain = np.where(values > 1e-12, (1 - decay) / np.where(values > 1e-12, values, 1), t)
            expected = vectors @ (decay * (initial @ vectors) + gain * ((y @ x.T) @ vectors))
            np.testing.assert_allclose(gradient_flow_weights(x, y, initial, t), expected, atol=1e-11)


def test_late_times_reach_least_squares() -> None:
    problems = sampled(6, 20)
    reached = gradient_flow_weights(problems.x, problems.y, problems.initial, 1e6)
    np.testing.assert_allclose(reached, ols_weights(np.swapaxes(problems.x, -1, -2), problems.y), atol=1e-12)
    few = sampled(20, 6)
    fitted = gradient_flow_weights(few.x, few.y, few.initial, 1e6)
    np.testing.assert_allclose((fitted[:, None] @ few.x)[:, 0], few.y, atol=1e-12)


def test_descent_steps_are_the_filter_of_any_eigenvalue() -> None:
    eigenvalues = np.array([0.0, 1e-12, 0.3, 1.0, 1.9])
    for n_steps in (0, 1, 2, 7, 1000):
        shrunk = np.ones(5, dtype=np.longdouble)
        for _ in range(n_steps):
            shrunk = shrunk * (1 - eigenvalues.astype(np.longdouble))
        expected = np.asarray(1 - shrunk, float)
        np.testing.assert_allclose(descent_filter(eigenvalues, 1.0, n_steps)[2:], expected[2:], rtol=1e-13)
        assert descent_filter(eigenvalues, 1.0, n_steps)[1] == pytest.approx(n_steps * 1e-12, rel=1e-8)


def test_times_have_axes_of_their_own() -> None:
    problems = sampled(5, 4)
    t = np.array([[0.1, 1.0], [2.0, 3.0]])
    together = gradient_flow_weights(problems.x, problems.y, problems.initial, t)
    assert together.shape == (2, 2, 3, 5)
    for index in np.ndindex(2, 2):
        one = gradient_flow_weights(problems.x, problems.y, problems.initial, float(t[index]))
        np.testing.assert_array_equal(together[index], one)
    alone = gradient_flow_weights(problems.x[1], problems.y[1], problems.initial[1], t)
    np.testing.assert_allclose(alone, together[:, :, 1], atol=1e-14)


def test_displacement_never_falls() -> None:
    for arguments in examples(find_spec("high_dimensional/displacement_norm"), 60, 3):
        t = np.geomspace(1e-2, 1e6, 40)
        norms = displacement_norm(**arguments | {"t": t})
        assert np.all(np.diff(norms, axis=0) >= -1e-14 * (1 + norms[1:]))


def test_zero_modes_are_found_by_rank_and_not_by_size() -> None:
    problems = sampled(9, 4)
    for scale in (1e-6, 1.0, 1e6):
        values = input_eigenvalues(scale * problems.x)
        assert np.all(np.sum(values == 0, axis=-1) == 5)
        np.testing.assert_allclose(values, scale**2 * input_eigenvalues(problems.x), rtol=1e-12)
    repeated = np.repeat(problems.x[..., :2], 3, axis=-1)
    assert np.all(np.sum(input_eigenvalues(repeated) == 0, axis=-1) == 7)
    np.testing.assert_allclose(np.trace(frozen_projector(repeated), axis1=-2, axis2=-1), 7, atol=1e-12)


def test_the_projector_is_one() -> None:
    for arguments in examples(find_spec("high_dimensional/frozen_projector"), 40, 1):
        projector, x = frozen_projector(**arguments), arguments["x"]
        np.testing.assert_allclose(projector @ projector, projector, atol=1e-12)
        np.testing.assert_allclose(projector @ x, 0, atol=1e-12 * (1 + np.max(np.abs(x))))


def test_loss_and_its_gradient_agree_with_the_ridge_equations() -> None:
    problems = sampled(6, 9)
    x = problems.x[0]
    weights = np.linalg.solve(x @ x.T + 0.7 * np.eye(6), x @ problems.y[0])
    loss, pull = student_loss_vjp(weights, x, problems.y[0], 0.7)
    np.testing.assert_allclose(pull(np.ones(()))[0], 0, atol=1e-13)
    assert loss == student_loss(weights, x, problems.y[0], 0.7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype: Any) -> None:
    x, y, _, initial = (array.astype(dtype) for array in sampled(6, 4))
    t = np.array([0.0, 1.0, 1e6])
    outputs = [
        gradient_flow_weights(x, y, initial, t),
        gradient_flow_weights(x, y, initial, 3.0, 2.0),
        gradient_descent_weights(x, y, initial, 0.1, 7),
        displacement_norm(x, y, initial, t),
        frozen_projector(x),
        input_eigenvalues(x),
        largest_learning_rate(x),
        student_loss(initial, x, y, 0.5),
    ]
    assert {output.dtype for output in outputs} == {np.dtype(dtype)}


X, Y, W = np.eye(3)[:, :2], np.ones(2), np.ones(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gradient_flow_weights(X, np.ones(3), W, 1.0), "y: expected n_examples 2"),
        (lambda: gradient_flow_weights(X, Y, np.ones(2), 1.0), "initial: expected n_inputs 3"),
        (lambda: gradient_flow_weights(X * np.nan, Y, W, 1.0), "x: expected finite entries"),
        (lambda: gradient_flow_weights(X, Y, W, -1.0), "t: expected times >= 0"),
        (lambda: gradient_flow_weights(X, Y, W, np.inf), "t: expected finite entries"),
        (lambda: gradient_flow_weights(X, Y, W, 1), "t: expected a floating-point array"),
        (lambda: gradient_flow_weights(X, Y, W, 1.0, 0.0), "tau: expected a number in"),
        (lambda: gradient_flow_weights(np.ones((3, 0)), np.ones(0), W, 1.0), "x: expected n_examples >= 1"),
        (lambda: gradient_descent_weights(X, Y, W, 2.0, 1), "learning_rate: expected below 2 / largest eigenvalue"),
        (lambda: gradient_descent_weights(X, Y, W, 0.0, 1), "learning_rate: expected a number in"),
        (lambda: gradient_descent_weights(X, Y, W, 0.1, -1), "n_steps: expected an integer >= 0"),
        (lambda: student_loss(W, X, Y, -1.0), "penalty: expected a number in"),
        (lambda: student_loss(np.ones(2), X, Y), "x: expected n_inputs 2"),
        (lambda: frozen_projector(np.ones(3)), "x: expected shape"),
        (lambda: displacement_norm(X, Y, W, -1.0), "t: expected times >= 0"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_inputs_that_are_zero_move_nothing() -> None:
    zero = np.zeros((3, 2))
    np.testing.assert_array_equal(gradient_flow_weights(zero, Y, W, 1e6), W)
    np.testing.assert_array_equal(gradient_descent_weights(zero, Y, W, 5.0, 10), W)
    assert largest_learning_rate(zero) == np.inf
