"""The copying layer: its layout by hand, dtypes, bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sympy

from refimpl.incontext.linear_attention import copy_layer_weights, interleave_tokens, linear_self_attention

X, Y, QUERY = np.ones((3, 2)), np.ones((2, 2)), np.ones(3)


def test_the_raw_sequence_by_hand() -> None:
    tokens = interleave_tokens(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0]]), np.array([7.0, 8.0]))
    np.testing.assert_array_equal(tokens[:2], [[1, 0, 2, 0, 7], [3, 5, 4, 6, 8]])
    np.testing.assert_array_equal(tokens[2:], np.eye(5))


def test_the_layer_pairs_them_by_hand() -> None:
    tokens = interleave_tokens(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0]]), np.array([7.0, 8.0]))
    paired = linear_self_attention(tokens, copy_layer_weights(2, 2), 4, include_query=True)
    expected = np.zeros((7, 5))
    expected[:4, [0, 2, 4]] = [[1, 2, 7], [3, 4, 8], [0, 0, 0], [5, 6, 0]]
    np.testing.assert_array_equal(paired, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_the_dtype_is_kept(dtype: Any) -> None:
    tokens = interleave_tokens(*(a.astype(dtype) for a in (X, Y, QUERY)))
    weights = copy_layer_weights(2, 3, dtype)
    output = linear_self_attention(tokens, weights, 4, include_query=True)
    assert {array.dtype for array in (tokens, *weights, output)} == {np.dtype(dtype)}


def test_exact_integers_stay_exact() -> None:
    entries = {sympy.sympify(entry) for matrix in copy_layer_weights(1, 2, object) for entry in matrix.flat}
    assert entries == {sympy.Integer(-1), sympy.Integer(0), sympy.Integer(1)}


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: interleave_tokens(Y, X, np.ones(2)), "y: expected at most 2 outputs"),
    (lambda: interleave_tokens(X, Y[:, :1], QUERY), "y: expected n_context 2"),
    (lambda: interleave_tokens(X, Y, np.ones(2)), "x_query: expected n_inputs 3"),
    (lambda: interleave_tokens(X * np.inf, Y, QUERY), "x: expected finite"),
    (lambda: copy_layer_weights(0, 1), "n_context"),
    (lambda: copy_layer_weights(1, 4), "n_inputs: expected an integer from 1 to 3, got 4"),
    (lambda: copy_layer_weights(1, 0), "n_inputs"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
