r"""The hinge loss with margin $\kappa=1/\alpha$, and the perceptron and its data."""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, constant, positive_part, sqrt, unit_step

# --- the loss ---


def check_labels(labels: Any, *shape: int) -> None:
    """Raise ``ValueError`` unless they are signs of this shape."""
    if not hasattr(labels, "dtype") or labels.shape != shape:
        found = getattr(labels, "shape", type(labels).__name__)
        raise ValueError(f"labels: expected an array of shape {shape}, got {found}")
    wrong = [entry for entry in labels.ravel() if entry not in (-1, 1)]
    if wrong:
        raise ValueError(f"labels: expected signs -1 and 1, got {wrong[0]}")


def signs(labels: Array, like: Array) -> Array:
    """The labels in the dtype of `like`."""
    return np.asarray(labels).astype(like.dtype)


def _check_hinge(predictions: Array, labels: Array, margin: Any) -> None:
    sizes = check_shapes(predictions=(predictions, "n_samples"))
    check_labels(labels, sizes["n_samples"])
    check_number("margin", margin, "[0, inf)")


@checked(_check_hinge)
def hinge_loss(predictions: Array, labels: Array, margin: Any) -> Array:
    r"""$L=\frac1P\sum_\mu(\kappa-y_\mu F_\mu)^+$.

    With $\kappa=1/\alpha$ it is $\frac1\alpha$ times the hinge loss of unit margin on $\alpha F$.

    Parameters
    ----------
    predictions : array, shape (n_samples,)
        $F$.
    labels : array, shape (n_samples,)
        Signs.
    margin : number >= 0
        $\kappa$.

    Returns
    -------
    array, shape ()

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is no sign or the margin negative.

    Source: arXiv 2301.13703, the loss of the setting.
    """
    return np.asanyarray(positive_part(margin - signs(labels, predictions) * predictions).sum() / len(predictions))


@checked(_check_hinge)
def hinge_loss_vjp(predictions: Array, labels: Array, margin: Any) -> tuple[Array, Callable[[Array], tuple[Array]]]:
    r""":func:`hinge_loss` and its pullback ``cotangent -> (predictions,)``: $-y_\mu/P$ where $yF<\kappa$, else 0."""
    y = signs(labels, predictions)
    missing = margin - y * predictions

    def pullback(cotangent: Array) -> tuple[Array]:
        return (-cotangent * y * unit_step(missing) / len(predictions),)

    return np.asanyarray(positive_part(missing).sum() / len(predictions)), pullback


@checked(_check_hinge)
def hinge_active(predictions: Array, labels: Array, margin: Any) -> Array:
    r"""Whether $y_\mu F_\mu<\kappa$; at $\kappa=0$ whether $y_\mu F_\mu\le0$, or zero weights would count as trained.

    Parameters
    ----------
    predictions, labels, margin : as for :func:`hinge_loss`

    Returns
    -------
    boolean array, shape (n_samples,)

    Raises
    ------
    ValueError
        As :func:`hinge_loss`.

    Source: arXiv 2301.13703, the setting.
    """
    return unfitted(signs(labels, predictions) * predictions, margin)


def unfitted(agreements: Array, margin: Any) -> Array:
    """:func:`hinge_active` of the agreements $yF$; arguments unchecked."""
    return np.asarray(agreements <= 0 if margin == 0 else agreements < margin)


# --- the perceptron ---


def perceptron_data(n_samples: int, n_features: int, chi: float, rng: np.random.Generator) -> tuple[Array, Array]:
    r"""Inputs whose first coordinate has density $|x_1|^\chi e^{-x_1^2/2}/Z$, the others normal; labels are its signs.

    $|x_1|$ is the root of a $\chi^2$ variable with $\chi+1$ degrees of freedom: nothing is rejected.

    Parameters
    ----------
    n_samples : int >= 1
    n_features : int >= 2
    chi : float > -1
        Above 0 the boundary is depleted, 0 is the Gaussian.
    rng : numpy.random.Generator

    Returns
    -------
    inputs : array, shape (n_samples, n_features)
    labels : array, shape (n_samples,)

    Raises
    ------
    ValueError
        If a size or `chi` is out of range.

    Source: arXiv 2301.13703, the perceptron's data distribution.
    """
    n_samples = check_integer("n_samples", n_samples, 1)
    n_features = check_integer("n_features", n_features, 2)
    freedom = check_number("chi", chi, "(-1, inf)") + 1
    inputs = rng.standard_normal((n_samples, n_features))
    labels = 1.0 - 2 * rng.integers(2, size=n_samples)
    inputs[:, 0] = labels * np.sqrt(rng.chisquare(freedom, n_samples))
    return inputs, labels


def _check_perceptron(weights: Array, inputs: Array) -> None:
    check_shapes(weights=(weights, "n_features"), inputs=(inputs, "n_samples n_features"))


@checked(_check_perceptron)
def perceptron_outputs(weights: Array, inputs: Array) -> Array:
    r"""$f_\mu=w\cdot x_\mu/\sqrt d$.

    Parameters
    ----------
    weights : array, shape (n_features,)
    inputs : array, shape (n_samples, n_features)

    Returns
    -------
    array, shape (n_samples,)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2301.13703, the perceptron.
    """
    return np.asanyarray(inputs @ weights / root_of_width(inputs))


@checked(_check_perceptron)
def perceptron_outputs_vjp(weights: Array, inputs: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """:func:`perceptron_outputs` and its pullback ``cotangent -> (weights, inputs)``."""
    root = root_of_width(inputs)

    def pullback(cotangent: Array) -> tuple[Array, Array]:
        scaled = cotangent / root
        return scaled @ inputs, scaled[:, None] * weights

    return perceptron_outputs.unchecked(weights, inputs), pullback


def root_of_width(inputs: Array) -> Array:
    r"""$\sqrt d$ in the dtype of the inputs."""
    return sqrt(constant(inputs.shape[-1], inputs))
