r"""Arithmetic in a number format, plain or with every rounding drawn anew.

The reference runs on these arrays as on any other, and so becomes *an* implementation in the format. Plain, each
operation's result is rounded to nearest. With a generator it is then moved by up to one unit in the last place at
random: Monte Carlo arithmetic (Parker, 1997). What such a run returns is what another honest implementation might: one
that sums in another order, multiplies before it divides, or calls another exponential.

A sum of $n$ terms, in a matrix product too, rounds its partial sums. Each is off by at most $u|s_k|$ with
$|s_k|\le\frac kn\sum|a|$, so that for independent uniform errors, summed one after the other, the standard deviation is
at most $u\sqrt n/3$ times $\sum|a|$: a uniform error up to $u\sqrt{n/3}\sum|a|$ has it. The short formats accumulate in
float32, as hardware does; linear algebra is backward stable, so there the matrices move instead.

A softmax $e^{x_i-m}/\sum_je^{x_j-m}$ may as well be $e^{x_i-(m+\log\sum_j e^{x_j-m})}$, as in every attention that
keeps the logarithm for its backward pass. There the exponent rounds to a unit of $m$: so a quotient of exponentials of
differences $x-m$ moves by up to $2u|m|$ of itself.
"""

import math
from functools import cache
from typing import Any, ClassVar, Self

import numpy as np

from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import tree_map

# Unit roundoff: half the distance from 1 to the next number.
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}

_BOOL = np.dtype(bool)
# Their results are exact, or choose among the operands.
_EXACT = {
    np.maximum, np.minimum, np.fmax, np.fmin, np.negative, np.positive, np.absolute, np.sign, np.copysign, np.rint,
    np.floor, np.ceil, np.trunc, np.spacing, np.nextafter, np.ldexp, np.frexp, np.modf,
}  # fmt: skip
_PRODUCTS = {np.matmul, np.vecdot, *(getattr(np, name) for name in ("matvec", "vecmat") if hasattr(np, name))}


class Emulated(np.ndarray[Any, Any]):
    """Numbers of a format, float16 and bfloat16 stored as float32, whose arithmetic rounds to it."""

    format: ClassVar[str]
    rng: ClassVar[np.random.Generator | None]
    subtracted: Array | None = None
    exponent: Array | None = None

    @classmethod
    def of(cls, x: Any) -> Self:
        """The numbers, rounded."""
        return cls._round(np.array(x, np.float64)).view(cls)

    @classmethod
    def _round(cls, x: Array) -> Array:
        if cls.format in ("float64", "float32") and x.dtype == cls.format:
            return x
        with np.errstate(over="ignore"):
            if cls.format in ("float64", "float32"):
                return x.astype(cls.format)
            if cls.format == "float16":
                return x.astype(np.float16).astype(np.float32)
            return _to_bfloat16(x.astype(np.float32, copy=False))

    @classmethod
    def _settle(cls, result: Any, extent: Array | None = None) -> Any:
        """The result, which nobody else holds, in the format; at random, moved by up to a unit in the last place and up
        to `extent`."""
        if isinstance(result, tuple | list):
            return tree_map(cls._settle, result)
        dtype = getattr(result, "dtype", None)
        if dtype is None or dtype.kind != "f":
            return result
        result = np.asarray(result)
        if cls.rng is not None:
            draws = cls.rng.random(result.shape, np.float64 if dtype == np.float64 else np.float32)
            draws -= 0.5
            if extent is not None:
                extent *= draws
                np.add(result, extent, out=result, where=np.isfinite(extent))
            draws *= 4 * ROUNDOFF[cls.format]
            draws += 1
            result *= draws  # no sum: an infinity stays one
        return cls._round(result).view(cls)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        plain = [_plain(x) for x in inputs]
        if out is not None:
            options["out"] = tuple(_plain(x) for x in out)
        result = getattr(ufunc, method)(*plain, **options)
        if ufunc in _EXACT or ufunc.__name__ == "clip":
            return out[0] if out is not None else tree_map(self._exact, result)
        if getattr(result, "dtype", None) is _BOOL:
            return result
        extent = None if self.rng is None else self._extent(ufunc, method, plain, options)
        exponent = getattr(inputs[0], "exponent", None)
        if ufunc is np.divide and exponent is not None:
            extent = np.abs(result * exponent) * (2 * self._unit_inside())
        settled = self._settle(result, extent)
        self._trace(ufunc, inputs, settled if out is None else out[0])
        if out is None:
            return settled
        for target, values in zip(out, settled if len(out) > 1 else (settled,), strict=True):
            _plain(target)[...] = _plain(values)
        return out if len(out) > 1 else out[0]

    @classmethod
    def _exact(cls, result: Any) -> Any:
        floating = isinstance(result, np.ndarray | np.generic) and result.dtype.kind == "f"
        return cls._round(np.asarray(result)).view(cls) if floating else result

    def _trace(self, ufunc: np.ufunc, inputs: tuple[Any, ...], receiver: Any) -> None:
        """Remember what was subtracted from each row or column, and how large the exponent of an exponential was before
        that."""
        if self.rng is None or not isinstance(receiver, Emulated):
            return
        is_shift = ufunc is np.subtract and 1 in np.shape(inputs[1])[-2:]
        receiver.subtracted = _plain(inputs[1]) if is_shift else None
        receiver.exponent = getattr(inputs[0], "subtracted", None) if ufunc is np.exp else None

    @classmethod
    def _extent(cls, ufunc: np.ufunc, method: str, inputs: list[Any], options: dict[str, Any]) -> Array | None:
        """How far the rounding of partial sums moves the result."""
        sums = ufunc is np.add and method in ("reduce", "accumulate")
        if not sums and (ufunc not in _PRODUCTS or method != "__call__"):
            return None
        terms = math.prod(inputs[0].shape[axis] for axis in _axes(inputs[0], options)) if sums else inputs[0].shape[-1]
        without_out = {key: value for key, value in options.items() if key != "out"}
        extent = np.asarray(getattr(ufunc, method)(*(np.abs(x) for x in inputs), **without_out))
        return extent * (2 * cls._of_sum(terms))

    @classmethod
    def _of_sum(cls, terms: int) -> float:
        return math.sqrt(terms / 3) * cls._unit_inside()

    @classmethod
    def _unit_inside(cls) -> float:
        """The roundoff of what is not stored."""
        return ROUNDOFF["float64" if cls.format == "float64" else "float32"]

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if self.rng is not None and function in (np.einsum, np.dot, np.inner, np.tensordot):
            plain, out = tree_map(_plain, args), kwargs.pop("out", None)
            sizes = tree_map(lambda x: np.abs(x) if isinstance(x, np.ndarray) else x, plain)
            result = np.array(function(*plain, **kwargs))
            terms = max(1, max(np.size(x) for x in plain if isinstance(x, np.ndarray)) // max(1, result.size))
            settled = self._settle(result, np.array(function(*sizes, **kwargs)) * (2 * self._of_sum(terms)))
            if out is None:
                return settled
            _plain(out)[...] = _plain(settled)
            return out
        is_linear_algebra = function.__module__ == "numpy.linalg"
        if self.rng is not None and is_linear_algebra:
            args, kwargs = tree_map(lambda x: self._settle(x.copy()) if isinstance(x, Emulated) else x, (args, kwargs))
        result = super().__array_function__(function, types, args, kwargs)
        if is_linear_algebra:
            return tree_map(lambda x: self._settle(np.array(x)), result)
        if isinstance(result, Emulated) and self.format in ("float64", "float32"):
            return result
        return tree_map(self._exact, result) if isinstance(result, tuple | list) else self._exact(result)


def _axes(x: Array, options: dict[str, Any]) -> tuple[int, ...]:
    axis = options.get("axis", 0)
    return tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, Emulated) else x


def _to_bfloat16(x: Array) -> Array:
    # To the nearest, ties to even: add half a unit to the bits, less one if the last bit kept is 0, and cut them.
    bits = np.ascontiguousarray(x).reshape(x.shape).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    cut = ((bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isfinite(x), cut, x)


def at_random(dtype: str, rng: np.random.Generator) -> type[Emulated]:
    """Arrays of this format whose roundings are drawn from `rng`."""
    return type(f"Random{dtype.capitalize()}", (Emulated,), {"format": dtype, "rng": rng})


@cache
def to_nearest(dtype: str) -> type[Emulated]:
    """Arrays of this format whose operations round to the nearest number."""
    return type(dtype.capitalize(), (Emulated,), {"format": dtype, "rng": None})


class Number(float):
    """A number whose arithmetic rounds as that of :class:`Emulated`: what a function of numbers alone is run on."""

    kind: type[Emulated]

    def __new__(cls, value: float, kind: type[Emulated]) -> Self:
        number = super().__new__(cls, float(kind.of(value)))
        number.kind = kind
        return number

    def _binary(name: str) -> Any:  # type: ignore[misc]
        def operate(self: Self, other: Any) -> Any:
            if type(other) not in (int, float, Number):
                return NotImplemented
            result = getattr(float, name)(self, float(other))
            return Number(float(self.kind._settle(np.float64(result))), self.kind)

        return operate

    __add__, __radd__ = _binary("__add__"), _binary("__radd__")
    __sub__, __rsub__ = _binary("__sub__"), _binary("__rsub__")
    __mul__, __rmul__ = _binary("__mul__"), _binary("__rmul__")
    __truediv__, __rtruediv__ = _binary("__truediv__"), _binary("__rtruediv__")
    __pow__, __rpow__ = _binary("__pow__"), _binary("__rpow__")

    def __neg__(self) -> Any:
        return Number(-float(self), self.kind)

    def __abs__(self) -> Any:
        return Number(abs(float(self)), self.kind)
