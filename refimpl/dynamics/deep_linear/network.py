r"""The deep linear network: loss, gradients, curvature, gradient descent and its flow (Eq. 1 to 6, 13).

Weights are lists $W^1,\dots,W^n$ from the input to the output, $W^l$ of shape ``(n_l, n_(l-1))``, all with the same
leading batch axes. The data enter through $\Sigma^{11}=\sum_\mu x^\mu x^{\mu\top}$ and
$\Sigma^{31}=\sum_\mu y^\mu x^{\mu\top}$: sums over the examples, not means. With
$P_l=W^l\cdots W^1$, $B_l=W^n\cdots W^{l+1}$ and $E=\Sigma^{31}-P_n\Sigma^{11}$ the gradient is
$\partial L/\partial W^l=-B_l^\top EP_{l-1}^\top$.

:func:`end_to_end`, :func:`loss`, :func:`gradients` and what is made of them run on blocks.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_array, check_integer, check_number, check_shapes, checked
from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.numbers import Array, is_symbolic, transpose
from refimpl.primitives.traces import inner

Weights = Sequence[Array]


def check_weights(weights: Weights, name: str = "weights") -> tuple[int, ...]:
    """Raise ``ValueError`` unless the matrices can be multiplied; return the widths of the layers of neurons."""
    if not isinstance(weights, list | tuple) or not weights:
        raise ValueError(f"{name}: expected a list of at least one matrix, got {weights!r}")
    sizes = check_shapes(**{f"{name}[{l}]": (weight, f"... n_{l + 1} n_{l}") for l, weight in enumerate(weights)})
    return tuple(sizes[f"n_{layer}"] for layer in range(len(weights) + 1))


def check_correlations(sigma_11: Array, sigma_31: Array) -> None:
    """Raise ``ValueError`` unless the first is symmetric, to roundoff, and the second fits it."""
    check_shapes(sigma_11=(sigma_11, "n_inputs n_inputs"), sigma_31=(sigma_31, "n_outputs n_inputs"))
    if is_symbolic(sigma_11) or np.array_equal(sigma_11, transpose(sigma_11)):
        return
    asymmetry = float(np.max(np.abs(sigma_11 - transpose(sigma_11))))
    # Two orders of the same sums differ by a few units in the last place of the largest entry.
    if asymmetry > 8 * float(np.finfo(sigma_11.dtype).eps) * float(np.max(np.abs(sigma_11))):
        raise ValueError(f"sigma_11: expected a symmetric matrix, got entries that differ by {asymmetry:.3g} across it")


def _check_problem(weights: Weights, sigma_11: Array, sigma_31: Array) -> None:
    widths = check_weights(weights)
    check_correlations(sigma_11, sigma_31)
    wanted = (widths[-1], widths[0])
    if sigma_31.shape != wanted:
        raise ValueError(f"sigma_31: expected shape {wanted} as the weights' product, got {sigma_31.shape}")


def _check_end_to_end(weights: Weights) -> None:
    check_weights(weights)


@checked(_check_end_to_end)
def end_to_end(weights: Weights) -> Array:
    r"""The map $W^n\cdots W^1$.

    Parameters
    ----------
    weights : list of arrays, shapes (..., n_l, n_(l-1))

    Returns
    -------
    array, shape (..., n_outputs, n_inputs)

    Raises
    ------
    ValueError
        If there is no matrix, two do not fit or an entry is not finite.

    Source: arXiv 1312.6120, Section 2.
    """
    # From the narrower end, where products are small.
    if weights[-1].shape[-2] < weights[0].shape[-1]:
        return np.asanyarray(reduce(lambda product, weight: product @ weight, reversed(weights)))
    return np.asanyarray(reduce(lambda product, weight: weight @ product, weights))


# --- loss and gradients ---


def _check_loss(weights: Weights, sigma_11: Array, sigma_31: Array, trace_yy: Any) -> None:
    _check_problem(weights, sigma_11, sigma_31)
    check_number("trace_yy", trace_yy, "[0, inf)")


@checked(_check_loss)
def loss(weights: Weights, sigma_11: Array, sigma_31: Array, trace_yy: Any) -> Array:
    r"""$L=\frac12\sum_\mu\lVert y^\mu-W^n\cdots W^1x^\mu\rVert^2$, from the correlations.

    The paper writes no ½, but its learning rule is the gradient of this.

    Parameters
    ----------
    weights : list of arrays, shapes (..., n_l, n_(l-1))
    sigma_11 : array, shape (n_inputs, n_inputs), symmetric
    sigma_31 : array, shape (n_outputs, n_inputs)
    trace_yy : number >= 0
        $\sum_\mu\lVert y^\mu\rVert^2$. Near an exact fit the loss is a small difference of terms of this size.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, sigma_11 is not symmetric or trace_yy is negative.

    Source: arXiv 1312.6120, Section 1 and Eq. 13.
    """
    product = end_to_end.unchecked(weights)
    if product.shape[-2] > product.shape[-1]:
        square = inner(transpose(product) @ product, sigma_11)
    else:
        square = inner(product @ sigma_11, product)
    return np.asanyarray((square / 2 - inner(product, sigma_31))[..., 0, 0] + trace_yy / 2)


@checked(_check_loss)
def loss_vjp(
    weights: Weights, sigma_11: Array, sigma_31: Array, trace_yy: Any
) -> tuple[Array, Callable[[Array], tuple[Weights, Array]]]:
    """:func:`loss` and its pullback ``cotangent -> (weights, sigma_31)``.

    It leaves out sigma_11, whose entries cannot vary one by one, and the number trace_yy.
    """
    sweep, product = _sweep(weights, sigma_11, sigma_31), end_to_end.unchecked(weights)

    def pullback(cotangent: Array) -> tuple[Weights, Array]:
        factor = np.asanyarray(cotangent)[..., None, None]
        to_sigma_31 = -(factor * product).reshape(-1, *sigma_31.shape).sum(axis=0)
        return type(weights)(factor * one for one in _gradients(sweep)), to_sigma_31  # type: ignore[call-arg]

    return loss.unchecked(weights, sigma_11, sigma_31, trace_yy), pullback


class _Sweep(NamedTuple):
    """$P_1,\\dots,P_{n-1}$, and $-B_l^\\top E$ for $l=1,\\dots,n$."""

    products: list[Array]
    residuals: list[Array]


def _sweep(weights: Weights, sigma_11: Array, sigma_31: Array) -> _Sweep:
    products = list(weights[:1]) if len(weights) > 1 else []
    for weight in weights[1:-1]:
        products.append(weight @ products[-1])
    residuals = [_learned(weights[-1], products, sigma_11) - sigma_31]
    for weight in reversed(weights[1:]):
        residuals.append(transpose(weight) @ residuals[-1])
    return _Sweep(products, residuals[::-1])


def _learned(last: Array, products: list[Array], sigma_11: Array) -> Array:
    """$P_n\\Sigma^{11}$, by the cheaper of two orders."""
    if not products:
        return np.asanyarray(last @ sigma_11)
    widens = last.shape[-2] > last.shape[-1]
    return last @ (products[-1] @ sigma_11) if widens else (last @ products[-1]) @ sigma_11


def _gradients(sweep: _Sweep) -> list[Array]:
    later = (r @ transpose(p) for r, p in zip(sweep.residuals[1:], sweep.products, strict=True))
    return [sweep.residuals[0], *later]


@checked(_check_problem)
def gradients(weights: Weights, sigma_11: Array, sigma_31: Array) -> list[Array]:
    r"""$\partial L/\partial W^l=-B_l^\top EP_{l-1}^\top$; the paper's learning rule descends along them.

    Parameters
    ----------
    weights : list of arrays, shapes (..., n_l, n_(l-1))
    sigma_11 : array, shape (n_inputs, n_inputs), symmetric
    sigma_31 : array, shape (n_outputs, n_inputs)

    Returns
    -------
    list of arrays, of the weights' shapes

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or sigma_11 is not symmetric.

    Source: arXiv 1312.6120, Eq. 1, 2 and 13 (where an index of a product is misprinted).
    """
    return _gradients(_sweep(weights, sigma_11, sigma_31))


def _check_product(weights: Weights, directions: Weights, sigma_11: Array, sigma_31: Array) -> None:
    _check_problem(weights, sigma_11, sigma_31)
    check_weights(directions, "directions")
    wanted, got = [np.shape(w) for w in weights], [np.shape(d) for d in directions]
    if got != wanted:
        raise ValueError(f"directions: expected the weights' shapes {wanted}, got {got}")


@checked(_check_product)
def hessian_vector_product(weights: Weights, directions: Weights, sigma_11: Array, sigma_31: Array) -> list[Array]:
    r"""The Hessian of :func:`loss` times a direction $V$: the derivative of the gradients along it.

    Parameters
    ----------
    weights, directions : lists of arrays, shapes (..., n_l, n_(l-1))
    sigma_11 : array, shape (n_inputs, n_inputs), symmetric
    sigma_31 : array, shape (n_outputs, n_inputs)

    Returns
    -------
    list of arrays, of the weights' shapes

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or sigma_11 is not symmetric.

    Source: derived, forward over reverse; for two matrices the landscape of arXiv 1312.6120, Section 1.2.
    """
    products, residuals = _sweep(weights, sigma_11, sigma_31)
    changes = [directions[0]]
    for weight, direction, product in zip(weights[1:], directions[1:], products, strict=True):
        changes.append(weight @ changes[-1] + direction @ product)
    change = changes[-1] @ sigma_11
    found = []
    for layer in reversed(range(1, len(weights))):
        found.append(change @ transpose(products[layer - 1]) + residuals[layer] @ transpose(changes[layer - 1]))
        change = transpose(weights[layer]) @ change + transpose(directions[layer]) @ residuals[layer]
    return [change, *found[::-1]]


# --- gradient descent and its flow ---


def _check_descent(weights: Weights, sigma_11: Array, sigma_31: Array, learning_rate: Any) -> None:
    _check_problem(weights, sigma_11, sigma_31)
    check_number("learning_rate", learning_rate, "(0, inf)")


@checked(_check_descent)
def gradient_steps(weights: Weights, sigma_11: Array, sigma_31: Array, learning_rate: Any) -> Iterator[list[Array]]:
    """Gradient descent without end: the weights after each step, $W^l-\\lambda\\,\\partial L/\\partial W^l$.

    Parameters
    ----------
    weights : list of arrays, shapes (..., n_l, n_(l-1))
    sigma_11 : array, shape (n_inputs, n_inputs), symmetric
    sigma_31 : array, shape (n_outputs, n_inputs)
    learning_rate : number > 0
        $\\lambda=1/\\tau$.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, sigma_11 is not symmetric or the rate is not positive.

    Source: arXiv 1312.6120, Section 1 and Eq. 13.
    """
    keep_freed_memory()
    current = list(weights)
    while True:
        slopes = gradients.unchecked(current, sigma_11, sigma_31)
        current = _stepped(current, slopes, learning_rate, slopes)  # in place: nobody else holds the gradients
        yield current


def _stepped(weights: Weights, slopes: list[Array], learning_rate: Any, into: list[Array]) -> list[Array]:
    for new, weight, slope in zip(into, weights, slopes, strict=True):
        np.multiply(slope, -learning_rate, out=new)
        new += weight
    return into


def _check_train(weights: Weights, sigma_11: Array, sigma_31: Array, learning_rate: Any, n_steps: int) -> None:
    _check_descent(weights, sigma_11, sigma_31, learning_rate)
    check_integer("n_steps", n_steps, 0)


@checked(_check_train)
def train_gd(weights: Weights, sigma_11: Array, sigma_31: Array, learning_rate: Any, n_steps: int) -> list[Array]:
    """The weights at the start and after each of `n_steps` steps of gradient descent.

    Parameters
    ----------
    weights : list of arrays, shapes (..., n_l, n_(l-1))
    sigma_11 : array, shape (n_inputs, n_inputs), symmetric
    sigma_31 : array, shape (n_outputs, n_inputs)
    learning_rate : number > 0
    n_steps : int >= 0

    Returns
    -------
    list of arrays, shapes (n_steps + 1, ..., n_l, n_(l-1))
        With the time as a leading batch axis, so that ``end_to_end`` of it is the trajectory of the map. For networks
        too large to keep them all see :func:`gradient_steps`.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, sigma_11 is not symmetric or a number is out of range.

    Source: arXiv 1312.6120, Section 1 and Eq. 13.
    """
    keep_freed_memory()
    dtype = np.result_type(*weights, sigma_11, sigma_31)
    history = [np.empty_like(weight, dtype, shape=(n_steps + 1, *weight.shape)) for weight in weights]
    for kept, weight in zip(history, weights, strict=True):
        kept[0] = weight
    current = list(weights)
    for step in range(1, n_steps + 1):
        slopes = gradients.unchecked(current, sigma_11, sigma_31)
        current = _stepped(current, slopes, learning_rate, [kept[step] for kept in history])
    return history


def _check_flow(
    weights: Weights, sigma_11: Array, sigma_31: Array, times: Array, tau: Any = 1, tolerance: float = 1e-12
) -> None:
    _check_problem(weights, sigma_11, sigma_31)
    times = check_array("times", times)
    if times.ndim != 1 or times.size < 1 or times[0] < 0 or np.any(np.diff(times) <= 0):
        raise ValueError(f"times: expected an increasing vector of numbers >= 0, got {times}")
    check_number("tau", tau, "(0, inf)")
    check_number("tolerance", tolerance, "(0, 1)")


@checked(_check_flow)
def gradient_flow(
    weights: Weights, sigma_11: Array, sigma_31: Array, times: Array, tau: Any = 1, tolerance: float = 1e-12
) -> list[Array]:
    r"""The weights on the flow $\tau\dot W^l=-\partial L/\partial W^l$ (float64 only: SciPy's Runge-Kutta 8(5,3)).

    Parameters
    ----------
    weights : list of arrays, shapes (..., n_l, n_(l-1))
    sigma_11 : array, shape (n_inputs, n_inputs), symmetric
    sigma_31 : array, shape (n_outputs, n_inputs)
    times : array, shape (n_times,), increasing from 0 or later; the weights are those at time 0
    tau : number > 0
    tolerance : number in (0, 1)
        Of the integrator: relative, and absolute in units of the largest entry of sigma_31 to the power 1/n.

    Returns
    -------
    list of arrays, shapes (n_times, ..., n_l, n_(l-1))

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, sigma_11 is not symmetric, the times do not increase, or a number
        is out of range.

    Source: arXiv 1312.6120, Eq. 1, 2 and 13.
    """
    from scipy import integrate

    shapes = [weight.shape for weight in weights]
    ends = np.cumsum([weight.size for weight in weights])[:-1]

    def unpack(vector: Array) -> list[Array]:
        return [part.reshape(shape) for part, shape in zip(np.split(vector, ends), shapes, strict=True)]

    def velocity(_: float, vector: Array) -> Array:
        slopes = gradients.unchecked(unpack(vector), sigma_11, sigma_31)
        return np.concatenate([slope.reshape(-1) for slope in slopes]) / -tau

    start = np.concatenate([np.asarray(weight, np.float64).reshape(-1) for weight in weights])
    scale = float(np.max(np.abs(sigma_31))) ** (1 / len(weights))
    solution = integrate.solve_ivp(
        velocity, (0, times[-1]), start, "DOP853", times, rtol=tolerance, atol=tolerance * scale
    )
    found = [unpack(vector) for vector in solution.y.T]
    return [np.stack(layer) for layer in zip(*found, strict=True)]
