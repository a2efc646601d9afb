r"""The deep linear student with one output, from a balanced start: the whole network in one vector.

$W^l=c_lv_{l+1}v_l^\top$ with unit vectors stays of this form. The first layer keeps its direction $v_2$ and becomes
$W^1=v_2q^\top$, so the network is $w=(\prod_{l\ge2}c_l)\,q$, and gradient descent on matrices of any widths is a
recursion for $q$ and the $c_l$. In the limit of small steps, with all $c_l$ and $\lVert q\rVert$ equal,

$$\tau\dot w=\lVert w\rVert^{2-2/n}\big[g+(n-1)\hat w(\hat w^\top g)\big],\qquad g=(y-wX)X^\top.$$
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.dynamics.high_dimensional.linear import residual
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.layers import linear_vjp
from refimpl.primitives.numbers import Array, is_symbolic, row_dot, sqrt, transpose


class BalancedState(NamedTuple):
    """A deep linear network whose layers have rank one: the first layer's row, and the scales of the others."""

    row: Array
    """$q$, shape (..., n_inputs)."""
    scales: Array
    """$c_2,\\dots,c_n$, shape (..., n_weights - 1)."""

    def product(self) -> Array:
        """$w$, shape (..., n_inputs)."""
        return np.asanyarray(np.prod(self.scales, axis=-1, keepdims=True) * self.row)


def balanced_state(initial: Array, n_weights: int) -> BalancedState:
    r"""The balanced network with product $w(0)$: $\lVert q\rVert=c_l=\lVert w(0)\rVert^{1/n}$.

    Parameters
    ----------
    initial : array, shape (..., n_inputs), not zero
    n_weights : int >= 1
        $n$, the number of weight matrices.

    Raises
    ------
    ValueError
        If the number is below 1 or initial weights are 0, from where nothing moves.
    """
    check_shapes(initial=(initial, "... n_inputs"))
    n_weights = check_integer("n_weights", n_weights, 1)
    norm = sqrt(row_dot(initial, initial))
    if not is_symbolic(initial) and not np.all(norm > 0):
        raise ValueError("initial: expected weights that are not 0, got zeros")
    scale = norm ** (1 / n_weights) if not is_symbolic(initial) else norm ** _root(n_weights)
    scales = np.repeat(scale, n_weights - 1, axis=-1)
    return BalancedState(np.asanyarray(initial / norm * scale), scales)


def _root(n_weights: Any) -> Any:
    import sympy

    return sympy.Integer(1) / n_weights


def balanced_layers(state: BalancedState, directions: Sequence[Array]) -> list[Array]:
    r"""The matrices $W^1=v_2q^\top,\ W^l=c_lv_{l+1}v_l^\top$ of a balanced network, first layer first.

    Parameters
    ----------
    state : BalancedState, without batch axes
    directions : unit vectors $v_2,\dots,v_n$ of the hidden layers, one fewer than layers

    Returns
    -------
    list of arrays, shapes (n_1, n_inputs), (n_2, n_1), ..., (1, n_{n-1})

    Raises
    ------
    ValueError
        If the number of directions is not that of the scales.
    """
    check_shapes(row=(state.row, "n_inputs"), scales=(state.scales, "n_scales"))
    if len(directions) != len(state.scales):
        raise ValueError(f"directions: expected {len(state.scales)} of them, got {len(directions)}")
    outputs = [*directions, np.ones(1, dtype=state.row.dtype)]
    layers = [outputs[0][:, None] * state.row]
    for scale, before, after in zip(state.scales, outputs, outputs[1:], strict=False):
        layers.append(scale * after[:, None] * before)
    return layers


# --- gradient descent on the matrices ---


def _check_layers(layers: Sequence[Array], x: Array, y: Array, learning_rate: Any) -> None:
    shapes = {
        f"layers[{index}]": (layer, f"{'1' if index + 1 == len(layers) else f'n_{index + 1}'} n_{index}")
        for index, layer in enumerate(layers)
    }
    if not shapes:
        raise ValueError("layers: expected at least one matrix, got none")
    check_shapes(**shapes, x=(x, "n_0 n_examples"), y=(y, "n_examples"))
    check_number("learning_rate", learning_rate, "(0, inf)")


@checked(_check_layers)
def deep_linear_descent_step(layers: Sequence[Array], x: Array, y: Array, learning_rate: Any) -> list[Array]:
    r"""One step of gradient descent on $\frac12\lVert y-W^n\cdots W^1X\rVert^2$, all matrices at once.

    Parameters
    ----------
    layers : list of arrays, shapes (n_1, n_inputs), ..., (1, n_{n-1})
    x : array, shape (n_inputs, n_examples)
    y : array, shape (n_examples,)
    learning_rate : number > 0
        $\eta=1/\tau$, of a sum over examples.

    Returns
    -------
    list of arrays like `layers`

    Raises
    ------
    ValueError
        If shapes do not fit, there is no layer, an entry is not finite or the rate is not positive.

    Source: arXiv 1710.03667, deep linear networks.
    """
    hidden, pulls = transpose(x), []
    for layer in layers:
        hidden, pull = linear_vjp.unchecked(hidden, layer)
        pulls.append(pull)
    # What is left of the labels in rows, like the outputs: the transpose of the row y.
    cotangent = hidden - transpose(y[None])
    stepped: list[Array] = []
    for layer, pull in zip(reversed(layers), reversed(pulls), strict=True):
        cotangent, to_layer = pull(cotangent)
        stepped.append(layer - learning_rate * to_layer)
    return stepped[::-1]


def _check_balanced(state: BalancedState, x: Array, y: Array, learning_rate: Any) -> None:
    shapes = {"row": (state.row, "... n_inputs"), "x": (x, "... n_inputs n_examples"), "y": (y, "... n_examples")}
    if state.scales.shape[-1]:  # none in a network of one matrix
        shapes["scales"] = (state.scales, "... n_scales")
    check_shapes(**shapes)
    check_number("learning_rate", learning_rate, "(0, inf)")


@checked(_check_balanced)
def balanced_descent_step(state: BalancedState, x: Array, y: Array, learning_rate: Any) -> BalancedState:
    r"""The same step on a balanced network: $q\leftarrow q+\eta(\prod c)g$, $c_l\leftarrow c_l+\eta(q\cdot g)
    \prod_{j\ne l}c_j$ at once.

    Exact, for any widths of the hidden layers.

    Parameters
    ----------
    state : BalancedState
    x : array, shape (..., n_inputs, n_examples)
    y : array, shape (..., n_examples)
    learning_rate : number > 0

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the rate is not positive.

    Source: arXiv 1710.03667, deep linear networks; derived.
    """
    return balanced_step(state, descent_direction(state.product(), x, y), learning_rate)


def balanced_step(state: BalancedState, direction: Array, learning_rate: Any) -> BalancedState:
    """The step for a given negative gradient in the product; arguments unchecked."""
    row, scales = state
    along = row_dot(row, direction)
    others = np.ones_like(scales)
    for index in range(scales.shape[-1]):
        others[..., index] = np.prod(np.delete(scales, index, axis=-1), axis=-1)
    return BalancedState(
        np.asanyarray(row + learning_rate * np.prod(scales, axis=-1, keepdims=True) * direction),
        np.asanyarray(scales + learning_rate * along * others),
    )


# --- gradient flow of the product ---


def descent_direction(weights: Array, x: Array, y: Array) -> Array:
    """$g=(y-wX)X^\\top$, shape (..., n_inputs); arguments unchecked."""
    return np.asanyarray((residual(weights, x, y)[..., None, :] @ transpose(x))[..., 0, :])


def deep_linear_velocity(weights: Array, direction: Array, n_weights: Any) -> Array:
    r"""$\lVert w\rVert^{2-2/n}\big[g+(n-1)\hat w(\hat w^\top g)\big]$ for $g$ = `direction`; arguments unchecked."""
    squared = row_dot(weights, weights)
    exponent = 1 - 1 / n_weights if not is_symbolic(weights) else 1 - _root(n_weights)
    along = (n_weights - 1) * row_dot(weights, direction) / squared
    return np.asanyarray(squared**exponent * (direction + along * weights))


def _check_flow(weights: Array, x: Array, y: Array, n_weights: int, learning_rate: Any) -> None:
    check_shapes(weights=(weights, "... n_inputs"), x=(x, "... n_inputs n_examples"), y=(y, "... n_examples"))
    _check_flow_numbers(weights, n_weights, learning_rate)


def _check_flow_numbers(weights: Array, n_weights: int, learning_rate: Any) -> None:
    check_number("learning_rate", learning_rate, "(0, inf)")
    if check_integer("n_weights", n_weights, 1) == 1 or is_symbolic(weights):
        return
    if not np.all(np.any(weights, axis=-1)):
        raise ValueError("weights: expected weights that are not 0, got zeros")


@checked(_check_flow)
def deep_linear_flow_step(weights: Array, x: Array, y: Array, n_weights: int, learning_rate: Any) -> Array:
    r"""One Euler step of the flow of the product of `n_weights` balanced matrices; for 1 plain gradient descent.

    Parameters
    ----------
    weights : array, shape (..., n_inputs), not zero if there is more than one matrix
        $w$.
    x : array, shape (..., n_inputs, n_examples)
    y : array, shape (..., n_examples)
    n_weights : int >= 1
        $n$.
    learning_rate : number > 0

    Returns
    -------
    array, shape (..., n_inputs)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a number is out of range, or weights are 0, from where nothing
        moves.

    Source: arXiv 1710.03667, deep linear networks; the form for one output.
    """
    direction = descent_direction(weights, x, y)
    if n_weights == 1:
        return np.asanyarray(weights + learning_rate * direction)
    return np.asanyarray(weights + learning_rate * deep_linear_velocity(weights, direction, n_weights))


def _check_moments(
    weights: Array, correlation: Array, moment: Array, n_weights: int, learning_rate: Any, n_steps: int
) -> None:
    check_shapes(
        weights=(weights, "... n_inputs"),
        correlation=(correlation, "... n_inputs n_inputs"),
        moment=(moment, "... n_inputs"),
    )
    check_integer("n_steps", n_steps, 0)
    _check_flow_numbers(weights, n_weights, learning_rate)


@checked(_check_moments)
def deep_linear_flow(
    weights: Array, correlation: Array, moment: Array, n_weights: int, learning_rate: Any, n_steps: int
) -> Array:
    r"""Steps of :func:`deep_linear_flow_step` from the data's moments alone: $g=yX^\top-wXX^\top$ (floats only).

    Parameters
    ----------
    weights : array, shape (..., n_inputs), not zero if there is more than one matrix
    correlation : array, shape (..., n_inputs, n_inputs)
        $XX^\top$.
    moment : array, shape (..., n_inputs)
        $yX^\top$.
    n_weights : int >= 1
    learning_rate : number > 0
    n_steps : int >= 0

    Returns
    -------
    array, shape (..., n_inputs)

    Raises
    ------
    ValueError
        As :func:`deep_linear_flow_step`, or if there are fewer than 0 steps.

    Source: arXiv 1710.03667, deep linear networks; the form for one output.
    """
    weights, direction = weights.copy(), np.empty_like(weights)
    row, learned = weights[..., None, :], direction[..., None, :]
    others, exponent = n_weights - 1, 1 - 1 / n_weights
    for _ in range(n_steps):
        np.matmul(row, correlation, out=learned)
        np.subtract(moment, direction, out=direction)
        if n_weights == 1:
            direction *= learning_rate
        else:
            squared = np.vecdot(weights, weights)
            scale = squared**exponent
            scale *= learning_rate
            growth = np.vecdot(weights, direction)
            growth *= others
            growth *= scale
            growth /= squared
            growth += 1
            direction *= scale[..., None]
            weights *= growth[..., None]
        weights += direction
    return weights
