r"""What the curvature that a batch sees allows: learning rates, their scaling with the batch size, and damping.

A step along an eigenvector multiplies the error there by a number, and is stable while that is inside the unit circle.
The criterion is local and of a quadratic: networks trained above it may stabilise themselves.
"""

from typing import Any, Literal, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_array, check_integer, check_number, check_shapes
from refimpl.primitives.linear_systems import check_positive_definite, solve
from refimpl.primitives.numbers import Array, is_symbolic, positive_part, sqrt


def _check_curvature(name: str, value: Any) -> Array:
    array = check_array(name, value)
    if not is_symbolic(array) and not np.all(array > 0):
        raise ValueError(f"{name}: expected positive curvature, got {float(np.min(array))}")
    return array


def heavy_ball_matrix(learning_rate: Any, momentum: Any, curvature: Any) -> Array:
    r"""What takes $(w_t,w_{t-1})$ to $(w_{t+1},w_t)$ for heavy ball on $\frac\lambda2w^2$.

    $v\leftarrow\rho v-\eta g$, $w\leftarrow w+v$ gives
    $\begin{pmatrix}1+\rho-\eta\lambda&-\rho\\1&0\end{pmatrix}$.

    Parameters
    ----------
    learning_rate : number > 0
    momentum : number in [0, 1)
    curvature : array, shape (...), or number

    Returns
    -------
    array, shape (..., 2, 2)

    Raises
    ------
    ValueError
        If a number is out of range or not finite.
    """
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    momentum = check_number("momentum", momentum, "[0, 1)")
    curvature = check_array("curvature", curvature)
    corner = np.asanyarray(1 + momentum - learning_rate * curvature)
    out = np.zeros((*corner.shape, 2, 2), dtype=corner.dtype)
    out[..., 0, 0], out[..., 0, 1], out[..., 1, 0] = corner, -momentum, 1
    return out


def max_learning_rate_sgd(lambda_max_batch: Any, momentum: Any = 0) -> Array:
    r"""$2(1+\rho)/\lambda_1'$: above it gradient descent with heavy-ball momentum $\rho$ diverges on a quadratic.

    Parameters
    ----------
    lambda_max_batch : array, shape (...), or number, positive
        The largest curvature that a batch presents, not the full data's.
    momentum : number in [0, 1)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: arXiv 2006.09092, the linear scaling rule.
    """
    momentum = check_number("momentum", momentum, "[0, 1)")
    return np.asanyarray(2 * (1 + momentum) / _check_curvature("lambda_max_batch", lambda_max_batch))


def max_learning_rate_adaptive(lambda_max_batch: Any, damping: Any = 0) -> Array:
    r"""$2(\sqrt{\lambda'}+\delta)/\lambda'$: the largest rate where $\sqrt{\lambda'}+\delta$ divides the gradient.

    For a method such as Adam, whose preconditioner is about the square root of the curvature; $\delta$ is its
    $\epsilon$. Without damping it is $2/\sqrt{\lambda'}$.

    Parameters
    ----------
    lambda_max_batch : array, shape (...), or number, positive
    damping : number >= 0

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: arXiv 2006.09092, the square-root scaling rule.
    """
    damping = check_number("damping", damping, "[0, inf)")
    curvature = _check_curvature("lambda_max_batch", lambda_max_batch)
    return np.asanyarray(2 * (sqrt(curvature) + damping) / curvature)


def scale_learning_rate(base_rate: Any, base_batch: Any, batch_size: Any, rule: Literal["linear", "sqrt"]) -> Array:
    r"""$\eta(B_0)B/B_0$ for SGD, $\eta(B_0)\sqrt{B/B_0}$ for Adam, while noise dominates the curvature.

    For SGD that is up to where the rate reaches $2/\lambda_1$ of the full data.

    Parameters
    ----------
    base_rate : array, shape (...), or number, positive
    base_batch, batch_size : int >= 1
    rule : "linear" or "sqrt"

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If a number is out of range or the rule is unknown.

    Source: arXiv 2006.09092, the scaling rules.
    """
    rate = _check_curvature("base_rate", base_rate)
    base_batch, batch_size = check_integer("base_batch", base_batch, 1), check_integer("batch_size", batch_size, 1)
    if rule not in ("linear", "sqrt"):
        raise ValueError(f"rule: expected linear or sqrt, got {rule!r}")
    ratio = np.asarray(batch_size, dtype=rate.dtype) / base_batch
    return np.asanyarray(rate * (ratio if rule == "linear" else sqrt(ratio)))


def minimal_damping(learning_rate: Any, batch_curvature: Any, estimated_curvature: Any) -> Array:
    r"""$\delta_{min}=\max(0,\eta\lambda'/2-\hat\lambda)$: below it a damped second-order step diverges.

    In flat directions, $\hat\lambda\approx0$, whose batch curvature is noise, $\lambda'\propto1/B$, it is proportional
    to $\eta/B$.

    Parameters
    ----------
    learning_rate : number > 0
    batch_curvature : array, shape (...), or number
        $\lambda'$, which the batch presents along a direction.
    estimated_curvature : array of the same shape, or number
        $\hat\lambda$, which the preconditioner reports there.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes differ, an entry is not finite or the rate is not positive.

    Source: arXiv 2006.09092, minimal damping.
    """
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    batch = check_array("batch_curvature", batch_curvature)
    estimated = check_array("estimated_curvature", estimated_curvature)
    if batch.shape != estimated.shape:
        raise ValueError(f"estimated_curvature: expected shape {batch.shape} as batch_curvature, got {estimated.shape}")
    return positive_part(learning_rate * batch / 2 - estimated)


def damped_step(gradient: Array, estimated_hessian: Array, damping: Any, learning_rate: Any) -> Array:
    r"""$-\eta(\hat H+\delta I)^{-1}g$, which is added to the parameters.

    Parameters
    ----------
    gradient : array, shape (P,)
    estimated_hessian : array, shape (P, P)
        Symmetric; positive definite with the damping added.
    damping : number >= 0
    learning_rate : number > 0

    Returns
    -------
    array, shape (P,)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a number is out of range or the damped matrix is not symmetric
        positive definite.

    Source: arXiv 2006.09092, damped second-order optimisation.
    """
    size = check_shapes(gradient=(gradient, "p"), estimated_hessian=(estimated_hessian, "p p"))["p"]
    damping = check_number("damping", damping, "[0, inf)")
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    damped = estimated_hessian + damping * np.eye(size, dtype=estimated_hessian.dtype)
    check_positive_definite("estimated_hessian", damped)
    return np.asanyarray(-learning_rate * solve(damped, gradient[:, None])[:, 0])


class Pace(NamedTuple):
    """A learning rate and a heavy-ball momentum."""

    learning_rate: Any
    momentum: Any


def polyak_pace(largest: Any, smallest: Any) -> Pace:
    r"""$\eta=\big(\frac2{\sqrt{\lambda_1}+\sqrt{\lambda_n}}\big)^2$,
    $\rho=\big(\frac{\sqrt{\lambda_1}-\sqrt{\lambda_n}}{\sqrt{\lambda_1}+\sqrt{\lambda_n}}\big)^2$: the fastest
    heavy ball on curvatures from $\lambda_n$ to $\lambda_1$. The error falls by $\sqrt\rho$ a step in every direction.

    Parameters
    ----------
    largest, smallest : numbers, 0 < smallest <= largest

    Raises
    ------
    ValueError
        If a curvature is not positive or the largest is below the smallest.

    Source: Polyak (1964); arXiv 2006.09092, on-the-fly learning rates.
    """
    smallest = check_number("smallest", smallest, "(0, inf)")
    if not getattr(smallest, "free_symbols", None):
        check_number("largest", largest, f"[{smallest}, inf)")
    top, bottom = sqrt(largest)[()], sqrt(smallest)[()]
    return Pace((2 / (top + bottom)) ** 2, ((top - bottom) / (top + bottom)) ** 2)
