r"""The normal law, the tail of Student's law and the Gamma function between half-integers, in every number system."""

from functools import cache
from typing import Any

import numpy as np

from refimpl.primitives.numbers import Array, constant, erfc, exp, sqrt

# Of the continued fraction of the incomplete beta function: enough for longdouble at arguments up to a half.
STEPS = 200


def normal_density(x: Array) -> Array:
    r"""$\phi(x)=e^{-x^2/2}/\sqrt{2\pi}$, elementwise; arguments unchecked."""
    return np.asanyarray(exp(-x * x / 2) / sqrt(2 * constant("pi", x)))


def normal_distribution(x: Array) -> Array:
    r"""$\Phi(x)=\int_{-\infty}^x\phi$, elementwise, to the last digits far out on the left; arguments unchecked."""
    if x.dtype == object or x.dtype == np.longdouble:
        return np.asanyarray(erfc(-x / sqrt(constant(2, x))) / 2)
    from scipy import special

    return np.asanyarray(special.ndtr(x))


def gamma_ratio(x: Any, like: Array) -> Array:
    r"""$\Gamma(x+\frac12)/\Gamma(x)$ of one number > 0, to the last digit of the dtype of `like`; unchecked."""
    if like.dtype == object:
        import sympy

        x = sympy.sympify(x)
        return np.asarray(sympy.gamma(x + sympy.Rational(1, 2)) / sympy.gamma(x), dtype=object)
    digits = np.format_float_scientific(x) if isinstance(x, np.floating) else repr(float(x))
    return constant(_gamma_ratio_digits(digits), like)


@cache
def _gamma_ratio_digits(digits: str) -> str:
    import mpmath

    with mpmath.workdps(40):
        x = mpmath.mpf(digits)
        return str(mpmath.nstr(mpmath.gammaprod([x + mpmath.mpf("0.5")], [x]), 30))


def student_tail(x: Array, freedom: Any) -> Array:
    r"""$P(t_k>x\sqrt k)=\frac12I_{1/(1+x^2)}(\frac k2,\frac12)$ at $x\ge0$, $t_k$ Student's with $k$ degrees.

    Between -1 and 1 it is $\frac12-\frac12\operatorname{sign}(x)\,I_{x^2/(1+x^2)}(\frac12,\frac k2)$, whose argument
    keeps its digits there; symbols stand for positive numbers. Arguments unchecked.
    """
    square = x * x
    outer = 1 / (1 + square)
    half = freedom / 2
    if x.dtype == object:
        import sympy

        half, zero = sympy.sympify(freedom) / 2, sympy.Integer(0)
        tail = np.empty(x.shape, dtype=object)
        tail.reshape(-1)[:] = [
            sympy.betainc(half, sympy.Rational(1, 2), zero, sympy.sympify(one)) for one in outer.reshape(-1)
        ]
        return np.asanyarray(tail * gamma_ratio(half, x) / (2 * sqrt(constant("pi", x))))
    inner = square * outer
    if x.dtype == np.longdouble:
        beside = beyond = _long_beta(np.minimum(inner, outer), inner, outer, half)
    else:
        from scipy import special

        beside, beyond = special.betainc(0.5, half, inner), special.betainc(half, 0.5, outer)
    outside = np.where(x < 0, 2 - beyond, beyond)
    return np.asanyarray(np.where(np.abs(x) < 1, 1 - np.sign(x) * beside, outside) / 2)


def _long_beta(argument: Array, inner: Array, outer: Array, half: Any) -> Array:
    r"""$I_z(a,b)$ at `argument` $z=x^2/(1+x^2)$, $a=\frac12,b=\frac k2$, where that is below a half, else at
    $z=1/(1+x^2)$, $a=\frac k2,b=\frac12$: the continued fraction, backwards.

    Source: NIST Handbook of Mathematical Functions, 8.17.22.
    """
    one_half = constant(1, argument) / 2
    a = np.where(inner < outer, one_half, half)
    b = np.where(inner < outer, half, one_half)
    fraction = 1 + 0 * argument
    for step in range(STEPS, 0, -1):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = 1 + term * argument / fraction
    # B(a, b) is symmetric, and has a half among its arguments.
    beta = sqrt(constant("pi", argument)) / gamma_ratio(half, argument)
    return np.asanyarray(argument**a * (1 - argument) ** b / (a * beta * fraction))


def gauss_legendre(n_nodes: int, like: Array) -> tuple[Array, Array]:
    """Nodes and weights of Gauss and Legendre's quadrature on [-1, 1], to the last digit of the dtype of `like`."""
    nodes, weights = _long_gauss_legendre(n_nodes)
    return nodes.astype(like.dtype), weights.astype(like.dtype)


@cache
def _long_gauss_legendre(n_nodes: int) -> tuple[Array, Array]:
    """Newton's method from NumPy's, which has 53 bits."""
    x: Array = np.polynomial.legendre.leggauss(n_nodes)[0].astype(np.longdouble)
    for _ in range(3):
        before, value = np.ones_like(x), x
        for degree in range(2, n_nodes + 1):
            before, value = value, ((2 * degree - 1) * x * value - (degree - 1) * before) / degree
        slope = n_nodes * (x * value - before) / (x * x - 1)
        x = x - value / slope
    return x, 2 / ((1 - x * x) * slope * slope)
