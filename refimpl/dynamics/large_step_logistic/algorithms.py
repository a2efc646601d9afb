r"""Five algorithms that are one loop, $\theta\leftarrow\theta+\sum_ic_iz_i$, and differ in the weights $c$ alone.

The weights are functions of the margins, :func:`iterates` follows any of them, symbols included, whether the problem is
solved or not. The algorithms themselves stop at the first iterate that is right about every sample, and read the data
once an iteration: a block of rows at a time, which stays in the cache for both of its products.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np

from refimpl.dynamics.large_step_logistic.loss import sample_margins
from refimpl.primitives.activations import sigmoid, softplus
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.normalization import softmax
from refimpl.primitives.numbers import Array, row_dot, row_sum, unit_step
from refimpl.primitives.trees import tree_map

Weights = Callable[[Array, int], Array]
"""The samples' weights in the next step: of the margins, and of how many steps there have been."""
Selection = Literal["first", "random", "worst"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
Params = TypeVar("Params")
BLOCK = 2**17  # entries of the data in a block: 1 MiB in float64
RECORDED = 2**14  # margins kept before their losses are taken together
WIDE = 256  # features from which a dot product a row is quicker than a matrix product


# --- weights ---


def _check_margins(margins: Array) -> None:
    check_shapes(margins=(margins, "... n"))


def _check_step_size(step_size: Any) -> Any:
    """The step size, a positive number; an infinite one is another algorithm."""
    if np.ndim(step_size) == 0 and step_size == float("inf"):
        raise ValueError(
            "step_size: expected a finite number > 0, got inf; the limit of infinite steps is batch_perceptron, "
            "and normalized_batch_perceptron for normalized steps"
        )
    return check_number("step_size", step_size, "(0, inf)")


def _check_descent_weights(margins: Array, step_size: Any) -> None:
    _check_margins(margins)
    _check_step_size(step_size)


@checked(_check_descent_weights)
def lr_gd_weights(margins: Array, step_size: Any) -> Array:
    r"""$c_i=\gamma p_i/n$: gradient descent on the logistic loss.

    Parameters
    ----------
    margins : array, shape (..., n)
    step_size : number > 0

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If a margin is not finite or the step size not positive and finite.

    Source: Equation 3, Section 2.
    """
    return np.asanyarray(step_size * sigmoid.unchecked(-margins) / margins.shape[-1])


@checked(_check_descent_weights)
def normalized_lr_gd_weights(margins: Array, step_size: Any) -> Array:
    r"""$c_i=\gamma p_i/\sum_jp_j$: gradient descent whose step is divided by $\frac1n\sum_jp_j$.

    As $\ln p=-\ln(1+e^m)$ it is a softmax, so nothing overflows or becomes 0/0, however large the margins.

    Parameters
    ----------
    margins : array, shape (..., n)
    step_size : number > 0

    Returns
    -------
    array, shape (..., n), whose sum over the samples is the step size

    Raises
    ------
    ValueError
        If a margin is not finite or the step size not positive and finite.

    Source: Section 6. The limit of its normalisation $\beta_t$ is $n/|S_t|$, where the text has $|S_t|$.
    """
    return np.asanyarray(step_size * softmax.unchecked(-softplus.unchecked(margins)))


def _check_batch(margins: Array, step: int) -> None:
    _check_margins(margins)
    check_integer("step", step, 0)


@checked(_check_batch)
def batch_perceptron_weights(margins: Array, step: int) -> Array:
    r"""$c_i=\frac1n[m_i\le0]$; in the first step, on all samples, half of that.

    Parameters
    ----------
    margins : array, shape (..., n)
    step : int >= 0
        How many steps there have been.

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If a margin is not finite or the step negative.

    Source: Theorem 3.2.
    """
    # A margin of 0 counts as wrong, so in the first step, from 0, every sample does.
    return np.asanyarray((1 - unit_step(margins)) / (margins.shape[-1] * (1 if step else 2)))


@checked(_check_margins)
def normalized_batch_perceptron_weights(margins: Array) -> Array:
    r"""$c_i=[m_i\le0]/|S|$, the mean over the samples that are wrong; zeros if there are none.

    Parameters
    ----------
    margins : array, shape (..., n)

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If a margin is not finite.

    Source: Section 5.
    """
    wrong = 1 - unit_step(margins)
    n_wrong = row_sum(wrong)
    return np.asanyarray(wrong / np.where(n_wrong == 0, 1, n_wrong))


def _check_selection(selection: str, rng: np.random.Generator | None) -> None:
    if selection not in SELECTIONS:
        raise ValueError(f"selection: expected one of {', '.join(SELECTIONS)}, got {selection!r}")
    if selection == "random" and rng is None:
        raise ValueError("rng: expected a numpy.random.Generator for the random selection, got None")


def _check_single(margins: Array, selection: Selection = "first", rng: np.random.Generator | None = None) -> None:
    _check_margins(margins)
    _check_selection(selection, rng)


@checked(_check_single)
def perceptron_weights(margins: Array, selection: Selection = "first", rng: np.random.Generator | None = None) -> Array:
    r"""$c_j=1$ for one sample with $m_j\le0$; zeros if there is none.

    Parameters
    ----------
    margins : array, shape (..., n)
    selection : "first" by number, "random", or "worst": of smallest margin
    rng : numpy.random.Generator, for the random selection

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If a margin is not finite, the selection unknown or its generator missing.

    Source: Section 5.
    """
    wrong = np.asarray(margins <= 0, dtype=bool)
    chosen = _select(margins, wrong, selection, rng)[..., None] == np.arange(margins.shape[-1])
    return np.asanyarray((chosen & wrong).astype(margins.dtype))


def _select(margins: Array, wrong: Array, selection: Selection, rng: np.random.Generator | None) -> Any:
    """The number of one wrong sample, if there is one."""
    if selection == "worst":
        return np.argmin(margins, axis=-1)
    if selection == "random" and rng is not None:
        return np.argmax(np.where(wrong, 1 - rng.random(wrong.shape), 0), axis=-1)
    return np.argmax(wrong, axis=-1)


# --- iterates ---


def _check_data(z: Array) -> None:
    check_shapes(z=(z, "n d"))
    # The last feature is often the constant one; few rows, if any, need be read.
    suspects = np.flatnonzero(z[:, -1] == 0)
    empty = suspects[~np.any(z[suspects] != 0, axis=1)]
    if empty.size:
        raise ValueError(f"z: expected rows that are not zero, which no classifier gets right, got one at {empty[0]}")


def _start(z: Array, theta0: Array | None) -> Array:
    return np.zeros(z.shape[1], dtype=z.dtype) if theta0 is None else theta0


def iterates(z: Array, weights: Weights, n_steps: int, theta0: Array | None = None) -> Array:
    r"""$\theta_0,\dots,\theta_T$ of $\theta_{t+1}=\theta_t+\sum_ic_i(m,t)z_i$, past the solution too.

    Parameters
    ----------
    z : array, shape (n, d)
        Signed features, of floats, exact rationals or symbols.
    weights : ``(margins, t) -> weights``
        ``lambda m, t: lr_gd_weights(m, 100.0)``, or :func:`batch_perceptron_weights`.
    n_steps : int >= 0
    theta0 : array, shape (..., d)
        Zero if None.

    Returns
    -------
    array, shape (n_steps + 1, ..., d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a row is zero or the number of steps negative.
    """
    _check_data(z)
    n_steps = check_integer("n_steps", n_steps, 0)
    if theta0 is not None:
        check_shapes(z=(z, "n d"), theta0=(theta0, "... d"))
    found = [_start(z, theta0)]
    for t in range(n_steps):
        found.append(found[-1] + weights(sample_margins.unchecked(found[-1], z), t) @ z)
    return np.stack(found)


# --- the algorithms ---


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
    _check_data(z)
    check_integer("max_iterations", max_iterations, 1)


def _check_descent(z: Array, step_size: Any, max_iterations: int, theta0: Array | None = None) -> None:
    _check_run(z, max_iterations)
    if z.dtype == object:
        raise ValueError("z: expected a floating-point array, got symbols, whose margins decide nothing; see iterates")
    _check_step_size(step_size)
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


def _descend(z: Array, step_size: float, max_iterations: int, theta0: Array | None, normalized: bool) -> DescentRun:
    n, theta = len(z), _start(z, theta0)
    losses: list[Any] = []
    norms: list[Any] = []
    n_right: list[int] = []
    margins: list[Array] = []
    pulls: list[Array] = []
    while True:
        seen, total, n_wrong, pull = _logistic_sums(theta, z)
        margins.append(seen)
        pulls.append(pull)
        n_right.append(n - n_wrong)
        ended = not n_wrong or len(n_right) > max_iterations
        if ended or len(margins) * n >= RECORDED:
            # Of many iterates at once it takes fewer calls.
            losses.extend(softplus.unchecked(-np.stack(margins)).sum(axis=1) / n)
            norms.extend(np.sqrt(row_dot(np.stack(pulls), np.stack(pulls))[:, 0]) / n)
            margins.clear()
            pulls.clear()
        if ended:
            break
        # While a sample is wrong the total is at least one half.
        theta = theta + pull * (step_size / (total if normalized else n))
    accuracies = np.array(n_right, dtype=z.dtype) / n
    return DescentRun(theta, len(n_right) - 1, not n_wrong, np.array(losses), np.array(norms), accuracies)


def _logistic_sums(theta: Array, z: Array) -> tuple[Array, Any, int, Array]:
    r"""The margins, $\sum p_i$, how many samples are wrong, and $\sum p_iz_i$: the data are read once."""
    margins = np.empty(len(z), dtype=z.dtype)
    total: Any = 0
    pull: Any = 0
    n_wrong = 0
    for start, rows in _row_blocks(z):
        block = _products(rows, theta)
        margins[start : start + len(rows)] = block
        wrong = block <= 0
        decayed = np.exp(-np.abs(block))  # it cannot overflow
        p = np.maximum(decayed, wrong) / (1 + decayed)
        total = total + p.sum()
        pull = pull + p @ rows
        n_wrong += int(np.count_nonzero(wrong))
    return margins, total, n_wrong, pull


def _products(rows: Array, theta: Array) -> Array:
    """``rows @ theta``."""
    wide = rows.shape[1] >= WIDE and rows.dtype != object
    return np.asanyarray(np.vecdot(rows, theta) if wide else rows @ theta)


def _row_blocks(z: Array) -> Iterator[tuple[int, Array]]:
    """Blocks of rows, and where they start."""
    rows = max(1, BLOCK // z.shape[1])
    return ((start, z[start : start + rows]) for start in range(0, len(z), rows))


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
    theta = _start(z, None)
    n_wrong: list[int] = []
    while True:
        count, total = _wrong_sum(theta, z)
        t = len(n_wrong)
        n_wrong.append(count)
        if not count or t == max_iterations:
            return PerceptronRun(theta, t, not count, _accuracies(n_wrong, z))
        theta = theta + total / divisor(t, count)


def _wrong_sum(theta: Array, z: Array) -> tuple[int, Array]:
    r"""$|S|$ and $\sum_{i\in S}z_i$: the data are read once."""
    count = 0
    total: Any = 0
    for _, rows in _row_blocks(z):
        wrong = np.asarray(_products(rows, theta) <= 0, dtype=bool)
        here = int(np.count_nonzero(wrong))
        count += here
        # Few rows are quicker copied than multiplied by 0 and 1.
        if here < len(rows) / 8:
            rows, wrong = rows[wrong], wrong[wrong]
        total = total + wrong.astype(np.int8).astype(rows.dtype) @ rows
    return count, total


def _accuracies(n_wrong: list[int], z: Array) -> Array:
    return 1 - np.array(n_wrong, dtype=np.float64 if z.dtype == object else z.dtype) / len(z)


def _check_perceptron(
    z: Array, max_iterations: int, selection: Selection = "first", rng: np.random.Generator | None = None
) -> None:
    _check_run(z, max_iterations)
    _check_selection(selection, rng)


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
    theta = _start(z, None)
    n_wrong: list[int] = []
    while True:
        margins = _products(z, theta)
        wrong = np.asarray(margins <= 0, dtype=bool)
        t = len(n_wrong)
        n_wrong.append(int(np.count_nonzero(wrong)))
        if not n_wrong[t] or t == max_iterations:
            return PerceptronRun(theta, t, not n_wrong[t], _accuracies(n_wrong, z))
        theta = theta + z[_select(margins, wrong, selection, rng)]


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
