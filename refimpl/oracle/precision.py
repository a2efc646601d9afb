"""Number formats: casting inputs to them, and numbers one unit in the last place away."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from refimpl.oracle.arithmetic import ROUNDOFF, Emulated, Number, to_nearest
from refimpl.oracle.spec import Arguments
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import leaves, tree_map

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


def round_array(x: Any, dtype: str) -> Array:
    """An array in the candidate's precision as the baseline takes it: :class:`Emulated` for the short formats."""
    if dtype in ("bfloat16", "float16"):  # NumPy has no fast products for its own float16
        return to_nearest(dtype).of(x)
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(dtype)


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


def baseline_arguments(arguments: Arguments, kind: type[Emulated]) -> Arguments:
    """Arguments on which the reference computes in the format of `kind`."""
    if any(isinstance(leaf, np.ndarray) for leaf in leaves(arguments)):
        # A Python number takes the precision of the arrays that it meets. NumPy itself rounds to nearest, faster.
        native = kind.rng is None and kind.format in ("float64", "float32")
        return cast(arguments, (lambda x: round_array(x, kind.format)) if native else kind.of)
    return cast(arguments, lambda x: x, lambda x: Number(x, kind))


def neighbours(arguments: Arguments, dtype: str, count: int, rng: np.random.Generator) -> Iterator[Arguments]:
    """Arguments with every number moved by one unit in the last place, up or down at random; each then the other way.

    They cannot be told from the given ones in this precision, so what the reference makes of them is as good an answer;
    and a baseline that happens to round luckily on the given ones does not on all of these. A zero moves to a very
    small number of either sign, which shows where a derivative jumps there. A symmetric matrix stays symmetric.
    """

    def unit(x: Array) -> Array:
        below = np.ldexp(2 * ROUNDOFF[dtype], np.frexp(x)[1] - 1)
        return np.where(x == 0, BESIDE_ZERO[dtype], below)

    units = cast(arguments, unit, lambda x: float(unit(np.asarray(x))))
    for _ in range(count // 2):
        steps = cast(units, lambda x: _signs(x, rng) * x, lambda x: x * (1 - 2 * int(rng.integers(2))))
        for sign in (1, -1):
            yield tree_map(lambda x, step, sign=sign: _moved(x, sign, step), arguments, steps)


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
