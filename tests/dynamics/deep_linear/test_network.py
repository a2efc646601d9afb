"""The network's loss, gradients, descent and modes: second routes, and what is refused."""

import itertools
from typing import Any

import numpy as np
import pytest

from refimpl.dynamics.deep_linear import (
    connectivity_modes,
    decoupled_init,
    decoupled_weights,
    end_to_end,
    gradient_flow,
    gradient_steps,
    gradients,
    hessian_vector_product,
    loss,
    mode_energy,
    mode_flow,
    mode_strengths,
    orthogonal_init,
    train_gd,
)


def problem(widths: tuple[int, ...] = (4, 3, 6, 2), batch: tuple[int, ...] = ()) -> Any:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((*batch, n, m)) / np.sqrt(m) for m, n in itertools.pairwise(widths)]
    x, y = rng.standard_normal((widths[0], 9)), rng.standard_normal((widths[-1], 9))
    return weights, x, y


def test_the_loss_is_that_of_the_examples() -> None:
    weights, x, y = problem()
    residual = y - end_to_end(weights) @ x
    np.testing.assert_allclose(loss(weights, x @ x.T, y @ x.T, float(np.sum(y * y))), np.sum(residual**2) / 2)


def test_batches_are_networks_side_by_side() -> None:
    weights, x, y = problem(batch=(2, 3))
    together = gradients(weights, x @ x.T, y @ x.T)
    product = hessian_vector_product(weights, together, x @ x.T, y @ x.T)
    losses = loss(weights, x @ x.T, y @ x.T, 1.0)
    for index in np.ndindex(2, 3):
        one = [weight[index] for weight in weights]
        alone = gradients(one, x @ x.T, y @ x.T)
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[index], b, atol=1e-13)
        for a, b in zip(product, hessian_vector_product(one, alone, x @ x.T, y @ x.T), strict=True):
            np.testing.assert_allclose(a[index], b, atol=1e-11)
        np.testing.assert_allclose(losses[index], loss(one, x @ x.T, y @ x.T, 1.0))


def test_the_hessian_is_the_gradients_derivative() -> None:
    weights, x, y = problem()
    rng = np.random.default_rng(1)
    direction = [rng.standard_normal(weight.shape) for weight in weights]
    h = 1e-6
    ahead, behind = (
        gradients([w + sign * h * v for w, v in zip(weights, direction, strict=True)], x @ x.T, y @ x.T)
        for sign in (1, -1)
    )
    for found, a, b in zip(hessian_vector_product(weights, direction, x @ x.T, y @ x.T), ahead, behind, strict=True):
        np.testing.assert_allclose(found, (a - b) / (2 * h), rtol=1e-6, atol=1e-6)


def test_training_is_its_steps() -> None:
    weights, x, y = problem()
    history = train_gd(weights, x @ x.T, y @ x.T, 0.001, 4)
    steps = itertools.islice(gradient_steps(weights, x @ x.T, y @ x.T, 0.001), 4)
    for step, current in enumerate([weights, *steps]):
        for layer, weight in zip(history, current, strict=True):
            np.testing.assert_array_equal(layer[step], weight)
    assert [layer.shape for layer in train_gd(weights, x @ x.T, y @ x.T, 0.001, 0)] == [(1, 3, 4), (1, 6, 3), (1, 2, 6)]


def test_descent_with_small_steps_is_the_flow() -> None:
    weights, x, y = problem()
    sigma_11, sigma_31 = x @ x.T / 9, y @ x.T / 9
    flow = end_to_end(gradient_flow(weights, sigma_11, sigma_31, np.array([0.0, 0.5, 1.0]), tau=2))
    np.testing.assert_array_equal(flow[0], end_to_end(weights))
    # Two time constants, so half the rate; halving the step halves what is left.
    errors = [
        np.max(np.abs(end_to_end(train_gd(weights, sigma_11, sigma_31, step / 2, round(1 / step)))[-1] - flow[2]))
        for step in (0.01, 0.005)
    ]
    assert errors[0] < 0.01
    assert 1.9 < errors[0] / errors[1] < 2.1


def test_the_energy_of_modes_is_the_loss_on_white_inputs() -> None:
    rng = np.random.default_rng(2)
    for n_inputs, n_outputs in ((3, 5), (5, 3), (4, 4)):
        w21, w32 = rng.standard_normal((6, n_inputs)), rng.standard_normal((n_outputs, 6))
        sigma_31 = rng.standard_normal((n_outputs, n_inputs))
        u, s, vt = np.linalg.svd(sigma_31)
        a, b = connectivity_modes(w21, w32, u, vt.T)
        white = loss([w21, w32], np.eye(n_inputs), sigma_31, float(s @ s))
        np.testing.assert_allclose(mode_energy(a, b, s), white)
        slopes = gradients([w21, w32], np.eye(n_inputs), sigma_31)
        to_a, to_b = mode_flow(a, b, s)
        np.testing.assert_allclose(to_a.T, -slopes[0] @ vt.T, atol=1e-12)
        np.testing.assert_allclose(to_b, -u.T @ slopes[1], atol=1e-12)
        k = min(n_inputs, n_outputs)
        overlaps = np.sum(a[:k] * b[:k], axis=1)
        np.testing.assert_allclose(mode_strengths([w21, w32], u[:, :k], vt[:k].T), overlaps)


@pytest.mark.parametrize("sizes", [(4, 6), (4, 2, 6), (4, 9, 3, 6)])
def test_a_decoupled_start_is_diagonal_in_the_singular_vectors(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    sigma_31 = rng.standard_normal((6, 4))
    u, _, vt = np.linalg.svd(sigma_31)
    weights = decoupled_init(sigma_31, sizes, 0.02, rng)
    assert [weight.shape for weight in weights] == list(zip(sizes[1:], sizes[:-1], strict=True))
    wanted = np.zeros((6, 4))
    wanted[range(min(sizes)), range(min(sizes))] = 0.02
    np.testing.assert_allclose(u.T @ end_to_end(weights) @ vt.T, wanted, atol=1e-15)
    some = decoupled_init(sigma_31, sizes, np.array([0.5, 0.1]), rng)
    np.testing.assert_allclose(mode_strengths(some, u[:, :2], vt[:2].T), [0.5, 0.1])


def test_float32_is_kept() -> None:
    weights, x, y = problem()
    weights = [weight.astype(np.float32) for weight in weights]
    sigma_11, sigma_31 = (x @ x.T).astype(np.float32), (y @ x.T).astype(np.float32)
    outputs = [
        loss(weights, sigma_11, sigma_31, 2.0),
        end_to_end(weights),
        *gradients(weights, sigma_11, sigma_31),
        *hessian_vector_product(weights, weights, sigma_11, sigma_31),
        *train_gd(weights, sigma_11, sigma_31, 0.01, 2),
        *mode_flow(weights[0], weights[0], np.ones(2, np.float32)),
        mode_energy(weights[0], weights[0], np.ones(2, np.float32)),
        mode_strengths(weights, np.ones((2, 1), np.float32), np.ones((4, 1), np.float32)),
        *decoupled_init(sigma_31, (4, 3, 2), 0.1, np.random.default_rng(0)),
    ]
    assert {output.dtype for output in outputs} == {np.dtype(np.float32)}


ONE, TWO = np.eye(2), np.array([[1.0, 2.0], [0.0, 1.0]])
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: end_to_end([]), "weights: expected a list of at least one matrix"),
        (lambda: end_to_end(ONE), "weights: expected a list of at least one matrix"),
        (lambda: end_to_end([np.ones(2)]), r"weights\[0\]: expected shape"),
        (lambda: end_to_end([np.ones((2, 3)), np.ones((2, 3))]), r"weights\[1\]: expected n_1 2"),
        (lambda: end_to_end([np.full((2, 2), np.nan)]), r"weights\[0\]: expected finite entries"),
        (lambda: gradients([ONE], TWO, ONE), "sigma_11: expected a symmetric matrix"),
        (lambda: gradients([ONE], ONE, np.ones((3, 2))), r"sigma_31: expected shape \(2, 2\)"),
        (lambda: loss([ONE], ONE, ONE, -1.0), "trace_yy: expected a number in"),
        (
            lambda: hessian_vector_product([ONE], [np.ones((2, 3))], ONE, ONE),
            "directions: expected the weights' shapes",
        ),
        (lambda: gradient_steps([ONE], ONE, ONE, 0.0), "learning_rate: expected a number in"),
        (lambda: train_gd([ONE], ONE, ONE, -0.1, 1), "learning_rate: expected a number in"),
        (lambda: train_gd([ONE], ONE, ONE, 0.1, -1), "n_steps: expected an integer >= 0"),
        (lambda: gradient_flow([ONE], ONE, ONE, np.array([1.0, 0.5])), "times: expected an increasing vector"),
        (lambda: gradient_flow([ONE], ONE, ONE, np.array([0.0, 1.0]), tau=0), "tau: expected a number in"),
        (lambda: connectivity_modes(ONE, np.ones((3, 2)), ONE, ONE), "u: expected n_3 3"),
        (lambda: mode_flow(ONE, ONE, np.ones(3)), "strengths: expected at most 2"),
        (lambda: mode_strengths([ONE], np.ones((3, 1)), np.ones((2, 1))), "u: expected 2 rows"),
        (lambda: decoupled_weights([ONE], np.ones((1, 1))), "rotations: expected a list of at least two"),
        (lambda: decoupled_weights([ONE, ONE], np.ones((1, 3))), "strengths: expected at most 2 modes"),
        (lambda: decoupled_init(ONE, (2, 1, 2), np.ones(2), RNG), "mode_strength: expected 1 to 1 modes"),
        (lambda: decoupled_init(ONE, (2, 2), 0.0, RNG), "mode_strength: expected numbers > 0"),
        (lambda: decoupled_init(ONE, (2, 3), 0.1, RNG), r"sigma_31: expected shape \(3, 2\)"),
        (lambda: decoupled_init(ONE, (2,), 0.1, RNG), "layer_sizes: expected at least two"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_unequal_factors_multiply() -> None:
    turns = [orthogonal_init((n, n), RNG) for n in (3, 4, 2)]
    weights = decoupled_weights(turns, np.array([[2.0, 3.0], [5.0, 7.0]]))
    np.testing.assert_allclose(turns[2].T @ end_to_end(weights) @ turns[0], [[10, 0, 0], [0, 21, 0]], atol=1e-13)
