"""The two-layer network against the perceptron with the same weights."""

import numpy as np
import pytest

from refimpl.oracle.spec import examples, find_spec
from refimpl.primitives.layers import Linear, mlp
from refimpl.primitives.two_layer import two_layer_relu, two_layer_relu_vjp


def test_it_is_a_perceptron_without_biases() -> None:
    for arguments in examples(find_spec("primitives/two_layer_relu"), 40, 0):
        x, inner, outer = arguments["x"], arguments["inner"], arguments["outer"]
        output = two_layer_relu(**arguments)
        for index in np.ndindex(*x.shape[:-2]):
            expected = mlp(x[index], [Linear(inner[index]), Linear(outer[index][None])], "relu")[:, 0]
            np.testing.assert_allclose(output[index], expected, atol=1e-13 * (1 + np.max(np.abs(expected))))


def test_the_slope_at_zero_is_zero() -> None:
    _, pull = two_layer_relu_vjp(np.zeros((1, 2)), np.ones((3, 2)), np.ones(3))
    for cotangent in pull(np.ones(1)):
        assert not cotangent.any()


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="inner: expected n_inputs 2"):
        two_layer_relu(np.ones((1, 2)), np.ones((3, 3)), np.ones(3))
    with pytest.raises(ValueError, match="outer: expected n_hidden 3"):
        two_layer_relu_vjp(np.ones((1, 2)), np.ones((3, 2)), np.ones(2))
