r"""The curvature of a mode's energy, and the learning rate that it allows (Appendix B)."""

from typing import Any

import numpy as np

from refimpl.dynamics.deep_linear.arguments import as_numbers, check_positive
from refimpl.dynamics.deep_linear.modes import power
from refimpl.primitives.checks import check_integer, check_shapes, checked
from refimpl.primitives.numbers import Array, is_symbolic


def _check_curvature(a: Any, s: Any, n_weights: Any) -> None:
    check_integer("n_weights", n_weights, 1)
    as_numbers(a=a, s=s)
    check_positive(a=a, s=s)


@checked(_check_curvature)
def mode_hessian(a: Any, s: Any, n_weights: int) -> Array:
    r"""The Hessian of :func:`chain_energy` at equal factors $a_i=a$: $a^{2n-2}$ on the diagonal, $2a^{2n-2}-sa^{n-2}$
    beside it.

    Parameters
    ----------
    a, s : arrays that broadcast, or numbers, > 0
    n_weights : int >= 1

    Returns
    -------
    array, shape (..., n, n)

    Raises
    ------
    ValueError
        If a number is out of range or not finite, or shapes do not broadcast.

    Source: arXiv 1312.6120, Appendix B.
    """
    a, s = as_numbers(a=a, s=s)
    square = np.asanyarray(a ** (2 * n_weights - 2))
    beside = np.asanyarray(2 * square - s * a ** (n_weights - 2))
    identity = np.eye(n_weights, dtype=beside.dtype)
    return np.asanyarray(np.asanyarray(square - beside)[..., None, None] * identity + beside[..., None, None])


@checked(_check_curvature)
def mode_hessian_eigenvalues(a: Any, s: Any, n_weights: Any) -> tuple[Array, Array]:
    r"""The eigenvalues of :func:`mode_hessian`: $(2n-1)a^{2n-2}-(n-1)sa^{n-2}$ along the vector of ones, and
    $sa^{n-2}-a^{2n-2}$ across it, $n-1$ times.

    Parameters, errors as for :func:`mode_hessian`.

    Returns
    -------
    along, across : arrays

    Source: arXiv 1312.6120, Appendix B.
    """
    a, s = as_numbers(a=a, s=s)
    square, pull = a ** (2 * n_weights - 2), s * a ** (n_weights - 2)
    return np.asanyarray((2 * n_weights - 1) * square - (n_weights - 1) * pull), np.asanyarray(pull - square)


def _check_sharpness(a: Array) -> None:
    check_shapes(a=(a, "... n"))
    if not is_symbolic(a) and not np.all(a):
        raise ValueError("a: expected factors other than 0, for their product is the strength")


@checked(_check_sharpness)
def solution_sharpness(a: Array) -> Array:
    r"""The one eigenvalue other than 0 of the Hessian at a solution $a_1\cdots a_n=s$: $s^2\sum_ia_i^{-2}$.

    It is least, $ns^{2-2/n}$, where all factors are equal in size.

    Parameters
    ----------
    a : array, shape (..., n), no entry 0

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If a factor is 0 or not finite.

    Source: derived, as arXiv 1312.6120, Appendix B for equal factors.
    """
    strength = np.prod(a, axis=-1, keepdims=True)
    return np.asanyarray(((strength / a) ** 2).sum(axis=-1))


def _check_rate(s: Any, n_weights: Any) -> None:
    check_integer("n_weights", n_weights, 1)
    check_positive(s=s)


@checked(_check_rate)
def optimal_learning_rate(s: Any, n_weights: Any) -> Array:
    r"""$\alpha=1/(ns^{2-2/n})$, the inverse of the largest eigenvalue at the solution; above twice it descent diverges.

    Parameters
    ----------
    s : array or number, > 0
    n_weights : int >= 1

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If a number is out of range or not finite.

    Source: arXiv 1312.6120, Appendix B.
    """
    (s,) = as_numbers(s=s)
    return np.asanyarray(1 / (n_weights * s ** power(n_weights, s)))
