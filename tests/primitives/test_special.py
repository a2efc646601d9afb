"""Special functions against SciPy's and SymPy's, in float64, in longdouble and far out in their tails."""

import numpy as np
import pytest
import sympy
from scipy import special, stats

from refimpl.primitives.numbers import erf, erfc
from refimpl.primitives.special import gamma_ratio, gauss_legendre, normal_density, normal_distribution, student_tail

X = np.linspace(-12, 8, 77)
LONG = X.astype(np.longdouble)


def test_the_complement_of_erf_keeps_its_digits_in_the_tail() -> None:
    for x in (X, LONG):
        assert erfc(x).dtype == x.dtype
        np.testing.assert_allclose(erfc(x).astype(float), special.erfc(X), rtol=1e-13)
    np.testing.assert_allclose((erf(LONG) + erfc(LONG)).astype(float), 1, rtol=1e-18)
    exact = [np.longdouble(str(sympy.erfc(sympy.Rational(n, 4)).evalf(25))) for n in (-9, -1, 0, 3, 7, 9, 30)]
    found = erfc(np.array([-9, -1, 0, 3, 7, 9, 30], dtype=np.longdouble) / 4)
    # Below 2 it is 1 less the error function, which costs up to 1/erfc(2) = 214 units in the last place.
    np.testing.assert_allclose(found / np.array(exact), 1, rtol=float(300 * np.finfo(np.longdouble).eps))
    assert erfc(X.astype(np.float32)).dtype == np.float32
    assert erfc(np.array([sympy.Symbol("x")], dtype=object))[0] == sympy.erfc(sympy.Symbol("x"))


def test_the_normal_law() -> None:
    for x in (X, LONG):
        np.testing.assert_allclose(normal_distribution(x).astype(float), special.ndtr(X), rtol=1e-13)
        np.testing.assert_allclose(normal_density(x).astype(float), stats.norm.pdf(X), rtol=1e-13)
    x = sympy.Symbol("x", real=True)
    at = np.array([x], dtype=object)
    assert sympy.simplify(sympy.diff(normal_distribution(at)[0], x) - normal_density(at)[0]) == 0


@pytest.mark.parametrize("freedom", [0.1, 1.0, 2.0, 6.5])
def test_students_tail(freedom: float) -> None:
    long = student_tail(LONG, np.longdouble(freedom))
    np.testing.assert_allclose(long.astype(float), student_tail(X, freedom), rtol=1e-13)
    np.testing.assert_allclose(student_tail(X, freedom), stats.t.sf(X * freedom**0.5, freedom), rtol=1e-11)
    symbolic = student_tail(np.array([sympy.Rational(3, 2)], dtype=object), sympy.Rational(str(freedom)))[0]
    np.testing.assert_allclose(float(symbolic), student_tail(np.array([1.5]), freedom), rtol=1e-14)


def test_the_gamma_functions_half_steps() -> None:
    for half in (0.05, 0.5, 3.25, 200.0):
        np.testing.assert_allclose(gamma_ratio(half, X), special.poch(half, 0.5), rtol=1e-12)
    assert gamma_ratio(np.longdouble(0.5), LONG) == 1 / np.sqrt(np.longdouble("3.14159265358979323846"))
    assert gamma_ratio(sympy.Integer(1), np.array([], dtype=object)).item() == sympy.sqrt(sympy.pi) / 2


@pytest.mark.parametrize("n_nodes", [1, 2, 7, 20])
def test_gauss_and_legendres_nodes_are_exact_for_polynomials(n_nodes: int) -> None:
    nodes, weights = gauss_legendre(n_nodes, LONG)
    for degree in range(2 * n_nodes):
        exact = 2 / np.longdouble(degree + 1) if degree % 2 == 0 else 0
        np.testing.assert_allclose(float((weights * nodes**degree).sum() - exact), 0, atol=1e-18)
    for a, b in zip(gauss_legendre(n_nodes, X), np.polynomial.legendre.leggauss(n_nodes), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-15)
