r"""The softmax regression problem: its prediction, the normaliser, and the loss with its gradients."""

from collections.abc import Callable

import numpy as np

from refimpl.primitives.checks import check_shapes, checked
from refimpl.primitives.normalization import log_sum_exp, softmax, softmax_vjp
from refimpl.primitives.numbers import Array, exp, row_dot, row_sum

BLOCK = 2**17  # entries of the data in a block: 1 MiB in float64, beyond which BLAS's product of two columns is slow

# --- the prediction and its normaliser ---


def check_rows(**arguments: tuple[Array, str]) -> None:
    """:func:`check_shapes`, with n, the number of rows, at least 2."""
    if check_shapes(**arguments)["n"] < 2:
        name, (array, shape) = next((name, one) for name, one in arguments.items() if "n" in one[1].split())
        raise ValueError(f"{name}: expected n >= 2 in shape ({', '.join(shape.split())}), got {array.shape}")


def check_forward(data: Array, weights: Array) -> None:
    """Raise ``ValueError`` unless the data have n >= 2 rows and d >= 1 columns, and the weights fit them."""
    check_rows(data=(data, "... n d"), weights=(weights, "... d"))


def check_problem(data: Array, weights: Array, target: Array) -> None:
    """:func:`check_forward` with a target."""
    check_rows(data=(data, "... n d"), weights=(weights, "... d"), target=(target, "... n"))


@checked(check_forward)
def softmax_prediction(data: Array, weights: Array) -> Array:
    r"""$f(A,x)=\langle e^{Ax},\mathbf 1\rangle^{-1}e^{Ax}$, without overflow.

    Parameters
    ----------
    data : array, shape (..., n, d)
        $A$, the rows are word embeddings; n >= 2.
    weights : array, shape (..., d)
        $x$.

    Returns
    -------
    array, shape (..., n), on the simplex

    Raises
    ------
    ValueError
        If shapes do not fit, n < 2 or an entry is not finite.

    Source: arXiv 2304.13276, the softmax regression problem.
    """
    return softmax.unchecked(logits(data, weights))


@checked(check_forward)
def softmax_prediction_vjp(data: Array, weights: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """:func:`softmax_prediction` and its pullback ``cotangent -> (data, weights)``."""
    prediction, pull = softmax_vjp.unchecked(logits(data, weights))

    def pullback(cotangent: Array) -> tuple[Array, Array]:
        (to_logits,) = pull(cotangent)
        return outer(to_logits, weights), combine_rows(to_logits, data)

    return prediction, pullback


@checked(check_forward)
def exp_features(data: Array, weights: Array) -> Array:
    r"""$u(A,x)=e^{Ax}$, unnormalised.

    Parameters and shape as for :func:`softmax_prediction`.

    Raises
    ------
    ValueError
        Also if a logit is too large for its exponential to be formed: beyond 700 in float64. Take the logits then.

    Source: arXiv 2304.13276, the function $u$.
    """
    z = logits(data, weights)
    _check_exponents(z)
    return exp(z)


def normaliser(data: Array, weights: Array, log: bool = True) -> Array:
    r"""$\log\alpha$ or $\alpha=\langle e^{Ax},\mathbf 1\rangle$.

    Parameters
    ----------
    data, weights : as for :func:`softmax_prediction`
    log : bool
        The logarithm, which does not overflow.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        As :func:`softmax_prediction`, and without `log` as :func:`exp_features`.

    Source: arXiv 2304.13276, the function $\\alpha$.
    """
    if not log:
        return row_sum(exp_features(data, weights))[..., 0]
    check_forward(data, weights)
    return log_sum_exp.unchecked(logits(data, weights))


# --- the loss ---


@checked(check_problem)
def residual(data: Array, weights: Array, target: Array) -> Array:
    """$c=f(A,x)-b$, shape (..., n); parameters and errors as for :func:`softmax_regression_loss`."""
    return softmax.unchecked(logits(data, weights)) - target


@checked(check_problem)
def softmax_regression_loss(data: Array, weights: Array, target: Array) -> Array:
    r"""$L=\frac12\lVert f(A,x)-b\rVert^2$. The paper's title has the norm itself, its analysis this.

    Parameters
    ----------
    data : array, shape (..., n, d)
        $A$.
    weights : array, shape (..., d)
        $x$.
    target : array, shape (..., n)
        $b$; a probability vector in the applications, but any will do.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, n < 2 or an entry is not finite.

    Source: arXiv 2304.13276, the softmax regression problem.
    """
    c = residual.unchecked(data, weights, target)
    return _half_square(c)


@checked(check_problem)
def softmax_regression_loss_vjp(
    data: Array, weights: Array, target: Array
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    r""":func:`softmax_regression_loss` and its pullback ``cotangent -> (data, weights, target)``.

    With $g=f\circ c-f\langle f,c\rangle$ the gradients are $gx^\top$, $A^\top g$ and $-c$.
    """
    prediction, pull = softmax_vjp.unchecked(logits(data, weights))
    c = prediction - target

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        to_residual = c * np.asanyarray(cotangent)[..., None]
        (to_logits,) = pull(to_residual)
        return outer(to_logits, weights), combine_rows(to_logits, data), -to_residual

    return _half_square(c), pullback


# --- unchecked pieces ---


def logits(data: Array, weights: Array) -> Array:
    """$Ax$, shape (..., n)."""
    return np.asanyarray((data @ weights[..., None])[..., 0])


def two_logits(data: Array, weights: Array, direction: Array) -> tuple[Array, Array]:
    """$Ax$ and $Av$, for which the data are read once: a block of rows at a time, which stays in the cache."""
    pair = np.empty((*weights.shape, 2), dtype=np.result_type(weights, direction))
    pair[..., 0], pair[..., 1] = weights, direction
    n, rows = data.shape[-2], max(1, BLOCK // data.shape[-1])
    if n <= rows:
        both = data @ pair
    else:
        both = np.concatenate([data[..., start : start + rows, :] @ pair for start in range(0, n, rows)], axis=-2)
    return both[..., 0], both[..., 1]


def combine_rows(coefficients: Array, data: Array) -> Array:
    r"""$A^\top g$, shape (..., d): the sum of the rows of $A$ with these coefficients."""
    return np.asanyarray((coefficients[..., None, :] @ data)[..., 0, :])


def outer(x: Array, y: Array) -> Array:
    r"""$xy^\top$ over the last axes."""
    return np.asanyarray(x[..., :, None] * y[..., None, :])


def _half_square(c: Array) -> Array:
    return np.asanyarray(row_dot(c, c)[..., 0] / 2)


def _check_exponents(z: Array) -> None:
    """Raise ``ValueError`` where an exponential, its inverse or a sum of all could leave the range of the dtype."""
    if z.dtype == object:
        return
    limit = float(np.log(np.finfo(z.dtype).max)) - np.log(z.shape[-1])
    largest = float(np.max(np.abs(z), initial=0))
    if largest > limit:
        raise ValueError(
            f"data, weights: expected logits of at most {limit:.0f} in absolute value, got {largest:.4g}; "
            "take logarithms instead"
        )
