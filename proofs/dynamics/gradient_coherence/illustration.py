"""The linear model of shared and own features (G12)."""

from collections.abc import Callable

import numpy as np

from proofs.ledger import Control, Evidence, Figure, Series, at_most, claim, figure
from proofs.symbolic import block, blocks, scalar, vanishes
from refimpl.dynamics.gradient_coherence import (
    CoherenceAccumulator,
    coherence,
    squared_loss_gradients,
    toy_dataset,
    toy_limit,
)
from refimpl.dynamics.gradient_coherence.coherence import squared_norm
from refimpl.primitives.numbers import Array, transpose

ROUNDOFF = float(np.finfo(np.float64).eps) / 2


def own_labels(y: Array) -> Array:
    return y


def unrelated_signs(y: Array) -> Array:
    return np.array([1.0, -1.0, 1.0, -1.0, 1.0]) if len(y) == 5 else np.ones_like(y)


def descend(x: Array, y: Array, learning_rate: float, n_steps: int) -> Array:
    weights = np.zeros(x.shape[1])
    for _ in range(n_steps):
        weights = weights - learning_rate * squared_loss_gradients(weights, x, y).mean(axis=0)
    return weights


@claim(
    "gradient_coherence/G12",
    title="Where examples share a feature, gradient descent puts nearly all on it, and a fresh example is served",
    source="Illustrative examples",
    statement=r"w_i=\frac{y_i}{1+s^2m},\quad w_{shared}=\frac{sm}{1+s^2m},\quad"
    r"\alpha(0)=\frac{1/m+s^2}{1+s^2}",
    method="symbolic",
    scope="all m and s: the limit fits every label and lies in the span of the inputs, with labels and own features as "
    "blocks; coherence by induction over the examples; gradient descent and the pseudo-inverse at m = 5, s = .6, and "
    "without a shared feature",
    uses=["gradient_coherence/G4"],
    control=Control("the shared feature's signs are not the labels", shared_signs=unrelated_signs),
)
def toy_limits(shared_signs: Callable[[Array], Array] = own_labels) -> Evidence:
    s, m = scalar("s", positive=True), scalar("m", positive=True, integer=True)
    limit = toy_limit(m, s)
    y = block("y", "column")
    x, labels = blocks([[1, s * y]]), blocks([[y]])
    weights = blocks([[limit.own * y], [limit.shared]])
    # Zero loss, and a combination of inputs: the one point that gradient descent from 0 can end at.
    evidence = vanishes(x @ weights - labels, "fits")
    combined = transpose(x) @ (limit.own * labels)
    evidence &= vanishes(combined[0, 0] - weights[0, 0], "own weights")
    evidence &= vanishes(combined[1, 0].subs(y.transpose() * y, m) - limit.shared, "shared weight, y'y = m")
    evidence &= vanishes(limit.prediction - s * limit.shared, "fresh example")
    # At zero weights a gradient is -y_i e_i and -s: of length 1 in a coordinate of its own, and of s in the common one.
    before, more = block("a"), block("b")
    kept = CoherenceAccumulator(blocks([[before, 0, s * m]])[0], np.asarray(m * (1 + s**2), dtype=object), m)
    after = kept.merge(CoherenceAccumulator(blocks([[0, more, s]])[0], np.asarray(1 + s**2, dtype=object), 1))
    lengths = {before * before.transpose(): m, more * more.transpose(): 1}
    square = squared_norm(after.total).item().subs(lengths)
    found = square / (after.squares.item() * after.count)
    evidence &= vanishes(found - toy_limit(m + 1, s).coherence, "coherence, one example more")
    evidence &= vanishes(toy_limit(1, s).coherence - 1, "coherence of one example")
    y_values = np.array([1.0, -1.0, -1.0, -1.0, 1.0])
    for scale in (0.6, 0.0):
        expected = toy_limit(5, scale)
        inputs, _ = toy_dataset(5, scale, shared_signs(y_values))
        wanted = np.append(expected.own * y_values, expected.shared)
        name = f"s = {scale:g}"
        # Half the largest stable rate contracts the slowest mode by 1 - 1/(1 + s^2 m) a step: 400 leave under 1e-50.
        fitted = descend(inputs, y_values, 5 / (1 + scale**2 * 5), 400)
        evidence &= at_most(float(np.max(np.abs(fitted - wanted))), 400 * ROUNDOFF, f"{name}: gradient descent off by")
        least = np.linalg.pinv(inputs) @ y_values
        evidence &= at_most(float(np.max(np.abs(least - wanted))), 100 * ROUNDOFF, "pseudo-inverse off by")
        start = coherence(squared_loss_gradients(np.zeros(6), inputs, y_values))
        evidence &= at_most(abs(float(start) - expected.coherence), 100 * ROUNDOFF, "coherence off by")
    return evidence


@figure(
    "gradient_coherence/F3",
    title="Weights of the two toy data sets",
    caption="Features 1 to 5 are the examples' own, the sixth is shared. With real labels the shared weight is the "
    "largest and serves a fresh example; with random labels every example is fitted by its own weight alone.",
    answers_to="the illustrative examples",
)
def toy_weights(rng: np.random.Generator) -> Figure:
    labels = np.array([1.0, -1.0, 1.0, 1.0, -1.0])
    parts = []
    for name, scale in (("real", 0.6), ("random", 0.0)):
        limit = toy_limit(5, scale)
        parts.append(Series(name, [1, 2, 3, 4, 5, 6], [*(limit.own * labels).tolist(), float(limit.shared)], "points"))
    return Figure(tuple(parts), "feature", "weight")
