"""The metrics, and the head that learns in its context or by fine-tuning."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext import dual_form as d
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register
from refimpl.oracle.specs.incontext.dual_form.duality import BATCHES, reflect, rescaled, unchanged
from refimpl.primitives.numbers import Array

# A difference of two hidden states and a cosine of it: half precision leaves no digits.
SINGLE = ("float64", "float32")


@st.composite
def hidden_states(draw: st.DrawFn) -> Arguments:
    """Hidden states at generic places: where an update vanishes its angle is not defined."""
    rng = draw(generators())
    sizes = (
        draw(BATCHES),
        draw(st.sampled_from((1, 2, 5))),
        draw(st.sampled_from((1, 3))),
        draw(st.sampled_from((2, 8))),
    )
    batch, *rest = sizes
    states = {name: rng.standard_normal((*batch, *rest)) for name in ("h_zsl", "h_icl", "h_ft")}
    return states | {"normalize": draw(st.booleans())}


def _updates_rescaled(arguments: Arguments) -> Arguments:
    """The update in context four times as long; lengths are only free where outputs are not normalised."""
    h_zsl, h_icl = arguments["h_zsl"], arguments["h_icl"]
    return arguments if arguments["normalize"] else arguments | {"h_icl": h_zsl + 4 * (h_icl - h_zsl)}


def _normalised_updates(h_zsl: Array, h_icl: Array, h_ft: Array, normalize: bool) -> tuple[Array, Array]:
    """The other way round: outputs as they come where they should be normalised."""
    return d.attention_output_update_similarity(h_zsl, h_icl, h_ft, not normalize)


register(
    Spec(
        name="dual_form/attention_output_update_similarity",
        reference=d.attention_output_update_similarity,
        arguments=hidden_states(),
        relations=(
            Relation("updates rescaled", _updates_rescaled, unchanged),
            Relation(
                "all outputs times 4",
                rescaled(4, "h_zsl", "h_icl", "h_ft"),
                unchanged,
            ),
            Relation(
                "in context and fine-tuned swapped",
                lambda arguments: arguments | {"h_icl": arguments["h_ft"], "h_ft": arguments["h_icl"]},
                unchanged,
            ),
            Relation(
                "coordinates reflected",
                lambda arguments: arguments | {name: reflect(arguments[name]) for name in ("h_zsl", "h_icl", "h_ft")},
                unchanged,
            ),
        ),
        mistakes={
            (
                "normalisation",
                "outputs normalised just where they should not be",
            ): _normalised_updates
        },
        dtypes=SINGLE,
    )
)


@st.composite
def score_maps(draw: st.DrawFn) -> Arguments:
    rng = draw(generators())
    shape = (*draw(BATCHES), *(draw(st.sampled_from(sizes)) for sizes in ((1, 4), (1, 3), (1, 2), (1, 2, 9))))
    return {name: rng.standard_normal(shape) for name in ("scores_a", "scores_b")}


def _padded(arguments: Arguments) -> Arguments:
    return {name: np.concatenate([np.zeros_like(x[..., :2]), x], axis=-1) for name, x in arguments.items()}


def _cosine_of_all_heads(scores_a: Array, scores_b: Array) -> Array:
    """The cosine of the mean of all heads' scores."""
    means = (scores.mean(axis=-2, keepdims=True) for scores in (scores_a, scores_b))
    return d.attention_map_similarity(*means)


register(
    Spec(
        name="dual_form/attention_map_similarity",
        reference=d.attention_map_similarity,
        arguments=score_maps(),
        relations=(
            Relation("one map times 4", rescaled(4, "scores_a"), unchanged),
            Relation("zeros at the left", _padded, unchanged),
            Relation(
                "maps swapped",
                lambda arguments: {"scores_a": arguments["scores_b"], "scores_b": arguments["scores_a"]},
                unchanged,
            ),
        ),
        mistakes={("order of means", "the mean over heads before the cosine"): _cosine_of_all_heads},
        dtypes=SINGLE,
    )
)


@st.composite
def rankings(draw: st.DrawFn, with_k: bool = False) -> Arguments:
    """Different small integers, which every precision holds exactly: how ties count hangs on their last digit."""
    rng = draw(generators())
    shape = (*draw(BATCHES), draw(st.sampled_from((2, 3, 8, 40))))

    def ranking() -> Array:
        return np.asarray(rng.permuted(np.broadcast_to(np.arange(float(shape[-1])), shape), axis=-1))

    drawn: Arguments = {"a": ranking(), "b": ranking()}
    if with_k:
        return drawn | {"k": draw(st.integers(1, shape[-1]))}
    return drawn | {"variant": draw(st.sampled_from(("a", "b")))}


def _same_order(name: str) -> Callable[[Arguments], Arguments]:
    return lambda arguments: arguments | {name: 2 * arguments[name] + 1}


def _neighbours_only(a: Array, b: Array, variant: Any) -> Array:
    """Pairs of neighbours in place of all pairs."""
    agreement = np.sign(np.diff(a, axis=-1)) * np.sign(np.diff(b, axis=-1))
    return np.asanyarray(agreement.mean(axis=-1))


register(
    Spec(
        name="dual_form/kendall_tau",
        reference=d.kendall_tau,
        arguments=rankings(),
        relations=(
            Relation("an increasing map", _same_order("a"), unchanged),
            Relation("order reversed", rescaled(-1, "b"), lambda output, arguments: -output),
            Relation(
                "rankings swapped", lambda arguments: arguments | {"a": arguments["b"], "b": arguments["a"]}, unchanged
            ),
        ),
        mistakes={("missing term", "pairs of neighbours in place of all"): _neighbours_only},
        dtypes=SINGLE,  # of bits for a count of pairs half precision has too few
    )
)

register(
    Spec(
        name="dual_form/top_k_recall",
        reference=d.top_k_recall,
        arguments=rankings(with_k=True),
        relations=(Relation("an increasing map", _same_order("a"), unchanged),),
        dtypes=SINGLE,
    )
)


@st.composite
def raw_scores(draw: st.DrawFn) -> Arguments:
    return {"scores": draw(real_arrays((*draw(BATCHES), draw(st.sampled_from((1, 2))), draw(st.sampled_from((1, 9))))))}


register(
    Spec(
        name="dual_form/in_context_weights",
        reference=d.in_context_weights,
        arguments=raw_scores(),
        relations=(
            Relation("a constant more", lambda arguments: {"scores": arguments["scores"] + 1}, unchanged),
            Relation(
                "heads in another order", lambda arguments: {"scores": np.flip(arguments["scores"], -2)}, unchanged
            ),
        ),
        mistakes={
            ("order", "the softmax of each head, then their mean"): lambda scores: np.mean(
                [d.in_context_weights(scores[..., [head], :]) for head in range(scores.shape[-2])], axis=0
            )
        },
        dtypes=SINGLE,
    )
)


@st.composite
def training_queries(draw: st.DrawFn) -> Arguments:
    batch, n, width = draw(BATCHES), draw(st.sampled_from((1, 2, 9))), draw(st.sampled_from((1, 4)))
    return {
        "training_queries": draw(real_arrays((*batch, n, width), 0.25)),
        "query": draw(real_arrays((*batch, width), 0.25)),
    }


register(
    Spec(
        name="dual_form/finetuning_weights",
        reference=d.finetuning_weights,
        arguments=training_queries(),
        relations=(
            Relation(
                "tokens in reverse",
                lambda arguments: arguments | {"training_queries": np.flip(arguments["training_queries"], -2)},
                lambda output, arguments: np.flip(output, -1),
            ),
            Relation(
                "coordinates reflected", lambda arguments: {k: reflect(x) for k, x in arguments.items()}, unchanged
            ),
        ),
        mistakes={
            ("scale", "products divided by the root of the width"): lambda training_queries, query: (
                d.finetuning_weights(training_queries, query / query.shape[-1] ** 0.5)
            )
        },
        dtypes=SINGLE,
    )
)


# --- the head ---


@st.composite
def shots(draw: st.DrawFn) -> Arguments:
    rng = draw(generators())
    n_tasks, n_demos = draw(st.sampled_from((1, 4))), draw(st.sampled_from((1, 5, 12)))
    tasks = d.sample_shot_tasks(n_tasks, n_demos, 1, rng, n_inputs=4)
    head = d.constructed_head(n_tasks, 4, 3, rng)
    return {
        "head": head,
        "demos": tasks.demos,
        "labels": tasks.labels.copy(),
        "learning_rate": draw(st.sampled_from((0.0, 0.002, 0.01))),
    }


def _one_full_batch(head: d.Head, demos: Array, labels: Any, learning_rate: float) -> d.Head:
    """All gradients at the weights of the start."""
    steps = [
        d.finetune_key_value(head, demos[..., i : i + 1], labels[..., i : i + 1], learning_rate)
        for i in range(demos.shape[-1])
    ]
    return head._replace(
        value=head.value + sum(one.value - head.value for one in steps),
        key=head.key + sum(one.key - head.key for one in steps),
    )


def _rotate_classes(arguments: Arguments) -> Arguments:
    """Each class by the next one's name, with its row of the values."""
    head = arguments["head"]
    moved = head._replace(value=np.roll(head.value, 1, axis=-2))
    return arguments | {"head": moved, "labels": (arguments["labels"] + 1) % 3}


register(
    Spec(
        name="dual_form/finetune_key_value",
        reference=d.finetune_key_value,
        arguments=shots(),
        relations=(
            Relation(
                "classes renamed",
                _rotate_classes,
                lambda output, arguments: output._replace(value=np.roll(output.value, 1, axis=-2)),
            ),
        ),
        mistakes={("off trajectory", "all gradients at the initial weights"): _one_full_batch},
        dtypes=SINGLE,
    )
)
