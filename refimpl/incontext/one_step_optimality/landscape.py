r"""What else the bilinear problem has besides its global minimum: stationary points that no descent need leave.

At $c=0$, $M_1=0$, $m=\eta^*u/\|u\|^2$ the layer predicts $\eta^*(e^\top r)(e^\top x_{n+1})$ with $e=u/\|u\|$: a
gradient step in one direction of $d$. For isotropic inputs and tasks this is stationary, and at some sizes a local
minimum.
"""

from typing import Any

import numpy as np

from refimpl.incontext.one_step_optimality.model import EffectiveWeights
from refimpl.incontext.one_step_optimality.optimum import optimal_learning_rate
from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.numbers import Array, common_dtype


def one_direction_weights(direction: Array, n_context: int, noise_std: Any) -> EffectiveWeights:
    r"""The stationary point of this direction: $w=[u;0]$, $M=[0;\eta^*u^\top/\|u\|^2]$.

    Parameters
    ----------
    direction : array, shape (d,), not zero
        $u$.
    n_context : int >= 0
    noise_std : number >= 0

    Returns
    -------
    EffectiveWeights

    Raises
    ------
    ValueError
        If the direction is zero or not finite, or a number is out of range.

    Source: derived here for the setting of arXiv 2307.03576, Theorem 1.
    """
    n_inputs = check_shapes(direction=(direction, "n_inputs"))["n_inputs"]
    square = (direction * direction).sum()
    if square == 0:
        raise ValueError("direction: expected a vector other than zero, got zeros")
    rate = optimal_learning_rate(n_inputs, n_context, noise_std)
    key_query = np.zeros((n_inputs + 1, n_inputs), dtype=common_dtype(direction))
    key_query[-1] = rate * direction / square
    return EffectiveWeights(np.concatenate([direction, key_query[-1, :1] * 0]), key_query)


def one_direction_gap(n_inputs: int, n_context: int, noise_std: Any) -> Any:
    r"""How far its loss lies above the global minimum: $(d-1)n/(n+d+1+\sigma^2)$.

    Arguments and errors as for :func:`~refimpl.incontext.one_step_optimality.optimum.optimal_learning_rate`.
    """
    return (n_inputs - 1) * n_context * optimal_learning_rate(n_inputs, n_context, noise_std)


def one_direction_curvature(n_inputs: int, n_context: int, noise_std: Any) -> Any:
    r"""The number whose sign decides: positive, and the point is a local minimum; negative, and it is a saddle.

    $$\frac{4(s-1)((n+1)s+1)}{n+2}+2d(n+2)-(d-1)(n+1+s)^2,\qquad s=d+\sigma^2$$

    It is what is left of the second variation in $c$ when $M_1$ takes its best value, over $n\eta^{*2}$. A minimum is
    strict up to rescaling and rotation, which do not change the loss.

    Parameters
    ----------
    n_inputs : int >= 1
    n_context : int >= 0
    noise_std : number >= 0

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    d = check_integer("n_inputs", n_inputs, 1)
    n = check_integer("n_context", n_context, 0)
    s = d + check_number("noise_std", noise_std, "[0, inf)") ** 2
    return 4 * (s - 1) * ((n + 1) * s + 1) / (n + 2) + 2 * d * (n + 2) - (d - 1) * (n + 1 + s) ** 2
