r"""Rademacher complexity of a readout: a bound by its norm, and one by how far it has moved.

Over random signs $s$ the class $\{h\mapsto(w_0+v)h:\lVert v\rVert\le B\}$ has empirical complexity
$\hat{\mathcal R}=\frac BP\,\mathbb E\lVert Hs\rVert\le\frac BP\sqrt{\operatorname{tr}H^\top H}$, whatever its centre
$w_0$. Centred at 0 the radius is $\lVert w(t)\rVert$, which counts the frozen and untrained weights; centred at the
start it is $\lVert w(t)-w(0)\rVert$.
"""

from typing import Any

import numpy as np

from refimpl.dynamics.high_dimensional.linear import at_times, check_times, flow_filter, modes
from refimpl.primitives.checks import check_array, check_shapes
from refimpl.primitives.numbers import Array, is_symbolic, sqrt


def rademacher_bound(radius: Any, features: Array) -> Array:
    r"""$\frac BP\sqrt{\operatorname{tr}H^\top H}$.

    Parameters
    ----------
    radius : number or array, >= 0
        $B$; broadcasts against the batch axes of `features`.
    features : array, shape (..., n_hidden, n_examples)
        $H$.

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If a radius is negative or an entry not finite.

    Source: arXiv 1710.03667, complexity bounds.
    """
    sizes = check_shapes(features=(features, "... n_hidden n_examples"))
    radius = check_array("radius", radius)
    if not is_symbolic(radius) and not np.all(radius >= 0):
        raise ValueError(f"radius: expected numbers >= 0, got {radius.min()}")
    return np.asanyarray(radius * sqrt((features**2).sum(axis=(-2, -1))) / sizes["n_examples"])


def rademacher_bound_naive(weights: Array, features: Array) -> Array:
    r"""The bound of the ball around 0 that holds the readout, $B=\lVert w\rVert$.

    Parameters
    ----------
    weights : array, shape (..., n_hidden)
    features : array, shape (..., n_hidden, n_examples)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 1710.03667, complexity bounds.
    """
    check_shapes(weights=(weights, "... n_hidden"), features=(features, "... n_hidden n_examples"))
    return rademacher_bound(sqrt((weights**2).sum(axis=-1)), features)


def displacement_norm(x: Array, y: Array, initial: Array, t: Any, tau: float = 1) -> Array:
    r"""$\lVert w(t)-w(0)\rVert=\big(\sum_{\lambda_i>0}(1-e^{-\lambda_it/\tau})^2r_i^2/\lambda_i\big)^{1/2}$ (LAPACK).

    Non-decreasing in time, and at most $\lVert r\rVert$ over the root of the smallest eigenvalue that is not 0.

    Parameters
    ----------
    x : array, shape (..., n_inputs, n_examples)
        Inputs, or features in their place.
    y : array, shape (..., n_examples)
    initial : array, shape (..., n_inputs)
    t : float or array of any shape, >= 0
    tau : float > 0

    Returns
    -------
    array, shape (*t.shape, ...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a time is negative or the time constant is not positive.

    Source: arXiv 1710.03667, the alternative complexity bound.
    """
    check_shapes(x=(x, "... n_inputs n_examples"), y=(y, "... n_examples"), initial=(initial, "... n_inputs"))
    t = check_times(t, tau).astype(x.dtype)
    _, eigenvalues, distances = modes(x, y, initial)
    moved = flow_filter(eigenvalues, at_times(t, eigenvalues), tau) * distances
    return np.sqrt((moved * moved).sum(axis=-1))


def rademacher_bound_displacement(features: Array, y: Array, initial: Array, t: Any) -> Array:
    r"""The bound of the ball around the start that holds the readout at time $t$ ($\tau=1$; LAPACK: floats only).

    Parameters
    ----------
    features : array, shape (..., n_hidden, n_examples)
    y : array, shape (..., n_examples)
    initial : array, shape (..., n_hidden)
    t : float or array of any shape, >= 0

    Returns
    -------
    array, shape (*t.shape, ...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a time is negative.

    Source: arXiv 1710.03667, the alternative complexity bound.
    """
    return rademacher_bound(displacement_norm(features, y, initial, t), features)
