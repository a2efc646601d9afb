r"""The small counterparts of the paper's networks on which its claims are checked: softmax regression and a perceptron.

The paper's own are VGG-16, WideResNet and a pre-activation ResNet on CIFAR-100 and ImageNet.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.curvature import mlp_curvature
from refimpl.primitives.layers import Linear
from refimpl.primitives.numbers import Array


def with_constant(inputs: Array) -> Array:
    """The inputs, shape (n, d), with a constant feature 1 in front: shape (n, d + 1)."""
    return np.concatenate([np.ones_like(inputs[:, :1]), inputs], axis=1)


def train_softmax_regression(
    x: Array, targets: Array, n_classes: int, n_steps: int = 300, learning_rate: float = 0.5
) -> Array:
    """Full-batch gradient descent from 0.

    Parameters
    ----------
    x : array, shape (n, d)
    targets : array of ints, shape (n,)
    n_classes, n_steps : int >= 1, >= 0
    learning_rate : float > 0

    Returns
    -------
    array, shape (n_classes, d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is no class or a number is out of range.
    """
    n_classes, n_steps = check_integer("n_classes", n_classes, 1), check_integer("n_steps", n_steps, 0)
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    weights = np.zeros((n_classes, x.shape[-1]), dtype=x.dtype)
    mlp_curvature.check([Linear(weights)], x, targets)
    for _ in range(n_steps):
        (gradient,) = mlp_curvature.unchecked([Linear(weights)], x, targets).gradient
        weights = weights - learning_rate * gradient.weight
    return weights


def initial_perceptron(rng: np.random.Generator, widths: Sequence[int] = (64, 32, 10)) -> list[Linear]:
    r"""Weights $\mathcal N(0,1/n_{in})$, biases 0.

    Parameters
    ----------
    rng : np.random.Generator
    widths : ints >= 1, at least two
        Inputs, hidden units, outputs.

    Raises
    ------
    ValueError
        If a width is out of range or there is only one.
    """
    if len(widths) < 2:
        raise ValueError(f"widths: expected at least inputs and outputs, got {tuple(widths)}")
    for width in widths:
        check_integer("widths", width, 1)
    return [Linear(rng.standard_normal((m, n)) / n**0.5, np.zeros(m)) for n, m in itertools.pairwise(widths)]
