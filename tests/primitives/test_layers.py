"""The affine map and the perceptron by a second route."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from proofs.symbolic import block, vanishes
from refimpl.oracle.spec import Arguments, all_specs
from refimpl.primitives.activations import ACTIVATIONS, Activation
from refimpl.primitives.layers import Linear, linear, linear_vjp, mlp, mlp_vjp
from refimpl.primitives.numbers import transpose

SPECS = all_specs()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SPECS["primitives/linear"].arguments)
def test_linear_is_a_sum_over_inputs(arguments: Arguments) -> None:
    x, weight, bias = arguments.values()
    expected = np.einsum("...i,oi->...o", x, weight) + (0 if bias is None else bias)
    np.testing.assert_allclose(linear(**arguments), expected, rtol=1e-12, atol=1e-13 * (1 + np.abs(expected).max()))


def test_linear_and_its_pullback_on_blocks_of_any_size() -> None:
    """On a block of rows X, weight W and cotangent G: X W^T, G W and G^T X, whatever the sizes."""
    x, w, g = (np.array([[block(name)]], dtype=object) for name in "XWG")
    output, pullback = linear_vjp(x, w)
    to_x, to_w = pullback(g)
    assert vanishes([output - x @ transpose(w), to_x - g @ w, to_w - transpose(g) @ x]).holds


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SPECS["primitives/mlp"].arguments)
def test_mlp_is_its_layers_in_turn(arguments: Arguments) -> None:
    x, function = arguments["x"], ACTIVATIONS[arguments["activation"]].function
    for index, layer in enumerate(arguments["layers"]):
        x = linear(function(x) if index else x, *layer)
    np.testing.assert_array_equal(mlp(**arguments), x)


def test_mlp_with_an_activation_of_ones_own() -> None:
    rng = np.random.default_rng(0)
    x, layers = rng.standard_normal((3, 2)), (Linear(rng.standard_normal((2, 2))), Linear(rng.standard_normal((1, 2))))
    double = Activation(lambda x: 2 * x, lambda x: (2 * x, lambda cotangent: (2 * cotangent,)))
    output, pullback = mlp_vjp(x, layers, double)
    np.testing.assert_allclose(output, 2 * x @ layers[0].weight.T @ layers[1].weight.T, rtol=1e-14)
    assert type(pullback(output)[1]) is tuple


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: linear(np.ones((2, 3)), np.ones((3, 2))), "weight"),
        (lambda: linear(np.ones((2, 3)), np.ones(3)), "weight"),
        (lambda: linear(np.ones((2, 3)), np.ones((2, 3)), np.ones(1)), "bias"),
        (lambda: linear(np.array(1.0), np.ones((1, 1))), "x"),
        (lambda: linear([1.0], np.ones((1, 1))), "x"),  # type: ignore[arg-type]
        (lambda: mlp(np.ones((2, 3)), []), "layers"),
        (lambda: mlp(np.ones((2, 3)), Linear(np.ones((2, 3)))), "layers"),
        (lambda: mlp(np.ones((2, 3)), [np.ones((2, 3))]), "layers"),  # type: ignore[list-item]
        (lambda: mlp(np.ones((2, 3)), [Linear(np.ones((2, 3))), Linear(np.ones((2, 3)))]), r"layers\[1\].weight"),
        (lambda: mlp(np.ones((2, 3)), [Linear(np.ones((2, 3)), np.ones(3))]), r"layers\[0\].bias"),
        (lambda: mlp(np.ones((2, 3)), [Linear(np.ones((2, 3)))], "sigmoidal"), "activation"),
    ],
)
def test_bad_input(call: Callable[[], Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()
