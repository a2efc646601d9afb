"""What a small trained counterpart of the paper's transformers does, layer by layer (Sections 4.1 and 4.2)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from proofs.incontext.higher_order.comparison import newton_along
from proofs.ledger import Control, Evidence, at_least, at_most, claim, holds, within
from refimpl.incontext.higher_order import (
    PrefixSpectra,
    best_matching_steps,
    prefix_predictions,
    prefix_spectra,
    similarity_matrix,
    spectral_filter,
)
from refimpl.incontext.higher_order.training import LinearLayer, Training, layer_predictions, train
from refimpl.primitives.numbers import Array
from refimpl.tasks.linear_regression import sample_gaussian_tasks

ITERATIONS = range(24)
STEPS = sorted({round(2 ** (e / 2)) for e in range(29)})
# As the paper's 0.01 at d = 20, n <= 40: times the largest eigenvalue about 1, here at d = 5, n <= 15.
LEARNING_RATE = 0.02


def trained_layers(settings: Training, rng: np.random.Generator) -> list[LinearLayer]:
    return train(settings, rng)[0]


def untrained_layers(settings: Training, rng: np.random.Generator) -> list[LinearLayer]:
    """A single step of training."""
    return train(settings._replace(n_steps=1), rng)[0]


def descent_along(spectra: PrefixSpectra, n_steps: int) -> Array:
    values = spectra.eigenvalues
    return prefix_predictions(spectra, spectral_filter(values, LEARNING_RATE * values, n_steps))


class Match(NamedTuple):
    """What each layer is most like, and how much: SimE."""

    iterations: list[int]
    steps: list[int]
    to_newton: Array
    to_descent: Array


def matches(predictions: Array, spectra: PrefixSpectra) -> Match:
    newton = np.stack([newton_along(spectra, k) for k in ITERATIONS])
    descent = np.stack([descent_along(spectra, t) for t in STEPS])
    of_newton, of_descent = (similarity_matrix(predictions, other, spectra.targets) for other in (newton, descent))
    return Match(
        [ITERATIONS[i] for i in best_matching_steps(of_newton)],
        [STEPS[i] for i in best_matching_steps(of_descent)],
        of_newton.max(axis=1),
        of_descent.max(axis=1),
    )


@claim(
    "higher_order/HO24",
    title="Each layer of a trained transformer is worth about three Newton iterations, and a factor of gradient steps",
    source="Section 4.1, Figures 2 and 3",
    statement=r"k(\ell)\approx3\ell+c,\qquad t(\ell)\approx c\,r^\ell\ \text{ with }r>2",
    method="experiment",
    scope="a small counterpart, 3 runs: 6 layers of linear attention without perceptrons, d = 5, n = 15, each read by "
    "a linear read-out fitted to it; not the paper's 12 layers of GPT-2 at d = 20, of whose numbers, and of whose "
    "findings on hidden sizes and LSTMs, this says nothing",
    uses=["higher_order/HO16", "higher_order/HO17"],
    cost="full",
    control=Control("layers before training", layers_of=untrained_layers),
)
def layers_are_iterations(
    rng: np.random.Generator, layers_of: Callable[[Training, np.random.Generator], list[LinearLayer]] = trained_layers
) -> Evidence:
    settings = Training()
    depth = np.arange(1, settings.n_layers + 1)
    found, errors = [], []
    for _ in range(3):
        layers = layers_of(settings, rng)
        fitted_on, tasks = (
            sample_gaussian_tasks(n_tasks, settings.n_inputs, settings.n_context, 0.0, rng) for n_tasks in (400, 200)
        )
        predictions = layer_predictions(layers, fitted_on, tasks, settings.token_clip)
        spectra = prefix_spectra(tasks)
        found.append(matches(predictions, spectra))
        # With all examples, relative to the zero predictor.
        residual, scale = predictions[-1, :, -1] - spectra.targets[:, -1], spectra.targets[:, -1]
        errors.append(float(np.mean(residual**2) / np.mean(scale**2)))
    iterations, steps = [match.iterations for match in found], [match.steps for match in found]
    nearer = [float(np.mean(match.to_newton - match.to_descent)) for match in found]
    slopes = [float(np.polyfit(depth, row, 1)[0]) for row in iterations]
    factors = [float(2 ** np.polyfit(depth, np.log2(row), 1)[0]) for row in steps]
    ordered = [bool(np.all(np.diff(rows) >= 0)) for rows in (iterations, steps)]
    return (
        at_most(max(errors), 0.02, "largest final error, over the targets' variance")
        & holds(ordered[0], "non-decreasing", str(iterations), "matching iterations, layer by layer,")
        & holds(ordered[1], "non-decreasing", str(steps), "matching gradient steps")
        & within(float(np.mean(slopes)), 2.5, 3.5, "iterations a layer, mean of the runs")
        & at_least(min(factors), 2, "smallest factor of gradient steps a layer")
        & at_least(
            min(nearer), 0, "SimE to Newton less SimE to gradient descent, mean of the layers, smallest of the runs"
        )
    )
