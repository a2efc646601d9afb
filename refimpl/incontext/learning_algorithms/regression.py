r"""The learning algorithms that a trained transformer is compared with (Section 4), and the errors they must make.

Examples are rows. The loss is $\sum_i(w^\top x_i-y_i)^2+\lambda\lVert w\rVert^2$, without a half and as a sum, so the
paper's rate $\alpha$ is half of that of :mod:`refimpl.primitives.least_squares`, where least squares and ridge live.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.least_squares import gradient_descent, least_squares_gradient, ols_weights, ridge_weights
from refimpl.primitives.numbers import Array, transpose

Predictor = Callable[[Array, Array, Array], Array]


def _check_loss(weights: Array, x: Array, y: Array, weight_decay: Any = 0) -> None:
    check_shapes(weights=(weights, "... d"), x=(x, "... n d"), y=(y, "... n"))
    check_number("weight_decay", weight_decay, "[0, inf)")


@checked(_check_loss)
def regularized_loss(weights: Array, x: Array, y: Array, weight_decay: Any = 0) -> Array:
    r"""$\sum_i(w^\top x_i-y_i)^2+\lambda\lVert w\rVert^2$.

    Parameters
    ----------
    weights : array, shape (..., d)
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    weight_decay : float >= 0
        $\lambda$.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the weight decay is negative.

    Source: arXiv 2211.15661, Section 3 (the loss of Theorem 1).
    """
    residual = (x @ weights[..., None])[..., 0] - y
    return np.asanyarray((residual * residual).sum(axis=-1) + weight_decay * (weights * weights).sum(axis=-1))


@checked(_check_loss)
def regularized_loss_vjp(
    weights: Array, x: Array, y: Array, weight_decay: Any = 0
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    """:func:`regularized_loss` and its pullback ``cotangent -> (weights, x, y)``."""
    residual = (x @ weights[..., None])[..., 0] - y

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        twice = 2 * np.asanyarray(cotangent)[..., None]
        to_weights = twice * (least_squares_gradient(weights, x, y) + weight_decay * weights)
        to_residual = twice * residual
        return to_weights, to_residual[..., None] * weights[..., None, :], -to_residual

    return regularized_loss.unchecked(weights, x, y, weight_decay), pullback


def sgd_weights(
    x: Array,
    y: Array,
    learning_rate: Any,
    weight_decay: Any = 0,
    initial_weights: Array | None = None,
    clip: Any | None = None,
) -> Array:
    r"""One pass over the examples in order, $w\leftarrow w-2\alpha(x\,w^\top x-yx+\lambda w)$ for each.

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    learning_rate : float > 0
        $\alpha$.
    weight_decay : float >= 0
        $\lambda$.
    initial_weights : array, shape (..., d), or None for zeros
    clip : float > 0, or None
        The largest absolute entry of a gradient; the authors' code has 20.

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a parameter is out of range.

    Source: arXiv 2211.15661, Eq. 11 and Section 4.1; the clipping from the authors' code.
    """
    shapes = {"x": (x, "... n d"), "y": (y, "... n")}
    if initial_weights is not None:
        shapes["initial_weights"] = (initial_weights, "... d")
    sizes = check_shapes(**shapes)
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    weight_decay = check_number("weight_decay", weight_decay, "[0, inf)")
    if clip is not None:
        clip = check_number("clip", clip, "(0, inf)")
    weights = x[..., 0, :] * 0 if initial_weights is None else initial_weights
    for i in range(sizes["n"]):
        example = x[..., i : i + 1, :], y[..., i : i + 1]
        gradient = 2 * (least_squares_gradient(weights, *example) + weight_decay * weights)
        weights = weights - learning_rate * (gradient if clip is None else np.clip(gradient, -clip, clip))
    return weights


def gd_weights(
    x: Array,
    y: Array,
    learning_rate: Any,
    weight_decay: Any = 0,
    initial_weights: Array | None = None,
    n_steps: int = 1,
) -> Array:
    r"""Batch gradient steps $w\leftarrow w-2\alpha(X^\top Xw-X^\top y+\lambda w)$, in the paper one.

    Parameters and errors as for :func:`sgd_weights`. (The authors' code runs something else under this name: a step for
    each prefix of the examples in turn.)

    Source: arXiv 2211.15661, Section 4.1, with $\alpha$ from 0.01 to 0.03.
    """
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    return gradient_descent(x, y, n_steps, 2 * learning_rate, initial_weights, weight_decay)


def knn_predict(x: Array, y: Array, x_query: Array, n_neighbours: int = 3, power: int = 2) -> Array:
    r"""The mean target of the nearest examples, weighted by $\lVert x_i-x_{query}\rVert^{-p}$ (floats only).

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    x_query : array, shape (..., d)
    n_neighbours : int >= 1
        All examples where there are fewer.
    power : int >= 0
        $p$: 2 in the paper, 1 in the authors' code, 0 for equal weights. Where an example coincides with the query, its
        target is the prediction, the mean of theirs if several do.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a parameter is out of range.

    Source: arXiv 2211.15661, Section 4.1.
    """
    sizes = check_shapes(x=(x, "... n d"), y=(y, "... n"), x_query=(x_query, "... d"))
    n_neighbours = min(check_integer("n_neighbours", n_neighbours, 1), sizes["n"])
    power = check_integer("power", power, 0)
    difference = x - x_query[..., None, :]
    distance = np.sqrt((difference * difference).sum(axis=-1))
    nearest = np.argsort(distance, axis=-1, kind="stable")[..., :n_neighbours]
    distance, target = (np.take_along_axis(one, nearest, axis=-1) for one in (distance, y))
    if power == 0:
        return np.asanyarray(target.mean(axis=-1))
    # Relative to the nearest, so that no weight is larger than 1; where that is 0, those at 0 share the weight.
    least = distance[..., :1]
    with np.errstate(invalid="ignore"):
        weights = np.where(least > 0, least / np.where(distance > 0, distance, 1), distance == 0).astype(y.dtype)
    weights = weights**power
    return np.asanyarray((weights * target).sum(axis=-1) / weights.sum(axis=-1))


def bayes_ridge_weights(x: Array, y: Array, noise_var: Any, prior_var: Any) -> Array:
    r"""The posterior mean of $w\sim N(0,\tau^2I)$ from $y=Xw+N(0,\sigma^2I)$: ridge with $\lambda=\sigma^2/\tau^2$.

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    noise_var : float >= 0
        $\sigma^2$; without noise it is the limit, the interpolant of least norm (LAPACK: floats only).
    prior_var : float > 0
        $\tau^2$.

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a variance is out of range.

    Source: arXiv 2211.15661, Eq. 18 and 19.
    """
    noise_var = check_number("noise_var", noise_var, "[0, inf)")
    prior_var = check_number("prior_var", prior_var, "(0, inf)")
    return ols_weights(x, y) if noise_var == 0 else ridge_weights(x, y, noise_var / prior_var)


def sherman_morrison_update(inverse: Array, x: Array) -> Array:
    r"""$(A^{-1}+xx^\top)^{-1}=A-\frac{Axx^\top A}{1+x^\top Ax}$ for a symmetric $A$.

    Parameters
    ----------
    inverse : array, shape (..., d, d)
        $A$, positive definite.
    x : array, shape (..., d)

    Returns
    -------
    array, shape (..., d, d)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2211.15661, Eq. 13 and 14.
    """
    check_shapes(inverse=(inverse, "... d d"), x=(x, "... d"))
    column = x[..., None]
    direction = inverse @ column
    return inverse - direction / (1 + transpose(column) @ direction) @ transpose(direction)


def online_predictions(predictor: Predictor, x: Array, y: Array) -> Array:
    r"""The prediction at each $x_i$ from the examples before it, $i=2,\dots,n$.

    Parameters
    ----------
    predictor : callable
        ``(x, y, x_query) -> prediction`` with shapes (..., m, d), (..., m), (..., d) and (...); see
        :func:`linear_predictor`.
    x : array, shape (..., n, d)
    y : array, shape (..., n)

    Returns
    -------
    array, shape (..., n - 1)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or there are fewer than two examples.

    Source: arXiv 2211.15661, Section 4.1; the authors' ``online_regression`` starts at the second pair too.
    """
    sizes = check_shapes(x=(x, "... n d"), y=(y, "... n"))
    if sizes["n"] < 2:
        raise ValueError(f"x: expected at least 2 examples, got {sizes['n']}")
    return np.stack([predictor(x[..., :i, :], y[..., :i], x[..., i, :]) for i in range(1, sizes["n"])], axis=-1)


def linear_predictor(fit: Callable[..., Array], **arguments: Any) -> Predictor:
    """The predictor $w^\top x$ with weights ``fit(x, y, **arguments)``."""

    def predict(x: Array, y: Array, x_query: Array) -> Array:
        return np.asanyarray((fit(x, y, **arguments) * x_query).sum(axis=-1))

    return predict


# --- the errors that they must make ---


def ridge_risk(eigenvalues: Array, ridge: Any, noise_var: Any, prior_var: Any) -> Array:
    r"""$\mathbb E\lVert\hat w-w\rVert^2=\sum_i\frac{\tau^2\lambda^2+\sigma^2s_i}{(s_i+\lambda)^2}$ of ridge, given X.

    Parameters
    ----------
    eigenvalues : array, shape (..., d)
        $s_i\ge0$, of $X^\top X$.
    ridge : float > 0
        $\lambda$.
    noise_var : float >= 0
        $\sigma^2$.
    prior_var : float > 0
        $\tau^2$, of $w\sim N(0,\tau^2I)$.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If an eigenvalue is negative or a number out of range.
    """
    check_shapes(eigenvalues=(eigenvalues, "... d"))
    if eigenvalues.dtype != object and np.any(eigenvalues < 0):
        raise ValueError(f"eigenvalues: expected none below 0, got {eigenvalues.min()}")
    ridge = check_number("ridge", ridge, "(0, inf)")
    noise_var = check_number("noise_var", noise_var, "[0, inf)")
    prior_var = check_number("prior_var", prior_var, "(0, inf)")
    shifted = eigenvalues + ridge
    return np.asanyarray(((prior_var * ridge**2 + noise_var * eigenvalues) / (shifted * shifted)).sum(axis=-1))


def least_norm_risk(n_examples: Any, n_inputs: Any, noise_var: Any, prior_var: Any) -> Any:
    r"""$\mathbb E\lVert\hat w-w\rVert^2$ of least squares of least norm on standard normal inputs.

    $\tau^2(d-n)+\frac{\sigma^2n}{d-n-1}$ for $n\le d-2$ and $\frac{\sigma^2d}{n-d-1}$ for $n\ge d+2$; with noise it is
    infinite in between.

    Parameters
    ----------
    n_examples, n_inputs : int >= 1
    noise_var : float >= 0
        $\sigma^2$.
    prior_var : float > 0
        $\tau^2$, of $w\sim N(0,\tau^2I)$.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    n = check_integer("n_examples", n_examples, 1)
    d = check_integer("n_inputs", n_inputs, 1)
    noise_var = check_number("noise_var", noise_var, "[0, inf)")
    missed = check_number("prior_var", prior_var, "(0, inf)") * max(d - n, 0)
    if noise_var == 0:
        return missed
    # The noise enters by the trace of the inverse Wishart matrix of the smaller of the two sizes.
    gap = abs(d - n) - 1
    return missed + noise_var * min(n, d) / gap if gap > 0 else float("inf")


def one_layer_rate(n_examples: Any, n_inputs: Any, noise_var: Any, prior_var: Any) -> Any:
    r"""$\eta^*=1/(n+d+1+\sigma^2/\tau^2)$, the best rate of $x^\top\eta X^\top y$ on standard normal inputs.

    Parameters and errors as for :func:`one_layer_risk`.
    """
    n, d, noise_var, prior_var = _check_law(n_examples, n_inputs, noise_var, prior_var)
    return 1 / (n + d + 1 + noise_var / prior_var)


def one_layer_risk(learning_rate: Any, n_examples: Any, n_inputs: Any, noise_var: Any, prior_var: Any) -> Any:
    r"""$\mathbb E\lVert\eta X^\top y-w\rVert^2=\tau^2d-2\eta\tau^2nd+\eta^2nd\,(\tau^2(n+d+1)+\sigma^2)$.

    It is the error of one linear-attention layer, or one gradient step from zero, on standard normal inputs.

    Parameters
    ----------
    learning_rate : float
        $\eta$, twice the paper's $\alpha$.
    n_examples, n_inputs : int >= 1
    noise_var : float >= 0
        $\sigma^2$.
    prior_var : float > 0
        $\tau^2$, of $w\sim N(0,\tau^2I)$.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    n, d, noise_var, prior_var = _check_law(n_examples, n_inputs, noise_var, prior_var)
    rate = check_number("learning_rate", learning_rate)
    return prior_var * d * (1 - 2 * rate * n) + rate**2 * n * d * (prior_var * (n + d + 1) + noise_var)


def _check_law(n_examples: Any, n_inputs: Any, noise_var: Any, prior_var: Any) -> tuple[Any, Any, Any, Any]:
    return (
        check_integer("n_examples", n_examples, 1),
        check_integer("n_inputs", n_inputs, 1),
        check_number("noise_var", noise_var, "[0, inf)"),
        check_number("prior_var", prior_var, "(0, inf)"),
    )
