r"""Attention with its softmax: what it splits into, and how far it is from attention without."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.incontext.dual_form.duality import attention_roundoff
from proofs.ledger import Control, Evidence, Figure, Series, claim, figure
from proofs.properties import for_all
from proofs.statistics import lies_above, lies_below, mean_interval
from proofs.symbolic import array, induction, vanishes
from refimpl.incontext.dual_form import (
    SoftmaxSplit,
    full_attention,
    linear_attention,
    small_score_attention,
    softmax_attention_split,
)
from refimpl.oracle.spec import Arguments, find_spec
from refimpl.primitives.attention import softmax_attention
from refimpl.primitives.numbers import Array, exp, log, transpose
from refimpl.primitives.similarity import cosine_similarity

# A head on tokens (score, value) that reads the one as key and the other as value, of a query of 1.
READS_VALUE, READS_SCORE = (np.array([[int(i == j) for i in range(2)]], dtype=object) for j in (1, 0))
ONE = np.array([1], dtype=object)


def tokens(scores: Any, values: Any) -> Array:
    return np.array([list(scores), list(values)], dtype=object)


def whole(split: SoftmaxSplit) -> Array:
    share = split.zero_shot_share[..., None]
    return np.asanyarray(share * split.zero_shot_part + (1 - share) * split.demo_part)


def _share_at_zero(value: Array, key: Array, demos: Array, context: Array, query: Array) -> SoftmaxSplit:
    """The share of each part in the number of tokens, which is its mass at a query of zero."""
    n_demos, n_context = demos.shape[-1], context.shape[-1]
    split = softmax_attention_split(value, key, demos, context, query)
    share = np.full_like(split.zero_shot_share, sympy.Rational(n_context, n_context + n_demos))
    return split._replace(zero_shot_share=share)


@claim(
    "dual_form/D7",
    title="Softmax attention is a mixture of two answers, by a share that depends on the query",
    source="derived from Eq. 10; the exact counterpart of Eq. 11 and 12",
    statement=r"F_{ICL}(q)=\mu(q)\,\mathrm{Attn}(X;q)+(1-\mu(q))\,\mathrm{Attn}(X';q),\quad "
    r"\mu=\frac{Z_X}{Z_X+Z_{X'}},\quad F_{ICL}(0)=\bar v\ne0",
    method="symbolic",
    scope="all numbers of tokens: of one demonstration and one context token with arbitrary scores and values, and two "
    "tokens act as one whose weight is the sum of theirs and whose value is their mean; 100 heads of the oracle's "
    "domain to roundoff. At a query of 0 the mean value is left, where every matrix gives 0",
    control=[
        Control("the share of the query 0 at all queries", split=_share_at_zero),
        Control("linear attention in place of softmax", attend=linear_attention),
    ],
)
def softmax_attention_is_a_mixture(
    rng: np.random.Generator,
    split: Callable[..., SoftmaxSplit] = softmax_attention_split,
    attend: Callable[[Array, Array, Array], Array] | None = None,
) -> Evidence:
    def attention(demos: Array, context: Array, query: Array = ONE) -> Array:
        if attend is None:
            return full_attention(READS_VALUE, READS_SCORE, demos, context, query)
        both = np.concatenate([demos, context], axis=1)
        return attend(READS_VALUE @ both, READS_SCORE @ both, query)

    s, v = array("s", (3,)), array("v", (3,))
    mass = exp(s[:2]).sum()
    merged = tokens([log(mass), s[2]], [(exp(s[:2]) * v[:2]).sum() / mass, v[2]])
    three, two = tokens(s, v), tokens(s[:2], v[:2])
    parts = two[:, :1], two[:, 1:]
    mixture = split(READS_VALUE, READS_SCORE, *parts, ONE)
    proof = induction(
        vanishes(whole(mixture) - attention(*parts), "one token each")
        & vanishes(mixture.zero_shot_share - exp(s[1:2])[0] / mass, "share"),
        vanishes(attention(three[:, :2], three[:, 2:]) - attention(merged[:, :1], merged[:, 1:]), "two tokens as one"),
    ) & vanishes(attention(two, three[:, 2:], 0 * ONE) - v.sum() / 3, "mean value at a query of 0")

    def error(head: Arguments) -> float:
        gap = np.abs(whole(split(**head)) - full_attention(**head))
        return float(np.max(gap / attention_roundoff(head)))

    heads = find_spec("dual_form/softmax_attention_split").arguments
    return proof & for_all(rng, heads, error, 1, 100, "mixture, in units of roundoff")


def random_heads(rng: np.random.Generator, n_heads: int, d: int = 16, n_tokens: int = 20) -> tuple[Array, Array, Array]:
    """Values, keys and a query from Gaussian tokens and projections of variance 1/d."""
    value, key, query = rng.standard_normal((3, n_heads, d, d)) / d**0.5
    columns = rng.standard_normal((n_heads, d, n_tokens))
    return value @ columns, key @ columns, (query @ columns[..., -1:])[..., 0]


def with_softmax(values: Array, keys: Array, query: Array) -> Array:
    return np.asanyarray(softmax_attention(query[..., None, :], transpose(keys), transpose(values))[..., 0, :])


def _mean_value(values: Array, keys: Array, query: Array) -> Array:
    return np.asanyarray(values.mean(axis=-1))


@claim(
    "dual_form/D8",
    title="Attention without softmax is no approximation of attention",
    source="Eq. 10 to 11",
    statement=r"\mathrm{Attn}(tq)=\bar v+\frac{t}{n\sqrt{d'}}\sum_i(v_i-\bar v)k_i^\top q+O(t^2),\quad "
    r"\mathbb E\cos(\mathrm{relaxed},\mathrm{softmax})<0.9",
    method="statistical",
    scope="the first-order term for 1 to 4 tokens on the code and for any number from the first moments of the "
    "exponentials; 400 random heads of width 16 on 20 tokens, slope of the remainder between scores times 0.01 and "
    "0.001; cosine on 4000 such heads",
    erratum="The paper calls relaxed attention an approximation of attention. Where scores are small softmax attention "
    "tends to the mean value, which relaxed attention lacks; at the usual scale the cosine between the two is 0.7 on "
    "average. What holds is the expansion above",
    control=[
        Control("without the first-order term", approximate=_mean_value),
        Control("relaxed attention against itself", attend=linear_attention),
    ],
)
def relaxed_attention_is_another_function(
    rng: np.random.Generator,
    approximate: Callable[..., Array] = small_score_attention,
    attend: Callable[..., Array] = with_softmax,
) -> Evidence:
    t = sympy.Symbol("t", real=True)
    differences = []
    for n in range(1, 5):
        values, keys, query = array("v", (1, n)), array("k", (1, n)), array("q", (1,))
        at_t = with_softmax(values, keys, t * query)[0]
        claimed = small_score_attention(values, keys, query)[0]
        differences.append(at_t.subs(t, 0) + sympy.diff(at_t, t).subs(t, 0) - claimed)
    # exp(t s) = 1 + t s + O(t^2): both sums to first order in t, for any number n of tokens.
    n, sum_v, sum_s, sum_sv = sympy.symbols("n Sv Ss Ssv", positive=True)
    quotient = sympy.diff((sum_v + t * sum_sv) / (n + t * sum_s), t).subs(t, 0)
    differences.append(quotient - (sum_sv - sum_v / n * sum_s) / n)
    expansion = vanishes(np.array(differences, dtype=object), "first-order term")

    values, keys, query = random_heads(rng, 400)
    remainder = [
        np.linalg.norm(attend(values, keys, scale * query) - approximate(values, keys, scale * query), axis=-1)
        for scale in (0.01, 0.001)
    ]
    slope = mean_interval(np.log10(remainder[0] / remainder[1]))
    many = random_heads(rng, 4000)
    cosine = mean_interval(cosine_similarity(linear_attention(*many), attend(*many)))
    return (
        expansion
        & lies_above(slope, 1.95, "slope of the remainder")
        & lies_below(slope, 2.05, "slope of the remainder")
        & lies_below(cosine, 0.9, "cosine")
    )


@figure(
    "dual_form/F1",
    title="Relaxed attention against attention",
    caption="Mean cosine between attention with and without its softmax, and the ratio of their norms, over 400 random "
    "heads of width 16 on 20 tokens, as all scores are scaled. They agree best in between: for small scores softmax "
    "attention is the mean value, for large ones a single value.",
    answers_to="Eq. 10 to 11, which the paper calls an approximation",
)
def relaxed_against_softmax(rng: np.random.Generator) -> Figure:
    values, keys, query = random_heads(rng, 400)
    scales = np.logspace(-3, 2, 26)
    # Without the scale of a head's width, which the relaxed attention drops too.
    relaxed = linear_attention(values, keys, query)
    cosines, ratios = [], []
    for scale in scales:
        soft = with_softmax(values, keys, scale * query)
        cosines.append(mean_interval(cosine_similarity(relaxed, soft)))
        ratios.append(np.linalg.norm(scale * relaxed, axis=-1).mean() / np.linalg.norm(soft, axis=-1).mean())
    return Figure(
        (
            Series(
                "cosine", scales.tolist(), [c.estimate for c in cosines], spread=[c.high - c.estimate for c in cosines]
            ),
            Series("norm without over norm with softmax", scales.tolist(), ratios),
        ),
        x_label="factor of the scores",
        y_label="cosine; ratio of norms",
        x_scale="log",
        y_scale="log",
    )
