r"""How far noise moves the ends of a spectrum (the theorems on the Hessian and on the Gauss-Newton matrix)."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import sympy

from proofs.dynamics.batch_hessian.digits import seed_of
from proofs.ledger import Control, Evidence, Figure, Series, at_most, claim, figure, within
from proofs.statistics import covers, mean_interval
from proofs.symbolic import block, scalar, vanishes
from proofs.wick import Gaussian, expectation
from refimpl.dynamics.batch_hessian import (
    additive_extremal_eigenvalues,
    bulk_edge,
    eigenvector_overlap,
    ggn_extremal_eigenvalue,
    max_learning_rate_sgd,
    outlier_position,
    scale_learning_rate,
    spiked_covariance_samples,
    spiked_wigner,
    stieltjes_slope,
    stieltjes_transform,
    wigner_noise,
)
from refimpl.primitives.lanczos import lanczos
from refimpl.primitives.numbers import Array
from refimpl.primitives.traces import inner, trace_symbol

# s > 0, and an eigenvalue s + t above the threshold s.
S, T = scalar("s", positive=True), scalar("t", positive=True)
N_PARAMS = 600


def additive_top(eigenvalue: Any, noise_scale: Any = 1.0) -> Any:
    """The shipped $\\lambda_1'$ at $s$, whatever parameters and batches make it."""
    return additive_extremal_eigenvalues(eigenvalue, -eigenvalue, 1, noise_scale**2, 1)[0][()]


class Ends(NamedTuple):
    """The extreme eigenvalues of draws and their eigenvectors' squared components along the first two unit vectors."""

    eigenvalues: Array
    """Shape (n_draws, 2): the smallest and the largest."""
    overlaps: Array
    """Shape (n_draws, 2, 2): of which end, along which unit vector."""


# What a bulk's edge, the slowest end, then misses is of the order of 1e-8.
LANCZOS_STEPS = 100


@cache
def drawn_ends(spikes: tuple[float, ...], noise_scale: float, n_draws: int, seed: int) -> Ends:
    """Draws of a spiked Wigner matrix; the same for a claim and its controls, which share the seed."""
    rng = np.random.default_rng(seed)
    values, overlaps = [], []
    for _ in range(n_draws):
        matrix = spiked_wigner(np.array(spikes), N_PARAMS, noise_scale, rng)
        ritz, vectors = lanczos(matrix.dot, N_PARAMS, LANCZOS_STEPS, rng).ritz_pairs()
        values.append(ritz[[0, -1]])
        overlaps.append(vectors[[0, -1], :2] ** 2)
    return Ends(np.array(values), np.array(overlaps))


# Above the threshold s = 1 far and near, below it, and at the lower end.
SPIKES = ((3.0, -2.0), (1.5,), (0.7,))


# --- the additive model ---


@claim(
    "batch_hessian/H3",
    title="Noise moves an outlier of the Hessian by s^2/lambda, and below the threshold leaves the edge at 2s",
    source="Theorem on the extremal eigenvalues of the batch Hessian",
    statement=r"\lambda_1'=\lambda_1+\frac{P\sigma_\epsilon^2}{\mathfrak b\lambda_1}\ \text{ if }\ "
    r"\lambda_1>\sigma_\epsilon\sqrt{P/\mathfrak b},\ \text{ else }\ 2\sigma_\epsilon\sqrt{P/\mathfrak b}",
    method="statistical",
    scope="P = 600, s = 1, means of 20 draws of spiked Wigner matrices at 3, 1.5, 0.7 and -2: within 2%, where one "
    "draw scatters by up to 1.6% and the bias of so few parameters is up to 0.8%",
    control=[
        Control("the full data's eigenvalue", position=lambda eigenvalue: eigenvalue),
        Control("the outlier's formula below the threshold too", position=lambda x: x + 1 / x),
    ],
)
def additive_positions(rng: np.random.Generator, position: Callable[[float], Any] = additive_top) -> Evidence:
    evidence = Evidence(())
    for spikes in SPIKES:
        smallest, largest = np.mean(drawn_ends(spikes, 1.0, 20, seed_of(rng)).eigenvalues, axis=0)
        evidence &= within(largest / position(spikes[0]), 0.98, 1.02, f"top at {spikes[0]:g}, seen over formula,")
        if spikes[-1] < 0:
            evidence &= within(-smallest / position(-spikes[-1]), 0.98, 1.02, f"bottom at {spikes[-1]:g}")
    return evidence


def shipped_overlap(eigenvalue: float) -> float:
    return float(eigenvector_overlap(eigenvalue, 1, 1.0, 1))


@claim(
    "batch_hessian/H4",
    title="The batch's top eigenvector keeps a squared cosine of 1 - s^2/lambda^2 to the full data's, below s none",
    source="Theorem on the eigenvectors",
    statement=r"(u_1^\top u_1')^2=1-\frac{P\sigma_\epsilon^2}{\mathfrak b\lambda_1^2}",
    method="statistical",
    scope="P = 600, s = 1, means of 20 draws at 3, 1.5, 0.7 and -2: within 0.04, one draw's standard deviation at 1.5",
    uses=["batch_hessian/H3"],
    control=Control("1 - s/lambda: the square left out", overlap=lambda eigenvalue: max(0.0, 1 - 1 / abs(eigenvalue))),
)
def overlaps_with_full_data(rng: np.random.Generator, overlap: Callable[[float], float] = shipped_overlap) -> Evidence:
    evidence = Evidence(())
    for spikes in SPIKES:
        seen = np.mean(drawn_ends(spikes, 1.0, 20, seed_of(rng)).overlaps, axis=0)
        evidence &= at_most(abs(seen[1, 0] - overlap(spikes[0])), 0.04, f"error at {spikes[0]:g}")
        if spikes[-1] < 0:
            evidence &= at_most(abs(seen[0, 1] - overlap(spikes[-1])), 0.04, f"at {spikes[-1]:g}")
    return evidence


def semicircle_transform(x: Any, noise_scale: Any) -> Any:
    r"""$g_{sc}(x)=\frac{x-\sqrt{x^2-4s^2}}{2s^2}$ beyond the edge $2s$."""
    return (x - sympy.sqrt(sympy.factor(sympy.together(x**2 - 4 * noise_scale**2)))) / (2 * noise_scale**2)


@claim(
    "batch_hessian/H5",
    title="The outlier's position is where the semicircle's transform is 1/lambda, and it meets the edge at lambda = s",
    source="Theorem on the extremal eigenvalues (its derivation)",
    statement=r"g_{sc}(\lambda_1')=\frac1{\lambda_1},\qquad\lambda+\frac{s^2}\lambda-2s=\frac{(\lambda-s)^2}\lambda",
    method="symbolic",
    scope="all s > 0 and all eigenvalues above it",
    control=Control(
        "an eigenvalue below the threshold, by the outlier's formula",
        eigenvalue=S**2 / (S + T),
        position=lambda eigenvalue, noise_scale: eigenvalue + noise_scale**2 / eigenvalue,
    ),
)
def outlier_equation(eigenvalue: Any = S + T, position: Callable[[Any, Any], Any] = additive_top) -> Evidence:
    moved = position(eigenvalue, S)
    g, x = semicircle_transform(moved, S), scalar("x", positive=True)
    # Only with this sign of the root is the transform about 1/x far out.
    far = sympy.limit(x * semicircle_transform(x, S), x, sympy.oo)
    return (
        vanishes(S**2 * g**2 - moved * g + 1, "the semicircle's equation")
        & vanishes(far - 1, "x g(x) - 1 far out")
        & vanishes(g - 1 / eigenvalue, "g(lambda') - 1/lambda")
        & vanishes(moved - 2 * S - (eigenvalue - S) ** 2 / eigenvalue, "distance to the edge")
    )


def two_point_bulk(spike: float) -> tuple[float, ...]:
    return (spike, *(float((-1) ** i) for i in range(N_PARAMS - 1)))


POINTS = np.array([1.0, -1.0])


def point_bulk(eigenvalue: float, bulk: Array, noise_scale: float) -> Any:
    """As if the bulk were at its mean."""
    return outlier_position(eigenvalue, np.array([bulk.mean()]), noise_scale)


def never_an_edge(eigenvalue: float, bulk: Array, noise_scale: float) -> Any:
    return eigenvalue + noise_scale**2 * stieltjes_transform(eigenvalue, bulk)


@claim(
    "batch_hessian/H6",
    title="A bulk that is more than a point moves an outlier by s^2 times its transform, and has an edge of its own",
    source="Extension of the theorem on the extremal eigenvalues (derived)",
    statement=r"\lambda_1'=\lambda_1+s^2g_\mu(\lambda_1)\ \text{ while }\ s^2\int\frac{d\mu(y)}{(\lambda_1-y)^2}<1,"
    r"\ \text{ else }\ x^*+s^2g_\mu(x^*)",
    method="statistical",
    scope="the transform of a bulk at 1 and -1 for all x; a bulk at 0 is H3's formula, at 40 eigenvalues to roundoff; "
    "P = 600, means of 8 draws of two outliers and of two edges: within 3%, where a bulk at 0 is off by 5 to 8%",
    uses=["batch_hessian/H3", "batch_hessian/H5"],
    control=[
        Control("the bulk at its mean", position=point_bulk),
        Control("the outlier's formula below its threshold", position=never_an_edge),
    ],
)
def general_bulk(
    rng: np.random.Generator, position: Callable[[float, Array, float], Any] = outlier_position
) -> Evidence:
    x, points = scalar("x"), np.array([sympy.Integer(1), sympy.Integer(-1)])
    evidence = vanishes(
        [
            stieltjes_transform(x, points) - x / (x**2 - 1),
            stieltjes_slope(x, points) - (x**2 + 1) / (x**2 - 1) ** 2,
            stieltjes_slope(x, points) + sympy.diff(stieltjes_transform(x, points)[()], x),
        ],
        "transform of two points",
    )
    eigenvalues = np.linspace(0.05, 4, 40)
    apart = np.max(np.abs(position_at_zero(eigenvalues) - additive_top(eigenvalues)))
    evidence &= at_most(float(apart), 16 * float(np.finfo(float).eps), "bulk at 0, from H3's formula")
    for spike, noise_scale in ((1.5, 0.5), (2.0, 0.8), (1.21, 0.5), (1.44, 1.0)):
        ends = drawn_ends(two_point_bulk(spike), noise_scale, 8, seed_of(rng))
        kind = "outlier" if spike > bulk_edge(POINTS, noise_scale) else "edge"
        ratio = float(np.mean(ends.eigenvalues[:, 1]) / position(spike, POINTS, noise_scale))
        evidence &= within(ratio, 0.97, 1.03, f"{kind} at {spike:g}, s = {noise_scale:g}, seen over formula,")
    return evidence


def position_at_zero(eigenvalues: Array) -> Array:
    return outlier_position(eigenvalues, np.zeros(1), 1.0)


@claim(
    "batch_hessian/H13",
    title="A step on a noisy batch grows, in mean square, above two over lambda + s^2/lambda",
    source="The largest stable learning rate (derived)",
    statement=r"\mathbb E\lVert(I-\eta H_{batch})u_1\rVert^2=1-2\eta\lambda+\eta^2(\lambda^2+s_P^2),\quad "
    r"s_P^2=s^2\frac{P+1}P,\quad\text{which is 1 at }\eta=\frac2{\lambda+s_P^2/\lambda}",
    method="symbolic",
    scope="all P (Gaussian blocks), all eigenvalues, noise and rates; in the limit the rate is 2/lambda_1' of H3; and "
    "20000 draws at P = 7, whose interval at a false-alarm rate of 1e-6 holds 1",
    uses=["batch_hessian/H3"],
    control=[
        Control("the noise's scale without the correction for few parameters", finite=lambda n_params: 1),
        Control("two over the full data's eigenvalue", with_noise=False),
    ],
)
def growth_on_a_noisy_batch(
    rng: np.random.Generator,
    finite: Callable[[Any], Any] = lambda n_params: (n_params + 1) / n_params,
    with_noise: bool = True,
) -> Evidence:
    gaussian, u = block("A"), block("u", "column")
    eta, lam, size = scalar("eta", positive=True), S + T, scalar("P", positive=True, integer=True)
    noise = wigner_noise(np.array([[gaussian]], dtype=object), S, size)[0, 0]
    hessian = lam * u * sympy.transpose(u) + noise
    step = np.array([[u - eta * hessian * u]], dtype=object)
    mean = expectation(inner(step, step)[0, 0], Gaussian(gaussian, rows=size, columns=size))
    mean = mean.xreplace({trace_symbol()(sympy.transpose(u) * u): sympy.Integer(1)})

    def rate(eigenvalue: Any, noise_scale: Any, n_params: Any) -> Any:
        variance = noise_scale**2 * finite(n_params) if with_noise else 0
        return 2 / (eigenvalue + variance / eigenvalue)

    evidence = vanishes(
        mean - (1 - 2 * eta * lam + eta**2 * (lam**2 + S**2 * finite(size))), "mean squared length"
    ) & vanishes(mean.subs(eta, rate(lam, S, size)) - 1, "its growth at the rate")
    limit = sympy.limit(rate(lam, S, size), size, sympy.oo)
    evidence &= vanishes(limit - max_learning_rate_sgd(additive_top(lam, S)), "the rate for many parameters")
    n_params, eigenvalue, noise_scale = 7, 1.0, 0.8
    unit = np.eye(n_params)[0]
    draws = wigner_noise(rng.standard_normal((20000, n_params, n_params)), noise_scale, n_params)
    after = unit - rate(eigenvalue, noise_scale, n_params) * (eigenvalue * unit + draws[:, :, 0])
    return evidence & covers(mean_interval((after**2).sum(axis=1)), 1, "seen at P = 7")


# --- the multiplicative model ---


@cache
def drawn_tops(
    eigenvalue: float, n_params: int, batch_size: int, variance: float, n_draws: int, seed: int
) -> tuple[float, ...]:
    """The largest eigenvalues of Gauss-Newton matrices, by the smaller of both Gram matrices."""
    rng = np.random.default_rng(seed)
    tops = []
    for _ in range(n_draws):
        x = spiked_covariance_samples(eigenvalue, n_params, batch_size, variance, rng)
        gram = x @ x.T if batch_size < n_params else x.T @ x
        tops.append(float(np.linalg.eigvalsh(gram)[-1]) / batch_size)
    return tuple(tops)


def additive_in_place(eigenvalue: float, n_params: int, batch_size: int, variance: float) -> Any:
    r"""The additive formula at $s=\sigma^2\sqrt{P/B}$."""
    return additive_top(eigenvalue, variance * (n_params / batch_size) ** 0.5)


@claim(
    "batch_hessian/H7",
    title="Noise multiplies an outlier of the Gauss-Newton matrix; below a threshold it leaves Marchenko-Pastur's edge",
    source="Theorem on the generalised Gauss-Newton matrix",
    statement=r"\lambda_1'=\lambda_1\Big(1+\frac{\gamma\sigma^2}{\lambda_1-\sigma^2}\Big)\ \text{ if }\ "
    r"\lambda_1>\sigma^2(1+\sqrt\gamma),\ \text{ else }\ \sigma^2(1+\sqrt\gamma)^2,\quad\gamma=\frac PB",
    method="statistical",
    scope="four outliers, means of 80 draws (20 at B = 1600) within 5%, where one draw scatters by 7% and the bias is "
    "0.8%; an edge, mean of 40 draws within 3%, where the bias of P = 400 is 1.2%; P from 300 to 400, B from 200 to "
    "1600, variances from 0.5 to 2",
    control=Control("the additive formula with s = variance sqrt(P/B)", formula=additive_in_place),
)
def multiplicative_positions(
    rng: np.random.Generator, formula: Callable[[float, int, int, float], Any] = ggn_extremal_eigenvalue
) -> Evidence:
    evidence = Evidence(())
    for eigenvalue, n_params, batch_size, variance, n_draws, tolerance in (
        (8.0, 400, 200, 1.0, 80, 0.05),
        (8.0, 400, 1600, 1.0, 20, 0.05),
        (2.0, 400, 200, 1.0, 40, 0.03),
        (6.0, 300, 400, 2.0, 80, 0.05),
        (5.0, 400, 200, 0.5, 80, 0.05),
    ):
        setting = (eigenvalue, n_params, batch_size, variance)
        ratio = float(np.mean(drawn_tops(*setting, n_draws, seed_of(rng))) / formula(*setting))
        evidence &= within(
            ratio,
            1 - tolerance,
            1 + tolerance,
            f"{eigenvalue:g} at P = {n_params}, B = {batch_size}, seen over formula,",
        )
    return evidence


BATCHES = (5, 10, 20, 40)


def multiplicative_edge(n_params: Any, batch_size: Any) -> Any:
    """Without an outlier: all eigenvalues of the full data are 1."""
    return ggn_extremal_eigenvalue(np.asarray(1.0), n_params, batch_size, 1.0)[()]


def additive_edge(n_params: Any, batch_size: Any) -> Any:
    return additive_in_place(1.0, n_params, batch_size, 1.0)


@claim(
    "batch_hessian/H11",
    title="With many more parameters than examples a batch's curvature falls as 1/B: the linear rule, up to 2/lambda_1",
    source="The linear scaling rule",
    statement=r"\frac{B\lambda_1'}{P\sigma^2}\to1\ (P/B\to\infty),\qquad\eta_{max}=\frac2{\lambda_1'}\propto B,\qquad "
    r"\eta_{max}\to\frac2{\lambda_1}\ (B\to\infty)",
    method="symbolic",
    scope="the limits for all B; P = 1000, 20 draws each at B = 5, 10, 20 and 40: the exponent within 0.05 of the "
    "formula's -0.891",
    uses=["batch_hessian/H7"],
    control=Control("the additive model's edge, whose exponent is -1/2", edge=additive_edge),
)
def linear_rule(rng: np.random.Generator, edge: Callable[[Any, Any], Any] = multiplicative_edge) -> Evidence:
    size, batch, base = (scalar(name, positive=True, integer=True) for name in ("P", "B", "B_0"))
    one = np.asarray(sympy.Integer(1), dtype=object)
    top = ggn_extremal_eigenvalue(one, size, batch, 1)[()]
    largest_rate, base_rate = (
        max_learning_rate_sgd(ggn_extremal_eigenvalue(one, size, b, 1))[()] for b in (batch, base)
    )
    followed = scale_learning_rate(base_rate, base, batch, "linear")[()]
    evidence = vanishes(
        [sympy.limit(batch * top / size, size, sympy.oo) - 1, sympy.limit(largest_rate / followed, size, sympy.oo) - 1],
        "B lambda_1'/P, and the largest rate over the rule's, less 1, for P to infinity",
    )
    saturated = max_learning_rate_sgd(ggn_extremal_eigenvalue(5.0, 1000, 10**12, 1.0))
    evidence &= at_most(abs(float(saturated) - 2 / 5), 1e-9, "rate at huge batches, from 2/lambda_1")
    means = [float(np.mean(drawn_tops(1.0, 1000, b, 1.0, 20, seed_of(rng)))) for b in BATCHES]
    seen, predicted = (
        float(np.polyfit(np.log(BATCHES), np.log(values), 1)[0])
        for values in (means, [float(edge(1000, b)) for b in BATCHES])
    )
    return evidence & within(seen, predicted - 0.05, predicted + 0.05, "exponent")


# --- figures ---


def position_curve(rng: np.random.Generator, spikes: Sequence[float]) -> list[Ends]:
    return [drawn_ends((spike,), 1.0, 6, seed_of(rng)) for spike in spikes]


@figure(
    "batch_hessian/F4",
    title="The batch's largest eigenvalue against the full data's, additive noise",
    caption="At s = 1 an eigenvalue below 1 is hidden behind the edge at 2; above, it stands outside, moved by "
    "1/lambda and so to less than twice its value. P = 600, means of 6 draws with two standard errors.",
    answers_to="the theorem on the extremal eigenvalues",
)
def additive_figure(rng: np.random.Generator) -> Figure:
    spikes = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0]
    tops = [ends.eigenvalues[:, 1] for ends in position_curve(rng, spikes)]
    grid = np.linspace(0.1, 3, 60)
    return Figure(
        (
            Series(
                "draws",
                spikes,
                [float(top.mean()) for top in tops],
                "points",
                [2 * float(top.std(ddof=1)) / len(top) ** 0.5 for top in tops],
            ),
            Series("the theorem", grid.tolist(), additive_top(grid).tolist()),
            Series("without noise", grid.tolist(), grid.tolist()),
        ),
        x_label=r"$\lambda_1/s$, largest eigenvalue of all the data",
        y_label=r"$\lambda_1'/s$, that of the batch",
    )


@figure(
    "batch_hessian/F5",
    title="What a batch's top eigenvector has in common with the full data's",
    caption="The squared cosine is 0 up to lambda = s and then rises towards 1. P = 600, means of 6 draws with two "
    "standard errors; so few parameters round the corner off.",
    answers_to="the theorem on the eigenvectors",
)
def overlap_figure(rng: np.random.Generator) -> Figure:
    spikes = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0]
    seen = [ends.overlaps[:, 1, 0] for ends in position_curve(rng, spikes)]
    grid = np.linspace(0.1, 3, 60)
    return Figure(
        (
            Series(
                "draws",
                spikes,
                [float(one.mean()) for one in seen],
                "points",
                [2 * float(one.std(ddof=1)) / len(one) ** 0.5 for one in seen],
            ),
            Series("the theorem", grid.tolist(), eigenvector_overlap(grid, 1, 1.0, 1).tolist()),
        ),
        x_label=r"$\lambda_1/s$, largest eigenvalue of all the data",
        y_label="squared overlap",
    )


@figure(
    "batch_hessian/F6",
    title="The batch's largest eigenvalue against the batch size, multiplicative noise",
    caption="P = 1000, an outlier at 6 over a bulk at 1. In small batches the outlier is hidden behind Marchenko and "
    "Pastur's edge, which falls as 1/B; in large ones it is back at 6. Means of 6 draws with two standard errors.",
    answers_to="the theorem on the Gauss-Newton matrix and the linear scaling rule",
)
def multiplicative_figure(rng: np.random.Generator) -> Figure:
    sizes = [5, 10, 20, 40, 80, 160, 320]
    tops = [np.array(drawn_tops(6.0, 1000, size, 1.0, 6, seed_of(rng))) for size in sizes]
    grid = [int(b) for b in np.unique(np.geomspace(5, 20000, 60).round())]
    return Figure(
        (
            Series(
                "draws",
                sizes,
                [float(top.mean()) for top in tops],
                "points",
                [2 * float(top.std(ddof=1)) / len(top) ** 0.5 for top in tops],
            ),
            Series("the theorem", grid, [float(ggn_extremal_eigenvalue(6.0, 1000, b, 1.0)) for b in grid]),
            Series("the edge alone", grid, [float(multiplicative_edge(1000, b)) for b in grid]),
            Series("all the data", grid, [6.0] * len(grid)),
        ),
        x_label="batch size $B$",
        y_label=r"largest eigenvalue $\lambda_1'$",
        x_scale="log",
        y_scale="log",
    )
