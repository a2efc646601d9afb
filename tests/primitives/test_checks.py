"""What the checks of arguments refuse, and what they say."""

import importlib.util
from typing import Any

import numpy as np
import pytest
import sympy

from refimpl.primitives.checks import check_array, check_integer, check_number, check_shapes, checked

DTYPES: list[Any] = [np.float16, np.float32, np.float64, np.longdouble, object]
if importlib.util.find_spec("ml_dtypes"):
    DTYPES.append(importlib.import_module("ml_dtypes").bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_floats_and_symbols_pass(dtype: Any) -> None:
    assert check_array("x", np.ones(2, dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (np.ones(2, int), r"x: expected a floating-point array, got dtype int64"),
        (np.ones(2, bool), r"x: expected a floating-point array, got dtype bool"),
        (np.ones(2, complex), r"x: expected a floating-point array, got dtype complex128"),
        (np.array([["a"]]), r"x: expected a floating-point array, got dtype <U1"),
        (np.array([[0.0, np.nan]]), r"x: expected finite entries, got nan at index \(0, 1\)"),
        (np.array([np.inf]), r"x: expected finite entries, got inf at index \(0,\)"),
    ],
)
def test_arrays_refused(value: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_array("x", value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_finite_arrays_pass_whose_squares_are_not(dtype: Any) -> None:
    """Without a warning, which would be an error in this suite."""
    largest = np.array([[1, -1], [1, 1]], dtype) * np.finfo(dtype).max
    assert check_array("x", largest) is largest
    assert check_array("x", largest.T).shape == (2, 2)
    with pytest.raises(ValueError, match=r"x: expected finite entries, got -inf at index \(0, 1\)"):
        check_array("x", np.where(largest < 0, dtype(-np.inf), largest))


def test_sizes_are_returned() -> None:
    sizes = check_shapes(x=(np.ones((5, 2, 3)), "... n d"), w=(np.ones((4, 3)), "k d"), y=(np.ones((5, 2)), "... n"))
    assert sizes == {"n": 2, "d": 3, "k": 4, "...": (5,)}


@pytest.mark.parametrize(
    ("shapes", "complaint"),
    [
        ({"x": ((2,), "n d")}, r"x: expected shape \(n, d\), got \(2,\)"),
        ({"x": ((2, 3, 4), "n d")}, r"x: expected shape \(n, d\), got \(2, 3, 4\)"),
        ({"x": ((3,), "... n d")}, r"x: expected shape \(\.\.\., n, d\), got \(3,\)"),
        ({"x": ((2, 0), "n d")}, r"x: expected d >= 1 in shape \(n, d\), got \(2, 0\)"),
        ({"x": ((2, 3), "n 4")}, r"x: expected shape \(n, 4\), got \(2, 3\)"),
        ({"x": ((2, 3), "n d"), "w": ((2,), "d")}, r"w: expected d 3 as in x, got shape \(2,\)"),
        (
            {"x": ((5, 3), "... d"), "y": ((1, 3), "... d")},
            r"y: expected batch axes \(5,\) as in x, got shape \(1, 3\)",
        ),
        ({"x": ((3, 3), "n n"), "y": ((2, 3), "n n")}, r"y: expected n 3 as in x, got shape \(2, 3\)"),
    ],
)
def test_shapes_refused(shapes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_shapes(**{name: (np.ones(shape), wanted) for name, (shape, wanted) in shapes.items()})


@pytest.mark.parametrize("value", [[1.0, 2.0], 1.0, None, "abc"])
def test_what_is_no_array_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=f"x: expected an array, got {type(value).__name__}"):
        check_shapes(x=(value, "... n"))


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.float64(0.5), np.int64(1), sympy.Rational(1, 2)])
def test_numbers_promote_no_array(value: Any) -> None:
    number = check_number("rate", value, "(0, 1]")
    assert number == value
    assert (np.ones(1, np.float32) * float(number)).dtype == np.float32
    assert not isinstance(number, np.generic)


def test_longdouble_and_symbols_stay() -> None:
    third = np.longdouble(1) / 3
    assert check_number("rate", third) == third
    symbol = sympy.Symbol("eta")
    assert check_number("rate", symbol, "(0, 1)") is symbol


@pytest.mark.parametrize(
    ("value", "interval"),
    [
        (0.0, "(0, 1)"),
        (1.0, "[0, 1)"),
        (-0.1, "[0, 1]"),
        (1.1, "[0, 1]"),
        (float("nan"), "(-inf, inf)"),
        (float("inf"), "(0, inf)"),
        (sympy.Rational(3, 2), "[0, 1]"),
        ("1", "[0, 1]"),
        (True, "[0, 1]"),
        (None, "[0, 1]"),
        (1j, "[0, 1]"),
        (np.ones(1), "[0, 1]"),
    ],
)
def test_numbers_refused(value: Any, interval: str) -> None:
    with pytest.raises(ValueError, match="rate: expected a number in"):
        check_number("rate", value, interval)


def test_integers() -> None:
    assert type(check_integer("n", np.int32(3), 1, 3)) is int
    for value, complaint in [
        (0, "n: expected an integer from 1 to 3, got 0"),
        (4, "n: expected an integer from 1 to 3, got 4"),
        (2.0, "n: expected an integer from 1 to 3, got 2.0"),
        (True, "n: expected an integer from 1 to 3, got True"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            check_integer("n", value, 1, 3)
    with pytest.raises(ValueError, match="n: expected an integer >= 1, got -1"):
        check_integer("n", -1, 1)


def test_checked_checks_once_and_unchecked_never() -> None:
    calls = []

    @checked(lambda x: calls.append(x))
    def double(x: int) -> int:
        """Twice."""
        return 2 * x

    assert double(3) == 6
    assert double.unchecked(4) == 8
    assert calls == [3]
    assert double.__doc__ == "Twice."
