r"""A frozen model in closed form: attention whose keys are the context's inputs, and a softmax over its labels.

It stands for a language model after a layer that has copied each input into its label token. A query $z$ attends to
the context with $a=\mathrm{softmax}(\kappa Xz)$ and predicts $p=\mathrm{softmax}(\beta Y^\top a)$. Context-aware tuning
moves the keys $X$; examples are rows, and leading axes hold independent draws of the few shots.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from refimpl.incontext.context_prompt_tuning.tokens import project_tokens
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.normalization import softmax
from refimpl.primitives.numbers import Array, constant, exp, log, transpose


class FewShots(NamedTuple):
    """Draws of a few labelled examples in context order, and what each term of the loss asks for.

    The loss of the paper has ``values == context_targets == example_targets``; controls set them apart.
    """

    inputs: Array
    """Shape ``(..., n, d)``: the plain embeddings, which the appended example keeps."""
    values: Array
    """Shape ``(..., n, n_classes)``: one-hot labels that the context shows."""
    example_targets: Array
    """Shape ``(..., n, n_classes)``: what the appended copy of each example should be told."""
    context_targets: Array
    """Shape ``(..., n, n_classes)``: what each context label should be predicted as."""


def few_shots(inputs: Array, labels: Any, n_classes: int) -> FewShots:
    """The examples of the paper's loss: all targets are the labels.

    Parameters
    ----------
    inputs : array, shape (..., n, d)
    labels : array of integers, shape (..., n), from 0 to n_classes - 1
    n_classes : int >= 1

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or a label is no class.
    """
    check_shapes(inputs=(inputs, "... n d"))
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape != inputs.shape[:-1]:
        raise ValueError(f"labels: expected integers of shape {inputs.shape[:-1]}, got {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() >= check_integer("n_classes", n_classes, 1):
        raise ValueError(f"labels: expected classes 0 to {n_classes - 1}, got {labels.min()} to {labels.max()}")
    values = np.eye(n_classes, dtype=inputs.dtype)[labels]
    return FewShots(inputs, values, values, values)


def recency_weights(n_examples: int, decay: float) -> Array:
    r"""$w_j=\gamma^{n+1-j}$ for context labels $j=2..n$, counted back from the appended example; $w_1=0$.

    The first label has no context before it: its prediction is constant.

    Raises
    ------
    ValueError
        If the decay is not in (0, 1] or there is no example.

    Source: arXiv 2410.17222, Section 3.
    """
    n_examples = check_integer("n_examples", n_examples, 1)
    weights = check_number("decay", decay, "(0, 1]") ** np.arange(n_examples, 0, -1)
    return np.where(np.arange(n_examples) > 0, weights, 0.0)


def _check_predict(keys: Array, values: Array, queries: Array, sharpness: float = 6, confidence: float = 6) -> None:
    check_shapes(keys=(keys, "... n d"), values=(values, "... n n_classes"), queries=(queries, "... n_queries d"))
    check_number("sharpness", sharpness, "(0, inf)")
    check_number("confidence", confidence, "(0, inf)")


@checked(_check_predict)
def kernel_predict(keys: Array, values: Array, queries: Array, sharpness: float = 6, confidence: float = 6) -> Array:
    r"""Class logits $\beta\,\mathrm{softmax}(\kappa ZX^\top)Y$ of queries.

    Parameters
    ----------
    keys : array, shape (..., n, d)
        Perturbed or plain inputs of the context.
    values : array, shape (..., n, n_classes)
    queries : array, shape (..., n_queries, d)
    sharpness, confidence : numbers > 0
        $\kappa$ and $\beta$.

    Returns
    -------
    array, shape (..., n_queries, n_classes)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or a number is not positive.
    """
    return confidence * (softmax.unchecked(sharpness * (queries @ transpose(keys))) @ values)


def _check_loss(
    keys: Array,
    inputs: Array,
    values: Array,
    example_targets: Array,
    context_targets: Array,
    context_weights: Array,
    example_weight: float = 1,
    leave_out: bool = False,
    sharpness: float = 6,
    confidence: float = 6,
) -> None:
    sizes = check_shapes(
        keys=(keys, "... n d"),
        inputs=(inputs, "... n d"),
        values=(values, "... n n_classes"),
        example_targets=(example_targets, "... n n_classes"),
        context_targets=(context_targets, "... n n_classes"),
        context_weights=(context_weights, "n"),
    )
    if sizes["n"] < 2 and leave_out:
        raise ValueError(f"leave_out: expected at least 2 examples, got {sizes['n']}")
    check_number("example_weight", example_weight, "[0, inf)")
    check_number("sharpness", sharpness, "(0, inf)")
    check_number("confidence", confidence, "(0, inf)")


@checked(_check_loss)
def kernel_prompt_loss(
    keys: Array,
    inputs: Array,
    values: Array,
    example_targets: Array,
    context_targets: Array,
    context_weights: Array,
    example_weight: float = 1,
    leave_out: bool = False,
    sharpness: float = 6,
    confidence: float = 6,
) -> Array:
    r"""The full-batch loss of context-aware tuning in this model,

    $$\frac1n\Big[\frac1n\sum_i\mathrm{CE}(x_i\mid\tilde X)
    +\sum_{j\ge2}w_j\,\mathrm{CE}(\tilde x_j\mid\tilde X_{<j})\Big].$$

    Parameters
    ----------
    keys : array, shape (..., n, d)
        $\tilde X$, the perturbed inputs.
    inputs : array, shape (..., n, d)
        The plain inputs, with which each example is appended in turn.
    values, example_targets, context_targets : array, shape (..., n, n_classes)
        As in :class:`FewShots`.
    context_weights : array, shape (n,)
        $w_j$; the first is ignored, for nothing stands before the first label.
    example_weight : number >= 0
        Factor of the first term; 0 leaves the context labels alone.
    leave_out : bool
        Take the appended example out of its own context, so that it cannot be copied.
    sharpness, confidence : numbers > 0

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or a number is out of range.

    Source: arXiv 2410.17222, Section 3, in expectation over the appended example.
    """
    return kernel_prompt_loss_vjp.unchecked(
        keys,
        inputs,
        values,
        example_targets,
        context_targets,
        context_weights,
        example_weight,
        leave_out,
        sharpness,
        confidence,
    )[0]


@checked(_check_loss)
def kernel_prompt_loss_vjp(
    keys: Array,
    inputs: Array,
    values: Array,
    example_targets: Array,
    context_targets: Array,
    context_weights: Array,
    example_weight: float = 1,
    leave_out: bool = False,
    sharpness: float = 6,
    confidence: float = 6,
) -> tuple[Array, Callable[[Array], tuple[Array]]]:
    """:func:`kernel_prompt_loss` and its pullback ``cotangent -> (keys,)``: the prompt is all that is tuned."""
    terms = _terms(
        inputs, values, example_targets, context_targets, context_weights, example_weight, leave_out, confidence
    )
    return _loss_vjp(keys, terms, sharpness)


class _Terms(NamedTuple):
    """What the loss is made of beside the keys. Queries are columns, so that NumPy's inner loops run along them."""

    inputs: Array
    queries: Array
    """Shape (..., d, 2n): the inputs of the appended examples, and room for the keys, which the context labels ask."""
    values: Array
    """Those of the context times the confidence, shape (..., n, n_classes)."""
    targets: Array
    """Shape (..., n_classes, 2n)."""
    weights: Array
    """Shape (2n,)."""
    visible: Array
    """Which keys a query sees, boolean, shape (n, 2n)."""
    hidden: Array
    """0 where it sees the key, else -inf."""


def _terms(
    inputs: Array,
    values: Array,
    example_targets: Array,
    context_targets: Array,
    context_weights: Array,
    example_weight: float,
    leave_out: bool,
    confidence: float,
) -> _Terms:
    n = inputs.shape[-2]
    appended = ~np.eye(n, dtype=bool) if leave_out else np.ones((n, n), dtype=bool)
    before = np.tri(n, k=-1, dtype=bool).T
    before[0, 0] = True  # the first label has no context; whatever it attends to, its weight is 0
    label_weights = (np.arange(n) > 0).astype(int) * context_weights
    weights = np.concatenate([0 * label_weights + example_weight / constant(n, inputs), label_weights]) / n
    visible = np.concatenate([appended, before], axis=-1)
    return _Terms(
        inputs,
        transpose(np.concatenate([inputs, inputs], axis=-2)).copy(),
        confidence * values,
        transpose(np.concatenate([example_targets, context_targets], axis=-2)).copy(),
        weights.astype(inputs.dtype),
        visible,
        np.where(visible, 0, -np.inf).astype(inputs.dtype),
    )


def _loss_vjp(keys: Array, terms: _Terms, sharpness: float) -> tuple[Array, Callable[[Array], tuple[Array]]]:
    """Appended examples and context labels are queries of one attention, that see different keys."""
    n = keys.shape[-2]
    terms.queries[..., n:] = transpose(keys)
    scores = (sharpness * keys) @ terms.queries
    if scores.dtype == object:
        attention = exp(scores) * terms.visible.astype(int)
    else:
        scores += terms.hidden
        scores -= _column_max(scores)
        attention = exp(scores)
    attention /= _column_sum(attention)
    logits = transpose(terms.values) @ attention
    largest = _column_max(logits)
    prediction = exp(logits - largest)
    total = _column_sum(prediction)
    prediction /= total
    losses = (largest + log(total))[..., 0, :] - _column_dot(terms.targets, logits)

    def pullback(cotangent: Array) -> tuple[Array]:
        to_losses = np.asanyarray(cotangent)[..., None] * terms.weights
        to_logits = prediction - terms.targets
        to_logits *= to_losses[..., None, :]
        to_scores = terms.values @ to_logits
        # The mean of to_scores under the attention, computed where it is smaller: over the classes.
        to_scores -= _column_dot(to_logits, logits)[..., None, :]
        to_scores *= attention
        # A context label's score is a product of two keys.
        between = to_scores[..., n:]
        to_keys = to_scores[..., :n] @ terms.inputs
        to_keys += (between + transpose(between)) @ keys
        to_keys *= sharpness
        return (to_keys,)

    return np.asanyarray((losses * terms.weights).sum(axis=-1)), pullback


def _column_max(x: Array) -> Array:
    """Maximum over the axis before the last, which is kept; zeros for symbols. By halves, for NumPy goes row by row."""
    if x.dtype == object:
        return 0 * x[..., :1, :]
    while x.shape[-2] > 1:
        half = (x.shape[-2] + 1) // 2
        x = np.maximum(x[..., :half, :], x[..., -half:, :])
    return x


def _column_sum(x: Array) -> Array:
    """Sum over the axis before the last, which is kept."""
    ones = np.ones((1, x.shape[-2]), dtype=int if x.dtype == object else x.dtype)
    return np.asanyarray(ones @ x)


def _column_dot(x: Array, y: Array) -> Array:
    """Inner products of corresponding columns."""
    return np.einsum("...ij,...ij->...j", x, y)


class KernelTuning(NamedTuple):
    """A tuned context."""

    perturbation: Array
    """Shape ``(..., n, d)``."""
    losses: Array
    """Before every step and after the last, shape ``(n_steps + 1, ...)``."""


def tune_kernel_prompt(
    shots: FewShots,
    radius: float,
    context_weights: Array,
    *,
    n_steps: int = 60,
    learning_rate: float = 1.2,
    example_weight: float = 1,
    leave_out: bool = False,
    direction: Literal["minimise", "maximise"] = "minimise",
    norm: Literal["l2", "linf"] = "l2",
    sharpness: float = 6,
    confidence: float = 6,
) -> KernelTuning:
    r"""Full-batch projected gradient steps $\delta\leftarrow\Pi(\delta\mp\eta\nabla L)$ from $\delta=0$.

    Parameters
    ----------
    shots : FewShots
    radius : number > 0, or infinity for no projection
        Of the ball of every input.
    context_weights : array, shape (n,)
        See :func:`recency_weights`; zeros leave the appended examples alone.
    n_steps : int >= 0
    learning_rate : number > 0
        $\eta$, of the loss with its factor $1/n$.
    example_weight, leave_out, sharpness, confidence : as for :func:`kernel_prompt_loss`
    direction : "maximise" for the attack that the method turns round
    norm : of the ball

    Returns
    -------
    KernelTuning

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or an argument is out of range.

    Source: arXiv 2410.17222, Section 3 and Algorithm 1, in full batch.
    """
    n_steps = check_integer("n_steps", n_steps, 0)
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    if direction not in ("minimise", "maximise"):
        raise ValueError(f"direction: expected 'minimise' or 'maximise', got {direction!r}")
    if radius != float("inf"):
        check_number("radius", radius, "[0, inf)")
    arguments = (*shots, context_weights, example_weight, leave_out)
    kernel_prompt_loss.check(shots.inputs, *arguments, sharpness, confidence)
    step = learning_rate if direction == "minimise" else -learning_rate
    terms = _terms(*arguments, confidence)
    perturbation = np.zeros_like(shots.inputs)
    radii = np.full(shots.inputs.shape[-2], radius)
    losses = []
    for _ in range(n_steps):
        loss, pullback = _loss_vjp(shots.inputs + perturbation, terms, sharpness)
        losses.append(loss)
        (gradient,) = pullback(np.ones_like(loss))
        perturbation = perturbation - step * gradient
        if radius != float("inf"):
            perturbation = project_tokens.unchecked(perturbation, radii, norm)
    losses.append(_loss_vjp(shots.inputs + perturbation, terms, sharpness)[0])
    return KernelTuning(perturbation, np.stack(losses))


def with_sinks(keys: Array, values: Array, sinks: Array) -> tuple[Array, Array]:
    """Free key rows of zero value before the context, as instruction prompt tuning adds them.

    Parameters
    ----------
    keys : array, shape (..., n, d)
    values : array, shape (..., n, n_classes)
    sinks : array, shape (..., n_sinks, d)

    Returns
    -------
    keys and values with ``n_sinks`` more rows

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    check_shapes(keys=(keys, "... n d"), values=(values, "... n n_classes"), sinks=(sinks, "... n_sinks d"))
    nothing = np.zeros((*sinks.shape[:-1], values.shape[-1]), dtype=values.dtype)
    return np.concatenate([sinks, keys], axis=-2), np.concatenate([nothing, values], axis=-2)
