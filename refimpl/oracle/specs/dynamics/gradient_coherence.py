"""What the paper offers to be compared with: coherence, the stability bound, robust averages, examples' gradients."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.gradient_coherence import (
    coherence,
    coherence_debiased,
    disagreement_bound,
    gradient_matrix,
    layer_coherence,
    logistic_descent,
    logistic_gradients,
    logistic_loss,
    logistic_loss_vjp,
    m_coherence,
    median_of_three,
    middle_of_three,
    mlp_m_coherence,
    replace_one_bound,
    squared_disagreement,
    squared_loss_gradients,
    stability_bound,
    step_weights,
    streamed_coherence,
    winsorized_mean,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.primitives.layers import Linear
from refimpl.primitives.numbers import Array

# Sums over many examples cancel where coherence is small: 8 or 11 bits leave nothing to judge.
SINGLE = ("float64", "float32")
EXAMPLES = st.sampled_from((1, 2, 3, 6, 15, 40))
PARAMETERS = st.sampled_from((1, 2, 5, 30, 300))


def some_nonzero(gradients: Array) -> Array:
    """As they are, or ones where all are zero, whose coherence is undefined."""
    return gradients if np.any(gradients) else np.ones_like(gradients)


@st.composite
def gradient_samples(draw: st.DrawFn, examples: st.SearchStrategy[int] = EXAMPLES) -> Array:
    """Gradients in rows, with a mean or without."""
    gradients = draw(real_arrays((draw(examples), draw(PARAMETERS))))
    return some_nonzero(gradients + draw(st.sampled_from((0.0, 0.0, 0.3, -2.0))))


def unchanged(output: Any, arguments: Arguments) -> Any:
    return output


def changed(**changes: Callable[[Any], Any]) -> Callable[[Arguments], Arguments]:
    """These arguments through these functions."""
    return lambda arguments: arguments | {name: change(arguments[name]) for name, change in changes.items()}


def reflect(gradients: Array) -> Array:
    r"""Multiply every row by the orthogonal matrix $I-\frac2p\mathbf 1\mathbf 1^\top$."""
    return np.asanyarray(gradients - 2 * gradients.sum(axis=-1, keepdims=True) / gradients.shape[-1])


def reverse_examples(gradients: Array) -> Array:
    return np.flip(gradients, -2)


def twice(gradients: Array) -> Array:
    return np.concatenate([gradients, gradients], axis=-2)


def zeros_added(gradients: Array) -> Array:
    return np.concatenate([gradients, np.zeros_like(gradients)], axis=-2)


REVERSED = Relation("examples in reverse", changed(gradients=reverse_examples), unchanged)
ROTATED = Relation("rotated", changed(gradients=reflect), unchanged)
SCALED = Relation("gradients times -4", changed(gradients=lambda gradients: -4 * gradients), unchanged)


def _distinct_pairs_only(gradients: Array) -> Array:
    return (m_coherence(gradients) - 1) / gradients.shape[-2]


register(
    Spec(
        name="gradient_coherence/coherence",
        reference=coherence,
        arguments=st.fixed_dictionaries({"gradients": gradient_samples()}),
        symbols=lambda: {"gradients": symbols("g", 2, 2)},
        dtypes=SINGLE,
        relations=(
            REVERSED,
            ROTATED,
            SCALED,
            Relation("the sample twice", changed(gradients=twice), unchanged),
            Relation("as many zeros added", changed(gradients=zeros_added), lambda output, arguments: output / 2),
        ),
        mistakes={("missing term", "an example's product with itself"): _distinct_pairs_only},
    )
)

register(
    Spec(
        name="gradient_coherence/m_coherence",
        reference=m_coherence,
        arguments=st.fixed_dictionaries({"gradients": gradient_samples()}),
        symbols=lambda: {"gradients": symbols("g", 2, 2)},
        dtypes=SINGLE,
        relations=(
            REVERSED,
            ROTATED,
            SCALED,
            Relation("the sample twice", changed(gradients=twice), lambda output, arguments: 2 * output),
            Relation("as many zeros added", changed(gradients=zeros_added), unchanged),
        ),
    )
)

register(
    Spec(
        name="gradient_coherence/coherence_debiased",
        reference=coherence_debiased,
        arguments=st.fixed_dictionaries({"gradients": gradient_samples(st.sampled_from((2, 3, 6, 15, 40)))}),
        symbols=lambda: {"gradients": symbols("g", 2, 2)},
        dtypes=SINGLE,
        relations=(REVERSED, ROTATED, SCALED),
        mistakes={("missing term", "an example's product with itself"): coherence},
    )
)

register(
    Spec(
        name="gradient_coherence/squared_disagreement",
        reference=squared_disagreement,
        arguments=st.fixed_dictionaries({"gradients": gradient_samples()}),
        symbols=lambda: {"gradients": symbols("g", 2, 2)},
        dtypes=SINGLE,
        relations=(
            REVERSED,
            Relation("the sample twice", changed(gradients=twice), unchanged),
            Relation("3 added", changed(gradients=lambda gradients: gradients + 3), unchanged),
            Relation(
                "gradients times -4",
                SCALED.transform,
                lambda output, arguments: 16 * output,
            ),
        ),
    )
)


@st.composite
def chunks(draw: st.DrawFn) -> list[Array]:
    gradients = draw(gradient_samples())
    cuts = sorted({draw(st.integers(1, len(gradients))) for _ in range(2)} - {len(gradients)})
    return np.split(gradients, cuts)


register(
    Spec(
        name="gradient_coherence/streamed_coherence",
        reference=streamed_coherence,
        arguments=st.fixed_dictionaries({"chunks": chunks()}),
        symbols=lambda: {"chunks": [symbols("g", 1, 2), symbols("h", 2, 2)]},
        dtypes=SINGLE,
        relations=(
            Relation("chunks in reverse", changed(chunks=lambda chunks: chunks[::-1]), unchanged),
            Relation("in one chunk", changed(chunks=lambda chunks: [np.concatenate(chunks)]), unchanged),
        ),
    )
)


@st.composite
def layer_blocks(draw: st.DrawFn) -> list[Array]:
    n_examples = draw(EXAMPLES)
    return [
        some_nonzero(draw(real_arrays((n_examples, draw(st.sampled_from((1, 2, 5, 30)))))))
        for _ in range(draw(st.integers(1, 3)))
    ]


register(
    Spec(
        name="gradient_coherence/layer_coherence",
        reference=layer_coherence,
        arguments=st.fixed_dictionaries({"blocks": layer_blocks()}),
        symbols=lambda: {"blocks": [symbols("g", 2, 2), symbols("h", 2, 1)]},
        dtypes=SINGLE,
        relations=(
            Relation(
                "layers in reverse",
                changed(blocks=lambda blocks: blocks[::-1]),
                lambda output, arguments: type(output)(*(np.flip(part, -1) for part in output)),
            ),
            Relation("each layer rotated", changed(blocks=lambda blocks: [reflect(one) for one in blocks]), unchanged),
        ),
    )
)


# --- stability ---


@st.composite
def rates(draw: st.DrawFn) -> Array:
    n_steps = draw(st.sampled_from((1, 2, 5, 30)))
    return np.abs(draw(real_arrays((n_steps,), 0.2)))


SMOOTHNESS = st.sampled_from((0.0, 0.25, 1.0, 2.0))


@st.composite
def weighted(draw: st.DrawFn) -> Arguments:
    learning_rates = draw(rates())
    smoothness = draw(SMOOTHNESS)
    convex = draw(st.booleans())
    if convex and smoothness:
        learning_rates = np.minimum(learning_rates, 2 / smoothness)
    return {"learning_rates": learning_rates, "smoothness": smoothness, "convex": convex}


@st.composite
def bounded(draw: st.DrawFn) -> Arguments:
    weighing = draw(weighted())
    n_steps = weighing["learning_rates"].shape[0]
    batch = draw(st.sampled_from(((), (3,))))
    coherences = 1 / (1 + draw(real_arrays((*batch, n_steps))) ** 2)
    return {
        "coherences": coherences,
        "learning_rates": weighing["learning_rates"],
        "lipschitz": draw(st.sampled_from((0.0, 1.0, 2.5))),
        "smoothness": weighing["smoothness"],
        "n_samples": draw(st.sampled_from((1, 10, 1000))),
        "convex": weighing["convex"],
    }


def exact_rates(arguments: Arguments) -> Arguments:
    """In half the units of time: rates twice as large, losses half as smooth."""
    return arguments | {"learning_rates": 2 * arguments["learning_rates"], "smoothness": arguments["smoothness"] / 2}


register(
    Spec(
        name="gradient_coherence/step_weights",
        reference=step_weights,
        arguments=weighted(),
        symbols=lambda: {"learning_rates": symbols("e", 3), "smoothness": symbols("b").item()},
        dtypes=SINGLE,
        relations=(
            Relation("units of time doubled", exact_rates, lambda output, arguments: 2 * output),
            Relation(
                "not smooth", changed(smoothness=lambda b: 0 * b), lambda _, arguments: arguments["learning_rates"]
            ),
        ),
    )
)

register(
    Spec(
        name="gradient_coherence/stability_bound",
        reference=stability_bound,
        arguments=bounded(),
        symbols=lambda: (
            {"coherences": symbols("a", 2), "learning_rates": symbols("e", 2)}
            | {"lipschitz": symbols("L").item(), "smoothness": symbols("b").item(), "n_samples": 3}
        ),
        dtypes=SINGLE,
        relations=(
            Relation("units of time doubled", exact_rates, lambda output, arguments: 2 * output),
            Relation("twice the examples", changed(n_samples=lambda n: 2 * n), lambda output, arguments: output / 2),
            Relation(
                "gradients twice as long", changed(lipschitz=lambda one: 2 * one), lambda output, arguments: 4 * output
            ),
            Relation("full coherence", changed(coherences=np.ones_like), lambda output, arguments: 0 * output),
            Relation(
                "a quarter of the incoherence",
                changed(coherences=lambda alpha: 1 - (1 - alpha) / 4),
                lambda output, arguments: output / 2,
            ),
        ),
    )
)

register(
    Spec(
        name="gradient_coherence/disagreement_bound",
        reference=disagreement_bound,
        arguments=bounded().map(lambda given: {name: given[name] for name in ("coherences", "lipschitz")}),
        symbols=lambda: {"coherences": symbols("a", 2), "lipschitz": symbols("L").item()},
        dtypes=SINGLE,
        relations=(
            Relation(
                "gradients twice as long", changed(lipschitz=lambda one: 2 * one), lambda output, arguments: 2 * output
            ),
        ),
    )
)


def _differences(arguments: Arguments) -> Arguments:
    return {
        "gradient_differences": 1 / arguments["coherences"] - 1,
        **{name: arguments[name] for name in ("learning_rates", "smoothness", "n_samples", "convex")},
    }


register(
    Spec(
        name="gradient_coherence/replace_one_bound",
        reference=replace_one_bound,
        arguments=bounded().map(_differences),
        symbols=lambda: (
            {"gradient_differences": symbols("d", 2), "learning_rates": symbols("e", 2)}
            | {"smoothness": symbols("b").item(), "n_samples": 3}
        ),
        dtypes=SINGLE,
        relations=(
            Relation("units of time doubled", exact_rates, lambda output, arguments: 2 * output),
            Relation("twice the examples", changed(n_samples=lambda n: 2 * n), lambda output, arguments: output / 2),
        ),
    )
)


@st.composite
def labelled(draw: st.DrawFn, scale: float = 1.0) -> Arguments:
    batch = draw(st.sampled_from(((), (3,))))
    n_examples, d = draw(st.sampled_from((1, 2, 7, 40))), draw(st.sampled_from((1, 2, 5, 20)))
    return {
        "weights": draw(real_arrays((*batch, d))),
        "x": draw(real_arrays((*batch, n_examples, d), scale)),
        "y": np.where(draw(real_arrays((*batch, n_examples))) > 0, 1.0, -1.0),
    }


def _labelled_symbols() -> Arguments:
    return {"weights": symbols("w", 2), "x": symbols("x", 2, 2), "y": symbols("y", 2)}


LABELS_AND_INPUTS_NEGATED = Relation(
    "labels and inputs negated", changed(x=lambda x: -x, y=lambda y: -y), lambda output, arguments: output
)
HALVED = changed(weights=lambda w: w / 2, x=lambda x: 2 * x)

register(
    Spec(
        name="gradient_coherence/logistic_loss",
        reference=logistic_loss,
        vjp=logistic_loss_vjp,
        arguments=labelled(),
        symbols=_labelled_symbols,
        dtypes=SINGLE,
        relations=(
            LABELS_AND_INPUTS_NEGATED,
            Relation("weights over 2, inputs times 2", HALVED, unchanged),
            Relation(
                "at zero weights",
                changed(weights=lambda w: 0 * w),
                lambda output, arguments: np.log(2 + 0 * output),
            ),
        ),
        mistakes={
            ("sign", "of the margin"): lambda weights, x, y: logistic_loss(weights, x, -y),
        },
    )
)

register(
    Spec(
        name="gradient_coherence/logistic_gradients",
        reference=logistic_gradients,
        arguments=labelled(),
        symbols=_labelled_symbols,
        dtypes=SINGLE,
        relations=(
            Relation("weights over 2, inputs times 2", HALVED, lambda output, arguments: 2 * output),
            Relation(
                "at zero weights",
                changed(weights=lambda w: 0 * w),
                lambda output, arguments: -arguments["y"][..., None] * arguments["x"] / 2,
            ),
        ),
    )
)


@st.composite
def descents(draw: st.DrawFn) -> Arguments:
    given = draw(labelled())
    return {"x": given["x"], "y": given["y"], "learning_rates": draw(rates())}


register(
    Spec(
        name="gradient_coherence/logistic_descent",
        reference=logistic_descent,
        arguments=descents(),
        symbols=lambda: {"x": symbols("x", 2, 1), "y": symbols("y", 2), "learning_rates": symbols("e", 1)},
        dtypes=SINGLE,
        relations=(
            Relation(
                "examples in reverse",
                changed(x=reverse_examples, y=lambda y: np.flip(y, -1)),
                unchanged,
            ),
            Relation("inputs reflected", changed(x=reflect), lambda output, arguments: reflect(output)),
        ),
    )
)


register(
    Spec(
        name="gradient_coherence/squared_loss_gradients",
        reference=squared_loss_gradients,
        arguments=labelled(),
        symbols=_labelled_symbols,
        dtypes=SINGLE,
        relations=(
            Relation(
                "at zero weights",
                changed(weights=lambda w: 0 * w),
                lambda output, arguments: -arguments["y"][..., None] * arguments["x"],
            ),
            Relation(
                "weights and labels doubled",
                changed(weights=lambda w: 2 * w, y=lambda y: 2 * y),
                lambda output, arguments: 2 * output,
            ),
        ),
    )
)


# --- suppression ---


@st.composite
def batches(draw: st.DrawFn, sizes: st.SearchStrategy[int] = EXAMPLES) -> Array:
    """Gradients, some of whose coordinates only few examples have."""
    gradients = draw(real_arrays((*draw(st.sampled_from(((), (2,)))), draw(sizes), draw(PARAMETERS))))
    return gradients * (np.arange(gradients.shape[-2])[:, None] % 7 == 0) if draw(st.booleans()) else gradients


FLIPPED = Relation(
    "signs of every other coordinate",
    changed(gradients=lambda gradients: gradients * (-1) ** np.arange(gradients.shape[-1]).astype(gradients.dtype)),
    lambda output, arguments: output * (-1) ** np.arange(output.shape[-1]).astype(output.dtype),
)
AVERAGES = (
    FLIPPED,
    Relation("gradients times 4", changed(gradients=lambda g: 4 * g), lambda output, arguments: 4 * output),
    Relation("3 added", changed(gradients=lambda g: g + 3), lambda output, arguments: output + 3),
)


def _trimmed(gradients: Array, level: float) -> Array:
    """Left out rather than clipped."""
    count = int(level * gradients.shape[-2] + 1e-9)
    return np.asanyarray(np.sort(gradients, axis=-2)[..., count : gradients.shape[-2] - count, :].mean(axis=-2))


register(
    Spec(
        name="gradient_coherence/winsorized_mean",
        reference=winsorized_mean,
        arguments=st.fixed_dictionaries(
            {"gradients": batches(), "level": st.sampled_from((0.0, 0.02, 0.08, 0.1, 0.25, 0.29, 1 / 3, 0.49))}
        ),
        dtypes=SINGLE,
        relations=(REVERSED, *AVERAGES),
        mistakes={("normaliser", "extremes left out rather than clipped"): _trimmed},
    )
)

register(
    Spec(
        name="gradient_coherence/median_of_three",
        reference=median_of_three,
        arguments=st.fixed_dictionaries({"gradients": batches(st.sampled_from((3, 6, 15, 48)))}),
        dtypes=SINGLE,
        relations=(REVERSED, *AVERAGES),
    )
)


@st.composite
def threes(draw: st.DrawFn) -> Arguments:
    shape = draw(st.sampled_from(((), (1,), (7,), (3, 4))))
    return {name: draw(real_arrays(shape)) for name in ("first", "second", "third")}


register(
    Spec(
        name="gradient_coherence/middle_of_three",
        reference=middle_of_three,
        arguments=threes(),
        relations=(
            Relation(
                "rotated",
                lambda given: {"first": given["second"], "second": given["third"], "third": given["first"]},
                unchanged,
            ),
            Relation(
                "negated",
                changed(first=lambda x: -x, second=lambda x: -x, third=lambda x: -x),
                lambda output, arguments: -output,
            ),
        ),
    )
)


# --- networks ---


@st.composite
def networks(draw: st.DrawFn) -> Arguments:
    widths = [draw(st.sampled_from((1, 3, 8))), draw(st.sampled_from((2, 5))), draw(st.sampled_from((2, 4)))]
    n_examples = draw(st.sampled_from((1, 2, 9)))
    layers = [
        Linear(draw(real_arrays((after, before))), draw(real_arrays((after,)))) for before, after in pairwise(widths)
    ]
    labels = np.random.default_rng(draw(st.integers(0, 99))).integers(widths[-1], size=n_examples)
    return {"layers": layers, "x": draw(real_arrays((n_examples, widths[0]))), "labels": labels}


def _exchange_rows(arguments: Arguments) -> Arguments:
    return arguments | {"x": arguments["x"][::-1], "labels": arguments["labels"][::-1]}


def _two_layers_of_symbols() -> Arguments:
    layers = [Linear(symbols("w", 1, 1), symbols("b", 1)), Linear(symbols("v", 2, 1), symbols("c", 2))]
    return {"layers": layers, "x": symbols("x", 2, 1), "labels": np.array([0, 1])}


register(
    Spec(
        name="gradient_coherence/gradient_matrix",
        reference=gradient_matrix,
        arguments=networks(),
        symbols=_two_layers_of_symbols,
        dtypes=SINGLE,
        relations=(
            Relation("examples in reverse", _exchange_rows, lambda output, arguments: output[::-1]),
            Relation(
                "batches stacked",
                lambda given: (
                    given
                    | {
                        "x": np.concatenate([given["x"], given["x"]]),
                        "labels": np.concatenate([given["labels"], given["labels"]]),
                    }
                ),
                lambda output, arguments: np.concatenate([output, output]),
            ),
        ),
        mistakes={
            ("constant factor", "over the number of examples"): lambda layers, x, labels: (
                gradient_matrix(layers, x, labels) / len(x)
            )
        },
    )
)


register(
    Spec(
        name="gradient_coherence/mlp_m_coherence",
        reference=mlp_m_coherence,
        arguments=networks(),
        symbols=_two_layers_of_symbols,
        dtypes=SINGLE,
        relations=(Relation("examples in reverse", _exchange_rows, unchanged),),
        mistakes={
            ("missing term", "biases"): lambda layers, x, labels: mlp_m_coherence(
                [Linear(layer.weight) for layer in layers], x, labels
            )
        },
    )
)
