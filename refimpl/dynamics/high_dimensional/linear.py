r"""The linear student: its loss, gradient flow and gradient descent in closed form, and what never moves (Section 2).

With the thin decomposition $X=USV^\top$ every linear method gives $w=w(0)+\sum_i\phi(s_i^2)\frac{r_i}{s_i}u_i^\top$,
$r=(y-w(0)X)V$: a *filter* $\phi$ of the least-squares solution. Nothing outside the span of $U$ appears, so the frozen
subspace is frozen exactly, and the condition number is that of $X$, not of $XX^\top$.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.dynamics.high_dimensional.spectrum import is_zero
from refimpl.primitives.checks import check_array, check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, exp, expm1, transpose


def _check_student(weights: Array, x: Array, y: Array, penalty: Any = 0) -> None:
    check_shapes(weights=(weights, "... n_inputs"), x=(x, "... n_inputs n_examples"), y=(y, "... n_examples"))
    check_number("penalty", penalty, "[0, inf)")


def residual(weights: Array, x: Array, y: Array) -> Array:
    """$y-wX$, shape (..., n_examples); arguments unchecked."""
    return np.asanyarray(y - (weights[..., None, :] @ x)[..., 0, :])


@checked(_check_student)
def student_loss(weights: Array, x: Array, y: Array, penalty: Any = 0) -> Array:
    r"""$\frac12\lVert y-wX\rVert^2+\frac\gamma2\lVert w\rVert^2$, a sum over examples.

    Parameters
    ----------
    weights : array, shape (..., n_inputs)
    x : array, shape (..., n_inputs, n_examples)
    y : array, shape (..., n_examples)
    penalty : number >= 0
        $\gamma$.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the penalty is negative.

    Source: arXiv 1710.03667, Section 2.
    """
    left = residual(weights, x, y)
    return np.asanyarray(((left**2).sum(axis=-1) + penalty * (weights**2).sum(axis=-1)) / 2)


@checked(_check_student)
def student_loss_vjp(
    weights: Array, x: Array, y: Array, penalty: Any = 0
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    r""":func:`student_loss` and its pullback; $\nabla_wL=-(y-wX)X^\top+\gamma w$."""
    left = residual(weights, x, y)
    loss = np.asanyarray(((left**2).sum(axis=-1) + penalty * (weights**2).sum(axis=-1)) / 2)

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        column = np.asanyarray(cotangent)[..., None]
        to_y = column * left
        to_weights = column * penalty * weights - (to_y[..., None, :] @ transpose(x))[..., 0, :]
        return to_weights, -weights[..., :, None] * to_y[..., None, :], to_y

    return loss, pullback


# --- filters ---


def flow_filter(eigenvalues: Array, t: Any, tau: Any = 1) -> Array:
    r"""$1-e^{-\lambda t/\tau}$, how much of a mode gradient flow has learned at time $t$; arguments unchecked."""
    return -expm1(-eigenvalues * t / tau)


def descent_filter(eigenvalues: Array, learning_rate: Any, n_steps: Any) -> Array:
    r"""$1-(1-\eta\lambda)^k$, what $k$ steps of gradient descent have learned of a mode; arguments unchecked."""
    shrunk = 1 - learning_rate * eigenvalues
    if eigenvalues.dtype == object:
        return np.asanyarray(1 - shrunk**n_steps)
    # Small eigenvalues would lose their digits next to 1.
    small = learning_rate * eigenvalues < 1 / 2
    slow = -np.expm1(n_steps * np.log1p(-learning_rate * np.where(small, eigenvalues, 0)))
    return np.where(small, slow, 1 - np.where(small, 0, shrunk) ** n_steps)


def ridge_filter(eigenvalues: Array, penalty: Any) -> Array:
    r"""$\frac\lambda{\lambda+\gamma}$, what ridge regression learns of a mode; arguments unchecked.

    At $\gamma=\sigma_\epsilon^2/\sigma_w^2$ that is Bayes' answer to a Gaussian teacher.
    """
    return np.asanyarray(eigenvalues / (eigenvalues + penalty))


# --- modes ---


class Modes(NamedTuple):
    """The directions in which weights move, and how far each has to go (LAPACK: floats only)."""

    directions: Array
    """$U$, shape (..., n_inputs, rank) with rank = min(n_inputs, n_examples)."""
    eigenvalues: Array
    r"""$s_i^2$, shape (..., rank); 0 below the threshold of the numerical rank."""
    distances: Array
    r"""$r_i/s_i$, from the start to least squares, shape (..., rank); 0 for a zero mode."""


def modes(x: Array, y: Array, initial: Array) -> Modes:
    """The modes of a linear student; arguments unchecked.

    Parameters
    ----------
    x : array, shape (..., n_inputs, n_examples)
    y : array, shape (..., n_examples)
    initial : array, shape (..., n_inputs)
    """
    left, values, right = np.linalg.svd(x, full_matrices=False)
    zero = is_zero(values, x.shape)
    along = (right @ residual(initial, x, y)[..., None])[..., 0]
    return Modes(left, np.where(zero, 0, values) ** 2, np.where(zero, 0, along / np.where(zero, 1, values)))


def _filtered(x: Array, y: Array, initial: Array, learned: Callable[[Array], Array]) -> Array:
    r"""$w(0)+\sum_i\phi(s_i^2)\frac{r_i}{s_i}u_i^\top$, shape (*times, ..., n_inputs).

    The filter may put axes of its own in front of the eigenvalues'.
    """
    directions, eigenvalues, distances = modes(x, y, initial)
    moved = learned(eigenvalues) * distances
    return np.asanyarray(initial + (moved[..., None, :] @ transpose(directions))[..., 0, :])


def at_times(t: Array, eigenvalues: Array) -> Array:
    """The times with axes behind, to broadcast against eigenvalues."""
    return t.reshape(*t.shape, *[1] * eigenvalues.ndim)


# --- closed forms ---


def _check_problem(x: Array, y: Array, initial: Array) -> None:
    check_shapes(x=(x, "... n_inputs n_examples"), y=(y, "... n_examples"), initial=(initial, "... n_inputs"))


def check_times(t: Any, tau: Any) -> Array:
    """The times as an array; ``ValueError`` for a negative one, or a time constant that is not positive."""
    t = check_array("t", t)
    check_number("tau", tau, "(0, inf)")
    if t.dtype != object and not np.all(t >= 0):
        raise ValueError(f"t: expected times >= 0, got {t.min()}")
    return t


def gradient_flow_weights(x: Array, y: Array, initial: Array, t: Any, tau: float = 1) -> Array:
    r"""$w(t)$ of $\tau\dot w=(y-wX)X^\top$ from $w(0)$, at any times, without integrating (LAPACK: floats only).

    Parameters
    ----------
    x : array, shape (..., n_inputs, n_examples)
        $X$, examples in columns.
    y : array, shape (..., n_examples)
    initial : array, shape (..., n_inputs)
        $w(0)$.
    t : float or array of any shape, >= 0
    tau : float > 0
        $\tau$, one over the learning rate of a sum over examples.

    Returns
    -------
    array, shape (*t.shape, ..., n_inputs)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a time is negative or the time constant is not positive.

    Source: arXiv 1710.03667, Section 2.
    """
    _check_problem(x, y, initial)
    t = check_times(t, tau).astype(x.dtype)

    return _filtered(x, y, initial, lambda eigenvalues: flow_filter(eigenvalues, at_times(t, eigenvalues), tau))


def gradient_descent_weights(x: Array, y: Array, initial: Array, learning_rate: float, n_steps: int) -> Array:
    r"""The weights after $k$ steps $w\leftarrow w+\eta(y-wX)X^\top$, without taking them (LAPACK: floats only).

    Parameters
    ----------
    x : array, shape (..., n_inputs, n_examples)
    y : array, shape (..., n_examples)
    initial : array, shape (..., n_inputs)
    learning_rate : float, 0 < learning_rate < :func:`largest_learning_rate`
        $\eta=1/\tau$, of a sum over examples; from that rate on the steps diverge.
    n_steps : int >= 0

    Returns
    -------
    array, shape (..., n_inputs)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, the steps diverge or their number is negative.

    Source: arXiv 1710.03667, Section 2, in discrete time.
    """
    _check_problem(x, y, initial)
    n_steps = check_integer("n_steps", n_steps, 0)
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    limit = np.min(largest_learning_rate(x))
    if learning_rate >= limit:
        raise ValueError(f"learning_rate: expected below 2 / largest eigenvalue = {limit:.6g}, got {learning_rate}")
    return _filtered(x, y, initial, lambda eigenvalues: descent_filter(eigenvalues, learning_rate, n_steps))


def largest_learning_rate(x: Array) -> Array:
    r"""$2/\lambda_{max}(XX^\top)$, shape (...); infinite for inputs that are 0 (LAPACK: floats only)."""
    check_shapes(x=(x, "... n_inputs n_examples"))
    with np.errstate(divide="ignore"):
        return np.asanyarray(2 / np.linalg.svd(x, compute_uv=False)[..., 0] ** 2)


def frozen_projector(x: Array) -> Array:
    r"""The projection onto $\ker X^\top$, of dimension $\max(0,N-P)$: weights there never move (LAPACK: floats only).

    Parameters
    ----------
    x : array, shape (..., n_inputs, n_examples)

    Returns
    -------
    array, shape (..., n_inputs, n_inputs)

    Raises
    ------
    ValueError
        If an entry is not finite.

    Source: arXiv 1710.03667, the frozen subspace.
    """
    sizes = check_shapes(x=(x, "... n_inputs n_examples"))
    left, values, _ = np.linalg.svd(x, full_matrices=False)
    moving = np.where(is_zero(values, x.shape)[..., None, :], 0, left)
    return np.eye(sizes["n_inputs"], dtype=x.dtype) - moving @ transpose(moving)


def remaining(eigenvalues: Array, t: Array, tau: Any) -> Array:
    r"""$e^{-\lambda t/\tau}$ for all pairs, shape (*t.shape, *eigenvalues.shape); arguments unchecked."""
    return exp(-np.multiply.outer(t, eigenvalues) / tau)
