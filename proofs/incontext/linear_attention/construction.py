r"""One layer is one gradient step, $K$ layers are $K$ steps, and why the rest does not matter (Section 2, A.1)."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.ledger import Control, Evidence, at_most, claim, equal
from proofs.properties import for_all
from proofs.symbolic import array, block, blocks, induction, scalar, vanishes
from refimpl.incontext.linear_attention import (
    LinearAttentionWeights,
    apply_linear,
    gradient_descent,
    gradient_descent_weights,
    gradient_step,
    inner_loss,
    linear_self_attention,
    make_tokens,
    read_prediction,
    stack_forward,
    transform_targets,
)
from refimpl.oracle.spec import Arguments, real_arrays
from refimpl.oracle.specs.incontext.linear_attention.construction import (
    FRACTIONS,
    prompts,
    random_layers,
    stable_rate,
)
from refimpl.primitives.numbers import Array, transpose
from refimpl.tasks.real_data import diabetes_prompts

Construct = Callable[..., LinearAttentionWeights]

# Blocks: matrices of any size. X and Y are the context, x and y one more token.
X, Y, x, y = map(block, ("X", "Y", "x", "y"))
W0, W, D = map(block, ("W0", "W", "D"))
# A block matrix has one column of blocks whatever the number of samples, so N enters as a symbol of its own.
ETA, N = scalar("eta", positive=True), scalar("N", positive=True)
ROUNDOFF = float(np.finfo(float).eps) / 2


def one_block(entry: Any) -> Array:
    """A matrix of any size as the 1 x 1 array of its only block."""
    return blocks([[entry]])


def stepped(weights: Any) -> Any:
    """The shipped gradient step on blocks; its own 1/N is 1 there and comes with the rate."""
    return gradient_step(one_block(weights), one_block(X), one_block(Y), ETA / N)[0, 0]


@st.composite
def started_prompts(draw: st.DrawFn) -> Arguments:
    """Prompts, initial weights for them, and a stable learning rate for each of 1 to 10 layers."""
    prompt = draw(prompts())
    n_inputs, n_outputs = prompt["x"].shape[-2], prompt["y"].shape[-2]
    fractions = draw(st.lists(FRACTIONS, min_size=1, max_size=10))
    return prompt | {
        "initial_weights": draw(real_arrays((n_outputs, n_inputs))),
        "learning_rates": [stable_rate(fraction, prompt["x"]) for fraction in fractions],
    }


# --- one layer ---


def with_values(factor: Any) -> Construct:
    """The construction with its values multiplied by `factor` on the targets."""

    def construct(n_inputs: int, *arguments: Any) -> LinearAttentionWeights:
        weights = gradient_descent_weights(n_inputs, *arguments)
        value = weights.value.copy()
        value[..., n_inputs:] = value[..., n_inputs:] * factor
        return weights._replace(value=value)

    return construct


def with_targets_in_keys(n_inputs: int, *arguments: Any) -> LinearAttentionWeights:
    """The construction with keys that read the first target."""
    weights = gradient_descent_weights(n_inputs, *arguments)
    key = weights.key.copy()
    key[..., 0, n_inputs] = 1
    return weights._replace(key=key)


@claim(
    "linear_attention/LA1",
    title="One linear self-attention layer is one step of gradient descent",
    source="Proposition 1, Eq. 8",
    statement=r"e_j + PW_V\,C\,(C^\top W_K^\top W_Q\,e_j)=(x_j,\ y_j-\Delta Wx_j),\quad "
    r"\Delta W=-\tfrac{\eta}{N}(W_0X-Y)X^\top",
    method="symbolic",
    scope="all numbers of inputs, outputs and context points, all initial weights, every token (blocks); again by "
    "entries at 2 inputs, 2 outputs, 2 context points",
    control=[
        Control("values carry 9/10 of the targets", construct=with_values(sympy.Rational(9, 10))),
        Control("keys read the targets too", construct=with_targets_in_keys),
    ],
)
def one_layer_is_one_step(construct: Construct = gradient_descent_weights) -> Evidence:
    change = -(ETA / N) * (W0 * X - Y) * sympy.transpose(X)
    updated = linear_self_attention(blocks([[X, x], [Y, y]]), construct(1, 1, ETA, N, one_block(W0)), 1)
    all_sizes = vanishes(updated - blocks([[X, x], [Y - change * X, y - change * x]]), "all sizes")

    inputs, targets, start = array("x", (2, 3)), array("y", (2, 3)), array("w", (2, 2))
    updated = linear_self_attention(np.concatenate([inputs, targets]), construct(2, 2, ETA, 2, start), 2)
    gradient = (start @ inputs - targets)[:, :2] @ inputs[:, :2].T
    expected = np.concatenate([inputs, targets + ETA / 2 * gradient @ inputs])
    return all_sizes & vanishes(updated - expected, "entries")


@claim(
    "linear_attention/LA2",
    title="In floating point the layer and the step agree to roundoff, for context and query",
    source="Proposition 1, Figure 1",
    statement=r"\mathrm{layer}(x_j,y_j)=(x_j,\ y_j-\Delta Wx_j),\quad \hat y=(W_0+\Delta W)x_q\ \text{ up to roundoff}",
    method="property",
    scope="100 batches of prompts: 1 to 64 inputs, 1 to 8 outputs, 1 to 256 context points, degenerate inputs, any "
    "W_0, eta below the stability limit",
    uses=["linear_attention/LA1"],
    control=Control("values carry 0.9999 of the targets", construct=with_values(0.9999)),
)
def layer_equals_step_in_floats(rng: np.random.Generator, construct: Construct = gradient_descent_weights) -> Evidence:
    def error(case: Arguments) -> float:
        inputs, targets, query, start, (rate, *_) = case.values()
        (n_outputs, n_inputs), n_context = start.shape, inputs.shape[-1]
        tokens = make_tokens(inputs, targets, query, start)
        weights = construct(n_inputs, n_outputs, rate, n_context, start)
        updated = linear_self_attention(tokens, weights, n_context)

        before = np.broadcast_to(start, (*inputs.shape[:-2], *start.shape))
        moved = transform_targets(before, inputs, targets, rate)
        predicted = apply_linear(gradient_step(before, inputs, targets, rate), query)
        expected = np.concatenate([moved, -predicted[..., None]], axis=-1)
        expected = np.concatenate([tokens[..., :n_inputs, :], expected], axis=-2)

        # Each of the two routes rounds no more than 2 (N + D) + 16 partial results on the way to an entry, each at most
        # the same products of absolute values.
        size, context = np.abs(tokens), np.abs(tokens[..., :n_context])
        products = size + np.abs(weights.projection_value[0]) @ context @ (
            transpose(context) @ (np.abs(weights.key_query[0]) @ size)
        )
        products[..., n_inputs:, :] += np.abs(start) @ size[..., :n_inputs, :]
        allowed = 2 * (2 * (n_context + n_inputs + n_outputs) + 16) * ROUNDOFF * products
        return float(np.max(np.abs(updated - expected) / np.maximum(allowed, np.finfo(float).tiny)))

    return for_all(rng, started_prompts(), error, 1, examples=100, quantity="error over rounding bound")


def added_targets(weights: Array, inputs: Array, targets: Array, learning_rate: Any) -> Array:
    return 2 * targets - transform_targets(weights, inputs, targets, learning_rate)


@claim(
    "linear_attention/LA3",
    title="Moving the targets by a weight change has the loss of changing the weights",
    source="Eq. 4",
    statement=r"L(W+\Delta W;X,Y)=L(W;X,Y-\Delta WX)\ \text{ for every }\Delta W",
    method="symbolic",
    scope="all sizes (blocks; the loss is the trace of the residuals' Gram matrix, which agrees); again by entries at "
    "2 inputs, 1 output, 2 context points",
    control=Control("the change is added to the targets", transform=added_targets),
)
def moved_targets_have_the_loss(transform: Callable[..., Array] = transform_targets) -> Evidence:
    def both(weights: Array, inputs: Array, targets: Array, change: Array) -> list[Array]:
        """For any change, and for the gradient step's."""
        after = gradient_step(weights, inputs, targets, ETA)
        moved = transform(weights, inputs, targets, ETA)
        return [
            inner_loss(weights + change, inputs, targets) - inner_loss(weights, inputs, targets - change @ inputs),
            inner_loss(after, inputs, targets) - inner_loss(weights, inputs, moved),
        ]

    entries = both(array("w", (1, 2)), array("x", (2, 2)), array("y", (1, 2)), array("d", (1, 2)))
    return vanishes(both(*map(one_block, (W, X, Y, D))), "all sizes") & vanishes(entries, "entries")


# --- many layers ---


def forgetting_the_start(
    n_inputs: int, n_outputs: int, learning_rate: Any, n_context: Any, start: Array
) -> LinearAttentionWeights:
    """The construction with zeros for the initial weights."""
    return gradient_descent_weights(n_inputs, n_outputs, learning_rate, n_context, 0 * start)


def query_without_start(inputs: Array, targets: Array, query: Array, start: Array) -> Array:
    return make_tokens(inputs, targets, query)


def descent_rounding(inputs: Array, targets: Array, query: Array, depth: int, largest: float | None = None) -> float:
    r"""A bound on how far the roundoff of two routes to a prediction of descent can take them apart.

    Below the stability limit a step does not amplify an error $\delta R$ of the residuals, and passes at most
    $\frac\eta N\lVert\delta R\rVert\lVert X\rVert\lVert x_q\rVert\le2\lVert\delta R\rVert\lVert
    x_q\rVert/\lVert X\rVert$ of it on to the prediction. In each of $K$ steps each route rounds at most $n=2(N+D)+16$
    partial results of size at most $(1+2r)M$, with $r=\min(N,N_x)$ and
    $M=\max_k(\lVert W_k\rVert+\lVert W_0\rVert)\lVert X\rVert_F+\lVert Y\rVert_F$.

    `largest` is the maximum in $M$; descent from zero, whose steps are at most $2\lVert Y\rVert/\lVert X\rVert$ each,
    needs none.
    """

    def norm(matrices: Array, order: Any = None) -> float:
        return float(np.max(np.linalg.norm(matrices, order, axis=(-2, -1))))

    n_context, (n_inputs, n_outputs), spectral = (
        inputs.shape[-1],
        (inputs.shape[-2], targets.shape[-2]),
        norm(inputs, 2),
    )
    if largest is None:
        largest = 2 * depth * norm(targets) / spectral if spectral else 0.0
    size = largest * norm(inputs) + norm(targets)
    reach = 1 + 2 * norm(query[..., None]) / spectral if spectral else 1.0
    rounded = 2 * (2 * (n_context + n_inputs + n_outputs) + 16) * ROUNDOFF
    return rounded * depth * (depth + 1) * (1 + 2 * min(n_context, n_inputs)) * size * reach


def over(error: float, bound: float) -> float:
    """The error in units of its bound, which is 0 where inputs and targets vanish and every route is exact."""
    if bound == 0:
        return 0.0 if error == 0 else math.inf
    return error / bound


def depth_error(
    construct: Construct,
    tokens: Callable[..., Array],
    inputs: Array,
    targets: Array,
    query: Array,
    start: Array,
    rates: Sequence[float],
) -> float:
    """How far the stack's prediction is from gradient descent's, over the bound on their roundoff."""
    (n_outputs, n_inputs), n_context, depth = start.shape, inputs.shape[-1], len(rates)
    layers = [construct(n_inputs, n_outputs, rate, n_context, start) for rate in rates]
    predicted = read_prediction(stack_forward(tokens(inputs, targets, query, start), layers, n_context), n_inputs)
    iterates = [start, *(gradient_descent(inputs, targets, rates[:k], start) for k in range(1, depth + 1))]
    error = np.max(np.abs(predicted - apply_linear(iterates[-1], query)))
    largest = max(np.max(np.linalg.norm(w, axis=(-2, -1))) for w in iterates) + np.linalg.norm(start)
    return over(float(error), descent_rounding(inputs, targets, query, depth, float(largest)))


@claim(
    "linear_attention/LA4",
    title="K layers are K steps of gradient descent",
    source="Section 3, Figure 3",
    statement=r"\text{after }k\text{ layers with rates }\eta_1..\eta_k:\quad e_j=(x_j,\ y_j-(W_k-W_0)x_j),\ "
    r"e_q=(x_q,\ -W_kx_q)",
    method="symbolic",
    scope="all depths (induction), all sizes, any W_0, a rate for each layer (blocks); and 100 batches of prompts in "
    "floats at 1 to 10 layers, to a derived rounding bound",
    uses=["linear_attention/LA1"],
    control=[
        Control("layers with zeros for W_0", construct=forgetting_the_start),
        Control("a query token that starts at 0 instead of -W_0 x_q", tokens=query_without_start),
    ],
)
def layers_are_steps(
    rng: np.random.Generator,
    construct: Construct = gradient_descent_weights,
    tokens: Callable[..., Array] = make_tokens,
) -> Evidence:
    def after(weights: Any) -> Array:
        """The tokens when descent has reached these weights; the first column stands for the context."""
        return blocks([[X, x], [Y - (weights - W0) * X, -weights * x]])

    at_start = tokens(one_block(X), one_block(Y), blocks([[x]])[0], one_block(W0))
    layer = construct(1, 1, ETA, N, one_block(W0))
    proof = induction(
        vanishes(at_start - after(W0), "tokens before the first layer"),
        vanishes(linear_self_attention(after(W), layer, 1) - after(stepped(W)), "one more layer"),
    )
    read = vanishes(read_prediction(after(W), 1) - blocks([[W * x]])[0], "prediction")
    in_floats = for_all(
        rng,
        started_prompts(),
        lambda case: depth_error(construct, tokens, *case.values()),
        1,
        examples=100,
        quantity="error over rounding bound",
    )
    return proof & read & in_floats


@claim(
    "linear_attention/LA5",
    title="A query among keys and values does no harm, in the first layer and from zero weights only",
    source="Section 2, Full self-attention",
    statement=r"W_0=0:\quad B\,e_qe_q^\top A\,e_j=0\ \text{ for every }j",
    method="symbolic",
    scope="all sizes (blocks)",
    uses=["linear_attention/LA1"],
    control=[
        Control("the second layer, where the query's target is no longer 0", n_layers=2),
        Control("initial weights other than 0", start=W0),
    ],
)
def attending_to_the_query(n_layers: int = 1, start: Any = 0) -> Evidence:
    layer = gradient_descent_weights(1, 1, ETA, N, one_block(start))
    tokens = {
        included: make_tokens(one_block(X), one_block(Y), blocks([[x]])[0], one_block(start))
        for included in (False, True)
    }
    for _ in range(n_layers):
        tokens = {included: linear_self_attention(tokens[included], layer, 1, included) for included in tokens}
    return vanishes(tokens[True] - tokens[False])


@claim(
    "linear_attention/LA6",
    title="Only the two products of the four matrices matter",
    source="Section 2, Uniqueness; Figure 9",
    statement=r"(W_K,W_Q,W_V,P)\mapsto(RW_K,R^{-\top}W_Q,SW_V,PS^{-1}),\ (A/s,sB),\ (OW_K,OW_Q)\ \text{with }O^\top O=I"
    r"\ \text{ leave the layer as it is}",
    method="symbolic",
    scope="all sizes, all invertible R and S, all orthogonal O, all weights of two heads (blocks)",
    control=Control("one matrix on keys and queries that is not orthogonal", orthogonal=()),
)
def only_products_matter(orthogonal: Sequence[str] = ("O",)) -> Evidence:
    tokens = blocks([[block("C"), block("e")]])

    def weights(*matrices: str) -> LinearAttentionWeights:
        """Two heads; each argument names the matrix of both."""
        return LinearAttentionWeights(*(np.stack([one_block(block(f"{m}{h}")) for h in (1, 2)]) for m in matrices))

    key, query, value, projection = weights("K", "Q", "V", "P")
    Z, S, rotation, s = block("Z"), block("S"), block("O"), scalar("s", positive=True)
    # With R the inverse transpose of Z, R^{-T} is Z.
    changed = {
        "any bases": LinearAttentionWeights(
            one_block(sympy.transpose(Z) ** -1) @ key,
            one_block(Z) @ query,
            one_block(S) @ value,
            projection @ one_block(1 / S),
        ),
        "scale": LinearAttentionWeights(key / s, query, value, s * projection),
        "rotation": LinearAttentionWeights(one_block(rotation) @ key, one_block(rotation) @ query, value, projection),
    }
    original = linear_self_attention(tokens, LinearAttentionWeights(key, query, value, projection), 1)
    known = [block(name) for name in orthogonal]
    evidence = [
        vanishes(linear_self_attention(tokens, weights, 1) - original, name, orthogonal=known)
        for name, weights in changed.items()
    ]
    return evidence[0] & evidence[1] & evidence[2]


@claim(
    "linear_attention/LA7",
    title="The prediction is linear in the query, for any weights at any depth",
    source="Section 2, the query token",
    statement=r"e_q^{(k+1)}=(I+BG^{(k)}A)\,e_q^{(k)},\quad G^{(k)}=C^{(k)}C^{(k)\top}\ \text{free of the query}",
    method="symbolic",
    scope="all depths (induction), all sizes, all weights (blocks; heads add); and superposition in floats on 100 "
    "stacks of 1 to 4 layers of 1 or 2 random heads",
    control=Control("the query gives keys and values too", layer=partial(linear_self_attention, include_query=True)),
)
def linear_in_the_query(rng: np.random.Generator, layer: Callable[..., Array] = linear_self_attention) -> Evidence:
    C, M, a, b = block("C"), block("M"), block("a"), block("b")
    weights = LinearAttentionWeights(*(one_block(block(name))[None] for name in "KQVP"))

    def update(query: Any) -> Array:
        """One layer on a context that is free of the query, and a query token linear in it."""
        return layer(blocks([[C, M * query]]), weights, 1)

    key_query, projection_value = weights.key_query[0, 0, 0], weights.projection_value[0, 0, 0]
    mapped = M * a + projection_value * C * sympy.transpose(C) * key_query * M * a
    step = vanishes(update(a)[0, 0] - update(b)[0, 0], "context free of the query") & vanishes(
        update(a)[0, 1] - mapped, "query mapped by I + BGA"
    )
    prompt = [
        make_tokens(one_block(X), one_block(Y), blocks([[query]])[0], one_block(W0)) for query in (x, y, 2 * x + 3 * y)
    ]
    base = vanishes(prompt[2][:, 1] - 2 * prompt[0][:, 1] - 3 * prompt[1][:, 1], "query token linear in x_q")

    def superposition(case: Arguments) -> float:
        tokens, layers, n_context = case["tokens"], case["layers"], case["n_context"]

        def out(query: Array) -> Array:
            state = np.concatenate([tokens[..., :n_context], query], axis=-1)
            for one in layers:
                state = layer(state, one, n_context)
            return state[..., -1:]

        first = tokens[..., n_context:]
        second = np.flip(first, axis=-2)
        parts = out(first), out(second)
        # Layers here are scaled to change tokens by no more than about their size; four layers of three products over
        # at most N + D = 280 terms round to less than 10^4 units of the largest number on the way.
        size = max(np.max(np.abs(part)) for part in (tokens, *parts))
        return float(
            np.max(np.abs(out(2 * first - 3 * second) - (2 * parts[0] - 3 * parts[1])))
            / max(size, np.finfo(float).tiny)
        )

    in_floats = for_all(
        rng,
        random_layers(st.integers(1, 4), max_heads=2),
        superposition,
        1e4 * ROUNDOFF,
        quantity="superposition error",
    )
    return induction(base, step) & in_floats


# --- real input ---


@claim(
    "linear_attention/LA32",
    title="On real rows the constructed layers are gradient steps to roundoff",
    source="Proposition 1 and Section 3, on scikit-learn's diabetes data",
    statement=r"\hat y_{K\text{ layers}}=W_Kx_q\ \text{ on patients' records, up to roundoff}",
    method="property",
    scope="200 prompts of 5, 20 and 100 standardised rows of 10 features each; 1, 2 and 10 layers; W_0 zero and "
    "Gaussian; to the rounding bound of LA4",
    uses=["linear_attention/LA4"],
    requires=["sklearn"],
    control=[
        Control("values carry 0.9999 of the targets", construct=with_values(0.9999)),
        Control("layers with zeros for W_0", construct=forgetting_the_start),
    ],
)
def real_rows(rng: np.random.Generator, construct: Construct = gradient_descent_weights) -> Evidence:
    errors = []
    for n_context in (5, 20, 100):
        tasks = diabetes_prompts(200, n_context, rng)
        for start in (np.zeros((1, 10)), rng.standard_normal((1, 10))):
            for depth in (1, 2, 10):
                rates = [stable_rate(fraction, tasks.x) for fraction in rng.uniform(0.1, 0.9, depth)]
                errors.append(depth_error(construct, make_tokens, *tasks[:3], start, rates))
    return at_most(max(errors), 1, "error over rounding bound") & equal(len(errors), 18, "settings")
