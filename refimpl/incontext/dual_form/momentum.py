"""Momentum, of gradients and of values (Section 5)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.primitives.attention import causal_mask, softmax_attention, softmax_attention_vjp
from refimpl.primitives.checks import check_array, check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, transpose


def _check_descent(
    gradient: Callable[[Array], Array], start: Array, learning_rate: Any, eta: Any, n_steps: int
) -> None:
    check_array("start", start)
    check_number("learning_rate", learning_rate, "(0, inf)")
    check_number("eta", eta, "(0, 1)")
    check_integer("n_steps", n_steps, 1)


@checked(_check_descent)
def momentum_gradient_descent(
    gradient: Callable[[Array], Array], start: Array, learning_rate: Any, eta: Any, n_steps: int
) -> list[Array]:
    r"""$\Theta_t=\Theta_{t-1}-\gamma\sum_{i=1}^{t-1}\eta^{t-i}\nabla f(\Theta_i)$ as it is written, all gradients kept.

    The sum is empty at $t=1$, so $\Theta_1=\Theta_0$; the newest gradient is already multiplied by $\eta$.

    Parameters
    ----------
    gradient : maps an array to one of its shape
    start : array
    learning_rate : number > 0
    eta : number in (0, 1)
    n_steps : int >= 1

    Returns
    -------
    list of arrays: $\Theta_1$ to $\Theta_{n}$

    Raises
    ------
    ValueError
        If a parameter is out of range or the start is not finite.

    Source: arXiv 2212.10559, Eq. 14.
    """
    points, gradients = [start], []
    for t in range(2, n_steps + 1):
        gradients.append(gradient(points[-1]))
        total = sum(eta ** (t - i) * g for i, g in enumerate(gradients, 1))
        points.append(np.asanyarray(points[-1] - learning_rate * total))
    return points


@checked(_check_descent)
def heavy_ball(
    gradient: Callable[[Array], Array], start: Array, learning_rate: Any, eta: Any, n_steps: int
) -> list[Array]:
    r"""The same with a buffer: $b\leftarrow\eta(b+\nabla f(\Theta))$, $\Theta\leftarrow\Theta-\gamma b$.

    Parameters, result and errors as in :func:`momentum_gradient_descent`.

    Source: arXiv 2212.10559, Eq. 14, as a recursion.
    """
    points, buffer = [start], 0 * start
    for _ in range(n_steps - 1):
        buffer = eta * (buffer + gradient(points[-1]))
        points.append(np.asanyarray(points[-1] - learning_rate * buffer))
    return points


def _check_sum(values: Array, eta: Any) -> None:
    check_shapes(values=(values, "... d_value n"))
    check_number("eta", eta, "(0, 1)")


@checked(_check_sum)
def momentum_sum(values: Array, eta: Any) -> Array:
    r"""$m_t=\sum_{i<t}\eta^{t-i}v_i$ by $m_1=0$, $m_{t+1}=\eta(m_t+v_t)$; the current value is not in the sum.

    Parameters
    ----------
    values : array, shape (..., d_value, n)
    eta : number in (0, 1)

    Returns
    -------
    array, shape (..., d_value, n)

    Raises
    ------
    ValueError
        If an entry is not finite or `eta` is out of range.

    Source: arXiv 2212.10559, Section 5.
    """
    sums = np.zeros_like(values)
    for t in range(1, values.shape[-1]):
        sums[..., t] = eta * (sums[..., t - 1] + values[..., t - 1])
    return sums


@checked(_check_sum)
def momentum_sum_vjp(values: Array, eta: Any) -> tuple[Array, Callable[[Array], tuple[Array]]]:
    """:func:`momentum_sum` and its pullback ``cotangent -> (values,)``: the same recursion backwards."""

    def pullback(cotangent: Array) -> tuple[Array]:
        return (np.flip(momentum_sum.unchecked(np.flip(cotangent, -1), eta), -1),)

    return momentum_sum.unchecked(values, eta), pullback


def _check_attention(values: Array, keys: Array, queries: Array, eta: Any) -> None:
    check_shapes(values=(values, "... d_value n"), keys=(keys, "... d n"), queries=(queries, "... d n"))
    check_number("eta", eta, "(0, 1)")


@checked(_check_attention)
def momentum_attention(values: Array, keys: Array, queries: Array, eta: Any) -> Array:
    r"""Causal softmax attention plus the momentum of the values, $\sum_{i<t}\eta^{t-i}v_i$, of one head.

    Pad sequences at their end: what comes later enters no earlier token's sum.

    Parameters
    ----------
    values : array, shape (..., d_value, n)
    keys, queries : array, shape (..., d, n)
    eta : number in (0, 1)

    Returns
    -------
    array, shape (..., d_value, n)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or `eta` is out of range.

    Source: arXiv 2212.10559, Eq. 15.
    """
    attended = softmax_attention.unchecked(
        transpose(queries), transpose(keys), transpose(values), causal_mask(values.shape[-1])
    )
    return transpose(attended) + momentum_sum.unchecked(values, eta)


@checked(_check_attention)
def momentum_attention_vjp(
    values: Array, keys: Array, queries: Array, eta: Any
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    """:func:`momentum_attention` and its pullback ``cotangent -> (values, keys, queries)``."""
    attended, pull_attention = softmax_attention_vjp.unchecked(
        transpose(queries), transpose(keys), transpose(values), causal_mask(values.shape[-1])
    )
    sums, pull_sums = momentum_sum_vjp.unchecked(values, eta)

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        to_queries, to_keys, to_values = map(transpose, pull_attention(transpose(cotangent)))
        return to_values + pull_sums(cotangent)[0], to_keys, to_queries

    return transpose(attended) + sums, pullback
