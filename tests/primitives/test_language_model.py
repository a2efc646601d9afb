"""The training loss of the language model: its gradient in every parameter, repeated tokens included."""

from typing import Any

import numpy as np
import pytest

from refimpl.primitives.language_model import initial_language_model, next_token_logits, token_loss_and_gradients
from refimpl.primitives.losses import cross_entropy
from refimpl.primitives.trees import pack, unpacking


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("at", [None, slice(0, 4), np.array([1, 3])], ids=["all", "slice", "indices"])
def test_the_gradient_is_the_derivative_of_the_loss_at_the_positions(at: Any, tied: bool) -> None:
    rng = np.random.default_rng(0)
    model = initial_language_model(7, 6, 8, 2, 2, rng, tied=tied)
    tokens = rng.integers(7, size=(4, 5))  # of 7 kinds, so that some come twice
    everywhere = slice(None) if at is None else at
    targets = rng.integers(7, size=(4, 5))[:, everywhere]
    loss, gradient = token_loss_and_gradients(model, tokens, targets, at)

    unpack, parameters = unpacking(model), pack(model)

    def loss_at(vector: Any) -> float:
        moved = unpack(vector)
        logits = next_token_logits(moved.embedding[tokens], moved)[:, everywhere]
        return float(cross_entropy(logits, targets).mean())

    assert loss == pytest.approx(loss_at(parameters), rel=1e-13)
    for _ in range(3):
        direction, step = rng.standard_normal(parameters.size), 1e-5
        slope = (loss_at(parameters + step * direction) - loss_at(parameters - step * direction)) / (2 * step)
        # Of a smooth loss near 2: roundoff 1e-16 / 1e-5, and step^2 times a third derivative along some 30 units.
        assert pack(gradient) @ direction == pytest.approx(slope, rel=1e-6, abs=1e-8)
