r"""Softmax heads: two of them descend on centred data, one of them is a kernel smoother (Appendix A.8 and A.9)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.incontext.linear_attention.construction import ETA, ROUNDOFF, started_prompts
from proofs.ledger import Control, Evidence, at_least, claim, within
from proofs.properties import for_all
from proofs.symbolic import array, scalar, vanishes
from refimpl.incontext.linear_attention import (
    LinearAttentionWeights,
    apply_linear,
    centred,
    gradient_step,
    make_tokens,
    nadaraya_watson,
    read_prediction,
    softmax_self_attention,
    two_head_softmax_gd_weights,
)
from refimpl.oracle.spec import Arguments
from refimpl.primitives.numbers import Array
from refimpl.tasks.linear_regression import RegressionTasks, sample_linear_tasks


def two_heads(tasks: RegressionTasks, start: Array, learning_rate: Any, scale: Any) -> Array:
    (n_outputs, n_inputs), n_context = start.shape, tasks.x.shape[-1]
    weights = two_head_softmax_gd_weights(n_inputs, n_outputs, learning_rate, scale, start)
    tokens = make_tokens(tasks.x, tasks.y, tasks.x_query, start)
    return read_prediction(softmax_self_attention(tokens, weights, n_context), n_inputs)


def one_step(tasks: RegressionTasks, start: Array, learning_rate: Any, of: Callable[[Array], Array] = centred) -> Array:
    before = np.broadcast_to(start, (*tasks.x.shape[:-2], *start.shape))
    return apply_linear(gradient_step(before, of(tasks.x), of(tasks.y), learning_rate), tasks.x_query)


def as_they_are(x: Array) -> Array:
    return x


@claim(
    "linear_attention/LA22",
    title="Two softmax heads at small scale do a gradient step on centred data",
    source="Appendix A.9, Eq. 14 to 21",
    statement=r"\tfrac1{2s}[\mathrm{softmax}(sz)-\mathrm{softmax}(-sz)]_i=\tfrac1N(z_i-\bar z)+O(s^2)",
    method="symbolic",
    scope="the limit and the even error entry by entry at 2 inputs, 1 output, 3 context points, any W_0; the error's "
    "exponent on 200 sampled tasks with 4 inputs, 2 outputs, 7 context points at s = 0.1, 0.01, 0.001",
    erratum="Eq. 17 to 21 leave out the softmax's normaliser and arrive at the plain gradient step. To first order the "
    "normaliser subtracts the mean logit, so the step is one on centred inputs and targets, and the distance from the "
    "plain step does not vanish with the scale.",
    control=Control("the plain gradient step", of=as_they_are),
)
def two_heads_descend_on_centred_data(rng: np.random.Generator, of: Callable[[Array], Array] = centred) -> Evidence:
    inputs, targets, query, start = array("x", (2, 3)), array("y", (1, 3)), array("q", (2,)), array("w", (1, 2))
    tasks = RegressionTasks(inputs, targets, query, targets[:, 0])
    s = scalar("s")
    predicted = two_heads(tasks, start, ETA, s)[0]
    # s times the prediction is smooth and vanishes at 0, so that its slope there is the prediction's limit.
    limit = sympy.diff(sympy.expand(s * predicted), s).subs(s, 0)
    exact = vanishes(limit - one_step(tasks, start, ETA, of)[0], "limit of small scale")
    even = vanishes(predicted - predicted.subs(s, -s), "odd part in the scale")

    sampled = sample_linear_tasks(200, 4, 7, 0.5, 1.0, rng, n_outputs=2)
    start = rng.standard_normal((2, 4))
    scales = np.array([0.1, 0.01, 0.001])
    expected = one_step(sampled, start, 1.0, of)
    errors = [float(np.mean(np.abs(two_heads(sampled, start, 1.0, float(scale)) - expected))) for scale in scales]
    exponent = float(np.polyfit(np.log(scales), np.log(errors), 1)[0])
    plain = one_step(sampled, start, 1.0, as_they_are)
    distance = float(np.mean(np.abs(two_heads(sampled, start, 1.0, 0.001) - plain)))
    return (
        exact
        & even
        & within(exponent, 1.95, 2.05, "exponent of the error")
        & at_least(distance / max(errors[-1], ROUNDOFF), 1000, "distance from the plain step over the error")
    )


def with_a_wider_kernel(y: Array, log_kernel_query: Array) -> Array:
    return nadaraya_watson(y, log_kernel_query / 2)


def smoothing_head(key_query: Array, n_outputs: int) -> LinearAttentionWeights:
    """A head with this product on the inputs, whose values are the targets."""
    n_inputs = key_query.shape[-1]
    size = n_inputs + n_outputs
    identity = np.eye(size, dtype=int).astype(key_query.dtype)
    value = identity.copy()
    value[:n_inputs] = 0
    query = 0 * identity
    query[:n_inputs, :n_inputs] = key_query
    return LinearAttentionWeights(*(matrix[None] for matrix in (identity, query, value, identity)))


@claim(
    "linear_attention/LA26",
    title="One softmax head whose values are the targets is the Nadaraya-Watson smoother",
    source="Appendix A.8",
    statement=r"\hat y=\frac{\sum_iy_ik(x_i,x_q)}{\sum_ik(x_i,x_q)},\quad k(x_i,x_q)=e^{x_i^\top W_{KQ}x_q}",
    method="symbolic",
    scope="entry by entry at 2 inputs, 1 output, 3 context points, any W_KQ; and 100 batches of prompts in floats",
    control=Control("the square root of the kernel", smoother=with_a_wider_kernel),
)
def softmax_head_is_a_smoother(rng: np.random.Generator, smoother: Callable[..., Array] = nadaraya_watson) -> Evidence:
    def both(inputs: Array, targets: Array, query: Array, key_query: Array) -> tuple[Array, Array]:
        n_inputs, n_context = inputs.shape[-2:]
        tokens = make_tokens(inputs, targets, query)
        head = smoothing_head(key_query, targets.shape[-2])
        layer = softmax_self_attention(tokens, head, n_context)[..., n_inputs:, -1]
        logits = ((key_query @ query[..., None])[..., None, :, 0] @ inputs)[..., 0, :]
        return layer, smoother(targets, logits)

    layer, smoothed = both(array("x", (2, 3)), array("y", (1, 3)), array("q", (2,)), array("a", (2, 2)))

    def error(case: Arguments) -> float:
        inputs, targets, query, start, _ = case.values()
        n_inputs, n_context = inputs.shape[-2:]
        key_query = np.resize(start, (n_inputs, n_inputs)) / n_inputs
        layer, smoothed = both(inputs, targets, query, key_query)
        # Both take weights that sum to 1; a logit of size z, itself rounded N_x times, errs by 2 (N_x + 2) z units, and
        # so does the weight, relative to itself.
        size = (
            np.max(np.abs(inputs)) * np.max(np.sum(np.abs(key_query), axis=-2)) * np.max(np.sum(np.abs(query), axis=-1))
        )
        bound = (4 * (n_inputs + 2) * (1 + size) + 2 * n_context) * ROUNDOFF * np.max(np.abs(targets))
        return float(np.max(np.abs(layer - smoothed)) / max(float(bound), np.finfo(float).tiny))

    in_floats = for_all(rng, started_prompts(), error, 1, quantity="error over rounding bound")
    return vanishes(layer - smoothed, "entries") & in_floats
