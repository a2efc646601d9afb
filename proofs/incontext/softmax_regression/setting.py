"""Inputs that several claims need: predictions as free symbols, and problems on which the inequalities are tight."""

from typing import Any, NamedTuple

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.symbolic import array
from refimpl.incontext.softmax_regression import softmax_prediction
from refimpl.oracle.spec import generators
from refimpl.primitives.numbers import Array, log

ROUNDOFF = float(np.finfo(float).eps) / 2
# The least constants, for b on the simplex, between which the curvature of two rows lies (claim S3).
SHARP_CURVATURE = (-0.24040880690936767, 0.308117140242701)
N_COLUMNS = 5
BATCH = 16


def simplex_symbols(name: str, n: int) -> Array:
    """A point of the simplex with free entries: the last is 1 minus the others."""
    entries = array(name, (n,), positive=True)
    entries[-1] = 1 - sum(entries[:-1])
    return entries


def with_prediction(prediction: Array, columns: Array) -> tuple[Array, Array]:
    """Data and weights whose prediction is this: the first column is its logarithm, and alone has weight."""
    data = np.concatenate([log(prediction)[:, None], columns], axis=1)
    weights = np.array([sympy.Integer(1)] + [sympy.Integer(0)] * columns.shape[1], dtype=object)
    return data, weights


def in_features(expressions: Any, data: Array, weights: Array) -> Array:
    """Replace the exponential of each row's logit by a symbol of its own: rational functions, which reduce fast."""
    logits = [sympy.expand(logit) for logit in data @ weights]
    features = array("u", (len(logits),), positive=True)
    marks = [sympy.Add.make_args(logit)[0] for logit in logits]

    def feature(exponent: Any) -> Any:
        expanded = sympy.expand(exponent)
        powers = [expanded.coeff(mark) for mark in marks]
        if sympy.expand(expanded - sum(p * logit for p, logit in zip(powers, logits, strict=True))) != 0:
            raise ValueError(f"expected the exponent to be a sum of logits, got {exponent}")
        return sympy.Mul(*(u**p for u, p in zip(features, powers, strict=True)))

    out = np.empty(np.shape(expressions), dtype=object)
    out.reshape(-1)[:] = [e.replace(sympy.exp, feature) for e in np.asarray(expressions, object).reshape(-1)]
    return out


class Steps(NamedTuple):
    """Problems in the ball of a radius, and a step of the weights or of the data that stays in it."""

    data: Array
    weights: Array
    moved: Array
    """The weights or the data after the step."""
    radius: float


@st.composite
def ball_steps(draw: st.DrawFn, moving: str, radii: tuple[float, ...], largest_step: float) -> Steps:
    r"""Steps that are random, and steps at which one of the inequalities is as tight as it gets.

    The tight ones have data $R\,uv^\top$ and weights along $v$, so that the logits are multiples of $u$: one entry of
    $u$ alone (the largest feature), all alike (the smallest normaliser, and features that move by a multiple of
    $\mathbf 1$), or two opposite ones near $Ax=0$ (a prediction that moves fastest). Logits move by at most
    `largest_step`.
    """
    rng = draw(generators())
    radius, n = draw(st.sampled_from(radii)), draw(st.integers(2, 30))
    kind = draw(st.sampled_from(("random", "one row", "all rows", "two rows")))
    # The smaller steps are where the limits are seen, the larger where convexity helps the bounds.
    step = largest_step * 10 ** rng.uniform(-3, 0, (BATCH, 1)) / radius
    v = unit(rng.standard_normal((BATCH, N_COLUMNS)))
    if kind == "random":
        data = unit_matrix(rng.standard_normal((BATCH, n, N_COLUMNS))) * radius * rng.uniform(0, 1, (BATCH, 1, 1))
        weights = unit(rng.standard_normal((BATCH, N_COLUMNS))) * radius * rng.uniform(0, 1, (BATCH, 1))
        if moving == "weights":
            moved = weights + step * v
            return Steps(data, weights, moved * np.minimum(1, radius / norm(moved)), radius)
        moved = data + step[..., None] * unit_matrix(rng.standard_normal(data.shape))
        return Steps(data, weights, moved * np.minimum(1, radius / matrix_norm(moved)), radius)
    u = np.zeros((BATCH, n))
    if kind == "one row":
        u[:, 0] = 1
    elif kind == "all rows":
        u[:] = n**-0.5
    else:
        n = 2
        u = np.tile([2**-0.5, -(2**-0.5)], (BATCH, 1))
    sign = rng.choice([-1.0, 1.0], (BATCH, 1))
    # The moving factor is at the sphere and steps inwards, or is 0, where two opposite rows have equal logits.
    old, new = (0 * step, step) if kind == "two rows" else (radius + 0 * step, radius - step)
    if moving == "weights":
        return Steps(radius * u[:, :, None] * v[:, None, :], sign * old * v, sign * new * v, radius)
    matrices = [amount[..., None] * u[:, :, None] * v[:, None, :] for amount in (old, new)]
    return Steps(matrices[0], sign * radius * v, matrices[1], radius)


def norm(vectors: Array) -> Array:
    return np.asarray(np.linalg.norm(vectors, axis=-1, keepdims=True))


def matrix_norm(matrices: Array) -> Array:
    return np.asarray(np.linalg.norm(matrices, 2, axis=(-2, -1)))[..., None, None]


def unit(vectors: Array) -> Array:
    return vectors / norm(vectors)


def unit_matrix(matrices: Array) -> Array:
    return matrices / matrix_norm(matrices)


def prediction_rounding(data: Array, weights: Array) -> Array:
    r"""A bound on the rounding of a prediction in norm, shape (...).

    A logit of d products is off by $(d+2)u\lVert a_i\rVert\lVert x\rVert$ (the shift by the maximum included), and so
    is the logarithm of each exponential; sum, division and exponential add at most $n+4$ roundings, and
    $\lVert f\rVert\le1$.
    """
    n, d = data.shape[-2:]
    logits = np.max(np.linalg.norm(data, axis=-1), axis=-1) * np.linalg.norm(weights, axis=-1)
    return (2 * (d + 2) * logits + n + 4) * ROUNDOFF


def random_problems(rng: np.random.Generator, n_problems: int, n: int, d: int) -> tuple[Array, Array, Array]:
    """Data, weights and targets on the simplex, from flat to nearly vertices."""
    data = rng.standard_normal((n_problems, n, d)) * 2.0 ** rng.uniform(-2, 2, (n_problems, 1, 1))
    weights = rng.standard_normal((n_problems, d)) * 2.0 ** rng.uniform(-2, 1, (n_problems, 1))
    return data, weights, random_simplex(rng, n_problems, n)


def random_simplex(rng: np.random.Generator, n_points: int, n: int) -> Array:
    """Points of the simplex, from its middle to near its vertices."""
    scores = rng.standard_normal((n_points, n)) * 2.0 ** rng.uniform(-2, 5, (n_points, 1))
    return softmax_prediction(np.eye(n) + np.zeros((n_points, 1, 1)), scores)
