"""Averages of gradients that leave out what only few examples ask for, coordinate by coordinate."""

import math
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_array, check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array


def trimmed_count(level: Any, batch_size: int) -> int:
    r"""$k=\lfloor cB\rfloor$, the entries that are clipped at each end, of a level meant as a decimal.

    Parameters
    ----------
    level : number in [0, 1/2)
    batch_size : int >= 1

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    level, batch_size = check_number("level", level, "[0, 0.5)"), check_integer("batch_size", batch_size, 1)
    # 0.29 * 100 is below 29 in floating point.
    count = math.floor(level * batch_size + 1e-9)
    return min(count, (batch_size - 1) // 2)


def _check_winsorized(gradients: Array, level: Any) -> None:
    check_shapes(gradients=(gradients, "... B p"))
    check_number("level", level, "[0, 0.5)")


@checked(_check_winsorized)
def winsorized_mean(gradients: Array, level: Any) -> Array:
    r"""The mean of each coordinate over the batch, its $k$ smallest and $k$ largest entries clipped to the next ones.

    Entries are clipped to $[g_{(k+1)},g_{(B-k)}]$. At level 0 it is the mean; towards a half the median.

    Parameters
    ----------
    gradients : array, shape (..., B, p)
    level : number in [0, 1/2)

    Returns
    -------
    array, shape (..., p)

    Raises
    ------
    ValueError
        If there is no example, an entry is not finite or the level is out of range.

    Source: winsorised stochastic gradient descent.
    """
    batch_size = gradients.shape[-2]
    count = trimmed_count(level, batch_size)
    if count == 0:
        return np.asanyarray(gradients.sum(axis=-2) / batch_size)
    # The mean of clipped entries is a weighted sum of sorted ones, the same bit for bit in whatever order they came.
    weights = np.zeros(batch_size, dtype=gradients.dtype)
    weights[count : batch_size - count] = 1
    weights[count] += count
    weights[batch_size - count - 1] += count
    chunks = [
        _sorted_columns(gradients[..., start : start + _CHUNK]) @ weights
        for start in range(0, gradients.shape[-1], _CHUNK)
    ]
    return np.asanyarray(np.concatenate(chunks, axis=-1) / batch_size)


_CHUNK = 256  # coordinates whose batch stays in a core's cache while it is transposed and sorted


def _sorted_columns(gradients: Array) -> Array:
    """Each coordinate's entries in order, shape (..., p, B)."""
    columns = np.array(np.swapaxes(gradients, -1, -2), order="C")
    columns.sort(axis=-1)
    return columns


def _check_three(first: Array, second: Array, third: Array) -> None:
    for name, value in (("first", first), ("second", second), ("third", third)):
        check_array(name, value)
        if value.shape != first.shape:
            raise ValueError(f"{name}: expected shape {first.shape} as in first, got {value.shape}")


@checked(_check_three)
def middle_of_three(first: Array, second: Array, third: Array) -> Array:
    """The median of three arrays, elementwise; any shape.

    Raises
    ------
    ValueError
        If shapes differ or an entry is not finite.
    """
    smaller, larger = np.minimum(first, second), np.maximum(first, second)
    return np.asanyarray(np.maximum(smaller, np.minimum(larger, third)))


def _check_median(gradients: Array) -> None:
    sizes = check_shapes(gradients=(gradients, "... B p"))
    if sizes["B"] % 3:
        raise ValueError(f"gradients: expected a batch of three equal parts, got {sizes['B']} examples")


@checked(_check_median)
def median_of_three(gradients: Array) -> Array:
    """M3: the median, coordinate by coordinate, of the means of the batch's three thirds, in order.

    Parameters
    ----------
    gradients : array, shape (..., B, p)
        B divisible by 3.

    Returns
    -------
    array, shape (..., p)

    Raises
    ------
    ValueError
        If the batch has no three equal parts or an entry is not finite.
    """
    *batch, size, n_parameters = gradients.shape
    thirds = gradients.reshape(*batch, 3, size // 3, n_parameters)
    means = (np.ones((1, size // 3), dtype=gradients.dtype) @ thirds)[..., 0, :] / (size // 3)
    return middle_of_three.unchecked(means[..., 0, :], means[..., 1, :], means[..., 2, :])


class RollingMedian3(NamedTuple):
    """RM3: the median of a mini-batch's gradient and the two before it, each at the parameters of its own step.

    It costs two gradients' memory and no further gradient.
    """

    earlier: tuple[Array, ...] = ()
    """The gradients before, at most two, the last one first."""

    def update(self, gradient: Array) -> "tuple[Array | None, RollingMedian3]":
        """What to step along, None for the first two steps; and the state for the next one.

        Raises
        ------
        ValueError
            If an entry is not finite or the shape differs from the earlier ones'.
        """
        check_array("gradient", gradient)
        if self.earlier and gradient.shape != self.earlier[0].shape:
            raise ValueError(f"gradient: expected shape {self.earlier[0].shape} as before, got {gradient.shape}")
        step = middle_of_three.unchecked(gradient, *self.earlier) if len(self.earlier) == 2 else None
        return step, RollingMedian3((gradient, *self.earlier[:1]))
