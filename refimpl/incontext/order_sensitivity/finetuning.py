r"""Gradient descent on the demonstrations, visited in their order (Section 4), and what of it depends on that order.

The loss is the cross-entropy of the label tokens alone. Demonstrations are not shuffled again between epochs, and there
are none in the prompt at test time. The learner is softmax regression, $p(v\mid x)=\operatorname{softmax}(Wx)_v$, or
any model that gives a loss and its gradient.
"""

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any, Literal, TypeVar

import numpy as np

from refimpl.incontext.order_sensitivity.sensitivity import Integers, check_labels, check_orders, token_deviations
from refimpl.primitives.checks import check_integer, check_shapes, checked
from refimpl.primitives.losses import cross_entropy
from refimpl.primitives.normalization import softmax
from refimpl.primitives.numbers import Array, exp, row_dot, transpose
from refimpl.primitives.optimizers import Optimizer, adam, sgd
from refimpl.primitives.training import training_steps

Params = TypeVar("Params")
OptimizerName = Literal["sgd", "adam"]
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {"sgd": sgd, "adam": adam}


# --- the loss on label tokens ---


def _check_label_loss(weights: Array, inputs: Array, labels: Integers) -> None:
    sizes = check_shapes(weights=(weights, "... n_tokens d"), inputs=(inputs, "... n_demos d"))
    check_labels(labels, (*sizes["..."], sizes["n_demos"]), sizes["n_tokens"])


@checked(_check_label_loss)
def label_loss(weights: Array, inputs: Array, labels: Integers) -> Array:
    r"""$\frac1N\sum_i-\log\operatorname{softmax}(Wx_i)_{y_i}$.

    Parameters
    ----------
    weights : array, shape (..., n_tokens, d)
    inputs : array, shape (..., n_demos, d)
    labels : integers, shape (..., n_demos)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a label is no token.

    Source: arXiv 2310.08540, Section 4 (only label tokens count).
    """
    return np.asanyarray(cross_entropy.unchecked(inputs @ transpose(weights), labels).sum(axis=-1) / inputs.shape[-2])


@checked(_check_label_loss)
def label_loss_vjp(
    weights: Array, inputs: Array, labels: Integers
) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    r""":func:`label_loss` and its pullback ``cotangent -> (weights, inputs)``."""

    def pullback(cotangent: Array) -> tuple[Array, Array]:
        residuals = prediction_errors(weights, inputs, labels) * np.asanyarray(cotangent)[..., None, None]
        return mean_gradient(residuals, inputs), residuals @ weights / inputs.shape[-2]

    return label_loss.unchecked(weights, inputs, labels), pullback


def prediction_errors(weights: Array, inputs: Array, labels: Integers) -> Array:
    r"""$p_i-e_{y_i}$, shape (..., n_demos, n_tokens); arguments unchecked."""
    errors = softmax.unchecked(inputs @ transpose(weights))
    chosen = labels[..., None]
    np.put_along_axis(errors, chosen, np.take_along_axis(errors, chosen, axis=-1) - 1, axis=-1)
    return errors


def mean_gradient(errors: Array, inputs: Array) -> Array:
    r"""$\frac1N\sum_i(p_i-e_{y_i})x_i^\top$, shape (..., n_tokens, d): of the demonstrations it knows only the sum."""
    return transpose(errors) @ inputs / inputs.shape[-2]


# --- training ---


def training_epochs(
    params: Params,
    loss_and_gradients: Callable[[Params, Integers], tuple[Any, Params]],
    order: Integers,
    optimizer: Optimizer,
    batch_size: int | None = None,
) -> Iterator[Params]:
    """The parameters after each epoch, without end: one batch after another, always in the same order.

    Parameters
    ----------
    params : tree of arrays
        Whatever is trained: a whole model, or one matrix of it (:func:`of_value_matrix`).
    loss_and_gradients : function ``(params, rows) -> (loss, gradients)``
        The mean loss of the demonstrations `rows`, integers of shape (..., batch).
    order : integers, shape (..., n_demos)
    optimizer : Optimizer
    batch_size : int from 1 to n_demos, or None for all
        What is left at the end of an epoch makes a smaller batch.

    Raises
    ------
    ValueError
        If `order` is no permutation or `batch_size` is out of range.

    Source: arXiv 2310.08540, Section 4 (gradient descent, SGD and Adam).
    """
    n_demos = np.asarray(order).shape[-1]
    order = check_orders("order", order, n_demos)
    batches = [order[..., rows] for rows in _batches(n_demos, batch_size)]
    return _epochs(params, loss_and_gradients, batches, optimizer)


def _batches(n_demos: int, batch_size: int | None) -> list[slice]:
    size = n_demos if batch_size is None else check_integer("batch_size", batch_size, 1, n_demos)
    return [slice(start, start + size) for start in range(0, n_demos, size)]


def _epochs(params: Params, loss_and_gradients: Any, batches: list[Any], optimizer: Optimizer) -> Iterator[Params]:
    steps = training_steps(params, loss_and_gradients, cycle(batches).__next__, optimizer)
    while True:
        for _ in batches:
            _, params = next(steps)
        yield params


def regression_epochs(
    weights: Array,
    inputs: Array,
    labels: Integers,
    orders: Integers,
    optimizer: Optimizer,
    batch_size: int | None = None,
) -> Iterator[Array]:
    """:func:`training_epochs` of softmax regression in all `orders` at once: weights (..., n_tokens, d), ``...`` as in
    `orders`; `weights` themselves unchecked.

    Inputs (..., n_demos, d) and labels (..., n_demos) may have leading axes too, which `orders` begin with. The
    optimizer must act on every entry by itself, as SGD and Adam do: a clipped global norm would be that of all runs
    together.
    """
    draws, (n_demos, d) = inputs.shape[:-2], inputs.shape[-2:]
    orders = check_orders("orders", orders, n_demos)
    runs, n_tokens = orders.shape[:-1], weights.shape[-2]
    if runs[: len(draws)] != draws:
        raise ValueError(f"orders: expected leading axes {draws} as in inputs, got shape {orders.shape}")
    # Runs are the last axis, along which NumPy's inner loops go: a run by itself is small.
    of_order = (*draws, *[1] * (len(runs) - len(draws)), n_demos)
    shown = np.take_along_axis(labels.reshape(of_order), orders, axis=-1).reshape(-1, n_demos)
    targets = (np.arange(n_tokens)[:, None, None] == shown.T).astype(int).astype(weights.dtype)
    visited = _runs_last(np.take_along_axis(inputs.reshape(*of_order, d), orders[..., None], axis=-2))
    batches = [
        (visited[rows], visited[rows].swapaxes(0, 1).copy(), targets[:, rows]) for rows in _batches(n_demos, batch_size)
    ]
    start = _runs_last(np.broadcast_to(weights, (*runs, n_tokens, d)))
    epochs = _epochs(start, _regression_gradient, batches, optimizer)
    return (trained.transpose(2, 0, 1).reshape(*runs, n_tokens, d) for trained in epochs)


def _runs_last(matrices: Array) -> Array:
    return matrices.reshape(-1, *matrices.shape[-2:]).transpose(1, 2, 0).copy()


def _regression_gradient(weights: Array, batch: tuple[Array, Array, Array]) -> tuple[None, Array]:
    """The gradient of :func:`label_loss` for weights (n_tokens, d, runs) and a batch: its inputs, (batch, d, runs) and
    (d, batch, runs), so that the sum in either product runs along a middle axis, and one-hot labels."""
    inputs, turned, targets = batch
    errors = np.einsum("vdr,bdr->vbr", weights, inputs)
    if errors.dtype != object:
        errors -= np.maximum.reduce(errors, axis=0)
    errors = exp(errors)
    errors /= np.add.reduce(errors, axis=0)
    errors -= targets
    errors /= len(inputs)
    return None, np.einsum("vbr,dbr->vdr", errors, turned)


def train_on_demonstrations(
    weights: Array,
    inputs: Array,
    labels: Integers,
    orders: Integers,
    learning_rate: float,
    epochs: int,
    batch_size: int | None = None,
    optimizer: OptimizerName = "sgd",
) -> Array:
    """Softmax regression after some epochs on the demonstrations, in each of the orders.

    Parameters
    ----------
    weights : array, shape (n_tokens, d)
        Where every run starts.
    inputs : array, shape (..., n_demos, d)
        Leading axes hold draws of the demonstrations, all trained on at once.
    labels : integers, shape (..., n_demos)
    orders : integers, shape (..., n_demos)
        Permutations; see :func:`random_orders`. Their leading axes begin with those of the inputs.
    learning_rate : number > 0
    epochs : int >= 0
    batch_size : int from 1 to n_demos, or None for gradient descent on all
    optimizer : "sgd" or "adam"

    Returns
    -------
    array, shape (..., n_tokens, d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is no token, an order no permutation, a number out of
        range or the optimizer unknown.

    Source: arXiv 2310.08540, Section 4.
    """
    sizes = check_shapes(weights=(weights, "n_tokens d"), inputs=(inputs, "... n_demos d"))
    labels = check_labels(labels, (*sizes["..."], sizes["n_demos"]), sizes["n_tokens"])
    orders = check_orders("orders", orders, sizes["n_demos"])
    epochs = check_integer("epochs", epochs, 0)
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer: expected one of {sorted(OPTIMIZERS)}, got {optimizer!r}")
    after = regression_epochs(weights, inputs, labels, orders, OPTIMIZERS[optimizer](learning_rate), batch_size)
    trained = np.broadcast_to(weights, (*orders.shape[:-1], *weights.shape))
    for _ in range(epochs):
        trained = next(after)
    return np.asanyarray(trained)


def regression_distributions(weights: Array, queries: Array) -> Array:
    r"""$\operatorname{softmax}(Wx)$ at every query, shape (..., n_queries, n_tokens).

    Parameters
    ----------
    weights : array, shape (..., n_tokens, d)
    queries : array, shape (n_queries, d)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    check_shapes(weights=(weights, "... n_tokens d"), queries=(queries, "n_queries d"))
    return softmax.unchecked(queries @ transpose(weights))


# --- one matrix of a model ---

Model = TypeVar("Model", bound=Any)


def value_matrix(model: Any, block: int) -> Array:
    """The value matrices of the heads of one block, shape (n_heads, d_value, d)."""
    return np.asanyarray(model.blocks[block].attention.value)


def with_value_matrix(model: Model, block: int, value: Array) -> Model:
    """The model with these value matrices in one block."""
    blocks = list(model.blocks)
    blocks[block] = blocks[block]._replace(attention=blocks[block].attention._replace(value=value))
    return model._replace(blocks=blocks)


def of_value_matrix(
    loss_and_gradients: Callable[[Model, Integers], tuple[Any, Model]], model: Model, block: int
) -> Callable[[Array, Integers], tuple[Any, Array]]:
    r"""The loss as a function of one block's value matrices, the rest of the model fixed: $\widehat{GD}$."""

    def loss_and_gradient(value: Array, rows: Integers) -> tuple[Any, Array]:
        loss, gradient = loss_and_gradients(with_value_matrix(model, block, value), rows)
        return loss, value_matrix(gradient, block)

    return loss_and_gradient


# --- how an epoch depends on its order ---


def order_dependent_term(weights: Array, inputs: Array, labels: Integers, orders: Integers) -> Array:
    r"""$Q_\pi=\sum_{a\text{ before }b}H_b\,g_a$: what depends on the order in an epoch of single steps.

    $$W_\pi=W_0-\eta\sum_ig_i+\eta^2Q_\pi+O(\eta^3),\quad g_a=(p_a-e_{y_a})x_a^\top,\quad
    H_bG=(\operatorname{diag}p_b-p_bp_b^\top)\,Gx_b\,x_b^\top,$$

    all taken at $W_0$.

    Parameters
    ----------
    weights : array, shape (n_tokens, d)
        $W_0$.
    inputs : array, shape (n_demos, d)
    labels : integers, shape (n_demos,)
    orders : integers, shape (..., n_demos)

    Returns
    -------
    array, shape (..., n_tokens, d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is no token or an order no permutation.
    """
    sizes = check_shapes(weights=(weights, "n_tokens d"), inputs=(inputs, "n_demos d"))
    n_demos = sizes["n_demos"]
    labels = check_labels(labels, (n_demos,), sizes["n_tokens"])
    orders = check_orders("orders", orders, n_demos)
    errors = prediction_errors(weights, inputs, labels)
    predictions = softmax.unchecked(inputs @ transpose(weights))
    visited = inputs[orders]
    before = np.tri(n_demos, k=-1, dtype=int).astype(inputs.dtype)
    moved = (before * (visited @ transpose(visited))) @ errors[orders]
    return np.asanyarray(transpose(_softmax_derivative(predictions[orders], moved)) @ visited)


def small_step_coefficient(
    weights: Array, inputs: Array, labels: Integers, orders: Integers, queries: Array, ddof: int = 0
) -> Array:
    r"""$c=\lim_{\eta\to0}\mathrm{Sen}/\eta^2$ of one epoch of single steps: the deviations of $J(x)\,Q_\pi x$.

    Parameters
    ----------
    weights, inputs, labels : as in :func:`order_dependent_term`
    orders : integers, shape (n_orders, n_demos), n_orders >= 2
    queries : array, shape (n_queries, d)
    ddof : 0 or 1

    Returns
    -------
    array of no axes

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a number is out of range.
    """
    change = order_dependent_term(weights, inputs, labels, orders)
    check_shapes(weights=(weights, "n_tokens d"), queries=(queries, "n_queries d"))
    check_integer("number of orders", len(change), 2)
    check_integer("ddof", ddof, 0, 1)
    shifts = _softmax_derivative(regression_distributions(weights, queries), queries @ transpose(change))
    return np.asanyarray(token_deviations(shifts, ddof).sum() / len(queries))


def _softmax_derivative(predictions: Array, logits: Array) -> Array:
    r"""$(\operatorname{diag}p-pp^\top)z$ on rows."""
    return np.asanyarray(predictions * (logits - row_dot(predictions, logits)))
