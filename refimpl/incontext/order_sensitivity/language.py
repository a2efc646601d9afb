r"""A small language model that learns from its context, trained on text or for that alone (Section 2 and 5).

It stands for the paper's pretrained models. Documents are pairs "x f(x) ;" of one latent map $f$ each, of a pool of
maps; text has documents of an order-2 Markov chain besides. One model learns to predict every token of the text, the
other only the labels of the pairs: the paper's two kinds of in-context learning.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.language_model import (
    LanguageModel,
    initial_language_model,
    next_token_logits,
    token_loss_and_gradients,
)
from refimpl.primitives.normalization import softmax
from refimpl.primitives.numbers import Array
from refimpl.primitives.optimizers import adam, chain, clip_by_global_norm
from refimpl.primitives.schedules import Schedule
from refimpl.primitives.training import training_steps
from refimpl.primitives.trees import tree_map

Integers = np.ndarray[Any, np.dtype[np.integer[Any]]]
Objective = Literal["text", "labels"]

PAIR = 3
"""Tokens of a pair: input, label, separator."""


class LabelTask(NamedTuple):
    """Vocabulary and length of the documents: inputs first, then labels, separator, and tokens of the chain only."""

    n_inputs: int = 12
    n_labels: int = 4
    vocabulary: int = 32
    n_pairs: int = 16

    @property
    def separator(self) -> int:
        return self.n_inputs + self.n_labels

    @property
    def length(self) -> int:
        return PAIR * self.n_pairs


def _check_task(task: LabelTask) -> None:
    for name, value in task._asdict().items():
        check_integer(f"task.{name}", value, 1)
    if task.vocabulary <= task.separator:
        raise ValueError(f"task.vocabulary: expected more than {task.separator} tokens, got {task.vocabulary}")


def draw_maps(task: LabelTask, n_maps: int, rng: np.random.Generator) -> Integers:
    """Random maps from inputs to label tokens, shape (n_maps, n_inputs): each label uniform and independent.

    Raises
    ------
    ValueError
        If a size is below 1 or the vocabulary has no room for inputs, labels and separator.
    """
    _check_task(task)
    return task.n_inputs + rng.integers(task.n_labels, size=(check_integer("n_maps", n_maps, 1), task.n_inputs))


def draw_chain(task: LabelTask, rng: np.random.Generator, concentration: float = 0.1) -> Array:
    """Cumulative transition probabilities of an order-2 Markov chain over all tokens, shape (V, V, V).

    Parameters
    ----------
    task : LabelTask
    rng : np.random.Generator
    concentration : number > 0
        Of the Dirichlet law of each row; a small one makes few tokens likely.
    """
    _check_task(task)
    concentration = check_number("concentration", concentration, "(0, inf)")
    rows = rng.dirichlet(np.full(task.vocabulary, concentration), size=(task.vocabulary, task.vocabulary))
    cumulative = np.cumsum(rows, axis=-1)
    cumulative[..., -1] = 1  # whatever the rounding: it is compared with uniform numbers below 1
    return cumulative


def pair_documents(task: LabelTask, maps: Integers, n_documents: int, rng: np.random.Generator) -> Integers:
    """Documents "x f(x) ; x' f(x') ; ..." of one map each, shape (n_documents, length); arguments unchecked."""
    chosen = maps[rng.integers(len(maps), size=n_documents)]
    inputs = rng.integers(task.n_inputs, size=(n_documents, task.n_pairs))
    labels = np.take_along_axis(chosen, inputs, axis=-1)
    return np.stack([inputs, labels, np.full_like(inputs, task.separator)], axis=-1).reshape(n_documents, -1)


def chain_documents(cumulative: Array, n_documents: int, length: int, rng: np.random.Generator) -> Integers:
    """Documents of the Markov chain, shape (n_documents, length), started uniformly; arguments unchecked."""
    tokens = np.empty((n_documents, length), dtype=int)
    tokens[:, :2] = rng.integers(len(cumulative), size=(n_documents, 2))
    for place in range(2, length):
        rows = cumulative[tokens[:, place - 2], tokens[:, place - 1]]
        tokens[:, place] = np.sum(rng.random((n_documents, 1)) >= rows, axis=-1)
    return tokens


class Pretraining(NamedTuple):
    """How the model is trained: by Adam, the gradient clipped at norm 1."""

    objective: Objective = "text"
    n_steps: int = 4000
    batch: int = 64
    learning_rate: float = 3e-3
    d: int = 64
    n_blocks: int = 2
    n_heads: int = 4
    chain_share: float = 0.3
    """Share of the text's documents that are of the Markov chain."""


def warm_up_and_decay(peak: float, n_steps: int, warm_up: float = 0.05) -> Schedule:
    """Linearly up over the first share of the steps, then linearly down to a tenth of the peak."""

    def rate(step: int) -> float:
        share = step / n_steps
        return peak * min(share / warm_up + 1 / n_steps, 1 - 0.9 * share)

    return rate


def pretraining_steps(
    task: LabelTask, maps: Integers, transitions: Array, settings: Pretraining, rng: np.random.Generator
) -> Iterator[tuple[float, LanguageModel]]:
    """Step after step: the loss on a new batch of documents and the new model, in float32.

    Parameters
    ----------
    task : LabelTask
    maps : integers, shape (n_maps, n_inputs)
        The pool of latent maps (:func:`draw_maps`).
    transitions : array, shape (V, V, V)
        Of the chain (:func:`draw_chain`).
    settings : Pretraining
        With the objective "text" every token of text is predicted; with "labels" only the labels of pairs, and there
        are no documents of the chain.
    rng : np.random.Generator

    Raises
    ------
    ValueError
        If the objective is unknown or a number is out of range.

    Source: arXiv 2310.08540, Section 2 (the two objectives).
    """
    _check_task(task)
    if settings.objective not in ("text", "labels"):
        raise ValueError(f"settings.objective: expected 'text' or 'labels', got {settings.objective!r}")
    batch = check_integer("settings.batch", settings.batch, 1)
    check_number("settings.chain_share", settings.chain_share, "[0, 1]")
    n_chain = round(settings.chain_share * batch) if settings.objective == "text" else 0
    at: Any = slice(0, task.length - 1) if settings.objective == "text" else np.arange(0, task.length, PAIR)

    def sample() -> Integers:
        pairs = pair_documents(task, maps, batch - n_chain, rng)
        return np.concatenate([pairs, chain_documents(transitions, n_chain, task.length, rng)])

    def loss_and_gradients(model: LanguageModel, tokens: Integers) -> tuple[float, LanguageModel]:
        targets = tokens[:, 1:] if settings.objective == "text" else tokens[:, at + 1]
        return token_loss_and_gradients(model, tokens, targets, at)

    model = initial_language_model(
        task.vocabulary, task.length, settings.d, settings.n_blocks, settings.n_heads, rng, tied=True
    )
    rate = warm_up_and_decay(settings.learning_rate, check_integer("settings.n_steps", settings.n_steps, 1))
    optimizer = chain(clip_by_global_norm(1.0), adam(rate))
    return training_steps(tree_map(lambda leaf: leaf.astype(np.float32), model), loss_and_gradients, sample, optimizer)


# --- the model as a learner ---


def in_context_distributions(
    model: LanguageModel, task: LabelTask, inputs: Integers, labels: Integers, orders: Integers
) -> Array:
    """The next token after "demonstrations x", at each order of the demonstrations and each of the task's inputs x.

    Parameters
    ----------
    model : LanguageModel
    task : LabelTask
    inputs, labels : integers, shape (n_demos,)
        With no demonstration these are the zero-shot distributions.
    orders : integers, shape (n_orders, n_demos)

    Returns
    -------
    array, shape (n_orders, n_inputs, vocabulary)
    """
    pairs = np.stack([inputs, labels, np.full_like(inputs, task.separator)], axis=-1)
    shown = pairs[orders].reshape(len(orders), 1, -1)
    queries = np.arange(task.n_inputs)[:, None]
    prompts = np.concatenate(
        [
            np.broadcast_to(shown, (len(orders), task.n_inputs, shown.shape[-1])),
            np.broadcast_to(queries, (len(orders), task.n_inputs, 1)),
        ],
        axis=-1,
    )
    return softmax.unchecked(next_token_logits.unchecked(model.embedding[prompts], model)[..., -1, :])


def zero_shot_loss(inputs: Integers, labels: Integers) -> Callable[[LanguageModel, Any], tuple[float, LanguageModel]]:
    """The loss of the labels of these demonstrations, each after its input alone, and its gradient.

    Returns
    -------
    function ``(model, rows) -> (loss, gradient)``
        The mean over the demonstrations `rows`; label tokens only.
    """

    def loss_and_gradients(model: LanguageModel, rows: Any) -> tuple[float, LanguageModel]:
        return token_loss_and_gradients(model, inputs[rows, None], labels[rows, None], slice(0, 1))

    return loss_and_gradients


# --- the best that can be learned from the context ---


def bayes_label_probabilities(maps: Integers, inputs: Integers, labels: Integers, n_tokens: int) -> Array:
    """What a learner that knows the pool of maps predicts: of the maps that fit all demonstrations, each alike.

    Parameters
    ----------
    maps : integers, shape (n_maps, n_inputs)
    inputs, labels : integers, shape (..., n_demos)
        Of a map of the pool.
    n_tokens : int
        Labels are tokens from 0 to n_tokens - 1.

    Returns
    -------
    array, shape (..., n_inputs, n_tokens)

    Raises
    ------
    ValueError
        If no map fits a context.
    """
    fits = np.all(maps[:, inputs] == labels, axis=-1).astype(float)  # (n_maps, ...)
    if not np.all(fits.sum(axis=0)):
        raise ValueError("labels: expected those of a map of the pool, got a context that none fits")
    tokens = np.eye(n_tokens)[maps]  # (n_maps, n_inputs, n_tokens)
    weights = np.moveaxis(fits / fits.sum(axis=0), 0, -1)
    return np.tensordot(weights, tokens, axes=1)
