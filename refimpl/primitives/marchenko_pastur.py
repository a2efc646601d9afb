r"""The Marchenko-Pastur law: eigenvalues of $\frac1nX^\top X$, $X$ of shape (n, p) with entries of variance $\sigma^2$.

With the ratio $\gamma=p/n$ fixed and $n\to\infty$ they fill
$[\sigma^2(1-\sqrt\gamma)^2,\sigma^2(1+\sqrt\gamma)^2]$, and a share $1-1/\gamma$ is zero if $\gamma>1$.
"""

from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_array, check_integer, check_number
from refimpl.primitives.numbers import Array, constant, is_symbolic, sqrt


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
    eigenvalues = check_array("eigenvalues", eigenvalues)
    inside = (eigenvalues > low) & (eigenvalues < high)
    safe = np.where(inside, eigenvalues, 1)
    root = np.sqrt(np.maximum((high - safe) * (safe - low), 0))
    return np.where(inside, root / (2 * constant("pi", eigenvalues) * ratio * variance * safe), 0)


def marchenko_pastur_quadrature(
    ratio: float, variance: float = 1.0, n_nodes: int = 400, dtype: Any = np.float64
) -> Quadrature:
    r"""A quadrature for the law: with $\lambda$ as the cosine of an angle the density is smooth and periodic.

    The midpoint rule then converges exponentially, at ratio 1 (where the density diverges at 0) too.

    Parameters
    ----------
    ratio, variance : numbers > 0
    n_nodes : int >= 1
    dtype : floating-point dtype
        Of nodes and weights, which are computed in float64 at least.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """
    low, high = marchenko_pastur_edges(ratio, variance)
    like = np.zeros((), dtype=np.result_type(dtype, np.float64))
    half_angle = (2 * np.arange(check_integer("n_nodes", n_nodes, 1), dtype=like.dtype) + 1) * (
        constant("pi", like) / (4 * n_nodes)
    )
    # From the lower edge up, so that at ratio 1, where it is 0, the smallest nodes keep their digits.
    nodes = low + (high - low) * np.sin(half_angle) ** 2
    weights = ((high - low) * np.sin(2 * half_angle)) ** 2 / (8 * ratio * variance * n_nodes * nodes)
    return Quadrature(nodes.astype(dtype), weights.astype(dtype), max(0.0, 1 - 1 / ratio))


def marchenko_pastur_resolvent(shift: Any, ratio: float, variance: float = 1.0) -> Array:
    r"""$m(z)=\int\frac{\rho(\lambda)\,d\lambda}{\lambda+z}$ for $z>0$, zero eigenvalues included.

    The positive root of $\gamma\sigma^2z\,m^2+(z+\sigma^2(1-\gamma))m-1=0$.

    Parameters
    ----------
    shift : array of numbers > 0, or of symbols
    ratio, variance : numbers > 0, or symbols

    Raises
    ------
    ValueError
        If a parameter or a shift is not positive.

    Source: Marchenko and Pastur (1967); the Stieltjes transform at $-z$.
    """
    ratio = check_number("ratio", ratio, "(0, inf)")
    variance = check_number("variance", variance, "(0, inf)")
    shift = check_array("shift", shift)
    if is_symbolic(shift):
        linear = shift + variance * (1 - ratio)
        return np.asanyarray((sqrt(linear**2 + 4 * ratio * variance * shift) - linear) / (2 * ratio * variance * shift))
    if not np.all(shift > 0):
        raise ValueError(f"shift: expected positive numbers, got {shift.min()}")
    linear = shift + variance * (1 - ratio)
    root = np.sqrt(linear**2 + 4 * ratio * variance * shift)
    # The form without cancellation: the other one subtracts nearly equal numbers where linear > 0.
    return np.where(
        linear > 0, 2 / np.where(linear > 0, linear + root, 1), (root - linear) / (2 * ratio * variance * shift)
    )
