"""Wick's rules on blocks against Isserlis' theorem entry by entry, at sizes where the sum over pairings is short."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sympy
from sympy import transpose as T

from proofs.symbolic import block, scalar
from proofs.wick import Gaussian, at_identity, expectation
from refimpl.primitives.traces import trace_symbol

Trace = trace_symbol()
Z, Y, A, B = map(block, ("Z", "Y", "A", "B"))
R, C, E = (block(name, "symmetric") for name in ("R", "C", "E"))
n, d, a = scalar("n"), scalar("d"), scalar("a")
ROWS, COLUMNS = 2, 3


def pairings(items: list[Any]) -> Iterator[list[tuple[Any, Any]]]:
    if not items:
        yield []
    for i in range(1, len(items)):
        for rest in pairings(items[1:i] + items[i + 1 :]):
            yield [(items[0], items[i]), *rest]


def by_entries(words: list[str], matrices: dict[str, np.ndarray]) -> int:
    """The expectation of a product of traces over the 2 x 3 Gaussian Z, as a sum over indices and pairings.

    A word is a string of letters: Z, its transpose z, and constants.
    """
    letters = [(w, i, letter) for w, word in enumerate(words) for i, letter in enumerate(word)]
    sizes = {"Z": (ROWS, COLUMNS), "z": (COLUMNS, ROWS)} | {key: m.shape for key, m in matrices.items()}
    total = 0
    ranges = [range(sizes[letter][0]) for _, _, letter in letters]
    for index in itertools.product(*ranges):
        at = {(w, i): value for (w, i, _), value in zip(letters, index, strict=True)}
        entries, constant = [], 1
        for w, i, letter in letters:
            row, column = at[w, i], at[w, (i + 1) % len(words[w])]
            if letter in "Zz":
                entries.append((row, column) if letter == "Z" else (column, row))
            else:
                constant = constant * matrices[letter][row, column]
        if constant:
            total += constant * sum(
                int(np.prod([matrices["R"][p[0], q[0]] * matrices["C"][p[1], q[1]] for p, q in pairing]))
                for pairing in pairings(entries)
            )
    return int(total)


def covariance(rng: np.random.Generator, size: int) -> np.ndarray:
    root = rng.integers(-2, 3, (size, size))
    return root @ root.T


@pytest.mark.parametrize(
    ("words", "shapes"),
    [
        (["ZAzB"], {"A": (3, 3), "B": (2, 2)}),
        (["ZAZB"], {"A": (3, 2), "B": (3, 2)}),
        (["ZA", "ZB"], {"A": (3, 2), "B": (3, 2)}),
        (["ZA", "zB"], {"A": (3, 2), "B": (2, 3)}),
        (["ZAzBZz"], {"A": (3, 3), "B": (2, 2)}),
        (["ZAzZBz"], {"A": (3, 3), "B": (3, 3)}),
        (["ZAz", "zBZ"], {"A": (3, 3), "B": (2, 2)}),
        (["ZA", "ZB", "Zz"], {"A": (3, 2), "B": (3, 2)}),
    ],
)
def test_against_pairings_of_entries(words: list[str], shapes: dict[str, tuple[int, int]]) -> None:
    rng = np.random.default_rng(0)
    matrices = {key: rng.integers(-3, 4, shape) for key, shape in shapes.items()}
    matrices |= {"R": covariance(rng, ROWS), "C": covariance(rng, COLUMNS)}
    symbol = {"Z": Z, "z": T(Z), "A": A, "B": B}
    product = sympy.prod(Trace(sympy.prod([symbol[letter] for letter in word])) for word in words)
    formula = expectation(product, Gaussian(Z, R, C))
    value = formula.xreplace({one: trace_at(one.args[0], matrices) for one in formula.atoms(Trace)})
    assert value == by_entries(words, matrices)


def trace_at(word: sympy.Expr, matrices: dict[str, np.ndarray]) -> sympy.Integer:
    product: Any = None
    for factor in sympy.Mul.make_args(word):
        base, exponent = factor.as_base_exp()
        transposed = isinstance(base, T)
        matrix = matrices[str(base.args[0] if transposed else base)]
        for _ in range(int(exponent)):
            step = matrix.T if transposed else matrix
            product = step if product is None else product @ step
    return sympy.Integer(int(np.trace(product)))


def test_moments_of_the_wishart_matrix() -> None:
    gram, standard = T(Z) * Z, Gaussian(Z, n, d)
    assert expectation(Trace(gram), standard) == n * d
    assert sympy.factor(expectation(Trace(gram**2), standard)) == n * d * (n + d + 1)
    assert sympy.expand(expectation(Trace(gram) ** 2, standard) - (n * d) ** 2 - 2 * n * d) == 0
    third = n**2 + d**2 + 3 * n * d + 3 * n + 3 * d + 4
    assert sympy.expand(expectation(Trace(gram**3), standard) - n * d * third) == 0


def test_independent_blocks_and_scales() -> None:
    both = expectation(Trace(Z * T(Y) * Y * T(Z)), Gaussian(Y, n, C, a), Gaussian(Z, d, R))
    assert sympy.expand(both - a * n * d * Trace(R * C)) == 0
    assert expectation(Trace(Z * A), Gaussian(Z, n, C)) == 0
    assert expectation(a * Trace(A) ** 2, Gaussian(Z, n, C)) == a * Trace(A) ** 2


def test_identities_drop_out() -> None:
    expression = a * Trace(E * A * E) + Trace(E) ** 2 * Trace(E * E**-1 * E) + Trace(A)
    assert sympy.expand(at_identity(expression, {E: d}) - (a + 1) * Trace(A) - d**3) == 0
    assert at_identity(Trace(R * E * R**-1) * A * E, {E: d}) == d * A
