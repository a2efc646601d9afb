r"""How much an output distribution depends on the order of the demonstrations (Section 4)."""

from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_array, check_integer, check_shapes
from refimpl.primitives.numbers import Array, is_symbolic, sqrt

Integers = np.ndarray[Any, np.dtype[np.integer[Any]]]

ON_SIMPLEX = 1e-6
"""How far the entries of a distribution may sum from 1, or lie below 0."""


def check_distributions(**arguments: tuple[Any, str]) -> dict[str, Any]:
    """Check arrays as :func:`check_shapes` does, and that the last axis of each holds a distribution.

    Raises
    ------
    ValueError
        If a shape does not fit, an entry is not finite or below -1e-6, or entries sum to 1 but for more than 1e-6.
    """
    sizes = check_shapes(**arguments)
    for name, (value, _) in arguments.items():
        if is_symbolic(value) or not value.size:
            continue
        wide = np.longdouble if value.dtype == np.longdouble else np.float64
        lowest, total = float(value.min()), np.sum(np.asarray(value), axis=-1, dtype=wide)
        if lowest < -ON_SIMPLEX:
            raise ValueError(f"{name}: expected distributions, got an entry {lowest:.3g}")
        worst = float(total.flat[np.argmax(np.abs(total - 1))])
        if abs(worst - 1) > ON_SIMPLEX:
            raise ValueError(f"{name}: expected distributions, got entries that sum to {worst:.9g}")
    return sizes


def check_labels(labels: Any, shape: tuple[int, ...], n_tokens: int) -> Integers:
    """Return `labels`, integers of this shape from 0 to n_tokens - 1.

    Raises
    ------
    ValueError
        If they are not.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape != shape:
        raise ValueError(f"labels: expected integers of shape {shape}, got {labels.dtype} {labels.shape}")
    if labels.size and (labels.min() < 0 or labels.max() >= n_tokens):
        raise ValueError(f"labels: expected 0 to {n_tokens - 1}, got {labels.min()} to {labels.max()}")
    return labels


# --- orders ---


def random_orders(n_orders: int, n_demos: int, rng: np.random.Generator) -> Integers:
    """Independent random orders, shape (n_orders, n_demos); one may come twice.

    Raises
    ------
    ValueError
        If a number is below 1.
    """
    n_orders, n_demos = check_integer("n_orders", n_orders, 1), check_integer("n_demos", n_demos, 1)
    return rng.permuted(np.tile(np.arange(n_demos), (n_orders, 1)), axis=1)


def all_orders(n_demos: int) -> Integers:
    """Every order once, shape (n_demos!, n_demos): of up to 8 demonstrations.

    Raises
    ------
    ValueError
        If `n_demos` is not from 1 to 8.
    """
    return np.array(list(permutations(range(check_integer("n_demos", n_demos, 1, 8)))))


def order_and_reverse(n_demos: int) -> Integers:
    """The given order and its reverse, shape (2, n_demos): the cheapest probe.

    Raises
    ------
    ValueError
        If `n_demos` is below 2.
    """
    order = np.arange(check_integer("n_demos", n_demos, 2))
    return np.stack([order, order[::-1]])


def check_orders(name: str, orders: Any, n_demos: int) -> Integers:
    """Return `orders`, integers of shape (..., n_demos), each a permutation of 0 to n_demos - 1.

    Raises
    ------
    ValueError
        If one is not.
    """
    orders = np.asarray(orders)
    if orders.dtype.kind not in "iu" or orders.ndim < 1 or orders.shape[-1] != n_demos:
        raise ValueError(f"{name}: expected integers of shape (..., {n_demos}), got {orders.dtype} {orders.shape}")
    wrong = np.any(np.sort(orders, axis=-1) != np.arange(n_demos), axis=-1)
    if np.any(wrong):
        raise ValueError(f"{name}: expected permutations of 0 to {n_demos - 1}, got {orders[wrong][0]}")
    return orders


# --- sensitivity ---


def _check_orderings(distributions: Any, ddof: int) -> Array:
    check_distributions(distributions=(distributions, "... n_orders n_test n_tokens"))
    ddof = check_integer("ddof", ddof, 0, 1)
    if distributions.shape[-3] < 2:
        raise ValueError(f"distributions: expected at least 2 orders, got {distributions.shape[-3]}")
    return np.asanyarray(distributions)


def token_deviations(distributions: Array, ddof: int) -> Array:
    r"""$\mathrm{std}_\pi(p_\pi(v\mid x))$, shape (..., n_test, n_tokens); arguments unchecked.

    Deviations are taken from the first order before their mean is, so that equal distributions have none at all.
    """
    n_orders = distributions.shape[-3]
    from_first = distributions - distributions[..., :1, :, :]
    centred = from_first - from_first.sum(axis=-3, keepdims=True) / n_orders
    return sqrt((centred * centred).sum(axis=-3) / (n_orders - ddof))


def order_sensitivity(distributions: Array, ddof: int = 0) -> Array:
    r"""$\mathrm{Sen}=\frac1{|\text{test}|}\sum_x\sum_v\mathrm{std}_\pi\big(p_\pi(v\mid x)\big)$.

    Compare only values of one vocabulary and one set of orders. Of all $N!$ orders it is exact. With R random ones the
    variance of ``ddof=0`` is low by the factor $(R-1)/R$ on average, which ``ddof=1`` mends, and the deviation by a
    little more than its root.

    Parameters
    ----------
    distributions : array, shape (..., n_orders, n_test, n_tokens), n_orders >= 2
        Output distributions, at each order of the same demonstrations.
    ddof : 0 or 1

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If rows are not distributions to 1e-6, there are fewer than two orders, or `ddof` is out of range.

    Source: arXiv 2310.08540, Section 4.
    """
    deviations = token_deviations(_check_orderings(distributions, ddof), ddof)
    return np.asanyarray(deviations.sum(axis=(-1, -2)) / deviations.shape[-2])


class OrderSensitivityReport(NamedTuple):
    """Where a sensitivity comes from."""

    sensitivity: Array
    """Shape ``(...)``."""
    per_test: Array
    """The sum over tokens, shape ``(..., n_test)``."""
    per_token: Array
    """The mean over test inputs, shape ``(..., n_tokens)``: which labels move."""
    n_orders: int
    ddof: int


def sensitivity_report(distributions: Array, ddof: int = 0) -> OrderSensitivityReport:
    """:func:`order_sensitivity` with its parts; the same parameters and errors."""
    distributions = _check_orderings(distributions, ddof)
    deviations = token_deviations(distributions, ddof)
    n_test = deviations.shape[-2]
    return OrderSensitivityReport(
        deviations.sum(axis=(-1, -2)) / n_test,
        deviations.sum(axis=-1),
        deviations.sum(axis=-2) / n_test,
        distributions.shape[-3],
        ddof,
    )


class OrderSensitivityTest(NamedTuple):
    """The mean excess of one sensitivity over another, its bootstrap interval, and their ratio."""

    difference: float
    low: float
    high: float
    ratio: float


def order_sensitivity_test(
    icl: Array, gd: Array, rng: np.random.Generator, n_bootstrap: int = 2000
) -> OrderSensitivityTest:
    r"""Is in-context learning more order-sensitive? Paired over test inputs: $\Delta_x=\sum_v(\mathrm{std}_{ICL}-
    \mathrm{std}_{GD})$.

    Parameters
    ----------
    icl, gd : array, shape (n_orders, n_test, n_tokens)
        At the same orders of the same demonstrations.
    rng : np.random.Generator
    n_bootstrap : int >= 1

    Returns
    -------
    OrderSensitivityTest
        The percentile interval at 95%; equivalence is rejected where it leaves out 0. The ratio is infinite where
        gradient descent does not depend on the order.

    Raises
    ------
    ValueError
        If rows are not distributions, shapes differ, or a number is out of range.
    """
    for array in (icl, gd):
        _check_orderings(array, 0)
    check_shapes(icl=(icl, "n_orders n_test n_tokens"), gd=(gd, "n_orders n_test n_tokens"))
    per_test = [token_deviations(array, 0).sum(axis=-1) for array in (icl, gd)]
    low, high = bootstrap_interval(per_test[0] - per_test[1], rng, n_bootstrap)
    means = [float(values.mean()) for values in per_test]
    ratio = means[0] / means[1] if means[1] > 0 else float("inf")
    return OrderSensitivityTest(means[0] - means[1], low, high, ratio)


def bootstrap_interval(values: Array, rng: np.random.Generator, n_bootstrap: int) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of the mean of `values`, shape (n,)."""
    check_array("values", values)
    n_bootstrap = check_integer("n_bootstrap", n_bootstrap, 1)
    means = values[rng.integers(len(values), size=(n_bootstrap, len(values)))].mean(axis=-1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
