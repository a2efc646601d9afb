"""The Hessians by several routes, and what is made of their fluctuations against enumeration."""

import itertools
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy
from hypothesis import given, settings

from refimpl.dynamics.batch_hessian import (
    batch_ggn,
    batch_hessian,
    effective_batch_size,
    exact_hessian_noise_variance,
    ggn_vector_product,
    hessian_noise_variance,
    hessian_vector_product,
    initial_perceptron,
    per_example_norms,
    per_example_products,
    rayleigh_excess,
    second_order_excess,
    softmax_output_hessians,
    softmax_regression_hessian,
)
from refimpl.oracle.spec import Arguments, symbols
from refimpl.oracle.specs.dynamics.batch_hessian.levels import labelled_networks
from refimpl.primitives.curvature import mlp_curvature, pack, unpack
from refimpl.primitives.layers import Linear, mlp_vjp
from refimpl.primitives.trees import leaves


def symbolic_network() -> tuple[list[Linear], np.ndarray, np.ndarray]:
    layers = [Linear(symbols("w", 1, 1), symbols("b", 1)), Linear(symbols("v", 2, 1), symbols("c", 2))]
    return layers, symbols("x", 1, 1), np.array([1])


def test_gradient_and_products_are_derivatives() -> None:
    """SymPy differentiates the loss once and twice; Gauss-Newton is the outputs' Jacobian around their Hessian."""
    layers, x, labels = symbolic_network()
    found = mlp_curvature(layers, x, labels)
    params = list(pack(layers))
    direction = [Linear(symbols("r", 1, 1), symbols("s", 1)), Linear(symbols("t", 2, 1), symbols("u", 2))]
    along = list(pack(direction))
    gradient = [sympy.diff(found.loss, p) for p in params]
    hessian = [sum(sympy.diff(g, p) * d for p, d in zip(params, along, strict=True)) for g in gradient]
    (w, b), (v, c) = layers
    hidden = sympy.tanh(w[0, 0] * x[0, 0] + b[0])
    outputs = sympy.Matrix([v[k, 0] * hidden + c[k] for k in range(2)])
    p = outputs.applyfunc(sympy.exp) / sum(outputs.applyfunc(sympy.exp))
    jacobian = outputs.jacobian(params)
    gauss_newton = jacobian.T * (sympy.diag(*p) - p * p.T) * jacobian * sympy.Matrix(along)
    ours = [
        *pack(found.gradient),
        *pack(found.hessian_product(direction)),
        *pack(found.gauss_newton_product(direction)),
    ]
    names = [*params, *along, x[0, 0]]
    differences = [a - b for a, b in zip(ours, [*gradient, *hessian, *gauss_newton], strict=True)]
    # Analytic in all thirteen symbols: what vanishes at random points vanishes.
    evaluate = sympy.lambdify(names, differences, "mpmath", cse=True)
    rng = np.random.default_rng(0)
    with mpmath.workdps(40):
        for point in rng.standard_normal((5, len(names))):
            assert max(abs(value) for value in evaluate(*map(mpmath.mpf, point))) < 1e-35


@settings(max_examples=30, deadline=None, derandomize=True)
@given(case=labelled_networks())
def test_matrix_is_symmetric_and_the_mean_over_any_partition(case: Arguments) -> None:
    whole = batch_hessian(**case)
    scale = 1 + np.max(np.abs(whole))
    np.testing.assert_allclose(whole, whole.T, atol=1e-13 * scale)
    n = len(case["x"])
    for cut in {1, n // 2} - {0, n}:
        first, second = (batch_hessian(**case, indices=part) for part in (range(cut), range(cut, n)))
        np.testing.assert_allclose((cut * first + (n - cut) * second) / n, whole, atol=1e-13 * scale)


def largest_slope(layers: list[Linear], x: np.ndarray, activation: str) -> float:
    """The largest derivative of an output by a parameter."""
    outputs, pullback = mlp_vjp(x, layers, activation)
    units = np.eye(outputs.size).reshape(-1, *outputs.shape)
    return max(float(np.max(np.abs(pack(pullback(unit)[1])))) for unit in units)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(case=labelled_networks())
def test_products_are_those_of_the_matrices(case: Arguments) -> None:
    rng = np.random.default_rng(0)
    size = pack(case["layers"]).size
    vector, other = rng.standard_normal((2, size))
    direction = unpack(vector, case["layers"])
    product = pack(hessian_vector_product(direction=direction, **case))
    whole = batch_hessian(**case)
    np.testing.assert_allclose(product, whole @ vector, atol=1e-12 * (1 + np.max(np.abs(whole))))
    swapped = pack(hessian_vector_product(direction=unpack(other, case["layers"]), **case))
    np.testing.assert_allclose(other @ product, vector @ swapped, atol=1e-11 * (1 + np.max(np.abs(whole))) * size)
    gauss_newton = batch_ggn(**case)
    # p - p^2 of a nearly sure output is off by the roundoff of 1, times the squares of the slopes.
    scale = 1 + largest_slope(case["layers"], case["x"], case["activation"]) ** 2
    np.testing.assert_allclose(gauss_newton, gauss_newton.T, atol=1e-13 * scale)
    assert np.linalg.eigvalsh(gauss_newton)[0] >= -1e-13 * scale * size
    product = pack(ggn_vector_product(direction=direction, **case))
    np.testing.assert_allclose(product, gauss_newton @ vector, atol=1e-12 * scale)


def softmax_case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.standard_normal((3, 4)), rng.standard_normal((9, 4)), rng.integers(3, size=9)


def test_softmax_regression_in_closed_form() -> None:
    weights, x, labels = softmax_case()
    closed = softmax_regression_hessian(weights, x)
    np.testing.assert_allclose(closed, batch_hessian([Linear(weights)], x, labels), atol=1e-14)
    single = np.stack([softmax_regression_hessian(weights, row[None]) for row in x])
    np.testing.assert_allclose(single.mean(axis=0), closed, atol=1e-14)
    outer = [np.kron(a, np.outer(row, row)) for a, row in zip(softmax_output_hessians(weights, x), x, strict=True)]
    np.testing.assert_allclose(single, outer, atol=1e-14)
    np.testing.assert_allclose(per_example_norms(weights, x), np.linalg.norm(single, axis=(1, 2)), rtol=1e-13)
    direction = np.random.default_rng(2).standard_normal(weights.shape)
    np.testing.assert_allclose(
        per_example_products(weights, x, direction).reshape(9, -1), single @ direction.reshape(-1), atol=1e-13
    )
    (by_curvature,) = hessian_vector_product([Linear(weights)], x, labels, [Linear(direction)])
    (by_ggn,) = ggn_vector_product([Linear(weights)], x, labels, [Linear(direction)])
    np.testing.assert_allclose(by_curvature.weight, by_ggn.weight, atol=1e-15)


def test_exact_variance_is_the_mean_over_the_entries() -> None:
    weights, x, _ = softmax_case()
    single = np.stack([softmax_regression_hessian(weights, row[None]) for row in x])
    found = exact_hessian_noise_variance(
        per_example_norms(weights, x), float(np.linalg.norm(single.mean(axis=0))), weights.size
    )
    assert found == pytest.approx(single.var(axis=0, ddof=1).mean(), rel=1e-12)
    assert exact_hessian_noise_variance(np.full(4, 0.3), 0.3, 5) == 0  # all examples alike, up to roundoff


def test_probed_variance_agrees_over_all_batches() -> None:
    weights, x, _ = softmax_case()
    full = softmax_regression_hessian(weights, x)
    subsets = [softmax_regression_hessian(weights, x[list(s)]) for s in itertools.combinations(range(9), 3)]
    exact = exact_hessian_noise_variance(per_example_norms(weights, x), float(np.linalg.norm(full)), 12)
    found = hessian_noise_variance(
        [h.dot for h in subsets], full.dot, 12, effective_batch_size(3, 9), 40, np.random.default_rng(3)
    )
    # 84 batches of 40 probes: a probe scatters by at most (2 tr e^4)^(1/2) / tr e^2 = 1.4, so 2.5%; four of them.
    assert found == pytest.approx(exact, rel=0.1)


def test_second_order_is_the_mean_shift_of_all_batches() -> None:
    """For fluctuations of relative size t the rest is of third order."""
    rng = np.random.default_rng(4)
    base, gaussian = np.diag([0.0, 1.0, 1.5, 4.0]), rng.standard_normal((7, 4, 4))
    rest = []
    for t in (1e-2, 1e-3):
        hessians = base + t * (gaussian + gaussian.transpose(0, 2, 1))
        values, vectors = np.linalg.eigh(hessians.mean(axis=0))
        c = second_order_excess(hessians @ vectors[:, -1], values, vectors)
        tops = [np.linalg.eigvalsh(hessians[list(s)].mean(axis=0))[-1] for s in itertools.combinations(range(7), 3)]
        shift = np.mean(tops) - values[-1]
        rest.append(abs(shift * effective_batch_size(3, 7) / c - 1))
    assert rest[0] < 0.1
    assert rest[1] < 0.2 * rest[0]


def test_second_order_of_independent_entries() -> None:
    r"""$(P-1)\sigma^2/\lambda_1$ over a bulk at 0; 40000 examples know a variance to 0.7%, four of them to 0.35%."""
    noise = 0.3 * np.random.default_rng(5).standard_normal((40000, 5))
    assert second_order_excess(noise, np.array([0, 0, 0, 0, 2.0]), np.eye(5)) == pytest.approx(4 * 0.09 / 2, rel=0.02)


def test_rayleigh_excess_is_zero_on_the_full_data() -> None:
    weights, x, _ = softmax_case()
    values, vectors = np.linalg.eigh(softmax_regression_hessian(weights, x))
    batch = softmax_regression_hessian(weights, x[:4])
    u1 = vectors[:, -1]
    excess = rayleigh_excess(
        np.array([values[-1], np.linalg.eigvalsh(batch)[-1]]), np.stack([values[-1] * u1, batch @ u1]), u1
    )
    assert excess[0] == pytest.approx(0, abs=1e-14)
    assert excess[1] > 0


def test_float32_is_kept() -> None:
    weights, x, labels = softmax_case()
    weights, x = weights.astype(np.float32), x.astype(np.float32)
    layers = [Linear(weights)]
    outputs: list[Any] = [
        batch_hessian(layers, x, labels),
        softmax_regression_hessian(weights, x),
        softmax_output_hessians(weights, x),
        per_example_products(weights, x, weights),
        per_example_norms(weights, x),
        *leaves(hessian_vector_product(layers, x, labels, layers)),
        *leaves(ggn_vector_product(layers, x, labels, layers)),
        exact_hessian_noise_variance(per_example_norms(weights, x), 0.1, 12),
        second_order_excess(*(a.astype(np.float32) for a in (np.ones((3, 2)), np.arange(2.0), np.eye(2)))),
    ]
    assert {np.asarray(output).dtype for output in outputs} == {np.dtype(np.float32)}


X, LABELS = np.ones((3, 2)), np.array([0, 1, 1])
LAYERS = [Linear(np.ones((2, 2)))]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hessian_vector_product(LAYERS, X, np.eye(2)[LABELS], LAYERS), "targets: expected integer labels"),
        (lambda: ggn_vector_product(LAYERS, X, LABELS + 1, LAYERS), "targets: expected classes from 0 to 1"),
        (lambda: hessian_vector_product(LAYERS, X * np.inf, LABELS, LAYERS), "x: expected finite entries"),
        (lambda: hessian_vector_product(LAYERS, X, LABELS, LAYERS * 2), "direction: expected 1 layers"),
        (lambda: hessian_vector_product(LAYERS, X, LABELS, [Linear(np.ones((2, 3)))]), r"direction\[0\].weight: expe"),
        (lambda: hessian_vector_product(LAYERS, X, LABELS, [Linear(X[:2], X[0])]), r"direction\[0\].bias: expected an"),
        (lambda: hessian_vector_product(LAYERS, X, LABELS, LAYERS, "sine"), "activation: expected one of"),
        (lambda: hessian_vector_product(LAYERS, X, LABELS, LAYERS, indices=[]), "indices: expected a vector of int"),
        (lambda: batch_hessian(LAYERS, X, LABELS, indices=[0, 3]), "indices: expected different examples"),
        (lambda: batch_hessian(LAYERS, X, LABELS, indices=[1, 1]), "indices: expected different examples"),
        (lambda: batch_hessian(LAYERS, X, LABELS, indices=[0.5]), "indices: expected a vector of integers"),
        (
            lambda: batch_hessian(initial_perceptron(np.random.default_rng(0)), np.ones((2, 64)), LABELS[:2]),
            "at most 2000 parameters for a matrix, got 2410",
        ),
        (lambda: softmax_regression_hessian(np.ones((2, 3)), X), "inputs: expected n_inputs 3"),
        (lambda: per_example_products(np.ones((2, 2)), X, np.ones((2, 1))), "direction: expected shape"),
        (lambda: exact_hessian_noise_variance(np.ones(1), 1.0, 2), "at least two examples"),
        (lambda: exact_hessian_noise_variance(np.ones(3), 1.1, 2), "full_norm: expected at most the root mean square"),
        (lambda: exact_hessian_noise_variance(np.ones(3), 1.0, 0), "n_params: expected an integer >= 1"),
        (lambda: hessian_noise_variance([], abs, 2, 1.0, 1, np.random.default_rng(0)), "at least one batch"),
        (lambda: hessian_noise_variance([abs], abs, 2, 0.0, 1, np.random.default_rng(0)), "effective_batch: expected"),
        (lambda: hessian_noise_variance([abs], abs, 2, 1.0, 0, np.random.default_rng(0)), "n_probes: expected an int"),
        (lambda: second_order_excess(np.ones((1, 2)), np.arange(2.0), np.eye(2)), "at least two examples"),
        (lambda: second_order_excess(X, np.array([1.0, 1.0]), np.eye(2)), "eigenvalues: expected ascending"),
        (lambda: second_order_excess(X, np.array([1.0, 0.0]), np.eye(2)), "eigenvalues: expected ascending"),
        (lambda: rayleigh_excess(1.0, np.ones(2), np.ones(2)), "u1: expected a vector of length 1"),
        (lambda: rayleigh_excess(np.ones(3), np.ones((4, 2)), np.eye(2)[0]), "batch_product_u1: expected batch axes"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
