r"""The transformer that performs Newton iterations, layer by layer and as a whole (Section 5, Theorem 5.1, Appendix B).

A block matrix here has one column of blocks for the inputs $X$ of all examples, one for their targets and one for the
query: the order of the columns does not matter to full attention.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.incontext.higher_order.newton import ROUNDOFF, S, X, inverse_block, one_block
from proofs.ledger import Control, Evidence, at_least, at_most, claim, equal
from proofs.properties import for_all
from proofs.symbolic import array, block, blocks, scalar, vanishes
from refimpl.incontext.higher_order import (
    Columns,
    Layer,
    Operator,
    ReluHeads,
    apply_layer,
    embed_prompt,
    initial_layers,
    iterative_newton,
    newton_layer,
    newton_schulz_inverse,
    newton_schulz_step,
    newton_transformer,
    prompt_columns,
    read_out_layers,
    run_newton_transformer,
    short_read_out_layers,
    transformer_block,
)
from refimpl.oracle.spec import Arguments, generators
from refimpl.oracle.specs.incontext.higher_order.construction import prompts
from refimpl.oracle.specs.incontext.higher_order.newton import gram_of
from refimpl.primitives.numbers import Array
from refimpl.tasks.linear_regression import interleave_prompt

COLUMNS = Columns([0], [1], 2)
T, Y, x = map(block, ("T", "Y", "x"))
N = scalar("n", positive=True)
ALPHA = scalar("alpha", positive=True)
# X X' is the sum over examples that the paper writes X'X, for here the examples are columns.
GRAM = X * sympy.transpose(X)


def states(first: Any, rest: Sequence[Sequence[Any]] | None = None) -> Array:
    """Hidden states with `first` times the tokens above the tokens; below them anything."""
    below = rest or [[block(f"{name}{i}") for i in range(3)] for name in ("c", "l")]
    return blocks([[first * X, first * Y, first * x], [X, Y, x], *below])


Change = Callable[[Layer], Layer]


def as_it_is(layer: Layer) -> Layer:
    return layer


def same_signs(layer: Layer) -> Layer:
    """Both heads with the value matrix of the first, as the paper prints them."""
    if layer.heads is None or len(layer.heads.value) != 2:
        return layer
    return layer._replace(heads=layer.heads._replace(value=layer.heads.value[[0, 0]]))


def query_among_the_keys(layer: Layer) -> Layer:
    """The query's column gives keys and values too."""
    if layer.heads is None or layer.key_columns is None:
        return layer
    last = 2 * max(1, len(layer.key_columns))
    return layer._replace(key_columns=[*layer.key_columns, last])


def perceptron_triples(layer: Layer) -> Layer:
    """A perceptron that adds its input twice."""
    return layer if layer.mlp is None else layer._replace(mlp=layer.mlp._replace(outer=2 * layer.mlp.outer))


@claim(
    "higher_order/HO9",
    title="One layer of two heads is one Newton iteration",
    source="Theorem 5.1, Newton layers",
    statement=r"[Tx_t;\ x_t]\mapsto[(2T-TST)x_t;\ x_t]\ \text{ for every symmetric }T\text{ and every column}",
    method="symbolic",
    scope="all dimensions and numbers of examples, all symmetric T (blocks), the query's and the targets' columns "
    "included; the ReLUs as (z + |z|)/2 entry by entry, where the |z| of the two heads cancel; and 100 prompts in "
    "floats at the iterates of 0 to 8 iterations, to a rounding bound",
    erratum="The proof prints equal values for the two heads, which sums absolute values of the scores. They must be "
    "opposite, here and in the initial layer.",
    control=[
        Control("equal values, as printed", change=same_signs),
        Control("the query among the keys", change=query_among_the_keys),
        Control("a perceptron that triples", change=perceptron_triples),
    ],
)
def one_layer_is_one_iteration(rng: np.random.Generator, change: Change = as_it_is) -> Evidence:
    before = states(T)
    layer = change(newton_layer(1, N, COLUMNS, object))
    after = states(newton_schulz_step(one_block(T), one_block(GRAM))[0, 0], before[2:].tolist())
    all_sizes = vanishes(apply_layer(before, layer) - after, "all sizes", symmetric=[T])

    def error(case: Arguments) -> float:
        inputs, targets, query, n_iterations, scale, _ = case.values()
        (n, d), gram = inputs.shape[-2:], gram_of(inputs)
        inverse = newton_schulz_inverse(gram, n_iterations, scale)
        tokens = interleave_prompt(inputs, targets, query)
        hidden = embed_prompt(tokens)
        hidden[..., :d, :], hidden[..., d : 2 * d, :] = inverse @ tokens, tokens
        columns = prompt_columns(n)
        out = apply_layer(hidden, change(newton_layer(d, n, columns)))
        wanted = newton_schulz_step(inverse, gram) @ tokens
        # Scores of d terms, a sum of n and the doubling, of two heads, round to (n + d) u of the same products of
        # absolute values, and so do the products of the step and that of T x before.
        sizes = [np.abs(array) for array in (inverse, inputs, tokens)]
        keys = sizes[0] @ np.swapaxes(sizes[1], -1, -2)
        size = sizes[0] @ sizes[2] + keys @ (np.swapaxes(keys, -1, -2) @ sizes[2])
        size = size + keys @ (sizes[1] @ (sizes[0] @ sizes[2]))
        bound = 8 * (n + 3 * d + 4) * ROUNDOFF * size + np.finfo(float).tiny
        kept = np.array_equal(out[..., d : 2 * d, :], tokens)
        with np.errstate(over="ignore"):  # where nothing may be wrong, what is wrong divides by the smallest number
            return float(np.max(np.abs(out[..., :d, :] - wanted) / bound)) if kept else np.inf

    return all_sizes & for_all(rng, prompts(), error, 1, quantity="error over rounding bound, tokens kept exactly")


# --- the whole ---


def run(layers: Sequence[Layer | Operator], hidden: Array) -> Array:
    for layer in layers:
        hidden = apply_layer(hidden, layer)
    return hidden


def changed(layers: Sequence[Layer | Operator], change: Change) -> list[Layer | Operator]:
    return [change(layer) if isinstance(layer, Layer) else layer for layer in layers]


@st.composite
def moderate_prompts(draw: st.DrawFn) -> Arguments:
    """Prompts whose inputs have singular values between 1 and 2, times 1/2, 1 or 2; more inputs than examples too."""
    d, n = draw(st.integers(1, 8)), draw(st.sampled_from((1, 2, 5, 12, 24)))
    rng = draw(generators())
    rank = min(n, d)
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0][:, :rank] for size in (n, d))
    return {
        "x": draw(st.sampled_from((0.5, 1.0, 2.0))) * (left * rng.uniform(1, 2, rank)) @ right.T,
        "y": rng.standard_normal(n),
        "x_query": rng.standard_normal(d),
        "n_iterations": draw(st.integers(0, 8)),
        "read_out": draw(st.sampled_from(("paper", "short"))),
    }


@claim(
    "higher_order/HO10",
    title="The constructed transformer of k + 8 layers predicts what k Newton iterations do",
    source="Theorem 5.1",
    statement=r"u^\top h_{test}=x_{test}^\top M_kX^\top y\ \text{ with }k+8\text{ layers of width }3d+1",
    method="symbolic",
    scope="all k, d, n (blocks): the first three layers, then HO9, then the short read-out from any T, with the first "
    "input apart, whose row of a target's token holds y; the paper's read-out on symbols at d, n <= 2; and 100 prompts "
    "in floats, both read-outs, 0 to 8 iterations, up to 8 inputs and 24 examples, to a rounding bound",
    uses=["higher_order/HO9"],
    control=[
        Control("the query among the keys", change=query_among_the_keys),
        Control("equal values in the two heads, as printed", change=same_signs),
    ],
)
def whole_transformer(rng: np.random.Generator, change: Change = as_it_is) -> Evidence:
    start = blocks([[X, Y, x], [0, 0, 0], [0, 0, 0], [1, 1, 1]])
    below = start[2:].tolist()
    initial = run(changed(initial_layers(1, N, ALPHA, COLUMNS, object), change), start)
    begins = vanishes(
        initial - states(inverse_block(0).xreplace({S: GRAM}), below), "[alpha S x; x] after three layers"
    )

    # Two rows of blocks for every part: the first coordinate, where a target's token holds y, and all others.
    parts = [[block(f"{name}{i}") for i in (1, 2)] for name in ("X", "x", "V", "v", "w")]
    (X1, X2), (x1, x2), (V1, V2), (v1, v2), (w1, w2) = parts
    y = block("y")
    hidden = blocks([[V1, w1, v1], [V2, w2, v2], [X1, y, x1], [X2, 0, x2], [0, 0, 0], [0, 0, 0], [1, 1, 1]])
    read = run(changed(short_read_out_layers(2, N, COLUMNS, object), change), hidden)[-1, -1]
    scores = sympy.transpose(V1) * x1 + sympy.transpose(V2) * x2
    short = vanishes(read - y * scores, "short read-out: y'(TX)'x_test")

    entries = []
    for d, n in ((1, 1), (1, 2), (2, 1), (2, 2)):
        inputs, targets, query, inverse = array("x", (n, d)), array("y", (n,)), array("q", (d,)), array("t", (d, d))
        tokens, columns = interleave_prompt(inputs, targets, query), prompt_columns(n)
        hidden = embed_prompt(tokens)
        hidden[:d], hidden[d : 2 * d] = inverse @ tokens, tokens
        read = run(changed(read_out_layers(d, n, columns, object), change), hidden)[-1, -1]
        entries.append(read - query @ inverse @ inputs.T @ targets)
    paper = vanishes(entries, "the paper's read-out")

    def error(case: Arguments) -> float:
        inputs, targets, query, n_iterations, read_out = case.values()
        n, d = inputs.shape
        values = np.linalg.svd(inputs, compute_uv=False) ** 2
        scale = 1 / float(values[0]) ** 2
        layers = newton_transformer(n_iterations, d, n, scale, read_out)
        weights = iterative_newton(inputs, targets, n_iterations, scale)
        # A layer rounds T x by (n + 3 d + 4) u of |T| |x|, the third by u |x| besides, for it subtracts x. Errors E of
        # all T x_j become E (2 - X'TX) - TX E'X, at most 2 + |TX||X| <= 4 times as large, as lambda_1/lambda_d <= 4.
        unit = 8 * (n + 3 * d + 4) * ROUNDOFF * (1 / values[-1] + 1)
        size = np.linalg.norm(inputs) * np.linalg.norm(targets) * np.linalg.norm(query)
        with np.errstate(over="ignore", invalid="ignore"):  # broken layers may diverge
            predicted = run_newton_transformer(changed(layers, change), inputs, targets, query)
            return float(abs(predicted - weights @ query) / (4 * unit * 4.0**n_iterations * size))

    sizes = [len(newton_transformer(k, 4, 3, 1.0)) - k for k in (0, 1, 5)]
    layers = [layer for layer in newton_transformer(2, 4, 3, 1.0) if isinstance(layer, Layer)]
    widths = {layer.mlp.inner.shape[-1] for layer in layers if layer.mlp}
    heads = max(len(layer.heads.value) for layer in layers if layer.heads)
    return (
        begins
        & short
        & paper
        & for_all(rng, moderate_prompts(), error, 1, quantity="prediction in floats over rounding bound")
        & equal(sizes, [8, 8, 8], "layers less k")
        & equal([*widths, heads], [13, 2], "width at d = 4, and heads")
    )


@claim(
    "higher_order/HO11",
    title="One attention layer sums columns",
    source="Lemma B.3",
    statement=r"\tfrac1n\sum_{j\le n}\mathrm{ReLU}(1\cdot1)\,nh_j=\sum_jh_j",
    method="symbolic",
    scope="the shipped layer on symbols for d <= 2 rows and n <= 3 columns; every summand has the coefficient n/n",
    control=Control("values without n, which average", value=1),
)
def attention_sums(value: Any = None) -> Evidence:
    left = []
    for d, n in ((1, 1), (1, 3), (2, 2), (2, 3)):
        columns = array("h", (d, n))
        hidden = np.zeros((d + 1, n + 1), dtype=object)
        hidden[:d, :n], hidden[d] = columns, 1
        one, keep = np.eye(d + 1, dtype=object)[d:], np.eye(d + 1, dtype=object)[:d]
        values = (n if value is None else value) * (keep.T @ keep)
        out = transformer_block(hidden, ReluHeads(one[None], one[None], values[None]), None, n, range(n))
        left.append(out[:d, -1] - columns.sum(axis=1))
    return vanishes(left, "sum of the columns in the last")


# --- the causal variant ---


def layers_of_one(dim: int, n_iterations: int, scale: float) -> list[Layer]:
    """The construction's weights for n = 1, so that attention that divides by t makes them Newton's on a covariance."""
    columns = Columns([], [], 0)
    layers = [*initial_layers(dim, 1, scale, columns), *[newton_layer(dim, 1, columns)] * n_iterations]
    return [layer._replace(n_context=None, key_columns=None) for layer in layers]


def causally(layers: Sequence[Layer], x: Array, positions: range) -> Array:
    """What the layers make of these positions with causal attention."""
    return run(layers, embed_prompt(x))[: len(x), positions].T


def each_alone(layers: Sequence[Layer], x: Array, positions: range) -> Array:
    """The same where every position ends a prompt of its own, of which all columns see all others."""
    prefixes = [
        run([layer._replace(n_context=t + 1) for layer in layers], embed_prompt(x[:, : t + 1])) for t in positions
    ]
    return np.array([prefix[: len(x), -1] for prefix in prefixes])


def causal_error(rng: np.random.Generator, dim: int, n: int, attend: Callable[..., Array]) -> float:
    r"""The median relative error of $T_tx_t$ after 4 iterations, over the second half of the positions."""
    x = rng.standard_normal((dim, n))
    rows = x.T[..., None]
    covariances = np.cumsum(rows * np.swapaxes(rows, 1, 2), axis=0) / np.arange(1, n + 1)[:, None, None]
    scale = 0.3 / float(np.max(np.linalg.eigvalsh(covariances)[:, -1])) ** 2
    late = range(n // 2, n)
    wanted = (newton_schulz_inverse(covariances[late], 4, scale) @ rows[late])[..., 0]
    error = np.linalg.norm(attend(layers_of_one(dim, 4, scale), x, late) - wanted, axis=-1)
    return float(np.median(error / np.linalg.norm(wanted, axis=-1)))


@claim(
    "higher_order/HO12",
    title="With causal attention the construction is only heuristic",
    source="Remark B.6",
    statement=r"\tfrac1t\mathrm{ReLU}\text{ and the coefficient }-\tfrac12:\ \ h_t\ne T_tx_t,\quad "
    r"T_t\text{ from }\hat\Sigma_t=\tfrac1t\textstyle\sum_{j\le t}x_jx_j^\top",
    method="experiment",
    scope="4 iterations, n = 20, 80, 320, 1280 standard normal inputs of dimension 3 and 5, medians over the second "
    "half of the positions and 5 draws; the scale 0.3 over the largest squared eigenvalue of any prefix",
    uses=["higher_order/HO9"],
    control=Control("every position in a prompt of its own, with full attention: exact", attend=each_alone, longest=80),
)
def causal_is_heuristic(
    rng: np.random.Generator, attend: Callable[..., Array] = causally, longest: int = 1280
) -> Evidence:
    lengths = [n for n in (20, 80, 320, 1280) if n <= longest]
    medians = {
        (dim, n): float(np.median([causal_error(rng, dim, n, attend) for _ in range(5)]))
        for dim in (3, 5)
        for n in lengths
    }
    decay = max(medians[dim, longest] / medians[dim, 20] for dim in (3, 5))
    return at_least(min(medians.values()), 1e-3, "smallest median relative error") & at_most(
        decay, 0.5, f"median at n = {longest} over that at 20"
    )
