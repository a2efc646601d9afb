"""The samplers draw from the laws that they state."""

import numpy as np
import pytest

from refimpl.tasks.linear_regression import interleave_prompt, sample_gaussian_tasks, sample_ill_conditioned_tasks

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


@pytest.mark.parametrize("n_inputs", [4, 5])
def test_ill_conditioned_inputs_have_two_scales_along_axes_of_their_own(n_inputs: int) -> None:
    tasks = sample_ill_conditioned_tasks(50, n_inputs, 20_000, 100.0, np.random.default_rng(0))
    covariance = np.swapaxes(tasks.x, -1, -2) @ tasks.x / 20_000
    large = n_inputs // 2
    unit = n_inputs / (100 * large + n_inputs - large)
    wanted = np.repeat([unit, 100 * unit], [n_inputs - large, large])
    # Sample eigenvalues spread by about sqrt(2 d / n) = 2 per cent.
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance) / wanted, 1, atol=0.1)
    np.testing.assert_allclose(np.trace(covariance, axis1=-2, axis2=-1).mean(), n_inputs, rtol=0.02)
    # Uniform axes average out; an entry of one task's covariance, of eigenvalues at most 2.5, deviates by at most 1.
    np.testing.assert_allclose(covariance.mean(axis=0), np.eye(n_inputs), atol=5 / np.sqrt(50))
    np.testing.assert_allclose((tasks.x @ tasks.weights[..., None])[..., 0], tasks.y, atol=1e-12)


def test_ill_conditioned_noise_is_added_to_every_target() -> None:
    tasks = sample_ill_conditioned_tasks(3, 2, 50_000, 9.0, np.random.default_rng(1), noise_std=0.5)
    noise = tasks.y - (tasks.x @ tasks.weights[..., None])[..., 0]
    np.testing.assert_allclose(noise.std(axis=-1), 0.5, rtol=0.03)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"condition_number": 0.5}, "condition_number: expected a number in"),
        ({"noise_std": -1.0}, "noise_std"),
        ({"n_context": 0}, "n_context"),
        ({"n_inputs": 1.5}, "n_inputs"),
    ],
)
def test_ill_conditioned_bad_input(changed: dict[str, object], message: str) -> None:
    arguments = {"n_tasks": 1, "n_inputs": 2, "n_context": 3, "condition_number": 4.0, "rng": np.random.default_rng(0)}
    with pytest.raises(ValueError, match=message):
        sample_ill_conditioned_tasks(**arguments | changed)  # type: ignore[arg-type]


def test_prompts_interleave_inputs_and_padded_targets() -> None:
    x, y, query = np.array([[1.0, 2], [3, 4]]), np.array([5.0, 6]), np.array([7.0, 8])
    np.testing.assert_array_equal(interleave_prompt(x, y, query), [[1, 5, 3, 6, 7], [2, 0, 4, 0, 8]])
    batched = interleave_prompt(*(np.stack([a, 2 * a]).astype(np.float32) for a in (x, y, query)))
    np.testing.assert_array_equal(batched[1], 2 * interleave_prompt(x, y, query))
    assert batched.dtype == np.float32
    with pytest.raises(ValueError, match="y: expected n_context 2"):
        interleave_prompt(x, y[:1], query)
