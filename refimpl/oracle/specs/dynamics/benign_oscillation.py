"""The network on patches and its step, and the maps of the shares that it reduces to."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.benign_oscillation import (
    feature_shares,
    forward,
    forward_vjp,
    hessian_vector_product,
    loss,
    loss_vjp,
    minimum_weak_share,
    sgd_step,
    signal_recursion,
    strong_map,
    train_sgd,
    transversal_growth_rate,
    two_feature_errors,
    two_feature_map,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register, symbols
from refimpl.primitives.numbers import Array

# An error of 1 less an output near 1 has no digits left in 8 or 11 bits.
SINGLE = ("float64", "float32")
BATCHES = st.sampled_from(((), (1,), (3,)))


@st.composite
def networks(draw: st.DrawFn) -> Arguments:
    """``weights`` and ``x``."""
    batch, n_filters, dim = draw(BATCHES), draw(st.sampled_from((1, 2, 5))), draw(st.sampled_from((1, 3, 8, 50)))
    n_samples, n_patches = draw(st.sampled_from((1, 2, 7))), draw(st.sampled_from((1, 3, 4)))
    return {
        "weights": draw(real_arrays((*batch, 2, n_filters, dim), dim**-0.5)),
        "x": draw(real_arrays((*batch, n_samples, n_patches, dim))),
    }


def signs(draw: st.DrawFn, shape: tuple[int, ...]) -> Array:
    """An array of 1 and -1."""
    return draw(generators()).choice((-1.0, 1.0), size=shape)


@st.composite
def losses(draw: st.DrawFn) -> Arguments:
    """``weights``, ``x`` and ``labels``."""
    network = draw(networks())
    return network | {"labels": signs(draw, network["x"].shape[:-2])}


@st.composite
def _products(draw: st.DrawFn) -> Arguments:
    case = draw(losses())
    return case | {"direction": draw(real_arrays(case["weights"].shape))}


def _changed(**changes: Callable[[Any], Any]) -> Callable[[Arguments], Arguments]:
    return lambda arguments: (
        arguments | {name: change(arguments[name]) for name, change in changes.items() if name in arguments}
    )


def _same(output: Any, arguments: Arguments) -> Any:
    return output


def _reflect(x: Array) -> Array:
    r"""Multiply by $I-\frac2d\mathbf 1\mathbf 1^\top$ along the last axis."""
    return x - 2 * x.sum(axis=-1, keepdims=True) / x.shape[-1]


def _classes(x: Array) -> Array:
    return np.flip(x, -3)


def _filters(x: Array) -> Array:
    return np.flip(x, -2)


def _relations(to_weights: bool = False) -> tuple[Relation, ...]:
    """The symmetries of the network; of a function whose output has the weights' shape, `to_weights`."""

    def moved(change: Callable[[Array], Array]) -> Callable[[Any, Arguments], Any]:
        return (lambda output, arguments: change(output)) if to_weights else _same

    return (
        Relation("patches in reverse", _changed(x=lambda x: np.flip(x, -2)), _same),
        Relation("filters in reverse", _changed(weights=_filters, direction=_filters), moved(_filters)),
        Relation(
            "data and filters reflected", _changed(weights=_reflect, direction=_reflect, x=_reflect), moved(_reflect)
        ),
    )


def _negated(x: Array) -> Array:
    return -x


def _one_filter_count(weights: Array, x: Array) -> Array:
    return forward(weights, x) / 2


def _without_square(weights: Array, x: Array) -> Array:
    scores = np.maximum(np.einsum("...jmd,...npd->...njmp", weights, x), 0).sum(axis=(-1, -2)) / weights.shape[-2]
    return np.asarray(scores[..., 0] - scores[..., 1], dtype=weights.dtype)


register(
    Spec(
        name="benign_oscillation/forward",
        reference=forward,
        arguments=networks(),
        vjp=forward_vjp,
        symbols=lambda: {"weights": symbols("w", 2, 1, 2), "x": symbols("x", 1, 2, 2)},
        dtypes=SINGLE,
        relations=(
            *_relations(),
            Relation("classes exchanged", _changed(weights=_classes), lambda output, arguments: -output),
            Relation("data times 2, filters halved", _changed(weights=lambda w: w / 2, x=lambda x: 2 * x), _same),
        ),
        mistakes={
            ("constant factor", "the mean over both classes' filters"): _one_filter_count,
            ("missing term", "ReLU without its square"): _without_square,
        },
    )
)

register(
    Spec(
        name="benign_oscillation/loss",
        reference=loss,
        arguments=losses(),
        vjp=loss_vjp,
        symbols=lambda: {
            "weights": symbols("w", 2, 1, 2),
            "x": symbols("x", 1, 2, 2),
            "labels": symbols("y", 1),
        },
        dtypes=SINGLE,
        constants=("labels",),  # which are 1 or -1
        relations=(
            *_relations(),
            Relation("classes exchanged, labels negated", _changed(weights=_classes, labels=_negated), _same),
            Relation(
                "every sample twice",
                _changed(x=lambda x: np.concatenate([x, x], -3), labels=lambda y: np.concatenate([y, y], -1)),
                _same,
            ),
        ),
        mistakes={
            ("constant factor", "the square without 1/2"): lambda weights, x, labels: 2 * loss(weights, x, labels)
        },
    )
)

register(
    Spec(
        name="benign_oscillation/hessian_vector_product",
        reference=hessian_vector_product,
        arguments=_products(),
        dtypes=SINGLE,
        relations=(
            *_relations(to_weights=True),
            Relation("direction doubled", _changed(direction=lambda d: 2 * d), lambda output, arguments: 2 * output),
        ),
    )
)


@st.composite
def _steps(draw: st.DrawFn) -> Arguments:
    network = draw(networks())
    batch = network["x"].shape[:-3]
    return {
        "weights": network["weights"],
        "x": network["x"][..., 0, :, :],
        "label": signs(draw, batch),
        "learning_rate": draw(st.sampled_from((0.01, 0.5, 3.0))),
    }


def _first(change: Callable[[Array], Array]) -> Callable[[Any, Arguments], Any]:
    return lambda output, arguments: (change(output[0]), output[1])


register(
    Spec(
        name="benign_oscillation/sgd_step",
        reference=sgd_step,
        arguments=_steps(),
        dtypes=SINGLE,
        relations=(
            Relation("patches in reverse", _changed(x=lambda x: np.flip(x, -2)), _same),
            Relation("filters in reverse", _changed(weights=_filters), _first(_filters)),
            Relation("classes exchanged, label negated", _changed(weights=_classes, label=_negated), _first(_classes)),
            Relation("data and filters reflected", _changed(weights=_reflect, x=_reflect), _first(_reflect)),
            Relation(
                "data times 2, filters halved, rate over 4",
                _changed(weights=lambda w: w / 2, x=lambda x: 2 * x, learning_rate=lambda rate: rate / 4),
                _first(lambda w: w / 2),
            ),
        ),
    )
)


@st.composite
def _runs(draw: st.DrawFn) -> Arguments:
    """A few steps at rates that do not oscillate."""
    case = draw(losses())
    n_steps = draw(st.sampled_from((0, 1, 5)))
    largest = float(np.max(np.sum(case["x"] ** 2, axis=-1), initial=1.0))
    rng = draw(generators())
    return case | {
        "weights": case["weights"] / max(1.0, float(np.max(np.abs(case["weights"])) * largest**0.5)),
        "learning_rate": 0.1 / largest,
        "indices": rng.integers(case["labels"].shape[-1], size=(*case["labels"].shape[:-1], n_steps)),
    }


register(
    Spec(
        name="benign_oscillation/train_sgd",
        reference=train_sgd,
        arguments=_runs(),
        dtypes=SINGLE,
        relations=(
            Relation("patches in reverse", _changed(x=lambda x: np.flip(x, -2)), _same),
            Relation("filters in reverse", _changed(weights=_filters), _first(_filters)),
            Relation("data and filters reflected", _changed(weights=_reflect, x=_reflect), _first(_reflect)),
        ),
    )
)


# --- features, and the maps of one sample ---


@st.composite
def _share_arguments(draw: st.DrawFn) -> Arguments:
    weights = draw(networks())["weights"]
    dim = weights.shape[-1]
    return {"weights": weights, "strong": draw(real_arrays((dim,))), "weak": draw(real_arrays((dim,)))}


register(
    Spec(
        name="benign_oscillation/feature_shares",
        reference=feature_shares,
        arguments=_share_arguments(),
        dtypes=SINGLE,
        relations=(
            Relation("filters in reverse", _changed(weights=_filters), _same),
            Relation(
                "features doubled",
                _changed(strong=lambda u: 2 * u, weak=lambda v: 2 * v),
                lambda output, arguments: type(output)(4 * output.strong, 4 * output.weak),
            ),
        ),
    )
)


@st.composite
def _shares(draw: st.DrawFn, shape: tuple[int, ...], largest: float = 1.3) -> Array:
    rng = draw(generators())
    shares = rng.uniform(0, largest, size=shape)
    return shares * draw(st.sampled_from((0.0, 1e-6, 1.0, 1.0, 1.0)))


SHAPES = st.sampled_from(((1,), (5,), (2, 3)))


@st.composite
def _maps(draw: st.DrawFn, two: bool = False, largest_gain: float = 1.55) -> Arguments:
    shape = draw(SHAPES)
    strong = draw(_shares(shape))
    gain = draw(_shares(shape, largest_gain))
    if not two:
        return {"share": strong, "gain": gain}
    return {"strong": strong, "weak": draw(_shares(shape)), "strong_gain": gain, "weak_gain": gain / 4}


@st.composite
def _signals(draw: st.DrawFn) -> Arguments:
    return {
        "signal": draw(real_arrays(draw(SHAPES))),
        "gain": draw(st.sampled_from((0.0, 0.05, 1.2))),
        "label_sign": draw(st.sampled_from((1, -1))),
        "error": draw(st.sampled_from((-0.4, 0.0, 0.3, 1.0))),
    }


register(
    Spec(
        name="benign_oscillation/signal_recursion",
        reference=signal_recursion,
        arguments=_signals(),
        dtypes=SINGLE,
        relations=(
            Relation("signals doubled", _changed(signal=lambda c: 2 * c), lambda output, arguments: 2 * output),
            Relation(
                "other class, other error",
                _changed(label_sign=_negated, error=_negated),
                _same,
            ),
        ),
    )
)

register(
    Spec(
        name="benign_oscillation/strong_map",
        reference=strong_map,
        arguments=_maps(),
        dtypes=SINGLE,
        relations=(
            Relation(
                "a share of 1 stays",
                _changed(share=np.ones_like),
                lambda output, arguments: np.ones_like(output),
            ),
        ),
        mistakes={
            ("missing term", "the growth without its square"): lambda share, gain: share * (1 + gain * (1 - share))
        },
    )
)

register(
    Spec(
        name="benign_oscillation/two_feature_map",
        reference=two_feature_map,
        arguments=_maps(two=True),
        dtypes=SINGLE,
        relations=(
            Relation(
                "features exchanged",
                lambda arguments: {
                    "strong": arguments["weak"],
                    "weak": arguments["strong"],
                    "strong_gain": arguments["weak_gain"],
                    "weak_gain": arguments["strong_gain"],
                },
                lambda output, arguments: output[::-1],
            ),
        ),
    )
)


@st.composite
def _trajectories(draw: st.DrawFn) -> Arguments:
    # Below gain 1, where the map forgets its rounding; above it is chaotic.
    return draw(_maps(two=True, largest_gain=0.7)) | {"n_steps": draw(st.sampled_from((1, 2, 20)))}


register(
    Spec(
        name="benign_oscillation/two_feature_errors",
        reference=two_feature_errors,
        arguments=_trajectories(),
        dtypes=SINGLE,
    )
)


@st.composite
def _errors(draw: st.DrawFn) -> Arguments:
    shape = (*draw(BATCHES), draw(st.sampled_from((1, 2, 50))))
    gain = draw(st.sampled_from((0.01, 0.3, 1.2)))
    rng = draw(generators())
    return {"errors": rng.uniform(-0.8, 1, size=shape), "gain": gain}


register(
    Spec(
        name="benign_oscillation/transversal_growth_rate",
        reference=transversal_growth_rate,
        arguments=_errors(),
        dtypes=SINGLE,
        relations=(
            Relation("errors in reverse", _changed(errors=lambda e: np.flip(e, -1)), _same),
            Relation("errors doubled, gain halved", _changed(errors=lambda e: 2 * e, gain=lambda a: a / 2), _same),
        ),
        mistakes={
            ("missing term", "the errors' mean in place of the logarithm's"): lambda errors, gain: (
                gain * errors.mean(axis=-1)
            )
        },
    )
)


@st.composite
def _gains(draw: st.DrawFn) -> Arguments:
    strong = draw(st.floats(1.001, 1.6))
    return {"strong_gain": strong, "weak_gain": draw(st.sampled_from((0.001, 0.1, 0.9))) * strong}


register(
    Spec(
        name="benign_oscillation/minimum_weak_share",
        reference=minimum_weak_share,
        arguments=_gains(),
        dtypes=("float64",),  # of numbers, not of arrays
    )
)
