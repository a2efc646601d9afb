"""Curvature products against derivatives of the gradient, against matrices, and against one another."""

import itertools

import numpy as np
import pytest

from refimpl.primitives.curvature import (
    CROSS_ENTROPY,
    HALF_SQUARED_ERROR,
    mlp_curvature,
    pack,
    per_example_gradients,
    unpack,
)
from refimpl.primitives.layers import Linear, mlp_vjp
from refimpl.primitives.losses import cross_entropy_vjp
from refimpl.primitives.trees import tree_map

WIDTHS = (4, 5, 3)


def network(rng: np.random.Generator, widths: tuple[int, ...] = WIDTHS, bias: bool = True) -> list[Linear]:
    return [
        Linear(rng.standard_normal((m, n)) / n**0.5, rng.standard_normal(m) / 4 if bias else None)
        for n, m in itertools.pairwise(widths)
    ]


def data(rng: np.random.Generator, n: int = 7) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_normal((n, WIDTHS[0])), rng.integers(0, WIDTHS[-1], n)


def test_gradient_is_that_of_the_pullbacks() -> None:
    rng = np.random.default_rng(0)
    layers, (x, labels) = network(rng), data(rng)
    outputs, pull_mlp = mlp_vjp(x, layers, "tanh")
    losses, pull_loss = cross_entropy_vjp(outputs, labels)
    (to_outputs,) = pull_loss(np.full(len(x), 1 / len(x)))
    _, expected = pull_mlp(to_outputs)
    found = mlp_curvature(layers, x, labels)
    np.testing.assert_allclose(found.loss, losses.mean(), rtol=1e-14)
    np.testing.assert_allclose(pack(found.gradient), pack(expected), atol=1e-14)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("widths", [(4, 3), (4, 5, 3), (4, 6, 5, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_hessian_product_is_the_derivative_of_the_gradient(
    activation: str, widths: tuple[int, ...], bias: bool
) -> None:
    rng = np.random.default_rng(1)
    layers, (x, labels) = network(rng, widths, bias), data(rng)
    direction = network(rng, widths, bias)
    for targets, loss in ((labels, CROSS_ENTROPY), (rng.standard_normal((7, 3)), HALF_SQUARED_ERROR)):
        product = pack(mlp_curvature(layers, x, targets, activation, loss).hessian_product(direction))

        def gradient(step: float, targets: np.ndarray = targets, loss: object = loss) -> np.ndarray:
            # Central differences in longdouble: truncation and roundoff are both about 1e-12.
            moved = tree_map(lambda a, b: np.longdouble(a) + np.longdouble(step) * np.longdouble(b), layers, direction)
            wide = targets if targets.dtype.kind == "i" else np.longdouble(targets)
            return pack(mlp_curvature(moved, np.longdouble(x), wide, activation, loss).gradient)

        h = 1e-6
        measured = ((gradient(h) - gradient(-h)) / (2 * h)).astype(float)
        np.testing.assert_allclose(product, measured, atol=1e-10)


def matrix(product: object, layers: list[Linear]) -> np.ndarray:
    size = pack(layers).size
    return np.stack([pack(product(unpack(row, layers))) for row in np.eye(size)])  # type: ignore[operator]


def test_hessian_is_symmetric_and_gauss_newton_positive() -> None:
    rng = np.random.default_rng(2)
    layers, (x, labels) = network(rng), data(rng)
    found = mlp_curvature(layers, x, labels)
    hessian, gauss_newton = matrix(found.hessian_product, layers), matrix(found.gauss_newton_product, layers)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-14)
    np.testing.assert_allclose(gauss_newton, gauss_newton.T, atol=1e-14)
    assert np.linalg.eigvalsh(gauss_newton)[0] > -1e-14
    assert np.linalg.eigvalsh(hessian)[0] < -1e-4  # the network itself bends the loss downwards somewhere
    assert np.max(np.abs(hessian - gauss_newton)) > 1e-2


def test_gauss_newton_is_the_hessian_of_the_linearised_network() -> None:
    """J^T H_out J with J from per-example outputs, by its definition."""
    rng = np.random.default_rng(3)
    layers, (x, labels) = network(rng), data(rng)
    found = mlp_curvature(layers, x, labels)
    total = 0.0
    for row, label in zip(x, labels, strict=True):
        outputs, pull = mlp_vjp(row[None], layers, "tanh")
        jacobian = np.stack([pack(pull(one[None])[1]) for one in np.eye(WIDTHS[-1])])
        p = np.exp(outputs[0]) / np.exp(outputs[0]).sum()
        assert 0 <= label < 3
        total = total + jacobian.T @ (np.diag(p) - np.outer(p, p)) @ jacobian / len(x)
    np.testing.assert_allclose(matrix(found.gauss_newton_product, layers), total, atol=1e-14)


def test_one_layer_has_no_other_curvature() -> None:
    rng = np.random.default_rng(4)
    layers, (x, labels) = network(rng, (4, 3)), data(rng)
    found = mlp_curvature(layers, x, labels)
    direction = network(rng, (4, 3))
    np.testing.assert_array_equal(pack(found.hessian_product(direction)), pack(found.gauss_newton_product(direction)))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_per_example_gradients_are_those_of_single_examples(activation: str) -> None:
    rng = np.random.default_rng(5)
    layers, (x, labels) = network(rng), data(rng)
    gradients = per_example_gradients(layers, x, labels, activation)
    for i in range(len(x)):
        alone = mlp_curvature(layers, x[i : i + 1], labels[i : i + 1], activation).gradient
        np.testing.assert_allclose(pack([Linear(g.weight[i], g.bias[i]) for g in gradients]), pack(alone), atol=1e-14)


def test_float32_is_kept() -> None:
    rng = np.random.default_rng(6)
    layers = tree_map(lambda leaf: leaf.astype(np.float32), network(rng))
    x, labels = data(rng)
    found = mlp_curvature(layers, x.astype(np.float32), labels)
    assert pack(found.gradient).dtype == pack(found.hessian_product(layers)).dtype == np.float32


def test_unpack_inverts_pack() -> None:
    layers = network(np.random.default_rng(7))
    np.testing.assert_array_equal(pack(unpack(pack(layers), layers)), pack(layers))
    with pytest.raises(ValueError, match="vector: expected 43 entries, got 44"):
        unpack(np.zeros(44), layers)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": np.ones((7, 3))}, "n_0"),
        ({"activation": "sine"}, "activation: expected one of tanh, relu, got 'sine'"),
        ({"x": np.full((7, 4), np.nan)}, "x: expected finite"),
        (
            {"targets": np.eye(3)[[0, 1, 2, 0, 1, 2, 0]]},
            r"targets: expected integer labels of shape \(7,\), got float64",
        ),
        ({"targets": [0, 1, 2, 0, 1, 2, 0]}, "targets: expected integer labels"),
        ({"targets": np.zeros(6, int)}, "targets: expected integer labels"),
        ({"targets": np.array([0, 1, 2, 3, 0, 0, 0])}, "targets: expected classes from 0 to 2, got 0 to 3"),
        ({"targets": np.array([0, 1, 2, -1, 0, 0, 0])}, "targets: expected classes from 0 to 2, got -1 to 2"),
        ({"targets": np.ones((7, 2)), "loss": HALF_SQUARED_ERROR}, "targets: expected shape"),
    ],
)
def test_bad_input(changed: dict[str, object], message: str) -> None:
    rng = np.random.default_rng(8)
    x, labels = data(rng)
    arguments = {"layers": network(rng), "x": x, "targets": labels} | changed
    for function in (mlp_curvature, per_example_gradients):
        with pytest.raises(ValueError, match=message):
            function(**arguments)  # type: ignore[arg-type]
