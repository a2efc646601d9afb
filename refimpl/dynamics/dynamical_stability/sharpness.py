r"""Three sizes of the empirical Fisher matrix, which at an interpolating minimum is the Hessian."""

from typing import NamedTuple

import numpy as np

from refimpl.primitives.checks import check_shapes, checked
from refimpl.primitives.numbers import Array, is_symbolic, transpose
from refimpl.primitives.traces import inner


class Sharpness(NamedTuple):
    r"""Of the spectrum of $G$: its sum, its Euclidean norm and its largest value, each of shape ``(...)``."""

    trace: Array
    frobenius: Array
    operator_norm: Array


def check_jacobian(jacobian: Array) -> None:
    """Check per-example gradients in rows, of shape (..., n, p)."""
    check_shapes(jacobian=(jacobian, "... n p"))


def check_not_zero(name: str, matrices: Array) -> None:
    """Check that no matrix, over the last two axes, is zero; of symbols none is known to be."""
    if not is_symbolic(matrices) and not np.all(np.any(matrices, axis=(-2, -1))):
        raise ValueError(f"{name}: expected an entry that is not zero")


@checked(check_jacobian)
def fisher_kernel(jacobian: Array) -> Array:
    r"""$K=JJ^\top/n$, which has the non-zero spectrum of $G=J^\top J/n$ and is small where parameters are many.

    Parameters
    ----------
    jacobian : array, shape (..., n, p)
        Row $i$ is $\nabla_\theta f(x_i;\theta)$.

    Returns
    -------
    array, shape (..., n, n)

    Raises
    ------
    ValueError
        If it is empty or an entry is not finite.

    Source: arXiv 2305.17490, Section 2 (the empirical Fisher matrix).
    """
    return np.asanyarray(jacobian @ transpose(jacobian) / jacobian.shape[-2])


def squared_norms(jacobian: Array) -> Array:
    r"""$\|g_i\|^2$, shape (..., n)."""
    return inner(jacobian[..., None, :], jacobian[..., None, :])[..., 0, 0]


def trace_and_square(jacobian: Array) -> tuple[Array, Array]:
    r"""$\operatorname{Tr}G$ and $\|G\|_F^2$, each of shape (...)."""
    kernel = fisher_kernel.unchecked(jacobian)
    return inner(jacobian, jacobian)[..., 0, 0] / jacobian.shape[-2], inner(kernel, kernel)[..., 0, 0]


@checked(check_jacobian)
def sharpness(jacobian: Array) -> Sharpness:
    r"""$\operatorname{Tr}G$, $\|G\|_F$ and $\lambda_{\max}(G)$ (LAPACK: floats only).

    Parameters
    ----------
    jacobian : array, shape (..., n, p)

    Returns
    -------
    Sharpness

    Raises
    ------
    ValueError
        If it is empty or an entry is not finite.

    Source: arXiv 2305.17490, abstract and Section 3: the trace decides for SGD, the largest eigenvalue for GD.
    """
    n, p = jacobian.shape[-2:]
    trace, square = trace_and_square(jacobian)
    smaller = fisher_kernel.unchecked(jacobian) if n <= p else transpose(jacobian) @ jacobian / n
    return Sharpness(trace, np.sqrt(square), np.linalg.eigvalsh(smaller)[..., -1])
