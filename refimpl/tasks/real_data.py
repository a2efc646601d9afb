"""Small real data sets as prompts (extra ``data``)."""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer
from refimpl.primitives.numbers import Array
from refimpl.tasks.linear_regression import RegressionTasks

DIABETES_PATIENTS = 442


def diabetes_prompts(
    n_tasks: int, n_context: int, rng: np.random.Generator, patients: Array | None = None
) -> RegressionTasks:
    """Prompts whose rows are patients of scikit-learn's bundled diabetes data, each row at most once in a prompt.

    The ten features and the target (progression of the disease after a year) are standardised over all 442 patients to
    mean 0 and variance 1.

    Parameters
    ----------
    n_tasks : int >= 1
    n_context : int >= 1, below the number of patients
    rng : numpy.random.Generator
    patients : integer array, optional
        The rows to draw from, each at most once; all 442 if None.

    Returns
    -------
    RegressionTasks with 10 inputs and 1 output

    Raises
    ------
    ValueError
        If a size is out of range or `patients` are not different rows of the data.
    """
    rows = _diabetes_rows()
    chosen_from = np.arange(len(rows)) if patients is None else _check_patients(patients)
    n_tasks = check_integer("n_tasks", n_tasks, 1)
    n_context = check_integer("n_context", n_context, 1, len(chosen_from) - 1)
    # Where the smallest of as many random numbers as patients are: a random subset, and a random one of it last.
    places = np.argpartition(rng.random((n_tasks, len(chosen_from))), n_context, axis=-1)[:, : n_context + 1]
    chosen = chosen_from[places]
    columns = np.swapaxes(rows[chosen], -1, -2)
    return RegressionTasks(columns[:, :-1, :-1], columns[:, -1:, :-1], columns[:, :-1, -1], columns[:, -1:, -1])


class DigitShots(NamedTuple):
    """Draws of a few labelled digits, and all digits of these classes to test on."""

    inputs: Array
    """Shape ``(n_draws, n, n_components)``, rows of length 1."""
    labels: Any
    """Integers, shape ``(n_draws, n)``."""
    images: Array
    """Shape ``(n_images, n_components)``."""
    targets: Any
    """Integers, shape ``(n_images,)``."""
    held_out: Any
    """Where an image is not among a draw's shots: boolean, shape ``(n_draws, n_images)``."""


def digit_shots(
    classes: Sequence[int], n_shots: int, n_draws: int, rng: np.random.Generator, n_components: int = 16
) -> DigitShots:
    """Few shots of scikit-learn's bundled digits: principal components of the centred pixels, at length 1.

    Parameters
    ----------
    classes : digits, whose positions become the labels
    n_shots : int >= 1, of each class
    n_draws : int >= 1
        Each draw takes its shots without replacement and in random order.
    rng : numpy.random.Generator
    n_components : int from 1 to 64
        Principal directions of all 1797 images.

    Raises
    ------
    ValueError
        If a size is out of range.
    """
    components, digits = _digit_components()
    n_components = check_integer("n_components", n_components, 1, components.shape[1])
    chosen = np.isin(digits, classes)
    images = components[chosen, :n_components]
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    targets = np.array([list(classes).index(digit) for digit in digits[chosen]])
    n_shots = check_integer("n_shots", n_shots, 1, int(np.bincount(targets).min()) - 1)
    n_draws = check_integer("n_draws", n_draws, 1)
    members = [np.flatnonzero(targets == label) for label in range(len(classes))]
    drawn = [rng.permuted(np.tile(one, (n_draws, 1)), axis=1)[:, :n_shots] for one in members]
    rows = rng.permuted(np.concatenate(drawn, axis=1), axis=1)
    held_out = np.ones((n_draws, len(images)), dtype=bool)
    np.put_along_axis(held_out, rows, False, axis=1)
    return DigitShots(images[rows], targets[rows], images, targets, held_out)


def digit_images() -> tuple[Array, Array]:
    """All 1797 images of scikit-learn's bundled digits, pixels from 0 to 1, and their classes.

    Returns
    -------
    images : array, shape (1797, 64)
    labels : array of integers, shape (1797,)
    """
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    return pixels / 16, digits


@cache
def _digit_components() -> tuple[Array, Any]:
    """All images in the basis of their principal directions, the largest first, and the digits that they show."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    pixels = pixels - pixels.mean(axis=0)
    _, directions = np.linalg.eigh(pixels.T @ pixels)
    components = pixels @ directions[:, ::-1]
    components.flags.writeable = False
    return components, digits


def descriptions() -> list[str]:
    """The texts that describe scikit-learn's bundled data sets, about 15,000 characters in all."""
    from sklearn import datasets

    names = ("iris", "wine", "digits", "breast_cancer", "diabetes", "linnerud")
    return [getattr(datasets, f"load_{name}")().DESCR for name in names]


@cache
def _diabetes_rows() -> Array:
    from sklearn.datasets import load_diabetes

    features, target = load_diabetes(return_X_y=True)
    rows = np.column_stack([features, target])
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    rows.flags.writeable = False
    return rows


def _check_patients(patients: Array) -> Array:
    patients = np.asarray(patients)
    fits = patients.ndim == 1 and patients.dtype.kind in "iu" and len(np.unique(patients)) == len(patients)
    if not fits or len(patients) < 2 or patients.min() < 0 or patients.max() >= DIABETES_PATIENTS:
        raise ValueError(
            f"patients: expected two different integers or more from 0 to {DIABETES_PATIENTS - 1}, got {patients!r:.80}"
        )
    return patients
