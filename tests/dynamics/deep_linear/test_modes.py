"""A mode's solutions: pieces that must meet, limits, precision, and what is refused."""

from typing import Any

import numpy as np
import pytest

from refimpl.dynamics.deep_linear import (
    chain_energy,
    chain_gradients,
    learning_time,
    learning_time_infinite_depth,
    learning_time_unbalanced,
    mode_hessian,
    mode_hessian_eigenvalues,
    mode_trajectory,
    mode_trajectory_nonwhite,
    mode_trajectory_unbalanced,
    mode_velocity,
    optimal_learning_rate,
    solution_sharpness,
)

DEPTHS = (1, 2, 3, 4, 7, 30, 100, 1000)


@pytest.mark.parametrize("n_weights", DEPTHS)
def test_times_add_up(n_weights: int) -> None:
    """Over each of the regions that the three series cover, from below and from above."""
    for path in ([1e-6, 0.01, 0.7, 0.76, 1.2, 1.49, 1.4999999], [1e4, 30.0, 2.3, 2.2, 1.8, 1.51, 1.50000001]):
        parts = learning_time(1.5, np.array(path[:-1]), np.array(path[1:]), n_weights)
        assert np.all(parts > 0)
        np.testing.assert_allclose(np.sum(parts), learning_time(1.5, path[0], path[-1], n_weights), rtol=1e-13)


@pytest.mark.parametrize("n_weights", DEPTHS)
def test_the_trajectory_inverts_the_time(n_weights: int) -> None:
    s, u0 = np.array([[0.5], [1.5]]), np.array([1e-3, 0.1, 0.4])
    uf = u0 + (s - u0) * np.array([0.01, 0.6, 0.999])
    np.testing.assert_allclose(mode_trajectory(learning_time(s, u0, uf, n_weights), s, u0, n_weights), uf, rtol=1e-10)
    down = np.array([1e5, 3.0, 1.6])
    end = 1.5 + (down - 1.5) * np.array([1e-4, 0.5, 0.9])
    np.testing.assert_allclose(
        mode_trajectory(learning_time(1.5, down, end, n_weights), 1.5, down, n_weights), end, rtol=1e-11
    )


@pytest.mark.parametrize("n_weights", DEPTHS)
def test_the_trajectory_starts_ends_and_rests_where_it_should(n_weights: int) -> None:
    u0 = np.array([1e-6, 0.3, 1.5, 1.6, 1e4])
    np.testing.assert_allclose(mode_trajectory(0.0, 1.5, u0, n_weights), u0, rtol=1e-14)
    np.testing.assert_allclose(mode_trajectory(1e12, 1.5, u0, n_weights), 1.5, rtol=1e-15)
    assert mode_trajectory(3.0, 1.5, 1.5, n_weights) == 1.5


@pytest.mark.parametrize("n_weights", DEPTHS)
def test_the_trajectory_obeys_its_equation(n_weights: int) -> None:
    t, h = np.linspace(0.05, 2, 20) * float(learning_time(1.5, 0.02, 1.4, n_weights)), 1e-5
    ahead, behind = (mode_trajectory(t * (1 + sign * h), 1.5, 0.02, n_weights) for sign in (1, -1))
    slope = (ahead - behind) / (2 * h * t)
    velocity = mode_velocity(mode_trajectory(t, 1.5, 0.02, n_weights), 1.5, n_weights)
    np.testing.assert_allclose(slope, velocity, rtol=1e-7, atol=1e-6 * np.max(velocity))


def test_close_strengths_lose_no_digits_of_two_matrices() -> None:
    """The logarithm of a ratio near 1 would."""
    gap = 2.0**-40
    expected = gap / mode_velocity(0.5, 1.0, 2)
    np.testing.assert_allclose(learning_time(1.0, 0.5, 0.5 + gap, 2), expected, rtol=1e-11)


def test_infinite_depth_is_the_limit() -> None:
    deep = 10**7 * learning_time(1.5, 0.05, 1.4, 10**7)
    np.testing.assert_allclose(deep, learning_time_infinite_depth(1.5, 0.05, 1.4, 1), rtol=1e-5)


def test_no_imbalance_is_the_logistic_and_a_small_one_is_close() -> None:
    t = np.linspace(0, 10, 30)
    logistic = mode_trajectory(t, 1.5, 0.04, 2)
    np.testing.assert_allclose(mode_trajectory_unbalanced(t, 0.2, 0.2, 1.5), logistic, rtol=1e-14)
    np.testing.assert_allclose(mode_trajectory_unbalanced(t, 0.2 * (1 + 1e-9), 0.2, 1.5), logistic, rtol=1e-8)


def test_unequal_factors_from_below_zero_and_at_rest() -> None:
    t = np.array([0.0, 1.0, 50.0])
    rising = mode_trajectory_unbalanced(t, -0.3, 0.5, 1.5)
    np.testing.assert_allclose(rising[[0, 2]], [-0.15, 1.5])
    np.testing.assert_allclose(mode_trajectory_unbalanced(t, 3.0, 0.5, 1.5), 1.5, rtol=1e-14)
    np.testing.assert_allclose(learning_time_unbalanced(-0.3, 0.5, float(rising[1]), 1.5), 1, rtol=1e-13)
    np.testing.assert_allclose(mode_trajectory_unbalanced(1e9, 0.3, 0.0, 1.5), 1.5)


def test_white_inputs_are_a_case_of_others() -> None:
    t = np.linspace(0, 4, 9)
    for n_weights in (1, 2, 5):
        np.testing.assert_allclose(
            mode_trajectory_nonwhite(t, 2.0, 1.0, 0.1, n_weights), mode_trajectory(t, 2.0, 0.1, n_weights), rtol=1e-14
        )


def test_eigenvalues_of_the_hessian() -> None:
    for n_weights in (1, 2, 5):
        along, across = mode_hessian_eigenvalues(0.8, 1.5, n_weights)
        found = np.linalg.eigvalsh(mode_hessian(0.8, 1.5, n_weights))
        np.testing.assert_allclose(found, np.sort([float(along), *[float(across)] * (n_weights - 1)]), atol=1e-14)
    equal = np.full(5, 1.5 ** (1 / 5))
    np.testing.assert_allclose(solution_sharpness(equal) * optimal_learning_rate(1.5, 5), 1)


def test_chain_gradients_where_a_factor_is_zero() -> None:
    a = np.array([2.0, 0.0, 3.0])
    np.testing.assert_array_equal(chain_gradients(a, 5.0), [0, -30, 0])
    np.testing.assert_array_equal(chain_energy(a, 5.0), 12.5)
    np.testing.assert_array_equal(chain_gradients(np.array([2.0]), 5.0), [-3])


@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_the_dtype_is_kept(dtype: Any) -> None:
    s, u0, uf, t, a = (np.asarray([x], dtype) for x in (1.5, 0.1, 1.2, 2.0, 0.8))
    outputs = [f(s, u0, uf, n) for f in (learning_time, learning_time_infinite_depth) for n in (1, 2, 5)]
    outputs += [mode_trajectory(t, s, u0, n) for n in (1, 2, 5)]
    outputs += [mode_trajectory(t, 1.5, u0, 5, 2.0), mode_velocity(u0, s, 3), optimal_learning_rate(s, 3)]
    outputs += [mode_trajectory_nonwhite(t, s, a, u0, 3), mode_trajectory_unbalanced(t, u0, a, s)]
    outputs += [learning_time_unbalanced(u0, a, uf, s), mode_hessian(a, s, 3), *mode_hessian_eigenvalues(a, s, 3)]
    outputs += [chain_energy(a, 1.5), chain_gradients(a, 1.5), solution_sharpness(a)]
    assert {output.dtype for output in outputs} == {np.dtype(dtype)}


def test_longdouble_has_its_digits() -> None:
    long = [np.longdouble(x) for x in ("1.5", "0.001", "1.4")]
    for n_weights in (3, 10, 100):
        time = learning_time(*long, n_weights)
        back = mode_trajectory(time, long[0], long[1], n_weights)
        assert abs(back / long[2] - 1) < 1e-14
        np.testing.assert_allclose(float(time), learning_time(1.5, 0.001, 1.4, n_weights), rtol=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: learning_time(0.0, 0.1, 0.2, 2), "s: expected numbers > 0, got 0.0"),
        (lambda: learning_time(1.0, 0.0, 0.2, 2), "u0: expected numbers > 0, for 0 is a fixed point"),
        (lambda: learning_time(1.0, -0.1, 0.2, 2), "u0: expected numbers > 0"),
        (lambda: learning_time(1.0, 0.1, 0.05, 3), "uf: expected numbers strictly between u0 and s"),
        (lambda: learning_time(1.0, 0.1, 1.0, 3), "uf: expected numbers strictly between u0 and s"),
        (lambda: learning_time(1.0, 0.1, np.array([0.5, 2.0]), 3), r"uf: .* got 2.0 at index \(1,\)"),
        (lambda: learning_time(1.0, 0.1, 0.2, 0), "n_weights: expected an integer >= 1"),
        (lambda: learning_time(1.0, 0.1, 0.2, 2.0), "n_weights: expected an integer >= 1"),
        (lambda: learning_time(1.0, 0.1, 0.2, 2, 0.0), "tau: expected a number in"),
        (lambda: learning_time(np.nan, 0.1, 0.2, 2), "s: expected finite entries"),
        (lambda: learning_time(np.ones(2), 0.1, np.full(3, 0.5), 2), "s: expected shapes that broadcast"),
        (lambda: learning_time_infinite_depth(1.0, 0.1, 2.0, 2), "uf: expected numbers strictly between"),
        (lambda: mode_trajectory(-1.0, 1.0, 0.1, 2), "t: expected times >= 0"),
        (lambda: mode_trajectory(np.inf, 1.0, 0.1, 2), "t: expected finite entries"),
        (lambda: mode_trajectory_nonwhite(1.0, 1.0, 0.0, 0.1, 2), "eigenvalue: expected numbers > 0"),
        (lambda: mode_trajectory_unbalanced(1.0, 0.5, -0.5, 1.0), "a0: expected a0 other than -b0"),
        (lambda: mode_trajectory_unbalanced(1.0, 0.0, 0.0, 1.0), "a0: expected a0 other than -b0"),
        (lambda: mode_trajectory_unbalanced(1.0, 0.5, 0.5, -1.0), "s: expected numbers > 0"),
        (lambda: learning_time_unbalanced(0.5, 0.5, 0.1, 1.0), "uf: expected numbers strictly between a0 b0 and s"),
        (lambda: mode_velocity(0.1, -1.0, 2), "s: expected numbers > 0"),
        (lambda: mode_hessian(0.0, 1.0, 2), "a: expected numbers > 0"),
        (lambda: mode_hessian_eigenvalues(1.0, 1.0, 0), "n_weights: expected an integer >= 1"),
        (lambda: solution_sharpness(np.array([1.0, 0.0])), "a: expected factors other than 0"),
        (lambda: optimal_learning_rate(0.0, 2), "s: expected numbers > 0"),
        (lambda: chain_gradients(np.ones(3), np.nan), "s: expected finite entries"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
