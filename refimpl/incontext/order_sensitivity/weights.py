r"""What weights look like, and what they do: sparsity, rank, and changes of basis (Section 3.2).

The constructed weights are :func:`refimpl.primitives.linear_self_attention.gradient_descent_weights`.
"""

from typing import Literal, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_array, check_number, check_shapes
from refimpl.primitives.linear_self_attention import LinearAttentionWeights
from refimpl.primitives.linear_systems import solve
from refimpl.primitives.numbers import Array, is_symbolic, transpose


def sparsity_ratio(matrix: Array, delta: float, mode: Literal["relative", "absolute"] = "relative") -> float:
    r"""The share of entries below a threshold: $\max|W|/\delta$ (relative) or $1/\delta$ (absolute).

    A property of the basis that the weights are written in, not of what they do (see :func:`change_basis`).

    Parameters
    ----------
    matrix : array of any shape
    delta : number > 0
        The paper sweeps $10^2$ to $10^6$.
    mode : "relative" or "absolute"

    Returns
    -------
    float in [0, 1]

    Raises
    ------
    ValueError
        If an entry is not finite, there is none, `delta` is not positive, `mode` is unknown, or the matrix is zero and
        the threshold relative.

    Source: arXiv 2310.08540, Section 3.2 and Figure 2.
    """
    matrix = check_array("matrix", matrix)
    delta = check_number("delta", delta, "(0, inf)")
    if mode not in ("relative", "absolute"):
        raise ValueError(f"mode: expected 'relative' or 'absolute', got {mode!r}")
    if not matrix.size:
        raise ValueError(f"matrix: expected at least one entry, got shape {matrix.shape}")
    magnitudes = np.abs(matrix)
    largest = magnitudes.max()
    if mode == "relative" and largest == 0:
        raise ValueError("matrix: expected an entry that is not 0, to which a threshold is relative")
    # Times delta, for 1 / delta is not exact in binary.
    return float(np.mean(magnitudes * delta < (largest if mode == "relative" else 1)))


class SingularProfile(NamedTuple):
    """What a change of basis cannot hide, or little of it."""

    values: Array
    """Singular values, largest first, shape ``(..., d)``."""
    rank: Array
    """How many exceed roundoff of the largest, shape ``(...)``."""
    stable_rank: Array
    r"""$\lVert W\rVert_F^2/\lVert W\rVert_2^2$, shape ``(...)``; 0 for a zero matrix."""


def singular_profile(matrix: Array) -> SingularProfile:
    r"""Singular values, rank and stable rank; needs LAPACK.

    The rank counts singular values above $\max(m,n)\,\epsilon\,\sigma_1$.

    Parameters
    ----------
    matrix : array, shape (..., m, n)

    Raises
    ------
    ValueError
        If it is no such array or has a non-finite entry.
    """
    check_shapes(matrix=(matrix, "... m n"))
    values = np.linalg.svd(matrix, compute_uv=False)
    largest = values[..., :1]
    rank = np.sum(values > max(matrix.shape[-2:]) * np.finfo(values.dtype).eps * largest, axis=-1)
    scaled = values / np.where(largest > 0, largest, 1)
    return SingularProfile(values, rank, np.sum(scaled * scaled, axis=-1))


def change_basis(
    weights: LinearAttentionWeights, token_basis: Array, head_basis: Array, value_basis: Array | None = None
) -> LinearAttentionWeights:
    r"""The same layer on tokens $Re$: $W_K\to S^{-\top}W_KR^{-1}$, $W_Q\to SW_QR^{-1}$, $W_V\to TW_VR^{-1}$,
    $P\to RPT^{-1}$.

    Its output is $R$ times the old one. Dense bases make dense weights of sparse ones; all but a projection that is a
    multiple of the identity, which only a basis of values different from the tokens' hides.

    Parameters
    ----------
    weights : LinearAttentionWeights, matrices (n_heads, D, D)
    token_basis : array, shape (D, D), invertible
        $R$. Where a layer norm follows it must be orthogonal, with $R\mathbf 1=\pm\mathbf 1$.
    head_basis : array, shape (D, D), invertible
        $S$, of the space in which keys meet queries.
    value_basis : array, shape (D, D), invertible, or None for the token basis
        $T$, of the space between values and projection.

    Returns
    -------
    LinearAttentionWeights

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a basis is singular.

    Source: derived; it limits what arXiv 2310.08540, Section 3.2 can conclude.
    """
    bases = {"token_basis": token_basis, "head_basis": head_basis}
    if value_basis is not None:
        bases["value_basis"] = value_basis
    check_shapes(
        **{name: (basis, "D D") for name, basis in bases.items()},
        **{f"weights.{name}": (matrix, "n_heads D D") for name, matrix in weights._asdict().items()},
    )
    inverses = {name: _inverse(name, basis) for name, basis in bases.items()}
    from_tokens, from_head = inverses["token_basis"], inverses["head_basis"]
    to_values, from_values = (
        (token_basis, from_tokens) if value_basis is None else (value_basis, inverses["value_basis"])
    )
    return LinearAttentionWeights(
        key=transpose(from_head) @ weights.key @ from_tokens,
        query=head_basis @ weights.query @ from_tokens,
        value=to_values @ weights.value @ from_tokens,
        projection=token_basis @ weights.projection @ from_values,
    )


def _inverse(name: str, matrix: Array) -> Array:
    if matrix.dtype == object:
        # Pivots as they come: those of a matrix of symbols, and of one block, are not 0.
        return solve(matrix, np.eye(len(matrix), dtype=int).astype(object))
    single = matrix.dtype if matrix.dtype.char in "fd" else np.float64  # what LAPACK has
    rank = int(singular_profile(matrix.astype(single)).rank)
    if rank < len(matrix):
        raise ValueError(f"{name}: expected an invertible matrix, got one of rank {rank}")
    if matrix.dtype.char in "fd":
        return np.asarray(np.linalg.inv(matrix))
    return solve(transpose(matrix) @ matrix, transpose(matrix))


def response_tensor(weights: LinearAttentionWeights) -> Array:
    r"""$T_{ijkl}=\sum_h B_{ij}A_{kl}+B_{ik}A_{jl}$ with $A=W_K^\top W_Q$, $B=PW_V$, shape (D, D, D, D).

    The update of a token $e$ is $\frac12\sum_{jkl}T_{ijkl}G_{jk}e_l$. The Gram matrices $G=\sum_je_je_j^\top$ span the
    symmetric matrices, so layers are equal on all tokens exactly where their tensors are.

    Parameters
    ----------
    weights : LinearAttentionWeights

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    check_shapes(**{f"weights.{name}": (matrix, "n_heads D D") for name, matrix in weights._asdict().items()})
    product = np.zeros(4 * weights.key.shape[-1:], dtype=weights.key.dtype)
    for a, b in zip(weights.key_query, weights.projection_value, strict=True):
        product = product + b[:, :, None, None] * a[None, None, :, :]
    return product + np.swapaxes(product, 1, 2)


def gd_equivalent(a: LinearAttentionWeights, b: LinearAttentionWeights, tolerance: float = 1e-9) -> bool:
    r"""Whether two linear layers do the same to all tokens, whatever their matrices look like.

    For one head that is so where $(A',B')=(cA,B/c)$; or, where both have rank one, keys and values read in exchange.
    Bring tokens to a common basis first (:func:`change_basis`).

    Parameters
    ----------
    a, b : LinearAttentionWeights
        Of one token dimension; the numbers of heads may differ.
    tolerance : number >= 0
        Of the largest difference of :func:`response_tensor`, relative to the larger tensor.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or `tolerance` is negative.
    """
    tolerance = check_number("tolerance", tolerance, "[0, inf)")
    first, second = response_tensor(a), response_tensor(b)
    if first.shape != second.shape:
        raise ValueError(f"b: expected token dimension {len(first)} as in a, got {len(second)}")
    difference = first - second
    if is_symbolic(difference):
        import sympy

        return all(sympy.simplify(entry) == 0 for entry in difference.flat)
    scale = max(float(np.abs(first).max()), float(np.abs(second).max()))
    return bool(float(np.abs(difference).max()) <= tolerance * scale)
