"""The tree-structured data."""

from typing import Any

import numpy as np
import pytest
import sympy

from refimpl.tasks.hierarchy import hierarchical_correlation, hierarchical_dataset


def test_features_are_signs_that_leaves_inherit() -> None:
    rng = np.random.default_rng(0)
    features = hierarchical_dataset(3, 50, 0.1, rng)
    assert features.shape == (50, 8)
    assert set(np.unique(features)) == {-1.0, 1.0}
    rigid = hierarchical_dataset(3, 50, 0.0, rng)
    np.testing.assert_array_equal(rigid, rigid[:, :1] * np.ones(8))
    assert hierarchical_dataset(0, 5, 0.5, rng).shape == (5, 1)


def test_the_sample_correlation_is_that_of_the_tree() -> None:
    features = hierarchical_dataset(3, 40_000, 0.1, np.random.default_rng(1))
    # A mean of signs has a standard error of at most one over the root of their number.
    assert np.max(np.abs(features @ np.ones(8))) <= 8
    found = features.T @ features / 40_000
    assert np.max(np.abs(found - hierarchical_correlation(3, 0.1))) < 5.5 / 200


def test_the_trees_correlation_is_ultrametric_for_every_probability() -> None:
    epsilon = sympy.Symbol("epsilon", positive=True)
    matrix = hierarchical_correlation(2, epsilon)
    kept = (1 - 2 * epsilon) ** 2
    np.testing.assert_array_equal(matrix[0], [1, kept, kept**2, kept**2])
    np.testing.assert_array_equal(matrix, matrix.T)
    values = np.sort(np.linalg.eigvalsh(hierarchical_correlation(2, 0.1)))
    np.testing.assert_allclose(values, [0.36, 0.36, 1 + 0.64 - 2 * 0.4096, 1 + 0.64 + 2 * 0.4096])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: hierarchical_dataset(-1, 5, 0.1, rng), "depth: expected an integer >= 0"),
        (lambda rng: hierarchical_dataset(2, 0, 0.1, rng), "n_features: expected an integer >= 1"),
        (lambda rng: hierarchical_dataset(2, 5, 0.6, rng), "flip_probability: expected a number in"),
        (lambda rng: hierarchical_correlation(2, -0.1), "flip_probability: expected a number in"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))
