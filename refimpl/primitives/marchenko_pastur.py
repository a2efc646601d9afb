r"""The Marchenko-Pastur law: eigenvalues of $\frac1nX^\top X$, $X$ of shape (n, p) with entries of variance $\sigma^2$.

With the ratio $\gamma=p/n$ fixed and $n\to\infty$ they fill
$[\sigma^2(1-\sqrt\gamma)^2,\sigma^2(1+\sqrt\gamma)^2]$, and a share $1-1/\gamma$ is zero if $\gamma>1$.
"""

from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.numbers import Array


class Quadrature(NamedTuple):
    """Nodes in the bulk and their weights, and the mass of the point at zero; the masses sum to 1."""

    nodes: Array
    weights: Array
    at_zero: float


def marchenko_pastur_edges(ratio: float, variance: float = 1.0) -> tuple[float, float]:
    r"""$\sigma^2(1\mp\sqrt\gamma)^2$.

    Raises
    ------
    ValueError
        If a parameter is not positive.
    """
    ratio = check_number("ratio", ratio, "(0, inf)")
    variance = check_number("variance", variance, "(0, inf)")
    return variance * (1 - ratio**0.5) ** 2, variance * (1 + ratio**0.5) ** 2


def marchenko_pastur_density(eigenvalues: Any, ratio: float, variance: float = 1.0) -> Array:
    r"""The density of the bulk, $\frac{\sqrt{(\lambda_+-\lambda)(\lambda-\lambda_-)}}{2\pi\gamma\sigma^2\lambda}$.

    Parameters
    ----------
    eigenvalues : array of any shape
    ratio, variance : numbers > 0
        $\gamma=p/n$ and $\sigma^2$.

    Returns
    -------
    array, same shape; its integral is 1 or, if `ratio` > 1, ``1 / ratio``

    Raises
    ------
    ValueError
        If a parameter is not positive.

    Source: Marchenko and Pastur (1967).
    """
    low, high = marchenko_pastur_edges(ratio, variance)
    eigenvalues = np.asarray(eigenvalues, float)
    inside = (eigenvalues > low) & (eigenvalues < high)
    safe = np.where(inside, eigenvalues, 1.0)
    root = np.sqrt(np.maximum((high - safe) * (safe - low), 0.0))
    return np.where(inside, root / (2 * np.pi * ratio * variance * safe), 0.0)


def marchenko_pastur_quadrature(ratio: float, variance: float = 1.0, n_nodes: int = 400) -> Quadrature:
    r"""A quadrature for the law: with $\lambda$ as the cosine of an angle the density is smooth and periodic.

    The midpoint rule then converges exponentially, at ratio 1 (where the density diverges at 0) too.

    Parameters
    ----------
    ratio, variance : numbers > 0
    n_nodes : int >= 1

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """
    low, high = marchenko_pastur_edges(ratio, variance)
    angle = (np.arange(check_integer("n_nodes", n_nodes, 1)) + 0.5) * (np.pi / n_nodes)
    half = (high - low) / 2
    nodes = (low + high) / 2 - half * np.cos(angle)
    weights = (half * np.sin(angle)) ** 2 / (2 * np.pi * ratio * variance * nodes) * (np.pi / n_nodes)
    return Quadrature(nodes, weights, max(0.0, 1 - 1 / ratio))


def marchenko_pastur_resolvent(shift: Any, ratio: float, variance: float = 1.0) -> Array:
    r"""$m(z)=\int\frac{\rho(\lambda)\,d\lambda}{\lambda+z}$ for $z>0$, zero eigenvalues included.

    The positive root of $\gamma\sigma^2z\,m^2+(z+\sigma^2(1-\gamma))m-1=0$.

    Parameters
    ----------
    shift : array of numbers > 0
    ratio, variance : numbers > 0

    Raises
    ------
    ValueError
        If a parameter or a shift is not positive.

    Source: Marchenko and Pastur (1967); the Stieltjes transform at $-z$.
    """
    ratio = check_number("ratio", ratio, "(0, inf)")
    variance = check_number("variance", variance, "(0, inf)")
    shift = np.asarray(shift, float)
    if not np.all(shift > 0):
        raise ValueError(f"shift: expected positive numbers, got {shift.min()}")
    linear = shift + variance * (1 - ratio)
    root = np.sqrt(linear**2 + 4 * ratio * variance * shift)
    # The form without cancellation: the other one subtracts nearly equal numbers where linear > 0.
    return np.where(linear > 0, 2 / (linear + root), (root - linear) / (2 * ratio * variance * shift))
