r"""Expectations over Gaussian matrices of any size: Isserlis' theorem on traces of words of blocks.

A centred Gaussian block $Z$ with $\mathbb E[Z_{ij}Z_{kl}]=R_{ik}C_{jl}$ is integrated out of a product of traces by
pairing one of its occurrences with every other one (Wick). What a pair leaves is again a product of traces, so the
rules need no index and no size:

$$\begin{aligned}
\mathrm{tr}(ZPZ^\top Q)&\to\mathrm{tr}(CP)\,\mathrm{tr}(RQ),&\mathrm{tr}(ZPZQ)&\to\mathrm{tr}(PRQ^\top C),\\
\mathrm{tr}(ZP)\,\mathrm{tr}(ZQ)&\to\mathrm{tr}(PRQ^\top C).&&
\end{aligned}$$

Every occurrence can be brought to the front of its trace without a transpose, by rotation and by
$\mathrm{tr}(W)=\mathrm{tr}(W^\top)$.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import sympy

from refimpl.primitives.traces import canonical_word, split_term, trace_symbol

Word = tuple[Any, ...]
Monomial = tuple[Word, ...]
Polynomial = dict[Monomial, Any]


class Gaussian(NamedTuple):
    """A centred Gaussian block, independent of all others.

    ``rows`` and ``columns`` are the covariances $R$ and $C$: a symmetric block or a product of such, or for the
    identity its size, a number or a commuting symbol. ``variance`` multiplies both.
    """

    block: sympy.Symbol
    rows: Any
    columns: Any
    variance: Any = 1


def expectation(expression: Any, *gaussians: Gaussian) -> sympy.Expr:
    """The expectation of a polynomial in traces of words over the Gaussian blocks, the others being constants.

    Parameters
    ----------
    expression : commuting expression
        A polynomial in ``Trace(...)`` (see :mod:`refimpl.primitives.traces`) and commuting symbols.
    gaussians : Gaussian
    """
    # One block after the other: what is left of the earlier ones is collected before the later ones multiply it.
    polynomial = _parse(expression)
    for gaussian in gaussians:
        polynomial = _integrate(polynomial, gaussian)
    return _assemble(polynomial)


def at_identity(expression: Any, sizes: dict[sympy.Symbol, Any]) -> sympy.Expr:
    """Put identity matrices of these sizes for blocks: they drop out of words, and alone have their size for trace."""

    def without(one: Any) -> Any:
        word = split_term(one.args[0])[1]
        left = split_term(sympy.Mul(*word).xreplace(ones))[1]
        return _trace(tuple(left)) if left else next(sizes[factor] for factor in word if factor in sizes)

    ones = {symbol: sympy.Integer(1) for symbol in sizes}
    expression = sympy.expand(expression)
    traces = {one: without(one) for one in expression.atoms(trace_symbol())}
    return sympy.expand(expression.xreplace(traces).xreplace(ones))


def _parse(expression: Any) -> Polynomial:
    trace = trace_symbol()
    polynomial: Polynomial = defaultdict(lambda: sympy.Integer(0))
    for term in sympy.Add.make_args(sympy.expand(expression)):
        coefficient, words = [], []
        for factor in sympy.Mul.make_args(term):
            base, exponent = factor.as_base_exp()
            if isinstance(base, trace) and exponent.is_Integer and exponent > 0:
                words += [tuple(split_term(base.args[0])[1])] * int(exponent)
            else:
                coefficient.append(factor)
        polynomial[_sorted(words)] += sympy.Mul(*coefficient)
    return polynomial


def _assemble(polynomial: Polynomial) -> sympy.Expr:
    return sympy.Add(*(sympy.expand(c) * sympy.Mul(*map(_trace, monomial)) for monomial, c in polynomial.items()))


def _trace(word: Word) -> sympy.Expr:
    return trace_symbol()(sympy.Mul(*word))


def _sorted(words: Sequence[Word]) -> Monomial:
    return tuple(sorted((tuple(canonical_word(list(word))) for word in words), key=str))


def _integrate(polynomial: Polynomial, gaussian: Gaussian) -> Polynomial:
    known: dict[Monomial, Polynomial] = {}
    result: Polynomial = defaultdict(lambda: sympy.Integer(0))
    for monomial, coefficient in polynomial.items():
        for left, factor in _pair(monomial, gaussian, known).items():
            result[left] += coefficient * factor
    return result


def _pair(monomial: Monomial, gaussian: Gaussian, known: dict[Monomial, Polynomial]) -> Polynomial:
    """The expectation of a monomial: its first occurrence of the block paired with every other one."""
    if monomial in known:
        return known[monomial]
    forms = (gaussian.block, sympy.transpose(gaussian.block))
    first = next((i for i, word in enumerate(monomial) if any(form in word for form in forms)), None)
    if first is None:
        return {monomial: sympy.Integer(1)}
    head, rest = _to_front(monomial[first], gaussian.block), monomial[:first] + monomial[first + 1 :]
    paired: list[tuple[list[Word], Any]] = []
    for i, factor in enumerate(head):
        before, after = head[:i], head[i + 1 :]
        if factor == forms[1]:
            words, size = _closed([(before, gaussian.columns), (after, gaussian.rows)])
            paired.append(([*words, *rest], size))
        elif factor == forms[0]:
            words, size = _closed([(_joined(before, gaussian.rows, _transposed(after)), gaussian.columns)])
            paired.append(([*words, *rest], size))
    for j, word in enumerate(rest):
        others = rest[:j] + rest[j + 1 :]
        for i, factor in enumerate(word):
            if factor in forms:
                tail = _to_front(word, gaussian.block, i)
                words, size = _closed([(_joined(head, gaussian.rows, _transposed(tail)), gaussian.columns)])
                paired.append(([*words, *others], size))
    result: Polynomial = defaultdict(lambda: sympy.Integer(0))
    for words, size in paired:
        for left, factor in _pair(_sorted(words), gaussian, known).items():
            result[left] += gaussian.variance * size * factor
    known[monomial] = result
    return result


def _to_front(word: Word, block: sympy.Symbol, position: int | None = None) -> Word:
    """What follows `block` when its occurrence at `position` (the first, if None) stands in front, not transposed."""
    if position is None:
        position = next(i for i, factor in enumerate(word) if factor in (block, sympy.transpose(block)))
    following = word[position + 1 :] + word[:position]
    return following if word[position] == block else _transposed(following)


def _transposed(word: Word) -> Word:
    return tuple(factor.transpose() for factor in reversed(word))


def _factors(covariance: Any) -> Word:
    """The blocks of a covariance; none for an identity."""
    covariance = sympy.sympify(covariance)
    return () if covariance.is_commutative else tuple(split_term(covariance)[1])


def _joined(left: Word, covariance: Any, right: Word) -> Word:
    return left + _factors(covariance) + right


def _closed(parts: Sequence[tuple[Word, Any]]) -> tuple[list[Word], Any]:
    """The traces of words times covariances; one that is an identity alone gives its size."""
    words, size = [], sympy.Integer(1)
    for word, covariance in parts:
        if closed := word + _factors(covariance):
            words.append(closed)
        else:
            size *= covariance
    return words, size
