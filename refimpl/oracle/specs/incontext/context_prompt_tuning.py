"""What may be compared with *Context-aware Prompt Tuning*."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.context_prompt_tuning import (
    IGNORED,
    cpt_loss,
    cpt_loss_vjp,
    cpt_step,
    kernel_predict,
    kernel_prompt_loss,
    kernel_prompt_loss_vjp,
    label_loss_weights,
    project_tokens,
    token_radii,
    token_type_mask,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register, symbols
from refimpl.primitives.numbers import Array

BATCHES = st.sampled_from(((), (1,), (3,)))


def rotation(d: int) -> Array:
    """An orthogonal matrix without zeros in it."""
    return np.linalg.qr(np.random.default_rng(d).standard_normal((d, d)))[0]


# --- types, weights, radii, projection ---


@st.composite
def type_rows(draw: st.DrawFn) -> Any:
    """The types of 1 to 4 examples, with a token of no type in front now and then."""
    lengths = st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))
    types = token_type_mask(draw(st.lists(lengths, min_size=1, max_size=4)))
    return np.concatenate([np.zeros(draw(st.integers(0, 1)), dtype=types.dtype), types])


@st.composite
def _perturbations(draw: st.DrawFn) -> Arguments:
    n_tokens, d = draw(st.sampled_from((1, 2, 5))), draw(st.sampled_from((1, 3, 8, 64)))
    return {
        "perturbation": draw(real_arrays((*draw(BATCHES), n_tokens, d))),
        "radii": np.abs(draw(real_arrays((n_tokens,)))) + draw(st.sampled_from((1e-3, 1.0))),
    }


register(
    Spec(
        name="context_prompt_tuning/project_tokens",
        reference=project_tokens,
        arguments=_perturbations(),
        relations=(
            Relation(
                "rotated tokens are projected to the rotated",
                lambda a: a | {"perturbation": a["perturbation"] @ rotation(a["perturbation"].shape[-1])},
                lambda output, a: output @ rotation(a["perturbation"].shape[-1]),
            ),
            Relation(
                "scaled with its radius a token is scaled",
                lambda a: {name: 4 * value for name, value in a.items()},
                lambda output, a: 4 * output,
            ),
            Relation(
                "what is projected stays",
                lambda a: a | {"perturbation": project_tokens(**a)},
                lambda output, a: output,
            ),
        ),
        mistakes={
            ("axis", "one ball for all tokens together"): lambda perturbation, radii: (
                perturbation
                * np.minimum(1, radii[:, None] / np.linalg.norm(perturbation, axis=(-2, -1), keepdims=True))
            ),
            ("missing term", "tokens inside the ball are stretched to its surface"): lambda perturbation, radii: (
                perturbation * radii[:, None] / np.linalg.norm(perturbation, axis=-1, keepdims=True)
            ),
            ("wrong norm", "coordinates are clipped"): lambda perturbation, radii: np.clip(
                perturbation, -radii[:, None], radii[:, None]
            ),
        },
    )
)

register(
    Spec(
        name="context_prompt_tuning/token_radii",
        reference=token_radii,
        arguments=st.fixed_dictionaries(
            {
                "types": type_rows(),
                "eps_input": st.floats(0.01, 2),
                "eps_format": st.floats(0.01, 2),
                "d_model": st.integers(1, 4096),
                "reference_dim": st.sampled_from((512, 2048)),
            }
        ),
        dtypes=("float64",),  # numbers in, float64 out
    )
)

register(
    Spec(
        name="context_prompt_tuning/label_loss_weights",
        reference=label_loss_weights,
        arguments=st.fixed_dictionaries(
            {"types": type_rows(), "decay": st.floats(0.1, 1), "weighting": st.sampled_from(("decay", "none"))}
        ),
        relations=(
            Relation(
                "types of later examples give the same",
                lambda a: a | {"types": np.where(a["types"] > 0, a["types"] + 8, 0)},
                lambda weights, a: weights,
            ),
        ),
        dtypes=("float64",),
    )
)


@st.composite
def _steps(draw: st.DrawFn) -> Arguments:
    types = draw(type_rows())
    shape = (len(types), draw(st.sampled_from((1, 3, 8))))
    return {
        "perturbation": draw(real_arrays(shape)),
        "gradient": draw(real_arrays(shape)),
        "types": types,
        "radii": np.abs(draw(real_arrays((len(types),)))) + 0.5,
        "learning_rate": draw(st.sampled_from((0.05, 0.5, 5.0))),
    }


register(
    Spec(
        name="context_prompt_tuning/cpt_step",
        reference=cpt_step,
        arguments=_steps(),
        mistakes={
            ("mask", "labels move too"): lambda perturbation, gradient, types, radii, learning_rate: project_tokens(
                perturbation - learning_rate * gradient, radii
            ),
            ("sign", "the loss is maximised"): lambda gradient, **a: cpt_step(gradient=-gradient, **a),
        },
    )
)


# --- the loss over labels ---


@st.composite
def _losses(draw: st.DrawFn) -> Arguments:
    types = draw(type_rows())
    n_classes = draw(st.sampled_from((2, 5, 17)))
    if np.flatnonzero((types % 4 == 0) & (types > 0)).tolist() == [0]:
        types = np.concatenate([[1], types])  # the only label may not stand first
    rng = draw(generators())
    labels = np.where((types % 4 == 0) & (types > 0), rng.integers(n_classes, size=len(types)), IGNORED)
    return {
        "logits": draw(real_arrays((*draw(BATCHES), len(types), n_classes))),
        "labels": labels,
        "types": types,
        "decay": draw(st.sampled_from((0.5, 0.9, 1.0))),
        "weighting": draw(st.sampled_from(("decay", "none"))),
    }


def half() -> Any:
    """The exact number."""
    import sympy

    return sympy.Rational(1, 2)


def _shift_logits(arguments: Arguments) -> Arguments:
    return arguments | {"logits": arguments["logits"] + 2}


def _permute_classes(arguments: Arguments) -> Arguments:
    n_classes = arguments["logits"].shape[-1]
    labels = np.where(arguments["labels"] == IGNORED, IGNORED, n_classes - 1 - arguments["labels"])
    return arguments | {"logits": arguments["logits"][..., ::-1], "labels": labels}


def _unshifted_loss(logits: Any, **arguments: Any) -> Any:
    return cpt_loss(np.roll(logits, 1, axis=-2), **arguments)


register(
    Spec(
        name="context_prompt_tuning/cpt_loss",
        reference=cpt_loss,
        arguments=_losses(),
        vjp=cpt_loss_vjp,
        symbols=lambda: {
            "logits": symbols("z", 3, 2),
            "labels": np.array([IGNORED, 1, 0]),
            "types": np.array([2, 4, 8]),
            "decay": half(),
        },
        relations=(
            Relation("a number added to all logits", _shift_logits, lambda output, arguments: output),
            Relation("classes in another order", _permute_classes, lambda output, arguments: output),
        ),
        mistakes={
            ("off by one", "labels are predicted from their own position"): _unshifted_loss,
        },
    )
)


# --- the kernel model ---


@st.composite
def kernel_problems(draw: st.DrawFn) -> Arguments:
    """Few shots with unit inputs, keys a little off them, and one-hot labels."""
    batch, n = draw(BATCHES), draw(st.sampled_from((2, 3, 7)))
    d, n_classes = draw(st.sampled_from((2, 5, 16))), draw(st.sampled_from((2, 4)))
    rng = draw(generators())
    inputs = rng.standard_normal((*batch, n, d))
    inputs /= np.linalg.norm(inputs, axis=-1, keepdims=True)
    targets = [np.eye(n_classes)[rng.integers(n_classes, size=(*batch, n))] for _ in range(3)]
    return {
        "keys": inputs + draw(real_arrays(inputs.shape)) / 8,
        "inputs": inputs,
        "values": targets[0],
        "example_targets": targets[1],
        "context_targets": targets[2],
        "context_weights": draw(st.sampled_from((0.5, 0.9, 1.0))) ** np.arange(n, 0, -1),
        "example_weight": draw(st.sampled_from((0.0, 1.0))),
        "leave_out": draw(st.booleans()),
        "sharpness": draw(st.sampled_from((1.0, 6.0))),
        "confidence": draw(st.sampled_from((1.0, 6.0))),
    }


def _rotate_inputs(arguments: Arguments) -> Arguments:
    turn = rotation(arguments["inputs"].shape[-1])
    return arguments | {name: arguments[name] @ turn for name in ("keys", "inputs")}


def _reverse_classes(arguments: Arguments) -> Arguments:
    names = ("values", "example_targets", "context_targets")
    return arguments | {name: arguments[name][..., ::-1] for name in names}


def _same(output: Any, arguments: Arguments) -> Any:
    return output


register(
    Spec(
        name="context_prompt_tuning/kernel_prompt_loss",
        reference=kernel_prompt_loss,
        arguments=kernel_problems(),
        vjp=kernel_prompt_loss_vjp,
        symbols=lambda: {
            "keys": symbols("k", 2, 1),
            "inputs": np.array([[1], [2]], dtype=object),
            "values": np.eye(2, dtype=object),
            "example_targets": np.eye(2, dtype=object),
            "context_targets": np.eye(2, dtype=object),
            "context_weights": np.array([0, 1], dtype=object),
            "example_weight": 1,
            "leave_out": False,
            "sharpness": 2,
            "confidence": 3,
        },
        relations=(
            Relation("rotated inputs and keys", _rotate_inputs, _same),
            Relation("classes in another order", _reverse_classes, _same),
        ),
        constants=("inputs", "values", "example_targets", "context_targets", "context_weights"),
        mistakes={
            ("mask", "the appended example's place in the context is not as asked"): lambda leave_out, **a: (
                kernel_prompt_loss(leave_out=not leave_out, **a)
            ),
        },
        dtypes=("float64", "float32"),  # logits up to 36: half precision has no digits left
    )
)


@st.composite
def _predictions(draw: st.DrawFn) -> Arguments:
    problem = draw(kernel_problems())
    n_queries = draw(st.sampled_from((1, 4)))
    queries = draw(real_arrays((*problem["keys"].shape[:-2], n_queries, problem["keys"].shape[-1])))
    return {
        "keys": problem["keys"],
        "values": problem["values"],
        "queries": queries,
        "sharpness": problem["sharpness"],
        "confidence": problem["confidence"],
    }


register(
    Spec(
        name="context_prompt_tuning/kernel_predict",
        reference=kernel_predict,
        arguments=_predictions(),
        relations=(
            Relation(
                "context in another order",
                lambda a: a | {name: a[name][..., ::-1, :] for name in ("keys", "values")},
                _same,
            ),
            Relation(
                "context twice",
                lambda a: a | {name: np.concatenate([a[name]] * 2, axis=-2) for name in ("keys", "values")},
                _same,
            ),
        ),
    )
)
