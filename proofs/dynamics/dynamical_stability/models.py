r"""What the sharpness is in the two models, and what norms say about generalisation (Section 4)."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.ledger import Control, Evidence, at_least, at_most, claim
from proofs.statistics import covers, lies_below, mean_interval
from proofs.symbolic import array, scalar, vanishes
from refimpl.dynamics.dynamical_stability import (
    DiagonalNet,
    ReluNet,
    balance_ratio,
    diagonal_net_jacobian,
    isotropic_eigenvalues,
    isotropic_sharpness,
    l1_supremum,
    mean_activation,
    net_of_ratio,
    path_norm,
    population_fisher,
    population_operator_norm_bounds,
    population_trace,
    rademacher_l1,
    rademacher_path_norm,
    sharpness,
    two_layer_relu_jacobian,
)
from refimpl.dynamics.dynamical_stability.experiments import sample_sphere, sample_uniform_inputs
from refimpl.primitives.numbers import Array

ROUNDOFF = float(np.finfo(float).eps)


def random_net(m: int, d: int, rng: np.random.Generator) -> ReluNet:
    """Weights of very different sizes, so that no two terms can be taken for one another."""
    return ReluNet(2 * rng.standard_normal(m), rng.standard_normal((m, d)) * rng.uniform(0.5, 2, (m, 1)))


def trace_without_dimension(net: ReluNet) -> Array:
    return ((net.w**2).sum(axis=(-2, -1)) + (net.a**2).sum(axis=-1)) / 2


def bounds_of_one_dimension(net: ReluNet) -> tuple[Array, Array]:
    """The lower bound with the constant of d = 1, a half."""
    _, upper = population_operator_norm_bounds(net)
    return upper / 2, upper


def activation_by_quadrature(d: int) -> float:
    r"""$\sqrt d\,\mathbb E\,t_+$ for a coordinate $t$ of the unit sphere, of density $(1-t^2)^{(d-3)/2}$."""
    from scipy import integrate

    # In the angle, where the density is a power of the sine, there is no singularity.
    top, _ = integrate.quad(lambda angle: np.cos(angle) * np.sin(angle) ** (d - 2), 0, np.pi / 2, epsabs=1e-13)
    whole, _ = integrate.quad(lambda angle: np.sin(angle) ** (d - 2), 0, np.pi, epsabs=1e-13)
    return float(d**0.5 * top / whole)


@claim(
    "dynamical_stability/S9",
    title="For two-layer ReLU networks the trace and the largest eigenvalue are equivalent to norms of the weights",
    source="Section 4 (two-layer ReLU networks); constants derived",
    statement=r"\operatorname{Tr}G=\tfrac12\sum_j(\|w_j\|^2+d\,a_j^2)\ge\sqrt d\,\|\theta\|_{\mathcal P},\qquad "
    r"c_d^2S\le\lambda_{\max}(G)\le\tfrac12S,\quad S\ge2\|\theta\|_{\mathcal P}",
    method="symbolic",
    scope="the trace from pairs x, -x of inputs for all weights and inputs at d = m = 2, and AM-GM for each unit; 40 "
    "draws of up to 8 units and 12 inputs with the exact largest eigenvalue; equality at one unit; 20000 sampled "
    "inputs at (d, m) = (20, 7), (12, 5), (30, 10), (3, 4): trace, largest eigenvalue and mean activation; the "
    "constant by quadrature",
    control=[
        Control("the trace without the factor d", trace=trace_without_dimension),
        Control("the constant of d = 1 in the lower bound", bounds=bounds_of_one_dimension),
    ],
)
def relu_equivalence(
    rng: np.random.Generator,
    trace: Callable[[ReluNet], Array] = population_trace,
    bounds: Callable[[ReluNet], tuple[Array, Array]] = population_operator_norm_bounds,
) -> Evidence:
    a, w, x = array("a", (2,)), array("w", (2, 2)), array("x", (1, 2))
    net = ReluNet(a, w)
    g = two_layer_relu_jacobian(net, np.concatenate([x, -x]))
    pair = off_kinks((g * g).sum())
    # E xx' = I and |x|^2 = d make of it the trace.
    unit = ((x @ w.T) ** 2).sum() + (a**2).sum() * (x**2).sum()
    isotropic = sympy.expand(unit).subs({x[0, 0] ** 2: 1, x[0, 1] ** 2: 1, x[0, 0] * x[0, 1]: 0})
    length, output, d = (scalar(name, positive=True) for name in ("w", "a", "d"))
    am_gm = (length**2 + d * output**2) / 2 - sympy.sqrt(d) * length * output
    square = (length - sympy.sqrt(d) * output) ** 2 / 2
    evidence = (
        vanishes(pair - unit, "|g(x)|^2 + |g(-x)|^2")
        & vanishes(isotropic / 2 - trace(net), "its mean less the trace")
        & vanishes(am_gm - square, "trace less path norm less a square")
    )
    below, above, apart, norms = [], [], [], []
    for _ in range(40):
        one = random_net(int(rng.integers(1, 9)), int(rng.integers(2, 13)), rng)
        fisher = population_fisher(one)
        largest = float(np.linalg.eigvalsh(fisher)[-1])
        lower, upper = map(float, bounds(one))
        below.append(lower / largest)
        above.append(largest / upper)
        apart.append(abs(float(trace(one) / np.trace(fisher)) - 1))
        norms.append(float(path_norm(one)) * max(one.w.shape[-1] ** 0.5 / float(trace(one)), 1 / upper))
    single = random_net(1, 7, rng)
    attained = abs(float(np.linalg.eigvalsh(population_fisher(single))[-1] / bounds(single)[1]) - 1)
    evidence &= (
        at_most(max(below), 1 + 1000 * ROUNDOFF, "lower bound over the largest eigenvalue, most")
        & at_most(max(above), 1 + 1000 * ROUNDOFF, "largest eigenvalue over the upper bound, most")
        & at_most(max(apart), 1000 * ROUNDOFF, "trace of the exact G, relative, off by")
        & at_most(max(norms), 1, "path norm times sqrt(d) over the trace, or over S/2, most")
        & at_most(attained, 1000 * ROUNDOFF, "one unit: largest eigenvalue over S/2, less 1")
    )
    for d_, m in ((20, 7), (12, 5), (30, 10), (3, 4)):
        one, inputs, name = random_net(m, d_, rng), sample_sphere((20_000, d_), rng), f"d = {d_}:"
        g = two_layer_relu_jacobian(one, inputs)
        values, vectors = np.linalg.eigh(population_fisher(one))
        # Groups of 100, whose means are near Gaussian.
        along, squares = (
            quantity.reshape(-1, 100).mean(axis=1) for quantity in ((g @ vectors[:, -1]) ** 2, (g**2).sum(axis=-1))
        )
        activation = np.maximum(inputs[:, 0], 0).reshape(-1, 100).mean(axis=1)
        evidence &= (
            covers(mean_interval(squares), float(trace(one)), f"{name} trace")
            & covers(mean_interval(along), float(values[-1]), f"{name} largest eigenvalue")
            & covers(mean_interval(activation), mean_activation(d_), f"{name} mean activation")
            & at_most(abs(mean_activation(d_) / activation_by_quadrature(d_) - 1), 1e-9, f"{name} by quadrature")
        )
    return evidence


def off_kinks(expression: Any) -> Any:
    r"""Write $\sigma(z)=z\,1_{z>0}$ and $1_{-z>0}=1-1_{z>0}$, with a symbol for each step: true except where $z=0$."""
    steps: dict[Any, Any] = {}

    def step(z: Any) -> Any:
        z = sympy.expand(z)
        if -z in steps:
            return 1 - steps[-z]
        return steps.setdefault(z, sympy.Dummy(real=True))

    def rectified(*arguments: Any) -> Any:
        z = next(entry for entry in arguments if entry != 0)
        return z * step(z)

    written = sympy.sympify(expression).replace(sympy.Max, rectified)
    written = written.replace(sympy.Heaviside, lambda z, *at_zero: step(z))
    for dummy in steps.values():
        written = sympy.rem(sympy.expand(written), dummy**2 - dummy, dummy)
    return written


def scaled_by_the_ratio(a: Array, signs: Array, ratio: Any) -> DiagonalNet:
    return DiagonalNet(a, signs * ratio * a)


@claim(
    "dynamical_stability/S11",
    title="For diagonal linear networks the trace is a norm of the product, and weights of any balance can be made",
    source="Section 4 (diagonal linear networks), Section 5",
    statement=r"\mathbb Exx^\top=I:\ \operatorname{Tr}G=\|a\|^2+\|b\|^2\ge2\|\beta\|_1,\ "
    r"\lambda_{\max}=\max_j(a_j^2+b_j^2)\ge2\|\beta\|_\infty;\qquad b=\pm\big(r_0+\sqrt{r_0^2-1}\big)a\Rightarrow "
    r"r=r_0",
    method="symbolic",
    scope="all weights at d = 2, 3, on inputs with exact second moment I: trace, Frobenius norm, characteristic "
    "polynomial; the squares left over, by coordinate; the construction for every r0 > 1 and all weights at d = 2; in "
    "floats at d to 50, with equality where |a| = |b|",
    control=Control("b = r0 a", construct=scaled_by_the_ratio),
)
def diagonal_equivalence(rng: np.random.Generator, construct: Callable[..., DiagonalNet] = net_of_ratio) -> Evidence:
    differences = []
    for d in (2, 3):
        net = DiagonalNet(array("a", (d,)), array("b", (d,)))
        root = sympy.Symbol("s", positive=True)  # of d, as an input s e_j for every j
        g = diagonal_net_jacobian(net, np.eye(d, dtype=int).astype(object) * root)
        fisher = sympy.Matrix(g.T @ g) / d
        fisher = fisher.subs(root**2, d).applyfunc(sympy.expand)
        z = sympy.Symbol("z")
        eigenvalues = isotropic_eigenvalues(net)
        differences += [
            fisher.charpoly(z).as_expr() - z**d * sympy.prod(z - one for one in eigenvalues),
            fisher.trace() - eigenvalues.sum(),
        ]
    one, other = (scalar(name, nonnegative=True) for name in ("p", "q"))
    square = one**2 + other**2 - 2 * one * other - (one - other) ** 2
    half = scalar("k", positive=True)  # r0 = 1 + k
    made = construct(array("a", (2,), positive=True), np.array([1, -1], dtype=object), 1 + half)
    ratio = balance_ratio(made) - (1 + half)
    largest, least, equal, off = 0.0, np.inf, 0.0, 0.0
    for _ in range(50):
        d = int(rng.integers(1, 51))
        a, b, signs = rng.standard_normal(d), rng.standard_normal(d), rng.choice([-1.0, 1.0], d)
        net, r0 = DiagonalNet(a, b), float(rng.uniform(1, 20))
        inputs = np.eye(d) * d**0.5
        sizes, exact = isotropic_sharpness(net), sharpness(diagonal_net_jacobian(net, inputs))
        largest = max(largest, *(abs(float(x / y) - 1) for x, y in zip(sizes, exact, strict=True)))
        least = min(least, float(sizes.trace / (2 * np.abs(a * b).sum())))
        least = min(least, float(sizes.operator_norm / (2 * np.abs(a * b).max())))
        equal = max(equal, abs(float(balance_ratio(DiagonalNet(a, signs * a))) - 1))
        off = max(off, abs(float(balance_ratio(construct(a, signs, r0))) / r0 - 1))
    return (
        vanishes(differences, "spectrum")
        & vanishes(square, "a^2 + b^2 - 2|ab| less a square")
        & vanishes(ratio, "ratio less r0")
        & at_most(largest, 1000 * ROUNDOFF, "sharpness, relative, off by")
        & at_least(least, 1, "trace over twice the l1 norm, or largest eigenvalue over twice the largest entry, least")
        & at_most(equal, 1000 * ROUNDOFF, "|a| = |b|: ratio less 1")
        & at_most(off, 1000 * ROUNDOFF, "ratio over r0, less 1")
    )


def by_n(x: Array, norm: float = 1) -> Array:
    """The bound with 1/n in place of the root."""
    return rademacher_l1(x, norm) / x.shape[-2] ** 0.5


@claim(
    "dynamical_stability/S16",
    title="Norm balls have a Rademacher complexity below the bounds that turn stability into generalisation",
    source="Section 4 (generalisation)",
    statement=r"\mathbb E\Big\|\frac1n\sum_i\varepsilon_ix_i\Big\|_\infty\le\max_i\|x_i\|_\infty\sqrt{\tfrac{2\ln2d}n},"
    r"\qquad\hat{\mathcal R}_n(\|\theta\|_{\mathcal P}\le1)\le2\sqrt{\tfrac dn}",
    method="statistical",
    scope="the exact supremum (the dual norm) at d = 50, n = 30, uniform inputs, 20000 draws of signs; every one of "
    "the signs at n = 8 and d = 1, 3, 100; ReLU units on the circle: the supremum over 720 directions at n = 30, 4000 "
    "draws. The constants of the paper's own generalisation theorem are not in the public abstract and are not judged",
    control=Control("1/n in place of its root", bound=by_n),
)
def norms_control_complexity(rng: np.random.Generator, bound: Callable[..., Array] = rademacher_l1) -> Evidence:
    x = sample_uniform_inputs((30, 50), rng)
    signs = rng.choice([-1.0, 1.0], (20_000, 30))
    evidence = lies_below(mean_interval(l1_supremum(x, signs)), float(bound(x)), "l1 ball, d = 50, n = 30")
    every = np.array(list(itertools.product([-1.0, 1.0], repeat=8)))
    exact = []
    for d in (1, 3, 100):
        small = sample_uniform_inputs((8, d), rng)
        exact.append(float(l1_supremum(small, every).mean() / bound(small)))
    # On the circle the supremum over directions is that of a curve of slope at most sqrt(d).
    circle = sample_sphere((30, 2), rng)
    angles = np.arange(720) * np.pi / 360
    units = np.maximum(circle @ np.stack([np.cos(angles), np.sin(angles)]), 0)
    suprema = np.abs(rng.choice([-1.0, 1.0], (4000, 30)) @ units).max(axis=-1) / 30 + 2**0.5 * np.pi / 720
    return (
        evidence
        & at_most(max(exact), 1, "all signs at n = 8, over the bound, most")
        & lies_below(mean_interval(suprema), float(rademacher_path_norm(circle)), "path norm, d = 2, n = 30")
    )
