"""Attention with its softmax, split into its two answers, and at small scores."""

from typing import Any

import numpy as np

from refimpl.incontext import dual_form as d
from refimpl.oracle.spec import Arguments, Relation, Spec, register, symbols
from refimpl.oracle.specs.incontext.dual_form.duality import (
    HEAD_RELATIONS,
    arrays,
    doubled_columns,
    heads,
    reflected,
    rescaled,
    reversed_columns,
    times,
    unchanged,
)
from refimpl.primitives.attention import softmax_attention
from refimpl.primitives.numbers import Array


def _head_symbols() -> Arguments:
    """A head one wide, so that no root of its width stands in an exponential."""
    return {
        "value": symbols("v", 1, 2),
        "key": symbols("k", 1, 2),
        "demos": symbols("x", 2, 2),
        "context": symbols("c", 2, 1),
        "query": symbols("q", 1),
    }


def _without_scale(value: Array, key: Array, demos: Array, context: Array, query: Array) -> Array:
    rows = np.swapaxes(np.concatenate([demos, context], axis=-1), -1, -2)
    keys, values = rows @ np.swapaxes(key, -1, -2), rows @ np.swapaxes(value, -1, -2)
    return softmax_attention(query[..., None, :], keys, values, scale=1.0)[..., 0, :]


register(
    Spec(
        name="dual_form/full_attention",
        reference=d.full_attention,
        arguments=heads(),
        vjp=d.full_attention_vjp,
        symbols=_head_symbols,
        relations=(*HEAD_RELATIONS, Relation("every token twice", doubled_columns("demos", "context"), unchanged)),
        mistakes={("scale", "scores not divided by the root of the head's width"): _without_scale},
    )
)


def _one_softmax_of_parts(**head: Array) -> d.SoftmaxSplit:
    """Both parts with the normaliser of the whole."""
    split = d.softmax_attention_split(**head)
    share = split.zero_shot_share[..., None]
    return d.SoftmaxSplit(split.zero_shot_share, share * split.zero_shot_part, (1 - share) * split.demo_part)


def _more_demos(output: Any, arguments: Arguments) -> d.SoftmaxSplit:
    share = output.zero_shot_share
    return output._replace(zero_shot_share=share / (share + 2 * (1 - share)))


register(
    Spec(
        name="dual_form/softmax_attention_split",
        reference=d.softmax_attention_split,
        arguments=heads(least=1),
        symbols=_head_symbols,
        relations=(
            Relation("demonstrations in reverse", reversed_columns("demos"), unchanged),
            Relation("every demonstration twice", doubled_columns("demos"), _more_demos),
            Relation(
                "demonstrations and context swapped",
                lambda arguments: arguments | {"demos": arguments["context"], "context": arguments["demos"]},
                lambda output, arguments: d.SoftmaxSplit(
                    1 - output.zero_shot_share, output.demo_part, output.zero_shot_part
                ),
            ),
            Relation(
                "values times 4",
                rescaled(4, "value"),
                lambda output, arguments: d.SoftmaxSplit(
                    output.zero_shot_share, 4 * output.zero_shot_part, 4 * output.demo_part
                ),
            ),
            Relation("keys and query reflected", reflected(key=-2, query=-1), unchanged),
        ),
        mistakes={("normalisation", "parts with the normaliser of the whole"): _one_softmax_of_parts},
    )
)


def _without_centring(values: Array, keys: Array, query: Array) -> Array:
    n, scale = values.shape[-1], query.shape[-1] ** 0.5
    return values.mean(axis=-1) + d.linear_attention(values, keys, query) / (n * scale)


register(
    Spec(
        name="dual_form/small_score_attention",
        reference=d.small_score_attention,
        arguments=arrays(values="d_value n", keys="d n", query="d"),
        symbols=lambda: {"values": symbols("v", 2, 3), "keys": symbols("k", 2, 3), "query": symbols("q", 2)},
        relations=(
            Relation("tokens in reverse", reversed_columns("values", "keys"), unchanged),
            Relation("every token twice", doubled_columns("values", "keys"), unchanged),
            Relation("values times 4", rescaled(4, "values"), times(4)),
            Relation("keys and query reflected", reflected(keys=-2, query=-1), unchanged),
        ),
        mistakes={("missing term", "values not centred"): _without_centring},
    )
)
