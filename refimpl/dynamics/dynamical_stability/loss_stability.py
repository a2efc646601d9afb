r"""Stability of the loss and the Frobenius norm: the notion that the paper revises (Section 3).

At a minimum with residuals $r$ nearby, one step splits the expected loss into that of gradient descent and the noise's,
$\mathbb EL_{t+1}=L\big((I-\eta G)\delta_t\big)+\frac{\eta^2}{2B}\operatorname{Tr}(\Sigma G)$, where $\Sigma$ is the
covariance of one example's gradient.
"""

from typing import Any, NamedTuple

import numpy as np

from refimpl.dynamics.dynamical_stability.sharpness import check_jacobian, check_not_zero, fisher_kernel
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array
from refimpl.primitives.traces import inner


class ExpectedLoss(NamedTuple):
    r"""The two parts of $\mathbb EL_{t+1}$, each of shape ``(...)``."""

    drift: Array
    """Of gradient descent."""
    noise: Array
    """Of the choice of the batch."""


@checked(check_jacobian)
def fisher_energies(jacobian: Array) -> Array:
    r"""$\chi_i=g_i^\top Gg_i$, the mean of which is $\|G\|_F^2$.

    Parameters
    ----------
    jacobian : array, shape (..., n, p)

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If it is empty or an entry is not finite.
    """
    rows = fisher_kernel.unchecked(jacobian)[..., None, :]
    return inner(rows, rows)[..., 0, 0] * jacobian.shape[-2]


def _check_residuals(jacobian: Array, residuals: Array) -> None:
    check_shapes(jacobian=(jacobian, "... n p"), residuals=(residuals, "... n"))


def _check_alignment(jacobian: Array, residuals: Array) -> None:
    _check_residuals(jacobian, residuals)
    check_not_zero("jacobian", jacobian)
    check_not_zero("residuals", residuals[..., None])


def noise_energy(jacobian: Array, residuals: Array) -> Array:
    r"""$\operatorname{Tr}(\Sigma G)=\frac1n\sum_ir_i^2\chi_i-\frac1n\|Kr\|^2$, shape (...)."""
    column = residuals[..., None]
    squares = inner(column[..., None], column[..., None])[..., 0, 0]
    moved = fisher_kernel.unchecked(jacobian) @ column
    return ((squares * fisher_energies.unchecked(jacobian)).sum(axis=-1) - inner(moved, moved)[..., 0, 0]) / (
        jacobian.shape[-2]
    )


@checked(_check_alignment)
def alignment_factor(jacobian: Array, residuals: Array) -> Array:
    r"""$\mu=\operatorname{Tr}(\Sigma G)\big/\big(2L\,\|G\|_F^2\big)$: how much of the noise goes into sharp directions.

    Parameters
    ----------
    jacobian : array, shape (..., n, p)
    residuals : array, shape (..., n)
        $J\delta$ near an interpolating minimum; not all 0, and no Jacobian is.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or one of the arrays is zero.

    Source: arXiv 2305.17490, Section 3 (loss-scaled alignment factor).
    """
    kernel, column = fisher_kernel.unchecked(jacobian), residuals[..., None]
    twice_loss = inner(column, column)[..., 0, 0] / jacobian.shape[-2]
    return np.asanyarray(noise_energy(jacobian, residuals) / (twice_loss * inner(kernel, kernel)[..., 0, 0]))


def _check_loss_step(jacobian: Array, residuals: Array, learning_rate: Any, batch_size: Any = 1) -> None:
    _check_residuals(jacobian, residuals)
    check_number("learning_rate", learning_rate, "(0, inf)")
    check_integer("batch_size", batch_size, 1)


@checked(_check_loss_step)
def expected_loss_after_step(
    jacobian: Array, residuals: Array, learning_rate: Any, batch_size: Any = 1
) -> ExpectedLoss:
    r"""$\mathbb EL_{t+1}$ of linearized SGD, exactly: $L((I-\eta G)\delta)$ and $\frac{\eta^2\mu}B\|G\|_F^2L_t$.

    Parameters
    ----------
    jacobian : array, shape (..., n, p)
    residuals : array, shape (..., n)
        $J\delta_t$.
    learning_rate : number > 0
    batch_size : int >= 1
        Examples are drawn with replacement.

    Returns
    -------
    ExpectedLoss

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a parameter is out of range.

    Source: arXiv 2305.17490, Section 3 (loss stability).
    """
    column = residuals[..., None]
    moved = column - learning_rate * (fisher_kernel.unchecked(jacobian) @ column)
    return ExpectedLoss(
        drift=inner(moved, moved)[..., 0, 0] / (2 * jacobian.shape[-2]),
        noise=learning_rate**2 * noise_energy(jacobian, residuals) / (2 * batch_size),
    )


def frobenius_bound(alignment: Any, learning_rate: Any, batch_size: Any = 1) -> Any:
    r"""$\|G\|_F\le\frac1\eta\sqrt{B/\mu}$ where the loss does not grow, if the alignment stays at least $\mu$.

    Parameters
    ----------
    alignment : number or array > 0
    learning_rate : number > 0
    batch_size : int >= 1

    Returns
    -------
    number or array like `alignment`

    Raises
    ------
    ValueError
        If the alignment is not positive or a parameter is out of range.

    Source: arXiv 2305.17490, Section 3 (the Frobenius norm).
    """
    check_number("learning_rate", learning_rate, "(0, inf)")
    check_integer("batch_size", batch_size, 1)
    if not np.all(np.asanyarray(alignment) > 0):
        raise ValueError(f"alignment: expected positive numbers, got {alignment}")
    return np.sqrt(batch_size / alignment) / learning_rate
