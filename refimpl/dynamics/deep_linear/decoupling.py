r"""The network in the singular vectors of its task: modes, and weights that keep them apart (Eq. 3 to 6, Section 2).

With $\Sigma^{31}=USV^\top$ and white inputs each of the data's modes has a strength in the network's map. Two layers
see it as a pair of vectors; on the decoupled manifold, at any depth, modes do not know of each other.
"""

from collections.abc import Sequence

import numpy as np

from refimpl.dynamics.deep_linear.network import Weights, check_weights, end_to_end
from refimpl.primitives.checks import check_shapes, checked
from refimpl.primitives.numbers import Array, transpose


def _check_modes(w21: Array, w32: Array, u: Array, v: Array) -> None:
    check_shapes(w21=(w21, "... n_2 n_1"), w32=(w32, "... n_3 n_2"), u=(u, "n_3 n_3"), v=(v, "n_1 n_1"))


@checked(_check_modes)
def connectivity_modes(w21: Array, w32: Array, u: Array, v: Array) -> tuple[Array, Array]:
    r"""The modes $a^\alpha$, columns of $W^{21}V$, and $b^\alpha$, rows of $U^\top W^{32}$.

    Parameters
    ----------
    w21, w32 : arrays, shapes (..., n_2, n_1) and (..., n_3, n_2)
    u, v : arrays, shapes (n_3, n_3) and (n_1, n_1), orthogonal
        The singular vectors of $\Sigma^{31}=USV^\top$ in columns.

    Returns
    -------
    a, b : arrays, shapes (..., n_1, n_2) and (..., n_3, n_2)
        A mode a row, for both.

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 1312.6120, Eq. 3 and 4.
    """
    return transpose(w21 @ v), transpose(u) @ w32


def _check_mode_flow(a: Array, b: Array, strengths: Array) -> None:
    check_shapes(a=(a, "... n_1 n_2"), b=(b, "... n_3 n_2"), strengths=(strengths, "n_modes"))
    most = min(a.shape[-2], b.shape[-2])
    if strengths.shape[0] > most:
        raise ValueError(f"strengths: expected at most {most} of them, got {strengths.shape[0]}")


def _overlaps(a: Array, b: Array, strengths: Array) -> tuple[Array, Array]:
    """The overlaps $b^\\gamma\\cdot a^\\alpha$, and where $\\gamma=\\alpha$ what they fall short of the strength."""
    overlaps = b @ transpose(a)
    diagonal = np.arange(min(overlaps.shape[-2:]))
    wanted = np.concatenate([strengths, np.zeros(len(diagonal) - len(strengths), dtype=strengths.dtype)])
    return overlaps, wanted - overlaps[..., diagonal, diagonal]


@checked(_check_mode_flow)
def mode_energy(a: Array, b: Array, strengths: Array) -> Array:
    r"""The energy whose descent the modes are,
    $E=\frac12\sum_\alpha(s_\alpha-a^\alpha\cdot b^\alpha)^2+\frac12\sum_{\alpha\ne\gamma}(a^\alpha\cdot b^\gamma)^2$.

    Parameters
    ----------
    a, b : arrays, shapes (..., n_1, n_2) and (..., n_3, n_2)
        A mode a row, from :func:`connectivity_modes`.
    strengths : array, shape (n_modes,)
        The singular values $s_\alpha$; those of the other modes are 0.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, there are more strengths than modes or an entry is not finite.

    Source: arXiv 1312.6120, Eq. 6, with $\tau=1$.
    """
    overlaps, missing = _overlaps(a, b, strengths)
    squares = overlaps * overlaps
    apart = squares.sum(axis=(-2, -1)) - np.diagonal(squares, axis1=-2, axis2=-1).sum(axis=-1)
    return np.asanyarray(((missing * missing).sum(axis=-1) + apart) / 2)


@checked(_check_mode_flow)
def mode_flow(a: Array, b: Array, strengths: Array) -> tuple[Array, Array]:
    r"""The velocities of the modes: the two halves of one cooperate, different ones compete.

    $$\tau\dot a^\alpha=(s_\alpha-a^\alpha\cdot b^\alpha)b^\alpha
    -\sum_{\gamma\ne\alpha}b^\gamma(a^\alpha\cdot b^\gamma),$$

    and the same with $a$ and $b$ exchanged.

    Parameters
    ----------
    a, b : arrays, shapes (..., n_1, n_2) and (..., n_3, n_2)
        A mode a row, from :func:`connectivity_modes`.
    strengths : array, shape (n_modes,)
        The singular values $s_\alpha$; those of the other modes are 0.

    Returns
    -------
    a, b : arrays of the same shapes
        $\tau$ times the velocities, with $\Sigma^{11}=I$.

    Raises
    ------
    ValueError
        If shapes do not fit, there are more strengths than modes or an entry is not finite.

    Source: arXiv 1312.6120, Eq. 5.
    """
    overlaps, missing = _overlaps(a, b, strengths)
    drive = -overlaps
    diagonal = np.arange(missing.shape[-1])
    drive[..., diagonal, diagonal] = missing
    return transpose(drive) @ b, drive @ a


def _check_strengths(weights: Weights, u: Array, v: Array) -> None:
    widths = check_weights(weights)
    check_shapes(u=(u, "n_outputs k"), v=(v, "n_inputs k"))
    for name, matrix, width in (("u", u, widths[-1]), ("v", v, widths[0])):
        if matrix.shape[0] != width:
            raise ValueError(f"{name}: expected {width} rows as the weights' product, got shape {matrix.shape}")


@checked(_check_strengths)
def mode_strengths(weights: Weights, u: Array, v: Array) -> Array:
    r"""$u_\alpha$, the diagonal of $U^\top W^n\cdots W^1V$.

    Parameters
    ----------
    weights : list of arrays, shapes (..., n_l, n_(l-1))
    u, v : arrays, shapes (n_outputs, k) and (n_inputs, k)
        Singular vectors of $\Sigma^{31}$ in columns.

    Returns
    -------
    array, shape (..., k)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 1312.6120, Sections 1.3 and 2.
    """
    return np.asanyarray(((end_to_end.unchecked(weights) @ v) * u).sum(axis=-2))


def _check_decoupled_weights(rotations: Sequence[Array], strengths: Array) -> None:
    if not isinstance(rotations, list | tuple) or len(rotations) < 2:
        raise ValueError(f"rotations: expected a list of at least two matrices, got {rotations!r}")
    check_shapes(
        **{f"rotations[{layer}]": (one, f"n_{layer} n_{layer}") for layer, one in enumerate(rotations)},
        strengths=(strengths, f"{len(rotations) - 1} k"),
    )
    most = min(one.shape[0] for one in rotations)
    if strengths.shape[1] > most:
        raise ValueError(f"strengths: expected at most {most} modes, the smallest layer, got {strengths.shape[1]}")


@checked(_check_decoupled_weights)
def decoupled_weights(rotations: Sequence[Array], strengths: Array) -> list[Array]:
    r"""$W^l=R_{l+1}D_lR_l^\top$ with diagonal $D_l$: modes that gradient descent keeps apart if $R_1=V$, $R_{n+1}=U$.

    Parameters
    ----------
    rotations : list of n + 1 arrays, shapes (n_l, n_l), orthogonal
        From the input to the output.
    strengths : array, shape (n, k)
        The diagonals of $D_1,\dots,D_n$; the rest of them is 0.

    Returns
    -------
    list of n arrays

    Raises
    ------
    ValueError
        If shapes do not fit, there are more modes than the smallest layer has units or an entry is not finite.

    Source: arXiv 1312.6120, Sections 1.3 and 2.
    """
    n_modes = strengths.shape[1]
    return [
        (after[:, :n_modes] * diagonal) @ transpose(before[:, :n_modes])
        for before, after, diagonal in zip(rotations[:-1], rotations[1:], strengths, strict=True)
    ]
