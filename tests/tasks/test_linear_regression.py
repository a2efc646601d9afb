"""The samplers draw from the laws that they state."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from refimpl.tasks.linear_regression import (
    RegressionTasks,
    check_tasks,
    gaussian_moments,
    interleave_prompt,
    replace_targets,
    sample_gaussian_tasks,
    sample_ill_conditioned_tasks,
    sample_linear_tasks,
    sample_out_of_distribution_tasks,
    uniform_moments,
)

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


def test_uniform_tasks_fill_their_interval_and_are_noiseless() -> None:
    tasks = sample_linear_tasks(5_000, 3, 8, 0.5, 2.0, np.random.default_rng(0), n_outputs=2)
    assert [array.shape for array in tasks] == [(5_000, 3, 8), (5_000, 2, 8), (5_000, 3), (5_000, 2)]
    for inputs in (tasks.x, tasks.x_query):
        assert stats.kstest(inputs.ravel(), stats.uniform(-0.5, 1).cdf).pvalue > 1e-6
    # Three inputs and eight points determine the map, which then gives the query's target too.
    maps = np.linalg.lstsq(tasks.x[0].T, tasks.y[0].T, rcond=None)[0].T
    np.testing.assert_allclose(maps @ tasks.x[0], tasks.y[0], atol=1e-12)
    np.testing.assert_allclose(maps @ tasks.x_query[0], tasks.y_query[0], atol=1e-12)
    # Per coordinate of x, of variance 1/12, a target has variance 4/12.
    assert abs(np.mean(tasks.y_query**2) - 1) < 0.1


def test_moments_are_those_of_the_law() -> None:
    inputs = sample_linear_tasks(50_000, 2, 1, 0.7, 1.0, np.random.default_rng(0)).x.ravel()
    for law, moments in [
        (inputs, uniform_moments(0.7)),
        (1.5 * np.random.default_rng(1).standard_normal(100_000), gaussian_moments(1.5)),
    ]:
        for power, moment in zip((2, 4), moments, strict=True):
            assert abs(np.mean(law**power) - moment) < 5 * stats.sem(law**power)


def test_out_of_distribution_contexts_have_the_stated_norm_and_three_laws() -> None:
    tasks = sample_out_of_distribution_tasks(3_000, 5, 20, 0.5, 1.0, np.random.default_rng(0))
    np.testing.assert_allclose((tasks.x**2).sum(axis=(-1, -2)), 0.25, rtol=1e-12)
    inputs = np.concatenate([tasks.x, tasks.x_query[..., None]], axis=-1).reshape(3_000, -1)
    # Exponential inputs are all positive: a third of the tasks, within 5 standard deviations.
    one_sided = np.all(inputs > 0, axis=-1)
    assert abs(one_sided.mean() - 1 / 3) < 5 * np.sqrt(2 / 9 / 3_000)
    # The others are half Gaussian, of kurtosis 0, and half Laplacian, of kurtosis 3.
    two_sided = stats.kurtosis(inputs[~one_sided], axis=-1)
    assert 0.3 < np.mean(two_sided > 1) < 0.6
    np.testing.assert_allclose(stats.kurtosis(inputs[~one_sided].ravel()), 1.5, atol=0.3)


def test_distractors_replace_the_targets_of_some_points_and_nothing_else() -> None:
    tasks = sample_linear_tasks(2_000, 3, 8, 0.5, 1.0, np.random.default_rng(0), n_outputs=2)
    changed = replace_targets(tasks, 3, np.random.default_rng(1))
    replaced = changed.y != tasks.y
    assert np.all(replaced.all(axis=-2) == replaced.any(axis=-2))
    assert np.all(replaced[:, 0].sum(axis=-1) == 3)
    assert stats.kstest(changed.y[replaced], stats.norm.cdf).pvalue > 1e-6
    assert abs(replaced[:, 0, 0].mean() - 3 / 8) < 5 * np.sqrt(15 / 64 / 2_000)
    for name in ("x", "x_query", "y_query"):
        assert getattr(changed, name) is getattr(tasks, name)
    assert np.array_equal(replace_targets(tasks, 0, np.random.default_rng(1)).y, tasks.y)


@pytest.mark.parametrize("sampler", [sample_linear_tasks, sample_out_of_distribution_tasks])
def test_prompts_in_single_precision(sampler: Callable[..., RegressionTasks]) -> None:
    tasks = sampler(7, 3, 4, 0.5, 1.0, np.random.default_rng(0), dtype=np.float32)
    changed = replace_targets(tasks, 2, np.random.default_rng(0))
    assert {array.dtype for array in (*tasks, *changed)} == {np.dtype(np.float32)}
    assert {array.dtype for array in tasks.astype(np.longdouble)} == {np.dtype(np.longdouble)}
    check_tasks(tasks)


@pytest.mark.parametrize("sampler", [sample_linear_tasks, sample_out_of_distribution_tasks])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_tasks": 0}, "n_tasks"),
        ({"n_inputs": -1}, "n_inputs"),
        ({"n_context": 0}, "n_context"),
        ({"n_outputs": 0}, "n_outputs"),
        ({"input_scale": 0.0}, "input_scale"),
        ({"weight_scale": np.inf}, "weight_scale"),
        ({"dtype": np.float16}, "dtype: expected float32 or float64, got float16"),
    ],
)
def test_bad_linear_tasks(sampler: Callable[..., RegressionTasks], changed: dict[str, Any], message: str) -> None:
    arguments = {"n_tasks": 2, "n_inputs": 2, "n_context": 2, "input_scale": 0.5, "weight_scale": 1.0}
    with pytest.raises(ValueError, match=message):
        sampler(**arguments | {"rng": np.random.default_rng(0)} | changed)


def test_tasks_that_do_not_fit() -> None:
    tasks = sample_linear_tasks(3, 2, 4, 0.5, 1.0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="y: expected n_context 4"):
        check_tasks(tasks._replace(y=tasks.y[..., :3]))
    with pytest.raises(ValueError, match="y_query: expected batch axes"):
        check_tasks(tasks._replace(y_query=tasks.y_query[:2]))
    with pytest.raises(ValueError, match="expected at least one task"):
        check_tasks(RegressionTasks(*(array[:0] for array in tasks)))
    with pytest.raises(ValueError, match="n_distractors: expected an integer from 0 to 4"):
        replace_targets(tasks, 5, np.random.default_rng(0))
    with pytest.raises(ValueError, match="half_width"):
        uniform_moments(0.0)
