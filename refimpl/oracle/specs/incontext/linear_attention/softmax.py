"""The softmax layer."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.linear_attention import (
    LinearAttentionWeights,
    softmax_self_attention,
    softmax_self_attention_vjp,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, register, symbols
from refimpl.oracle.specs.incontext.linear_attention.construction import (
    CONTEXT_REVERSED,
    random_layers,
    reflect,
    reflect_layer,
)


@st.composite
def layer_arguments(draw: st.DrawFn) -> Arguments:
    arguments = draw(random_layers(st.just(1), max_heads=3))
    return {
        "tokens": arguments["tokens"],
        "weights": arguments["layers"][0],
        "n_context": arguments["n_context"],
        "scale": draw(st.sampled_from((1.0, 0.25, -2.0))),
        "include_query": draw(st.booleans()),
    }


def _keys_twice(tokens: Any, arguments: Arguments) -> Any:
    """The tokens that give keys, then all tokens."""
    n_keys = tokens.shape[-1] if arguments["include_query"] else arguments["n_context"]
    return np.concatenate([tokens[..., :n_keys], tokens], axis=-1)


register(
    Spec(
        name="linear_attention/softmax_self_attention",
        reference=softmax_self_attention,
        arguments=layer_arguments(),
        vjp=softmax_self_attention_vjp,
        symbols=lambda: {
            "tokens": symbols("e", 1, 3),
            "weights": LinearAttentionWeights(*(symbols(name, 1, 1, 1) for name in ("k", "q", "v", "p"))),
            "n_context": 2,
            "scale": symbols("s").item(),
            "include_query": False,
        },
        relations=(
            CONTEXT_REVERSED,
            Relation(
                "all tokens reflected, weights with them",
                lambda arguments: (
                    arguments | {"tokens": reflect(arguments["tokens"]), "weights": reflect_layer(arguments["weights"])}
                ),
                lambda output, arguments: reflect(output),
            ),
            Relation(
                "every key twice",
                lambda arguments: (
                    arguments
                    | {
                        "tokens": _keys_twice(arguments["tokens"], arguments),
                        "n_context": 2 * arguments["n_context"],
                    }
                ),
                _keys_twice,
            ),
        ),
    )
)
