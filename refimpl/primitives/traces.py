r"""Inner products that also run on blocks, where they are commuting symbols of all sizes.

On arrays of non-commuting blocks (see :mod:`refimpl.primitives.numbers`) the trace is a number that depends on what
the blocks are, so it becomes the symbol ``Trace(X*Y)``: linear in its argument, and the same for all words that
rotation and transposition make of one.

A block does not know its size, so a number where a trace is taken is refused: it may stand for a multiple of the
identity, whose trace nobody knows. Give that identity as a block of its own.
"""

from functools import cache
from typing import Any

import numpy as np

from refimpl.primitives.numbers import Array, is_symbolic, transpose


def inner(x: Array, y: Array) -> Array:
    r"""$\langle x,y\rangle=\mathrm{tr}(x^\top y)$ over the last two axes, which stay as axes of length 1.

    Raises
    ------
    ValueError
        If blocks leave a number on the diagonal of $x^\top y$.
    """
    if x.dtype == y.dtype != object:
        flat = np.vecdot(x.reshape(*x.shape[:-2], -1), y.reshape(*y.shape[:-2], -1))
        return np.asanyarray(flat)[..., None, None]
    if not (has_blocks(x) or has_blocks(y)):
        return np.asanyarray((x * y).sum(axis=(-2, -1), keepdims=True))
    product, trace = transpose(x) @ y, trace_symbol()
    out = np.empty((*product.shape[:-2], 1, 1), dtype=object)
    for index in np.ndindex(*out.shape[:-2]):
        out[index] = sum(trace(product[(*index, i, i)]) for i in range(product.shape[-1]))
    return out


def has_blocks(x: Array) -> bool:
    """Whether the array has a non-commuting entry."""
    return is_symbolic(x) and not all(getattr(entry, "is_commutative", True) for entry in np.asarray(x).flat)


@cache
def trace_symbol() -> Any:
    """The SymPy function ``Trace`` of a product of blocks, made when the first proof asks for it."""
    import sympy

    class Trace(sympy.Function):
        """The trace of a product of blocks, a real number."""

        nargs = 1
        is_commutative = True
        is_real = True

        @classmethod
        def eval(cls, expression: Any) -> Any:
            terms = sympy.Add.make_args(sympy.expand(expression))
            if len(terms) == 1 and not isinstance(terms[0], sympy.Add):
                coefficient, word = split_term(terms[0])
                if coefficient == 0:
                    return sympy.Integer(0)
                if not word:
                    raise ValueError(
                        f"trace: expected blocks, got {expression}, a multiple of an identity of unknown size"
                    )
                first, *others = (sympy.Mul(*canonical_word(piece)) for piece in cut_at_numbers(word))
                if coefficient == 1 and not others and first == expression:
                    return None
                return sympy.Mul(coefficient, cls(first), *map(cls, others))
            return sympy.Add(*(cls(term) for term in terms))

        def _eval_derivative(self, symbol: Any) -> Any:
            return sympy.Integer(0)

    return Trace


def split_term(term: Any) -> tuple[Any, list[Any]]:
    """The commuting coefficient of a product, and its blocks with every power written out."""
    import sympy

    commuting, blocks = term.args_cnc()
    coefficient = sympy.Mul(*commuting)
    word: list[Any] = []
    for factor in blocks:
        base, exponent = factor.as_base_exp()
        whole = exponent.is_Integer and not factor.is_Symbol
        word += [base ** sympy.sign(exponent)] * abs(int(exponent)) if whole else [factor]
    while len(word) > 1 and word[-1] * word[0] == 1:  # neighbours, for a trace has no ends
        word = word[1:-1]
    return coefficient, word


def cut_at_numbers(word: list[Any]) -> list[list[Any]]:
    """The word cut wherever a column is followed by the transpose of one: the pieces are numbers, and so factors."""

    def is_column(factor: Any) -> bool:
        return getattr(factor, "is_column_block", False)

    def is_row(factor: Any) -> bool:
        return bool(factor.args) and is_column(factor.args[0]) and not factor.is_Pow

    ends = [i + 1 for i in range(len(word)) if is_column(word[i]) and is_row(word[(i + 1) % len(word)])]
    if len(ends) < 2:
        return [word]
    rotated = word[ends[-1] :] + word[: ends[-1]]
    starts = [0, *((end - ends[-1]) % len(word) for end in ends[:-1])]
    return [rotated[i:j] for i, j in zip(starts, [*starts[1:], len(word)], strict=True)]


def canonical_word(word: list[Any]) -> list[Any]:
    """Of all rotations of the word and of its transpose, the first in alphabetical order."""
    transposed = [factor.transpose() for factor in reversed(word)]
    return min((w[i:] + w[:i] for w in (word, transposed) for i in range(len(word))), key=lambda w: [str(f) for f in w])
