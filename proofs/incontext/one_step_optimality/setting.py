r"""The paper's law on blocks, so that expectations of the shipped layer are taken for all numbers of inputs and points.

The prompt is $X$ with $n$ independent rows $N(0,\Sigma)$, $y=X\theta+\epsilon$ and a query; the weights are any
$w=[u;c]$, $M=[M_1;m^\top]$. An identity stands as a block of its own until the end, where its trace is its size.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.symbolic import block, blocks, scalar
from proofs.wick import Gaussian, at_identity, expectation
from refimpl.incontext.one_step_optimality import EffectiveWeights, lsa_predict
from refimpl.primitives.numbers import Array, transpose
from refimpl.primitives.traces import trace_symbol

Trace = trace_symbol()

# The prompt.
X = block("X")
THETA, NOISE, QUERY, QUERY_NOISE = (block(name, "column") for name in ("theta", "noise", "xq", "noise_q"))
# Any weights: u, c, M_1, m, and a second layer of any weights to test the first one's optimality with.
U, M = block("u", "column"), block("m", "column")
M1 = block("M1")
C = scalar("c")
# The covariances of inputs and tasks, and an identity that keeps its size.
S, W, E = (block(name, "symmetric") for name in ("S", "W", "E"))
N, D, SIGMA, ETA = (scalar(name, positive=True) for name in ("n", "d", "sigma", "eta"))
ROUNDOFF = float(np.finfo(float).eps) / 2


def column(*entries: Any) -> Array:
    """A one-dimensional array of blocks."""
    return np.array([sympy.sympify(entry) for entry in entries], dtype=object)


def on_blocks(u: Any = U, c: Any = C, m1: Any = M1, m: Any = M) -> EffectiveWeights:
    """Weights from their parts."""
    return EffectiveWeights(column(u, c), np.concatenate([blocks([[m1]]), transpose(blocks([[m]]))]))


def predicted(weights: EffectiveWeights, predict: Callable[..., Array] = lsa_predict) -> sympy.Expr:
    """The layer's prediction for the prompt, a 1 x 1 block."""
    return sympy.expand(predict(weights, blocks([[X]]), column(X * THETA + NOISE), column(QUERY)).item())


def error(weights: EffectiveWeights, predict: Callable[..., Array] = lsa_predict) -> sympy.Expr:
    """The prediction minus the query's target."""
    return sympy.expand(predicted(weights, predict) - sympy.transpose(THETA) * QUERY - QUERY_NOISE)


def over_prompts(product: Any) -> sympy.Expr:
    """The mean over inputs and noise, given the task, of a product that is a 1 x 1 block."""
    return expectation(
        Trace(sympy.expand(product)),
        Gaussian(QUERY, S, 1),
        Gaussian(QUERY_NOISE, 1, 1, SIGMA**2),
        Gaussian(NOISE, N, 1, SIGMA**2),
        Gaussian(X, N, S),
    )


def over_tasks(expression: Any, covariance: Any = W) -> sympy.Expr:
    """The mean over tasks."""
    return expectation(expression, Gaussian(THETA, covariance, 1))


def isotropic(expression: Any) -> sympy.Expr:
    """Identities of size d for the covariances of inputs and tasks."""
    return at_identity(expression, {S: D, W: D, E: D})
