r"""Spectra without the matrix: Lanczos with full reorthogonalisation, and stochastic Lanczos quadrature.

Only products with the symmetric matrix are asked for. Uses LAPACK for the small tridiagonal matrix: floats only.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_shapes
from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.numbers import Array

Product = Callable[[Array], Array]


class Tridiagonal(NamedTuple):
    r"""$H\approx QTQ^\top$ on a Krylov space: ``diagonal`` (m,), ``off_diagonal`` (m - 1,), ``basis`` $Q^\top$ (m, n).

    If the space became invariant, m is below what was asked for and the spectrum of $T$ is exact there.
    """

    diagonal: Array
    off_diagonal: Array
    basis: Array

    def eigenvalues(self) -> Array:
        """The Ritz values, ascending; the extreme ones converge first."""
        from scipy import linalg

        return np.asarray(linalg.eigvalsh_tridiagonal(self.diagonal, self.off_diagonal))

    def ritz_pairs(self) -> tuple[Array, Array]:
        """Ritz values, ascending, and Ritz vectors in the rows of an (m, n) array."""
        from scipy import linalg

        values, vectors = linalg.eigh_tridiagonal(self.diagonal, self.off_diagonal)
        return np.asarray(values), vectors.T @ self.basis

    def quadrature(self) -> tuple[Array, Array]:
        """Nodes and weights (of sum 1) of the Gauss quadrature for the spectral measure of the start vector."""
        from scipy import linalg

        nodes, vectors = linalg.eigh_tridiagonal(self.diagonal, self.off_diagonal)
        return np.asarray(nodes), np.asarray(vectors[0] ** 2)


def lanczos(
    product: Product, n: int, n_steps: int, rng: np.random.Generator | None = None, start: Array | None = None
) -> Tridiagonal:
    r"""`n_steps` steps of Lanczos from a start vector, reorthogonalised twice in every step.

    Parameters
    ----------
    product : ``v -> Hv`` for a symmetric $H$; `v` of shape (n,)
    n : int >= 1
    n_steps : int from 1 to n
    rng : np.random.Generator, for a Gaussian start if none is given
    start : array, shape (n,), not zero

    Returns
    -------
    Tridiagonal with at most `n_steps` steps

    Raises
    ------
    ValueError
        If a size is out of range, the start does not fit or is zero, or neither it nor a generator is given.

    Source: Golub and Van Loan, Matrix Computations, Algorithm 10.1.1; "twice is enough" of Kahan and Parlett.
    """
    n = check_integer("n", n, 1)
    n_steps = check_integer("n_steps", n_steps, 1, n)
    if start is None:
        if rng is None:
            raise ValueError("rng: expected a generator, or a start vector, got neither")
        start = rng.standard_normal(n)
    check_shapes(start=(start, str(n)))
    norm = np.sqrt(start @ start)
    if norm == 0:
        raise ValueError("start: expected a vector that is not zero")
    keep_freed_memory()
    basis = np.empty((n_steps, n), dtype=start.dtype)
    basis[0] = start / norm
    diagonal: list[Any] = []
    off_diagonal: list[Any] = []
    scale = start.dtype.type(0)
    for step in range(n_steps):
        residual = product(basis[step])
        diagonal.append(basis[step] @ residual)
        scale = max(scale, np.sqrt(residual @ residual))
        known = basis[: step + 1]
        for _ in range(2):
            residual = residual - known.T @ (known @ residual)
        length = np.sqrt(residual @ residual)
        # What is left in an invariant space is roundoff of the matrix's scale. A much larger bound would stop where a
        # bulk of width 1 stands beside outliers of 1e5 in float32; a smaller one only adds nodes of weight 0.
        if step + 1 == n_steps or length <= 8 * np.finfo(start.dtype).eps * scale:
            return Tridiagonal(np.array(diagonal), np.array(off_diagonal, dtype=start.dtype), known)
        off_diagonal.append(length)
        basis[step + 1] = residual / length
    raise AssertionError("unreachable: the last step returns")


def spectral_density(
    product: Product,
    n: int,
    n_steps: int,
    n_probes: int,
    rng: np.random.Generator,
    probes: Literal["gaussian", "rademacher"] = "gaussian",
) -> tuple[Array, Array]:
    r"""Nodes and weights whose point masses approximate the density of eigenvalues, $\frac1n\sum_i\delta_{\lambda_i}$.

    Parameters
    ----------
    product : ``v -> Hv`` for a symmetric $H$
    n, n_probes : int >= 1
    n_steps : int from 1 to n
    rng : np.random.Generator
    probes : "gaussian" or "rademacher"
        The latter, signs, err by the entries off the diagonal alone; the former by what no basis changes.

    Returns
    -------
    nodes, weights : arrays of one shape, the weights of sum 1

    Raises
    ------
    ValueError
        If a size is out of range or the probes are neither.

    Source: Ubaru, Chen and Saad (2017), stochastic Lanczos quadrature.
    """
    check_integer("n_probes", n_probes, 1)
    if probes not in ("gaussian", "rademacher"):
        raise ValueError(f"probes: expected gaussian or rademacher, got {probes!r}")
    pairs = []
    for _ in range(n_probes):
        start = rng.standard_normal(n) if probes == "gaussian" else rng.integers(2, size=n) * 2.0 - 1
        pairs.append(lanczos(product, n, n_steps, start=start).quadrature())
    return np.concatenate([nodes for nodes, _ in pairs]), np.concatenate([weights / n_probes for _, weights in pairs])


def trace_of_function(
    function: Callable[[Array], Array],
    product: Product,
    n: int,
    n_steps: int,
    n_probes: int,
    rng: np.random.Generator,
    probes: Literal["gaussian", "rademacher"] = "gaussian",
) -> float:
    r"""$\operatorname{tr}f(H)\approx n\sum_k\tau_kf(\theta_k)$ by :func:`spectral_density`, whose parameters it has."""
    nodes, weights = spectral_density(product, n, n_steps, n_probes, rng, probes)
    return float(n * (weights @ function(nodes)))
