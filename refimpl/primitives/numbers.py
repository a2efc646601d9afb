r"""One code, many number systems.

The functions here act alike on floating-point arrays and on ``object`` arrays of SymPy expressions, so that whatever is
written with them computes on the former and is proved on the latter.

Two kinds of symbol make two kinds of proof. *Commuting* symbols are the entries of arrays: a proof at one shape.
*Non-commuting* symbols are whole blocks: an array ``[[X], [Y]]`` of two symbols stands for a matrix whose row blocks
$X\in\mathbb R^{N_x\times N}$ and $Y\in\mathbb R^{N_y\times N}$ have any size, ``np.eye(2)`` for the block identity and
``@`` for the block product. An identity that holds in the free algebra holds for all matrices whose sizes fit, so code
run on blocks is proved for **all sizes** at once. This needs one thing of the code: :func:`transpose` in place of
``swapaxes``, for the transpose of a block matrix also transposes the blocks.

Arrays pass through ``np.asanyarray``, not ``np.asarray``, so that an array type that rounds after every operation (the
oracle's bfloat16) keeps doing so.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def is_symbolic(*arrays: Any) -> bool:
    """Whether any of the arrays has dtype ``object``: it holds SymPy expressions or exact rationals."""
    return any(np.asarray(array).dtype == object for array in arrays)


def _on_objects(function: Callable[[Any], Any], x: Array) -> Array:
    """Apply `function` to each entry; unlike ``np.frompyfunc`` keeps a 0-d array an array."""
    out = np.empty(x.shape, dtype=object)
    out.reshape(-1)[:] = [function(entry) for entry in x.reshape(-1)]
    return out


def _elementwise(x: Any, floating: Callable[[Array], Any], symbolic: str) -> Array:
    x = np.asanyarray(x)
    if x.dtype != object:
        return np.asanyarray(floating(x))
    import sympy

    return _on_objects(getattr(sympy, symbolic), x)


def exp(x: Any) -> Array:
    """Elementwise exponential, same shape and dtype as `x`."""
    return _elementwise(x, np.exp, "exp")


def log(x: Any) -> Array:
    """Elementwise natural logarithm, same shape and dtype as `x`."""
    return _elementwise(x, np.log, "log")


def log1p(x: Any) -> Array:
    """Elementwise log(1 + x), accurate near 0, same shape and dtype as `x`."""
    x = np.asanyarray(x)
    return log(1 + x) if x.dtype == object else np.asanyarray(np.log1p(x))


def expm1(x: Any) -> Array:
    """Elementwise exp(x) - 1, accurate near 0, same shape and dtype as `x`."""
    x = np.asanyarray(x)
    return np.asanyarray(exp(x) - 1 if x.dtype == object else np.expm1(x))


def sqrt(x: Any) -> Array:
    """Elementwise square root, same shape and dtype as `x`."""
    return _elementwise(x, np.sqrt, "sqrt")


def tanh(x: Any) -> Array:
    """Elementwise hyperbolic tangent, same shape and dtype as `x`."""
    return _elementwise(x, np.tanh, "tanh")


def sin(x: Any) -> Array:
    """Elementwise sine, same shape and dtype as `x`."""
    return _elementwise(x, np.sin, "sin")


def cos(x: Any) -> Array:
    """Elementwise cosine, same shape and dtype as `x`."""
    return _elementwise(x, np.cos, "cos")


def absolute(x: Any) -> Array:
    """Elementwise absolute value, same shape and dtype as `x`; of a block, that of its entries.

    All that a proof knows of the latter, ``entrywise_abs(z)``, is that it is the same for ``z`` and ``-z``.
    """
    x = np.asanyarray(x)
    return np.asanyarray(np.abs(x)) if x.dtype != object else _on_objects(_absolute_entry, x)


def _absolute_entry(entry: Any) -> Any:
    import sympy

    if getattr(entry, "is_commutative", True):
        return sympy.Abs(entry)
    either = min(sympy.expand(entry), sympy.expand(-entry), key=str)
    return sympy.Function("entrywise_abs", commutative=False)(either)


def sign(x: Any) -> Array:
    """Elementwise sign, same shape and dtype as `x`."""
    return _elementwise(x, np.sign, "sign")


def erf(x: Any) -> Array:
    """Elementwise error function, same shape and dtype as `x`.

    SciPy has none for ``longdouble``, so there it is a series.
    """
    return _elementwise(x, _floating_erf, "erf")


def erfc(x: Any) -> Array:
    """Elementwise 1 - erf(x), accurate where that is small, same shape and dtype as `x`."""
    return _elementwise(x, _floating_erfc, "erfc")


def _floating_erfc(x: Array) -> Array:
    if x.dtype == np.longdouble:
        series, tail = _long_erf_parts(x)
        above = np.where(np.abs(x) < 2, 1 - series, tail)
        return np.asanyarray(np.where(x < 0, 2 - above, above))
    from scipy import special

    value = np.asanyarray(special.erfc(x))
    return value.astype(x.dtype) if x.dtype == np.float16 else value


def _floating_erf(x: Array) -> Array:
    if x.dtype == np.longdouble:
        series, tail = _long_erf_parts(x)
        return np.asanyarray(np.sign(x) * np.where(np.abs(x) < 2, series, 1 - tail))
    from scipy import special

    # Of one sign: SciPy turns a negative argument in a branch, which a processor guesses wrong every other time.
    value = np.copysign(special.erf(np.abs(x)), x)
    return value.astype(x.dtype) if x.dtype == np.float16 else value  # SciPy computes half precision in single


def _long_erf_parts(x: Array) -> tuple[Array, Array]:
    r"""$\frac2{\sqrt\pi}e^{-x^2}\sum_n\frac{2^nx^{2n+1}}{(2n+1)!!}$ at $\lvert x\rvert\le2$, of one sign; and the tail
    from there on.

    The tail $\operatorname{erfc}$ is a continued fraction, of which 80 steps give 64 bits from 2 on.
    """
    size = np.abs(x)
    root = sqrt(constant("pi", x))
    small = np.minimum(size, 2)
    term = total = small
    odd = 1
    while np.any(term > total * np.finfo(x.dtype).eps / 4):
        odd += 2
        term = term * (2 * small * small) / odd
        total = total + term
    large = np.clip(size, 2, 100)  # beyond it the tail is 0 next to every longdouble
    fraction = large
    for step in range(80, 0, -1):
        fraction = large + step / (2 * fraction)
    return np.exp(-small * small) * total * 2 / root, np.exp(-large * large) / (root * fraction)


MANY = 4096  # entries, from which on a slower start is worth a quicker loop


def positive_part(x: Any) -> Array:
    """Elementwise max(x, 0), same shape and dtype as `x`; of a block, that of its entries: (z + |z|) / 2."""
    x = np.asanyarray(x)
    if x.dtype != object:
        return np.asanyarray(x.clip(0, np.inf) if x.size > MANY and x.dtype.kind == "f" else np.maximum(x, 0))
    import sympy

    def part(entry: Any) -> Any:
        if getattr(entry, "is_commutative", True):
            return sympy.Max(entry, 0)
        return (entry + _absolute_entry(entry)) / 2

    return _on_objects(part, x)


def unit_step(x: Any) -> Array:
    """Elementwise indicator of x > 0 in `x`'s own dtype: the derivative of :func:`positive_part` with 0 at 0."""
    x = np.asanyarray(x)
    if x.dtype != object:
        return np.asarray(x > 0, dtype=x.dtype)
    import sympy

    def step(entry: Any) -> Any:
        if isinstance(entry, sympy.Max) and 0 in entry.args:  # positive where the others' maximum is
            entry = sympy.Max(*(one for one in entry.args if one != 0))
        return sympy.Heaviside(entry, 0)

    return _on_objects(step, x)


def where_positive(x: Any, values: Any) -> Array:
    """The values where x > 0, and 0 elsewhere: they are times :func:`unit_step`, at less cost."""
    x = np.asanyarray(x)
    return np.asanyarray(unit_step(x) * values if x.dtype == object else (x > 0) * values)


def constant(value: int | str, like: Array) -> Array:
    """A number as a 0-d array in the dtype of `like`, to its last digit: an integer, a decimal string, or ``"pi"``.

    A Python float has 53 bits, too few for ``longdouble`` and never exact for a proof.
    """
    if like.dtype == object:
        import sympy

        exact = sympy.pi if value == "pi" else sympy.Rational(value)
        return np.asarray(exact, dtype=object)
    return _rounded(value, like.dtype)


@cache
def _rounded(value: int | str, dtype: np.dtype[Any]) -> Array:
    digits = "3.14159265358979323846264338327950288" if value == "pi" else str(value)
    rounded = np.asarray(np.longdouble(digits)).astype(dtype)
    rounded.setflags(write=False)  # it is shared
    return rounded


# NumPy reduces rows one by one: quick for few or long rows, slow for many short ones.
SHORT_ROW, FEW_ROWS = 64, 64


def row_max(x: Array) -> Array:
    """Maximum over the last axis, kept as an axis of length 1; zeros for symbols.

    Subtracted before an exponential it guards floats against overflow; exact symbols need no guard, and a symbolic
    maximum would only bury the expression.
    """
    if x.dtype == object:
        return np.zeros((*x.shape[:-1], 1), dtype=object)
    if x.shape[-1] > SHORT_ROW or x.size <= FEW_ROWS * x.shape[-1]:
        return np.asanyarray(np.maximum.reduce(x, axis=-1, keepdims=True))
    columns = x.reshape(-1, x.shape[-1]).T.copy()
    return np.asanyarray(np.max(columns, axis=0)).reshape(*x.shape[:-1], 1)


def row_sum(x: Array) -> Array:
    """Sum over the last axis, kept as an axis of length 1."""
    if x.dtype == object:
        return np.asarray(x.sum(axis=-1, keepdims=True))
    if x.size <= FEW_ROWS * x.shape[-1]:
        return np.asanyarray(np.add.reduce(x, axis=-1, keepdims=True))
    total = x.reshape(-1, x.shape[-1]) @ np.ones(x.shape[-1], dtype=x.dtype)
    return total.reshape(*x.shape[:-1], 1)


def row_dot(x: Array, y: Array) -> Array:
    """Inner product of corresponding rows, over the last axis, which is kept as an axis of length 1."""
    if x.dtype == object or y.dtype == object:
        return np.asarray((x * y).sum(axis=-1, keepdims=True))
    return np.asanyarray(np.vecdot(x, y))[..., None]


def column_sum(x: Array) -> Array:
    """Sum over all axes but the last, as a matrix product."""
    rows = x.reshape(-1, x.shape[-1])
    return np.asanyarray(np.ones(len(rows), dtype=x.dtype) @ rows)


def transpose(x: Array) -> Array:
    """Transpose of the last two axes; for non-commuting entries, which stand for blocks, of each entry too."""
    swapped = x.swapaxes(-1, -2)
    if swapped.dtype != object:
        return swapped
    return _on_objects(lambda entry: entry if getattr(entry, "is_commutative", True) else entry.transpose(), swapped)


def common_dtype(*arrays: Any) -> np.dtype[Any]:
    """The dtype of a result of these arrays: NumPy's promotion, where ``object`` wins and scalars do not count."""
    return np.result_type(
        *(np.asarray(array) for array in arrays if np.ndim(array) or np.asarray(array).dtype == object)
    )
