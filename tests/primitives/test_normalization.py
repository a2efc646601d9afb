"""Softmax, log-sum-exp and layer normalisation by a second route."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings

from refimpl.oracle.spec import Arguments, all_specs
from refimpl.primitives.normalization import layer_norm, layer_norm_vjp, log_sum_exp, softmax

SPECS = all_specs()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SPECS["primitives/softmax"].arguments)
def test_softmax_and_log_sum_exp_second_route(arguments: Arguments) -> None:
    x = arguments["x"]
    np.testing.assert_allclose(softmax(x), scipy.special.softmax(x, axis=-1), rtol=1e-13)
    np.testing.assert_allclose(log_sum_exp(x), scipy.special.logsumexp(x, axis=-1), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(softmax(x), np.exp(x - log_sum_exp(x)[..., None]), rtol=1e-12)


def test_large_logits_do_not_overflow() -> None:
    x = np.array([1e4, 0.0, -1e4])
    np.testing.assert_array_equal(softmax(x), [1, 0, 0])
    assert log_sum_exp(x) == 1e4
    assert log_sum_exp(x - 1e5) == -9e4


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SPECS["primitives/layer_norm"].arguments)
def test_layer_norm_rows_have_the_moments_of_their_formula(arguments: Arguments) -> None:
    x, epsilon = arguments["x"], arguments["epsilon"]
    plain = layer_norm(x, epsilon=epsilon)
    variance = x.var(axis=-1)
    size = 1 + np.abs(x).max() / np.sqrt(epsilon)  # cancellation in x - mean, magnified where the variance is small
    np.testing.assert_allclose(plain.mean(axis=-1), 0, atol=1e-14 * size)
    np.testing.assert_allclose((plain**2).mean(axis=-1), variance / (variance + epsilon), rtol=1e-12, atol=1e-14 * size)
    scale, offset = (arguments[name] for name in ("scale", "offset"))
    affine = plain * (1 if scale is None else scale) + (0 if offset is None else offset)
    np.testing.assert_allclose(layer_norm(**arguments), affine, rtol=1e-14)


def test_layer_norm_with_epsilon_zero_has_variance_one_and_orthogonal_gradients() -> None:
    x = np.random.default_rng(0).standard_normal((4, 7))
    output, pullback = layer_norm_vjp(x, epsilon=0)
    np.testing.assert_allclose(output.var(axis=-1), 1, rtol=1e-14)
    (to_x,) = pullback(np.random.default_rng(1).standard_normal(x.shape))
    # Shifting or scaling a row changes nothing.
    np.testing.assert_allclose(to_x.sum(axis=-1), 0, atol=1e-14)
    np.testing.assert_allclose((to_x * (x - x.mean(axis=-1, keepdims=True))).sum(axis=-1), 0, atol=1e-13)


def test_a_numpy_epsilon_promotes_nothing() -> None:
    x = np.ones((2, 3), np.float32)
    assert layer_norm(x, epsilon=np.float64(1e-5)).dtype == np.float32


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: softmax(np.array(1.0)), "x"),
        (lambda: softmax(np.ones((2, 0))), "x"),
        (lambda: softmax(np.array([1, 2])), "x"),
        (lambda: log_sum_exp(np.array([np.inf, 0])), "x"),
        (lambda: layer_norm(np.ones((2, 3)), np.ones(2)), "scale"),
        (lambda: layer_norm(np.ones((2, 3)), None, np.ones((2, 3))), "offset"),
        (lambda: layer_norm(np.ones((2, 3)), epsilon=-1.0), "epsilon"),
        (lambda: layer_norm(np.ones((2, 3)), epsilon=0), "x"),
        (lambda: layer_norm_vjp([[1.0, 2.0]]), "x"),  # type: ignore[arg-type]
    ],
)
def test_bad_input(call: Callable[[], Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()
