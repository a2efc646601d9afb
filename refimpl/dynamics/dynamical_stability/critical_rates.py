r"""The largest stable learning rate of SGD (Section 3): exactly, and by bounds on traces and norms."""

from functools import cache
from typing import Any

import numpy as np

from refimpl.dynamics.dynamical_stability.sharpness import (
    check_jacobian,
    check_not_zero,
    squared_norms,
    trace_and_square,
)
from refimpl.dynamics.dynamical_stability.stability import LARGEST_SPAN, fourth_moment
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, is_symbolic, transpose
from refimpl.primitives.traces import inner

# --- who is stable ---

SMALL = 16  # rows of a matrix for which a second routine costs more than it saves


def _check_span(jacobian: Array) -> None:
    check_shapes(jacobian=(jacobian, "n p"))
    check_not_zero("jacobian", jacobian)


@checked(_check_span)
def span_coordinates(jacobian: Array) -> Array:
    r"""The gradients in the orthonormal basis of their span in which $G$ is diagonal (LAPACK: floats only).

    Parameters
    ----------
    jacobian : array, shape (n, p), not zero
        One matrix, not a batch: ranks differ.

    Returns
    -------
    array, shape (n, rank)
        Of orthogonal columns, the squared lengths of which are $n$ times the eigenvalues of $G$, largest first.

    Raises
    ------
    ValueError
        If it is empty or zero, or an entry is not finite.
    """
    n, p = jacobian.shape
    if SMALL < n < p:  # of J = L Q the same as of the square L, and no product with Q
        triangle = np.asanyarray(np.linalg.qr(transpose(jacobian), mode="r"))
        left, lengths, _ = np.linalg.svd(transpose(triangle))
    else:
        left, lengths, _ = np.linalg.svd(jacobian, full_matrices=False)
    rank = int(np.count_nonzero(lengths > lengths[0] * max(jacobian.shape) * np.finfo(jacobian.dtype).eps))
    return np.asanyarray(left[:, :rank] * lengths[:rank])


def _check_radius(jacobian: Array, learning_rate: Any, batch_size: Any = 1) -> None:
    _check_span(jacobian)
    check_number("learning_rate", learning_rate, "(0, inf)")
    check_integer("batch_size", batch_size, 1)


def _check_critical(jacobian: Array, batch_size: Any = 1) -> None:
    _check_span(jacobian)  # at zero gradients every learning rate is stable
    check_integer("batch_size", batch_size, 1)


@cache
def _pairs(n: int) -> tuple[Array, Array]:
    """The indices of the entries on and below the diagonal."""
    row, column = np.tril_indices(n)
    row.setflags(write=False)  # they are shared
    column.setflags(write=False)
    return row, column


@checked(_check_radius)
def stability_radius(jacobian: Array, learning_rate: Any, batch_size: Any = 1) -> Array:
    r"""The spectral radius of $\mathcal T$ on the span of the gradients (LAPACK: floats only).

    The radius of a map that keeps matrices positive belongs to a positive eigenvector (Krein and Rutman), so that
    symmetric matrices suffice; in the eigenbasis of $G$ all but the fourth moments are diagonal there.

    Parameters
    ----------
    jacobian : array, shape (n, p), not zero, of rank at most 60
    learning_rate : number > 0
    batch_size : int >= 1

    Returns
    -------
    array, shape ()
        At most 1 where SGD is linearly stable.

    Raises
    ------
    ValueError
        If it is empty or zero, an entry is not finite, a parameter is out of range or the rank is above 60.

    Source: arXiv 2305.17490, Section 3 (linear stability).
    """
    x = span_coordinates.unchecked(jacobian)
    n, rank = x.shape
    if rank > LARGEST_SPAN:
        raise ValueError(f"jacobian: expected gradients of rank at most {LARGEST_SPAN}, got {rank}")
    eigenvalues = (x * x).sum(axis=0) / n
    row, column = _pairs(rank)
    one, other = eigenvalues[row], eigenvalues[column]
    products = one * other
    shared = products - products / batch_size
    diagonal = 1 - learning_rate * (one + other) + learning_rate**2 * shared
    twice = (1 + (row != column)).astype(x.dtype)
    pairs = x.take(row, axis=1) * x.take(column, axis=1) * np.sqrt(twice)  # of orthonormal symmetric matrices
    operator = np.diag(diagonal) + learning_rate**2 * (transpose(pairs) @ pairs) / (n * batch_size)
    return np.asanyarray(np.linalg.eigvalsh(operator)[-1])


@checked(_check_critical)
def critical_learning_rate(jacobian: Array, batch_size: Any = 1) -> Array:
    r"""$\eta^*$, the largest learning rate at which SGD is linearly stable (LAPACK: floats only).

    In the eigenbasis of $G$ the forms of $G\oplus G$ and $GCG$ are diagonal and the fourth moments have rank $n$, so
    that the eigenproblem over matrices becomes one over examples: $\eta^*=1/z$ where the largest eigenvalue of

    $$M_{ik}(z)=\frac1{nB}\sum_{a,b}\frac{g_{ia}g_{ib}\,g_{ka}g_{kb}}{z(\lambda_a+\lambda_b)-(1-\frac1B)\lambda_a\lambda_b}$$

    is 1. At $B=1$ it is proportional to $1/z$, so one eigenproblem decides. Else Newton's method on
    $1-1/\lambda_{\max}$ improves $z$, each time to the Rayleigh quotient of a matrix $C$: quadratically, and always
    from below.

    Parameters
    ----------
    jacobian : array, shape (n, p), not zero
    batch_size : int >= 1
        Examples are drawn with replacement.

    Returns
    -------
    array, shape ()

    Raises
    ------
    ValueError
        If it is empty or zero, an entry is not finite or the batch size is not a positive integer.

    Source: arXiv 2305.17490, Section 3; the eigenproblem over examples derived.
    """
    x = span_coordinates.unchecked(jacobian)
    n = len(x)
    eigenvalues = (x * x).sum(axis=0) / n
    sums = eigenvalues[:, None] + eigenvalues
    products = eigenvalues[:, None] * eigenvalues
    shared = products - products / batch_size
    first, second = _pairs(n)
    pairs = x.take(first, axis=0) * x.take(second, axis=0)
    matrix = np.zeros((n, n), dtype=x.dtype)
    inverse_rate = eigenvalues[0] / 2
    if batch_size > 1:  # else any will do
        inverse_rate = np.maximum(inverse_rate, 1 / trace_bound.unchecked(x, batch_size))
    while True:
        weights = 1 / (inverse_rate * sums - shared)
        matrix[first, second] = matrix[second, first] = np.vecdot(pairs @ weights, pairs) / (n * batch_size)
        if batch_size == 1:
            return np.asanyarray(1 / (inverse_rate * np.linalg.eigvalsh(matrix)[-1]))
        values, vectors = np.linalg.eigh(matrix)
        value, direction = values[-1], vectors[:, -1]
        covariance = weights * (transpose(x) @ (direction[:, None] * x))
        better = inverse_rate + (value - 1) * value * n * batch_size / (covariance * covariance * sums).sum()
        # Newton's error is squared each time: what it gains last, to half the digits, is exact to all of them.
        if not better > inverse_rate * (1 + np.sqrt(np.finfo(x.dtype).eps) / 64):
            return np.asanyarray(1 / np.maximum(better, inverse_rate))
        inverse_rate = better


def _check_gradients(jacobian: Array) -> None:
    check_jacobian(jacobian)
    check_not_zero("jacobian", jacobian)


@checked(_check_gradients)
def gd_critical_learning_rate(jacobian: Array) -> Array:
    r"""$2/\lambda_{\max}(G)$: gradient descent is linearly stable up to there (LAPACK: floats only).

    Parameters
    ----------
    jacobian : array, shape (..., n, p), not zero

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If it is empty or zero, or an entry is not finite.

    Source: arXiv 2305.17490, Section 3 (GD).
    """
    return np.asanyarray(2 / np.linalg.norm(jacobian, 2, axis=(-2, -1)) ** 2 * jacobian.shape[-2])


# --- bounds ---


def _check_bound(jacobian: Array, batch_size: Any = 1) -> None:
    check_shapes(jacobian=(jacobian, "... n p"))
    check_integer("batch_size", batch_size, 1)
    check_not_zero("jacobian", jacobian)


def _quadratic_form(jacobian: Array, batch_size: Any) -> tuple[Array, Array]:
    r"""$\operatorname{Tr}G$ and $\langle I,QI\rangle=(1-\frac1B)\|G\|_F^2+\frac1B\frac1n\sum\|g_i\|^4$."""
    trace, square = trace_and_square(jacobian)
    norms = squared_norms(jacobian)
    mean = (norms * norms).sum(axis=-1) / jacobian.shape[-2]
    return trace, square + (mean - square) / batch_size


@checked(_check_bound)
def trace_bound(jacobian: Array, batch_size: Any = 1) -> Array:
    r"""No larger learning rate is stable:
    $\eta^*\le2\operatorname{Tr}G\big/\big[(1-\frac1B)\|G\|_F^2+\frac1B\frac1n\sum_i\|g_i\|^4\big]$.

    At $B=1$ it is at most $2/\operatorname{Tr}G$, by Jensen's inequality: the paper's theorem.

    Parameters
    ----------
    jacobian : array, shape (..., n, p), not zero
    batch_size : int >= 1

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If it is empty or zero, an entry is not finite or the batch size is not a positive integer.

    Source: arXiv 2305.17490, abstract and Section 3, for B = 1; derived for every batch size.
    """
    trace, form = _quadratic_form(jacobian, batch_size)
    return np.asanyarray(2 * trace / form)


def _check_margin(jacobian: Array, learning_rate: Any, batch_size: Any = 1) -> None:
    _check_bound(jacobian, batch_size)
    check_number("learning_rate", learning_rate, "(0, inf)")


@checked(_check_margin)
def necessary_stability_margin(jacobian: Array, learning_rate: Any, batch_size: Any = 1) -> Array:
    r"""$\frac2\eta\operatorname{Tr}G-(1-\frac1B)\|G\|_F^2-\frac1B\frac1n\sum_i\|g_i\|^4$, at least 0 if SGD is stable.

    Parameters
    ----------
    jacobian : array, shape (..., n, p)
    learning_rate : number > 0
    batch_size : int >= 1

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If it is empty or zero, an entry is not finite or a parameter is out of range.

    Source: arXiv 2305.17490, Section 3; derived for every batch size.
    """
    trace, form = _quadratic_form(jacobian, batch_size)
    return np.asanyarray(2 * trace / learning_rate - form)


@checked(_check_bound)
def sufficient_learning_rate(jacobian: Array, batch_size: Any = 1) -> Array:
    r"""Every smaller learning rate is stable: $2\big/\big[(1-\frac1B)\lambda_{\max}(G)+\frac1B\max_i\|g_i\|^2\big]$.

    For $gg^\top\otimes gg^\top\preceq\frac12\|g\|^2\,(gg^\top\oplus gg^\top)$. LAPACK: floats only.

    Parameters
    ----------
    jacobian : array, shape (..., n, p), not zero
    batch_size : int >= 1

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If it is empty or zero, an entry is not finite or the batch size is not a positive integer.

    Source: derived.
    """
    largest = np.linalg.norm(jacobian, 2, axis=(-2, -1)) ** 2 / jacobian.shape[-2]
    longest = squared_norms(jacobian).max(axis=-1)
    return np.asanyarray(2 / (largest + (longest - largest) / batch_size))


def _check_rayleigh(covariance: Array, jacobian: Array, batch_size: Any = 1) -> None:
    check_shapes(covariance=(covariance, "p p"), jacobian=(jacobian, "n p"))
    check_integer("batch_size", batch_size, 1)
    if not is_symbolic(covariance, jacobian):
        check_not_zero("covariance", jacobian @ covariance @ transpose(jacobian))


@checked(_check_rayleigh)
def rayleigh_learning_rate(covariance: Array, jacobian: Array, batch_size: Any = 1) -> Array:
    r"""$\langle C,(G\oplus G)C\rangle/\langle C,QC\rangle$: a bound on $\eta^*$ from above, whatever $C$.

    At $C=I$ it is :func:`trace_bound`; its least value is $\eta^*$.

    Parameters
    ----------
    covariance : array, shape (p, p), not zero on the span of the gradients
    jacobian : array, shape (n, p)
    batch_size : int >= 1

    Returns
    -------
    array, shape ()

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, the covariance is zero on the span or the batch size is no
        positive integer.

    Source: derived.
    """
    fisher = transpose(jacobian) @ jacobian / jacobian.shape[0]
    sandwich = fisher @ covariance @ fisher
    moved = sandwich + (fourth_moment(covariance, jacobian) - sandwich) / batch_size
    both = fisher @ covariance + covariance @ fisher
    return np.asanyarray((inner(covariance, both) / inner(covariance, moved))[0, 0])
