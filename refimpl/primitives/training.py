"""The training loop: an optimizer, a source of batches and a function that gives the loss and its gradients."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.numbers import Array
from refimpl.primitives.optimizers import Optimizer, apply_updates
from refimpl.primitives.trees import pack, unpacking

Params = TypeVar("Params")
Batch = TypeVar("Batch")


def training_steps(
    params: Params,
    loss_and_gradients: Callable[[Params, Batch], tuple[Any, Params]],
    sample: Callable[[], Batch],
    optimizer: Optimizer,
) -> Iterator[tuple[Any, Params]]:
    """Step after step without end: the loss of the old parameters on a new batch, and the new parameters.

    The optimizer sees all parameters as one vector: it acts on each entry, or on the norm of all of them.
    """
    keep_freed_memory()
    vector, unpack = pack(params), unpacking(params)
    state = optimizer.init(vector)
    while True:
        loss, gradients = loss_and_gradients(params, sample())
        updates, state = optimizer.update(pack(gradients), state, vector)
        vector = apply_updates(vector, updates)
        params = unpack(vector)
        yield loss, params


def run(steps: Iterator[tuple[Any, Params]], n_steps: int) -> tuple[Params, Array]:
    """Take that many steps: the last parameters, and all losses."""
    losses = np.empty(n_steps)
    for step in range(n_steps):
        losses[step], params = next(steps)
    return params, losses
