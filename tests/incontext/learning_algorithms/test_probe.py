"""The probe: its formula, the fits, what it is asked for, bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from refimpl.incontext.learning_algorithms import (
    PositionAttentionProbe,
    fit_linear_probe,
    initial_probe,
    position_attention_probe,
    position_attention_probe_vjp,
    prefix_targets,
    train_probe,
)
from refimpl.primitives.least_squares import ols_weights
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import leaves, tree_map

Rng = np.random.default_rng
ROWS, COLUMNS = 4, 3


def states(n_tasks: int = 50, dtype: Any = np.float64) -> Array:
    return Rng(0).standard_normal((n_tasks, ROWS, COLUMNS)).astype(dtype)


def probe(n_hidden: int | None = None, dtype: Any = np.float64) -> PositionAttentionProbe:
    drawn = initial_probe(COLUMNS, ROWS, 2, Rng(1), n_hidden, dtype)
    return drawn._replace(scores=np.array([0.5, -1.0, 0.25], dtype))


def test_a_linear_probe_reads_a_mean_of_columns() -> None:
    params = probe()
    weights = np.exp(params.scores) / np.exp(params.scores).sum()
    layer = params.layers[0]
    expected = np.einsum("ov,vr,brt,t->bo", layer.weight, params.value, states(), weights) + layer.bias
    np.testing.assert_allclose(position_attention_probe(states(), params), expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(position_attention_probe_vjp(states(), params)[0].shape, (50, 2))


def test_a_perceptron_reads_as_many_values_as_it_has_units() -> None:
    params = probe(7)
    assert [layer.weight.shape for layer in params.layers] == [(7, 7), (2, 7)]
    assert params.value.shape == (7, ROWS)
    assert position_attention_probe(states()[0], params).shape == (2,)


def test_the_fitted_probe_is_least_squares_on_one_column() -> None:
    hidden, target = states(), Rng(2).standard_normal((50, 2))
    found = position_attention_probe(hidden, fit_linear_probe(hidden, target, 1))
    features = np.concatenate([hidden[..., 1], np.ones((50, 1))], axis=1)
    np.testing.assert_allclose(found, features @ np.linalg.lstsq(features, target)[0], rtol=1e-9, atol=1e-10)


def test_rows_of_any_size_repeated_or_constant_do_not_disturb_the_fit() -> None:
    hidden = states()
    target = hidden[:, :2, 2] @ np.array([[1.0, 2.0], [3.0, -1.0]]) + 0.5
    hidden[:, 0] *= 1e8
    hidden[:, 3] = hidden[:, 1]
    hidden[:, 2] = 1e-3
    probe_of_all = fit_linear_probe(hidden[:30], target[:30], 2)
    np.testing.assert_allclose(position_attention_probe(hidden[30:], probe_of_all), target[30:], rtol=1e-9, atol=1e-9)
    hidden[:, 2] = 0
    np.testing.assert_allclose(
        position_attention_probe(hidden[30:], fit_linear_probe(hidden[:30], target[:30], 2)), target[30:], atol=1e-9
    )


def test_training_finds_the_column_and_the_map() -> None:
    hidden = states(2000)
    target = hidden[:, :2, 1] - 2 * hidden[:, 2:, 1]
    start = initial_probe(COLUMNS, ROWS, 2, Rng(1))
    before = np.mean((position_attention_probe(hidden, start) - target) ** 2)
    trained = train_probe(start, hidden, target, 1500, Rng(3), learning_rate=2e-2)
    assert np.argmax(trained.scores) == 1
    assert np.mean((position_attention_probe(hidden, trained) - target) ** 2) < 1e-3 * before


def test_targets_of_every_prefix() -> None:
    x, y = Rng(0).standard_normal((3, 5, 2)), Rng(1).standard_normal((3, 5))
    moments, weights = prefix_targets(x, y)
    for n in range(1, 6):
        np.testing.assert_allclose(moments[:, n - 1], np.einsum("tnd,tn->td", x[:, :n], y[:, :n]), rtol=1e-12)
        np.testing.assert_allclose(weights[:, n - 1], ols_weights(x[:, :n], y[:, :n]), rtol=1e-12)


def test_float32_is_kept() -> None:
    hidden, target = states(dtype=np.float32), np.ones((50, 2), np.float32)
    params = probe(5, np.float32)
    results = [
        position_attention_probe(hidden, params),
        *leaves(fit_linear_probe(hidden, target, 0)),
        *leaves(train_probe(params, hidden, target, 2, Rng(0))),
        *prefix_targets(hidden, hidden[..., 0]),
    ]
    assert {leaf.dtype for leaf in results} == {np.dtype(np.float32)}


H, TARGET = states(), np.ones((50, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: position_attention_probe(H[:, :2], probe()), "n_rows"),
        (lambda: position_attention_probe(H[..., :2], probe()), "n_columns"),
        (lambda: position_attention_probe(H * np.nan, probe()), "hidden: expected finite"),
        (lambda: position_attention_probe_vjp(H, tree_map(lambda a: a * np.nan, probe())), "expected finite"),
        (lambda: position_attention_probe(H, probe()._replace(layers=[])), "layers: expected a list"),
        (lambda: position_attention_probe(H, probe()._replace(layers=probe(5).layers)), "expected"),
        (lambda: initial_probe(0, 1, 1, Rng(0)), "n_columns: expected"),
        (lambda: initial_probe(1, 0, 1, Rng(0)), "n_rows: expected"),
        (lambda: initial_probe(1, 1, 0, Rng(0)), "n_target: expected"),
        (lambda: initial_probe(1, 1, 1, Rng(0), 0), "n_hidden: expected"),
        (lambda: fit_linear_probe(H, TARGET[:4], 0), "target: expected n_tasks 50"),
        (lambda: fit_linear_probe(H, TARGET, 3), "column: expected"),
        (lambda: fit_linear_probe(H, TARGET, -1), "column: expected"),
        (lambda: fit_linear_probe(H, TARGET * np.inf, 0), "target: expected finite"),
        (lambda: train_probe(probe(), H, TARGET[:, :1], 1, Rng(0)), "expected n_target 1"),
        (lambda: train_probe(probe(), H, TARGET[:3], 1, Rng(0)), "target: expected n_tasks 50"),
        (lambda: train_probe(probe(), H, TARGET, 0, Rng(0)), "n_steps: expected"),
        (lambda: train_probe(probe(), H, TARGET, 1, Rng(0), batch_size=0), "batch_size: expected"),
        (lambda: prefix_targets(H, H[:, :2, 0]), "y: expected n 4"),
        (lambda: prefix_targets(H * np.nan, H[..., 0]), "x: expected finite"),
    ],
)
def test_bad_input(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
