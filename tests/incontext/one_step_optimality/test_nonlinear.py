"""Nonlinear targets: their moments, their sampler, the linear case among them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from refimpl.incontext.one_step_optimality import (
    TargetMoments,
    nonlinear_learning_rate,
    nonlinear_loss,
    optimal_learning_rate,
    optimal_loss,
    sample_single_index_tasks,
    target_moments,
)
from refimpl.primitives.numbers import Array


@pytest.mark.parametrize(
    ("phi", "expected"),
    [
        (lambda g: np.maximum(g, 0), (0.5, 0.5, 1.5)),
        (lambda g: g, (1, 1, 3)),
        (lambda g: g**3 - 2 * g, (1, 7, 57)),
        (np.abs, (0, 1, 3)),
        (lambda g: 0 * g + 2, (0, 4, 4)),
    ],
)
def test_moments_of_targets(phi: Callable[[Array], Array], expected: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(target_moments(phi), expected, atol=1e-10)


def test_the_identity_is_a_linear_task_of_norm_one() -> None:
    moments = target_moments(lambda g: g)
    # A task of norm 1 is one of unit coordinates over sqrt(d): so is the noise.
    assert nonlinear_learning_rate(moments, 4, 6, 0.5) == pytest.approx(optimal_learning_rate(4, 6, 1.0), rel=1e-9)
    assert 4 * nonlinear_loss(moments, 4, 6, 0.5) == pytest.approx(optimal_loss(4, 6, 1.0), rel=1e-9)


def test_single_index_tasks() -> None:
    tasks = sample_single_index_tasks(np.tanh, 50, 3, 4, 0.0, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(tasks.weights, axis=-1), 1, rtol=1e-14)
    np.testing.assert_allclose(tasks.y, np.tanh(np.einsum("tnd,td->tn", tasks.x, tasks.weights)), rtol=1e-13)
    assert tasks.y_query.shape == (50,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nonlinear_learning_rate(TargetMoments(1.0, 0.5, 1.0), 2, 3, 0.1), "no function has"),
        (lambda: nonlinear_loss(TargetMoments(np.nan, 0.5, 1.0), 2, 3, 0.1), "moments.correlation"),
        (lambda: nonlinear_loss(TargetMoments(0.0, -0.5, 1.0), 2, 3, 0.1), "moments.square"),
        (lambda: nonlinear_learning_rate(TargetMoments(0.5, 0.5, 1.0), 2, 0, 0.1), "n_context"),
        (lambda: target_moments(lambda g: g / 0 * 0), "phi: expected finite"),
        (lambda: target_moments(lambda g: g[:3]), "phi: expected values of shape"),
        (lambda: sample_single_index_tasks(np.abs, 0, 2, 3, 0.1, np.random.default_rng(0)), "n_tasks"),
        (lambda: sample_single_index_tasks(np.abs, 2, 0, 3, 0.1, np.random.default_rng(0)), "n_inputs"),
        (lambda: sample_single_index_tasks(np.abs, 2, 2, 3, -0.1, np.random.default_rng(0)), "noise_std"),
        (lambda: sample_single_index_tasks(np.log, 2, 2, 3, 0.1, np.random.default_rng(0)), "phi: expected finite"),
    ],
)
def test_bad_arguments(call: Callable[[], Any], message: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        call()
