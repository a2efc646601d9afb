r"""A linear model in the spirit of the paper's examples: one feature that examples share, and one each of their own.

Example $i$ of $m$ has the features $x_i=(e_i,\,s\,y_i)$ and the label $y_i=\pm1$: "real" labels, or with $s=0$ "random"
ones, which no feature is common to. Gradient descent on squared loss from 0 fits both; only what it puts on the shared
feature serves a fresh example.
"""

from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_array, check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array


def toy_dataset(n: int, shared_scale: Any, labels: Array) -> tuple[Array, Array]:
    """The features, shape ``(n, n + 1)`` with the shared one last, and the labels.

    Parameters
    ----------
    n : int >= 1
    shared_scale : number
    labels : array, shape (n,)
        -1 or 1.

    Raises
    ------
    ValueError
        If a label is neither -1 nor 1 or their number is not `n`.
    """
    n = check_integer("n", n, 1)
    shared_scale = check_number("shared_scale", shared_scale)
    check_array("labels", labels)
    if labels.shape != (n,) or not np.all(labels**2 == 1):
        raise ValueError(f"labels: expected {n} entries of -1 or 1, got {labels!r:.80}")
    own = np.eye(n, dtype=labels.dtype)
    return np.concatenate([own, (shared_scale * labels)[:, None]], axis=1), labels


class ToyLimit(NamedTuple):
    """Where gradient descent from 0 ends on the toy data set."""

    own: Any
    """The weight of an example's own feature, over its label."""
    shared: Any
    """The weight of the shared feature."""
    prediction: Any
    """That for a fresh example, whose own feature no example has, over its label."""
    coherence: Any
    """At the start."""


def toy_limit(n: Any, shared_scale: Any) -> ToyLimit:
    r"""$w_i=\frac{y_i}{1+s^2m}$, $w_{shared}=\frac{sm}{1+s^2m}$, and $\alpha=\frac{1/m+s^2}{1+s^2}$ at $w=0$.

    On the mean loss, gradient descent gets there with learning rates below $2m/(1+s^2m)$.

    Parameters
    ----------
    n : int >= 1
    shared_scale : number

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: the paper's illustrative examples.
    """
    n, shared_scale = check_integer("n", n, 1), check_number("shared_scale", shared_scale)
    square = shared_scale**2
    largest = 1 + square * n
    shared = shared_scale * n / largest
    return ToyLimit(1 / largest, shared, shared_scale * shared, largest / (n * (1 + square)))


def _check_squared(weights: Array, x: Array, y: Array) -> None:
    check_shapes(weights=(weights, "... d"), x=(x, "... n d"), y=(y, "... n"))


@checked(_check_squared)
def squared_loss_gradients(weights: Array, x: Array, y: Array) -> Array:
    r"""$(w\cdot x_i-y_i)\,x_i$, the gradient of each example's $\frac12(w\cdot x_i-y_i)^2$.

    Parameters
    ----------
    weights : array, shape (..., d)
    x : array, shape (..., n, d)
    y : array, shape (..., n)

    Returns
    -------
    array, shape (..., n, d)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    return np.asanyarray(((x @ weights[..., None])[..., 0] - y)[..., None] * x)
