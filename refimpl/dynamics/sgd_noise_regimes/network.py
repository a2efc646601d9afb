r"""Deep ReLU networks without biases, SGD on $F=f(w)-f(w_0)$, and the map between scales in the feature regime."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import chain, islice, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from refimpl.dynamics.sgd_noise_regimes.hinge import batch_blocks, check_labels, signs, unfitted
from refimpl.primitives.checks import check_array, check_integer, check_number, check_shapes, checked
from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.numbers import Array, constant, positive_part, sqrt, unit_step
from refimpl.primitives.trees import leaves, tree_map

Weights = Sequence[Array]


def _check_layer(x: Array, weight: Array) -> None:
    check_shapes(x=(x, "n n_inputs"), weight=(weight, "n_outputs n_inputs"))


@cache
def _gain(square: int, dtype: Any, width: int) -> Array:
    """The root of `square` over the width: of a hidden layer at 2, whose factor passes through the ReLU, of the output
    at 1."""
    like = np.empty(0, dtype=dtype)
    return sqrt(constant(square, like) / constant(width, like))


@checked(_check_layer)
def hidden_layer(x: Array, weight: Array) -> Array:
    r"""$\sqrt2\max(Wa/\sqrt{n_{in}},0)$ on rows: at unit normal weights it keeps the mean square of its inputs.

    Parameters
    ----------
    x : array, shape (n, n_inputs)
    weight : array, shape (n_outputs, n_inputs)

    Returns
    -------
    array, shape (n, n_outputs)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2301.13703, the fully connected networks.
    """
    x, weight = _scaled(x, weight)
    return positive_part(x @ weight.T)


@checked(_check_layer)
def hidden_layer_vjp(x: Array, weight: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """:func:`hidden_layer` and its pullback ``cotangent -> (x, weight)``."""
    return _hidden(x, weight)


class _HiddenPullback(Protocol):
    def __call__(self, cotangent: Array, with_inputs: bool = True) -> tuple[Any, Array]: ...


def _hidden(x: Array, weight: Array) -> tuple[Array, _HiddenPullback]:
    """:func:`hidden_layer_vjp`, whose pullback leaves the cotangent of the inputs out where nobody asks for it."""
    gain = _gain(2, x.dtype, x.shape[-1])
    scaled_x, scaled_weight = _scaled(x, weight)
    before = scaled_x @ scaled_weight.T

    def pullback(cotangent: Array, with_inputs: bool = True) -> tuple[Any, Array]:
        to_before = unit_step(before)
        to_before *= cotangent
        to_weight = to_before.T @ scaled_x
        if scaled_x is x:
            to_weight *= gain
        if not with_inputs:
            return None, to_weight
        to_x = to_before @ scaled_weight
        if scaled_weight is weight:
            to_x *= gain
        return to_x, to_weight

    return positive_part(before), pullback


def _scaled(x: Array, weight: Array) -> tuple[Array, Array]:
    """The inputs and weights of a hidden layer, the smaller of them times the layer's factor."""
    gain = _gain(2, x.dtype, x.shape[-1])
    return (gain * x, weight) if x.size < weight.size else (x, gain * weight)


def check_network(x: Array, weights: Weights) -> None:
    """Raise ``ValueError`` unless the matrices follow on each other and end in one output."""
    if not isinstance(weights, list | tuple) or len(weights) < 2:
        raise ValueError(f"weights: expected a list of two or more matrices, got {weights!r:.80}")
    shapes = {"x": (x, "n n_0")}
    for index, matrix in enumerate(weights):
        outputs = "1" if index == len(weights) - 1 else f"n_{index + 1}"
        shapes[f"weights[{index}]"] = (matrix, f"{outputs} n_{index}")
    check_shapes(**shapes)


@checked(check_network)
def network_outputs(x: Array, weights: Weights) -> Array:
    r"""$f(w,x)$: $D$ layers $a\leftarrow\sqrt2\max(Wa/\sqrt{n_{in}},0)$, then one output $Wa/\sqrt{n_{in}}$.

    Homogeneous of degree $D+1$ in the weights.

    Parameters
    ----------
    x : array, shape (n, n_inputs)
    weights : list of D + 1 >= 2 arrays
        Shapes (n_outputs, n_inputs) of each layer; the last has one output.

    Returns
    -------
    array, shape (n,)

    Raises
    ------
    ValueError
        If there are fewer than two matrices, shapes do not fit or an entry is not finite.

    Source: arXiv 2301.13703, the fully connected networks.
    """
    for matrix in weights[:-1]:
        x = hidden_layer.unchecked(x, matrix)
    return np.asanyarray((x @ weights[-1][0]) * _gain(1, x.dtype, x.shape[-1]))


@checked(check_network)
def network_outputs_vjp(x: Array, weights: Weights) -> tuple[Array, Callable[[Array], tuple[Array, Sequence[Array]]]]:
    """:func:`network_outputs` and its pullback ``cotangent -> (x, weights)``."""
    outputs, pull = _network(x, weights)
    return outputs, pull


def _network(x: Array, weights: Weights) -> tuple[Array, Callable[..., tuple[Any, Sequence[Array]]]]:
    """:func:`network_outputs_vjp`, whose pullback can leave the cotangent of the inputs out."""
    pulls = []
    for matrix in weights[:-1]:
        x, pull = _hidden(x, matrix)
        pulls.append(pull)
    last, gain = weights[-1], _gain(1, x.dtype, x.shape[-1])

    def pullback(cotangent: Array, with_inputs: bool = True) -> tuple[Any, Sequence[Array]]:
        scaled = cotangent * gain
        to_x, to_weights = scaled[:, None] * last, [(scaled @ x)[None]]
        for index in reversed(range(len(pulls))):
            to_x, to_weight = pulls[index](to_x, with_inputs or index > 0)
            to_weights.append(to_weight)
        return to_x, type(weights)(reversed(to_weights))  # type: ignore[call-arg]

    return np.asanyarray((x @ last[0]) * gain), pullback


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
    x : array, shape (n, n_inputs)
    weights : list of arrays, as for :func:`network_outputs`
        $w_0$.
    displacement : list of arrays of the same shapes
        $\Delta w=w-w_0$.

    Returns
    -------
    array, shape (n,)

    Raises
    ------
    ValueError
        As :func:`network_outputs`.

    Source: arXiv 2301.13703, the lazy regime.
    """
    moved = None  # the inputs do not move
    for matrix, change in zip(weights[:-1], displacement[:-1], strict=True):
        gain = _gain(2, x.dtype, x.shape[-1])
        scaled = gain * matrix
        before, shift = x @ scaled.T, x @ (gain * change).T
        if moved is not None:
            shift += moved @ scaled.T
        shift *= unit_step(before)
        moved, x = shift, positive_part(before)
    assert moved is not None
    return np.asanyarray((moved @ weights[-1][0] + x @ displacement[-1][0]) * _gain(1, x.dtype, x.shape[-1]))


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


def relative_weight_change(weights: Weights, initial: Weights) -> float:
    r"""$\Delta w=\lVert w-w_0\rVert/\lVert w_0\rVert$ over all matrices.

    Raises
    ------
    ValueError
        If the two differ in structure or the initial weights are all 0.

    Source: arXiv 2301.13703, the setting.
    """
    moved = sum(float(((a - b) ** 2).sum()) for a, b in zip(leaves(weights), leaves(initial), strict=True))
    size = sum(float((one**2).sum()) for one in leaves(initial))
    if size == 0:
        raise ValueError("initial: expected weights that are not all 0, got only zeros")
    return (moved / size) ** 0.5


# --- SGD ---


class NetworkRun(NamedTuple):
    """Where SGD went, and when it stopped."""

    weights: list[Array]
    time: float
    r"""$\eta$ times the steps taken: $t^*$ if the run converged, to within the steps between two tests."""
    steps: int
    converged: bool
    """Whether every point is fitted. A run whose weights are no longer finite has stopped and is not converged."""


def train_network(
    inputs: Array,
    labels: Array,
    weights: Weights,
    learning_rate: Any,
    batch_size: int,
    margin: Any,
    rng: np.random.Generator | None,
    max_steps: int,
    check_every: int = 1,
    batches: Iterable[Array] | None = None,
) -> NetworkRun:
    r"""SGD on the hinge loss of $F=f(w)-f(w_0)$ until all points are fitted, the weights overflow or steps run out.

    Parameters
    ----------
    inputs : array, shape (n_samples, n_inputs)
    labels : array, shape (n_samples,)
        Signs.
    weights : list of arrays, as for :func:`network_outputs`
        $w_0$.
    learning_rate : number > 0
    batch_size : int from 1 to n_samples
    margin : number >= 0
        $\kappa=1/\alpha$.
    rng : numpy.random.Generator
        Of the batches, drawn uniformly with replacement; None if they are given.
    max_steps : int >= 1
    check_every : int >= 1
        Steps between two tests of the whole training set; the resolution of $t^*$.
    batches : iterable of integer arrays of shape (batch_size,), optional
        In place of the generator's; the run also ends with them.

    Returns
    -------
    NetworkRun

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is no sign, a number or an index is out of range.

    Source: arXiv 2301.13703, the algorithm of the setting.
    """
    check_network(inputs, weights)
    n_samples = len(inputs)
    check_labels(labels, n_samples)
    rate = check_number("learning_rate", learning_rate, "(0, inf)") / check_integer(
        "batch_size", batch_size, 1, n_samples
    )
    margin, max_steps = check_number("margin", margin, "[0, inf)"), check_integer("max_steps", max_steps, 1)
    check_every = check_integer("check_every", check_every, 1)
    if rng is None and batches is None:
        raise ValueError("rng: expected a generator, or batches to take in its place, got None")
    keep_freed_memory()
    y = signs(labels, inputs)
    start = y * network_outputs.unchecked(inputs, weights)
    current, steps, converged = [matrix.copy() for matrix in weights], 0, False
    with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges is an outcome
        for chosen in islice(chain.from_iterable(batch_blocks(n_samples, batch_size, rng, batches)), max_steps):
            outputs, pull = _network(inputs[chosen], current)
            signed = y[chosen]
            active = unfitted(signed * outputs - start[chosen], margin)
            if active.any():
                signed *= active
                signed *= rate
                for matrix, step in zip(current, pull(signed, with_inputs=False)[1], strict=True):
                    matrix += step
            steps += 1
            if steps % check_every == 0:
                agreements = y * network_outputs.unchecked(inputs, current) - start
                if not np.all(np.isfinite(agreements)):
                    break
                converged = not unfitted(agreements, margin).any()
                if converged:
                    break
    return NetworkRun(current, learning_rate * steps, steps, converged)


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
