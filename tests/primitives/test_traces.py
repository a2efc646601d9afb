"""Traces of numbers against NumPy, of blocks against the traces of matrices put for them."""

import numpy as np
import pytest
import sympy
from sympy import transpose as T

from proofs.symbolic import block, blocks, scalar, vanishes
from refimpl.primitives.traces import inner, trace_symbol

X, Y, S = map(block, ("X", "Y", "S"))
a = scalar("a")
Trace = trace_symbol()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_numbers(dtype: type) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((2, 3, 3)).astype(dtype) for _ in range(2))
    found = inner(x, y)
    assert found.dtype == dtype
    assert found.shape == (2, 1, 1)
    np.testing.assert_allclose(found[:, 0, 0], np.einsum("bij,bij->b", x, y), rtol=1e-5)


def test_commuting_symbols_are_numbers() -> None:
    x = np.array([[a, 2], [3, a]], dtype=object)
    assert sympy.expand(inner(x, x)[0, 0] - 2 * a**2 - 13) == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (X * Y * S, S * X * Y),
        (X * Y * S, T(S) * T(Y) * T(X)),
        (X**2 * Y, X * Y * X),
        (S**-1 * X, T(X) * T(S) ** -1),
        (X * Y * X**-1, Y),
        (a * X + Y, T(Y) + a * T(X)),
        ((X + Y) ** 2, X**2 + 2 * X * Y + Y**2),
    ],
)
def test_one_trace_has_one_symbol(one: sympy.Expr, other: sympy.Expr) -> None:
    assert Trace(one) == Trace(other)


def test_other_products_have_others() -> None:
    assert len({Trace(X * Y * S), Trace(Y * X * S), Trace(X * T(Y) * S), Trace(X), Trace(Y)}) == 5


def test_a_trace_is_a_real_number() -> None:
    value = Trace(a * X * Y)
    assert value.is_commutative
    assert value.is_real
    assert sympy.diff(value, a) == Trace(X * Y)
    assert sympy.transpose(value * X) == value * T(X)
    assert Trace(0 * X) == 0


def test_products_of_block_matrices() -> None:
    left, right = blocks([[X], [a * Y]]), blocks([[S], [Y]])
    assert inner(left, right)[0, 0] == Trace(T(X) * S) + a * Trace(T(Y) * Y)
    assert inner(blocks([[X, S]]), blocks([[Y, a * S]]))[0, 0] == Trace(T(X) * Y) + a * Trace(T(S) * S)
    batch = np.stack([left, right])
    assert inner(batch, batch)[1, 0, 0] == Trace(T(S) * S) + Trace(T(Y) * Y)


def test_a_symmetric_block_is_its_transpose() -> None:
    symmetric = block("S", "symmetric")
    assert T(symmetric) == symmetric
    assert Trace(X * symmetric) == Trace(T(X) * symmetric)
    assert vanishes(T(symmetric**-1 * X) - T(X) * symmetric**-1).holds
    assert not vanishes(T(S) - S).holds


def test_numbers_between_columns_are_factors() -> None:
    u, v = block("u", "column"), block("v", "column")
    assert Trace(T(u) * X * v * T(v) * Y * u) == Trace(T(u) * X * v) * Trace(T(v) * Y * u)
    assert Trace(u * T(v) * u * T(v)) == Trace(T(v) * u) ** 2
    assert Trace(X * u * T(v)) == Trace(T(v) * X * u)
    assert vanishes(Trace(T(u) * X * v * T(u) * T(X) * v) - Trace(T(u) * X * v) * Trace(T(v) * X * u)).holds
    assert not vanishes(Trace(T(u) * X * v) - Trace(T(v) * X * u)).holds


def test_a_number_among_blocks_has_no_trace() -> None:
    with pytest.raises(ValueError, match="trace: expected blocks, got 1"):
        inner(blocks([[X, 0], [0, 1]]), blocks([[Y, 0], [0, 1]]))
    with pytest.raises(ValueError, match="a multiple of an identity of unknown size"):
        inner(blocks([[X]]), blocks([[1 / T(X)]]))


def test_traces_are_confirmed_at_random_matrices() -> None:
    assert vanishes(Trace(X * Y) * X - X * Trace(Y * X)).holds
    # Equal for 1 x 1 matrices only.
    assert not vanishes(Trace(X * Y) - Trace(X) * Trace(Y)).holds
