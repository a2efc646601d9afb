r"""The network's gradients, and what its flow conserves (Section 1, Eq. 13)."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.ledger import Control, Evidence, at_most, claim, within
from proofs.properties import for_all
from proofs.symbolic import block, blocks, scalar, vanishes
from refimpl.dynamics.deep_linear import (
    end_to_end,
    gradient_flow,
    gradients,
    loss,
    train_gd,
)
from refimpl.primitives.numbers import Array, transpose
from refimpl.primitives.traces import inner

Gradients = Callable[..., list[Array]]
Case = tuple[list[Array], Array, Array]
ONE = blocks([[1]])
SEEDS = st.integers(0, 2**32 - 1)


def one_block(symbol: Any) -> Array:
    return blocks([[symbol]])


def block_network(depth: int) -> tuple[list[Array], list[Array], Array, Array]:
    """Weights, a direction, and the correlations, each a matrix of any size."""
    weights = [one_block(block(f"W{layer}")) for layer in range(1, depth + 1)]
    direction = [one_block(block(f"V{layer}")) for layer in range(1, depth + 1)]
    return weights, direction, one_block(block("S", "symmetric")), one_block(block("M"))


def random_problem(rng: np.random.Generator, widths: Sequence[int]) -> Case:
    """Weights of size about 1, and correlations of random inputs and outputs."""
    weights = [rng.standard_normal((n, m)) / np.sqrt(m) for m, n in itertools.pairwise(widths)]
    x, y = rng.standard_normal((widths[0], 20)), rng.standard_normal((widths[-1], 20))
    return weights, x @ x.T / 20, y @ x.T / 20


# --- gradients ---


def as_if_white(weights: Any, sigma_11: Array, sigma_31: Array) -> list[Array]:
    return gradients(weights, np.eye(len(sigma_11), dtype=sigma_11.dtype), sigma_31)


def of_the_whole_square(weights: Any, sigma_11: Array, sigma_31: Array) -> list[Array]:
    return [2 * one for one in gradients(weights, sigma_11, sigma_31)]


@claim(
    "deep_linear/K1",
    title="The learning rule descends along the gradient of half the summed squared error",
    source="Eq. 1, 2 and 13",
    statement=r"\frac{\partial}{\partial W^l}\tfrac12\sum_\mu\lVert y^\mu-W^n\cdots W^1x^\mu\rVert^2="
    r"-(W^n\cdots W^{l+1})^\top\big[\Sigma^{31}-W^n\cdots W^1\,\Sigma^{11}\big](W^{l-1}\cdots W^1)^\top",
    method="symbolic",
    scope="all sizes at depths 1 to 3; a layer of a deeper network, to depth 6, sees only the products before and "
    "after it; 40 networks of up to 5 matrices against central differences in longdouble",
    control=[
        Control("the inputs' correlation forgotten", gradients=as_if_white),
        Control("twice the gradient, of the error without its half", gradients=of_the_whole_square),
    ],
)
def gradients_are_derivatives(rng: np.random.Generator, gradients: Gradients = gradients) -> Evidence:
    step = scalar("epsilon")
    differences: list[Any] = []
    for depth in (1, 2, 3):
        weights, direction, sigma_11, sigma_31 = block_network(depth)
        moved = [w + step * v for w, v in zip(weights, direction, strict=True)]
        slope = sympy.diff(loss(moved, sigma_11, sigma_31, 0).item(), step).subs(step, 0)
        slopes = gradients(weights, sigma_11, sigma_31)
        differences.append(slope - sum(inner(g, v).item() for g, v in zip(slopes, direction, strict=True)))
    collapsed: list[Any] = []
    for depth in (4, 5, 6):
        weights, _, sigma_11, sigma_31 = block_network(depth)
        slopes = gradients(weights, sigma_11, sigma_31)
        for layer in range(depth):
            parts = [weights[:layer], [weights[layer]], weights[layer + 1 :]]
            product = gradients([end_to_end(part) for part in parts if part], sigma_11, sigma_31)
            collapsed.append(slopes[layer] - product[1 if layer else 0])

    def error(seed: int) -> float:
        rng = np.random.default_rng(seed)
        widths = rng.integers(1, 7, rng.integers(2, 7)).tolist()
        weights, sigma_11, sigma_31 = random_problem(rng, widths)
        direction = [rng.standard_normal(w.shape) for w in weights]
        long_11, long_31 = (np.asarray(x, np.longdouble) for x in (sigma_11, sigma_31))
        # A polynomial of degree at most 10: 1e-10 of truncation, 1e-14 of roundoff.
        h = np.longdouble(1e-5)
        ahead, behind = (
            loss([w + sign * h * v for w, v in zip(weights, direction, strict=True)], long_11, long_31, 0)
            for sign in (1, -1)
        )
        terms = [g * v for g, v in zip(gradients(weights, sigma_11, sigma_31), direction, strict=True)]
        size = sum(np.abs(term).sum() for term in terms) + 1e-3
        return float(abs((ahead - behind) / (2 * h) - sum(term.sum() for term in terms)) / size)

    return (
        vanishes(differences, "derivative of the loss less that of the code")
        & vanishes(collapsed, "a layer's gradient less that between two products")
        & for_all(rng, SEEDS, error, 1e-6, 40, "off central differences by")
    )


# --- what the flow conserves ---


def second_layer_twice_as_fast(weights: Any, sigma_11: Array, sigma_31: Array) -> list[Array]:
    slopes = gradients(weights, sigma_11, sigma_31)
    return [slopes[0], 2 * slopes[1], *slopes[2:]]


def imbalances(weights: Sequence[Array]) -> list[Array]:
    """$W^lW^{l\\top}-W^{l+1\\top}W^{l+1}$ of neighbours."""
    return [before @ transpose(before) - transpose(after) @ after for before, after in itertools.pairwise(weights)]


def largest_change(history: Sequence[Array]) -> float:
    """The largest change of an imbalance from the first weights to the last."""
    ends = [imbalances([layer[end] for layer in history]) for end in (0, -1)]
    return max(float(np.max(np.abs(last - first))) for first, last in zip(*ends, strict=True))


@claim(
    "deep_linear/K3",
    title="The flow conserves what each layer has more than the next; descent changes it at second order in its step",
    source="Section 1.3 (a^2 - b^2; matrices derived)",
    statement=r"\frac{d}{dt}\big(W^lW^{l\top}-W^{l+1\top}W^{l+1}\big)=0,\qquad\Delta\big(W^lW^{l\top}-W^{l+1\top}W^{l+1}"
    r"\big)=\lambda^2\big(G_lG_l^\top-G_{l+1}^\top G_{l+1}\big)",
    method="symbolic",
    scope="all sizes, any correlations, depths 2 to 5; the flow and descent to one time at rates 0.004, 0.002, 0.001 "
    "on 3 random networks of widths 4, 3, 5, 2",
    uses=["deep_linear/K1"],
    control=Control("one layer learns twice as fast", gradients=second_layer_twice_as_fast),
)
def imbalance_is_conserved(rng: np.random.Generator, gradients: Gradients = gradients) -> Evidence:
    rate = scalar("lambda", positive=True)
    rates_of_change, per_step = [], []
    for depth in (2, 3, 4, 5):
        weights, _, sigma_11, sigma_31 = block_network(depth)
        slopes = gradients(weights, sigma_11, sigma_31)
        for layer in range(depth - 1):
            before, after = weights[layer : layer + 2]
            g, h = slopes[layer : layer + 2]
            products = (g @ transpose(before), transpose(h) @ after)
            rates_of_change.append(sum(p + transpose(p) for p in products[:1]) - products[1] - transpose(products[1]))
        if depth < 4:
            stepped = [w - rate * g for w, g in zip(weights, slopes, strict=True)]
            squares = [g @ transpose(g) - transpose(h) @ h for g, h in itertools.pairwise(slopes)]
            for old, new, square in zip(imbalances(weights), imbalances(stepped), squares, strict=True):
                per_step.append(new - old - rate**2 * square)
    drifts, ratios = [], []
    for _ in range(3):
        problem = random_problem(rng, (4, 3, 5, 2))
        drifts.append(largest_change(gradient_flow(*problem, np.array([0.0, 4.0]))))
        found = [largest_change(train_gd(*problem, step, round(4 / step))) for step in (0.004, 0.002, 0.001)]
        ratios += [found[0] / found[1], found[1] / found[2]]
    # The integrator keeps 12 digits a step of some hundred; halving a first-order error halves it, up to its own order.
    return (
        vanishes(rates_of_change, "rate of change")
        & vanishes(per_step, "change in a step less the squares of gradients")
        & at_most(max(drifts), 1e-9, "drift along the flow")
        & within(min(ratios), 1.8, 2.2, "descent's drift over that at half the rate, least")
        & within(max(ratios), 1.8, 2.2, "most")
    )
