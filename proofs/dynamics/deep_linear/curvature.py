r"""The curvature of a mode, the best learning rate, and learning at great depth with it (Appendix B, Figure 4)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.dynamics.deep_linear.modes import Solution, positive
from proofs.ledger import (
    Control,
    Evidence,
    Figure,
    Series,
    at_least,
    at_most,
    claim,
    equal,
    figure,
    holds,
)
from proofs.symbolic import array, vanishes
from refimpl.dynamics.deep_linear import (
    chain_energy,
    chain_gradients,
    learning_time,
    learning_time_infinite_depth,
    mode_hessian,
    mode_hessian_eigenvalues,
    optimal_learning_rate,
    solution_sharpness,
)


def on_the_line(a: Any, n: int) -> list[Any]:
    return [a] * n


def off_the_line(a: Any, n: int) -> list[Any]:
    return [a, *[2 * a] * (n - 1)]


@claim(
    "deep_linear/K12",
    title="The Hessian of a mode with equal factors has two eigenvalues, and its solution is the flattest of all",
    source="Appendix B",
    statement=r"\lambda_1=(2n-1)a^{2n-2}-(n-1)sa^{n-2},\ \lambda_{2..n}=sa^{n-2}-a^{2n-2};\qquad\prod_ia_i=s:\ "
    r"\lambda_1=s^2\sum_ia_i^{-2}\ge ns^{2-2/n}",
    method="symbolic",
    scope="every depth at once, n a symbol: two factors moved and the others kept; all of the Hessian by SymPy for "
    "n = 2 to 5; its rank and trace at unequal solutions for n = 2 to 4; 100 random solutions",
    control=Control("evaluated off the line of equal factors", point=off_the_line),
)
def curvature_of_a_mode(rng: np.random.Generator, point: Callable[[Any, int], list[Any]] = on_the_line) -> Evidence:
    a, s, x, y = positive("a", "s", "x", "y")
    n = sympy.Symbol("n", integer=True, positive=True)
    # One energy for all depths: the third factor stands for the product of the n - 2 that do not move.
    rest = point(a, 3)
    others = a ** (n - 2) * (rest[2] / a)
    energy = chain_energy(np.array([x, y, others], dtype=object), s).item()
    here = {x: rest[0], y: rest[1]}
    diagonal, beside = (sympy.diff(energy, x, other).subs(here) for other in (x, y))
    along, across = (value.item() for value in mode_hessian_eigenvalues(a, s, n))
    eigenvalues = [along - diagonal - (n - 1) * beside, across - diagonal + beside]
    top = mode_hessian_eigenvalues(a, a**n, n)[0].item() - n * (a**n) ** 2 / a**2
    hessians, solutions = [], []
    for depth in (2, 3, 4, 5):
        factors = array("f", (depth,), positive=True)
        energy = chain_energy(factors, s).item()
        matrix = np.array([[sympy.diff(energy, f, g) for g in factors] for f in factors])
        where = dict(zip(factors, point(a, depth), strict=True))
        hessians.append(np.vectorize(lambda entry, where=where: entry.subs(where), otypes=[object])(matrix))
        hessians[-1] = hessians[-1] - mode_hessian(a, s, depth)
        if depth < 5:
            product = sympy.prod(factors)
            solved = np.array([[entry.subs(s, product) for entry in row] for row in matrix])
            slope = np.array([product / f for f in factors])
            solutions += [*(solved - np.outer(slope, slope)).flat, solution_sharpness(factors).item() - slope @ slope]
    unequal = np.exp(rng.standard_normal((100, 4)))
    flattest = 1 / optimal_learning_rate(np.prod(unequal, axis=-1), 4)
    example = float(solution_sharpness(np.array([0.5, 2, 1.7])))
    return (
        vanishes(eigenvalues, "eigenvalues less those of the Hessian")
        & vanishes(top, "largest eigenvalue at the solution less n s^(2-2/n)")
        & vanishes(hessians, "Hessian less SymPy's")
        & vanishes(solutions, "Hessian at a solution less a matrix of rank 1 and this trace")
        & at_least(float(np.min(solution_sharpness(unequal) / flattest)), 1, "sharpness over that of equal factors")
        & at_most(abs(example - 13.2825), 5e-5, "sharpness of (0.5, 2, 1.7) off 13.2825")
    )


def one_rate_for_all(s: Any, n_weights: Any) -> Any:
    return 1 / (2 * s)


def best_rate(s: Any, n_weights: Any) -> Any:
    """The optimal rate, of which at infinite depth n s^2 times is 1."""
    return optimal_learning_rate(s, n_weights) if n_weights != sympy.oo else 1 / s**2


@claim(
    "deep_linear/K13",
    title="At the best rate for the depth, infinitely many layers take only finitely longer than three",
    source="Appendix B.1",
    statement=r"t_\infty-t_3=\frac s\epsilon-\frac s{s-\epsilon}\ \sim\ \frac s\epsilon,\qquad u_0=\epsilon,\ "
    r"u_f=s-\epsilon,\ \tau=1/\alpha_{opt}=ns^{2-2/n}",
    method="symbolic",
    scope="all strengths and cut-offs; ratios at s = 1.7 and cut-offs 10^-1 to 10^-4; infinity against a million "
    "matrices",
    uses=["deep_linear/K4", "deep_linear/K7", "deep_linear/K12"],
    control=Control("one rate for every depth", rate=one_rate_for_all),
)
def depth_costs_finitely(rate: Solution = best_rate) -> Evidence:
    s, epsilon = positive("s", "epsilon")
    # tau/n at infinite depth is 1/(n alpha_opt) = s^2.
    infinite = learning_time_infinite_depth(s, epsilon, s - epsilon, 1, 1 / rate(s, sympy.oo)).item()
    shallow = learning_time(s, epsilon, s - epsilon, 2, 1 / rate(s, 2)).item()
    difference = sympy.expand(sympy.expand(infinite) - sympy.expand(shallow)) - s / epsilon + s / (s - epsilon)
    ratios = []
    for cut in (1e-1, 1e-2, 1e-3, 1e-4):
        times = [
            float(learning_time_infinite_depth(1.7, cut, 1.7 - cut, 1, 1 / float(rate(1.7, sympy.oo)))),
            float(learning_time(1.7, cut, 1.7 - cut, 2, 1 / float(rate(1.7, 2)))),
        ]
        ratios.append((times[0] - times[1]) * cut / 1.7)
    deep = float(learning_time(1.7, 0.01, 1.69, 10**6, 1 / float(rate(1.7, 10**6))))
    limit = float(learning_time_infinite_depth(1.7, 0.01, 1.69, 1, 1.7**2))
    return (
        vanishes(difference, "difference of times less s/epsilon - s/(s - epsilon)")
        & holds(ratios == sorted(ratios), "rising", str([round(r, 5) for r in ratios]), "difference over s/epsilon")
        & at_most(abs(ratios[-1] - 1), 1e-4, "the last less 1")
        # The relative error is (2/n) ln(s/u0) and less.
        & at_most(abs(deep / limit - 1), 2e-5, "a million matrices off infinity by")
    )


def iterations(s: float, start: float, end: float, n_weights: int, rate: float, cap: int = 10**6) -> int:
    """Steps of descent on the chain with equal factors until the strength reaches its end; the cap if it never does."""
    a = start ** (1 / n_weights)
    for step in range(cap):
        u = a**n_weights
        if u >= end:
            return step
        a -= rate * float(slope_of_equal_factors(a, s, n_weights))
        if not 0 < a < 1e3:
            return cap
    return cap


def slope_of_equal_factors(a: float, s: float, n_weights: int) -> float:
    """An entry of ``chain_gradients`` where all factors are one number."""
    return -(s - a**n_weights) * a ** (n_weights - 1)


CHAIN_DEPTHS = (2, 3, 5, 10, 30, 100, 300)


@claim(
    "deep_linear/K14",
    title="With the rate fit to the depth the number of steps levels off; with one rate it would fall as 1/n",
    source="Section 2, Figure 4 (left)",
    statement=r"\alpha=\frac1{ns^{2-2/n}}:\ T_n\to2\ln\frac{s-\epsilon}\epsilon+\frac s\epsilon-\frac s{s-\epsilon};"
    r"\qquad\alpha\text{ fixed}:\ n\alpha T_n\to\text{Eq. 17};\qquad\alpha>\frac2{ns^{2-2/n}}\text{ diverges}",
    method="experiment",
    scope="descent itself on the scalar chain of equal factors, s = 1.5 from 0.05 to 1.45: depths 2 to 300 at the best "
    "rate, 30 to 1000 at 10^-4; starts 1% off the solution at 0.95 and 1.05 of the stability limit",
    uses=["deep_linear/K12", "deep_linear/K13"],
    control=Control("one rate for every depth", rate=one_rate_for_all),
)
def steps_level_off(rate: Solution = optimal_learning_rate) -> Evidence:
    s, epsilon = 1.5, 0.05
    chain = np.linspace(0.5, 1.2, 4)[:, None] * np.ones(6)
    by_hand = [slope_of_equal_factors(float(a), s, 6) for a in chain[:, 0]]
    counts = [iterations(s, epsilon, s - epsilon, n, float(rate(s, n)), 1000) for n in CHAIN_DEPTHS]
    limit = float(learning_time_infinite_depth(s, epsilon, s - epsilon, 1, s * s))
    bracket = float(learning_time_infinite_depth(s, epsilon, s - epsilon, 1))
    slow = [n * 1e-4 * iterations(s, epsilon, s - epsilon, n, 1e-4) for n in (30, 100, 300, 1000)]
    settles = []
    for n in (2, 5, 30):
        largest = 2 / (n * s ** (2 - 2 / n))
        for share in (0.95, 1.05):
            a = start = (0.99 * s) ** (1 / n)
            for _ in range(20):
                a -= share * largest * slope_of_equal_factors(a, s, n)
            settles.append(abs(a - s ** (1 / n)) < abs(start - s ** (1 / n)))
    return (
        at_most(float(np.max(np.abs(chain_gradients(chain, s).T - by_hand))), 1e-13, "chain of equal factors off by")
        & equal(counts, [6, 10, 16, 24, 31, 35, 36], "steps at the best rate")
        & at_most(abs(counts[-1] - limit), 1, "deepest off the continuous limit by")
        & holds(slow == sorted(slow), "rising", str([round(value, 2) for value in slow]), "n alpha T_n at a fixed rate")
        & at_most(abs(slow[-1] / bracket - 1), 0.01, "n alpha T_n at n = 1000 off Eq. 17 by")
        & equal(settles, [True, False] * 3, "comes nearer at 0.95 and 1.05 of the limit")
    )


@figure(
    "deep_linear/F2",
    title="Steps against depth on the scalar chain",
    caption="At the best rate for its depth a chain takes more steps as it deepens, but never more than the dashed "
    "limit. The exact solution in continuous time follows it. At one fixed rate, the best for depth 2, steps fall "
    "as one over the depth.",
    answers_to="Figure 4 (left)",
)
def steps_figure(rng: np.random.Generator) -> Figure:
    s, epsilon = 1.5, 0.05
    counts = [float(iterations(s, epsilon, s - epsilon, n, float(optimal_learning_rate(s, n)))) for n in CHAIN_DEPTHS]
    exact = [float(learning_time(s, epsilon, s - epsilon, n, n * s ** (2 - 2 / n))) for n in CHAIN_DEPTHS]
    fixed = [float(learning_time(s, epsilon, s - epsilon, n, 2 * s)) for n in CHAIN_DEPTHS]
    limit = float(learning_time_infinite_depth(s, epsilon, s - epsilon, 1, s * s))
    return Figure(
        (
            Series("gradient descent at the best rate", CHAIN_DEPTHS, counts, "points"),
            Series("exact solution at the best rate", CHAIN_DEPTHS, exact),
            Series("its limit", (2, 300), (limit, limit)),
            Series("exact solution at a fixed rate", CHAIN_DEPTHS, fixed),
        ),
        x_label="matrices $n$",
        y_label="steps",
        x_scale="log",
        y_scale="log",
    )


@figure(
    "deep_linear/F5",
    title="The best learning rate against depth",
    caption="The inverse of the largest curvature at the solution falls as one over the depth, for every strength.",
    answers_to="Figure 4 (right)",
)
def rates_figure(rng: np.random.Generator) -> Figure:
    depths = [2, 3, 5, 10, 20, 50, 100]
    return Figure(
        tuple(
            Series(f"s = {s}", depths, [float(optimal_learning_rate(s, n)) for n in depths]) for s in (0.5, 1.5, 4.0)
        ),
        x_label="matrices $n$",
        y_label=r"learning rate $\alpha_{opt}$",
        x_scale="log",
        y_scale="log",
    )
