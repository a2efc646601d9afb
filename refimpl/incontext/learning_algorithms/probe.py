r"""What a layer knows: a probe that attends to positions and then reads a target (Section 5).

$$\alpha=\operatorname{softmax}(s_v),\qquad\hat v=\mathrm{FF}_v\Big(\sum_t\alpha_tW_vh_t\Big)$$

with scores $s_v$ that are learned, not functions of the data; one probe for each target, layer and length of prefix.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_shapes, checked
from refimpl.primitives.layers import Linear, mlp, mlp_vjp
from refimpl.primitives.least_squares import ols_weights
from refimpl.primitives.normalization import softmax, softmax_vjp
from refimpl.primitives.numbers import Array, common_dtype
from refimpl.primitives.optimizers import adam
from refimpl.primitives.schedules import cosine_decay
from refimpl.primitives.training import run, training_steps


class PositionAttentionProbe(NamedTuple):
    r"""``scores`` (n_columns,), ``value`` $W_v$ (n_values, n_rows) and ``layers``, one ``Linear`` for a linear probe or
    two with GeLU between them."""

    scores: Array
    value: Array
    layers: list[Linear]


def _check_probe(hidden: Array, params: PositionAttentionProbe) -> None:
    shapes = {"scores": (params.scores, "n_columns"), "value": (params.value, "n_values n_rows")}
    check_shapes(hidden=(hidden, "... n_rows n_columns"), **{f"params.{name}": one for name, one in shapes.items()})
    mlp.check(params.value[:, 0], params.layers, "gelu")


@checked(_check_probe)
def position_attention_probe(hidden: Array, params: PositionAttentionProbe) -> Array:
    """What the probe reads from each hidden state.

    Parameters
    ----------
    hidden : array, shape (..., n_rows, n_columns)
    params : PositionAttentionProbe

    Returns
    -------
    array, shape (..., n_target)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2211.15661, Section 5.
    """
    attended = hidden @ softmax.unchecked(params.scores)
    return mlp.unchecked(attended @ params.value.T, params.layers, "gelu")


@checked(_check_probe)
def position_attention_probe_vjp(
    hidden: Array, params: PositionAttentionProbe
) -> tuple[Array, Callable[[Array], tuple[Array, PositionAttentionProbe]]]:
    """:func:`position_attention_probe` and its pullback ``cotangent -> (hidden, params)``."""
    weights, pull_weights = softmax_vjp.unchecked(params.scores)
    attended = hidden @ weights
    output, pull_layers = mlp_vjp.unchecked(attended @ params.value.T, params.layers, "gelu")

    def pullback(cotangent: Array) -> tuple[Array, PositionAttentionProbe]:
        to_read, to_layers = pull_layers(cotangent)
        rows = attended.reshape(-1, attended.shape[-1])
        to_value = to_read.reshape(-1, to_read.shape[-1]).T @ rows
        to_attended = to_read @ params.value
        to_weights = (to_attended[..., None] * hidden).sum(axis=tuple(range(hidden.ndim - 1)))
        to_hidden = to_attended[..., None] * weights
        return to_hidden, PositionAttentionProbe(*pull_weights(to_weights), to_value, list(to_layers))

    return output, pullback


def initial_probe(
    n_columns: int,
    n_rows: int,
    n_target: int,
    rng: np.random.Generator,
    n_hidden: int | None = None,
    dtype: Any = np.float64,
) -> PositionAttentionProbe:
    """A probe that attends to all positions alike, with Gaussian matrices of variance 1/fan-in.

    Parameters
    ----------
    n_columns, n_rows, n_target : int >= 1
    rng : np.random.Generator
    n_hidden : int >= 1, or None
        Width of the perceptron, and of what it is given; None for a linear probe.
    dtype : floating dtype

    Raises
    ------
    ValueError
        If a size is below 1.
    """
    sizes = {"n_columns": n_columns, "n_rows": n_rows, "n_target": n_target}
    n_columns, n_rows, n_target = (check_integer(name, size, 1) for name, size in sizes.items())
    # A perceptron of n_target values would be blind to all other directions of the hidden state.
    n_values = n_target if n_hidden is None else check_integer("n_hidden", n_hidden, 1)
    widths = [n_target, n_target] if n_hidden is None else [n_values, n_values, n_target]

    def gaussian(n_outputs: int, n_inputs: int) -> Array:
        return (rng.standard_normal((n_outputs, n_inputs)) / n_inputs**0.5).astype(dtype)

    layers = [
        Linear(gaussian(n_outputs, n_inputs), np.zeros(n_outputs, dtype)) for n_inputs, n_outputs in pairwise(widths)
    ]
    return PositionAttentionProbe(np.zeros(n_columns, dtype), gaussian(n_values, n_rows), layers)


def train_probe(
    probe: PositionAttentionProbe,
    hidden: Array,
    target: Array,
    n_steps: int,
    rng: np.random.Generator,
    learning_rate: float = 3e-3,
    batch_size: int = 128,
) -> PositionAttentionProbe:
    r"""Adam with cosine decay on the mean of $\lVert\hat v-v\rVert^2$ over tasks drawn anew at every step.

    Parameters
    ----------
    probe : PositionAttentionProbe
    hidden : array, shape (n_tasks, n_rows, n_columns)
    target : array, shape (n_tasks, n_target)
    n_steps : int >= 1
    rng : np.random.Generator
    learning_rate : float > 0
    batch_size : int >= 1

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a number is out of range.

    Source: arXiv 2211.15661, Section 5.
    """
    _check_probe(hidden, probe)
    sizes = check_shapes(hidden=(hidden, "n_tasks n_rows n_columns"), target=(target, "n_tasks n_target"))
    check_shapes(
        **{
            "target": (target, "n_tasks n_target"),
            "probe.layers[-1].weight": (probe.layers[-1].weight, "n_target n_units"),
        }
    )
    n_steps = check_integer("n_steps", n_steps, 1)
    batch_size = check_integer("batch_size", batch_size, 1)

    def loss_and_gradients(params: PositionAttentionProbe, tasks: Array) -> tuple[Array, PositionAttentionProbe]:
        output, pullback = position_attention_probe_vjp.unchecked(hidden[tasks], params)
        error = output - target[tasks]
        return (error * error).sum() / batch_size, pullback(2 * error / batch_size)[1]

    steps = training_steps(
        probe,
        loss_and_gradients,
        lambda: rng.integers(sizes["n_tasks"], size=batch_size),
        adam(cosine_decay(learning_rate, n_steps)),
    )
    return run(steps, n_steps)[0]


def fit_linear_probe(hidden: Array, target: Array, column: int) -> PositionAttentionProbe:
    """The linear probe of one column with the least squared error on these tasks (LAPACK: floats only).

    Rows of very different size are brought to one scale first. The scores are as one-hot as the softmax has it.

    Parameters
    ----------
    hidden : array, shape (n_tasks, n_rows, n_columns)
    target : array, shape (n_tasks, n_target)
    column : int from 0 to n_columns - 1

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the column is out of range.
    """
    sizes = check_shapes(hidden=(hidden, "n_tasks n_rows n_columns"), target=(target, "n_tasks n_target"))
    column = check_integer("column", column, 0, sizes["n_columns"] - 1)
    dtype = common_dtype(hidden, target)
    features = hidden[..., column]
    size = np.max(np.abs(features), axis=0)
    size = np.where(size > 0, size, 1)
    with_one = np.concatenate([features / size, np.ones((sizes["n_tasks"], 1), dtype)], axis=1)
    # Rows that repeat others or are constant leave many fits: the one of least norm.
    weights = np.linalg.lstsq(with_one, target.astype(dtype))[0].T
    scores = np.zeros(sizes["n_columns"], dtype)
    scores[column] = 800
    identity = np.eye(sizes["n_target"], dtype=dtype)
    return PositionAttentionProbe(scores, weights[:, :-1] / size, [Linear(identity, weights[:, -1].copy())])


def prefix_targets(x: Array, y: Array) -> tuple[Array, Array]:
    r"""What the probes are asked for, for every length of prefix: $X_{:n}^\top y_{:n}$ and least-squares weights.

    Parameters
    ----------
    x : array, shape (..., n, d)
    y : array, shape (..., n)

    Returns
    -------
    moments, weights : array, shape (..., n, d)
        Row i is of the first i + 1 examples.

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2211.15661, Section 5.
    """
    sizes = check_shapes(x=(x, "... n d"), y=(y, "... n"))
    moments = np.cumsum(x * y[..., None], axis=-2)
    weights = [ols_weights(x[..., :i, :], y[..., :i]) for i in range(1, sizes["n"] + 1)]
    return moments, np.stack(weights, axis=-2)
