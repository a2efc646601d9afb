r"""A small transformer that learns in its context, and the same one fine-tuned (Section 4, at a small scale).

An example is several tokens: the input's coordinates in parts, one part a token, then its label. So a prompt without
demonstrations has more than one token too: over a single one softmax is 1 whatever the key, fine-tuning would leave
the keys alone and all attention maps would be alike. The model is a language model whose tokens are vectors, its
embedding is tied, and a label's logit is read off the label's own embedding.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.dual_form.finetuning import sample_shot_tasks
from refimpl.primitives.attention import MultiHeadAttention
from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.language_model import LanguageModel, logits_with
from refimpl.primitives.losses import cross_entropy_vjp
from refimpl.primitives.numbers import Array, constant, sqrt, transpose
from refimpl.primitives.optimizers import Optimizer
from refimpl.primitives.training import training_steps
from refimpl.primitives.transformer import Attend, causal_attention


class Prompts(NamedTuple):
    """Examples as tokens, and where each one's label is predicted."""

    tokens: Array
    """Shape ``(..., n_examples * (n_parts + 1), n_inputs + n_classes)``."""
    labels: Any
    """Integers, shape ``(..., n_examples)``."""
    at: Any
    """The position of the last part of each example, integers, shape ``(n_examples,)``."""


class Records(NamedTuple):
    """What attention does in each layer."""

    outputs: Array
    """At the last token, after the output projection, shape ``(n_prompts, n_layers, d)``."""
    scores: Array
    """Before the softmax, of the last token against all, shape ``(n_prompts, n_layers, n_heads, n_tokens)``."""
    queries: Array
    """Of all tokens, heads side by side, shape ``(n_prompts, n_layers, n_tokens, n_heads * d_head)``."""


def shot_prompts(inputs: Array, labels: Any, n_classes: int, n_parts: int) -> Prompts:
    r"""Each example as `n_parts` tokens that hold a part of its input each, all else 0, and a token with its label.

    Parameters
    ----------
    inputs : array, shape (..., n_inputs, n_examples)
    labels : integer array, shape (..., n_examples)
    n_classes : int >= 1
    n_parts : int >= 1 that divides n_inputs

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is no class or the parts do not come out even.

    Source: arXiv 2212.10559, Section 3.1: examples in a template, labels as tokens.
    """
    n_inputs, n_examples = check_shapes(inputs=(inputs, "... n_inputs n_examples"))["n_inputs"], inputs.shape[-1]
    check_integer("n_classes", n_classes, 1)
    if n_inputs % check_integer("n_parts", n_parts, 1):
        raise ValueError(f"n_parts: expected a divisor of n_inputs = {n_inputs}, got {n_parts}")
    cross_entropy_vjp.check(np.zeros((*inputs.shape[:-2], n_examples, n_classes)), labels)
    tokens = np.zeros((*inputs.shape[:-2], n_examples, n_parts + 1, n_inputs + n_classes), dtype=inputs.dtype)
    size = n_inputs // n_parts
    for part in range(n_parts):
        own = slice(part * size, (part + 1) * size)
        tokens[..., part, own] = np.swapaxes(inputs, -1, -2)[..., own]
    tokens[..., n_parts, n_inputs:] = labels[..., None] == np.arange(n_classes)
    at = np.arange(n_examples) * (n_parts + 1) + n_parts - 1
    return Prompts(tokens.reshape(*inputs.shape[:-2], -1, n_inputs + n_classes), labels, at)


def _check_model(model: LanguageModel, prompts: Prompts) -> None:
    if model.readout is not None:
        raise ValueError("model.readout: expected None, a tied embedding, whose rows are the labels' embeddings")
    sizes = check_shapes(
        **{"prompts.tokens": (prompts.tokens, "n_prompts n_tokens width"), "embedding": (model.embedding, "width d")}
    )
    if sizes["n_tokens"] > len(model.positions):
        raise ValueError(f"prompts.tokens: expected at most {len(model.positions)} tokens, got {sizes['n_tokens']}")


def candidate_logits(
    model: LanguageModel, prompts: Prompts, n_classes: int, attend: Attend = causal_attention
) -> Array:
    """The logits of the labels where a label is due, shape (n_prompts, n_examples, n_classes).

    Parameters
    ----------
    model : LanguageModel
        Its embedding of shape (n_inputs + n_classes, d) is tied: the last rows are the labels' embeddings.
    prompts : Prompts, whose tokens have shape (n_prompts, n_tokens, n_inputs + n_classes)
    n_classes : int >= 1
    attend : the attention in the blocks

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the embedding is not tied.

    Source: arXiv 2212.10559, Eq. 1.
    """
    _check_model(model, prompts)
    check_integer("n_classes", n_classes, 1, len(model.embedding))
    logits, _ = logits_with(prompts.tokens @ model.embedding, model, attend, prompts.at)
    return np.asanyarray(logits[..., -n_classes:])


def candidate_loss_and_gradient(
    model: LanguageModel, prompts: Prompts, n_classes: int, attend: Attend = causal_attention
) -> tuple[float, LanguageModel]:
    """The mean cross-entropy of the labels among the candidates, and its gradient; arguments unchecked.

    Parameters as in :func:`candidate_logits`; labels of shape (n_prompts, n_examples).
    """
    logits, pull_model = logits_with(prompts.tokens @ model.embedding, model, attend, prompts.at)
    losses, pull_loss = cross_entropy_vjp.unchecked(logits[..., -n_classes:], prompts.labels)
    to_logits = np.zeros_like(logits)
    (to_logits[..., -n_classes:],) = pull_loss(np.full_like(losses, 1 / losses.size))
    to_embeddings, gradient = pull_model(to_logits)
    rows = (x.reshape(-1, x.shape[-1]) for x in (prompts.tokens, to_embeddings))
    by_tokens = transpose(next(rows)) @ next(rows)
    return float(losses.mean()), gradient._replace(embedding=gradient.embedding + by_tokens)


def shot_training(
    model: LanguageModel,
    optimizer: Optimizer,
    n_classes: int,
    n_examples: int,
    n_parts: int,
    n_prompts: int,
    rng: np.random.Generator,
) -> Iterator[tuple[float, LanguageModel]]:
    """Training on new Gaussian classification tasks at each step, at every label of the prompts, without end.

    The first label is predicted without any demonstration. Classes come in random order, for from an order a label
    could be told without looking at an input.

    Parameters
    ----------
    model : LanguageModel
        Its embedding of shape (n_inputs + n_classes, d) is tied.
    optimizer : Optimizer
    n_classes, n_examples, n_parts, n_prompts : int >= 1
        The prompts of a batch, the examples of each, and the tokens of an input.
    rng : numpy.random.Generator
    """

    def sample() -> Prompts:
        tasks = sample_shot_tasks(n_prompts, 1, n_examples, rng, len(model.embedding) - n_classes, n_classes)
        return shot_prompts(tasks.queries.astype(model.embedding.dtype), tasks.targets, n_classes, n_parts)

    return training_steps(model, partial(candidate_loss_and_gradient, n_classes=n_classes), sample, optimizer)


# --- what attention does, and fine-tuning ---


def _recording(layers: list[tuple[Array, MultiHeadAttention, Array]]) -> Attend:
    """Causal attention that keeps the rows that come in, the weights, and the rows that go out."""

    def attend(rows: Array, weights: MultiHeadAttention) -> Any:
        attended, pullback = causal_attention(rows, weights)
        layers.append((rows, weights, attended))
        return attended, pullback

    return attend


def _records(layers: list[tuple[Array, MultiHeadAttention, Array]]) -> Records:
    queries, scores = [], []
    for rows, weights, _ in layers:
        query, key = (rows[:, None] @ transpose(matrix) for matrix in (weights.query, weights.key))
        scale = sqrt(constant(query.shape[-1], query))
        scores.append((query[:, :, -1:] @ transpose(key))[:, :, 0] / scale)
        queries.append(query.swapaxes(1, 2).reshape(*rows.shape[:2], -1))
    return Records(np.stack([out[:, -1] for *_, out in layers], 1), np.stack(scores, 1), np.stack(queries, 1))


def record(model: LanguageModel, prompts: Prompts, n_classes: int) -> tuple[Array, Records]:
    """:func:`candidate_logits`, and what attention does on the way there.

    Parameters and errors as in :func:`candidate_logits`.

    Source: arXiv 2212.10559, Section 4.2: what the metrics are taken of.
    """
    layers: list[tuple[Array, MultiHeadAttention, Array]] = []
    logits = candidate_logits(model, prompts, n_classes, _recording(layers))
    return logits, _records(layers)


def finetune_transformer(
    model: LanguageModel, demos: Prompts, n_classes: int, learning_rate: float
) -> tuple[LanguageModel, Array]:
    """One pass over the demonstrations in their order, one step each, on the keys and values of all layers.

    Each demonstration is a prompt of its own. What predicts its label does not see it, as at test time.

    Parameters
    ----------
    model : LanguageModel
    demos : Prompts, with the shapes of one prompt
    n_classes : int >= 1
    learning_rate : float >= 0

    Returns
    -------
    The tuned model, and the queries of all demonstrations' tokens at the time of their step, heads side by side, of
    shape (n_layers, n_examples * (n_parts + 1), n_heads * d_head).

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is no class or the rate is negative.

    Source: arXiv 2212.10559, Section 4.1.
    """
    _check_model(model, demos._replace(tokens=demos.tokens[None]))
    rate = check_number("learning_rate", learning_rate, "[0, inf)")
    check_integer("n_classes", n_classes, 1, len(model.embedding))
    cross_entropy_vjp.check(np.zeros((len(demos.at), n_classes)), demos.labels)
    examples = demos.tokens.reshape(len(demos.at), 1, int(demos.at[0]) + 2, -1)
    queries = []
    for tokens, label in zip(examples, demos.labels, strict=True):
        layers: list[tuple[Array, MultiHeadAttention, Array]] = []
        prompt = Prompts(tokens, np.array([[label]]), demos.at[:1])
        _, gradient = candidate_loss_and_gradient(model, prompt, n_classes, _recording(layers))
        queries.append(_records(layers).queries[0])
        blocks = [
            block._replace(
                attention=block.attention._replace(
                    key=block.attention.key - rate * to.attention.key,
                    value=block.attention.value - rate * to.attention.value,
                )
            )
            for block, to in zip(model.blocks, gradient.blocks, strict=True)
        ]
        model = model._replace(blocks=blocks)
    return model, np.concatenate(queries, axis=1)
