"""The stopped runs against the followed iterates, blocks of rows, exact runs, dtypes, and what they refuse."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings

from refimpl.dynamics.large_step_logistic import (
    algorithms,
    batch_perceptron,
    batch_perceptron_weights,
    generalized_perceptron_step,
    iterates,
    logistic_gradient,
    logistic_loss,
    lr_gd,
    lr_gd_weights,
    normalized_batch_perceptron,
    normalized_batch_perceptron_weights,
    normalized_lr_gd,
    normalized_lr_gd_weights,
    perceptron,
    perceptron_weights,
    sample_margins,
    worst_case_dataset,
)
from refimpl.oracle.specs.dynamics.large_step_logistic.setting import separable_sets
from refimpl.tasks.classification import sample_separable_data, signed_features

Array = np.ndarray[Any, Any]
MOST = 10**5


def separable(n: int = 40, d: int = 4, seed: int = 0, gap: float = 0.05) -> Array:
    return signed_features(*sample_separable_data(n, d, gap, np.random.default_rng(seed)))


RUNS: dict[str, tuple[Callable[[Array], Any], Callable[[Array, int], Array]]] = {
    "lr_gd": (lambda z: lr_gd(z, 30.0, MOST), lambda m, t: lr_gd_weights(m, 30.0)),
    "normalized_lr_gd": (lambda z: normalized_lr_gd(z, 0.3, MOST), lambda m, t: normalized_lr_gd_weights(m, 0.3)),
    "batch_perceptron": (lambda z: batch_perceptron(z, MOST), batch_perceptron_weights),
    "normalized_batch_perceptron": (
        lambda z: normalized_batch_perceptron(z, MOST),
        lambda m, t: normalized_batch_perceptron_weights(m),
    ),
    "first": (lambda z: perceptron(z, MOST), lambda m, t: perceptron_weights(m)),
    "worst": (lambda z: perceptron(z, MOST, "worst"), lambda m, t: perceptron_weights(m, "worst")),
}
each_run = pytest.mark.parametrize("name", RUNS)


@each_run
@settings(max_examples=25, deadline=None, derandomize=True)
@given(z=separable_sets())
def test_a_run_stops_at_the_first_iterate_that_is_right(name: str, z: Array) -> None:
    run, weights = RUNS[name]
    found = run(z)
    path = iterates(z, weights, found.n_iterations)
    right = sample_margins(path, z) > 0
    assert found.solved
    assert found.n_iterations >= 1
    assert not np.any(np.all(right[:-1], axis=1))
    assert np.all(right[-1])
    np.testing.assert_allclose(found.theta, path[-1], rtol=1e-9, atol=1e-9 * np.max(np.abs(path)))
    np.testing.assert_allclose(found.accuracies, right.mean(axis=1), atol=1e-15)


@pytest.mark.parametrize("name", ["lr_gd", "normalized_lr_gd"])
def test_losses_and_gradients_are_those_of_the_iterates(name: str) -> None:
    run, weights = RUNS[name]
    z = separable()
    found = run(z)
    path = iterates(z, weights, found.n_iterations)
    np.testing.assert_allclose(found.losses, logistic_loss(path, z), rtol=1e-10)
    norms = np.linalg.norm(logistic_gradient(path, z), axis=1)
    np.testing.assert_allclose(found.gradient_norms, norms, rtol=1e-10)


@each_run
def test_blocks_of_rows_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = RUNS[name]
    whole = run(separable())
    monkeypatch.setattr(algorithms, "BLOCK", 4 * 7)
    monkeypatch.setattr(algorithms, "TOGETHER", 3)
    parts = run(separable())
    assert parts.n_iterations == whole.n_iterations
    for a, b in zip(parts, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


@each_run
def test_float32_is_kept(name: str) -> None:
    run, weights = RUNS[name]
    z = separable(gap=0.5).astype(np.float32)
    found = run(z)
    assert found.solved
    arrays = [value for value in found if isinstance(value, np.ndarray)]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}
    assert iterates(z, weights, 3).dtype == np.float32


def test_a_numpy_step_size_promotes_nothing() -> None:
    z, margins = separable(gap=0.5).astype(np.float32), np.ones(3, dtype=np.float32)
    for run, weights in ((lr_gd, lr_gd_weights), (normalized_lr_gd, normalized_lr_gd_weights)):
        assert run(z, np.float64(0.1), 50).theta.dtype == np.float32
        assert weights(margins, np.float64(0.1)).dtype == np.float32


def test_a_run_gives_up_at_the_largest_number_of_iterations() -> None:
    z = signed_features(*worst_case_dataset(100))
    for found in (lr_gd(z, 1e6, 30), batch_perceptron(z, 30), lr_gd(z, 1.0, 1)):
        assert not found.solved
        assert found.accuracies[-1] < 1
    assert batch_perceptron(z, 30).n_iterations == 30
    assert batch_perceptron(z, 31).solved
    both = np.array([[1.0, 0.0], [-1.0, 0.0]])  # not separable
    assert not perceptron(both, 20).solved
    assert not normalized_batch_perceptron(both, 20).solved


def test_a_start_that_is_right_stays() -> None:
    z = separable()
    solution = batch_perceptron(z, MOST).theta
    for run in (lr_gd, normalized_lr_gd):
        found = run(z, 1.0, 10, solution)
        assert found.n_iterations == 0
        assert len(found.losses) == 1
        np.testing.assert_array_equal(found.theta, solution)
        assert run(z, 1.0, MOST, -solution).solved


@settings(max_examples=20, deadline=None, derandomize=True)
@given(z=separable_sets(largest=8, least_gap=0.1))
def test_exact_rationals_decide_as_floats_do(z: Array) -> None:
    """Of random floats no margin is 0 by chance, and none here near enough to it for roundoff to matter."""
    exact = np.array([[Fraction(entry) for entry in row] for row in z], dtype=object)
    for run in (batch_perceptron, normalized_batch_perceptron, perceptron):
        in_floats, in_rationals = run(z, 60), run(exact, 60)
        assert in_rationals.n_iterations == in_floats.n_iterations
        assert all(isinstance(entry, Fraction) for entry in in_rationals.theta)
        np.testing.assert_allclose(in_rationals.theta.astype(float), in_floats.theta, rtol=1e-9, atol=1e-12)


def test_iterates_of_symbols_and_of_batches() -> None:
    gamma = sympy.Symbol("gamma", positive=True)
    z = np.array([[sympy.Rational(1, 2), sympy.Integer(-1)]], dtype=object)
    path = iterates(z, lambda m, t: normalized_lr_gd_weights(m, gamma), 2)
    assert [sympy.simplify(entry) for entry in path[2]] == [gamma, -2 * gamma]
    floats, starts = separable(), np.random.default_rng(3).standard_normal((5, 4))
    rates = np.array([[0.1], [1.0], [10.0], [100.0], [1000.0]])
    together = iterates(floats, lambda m, t: lr_gd_weights.unchecked(m, rates), 6, starts)
    for i in range(5):
        alone = iterates(floats, lambda m, t, i=i: lr_gd_weights(m, float(rates[i, 0])), 6, starts[i])
        np.testing.assert_allclose(together[:, i], alone, rtol=1e-9, atol=1e-9)


def test_weights_at_extreme_margins() -> None:
    margins = np.array([1e300, 800.0, 0.0, -1e300])
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(lr_gd_weights(margins, 1.0), [0, 0, 0.125, 0.25])
        np.testing.assert_allclose(normalized_lr_gd_weights(margins, 3.0), [0, 0, 1, 2], rtol=1e-15)
        # All right by far, where p itself underflows: the nearest ones share the step.
        np.testing.assert_allclose(normalized_lr_gd_weights(np.array([2e3, 2e3, 5e3]), 1.0), [0.5, 0.5, 0])
        large = np.array([[1e100, 0.0], [1e90, 1.0]])
        assert normalized_lr_gd(large, 1e50, 5).solved
    np.testing.assert_array_equal(batch_perceptron_weights(margins, 0), [0, 0, 0.125, 0.125])
    np.testing.assert_array_equal(batch_perceptron_weights(margins, 3), [0, 0, 0.25, 0.25])
    np.testing.assert_array_equal(normalized_batch_perceptron_weights(margins), [0, 0, 0.5, 0.5])
    np.testing.assert_array_equal(perceptron_weights(margins), [0, 0, 1, 0])
    np.testing.assert_array_equal(perceptron_weights(margins, "worst"), [0, 0, 0, 1])
    np.testing.assert_array_equal(normalized_batch_perceptron_weights(np.ones(3)), np.zeros(3))
    np.testing.assert_array_equal(perceptron_weights(np.ones((2, 3)), "worst"), np.zeros((2, 3)))


def test_the_random_selection_is_uniform_over_the_wrong_ones() -> None:
    rng = np.random.default_rng(0)
    margins = np.tile([1.0, -1.0, 0.0, -5.0, 2.0], (30_000, 1))
    counts = perceptron_weights(margins, "random", rng).sum(axis=0)
    assert counts[0] == counts[4] == 0
    # Binomial(30000, 1/3): standard deviation 82.
    np.testing.assert_allclose(counts[1:4], 10_000, atol=500)
    z = separable()
    again = [perceptron(z, MOST, "random", np.random.default_rng(7)) for _ in range(2)]
    assert again[0].n_iterations == again[1].n_iterations
    assert again[0].solved


def linear(theta: Array, features: Array) -> tuple[Array, Any]:
    return features @ theta, lambda cotangent: (cotangent @ features,)


def test_the_generalized_perceptron_of_a_linear_model_is_the_batch_perceptron() -> None:
    data = sample_separable_data(30, 3, 0.05, np.random.default_rng(2))
    z = signed_features(*data)
    theta = np.random.default_rng(3).standard_normal(3)
    for _ in range(5):
        following = generalized_perceptron_step(theta, *data, linear)
        expected = theta + batch_perceptron_weights(sample_margins(theta, z), 1) @ z
        np.testing.assert_allclose(following, expected, rtol=1e-13)
        theta = following


def test_the_generalized_perceptron_learns_what_is_not_linear() -> None:
    """A sum of squares with signs: homogeneous, so that a step along a sample's gradient raises its own margin."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 2))
    heights = features[:, 0] * features[:, 1]
    features, heights = features[np.abs(heights) > 0.1], heights[np.abs(heights) > 0.1]

    def squares(params: dict[str, Array], features: Array) -> tuple[Array, Any]:
        plus, minus = features @ params["plus"], features @ params["minus"]

        def pullback(cotangent: Array) -> tuple[dict[str, Array], None]:
            to_plus, to_minus = 2 * cotangent * plus, -2 * cotangent * minus
            return {"plus": to_plus @ features, "minus": to_minus @ features}, None

        return plus * plus - minus * minus, pullback

    params = {"plus": np.array([1.0, 0.1]), "minus": np.array([0.2, 1.0])}
    for _ in range(300):
        following = generalized_perceptron_step(params, features, np.sign(heights), squares)
        if all(np.array_equal(following[name], params[name]) for name in params):
            break
        params = following
    assert np.all(squares(params, features)[0] * heights > 0)


GOOD = np.array([[1.0, 0.0], [0.5, 1.0]])


EVERY = (
    partial(lr_gd, step_size=1.0),
    partial(normalized_lr_gd, step_size=1.0),
    batch_perceptron,
    normalized_batch_perceptron,
    perceptron,
)


@pytest.mark.parametrize("run", EVERY, ids=["lr_gd", "normalized_lr_gd", "batch", "normalized_batch", "perceptron"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"z": GOOD[0]}, r"z: expected shape \(n, d\)"),
        ({"z": GOOD[:0]}, "z: expected n >= 1"),
        ({"z": GOOD * np.nan}, "z: expected finite entries"),
        ({"z": [[1.0]]}, "z: expected an array"),
        ({"z": np.array([[1, 2]])}, "z: expected a floating-point array"),
        ({"z": np.array([[1.0, 0.0], [0.0, 0.0]])}, "z: expected rows that are not zero.*at 1"),
        ({"max_iterations": 0}, "max_iterations: expected an integer >= 1"),
        ({"max_iterations": 2.5}, "max_iterations: expected an integer >= 1"),
    ],
)
def test_bad_data(run: Any, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(**{"z": GOOD, "max_iterations": 10} | changed)


@pytest.mark.parametrize("run", [lr_gd, normalized_lr_gd])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"step_size": 0.0}, r"step_size: expected a number in \(0, inf\)"),
        ({"step_size": -1.0}, "step_size: expected a number"),
        ({"step_size": float("nan")}, "step_size: expected a number"),
        ({"step_size": float("inf")}, "step_size: expected a finite number > 0, got inf; .* batch_perceptron"),
        ({"theta0": np.ones(3)}, "theta0: expected d 2"),
        ({"theta0": np.full(2, np.nan)}, "theta0: expected finite"),
        ({"z": np.array([[sympy.Integer(1), sympy.Integer(2)]], dtype=object)}, "z: expected a floating-point array"),
    ],
)
def test_bad_descent(run: Any, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(**{"z": GOOD, "step_size": 1.0, "max_iterations": 10} | changed)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: perceptron(GOOD, 10, "best"), "selection: expected one of first, random, worst, got 'best'"),  # type: ignore[arg-type]
        (lambda: perceptron(GOOD, 10, "random"), "rng: expected a numpy.random.Generator"),
        (lambda: perceptron_weights(np.ones(2), "random"), "rng: expected a numpy.random.Generator"),
        (lambda: perceptron_weights(np.ones(0)), "margins: expected n >= 1"),
        (lambda: lr_gd_weights(np.array([np.nan]), 1.0), "margins: expected finite"),
        (lambda: normalized_lr_gd_weights(np.ones(2), float("inf")), "step_size: expected a finite number"),
        (lambda: batch_perceptron_weights(np.ones(2), -1), "step: expected an integer >= 0"),
        (lambda: iterates(GOOD, batch_perceptron_weights, -1), "n_steps: expected an integer >= 0"),
        (lambda: iterates(GOOD, batch_perceptron_weights, 1, np.ones(3)), "theta0: expected d 2"),
        (lambda: iterates(0 * GOOD, batch_perceptron_weights, 1), "z: expected rows that are not zero"),
        (lambda: generalized_perceptron_step(np.ones(2), GOOD, np.ones(3), linear), "labels: expected n 2|broadcast"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
