r"""Nonlinear targets: if the law of $f$ does not change under rotations, a step on the *linear* loss is optimal.

For $f(x)=\phi(\beta^\top x)$ with $\beta$ uniform on the sphere everything depends on three moments of $\phi$.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.numbers import Array
from refimpl.tasks.linear_regression import ScalarTasks


class TargetMoments(NamedTuple):
    r"""Moments of $\phi(g)$ for $g\sim N(0,1)$."""

    correlation: Any
    r"""$\kappa=\mathbb E[g\phi]$."""
    square: Any
    r"""$\mathbb E[\phi^2]$."""
    weighted_square: Any
    r"""$\mathbb E[g^2\phi^2]$."""


def check_moments(moments: TargetMoments) -> TargetMoments:
    r"""Return the moments as Python numbers if some $\phi$ has them.

    Raises
    ------
    ValueError
        If one is not finite or a square negative, or $\kappa^2>\mathbb E\phi^2$, against Cauchy and Schwarz.
    """
    correlation = check_number("moments.correlation", moments.correlation)
    square = check_number("moments.square", moments.square, "[0, inf)")
    weighted = check_number("moments.weighted_square", moments.weighted_square, "[0, inf)")
    # Quadrature and sums round: phi = identity attains the bound.
    if not getattr(correlation**2 - square, "free_symbols", None) and correlation**2 > square * (1 + 1e-9):
        raise ValueError(
            f"moments: expected correlation^2 <= square, got {correlation**2:.6g} > {square:.6g}, which no function has"
        )
    return TargetMoments(correlation, square, weighted)


def target_moments(phi: Callable[[Array], Array]) -> TargetMoments:
    r"""The moments of $\phi(g)$ by quadrature, to about ten digits where $\phi$ is smooth on either side of 0.

    Parameters
    ----------
    phi : callable
        Elementwise on an array; of at most exponential growth.

    Raises
    ------
    ValueError
        If $\phi$ returns another shape or a value that is not finite.
    """
    # A kink at 0, as a ReLU has, would spoil a rule that crosses it.
    points, masses = np.polynomial.legendre.leggauss(200)
    half = (points + 1) * 6
    g = np.concatenate([half, -half])
    mass = np.tile(masses * 6, 2) * np.exp(-g * g / 2) / np.sqrt(2 * np.pi)
    values = _values(phi, g)
    return TargetMoments(float(mass @ (g * values)), float(mass @ values**2), float(mass @ (g * values) ** 2))


def nonlinear_learning_rate(moments: TargetMoments, n_inputs: int, n_context: int, noise_std: Any) -> Any:
    r"""$\eta=\kappa^2/\big(\mathbb E[g^2\phi^2]+(d-1)\mathbb E[\phi^2]+\sigma^2d+(n-1)\kappa^2\big)$, 0 if $\kappa=0$.

    Parameters
    ----------
    moments : TargetMoments
    n_inputs : int >= 1
    n_context : int >= 1
    noise_std : number >= 0

    Returns
    -------
    number

    Raises
    ------
    ValueError
        If an argument is out of range or no function has the moments.

    Source: arXiv 2307.03576, Theorem 3 (the closed form is derived here).
    """
    correlation, spread, _ = _check_nonlinear(moments, n_inputs, n_context, noise_std)
    return correlation**2 / spread if correlation != 0 else correlation


def nonlinear_loss(moments: TargetMoments, n_inputs: int, n_context: int, noise_std: Any) -> Any:
    r"""$\mathbb E\phi^2+\sigma^2-n\eta\kappa^2$, the loss at :func:`nonlinear_learning_rate`; same arguments.

    Source: arXiv 2307.03576, Theorem 3 (the value is derived here).
    """
    correlation, spread, total = _check_nonlinear(moments, n_inputs, n_context, noise_std)
    return total - n_context * correlation**4 / spread if correlation != 0 else total


def _check_nonlinear(moments: TargetMoments, n_inputs: int, n_context: int, noise_std: Any) -> tuple[Any, Any, Any]:
    r"""$\kappa$, the denominator of $\eta$, and $\mathbb E\phi^2+\sigma^2$."""
    correlation, square, weighted_square = check_moments(moments)
    n_inputs = check_integer("n_inputs", n_inputs, 1)
    n_context = check_integer("n_context", n_context, 1)
    variance = check_number("noise_std", noise_std, "[0, inf)") ** 2
    spread = weighted_square + (n_inputs - 1) * square + variance * n_inputs + (n_context - 1) * correlation**2
    return correlation, spread, square + variance


def sample_single_index_tasks(
    phi: Callable[[Array], Array],
    n_tasks: int,
    n_inputs: int,
    n_context: int,
    noise_std: float,
    rng: np.random.Generator,
) -> ScalarTasks:
    r"""Tasks $y=\phi(\beta^\top x)+\epsilon$ with $\beta$ uniform on the sphere for each task and $x\sim N(0,I)$.

    Parameters
    ----------
    phi : callable
        Elementwise on an array.
    n_tasks, n_inputs, n_context : int >= 1
    noise_std : float >= 0
    rng : numpy.random.Generator

    Returns
    -------
    ScalarTasks
        With $\beta$ as its weights.

    Raises
    ------
    ValueError
        If a size is below 1, the noise negative, or $\phi$ returns another shape or a value that is not finite.

    Source: arXiv 2307.03576, Section 5.
    """
    n_tasks = check_integer("n_tasks", n_tasks, 1)
    n_inputs = check_integer("n_inputs", n_inputs, 1)
    n_context = check_integer("n_context", n_context, 1)
    noise_std = check_number("noise_std", noise_std, "[0, inf)")
    gaussian = rng.standard_normal((n_tasks, n_inputs))
    beta = gaussian / np.linalg.norm(gaussian, axis=-1, keepdims=True)
    x = rng.standard_normal((n_tasks, n_context + 1, n_inputs))
    y = _values(phi, (x @ beta[..., None])[..., 0]) + noise_std * rng.standard_normal(x.shape[:-1])
    return ScalarTasks(x[:, :-1], y[:, :-1], x[:, -1], y[:, -1], beta)


def _values(phi: Callable[[Array], Array], g: Array) -> Array:
    values = np.asarray(phi(g), dtype=g.dtype)
    if values.shape != g.shape:
        raise ValueError(f"phi: expected values of shape {g.shape}, got {values.shape}")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"phi: expected finite values, got {values[~np.isfinite(values)][0]}")
    return values
