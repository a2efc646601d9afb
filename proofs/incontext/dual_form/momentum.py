"""Momentum as a sum and as a recursion (Section 5)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.ledger import Control, Evidence, Figure, Series, at_most, claim, figure
from proofs.symbolic import block, blocks, induction, sum_is, vanishes
from refimpl.incontext.dual_form import heavy_ball, momentum_gradient_descent, momentum_kernel, momentum_sum
from refimpl.primitives.numbers import Array

ETA, RATE = sympy.symbols("eta gamma", positive=True)


def successive(*gradients: Any) -> Callable[[Array], Array]:
    """A gradient that is one block after another, whatever the point."""
    left = iter(gradients)
    return lambda point: blocks([[next(left)]])


def _with_the_current_value(values: Array, eta: Any) -> Array:
    return momentum_sum(values, eta) + values


def _common_heavy_ball(gradient: Any, start: Array, learning_rate: Any, eta: Any, n_steps: int) -> list[Array]:
    points, buffer = [start], 0 * start
    for _ in range(n_steps - 1):
        buffer = eta * buffer + gradient(points[-1])
        points.append(np.asanyarray(points[-1] - learning_rate * buffer))
    return points


@claim(
    "dual_form/D9",
    title="Momentum is a recursion: of the values, and of the gradients as a heavy ball with a buffer",
    source="Eq. 14 and Section 5",
    statement=r"m_{t+1}=\eta(m_t+v_t),\quad b\leftarrow\eta(b+\nabla f),\ \Theta\leftarrow\Theta-\gamma b,\quad "
    r"\nabla f=g\Rightarrow\Theta_{t+1}-\Theta_t\to-\frac{\gamma\eta}{1-\eta}g",
    method="symbolic",
    scope="all sizes and all gradients (arbitrary blocks); all times by induction: what came before enters a step only "
    "through its sum, here one block; five steps in full. The limit from the geometric sum, and after 400 steps in "
    "float64",
    control=[
        Control("the current value is in the sum", accumulate=_with_the_current_value),
        Control("the buffer is eta b plus the gradient", descend=_common_heavy_ball),
    ],
)
def momentum_is_a_recursion(
    accumulate: Callable[..., Array] = momentum_sum, descend: Callable[..., list[Array]] = heavy_ball
) -> Evidence:
    values = [block(f"v{i}") for i in range(1, 6)]
    row = blocks([values])
    literal = [sum((ETA ** (t - i) * values[i - 1] for i in range(1, t)), sympy.Integer(0)) for t in range(1, 6)]
    history, new, last = block("M"), block("v"), block("w")
    # A first value of M / eta has the sum M at the second: any history.
    after = accumulate(blocks([[history / ETA, new, last]]), ETA)[0]
    t, i = sympy.symbols("t i", integer=True, positive=True)
    sums = induction(
        vanishes(accumulate(row, ETA)[0] - np.array(literal, dtype=object), "five values")
        & vanishes(row @ momentum_kernel(5, ETA, row) - accumulate(row, ETA), "by the kernel"),
        vanishes(np.array([after[1] - history, after[2] - ETA * (history + new)], dtype=object), "one more value")
        & vanishes(ETA ** (t + 1 - i) - ETA * ETA ** (t - i), "weights of the old ones"),
    )

    start, gradients = blocks([[block("T")]]), [block(f"g{i}") for i in range(1, 6)]
    routes = [f(successive(*gradients), start, RATE, ETA, 6) for f in (momentum_gradient_descent, descend)]
    run = descend(successive(history / ETA, new), start, RATE, ETA, 3)
    balls = induction(
        vanishes([a - b for a, b in zip(*routes, strict=True)], "five gradients"),
        vanishes(run[2] - run[1] + RATE * ETA * blocks([[history + new]]), "one more gradient"),
    )

    constant = sum_is(lambda k: ETA**k, lambda n: ETA * (1 - ETA**n) / (1 - ETA), quantity="sum of the weights")
    rate, eta, slope = 0.01, 0.9, 3.0
    points = descend(lambda point: np.full_like(point, slope), np.zeros(1), rate, eta, 400)
    limit = -rate * eta / (1 - eta) * slope
    # 0.9^398 < 10^-18; a difference of two points of size 110 is off by 400 roundoffs of theirs at most.
    bound = 400 * 110 * float(np.finfo(np.float64).eps)
    return sums & balls & constant & at_most(abs(float(points[-1][0] - points[-2][0]) - limit), bound, "step at last")


@figure(
    "dual_form/F5",
    title="How long a value is remembered",
    caption="Weight of a value in the momentum of later tokens against how many tokens ago it came, for the decays of "
    "the grid. The current value has none; at 0.1 little is left after two tokens, at 0.5 after seven.",
    answers_to="Section 5",
)
def kernel_of_momentum(rng: np.random.Generator) -> Figure:
    ages = list(range(13))
    kernels = {eta: momentum_kernel(13, eta, np.ones(1))[0].tolist() for eta in (0.1, 0.3, 0.5)}
    return Figure(
        tuple(Series(f"$\\eta$ = {eta}", ages, weights, "points") for eta, weights in kernels.items()),
        x_label="tokens ago",
        y_label="weight",
    )
