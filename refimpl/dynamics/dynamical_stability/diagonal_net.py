r"""Diagonal linear networks: for them the trace is an $\ell_1$ norm, and noise balances the layers (Section 4)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.dynamics.dynamical_stability.relu_net import check_learning_rate, weighted_sum
from refimpl.dynamics.dynamical_stability.sharpness import Sharpness, check_not_zero
from refimpl.primitives.checks import check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, absolute, is_symbolic, sqrt


class DiagonalNet(NamedTuple):
    r"""$f(x)=\langle a\odot b,x\rangle$; a gradient has the same type."""

    a: Array
    """Shape ``(..., d)``."""
    b: Array
    """Shape ``(..., d)``."""


def _check_net(net: DiagonalNet) -> None:
    check_shapes(a=(net.a, "... d"), b=(net.b, "... d"))


def _check_inputs(net: DiagonalNet, x: Array) -> None:
    check_shapes(a=(net.a, "... d"), b=(net.b, "... d"), x=(x, "... n d"))


@checked(_check_inputs)
def diagonal_net(net: DiagonalNet, x: Array) -> Array:
    r"""$\langle a\odot b,x_i\rangle$.

    Parameters
    ----------
    net : DiagonalNet, with batch axes ``...``
    x : array, shape (..., n, d)

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2305.17490, Section 4 (diagonal linear networks).
    """
    return np.asanyarray((x @ (net.a * net.b)[..., None])[..., 0])


@checked(_check_inputs)
def diagonal_net_vjp(net: DiagonalNet, x: Array) -> tuple[Array, Callable[[Array], tuple[DiagonalNet, Array]]]:
    """:func:`diagonal_net` and its pullback ``cotangent -> (net, x)``."""
    product = net.a * net.b

    def pullback(cotangent: Array) -> tuple[DiagonalNet, Array]:
        to_product = (cotangent[..., None, :] @ x)[..., 0, :]
        return DiagonalNet(to_product * net.b, to_product * net.a), cotangent[..., None] * product[..., None, :]

    return np.asanyarray((x @ product[..., None])[..., 0]), pullback


@checked(_check_inputs)
def diagonal_net_jacobian(net: DiagonalNet, x: Array) -> Array:
    r"""Rows $g_i=(b\odot x_i\,;\,a\odot x_i)$.

    Parameters
    ----------
    net : DiagonalNet, with batch axes ``...``
    x : array, shape (..., n, d)

    Returns
    -------
    array, shape (..., n, 2 d)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2305.17490, Section 4.
    """
    return np.concatenate([net.b[..., None, :] * x, net.a[..., None, :] * x], axis=-1)


@checked(_check_net)
def isotropic_eigenvalues(net: DiagonalNet) -> Array:
    r"""$a_j^2+b_j^2$, for inputs with $\mathbb Exx^\top=I$: with as many zeros the spectrum of $G$, shape (..., d).

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2305.17490, Section 4.
    """
    return np.asanyarray(net.a * net.a + net.b * net.b)


@checked(_check_net)
def isotropic_sharpness(net: DiagonalNet) -> Sharpness:
    r"""The sharpness for inputs with $\mathbb Exx^\top=I$, from :func:`isotropic_eigenvalues` (floats only).

    So $\operatorname{Tr}G=\|a\|^2+\|b\|^2\ge2\|\beta\|_1$ and $\lambda_{\max}=\max_j(a_j^2+b_j^2)\ge2\|\beta\|_\infty$;
    inputs of variance $v$ multiply all three by $v$.

    Parameters
    ----------
    net : DiagonalNet, with batch axes ``...``

    Returns
    -------
    Sharpness

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2305.17490, Section 4 (equivalence of the trace and the l1 norm).
    """
    eigenvalues = isotropic_eigenvalues.unchecked(net)
    return Sharpness(
        np.asanyarray(eigenvalues.sum(axis=-1)),
        np.sqrt((eigenvalues * eigenvalues).sum(axis=-1)),
        np.asanyarray(eigenvalues.max(axis=-1)),
    )


# --- balance ---


def _check_product(net: DiagonalNet) -> None:
    _check_net(net)
    if not is_symbolic(*net):
        check_not_zero("net", (net.a * net.b)[..., None])


@checked(_check_product)
def balance_ratio(net: DiagonalNet) -> Array:
    r"""$r(\theta)=\frac{\|a\|^2+\|b\|^2}{2\|a\odot b\|_1}\ge1$, with equality where $|a_j|=|b_j|$, shape (...).

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a product is zero.

    Source: arXiv 2305.17490, Section 5 (balance).
    """
    squares = (net.a * net.a + net.b * net.b).sum(axis=-1)
    return np.asanyarray(squares / (2 * absolute(net.a * net.b).sum(axis=-1)))


@checked(_check_net)
def imbalance(net: DiagonalNet) -> Array:
    r"""$\sum_j|a_j^2-b_j^2|$, which gradient flow conserves and noise destroys, shape (...).

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    return np.asanyarray(absolute(net.a * net.a - net.b * net.b).sum(axis=-1))


def _check_ratio(a: Array, signs: Array, ratio: Any) -> None:
    check_shapes(a=(a, "... d"), signs=(signs, "... d"))
    if np.ndim(ratio) == 0:
        check_number("ratio", ratio, "[1, inf)")
    elif np.shape(ratio) != np.shape(a)[:-1] or not np.all(ratio >= 1):
        raise ValueError(f"ratio: expected a number of at least 1 or {np.shape(a)[:-1]} of them, got {ratio}")


@checked(_check_ratio)
def net_of_ratio(a: Array, signs: Array, ratio: Any) -> DiagonalNet:
    r"""$b_j=\pm\big(r_0+\sqrt{r_0^2-1}\big)\,a_j$, for which $r(\theta)=r_0$ exactly.

    Parameters
    ----------
    a : array, shape (..., d)
    signs : array, shape (..., d), of 1 and -1
    ratio : number >= 1, or array of them, shape (...)

    Returns
    -------
    DiagonalNet

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the ratio is below 1.

    Source: arXiv 2305.17490, Section 5 (balance).
    """
    ratio = np.asarray(ratio, dtype=a.dtype)[..., None]
    return DiagonalNet(a, signs * (ratio + sqrt(ratio * ratio - 1)) * a)


# --- training ---


def _check_step(net: DiagonalNet, x: Array, y: Array, learning_rate: Any, max_norm: Any | None = None) -> None:
    sizes = check_shapes(a=(net.a, "... d"), b=(net.b, "... d"), x=(x, "... n d"), y=(y, "... n"))
    check_learning_rate(learning_rate, sizes["..."])
    if max_norm is not None:
        check_number("max_norm", max_norm, "(0, inf)")


@checked(_check_step)
def diagonal_step(net: DiagonalNet, x: Array, y: Array, learning_rate: Any, max_norm: Any | None = None) -> DiagonalNet:
    r"""One gradient step on $\frac1{2n}\sum_i(f(x_i)-y_i)^2$ over the examples given: all, or a batch.

    With $h=\frac1n\sum_ir_ix_i$ both layers move at once, $a\leftarrow a-\eta h\odot b$,
    $b\leftarrow b-\eta h\odot a$, and exactly $a_j^2-b_j^2\leftarrow(a_j^2-b_j^2)(1-\eta^2h_j^2)$.

    Parameters
    ----------
    net : DiagonalNet, with batch axes ``...``: many networks at once
    x, y : arrays, shapes (..., n, d) and (..., n)
    learning_rate : number > 0, or array of them, shape (...)
    max_norm : number > 0, optional
        Each network's gradient is scaled down to this norm where it is longer.

    Returns
    -------
    DiagonalNet

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a parameter is not positive.

    Source: arXiv 2305.17490, Section 5.
    """
    residuals = ((x @ (net.a * net.b)[..., None])[..., 0] - y) / y.shape[-1]
    to_product = weighted_sum(residuals, x)
    rate = np.asarray(learning_rate)[..., None] if np.ndim(learning_rate) else learning_rate
    to_a, to_b = to_product * net.b, to_product * net.a
    if max_norm is not None:
        norms = np.sqrt(np.vecdot(to_a, to_a) + np.vecdot(to_b, to_b))[..., None]
        rate = rate * (max_norm / np.maximum(norms, max_norm))
    return DiagonalNet(net.a - rate * to_a, net.b - rate * to_b)


def diagonal_single_steps(
    net: DiagonalNet, x: Array, y: Array, places: Array, learning_rate: Any, max_norm: float | None
) -> DiagonalNet:
    r"""SGD of many networks, each step of each a :func:`diagonal_step` on one example; arguments unchecked.

    The gradient is $r\,x\odot(b,a)$ with the residual $r$, and $\langle x\odot b,a\rangle$ the output.

    Parameters
    ----------
    net : DiagonalNet of shape (n_runs, d)
    x, y : arrays, shapes (n, d) and (n,)
        The examples of all runs.
    places : array of int, shape (n_steps, n_runs)
        Which example each step takes.
    learning_rate : number, or array of shape (n_runs,)
    max_norm : float, optional
    """
    weights = np.stack(net)
    swapped, slopes, full = weights[::-1], np.empty_like(weights), np.empty_like(net.a)
    for chosen, targets in zip(places, y[places], strict=True):
        np.multiply(x.take(chosen, axis=0), swapped, out=slopes)
        factors = np.vecdot(slopes[0], weights[0])
        factors -= targets
        if max_norm is not None:
            to_a, to_b = np.vecdot(slopes, slopes)
            to_a += to_b
            norms = np.abs(factors) * np.sqrt(to_a)
            factors *= max_norm / np.maximum(norms, max_norm)
        factors *= learning_rate
        full[...] = factors[:, None]  # products are quicker with whole rows than with a number each
        slopes *= full
        weights -= slopes
    return DiagonalNet(*weights)
