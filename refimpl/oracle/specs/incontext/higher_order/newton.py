"""Iterative Newton and the strategies that the other parts share."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.incontext.higher_order import (
    frobenius_scale,
    iterative_newton,
    newton_schulz_inverse,
    newton_schulz_step,
    newton_schulz_step_vjp,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.primitives.numbers import Array

DIMENSIONS = st.sampled_from((1, 2, 3, 5, 10, 32))
EXAMPLES = st.sampled_from((1, 2, 3, 5, 12, 40, 128))
BATCHES = st.sampled_from(((), (1,), (3,), (2, 2)))
# On a singular Gram matrix roundoff doubles with every iteration: at 12 single precision has three digits left.
ITERATIONS = st.sampled_from((0, 1, 2, 3, 5, 8, 12))
FRACTIONS = st.floats(1 / 16, 0.9, allow_subnormal=False)
FULL_DTYPES = ("float64", "float32")


def reflect(x: Any, axis: int = -1) -> Any:
    r"""Multiply by the orthogonal matrix $I-\frac2n\mathbf 1\mathbf 1^\top$ along an axis."""
    return x - 2 * x.sum(axis=axis, keepdims=True) / x.shape[axis]


def unchanged(output: Any, arguments: Arguments) -> Any:
    return output


@st.composite
def problems(draw: st.DrawFn, dimensions: st.SearchStrategy[int] = DIMENSIONS) -> Arguments:
    """Examples ``x``, no matrix of which is zero, and ``y``."""
    batch, n, d = draw(BATCHES), draw(EXAMPLES), draw(dimensions)
    x = draw(real_arrays((*batch, n, d)))
    x = np.where(np.any(x, axis=(-2, -1), keepdims=True), x, np.eye(n, d))
    return {"x": x, "y": draw(real_arrays((*batch, n)))}


def gram_of(x: Array) -> Array:
    return np.swapaxes(x, -1, -2) @ x


def smallest_scale(x: Array) -> float:
    """A scale at which Newton converges on the whole batch."""
    return float(np.min(frobenius_scale(gram_of(x))))


def largest_eigenvalue(x: Array) -> float:
    return float(np.max(np.linalg.norm(x, ord=2, axis=(-2, -1)))) ** 2


def rescaled(arguments: Arguments, **factors: float) -> Arguments:
    """Arguments times numbers; powers of two, so that the change itself does not round. None stays None."""
    return arguments | {
        name: None if arguments[name] is None else arguments[name] * factor for name, factor in factors.items()
    }


def twice(arguments: Arguments) -> Arguments:
    return arguments | {
        "x": np.concatenate([arguments["x"]] * 2, axis=-2),
        "y": np.concatenate([arguments["y"]] * 2, axis=-1),
    }


ROTATED = Relation(
    "inputs reflected",
    lambda arguments: arguments | {"x": reflect(arguments["x"])},
    lambda output, arguments: reflect(output),
)
TARGETS = Relation("targets times 4", lambda arguments: rescaled(arguments, y=4), lambda output, arguments: 4 * output)
REVERSED = Relation(
    "examples in reverse",
    lambda arguments: arguments | {"x": np.flip(arguments["x"], -2), "y": np.flip(arguments["y"], -1)},
    unchanged,
)


@st.composite
def _grams(draw: st.DrawFn) -> Arguments:
    x = draw(problems())["x"]
    return {
        "gram": gram_of(x),
        "n_iterations": draw(ITERATIONS),
        "scale": draw(st.sampled_from((None, smallest_scale(x)))),
        "check": False,
    }


register(
    Spec(
        name="higher_order/newton_schulz_inverse",
        reference=newton_schulz_inverse,
        arguments=_grams(),
        symbols=lambda: {"gram": symbols("s", 2, 2), "n_iterations": 1, "scale": symbols("alpha").item()},
        dtypes=FULL_DTYPES,
        relations=(
            Relation(
                "matrix times 4, scale over 16",
                lambda arguments: rescaled(arguments, gram=4, scale=1 / 16),
                lambda output, arguments: output / 4,
            ),
            Relation(
                "both sides reflected",
                lambda arguments: arguments | {"gram": reflect(reflect(arguments["gram"]), -2)},
                lambda output, arguments: reflect(reflect(output), -2),
            ),
        ),
        mistakes={
            (
                "constant factor",
                "starts from 2 / |SS'|, where the paper's text has it",
            ): lambda gram, n_iterations, scale, check: newton_schulz_inverse(
                gram, n_iterations, 2 * (frobenius_scale(gram) if scale is None else scale), check
            ),
            ("off by one", "one iteration too many"): lambda gram, n_iterations, scale, check: newton_schulz_inverse(
                gram, n_iterations + 1, scale, check
            ),
        },
    )
)


@st.composite
def _newton(draw: st.DrawFn) -> Arguments:
    problem = draw(problems())
    return problem | {
        "n_iterations": draw(ITERATIONS),
        "scale": draw(st.sampled_from((None, smallest_scale(problem["x"])))),
        "check": False,
    }


def _from_scaled_identity(x: Array, y: Array, n_iterations: int, scale: Any, check: bool) -> Array:
    gram = gram_of(x)
    scale = np.asarray(frobenius_scale(gram) if scale is None else scale)[..., None, None]
    inverse = scale * np.eye(x.shape[-1], dtype=x.dtype) + 0 * gram
    for _ in range(n_iterations):
        inverse = newton_schulz_step(inverse, gram)
    return (inverse @ (np.swapaxes(x, -1, -2) @ y[..., None]))[..., 0]


register(
    Spec(
        name="higher_order/iterative_newton",
        reference=iterative_newton,
        arguments=_newton(),
        symbols=lambda: {
            "x": symbols("x", 2, 2),
            "y": symbols("y", 2),
            "n_iterations": 1,
            "scale": symbols("alpha").item(),
        },
        dtypes=FULL_DTYPES,
        relations=(
            ROTATED,
            TARGETS,
            REVERSED,
            Relation(
                "inputs times 2, scale over 16",
                lambda arguments: rescaled(arguments, x=2, scale=1 / 16),
                lambda output, arguments: output / 2,
            ),
            Relation(
                "examples twice, scale over 4",
                lambda arguments: rescaled(twice(arguments), scale=1 / 4),
                unchanged,
            ),
        ),
        mistakes={("missing term", "starts from a multiple of the identity"): _from_scaled_identity},
    )
)


@st.composite
def _steps(draw: st.DrawFn) -> Arguments:
    shape = (*draw(BATCHES), *[draw(DIMENSIONS)] * 2)
    return {"inverse": draw(real_arrays(shape)), "gram": draw(real_arrays(shape))}


register(
    Spec(
        name="higher_order/newton_schulz_step",
        reference=newton_schulz_step,
        arguments=_steps(),
        vjp=newton_schulz_step_vjp,
        symbols=lambda: {"inverse": symbols("m", 2, 2), "gram": symbols("s", 2, 2)},
        relations=(
            Relation(
                "inverse over 4, matrix times 4",
                lambda arguments: rescaled(arguments, inverse=1 / 4, gram=4),
                lambda output, arguments: output / 4,
            ),
            Relation(
                "both transposed",
                lambda arguments: {name: np.swapaxes(value, -1, -2) for name, value in arguments.items()},
                lambda output, arguments: np.swapaxes(output, -1, -2),
            ),
        ),
        mistakes={
            ("constant factor", "half of the second term"): lambda inverse, gram: (
                2 * inverse - inverse @ gram @ inverse / 2
            )
        },
    )
)
