r"""Five algorithms that are one loop, $\theta\leftarrow\theta+\sum_ic_iz_i$, and differ in the weights $c$ alone.

The weights are functions of the margins. :func:`iterates` follows any of them, symbols included, whether the problem is
solved or not; the algorithms that stop are in :mod:`.algorithms`.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from refimpl.dynamics.large_step_logistic.loss import sample_margins
from refimpl.primitives.activations import sigmoid, softplus
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.normalization import softmax
from refimpl.primitives.numbers import Array, row_sum, unit_step

Weights = Callable[[Array, int], Array]
"""The samples' weights in the next step: of the margins, and of how many steps there have been."""
Selection = Literal["first", "random", "worst"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)


def _check_margins(margins: Array) -> None:
    check_shapes(margins=(margins, "... n"))


def check_step_size(step_size: Any) -> None:
    """Raise ``ValueError`` unless it is a positive number; an infinite one is another algorithm."""
    if np.ndim(step_size) == 0 and step_size == float("inf"):
        raise ValueError(
            "step_size: expected a finite number > 0, got inf; the limit of infinite steps is batch_perceptron, "
            "and normalized_batch_perceptron for normalized steps"
        )
    check_number("step_size", step_size, "(0, inf)")


def python_number(step_size: Any) -> Any:
    """A NumPy scalar as a Python number, which leaves the dtype of arrays alone; anything else as it is."""
    return step_size.item() if isinstance(step_size, np.generic) else step_size


def _check_descent_weights(margins: Array, step_size: Any) -> None:
    _check_margins(margins)
    check_step_size(step_size)


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
    return np.asanyarray(python_number(step_size) * sigmoid.unchecked(-margins) / margins.shape[-1])


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
    return np.asanyarray(python_number(step_size) * softmax.unchecked(-softplus.unchecked(margins)))


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


def check_selection(selection: str, rng: np.random.Generator | None) -> None:
    """Raise ``ValueError`` for an unknown selection, or a random one without a generator."""
    if selection not in SELECTIONS:
        raise ValueError(f"selection: expected one of {', '.join(SELECTIONS)}, got {selection!r}")
    if selection == "random" and rng is None:
        raise ValueError("rng: expected a numpy.random.Generator for the random selection, got None")


def _check_single(margins: Array, selection: Selection = "first", rng: np.random.Generator | None = None) -> None:
    _check_margins(margins)
    check_selection(selection, rng)


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
    chosen = select(margins, wrong, selection, rng)[..., None] == np.arange(margins.shape[-1])
    return np.asanyarray((chosen & wrong).astype(margins.dtype))


def select(margins: Array, wrong: Array, selection: Selection, rng: np.random.Generator | None) -> Any:
    """The number of one wrong sample, if there is one."""
    if selection == "worst":
        return margins.argmin(axis=-1)
    if selection == "random" and rng is not None:
        return np.argmax(np.where(wrong, 1 - rng.random(wrong.shape), 0), axis=-1)
    return wrong.argmax(axis=-1)


# --- iterates ---


def check_data(z: Array) -> None:
    """Raise ``ValueError`` for what are no signed features, or hold a zero row."""
    check_shapes(z=(z, "n d"))
    # The last feature is often the constant one; few rows, if any, need be read.
    suspects = np.flatnonzero(z[:, -1] == 0)
    empty = suspects[~np.any(z[suspects] != 0, axis=1)]
    if empty.size:
        raise ValueError(f"z: expected rows that are not zero, which no classifier gets right, got one at {empty[0]}")


def start(z: Array, theta0: Array | None) -> Array:
    """Where to start: zero if no other is given."""
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
    check_data(z)
    n_steps = check_integer("n_steps", n_steps, 0)
    if theta0 is not None:
        check_shapes(z=(z, "n d"), theta0=(theta0, "... d"))
    found = [start(z, theta0)]
    for t in range(n_steps):
        found.append(found[-1] + weights(sample_margins.unchecked(found[-1], z), t) @ z)
    return np.stack(found)
