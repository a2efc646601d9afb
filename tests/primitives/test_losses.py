"""The losses by a second route."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from refimpl.oracle.spec import Arguments, all_specs
from refimpl.primitives.activations import softplus
from refimpl.primitives.losses import cross_entropy, cross_entropy_vjp, squared_error
from refimpl.primitives.normalization import softmax

SPECS = all_specs()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SPECS["primitives/cross_entropy"].arguments)
def test_cross_entropy_is_minus_the_log_probability(arguments: Arguments) -> None:
    logits, labels = arguments["logits"], arguments["labels"]
    one_hot = np.eye(logits.shape[-1])[labels]
    probability = (softmax(logits) * one_hot).sum(axis=-1)
    np.testing.assert_allclose(cross_entropy(logits, labels), -np.log(probability), rtol=1e-12, atol=1e-14)
    _, pullback = cross_entropy_vjp(logits, labels)
    np.testing.assert_allclose(pullback(np.ones(labels.shape))[0], softmax(logits) - one_hot, rtol=1e-12, atol=1e-15)


def test_two_classes_are_the_logistic_loss() -> None:
    margin = np.linspace(-5, 5, 11)
    logits = np.stack([margin, np.zeros(11)], axis=-1)
    np.testing.assert_allclose(cross_entropy(logits, np.zeros(11, int)), softplus(-margin), rtol=1e-13)


def test_a_confident_prediction_keeps_its_digits() -> None:
    """Subtracting a logit of 1000 after the sum would leave none of the loss's 1e-9."""
    logits = np.array([1000.0, 980.0])
    assert cross_entropy(logits, np.array(0)) == pytest.approx(np.exp(-20), rel=1e-6)


def test_squared_error_sums_over_outputs() -> None:
    assert squared_error(np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 3.0]])).tolist() == [5, 9]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: squared_error(np.ones((2, 3)), np.ones((2, 1))), "target"),
        (lambda: squared_error(np.ones((2, 3)), np.ones(3)), "target"),
        (lambda: squared_error(np.ones(0), np.ones(0)), "prediction"),
        (lambda: cross_entropy(np.ones((2, 3)), np.ones(2)), "labels"),
        (lambda: cross_entropy(np.ones((2, 3)), [0, 1]), "labels"),  # type: ignore[arg-type]
        (lambda: cross_entropy(np.ones((2, 3)), np.zeros((2, 1), int)), "labels"),
        (lambda: cross_entropy(np.ones((2, 3)), np.array([0, 3])), "labels"),
        (lambda: cross_entropy(np.ones((2, 3)), np.array([-1, 0])), "labels"),
        (lambda: cross_entropy(np.full((2, 3), np.nan), np.zeros(2, int)), "logits"),
    ],
)
def test_bad_input(call: Callable[[], Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()
