r"""Gradient-based optimizers as pure ``init``/``update`` pairs over trees of arrays, with optax's semantics.

An update is what is *added* to the parameters, so it carries the minus sign::

    optimizer = chain(clip_by_global_norm(10.0), adam(1e-3))
    state = optimizer.init(params)
    updates, state = optimizer.update(gradients, state, params)
    params = apply_updates(params, updates)

States are NamedTuples of trees like the parameters, and keep their dtype. Hyperparameters are Python numbers, which
promote no array; on SymPy arrays they may be symbols. Gradients are not checked: a run that diverges shows it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_number
from refimpl.primitives.numbers import Array, sqrt
from refimpl.primitives.schedules import Schedule
from refimpl.primitives.trees import leaves, tree_map

Tree = Any


class Optimizer(NamedTuple):
    """``init(params) -> state`` and ``update(gradients, state, params=None) -> (updates, state)``."""

    init: Callable[[Tree], Any]
    update: Callable[..., tuple[Tree, Any]]


class MomentumState(NamedTuple):
    """Steps taken so far, and the decayed sum of gradients (None without momentum)."""

    step: int
    trace: Tree


class AdamState(NamedTuple):
    """Steps taken so far, and the decayed means of the gradient and of its square, both biased towards zero."""

    step: int
    first_moment: Tree
    second_moment: Tree


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """The tree of ``parameter + update``."""
    return tree_map(lambda parameter, update: np.asanyarray(parameter + update), params, updates)


def _zeros(params: Tree) -> Tree:
    return tree_map(np.zeros_like, params)


def _schedule(learning_rate: float | Schedule) -> Schedule:
    """The learning rate as a function of the number of steps already taken."""
    if callable(learning_rate):
        return learning_rate
    constant = check_number("learning_rate", learning_rate, "(0, inf)")
    return lambda step: constant


def _decayed(decay: float, average: Array, weight: float, term: Array) -> Array:
    """``decay * average + weight * term`` with one temporary."""
    out = decay * average
    out += weight * term
    return np.asanyarray(out)


def _adam_update(first: Array, second: Array, scale: Any, correction: Any, eps: float) -> Array:
    """``scale * first / (sqrt(second / correction) + eps)`` with two temporaries."""
    size = sqrt(second / correction)
    size += eps
    out = scale * first
    out /= size
    return np.asanyarray(out)


def sgd(learning_rate: float | Schedule, momentum: float | None = None, nesterov: bool = False) -> Optimizer:
    r"""Gradient descent, with heavy-ball or Nesterov momentum.

    $$m_t=g_t+\rho\,m_{t-1},\qquad u_t=-\eta_t m_t,\qquad\text{Nesterov: }u_t=-\eta_t(g_t+\rho\,m_t)$$

    Parameters
    ----------
    learning_rate : float > 0 or Schedule
    momentum : float in [0, 1), or None for plain gradient descent, which then keeps no trace.
    nesterov : bool
        Needs a momentum.

    Raises
    ------
    ValueError
        If a hyperparameter is out of range, or `nesterov` is set without a momentum.

    Source: Polyak 1964; Sutskever et al. 2013, Section 2; optax ``sgd``.
    """
    schedule = _schedule(learning_rate)
    if momentum is None:
        if nesterov:
            raise ValueError("nesterov: expected False without a momentum, got True")

        def plain(gradients: Tree, state: MomentumState, params: Tree = None) -> tuple[Tree, MomentumState]:
            rate = -schedule(state.step)
            return tree_map(lambda g: np.asanyarray(rate * g), gradients), MomentumState(state.step + 1, None)

        return Optimizer(lambda params: MomentumState(0, None), plain)

    rho = check_number("momentum", momentum, "[0, 1)")

    def update(gradients: Tree, state: MomentumState, params: Tree = None) -> tuple[Tree, MomentumState]:
        rate = -schedule(state.step)
        trace = tree_map(lambda m, g: np.asanyarray(rho * m + g), state.trace, gradients)
        if nesterov:
            updates = tree_map(lambda m, g: np.asanyarray(rate * (rho * m + g)), trace, gradients)
        else:
            updates = tree_map(lambda m: np.asanyarray(rate * m), trace)
        return updates, MomentumState(state.step + 1, trace)

    return Optimizer(lambda params: MomentumState(0, _zeros(params)), update)


def adam(learning_rate: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Optimizer:
    r"""Adam: the mean gradient over the root of the mean squared gradient, both corrected for their start at zero.

    $$m_t=\beta_1m_{t-1}+(1-\beta_1)g_t,\quad v_t=\beta_2v_{t-1}+(1-\beta_2)g_t^2,\quad
    u_t=-\eta_t\,\frac{m_t/(1-\beta_1^t)}{\sqrt{v_t/(1-\beta_2^t)}+\epsilon}$$

    Parameters
    ----------
    learning_rate : float > 0 or Schedule
    b1, b2 : float in [0, 1)
    eps : float >= 0
        Outside the root, as in the paper; with 0, an entry whose gradients were all 0 is 0/0.

    Raises
    ------
    ValueError
        If a hyperparameter is out of range.

    Source: Kingma and Ba, arXiv 1412.6980, Algorithm 1; optax ``adam``.
    """
    return adamw(learning_rate, b1, b2, eps, weight_decay=0)


def adamw(
    learning_rate: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
) -> Optimizer:
    r"""Adam with decoupled weight decay: $-\eta_t\lambda\theta_{t-1}$ is added to Adam's update, past its moments.

    Parameters
    ----------
    learning_rate, b1, b2, eps : as in :func:`adam`
    weight_decay : float >= 0
        Multiplied by the learning rate, as in optax and PyTorch; ``update`` then needs `params`.

    Raises
    ------
    ValueError
        If a hyperparameter is out of range; from ``update`` if `params` is missing.

    Source: Loshchilov and Hutter, arXiv 1711.05101, Algorithm 2; optax ``adamw``.
    """
    schedule = _schedule(learning_rate)
    b1 = check_number("b1", b1, "[0, 1)")
    b2 = check_number("b2", b2, "[0, 1)")
    eps = check_number("eps", eps, "[0, inf)")
    weight_decay = check_number("weight_decay", weight_decay, "[0, inf)")

    def update(gradients: Tree, state: AdamState, params: Tree = None) -> tuple[Tree, AdamState]:
        step = state.step + 1
        first = tree_map(lambda m, g: _decayed(b1, m, 1 - b1, g), state.first_moment, gradients)
        second = tree_map(lambda v, g: _decayed(b2, v, 1 - b2, g * g), state.second_moment, gradients)
        rate = -schedule(state.step)
        scale, correction = rate / (1 - b1**step), 1 - b2**step
        updates = tree_map(lambda m, v: _adam_update(m, v, scale, correction, eps), first, second)
        if weight_decay != 0:
            if params is None:
                raise ValueError("params: expected the parameters, which weight decay needs, got None")
            updates = tree_map(lambda u, p: np.asanyarray(u + rate * weight_decay * p), updates, params)
        return updates, AdamState(step, first, second)

    return Optimizer(lambda params: AdamState(0, _zeros(params), _zeros(params)), update)


def global_norm(tree: Tree) -> Any:
    """The Euclidean norm of all leaves together, a scalar in their dtype."""
    return sqrt(sum((leaf * leaf).sum() for leaf in leaves(tree)))[()]


def clip_by_global_norm(max_norm: float) -> Optimizer:
    """Scale the gradients down to global norm `max_norm` where it is larger; has no state.

    Raises
    ------
    ValueError
        If `max_norm` is not positive.

    Source: Pascanu et al., arXiv 1211.5063, Algorithm 1; optax ``clip_by_global_norm``.
    """
    max_norm = check_number("max_norm", max_norm, "(0, inf)")

    def update(gradients: Tree, state: tuple[()], params: Tree = None) -> tuple[Tree, tuple[()]]:
        norm = global_norm(gradients)
        if norm < max_norm:
            return gradients, state
        return tree_map(lambda g: np.asanyarray(g / norm * max_norm), gradients), state

    return Optimizer(lambda params: (), update)


def chain(*optimizers: Optimizer) -> Optimizer:
    """One after the other, each on the updates of the one before; the state is the tuple of their states.

    Source: optax ``chain``.
    """

    def init(params: Tree) -> tuple[Any, ...]:
        return tuple(one.init(params) for one in optimizers)

    def update(gradients: Tree, state: tuple[Any, ...], params: Tree = None) -> tuple[Tree, tuple[Any, ...]]:
        states = []
        for one, old in zip(optimizers, state, strict=True):
            gradients, new = one.update(gradients, old, params)
            states.append(new)
        return gradients, tuple(states)

    return Optimizer(init, update)
