r"""Binary classification: features, labels of $\pm1$, and linearly separable data."""

from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.numbers import Array
from refimpl.tasks.real_data import digit_images


class LabelledData(NamedTuple):
    """Samples of two classes."""

    features: Array
    """$a_i$, shape ``(n, d)``."""
    labels: Array
    r"""$y_i\in\{-1,1\}$, shape ``(n,)``."""


def signed_features(features: Array, labels: Any) -> Array:
    r"""$z_i=y_ia_i$: a linear classifier $\theta$ is right about a sample where $\langle z_i,\theta\rangle>0$.

    Parameters
    ----------
    features : array, shape (n, d)
    labels : array, shape (n,), of 1 and -1
        Integers or floating-point numbers.

    Returns
    -------
    array, shape (n, d), dtype of `features`

    Raises
    ------
    ValueError
        If shapes do not fit, a feature is not finite or a label is neither 1 nor -1.
    """
    sizes = check_shapes(features=(features, "n d"))
    labels = np.asarray(labels)
    if labels.shape != (sizes["n"],):
        raise ValueError(f"labels: expected shape ({sizes['n']},) as the rows of features, got {labels.shape}")
    wrong = np.flatnonzero((labels != 1) & (labels != -1))
    if wrong.size:
        raise ValueError(f"labels: expected 1 or -1, got {labels[wrong[0]]} at index {wrong[0]}")
    return features * labels.astype(features.dtype)[:, None]


def sample_separable_data(n_samples: int, n_features: int, gap: float, rng: np.random.Generator) -> LabelledData:
    r"""Gaussian features that a hyperplane through the origin separates, none nearer to it than `gap`.

    $a=g+y(\mathtt{gap}+|h|)u$ for a random unit vector $u$, a random label, $h\sim\mathcal N(0,1)$ and $g$ standard
    normal across $u$.

    Parameters
    ----------
    n_samples, n_features : int >= 1
    gap : float > 0
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        If a size or the gap is out of range.
    """
    n_samples = check_integer("n_samples", n_samples, 1)
    n_features = check_integer("n_features", n_features, 1)
    gap = check_number("gap", gap, "(0, inf)")
    direction = rng.standard_normal(n_features)
    direction /= np.linalg.norm(direction)
    labels = rng.choice([-1.0, 1.0], n_samples)
    across = rng.standard_normal((n_samples, n_features))
    across -= np.outer(across @ direction, direction)
    heights = labels * (gap + np.abs(rng.standard_normal(n_samples)))
    return LabelledData(across + np.outer(heights, direction), labels)


def digit_pair(positive: int, negative: int) -> LabelledData:
    """All images of two of scikit-learn's bundled digits (extra ``data``), pixels from 0 to 1, and a constant 1.

    Parameters
    ----------
    positive, negative : different digits, labelled 1 and -1

    Returns
    -------
    LabelledData with 65 features, in the order of the data set

    Raises
    ------
    ValueError
        If they are not two different digits.
    """
    positive, negative = check_integer("positive", positive, 0, 9), check_integer("negative", negative, 0, 9)
    if positive == negative:
        raise ValueError(f"negative: expected another digit than positive, got {negative} twice")
    images, digits = digit_images()
    chosen = np.isin(digits, (positive, negative))
    features = np.concatenate([images[chosen], np.ones((int(chosen.sum()), 1))], axis=1)
    return LabelledData(features, np.where(digits[chosen] == positive, 1.0, -1.0))
