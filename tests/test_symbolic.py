"""The zero test decides what it should, and nothing that is not exact passes it."""

import numpy as np
import pytest
import sympy
from sympy import transpose as T

from proofs import symbolic
from proofs.symbolic import array, block, blocks, induction, scalar, sum_is, vanishes
from refimpl.primitives.numbers import positive_part, transpose

X, Y, S, R = map(block, ("X", "Y", "S", "R"))
a, b = scalar("a"), scalar("b", positive=True)
n = sympy.Symbol("n", integer=True, nonnegative=True)

ZERO = {
    "commuting": (a + b) ** 2 - a**2 - 2 * a * b - b**2,
    "quotient": 1 / a - 1 / b - (b - a) / (a * b),
    "roots": sympy.sqrt(b**2) - b,
    "transcendental": sympy.sin(a) ** 2 + sympy.cos(a) ** 2 - 1,
    "free algebra": (X + Y) * (X - Y) - X**2 + X * Y - Y * X + Y**2,
    "coefficients with a common denominator": a * X / (a + b) + b * X / (a + b) - X,
    "transcendental coefficient": sympy.exp(a) * X * sympy.exp(-a) - X,
    "transpose of a product": T(X * Y) - T(Y) * T(X),
    "inverse": (X * Y) ** -1 - Y**-1 * X**-1,
    "transpose of an inverse": T(X**-1) - T(X) ** -1,
    "symbolic power": X * X**n * Y - X ** (n + 1) * Y,
    "the integral floats of np.eye": blocks([[X]]) @ np.eye(1) - blocks([[X]]),
}
NOT_ZERO = {
    "real, not positive": sympy.sqrt(a**2) - a,
    "order of factors": X * Y - Y * X,
    "order under transpose": T(X * Y) - T(X) * T(Y),
    "not symmetric": T(S) - S,
    "not orthogonal": T(R) * R - 1,
    "a zero for two-row matrices only": ((X * Y - Y * X) ** 2 * S - S * (X * Y - Y * X) ** 2),
    "tiny": a * sympy.Rational(1, 10**60),
}


@pytest.mark.parametrize("name", ZERO)
def test_zero_is_found(name: str) -> None:
    evidence = vanishes(ZERO[name])
    assert evidence.holds, evidence.measured
    assert evidence.measured.startswith("difference 0 in 1 entry")


@pytest.mark.parametrize("name", NOT_ZERO)
def test_what_is_not_zero_is_left(name: str) -> None:
    evidence = vanishes(NOT_ZERO[name])
    assert not evidence.holds
    assert "left in 1 of 1 entry" in evidence.measured


def test_kinds_of_block() -> None:
    assert vanishes(T(S * X) - T(X) * S, symmetric=[S]).holds
    assert vanishes(T(R * X) * R * Y - T(X) * Y, orthogonal=[R]).holds
    assert vanishes(T(R) * S * R - T(T(R) * S * R), symmetric=[S], orthogonal=[R]).holds
    assert not vanishes(T(R) * S * R - S, symmetric=[S], orthogonal=[R]).holds


@pytest.mark.parametrize(
    "expression",
    [
        X * Y - Y * X,
        S * X - X * S,
        R * X - X * R,
        NOT_ZERO["a zero for two-row matrices only"],
        X**-1 - X,
        X**2 * Y - Y * X**2,
        a**2 - a,
    ],
)
def test_a_wrong_step_of_the_rewriting_is_caught_at_random_points(
    monkeypatch: pytest.MonkeyPatch, expression: sympy.Expr
) -> None:
    monkeypatch.setattr(symbolic, "_reduce", lambda entry: sympy.Integer(0))
    assert not vanishes(expression, symmetric=[S], orthogonal=[R]).holds
    assert not vanishes([sympy.Integer(0), expression], symmetric=[S], orthogonal=[R]).holds


@pytest.mark.parametrize("size", [1, 2, 3])
def test_drawn_matrices_are_of_their_kind(size: int) -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        orthogonal = symbolic._draw(R, size, False, True, rng)
        assert orthogonal.T * orthogonal == sympy.eye(size)
        symmetric = symbolic._draw(S, size, True, False, rng)
        assert symmetric == symmetric.T
    draws = [symbolic._draw(symbol, size, False, False, rng) for symbol in (a, b, n) for _ in range(50)]
    assert {sympy.sign(value) for value in draws[:50]} == {1, -1}
    assert all(value > 0 for value in draws[50:])
    assert all(value.is_Integer for value in draws[100:])


def test_a_point_outside_the_domain_is_drawn_again() -> None:
    assert vanishes((a**2 - 4) / (a - 2) - a - 2).holds
    nowhere = 1 / sympy.Mul(0, a - 1, evaluate=False)
    with pytest.raises(ValueError, match="not defined at any of 20 random points"):
        symbolic._at_random_point(nowhere, 2, set(), set(), np.random.default_rng(0))


def test_trees_and_arrays() -> None:
    m = array("m", (2, 3))
    assert len({*m.reshape(-1)}) == 6
    assert (
        vanishes({"product": (m @ m.T) - (m @ m.T).T, "also": [m - m, None]}).measured == "difference 0 in 10 entries"
    )
    wrong = m - m
    wrong[1, 2] = a
    assert vanishes(wrong, "step").measured == "step a left in 1 of 6 entries"


def test_block_matrix_product_is_that_of_the_blocks() -> None:
    left, right = blocks([[X, 1], [0, Y]]), blocks([[X], [Y]])
    assert vanishes(transpose(left) @ right - blocks([[T(X) * X], [X + T(Y) * Y]])).holds


def test_rectified_blocks_are_rectified_at_random_points() -> None:
    up, down = positive_part(np.array([X * Y - Y * X, Y * X - X * Y], dtype=object))
    assert vanishes(up - down - X * Y + Y * X).holds
    assert not vanishes(up + down - X * Y + Y * X).holds
    magnitude = up + down
    matrix = symbolic._evaluate(magnitude, {X: sympy.Matrix([[1, -2], [0, 1]]), Y: sympy.Matrix([[1, 0], [3, 2]])}, 2)
    assert matrix == sympy.Matrix([[6, 2], [0, 6]])


@pytest.mark.parametrize("difference", [a / 10.0, a * X * 0.1, 1e-30])
def test_floating_point_is_no_proof(difference: object) -> None:
    with pytest.raises(ValueError, match="difference: expected exact numbers, got the floating-point"):
        vanishes(difference)


def test_nothing_is_no_proof() -> None:
    with pytest.raises(ValueError, match="difference: expected at least one entry"):
        vanishes([])


def test_induction_names_both_parts_and_needs_both() -> None:
    zero, one = vanishes(a - a), vanishes(a)
    assert [check.quantity for check in induction(zero, zero).checks] == ["base: difference", "step: difference"]
    assert induction(zero, zero).holds
    assert not induction(one, zero).holds
    assert not induction(zero, one).holds


def test_sums_over_any_number_of_terms() -> None:
    assert sum_is(lambda k: k**3, lambda m: (m * (m + 1) / 2) ** 2).holds
    assert sum_is(lambda k: a**k, lambda m: (a ** (m + 1) - 1) / (a - 1), first=0).holds
    assert sum_is(lambda k: X**k * (X - 1), lambda m: X ** (m + 1) - 1, first=0).holds
    base_only = sum_is(lambda k: k, lambda m: m**2)
    assert [check.holds for check in base_only.checks] == [True, False]
    step_only = sum_is(lambda k: k, lambda m: m * (m + 1) / 2 + 1)
    assert [check.holds for check in step_only.checks] == [False, True]
