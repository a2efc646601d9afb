r"""The metrics (Section 5.1): what token overlap and the cosine over it can be."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.ledger import Control, Evidence, claim, equal
from proofs.properties import for_all
from proofs.statistics import covers, mean_interval
from proofs.symbolic import array, induction, scalar, vanishes
from refimpl.incontext.order_sensitivity import order_sensitivity, overlap_cosine, token_overlap
from refimpl.incontext.order_sensitivity.similarity import top_tokens
from refimpl.oracle.spec import generators
from refimpl.oracle.specs.incontext.order_sensitivity import distribution_pairs, sharpened
from refimpl.primitives.numbers import Array

EPSILON = float(np.finfo(float).eps)


def jaccard(p: Array, q: Array, k: int) -> Array:
    """The share of the union, not of K."""
    shared = (top_tokens(p, k) * top_tokens(q, k)).sum(axis=-1)
    return np.asarray(shared / (2 * k - shared))


@claim(
    "order_sensitivity/O13",
    title="Token overlap lies in [0, 1], is symmetric, knows only the order of probabilities, and is K/V by chance",
    source="Section 5.1",
    statement=r"\mathbb E\,\tfrac1K|T_K(p)\cap T_K(q)|=\tfrac1K\sum_{t=1}^V\big(\tfrac KV\big)^2=\tfrac KV",
    method="symbolic",
    scope="all K and V by linearity; exact over every ranking for V from 2 to 5 and every K; 20000 random rankings at "
    "K = 10, V = 50; 200 pairs of distributions of up to 400 tokens: symmetry, range, joint relabelling, squaring",
    control=Control("divided by the union", overlap=jaccard),
)
def overlap_by_chance(rng: np.random.Generator, overlap: Callable[..., Array] = token_overlap) -> Evidence:
    big_k, big_v, t = (scalar(name, positive=True, integer=True) for name in ("K", "V", "t"))
    expected = sympy.summation((big_k / big_v) ** 2, (t, 1, big_v)) / big_k
    wrong = []
    for v in range(2, 6):
        rankings = np.array(list(permutations(range(1, v + 1)))) / (v * (v + 1) / 2)
        one = np.broadcast_to(rankings[0], rankings.shape)
        for k in range(1, v + 1):
            shared = sum(round(float(share) * k) for share in overlap(rankings, one, k))
            if sympy.Rational(shared, k * len(rankings)) != sympy.Rational(k, v):
                wrong.append((k, v))
    ranked = rng.permuted(np.tile(np.arange(1.0, 51), (2, 20_000, 1)), axis=-1) / (50 * 51 / 2)

    def error(case: dict[str, Any]) -> float:
        p, q, k = case["p"], case["q"], case["k"]
        found = overlap(p, q, k)
        relabelling = np.random.default_rng(k).permutation(p.shape[-1])
        others = [overlap(q, p, k), overlap(p[..., relabelling], q[..., relabelling], k), overlap(**sharpened(case))]
        outside = max(0.0, float(-found.min()), float(found.max()) - 1)
        return max(outside, *(float(np.max(np.abs(found - other))) for other in others))

    return (
        vanishes(expected - big_k / big_v, "mean less K/V")
        & equal(wrong, [], "K and V at which the mean over all rankings differs")
        & covers(mean_interval(overlap(*ranked, 10).reshape(-1)), 0.2, "K = 10, V = 50")
        & for_all(rng, distribution_pairs(), error, 0, examples=200)
    )


def multiplicative(p: Array, q: Array, k: int, penalty: str) -> Array:
    """The number of tokens that are not shared as a factor under the root."""
    shared = top_tokens(p, k) * top_tokens(q, k)
    squares = (shared * p * p).sum(axis=-1) * (shared * q * q).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((shared * p * q).sum(axis=-1) / np.sqrt(squares * (k - shared.sum(axis=-1))))


def without_penalty(p: Array, q: Array, k: int, penalty: str) -> Array:
    """Tokens that are not shared do not count; 0 where none is."""
    shared = top_tokens(p, k) * top_tokens(q, k)
    squares = (shared * p * p).sum(axis=-1) * (shared * q * q).sum(axis=-1)
    return np.asarray((shared * p * q).sum(axis=-1) / np.sqrt(np.where(squares > 0, squares, 1)))


@st.composite
def proportional_pairs(draw: st.DrawFn) -> dict[str, Any]:
    """Distributions that are proportional on their top tokens, and different elsewhere."""
    n_tokens = draw(st.sampled_from((12, 50)))
    k = draw(st.integers(1, 10))
    rng = draw(generators())
    top = rng.uniform(1, 2, (4, k))
    rest = rng.uniform(0, 1, (2, 4, n_tokens - k)) * draw(st.sampled_from((0.0, 0.9)))
    p, q = (np.concatenate([top, one], axis=-1) for one in rest)
    p, q = (one / one.sum(axis=-1, keepdims=True) for one in (p, q))
    return {"p": p, "q": q, "k": k}


@claim(
    "order_sensitivity/O14",
    title="The overlap cosine lies between 0 and 1, is symmetric, and is 1 only of proportional distributions",
    source="Section 5.1",
    statement=r"0\le\mathrm{OCS}\le1;\quad\mathrm{OCS}=1\iff|O|=K,\ p\propto q\text{ on }O",
    method="symbolic",
    scope="Cauchy-Schwarz by induction over the shared tokens, all K (the penalty only adds to the denominator); both "
    "readings of the penalty on 200 pairs of distributions: range, symmetry, below 1 unless proportional; 100 "
    "proportional pairs: 1 to roundoff",
    control=[
        Control("the number of tokens not shared is a factor under the root", cosine=multiplicative),
        Control("tokens that are not shared do not count", cosine=without_penalty),
    ],
)
def cosine_is_a_similarity(rng: np.random.Generator, cosine: Callable[..., Array] = overlap_cosine) -> Evidence:
    # With sums of squares P, Q and of products C, a further token (a, b) adds to PQ - C^2 the sum of the squares
    # (p_i b - q_i a)^2, which is P b^2 - 2 C a b + Q a^2.
    p2, q2, pq, a, b = (scalar(name) for name in ("P", "Q", "C", "a", "b"))
    p, q = array("p", (1,)), array("q", (1,))
    base = vanishes((p * p).sum() * (q * q).sum() - (p * q).sum() ** 2, "sum of squares")
    grown = (p2 + a**2) * (q2 + b**2) - (pq + a * b) ** 2 - (p2 * q2 - pq**2)
    step = vanishes(grown - (p2 * b**2 - 2 * pq * a * b + q2 * a**2), "one token more")
    # Sums of up to 400 terms, quotient and root: their rounding is below a thousand units.
    room = 1000 * EPSILON

    def error(case: dict[str, Any]) -> float:
        p, q, k = case["p"], case["q"], case["k"]
        shared = top_tokens(p, k) * top_tokens(q, k)
        ratio = np.where(shared > 0, p / q, np.nan)
        full = shared.sum(axis=-1) == k
        with np.errstate(invalid="ignore"):
            spread = np.where(full, np.nanmax(np.where(shared > 0, ratio, -1), -1), 2) / np.where(
                full, np.nanmin(np.where(shared > 0, ratio, np.inf), -1), 1
            )
        found = [(cosine(p, q, k, penalty), cosine(q, p, k, penalty)) for penalty in ("inside", "outside")]
        worst = 0.0
        for one, other in found:
            # Ratios r apart: the cosine is at most 1 - (min weight)(1 - 1/r)^2 / 4; it is enough that it is below 1.
            touching = np.where((spread > 1.01) & (one >= 1 - 1e-12), 1.0, 0.0)
            with np.errstate(invalid="ignore"):
                asymmetry = float(np.max(np.abs(one - other)))
            worst = max(
                worst,
                float(np.max(-one)),
                float(np.max(one)) - 1 - room,
                asymmetry - room,
                float(np.max(touching)),
                float(np.any(~np.isfinite(one))),
            )
        return worst

    def distance_from_one(case: dict[str, Any]) -> float:
        values = [cosine(case["p"], case["q"], case["k"], penalty) for penalty in ("inside", "outside")]
        worst = float(np.max(np.abs(np.stack(values) - 1)))
        return worst if np.isfinite(worst) else 1.0

    return (
        induction(base, step)
        & for_all(rng, distribution_pairs(), error, 0, examples=200, quantity="what is out of range")
        & for_all(rng, proportional_pairs(), distance_from_one, room, quantity="proportional: distance from 1")
    )


def unbiased(distributions: Array) -> Array:
    return order_sensitivity(distributions, ddof=1)


@claim(
    "order_sensitivity/O18",
    title="With two orders the sensitivity is the total variation distance",
    source="derived (a cheap probe: an order and its reverse)",
    statement=r"R=2:\quad\mathrm{Sen}=\tfrac12\sum_v|p_1(v)-p_2(v)|",
    method="symbolic",
    scope="all pairs of distributions (by entries, one token up and one down; tokens only add), in floats up to 400 "
    "tokens and several test inputs, to roundoff",
    control=Control("deviations with ddof 1", sensitivity=unbiased),
)
def two_orders_are_total_variation(
    rng: np.random.Generator, sensitivity: Callable[[Array], Array] = order_sensitivity
) -> Evidence:
    p, d = array("p", (1, 2)), array("d", (1, 2), positive=True)
    signs = np.array([1, -1])
    exact = vanishes(sensitivity(np.stack([p, p + signs * d])) - d.sum() / 2, "up and down")

    def error(case: dict[str, Any]) -> float:
        pair = np.stack([case["p"].reshape(-1, case["p"].shape[-1]), case["q"].reshape(-1, case["q"].shape[-1])])
        distance = np.abs(pair[0] - pair[1]).sum(axis=-1).mean() / 2
        return abs(float(sensitivity(pair)) - distance)

    return exact & for_all(rng, distribution_pairs(), error, 1e-12, quantity="difference")
