r"""Saturating networks at the edge of chaos (Section 4, Appendix G, Figures 7 and 8)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from proofs.dynamics.deep_linear.network import SEEDS
from proofs.dynamics.deep_linear.spectra import histogram
from proofs.ledger import Control, Evidence, Figure, at_least, at_most, claim, figure, within
from proofs.properties import for_all
from refimpl.dynamics.deep_linear import (
    fixed_point_variance,
    forward,
    jacobian,
    orthogonal_init,
    scaled_gaussian_init,
    variance_map,
)
from refimpl.primitives.numbers import Array

Draw = Callable[..., Array]
WIDTH, N_LAYERS = 200, 99


def orthogonal_layers(rng: np.random.Generator, draw: Draw = orthogonal_init) -> list[Array]:
    return list(draw((N_LAYERS, WIDTH, WIDTH), rng))


def activity(rng: np.random.Generator, variance: float) -> Array:
    """A random input with this variance per unit, exactly."""
    x = rng.standard_normal(WIDTH)
    return np.asanyarray(x * np.sqrt(variance * WIDTH / (x @ x)))


def by_81_nodes(q: Any, gain: float) -> Array:
    """Gauss and Hermite's rule, which the poles of tanh slow down."""
    z, weights = np.polynomial.hermite_e.hermegauss(81)
    seen = np.tanh(np.sqrt(np.asanyarray(q))[..., None] * z) ** 2
    return np.asanyarray(gain**2 * (seen @ weights) / weights.sum())


FIXED_POINTS = {1.05: 0.0532505, 1.1: 0.1127499, 1.5: 0.7933540, 2.0: 2.1214736, 4.0: 12.500601}


@claim(
    "deep_linear/K20",
    title="Below gain 1 activity and gradients die exponentially, above it activity stays: the critical gain is 1",
    source="Section 4, Appendix G, Figure 8",
    statement=r"\sigma_{\max}(J)\le g^L,\ q^{l+1}\le g^2q^l;\qquad q^{l+1}=g^2\int Dz\,\tanh^2(\sqrt{q^l}z):\ "
    r"q^\infty=0\ (g\le1),\ q^\infty>0\ (g>1)",
    method="property",
    scope="bounds on 40 networks of 1 to 12 orthogonal layers of up to 16 units, gains 0.3 to 2; the fixed points at "
    "gains 1.05 to 4, in the mean field to 7 digits and in networks of 200 units, layers 60 to 99",
    control=[
        Control("Gaussian weights, whose singular values reach 2", draw=scaled_gaussian_init),
        Control("81 nodes of Gauss and Hermite", mean_field=by_81_nodes),
    ],
)
def edge_of_chaos(
    rng: np.random.Generator, draw: Draw = orthogonal_init, mean_field: Callable[..., Array] = variance_map
) -> Evidence:
    def over_bound(seed: int) -> float:
        rng = np.random.default_rng(seed)
        n, n_layers, gain = int(rng.integers(1, 17)), int(rng.integers(1, 13)), float(rng.uniform(0.3, 2))
        weights = list(draw((n_layers, n, n), rng))
        x = rng.standard_normal(n) * rng.choice([0.1, 1, 10])
        largest = np.linalg.norm(jacobian(x, weights, gain), 2) / gain**n_layers
        variance = np.sum(forward(x, weights, gain) ** 2, axis=-1)
        return float(max(largest, np.max(variance[1:] / (gain**2 * variance[:-1]))))

    drift = [abs(float(mean_field(q, g)) - q) / q for g, q in FIXED_POINTS.items()]
    values = [abs(fixed_point_variance(g) - q) / q for g, q in FIXED_POINTS.items()]
    # Below and at gain 1 every variance falls; above it small ones grow and large ones fall.
    q = np.logspace(-3, 1.5, 40)
    dies = float(max(np.max(mean_field(q, g) / q) for g in (0.5, 0.9, 1.0)))
    grows = float(min(mean_field(1e-3, g) / 1e-3 for g in (1.05, 1.1, 2.0)))
    weights = orthogonal_layers(rng, draw)
    seen = []
    for g in (1.05, 1.1):
        x = np.array([activity(rng, FIXED_POINTS[g]) for _ in range(4)])
        seen.append(float(np.mean(forward(x, weights, g)[60:] ** 2)) / FIXED_POINTS[g] - 1)
    # The exact norms hold to a few roundoffs a layer; Gaussianity of 200 units to some percent.
    return (
        for_all(rng, SEEDS, over_bound, 1 + 1e-13, 40, "slope or variance over its bound")
        & at_most(max(drift), 1e-6, "mean field moves a fixed point by")
        & at_most(max(values), 1e-6, "fixed points off by")
        & at_most(dies, 1, "growth up to gain 1")
        & at_least(grows, 1, "growth of a small variance above it")
        & at_most(max(map(abs, seen)), 0.1, "networks off the mean field by")
    )


@claim(
    "deep_linear/K21",
    title="At gain 1 gradients pass a hundred saturating layers; at 0.9 they vanish, at 1.1 they are uneven",
    source="Section 4, Figure 7",
    statement=r"g=0.9:\ \sigma(J)<g^{99}=3\cdot10^{-5};\quad g=1:\ \text{an }O(1)\text{ share of }O(1);\quad g=1.1:\ "
    r"\sigma_{\max}>1,\ \sigma_{\min}\ll\text{median}",
    method="experiment",
    scope="200 units in place of the paper's 1000, 100 layers of neurons, one draw of orthogonal weights, inputs of "
    "variance 0.2, 1 and 4; beside it the linear product of 99 Gaussian matrices. At gain 1 activity falls as a power, "
    "so that O(1) is 0.1 to 0.3",
    uses=["deep_linear/K15", "deep_linear/K20"],
    control=Control("Gaussian weights", draw=scaled_gaussian_init),
)
def hundred_layers(rng: np.random.Generator, draw: Draw = orthogonal_init) -> Evidence:
    weights = orthogonal_layers(rng, draw)

    def values(gain: float, variance: float) -> Array:
        return np.linalg.svd(jacobian(activity(rng, variance), weights, gain), compute_uv=False)

    dead, critical, quiet, loud, chaotic = (
        values(g, q) for g, q in ((0.9, 1.0), (1.0, 1.0), (1.0, 0.2), (1.0, 4.0), (1.1, 1.0))
    )
    product = np.eye(WIDTH)
    for factor in scaled_gaussian_init((N_LAYERS, WIDTH, WIDTH), rng):
        product = factor @ product
    linear = np.linalg.svd(product, compute_uv=False)
    final = np.mean(forward(activity(rng, 1.0), weights, 1.0)[-1] ** 2)
    return (
        at_most(float(dead[0]), 0.9**99, "largest at gain 0.9")
        & within(float(critical[0]), 0.1, 0.4, "largest at gain 1")
        & within(float(np.mean(critical > critical[0] / 10)), 0.5, 1, "share of at least a tenth of it")
        & within(float(np.median(quiet)), 0.08, 0.3, "median from variance 0.2")
        & within(float(np.median(loud)), 0.003, 0.05, "median from variance 4")
        & within(float(final), 0.002, 0.01, "variance that is left at gain 1")
        & within(float(chaotic[0]), 1, 5, "largest at gain 1.1")
        & within(float(np.median(chaotic)), 0.02, 0.3, "median at gain 1.1")
        & at_most(float(chaotic[-1]), 1e-6, "least at gain 1.1")
        & at_most(float(np.median(linear) / np.median(chaotic)), 1e-6, "median of a linear Gaussian product over it")
    )


@figure(
    "deep_linear/F4",
    title="Singular values of the Jacobian across a hundred saturating layers",
    caption="At gain 0.9 all are far below 10^-4. At gain 1 they crowd within a decade or two of each other; beyond it "
    "the largest exceed 1 and the smallest vanish. 200 units, inputs of variance 1.",
    answers_to="Figure 7",
)
def jacobian_figure(rng: np.random.Generator) -> Figure:
    weights, x = orthogonal_layers(rng), activity(rng, 1.0)
    edges = np.linspace(-8, 1, 46)
    return Figure(
        tuple(
            histogram(f"gain {gain}", np.log10(np.linalg.svd(jacobian(x, weights, gain), compute_uv=False)), edges)
            for gain in (0.9, 1.0, 1.05, 1.1)
        ),
        x_label=r"$\log_{10}$ of the singular value",
        y_label="density",
    )
