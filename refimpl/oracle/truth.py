"""What the reference gives at more digits than the candidate has."""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.oracle.arithmetic import ROUNDOFF
from refimpl.oracle.longdouble import LongDouble
from refimpl.oracle.precision import cast
from refimpl.oracle.spec import Arguments
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import leaves

DIGITS = 34  # of SymPy's floats where longdouble has no more than float64
LARGEST_SYMBOLIC = 600  # entries: a product of SymPy floats takes microseconds
HAS_LONGDOUBLE = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant

Function = Callable[..., dict[str, Any]]


def truth(function: Function, arguments: Arguments, dtype: str) -> dict[str, Array] | None:
    """The outputs by name at more digits than `dtype` has; None if nothing computes them.

    For candidates in float32 and below that is float64. For float64 it is longdouble, with LAPACK's part done by
    :mod:`.linalg`; on machines where longdouble is float64, SymPy's floats, if there are few enough of them.

    Parameters
    ----------
    function : of keyword arguments, gives outputs by name.
    arguments : in float64.
    dtype : of the candidate.
    """
    if dtype != "float64":
        return {name: np.asarray(value) for name, value in function(**arguments).items()}
    try:
        return (_longdouble if HAS_LONGDOUBLE else _symbolic)(function, arguments)
    except np.linalg.LinAlgError:
        raise
    except TypeError:  # an operation that has only float64
        return None


def _longdouble(function: Function, arguments: Arguments) -> dict[str, Array] | None:
    exact = cast(arguments, LongDouble.of, np.longdouble)
    found = {name: np.asarray(value) for name, value in function(**exact).items()}
    lost = any(value.dtype == np.float64 and not _is_integral(value) for value in found.values())
    return None if lost else found


def _symbolic(function: Function, arguments: Arguments) -> dict[str, Array] | None:
    if sum(np.size(leaf) for leaf in leaves(arguments)) > LARGEST_SYMBOLIC:
        return None
    import sympy

    def number(x: Any) -> Any:
        return sympy.Float(float(x), DIGITS)

    def each(f: Callable[[Any], Any], x: Array) -> Array:
        out = np.empty(x.shape, dtype=object)
        out.reshape(-1)[:] = [f(entry) for entry in x.reshape(-1)]
        return out

    found = function(**cast(arguments, lambda x: each(number, x), number))
    return {
        name: each(lambda entry: sympy.N(sympy.sympify(entry), DIGITS), np.asarray(value))
        for name, value in found.items()
    }


def precision_of_truth(dtype: str) -> float:
    """The unit roundoff of the truth for a candidate in `dtype`."""
    if dtype != "float64":
        return ROUNDOFF["float64"]
    return float(np.finfo(np.longdouble).eps) / 2 if HAS_LONGDOUBLE else 10.0**-DIGITS


def _is_integral(x: Array) -> bool:
    return bool(np.all(x == np.round(x)))


def distance(given: Array, true: Array) -> float:
    """The largest absolute difference; NaN if there is one."""
    if true.dtype == object:
        entries = zip(given.reshape(-1), true.reshape(-1), strict=True)
        return max((float(abs(t - float(g))) if np.isfinite(g) else float("nan") for g, t in entries), default=0.0)
    return float(np.max(np.abs(given.astype(true.dtype) - true), initial=0))


def size(x: Array) -> float:
    """The largest absolute entry."""
    return float(np.max(np.abs(x), initial=0))


def to_float64(x: Array) -> Array:
    return np.asarray(x, dtype=np.float64)
