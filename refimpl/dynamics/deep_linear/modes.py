r"""One mode: its differential equation, and its exact solution at every depth (Eq. 8 to 17, Appendix E).

A mode of strength $u=a_1\cdots a_n$ that learns a singular value $s$ with equal factors obeys

$$\tau\dot u=nu^{2-2/n}(s-u).$$

With $v=u/s$ and $p=2-2/n$ the time between two strengths is $\tau/(ns^p)$ times an increase of
$T(v)=\int\frac{dv}{v^p(1-v)}$. For one and two matrices $T$ is elementary. The paper calls the general case
complicated: it is three power series, each of ratio at most two thirds where it is used,

$$\begin{aligned}
v&<\tfrac12:&&\sum_{k\ge0}\frac{v^{k+1-p}}{k+1-p}=\frac{v^{1-p}}{1-p}\,{}_2F_1(1,1-p;2-p;v),\\
|1-v|&\le\tfrac12:&&-\ln|1-v|-\sum_{k\ge1}\frac{(p)_k}{k!}\frac{(1-v)^k}k,\\
v&>\tfrac32:&&\sum_{k\ge0}\frac{v^{-(p+k)}}{p+k}=\frac{v^{-p}}p\,{}_2F_1(1,p;p+1;\tfrac1v),
\end{aligned}$$

up to constants, which their values at $v=\frac12$ and $\frac32$ give. In the logit $x=\ln\frac{v}{|1-v|}$ it is concave
($v<1$) or convex ($v>1$) with slope $v^{1-p}$, so Newton's method inverts it from any start.
"""

from functools import cache
from typing import Any

import numpy as np

from refimpl.dynamics.deep_linear.arguments import as_numbers, check_between, check_entries, check_positive
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, constant, exp, expm1, is_symbolic, log1p

NEWTON_STEPS = 200  # more than ever needed, which is some ten


def _check_mode(s: Any, u0: Any, n_weights: Any, tau: Any) -> None:
    as_numbers(s=s, u0=u0)
    check_positive(s=s)
    check_positive("numbers > 0, for 0 is a fixed point", u0=u0)
    check_integer("n_weights", n_weights, 1)
    check_number("tau", tau, "(0, inf)")


def power(n_weights: Any, like: Array) -> Any:
    """$p=2-2/n$, to the last digit of the dtype."""
    return 2 - constant(2, like) / n_weights


# --- the differential equation ---


def _check_chain(a: Array, s: Any) -> None:
    check_shapes(a=(a, "... n"))
    as_numbers(a=a[..., 0], s=s)


@checked(_check_chain)
def chain_energy(a: Array, s: Any) -> Array:
    r"""$E=\frac12(s-a_1\cdots a_n)^2$ of one mode.

    Parameters
    ----------
    a : array, shape (..., n)
    s : array, shape (...), or number

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 1312.6120, Eq. 8 and 14, with $\tau=1$.
    """
    missing = s - np.prod(a, axis=-1)
    return np.asanyarray(missing * missing / 2)


@checked(_check_chain)
def chain_gradients(a: Array, s: Any) -> Array:
    r"""$\partial E/\partial a_i=-(s-a_1\cdots a_n)\prod_{j\ne i}a_j$.

    Parameters
    ----------
    a : array, shape (..., n)
    s : array, shape (...), or number

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 1312.6120, Eq. 8 and 14, with $\tau=1$.
    """
    one = 1 + 0 * a[..., :1]
    before = np.cumprod(np.concatenate([one, a[..., :-1]], axis=-1), axis=-1)
    after = np.cumprod(np.concatenate([one, a[..., :0:-1]], axis=-1), axis=-1)[..., ::-1]
    missing = np.asanyarray(s - before[..., -1] * a[..., -1])
    return np.asanyarray(-missing[..., None] * before * after)


def _check_velocity(u: Any, s: Any, n_weights: Any, tau: Any = 1) -> None:
    _check_mode(s, u, n_weights, tau)


@checked(_check_velocity)
def mode_velocity(u: Any, s: Any, n_weights: Any, tau: Any = 1) -> Array:
    r"""$\dot u=\frac n\tau u^{2-2/n}(s-u)$ of a mode with equal factors.

    Parameters
    ----------
    u, s : arrays that broadcast, or numbers, > 0
    n_weights : int >= 1
    tau : number > 0

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If a number is out of range or not finite, or shapes do not broadcast.

    Source: arXiv 1312.6120, Eq. 15 with $n=N_l-1$.
    """
    u, s = as_numbers(u=u, s=s)
    return np.asanyarray(u ** power(n_weights, u) * (s - u) * (n_weights / tau))


# --- the time between two strengths ---


def time_below(v: Array, p: Any, n_terms: int) -> Array:
    r"""The first terms of $\sum_k v^{k+1-p}/(k+1-p)$, whose derivative is $v^{-p}/(1-v)$ for $v<1$."""
    total = 0 * v
    for k in reversed(range(n_terms)):
        total = total * v + 1 / (k + 1 - p)
    return np.asanyarray(total * v ** (1 - p))


def time_around(y: Array, p: Any, n_terms: int) -> Array:
    r"""The first terms of $-\sum_k\frac{(p)_k}{k!}\frac{y^k}k$, whose derivative in $v=1-y$ is $v^{-p}/(1-v)-1/(1-v)$.

    It is summed by Horner's rule on ratios of successive coefficients.
    """
    total = 1 + 0 * y
    for k in reversed(range(1, n_terms)):
        total = 1 + total * y * (p + k) * k / ((k + 1) * (k + 1))
    return np.asanyarray(-p * y * total)


def time_above(v: Array, p: Any, n_terms: int) -> Array:
    r"""The first terms of $\sum_k v^{-(p+k)}/(p+k)$, whose derivative is $v^{-p}/(1-v)$ for $v>1$."""
    total = 0 * v
    for k in reversed(range(n_terms)):
        total = total / v + 1 / (k + p)
    return np.asanyarray(total * v ** (-p))


def _n_terms(dtype: Any, slow: bool = False) -> int:
    """How many terms leave less than roundoff: a bit a term at ratio 1/2, and 1.75 terms a bit at 2/3."""
    bits = int(np.finfo(dtype).nmant) + 4
    return (7 * bits + 3) // 4 if slow else bits


@cache
def _joints(n_weights: int, dtype: Any) -> tuple[Array, Array]:
    """What the middle series is above the outer ones, at 1/2 and at 3/2."""
    half = np.full(1, 0.5, dtype=dtype)
    p = power(n_weights, half)
    below = time_around(half, p, _n_terms(dtype)) - np.log(half) - time_below(half, p, _n_terms(dtype))
    above = time_around(-half, p, _n_terms(dtype)) - np.log(half) - time_above(3 * half, p, _n_terms(dtype, True))
    return below, above


def _elapsed(v: Array, y: Array, log_y: Array, n_weights: int) -> Array:
    r"""$T(v)$ from $v$, $y=1-v$ and $\ln|y|$, each to its own full accuracy.

    The outer series stand as they are and the middle one is shifted to meet them: far from 1 nothing of order one is
    added to small numbers.
    """
    p = power(n_weights, v)
    found = np.empty_like(v)
    below, above = y > 0.5, y < -0.5
    if np.any(below):
        found[below] = time_below(v[below], p, _n_terms(v.dtype))
    if np.any(above):
        found[above] = time_above(v[above], p, _n_terms(v.dtype, True))
    middle = ~(below | above)
    if np.any(middle):
        near = y[middle]
        joint = np.where(near > 0, *_joints(n_weights, v.dtype))
        found[middle] = time_around(near, p, _n_terms(v.dtype)) - log_y[middle] - joint
    return found


def _between(u: Array, s: Array, n_weights: int) -> Array:
    """$T(u/s)$."""
    v, y = (np.atleast_1d(value) for value in np.broadcast_arrays(u / s, (s - u) / s, subok=True))
    return _elapsed(v, y, np.log(np.abs(y)), n_weights).reshape(np.broadcast_shapes(u.shape, s.shape))


def _check_time(s: Any, u0: Any, uf: Any, n_weights: Any, tau: Any = 1) -> None:
    _check_mode(s, u0, n_weights, tau)
    strength, start, end = as_numbers(s=s, u0=u0, uf=uf)
    check_between(start, end, strength, "u0 and s")
    if is_symbolic(strength) and isinstance(n_weights, int) and n_weights > 2:
        raise ValueError(f"n_weights: expected 1 or 2 for symbols, got {n_weights}")


@checked(_check_time)
def learning_time(s: Any, u0: Any, uf: Any, n_weights: int, tau: Any = 1) -> Array:
    r"""The time that a mode with equal factors takes from strength $u_0$ to $u_f$.

    For one and two matrices

    $$t=\tau\ln\frac{s-u_0}{s-u_f},\qquad t=\frac\tau{2s}\ln\frac{u_f(s-u_0)}{u_0(s-u_f)},$$

    and in general $\frac\tau{ns^p}[T(u_f/s)-T(u_0/s)]$ as at the head of this module.

    Parameters
    ----------
    s, u0, uf : arrays that broadcast, or numbers, > 0
        $u_f$ strictly between $u_0$ and $s$. A mode that starts above $s$ decays to it.
    n_weights : int >= 1
        $n=N_l-1$, the number of matrices; symbols for 1 and 2 only.
    tau : number > 0

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If a number is out of range or not finite, or shapes do not broadcast.

    Source: arXiv 1312.6120, Eq. 11 (two matrices); Eq. 15 integrated (others).
    """
    s, u0, uf = as_numbers(s=s, u0=u0, uf=uf)
    if n_weights == 1:
        return np.asanyarray(tau * log1p((uf - u0) / (s - uf)))
    if n_weights == 2:
        return np.asanyarray(tau * log1p(s * (uf - u0) / (u0 * (s - uf))) / (2 * s))
    elapsed = _between(uf, s, n_weights) - _between(u0, s, n_weights)
    return np.asanyarray(elapsed * (tau / n_weights) / s ** power(n_weights, s))


@checked(_check_time)
def learning_time_infinite_depth(s: Any, u0: Any, uf: Any, n_weights: Any, tau: Any = 1) -> Array:
    r"""The limit of :func:`learning_time` at large depth, off by $O(1/n)$ of itself:

    $$t=\frac\tau n\Big[\frac1{s^2}\ln\frac{u_f(s-u_0)}{u_0(s-u_f)}+\frac1{su_0}-\frac1{su_f}\Big].$$

    Parameters
    ----------
    s, u0, uf : arrays that broadcast, or numbers, > 0
        $u_f$ strictly between $u_0$ and $s$.
    n_weights : int >= 1
        Where the paper has $N_l$, which is the same in the limit.
    tau : number > 0

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If a number is out of range or not finite, or shapes do not broadcast.

    Source: arXiv 1312.6120, Eq. 17.
    """
    s, u0, uf = as_numbers(s=s, u0=u0, uf=uf)
    gain = (uf - u0) / (u0 * uf * s)
    return np.asanyarray((log1p(s * (uf - u0) / (u0 * (s - uf))) / (s * s) + gain) * (tau / n_weights))


# --- the trajectory ---


def _check_trajectory(t: Any, s: Any, u0: Any, n_weights: Any, tau: Any = 1) -> None:
    _check_mode(s, u0, n_weights, tau)
    times, strength, _ = as_numbers(t=t, s=s, u0=u0)
    if is_symbolic(strength) and n_weights > 2:
        raise ValueError(f"n_weights: expected 1 or 2 for symbols, got {n_weights}")
    check_entries("t", times, lambda t: t >= 0, "times >= 0")


@checked(_check_trajectory)
def mode_trajectory(t: Any, s: Any, u0: Any, n_weights: int, tau: Any = 1) -> Array:
    r"""The strength $u(t)$ of a mode with equal factors.

    For one and two matrices

    $$u=s+(u_0-s)e^{-t/\tau},\qquad u=\frac s{1+(s/u_0-1)e^{-2st/\tau}};$$

    else the inverse of :func:`learning_time`, by Newton's method.

    Parameters
    ----------
    t, s, u0 : arrays that broadcast, or numbers, t >= 0, the others > 0
    n_weights : int >= 1
        Symbols for 1 and 2 only.
    tau : number > 0

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If a number is out of range or not finite, or shapes do not broadcast.

    Source: arXiv 1312.6120, Eq. 12 (written so that it neither overflows nor cancels); Eq. 15 solved (other depths).
    """
    t, s, u0 = as_numbers(t=t, s=s, u0=u0)
    if n_weights == 1:
        decay = -t / tau
        return np.asanyarray(u0 * exp(decay) - s * expm1(decay))
    if n_weights == 2:
        decay = -2 * s * t / tau
        return np.asanyarray(s * u0 / (s * exp(decay) - u0 * expm1(decay)))
    shape = np.broadcast_shapes(t.shape, s.shape, u0.shape)
    t, s, u0 = (np.atleast_1d(value) for value in np.broadcast_arrays(t, s, u0, subok=True))
    found = s + 0 * t
    moving = u0 != s
    if np.any(moving):
        found[moving] = _grown(t[moving], s[moving], u0[moving], n_weights, tau)
    return found.reshape(shape)


def _grown(t: Array, s: Array, u0: Array, n_weights: int, tau: Any) -> Array:
    p = power(n_weights, s)
    passed = s**p * t * (n_weights / tau)
    target = _between(u0, s, n_weights) + passed
    below = u0 < s
    x = np.log(u0 / np.abs(s - u0))
    # What grows as if it never saturated, up to half of s, is closer to the solution than the start.
    shrunk = np.maximum((s / u0) ** (p - 1) - (p - 1) * passed, constant(2, s) ** (p - 1))
    free = -np.log(np.maximum(shrunk ** (1 / (p - 1)) - 1, 1))
    x = np.where(below, np.maximum(x, free), x)
    for _ in range(NEWTON_STEPS):
        v, y, log_y = _from_logit(x, below)
        step = (target - _elapsed(v, y, log_y, n_weights)) * v ** (p - 1)
        x = x + step
        # The curvature over the slope is at most max(v, 1), so this is what is left of the error.
        if np.all(step * step * np.maximum(v, 1) <= np.finfo(s.dtype).eps):
            break
    return np.asanyarray(s * _from_logit(x, below)[0])


def _from_logit(x: Array, below: Array) -> tuple[Array, Array, Array]:
    r"""$v$, $1-v$ and $\ln|1-v|$ where $x=\ln\frac v{|1-v|}$."""
    ratio = np.exp(-x)
    inverse = np.where(below, 1 + ratio, -np.expm1(-x))
    return 1 / inverse, np.where(below, ratio, -ratio) / inverse, -x - np.log(inverse)


def _check_nonwhite(t: Any, s: Any, eigenvalue: Any, u0: Any, n_weights: Any, tau: Any = 1) -> None:
    check_positive(eigenvalue=eigenvalue)
    _check_trajectory(t, s, u0, n_weights, tau)
    as_numbers(t=t, s=s, eigenvalue=eigenvalue, u0=u0)


@checked(_check_nonwhite)
def mode_trajectory_nonwhite(t: Any, s: Any, eigenvalue: Any, u0: Any, n_weights: int, tau: Any = 1) -> Array:
    r"""The strength of a mode along an eigenvector of $\Sigma^{11}$: $\tau\dot u=nu^{2-2/n}(s-\lambda u)$.

    In the time $\lambda t$ it learns $s/\lambda$ as if inputs were white. With $s=\lambda$ it is what an auto-encoder
    learns in pretraining, at the rate $2\lambda$ for two matrices.

    Parameters
    ----------
    t, s, eigenvalue, u0 : arrays that broadcast, or numbers, t >= 0, the others > 0
    n_weights : int >= 1
        Symbols for 1 and 2 only.
    tau : number > 0

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If a number is out of range or not finite, or shapes do not broadcast.

    Source: arXiv 1312.6120, Section 3 and Appendix E.
    """
    t, s, eigenvalue, u0 = as_numbers(t=t, s=s, eigenvalue=eigenvalue, u0=u0)
    return mode_trajectory.unchecked(eigenvalue * t, s / eigenvalue, u0, n_weights, tau)
