r"""The Hessian of all the data and of a batch, what the batch's fluctuates by, and what that does to its eigenvalues.

Networks are lists of ``Linear`` with their activation (one layer is softmax regression), the loss is the mean
cross-entropy over the examples. The matrix is built only where it is small; everything else asks for products.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.curvature import Curvature, Layers, mlp_curvature, pack, unpack
from refimpl.primitives.layers import Linear
from refimpl.primitives.normalization import softmax
from refimpl.primitives.numbers import Array, is_symbolic, row_dot, sqrt, transpose

LARGEST_MATRIX = 2000
"""Parameters up to which a Hessian is built."""

Product = Callable[[Array], Array]


def _check_products(
    layers: Layers, x: Array, targets: Array, direction: Layers, activation: str = "tanh", indices: Any = None
) -> None:
    mlp_curvature.check(layers, x, targets, activation)
    _check_indices(indices, len(x))
    if len(direction) != len(layers):
        raise ValueError(f"direction: expected {len(layers)} layers as the parameters, got {len(direction)}")
    for index, (layer, along) in enumerate(zip(layers, direction, strict=True)):
        for name, value, like in zip(Linear._fields, along, layer, strict=True):
            if (value is None) != (like is None):
                raise ValueError(f"direction[{index}].{name}: expected an array where the parameters have one")
            if value is not None and like is not None:
                check_shapes(**{f"direction[{index}].{name}": (value, " ".join(map(str, like.shape)))})


def _check_indices(indices: Any, n_samples: int) -> None:
    if indices is None:
        return
    chosen = np.asarray(indices)
    if chosen.ndim != 1 or not chosen.size or chosen.dtype.kind not in "iu":
        raise ValueError(f"indices: expected a vector of integers, at least one, got {indices!r:.80}")
    if chosen.min() < 0 or chosen.max() >= n_samples or len(np.unique(chosen)) != len(chosen):
        raise ValueError(f"indices: expected different examples from 0 to {n_samples - 1}, got {chosen!r:.80}")


def _batch(x: Array, targets: Array, indices: Any) -> tuple[Array, Array]:
    return (x, targets) if indices is None else (x[np.asarray(indices)], targets[np.asarray(indices)])


@checked(_check_products)
def hessian_vector_product(
    layers: Layers, x: Array, targets: Array, direction: Layers, activation: str = "tanh", indices: Any = None
) -> list[Linear]:
    r"""$H_{batch}v$, or $H_{emp}v$ of all the data, forward over reverse: about two gradients beyond the gradient.

    For many products with one batch take them from one :func:`~refimpl.primitives.curvature.mlp_curvature`.

    Parameters
    ----------
    layers : list of Linear
        $w$: weights of shape (n_outputs, n_inputs), biases or None.
    x : array, shape (n, n_inputs)
    targets : array of ints, shape (n,)
    direction : list of Linear, shapes of `layers`
    activation : "tanh" or "relu"
    indices : array of ints, shape (batch_size,), all different; None for all the data
        The batch.

    Returns
    -------
    list of Linear, shapes of `layers`

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is no class, an index no example or there twice, or the
        activation is unknown.

    Source: arXiv 2006.09092, Section 2; Pearlmutter (1994).
    """
    return mlp_curvature.unchecked(layers, *_batch(x, targets, indices), activation).hessian_product(direction)


@checked(_check_products)
def ggn_vector_product(
    layers: Layers, x: Array, targets: Array, direction: Layers, activation: str = "tanh", indices: Any = None
) -> list[Linear]:
    r"""$Gv$ with the generalised Gauss-Newton matrix $\frac1B\sum_iJ_i^\top\nabla_z^2\ell_iJ_i$, which has no negative
    eigenvalue; for softmax regression it is the Hessian.

    Parameters, result and errors as for :func:`hessian_vector_product`.

    Source: arXiv 2006.09092, Section 2; Schraudolph (2002).
    """
    return mlp_curvature.unchecked(layers, *_batch(x, targets, indices), activation).gauss_newton_product(direction)


def batch_hessian(layers: Layers, x: Array, targets: Array, activation: str = "tanh", indices: Any = None) -> Array:
    r"""$H_{batch}$, or $H_{emp}$, as a matrix of at most 2000 parameters: a product with every unit vector.

    Parameters and errors as for :func:`hessian_vector_product`; the order of the parameters is that of
    :func:`~refimpl.primitives.curvature.pack`.

    Returns
    -------
    array, shape (P, P)
    """
    return _matrix(layers, _small_curvature(layers, x, targets, activation, indices).hessian_product, x.dtype)


def batch_ggn(layers: Layers, x: Array, targets: Array, activation: str = "tanh", indices: Any = None) -> Array:
    """$G$ as a matrix of at most 2000 parameters; parameters, result and errors as for :func:`batch_hessian`."""
    return _matrix(layers, _small_curvature(layers, x, targets, activation, indices).gauss_newton_product, x.dtype)


def _n_params(layers: Layers) -> int:
    return sum(array.size for layer in layers for array in layer if array is not None)


def _small_curvature(layers: Layers, x: Array, targets: Array, activation: str, indices: Any) -> Curvature:
    mlp_curvature.check(layers, x, targets, activation)
    _check_indices(indices, len(x))
    if (n_params := _n_params(layers)) > LARGEST_MATRIX:
        raise ValueError(f"layers: expected at most {LARGEST_MATRIX} parameters for a matrix, got {n_params}")
    return mlp_curvature.unchecked(layers, *_batch(x, targets, indices), activation)


def _matrix(layers: Layers, product: Callable[[Layers], list[Linear]], dtype: Any) -> Array:
    return np.stack([pack(product(unpack(unit, layers))) for unit in np.eye(_n_params(layers), dtype=dtype)])


# --- softmax regression: every example's Hessian in closed form ---


def _check_softmax(weights: Array, inputs: Array) -> None:
    check_shapes(weights=(weights, "n_classes n_inputs"), inputs=(inputs, "n n_inputs"))


@checked(_check_softmax)
def softmax_output_hessians(weights: Array, inputs: Array) -> Array:
    r"""$A_i=\mathrm{diag}(p_i)-p_ip_i^\top$, shape (n, C, C): one example's Hessian is $h_i=A_i\otimes x_ix_i^\top$.

    Parameters
    ----------
    weights : array, shape (C, D)
    inputs : array, shape (n, D)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    p = softmax.unchecked(inputs @ transpose(weights))
    identity = np.eye(len(weights), dtype=p.dtype)
    return np.asanyarray(p[:, :, None] * (identity - p[:, None, :]))


@checked(_check_softmax)
def softmax_regression_hessian(weights: Array, inputs: Array) -> Array:
    r"""$\frac1n\sum_i(\mathrm{diag}(p_i)-p_ip_i^\top)\otimes x_ix_i^\top$, shape (CD, CD); the labels do not enter it.

    Parameters and errors as for :func:`softmax_output_hessians`.
    """
    curvatures = softmax_output_hessians.unchecked(weights, inputs)
    n_classes, n_inputs = weights.shape
    out = np.empty((n_classes, n_inputs, n_classes, n_inputs), dtype=curvatures.dtype)
    for a in range(n_classes):
        for b in range(a, n_classes):
            block = transpose(inputs) @ (curvatures[:, a, b, None] * inputs) / len(inputs)
            out[a, :, b], out[b, :, a] = block, transpose(block)
    return out.reshape(n_classes * n_inputs, -1)


def _check_example_products(weights: Array, inputs: Array, direction: Array) -> None:
    _check_softmax(weights, inputs)
    check_shapes(direction=(direction, " ".join(map(str, weights.shape))))


@checked(_check_example_products)
def per_example_products(weights: Array, inputs: Array, direction: Array) -> Array:
    r"""$h_iu=[p_i\odot Ux_i-p_i(p_i\cdot Ux_i)]\otimes x_i$ of every example of softmax regression.

    Parameters
    ----------
    weights, direction : arrays, shape (C, D)
    inputs : array, shape (n, D)

    Returns
    -------
    array, shape (n, C, D)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    p = softmax.unchecked(inputs @ transpose(weights))
    along = inputs @ transpose(direction)
    return np.asanyarray((p * (along - row_dot(p, along)))[:, :, None] * inputs[:, None, :])


@checked(_check_softmax)
def per_example_norms(weights: Array, inputs: Array) -> Array:
    r"""$\|h_i\|_F=\|\mathrm{diag}(p_i)-p_ip_i^\top\|_F\|x_i\|^2$, shape (n,).

    Parameters and errors as for :func:`softmax_output_hessians`.
    """
    curvatures = softmax_output_hessians.unchecked(weights, inputs)
    return np.asanyarray(sqrt((curvatures * curvatures).sum(axis=(-2, -1))) * row_dot(inputs, inputs)[:, 0])


# --- the variance of the fluctuations ---


def exact_hessian_noise_variance(per_example_norms: Array, full_norm: Any, n_params: Any) -> Any:
    r"""$\sigma_\epsilon^2=\frac N{(N-1)P^2}\big(\frac1N\sum_i\|h_i\|_F^2-\|H_{emp}\|_F^2\big)$: the variance of an
    entry, averaged over the entries, for any Hessians.

    Parameters
    ----------
    per_example_norms : array, shape (N,), N >= 2
        $\|h_i\|_F$.
    full_norm : number >= 0
        $\|H_{emp}\|_F$.
    n_params : int >= 1

    Returns
    -------
    number >= 0

    Raises
    ------
    ValueError
        If there is one example only, an entry is not finite, a number is out of range, or the mean's norm is larger
        than the norms allow, beyond roundoff.

    Source: derived; arXiv 2006.09092 assumes that all entries have this variance.
    """
    n = check_shapes(per_example_norms=(per_example_norms, "n"))["n"]
    if n < 2:
        raise ValueError("per_example_norms: expected at least two examples, for one has no variance")
    full_norm = check_number("full_norm", full_norm, "[0, inf)")
    n_params = check_integer("n_params", n_params, 1)
    mean_square = (per_example_norms * per_example_norms).sum() / n
    spread = mean_square - full_norm * full_norm
    if not is_symbolic(spread):
        if spread < -8 * n * np.finfo(spread.dtype).eps * mean_square:
            raise ValueError(
                f"full_norm: expected at most the root mean square of the examples' norms, got {full_norm}"
            )
        spread = np.maximum(spread, 0)
    return (spread * n / ((n - 1) * n_params**2))[()]


def hessian_noise_variance(
    batch_products: list[Product],
    full_product: Product,
    n_params: int,
    effective_batch: float,
    n_probes: int,
    rng: np.random.Generator,
) -> float:
    r"""$\hat\sigma_\epsilon^2=\frac{\mathfrak b}{P^2}\,\overline{\|(H_{batch}-H_{emp})v\|^2}$ over batches and probes.

    Parameters
    ----------
    batch_products : list of ``v -> H_batch v``, one a batch
        All of one size. Vectors of shape (P,).
    full_product : ``v -> H_emp v``
    n_params : int >= 1
    effective_batch : float > 0
        $\mathfrak b$ of the batches' size; infinite is refused, for such a batch has no noise to measure.
    n_probes : int >= 1
        Gaussian probes, fresh ones for every batch.
    rng : np.random.Generator

    Raises
    ------
    ValueError
        If there is no batch or a number is out of range.

    Source: arXiv 2006.09092, the estimate of the variance.
    """
    n_params = check_integer("n_params", n_params, 1)
    effective_batch = check_number("effective_batch", effective_batch, "(0, inf)")
    n_probes = check_integer("n_probes", n_probes, 1)
    if not batch_products:
        raise ValueError("batch_products: expected at least one batch, got none")
    total = 0.0
    for product in batch_products:
        for probe in rng.standard_normal((n_probes, n_params)):
            noise = product(probe) - full_product(probe)
            total += float(noise @ noise)
    return effective_batch * total / (n_params**2 * n_probes * len(batch_products))


# --- what anisotropic fluctuations do to the largest eigenvalue ---


def second_order_excess(per_example_products: Array, eigenvalues: Array, eigenvectors: Array) -> Any:
    r"""$c=\sum_{j\ne1}\frac{\mathrm{Var}_i(u_j^\top h_iu_1)}{\lambda_1-\lambda_j}$, so that
    $\mathbb E\lambda_1'\simeq\lambda_1+c/\mathfrak b$.

    Second order of perturbation theory, with the fluctuations of the data instead of independent entries. For
    independent entries and a bulk at 0 it is $P\sigma_\epsilon^2/\lambda_1$.

    Parameters
    ----------
    per_example_products : array, shape (N, P), N >= 2
        $h_iu_1$.
    eigenvalues, eigenvectors : arrays, shapes (P,) and (P, P)
        Of $H_{emp}$ as ``numpy.linalg.eigh`` gives them: ascending, vectors in columns, $u_1$ the last.

    Returns
    -------
    number >= 0

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, there is one example only, the eigenvalues are not ascending or
        the last one is not simple.

    Source: derived from the setting of arXiv 2006.09092.
    """
    sizes = check_shapes(
        per_example_products=(per_example_products, "n p"),
        eigenvalues=(eigenvalues, "p"),
        eigenvectors=(eigenvectors, "p p"),
    )
    if sizes["n"] < 2:
        raise ValueError("per_example_products: expected at least two examples, for one has no variance")
    gaps = eigenvalues[-1] - eigenvalues[:-1]
    if not is_symbolic(eigenvalues) and (np.any(np.diff(eigenvalues) < 0) or not np.all(gaps > 0)):
        raise ValueError("eigenvalues: expected ascending ones, the last above all others")
    components = (per_example_products - per_example_products.sum(axis=0) / sizes["n"]) @ eigenvectors[:, :-1]
    variances = (components * components).sum(axis=0) / (sizes["n"] - 1)
    return (variances / gaps).sum()


def rayleigh_excess(batch_lambda_max: Any, batch_product_u1: Array, u1: Array) -> Array:
    r"""$e=\lambda_1'-u_1^\top H_{batch}u_1\ge0$ for every batch, with $\mathbb Ee=\mathbb E\lambda_1'-\lambda_1$.

    The noise of first order, which only widens the error bar of $\lambda_1'-\lambda_1$, is gone.

    Parameters
    ----------
    batch_lambda_max : array, shape (...), or number
    batch_product_u1 : array, shape (..., P)
        $H_{batch}u_1$.
    u1 : array, shape (P,)
        The top eigenvector of $H_{emp}$, of length 1.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or the vector has not length 1.

    Source: derived from the setting of arXiv 2006.09092.
    """
    check_shapes(
        batch_lambda_max=(np.asanyarray(batch_lambda_max), "..."),
        batch_product_u1=(batch_product_u1, "... p"),
        u1=(u1, "p"),
    )
    if not is_symbolic(u1) and abs(float(u1 @ u1) - 1) > 32 * len(u1) * float(np.finfo(u1.dtype).eps):
        raise ValueError(f"u1: expected a vector of length 1, got {float(u1 @ u1) ** 0.5}")
    return np.asanyarray(batch_lambda_max - (batch_product_u1 * u1).sum(axis=-1))
