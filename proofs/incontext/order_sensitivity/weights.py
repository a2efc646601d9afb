r"""The weights argument (Section 3): the construction, how sparse it is, and what a change of basis leaves of that."""

from collections.abc import Callable
from fractions import Fraction
from math import erf
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.ledger import Control, Evidence, Figure, Series, at_most, claim, equal, figure
from proofs.properties import for_all
from proofs.statistics import covers, lies_below, proportion_interval
from proofs.symbolic import array, block, blocks, scalar, vanishes
from refimpl.incontext.order_sensitivity import (
    LinearAttentionWeights,
    change_basis,
    gd_equivalent,
    gradient_descent_weights,
    linear_self_attention,
    singular_profile,
    sparsity_ratio,
)
from refimpl.oracle.spec import real_arrays
from refimpl.oracle.specs.incontext.order_sensitivity import invertible
from refimpl.primitives.normalization import layer_norm
from refimpl.primitives.numbers import Array

Construct = Callable[..., LinearAttentionWeights]
ChangeBasis = Callable[..., LinearAttentionWeights]
EPSILON = float(np.finfo(float).eps)
ETA, N = scalar("eta", positive=True), scalar("N", positive=True)
X, Y, x, W0 = map(block, ("X", "Y", "x", "W0"))
SIZES = [(n_x, n_y) for n_x in (1, 2, 5, 8) for n_y in (1, 2, 3)]


# --- the construction ---


def keys_off(n_inputs: int, n_outputs: int, *arguments: Any) -> LinearAttentionWeights:
    """The construction with a tenth added to every entry of the keys."""
    weights = gradient_descent_weights(n_inputs, n_outputs, *arguments)
    return weights._replace(key=weights.key + sympy.Rational(1, 10))


@claim(
    "order_sensitivity/O1",
    title="The constructed layer predicts what one step of gradient descent does",
    source="Section 2 (Hypothesis 2: there are such weights)",
    statement=r"[x;-W_0x]\to[x;-(W_0+\Delta W)x],\quad[x;0]\to[x;-\Delta Wx],\quad "
    r"\Delta W=-\tfrac\eta N\sum_j(W_0x_j-y_j)x_j^\top",
    method="symbolic",
    scope="all numbers of inputs, outputs and demonstrations, all initial weights (blocks); again by entries at 2 "
    "inputs, 1 output, 3 demonstrations",
    control=[
        Control("a tenth added to every entry of the keys", construct=keys_off),
        Control("the query gives a key and a value too", include_query=True),
    ],
)
def layer_predicts_one_step(construct: Construct = gradient_descent_weights, include_query: bool = False) -> Evidence:
    change = -(ETA / N) * (W0 * X - Y) * sympy.transpose(X)
    weights = construct(1, 1, ETA, N, blocks([[W0]]))
    started = linear_self_attention(blocks([[X, x], [Y, -W0 * x]]), weights, 1, include_query)
    empty = linear_self_attention(blocks([[X, x], [Y, 0]]), weights, 1, include_query)
    all_sizes = vanishes(
        [started[:, 1] - np.array([x, -(W0 + change) * x]), empty[:, 1] - np.array([x, -change * x])], "all sizes"
    )
    inputs, targets, start, query = array("x", (2, 3)), array("y", (1, 3)), array("w", (1, 2)), array("q", (2, 1))
    tokens = np.block([[inputs, query], [targets, -start @ query]])
    updated = linear_self_attention(tokens, construct(2, 1, ETA, 3, start), 3, include_query)
    stepped = start - ETA / 3 * (start @ inputs - targets) @ inputs.T
    return all_sizes & vanishes(updated[:, -1:] - np.concatenate([query, -stepped @ query]), "entries")


# --- sparsity ---


def nonzeros(matrix: Array, sizes: tuple[Any, Any]) -> Any:
    """How many entries of a matrix of blocks are not 0: a number stands for that multiple of the identity."""
    count = sympy.Integer(0)
    for i, j in np.ndindex(*matrix.shape):
        entry = sympy.sympify(matrix[i, j])
        if entry != 0:
            count += sizes[i] if entry.is_commutative else sizes[i] * sizes[j]
    return count


def reads_labels(n_inputs: int, n_outputs: int, *arguments: Any) -> LinearAttentionWeights:
    """Keys, queries that read the labels too."""
    weights = gradient_descent_weights(n_inputs, n_outputs, *arguments)
    identity = np.eye(n_inputs + n_outputs, dtype=weights.key.dtype)[None]
    return weights._replace(key=identity, query=identity)


@claim(
    "order_sensitivity/O2",
    title="How sparse the construction is: 99.99% and 75% at the size of LLaMA",
    source="Section 3.2, Figure 2",
    statement=r"\mathrm{sp}(W_K)=\mathrm{sp}(W_Q)=1-\tfrac{n_x}{D^2},\ \mathrm{sp}(W_V)=1-\tfrac{n_xn_y+n_y}{D^2},\ "
    r"\mathrm{sp}(P)=1-\tfrac1D;\ W_0=0:\ \mathrm{sp}(W_V)=1-\tfrac{n_y}{D^2}",
    method="symbolic",
    scope="all sizes (nonzero blocks counted on the code's output); the sparsity ratio measured at 12 sizes equals the "
    "formula to the last digit; the formula at D = 4096",
    control=Control("keys and queries read the labels too", construct=reads_labels),
)
def construction_is_sparse(construct: Construct = gradient_descent_weights) -> Evidence:
    n_x, n_y = scalar("n_x", positive=True, integer=True), scalar("n_y", positive=True, integer=True)

    def formulas(n_x: Any, n_y: Any, dense: bool) -> list[Any]:
        area = (n_x + n_y) ** 2
        return [n_x / area, n_x / area, (n_x * n_y * int(dense) + n_y) / area, 1 / (n_x + n_y)]

    left = []
    for dense in (True, False):
        made = construct(1, 1, ETA, N, blocks([[W0 if dense else 0]]))
        counted = [nonzeros(matrix[0], (n_x, n_y)) / (n_x + n_y) ** 2 for matrix in made]
        left += [a - b for a, b in zip(counted, formulas(n_x, n_y, dense), strict=True)]
    wrong = 0
    for sizes in SIZES:
        for dense in (True, False):
            start = np.full(sizes[::-1], 0.3) if dense else None
            measured = [sparsity_ratio(matrix[0], 1e6) for matrix in construct(*sizes, 0.1, 4, start)]
            expected = [float(1 - one) for one in formulas(Fraction(sizes[0]), Fraction(sizes[1]), dense)]
            wrong += measured != expected
    at_llama = [float(round(1 - one, 5)) for one in formulas(Fraction(2048), Fraction(2048), True)[1:3]]
    return (
        vanishes(left, "nonzeros by area less the formula")
        & equal(wrong, 0, "sizes at which the measured ratio differs")
        & equal(at_llama, [0.99988, 0.74988], "keys and values at D = 4096")
    )


SIGMA, WIDTH = 0.02, 512
DELTAS = (1e2, 1e3, 1e4, 1e6)


def gaussian_matrix(rng: np.random.Generator) -> Array:
    return SIGMA * rng.standard_normal((WIDTH, WIDTH))


def constructed_matrix(rng: np.random.Generator) -> Array:
    return gradient_descent_weights(WIDTH // 2, WIDTH // 2, 0.1, 4).key[0]


@claim(
    "order_sensitivity/O3",
    title="Dense Gaussian weights are far less sparse than the construction, at every threshold",
    source="Section 3.2, Figure 2",
    statement=r"\mathrm{sp}=\operatorname{erf}\tfrac1{\sqrt2\,\sigma\delta}\ \text{(absolute)},\quad "
    r"\operatorname{erf}\tfrac{m}{\sqrt2\,\sigma\delta}\big/\operatorname{erf}\tfrac{m}{\sqrt2\,\sigma}\ "
    r"\text{(relative, largest entry }m)",
    method="statistical",
    scope="512 x 512 entries of deviation 0.02, thresholds 1/delta and max/delta at delta = 1e2, 1e3, 1e4, 1e6, exact "
    "binomial intervals, against the law of a Gaussian entry (given the largest); all intervals below the paper's 60%. "
    "The numbers of LLaMA-7B and GPT-J are not reproduced here",
    control=Control("the constructed keys in their place", draw=constructed_matrix),
)
def gaussian_weights_are_dense(
    rng: np.random.Generator, draw: Callable[[np.random.Generator], Array] = gaussian_matrix
) -> Evidence:
    matrix = draw(rng)
    largest = float(np.abs(matrix).max())
    evidence = Evidence(())
    for delta in DELTAS:
        found = sparsity_ratio(matrix, delta, "absolute")
        interval = proportion_interval(round(found * matrix.size), matrix.size)
        expected = erf(1 / (delta * SIGMA * 2**0.5))
        evidence &= covers(interval, expected, f"absolute, {delta:.0e}:") & lies_below(interval, 0.6)
        # The largest entry is not below its own share; given it, the others are independent.
        found = sparsity_ratio(matrix, delta, "relative")
        interval = proportion_interval(round(found * matrix.size), matrix.size - 1)
        expected = erf(largest / (delta * SIGMA * 2**0.5)) / erf(largest / (SIGMA * 2**0.5))
        evidence &= covers(interval, expected, f"relative, {delta:.0e}:") & lies_below(interval, 0.6)
    return evidence


# --- changes of basis ---


def with_transpose(
    weights: LinearAttentionWeights, token_basis: Array, head_basis: Array, value_basis: Array | None = None
) -> LinearAttentionWeights:
    """The change of basis with the transpose of the token basis in place of its inverse."""
    changed = change_basis(weights, token_basis, head_basis, value_basis)
    back = token_basis @ token_basis.swapaxes(-1, -2)
    if back.dtype == object:
        back = token_basis * sympy.transpose(token_basis[0, 0])
    return changed._replace(key=changed.key @ back, query=changed.query @ back, value=changed.value @ back)


@st.composite
def layers_and_bases(draw: st.DrawFn) -> dict[str, Any]:
    """A constructed layer, tokens, and three dense bases."""
    n_inputs, n_outputs = draw(st.sampled_from(((2, 1), (5, 2), (8, 8))))
    size, n_demos = n_inputs + n_outputs, draw(st.sampled_from((1, 4, 20)))
    return {
        "weights": gradient_descent_weights(
            n_inputs, n_outputs, 1.0, n_demos, draw(real_arrays((n_outputs, n_inputs)))
        ),
        "tokens": draw(real_arrays((size, n_demos + 1))),
        "bases": [draw(invertible(size)) for _ in range(3)],
    }


@claim(
    "order_sensitivity/O4",
    title="Sparsity depends on the basis: dense weights do exactly what the sparse construction does",
    source="Section 3.2 (limits it; derived)",
    statement=r"W_K\to S^{-\top}W_KR^{-1},\ W_Q\to SW_QR^{-1},\ W_V\to TW_VR^{-1},\ P\to RPT^{-1}:\quad "
    r"f'(Re)=R\,f(e)",
    method="symbolic",
    scope="all weights, all sizes, any invertible R, S, T (blocks); 100 constructed layers, 3 to 16 token dimensions, "
    "dense bases of condition number up to 16: outputs to roundoff, no zero in any matrix, under 20% of entries below "
    "max/100 on average. A projection that is a multiple of the identity stays one unless T differs from R. Where a "
    "layer norm follows, R must be orthogonal with R1 = +-1, and then commutes with it",
    control=Control("the transpose of R in place of its inverse, R not orthogonal", change=with_transpose),
)
def sparsity_depends_on_the_basis(rng: np.random.Generator, change: ChangeBasis = change_basis) -> Evidence:
    names = ("K", "Q", "V", "P", "R", "S", "T", "E", "e")
    k, q, v, p, r, s, t, demos, one = (blocks([[block(name)]]) for name in names)
    weights = LinearAttentionWeights(k[None], q[None], v[None], p[None])
    tokens = np.concatenate([demos, one], axis=1)
    before = linear_self_attention(tokens, weights, 1)
    differences = [
        linear_self_attention(r @ tokens, change(weights, r, s, values), 1) - r @ before for values in (None, t)
    ]
    zeros, sparsities = [], []

    def error(case: Any) -> float:
        weights, tokens, (r, s, t) = case["weights"], case["tokens"], case["bases"]
        changed = change(weights, r, s, t)
        n_demos = tokens.shape[1] - 1
        expected = r @ linear_self_attention(tokens, weights, n_demos)
        difference = np.abs(linear_self_attention(r @ tokens, changed, n_demos) - expected)
        zeros.append(sum(int(np.sum(matrix == 0)) for matrix in changed))
        sparsities.append(np.mean([sparsity_ratio(matrix[0], 100) for matrix in changed]))
        # Each product of D or N terms rounds by as many u of the products of absolute values, of which a matrix's
        # inverse has 16 times as many: the condition number of a basis. There are ten products, on either route.
        size, context = np.abs(r @ tokens), np.abs(r @ tokens[:, :n_demos])
        key, query, value, projection = (np.abs(matrix[0]) for matrix in changed)
        products = size + projection @ (value @ (context @ (context.T @ (key.T @ (query @ size)))))
        return float(np.max(difference / (2 * 10 * 16 * (len(r) + n_demos) * EPSILON * products + 1e-300)))

    floats = for_all(rng, layers_and_bases(), error, 1, quantity="output difference over rounding bound")
    return (
        vanishes(differences, "all sizes")
        & floats
        & equal(max(zeros), 0, "zeros in the changed matrices")
        & at_most(float(np.mean(sparsities)), 0.2, "mean sparsity at max/100")
        & norm_commutes(rng)
    )


def norm_commutes(rng: np.random.Generator) -> Evidence:
    """A layer norm commutes with an orthogonal basis that fixes the vector of ones up to its sign."""
    worst = 0.0
    for sign in (1, -1):
        # A reflection of the orthogonal complement of the ones.
        normal = rng.standard_normal(8)
        normal -= normal.mean()
        basis = sign * (np.eye(8) - 2 * np.outer(normal, normal) / (normal @ normal))
        rows = rng.standard_normal((50, 8))
        worst = max(worst, float(np.max(np.abs(layer_norm(rows @ basis.T) - layer_norm(rows) @ basis.T))))
    # Entries of size 3 at most, each after some ten sums of 8 terms.
    return at_most(worst, 1000 * EPSILON, "layer norm after the basis less before it")


def unchanged_weights(weights: LinearAttentionWeights) -> LinearAttentionWeights:
    return weights


def with_noise(weights: LinearAttentionWeights) -> LinearAttentionWeights:
    """Dense noise of a thousandth on every matrix."""

    def noisy(matrix: Array) -> Array:
        return matrix + 1e-3 * np.cos(np.arange(matrix.size) ** 2.0).reshape(matrix.shape)

    return LinearAttentionWeights(*map(noisy, weights))


@claim(
    "order_sensitivity/O5",
    title="Low rank survives every change of basis",
    source="Section 3.2 (what remains of it; derived)",
    statement=r"\operatorname{rank}W_K^\top W_Q=n_x<D,\quad\operatorname{rank}PW_V=n_y,\quad "
    r"A\to R^{-\top}AR^{-1},\ B\to RBR^{-1}",
    method="symbolic",
    scope="all sizes (blocks): the products are multiplied by invertible factors, and PW_V has inner dimension n_y "
    "with a block -I; ranks of 100 constructed layers in dense bases, above roundoff; the layers stay equivalent",
    uses=["order_sensitivity/O4"],
    control=Control("dense noise of a thousandth on every matrix", perturb=with_noise),
)
def low_rank_survives(
    rng: np.random.Generator, perturb: Callable[[LinearAttentionWeights], LinearAttentionWeights] = unchanged_weights
) -> Evidence:
    k, q, v, p, r, s, t = (blocks([[block(name)]]) for name in ("K", "Q", "V", "P", "R", "S", "T"))
    weights = LinearAttentionWeights(k[None], q[None], v[None], p[None])
    changed = change_basis(weights, r, s, t)
    inverse = 1 / r[0, 0]
    products = [
        changed.key_query[0, 0, 0] - sympy.transpose(inverse) * weights.key_query[0, 0, 0] * inverse,
        changed.projection_value[0, 0, 0] - r[0, 0] * weights.projection_value[0, 0, 0] * inverse,
    ]
    made = gradient_descent_weights(1, 1, ETA, N, blocks([[W0]]))
    factors = [
        made.key_query[0] - blocks([[1], [0]]) @ blocks([[1, 0]]),
        made.projection_value[0] - ETA / N * blocks([[0], [1]]) @ blocks([[W0, -1]]),
    ]

    def wrong_ranks(case: Any) -> float:
        weights, bases = case["weights"], case["bases"]
        n_inputs = int(np.sum(weights.key))
        changed = perturb(change_basis(weights, *bases))
        # Roundoff grows with the condition numbers of two bases, 16 each, before and after they meet.
        profiles = [singular_profile(one).values[0] for one in (changed.key_query, changed.projection_value)]
        found = [int(np.sum(values > 16**4 * len(values) * EPSILON * values[0])) for values in profiles]
        same = gd_equivalent(weights, change_basis(changed, np.linalg.inv(bases[0]), np.eye(len(bases[0]))), 1e-9)
        return float(found != [n_inputs, len(bases[0]) - n_inputs] or not same)

    return (
        vanishes(products, "products in the new basis")
        & vanishes(factors, "their factors")
        & for_all(rng, layers_and_bases(), wrong_ranks, 0, quantity="layers with another rank or another function")
    )


@figure(
    "order_sensitivity/F2",
    title="Sparsity is a matter of the basis",
    caption="Share of entries below the largest over delta, of the constructed keys and values (D = 64), of the same "
    "layer in a dense basis, and of Gaussian weights. The rotated layer computes the same function and is as dense as "
    "noise.",
    answers_to="Figure 2",
)
def sparsity_by_threshold(rng: np.random.Generator) -> Figure:
    deltas = np.logspace(0.5, 6, 23)
    n = 32
    made = gradient_descent_weights(n, n, 0.1, 8, rng.standard_normal((n, n)) / n**0.5)
    orthogonal = [np.linalg.qr(rng.standard_normal((2 * n, 2 * n)))[0] for _ in range(3)]
    rotated = change_basis(made, *orthogonal)
    matrices = {
        "keys, constructed": made.key[0],
        "values, constructed": made.value[0],
        "keys, another basis": rotated.key[0],
        "values, another basis": rotated.value[0],
        "Gaussian": rng.standard_normal((2 * n, 2 * n)),
    }
    curves = [
        Series(title, deltas.tolist(), [sparsity_ratio(matrix, delta) for delta in deltas])
        for title, matrix in matrices.items()
    ]
    return Figure(tuple(curves), r"$\delta$", "sparsity", x_scale="log")


@figure(
    "order_sensitivity/F4",
    title="The singular values stay",
    caption="Singular values of keys times queries and of projection times values, over the largest: constructed and "
    "rotated coincide, and half of them are zero; Gaussian ones are not.",
    answers_to="Figure 2",
)
def singular_values(rng: np.random.Generator) -> Figure:
    n = 16
    made = gradient_descent_weights(n, n, 0.1, 8, rng.standard_normal((n, n)) / n**0.5)
    orthogonal = [np.linalg.qr(rng.standard_normal((2 * n, 2 * n)))[0] for _ in range(3)]
    rotated = change_basis(made, *orthogonal)
    gaussian = rng.standard_normal((2 * n, 2 * n))
    matrices = {
        "keys and queries, constructed": made.key_query[0],
        "keys and queries, another basis": rotated.key_query[0],
        "projection and values, constructed": made.projection_value[0],
        "projection and values, another basis": rotated.projection_value[0],
        "Gaussian": gaussian,
    }
    places = list(range(1, 2 * n + 1))
    curves = []
    for title, matrix in matrices.items():
        values = singular_profile(matrix).values
        style: Any = "points" if "another" in title else "line"
        curves.append(Series(title, places, (values / values[0]).tolist(), style))
    return Figure(tuple(curves), "place", "singular value over the largest")
