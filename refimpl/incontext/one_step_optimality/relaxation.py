r"""The convex relaxation: a free tensor in place of $w\otimes M$, which is least squares on cubic features.

Every layer is such a tensor, so what is optimal among tensors and is a layer is optimal among layers.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.one_step_optimality.model import EffectiveWeights, check_weights
from refimpl.primitives.checks import check_integer, check_shapes
from refimpl.primitives.numbers import Array, transpose


def weights_tensor(weights: EffectiveWeights) -> Array:
    r"""$c_{abk}=\frac12(w_aM_{bk}+w_bM_{ak})$, with which the layer is $\sum_{abk}c_{abk}G_{ab}x_{n+1,k}$.

    Two layers predict alike if and only if these tensors agree.

    Parameters
    ----------
    weights : EffectiveWeights

    Returns
    -------
    array, shape (d + 1, d + 1, d)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    check_weights(weights)
    product = weights.value[:, None, None] * weights.key_query
    return np.asanyarray((product + product.swapaxes(0, 1)) / 2)


def cubic_features(x: Array, y: Array, x_query: Array) -> Array:
    r"""$G_{ab}\,x_{n+1,k}$ for $a\le b$ and every $k$, with $G=\sum_iv_iv_i^\top$ and $v_i=[x_i;y_i]$.

    Parameters
    ----------
    x : array, shape (..., n_context, d)
    y : array, shape (..., n_context)
    x_query : array, shape (..., d)

    Returns
    -------
    array, shape (..., d (d + 1) (d + 2) / 2)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    check_shapes(x=(x, "... n_context n_inputs"), y=(y, "... n_context"), x_query=(x_query, "... n_inputs"))
    tokens = np.concatenate([x, y[..., None]], axis=-1)
    rows, columns = np.triu_indices(tokens.shape[-1])
    gram = (transpose(tokens) @ tokens)[..., rows, columns]
    return np.asanyarray((gram[..., :, None] * x_query[..., None, :]).reshape(*gram.shape[:-1], -1))


class RelaxedFit(NamedTuple):
    """The least-squares tensor, and the standard errors of its entries; shapes ``(d + 1, d + 1, d)``."""

    tensor: Array
    standard_error: Array


def relaxed_least_squares(features: Array, targets: Array) -> RelaxedFit:
    """The symmetric tensor of least squared error on these features; uses LAPACK: floats only.

    The standard errors allow for residuals whose size depends on the features (White's estimate), as here it does.

    Parameters
    ----------
    features : array, shape (n_tasks, d (d + 1) (d + 2) / 2), more tasks than features
        From :func:`cubic_features`.
    targets : array, shape (n_tasks,)

    Returns
    -------
    RelaxedFit

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or there are not more tasks than features.
    """
    sizes = check_shapes(features=(features, "n_tasks n_features"), targets=(targets, "n_tasks"))
    n_tasks, n_features = sizes["n_tasks"], sizes["n_features"]
    n_inputs = next(d for d in itertools.count(1) if d * (d + 1) * (d + 2) // 2 >= n_features)
    if n_inputs * (n_inputs + 1) * (n_inputs + 2) // 2 != n_features:
        raise ValueError(f"features: expected d (d + 1) (d + 2) / 2 columns for some d, got {n_features}")
    if n_tasks <= n_features:
        raise ValueError(f"features: expected more tasks than the {n_features} features, got {n_tasks}")
    inverse = np.linalg.inv(features.T @ features)
    coefficients = inverse @ (features.T @ targets)
    scores = features * (targets - features @ coefficients)[:, None]
    errors = np.sqrt(np.diagonal(inverse @ (scores.T @ scores) @ inverse))
    return RelaxedFit(_unpacked(coefficients, n_inputs), _unpacked(errors, n_inputs))


def _unpacked(coefficients: Array, n_inputs: int) -> Array:
    """The symmetric tensor; a coefficient off the diagonal is shared by the two entries."""
    rows, columns = np.triu_indices(n_inputs + 1)
    tensor = np.zeros((n_inputs + 1, n_inputs + 1, n_inputs), dtype=coefficients.dtype)
    halves = coefficients.reshape(len(rows), n_inputs) / np.where(rows == columns, 1, 2).astype(tensor.dtype)[:, None]
    tensor[rows, columns] = halves
    tensor[columns, rows] = halves
    return tensor


class TensorBlocks(NamedTuple):
    r"""A symmetric tensor by what it multiplies: $\sum S_{ij}x_k$, $\sum2r_ix_k$ and $tx_k$."""

    products: Array
    """Of $S=X^\\top X$, shape ``(d, d, d)``."""
    correlations: Array
    """Of $r=X^\\top y$, both entries together, shape ``(d, d)``: the matrix of a gradient step."""
    squares: Array
    """Of $t=y^\\top y$, shape ``(d,)``."""


def tensor_blocks(tensor: Array) -> TensorBlocks:
    """Split a symmetric tensor of shape ``(d + 1, d + 1, d)``; unchecked."""
    return TensorBlocks(tensor[:-1, :-1], 2 * tensor[:-1, -1], tensor[-1, -1])


# --- averaging over rotations ---


def signed_permutations(n_inputs: int) -> Array:
    r"""All $2^dd!$ matrices with one entry $\pm1$ in each row and column, shape ``(2^d d!, d, d)``.

    Raises
    ------
    ValueError
        If `n_inputs` is not from 1 to 6.
    """
    n_inputs = check_integer("n_inputs", n_inputs, 1, 6)
    order = np.array(list(itertools.permutations(range(n_inputs))))
    signs = np.array(list(itertools.product([1.0, -1.0], repeat=n_inputs)))
    return (np.eye(n_inputs)[order][:, None] * signs[:, None, :]).reshape(-1, n_inputs, n_inputs)


def rotate_tensor(tensor: Array, rotation: Any) -> Array:
    r"""The tensor that does to $x$ what `tensor` does to $Rx$: each index of an input turned by $R^\top$; unchecked.

    Parameters
    ----------
    tensor : array, shape (d + 1, d + 1, d)
    rotation : array, shape (..., d, d)

    Returns
    -------
    array, shape (..., d + 1, d + 1, d)
    """
    size = len(tensor)
    on_tokens = np.zeros((*rotation.shape[:-2], size, size), dtype=rotation.dtype)
    on_tokens[..., :-1, :-1] = rotation
    on_tokens[..., -1, -1] = 1
    return np.einsum("abk,...ac,...bd,...kl->...cdl", tensor, on_tokens, on_tokens, rotation, optimize=True)


def symmetrised(tensor: Array, rotations: Array) -> Array:
    r"""The mean of :func:`rotate_tensor` over a group of rotations, shape (d + 1, d + 1, d); unchecked.

    Under a law that the group leaves as it is, this cannot increase the loss, which is convex in the tensor. Over the
    signed permutations it leaves $\alpha\,r^\top x_{n+1}$ alone: one gradient step.
    """
    return np.asanyarray(rotate_tensor(tensor, rotations).mean(axis=0))
