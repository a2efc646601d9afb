r"""A mode of two layers whose factors start apart (Appendix A)."""

from collections.abc import Callable

import numpy as np
import sympy

from proofs.dynamics.deep_linear.modes import positive
from proofs.dynamics.deep_linear.network import SEEDS
from proofs.ledger import (
    Control,
    Evidence,
    at_most,
    claim,
)
from proofs.properties import for_all
from proofs.symbolic import vanishes
from refimpl.dynamics.deep_linear import (
    chain_gradients,
    hyperbolic_time,
    learning_time_unbalanced,
    mode_trajectory_unbalanced,
)
from refimpl.primitives.numbers import Array


def printed_time(c: float, u0: float, uf: float, s: float) -> float:
    """The appendix's formula at tau = 1, with the hyperbolic angle."""
    zeta = np.sqrt(c**2 + 4 * s**2)
    half_tangents = [2 * s * np.tanh(np.arcsinh(2 * u / c) / 2) for u in (u0, uf)]
    start, end = (np.log((zeta + c + tangent) / (zeta - c - tangent)) for tangent in half_tangents)
    return float((end - start) / zeta)


@claim(
    "deep_linear/K5",
    title="Two factors that start apart learn along a hyperbola, in closed form",
    source="Appendix A",
    statement=r"c=|a^2-b^2|,\ u=\tfrac c2\sinh\theta:\quad t=\frac\tau\zeta\Big[\ln\frac{\zeta+c+2s\tanh(\theta/2)}"
    r"{\zeta-c-2s\tanh(\theta/2)}\Big]_{\theta_0}^{\theta_f},\quad\zeta=\sqrt{c^2+4s^2}",
    method="symbolic",
    scope="all strengths and imbalances, none among them; 20 starts of both signs against an adaptive Runge-Kutta "
    "integration",
    uses=["deep_linear/K3", "deep_linear/K4"],
    control=Control("a negative imbalance with its sign", imbalance=float),
)
def hyperbolic_learning(rng: np.random.Generator, imbalance: Callable[[float], float] = abs) -> Evidence:
    from scipy import integrate

    s, u0, u, a, b = positive("s", "u0", "u", "a", "b")
    one = sympy.Integer(1)
    to_a, to_b = -chain_gradients(np.array([a, b], dtype=object), s)
    velocity = a * to_b + b * to_a
    on_hyperbola = velocity - (s - a * b) * sympy.sqrt(sympy.factor((a**2 - b**2) ** 2 + 4 * a**2 * b**2))
    # In units of c, and with half-angle tangents below 1, all roots are rational; the start divides out.
    tangents = {variable: half / (1 + half) for variable, half in zip((u, s), positive("m", "k"), strict=True)}
    rational = {variable: tan / (1 - tan**2) for variable, tan in tangents.items()}
    slope = sympy.diff(hyperbolic_time(one, 2 * one / 3, u, s).item(), u) * sympy.sqrt(1 + 4 * u**2) * (s - u) - 1
    slope = slope.subs(rational).replace(
        lambda e: e.is_Pow and not e.exp.is_Integer, lambda e: sympy.factor(sympy.together(e.base)) ** e.exp
    )
    balanced = sympy.exp(2 * s * hyperbolic_time(0 * one, u0, u, s).item()) - u * (s - u0) / (u0 * (s - u))

    def error(seed: int) -> float:
        rng = np.random.default_rng(seed)
        strength = rng.uniform(0.5, 3)
        start = rng.uniform(-1, 1.5, 2)
        if start.sum() < 0.1:
            start += 0.6 - start.sum() / 2
        times = np.linspace(0, 6, 13)

        def velocity(_: float, factors: Array) -> Array:
            return -chain_gradients.unchecked(factors, strength)

        path = integrate.solve_ivp(velocity, (0, 6), start, "DOP853", times, rtol=1e-12, atol=1e-13)
        found = mode_trajectory_unbalanced(times, float(start[0]), float(start[1]), strength)
        return float(np.max(np.abs(found - np.prod(path.y, axis=0))))

    printed = [
        printed_time(imbalance(a0**2 - b0**2), 0.03, 1.2, 1.5) - float(learning_time_unbalanced(a0, b0, 1.2, 1.5))
        for a0, b0 in ((0.3, 0.1), (0.1, 0.3))
    ]
    return (
        vanishes(on_hyperbola, "velocity less (s - u) sqrt(c^2 + 4u^2)")
        & vanishes(sympy.cancel(sympy.together(slope)), "slope of the time over the inverse velocity, less 1")
        & vanishes(balanced, "exponential of the time without imbalance less that of equal factors")
        & at_most(float(np.max(np.abs(printed))), 1e-13, "printed formula for a > b and a < b off by")
        & for_all(rng, SEEDS, error, 1e-10, 20, "trajectory off Runge-Kutta by")
    )
