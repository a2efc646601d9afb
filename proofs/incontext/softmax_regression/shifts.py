"""The effective target, gradient descent as a shift of it, descent of the loss, data shifts that are weight shifts."""

from collections.abc import Callable
from functools import partial

import numpy as np
from hypothesis import strategies as st

from proofs.incontext.softmax_regression.setting import (
    BATCH,
    ROUNDOFF,
    SHARP_CURVATURE,
    prediction_rounding,
    random_problems,
    simplex_symbols,
    unit,
    with_prediction,
)
from proofs.ledger import Control, Evidence, at_least, claim
from proofs.properties import for_all
from proofs.statistics import lies_above, proportion_interval
from proofs.symbolic import array, block, blocks, induction, vanishes
from refimpl.incontext.softmax_regression import (
    accumulated_target,
    equivalent_data_shift,
    gradient_descent,
    linear_shifted_target,
    loss_gradient,
    residual,
    sharp_weight_factor,
    shifted_target,
    softmax_prediction,
    softmax_regression_loss,
    weight_shift,
)
from refimpl.oracle.spec import Arguments, generators
from refimpl.oracle.specs.incontext.softmax_regression import equivalent_shifts
from refimpl.primitives.numbers import Array, row_dot

ShiftTarget = Callable[[Array, Array, Array], Array]


def vector(name: str) -> Array:
    """A column of any length, as the array of its only block."""
    return blocks([[block(name)]])[0]


@claim(
    "softmax_regression/S8",
    title="Moving has the residual that staying has with the shifted target, which keeps its sum but not its sign",
    source="Definition of the shifted target; linear regression before it",
    statement=r"f_{t+1}-b=f_t-\tilde b,\quad\langle\tilde b,\mathbf 1\rangle=\langle b,\mathbf 1\rangle,\quad "
    r"\tilde b_T=b-(f_T-f_0),\quad A(x+\Delta x)-b=Ax-(b-A\,\Delta x)",
    method="symbolic",
    scope="all n, d and numbers of shifts (blocks, induction); and 1000 random problems with targets on few of 25 "
    "rows, of which most shifted targets have a negative entry",
    control=Control("the change added to the target", shift=lambda old, new, target: target + (new - old)),
)
def shifted_targets(rng: np.random.Generator, shift: ShiftTarget = shifted_target) -> Evidence:
    old, new, target, start = (vector(name) for name in ("f", "g", "b", "h"))
    same_residual = vanishes((new - target) - (old - shift(old, new, target)), "residuals")

    f, g, b = simplex_symbols("f", 3), simplex_symbols("g", 3), array("b", (3,))
    predictions = [softmax_prediction(*with_prediction(p, array("a", (3, 1)))) for p in (f, g)]
    same_sum = vanishes(shift(predictions[0], predictions[1], b).sum() - b.sum(), "sums")

    # The target after the shifts so far, and one more shift from f to g.
    telescoped = induction(
        vanishes(shift(start, old, target) - accumulated_target(np.stack([start, old]), target)[-1], "first shift"),
        vanishes(
            shift(old, new, target - (old - start)) - accumulated_target(np.stack([start, old, new]), target)[-1],
            "one more shift",
        ),
    )
    data, weights, step = blocks([[block("A")]]), vector("x"), vector("s")
    linear = vanishes(
        (data @ (weights + step) - target) - (data @ weights - linear_shifted_target(data, step, target)),
        "linear regression",
    )

    few = rng.dirichlet(np.full(25, 0.02), 1000)
    data_, weights_, _ = random_problems(rng, 1000, 25, 5)
    moved = weights_ + rng.standard_normal(weights_.shape)
    shifted = shift(softmax_prediction(data_, weights_), softmax_prediction(data_, moved), few)
    negative = int(np.sum(np.any(shifted < 0, axis=-1)))
    no_distribution = lies_above(proportion_interval(negative, 1000), 0.5, "share with a negative entry")
    return same_residual & same_sum & telescoped & linear & no_distribution


# --- gradient descent as a shift ---


def tight_step_problems(rng: np.random.Generator, n_problems: int) -> tuple[Array, Array, Array]:
    """Two opposite rows near Ax = 0 and a target near the prediction: the steps are small and the factors attained."""
    rows = unit(rng.standard_normal((n_problems, 1, 5)))
    data = np.concatenate([rows, -rows], axis=1) * 2.0 ** rng.uniform(-3, 3, (n_problems, 1, 1))
    weights = 1e-3 * rng.standard_normal((n_problems, 5)) / np.linalg.norm(data, axis=(-2, -1))[:, None]
    change = 10 ** rng.uniform(-4, -2, (n_problems, 1)) * [1.0, -1.0]
    return data, weights, softmax_prediction(data, weights) + change


@st.composite
def step_problems(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    """Problems with a target on the simplex, random or tight."""
    rng = draw(generators())
    if draw(st.booleans()):
        return tight_step_problems(rng, BATCH)
    return random_problems(rng, BATCH, draw(st.integers(2, 30)), 5)


def spectral_norm(matrices: Array) -> Array:
    return np.linalg.norm(matrices, 2, axis=(-2, -1))


@claim(
    "softmax_regression/S9",
    title="One step of gradient descent shifts the target by at most half the data's norm times the step",
    source="Main theorem, part 1, for the step of gradient descent",
    statement=r"\lVert\tilde b-b\rVert\le\tfrac12\eta\lVert A\rVert\lVert\nabla L\rVert"
    r"\le\tfrac12\eta\lVert A\rVert^2\lVert J\rVert\lVert c\rVert,\quad "
    r"\lVert\tilde b_T-b\rVert\le\min\big(\sqrt2,\tfrac12\lVert A\rVert\textstyle\sum_t\lVert x_{t+1}-x_t\rVert"
    r"\big)",
    method="property",
    scope="200 x 16 problems, random of 2 to 30 rows and tight of two rows, targets on the simplex, one to five steps "
    "at rates from 1/8 to 8 over the squared norm of the data",
    uses=["softmax_regression/S1", "softmax_regression/S7", "softmax_regression/S8"],
    control=Control("one per cent below", factor=lambda data: 0.99 * sharp_weight_factor(data)),
)
def descent_step_as_shift(rng: np.random.Generator, factor: Callable[[Array], Array] = sharp_weight_factor) -> Evidence:
    tightest = [0.0]

    def error(case: tuple[Array, Array, Array]) -> float:
        data, start, target = case
        largest = spectral_norm(data)
        # One rate for the batch: gradient descent takes a number.
        rate = float(2.0 ** rng.uniform(-3, 3) / np.max(largest) ** 2)
        trajectory = gradient_descent(data, target, start, rate, 5)
        predictions = softmax_prediction(np.broadcast_to(data, (6, *data.shape)), trajectory)
        steps = np.linalg.norm(np.diff(trajectory, axis=0), axis=-1)
        shift = weight_shift(data, target, start, trajectory[1], 4).shift_norm
        by_gradient = factor(data) * rate * np.linalg.norm(loss_gradient(data, start, target), axis=-1)
        f, c = predictions[0], residual(data, start, target)
        jacobian = np.eye(f.shape[-1]) * f[..., None] - f[..., :, None] * f[..., None, :]
        by_residual = factor(data) * rate * largest * spectral_norm(jacobian) * np.linalg.norm(c, axis=-1)
        after_all = np.linalg.norm(
            accumulated_target(np.moveaxis(predictions, 0, -2), target)[..., -1, :] - target, axis=-1
        )
        summed = np.minimum(2**0.5, factor(data) * steps.sum(axis=0))
        tightest.append(float(np.max(shift / by_gradient)))
        # Predictions and target round as bounded; the factors are products of at most eight rounded norms, each of
        # n d entries at most, and a step itself is the difference of weights that round.
        sizes = np.linalg.norm(trajectory, axis=-1).max(axis=0) * largest
        rounded = sum(prediction_rounding(data, x) for x in trajectory) + ROUNDOFF * (8 + 16 * sizes)
        rounded = rounded + 512 * ROUNDOFF * (by_gradient + by_residual + summed)
        gaps = [shift - by_gradient, by_gradient - by_residual, after_all - summed]
        return float(np.max(np.array(gaps) / rounded))

    beyond = for_all(rng, step_problems(), error, 1, 200, "shift beyond its bounds, in units of rounding")
    return beyond & at_least(max(tightest), 0.999, "largest ratio to the bound by the gradient")


# --- descent of the loss ---

PROVED_CURVATURE = 5 / 8


@claim(
    "softmax_regression/S10",
    title="Gradient descent decreases the loss at rates below 1.6, and below 3.2, over the squared norm of the data",
    source="Smoothness of the loss, from the bounds on the Hessian",
    statement=r"\eta\le\frac1{\kappa\lVert A\rVert^2}\ \Rightarrow\ L(x_{t+1})\le L(x_t)-\tfrac\eta2\lVert\nabla L"
    r"\rVert^2,\quad\kappa=\tfrac58\text{ (proved)},\ \kappa=0.30812\text{ (sharp at }n=2)",
    method="property",
    scope="400 x 16 problems, random of 2 to 30 rows and tight of two rows near their minimum, where kappa must be at "
    "least 1/4, targets on the simplex; both kappa",
    uses=["softmax_regression/S3"],
    control=[
        Control("50 over the squared norm of the data", curvatures=(1 / 50,)),
        Control("kappa = 0.24, below what the minimum itself asks for", curvatures=(0.24,)),
    ],
)
def descent_decreases_the_loss(
    rng: np.random.Generator, curvatures: tuple[float, ...] = (PROVED_CURVATURE, SHARP_CURVATURE[1])
) -> Evidence:
    def error(curvature: float, case: tuple[Array, Array, Array]) -> float:
        data, weights, target = case
        rate = (1 / (curvature * spectral_norm(data) ** 2))[:, None]
        gradient = loss_gradient(data, weights, target)
        moved = weights - rate * gradient
        before, after = (softmax_regression_loss(data, x, target) for x in (weights, moved))
        excess = after - before + rate[:, 0] / 2 * np.sum(gradient**2, axis=-1)
        # A loss is off by |c| <= 2 times the rounding of its prediction, the last term by |c| / kappa times that of the
        # residual; each takes n + d + 8 roundings more, of sizes at most 1 and 1 / kappa.
        rounded = sum(prediction_rounding(data, x) for x in (weights, moved))
        rounded = (2 + 2 / curvature) * (rounded + ROUNDOFF * (data.shape[-2] + data.shape[-1] + 8))
        return float(np.max(excess / rounded))

    checked = [
        for_all(
            rng,
            step_problems(),
            partial(error, curvature),
            1,
            400 // len(curvatures),
            f"kappa = {curvature:.5g}: loss above its bound, in units of rounding",
        )
        for curvature in curvatures
    ]
    return checked[0] if len(checked) == 1 else checked[0] & checked[1]


# --- data shifts that are weight shifts ---


@claim(
    "softmax_regression/S13",
    title="Every weight shift is exactly a data shift, and the least one is known",
    source="The closeness of the two shifts, made an equality",
    statement=r"f\big(A+A\,\Delta x\,x^\top/\lVert x\rVert^2,\,x\big)=f(A,x+\Delta x),\quad "
    r"\lVert\Delta A\rVert_F=\lVert A\,\Delta x\rVert/\lVert x\rVert\text{, the least of all such }\Delta A",
    method="symbolic",
    scope="all n, all d: the logits, on which alone f depends, at d = 2, for no more than 2 columns meet in a term, "
    "row by row; the least norm for every change E with Ex = 0; and 100 batches in floats",
    control=Control(
        "not divided by the squared norm of the weights",
        equivalent=lambda data, weights, step: (
            equivalent_data_shift(data, weights, step) * row_dot(weights, weights)[..., None]
        ),
    ),
)
def weight_shift_is_data_shift(
    rng: np.random.Generator, equivalent: Callable[[Array, Array, Array], Array] = equivalent_data_shift
) -> Evidence:
    data, weights, step = array("a", (2, 2)), array("x", (2,)), array("s", (2,))
    shift = equivalent(data, weights, step)
    same = vanishes((data + shift) @ weights - data @ (weights + step), "logits")
    any_matrix = array("g", (2, 2))
    change = any_matrix - (any_matrix @ weights)[:, None] * weights / (weights @ weights)
    least = vanishes(
        [(shift * change).sum(), (shift * shift).sum() - sum((data @ step) ** 2) / (weights @ weights)],
        "inner product with any E, and the norm",
    )

    def error(case: Arguments) -> float:
        found = equivalent(*case.values())
        a, x, dx = case.values()
        distance = np.linalg.norm(softmax_prediction(a + found, x) - softmax_prediction(a, x + dx), axis=-1)
        # The shift and its sum with the data take 2 d + 8 roundings an entry; f moves by half of what the logits do.
        d = a.shape[-1]
        sizes = np.linalg.norm(a, axis=(-2, -1)) + np.linalg.norm(found, axis=(-2, -1))
        rounded = (2 * d + 8) * ROUNDOFF * sizes * np.linalg.norm(x, axis=-1)
        rounded = rounded + prediction_rounding(a + found, x) + prediction_rounding(a, x + dx)
        return float(np.max(distance / rounded))

    return same & least & for_all(rng, equivalent_shifts(), error, 1, 100, "predictions apart, over rounding")
