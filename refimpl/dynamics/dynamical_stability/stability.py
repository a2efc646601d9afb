r"""Linear stability of SGD at an interpolating minimum, in mean square (Section 3).

Near the minimum one step is $\delta\leftarrow(I-\frac\eta B\sum_{i\in\mathcal B}g_ig_i^\top)\delta$, so that
$C=\mathbb E\delta\delta^\top$ follows a linear map exactly: $\mathcal T=I-\eta\,(G\oplus G)+\eta^2Q$ with

$$G\oplus G:\ C\mapsto GC+CG,\qquad
Q:\ C\mapsto\big(1-\tfrac1B\big)GCG+\tfrac1B\,\tfrac1n\sum_i(g_i^\top Cg_i)\,g_ig_i^\top.$$

Both are self-adjoint, $Q\succeq0$, and $\mathcal T$ maps positive matrices to positive ones, so that its spectral
radius is its largest eigenvalue, and on the span of the $g_i$

$$\rho(\mathcal T)\le1\iff\eta\le\eta^*,\qquad
\frac1{\eta^*}=\max_C\frac{\langle C,QC\rangle}{\langle C,(G\oplus G)C\rangle}.$$
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, transpose

LARGEST_SPAN = 60  # the operator has the fourth power of this many entries


# --- the dynamics ---


def _check_step(deviation: Array, jacobian: Array, learning_rate: Any) -> None:
    check_shapes(deviation=(deviation, "... p"), jacobian=(jacobian, "... B p"))
    check_number("learning_rate", learning_rate, "(0, inf)")


@checked(_check_step)
def linearized_sgd_step(deviation: Array, jacobian: Array, learning_rate: Any) -> Array:
    r"""$\delta-\frac\eta B\sum_{i\in\mathcal B}g_i(g_i^\top\delta)$.

    Parameters
    ----------
    deviation : array, shape (..., p)
    jacobian : array, shape (..., B, p)
        The gradients of the batch's examples at the minimum.
    learning_rate : number > 0

    Returns
    -------
    array, shape (..., p)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the learning rate is not positive.

    Source: arXiv 2305.17490, Section 3 (linearized SGD).
    """
    along = jacobian @ deviation[..., None]
    return deviation - learning_rate * (transpose(jacobian) @ along)[..., 0] / jacobian.shape[-2]


def _check_residual_step(residuals: Array, kernel: Array, batch: Any, learning_rate: Any) -> None:
    sizes = check_shapes(residuals=(residuals, "... n"), kernel=(kernel, "n n"))
    indices = np.asarray(batch)
    if indices.dtype.kind not in "iu" or indices.ndim < 1 or indices.shape[:-1] != sizes["..."]:
        raise ValueError(f"batch: expected integers of shape (..., B) with batch axes {sizes['...']}, got {batch!r}")
    if not indices.size or indices.min() < 0 or indices.max() >= sizes["n"]:
        raise ValueError(f"batch: expected examples from 0 to {sizes['n'] - 1}, at least one, got {batch!r}")
    check_number("learning_rate", learning_rate, "(0, inf)")


@checked(_check_residual_step)
def residual_sgd_step(residuals: Array, kernel: Array, batch: Any, learning_rate: Any) -> Array:
    r"""The same step of $r=J\delta$, in as many dimensions as examples: $r-\frac{\eta n}B\sum_{i\in\mathcal B}Ke_ir_i$.

    Parameters
    ----------
    residuals : array, shape (..., n)
    kernel : array, shape (n, n)
        Of :func:`fisher_kernel`.
    batch : integer array, shape (..., B)
        The examples drawn, with replacement.
    learning_rate : number > 0

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, an example does not exist or the learning rate is not positive.
    """
    drawn = np.take_along_axis(residuals, batch, axis=-1)
    moved = (drawn[..., None, :] @ kernel[batch])[..., 0, :]
    return residuals - learning_rate * len(kernel) * moved / np.shape(batch)[-1]


# --- the second moment ---


def _check_moment(covariance: Array, jacobian: Array, learning_rate: Any, batch_size: Any = 1) -> None:
    check_shapes(covariance=(covariance, "p p"), jacobian=(jacobian, "n p"))
    check_number("learning_rate", learning_rate, "(0, inf)")
    check_integer("batch_size", batch_size, 1)


def propagate(covariance: Array, fisher: Array, fourth: Array, learning_rate: Any, batch_size: Any) -> Array:
    r"""$\mathcal T(C)$ from $G$ and from $\frac1n\sum_i(g_i^\top Cg_i)\,g_ig_i^\top$, each of shape (p, p)."""
    both = fisher @ covariance + covariance @ fisher
    sandwich = fisher @ covariance @ fisher
    return covariance - learning_rate * both + learning_rate**2 * (sandwich + (fourth - sandwich) / batch_size)


def fourth_moment(covariance: Array, jacobian: Array) -> Array:
    r"""$\frac1n\sum_i(g_i^\top Cg_i)\,g_ig_i^\top$, shape (p, p)."""
    along = (jacobian @ covariance)[:, None, :] @ transpose(jacobian[:, None, :])
    return np.asanyarray(transpose(jacobian) @ (along[..., 0] * jacobian) / jacobian.shape[0])


@checked(_check_moment)
def second_moment_step(covariance: Array, jacobian: Array, learning_rate: Any, batch_size: Any = 1) -> Array:
    r"""$\mathbb E\,\delta_{t+1}\delta_{t+1}^\top=\mathcal T(C)$ given $C=\mathbb E\,\delta_t\delta_t^\top$, exactly.

    $$\mathcal T(C)=(I-\eta G)C(I-\eta G)
    +\tfrac{\eta^2}B\Big(\tfrac1n\sum_i(g_i^\top Cg_i)\,g_ig_i^\top-GCG\Big).$$

    Parameters
    ----------
    covariance : array, shape (p, p)
    jacobian : array, shape (n, p)
    learning_rate : number > 0
    batch_size : int >= 1
        Examples are drawn with replacement.

    Returns
    -------
    array, shape (p, p)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a parameter is out of range.

    Source: arXiv 2305.17490, Section 3 (linear stability); derived for every batch size.
    """
    fisher = transpose(jacobian) @ jacobian / jacobian.shape[0]
    return propagate(covariance, fisher, fourth_moment(covariance, jacobian), learning_rate, batch_size)


@checked(_check_moment)
def second_moment_step_vjp(
    covariance: Array, jacobian: Array, learning_rate: Any, batch_size: Any = 1
) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    r""":func:`second_moment_step` and its pullback: in the covariance, $\mathcal T$ itself."""
    n = jacobian.shape[0]
    fisher = transpose(jacobian) @ jacobian / n
    fourth = fourth_moment(covariance, jacobian)

    def pullback(cotangent: Array) -> tuple[Array, Array]:
        to_covariance = propagate(cotangent, fisher, fourth_moment(cotangent, jacobian), learning_rate, batch_size)
        flipped, flipped_cotangent = transpose(covariance), transpose(cotangent)
        by_both = cotangent @ flipped + flipped @ cotangent
        by_sandwich = cotangent @ fisher @ flipped + flipped @ fisher @ cotangent
        to_fisher = learning_rate**2 * (by_sandwich - by_sandwich / batch_size) - learning_rate * by_both
        doubled = jacobian @ (covariance + flipped)
        doubled_cotangent = jacobian @ (cotangent + flipped_cotangent)
        energy = (doubled * jacobian).sum(axis=-1, keepdims=True) / 2
        energy_cotangent = (doubled_cotangent * jacobian).sum(axis=-1, keepdims=True) / 2
        by_fourth = energy_cotangent * doubled + energy * doubled_cotangent
        to_jacobian = jacobian @ (to_fisher + transpose(to_fisher)) + learning_rate**2 * by_fourth / batch_size
        return to_covariance, to_jacobian / n

    return propagate(covariance, fisher, fourth, learning_rate, batch_size), pullback


def _check_operator(jacobian: Array, learning_rate: Any, batch_size: Any = 1) -> None:
    check_shapes(jacobian=(jacobian, "n p"))
    check_number("learning_rate", learning_rate, "(0, inf)")
    check_integer("batch_size", batch_size, 1)
    if jacobian.shape[-1] > LARGEST_SPAN:
        raise ValueError(
            f"jacobian: expected at most {LARGEST_SPAN} parameters, got {jacobian.shape[-1]}; "
            "pass span_coordinates(jacobian), which has as many as the gradients span"
        )


@checked(_check_operator)
def second_moment_operator(jacobian: Array, learning_rate: Any, batch_size: Any = 1) -> Array:
    r"""The matrix of $\mathcal T$ on $\operatorname{vec}C$.

    $$(I-\eta G)\otimes(I-\eta G)+\tfrac{\eta^2}B\Big(\tfrac1n\sum_i(g_ig_i^\top)\otimes(g_ig_i^\top)-G\otimes G\Big).$$

    In directions orthogonal to all $g_i$ it has the eigenvalue 1; :func:`span_coordinates` leaves them out.

    Parameters
    ----------
    jacobian : array, shape (n, p), p at most 60
    learning_rate : number > 0
    batch_size : int >= 1

    Returns
    -------
    array, shape (p^2, p^2)

    Raises
    ------
    ValueError
        If it is empty, an entry is not finite, a parameter is out of range or p is above 60.

    Source: arXiv 2305.17490, Section 3; derived for every batch size.
    """
    n, p = jacobian.shape
    fisher = transpose(jacobian) @ jacobian / n
    squares = (jacobian[:, :, None] * jacobian[:, None, :]).reshape(n, p * p)
    fourth = transpose(squares) @ squares / n  # symmetric in all four indices
    identity = np.eye(p, dtype=int).astype(jacobian.dtype)
    contraction = identity - learning_rate * fisher
    operator = np.kron(contraction, contraction)
    return np.asanyarray(operator + learning_rate**2 * (fourth - np.kron(fisher, fisher)) / batch_size)
