r"""A small trained counterpart of the paper's transformers: linear attention with a weight matrix of its own per layer.

The paper trains twelve layers of GPT-2; here a few layers of linear attention normalised by the number of examples,
$e\leftarrow e+\frac1tBC_tC_t^\top Ae$, are trained in minutes on random prefixes of prompts, by hand-written gradients,
and read layer by layer as the paper does: a linear read-out is fitted to each layer's hidden state of the query.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.least_squares import ols_weights
from refimpl.primitives.linear_self_attention import attend, attend_vjp
from refimpl.primitives.numbers import Array
from refimpl.primitives.optimizers import adam, chain, clip_by_global_norm
from refimpl.primitives.schedules import cosine_decay
from refimpl.primitives.training import run, training_steps
from refimpl.tasks.linear_regression import ScalarTasks, sample_gaussian_tasks


class LinearLayer(NamedTuple):
    """The two products of a linear attention layer, each (n_heads, d + 1, d + 1); a gradient has the same type."""

    key_query: Array
    projection_value: Array


class Training(NamedTuple):
    """A training run; the defaults take two minutes on one core."""

    n_inputs: int = 5
    n_context: int = 15
    n_layers: int = 6
    n_steps: int = 15_000
    batch_size: int = 256
    learning_rate: float = 3e-3
    """Adam's, with cosine decay to a fiftieth."""
    token_clip: float = 10.0
    """Of the entries of all tokens after every layer: prompts of few examples are badly scaled."""
    standard_deviation: float = 0.02
    """Of the initial weights."""


# --- the model ---


def prefix_tokens(x: Array, y: Array, x_query: Array, n_examples: Any) -> Array:
    r"""Tokens $[x_j;y_j]/\sqrt t$ of the first $t$ examples, zeros for the others, and the query $[x_{t+1};0]$.

    A layer is linear in each context token, given the Gram matrix of all: so dividing the tokens once by $\sqrt t$
    divides the attention of every layer by $t$, and a token of zeros stays zero and is not seen.

    Parameters
    ----------
    x : array, shape (n_tasks, n, d)
    y : array, shape (n_tasks, n)
    x_query : array, shape (n_tasks, d)
    n_examples : int, or array of ints, shape (n_tasks,)
        $t$.

    Returns
    -------
    array, shape (n_tasks, d + 1, n + 1)
    """
    n_tasks, n, d = x.shape
    n_examples = np.broadcast_to(n_examples, n_tasks)[:, None]
    factor = np.where(np.arange(n) < n_examples, 1 / np.sqrt(n_examples), 0).astype(x.dtype)
    tokens = np.zeros((n_tasks, d + 1, n + 1), dtype=x.dtype)
    tokens[:, :d, :n] = np.swapaxes(x, 1, 2) * factor[:, None]
    tokens[:, d, :n] = y * factor
    tokens[:, :d, n] = x_query
    return tokens


def loss_and_gradients(
    layers: Sequence[LinearLayer], tokens: Array, targets: Array, clip: float
) -> tuple[Any, list[LinearLayer]]:
    r"""The mean of $(\hat y-y)^2$, where $-\hat y$ is the query's last entry, and its gradient in every layer.

    A clipped entry passes no gradient; arguments unchecked.
    """
    pulls = []
    for layer in layers:
        tokens, pull = attend_vjp(tokens, *layer, tokens.shape[-1] - 1)
        pulls.append((pull, np.abs(tokens) < clip))
        tokens = np.clip(tokens, -clip, clip)
    residual = -tokens[:, -1, -1] - targets
    cotangent = np.zeros_like(tokens)
    cotangent[:, -1, -1] = -2 * residual / len(residual)
    gradients = []
    for pull, inside in reversed(pulls):
        cotangent, *products = pull(cotangent * inside)
        gradients.append(LinearLayer(*products))
    return np.mean(residual**2), gradients[::-1]


def train(settings: Training, rng: np.random.Generator) -> tuple[list[LinearLayer], Array]:
    r"""Train in float32 on fresh noiseless tasks, $x,w\sim N(0,I)$, each cut to a random number of examples.

    Parameters
    ----------
    settings : Training
    rng : numpy.random.Generator

    Returns
    -------
    layers : list of LinearLayer
    losses : array, shape (n_steps,)
        Of each step's batch, before the step.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Source: arXiv 2310.17086, Section 4 and Appendix A.1 (there GPT-2 at $d=20$, with a curriculum).
    """
    n_layers, n_steps = (check_integer(name, getattr(settings, name), 1) for name in ("n_layers", "n_steps"))
    deviation = check_number("standard_deviation", settings.standard_deviation, "(0, inf)")
    clip = check_number("token_clip", settings.token_clip, "(0, inf)")
    size = (1, settings.n_inputs + 1, settings.n_inputs + 1)

    def gaussian() -> Array:
        return (deviation * rng.standard_normal(size)).astype(np.float32)

    def batch() -> tuple[Array, Array]:
        tasks = sample_gaussian_tasks(
            settings.batch_size, settings.n_inputs, settings.n_context, 0.0, rng, dtype=np.float32
        )
        n_examples = rng.integers(1, settings.n_context + 1, size=settings.batch_size)
        return prefix_tokens(tasks.x, tasks.y, tasks.x_query, n_examples), tasks.y_query

    def step(layers: list[LinearLayer], prompts: tuple[Array, Array]) -> tuple[Any, list[LinearLayer]]:
        return loss_and_gradients(layers, *prompts, clip)

    layers = [LinearLayer(gaussian(), gaussian()) for _ in range(n_layers)]
    optimizer = chain(clip_by_global_norm(1.0), adam(cosine_decay(settings.learning_rate, n_steps, 1 / 50)))
    return run(training_steps(layers, step, batch, optimizer), n_steps)


# --- reading it layer by layer ---


def query_states(layers: Sequence[LinearLayer], tasks: ScalarTasks, clip: float) -> Array:
    """The hidden state of $x_{t+1}$ after every layer and every number $t=1..n$ of examples.

    Returns
    -------
    array, shape (n_layers, n_tasks, n, d + 1)
    """
    n_tasks, n, d = tasks.x.shape
    following = np.concatenate([tasks.x[:, 1:], tasks.x_query[:, None]], axis=1)
    states = np.empty((len(layers), n_tasks, n, d + 1))
    for t in range(1, n + 1):
        tokens = prefix_tokens(tasks.x[:, :t], tasks.y[:, :t], following[:, t - 1], t)
        for index, layer in enumerate(layers):
            tokens = np.clip(attend(tokens, *layer, t), -clip, clip)
            states[index, :, t - 1] = tokens[..., -1]
    return states


def layer_predictions(layers: Sequence[LinearLayer], fitted_on: ScalarTasks, tasks: ScalarTasks, clip: float) -> Array:
    r"""What each layer predicts of $y_{t+1}$: a linear read-out of its states, fitted by least squares on other tasks.

    Parameters
    ----------
    layers : list of LinearLayer
    fitted_on, tasks : ScalarTasks
    clip : number > 0
        That of the training.

    Returns
    -------
    array, shape (n_layers, n_tasks, n)

    Source: arXiv 2310.17086, Section 4.1 and Appendix A.2 (a re-fitted read-out for each layer).
    """
    states = query_states(layers, fitted_on, clip)
    targets = np.concatenate([fitted_on.y[:, 1:], fitted_on.y_query[:, None]], axis=1).reshape(-1)
    rows = states.reshape(len(layers), targets.size, -1)
    read_out = ols_weights(rows, np.broadcast_to(targets, rows.shape[:-1]))
    return np.asanyarray(np.einsum("lbtd,ld->lbt", query_states(layers, tasks, clip), read_out))
