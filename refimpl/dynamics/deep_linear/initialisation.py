r"""Starting weights, and what products of many random matrices look like (Sections 1.3, 2 and 3, Eq. 19).

A product of orthogonal matrices is orthogonal. A product of Gaussian matrices with variance $1/N$ keeps the mean
square of its singular values at 1, but ever fewer of them carry it.
"""

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from refimpl.dynamics.deep_linear.decoupling import decoupled_weights
from refimpl.primitives.checks import check_array, check_integer, check_number, check_shapes
from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.numbers import Array

Shape = tuple[int, ...]
Draw = Callable[[Shape, np.random.Generator], Array]


def _check_matrix_shape(shape: Shape) -> Shape:
    if not isinstance(shape, tuple) or len(shape) < 2:
        raise ValueError(f"shape: expected a tuple (..., n_outputs, n_inputs), got {shape!r}")
    return tuple(check_integer(f"shape[{axis}]", size, 1) for axis, size in enumerate(shape))


def check_layer_sizes(layer_sizes: Sequence[int]) -> list[int]:
    """Return the widths of at least two layers of neurons, checked."""
    sizes = [check_integer(f"layer_sizes[{layer}]", size, 1) for layer, size in enumerate(layer_sizes)]
    if len(sizes) < 2:
        raise ValueError(f"layer_sizes: expected at least two layers, got {sizes}")
    return sizes


def orthogonal_init(shape: Shape, rng: np.random.Generator) -> Array:
    """Matrices of Haar's law: orthogonal, or with orthonormal rows or columns where they are not square.

    The QR decomposition of a Gaussian matrix, with the signs of columns chosen so that R's diagonal is positive;
    without that choice the law depends on how LAPACK reflects.

    Parameters
    ----------
    shape : tuple (..., n_outputs, n_inputs)
    rng : numpy.random.Generator

    Returns
    -------
    array of this shape

    Raises
    ------
    ValueError
        If a size is not positive.

    Source: arXiv 1312.6120, Section 3; Mezzadri 2007 for the signs.
    """
    *batch, n_outputs, n_inputs = _check_matrix_shape(shape)
    tall = (*batch, max(n_outputs, n_inputs), min(n_outputs, n_inputs))
    q, r = np.linalg.qr(rng.standard_normal(tall))
    q = q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]
    return q if n_outputs >= n_inputs else np.swapaxes(q, -1, -2)


def scaled_gaussian_init(shape: Shape, rng: np.random.Generator) -> Array:
    """Matrices of independent Gaussian entries of variance 1 / n_inputs, which keep the mean norm of a vector.

    Parameters
    ----------
    shape : tuple (..., n_outputs, n_inputs)
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        If a size is not positive.

    Source: arXiv 1312.6120, Section 3.
    """
    shape = _check_matrix_shape(shape)
    return np.asanyarray(rng.standard_normal(shape) / np.sqrt(shape[-1]))


def small_random_init(layer_sizes: Sequence[int], std: float, rng: np.random.Generator) -> list[Array]:
    """Weights of independent Gaussian entries with one standard deviation in all layers.

    Parameters
    ----------
    layer_sizes : widths of the layers of neurons, from the input
    std : number > 0
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        If a size or the standard deviation is not positive, or there are fewer than two layers.

    Source: arXiv 1312.6120, Section 1.3 (it takes 0.01 on its images).
    """
    sizes, std = check_layer_sizes(layer_sizes), check_number("std", std, "(0, inf)")
    return [std * rng.standard_normal((after, before)) for before, after in itertools.pairwise(sizes)]


def decoupled_init(
    sigma_31: Array, layer_sizes: Sequence[int], mode_strength: Any, rng: np.random.Generator
) -> list[Array]:
    r"""Weights on the decoupled manifold: $W^l=R_{l+1}D_lR_l^\top$ with $R_1=V$, $R_{n+1}=U$ of
    $\Sigma^{31}=USV^\top$, the other rotations random, $D_l=u_0^{1/n}$ (LAPACK: floats only).

    Hidden layers may be narrower or wider than the data.

    Parameters
    ----------
    sigma_31 : array, shape (n_outputs, n_inputs)
    layer_sizes : widths of the layers of neurons, from the input
    mode_strength : number > 0, or array, shape (k,)
        $u_0$ of as many modes as the smallest layer has units, or of each of the first k.
    rng : numpy.random.Generator

    Returns
    -------
    list of arrays

    Raises
    ------
    ValueError
        If sizes do not fit, there are more modes than the smallest layer has units, or a strength is not positive.

    Source: arXiv 1312.6120, Sections 1.3 and 2.
    """
    sizes = check_layer_sizes(layer_sizes)
    check_shapes(sigma_31=(sigma_31, f"{sizes[-1]} {sizes[0]}"))
    if np.ndim(mode_strength) == 0:
        mode_strength = np.full(min(sizes), mode_strength, dtype=sigma_31.dtype)
    strengths = check_array("mode_strength", np.asarray(mode_strength, dtype=sigma_31.dtype))
    if strengths.ndim != 1 or not 1 <= strengths.size <= min(sizes):
        raise ValueError(f"mode_strength: expected 1 to {min(sizes)} modes, the smallest layer, got {strengths.shape}")
    if not np.all(strengths > 0):
        raise ValueError(f"mode_strength: expected numbers > 0, got {strengths.min()}")
    u, _, vt = np.linalg.svd(sigma_31)
    hidden = [orthogonal_init((size, size), rng).astype(sigma_31.dtype) for size in sizes[1:-1]]
    n_weights = len(sizes) - 1
    factor = np.asarray(strengths ** (1 / n_weights), dtype=sigma_31.dtype)
    return decoupled_weights([vt.T, *hidden, u], np.tile(factor, (n_weights, 1)))


# --- products of random matrices ---


def random_products(draw: Draw, width: int, n_weights: int, n_draws: int, rng: np.random.Generator) -> Array:
    r"""Products $W^n\cdots W^1$ of independent square matrices.

    Parameters
    ----------
    draw : :func:`orthogonal_init` or :func:`scaled_gaussian_init`
    width, n_weights, n_draws : int >= 1
    rng : numpy.random.Generator

    Returns
    -------
    array, shape (n_draws, width, width)

    Raises
    ------
    ValueError
        If a size is not positive.

    Source: arXiv 1312.6120, Eq. 19.
    """
    n_weights = check_integer("n_weights", n_weights, 1)
    shape = (check_integer("n_draws", n_draws, 1), *[check_integer("width", width, 1)] * 2)
    keep_freed_memory()
    product = draw(shape, rng)
    for _ in range(n_weights - 1):
        product = draw(shape, rng) @ product
    return product


def product_singular_values(draw: Draw, width: int, n_weights: int, n_draws: int, rng: np.random.Generator) -> Array:
    """Singular values of :func:`random_products`, falling, shape (n_draws, width).

    Those below the largest times the unit roundoff are roundoff: of a deep Gaussian product that is most of them.
    Parameters, errors as there.

    Source: arXiv 1312.6120, Figure 6B.
    """
    return np.asanyarray(np.linalg.svd(random_products(draw, width, n_weights, n_draws, rng), compute_uv=False))


def product_eigenvalues(draw: Draw, width: int, n_weights: int, n_draws: int, rng: np.random.Generator) -> Array:
    """Eigenvalues of :func:`random_products`, complex, shape (n_draws, width). Parameters, errors as there.

    Source: arXiv 1312.6120, Figure 6C.
    """
    return np.asanyarray(np.linalg.eigvals(random_products(draw, width, n_weights, n_draws, rng)))


def eigenvalue_radius_law(radius: Any, n_weights: int) -> Array:
    r"""The share $r^{2/n}$ of a Gaussian product's eigenvalues within a radius, as the width grows.

    Parameters
    ----------
    radius : array or number, from 0 to 1
    n_weights : int >= 1

    Raises
    ------
    ValueError
        If a radius is out of range or the depth not positive.

    Source: Burda, Janik and Waclaw 2010, for Figure 6C of arXiv 1312.6120.
    """
    radius = check_array("radius", np.asanyarray(radius))
    if np.any(radius < 0) or np.any(radius > 1):
        raise ValueError(f"radius: expected numbers in [0, 1], got {radius}")
    return np.asanyarray(radius ** (2 / check_integer("n_weights", n_weights, 1)))


def moment_step(fourth: Any, square: Any, width: Any) -> tuple[Any, Any]:
    r"""The moments of :func:`product_moments` after one more factor:
    $x\leftarrow(1+\frac1N)x+y$, $y\leftarrow y+\frac2{N^2}x$."""
    return (1 + 1 / width) * fourth + square, square + 2 / width**2 * fourth


def product_moments(width: int, n_weights: int) -> tuple[Fraction, Fraction]:
    r"""$x_n=\mathbb E\frac1N\sum\sigma_i^4$ and $y_n=\mathbb E(\frac1N\sum\sigma_i^2)^2$ of a Gaussian product.

    Exact fractions. Both start at 1. As $N\to\infty$, $x_n\to n+1$: singular values ever more spread, at a mean square
    of 1.

    Parameters
    ----------
    width, n_weights : int >= 1

    Raises
    ------
    ValueError
        If a size is not positive.

    Source: derived, for Figure 6B of arXiv 1312.6120.
    """
    size = Fraction(check_integer("width", width, 1))
    moments = (Fraction(1), Fraction(1))
    for _ in range(check_integer("n_weights", n_weights, 1)):
        moments = moment_step(*moments, size)
    return moments


def lyapunov_exponents(width: int) -> Array:
    r"""$\lim\frac1n\ln\sigma_i=\frac12\big[\ln\frac2N+\psi(\frac{N-i+1}2)\big]$ of a Gaussian product, falling in $i$.

    Parameters
    ----------
    width : int >= 1

    Returns
    -------
    array, shape (width,)

    Raises
    ------
    ValueError
        If the width is not positive.

    Source: Newman 1986, for Section 3 of arXiv 1312.6120.
    """
    from scipy import special

    width = check_integer("width", width, 1)
    return np.asanyarray((np.log(2 / width) + special.digamma(np.arange(width, 0, -1) / 2)) / 2)


def estimate_lyapunov_exponents(width: int, n_weights: int, rng: np.random.Generator) -> Array:
    r"""The mean logarithm of $|R_{ii}|$ when a frame that starts at $I$ passes one Gaussian factor after another.

    Each $|R_{ii}|$ is independently a $\chi_{N-i+1}/\sqrt N$, for the law of a factor does not change under rotation:
    the estimate has no bias at any depth.

    Parameters
    ----------
    width, n_weights : int >= 1
    rng : numpy.random.Generator

    Returns
    -------
    array, shape (width,)

    Raises
    ------
    ValueError
        If a size is not positive.

    Source: Benettin et al. 1980, for Section 3 of arXiv 1312.6120.
    """
    width, n_weights = check_integer("width", width, 1), check_integer("n_weights", n_weights, 1)
    frame, total = np.eye(width), np.zeros(width)
    for _ in range(n_weights):
        frame, triangle = np.linalg.qr(scaled_gaussian_init((width, width), rng) @ frame)
        total += np.log(np.abs(np.diagonal(triangle)))
    return total / n_weights
