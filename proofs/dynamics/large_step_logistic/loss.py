"""The loss, its curvature, its limit for long weights, and the steps that cannot raise it (L1, L16, L17)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.dynamics.large_step_logistic.setting import ROUNDOFF, digits
from proofs.ledger import Control, Evidence, at_least, at_most, claim, equal
from proofs.properties import for_all
from proofs.symbolic import array, scalar, vanishes
from refimpl.dynamics.large_step_logistic import (
    hessian_vector_product,
    logistic_gradient,
    logistic_hessian,
    logistic_loss,
    lr_gd,
    sample_margins,
    smoothness,
)
from refimpl.oracle.specs.dynamics.large_step_logistic.loss import points
from refimpl.oracle.specs.dynamics.large_step_logistic.setting import separable_sets
from refimpl.primitives.activations import sigmoid
from refimpl.primitives.numbers import Array

Function = Callable[[Array, Array], Array]


def of_the_sum(theta: Array, z: Array) -> Array:
    return len(z) * logistic_gradient(theta, z)


def of_the_squared_probability(theta: Array, z: Array) -> Array:
    """The weights $p$ in place of $p(1-p)$."""
    p = sigmoid(-sample_margins(theta, z))
    return np.asarray(np.swapaxes(z, -1, -2) @ (p[..., :, None] * z) / len(z))


@claim(
    "large_step_logistic/L1",
    title="Gradient and Hessian of the logistic loss",
    source="Equations 2 and 3",
    statement=r"\nabla f=-\tfrac1nZ^\top p,\qquad\nabla^2f=\tfrac1nZ^\top\operatorname{diag}(p(1-p))Z",
    method="symbolic",
    scope="all values at n = d = 2; 100 points of 1 to 200 samples and 1 to 30 features by central differences, where "
    "the Hessian's products by vectors are checked too",
    control=[
        Control("the gradient of the sum over samples", gradient=of_the_sum),
        Control("the Hessian with p in place of p(1-p)", hessian=of_the_squared_probability),
    ],
)
def derivatives(
    rng: np.random.Generator, gradient: Function = logistic_gradient, hessian: Function = logistic_hessian
) -> Evidence:
    theta, z = array("t", (2,)), array("z", (2, 2))
    slopes, bends = gradient(theta, z), hessian(theta, z)
    alone = sum(logistic_loss(theta, z[i : i + 1]).item() for i in range(2))
    evidence = (
        vanishes(
            [sympy.diff(logistic_loss(theta, z).item(), theta[i]) - slopes[i] for i in range(2)],
            "derivative of the loss less the gradient",
        )
        & vanishes(
            [sympy.diff(slopes[i], theta[j]) - bends[i, j] for i, j in ((0, 0), (0, 1), (1, 1))],
            "derivative of the gradient less the Hessian",
        )
        & vanishes(2 * logistic_loss(theta, z).item() - alone, "twice the loss of two samples less that of each")
    )

    def off(case: dict[str, Array]) -> float:
        theta, z = case["theta"].reshape(-1, case["theta"].shape[-1])[0], case["z"]
        along = rng.standard_normal(theta.shape)
        along /= np.linalg.norm(along)
        # Third derivatives of the loss along a unit vector are below R^3/10, so h^2 R^3/60 is the error of truncation.
        h = 1e-5 / (1 + np.max(np.linalg.norm(z, axis=1)))
        slope = (logistic_loss(theta + h * along, z) - logistic_loss(theta - h * along, z)) / (2 * h)
        bend = (gradient(theta + h * along, z) - gradient(theta - h * along, z)) / (2 * h)
        scale = 1 + np.max(np.linalg.norm(z, axis=1)) ** 2 * (1 + np.linalg.norm(theta))
        product = hessian_vector_product(theta, z, along)
        return float(
            max(
                abs(slope - gradient(theta, z) @ along),
                np.max(np.abs(bend - product)),
                np.max(np.abs(hessian(theta, z) @ along - product)),
            )
            / scale
        )

    return evidence & for_all(rng, points(), off, 1e-7, quantity="largest relative error of central differences")


def hinge(margins: Array) -> Array:
    return np.asarray(np.mean(np.maximum(0, 1 - margins), axis=-1))


def perceptron_loss(margins: Array) -> Array:
    return np.asarray(np.mean(np.maximum(0, -margins), axis=-1))


@claim(
    "large_step_logistic/L16",
    title="Along a ray the logistic loss becomes the perceptron's",
    source="Section 3, remark on the perceptron's loss",
    statement=r"0\le\frac1{tn}\sum_i\ln(1+e^{-tm_i})-\frac1n\sum_i\max(0,-m_i)\le\frac{\ln2}t",
    method="symbolic",
    scope="a sample of either sign: the difference is the loss at the margin's absolute value over t, which falls from "
    "ln 2; and so for the mean of any number; 100 points at t from 1 to 10^6",
    control=Control("the hinge loss in place of the perceptron's", limit=hinge),
)
def loss_along_a_ray(rng: np.random.Generator, limit: Callable[[Array], Array] = perceptron_loss) -> Evidence:
    one = np.array([[sympy.Integer(1)]], dtype=object)
    m = scalar("m", positive=True)

    def loss(margin: Any) -> Any:
        return logistic_loss(np.array([margin], dtype=object), one).item()

    evidence = vanishes(
        # Of a wrong sample the loss is its margin's size and the loss of a right one.
        [sympy.exp(loss(-m)) - sympy.exp(m) * sympy.exp(loss(m)), loss(sympy.Integer(0)) - sympy.log(2)],
        "loss of a wrong sample less its margin and the loss of a right one; loss at 0 less ln 2",
    ) & equal(bool(sympy.simplify(sympy.diff(loss(m), m)).is_negative), True, "the loss falls")

    def over(case: dict[str, Array]) -> float:
        t = 10.0 ** rng.uniform(0, 6)
        gap = logistic_loss(t * case["theta"], case["z"]) / t - limit(sample_margins(case["theta"], case["z"]))
        # Relative to ln 2/t; what a mean of numbers up to max |m| is rounded by comes on top.
        size = float(np.max(np.abs(sample_margins(case["theta"], case["z"]))))
        rounded = 300 * ROUNDOFF * size
        return float(max(np.max(gap - rounded) * t / np.log(2), np.max(-gap - rounded) * t))

    # At margins of 0 the bound is attained.
    return evidence & for_all(rng, points(), over, 1 + 8 * ROUNDOFF, quantity="largest gap over ln 2/t, or below 0")


def is_monotone(losses: Array) -> bool:
    # A loss of at most ln 2 is a mean whose terms are rounded.
    return bool(np.all(np.diff(losses) <= 64 * ROUNDOFF))


@claim(
    "large_step_logistic/L17",
    title="Below 2/L no step raises the loss; oscillation takes more, and more need not bring it",
    source="Sections 1 and 4, the classical condition",
    statement=r"\gamma<2/L\ \Rightarrow\ f(\theta_{t+1})\le f(\theta_t),\qquad L=\tfrac1{4n}\lambda_{\max}(Z^\top Z)",
    method="property",
    scope="the curvature of a sample is at most 1/4 for all margins (symbolic); 100 random separable sets at 1.99/L, "
    "100 steps; digits 3 against 8, where 2/L = .618, at .6, 1 and 10",
    uses=["large_step_logistic/L1"],
    control=[
        Control("digits at a step size of 10", below=10.0),
        Control("random sets at 60/L", factor=60.0),
    ],
    requires=["sklearn"],
)
def descent_below_the_classical_limit(rng: np.random.Generator, below: float = 0.6, factor: float = 1.99) -> Evidence:
    m = array("m", (1,))
    one = np.array([[sympy.Integer(1)]], dtype=object)
    p = -logistic_gradient(m, one).item()
    evidence = vanishes(
        sympy.Rational(1, 4) - logistic_hessian(m, one).item() - (sympy.Rational(1, 2) - p) ** 2,
        "one quarter less a sample's curvature less a square",
    )

    def rises(z: Array) -> float:
        return float(not is_monotone(lr_gd(z, factor / smoothness(z), 100).losses))

    z = digits()
    runs = {step_size: lr_gd(z, step_size, 1000) for step_size in (below, 1.0, 10.0)}
    return (
        evidence
        & for_all(rng, separable_sets(), rises, 0, quantity="random sets where the loss rises at 1.99/L")
        & at_most(below, float(2 / smoothness(z)), "step size on digits, against 2/L")
        & equal(is_monotone(runs[below].losses), True, "its loss falls all the way")
        & equal(runs[below].n_iterations, 463, "its iterations")
        & equal(is_monotone(runs[1.0].losses), True, "above 2/L, at 1, it happens to fall as well")
        & at_least(float(np.max(np.diff(runs[10.0].losses))), 1, "largest rise at 10")
    )
