r"""Iterative Newton for least squares, and what it does to each eigenvalue of the Gram matrix (Sections 3.1 and 5)."""

from collections.abc import Callable
from math import comb
from typing import Any

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.least_squares import gram_matrix
from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.numbers import Array, is_symbolic, row_dot, sqrt, transpose

Scale = Any
"""A positive number, or an array of shape (...) with one for each matrix of a batch; None for the default."""


# --- the scale of the first iterate ---


def frobenius_scale(gram: Array) -> Array:
    r"""$\alpha=1/\lVert SS^\top\rVert_F$, shape (...) for symmetric matrices (..., d, d): the authors' and our default.

    It never exceeds $1/\lambda_1^2$, so Newton converges with it, and needs no eigenvalue.
    """
    squared = (gram @ gram).reshape(*gram.shape[:-2], -1)
    return np.asanyarray(1 / sqrt(row_dot(squared, squared)[..., 0]))


def spectral_scale(gram: Array) -> Array:
    r"""$\alpha=1/\lambda_1^2$, shape (...): the largest that keeps every iterate below $S^{-1}$ (LAPACK: floats)."""
    return np.asanyarray(1 / np.linalg.eigvalsh(gram)[..., -1] ** 2)


# --- the iteration ---


def _check_step(inverse: Array, gram: Array) -> None:
    check_shapes(inverse=(inverse, "... d d"), gram=(gram, "... d d"))


@checked(_check_step)
def newton_schulz_step(inverse: Array, gram: Array) -> Array:
    r"""$2M-MSM$: it squares the error, $I-SM'=(I-SM)^2$.

    Parameters
    ----------
    inverse, gram : array, shape (..., d, d)
        $M$ and $S$; any square matrices.

    Returns
    -------
    array, shape (..., d, d)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2310.17086, Eq. 5.
    """
    return np.asanyarray(inverse @ _two_minus(gram @ inverse))


def _two_minus(product: Array) -> Array:
    """$2I-P$ for square matrices, in place."""
    np.negative(product, out=product)
    diagonal = _diagonal(product)
    np.add(diagonal, 2, out=diagonal)
    return product


def _diagonal(matrices: Array) -> Array:
    """A view of the diagonals of contiguous matrices."""
    return matrices.reshape(*matrices.shape[:-2], -1)[..., :: matrices.shape[-1] + 1]


@checked(_check_step)
def newton_schulz_step_vjp(inverse: Array, gram: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """:func:`newton_schulz_step` and its pullback ``cotangent -> (inverse, gram)``."""
    to_right = _two_minus(gram @ inverse)

    def pullback(cotangent: Array) -> tuple[Array, Array]:
        to_product = -(transpose(inverse) @ cotangent)
        to_inverse = cotangent @ transpose(to_right) + transpose(gram) @ to_product
        return to_inverse, to_product @ transpose(inverse)

    return np.asanyarray(inverse @ to_right), pullback


def _check_scale(scale: Scale, batch: tuple[int, ...]) -> None:
    if isinstance(scale, np.ndarray):
        if scale.shape != batch or not np.all(scale > 0):
            raise ValueError(f"scale: expected positive numbers of shape {batch}, got {scale!r:.80}")
    elif scale is not None:
        check_number("scale", scale, "(0, inf)")


def _check_inverse(gram: Array, n_iterations: int, scale: Scale = None, check: bool = False) -> None:
    sizes = check_shapes(gram=(gram, "... d d"))
    check_integer("n_iterations", n_iterations, 0)
    _check_scale(scale, sizes["..."])
    if is_symbolic(gram):
        return
    if (gram != transpose(gram)).any():
        # The two triangles of a Gram matrix may be summed in different orders.
        skew, size = (np.abs(matrices).max(axis=(-2, -1)) for matrices in (gram - transpose(gram), gram))
        if not np.all(skew <= 64 * np.finfo(gram.dtype).eps * size):
            raise ValueError("gram: expected symmetric matrices")
    if not gram.any(axis=(-2, -1)).all():
        raise ValueError("gram: expected matrices that are not zero")
    if check:
        _check_convergence(gram, scale)


def _check_convergence(gram: Array, scale: Scale) -> None:
    if scale is not None:
        largest = 2 * spectral_scale(gram)
        if not np.all(scale < largest):
            raise ValueError(f"scale: expected numbers below 2 / lambda_1^2 = {np.min(largest):.6g}, got {scale}")


@checked(_check_inverse)
def newton_schulz_inverse(gram: Array, n_iterations: int, scale: Scale = None, check: bool = False) -> Array:
    r"""$M_k$ with $M_0=\alpha S$, $M_{j+1}=2M_j-M_jSM_j$, which tends to $S^\dagger$ if $0<\alpha<2/\lambda_1^2$.

    On a singular $S$ roundoff in its null space doubles at every iteration, so in float64 stop near $k=40$, in float32
    near $k=13$.

    Parameters
    ----------
    gram : array, shape (..., d, d)
        $S$, symmetric and not zero.
    n_iterations : int >= 0
        $k$.
    scale : number > 0, or array of shape (...), or None for :func:`frobenius_scale`
        $\alpha$. Not the $2/\lVert SS^\top\rVert_2$ of the text: at that scale the top eigenvector is lost.
    check : bool
        Refuse a scale at which the iteration does not converge (LAPACK: floats only).

    Returns
    -------
    array, shape (..., d, d)

    Raises
    ------
    ValueError
        If a matrix is not square, symmetric and different from zero, an entry is not finite, the number of iterations
        is negative, or a scale is out of range.

    Source: arXiv 2310.17086, Eq. 5 and 10; Schulz 1933, Ben-Israel and Cohen 1966.
    """
    scale = np.asanyarray(frobenius_scale(gram) if scale is None else scale)
    # Where the scale underflows or overflows nothing converges; in the dtype of the matrix, whatever the scale's.
    start = gram * (scale[..., None, None] if is_symbolic(scale) else scale.astype(gram.dtype)[..., None, None])
    return _iterate(start, gram, n_iterations)


def _iterate(inverse: Array, gram: Array, n_iterations: int) -> Array:
    # As newton_schulz_step, with the sign in the matrix and one array for all right factors: for small matrices a pass
    # over memory costs as much as a product. With an unused row behind each, their diagonals are one strided vector.
    keep_freed_memory()
    dim = inverse.shape[-1]
    rows = np.empty_like(inverse, shape=(*inverse.shape[:-2], dim + 1, dim))
    negative, to_right, diagonal = -gram, rows[..., :dim, :], rows.reshape(-1)[:: dim + 1]
    for _ in range(n_iterations):
        np.matmul(negative, inverse, out=to_right)
        np.add(diagonal, 2, out=diagonal)
        inverse = inverse @ to_right
    return inverse


def _check_iterative(x: Array, y: Array, n_iterations: int, scale: Scale = None, check: bool = False) -> None:
    sizes = check_shapes(x=(x, "... n d"), y=(y, "... n"))
    check_integer("n_iterations", n_iterations, 0)
    _check_scale(scale, sizes["..."])
    if not is_symbolic(x):
        if not x.any(axis=(-2, -1)).all():
            raise ValueError("x: expected inputs that are not all zero")
        if check:
            _check_convergence(transpose(x) @ x, scale)


@checked(_check_iterative)
def iterative_newton(x: Array, y: Array, n_iterations: int, scale: Scale = None, check: bool = False) -> Array:
    r"""$\hat w_k=M_kX^\top y$ with $S=X^\top X$: Newton's method for the inverse, applied to least squares.

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    n_iterations, scale, check
        As for :func:`newton_schulz_inverse`.

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, the inputs are all zero, or a parameter is out of range.

    Source: arXiv 2310.17086, Eq. 5.
    """
    inverse = newton_schulz_inverse.unchecked(gram_matrix(x), n_iterations, scale)
    return np.asanyarray((inverse @ (transpose(x) @ y[..., None]))[..., 0])


def _check_preconditioned(x: Array, y: Array, n_steps: int, scale: Any) -> None:
    check_shapes(x=(x, "... n d"), y=(y, "... n"))
    check_integer("n_steps", n_steps, 0)
    check_number("scale", scale, "(0, inf)")


@checked(_check_preconditioned)
def preconditioned_gradient_descent(x: Array, y: Array, n_steps: int, scale: Any) -> Array:
    r"""$w\leftarrow w+\alpha S(X^\top y-Sw)$ from zero; $2^k$ steps are $k$ Newton iterations.

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    n_steps : int >= 0
    scale : number > 0
        $\alpha$.

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a parameter is out of range.

    Source: derived from arXiv 2310.17086, Eq. 5 (see :func:`newton_schulz_step`).
    """
    gram, moment = transpose(x) @ x, transpose(x) @ y[..., None]
    weights = 0 * moment
    for _ in range(n_steps):
        weights = weights + scale * (gram @ (moment - gram @ weights))
    return np.asanyarray(weights[..., 0])


# --- what the iterations do to an eigenvalue ---


def newton_moment_coefficients(n_iterations: int, scale: Any) -> Array:
    r"""The coefficients of $S,S^3,S^5,\dots$ in $M_k$: $(-1)^{j+1}\binom{2^k}j\alpha^j$ of $S^{2j-1}$, $j=1,\dots,2^k$.

    Exact for a symbol or a rational; float64 for a float.

    Raises
    ------
    ValueError
        If the number of iterations is negative or the scale is not positive.

    Source: arXiv 2310.17086, Section 5 and Appendix B.3, whose printed coefficients are wrong (the degrees are not).
    """
    n_powers = 2 ** check_integer("n_iterations", n_iterations, 0)
    scale = check_number("scale", scale, "(0, inf)")
    return np.array([(-1) ** (j + 1) * comb(n_powers, j) * scale**j for j in range(1, n_powers + 1)])


def spectral_residual(rate: Array, n_steps: Any) -> Array:
    r"""$(1-z)^p$, what is left of an error that each of $p$ steps multiplies by $1-z$; accurate for small $z$ too.

    For Newton $z=\alpha\lambda^2$ and $p=2^k$, for gradient descent $z=\eta\lambda$ and $p$ its steps (floats only).

    Parameters
    ----------
    rate : array of numbers >= 0
        $z$. Above 1 only for an integer number of steps; up to 8 roundoffs above 1 is taken as 1.
    n_steps : number > 0, or an array that broadcasts against `rate`
        $p$.

    Returns
    -------
    array, shape of `rate` against `n_steps`

    Raises
    ------
    ValueError
        If a rate is negative or a number of steps is not positive, or a fractional power of a negative number is asked.
    """
    log, sign = _log_residual(rate, n_steps)
    return np.asanyarray(sign * np.exp(log))


def spectral_filter(eigenvalues: Array, rate: Array, n_steps: Any) -> Array:
    r"""$\frac{1-(1-z)^p}\lambda$, what stands in place of $1/\lambda$ after $p$ steps; 0 where $\lambda=0$.

    Parameters
    ----------
    eigenvalues : array of numbers >= 0
        $\lambda$.
    rate, n_steps
        $z$ and $p$ as for :func:`spectral_residual`.
    """
    log, sign = _log_residual(rate, n_steps)
    done = np.where(sign > 0, -np.expm1(log), 1 + np.exp(log))
    return np.asanyarray(np.divide(done, eigenvalues, out=np.zeros_like(done), where=eigenvalues > 0))


def _log_residual(rate: Array, n_steps: Any) -> tuple[Array, Array]:
    """The logarithm of the residual's size, and its sign."""
    rate, n_steps = np.asanyarray(rate), np.asanyarray(n_steps)
    if not np.all(rate >= 0):
        raise ValueError(f"rate: expected numbers >= 0, got {np.min(rate)}")
    if not np.all(n_steps > 0):
        raise ValueError(f"n_steps: expected numbers > 0, got {np.min(n_steps)}")
    above = rate > 1 + 8 * np.finfo(rate.dtype).eps
    if np.any(above & (n_steps % 1 != 0)):
        raise ValueError("n_steps: expected integers where the rate exceeds 1")
    with np.errstate(divide="ignore"):  # a rate of exactly 1 leaves nothing: log 0
        size = np.where(above, np.log(np.maximum(rate - 1, 0)), np.log1p(-np.minimum(rate, 1)))
    return n_steps.astype(rate.dtype) * size, np.where(above & (n_steps % 2 == 1), -1, 1)


def newton_iterations_needed(condition_number: Any, accuracy: Any) -> Any:
    r"""$\log_2\frac{\ln\epsilon}{\ln(1-\kappa^{-2})}$ iterations leave a relative error of $\epsilon$, a real number.

    From the scale $\alpha=1/\lambda_1^2$, in the worst direction.

    Parameters
    ----------
    condition_number : number or array > 1
        $\kappa=\lambda_1/\lambda_d$ of $S$.
    accuracy : number in (0, 1)

    Source: arXiv 2310.17086, Section 3.1 (where it is $O(\log\kappa+\log\log\frac1\epsilon)$; exact here).
    """
    _check_rates(condition_number, accuracy)
    return np.log2(np.log(accuracy) / np.log1p(-1 / np.square(condition_number)))


def gradient_steps_needed(condition_number: Any, accuracy: Any) -> Any:
    r"""$\ln\epsilon/\ln\frac{\kappa-1}{\kappa+1}$, the same for gradient descent at the rate $2/(\lambda_1+\lambda_d)$.

    Parameters as for :func:`newton_iterations_needed`.

    Source: arXiv 2310.17086, Section 3.1.
    """
    _check_rates(condition_number, accuracy)
    return np.log(accuracy) / np.log1p(-2 / (np.asarray(condition_number) + 1))


def krylov_steps_needed(condition_number: Any, accuracy: Any) -> Any:
    r"""$\mathrm{arcosh}\frac1\epsilon/\mathrm{arcosh}\frac{\kappa+1}{\kappa-1}$, the same for any first-order method.

    No method whose iterates are combinations of $X^\top y,SX^\top y,S^2X^\top y,\dots$ does with fewer, on the worst
    spectrum of this condition number. Parameters as for :func:`newton_iterations_needed`.

    Source: derived for arXiv 2310.17086, Section 5 (its lower bound for first-order methods).
    """
    _check_rates(condition_number, accuracy)
    condition_number = np.asarray(condition_number)
    return np.arccosh(1 / accuracy) / np.arccosh((condition_number + 1) / (condition_number - 1))


def _check_rates(condition_number: Any, accuracy: Any) -> None:
    if not np.all(np.asarray(condition_number) > 1):
        raise ValueError(f"condition_number: expected numbers > 1, got {condition_number}")
    check_number("accuracy", accuracy, "(0, 1)")
