"""The data, the two-layer network on patches, its gradient, and one-sample SGD."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, positive_part, row_dot, transpose, unit_step


class FeatureNoiseData(NamedTuple):
    r"""Samples of three patches: the weak feature $yv$, the strong feature $yu$ or nothing, and noise.

    ``patches`` (..., n, 3, d), ``labels`` (..., n) of 1 and -1, ``has_strong`` (n,) booleans, and the features
    ``strong`` and ``weak``, each (d,).
    """

    patches: Array
    labels: Array
    has_strong: Array
    strong: Array
    weak: Array


def sample_feature_noise_data(
    n_samples: int,
    dim: int,
    strong_fraction: float,
    strong_norm: float,
    weak_norm: float,
    noise_norm_squared: float,
    rng: np.random.Generator,
    batch: tuple[int, ...] = (),
) -> FeatureNoiseData:
    r"""Draw samples; $u=\lVert u\rVert e_1$, $v=\lVert v\rVert e_2$, and noise orthogonal to both.

    Parameters
    ----------
    n_samples : int >= 1
    dim : int >= 3
    strong_fraction : float in [0, 1]
        The first ``round(strong_fraction * n_samples)`` samples have the strong patch.
    strong_norm, weak_norm : float >= 0
    noise_norm_squared : float >= 0
        $d\sigma_p^2$, which the squared norm of a noise patch has in the mean up to the two directions it lacks.
    rng : np.random.Generator
    batch : tuple of int
        Independent data sets.

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: arXiv 2310.17074, the feature-noise data distribution.
    """
    check_integer("n_samples", n_samples, 1)
    check_integer("dim", dim, 3)
    check_number("strong_fraction", strong_fraction, "[0, 1]")
    for name, value in (("strong_norm", strong_norm), ("weak_norm", weak_norm)):
        check_number(name, value, "[0, inf)")
    check_number("noise_norm_squared", noise_norm_squared, "[0, inf)")
    strong, weak = strong_norm * np.eye(dim)[0], weak_norm * np.eye(dim)[1]
    labels = rng.choice((-1.0, 1.0), size=(*batch, n_samples))
    has_strong = np.arange(n_samples) < round(strong_fraction * n_samples)
    patches = np.empty((*batch, n_samples, 3, dim))
    patches[..., 0, :] = labels[..., None] * weak
    patches[..., 1, :] = (labels * has_strong)[..., None] * strong
    patches[..., 2, :] = (noise_norm_squared / dim) ** 0.5 * rng.standard_normal((*batch, n_samples, dim))
    patches[..., 2, :2] = 0
    return FeatureNoiseData(patches, labels, has_strong, strong, weak)


# --- the network ---


def _check_forward(weights: Array, x: Array) -> None:
    check_shapes(weights=(weights, "... 2 n_filters d"), x=(x, "... n n_patches d"))


def _scores(weights: Array, x: Array) -> Array:
    r"""$\langle w_{j,r},x^{(p)}\rangle$, shape (..., 2 n_filters, n n_patches): one product for all samples."""
    rows = weights.reshape(*weights.shape[:-3], -1, weights.shape[-1])
    return rows @ transpose(x.reshape(*x.shape[:-3], -1, x.shape[-1]))


def _outputs(active: Array, n_filters: int, n_patches: int) -> Array:
    """The network's outputs, (..., n), from the positive parts of the scores."""
    squares = (active * active).reshape(*active.shape[:-2], 2, n_filters, -1, n_patches)
    of_class = squares.sum(axis=-1).sum(axis=-2) / n_filters
    return of_class[..., 0, :] - of_class[..., 1, :]


def _signs(active: Array) -> Array:
    """1 for the filters of the class 1, which come first, and -1 for the others, as a column in the scores' dtype."""
    signs = np.ones((active.shape[-2], 1), dtype=active.dtype)
    signs[len(signs) // 2 :] = -1
    return signs


@checked(_check_forward)
def forward(weights: Array, x: Array) -> Array:
    r"""$f(W,x)=F_+-F_-$ with $F_j=\frac1m\sum_r\sum_p\max(\langle w_{j,r},x^{(p)}\rangle,0)^2$.

    Parameters
    ----------
    weights : array, shape (..., 2, n_filters, d)
        The filters of the class 1, then those of the class -1.
    x : array, shape (..., n, n_patches, d)

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2310.17074, the two-layer convolutional network with $\sigma(z)=\max(z,0)^2$.
    """
    return _outputs(positive_part(_scores(weights, x)), weights.shape[-2], x.shape[-2])


@checked(_check_forward)
def forward_vjp(weights: Array, x: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """:func:`forward` and its pullback ``cotangent -> (weights, x)``."""
    active, n_patches = positive_part(_scores(weights, x)), x.shape[-2]

    def pullback(cotangent: Array) -> tuple[Array, Array]:
        of_patch = np.repeat(cotangent, n_patches, axis=-1)[..., None, :]
        to_scores = _signs(active) * active * of_patch * 2 / weights.shape[-2]
        rows = weights.reshape(*weights.shape[:-3], -1, weights.shape[-1])
        columns = x.reshape(*x.shape[:-3], -1, x.shape[-1])
        return (to_scores @ columns).reshape(weights.shape), (transpose(to_scores) @ rows).reshape(x.shape)

    return _outputs(active, weights.shape[-2], n_patches), pullback


def check_labels(labels: Array) -> None:
    """Raise ``ValueError`` unless every label is 1 or -1; symbols may stand for either."""
    if labels.dtype != object and not np.all(np.abs(labels) == 1):
        raise ValueError(f"labels: expected 1 or -1, got {labels[np.abs(labels) != 1].flat[0]}")


def _check_loss(weights: Array, x: Array, labels: Array) -> None:
    check_shapes(weights=(weights, "... 2 n_filters d"), x=(x, "... n n_patches d"), labels=(labels, "... n"))
    check_labels(labels)


@checked(_check_loss)
def loss(weights: Array, x: Array, labels: Array) -> Array:
    r"""$\frac1{2n}\sum_i(f(x_i)-y_i)^2$, shape (...).

    Parameters
    ----------
    weights : array, shape (..., 2, n_filters, d)
    x : array, shape (..., n, n_patches, d)
    labels : array of 1 and -1, shape (..., n)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or a label is neither 1 nor -1.

    Source: arXiv 2310.17074, the square loss.
    """
    residual = forward.unchecked(weights, x) - labels
    return row_dot(residual, residual)[..., 0] / (2 * labels.shape[-1])


@checked(_check_loss)
def loss_vjp(weights: Array, x: Array, labels: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """:func:`loss` and its pullback ``cotangent -> (weights, x)``; labels do not vary."""
    output, pull = forward_vjp.unchecked(weights, x)
    residual = output - labels

    def pullback(cotangent: Array) -> tuple[Array, Array]:
        return pull(np.asanyarray(cotangent)[..., None] * residual / labels.shape[-1])

    return row_dot(residual, residual)[..., 0] / (2 * labels.shape[-1]), pullback


def _check_direction(weights: Array, x: Array, labels: Array, direction: Array) -> None:
    _check_loss(weights, x, labels)
    check_shapes(weights=(weights, "... c m d"), direction=(direction, "... c m d"))


@checked(_check_direction)
def hessian_vector_product(weights: Array, x: Array, labels: Array, direction: Array) -> Array:
    r"""The Hessian of :func:`loss` in the weights times a direction.

    Of one sample it is $\nabla f\nabla f^\top+(f-y)\nabla^2f$, where $\nabla^2_{w_{j,r}}f=\frac{2j}m\sum_p\mathbb
    1[\langle w_{j,r},x^{(p)}\rangle>0]\,x^{(p)}x^{(p)\top}$; at a fit only the first part is left.

    Parameters
    ----------
    weights, direction : array, shape (..., 2, n_filters, d)
    x : array, shape (..., n, n_patches, d)
    labels : array of 1 and -1, shape (..., n)

    Returns
    -------
    array, shape (..., 2, n_filters, d)

    Raises
    ------
    ValueError
        As :func:`loss`.
    """
    n, n_patches, n_filters = labels.shape[-1], x.shape[-2], weights.shape[-2]
    scores, along = _scores(weights, x), _scores(direction, x)
    active = positive_part(scores)
    residual = _outputs(active, n_filters, n_patches) - labels
    slope = 2 * _signs(active) / n_filters
    moved = (slope * active * along).reshape(*active.shape[:-1], n, n_patches).sum(axis=-1).sum(axis=-2)
    of_patch = [np.repeat(one, n_patches, axis=-1)[..., None, :] for one in (moved, residual)]
    to_scores = slope * (active * of_patch[0] + unit_step(scores) * along * of_patch[1]) / n
    return np.asanyarray((to_scores @ x.reshape(*x.shape[:-3], -1, x.shape[-1])).reshape(weights.shape))


# --- training ---


def _check_step(weights: Array, x: Array, label: Array, learning_rate: Any) -> None:
    check_shapes(weights=(weights, "... 2 n_filters d"), x=(x, "... n_patches d"), label=(label, "..."))
    check_labels(np.asanyarray(label))
    check_number("learning_rate", learning_rate, "(0, inf)")


@checked(_check_step)
def sgd_step(weights: Array, x: Array, label: Array, learning_rate: Any) -> tuple[Array, Array]:
    r"""A step on one sample: $w_{j,r}$ plus $\eta(y-f)\,j\,\frac2m\sum_p\langle w_{j,r},x^{(p)}\rangle_+x^{(p)}$.

    Parameters
    ----------
    weights : array, shape (..., 2, n_filters, d)
        One network for each of the batch axes.
    x : array, shape (..., n_patches, d)
        A sample for each network.
    label : array of 1 and -1, shape (...)
    learning_rate : float > 0

    Returns
    -------
    weights : array, shape (..., 2, n_filters, d)
    error : array, shape (...)
        $\ell=1-yf$ before the step.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is neither 1 nor -1, or the rate is not positive.

    Source: arXiv 2310.17074, SGD with one sample and a constant rate.
    """
    active = positive_part(_scores(weights, x[..., None, :, :]))
    output = _outputs(active, weights.shape[-2], x.shape[-2])[..., 0]
    gain = (label - output) * (2 * learning_rate / weights.shape[-2])
    move = (np.asanyarray(gain)[..., None, None] * _signs(active) * active) @ x
    return weights + move.reshape(weights.shape), 1 - label * output


def _check_training(weights: Array, x: Array, labels: Array, learning_rate: Any, indices: Array) -> None:
    _check_loss(weights, x, labels)
    check_number("learning_rate", learning_rate, "(0, inf)")
    indices = np.asanyarray(indices)
    n = labels.shape[-1]
    if indices.dtype.kind not in "iu" or indices.shape[:-1] != labels.shape[:-1]:
        raise ValueError(f"indices: expected integers of shape (..., n_steps), got {indices.dtype} {indices.shape}")
    if indices.size and not (indices.min() >= 0 and indices.max() < n):
        raise ValueError(f"indices: expected 0 to {n - 1}, got {indices.min()} to {indices.max()}")


@checked(_check_training)
def train_sgd(weights: Array, x: Array, labels: Array, learning_rate: Any, indices: Array) -> tuple[Array, Array]:
    """:func:`sgd_step` over a sequence of samples.

    A run that diverges goes on in infinities and ends as NaN; the others of the batch are not touched by it.

    Parameters
    ----------
    weights : array, shape (..., 2, n_filters, d)
    x : array, shape (..., n, n_patches, d)
    labels : array of 1 and -1, shape (..., n)
    learning_rate : float > 0
    indices : array of int, shape (..., n_steps)
        Which sample each step takes.

    Returns
    -------
    weights : array, shape (..., 2, n_filters, d)
    errors : array, shape (..., n_steps)
        $1-yf$ of the sample of each step, before it.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is neither 1 nor -1, or an index is out of range.
    """
    batch = labels.shape[:-1]
    flat = weights.reshape(-1, *weights.shape[-3:])
    samples, targets = x.reshape(-1, *x.shape[-3:]), labels.reshape(-1, labels.shape[-1])
    order = np.asanyarray(indices).reshape(len(flat), -1)
    train = _train_by_products if x.shape[-3] * x.shape[-2] <= x.shape[-1] else _train
    with np.errstate(over="ignore", invalid="ignore"):
        flat, errors = train(flat, samples, targets, learning_rate, order)
    return flat.reshape(weights.shape), errors.reshape(*batch, -1)


def _train(weights: Array, x: Array, labels: Array, learning_rate: Any, order: Array) -> tuple[Array, Array]:
    errors = np.empty(order.shape, dtype=weights.dtype)
    runs = np.arange(len(order))
    for step, chosen in enumerate(order.T):
        weights, errors[:, step] = sgd_step.unchecked(weights, x[runs, chosen], labels[runs, chosen], learning_rate)
    return weights, errors


def _train_by_products(
    weights: Array, x: Array, labels: Array, learning_rate: Any, order: Array
) -> tuple[Array, Array]:
    """The same, where there are fewer patches than dimensions.

    Filters move along patches only. So a step needs their scores on all patches, which move by inner products of
    patches, and notes how much of each patch it adds.
    """
    n_runs, n, n_patches, d = x.shape
    runs, columns = np.arange(n_runs), x.reshape(n_runs, n * n_patches, d)
    products = (columns @ transpose(columns)).reshape(n_runs, n, n_patches, n * n_patches)
    scores = _scores(weights, x)
    of_sample = scores.reshape(n_runs, -1, n, n_patches)
    added = np.zeros((n_runs, n, scores.shape[-2], n_patches), dtype=weights.dtype)
    signs = _signs(scores)[:, 0] / weights.shape[-2]
    errors = np.empty(order.shape, dtype=weights.dtype)
    for step, chosen in enumerate(order.T):
        label = labels[runs, chosen]
        active = positive_part(of_sample[runs, :, chosen])
        output = np.vecdot(active, active) @ signs
        gains = (label - output) * (2 * learning_rate)
        moves = (gains[:, None] * signs)[..., None] * active
        scores += moves @ products[runs, chosen]
        added[runs, chosen] += moves
        errors[:, step] = 1 - label * output
    total = np.moveaxis(added, 1, 2).reshape(scores.shape) @ columns
    return weights + total.reshape(weights.shape), errors
