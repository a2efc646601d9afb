r"""Deep ReLU networks without biases, their tangents, and the map between scales in the feature regime."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise, product
from typing import Any, Protocol

import numpy as np

from refimpl.primitives.checks import check_array, check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, constant, positive_part, sqrt, where_positive
from refimpl.primitives.trees import tree_map

Weights = Sequence[Array]
# Rows that are taken through a network at once: what is between the layers stays in the cache, and products as small as
# this need no packing.
ROWS = 200


def _check_layer(x: Array, weight: Array) -> None:
    check_shapes(x=(x, "... n n_inputs"), weight=(weight, "... n_outputs n_inputs"))


def _gain(square: int, x: Array) -> Array:
    """The root of `square` over the width of `x`: of a hidden layer at 2, which passes through the ReLU."""
    return _root(square, x.shape[-1], x.dtype)


@cache
def _root(square: int, width: int, dtype: np.dtype[Any]) -> Array:
    like = np.empty(0, dtype=dtype)
    return sqrt(constant(square, like) / constant(width, like))


def layers_factor(weights: Weights) -> Array:
    """The factors of all layers: a ReLU lets a positive number through, so that the output takes them all at once."""
    return math.prod((_gain(2, matrix) for matrix in weights[:-1]), start=_gain(1, weights[-1]))


@checked(_check_layer)
def hidden_layer(x: Array, weight: Array) -> Array:
    r"""$\sqrt2\max(Wa/\sqrt{n_{in}},0)$ on rows: at unit normal weights it keeps the mean square of its inputs.

    Parameters
    ----------
    x : array, shape (..., n, n_inputs)
    weight : array, shape (..., n_outputs, n_inputs)

    Returns
    -------
    array, shape (..., n, n_outputs)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2301.13703, the fully connected networks.
    """
    return _hidden(_gain(2, x) * x, weight, weight.mT)[0]


@checked(_check_layer)
def hidden_layer_vjp(x: Array, weight: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """:func:`hidden_layer` and its pullback ``cotangent -> (x, weight)``."""
    gain = _gain(2, x)
    output, pull = _hidden(gain * x, weight, weight.mT)

    def pullback(cotangent: Array) -> tuple[Array, Array]:
        to_x, to_weight = pull(cotangent)
        return gain * to_x, to_weight

    return output, pullback


class _HiddenPullback(Protocol):
    def __call__(self, cotangent: Array, with_inputs: bool = True) -> tuple[Any, Array]: ...


def _hidden(x: Array, weight: Array, turned: Array) -> tuple[Array, _HiddenPullback]:
    """A hidden layer without its factor, the weights turned too, and its pullback, which leaves the cotangent of the
    inputs out where nobody asks for it."""
    output = positive_part(x @ turned)

    def pullback(cotangent: Array, with_inputs: bool = True) -> tuple[Any, Array]:
        to_before = where_positive(output, cotangent)
        return to_before @ weight if with_inputs else None, to_before.mT @ x

    return output, pullback


def _turned(weight: Array) -> Array:
    """A layer's weights from the right, in rows: many products with columns take longer."""
    return weight.mT.copy()


def check_network(x: Array, weights: Weights) -> None:
    """Raise ``ValueError`` unless the matrices follow on each other and end in one output."""
    if not isinstance(weights, list | tuple) or len(weights) < 2:
        raise ValueError(f"weights: expected a list of two or more matrices, got {weights!r:.80}")
    shapes = {"x": (x, "... n n_0")}
    for index, matrix in enumerate(weights):
        outputs = "1" if index == len(weights) - 1 else f"n_{index + 1}"
        shapes[f"weights[{index}]"] = (matrix, f"... {outputs} n_{index}")
    check_shapes(**shapes)


def _runs(array: Array) -> Array:
    """Its leading axes in one."""
    return array.reshape(math.prod(array.shape[:-2]), *array.shape[-2:])


def _blocks(x: Array) -> list[tuple[slice, slice]]:
    """Of runs and of their rows, :data:`ROWS` rows or fewer at once."""
    n_runs, n, _ = x.shape
    together, at_once = max(1, ROWS // n), math.ceil(n / math.ceil(n / ROWS))
    runs = [slice(start, start + together) for start in range(0, n_runs, together)]
    return list(product(runs, [slice(start, start + at_once) for start in range(0, n, at_once)]))


@checked(check_network)
def network_outputs(x: Array, weights: Weights) -> Array:
    r"""$f(w,x)$: $D$ layers $a\leftarrow\sqrt2\max(Wa/\sqrt{n_{in}},0)$, then one output $Wa/\sqrt{n_{in}}$.

    Homogeneous of degree $D+1$ in the weights.

    Parameters
    ----------
    x : array, shape (..., n, n_inputs)
    weights : list of D + 1 >= 2 arrays
        Shapes (..., n_outputs, n_inputs) of each layer; the last has one output.

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        If there are fewer than two matrices, shapes do not fit or an entry is not finite.

    Source: arXiv 2301.13703, the fully connected networks.
    """
    *hidden, last = map(_runs, weights)
    hidden, rows, outputs = [_turned(matrix) for matrix in hidden], _runs(x), np.empty_like(x[..., 0])
    out = outputs.reshape(rows.shape[:2])
    for block in _blocks(rows):
        activation = rows[block]
        for matrix in hidden:
            activation = positive_part(activation @ matrix[block[0]])
        out[block] = (activation @ last[block[0]].mT)[..., 0]
    out *= layers_factor(weights)
    return outputs


@checked(check_network)
def network_outputs_vjp(x: Array, weights: Weights) -> tuple[Array, Callable[[Array], tuple[Array, Sequence[Array]]]]:
    """:func:`network_outputs` and its pullback ``cotangent -> (x, weights)``."""
    rows, matrices, outputs = _runs(x), [_runs(matrix) for matrix in weights], np.empty_like(x[..., 0])
    turned = [_turned(matrix) for matrix in matrices[:-1]]
    out, pulls, factor = outputs.reshape(rows.shape[:2]), [], layers_factor(weights)
    for block in _blocks(rows):
        here, _ = block
        parts = [matrix[here] for matrix in matrices], [matrix[here] for matrix in turned]
        out[block], pull = network_pullback(rows[block], *parts, factor)
        pulls.append((block, pull))

    def pullback(cotangent: Array) -> tuple[Array, Sequence[Array]]:
        cotangent = cotangent.reshape(out.shape)
        to_rows, to_matrices = np.empty_like(rows), [np.zeros_like(matrix) for matrix in matrices]
        for block, pull in pulls:
            to_rows[block], parts = pull(cotangent[block])
            for total, part in zip(to_matrices, parts, strict=True):
                total[block[0]] += part
        to_weights = [total.reshape(matrix.shape) for total, matrix in zip(to_matrices, weights, strict=True)]
        return to_rows.reshape(x.shape), type(weights)(to_weights)  # type: ignore[call-arg]

    return outputs, pullback


def network_pullback(
    x: Array, weights: Weights, turned: Weights, factor: Array
) -> tuple[Array, Callable[..., tuple[Any, Sequence[Array]]]]:
    """:func:`network_outputs_vjp` of rows at once, whose pullback can leave the cotangent of the inputs out."""
    pulls = []
    for matrix, from_right in zip(weights[:-1], turned, strict=True):
        x, pull = _hidden(x, matrix, from_right)
        pulls.append(pull)
    last = weights[-1]

    def pullback(cotangent: Array, with_inputs: bool = True) -> tuple[Any, Sequence[Array]]:
        scaled = (factor * cotangent)[..., None]
        to_x, to_weights = scaled * last, [scaled.mT @ x]
        for index in reversed(range(len(pulls))):
            to_x, to_weight = pulls[index](to_x, with_inputs or index > 0)
            to_weights.append(to_weight)
        return to_x, to_weights[::-1]

    return factor * (x @ last.mT)[..., 0], pullback


def _check_linearised(x: Array, weights: Weights, displacement: Weights) -> None:
    check_network(x, weights)
    if [np.shape(one) for one in displacement] != [matrix.shape for matrix in weights]:
        raise ValueError(
            f"displacement: expected the shapes {[matrix.shape for matrix in weights]} of the weights, "
            f"got {[np.shape(one) for one in displacement]}"
        )
    for index, change in enumerate(displacement):
        check_array(f"displacement[{index}]", change)


@checked(_check_linearised)
def linearised_outputs(x: Array, weights: Weights, displacement: Weights) -> Array:
    r"""$\nabla_wf(w_0,x)\cdot\Delta w$, forwards through the layers: what the lazy limit makes of $F$.

    Parameters
    ----------
    x : array, shape (..., n, n_inputs)
    weights : list of arrays, as for :func:`network_outputs`
        $w_0$.
    displacement : list of arrays of the same shapes
        $\Delta w=w-w_0$.

    Returns
    -------
    array, shape (..., n)

    Raises
    ------
    ValueError
        As :func:`network_outputs`.

    Source: arXiv 2301.13703, the lazy regime.
    """
    *hidden, last = zip(map(_runs, weights), map(_runs, displacement), strict=True)
    turned = [(_turned(matrix), _turned(change)) for matrix, change in hidden]
    rows, outputs = _runs(x), np.empty_like(x[..., 0])
    out = outputs.reshape(rows.shape[:2])
    for block in _blocks(rows):
        activation, moved = rows[block], None  # the inputs do not move
        for matrix, change in turned:
            shift = activation @ change[block[0]]
            if moved is not None:
                shift += moved @ matrix[block[0]]
            activation = positive_part(activation @ matrix[block[0]])
            moved = where_positive(activation, shift)
        assert moved is not None
        out[block] = (moved @ last[0][block[0]].mT + activation @ last[1][block[0]].mT)[..., 0]
    out *= layers_factor(weights)
    return outputs


def initial_network(n_inputs: int, width: int, n_hidden: int, rng: np.random.Generator) -> list[Array]:
    r"""Unit normal weights of $D$ hidden layers of one width, and an output.

    Parameters
    ----------
    n_inputs, width, n_hidden : int >= 1
        `n_hidden` is the number $D$ of hidden layers.
    rng : numpy.random.Generator

    Returns
    -------
    list of n_hidden + 1 arrays

    Raises
    ------
    ValueError
        If a size is below 1.

    Source: arXiv 2301.13703, the fully connected networks.
    """
    n_inputs, width = check_integer("n_inputs", n_inputs, 1), check_integer("width", width, 1)
    sizes = [n_inputs, *[width] * check_integer("n_hidden", n_hidden, 1), 1]
    return [rng.standard_normal((after, before)) for before, after in pairwise(sizes)]


def relative_weight_change(weights: Weights, initial: Weights) -> Array:
    r"""$\Delta w=\lVert w-w_0\rVert/\lVert w_0\rVert$ over all matrices, of shapes (..., n_outputs, n_inputs).

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If the two differ in number or shapes, or the initial weights of a network are all 0.

    Source: arXiv 2301.13703, the setting.
    """
    if [one.shape for one in weights] != [one.shape for one in initial]:
        raise ValueError(
            f"weights: expected the shapes {[one.shape for one in initial]} of the initial ones, "
            f"got {[one.shape for one in weights]}"
        )
    moved = sum(((a - b) ** 2).sum((-2, -1)) for a, b in zip(weights, initial, strict=True))
    size = np.asarray(sum((one**2).sum((-2, -1)) for one in initial))
    if np.any(size == 0):
        raise ValueError("initial: expected weights that are not all 0, got only zeros")
    return np.asanyarray((moved / size) ** 0.5)


# --- the feature regime ---


def feature_regime_map(weights: Any, learning_rate: Any, alpha: Any, n_hidden: Any) -> tuple[Any, Any]:
    r"""Weights $u=\alpha^{1/(D+1)}w$ and a rate $\eta_u=\eta\,\alpha^{-\frac{D-1}{D+1}}$ that do the same at margin 1.

    $f$ is homogeneous of degree $D+1$, so $F_w=F_u/\alpha$, active points are the same, and a step of $w$ at
    $\eta$ with margin $1/\alpha$ is a step of $u$ at $\eta_u$ with margin 1. At vanishing $w_0$ every characteristic
    temperature is therefore proportional to $\alpha^k$, $k=\frac{D-1}{D+1}$.

    Parameters
    ----------
    weights : tree of arrays
        $w$.
    learning_rate : number > 0
    alpha : number > 0
    n_hidden : int >= 1, or a symbol
        $D$.

    Returns
    -------
    weights : tree of arrays
        $u$.
    learning_rate : number
        $\eta_u$.

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: arXiv 2301.13703, the feature regime; the symmetry is derived.
    """
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    alpha = check_number("alpha", alpha, "(0, inf)")
    n_hidden = check_integer("n_hidden", n_hidden, 1)
    scale = alpha ** (1 / (n_hidden + 1))
    return tree_map(lambda w: scale * w, weights), learning_rate / scale ** (n_hidden - 1)
