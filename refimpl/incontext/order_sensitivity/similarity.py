r"""How alike two output distributions are: accuracy, shared top tokens and their cosine (Section 5.1)."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from refimpl.incontext.order_sensitivity.sensitivity import bootstrap_interval, check_distributions, check_labels
from refimpl.primitives.checks import check_integer
from refimpl.primitives.numbers import Array, row_dot, sqrt

Penalty = Literal["inside", "outside"]
Inner = Callable[[Array, Array], Array]


def full_vocabulary_accuracy(distributions: Array, labels: Any) -> Array:
    """The share of test inputs whose most probable token, of the whole vocabulary, is the label.

    Parameters
    ----------
    distributions : array, shape (..., n_test, n_tokens)
    labels : integers, shape (n_test,)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If rows are not distributions, or labels are not tokens, one a test input.

    Source: arXiv 2310.08540, Section 5.1.
    """
    return np.asanyarray(_correct(distributions, labels).mean(axis=-1))


def _correct(distributions: Array, labels: Any) -> Array:
    sizes = check_distributions(distributions=(distributions, "... n_test n_tokens"))
    labels = check_labels(labels, (sizes["n_test"],), sizes["n_tokens"])
    return distributions.argmax(axis=-1) == labels


def _check_pair(p: Any, q: Any, k: int, penalty: str = "inside") -> int:
    sizes = check_distributions(p=(p, "... n_tokens"), q=(q, "... n_tokens"))
    if penalty not in ("inside", "outside"):
        raise ValueError(f"penalty: expected 'inside' or 'outside', got {penalty!r}")
    return int(check_integer("k", k, 1, sizes["n_tokens"]))


def token_overlap(p: Array, q: Array, k: int = 10) -> Array:
    r"""$|T_K(p)\cap T_K(q)|/K$, the share of the K most probable tokens that two distributions have in common.

    Of tokens with equal probability the first come first.

    Parameters
    ----------
    p, q : array, shape (..., n_tokens)
    k : int from 1 to n_tokens

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If rows are not distributions, shapes differ or `k` is out of range.

    Source: arXiv 2310.08540, Section 5.1.
    """
    return similarities(p, q, _check_pair(p, q, k), "inside", _by_row)[0]


def overlap_cosine(p: Array, q: Array, k: int = 10, penalty: Penalty = "inside") -> Array:
    r"""Cosine over the shared top tokens $O$; each of the $K-|O|$ others adds 1 to the denominator.

    $$\frac{\sum_Op\,q}{\sqrt{\sum_Op^2\sum_Oq^2+K-|O|}}\ \text{(inside)},\qquad
    \frac{\sum_Op\,q}{\sqrt{\sum_Op^2\sum_Oq^2}+K-|O|}\ \text{(outside)}$$

    It is 0 where nothing is shared. A flat distribution loses more by one token than a peaked one.

    Parameters
    ----------
    p, q : array, shape (..., n_tokens)
    k : int from 1 to n_tokens
    penalty : "inside" or "outside" the root
        The paper's text leaves it open.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If rows are not distributions, shapes differ, `k` is out of range or `penalty` unknown.

    Source: arXiv 2310.08540, Section 5.1.
    """
    return similarities(p, q, _check_pair(p, q, k, penalty), penalty, _by_row)[1]


def top_tokens(p: Array, k: int) -> Array:
    """1 for the `k` most probable tokens, else 0, shape and dtype of `p`; of equals the first come first."""
    best = np.argsort(-p, axis=-1, kind="stable")[..., :k]
    chosen = np.zeros_like(p)
    np.put_along_axis(chosen, best, 1, axis=-1)
    return chosen


def similarities(p: Array, q: Array, k: int, penalty: Penalty, inner: Inner) -> tuple[Array, Array]:
    """Overlap and cosine, of corresponding rows or of all pairs as `inner` has it; arguments unchecked."""
    top_p, top_q = top_tokens(p, k), top_tokens(q, k)
    shared_p, shared_q = p * top_p, q * top_q
    shared = inner(top_p, top_q)
    squares = inner(shared_p * shared_p, top_q) * inner(top_p, shared_q * shared_q)
    denominator = sqrt(squares + (k - shared)) if penalty == "inside" else sqrt(squares) + (k - shared)
    # One of the top tokens is the most probable: the denominator is 0 for no distribution.
    return np.asanyarray(shared / k), np.asanyarray(inner(shared_p, shared_q) / denominator)


def _by_row(a: Array, b: Array) -> Array:
    return row_dot(a, b)[..., 0]


def _all_pairs(a: Array, b: Array) -> Array:
    """Inner products of the rows of (R, n_test, V) with those of (S, n_test, V): shape (R, S, n_test)."""
    return np.asanyarray(np.moveaxis(np.swapaxes(a, 0, 1) @ np.moveaxis(b, 0, -1), 0, -1))


class Similarity(NamedTuple):
    """One metric: in-context learning against itself, and against gradient descent."""

    floor: float
    """Of two orders of the demonstrations, the mean over all pairs."""
    similarity: float
    """Of in-context learning and gradient descent, the mean over all pairs of orders."""
    low: float
    high: float
    """95% bootstrap interval of ``floor - similarity`` over test inputs."""

    @property
    def differs(self) -> bool:
        """Whether gradient descent is less like in-context learning than another order is, beyond the interval."""
        return self.low > 0


class Comparison(NamedTuple):
    """In-context learning beside gradient descent, metric by metric."""

    agreement: Similarity
    """Both right or both wrong, by the most probable token of the vocabulary."""
    overlap: Similarity
    cosine: Similarity
    icl_accuracy: float
    gd_accuracy: float


def compare_icl_gd(
    icl: Array,
    gd: Array,
    labels: Any,
    rng: np.random.Generator,
    k: int = 10,
    penalty: Penalty = "inside",
    n_bootstrap: int = 2000,
) -> Comparison:
    """Is gradient descent as like in-context learning as one order of the demonstrations is like another?

    Parameters
    ----------
    icl : array, shape (n_orders, n_test, n_tokens), n_orders >= 2
    gd : array, shape (n_runs, n_test, n_tokens)
    labels : integers, shape (n_test,)
    rng : np.random.Generator
    k : int from 1 to n_tokens
    penalty : "inside" or "outside"
    n_bootstrap : int >= 1

    Raises
    ------
    ValueError
        If rows are not distributions, shapes do not fit, there is only one order, or a number is out of range.

    Source: arXiv 2310.08540, Section 5.2.
    """
    sizes = check_distributions(icl=(icl, "n_orders n_test n_tokens"), gd=(gd, "n_runs n_test n_tokens"))
    check_integer("k", k, 1, sizes["n_tokens"])
    check_integer("n_orders", sizes["n_orders"], 2)
    right = [_correct(distributions, labels) for distributions in (icl, gd)]
    different = np.triu_indices(sizes["n_orders"], 1)
    against_itself = similarities(icl, icl, k, penalty, _all_pairs)
    against_gd = similarities(icl, gd, k, penalty, _all_pairs)

    def similarity(own: Array, other: Array) -> Similarity:
        floor, found = own[different].mean(axis=0), other.mean(axis=(0, 1))
        return Similarity(
            float(floor.mean()), float(found.mean()), *bootstrap_interval(floor - found, rng, n_bootstrap)
        )

    agreements = [(right[0][:, None] == other[None]).astype(float) for other in right]
    return Comparison(
        similarity(*agreements),
        similarity(against_itself[0], against_gd[0]),
        similarity(against_itself[1], against_gd[1]),
        *(float(one.mean()) for one in right),
    )
