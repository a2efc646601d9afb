r"""The exact solutions of one mode at every depth, white inputs or not (Sections 1.3 and 2, Appendix E)."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.dynamics.deep_linear.decoupling import off_diagonal
from proofs.ledger import (
    Control,
    Evidence,
    at_most,
    claim,
    within,
)
from proofs.symbolic import scalar, vanishes
from refimpl.dynamics.deep_linear import (
    decoupled_weights,
    end_to_end,
    learning_time,
    learning_time_infinite_depth,
    mode_trajectory,
    mode_trajectory_nonwhite,
    mode_velocity,
    orthogonal_init,
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
