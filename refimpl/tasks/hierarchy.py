r"""A data set with the structure of a tree: features that leaves inherit with rare changes."""

from typing import Any

import numpy as np

from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.numbers import Array


def hierarchical_dataset(depth: int, n_features: int, flip_probability: float, rng: np.random.Generator) -> Array:
    """Features of the leaves of a binary tree: the root's are signs at random, each child copies its parent's and
    flips each with a small probability.

    With one-hot inputs, an item a leaf, the array is the correlation of outputs with inputs.

    Parameters
    ----------
    depth : int >= 0
        Of the tree; it has 2^depth leaves.
    n_features : int >= 1
    flip_probability : number from 0 to 1/2
    rng : numpy.random.Generator

    Returns
    -------
    array, shape (n_features, 2^depth), entries 1 and -1

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    depth, n_features = check_integer("depth", depth, 0), check_integer("n_features", n_features, 1)
    flip_probability = check_number("flip_probability", flip_probability, "[0, 0.5]")
    features = np.where(rng.random((n_features, 1)) < 0.5, -1.0, 1.0)
    for _ in range(depth):
        features = np.repeat(features, 2, axis=1)
        features = np.where(rng.random(features.shape) < flip_probability, -features, features)
    return features


def hierarchical_correlation(depth: int, flip_probability: Any) -> Array:
    r"""The mean product of a feature at two leaves: $(1-2\epsilon)^{2k}$ where their common ancestor is $k$ levels up.

    Parameters
    ----------
    depth : int >= 0
    flip_probability : number from 0 to 1/2, or a symbol

    Returns
    -------
    array, shape (2^depth, 2^depth)

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    depth = check_integer("depth", depth, 0)
    kept = (1 - 2 * check_number("flip_probability", flip_probability, "[0, 0.5]")) ** 2
    leaf = np.arange(2**depth)
    distance = sum(leaf[:, None] >> k != leaf >> k for k in range(depth)) + np.zeros((2**depth, 2**depth), int)
    return np.asanyarray(np.asarray([kept**k for k in range(depth + 1)])[distance])
