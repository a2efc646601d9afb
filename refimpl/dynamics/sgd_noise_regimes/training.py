r"""SGD until the loss is zero: of the perceptron, step by step or from event to event, and of networks."""

import math
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np

from refimpl.dynamics.sgd_noise_regimes.hinge import check_labels, root_of_width, signs, unfitted
from refimpl.dynamics.sgd_noise_regimes.network import (
    Weights,
    check_network,
    layers_factor,
    network_outputs,
    network_pullback,
)
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.numbers import Array

# --- the perceptron ---

# How many batches at least are looked through at once for one that changes something.
SHORTEST_LOOK = 8
# Above this many samples the rows of the Gram matrix are computed each time they are needed.
GRAM_SAMPLES = 4096


class SGDRun(NamedTuple):
    """Where SGD went from zero weights, and when it stopped."""

    weights: Array
    """Shape (n_features,)."""
    time: Any
    r"""$\eta$ times the steps taken: $t^*$ if the run converged."""
    steps: int
    unfitted: Array
    """How many points are not fitted after each step, shape (steps,)."""

    @property
    def converged(self) -> bool:
        """Whether it stopped because every point is fitted."""
        return self.steps > 0 and bool(self.unfitted[-1] == 0)


def _check_sgd(
    inputs: Array,
    labels: Array,
    learning_rate: Any,
    batch_size: int,
    margin: Any,
    rng: np.random.Generator | None,
    max_steps: int,
    batches: Iterable[Array] | None = None,
) -> None:
    sizes = check_shapes(inputs=(inputs, "n_samples n_features"))
    if sizes["n_features"] < 2:
        raise ValueError(f"inputs: expected n_features >= 2 in shape (n_samples, n_features), got {inputs.shape}")
    check_labels(labels, sizes["n_samples"])
    check_number("learning_rate", learning_rate, "(0, inf)")
    check_integer("batch_size", batch_size, 1, sizes["n_samples"])
    check_number("margin", margin, "[0, inf)")
    check_integer("max_steps", max_steps, 1)
    if rng is None and batches is None:
        raise ValueError("rng: expected a generator, or batches to take in its place, got None")


@checked(_check_sgd)
def sgd_hinge(
    inputs: Array,
    labels: Array,
    learning_rate: Any,
    batch_size: int,
    margin: Any,
    rng: np.random.Generator | None,
    max_steps: int,
    batches: Iterable[Array] | None = None,
) -> SGDRun:
    r"""SGD on the hinge loss of the perceptron from $w=0$ until all points are fitted.

    $$w\leftarrow w+\frac\eta B\sum_{\mu\in\mathcal B}\mathbb 1[y_\mu F_\mu<\kappa]\,y_\mu\frac{x_\mu}{\sqrt d}$$

    on batches drawn uniformly with replacement, tested on the whole training set after every step. Weights are kept as
    how often each point moved them, agreements $yF$ through the Gram matrix of the points. Runs on exact numbers too, a
    symbol for the learning rate included, as long as which points are active can be decided.

    Parameters
    ----------
    inputs : array, shape (n_samples, n_features), n_features >= 2
    labels : array, shape (n_samples,)
        Signs.
    learning_rate : number > 0
    batch_size : int from 1 to n_samples
    margin : number >= 0
    rng : numpy.random.Generator
        Of the batches; None if they are given.
    max_steps : int >= 1
    batches : iterable of integer arrays of shape (batch_size,), optional
        In place of the generator's; the run also ends with them.

    Returns
    -------
    SGDRun

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is no sign, a number or an index is out of range.

    Source: arXiv 2301.13703, the algorithm of the setting.
    """
    n_samples = len(inputs)
    signed = signs(labels, inputs)[:, None] * inputs / root_of_width(inputs)
    scaled = learning_rate / batch_size * signed
    gram = _GramRows(signed, scaled)
    agreements = np.zeros_like(signed[:, 0])
    moved: list[int] = []
    active = np.ones(n_samples, dtype=bool)
    blocks = batch_blocks(n_samples, (batch_size,), rng, batches)
    rows = next(blocks, np.empty((0, batch_size), dtype=int))[:max_steps]
    # How many points were left, and for how many steps.
    left, waited = n_samples, 0
    counts: list[int] = []
    lengths: list[int] = []
    steps, look_ahead = 0, SHORTEST_LOOK
    while left and len(rows):
        # Between two updates nothing changes: look for the next one that far ahead.
        ahead = active[rows[:look_ahead]]
        place = int(ahead.argmax())
        if ahead.item(place):
            first = place // batch_size
            moving = rows[first][ahead[first]].tolist()
            for index in moving:
                agreements += gram[index]
            moved += moving
            active = unfitted(agreements, margin)
            counts.append(left)
            lengths.append(waited + first)
            left, waited, taken = int(np.count_nonzero(active)), 1, first + 1
            look_ahead = max(SHORTEST_LOOK, look_ahead // 2 + first)
        else:
            taken = len(ahead)
            waited, look_ahead = waited + taken, 2 * look_ahead
        steps, rows = steps + taken, rows[taken:]
        if not len(rows):
            rows = next(blocks, rows)[: max_steps - steps]
    history = np.repeat([*counts, left], [*lengths, waited])
    return SGDRun(_times_moved(moved, scaled) @ scaled, learning_rate * steps, steps, history)


def _times_moved(moved: list[int], scaled: Array) -> Array:
    """How often each point moved the weights, in the dtype of the points."""
    return np.bincount(np.array(moved, dtype=int), minlength=len(scaled)).astype(scaled.dtype)


class _GramRows(dict[int, Array]):
    """What a step of one point adds to all agreements: rows of the Gram matrix times the rate, each computed when it is
    first asked for."""

    def __init__(self, signed: Array, scaled: Array) -> None:
        self.signed, self.scaled = signed, scaled
        self.keeps = len(signed) <= GRAM_SAMPLES

    def __missing__(self, index: int) -> Array:
        row = self.signed @ self.scaled[index]
        if self.keeps:
            self[index] = row
        return row


def batch_blocks(
    n_samples: int, shape: tuple[int, ...], rng: np.random.Generator | None, batches: Iterable[Array] | None
) -> Iterator[Array]:
    """Arrays of batches of this shape in rows: the given ones, checked, or the generator's without end."""
    if batches is None:
        assert rng is not None
        while True:
            yield rng.integers(n_samples, size=(1024, *shape))
    for given in [batches] if isinstance(batches, np.ndarray) else batches:
        rows = np.asarray(given)
        rows = rows if rows is batches else rows[None]
        fits = rows.shape[1:] == shape and rows.dtype.kind in "iu"
        if not fits or (rows.size and (rows.min() < 0 or rows.max() >= n_samples)):
            wanted = shape[0] if len(shape) == 1 else shape
            raise ValueError(
                f"batches: expected {wanted} integers from 0 to {n_samples - 1} in each, got {given!r:.80}"
            )
        yield rows


class EventRun(NamedTuple):
    """What :func:`event_driven_perceptron` gives."""

    weights: Array
    """Shape (n_features,)."""
    time: float
    r"""$\eta$ times the steps taken, those that change nothing included: $t^*$ if the run converged."""
    steps: int
    updates: int
    """Steps that changed the weights."""
    converged: bool


def event_driven_perceptron(
    inputs: Array,
    labels: Array,
    learning_rate: Any,
    margin: Any,
    rng: np.random.Generator,
    batch_size: int = 1,
    max_updates: int = 10**7,
) -> EventRun:
    r"""The law of :func:`sgd_hinge` at the cost of the steps that change something.

    Of the sequence of independent draws the number up to the first active point is geometric with success probability
    $p=|U|/P$, $U$ the active set. That tells how many batches changed nothing. What is left of the batch in which it
    falls has a binomial number of further active points. All are uniform in $U$. With $\kappa=0$ and $B=1$ this is
    Rosenblatt's perceptron, of at most $R^2/\text{margin}^2$ updates (Novikoff).

    Parameters
    ----------
    inputs, labels, learning_rate, margin, batch_size : as for :func:`sgd_hinge`
    rng : numpy.random.Generator
    max_updates : int >= 1

    Returns
    -------
    EventRun

    Raises
    ------
    ValueError
        As :func:`sgd_hinge`.

    Source: derived from the algorithm of arXiv 2301.13703.
    """
    _check_sgd(inputs, labels, learning_rate, batch_size, margin, rng, 1)
    max_updates = check_integer("max_updates", max_updates, 1)
    n_samples = len(inputs)
    signed = signs(labels, inputs)[:, None] * inputs / root_of_width(inputs)
    scaled = learning_rate / batch_size * signed
    gram = _GramRows(signed, scaled)
    agreements = np.zeros_like(signed[:, 0])
    moved: list[int] = []
    steps = updates = 0
    active = np.arange(n_samples)
    uniform = _uniform(rng)
    while updates < max_updates and active.size:
        probability = active.size / n_samples
        # As many draws of points that are not active, by inversion; log(0) and log(1 - 1) do not occur.
        before = 0 if probability == 1 else int(math.log1p(-next(uniform)) / math.log1p(-probability))
        skipped, place = divmod(before, batch_size)
        n_moving = 1 + (int(rng.binomial(batch_size - 1 - place, probability)) if batch_size > 1 else 0)
        for _ in range(n_moving):
            index = int(active[int(next(uniform) * active.size)])
            agreements += gram[index]
            moved.append(index)
        active = unfitted(agreements, margin).nonzero()[0]
        steps += skipped + 1
        updates += 1
    return EventRun(_times_moved(moved, scaled) @ scaled, learning_rate * steps, steps, updates, not active.size)


def _uniform(rng: np.random.Generator) -> Iterator[float]:
    """Uniform numbers from [0, 1), drawn in blocks: one by one each would cost as much as an update."""
    while True:
        yield from rng.random(1024).tolist()


# --- networks ---


class NetworkRun(NamedTuple):
    """Where SGD went, and when it stopped, of one or of several networks."""

    weights: list[Array]
    time: Any
    r"""$\eta$ times the steps taken: $t^*$ if the run converged, to within the steps between two tests; (...)."""
    steps: Any
    """Shape (...)."""
    converged: Any
    """Whether every point is fitted, shape (...). A run whose weights are no longer finite has stopped and is not
    converged."""


def train_network(
    inputs: Array,
    labels: Array,
    weights: Weights,
    learning_rate: Any,
    batch_size: int,
    margin: Any,
    rng: np.random.Generator | None,
    max_steps: int,
    check_every: int = 1,
    batches: Iterable[Array] | None = None,
) -> NetworkRun:
    r"""SGD on the hinge loss of $F=f(w)-f(w_0)$ until all points are fitted, the weights overflow or steps run out.

    Leading axes are runs of their own, of as many data sets and networks, each with its batches; one that has stopped
    leaves the others.

    Parameters
    ----------
    inputs : array, shape (..., n_samples, n_inputs)
    labels : array, shape (..., n_samples)
        Signs.
    weights : list of arrays, as for :func:`network_outputs`
        $w_0$.
    learning_rate : number > 0
    batch_size : int from 1 to n_samples
    margin : number >= 0
        $\kappa=1/\alpha$.
    rng : numpy.random.Generator
        Of the batches, drawn uniformly with replacement; None if they are given.
    max_steps : int >= 1
    check_every : int >= 1
        Steps between two tests of the whole training set; the resolution of $t^*$.
    batches : iterable of integer arrays of shape (..., batch_size), optional
        In place of the generator's; the runs also end with them.

    Returns
    -------
    NetworkRun

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is no sign, a number or an index is out of range.

    Source: arXiv 2301.13703, the algorithm of the setting.
    """
    check_network(inputs, weights)
    *lead, n_samples, n_inputs = inputs.shape
    check_labels(labels, *lead, n_samples)
    rate = check_number("learning_rate", learning_rate, "(0, inf)") / check_integer(
        "batch_size", batch_size, 1, n_samples
    )
    margin, max_steps = check_number("margin", margin, "[0, inf)"), check_integer("max_steps", max_steps, 1)
    check_every = check_integer("check_every", check_every, 1)
    if rng is None and batches is None:
        raise ValueError("rng: expected a generator, or batches to take in its place, got None")
    keep_freed_memory()
    n_runs = math.prod(lead)
    current = [matrix.reshape(n_runs, *matrix.shape[-2:]).copy() for matrix in weights]
    ended = [np.empty_like(matrix) for matrix in current]
    steps, converged, going = np.zeros(n_runs, int), np.zeros(n_runs, bool), np.arange(n_runs)
    x, y = inputs.reshape(n_runs, n_samples, n_inputs), signs(labels, inputs).reshape(n_runs, n_samples)
    start, factor = y * network_outputs.unchecked(x, current), layers_factor(current)
    drawn = chain.from_iterable(batch_blocks(n_samples, (*lead, batch_size), rng, batches))
    with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges is an outcome
        for step, indices in enumerate(islice(drawn, max_steps), 1):
            chosen = np.arange(len(going))[:, None], indices.reshape(n_runs, batch_size)[going]
            outputs, pull = network_pullback(x[chosen], current, [matrix.mT for matrix in current[:-1]], factor)
            signed = y[chosen]
            active = unfitted(signed * outputs - start[chosen], margin)
            if active.any():
                signed *= active
                signed *= rate
                for matrix, change in zip(current, pull(signed, with_inputs=False)[1], strict=True):
                    matrix += change
            steps[going] = step
            if step % check_every == 0:
                agreements = y * network_outputs.unchecked(x, current) - start
                finite = np.isfinite(agreements).all(-1)
                fitted = finite & ~unfitted(agreements, margin).any(-1)
                goes_on = finite & ~fitted
                if not goes_on.all():
                    converged[going] = fitted
                    for matrix, last in zip(current, ended, strict=True):
                        last[going] = matrix
                    going, x, y, start = going[goes_on], x[goes_on], y[goes_on], start[goes_on]
                    current = [matrix[goes_on] for matrix in current]
                    if not going.size:
                        break
    for matrix, last in zip(current, ended, strict=True):
        last[going] = matrix
    final = [last.reshape(first.shape) for last, first in zip(ended, weights, strict=True)]
    steps = steps.reshape(lead)[()]
    return NetworkRun(final, learning_rate * steps, steps, converged.reshape(lead)[()])
