"""How alike in-context learning and fine-tuning are: predictions, updates, attention maps, weights (Section 4)."""

from typing import Any, Literal

import numpy as np

from refimpl.primitives.checks import check_integer, check_shapes
from refimpl.primitives.normalization import softmax
from refimpl.primitives.numbers import Array, constant, row_dot, sqrt
from refimpl.primitives.similarity import cosine_similarity


def _check_flags(**flags: Any) -> None:
    first, size = "", 0
    for name, flag in flags.items():
        if not np.issubdtype(getattr(flag, "dtype", object), np.bool_) or flag.ndim != 1:
            raise ValueError(f"{name}: expected a boolean array of shape (n,), got {flag!r:.60}")
        if first and flag.size != size:
            raise ValueError(f"{name}: expected {size} entries as in {first}, got {flag.size}")
        first, size = first or name, flag.size


def recall_to_finetuning(zsl_correct: Any, icl_correct: Any, ft_correct: Any) -> float:
    """Rec2FTP: of the queries that fine-tuning repairs, the share that in-context learning gets right.

    Parameters
    ----------
    zsl_correct, icl_correct, ft_correct : boolean array, shape (n,)

    Returns
    -------
    float in [0, 1], NaN where fine-tuning repairs nothing

    Raises
    ------
    ValueError
        If they are not boolean or differ in length.

    Source: arXiv 2212.10559, Section 4.2.
    """
    _check_flags(zsl_correct=zsl_correct, icl_correct=icl_correct, ft_correct=ft_correct)
    repaired = ~zsl_correct & ft_correct
    return float(np.mean(icl_correct[repaired])) if repaired.any() else float("nan")


def _unit(vectors: Array) -> Array:
    r"""$v/(\lVert v\rVert+10^{-20})$: a zero vector stays zero."""
    return np.asanyarray(vectors / (sqrt(row_dot(vectors, vectors)) + constant("1e-20", vectors)))


def _cosine_or_nan(a: Array, b: Array) -> Array:
    """The cosines, NaN where a vector is zero."""
    defined = np.any(a, axis=-1) & np.any(b, axis=-1)
    cosine = cosine_similarity(*(np.where(defined[..., None], vectors, 1) for vectors in (a, b)))
    return np.asanyarray(np.where(defined, cosine, np.asarray(np.nan, dtype=cosine.dtype)))


def _mean_of_defined(cosine: Array, axis: int | tuple[int, ...]) -> Array:
    """The mean of the entries that are not NaN; NaN where all are."""
    defined = ~np.isnan(cosine)
    count = defined.sum(axis=axis)
    total = np.where(defined, cosine, 0).sum(axis=axis)
    return np.asanyarray(np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(cosine.dtype))


def attention_output_update_similarity(
    h_zsl: Array, h_icl: Array, h_ft: Array, normalize: bool = True, mask: Any = None
) -> tuple[Array, Array]:
    r"""SimAOU: $\cos(\hat h_{ICL}-\hat h_{ZSL},\hat h_{FT}-\hat h_{ZSL})$, averaged over examples, then layers.

    Parameters
    ----------
    h_zsl, h_icl, h_ft : array, shape (..., n_examples, n_layers, d)
        Attention outputs at the last token.
    normalize : bool
        Bring each output, not each update, to length 1 first, as the paper does.
    mask : boolean array, shape (n_examples,), or None
        The examples to average over: the authors' code has a mode for those that both methods repair.

    Returns
    -------
    The mean of each layer, shape (..., n_layers), and of all, shape (...). An example with a zero update has no angle
    and is left out; the mean is NaN where none is left.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the mask is not boolean.

    Source: arXiv 2212.10559, Section 4.2; the normalisation from the authors' code.
    """
    shape = "... n_examples n_layers d"
    sizes = check_shapes(h_zsl=(h_zsl, shape), h_icl=(h_icl, shape), h_ft=(h_ft, shape))
    if normalize:
        h_zsl, h_icl, h_ft = map(_unit, (h_zsl, h_icl, h_ft))
    cosine = _cosine_or_nan(h_icl - h_zsl, h_ft - h_zsl)
    if mask is not None:
        _check_flags(examples=np.ones(sizes["n_examples"], dtype=bool), mask=mask)
        cosine = cosine[..., mask, :]
    per_layer = _mean_of_defined(cosine, -2)
    return per_layer, np.asanyarray(per_layer.mean(axis=-1))


def random_update(like: Array, rng: np.random.Generator, centred: bool = True) -> Array:
    r"""A baseline for :func:`attention_output_update_similarity`: random entries in place of an update.

    Parameters
    ----------
    like : array
        Whose shape and dtype it has.
    rng : numpy.random.Generator
    centred : bool
        Standard Gaussian entries. Those of the authors' code are uniform on $[0,1)$, False here: with their mean of
        one half they are not at a right angle to an update whose coordinates have a mean $m$, but at a cosine of about
        $\frac{\sqrt3}2\,m/\sqrt{m^2+s^2}$, $s$ their standard deviation.

    Source: the authors' code of arXiv 2212.10559.
    """
    draw = rng.standard_normal if centred else rng.random
    return np.asanyarray(draw(np.shape(like)).astype(like.dtype))


def attention_map_similarity(scores_a: Array, scores_b: Array) -> Array:
    """SimAM: the mean cosine of raw attention scores, over heads, examples and layers.

    Raw, so that a constant added to all scores of a head changes it although no attention weight changes.

    Parameters
    ----------
    scores_a, scores_b : array, shape (..., n_examples, n_layers, n_heads, n_tokens)
        Scores of the last token against the query-side tokens; shorter ones are padded by zeros at the left.

    Returns
    -------
    array, shape (...)
        Heads with all scores zero have no angle and are left out; NaN where none is left.

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2212.10559, Section 4.2.
    """
    shape = "... n_examples n_layers n_heads n_tokens"
    check_shapes(scores_a=(scores_a, shape), scores_b=(scores_b, shape))
    return _mean_of_defined(_cosine_or_nan(scores_a, scores_b), (-1, -2, -3))


# --- which demonstrations weigh most ---


def in_context_weights(scores: Array) -> Array:
    r"""$m_{ICL}=\mathrm{softmax}_i\big(\sum_hs_{hi}\big)$: what the last token attends to in the demonstrations.

    Parameters
    ----------
    scores : array, shape (..., n_heads, n_tokens)
        Raw scores of the last token against the content tokens of the demonstrations, without template and separators.

    Returns
    -------
    array, shape (..., n_tokens)

    Raises
    ------
    ValueError
        If it is no such array or an entry is not finite.

    Source: arXiv 2212.10559, Section 4.2; heads summed before the softmax as in the authors' code.
    """
    check_shapes(scores=(scores, "... n_heads n_tokens"))
    return softmax.unchecked(scores.sum(axis=-2))


def finetuning_weights(training_queries: Array, query: Array) -> Array:
    r"""$m_{FT}=\mathrm{softmax}_i(q_i'^\top q)$: what fine-tuning attends to, by its dual form.

    A key projection that is tuned at a training token with query $q_i'$ receives outer products with $q_i'$: for a
    later query the training queries play the part of keys.

    Parameters
    ----------
    training_queries : array, shape (..., n_tokens, d)
        Queries of the training tokens at the time of their step, heads concatenated; no factor $1/\sqrt d$.
    query : array, shape (..., d)
        Of the last token of the test example in the tuned model.

    Returns
    -------
    array, shape (..., n_tokens)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2212.10559, Section 4.2.
    """
    check_shapes(training_queries=(training_queries, "... n_tokens d"), query=(query, "... d"))
    return softmax.unchecked((training_queries @ query[..., None])[..., 0])


def example_weights(token_weights: Array, example_of: Any) -> Array:
    """The sum of the weights of each demonstration's tokens.

    Parameters
    ----------
    token_weights : array, shape (..., n_tokens)
    example_of : integer array, shape (n_tokens,)
        The demonstration that each token belongs to, from 0; every one up to the largest has a token.

    Returns
    -------
    array, shape (..., n_examples)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a demonstration has no token.

    Source: the authors' code of arXiv 2212.10559.
    """
    sizes = check_shapes(token_weights=(token_weights, "... n_tokens"))
    if not np.issubdtype(getattr(example_of, "dtype", object), np.integer) or example_of.shape != (sizes["n_tokens"],):
        raise ValueError(
            f"example_of: expected an integer array of shape ({sizes['n_tokens']},), got {example_of!r:.60}"
        )
    present = np.unique(example_of)
    if not np.array_equal(present, np.arange(len(present))):
        raise ValueError(f"example_of: expected all numbers from 0 to the largest, got {present}")
    return np.asanyarray(token_weights @ (example_of[:, None] == present).astype(int).astype(token_weights.dtype))


def kendall_tau(a: Array, b: Array, variant: Literal["a", "b"] = "a") -> Array:
    r"""Kendall's rank correlation of two rankings of the same items.

    $$\tau_a=\frac{P_c-P_d}{\binom N2},\qquad\tau_b=\frac{P_c-P_d}{\sqrt{(n_0-n_1)(n_0-n_2)}}$$

    with $n_0=\binom N2$ pairs, $n_1,n_2$ of them tied in `a` and in `b`.

    Parameters
    ----------
    a, b : array, shape (..., n), n >= 2
    variant : "a", the paper's definition, or "b", the authors' code

    Returns
    -------
    array, shape (...)
        NaN for variant "b" where one ranking is all ties.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, there are fewer than two items or the variant is unknown.

    Source: arXiv 2212.10559, Section 4.2.
    """
    sizes = check_shapes(a=(a, "... n"), b=(b, "... n"))
    check_integer("n, the number of items", sizes["n"], 2)
    if variant not in ("a", "b"):
        raise ValueError(f"variant: expected 'a' or 'b', got {variant!r}")
    rows, columns = np.triu_indices(sizes["n"], 1)
    order_a, order_b = (np.sign(x[..., rows] - x[..., columns]) for x in (a, b))
    balance = (order_a * order_b).sum(axis=-1)
    if variant == "a":
        return np.asanyarray(balance / rows.size)
    untied = [np.abs(order).sum(axis=-1) for order in (order_a, order_b)]
    norm = sqrt(untied[0]) * sqrt(untied[1])
    return np.asanyarray(np.where(norm == 0, np.nan, balance / np.where(norm == 0, 1, norm)).astype(balance.dtype))


def top_k_recall(a: Array, b: Array, k: int) -> Array:
    """The share of the `k` largest entries of `a` that are among the `k` largest of `b`, shape (...) from (..., n).

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or `k` is not from 1 to n.

    Source: the authors' code of arXiv 2212.10559.
    """
    sizes = check_shapes(a=(a, "... n"), b=(b, "... n"))
    k = check_integer("k", k, 1, sizes["n"])
    best_a, best_b = (np.argsort(-x, axis=-1, kind="stable")[..., :k] for x in (a, b))
    return np.asanyarray((best_a[..., :, None] == best_b[..., None, :]).any(axis=-1).mean(axis=-1))
