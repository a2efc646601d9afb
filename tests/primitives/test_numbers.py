"""The number systems: one function for floats of every precision and for SymPy expressions."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sympy

from refimpl.primitives import numbers

POINTS = (0.125, 0.5, 1.0, 2.75)
ELEMENTWISE: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "exp": (numbers.exp, sympy.exp),
    "log": (numbers.log, sympy.log),
    "log1p": (numbers.log1p, lambda x: sympy.log(1 + x)),
    "expm1": (numbers.expm1, lambda x: sympy.exp(x) - 1),
    "sqrt": (numbers.sqrt, sympy.sqrt),
    "tanh": (numbers.tanh, sympy.tanh),
    "sin": (numbers.sin, sympy.sin),
    "cos": (numbers.cos, sympy.cos),
    "erf": (numbers.erf, sympy.erf),
    "absolute": (numbers.absolute, sympy.Abs),
    "sign": (numbers.sign, sympy.sign),
    "positive_part": (numbers.positive_part, lambda x: sympy.Max(x, 0)),
    "unit_step": (numbers.unit_step, lambda x: sympy.Heaviside(x, 0)),
}
each_function = pytest.mark.parametrize(("function", "exact"), ELEMENTWISE.values(), ids=ELEMENTWISE)


@each_function
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_floats_agree_with_thirty_digits(function: Any, exact: Any, dtype: Any) -> None:
    x = np.array(POINTS, dtype).reshape(2, 2)
    result = function(x)
    assert result.dtype == dtype
    assert result.shape == x.shape
    for value, point in zip(result.flat, POINTS, strict=True):
        truth = sympy.N(exact(sympy.Rational(point)), 30)
        difference = abs(as_sympy(value) - truth)
        assert difference <= 4 * sympy.Float(float(np.finfo(dtype).eps)) * max(abs(truth), sympy.Float("0.1"))


def as_sympy(value: Any) -> Any:
    """A float of any precision as SymPy's, to its last digit."""
    high = float(value)
    return sympy.Float(high, 40) + sympy.Float(float(value - type(value)(high)), 40)


@each_function
def test_symbols_give_expressions(function: Any, exact: Any) -> None:
    x = sympy.Symbol("x", real=True)
    result = function(np.array([[x, sympy.Rational(1, 2)]], dtype=object))
    assert result.shape == (1, 2)
    assert result[0, 0] == exact(x)
    assert result[0, 1] == exact(sympy.Rational(1, 2))


@each_function
def test_a_scalar_stays_a_0d_array(function: Any, exact: Any) -> None:
    for value in (np.array(0.5), np.array(sympy.Rational(1, 2), dtype=object)):
        assert isinstance(function(value), np.ndarray)
        assert function(value).shape == ()


def test_where_positive_is_times_the_step() -> None:
    x, values = np.array([-1.0, 0.0, 2.0], dtype=np.float32), np.array([3.0, 4.0, 5.0], dtype=np.float32)
    np.testing.assert_array_equal(numbers.where_positive(x, values), numbers.unit_step(x) * values)
    assert numbers.where_positive(x, values).dtype == np.float32
    symbol = np.array([sympy.Symbol("x", real=True)], dtype=object)
    assert numbers.where_positive(symbol, symbol)[0] == sympy.Heaviside(symbol[0], 0) * symbol[0]


def test_integers_are_not_truncated() -> None:
    assert numbers.sqrt(2) == math.sqrt(2)
    assert numbers.erf(np.array([1]))[0] == pytest.approx(math.erf(1), rel=1e-15)


def test_longdouble_erf_to_its_last_digits() -> None:
    x = np.array([0, 1e-30, 1e-3, 0.3, 1, 1.99, 2, 2.01, 3.7, 6, 9, 40], dtype=np.longdouble)
    for signed in (x, -x):
        for entry, value in zip(signed, numbers.erf(signed), strict=True):
            exact = sympy.erf(as_sympy(entry)).n(40)
            assert abs(as_sympy(value) - exact) <= abs(exact) * float(np.finfo(x.dtype).eps) * 2


def test_constants_to_the_last_digit() -> None:
    for dtype in (np.float16, np.float32, np.float64, np.longdouble):
        pi = numbers.constant("pi", np.zeros(1, dtype))
        assert pi.dtype == dtype
        assert abs(as_sympy(pi[()]) - sympy.pi.n(40)) <= float(np.finfo(dtype).eps) * 2
    assert numbers.constant("pi", np.zeros(1, object))[()] == sympy.pi
    assert numbers.constant("0.044715", np.zeros(1, object))[()] == sympy.Rational(44715, 1000000)
    assert float(numbers.constant("0.1", np.zeros(1, np.longdouble)) * 10 - 1) < 1e-18


def test_transpose_of_blocks_transposes_each() -> None:
    a, b = (sympy.Symbol(name, commutative=False) for name in "ab")
    scalar = sympy.Symbol("s")
    result = numbers.transpose(np.array([[a, b], [0, scalar / (1 + scalar)]], dtype=object))
    assert result.tolist() == [[sympy.transpose(a), 0], [sympy.transpose(b), scalar / (1 + scalar)]]
    assert numbers.transpose(numbers.transpose(np.array([[a, b]], dtype=object))).tolist() == [[a, b]]


def test_of_a_block_only_the_absolute_value_of_its_negative_is_known() -> None:
    a, b, s = (sympy.Symbol(name, commutative=name == "s") for name in "abs")
    entry = a * b - s * (b - 1) * a
    both = numbers.absolute(np.array([entry, -entry], dtype=object))
    assert both[0] == both[1]
    assert not both[0].is_commutative
    part, negative = numbers.positive_part(np.array([entry, -entry], dtype=object))
    assert sympy.expand(part - negative - entry) == 0
    assert numbers.absolute(np.array([a, b, 2 * a], dtype=object))[0] not in (a, b, both[0])


def test_transpose_of_floats_moves_nothing() -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    assert np.shares_memory(numbers.transpose(x), x)
    np.testing.assert_array_equal(numbers.transpose(x), np.moveaxis(x, 1, 2))


def test_common_dtype_ignores_scalars() -> None:
    assert numbers.common_dtype(np.zeros(2, np.float32), 1.0, np.float64(2)) == np.float32
    assert numbers.common_dtype(np.zeros(2, np.float32), np.zeros(1)) == np.float64
    assert numbers.common_dtype(np.zeros(2, np.float32), sympy.Symbol("x")).kind == "O"


def test_row_max_guards_floats_only() -> None:
    np.testing.assert_array_equal(numbers.row_max(np.array([[1.0, 3.0], [2.0, -1.0]])), [[3.0], [2.0]])
    assert numbers.row_max(np.array([[sympy.Symbol("x")]], dtype=object)).tolist() == [[0]]
