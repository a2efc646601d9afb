"""Learning rates as functions of the step, with optax's semantics: the first update is step 0."""

import math
from collections.abc import Callable, Mapping

from refimpl.primitives.checks import check_integer, check_number

Schedule = Callable[[int], float]


def piecewise_constant(initial: float, factors: Mapping[int, float]) -> Schedule:
    """`initial` until a boundary; from that step on times the boundary's factor, and so on.

    Parameters
    ----------
    initial : float > 0
    factors : mapping from a step >= 0 to the factor > 0 that applies from it on.

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: optax ``piecewise_constant_schedule``.
    """
    initial = check_number("initial", initial, "(0, inf)")
    boundaries = {
        check_integer("factors", step, 0): check_number(f"factors[{step}]", factor, "(0, inf)")
        for step, factor in factors.items()
    }

    def at(step: int) -> float:
        return initial * math.prod(factor for boundary, factor in boundaries.items() if step >= boundary)

    return at


def cosine_decay(initial: float, n_steps: int, final_fraction: float = 0.0) -> Schedule:
    r"""Half a cosine from `initial` down to `initial` times `final_fraction` at step `n_steps`, constant after it.

    $$\eta_t=\eta_0\Big(\alpha+(1-\alpha)\tfrac12\big(1+\cos\tfrac{\pi\min(t,T)}{T}\big)\Big)$$

    Raises
    ------
    ValueError
        If `initial` is not positive, `n_steps` is below 1 or `final_fraction` is outside [0, 1].

    Source: Loshchilov and Hutter, arXiv 1608.03983, Eq. 5 without restarts; optax ``cosine_decay_schedule``.
    """
    initial = check_number("initial", initial, "(0, inf)")
    n_steps = check_integer("n_steps", n_steps, 1)
    final_fraction = check_number("final_fraction", final_fraction, "[0, 1]")

    def at(step: int) -> float:
        cosine = (1 + math.cos(math.pi * min(step, n_steps) / n_steps)) / 2
        return initial * (final_fraction + (1 - final_fraction) * cosine)

    return at
