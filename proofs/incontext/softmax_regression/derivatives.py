"""The gradient, the Hessian and its decomposition, and between which numbers its spectrum lies."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import sympy

from proofs.incontext.softmax_regression.setting import (
    ROUNDOFF,
    SHARP_CURVATURE,
    in_features,
    random_simplex,
    simplex_symbols,
    unit,
    with_prediction,
)
from proofs.ledger import Control, Evidence, Figure, Series, at_least, at_most, claim, figure
from proofs.properties import for_all
from proofs.symbolic import array, scalar, vanishes
from refimpl.incontext.softmax_regression import (
    core_product,
    gauss_newton,
    hessian,
    hessian_core,
    hessian_quadratic_form,
    loss_gradient,
    softmax_prediction,
    softmax_regression_loss,
    softmax_regression_loss_vjp,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.softmax_regression import core_as_often_written, problems
from refimpl.primitives.numbers import Array

Gradients = Callable[[Array, Array, Array], tuple[Array, Array, Array]]


def shipped_gradients(data: Array, weights: Array, target: Array) -> tuple[Array, Array, Array]:
    """With respect to data, weights and target."""
    loss, pullback = softmax_regression_loss_vjp(data, weights, target)
    return pullback(np.ones_like(loss))


def gradients_without_the_mean(data: Array, weights: Array, target: Array) -> tuple[Array, Array, Array]:
    """Those in which the term f<f, c> is left out."""
    c = softmax_prediction(data, weights) - target
    to_logits = (c + target) * c
    return (
        to_logits[..., :, None] * weights[..., None, :],
        (to_logits[..., None, :] @ data)[..., 0, :],
        -c,
    )


@claim(
    "softmax_regression/S1",
    title="The gradients of the loss in weights, data and target",
    source="Section on the gradient of the softmax regression loss",
    statement=r"\nabla_xL=A^\top(f\circ c-f\langle f,c\rangle),\quad\nabla_AL=(f\circ c-f\langle f,c\rangle)x^\top,"
    r"\quad\nabla_bL=-c",
    method="symbolic",
    scope="all n and d: by entries at n = 3, d = 2, for no term of the polynomial identity has more than 3 rows, and "
    "one column beside another's is any offset; and 200 problems in floats, up to 200 rows and 20 columns, against "
    "differences of the loss in longdouble",
    control=Control("f<f, c> left out", gradients=gradients_without_the_mean),
)
def gradients_of_the_loss(rng: np.random.Generator, gradients: Gradients = shipped_gradients) -> Evidence:
    data, weights, target = array("a", (3, 2)), array("x", (2,)), array("b", (3,))
    loss = softmax_regression_loss(data, weights, target)
    to_data, to_weights, to_target = gradients(data, weights, target)
    # Nothing distinguishes the rows, nor the columns: the first of each stands for all.
    found = [to_data[0, 0], to_weights[0], to_target[0]]
    variables = [data[0, 0], weights[0], target[0]]
    differences = np.array([sympy.diff(loss.item(), x) - g for x, g in zip(variables, found, strict=True)], object)
    proof = vanishes(in_features(differences, data, weights), "entries")

    def error(case: Arguments) -> float:
        """The difference of one directional derivative, along a unit of logits, over its bound."""
        direction = rng.standard_normal(case["weights"].shape)
        moved = case["data"] @ direction[..., None]
        spread = np.ptp(moved, axis=(-2, -1))[..., None]
        direction = direction / np.where(spread > 0, spread, 1)
        wide = [np.asarray(value, np.longdouble) for value in (*case.values(), direction)]
        h = np.longdouble(1e-5)
        up, down = (softmax_regression_loss(wide[0], wide[1] + s * h * wide[3], wide[2]) for s in (1, -1))
        slope = np.vecdot(gradients(*case.values())[1], direction)
        # Along a direction whose logits spread over 1, |f'''|_1 <= 3, |f''|_1 and |f'|_1 <= 1 and |c| <= 2, so that
        # |L'''| <= 9 and the difference is off by 1.5 h^2; the gradient rounds n + d + 200 times at size at most
        # 2 |A| |direction|, where a logit of 50 is off by 50 (d + 2) units.
        n, d = case["data"].shape[-2:]
        size = 1 + 2 * np.linalg.norm(case["data"], axis=(-2, -1)) * np.linalg.norm(direction, axis=-1)
        allowed = 1.5e-10 + (n + 52 * (d + 4)) * ROUNDOFF * size
        return float(np.max(np.abs((up - down) / (2 * h) - slope) / allowed))

    in_floats = for_all(rng, problems(), error, 1, examples=200, quantity="difference quotient off, over its bound")
    return proof & in_floats


# --- the Hessian ---


def second_derivatives(f: Array, c: Array) -> tuple[Array, Array]:
    r"""$J^2$ and $\sum_kc_k\nabla_z^2f_k$, entry by entry from $\partial f_k/\partial z_j=f_k(\delta_{kj}-f_j)$."""
    n = len(f)
    delta = np.eye(n, dtype=int)
    squares, curvature = np.zeros((2, n, n), dtype=object)
    for i, j, k in product(range(n), repeat=3):
        first = [f[k] * (delta[k, m] - f[m]) for m in (i, j)]
        squares[i, j] += first[0] * first[1]
        # The derivative of f_k (delta_ki - f_i) along z_j.
        curvature[i, j] += c[k] * (first[1] * (delta[k, i] - f[i]) - f[k] * f[i] * (delta[i, j] - f[j]))
    return squares, curvature


@claim(
    "softmax_regression/S2",
    title="The Hessian of the loss, its core in five terms, and the same core in factors",
    source="Section on the Hessian of the softmax regression loss",
    statement=r"\nabla_x^2L=A^\top BA,\quad B=J^2+\sum_kc_k\nabla_z^2f_k=P^\top\operatorname{diag}"
    r"\big(f\circ(2f-b-\langle f,c\rangle)\big)P,\quad P=I-\mathbf 1f^\top,\quad B\mathbf 1=0,\ B=B^\top",
    method="symbolic",
    scope="all n and d: the core at n = 4, for no term has more than 4 rows, and the form in one column of the data, "
    "which gives all by polarisation; the derivative of the gradient by SymPy at n = 2, d = 2",
    uses=["softmax_regression/S1"],
    control=Control("the signs that are often written", core=core_as_often_written),
)
def hessian_decomposes(core: Callable[[Array, Array], Array] = hessian_core) -> Evidence:
    data, weights, target = array("a", (2, 2)), array("x", (2,)), array("b", (2,))
    gradient = loss_gradient(data, weights, target)
    matrix = hessian(data, weights, target)
    pairs = [(0, 0), (0, 1)]
    found = np.array([sympy.diff(gradient[i], weights[j]) - matrix[i, j] for i, j in pairs], dtype=object)
    by_calculus = vanishes(in_features(found, data, weights), "derivative of the gradient")

    # One entry on the diagonal and one off it are all: nothing distinguishes the rows.
    f, b = array("f", (4,)), array("b", (4,))
    squares, curvature = second_derivatives(f, f - b)
    two_forms = vanishes((core(f, b) - squares - curvature)[0, :2], "five terms against derivatives of f")

    f, s = simplex_symbols("f", 4), array("s", (4,))
    formed = core(f, b)
    factored = vanishes((formed @ s - core_product(f, b, s))[0], "product by the factors")
    null = vanishes([formed[0].sum(), formed[0, 1] - formed[1, 0]], "a row of the core, and its asymmetry")

    column = array("a", (4, 1))
    case = with_prediction(f, column)
    moved = f * (column[:, 0] - f @ column[:, 0])
    assembled = vanishes(
        [
            hessian(*case, b)[1, 1] - column[:, 0] @ formed @ column[:, 0],
            gauss_newton(*case)[1, 1] - moved @ moved,
        ],
        "covariance of the rows",
    )
    return by_calculus & two_forms & factored & null & assembled


# --- its spectrum ---


def spectra(core: Callable[[Array, Array], Array], predictions: Array, targets: Array) -> Array:
    return np.linalg.eigvalsh(core(predictions, targets))


def off_the_simplex(rng: np.random.Generator, n_points: int, n: int) -> Array:
    """Vectors of norm 1 of any sign."""
    return unit(rng.standard_normal((n_points, n)))


def two_row_polynomials(core: Callable[[Array, Array], Array]) -> list[Any]:
    r"""The eigenvalue of $B=\frac\lambda2(1,-1)^\top(1,-1)$ other than 0, at $f=(p,1-p)$ and each vertex $b$."""
    p = scalar("p")
    f = np.array([p, 1 - p], dtype=object)
    vertices = np.array([[1, 0], [0, 1]], dtype=object)
    return [sympy.expand(2 * core(f, b)[0, 0]) for b in vertices]


@claim(
    "softmax_regression/S3",
    title="The spectrum of the core lies far inside [-4, 8]: within [-1, 5/8], and at two rows within sharp constants",
    source="Section on the Hessian: bounds on the terms of B",
    statement=r"v^\top Bv=\lVert Jv\rVert^2+\mathbb E_f[(c-\mathbb E_fc)(v-\mathbb E_fv)^2]"
    r"=\mathbb E_f[q\,(v-\mathbb E_fv)^2],\quad -2\le q\le\tfrac54,"
    r"\quad\operatorname{Var}_fv\le\tfrac12\lVert v\rVert^2\ \Rightarrow\ -I\preceq B\preceq\tfrac58I",
    method="symbolic",
    scope="all n and every target on the simplex for [-1, 5/8]; at n = 2 exactly [-0.2404, 0.3081], both attained; "
    "that these hold for all n is seen in 20000 random cores of 2 to 8 rows and by search at 3, 4 and 6 rows",
    uses=["softmax_regression/S2", "softmax_regression/S7"],
    control=Control("targets of norm 1 off the simplex", targets=off_the_simplex),
)
def spectrum_is_bounded(
    rng: np.random.Generator,
    core: Callable[[Array, Array], Array] = hessian_core,
    targets: Callable[[np.random.Generator, int, int], Array] = random_simplex,
) -> Evidence:
    f, b, v = simplex_symbols("f", 4), array("b", (4,)), array("v", (4,))
    form = hessian_quadratic_form(f, b, v).item()
    q = 2 * f - b - f @ (f - b)
    variance_form = vanishes([form - v @ core(f, b) @ v, form - f @ (q * (v - f @ v) ** 2)], "variance forms")
    # With t = f_i, s = b_i and the other entries of b on the largest of the other entries of f, q is at most
    # 1 + t - t^2 - 2 s (1 - t); and at least 2 t - s - 1 + t s, which is -2 + (1 - s) + t (2 + s).
    t, s = scalar("t"), scalar("s")
    range_of_q = vanishes(
        [
            (2 * t - t**2 - s + t * s + (1 - t) * (1 - s))
            - (sympy.Rational(5, 4) - (t - sympy.Rational(1, 2)) ** 2 - 2 * s * (1 - t)),
            (2 * t - s - 1 + t * s) - (-2 + (1 - s) + t * (2 + s)),
        ],
        "range of q",
    )

    p = scalar("p")
    at_two = two_row_polynomials(core)
    candidates = [0, 1, *sympy.Poly(at_two[0], p).diff(p).real_roots()]
    values = [sympy.N(at_two[0].subs(p, x), 20) for x in candidates if 0 <= x <= 1]
    exact = at_most(
        float(np.max(np.abs(np.array([min(values), max(values)], float) - SHARP_CURVATURE))),
        1e-15,
        "n = 2: extremes off",
    )
    symmetric = vanishes(at_two[0].subs(p, 1 - p) - at_two[1], "n = 2: the other vertex")

    extremes = []
    for n in range(2, 9):
        predictions = random_simplex(rng, 20000 // 7 + 1, n)
        extremes.append(spectra(core, predictions, targets(rng, len(predictions), n)))
    low, high = min(e.min() for e in extremes), max(e.max() for e in extremes)
    # Eigenvalues of a matrix of norm below 1 and of at most 8 rows are off by no more than 1e-14.
    random_cores = at_least(low, SHARP_CURVATURE[0] - 1e-9, "smallest of 20000") & at_most(
        high, SHARP_CURVATURE[1] + 1e-9, "largest of 20000"
    )
    return variance_form & range_of_q & symmetric & exact & random_cores & ascents(rng, core)


def ascents(rng: np.random.Generator, core: Callable[[Array, Array], Array]) -> Evidence:
    """The extremes that a random search reaches, as a distance from the sharp constants."""
    # At 6 rows one search in fifty ends at a lesser maximum: the best of four, of which all would in one of 10^7.
    reached = np.array(
        [[sign * max(sign * searched(rng, core, n, sign) for _ in range(4)) for sign in (-1, 1)] for n in (2, 3, 4, 6)]
    )
    distances = np.max(np.abs(reached - SHARP_CURVATURE), axis=1)
    return at_most(float(distances[0]), 1e-7, "n = 2: extremes reached off") & at_most(
        float(distances.max()), 1e-6, "n = 2, 3, 4, 6: extremes reached off"
    )


def searched(rng: np.random.Generator, core: Callable[[Array, Array], Array], n: int, sign: int) -> float:
    r"""The smallest or largest eigenvalue over predictions: the best of 200 steps around the best so far, each round
    of smaller steps. The form is affine in the target, so its extremes over the simplex lie at vertices.
    """
    vertex = np.eye(n)[0]
    best, found = np.ones(n), -np.inf
    for spread in 0.85 ** np.arange(80):
        # Squares over their sum: the faces of the simplex, where the extremes are, lie at finite points.
        squares = (best + spread * rng.standard_normal((200, n))) ** 2
        predictions = squares / squares.sum(axis=-1, keepdims=True)
        values = np.max(sign * spectra(core, predictions, vertex + 0 * predictions), axis=-1)
        if values.max() > found:
            best, found = np.sqrt(predictions[np.argmax(values)]), float(values.max())
    return sign * found


@figure(
    "softmax_regression/F1",
    title="The spectrum of the Hessian's core",
    caption="Eigenvalues of 20000 cores with prediction and target on the simplex, 2 to 8 rows. They stay within the "
    "sharp constants of two rows; the quoted interval from -4 to 8 is an order of magnitude wider. Many are negative: "
    "the loss is not convex.",
    answers_to="bounds on the Hessian",
)
def spectrum_figure(rng: np.random.Generator) -> Figure:
    eigenvalues = np.concatenate(
        [
            spectra(hessian_core, random_simplex(rng, 2858, n), random_simplex(rng, 2858, n)).reshape(-1)
            for n in range(2, 9)
        ]
    )
    counts, edges = np.histogram(eigenvalues[np.abs(eigenvalues) > 1e-9], bins=80)
    ends = {"quoted": (-4.0, 8.0), "proved here": (-1.0, 0.625), "sharp at n = 2": SHARP_CURVATURE}
    return Figure(
        (
            Series("eigenvalues other than 0", edges[:-1].tolist(), (counts + 1).tolist(), style="steps"),
            *(Series(title, interval, (1.0, 1.0), style="points") for title, interval in ends.items()),
        ),
        x_label=r"eigenvalue $\lambda(B)$",
        y_label="count + 1",
        y_scale="log",
    )
