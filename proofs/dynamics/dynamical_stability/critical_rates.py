"""The largest stable learning rate: the trace theorem, its bounds, simulations (Section 3)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.dynamics.dynamical_stability.stability import (
    ETA,
    FOURTH,
    ONE,
    ROUNDOFF,
    SYMMETRIC_G,
    B,
    columns,
    of_blocks,
    trace,
    without_noise,
)
from proofs.ledger import Control, Evidence, at_least, at_most, claim
from proofs.properties import for_all
from proofs.statistics import covers, mean_interval
from proofs.symbolic import block, scalar, vanishes
from refimpl.dynamics.dynamical_stability import (
    DiagonalNet,
    Sharpness,
    critical_learning_rate,
    diagonal_net,
    diagonal_net_jacobian,
    gd_critical_learning_rate,
    gd_stable_but_sgd_unstable,
    linearized_sgd_step,
    necessary_stability_margin,
    second_moment_step,
    sharpness,
    stability_radius,
    sufficient_learning_rate,
    trace_bound,
)
from refimpl.dynamics.dynamical_stability.experiments import UNIFORM_VARIANCE
from refimpl.dynamics.dynamical_stability.stability import propagate
from refimpl.oracle.specs.dynamics.dynamical_stability import gradients, gradients_and_batch
from refimpl.primitives.numbers import Array, transpose
from refimpl.primitives.traces import inner

# --- the trace theorem ---


def convexity() -> Evidence:
    """n times the sum of squares is at least the square of the sum: it grows by a sum of squares with every term."""
    n, total, squares, c = (scalar(name) for name in ("n", "s", "q", "c"))
    grown = (n + 1) * (squares + c**2) - (total + c) ** 2 - (n * squares - total**2)
    return vanishes(grown - (squares - 2 * c * total + n * c**2), "n(sum of squares) - (sum)^2, one term more")


@claim(
    "dynamical_stability/S3",
    title="Where SGD with single examples is linearly stable, the trace of the Hessian is at most 2 over the rate",
    source="abstract; Section 3, main theorem",
    statement=r"\rho(\mathcal T)\le1,\ B=1\ \Rightarrow\ \operatorname{Tr}G\le\frac{\sum_i\|g_i\|^4}{\sum_i\|g_i\|^2}"
    r"\le\frac2\eta",
    method="symbolic",
    scope="all n, p and B: a self-adjoint operator of radius at most 1 has <I, T(I) - I> <= 0, which is the stability "
    "margin (columns of any length at n = 2, 3; blocks for all n), and Jensen's inequality by induction; the largest "
    "stable rate of 200 draws of up to 5 gradients, among them of equal norms, where it is attained",
    uses=["dynamical_stability/S1", "dynamical_stability/S2"],
    control=Control("the largest rate at which gradient descent is stable", critical=gd_critical_learning_rate),
)
def trace_theorem(rng: np.random.Generator, critical: Callable[[Array], Array] = critical_learning_rate) -> Evidence:
    differences = []
    for n in (2, 3):
        g = columns(n)
        moved = trace(second_moment_step(ONE, g, ETA, B) - ONE)
        differences.append(moved + ETA**2 * necessary_stability_margin(g, ETA, B))
    g, fourth = of_blocks(SYMMETRIC_G, FOURTH)
    form = trace(g @ g) + (trace(fourth) - trace(g @ g)) / B
    general = trace(propagate(ONE, g, fourth, ETA, B) - ONE) - ETA**2 * form + 2 * ETA * trace(g)
    seen: list[float] = []

    def product(jacobian: Array) -> float:
        seen.append(float(critical(jacobian) * sharpness(jacobian).trace))
        return seen[-1]

    # The largest eigenvalue of a matrix of at most 6 rows, from sums of at most 36 terms of one sign.
    bound = 2 * (1 + 1000 * ROUNDOFF)
    return (
        vanishes(differences, "<I, T(I) - I> and the margin")
        & vanishes(general, "<I, T(I) - I>, all n")
        & convexity()
        & for_all(rng, gradients(), product, bound, examples=200, quantity="largest stable rate times the trace, most")
        & at_least(max(seen), 2 * (1 - 1000 * ROUNDOFF), "attained")
    )


def mean_for_longest(jacobian: Array, batch_size: int) -> Array:
    largest = sharpness(jacobian)
    return 2 / (largest.operator_norm + (largest.trace - largest.operator_norm) / batch_size)


def at_one(jacobian: Array, batch_size: int) -> Array:
    return trace_bound(jacobian, 1)


@claim(
    "dynamical_stability/S4",
    title="The largest stable learning rate lies between two bounds, for every batch size",
    source="Section 3; derived for every batch size",
    statement=r"\frac2{(1-\frac1B)\lambda_{\max}+\frac1B\max\|g_i\|^2}\le\eta^*\le"
    r"\frac{2\operatorname{Tr}G}{(1-\frac1B)\|G\|_F^2+\frac1B\frac1n\sum\|g_i\|^4}",
    method="symbolic",
    scope="above as the trace theorem; below: the squares that are left over, for one gradient of any length against "
    "any symmetric C, and for any pair of eigenvalues; both on 300 draws, B in {1, 2, 3, 16}, and how near they come",
    uses=["dynamical_stability/S3"],
    control=[
        Control("the mean squared norm in place of the largest", below=mean_for_longest),
        Control("the upper bound of B = 1 at every B", above=at_one),
    ],
)
def two_bounds(
    rng: np.random.Generator,
    below: Callable[..., Array] = sufficient_learning_rate,
    above: Callable[..., Array] = trace_bound,
) -> Evidence:
    # |g|^2 |Cg|^2 - (g'Cg)^2 is a sum of squares, that of the entries of g v' - v g' at v = Cg.
    g, c = block("g", "column"), block("C", "symmetric")
    v = c * g
    wedge, gg, vv, gv = of_blocks(
        g * sympy.transpose(v) - v * sympy.transpose(g),
        sympy.transpose(g) * g,
        sympy.transpose(v) * v,
        sympy.transpose(g) * v,
    )
    cauchy = inner(wedge, wedge) / 2 - (trace(gg) * trace(vv) - trace(gv) ** 2)
    one, other, largest = (scalar(name, nonnegative=True) for name in ("a", "b", "l"))
    product = largest * (one + other) / 2 - one * other - (one * (largest - other) + other * (largest - one)) / 2
    lower: list[float] = []
    upper: list[float] = []

    def excess(case: dict[str, Any]) -> float:
        rate = float(critical_learning_rate(**case))
        lower.append(float(below(**case)) / rate)
        upper.append(rate / float(above(**case)))
        return max(lower[-1], upper[-1])

    cases = for_all(
        rng,
        gradients_and_batch(),
        excess,
        1 + 1000 * ROUNDOFF,
        examples=300,
        quantity="lower bound over the largest stable rate, or that over the upper bound, most",
    )
    near = min(max(lower), max(upper))
    return (
        vanishes(cauchy, "Cauchy-Schwarz")
        & vanishes(product, "a pair of eigenvalues")
        & cases
        & at_least(near, 1 - 1000 * ROUNDOFF, "both attained")
    )


# --- simulation ---


def simulated_energy(jacobian: Array, learning_rate: float, n_steps: int, runs: int, rng: np.random.Generator) -> Array:
    r"""$\|\delta_t\|^2$ of runs of linearised SGD from Gaussian starts, averaged in 100 groups."""
    deviation = rng.standard_normal((runs, jacobian.shape[1]))
    for _ in range(n_steps):
        batch = jacobian[rng.integers(len(jacobian), size=(runs, 1))]
        deviation = linearized_sgd_step(deviation, batch, learning_rate)
    return np.asarray((deviation**2).sum(axis=-1).reshape(100, -1).mean(axis=1))


def exact_energy(moment: Callable[..., Array], jacobian: Array, learning_rate: float, n_steps: int) -> float:
    covariance = np.eye(jacobian.shape[1])
    for _ in range(n_steps):
        covariance = moment(covariance, jacobian, learning_rate, 1)
    return float(np.trace(covariance))


@claim(
    "dynamical_stability/S5",
    title="Below the critical rate the mean square of simulated SGD decays, above it blows up at the predicted rate",
    source="Section 3 (linear stability)",
    statement=r"\eta<\eta^*:\ \mathbb E\|\delta_t\|^2\to0;\qquad\eta>\eta^*:\ "
    r"\mathbb E\|\delta_t\|^2\ge\rho^t,\ \rho>1",
    method="statistical",
    scope="3 draws of 4 Gaussian gradients of 3 parameters, 0.8, 0.95 and 1.2 times the critical rate: 200000 runs of "
    "3 steps in 100 groups against the operator (later moments are too heavy-tailed to be averaged), and 150 steps of "
    "the operator; a single run may converge all the same",
    uses=["dynamical_stability/S2"],
    control=Control("without the noise of the batch", moment=without_noise),
)
def blow_up(rng: np.random.Generator, moment: Callable[..., Array] = second_moment_step) -> Evidence:
    evidence = Evidence(())
    for draw in range(3):
        jacobian = rng.standard_normal((4, 3))
        critical = float(critical_learning_rate(jacobian))
        for factor in (0.8, 0.95, 1.2):
            rate, name = factor * critical, f"draw {draw + 1}, {factor} of the critical rate:"
            simulated = mean_interval(simulated_energy(jacobian, rate, 3, 200_000, rng))
            evidence &= covers(simulated, exact_energy(moment, jacobian, rate, 3), f"{name} after 3 steps")
            energy = exact_energy(moment, jacobian, rate, 150)
            radius = float(stability_radius(jacobian, rate))
            # <I, T^t I> is at most rho^t <I, I>, and at least rho^t for the trace of a positive matrix is at least
            # its norm.
            if factor < 1:
                evidence &= at_most(energy, 3 * radius**150 * (1 + 1e-9), f"{name} after 150 steps")
                evidence &= at_most(radius, 1, f"{name} radius")
            else:
                evidence &= at_least(energy, radius**150 * (1 - 1e-9), f"{name} after 150 steps")
                evidence &= at_least(radius, 1 + 1e-6, f"{name} radius")
    return evidence


# --- gradient descent is not enough ---


def spread(rng: np.random.Generator) -> tuple[DiagonalNet, Array]:
    net, _, x = gd_stable_but_sgd_unstable(6, 40, 3.0, rng)
    return net, x


def sparse(rng: np.random.Generator) -> tuple[DiagonalNet, Array]:
    _, net, x = gd_stable_but_sgd_unstable(6, 40, 3.0, rng)
    return net, x


@claim(
    "dynamical_stability/S6",
    title="There are minima at which gradient descent is stable and SGD is not, and they generalise badly",
    source="abstract; Section 4",
    statement=r"\eta\lambda_{\max}<2,\quad\eta\operatorname{Tr}G>2,\quad\rho(\mathcal T)>1",
    method="property",
    scope="20 draws of 6 uniform inputs of dimension 40: a balanced diagonal network that interpolates, the sparse "
    "target plus noise in the inputs' null space, at 1.6 over the largest eigenvalue; its population error beside that "
    "of the sparse network, 0, which is stable at the same rate",
    uses=["dynamical_stability/S3"],
    control=Control("the sparse network itself", minimum=sparse),
)
def gd_stability_is_too_weak(
    rng: np.random.Generator, minimum: Callable[[np.random.Generator], tuple[DiagonalNet, Array]] = spread
) -> Evidence:
    residuals, traces, radii, errors, sparse_radii, sparse_traces = [], [], [], [], [], []
    for seed in rng.integers(2**32, size=20):
        net, x = minimum(np.random.default_rng(seed))
        _, fine, _ = gd_stable_but_sgd_unstable(6, 40, 3.0, np.random.default_rng(seed))
        jacobian, sparse_jacobian = diagonal_net_jacobian(net, x), diagonal_net_jacobian(fine, x)
        sizes: Sharpness = sharpness(jacobian)
        rate = float(1.6 / sizes.operator_norm)
        target = fine.a * fine.b
        scale = float(np.abs(x).sum(axis=-1).max() * np.abs(net.a * net.b).max())
        residuals.append(float(np.max(np.abs(diagonal_net(net, x) - x @ target))) / scale)
        traces.append(rate * float(sizes.trace))
        radii.append(float(stability_radius(jacobian, rate)))
        errors.append(float(((net.a * net.b - target) ** 2).sum()) * UNIFORM_VARIANCE)
        sparse_traces.append(rate * float(sharpness(sparse_jacobian).trace))
        sparse_radii.append(float(stability_radius(sparse_jacobian, rate)))
    return (
        # The pseudo-inverse of a 6 x 40 matrix of condition number below 10.
        at_most(max(residuals), 1000 * ROUNDOFF, "residual, relative")
        & at_least(min(traces), 2, "rate times trace, least")
        & at_least(min(radii), 1, "radius, least")
        & at_least(min(errors), 20, "population error, least")
        & at_most(max(sparse_traces), 2, "the sparse network's rate times trace, most")
        & at_most(max(sparse_radii), 1, "its radius, most")
    )


def equal_norms(rng: np.random.Generator, n: int, p: int) -> Array:
    jacobian = rng.standard_normal((n, p))
    return np.asarray(jacobian / np.linalg.norm(jacobian, axis=-1, keepdims=True))


def unequal_norms(rng: np.random.Generator, n: int, p: int) -> Array:
    return equal_norms(rng, n, p) * np.linspace(1, 2, n)[:, None]


@claim(
    "dynamical_stability/S7",
    title="For gradients of equal norm the trace condition is sufficient too",
    source="Section 3; derived",
    statement=r"\|g_i\|^2=c,\ B=1:\quad\mathcal T(I)=I-\eta(2-\eta c)\,G,\qquad\eta^*=\frac2{\operatorname{Tr}G}",
    method="symbolic",
    scope="all n and p (with D = cG; that it is so, for columns of any length at n = 2, 3): the identity is then "
    "Perron's eigenvector of the generalised problem; the largest stable rate of 100 draws of up to 8 gradients of up "
    "to 6 parameters",
    uses=["dynamical_stability/S2", "dynamical_stability/S3"],
    control=Control("norms from 1 to 2", draw=unequal_norms),
)
def equal_norms_suffice(rng: np.random.Generator, draw: Callable[..., Array] = equal_norms) -> Evidence:
    c = scalar("c", positive=True)
    differences = []
    for n in (2, 3):
        g = columns(n)
        fisher = transpose(g) @ g / n
        moved = np.array([[sympy.expand(second_moment_step(ONE, g, ETA, 1)[0, 0])]], dtype=object)
        for i in range(n):
            column = block(f"g{i}", "column")
            # In every product g_i g_i' g_i g_i' the inner two make the number c.
            word = column * sympy.transpose(column)
            moved = np.array([[moved[0, 0].subs(word * word, c * word)]], dtype=object)
        differences.append(moved - ONE + ETA * (2 - ETA * c) * fisher)
    (g,) = of_blocks(SYMMETRIC_G)
    general = propagate(ONE, g, c * g, ETA, 1) - ONE + ETA * (2 - ETA * c) * g
    worst = 0.0
    for _ in range(100):
        jacobian = draw(rng, int(rng.integers(2, 9)), int(rng.integers(1, 7)))
        worst = max(worst, abs(float(critical_learning_rate(jacobian) * sharpness(jacobian).trace) / 2 - 1))
    return (
        vanishes([expand(one) for one in differences], "T(I), columns")
        & vanishes(general, "T(I), all n")
        & at_most(worst, 1000 * ROUNDOFF, "largest stable rate times half the trace, less 1")
    )


def expand(matrix: Array) -> Array:
    return np.array([[sympy.expand(matrix[0, 0])]], dtype=object)
