r"""Gradients of a perceptron's examples, and the paper's experiments on the bundled digits.

With $\delta^{(K)}=\mathrm{softmax}(z_K)-y$, without $1/n$, and
$\delta^{(k-1)}=(\delta^{(k)}W_k)\odot\mathbf1[h_{k-1}>0]$ an example's gradient consists of
$\delta^{(k)}\otimes h_{k-1}$ and $\delta^{(k)}$, so

$$\|g_i\|^2=\sum_k\|\delta^{(k)}_i\|^2(\|h_{k-1,i}\|^2+1),$$

and coherence costs one backward pass: no example's gradient is formed.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.dynamics.gradient_coherence.coherence import squared_norm
from refimpl.dynamics.gradient_coherence.suppression import RollingMedian3, median_of_three, winsorized_mean
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.curvature import CROSS_ENTROPY, Layers, pack, unpack
from refimpl.primitives.layers import Linear
from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.numbers import Array, positive_part, transpose, unit_step
from refimpl.tasks.real_data import digit_images


def _check_network(layers: Layers, x: Array, labels: Array) -> None:
    shapes = {"x": (x, "n n_0")}
    for index, layer in enumerate(layers):
        shapes[f"layers[{index}].weight"] = (layer.weight, f"n_{index + 1} n_{index}")
        if layer.bias is not None:
            shapes[f"layers[{index}].bias"] = (layer.bias, f"n_{index + 1}")
    sizes = check_shapes(**shapes)
    n_classes = sizes[f"n_{len(layers)}"]
    labels = np.asarray(labels)
    fits = labels.shape == (sizes["n"],) and labels.dtype.kind in "iu"
    if not fits or np.any((labels < 0) | (labels >= n_classes)):
        raise ValueError(f"labels: expected {sizes['n']} integers from 0 to {n_classes - 1}, got {labels!r:.80}")


@checked(_check_network)
def gradient_matrix(layers: Layers, x: Array, labels: Array) -> Array:
    """Gradients of the cross-entropy of a ReLU perceptron, one example in a row: the matrix $G$.

    Parameters
    ----------
    layers : list of Linear
    x : array, shape (n, n_inputs)
    labels : array of integers, shape (n,)

    Returns
    -------
    array, shape (n, n_parameters)
        Layer by layer, weight before bias.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a label is no class.
    """
    passes = _passes(layers, x, labels)
    matrix = np.empty((len(x), _n_parameters(layers)), dtype=passes.deltas[0].dtype)
    start = 0
    for layer, h, delta in zip(layers, passes.inputs, passes.deltas, strict=True):
        end = start + layer.weight.size
        np.einsum("ni,nj->nij", delta, h, out=matrix[:, start:end].reshape(len(x), *layer.weight.shape))
        if layer.bias is not None:
            start, end = end, end + layer.bias.size
            matrix[:, start:end] = delta
        start = end
    return matrix


def _n_parameters(layers: Layers) -> int:
    return sum(array.size for layer in layers for array in layer if array is not None)


class _Pass(NamedTuple):
    """A forward and a backward pass: each layer's inputs, and the slopes of each example's loss in its outputs."""

    inputs: list[Array]
    deltas: list[Array]


def _passes(layers: Layers, x: Array, labels: Array) -> _Pass:
    inputs, z = [x], _affine(x, layers[0])
    for layer in layers[1:]:
        inputs.append(positive_part(z))
        z = _affine(inputs[-1], layer)
    deltas = [CROSS_ENTROPY.gradient(z, labels)]
    for index in range(len(layers) - 1, 0, -1):
        delta = deltas[-1] @ layers[index].weight
        delta *= unit_step(inputs[index])
        deltas.append(delta)
    return _Pass(inputs, deltas[::-1])


def _affine(h: Array, layer: Linear) -> Array:
    z = h @ transpose(layer.weight)
    if layer.bias is not None:
        z += layer.bias
    return z


def _total_gradient(layers: Layers, passes: _Pass) -> Array:
    """The sum of the examples' gradients, as one vector."""
    ones = np.ones(len(passes.inputs[0]), dtype=passes.deltas[0].dtype)
    total = np.empty_like(passes.deltas[0], shape=_n_parameters(layers))
    start = 0
    for layer, h, delta in zip(layers, passes.inputs, passes.deltas, strict=True):
        end = start + layer.weight.size
        np.matmul(transpose(delta), h, out=total[start:end].reshape(layer.weight.shape))
        if layer.bias is not None:
            start, end = end, end + layer.bias.size
            np.matmul(ones, delta, out=total[start:end])
        start = end
    return total


@checked(_check_network)
def mlp_m_coherence(layers: Layers, x: Array, labels: Array) -> Array:
    """``m_coherence(gradient_matrix(...))`` without the matrix.

    Parameters, errors as for :func:`gradient_matrix`; ``ValueError`` too if all gradients are zero.
    """
    passes = _passes(layers, x, labels)
    squares = np.zeros((), dtype=x.dtype)
    for layer, h, delta in zip(layers, passes.inputs, passes.deltas, strict=True):
        squares = squares + np.sum(squared_norm(delta) * (squared_norm(h) + (layer.bias is not None)))
    if np.any(np.asanyarray(squares == 0)):
        raise ValueError("x, labels: expected an example whose gradient is not 0, got none; coherence is undefined")
    return np.asanyarray(squared_norm(_total_gradient(layers, passes)) / squares)


# --- experiments ---


class DigitsProblem(NamedTuple):
    """Digits to train on, some with labels drawn anew, and digits to test on."""

    x: Array
    """Shape ``(n_train, 64)``."""
    labels: Array
    """To train on, integers of shape ``(n_train,)``."""
    corrupted: Array
    """Where that label is not the digit's, boolean."""
    test_x: Array
    """Shape ``(797, 64)``."""
    test_labels: Array


TRAIN_POOL = 1000


def sample_digits(n_train: int, redrawn: float, rng: np.random.Generator) -> DigitsProblem:
    """Digits in random order: the first for training, those from the thousandth on for the test.

    Parameters
    ----------
    n_train : int from 1 to 1000
    redrawn : number in [0, 1]
        The fraction of training labels that are drawn anew from all classes; a tenth of them stay what they were.
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    n_train = check_integer("n_train", n_train, 1, TRAIN_POOL)
    redrawn = check_number("redrawn", redrawn, "[0, 1]")
    images, digits = digit_images()
    order = rng.permutation(len(images))
    train, test = order[:n_train], order[TRAIN_POOL:]
    labels = digits[train].copy()
    anew = rng.permutation(n_train)[: round(redrawn * n_train)]
    labels[anew] = rng.integers(10, size=len(anew))
    return DigitsProblem(images[train], labels, labels != digits[train], images[test], digits[test])


N_HIDDEN, N_CLASSES = 64, 10


def initial_perceptron(rng: np.random.Generator) -> list[Linear]:
    r"""64-64-10 units: $W_1\sim\mathcal N(0,\frac2{64})$, $W_2\sim\mathcal N(0,\frac1{64})$, biases 0."""
    inner = rng.standard_normal((N_HIDDEN, 64)) * np.sqrt(2 / 64)
    outer = rng.standard_normal((N_CLASSES, N_HIDDEN)) * np.sqrt(1 / N_HIDDEN)
    return [Linear(inner, np.zeros(N_HIDDEN)), Linear(outer, np.zeros(N_CLASSES))]


Rule = Callable[[Any, Layers, Array, Array], tuple[Array | None, Any]]
"""Maps a state (None at first), parameters and a batch to what to step along (None: do not) and the next state."""


def _mean_gradient(layers: Layers, x: Array, labels: Array) -> Array:
    gradient = _total_gradient(layers, _passes(layers, x, labels))
    gradient /= len(x)
    return gradient


def batch_rule(state: Any, layers: Layers, x: Array, labels: Array) -> tuple[Array | None, Any]:
    """Stochastic gradient descent: the batch's mean gradient."""
    return _mean_gradient(layers, x, labels), state


def winsorized_rule(level: float) -> Rule:
    """Winsorised gradients of this level."""

    def rule(state: Any, layers: Layers, x: Array, labels: Array) -> tuple[Array | None, Any]:
        return winsorized_mean.unchecked(gradient_matrix.unchecked(layers, x, labels), level), state

    return rule


def median_rule(state: Any, layers: Layers, x: Array, labels: Array) -> tuple[Array | None, Any]:
    """M3, on as many examples of the batch as three equal parts hold."""
    used = len(x) - len(x) % 3
    return median_of_three.unchecked(gradient_matrix.unchecked(layers, x[:used], labels[:used])), state


def rolling_median_rule(state: Any, layers: Layers, x: Array, labels: Array) -> tuple[Array | None, Any]:
    """RM3."""
    return (state or RollingMedian3()).update(_mean_gradient(layers, x, labels))


def _epochs(
    problem: DigitsProblem, rule: Rule, learning_rate: float, batch_size: int, n_epochs: int, rng: np.random.Generator
) -> Any:
    """The parameters at the start and after each epoch."""
    keep_freed_memory()
    like = initial_perceptron(rng)
    parameters, state = pack(like), None
    yield unpack(parameters, like)
    n_train = len(problem.x)
    for _ in range(n_epochs):
        order = rng.permutation(n_train)
        for start in range(0, n_train - batch_size + 1, batch_size):
            batch = order[start : start + batch_size]
            step, state = rule(state, unpack(parameters, like), problem.x[batch], problem.labels[batch])
            if step is not None:
                parameters = parameters - learning_rate * step
        yield unpack(parameters, like)


def _check_training(problem: DigitsProblem, learning_rate: float, batch_size: int) -> None:
    check_number("learning_rate", learning_rate, "(0, inf)")
    check_integer("batch_size", batch_size, 1, len(problem.x))


def coherence_curve(
    problem: DigitsProblem, learning_rate: float, batch_size: int, epochs: Sequence[int], rng: np.random.Generator
) -> Array:
    """m-coherence of all training examples at these epochs of stochastic gradient descent; 0 is the start.

    Parameters
    ----------
    problem : DigitsProblem
    learning_rate : number > 0
    batch_size : int from 1 to the number of examples
    epochs : sequence of int >= 0
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: the figures of coherence over training on real and random labels.
    """
    _check_training(problem, learning_rate, batch_size)
    epochs = [check_integer(f"epochs[{index}]", epoch, 0) for index, epoch in enumerate(epochs)]
    found = {}
    for epoch, layers in enumerate(_epochs(problem, batch_rule, learning_rate, batch_size, max(epochs), rng)):
        if epoch in epochs:
            found[epoch] = float(mlp_m_coherence.unchecked(layers, problem.x, problem.labels))
    return np.array([found[epoch] for epoch in epochs])


class Accuracies(NamedTuple):
    """After each epoch: on clean and on corrupted training examples (there against the wrong label), and on the test.

    Shape ``(n_epochs,)`` each; NaN where there is no such example.
    """

    clean: Array
    corrupted: Array
    test: Array


def training_accuracies(
    problem: DigitsProblem,
    rule: Rule,
    learning_rate: float,
    batch_size: int,
    n_epochs: int,
    rng: np.random.Generator,
) -> Accuracies:
    """Accuracies over training by this rule.

    Parameters
    ----------
    problem : DigitsProblem
    rule : Rule
        :func:`batch_rule`, ``winsorized_rule(level)``, :func:`median_rule` or :func:`rolling_median_rule`.
    learning_rate : number > 0
    batch_size : int from 1 to the number of examples
    n_epochs : int >= 1
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: the experiments on easy and hard examples and on the suppression of weak directions.
    """
    _check_training(problem, learning_rate, batch_size)
    n_epochs = check_integer("n_epochs", n_epochs, 1)
    measured = []
    for layers in _epochs(problem, rule, learning_rate, batch_size, n_epochs, rng):
        right = _predictions(layers, problem.x) == problem.labels
        test = np.mean(_predictions(layers, problem.test_x) == problem.test_labels)
        measured.append((_mean(right[~problem.corrupted]), _mean(right[problem.corrupted]), test))
    return Accuracies(*np.array(measured[1:]).T)


def _mean(right: Array) -> float:
    return float(np.mean(right)) if len(right) else float("nan")


def _predictions(layers: Layers, x: Array) -> Array:
    h = x
    for layer in layers[:-1]:
        h = positive_part(_affine(h, layer))
    return np.argmax(_affine(h, layers[-1]), axis=1)
