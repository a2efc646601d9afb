r"""What SGD does to the features: exact recursions, and the maps of one sample that they reduce to.

A step with error $\ell$ multiplies an active filter's signal along a feature by $1\pm a\ell$, where $a=2\eta\lVert
u\rVert^2/m$ is the feature's gain. Weak and strong feature have one driver $\ell_t$ in common. If it keeps the strong
feature within bounds, $\overline{\ln(1+a_u\ell)}=0$, then by concavity $\overline{\ln(1+a\ell)}>0$ for every smaller
gain: oscillation alone makes the weak feature grow.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_array, check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, is_symbolic, log, log1p, positive_part, sqrt


def feature_gain(learning_rate: Any, norm_squared: Any, n_filters: Any) -> Any:
    r"""$a=\frac{2\eta\lVert u\rVert^2}m$, by which a step multiplies, for numbers or symbols."""
    return 2 * learning_rate * norm_squared / n_filters


class FeatureShares(NamedTuple):
    r"""$z=\frac1m\sum_r\langle w_{j,r},ju\rangle_+^2$ of the strong and the weak feature, each of shape (..., 2)."""

    strong: Array
    weak: Array


def _check_shares(weights: Array, strong: Array, weak: Array) -> None:
    check_shapes(weights=(weights, "... 2 n_filters d"), strong=(strong, "d"), weak=(weak, "d"))


@checked(_check_shares)
def feature_shares(weights: Array, strong: Array, weak: Array) -> FeatureShares:
    """The part of each class's output on its own samples that each feature carries.

    Parameters
    ----------
    weights : array, shape (..., 2, n_filters, d)
    strong, weak : array, shape (d,)

    Returns
    -------
    FeatureShares
        Of the class 1, then of the class -1.

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """

    def share(feature: Array) -> Array:
        signal = weights @ feature
        own = positive_part(np.stack([signal[..., 0, :], -signal[..., 1, :]], axis=-2))
        return np.asanyarray((own * own).sum(axis=-1) / weights.shape[-2])

    return FeatureShares(share(strong), share(weak))


def _check_recursion(signal: Array, gain: Any, label_sign: int, error: Any) -> None:
    check_array("signal", signal)
    check_number("gain", gain, "[0, inf)")
    check_number("error", error)
    if label_sign not in (1, -1):
        raise ValueError(f"label_sign: expected 1 or -1, got {label_sign!r}")


@checked(_check_recursion)
def signal_recursion(signal: Array, gain: Any, label_sign: int, error: Any) -> Array:
    r"""What a step makes of filters' signals $c=\langle w_{j,r},yu\rangle$: $c(1\pm a\ell)$ if $c>0$, else $c$.

    Exact if the feature is orthogonal to the sample's other patches.

    Parameters
    ----------
    signal : array
        Of filters of one class.
    gain : float >= 0
        $a$ of the feature, :func:`feature_gain`.
    label_sign : 1 or -1
        $jy$: 1 for filters of the sample's class.
    error : float
        $\ell=1-yf$.

    Raises
    ------
    ValueError
        If `signal` is no array of finite numbers, the gain is negative, or the sign is neither 1 nor -1.

    Source: derived from the step of arXiv 2310.17074 by orthogonality of the patches.
    """
    return signal + label_sign * gain * error * positive_part(signal)


# --- one sample: maps of the shares ---


def _check_share(name: str, value: Any) -> None:
    if not is_symbolic(np.asanyarray(value)) and np.any(check_array(name, np.asarray(value, float)) < 0):
        raise ValueError(f"{name}: expected numbers >= 0, got {np.min(value)}")


def _check_strong_map(share: Any, gain: Any) -> None:
    _check_share("share", share)
    _check_share("gain", gain)


@checked(_check_strong_map)
def strong_map(share: Any, gain: Any) -> Any:
    r"""$g(z)=z(1+a(1-z))^2$, a step on one sample that has the strong feature only.

    Parameters
    ----------
    share : number or array >= 0
        $z$.
    gain : number or array >= 0
        $a$.

    Raises
    ------
    ValueError
        If one is negative or not finite.

    Source: arXiv 2310.17074, the single-sample example.
    """
    growth = 1 + gain * (1 - share)
    return share * growth * growth


def _check_two(strong: Any, weak: Any, strong_gain: Any, weak_gain: Any) -> None:
    _check_strong_map(strong, strong_gain)
    _check_share("weak", weak)
    _check_share("weak_gain", weak_gain)


@checked(_check_two)
def two_feature_map(strong: Any, weak: Any, strong_gain: Any, weak_gain: Any) -> tuple[Any, Any]:
    r"""$z_u'=z_u(1+a_u\ell)^2,\ z_v'=z_v(1+a_v\ell)^2$ with $\ell=1-z_u-z_v$.

    Parameters
    ----------
    strong, weak, strong_gain, weak_gain : numbers or arrays >= 0

    Returns
    -------
    strong, weak

    Raises
    ------
    ValueError
        If one is negative or not finite.

    Source: arXiv 2310.17074, the single-sample example.
    """
    error = 1 - strong - weak
    by_strong, by_weak = 1 + strong_gain * error, 1 + weak_gain * error
    return strong * by_strong * by_strong, weak * by_weak * by_weak


def _check_errors(strong: Array, weak: Array, strong_gain: Any, weak_gain: Any, n_steps: int) -> None:
    _check_two(strong, weak, strong_gain, weak_gain)
    check_integer("n_steps", n_steps, 1)


@checked(_check_errors)
def two_feature_errors(
    strong: Array, weak: Array, strong_gain: Any, weak_gain: Any, n_steps: int
) -> tuple[Array, Array, Array]:
    r"""The errors $\ell_t=1-z_u-z_v$ of so many steps of :func:`two_feature_map`, and the shares after them.

    Parameters
    ----------
    strong, weak : arrays >= 0, shape (...)
        With `weak` 0 the steps are those of :func:`strong_map`.
    strong_gain, weak_gain : numbers or arrays >= 0, shape (...)
    n_steps : int >= 1

    Returns
    -------
    errors : array, shape (n_steps, ...)
    strong, weak : arrays, shape (...)

    Raises
    ------
    ValueError
        If a number is negative or not finite.
    """
    shape = np.broadcast_shapes(*map(np.shape, (strong, weak, strong_gain, weak_gain)))
    dtype = np.result_type(strong, weak, strong_gain, weak_gain)

    def pair(one: Any, other: Any) -> Array:
        rows = np.empty_like(strong, shape=(2, math.prod(shape)), dtype=dtype)
        for row, values in zip(rows, (one, other), strict=True):
            row.reshape(shape)[...] = values
        return rows

    shares, gains = pair(strong, weak), pair(strong_gain, weak_gain)
    growth, errors = np.empty_like(shares), np.empty_like(shares, shape=(n_steps, shares.shape[1]))
    (strong, weak), one = shares, np.ones((), dtype=dtype)
    for error in errors:
        np.subtract(one, strong, out=error)
        error -= weak
        np.multiply(gains, error, out=growth)
        growth += one
        shares *= growth
        shares *= growth
    return errors.reshape(n_steps, *shape), strong.reshape(shape), weak.reshape(shape)


def oscillation_window() -> tuple[float, float]:
    r"""The gains between which the strong map neither settles nor leaves $[0,\frac{1+a}a]$: 1 and $\frac{3\sqrt3}2-1$.

    The fixed point 1 has multiplier $1-2a$; the interval is kept iff the map's largest value on it,
    $\frac{4(1+a)^3}{27a}$ at $z=\frac{1+a}{3a}$, lies in it.
    """
    return 1.0, 3 * 3**0.5 / 2 - 1


# --- growth ---


def _check_rate(errors: Array, gain: Any) -> None:
    check_shapes(errors=(errors, "... n_steps"))
    check_number("gain", gain, "(0, inf)")
    if errors.dtype != object and np.any(1 + gain * errors <= 0):
        raise ValueError(f"errors: expected numbers above -1 / gain = {-1 / gain:g}, got {errors.min()}")


@checked(_check_rate)
def transversal_growth_rate(errors: Array, gain: Any) -> Array:
    r"""$h(a)=\frac1T\sum_t\ln(1+a\ell_t)$: a share of this gain grows by $2h$ a step in the logarithm.

    Parameters
    ----------
    errors : array, shape (..., n_steps)
        Above $-1/a$; below it the filter would change its sign.
    gain : float > 0

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, the gain is not positive, or an error is not above $-1/a$.

    Source: arXiv 2310.17074, the argument that oscillation makes the weak feature grow.
    """
    return np.asanyarray(log1p(gain * errors).sum(axis=-1) / errors.shape[-1])


def _check_bound(strong_gain: Any, weak_gain: Any, amplitude: Any) -> None:
    _check_gains(strong_gain, weak_gain)
    check_number("amplitude", amplitude, "(0, 1)")


def _check_gains(strong_gain: Any, weak_gain: Any) -> None:
    check_number("strong_gain", strong_gain, "(0, inf)")
    check_number("weak_gain", weak_gain, "(0, inf)")
    if not is_symbolic(np.asanyarray(strong_gain), np.asanyarray(weak_gain)) and weak_gain >= strong_gain:
        raise ValueError(f"weak_gain: expected less than strong_gain = {strong_gain}, got {weak_gain}")


@checked(_check_bound)
def least_growth_rate(strong_gain: Any, weak_gain: Any, amplitude: Any) -> Any:
    r"""$c=\frac{a_v(a_u-a_v)\delta^2}{2(1+a_u)(1+a_v)}$, by which each error of size $\delta$ or more feeds the weak
    feature: $\ln(1+a_v\ell)\ge\frac{a_v}{a_u}\ln(1+a_u\ell)+c$ for $\delta\le\lvert\ell\rvert,\ -1/a_u<\ell\le1$.

    Parameters
    ----------
    strong_gain, weak_gain : float > 0
        The weak one is smaller.
    amplitude : float in (0, 1)
        $\delta$.

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: arXiv 2310.17074, its main lemma; the constant derived from
    $\ln(1+\theta x)-\theta\ln(1+x)=\int_0^x\frac{\theta(1-\theta)s}{(1+\theta s)(1+s)}ds$.
    """
    return weak_gain * (strong_gain - weak_gain) * amplitude * amplitude / (2 * (1 + strong_gain) * (1 + weak_gain))


def _check_period_two(gain: Any) -> None:
    check_number("gain", gain, f"(1, {5**0.5 - 1})")


@checked(_check_period_two)
def period_two_errors(gain: Any) -> tuple[Any, Any]:
    r"""The two errors between which the strong map settles for $1<a<\sqrt5-1$.

    They are the roots of $x^2-\frac{a-1}ax-\frac{a-1}{a^2}$, the larger first.

    Parameters
    ----------
    gain : float in (1, sqrt(5) - 1), or a symbol

    Raises
    ------
    ValueError
        If the gain has no stable cycle of two.

    Source: derived; $(1+a\ell_1)(1+a\ell_2)=1$ and $\ell_1+\ell_2=\frac{a-1}a$.
    """
    mean = (gain - 1) / (2 * gain)
    half_range = sqrt(mean * mean + (gain - 1) / (gain * gain))[()]
    return mean + half_range, mean - half_range


def _check_period_two_rate(gain: Any, ratio: Any) -> None:
    _check_period_two(gain)
    check_number("ratio", ratio, "[0, 1]")


@checked(_check_period_two_rate)
def period_two_growth_rate(gain: Any, ratio: Any) -> Any:
    r"""$h(\theta a)=\frac12\ln[1+\theta(1-\theta)(a-1)]$ on the cycle of two, for a gain ratio $\theta=a_v/a_u$.

    Parameters
    ----------
    gain : float in (1, sqrt(5) - 1), or a symbol
    ratio : float in [0, 1], or a symbol

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: derived.
    """
    return log1p(ratio * (1 - ratio) * (gain - 1))[()] / 2


def _check_learning_steps(weak_share: Any, growth_rate: Any) -> None:
    check_number("weak_share", weak_share, "(0, 1)")
    check_number("growth_rate", growth_rate, "(0, inf)")


@checked(_check_learning_steps)
def learning_steps(weak_share: Any, growth_rate: Any) -> Any:
    r"""$\frac{\ln(1/z_v)}{2h}$: steps on samples with the strong feature until the weak one is learned.

    Parameters
    ----------
    weak_share : float in (0, 1)
        At the start.
    growth_rate : float > 0
        $h(a_v)$.

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: derived.
    """
    return -log(weak_share)[()] / (2 * growth_rate)


def _check_slow(weak_share: Any, strong_start: Any, strong_end: Any, norm_ratio_squared: Any) -> None:
    for name, value in (("weak_share", weak_share), ("strong_start", strong_start), ("strong_end", strong_end)):
        check_number(name, value, "(0, inf)")
    check_number("norm_ratio_squared", norm_ratio_squared, "[0, 1)")


@checked(_check_slow)
def slow_weak_share(weak_share: Any, strong_start: Any, strong_end: Any, norm_ratio_squared: Any) -> Any:
    r"""$z_v(0)\big(\frac{z_u(t)}{z_u(0)}\big)^{\lVert v\rVert^2/\lVert u\rVert^2}$: the weak share for $\eta\to0$.

    Parameters
    ----------
    weak_share, strong_start, strong_end : float > 0
        $z_v(0),\ z_u(0),\ z_u(t)$.
    norm_ratio_squared : float in [0, 1)

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: derived: the flow keeps $\frac{\ln z_u}{\lVert u\rVert^2}-\frac{\ln z_v}{\lVert v\rVert^2}$.
    """
    return weak_share * (strong_end / strong_start) ** norm_ratio_squared


def _check_minimum(strong_gain: Any, weak_gain: Any) -> None:
    _check_gains(strong_gain, weak_gain)
    check_number("strong_gain", strong_gain, "(1, inf)")


@checked(_check_minimum)
def minimum_weak_share(strong_gain: Any, weak_gain: Any) -> Any:
    r"""$\frac{a_u-1}{a_u-a_v}$: the weak share from which on a fit, $z_u+z_v=1$, is stable.

    There the error's multiplier is $1-2(a_uz_u+a_vz_v)=1-\eta\lVert\nabla f\rVert^2$: the oscillation ends where the
    curvature is $2/\eta$.

    Parameters
    ----------
    strong_gain : float > 1
    weak_gain : float > 0, below `strong_gain`

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: derived.
    """
    return (strong_gain - 1) / (strong_gain - weak_gain)
