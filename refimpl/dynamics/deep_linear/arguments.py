"""Numbers and arrays that broadcast: what the functions of a single mode take."""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.primitives.checks import check_array
from refimpl.primitives.numbers import Array, is_symbolic


def as_numbers(**values: Any) -> tuple[Array, ...]:
    """The values as arrays of their common dtype, float64 if all are Python numbers.

    Raises
    ------
    ValueError
        If one is not finite, or their shapes do not broadcast.
    """
    found = list(values.values())
    dtype: Any = np.float64
    if any(np.ndim(value) or hasattr(value, "dtype") for value in found):
        dtype = np.result_type(*(np.asanyarray(value) for value in found if hasattr(value, "dtype")))
    if any(hasattr(value, "free_symbols") for value in found):
        dtype = object
    arrays = [check_array(name, np.asanyarray(value, dtype=dtype)) for name, value in values.items()]
    try:
        np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(values, arrays, strict=True))
        raise ValueError(f"{next(iter(values))}: expected shapes that broadcast, got {shapes}") from None
    return tuple(arrays)


def check_entries(name: str, array: Array, fits: Callable[[Array], Any], wanted: str) -> None:
    """Raise ``ValueError`` at the first entry that does not fit; symbols are taken as they are."""
    if is_symbolic(array):
        return
    found = np.asanyarray(fits(array))
    if not np.all(found):
        index = tuple(map(int, np.argwhere(~found)[0]))
        entry = np.broadcast_to(array, found.shape)[index]
        raise ValueError(f"{name}: expected {wanted}, got {entry}" + (f" at index {index}" if index else ""))


def check_positive(wanted: str = "numbers > 0", **values: Any) -> None:
    """Raise ``ValueError`` unless every entry of every array is positive; symbols are taken as they are."""
    for name, value in values.items():
        (array,) = as_numbers(**{name: value})
        check_entries(name, array, lambda entries: entries > 0, wanted)


def check_between(start: Array, end: Array, strength: Array, ends: str) -> None:
    """Raise ``ValueError`` unless `end` lies on the way from `start` to `strength`; symbols are taken as they are."""

    def on_the_way(end: Array) -> Any:
        return ((start < end) & (end < strength)) | ((start > end) & (end > strength))

    check_entries("uf", end, on_the_way, f"numbers strictly between {ends}")
