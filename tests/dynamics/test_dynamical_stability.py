"""Dynamical stability: second routes to the same values, special cases in closed form, what is refused, dtypes."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from refimpl.dynamics.dynamical_stability import (
    DiagonalNet,
    DiagonalSettings,
    ReluNet,
    ReluSettings,
    alignment_factor,
    balance_ratio,
    critical_learning_rate,
    diagonal_net,
    diagonal_net_jacobian,
    diagonal_net_vjp,
    diagonal_norm_bound,
    diagonal_step,
    expected_loss_after_step,
    fisher_kernel,
    frobenius_bound,
    gd_critical_learning_rate,
    gd_path_norm_bound,
    gd_stable_but_sgd_unstable,
    l1_supremum,
    linearized_sgd_step,
    mean_activation,
    necessary_stability_margin,
    net_of_ratio,
    path_norm,
    population_error,
    population_fisher,
    population_operator_norm_bounds,
    population_trace,
    rademacher_l1,
    rayleigh_learning_rate,
    relu_step,
    residual_sgd_step,
    run_balancing_experiment,
    run_diagonal_experiment,
    run_relu_experiment,
    second_moment_operator,
    second_moment_step,
    sgd_path_norm_bound,
    sharpness,
    span_coordinates,
    stability_radius,
    sufficient_learning_rate,
    trace_bound,
    two_layer_relu,
    two_layer_relu_jacobian,
    two_layer_relu_vjp,
)
from refimpl.dynamics.dynamical_stability.diagonal_net import diagonal_single_steps
from refimpl.dynamics.dynamical_stability.experiments import sample_sphere, train
from refimpl.dynamics.dynamical_stability.relu_net import relu_single_steps
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.dynamics.dynamical_stability import gradients, gradients_and_batch
from refimpl.oracle.specs.dynamics.dynamical_stability.models import diagonal_nets, relu_nets
from refimpl.primitives.losses import squared_error

each_input = settings(max_examples=40, deadline=None, derandomize=True)


def sample(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


# --- sharpness ---


@each_input
@given(gradients(20))
def test_sharpness_is_that_of_the_matrix(jacobian: Any) -> None:
    fisher = jacobian.T @ jacobian / len(jacobian)
    found = sharpness(jacobian)
    np.testing.assert_allclose(found.trace, np.trace(fisher), rtol=1e-12)
    np.testing.assert_allclose(found.frobenius, np.linalg.norm(fisher), rtol=1e-12)
    np.testing.assert_allclose(found.operator_norm, np.linalg.norm(fisher, 2), rtol=1e-12)
    assert found.operator_norm <= found.frobenius * (1 + 1e-12) <= found.trace * (1 + 2e-12)


# --- stability ---


@each_input
@given(gradients_and_batch())
def test_critical_rate_by_the_generalised_eigenproblem(arguments: Arguments) -> None:
    jacobian, size = arguments["jacobian"], arguments["batch_size"]
    x = span_coordinates(jacobian)
    n, rank = x.shape
    fisher, identity = x.T @ x / n, np.eye(rank)
    squares = np.array([np.outer(g, g).reshape(-1) for g in x])
    fourth = np.einsum("na,nb->ab", squares, squares) / n
    form = (1 - 1 / size) * np.kron(fisher, fisher) + fourth / size
    both = np.kron(fisher, identity) + np.kron(identity, fisher)
    expected = 1 / linalg.eigh(form, both, eigvals_only=True)[-1]
    # Of a pencil whose second matrix has the condition number of G.
    allowed = 1e-14 * np.linalg.cond(fisher) + 1e-12
    np.testing.assert_allclose(critical_learning_rate(jacobian, size), expected, rtol=allowed)


@each_input
@given(gradients_and_batch())
def test_critical_rate_is_where_the_radius_passes_one(arguments: Arguments) -> None:
    critical = float(critical_learning_rate(**arguments))
    size = arguments["batch_size"]
    assert float(stability_radius(arguments["jacobian"], critical, size)) <= 1 + 1e-10
    assert float(stability_radius(arguments["jacobian"], critical * 1.01, size)) > 1 - 1e-12


@each_input
@given(gradients_and_batch(5), st.sampled_from((0.3, 1.0, 1.5)))
def test_radius_is_that_of_the_kronecker_matrix(arguments: Arguments, factor: float) -> None:
    jacobian, size = arguments["jacobian"], arguments["batch_size"]
    rate = factor * float(critical_learning_rate(**arguments))
    operator = second_moment_operator(span_coordinates(jacobian), rate, size)
    np.testing.assert_allclose(operator, operator.T, atol=1e-13 * np.abs(operator).max())
    expected = np.max(np.abs(np.linalg.eigvals(operator)))
    np.testing.assert_allclose(stability_radius(jacobian, rate, size), expected, rtol=1e-10)


@each_input
@given(gradients_and_batch(), st.integers(0, 99))
def test_operator_is_the_step(arguments: Arguments, seed: int) -> None:
    jacobian = arguments["jacobian"]
    covariance = sample(seed, jacobian.shape[1], jacobian.shape[1])
    rate = 1 / float(sharpness(jacobian).trace)
    moved = second_moment_operator(jacobian, rate, arguments["batch_size"]) @ covariance.reshape(-1)
    step = second_moment_step(covariance, jacobian, rate, arguments["batch_size"])
    np.testing.assert_allclose(moved, step.reshape(-1), atol=1e-11 * np.abs(covariance).max())


def test_directions_outside_the_span_stay() -> None:
    jacobian = np.array([[1.0, 0.0], [2.0, 0.0]])
    values = np.linalg.eigvalsh(second_moment_operator(jacobian, 0.1, 1))
    assert values[-1] == pytest.approx(1)
    assert stability_radius(jacobian, 0.1) < 1


def test_orthogonal_gradients_decouple() -> None:
    squares = np.array([1.0, 4, 0.5])
    jacobian = np.diag(np.sqrt(squares))
    assert critical_learning_rate(jacobian) == pytest.approx(2 / 4)
    rate = 0.3
    multipliers = 1 - (2 * rate * squares - rate**2 * squares**2) / 3
    cross = (1 - rate * squares[:, None] / 3) * (1 - rate * squares / 3) - rate**2 * squares[:, None] * squares / 9
    off = cross[~np.eye(3, dtype=bool)]
    assert stability_radius(jacobian, rate) == pytest.approx(max(multipliers.max(), off.max()))


@pytest.mark.parametrize("batch_size", [1, 2, 7, 1000])
def test_parallel_gradients_saturate_the_bound(batch_size: int) -> None:
    jacobian = np.array([[1.0], [2.0], [0.3]]) @ np.array([[0.6, 0.8]])
    squares = (jacobian**2).sum(axis=1)
    mean, square = squares.mean(), (squares**2).mean()
    expected = 2 * mean / ((1 - 1 / batch_size) * mean**2 + square / batch_size)
    assert critical_learning_rate(jacobian, batch_size) == pytest.approx(expected, rel=1e-12)
    assert trace_bound(jacobian, batch_size) == pytest.approx(expected, rel=1e-12)


def test_of_one_example_sgd_is_gradient_descent() -> None:
    jacobian = sample(0, 1, 5)
    expected = 2 / np.sum(jacobian**2)
    assert critical_learning_rate(jacobian) == pytest.approx(expected)
    assert gd_critical_learning_rate(jacobian) == pytest.approx(expected)
    assert sufficient_learning_rate(jacobian) == pytest.approx(expected)


def test_critical_rate_grows_with_the_batch_to_that_of_gradient_descent() -> None:
    jacobian = sample(1, 6, 4) * np.exp(sample(2, 6, 1))
    rates = [float(critical_learning_rate(jacobian, size)) for size in (1, 2, 3, 8, 64, 10**9)]
    assert np.all(np.diff(rates) > 0)
    assert rates[-1] == pytest.approx(float(gd_critical_learning_rate(jacobian)), rel=1e-6)


def test_many_examples_and_parameters() -> None:
    """At sizes at which the operator could not be built the bounds still surround the rate, and a quotient attains "
    "it."""
    jacobian = sample(0, 80, 400) * np.exp(sample(1, 80, 1) / 2)
    for size in (1, 4):
        rate = critical_learning_rate(jacobian, size)
        assert sufficient_learning_rate(jacobian, size) <= rate <= trace_bound(jacobian, size)
        assert rate <= gd_critical_learning_rate(jacobian)


@each_input
@given(gradients_and_batch(), st.integers(0, 99))
def test_every_quotient_is_a_bound(arguments: Arguments, seed: int) -> None:
    p = arguments["jacobian"].shape[1]
    root = sample(seed, p, p)
    bound = rayleigh_learning_rate(root @ root.T, **arguments)
    assert critical_learning_rate(**arguments) <= bound * (1 + 1e-10)
    at_identity = rayleigh_learning_rate(np.eye(p), **arguments)
    assert at_identity == pytest.approx(float(trace_bound(**arguments)), rel=1e-10)


def test_margin_vanishes_at_the_bound() -> None:
    jacobian = sample(0, 5, 3)
    rate = float(trace_bound(jacobian, 3))
    assert necessary_stability_margin(jacobian, rate, 3) == pytest.approx(0, abs=1e-12)
    assert necessary_stability_margin(jacobian, rate / 2, 3) > 0


def test_residuals_step_as_the_deviation_does() -> None:
    jacobian, deviation = sample(0, 5, 8), sample(1, 3, 8)
    batch = np.array([[0, 0], [1, 4], [2, 3]])
    moved = linearized_sgd_step(deviation, jacobian[batch], 0.1)
    residuals = residual_sgd_step(deviation @ jacobian.T, fisher_kernel(jacobian), batch, 0.1)
    np.testing.assert_allclose(residuals, moved @ jacobian.T, atol=1e-13)


# --- loss stability ---


def test_noise_of_one_example_vanishes() -> None:
    parts = expected_loss_after_step(sample(0, 1, 4), sample(1, 1), 0.2)
    assert parts.noise == pytest.approx(0, abs=1e-15)


def test_alignment_by_the_covariance() -> None:
    jacobian, residuals = sample(0, 5, 3), sample(1, 5)
    g = residuals[:, None] * jacobian
    covariance = np.cov(g.T, bias=True)
    fisher = jacobian.T @ jacobian / 5
    expected = np.trace(covariance @ fisher) / (np.mean(residuals**2) * np.sum(fisher**2))
    assert alignment_factor(jacobian, residuals) == pytest.approx(expected)
    assert frobenius_bound(expected, 0.1, 4) == pytest.approx(20 / expected**0.5)


# --- models ---


@each_input
@given(diagonal_nets(), st.integers(1, 4))
def test_diagonal_step_is_the_gradient_of_the_loss(net: DiagonalNet, n: int) -> None:
    batch = net.a.shape[:-1]
    x, y = sample(1, *batch, n, net.a.shape[-1]), sample(2, *batch, n)
    output, pullback = diagonal_net_vjp(net, x)
    gradient, _ = pullback((output - y) / n)
    moved = diagonal_step(net, x, y, 0.1)
    np.testing.assert_allclose(moved.a, net.a - 0.1 * gradient.a, atol=1e-12 * (1 + np.abs(moved.a).max()))
    np.testing.assert_allclose(moved.b, net.b - 0.1 * gradient.b, atol=1e-12 * (1 + np.abs(moved.b).max()))


@each_input
@given(relu_nets(), st.integers(1, 4))
def test_relu_step_is_the_gradient_of_the_loss(net: ReluNet, n: int) -> None:
    batch = net.a.shape[:-1]
    x, y = sample(1, *batch, n, net.w.shape[-1]), sample(2, *batch, n)
    output, pullback = two_layer_relu_vjp(net, x)
    gradient, _ = pullback((output - y) / n)
    moved = relu_step(net, x, y, 0.1)
    np.testing.assert_allclose(moved.a, net.a - 0.1 * gradient.a, atol=1e-12 * (1 + np.abs(moved.a).max()))
    np.testing.assert_allclose(moved.w, net.w - 0.1 * gradient.w, atol=1e-12 * (1 + np.abs(moved.w).max()))


def test_jacobians_are_pullbacks_of_single_examples() -> None:
    x = sample(0, 4, 3)
    diagonal, relu = DiagonalNet(*sample(1, 2, 3)), ReluNet(sample(2, 5), sample(3, 5, 3))
    for i, one in enumerate(np.eye(4)):
        to_diagonal = diagonal_net_vjp(diagonal, x)[1](one)[0]
        to_relu = two_layer_relu_vjp(relu, x)[1](one)[0]
        np.testing.assert_allclose(diagonal_net_jacobian(diagonal, x)[i], np.concatenate(to_diagonal), atol=1e-14)
        flat = np.concatenate([to_relu.a, to_relu.w.reshape(-1)])
        np.testing.assert_allclose(two_layer_relu_jacobian(relu, x)[i], flat, atol=1e-14)


def test_clipping_shortens_the_step_and_keeps_its_direction() -> None:
    x, y = sample(0, 6, 3), 100 * sample(1, 6)
    net, relu = DiagonalNet(*sample(2, 2, 3)), ReluNet(sample(3, 2), sample(4, 2, 3))
    for start, step in ((net, diagonal_step), (relu, relu_step)):
        free, clipped = step(start, x, y, 0.1), step(start, x, y, 0.1, 2.0)  # type: ignore[operator]
        long, short = (
            np.concatenate([(new - old).reshape(-1) for new, old in zip(moved, start, strict=True)])
            for moved in (free, clipped)
        )
        assert np.linalg.norm(short) == pytest.approx(0.2)
        np.testing.assert_allclose(short / 0.2, long / np.linalg.norm(long), atol=1e-12)
        same = step(start, x, y, 0.1, 1e9)  # type: ignore[operator]
        np.testing.assert_array_equal(same[0], free[0])


def test_rates_of_a_batch_are_each_networks_own() -> None:
    x, y, rates = sample(0, 2, 4, 3), sample(1, 2, 4), np.array([0.1, 0.3])
    net, relu = DiagonalNet(sample(2, 2, 3), sample(3, 2, 3)), ReluNet(sample(4, 2, 5), sample(5, 2, 5, 3))
    together, relus = diagonal_step(net, x, y, rates, 5.0), relu_step(relu, x, y, rates, 5.0)
    for k in range(2):
        alone = diagonal_step(DiagonalNet(net.a[k], net.b[k]), x[k], y[k], float(rates[k]), 5.0)
        np.testing.assert_allclose(together.a[k], alone.a, atol=1e-14)
        relu_alone = relu_step(ReluNet(relu.a[k], relu.w[k]), x[k], y[k], float(rates[k]), 5.0)
        np.testing.assert_allclose(relus.w[k], relu_alone.w, atol=1e-14)


def test_population_fisher_of_parallel_and_opposite_weights() -> None:
    """Angles of 0 and pi, where the closed form divides zero by zero."""
    w = np.array([[1.0, 2, 0], [2.0, 4, 0], [-1.0, -2, 0]])
    net = ReluNet(np.array([1.0, -0.5, 2]), w)
    fisher = population_fisher(net)
    expected = np.zeros((12, 12))
    lengths, units = np.linalg.norm(w, axis=1), w / np.linalg.norm(w, axis=1, keepdims=True)
    for j in range(3):
        for k in range(3):
            if units[j] @ units[k] > 0:  # half of all inputs are seen by both; else none
                rows, columns = slice(3 + 3 * j, 6 + 3 * j), slice(3 + 3 * k, 6 + 3 * k)
                expected[j, k] = lengths[j] * lengths[k] / 2
                expected[j, columns] = net.a[k] * lengths[j] * units[j] / 2
                expected[columns, j] = expected[j, columns]
                expected[rows, columns] = net.a[j] * net.a[k] * np.eye(3) / 2
    np.testing.assert_allclose(fisher, expected, atol=1e-8)


def test_population_error_of_a_network_and_itself() -> None:
    net = ReluNet(sample(0, 4), sample(1, 4, 6))
    assert population_error(net, net) == pytest.approx(0, abs=1e-13)
    silent = ReluNet(np.zeros(1), np.ones((1, 6)))
    np.testing.assert_allclose(population_error(net, silent), net.a @ population_fisher(net)[:4, :4] @ net.a)


def test_mean_activation_at_its_ends() -> None:
    assert mean_activation(1) == pytest.approx(0.5)
    assert mean_activation(10**6) == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-6)
    assert sgd_path_norm_bound(0.1, 25) == pytest.approx(4)
    assert gd_path_norm_bound(0.1, 10**6) == pytest.approx(20 * math.pi, rel=1e-5)
    assert diagonal_norm_bound(0.1, 1 / 3) == pytest.approx(30)


def test_single_precision_is_kept() -> None:
    f = np.float32
    jacobian, x = sample(0, 5, 3).astype(f), sample(1, 5, 3).astype(f)
    net, relu = DiagonalNet(*sample(2, 2, 3).astype(f)), ReluNet(sample(3, 4).astype(f), sample(4, 4, 3).astype(f))
    y, identity = sample(5, 5).astype(f), np.eye(3, dtype=f)
    outputs = [
        *sharpness(jacobian),
        linearized_sgd_step(x[0], jacobian, 0.1),
        second_moment_step(identity, jacobian, 0.1, 2),
        second_moment_operator(jacobian, 0.1, 2),
        stability_radius(jacobian, 0.1, 2),
        critical_learning_rate(jacobian, 2),
        gd_critical_learning_rate(jacobian),
        trace_bound(jacobian, 2),
        sufficient_learning_rate(jacobian, 2),
        necessary_stability_margin(jacobian, 0.1, 2),
        rayleigh_learning_rate(identity, jacobian, 2),
        alignment_factor(jacobian, y),
        *expected_loss_after_step(jacobian, y, 0.1, 2),
        diagonal_net(net, x),
        *diagonal_step(net, x, y, 0.1, 1.0),
        balance_ratio(net),
        net_of_ratio(net.a, np.ones(3, f), 2.0).b,
        two_layer_relu(relu, x),
        *relu_step(relu, x, y, 0.1, 1.0),
        path_norm(relu),
        population_trace(relu),
        *population_operator_norm_bounds(relu),
        population_fisher(relu),
        population_error(relu, relu),
        rademacher_l1(x, 2.0),
        l1_supremum(x, np.ones(5, f)),
    ]
    assert {output.dtype for output in outputs} == {np.dtype(f)}


# --- experiments ---


def test_training_without_noise_is_the_step_repeated() -> None:
    x, y, net = sample(0, 4, 3), sample(1, 4), DiagonalNet(*sample(2, 2, 3))
    expected = net
    for _ in range(5):
        expected = diagonal_step(expected, x, y, 0.05)
    trained = train(net, x, y, 0.05, 5)
    np.testing.assert_array_equal(trained.a, expected.a)


def test_single_examples_come_from_each_runs_own_data() -> None:
    """Data sets of one example each: SGD is then gradient descent, run by run."""
    x, y = sample(0, 2, 1, 1, 3), sample(1, 2, 1, 1)
    net = DiagonalNet(sample(2, 2, 3, 3), sample(3, 2, 3, 3))
    noisy = train(net, x, y, 0.05, 5, np.random.default_rng(0))
    plain = train(net, x, y, 0.05, 5)
    np.testing.assert_allclose(noisy.a, plain.a, atol=1e-14)


@pytest.mark.parametrize("max_norm", [None, 0.5])
@pytest.mark.parametrize("rate", [0.05, np.array([0.02, 0.05, 0.08, 0.02, 0.05])])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_single_steps_are_the_step_on_one_example(max_norm: float | None, rate: Any, dtype: Any) -> None:
    rng, runs = np.random.default_rng(3), 5
    x, y = sample(0, 7, 3).astype(dtype), sample(1, 7).astype(dtype)
    places = rng.integers(7, size=(40, runs))
    rate = np.asarray(rate, dtype)[()]
    net = DiagonalNet(*sample(2, 2, runs, 3).astype(dtype))
    relu = ReluNet(sample(3, runs, 4).astype(dtype) / 2, sample(4, runs, 4, 3).astype(dtype) / 2)
    found = (
        diagonal_single_steps(net, x, y, places, rate, max_norm),
        relu_single_steps(relu, x, y, places, rate, max_norm),
    )
    for chosen in places:
        net = diagonal_step(net, x[chosen][:, None], y[chosen][:, None], rate, max_norm)
        relu = relu_step(relu, x[chosen][:, None], y[chosen][:, None], rate, max_norm)
    tolerance = 1e3 * np.finfo(dtype).eps
    for one, other in zip((*found[0], *found[1]), (*net, *relu), strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_experiments_measure_what_they_trained() -> None:
    small = DiagonalSettings(n=10, d=12, sgd_steps=200, gd_steps=200)
    for method in ("sgd", "gd"):
        found = run_diagonal_experiment(small, [0.01, 0.02], 2, np.random.default_rng(0), method)  # type: ignore[arg-type]
        assert found.test_error.shape == (2, 2)
        beta = found.net.a * found.net.b
        np.testing.assert_allclose(found.norm, np.abs(beta).sum(axis=-1))
    tiny = ReluSettings(n=10, d=4, m=6, n_teacher=2, sgd_steps=200, gd_steps=200)
    relu = run_relu_experiment(tiny, [0.01], 2, np.random.default_rng(0))
    np.testing.assert_allclose(relu.sharpness.trace, (relu.jacobian**2).sum(axis=(-2, -1)) / 10)
    inputs = sample_sphere((100_000, 4), np.random.default_rng(1))
    teacher = ReluNet(np.ones(2), sample_sphere((2, 4), np.random.default_rng(2)) / 2)
    student = ReluNet(relu.net.a[0, 0], relu.net.w[0, 0])
    errors = squared_error(two_layer_relu(student, inputs)[:, None], two_layer_relu(teacher, inputs)[:, None])
    # Five standard errors of the sample.
    assert abs(errors.mean() - population_error(student, teacher)) < 5 * errors.std() / 100_000**0.5


def test_balancing_starts_where_it_is_told() -> None:
    small = DiagonalSettings(n=10, d=12)
    found = run_balancing_experiment(small, [1, 3.5], 2, 0.001, 1, np.random.default_rng(0), "gd")
    np.testing.assert_allclose(found.before, [[1, 3.5]] * 2)
    np.testing.assert_allclose(found.remaining[:, 0], 0, atol=1e-12)
    assert np.all(found.remaining[:, 1] > 0.99)


# --- bad input ---

G, NET, RELU = sample(0, 4, 3), DiagonalNet(*sample(1, 2, 3)), ReluNet(sample(2, 5), sample(3, 5, 3))
X, Y, RNG = sample(4, 6, 3), sample(5, 6), np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: critical_learning_rate(np.zeros((3, 2))), "jacobian: expected an entry that is not zero"),
        (lambda: stability_radius(np.zeros((3, 2)), 0.1), "jacobian: expected an entry that is not zero"),
        (lambda: trace_bound(np.stack([G, 0 * G])), "jacobian: expected an entry that is not zero"),
        (lambda: gd_critical_learning_rate(0 * G), "jacobian: expected an entry that is not zero"),
        (lambda: rayleigh_learning_rate(0 * np.eye(3), G), "covariance: expected an entry that is not zero"),
        (lambda: alignment_factor(G, 0 * Y[:4]), "residuals: expected an entry that is not zero"),
        (lambda: balance_ratio(DiagonalNet(NET.a, 0 * NET.b)), "net: expected an entry that is not zero"),
        (lambda: population_fisher(ReluNet(RELU.a, 0 * RELU.w)), "w: expected an entry that is not zero"),
        (lambda: critical_learning_rate(G, 0), "batch_size: expected an integer >= 1, got 0"),
        (lambda: critical_learning_rate(G, 1.5), "batch_size: expected an integer >= 1, got 1.5"),
        (lambda: critical_learning_rate(G * np.nan), "jacobian: expected finite entries"),
        (lambda: critical_learning_rate(G[:0]), "jacobian: expected n >= 1"),
        (lambda: sharpness(G[:, :0]), "jacobian: expected p >= 1"),
        (lambda: stability_radius(G, 0.0), r"learning_rate: expected a number in \(0, inf\), got 0"),
        (lambda: stability_radius(G, -1.0), r"learning_rate: expected a number in \(0, inf\), got -1"),
        (lambda: stability_radius(sample(0, 70, 61), 0.1), "gradients of rank at most 60, got 61"),
        (lambda: second_moment_operator(sample(0, 2, 61), 0.1), "jacobian: expected at most 60 parameters, got 61"),
        (lambda: second_moment_step(np.eye(2), G, 0.1), "jacobian: expected p 2 as in covariance"),
        (lambda: trace_bound(G, -1), "batch_size: expected an integer >= 1, got -1"),
        (lambda: rayleigh_learning_rate(np.eye(2), G), "jacobian: expected p 2 as in covariance"),
        (lambda: necessary_stability_margin(G, 0.0), "learning_rate: expected"),
        (lambda: linearized_sgd_step(X[0], G[:, :2], 0.1), "jacobian: expected p 3 as in deviation"),
        (lambda: residual_sgd_step(Y, np.eye(6), np.array([6]), 0.1), "batch: expected examples from 0 to 5"),
        (lambda: residual_sgd_step(Y, np.eye(6), np.array([0.5]), 0.1), "batch: expected integers of shape"),
        (lambda: alignment_factor(G, Y), "residuals: expected n 4 as in jacobian"),
        (lambda: expected_loss_after_step(G, Y[:4], 0.1, 0), "batch_size: expected an integer >= 1, got 0"),
        (lambda: frobenius_bound(0.0, 0.1), "alignment: expected positive numbers, got 0"),
        (lambda: diagonal_step(NET, X, Y[:5], 0.1), "y: expected n 6 as in x"),
        (lambda: diagonal_step(NET, X, Y, 0.0), "learning_rate: expected"),
        (lambda: diagonal_step(NET, X, Y, np.array([0.1, 0.2])), "learning_rate: expected a positive number or"),
        (lambda: diagonal_step(NET, X, Y, 0.1, 0.0), "max_norm: expected"),
        (lambda: diagonal_net(NET, X[:, :2]), "x: expected d 3 as in a"),
        (lambda: net_of_ratio(NET.a, np.ones(3), 0.5), r"ratio: expected a number in \[1, inf\), got 0.5"),
        (lambda: net_of_ratio(NET.a, np.ones(3), np.array([1.0])), r"ratio: expected a number of at least 1 or \(\)"),
        (lambda: two_layer_relu(RELU, X[:, :2]), "x: expected d 3 as in w"),
        (lambda: relu_step(RELU, X, Y[:5], 0.1), "y: expected n 6 as in x"),
        (lambda: population_trace(ReluNet(RELU.a[:4], RELU.w)), "w: expected m 4 as in a"),
        (lambda: population_fisher(ReluNet(RELU.a[None], RELU.w[None])), r"a: expected shape \(m\)"),
        (lambda: mean_activation(0), r"d: expected a number in \[1, inf\), got 0"),
        (lambda: sgd_path_norm_bound(0.0, 3), "learning_rate: expected"),
        (lambda: gd_path_norm_bound(0.1, 0), "d: expected an integer >= 1, got 0"),
        (lambda: diagonal_norm_bound(0.1, 0.0), "variance: expected"),
        (lambda: rademacher_l1(X, -1.0), "norm: expected"),
        (lambda: l1_supremum(X, np.ones(5)), "signs: expected n 6 as in x"),
        (lambda: gd_stable_but_sgd_unstable(5, 5, 1.0, RNG), "n: expected an integer from 1 to 4, got 5"),
        (lambda: run_diagonal_experiment(DiagonalSettings(), [0.0], 1, RNG), "learning_rates: expected a list of pos"),
        (lambda: run_diagonal_experiment(DiagonalSettings(), [0.1], 0, RNG), "n_seeds: expected an integer >= 1"),
        (lambda: run_relu_experiment(ReluSettings(), [0.1], 1, RNG, "adam"), "method: expected 'sgd' or 'gd'"),  # type: ignore[arg-type]
        (lambda: run_balancing_experiment(DiagonalSettings(), [0.5], 1, 0.1, 1, RNG), "ratio: expected a number of at"),
    ],
)
def test_bad_input(call: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        call()
