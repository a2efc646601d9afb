r"""The eigenvalues of $\Sigma=XX^\top$: the Marchenko-Pastur law at the paper's scale, and those of actual inputs.

The inputs have variance $1/N$ and $\Sigma$ is a sum over examples, so $\rho_\alpha$ has mean $\alpha=P/N$ and edges
$\lambda_\pm=(\sqrt\alpha\pm1)^2$: the law of :mod:`refimpl.primitives.marchenko_pastur` at ratio $1/\alpha$ and
variance $\alpha$.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.marchenko_pastur import (
    Quadrature,
    marchenko_pastur_density,
    marchenko_pastur_edges,
    marchenko_pastur_quadrature,
    marchenko_pastur_resolvent,
)
from refimpl.primitives.numbers import Array

# A factor exp(-40) is below the roundoff of float64 next to 1, and so is one of exp(-44) in longdouble.
NOTHING_LEFT = 44


def eigenvalue_edges(load: float) -> tuple[float, float]:
    r"""$\lambda_\pm=(\sqrt\alpha\pm1)^2$, the lower one first.

    Raises
    ------
    ValueError
        If the load is not positive.
    """
    load = check_number("load", load, "(0, inf)")
    return marchenko_pastur_edges(1 / load, load)


def eigenvalue_density(eigenvalues: Array, load: float) -> Array:
    r"""$\rho_\alpha(\lambda)=\frac{\sqrt{(\lambda_+-\lambda)(\lambda-\lambda_-)}}{2\pi\lambda}$, without its mass at 0.

    Parameters
    ----------
    eigenvalues : array of any shape
    load : float > 0
        $\alpha=P/N$; below 1 a share $1-\alpha$ of the eigenvalues is 0.

    Returns
    -------
    array, same shape; its integral is ``min(1, load)``

    Raises
    ------
    ValueError
        If the load is not positive or an eigenvalue not finite.

    Source: arXiv 1710.03667, Section 2; Marchenko and Pastur (1967).
    """
    load = check_number("load", load, "(0, inf)")
    return marchenko_pastur_density(eigenvalues, 1 / load, load)


def eigenvalue_average(
    function: Callable[[Array], Array], load: float, include_zero: bool = True, n_nodes: int = 400
) -> Any:
    r"""$\int\rho_\alpha(\lambda)f(\lambda)\,d\lambda$ by a quadrature that converges exponentially for analytic $f$.

    Parameters
    ----------
    function : elementwise, of an array of eigenvalues
        Evaluated at 0 only if the load is below 1 and `include_zero`.
    load : float > 0
    include_zero : bool
        Whether the share $(1-\alpha)_+$ of eigenvalues that are 0 counts.
    n_nodes : int >= 1
        Where the load is close to 1 but not 1, as many as $40/|\ln\alpha|$ are needed.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Source: arXiv 1710.03667, Section 2.
    """
    load = check_number("load", load, "(0, inf)")
    check_integer("n_nodes", n_nodes, 1)
    nodes, weights, at_zero = marchenko_pastur_quadrature(1 / load, load, n_nodes)
    bulk = function(nodes) @ weights
    return bulk + at_zero * function(np.zeros(1))[0] if include_zero and at_zero else bulk


def eigenvalue_resolvent(shift: Array, load: float) -> Array:
    r"""$m(\gamma)=\int\frac{\rho_\alpha}{\lambda+\gamma}d\lambda$, the eigenvalues that are 0 included.

    The positive root of $\gamma m^2+(\gamma+\alpha-1)m-1=0$.

    Parameters
    ----------
    shift : array of numbers > 0, or of symbols
        $\gamma$.
    load : float > 0, or a symbol

    Raises
    ------
    ValueError
        If the load or a shift is not positive.

    Source: arXiv 1710.03667, Section 2; Marchenko and Pastur (1967).
    """
    load = check_number("load", load, "(0, inf)")
    return marchenko_pastur_resolvent(shift, 1 / load, load)


def input_eigenvalues(x: Array) -> Array:
    r"""The $N$ eigenvalues of $XX^\top$, ascending: squared singular values, and zeros if $N>P$ (LAPACK: floats only).

    Those that only roundoff keeps from 0 are 0, so that no time is long enough to see them.

    Parameters
    ----------
    x : array, shape (..., n_inputs, n_examples)

    Returns
    -------
    array, shape (..., n_inputs)

    Raises
    ------
    ValueError
        If an entry is not finite.
    """
    sizes = check_shapes(x=(x, "... n_inputs n_examples"))
    values = np.linalg.svd(x, compute_uv=False)[..., ::-1]
    values = np.where(is_zero(values, x.shape), 0, values) ** 2
    padding = np.zeros((*values.shape[:-1], sizes["n_inputs"] - values.shape[-1]), dtype=values.dtype)
    return np.concatenate([padding, values], axis=-1)


def is_zero(singular_values: Array, shape: tuple[int, ...]) -> Array:
    """Which singular values of a matrix of this shape are zero to roundoff, relative to the largest."""
    largest = np.max(singular_values, axis=-1, keepdims=True)
    return np.asanyarray(singular_values <= largest * max(shape[-2:]) * np.finfo(singular_values.dtype).eps)


def quadrature_for(load: float, time: Any, dtype: Any) -> Quadrature:
    r"""A quadrature for functions of $e^{-\lambda s}$, $s\le$ `time`, exact to roundoff; arguments unchecked.

    With $x=4\sqrt\alpha\,t$ the Fourier coefficients of $e^{-2\lambda t}$ in the angle are $e^{-2(1+\alpha)t}I_k(x)$,
    at most $e^{-k^2/2x}$; $n$ nodes miss those with $k\ge2n$, and $\sqrt{44x/2}\approx9.4\,\alpha^{1/4}\sqrt t$. The
    density besides has a pole at $\lambda=0$, close to the nodes if the load is close to 1. What they miss of it is the
    same for every function that is 1 there, so the mass at 0 is made what completes the nodes' to 1. Once nothing is
    left of $e^{-\lambda_-t}$ the nodes that resolve it resolve that pole, $|\ln\alpha|/2$ off the axis, too.
    """
    low, _ = eigenvalue_edges(load)
    time = min(time, NOTHING_LEFT / low) if low > 0 else time
    n_nodes = 32 + int(12 * float(load**0.5 * time) ** 0.5)
    nodes, weights, _ = marchenko_pastur_quadrature(1 / load, load, n_nodes, np.result_type(dtype, np.float64))
    return Quadrature(nodes.astype(dtype), weights.astype(dtype), (1 - weights.sum()).astype(dtype)[()])
