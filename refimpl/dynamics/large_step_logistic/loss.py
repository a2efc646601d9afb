r"""The logistic loss of signed features, its gradient and its curvature (Equations 2 and 3).

All depends on the samples through $z_i=y_ia_i$, and on $\theta$ through the margins $m_i=\langle z_i,\theta\rangle$.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.primitives.activations import sigmoid, softplus
from refimpl.primitives.checks import check_shapes, checked
from refimpl.primitives.numbers import Array, row_dot, sqrt, transpose


def _check(theta: Array, z: Array) -> None:
    check_shapes(theta=(theta, "... d"), z=(z, "n d"))


@checked(_check)
def sample_margins(theta: Array, z: Array) -> Array:
    r"""$m_i=\langle z_i,\theta\rangle$; the classifier is right about sample $i$ where $m_i>0$.

    Parameters
    ----------
    theta : array, shape (..., d)
    z : array, shape (n, d)

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: Equation 1.
    """
    return np.asanyarray(theta @ transpose(z))


@checked(_check)
def logistic_loss(theta: Array, z: Array) -> Array:
    r"""$f(\theta)=\frac1n\sum_i\ln(1+e^{-m_i})$, a mean over samples.

    Parameters
    ----------
    theta : array, shape (..., d)
    z : array, shape (n, d)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: Equation 2.
    """
    return np.asanyarray(softplus.unchecked(-sample_margins.unchecked(theta, z)).sum(axis=-1) / len(z))


@checked(_check)
def logistic_loss_vjp(theta: Array, z: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """:func:`logistic_loss` and its pullback ``cotangent -> (theta, z)``."""
    margins = sample_margins.unchecked(theta, z)

    def pullback(cotangent: Array) -> tuple[Array, Array]:
        to_margins = -sigmoid.unchecked(-margins) * np.asanyarray(cotangent)[..., None] / len(z)
        return to_margins @ z, _over_batch(to_margins, theta)

    return np.asanyarray(softplus.unchecked(-margins).sum(axis=-1) / len(z)), pullback


@checked(_check)
def logistic_gradient(theta: Array, z: Array) -> Array:
    r"""$\nabla f=-\frac1n\sum_ip_iz_i$ with $p_i=1/(1+e^{m_i})$.

    Parameters
    ----------
    theta : array, shape (..., d)
    z : array, shape (n, d)

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: Equation 3.
    """
    return np.asanyarray(-(sigmoid.unchecked(-sample_margins.unchecked(theta, z)) @ z) / len(z))


@checked(_check)
def logistic_gradient_vjp(theta: Array, z: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """:func:`logistic_gradient` and its pullback ``cotangent -> (theta, z)``: to `theta` the Hessian's product."""
    margins = sample_margins.unchecked(theta, z)
    p = sigmoid.unchecked(-margins)

    def pullback(cotangent: Array) -> tuple[Array, Array]:
        cotangent = np.asanyarray(cotangent)
        to_margins = p * sigmoid.unchecked(margins) * (cotangent @ transpose(z)) / len(z)
        return to_margins @ z, _over_batch(to_margins, theta) - _over_batch(p, cotangent) / len(z)

    return np.asanyarray(-(p @ z) / len(z)), pullback


def _over_batch(coefficients: Array, vectors: Array) -> Array:
    """The sum over all batch axes of outer products, shape (n, d)."""
    n, d = coefficients.shape[-1], vectors.shape[-1]
    return np.asanyarray(coefficients.reshape(-1, n).T @ vectors.reshape(-1, d))


def _curvatures(theta: Array, z: Array) -> Array:
    """$p_i(1-p_i)$, the loss's second derivative in each margin."""
    margins = sample_margins.unchecked(theta, z)
    return np.asanyarray(sigmoid.unchecked(-margins) * sigmoid.unchecked(margins))


@checked(_check)
def logistic_hessian(theta: Array, z: Array) -> Array:
    r"""$\nabla^2f=\frac1nZ^\top\operatorname{diag}(p(1-p))Z$.

    Parameters
    ----------
    theta : array, shape (..., d)
    z : array, shape (n, d)

    Returns
    -------
    array, shape (..., d, d)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    return np.asanyarray((transpose(z) * _curvatures(theta, z)[..., None, :]) @ z / len(z))


def _check_direction(theta: Array, z: Array, vector: Array) -> None:
    check_shapes(theta=(theta, "... d"), z=(z, "n d"), vector=(vector, "... d"))


@checked(_check_direction)
def hessian_vector_product(theta: Array, z: Array, vector: Array) -> Array:
    r"""$\nabla^2f\,v=\frac1nZ^\top(p(1-p)\odot Zv)$, without the matrix.

    Parameters
    ----------
    theta, vector : array, shape (..., d)
    z : array, shape (n, d)

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    return np.asanyarray((_curvatures(theta, z) * (vector @ transpose(z))) @ z / len(z))


def smoothness(z: Array) -> Any:
    r"""$L=\lambda_{\max}(Z^\top Z)/(4n)$, a Lipschitz constant of $\nabla f$; descent is certain for steps below $2/L$.

    Needs LAPACK, so no symbols.

    Parameters
    ----------
    z : array, shape (n, d)

    Returns
    -------
    number

    Raises
    ------
    ValueError
        If it is no matrix or an entry is not finite.
    """
    check_shapes(z=(z, "n d"))
    return np.linalg.norm(z, 2) ** 2 / (4 * len(z))


@checked(_check)
def normalized_margin(theta: Array, z: Array) -> Array:
    r"""$\min_i\langle z_i,\theta\rangle/\lVert\theta\rVert$, at most the data's margin $\mu$, positive for a separator.

    Parameters
    ----------
    theta : array, shape (..., d)
        Not zero.
    z : array, shape (n, d)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a vector is zero.

    Source: Section 8, on the implicit bias.
    """
    norms = sqrt(row_dot(theta, theta)[..., 0])
    if np.any(norms == 0):
        raise ValueError("theta: expected vectors that are not zero, got a zero vector")
    return np.asanyarray(np.min(sample_margins.unchecked(theta, z), axis=-1) / norms)
