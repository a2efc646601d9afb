r"""How far noise moves the ends of a spectrum: additive for the Hessian, multiplicative for Gauss-Newton.

Additive: $H_{batch}=H_{emp}+\epsilon$ with a Wigner matrix $\epsilon$, whose spectrum is a semicircle on $[-2s,2s]$.
Multiplicative: $G_{batch}=\frac1BX^\top X$, whose bulk is Marchenko-Pastur's. An eigenvalue that stands far enough
from the bulk stays outside it, moved away from its centre; below a threshold all that is seen is the bulk's edge.

The closed forms act elementwise on arrays of eigenvalues, in their dtype.
"""

from typing import Any

import numpy as np

from refimpl.primitives.checks import check_array, check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, is_symbolic, sqrt, transpose

# --- how much noise a batch has ---


def effective_batch_size(batch_size: Any, n_samples: Any) -> Any:
    r"""$\mathfrak b=B/(1-B/N)=BN/(N-B)$, so that $1/\mathfrak b=1/B-1/N$; infinite if the batch is all the data.

    For a batch drawn without replacement, as per-epoch shuffling draws it. With replacement $\mathfrak b=B$.

    Parameters
    ----------
    batch_size : int from 1 to `n_samples`, or symbol
    n_samples : int >= 1, or symbol

    Returns
    -------
    number > 0

    Raises
    ------
    ValueError
        If a size is out of range.

    Source: arXiv 2006.09092, the lemma on the entries of the fluctuation matrix.
    """
    n_samples = check_integer("n_samples", n_samples, 1)
    symbolic = getattr(n_samples, "free_symbols", None)
    batch_size = check_integer("batch_size", batch_size, 1, None if symbolic else n_samples)
    return float("inf") if batch_size == n_samples else batch_size * n_samples / (n_samples - batch_size)


def noise_scale(n_params: Any, variance: Any, effective_batch: Any) -> Any:
    r"""$s=\sigma_\epsilon\sqrt{P/\mathfrak b}$: the semicircle of the fluctuations lies on $[-2s,2s]$.

    Parameters
    ----------
    n_params : int >= 1
    variance : number >= 0
        $\sigma_\epsilon^2$ of one example's Hessian entry.
    effective_batch : number > 0, may be infinite

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """
    _check_noise(n_params, variance, effective_batch)
    return sqrt(_squared_scale(n_params, variance, effective_batch))[()]


def _check_noise(n_params: Any, variance: Any, effective_batch: Any) -> None:
    check_integer("n_params", n_params, 1)
    check_number("variance", variance, "[0, inf)")
    check_number("effective_batch", effective_batch, "(0, inf]")


def _squared_scale(n_params: Any, variance: Any, effective_batch: Any) -> Any:
    return n_params * variance / effective_batch


# --- additive: the Hessian ---


def wigner_noise(gaussian: Array, noise_scale: Any, n_params: Any) -> Array:
    r"""$\epsilon=(A+A^\top)\,s/\sqrt{2P}$ of a matrix $A$ of independent standard Gaussians.

    Entries off the diagonal have variance $s^2/P=\sigma_\epsilon^2/\mathfrak b$, on it twice that: the Gaussian
    orthogonal ensemble, whose law no rotation changes.

    Parameters
    ----------
    gaussian : array, shape (..., P, P), or a block
    noise_scale : number >= 0
    n_params : int >= 1
        $P$, which a block does not know.

    Returns
    -------
    array, shape (..., P, P), symmetric

    Raises
    ------
    ValueError
        If the matrix is not square, an entry is not finite or a number is out of range.
    """
    check_shapes(gaussian=(gaussian, "... p p"))
    noise_scale = check_number("noise_scale", noise_scale, "[0, inf)")
    n_params = check_integer("n_params", n_params, 1)
    root = sqrt(np.asarray(2 * n_params, dtype=gaussian.dtype))
    return (gaussian + transpose(gaussian)) * (noise_scale / root)


def spiked_wigner(spikes: Array, n_params: int, noise_scale: float, rng: np.random.Generator) -> Array:
    r"""A draw of $H_{batch}=H_{emp}+\epsilon$: $H_{emp}$ has the spikes for its first eigenvalues and 0 for all others.

    The eigenvectors of $H_{emp}$ are the first unit vectors, which is no loss: the law of $\epsilon$ is the same in
    every basis.

    Parameters
    ----------
    spikes : array, shape (n_spikes,)
    n_params : int >= n_spikes
        $P$.
    noise_scale : float >= 0
        $s$.
    rng : np.random.Generator

    Returns
    -------
    array, shape (P, P)

    Raises
    ------
    ValueError
        If there are more spikes than parameters, an entry is not finite or a number is out of range.

    Source: arXiv 2006.09092, the additive model.
    """
    n_spikes = check_shapes(spikes=(spikes, "n_spikes"))["n_spikes"]
    n_params = check_integer("n_params", n_params, n_spikes)
    batch = wigner_noise(rng.standard_normal((n_params, n_params)), noise_scale, n_params)
    batch[np.arange(n_spikes), np.arange(n_spikes)] += spikes
    return batch


def _check_ends(lambda_max: Any, lambda_min: Any, n_params: Any, variance: Any, effective_batch: Any) -> None:
    _check_noise(n_params, variance, effective_batch)
    largest, smallest = check_array("lambda_max", lambda_max), check_array("lambda_min", lambda_min)
    if largest.shape != smallest.shape:
        raise ValueError(f"lambda_min: expected shape {largest.shape} as lambda_max, got {smallest.shape}")
    if not is_symbolic(largest, smallest) and np.any(largest < smallest):
        raise ValueError("lambda_min: expected at most lambda_max, got more")


@checked(_check_ends)
def additive_extremal_eigenvalues(
    lambda_max: Any, lambda_min: Any, n_params: Any, variance: Any, effective_batch: Any
) -> tuple[Array, Array]:
    r"""The largest and the smallest eigenvalue of the batch Hessian, from those of the full data's.

    $\lambda_1'=\lambda_1+s^2/\lambda_1$ if $\lambda_1>s$, else $2s$; $\lambda_P'=\lambda_P+s^2/\lambda_P$ if
    $\lambda_P<-s$, else $-2s$; $s^2=P\sigma_\epsilon^2/\mathfrak b$. The bulk of the full-data Hessian is at 0.

    Since the first line needs $\lambda_1>s$, it moves an eigenvalue to less than twice its value.

    Parameters
    ----------
    lambda_max, lambda_min : arrays of one shape (...), or numbers
        The smallest keeps its sign.
    n_params : int >= 1
    variance : number >= 0
        $\sigma_\epsilon^2$.
    effective_batch : number > 0, may be infinite

    Returns
    -------
    largest, smallest : arrays, shape (...)
        Limits for many parameters.

    Raises
    ------
    ValueError
        If shapes differ, an entry is not finite, a number is out of range or the largest is below the smallest.

    Source: arXiv 2006.09092, the theorem on the extremal eigenvalues of the batch Hessian.
    """
    largest, smallest = np.asanyarray(lambda_max), np.asanyarray(lambda_min)
    return (
        _moved_or_edge(largest, n_params, variance, effective_batch),
        -_moved_or_edge(np.asanyarray(-smallest), n_params, variance, effective_batch),
    )


def _moved_or_edge(eigenvalue: Array, n_params: Any, variance: Any, effective_batch: Any) -> Array:
    squared = np.asarray(_squared_scale(n_params, variance, effective_batch), dtype=eigenvalue.dtype)
    scale = sqrt(squared)
    outside = _is_above(eigenvalue, scale)
    return np.where(outside, eigenvalue + squared / np.where(outside, eigenvalue, 1), 2 * scale)


def _is_above(eigenvalue: Array, threshold: Array) -> Array:
    """Where the eigenvalue is above; symbols must have the assumptions that decide it."""
    return np.asarray(eigenvalue > threshold, dtype=bool)


def _check_overlap(eigenvalue: Any, n_params: Any, variance: Any, effective_batch: Any) -> None:
    check_array("eigenvalue", eigenvalue)
    _check_noise(n_params, variance, effective_batch)


@checked(_check_overlap)
def eigenvector_overlap(eigenvalue: Any, n_params: Any, variance: Any, effective_batch: Any) -> Array:
    r"""$(u^\top u')^2=1-s^2/\lambda^2$ between eigenvectors of full data and batch if $|\lambda|>s$, else 0.

    Parameters
    ----------
    eigenvalue : array, shape (...), or number
        $\lambda_1$ or $\lambda_P$.
    n_params, variance, effective_batch : as for :func:`additive_extremal_eigenvalues`

    Returns
    -------
    array, shape (...), from 0 to 1
        The square, not the cosine.

    Raises
    ------
    ValueError
        If an entry is not finite or a number is out of range.

    Source: arXiv 2006.09092, the theorem on eigenvectors; Benaych-Georges and Nadakuditi (2011).
    """
    eigenvalue = np.asanyarray(eigenvalue)
    squared = np.asarray(_squared_scale(n_params, variance, effective_batch), dtype=eigenvalue.dtype)
    size = eigenvalue * eigenvalue
    outside = _is_above(size, squared)
    return np.where(outside, 1 - squared / np.where(outside, size, 1), 0 * eigenvalue)


# --- additive, with a bulk that is more than a point ---


def stieltjes_transform(x: Any, eigenvalues: Array) -> Array:
    r"""$g_\mu(x)=\int\frac{d\mu(y)}{x-y}$ for the empirical law of these eigenvalues, none of which is `x`.

    Parameters
    ----------
    x : array, shape (...), or number
    eigenvalues : array, shape (n,)

    Returns
    -------
    array, shape (...)
    """
    return np.asanyarray((1 / (np.asanyarray(x)[..., None] - eigenvalues)).sum(axis=-1) / len(eigenvalues))


def stieltjes_slope(x: Any, eigenvalues: Array) -> Array:
    r"""$-g_\mu'(x)=\int\frac{d\mu(y)}{(x-y)^2}$; parameters of :func:`stieltjes_transform`."""
    return np.asanyarray((1 / (np.asanyarray(x)[..., None] - eigenvalues) ** 2).sum(axis=-1) / len(eigenvalues))


def bulk_edge(bulk_eigenvalues: Array, noise_scale: float) -> Array:
    r"""$x^*>\max\operatorname{supp}\mu$ with $s^2\int\frac{d\mu(y)}{(x^*-y)^2}=1$, by bisection (floats only).

    The top of the broadened bulk is $x^*+s^2g_\mu(x^*)$; without noise $x^*$ is the largest eigenvalue.

    Parameters
    ----------
    bulk_eigenvalues : array, shape (n,)
    noise_scale : float >= 0

    Returns
    -------
    array, shape (), in the dtype of the eigenvalues

    Raises
    ------
    ValueError
        If there is no eigenvalue, one is not finite, or the scale is negative.
    """
    n = check_shapes(bulk_eigenvalues=(bulk_eigenvalues, "n"))["n"]
    scale = np.asarray(check_number("noise_scale", noise_scale, "[0, inf)"), dtype=bulk_eigenvalues.dtype)
    top = np.max(bulk_eigenvalues)
    # The largest alone, of weight 1/n, puts the root above the first, and all of the weight there below the second.
    low, high = top + scale / sqrt(np.asarray(n, dtype=scale.dtype)), top + scale
    while low < (middle := low + (high - low) / 2) < high:
        if scale * scale * stieltjes_slope(middle, bulk_eigenvalues) > 1:
            low = middle
        else:
            high = middle
    return np.asanyarray(high)


def outlier_position(lambda_max: Any, bulk_eigenvalues: Array, noise_scale: float) -> Array:
    r"""The largest eigenvalue of $H_{emp}+\epsilon$ if the bulk of $H_{emp}$ is the law $\mu$ (floats only).

    $\lambda_1'=\lambda_1+s^2g_\mu(\lambda_1)$ if $\lambda_1>x^*$ of :func:`bulk_edge`, equivalently if
    $s^2\int\frac{d\mu(y)}{(\lambda_1-y)^2}<1$ outside the bulk; else the edge $x^*+s^2g_\mu(x^*)$. A bulk at 0 gives
    :func:`additive_extremal_eigenvalues`; minus the spectrum gives the lower end.

    Parameters
    ----------
    lambda_max : array, shape (...), or number
    bulk_eigenvalues : array, shape (n,)
        Without the outlier.
    noise_scale : float >= 0
        $s$.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If there is no eigenvalue, one is not finite, or the scale is negative.

    Source: extends arXiv 2006.09092; Capitaine, Donati-Martin, Féral and Février (2011).
    """
    eigenvalue = check_array("lambda_max", lambda_max)
    edge = bulk_edge(bulk_eigenvalues, noise_scale)
    root = np.maximum(eigenvalue, edge)
    if noise_scale == 0:
        return root
    scale = np.asarray(noise_scale, dtype=bulk_eigenvalues.dtype)
    return root + scale * scale * stieltjes_transform(root, bulk_eigenvalues)


# --- multiplicative: the Gauss-Newton matrix ---


def spiked_covariance_samples(
    lambda_max: float, n_params: int, batch_size: int, variance: float, rng: np.random.Generator
) -> Array:
    r"""Rows with covariance $\sigma^2(I-uu^\top)+\lambda_1uu^\top$, $u$ the first unit vector.

    $G_{batch}=\frac1BX^\top X$ of them; its eigenvalues are the squared singular values of $X$ over $B$.

    Parameters
    ----------
    lambda_max, variance : float >= 0
    n_params, batch_size : int >= 1
    rng : np.random.Generator

    Returns
    -------
    array, shape (B, P)

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: arXiv 2006.09092, the multiplicative model.
    """
    shape = check_integer("batch_size", batch_size, 1), check_integer("n_params", n_params, 1)
    samples = rng.standard_normal(shape)
    samples *= check_number("variance", variance, "[0, inf)") ** 0.5
    samples[:, 0] = rng.standard_normal(shape[0]) * check_number("lambda_max", lambda_max, "[0, inf)") ** 0.5
    return samples


def _check_ggn(lambda_max: Any, n_params: Any, batch_size: Any, variance: Any) -> None:
    check_array("lambda_max", lambda_max)
    check_integer("n_params", n_params, 1)
    check_integer("batch_size", batch_size, 1)
    check_number("variance", variance, "[0, inf)")


@checked(_check_ggn)
def ggn_extremal_eigenvalue(lambda_max: Any, n_params: Any, batch_size: Any, variance: Any) -> Array:
    r"""The largest eigenvalue of the batch Gauss-Newton matrix, from that of the full data's.

    With $\gamma=P/B$, $\lambda_1'=\lambda_1\big(1+\frac{\gamma\sigma^2}{\lambda_1-\sigma^2}\big)$ if
    $\lambda_1>\sigma^2(1+\sqrt\gamma)$, else $\sigma^2(1+\sqrt\gamma)^2$, which for $P\gg B$ is $\sigma^2P/B$.

    Parameters
    ----------
    lambda_max : array, shape (...), or number
    n_params, batch_size : int >= 1
    variance : number >= 0
        $\sigma^2$, the bulk of the full data's eigenvalues.

    Returns
    -------
    array, shape (...)
        A limit for many parameters and examples.

    Raises
    ------
    ValueError
        If an entry is not finite or a number is out of range.

    Source: arXiv 2006.09092, the theorem on the generalised Gauss-Newton matrix; Baik and Silverstein (2006).
    """
    eigenvalue = np.asanyarray(lambda_max)
    ratio = np.asarray(n_params, dtype=eigenvalue.dtype) / batch_size
    variance = np.asarray(variance, dtype=eigenvalue.dtype)
    edge = variance * (1 + sqrt(ratio))
    outside = _is_above(eigenvalue, edge)
    distance = np.where(outside, eigenvalue - variance, 1)
    return np.where(outside, eigenvalue * (1 + ratio * variance / distance), edge * (1 + sqrt(ratio)))
