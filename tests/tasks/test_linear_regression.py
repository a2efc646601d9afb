"""The samplers draw from the laws that they state."""

import numpy as np
import pytest

from refimpl.tasks.linear_regression import sample_gaussian_tasks

COV_X = np.array([[2.0, 0.5], [0.5, 1.0]])
COV_W = np.array([[0.5, -0.2], [-0.2, 0.3]])


def test_gaussian_tasks_have_the_covariances() -> None:
    tasks = sample_gaussian_tasks(100_000, 2, 3, 0.7, np.random.default_rng(0), COV_X, COV_W)
    assert [array.shape for array in tasks] == [(100_000, 3, 2), (100_000, 3), (100_000, 2), (100_000,), (100_000, 2)]
    noise = tasks.y - (tasks.x @ tasks.weights[..., None])[..., 0]
    # An entry of a sample covariance has standard deviation at most sqrt(2/T) of the largest variance.
    tolerance = 5 * np.sqrt(2 / 100_000) * 2
    for rows, expected in [
        (tasks.x[:, 1], COV_X),
        (tasks.x_query, COV_X),
        (tasks.weights, COV_W),
        (noise, 0.49 * np.eye(3)),
        (np.stack([tasks.x[:, 0, 0], tasks.x[:, 1, 0], tasks.weights[:, 0]], 1), np.diag([2.0, 2.0, 0.5])),
    ]:
        np.testing.assert_allclose(rows.T @ rows / len(rows), expected, atol=tolerance)


def test_without_noise_the_targets_are_exact_and_float32_is_kept() -> None:
    tasks = sample_gaussian_tasks(5, 2, 3, 0.0, np.random.default_rng(0), COV_X, dtype=np.float32)
    assert {array.dtype for array in tasks} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(tasks.y, (tasks.x @ tasks.weights[..., None])[..., 0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_tasks": 0}, "n_tasks"),
        ({"n_inputs": 0}, "n_inputs"),
        ({"n_context": 0}, "n_context"),
        ({"noise_std": -0.1}, "noise_std"),
        ({"noise_std": np.inf}, "noise_std"),
        ({"cov_x": np.eye(3)}, "cov_x: expected shape"),
        ({"cov_w": np.array([[1.0, 0.5], [0.0, 1.0]])}, "cov_w: expected a symmetric"),
        ({"cov_w": -np.eye(2)}, "cov_w: expected a positive definite"),
    ],
)
def test_bad_gaussian_tasks(changed: dict[str, object], message: str) -> None:
    arguments = {"n_tasks": 2, "n_inputs": 2, "n_context": 2, "noise_std": 0.1, "rng": np.random.default_rng(0)}
    with pytest.raises(ValueError, match=message):
        sample_gaussian_tasks(**arguments | changed)  # type: ignore[arg-type]
