"""The experiment: networks trained at a small and at a large rate, tested on samples without the strong feature."""

from typing import Any, NamedTuple

import numpy as np

from refimpl.dynamics.benign_oscillation.network import (
    FeatureNoiseData,
    forward,
    sample_feature_noise_data,
    train_sgd,
)
from refimpl.dynamics.benign_oscillation.reduced import FeatureShares, feature_shares
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array


def _check_initial(n_filters: int, dim: int, scale: Any, rng: np.random.Generator, batch: tuple[int, ...] = ()) -> None:
    check_integer("n_filters", n_filters, 1)
    check_integer("dim", dim, 1)
    check_number("scale", scale, "(0, inf)")


@checked(_check_initial)
def initial_weights(
    n_filters: int, dim: int, scale: Any, rng: np.random.Generator, batch: tuple[int, ...] = ()
) -> Array:
    r"""Gaussian filters of this deviation $\sigma_0$, shape (*batch, 2, n_filters, dim).

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    return scale * rng.standard_normal((*batch, 2, n_filters, dim))


def _check_admissible(weights: Array, data: FeatureNoiseData) -> None:
    check_shapes(weights=(weights, "... 2 n_filters d"), patches=(data.patches, "... n 3 d"))


@checked(_check_admissible)
def is_admissible(weights: Array, data: FeatureNoiseData) -> Array:
    """Whether every class has an active filter for either feature, and every weak-only sample one for its noise.

    Otherwise the missing route leaves an error of about 1 on these samples, and the weak feature is learned at any
    rate.

    Parameters
    ----------
    weights : array, shape (..., 2, n_filters, d)
    data : FeatureNoiseData
        Of the same batch axes.

    Returns
    -------
    array of bool, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit.

    Source: arXiv 2310.17074, the event of high probability on which its theorems hold.
    """
    shares = feature_shares(weights, data.strong, data.weak)
    noise = data.patches[..., ~data.has_strong, 2, :]
    active = np.any(weights @ noise[..., None, :, :].swapaxes(-1, -2) > 0, axis=-2)
    own = np.where(data.labels[..., ~data.has_strong] > 0, active[..., 0, :], active[..., 1, :])
    return np.asanyarray((shares.strong > 0).all(axis=-1) & (shares.weak > 0).all(axis=-1) & own.all(axis=-1))


class Setting(NamedTuple):
    """Sizes of the experiment; `redraw` asks for admissible initial weights."""

    n_samples: int = 40
    dim: int = 400
    n_filters: int = 5
    strong_fraction: float = 0.9
    strong_norm: float = 1.0
    weak_norm: float = 0.25
    noise_norm_squared: float = 0.8
    weight_scale: float = 0.01
    redraw: bool = True


class Outcome(NamedTuple):
    """What came of each run: accuracies (n_runs,), shares (n_runs, 2), and the errors (n_runs, n_steps) of the steps.

    `strong_steps`, (n_runs, n_steps), tells which steps took a sample with the strong feature.
    """

    train_accuracy: Array
    strong_accuracy: Array
    weak_accuracy: Array
    shares: FeatureShares
    errors: Array
    strong_steps: Array


def start(setting: Setting, n_runs: int, rng: np.random.Generator) -> tuple[FeatureNoiseData, Array]:
    """Data and initial weights of so many independent runs; weights are drawn again until they are admissible."""
    data = sample_feature_noise_data(*setting[:2], *setting[3:7], rng, (n_runs,))
    weights = initial_weights(setting.n_filters, setting.dim, setting.weight_scale, rng, (n_runs,))
    while setting.redraw and not (good := is_admissible(weights, data)).all():
        weights[~good] = initial_weights(
            setting.n_filters, setting.dim, setting.weight_scale, rng, (int((~good).sum()),)
        )
    return data, weights


def steps_for(learning_rate: float) -> int:
    """How long a run is: 6000 steps, and longer at small rates."""
    return max(6000, round(4000 / learning_rate))


def _check_experiment(
    setting: Setting, learning_rate: Any, n_runs: int, rng: np.random.Generator, n_test: int = 1000
) -> None:
    check_number("learning_rate", learning_rate, "(0, inf)")
    check_integer("n_runs", n_runs, 1)
    check_integer("n_test", n_test, 1)


@checked(_check_experiment)
def run_benign_oscillation_experiment(
    setting: Setting, learning_rate: Any, n_runs: int, rng: np.random.Generator, n_test: int = 1000
) -> Outcome:
    """Train independent networks, and test each on samples with the weak feature only, and with both.

    Parameters
    ----------
    setting : Setting
    learning_rate : float > 0
    n_runs : int >= 1
    rng : np.random.Generator
    n_test : int >= 1
        Test samples of each kind.

    Returns
    -------
    Outcome
        Of a run that diverged the accuracies and shares are NaN.

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: arXiv 2310.17074, its main theorems at a size that a core trains in seconds.
    """
    data, weights = start(setting, n_runs, rng)
    indices = rng.integers(setting.n_samples, size=(n_runs, steps_for(learning_rate)))
    weights, errors = train_sgd.unchecked(weights, data.patches, data.labels, learning_rate, indices)
    diverged = np.any(~np.isfinite(weights), axis=(-3, -2, -1))
    weights[diverged] = 0
    test = sample_feature_noise_data(n_test, setting.dim, 0, *setting[4:7], rng, (n_runs,))

    def accuracy(patches: Array, labels: Array) -> Array:
        right = np.asarray((np.sign(forward.unchecked(weights, patches)) == labels).mean(axis=-1))
        right[diverged] = np.nan
        return right

    weak_accuracy = accuracy(test.patches, test.labels)
    test.patches[..., 1, :] = test.labels[..., None] * data.strong
    shares = FeatureShares(
        *(
            np.where(np.expand_dims(diverged, 1), np.nan, share)
            for share in feature_shares.unchecked(weights, data.strong, data.weak)
        )
    )
    return Outcome(
        accuracy(data.patches, data.labels),
        accuracy(test.patches, test.labels),
        weak_accuracy,
        shares,
        errors,
        data.has_strong[indices],
    )
