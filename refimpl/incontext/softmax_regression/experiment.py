r"""The experiment: a trained softmax self-attention layer beside one step of gradient descent.

Both models predict $f(A,\hat x)$ with weights that are linear in the target. One step of gradient descent from $x=0$
gives $\hat x=\frac\eta nA^\top(b-\frac1n\mathbf 1)$, the attention model $\hat x=WA^\top b$ with a trained
$W\in\mathbb R^{d\times d}$. The law of the tasks does not change when $A$ is rotated, so the population loss of $W$ is
that of $QWQ^\top$ for every orthogonal $Q$, and $W$ comes near a multiple of the identity. Even there the model lacks
the $-\frac1n\mathbf 1$ of gradient descent: the cosine of their sensitivities is
$\lVert A-\mathbf 1\bar a^\top\rVert_F/\lVert A\rVert_F\approx\sqrt{1-1/n}$, with $\bar a$ the mean row.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.softmax_regression.derivatives import loss_gradient
from refimpl.incontext.softmax_regression.problem import (
    check_rows,
    combine_rows,
    logits,
    outer,
    softmax_prediction,
    softmax_prediction_vjp,
)
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.normalization import softmax_vjp
from refimpl.primitives.numbers import Array, row_dot, transpose
from refimpl.primitives.optimizers import adam
from refimpl.primitives.schedules import piecewise_constant
from refimpl.primitives.similarity import cosine_similarity
from refimpl.primitives.training import run, training_steps
from refimpl.tasks.softmax_regression import SoftmaxTasks, check_softmax_tasks, sample_softmax_tasks

# --- the two models ---


def _check_model(data: Array, target: Array, matrix: Array) -> None:
    check_rows(data=(data, "... n d"), target=(target, "... n"), matrix=(matrix, "d d"))


@checked(_check_model)
def attention_model(data: Array, target: Array, matrix: Array) -> Array:
    r"""$f(A,WA^\top b)$, what a softmax self-attention layer that reads $A$ and $b$ predicts.

    Parameters
    ----------
    data : array, shape (..., n, d)
        $A$.
    target : array, shape (..., n)
        $b$.
    matrix : array, shape (d, d)
        $W$.

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If shapes do not fit, n < 2 or an entry is not finite.

    Source: arXiv 2304.13276, the experiments (the layer in the form that reads a target).
    """
    return softmax_prediction.unchecked(data, combine_rows(target, data) @ transpose(matrix))


@checked(_check_model)
def attention_model_vjp(
    data: Array, target: Array, matrix: Array
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    r""":func:`attention_model` and its pullback ``cotangent -> (data, target, matrix)``.

    With $\bar x$ the cotangent of $\hat x$ that of $W$ is $\sum\bar x(A^\top b)^\top$.
    """
    read = combine_rows(target, data)
    prediction, pull = softmax_prediction_vjp.unchecked(data, read @ transpose(matrix))

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        to_data, to_weights = pull(cotangent)
        to_read = to_weights @ matrix
        d = matrix.shape[-1]
        to_matrix = transpose(to_weights.reshape(-1, d)) @ read.reshape(-1, d)
        return to_data + outer(target, to_read), logits(data, to_read), to_matrix

    return prediction, pullback


def _check_descent_model(data: Array, target: Array, learning_rate: Any) -> None:
    check_rows(data=(data, "... n d"), target=(target, "... n"))
    check_number("learning_rate", learning_rate, "(0, inf)")


@checked(_check_descent_model)
def one_step_model(data: Array, target: Array, learning_rate: Any) -> Array:
    r"""$f(A,-\eta\nabla L(0))$, the prediction after one step of gradient descent from zero weights.

    Parameters
    ----------
    data : array, shape (..., n, d)
    target : array, shape (..., n)
    learning_rate : number > 0

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If shapes do not fit, n < 2, an entry is not finite or the rate is not positive.

    Source: arXiv 2304.13276, the experiments.
    """
    start = np.zeros_like(data[..., 0, :])
    rate = check_number("learning_rate", learning_rate, "(0, inf)")
    return softmax_prediction.unchecked(data, -rate * loss_gradient.unchecked(data, start, target))


def attention_sensitivity(data: Array, matrix: Array) -> Array:
    r"""$\partial\hat x/\partial b=WA^\top$ of the attention model, shape (..., d, n)."""
    check_shapes(data=(data, "... n d"), matrix=(matrix, "d d"))
    return np.asanyarray(matrix @ transpose(data))


def one_step_sensitivity(data: Array, learning_rate: Any) -> Array:
    r"""$\partial\hat x/\partial b=\frac\eta nA^\top(I-\frac1n\mathbf 1\mathbf 1^\top)$ of one step, (..., d, n)."""
    n = check_shapes(data=(data, "... n d"))["n"]
    rate = check_number("learning_rate", learning_rate, "(0, inf)")
    centred = data - data.sum(axis=-2, keepdims=True) / n
    return np.asanyarray(transpose(centred) * rate / n)


def grid_search_learning_rate(tasks: SoftmaxTasks, grid: Sequence[float] | Array) -> float:
    r"""The rate of the grid at which one step from zero has the least mean loss.

    Raises
    ------
    ValueError
        If the tasks do not fit, the grid is empty or a rate is not positive.
    """
    check_softmax_tasks(tasks)
    rates = [check_number("grid", rate, "(0, inf)") for rate in grid]
    if not rates:
        raise ValueError("grid: expected at least one rate, got none")
    return min(rates, key=lambda rate: mean_loss(one_step_model.unchecked(*tasks, rate), tasks.target))


# --- training ---


class AttentionTraining(NamedTuple):
    """How the attention model is trained: Adam from $W=0$, fresh tasks at each step."""

    n_steps: int = 1200
    batch_size: int = 16
    learning_rate: float = 0.1
    decayed_rate: float = 0.003
    """From a quarter of the steps on: at a constant rate the noise of the gradient stays in $W$."""


TRAINING = AttentionTraining()


def loss_and_gradient(matrix: Array, tasks: SoftmaxTasks) -> tuple[float, Array]:
    r"""The mean of $\frac12\lVert f-b\rVert^2$ over the tasks, and its gradient in $W$; arguments unchecked.

    Of :func:`attention_model_vjp` only what leads to $W$, on tasks with one leading axis.
    """
    data, target = tasks
    read = combine_rows(target, data)
    prediction, pull = softmax_vjp.unchecked(logits(data, read @ transpose(matrix)))
    (to_logits,) = pull(prediction - target)
    return mean_loss(prediction, target), transpose(combine_rows(to_logits, data)) @ read / len(data)


def attention_training(
    n: int,
    d: int,
    rng: np.random.Generator,
    settings: AttentionTraining = TRAINING,
    sample: Callable[[], SoftmaxTasks] | None = None,
) -> Iterator[tuple[float, Array]]:
    """The training of the attention model, step after step: the loss before the step, and $W$ after it.

    Parameters
    ----------
    n : int >= 2
    d : int >= 1
    rng : numpy.random.Generator
    settings : AttentionTraining
    sample : function of no arguments, optional
        Returns the batch of a step; by default :func:`sample_softmax_tasks` at these sizes.

    Raises
    ------
    ValueError
        If a size or a setting is out of range.

    Source: arXiv 2304.13276, the experiments.
    """
    n, d = check_integer("n", n, 2), check_integer("d", d, 1)
    n_steps = check_integer("n_steps", settings.n_steps, 4)
    batch_size = check_integer("batch_size", settings.batch_size, 1)
    rate, decayed = (
        check_number(name, getattr(settings, name), "(0, inf)") for name in ("learning_rate", "decayed_rate")
    )
    schedule = piecewise_constant(rate, {n_steps // 4: decayed / rate})

    def fresh() -> SoftmaxTasks:
        return sample_softmax_tasks(batch_size, n, d, rng)

    return training_steps(np.zeros((d, d)), loss_and_gradient, sample or fresh, adam(schedule))


def train_attention_model(
    n: int,
    d: int,
    rng: np.random.Generator,
    settings: AttentionTraining = TRAINING,
    sample: Callable[[], SoftmaxTasks] | None = None,
) -> tuple[Array, Array]:
    """$W$ after all steps of :func:`attention_training`, and the loss before each; same parameters and errors."""
    return run(attention_training(n, d, rng, settings, sample), settings.n_steps)


# --- comparison ---


class ModelComparison(NamedTuple):
    """The two models on the same tasks, each number a mean over them."""

    uniform_loss: float
    """Of the prediction 1/n."""
    descent_loss: float
    attention_loss: float
    prediction_distance: float
    r"""$\lVert\hat p_{GD}-\hat p_{SA}\rVert$."""
    prediction_scale: float
    r"""$\lVert\hat p_{GD}-\frac1n\mathbf 1\rVert$: how far one step moves the prediction."""
    cosine: float
    r"""Of the sensitivities $\partial\hat x/\partial b$."""
    model_distance: float
    """Between the sensitivities, in Frobenius norm."""
    cosine_ceiling: float
    r"""$\lVert A-\mathbf 1\bar a^\top\rVert_F/\lVert A\rVert_F$, the cosine at every multiple of the identity."""


def mean_loss(prediction: Array, target: Array) -> float:
    r"""The mean over tasks of $\frac12\lVert f-b\rVert^2$; arguments unchecked."""
    c = prediction - target
    return float(np.mean(row_dot(c, c)) / 2)


def compare_models(matrix: Array, learning_rate: float, tasks: SoftmaxTasks) -> ModelComparison:
    r"""The attention model with $W$ beside one step of gradient descent, by the metrics of the paper.

    Parameters
    ----------
    matrix : array, shape (d, d), not 0
        $W$.
    learning_rate : float > 0
    tasks : SoftmaxTasks

    Returns
    -------
    ModelComparison

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, the rate is not positive or a sensitivity is 0.

    Source: arXiv 2304.13276, the experiments (prediction difference, model difference, cosine).
    """
    sizes = check_softmax_tasks(tasks)
    attention, descent = attention_model(*tasks, matrix), one_step_model(*tasks, learning_rate)
    uniform = np.full_like(descent, 1 / sizes["n"])
    of_attention, of_descent = (
        sensitivity.reshape(sizes["n_tasks"], -1)
        for sensitivity in (attention_sensitivity(tasks.data, matrix), one_step_sensitivity(tasks.data, learning_rate))
    )
    centred = tasks.data - tasks.data.mean(axis=-2, keepdims=True)
    norms = [np.linalg.norm(rows, axis=(-2, -1)) for rows in (centred, tasks.data)]
    return ModelComparison(
        uniform_loss=mean_loss(uniform, tasks.target),
        descent_loss=mean_loss(descent, tasks.target),
        attention_loss=mean_loss(attention, tasks.target),
        prediction_distance=float(np.linalg.norm(descent - attention, axis=-1).mean()),
        prediction_scale=float(np.linalg.norm(descent - uniform, axis=-1).mean()),
        cosine=float(cosine_similarity(of_descent, of_attention).mean()),
        model_distance=float(np.linalg.norm(of_descent - of_attention, axis=-1).mean()),
        cosine_ceiling=float((norms[0] / norms[1]).mean()),
    )
