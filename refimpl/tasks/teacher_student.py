r"""Teacher and student: labels are what a random teacher says of random inputs, and noise.

Arrays have a leading axis of problems. Inputs are columns.
"""

from typing import NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.numbers import Array
from refimpl.primitives.two_layer import two_layer_relu


class LinearProblems(NamedTuple):
    """Noisy labels of linear teachers, and where the students start."""

    x: Array
    """Inputs, shape ``(n_problems, n_inputs, n_examples)``."""
    y: Array
    """Labels, shape ``(n_problems, n_examples)``."""
    teacher: Array
    """The teacher's weights on the inputs that the student sees, shape ``(n_problems, n_inputs)``."""
    initial: Array
    """The student's initial weights, shape ``(n_problems, n_inputs)``."""


class ReluProblems(NamedTuple):
    """Noisy training labels and noiseless test labels of two-layer ReLU teachers."""

    x: Array
    """Training inputs, shape ``(n_problems, n_inputs, n_examples)``."""
    y: Array
    """Training labels, shape ``(n_problems, n_examples)``."""
    x_test: Array
    """Test inputs, shape ``(n_problems, n_inputs, n_test)``."""
    y_test: Array
    """Test labels, shape ``(n_problems, n_test)``."""


def sample_linear_problems(
    n_problems: int,
    n_inputs: int,
    n_examples: int,
    signal_variance: float,
    noise_variance: float,
    init_variance: float,
    rng: np.random.Generator,
    n_unseen: int = 0,
) -> LinearProblems:
    r"""$y=\bar wX+\epsilon$ with Gaussian inputs of variance $1/N$, so that $XX^\top$ has trace $\approx P$.

    Parameters
    ----------
    n_problems, n_inputs, n_examples : int >= 1
    signal_variance, noise_variance, init_variance : float >= 0
        $\sigma_w^2,\sigma_\epsilon^2,(\sigma_w^0)^2$: of each weight of the teacher, of the label noise, of each
        initial weight of the student.
    rng : numpy.random.Generator
    n_unseen : int >= 0
        Inputs of variance $1/N$ that the teacher has besides, and the student does not see.

    Raises
    ------
    ValueError
        If a size or a variance is out of range.

    Source: arXiv 1710.03667, Section 2.
    """
    check_integer("n_problems", n_problems, 1)
    check_integer("n_inputs", n_inputs, 1)
    check_integer("n_examples", n_examples, 1)
    check_integer("n_unseen", n_unseen, 0)
    signal = check_number("signal_variance", signal_variance, "[0, inf)") ** 0.5
    noise = check_number("noise_variance", noise_variance, "[0, inf)") ** 0.5
    init = check_number("init_variance", init_variance, "[0, inf)") ** 0.5
    every = n_inputs + n_unseen
    x = rng.standard_normal((n_problems, every, n_examples)) / n_inputs**0.5
    teacher = signal * rng.standard_normal((n_problems, every))
    y = (teacher[:, None] @ x)[:, 0] + noise * rng.standard_normal((n_problems, n_examples))
    initial = init * rng.standard_normal((n_problems, n_inputs))
    return LinearProblems(x[:, :n_inputs], y, teacher[:, :n_inputs], initial)


def sample_relu_problems(
    n_problems: int,
    n_inputs: int,
    n_teacher_hidden: int,
    n_examples: int,
    n_test: int,
    noise_variance: float,
    rng: np.random.Generator,
) -> ReluProblems:
    r"""Standard normal inputs and a teacher $\sum_ja_j\max(w_j^\top x,0)$ whose layers have variance one over fan-in.

    Parameters
    ----------
    n_problems, n_inputs, n_teacher_hidden, n_examples, n_test : int >= 1
    noise_variance : float >= 0
        Of the training labels.
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        If a size is below 1 or the variance negative.

    Source: arXiv 1710.03667, the nonlinear networks.
    """
    sizes = {
        "n_problems": n_problems,
        "n_inputs": n_inputs,
        "n_teacher_hidden": n_teacher_hidden,
        "n_examples": n_examples,
        "n_test": n_test,
    }
    for name, size in sizes.items():
        check_integer(name, size, 1)
    noise = check_number("noise_variance", noise_variance, "[0, inf)") ** 0.5
    x = rng.standard_normal((n_problems, n_inputs, n_examples + n_test))
    inner = rng.standard_normal((n_problems, n_teacher_hidden, n_inputs)) / n_inputs**0.5
    outer = rng.standard_normal((n_problems, n_teacher_hidden)) / n_teacher_hidden**0.5
    y = two_layer_relu.unchecked(np.swapaxes(x, -1, -2), inner, outer)
    y[:, :n_examples] += noise * rng.standard_normal((n_problems, n_examples))
    return ReluProblems(x[..., :n_examples], y[:, :n_examples], x[..., n_examples:], y[:, n_examples:])
