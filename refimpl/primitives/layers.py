"""The affine map and the multi-layer perceptron on rows, with their pullbacks."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from refimpl.primitives.activations import Activation, check_activation
from refimpl.primitives.checks import check_shapes, checked
from refimpl.primitives.numbers import Array, column_sum, transpose


class Linear(NamedTuple):
    """An affine map: ``weight`` of shape (n_outputs, n_inputs), ``bias`` of shape (n_outputs,) or None."""

    weight: Array
    bias: Array | None = None


def _check_linear(x: Array, weight: Array, bias: Array | None = None) -> None:
    check_shapes(
        x=(x, "... n_inputs"),
        weight=(weight, "n_outputs n_inputs"),
        **({} if bias is None else {"bias": (bias, "n_outputs")}),
    )


@checked(_check_linear)
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    r"""$xW^\top+b$ on rows: the weight has the shape (outputs, inputs) of the papers' $Wx$, and of PyTorch's.

    Parameters
    ----------
    x : array, shape (..., n_inputs)
    weight : array, shape (n_outputs, n_inputs)
    bias : array, shape (n_outputs,), or None

    Returns
    -------
    array, shape (..., n_outputs)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    # One product of all rows: over batch axes NumPy would multiply small matrices one by one.
    output = (x.reshape(-1, x.shape[-1]) @ transpose(weight)).reshape(*x.shape[:-1], len(weight))
    if bias is not None:
        output += bias
    return output


@checked(_check_linear)
def linear_vjp(
    x: Array, weight: Array, bias: Array | None = None
) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
    """:func:`linear` and its pullback ``cotangent -> (x, weight, bias)``, without `bias` where it is None."""

    def pullback(cotangent: Array) -> tuple[Array, ...]:
        rows = cotangent.reshape(-1, cotangent.shape[-1])
        to_x = (rows @ weight).reshape(x.shape)
        to_weight = transpose(rows) @ x.reshape(-1, x.shape[-1])
        return (to_x, to_weight) if bias is None else (to_x, to_weight, column_sum(rows))

    return linear.unchecked(x, weight, bias), pullback


def _check_mlp(x: Array, layers: Sequence[Linear], activation: str | Activation = "relu") -> None:
    check_activation("activation", activation)
    if not isinstance(layers, list | tuple) or not layers or not all(isinstance(layer, Linear) for layer in layers):
        raise ValueError(f"layers: expected a list of at least one Linear, got {layers!r:.80}")
    widths = [f"n_{index}" for index in range(len(layers) + 1)]
    shapes: dict[str, tuple[Array, str]] = {"x": (x, "... n_0")}
    for index, layer in enumerate(layers):
        shapes[f"layers[{index}].weight"] = (layer.weight, f"{widths[index + 1]} {widths[index]}")
        if layer.bias is not None:
            shapes[f"layers[{index}].bias"] = (layer.bias, widths[index + 1])
    check_shapes(**shapes)


@checked(_check_mlp)
def mlp(x: Array, layers: Sequence[Linear], activation: str | Activation = "relu") -> Array:
    """A multi-layer perceptron: affine maps with the activation between them, none after the last.

    Parameters
    ----------
    x : array, shape (..., n_inputs)
    layers : list of Linear
        At least one; the outputs of each are the inputs of the next.
    activation : name in ``ACTIVATIONS``, or Activation

    Returns
    -------
    array, shape (..., n_outputs)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, there is no layer or the activation is unknown.
    """
    function = check_activation("activation", activation).function
    for layer in layers[:-1]:
        x = function(linear.unchecked(x, *layer))
    return linear.unchecked(x, *layers[-1])


@checked(_check_mlp)
def mlp_vjp(
    x: Array, layers: Sequence[Linear], activation: str | Activation = "relu"
) -> tuple[Array, Callable[[Array], tuple[Array, Sequence[Linear]]]]:
    """:func:`mlp` and its pullback ``cotangent -> (x, layers)``."""
    activation_vjp = check_activation("activation", activation).vjp
    pull_linear, pull_activation = [], []
    for index, layer in enumerate(layers):
        if index:
            x, pull = activation_vjp(x)
            pull_activation.append(pull)
        x, pull_layer = linear_vjp.unchecked(x, *layer)
        pull_linear.append(pull_layer)

    def pullback(cotangent: Array) -> tuple[Array, Sequence[Linear]]:
        to_layers = []
        for index in reversed(range(len(layers))):
            cotangent, *to_layer = pull_linear[index](cotangent)
            to_layers.append(Linear(*to_layer))
            if index:
                (cotangent,) = pull_activation[index - 1](cotangent)
        return cotangent, type(layers)(reversed(to_layers))  # type: ignore[call-arg]

    return x, pullback
