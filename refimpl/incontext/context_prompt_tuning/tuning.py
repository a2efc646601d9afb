r"""The method on any frozen model, and its baselines: tuned prompts without a context, or in front of a fixed one."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from refimpl.incontext.context_prompt_tuning.tokens import (
    Norm,
    Prompt,
    Weighting,
    build_sequence,
    cpt_loss_vjp,
    label_mask,
    project_tokens,
    token_radii,
    trainable_mask,
)
from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.numbers import Array
from refimpl.primitives.optimizers import Optimizer, adam, sgd

FrozenModel = Callable[[Array], tuple[Array, Callable[[Array], Array]]]
"""``embeddings (n_tokens, d) -> (logits (n_tokens, n_classes), pullback to the embeddings)``."""


class CPTResult(NamedTuple):
    """A tuned context: its perturbation (n_tokens, d), projected, and the loss of each step."""

    perturbation: Array
    losses: Array


def cpt_step(
    perturbation: Array, gradient: Array, types: Any, radii: Array, learning_rate: float, norm: Norm = "l2"
) -> Array:
    r"""One projected step of plain gradient descent, $\Pi(\delta-\eta\,m\odot g)$ with $m$ the trainable tokens.

    Parameters
    ----------
    perturbation, gradient : array, shape (n_tokens, d)
    types : array of integers, shape (n_tokens,)
    radii : array, shape (n_tokens,)
    learning_rate : number > 0
    norm : "l2" or "linf"

    Returns
    -------
    array, shape (n_tokens, d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or a number is out of range.

    Source: arXiv 2410.17222, Section 3.
    """
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    moved = perturbation - learning_rate * (gradient * trainable_mask(types)[:, None].astype(int))
    return project_tokens(moved, radii, norm)


def context_prompt_tuning(
    model: FrozenModel,
    embedding: Array,
    context: Prompt,
    examples: Sequence[Prompt],
    *,
    eps_input: float = 0.1,
    eps_format: float = 0.1,
    decay: float = 0.95,
    learning_rate: float,
    n_epochs: int,
    optimizer: Literal["sgd", "adam"] = "sgd",
    weighting: Weighting = "decay",
    direction: Literal["minimise", "maximise"] = "minimise",
    norm: Norm = "l2",
    rng: np.random.Generator,
) -> CPTResult:
    """Move the context's embeddings inside their balls so that the model predicts the labels in and after it.

    Each step appends one of the examples, in an order drawn anew for each epoch, with its plain embeddings.

    Parameters
    ----------
    model : FrozenModel
    embedding : array, shape (vocabulary, d)
    context : Prompt
    examples : the training examples, usually those of the context
    eps_input, eps_format : numbers >= 0
        See :func:`token_radii`.
    decay : number in (0, 1]
    learning_rate : number > 0
    n_epochs : int >= 1
    optimizer : "sgd" or "adam", of the masked gradient; the projection acts on the perturbation, not on the moments
    weighting : of the labels
    direction : "maximise" for the attack
    norm : of the balls
    rng : np.random.Generator

    Returns
    -------
    CPTResult

    Raises
    ------
    ValueError
        If the prompts do not fit the embedding table, there is no example, or an argument is out of range.

    Source: arXiv 2410.17222, Section 3; the authors' library projects before each forward pass and so once less.
    """
    check_integer("n_epochs", n_epochs, 1)
    if not examples:
        raise ValueError("examples: expected at least one, got none")
    if direction not in ("minimise", "maximise"):
        raise ValueError(f"direction: expected 'minimise' or 'maximise', got {direction!r}")
    _check_tokens("context", context, embedding)
    sequences = [build_sequence(context, example) for example in examples]
    for index, example in enumerate(examples):
        _check_tokens(f"examples[{index}]", example, embedding)
    radii = token_radii(context.types, eps_input, eps_format, embedding.shape[1])
    movable = trainable_mask(context.types)[:, None]
    method = _optimizer(optimizer, learning_rate)
    perturbation = np.zeros((len(context.tokens), embedding.shape[1]), dtype=embedding.dtype)
    state = method.init(perturbation)
    losses = []
    for _ in range(n_epochs):
        for index in rng.permutation(len(sequences)):
            sequence = sequences[index]
            embeddings = embedding[sequence.tokens]
            embeddings[: len(perturbation)] += perturbation
            loss, gradient = _loss_and_gradient(model, embeddings, sequence, decay, weighting)
            losses.append(loss)
            ascent = -1 if direction == "maximise" else 1
            masked = ascent * gradient[: len(perturbation)] * movable
            update, state = method.update(masked, state, perturbation)
            perturbation = project_tokens(perturbation + update, radii, norm)
    return CPTResult(perturbation, np.array(losses))


def instruction_prompt_tuning(
    model: FrozenModel,
    embedding: Array,
    context: Prompt | None,
    examples: Sequence[Prompt],
    initial_prompt: Array,
    *,
    learning_rate: float,
    n_epochs: int,
    optimizer: Literal["sgd", "adam"] = "adam",
    rng: np.random.Generator,
) -> CPTResult:
    """Tune free tokens in front of a fixed context; without a context (None) this is prompt tuning.

    Parameters
    ----------
    model, embedding, examples, learning_rate, n_epochs, optimizer, rng : as for :func:`context_prompt_tuning`
    context : Prompt, or None
    initial_prompt : array, shape (n_virtual_tokens, d), see :func:`initial_virtual_tokens`

    Returns
    -------
    CPTResult, whose perturbation is the tuned prompt itself

    Raises
    ------
    ValueError
        If the prompts do not fit the embedding table, there is no example, or an argument is out of range.

    Source: Lester et al., arXiv 2104.08691; Singhal et al., arXiv 2212.13138 (instruction prompt tuning).
    """
    check_integer("n_epochs", n_epochs, 1)
    if not examples:
        raise ValueError("examples: expected at least one, got none")
    method = _optimizer(optimizer, learning_rate)
    prompt, n_virtual = initial_prompt, len(initial_prompt)
    state = method.init(prompt)
    losses = []
    for _ in range(n_epochs):
        for index in rng.permutation(len(examples)):
            sequence = examples[index] if context is None else build_sequence(context, examples[index])
            _check_tokens("examples", sequence, embedding)
            embeddings = np.concatenate([prompt, embedding[sequence.tokens]])
            # Only the appended example's label counts.
            last = np.where(sequence.types == sequence.types.max(), sequence.labels, -100)
            shifted = Prompt(*(np.concatenate([np.zeros(n_virtual, int), part]) for part in (*sequence[:2], last)))
            loss, gradient = _loss_and_gradient(model, embeddings, shifted, 1.0, "none")
            losses.append(loss)
            update, state = method.update(gradient[:n_virtual], state, prompt)
            prompt = prompt + update
    return CPTResult(prompt, np.array(losses))


def initial_virtual_tokens(
    embedding: Array,
    *,
    init: Literal["random", "text"],
    n_virtual_tokens: int,
    token_ids: Sequence[int] | None = None,
    token_types: Sequence[int] | None = None,
    rng: np.random.Generator | None = None,
) -> Array:
    """Where tuned tokens start: at the embeddings of a text, or at embeddings of random tokens.

    Parameters
    ----------
    embedding : array, shape (vocabulary, d)
    init : "text" needs `token_ids` and `token_types` of length `n_virtual_tokens`; "random" takes neither
    n_virtual_tokens : int >= 1
    token_ids, token_types : sequences of integers
    rng : np.random.Generator, for "random"

    Returns
    -------
    array, shape (n_virtual_tokens, d)

    Raises
    ------
    ValueError
        If what `init` needs is missing, or what it does not take is given.

    Source: the authors' library (``CPTConfig``).
    """
    check_integer("n_virtual_tokens", n_virtual_tokens, 1)
    if init == "random":
        if token_ids is not None or token_types is not None:
            raise ValueError("token_ids: expected none where init is 'random'")
        if rng is None:
            raise ValueError("rng: expected a generator where init is 'random'")
        return embedding[rng.integers(len(embedding), size=n_virtual_tokens)]
    if init != "text":
        raise ValueError(f"init: expected 'random' or 'text', got {init!r}")
    for name, given in (("token_ids", token_ids), ("token_types", token_types)):
        if given is None or len(given) != n_virtual_tokens:
            raise ValueError(f"{name}: expected {n_virtual_tokens} integers where init is 'text', got {given}")
    return embedding[np.asarray(token_ids)]


class Diagnostics(NamedTuple):
    """How far a context has moved: the share of its radius that each token uses, and its nearest other embedding."""

    used: Array
    """$\\lVert\\delta_p\\rVert/r_p$, shape ``(n_tokens,)``; 1 where the constraint is active."""
    nearest: Array
    """Index of the embedding with the largest cosine to the perturbation, shape ``(n_tokens,)``."""
    cosine: Array
    """That cosine; 0 for a token that has not moved."""


def diagnose_context(perturbation: Array, radii: Array, embedding: Array) -> Diagnostics:
    """What the perturbation does to each token.

    Parameters
    ----------
    perturbation : array, shape (n_tokens, d)
    radii : array, shape (n_tokens,), entries > 0
    embedding : array, shape (vocabulary, d)
    """
    lengths = np.linalg.norm(perturbation, axis=1)
    directions = perturbation / np.where(lengths > 0, lengths, 1)[:, None]
    cosines = directions @ (embedding / np.linalg.norm(embedding, axis=1, keepdims=True)).T
    return Diagnostics(lengths / radii, cosines.argmax(axis=1), cosines.max(axis=1) * (lengths > 0))


def _loss_and_gradient(
    model: FrozenModel, embeddings: Array, prompt: Prompt, decay: float, weighting: Weighting
) -> tuple[float, Array]:
    logits, pull_model = model(embeddings)
    loss, pull_loss = cpt_loss_vjp(logits, prompt.labels, prompt.types, decay, weighting)
    (to_logits,) = pull_loss(np.ones_like(loss))
    return float(loss), pull_model(to_logits)


def _optimizer(name: str, learning_rate: float) -> Optimizer:
    check_number("learning_rate", learning_rate, "(0, inf)")
    if name not in ("sgd", "adam"):
        raise ValueError(f"optimizer: expected 'sgd' or 'adam', got {name!r}")
    return sgd(learning_rate) if name == "sgd" else adam(learning_rate)


def _check_tokens(name: str, prompt: Prompt, embedding: Array) -> None:
    if not len(prompt.tokens) == len(prompt.types) == len(prompt.labels):
        raise ValueError(f"{name}: expected tokens, types and labels of one length, got {[*map(len, prompt)]}")
    if not np.all(np.isfinite(embedding)):
        raise ValueError("embedding: expected finite entries")
    if not (prompt.tokens.min() >= 0 and prompt.tokens.max() < len(embedding)):
        raise ValueError(f"{name}: expected tokens 0 to {len(embedding) - 1}, got {prompt.tokens}")
    if not label_mask(prompt.types).any():
        raise ValueError(f"{name}: expected a label token, got none")
