"""The transformer against its parts, causality, and bad input."""

from typing import Any

import numpy as np
import pytest

from refimpl.primitives.attention import multi_head_attention
from refimpl.primitives.layers import mlp
from refimpl.primitives.normalization import layer_norm
from refimpl.primitives.transformer import initial_transformer, stack_blocks, transformer
from refimpl.primitives.trees import pack


def test_a_block_is_attention_then_perceptron_on_normed_tokens() -> None:
    rng = np.random.default_rng(0)
    (block,) = initial_transformer(1, 6, 2, rng, d_mlp=8)
    x = rng.standard_normal((3, 4, 6))
    middle = x + multi_head_attention(layer_norm(x, *block.attention_norm), block.attention, causal=True)
    expected = middle + mlp(layer_norm(middle, *block.mlp_norm), block.mlp, "gelu")
    np.testing.assert_array_equal(transformer(x, [block]), expected)


def test_causal_tokens_do_not_see_later_ones() -> None:
    rng = np.random.default_rng(1)
    blocks = initial_transformer(2, 6, 3, rng, d_mlp=8)
    x = rng.standard_normal((5, 6))
    changed = np.concatenate([x[:3], rng.standard_normal((2, 6))])
    np.testing.assert_array_equal(transformer(x, blocks)[:3], transformer(changed, blocks)[:3])
    assert np.all(transformer(x, blocks, causal=False)[:3] != transformer(changed, blocks, causal=False)[:3])


@pytest.mark.parametrize("at", [slice(None, None, 2), np.array([4, 1])], ids=["slice", "indices"])
@pytest.mark.parametrize("d_mlp", [8, None])
def test_tokens_chosen_before_the_last_perceptron_or_after_it(at: Any, d_mlp: int | None) -> None:
    rng = np.random.default_rng(4)
    blocks = initial_transformer(2, 6, 2, rng, d_mlp=d_mlp)
    x = rng.standard_normal((3, 5, 6))
    everywhere, pull_everywhere = stack_blocks(x, blocks)
    chosen, pull = stack_blocks(x, blocks, at=at)
    np.testing.assert_allclose(chosen, everywhere[:, at], atol=1e-14)
    cotangent = rng.standard_normal(chosen.shape)
    padded = np.zeros_like(everywhere)
    padded[:, at] = cotangent
    for found, expected in zip(pull(cotangent), pull_everywhere(padded), strict=True):
        np.testing.assert_allclose(pack([found]), pack([expected]), atol=1e-13)


def test_without_a_mask_tokens_may_be_permuted() -> None:
    rng = np.random.default_rng(2)
    blocks = initial_transformer(2, 4, 2, rng, d_mlp=8)
    x = rng.standard_normal((5, 4))
    order = rng.permutation(5)
    np.testing.assert_allclose(
        transformer(x, blocks, causal=False)[order], transformer(x[order], blocks, causal=False), atol=1e-13
    )


def test_float32_is_kept_with_and_without_norm_and_perceptron() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 4, 4)).astype(np.float32)
    for blocks in (
        initial_transformer(1, 4, 2, rng, d_mlp=8, dtype=np.float32),
        initial_transformer(1, 4, 2, rng, norm=False, dtype=np.float32),
    ):
        assert transformer(x, blocks).dtype == np.float32


def test_initial_weights_have_variance_one_over_fan_in() -> None:
    blocks = initial_transformer(1, 64, 4, np.random.default_rng(4), d_mlp=256)
    # 4096 entries or more: the relative standard error of a variance is at most sqrt(2/4096) = 2.2 %; five of them.
    assert np.var(blocks[0].attention.key) * 64 == pytest.approx(1, abs=0.11)
    assert np.var(blocks[0].mlp[1].weight) * 256 * 2 == pytest.approx(1, abs=0.11)


def test_bad_input_names_the_block() -> None:
    rng = np.random.default_rng(5)
    blocks = initial_transformer(2, 4, 2, rng, d_mlp=8)
    x = rng.standard_normal((3, 4))
    narrow = blocks[1]._replace(mlp=blocks[1].mlp[:1])
    for broken, message in (
        ([], "blocks: expected a list"),
        ([blocks[0], narrow], r"blocks\[1\].mlp: expected 4 outputs, got 8"),
        ([blocks[0]._replace(attention_norm=(np.ones(3), np.ones(3)))], r"blocks\[0\].scale"),
    ):
        with pytest.raises(ValueError, match=message):
            transformer(x, broken)
    with pytest.raises(ValueError, match=r"blocks\[0\].x: expected shape"):
        transformer(x[0], blocks)
    with pytest.raises(ValueError, match="n_heads: expected a divisor"):
        initial_transformer(1, 4, 3, rng)
