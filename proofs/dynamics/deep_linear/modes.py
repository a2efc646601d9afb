r"""One mode: its exact solutions at every depth, its curvature and the best rate (Sections 1.3 and 2, Appendices)."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.dynamics.deep_linear.network import SEEDS, off_diagonal
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
    within,
)
from proofs.properties import for_all
from proofs.symbolic import array, scalar, vanishes
from refimpl.dynamics.deep_linear import (
    chain_energy,
    chain_gradients,
    decoupled_weights,
    end_to_end,
    hyperbolic_time,
    learning_time,
    learning_time_infinite_depth,
    learning_time_unbalanced,
    mode_hessian,
    mode_hessian_eigenvalues,
    mode_trajectory,
    mode_trajectory_nonwhite,
    mode_trajectory_unbalanced,
    mode_velocity,
    optimal_learning_rate,
    orthogonal_init,
    solution_sharpness,
    time_above,
    time_around,
    time_below,
    train_gd,
)
from refimpl.primitives.numbers import Array

Solution = Callable[..., Any]
DEPTHS = (1, 2, 3, 4, 5, 7, 20, 99)


def positive(*names: str) -> list[sympy.Symbol]:
    return [scalar(name, positive=True) for name in names]


# --- two matrices ---


def at_half_the_rate(t: Any, s: Any, u0: Any, n_weights: int, tau: Any = 1) -> Array:
    """The exponent with s in place of 2s."""
    return mode_trajectory(t / 2, s, u0, n_weights, tau)


@claim(
    "deep_linear/K4",
    title="The strength of a mode of two layers is a logistic function of time",
    source="Eq. 10 to 12",
    statement=r"u(t)=\frac{s}{1+(s/u_0-1)e^{-2st/\tau}}:\quad\tau\dot u=2u(s-u),\ u(0)=u_0,\quad "
    r"t=\frac\tau{2s}\ln\frac{u_f(s-u_0)}{u_0(s-u_f)}",
    method="symbolic",
    scope="all strengths, starts and times; one matrix alike",
    control=Control("rate s in place of 2s", solution=at_half_the_rate),
)
def logistic_learning(solution: Solution = mode_trajectory) -> Evidence:
    s, u0, uf, t, tau = positive("s", "u0", "uf", "t", "tau")
    equation, start, inverse = [], [], []
    for n_weights in (1, 2):
        u = solution(t, s, u0, n_weights, tau).item()
        equation.append(sympy.diff(u, t) - mode_velocity(u, s, n_weights, tau).item())
        start.append(solution(0 * t, s, u0, n_weights, tau).item() - u0)
        arrival = learning_time(s, u0, uf, n_weights, tau).item()
        inverse.append(solution(arrival, s, u0, n_weights, tau).item() - uf)
    return (
        vanishes(equation, "differential equation")
        & vanishes(start, "u(0) - u0")
        & vanishes(inverse, "strength at the learning time less uf")
    )


@claim(
    "deep_linear/K10",
    title="A mode's learning time is inversely proportional to its strength",
    source="Section 1.3",
    statement=r"t(\epsilon\to s-\epsilon)=\frac\tau s\ln\frac{s-\epsilon}\epsilon\ \sim\ \frac\tau s\ln\frac s\epsilon"
    r"\quad(\epsilon\to0)",
    method="symbolic",
    scope="all strengths and cut-offs",
    uses=["deep_linear/K4"],
    control=Control("one matrix, whose time does not know the strength", n_weights=1),
)
def time_is_inverse_strength(n_weights: int = 2) -> Evidence:
    s, epsilon, tau = positive("s", "epsilon", "tau")
    time = learning_time(s, epsilon, s - epsilon, n_weights, tau).item()
    ratio = sympy.limit(time / (tau / s * sympy.log(s / epsilon)), epsilon, 0, "+")
    # Exponentials, which are rational, decide the equality of two logarithms.
    difference = sympy.exp(sympy.cancel(2 * s * time / tau)) - ((s - epsilon) / epsilon) ** 2
    return vanishes(difference, "exp(2st/tau) less ((s - epsilon)/epsilon)^2") & vanishes(ratio - 1, "limit less 1")


# --- unequal factors ---


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


# --- every depth ---


def counting_layers_of_neurons(s: Any, u0: Any, uf: Any, n_weights: int) -> Array:
    return learning_time(s, u0, uf, n_weights + 1)


def hypergeometric_time(s: float, u0: float, uf: float, n_weights: int) -> float:
    """The time by SciPy's 2F1, from below s or from above."""
    from scipy import special

    p = 2 - 2 / n_weights

    def primitive(u: float) -> float:
        if u < s:
            return float(u ** (1 - p) / (s * (1 - p)) * special.hyp2f1(1, 1 - p, 2 - p, u / s))
        return float(u**-p / p * special.hyp2f1(1, p, p + 1, s / u))

    return (primitive(uf) - primitive(u0)) / n_weights


def quadrature_time(s: float, u0: float, uf: float, n_weights: int) -> float:
    from scipy import integrate

    def integrand(x: float) -> float:
        return float(np.exp(x) / mode_velocity.unchecked(float(np.exp(x)), s, n_weights))

    return float(integrate.quad(integrand, np.log(u0), np.log(uf), epsabs=0, epsrel=1e-13, limit=200)[0])


@claim(
    "deep_linear/K6",
    title="The learning time has a closed form at every depth",
    source="Eq. 15 (the solution is derived; the paper calls it complicated)",
    statement=r"t=\frac\tau n[F(u_f)-F(u_0)],\quad F(u)=\frac{u^{1-p}}{s(1-p)}\,{}_2F_1(1,1-p;2-p;\tfrac us),\quad "
    r"p=2-\tfrac2n;\qquad F(u)=\frac{u^{-p}}p\,{}_2F_1(1,p;p+1;\tfrac su)\ (u>s)",
    method="symbolic",
    scope="all depths: each of the three series that the code sums, for a symbol p and 1, 2 and 4 terms, and 2F1's "
    "general coefficient; 3 times up and down at each of 8 depths to 99 against quadrature, SciPy's 2F1 and back",
    uses=["deep_linear/K4"],
    control=Control("layers of neurons counted in place of matrices", time=counting_layers_of_neurons),
)
def closed_form_at_every_depth(rng: np.random.Generator, time: Solution = learning_time) -> Evidence:
    v, y, p = positive("v", "y", "p")
    k = sympy.Symbol("k", integer=True, nonnegative=True)
    truncated, recursion = [], []
    at = np.asarray(v, dtype=object)
    for n_terms in (1, 2, 4):
        for series, power, left in ((time_below, 1 - p, v**n_terms), (time_above, -p, v**-n_terms)):
            rational = series(at, p, n_terms).item() * v**-power
            slope = v ** (power + p) * (sympy.diff(rational, v) + power * rational / v)
            truncated.append(slope * (1 - v) - 1 + left)
        # 1/(1 - y)^p is the only series with (1 - y) f' = p f that starts at 1: all orders but the last must vanish.
        power = 1 - y * sympy.diff(time_around(np.asarray(y, dtype=object), p, n_terms).item(), y)
        left = sympy.Poly(sympy.expand((1 - y) * sympy.diff(power, y) - p * power), y)
        recursion += [left.coeff_monomial(y**order) for order in range(n_terms)]
    coefficients = [sympy.gammasimp(sympy.rf(b, k) / sympy.rf(b + 1, k) / b - 1 / (k + b)) for b in (1 - p, p)]
    by_quadrature, by_hypergeometric, back = [], [], []
    for n_weights in DEPTHS:
        s = rng.uniform(0.5, 3, 3)
        growth = (s * 10 ** rng.uniform(-3, -0.5, 3), s * rng.uniform(0.5, 0.99, 3))
        decay = (s * rng.uniform(2, 50, 3), s * rng.uniform(1.01, 1.9, 3))
        for start, end in (growth, decay):
            found = time(s, start, end, n_weights)
            cases = list(zip(s, start, end, strict=True))
            by_quadrature.append(found / [quadrature_time(*case, n_weights) for case in cases] - 1)
            if n_weights > 2:
                by_hypergeometric.append(found / [hypergeometric_time(*case, n_weights) for case in cases] - 1)
            back.append(mode_trajectory(found, s, start, n_weights) / end - 1)
    # s - u keeps 14 digits at 1% from s. Back, an error of the time is multiplied by up to (s/u0)^(p-1) log of it.
    return (
        vanishes(truncated, "slopes of the outer series times v^p (1 - v), less 1 and the term left over")
        & vanishes(recursion, "the middle series' coefficients less those of (1 - y)^-p")
        & vanishes(coefficients, "2F1's coefficients less 1/(k + b)")
        & at_most(float(np.max(np.abs(by_quadrature))), 1e-12, "off quadrature by")
        & at_most(float(np.max(np.abs(by_hypergeometric))), 1e-12, "off SciPy's 2F1 by")
        & at_most(float(np.max(np.abs(back))), 1e-10, "trajectory at the time off by")
    )


def without_the_logarithm(s: Any, u0: Any, uf: Any, n_weights: Any) -> Array:
    return np.asanyarray((1 / u0 - 1 / uf) / (s * n_weights))


@claim(
    "deep_linear/K7",
    title="At a fixed rate the learning time vanishes with depth as a constant over the number of matrices",
    source="Eq. 16 and 17",
    statement=r"n\,t_n\to\tau\Big[\frac1{s^2}\ln\frac{u_f(s-u_0)}{u_0(s-u_f)}+\frac1{su_0}-\frac1{su_f}\Big]"
    r"\text{ with error }O(1/n)",
    method="property",
    scope="the formula at s = 1.5 from 0.05 to 1.4, n = 10 to 10^5; and 20 random modes at n = 10^4, 10^5, 10^6",
    uses=["deep_linear/K6"],
    control=Control("the limit without its logarithm", limit=without_the_logarithm),
)
def infinite_depth(rng: np.random.Generator, limit: Solution = learning_time_infinite_depth) -> Evidence:
    mode = (1.5, 0.05, 1.4)
    seen = [n * float(learning_time(*mode, n)) for n in (10, 100, 1000)]
    bracket = float(limit(*mode, 1))
    errors = [abs(n * float(learning_time(*mode, n)) - bracket) for n in (1000, 10**4, 10**5)]
    ratios = [before / after for before, after in itertools.pairwise(errors)]
    for _ in range(20):
        s = rng.uniform(0.5, 3)
        one = (s, s * rng.uniform(0.01, 0.3), s * rng.uniform(0.6, 0.95))
        gaps = [abs(n * float(learning_time(*one, n)) - float(limit(*one, 1))) for n in (10**4, 10**5, 10**6)]
        ratios += [before / after for before, after in itertools.pairwise(gaps)]
    # The next order is a factor of (1/n) ln(s/u0)^2 smaller: below one hundredth from n = 10^3 on.
    return (
        at_most(float(np.max(np.abs(np.array(seen) - [10.84, 14.95, 15.468]))), 0.005, "n t_n off 10.84, 14.95, 15.468")
        & at_most(abs(bracket - 15.5266), 5e-5, "limit off 15.5266")
        & within(min(ratios), 9.9, 10.1, "error gained by ten times the depth, least")
        & within(max(ratios), 9.9, 10.1, "most")
    )


# --- curvature and the best rate ---


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
        x_label="matrices n",
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
        x_label="matrices n",
        y_label="learning rate",
        x_scale="log",
        y_scale="log",
    )


# --- inputs that are not white ---


def common_basis(rng: np.random.Generator, v: Array) -> Array:
    return v


def another_basis(rng: np.random.Generator, v: Array) -> Array:
    return orthogonal_init(v.shape, rng)


@claim(
    "deep_linear/K19",
    title="With correlated inputs each mode has its exact solution if inputs and task share singular vectors",
    source="Section 3, Appendix E",
    statement=r"\Sigma^{11}=V\Lambda V^\top,\ \Sigma^{31}=USV^\top:\quad\tau\dot u=nu^{2-2/n}(s-\lambda u),\qquad "
    r"u(t)=\frac{se^{2st/\tau}}{\lambda(e^{2st/\tau}-1)+s/u_0}\ (n=2)",
    method="symbolic",
    scope="the solution for all strengths, eigenvalues and times; descent on 4 inputs and 5 outputs to time 4 at "
    "depths 2, 3, 4 and rates 0.002, 0.001, 0.0005",
    uses=["deep_linear/K4", "deep_linear/K8"],
    control=Control("inputs and task with different singular vectors", basis=another_basis),
)
def correlated_inputs(
    rng: np.random.Generator, basis: Callable[[np.random.Generator, Array], Array] = common_basis
) -> Evidence:
    s, u0, eigenvalue, t, tau = positive("s", "u0", "lambda", "t", "tau")
    growth = sympy.exp(2 * s * t / tau)
    u = mode_trajectory_nonwhite(t, s, eigenvalue, u0, 2, tau).item()
    symbols = [
        u - s * growth / (eigenvalue * (growth - 1) + s / u0),
        tau * sympy.diff(u, t) - 2 * u * (s - eigenvalue * u),
        sympy.limit(u.subs({s: 2, eigenvalue: 3, tau: 1, u0: sympy.Rational(1, 10)}), t, sympy.oo)
        - sympy.Rational(2, 3),
    ]
    apart, gaps, ratios = [], [], []
    for n_weights in (2, 3, 4):
        u_basis, v_basis = orthogonal_init((5, 5), rng), orthogonal_init((4, 4), rng)
        strengths, eigenvalues = np.array([3.0, 2.2, 1.5, 0.8]), rng.permutation([2.0, 1.5, 1.0, 0.6])
        sigma_31 = (u_basis[:, :4] * strengths) @ v_basis.T
        inputs = basis(rng, v_basis)
        sigma_11 = (inputs * eigenvalues) @ inputs.T
        sigma_11 = (sigma_11 + sigma_11.T) / 2
        turns = [v_basis, *(orthogonal_init((6, 6), rng) for _ in range(n_weights - 1)), u_basis]
        start = decoupled_weights(turns, np.full((n_weights, 4), 0.1 ** (1 / n_weights)))
        errors = []
        for rate in (2e-3, 1e-3, 5e-4):
            n_steps = round(4 / rate)
            history = train_gd(start, sigma_11, sigma_31, rate, n_steps)
            maps = u_basis.T @ end_to_end([layer[:: n_steps // 200] for layer in history]) @ v_basis
            times = 4 * np.arange(201)[:, None] / 200
            wanted = mode_trajectory_nonwhite(times, strengths, eigenvalues, 0.1, n_weights)
            apart.append(off_diagonal(maps))
            errors.append(float(np.max(np.abs(np.diagonal(maps, axis1=-2, axis2=-1) - wanted))))
        gaps.append(errors[1] / np.max(strengths / eigenvalues))
        ratios += [before / after for before, after in itertools.pairwise(errors)]
    return (
        vanishes(symbols, "solution less the paper's, its differential equation, its fixed point less s/lambda")
        & at_most(max(apart), 1e-12, "off the diagonal")
        & at_most(max(gaps), 0.01, "descent at rate 0.001 off the solution, of the largest strength, by")
        & within(min(ratios), 1.9, 2.1, "over that at half the rate, least")
        & within(max(ratios), 1.9, 2.1, "most")
    )
