"""Softmax regression on the digits, trained as the claims look at it, and the curvature of its batches."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from refimpl.dynamics.batch_hessian import softmax_regression_hessian, train_softmax_regression, with_constant
from refimpl.primitives.curvature import mlp_curvature
from refimpl.primitives.lanczos import Product, lanczos
from refimpl.primitives.layers import Linear
from refimpl.primitives.numbers import Array
from refimpl.tasks.real_data import digit_images


class Digits(NamedTuple):
    """1797 images with a constant feature, trained weights (10, 65), and the eigenpairs of the full-data Hessian."""

    inputs: Array
    labels: Array
    weights: Array
    hessian: Array
    eigenvalues: Array
    eigenvectors: Array

    @property
    def u1(self) -> Array:
        return np.asarray(self.eigenvectors[:, -1])

    @property
    def lambda_max(self) -> float:
        return float(self.eigenvalues[-1])


@cache
def trained_digits() -> Digits:
    """300 steps of full-batch gradient descent at rate 0.5 from 0, and the 650 eigenpairs there."""
    images, labels = digit_images()
    inputs = with_constant(images)
    weights = train_softmax_regression(inputs, labels, 10)
    hessian = softmax_regression_hessian(weights, inputs)
    return Digits(inputs, labels, weights, hessian, *np.linalg.eigh(hessian))


def seed_of(rng: np.random.Generator) -> int:
    """A seed for draws that a claim and its controls share, so that they are made once."""
    return int(rng.integers(2**63))


def batches(rng: np.random.Generator, n_batches: int, batch_size: int, n_samples: int) -> Array:
    """Batches without replacement, shape ``(n_batches, batch_size)``: the places of the smallest of random numbers."""
    places = rng.random((n_batches, n_samples))
    return np.argpartition(places, batch_size - 1, axis=1)[:, :batch_size]


def batch_product(digits: Digits, indices: Any) -> Product:
    """``v -> H_batch v`` on vectors, for the examples at these indices."""
    curvature = mlp_curvature([Linear(digits.weights)], digits.inputs[indices], digits.labels[indices])
    return lambda v: curvature.hessian_product([Linear(v.reshape(digits.weights.shape))])[0].weight.reshape(-1)


# The largest Ritz value is exact to 1e-10 after 10 steps and to roundoff after 15, from batches of 8 to 512.
LANCZOS_STEPS = 20


def batch_lambda_max(product: Product, n_params: int, rng: np.random.Generator) -> float:
    return float(lanczos(product, n_params, LANCZOS_STEPS, rng).eigenvalues()[-1])
