r"""Shifts of the weights and of the data, and the effective target that says what either does.

Moving $x_t\to x_{t+1}$ or $A_t\to A_{t+1}$ with target $b$ has the residual that staying with the target
$\tilde b=b-(f_{t+1}-f_t)$ has. :func:`equivalent_data_shift` turns a step of the weights into one of the data with
exactly the same prediction.
"""

import numpy as np

from refimpl.incontext.softmax_regression.problem import check_rows, logits
from refimpl.primitives.attention import softmax_attention
from refimpl.primitives.checks import check_shapes, checked
from refimpl.primitives.numbers import Array, row_dot, transpose

# --- effective targets ---


def _check_predictions(old: Array, new: Array, target: Array) -> None:
    check_shapes(old=(old, "... n"), new=(new, "... n"), target=(target, "... n"))


@checked(_check_predictions)
def shifted_target(old: Array, new: Array, target: Array) -> Array:
    r"""$\tilde b=b-(f_{t+1}-f_t)$: the target for which staying has the residual that moving has.

    It keeps the sum of $b$, but not its sign: an entry may be negative.

    Parameters
    ----------
    old, new : array, shape (..., n)
        $f_t$ and $f_{t+1}$.
    target : array, shape (..., n)
        $b$.

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If shapes differ or an entry is not finite.

    Source: arXiv 2304.13276, the definition of the transformed target in the main theorem.
    """
    return np.asanyarray(target - (new - old))


def _check_linear(data: Array, step: Array, target: Array) -> None:
    check_shapes(data=(data, "... n d"), step=(step, "... d"), target=(target, "... n"))


@checked(_check_linear)
def linear_shifted_target(data: Array, step: Array, target: Array) -> Array:
    r"""$\tilde b=b-A\,\Delta x$, the same for linear regression: $A(x+\Delta x)-b=Ax-\tilde b$ for every $x$.

    Parameters
    ----------
    data : array, shape (..., n, d)
    step : array, shape (..., d)
        $\Delta x$.
    target : array, shape (..., n)

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2304.13276, the linear regression that the paper generalises.
    """
    return np.asanyarray(target - logits(data, step))


def _check_sequence(predictions: Array, target: Array) -> None:
    steps = check_shapes(predictions=(predictions, "... steps n"))
    check_shapes(predictions=(predictions, "... steps n"), target=(target, "... n"))
    if steps["steps"] < 2:
        raise ValueError(f"predictions: expected at least two, got shape {predictions.shape}")


@checked(_check_sequence)
def accumulated_target(predictions: Array, target: Array) -> Array:
    r"""The effective target after each of many shifts; they telescope to $\tilde b_t=b-(f_t-f_0)$.

    Parameters
    ----------
    predictions : array, shape (..., n_shifts + 1, n)
        $f_0,f_1,\dots$
    target : array, shape (..., n)

    Returns
    -------
    array, shape (..., n_shifts, n)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or there is no shift.
    """
    return np.asanyarray(target[..., None, :] - (predictions[..., 1:, :] - predictions[..., :1, :]))


# --- shifts of the data ---


def _check_attention(data: Array, query: Array, key: Array, value: Array, projection: Array) -> None:
    check_shapes(
        data=(data, "... n d"),
        query=(query, "d_head d"),
        key=(key, "d_head d"),
        value=(value, "d_value d"),
        projection=(projection, "d d_value"),
    )


@checked(_check_attention)
def data_shift(data: Array, query: Array, key: Array, value: Array, projection: Array) -> Array:
    r"""What one head of softmax self-attention adds to the data: row $j$ gets
    $PW_VA^\top\operatorname{softmax}(AW_K^\top W_Qa_j)$.

    Parameters
    ----------
    data : array, shape (..., n, d)
    query, key : array, shape (d_head, d)
        $W_Q$ and $W_K$.
    value : array, shape (d_value, d)
        $W_V$.
    projection : array, shape (d, d_value)
        $P$.

    Returns
    -------
    array, shape (..., n, d)
        $\Delta A$.

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2304.13276, the self-attention update of the data.
    """
    queries, keys, values = (data @ transpose(matrix) for matrix in (query, key, value))
    return np.asanyarray(softmax_attention.unchecked(queries, keys, values, scale=1) @ transpose(projection))


def _check_equivalent(data: Array, weights: Array, step: Array) -> None:
    check_rows(data=(data, "... n d"), weights=(weights, "... d"), step=(step, "... d"))
    if weights.dtype != object and not np.all(np.any(weights, axis=-1)):
        raise ValueError("weights: expected weights other than 0, where the prediction does not depend on the data")


@checked(_check_equivalent)
def equivalent_data_shift(data: Array, weights: Array, step: Array) -> Array:
    r"""$\Delta A=A\,\Delta x\,x^\top/\lVert x\rVert^2$, with which $f(A+\Delta A,x)=f(A,x+\Delta x)$ exactly.

    Of all such shifts it has the least Frobenius norm, $\lVert A\,\Delta x\rVert/\lVert x\rVert$: the smaller the
    weights, the more the data must move, and at $x=0$ no data shift is a weight shift.

    Parameters
    ----------
    data : array, shape (..., n, d)
    weights : array, shape (..., d)
        $x\ne0$.
    step : array, shape (..., d)
        $\Delta x$; a step of gradient descent is $-\eta A^\top Jc$.

    Returns
    -------
    array, shape (..., n, d)

    Raises
    ------
    ValueError
        If shapes do not fit, n < 2, an entry is not finite or the weights are 0.
    """
    moved = logits(data, step) / row_dot(weights, weights)
    return np.asanyarray(moved[..., :, None] * weights[..., None, :])
