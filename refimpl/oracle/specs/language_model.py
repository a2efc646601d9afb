"""What the shared language model offers to be compared with."""

import numpy as np
from hypothesis import strategies as st

from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.primitives.attention import MultiHeadAttention
from refimpl.primitives.language_model import LanguageModel, next_token_logits, next_token_logits_vjp
from refimpl.primitives.numbers import Array
from refimpl.primitives.transformer import Block


@st.composite
def _sentences(draw: st.DrawFn) -> Arguments:
    d, n_tokens, vocabulary = 4, draw(st.sampled_from((1, 3))), 5

    def matrix(*shape: int) -> Array:
        return draw(real_arrays(shape)) / 2

    attention = MultiHeadAttention(matrix(2, 2, d), matrix(2, 2, d), matrix(2, 2, d), matrix(2, d, 2))
    readout = matrix(vocabulary, d) if draw(st.booleans()) else None
    model = LanguageModel(matrix(vocabulary, d), matrix(4, d), [Block(attention)], readout)
    batch = draw(st.sampled_from(((), (1,), (3,))))
    return {"embeddings": draw(real_arrays((*batch, n_tokens, d))), "model": model}


def _reverse_vocabulary(arguments: Arguments) -> Arguments:
    model = arguments["model"]
    readout = None if model.readout is None else model.readout[::-1]
    return arguments | {"model": model._replace(embedding=model.embedding[::-1], readout=readout)}


def _looks_ahead(embeddings: Array, model: LanguageModel) -> Array:
    """The last position's logits are those of a model that sees all; the others see what comes after them."""
    turned = model._replace(positions=model.positions[: embeddings.shape[-2]][::-1])
    return next_token_logits(embeddings[..., ::-1, :], turned)[..., ::-1, :]


register(
    Spec(
        name="primitives/next_token_logits",
        reference=next_token_logits,
        arguments=_sentences(),
        vjp=next_token_logits_vjp,
        symbols=lambda: {
            "embeddings": symbols("e", 2, 1),
            "model": LanguageModel(
                symbols("v", 2, 1),
                symbols("p", 2, 1),
                [Block(MultiHeadAttention(*[symbols(name, 1, 1, 1) for name in "qkuo"]))],
            ),
        },
        relations=(
            Relation("tokens in another order", _reverse_vocabulary, lambda logits, a: np.flip(logits, axis=-1)),
        ),
        mistakes={("mask", "a position sees what comes after it, not before"): _looks_ahead},
    )
)
