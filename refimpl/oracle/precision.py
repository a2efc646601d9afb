"""Number formats: casting inputs, the precision of the truth, and arithmetic that rounds as a low precision does."""

from typing import Any

import numpy as np

from refimpl.oracle.spec import is_differentiable
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import tree_map

# Unit roundoff: half the distance from 1 to the next number.
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
# Below it a number loses digits, and zero digits are left at about ROUNDOFF times it.
SMALLEST_NORMAL = {"float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126}


def check_dtype(dtype: str) -> str:
    """Return the name of a dtype that candidates may be judged in; ``ValueError`` for any other."""
    if dtype not in ROUNDOFF:
        raise ValueError(f"dtype: expected one of {', '.join(ROUNDOFF)}, got {dtype!r}")
    return dtype


class BFloat16(np.ndarray[Any, Any]):
    """Float32 storage whose every value is a bfloat16, because each operation's result is rounded to one.

    A matrix product or a sum is rounded once at its end, as hardware does that accumulates in float32. The reference
    runs on these arrays as on any other, and so becomes the plain bfloat16 implementation.
    """

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        plain = [x.view(np.ndarray) if isinstance(x, BFloat16) else x for x in inputs]
        if out is not None:
            options["out"] = tuple(x.view(np.ndarray) if isinstance(x, BFloat16) else x for x in out)
        result = getattr(ufunc, method)(*plain, **options)
        if out is not None:
            for target in out:
                if isinstance(target, BFloat16):
                    target.view(np.ndarray)[...] = _round_to_bfloat16(target.view(np.ndarray))
            return out[0]
        if isinstance(result, np.ndarray | np.generic) and np.issubdtype(result.dtype, np.floating):
            return _round_to_bfloat16(np.asarray(result, np.float32)).view(BFloat16)
        return result


def _round_to_bfloat16(x: Array) -> Array:
    """Round float32 to the nearest bfloat16, ties to even, kept as float32: add half a unit to the bits, cut them."""
    x = np.ascontiguousarray(x, dtype=np.float32).reshape(np.shape(x))
    bits = x.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isfinite(x), rounded, x)


def round_leaf(leaf: Array, dtype: str) -> Array:
    """An array in the candidate's precision, as the baseline takes it; bfloat16 as :class:`BFloat16`."""
    if dtype == "bfloat16":
        return _round_to_bfloat16(np.asarray(leaf, np.float64).astype(np.float32)).view(BFloat16)
    return np.asarray(leaf).astype(dtype)


def cast(arguments: dict[str, Any], convert: Any) -> dict[str, Any]:
    """Apply `convert` to every floating array of the arguments; leave integers, masks and plain numbers alone."""
    return {name: tree_map(convert, value) if is_differentiable(value) else value for name, value in arguments.items()}


def truth_dtype(dtype: str) -> Any:
    """The precision of the truth: longdouble (80 bits on x86) for float64 candidates, float64 for all others."""
    return np.longdouble if dtype == "float64" else np.float64


def neighbour(arguments: dict[str, Any], dtype: str, rng: np.random.Generator) -> dict[str, Any]:
    """Rounded arguments with every number moved by -1, 0 or 1 unit in the last place, at random.

    They cannot be told from the given ones in this precision, so what the reference makes of them is as good an answer;
    and a baseline that happens to round luckily on the given ones does not on all of these.
    """
    unit = 2 * ROUNDOFF[dtype]

    def move(leaf: Array) -> Array:
        steps = rng.integers(-1, 2, leaf.shape)
        return round_leaf(np.asarray(leaf, np.float64) * (1 + unit * steps), dtype)

    moved = cast(arguments, move)
    return {n: v * (1 + unit * int(rng.integers(-1, 2))) if isinstance(v, float) else v for n, v in moved.items()}
