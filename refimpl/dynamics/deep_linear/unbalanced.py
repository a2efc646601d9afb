r"""A mode of two layers whose factors start apart: hyperbolic coordinates (Appendix A).

With $c=|a^2-b^2|$, which the flow conserves, $u=ab=\frac c2\sinh\theta$ and $\tau\dot\theta=2s-c\sinh\theta$.
"""

from typing import Any, NamedTuple

import numpy as np

from refimpl.dynamics.deep_linear.arguments import as_numbers, check_between, check_entries, check_positive
from refimpl.primitives.checks import check_number, checked
from refimpl.primitives.numbers import Array, absolute, exp, is_symbolic, log, sqrt


class _Place(NamedTuple):
    """Numerator and denominator of the ratio that grows as $e^{\\zeta t/\\tau}$, the latter over $c$, and $\\zeta$."""

    zeta: Array
    numerator: Array
    denominator: Array


def _place(c: Array, u: Array, s: Array) -> _Place:
    """Where a mode with $|a^2-b^2|=c$ and $ab=u$ is: quantities that stay finite at $c=0$, a mode of equal factors."""
    zeta = sqrt(c * c + 4 * s * s)
    radius = sqrt(c * c + 4 * u * u)
    tangent = 2 * u / (c + radius)  # tanh(theta/2)
    # 1 - tangent over c; the first form cancels for u < 0, the second at c = 0.
    grows = u > 0 if not is_symbolic(u) else True
    safe = np.where(grows, radius + 2 * u, 1)
    left = np.where(grows, (1 + c / safe) / (c + radius), (1 - tangent) / np.where(grows, 1, c))
    return _Place(zeta, zeta + c + 2 * s * tangent, c / (zeta + 2 * s) - 1 + 2 * s * left)


def _check_unbalanced(t: Any, a0: Any, b0: Any, s: Any, tau: Any = 1) -> None:
    times, first, second, strength = as_numbers(t=t, a0=a0, b0=b0, s=s)
    check_number("tau", tau, "(0, inf)")
    check_positive(s=strength)
    check_entries("t", times, lambda t: t >= 0, "times >= 0")
    check_entries("a0", first, lambda a: a + second != 0, "a0 other than -b0, which leads into the saddle at 0")


@checked(_check_unbalanced)
def mode_trajectory_unbalanced(t: Any, a0: Any, b0: Any, s: Any, tau: Any = 1) -> Array:
    r"""The strength $u=ab$ of a mode whose two factors start apart; $c=|a^2-b^2|$ is conserved and
    $\tau\dot u=\sqrt{c^2+4u^2}(s-u)$.

    In hyperbolic coordinates $u=\frac c2\sinh\theta$, with $\zeta=\sqrt{c^2+4s^2}$,

    $$\frac{\zeta+c+2s\tanh(\theta/2)}{\zeta-c-2s\tanh(\theta/2)}\propto e^{\zeta t/\tau},$$

    solved for $u$ with $c$ divided out, so that equal factors are no exception.

    Parameters
    ----------
    t, a0, b0, s : arrays that broadcast, or numbers, t >= 0, s > 0, a0 + b0 not 0
        The product may start at 0 or below.
    tau : number > 0

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If a number is out of range or not finite, a0 = -b0, or shapes do not broadcast.

    Source: arXiv 1312.6120, Appendix A.
    """
    t, a0, b0, s = as_numbers(t=t, a0=a0, b0=b0, s=s)
    c = absolute((a0 - b0) * (a0 + b0))
    zeta, grown, left = _place(c, a0 * b0, s)
    decayed = left * exp(-zeta * t / tau)
    shift = c / (zeta + 2 * s)
    upper = grown * (zeta - c) - (zeta + c) * c * decayed  # 2s(1 + K) tanh(theta/2), K the ratio above, up to a factor
    both = 2 * s * (c * decayed + grown)
    above = grown * (zeta - c + 2 * s) - c * c * decayed * (1 + shift)  # upper + both
    below = (2 * s + zeta + c) * decayed + grown * (1 - shift)  # (both - upper) / c
    return np.asanyarray(upper / above * both / below)


def _check_unbalanced_time(a0: Any, b0: Any, uf: Any, s: Any, tau: Any = 1) -> None:
    _check_unbalanced(0.0, a0, b0, s, tau)
    first, second, end, strength = as_numbers(a0=a0, b0=b0, uf=uf, s=s)
    check_between(first * second, end, strength, "a0 b0 and s")


@checked(_check_unbalanced_time)
def learning_time_unbalanced(a0: Any, b0: Any, uf: Any, s: Any, tau: Any = 1) -> Array:
    r"""The time that a mode whose two factors start apart takes to the strength $u_f$:

    $$t=\frac\tau\zeta\Big[\ln\frac{\zeta+c+2s\tanh(\theta/2)}{\zeta-c-2s\tanh(\theta/2)}\Big]_{\theta_0}^{\theta_f},
    \qquad\sinh\theta=\frac{2u}c.$$

    Parameters
    ----------
    a0, b0, uf, s : arrays that broadcast, or numbers, s > 0, a0 + b0 not 0
        $u_f$ strictly between $a_0b_0$ and $s$.
    tau : number > 0

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If a number is out of range or not finite, a0 = -b0, or shapes do not broadcast.

    Source: arXiv 1312.6120, Appendix A.
    """
    a0, b0, uf, s = as_numbers(a0=a0, b0=b0, uf=uf, s=s)
    c = absolute((a0 - b0) * (a0 + b0))
    return np.asanyarray(hyperbolic_time(c, a0 * b0, uf, s) * tau)


def hyperbolic_time(c: Array, u0: Array, uf: Array, s: Array) -> Array:
    r"""The time of :func:`learning_time_unbalanced` as a function of $c$ and of the strengths, with $\tau=1$."""
    start, end = _place(c, u0, s), _place(c, uf, s)
    ratio = end.numerator / start.numerator * (start.denominator / end.denominator)
    return np.asanyarray(log(ratio) / end.zeta)
