"""What the specs share: sizes, random separable sets, and what may be done to them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.large_step_logistic.weights import Selection
from refimpl.oracle.spec import Arguments, Relation, generators
from refimpl.primitives.numbers import Array
from refimpl.tasks.classification import sample_separable_data, signed_features

# Where a margin's sign decides, 8 or 11 bits decide differently.
SINGLE = ("float64", "float32")
BATCHES = st.sampled_from(((), (1,), (3,)))
SAMPLES = st.sampled_from((1, 2, 3, 8, 24, 200))
FEATURES = st.sampled_from((1, 2, 3, 5, 30))
SELECTIONS: tuple[Selection, ...] = ("first", "worst")
STEP_SIZES = st.sampled_from((1e-3, 0.1, 1.0, 30.0, 1e3, 1e6))


def unchanged(output: Any, arguments: Arguments) -> Any:
    return output


def changed(**changes: Callable[[Any], Any]) -> Callable[[Arguments], Arguments]:
    """These arguments through these functions."""
    return lambda arguments: arguments | {name: change(arguments[name]) for name, change in changes.items()}


def reflect(x: Array) -> Array:
    r"""Multiply by the orthogonal matrix $I-\frac2d\mathbf 1\mathbf 1^\top$ along the last axis."""
    return x - 2 * x.sum(axis=-1, keepdims=True) / x.shape[-1]


def twice(z: Array) -> Array:
    """The data set two times."""
    return np.concatenate([z, z])


def reverse(z: Array) -> Array:
    return z[::-1]


REVERSED = Relation("samples in reverse", changed(z=reverse), unchanged)
DOUBLED = Relation("every sample twice", changed(z=twice), unchanged)


@st.composite
def separable_sets(draw: st.DrawFn, largest: int = 24, least_gap: float = 1e-2) -> Array:
    """Signed features of a random separable set of at most `largest` samples."""
    n, d = draw(st.integers(1, largest)), draw(st.integers(1, 5))
    gap = 10.0 ** draw(st.floats(np.log10(least_gap), 0))
    data = sample_separable_data(n, d, gap, draw(generators()))
    return signed_features(*data)
