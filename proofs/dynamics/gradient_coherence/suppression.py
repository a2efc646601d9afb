"""Robust averages of gradients (G17 and G18)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from proofs.ledger import Control, Evidence, at_least, at_most, claim, equal
from proofs.properties import for_all
from refimpl.dynamics.gradient_coherence import median_of_three, trimmed_count, winsorized_mean
from refimpl.oracle.specs.dynamics.gradient_coherence import batches
from refimpl.primitives.numbers import Array

ROUNDOFF = float(np.finfo(np.float64).eps) / 2
Average = Callable[..., Any]


def plain_mean(gradients: Array, level: float = 0) -> Array:
    return np.asanyarray(gradients.mean(axis=-2))


def sparse_batch(rng: np.random.Generator, batch_size: int, n_positive: int, n_negative: int) -> Array:
    """Coordinates that so many examples ask to raise and so many to lower, at random places."""
    signs = np.zeros((batch_size, 30))
    signs[:n_positive], signs[n_positive : n_positive + n_negative] = 1, -1
    return rng.permuted(signs, axis=0) * rng.uniform(0.1, 10, signs.shape)


def as_many(count: int) -> int:
    return count


def one_more(count: int) -> int:
    return count + 1


@claim(
    "gradient_coherence/G17",
    title="The winsorised mean is the mean at level 0, moves with shifts and scales, is bounded by the others, "
    "and zeroes "
    "what few examples ask for",
    source="Winsorised gradients",
    statement=r"k=\lfloor cB\rfloor:\ \le k\text{ positive and }\le k\text{ negative entries}\Rightarrow u_j=0",
    method="property",
    scope="batches of 1 to 40 gradients in up to 300 dimensions, 100 each; one entry of +-10^30 among them; "
    "batches of 20, "
    "50 and 100 at levels .02 to .29, zeros exactly",
    control=[
        Control("one entry more than the level's", entries=one_more),
        Control("the plain mean", average=plain_mean),
    ],
)
def winsorized(
    rng: np.random.Generator, average: Average = winsorized_mean, entries: Callable[[int], int] = as_many
) -> Evidence:
    def error(gradients: Array) -> float:
        size = 1 + np.max(np.abs(gradients))
        shift, scale = rng.standard_normal(gradients.shape[-1]), rng.uniform(0.1, 10, gradients.shape[-1])
        off = [average(gradients, 0.0) - gradients.mean(axis=-2)]
        off.append((average(scale * gradients + shift, 0.1) - (scale * average(gradients, 0.1) + shift)) / 10)
        # Sums of B terms of this size, and shifts of at most five deviations.
        return max(float(np.max(np.abs(one))) for one in off) / (size * 10 * (gradients.shape[-2] + 4) * ROUNDOFF)

    evidence = for_all(rng, batches(), error, 1, quantity="mean at 0, shifts and scales: off over roundoff")
    outside = []
    for sign in (-1, 1):
        gradients = rng.standard_normal((20, 30))
        others = gradients[1:]
        gradients[0] = sign * 1e30
        moved = average(gradients, 0.1)
        outside.append(np.max(np.maximum(moved - others.max(axis=0), others.min(axis=0) - moved)))
    evidence &= at_most(float(max(outside)), 0.0, "one huge entry: beyond the others by")
    left = []
    for batch_size, level, count in ((20, 0.1, 2), (50, 0.02, 1), (50, 0.12, 6), (100, 0.29, 29), (100, 0.08, 8)):
        evidence &= equal(trimmed_count(level, batch_size), count, f"{level:g} of {batch_size}")
        more = entries(count)
        left += [
            average(sparse_batch(rng, batch_size, more, 0), level),
            average(sparse_batch(rng, batch_size, 0, more), level),
        ]
        left.append(average(sparse_batch(rng, batch_size, more, more), level))
    evidence &= equal(float(np.max(np.abs(left))), 0.0, "asked for by few: largest entry")
    beyond = average(sparse_batch(rng, 20, 3, 0), 0.1)
    return evidence & at_least(float(np.min(np.abs(beyond))), 1e-3, "asked for by one more: smallest entry")


def one_third(batch: Array, rng: np.random.Generator) -> Array:
    """Each coordinate in one third of the batch only."""
    return supported(batch, rng, 1)


def two_thirds(batch: Array, rng: np.random.Generator) -> Array:
    return supported(batch, rng, 2)


def supported(batch: Array, rng: np.random.Generator, n_thirds: int) -> Array:
    places = rng.permuted(np.tile(np.arange(3)[:, None], (1, batch.shape[-1])), axis=0) < n_thirds
    return batch * np.repeat(places, batch.shape[-2] // 3, axis=0)


@claim(
    "gradient_coherence/G18",
    title="M3 zeroes what one third of the batch alone asks for, and keeps what all three agree on",
    source="Median of three micro-batches",
    statement=r"u=\mathrm{median}(\bar g^{(1)},\bar g^{(2)},\bar g^{(3)})",
    method="property",
    scope="batches of 3, 15 and 48 gradients in 30 dimensions, exactly; it is the winsorised mean of the three "
    "means at "
    "level 1/3, to roundoff",
    uses=["gradient_coherence/G17"],
    control=[Control("asked for by two thirds", support=two_thirds), Control("the plain mean", average=plain_mean)],
)
def median(
    rng: np.random.Generator,
    average: Average = median_of_three,
    support: Callable[[Array, np.random.Generator], Array] = one_third,
) -> Evidence:
    left, apart, unequal, nonzero = [], [], [], []
    for batch_size in (3, 15, 48):
        batch = rng.uniform(0.1, 10, (batch_size, 30))
        left.append(np.max(np.abs(average(support(batch, rng)))))
        nonzero.append(np.min(average(supported(batch, rng, 2))))
        third = rng.integers(-50, 50, (batch_size // 3, 30)).astype(np.float64)
        unequal.append(np.max(np.abs(average(np.tile(third, (3, 1))) - third.sum(axis=0) / len(third))))
        # Eighths of integers, whose sums are exact.
        exact = rng.integers(-50, 50, (batch_size, 30)) / 8
        means = exact.reshape(3, -1, 30).sum(axis=1) / (batch_size // 3)
        apart.append(np.max(np.abs(average(exact) - winsorized_mean(means, 1 / 3))))
    return (
        equal(float(max(left)), 0.0, "asked for by one third: largest entry")
        & at_least(float(min(nonzero)), 0.01, "by two thirds: smallest entry")
        & equal(float(max(unequal)), 0.0, "three equal thirds: less their mean")
        # The three copies of the median over 3 may round.
        & at_most(float(max(apart)), 50 * 2 * ROUNDOFF, "less the winsorised mean of the means")
    )
