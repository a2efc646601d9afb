r"""Saturating networks: how activity and gradients pass through many layers (Section 4, Appendix G, Figure 3).

With $x^{l+1}=gW\phi(x^l)$, $\phi=\tanh$, and orthogonal weights the variance per unit is exactly
$q^{l+1}=\frac{g^2}N\sum_i\phi(x^l_i)^2$, and in a wide layer a function of $q^l$ alone. The gain $g=1/\phi'(0)=1$
separates activity that dies from activity that stays.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from refimpl.primitives.checks import check_array, check_number, check_shapes, checked
from refimpl.primitives.layers import Linear, mlp, mlp_vjp
from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.numbers import Array, exp, sqrt, tanh, transpose

# Of the trapezoid rule for an expectation over a standard normal variable: beyond 12 its density is below 10^-31, and
# halving the spacing of 1/40 changes nothing that float64 shows up to a variance of 60.
LIMIT, N_NODES = 12, 481


def _check_network(x: Array, weights: Sequence[Array], gain: Any) -> None:
    if not isinstance(weights, list | tuple) or not weights:
        raise ValueError(f"weights: expected a list of at least one matrix, got {weights!r}")
    check_shapes(x=(x, "... n"), **{f"weights[{layer}]": (one, "n n") for layer, one in enumerate(weights)})
    check_number("gain", gain, "(0, inf)")


def _apply(matrix: Array, rows: Array) -> Array:
    """The matrix times each vector of the last axis."""
    return (rows.reshape(-1, rows.shape[-1]) @ transpose(matrix)).reshape(rows.shape)


@checked(_check_network)
def forward(x: Array, weights: Sequence[Array], gain: Any) -> Array:
    r"""The activity of every layer, $x^{l+1}=gW^l\tanh(x^l)$.

    Parameters
    ----------
    x : array, shape (..., n)
    weights : list of arrays, shape (n, n)
    gain : number > 0

    Returns
    -------
    array, shape (n_weights + 1, ..., n)
        From the input on.

    Raises
    ------
    ValueError
        If there is no matrix, shapes do not fit, an entry is not finite or the gain is not positive.

    Source: arXiv 1312.6120, Section 4.
    """
    layers = [x]
    for weight in weights:
        layers.append(gain * _apply(weight, tanh(layers[-1])))
    return np.stack(layers)


@checked(_check_network)
def forward_vjp(
    x: Array, weights: Sequence[Array], gain: Any
) -> tuple[Array, Callable[[Array], tuple[Array, Sequence[Array]]]]:
    """:func:`forward` and its pullback ``cotangent -> (x, weights)``."""
    layers = forward.unchecked(x, weights, gain)

    def pullback(cotangent: Array) -> tuple[Array, Sequence[Array]]:
        to_weights, to_layer = [], cotangent[-1]
        for index in reversed(range(len(weights))):
            seen = tanh(layers[index])
            scaled = gain * to_layer
            width = seen.shape[-1]
            to_weights.append(transpose(scaled.reshape(-1, width)) @ seen.reshape(-1, width))
            to_layer = cotangent[index] + (1 - seen * seen) * _apply(transpose(weights[index]), scaled)
        return to_layer, type(weights)(reversed(to_weights))  # type: ignore[call-arg]

    return layers, pullback


@checked(_check_network)
def jacobian(x: Array, weights: Sequence[Array], gain: Any) -> Array:
    r"""$\frac{\partial x^{L}}{\partial x^0}=\prod_lgW^l\operatorname{diag}\tanh'(x^l)$, along the activity that starts
    at `x`.

    Parameters
    ----------
    x : array, shape (..., n)
    weights : list of arrays, shape (n, n)
    gain : number > 0

    Returns
    -------
    array, shape (..., n, n)

    Raises
    ------
    ValueError
        If there is no matrix, shapes do not fit, an entry is not finite or the gain is not positive.

    Source: arXiv 1312.6120, Section 4.
    """
    keep_freed_memory()
    product: Any = None
    for weight in weights:
        seen = tanh(x)
        factor = weight * (gain * (1 - seen * seen))[..., None, :]
        product = factor if product is None else factor @ product
        x = gain * _apply(weight, seen)
    return np.asanyarray(product)


# --- the mean field ---


def _check_map(q: Any, gain: Any) -> None:
    array = check_array("q", np.asanyarray(q))
    if array.dtype != object and np.any(array < 0):
        raise ValueError(f"q: expected variances >= 0, got {array.min()}")
    check_number("gain", gain, "(0, inf)")


@checked(_check_map)
def variance_map(q: Any, gain: Any) -> Array:
    r"""The variance of the next layer, $g^2\int\frac{dz}{\sqrt{2\pi}}e^{-z^2/2}\tanh^2(\sqrt q\,z)$, in a wide network.

    Parameters
    ----------
    q : array or number, >= 0
    gain : number > 0

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If a variance is negative or not finite, or the gain is not positive.

    Source: arXiv 1312.6120, Section 4.
    """
    q = np.asanyarray(q)
    z = np.arange(N_NODES).astype(q.dtype) * LIMIT / (N_NODES - 1)
    density = exp(-z * z / 2)
    density[0] = density[0] / 2  # an even integrand: the nodes above 0 stand for those below
    seen = tanh(sqrt(q)[..., None] * z)
    seen *= seen
    return np.asanyarray(gain * gain * (seen @ density) / density.sum())


def fixed_point_variance(gain: float) -> float:
    """The variance that :func:`variance_map` leaves alone and activity tends to: 0 up to a gain of 1 (float64 only).

    Parameters
    ----------
    gain : number > 0

    Raises
    ------
    ValueError
        If the gain is not positive.

    Source: arXiv 1312.6120, Section 4.
    """
    from scipy import optimize

    gain = check_number("gain", gain, "(0, inf)")
    if gain <= 1:
        return 0.0
    # tanh(x)^2 >= x^2 - 2x^4/3 has the mean q - 2q^2, so the fixed point is no smaller than the lower end; tanh < 1.
    low, high = (1 - gain**-2) / 2, gain**2
    growth = optimize.brentq(lambda q: float(variance_map.unchecked(q, gain)) / q - 1, low / 2, high, xtol=1e-300)
    return float(growth)


# --- the network of Figure 3 ---


def tanh_gradient_steps(weights: Sequence[Array], x: Array, y: Array, learning_rate: float) -> Iterator[list[Array]]:
    r"""Gradient descent of $W^{32}\tanh(W^{21}x)$ on half the summed squared error: the weights after each step.

    Parameters
    ----------
    weights : list of two arrays, shapes (n_2, n_1) and (n_3, n_2)
    x, y : arrays, shapes (n, n_1) and (n, n_3)
        An example a row.
    learning_rate : number > 0

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the rate is not positive.

    Source: arXiv 1312.6120, Figure 3.
    """
    w21, w32 = weights
    check_shapes(w21=(w21, "n_2 n_1"), w32=(w32, "n_3 n_2"), x=(x, "n n_1"), y=(y, "n n_3"))
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    return _tanh_steps(w21, w32, x, y, learning_rate)


def _tanh_steps(w21: Array, w32: Array, x: Array, y: Array, learning_rate: float) -> Iterator[list[Array]]:
    keep_freed_memory()
    while True:
        output, pullback = mlp_vjp.unchecked(x, [Linear(w21), Linear(w32)], "tanh")
        _, (first, second) = pullback(output - y)
        w21, w32 = w21 - learning_rate * first.weight, w32 - learning_rate * second.weight
        yield [w21, w32]


def tanh_mode_strengths(weights: Sequence[Array], x: Array, u: Array, v: Array) -> Array:
    r"""The diagonal of $U^\top\Sigma^{31}_{net}V$, where $\Sigma^{31}_{net}=\sum_\mu f(x^\mu)x^{\mu\top}$ is what the
    network $f(x)=W^{32}\tanh(W^{21}x)$ has learned of the correlations.

    Parameters
    ----------
    weights : list of two arrays, shapes (n_2, n_1) and (n_3, n_2)
    x : array, shape (n, n_1)
    u, v : arrays, shapes (n_3, k) and (n_1, k)

    Returns
    -------
    array, shape (k,)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 1312.6120, Figure 3.
    """
    w21, w32 = weights
    check_shapes(w21=(w21, "n_2 n_1"), w32=(w32, "n_3 n_2"), x=(x, "n n_1"), u=(u, "n_3 k"), v=(v, "n_1 k"))
    learned = transpose(mlp.unchecked(x, [Linear(w21), Linear(w32)], "tanh")) @ x
    return np.asanyarray(((learned @ v) * u).sum(axis=-2))
