"""The trained learner: laws of the data, what it may not see, a second route, the loop, bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from refimpl.incontext.learning_algorithms import (
    Learner,
    initial_learner,
    learner_loss,
    learner_loss_vjp,
    learner_predictions,
    learner_states,
    sample_law,
    sample_prompts,
    train_learner,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.learning_algorithms.training import learners
from refimpl.primitives.numbers import Array
from refimpl.primitives.optimizers import adam, apply_updates
from refimpl.primitives.schedules import cosine_decay
from refimpl.primitives.trees import leaves, tree_map

Rng = np.random.default_rng


def learner(n_points: int = 4, dtype: Any = np.float64) -> Learner:
    return initial_learner(n_points, 2, 2, 8, 2, Rng(0), dtype)


def prompts(n_points: int = 4, dtype: Any = np.float64) -> tuple[Array, Array]:
    return sample_prompts(3, n_points, 2, Rng(1), dtype=dtype)[1:]


# --- tasks ---


def test_laws_are_read_as_they_are_written() -> None:
    shape = (3, 5)
    np.testing.assert_array_equal(sample_law("normal*2+1.5", shape, Rng(0)), 2 * Rng(0).standard_normal(shape) + 1.5)
    np.testing.assert_array_equal(sample_law("uniform*0.5+-1", shape, Rng(0)), Rng(0).random(shape) / 2 - 1)
    mixed = sample_law("uniform*1+0,uniform*1+10,uniform*1+20", (3000,), Rng(0))
    counts = np.bincount((mixed // 10).astype(int))
    # Six standard deviations of a share of one third.
    assert np.all(np.abs(counts - 1000) < 6 * np.sqrt(3000 * 2 / 9))


def test_targets_are_linear_up_to_noise() -> None:
    weights, x, y = sample_prompts(2000, 5, 3, Rng(0), prior_std=2.0)
    np.testing.assert_allclose(y, np.einsum("tnd,td->tn", x, weights), rtol=1e-12, atol=1e-12)
    noisy = sample_prompts(2000, 5, 3, Rng(0), prior_std=2.0, noise_std=0.5)
    residual = noisy.y - np.einsum("tnd,td->tn", noisy.x, noisy.weights)
    # Six standard deviations of a variance of Gaussian samples.
    assert np.var(residual) == pytest.approx(0.25, abs=6 * 0.25 * np.sqrt(2 / 10_000))
    assert np.var(weights) == pytest.approx(4, abs=6 * 4 * np.sqrt(2 / 6000))


# --- the model ---


def by_hand(x: Array, y: Array, given_learner: Learner) -> list[float]:
    """The predictions for one prompt, token by token."""

    def norm(v: Array, params: Any) -> Array:
        return params.scale * (v - v.mean()) / np.sqrt(v.var() + 1e-5) + params.offset

    def gelu(z: Array) -> Array:
        return z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2

    tokens = []
    for one, target in zip(x, y, strict=True):
        tokens += [np.r_[0, one], np.r_[target, 0 * one]]
    embedding, positions, blocks, last, read_out = given_learner
    stream = [embedding.weight @ t + embedding.bias + p for t, p in zip(tokens[:-1], positions, strict=False)]
    for block in blocks:
        rows, attended = [norm(v, block.attention_norm) for v in stream], []
        for i in range(len(rows)):
            total = 0 * rows[i]
            for query, key, value, output in zip(*block.attention, strict=True):
                scores = np.array([(query @ rows[i]) @ (key @ rows[j]) for j in range(i + 1)]) / np.sqrt(len(query))
                shares = np.exp(scores) / np.exp(scores).sum()
                total = total + output @ sum(s * (value @ rows[j]) for j, s in enumerate(shares))
            attended.append(stream[i] + total)
        (w1, b1), (w2, b2) = block.mlp
        stream = [v + w2 @ gelu(w1 @ norm(v, block.mlp_norm) + b1) + b2 for v in attended]
    return [float((read_out.weight @ norm(v, last) + read_out.bias)[0]) for v in stream[::2]]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(learners())
def test_the_learner_token_by_token(case: Arguments) -> None:
    x, y = case["x"], case["y"]
    predictions = learner_predictions(**case)
    flat_x, flat_y = x.reshape(-1, *x.shape[-2:]), y.reshape(-1, y.shape[-1])
    for one, target, found in zip(flat_x, flat_y, predictions.reshape(flat_y.shape), strict=True):
        np.testing.assert_allclose(found, by_hand(one, target, case["learner"]), rtol=1e-9, atol=1e-9)


def test_later_examples_are_not_seen() -> None:
    x, y = prompts()
    changed_x, changed_y = x.copy(), y.copy()
    changed_x[:, 3:] += 1
    changed_y[:, 2:] += 1
    before, after = learner_predictions(x, y, learner()), learner_predictions(changed_x, changed_y, learner())
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.all(before[:, 3] != after[:, 3])


def test_a_shorter_prompt_is_a_prefix() -> None:
    x, y = prompts()
    short = learner_predictions(x[:, :2], y[:, :2], learner())
    np.testing.assert_allclose(short, learner_predictions(x, y, learner())[:, :2], rtol=1e-12)


def test_the_last_state_is_what_is_read() -> None:
    x, y = prompts()
    model = learner()._replace(norm=None)
    states = learner_states(x, y, model)
    assert [state.shape for state in states] == [(3, 8, 7)] * 3
    read = model.read_out.weight[0] @ states[-1] + model.read_out.bias
    np.testing.assert_allclose(read[:, ::2], learner_predictions(x, y, model), rtol=1e-12)


def test_the_loss_is_a_mean_over_tasks_and_positions() -> None:
    x, y = prompts()
    expected = np.mean((learner_predictions(x, y, learner()) - y) ** 2)
    assert learner_loss(x, y, learner()) == pytest.approx(expected, rel=1e-14)


def test_training_is_adam_on_fresh_prompts() -> None:
    def sample(rng: np.random.Generator) -> Any:
        return sample_prompts(3, 4, 2, rng)

    trained = train_learner(learner(), sample, 5, Rng(2), learning_rate=1e-2)
    expected, rng = learner(), Rng(2)
    optimizer = adam(cosine_decay(1e-2, 5))
    state = optimizer.init(expected)
    for _ in range(5):
        _, x, y = sample(rng)
        gradient = learner_loss_vjp(x, y, expected)[1](np.ones(()))[2]
        updates, state = optimizer.update(gradient, state)
        expected = apply_updates(expected, updates)
    for found, right in zip(leaves(trained), leaves(expected), strict=True):
        np.testing.assert_array_equal(found, right)


def test_float32_is_kept() -> None:
    single, (x, y) = learner(dtype=np.float32), prompts(dtype=np.float32)
    trained = train_learner(single, lambda rng: sample_prompts(3, 4, 2, rng, dtype=np.float32), 2, Rng(0))
    arrays = [learner_predictions(x, y, single), learner_loss(x, y, single), *learner_states(x, y, single)]
    assert {leaf.dtype for leaf in [*leaves(trained), *arrays]} == {np.dtype(np.float32)}
    assert sample_law("normal*2+1,uniform*3+0", (4,), Rng(0), np.float32).dtype == np.float32


X, Y = prompts()


def without_units() -> Learner:
    return learner()._replace(blocks=[])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_law("cauchy*1+0", (2,), Rng(0)), "law: expected parts such as"),
        (lambda: sample_law("normal*1", (2,), Rng(0)), "law: expected parts such as"),
        (lambda: sample_law("normal*a+0", (2,), Rng(0)), "law: expected parts such as"),
        (lambda: sample_prompts(0, 4, 2, Rng(0)), "n_tasks: expected"),
        (lambda: sample_prompts(1, 0, 2, Rng(0)), "n_points: expected"),
        (lambda: sample_prompts(1, 4, 0, Rng(0)), "n_inputs: expected"),
        (lambda: sample_prompts(1, 4, 2, Rng(0), 0.0), "prior_std: expected"),
        (lambda: sample_prompts(1, 4, 2, Rng(0), 1.0, -1.0), "noise_std: expected"),
        (lambda: initial_learner(4, 2, 1, 6, 4, Rng(0)), "n_heads: expected a divisor"),
        (lambda: initial_learner(0, 2, 1, 8, 4, Rng(0)), "n_points: expected"),
        (lambda: initial_learner(4, 0, 1, 8, 4, Rng(0)), "n_inputs: expected"),
        (lambda: initial_learner(4, 2, 0, 8, 4, Rng(0)), "n_blocks: expected"),
        (lambda: learner_predictions(*prompts(5), learner()), "x: expected at most 4 examples, got 5"),
        (lambda: learner_predictions(X, Y[:, :3], learner()), "y: expected n_points 4"),
        (lambda: learner_predictions(X[..., :1], Y, learner()), "weight: expected"),
        (lambda: learner_predictions(X * np.nan, Y, learner()), "x: expected finite"),
        (lambda: learner_predictions(X, Y, without_units()), "blocks: expected a list of at least one"),
        (lambda: learner_states(X, Y, without_units()), "blocks: expected a list of at least one"),
        (lambda: learner_loss(X, Y, tree_map(lambda leaf: leaf * np.nan, learner())), "expected finite"),
        (lambda: train_learner(learner(), lambda rng: sample_prompts(3, 4, 2, rng), 0, Rng(0)), "n_steps: expected"),
        (
            lambda: train_learner(learner(), lambda rng: sample_prompts(3, 5, 2, rng), 1, Rng(0)),
            "x: expected at most 4",
        ),
        (
            lambda: train_learner(learner(), lambda rng: sample_prompts(3, 4, 2, rng), 1, Rng(0), 0.0),
            "initial: expected|learning_rate: expected",
        ),
    ],
)
def test_bad_input(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
