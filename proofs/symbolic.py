"""Symbols to run the shipped code on, and the test that a difference vanishes.

:func:`array` makes the entries of an array, for a proof at one shape; :func:`block` makes a non-commuting symbol that
stands for a whole matrix, for a proof at all sizes (see :mod:`refimpl.primitives.numbers`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy

from proofs.ledger import Check, Evidence
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import leaves


def array(name: str, shape: Sequence[int], **assumptions: Any) -> Array:
    """An ``object`` array of distinct real commuting symbols ``name_i_j``."""
    out = np.empty(tuple(shape), dtype=object)
    for index in np.ndindex(*out.shape):
        out[index] = sympy.Symbol("_".join([name, *map(str, index)]), real=True, **assumptions)
    return out


def scalar(name: str, **assumptions: Any) -> sympy.Symbol:
    """A real commuting symbol; it commutes with blocks too."""
    return sympy.Symbol(name, real=True, **assumptions)


def block(name: str) -> sympy.Symbol:
    """A non-commuting symbol: a matrix of any size."""
    return sympy.Symbol(name, commutative=False)


def blocks(rows: Sequence[Sequence[Any]]) -> Array:
    """The block matrix with these blocks; the numbers 0 and 1 stand for zero and identity blocks."""
    return np.array([[sympy.sympify(entry) for entry in row] for row in rows], dtype=object)


def assume_symmetric(expression: Any, *symbols: sympy.Symbol) -> Any:
    """Replace the transpose of each of these blocks by the block itself."""
    replaced = {sympy.transpose(symbol): symbol for symbol in symbols}
    return sympy.sympify(expression).xreplace(replaced)


def _reduce(expression: Any) -> Any:
    """Rewrite towards zero, cheapest first."""
    expression = sympy.expand(sympy.sympify(expression))
    if expression == 0 or not expression.is_commutative:
        return expression
    for rewrite in (sympy.cancel, sympy.simplify):
        expression = rewrite(expression)
        if expression == 0:
            break
    return expression


def _random_matrices(symbols: Sequence[sympy.Symbol], size: int, rng: np.random.Generator) -> dict[Any, Any]:
    """Exact values: small rationals for commuting symbols, rational matrices for blocks."""

    def rational() -> sympy.Rational:
        return sympy.Rational(int(rng.integers(1, 40)), int(rng.integers(1, 20)))

    return {
        symbol: rational()
        if symbol.is_commutative
        else sympy.Matrix(size, size, lambda i, j: rational() * (-1) ** int(rng.integers(2)))
        for symbol in symbols
    }


def _evaluate(expression: Any, values: dict[Any, Any], size: int) -> Any:
    """Evaluate an expression of the free algebra at rational square matrices, exactly."""
    if expression.is_Add:
        return sum((_evaluate(term, values, size) for term in expression.args), sympy.zeros(size, size))
    if expression.is_Mul:
        product = sympy.eye(size)
        for factor in expression.args:
            product = product * _evaluate(factor, values, size)
        return product
    if expression.is_Pow and not expression.base.is_commutative:
        return _evaluate(expression.base, values, size) ** int(expression.exp)
    if isinstance(expression, sympy.transpose):
        return _evaluate(expression.args[0], values, size).T
    value = values[expression] if expression in values else expression.subs(values)
    return value if isinstance(value, sympy.MatrixBase) else value * sympy.eye(size)


def _at_random_point(expression: Any, rng: np.random.Generator) -> Any:
    """The value at a random rational point: the largest absolute entry, exact where the expression is rational."""
    expression = sympy.sympify(expression)
    symbols = sorted(expression.free_symbols, key=str)
    if expression.is_commutative:
        value = expression.subs(_random_matrices(symbols, 1, rng))
        return sympy.Abs(value) if value.is_Rational else abs(sympy.N(value, 50))
    size = 2
    matrix = _evaluate(expression, _random_matrices(symbols, size, rng), size)
    return max(abs(entry) for entry in matrix)


def vanishes(difference: Any, quantity: str = "difference", *, symmetric: Sequence[sympy.Symbol] = ()) -> Evidence:
    """Evidence that every entry of `difference` (an array, a tree of arrays, an expression) is zero for all symbols.

    Each entry is first reduced (``expand``, then ``cancel`` and ``simplify`` where symbols commute). It is confirmed by
    exact evaluation of the *unreduced* entry at random rational points, so a wrong step of the rewriting cannot pass.
    Expressions with roots or transcendental functions are evaluated to 50 digits instead and must be below 1e-40.
    `symmetric` names blocks that equal their transpose.
    """
    entries = [sympy.sympify(entry) for leaf in leaves(difference) for entry in np.asarray(leaf, object).reshape(-1)]
    entries = [assume_symmetric(entry, *symmetric) for entry in entries]
    if not entries:
        raise ValueError("difference: expected at least one entry")
    rng = np.random.default_rng(0)  # the points only confirm; any will do
    left = [entry for entry in map(_reduce, entries) if entry != 0]
    values = (
        []
        if symmetric and any(not entry.is_commutative for entry in entries)
        else [_at_random_point(entry, rng) for entry in entries for _ in range(2)]
    )
    worst = max(values, default=sympy.Integer(0))
    exact = worst.is_Rational
    holds = not left and (worst == 0 if exact else worst < sympy.Float("1e-40"))
    measured = f"0 in {len(entries)} entries" if holds else f"{left[0] if left else worst} left"
    return Evidence((Check(quantity, measured if len(measured) < 160 else measured[:157] + "...", "= 0", bool(holds)),))


def induction(
    base: Evidence, step: Callable[[], Evidence]
) -> Evidence:
    """Evidence for all sizes from a base case and an induction step: both sets of checks, named for the reader."""
    named = lambda evidence, word: Evidence(  # noqa: E731
        tuple(Check(f"{word}: {check.quantity}", check.measured, check.criterion, check.holds) for check in evidence.checks)
    )
    return named(base, "base") & named(step(), "step")
