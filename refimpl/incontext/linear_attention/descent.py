r"""The inner problem: least squares on the context, and gradient descent on it (Section 2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl.primitives.checks import check_number, check_shapes
from refimpl.primitives.linear_self_attention import initial_or_zero
from refimpl.primitives.numbers import Array, common_dtype, transpose


def apply_linear(weights: Array, x: Array) -> Array:
    """The linear model at one input: shapes ``(..., n_outputs, n_inputs)`` and ``(..., n_inputs)``."""
    return np.asanyarray((weights @ x[..., None])[..., 0])


def inner_loss(weights: Array, x: Array, y: Array) -> Array:
    r"""$L(W)=\frac1{2N}\sum_i\lVert Wx_i-y_i\rVert^2$, the loss that the layer descends.

    Parameters
    ----------
    weights : array, shape (..., n_outputs, n_inputs)
    x : array, shape (..., n_inputs, n_context)
    y : array, shape (..., n_outputs, n_context)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2212.07677, Eq. 1.
    """
    check_context(x, y, weights)
    residual = weights @ x - y
    return np.asanyarray(np.trace(residual @ transpose(residual), axis1=-2, axis2=-1) / (2 * x.shape[-1]))


def gradient_step(weights: Array, x: Array, y: Array, learning_rate: Any) -> Array:
    r"""$W+\Delta W$ with $\Delta W=-\eta\nabla L(W)=-\frac\eta N(WX-Y)X^\top$.

    Parameters as for :func:`inner_loss`, and `learning_rate` > 0.

    Returns
    -------
    array, shape (..., n_outputs, n_inputs)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the learning rate is not positive.

    Source: arXiv 2212.07677, Eq. 2.
    """
    check_context(x, y, weights)
    return _descend(weights, x, y, check_number("learning_rate", learning_rate, "(0, inf)"))


def gradient_descent(x: Array, y: Array, learning_rates: Sequence[Any], initial_weights: Array | None = None) -> Array:
    """The iterate after one gradient step for each learning rate, from `initial_weights` (zeros if None).

    Parameters
    ----------
    x : array, shape (..., n_inputs, n_context)
    y : array, shape (..., n_outputs, n_context)
    learning_rates : sequence of numbers > 0
    initial_weights : array, shape (n_outputs, n_inputs), optional

    Returns
    -------
    array, shape (..., n_outputs, n_inputs)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a learning rate is not positive.
    """
    check_context(x, y)
    learning_rates = check_rates("learning_rates", learning_rates, "(0, inf)")
    start = initial_or_zero(initial_weights, y.shape[-2], x.shape[-2], common_dtype(x, y))
    weights = np.broadcast_to(start, (*x.shape[:-2], *start.shape))
    for learning_rate in learning_rates:
        weights = _descend(weights, x, y, learning_rate)
    return weights


def transform_targets(weights: Array, x: Array, y: Array, learning_rate: Any) -> Array:
    r"""Leave the weights and move the targets: $Y-\Delta WX$, on which $W$ has the loss that $W+\Delta W$ had on $Y$.

    Parameters and errors as for :func:`gradient_step`; shape of `y`.

    Source: arXiv 2212.07677, Eq. 4.
    """
    return np.asanyarray(y - (gradient_step(weights, x, y, learning_rate) - weights) @ x)


def _descend(weights: Array, x: Array, y: Array, learning_rate: Any) -> Array:
    return np.asanyarray(weights - (learning_rate / x.shape[-1]) * ((weights @ x - y) @ transpose(x)))


def check_rates(name: str, values: Any, interval: str) -> list[Any]:
    """Return a non-empty sequence of numbers in the interval as a list of Python numbers."""
    rates = [check_number(name, value, interval) for value in values]
    if not rates:
        raise ValueError(f"{name}: expected at least one number, got none")
    return rates


def check_context(x: Array, y: Array, weights: Array | None = None) -> None:
    shapes = {"x": (x, "... n_inputs n_context"), "y": (y, "... n_outputs n_context")}
    if weights is not None:
        shapes["weights"] = (weights, "... n_outputs n_inputs")
    check_shapes(**shapes)
