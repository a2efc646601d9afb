r"""Least squares with examples in rows: $X$ of shape (..., n, d), targets $y$ of shape (..., n), weights (..., d).

The loss is $\frac12\|Xw-y\|^2+\frac\rho2\|w\|^2$, a **sum** over examples: a rate for the mean is $n$ times ours.
"""

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.linear_systems import solve
from refimpl.primitives.numbers import Array, transpose

SMALL_GRAM = 64
BLOCK = 2**17
"""Entries of a block: 1 MiB in float64."""


def gram_matrix(x: Array) -> Array:
    r"""$X^\top X$, shape (..., d, d); arguments unchecked.

    For the product of an array with its own transpose NumPy calls ``syrk``, half the work on one large matrix, but slow
    to start on each of many small ones. They are copied, a block at a time that stays in the cache.
    """
    if x.ndim == 2 or x.shape[-1] > SMALL_GRAM or x.dtype == object:
        return transpose(x) @ x
    matrices = x.reshape(-1, *x.shape[-2:])
    size = max(1, BLOCK // (x.shape[-2] * x.shape[-1]))
    blocks = [matrices[start : start + size] for start in range(0, max(1, len(matrices)), size)]
    products = [transpose(block) @ block.copy() for block in blocks]
    product = products[0] if len(products) == 1 else np.concatenate(products)
    return product.reshape(*x.shape[:-2], *product.shape[-2:])


def ols_weights(x: Array, y: Array) -> Array:
    """The least-squares weights of minimal norm, by the pseudo-inverse (LAPACK: floats only).

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    check_shapes(x=(x, "... n d"), y=(y, "... n"))
    return (np.linalg.pinv(x) @ y[..., None])[..., 0]


def _check_ridge(x: Array, y: Array, penalty: float) -> None:
    check_shapes(x=(x, "... n d"), y=(y, "... n"))
    check_number("penalty", penalty, "(0, inf)")


@checked(_check_ridge)
def ridge_weights(x: Array, y: Array, penalty: float) -> Array:
    r"""$(X^\top X+\rho I)^{-1}X^\top y$.

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    penalty : float > 0
        $\rho$, of the sum over examples.

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the penalty is not positive.
    """
    penalty = check_number("penalty", penalty)  # a Python number, which promotes no dtype
    gram = gram_matrix(x) + penalty * np.eye(x.shape[-1], dtype=x.dtype)
    return solve(gram, transpose(x) @ y[..., None])[..., 0]


def least_squares_gradient(weights: Array, x: Array, y: Array) -> Array:
    r"""$X^\top(Xw-y)$, shape (..., d): the gradient of half the sum of squares; arguments unchecked."""
    residual = x @ weights[..., None] - y[..., None]
    return (transpose(x) @ residual)[..., 0]


def gradient_descent(
    x: Array, y: Array, n_steps: int, learning_rate: float, initial_weights: Array | None = None, penalty: float = 0
) -> Array:
    r"""`n_steps` full-batch steps $w\leftarrow w-\eta(X^\top(Xw-y)+\rho w)$, from zero by default.

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    n_steps : int >= 0
    learning_rate : float > 0
        $\eta$, of the sum over examples.
    initial_weights : array, shape (..., d), or None for zeros
    penalty : float >= 0
        $\rho$.

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a parameter is out of range.
    """
    shapes = {"x": (x, "... n d"), "y": (y, "... n")}
    if initial_weights is not None:
        shapes["initial_weights"] = (initial_weights, "... d")
    check_shapes(**shapes)
    n_steps = check_integer("n_steps", n_steps, 0)
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    penalty = check_number("penalty", penalty, "[0, inf)")
    weights = x[..., 0, :] * 0 if initial_weights is None else initial_weights
    for _ in range(n_steps):
        weights = weights - learning_rate * (least_squares_gradient(weights, x, y) + penalty * weights)
    return weights


def induced_weights(queries: Array, predictions: Array) -> Array:
    r"""The linear weights $(\tilde X^\top\tilde X)^{-1}\tilde X^\top\tilde Y$ that fit a predictor's answers (LAPACK).

    Of a predictor that is linear in the query these are its own weights, whatever the queries.

    Parameters
    ----------
    queries : array, shape (..., n_queries, d), n_queries >= d
    predictions : array, shape (..., n_queries)
        What the predictor answers to each.

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or there are fewer queries than dimensions.

    Source: arXiv 2310.17086, Section 3.3; arXiv 2211.15661, Section 4 (implicit linear weights).
    """
    sizes = check_shapes(queries=(queries, "... n_queries d"), predictions=(predictions, "... n_queries"))
    if sizes["n_queries"] < sizes["d"]:
        raise ValueError(f"queries: expected at least d = {sizes['d']} of them, got {sizes['n_queries']}")
    return ols_weights(queries, predictions)
