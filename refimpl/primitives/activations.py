r"""Elementwise activation functions, with their pullbacks ``cotangent -> (x,)``.

Each is written so that a large argument gives the limit, not a NaN or a warning.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives import numbers
from refimpl.primitives.checks import check_array, checked
from refimpl.primitives.numbers import Array, absolute, constant, exp, log1p, positive_part, sqrt, unit_step

Pullback = Callable[[Array], tuple[Array]]


def _check(x: Array) -> None:
    check_array("x", x)


def _pull(derivative: Array) -> Pullback:
    return lambda cotangent: (cotangent * derivative,)


@checked(_check)
def relu(x: Array) -> Array:
    r"""$\max(x,0)$, elementwise; any shape.

    Raises
    ------
    ValueError
        If `x` is no floating-point array or has a non-finite entry.
    """
    return positive_part(x)


@checked(_check)
def relu_vjp(x: Array) -> tuple[Array, Pullback]:
    """:func:`relu` and its pullback, with derivative 0 at the kink."""
    return positive_part(x), _pull(unit_step(x))


@checked(_check)
def tanh(x: Array) -> Array:
    """Hyperbolic tangent, elementwise; any shape.

    Raises
    ------
    ValueError
        If `x` is no floating-point array or has a non-finite entry.
    """
    return numbers.tanh(x)


@checked(_check)
def tanh_vjp(x: Array) -> tuple[Array, Pullback]:
    """:func:`tanh` and its pullback."""
    output = numbers.tanh(x)
    return output, _pull(1 - output * output)


@checked(_check)
def erf(x: Array) -> Array:
    r"""Error function $\frac2{\sqrt\pi}\int_0^xe^{-t^2}dt$, elementwise; any shape.

    Raises
    ------
    ValueError
        If `x` is no floating-point array or has a non-finite entry.
    """
    return numbers.erf(x)


@checked(_check)
def erf_vjp(x: Array) -> tuple[Array, Pullback]:
    """:func:`erf` and its pullback."""
    return numbers.erf(x), _pull(2 * exp(-_square(x)) / sqrt(constant("pi", x)))


@checked(_check)
def sigmoid(x: Array) -> Array:
    r"""$1/(1+e^{-x})$, elementwise; any shape. Keeps its relative accuracy in the tail $x\to-\infty$.

    Raises
    ------
    ValueError
        If `x` is no floating-point array or has a non-finite entry.
    """
    if x.dtype == object:
        return 1 / (1 + exp(-x))
    decayed = exp(-absolute(x))
    return np.maximum(decayed, x >= 0) / (1 + decayed)


@checked(_check)
def sigmoid_vjp(x: Array) -> tuple[Array, Pullback]:
    """:func:`sigmoid` and its pullback."""
    output = sigmoid.unchecked(x)
    return output, _pull(output * sigmoid.unchecked(-x))


@checked(_check)
def softplus(x: Array) -> Array:
    r"""$\log(1+e^x)$, elementwise; any shape. The logistic loss of a margin $m$ is ``softplus(-m)``.

    Raises
    ------
    ValueError
        If `x` is no floating-point array or has a non-finite entry.
    """
    if x.dtype == object:
        return numbers.log(1 + exp(x))
    return positive_part(x) + log1p(exp(-absolute(x)))


@checked(_check)
def softplus_vjp(x: Array) -> tuple[Array, Pullback]:
    """:func:`softplus` and its pullback."""
    return softplus.unchecked(x), _pull(sigmoid.unchecked(x))


@checked(_check)
def gelu(x: Array) -> Array:
    r"""$x\,\Phi(x)=\frac x2\big(1+\operatorname{erf}\frac x{\sqrt2}\big)$, elementwise; any shape.

    Raises
    ------
    ValueError
        If `x` is no floating-point array or has a non-finite entry.

    Source: Hendrycks and Gimpel, arXiv 1606.08415, Section 2.
    """
    return x * _normal_cdf(x)


@checked(_check)
def gelu_vjp(x: Array) -> tuple[Array, Pullback]:
    r""":func:`gelu` and its pullback: the derivative is $\Phi(x)+x\varphi(x)$."""
    cdf = _normal_cdf(x)
    slope = _square(x)
    slope *= -constant("0.5", x)
    slope = exp(slope)
    slope *= x
    slope /= sqrt(2 * constant("pi", x))
    slope += cdf
    cdf *= x
    return cdf, _pull(slope)


def gelu_of_both_signs(x: Array, n: int) -> tuple[Array, Array]:
    """``gelu(x)`` and ``gelu(-x[:n])`` to the last bit, for one evaluation of the odd error function; unchecked."""
    half = constant("0.5", x)
    erf_of_x = numbers.erf(x * sqrt(half))
    opposite = 1 - erf_of_x[:n]
    opposite *= half
    opposite *= -x[:n]
    erf_of_x += 1
    erf_of_x *= half
    erf_of_x *= x
    return erf_of_x, opposite


def _normal_cdf(x: Array) -> Array:
    half = constant("0.5", x)
    cdf = numbers.erf(x * sqrt(half))
    cdf += 1
    cdf *= half
    return cdf


@checked(_check)
def gelu_tanh(x: Array) -> Array:
    r"""$\frac x2\big(1+\tanh\sqrt{2/\pi}\,(x+0.044715x^3)\big)$, the approximation of :func:`gelu`; any shape.

    Raises
    ------
    ValueError
        If `x` is no floating-point array or has a non-finite entry.

    Source: Hendrycks and Gimpel, arXiv 1606.08415, Section 2; the default of ``jax.nn.gelu``.
    """
    return x * _squashed(x)[0]


@checked(_check)
def gelu_tanh_vjp(x: Array) -> tuple[Array, Pullback]:
    """:func:`gelu_tanh` and its pullback."""
    share, curve = _squashed(x)
    output = x * share
    # (1 - tanh^2) / 4 = share (1 - share), times the slope of the cubic, sqrt(2 / pi) + 3 curve.
    steepness = 1 - share
    steepness *= output
    curve *= 6
    curve += 2 * sqrt(2 / constant("pi", x))
    curve *= steepness
    curve += share
    return output, _pull(curve)


def _squashed(x: Array) -> tuple[Array, Array]:
    r"""$rac12(1+	anh(x(k+c)))$ and $c=0.044715\,kx^2$, where $k=\sqrt{2/\pi}$."""
    k = sqrt(2 / constant("pi", x))
    with np.errstate(over="ignore"):
        curve = np.asanyarray(x * x)
        if x.dtype != object:
            # From |x| = 100 on the tangent is 1 in every format, and its slope 0 must not meet an infinite square.
            np.minimum(curve, 10_000, out=curve)
        curve *= constant("0.044715", x) * k
        cubic = curve + k
        cubic *= x
    share = numbers.tanh(cubic)
    share += 1
    share *= constant("0.5", x)
    return share, curve


def _square(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return x * x


class Activation(NamedTuple):
    """An elementwise function and its twin with the pullback, both unchecked."""

    function: Callable[[Array], Array]
    vjp: Callable[[Array], tuple[Array, Pullback]]


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(relu.unchecked, relu_vjp.unchecked),
    "tanh": Activation(tanh.unchecked, tanh_vjp.unchecked),
    "erf": Activation(erf.unchecked, erf_vjp.unchecked),
    "sigmoid": Activation(sigmoid.unchecked, sigmoid_vjp.unchecked),
    "softplus": Activation(softplus.unchecked, softplus_vjp.unchecked),
    "gelu": Activation(gelu.unchecked, gelu_vjp.unchecked),
    "gelu_tanh": Activation(gelu_tanh.unchecked, gelu_tanh_vjp.unchecked),
}


def check_activation(name: str, value: Any) -> Activation:
    """Return the activation of this name, or an :class:`Activation` of the caller's own as it is.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if isinstance(value, Activation):
        return value
    if value not in ACTIVATIONS:
        raise ValueError(f"{name}: expected one of {', '.join(ACTIVATIONS)} or an Activation, got {value!r}")
    return ACTIVATIONS[value]
