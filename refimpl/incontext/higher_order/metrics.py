"""How alike two algorithms are on the prefixes of a prompt, and what an algorithm forgets (Section 3.3, A.5, A.6)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refimpl.primitives.checks import check_shapes
from refimpl.primitives.numbers import Array
from refimpl.primitives.similarity import cosine_similarity
from refimpl.tasks.linear_regression import ScalarTasks

# --- predictions from every prefix ---


class PrefixSpectra(NamedTuple):
    r"""The least-squares problems of the first $t=1,\dots,n$ examples, each in the eigenvectors $V$ of its Gram matrix.

    In them whatever is a function of $S$ is a diagonal, and all iterations of a method cost one multiplication.
    """

    eigenvalues: Array
    r"""$\lambda$ of $S_t$, shape ``(n_tasks, n, d)``, ascending."""
    moments: Array
    r"""$V^\top X^\top y$, shape ``(n_tasks, n, d)``."""
    queries: Array
    r"""$V^\top x_{t+1}$, shape ``(n_tasks, n, d)``."""
    targets: Array
    r"""$y_{t+1}$, shape ``(n_tasks, n)``."""


def prefix_spectra(tasks: ScalarTasks) -> PrefixSpectra:
    r"""All prefixes of these prompts; the query follows the last example (LAPACK: floats only).

    Raises
    ------
    ValueError
        If the arrays of the tasks do not fit each other or an entry is not finite.
    """
    check_shapes(
        x=(tasks.x, "n_tasks n d"),
        y=(tasks.y, "n_tasks n"),
        x_query=(tasks.x_query, "n_tasks d"),
        y_query=(tasks.y_query, "n_tasks"),
    )
    grams = np.cumsum(tasks.x[..., :, None] * tasks.x[..., None, :], axis=1)
    moments = np.cumsum(tasks.x * tasks.y[..., None], axis=1)
    eigenvalues, vectors = np.linalg.eigh(grams)
    following = np.concatenate([tasks.x[:, 1:], tasks.x_query[:, None]], axis=1)
    targets = np.concatenate([tasks.y[:, 1:], tasks.y_query[:, None]], axis=1)
    return PrefixSpectra(
        # Rounding leaves the zeros of a singular Gram matrix on either side of 0.
        eigenvalues=np.maximum(eigenvalues, 0),
        moments=(moments[..., None, :] @ vectors)[..., 0, :],
        queries=(following[..., None, :] @ vectors)[..., 0, :],
        targets=targets,
    )


def prefix_predictions(spectra: PrefixSpectra, filters: Array) -> Array:
    r"""$\mathcal A(x_{t+1}\mid x_1,y_1,\dots,x_t,y_t)$ of a method that puts `filters` in place of $1/\lambda$.

    Parameters
    ----------
    spectra : PrefixSpectra
    filters : array, shape (..., n_tasks, n, d)
        From :func:`.newton.spectral_filter`.

    Returns
    -------
    array, shape (..., n_tasks, n)
    """
    return np.asanyarray((spectra.queries * spectra.moments * filters).sum(axis=-1))


# --- similarities ---


def similarity_of_errors(predictions_a: Array, predictions_b: Array, y: Array) -> Array:
    r"""SimE: the mean cosine between the residuals of two algorithms along a sequence.

    Parameters
    ----------
    predictions_a, predictions_b, y : array, shape (..., n)
        Predictions of $y_2,\dots,y_{n+1}$, from $1,\dots,n$ examples; averaged over the leading axes.

    Returns
    -------
    array, shape ()

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or a sequence is predicted without any error, so that there is no
        angle.

    Source: arXiv 2310.17086, Definition 3.2.
    """
    shape = "... n"
    check_shapes(predictions_a=(predictions_a, shape), predictions_b=(predictions_b, shape), y=(y, shape))
    return np.asanyarray(np.mean(cosine_similarity(predictions_a - y, predictions_b - y)))


def similarity_of_weights(weights_a: Array, weights_b: Array) -> Array:
    r"""SimW: the mean cosine between the weights that two algorithms induce, shape () from (..., d).

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or weights are all zero.

    Source: arXiv 2310.17086, Definition 3.3.
    """
    return np.asanyarray(np.mean(cosine_similarity(weights_a, weights_b)))


def similarity_matrix(predictions_a: Array, predictions_b: Array, y: Array) -> Array:
    """SimE for every pair of a parameter (steps, layers) of one algorithm and one of another.

    Parameters
    ----------
    predictions_a : array, shape (n_a, n_tasks, n)
    predictions_b : array, shape (n_b, n_tasks, n)
    y : array, shape (n_tasks, n)

    Returns
    -------
    array, shape (n_a, n_b)

    Raises
    ------
    ValueError
        As for :func:`similarity_of_errors`.

    Source: arXiv 2310.17086, Section 4.1 and Figures 2, 3 and 26.
    """
    check_shapes(
        predictions_a=(predictions_a, "n_a n_tasks n"),
        predictions_b=(predictions_b, "n_b n_tasks n"),
        y=(y, "n_tasks n"),
    )
    return np.array([[similarity_of_errors(a, b, y) for b in predictions_b] for a in predictions_a])


def best_matching_steps(similarity: Array) -> Array:
    r"""For each row the column of the largest similarity, the first of equals: $p_b(p_a)=\arg\max_{p_b}$.

    Parameters
    ----------
    similarity : array, shape (n_a, n_b)

    Returns
    -------
    array of ints, shape (n_a,)

    Raises
    ------
    ValueError
        If it is no finite matrix.

    Source: arXiv 2310.17086, Definition 3.4.
    """
    check_shapes(similarity=(similarity, "n_a n_b"))
    return np.asanyarray(np.argmax(similarity, axis=1))


# --- forgetting ---


def forgetting_curve(solve: Callable[[Array, Array], Array], x: Array, y: Array) -> Array:
    r"""Squared error on the example seen $g=0,1,\dots,n-1$ examples ago, by weights from all $n$.

    Parameters
    ----------
    solve : maps `x` and `y` to weights of shape (..., d)
    x : array, shape (..., n, d)
    y : array, shape (..., n)

    Returns
    -------
    array, shape (..., n)
        By gap: the last example first.

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2310.17086, Appendix A.6 and Figure 5.
    """
    check_shapes(x=(x, "... n d"), y=(y, "... n"))
    residual = (x @ solve(x, y)[..., None])[..., 0] - y
    return np.asanyarray(residual[..., ::-1] ** 2)
