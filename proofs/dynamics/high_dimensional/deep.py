"""Deep linear students: the closed dynamics of the product, and the same overtraining peak (H14, H15)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.dynamics.high_dimensional.setting import ROUNDOFF
from proofs.ledger import Control, Evidence, Figure, Series, at_least, at_most, claim, figure, within
from proofs.symbolic import block, blocks, induction, scalar, vanishes
from refimpl.dynamics.high_dimensional import (
    BalancedState,
    balanced_descent_step,
    balanced_layers,
    balanced_state,
    deep_linear_descent_step,
    deep_linear_flow,
    deep_linear_flow_step,
)
from refimpl.dynamics.high_dimensional.deep import balanced_step, deep_linear_velocity
from refimpl.primitives.layers import linear_vjp
from refimpl.primitives.numbers import Array, transpose
from refimpl.tasks.teacher_student import sample_linear_problems

Step = Callable[[BalancedState, Array, Array, Any], BalancedState]


def one_after_the_other(state: BalancedState, x: Array, y: Array, learning_rate: Any) -> BalancedState:
    """The scales move after the first layer has."""
    row = balanced_descent_step.unchecked(state, x, y, learning_rate).row
    return balanced_descent_step.unchecked(state._replace(row=row), x, y, learning_rate)._replace(row=row)


def as_started(state: BalancedState) -> BalancedState:
    return state


def unbalanced(state: BalancedState) -> BalancedState:
    """The same product, from a first layer twice as large and a second half as large."""
    scales = state.scales.copy()
    scales[..., 0] /= 2
    return BalancedState(2 * state.row, scales)


def matrices(state: BalancedState) -> list[Array]:
    """The layers in bases whose first vectors are the input direction and the hidden ones; the rest is blocks of 0."""
    row, scales = state
    inner = [blocks([[scale, 0], [0, 0]]) for scale in scales[:-1]]
    return [np.stack([row, 0 * row]), *inner, blocks([[scales[-1], 0]])]


def recursion_on_blocks(step: Step) -> list[Any]:
    """Full matrices after a step less the matrices of the recursion after a step, for 2 and 3 of them."""
    x, y = blocks([[block("x")], [block("X")]]), np.array([block("Y")], dtype=object)
    rate, size = scalar("eta", positive=True), scalar("q", positive=True)
    differences = []
    for n_weights in (2, 3):
        scales = np.array([scalar(f"c{index}", positive=True) for index in range(1, n_weights)], dtype=object)
        state = BalancedState(np.array([size, sympy.Integer(0)], dtype=object), scales)
        stepped = deep_linear_descent_step(matrices(state), x, y, rate)
        differences += [a - b for a, b in zip(stepped, matrices(step(state, x, y, rate)), strict=True)]
    return differences


def layer_on_blocks() -> list[Any]:
    """A hidden layer passes the one direction on, both ways, and its gradient stays in it."""
    c, forward, backward = scalar("c"), block("S"), block("B")
    output, pull = linear_vjp.unchecked(blocks([[forward, 0]]), blocks([[c, 0], [0, 0]]))
    to_x, to_layer = pull(blocks([[backward, 0]]))
    gradient = blocks([[sympy.transpose(backward) * forward, 0], [0, 0]])
    return [output - blocks([[c * forward, 0]]), to_x - blocks([[c * backward, 0]]), to_layer - gradient]


def flow_from_recursion() -> list[Any]:
    """The slope in the rate of the recursion's product at balance less the shipped velocity."""
    c, rate, first, second = (scalar(name, positive=True) for name in ("c", "eta", "g1", "g2"))
    direction = np.array([first, second], dtype=object)
    differences = []
    for n_weights in range(1, 6):
        state = BalancedState(
            np.array([c, sympy.Integer(0)], dtype=object), np.array([c] * (n_weights - 1), dtype=object)
        )
        moved = balanced_step(state, direction, rate).product() if n_weights > 1 else state.row + rate * direction
        slope = np.array([sympy.diff(entry, rate).subs(rate, 0) for entry in moved], dtype=object)
        weights = np.array([c**n_weights, sympy.Integer(0)], dtype=object)
        differences.append(slope - deep_linear_velocity(weights, direction, sympy.Integer(n_weights)))
    # Any number of them: n - 1 scales that move alike.
    n = sympy.Symbol("n", integer=True, positive=True)
    scale = c + rate * c ** (n - 2) * c * first
    moved = scale ** (n - 1) * (np.array([c, 0], dtype=object) + rate * c ** (n - 1) * direction)
    slope = np.array([sympy.diff(entry, rate).subs(rate, 0) for entry in moved], dtype=object)
    weights = np.array([c**n, sympy.Integer(0)], dtype=object)
    differences.append(slope - deep_linear_velocity(weights, direction, n))
    return differences


@claim(
    "high_dimensional/H14",
    title="A balanced deep linear network with one output is a closed dynamics of its product",
    source="Deep linear networks (the form for one output, derived)",
    statement=r"\tau\dot w=\lVert w\rVert^{2-2/n}\big[g+(n-1)\hat w(\hat w^\top g)\big],\quad "
    r"q\leftarrow q+\eta\big(\textstyle\prod c\big)g,\ c_l\leftarrow c_l+\eta(q\cdot g)\prod_{j\ne l}c_j",
    method="symbolic",
    scope="the recursion is descent on the matrices for all numbers of inputs and examples, all widths, in bases of "
    "the layers' directions: 2 and 3 of them, and any number by the step from layer to layer; the flow is its limit "
    "for any number; in numbers 4 matrices over 1000 steps, and the flow's distance halving with the step",
    control=[
        Control("a start that is not balanced", start=unbalanced),
        Control("scales that move after the first layer", step=one_after_the_other),
    ],
)
def balanced_dynamics(
    rng: np.random.Generator,
    start: Callable[[BalancedState], BalancedState] = as_started,
    step: Step = balanced_descent_step.unchecked,
) -> Evidence:
    evidence = induction(
        vanishes(recursion_on_blocks(step), "descent on 2 and 3 matrices less the recursion"),
        vanishes(layer_on_blocks(), "a layer of the form less the form"),
    ) & vanishes(flow_from_recursion(), "limit of small steps less the flow")
    problem = sample_linear_problems(1, 6, 9, 1.0, 0.5, 0.3, rng)
    x, y, initial = problem.x[0], problem.y[0], problem.initial[0]
    n_weights, widths, gaps = 4, (5, 7, 3), []
    for n_steps in (500, 1000):
        rate = 2 / n_steps
        state = start(balanced_state(initial, n_weights))
        directions = [direction / np.linalg.norm(direction) for direction in map(rng.standard_normal, widths)]
        layers, weights = balanced_layers(state, directions), initial
        for _ in range(n_steps):
            layers = deep_linear_descent_step.unchecked(layers, x, y, rate)
            state = step(state, x, y, rate)
            weights = deep_linear_flow_step.unchecked(weights, x, y, n_weights, rate)
        product = np.linalg.multi_dot(layers[::-1])[0]
        gaps.append(float(np.linalg.norm(weights - product) / np.linalg.norm(product)))
    recursion = float(np.max(np.abs(state.product() - product)) / np.max(np.abs(product)))
    # Each step rounds products of 4 matrices of at most 9 terms a sum, and training contracts.
    return (
        evidence
        & at_most(recursion, 1000 * 4 * 9 * ROUNDOFF, "recursion off descent on the matrices by")
        & at_most(gaps[1], 0.02, "flow in steps of .002 off descent on the matrices by")
        & within(gaps[0] / gaps[1], 1.7, 2.3, "that at twice the step over it")
    )


# --- the same picture ---

LOADS = (0.25, 0.5, 1.0, 2.0, 4.0)
DEPTHS = (1, 2, 3)


def trained(n_weights: int, noise_variance: float, n_draws: int, rng: np.random.Generator) -> Array:
    """Test errors, noise included, over training, (n_records, n_loads, n_draws): 4000 steps on all problems at once."""
    n_inputs = 60
    teachers, correlations, moments = [], [], []
    for load in LOADS:
        problems = sample_linear_problems(n_draws, n_inputs, round(load * n_inputs), 1.0, noise_variance, 0.0, rng)
        teachers.append(problems.teacher)
        correlations.append(problems.x @ transpose(problems.x))
        moments.append((problems.y[:, None] @ transpose(problems.x))[:, 0])
    teacher, correlation, moment = map(np.stack, (teachers, correlations, moments))
    weights = rng.standard_normal(teacher.shape)
    weights *= (0.01 if n_weights > 1 else 0) / np.linalg.norm(weights, axis=-1, keepdims=True)
    rate = 0.02 / (n_weights * n_inputs ** (1 - 1 / n_weights))
    rate = rate if n_weights > 1 else 0.02
    errors = []
    for index in range(201):
        weights = deep_linear_flow(weights, correlation, moment, n_weights, rate, 20 if index else 0)
        errors.append(((weights - teacher) ** 2).mean(axis=-1) + noise_variance)
    return np.array(errors)


@claim(
    "high_dimensional/H15",
    title="Depth keeps the picture: overtraining is worst where examples equal inputs",
    source="Deep linear networks",
    statement=r"E_g(\infty)-\min_tE_g(t)\ \text{largest at}\ \alpha=1\ \text{for}\ n=1,2,3",
    method="experiment",
    scope="60 inputs, loads .25, .5, 1, 2, 4, 12 draws each, noise of variance .5, 4000 steps from a norm of .01 (0 "
    "for one matrix); mean errors",
    uses=["high_dimensional/H14"],
    control=Control("labels without noise", noise_variance=0.0),
)
def depth_keeps_the_picture(rng: np.random.Generator, noise_variance: float = 0.5) -> Evidence:
    evidence = None
    for n_weights in DEPTHS:
        errors = trained(n_weights, noise_variance, 12, rng)
        excess = (errors[-1] - errors.min(axis=0)).mean(axis=-1)
        peak, others = excess[2], np.delete(excess, 2)
        checks = at_least(float(peak), 0.3, f"{n_weights} matrices: error gained by overtraining at load 1") & at_least(
            float(peak / max(others.max(), 1e-12)), 2, "over the most at another load"
        )
        evidence = checks if evidence is None else evidence & checks
    assert evidence is not None
    return evidence


@figure(
    "high_dimensional/F7",
    title="Deep linear students over training",
    caption="Mean test errors of 6 draws of 60 inputs at a load of 1. Deeper students start slower from small weights, "
    "and overtrain alike.",
    answers_to="the figure of deep linear networks",
)
def deep_figure(rng: np.random.Generator) -> Figure:
    steps = (20.0 * np.arange(201))[1:]
    return Figure(
        tuple(
            Series(
                f"{n} matri{'x' if n == 1 else 'ces'}", steps.tolist(), trained(n, 0.5, 6, rng)[1:, 2].mean(-1).tolist()
            )
            for n in DEPTHS
        ),
        x_label="step",
        y_label="test error $E_g$",
        x_scale="log",
    )
