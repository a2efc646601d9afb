"""Tensors, cubic features and averages over rotations."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from refimpl.incontext.one_step_optimality import (
    EffectiveWeights,
    cubic_features,
    lsa_predict,
    on_products,
    relaxed_least_squares,
    rotate_tensor,
    signed_permutations,
    symmetrised,
    tensor_blocks,
    weights_tensor,
)
from refimpl.tasks.linear_regression import sample_gaussian_tasks
from tests.incontext.one_step_optimality.common import prompt, weights


def test_features_times_the_tensor_are_the_layer() -> None:
    x, y, x_query = prompt(3, 5)
    tensor = weights_tensor(weights(3))
    rows, columns = np.triu_indices(4)
    coefficients = tensor[rows, columns] * np.where(rows == columns, 1, 2)[:, None]
    found = cubic_features(x, y, x_query) @ coefficients.ravel()
    np.testing.assert_allclose(found, lsa_predict(weights(3), x, y, x_query), rtol=1e-12)


def test_least_squares_recovers_a_tensor() -> None:
    tasks = sample_gaussian_tasks(200, 2, 3, 0.5, np.random.default_rng(0))
    targets = lsa_predict(weights(), tasks.x, tasks.y, tasks.x_query)
    fit = relaxed_least_squares(cubic_features(tasks.x, tasks.y, tasks.x_query), targets)
    np.testing.assert_allclose(fit.tensor, weights_tensor(weights()), atol=1e-10)
    assert np.max(fit.standard_error) < 1e-10


def test_a_rotated_tensor_predicts_on_rotated_inputs() -> None:
    x, y, x_query = prompt()
    angle = 0.3
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    value, key_query = weights()
    lifted = np.block([[rotation, np.zeros((2, 1))], [np.zeros((1, 2)), np.ones((1, 1))]])
    turned = EffectiveWeights(lifted.T @ value, lifted.T @ key_query @ rotation)
    np.testing.assert_allclose(
        lsa_predict(turned, x, y, x_query), lsa_predict(weights(), x @ rotation.T, y, x_query @ rotation.T), rtol=1e-12
    )
    np.testing.assert_allclose(rotate_tensor(weights_tensor(weights()), rotation), weights_tensor(turned), atol=1e-14)


def test_signed_permutations_are_a_group_of_orthogonal_matrices() -> None:
    group = signed_permutations(3)
    assert group.shape == (48, 3, 3)
    np.testing.assert_array_equal(group @ np.swapaxes(group, -1, -2), np.broadcast_to(np.eye(3), group.shape))
    keys = {one.tobytes() for one in group + 0.0}
    assert len(keys) == 48
    assert {(group[5] @ one + 0.0).tobytes() for one in group} == keys


def test_the_mean_of_a_step_over_the_group_is_the_step() -> None:
    tensor = weights_tensor(on_products(np.eye(3)))
    np.testing.assert_allclose(symmetrised(tensor, signed_permutations(3)), tensor, atol=1e-16)
    np.testing.assert_array_equal(tensor_blocks(tensor).correlations, np.eye(3))


def test_float32_is_kept() -> None:
    single = weights(dtype=np.float32)
    x, y, x_query = prompt(dtype=np.float32)
    results = [
        cubic_features(x, y, x_query),
        weights_tensor(single),
    ]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cubic_features(np.ones((2, 3)), np.ones(3), np.ones(3)), "y: expected n_context 2"),
        (lambda: relaxed_least_squares(np.ones((5, 3)), np.ones(4)), "targets: expected n_tasks 5"),
        (lambda: relaxed_least_squares(np.ones((3, 3)), np.ones(3)), "features: expected more tasks than the 3"),
        (lambda: relaxed_least_squares(np.ones((9, 4)), np.ones(9)), "features: expected d"),
        (lambda: signed_permutations(7), "n_inputs: expected an integer from 1 to 6"),
    ],
)
def test_bad_arguments(call: Callable[[], Any], message: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        call()
