"""Linear self-attention on columns: by the sum over tokens that the papers write, and bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from refimpl.oracle.spec import Arguments, all_specs
from refimpl.primitives.linear_self_attention import LinearAttentionWeights, linear_self_attention

SPECS = all_specs()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SPECS["primitives/linear_self_attention"].arguments)
def test_it_is_the_sum_over_heads_and_context_tokens(arguments: Arguments) -> None:
    """Token by token with the score of each pair, which the layer never computes."""
    tokens, weights, n_context, include_query = arguments.values()
    expected, size = tokens.copy(), 1 + np.abs(tokens)
    for key, query, value, projection in zip(*weights, strict=True):
        for i in range(tokens.shape[-1] if include_query else n_context):
            source = tokens[..., i : i + 1]
            score = (key @ source).swapaxes(-1, -2) @ (query @ tokens)
            expected = expected + (projection @ (value @ source)) @ score
            magnitude = np.abs(projection) @ np.abs(value) @ np.abs(source)
            size = size + magnitude @ (np.abs(source).swapaxes(-1, -2) @ np.abs(key.T) @ np.abs(query) @ np.abs(tokens))
    # Both ways round each term of the same sum a few times per contraction: 1e-13 is 450 roundoffs.
    assert np.all(np.abs(linear_self_attention(**arguments) - expected) <= 1e-13 * size)


TOKENS = np.ones((2, 3, 4))
WEIGHTS = LinearAttentionWeights(*(np.ones((2, 3, 3)) for _ in range(4)))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: linear_self_attention(np.ones(3), WEIGHTS, 1), "tokens"),
        (lambda: linear_self_attention(TOKENS * np.nan, WEIGHTS, 1), "tokens"),
        (lambda: linear_self_attention(np.ones((2, 3, 4), int), WEIGHTS, 1), "tokens"),
        (lambda: linear_self_attention(TOKENS[:, :2], WEIGHTS, 1), "key"),
        (lambda: linear_self_attention(TOKENS, WEIGHTS._replace(query=np.ones((2, 3, 4))), 1), "query"),
        (lambda: linear_self_attention(TOKENS, WEIGHTS._replace(value=np.ones((1, 3, 3))), 1), "value"),
        (lambda: linear_self_attention(TOKENS, WEIGHTS._replace(projection=np.ones((3, 3))), 1), "projection"),
        (lambda: linear_self_attention(TOKENS, WEIGHTS, 0), "n_context"),
        (lambda: linear_self_attention(TOKENS, WEIGHTS, 4), "n_context"),
        (lambda: linear_self_attention(TOKENS, WEIGHTS, 1.0), "n_context"),  # type: ignore[arg-type]
    ],
)
def test_bad_input(call: Callable[[], Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()
