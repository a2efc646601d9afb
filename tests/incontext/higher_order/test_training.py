"""The small trained counterpart: its gradients, its normalisation, and that training trains."""

from typing import Any

import numpy as np
import pytest

from refimpl.incontext.higher_order.training import (
    LinearLayer,
    Training,
    layer_predictions,
    loss_and_gradients,
    prefix_tokens,
    query_states,
    train,
)
from refimpl.primitives.trees import leaves, tree_map
from refimpl.tasks.linear_regression import sample_gaussian_tasks


def layers(size: int = 4, n_layers: int = 3, scale: float = 0.2) -> list[LinearLayer]:
    rng = np.random.default_rng(0)
    return [LinearLayer(*(scale * rng.standard_normal((2, 1, size, size)))) for _ in range(n_layers)]


def test_gradients_are_the_loss_differentiated() -> None:
    rng = np.random.default_rng(1)
    tasks = sample_gaussian_tasks(8, 3, 5, 0.0, rng)
    tokens = prefix_tokens(tasks.x, tasks.y, tasks.x_query, rng.integers(1, 6, 8))
    weights = layers()
    for clip in (10.0, 1.0):  # the latter clips
        _, gradients = loss_and_gradients(weights, tokens, tasks.y_query, clip)
        direction = tree_map(lambda leaf: rng.standard_normal(leaf.shape), weights)

        ahead, behind = (
            loss_and_gradients(
                tree_map(lambda leaf, d, step=step: leaf + step * d, weights, direction), tokens, tasks.y_query, clip
            )[0]
            for step in (1e-5, -1e-5)
        )
        slope = sum(np.vdot(g, d) for g, d in zip(leaves(gradients), leaves(direction), strict=True))
        np.testing.assert_allclose((ahead - behind) / 2e-5, slope, rtol=1e-7)


def test_scaled_tokens_divide_the_attention_by_the_number_of_examples() -> None:
    tasks = sample_gaussian_tasks(4, 3, 5, 0.0, np.random.default_rng(2))
    t = 3
    tokens = np.concatenate([tasks.x[:, :t], tasks.y[:, :t, None]], axis=-1).transpose(0, 2, 1)
    query = np.concatenate([tasks.x_query, np.zeros((4, 1))], axis=-1)[..., None]
    weights = layers(n_layers=2)
    for (key_query,), (projection_value,) in weights:
        gram = tokens @ tokens.transpose(0, 2, 1) / t
        tokens, query = (one + projection_value @ gram @ key_query @ one for one in (tokens, query))
    short = tasks._replace(x=tasks.x[:, :t], y=tasks.y[:, :t])
    np.testing.assert_allclose(query_states(weights, short, 1e9)[-1, :, -1], query[..., 0], atol=1e-12)


def test_tokens_of_zeros_are_not_seen() -> None:
    tasks = sample_gaussian_tasks(4, 3, 6, 0.0, np.random.default_rng(3))
    padded = prefix_tokens(tasks.x, tasks.y, tasks.x_query, 2)
    cut = prefix_tokens(tasks.x[:, :2], tasks.y[:, :2], tasks.x_query, 2)
    losses = [loss_and_gradients(layers(), tokens, tasks.y_query, 10.0)[0] for tokens in (padded, cut)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-13)


def test_training_lowers_the_loss() -> None:
    rng = np.random.default_rng(4)
    settings = Training(n_inputs=2, n_context=8, n_layers=2, n_steps=300, batch_size=64, learning_rate=1e-2)
    trained, losses = train(settings, rng)
    assert np.mean(losses[-50:]) < 0.7 * np.mean(losses[:50])
    assert {leaf.dtype for layer in trained for leaf in layer} == {np.dtype(np.float32)}
    fitted_on, tasks = (sample_gaussian_tasks(200, 2, 8, 0.0, rng) for _ in range(2))
    predictions = layer_predictions(trained, fitted_on, tasks, settings.token_clip)
    assert predictions.shape == (2, 200, 8)
    last = np.mean((predictions[:, :, -1] - tasks.y_query) ** 2, axis=1)
    assert last[1] < last[0] < np.mean(tasks.y_query**2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_layers": 0}, "n_layers"),
        ({"n_steps": 0}, "n_steps"),
        ({"batch_size": 0}, "n_tasks"),
        ({"learning_rate": 0.0}, "initial"),
        ({"token_clip": 0.0}, "token_clip"),
        ({"standard_deviation": 0.0}, "standard_deviation"),
    ],
)
def test_bad_settings(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(Training()._replace(**changed), np.random.default_rng(0))
