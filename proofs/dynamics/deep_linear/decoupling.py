r"""The modes of the task, weights that keep them apart, and the saddles between them (Sections 1.2, 1.3 and 2)."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy

from proofs.dynamics.deep_linear.network import ONE, block_network, one_block
from proofs.ledger import Control, Evidence, at_most, claim, equal, within
from proofs.symbolic import array, assume_orthogonal, block, blocks, scalar, vanishes
from refimpl.dynamics.deep_linear import (
    chain_gradients,
    connectivity_modes,
    decoupled_init,
    decoupled_weights,
    end_to_end,
    gradient_steps,
    gradients,
    hessian_vector_product,
    mode_energy,
    mode_flow,
    mode_trajectory,
    orthogonal_init,
    small_random_init,
    train_gd,
)
from refimpl.primitives.numbers import Array, transpose
from refimpl.primitives.traces import inner

# --- two layers ---


def without_competition(a: Array, b: Array, strengths: Array) -> tuple[Array, Array]:
    """Every mode by itself: the flow of each with the others taken away."""
    found_a, found_b = 0 * a, 0 * b
    for mode in range(len(strengths)):
        one = slice(mode, mode + 1)
        found_a[one], found_b[one] = mode_flow(a[one], b[one], strengths[one])
    return found_a, found_b


@claim(
    "deep_linear/K2",
    title="In the data's singular vectors the two layers are pairs of modes that cooperate, and compete with others",
    source="Eq. 4 to 6",
    statement=r"\tau\dot a^\alpha=(s_\alpha-a^\alpha\cdot b^\alpha)b^\alpha-\sum_{\gamma\ne\alpha}"
    r"b^\gamma(a^\alpha\cdot b^\gamma)=-\partial E/\partial a^\alpha,\qquad E=\tfrac12\sum_\alpha(s_\alpha-"
    r"a^\alpha\cdot b^\alpha)^2+\tfrac12\sum_{\alpha\ne\gamma}(a^\alpha\cdot b^\gamma)^2",
    method="symbolic",
    scope="the change of basis for all sizes; the modes for any number of hidden units and 3 input, 2 or 3 output "
    "modes; the energy's derivative at 3 hidden units and 2 modes",
    control=Control("competition removed", flow=without_competition),
)
def modes_cooperate_and_compete(flow: Callable[..., tuple[Array, Array]] = mode_flow) -> Evidence:
    w21, w32, u, v, s = (block(name) for name in ("A", "B", "U", "V", "S"))
    rotated = gradients([one_block(w21 * v.transpose()), one_block(u * w32)], ONE, one_block(u * s * v.transpose()))
    plain = gradients([one_block(w21), one_block(w32)], ONE, one_block(s))
    rotation = [rotated[0] - plain[0] * v.transpose(), rotated[1] - u * plain[1]]
    differences: list[Any] = []
    for n_outputs in (2, 3):
        first = blocks([[block(f"a{mode}", "column") for mode in range(3)]])
        second = blocks([[block(f"b{mode}", "column").transpose()] for mode in range(n_outputs)])
        identities = [np.eye(size, dtype=object) for size in (n_outputs, 3)]
        strengths = array("s", (n_outputs,), positive=True)
        sigma_31 = np.zeros((n_outputs, 3), dtype=object)
        sigma_31[range(n_outputs), range(n_outputs)] = strengths
        a, b = connectivity_modes(first, second, *identities)
        to_a, to_b = flow(a, b, strengths)
        slopes = gradients([first, second], identities[1], sigma_31)
        differences += [transpose(to_a) + slopes[0], to_b + slopes[1]]
    a, b, strengths = array("a", (2, 3)), array("b", (2, 3)), array("s", (2,), positive=True)
    energy = mode_energy(a, b, strengths).item()
    descent = [
        [velocity + sympy.diff(energy, entry) for velocity, entry in zip(to.flat, of.flat, strict=True)]
        for to, of in zip(flow(a, b, strengths), (a, b), strict=True)
    ]
    return (
        vanishes(rotation, "gradients in the singular vectors less those rotated", orthogonal=[u, v])
        & vanishes(differences, "mode equations less the learning rule")
        & vanishes(descent, "mode equations less the energy's descent")
    )


# --- the decoupled manifold ---


def spread_out(rng: np.random.Generator, weights: list[Array]) -> list[Array]:
    return [w + 0.2 * rng.standard_normal(w.shape) for w in weights]


def as_it_is(rng: np.random.Generator, weights: list[Array]) -> list[Array]:
    return weights


def off_diagonal(maps: Array) -> float:
    rows, columns = maps.shape[-2:]
    return float(np.max(np.abs(maps * (1 - np.eye(rows, columns)))))


@claim(
    "deep_linear/K8",
    title="From a decoupled start modes stay apart for good, each on its own scalar dynamics, at any hidden widths",
    source="Sections 1.3 and 2, Eq. 14 and 15",
    statement=r"W^l=R_{l+1}D_lR_l^\top\ \Rightarrow\ G_l=R_{l+1}\tilde G_lR_l^\top,\ \tilde G_l\text{ diagonal}:"
    r"\quad a_l\leftarrow a_l+\lambda(s-\textstyle\prod_ja_j)\prod_{j\ne l}a_j",
    method="symbolic",
    scope="all sizes at depths 1 to 4 (deeper by K1), any factors; descent of 1500 steps on widths 6, 7, 5, 8, 6 from "
    "unequal factors against the scalar chains; the exact solution at rates 0.002, 0.001, 0.0005 from u0 = 0.01",
    uses=["deep_linear/K1"],
    control=Control("0.2 times Gaussian noise on the weights", disturb=spread_out),
)
def decoupled_stays_decoupled(
    rng: np.random.Generator, disturb: Callable[[np.random.Generator, list[Array]], list[Array]] = as_it_is
) -> Evidence:
    rotation, separation = [], []
    for depth in (1, 2, 3, 4):
        turns = [block(f"R{layer}") for layer in range(depth + 1)]
        middle, _, _, sigma = block_network(depth)
        weights = decoupled_turn(turns, middle)
        slopes = gradients(weights, ONE, turns[-1] * sigma * turns[0].transpose())
        inside = gradients(middle, ONE, sigma)
        for layer, (slope, plain) in enumerate(zip(slopes, inside, strict=True)):
            difference = slope - turns[layer + 1] * plain * turns[layer].transpose()
            rotation.append(assume_orthogonal(difference.item(), *turns))
        factors, strength = array("a", (depth,), positive=True), scalar("s", positive=True)
        apart = [blocks([[a, 0], [0, w.item()]]) for a, w in zip(factors, middle, strict=True)]
        slopes = gradients(apart, np.eye(2, dtype=object), blocks([[strength, 0], [0, sigma.item()]]))
        chain = chain_gradients(factors, strength)
        for layer in range(depth):
            separation.append(slopes[layer] - blocks([[chain[layer], 0], [0, inside[layer].item()]]))
    exact, apart_by, against_chain = against_descent(rng, disturb)
    ratios = [before / after for before, after in itertools.pairwise(exact)]
    return (
        vanishes(rotation, "gradients of turned weights less turned gradients")
        & vanishes(separation, "gradients of one mode beside any others less its own chain")
        # Each of 1500 steps rounds a few products of numbers of size 2.
        & at_most(apart_by, 1e-10, "off the diagonal")
        & at_most(against_chain, 1e-10, "off the scalar chains after 1500 steps")
        & at_most(exact[1], 0.01, "off the exact solution at rate 0.001")
        & within(min(ratios), 1.9, 2.1, "over that at half the rate, least")
        & within(max(ratios), 1.9, 2.1, "most")
    )


def decoupled_turn(turns: Sequence[Any], middle: Sequence[Array]) -> list[Array]:
    return [after * one * before.transpose() for before, after, one in zip(turns[:-1], turns[1:], middle, strict=True)]


def against_descent(
    rng: np.random.Generator, disturb: Callable[[np.random.Generator, list[Array]], list[Array]]
) -> tuple[list[float], float, float]:
    """How far descent is from the exact solution at three rates; the largest entry off the diagonal; how far descent
    from unequal factors is from the scalar chains."""
    widths, strengths = (6, 7, 5, 8, 6), np.array([2.0, 1.4, 1.0, 0.7, 0.5, 0.3])
    u, v = orthogonal_init((2, 6, 6), rng)
    sigma_31, identity = (u * strengths) @ v.T, np.eye(6)
    start = disturb(rng, decoupled_init(sigma_31, widths, 1e-2, rng))
    # The SVD orders the modes and is free to choose signs: those of the shipped start are read off its product.
    left, _, right = np.linalg.svd(sigma_31)
    exact, apart = [], []
    for rate in (2e-3, 1e-3, 5e-4):
        n_steps = round(3.6 / rate)
        maps = end_to_end([layer[:: n_steps // 300] for layer in train_gd(start, identity, sigma_31, rate, n_steps)])
        seen = left.T @ maps @ right.T
        times = rate * np.arange(0, n_steps + 1, n_steps // 300)
        wanted = np.zeros((len(times), 6))
        wanted[:, :5] = mode_trajectory(times[:, None], strengths[:5], 1e-2, 4)
        exact.append(float(np.max(np.abs(np.diagonal(seen, axis1=-2, axis2=-1) - wanted))))
        apart.append(off_diagonal(seen))
    turns = [v, *(orthogonal_init((n, n), rng) for n in widths[1:-1]), u]
    factors = rng.uniform(0.3, 1.0, (4, 5))
    last = [layer[-1] for layer in train_gd(decoupled_weights(turns, factors), identity, sigma_31, 1e-3, 1500)]
    chain = factors.T
    for _ in range(1500):
        chain = chain - 1e-3 * chain_gradients(chain, strengths[:5])
    by_chain = decoupled_weights(turns, chain.T)
    return exact, max(apart), max(float(np.max(np.abs(a - b))) for a, b in zip(last, by_chain, strict=True))


# --- fixed points ---


def negative_curvatures(strengths: Sequence[float], active: Sequence[int], n_hidden: int) -> int:
    """How many directions lead down from the fixed point that has learned these modes."""
    idle_modes = [s for mode, s in enumerate(strengths) if mode not in active]
    overtaken = sum(s > strengths[mode] for s in idle_modes for mode in active)
    return overtaken + (n_hidden - len(active)) * sum(s > 0 for s in idle_modes)


def without_idle_units(strengths: Sequence[float], active: Sequence[int], n_hidden: int) -> int:
    return negative_curvatures(strengths, active, len(active))


def of_weaker_modes(strengths: Sequence[float], active: Sequence[int], n_hidden: int) -> int:
    return negative_curvatures([-s for s in strengths], active, n_hidden)


def fixed_point(
    rng: np.random.Generator, strengths: Sequence[float], active: Sequence[int], n_hidden: int
) -> tuple[list[Array], Array]:
    """Weights that have learned these modes, in random bases and balanced at random, and their correlations."""
    n_modes = len(strengths)
    n_inputs, n_outputs = n_modes + rng.integers(2), n_modes + rng.integers(2)
    u, v, turn = (orthogonal_init((int(n), int(n)), rng) for n in (n_outputs, n_inputs, n_hidden))
    first, second = np.zeros((n_hidden, n_inputs)), np.zeros((n_outputs, n_hidden))
    for unit, mode in enumerate(active):
        first[unit, mode] = rng.uniform(0.5, 2) * np.sqrt(strengths[mode])
        second[mode, unit] = strengths[mode] / first[unit, mode]
    return [turn @ first @ v.T, u @ second @ turn.T], (u[:, :n_modes] * np.array(strengths)) @ v[:, :n_modes].T


def counted_curvatures(weights: list[Array], sigma_31: Array) -> int:
    """The negative eigenvalues of the Hessian, built by its products with every direction at once."""
    size = sum(w.size for w in weights)
    directions = np.split(np.eye(size), [weights[0].size], axis=1)
    shaped = [d.reshape(size, *w.shape) for d, w in zip(directions, weights, strict=True)]
    spread = [np.broadcast_to(w, (size, *w.shape)) for w in weights]
    columns = hessian_vector_product(spread, shaped, np.eye(sigma_31.shape[1]), sigma_31)
    hessian = np.concatenate([column.reshape(size, -1) for column in columns], axis=1)
    return int(np.sum(np.linalg.eigvalsh(hessian) < -1e-8))


@claim(
    "deep_linear/K9",
    title="Descent ends in the best approximation of its rank; every other fixed point is a saddle, with this index",
    source="Section 1.2, Eq. 7",
    statement=r"\mathrm{ind}(A)=\#\{(\alpha\notin A,\beta\in A):s_\alpha>s_\beta\}+(N_2-|A|)\,\#\{\alpha\notin A:"
    r"s_\alpha>0\}",
    method="symbolic",
    scope="all sizes: the Hessian at a fixed point is 2 x 2 blocks and a square; every fixed point of strengths "
    "(4, 3, 2, 1), (3, 2, 2, 0), (2, 1, 0) with 1 to 3 hidden units, balanced or not, and 3 runs from standard "
    "deviation 0.01",
    erratum="The paper gives a^alpha . b^beta = s_alpha delta_(alpha beta) as necessary for a fixed point. Modes with "
    "a = b = 0 are fixed too, whatever their strength: these are the saddles, the origin among them.",
    control=[
        Control("idle hidden units not counted", index=without_idle_units),
        Control("weaker modes counted in place of stronger", index=of_weaker_modes),
    ],
)
def fixed_points_are_saddles(
    rng: np.random.Generator, index: Callable[[Sequence[float], Sequence[int], int], int] = negative_curvatures
) -> Evidence:
    expected = {(0, 1): 0, (0, 2): 1, (0, 3): 2, (1, 2): 2, (1, 3): 3, (2, 3): 4, (0,): 3, (): 8}
    by_formula = [index((4, 3, 2, 1), active, 2) for active in expected]
    wrong = cases = 0
    for strengths in ((4, 3, 2, 1), (3, 2, 2, 0), (2, 1, 0)):
        positive = [mode for mode, s in enumerate(strengths) if s > 0]
        for n_hidden in (1, 2, 3):
            for rank in range(min(n_hidden, len(positive)) + 1):
                for active in itertools.combinations(positive, rank):
                    weights, sigma_31 = fixed_point(rng, strengths, active, n_hidden)
                    slopes = gradients(weights, np.eye(sigma_31.shape[1]), sigma_31)
                    assert max(np.max(np.abs(slope)) for slope in slopes) < 1e-12
                    wrong += counted_curvatures(weights, sigma_31) != index(strengths, active, n_hidden)
                    cases += 1
    errors = []
    for _ in range(3):
        left, right, values = orthogonal_init((5, 5), rng), orthogonal_init((6, 6), rng), np.array([3, 2, 1, 0.5, 0])
        sigma_31 = (left * values) @ right[:5]
        steps = gradient_steps(small_random_init((6, 2, 5), 0.01, rng), np.eye(6), sigma_31, 0.1)
        # What is slowest to decay does so at a rate of 2 - 1, the gap between what is learned and what is not.
        final = next(itertools.islice(steps, 600, None))
        errors.append(float(np.max(np.abs(end_to_end(final) - (left[:, :2] * values[:2]) @ right[:2]))))
    return (
        saddle_blocks()
        & equal(by_formula, list(expected.values()), "indices for strengths (4, 3, 2, 1), 2 hidden units")
        & equal(wrong, 0, f"fixed points of {cases} with another number of negative curvatures")
        & at_most(max(errors), 1e-10, "descent off the best approximation of rank 2")
    )


def saddle_blocks() -> Evidence:
    """At a fixed point, modes in the order: one that has learned (strength ab), any others that have, one that has not.

    The two entries that couple the learned unit with the mode not learned are an invariant plane with the matrix
    [[b^2, -s], [-s, a^2]], those of an idle unit one with [[0, -s], [-s, 0]]: of determinant (ab)^2 - s^2 and -s^2.
    What is left leaves the modes not learned alone, and there the Hessian is a square.
    """
    a, b, s = (scalar(name, positive=True) for name in "abs")
    x, y = scalar("x"), scalar("y")
    first, second = block("A"), block("B")
    weights = [blocks([[a, 0, 0], [0, first, 0], [0, 0, 0]]), blocks([[b, 0, 0], [0, second, 0], [0, 0, 0]])]
    sigma = blocks([[a * b, 0, 0], [0, second * first, 0], [0, 0, s]])
    identity = np.eye(3, dtype=object)
    slopes = gradients(weights, identity, sigma)
    planes = []
    for unit, (to_x, to_y) in ((0, (b**2 * x - s * y, a**2 * y - s * x)), (2, (-s * y, -s * x))):
        directions = [np.zeros((3, 3), dtype=object) for _ in range(2)]
        directions[0][unit, 2], directions[1][2, unit] = x, y
        wanted = [np.zeros((3, 3), dtype=object) for _ in range(2)]
        wanted[0][unit, 2], wanted[1][2, unit] = to_x, to_y
        product = hessian_vector_product(weights, directions, identity, sigma)
        planes += [got - want for got, want in zip(product, wanted, strict=True)]
    # The rest: learned modes as one block, those not learned as another.
    rest_weights = [blocks([[first], [0]]).T, blocks([[second], [0]])]
    rest_sigma = blocks([[second * first, 0], [0, block("F")]])
    rest = [blocks([[block("X"), 0]]), blocks([[block("Y")], [0]])]
    product = hessian_vector_product(rest_weights, rest, np.eye(2, dtype=object), rest_sigma)
    curvature = sum(inner(d, p).item() for d, p in zip(rest, product, strict=True))
    change = rest_weights[1] @ rest[0] + rest[1] @ rest_weights[0]
    return (
        vanishes(slopes, "gradients at the fixed point")
        & vanishes(planes, "Hessian on a mode not learned less its 2 x 2 blocks")
        & vanishes(curvature - inner(change, change).item(), "rest of the Hessian less a square")
    )
