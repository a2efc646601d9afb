r"""What a batch's Hessian fluctuates by, and that its extreme eigenvalues exceed the full data's (Sections 2 and 3)."""

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st
from scipy import special

from proofs.dynamics.batch_hessian.digits import batch_lambda_max, batch_product, batches, seed_of, trained_digits
from proofs.ledger import Control, Evidence, Figure, Series, at_least, at_most, claim, figure, holds, within
from proofs.properties import for_all
from proofs.statistics import covers, mean_interval
from proofs.symbolic import block, scalar, vanishes
from proofs.wick import Gaussian, expectation
from refimpl.dynamics.batch_hessian import (
    batch_hessian,
    effective_batch_size,
    exact_hessian_noise_variance,
    hessian_noise_variance,
    initial_perceptron,
    per_example_norms,
    per_example_products,
    rayleigh_excess,
    second_order_excess,
    softmax_output_hessians,
)
from refimpl.oracle.spec import generators
from refimpl.oracle.specs.dynamics.batch_hessian.levels import labelled_networks
from refimpl.primitives.curvature import mlp_curvature, pack, unpack
from refimpl.primitives.lanczos import spectral_density
from refimpl.primitives.numbers import Array
from refimpl.primitives.traces import inner, trace_symbol
from refimpl.tasks.real_data import digit_images

EffectiveSize = Callable[[Any, Any], Any]


# --- the entries of the fluctuation matrix ---


@claim(
    "batch_hessian/H1",
    title="An entry's variance over batches is that of one example over the effective batch size",
    source="Lemma on the entries of the fluctuation matrix",
    statement=r"\mathrm{Var}\Big(\frac1B\sum_{i\in\mathcal B}x_i\Big)=S^2\Big(\frac1B-\frac1N\Big)=\frac{S^2}"
    r"{\mathfrak b},\qquad\frac1{\mathfrak b}+\frac1N=\frac1B",
    method="symbolic",
    scope="all N and B, from exchangeability alone; all values of 6 numbers over every batch of 1, 2, 3 and 5 of them; "
    "and every entry of the Hessian of softmax regression on 6 examples over every such batch, to roundoff",
    control=Control("the batch size itself, as with replacement", effective=lambda batch_size, n_samples: batch_size),
)
def variance_of_an_entry(rng: np.random.Generator, effective: EffectiveSize = effective_batch_size) -> Evidence:
    n, size = (scalar(name, positive=True, integer=True) for name in ("N", "B"))
    spread, covariance = scalar("S2", positive=True), scalar("c")
    # Without replacement: v = S2 (N - 1) / N, and the sum of all N has no variance, which gives the covariance.
    one = spread * (n - 1) / n
    (pair,) = sympy.solve(n * one + n * (n - 1) * covariance, covariance)
    of_mean = (size * one + size * (size - 1) * pair) / size**2
    proof = vanishes(of_mean - spread / effective(size, n), "variance of the mean") & vanishes(
        1 / effective(size, n) + 1 / n - 1 / size, "against the population, 1/b + 1/N - 1/B,"
    )

    values = [scalar(f"x_{i}") for i in range(6)]
    mean = sum(values) / 6
    total = sum((x - mean) ** 2 for x in values) / 5
    x, labels = rng.standard_normal((6, 2)), rng.integers(2, size=6)
    layers = initial_perceptron(rng, (2, 2))
    hessians = np.stack([batch_hessian(layers, x, labels, indices=[i]) for i in range(6)])
    enumerated, worst = [], 0.0
    for batch_size in (1, 2, 3, 5):
        exact = effective(size, n).subs({size: batch_size, n: 6})
        subsets = list(itertools.combinations(range(6), batch_size))
        squares = (sum(values[i] for i in subset) / batch_size - mean for subset in subsets)
        enumerated.append(sum(term**2 for term in squares) / len(subsets) - total / exact)
        seen = np.stack([batch_hessian(layers, x, labels, indices=subset) for subset in subsets]).var(axis=0)
        difference = seen - hessians.var(axis=0, ddof=1) / float(exact)
        worst = max(worst, float(np.max(np.abs(difference)) / np.max(np.abs(hessians)) ** 2))
    # Both are sums of at most 20 squares of entries that are right to a few units.
    return (
        proof
        & vanishes(enumerated, "every batch of 6 numbers")
        & at_most(worst, 200 * float(np.finfo(float).eps), "every batch's Hessian, over the largest entry squared")
    )


def entry_per_example() -> Array:
    """Every example's diagonal entry of class 3 and the 20th feature, in whose pixel digits differ."""
    digits = trained_digits()
    return np.asarray(softmax_output_hessians(digits.weights, digits.inputs)[:, 3, 3] * digits.inputs[:, 21] ** 2)


def standardised_means(rng: np.random.Generator, entries: Array, batch_size: int, n_batches: int) -> Array:
    """Of so many batches: the disjoint ones of shuffles, as epochs give them."""
    in_one = len(entries) // batch_size
    shuffled = rng.permuted(np.tile(entries, (-(-n_batches // in_one), 1)), axis=1)
    means = shuffled[:, : in_one * batch_size].reshape(-1, batch_size)[:n_batches].mean(axis=1)
    deviation = (entries.var(ddof=1) / effective_batch_size(batch_size, len(entries))) ** 0.5
    return np.asarray((means - entries.mean()) / deviation)


def distance_to_normal(samples: Array) -> float:
    """Kolmogorov's distance between the samples' distribution and the standard normal one."""
    below = special.ndtr(np.sort(samples))
    n = len(samples)
    return float(max(np.max(np.arange(1, n + 1) / n - below), np.max(below - np.arange(n) / n)))


@claim(
    "batch_hessian/H2",
    title="Fluctuations become Gaussian as the batch grows",
    source="Lemma on the entries of the fluctuation matrix",
    statement=r"\sqrt{\mathfrak b}\,\epsilon_{jk}\to\mathcal N(0,\sigma_\epsilon^2)",
    method="statistical",
    scope="softmax regression on digits, one diagonal entry, 20000 batches of 1, 4, 16 and 64 each; "
    "Kolmogorov's distance, whose own noise is 0.01",
    uses=["batch_hessian/H1"],
    requires=["sklearn"],
    control=Control("batches of 1 throughout", sizes=(1, 1, 1, 1)),
)
def fluctuations_are_gaussian(rng: np.random.Generator, sizes: Sequence[int] = (1, 4, 16, 64)) -> Evidence:
    entries = entry_per_example()
    distances = [distance_to_normal(standardised_means(rng, entries, size, 20000)) for size in sizes]
    falls = all(later < earlier for earlier, later in itertools.pairwise(distances))
    shown = ", ".join(f"{distance:.3f}" for distance in distances)
    return holds(falls, "decreasing", shown, "distances") & at_most(distances[-1], 0.08, "the last")


# --- the extremes of a batch exceed those of all the data ---


@st.composite
def partitions(draw: st.DrawFn) -> dict[str, Any]:
    """A network, its data, and a partition of the data into batches."""
    case = draw(labelled_networks())
    n = len(case["x"])
    parts = draw(st.integers(1, n))
    order = draw(generators()).permutation(n)
    return {**case, "parts": np.array_split(order, parts)}


def first_order(batch_quadratic_form: Array, lambda_max: float) -> Array:
    r"""$u_1^\top H_{batch}u_1$, which a batch's largest eigenvalue is at least."""
    return batch_quadratic_form


@claim(
    "batch_hessian/H8",
    title="On average over batches the extreme eigenvalues exceed those of all the data, for every data set",
    source="Section 3 (the extremal values of the batch Hessian exceed the empirical ones)",
    statement=r"\mathbb E\lambda_1(H_{batch})\ge\lambda_1(H_{emp}),\quad\mathbb E\lambda_P(H_{batch})\le "
    r"\lambda_P(H_{emp}),\quad\lambda_1(H_{batch})\ge u_1^\top H_{batch}u_1",
    method="property",
    scope="100 networks and data sets, each with a partition of the data into batches, to roundoff; on the digits "
    "every one of 28 disjoint batches of 64",
    requires=["sklearn"],
    control=Control(
        "every single batch exceeds the full data's largest eigenvalue", bound=lambda form, lambda_max: lambda_max
    ),
)
def extremes_exceed(rng: np.random.Generator, bound: Callable[[Array, float], Any] = first_order) -> Evidence:
    def violation(case: dict[str, Any]) -> float:
        parts = case.pop("parts")
        of_all = np.linalg.eigvalsh(batch_hessian(**case))
        of_parts = np.stack([np.linalg.eigvalsh(batch_hessian(**case, indices=part)) for part in parts])
        shares = np.array([len(part) for part in parts]) / len(case["x"])
        # An entry of the matrix is a sum over n examples, an eigenvalue right to P units of the matrix's scale.
        scale = float(np.max(np.abs(of_parts))) or 1.0
        allowed = 4 * (len(of_all) + len(case["x"])) * float(np.finfo(float).eps) * scale
        return max(of_all[-1] - shares @ of_parts[:, -1], shares @ of_parts[:, 0] - of_all[0]) / allowed

    digits = trained_digits()
    order = rng.permutation(len(digits.inputs))
    largest, forms = [], []
    for part in order[: 28 * 64].reshape(28, 64):
        product = batch_product(digits, part)
        largest.append(batch_lambda_max(product, len(digits.u1), rng))
        forms.append(digits.u1 @ product(digits.u1))
    excess = np.array(largest) - bound(np.array(forms), digits.lambda_max)
    return for_all(rng, partitions(), violation, 1, examples=100, quantity="violation over rounding bound") & at_least(
        float(np.min(excess)), 0, "smallest excess of 28 batches"
    )


SIZES = (8, 16, 32, 64, 128, 256, 512)


@cache
def excesses(batch_size: int, n_batches: int, seed: int) -> Array:
    """The Rayleigh excess of batches of this size."""
    rng, digits = np.random.default_rng(seed), trained_digits()
    largest, forms = [], []
    for indices in batches(rng, n_batches, batch_size, len(digits.inputs)):
        product = batch_product(digits, indices)
        largest.append(batch_lambda_max(product, len(digits.u1), rng))
        forms.append(product(digits.u1))
    return rayleigh_excess(np.array(largest), np.stack(forms), digits.u1)


def predicted_excess() -> float:
    """$c$ of second-order perturbation theory."""
    digits = trained_digits()
    products = per_example_products(digits.weights, digits.inputs, digits.u1.reshape(digits.weights.shape))
    return float(second_order_excess(products.reshape(len(products), -1), digits.eigenvalues, digits.eigenvectors))


def exact_variance() -> float:
    digits = trained_digits()
    norms = per_example_norms(digits.weights, digits.inputs)
    return float(exact_hessian_noise_variance(norms, float(np.linalg.norm(digits.hessian)), len(digits.hessian)))


def independent_entries() -> float:
    r"""$P\sigma_\epsilon^2/\lambda_1$, what $c$ would be if the entries of the noise were independent."""
    digits = trained_digits()
    return len(digits.hessian) * exact_variance() / digits.lambda_max


@claim(
    "batch_hessian/H9",
    title="On real data too the largest eigenvalue exceeds the full data's in proportion to 1/b",
    source="Theorem on the extremal eigenvalues (its shape on real data)",
    statement=r"\mathbb E\lambda_1'\simeq\lambda_1+\frac c{\mathfrak b},\quad "
    r"c=\sum_{j\ne1}\frac{\mathrm{Var}_i(u_j^\top h_iu_1)}{\lambda_1-\lambda_j}",
    method="statistical",
    scope="softmax regression on digits; exponent from 60 batches at each of 7 sizes from 8 to 512; the constant from "
    "400 batches of 512, where second order is exact. With independent entries the constant would be a hundredth: "
    "the noise of data lies in few directions",
    uses=["batch_hessian/H1", "batch_hessian/H8"],
    requires=["sklearn"],
    control=Control("the constant of independent entries", constant=independent_entries),
)
def excess_on_digits(rng: np.random.Generator, constant: Callable[[], float] = predicted_excess) -> Evidence:
    n = len(trained_digits().inputs)
    noise = [1 / effective_batch_size(size, n) for size in SIZES]
    means = [float(np.mean(excesses(size, 60, seed_of(rng)))) for size in SIZES]
    slope = float(np.polyfit(np.log(noise), np.log(means), 1)[0])
    ratio = float(np.mean(excesses(512, 400, seed_of(rng)))) / (noise[-1] * constant())
    return within(slope, 0.75, 1.25, "exponent of 1/b") & within(ratio, 0.65, 1.35, "measured constant over predicted")


# --- the variance of the fluctuations ---


def frobenius_products() -> Array:
    r"""$\langle h_i,h_j\rangle_F=\mathrm{tr}(A_iA_j)(x_i^\top x_j)^2$ of all pairs of examples."""
    digits = trained_digits()
    curvatures = softmax_output_hessians(digits.weights, digits.inputs).reshape(len(digits.inputs), -1)
    return np.asarray((curvatures @ curvatures.T) * (digits.inputs @ digits.inputs.T) ** 2)


def squared_fluctuations(rng: np.random.Generator, products: Array, batch_size: int, n_batches: int) -> Array:
    r"""$\|H_{batch}-H_{emp}\|_F^2$ of batches, by the inner products of the examples' Hessians."""
    n = len(products)
    weights = np.full((n_batches, n), -1 / n)
    np.put_along_axis(weights, batches(rng, n_batches, batch_size, n), 1 / batch_size - 1 / n, axis=1)
    return np.asarray(np.einsum("bi,bi->b", weights @ products, weights))


@claim(
    "batch_hessian/H10",
    title="The estimated variance of a Hessian entry does not depend on the batch size, and is the exact one",
    source="Estimate of the variance",
    statement=r"\hat\sigma_\epsilon^2=\frac{\mathfrak b}{P^2}\,\overline{\lVert(H_{batch}-H_{emp})v\rVert^2},\quad "
    r"\mathbb E\hat\sigma_\epsilon^2=\frac N{(N-1)P^2}\Big(\frac1N\sum_i\lVert h_i\rVert_F^2-"
    r"\lVert H_{emp}\rVert_F^2\Big)",
    method="statistical",
    scope="the expectation over the probe for all sizes (H1 entry by entry gives that over batches); softmax "
    "regression on digits with the norm in place of the probe, 400 batches of 16, 128, 512 and 1200: within 20%, and "
    "intervals at a false-alarm rate of 1e-6 hold the exact value; with probes through the shipped estimate, 60 "
    "batches of 128",
    uses=["batch_hessian/H1"],
    requires=["sklearn"],
    control=Control("the batch size for the effective one", effective=lambda batch_size, n_samples: batch_size),
)
def variance_estimate(rng: np.random.Generator, effective: EffectiveSize = effective_batch_size) -> Evidence:
    digits = trained_digits()
    n, size = len(digits.inputs), len(digits.hessian)
    exact, products = exact_variance(), frobenius_products()
    evidence = squared_norm_of_a_probe()
    for batch_size in (16, 128, 512, 1200):
        squares = squared_fluctuations(rng, products, batch_size, 400)
        estimates = effective(batch_size, n) / size**2 * squares
        evidence &= within(float(estimates.mean()) / exact, 0.8, 1.2, f"estimate over exact, B = {batch_size},")
        evidence &= covers(mean_interval(estimates / exact), 1, f"its interval, B = {batch_size},")
    probed = hessian_noise_variance(
        [batch_product(digits, indices) for indices in batches(rng, 60, 128, n)],
        lambda v: digits.hessian @ v,
        size,
        effective(128, n),
        1,
        rng,
    )
    # One probe of one batch scatters by about 60%, as the first directions of the noise hold most of it.
    return evidence & within(probed / exact, 0.5, 1.5, "with probes")


def squared_norm_of_a_probe() -> Evidence:
    r"""$\mathbb E\lVert\epsilon v\rVert^2=\mathrm{tr}\,\epsilon^2$ for a Gaussian probe, matrices of any size."""
    noise, probe, size = block("epsilon", "symmetric"), block("v", "column"), scalar("P", positive=True)
    moved = np.array([[noise * probe]], dtype=object)
    found = expectation(inner(moved, moved)[0, 0], Gaussian(probe, rows=size, columns=1))
    return vanishes(found - trace_symbol()(noise * noise), "E|epsilon v|^2 - tr epsilon^2")


# --- figures ---


@figure(
    "batch_hessian/F1",
    title="The largest eigenvalue against the batch size",
    caption="Softmax regression on digits. The mean over batches exceeds the full data's eigenvalue, dashed, at every "
    "size, and follows the prediction from the fluctuations of the examples; independent entries would predict next "
    "to no excess. 60 batches a size; the bars are two standard errors of the excess.",
    answers_to="the extremal eigenvalues of batch Hessians",
)
def largest_eigenvalue_figure(rng: np.random.Generator) -> Figure:
    digits = trained_digits()
    found = [excesses(size, 60, seed_of(rng)) for size in SIZES]
    noise = np.array([1 / effective_batch_size(size, len(digits.inputs)) for size in SIZES])
    sizes = [float(size) for size in SIZES]
    return Figure(
        (
            Series(
                "batches of digits",
                sizes,
                [digits.lambda_max + float(e.mean()) for e in found],
                "points",
                [2 * float(e.std(ddof=1)) / len(e) ** 0.5 for e in found],
            ),
            Series("second order, from the data", sizes, (digits.lambda_max + predicted_excess() * noise).tolist()),
            Series("all the data", sizes, [digits.lambda_max] * len(sizes)),
            Series("independent entries", sizes, (digits.lambda_max + independent_entries() * noise).tolist()),
        ),
        x_label="batch size $B$",
        y_label=r"largest eigenvalue $\lambda_1'$",
        x_scale="log",
        y_scale="log",
    )


@figure(
    "batch_hessian/F2",
    title="Spectra of the Hessian of all the data and of batches, by Lanczos",
    caption="A perceptron 64-32-10 with 2410 parameters on digits, after 60 steps of gradient descent; 10 probes of 60 "
    "steps on all the data, and one on each of 10 batches of 16, smoothed by a Gaussian. The batches' spectrum is "
    "wider at both ends.",
    answers_to="the spectra of full and batch Hessians",
)
def spectrum_figure(rng: np.random.Generator) -> Figure:
    images, labels = digit_images()
    layers = initial_perceptron(rng)
    for _ in range(60):
        gradient = mlp_curvature(layers, images, labels).gradient
        layers = unpack(pack(layers) - 0.5 * pack(gradient), layers)

    def density(chosen: Any, n_probes: int) -> tuple[Array, Array]:
        curvature = mlp_curvature(layers, images[chosen], labels[chosen])
        size = pack(layers).size
        return spectral_density(lambda v: pack(curvature.hessian_product(unpack(v, layers))), size, 60, n_probes, rng)

    of_batches = [density(chosen, 1) for chosen in batches(rng, 10, 16, len(images))]
    nodes, weights = (np.concatenate(part) for part in zip(*of_batches, strict=True))
    curves = [("all 1797 images", *density(slice(None), 10)), ("batches of 16", nodes, weights / 10)]
    low, high = min(nodes.min() for _, nodes, _ in curves), max(nodes.max() for _, nodes, _ in curves)
    width = (high - low) / 100
    grid = np.linspace(low - 4 * width, high + 4 * width, 300)
    series = []
    for title, nodes, weights in curves:
        bumps = np.exp(-(((grid[:, None] - nodes) / width) ** 2) / 2) / (width * (2 * np.pi) ** 0.5)
        series.append(Series(title, grid.tolist(), np.maximum(bumps @ weights, 1e-6).tolist()))
    return Figure(tuple(series), x_label=r"eigenvalue $\lambda$", y_label="density", y_scale="log")


@figure(
    "batch_hessian/F7",
    title="How Gaussian one entry's fluctuations are",
    caption="Standardised fluctuations of one diagonal entry of the Hessian on digits over 20000 batches, as "
    "distribution functions: a batch of one example is far from the normal law, one of 64 close to it.",
    answers_to="the lemma on the entries of the fluctuation matrix",
)
def distribution_figure(rng: np.random.Generator) -> Figure:
    entries = entry_per_example()
    levels = (np.arange(200) + 0.5) / 200
    series = [
        Series(
            f"B = {size}",
            np.quantile(standardised_means(rng, entries, size, 20000), levels).tolist(),
            levels.tolist(),
            "steps",
        )
        for size in (1, 4, 16, 64)
    ]
    return Figure(
        (*series, Series("normal", special.ndtri(levels).tolist(), levels.tolist())),
        x_label="standardised fluctuation",
        y_label="distribution function",
    )


@figure(
    "batch_hessian/F8",
    title="The excess against the noise of a batch",
    caption="On log-log axes the excess of the largest eigenvalue on digits is a line of slope 1 in 1/b, and at large "
    "batches, on the left, it is what second-order perturbation theory says. 60 batches a size.",
    answers_to="the shape of the theorem on extremal eigenvalues",
)
def excess_figure(rng: np.random.Generator) -> Figure:
    n = len(trained_digits().inputs)
    noise = np.array([1 / effective_batch_size(size, n) for size in SIZES])
    found = [excesses(size, 60, seed_of(rng)) for size in SIZES]
    return Figure(
        (
            Series(
                "batches of digits",
                noise.tolist(),
                [float(e.mean()) for e in found],
                "points",
                [2 * float(e.std(ddof=1)) / len(e) ** 0.5 for e in found],
            ),
            Series("second order, c/b", noise.tolist(), (predicted_excess() * noise).tolist()),
        ),
        x_label=r"$1/\mathfrak{b}$",
        y_label=r"excess $\lambda_1'-\lambda_1$ over all the data",
        x_scale="log",
        y_scale="log",
    )
