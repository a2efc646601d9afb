"""The margin from its dual, the loss far out, the curvature by other routes, and what the bounds refuse."""

from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from scipy.optimize import minimize

from refimpl.dynamics.large_step_logistic import (
    batch_perceptron_bound,
    batch_perceptron_bound_tight,
    hessian_vector_product,
    logistic_gradient,
    logistic_hessian,
    logistic_loss,
    lr_gd_bound,
    margin,
    normalized_lr_gd_bound,
    normalized_margin,
    perceptron_bound,
    radius,
    sample_margins,
    smoothness,
    theorem_4_1_dataset,
    worst_case_dataset,
    worst_case_iterations,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.dynamics.large_step_logistic.loss import points
from refimpl.oracle.specs.dynamics.large_step_logistic.setting import separable_sets
from refimpl.tasks.classification import digit_pair, signed_features

Array = np.ndarray[Any, Any]


def distance_of_the_hull(z: Array) -> float:
    """The distance to the origin of the convex hull of the rows, by a general solver."""
    n = len(z)
    gram = z @ z.T
    found = minimize(
        lambda a: a @ gram @ a,
        np.full(n, 1 / n),
        jac=lambda a: 2 * gram @ a,
        bounds=[(0, None)] * n,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": lambda a: np.ones(n)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    return float(np.sqrt(max(found.fun, 0)))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(z=separable_sets(largest=12, least_gap=0.1))
def test_the_margin_is_the_distance_of_the_hull(z: Array) -> None:
    found = margin(z)
    assert found.margin == pytest.approx(distance_of_the_hull(z), rel=1e-4)
    assert np.linalg.norm(found.direction) == pytest.approx(1, rel=1e-14)
    assert np.min(z @ found.direction) == found.margin
    assert normalized_margin(found.direction, z) == pytest.approx(found.margin, rel=1e-14)


def test_known_margins() -> None:
    for n in (1, 2, 5, 100):
        z = signed_features(*worst_case_dataset(n))
        expected = 0.5 if n > 1 else 1.25**0.5
        assert margin(z).margin == pytest.approx(expected, rel=1e-14)
        assert radius(z) == pytest.approx(1.25**0.5, rel=1e-15)
    np.testing.assert_allclose(margin(signed_features(*worst_case_dataset(5))).direction, [1, 0], atol=1e-14)
    digits = signed_features(*digit_pair(3, 8))
    assert margin(digits).margin == pytest.approx(0.2077, abs=1e-4)
    assert radius(digits) == pytest.approx(4.709, abs=1e-3)


@pytest.mark.parametrize("scale", [1e-150, 1e-3, 1.0, 1e9, 1e140])
def test_a_tiny_margin_is_found_at_any_scale(scale: float) -> None:
    wide = np.array([[1.0, 1e-5], [-1.0, 1e-5], [0.3, 1.0]]) * scale
    found = margin(wide)
    assert found.margin == pytest.approx(1e-5 * scale, rel=1e-9)
    np.testing.assert_allclose(found.direction, [0, 1], atol=1e-9)


@pytest.mark.parametrize(
    "z", [[[1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]], [[0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]]
)
def test_data_that_are_not_separable_have_no_margin(z: Any) -> None:
    found = margin(np.array(z))
    assert found.margin == 0
    np.testing.assert_array_equal(found.direction, 0)
    with pytest.raises(ValueError, match="margin: expected that of separable data"):
        perceptron_bound(1.0, found.margin)


def test_float32_is_kept() -> None:
    z = signed_features(*digit_pair(3, 8)).astype(np.float32)
    theta = np.full(65, 0.1, dtype=np.float32)
    for value in (*margin(z), radius(z), smoothness(z), logistic_loss(theta, z), logistic_gradient(theta, z),
                  logistic_hessian(theta, z), normalized_margin(theta, z)):  # fmt: skip
        assert value.dtype == np.float32


@settings(max_examples=30, deadline=None, derandomize=True)
@given(point=points())
def test_a_batch_is_its_members_and_products_are_the_matrix(point: Arguments) -> None:
    theta, z = point["theta"], point["z"]
    along = np.random.default_rng(0).standard_normal(theta.shape)
    product = hessian_vector_product(theta, z, along)
    np.testing.assert_allclose(product, (logistic_hessian(theta, z) @ along[..., None])[..., 0], rtol=1e-9, atol=1e-12)
    for index in np.ndindex(theta.shape[:-1]):
        for function in (sample_margins, logistic_loss, logistic_gradient, logistic_hessian):
            np.testing.assert_allclose(function(theta[index], z), function(theta, z)[index], rtol=1e-9, atol=1e-12)
    assert np.linalg.eigvalsh(logistic_hessian(theta, z)).max() <= smoothness(z) * (1 + 1e-12)


def test_far_out_the_loss_is_linear_or_gone() -> None:
    z = np.array([[1.0], [2.0]])
    with np.errstate(all="raise", under="ignore"):
        assert logistic_loss(np.array([-1e6]), z) == 1.5e6
        assert logistic_loss(np.array([1e6]), z) == 0
        assert logistic_loss(np.array([40.0]), z) == pytest.approx(np.exp(-40) / 2, rel=1e-14)
        assert logistic_gradient(np.array([40.0]), z) == pytest.approx(-np.exp(-40) / 2, rel=1e-14)
        assert logistic_hessian(np.array([-40.0]), z) == pytest.approx(np.exp(-40) / 2, rel=1e-14)
        np.testing.assert_array_equal(logistic_gradient(np.array([-1e6]), z), [-1.5])


def test_bounds_at_known_values() -> None:
    assert perceptron_bound(2.0, 0.5) == 16
    assert batch_perceptron_bound(10, 2.0, 0.5) == 160
    assert batch_perceptron_bound_tight(10, 2.0, 0.5) == 156
    # The two cross at two samples.
    assert batch_perceptron_bound_tight(2, 2.0, 0.5) == batch_perceptron_bound(2, 2.0, 0.5)
    assert normalized_lr_gd_bound(1, 2.0, 0.5, 1e-3) == 16
    assert normalized_lr_gd_bound(100, 2.0, 0.5, 1e12) == pytest.approx(16, rel=1e-10)
    assert normalized_lr_gd_bound(400, 1.25**0.5, 0.5, 100.0) == pytest.approx(5 + 0.08 * np.log(799), rel=1e-14)
    assert lr_gd_bound(400, 1.25**0.5, 0.5, 100.0) == pytest.approx(800 * (5 + 0.08 * np.log(799)), rel=1e-14)
    n = sympy.Symbol("n", integer=True, positive=True)
    r, mu, gamma = sympy.symbols("r mu gamma", positive=True)
    expected = 2 * n * (r**2 / mu**2 + 2 * sympy.log(2 * n - 1) / (gamma * mu**2))
    assert sympy.simplify(lr_gd_bound(n, r, mu, gamma) - expected) == 0


def test_example_data() -> None:
    np.testing.assert_array_equal(signed_features(*theorem_4_1_dataset()), [[1, -1], [1, 4]])
    np.testing.assert_array_equal(signed_features(*worst_case_dataset(3)), [[0.5, -1], [0.5, 1], [0.5, 1]])
    # In floats .3 * 6 + .2 is below 2.
    assert [worst_case_iterations(n) for n in (1, 6, 10, 1000)] == [1, 3, 4, 301]


GOOD = np.array([[1.0, 0.0], [0.5, 1.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: logistic_loss(np.ones(3), GOOD), "z: expected d 3"),
        (lambda: logistic_gradient(np.ones(2), GOOD[0]), r"z: expected shape \(n, d\)"),
        (lambda: logistic_hessian(np.ones(2) * np.nan, GOOD), "theta: expected finite"),
        (lambda: hessian_vector_product(np.ones(2), GOOD, np.ones((3, 2))), "vector: expected batch axes"),
        (lambda: sample_margins([1.0, 2.0], GOOD), "theta: expected an array"),
        (lambda: normalized_margin(np.zeros(2), GOOD), "theta: expected vectors that are not zero"),
        (lambda: smoothness(GOOD[0]), "z: expected shape"),
        (lambda: radius(GOOD * np.nan), "z: expected finite"),
        (lambda: margin(GOOD[:0]), "z: expected n >= 1"),
        (lambda: perceptron_bound(1.0, 1e-10), "margin: expected that of separable data"),
        (lambda: perceptron_bound(1.0, -0.5), "margin: expected that of separable data"),
        (lambda: perceptron_bound(1.0, 1.1), "margin: expected at most the radius"),
        (lambda: perceptron_bound(0.0, 0.0), "radius: expected a number"),
        (lambda: batch_perceptron_bound(0, 1.0, 0.5), "n_samples: expected an integer >= 1"),
        (lambda: batch_perceptron_bound_tight(1, 1.0, float("nan")), "margin: expected a number"),
        (lambda: normalized_lr_gd_bound(5, 1.0, 0.5, 0.0), "step_size: expected a number"),
        (lambda: lr_gd_bound(5, 1.0, 0.5, float("inf")), "step_size: expected a number"),
        (lambda: worst_case_dataset(0), "n_samples"),
        (lambda: worst_case_iterations(0), "n_samples"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
