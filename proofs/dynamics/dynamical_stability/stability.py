r"""Linear stability of SGD and the trace theorem (Section 3).

Gradients as columns $g_1,g_2,\dots$ of any length prove for all numbers of parameters, at few examples. For all numbers
of examples and all batch sizes the operator's own arithmetic runs on blocks $G$ and
$D=\frac1n\sum_i(g_i^\top Cg_i)\,g_ig_i^\top$, which stand for any such sums.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.ledger import Control, Evidence, at_least, at_most, claim
from proofs.properties import for_all
from proofs.statistics import covers, mean_interval
from proofs.symbolic import array, block, blocks, induction, scalar, vanishes
from refimpl.dynamics.dynamical_stability import (
    DiagonalNet,
    ReluNet,
    Sharpness,
    alignment_factor,
    critical_learning_rate,
    diagonal_net,
    diagonal_net_jacobian,
    diagonal_net_vjp,
    expected_loss_after_step,
    fisher_energies,
    gd_critical_learning_rate,
    gd_stable_but_sgd_unstable,
    linearized_sgd_step,
    necessary_stability_margin,
    second_moment_step,
    sharpness,
    stability_radius,
    sufficient_learning_rate,
    trace_bound,
    two_layer_relu,
    two_layer_relu_jacobian,
    two_layer_relu_vjp,
)
from refimpl.dynamics.dynamical_stability.experiments import UNIFORM_VARIANCE
from refimpl.dynamics.dynamical_stability.loss_stability import ExpectedLoss
from refimpl.dynamics.dynamical_stability.stability import propagate
from refimpl.oracle.specs.dynamics.dynamical_stability import gradients, gradients_and_batch
from refimpl.primitives.numbers import Array, transpose
from refimpl.primitives.traces import inner

ROUNDOFF = float(np.finfo(float).eps)
ETA, B = scalar("eta", positive=True), scalar("B", positive=True, integer=True)
ONE = np.array([[sympy.Integer(1)]], dtype=object)
SYMMETRIC_G, FOURTH, COVARIANCE = block("G", "symmetric"), block("D", "symmetric"), block("C")


def columns(n: int) -> Array:
    """Gradients of any length as rows of a Jacobian."""
    return blocks([[sympy.transpose(block(f"g{i}", "column"))] for i in range(n)])


def trace(matrix: Array) -> Any:
    return inner(ONE, matrix)[0, 0]


def of_blocks(*symbols: Any) -> list[Array]:
    return [blocks([[symbol]]) for symbol in symbols]


# --- the Hessian at interpolation ---


def difference_quotient(gradient: Callable[[Array], Array], at: Array, h: float) -> Array:
    """The Jacobian of a polynomial map of degree 3 by central differences, extrapolated: exact but for roundoff."""

    def central(step: float) -> Array:
        return np.stack([(gradient(at + step * e) - gradient(at - step * e)) / (2 * step) for e in np.eye(len(at))])

    return np.asarray((4 * central(h / 2) - central(h)) / 3)


def relu_margin(w: Array, x: Array) -> float:
    """How far the weights can move before a unit switches at an example."""
    return float(np.min(np.abs(x @ w.T) / np.linalg.norm(x, axis=-1, keepdims=True)))


@claim(
    "dynamical_stability/S1",
    title="At an interpolating minimum the Hessian is the empirical Fisher matrix",
    source="Section 2",
    statement=r"r=0\ \Rightarrow\ \nabla^2L=\tfrac1n\sum_ig_ig_i^\top=G",
    method="symbolic",
    scope="both models at 2 inputs, 2 examples (and 2 ReLU units, on the side of every kink), all weights and inputs; "
    "second differences on 20 draws of each at up to 5 inputs and 6 examples",
    control=Control("residuals of 1", residual=1),
)
def hessian_is_fisher(rng: np.random.Generator, residual: int = 0) -> Evidence:
    a, b, w, x, y = array("a", (2,)), array("b", (2,)), array("w", (2, 2)), array("x", (2, 2)), array("y", (2,))
    evidence = Evidence(())
    for name, net, model, jacobian in (
        ("diagonal", DiagonalNet(a, b), diagonal_net, diagonal_net_jacobian),
        ("ReLU", ReluNet(a, w), two_layer_relu, two_layer_relu_jacobian),
    ):
        output = model(net, x)  # type: ignore[arg-type]
        loss = ((output - y) ** 2).sum() / 4
        symbols = [symbol for leaf in net for symbol in leaf.flat]
        g = jacobian(net, x)  # type: ignore[arg-type]
        at = dict(zip(y, output - residual, strict=True))
        hessian = np.array(sympy.hessian(loss, symbols).subs(at).tolist(), dtype=object)
        evidence &= vanishes(away_from_kinks(hessian - g.T @ g / 2), f"{name}: Hessian less G")
    worst = 0.0
    for _ in range(20):
        n, d, m = (int(rng.integers(1, 6)) for _ in range(3))
        inputs = rng.standard_normal((n, d))
        diagonal = DiagonalNet(*rng.standard_normal((2, d)))
        relu = ReluNet(rng.standard_normal(m), rng.standard_normal((m, d)))
        h = min(1 / 64, relu_margin(relu.w, inputs) / 4)

        def diagonal_gradient(theta: Array, inputs: Array = inputs, net: DiagonalNet = diagonal) -> Array:
            output, pullback = diagonal_net_vjp(DiagonalNet(*theta.reshape(2, -1)), inputs)
            return np.concatenate(pullback((output - diagonal_net(net, inputs) + residual) / len(inputs))[0])

        def relu_gradient(theta: Array, inputs: Array = inputs, net: ReluNet = relu) -> Array:
            moved = ReluNet(theta[: len(net.a)], theta[len(net.a) :].reshape(net.w.shape))
            output, pullback = two_layer_relu_vjp(moved, inputs)
            to_net, _ = pullback((output - two_layer_relu(net, inputs) + residual) / len(inputs))
            return np.concatenate([to_net.a, to_net.w.reshape(-1)])

        for gradient, theta, g, step in (
            (diagonal_gradient, np.concatenate(diagonal), diagonal_net_jacobian(diagonal, inputs), 1 / 64),
            (relu_gradient, np.concatenate([relu.a, relu.w.reshape(-1)]), two_layer_relu_jacobian(relu, inputs), h),
        ):
            difference = difference_quotient(gradient, theta, step) - g.T @ g / n
            # Gradients of some tens of terms, each rounded to the size of the largest, over the step.
            size = 1 + float(np.max(np.abs(g))) ** 2
            worst = max(worst, float(np.max(np.abs(difference))) * step / (1000 * ROUNDOFF * size))
    return evidence & at_most(worst, 1, "second differences less G, over the rounding bound")


def away_from_kinks(expressions: Array) -> Array:
    """Derivatives of steps are 0 and steps are 1 or 0, except where a unit's input is 0."""

    def clean(expression: Any) -> Any:
        cleaned = sympy.sympify(expression).replace(sympy.DiracDelta, lambda *arguments: sympy.Integer(0))
        steps = sorted(cleaned.atoms(sympy.Heaviside), key=str)
        positive_parts = sorted(cleaned.atoms(sympy.Max), key=str)
        step_of = {step.args[0]: sympy.Dummy(real=True) for step in steps}
        for part in positive_parts:
            argument = next(entry for entry in part.args if entry != 0)
            step_of.setdefault(argument, sympy.Dummy(real=True))
            cleaned = cleaned.xreplace({part: step_of[argument] * argument})
        cleaned = cleaned.xreplace({step: step_of[step.args[0]] for step in steps})
        for dummy in step_of.values():  # a square of a step is that step
            cleaned = sympy.rem(sympy.expand(cleaned), dummy**2 - dummy, dummy)
        return cleaned

    return np.array([clean(entry) for entry in expressions.flat], dtype=object)


# --- the second moment ---


def without_noise(covariance: Array, jacobian: Array, learning_rate: Any, batch_size: Any = 1) -> Array:
    """What the second moment does under gradient descent."""
    fisher = transpose(jacobian) @ jacobian / jacobian.shape[0]
    both = fisher @ covariance + covariance @ fisher
    return np.asarray(covariance - learning_rate * both + learning_rate**2 * (fisher @ covariance @ fisher))


def enumerated(deviation: Array, jacobian: Array, learning_rate: Any, batch_size: int) -> Array:
    r"""$\mathbb E\,\delta\delta^\top$ after one step, over all batches."""
    n = len(jacobian)
    steps = [
        linearized_sgd_step(deviation, jacobian[list(batch)], learning_rate)[:, None]
        for batch in itertools.product(range(n), repeat=batch_size)
    ]
    return np.asarray(sum(step @ transpose(step) for step in steps) / n**batch_size)


@claim(
    "dynamical_stability/S2",
    title="The operator gives the second moment of linearised SGD exactly, and is self-adjoint",
    source="Section 3; derived for every batch size",
    statement=r"\mathbb E\,\delta_{t+1}\delta_{t+1}^\top=\mathcal T(C_t),\qquad "
    r"\langle M,\mathcal T(C)\rangle=\langle\mathcal T(M),C\rangle",
    method="symbolic",
    scope="all batches enumerated for n = 2, 3 and B = 1, 2, all numbers of parameters (columns of any length; "
    "rank-one C, of which all are sums); all n and B: by induction over independent draws; in floats on 50 draws of n "
    "to 3, B to 2",
    control=Control("without the noise of the batch", moment=without_noise),
)
def operator_is_exact(rng: np.random.Generator, moment: Callable[..., Array] = second_moment_step) -> Evidence:
    d = block("d", "column")
    deviation, covariance = np.array([d], dtype=object), blocks([[d * sympy.transpose(d)]])
    differences, asymmetries = [], []
    m, c = of_blocks(block("M", "symmetric"), block("C", "symmetric"))
    for n, batch_size in itertools.product((2, 3), (1, 2)):
        g = columns(n)
        differences.append(enumerated(deviation, g, ETA, batch_size) - moment(covariance, g, ETA, batch_size))
        asymmetries.append(inner(m, moment(c, g, ETA, batch_size)) - inner(moment(m, g, ETA, batch_size), c))
    # M_B = E S C S over the sum S of B independent g g': M_1 = D, and one draw more adds B (GCG + GCG) + D.
    g, fourth, c = of_blocks(SYMMETRIC_G, FOURTH, COVARIANCE)

    def summed(count: Any) -> Array:
        moved = propagate(c, g, fourth, ETA, count)
        return np.asarray((moved - c + ETA * (g @ c + c @ g)) * count**2 / ETA**2)

    draws = induction(
        vanishes(summed(1) - fourth, "one draw"),
        vanishes(summed(B + 1) - summed(B) - 2 * B * g @ c @ g - fourth, "one draw more"),
    )
    worst = 0.0
    for _ in range(50):
        n, p, batch_size = int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.integers(1, 3))
        jacobian, start = rng.standard_normal((n, p)), rng.standard_normal(p)
        expected = enumerated(start, jacobian, 0.3, batch_size)
        after = moment(start[:, None] * start, jacobian, 0.3, batch_size)
        worst = max(worst, float(np.max(np.abs(after - expected))) / (1 + float(np.max(np.abs(expected)))))
    return (
        vanishes(differences, "mean over all batches less T(C)")
        & vanishes(asymmetries, "not self-adjoint")
        & draws
        & at_most(worst, 1e-12, "in floats, relative")
    )


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


# --- loss stability ---


def batch_ignored(jacobian: Array, residuals: Array, learning_rate: Any, batch_size: Any) -> ExpectedLoss:
    return expected_loss_after_step(jacobian, residuals, learning_rate, 1)


@claim(
    "dynamical_stability/S8",
    title="The expected loss splits into that of gradient descent and the noise's, which bounds the Frobenius norm",
    source="Section 3 (loss stability and the Frobenius norm)",
    statement=r"\mathbb EL_{t+1}=L\big((I-\eta G)\delta_t\big)+\frac{\eta^2\mu}B\|G\|_F^2L_t,\qquad "
    r"\frac1n\sum_ig_i^\top Gg_i=\|G\|_F^2",
    method="symbolic",
    scope="all batches enumerated at n = 2, B = 1, 2 and n = 3, B = 1, all numbers of parameters (columns); all n and "
    "B: half the trace of G T(C) on blocks; in floats all batches of n = 4, B = 1, 3 on 20 draws, with the alignment "
    "factor",
    uses=["dynamical_stability/S2"],
    control=Control("the batch size ignored in the noise", split=batch_ignored),
)
def loss_splits(rng: np.random.Generator, split: Callable[..., ExpectedLoss] = expected_loss_after_step) -> Evidence:
    d = block("d", "column")
    deviation = np.array([d], dtype=object)
    differences, energies = [], []
    for n, batch_size in ((2, 1), (2, 2), (3, 1)):
        g = columns(n)
        parts = split(g, g @ deviation, ETA, batch_size)
        fisher = transpose(g) @ g / n
        expected = trace(fisher @ enumerated(deviation, g, ETA, batch_size)) / 2
        differences.append(parts.drift + parts.noise - expected)
        energies.append(fisher_energies(g).sum() / n - inner(fisher, fisher)[0, 0])
    # Of all sizes: Tr(Sigma G) = Tr(G D) - Tr(G G C G), and D holds the squared residuals r_i^2 = g_i'Cg_i.
    g, fourth, c = of_blocks(SYMMETRIC_G, FOURTH, block("C", "symmetric"))
    after = trace(g @ propagate(c, g, fourth, ETA, B)) / 2
    drift = trace(g @ propagate(c, g, g @ c @ g, ETA, 1)) / 2
    general = after - drift - ETA**2 / (2 * B) * (trace(g @ fourth) - trace(g @ g @ c @ g))
    worst, slack, outside = 0.0, np.inf, 0.0
    for _ in range(20):
        jacobian, start = rng.standard_normal((4, 3)), rng.standard_normal(3)
        residuals = jacobian @ start
        loss = float(residuals @ residuals) / 8
        square = float(sharpness(jacobian).frobenius) ** 2
        alignment = float(alignment_factor(jacobian, residuals))
        weighted = float(residuals**2 @ fisher_energies(jacobian)) / float(residuals @ residuals) / square
        ends = fisher_energies(jacobian) / square
        outside = max(outside, float(ends.min()) - weighted, weighted - float(ends.max()))
        for batch_size in (1, 3):
            moment = enumerated(start, jacobian, 0.4, batch_size)
            expected_loss = float(np.trace(jacobian.T @ jacobian / 4 @ moment)) / 2
            drift_part, noise = map(float, split(jacobian, residuals, 0.4, batch_size))
            lower = 0.4**2 * alignment / batch_size * square * loss
            worst = max(worst, abs(drift_part + noise - expected_loss) / expected_loss)
            worst = max(worst, abs(noise - lower) / expected_loss)
            slack = min(slack, (expected_loss - lower) / expected_loss)
    return (
        vanishes(differences, "split less the mean over all batches")
        & vanishes(energies, "mean of g'Gg less the squared norm")
        & vanishes(general, "all n and B")
        & at_most(worst, 1e-10, "in floats, relative")
        & at_least(slack, 0, "loss less the noise's part, relative, least")
        & at_most(outside, 1e-12, "second moment of the alignment outside the range of g'Gg")
    )
