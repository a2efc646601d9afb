"""Kernel gradient descent: its special cases, dtypes, bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from refimpl.incontext.linear_attention import (
    kernel_gd_closed_form,
    kernel_gd_predict,
    kernel_interpolant,
    mlp_features,
    nadaraya_watson,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.linear_attention.kernel import kernel_arguments
from refimpl.primitives.activations import gelu
from refimpl.primitives.layers import Linear

KERNEL, Y, QUERY = np.eye(3), np.ones((1, 3)), np.ones(3)
LAYERS = [Linear(np.ones((5, 2)), np.zeros(5)), Linear(np.ones((2, 5)))]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(kernel_arguments())
def test_the_closed_form_is_the_loop(case: Arguments) -> None:
    loop, closed = kernel_gd_predict(**case), kernel_gd_closed_form(**case)
    _, y, kernel_query, rate, n_steps = case.values()
    # The prediction sums K n rounded terms of this size; the eigenvectors are orthogonal to n roundoffs.
    size = n_steps * rate * np.max(np.abs(y)) * np.max(np.abs(kernel_query))
    assert np.max(np.abs(loop - closed)) <= 1e-15 * (n_steps + 1) * y.shape[-1] ** 2 * size


def test_a_vanishing_kernel_gives_the_smoother_times_the_steps() -> None:
    """At eigenvalue 0 the geometric sum has K equal terms."""
    zero = np.zeros((3, 3))
    np.testing.assert_allclose(kernel_gd_closed_form(zero, Y, QUERY, 0.3, 7), [7 * 0.3], rtol=1e-14)
    np.testing.assert_allclose(kernel_gd_predict(zero, Y, QUERY, 0.3, 7), [7 * 0.3], rtol=1e-14)


def test_past_half_a_step_the_closed_form_alternates_like_the_loop() -> None:
    for n_steps in (1, 2, 3, 50):
        np.testing.assert_allclose(
            kernel_gd_closed_form(KERNEL, Y, QUERY, 5.4, n_steps), [3 * (1 - (-0.8) ** n_steps)], rtol=1e-13
        )


def test_the_interpolant_passes_through_the_context() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((20, 6, 4))
    kernel = np.swapaxes(features, -1, -2) @ features
    y = rng.standard_normal((20, 2, 4))
    for i in range(4):
        np.testing.assert_allclose(kernel_interpolant(kernel, y, kernel[..., i]), y[..., i], atol=1e-10)


def test_features_are_the_residual_perceptron_of_each_column() -> None:
    x = np.random.default_rng(0).standard_normal((4, 2, 3))
    features = mlp_features(x, LAYERS)
    for task in range(4):
        for column in range(3):
            hidden = gelu(LAYERS[0].weight @ x[task, :, column])
            expected = x[task, :, column] + LAYERS[1].weight @ hidden
            np.testing.assert_allclose(features[task, :, column], expected, rtol=1e-14)


def test_the_smoother_averages_and_survives_large_logits() -> None:
    y = np.array([[1.0, 2.0, 4.0]])
    np.testing.assert_allclose(nadaraya_watson(y, np.zeros(3)), [7 / 3])
    np.testing.assert_array_equal(nadaraya_watson(y, np.array([0.0, 1e4, 0.0])), [2.0])
    np.testing.assert_allclose(nadaraya_watson(y, np.log(np.array([1.0, 2.0, 1.0]))), [9 / 4])


@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_the_dtype_is_kept(dtype: Any) -> None:
    kernel, y, query = (a.astype(dtype) for a in (KERNEL, Y, QUERY))
    layers = [Linear(*(None if a is None else a.astype(dtype) for a in layer)) for layer in LAYERS]  # type: ignore[arg-type]
    results = [
        kernel_gd_predict(kernel, y, query, 0.5, 3),
        nadaraya_watson(y, query),
        mlp_features(np.ones((2, 3), dtype), layers),
    ]
    if dtype == np.float32:  # LAPACK has no longdouble
        results += [kernel_gd_closed_form(kernel, y, query, 0.5, 3), kernel_interpolant(kernel, y, query)]
    assert {array.dtype for array in results} == {np.dtype(dtype)}


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: kernel_gd_predict(np.ones((3, 2)), Y, QUERY, 0.5, 1), "kernel"),
    (lambda: kernel_gd_predict(KERNEL, Y[:, :2], QUERY, 0.5, 1), "y: expected n_context 3"),
    (lambda: kernel_gd_predict(KERNEL, Y, np.ones(2), 0.5, 1), "kernel_query"),
    (lambda: kernel_gd_predict(KERNEL, Y, QUERY, 0.0, 1), "learning_rate"),
    (lambda: kernel_gd_predict(KERNEL, Y, QUERY, 0.5, 0), "n_steps"),
    (lambda: kernel_gd_predict(KERNEL, Y * np.nan, QUERY, 0.5, 1), "y: expected finite"),
    (lambda: kernel_gd_closed_form(KERNEL, Y, QUERY, -0.5, 1), "learning_rate"),
    (lambda: kernel_gd_closed_form(KERNEL, Y, QUERY, 0.5, 1.5), "n_steps"),  # type: ignore[arg-type]
    (lambda: kernel_interpolant(KERNEL, Y, np.ones(2)), "kernel_query"),
    (lambda: nadaraya_watson(Y, np.ones(2)), "log_kernel_query"),
    (lambda: mlp_features(np.ones(2), LAYERS), "x: expected shape"),
    (lambda: mlp_features(np.ones((3, 3)), LAYERS), "weight"),
    (lambda: mlp_features(np.ones((2, 3)), LAYERS[:1]), "layers: expected 2 outputs, as many as inputs, got 5"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
