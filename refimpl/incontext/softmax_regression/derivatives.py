r"""The gradient of the loss in the weights, and its Hessian in factored form.

**The Hessian is a weighted covariance.** Write $P=I-\mathbf 1f^\top$ for "subtract the mean under $f$" and

$$q=2f-b-\langle f,c\rangle\mathbf 1.$$

The five terms of the paper's core $B$ are $B=P^\top\operatorname{diag}(f\circ q)P$, so that
$\nabla^2L=A^\top BA=(PA)^\top\operatorname{diag}(f\circ q)(PA)$: products with $B$ take $O(n)$ operations, the Hessian
$O(nd^2)$, and $PA$, the rows of $A$ less their mean, does not change when a common vector is added to all rows, nor do
the digits that such a vector costs.
"""

from collections.abc import Callable

import numpy as np

from refimpl.incontext.softmax_regression.problem import (
    check_forward,
    check_problem,
    check_rows,
    combine_rows,
    logits,
    outer,
    two_logits,
)
from refimpl.primitives.checks import checked
from refimpl.primitives.normalization import softmax, softmax_vjp
from refimpl.primitives.numbers import Array, row_dot, transpose

# --- the gradient ---


@checked(check_problem)
def loss_gradient(data: Array, weights: Array, target: Array) -> Array:
    r"""$\nabla_xL=A^\top(f\circ c-f\langle f,c\rangle)=A^\top Jc$.

    Parameters and errors as for :func:`softmax_regression_loss`.

    Returns
    -------
    array, shape (..., d)

    Source: arXiv 2304.13276, the gradient of $L$ in $x$.
    """
    prediction, pull = softmax_vjp.unchecked(logits(data, weights))
    (to_logits,) = pull(prediction - target)
    return combine_rows(to_logits, data)


@checked(check_problem)
def loss_gradient_vjp(
    data: Array, weights: Array, target: Array
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    r""":func:`loss_gradient` and its pullback ``cotangent -> (data, weights, target)``.

    The Hessian is symmetric, so the cotangent of the weights is the Hessian-vector product. That of the data is the
    transpose of the mixed derivative: along $E$ the gradient changes by $E^\top Jc+A^\top BEx$.
    """
    prediction, pull = softmax_vjp.unchecked(logits(data, weights))
    (to_logits,) = pull(prediction - target)

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        along = logits(data, cotangent)
        curved = core_product.unchecked(prediction, target, along)
        (to_target,) = pull(along)
        return outer(to_logits, cotangent) + outer(curved, weights), combine_rows(curved, data), -to_target

    return combine_rows(to_logits, data), pullback


# --- the Hessian ---


def _check_core(prediction: Array, target: Array) -> None:
    check_rows(prediction=(prediction, "... n"), target=(target, "... n"))


def _check_product(prediction: Array, target: Array, direction: Array) -> None:
    check_rows(prediction=(prediction, "... n"), target=(target, "... n"), direction=(direction, "... n"))


@checked(_check_core)
def hessian_core(prediction: Array, target: Array) -> Array:
    r"""$B$ of $\nabla^2_xL=A^\top BA$, in the paper's five terms; symmetric, $B\mathbf 1=0$, not positive in general.

    $$B=\langle3f-2b,f\rangle ff^\top-\langle f-b,f\rangle\operatorname{diag}f+\operatorname{diag}r-rf^\top-fr^\top,
    \qquad r=(2f-b)\circ f.$$

    Parameters
    ----------
    prediction : array, shape (..., n)
        $f$, on the simplex.
    target : array, shape (..., n)
        $b$.

    Returns
    -------
    array, shape (..., n, n)

    Raises
    ------
    ValueError
        If shapes do not fit, n < 2 or an entry is not finite.

    Source: arXiv 2304.13276, the Hessian of $L$ in $x$.
    """
    r = (2 * prediction - target) * prediction
    on_diagonal = r - row_dot(prediction - target, prediction) * prediction
    factor = row_dot(3 * prediction - 2 * target, prediction)[..., None]
    core = factor * outer(prediction, prediction) - outer(r, prediction) - outer(prediction, r)
    index = np.arange(prediction.shape[-1])
    core[..., index, index] += on_diagonal
    return core


@checked(_check_product)
def core_product(prediction: Array, target: Array, direction: Array) -> Array:
    r"""$Bs=P^\top(f\circ q\circ Ps)$ in $O(n)$ operations, without forming $B$.

    Parameters
    ----------
    prediction, target, direction : array, shape (..., n)
        $f$, $b$ and $s$.

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If shapes do not fit, n < 2 or an entry is not finite.

    Source: arXiv 2304.13276, the Hessian of $L$ in $x$; factored here.
    """
    weighted = _curvature(prediction, target)
    weighted *= direction - row_dot(prediction, direction)
    weighted -= row_dot(prediction, weighted)
    weighted *= prediction
    return weighted


@checked(_check_product)
def hessian_quadratic_form(prediction: Array, target: Array, direction: Array) -> Array:
    r"""$v^\top Bv=\lVert Jv\rVert^2+\mathbb E_f[(c-\mathbb E_fc)(v-\mathbb E_fv)^2]$, from which bounds can be read.

    Parameters and errors as for :func:`core_product`; shape (...).
    """
    c = prediction - target
    deviation = direction - row_dot(prediction, direction)
    moved = prediction * deviation
    curvature = row_dot(moved, (c - row_dot(prediction, c)) * deviation)
    return (row_dot(moved, moved) + curvature)[..., 0]


@checked(check_problem)
def hessian(data: Array, weights: Array, target: Array) -> Array:
    r"""$\nabla^2_xL=A^\top BA$ as the covariance of the rows of $A$ with weights $f\circ q$, $O(nd^2)$ operations.

    Parameters and errors as for :func:`softmax_regression_loss`.

    Returns
    -------
    array, shape (..., d, d)
        Symmetric; indefinite in general, and singular along every $v$ with $Av\propto\mathbf 1$.

    Source: arXiv 2304.13276, the Hessian of $L$ in $x$.
    """
    return _covariance(data, softmax.unchecked(logits(data, weights)), target)


def _check_direction(data: Array, weights: Array, target: Array, direction: Array) -> None:
    check_rows(
        data=(data, "... n d"), weights=(weights, "... d"), target=(target, "... n"), direction=(direction, "... d")
    )


@checked(_check_direction)
def hessian_vector_product(data: Array, weights: Array, target: Array, direction: Array) -> Array:
    r"""$\nabla^2_xL\,v=A^\top B(Av)$ in $O(nd)$ operations.

    Parameters
    ----------
    data, weights, target : as for :func:`softmax_regression_loss`
    direction : array, shape (..., d)
        $v$.

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit, n < 2 or an entry is not finite.
    """
    z, along = two_logits(data, weights, direction)
    return combine_rows(core_product.unchecked(softmax.unchecked(z), target, along), data)


@checked(check_forward)
def gauss_newton(data: Array, weights: Array) -> Array:
    r"""$A^\top J^2A=(JA)^\top JA\succeq0$, the part of the Hessian that does not see the residual.

    Parameters and errors as for :func:`softmax_prediction`; shape (..., d, d).
    """
    prediction = softmax.unchecked(logits(data, weights))
    moved = prediction[..., None] * _centred_rows(data, prediction)
    return transpose(moved) @ moved


# --- unchecked pieces ---


def _curvature(prediction: Array, target: Array) -> Array:
    r"""$q=2f-b-\langle f,c\rangle\mathbf 1$."""
    c = prediction - target
    q = c + prediction
    q -= row_dot(prediction, c)
    return q


def _centred_rows(data: Array, prediction: Array) -> Array:
    """$PA$: the rows of $A$ less their mean under $f$."""
    return data - combine_rows(prediction, data)[..., None, :]


def gradient_and_hessian(data: Array, weights: Array, target: Array) -> tuple[Array, Array]:
    """:func:`loss_gradient` and :func:`hessian` from one prediction."""
    prediction, pull = softmax_vjp.unchecked(logits(data, weights))
    (to_logits,) = pull(prediction - target)
    return combine_rows(to_logits, data), _covariance(data, prediction, target)


def _covariance(data: Array, prediction: Array, target: Array) -> Array:
    r"""$A^\top BA=(PA)^\top\operatorname{diag}(f\circ q)PA$."""
    centred = _centred_rows(data, prediction)
    return np.asanyarray(transpose(centred) @ ((prediction * _curvature(prediction, target))[..., None] * centred))
