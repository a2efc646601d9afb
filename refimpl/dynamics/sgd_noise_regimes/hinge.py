r"""The hinge loss with margin $\kappa=1/\alpha$, the perceptron and its data, and SGD that stops at zero loss."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, constant, positive_part, sqrt, unit_step

# --- the loss ---


def check_labels(labels: Any, *shape: int) -> None:
    """Raise ``ValueError`` unless they are signs of this shape."""
    if not hasattr(labels, "dtype") or labels.shape != shape:
        found = getattr(labels, "shape", type(labels).__name__)
        raise ValueError(f"labels: expected an array of shape {shape}, got {found}")
    wrong = [entry for entry in labels.ravel() if entry not in (-1, 1)]
    if wrong:
        raise ValueError(f"labels: expected signs -1 and 1, got {wrong[0]}")


def signs(labels: Array, like: Array) -> Array:
    """The labels in the dtype of `like`."""
    return np.asarray(labels).astype(like.dtype)


def _check_hinge(predictions: Array, labels: Array, margin: Any) -> None:
    sizes = check_shapes(predictions=(predictions, "n_samples"))
    check_labels(labels, sizes["n_samples"])
    check_number("margin", margin, "[0, inf)")


@checked(_check_hinge)
def hinge_loss(predictions: Array, labels: Array, margin: Any) -> Array:
    r"""$L=\frac1P\sum_\mu(\kappa-y_\mu F_\mu)^+$.

    With $\kappa=1/\alpha$ it is $\frac1\alpha$ times the hinge loss of unit margin on $\alpha F$.

    Parameters
    ----------
    predictions : array, shape (n_samples,)
        $F$.
    labels : array, shape (n_samples,)
        Signs.
    margin : number >= 0
        $\kappa$.

    Returns
    -------
    array, shape ()

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is no sign or the margin negative.

    Source: arXiv 2301.13703, the loss of the setting.
    """
    return np.asanyarray(positive_part(margin - signs(labels, predictions) * predictions).sum() / len(predictions))


@checked(_check_hinge)
def hinge_loss_vjp(predictions: Array, labels: Array, margin: Any) -> tuple[Array, Callable[[Array], tuple[Array]]]:
    r""":func:`hinge_loss` and its pullback ``cotangent -> (predictions,)``: $-y_\mu/P$ where $yF<\kappa$, else 0."""
    y = signs(labels, predictions)
    missing = margin - y * predictions

    def pullback(cotangent: Array) -> tuple[Array]:
        return (-cotangent * y * unit_step(missing) / len(predictions),)

    return np.asanyarray(positive_part(missing).sum() / len(predictions)), pullback


@checked(_check_hinge)
def hinge_active(predictions: Array, labels: Array, margin: Any) -> Array:
    r"""Whether $y_\mu F_\mu<\kappa$; at $\kappa=0$ whether $y_\mu F_\mu\le0$, or zero weights would count as trained.

    Parameters
    ----------
    predictions, labels, margin : as for :func:`hinge_loss`

    Returns
    -------
    boolean array, shape (n_samples,)

    Raises
    ------
    ValueError
        As :func:`hinge_loss`.

    Source: arXiv 2301.13703, the setting.
    """
    return unfitted(signs(labels, predictions) * predictions, margin)


def unfitted(agreements: Array, margin: Any) -> Array:
    """:func:`hinge_active` of the agreements $yF$; arguments unchecked."""
    return np.asarray(agreements <= 0 if margin == 0 else agreements < margin)


# --- the perceptron ---


def perceptron_data(n_samples: int, n_features: int, chi: float, rng: np.random.Generator) -> tuple[Array, Array]:
    r"""Inputs whose first coordinate has density $|x_1|^\chi e^{-x_1^2/2}/Z$, the others normal; labels are its signs.

    $|x_1|$ is the root of a $\chi^2$ variable with $\chi+1$ degrees of freedom: nothing is rejected.

    Parameters
    ----------
    n_samples : int >= 1
    n_features : int >= 2
    chi : float > -1
        Above 0 the boundary is depleted, 0 is the Gaussian.
    rng : numpy.random.Generator

    Returns
    -------
    inputs : array, shape (n_samples, n_features)
    labels : array, shape (n_samples,)

    Raises
    ------
    ValueError
        If a size or `chi` is out of range.

    Source: arXiv 2301.13703, the perceptron's data distribution.
    """
    n_samples = check_integer("n_samples", n_samples, 1)
    n_features = check_integer("n_features", n_features, 2)
    freedom = check_number("chi", chi, "(-1, inf)") + 1
    inputs = rng.standard_normal((n_samples, n_features))
    labels = 1.0 - 2 * rng.integers(2, size=n_samples)
    inputs[:, 0] = labels * np.sqrt(rng.chisquare(freedom, n_samples))
    return inputs, labels


def _check_perceptron(weights: Array, inputs: Array) -> None:
    check_shapes(weights=(weights, "n_features"), inputs=(inputs, "n_samples n_features"))


@checked(_check_perceptron)
def perceptron_outputs(weights: Array, inputs: Array) -> Array:
    r"""$f_\mu=w\cdot x_\mu/\sqrt d$.

    Parameters
    ----------
    weights : array, shape (n_features,)
    inputs : array, shape (n_samples, n_features)

    Returns
    -------
    array, shape (n_samples,)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2301.13703, the perceptron.
    """
    return np.asanyarray(inputs @ weights / root_of_width(inputs))


@checked(_check_perceptron)
def perceptron_outputs_vjp(weights: Array, inputs: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """:func:`perceptron_outputs` and its pullback ``cotangent -> (weights, inputs)``."""
    root = root_of_width(inputs)

    def pullback(cotangent: Array) -> tuple[Array, Array]:
        scaled = cotangent / root
        return scaled @ inputs, scaled[:, None] * weights

    return perceptron_outputs.unchecked(weights, inputs), pullback


def root_of_width(inputs: Array) -> Array:
    r"""$\sqrt d$ in the dtype of the inputs."""
    return sqrt(constant(inputs.shape[-1], inputs))


# --- SGD ---

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
