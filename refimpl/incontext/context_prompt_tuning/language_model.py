r"""The task of which set a symbol belongs to, drawn anew in every prompt, and a small language model trained on it.

It stands for the pretrained model that the method leaves frozen: embeddings in, logits out.
"""

from itertools import count
from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.context_prompt_tuning.tokens import IGNORED, Integers, Prompt, token_type_mask
from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.language_model import LanguageModel, initial_language_model, token_loss_and_gradients
from refimpl.primitives.numbers import Array
from refimpl.primitives.optimizers import adam, chain, clip_by_global_norm
from refimpl.primitives.schedules import cosine_decay
from refimpl.primitives.training import run, training_steps
from refimpl.primitives.trees import tree_map


class SetTask(NamedTuple):
    """Vocabulary of set classification: symbols, then labels, then the two template tokens."""

    n_symbols: int = 16
    n_classes: int = 3
    set_size: int = 1

    @property
    def vocabulary(self) -> int:
        return self.n_symbols + self.n_classes + 2

    @property
    def input_template(self) -> int:
        return self.n_symbols + self.n_classes

    @property
    def output_template(self) -> int:
        return self.n_symbols + self.n_classes + 1

    def label(self, classes: Any) -> Any:
        """The tokens of these classes."""
        return self.n_symbols + classes


EXAMPLE_LENGTH = 5
"""``[IN, s, s', OUT, y]``."""


def draw_sets(task: SetTask, n_tasks: int, rng: np.random.Generator) -> Integers:
    """Disjoint sets of symbols for the classes of each task, shape (n_tasks, n_classes, set_size).

    Raises
    ------
    ValueError
        If the sets, and one symbol of none, need more symbols than there are.
    """
    needed = task.n_classes * task.set_size
    if needed >= task.n_symbols:
        raise ValueError(f"task: expected more than {needed} symbols, got {task.n_symbols}")
    order = rng.permuted(np.tile(np.arange(task.n_symbols), (n_tasks, 1)), axis=1)
    return order[:, :needed].reshape(n_tasks, task.n_classes, task.set_size)


def sample_examples(
    task: SetTask, sets: Integers, classes: Integers, rng: np.random.Generator, noise: bool = True
) -> Integers:
    """Examples ``[IN, s, s', OUT, y]``: one symbol of the class's set and one of no set, in random order.

    Parameters
    ----------
    task : SetTask
    sets : array of integers, shape (n_tasks, n_classes, set_size)
    classes : array of integers, shape (n_tasks, n_examples)
    rng : np.random.Generator
    noise : bool
        Without it the symbol of the set stands in both places.

    Returns
    -------
    array of integers, shape (n_tasks, n_examples, 5)
    """
    n_tasks = len(classes)
    members = sets[np.arange(n_tasks)[:, None], classes, rng.integers(task.set_size, size=classes.shape)]
    free = np.stack([np.setdiff1d(np.arange(task.n_symbols), one) for one in sets])
    other = free[np.arange(n_tasks)[:, None], rng.integers(free.shape[1], size=classes.shape)] if noise else members
    pair = rng.permuted(np.stack([members, other], axis=-1), axis=-1)
    columns = [np.full(classes.shape, task.input_template), pair[..., 0], pair[..., 1]]
    columns += [np.full(classes.shape, task.output_template), task.label(classes)]
    return np.stack(columns, axis=-1)


def as_prompt(examples: Integers) -> Prompt:
    """Examples of shape (n_examples, 5) as a prompt whose labels are to be predicted."""
    tokens = examples.reshape(-1)
    types = token_type_mask([(1, 2, 1, 1)] * len(examples))
    return Prompt(tokens, types, np.where(types % 4 == 0, tokens, IGNORED))


class Pretrained(NamedTuple):
    """A trained model, and its loss at every step."""

    model: LanguageModel
    losses: Array


def pretrain(
    task: SetTask,
    n_examples: int,
    n_steps: int,
    rng: np.random.Generator,
    *,
    d: int = 32,
    n_blocks: int = 2,
    n_heads: int = 4,
    batch: int = 64,
    learning_rate: float = 3e-3,
) -> Pretrained:
    """Train in float32 on prompts of fresh tasks, with the loss at the label of every example but the first, by Adam.

    For the first third of the steps the examples have no noise symbol: the circuit that copies the label of a matching
    example forms within a thousand steps there, and hardly at all otherwise.

    Parameters
    ----------
    task : SetTask
    n_examples : int >= 2
    n_steps, d, n_blocks, n_heads, batch : int >= 1
    rng : np.random.Generator
    learning_rate : number > 0
        Decays to zero along a cosine.

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: arXiv 2410.17222 tunes the context of pretrained models; this is the smallest that learns from one.
    """
    n_examples = check_integer("n_examples", n_examples, 2)
    n_steps = check_integer("n_steps", n_steps, 1)
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    length = EXAMPLE_LENGTH * n_examples
    initial = initial_language_model(task.vocabulary, length, d, n_blocks, n_heads, rng)
    at_labels = np.arange(2 * EXAMPLE_LENGTH - 2, length, EXAMPLE_LENGTH)
    drawn = count()

    def sample() -> Integers:
        sets = draw_sets(task, batch, rng)
        classes = rng.integers(task.n_classes, size=(batch, n_examples))
        return sample_examples(task, sets, classes, rng, noise=3 * next(drawn) >= n_steps).reshape(batch, -1)

    def loss_and_gradients(model: LanguageModel, tokens: Integers) -> tuple[float, LanguageModel]:
        return token_loss_and_gradients(model, tokens, tokens[:, at_labels + 1], at_labels)

    optimizer = chain(clip_by_global_norm(1.0), adam(cosine_decay(learning_rate, n_steps)))
    in_float32 = tree_map(lambda leaf: leaf.astype(np.float32), initial)
    return Pretrained(*run(training_steps(in_float32, loss_and_gradients, sample, optimizer), n_steps))


def label_predictions(logits: Array, task: SetTask) -> Integers:
    """The class whose label token has the largest of these logits, shape (...) from (..., vocabulary)."""
    return np.asarray(logits[..., task.n_symbols : task.n_symbols + task.n_classes].argmax(axis=-1))
