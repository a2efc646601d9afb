r"""The paper's experiments (Section 5): the same model trained by SGD and by gradient descent at several rates.

All runs of an experiment, seeds by learning rates, are steps of one batch of networks. Settings as in a public
reproduction; the defaults are a small counterpart, and the sizes of the paper's figures are named.
"""

import math
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from refimpl.dynamics.dynamical_stability.diagonal_net import (
    DiagonalNet,
    balance_ratio,
    diagonal_net_jacobian,
    diagonal_single_steps,
    diagonal_step,
    imbalance,
    net_of_ratio,
)
from refimpl.dynamics.dynamical_stability.relu_net import (
    ReluNet,
    path_norm,
    population_error,
    population_trace,
    relu_single_steps,
    relu_step,
    two_layer_relu,
    two_layer_relu_jacobian,
)
from refimpl.dynamics.dynamical_stability.sharpness import Sharpness, sharpness
from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.numbers import Array

Method = Literal["sgd", "gd"]
Net = TypeVar("Net", DiagonalNet, ReluNet)
UNIFORM_VARIANCE = 1 / 3
"""Of an input that is uniform on [-1, 1]."""

CHUNK = 4096  # steps whose examples are drawn at once


def train(
    net: Net,
    x: Array,
    y: Array,
    learning_rate: Any,
    n_steps: int,
    rng: np.random.Generator | None = None,
    max_norm: float | None = None,
) -> Net:
    """`n_steps` of SGD, one example drawn with replacement at a time; of gradient descent without a generator.

    Parameters
    ----------
    net : networks with batch axes ``...``
    x, y : arrays, shapes (..., n, d) and (..., n), of batch axes that broadcast against the networks'
    learning_rate : number, or array of the batch axes
    n_steps : int
    rng : np.random.Generator, optional
    max_norm : float, optional
        To which gradients are clipped.
    """
    step: Any
    single_steps: Any
    if isinstance(net, DiagonalNet):
        step, single_steps = diagonal_step.unchecked, diagonal_single_steps
    else:
        step, single_steps = relu_step.unchecked, relu_single_steps
    if rng is None:
        for _ in range(n_steps):
            net = step(net, x, y, learning_rate, max_norm)
        return net
    *batch, n, d = np.broadcast_shapes(x.shape, (*net.a.shape[:-1], 1, 1))
    n_runs = math.prod(batch)
    # Each run's first example among those of all data sets.
    first = np.broadcast_to(np.arange(0, y.size, n).reshape(y.shape[:-1]), batch).reshape(n_runs)
    rate = np.broadcast_to(learning_rate, batch).reshape(n_runs) if np.ndim(learning_rate) else learning_rate
    runs = type(net)(*(part.reshape(n_runs, *part.shape[len(batch) :]) for part in net))
    for start in range(0, n_steps, CHUNK):
        places = first + rng.integers(n, size=(min(CHUNK, n_steps - start), n_runs))
        runs = single_steps(runs, x.reshape(-1, d), y.reshape(-1), places, rate, max_norm)
    return type(net)(*(part.reshape(one.shape) for part, one in zip(runs, net, strict=True)))


# --- diagonal linear networks ---


class DiagonalSettings(NamedTuple):
    """Sparse regression with diagonal networks. The paper's figures have d = 1000 and n = 300."""

    n: int = 80
    d: int = 200
    n_nonzero: int = 3
    sgd_steps: int = 12_000
    gd_steps: int = 2_000
    max_norm: float | None = 50.0
    """Of the gradient. It clips the transient only; without, large rates diverge before they find a flat place."""


class DiagonalMinima(NamedTuple):
    """Where training ended, each of shape ``(n_seeds, n_rates)``."""

    sharpness: Sharpness
    train_error: Array
    """Mean squared residual."""
    test_error: Array
    """Of the population."""
    norm: Array
    r"""$\\|\beta\\|_1$."""
    net: DiagonalNet


def sparse_target(d: int, n_nonzero: int) -> Array:
    r"""$\beta^*=(1,\dots,1,0,\dots,0)$."""
    return np.where(np.arange(d) < n_nonzero, 1.0, 0.0)


def sample_uniform_inputs(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Independent entries, uniform on [-1, 1]."""
    return rng.uniform(-1, 1, shape)


def _check_runs(learning_rates: Any, n_seeds: int, method: str) -> Array:
    rates = np.asarray(learning_rates, dtype=float)
    if rates.ndim != 1 or not rates.size or not np.all(rates > 0):
        raise ValueError(f"learning_rates: expected a list of positive numbers, got {learning_rates}")
    check_integer("n_seeds", n_seeds, 1)
    if method not in ("sgd", "gd"):
        raise ValueError(f"method: expected 'sgd' or 'gd', got {method!r}")
    return rates


def run_diagonal_experiment(
    settings: DiagonalSettings,
    learning_rates: Any,
    n_seeds: int,
    rng: np.random.Generator,
    method: Method = "sgd",
) -> DiagonalMinima:
    """Train from Gaussian weights on a sparse target, each seed at every learning rate from the same start.

    Parameters
    ----------
    settings : DiagonalSettings
    learning_rates : sequence of numbers > 0
    n_seeds : int >= 1
    rng : np.random.Generator
    method : "sgd" (one example a step) or "gd"

    Returns
    -------
    DiagonalMinima

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Source: arXiv 2305.17490, Section 5 (diagonal linear networks).
    """
    rates = _check_runs(learning_rates, n_seeds, method)
    n, d = settings.n, settings.d
    x = sample_uniform_inputs((n_seeds, 1, n, d), rng)
    target = sparse_target(d, settings.n_nonzero)
    start = rng.standard_normal((2, n_seeds, 1, d))
    batch = (n_seeds, len(rates))
    net = DiagonalNet(*(np.broadcast_to(one, (*batch, d)) for one in start))
    steps = settings.sgd_steps if method == "sgd" else settings.gd_steps
    noise = rng if method == "sgd" else None
    y = x @ target
    net = train(net, x, y, np.broadcast_to(rates, batch), steps, noise, settings.max_norm)
    product = net.a * net.b
    residuals = (x @ product[..., None])[..., 0] - y
    jacobian = diagonal_net_jacobian.unchecked(net, x)
    return DiagonalMinima(
        sharpness(jacobian),
        np.asarray(np.mean(residuals**2, axis=-1)),
        np.asarray(((product - target) ** 2).sum(axis=-1) * UNIFORM_VARIANCE),
        np.asarray(np.abs(product).sum(axis=-1)),
        net,
    )


class Balance(NamedTuple):
    """How balanced the layers are before and after training, each of shape ``(n_seeds, n_ratios)``."""

    before: Array
    after: Array
    remaining: Array
    r"""Of $\\sum_j|a_j^2-b_j^2|$, the part that is left."""
    train_error: Array


def run_balancing_experiment(
    settings: DiagonalSettings,
    ratios: Any,
    n_seeds: int,
    learning_rate: float,
    n_steps: int,
    rng: np.random.Generator,
    method: Method = "sgd",
) -> Balance:
    r"""Train from weights of given balance: $a\sim\mathcal N(0,0.1)$, a variance, and $b$ by :func:`net_of_ratio`.

    Parameters
    ----------
    settings : DiagonalSettings
        Of which the sizes and the clipping are used.
    ratios : sequence of numbers >= 1
    n_seeds : int >= 1
    learning_rate : number > 0
    n_steps : int >= 1
    rng : np.random.Generator
    method : "sgd" (one example a step) or "gd"

    Returns
    -------
    Balance

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Source: arXiv 2305.17490, Section 5 (balance).
    """
    _check_runs([learning_rate], n_seeds, method)
    check_integer("n_steps", n_steps, 1)
    batch = (n_seeds, len(ratios))
    x = sample_uniform_inputs((n_seeds, 1, settings.n, settings.d), rng)
    y = x @ sparse_target(settings.d, settings.n_nonzero)
    a = rng.standard_normal((n_seeds, 1, settings.d)) * 0.1**0.5
    signs = rng.choice([-1.0, 1.0], (n_seeds, 1, settings.d))
    a, signs = (np.broadcast_to(one, (*batch, settings.d)) for one in (a, signs))
    start = net_of_ratio(a, signs, np.broadcast_to(np.asarray(ratios, dtype=float), batch))
    noise = rng if method == "sgd" else None
    net = train(start, x, y, learning_rate, n_steps, noise, settings.max_norm)
    residuals = (x @ (net.a * net.b)[..., None])[..., 0] - y
    before = imbalance(start)
    remaining = imbalance(net) / np.where(before > 0, before, 1)
    return Balance(balance_ratio(start), balance_ratio(net), remaining, np.asarray(np.mean(residuals**2, axis=-1)))


def gd_stable_but_sgd_unstable(
    n: int, d: int, scale: float, rng: np.random.Generator, n_nonzero: int = 3
) -> tuple[DiagonalNet, DiagonalNet, Array]:
    r"""A balanced interpolating network $\beta^*$ plus noise in the null space of the inputs, and the sparse one.

    The noise spreads over all inputs, so that the largest eigenvalue of $G$ stays moderate while the trace is not.

    Parameters
    ----------
    n, d : int, n below d
    scale : number > 0
        Of the noise.
    rng : np.random.Generator
    n_nonzero : int from 1 to d

    Returns
    -------
    net, sparse : DiagonalNet
        Both fit the inputs' targets exactly.
    x : array, shape (n, d)

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Source: arXiv 2305.17490, abstract ("GD stable minima may generalise poorly"); derived.
    """
    d = check_integer("d", d, 2)
    n = check_integer("n", n, 1, d - 1)
    check_integer("n_nonzero", n_nonzero, 1, d)
    check_number("scale", scale, "(0, inf)")
    x = sample_uniform_inputs((n, d), rng)
    noise = scale * rng.standard_normal(d)
    noise = noise - np.linalg.pinv(x) @ (x @ noise)
    target = sparse_target(d, n_nonzero)
    net, sparse = (
        DiagonalNet(np.sqrt(np.abs(beta)), np.sign(beta) * np.sqrt(np.abs(beta))) for beta in (target + noise, target)
    )
    return net, sparse, x


# --- two-layer ReLU networks ---


class ReluSettings(NamedTuple):
    """Student and teacher. The paper's figures have d = 100, m = 100, n = 300 and 10 teacher neurons."""

    n: int = 60
    d: int = 20
    m: int = 40
    n_teacher: int = 4
    sgd_steps: int = 12_000
    gd_steps: int = 1_500
    max_norm: float | None = 50.0
    """Of the gradient, which is huge at the large weights that training starts from."""


class ReluMinima(NamedTuple):
    """Where training ended, each of shape ``(n_seeds, n_rates)``."""

    sharpness: Sharpness
    population_trace: Array
    train_error: Array
    """Mean squared residual."""
    test_error: Array
    """Of the population."""
    norm: Array
    """The path norm."""
    net: ReluNet
    jacobian: Array
    """Shape ``(n_seeds, n_rates, n, m + m d)``."""


def sample_sphere(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    r"""Vectors, along the last axis, uniform on the sphere of radius $\sqrt d$."""
    gaussian = rng.standard_normal(shape)
    return np.asarray(gaussian * np.sqrt(shape[-1] / (gaussian**2).sum(axis=-1, keepdims=True)))


def run_relu_experiment(
    settings: ReluSettings,
    learning_rates: Any,
    n_seeds: int,
    rng: np.random.Generator,
    method: Method = "sgd",
) -> ReluMinima:
    r"""Train a student on a teacher of unit weights, from $a\sim\mathcal N(0,1)$ and $w\sim\mathcal N(0,I/\sqrt d)$.

    That is a large start: from a small one both methods would find small norms.

    Parameters
    ----------
    settings : ReluSettings
    learning_rates : sequence of numbers > 0
    n_seeds : int >= 1
    rng : np.random.Generator
    method : "sgd" (one example a step) or "gd"

    Returns
    -------
    ReluMinima

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Source: arXiv 2305.17490, Section 5 (two-layer ReLU networks).
    """
    rates = _check_runs(learning_rates, n_seeds, method)
    n, d, m = settings.n, settings.d, settings.m
    x = sample_sphere((n_seeds, 1, n, d), rng)
    teachers = sample_sphere((n_seeds, 1, settings.n_teacher, d), rng) / d**0.5
    teacher = ReluNet(np.ones(teachers.shape[:-1]), teachers)
    y = two_layer_relu(teacher, x)
    batch = (n_seeds, len(rates))
    a, w = rng.standard_normal((n_seeds, 1, m)), rng.standard_normal((n_seeds, 1, m, d)) / d**0.25
    net = ReluNet(np.broadcast_to(a, (*batch, m)), np.broadcast_to(w, (*batch, m, d)))
    steps = settings.sgd_steps if method == "sgd" else settings.gd_steps
    noise = rng if method == "sgd" else None
    net = train(net, x, y, np.broadcast_to(rates, batch), steps, noise, settings.max_norm)
    jacobian = two_layer_relu_jacobian.unchecked(net, x)
    test = [
        population_error(ReluNet(net.a[run], net.w[run]), ReluNet(teacher.a[run[0], 0], teacher.w[run[0], 0]))
        for run in np.ndindex(*batch)
    ]
    return ReluMinima(
        sharpness(jacobian),
        population_trace(net),
        np.asarray(np.mean((two_layer_relu.unchecked(net, x) - y) ** 2, axis=-1)),
        np.reshape(test, batch),
        path_norm(net),
        net,
        jacobian,
    )
