r"""The paper's two small data sets: a loss that misleads, and a batch perceptron that needs a number of steps
proportional to the number of samples."""

import numpy as np

from refimpl.primitives.checks import check_integer
from refimpl.tasks.classification import LabelledData


def theorem_4_1_dataset() -> LabelledData:
    r"""Two samples: $(1,-1)$ of class 1 and $(-1,-4)$ of class $-1$.

    After one step of size $\gamma$ from 0 the loss is about $\gamma/8$, after two it vanishes with growing $\gamma$.

    Source: Theorem 4.1, whose "assume $\theta_1=0$" means $\theta_0=0$.
    """
    return LabelledData(np.array([[1.0, -1.0], [-1.0, -4.0]]), np.array([1.0, -1.0]))


def worst_case_dataset(n_samples: int) -> LabelledData:
    r"""$(\frac12,-1)$ once and $(\frac12,1)$ all other times, all of class 1: $\mu=\frac12$, $R=\frac{\sqrt5}2$.

    Parameters
    ----------
    n_samples : int >= 1

    Raises
    ------
    ValueError
        If the number is below 1.

    Source: Theorem 5.1, in the reading in which the proof is consistent: the odd sample is of class 1.
    """
    features = np.full((check_integer("n_samples", n_samples, 1), 2), [0.5, 1.0])
    features[0, 1] = -1
    return LabelledData(features, np.ones(n_samples))


def worst_case_iterations(n_samples: int) -> int:
    r"""$\lfloor(3n+2)/10\rfloor+1$: how many iterations the batch perceptron takes on :func:`worst_case_dataset`.

    Parameters
    ----------
    n_samples : int >= 1

    Raises
    ------
    ValueError
        If the number is below 1.

    Source: derived from the proof of Theorem 5.1, which says that it grows in proportion to $n$.
    """
    return (3 * check_integer("n_samples", n_samples, 1) + 2) // 10 + 1
