r"""Loss, gradient and curvature of a multi-layer perceptron: products with the Hessian by hand, forward over reverse.

With $h_k=\phi(z_k)$, $z_k=h_{k-1}W_k^\top+b_k$ and $\delta_k=\partial L/\partial z_k$ the Pearlmutter operator
$R=\frac{d}{d\epsilon}\big|_0$ along $(V_k,c_k)$ gives

$$Rz_k=(Rh_{k-1})W_k^\top+h_{k-1}V_k^\top+c_k,\qquad
R\delta_{k-1}=(R\delta_kW_k+\delta_kV_k)\odot\phi'(z_{k-1})+\delta_kW_k\odot\phi''(z_{k-1})\odot Rz_{k-1}.$$

The Gauss-Newton product keeps of these only what does not carry $\delta$. One product costs about two gradients; the
matrix is never built. For a piecewise linear activation $\phi''=0$.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from refimpl.primitives.checks import check_shapes, checked
from refimpl.primitives.layers import Linear
from refimpl.primitives.normalization import softmax
from refimpl.primitives.numbers import (
    Array,
    column_sum,
    exp,
    log,
    positive_part,
    row_dot,
    row_max,
    row_sum,
    tanh,
    transpose,
    unit_step,
)

Layers = Sequence[Linear]


class Jet(NamedTuple):
    """An activation, in place: of ``z, slope`` the first becomes its value, the second its derivative. The second
    derivative comes from these two; None where it is 0."""

    first: Callable[[Array, Array], None]
    second: Callable[[Array, Array], Array] | None


def _tanh_jet(z: Array, slope: Array) -> None:
    if z.dtype == object:
        z[...] = tanh(z)
    else:
        np.tanh(z, out=z)
    np.multiply(z, z, out=slope)
    np.subtract(1, slope, out=slope)


def _relu_jet(z: Array, slope: Array) -> None:
    slope[...] = unit_step(z)
    z[...] = positive_part(z)


JETS = {"tanh": Jet(_tanh_jet, lambda h, slope: -2 * h * slope), "relu": Jet(_relu_jet, None)}
"""The activations that a perceptron may have here."""


class LossAt(NamedTuple):
    """A loss at some outputs: per example its value and gradient, and the product of a direction with its Hessian."""

    values: Array
    gradient: Array
    hessian_product: Callable[[Array], Array]


class OutputLoss(NamedTuple):
    """A loss per example as a function of outputs (n, n_outputs) and targets: all of it, or its gradient alone."""

    at: Callable[[Array, Array], LossAt]
    gradient: Callable[[Array, Array], Array]


def _cross_entropy_at(outputs: Array, labels: Array) -> LossAt:
    shifted = outputs - row_max(outputs)
    rows = np.arange(len(labels))
    at_labels = shifted[rows, labels]
    p = exp(shifted)
    total = row_sum(p)
    p /= total
    values = log(total)[:, 0] - at_labels
    gradient = p.copy()
    gradient[rows, labels] -= 1
    return LossAt(values, gradient, lambda direction: p * (direction - row_dot(p, direction)))


def _softmax_gradient(outputs: Array, labels: Array) -> Array:
    p = softmax.unchecked(outputs)
    p[np.arange(len(labels)), labels] -= 1
    return p


def _half_squared_error_at(outputs: Array, targets: Array) -> LossAt:
    residual = outputs - targets
    return LossAt(row_dot(residual, residual)[:, 0] / 2, residual, lambda direction: direction)


CROSS_ENTROPY = OutputLoss(_cross_entropy_at, _softmax_gradient)
HALF_SQUARED_ERROR = OutputLoss(_half_squared_error_at, lambda outputs, targets: outputs - targets)


class Curvature(NamedTuple):
    """A mean loss at some parameters: its value, gradient, and products with the Hessian and its Gauss-Newton part.

    Gradient and products are lists of Linear like the parameters; a direction is one too. Each is computed when it is
    asked for.
    """

    loss: Array
    find_gradient: Callable[[], list[Linear]]
    hessian_product: Callable[[Layers], list[Linear]]
    gauss_newton_product: Callable[[Layers], list[Linear]]

    @property
    def gradient(self) -> list[Linear]:
        return self.find_gradient()


def _check(
    layers: Layers, x: Array, targets: Array, activation: str = "tanh", loss: OutputLoss = CROSS_ENTROPY
) -> None:
    if activation not in JETS:
        raise ValueError(f"activation: expected one of {', '.join(JETS)}, got {activation!r}")
    shapes = {"x": (x, "n n_0")}
    for index, layer in enumerate(layers):
        shapes[f"layers[{index}].weight"] = (layer.weight, f"n_{index + 1} n_{index}")
        if layer.bias is not None:
            shapes[f"layers[{index}].bias"] = (layer.bias, f"n_{index + 1}")
    sizes = check_shapes(**shapes)
    n_outputs = sizes[f"n_{len(layers)}"]
    if loss is not CROSS_ENTROPY:
        check_shapes(targets=(targets, f"{sizes['n']} {n_outputs}"))
    elif getattr(targets, "dtype", np.dtype(object)).kind not in "iu" or targets.shape != (sizes["n"],):
        described = f"{targets.dtype} of shape {targets.shape}" if hasattr(targets, "dtype") else f"{targets!r:.80}"
        raise ValueError(f"targets: expected integer labels of shape ({sizes['n']},), got {described}")
    elif targets.min() < 0 or targets.max() >= n_outputs:
        raise ValueError(f"targets: expected classes from 0 to {n_outputs - 1}, got {targets.min()} to {targets.max()}")


@checked(_check)
def mlp_curvature(
    layers: Layers, x: Array, targets: Array, activation: str = "tanh", loss: OutputLoss = CROSS_ENTROPY
) -> Curvature:
    """The mean loss of a perceptron over examples, with gradient and curvature products.

    Parameters
    ----------
    layers : list of Linear
        The activation stands between them; one layer is softmax (or linear) regression.
    x : array, shape (n, n_inputs)
    targets : integer labels (n,) for ``CROSS_ENTROPY``, array (n, n_outputs) for ``HALF_SQUARED_ERROR``
    activation : "tanh" or "relu"
    loss : OutputLoss

    Returns
    -------
    Curvature

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is no class or the activation is unknown.

    Source: Pearlmutter, Fast exact multiplication by the Hessian (1994); Schraudolph (2002) for Gauss-Newton.
    """
    n, jet = x.shape[0], JETS[activation]
    values, slopes = [x], []
    for layer in layers[:-1]:
        h, slope = _activate(values[-1], layer, jet)
        values.append(h)
        slopes.append(slope)
    found = loss.at(_affine(values[-1], layers[-1]), targets)

    @cache
    def backward() -> tuple[list[Array], list[Array]]:
        r"""The $\delta_k$, and the $\delta_kW_k$ but for the first layer."""
        deltas, backs = [found.gradient / n], []
        for layer, slope in zip(reversed(layers[1:]), reversed(slopes), strict=True):
            backs.append(_apply(transpose(layer.weight), deltas[-1]))
            deltas.append(backs[-1] * slope)
        return deltas[::-1], backs[::-1]

    def gradient() -> list[Linear]:
        return [_outer(*each) for each in zip(backward()[0], values, layers, strict=True)]

    bent: list[Array] = []  # each delta_k W_k phi'', which all products share and the gradient has no use for

    def forward(direction: Layers) -> tuple[list[Array], list[Array]]:
        """The derivatives of the values and of the z along the direction."""
        r_values: list[Array] = []
        r_zs: list[Array] = []
        for index, (layer, along) in enumerate(zip(layers, direction, strict=True)):
            r_z = _affine(values[index], along)
            if index:
                r_z += _apply(layer.weight, r_values[-1])
            r_zs.append(r_z)
            if index < len(layers) - 1:
                r_values.append(slopes[index] * r_z)
        return r_values, r_zs

    def hessian_product(direction: Layers) -> list[Linear]:
        r_values, r_zs = forward(direction)
        deltas, backs = backward()
        if jet.second is not None and not bent:
            bent.extend(back * jet.second(h, s) for back, h, s in zip(backs, values[1:], slopes, strict=True))
        r_delta = found.hessian_product(r_zs[-1]) / n
        product = []
        for index in reversed(range(len(layers))):
            part = _outer(r_delta, values[index], layers[index])
            if index:
                weight = part.weight
                weight += transpose(deltas[index]) @ r_values[index - 1]
                r_delta = _apply(transpose(layers[index].weight), r_delta)
                r_delta += _apply(transpose(direction[index].weight), deltas[index])
                r_delta *= slopes[index - 1]
                if jet.second is not None:
                    r_z = r_zs[index - 1]
                    r_z *= bent[index - 1]
                    r_delta += r_z
            product.append(part)
        return product[::-1]

    def gauss_newton_product(direction: Layers) -> list[Linear]:
        _, r_zs = forward(direction)
        r_delta = found.hessian_product(r_zs[-1]) / n
        product = []
        for index in reversed(range(len(layers))):
            product.append(_outer(r_delta, values[index], layers[index]))
            if index:
                r_delta = _apply(transpose(layers[index].weight), r_delta) * slopes[index - 1]
        return product[::-1]

    return Curvature(found.values.sum() / n, gradient, hessian_product, gauss_newton_product)


@checked(_check)
def per_example_gradients(
    layers: Layers, x: Array, targets: Array, activation: str = "tanh", loss: OutputLoss = CROSS_ENTROPY
) -> list[Linear]:
    """The gradient of each example's own loss: every array with a leading axis of examples.

    Parameters, errors as for :func:`mlp_curvature`.
    """
    values, slopes = [x], []
    for layer in layers[:-1]:
        h, slope = _activate(values[-1], layer, JETS[activation])
        values.append(h)
        slopes.append(slope)
    delta = loss.gradient(_affine(values[-1], layers[-1]), targets)
    gradients = []
    for index in reversed(range(len(layers))):
        rows = delta.copy()  # an example a row again
        bias = None if layers[index].bias is None else rows
        gradients.append(Linear(rows[:, :, None] * values[index].copy()[:, None, :], bias))
        if index:
            delta = _apply(transpose(layers[index].weight), delta) * slopes[index - 1]
    return gradients[::-1]


def _apply(matrix: Array, rows: Array) -> Array:
    """The matrix times every row, stored column by column: there are more examples than units, and loops like long
    columns."""
    return transpose(matrix @ transpose(rows))


def _affine(h: Array, layer: Linear) -> Array:
    z = _apply(layer.weight, h)
    if layer.bias is not None:
        z += layer.bias
    return z


def _activate(h: Array, layer: Linear, jet: Jet) -> tuple[Array, Array]:
    """The next layer's values, and the slopes of its activation."""
    z = _affine(h, layer)
    slope = np.empty_like(z)
    jet.first(z, slope)
    return z, slope


def _outer(delta: Array, h: Array, layer: Linear) -> Linear:
    return Linear(transpose(delta) @ h, None if layer.bias is None else column_sum(delta))


def pack(layers: Layers) -> Array:
    """The parameters as one vector, layer by layer, weight before bias."""
    return np.concatenate([array.reshape(-1) for layer in layers for array in layer if array is not None])


def unpack(vector: Array, like: Layers) -> list[Linear]:
    """The inverse of :func:`pack`, with the shapes of `like`."""
    layers, start = [], 0

    def take(array: Array) -> Array:
        nonlocal start
        start += array.size
        return vector[start - array.size : start].reshape(array.shape)

    for layer in like:
        layers.append(Linear(take(layer.weight), None if layer.bias is None else take(layer.bias)))
    if start != vector.size:
        raise ValueError(f"vector: expected {start} entries, got {vector.size}")
    return layers
