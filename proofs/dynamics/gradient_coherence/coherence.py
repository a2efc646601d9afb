"""Coherence: its forms, extremes and invariances, mini-batches, layers, and its estimate without bias (G1-G8, G13)."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.ledger import Control, Evidence, Figure, Series, at_most, claim, equal, figure
from proofs.properties import for_all
from proofs.statistics import covers, mean_interval
from proofs.symbolic import array, block, blocks, induction, scalar, sum_is, vanishes
from refimpl.dynamics.gradient_coherence import (
    CoherenceAccumulator,
    coherence,
    coherence_debiased,
    debiased_square_of_mean,
    example_coherence,
    gradient_diversity,
    gradient_matrix,
    initial_perceptron,
    layer_coherence,
    m_coherence,
    minibatch_coherence,
    sample_digits,
    signal_to_noise,
    squared_disagreement,
)
from refimpl.dynamics.gradient_coherence.coherence import squared_norm
from refimpl.oracle.specs.dynamics.gradient_coherence import gradient_samples
from refimpl.primitives.curvature import CROSS_ENTROPY, per_example_gradients
from refimpl.primitives.numbers import Array, transpose

ROUNDOFF = float(np.finfo(np.float64).eps) / 2
Measure = Callable[[Array], Any]


def roundoff_bound(gradients: Array) -> float:
    """Sums of m terms and of p m squares, over a sum of norms that is at most sqrt(m) times the root of squares."""
    return 8 * (gradients.shape[-2] + gradients.shape[-1] + 2) * ROUNDOFF


def gram_form(gradients: Array) -> Any:
    """The mean of all pairs' products over the mean of each gradient's product with itself."""
    gram = gradients @ transpose(gradients)
    n_examples = gradients.shape[-2]
    return gram.sum() / n_examples**2 / (np.trace(gram) / n_examples)


def gram_form_of_distinct_pairs(gradients: Array) -> Any:
    gram = gradients @ transpose(gradients)
    n_examples = gradients.shape[-2]
    return (gram.sum() - np.trace(gram)) / max(n_examples * (n_examples - 1), 1) / (np.trace(gram) / n_examples)


def any_sample() -> tuple[CoherenceAccumulator, Any, Any, Any]:
    """What is kept of m gradients of any length: a row of their sum, their squares; and m; and one gradient more."""
    total, more = block("s"), block("g")
    count = scalar("m", positive=True, integer=True)
    accumulator = CoherenceAccumulator(blocks([[total]])[0], np.asarray(block("r"), dtype=object), count)
    return accumulator, blocks([[more]]), total, more


def with_one_more(accumulator: CoherenceAccumulator, row: Array) -> CoherenceAccumulator:
    """As ``update``, of whose count the number is free here."""
    single = CoherenceAccumulator(row[0], squared_norm(row[0]), 1)
    return accumulator.merge(single)


@claim(
    "gradient_coherence/G1",
    title="The mean product of pairs over the mean square is the squared mean over it, and lies between 0 and 1",
    source="Definition of coherence",
    statement=r"\alpha=\frac{\mathbb E[g_z\cdot g_{z'}]}{\mathbb E\|g_z\|^2}=\frac{\|\mu\|^2}{\mathbb E\|g_z\|^2}"
    r"\in[0,1]",
    method="symbolic",
    scope="all sizes: both forms and m sum|g|^2 - |sum g|^2 >= 0 by induction over the examples, gradients as blocks; "
    "the function at (2, 2); 100 samples of up to 40 gradients in up to 300 dimensions",
    control=Control("pairs of an example with itself left out", pairs=gram_form_of_distinct_pairs),
)
def definition(rng: np.random.Generator, pairs: Measure = gram_form) -> Evidence:
    accumulator, row, total, more = any_sample()
    after = with_one_more(accumulator, row)
    cross = total * sympy.transpose(more) + more * sympy.transpose(total)
    one = squared_norm(row[0]).item()
    # All pairs of m + 1 examples: those of m, those with the new one, and the new one with itself.
    grams = squared_norm(after.total).item() - squared_norm(accumulator.total).item() - cross - one
    # m r - |s|^2 grows by the squares sum_i |g_i - g|^2 = r - s.g - g.s + m |g|^2, so it is never negative.
    count, r = accumulator.count, accumulator.squares.item()
    excess = after.count * after.squares.item() - squared_norm(after.total).item()
    excess -= count * r - squared_norm(accumulator.total).item() + (r - cross + count * one)
    sample = array("g", (2, 2))
    evidence = induction(
        vanishes(squared_norm(row[0]) - one, "one gradient's pairs"),
        vanishes(grams, "pairs") & vanishes(excess, "m sum|g|^2 - |sum g|^2 - squares"),
    )
    evidence &= vanishes(coherence(sample) - pairs(sample), "the function less the form in pairs")

    def error(gradients: Array) -> float:
        alpha = float(coherence(gradients))
        outside = max(-alpha, alpha - 1, 0.0)
        return max(abs(alpha - pairs(gradients)), outside) / roundoff_bound(gradients)

    return evidence & for_all(rng, gradient_samples(), error, 1, quantity="apart, or out of [0, 1], over roundoff")


def identical(gradient: Array, n_examples: int) -> Array:
    return np.broadcast_to(gradient, (n_examples, gradient.size)).copy()


def cancelling(gradient: Array, n_examples: int) -> Array:
    """Pairs of opposite gradients of various lengths."""
    half = np.arange(1, n_examples + 1)[:, None] * gradient
    return np.concatenate([half, -half])


def with_one_row_moved(make: Callable[[Array, int], Array]) -> Callable[[Array, int], Array]:
    def moved(gradient: Array, n_examples: int) -> Array:
        sample = make(gradient, n_examples)
        sample[0, 0] += 1
        return sample

    return moved


@claim(
    "gradient_coherence/G2",
    title="Coherence is 1 if and only if all gradients are equal, and 0 if and only if they cancel",
    source="Lemma on extremes",
    statement=r"1-\alpha=\frac{S}{\mathbb E\|g\|^2},\qquad\alpha=\frac{\|\mu\|^2}{\mathbb E\|g\|^2}",
    method="symbolic",
    scope="the identity on the function at (3, 2) and by the squares of G1 for all sizes; exact on integer gradients "
    "of 2 to 16 examples",
    uses=["gradient_coherence/G1"],
    control=[
        Control("one of the equal gradients moved", equal_gradients=with_one_row_moved(identical)),
        Control("one of the cancelling gradients moved", zero_mean=with_one_row_moved(cancelling)),
    ],
)
def extremes(
    rng: np.random.Generator,
    equal_gradients: Callable[[Array, int], Array] = identical,
    zero_mean: Callable[[Array, int], Array] = cancelling,
) -> Evidence:
    sample = array("g", (3, 2))
    spread = ((sample - sample.sum(axis=0) / 3) ** 2).sum() / 3
    mean_square = (sample**2).sum() / 3
    evidence = vanishes(1 - coherence(sample) - spread / mean_square, "1 - alpha - S / E|g|^2")
    sizes = (2, 4, 8, 16)
    gradient = rng.integers(1, 100, size=5).astype(np.float64)
    evidence &= equal([float(coherence(equal_gradients(gradient, n))) for n in sizes], [1.0] * 4, "equal")
    evidence &= equal([float(coherence(zero_mean(gradient, n))) for n in sizes], [0.0] * 4, "cancelling")
    moved = [float(coherence(with_one_row_moved(identical)(gradient, n))) for n in sizes]
    return evidence & at_most(max(moved), float(np.nextafter(1, 0)), "one moved: alpha")


def orthogonal(rng: np.random.Generator, size: int) -> Array:
    return np.linalg.qr(rng.standard_normal((size, size)))[0]


def stretched(rng: np.random.Generator, size: int) -> Array:
    return orthogonal(rng, size) * np.geomspace(1, 30, size)


def scaled(gradients: Array, rng: np.random.Generator) -> Array:
    return -3 * gradients


def shifted(gradients: Array, rng: np.random.Generator) -> Array:
    return gradients + 2 * np.abs(gradients).max()


@claim(
    "gradient_coherence/G3",
    title="Coherence changes under no scale, rotation, repetition or order",
    source="Lemma on invariances",
    statement=r"\alpha(cGQ)=\alpha(PG)=\alpha\big((G;\dots;G)\big)=\alpha(G),\quad c\ne0",
    method="property",
    scope="100 samples of up to 40 gradients in up to 300 dimensions; random rotations, 3 repetitions",
    control=[
        Control("a map that is not orthogonal", rotation=stretched),
        Control("a constant vector added", scale=shifted),
    ],
)
def invariances(
    rng: np.random.Generator,
    rotation: Callable[[np.random.Generator, int], Array] = orthogonal,
    scale: Callable[[Array, np.random.Generator], Array] = scaled,
) -> Evidence:
    def error(gradients: Array) -> float:
        alpha = coherence(gradients)
        changed = (
            scale(gradients, rng),
            gradients @ rotation(rng, gradients.shape[-1]),
            np.tile(gradients, (3, 1)),
            rng.permutation(gradients),
        )
        off = max(abs(float(coherence(other) - alpha)) for other in changed)
        # The rotation itself is orthogonal to roundoff times its size.
        return off / (4 * roundoff_bound(gradients))

    return for_all(rng, gradient_samples(), error, 1, quantity="change over roundoff")


def right_angle(norms: Array, rng: np.random.Generator) -> Array:
    return norms[:, None] * orthogonal(rng, len(norms))


def sixty_degrees(norms: Array, rng: np.random.Generator) -> Array:
    directions = orthogonal(rng, len(norms))
    directions[1] = directions[0] / 2 + np.sqrt(3) / 2 * directions[1]
    return norms[:, None] * directions


@claim(
    "gradient_coherence/G4",
    title="Orthogonal gradients have m-coherence 1, whatever their norms",
    source="The orthogonal limit",
    statement=r"g_i\cdot g_j=0\ (i\ne j)\ \Rightarrow\ m\alpha=1",
    method="symbolic",
    scope="all sizes and norms: induction over the examples, each in a block of coordinates of its own (every "
    "orthogonal sample is a rotation of such a one); norms from .1 to 5 of 2 to 40 gradients",
    uses=["gradient_coherence/G3"],
    control=Control("two gradients at 60 degrees", directions=sixty_degrees),
)
def orthogonal_limit(
    rng: np.random.Generator, directions: Callable[[Array, np.random.Generator], Array] = right_angle
) -> Evidence:
    before, more = block("a"), block("b")
    total = blocks([[before, 0]])[0]
    # The induction hypothesis: the square of the sum is the sum of squares.
    accumulator = CoherenceAccumulator(total, squared_norm(total), scalar("m", positive=True, integer=True))
    after = with_one_more(accumulator, blocks([[0, more]]))
    first = blocks([[more]])
    start = CoherenceAccumulator(first[0], squared_norm(first[0]), 1)
    evidence = induction(
        vanishes(squared_norm(start.total) - start.squares, "|sum g|^2 - sum |g|^2"),
        vanishes(squared_norm(after.total) - after.squares, "|sum g|^2 - sum |g|^2"),
    )
    worst = 0.0
    for n_examples in (2, 3, 7, 40):
        gradients = directions(rng.uniform(0.1, 5, n_examples), rng)
        # Of m products each is off by m roundoffs of the norms.
        worst = max(worst, abs(float(m_coherence(gradients)) - 1) / (n_examples * roundoff_bound(gradients)))
    return evidence & at_most(worst, 1, "m alpha - 1 over roundoff")


def with_replacement(gradients: Array, batch_size: int) -> Array:
    """The means of all batches, each example at each place."""
    places = itertools.product(range(len(gradients)), repeat=batch_size)
    return gradients[np.array(list(places))].mean(axis=1)


def without_replacement(gradients: Array, batch_size: int) -> Array:
    places = itertools.permutations(range(len(gradients)), batch_size)
    return gradients[np.array(list(places))].mean(axis=1)


def proportional(alpha: Any, batch_size: Any) -> Any:
    return batch_size * alpha


@claim(
    "gradient_coherence/G5",
    title="Means of b independent examples amplify coherence",
    source="Theorem on mini-batches",
    statement=r"\alpha_b=\frac{b\alpha}{1+(b-1)\alpha},\qquad\alpha=\frac{\alpha_b}{b-(b-1)\alpha_b}",
    method="symbolic",
    scope="all batch sizes and laws: the second moment of a sum by induction over b; exhaustively all 1600 pairs of 40 "
    "gradients and all 343 triples of 7",
    control=[
        Control("batches drawn without replacement", batches=without_replacement),
        Control("amplification by b", amplified=proportional),
    ],
)
def minibatches(
    rng: np.random.Generator,
    batches: Callable[[Array, int], Array] = with_replacement,
    amplified: Callable[[Any, Any], Any] = minibatch_coherence,
) -> Evidence:
    signal, noise, b = scalar("M", positive=True), scalar("S", positive=True), scalar("b", positive=True, integer=True)
    # E|s_k|^2 - E|s_{k-1}|^2 = 2 E s_{k-1}.g + E|g|^2, and s_{k-1} of mean (k-1) mu is independent of g.
    evidence = sum_is(
        lambda k: 2 * (k - 1) * signal + signal + noise, lambda n: n**2 * signal + n * noise, quantity="E|sum|^2"
    )
    alpha = signal / (signal + noise)
    of_means = signal / (signal + noise / b)
    evidence &= vanishes(amplified(alpha, b) - of_means, "alpha_b")
    evidence &= vanishes(example_coherence(of_means, b) - alpha, "the inverse")
    for n_examples, batch_size in ((40, 2), (7, 3)):
        gradients = rng.standard_normal((n_examples, 5)) + 0.5
        means = batches(gradients, batch_size)
        off = abs(float(coherence(means)) - float(amplified(float(coherence(gradients)), batch_size)))
        evidence &= at_most(off / roundoff_bound(means), 1, f"m = {n_examples}, b = {batch_size}: apart over roundoff")
    return evidence


def mixture(coherences: Array, weights: Array) -> Any:
    return coherences @ weights


def plain_mean(coherences: Array, weights: Array) -> Any:
    return coherences.mean()


@claim(
    "gradient_coherence/G6",
    title="Coherence is the layers' coherence, each weighted with its share of the squared norms",
    source="Decomposition by layers",
    statement=r"\alpha=\sum_k\pi_k\alpha^{(k)},\qquad\pi_k=\mathbb E\|g^{(k)}\|^2/\mathbb E\|g\|^2",
    method="symbolic",
    scope="three layers of any sizes, for one and the next gradient of any number, as blocks; the function at "
    "two layers of "
    "1 parameter and 2 examples; 100 samples split in up to three layers",
    control=Control("layers weighted alike", average=plain_mean),
)
def layers_mix(rng: np.random.Generator, average: Callable[[Array, Array], Any] = mixture) -> Evidence:
    row = blocks([[block("a"), block("b"), block("c")]])[0]
    parts = sum(squared_norm(row[index : index + 1]) for index in range(3))
    # The numerator is this of the total, the denominator a sum of it over examples: both add up over layers.
    evidence = vanishes(squared_norm(row) - parts, "squared norm less the layers'")
    sample = array("g", (2, 2))
    evidence &= vanishes(average(*layer_coherence([sample[:, :1], sample[:, 1:]])) - coherence(sample), "mixture")

    def error(gradients: Array) -> float:
        # Ones added where a layer would have no gradient, whose coherence is undefined.
        scales = np.geomspace(1, 10, gradients.shape[-1])
        parts = np.array_split(gradients * scales, min(3, gradients.shape[-1]), axis=1)
        parts = [part if np.any(part) else part + 1 for part in parts]
        off = abs(average(*layer_coherence(parts)) - coherence(np.concatenate(parts, axis=1)))
        return float(off) / roundoff_bound(gradients)

    return evidence & for_all(rng, gradient_samples(), error, 1, quantity="apart over roundoff")


def with_zeros(gradients: Array, n_more: int) -> Array:
    return np.concatenate([gradients, np.zeros((n_more, gradients.shape[-1]))])


def with_copies(gradients: Array, n_more: int) -> Array:
    return np.concatenate([gradients, np.resize(gradients, (n_more, gradients.shape[-1]))])


@claim(
    "gradient_coherence/G7",
    title="Examples that are fitted dilute coherence and leave m-coherence; diversity and signal-to-noise are "
    "functions "
    "of it",
    source="Relations to other measures",
    statement=r"\alpha\to\theta\alpha,\quad m\alpha\to m\alpha,\quad\frac{\sum\|g_i\|^2}{\|\sum g_i\|^2}="
    r"\frac1{m\alpha},"
    r"\quad\frac{\|\mu\|^2}S=\frac\alpha{1-\alpha}",
    method="property",
    scope="100 samples of up to 40 gradients, diluted with half as many zeros; signal-to-noise for all by symbols",
    control=Control("diluted with copies of the gradients", dilute=with_copies),
)
def relations(rng: np.random.Generator, dilute: Callable[[Array, int], Array] = with_zeros) -> Evidence:
    signal, noise = scalar("M", positive=True), scalar("S", positive=True)
    evidence = vanishes(signal_to_noise(signal / (signal + noise)) - signal / noise, "signal-to-noise")

    def error(gradients: Array) -> float:
        n_examples = len(gradients)
        n_more = -(-n_examples // 2)
        diluted = dilute(gradients, n_more)
        theta = n_examples / (n_examples + n_more)
        alpha, mean = float(coherence(gradients)), float(m_coherence(gradients))
        off = [float(coherence(diluted)) - theta * alpha, (float(m_coherence(diluted)) - mean) / n_examples]
        square, squares = np.sum(gradients.sum(axis=0) ** 2), np.sum(gradients**2)
        if square > 1e-6 * squares:  # what cancels to less has no diversity to compare
            off.append((float(gradient_diversity(gradients)) / (squares / square) - 1) * square / squares / n_examples)
        return max(abs(one) for one in off) / roundoff_bound(diluted)

    return evidence & for_all(rng, gradient_samples(), error, 1, quantity="apart over roundoff")


def half_the_disagreement(gradients: Array) -> Array:
    return squared_disagreement(gradients) / 2


def pairwise_disagreement(gradients: Array) -> Any:
    differences = gradients[:, None] - gradients
    return (differences**2).sum() / len(gradients) ** 2


@claim(
    "gradient_coherence/G8",
    title="Two examples' gradients disagree by twice the mean square times what coherence lacks",
    source="Key step of the stability theorem",
    statement=r"\mathbb E_{z,z'}\|g_z-g_{z'}\|^2=2\,\mathbb E\|g_z\|^2(1-\alpha)",
    method="symbolic",
    scope="all sizes, by induction over the examples, gradients as blocks; the functions at (2, 2); 100 samples "
    "of up to "
    "40 gradients in up to 300 dimensions",
    control=Control("a factor of 1 for 2", disagreement=half_the_disagreement),
)
def disagreement_identity(rng: np.random.Generator, disagreement: Measure = squared_disagreement) -> Evidence:
    accumulator, row, total, more = any_sample()
    after = with_one_more(accumulator, row)
    one = squared_norm(row[0]).item()
    cross = total * sympy.transpose(more) + more * sympy.transpose(total)
    # The new example makes m pairs, each counted twice, and one of its own.
    new_pairs = 2 * (accumulator.squares.item() - cross + accumulator.count * one)
    grown = after.count**2 * after.squared_disagreement().item()
    grown -= accumulator.count**2 * accumulator.squared_disagreement().item()
    single = CoherenceAccumulator(row[0], squared_norm(row[0]), 1)
    evidence = induction(vanishes(single.squared_disagreement(), "pairs"), vanishes(grown - new_pairs, "pairs"))
    sample = array("g", (2, 2))
    mean_square = (sample**2).sum() / 2
    evidence &= vanishes(disagreement(sample) - 2 * mean_square * (1 - coherence(sample)), "2 E|g|^2 (1 - alpha)")
    evidence &= vanishes(disagreement(sample) - pairwise_disagreement(sample), "less that of pairs")

    def error(gradients: Array) -> float:
        off = abs(float(disagreement(gradients)) - pairwise_disagreement(gradients))
        return off / (np.mean(np.sum(gradients**2, axis=1)) * 2 * roundoff_bound(gradients))

    return evidence & for_all(rng, gradient_samples(), error, 1, quantity="apart over roundoff")


def plug_in_square(square_of_total: Any, squares: Any, n_examples: Any) -> Any:
    return square_of_total / n_examples**2


@claim(
    "gradient_coherence/G13",
    title="Without an example's product with itself the squared mean is estimated without bias",
    source="Estimation from a sample",
    statement=r"\mathbb E\,\frac{\|\sum g_i\|^2-\sum\|g_i\|^2}{m(m-1)}=\|\mu\|^2,\qquad"
    r"\mathbb E\|\bar g\|^2=\|\mu\|^2+\tfrac Sm,\qquad\alpha_U=\tfrac{m\alpha-1}{m-1}",
    method="symbolic",
    scope="all sample sizes and laws, from the second moments of G5; 200,000 samples of 6 Gaussian gradients with unit "
    "noise in 3 dimensions",
    uses=["gradient_coherence/G5"],
    control=Control("the plug-in numerator, too high by S / m", numerator=plug_in_square),
)
def estimate_without_bias(
    rng: np.random.Generator, numerator: Callable[[Any, Any, Any], Any] = debiased_square_of_mean
) -> Evidence:
    signal, noise = scalar("M", positive=True), scalar("S", positive=True)
    m = scalar("n", positive=True, integer=True) + 1
    # The numerator is linear in both moments, so its expectation is itself at theirs.
    square_of_total, squares = m**2 * signal + m * noise, m * (signal + noise)
    evidence = vanishes(numerator(square_of_total, squares, m) - signal, "expectation")
    evidence &= vanishes(plug_in_square(square_of_total, squares, m) - signal - noise / m, "plug-in expectation")
    sample = array("g", (3, 2))
    evidence &= vanishes(coherence_debiased(sample) - (3 * coherence(sample) - 1) / 2, "(m alpha - 1)/(m - 1)")
    mean = np.array([0.3, -0.1, 0.2])
    gradients = mean + rng.standard_normal((200_000, 6, 3))
    totals, squares = gradients.sum(axis=1), np.sum(gradients**2, axis=(1, 2))
    estimates = numerator(np.sum(totals**2, axis=1), squares, 6)
    return evidence & covers(mean_interval(estimates), float(mean @ mean), "squared mean")


@figure(
    "gradient_coherence/F4",
    title="Coherence of mini-batches",
    caption="Every curve rises from the coherence of examples, at b = 1, to 1. Points are batches drawn from 1000 "
    "gradients.",
    answers_to="the theorem on mini-batches",
)
def amplification(rng: np.random.Generator) -> Figure:
    sizes = [1, 2, 4, 8, 16, 32, 64, 128]
    parts = []
    for shift in (0.03, 0.1, 0.4):
        gradients = rng.standard_normal((1000, 20)) + shift
        alpha = float(coherence(gradients))
        parts.append(Series(f"$\\alpha$ = {alpha:.3f}", sizes, [float(minibatch_coherence(alpha, b)) for b in sizes]))
        drawn = [coherence(gradients[rng.integers(1000, size=(2000, b))].mean(axis=1)) for b in sizes]
        parts.append(Series(f"drawn, $\\alpha$ = {alpha:.3f}", sizes, [float(one) for one in drawn], "points"))
    return Figure(tuple(parts), "batch size $b$", r"coherence $\alpha_b$", x_scale="log")


@figure(
    "gradient_coherence/F5",
    title="Coherence by layer",
    caption="A perceptron at its random start on 400 digits, parameters in the order inner weights, inner "
    "biases, outer "
    "weights, outer biases. Layers differ in coherence, and in their share of the squared norms with which they enter "
    "that of all.",
    answers_to="the decomposition by layers",
)
def by_layer(rng: np.random.Generator) -> Figure:
    problem = sample_digits(400, 0, rng)
    network = initial_perceptron(rng)
    gradients = per_example_gradients(network, problem.x, problem.labels, "relu", CROSS_ENTROPY)
    parts = [part.reshape(400, -1) for layer in gradients for part in layer if part is not None]
    found = layer_coherence(parts)
    whole = float(coherence(gradient_matrix(network, problem.x, problem.labels)))
    places = list(range(1, len(parts) + 1))
    return Figure(
        (
            Series("coherence", places, found.coherences.tolist(), "points"),
            Series("share of the squared norms", places, found.weights.tolist(), "points"),
            Series("coherence of all", places, [whole] * len(places)),
        ),
        "block of parameters $k$",
        r"coherence $\alpha^{(k)}$, share $\pi_k$",
    )
