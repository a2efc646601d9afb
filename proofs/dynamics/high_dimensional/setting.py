r"""What the claims share: variances, exact expectations through the shipped solution, shifts at finite size."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.dynamics.high_dimensional import eigenvalue_edges
from refimpl.primitives.numbers import Array
from refimpl.tasks.teacher_student import LinearProblems, sample_linear_problems

ROUNDOFF = float(np.finfo(float).eps) / 2
VARIANCES = (1.0, 0.5, 0.3)
r"""$\sigma_w^2,\sigma_\epsilon^2,(\sigma_w^0)^2$ of the simulations."""

Sampler = Callable[..., LinearProblems]


def unit_variance_inputs(n_problems: int, n_inputs: int, n_examples: int, *others: Any) -> LinearProblems:
    """Inputs of variance 1 in place of 1/N, the labels accordingly."""
    problems = sample_linear_problems(n_problems, n_inputs, n_examples, *others)
    grown = n_inputs**0.5 * problems.x
    clean = (problems.teacher[:, None] @ problems.x)[:, 0]
    return problems._replace(x=grown, y=problems.y + (n_inputs**0.5 - 1) * clean)


class Shares(NamedTuple):
    r"""What of a squared norm comes from each variance: expectations are their products with $\sigma^2$, summed."""

    teacher: Array
    noise: Array
    initial: Array

    def expectation(self, signal_variance: float, noise_variance: float, init_variance: float) -> Array:
        return signal_variance * self.teacher + noise_variance * self.noise + init_variance * self.initial


def shares(
    x: Array, solve: Callable[[Array, Array, Array], Array], measure: Callable[[Array, Array, Array], Array]
) -> Shares:
    r"""$\lVert\cdot\rVert^2$ of what is linear in teacher, noise and start, by running it on unit vectors.

    No formula for the solution goes in: the expectation of the square of a linear function of independent numbers is
    the sum of its squared coefficients.

    Parameters
    ----------
    x : array, shape (n_inputs, n_examples)
    solve : ``(y, initial, x) -> weights``, rows are problems
    measure : ``(weights, teacher, y) -> array``, the vectors whose squared norms are wanted
    """
    n_inputs, n_examples = x.shape
    zero = np.zeros((n_inputs, n_inputs))
    # One problem for each unit vector of the teacher, of the noise, of the start.
    found = []
    for teacher, noise, initial in (
        (np.eye(n_inputs), np.zeros((n_inputs, n_examples)), zero),
        (np.zeros((n_examples, n_inputs)), np.eye(n_examples), np.zeros((n_examples, n_inputs))),
        (zero, np.zeros((n_inputs, n_examples)), np.eye(n_inputs)),
    ):
        y = teacher @ x + noise
        vectors = measure(solve(y, initial, np.broadcast_to(x, (len(y), *x.shape))), teacher, y)
        found.append((vectors**2).sum(axis=(-2, -1)))
    return Shares(*found)


def finite_size_shift(function: Callable[[Array], Array], load: float, n_nodes: int = 4000) -> Array:
    r"""$\lim\mathbb E\sum_if(\lambda_i)-N\int\rho_\alpha f$ for Gaussian inputs, $f$ analytic.

    $\frac{f(\lambda_-)+f(\lambda_+)}4-\frac1{2\pi}\int\frac{f(\lambda)\,d\lambda}{\sqrt{(\lambda_+-\lambda)(\lambda-
    \lambda_-)}}$: Bai and Silverstein (2004), the mean in the central limit theorem for linear spectral statistics.
    """
    low, high = eigenvalue_edges(load)
    angles = (np.arange(n_nodes) + 0.5) * np.pi / n_nodes
    bulk = function((low + high) / 2 - (high - low) / 2 * np.cos(angles))
    return (function(np.array([low, high])).sum(axis=-1) / 2 - bulk.mean(axis=-1)) / 2
