r"""A small learner trained on in-context regression (Section 4.1): tokens, model, objective, training loop.

Tokens are rows here, as everywhere in :mod:`refimpl.primitives.transformer`: $[0,x_1],[y_1,0],[0,x_2],\dots$ The model
is a causal pre-norm transformer with learned positions, and is trained to predict $y_i$ at $x_i$ for every $i$ at once:

$$\arg\min_\theta\;\mathbb E\sum_i\big(y_i-T_\theta(x_1,y_1,\dots,x_i)\big)^2.$$
"""

from collections.abc import Callable
from itertools import chain, count
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.layers import Linear, linear_vjp
from refimpl.primitives.normalization import layer_norm_vjp
from refimpl.primitives.numbers import Array, common_dtype
from refimpl.primitives.optimizers import adam
from refimpl.primitives.schedules import cosine_decay
from refimpl.primitives.training import run, training_steps
from refimpl.primitives.transformer import (
    Block,
    Norm,
    initial_transformer,
    optional_norm,
    stack_blocks,
    transformer,
    transformer_vjp,
)

GELU = "gelu_tanh"  # the form that the paper displays, and its code has by default

# --- tasks ---


class Prompts(NamedTuple):
    """Linear regression problems, examples in rows."""

    weights: Array
    """Shape ``(n_tasks, d)``."""
    x: Array
    """Shape ``(n_tasks, n_points, d)``."""
    y: Array
    """Targets, noise included, shape ``(n_tasks, n_points)``."""


def sample_law(law: str, shape: tuple[int, ...], rng: np.random.Generator, dtype: Any = np.float64) -> Array:
    """Independent entries of a law such as ``"normal*2+0"`` or ``"uniform*1+0,normal*1+2.5"``.

    Parameters
    ----------
    law : ``kind*scale+shift`` with kind ``normal`` (standard) or ``uniform`` (from 0 to 1)
        Several, separated by commas, are a mixture: each entry draws one of them with equal chances.
    shape : tuple of ints
    rng : np.random.Generator
    dtype : float64 or float32

    Raises
    ------
    ValueError
        If the law is not of this form.

    Source: the authors' code, ``sampler_lib``.
    """
    kinds: dict[str, Callable[..., Array]] = {"normal": rng.standard_normal, "uniform": rng.random}
    parts = []
    for part in law.split(","):
        kind, _, rest = part.partition("*")
        scale, plus, shift = rest.partition("+")
        try:
            if kind not in kinds or not plus:
                raise ValueError
            parts.append(kinds[kind](shape, dtype=dtype) * float(scale) + float(shift))
        except ValueError:
            raise ValueError(f"law: expected parts such as 'normal*1+0' or 'uniform*2+1', got {part!r}") from None
    return parts[0] if len(parts) == 1 else np.choose(rng.integers(len(parts), size=shape), parts)


def sample_prompts(
    n_tasks: int,
    n_points: int,
    n_inputs: int,
    rng: np.random.Generator,
    prior_std: float = 1.0,
    noise_std: float = 0.0,
    input_law: str = "normal*1+0",
    dtype: Any = np.float64,
) -> Prompts:
    r"""Tasks $y=w^\top x+\sigma\epsilon$ with $w\sim N(0,\tau^2I)$; noise is in all targets, of later positions too.

    Parameters
    ----------
    n_tasks, n_points, n_inputs : int >= 1
    rng : np.random.Generator
    prior_std : float > 0
        $\tau$.
    noise_std : float >= 0
        $\sigma$.
    input_law : of each coordinate of x; see :func:`sample_law`
    dtype : float64 or float32

    Raises
    ------
    ValueError
        If a size or a deviation is out of range, or the law is unknown.

    Source: arXiv 2211.15661, Section 4.1, and the authors' code.
    """
    for name, size in (("n_tasks", n_tasks), ("n_points", n_points), ("n_inputs", n_inputs)):
        check_integer(name, size, 1)
    prior_std = float(check_number("prior_std", prior_std, "(0, inf)"))
    noise_std = float(check_number("noise_std", noise_std, "[0, inf)"))
    weights = prior_std * rng.standard_normal((n_tasks, n_inputs), dtype=dtype)
    x = sample_law(input_law, (n_tasks, n_points, n_inputs), rng, dtype)
    noise = noise_std * rng.standard_normal((n_tasks, n_points), dtype=dtype)
    return Prompts(weights, x, (x @ weights[..., None])[..., 0] + noise)


# --- the model ---


class Learner(NamedTuple):
    """``embedding`` (width, d + 1), ``positions`` (at least 2 n_points - 1, width), blocks, a last norm or None,
    ``read_out`` (1, width); a gradient has the same type."""

    embedding: Linear
    positions: Array
    blocks: list[Block]
    norm: Norm | None
    read_out: Linear


def initial_learner(
    n_points: int,
    n_inputs: int,
    n_blocks: int,
    width: int,
    n_heads: int,
    rng: np.random.Generator,
    dtype: Any = np.float32,
) -> Learner:
    """A learner with Gaussian weights of variance 1/fan-in and perceptrons of four times the width.

    Parameters
    ----------
    n_points, n_inputs, n_blocks, width, n_heads : int >= 1
        `n_heads` must divide `width`.
    rng : np.random.Generator
    dtype : floating dtype

    Raises
    ------
    ValueError
        If a size is below 1 or `n_heads` does not divide `width`.

    Source: arXiv 2211.15661, Section 4.1 (there 16 layers, width 512, 4 heads).
    """
    n_points = check_integer("n_points", n_points, 1)
    n_inputs = check_integer("n_inputs", n_inputs, 1)
    blocks = initial_transformer(n_blocks, width, n_heads, rng, 4 * width, dtype=dtype)

    def gaussian(*shape: int) -> Array:
        return (rng.standard_normal(shape) / shape[-1] ** 0.5).astype(dtype)

    return Learner(
        Linear(gaussian(width, n_inputs + 1), np.zeros(width, dtype)),
        (rng.standard_normal((2 * n_points - 1, width)) / 8).astype(dtype),
        blocks,
        Norm(np.ones(width, dtype), np.zeros(width, dtype)),
        Linear(gaussian(1, width), np.zeros(1, dtype)),
    )


def _check_learner(x: Array, y: Array, learner: Learner) -> None:
    sizes = check_shapes(
        x=(x, "... n_points d"),
        y=(y, "... n_points"),
        **{
            "learner.positions": (learner.positions, "n_tokens width"),
            "learner.read_out.weight": (learner.read_out.weight, "1 width"),
        },
    )
    if sizes["n_tokens"] < 2 * sizes["n_points"] - 1:
        raise ValueError(f"x: expected at most {(sizes['n_tokens'] + 1) // 2} examples, got {sizes['n_points']}")
    linear_vjp.check(np.zeros((1, sizes["d"] + 1), x.dtype), *learner.embedding)
    if learner.norm is not None:
        layer_norm_vjp.check(learner.positions, *learner.norm)
    transformer_vjp.check(learner.positions, learner.blocks)


@checked(_check_learner)
def learner_predictions(x: Array, y: Array, learner: Learner) -> Array:
    """The prediction at each x from the examples before it, the first from none.

    Parameters
    ----------
    x : array, shape (..., n_points, d)
    y : array, shape (..., n_points)
        The last target is not seen.
    learner : Learner

    Returns
    -------
    array, shape (..., n_points)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or there are more points than the learner has positions for.

    Source: arXiv 2211.15661, Section 4.1.
    """
    return learner_predictions_vjp.unchecked(x, y, learner)[0]


@checked(_check_learner)
def learner_predictions_vjp(
    x: Array, y: Array, learner: Learner
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Learner]]]:
    """:func:`learner_predictions` and its pullback ``cotangent -> (x, y, learner)``."""
    n_points = x.shape[-2]
    embedded, pull_embedding = linear_vjp.unchecked(_tokens(x, y), *learner.embedding)
    n_tokens = embedded.shape[-2]
    stream, pull_blocks = stack_blocks(
        embedded + learner.positions[:n_tokens], learner.blocks, activation=GELU, at=slice(None, None, 2)
    )
    normed, pull_norm = optional_norm(stream, learner.norm)
    read, pull_read = linear_vjp.unchecked(normed, *learner.read_out)

    def pullback(cotangent: Array) -> tuple[Array, Array, Learner]:
        to_normed, *to_read = pull_read(cotangent[..., None])
        to_stream, to_norm = pull_norm(to_normed)
        to_embedded, to_blocks = pull_blocks(to_stream)
        to_positions = np.zeros_like(learner.positions)
        to_positions[:n_tokens] = to_embedded.reshape(-1, *to_embedded.shape[-2:]).sum(axis=0)
        to_tokens, *to_embedding = pull_embedding(to_embedded)
        to_y = np.zeros(y.shape, dtype=to_tokens.dtype)
        to_y[..., : n_points - 1] = to_tokens[..., 1::2, 0]
        to_learner = Learner(Linear(*to_embedding), to_positions, list(to_blocks), to_norm, Linear(*to_read))
        return to_tokens[..., ::2, 1:], to_y, to_learner

    return read[..., 0], pullback


def learner_states(x: Array, y: Array, learner: Learner) -> list[Array]:
    """The hidden states after the embedding and after each block, columns as tokens: what a probe reads.

    Returns
    -------
    list of n_blocks + 1 arrays, shape (..., width, 2 n_points - 1)

    Parameters and errors as for :func:`learner_predictions`.
    """
    _check_learner(x, y, learner)
    embedded, _ = linear_vjp.unchecked(_tokens(x, y), *learner.embedding)
    states = [embedded + learner.positions[: embedded.shape[-2]]]
    for block in learner.blocks:
        states.append(transformer.unchecked(states[-1], [block], activation=GELU))
    return [np.swapaxes(state, -1, -2) for state in states]


def _tokens(x: Array, y: Array) -> Array:
    tokens = np.zeros((*x.shape[:-2], 2 * x.shape[-2] - 1, x.shape[-1] + 1), dtype=common_dtype(x, y))
    tokens[..., ::2, 1:] = x
    tokens[..., 1::2, 0] = y[..., :-1]
    return tokens


# --- training ---


@checked(_check_learner)
def learner_loss(x: Array, y: Array, learner: Learner) -> Array:
    r"""The mean of $(y_i-T_\theta(x_1,y_1,\dots,x_i))^2$ over tasks and positions.

    Parameters
    ----------
    x : array, shape (..., n_points, d)
    y : array, shape (..., n_points)
    learner : Learner

    Returns
    -------
    array, shape ()

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or there are more points than the learner has positions for.

    Source: arXiv 2211.15661, Section 4.1.
    """
    return learner_loss_vjp.unchecked(x, y, learner)[0]


@checked(_check_learner)
def learner_loss_vjp(
    x: Array, y: Array, learner: Learner
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Learner]]]:
    """:func:`learner_loss` and its pullback ``cotangent -> (x, y, learner)``."""
    prediction, pull = learner_predictions_vjp.unchecked(x, y, learner)
    error = prediction - y

    def pullback(cotangent: Array) -> tuple[Array, Array, Learner]:
        to_error = 2 * cotangent * error / error.size
        to_x, to_y, to_learner = pull(to_error)
        return to_x, to_y - to_error, to_learner

    return np.asanyarray((error * error).sum() / error.size), pullback


def train_learner(
    learner: Learner,
    sample: Callable[[np.random.Generator], Prompts],
    n_steps: int,
    rng: np.random.Generator,
    learning_rate: float = 1e-3,
) -> Learner:
    """Adam with cosine decay on fresh prompts at every step.

    Parameters
    ----------
    learner : Learner
    sample : callable
        Draws a batch of prompts in the learner's dtype.
    n_steps : int >= 1
    rng : np.random.Generator
    learning_rate : float > 0

    Raises
    ------
    ValueError
        If a number is out of range or the prompts do not fit the learner.

    Source: arXiv 2211.15661, Section 4.1.
    """
    check_integer("n_steps", n_steps, 1)
    first = sample(rng)
    _check_learner(first.x, first.y, learner)

    def loss_and_gradients(params: Learner, prompts: Prompts) -> tuple[Array, Learner]:
        # A run that diverges shows it; what it is given is checked once.
        loss, pullback = learner_loss_vjp.unchecked(prompts.x, prompts.y, params)
        return loss, pullback(np.ones((), prompts.x.dtype))[2]

    batches = chain([first], (sample(rng) for _ in count()))
    steps = training_steps(
        learner, loss_and_gradients, lambda: next(batches), adam(cosine_decay(learning_rate, n_steps))
    )
    return run(steps, n_steps)[0]
