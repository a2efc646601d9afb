r"""The other methods that Newton is compared with: online, conjugate, Chebyshev and quasi-Newton (Sections 3.1, A.2.3).

All solve $Sw=X^\top y$ with $S=X^\top X$ from $w=0$. Gradient descent, least squares and ridge are in
:mod:`refimpl.primitives.least_squares`.
"""

from typing import Any

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, is_symbolic, row_dot, transpose


def _check_problem(x: Array, y: Array, n_steps: int) -> None:
    check_shapes(x=(x, "... n d"), y=(y, "... n"))
    check_integer("n_steps", n_steps, 0)


def best_learning_rate(gram: Array) -> Array:
    r"""$2/(\lambda_1+\lambda_d)$, shape (...): the best fixed rate of gradient descent (LAPACK: floats only)."""
    check_shapes(gram=(gram, "... d d"))
    eigenvalues = np.linalg.eigvalsh(gram)
    return np.asanyarray(2 / (eigenvalues[..., 0] + eigenvalues[..., -1]))


# --- one example at a time ---


def _check_online(x: Array, y: Array, learning_rate: Any = None) -> None:
    check_shapes(x=(x, "... n d"), y=(y, "... n"))
    if learning_rate is not None:
        check_number("learning_rate", learning_rate, "(0, inf)")
    elif not is_symbolic(x) and not np.all(np.any(x, axis=-1)):
        raise ValueError("x: expected no input of norm 0, by which the adaptive rate divides")


@checked(_check_online)
def online_gradient_descent(x: Array, y: Array, learning_rate: Any = None) -> Array:
    r"""One pass over the examples in their order, $w\leftarrow w-\eta_k(w^\top x_k-y_k)x_k$.

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    learning_rate : number > 0, or None for $\eta_k=1/\lVert x_k\rVert^2$
        The latter leaves no error on the example just seen (Kaczmarz).

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, the rate is not positive, or an input is 0 without one.

    Source: arXiv 2310.17086, Eq. 4.
    """
    weights = 0 * x[..., 0, :]
    for k in range(x.shape[-2]):
        example = x[..., k, :]
        residual = row_dot(weights, example) - y[..., k, None]
        rate = 1 / row_dot(example, example) if learning_rate is None else learning_rate
        weights = weights - rate * residual * example
    return np.asanyarray(weights)


# --- Krylov methods ---


def _normal_equations(x: Array, y: Array) -> tuple[Array, Array]:
    """$S$ and $X^\\top y$, the latter as a column."""
    return transpose(x) @ x, transpose(x) @ y[..., None]


def _under_way(size: Array, initial: Array) -> Array:
    r"""Whether a squared residual is more than roundoff of the first one.

    A method that has arrived takes no more steps: on a singular $S$ what roundoff leaves would lead it anywhere.
    """
    if is_symbolic(size):
        return np.asanyarray(size != 0)
    return np.asanyarray(size > (16 * np.finfo(size.dtype).eps) ** 2 * initial)


def _quotient(numerator: Any, denominator: Array, where: Array) -> Array:
    """The quotient, and 0 elsewhere."""
    return np.where(where, numerator / np.where(where, denominator, 1), 0)


def _dot(a: Array, b: Array) -> Array:
    """Inner product of columns, kept as a 1 x 1 matrix."""
    return np.asanyarray((a * b).sum(axis=-2, keepdims=True))


@checked(_check_problem)
def conjugate_gradient(x: Array, y: Array, n_steps: int) -> Array:
    """Conjugate gradients on the normal equations: least squares in at most d steps, up to roundoff.

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    n_steps : int >= 0

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the number of steps is negative.

    Source: arXiv 2310.17086, Appendix A.2.3; Hestenes and Stiefel 1952.
    """
    gram, residual = _normal_equations(x, y)
    weights, direction = 0 * residual, residual
    size = initial = _dot(residual, residual)
    for _ in range(n_steps):
        curved = gram @ direction
        under_way = _under_way(size, initial)
        step = _quotient(size, _dot(direction, curved), under_way)
        weights = weights + step * direction
        residual = residual - step * curved
        size, before = _dot(residual, residual), size
        direction = residual + _quotient(size, before, under_way) * direction
    return np.asanyarray(weights[..., 0])


def _check_chebyshev(x: Array, y: Array, n_steps: int, smallest: Any, largest: Any) -> None:
    _check_problem(x, y, n_steps)
    check_number("smallest", smallest, "(0, inf)")
    check_number("largest", largest, f"({smallest}, inf)")


@checked(_check_chebyshev)
def chebyshev_iteration(x: Array, y: Array, n_steps: int, smallest: Any, largest: Any) -> Array:
    r"""Chebyshev's semi-iteration: of all first-order methods the smallest worst-case error, on a known interval.

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    n_steps : int >= 0
    smallest, largest : numbers, 0 < smallest < largest
        $\lambda_d$ and $\lambda_1$ of $S$, or an interval that holds them.

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, the number of steps is negative or the interval is none.

    Source: arXiv 2310.17086, Appendix A.2.3; Golub and Varga 1961.
    """
    gram, residual = _normal_equations(x, y)
    centre, half_width = (largest + smallest) / 2, (largest - smallest) / 2
    weights, step, ratio = 0 * residual, residual / centre, half_width / centre
    for _ in range(n_steps):
        weights = weights + step
        residual = residual - gram @ step
        ratio, before = 1 / (2 * centre / half_width - ratio), ratio
        step = ratio * before * step + 2 * ratio / half_width * residual
    return np.asanyarray(weights[..., 0])


# --- quasi-Newton methods ---


@checked(_check_problem)
def bfgs(x: Array, y: Array, n_steps: int) -> tuple[Array, Array]:
    r"""BFGS with exact line search from $H=I$; its iterates are those of conjugate gradients.

    With $s$ the change of the weights, $z$ that of the gradient and $\rho=1/s^\top z$,
    $H\leftarrow(I-\rho sz^\top)H(I-\rho zs^\top)+\rho ss^\top$.

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    n_steps : int >= 0

    Returns
    -------
    weights : array, shape (..., d)
    inverse_hessian : array, shape (..., d, d)
        $H$: after d steps $S^{-1}$, if $S$ is invertible and all steps were needed.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the number of steps is negative.

    Source: arXiv 2310.17086, Appendix A.2.3; Nocedal and Wright, Algorithm 6.1.
    """
    gram, moment = _normal_equations(x, y)
    weights, gradient = 0 * moment, -moment
    identity = np.eye(x.shape[-1], dtype=gram.dtype)
    inverse = identity + 0 * gram
    initial = _dot(moment, moment)
    for _ in range(n_steps):
        under_way = _under_way(_dot(gradient, gradient), initial)
        weights, gradient, change, bend = _line_search(gram, weights, gradient, -(inverse @ gradient), under_way)
        rho = _quotient(1, _dot(change, bend), under_way)
        left = identity - rho * (change @ transpose(bend))
        inverse = left @ inverse @ transpose(left) + rho * (change @ transpose(change))
    return np.asanyarray(weights[..., 0]), np.asanyarray(inverse)


def _check_lbfgs(x: Array, y: Array, n_steps: int, memory: int) -> None:
    _check_problem(x, y, n_steps)
    check_integer("memory", memory, 1)


@checked(_check_lbfgs)
def lbfgs(x: Array, y: Array, n_steps: int, memory: int) -> Array:
    """BFGS from the last `memory` steps alone, by the two-loop recursion from $H=I$, with exact line search.

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    n_steps : int >= 0
    memory : int >= 1

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or a number is out of range.

    Source: arXiv 2310.17086, Appendix A.2.3; Nocedal and Wright, Algorithms 7.4 and 7.5.
    """
    gram, moment = _normal_equations(x, y)
    weights, gradient = 0 * moment, -moment
    steps: list[tuple[Array, Array, Array]] = []
    initial = _dot(moment, moment)
    for _ in range(n_steps):
        under_way = _under_way(_dot(gradient, gradient), initial)
        direction = -gradient
        projections = []
        for change, bend, rho in reversed(steps):
            projections.append(rho * _dot(change, direction))
            direction = direction - projections[-1] * bend
        for (change, bend, rho), projection in zip(steps, reversed(projections), strict=True):
            direction = direction + (projection - rho * _dot(bend, direction)) * change
        weights, gradient, change, bend = _line_search(gram, weights, gradient, direction, under_way)
        steps = [*steps, (change, bend, _quotient(1, _dot(change, bend), under_way))][-memory:]
    return np.asanyarray(weights[..., 0])


def _line_search(
    gram: Array, weights: Array, gradient: Array, direction: Array, under_way: Array
) -> tuple[Array, Array, Array, Array]:
    """The minimum along a direction: new weights and gradient, and how both changed."""
    curved = gram @ direction
    step = _quotient(-_dot(gradient, direction), _dot(direction, curved), under_way)
    change, bend = step * direction, step * curved
    return weights + change, gradient + bend, change, bend
