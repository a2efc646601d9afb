r"""The two-layer ReLU network with one output, $f(x)=\sum_ja_j\max(w_j^\top x,0)$: examples and units in rows."""

from collections.abc import Callable

import numpy as np

from refimpl.primitives.checks import check_shapes, checked
from refimpl.primitives.numbers import Array, positive_part, transpose, where_positive


def _check_network(x: Array, inner: Array, outer: Array) -> None:
    check_shapes(x=(x, "... n n_inputs"), inner=(inner, "... n_hidden n_inputs"), outer=(outer, "... n_hidden"))


@checked(_check_network)
def two_layer_relu(x: Array, inner: Array, outer: Array) -> Array:
    r"""$f(x_i)=\sum_ja_j\max(w_j^\top x_i,0)$ of every example; batch axes are networks, each with its own examples.

    Parameters
    ----------
    x : array, shape (..., n, n_inputs)
    inner : array, shape (..., n_hidden, n_inputs)
        $w_j$ in rows.
    outer : array, shape (..., n_hidden)
        $a$.

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    hidden = positive_part(x @ transpose(inner))
    return np.asanyarray((hidden @ outer[..., None])[..., 0])


@checked(_check_network)
def two_layer_relu_vjp(
    x: Array, inner: Array, outer: Array
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    """:func:`two_layer_relu` and its pullback ``cotangent -> (x, inner, outer)``; the slope of the ReLU at 0 is 0."""
    before = x @ transpose(inner)
    hidden = positive_part(before)

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        column = cotangent[..., None]
        to_before = where_positive(before, column * outer[..., None, :])
        return to_before @ inner, transpose(to_before) @ x, (transpose(hidden) @ column)[..., 0]

    return (hidden @ outer[..., None])[..., 0], pullback
