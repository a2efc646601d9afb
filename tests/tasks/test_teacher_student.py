"""The samplers: labels are the teacher's and noise of the variance asked for."""

from typing import Any

import numpy as np
import pytest

from refimpl.primitives.two_layer import two_layer_relu
from refimpl.tasks.teacher_student import sample_linear_problems, sample_relu_problems


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_variances_of_linear_problems() -> None:
    problems = sample_linear_problems(400, 20, 30, 2.0, 0.5, 3.0, rng())
    noise = problems.y - (problems.teacher[:, None] @ problems.x)[:, 0]
    # The variance of n Gaussian numbers is known to a relative (2/n)^1/2; five times that for 8,000 of them.
    for array, variance in ((problems.x, 1 / 20), (problems.teacher, 2.0), (noise, 0.5), (problems.initial, 3.0)):
        assert np.var(array) == pytest.approx(variance, rel=5 * (2 / 8000) ** 0.5)


def test_unseen_inputs_are_noise_of_their_variance() -> None:
    problems = sample_linear_problems(400, 20, 30, 2.0, 0.5, 0.0, rng(), n_unseen=10)
    assert problems.x.shape == (400, 20, 30)
    assert problems.teacher.shape == (400, 20)
    noise = problems.y - (problems.teacher[:, None] @ problems.x)[:, 0]
    # Within a problem the share of the unseen inputs has one teacher: its variance varies by (2/10)^1/2 between 400.
    assert np.var(noise) == pytest.approx(0.5 + 2.0 * 10 / 20, rel=5 * ((2 / 10 + 2 / 30) / 400) ** 0.5)


def test_without_noise_labels_are_the_teachers() -> None:
    problems = sample_linear_problems(3, 5, 7, 1.0, 0.0, 0.0, rng())
    np.testing.assert_allclose(problems.y, (problems.teacher[:, None] @ problems.x)[:, 0], atol=1e-14)
    assert not problems.initial.any()


def test_relu_problems_share_a_teacher_between_training_and_test() -> None:
    clean = sample_relu_problems(4, 3, 2, 50, 60, 0.0, rng())
    noisy = sample_relu_problems(4, 3, 2, 50, 60, 0.25, rng())
    np.testing.assert_array_equal(clean.x, noisy.x)
    np.testing.assert_array_equal(clean.y_test, noisy.y_test)
    assert np.var(noisy.y - clean.y) == pytest.approx(0.25, rel=5 * (2 / 200) ** 0.5)
    # One unit, so that the labels are a multiple of one ramp: those at least of the inputs on its side are not 0.
    single = sample_relu_problems(1, 3, 1, 50, 60, 0.0, rng())
    x = np.concatenate([single.x, single.x_test], axis=-1)[0]
    y = np.concatenate([single.y, single.y_test], axis=-1)[0]
    active = y != 0
    direction = np.linalg.lstsq(x[:, active].T, y[active], rcond=None)[0]
    sign = np.sign(y[active][0])
    expected = two_layer_relu(x.T, sign * direction[None], np.array([sign]))
    np.testing.assert_allclose(y, expected, atol=1e-13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_linear_problems(0, 2, 2, 1.0, 1.0, 1.0, rng()), "n_problems: expected an integer >= 1"),
        (lambda: sample_linear_problems(1, 2, 0, 1.0, 1.0, 1.0, rng()), "n_examples: expected an integer >= 1"),
        (lambda: sample_linear_problems(1, 2, 2, -1.0, 1.0, 1.0, rng()), "signal_variance: expected a number in"),
        (lambda: sample_linear_problems(1, 2, 2, 1.0, -1.0, 1.0, rng()), "noise_variance: expected a number in"),
        (lambda: sample_linear_problems(1, 2, 2, 1.0, 1.0, -1.0, rng()), "init_variance: expected a number in"),
        (lambda: sample_linear_problems(1, 2, 2, 1.0, 1.0, 1.0, rng(), -1), "n_unseen: expected an integer >= 0"),
        (lambda: sample_relu_problems(1, 2, 0, 2, 2, 1.0, rng()), "n_teacher_hidden: expected an integer >= 1"),
        (lambda: sample_relu_problems(1, 2, 2, 2, 2, -1.0, rng()), "noise_variance: expected a number in"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
