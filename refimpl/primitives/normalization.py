r"""Softmax, log-sum-exp and layer normalisation over the last axis, with their pullbacks."""

from collections.abc import Callable

import numpy as np

from refimpl.primitives.checks import check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, column_sum, exp, log, row_dot, row_max, row_sum, sqrt


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
    weights /= row_sum(weights)
    return weights


@checked(_check_rows)
def softmax_vjp(x: Array) -> tuple[Array, Callable[[Array], tuple[Array]]]:
    """:func:`softmax` and its pullback ``cotangent -> (x,)``."""
    weights = softmax.unchecked(x)

    def pullback(cotangent: Array) -> tuple[Array]:
        return (weights * (cotangent - row_dot(weights, cotangent)),)

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
    return np.asanyarray((largest + log(row_sum(exp(x - largest))))[..., 0])


@checked(_check_rows)
def log_sum_exp_vjp(x: Array) -> tuple[Array, Callable[[Array], tuple[Array]]]:
    """:func:`log_sum_exp` and its pullback ``cotangent -> (x,)``: the gradient is the softmax."""
    largest = row_max(x)
    weights = exp(x - largest)
    total = row_sum(weights)
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
    normalized, inverse = _normalize(x, epsilon)

    def pullback(cotangent: Array) -> tuple[Array, ...]:
        to_normalized = cotangent if scale is None else cotangent * scale
        # Two directions do not reach the output: the constant one, and (up to epsilon) the row itself.
        n = x.shape[-1]
        to_x = normalized * (row_dot(to_normalized, normalized) / -n)
        to_x += to_normalized
        to_x -= row_sum(to_normalized) / n
        to_x *= inverse
        cotangents = [to_x]
        if scale is not None:
            cotangents.append(column_sum(cotangent * normalized))
        if offset is not None:
            cotangents.append(column_sum(cotangent))
        return tuple(cotangents)

    return _affine(normalized, scale, offset), pullback


def _normalize(x: Array, epsilon: float) -> tuple[Array, Array]:
    """The centred rows over their deviation, and the inverse of the deviation, an axis of length 1."""
    epsilon = check_number("epsilon", epsilon, "[0, inf)")
    centred = x - row_sum(x) / x.shape[-1]
    inverse = 1 / sqrt(row_dot(centred, centred) / x.shape[-1] + epsilon)
    centred *= inverse
    return centred, inverse


def _affine(x: Array, scale: Array | None, offset: Array | None) -> Array:
    if scale is None:
        return x if offset is None else x + offset
    x = x * scale
    if offset is not None:
        x += offset
    return x
