r"""Token types, the loss over labels inside the context, and the balls that perturbations stay in."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_array, check_integer, check_number, check_shapes, checked
from refimpl.primitives.losses import cross_entropy, cross_entropy_vjp
from refimpl.primitives.numbers import Array, is_symbolic, positive_part, row_dot, row_max, sqrt

Integers = np.ndarray[Any, np.dtype[np.integer[Any]]]
Weighting = Literal["decay", "none"]
Norm = Literal["l2", "linf"]

IGNORED = -100
"""The label of a token that is not predicted, as in the authors' library."""


class Prompt(NamedTuple):
    """Tokens in a row, each with its type and, where it is a label to be predicted, its label."""

    tokens: Integers
    """Shape ``(n_tokens,)``, indices into a vocabulary."""
    types: Integers
    """Shape ``(n_tokens,)``, see :func:`token_type_mask`."""
    labels: Integers
    """Shape ``(n_tokens,)``: the token itself where it is a label, `IGNORED` elsewhere."""


def token_type_mask(segments: Sequence[tuple[int, int, int, int]]) -> Integers:
    r"""The type of each token of a context: $4k+1$ to $4k+4$ in example $k$.

    Parameters
    ----------
    segments : for each example the numbers of tokens of its input template, input, output template and label
        All >= 0, with at least one label token in each.

    Returns
    -------
    array of integers, shape (n_tokens,); 0, which does not occur here, marks tokens of no type

    Raises
    ------
    ValueError
        If there is no example, a length is negative, or an example has no label.

    Source: arXiv 2410.17222, Section 3, and the authors' library (``cpt_tokens_type_mask``).
    """
    if not segments:
        raise ValueError("segments: expected at least one example, got none")
    types: list[int] = []
    for k, lengths in enumerate(segments):
        if len(lengths) != 4:
            raise ValueError(f"segments[{k}]: expected 4 lengths, got {len(lengths)}")
        for kind, length in enumerate(lengths, 1):
            types += [4 * k + kind] * check_integer(f"segments[{k}][{kind - 1}]", length, int(kind == 4))
    return np.array(types)


def trainable_mask(types: Integers) -> Array:
    """Where a token's embedding may move: templates and inputs, never labels or tokens without a type.

    Returns
    -------
    boolean array, the shape of `types`
    """
    types = _check_types(types)
    return types % 4 != 0


def label_mask(types: Integers) -> Array:
    """Where a token is a label: type positive and divisible by 4; same shape."""
    types = _check_types(types)
    return (types % 4 == 0) & (types > 0)


def build_sequence(context: Prompt, example: Prompt) -> Prompt:
    """The context followed by one example, whose types become those of the next example.

    The example may also stand in the context: then its loss can be met by copying.

    Parameters
    ----------
    context, example : Prompt
        The types of `example` are those of a context of one.

    Raises
    ------
    ValueError
        If the arrays of a prompt differ in length, or the context has no label.

    Source: arXiv 2410.17222, Section 3 (the training sequence).
    """
    for name, prompt in (("context", context), ("example", example)):
        if not len(prompt.tokens) == len(prompt.types) == len(prompt.labels):
            raise ValueError(f"{name}: expected tokens, types and labels of one length, got {[*map(len, prompt)]}")
        if not label_mask(prompt.types).any():
            raise ValueError(f"{name}: expected a label token, got none")
    start = 4 * -(-int(context.types.max()) // 4)
    types = np.where(example.types > 0, example.types + start, 0)
    joined = (np.concatenate(pair) for pair in zip(context, example._replace(types=types), strict=True))
    return Prompt(*joined)


# --- the loss ---


def label_loss_weights(types: Integers, decay: float, weighting: Weighting = "decay") -> Array:
    r"""$w_j=\gamma^{m-j}$ for the tokens of the $j$-th of $m$ label groups, 0 for all other tokens.

    Groups count by the rank of the label types that occur, so gaps in the numbering do not matter.

    Parameters
    ----------
    types : array of integers, shape (n_tokens,)
    decay : number in (0, 1]
        $\gamma$.
    weighting : "decay", or "none" for weight 1 in every group

    Returns
    -------
    array, shape (n_tokens,)

    Raises
    ------
    ValueError
        If `decay` is out of range, there is no label token, or `weighting` is unknown.

    Source: arXiv 2410.17222, Section 3 (decaying loss); the authors' library for ties and gaps.
    """
    decay = check_number("decay", decay, "(0, 1]")
    if weighting not in ("decay", "none"):
        raise ValueError(f"weighting: expected 'decay' or 'none', got {weighting!r}")
    is_label = label_mask(types)
    if not is_label.any():
        raise ValueError("types: expected at least one label token, got none")
    groups, rank = np.unique(types[is_label], return_inverse=True)
    weights = np.zeros(types.shape, dtype=object if hasattr(decay, "free_symbols") else float)
    weights[is_label] = 1 if weighting == "none" else decay ** (len(groups) - 1 - rank)
    return weights


def _check_loss(
    logits: Array, labels: Integers, types: Integers, decay: float = 1.0, weighting: Weighting = "decay"
) -> None:
    sizes = check_shapes(logits=(logits, "... n_tokens n_classes"))
    for name, integers in (("labels", labels), ("types", types)):
        if getattr(integers, "dtype", None) is None or integers.dtype.kind not in "iu":
            raise ValueError(f"{name}: expected an array of integers, got {type(integers).__name__}")
        if integers.shape != (sizes["n_tokens"],):
            raise ValueError(f"{name}: expected shape ({sizes['n_tokens']},) as in logits, got {integers.shape}")
    predicted = labels[labels != IGNORED]
    if predicted.size and not (predicted.min() >= 0 and predicted.max() < sizes["n_classes"]):
        raise ValueError(f"labels: expected 0 to {sizes['n_classes'] - 1} or {IGNORED}, got {predicted}")
    label_loss_weights(types, decay, weighting)
    if not _predicted(labels, types).any():
        raise ValueError("labels: expected a label token after the first token, got none")


@checked(_check_loss)
def cpt_loss(
    logits: Array, labels: Integers, types: Integers, decay: float = 1.0, weighting: Weighting = "decay"
) -> Array:
    r"""$\frac1{|\mathcal Y|}\sum_{t\in\mathcal Y}w_{g(t)}\,\mathrm{CE}_t$ over label tokens, predicted from before.

    The mean divides by the **number** of label tokens, not by the sum of the weights: a smaller decay also makes a
    smaller step.

    Parameters
    ----------
    logits : array, shape (..., n_tokens, n_classes)
        At position $t$ they predict token $t+1$.
    labels : array of integers, shape (n_tokens,)
        `IGNORED` where nothing is predicted.
    types : array of integers, shape (n_tokens,)
    decay : number in (0, 1]
    weighting : "decay" or "none"

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is no class, or there is no label token.

    Source: arXiv 2410.17222, Section 3.
    """
    where, weights, count = _terms(logits, labels, types, decay, weighting)
    losses = cross_entropy.unchecked(*_gathered(logits, labels, where))
    return np.asanyarray((losses * weights).sum(axis=-1) / count)


@checked(_check_loss)
def cpt_loss_vjp(
    logits: Array, labels: Integers, types: Integers, decay: float = 1.0, weighting: Weighting = "decay"
) -> tuple[Array, Callable[[Array], tuple[Array]]]:
    """:func:`cpt_loss` and its pullback ``cotangent -> (logits,)``."""
    where, weights, count = _terms(logits, labels, types, decay, weighting)
    losses, pull = cross_entropy_vjp.unchecked(*_gathered(logits, labels, where))

    def pullback(cotangent: Array) -> tuple[Array]:
        to_logits = np.zeros_like(logits)
        (to_logits[..., np.flatnonzero(where) - 1, :],) = pull(np.asanyarray(cotangent)[..., None] * weights / count)
        return (to_logits,)

    return np.asanyarray((losses * weights).sum(axis=-1) / count), pullback


def _predicted(labels: Integers, types: Integers) -> Array:
    where = label_mask(types) & (labels != IGNORED)
    where[0] = False  # nothing stands before the first token
    return where


def _gathered(logits: Array, labels: Integers, where: Array) -> tuple[Array, Integers]:
    """The logits that predict label tokens, and the labels for each of them."""
    found = logits[..., np.flatnonzero(where) - 1, :]
    return found, np.broadcast_to(labels[where], found.shape[:-1])


def _terms(
    logits: Array, labels: Integers, types: Integers, decay: float, weighting: Weighting
) -> tuple[Array, Array, int]:
    """Which tokens are predicted, their weights in the logits' dtype, and the number of label tokens."""
    where = _predicted(labels, types)
    weights = label_loss_weights(types, decay, weighting)[where].astype(logits.dtype)
    return where, weights, int(label_mask(types).sum())


# --- the constraint ---

SAFE = 2.0**-12, 2.0**14
"""Between them a sum of squares neither underflows nor overflows in any format; else it is taken of scaled numbers."""


def token_radii(types: Integers, eps_input: float, eps_format: float, d_model: int, reference_dim: int = 2048) -> Array:
    r"""$\epsilon\sqrt{d/2048}$ with the $\epsilon$ of a token's kind, $10^{-10}$ for tokens that must not move.

    Parameters
    ----------
    types : array of integers, shape (n_tokens,)
    eps_input, eps_format : numbers >= 0
        Of inputs, and of both templates.
    d_model, reference_dim : int >= 1

    Returns
    -------
    array, shape (n_tokens,)

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: the authors' library (``cpt_projection``), with its scale by dimension.
    """
    eps_input = check_number("eps_input", eps_input, "[0, inf)")
    eps_format = check_number("eps_format", eps_format, "[0, inf)")
    d_model, reference_dim = check_integer("d_model", d_model, 1), check_integer("reference_dim", reference_dim, 1)
    kind = _check_types(types) % 4
    scale = sqrt(np.asarray(d_model / reference_dim))[()]
    return np.select([kind == 0, kind == 2], [1e-10, eps_input * scale], eps_format * scale)


def _check_projection(perturbation: Array, radii: Array, norm: Norm = "l2") -> None:
    check_shapes(perturbation=(perturbation, "... n_tokens d"), radii=(radii, "n_tokens"))
    if not is_symbolic(radii) and np.any(radii < 0):
        raise ValueError(f"radii: expected numbers >= 0, got {radii.min()}")
    if norm not in ("l2", "linf"):
        raise ValueError(f"norm: expected 'l2' or 'linf', got {norm!r}")


@checked(_check_projection)
def project_tokens(perturbation: Array, radii: Array, norm: Norm = "l2") -> Array:
    r"""The nearest perturbation whose tokens stay in their balls: $\delta_p\,r_p/\max(\lVert\delta_p\rVert,r_p)$.

    Parameters
    ----------
    perturbation : array, shape (..., n_tokens, d)
    radii : array, shape (n_tokens,), entries >= 0
    norm : "l2" as in the paper, "linf" to clip coordinates as an attack does

    Returns
    -------
    array, shape (..., n_tokens, d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or a radius is negative.

    Source: arXiv 2410.17222, Section 3 (projection); symbols need ``norm="l2"``.
    """
    radii = radii[:, None].astype(perturbation.dtype)
    if norm == "linf":
        return np.clip(perturbation, -radii, radii)
    squares = row_dot(perturbation, perturbation)
    lengths = sqrt(squares)
    if not is_symbolic(perturbation) and not SAFE[0] < squares.min() <= squares.max() < SAFE[1]:
        largest = row_max(np.abs(perturbation))
        largest = np.where(largest > 0, largest, 1).astype(perturbation.dtype)
        scaled = perturbation / largest
        lengths = largest * sqrt(row_dot(scaled, scaled))
    bounds = radii + positive_part(lengths - radii)
    if not is_symbolic(perturbation):
        bounds = np.where(bounds > 0, bounds, 1)  # radius and perturbation both 0
    return perturbation * (radii / bounds)


def _check_types(types: Any) -> Integers:
    types = np.asarray(types)
    if types.dtype.kind not in "iu" or types.ndim != 1 or types.size == 0:
        raise ValueError(f"types: expected a row of integers, got dtype {types.dtype} and shape {types.shape}")
    if types.min() < 0:
        raise ValueError(f"types: expected integers >= 0, got {types.min()}")
    return types


def check_embeddings(embeddings: Array, types: Integers) -> None:
    """Raise ``ValueError`` unless there is one finite embedding (..., n_tokens, d) for each type."""
    check_array("embeddings", embeddings)
    if embeddings.ndim < 2 or embeddings.shape[-2] != len(_check_types(types)):
        raise ValueError(f"types: expected {embeddings.shape[-2]} as there are tokens, got {len(types)}")
