"""Separable data, digits and signed features: what they promise, and bad input."""

from typing import Any

import numpy as np
import pytest

from refimpl.dynamics.large_step_logistic import margin
from refimpl.tasks.classification import digit_pair, sample_separable_data, signed_features


def test_separable_data_keep_their_gap() -> None:
    rng = np.random.default_rng(0)
    for n, d, gap in ((1, 1, 0.5), (30, 1, 1e-3), (200, 4, 0.1), (3, 40, 2.0)):
        data = sample_separable_data(n, d, gap, rng)
        assert data.features.shape == (n, d)
        assert margin(signed_features(*data)).margin >= gap * (1 - 1e-12)


def test_separable_data_are_gaussian_across_the_direction() -> None:
    data = sample_separable_data(4000, 20, 1.0, np.random.default_rng(1))
    assert set(data.labels) == {-1.0, 1.0}
    # Labels are a fair coin's; 4000 of them have a standard deviation of 63. Of each squared norm 19 directions are
    # chi-squared, and the height has (1 + |h|)^2 of mean 2 + 2 sqrt(2/pi).
    assert abs(data.labels.sum()) < 320
    squared = (data.features**2).sum(axis=1)
    assert np.mean(squared) == pytest.approx(19 + 2 + 2 * np.sqrt(2 / np.pi), abs=0.6)


def test_signs() -> None:
    features = np.array([[1.0, 2.0], [3.0, -4.0]], dtype=np.float32)
    for labels in (np.array([1, -1]), np.array([1.0, -1.0]), [1, -1]):
        z = signed_features(features, labels)
        np.testing.assert_array_equal(z, [[1, 2], [-3, 4]])
        assert z.dtype == np.float32
    np.testing.assert_array_equal(signed_features(-features, [-1, 1]), signed_features(features, [1, -1]))


def test_digits_are_two_classes_with_a_constant() -> None:
    data = digit_pair(3, 8)
    assert data.features.shape == (357, 65)
    assert (data.labels == 1).sum() == 183
    assert np.all(data.features[:, -1] == 1)
    assert data.features.min() == 0
    assert data.features.max() == 1
    np.testing.assert_array_equal(signed_features(*digit_pair(8, 3)), -signed_features(*data))


GOOD = np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: signed_features(GOOD, [1, 0]), "labels: expected 1 or -1, got 0 at index 1"),
        (lambda: signed_features(GOOD, [1, 1, 1]), r"labels: expected shape \(2,\)"),
        (lambda: signed_features(GOOD[0], [1, 1, 1]), r"features: expected shape \(n, d\)"),
        (lambda: signed_features(GOOD[:0], []), "features: expected n >= 1"),
        (lambda: signed_features(GOOD * np.nan, [1, 1]), "features: expected finite entries"),
        (lambda: signed_features([[1.0]], [1]), "features: expected an array"),
        (lambda: sample_separable_data(0, 3, 1.0, np.random.default_rng(0)), "n_samples"),
        (lambda: sample_separable_data(3, 0, 1.0, np.random.default_rng(0)), "n_features"),
        (lambda: sample_separable_data(3, 3, 0.0, np.random.default_rng(0)), "gap"),
        (lambda: digit_pair(3, 3), "negative: expected another digit"),
        (lambda: digit_pair(10, 3), "positive: expected an integer from 0 to 9"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
