r"""Two-layer ReLU networks: for them the trace is a path norm, and so is the largest eigenvalue (Section 4).

Inputs are uniform on the sphere of radius $\sqrt d$. All population quantities are exact: they are of degree 2 in
$x$, so that they equal those of Gaussian inputs, which depend on angles between the weights only.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.dynamics.dynamical_stability.sharpness import check_not_zero
from refimpl.primitives.checks import check_number, check_shapes, checked
from refimpl.primitives.numbers import (
    Array,
    absolute,
    constant,
    positive_part,
    sqrt,
    transpose,
    unit_step,
    where_positive,
)

BLOCK = 20  # steps of SGD after which the inner weights are written


class ReluNet(NamedTuple):
    r"""$f(x)=\sum_ja_j\sigma(w_j^\top x)$; a gradient has the same type."""

    a: Array
    """Shape ``(..., m)``."""
    w: Array
    """Shape ``(..., m, d)``."""


def _check_net(net: ReluNet) -> None:
    check_shapes(a=(net.a, "... m"), w=(net.w, "... m d"))


def _check_inputs(net: ReluNet, x: Array) -> None:
    check_shapes(a=(net.a, "... m"), w=(net.w, "... m d"), x=(x, "... n d"))


@checked(_check_inputs)
def two_layer_relu(net: ReluNet, x: Array) -> Array:
    r"""$\sum_ja_j\sigma(w_j^\top x_i)$, without biases and without a factor $\frac1m$.

    Parameters
    ----------
    net : ReluNet, with batch axes ``...``
    x : array, shape (..., n, d)

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2305.17490, Section 4 (two-layer ReLU networks).
    """
    return np.asanyarray((positive_part(x @ transpose(net.w)) @ net.a[..., None])[..., 0])


@checked(_check_inputs)
def two_layer_relu_vjp(net: ReluNet, x: Array) -> tuple[Array, Callable[[Array], tuple[ReluNet, Array]]]:
    """:func:`two_layer_relu` and its pullback ``cotangent -> (net, x)``, with derivative 0 at the kink."""
    z = x @ transpose(net.w)
    hidden = positive_part(z)

    def pullback(cotangent: Array) -> tuple[ReluNet, Array]:
        to_z = where_positive(z, cotangent[..., None] * net.a[..., None, :])
        to_net = ReluNet((cotangent[..., None, :] @ hidden)[..., 0, :], transpose(to_z) @ x)
        return to_net, to_z @ net.w

    return np.asanyarray((hidden @ net.a[..., None])[..., 0]), pullback


@checked(_check_inputs)
def two_layer_relu_jacobian(net: ReluNet, x: Array) -> Array:
    r"""Rows $g_i=\big(\sigma(w_j^\top x_i)\,;\,a_j\sigma'(w_j^\top x_i)\,x_i\big)$, of the region in which $x_i$ lies.

    Parameters
    ----------
    net : ReluNet, with batch axes ``...``
    x : array, shape (..., n, d)

    Returns
    -------
    array, shape (..., n, m + m d)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2305.17490, Section 4.
    """
    z = x @ transpose(net.w)
    to_w = (unit_step(z) * net.a[..., None, :])[..., None] * x[..., None, :]
    return np.concatenate([positive_part(z), to_w.reshape(*z.shape[:-1], -1)], axis=-1)


# --- norms and population sharpness ---


@checked(_check_net)
def path_norm(net: ReluNet) -> Array:
    r"""$\|\theta\|_{\mathcal P}=\sum_j|a_j|\,\|w_j\|$, shape (...).

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2305.17490, Section 4 (path norm).
    """
    return np.asanyarray((absolute(net.a) * sqrt((net.w * net.w).sum(axis=-1))).sum(axis=-1))


@checked(_check_net)
def population_trace(net: ReluNet) -> Array:
    r"""$\operatorname{Tr}G=\frac12\sum_j(\|w_j\|^2+d\,a_j^2)\ge\sqrt d\,\|\theta\|_{\mathcal P}$, shape (...).

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2305.17490, Section 4 (equivalence of the trace and the path norm).
    """
    d = net.w.shape[-1]
    return np.asanyarray(((net.w * net.w).sum(axis=(-2, -1)) + d * (net.a * net.a).sum(axis=-1)) / 2)


def mean_activation(d: int) -> float:
    r"""$c_d=\mathbb E\,\sigma(v^\top x)$ for a unit vector $v$, from $\frac12$ at 1 down to $\frac1{\sqrt{2\pi}}$.

    Raises
    ------
    ValueError
        If `d` is not positive.
    """
    d = check_number("d", d, "[1, inf)")
    return math.sqrt(d / math.pi) / 2 * math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2))


@checked(_check_net)
def population_operator_norm_bounds(net: ReluNet) -> tuple[Array, Array]:
    r"""$c_d^2S\le\lambda_{\max}(G)\le\frac12S$ with $S=\sum_j(\|w_j\|^2+a_j^2)\ge2\|\theta\|_{\mathcal P}$.

    Below, $G\succeq\bar g\bar g^\top$ at the mean gradient; above, a positive matrix has at most the sum of its
    diagonal blocks' norms. The upper end is attained where all weights point one way.

    Parameters
    ----------
    net : ReluNet, with batch axes ``...``

    Returns
    -------
    lower, upper : arrays, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2305.17490, Section 4 (GD); constants derived.
    """
    total = (net.w * net.w).sum(axis=(-2, -1)) + (net.a * net.a).sum(axis=-1)
    return total * mean_activation(net.w.shape[-1]) ** 2, total / 2


def _angles(w: Array) -> tuple[Array, Array, Array]:
    """Lengths (m,) and directions (m, d) of the weights, and the angles between them (m, m)."""
    lengths = np.sqrt((w * w).sum(axis=-1))
    directions = w / np.where(lengths > 0, lengths, 1)[:, None]
    pairs = directions[:, None, :], directions[None, :, :]
    apart, together = (((pairs[0] + sign * pairs[1]) ** 2).sum(axis=-1) for sign in (-1, 1))
    # Half the angle, which unlike its cosine loses no digits near 0 and pi.
    return lengths, directions, 2 * np.arctan2(np.sqrt(apart), np.sqrt(together))


def _activation_kernel(lengths: Array, angles: Array) -> Array:
    r"""$\mathbb E\,\sigma(w_j^\top x)\sigma(w_k^\top x)$."""
    pi = constant("pi", angles)
    shape = np.sin(angles) + (pi - angles) * np.cos(angles)
    return lengths[:, None] * lengths * shape / (2 * pi)


def _check_single_net(net: ReluNet) -> None:
    check_shapes(a=(net.a, "m"), w=(net.w, "m d"))
    check_not_zero("w", net.w[:, None, :])


@checked(_check_single_net)
def population_fisher(net: ReluNet) -> Array:
    r"""$G=\mathbb E\,gg^\top$ over inputs on the sphere of radius $\sqrt d$, in closed form (floats only).

    With $\theta$ the angle of $w_j,w_k$ and hats for directions, the blocks are $\frac1{2\pi}$ times

    $$\|w_j\|\|w_k\|\,(\sin\theta+(\pi-\theta)\cos\theta),\qquad
    a_k\|w_j\|\,(\sin\theta\,\hat w_k+(\pi-\theta)\hat w_j)^\top,$$
    $$a_ja_k\Big((\pi-\theta)I+\frac{\hat w_j\hat w_k^\top+\hat w_k\hat w_j^\top
    -\cos\theta\,(\hat w_j\hat w_j^\top+\hat w_k\hat w_k^\top)}{\sin\theta}\Big).$$

    Parameters
    ----------
    net : ReluNet, no weight vector zero
        `a` of shape (m,), `w` of shape (m, d).

    Returns
    -------
    array, shape (m + m d, m + m d)
        In the order of :func:`two_layer_relu_jacobian`.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a weight vector is zero.

    Source: derived; Cho and Saul (2009) for the kernels.
    """
    m, d = net.w.shape
    lengths, directions, angles = _angles(net.w)
    pi = constant("pi", net.w)
    sine, rest = np.sin(angles), pi - angles
    mixed = sine[..., None] * directions[None, :, :] + rest[..., None] * directions[:, None, :]
    mixed = net.a[None, :, None] * lengths[:, None, None] * mixed
    outer = directions[:, None, :, None] * directions[None, :, None, :]  # the directions of j and of k
    own = directions[:, :, None] * directions[:, None, :]
    symmetric = outer + np.swapaxes(outer, -1, -2)
    symmetric = symmetric - np.cos(angles)[..., None, None] * (own[:, None] + own[None, :])
    # Where the angle is 0 or pi the numerator vanishes to the second order.
    parallel = sine <= np.sqrt(np.finfo(net.w.dtype).eps)
    bent = np.where(parallel[..., None, None], 0, symmetric / np.where(parallel, 1, sine)[..., None, None])
    inner = rest[..., None, None] * np.eye(d, dtype=net.w.dtype) + bent
    inner = (net.a[:, None] * net.a)[..., None, None] * inner
    corner = mixed.reshape(m, m * d) / (2 * pi)
    block = np.swapaxes(inner, 1, 2).reshape(m * d, m * d) / (2 * pi)
    return np.block([[_activation_kernel(lengths, angles), corner], [corner.T, block]])


def _check_teacher(net: ReluNet, teacher: ReluNet) -> None:
    check_shapes(a=(net.a, "m"), w=(net.w, "m d"), teacher_a=(teacher.a, "k"), teacher_w=(teacher.w, "k d"))


@checked(_check_teacher)
def population_error(net: ReluNet, teacher: ReluNet) -> Array:
    r"""$\mathbb E\,(f(x)-f^*(x))^2$ over inputs on the sphere of radius $\sqrt d$, exactly (floats only), shape ().

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    output = np.concatenate([net.a, -teacher.a])
    lengths, _, angles = _angles(np.concatenate([net.w, teacher.w]))
    return np.asanyarray(output @ _activation_kernel(lengths, angles) @ output)


# --- training ---


def check_learning_rate(learning_rate: Any, batch: tuple[int, ...]) -> None:
    """Check a positive number, or an array of them, one for each network of a batch."""
    if np.ndim(learning_rate) == 0:
        check_number("learning_rate", learning_rate, "(0, inf)")
    elif np.shape(learning_rate) != batch or not np.all(learning_rate > 0):
        raise ValueError(f"learning_rate: expected a positive number or {batch} of them, got {learning_rate}")


def weighted_sum(weights: Array, rows: Array) -> Array:
    """Of rows (..., n, d) with weights (..., n): a product of matrices, except of one row, for which that is slow."""
    if rows.shape[-2] == 1:
        return np.asanyarray(weights * rows[..., 0, :])
    return np.asanyarray((weights[..., None, :] @ rows)[..., 0, :])


def _check_step(net: ReluNet, x: Array, y: Array, learning_rate: Any, max_norm: Any | None = None) -> None:
    sizes = check_shapes(a=(net.a, "... m"), w=(net.w, "... m d"), x=(x, "... n d"), y=(y, "... n"))
    check_learning_rate(learning_rate, sizes["..."])
    if max_norm is not None:
        check_number("max_norm", max_norm, "(0, inf)")


@checked(_check_step)
def relu_step(net: ReluNet, x: Array, y: Array, learning_rate: Any, max_norm: Any | None = None) -> ReluNet:
    r"""One gradient step on $\frac1{2n}\sum_i(f(x_i)-y_i)^2$ over the examples given: all, or a batch.

    Parameters
    ----------
    net : ReluNet, with batch axes ``...``: many networks at once
    x, y : arrays, shapes (..., n, d) and (..., n)
    learning_rate : number > 0, or array of them, shape (...)
    max_norm : number > 0, optional
        Each network's gradient is scaled down to this norm where it is longer.

    Returns
    -------
    ReluNet

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a parameter is not positive.

    Source: arXiv 2305.17490, Section 5.
    """
    z = x @ transpose(net.w)
    hidden = positive_part(z)
    residuals = ((hidden @ net.a[..., None])[..., 0] - y) / y.shape[-1]
    to_a = weighted_sum(residuals, hidden)
    through = transpose(where_positive(z, residuals[..., None]))
    to_w = through * x if x.shape[-2] == 1 else through @ x
    to_w *= net.a[..., None]
    rate = np.asarray(learning_rate)[..., None] if np.ndim(learning_rate) else learning_rate
    if max_norm is not None:
        flat = to_w.reshape(*to_a.shape[:-1], -1)
        norms = np.sqrt(np.vecdot(to_a, to_a) + np.vecdot(flat, flat))[..., None]
        rate = rate * (max_norm / np.maximum(norms, max_norm))
    to_w *= rate[..., None] if np.ndim(rate) else rate
    return ReluNet(net.a - rate * to_a, net.w - to_w)


def relu_single_steps(
    net: ReluNet, x: Array, y: Array, places: Array, learning_rate: Any, max_norm: float | None
) -> ReluNet:
    r"""SGD of many networks, each step of each a :func:`relu_step` on one example; arguments unchecked.

    A step moves the inner weights by $u_tx_t^\top$. So the preactivations of a block of steps need the weights only as
    they were before it, $w x_t-\sum_{s<t}u_s\,x_s^\top x_t$, and the weights move once, after the block.

    Parameters
    ----------
    net : ReluNet of shapes (n_runs, m) and (n_runs, m, d)
    x, y : arrays, shapes (n, d) and (n,)
        The examples of all runs.
    places : array of int, shape (n_steps, n_runs)
        Which example each step takes.
    learning_rate : number, or array of shape (n_runs,)
    max_norm : float, optional
    """
    a, w = net.a.copy(), net.w.copy()
    zero, limit = np.zeros_like(a), None if max_norm is None else np.asarray(max_norm, dtype=a.dtype)
    largest = None if limit is None else learning_rate * limit
    for start in range(0, len(places), BLOCK):
        chosen = places[start : start + BLOCK]
        inputs = x.take(chosen.T, axis=0)
        gram = inputs @ transpose(inputs).copy()  # a product with the array itself is a slower routine
        before = np.empty_like(a, shape=(len(chosen), *a.shape))
        np.matmul(inputs, transpose(w), out=np.swapaxes(before, 0, 1))
        lengths = np.diagonal(gram, axis1=1, axis2=2).T
        # What of the slope of an output is along the outer weights, and along the preactivations.
        slopes = np.empty_like(a, shape=(len(chosen), 2, *a.shape))
        moves = np.swapaxes(slopes[:, 1], 0, 1)
        rows = np.swapaxes(gram, 0, 1)
        steps = zip(before, rows, slopes, slopes[:, 0], slopes[:, 1], lengths, y[chosen], strict=True)
        for step, (z, row, slope, hidden, to_z, squared, targets) in enumerate(steps):
            z -= np.vecmat(row[:, :step], moves[:, :step])
            np.maximum(z, zero, out=hidden)
            np.sign(hidden, out=to_z)
            to_z *= a
            factors = np.vecdot(hidden, a)
            factors -= targets
            if limit is not None:
                squares = np.vecdot(slope, slope)
                norms = squares[1]
                norms *= squared
                norms += squares[0]
                np.sqrt(norms, out=norms)
                norms *= np.abs(factors)
                factors *= largest / np.maximum(norms, limit)
            else:
                factors *= learning_rate
            slope *= factors[:, None]
            a -= hidden
        w -= moves.mT @ inputs
    return ReluNet(a, w)
