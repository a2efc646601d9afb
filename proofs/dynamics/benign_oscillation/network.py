"""The network's gradient, and that its features follow the recursions (B1, B2)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.ledger import Control, Evidence, at_most, claim
from proofs.properties import for_all
from proofs.symbolic import array, scalar, vanishes
from refimpl.dynamics.benign_oscillation import feature_gain, loss, loss_vjp, sgd_step, signal_recursion
from refimpl.oracle.spec import generators
from refimpl.oracle.specs.dynamics.benign_oscillation import losses
from refimpl.primitives.numbers import Array

EPSILON = float(np.finfo(float).eps)


def half_gradient(weights: Array, x: Array, labels: Array) -> tuple[Array, Callable[[Array], Any]]:
    """The derivative of the square without its 2."""
    value, pull = loss_vjp(weights, x, labels)
    return value, lambda cotangent: (pull(cotangent)[0] / 2,)


@st.composite
def losses_and_directions(draw: st.DrawFn) -> dict[str, Any]:
    """A loss, a direction of its weights, and whether a score is 0, where the second derivative jumps."""
    case = draw(losses())
    at_kink = draw(st.booleans())
    if at_kink:
        case["weights"] = case["weights"].copy()
        case["weights"][..., 0, 0, :] = 0
    rng = draw(generators())
    return {"case": case, "direction": rng.standard_normal(case["weights"].shape), "at_kink": at_kink}


@claim(
    "benign_oscillation/B1",
    title="The hand-written gradient is the derivative of the square loss, at kinks too",
    source="the update rule",
    statement=r"\nabla_{w_{j,r}}L=\frac1n\sum_i(f(x_i)-y_i)\,\frac{2j}m\sum_p\langle w_{j,r},x_i^{(p)}"
    r"\rangle_+x_i^{(p)}",
    method="property",
    scope="100 inputs from the oracle's domain, half of them with a filter that is 0, against "
    "central differences in longdouble",
    control=Control("the derivative of the square without its 2", gradient=half_gradient),
)
def gradient_is_the_derivative(rng: np.random.Generator, gradient: Callable[..., Any] = loss_vjp) -> Evidence:
    def error(drawn: Any) -> float:
        case, direction = drawn["case"], drawn["direction"]
        # As large as the weights, or of scores near 1 where they are 0.
        direction = direction * max(np.max(np.abs(case["weights"])), 1 / (1 + np.max(np.abs(case["x"]))))
        value, pull = gradient(**case)
        slope = float(np.sum(pull(np.ones_like(value))[0] * direction))
        long = {name: array.astype(np.longdouble) for name, array in case.items()}

        def at(step: float) -> Any:
            return np.sum(loss(**(long | {"weights": long["weights"] + step * direction})))

        difference = float((at(1e-8) - at(-1e-8)) / 2e-8)
        # Along a line of unit size the loss is a quartic between kinks: its derivatives are multiples of its values.
        scale = abs(slope) + float(at(1) + at(-1) + at(0))
        return abs(difference - slope) / ((1e-4 if drawn["at_kink"] else 1e-6) * scale)

    return for_all(rng, losses_and_directions(), error, 1, quantity="error over 1e-6, at kinks over 1e-4")


@claim(
    "benign_oscillation/B2",
    title="Orthogonal features follow their recursions exactly, driven by one error",
    source="the update rule; derived",
    statement=r"c\leftarrow c\,(1\pm a\,\ell)\ \text{if }c>0,\quad a_u=\tfrac{2\eta\lVert u\rVert^2}m,\ "
    r"a_v=\tfrac{2\eta\lVert v\rVert^2}m",
    method="symbolic",
    scope="any weights of a filter a class in three dimensions, any noise orthogonal to the features, all rates and "
    "norms (entries); 60 steps of 6 filters in 50 dimensions at a gain of 1.3, each to roundoff",
    control=Control("features that are not orthogonal", overlap=sympy.Rational(1, 10)),
)
def features_follow_recursions(rng: np.random.Generator, overlap: Any = 0) -> Evidence:
    rate, a, b, c = (scalar(name, positive=True) for name in ("eta", "u", "v", "xi"))
    weights, zero = array("w", (2, 1, 3)), sympy.Integer(0)
    strong, weak = np.array([a, zero, zero]), np.array([overlap * a, b, zero])
    differences = []
    for label in (1, -1):
        x = np.stack([label * weak, label * strong, np.array([zero, zero, c])])
        moved, error = sgd_step(weights, x, np.asarray(sympy.Integer(label)), rate)
        for feature, norm in ((strong, a), (weak, b)):
            for index, sign in ((0, 1), (1, -1)):
                expected = signal_recursion.unchecked(
                    weights[index] @ (label * feature), feature_gain(rate, norm**2, 1), sign * label, error
                )
                differences.append(moved[index] @ (label * feature) - expected)
    return vanishes(differences, "signals after a step") & simulated(rng, float(overlap))


def simulated(rng: np.random.Generator, overlap: float) -> Evidence:
    dim, n_filters, worst = 50, 6, 0.0
    rate = 1.3 * n_filters / 2
    strong, weak = np.eye(dim)[0], 0.25 * np.eye(dim)[1] + overlap * np.eye(dim)[0]
    weights = 0.1 * rng.standard_normal((2, n_filters, dim))
    for label in rng.choice((-1.0, 1.0), size=60):
        x = np.stack([label * weak, label * strong, np.zeros(dim)])
        moved, error = sgd_step(weights, x, np.asarray(label), rate)
        for feature, norm in ((strong, 1.0), (weak, 0.25)):
            for index, sign in ((0, 1), (1, -1)):
                expected = signal_recursion(
                    weights[index] @ (label * feature),
                    feature_gain(rate, norm**2, n_filters),
                    int(sign * label),
                    float(error),
                )
                difference = np.abs(moved[index] @ (label * feature) - expected)
                # Two products of d terms on either side, and the step, of terms below |w| |u| (1 + |1 + a l|).
                size = np.linalg.norm(weights[index], axis=-1) * norm * (2 + 2 * abs(float(error)))
                worst = max(worst, float(np.max(difference / (4 * (dim + 10) * EPSILON * size))))
        weights = moved
    return at_most(worst, 1, "difference over rounding bound")
