r"""Non-linear regression: a learned representation below, one gradient step above (Section 3, Figure 4, A.7).

A token $(x,y)$ is embedded linearly in $D$ dimensions, a residual MLP acts on every token, and one linear
self-attention layer follows. The last entry of an embedded token is its target, the others are its features. As a
control the layer is held at the gradient-descent construction, of which only the learning rate is trained.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.linear_attention.training import (
    Prompts,
    check_targets,
    half_mean_square,
    initial_weights,
    read_query,
)
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.layers import Linear, linear_vjp, mlp_vjp
from refimpl.primitives.linear_self_attention import LinearAttentionWeights, gradient_descent_weights
from refimpl.primitives.numbers import Array


def sample_sine_prompts(
    n_tasks: int, n_context: int, amplitudes: tuple[float, float], rng: np.random.Generator, dtype: Any = np.float64
) -> Prompts:
    r"""Prompts of $y=\alpha\sin(x+\rho)$ with $x\sim\mathcal U(-5,5)$ and $\rho\sim\mathcal U(0,\pi)$, tasks last.

    Parameters
    ----------
    n_tasks, n_context : int >= 1
    amplitudes : pair of floats, the first below the second, both > 0
        $\alpha$ is uniform between them: 0.1 and 5 in the paper's text, 0.1 and 0.5 in the authors' code. (There
        amplitude and phase come from one random key, and so determine each other; here they are independent.)
    rng : numpy.random.Generator
    dtype : float64 or float32

    Returns
    -------
    Prompts with tokens $[x;y]$, the query's $[x_q;0]$

    Raises
    ------
    ValueError
        If a size is below 1 or the amplitudes are no such pair.

    Source: arXiv 2212.07677, Appendix A.7.
    """
    shape = (check_integer("n_context", n_context, 1) + 1, check_integer("n_tasks", n_tasks, 1))
    low = check_number("amplitudes[0]", amplitudes[0], "(0, inf)")
    high = check_number("amplitudes[1]", amplitudes[1], f"({low}, inf)")
    x = rng.uniform(-5, 5, shape)
    y = rng.uniform(low, high, n_tasks) * np.sin(x + rng.uniform(0, np.pi, n_tasks))
    tokens = np.stack([x, y], axis=1).astype(dtype)
    targets = tokens[-1, 1:].copy()
    tokens[-1, 1] = 0
    return Prompts(tokens, targets)


class SineNetwork(NamedTuple):
    """Embedding, residual MLP and attention layer."""

    embedding: Linear
    """Shape ``(D, 2)``, no bias in the paper."""
    mlp: list[Linear]
    """Back to D, with GELU between."""
    attention: LinearAttentionWeights


class SineControl(NamedTuple):
    """The same network with its attention held at gradient descent."""

    embedding: Linear
    mlp: list[Linear]
    learning_rate: Array
    """Shape ``()``."""


def initial_sine_network(
    width: int, hidden: int, rng: np.random.Generator, standard_deviations: tuple[float, float], dtype: Any = np.float32
) -> SineNetwork:
    """A network of token size `width` and `hidden` units before training, its biases zero.

    `standard_deviations` are those of the attention weights and, times the root of the fan-in, of all others.
    """
    on_attention, on_rest = standard_deviations

    def layer(n_outputs: int, n_inputs: int) -> Array:
        return (rng.standard_normal((n_outputs, n_inputs)) * (on_rest / np.sqrt(n_inputs))).astype(dtype)

    return SineNetwork(
        Linear(layer(width, 2)),
        [
            Linear(layer(hidden, width), np.zeros(hidden, dtype)),
            Linear(layer(width, hidden), np.zeros(width, dtype)),
        ],
        initial_weights(width, 1, on_attention, rng, dtype),
    )


def _check_sine(tokens: Array, network: SineNetwork) -> None:
    shapes: dict[str, Any] = {"tokens": (tokens, "n_tokens 2 n_tasks")}
    shapes |= {"network.embedding.weight": (network.embedding.weight, "D 2")}
    if len(network.mlp) != 2:
        raise ValueError(f"network.mlp: expected two affine maps, got {len(network.mlp)}")
    for index, (layer, shape) in enumerate(zip(network.mlp, ("hidden D", "D hidden"), strict=True)):
        shapes[f"network.mlp[{index}].weight"] = (layer.weight, shape)
        shapes[f"network.mlp[{index}].bias"] = (layer.bias, shape.split()[0])
    for name, matrix in network.attention._asdict().items():
        shapes[f"network.attention.{name}"] = (matrix, "n_heads D D")
    sizes = check_shapes(**shapes)
    if sizes["n_tokens"] < 2:
        raise ValueError(f"tokens: expected a context token and the query, got {sizes['n_tokens']} token")


@checked(_check_sine)
def sine_predict(tokens: Array, network: SineNetwork) -> Array:
    """The prediction for the last token of each prompt.

    Parameters
    ----------
    tokens : array, shape (n_tokens, 2, n_tasks)
        Of $(x, y)$; the query's $y$ is 0.
    network : SineNetwork

    Returns
    -------
    array, shape (1, n_tasks)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2212.07677, Appendix A.7; the authors' GELU is the approximation by tanh.
    """
    return _sine_predict(tokens, network)[0]


def _check_sine_loss(network: SineNetwork, prompts: Prompts) -> None:
    check_targets(prompts)
    _check_sine(prompts.tokens, network)


@checked(_check_sine_loss)
def sine_loss_and_gradients(network: SineNetwork, prompts: Prompts) -> tuple[Any, SineNetwork]:
    """Half the mean squared error, and its gradient; errors as for :func:`sine_predict`."""
    prediction, pullback = _sine_predict(prompts.tokens, network)
    loss, residual = half_mean_square(prediction, prompts.targets)
    return loss, pullback(residual)[1]


def _check_control_loss(control: SineControl, prompts: Prompts) -> None:
    check_shapes(learning_rate=(control.learning_rate, ""))
    check_targets(prompts)
    _check_sine(prompts.tokens, constructed_network(control, max(1, len(prompts.tokens) - 1)))


@checked(_check_control_loss)
def control_loss_and_gradients(control: SineControl, prompts: Prompts) -> tuple[Any, SineControl]:
    """The same for the control: of the layer only the learning rate has a gradient; same errors."""
    n_context = len(prompts.tokens) - 1
    loss, gradient = sine_loss_and_gradients.unchecked(constructed_network(control, n_context), prompts)
    # The learning rate enters as P = (rate / N) I.
    to_rate = np.trace(gradient.attention.projection[0]) / n_context
    return loss, SineControl(gradient.embedding, gradient.mlp, np.asanyarray(to_rate))


def constructed_network(control: SineControl, n_context: int) -> SineNetwork:
    """The control as a network: its attention layer does one step of gradient descent on the features."""
    width = len(control.embedding.weight)
    attention = gradient_descent_weights(width - 1, 1, 1.0, n_context)
    attention = attention._replace(projection=attention.projection * control.learning_rate)
    dtype = control.embedding.weight.dtype
    return SineNetwork(
        control.embedding, control.mlp, LinearAttentionWeights(*(matrix.astype(dtype) for matrix in attention))
    )


def _sine_predict(tokens: Array, network: SineNetwork) -> tuple[Array, Callable[[Array], tuple[Array, SineNetwork]]]:
    embedded, pull_embedding = linear_vjp.unchecked(tokens.swapaxes(-1, -2), *network.embedding)
    lift, pull_mlp = mlp_vjp.unchecked(embedded, network.mlp, "gelu_tanh")
    features = np.ascontiguousarray((embedded + lift).swapaxes(-1, -2))
    prediction, backward = read_query(features, network.attention, 1)

    def pullback(cotangent: Array) -> tuple[Array, SineNetwork]:
        to_features, to_attention = backward(cotangent, True)
        to_rows = np.ascontiguousarray(to_features.swapaxes(-1, -2))
        to_embedded, to_mlp = pull_mlp(to_rows)
        to_tokens, *to_embedding = pull_embedding(to_embedded + to_rows)
        return to_tokens.swapaxes(-1, -2), SineNetwork(Linear(*to_embedding), list(to_mlp), to_attention)

    return prediction, pullback
