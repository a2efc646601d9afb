"""Number formats: casting inputs, numbers one unit in the last place away, and arithmetic in a low precision."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from refimpl.oracle.spec import Arguments
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import leaves, tree_map

# Unit roundoff: half the distance from 1 to the next number.
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
# Below it a number loses digits, and zero digits are left at about ROUNDOFF times it.
SMALLEST_NORMAL = {"float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126}

# Where a zero is moved to, so that a jump at zero shows: small enough to change nothing else, large enough that
# products of it do not underflow.
BESIDE_ZERO = {"float64": 2.0**-511, "float32": 2.0**-63, "float16": 2.0**-14, "bfloat16": 2.0**-63}


def check_dtype(dtype: str) -> str:
    """Return the name of a dtype that candidates may be judged in; ``ValueError`` for any other."""
    if dtype not in ROUNDOFF:
        raise ValueError(f"dtype: expected one of {', '.join(ROUNDOFF)}, got {dtype!r}")
    return dtype


class LowPrecision(np.ndarray[Any, Any]):
    """Float32 storage whose every value is one of a shorter format, because each operation's result is rounded to it.

    A matrix product or a sum is rounded once at its end, as hardware does that accumulates in float32. The reference
    runs on these arrays as on any other, and so becomes the plain implementation in the short format.
    """

    @staticmethod
    def rounded(x: Array) -> Array:
        """Float32 numbers rounded to the short format, kept as float32."""
        raise NotImplementedError

    @classmethod
    def of(cls, x: Any) -> Self:
        """The numbers, rounded."""
        with np.errstate(over="ignore"):
            return cls.rounded(np.asarray(x, np.float32)).view(cls)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        plain = [x.view(np.ndarray) if isinstance(x, LowPrecision) else x for x in inputs]
        if out is not None:
            options["out"] = tuple(x.view(np.ndarray) if isinstance(x, LowPrecision) else x for x in out)
        result = getattr(ufunc, method)(*plain, **options)
        if out is not None:
            for target in out:
                if isinstance(target, LowPrecision):
                    target.view(np.ndarray)[...] = self.rounded(target.view(np.ndarray))
            return out[0]
        return self._rounded(result)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return self._rounded(super().__array_function__(function, types, args, kwargs))

    def _rounded(self, result: Any) -> Any:
        if isinstance(result, tuple | list):
            return tree_map(self._rounded, result)
        if isinstance(result, np.ndarray | np.generic) and np.issubdtype(result.dtype, np.floating):
            return self.of(result)
        return result


class BFloat16(LowPrecision):
    """Numbers of 8 significant bits, with the range of float32."""

    @staticmethod
    def rounded(x: Array) -> Array:
        # To the nearest, ties to even: add half a unit to the bits, less one if the last bit kept is 0, and cut them.
        bits = np.ascontiguousarray(x).reshape(x.shape).view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        cut = ((bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)).view(np.float32)
        return np.where(np.isfinite(x), cut, x)


class Float16(LowPrecision):
    """Numbers of 11 significant bits, up to 65504. NumPy has no fast products for its own float16."""

    @staticmethod
    def rounded(x: Array) -> Array:
        return x.astype(np.float16).astype(np.float32)


_SHORT: dict[str, type[LowPrecision]] = {"bfloat16": BFloat16, "float16": Float16}


def round_array(x: Any, dtype: str) -> Array:
    """An array in the candidate's precision as the baseline takes it: :class:`LowPrecision` for the short formats."""
    if dtype in _SHORT:
        return _SHORT[dtype].of(x)
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(dtype)


class Number(float):
    """A number whose arithmetic rounds to a low precision: what a function of numbers alone is run on."""

    dtype: str

    def __new__(cls, value: float, dtype: str) -> Self:
        number = super().__new__(cls, float(round_array(value, dtype)))
        number.dtype = dtype
        return number

    def _binary(name: str) -> Any:  # type: ignore[misc]
        def operate(self: Self, other: Any) -> Any:
            if type(other) not in (int, float, Number):
                return NotImplemented
            return Number(getattr(float, name)(self, float(other)), self.dtype)

        return operate

    __add__, __radd__ = _binary("__add__"), _binary("__radd__")
    __sub__, __rsub__ = _binary("__sub__"), _binary("__rsub__")
    __mul__, __rmul__ = _binary("__mul__"), _binary("__rmul__")
    __truediv__, __rtruediv__ = _binary("__truediv__"), _binary("__rtruediv__")
    __pow__, __rpow__ = _binary("__pow__"), _binary("__rpow__")

    def __neg__(self) -> Any:
        return Number(-float(self), self.dtype)

    def __abs__(self) -> Any:
        return Number(abs(float(self)), self.dtype)


def round_number(x: float, dtype: str) -> float:
    """A Python number rounded to the candidate's precision."""
    return float(round_array(x, dtype))


def cast(
    arguments: Arguments, array: Callable[[Array], Any], number: Callable[[float], Any] = lambda x: x
) -> Arguments:
    """Apply `array` to floating arrays and `number` to Python floats; leave integers, masks and text alone."""

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "iub":
            return array(leaf)
        return number(leaf) if isinstance(leaf, float) and not isinstance(leaf, np.generic) else leaf

    return tree_map(convert, arguments)


def rounded_arguments(arguments: Arguments, dtype: str) -> Arguments:
    """The arguments' nearest numbers in this precision, kept as float64."""
    return cast(
        arguments,
        lambda x: np.asarray(round_array(x, dtype), np.float64),
        lambda x: round_number(x, dtype),
    )


def baseline_arguments(arguments: Arguments, dtype: str) -> Arguments:
    """Arguments on which the reference computes in this precision."""
    if dtype == "float64" or any(isinstance(leaf, np.ndarray) for leaf in leaves(arguments)):
        # A Python number takes the precision of the arrays that it meets.
        return cast(arguments, lambda x: round_array(x, dtype))
    return cast(arguments, lambda x: x, lambda x: Number(x, dtype))


def neighbours(arguments: Arguments, dtype: str, count: int, rng: np.random.Generator) -> list[Arguments]:
    """Arguments with every number moved by one unit in the last place, up or down at random; each then the other way.

    They cannot be told from the given ones in this precision, so what the reference makes of them is as good an answer;
    and a baseline that happens to round luckily on the given ones does not on all of these. A zero moves to a very
    small number of either sign, which shows where a derivative jumps there. A symmetric matrix stays symmetric.
    """

    def unit(x: Array) -> Array:
        below = np.ldexp(2 * ROUNDOFF[dtype], np.frexp(x)[1] - 1)
        return np.where(x == 0, BESIDE_ZERO[dtype], below)

    units = cast(arguments, unit, lambda x: float(unit(np.asarray(x))))
    moved = []
    for _ in range(count // 2):
        steps = cast(units, lambda x: _signs(x, rng) * x, lambda x: x * (1 - 2 * int(rng.integers(2))))
        moved += [tree_map(lambda x, step, sign=sign: _moved(x, sign, step), arguments, steps) for sign in (1, -1)]
    return moved


def _moved(x: Any, sign: int, step: Any) -> Any:
    is_real = isinstance(x, float) or (isinstance(x, np.ndarray) and x.dtype.kind not in "iub")
    return x + sign * step if is_real else x


def _signs(like: Array, rng: np.random.Generator) -> Array:
    """Random signs, symmetric for a symmetric matrix."""
    signs: Array = np.asarray(1.0 - 2 * rng.integers(0, 2, like.shape, dtype=np.int8))
    if like.ndim >= 2 and like.shape[-1] == like.shape[-2] > 1 and _is_symmetric(like):
        upper = np.triu(signs, 1)
        signs = upper + np.swapaxes(upper, -1, -2) + np.eye(like.shape[-1])
    return signs


def _is_symmetric(x: Array) -> bool:
    # Most matrices are not, which one entry of two tells.
    return bool(np.all(x[..., 0, -1] == x[..., -1, 0])) and np.array_equal(x, np.swapaxes(x, -1, -2))
