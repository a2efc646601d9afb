r"""Which algorithm a learner resembles: the two metrics of Section 4.1.

Both compare what two algorithms make of the same data sets, by their predictions or by the linear weights that these
imply. The paper's plots divide both by $d$, and MSPD is the mean of SPD over the prefixes shorter than $d$.
"""

from typing import Any

import numpy as np

from refimpl.primitives.checks import check_integer, check_shapes
from refimpl.primitives.linear_systems import solve
from refimpl.primitives.numbers import Array, transpose


def squared_prediction_difference(first: Array, second: Array) -> Array:
    r"""SPD: $\mathbb E_{D,x'}\big(A_1(D)(x')-A_2(D)(x')\big)^2$, estimated by the mean over the last axis.

    Parameters
    ----------
    first, second : array, shape (..., n)
        Predictions of the two algorithms, at the same inputs from the same data.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes differ or an entry is not finite.

    Source: arXiv 2211.15661, Section 4.1.
    """
    check_shapes(first=(first, "... n"), second=(second, "... n"))
    difference = first - second
    return np.asanyarray((difference * difference).sum(axis=-1) / difference.shape[-1])


def _check_probes(x_probe: Array, *predictions: Array) -> None:
    sizes = check_shapes(x_probe=(x_probe, "... n d"))
    for values in predictions:
        check_shapes(x_probe=(x_probe, "... n d"), predictions=(values, "... n"))
    if sizes["n"] < sizes["d"]:
        raise ValueError(f"x_probe: expected at least {sizes['d']} probes, as there are inputs, got {sizes['n']}")
    if x_probe.dtype != object and not np.all(np.linalg.matrix_rank(x_probe.astype(np.float64)) == sizes["d"]):
        raise ValueError("x_probe: expected probes that span the inputs, got linearly dependent columns")


def implicit_linear_weights(x_probe: Array, predictions: Array) -> Array:
    r"""$\hat w_A=\arg\min_w\sum_i(A(D)(x_i')-w^\top x_i')^2$, by the normal equations: probes are ours to choose well.

    Parameters
    ----------
    x_probe : array, shape (..., n, d), of rank d
    predictions : array, shape (..., n)
        $A(D)(x_i')$.

    Returns
    -------
    array, shape (..., d)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the probes do not determine the weights.

    Source: arXiv 2211.15661, Section 4.1.
    """
    _check_probes(x_probe, predictions)
    transposed = transpose(x_probe)
    return solve(transposed @ x_probe, transposed @ predictions[..., None])[..., 0]


def implicit_linear_weight_difference(x_probe: Array, first: Array, second: Array) -> Array:
    r"""ILWD: $\lVert\hat w_{A_1}-\hat w_{A_2}\rVert_2^2$ for each data set.

    Parameters
    ----------
    x_probe : array, shape (..., n, d), of rank d
    first, second : array, shape (..., n)
        Predictions of the two algorithms at the probes.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the probes do not determine the weights.

    Source: arXiv 2211.15661, Section 4.1.
    """
    _check_probes(x_probe, first, second)
    difference = implicit_linear_weights(x_probe, first - second)  # it is linear in the predictions
    return np.asanyarray((difference * difference).sum(axis=-1))


def mean_prediction_difference_below(first: Array, second: Array, n_inputs: Any) -> Array:
    r"""MSPD: SPD averaged over the prefixes of fewer than $d$ examples, where many weights fit.

    Parameters
    ----------
    first, second : array, shape (..., n - 1)
        Predictions from 1, 2, ... examples, as of :func:`.online_predictions`.
    n_inputs : int from 2 to n
        $d$.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes differ, an entry is not finite or `n_inputs` is out of range.

    Source: arXiv 2211.15661, Section 4.3, Figure 2.
    """
    sizes = check_shapes(first=(first, "... n"), second=(second, "... n"))
    n_inputs = check_integer("n_inputs", n_inputs, 2, sizes["n"] + 1)
    return squared_prediction_difference(first[..., : n_inputs - 1], second[..., : n_inputs - 1])
