"""Longdouble arrays for the truth, which stay longdouble through NumPy and ``np.linalg``."""

from typing import Any, Self

import numpy as np

from refimpl.oracle.linalg import IMPLEMENTED, LosesDigits
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import tree_map


class LongDouble(np.ndarray[Any, Any]):
    """Longdouble numbers that stay so: a float64 array that is no array of small integers is refused."""

    @classmethod
    def of(cls, x: Any) -> Self:
        """A copy of the numbers."""
        return np.array(x, dtype=np.longdouble).view(cls)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        for x in inputs:
            if isinstance(x, np.ndarray) and x.dtype == np.float64 and not np.array_equal(x, np.round(x)):
                raise LosesDigits(f"{ufunc.__name__}: a float64 array among longdouble ones")
        plain = [_plain(x) for x in inputs]
        if ufunc is np.matmul and out is None and all(x.ndim >= 2 for x in plain):
            return _wrapped(_product(*plain))
        if out is not None:
            options["out"] = tuple(_plain(x) for x in out)
        result = getattr(ufunc, method)(*plain, **options)
        return out[0] if out is not None else _wrapped(result)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function in IMPLEMENTED:
            return _wrapped(IMPLEMENTED[function](*(_plain(x) for x in args), **kwargs))
        if function.__module__ == "numpy.linalg":
            raise LosesDigits(f"numpy.linalg.{function.__name__}: only in float64")
        return _wrapped(super().__array_function__(function, types, args, kwargs))


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, LongDouble) else x


def _wrapped(result: Any) -> Any:
    if isinstance(result, tuple | list):
        return tree_map(_wrapped, result)
    is_long = isinstance(result, np.ndarray | np.generic) and result.dtype == np.longdouble
    return np.asarray(result).view(LongDouble) if is_long else result


def _product(a: Array, b: Array) -> Array:
    """``a @ b``: without BLAS, rows times rows is three times as fast as rows times columns."""
    return np.vecdot(a[..., :, None, :], np.ascontiguousarray(np.swapaxes(b, -1, -2))[..., None, :, :])
