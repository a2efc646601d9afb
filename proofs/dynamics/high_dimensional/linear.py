"""The linear student, the law of its eigenvalues, and the subspace that never moves (H1, H2, H12)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import sympy

from proofs.dynamics.high_dimensional.setting import ROUNDOFF, VARIANCES
from proofs.ledger import Control, Evidence, Figure, Series, at_most, claim, equal, figure, within
from proofs.symbolic import array, induction, scalar, vanishes
from refimpl.dynamics.high_dimensional import (
    eigenvalue_average,
    eigenvalue_density,
    eigenvalue_edges,
    eigenvalue_resolvent,
    frozen_projector,
    gradient_descent_weights,
    gradient_flow_weights,
    input_eigenvalues,
    largest_learning_rate,
)
from refimpl.dynamics.high_dimensional.linear import descent_filter, flow_filter
from refimpl.primitives.least_squares import gradient_descent
from refimpl.primitives.marchenko_pastur import marchenko_pastur_quadrature
from refimpl.primitives.numbers import Array
from refimpl.tasks.teacher_student import LinearProblems, sample_linear_problems


def steps_taken(problems: LinearProblems, rate: float, n_steps: int, penalty: float = 0) -> Array:
    """Gradient descent itself, step by step."""
    return gradient_descent(np.swapaxes(problems.x, -1, -2), problems.y, n_steps, rate, problems.initial, penalty)


def exponential_filter(x: Array, y: Array, initial: Array, rate: float, n_steps: int) -> Array:
    """The flow's filter in place of the steps'."""
    return gradient_flow_weights(x, y, initial, rate * n_steps)


@claim(
    "high_dimensional/H1",
    title="Gradient flow and gradient descent filter each mode, in closed form",
    source="Section 2, the solution of the dynamics",
    statement=r"z_i(t)-z_i(0)=(1-e^{-\lambda_it/\tau})\,\tfrac{r_i}{s_i},\qquad "
    r"z_i^{(k)}-z_i(0)=(1-(1-\eta\lambda_i)^k)\,\tfrac{r_i}{s_i}",
    method="symbolic",
    scope="the filters solve their equation and their recursion for every eigenvalue, time and number of steps; the "
    "weights are those of 4000 steps of descent, 10 problems each of 40 inputs and 20, 40, 80 examples; their distance "
    "from the flow halves with the step",
    control=Control("the exponential in place of the power of the steps", closed_form=exponential_filter),
)
def closed_form_solution(
    rng: np.random.Generator, closed_form: Callable[..., Array] = gradient_descent_weights
) -> Evidence:
    mode, time, tau, rate = (array(name, (1,), positive=True) for name in ("l", "t", "tau", "eta"))
    k = sympy.Symbol("k", integer=True, nonnegative=True)
    learned = flow_filter(mode, time, tau)[0]
    evidence = vanishes(
        [
            sympy.diff(learned, time[0]) - mode[0] / tau[0] * (1 - learned),
            flow_filter(mode, 0 * time, tau)[0],
        ],
        "flow's filter in its equation",
    )
    before, after = (descent_filter(mode, rate[0], steps)[0] for steps in (k, k + 1))
    evidence &= induction(
        vanishes(descent_filter(mode, rate[0], 0)[0], "descent's filter"),
        vanishes(after - before - rate[0] * mode[0] * (1 - before), "descent's filter in its recursion"),
    )
    worst, ratios = 0.0, []
    n_inputs, n_steps = 40, 4000
    for n_examples in (20, 40, 80):
        problems = sample_linear_problems(10, n_inputs, n_examples, *VARIANCES, rng)
        step = float(largest_learning_rate(problems.x).min()) / 2
        x, y, initial = problems.x, problems.y, problems.initial
        taken = steps_taken(problems, step, n_steps)
        worst = max(worst, float(np.max(np.abs(closed_form(x, y, initial, step, n_steps) - taken))))
        worst /= float(np.max(np.abs(taken)))
        gaps = [
            np.linalg.norm(closed_form(x, y, initial, eta, round(2 / eta)) - gradient_flow_weights(x, y, initial, 2.0))
            for eta in (0.01, 0.005)
        ]
        ratios.append(float(gaps[0] / gaps[1]) if gaps[1] else np.nan)
    # A step rounds sums of N and of P terms and expands nothing, so 4000 of them add their errors at most.
    bound = n_steps * (n_inputs + 80) * ROUNDOFF
    return (
        evidence
        & at_most(worst, bound, "closed form off 4000 steps by")
        & within(min(ratios), 1.95, 2.05, "gap to the flow at a step over that at half the step, least")
        & within(max(ratios), 1.95, 2.05, "largest")
    )


# --- the law of the eigenvalues ---

LOADS = (0.3, 0.7, 1.4, 3.0)


def inputs_of_variance_over_examples(n_inputs: int, n_examples: int, rng: np.random.Generator) -> Array:
    return rng.standard_normal((n_inputs, n_examples)) / n_examples**0.5


def paper_inputs(n_inputs: int, n_examples: int, rng: np.random.Generator) -> Array:
    return sample_linear_problems(1, n_inputs, n_examples, 0, 0, 0, rng).x[0]


def other_root(shift: Array, load: Any) -> Array:
    """The root of the quadratic equation that is negative."""
    return np.asanyarray(-1 / (shift * eigenvalue_resolvent(shift, load)))


def resolved_mode(shift: float, eigenvalues: Array) -> Array:
    return 1 / (eigenvalues + shift)


@claim(
    "high_dimensional/H2",
    title="The eigenvalues follow the Marchenko-Pastur law with mean equal to the load",
    source="Section 2",
    statement=r"\gamma m^2+(\gamma+\alpha-1)m-1=0,\quad\textstyle\int\rho=1,\ \int\lambda\rho=\alpha,\ "
    r"\int_{\lambda>0}\rho/\lambda=\tfrac\alpha{1-\alpha}\ \text{or}\ \tfrac1{\alpha-1}",
    method="symbolic",
    scope="the resolvent's equation and, by its expansions, the moments, for every shift and load; the density's "
    "integrals at loads .3, .7, 1.4, 3; the spectra of 400 sampled inputs at those loads",
    control=[
        Control("inputs of variance 1/P", inputs=inputs_of_variance_over_examples),
        Control("the other root", resolvent=other_root),
    ],
)
def law_of_eigenvalues(
    rng: np.random.Generator,
    inputs: Callable[[int, int, np.random.Generator], Array] = paper_inputs,
    resolvent: Callable[[Array, Any], Array] = eigenvalue_resolvent,
) -> Evidence:
    gamma, alpha, excess = (scalar(name, positive=True) for name in ("gamma", "alpha", "a"))
    m = resolvent(np.asarray(gamma), alpha).item()
    below = resolvent(np.asarray(gamma), excess / (1 + excess)).item()
    above = resolvent(np.asarray(gamma), 1 + excess).item()
    # In one over gamma the resolvent is the moments' generating function, at 0 it is the inverse moment's.
    u = scalar("u", positive=True)
    moments = sympy.series(m.subs(gamma, 1 / u), u, 0, 3).removeO()
    evidence = vanishes(gamma * m**2 + (gamma + alpha - 1) * m - 1, "equation of the resolvent") & vanishes(
        [
            moments - u + alpha * u**2,
            sympy.limit(sympy.simplify(below - 1 / (1 + excess) / gamma), gamma, 0, "+") - excess,
            sympy.limit(above, gamma, 0, "+") - 1 / excess,
        ],
        "mass, mean and inverse moments",
    )
    off, distances, largest = [], [], 0.0
    shifts = np.array([0.01, 0.1, 1.0, 30.0])
    for load in LOADS:
        inverse = load / (1 - load) if load < 1 else 1 / (load - 1)
        off += [
            eigenvalue_average(np.ones_like, load) - 1,
            eigenvalue_average(lambda e: e, load) / load - 1,
            eigenvalue_average(lambda e: 1 / e, load, include_zero=False) / inverse - 1,
            *(
                eigenvalue_average(partial(resolved_mode, shift), load) * shift - shift * resolved
                for shift, resolved in zip(shifts, resolvent(shifts, load), strict=True)
            ),
        ]
        low, high = eigenvalue_edges(load)
        angle = (np.arange(4000) + 0.5) * np.pi / 4000
        points = (low + high) / 2 - (high - low) / 2 * np.cos(angle)
        total = np.mean(eigenvalue_density(points, load) * np.sin(angle)) * (high - low) / 2 * np.pi
        off.append(total / min(1, load) - 1)
        found = input_eigenvalues(inputs(400, round(400 * load), rng))
        nodes, weights, at_zero = marchenko_pastur_quadrature(1 / load, load, 4000)
        expected = np.searchsorted(nodes, found[found > 0])
        cumulative = at_zero + np.concatenate([[0], np.cumsum(weights)])[expected]
        ranks = (np.arange(400) + 0.5)[found > 0] / 400
        distances.append(float(np.max(np.abs(cumulative - ranks))))
        roots = 400**0.5, round(400 * load) ** 0.5
        fluctuation = sum(roots) * (1 / roots[0] + 1 / roots[1]) ** (1 / 3) / 400
        largest = max(largest, abs(float(found.max()) - high) / fluctuation)
    # 400 nodes converge like exp(-400 |ln alpha|), the worst exp(-134); sums of 400 terms round by 400 units at most.
    # Eigenvalues repel: their number below a point is off by less than 1, with Gaussian tails, and by about ln N / 2 at
    # the worst of N points, where N independent numbers would be off by N^1/2. The largest one follows the law of Tracy
    # and Widom at Johnstone's scale, which has less than 10^-7 beyond 9.
    return (
        evidence
        & at_most(float(np.max(np.abs(off))), 1000 * ROUNDOFF, "integrals of the density off by")
        & at_most(max(distances), 2 * np.log(400) / 400, "sampled spectra off the law by (Kolmogorov-Smirnov)")
        & at_most(largest, 9, "largest eigenvalue off its edge by, over its scale")
    )


@figure(
    "high_dimensional/F1",
    title="Eigenvalues of the input correlation and the Marchenko-Pastur law",
    caption="Histograms of the eigenvalues, without zeros, of one sample of 1000 inputs beside the density. At a load "
    "of 1 it reaches down to 0; on both sides a gap opens.",
    answers_to="the figure of the eigenvalue distribution",
)
def spectrum_figure(rng: np.random.Generator) -> Figure:
    parts = []
    for load in (0.5, 1.0, 2.0):
        found = input_eigenvalues(paper_inputs(1000, round(1000 * load), rng))
        low, high = eigenvalue_edges(load)
        bins = np.linspace(low, high, 41)
        counts, _ = np.histogram(found[found > 0], bins)
        centres = (bins[1:] + bins[:-1]) / 2
        parts.append(
            Series(f"1000 inputs, load {load:g}", centres.tolist(), (counts / 1000 / np.diff(bins)).tolist(), "points")
        )
        grid = np.linspace(low, high, 400)[1:-1] if load == 1 else np.linspace(low, high, 400)
        grid = grid[eigenvalue_density(grid, load) < 1.2]
        parts.append(Series(f"law, load {load:g}", grid.tolist(), eigenvalue_density(grid, load).tolist()))
    return Figure(tuple(parts), x_label=r"eigenvalue $\lambda$", y_label=r"density $\rho_\alpha$")


# --- the frozen subspace ---


@claim(
    "high_dimensional/H12",
    title="In directions without data the weights never move",
    source="The frozen subspace",
    statement=r"\Pi w(t)=\Pi w(0)\ \text{for the projection on}\ \ker X^\top,\quad\dim\ker X^\top=\max(0,N-P)",
    method="property",
    scope="100 steps of descent and the flow at times up to 10^6, 10 problems each of 120 inputs and 60, 120, 180 "
    "examples",
    control=Control("a penalty on the norm of the weights", penalty=0.1),
)
def frozen_subspace(rng: np.random.Generator, penalty: float = 0) -> Evidence:
    drift, dimensions = 0.0, []
    for n_examples in (60, 120, 180):
        problems = sample_linear_problems(10, 120, n_examples, *VARIANCES, rng)
        projector = frozen_projector(problems.x)
        dimensions.append(sorted({round(float(one), 9) for one in np.trace(projector, axis1=-2, axis2=-1)}))
        rate = float(largest_learning_rate(problems.x).min()) / 2
        reached = np.concatenate(
            [
                steps_taken(problems, rate, 100, penalty)[None],
                gradient_flow_weights(problems.x, problems.y, problems.initial, np.array([1.0, 100.0, 1e6])),
            ]
        )
        moved = ((reached - problems.initial)[..., None, :] @ projector)[..., 0, :]
        drift = max(drift, float(np.max(np.linalg.norm(moved, axis=-1) / np.linalg.norm(reached, axis=-1))))
    # Each of 100 steps adds a product of two sums of at most 180 terms, rounded, of weights of this norm.
    return at_most(drift, 100 * 2 * 180 * ROUNDOFF, "drift over the norm") & equal(
        dimensions, [[60.0], [0.0], [0.0]], "dimensions"
    )
