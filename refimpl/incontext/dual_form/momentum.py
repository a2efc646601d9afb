"""Momentum, of gradients and of values (Section 5)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from refimpl.primitives.attention import (
    Mask,
    MultiHeadAttention,
    causal_mask,
    multi_head_attention_vjp,
    multi_head_with,
    softmax_attention,
    softmax_attention_vjp,
)
from refimpl.primitives.checks import check_array, check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, transpose
from refimpl.primitives.transformer import Attend

Gradient = Callable[[Array], Array]


def _check_descent(start: Array, learning_rate: Any, eta: Any, n_steps: int) -> tuple[Any, Any, int]:
    check_array("start", start)
    return (
        check_number("learning_rate", learning_rate, "(0, inf)"),
        check_number("eta", eta, "(0, 1)"),
        check_integer("n_steps", n_steps, 1),
    )


def _at(gradient: Gradient, point: Array) -> Array:
    found = gradient(point)
    if np.shape(found) != point.shape:
        raise ValueError(f"gradient: expected shape {point.shape} as its argument, got {np.shape(found)}")
    return found


def momentum_gradient_descent(
    gradient: Gradient, start: Array, learning_rate: Any, eta: Any, n_steps: int
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
        If a parameter is out of range, the start is not finite or a gradient has another shape.

    Source: arXiv 2212.10559, Eq. 14.
    """
    learning_rate, eta, n_steps = _check_descent(start, learning_rate, eta, n_steps)
    points, gradients = [start], []
    for t in range(2, n_steps + 1):
        gradients.append(_at(gradient, points[-1]))
        total = sum(eta ** (t - i) * g for i, g in enumerate(gradients, 1))
        points.append(np.asanyarray(points[-1] - learning_rate * total))
    return points


def heavy_ball(gradient: Gradient, start: Array, learning_rate: Any, eta: Any, n_steps: int) -> list[Array]:
    r"""The same with a buffer: $b\leftarrow\eta(b+\nabla f(\Theta))$, $\Theta\leftarrow\Theta-\gamma b$.

    Parameters, result and errors as in :func:`momentum_gradient_descent`.

    Source: arXiv 2212.10559, Eq. 14, as a recursion.
    """
    learning_rate, eta, n_steps = _check_descent(start, learning_rate, eta, n_steps)
    points, buffer = [start], 0 * start
    for _ in range(n_steps - 1):
        buffer = eta * (buffer + _at(gradient, points[-1]))
        points.append(np.asanyarray(points[-1] - learning_rate * buffer))
    return points


def momentum_kernel(n: int, eta: Any, like: Array) -> Array:
    r"""The matrix of $\eta^{t-i}$ at row $i$ and column $t>i$, zero elsewhere: :func:`momentum_sum` is ``values @`` it.

    Parameters
    ----------
    n : int >= 1
    eta : number in [0, 1)
    like : array
        Whose dtype the matrix has.

    Returns
    -------
    array, shape (n, n)

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Source: arXiv 2212.10559, Section 5.
    """
    n, eta = check_integer("n", n, 1), check_number("eta", eta, "[0, 1)")
    later = np.arange(n) - np.arange(n)[:, None]
    powers = np.zeros(n, dtype=like.dtype)
    np.multiply.accumulate(np.full(n - 1, eta, dtype=like.dtype), out=powers[1:])
    return np.asanyarray(powers[np.maximum(later, 0)])


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


@checked(_check_sum)
def momentum_sum_derivative(values: Array, eta: Any) -> Array:
    r"""$\partial m_t/\partial\eta=\sum_{i<t}(t-i)\eta^{t-i-1}v_i$, by the derivative of the recursion.

    Parameters, shape of the result and errors as in :func:`momentum_sum`.

    Source: derived from arXiv 2212.10559, Section 5.
    """
    sums, derivative = momentum_sum.unchecked(values, eta), np.zeros_like(values)
    for t in range(1, values.shape[-1]):
        derivative[..., t] = sums[..., t - 1] + values[..., t - 1] + eta * derivative[..., t - 1]
    return derivative


def _check_attention(values: Array, keys: Array, queries: Array, eta: Any, mask: Mask | None = None) -> None:
    sizes = check_shapes(values=(values, "... d_value n"), keys=(keys, "... d n"), queries=(queries, "... d n"))
    check_number("eta", eta, "(0, 1)")
    if mask is not None:
        if not np.issubdtype(getattr(mask, "dtype", object), np.bool_):
            raise ValueError(f"mask: expected a boolean array, got {getattr(mask, 'dtype', type(mask).__name__)}")
        if mask.shape != (*sizes["..."], sizes["n"]):
            raise ValueError(f"mask: expected shape {(*sizes['...'], sizes['n'])}, got {mask.shape}")


def _hide_padding(values: Array, mask: Mask | None) -> tuple[Array, Mask]:
    """The values that enter sums, and what each token attends to; padding sees itself, so that it sees something."""
    visible = causal_mask(values.shape[-1])
    if mask is None:
        return values, visible
    own = np.eye(values.shape[-1], dtype=bool)
    return values * mask[..., None, :].astype(int).astype(values.dtype), visible & (mask[..., None, :] | own)


@checked(_check_attention)
def momentum_attention(values: Array, keys: Array, queries: Array, eta: Any, mask: Mask | None = None) -> Array:
    r"""Causal softmax attention plus the momentum of the values, $\sum_{i<t}\eta^{t-i}v_i$, of one head.

    Parameters
    ----------
    values : array, shape (..., d_value, n)
    keys, queries : array, shape (..., d, n)
    eta : number in (0, 1)
    mask : boolean array, shape (..., n), or None
        False where a token is padding: nothing attends to it, and it enters no sum. What comes out there means nothing.

    Returns
    -------
    array, shape (..., d_value, n)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, `eta` is out of range or the mask is not boolean.

    Source: arXiv 2212.10559, Eq. 15.
    """
    values_in_sums, visible = _hide_padding(values, mask)
    attended = softmax_attention.unchecked(transpose(queries), transpose(keys), transpose(values), visible)
    return transpose(attended) + momentum_sum.unchecked(values_in_sums, eta)


@checked(_check_attention)
def momentum_attention_vjp(
    values: Array, keys: Array, queries: Array, eta: Any, mask: Mask | None = None
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    """:func:`momentum_attention` and its pullback ``cotangent -> (values, keys, queries)``."""
    values_in_sums, visible = _hide_padding(values, mask)
    attended, pull_attention = softmax_attention_vjp.unchecked(
        transpose(queries), transpose(keys), transpose(values), visible
    )
    sums, pull_sums = momentum_sum_vjp.unchecked(values_in_sums, eta)

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        to_queries, to_keys, to_values = map(transpose, pull_attention(transpose(cotangent)))
        by_sums, _ = _hide_padding(pull_sums(cotangent)[0], mask)
        return to_values + by_sums, to_keys, to_queries

    return transpose(attended) + sums, pullback


def _check_heads(x: Array, weights: MultiHeadAttention, eta: Any) -> None:
    multi_head_attention_vjp.check(x, weights)
    check_number("eta", eta, "[0, 1)")


@checked(_check_heads)
def momentum_multi_head_attention(x: Array, weights: MultiHeadAttention, eta: Any) -> Array:
    r"""Causal multi-head attention whose every head is a :func:`momentum_attention`, on tokens that are rows.

    Parameters
    ----------
    x : array, shape (..., n_tokens, d)
    weights : MultiHeadAttention
    eta : number in [0, 1)
        With 0 it is the usual attention.

    Returns
    -------
    array, shape (..., n_tokens, d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or `eta` is out of range.

    Source: arXiv 2212.10559, Eq. 15 and Section 5.
    """
    return momentum_multi_head_attention_vjp.unchecked(x, weights, eta)[0]


@checked(_check_heads)
def momentum_multi_head_attention_vjp(
    x: Array, weights: MultiHeadAttention, eta: Any
) -> tuple[Array, Callable[[Array], tuple[Array, MultiHeadAttention]]]:
    """:func:`momentum_multi_head_attention` and its pullback ``cotangent -> (x, weights)``."""
    visible = causal_mask(x.shape[-2])
    kernel = momentum_kernel(x.shape[-2], eta, x)

    def attend(query: Array, key: Array, value: Array) -> Any:
        attended, pull_attention = softmax_attention_vjp.unchecked(query, key, value, visible)

        def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
            to_query, to_key, to_value = pull_attention(cotangent)
            return to_query, to_key, to_value + kernel @ cotangent

        return attended + transpose(kernel) @ value, pullback

    return multi_head_with(x, weights, attend)


def momentum_attend(eta: Any) -> Attend:
    """The attention of :func:`momentum_multi_head_attention` for the blocks of a transformer; rows unchecked.

    Raises
    ------
    ValueError
        If `eta` is not in [0, 1).

    Source: arXiv 2212.10559, Section 5.
    """
    return partial(momentum_multi_head_attention_vjp.unchecked, eta=check_number("eta", eta, "[0, 1)"))
