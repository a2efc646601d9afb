"""The layers of the operators: their units written out, operands in place, dtypes, bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.special import erf

from refimpl.incontext.learning_algorithms import (
    ReadArithmeticWrite,
    aff_layer,
    bypass_layer_norm,
    div_layer,
    mov_layer,
    mul_layer,
    raw,
    raw_layer,
    transformer_layer,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.learning_algorithms.operators import (
    mul_arguments,
    mul_by_layer,
    raw_arguments,
    raw_of_parts,
)
from refimpl.primitives import column_operators
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import leaves

OPERATOR = ReadArithmeticWrite([[0], [0, 1]], [0], [1], [2], np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)), "sum")


def gelu(x: Array) -> Array:
    return x * (1 + erf(x / np.sqrt(2))) / 2


@settings(max_examples=50, deadline=None, derandomize=True)
@given(mul_arguments())
def test_mul_is_a_sum_of_three_units_for_each_product(case: Arguments) -> None:
    hidden, epsilon = case["hidden"], case["epsilon"]
    a, b, c = case["a"], case["b"], case["c"]
    first = hidden[..., case["rows_a"], :].reshape(*hidden.shape[:-2], a, b, 1, -1)
    second = hidden[..., case["rows_b"], :].reshape(*hidden.shape[:-2], 1, b, c, hidden.shape[-1])
    units = gelu(epsilon * (first + second)) - gelu(epsilon * first) - gelu(epsilon * second)
    expected = hidden.copy()
    product = np.sqrt(np.pi / 2) / epsilon**2 * units.sum(axis=-3)
    expected[..., case["rows_out"], :] = product.reshape(*hidden.shape[:-2], a * c, -1)
    # A unit of size M eps rounds by half an ulp of it, and is multiplied by 1.3 / eps^2.
    slack = 20 * b * np.finfo(float).eps * (1 + np.abs(hidden).max()) / epsilon**2
    np.testing.assert_allclose(mul_by_layer(**case), expected, rtol=0, atol=slack)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(raw_arguments())
def test_raw_column_by_column(case: Arguments) -> None:
    hidden = case["hidden"]
    expected = hidden.copy()
    for i, earlier in enumerate(case["time_map"]):
        columns = [hidden[..., case["rows_read"], k] for k in earlier]
        mean = sum(columns) / len(columns) if columns else np.zeros_like(hidden[..., case["rows_read"], 0])
        read = np.einsum("mr,...r->...m", case["weight_read"], mean)
        own = np.einsum("ms,...s->...m", case["weight_self"], hidden[..., case["rows_self"], i])
        combined = read + own if case["arithmetic"] == "sum" else read * own
        expected[..., case["rows_write"], i] = np.einsum("wm,...m->...w", case["weight_out"], combined)
    size = 1 + np.abs(expected).max() + np.abs(hidden).max() ** 2
    np.testing.assert_allclose(raw_of_parts(**case), expected, rtol=1e-12, atol=1e-13 * size)


def test_operands_and_outputs_may_be_the_same_rows() -> None:
    hidden = np.array([[1.0, -0.5], [0.25, 0.5], [0.0, 0.0]])
    w1, w2 = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    # 2 h + the other row, in place.
    added = transformer_layer(hidden, aff_layer(3, [0, 1], [0, 1], [0, 1], w1, w2))
    np.testing.assert_allclose(added, [[2.25, -0.5], [1.5, 0.5], [0, 0]], atol=1e-15)
    # The outer product of a row with itself, over its own factor.
    squared = transformer_layer(hidden, mul_layer(3, 1, 1, 1, [0], [0], [0], 1e-5))
    np.testing.assert_allclose(squared[0], [1, 0.25], atol=1e-9)
    moved = transformer_layer(
        np.concatenate([hidden, np.eye(2), np.ones((1, 2))]), mov_layer(6, 0, 1, [0, 1], [1, 0], [3, 4], 5)
    )
    np.testing.assert_allclose(moved[:2], [[1, 0.25], [0.25, 1]], atol=1e-15)


def test_a_bias_is_added_and_absent_is_zero() -> None:
    hidden, one = np.array([[3.0], [1.0]]), np.ones((1, 1))
    for bias, expected in ((None, 4.0), (np.array([-2.0]), 2.0)):
        layer = aff_layer(2, [0], [1], [1], one, one, bias)
        np.testing.assert_allclose(transformer_layer(hidden, layer)[1], expected, rtol=1e-15)


def test_div_keeps_the_sign_of_the_numerator_only() -> None:
    hidden = np.zeros((8, 2))
    hidden[:2] = [[3.0, -3.0], [-2.0, 4.0]]
    hidden[6:] = np.eye(2)
    divided = transformer_layer(hidden, div_layer(8, [0], 1, [2], [3, 4, 5], [6, 7], 1e5), use_layernorm=True)
    np.testing.assert_allclose(divided[2], [1.5, -0.75], rtol=1e-9)


def test_float32_is_kept() -> None:
    single = np.float32
    w = np.ones((1, 1), single)
    layers = [
        aff_layer(8, [0], [1], [2], w, w),
        aff_layer(8, [0], [1], [2], w, w, w[0], 3.0),
        mul_layer(8, 1, 1, 1, [0], [1], [2], 1e-2, single),
        mov_layer(8, 0, 1, [0], [1], [2, 3], 4, dtype=single),
        div_layer(8, [0], 1, [2], [3, 4, 5], [6, 7], 1e3, dtype=single),
        raw_layer(8, OPERATOR._replace(weight_out=w, weight_read=w, weight_self=w), [3], [6, 7]),
        bypass_layer_norm(np.arange(6, dtype=single).reshape(3, 2), 100.0),
        raw(np.ones((3, 2), single), OPERATOR._replace(weight_out=w, weight_read=w, weight_self=w)),
    ]
    assert {leaf.dtype for leaf in leaves(layers)} == {np.dtype(single)}


W = np.ones((1, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: aff_layer(3, [0, 1], [1], [2], W, W), "rows_a: expected 1 rows, got 2"),
        (lambda: aff_layer(3, [0], [3], [2], W, W), "rows_b: expected an integer from"),
        (lambda: aff_layer(3, [0], [1], [2], W, np.ones((2, 1))), "w2: expected n_out 1"),
        (lambda: aff_layer(3, [0], [1], [2], W, W, np.ones(2)), "bias: expected n_out 1"),
        (lambda: aff_layer(3, [0], [1], [2], W * np.nan, W), "w1: expected finite"),
        (lambda: aff_layer(3, [0], [1], [2], W, W, None, -1.0), "shift: expected"),
        (lambda: aff_layer(0, [0], [1], [2], W, W), "n_rows: expected an integer >= 1"),
        (lambda: mul_layer(4, 2, 1, 1, [0], [1], [2, 3]), "rows_a: expected 2 rows, got 1"),
        (lambda: mul_layer(4, 1, 2, 1, [0, 0], [1, 2], [3]), "rows_a: expected rows that differ"),
        (lambda: mul_layer(4, 1, 1, 1, [0], [1], [2, 3]), "rows_out: expected 1 rows, got 2"),
        (lambda: mul_layer(4, 1, 1, 1, [0], [1], [2], 0.0), "epsilon: expected"),
        (lambda: mul_layer(4, 1, 1, 1, [0], [1], [2], -1e-3), "epsilon: expected"),
        (lambda: mul_layer(4, 0, 1, 1, [0], [1], [2]), "a: expected an integer >= 1"),
        (lambda: mov_layer(6, 1, 0, [0], [1], [2, 3], 4), "target: expected an integer from"),
        (lambda: mov_layer(6, 0, 2, [0], [1], [2, 3], 4), "target: expected an integer from"),
        (lambda: mov_layer(6, 0, 1, [0], [1, 2], [2, 3], 4), "rows_to: expected 1 rows, got 2"),
        (lambda: mov_layer(6, 0, 1, [], [1], [2, 3], 4), "rows_from: expected a sequence"),
        (lambda: mov_layer(6, 0, 1, [0], [1], [2, 2], 4), "positions: expected rows that differ"),
        (lambda: mov_layer(6, 0, 1, [0], [1], [2, 3], 6), "one_row: expected an integer from"),
        (lambda: mov_layer(6, 0, 1, [0], [1], [2, 3], 4, -1.0), "strength: expected"),
        (lambda: div_layer(8, [0], 1, [0], [3, 4, 5], [6, 7]), "rows_out: expected rows other than"),
        (lambda: div_layer(8, [0], 1, [2], [0, 4, 5], [6, 7]), "pads: expected rows that are none"),
        (lambda: div_layer(8, [0], 1, [2], [1, 4, 5], [6, 7]), "pads: expected rows that are none"),
        (lambda: div_layer(8, [0], 1, [2], [3, 4, 6], [6, 7]), "pads: expected rows that are none"),
        (lambda: div_layer(8, [0], 1, [2], [3, 4], [6, 7]), "pads: expected 3 rows"),
        (lambda: div_layer(8, [0], 1, [2, 3], [3, 4, 5], [6, 7]), "rows_out: expected 1 rows"),
        (lambda: div_layer(8, [0], 9, [2], [3, 4, 5], [6, 7]), "denom_row: expected an integer from"),
        (lambda: div_layer(8, [0], 1, [2], [3, 4, 5], [6, 7], 0.0), "scale: expected"),
        (lambda: bypass_layer_norm(np.ones(3), 10.0), "hidden: expected shape"),
        (lambda: bypass_layer_norm(np.ones((3, 2)), 0.0), "scale: expected"),
        (lambda: column_operators.div(np.array([[1.0], [0.0]]), [0], 1, [0]), "hidden: expected no zero"),
        (lambda: column_operators.mov(np.ones((2, 2)), 1, 0, [0], [1]), "target: expected a column not before"),
        (lambda: raw(np.ones((3, 2)), OPERATOR._replace(time_map=[[1], [0]])), r"time_map\[0\]: expected an integer"),
        (lambda: raw(np.ones((3, 2)), OPERATOR._replace(time_map=[[0]])), "time_map: expected a set for each of 2"),
        (lambda: raw(np.ones((3, 2)), OPERATOR._replace(time_map=[[0], [1, 1]])), r"time_map\[1\]: expected columns"),
        (lambda: raw(np.ones((3, 2)), OPERATOR._replace(arithmetic="minus")), "arithmetic: expected"),  # type: ignore[arg-type]
        (lambda: raw(np.ones((3, 2)), OPERATOR._replace(rows_read=[0, 1])), "rows_read: expected 1 rows"),
        (lambda: raw(np.ones((3, 2)), OPERATOR._replace(weight_self=np.ones((2, 1)))), "weight_self: expected m 1"),
        (lambda: raw_layer(8, OPERATOR, [2], [6, 7]), "scratch: expected rows that are none"),
        (lambda: raw_layer(8, OPERATOR, [3, 4], [6, 7]), "scratch: expected 1 rows"),
        (lambda: raw_layer(8, OPERATOR, [3], [5, 6, 7]), "time_map: expected a set for each of 3"),
        (lambda: raw_layer(8, OPERATOR, [3], [6, 7], -1.0), "strength: expected"),
        (lambda: raw_layer(8, OPERATOR, [3], [6, 7], 60.0, 0.0), "epsilon: expected"),
    ],
)
def test_bad_input(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
