r"""How many iterations suffice: the data's radius and margin, and the bounds they give.

All bounds hold from $\theta_0=0$ and count the updates until every margin is positive. The tool is Novikoff's: with
$\theta^*$ the best direction, a step raises $\langle\theta,\theta^*\rangle$ by at least $\mu$ times the sum of its
weights, and $\lVert\theta\rVert^2$ by at most its own square, as long as it does not point along $\theta$. That of a
perceptron never does. That of the logistic weights may, but while a sample is wrong by no more than a logarithm:
$\sum_ip_im_i\le\ln(2n-1)\sum_ip_i$, by Jensen's inequality for $m_i=\ln\frac{1-p_i}{p_i}$.
"""

from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.numbers import Array, log

SMALLEST_MARGIN = 1e-9  # over the radius: below it data count as not separable


class Margin(NamedTuple):
    """The margin of a data set, and the direction that has it."""

    margin: Any
    r"""$\mu=\max_{\lVert\theta\rVert=1}\min_i\langle z_i,\theta\rangle$, 0 if the data are not separable."""
    direction: Array
    """Shape ``(d,)``, of norm 1; zero if the data are not separable."""


def radius(z: Array) -> Any:
    r"""$R=\max_i\lVert z_i\rVert$.

    Parameters
    ----------
    z : array, shape (n, d)

    Raises
    ------
    ValueError
        If it is no matrix or an entry is not finite.
    """
    check_shapes(z=(z, "n d"))
    return np.sqrt(np.max((z * z).sum(axis=1)))


def margin(z: Array) -> Margin:
    r"""The largest margin $\mu$, which is also the distance of the convex hull of $\{z_i\}$ to the origin.

    The shortest $\theta$ with all $\langle z_i,\theta\rangle\ge1$ has norm $1/\mu$. It is found as a non-negative least
    squares problem, whose multipliers combine the samples to it, and polished on the samples that touch the margin. The
    margin returned is that of the direction returned, so it is attained. In float64 whatever the data's precision.

    Parameters
    ----------
    z : array, shape (n, d)

    Returns
    -------
    Margin

    Raises
    ------
    ValueError
        If it is no matrix or an entry is not finite.

    Source: Assumption 1.1. Lawson and Hanson, Solving Least Squares Problems (1974), Chapter 23.
    """
    from scipy.optimize import nnls

    scale = float(radius(z))
    none = Margin(z.dtype.type(0), np.zeros(z.shape[1], dtype=z.dtype))
    if scale == 0:
        return none
    samples = np.asarray(z, dtype=np.float64) / scale
    system = np.vstack([samples.T, np.ones(len(samples))])
    multipliers, _ = nnls(system, np.append(np.zeros(samples.shape[1]), 1.0))
    touching = samples[multipliers > 0]
    candidates = [multipliers @ samples, np.linalg.lstsq(touching, np.ones(len(touching)))[0]]
    best = none
    for candidate in candidates:
        norm = np.linalg.norm(candidate)
        if norm > 0:
            direction = np.asarray(candidate / norm, dtype=z.dtype)
            attained = np.min(z @ direction)
            if attained > max(best.margin, SMALLEST_MARGIN * scale):
                best = Margin(attained, direction)
    return best


def _check(radius: Any, margin: Any, n_samples: Any = 1, step_size: Any = 1) -> None:
    check_integer("n_samples", n_samples, 1)
    check_number("radius", radius, "(0, inf)")
    check_number("margin", margin, "(-inf, inf)")
    check_number("step_size", step_size, "(0, inf)")
    if getattr(margin, "free_symbols", None):
        return
    if not margin > SMALLEST_MARGIN * radius:
        raise ValueError(f"margin: expected that of separable data, above {SMALLEST_MARGIN:g} radius, got {margin}")
    if not margin <= (1 + SMALLEST_MARGIN) * radius:
        raise ValueError(f"margin: expected at most the radius {radius}, got {margin}")


def perceptron_bound(radius: Any, margin: Any) -> Any:
    r"""$T\le R^2/\mu^2$ for the perceptron and the normalized batch perceptron.

    Parameters
    ----------
    radius, margin : number > 0, or symbol

    Raises
    ------
    ValueError
        If the margin is not that of separable data, at most the radius.

    Source: Theorems 5.2 and 5.3.
    """
    _check(radius, margin)
    return radius**2 / margin**2


def batch_perceptron_bound(n_samples: int, radius: Any, margin: Any) -> Any:
    r"""$T\le nR^2/\mu^2$ for the batch perceptron.

    Parameters
    ----------
    n_samples : int >= 1, or symbol
    radius, margin : number > 0, or symbol

    Raises
    ------
    ValueError
        If the margin is not that of separable data, at most the radius, or the number of samples below 1.

    Source: Theorem 3.3.
    """
    _check(radius, margin, n_samples)
    return n_samples * radius**2 / margin**2


def batch_perceptron_bound_tight(n_samples: int, radius: Any, margin: Any) -> Any:
    r"""$T\le n\big(\frac{R^2}{\mu^2}-\frac12\big)+1$, what the proof of Theorem 3.3 gives.

    Parameters, errors as for :func:`batch_perceptron_bound`. It is the smaller of the two from two samples on.
    """
    _check(radius, margin, n_samples)
    return n_samples * (2 * radius**2 / margin**2 - 1) / 2 + 1


def normalized_lr_gd_bound(n_samples: int, radius: Any, margin: Any, step_size: Any) -> Any:
    r"""$T\le\frac{R^2}{\mu^2}+\frac{2\ln(2n-1)}{\gamma\mu^2}$ for normalized LR+GD with any step size.

    Parameters
    ----------
    n_samples : int >= 1, or symbol
    radius, margin, step_size : number > 0, or symbol

    Raises
    ------
    ValueError
        If the margin is not that of separable data, at most the radius, the number of samples below 1 or the step size
        not positive and finite.

    Source: Theorem 6.1.
    """
    _check(radius, margin, n_samples, step_size)
    logarithm = log(np.asarray(2 * n_samples - 1, dtype=np.asarray(radius).dtype)).item()
    return (radius**2 + 2 * logarithm / step_size) / margin**2


def lr_gd_bound(n_samples: int, radius: Any, margin: Any, step_size: Any) -> Any:
    r"""$T\le2n\big(\frac{R^2}{\mu^2}+\frac{2\ln(2n-1)}{\gamma\mu^2}\big)$ for LR+GD with any step size.

    $2n$ times the bound for normalized steps, for $\frac1n\sum_ip_i\ge\frac1{2n}$ while a sample is wrong.

    Parameters, errors as for :func:`normalized_lr_gd_bound`.

    Source: the proof of Theorem 6.1, applied to the weights of LR+GD.
    """
    return 2 * n_samples * normalized_lr_gd_bound(n_samples, radius, margin, step_size)
