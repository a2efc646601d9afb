"""What the shared transformer offers to be compared with."""

import numpy as np
from hypothesis import strategies as st

from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.primitives import transformer
from refimpl.primitives.attention import MultiHeadAttention
from refimpl.primitives.layers import Linear
from refimpl.primitives.transformer import Block, Norm


@st.composite
def _stacks(draw: st.DrawFn) -> Arguments:
    batch = draw(st.sampled_from(((), (1,), (3,))))
    n_heads, d_head, n_tokens = (draw(st.sampled_from((1, 2, 3))) for _ in range(3))
    d = n_heads * d_head

    def matrix(*shape: int) -> np.ndarray:
        return draw(real_arrays(shape)) / (2 * shape[-1] ** 0.5)

    def norm() -> Norm | None:
        return (
            Norm(1 + draw(real_arrays((d,))) / 8, draw(real_arrays((d,))) / 8)
            if d > 2 and draw(st.booleans())
            else None
        )

    blocks = []
    for _ in range(draw(st.integers(1, 2))):
        attention = MultiHeadAttention(
            query=matrix(n_heads, d_head, d),
            key=matrix(n_heads, d_head, d),
            value=matrix(n_heads, d_head, d),
            output=matrix(n_heads, d, d_head),
        )
        layers = None
        if draw(st.booleans()):
            layers = [
                Linear(matrix(5, d), draw(real_arrays((5,))) / 2),
                Linear(matrix(d, 5), draw(real_arrays((d,))) / 2),
            ]
        blocks.append(Block(attention, layers, norm(), norm() if layers else None))
    return {
        "x": draw(real_arrays((*batch, n_tokens, d))),
        "blocks": blocks,
        "causal": draw(st.booleans()),
        "kind": draw(st.sampled_from(("softmax", "linear"))),
        "activation": draw(st.sampled_from(("gelu", "relu"))),
    }


def _symbolic_block() -> Arguments:
    attention = MultiHeadAttention(
        symbols("q", 1, 1, 2), symbols("k", 1, 1, 2), symbols("v", 1, 1, 2), symbols("o", 1, 2, 1)
    )
    layers = [Linear(symbols("w", 1, 2), symbols("b", 1)), Linear(symbols("u", 2, 1), symbols("c", 2))]
    return {
        "x": symbols("x", 2, 2),
        "blocks": [Block(attention, layers)],
        "causal": True,
        "kind": "linear",
        "activation": "relu",
    }


def _reverse_heads(arguments: Arguments) -> Arguments:
    def reverse(block: Block) -> Block:
        return block._replace(attention=MultiHeadAttention(*(w[::-1] for w in block.attention)))

    return arguments | {"blocks": [reverse(block) for block in arguments["blocks"]]}


register(
    Spec(
        name="primitives/transformer",
        reference=transformer.transformer,
        arguments=_stacks(),
        vjp=transformer.transformer_vjp,
        symbols=_symbolic_block,
        relations=(Relation("heads in another order", _reverse_heads, lambda output, arguments: output),),
    )
)
