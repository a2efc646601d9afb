r"""Softmax, log-sum-exp and layer normalisation over the last axis, with their pullbacks."""

from collections.abc import Callable

import numpy as np

from refimpl.primitives.checks import check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, exp, log, row_max, sqrt


def _check_rows(x: Array) -> None:
    check_shapes(x=(x, "... n"))


@checked(_check_rows)
def softmax(x: Array) -> Array:
    r"""$e^{x_i}/\sum_je^{x_j}$ over the last axis; invariant to a shift, by which it avoids overflow.

    Parameters
    ----------
    x : array, shape (..., n)

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If `x` is no floating-point array of at least one axis, is empty in it or has a non-finite entry.
    """
    weights = exp(x - row_max(x))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


@checked(_check_rows)
def softmax_vjp(x: Array) -> tuple[Array, Callable[[Array], tuple[Array]]]:
    """:func:`softmax` and its pullback ``cotangent -> (x,)``."""
    weights = softmax.unchecked(x)

    def pullback(cotangent: Array) -> tuple[Array]:
        weighted = weights * cotangent
        return (weighted - weights * weighted.sum(axis=-1, keepdims=True),)

    return weights, pullback


@checked(_check_rows)
def log_sum_exp(x: Array) -> Array:
    r"""$\log\sum_je^{x_j}$ over the last axis, without overflow.

    Parameters
    ----------
    x : array, shape (..., n)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If `x` is no floating-point array of at least one axis, is empty in it or has a non-finite entry.
    """
    largest = row_max(x)
    return np.asanyarray(largest[..., 0] + log(exp(x - largest).sum(axis=-1)))


@checked(_check_rows)
def log_sum_exp_vjp(x: Array) -> tuple[Array, Callable[[Array], tuple[Array]]]:
    """:func:`log_sum_exp` and its pullback ``cotangent -> (x,)``: the gradient is the softmax."""
    largest = row_max(x)
    weights = exp(x - largest)
    total = weights.sum(axis=-1, keepdims=True)
    weights /= total

    def pullback(cotangent: Array) -> tuple[Array]:
        return (weights * np.asanyarray(cotangent)[..., None],)

    return np.asanyarray((largest + log(total))[..., 0]), pullback


def _check_layer_norm(x: Array, scale: Array | None = None, offset: Array | None = None, epsilon: float = 1e-5) -> None:
    affine = {"scale": (scale, "n"), "offset": (offset, "n")}
    check_shapes(x=(x, "... n"), **{name: given for name, given in affine.items() if given[0] is not None})
    if check_number("epsilon", epsilon, "[0, inf)") == 0 and x.dtype != object and not np.all(np.ptp(x, axis=-1)):
        raise ValueError("x: expected no constant row where epsilon is 0, got one")


@checked(_check_layer_norm)
def layer_norm(x: Array, scale: Array | None = None, offset: Array | None = None, epsilon: float = 1e-5) -> Array:
    r"""$\frac{x-\bar x}{\sqrt{\operatorname{Var}x+\epsilon}}\odot\gamma+\beta$ over the last axis, population variance.

    Parameters
    ----------
    x : array, shape (..., n)
    scale, offset : array, shape (n,), or None
        $\gamma$ and $\beta$; 1 and 0 where they are None.
    epsilon : float >= 0
        With 0 no row may be constant.

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, `epsilon` is negative, or 0 and a row constant.

    Source: Ba, Kiros and Hinton, arXiv 1607.06450, Section 3.
    """
    normalized, _ = _normalize(x, epsilon)
    return _affine(normalized, scale, offset)


@checked(_check_layer_norm)
def layer_norm_vjp(
    x: Array, scale: Array | None = None, offset: Array | None = None, epsilon: float = 1e-5
) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
    """:func:`layer_norm` and its pullback ``cotangent -> (x, scale, offset)``, without those that are None."""
    normalized, deviation = _normalize(x, epsilon)

    def pullback(cotangent: Array) -> tuple[Array, ...]:
        to_normalized = cotangent if scale is None else cotangent * scale
        # Two directions do not reach the output: the constant one, and (up to epsilon) the row itself.
        to_x = to_normalized - to_normalized.mean(axis=-1, keepdims=True)
        to_x -= normalized * (to_normalized * normalized).mean(axis=-1, keepdims=True)
        to_x /= deviation
        cotangents = [to_x]
        if scale is not None:
            cotangents.append(_sum_rows(cotangent * normalized))
        if offset is not None:
            cotangents.append(_sum_rows(cotangent))
        return tuple(cotangents)

    return _affine(normalized, scale, offset), pullback


def _normalize(x: Array, epsilon: float) -> tuple[Array, Array]:
    """The centred rows over their deviation, and the deviation, an axis of length 1."""
    epsilon = check_number("epsilon", epsilon, "[0, inf)")
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = sqrt((centred * centred).mean(axis=-1, keepdims=True) + epsilon)
    return centred / deviation, deviation


def _affine(x: Array, scale: Array | None, offset: Array | None) -> Array:
    if scale is not None:
        x = x * scale
    if offset is not None:
        x = x + offset
    return x


def _sum_rows(x: Array) -> Array:
    """Sum over all axes but the last."""
    return x.reshape(-1, x.shape[-1]).sum(axis=0)
