r"""Linear stability of SGD and the trace theorem (Section 3).

Gradients as columns $g_1,g_2,\dots$ of any length prove for all numbers of parameters, at few examples. For all numbers
of examples and all batch sizes the operator's own arithmetic runs on blocks $G$ and
$D=\frac1n\sum_i(g_i^\top Cg_i)\,g_ig_i^\top$, which stand for any such sums.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.ledger import Control, Evidence, at_most, claim
from proofs.symbolic import array, block, blocks, induction, scalar, vanishes
from refimpl.dynamics.dynamical_stability import (
    DiagonalNet,
    ReluNet,
    diagonal_net,
    diagonal_net_jacobian,
    diagonal_net_vjp,
    linearized_sgd_step,
    second_moment_step,
    two_layer_relu,
    two_layer_relu_jacobian,
    two_layer_relu_vjp,
)
from refimpl.dynamics.dynamical_stability.stability import propagate
from refimpl.primitives.numbers import Array, transpose
from refimpl.primitives.traces import inner

ROUNDOFF = float(np.finfo(float).eps)
ETA, B = scalar("eta", positive=True), scalar("B", positive=True, integer=True)
ONE = np.array([[sympy.Integer(1)]], dtype=object)
SYMMETRIC_G, FOURTH, COVARIANCE = block("G", "symmetric"), block("D", "symmetric"), block("C")


def columns(n: int) -> Array:
    """Gradients of any length as rows of a Jacobian."""
    return blocks([[sympy.transpose(block(f"g{i}", "column"))] for i in range(n)])


def trace(matrix: Array) -> Any:
    return inner(ONE, matrix)[0, 0]


def of_blocks(*symbols: Any) -> list[Array]:
    return [blocks([[symbol]]) for symbol in symbols]


# --- the Hessian at interpolation ---


def difference_quotient(gradient: Callable[[Array], Array], at: Array, h: float) -> Array:
    """The Jacobian of a polynomial map of degree 3 by central differences, extrapolated: exact but for roundoff."""

    def central(step: float) -> Array:
        return np.stack([(gradient(at + step * e) - gradient(at - step * e)) / (2 * step) for e in np.eye(len(at))])

    return np.asarray((4 * central(h / 2) - central(h)) / 3)


def relu_margin(w: Array, x: Array) -> float:
    """How far the weights can move before a unit switches at an example."""
    return float(np.min(np.abs(x @ w.T) / np.linalg.norm(x, axis=-1, keepdims=True)))


@claim(
    "dynamical_stability/S1",
    title="At an interpolating minimum the Hessian is the empirical Fisher matrix",
    source="Section 2",
    statement=r"r=0\ \Rightarrow\ \nabla^2L=\tfrac1n\sum_ig_ig_i^\top=G",
    method="symbolic",
    scope="both models at 2 inputs, 2 examples (and 2 ReLU units, on the side of every kink), all weights and inputs; "
    "second differences on 20 draws of each at up to 5 inputs and 6 examples",
    control=Control("residuals of 1", residual=1),
)
def hessian_is_fisher(rng: np.random.Generator, residual: int = 0) -> Evidence:
    a, b, w, x, y = array("a", (2,)), array("b", (2,)), array("w", (2, 2)), array("x", (2, 2)), array("y", (2,))
    evidence = Evidence(())
    for name, net, model, jacobian in (
        ("diagonal", DiagonalNet(a, b), diagonal_net, diagonal_net_jacobian),
        ("ReLU", ReluNet(a, w), two_layer_relu, two_layer_relu_jacobian),
    ):
        output = model(net, x)  # type: ignore[arg-type]
        loss = ((output - y) ** 2).sum() / 4
        symbols = [symbol for leaf in net for symbol in leaf.flat]
        g = jacobian(net, x)  # type: ignore[arg-type]
        at = dict(zip(y, output - residual, strict=True))
        hessian = np.array(sympy.hessian(loss, symbols).subs(at).tolist(), dtype=object)
        evidence &= vanishes(away_from_kinks(hessian - g.T @ g / 2), f"{name}: Hessian less G")
    worst = 0.0
    for _ in range(20):
        n, d, m = (int(rng.integers(1, 6)) for _ in range(3))
        inputs = rng.standard_normal((n, d))
        diagonal = DiagonalNet(*rng.standard_normal((2, d)))
        relu = ReluNet(rng.standard_normal(m), rng.standard_normal((m, d)))
        h = min(1 / 64, relu_margin(relu.w, inputs) / 4)

        def diagonal_gradient(theta: Array, inputs: Array = inputs, net: DiagonalNet = diagonal) -> Array:
            output, pullback = diagonal_net_vjp(DiagonalNet(*theta.reshape(2, -1)), inputs)
            return np.concatenate(pullback((output - diagonal_net(net, inputs) + residual) / len(inputs))[0])

        def relu_gradient(theta: Array, inputs: Array = inputs, net: ReluNet = relu) -> Array:
            moved = ReluNet(theta[: len(net.a)], theta[len(net.a) :].reshape(net.w.shape))
            output, pullback = two_layer_relu_vjp(moved, inputs)
            to_net, _ = pullback((output - two_layer_relu(net, inputs) + residual) / len(inputs))
            return np.concatenate([to_net.a, to_net.w.reshape(-1)])

        for gradient, theta, g, step in (
            (diagonal_gradient, np.concatenate(diagonal), diagonal_net_jacobian(diagonal, inputs), 1 / 64),
            (relu_gradient, np.concatenate([relu.a, relu.w.reshape(-1)]), two_layer_relu_jacobian(relu, inputs), h),
        ):
            difference = difference_quotient(gradient, theta, step) - g.T @ g / n
            # Gradients of some tens of terms, each rounded to the size of the largest, over the step.
            size = 1 + float(np.max(np.abs(g))) ** 2
            worst = max(worst, float(np.max(np.abs(difference))) * step / (1000 * ROUNDOFF * size))
    return evidence & at_most(worst, 1, "second differences less G, over the rounding bound")


def away_from_kinks(expressions: Array) -> Array:
    """Derivatives of steps are 0 and steps are 1 or 0, except where a unit's input is 0."""

    def clean(expression: Any) -> Any:
        cleaned = sympy.sympify(expression).replace(sympy.DiracDelta, lambda *arguments: sympy.Integer(0))
        steps = sorted(cleaned.atoms(sympy.Heaviside), key=str)
        positive_parts = sorted(cleaned.atoms(sympy.Max), key=str)
        step_of = {step.args[0]: sympy.Dummy(real=True) for step in steps}
        for part in positive_parts:
            argument = next(entry for entry in part.args if entry != 0)
            step_of.setdefault(argument, sympy.Dummy(real=True))
            cleaned = cleaned.xreplace({part: step_of[argument] * argument})
        cleaned = cleaned.xreplace({step: step_of[step.args[0]] for step in steps})
        for dummy in step_of.values():  # a square of a step is that step
            cleaned = sympy.rem(sympy.expand(cleaned), dummy**2 - dummy, dummy)
        return cleaned

    return np.array([clean(entry) for entry in expressions.flat], dtype=object)


# --- the second moment ---


def without_noise(covariance: Array, jacobian: Array, learning_rate: Any, batch_size: Any = 1) -> Array:
    """What the second moment does under gradient descent."""
    fisher = transpose(jacobian) @ jacobian / jacobian.shape[0]
    both = fisher @ covariance + covariance @ fisher
    return np.asarray(covariance - learning_rate * both + learning_rate**2 * (fisher @ covariance @ fisher))


def enumerated(deviation: Array, jacobian: Array, learning_rate: Any, batch_size: int) -> Array:
    r"""$\mathbb E\,\delta\delta^\top$ after one step, over all batches."""
    n = len(jacobian)
    steps = [
        linearized_sgd_step(deviation, jacobian[list(batch)], learning_rate)[:, None]
        for batch in itertools.product(range(n), repeat=batch_size)
    ]
    return np.asarray(sum(step @ transpose(step) for step in steps) / n**batch_size)


@claim(
    "dynamical_stability/S2",
    title="The operator gives the second moment of linearised SGD exactly, and is self-adjoint",
    source="Section 3; derived for every batch size",
    statement=r"\mathbb E\,\delta_{t+1}\delta_{t+1}^\top=\mathcal T(C_t),\qquad "
    r"\langle M,\mathcal T(C)\rangle=\langle\mathcal T(M),C\rangle",
    method="symbolic",
    scope="all batches enumerated for n = 2, 3 and B = 1, 2, all numbers of parameters (columns of any length; "
    "rank-one C, of which all are sums); all n and B: by induction over independent draws; in floats on 50 draws of n "
    "to 3, B to 2",
    control=Control("without the noise of the batch", moment=without_noise),
)
def operator_is_exact(rng: np.random.Generator, moment: Callable[..., Array] = second_moment_step) -> Evidence:
    d = block("d", "column")
    deviation, covariance = np.array([d], dtype=object), blocks([[d * sympy.transpose(d)]])
    differences, asymmetries = [], []
    m, c = of_blocks(block("M", "symmetric"), block("C", "symmetric"))
    for n, batch_size in itertools.product((2, 3), (1, 2)):
        g = columns(n)
        differences.append(enumerated(deviation, g, ETA, batch_size) - moment(covariance, g, ETA, batch_size))
        asymmetries.append(inner(m, moment(c, g, ETA, batch_size)) - inner(moment(m, g, ETA, batch_size), c))
    # M_B = E S C S over the sum S of B independent g g': M_1 = D, and one draw more adds B (GCG + GCG) + D.
    g, fourth, c = of_blocks(SYMMETRIC_G, FOURTH, COVARIANCE)

    def summed(count: Any) -> Array:
        moved = propagate(c, g, fourth, ETA, count)
        return np.asarray((moved - c + ETA * (g @ c + c @ g)) * count**2 / ETA**2)

    draws = induction(
        vanishes(summed(1) - fourth, "one draw"),
        vanishes(summed(B + 1) - summed(B) - 2 * B * g @ c @ g - fourth, "one draw more"),
    )
    worst = 0.0
    for _ in range(50):
        n, p, batch_size = int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.integers(1, 3))
        jacobian, start = rng.standard_normal((n, p)), rng.standard_normal(p)
        expected = enumerated(start, jacobian, 0.3, batch_size)
        after = moment(start[:, None] * start, jacobian, 0.3, batch_size)
        worst = max(worst, float(np.max(np.abs(after - expected))) / (1 + float(np.max(np.abs(expected)))))
    return (
        vanishes(differences, "mean over all batches less T(C)")
        & vanishes(asymmetries, "not self-adjoint")
        & draws
        & at_most(worst, 1e-12, "in floats, relative")
    )
