r"""An MLP before the layers makes them descend in its features: kernel regression (Prop. 2, Appendix A.8)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.layers import Linear, mlp
from refimpl.primitives.numbers import Array, exp, row_max, transpose


def mlp_features(x: Array, layers: Sequence[Linear]) -> Array:
    r"""$m(x)=x+\tilde m(x)$ for each column, with a residual GELU perceptron $\tilde m$ that keeps the size.

    Parameters
    ----------
    x : array, shape (..., n_inputs, n_samples)
    layers : list of Linear
        From `n_inputs` back to `n_inputs`.

    Returns
    -------
    array, shape (..., n_inputs, n_samples)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2212.07677, Proposition 2 and Appendix A.7.
    """
    check_shapes(x=(x, "... n_inputs n_samples"))
    moved = mlp(transpose(x), layers, "gelu")
    if moved.shape[-1] != x.shape[-2]:
        raise ValueError(f"layers: expected {x.shape[-2]} outputs, as many as inputs, got {moved.shape[-1]}")
    return np.asanyarray(x + transpose(moved))


def kernel_gd_step(
    residual: Array, prediction: Array, kernel: Array, kernel_query: Array, learning_rate: Any
) -> tuple[Array, Array]:
    r"""A step: $R\leftarrow R(I-\frac\eta N\mathcal K)$ and, by the old $R$, $\hat y\leftarrow\hat y+\frac\eta NRk$.

    Arguments unchecked: residuals ``(..., n_outputs, n_context)``, predictions ``(..., n_outputs)``, the others as for
    :func:`kernel_gd_predict`.

    Source: arXiv 2212.07677, Eq. 13.
    """
    rate = learning_rate / kernel.shape[-1]
    return residual - rate * (residual @ kernel), prediction + rate * (residual @ kernel_query[..., None])[..., 0]


def kernel_gd_predict(kernel: Array, y: Array, kernel_query: Array, learning_rate: Any, n_steps: int) -> Array:
    r"""The prediction after `n_steps` gradient steps from zero in the feature space of a kernel.

    One step is the unnormalised kernel smoother $\frac\eta N\sum_iy_ik(x_i,x_q)$.

    Parameters
    ----------
    kernel : array, shape (..., n_context, n_context)
        $k(x_i,x_j)$.
    y : array, shape (..., n_outputs, n_context)
    kernel_query : array, shape (..., n_context)
        $k(x_i,x_q)$.
    learning_rate : number > 0
    n_steps : int >= 1

    Returns
    -------
    array, shape (..., n_outputs)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or a number is out of range.

    Source: arXiv 2212.07677, Eq. 13 (which drops the factor $\eta/N$) and Appendix A.8.
    """
    _check_kernel(kernel, y, kernel_query)
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    residual, prediction = y, 0 * y[..., 0]
    for _ in range(check_integer("n_steps", n_steps, 1)):
        residual, prediction = kernel_gd_step(residual, prediction, kernel, kernel_query, learning_rate)
    return prediction


def kernel_gd_closed_form(kernel: Array, y: Array, kernel_query: Array, learning_rate: Any, n_steps: int) -> Array:
    r""":func:`kernel_gd_predict` without the loop: $Y[I-(I-\frac\eta N\mathcal K)^K]\mathcal K^+k(X,x_q)$.

    Same arguments. Uses LAPACK: floats only.

    Source: arXiv 2212.07677, Appendix A.8 (the geometric sum of its recursion).
    """
    _check_kernel(kernel, y, kernel_query)
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    n_steps = check_integer("n_steps", n_steps, 1)
    eigenvalues, vectors = np.linalg.eigh(kernel)
    step = eigenvalues * (learning_rate / kernel.shape[-1])
    # 1 - (1 - a)^K loses all its digits at small a.
    small, large = np.clip(step, np.finfo(step.dtype).tiny, 1 / 2), np.maximum(step, 1 / 2)
    at_small, at_large = -np.expm1(n_steps * np.log1p(-small)) / small, (1 - (1 - large) ** n_steps) / large
    gathered = np.where(step < 1 / 2, at_small, at_large)
    weights = (learning_rate / kernel.shape[-1]) * gathered * (transpose(vectors) @ kernel_query[..., None])[..., 0]
    return np.asanyarray((y @ (vectors @ weights[..., None]))[..., 0])


def kernel_interpolant(kernel: Array, y: Array, kernel_query: Array) -> Array:
    r"""$Y\mathcal K^+k(X,x_q)$, where gradient descent ends if $0<\eta<2N/\lambda_{\max}(\mathcal K)$.

    Arguments as for :func:`kernel_gd_predict`. Uses LAPACK: floats only.

    Source: arXiv 2212.07677, Appendix A.8.
    """
    _check_kernel(kernel, y, kernel_query)
    inverse = np.linalg.pinv(kernel, hermitian=True)
    return np.asanyarray((y @ (inverse @ kernel_query[..., None]))[..., 0])


def nadaraya_watson(y: Array, log_kernel_query: Array) -> Array:
    r"""The normalised kernel smoother $\sum_iy_ik_i/\sum_ik_i$ with $k_i=e^{z_i}$.

    With $z_i=x_i^\top W_{KQ}x_q$ it is what one softmax head computes whose values are the targets.

    Parameters
    ----------
    y : array, shape (..., n_outputs, n_context)
    log_kernel_query : array, shape (..., n_context)
        $z_i$.

    Returns
    -------
    array, shape (..., n_outputs)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2212.07677, Appendix A.8.
    """
    check_shapes(y=(y, "... n_outputs n_context"), log_kernel_query=(log_kernel_query, "... n_context"))
    kernel = exp(log_kernel_query - row_max(log_kernel_query))
    return np.asanyarray((y @ kernel[..., None])[..., 0] / kernel.sum(axis=-1, keepdims=True))


def _check_kernel(kernel: Array, y: Array, kernel_query: Array) -> None:
    check_shapes(
        kernel=(kernel, "... n_context n_context"),
        y=(y, "... n_outputs n_context"),
        kernel_query=(kernel_query, "... n_context"),
    )
