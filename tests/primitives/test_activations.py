"""The activation functions by a second route, and far out."""

from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats

from refimpl.primitives import activations
from refimpl.primitives.activations import ACTIVATIONS, Activation, check_activation

X = np.linspace(-9, 9, 181)

SECOND_ROUTES = {
    "relu": (np.abs(X) + X) / 2,
    "tanh": (1 - np.exp(-2 * X)) / (1 + np.exp(-2 * X)),
    "erf": 2 * scipy.stats.norm.cdf(X * np.sqrt(2)) - 1,
    "sigmoid": scipy.special.expit(X),
    "softplus": np.logaddexp(0, X),
    "gelu": X * scipy.stats.norm.cdf(X),
    "gelu_tanh": X * scipy.special.expit(2 * np.sqrt(2 / np.pi) * (X + 0.044715 * X**3)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_second_route(name: str) -> None:
    np.testing.assert_allclose(getattr(activations, name)(X), SECOND_ROUTES[name], rtol=1e-13, atol=1e-15)


def test_the_approximate_gelu_is_within_its_known_distance() -> None:
    """The maximum of |gelu_tanh - gelu| is 4.73e-4, near |x| = 2.3."""
    distance = np.abs(activations.gelu_tanh(X) - activations.gelu(X))
    assert 4.7e-4 < distance.max() < 4.74e-4


def test_sigmoid_and_softplus_keep_their_digits_in_the_tail() -> None:
    far = np.array([-40.0, -200.0, -700.0])
    np.testing.assert_allclose(activations.sigmoid(far), np.exp(far), rtol=1e-13)
    np.testing.assert_allclose(activations.softplus(far), np.exp(far), rtol=1e-13)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_far_out_is_the_limit_and_no_warning(name: str, dtype: Any) -> None:
    """Warnings are errors in this suite."""
    far = np.array([-1.0, 1.0], dtype) * np.finfo(dtype).max
    output, pullback = getattr(activations, f"{name}_vjp")(far)
    (slopes,) = pullback(np.ones(2, dtype))
    saturates = name in ("tanh", "erf", "sigmoid")
    np.testing.assert_array_equal(slopes, [0, 0] if saturates else [0, 1])
    np.testing.assert_array_equal(
        output, [{"sigmoid": 0, "tanh": -1, "erf": -1}.get(name, 0), 1 if saturates else far[1]]
    )


def test_activations_by_name_or_of_ones_own() -> None:
    own = Activation(np.sin, lambda x: (np.sin(x), lambda cotangent: (cotangent * np.cos(x),)))
    assert check_activation("activation", own) is own
    assert check_activation("activation", "gelu") is ACTIVATIONS["gelu"]
    with pytest.raises(ValueError, match=r"activation: expected one of relu, .* or an Activation, got 'swish'"):
        check_activation("activation", "swish")


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("value", [np.array([1, 2]), np.array([np.nan]), np.array(["a"])])
def test_bad_input(name: str, value: Any) -> None:
    for function in (getattr(activations, name), getattr(activations, f"{name}_vjp")):
        with pytest.raises(ValueError, match=r"^x: expected"):
            function(value)
