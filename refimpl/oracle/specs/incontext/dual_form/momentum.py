"""Momentum, of gradients and of values."""

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext import dual_form as d
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register, symbols
from refimpl.oracle.specs.incontext.dual_form.duality import BATCHES, arrays, reflected, rescaled, times, unchanged
from refimpl.primitives.attention import MultiHeadAttention
from refimpl.primitives.numbers import Array

ETAS = st.sampled_from((0.125, 0.5, 0.75))
# A sum that rounds to 8 or 11 bits at every step keeps no digit over hundreds of tokens.
SINGLE = ("float64", "float32")


@st.composite
def sums(draw: st.DrawFn) -> Arguments:
    return draw(arrays(values="d_value n")) | {"eta": draw(ETAS)}


def _with_current(values: Array, eta: Any) -> Array:
    return d.momentum_sum(values, eta) + values


def _averaged(values: Array, eta: Any) -> Array:
    return (1 - eta) * d.momentum_sum(values, eta)


def _later(arguments: Arguments) -> Arguments:
    """One more token at the front, a zero value."""
    values = arguments["values"]
    return arguments | {"values": np.concatenate([np.zeros_like(values[..., :1]), values[..., :-1]], axis=-1)}


SHIFT = Relation(
    "values one token later",
    _later,
    lambda output, arguments: np.concatenate([np.zeros_like(output[..., :1]), output[..., :-1]], axis=-1),
)
SUM_RELATIONS = (Relation("values times 4", rescaled(4, "values"), times(4)), SHIFT)

register(
    Spec(
        name="dual_form/momentum_sum",
        reference=d.momentum_sum,
        arguments=sums(),
        vjp=d.momentum_sum_vjp,
        symbols=lambda: {"values": symbols("v", 1, 3), "eta": symbols("eta").item()},
        relations=SUM_RELATIONS,
        mistakes={
            ("off by one", "the current value is in the sum"): _with_current,
            ("scale", "averaged: times 1 - eta"): _averaged,
        },
        dtypes=SINGLE,
    )
)

register(
    Spec(
        name="dual_form/momentum_sum_derivative",
        reference=d.momentum_sum_derivative,
        arguments=sums(),
        symbols=lambda: {"values": symbols("v", 1, 3), "eta": symbols("eta").item()},
        relations=SUM_RELATIONS,
        dtypes=SINGLE,
    )
)


@st.composite
def sequences(draw: st.DrawFn) -> Arguments:
    """Values, keys and queries, now and then with padding at a random place."""
    drawn: Arguments = draw(arrays(values="d_value n", keys="d n", queries="d n")) | {"eta": draw(ETAS)}
    if draw(st.booleans()):
        drawn["mask"] = draw(generators()).random((*drawn["values"].shape[:-2], drawn["values"].shape[-1])) < 0.75
    return drawn


def _sums_of_padding(values: Array, keys: Array, queries: Array, eta: Any, mask: Any = None) -> Array:
    momentum = d.momentum_sum(values, eta)
    if mask is None:
        return d.momentum_attention(values, keys, queries, eta)
    hidden = d.momentum_sum(values * mask[..., None, :].astype(values.dtype), eta)
    return d.momentum_attention(values, keys, queries, eta, mask) - hidden + momentum


def _sum_with_current(values: Array, keys: Array, queries: Array, eta: Any, mask: Any = None) -> Array:
    shown = values if mask is None else values * mask[..., None, :].astype(values.dtype)
    return d.momentum_attention(values, keys, queries, eta, mask) + shown


register(
    Spec(
        name="dual_form/momentum_attention",
        reference=d.momentum_attention,
        arguments=sequences(),
        vjp=d.momentum_attention_vjp,
        symbols=lambda: {
            "values": symbols("v", 1, 2),
            "keys": symbols("k", 1, 2),
            "queries": symbols("q", 1, 2),
            "eta": symbols("eta").item(),
        },
        relations=(
            Relation("values times 4", rescaled(4, "values"), times(4)),
            Relation("keys and queries reflected", reflected(keys=-2, queries=-2), unchanged),
        ),
        mistakes={
            ("off by one", "the current value is in the sum"): _sum_with_current,
            ("mask", "padding enters the sum"): _sums_of_padding,
        },
        dtypes=SINGLE,
    )
)


@st.composite
def layers(draw: st.DrawFn) -> Arguments:
    batch, n_tokens = draw(BATCHES), draw(st.sampled_from((1, 2, 5, 16)))
    n_heads, d_head, width = (draw(st.sampled_from(sizes)) for sizes in ((1, 2), (1, 3), (1, 2, 6)))
    to_head, from_head = (n_heads, d_head, width), (n_heads, width, d_head)
    weights = MultiHeadAttention(*(draw(real_arrays(shape)) for shape in (to_head, to_head, to_head, from_head)))
    return {"x": draw(real_arrays((*batch, n_tokens, width))), "weights": weights, "eta": draw(ETAS)}


def _momentum_of_each_head_once(x: Array, weights: MultiHeadAttention, eta: Any) -> Array:
    """The momentum of the first head alone."""
    first = MultiHeadAttention(*(matrix[:1] for matrix in weights))
    plain = d.momentum_multi_head_attention(x, weights, 0)
    return plain + d.momentum_multi_head_attention(x, first, eta) - d.momentum_multi_head_attention(x, first, 0)


register(
    Spec(
        name="dual_form/momentum_multi_head_attention",
        reference=d.momentum_multi_head_attention,
        arguments=layers(),
        vjp=d.momentum_multi_head_attention_vjp,
        symbols=lambda: {
            "x": symbols("x", 2, 1),
            "weights": MultiHeadAttention(*(symbols(name, 1, 1, 1) for name in "qkvo")),
            "eta": Fraction(1, 2),
        },
        relations=(
            Relation(
                "output matrices times 4",
                lambda arguments: (
                    arguments | {"weights": arguments["weights"]._replace(output=4 * arguments["weights"].output)}
                ),
                times(4),
            ),
        ),
        mistakes={("missing term", "the momentum of the first head alone"): _momentum_of_each_head_once},
        dtypes=SINGLE,
    )
)
