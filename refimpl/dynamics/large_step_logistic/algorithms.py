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
from refimpl.primitives.numbers import Array, row_sum, unit_step
from refimpl.primitives.trees import tree_map

Weights = Callable[[Array, int], Array]
"""The samples' weights in the next step: of the margins, and of how many steps there have been."""
Selection = Literal["first", "random", "worst"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
Params = TypeVar("Params")
BLOCK = 2**16  # entries of the data in a block: 512 KiB in float64


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
    empty = np.flatnonzero(~np.any(z != 0, axis=1))
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
    losses, norms, accuracies = [], [], []
    while True:
        loss, total, n_right, pull = _logistic_sums(theta, z)
        losses.append(loss / n)
        norms.append(np.sqrt(pull @ pull) / n)
        accuracies.append(n_right / n)
        if n_right == n or len(losses) > max_iterations:
            break
        # While a sample is wrong the total is at least one half.
        theta = theta + pull * (step_size / (total if normalized else n))
    return DescentRun(
        theta, len(losses) - 1, n_right == n, np.array(losses), np.array(norms), np.array(accuracies, dtype=z.dtype)
    )


def _logistic_sums(theta: Array, z: Array) -> tuple[Any, Any, int, Array]:
    r"""$\sum\ln(1+e^{-m_i})$, $\sum p_i$, how many margins are positive, and $\sum p_iz_i$: the data are read once."""
    parts = []
    for rows in _row_blocks(z):
        margins = rows @ theta
        # One exponential gives loss and probability; it cannot overflow.
        decayed = np.exp(-np.abs(margins))
        p = np.maximum(decayed, margins <= 0) / (1 + decayed)
        loss = np.log1p(decayed) - np.minimum(margins, 0)
        parts.append((loss.sum(), p.sum(), int(np.count_nonzero(margins > 0)), p @ rows))
    losses, totals, n_right, pulls = zip(*parts, strict=True)
    return sum(losses), sum(totals), sum(n_right), sum(pulls)


def _row_blocks(z: Array) -> Iterator[Array]:
    rows = max(1, BLOCK // z.shape[1])
    return (z[start : start + rows] for start in range(0, len(z), rows))


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
    n, theta = len(z), _start(z, None)
    accuracies: list[Any] = []
    while True:
        n_wrong, total = _wrong_sum(theta, z)
        accuracies.append((n - n_wrong) / n)
        t = len(accuracies) - 1
        if not n_wrong or t == max_iterations:
            return PerceptronRun(theta, t, not n_wrong, _accuracies(accuracies, z))
        theta = theta + total / divisor(t, n_wrong)


def _wrong_sum(theta: Array, z: Array) -> tuple[int, Array]:
    r"""$|S|$ and $\sum_{i\in S}z_i$."""
    parts = []
    for rows in _row_blocks(z):
        wrong = np.asarray(rows @ theta <= 0, dtype=bool)
        parts.append((int(np.count_nonzero(wrong)), rows[wrong].sum(axis=0)))
    counts, sums = zip(*parts, strict=True)
    return sum(counts), sum(sums)


def _accuracies(values: list[Any], z: Array) -> Array:
    return np.array(values, dtype=np.float64 if z.dtype == object else z.dtype)


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
    n, theta = len(z), _start(z, None)
    accuracies: list[Any] = []
    while True:
        margins = z @ theta
        wrong = np.asarray(margins <= 0, dtype=bool)
        n_wrong = int(np.count_nonzero(wrong))
        accuracies.append((n - n_wrong) / n)
        t = len(accuracies) - 1
        if not n_wrong or t == max_iterations:
            return PerceptronRun(theta, t, not n_wrong, _accuracies(accuracies, z))
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
