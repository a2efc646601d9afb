r"""Learning rate and momentum from the curvature of a batch, by Lanczos, while training.

Once in a while the extreme Ritz values of one batch's Hessian, of the size that training uses, give Polyak's rate and
momentum. It is the batch's curvature that matters, not the full data's: the broadening by noise is in it already, so
the step is safe at that batch size.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from refimpl.dynamics.batch_hessian.learning_rates import Pace, polyak_pace
from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.curvature import Curvature, Layers, mlp_curvature, pack, unpack
from refimpl.primitives.lanczos import Product, lanczos
from refimpl.primitives.layers import Linear
from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import tree_map


class LanczosMomentumLearner(NamedTuple):
    r"""How rates are learned; :func:`check_learner` checks it.

    At ``safety`` 1 and no smoothing these are Polyak's for the batch that was looked at; on a network, whose curvature
    moves, that can be a step too far.
    """

    n_lanczos: int = 15
    """Products with the Hessian of one batch."""
    refresh: int = 1
    """Epochs between two looks."""
    safety: float = 1.0
    """Multiplies the learning rate."""
    smoothing: float = 0.0
    """What an average over the looks keeps of the past, for rate and momentum; from 0 to below 1."""
    floor: float = 1e-2
    """What the lower curvature is at least, for the smallest Ritz value may be about 0."""


def check_learner(learner: LanczosMomentumLearner) -> None:
    """Raise ``ValueError`` unless every setting is in its range."""
    check_integer("n_lanczos", learner.n_lanczos, 1)
    check_integer("refresh", learner.refresh, 1)
    check_number("safety", learner.safety, "(0, inf)")
    check_number("smoothing", learner.smoothing, "[0, 1)")
    check_number("floor", learner.floor, "(0, inf)")


def learned_pace(
    learner: LanczosMomentumLearner,
    product: Product,
    n_params: int,
    rng: np.random.Generator,
    previous: Pace | None = None,
) -> Pace:
    r"""A look at a batch: its extreme Ritz values give the pace.

    $\lambda_1'=\theta_{max}$ and $\lambda_n'=\max(|\theta_{min}|,\lambda_{floor})$, at most $\lambda_1'$. The smallest
    Ritz value may be negative, the loss being non-convex, hence its size.

    Parameters
    ----------
    learner : LanczosMomentumLearner
    product : ``v -> H_batch v``
    n_params : int >= 1
    rng : np.random.Generator, of the start
    previous : Pace, with which the new one is averaged; None at the first look

    Raises
    ------
    ValueError
        If a setting is out of range or the largest Ritz value is not positive, where no rate is too large.

    Source: arXiv 2006.09092, the Lanczos learner; the choice of the lower curvature is ours.
    """
    check_learner(learner)
    n_params = check_integer("n_params", n_params, 1)
    values = lanczos(product, n_params, min(learner.n_lanczos, n_params), rng).eigenvalues()
    largest = float(values[-1])
    if not largest > 0:
        raise ValueError(f"product: expected a batch Hessian with a positive eigenvalue, got at most {largest}")
    learned = polyak_pace(largest, min(largest, max(abs(float(values[0])), learner.floor)))
    # Python's numbers, which leave the dtype of the parameters alone.
    learned = Pace(learner.safety * float(learned.learning_rate), float(learned.momentum))
    if previous is None:
        return learned
    keep = learner.smoothing
    return Pace(*(keep * old + (1 - keep) * new for old, new in zip(previous, learned, strict=True)))


class Epoch(NamedTuple):
    """The state after an epoch of training."""

    layers: list[Linear]
    loss: float
    """Of all the data."""
    pace: Pace
    """With which the epoch was trained."""


def train(
    layers: Layers,
    x: Array,
    targets: Array,
    batch_size: int,
    learner: LanczosMomentumLearner | Pace,
    rng: np.random.Generator,
    activation: str = "tanh",
) -> Iterator[Epoch]:
    r"""Heavy ball, $v\leftarrow\rho v-\eta g$, $w\leftarrow w+v$, on shuffled batches, epoch after epoch without end.

    A learner looks at the first batch of every epoch whose turn it is, before it takes its step; the velocity stays.

    Parameters
    ----------
    layers : list of Linear
    x : array, shape (n, n_inputs)
    targets : array of ints, shape (n,)
    batch_size : int from 1 to n
        An incomplete last batch is left out.
    learner : LanczosMomentumLearner, or a Pace that stays
    rng : np.random.Generator, of the shuffles and of the starts of Lanczos
    activation : "tanh" or "relu"

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a setting is out of range, or a batch's Hessian has no positive
        eigenvalue at a look.

    Source: arXiv 2006.09092, the Lanczos learner.
    """
    n = len(x)
    mlp_curvature.check(layers, x, targets, activation)
    batch_size = check_integer("batch_size", batch_size, 1, n)
    if isinstance(learner, Pace):
        learner = Pace(
            check_number("learning_rate", learner.learning_rate, "(0, inf)"),
            check_number("momentum", learner.momentum, "[0, 1)"),
        )
    else:
        check_learner(learner)
    return _epochs(list(layers), x, targets, batch_size, learner, rng, activation)


def _epochs(
    layers: list[Linear],
    x: Array,
    targets: Array,
    batch_size: int,
    learner: LanczosMomentumLearner | Pace,
    rng: np.random.Generator,
    activation: str,
) -> Iterator[Epoch]:
    keep_freed_memory()
    n = len(x)
    pace = learner if isinstance(learner, Pace) else Pace(0.0, 0.0)
    velocity = tree_map(np.zeros_like, layers)
    for epoch in itertools.count():
        order = rng.permutation(n)
        for start in range(0, n - batch_size + 1, batch_size):
            chosen = order[start : start + batch_size]
            curvature = mlp_curvature.unchecked(layers, x[chosen], targets[chosen], activation)
            if start == 0 and not isinstance(learner, Pace) and epoch % learner.refresh == 0:
                pace = _look(learner, curvature, layers, rng, pace if epoch else None)
            layers, velocity = _heavy_ball(pace, layers, velocity, curvature.gradient)
        yield Epoch(layers, float(mlp_curvature.unchecked(layers, x, targets, activation).loss), pace)


def _look(
    learner: LanczosMomentumLearner,
    curvature: Curvature,
    layers: list[Linear],
    rng: np.random.Generator,
    previous: Pace | None,
) -> Pace:
    def product(vector: Array) -> Array:
        return pack(curvature.hessian_product(unpack(vector, layers)))

    return learned_pace(learner, product, pack(layers).size, rng, previous)


def _heavy_ball(
    pace: Pace, layers: list[Linear], velocity: list[Linear], gradient: list[Linear]
) -> tuple[list[Linear], list[Linear]]:
    rate, momentum = pace
    velocity = tree_map(lambda v, g: momentum * v - rate * g, velocity, gradient)
    return tree_map(lambda w, v: w + v, layers, velocity), velocity
