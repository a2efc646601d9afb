"""What may be compared with *Do pretrained Transformers Learn In-Context by Gradient Descent?*"""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.order_sensitivity import (
    AttentionStack,
    change_basis,
    label_loss,
    label_loss_vjp,
    order_dependent_term,
    order_sensitivity,
    overlap_cosine,
    random_orders,
    sparsity_ratio,
    stack_logits,
    stack_logits_vjp,
    token_overlap,
    train_on_demonstrations,
)
from refimpl.incontext.order_sensitivity.finetuning import mean_gradient, prediction_errors
from refimpl.incontext.order_sensitivity.similarity import top_tokens
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register, symbols
from refimpl.primitives.attention import MultiHeadAttention
from refimpl.primitives.linear_self_attention import LinearAttentionWeights, gradient_descent_weights
from refimpl.primitives.normalization import softmax
from refimpl.primitives.numbers import Array
from refimpl.primitives.transformer import Block

BATCHES = st.sampled_from(((), (1,), (3,)))
# Rounded to 8 or 11 bits the entries of a distribution no longer sum to 1 within the 1e-6 that is asked.
SINGLE = ("float64", "float32")


# --- sensitivity ---


@st.composite
def ordered_distributions(draw: st.DrawFn) -> Arguments:
    """``distributions`` at 2 to 24 orders, spread out or nearly all on one token, and ``ddof``."""
    shape = (*draw(BATCHES), draw(st.sampled_from((2, 3, 10, 24))), draw(st.sampled_from((1, 4))))
    shape = (*shape, draw(st.sampled_from((2, 6, 50, 1000))))
    scores = draw(real_arrays(shape, draw(st.sampled_from((1.0, 5.0)))))
    return {"distributions": softmax.unchecked(scores), "ddof": draw(st.integers(0, 1))}


def half_way(distributions: Array) -> Array:
    """Each row mixed half-and-half with the uniform distribution."""
    return (distributions + 1 / np.asarray(distributions.shape[-1], distributions.dtype)) / 2


def unchanged(output: Any, arguments: Arguments) -> Any:
    return output


register(
    Spec(
        name="order_sensitivity/order_sensitivity",
        reference=order_sensitivity,
        arguments=ordered_distributions(),
        symbols=lambda: {"distributions": symbols("p", 2, 1, 2)},
        relations=(
            Relation("tokens relabelled", lambda a: a | {"distributions": a["distributions"][..., ::-1]}, unchanged),
            Relation(
                "orders in reverse", lambda a: a | {"distributions": a["distributions"][..., ::-1, :, :]}, unchanged
            ),
            Relation(
                "every row mixed half-and-half with one distribution",
                lambda a: a | {"distributions": half_way(a["distributions"])},
                lambda output, a: output / 2,
            ),
        ),
        dtypes=SINGLE,
        mistakes={
            ("normalisation", "the mean over tokens, not their sum"): lambda distributions, ddof: distributions.std(
                axis=-3, ddof=ddof
            ).mean(axis=(-1, -2)),
            ("axis", "deviations over test inputs, not over orders"): lambda distributions, ddof: (
                distributions.std(axis=-2).sum(axis=-1).mean(axis=-1)
            ),
            ("order of operations", "the deviation of the most probable token's probability"): (
                lambda distributions, ddof: distributions.max(axis=-1).std(axis=-2, ddof=ddof).mean(axis=-1)
            ),
        },
    )
)


# --- similarity ---


@st.composite
def distribution_pairs(draw: st.DrawFn) -> Arguments:
    """Two distributions ``p`` and ``q`` without ties, and ``k``; sometimes on nearly the same tokens."""
    shape = (*draw(BATCHES), draw(st.sampled_from((1, 3, 10, 50, 400))))
    rng = draw(generators())
    ladder = np.linspace(-1, 1, shape[-1]) * draw(st.sampled_from((0.5, 3.0, 8.0)))
    first = rng.permuted(np.broadcast_to(ladder, shape), axis=-1)
    second = rng.permuted(first, axis=-1) if draw(st.booleans()) else first[..., ::-1] / 2 + first
    second = second + np.arange(shape[-1]) / (100 * shape[-1])
    return {
        "p": softmax.unchecked(first),
        "q": softmax.unchecked(second),
        "k": draw(st.integers(1, min(10, shape[-1]))),
    }


def exchanged(arguments: Arguments) -> Arguments:
    return arguments | {"p": arguments["q"], "q": arguments["p"]}


def relabelled(arguments: Arguments) -> Arguments:
    return arguments | {name: np.flip(arguments[name], axis=-1) for name in "pq"}


def sharpened(arguments: Arguments) -> Arguments:
    """Both distributions squared and normalised: an increasing map of the probabilities."""
    squares = {name: arguments[name] ** 2 for name in "pq"}
    return arguments | {name: square / square.sum(axis=-1, keepdims=True) for name, square in squares.items()}


EXCHANGED = Relation("the distributions exchanged", exchanged, unchanged)
RELABELLED = Relation("tokens relabelled", relabelled, unchanged)


def _jaccard(p: Array, q: Array, k: int) -> Array:
    shared = (top_tokens(p, k) * top_tokens(q, k)).sum(axis=-1)
    return shared / (2 * k - shared)


def _without_penalty(p: Array, q: Array, k: int, penalty: str) -> Array:
    shared = top_tokens(p, k) * top_tokens(q, k)
    squares = (shared * p * p).sum(axis=-1) * (shared * q * q).sum(axis=-1)
    return (shared * p * q).sum(axis=-1) / np.sqrt(np.maximum(squares, np.finfo(p.dtype).tiny))


def _multiplicative(p: Array, q: Array, k: int, penalty: str) -> Array:
    shared = top_tokens(p, k) * top_tokens(q, k)
    squares = (shared * p * p).sum(axis=-1) * (shared * q * q).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (shared * p * q).sum(axis=-1) / np.sqrt(squares * (k - shared.sum(axis=-1)))


register(
    Spec(
        name="order_sensitivity/token_overlap",
        reference=token_overlap,
        arguments=distribution_pairs(),
        relations=(EXCHANGED, RELABELLED, Relation("an increasing map of both", sharpened, unchanged)),
        dtypes=SINGLE,
        mistakes={("normalisation", "divided by the union, not by K"): _jaccard},
    )
)

register(
    Spec(
        name="order_sensitivity/overlap_cosine",
        reference=overlap_cosine,
        arguments=st.builds(
            lambda pair, penalty: pair | {"penalty": penalty},
            distribution_pairs(),
            st.sampled_from(("inside", "outside")),
        ),
        relations=(EXCHANGED, RELABELLED),
        dtypes=SINGLE,
        mistakes={
            ("missing term", "tokens that are not shared do not count"): _without_penalty,
            ("wrong operation", "the root times the number of tokens not shared"): _multiplicative,
        },
    )
)


# --- weights ---


@st.composite
def _sparse_matrices(draw: st.DrawFn) -> Arguments:
    shape = (draw(st.sampled_from((1, 4, 30))), draw(st.sampled_from((1, 7))))
    rng = draw(generators())
    matrix = rng.standard_normal(shape) * (rng.random(shape) < draw(st.sampled_from((0.1, 0.5, 1.0))))
    matrix[0, 0] = 1.0
    return {
        "matrix": matrix,
        "delta": draw(st.sampled_from((1.5, 1e2, 1e4, 1e6))),
        "mode": draw(st.sampled_from(("relative", "absolute"))),
    }


def _scaled_matrix(arguments: Arguments) -> Arguments:
    delta = arguments["delta"] / (4 if arguments["mode"] == "absolute" else 1)
    return arguments | {"matrix": 4 * arguments["matrix"], "delta": delta}


register(
    Spec(
        name="order_sensitivity/sparsity_ratio",
        reference=sparsity_ratio,
        arguments=_sparse_matrices(),
        relations=(
            Relation("the matrix times 4, and an absolute threshold with it", _scaled_matrix, unchanged),
            Relation("the matrix transposed", lambda a: a | {"matrix": a["matrix"].T}, unchanged),
        ),
        dtypes=("float64",),  # a number, whatever the matrix holds
    )
)


@st.composite
def invertible(draw: st.DrawFn, size: int) -> Array:
    """Matrices of condition number at most 16, without zeros."""
    rng = draw(generators())
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    return left * 2.0 ** rng.uniform(-2, 2, size) @ right


@st.composite
def _bases(draw: st.DrawFn) -> Arguments:
    n_inputs, n_outputs = draw(st.sampled_from(((1, 1), (3, 2), (6, 4))))
    size = n_inputs + n_outputs
    arguments = {
        "weights": gradient_descent_weights(n_inputs, n_outputs, 0.5, 4, draw(real_arrays((n_outputs, n_inputs)))),
        "token_basis": draw(invertible(size)),
        "head_basis": draw(invertible(size)),
    }
    return arguments | ({"value_basis": draw(invertible(size))} if draw(st.booleans()) else {})


def _of_tokens_twice_as_large(weights: LinearAttentionWeights, arguments: Arguments) -> LinearAttentionWeights:
    halved = weights._replace(key=weights.key / 2, query=weights.query / 2)
    if "value_basis" not in arguments:
        return halved
    return halved._replace(value=weights.value / 2, projection=2 * weights.projection)


register(
    Spec(
        name="order_sensitivity/change_basis",
        reference=change_basis,
        arguments=_bases(),
        relations=(
            Relation(
                "tokens twice as large",
                lambda a: a | {"token_basis": 2 * a["token_basis"]},
                _of_tokens_twice_as_large,
            ),
            Relation(
                "keys and queries in a basis twice as large",
                lambda a: a | {"head_basis": 2 * a["head_basis"]},
                lambda weights, a: weights._replace(key=weights.key / 2, query=2 * weights.query),
            ),
        ),
        dtypes=SINGLE,  # LAPACK has no others
        mistakes={
            (
                "transposed",
                "the transpose of the token basis in place of its inverse",
            ): lambda weights, token_basis, **a: change_basis(weights, np.linalg.inv(token_basis).T, **a),
        },
    )
)


# --- learners ---


@st.composite
def demonstrations(draw: st.DrawFn, batch: tuple[int, ...] = ()) -> Arguments:
    """``weights``, ``inputs`` and ``labels`` of softmax regression, logits of at most some tens."""
    n_tokens, d, n_demos = (
        draw(st.sampled_from((2, 6))),
        draw(st.sampled_from((1, 8))),
        draw(st.sampled_from((1, 3, 8))),
    )
    rng = draw(generators())
    return {
        "weights": draw(real_arrays((*batch, n_tokens, d))) / d,
        "inputs": draw(real_arrays((*batch, n_demos, d))),
        "labels": rng.integers(n_tokens, size=(*batch, n_demos)),
    }


def classes_reversed(arguments: Arguments) -> Arguments:
    """Tokens relabelled, in the weights and in the labels."""
    weights = arguments["weights"]
    return arguments | {"weights": weights[..., ::-1, :], "labels": weights.shape[-2] - 1 - arguments["labels"]}


def demonstrations_reversed(arguments: Arguments) -> Arguments:
    return arguments | {"inputs": arguments["inputs"][..., ::-1, :], "labels": arguments["labels"][..., ::-1]}


@st.composite
def _label_losses(draw: st.DrawFn) -> Arguments:
    return draw(demonstrations(draw(BATCHES)))


register(
    Spec(
        name="order_sensitivity/label_loss",
        reference=label_loss,
        arguments=_label_losses(),
        vjp=label_loss_vjp,
        symbols=lambda: {"weights": symbols("w", 2, 1), "inputs": symbols("x", 2, 1), "labels": np.array([0, 1])},
        relations=(
            Relation("tokens relabelled", classes_reversed, unchanged),
            Relation("demonstrations in reverse", demonstrations_reversed, unchanged),
            Relation(
                "a vector added to every token's weights",
                lambda a: a | {"weights": a["weights"] + np.asarray(0.5, a["weights"].dtype)},
                unchanged,
            ),
        ),
        mistakes={
            ("normalisation", "the sum over demonstrations"): lambda weights, inputs, labels: (
                label_loss(weights, inputs, labels) * inputs.shape[-2]
            )
        },
    )
)


@st.composite
def _trainings(draw: st.DrawFn) -> Arguments:
    arguments = draw(demonstrations())
    n_demos = len(arguments["inputs"])
    rng = draw(generators())
    return arguments | {
        "orders": random_orders(draw(st.sampled_from((1, 3))), n_demos, rng),
        "learning_rate": draw(st.sampled_from((0.01, 0.1))),
        "epochs": draw(st.integers(0, 5)),
        "batch_size": draw(st.integers(1, n_demos)),
        "optimizer": draw(st.sampled_from(("sgd", "adam"))),
    }


def _sum_over_batch(
    weights: Array,
    inputs: Array,
    labels: Any,
    orders: Any,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    optimizer: str,
) -> Array:
    trained = np.broadcast_to(weights, (len(orders), *weights.shape))
    for _ in range(epochs):
        for start in range(0, len(inputs), batch_size):
            rows = orders[:, start : start + batch_size]
            errors = prediction_errors(trained, inputs[rows], labels[rows])
            trained = trained - learning_rate * rows.shape[-1] * mean_gradient(errors, inputs[rows])
    return trained


register(
    Spec(
        name="order_sensitivity/train_on_demonstrations",
        reference=train_on_demonstrations,
        arguments=_trainings(),
        relations=(
            Relation("tokens relabelled", classes_reversed, lambda output, a: output[..., ::-1, :]),
            Relation(
                "orders exchanged",
                lambda a: a | {"orders": a["orders"][::-1]},
                lambda output, a: output[::-1],
            ),
            Relation(
                "demonstrations renumbered",
                lambda a: demonstrations_reversed(a) | {"orders": len(a["inputs"]) - 1 - a["orders"]},
                unchanged,
            ),
        ),
        dtypes=SINGLE,  # Adam divides the roundoff of a gradient by its own size
        mistakes={("normalisation", "gradient descent on the sum over a batch"): _sum_over_batch},
    )
)


@st.composite
def _order_dependent_terms(draw: st.DrawFn) -> Arguments:
    arguments = draw(demonstrations())
    rng = draw(generators())
    return arguments | {"orders": random_orders(3, len(arguments["inputs"]), rng)}


register(
    Spec(
        name="order_sensitivity/order_dependent_term",
        reference=order_dependent_term,
        arguments=_order_dependent_terms(),
        relations=(
            Relation("tokens relabelled", classes_reversed, lambda output, a: output[..., ::-1, :]),
            Relation(
                "demonstrations renumbered",
                lambda a: demonstrations_reversed(a) | {"orders": len(a["inputs"]) - 1 - a["orders"]},
                unchanged,
            ),
        ),
        mistakes={
            ("transposed axes", "the later gradient moves the earlier step"): lambda weights, inputs, labels, orders: (
                order_dependent_term(weights, inputs, labels, orders[..., ::-1])
            )
        },
    )
)


# --- attention stacks ---


@st.composite
def stacks_and_prompts(draw: st.DrawFn) -> Arguments:
    """A stack of one or two layers, demonstrations and queries."""
    d, d_input, n_classes = draw(st.sampled_from((1, 4))), draw(st.sampled_from((1, 3))), draw(st.sampled_from((2, 5)))
    n_demos, batch = draw(st.sampled_from((1, 3))), draw(BATCHES)

    def matrix(*shape: int) -> Array:
        return draw(real_arrays(shape)) / (2 * shape[-1] ** 0.5)

    blocks = [Block(MultiHeadAttention(*[matrix(1, d, d) for _ in range(4)])) for _ in range(draw(st.integers(1, 2)))]
    rng = draw(generators())
    return {
        "stack": AttentionStack(
            matrix(d, d_input),
            matrix(n_classes, d),
            blocks,
            matrix(n_classes, d),
            matrix(n_demos + 1, d) if draw(st.booleans()) else None,
        ),
        "inputs": draw(real_arrays((*batch, n_demos, d_input))) / 2,
        "labels": rng.integers(n_classes, size=(*batch, n_demos)),
        "queries": draw(real_arrays((*batch, draw(st.sampled_from((1, 2))), d_input))) / 2,
        "causal": draw(st.booleans()),
        "kind": draw(st.sampled_from(("softmax", "softmax", "linear"))),
    }


def _stack_classes_reversed(arguments: Arguments) -> Arguments:
    stack = arguments["stack"]
    relabelled_stack = stack._replace(label_embedding=stack.label_embedding[::-1], readout=stack.readout[::-1])
    return arguments | {"stack": relabelled_stack, "labels": len(stack.readout) - 1 - arguments["labels"]}


def _other_mask(stack: AttentionStack, inputs: Array, labels: Any, queries: Array, causal: bool, kind: Any) -> Array:
    return stack_logits(stack, inputs, labels, queries, not causal, kind)


register(
    Spec(
        name="order_sensitivity/stack_logits",
        reference=stack_logits,
        arguments=stacks_and_prompts(),
        vjp=stack_logits_vjp,
        symbols=lambda: {
            "stack": AttentionStack(
                symbols("e", 1, 1),
                symbols("l", 2, 1),
                [Block(MultiHeadAttention(*[symbols(name, 1, 1, 1) for name in "qkvo"]))],
                symbols("u", 2, 1),
                symbols("p", 2, 1),
            ),
            "inputs": symbols("x", 1, 1),
            "labels": np.array([1]),
            "queries": symbols("z", 1, 1),
            "kind": "linear",
        },
        relations=(
            Relation("classes relabelled", _stack_classes_reversed, lambda output, a: output[..., ::-1]),
            Relation(
                "queries in reverse",
                lambda a: a | {"queries": a["queries"][..., ::-1, :]},
                lambda output, a: output[..., ::-1, :],
            ),
        ),
        mistakes={
            ("mask", "the mask is left out, or one put in"): _other_mask,
        },
    )
)
