r"""Softmax regression problems: data $A$ and a target $b$ on the simplex."""

from typing import NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_shapes
from refimpl.primitives.normalization import softmax
from refimpl.primitives.numbers import Array
from refimpl.tasks.real_data import diabetes_prompts


class SoftmaxTasks(NamedTuple):
    """Problems whose arrays have a leading axis of tasks."""

    data: Array
    """$A$, shape ``(n_tasks, n, d)``."""
    target: Array
    """$b$, shape ``(n_tasks, n)``."""


def check_softmax_tasks(tasks: SoftmaxTasks) -> dict[str, int]:
    """Raise ``ValueError`` unless the shapes fit each other and there is a task; return the sizes."""
    return check_shapes(data=(tasks.data, "n_tasks n d"), target=(tasks.target, "n_tasks n"))


def sample_softmax_tasks(n_tasks: int, n: int, d: int, rng: np.random.Generator) -> SoftmaxTasks:
    r"""Tasks that a softmax regression solves: rows $a_i\sim\mathcal N(0,I/d)$, $b=\operatorname{softmax}(2Ax^*)$ with
    $x^*\sim\mathcal N(0,I)$.

    Parameters
    ----------
    n_tasks, d : int >= 1
    n : int >= 2
    rng : numpy.random.Generator

    Returns
    -------
    SoftmaxTasks

    Raises
    ------
    ValueError
        If a size is out of range.
    """
    n_tasks, n, d = check_integer("n_tasks", n_tasks, 1), check_integer("n", n, 2), check_integer("d", d, 1)
    data = rng.standard_normal((n_tasks, n, d)) / np.sqrt(d)
    solution = rng.standard_normal((n_tasks, d, 1))
    return SoftmaxTasks(data, softmax.unchecked((data @ (2 * solution))[..., 0]))


def diabetes_softmax_tasks(n_tasks: int, n: int, rng: np.random.Generator) -> SoftmaxTasks:
    r"""Tasks whose rows are patients of the bundled diabetes data (extra ``data``).

    A row is ten standardised features, each over $\sqrt{10}$; $b$ is the softmax of the standardised targets.

    Parameters
    ----------
    n_tasks : int >= 1
    n : int from 2 to 441
    rng : numpy.random.Generator

    Returns
    -------
    SoftmaxTasks

    Raises
    ------
    ValueError
        If a size is out of range.
    """
    prompts = diabetes_prompts(n_tasks, check_integer("n", n, 2, 441), rng)
    data = np.swapaxes(prompts.x, -1, -2) / np.sqrt(10)
    return SoftmaxTasks(data, softmax.unchecked(prompts.y[:, 0]))
