r"""One linear self-attention layer is one step of gradient descent; $K$ layers are $K$ steps (Section 2, A.1)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.linear_self_attention import (
    LinearAttentionWeights,
    attend,
    attend_vjp,
    check_weights,
    factor_cotangents,
)
from refimpl.primitives.numbers import Array, common_dtype, is_symbolic, transpose
from refimpl.tasks.linear_regression import RegressionTasks, check_tasks

LEARNING_RATE_GRID = np.arange(0.001, 25.0, 0.1)
"""The grid of the authors' line search."""


# --- the inner problem: least squares on the context ---


def apply_linear(weights: Array, x: Array) -> Array:
    """The linear model at one input: shapes ``(..., n_outputs, n_inputs)`` and ``(..., n_inputs)``."""
    return np.asanyarray((weights @ x[..., None])[..., 0])


def inner_loss(weights: Array, x: Array, y: Array) -> Array:
    r"""$L(W)=\frac1{2N}\sum_i\lVert Wx_i-y_i\rVert^2$, the loss that the layer descends.

    Parameters
    ----------
    weights : array, shape (..., n_outputs, n_inputs)
    x : array, shape (..., n_inputs, n_context)
    y : array, shape (..., n_outputs, n_context)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2212.07677, Eq. 1.
    """
    _check_context(x, y, weights)
    residual = weights @ x - y
    return np.asanyarray(np.trace(residual @ transpose(residual), axis1=-2, axis2=-1) / (2 * x.shape[-1]))


def gradient_step(weights: Array, x: Array, y: Array, learning_rate: Any) -> Array:
    r"""$W+\Delta W$ with $\Delta W=-\eta\nabla L(W)=-\frac\eta N(WX-Y)X^\top$.

    Parameters as for :func:`inner_loss`, and `learning_rate` > 0.

    Returns
    -------
    array, shape (..., n_outputs, n_inputs)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the learning rate is not positive.

    Source: arXiv 2212.07677, Eq. 2.
    """
    _check_context(x, y, weights)
    return _descend(weights, x, y, check_number("learning_rate", learning_rate, "(0, inf)"))


def gradient_descent(x: Array, y: Array, learning_rates: Sequence[Any], initial_weights: Array | None = None) -> Array:
    """The iterate after one gradient step for each learning rate, from `initial_weights` (zeros if None).

    Parameters
    ----------
    x : array, shape (..., n_inputs, n_context)
    y : array, shape (..., n_outputs, n_context)
    learning_rates : sequence of numbers > 0
    initial_weights : array, shape (n_outputs, n_inputs), optional

    Returns
    -------
    array, shape (..., n_outputs, n_inputs)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a learning rate is not positive.
    """
    _check_context(x, y)
    learning_rates = check_rates("learning_rates", learning_rates, "(0, inf)")
    start = _initial_weights(initial_weights, y.shape[-2], x.shape[-2], common_dtype(x, y))
    weights = np.broadcast_to(start, (*x.shape[:-2], *start.shape))
    for learning_rate in learning_rates:
        weights = _descend(weights, x, y, learning_rate)
    return weights


def transform_targets(weights: Array, x: Array, y: Array, learning_rate: Any) -> Array:
    r"""Leave the weights and move the targets: $Y-\Delta WX$, on which $W$ has the loss that $W+\Delta W$ had on $Y$.

    Parameters and errors as for :func:`gradient_step`; shape of `y`.

    Source: arXiv 2212.07677, Eq. 4.
    """
    return np.asanyarray(y - (gradient_step(weights, x, y, learning_rate) - weights) @ x)


def _descend(weights: Array, x: Array, y: Array, learning_rate: Any) -> Array:
    return np.asanyarray(weights - (learning_rate / x.shape[-1]) * ((weights @ x - y) @ transpose(x)))


# --- the construction ---


def make_tokens(x: Array, y: Array, x_query: Array, initial_weights: Array | None = None) -> Array:
    r"""Tokens $[x_j;y_j]$ as columns and, last, the query $[x_q;-W_0x_q]$.

    Parameters
    ----------
    x : array, shape (..., n_inputs, n_context)
    y : array, shape (..., n_outputs, n_context)
    x_query : array, shape (..., n_inputs)
    initial_weights : array, shape (n_outputs, n_inputs), optional
        $W_0$; zeros if None.

    Returns
    -------
    array, shape (..., n_inputs + n_outputs, n_context + 1)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2212.07677, Section 2 and Appendix A.1.
    """
    _check_context(x, y)
    check_shapes(x=(x, "... n_inputs n_context"), x_query=(x_query, "... n_inputs"))
    start = _initial_weights(initial_weights, y.shape[-2], x.shape[-2], common_dtype(x, y, x_query))
    query = np.concatenate([x_query, -apply_linear(start, x_query)], axis=-1)
    return np.concatenate([np.concatenate([x, y], axis=-2), query[..., None]], axis=-1)


def read_prediction(tokens: Array, n_inputs: int) -> Array:
    r"""The prediction: $-1$ times the $y$-part of the last token.

    Parameters
    ----------
    tokens : array, shape (..., D, n_tokens)
    n_inputs : int from 1 to D - 1

    Returns
    -------
    array, shape (..., D - n_inputs)

    Source: arXiv 2212.07677, Section 2 (the query's $y$-part holds $-Wx_q$).
    """
    check_shapes(tokens=(tokens, "... D n_tokens"))
    return np.asanyarray(-tokens[..., check_integer("n_inputs", n_inputs, 1, tokens.shape[-2] - 1) :, -1])


def gradient_descent_weights(
    n_inputs: int, n_outputs: int, learning_rate: Any, n_context: int, initial_weights: Array | None = None
) -> LinearAttentionWeights:
    r"""Weights with which one layer is one gradient step: $x_j$ stays, $y_j\leftarrow y_j-\Delta Wx_j$.

    $$W_K=W_Q=\begin{pmatrix}I&0\\0&0\end{pmatrix},\quad W_V=\begin{pmatrix}0&0\\W_0&-I\end{pmatrix},\quad
    P=\frac\eta NI.$$

    Parameters
    ----------
    n_inputs, n_outputs, n_context : int >= 1
    learning_rate : number > 0
    initial_weights : array, shape (n_outputs, n_inputs), optional
        $W_0$; zeros if None. The weights have its dtype, float64 without it.

    Returns
    -------
    LinearAttentionWeights with one head

    Raises
    ------
    ValueError
        If a size is below 1, the learning rate is not positive, or $W_0$ has another shape.

    Source: arXiv 2212.07677, Proposition 1 and Eq. 8.
    """
    n_inputs = check_integer("n_inputs", n_inputs, 1)
    n_outputs = check_integer("n_outputs", n_outputs, 1)
    n_context = check_integer("n_context", n_context, 1)
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    rate = learning_rate / n_context
    start = _initial_weights(initial_weights, n_outputs, n_inputs, object if is_symbolic(rate) else float)
    identity = np.eye(n_inputs + n_outputs, dtype=start.dtype)
    on_x = identity.copy()
    on_x[n_inputs:] = 0
    value = on_x - identity
    value[n_inputs:, :n_inputs] = start
    return LinearAttentionWeights(on_x[None], on_x[None], value[None], (rate * identity)[None])


# --- depth ---


def stack_forward(
    tokens: Array,
    layers: Sequence[LinearAttentionWeights],
    n_context: int,
    clip: float | None = None,
    dampening: Any = 1,
) -> Array:
    """The layers one after another; the query gives no keys and values.

    Parameters
    ----------
    tokens : array, shape (..., D, n_tokens)
    layers : sequence of LinearAttentionWeights
        The same weights again and again for a looped transformer.
    n_context : int from 1 to n_tokens - 1
    clip : float > 0, optional
        Clip the entries of all tokens to ``[-clip, clip]`` after every layer; the paper takes 10 beyond two layers.
        Needs numbers, not symbols.
    dampening : number > 0
        Factor of every layer's update.

    Returns
    -------
    array, shape (..., D, n_tokens)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, `n_context` is out of range, or `clip` or `dampening` is not
        positive.

    Source: arXiv 2212.07677, Section 3; Appendix A.6 (dampening) and A.12 (clipping).
    """
    tokens, n_context, dampening = _check_stack(tokens, layers, n_context, clip, dampening)
    for layer in layers:
        tokens = attend(tokens, layer.key_query, dampening * layer.projection_value, n_context)
        if clip is not None:
            tokens = np.clip(tokens, -clip, clip)
    return tokens


def stack_forward_vjp(
    tokens: Array,
    layers: Sequence[LinearAttentionWeights],
    n_context: int,
    clip: float | None = None,
    dampening: Any = 1,
) -> tuple[Array, Callable[[Array], tuple[Array, list[LinearAttentionWeights]]]]:
    """:func:`stack_forward` and its pullback ``cotangent -> (tokens, [weights of each layer])``.

    A clipped entry passes no gradient. For tied layers sum the gradients of the layers.
    """
    tokens, n_context, dampening = _check_stack(tokens, layers, n_context, clip, dampening)
    pulls, masks = [], []
    for layer in layers:
        tokens, pull = attend_vjp(tokens, layer.key_query, dampening * layer.projection_value, n_context)
        pulls.append(pull)
        if clip is not None:
            masks.append(np.abs(tokens) < clip)
            tokens = np.clip(tokens, -clip, clip)

    def pullback(cotangent: Array) -> tuple[Array, list[LinearAttentionWeights]]:
        to_layers = []
        for index in reversed(range(len(layers))):
            if masks:
                cotangent = cotangent * masks[index]
            cotangent, to_key_query, to_projection_value = pulls[index](cotangent)
            to_layers.append(factor_cotangents(layers[index], to_key_query, dampening * to_projection_value))
        return cotangent, to_layers[::-1]

    return tokens, pullback


# --- how good one step is on average, and at which rate ---


def one_step_population_loss(
    learning_rate: Any,
    n_inputs: int,
    n_context: int,
    second_moment: Any,
    fourth_moment: Any,
    n_outputs: int = 1,
    weight_variance: Any = 1,
) -> Any:
    r"""Expected squared error $\mathbb E\lVert y_q-\hat y\rVert^2$ of one gradient step from $W_0=0$, exactly.

    $$N_y\sigma_w^2\mu_2N_x\Big[1-2\eta\mu_2+\frac{\eta^2}N\big(\mu_4+(N+N_x-2)\mu_2^2\big)\Big]$$

    for noiseless tasks $W_\tau\sim\mathcal N(0,\sigma_w^2I)$ and inputs with independent, identically distributed
    coordinates of mean zero; nothing else about their law matters. The paper's figures show half of it.

    Parameters
    ----------
    learning_rate : number > 0
    n_inputs, n_context, n_outputs : int >= 1
    second_moment, fourth_moment : number > 0
        $\mu_2,\mu_4$ of a coordinate of $x$.
    weight_variance : number > 0
        $\sigma_w^2$.

    Returns
    -------
    number

    Raises
    ------
    ValueError
        If an argument is out of range.

    Source: arXiv 2212.07677, Section 3 (the loss of Eq. 5 at the construction; the average is taken in closed form).
    """
    n_outputs = check_integer("n_outputs", n_outputs, 1)
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    weight_variance = check_number("weight_variance", weight_variance, "(0, inf)")
    spread = _gram_spread(n_inputs, n_context, second_moment, fourth_moment)
    factor = n_outputs * weight_variance * second_moment * n_inputs
    return factor * (1 - 2 * learning_rate * second_moment + learning_rate**2 / n_context * spread)


def optimal_learning_rate(n_inputs: int, n_context: int, second_moment: Any, fourth_moment: Any) -> Any:
    r"""$\eta^*=N\mu_2/(\mu_4+(N+N_x-2)\mu_2^2)$, which minimises :func:`one_step_population_loss`; same errors.

    Source: arXiv 2212.07677, Section 3 (where it is found by line search).
    """
    return n_context * second_moment / _gram_spread(n_inputs, n_context, second_moment, fourth_moment)


def line_search_learning_rate(tasks: RegressionTasks, grid: Any = LEARNING_RATE_GRID, n_steps: int = 1) -> float:
    """The rate of the grid at which `n_steps` gradient steps from zero have the smallest mean squared query error.

    Raises
    ------
    ValueError
        If the tasks do not fit or are none, or the grid is empty or has a rate that is not positive.

    Source: arXiv 2212.07677, Section 3 and Appendix A.12.
    """
    check_tasks(tasks)
    n_steps = check_integer("n_steps", n_steps, 1)
    grid = check_rates("grid", grid, "(0, inf)")

    def error(learning_rate: Any) -> float:
        weights = gradient_descent(tasks.x, tasks.y, [learning_rate] * n_steps)
        return float(np.mean((apply_linear(weights, tasks.x_query) - tasks.y_query) ** 2))

    return float(min(grid, key=error))


def _gram_spread(n_inputs: int, n_context: int, second_moment: Any, fourth_moment: Any) -> Any:
    r"""$\mu_4+(N+N_x-2)\mu_2^2$, where $\mathbb E\,\mathrm{tr}(XX^\top)^2=NN_x$ times this."""
    n_inputs = check_integer("n_inputs", n_inputs, 1)
    n_context = check_integer("n_context", n_context, 1)
    second_moment = check_number("second_moment", second_moment, "(0, inf)")
    fourth_moment = check_number("fourth_moment", fourth_moment, "(0, inf)")
    return fourth_moment + (n_context + n_inputs - 2) * second_moment**2


# --- checks ---


def check_rates(name: str, values: Any, interval: str) -> list[Any]:
    """Return a non-empty sequence of numbers in the interval as a list of Python numbers."""
    rates = [check_number(name, value, interval) for value in values]
    if not rates:
        raise ValueError(f"{name}: expected at least one number, got none")
    return rates


def _check_context(x: Array, y: Array, weights: Array | None = None) -> None:
    shapes = {"x": (x, "... n_inputs n_context"), "y": (y, "... n_outputs n_context")}
    if weights is not None:
        shapes["weights"] = (weights, "... n_outputs n_inputs")
    check_shapes(**shapes)


def _initial_weights(weights: Array | None, n_outputs: int, n_inputs: int, dtype: Any) -> Array:
    if weights is None:
        return np.zeros((n_outputs, n_inputs), dtype=dtype)
    check_shapes(initial_weights=(weights, f"{n_outputs} {n_inputs}"))
    return np.asanyarray(weights)


def _check_stack(
    tokens: Any, layers: Sequence[LinearAttentionWeights], n_context: int, clip: float | None, dampening: Any
) -> tuple[Array, int, Any]:
    tokens = np.asanyarray(tokens)
    for layer in layers:
        check_weights(layer, tokens)
    if clip is not None:
        check_number("clip", clip, "(0, inf)")
    n_context = check_integer("n_context", n_context, 1, tokens.shape[-1] - 1)
    return tokens, n_context, check_number("dampening", dampening, "(0, inf)")
