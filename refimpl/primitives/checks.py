"""Checks of arguments, once, on entry to a public function.

Each raises ``ValueError`` that names the argument, says what was expected and what came.
"""

import functools
import math
import numbers as abstract_numbers
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import numpy as np

from refimpl.primitives.numbers import Array

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


class Checked(Protocol[Parameters, Returned]):
    """A function that checks its arguments on entry; ``check`` is the check alone, ``unchecked`` the function alone."""

    check: Callable[Parameters, None]
    unchecked: Callable[Parameters, Returned]

    def __call__(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned: ...

    def __hash__(self) -> int: ...


def checked(
    check: Callable[Parameters, None],
) -> Callable[[Callable[Parameters, Returned]], Checked[Parameters, Returned]]:
    """Decorate a function with the check of its arguments, which has the same parameters and raises ``ValueError``.

    An operation and its pullback's twin share one check, and whoever composes them into something that has already
    checked its own arguments calls ``operation.unchecked``.
    """

    def decorate(function: Callable[Parameters, Returned]) -> Checked[Parameters, Returned]:
        @functools.wraps(function)
        def on_entry(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
            check(*args, **kwargs)
            return function(*args, **kwargs)

        decorated = cast(Checked[Parameters, Returned], on_entry)
        decorated.check, decorated.unchecked = check, function
        return decorated

    return decorate


def check_array(name: str, value: Any) -> Array:
    """Return `value` as an array of a floating or ``object`` dtype with finite entries.

    Raises
    ------
    ValueError
        If it is not such an array. Integers are refused: what precision they ask for is anybody's guess.
    """
    array = np.asanyarray(value)
    kind = array.dtype.kind
    if kind == "O":
        return array
    if kind != "f" and not _is_extension_float(array.dtype):
        raise ValueError(f"{name}: expected a floating-point array, got dtype {array.dtype}")
    if not _is_finite(array):
        bad = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(f"{name}: expected finite entries, got {array[tuple(bad)]} at index {tuple(map(int, bad))}")
    return array


def _is_finite(array: Array) -> bool:
    """Whether every entry is finite: that of a sum of squares says so, at the speed of memory, unless it overflows."""
    if type(array) is not np.ndarray:
        array = array.view(np.ndarray)  # a subclass may have slower arithmetic of its own
    # Unlike np.dot, np.vdot gives no warning of an overflow.
    if array.dtype.char in "fd" and array.flags.c_contiguous and math.isfinite(np.vdot(array, array)):
        return True
    return bool(np.all(np.isfinite(array)))


def _is_extension_float(dtype: np.dtype[Any]) -> bool:
    """Whether the dtype is a floating-point type that NumPy does not know as one, such as ``ml_dtypes.bfloat16``."""
    return dtype.kind == "V" and "float" in dtype.name


def check_shapes(**arguments: tuple[Any, str]) -> dict[str, Any]:
    """Check arrays against shapes with named sizes; return the sizes.

    Each keyword is the argument's name; its value the array and its shape, such as ``(x, "... n_inputs n_context")``.
    The same name must have the same size in every argument, and at least 1. A number in the shape is that size. A
    leading ``...`` allows batch axes, which must agree between the arguments that have it; they are returned as the
    tuple ``sizes["..."]``.

    Raises
    ------
    ValueError
        If a value is no floating-point array (a list is none), has a non-finite entry, or its shape does not fit.
    """
    sizes: dict[str, Any] = {}
    for name, (value, shape) in arguments.items():
        if not hasattr(value, "dtype"):
            raise ValueError(f"{name}: expected an array, got {type(value).__name__}")
        array = check_array(name, value)
        batched, wanted = _parse_shape(shape)
        split = array.ndim - len(wanted)
        if split < 0 or (split and not batched):
            raise ValueError(f"{name}: expected shape {_printed(shape)}, got {array.shape}")
        for size_name, size in zip(wanted, array.shape[split:], strict=True):
            if size != (size_name if isinstance(size_name, int) else sizes.setdefault(size_name, size)):
                raise _misfit(name, array.shape, size_name, sizes, arguments)
            if size == 0:
                raise ValueError(f"{name}: expected {size_name} >= 1 in shape {_printed(shape)}, got {array.shape}")
        if batched and sizes.setdefault("...", array.shape[:split]) != array.shape[:split]:
            raise _misfit(name, array.shape, "...", sizes, arguments)
    return sizes


@functools.cache
def _parse_shape(shape: str) -> tuple[bool, tuple[str | int, ...]]:
    """Whether there are batch axes, and the names of the others, or their sizes."""
    names = shape.split()
    batched = names[:1] == ["..."]
    return batched, tuple(int(name) if name.isdigit() else name for name in names[batched:])


def _printed(shape: str) -> str:
    return f"({', '.join(shape.split())})"


def _misfit(
    name: str, found: tuple[int, ...], size: str | int, sizes: dict[str, Any], arguments: dict[str, tuple[Any, str]]
) -> ValueError:
    """What to raise for an argument with another size than it should have."""
    if isinstance(size, int):
        return ValueError(f"{name}: expected shape {_printed(arguments[name][1])}, got {found}")
    first = next(other for other, (_, shape) in arguments.items() if size in shape.split())
    what = "batch axes" if size == "..." else size
    return ValueError(f"{name}: expected {what} {sizes[size]} as in {first}, got shape {found}")


def check_number(name: str, value: Any, interval: str = "(-inf, inf)") -> Any:
    """Return a real scalar inside an interval such as ``"(0, inf)"`` or ``"[0, 1)"``, as a Python number.

    A Python number leaves the dtype of the arrays that it meets alone; a NumPy scalar would promote them. A SymPy
    expression without a value of its own is taken as it is.

    Raises
    ------
    ValueError
        If it is not a finite real number in the interval.
    """
    if getattr(value, "free_symbols", None):
        return value
    low, high = (float(end) for end in interval[1:-1].split(","))
    is_number = isinstance(value, abstract_numbers.Real) or getattr(value, "is_real", False)
    if isinstance(value, bool | np.bool_) or not is_number:
        raise ValueError(f"{name}: expected a number in {interval}, got {value!r}")
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if not (above and below):
        raise ValueError(f"{name}: expected a number in {interval}, got {value}")
    if isinstance(value, np.integer | np.floating) and not isinstance(value, np.longdouble):
        return value.item()
    return value


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> Any:
    """Return an integer from `low` to `high` (both included), as a Python ``int``; a free SymPy symbol as it is.

    Raises
    ------
    ValueError
        If it is not an integer or out of range.
    """
    if getattr(value, "free_symbols", None):
        return value
    wanted = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, abstract_numbers.Integral):
        raise ValueError(f"{name}: expected {wanted}, got {value!r}")
    integer = int(value)
    if integer < low or (high is not None and integer > high):
        raise ValueError(f"{name}: expected {wanted}, got {value}")
    return integer
