r"""Symbols to run the shipped code on, and the test that a difference vanishes.

:func:`array` makes the entries of an array, for a proof at one shape; :func:`block` makes a non-commuting symbol that
stands for a whole matrix, for a proof at all sizes (see :mod:`refimpl.primitives.numbers`). :func:`vanishes` decides an
identity between them, :func:`induction` one over all depths, :func:`sum_is` one over all numbers of terms.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import sympy

from proofs.ledger import Check, Evidence
from refimpl.primitives.numbers import Array
from refimpl.primitives.traces import trace_symbol
from refimpl.primitives.trees import leaves

# Sizes of the matrices put for the blocks: matrices of two rows satisfy identities that larger ones do not.
_SIZES = (2, 3)
# Evaluated to 50 digits, a value that is not exactly rational is zero if nothing is left of the first 40.
_DIGITS, _NOTHING = 50, sympy.Rational(1, 10**40)


def array(name: str, shape: Sequence[int], **assumptions: Any) -> Array:
    """An ``object`` array of distinct real commuting symbols ``name_i_j``."""
    out = np.empty(tuple(shape), dtype=object)
    for index in np.ndindex(*out.shape):
        out[index] = sympy.Symbol("_".join([name, *map(str, index)]), real=True, **assumptions)
    return out


def scalar(name: str, **assumptions: Any) -> sympy.Symbol:
    """A real commuting symbol; it commutes with blocks too."""
    return sympy.Symbol(name, real=True, **assumptions)


def block(name: str, kind: Literal["general", "symmetric", "column"] = "general") -> sympy.Symbol:
    """A non-commuting symbol: a matrix of any size; a symmetric one, which is its own transpose; or a column of any
    length, so that what stands between its transpose and another column is a number, a factor of a trace."""
    kinds = {"general": sympy.Symbol, "symmetric": _SymmetricBlock, "column": _ColumnBlock}
    return kinds[kind](name, commutative=False)


class _SymmetricBlock(sympy.Symbol):
    def _eval_transpose(self) -> sympy.Symbol:
        return self


class _ColumnBlock(sympy.Symbol):
    is_column_block = True


def blocks(rows: Sequence[Sequence[Any]]) -> Array:
    """The block matrix with these blocks; the numbers 0 and 1 stand for zero and identity blocks."""
    return np.array([[sympy.sympify(entry) for entry in row] for row in rows], dtype=object)


def assume_symmetric(expression: Any, *symbols: sympy.Symbol) -> Any:
    """Replace the transpose of each of these blocks by the block itself."""
    return sympy.sympify(expression).xreplace({sympy.transpose(symbol): symbol for symbol in symbols})


def assume_orthogonal(expression: Any, *symbols: sympy.Symbol) -> Any:
    """Replace the transpose of each of these blocks by its inverse."""
    return sympy.sympify(expression).xreplace({sympy.transpose(symbol): 1 / symbol for symbol in symbols})


def vanishes(
    difference: Any,
    quantity: str = "difference",
    *,
    symmetric: Sequence[sympy.Symbol] = (),
    orthogonal: Sequence[sympy.Symbol] = (),
) -> Evidence:
    """Evidence that every entry of `difference` (an array, a tree of arrays, an expression) is zero for all symbols.

    Each entry is reduced: expanded, and the coefficient of each product of blocks cancelled and simplified. It is then
    confirmed by evaluating the *unreduced* entry at random rational numbers and matrices, exactly, so that a wrong step
    of the rewriting cannot pass. Where roots or transcendental functions leave the rationals, 50 digits are evaluated
    and 40 must vanish. Blocks are square there: a product that fits no sizes at all is not noticed.

    Parameters
    ----------
    difference : array, tree of arrays, or expression
    quantity : str
        What the difference is of, for the reader.
    symmetric, orthogonal : sequences of blocks
        Those that equal their transpose, and those whose inverse is their transpose. A power ``X**-1`` stands for an
        inverse, and holds for all invertible X.

    Raises
    ------
    ValueError
        If there is no entry, or one contains a floating-point number that is no integer: whatever rounded it, it is no
        longer exact.
    """
    entries = [_exact(entry) for leaf in leaves(difference) for entry in np.asarray(leaf, object).reshape(-1)]
    if not entries:
        raise ValueError("difference: expected at least one entry")
    entries = [assume_orthogonal(assume_symmetric(entry, *symmetric), *orthogonal) for entry in entries]
    symmetric = [*symmetric, *(s for entry in entries for s in entry.free_symbols if isinstance(s, _SymmetricBlock))]
    left = [entry for entry in map(_reduce, entries) if entry != 0]
    if not left:
        rng = np.random.default_rng(0)  # any points will do
        values = [
            _at_random_point(entry, size, set(symmetric), set(orthogonal), rng) for entry in entries for size in _SIZES
        ]
        left = [value for value in values if value > (0 if value.is_Rational else _NOTHING)]
    among = f"{len(entries)} entr{'y' if len(entries) == 1 else 'ies'}"
    measured = f"{_shortened(left[0])} left in {len(left)} of {among}" if left else f"0 in {among}"
    return Evidence((Check(quantity, measured, "= 0", not left),))


def induction(base: Evidence, step: Evidence) -> Evidence:
    """Evidence for all depths from a base case and an induction step: both sets of checks, named for the reader."""
    return _named("base", base) & _named("step", step)


def sum_is(term: Callable[[Any], Any], closed: Callable[[Any], Any], first: int = 1, quantity: str = "sum") -> Evidence:
    r"""Evidence that $\sum_{k=f}^n\mathtt{term}(k)=\mathtt{closed}(n)$ for all $n\ge f$, by induction over $n$.

    Nothing is summed: the first term is compared with the closed form, and the closed form's increment with the next
    term, at an integer symbol. Terms may be powers of blocks, ``X**k``.
    """
    n = sympy.Symbol("n", integer=True, nonnegative=True) + first
    base = vanishes(sympy.sympify(closed(sympy.Integer(first))) - term(sympy.Integer(first)), quantity)
    return induction(base, vanishes(closed(n + 1) - closed(n) - term(n + 1), quantity))


def _shortened(expression: sympy.Expr) -> str:
    text = str(expression)
    return text if len(text) <= 120 else text[:117] + "..."


def _named(word: str, evidence: Evidence) -> Evidence:
    return Evidence(tuple(replace(check, quantity=f"{word}: {check.quantity}") for check in evidence.checks))


def _exact(entry: Any) -> sympy.Expr:
    """The entry as an expression without floating-point numbers; ``np.zeros`` and ``np.eye`` bring in integral ones."""
    expression = sympy.sympify(entry)
    floats = expression.atoms(sympy.Float)
    for value in floats:
        if value != int(value):
            raise ValueError(f"difference: expected exact numbers, got the floating-point {value} in {expression}")
    return expression.xreplace({value: sympy.Integer(int(value)) for value in floats})


def _reduce(expression: sympy.Expr) -> sympy.Expr:
    """Rewrite towards zero: expand, then reduce the coefficient of each product of blocks."""
    coefficients: dict[Any, list[sympy.Expr]] = defaultdict(list)
    for term in sympy.Add.make_args(sympy.expand(expression)):
        commuting, product = term.args_cnc()
        coefficients[_merge_powers(product)].append(sympy.Mul(*commuting))
    return sympy.Add(*(_reduce_commuting(sympy.Add(*parts)) * product for product, parts in coefficients.items()))


def _merge_powers(product: Sequence[sympy.Expr]) -> sympy.Expr:
    """The product with neighbouring powers of one base in one, which SymPy does not do for symbolic exponents."""
    merged: list[tuple[sympy.Expr, sympy.Expr]] = []
    for factor in product:
        base, exponent = factor.as_base_exp()
        if merged and merged[-1][0] == base:
            exponent = sympy.expand(merged.pop()[1] + exponent)
        if exponent != 0:
            merged.append((base, exponent))
    return sympy.Mul(*(base**exponent for base, exponent in merged))


def _reduce_commuting(expression: sympy.Expr) -> sympy.Expr:
    """Rewrite towards zero, cheapest first; the trace of a product is a number like any other here."""
    numbers = {one: sympy.Dummy(real=True) for one in expression.atoms(trace_symbol())}
    expression = expression.xreplace(numbers)
    for rewrite in (sympy.cancel, sympy.simplify):
        if expression == 0:
            break
        expression = rewrite(expression)
    return expression.xreplace({number: one for one, number in numbers.items()})


def _at_random_point(
    expression: sympy.Expr, size: int, symmetric: set[Any], orthogonal: set[Any], rng: np.random.Generator
) -> sympy.Expr:
    """The largest absolute entry at a random rational point, where the expression is defined."""
    symbols = sorted(expression.free_symbols, key=str)
    for _ in range(20):
        values = {symbol: _draw(symbol, size, symbol in symmetric, symbol in orthogonal, rng) for symbol in symbols}
        try:
            entries = list(sympy.Matrix([[_evaluate(expression, values, size)]]))
        except (ZeroDivisionError, sympy.matrices.exceptions.NonInvertibleMatrixError):
            continue
        entries = [abs(entry if entry.is_Rational else sympy.N(entry, _DIGITS)) for entry in entries]
        if all(entry.is_finite for entry in entries):
            return max(entries)
    raise ValueError(f"difference: not defined at any of 20 random points: {expression}")


def _draw(symbol: sympy.Symbol, size: int, symmetric: bool, orthogonal: bool, rng: np.random.Generator) -> Any:
    """A random value of the symbol's kind: a number that has its assumptions, or a matrix."""

    def rational() -> sympy.Rational:
        return sympy.Rational(int(rng.integers(1, 100)), int(rng.integers(1, 30))) * (-1) ** int(rng.integers(2))

    if symbol.is_commutative:
        value = sympy.Integer(int(rng.integers(1, 6))) if symbol.is_integer else abs(rational())
        negative = symbol.is_nonpositive or (not symbol.is_nonnegative and rng.integers(2))
        return -value if negative else value
    if isinstance(symbol, _ColumnBlock):  # in a square matrix, for all blocks have one size here
        return sympy.Matrix(size, size, lambda i, j: 0 if j else rational())
    matrix = sympy.Matrix(size, size, lambda i, j: rational())
    if orthogonal:  # Cayley's transform of a skew matrix, of either determinant
        skew, identity = matrix - matrix.T, sympy.eye(size)
        return (identity - skew) * (identity + skew).inv() * sympy.diag(*[1] * (size - 1), (-1) ** int(rng.integers(2)))
    return matrix + matrix.T if symmetric else matrix


def _evaluate(expression: sympy.Expr, values: dict[Any, Any], size: int) -> Any:
    """Evaluate an expression of the free algebra: a number where it commutes, else a matrix."""
    if expression.is_commutative:
        traces = {one: _evaluate(one.args[0], values, size).trace() for one in expression.atoms(trace_symbol())}
        return expression.xreplace(traces).subs(values)
    if expression.is_Symbol:
        return values[expression]
    arguments = [_evaluate(argument, values, size) for argument in expression.args]
    if expression.is_Add:
        # A number among blocks stands for that multiple of the identity.
        return sum(
            (a if isinstance(a, sympy.MatrixBase) else a * sympy.eye(size) for a in arguments), sympy.zeros(size)
        )
    if expression.is_Mul:
        return sympy.prod(arguments)
    if expression.is_Pow and arguments[1].is_Integer:
        return arguments[0] ** arguments[1]
    if isinstance(expression, sympy.transpose):
        return arguments[0].T
    if expression.func.__name__ == "entrywise_abs":
        return arguments[0].applyfunc(abs)
    raise ValueError(f"difference: cannot evaluate {expression.func.__name__} of blocks in {expression}")
