"""What a step does to the expected loss (Section 3)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from proofs.dynamics.dynamical_stability.stability import (
    ETA,
    FOURTH,
    SYMMETRIC_G,
    B,
    columns,
    enumerated,
    of_blocks,
    trace,
)
from proofs.ledger import Control, Evidence, at_least, at_most, claim
from proofs.symbolic import block, vanishes
from refimpl.dynamics.dynamical_stability import (
    alignment_factor,
    expected_loss_after_step,
    fisher_energies,
    sharpness,
)
from refimpl.dynamics.dynamical_stability.loss_stability import ExpectedLoss
from refimpl.dynamics.dynamical_stability.stability import propagate
from refimpl.primitives.numbers import Array, transpose
from refimpl.primitives.traces import inner


def batch_ignored(jacobian: Array, residuals: Array, learning_rate: Any, batch_size: Any) -> ExpectedLoss:
    return expected_loss_after_step(jacobian, residuals, learning_rate, 1)


@claim(
    "dynamical_stability/S8",
    title="The expected loss splits into that of gradient descent and the noise's, which bounds the Frobenius norm",
    source="Section 3 (loss stability and the Frobenius norm)",
    statement=r"\mathbb EL_{t+1}=L\big((I-\eta G)\delta_t\big)+\frac{\eta^2\mu}B\|G\|_F^2L_t,\qquad "
    r"\frac1n\sum_ig_i^\top Gg_i=\|G\|_F^2",
    method="symbolic",
    scope="all batches enumerated at n = 2, B = 1, 2 and n = 3, B = 1, all numbers of parameters (columns); all n and "
    "B: half the trace of G T(C) on blocks; in floats all batches of n = 4, B = 1, 3 on 20 draws, with the alignment "
    "factor",
    uses=["dynamical_stability/S2"],
    control=Control("the batch size ignored in the noise", split=batch_ignored),
)
def loss_splits(rng: np.random.Generator, split: Callable[..., ExpectedLoss] = expected_loss_after_step) -> Evidence:
    d = block("d", "column")
    deviation = np.array([d], dtype=object)
    differences, energies = [], []
    for n, batch_size in ((2, 1), (2, 2), (3, 1)):
        g = columns(n)
        parts = split(g, g @ deviation, ETA, batch_size)
        fisher = transpose(g) @ g / n
        expected = trace(fisher @ enumerated(deviation, g, ETA, batch_size)) / 2
        differences.append(parts.drift + parts.noise - expected)
        energies.append(fisher_energies(g).sum() / n - inner(fisher, fisher)[0, 0])
    # Of all sizes: Tr(Sigma G) = Tr(G D) - Tr(G G C G), and D holds the squared residuals r_i^2 = g_i'Cg_i.
    g, fourth, c = of_blocks(SYMMETRIC_G, FOURTH, block("C", "symmetric"))
    after = trace(g @ propagate(c, g, fourth, ETA, B)) / 2
    drift = trace(g @ propagate(c, g, g @ c @ g, ETA, 1)) / 2
    general = after - drift - ETA**2 / (2 * B) * (trace(g @ fourth) - trace(g @ g @ c @ g))
    worst, slack, outside = 0.0, np.inf, 0.0
    for _ in range(20):
        jacobian, start = rng.standard_normal((4, 3)), rng.standard_normal(3)
        residuals = jacobian @ start
        loss = float(residuals @ residuals) / 8
        square = float(sharpness(jacobian).frobenius) ** 2
        alignment = float(alignment_factor(jacobian, residuals))
        weighted = float(residuals**2 @ fisher_energies(jacobian)) / float(residuals @ residuals) / square
        ends = fisher_energies(jacobian) / square
        outside = max(outside, float(ends.min()) - weighted, weighted - float(ends.max()))
        for batch_size in (1, 3):
            moment = enumerated(start, jacobian, 0.4, batch_size)
            expected_loss = float(np.trace(jacobian.T @ jacobian / 4 @ moment)) / 2
            drift_part, noise = map(float, split(jacobian, residuals, 0.4, batch_size))
            lower = 0.4**2 * alignment / batch_size * square * loss
            worst = max(worst, abs(drift_part + noise - expected_loss) / expected_loss)
            worst = max(worst, abs(noise - lower) / expected_loss)
            slack = min(slack, (expected_loss - lower) / expected_loss)
    return (
        vanishes(differences, "split less the mean over all batches")
        & vanishes(energies, "mean of g'Gg less the squared norm")
        & vanishes(general, "all n and B")
        & at_most(worst, 1e-10, "in floats, relative")
        & at_least(slack, 0, "loss less the noise's part, relative, least")
        & at_most(outside, 1e-12, "second moment of the alignment outside the range of g'Gg")
    )
