"""Prompts from real rows: what they hold, and bad input."""

import numpy as np
import pytest

from refimpl.tasks.real_data import descriptions, diabetes_prompts, digit_images


def test_every_prompt_holds_different_standardised_patients() -> None:
    tasks = diabetes_prompts(50, 441, np.random.default_rng(0))
    assert [array.shape for array in tasks] == [(50, 10, 441), (50, 1, 441), (50, 10), (50, 1)]
    rows = np.concatenate([tasks.x, tasks.x_query[..., None]], axis=-1)
    targets = np.concatenate([tasks.y, tasks.y_query[..., None]], axis=-1)
    np.testing.assert_allclose(rows.mean(axis=-1), 0, atol=1e-12)
    np.testing.assert_allclose((rows**2).mean(axis=-1), 1, atol=1e-12)
    np.testing.assert_allclose(targets.std(axis=-1), 1, atol=1e-12)
    # All 442 patients are in every prompt, in an order of its own.
    np.testing.assert_array_equal(np.sort(rows[0, 0]), np.sort(rows[1, 0]))
    assert np.any(rows[0, 0] != rows[1, 0])


def test_features_and_targets_stay_together() -> None:
    small, large = diabetes_prompts(1, 5, np.random.default_rng(0)), diabetes_prompts(1, 441, np.random.default_rng(1))
    by_features = {tuple(x): y for x, y in zip(large.x[0].T, large.y[0, 0], strict=True)}
    by_features[tuple(large.x_query[0])] = large.y_query[0, 0]
    assert [by_features[tuple(x)] for x in small.x[0].T] == list(small.y[0, 0])


@pytest.mark.parametrize(
    ("n_tasks", "n_context", "name"), [(0, 5, "n_tasks"), (1, 0, "n_context"), (1, 442, "n_context")]
)
def test_bad_sizes(n_tasks: int, n_context: int, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        diabetes_prompts(n_tasks, n_context, np.random.default_rng(0))


def test_only_the_named_patients_are_drawn_and_each_is_the_query_equally_often() -> None:
    rng = np.random.default_rng(0)
    everyone = diabetes_prompts(1, 441, rng)
    known = {tuple(x) for x in everyone.x[0].T} | {tuple(everyone.x_query[0])}
    tasks = diabetes_prompts(4000, 3, rng, patients=np.array([5, 17, 100, 3, 441]))
    drawn = {tuple(x) for x in np.moveaxis(tasks.x, 1, -1).reshape(-1, 10)}
    assert len(drawn) == 5
    assert drawn < known
    counts = [np.sum(np.all(tasks.x_query == x, axis=-1)) for x in drawn]
    # Each count is binomial(4000, 1/5), of standard deviation 25.
    np.testing.assert_allclose(counts, 800, atol=130)


@pytest.mark.parametrize("patients", [[3], [3, 3, 4], [0, 442], [-1, 4], [0.0, 1.0], [[0, 1]]])
def test_bad_patients(patients: list[int]) -> None:
    with pytest.raises(ValueError, match="patients"):
        diabetes_prompts(1, 1, np.random.default_rng(0), patients=np.array(patients))


def test_descriptions_are_texts_of_some_length() -> None:
    texts = descriptions()
    assert all(len(text) > 500 for text in texts)
    assert sum(map(len, texts)) > 10_000


def test_digit_images_are_grey_values_with_their_classes() -> None:
    images, labels = digit_images()
    assert images.shape == (1797, 64)
    assert (images.min(), images.max()) == (0, 1)
    assert np.bincount(labels).min() > 170
    # The first image of the data set is a zero: empty in its middle.
    assert labels[0] == 0
    assert images[0].reshape(8, 8)[3:5, 3:5].max() < 0.1
