r"""How alike a trained transformer and gradient descent are: metrics, interpolation, roll-out (Section 3, A.3, A.6)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.linear_attention.descent import apply_linear, gradient_descent
from refimpl.incontext.linear_attention.plus_plus import gd_plus_plus_step, initial_state
from refimpl.incontext.linear_attention.training import Prompts, predict_vjp
from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.linear_self_attention import LinearAttentionWeights, attend, check_weights
from refimpl.primitives.numbers import Array
from refimpl.tasks.linear_regression import RegressionTasks


class Response(NamedTuple):
    """What a model makes of each prompt, and how that changes with the query."""

    prediction: Array
    """Shape ``(n_tasks, n_outputs)``."""
    sensitivity: Array
    r"""$\partial\hat y/\partial x_q$, shape ``(n_tasks, n_outputs, n_inputs)``."""


def transformer_response(
    layers: Sequence[LinearAttentionWeights], prompts: Prompts, clip: float | None = None
) -> Response:
    """The response of a stack of layers, its sensitivity by the hand-written pullback; errors as for ``predict``."""
    n_outputs = len(prompts.targets)
    prediction, pullback = predict_vjp(prompts.tokens, layers, n_outputs, clip)
    one_at_a_time = np.eye(n_outputs, dtype=prediction.dtype)[..., None] * np.ones_like(prediction)
    n_inputs = prompts.tokens.shape[1] - n_outputs
    sensitivity = np.stack([pullback(cotangent)[0][-1, :n_inputs] for cotangent in one_at_a_time])
    return Response(prediction.T, sensitivity.transpose(2, 0, 1))


def linear_response(weights: Array, tasks: RegressionTasks) -> Response:
    """The response of one linear model for each task, shape ``(n_tasks, n_outputs, n_inputs)``."""
    check_shapes(weights=(weights, "... n_outputs n_inputs"), x_query=(tasks.x_query, "... n_inputs"))
    return Response(apply_linear(weights, tasks.x_query), weights)


def gradient_descent_response(learning_rates: Sequence[float], tasks: RegressionTasks) -> Response:
    """The response of gradient descent from zero; errors as for ``gradient_descent``."""
    return linear_response(gradient_descent(tasks.x, tasks.y, learning_rates), tasks)


def gd_plus_plus_response(learning_rates: Sequence[float], gammas: Sequence[float], tasks: RegressionTasks) -> Response:
    """The response of GD++ from zero, which is linear in the query too: $W_Kx_q$."""
    state = initial_state(tasks.x, tasks.y)
    for learning_rate, gamma in zip(learning_rates, gammas, strict=True):
        state = gd_plus_plus_step(state, tasks.x, tasks.y, learning_rate, gamma)
    return linear_response(state.weights, tasks)


def evaluation_loss(response: Response, tasks: RegressionTasks) -> float:
    r"""$\frac1{2B}\sum\lVert\hat y-y_q\rVert^2$, the loss of the paper's figures."""
    return float(((response.prediction - tasks.y_query) ** 2).sum() / (2 * len(tasks.y_query)))


class Alignment(NamedTuple):
    """The paper's three metrics, each a mean over the tasks."""

    prediction_distance: float
    r"""$\lVert\hat y_a-\hat y_b\rVert$."""
    cosine: float
    """Between the sensitivities."""
    model_distance: float
    """Between the sensitivities, in Frobenius norm."""


def alignment_metrics(first: Response, second: Response) -> Alignment:
    r"""Prediction distance, cosine of sensitivities and model distance of two models on the same tasks.

    A sensitivity of 0 has cosine 0 with anything: $10^{-8}$ is added to each norm, as in the authors' code.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or there is no task.

    Source: arXiv 2212.07677, Section 3 (Figure 2) and the authors' ``analyse``.
    """
    shapes = {"prediction": "n_tasks n_outputs", "sensitivity": "n_tasks n_outputs n_inputs"}
    check_shapes(
        **{
            f"{name}.{field}": (getattr(response, field), shape)
            for name, response in (("first", first), ("second", second))
            for field, shape in shapes.items()
        }
    )
    a, b = (response.sensitivity.reshape(len(response.sensitivity), -1) for response in (first, second))
    norms = (np.linalg.norm(a, axis=1) + 1e-8) * (np.linalg.norm(b, axis=1) + 1e-8)
    return Alignment(
        prediction_distance=float(np.linalg.norm(first.prediction - second.prediction, axis=1).mean()),
        cosine=float(((a * b).sum(axis=1) / norms).mean()),
        model_distance=float(np.linalg.norm(a - b, axis=1).mean()),
    )


# --- interpolation in weight space ---


def key_query_scale(weights: LinearAttentionWeights, n_inputs: int) -> Any:
    r"""$\beta=\frac1{N_x}\sum_{i\le N_x}A_{ii}$ of a layer with one head.

    Raises
    ------
    ValueError
        If the layer has more than one head, `n_inputs` is no part of its tokens, or $\beta=0$.

    Source: arXiv 2212.07677, Appendix A.3.
    """
    if len(weights.key) != 1:
        raise ValueError(f"weights: expected one head, got {len(weights.key)}")
    n_inputs = check_integer("n_inputs", n_inputs, 1, weights.key.shape[-1] - 1)
    scale = np.trace(weights.key_query[0, :n_inputs, :n_inputs]) / n_inputs
    if scale == 0:
        raise ValueError("weights: expected a key-query product with a non-zero mean diagonal, got 0")
    return scale


def from_products(key_query: Array, projection_value: Array) -> LinearAttentionWeights:
    r"""Weights of one head with these products: $W_K=P=I$, $W_Q=A$, $W_V=B$."""
    check_shapes(key_query=(key_query, "D D"), projection_value=(projection_value, "D D"))
    identity = np.eye(len(key_query), dtype=key_query.dtype)
    return LinearAttentionWeights(identity[None], key_query[None], projection_value[None], identity[None])


def rescale_weights(weights: LinearAttentionWeights, n_inputs: int) -> LinearAttentionWeights:
    r"""The same layer with products $A/\beta$ and $\beta B$; errors as for :func:`key_query_scale`."""
    scale = key_query_scale(weights, n_inputs)
    return from_products(weights.key_query[0] / scale, scale * weights.projection_value[0])


def interpolate_weights(
    trained: LinearAttentionWeights, constructed: LinearAttentionWeights, n_inputs: int
) -> LinearAttentionWeights:
    r"""Half way between two layers: the mean of their products, each first rescaled to $\beta=1$.

    Parameters
    ----------
    trained, constructed : LinearAttentionWeights with one head
    n_inputs : int from 1 to D - 1

    Raises
    ------
    ValueError
        If a layer has more than one head, sizes differ, or a $\beta$ is 0.

    Source: arXiv 2212.07677, Appendix A.3.
    """
    check_shapes(trained=(trained.key, "1 D D"), constructed=(constructed.key, "1 D D"))
    one, other = rescale_weights(trained, n_inputs), rescale_weights(constructed, n_inputs)
    return from_products(
        (one.key_query[0] + other.key_query[0]) / 2, (one.projection_value[0] + other.projection_value[0]) / 2
    )


# --- one layer, again and again ---


def dampened_roll_out(
    tokens: Array, weights: LinearAttentionWeights, n_context: int, n_outputs: int, n_steps: int, dampening: float
) -> Array:
    r"""Repeat one layer and update only the $y$ part of the tokens: $y\leftarrow y+\lambda(BCC^\top Ae)_y$.

    Parameters
    ----------
    tokens : array, shape (..., D, n_tokens)
    weights : LinearAttentionWeights
    n_context : int from 1 to n_tokens - 1
    n_outputs : int from 1 to D - 1
    n_steps : int >= 1
    dampening : float > 0
        $\lambda$; the paper takes 0.75. At 1 a task with $\eta\lambda_{\max}(XX^\top/N)>2$ diverges.

    Returns
    -------
    array, shape (n_steps, ..., n_outputs)
        The prediction after each step; infinities and NaN where a roll-out has diverged.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a number is out of range.

    Source: arXiv 2212.07677, Appendix A.6 and Figure 10.
    """
    check_weights(weights, tokens)
    n_context = check_integer("n_context", n_context, 1, tokens.shape[-1] - 1)
    n_outputs = check_integer("n_outputs", n_outputs, 1, tokens.shape[-2] - 1)
    n_steps = check_integer("n_steps", n_steps, 1)
    dampening = check_number("dampening", dampening, "(0, inf)")
    on_y = dampening * weights.projection_value
    on_y[:, :-n_outputs] = 0
    predictions = []
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(n_steps):
            tokens = attend(tokens, weights.key_query, on_y, n_context)
            predictions.append(-tokens[..., -n_outputs:, -1])
    return np.stack(predictions)
