"""The column operators against loops over columns, and what they refuse."""

from typing import Any

import numpy as np
import pytest
import sympy

from refimpl.oracle.spec import symbols
from refimpl.primitives.column_operators import aff, div, mov, mul


def hidden(dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 9, 5)).astype(dtype)


def test_mov_is_an_assignment() -> None:
    h = hidden()
    out = mov(h, [0, 2], [3, 2], [1, 0], [5, 6])
    expected = h.copy()
    for source, target in ((0, 3), (2, 2)):
        expected[..., 5, target], expected[..., 6, target] = h[..., 1, source], h[..., 0, source]
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(mov(h, 1, 4, [0], [0])[..., 0, 4], h[..., 0, 1])


def test_mov_reads_before_it_writes() -> None:
    h = hidden()
    np.testing.assert_array_equal(mov(h, 1, 1, [0, 1], [1, 0])[..., :2, 1], h[..., 1::-1, 1])


def test_mul_is_the_product_in_each_column() -> None:
    h = hidden()
    out = mul(h, 2, 3, 1, range(6), [6, 7, 8], [0, 8])
    for index in np.ndindex(2, 3, 5):
        column = h[index[:2]][:, index[2]]
        product = column[:6].reshape(2, 3) @ column[6:]
        np.testing.assert_allclose(out[index[:2]][[0, 8], index[2]], product, atol=1e-14)
    np.testing.assert_array_equal(out[..., 1:8, :], h[..., 1:8, :])


def test_div_divides_by_the_absolute_value() -> None:
    h = hidden()
    out = div(h, [0, 1], 2, [7, 2])
    np.testing.assert_array_equal(out[..., [7, 2], :], h[..., [0, 1], :] / np.abs(h[..., [2], :]))


def test_aff_in_place() -> None:
    h, rng = hidden(), np.random.default_rng(1)
    w1, w2, bias = rng.standard_normal((3, 2)), rng.standard_normal((3, 3)), rng.standard_normal(3)
    out = aff(h, [4, 0], [1, 2, 3], [2, 3, 1], w1, w2, bias)
    expected = np.einsum("oi,...it->...ot", w1, h[..., [4, 0], :]) + np.einsum("oi,...it->...ot", w2, h[..., 1:4, :])
    np.testing.assert_allclose(out[..., [2, 3, 1], :], expected + bias[:, None], atol=1e-14)
    np.testing.assert_allclose(aff(h, [4, 0], [1, 2, 3], [2, 3, 1], w1, w2)[..., [2, 3, 1], :], expected, atol=1e-14)


def test_inputs_are_not_written_to() -> None:
    h = hidden()
    h.setflags(write=False)
    for out in (mov(h, 0, 1, [0], [1]), mul(h, 1, 1, 1, [0], [1], [2]), div(h, [0], 1, [0])):
        assert out.flags.writeable


def test_float32_is_kept() -> None:
    h = hidden(np.float32)
    w = np.ones((1, 1), np.float32)
    for out in (
        mov(h, 0, 1, [0], [1]),
        mul(h, 1, 1, 1, [0], [1], [2]),
        div(h, [0], 1, [0]),
        aff(h, [0], [1], [2], w, w),
    ):
        assert out.dtype == np.float32


def test_symbols() -> None:
    h = symbols("h", 4, 2)
    assert mul(h, 1, 2, 1, [0, 1], [2, 3], [3])[3, 1] == h[0, 1] * h[2, 1] + h[1, 1] * h[3, 1]
    assert div(h, [0], 1, [2])[2, 0] == h[0, 0] / sympy.Abs(h[1, 0])
    assert mov(h, 0, 1, [0], [3])[3, 1] == h[0, 0]
    assert aff(h, [0], [1], [2], symbols("w", 1, 1), symbols("v", 1, 1))[2, 0] == sympy.sympify(
        "w_0_0*h_0_0 + v_0_0*h_1_0",
        {name.name: name for name in (*h.flat, *symbols("w", 1, 1).flat, *symbols("v", 1, 1).flat)},
    )


ONE = np.ones((1, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h: mov(h, 3, 2, [0], [1]), "target: expected a column not before its source 3, got 2"),
        (lambda h: mov(h, 0, 5, [0], [1]), "target: expected an integer from 0 to 4, got 5"),
        (lambda h: mov(h, [0, 1], [2], [0], [1]), "target: expected as many columns"),
        (lambda h: mov(h, [0, 1], [2, 2], [0], [1]), "all different"),
        (lambda h: mov(h, 0.5, 1, [0], [1]), "source: expected an integer"),
        (lambda h: mov(h, 0, 1, [0, 1], [1]), "rows_to: expected 2 rows, got 1"),
        (lambda h: mov(h, 0, 1, [], []), "rows_from: expected a sequence of at least one row"),
        (lambda h: mul(h, 2, 2, 1, range(3), [0, 1], [0, 1]), "rows_a: expected 4 rows, got 3"),
        (lambda h: mul(h, 0, 2, 1, range(3), [0, 1], [0, 1]), "a: expected an integer >= 1"),
        (lambda h: mul(h, 1, 2, 1, [0, 9], [0, 1], [0]), "rows_a: expected an integer from 0 to 8, got 9"),
        (lambda h: mul(h, 1, 2, 1, [0, 0], [0, 1], [0]), "rows_a: expected rows that differ"),
        (lambda h: div(h * 0, [0], 1, [2]), "hidden: expected no zero in the row of the denominator, 1"),
        (lambda h: div(h, [0], 1, [2, 3]), "rows_out: expected 1 rows, got 2"),
        (lambda h: aff(h, [0], [1], [2], np.ones((2, 1)), ONE), "w2: expected n_out 2"),
        (lambda h: aff(h, [0, 1], [1], [2], ONE, ONE), "rows_a: expected 1 rows, got 2"),
        (lambda h: aff(h, [0], [1], [2], ONE, ONE, np.ones(2)), "bias: expected n_out 1"),
        (lambda h: mov(h * np.nan, 0, 1, [0], [1]), "hidden: expected finite entries"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(hidden())
