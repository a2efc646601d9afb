r"""Stability of gradient descent where gradients agree, and logistic regression, of which the theorem's premises hold.

For losses that are $L$-Lipschitz and $\beta$-smooth, after $T$ steps of gradient descent on $m$ examples,

$$|\mathrm{gap}|\le\frac{L^2}m\sum_{t=1}^T\Big[\prod_{k=t+1}^T(1+\eta_k\beta)\Big]\eta_t\sqrt{2(1-\alpha(w_{t-1}))}.$$

Its proof follows two runs whose samples differ in one example. If the losses are convex and no learning rate exceeds
$2/\beta$, a gradient step does not move two points apart, and every factor $1+\eta_k\beta$ becomes 1.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.primitives.activations import sigmoid, softplus
from refimpl.primitives.checks import check_array, check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, exp, sqrt, transpose


def _check_in(name: str, values: Array, low: float, high: float) -> None:
    if values.dtype != object and np.any((values < low) | (values > high)):
        worst = values[(values < low) | (values > high)][0]
        raise ValueError(f"{name}: expected numbers from {low} to {high}, got {worst}")


def _check_rates(learning_rates: Array, smoothness: Any, convex: bool) -> None:
    _check_in("learning_rates", learning_rates, 0, np.inf)
    check_number("smoothness", smoothness, "[0, inf)")
    if convex and learning_rates.dtype != object and smoothness * np.max(learning_rates) > 2:
        largest = np.max(learning_rates)
        raise ValueError(f"learning_rates: expected at most 2 / smoothness = {2 / smoothness}, got {largest}")


def _check_step_weights(learning_rates: Array, smoothness: Any, convex: bool = False) -> None:
    check_shapes(learning_rates=(learning_rates, "n_steps"))
    _check_rates(learning_rates, smoothness, convex)


@checked(_check_step_weights)
def step_weights(learning_rates: Array, smoothness: Any, convex: bool = False) -> Array:
    r"""$\eta_t\prod_{k=t+1}^T(1+\eta_k\beta)$: how much disagreement at step $t$ counts at the end.

    Parameters
    ----------
    learning_rates : array, shape (n_steps,)
        At least 0; where `convex` at most 2 / smoothness.
    smoothness : number >= 0
    convex : bool
        Whether every example's loss is convex, so that all factors are 1.

    Returns
    -------
    array, shape (n_steps,)

    Raises
    ------
    ValueError
        If a number is out of range or not finite.

    Source: the stability theorem.
    """
    if convex:
        return learning_rates
    later = np.cumprod((1 + learning_rates * smoothness)[:0:-1])[::-1]
    return np.concatenate([learning_rates[:-1] * later, learning_rates[-1:]])


def _check_bound(
    coherences: Array,
    learning_rates: Array,
    lipschitz: Any,
    smoothness: Any,
    n_samples: Any,
    convex: bool = False,
) -> None:
    check_shapes(coherences=(coherences, "... n_steps"), learning_rates=(learning_rates, "n_steps"))
    _check_in("coherences", coherences, 0, 1)
    _check_rates(learning_rates, smoothness, convex)
    check_number("lipschitz", lipschitz, "[0, inf)")
    check_integer("n_samples", n_samples, 1)


@checked(_check_bound)
def stability_bound(
    coherences: Array,
    learning_rates: Array,
    lipschitz: Any,
    smoothness: Any,
    n_samples: Any,
    convex: bool = False,
) -> Array:
    """A bound on the distance of expected test and training loss after full-batch gradient descent.

    Parameters
    ----------
    coherences : array, shape (..., n_steps)
        Of the distribution of examples, at the parameters *before* each step; from 0 to 1.
    learning_rates : array, shape (n_steps,)
    lipschitz, smoothness : numbers >= 0
        Of every example's loss in the parameters.
    n_samples : int >= 1
        Examples trained on.
    convex : bool

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit or a number is out of range (see :func:`step_weights`).

    Source: the stability theorem.
    """
    weights = step_weights.unchecked(learning_rates, smoothness, convex)
    disagreements = disagreement_bound.unchecked(coherences, lipschitz)
    return np.asanyarray((disagreements @ weights) * lipschitz / n_samples)


def _check_disagreement(coherences: Array, lipschitz: Any) -> None:
    check_array("coherences", coherences)
    _check_in("coherences", coherences, 0, 1)
    check_number("lipschitz", lipschitz, "[0, inf)")


@checked(_check_disagreement)
def disagreement_bound(coherences: Array, lipschitz: Any) -> Array:
    r"""$\mathbb E\|g_z-g_{z'}\|\le L\sqrt{2(1-\alpha)}$; any shape.

    Raises
    ------
    ValueError
        If a coherence is not in [0, 1] or `lipschitz` is negative.
    """
    return np.asanyarray(lipschitz * sqrt(2 * (1 - coherences)))


def _check_replace_one(
    gradient_differences: Array, learning_rates: Array, smoothness: Any, n_samples: Any, convex: bool = False
) -> None:
    check_shapes(gradient_differences=(gradient_differences, "... n_steps"), learning_rates=(learning_rates, "n_steps"))
    _check_in("gradient_differences", gradient_differences, 0, np.inf)
    _check_rates(learning_rates, smoothness, convex)
    check_integer("n_samples", n_samples, 1)


@checked(_check_replace_one)
def replace_one_bound(
    gradient_differences: Array, learning_rates: Array, smoothness: Any, n_samples: Any, convex: bool = False
) -> Array:
    r"""Bounds on the distance of two runs whose samples differ in one example, after each step.

    $\|w_t-w_t'\|\le(1+\eta_t\beta)\|w_{t-1}-w_{t-1}'\|+\frac{\eta_t}m\|g_{z_i}(w_{t-1})-g_{z_i'}(w_{t-1})\|$ from 0 on.

    Parameters
    ----------
    gradient_differences : array, shape (..., n_steps)
        Norms of the difference of both examples' gradients, at the first run's parameters before each step.
    learning_rates : array, shape (n_steps,)
    smoothness : number >= 0
    n_samples : int >= 1
    convex : bool

    Returns
    -------
    array, shape (..., n_steps)

    Raises
    ------
    ValueError
        If shapes do not fit or a number is out of range (see :func:`step_weights`).

    Source: the proof of the stability theorem.
    """
    moved = gradient_differences * learning_rates / n_samples
    if convex:
        return np.asanyarray(np.cumsum(moved, axis=-1))
    bounds = np.empty_like(moved)
    distance = 0 * moved[..., 0]
    for step, factor in enumerate(1 + learning_rates * smoothness):
        distance = factor * distance + moved[..., step]
        bounds[..., step] = distance
    return bounds


def _check_logistic(weights: Array, x: Array, y: Array) -> None:
    check_shapes(weights=(weights, "... d"), x=(x, "... n d"), y=(y, "... n"))


def _margins(weights: Array, x: Array, y: Array) -> Array:
    return np.asanyarray(y * (x @ weights[..., None])[..., 0])


@checked(_check_logistic)
def logistic_loss(weights: Array, x: Array, y: Array) -> Array:
    r"""$\log(1+e^{-y\,w\cdot x})$ of each example: for $\|x\|\le1$ and $y=\pm1$, $L=1$, $\beta=\frac14$ and convex.

    Parameters
    ----------
    weights : array, shape (..., d)
    x : array, shape (..., n, d)
    y : array, shape (..., n)

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    return softplus.unchecked(-_margins(weights, x, y))


@checked(_check_logistic)
def logistic_loss_vjp(
    weights: Array, x: Array, y: Array
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    """:func:`logistic_loss` and its pullback ``cotangent -> (weights, x, y)``."""
    outputs = (x @ weights[..., None])[..., 0]
    margins = y * outputs

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        to_margins = -cotangent * sigmoid.unchecked(-margins)
        to_outputs = to_margins * y
        to_weights = (to_outputs[..., None, :] @ x)[..., 0, :]
        return to_weights, to_outputs[..., None] * weights[..., None, :], to_margins * outputs

    return softplus.unchecked(-margins), pullback


@checked(_check_logistic)
def logistic_gradients(weights: Array, x: Array, y: Array) -> Array:
    r"""$g=-\frac{y\,x}{1+e^{y\,w\cdot x}}$ of each example's loss, shape (..., n, d).

    Parameters, errors as for :func:`logistic_loss`.
    """
    return np.asanyarray((-y * sigmoid.unchecked(-_margins(weights, x, y)))[..., None] * x)


def logistic_descent(x: Array, y: Array, learning_rates: Array) -> Array:
    """Full-batch gradient descent on the mean logistic loss, from zero.

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    learning_rates : array, shape (n_steps,)

    Returns
    -------
    array, shape (n_steps + 1, ..., d)
        The weights before the first and after every step.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a learning rate is negative.
    """
    sizes = check_shapes(x=(x, "... n d"), y=(y, "... n"))
    check_shapes(learning_rates=(learning_rates, "n_steps"))
    _check_in("learning_rates", learning_rates, 0, np.inf)
    labelled = y[..., None] * x
    columns = transpose(labelled)
    trajectory = np.zeros((len(learning_rates) + 1, *sizes["..."], 1, sizes["d"]), dtype=x.dtype)
    with np.errstate(over="ignore"):  # an infinite exponential is as good as any that large
        for before, after, rate in zip(trajectory[:-1], trajectory[1:], learning_rates, strict=True):
            inverse = exp(before @ columns)  # of the sigmoid of the negative margin, less 1
            inverse += 1
            np.add(before, (rate / sizes["n"] / inverse) @ labelled, out=after)
    return trajectory[..., 0, :]
