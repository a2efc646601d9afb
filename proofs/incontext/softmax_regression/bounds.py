r"""The chain of inequalities, both parts of the main theorem, and the sharp factors that replace it.

Every inequality meets random steps and steps at which it is as tight as it gets in the ball. There the paper's
constants turn out to be off by factors that depend on $n$ and $R$, and what is left when they are divided out is
attained: the claims check both, so that a constant one per cent smaller fails.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import sympy

from proofs.incontext.softmax_regression.setting import (
    ROUNDOFF,
    Steps,
    ball_steps,
    prediction_rounding,
    simplex_symbols,
)
from proofs.ledger import Control, Evidence, Figure, Series, at_least, at_most, claim, equal, figure
from proofs.properties import for_all
from proofs.symbolic import array, vanishes
from refimpl.incontext.softmax_regression import (
    SMALL_STEP,
    Inequality,
    ShiftReport,
    data_lipschitz_chain,
    data_shift_report,
    lipschitz_chain,
    paper_shift_bound,
    sharp_data_factor,
    sharp_weight_factor,
    softmax_prediction,
    softmax_prediction_vjp,
    weight_shift,
)
from refimpl.primitives.numbers import Array, log

Chain = Callable[[Array, Array, Array, float], dict[str, Inequality]]
Report = Callable[[Array, Array, Array, Array, float], ShiftReport]

# A logarithm of the chain is a sum of at most ten terms below 10^3, each rounded to 2^-53 relative; norms and sums over
# 30 rows are off by 30 units at most; and a norm may exceed R by 64 units, which moves R^2 by 10^-12 at R = 6.
LOG_ROUNDING = 1e-11
RADII = (1.0, 2.0, 4.0, 6.0)


def sharp_constants(n: int, radius: float) -> dict[str, float]:
    r"""Logarithm of the least constant of an inequality in the ball over the paper's constant.

    $\lVert u-u'\rVert\le Re^{R^2}\lVert x-x'\rVert$ by the mean value theorem, entry by entry; and as the exponential
    is convex and $\lVert Ax\rVert\le R^2$, $\alpha\ge ne^{-R^2/\sqrt n}$, which goes into (ii) and, twice, into (v).
    """
    log_least_normaliser = float(np.log(n)) - radius**2 / n**0.5
    return {
        "inverse_normaliser": -log_least_normaliser - radius**2,
        "feature_shift": -float(np.log(2 * n**0.5)),
        "normaliser_shift": 0.0,
        "inverse_shift": -2 * log_least_normaliser - 2 * radius**2,
    }


def weights_chain(data: Array, weights: Array, moved: Array, radius: float) -> dict[str, Inequality]:
    return lipschitz_chain(data, weights, moved, radius)


def data_chain(data: Array, weights: Array, moved: Array, radius: float) -> dict[str, Inequality]:
    return data_lipschitz_chain(data, moved, weights, radius)


def features_of_the_other_sign(chain: Chain) -> Chain:
    """The chain with e^(-R^2) for e^(R^2) in (iii)."""

    def broken(data: Array, weights: Array, moved: Array, radius: float) -> dict[str, Inequality]:
        found = chain(data, weights, moved, radius)
        left, right = found["feature_shift"]
        return found | {"feature_shift": Inequality(left, right - 2 * radius**2)}

    return broken


def no_constants(n: int, radius: float) -> dict[str, float]:
    """Sharp constants one per cent smaller."""
    return {name: value + float(np.log(0.99)) for name, value in sharp_constants(n, radius).items()}


@claim(
    "softmax_regression/S4",
    title="Every inequality of the chain, and how tight it is",
    source="Lemmas on u, alpha, 1/alpha and f, for a step of the weights and for one of the data",
    statement=r"\lVert u\rVert\le\sqrt ne^{R^2},\ \alpha^{-1}\le e^{R^2},\ \lVert u-u'\rVert\le2\sqrt nRe^{R^2}"
    r"\lVert x-x'\rVert,\ |\alpha-\alpha'|\le\sqrt n\lVert u-u'\rVert,\ |\alpha^{-1}-\alpha'^{-1}|\le e^{2R^2}"
    r"|\alpha-\alpha'|,\ \lVert f-f'\rVert\le(2\sqrt nRe^{2R^2}+2n^{1.5}Re^{4R^2})\lVert x-x'\rVert"
    r"\le M\lVert x-x'\rVert",
    method="property",
    scope="2 x 200 x 16 steps of weights and of data, random and as tight as the ball allows: R in {1, 2, 4, 6}, "
    "2 to 30 rows, 5 columns, logits that move by less than 0.01; also with the least constants, which are "
    "attained",
    control=[
        Control(
            "e^(-R^2) for e^(R^2) in (iii)",
            chains=(features_of_the_other_sign(weights_chain), features_of_the_other_sign(data_chain)),
        ),
        Control("the least constants, one per cent smaller", sharp=no_constants),
    ],
)
def chain_of_inequalities(
    rng: np.random.Generator,
    chains: tuple[Chain, Chain] = (weights_chain, data_chain),
    sharp: Callable[[int, float], dict[str, float]] = sharp_constants,
) -> Evidence:
    tightest: dict[str, float] = {}
    constants: dict[str, float] = {}

    def error(chain: Chain, case: Steps) -> float:
        n = case.data.shape[-2]
        found = chain(*case)
        worst = -np.inf
        for name, inequality in found.items():
            tightest[name] = max(tightest.get(name, -np.inf), float(np.max(inequality.log_ratio)))
            worst = max(worst, float(np.max(inequality.log_ratio)))
        for name, constant in sharp(n, case.radius).items():
            # (i) to (v) with the constant that the ball allows, which their tight steps attain.
            against_sharp = float(np.max(found[name].log_ratio)) - constant
            constants[name] = max(constants.get(name, -np.inf), against_sharp)
        return worst

    evidence = [
        for_all(
            rng,
            ball_steps(moving, RADII, 0.009),
            partial(error, chain),
            LOG_ROUNDING,
            200,
            f"{moving}: log ratio",
        )
        for moving, chain in zip(("weights", "data"), chains, strict=True)
    ]
    paper = evidence[0] & evidence[1]
    for name, log_ratio in tightest.items():
        paper = paper & at_most(float(np.exp(log_ratio)), 1 + LOG_ROUNDING, f"{name}: largest ratio")
    for name, log_ratio in constants.items():
        paper = paper & at_most(log_ratio, LOG_ROUNDING, f"{name}: log ratio to the least constant")
        paper = paper & at_least(log_ratio, float(np.log(0.99)), f"{name}: attained")
    return paper


# --- the main theorem ---


def weights_report(data: Array, target: Array, weights: Array, moved: Array, radius: float) -> ShiftReport:
    return weight_shift(data, target, weights, moved, radius)


def data_report(data: Array, target: Array, weights: Array, moved: Array, radius: float) -> ShiftReport:
    return data_shift_report(data, moved, target, weights, radius)


def with_factor(report: Report, log_factor: Callable[[int, float], float]) -> Report:
    """The report with another factor in place of the paper's."""

    def replaced(data: Array, target: Array, weights: Array, moved: Array, radius: float) -> ShiftReport:
        found = report(data, target, weights, moved, radius)
        n = target.shape[-1]
        change = log_factor(n, radius) - paper_shift_bound(n, radius).log
        return found._replace(log_paper_bound=found.log_paper_bound + change)

    return replaced


def log_inverse_factor(n: int, radius: float) -> float:
    """The logarithm of n^1.5 e^(-10 R^2)."""
    return 1.5 * float(np.log(n)) - 10 * radius**2


def log_smaller_than_sharp(n: int, radius: float) -> float:
    """The logarithm of 0.99 R/2."""
    return float(np.log(0.99 * radius / 2))


def step_norm(moving: str, step: Array) -> Array:
    """Euclidean for weights, spectral for data."""
    return np.linalg.norm(step, axis=-1) if moving == "weights" else np.linalg.norm(step, 2, axis=(-2, -1))


def theorem_holds(rng: np.random.Generator, moving: str, report: Report) -> Evidence:
    """The bound on steps in the ball at R = 4 and beyond, the largest ratio over what is possible, and its vacuity."""
    largest, factors, met = [0.0], [np.inf], [True]

    def error(case: Steps) -> float:
        target = rng.dirichlet(np.ones(case.data.shape[-2]), len(case.data))
        found = report(case.data, target, case.weights, case.moved, case.radius)
        met.append(bool(np.all(found.assumptions.met())))
        step = case.moved - (case.weights if moving == "weights" else case.data)
        log_step = np.log(
            np.linalg.norm(step, axis=-1) if moving == "weights" else np.linalg.norm(step, 2, axis=(-2, -1))
        )
        rounded = 2 * prediction_rounding(case.data, case.weights) + 4 * ROUNDOFF
        log_shift = np.log(np.maximum(found.shift_norm - rounded, np.finfo(float).tiny))
        largest.append(float(np.max(found.shift_norm / (np.exp(log_step) * case.radius / 2))))
        factors.append(float(np.min(found.log_paper_bound - log_step)))
        return float(np.max(log_shift - found.log_paper_bound))

    bound = for_all(
        rng, ball_steps(moving, (4.0, 5.0, 9.0), 0.009), error, LOG_ROUNDING, 200, "log of shift over bound"
    )
    return (
        bound
        & equal(all(met), True, "assumptions met")
        & at_least(max(largest), 0.999, "largest shift over R/2 times the step")
        & at_least(min(factors), 160, "log of the factor, where a shift is at most sqrt 2")
    )


THEOREM_SCOPE = (
    "200 x 16 steps of {}, random and as tight as the ball allows: R in {{4, 5, 9}}, 2 to 30 rows, assumptions met; "
    "in logarithms, for M is 5e71 at R = 4, n = 30 and overflows at R = 9. True and vacuous: no shift exceeds "
    "sqrt 2, or R/2 times the step"
)


def theorem_controls(report: Report) -> list[Control]:
    return [
        Control("n^1.5 e^(-10 R^2) for M", report=with_factor(report, log_inverse_factor)),
        Control(
            "0.99 R/2 for M, one per cent below the sharp factor", report=with_factor(report, log_smaller_than_sharp)
        ),
    ]


@claim(
    "softmax_regression/S5",
    title="Main theorem, part 1: a step of the weights shifts the target by at most M times the step",
    source="Main theorem, part 1",
    statement=r"\lVert\tilde b-b\rVert\le n^{1.5}e^{10R^2}\lVert x_{t+1}-x_t\rVert",
    method="property",
    scope=THEOREM_SCOPE.format("the weights"),
    uses=["softmax_regression/S4", "softmax_regression/S7"],
    control=theorem_controls(weights_report),
)
def weight_shift_is_bounded(rng: np.random.Generator, report: Report = weights_report) -> Evidence:
    return theorem_holds(rng, "weights", report)


@claim(
    "softmax_regression/S6",
    title="Main theorem, part 2: a step of the data shifts the target by at most M times the step",
    source="Main theorem, part 2",
    statement=r"\lVert\tilde b-b\rVert\le n^{1.5}e^{10R^2}\lVert A_{t+1}-A_t\rVert",
    method="property",
    scope=THEOREM_SCOPE.format("the data"),
    uses=["softmax_regression/S4", "softmax_regression/S7"],
    control=theorem_controls(data_report),
)
def data_shift_is_bounded(rng: np.random.Generator, report: Report = data_report) -> Evidence:
    return theorem_holds(rng, "data", report)


# --- the sharp factors ---


def jacobian_product(prediction: Array, direction: Array) -> Array:
    r"""$Jv$ by the shipped pullback, from data $(\log f,I)$ at weights $(1,0)$."""
    n = len(prediction)
    identity = np.array([[sympy.Integer(int(i == j)) for j in range(n)] for i in range(n)], dtype=object)
    data = np.concatenate([log(prediction)[:, None], identity], axis=1)
    weights = np.array([sympy.Integer(1), *[sympy.Integer(0)] * n], dtype=object)
    _, pullback = softmax_prediction_vjp(data, weights)
    return pullback(direction)[1][1:]


def smaller(factor: Callable[[Array], Array], by: float) -> Callable[[Array], Array]:
    return lambda fixed: by * factor(fixed)


@claim(
    "softmax_regression/S7",
    title="The prediction is half the norm of the data times Lipschitz in the weights, and conversely: sharp",
    source="Main theorem, with the best factors",
    statement=r"\lVert J\rVert\le\tfrac12,\quad\lVert f(A,x)-f(A,x')\rVert\le\tfrac12\lVert A\rVert\lVert x-x'\rVert,"
    r"\quad\lVert f(A,x)-f(A',x)\rVert\le\tfrac12\lVert x\rVert\lVert A-A'\rVert",
    method="symbolic",
    scope="the bound on J for all n: v_1 and v_2 are the largest and smallest entry of v, n = 5 decides; and 2 x 200 x "
    "16 steps of any size, random and tight, in floats",
    control=[
        Control("the constant 1/4", factors=(smaller(sharp_weight_factor, 0.5), smaller(sharp_data_factor, 0.5))),
        Control("one per cent below", factors=(smaller(sharp_weight_factor, 0.99), smaller(sharp_data_factor, 0.99))),
    ],
)
def sharp_lipschitz_constants(
    rng: np.random.Generator,
    factors: tuple[Callable[[Array], Array], Callable[[Array], Array]] = (sharp_weight_factor, sharp_data_factor),
) -> Evidence:
    f, v = simplex_symbols("f", 5), array("v", (5,))
    spent = v @ jacobian_product(f, v)
    # Each term is at least 0 where the first entry of v is the largest and the second the smallest. No term has more
    # than 5 rows: those two, that of a square of v, which no entry of f goes with, and two of f, quadratic here.
    left_over = (
        f @ ((v[0] - v) * (v - v[1])) + (f @ v - (v[0] + v[1]) / 2) ** 2 + ((v[0] + v[1]) / 2) ** 2 + v[2:] @ v[2:] / 2
    )
    proof = vanishes(v @ v / 2 - spent - left_over, "|v|^2/2 - v'Jv - terms that are at least 0")

    tightest = [0.0]

    def error(moving: str, case: Steps) -> float:
        data, weights, moved, _ = case
        fixed, old, next_pair = (
            (data, weights, (data, moved)) if moving == "weights" else (weights, data, (moved, weights))
        )
        shift = np.linalg.norm(softmax_prediction(*next_pair) - softmax_prediction(data, weights), axis=-1)
        bound = factors[moving == "data"](fixed) * step_norm(moving, moved - old)
        tightest.append(float(np.max(shift / bound)))
        # Both predictions round, and each norm of at most 30 x 5 entries, by 64 units at most.
        rounded = prediction_rounding(data, weights) + prediction_rounding(*next_pair) + 64 * ROUNDOFF * bound
        return float(np.max((shift - bound) / rounded))

    in_floats = [
        for_all(
            rng,
            ball_steps(moving, (1.0, 2.0, 4.0), largest_step),
            partial(error, moving),
            1,
            100,
            f"{moving}: shift beyond the bound, in units of its rounding",
        )
        for moving in ("weights", "data")
        for largest_step in (0.5, 0.009)
    ]
    checked = proof
    for one in in_floats:
        checked = checked & one
    return checked & at_least(max(tightest), 0.999, "largest ratio")


@figure(
    "softmax_regression/F2",
    title="How far a step shifts the target, and what the theorem allows",
    caption="The largest shift over the step that was found in the ball of radius R, for weights and data, lies on the "
    "sharp factor R/2. The paper's factor M for 30 rows starts at 10^71 (R = 4); its logarithm is shown.",
    answers_to="main theorem",
)
def shift_figure(rng: np.random.Generator) -> Figure:
    radii = [1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    measured = {moving: [_largest_ratio(rng, moving, radius) for radius in radii] for moving in ("weights", "data")}
    return Figure(
        (
            Series("largest shift over step, weights", radii, np.log10(measured["weights"]).tolist(), style="points"),
            Series("largest shift over step, data", radii, np.log10(measured["data"]).tolist(), style="points"),
            Series("sharp factor R/2", radii, np.log10(np.array(radii) / 2).tolist()),
            Series("paper's factor M, n = 30", radii, [paper_shift_bound(30, r).log / np.log(10) for r in radii]),
        ),
        x_label="radius $R$",
        y_label=r"$\log_{10}$ of the factor",
    )


def _largest_ratio(rng: np.random.Generator, moving: str, radius: float) -> float:
    ratios = [0.0]

    def visit(case: Steps) -> float:
        report: Any = weights_report if moving == "weights" else data_report
        target = np.full(case.data.shape[:-1], 1 / case.data.shape[-2])
        found = report(case.data, target, case.weights, case.moved, radius)
        factor = sharp_weight_factor(case.data) if moving == "weights" else sharp_data_factor(case.weights)
        ratios.append(float(np.max(found.shift_norm * factor / found.sharp_bound)))
        return 0.0

    for_all(rng, ball_steps(moving, (radius,), SMALL_STEP * 0.9), visit, 0, 40)
    return max(ratios)
