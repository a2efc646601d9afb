r"""Losses, one value for each example; a mean over examples is the caller's, who knows which weights it takes."""

from collections.abc import Callable

import numpy as np

from refimpl.primitives.checks import check_shapes, checked
from refimpl.primitives.numbers import Array, exp, log, row_dot, row_max, row_sum


def _check_squared_error(prediction: Array, target: Array) -> None:
    check_shapes(prediction=(prediction, "... n_outputs"), target=(target, "... n_outputs"))


@checked(_check_squared_error)
def squared_error(prediction: Array, target: Array) -> Array:
    r"""$\|\hat y-y\|^2$, summed over the last axis; no factor.

    Parameters
    ----------
    prediction, target : array, shape (..., n_outputs)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes differ or an entry is not finite.
    """
    residual = prediction - target
    return row_dot(residual, residual)[..., 0]


@checked(_check_squared_error)
def squared_error_vjp(prediction: Array, target: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """:func:`squared_error` and its pullback ``cotangent -> (prediction, target)``."""
    residual = prediction - target

    def pullback(cotangent: Array) -> tuple[Array, Array]:
        to_prediction = 2 * np.asanyarray(cotangent)[..., None] * residual
        return to_prediction, -to_prediction

    return row_dot(residual, residual)[..., 0], pullback


def _check_cross_entropy(logits: Array, labels: Array) -> None:
    sizes = check_shapes(logits=(logits, "... n_classes"))
    if not np.issubdtype(getattr(labels, "dtype", object), np.integer):
        raise ValueError(f"labels: expected an integer array, got {getattr(labels, 'dtype', type(labels).__name__)}")
    if labels.shape != sizes["..."]:
        raise ValueError(f"labels: expected shape {sizes['...']} as the rows of logits, got {labels.shape}")
    if labels.size and not (labels.min() >= 0 and labels.max() < sizes["n_classes"]):
        raise ValueError(
            f"labels: expected classes from 0 to {sizes['n_classes'] - 1}, got {labels.min()} to {labels.max()}"
        )


@checked(_check_cross_entropy)
def cross_entropy(logits: Array, labels: Array) -> Array:
    r"""$-\log\operatorname{softmax}(z)_y$ in nats.

    Parameters
    ----------
    logits : array, shape (..., n_classes)
    labels : integer array, shape (...)
        From 0 to n_classes - 1.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, a logit is not finite or a label is no class.
    """
    shifted = logits - row_max(logits)
    return np.asanyarray(log(row_sum(exp(shifted)))[..., 0] - _at(shifted, labels))


@checked(_check_cross_entropy)
def cross_entropy_vjp(logits: Array, labels: Array) -> tuple[Array, Callable[[Array], tuple[Array]]]:
    """:func:`cross_entropy` and its pullback ``cotangent -> (logits,)``: softmax minus the one-hot label."""
    shifted = logits - row_max(logits)
    weights = exp(shifted)
    total = row_sum(weights)

    def pullback(cotangent: Array) -> tuple[Array]:
        cotangent = np.asanyarray(cotangent)[..., None]
        to_logits = weights * (cotangent / total)
        chosen = labels[..., None]
        at_labels = np.take_along_axis(to_logits, chosen, axis=-1) - cotangent
        np.put_along_axis(to_logits, chosen, at_labels, axis=-1)
        return (to_logits,)

    return np.asanyarray(log(total)[..., 0] - _at(shifted, labels)), pullback


def _at(logits: Array, labels: Array) -> Array:
    """The entry of each row at its label."""
    return np.asanyarray(np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0])
