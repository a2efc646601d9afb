r"""Gradient descent, whose steps are the paper's weight shifts, and a regularised Newton step."""

from typing import Any

import numpy as np

from refimpl.incontext.softmax_regression.derivatives import gradient_and_hessian, loss_gradient
from refimpl.incontext.softmax_regression.problem import check_rows, combine_rows, logits
from refimpl.primitives.checks import check_integer, check_number, checked
from refimpl.primitives.numbers import Array, transpose


def _check_descent(data: Array, target: Array, initial_weights: Array, learning_rate: Any, n_steps: int) -> None:
    check_rows(data=(data, "... n d"), target=(target, "... n"), initial_weights=(initial_weights, "... d"))
    check_number("learning_rate", learning_rate, "(0, inf)")
    check_integer("n_steps", n_steps, 0)


@checked(_check_descent)
def gradient_descent(data: Array, target: Array, initial_weights: Array, learning_rate: Any, n_steps: int) -> Array:
    r"""$x_{t+1}=x_t-\eta\nabla_xL(x_t)$: the weight shifts of the paper.

    Parameters
    ----------
    data : array, shape (..., n, d)
    target : array, shape (..., n)
    initial_weights : array, shape (..., d)
    learning_rate : number > 0
    n_steps : int >= 0

    Returns
    -------
    array, shape (n_steps + 1, ..., d)
        The trajectory, with the initial weights first.

    Raises
    ------
    ValueError
        If shapes do not fit, n < 2, an entry is not finite, or a number is out of range.

    Source: arXiv 2304.13276, the gradient descent step.
    """
    rate = check_number("learning_rate", learning_rate, "(0, inf)")
    trajectory = [np.asanyarray(initial_weights)]
    for _ in range(n_steps):
        x = trajectory[-1]
        trajectory.append(x - rate * loss_gradient.unchecked(data, x, target))
    return np.stack(trajectory)


def _check_newton(data: Array, weights: Array, target: Array, row_penalty: Array) -> None:
    check_rows(
        data=(data, "... n d"), weights=(weights, "... d"), target=(target, "... n"), row_penalty=(row_penalty, "... n")
    )


@checked(_check_newton)
def regularised_newton_step(data: Array, weights: Array, target: Array, row_penalty: Array) -> Array:
    r"""One Newton step on $L+\frac12\lVert\operatorname{diag}(w)Ax\rVert^2$, whose Hessian is
    $A^\top(B+\operatorname{diag}(w)^2)A$ (LAPACK: floats only).

    It is positive definite if $A$ has full column rank and every $w_i^2>-\lambda_{\min}(B)$; for $b$ on the simplex
    $w_i^2\ge1$ is always enough.

    Parameters
    ----------
    data, weights, target : as for :func:`softmax_regression_loss`
    row_penalty : array, shape (..., n)
        $w$.

    Returns
    -------
    array, shape (..., d)
        The weights after the step.

    Raises
    ------
    ValueError
        If shapes do not fit, n < 2, an entry is not finite, or the Hessian is not positive definite.

    Source: the line of work on regularised softmax regression that the paper continues.
    """
    gradient, curvature = gradient_and_hessian(data, weights, target)
    squared = row_penalty * row_penalty
    gradient = gradient + combine_rows(squared * logits(data, weights), data)
    curvature = curvature + transpose(data) @ (squared[..., None] * data)
    try:
        np.linalg.cholesky(curvature)
    except np.linalg.LinAlgError:
        raise ValueError("row_penalty: expected a positive definite Hessian, got one that is not") from None
    return np.asanyarray(weights - np.linalg.solve(curvature, gradient[..., None])[..., 0])
