r"""Nonlinear students: random ReLU features with a trained readout, two-layer ReLU networks, and unseen inputs.

With the first layer fixed the network is a linear student on the features $H=\max(W_1X,0)/\sqrt{N_h}$ and all of the
linear theory holds with the eigenvalues of $HH^\top$; the load is $P/N_h$.
"""

from typing import Any, NamedTuple

import numpy as np

from refimpl.dynamics.high_dimensional.linear import check_times, flow_filter, modes
from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.numbers import Array, positive_part, transpose
from refimpl.primitives.two_layer import two_layer_relu


def effective_noise_variance(signal_variance: Any, noise_variance: Any, n_inputs: Any, n_teacher_inputs: Any) -> Any:
    r"""$\sigma_\epsilon^2+\frac{M-N}N\sigma_w^2$: what the inputs that a student does not see add to the label noise.

    Parameters
    ----------
    signal_variance, noise_variance : numbers >= 0
    n_inputs, n_teacher_inputs : int, 1 <= n_inputs <= n_teacher_inputs
        $N$ and $M$, all inputs of variance $1/N$.

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: arXiv 1710.03667, target and student mismatch; the linear instance.
    """
    signal = check_number("signal_variance", signal_variance, "[0, inf)")
    noise = check_number("noise_variance", noise_variance, "[0, inf)")
    n_inputs = check_integer("n_inputs", n_inputs, 1)
    unseen = check_integer("n_teacher_inputs", n_teacher_inputs, n_inputs) - n_inputs
    return noise + signal * unseen / n_inputs


# --- random features ---


class StudentCurve(NamedTuple):
    """A student with fixed features over training time."""

    train_error: Array
    """Mean squared error on the training labels, shape (n_times,)."""
    test_error: Array
    """Mean squared error on the test labels, shape (n_times,)."""
    displacement: Array
    r"""$\lVert w(t)-w(0)\rVert$, shape (n_times,)."""
    norm: Array
    r"""$\lVert w(t)\rVert$, shape (n_times,)."""
    smallest_eigenvalue: Array
    """Of $HH^\\top$, zeros left out; shape ()."""


def random_features(x: Array, first_layer: Array) -> Array:
    r"""$H=\max(W_1X,0)/\sqrt{N_h}$.

    Parameters
    ----------
    x : array, shape (..., n_inputs, n_examples)
    first_layer : array, shape (..., n_hidden, n_inputs)
        $W_1$.

    Returns
    -------
    array, shape (..., n_hidden, n_examples)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 1710.03667, nonlinear networks with a fixed first layer.
    """
    sizes = check_shapes(x=(x, "... n_inputs n_examples"), first_layer=(first_layer, "... n_hidden n_inputs"))
    return np.asanyarray(positive_part(first_layer @ x) / sizes["n_hidden"] ** 0.5)


def random_feature_student(
    features: Array, y: Array, test_features: Array, y_test: Array, initial: Array, t: Array
) -> StudentCurve:
    r"""The readout trained by gradient flow ($\tau=1$) on fixed features, evaluated at all times at once (LAPACK).

    Parameters
    ----------
    features : array, shape (n_hidden, n_examples)
        $H$ of :func:`random_features`.
    y : array, shape (n_examples,)
    test_features : array, shape (n_hidden, n_test)
    y_test : array, shape (n_test,)
    initial : array, shape (n_hidden,)
    t : array, shape (n_times,), >= 0

    Returns
    -------
    StudentCurve

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a time is negative.

    Source: arXiv 1710.03667, nonlinear networks with a fixed first layer.
    """
    check_shapes(
        features=(features, "n_hidden n_examples"),
        y=(y, "n_examples"),
        test_features=(test_features, "n_hidden n_test"),
        y_test=(y_test, "n_test"),
        initial=(initial, "n_hidden"),
        t=(t, "n_times"),
    )
    check_times(t, 1)
    directions, eigenvalues, distances = modes(features, y, initial)
    moved = flow_filter(eigenvalues, t[:, None]) * distances
    # All in the basis of the modes: outside it nothing moves.
    in_modes = transpose(directions)
    outputs = initial @ features + moved @ (in_modes @ features)
    test_outputs = initial @ test_features + moved @ (in_modes @ test_features)
    displaced = (moved * moved).sum(axis=-1)
    norm = (initial * initial).sum() + 2 * moved @ (in_modes @ initial) + displaced
    return StudentCurve(
        ((outputs - y) ** 2).mean(axis=-1),
        ((test_outputs - y_test) ** 2).mean(axis=-1),
        np.sqrt(displaced),
        np.sqrt(np.maximum(norm, 0)),
        np.min(np.where(eigenvalues == 0, np.inf, eigenvalues)),
    )


# --- both layers trained ---


class TwoLayer(NamedTuple):
    r"""$f(x)=\sum_jv_j\max(w_j^\top x,0)$; leading axes are networks."""

    inner: Array
    """$W$, shape (..., n_hidden, n_inputs)."""
    outer: Array
    """$v$, shape (..., n_hidden)."""


def sample_two_layer(
    n_networks: int, n_inputs: int, n_hidden: int, init_scale: float, rng: np.random.Generator
) -> TwoLayer:
    r"""Gaussian layers of standard deviation `init_scale` over the root of the fan-in.

    Parameters
    ----------
    n_networks, n_inputs, n_hidden : int >= 1
    init_scale : float >= 0
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        If a size is below 1 or the scale negative.
    """
    check_integer("n_networks", n_networks, 1)
    check_integer("n_inputs", n_inputs, 1)
    check_integer("n_hidden", n_hidden, 1)
    scale = check_number("init_scale", init_scale, "[0, inf)")
    inner = rng.standard_normal((n_networks, n_hidden, n_inputs)) * (scale / n_inputs**0.5)
    return TwoLayer(inner, rng.standard_normal((n_networks, n_hidden)) * (scale / n_hidden**0.5))


def train_two_layer_relu(x: Array, y: Array, network: TwoLayer, learning_rate: Any, n_steps: int) -> TwoLayer:
    r"""Full-batch gradient descent on $\frac1{2P}\lVert y-f(X)\rVert^2$ in both layers (floats only).

    With $Z=WX$, $H=\max(Z,0)=\mathbb 1_{Z>0}\odot Z$ and $r=y-vH$: $\partial_v=-rH^\top/P$,
    $\partial_W=-v^\top\odot\big[\mathbb 1_{Z>0}(r\odot X)^\top\big]/P$, with slope 0 at 0.

    Parameters
    ----------
    x : array, shape (..., n_inputs, n_examples)
    y : array, shape (..., n_examples)
    network : TwoLayer
        Where to start; :func:`sample_two_layer` draws one.
    learning_rate : number > 0
        Of the mean over examples.
    n_steps : int >= 0

    Returns
    -------
    TwoLayer

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a number is out of range.

    Source: arXiv 1710.03667, nonlinear networks with both layers trained.
    """
    check_shapes(
        x=(x, "... n_inputs n_examples"),
        y=(y, "... n_examples"),
        inner=(network.inner, "... n_hidden n_inputs"),
        outer=(network.outer, "... n_hidden"),
    )
    check_number("learning_rate", learning_rate, "(0, inf)")
    n_steps, rate = check_integer("n_steps", n_steps, 0), learning_rate / y.shape[-1]
    keep_freed_memory()
    # All matrices transposed: inputs are few, and the quick axis should be a long one.
    rows, inner, outer = (array.copy() for array in (transpose(x), transpose(network.inner), network.outer))
    hidden, weighted, to_inner, excess = map(np.empty_like, (rows @ inner, x, inner, y))
    active, is_active = np.empty_like(hidden), np.empty(hidden.shape, dtype=bool)
    outer_row, outer_column, excess_row = outer[..., None, :], outer[..., None], excess[..., None, :]
    predicted, to_outer = excess[..., None], np.empty_like(outer_row)
    for _ in range(n_steps):
        np.matmul(rows, inner, out=hidden)
        np.greater(hidden, 0, out=is_active)
        active[...] = is_active
        hidden *= active
        np.matmul(hidden, outer_column, out=predicted)
        excess -= y
        excess *= rate
        np.matmul(excess_row, hidden, out=to_outer)
        np.multiply(x, excess_row, out=weighted)
        np.matmul(weighted, active, out=to_inner)
        to_inner *= outer_row
        inner -= to_inner
        outer_row -= to_outer
    return TwoLayer(transpose(inner).copy(), outer)


def mean_squared_error(network: TwoLayer, x: Array, y: Array) -> Array:
    """The mean over examples of the squared error, shape (...).

    Parameters
    ----------
    network : TwoLayer
    x : array, shape (..., n_inputs, n_examples)
    y : array, shape (..., n_examples)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    check_shapes(x=(x, "... n_inputs n_examples"), y=(y, "... n_examples"))
    return np.asanyarray(((two_layer_relu(transpose(x), *network) - y) ** 2).mean(axis=-1))
