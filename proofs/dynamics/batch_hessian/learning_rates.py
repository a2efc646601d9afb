r"""What curvature allows: stability of heavy ball and of damped steps, the square-root rule, Polyak's pace."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.dynamics.batch_hessian.spiked import multiplicative_edge
from proofs.ledger import Control, Evidence, Figure, Series, claim, figure
from proofs.properties import for_all
from proofs.symbolic import scalar, vanishes
from refimpl.dynamics.batch_hessian import (
    Pace,
    damped_step,
    ggn_extremal_eigenvalue,
    heavy_ball_matrix,
    max_learning_rate_adaptive,
    max_learning_rate_sgd,
    minimal_damping,
    polyak_pace,
    scale_learning_rate,
)
from refimpl.oracle.spec import generators
from refimpl.primitives.numbers import Array

ETA, LAMBDA, RHO = scalar("eta", positive=True), scalar("lambda", positive=True), scalar("rho", positive=True)
CURVATURES = st.floats(0.05, 50)


def spectral_radius(matrices: Array) -> Array:
    """Of 2 x 2 matrices with positive determinant, from the characteristic polynomial."""
    half, product = np.trace(matrices, axis1=-2, axis2=-1) / 2, np.linalg.det(matrices)
    root = np.abs(half) + np.sqrt(np.maximum(half**2 - product, 0))
    return np.asarray(np.where(half**2 > product, root, np.sqrt(np.abs(product))))


# --- the square-root rule ---


@st.composite
def positive_hessians(draw: st.DrawFn) -> tuple[Array, Array]:
    """Positive eigenvalues and an orthogonal basis; the largest is not near 1, which is its own root."""
    size = draw(st.integers(2, 12))
    rng = draw(generators())
    largest = draw(st.sampled_from((0.05, 0.4, 3.0, 40.0)))
    eigenvalues = largest * np.concatenate([[1.0], rng.uniform(0.05, 0.9, size - 1)])
    return eigenvalues, np.linalg.qr(rng.standard_normal((size, size)))[0]


@claim(
    "batch_hessian/H12",
    title="Preconditioned by the root of the curvature, descent is stable up to 2/sqrt(lambda'): the square-root rule",
    source="The square-root scaling rule",
    statement=r"w\leftarrow(I-\eta H^{1/2})w\ \text{ diverges iff }\ \eta>\frac2{\sqrt{\lambda_1'}},\qquad "
    r"\lambda_1'\propto\frac1B\ \Rightarrow\ \eta_{max}\propto\sqrt B",
    method="property",
    scope="100 positive definite matrices of 2 to 12 parameters, 2000 steps at 0.99 and 1.01 of the rate; the rule and "
    "the edge with damping for all values",
    control=Control("two over the curvature itself", rate=max_learning_rate_sgd),
)
def square_root_rule(rng: np.random.Generator, rate: Callable[[Any], Any] = max_learning_rate_adaptive) -> Evidence:
    def growth(case: tuple[Array, Array]) -> float:
        eigenvalues, basis = case
        root = (basis * np.sqrt(eigenvalues)) @ basis.T
        start = basis.sum(axis=1)
        below, above = (
            np.linalg.norm(
                np.linalg.matrix_power(np.eye(len(root)) - factor * float(rate(eigenvalues[0])) * root, 2000) @ start
            )
            for factor in (0.99, 1.01)
        )
        # Without rounding (1 - 0.02)^2000 = 3e-18 and (1 + 0.02)^2000 = 2e17, times a start of length up to 3.5.
        return float(max(below, 1 / above))

    size, base, batch = scalar("c", positive=True), scalar("B_0", positive=True), scalar("B", positive=True)
    scaled = scale_learning_rate(rate(size / base), base, batch, "sqrt")
    delta = scalar("delta", positive=True)
    damped = max_learning_rate_adaptive(LAMBDA, delta) * LAMBDA / (sympy.sqrt(LAMBDA) + delta)
    with np.errstate(all="ignore"):
        seen = for_all(rng, positive_hessians(), growth, 1e-10, quantity="norm below, or one over the norm above,")
    return (
        seen
        & vanishes(rate(size / batch) - scaled, "the rate at B less the rule's")
        & vanishes(damped - 2, "step times preconditioned curvature at the rate, less 2,")
    )


# --- heavy ball ---


@claim(
    "batch_hessian/H14",
    title="Heavy ball is stable exactly below 2 (1 + rho)/lambda",
    source="The largest stable learning rate",
    statement=r"r\begin{pmatrix}1+\rho-\eta\lambda&-\rho\\1&0\end{pmatrix}<1\iff0<\eta\lambda<2(1+\rho)",
    method="symbolic",
    scope="all rates, momenta and curvatures, by Jury's three conditions on the characteristic polynomial; 200 "
    "settings at 0.999 and 1.001 of the edge",
    control=Control("two over the curvature, whatever the momentum", rate=lambda curvature, momentum: 2 / curvature),
)
def heavy_ball_stability(rng: np.random.Generator, rate: Callable[[Any, Any], Any] = max_learning_rate_sgd) -> Evidence:
    z = scalar("z")
    matrix = sympy.Matrix(heavy_ball_matrix(ETA, RHO, LAMBDA))
    polynomial = (z * sympy.eye(2) - matrix).det()
    # p(1) > 0, p(-1) > 0 and |p(0)| < 1 are necessary and sufficient for both roots to be inside the unit circle.
    evidence = vanishes(
        [
            polynomial.subs(z, 1) - ETA * LAMBDA,
            polynomial.subs(z, -1) - (2 * (1 + RHO) - ETA * LAMBDA),
            polynomial.subs(z, 0) - RHO,
        ],
        "p(1) - eta lambda, p(-1) - (2 (1 + rho) - eta lambda), p(0) - rho",
    )
    largest = np.asarray(rate(LAMBDA, RHO), dtype=object)[()]
    evidence &= vanishes(polynomial.subs(z, -1).subs(ETA, largest), "p(-1) at the largest rate")

    def wrong_side(case: tuple[float, float]) -> float:
        curvature, momentum = case
        edge = float(rate(curvature, momentum))
        below, above = (
            float(spectral_radius(heavy_ball_matrix(factor * edge, momentum, curvature))) for factor in (0.999, 1.001)
        )
        return max(below, 2 - above)

    settings = st.tuples(CURVATURES, st.floats(0, 0.95))
    return evidence & for_all(rng, settings, wrong_side, 1 - 1e-6, 200, "radius below, or 2 less that above,")


@claim(
    "batch_hessian/H15",
    title="Polyak's pace is the fastest heavy ball on an interval of curvatures: sqrt(rho) a step",
    source="On-the-fly learning rates (Polyak 1964)",
    statement=r"\min_{\eta,\rho}\max_{\mu\le\lambda\le L}r(\eta,\rho,\lambda)=\sqrt{\rho^*}="
    r"\frac{\sqrt L-\sqrt\mu}{\sqrt L+\sqrt\mu}",
    method="property",
    scope="at the pace the roots are complex, of size sqrt(rho), on the interval and nowhere else (all values); 100 "
    "intervals with condition numbers up to 10^4, each against 50 other paces, at 201 curvatures",
    uses=["batch_hessian/H14"],
    control=[
        Control("a tenth more rate", pace=lambda L, mu: polyak_pace(L, mu)._replace(learning_rate=_more(L, mu))),
        Control("a fifth less momentum", pace=lambda L, mu: polyak_pace(L, mu)._replace(momentum=_less(L, mu))),
    ],
)
def polyak_is_optimal(rng: np.random.Generator, pace: Callable[[Any, Any], Pace] = polyak_pace) -> Evidence:
    top, bottom = scalar("a", positive=True), scalar("b", positive=True)
    symbolic = pace(top**2, bottom**2)
    root = sympy.sqrt(symbolic.momentum).subs(sympy.Abs(top - bottom), top - bottom)
    evidence = vanishes(
        [
            symbolic.learning_rate * bottom**2 - (1 - (top - bottom) / (top + bottom)) ** 2,
            symbolic.learning_rate * top**2 - (1 + (top - bottom) / (top + bottom)) ** 2,
            symbolic.momentum - ((top - bottom) / (top + bottom)) ** 2,
            root**2 - symbolic.momentum,
        ],
        "ends of the complex roots, (1 -+ sqrt(rho))^2/eta, less L and mu",
    )

    def excess(case: tuple[float, float, int]) -> float:
        smallest, condition, seed = case
        largest = smallest * condition
        curvatures = np.geomspace(smallest, largest, 201)
        chosen = pace(largest, smallest)
        best = float(np.max(spectral_radius(heavy_ball_matrix(*chosen, curvatures))))
        others = np.random.default_rng(seed)
        rates = chosen.learning_rate * np.exp(others.normal(0, 0.3, 50))
        momenta = np.clip(chosen.momentum + others.normal(0, 0.2, 50), 0, 0.999)
        rival = min(
            float(np.max(spectral_radius(heavy_ball_matrix(rate, momentum, curvatures))))
            for rate, momentum in zip(rates, momenta, strict=True)
        )
        predicted = (largest**0.5 - smallest**0.5) / (largest**0.5 + smallest**0.5)
        return max(abs(best - predicted), best - rival)

    cases = st.tuples(CURVATURES, st.floats(2, 1e4), st.integers(0, 2**32 - 1))
    # At the ends the roots are double, and so right to the root of the precision only.
    bound = 8 * float(np.finfo(float).eps) ** 0.5
    return evidence & for_all(rng, cases, excess, bound, 100, "radius from sqrt(rho*), or above another pace's,")


def _more(largest: Any, smallest: Any) -> Any:
    return polyak_pace(largest, smallest).learning_rate * 11 / 10


def _less(largest: Any, smallest: Any) -> Any:
    return polyak_pace(largest, smallest).momentum * 4 / 5


# --- damping ---


@st.composite
def damped_problems(draw: st.DrawFn) -> tuple[float, Array, Array]:
    """A rate, and curvatures as the batch presents and the preconditioner reports them: too small where it matters."""
    size = draw(st.integers(1, 6))
    rng = draw(generators())
    rate = draw(st.floats(0.05, 1.5))
    batch = rng.uniform(0.5, 20, size)
    return rate, batch, rate * batch / 2 * rng.uniform(0.05, 0.8, size)


def half_of_it(learning_rate: Any, batch: Any, estimated: Any) -> Any:
    return minimal_damping(learning_rate, batch, estimated) / 2


@claim(
    "batch_hessian/H19",
    title="A damped second-order step needs a damping of eta lambda'/2 - lambda-hat, in flat directions eta/B",
    source="Minimal damping",
    statement=r"\delta_{min}=\frac{\eta\lambda'}2-\hat\lambda,\qquad\hat\lambda\to0,\ \lambda'=\frac cB\ \Rightarrow\ "
    r"\delta_{min}=\frac{\eta c}{2B}",
    method="symbolic",
    scope="all rates, curvatures and batch sizes; 100 problems of 1 to 6 parameters in a random basis, 2000 damped "
    "steps at 0.99 and 1.01 of the largest minimal damping",
    control=Control("half of it", damping=half_of_it),
)
def damping_needed(rng: np.random.Generator, damping: Callable[[Any, Any, Any], Any] = minimal_damping) -> Evidence:
    reported, missing, c, batch_size = (scalar(name, positive=True) for name in ("h", "t", "c", "B"))
    presented = 2 * (reported + missing) / ETA  # curvature that needs a positive damping
    needed = np.asarray(damping(ETA, presented, reported), dtype=object)[()]
    gradient = np.array([presented], dtype=object)  # of the batch at w = 1
    factor = 1 + damped_step(gradient, np.array([[reported]], dtype=object), needed, ETA)
    flat = np.asarray(damping(ETA, c / batch_size, np.asarray(sympy.Integer(0), dtype=object)), dtype=object)[()]
    evidence = vanishes(
        [needed - (ETA * presented / 2 - reported), factor[0] + 1, flat - ETA * c / (2 * batch_size)],
        "the damping, the step's factor + 1 at it, and the damping in a flat direction",
    )

    def growth(case: tuple[float, Array, Array]) -> float:
        rate, presented, reported = case
        basis = np.linalg.qr(np.random.default_rng(len(presented)).standard_normal((len(presented),) * 2))[0]
        needed = float(np.max(damping(rate, presented, reported)))
        hessian, estimate = ((basis * curvature) @ basis.T for curvature in (presented, reported))
        estimate = (estimate + estimate.T) / 2
        norms = []
        for delta in (1.01 * needed, 0.99 * needed):
            step = np.stack([damped_step(column, estimate, delta, rate) for column in hessian.T], axis=1)
            norms.append(np.linalg.norm(np.linalg.matrix_power(np.eye(len(hessian)) + step, 20000) @ basis.sum(axis=1)))
        return float(max(norms[0], 1 / norms[1]))

    with np.errstate(all="ignore"):
        seen = for_all(rng, damped_problems(), growth, 1e-10, quantity="norm above, or one over the norm below,")
    return evidence & seen


@figure(
    "batch_hessian/F10",
    title="The largest stable rate against the batch size",
    caption="Two over the batch's curvature (SGD) and over its root (Adam), P = 1000 with an outlier at 6: slopes near "
    "1 and 1/2, the rules dashed, until the outlier takes over and the rates stay.",
    answers_to="the linear and the square-root scaling rule",
)
def rules_figure(rng: np.random.Generator) -> Figure:
    sizes = [int(size) for size in np.unique(np.geomspace(4, 20000, 50).round())]
    tops = np.array([float(ggn_extremal_eigenvalue(6.0, 1000, size, 1.0)) for size in sizes])
    early = [size for size in sizes if size <= 200]
    base = float(multiplicative_edge(1000, sizes[0]))
    return Figure(
        (
            Series("SGD", sizes, max_learning_rate_sgd(tops).tolist()),
            Series(
                "linear rule",
                early,
                [float(scale_learning_rate(2 / base, sizes[0], size, "linear")) for size in early],
            ),
            Series("Adam", sizes, max_learning_rate_adaptive(tops).tolist()),
            Series(
                "square-root rule",
                early,
                [float(scale_learning_rate(2 / base**0.5, sizes[0], size, "sqrt")) for size in early],
            ),
        ),
        x_label="batch size $B$",
        y_label=r"largest stable learning rate $\eta$",
        x_scale="log",
        y_scale="log",
    )
