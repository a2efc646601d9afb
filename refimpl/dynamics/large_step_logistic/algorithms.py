r"""LR+GD, normalized LR+GD and three perceptrons, each until the first iterate that is right about every sample.

The data are read once an iteration, or less: a block of rows at a time, which stays in the cache for both of its
products.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple, TypeVar

import numpy as np

from refimpl.dynamics.large_step_logistic.weights import (
    Selection,
    check_data,
    check_selection,
    check_step_size,
    python_number,
    select,
    start,
)
from refimpl.primitives.checks import check_integer, check_shapes, checked
from refimpl.primitives.numbers import Array, row_dot, transpose, unit_step
from refimpl.primitives.trees import tree_map

Params = TypeVar("Params")
BLOCK = 2**17  # entries of the data in a block: 1 MiB in float64
RECORDED = 2**14  # margins kept before their losses are taken together
TOGETHER = 64  # iterates whose margins are found together
WIDE = 256  # features from which a dot product a row is quicker than a matrix product


class DescentRun(NamedTuple):
    """Where gradient descent stopped, and what it saw on the way there."""

    theta: Array
    """Shape ``(d,)``."""
    n_iterations: int
    """Updates made."""
    solved: bool
    """Whether every margin is positive."""
    losses: Array
    """At every iterate, the first and the last included: shape ``(n_iterations + 1,)``."""
    gradient_norms: Array
    """Likewise."""
    accuracies: Array
    """Likewise: fractions of positive margins."""


class PerceptronRun(NamedTuple):
    """Where a perceptron stopped."""

    theta: Array
    """Shape ``(d,)``."""
    n_iterations: int
    """Updates made."""
    solved: bool
    """Whether every margin is positive."""
    accuracies: Array
    """At every iterate, the first and the last included: shape ``(n_iterations + 1,)``."""


def _check_run(z: Array, max_iterations: int) -> None:
    check_data(z)
    check_integer("max_iterations", max_iterations, 1)


def _check_descent(z: Array, step_size: Any, max_iterations: int, theta0: Array | None = None) -> None:
    _check_run(z, max_iterations)
    if z.dtype == object:
        raise ValueError("z: expected a floating-point array, got symbols, whose margins decide nothing; see iterates")
    check_step_size(step_size)
    if theta0 is not None:
        check_shapes(z=(z, "n d"), theta0=(theta0, "d"))


@checked(_check_descent)
def lr_gd(z: Array, step_size: float, max_iterations: int, theta0: Array | None = None) -> DescentRun:
    r"""Gradient descent on the logistic loss, until every margin is positive.

    Parameters
    ----------
    z : array, shape (n, d)
        Signed features, no row zero.
    step_size : float > 0
        $\gamma$, of the mean loss. Any size; the limit is :func:`batch_perceptron`.
    max_iterations : int >= 1
    theta0 : array, shape (d,)
        Zero if None. The bounds hold from zero alone.

    Returns
    -------
    DescentRun

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a row is zero, the step size not positive and finite, or the
        number of iterations below 1.

    Source: Section 2.
    """
    return _descend(z, step_size, max_iterations, theta0, normalized=False)


@checked(_check_descent)
def normalized_lr_gd(z: Array, step_size: float, max_iterations: int, theta0: Array | None = None) -> DescentRun:
    r"""Normalized LR+GD: $\theta_{t+1}=\theta_t-\gamma\beta_t\nabla f(\theta_t)$ with $1/\beta_t=\frac1n\sum_ip_i$.

    Parameters, errors as for :func:`lr_gd`; the limit of large steps is :func:`normalized_batch_perceptron`.

    Source: Section 6.
    """
    return _descend(z, step_size, max_iterations, theta0, normalized=True)


@np.errstate(over="ignore")  # of exp(m), where 1 / (1 + inf) is the limit
def _descend(z: Array, step_size: float, max_iterations: int, theta0: Array | None, normalized: bool) -> DescentRun:
    n, theta, step_size = len(z), start(z, theta0), python_number(step_size)
    data = _in_blocks(z)
    losses: list[Any] = []
    norms: list[Any] = []
    n_right: list[int] = []
    margins: list[Array] = []
    pulls: list[Array] = []
    while True:
        seen, n_wrong, total, pull = _logistic_sums(theta, data, normalized)
        margins.append(seen)
        pulls.append(pull)
        n_right.append(n - n_wrong)
        ended = not n_wrong or len(n_right) > max_iterations
        if ended or len(margins) * n >= RECORDED:
            # Of many iterates at once it takes fewer calls.
            losses.extend(_total_losses(np.stack(margins)) / n)
            gradients = np.stack(pulls)
            norms.extend(np.sqrt(row_dot(gradients, gradients)[:, 0]) / n)
            margins.clear()
            pulls.clear()
        if ended:
            break
        # While a sample is wrong the total is at least one half.
        theta = theta + pull * (step_size / (total if normalized else n))
    accuracies = np.array(n_right, dtype=z.dtype) / n
    return DescentRun(theta, len(n_right) - 1, not n_wrong, np.array(losses), np.array(norms), accuracies)


class _Blocks(NamedTuple):
    """The data as blocks of rows, and the quicker way to multiply one by a vector."""

    rows: list[Array]
    times: Callable[[Array, Array], Array]


def _in_blocks(z: Array) -> _Blocks:
    wide = z.shape[1] >= WIDE and z.dtype != object
    if not wide:
        z = z.copy(order="F")
    step = max(1, BLOCK // z.shape[1])
    return _Blocks([z[first : first + step] for first in range(0, len(z), step)], np.vecdot if wide else np.dot)


def _joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _logistic_sums(theta: Array, data: _Blocks, normalized: bool) -> tuple[Array, int, Any, Array]:
    r"""The margins, how many samples are wrong, $\sum p_i$ if wanted, and $\sum p_iz_i$: the data are read once."""
    margins: list[Array] = []
    pulls: list[Array] = []
    n_wrong = 0
    total: Any = 0
    for rows in data.rows:
        block = data.times(rows, theta)
        n_wrong += int(np.count_nonzero(block <= 0))
        p = np.exp(block)
        p += 1
        np.reciprocal(p, out=p)
        if normalized:
            total = total + np.add.reduce(p)
        margins.append(block)
        pulls.append(np.dot(p, rows))
    return _joined(margins), n_wrong, total, reduce(np.add, pulls)


def _total_losses(margins: Array) -> Array:
    """The sum over the last axis of ``softplus(-margins)``, in their place."""
    losses = np.abs(margins)
    np.negative(losses, out=losses)
    np.exp(losses, out=losses)
    np.log1p(losses, out=losses)
    losses -= np.minimum(margins, 0, out=margins)
    return np.asanyarray(losses.sum(axis=-1))


@checked(_check_run)
def batch_perceptron(z: Array, max_iterations: int) -> PerceptronRun:
    r"""The limit of LR+GD: from 0 half of the samples' mean, then $\theta\leftarrow\theta+\frac1n\sum_{m_i\le0}z_i$.

    Runs on exact rationals too, where no margin is misjudged.

    Parameters
    ----------
    z : array, shape (n, d)
        Signed features, no row zero.
    max_iterations : int >= 1

    Returns
    -------
    PerceptronRun

    Raises
    ------
    ValueError
        If an entry is not finite, a row is zero, or the number of iterations below 1.

    Source: Theorem 3.2.
    """
    return _correct(z, max_iterations, lambda t, n_wrong: len(z) * (1 if t else 2))


@checked(_check_run)
def normalized_batch_perceptron(z: Array, max_iterations: int) -> PerceptronRun:
    r"""The limit of normalized LR+GD: $\theta\leftarrow\theta+\frac1{|S|}\sum_{i\in S}z_i$ over $S=\{i:m_i\le0\}$.

    Parameters, errors as for :func:`batch_perceptron`.

    Source: Section 5.
    """
    return _correct(z, max_iterations, lambda t, n_wrong: n_wrong)


def _correct(z: Array, max_iterations: int, divisor: Callable[[int, int], int]) -> PerceptronRun:
    theta, data = start(z, None), _in_blocks(z)
    n_wrong: list[int] = []
    while True:
        count, total = _wrong_sum(theta, data)
        t = len(n_wrong)
        n_wrong.append(count)
        if not count or t == max_iterations:
            return PerceptronRun(theta, t, not count, _accuracies(n_wrong, z))
        theta = theta + total / divisor(t, count)


def _wrong_sum(theta: Array, data: _Blocks) -> tuple[int, Array]:
    r"""$|S|$ and $\sum_{i\in S}z_i$: the data are read once."""
    count = 0
    totals: list[Array] = []
    for rows in data.rows:
        wrong = data.times(rows, theta) <= 0
        here = int(np.count_nonzero(wrong))
        count += here
        # Few long rows are quicker copied than multiplied by 0 and 1.
        if rows.shape[1] >= WIDE and here < len(rows) / 8:
            rows, wrong = rows[wrong], wrong[wrong]
        totals.append(np.dot(wrong, rows))
    return count, reduce(np.add, totals)


def _accuracies(n_wrong: list[int], z: Array) -> Array:
    return 1 - np.array(n_wrong, dtype=np.float64 if z.dtype == object else z.dtype) / len(z)


def _check_perceptron(
    z: Array, max_iterations: int, selection: Selection = "first", rng: np.random.Generator | None = None
) -> None:
    _check_run(z, max_iterations)
    check_selection(selection, rng)


@checked(_check_perceptron)
def perceptron(
    z: Array, max_iterations: int, selection: Selection = "first", rng: np.random.Generator | None = None
) -> PerceptronRun:
    r"""Rosenblatt's perceptron: $\theta\leftarrow\theta+z_j$ for one sample with $m_j\le0$.

    Parameters
    ----------
    z : array, shape (n, d)
        Signed features, no row zero.
    max_iterations : int >= 1
    selection : "first" by number, "random", or "worst": of smallest margin
    rng : numpy.random.Generator, for the random selection

    Returns
    -------
    PerceptronRun

    Raises
    ------
    ValueError
        If an entry is not finite, a row is zero, the number of iterations below 1, the selection unknown or its
        generator missing.

    Source: Section 5.
    """
    data = _in_blocks(z)
    if selection == "first" and len(data.rows) > 1:
        return _correct_first(z, data, max_iterations)
    theta = start(z, None)
    n_wrong: list[int] = []
    while True:
        margins = _joined([data.times(rows, theta) for rows in data.rows])
        wrong = margins <= 0
        t = len(n_wrong)
        n_wrong.append(int(np.count_nonzero(wrong)))
        if not n_wrong[t] or t == max_iterations:
            return PerceptronRun(theta, t, not n_wrong[t], _accuracies(n_wrong, z))
        theta = theta + z[select(margins, wrong, selection, rng)]


def _correct_first(z: Array, data: _Blocks, max_iterations: int) -> PerceptronRun:
    """Of large data the first wrong sample takes few rows; all margins, which only the accuracies need, are found for
    many iterates together, so that the data are read once for all of these."""
    theta = start(z, None)
    passed: list[Array] = []
    n_wrong: list[int] = []
    while True:
        first = _first_wrong(theta, data)
        passed.append(theta)
        t = len(n_wrong) + len(passed) - 1
        ended = first is None or t == max_iterations
        if ended or len(passed) == TOGETHER:
            columns = transpose(np.stack(passed))
            counts = sum(np.count_nonzero(rows @ columns <= 0, axis=0) for rows in data.rows)
            n_wrong.extend(np.maximum(counts, 1))  # of each but the last one wrong sample is known
            passed.clear()
        if ended:
            n_wrong[-1] *= first is not None
            return PerceptronRun(theta, t, first is None, _accuracies(n_wrong, z))
        theta = theta + z[first]


def _first_wrong(theta: Array, data: _Blocks) -> int | None:
    before = 0
    for rows in data.rows:
        wrong = data.times(rows, theta) <= 0
        first = int(wrong.argmax())
        if wrong[first]:
            return before + first
        before += len(rows)
    return None


def generalized_perceptron_step(
    params: Params,
    features: Array,
    labels: Array,
    model_vjp: Callable[[Params, Array], tuple[Array, Callable[[Array], tuple[Any, ...]]]],
) -> Params:
    r"""$\theta+\frac1n\sum_{i\in S}y_i\nabla_\theta g(a_i;\theta)$ over $S=\{i:y_ig(a_i;\theta)\le0\}$, for any model.

    Parameters
    ----------
    params : tree of arrays
    features : array, shape (n, d)
    labels : array, shape (n,), of 1 and -1
    model_vjp : ``(params, features) -> (outputs, pullback)``
        Outputs of shape (n,), and the pullback whose first entry is the cotangent of the parameters.

    Returns
    -------
    like `params`

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: Section 8, where it is a suggestion without a theorem; the text leaves out the label. With a linear model it
    is the batch perceptron's step, without the half of the first.
    """
    outputs, pullback = model_vjp(params, features)
    check_shapes(features=(features, "n d"), labels=(labels, "n"), outputs=(outputs, "n"))
    gradient = pullback(labels * (1 - unit_step(labels * outputs)) / len(labels))[0]
    return tree_map(lambda p, g: p + g, params, gradient)
