"""Exact symmetry between scales in the feature regime, and where the lazy regime ends (S10, S11)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.ledger import Control, Evidence, at_most, claim
from proofs.symbolic import array, induction, scalar, vanishes
from refimpl.dynamics.sgd_noise_regimes import (
    critical_temperature_exponent,
    feature_regime_map,
    hidden_layer_vjp,
    initial_network,
    network_outputs_vjp,
    perceptron_exponents,
    train_network,
)
from refimpl.primitives.numbers import Array

Layer = Callable[[Array, Array], tuple[Array, Any]]
Map = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


def positive_out(argument: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """The positive factors of an expression, and the rest."""
    factors = sympy.Mul.make_args(sympy.factor(argument))
    positive = sympy.Mul(*(one for one in factors if one.is_positive))
    return positive, sympy.Mul(*(one for one in factors if not one.is_positive))


def out_of_kinks(expressions: Any) -> Any:
    r"""With $\max(px,0)=p\max(x,0)$ and $\theta(px)=\theta(x)$ for $p>0$, which SymPy does not do by itself."""

    def maximum(*arguments: sympy.Expr) -> sympy.Expr:
        (argument,) = [one for one in arguments if one != 0]
        positive, rest = positive_out(argument)
        return positive * sympy.Max(rest, 0)

    def step(argument: sympy.Expr, *at_zero: sympy.Expr) -> sympy.Expr:
        return sympy.Heaviside(positive_out(argument)[1], *at_zero)

    return [
        sympy.sympify(one).replace(sympy.Max, maximum).replace(sympy.Heaviside, step)
        for one in np.asarray(expressions, dtype=object).reshape(-1)
    ]


def biased_layer(x: Array, weight: Array) -> tuple[Array, Any]:
    """A layer with a bias of one, which is not scaled."""
    shifted = np.concatenate([x, np.ones_like(x[:, :1])], axis=1)
    extended = np.concatenate([weight, np.ones_like(weight[:, :1])], axis=1)
    output, pull = hidden_layer_vjp.unchecked(shifted, extended)
    return output, lambda cotangent: tuple(one[:, :-1] for one in pull(cotangent))


def larger_exponent(weights: Any, learning_rate: Any, alpha: Any, n_hidden: Any) -> tuple[Any, Any]:
    u, rate = feature_regime_map(weights, learning_rate, alpha, n_hidden)
    return u, rate / alpha ** sympy.Rational(1, 10) if isinstance(rate, sympy.Expr) else rate / alpha**0.1


@claim(
    "sgd_noise_regimes/S10",
    title="In the feature regime a change of scale is a change of the learning rate, exactly",
    source="The feature regime, T_opt ~ alpha^k; the symmetry is derived",
    statement=r"u=\alpha^{\frac1{D+1}}w,\ \eta_u=\eta\,\alpha^{-\frac{D-1}{D+1}}:\quad F_w=F_u/\alpha,\ "
    r"u_{t+1}=u_t-\eta_u\nabla L_1(u_t)",
    method="symbolic",
    scope="all depths, by the step from layer to layer and backwards (at 2 units a layer, as entries are scaled one by "
    "one), and exponents for a symbol D; 200 steps of networks of 1 to 4 hidden layers at a scale of 1/1000",
    control=[
        Control("an exponent larger by .1", mapped=larger_exponent),
        Control("a bias in the layers", layer=biased_layer),
    ],
)
def scales_and_rates(
    rng: np.random.Generator, mapped: Map = feature_regime_map, layer: Layer = hidden_layer_vjp.unchecked
) -> Evidence:
    c, r, b = (scalar(name, positive=True) for name in ("c", "r", "b"))
    x, weight, cotangent = array("x", (1, 2)), array("w", (2, 2)), array("g", (1, 2))
    # The incoming row is scaled by r, the weights by c, the cotangent by b.
    output, pull = layer(x, weight)
    scaled, pull_scaled = layer(r * x, c * weight)
    to_x, to_weight = pull(cotangent)
    scaled_to_x, scaled_to_weight = pull_scaled(b * cotangent)
    step = vanishes(
        out_of_kinks(
            np.concatenate(
                [
                    (scaled - r * c * output).reshape(-1),
                    (scaled_to_x - b * c * to_x).reshape(-1),
                    (scaled_to_weight - b * r * to_weight).reshape(-1),
                ]
            )
        ),
        "a layer's output times rc, and its cotangents",
    )
    weights = [weight, array("v", (1, 2))]
    (f, pull_f), (f_scaled, pull_f_scaled) = (
        network_outputs_vjp.unchecked(x, w) for w in (weights, [c * one for one in weights])
    )
    one = np.array([sympy.Integer(1)], dtype=object)
    gradients, scaled_gradients = pull_f(one)[1], pull_f_scaled(one)[1]
    base = vanishes(
        out_of_kinks(
            np.concatenate(
                [f_scaled - c**2 * f]
                + [(s - c * g).reshape(-1) for s, g in zip(scaled_gradients, gradients, strict=True)]
            )
        ),
        "one hidden layer: output times c^2, gradient times c",
    )
    alpha, eta, depth = scalar("alpha", positive=True), scalar("eta", positive=True), scalar("D", positive=True)
    (u,), rate = mapped([np.array([sympy.Integer(1)], dtype=object)], eta, alpha, depth)
    shrunk = 1 / u[0]
    exponents = vanishes(
        [
            sympy.expand_log(sympy.log(shrunk ** (depth + 1) * alpha), force=True).simplify(),
            sympy.expand_log(sympy.log(rate) - sympy.log(eta * shrunk ** (depth - 1)), force=True).simplify(),
        ],
        "margin and rate of the scaled weights",
    )
    worst = 0.0
    for n_hidden in range(1, 5):
        inputs = rng.standard_normal((30, 5))
        labels = np.where(rng.standard_normal(30) > 0, 1, -1)
        start = initial_network(5, 6, n_hidden, rng)
        batches = rng.integers(30, size=(200, 3))
        scale, rate_w = 1e-3, 0.2 * 1e-3 ** ((n_hidden - 1) / (n_hidden + 1))
        wide = [scale ** (-1 / (n_hidden + 1)) * one for one in start]
        run = train_network(inputs, labels, wide, rate_w, 3, 1 / scale, None, 200, 200, batches)
        u_end, rate_u = mapped(run.weights, rate_w, scale, n_hidden)
        unit = train_network(inputs, labels, start, rate_u, 3, 1.0, None, 200, 200, batches)
        gap = max(float(np.max(np.abs(a - e))) for a, e in zip(u_end, unit.weights, strict=True))
        worst = max(worst, gap / max(float(np.max(np.abs(e))) for e in unit.weights))
    # 200 steps, each rounding by a few dozen roundoffs at most tenfold as they go on.
    return induction(base, step) & exponents & at_most(worst, 1e-10, "mapped run off the run at unit margin by")


# --- the end of the lazy regime ---


def inverse_exponent(delta: Any, gamma: Any) -> Any:
    return critical_temperature_exponent(gamma, delta)


@claim(
    "sgd_noise_regimes/S11",
    title="The temperature at which the lazy regime ends is a power of the data set's size",
    source="The escape from the lazy regime",
    statement=r"T_c^\delta P^\gamma=c\ \Rightarrow\ T_c\sim P^{-a},\ a=\gamma/\delta;\qquad"
    r"\text{perceptron:}\ a=\tfrac1{1+\chi}",
    method="symbolic",
    scope="all exponents and sizes",
    control=Control("the exponent upside down", exponent=inverse_exponent),
)
def end_of_lazy_regime(exponent: Callable[[Any, Any], Any] = critical_temperature_exponent) -> Evidence:
    delta, gamma, size, level, k = (scalar(name, positive=True) for name in ("delta", "gamma", "P", "c", "k"))
    critical = level ** (1 / delta) * size ** -exponent(delta, gamma)
    along = sympy.expand_log(sympy.log(critical**delta * size**gamma / level), force=True)
    (solved,) = sympy.solve(delta * scalar("T") + gamma * sympy.log(size) - sympy.log(level), scalar("T"))
    return vanishes(
        [
            along,
            sympy.expand_log(sympy.log(critical), force=True) - solved,
            perceptron_exponents(k - 1).a - 1 / k,
        ],
        "log of T^delta P^gamma / c along the critical line, its solution, and the perceptron's exponent",
    )
