r"""Expectations over the perceptron's data: the loss, its derivatives, and the covariance of SGD's noise.

A point agrees with its label by $yF=ms+qz$, $s$ a $\chi$ variable with $k=\chi+1$ degrees of freedom and $z$ normal.
Integrals over $z$ are done, those over $s$ are sums over the nodes of one quadrature; without a margin everything is
a function of $\lambda=m/q$ in closed form.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, constant, exp, log, sqrt
from refimpl.primitives.special import (
    gamma_ratio,
    gauss_legendre,
    normal_density,
    normal_distribution,
    student_tail,
)

# --- with a margin: quadrature ---

N_PANELS, N_NODES = 28, 20
# Where the normal distribution bends, in its standard deviations; beyond 9 it is 0 or 1 to roundoff.
BENDS = (-9, -6, -4, -2, 0, 2, 4, 6, 9)


class PopulationFunctions(NamedTuple):
    r"""Expectations over active points, each of the shape of the order parameters."""

    unfitted: Array
    r"""$n=\mathbb E\,\mathbb 1$, the derivative of the loss with respect to the margin."""
    signal_drive: Array
    r"""$g_1=\mathbb E[s\mathbb 1]=-\partial_m\ell$."""
    noise_restoring: Array
    r"""$g_\perp=-\mathbb E[z\mathbb 1]=\partial_q\ell$."""


class NoiseMoments(NamedTuple):
    """Second moments over active points, each of the shape of the order parameters."""

    signal: Array
    r"""$\mathbb E[s^2\mathbb 1]$."""
    noise: Array
    r"""$\mathbb E[z^2\mathbb 1]$."""
    cross: Array
    r"""$\mathbb E[sz\mathbb 1]$."""


class Nodes(NamedTuple):
    r"""Of the quadrature over $s$, all of shape (..., n_nodes)."""

    s: Array
    mass: Array
    below: Array
    r"""$\Phi(a)$, $a=(\kappa-ms)/q$."""
    density: Array
    r"""$\phi(a)$."""
    a: Array

    def mean(self, values: Array) -> Array:
        return np.asanyarray((self.mass * values).sum(axis=-1))


def _nodes(signal: Array, noise: Array, margin: Array, chi: Any) -> Nodes:
    r"""Panels that grow geometrically from a point so close to 0 that the integrand is linear up to there, and those
    that end where $\Phi(a)$ bends, with Gauss and Legendre's nodes in each.

    Up to the first end the one-point rule for the weight $s^{k-1}$ is exact for linear functions. The masses are made
    to add to 1, which saves the Gamma function of the density and what it rounds.
    """
    freedom = chi + 1
    # A chi variable is within one of the root of its freedom but for tails like a normal one's.
    last = freedom**0.5 + 9
    # How steep: the width over which the distribution bends, at most the whole range.
    slope = np.maximum(np.abs(signal), noise / last)
    width, center = noise / slope, np.sign(signal) * margin / slope
    first = np.minimum(width, 1) / 2**32
    growth = log(last / first)[..., None] / N_PANELS
    geometric = first[..., None] * exp(growth * np.arange(N_PANELS + 1).astype(first.dtype))
    bends = center[..., None] + width[..., None] * np.array(BENDS).astype(first.dtype)
    ends = np.concatenate([geometric, np.clip(bends, first[..., None], geometric[..., -1:])], axis=-1)
    ends = np.sort(ends, axis=-1)
    nodes, weights = gauss_legendre(N_NODES, ends)
    half = (ends[..., 1:] - ends[..., :-1])[..., None] / 2
    s = (ends[..., :-1, None] + half * (1 + nodes)).reshape(*ends.shape[:-1], -1)
    mass = (half * weights).reshape(s.shape) * exp((freedom - 1) * log(s) - s * s / 2)
    s = np.concatenate([first[..., None] * (freedom / (freedom + 1)), s], axis=-1)
    mass = np.concatenate([first[..., None] ** freedom / freedom, mass], axis=-1)
    mass = mass / mass.sum(axis=-1, keepdims=True)
    a = (margin[..., None] - signal[..., None] * s) / noise[..., None]
    # Farther out both are 0 or 1 to any precision, and squares would overflow.
    a = np.clip(a, -200, 200)
    return Nodes(s, mass, normal_distribution(a), normal_density(a), a)


def check_chi(chi: Any) -> Any:
    """The exponent of the density at the boundary, above -1."""
    return check_number("chi", chi, "(-1, inf)")


def _check_population(signal: Array, noise: Array, margin: Array, chi: Any) -> None:
    check_shapes(signal=(signal, "..."), noise=(noise, "..."), margin=(margin, "..."))
    check_chi(chi)
    if not np.min(noise, initial=np.inf) > 0:
        raise ValueError(f"noise: expected numbers > 0, got {np.min(noise)}")
    if np.min(margin, initial=0) < 0:
        raise ValueError(f"margin: expected numbers >= 0, got {np.min(margin)}")


@checked(_check_population)
def population_functions(signal: Array, noise: Array, margin: Array, chi: Any) -> PopulationFunctions:
    r"""$n=\mathbb E_s\Phi(a)$, $g_1=\mathbb E_s\,s\,\Phi(a)$, $g_\perp=\mathbb E_s\phi(a)$, $a=(\kappa-ms)/q$.

    Parameters
    ----------
    signal : array
        $m$.
    noise : array of the same shape, > 0
        $q$.
    margin : array of the same shape, >= 0
        $\kappa$.
    chi : number > -1

    Returns
    -------
    PopulationFunctions

    Raises
    ------
    ValueError
        If shapes do not fit or a number is out of range or not finite.

    Source: arXiv 2301.13703, the perceptron (derived).
    """
    nodes = _nodes(signal, noise, margin, chi)
    return PopulationFunctions(nodes.mean(nodes.below), nodes.mean(nodes.s * nodes.below), nodes.mean(nodes.density))


@checked(_check_population)
def population_loss(signal: Array, noise: Array, margin: Array, chi: Any) -> Array:
    r"""$\ell(m,q)=\mathbb E(\kappa-ms-qz)^+=q\,\mathbb E_s[a\Phi(a)+\phi(a)]$, by quadrature.

    Parameters
    ----------
    signal, noise, margin, chi : as for :func:`population_functions`

    Returns
    -------
    array of the same shape

    Raises
    ------
    ValueError
        As :func:`population_functions`.

    Source: arXiv 2301.13703, the perceptron (derived).
    """
    nodes = _nodes(signal, noise, margin, chi)
    return np.asanyarray(noise * nodes.mean(nodes.a * nodes.below + nodes.density))


@checked(_check_population)
def population_loss_vjp(
    signal: Array, noise: Array, margin: Array, chi: Any
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    r""":func:`population_loss` and its pullback ``cotangent -> (signal, noise, margin)``: $-g_1,\ g_\perp,\ n$."""
    nodes = _nodes(signal, noise, margin, chi)
    loss = np.asanyarray(noise * nodes.mean(nodes.a * nodes.below + nodes.density))

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        return (
            np.asanyarray(-cotangent * nodes.mean(nodes.s * nodes.below)),
            np.asanyarray(cotangent * nodes.mean(nodes.density)),
            np.asanyarray(cotangent * nodes.mean(nodes.below)),
        )

    return loss, pullback


@checked(_check_population)
def noise_moments(signal: Array, noise: Array, margin: Array, chi: Any) -> NoiseMoments:
    r"""$\mathbb E_s\,s^2\Phi(a)$, $\mathbb E_s[\Phi(a)-a\phi(a)]$ and $-\mathbb E_s\,s\,\phi(a)$, by quadrature.

    Parameters
    ----------
    signal, noise, margin, chi : as for :func:`population_functions`

    Returns
    -------
    NoiseMoments

    Raises
    ------
    ValueError
        As :func:`population_functions`.

    Source: arXiv 2301.13703, the noise of SGD (derived).
    """
    s, _, below, density, a = nodes = _nodes(signal, noise, margin, chi)
    return NoiseMoments(nodes.mean(s * s * below), nodes.mean(below - a * density), -nodes.mean(s * density))


def noise_covariance(weights: Array, margin: Any, chi: Any) -> Array:
    r"""$\Sigma=\frac1d\operatorname{Cov}(v\mathbb 1)$, $v=yx$: that of a batch's gradient is $\Sigma/B$.

    Orthogonal to $e_1$ and $\hat w_\perp$ it is exactly $\frac ndI$; in their plane its entries are
    $\frac1d(\mathbb E[s^2\mathbb 1]-g_1^2)$, $\frac1d(\mathbb E[z^2\mathbb 1]-g_\perp^2)$ and
    $\frac1d(\mathbb E[sz\mathbb 1]+g_1g_\perp)$.

    Parameters
    ----------
    weights : array, shape (n_features,), n_features >= 2
        With $w_\perp\ne0$.
    margin : number >= 0
    chi : number > -1

    Returns
    -------
    array, shape (n_features, n_features)

    Raises
    ------
    ValueError
        If the weights are no such vector or a number is out of range.

    Source: arXiv 2301.13703, the stochastic differential equation of SGD (derived).
    """
    n_features = check_shapes(weights=(weights, "n_features"))["n_features"]
    margin = check_number("margin", margin, "[0, inf)")
    check_chi(chi)
    across = weights[1:]
    length = np.sqrt((across * across).sum())
    if not length > 0:
        raise ValueError(f"weights: expected one of them besides the first that is not 0, got {weights!r:.80}")
    root = sqrt(constant(n_features, weights))
    order = np.asanyarray(weights[0] / root), np.asanyarray(length / root)
    given = (*order, np.full_like(order[0], margin), chi)
    n, drive, restoring = population_functions.unchecked(*given)
    along, sideways, cross = noise_moments.unchecked(*given)
    direction = np.concatenate([0 * weights[:1], across / length])
    first = np.zeros_like(weights)
    first[0] = 1
    mixed = np.multiply.outer(first, direction)
    covariance = (
        n * np.eye(n_features, dtype=weights.dtype)
        + (along - drive * drive - n) * np.multiply.outer(first, first)
        + (sideways - restoring * restoring - n) * np.multiply.outer(direction, direction)
        + (cross + drive * restoring) * (mixed + mixed.T)
    )
    return np.asanyarray(covariance / n_features)


# --- without a margin: closed forms ---


def _check_ratio(overlap_ratio: Array, chi: Any) -> None:
    check_shapes(overlap_ratio=(overlap_ratio, "..."))
    check_chi(chi)


def _power(overlap_ratio: Array, exponent: Any) -> Array:
    r"""$(1+\lambda^2)^{-e/2}$."""
    return np.asanyarray((1 + overlap_ratio * overlap_ratio) ** (-exponent / 2))


@checked(_check_ratio)
def unfitted_fraction(overlap_ratio: Array, chi: Any) -> Array:
    r"""$n(\lambda)=F_{t_k}(-\lambda\sqrt k)$, $k=\chi+1$: the test error; without a margin also the active share.

    For the Gaussian, $\chi=0$, it is $\frac1\pi\arctan\frac1\lambda$.

    Parameters
    ----------
    overlap_ratio : array
        $\lambda=m/q$.
    chi : number > -1

    Returns
    -------
    array of the same shape

    Raises
    ------
    ValueError
        If a number is out of range or not finite.

    Source: arXiv 2301.13703, the perceptron (derived).
    """
    return student_tail(overlap_ratio, chi + 1)


@checked(_check_ratio)
def unfitted_fraction_vjp(overlap_ratio: Array, chi: Any) -> tuple[Array, Callable[[Array], tuple[Array]]]:
    r""":func:`unfitted_fraction` and its pullback: $n'=-\mathbb E[s\phi(\lambda s)]$."""

    def pullback(cotangent: Array) -> tuple[Array]:
        return (np.asanyarray(-cotangent * boundary_flux(overlap_ratio, chi)),)

    return student_tail(overlap_ratio, chi + 1), pullback


def boundary_flux(overlap_ratio: Array, chi: Any) -> Array:
    r"""$h=\mathbb E[s\phi(\lambda s)]=\frac{\Gamma((k+1)/2)}{\sqrt\pi\,\Gamma(k/2)}(1+\lambda^2)^{-(k+1)/2}$.

    Arguments unchecked.
    """
    scale = gamma_ratio((chi + 1) / 2, overlap_ratio) / sqrt(constant("pi", overlap_ratio))
    return np.asanyarray(scale * _power(overlap_ratio, chi + 2))


@checked(_check_ratio)
def signal_drive(overlap_ratio: Array, chi: Any) -> Array:
    r"""$g_1(\lambda)=\sqrt2\,\frac{\Gamma((k+1)/2)}{\Gamma(k/2)}F_{t_{k+1}}(-\lambda\sqrt{k+1})$, $k=\chi+1$.

    Without a margin. For $\chi=0$, the Gaussian, it is $\frac1{\sqrt{2\pi}}\big(1-\lambda/\sqrt{1+\lambda^2}\big)$.

    Parameters
    ----------
    overlap_ratio, chi : as for :func:`unfitted_fraction`

    Returns
    -------
    array of the same shape

    Raises
    ------
    ValueError
        As :func:`unfitted_fraction`.

    Source: arXiv 2301.13703, the perceptron (derived).
    """
    scale = sqrt(constant(2, overlap_ratio)) * gamma_ratio((chi + 1) / 2, overlap_ratio)
    return np.asanyarray(scale * student_tail(overlap_ratio, chi + 2))


@checked(_check_ratio)
def signal_drive_vjp(overlap_ratio: Array, chi: Any) -> tuple[Array, Callable[[Array], tuple[Array]]]:
    r""":func:`signal_drive` and its pullback: $g_1'=-\mathbb E[s^2\phi(\lambda s)]$."""

    def pullback(cotangent: Array) -> tuple[Array]:
        scale = (chi + 1) / sqrt(2 * constant("pi", overlap_ratio))
        return (np.asanyarray(-cotangent * scale * _power(overlap_ratio, chi + 3)),)

    return signal_drive.unchecked(overlap_ratio, chi), pullback


@checked(_check_ratio)
def noise_restoring(overlap_ratio: Array, chi: Any) -> Array:
    r"""$g_\perp(\lambda)=(1+\lambda^2)^{-k/2}/\sqrt{2\pi}$, $k=\chi+1$, without a margin.

    Parameters
    ----------
    overlap_ratio, chi : as for :func:`unfitted_fraction`

    Returns
    -------
    array of the same shape

    Raises
    ------
    ValueError
        As :func:`unfitted_fraction`.

    Source: arXiv 2301.13703, the perceptron (derived).
    """
    return np.asanyarray(_power(overlap_ratio, chi + 1) / sqrt(2 * constant("pi", overlap_ratio)))


@checked(_check_ratio)
def noise_restoring_vjp(overlap_ratio: Array, chi: Any) -> tuple[Array, Callable[[Array], tuple[Array]]]:
    r""":func:`noise_restoring` and its pullback: $g_\perp'=-\frac{k\lambda}{\sqrt{2\pi}}(1+\lambda^2)^{-k/2-1}$."""

    def pullback(cotangent: Array) -> tuple[Array]:
        slope = (chi + 1) * overlap_ratio * _power(overlap_ratio, chi + 3)
        return (np.asanyarray(-cotangent * slope / sqrt(2 * constant("pi", overlap_ratio))),)

    return noise_restoring.unchecked(overlap_ratio, chi), pullback


def closed_noise_moments(overlap_ratio: Array, chi: Any) -> NoiseMoments:
    r""":func:`noise_moments` at $\kappa=0$: $k\,F_{t_{k+2}}(-\lambda\sqrt{k+2})$, $n+\lambda h$ and $-h$; unchecked."""
    flux = boundary_flux(overlap_ratio, chi)
    return NoiseMoments(
        np.asanyarray((chi + 1) * student_tail(overlap_ratio, chi + 3)),
        np.asanyarray(student_tail(overlap_ratio, chi + 1) + overlap_ratio * flux),
        -flux,
    )
