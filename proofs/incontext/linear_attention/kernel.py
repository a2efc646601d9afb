r"""An MLP before the layers: gradient descent in its features, which is kernel regression (Proposition 2, A.8)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.incontext.linear_attention.construction import ETA, N, Y, descent_rounding, one_block, over
from proofs.ledger import Control, Evidence, at_most, claim, holds
from proofs.properties import for_all
from proofs.symbolic import block, blocks, induction, sum_is, vanishes
from refimpl.incontext.linear_attention import (
    apply_linear,
    gradient_descent,
    gradient_descent_weights,
    kernel_gd_closed_form,
    kernel_gd_predict,
    kernel_gd_step,
    kernel_interpolant,
    linear_self_attention,
    make_tokens,
    mlp_features,
    read_prediction,
    stack_forward,
)
from refimpl.oracle.spec import real_arrays
from refimpl.oracle.specs.incontext.linear_attention.construction import FRACTIONS, prompts, stable_rate
from refimpl.primitives.layers import Linear
from refimpl.primitives.numbers import Array, transpose


def step_as_printed(
    residual: Array, prediction: Array, kernel: Array, kernel_query: Array, learning_rate: Any
) -> tuple[Array, Array]:
    """Eq. 13 to the letter, where the prediction collects R k(X, x_q) without the factor eta / N."""
    residual_after, _ = kernel_gd_step(residual, prediction, kernel, kernel_query, learning_rate)
    return residual_after, prediction + (residual @ kernel_query[..., None])[..., 0]


@st.composite
def feature_prompts(draw: st.DrawFn) -> tuple[Array, Array, Array, float, int]:
    """Features of context and query under a random MLP, targets, a stable rate and a depth."""
    x, y, x_query = draw(prompts().filter(lambda prompt: prompt["x"].shape[-2] <= 24)).values()
    size = x.shape[-2]
    hidden = draw(st.integers(1, 8))
    layers = [
        Linear(draw(real_arrays((hidden, size), size**-0.5)), draw(real_arrays((hidden,)))),
        Linear(draw(real_arrays((size, hidden), hidden**-0.5)), draw(real_arrays((size,)))),
    ]
    features, query = mlp_features(x, layers), mlp_features(x_query[..., None], layers)[..., 0]
    return features, y, query, stable_rate(draw(FRACTIONS), features), draw(st.sampled_from((1, 2, 5, 20)))


@claim(
    "linear_attention/LA25",
    title="After an MLP, K layers are kernel gradient descent, and in the limit kernel interpolation",
    source="Proposition 2, Eq. 13, Appendix A.8",
    statement=r"R_{k+1}=R_k(I-\tfrac\eta N\mathcal K),\quad \hat y_K=\sum_{k<K}\tfrac\eta NR_kk(X,x_q)="
    r"Y[I-(I-\tfrac\eta N\mathcal K)^K]\mathcal K^+k(X,x_q)\to Y\mathcal K^+k(X,x_q),\ \mathcal K=m(X)^\top m(X)",
    method="symbolic",
    scope="all depths (induction), all sizes, all features (blocks), the geometric sum by induction; layers, descent "
    "in features, kernel recursion and closed form in floats on 100 batches of prompts, random MLPs, 1 to 20 steps; "
    "the limit on 200 prompts of 5 points with 10 features up to 100 000 steps",
    uses=["linear_attention/LA4"],
    control=Control("Eq. 13 as printed, without the factor eta / N", step=step_as_printed),
)
def layers_are_kernel_descent(
    rng: np.random.Generator, step: Callable[..., tuple[Array, Array]] = kernel_gd_step
) -> Evidence:
    M, m, R, f = map(block, ("M", "m", "R", "f"))
    kernel, kernel_query = one_block(sympy.transpose(M) * M), blocks([[sympy.transpose(M) * m]])[0]

    def after(residual: Array, prediction: Array) -> Array:
        return blocks([[M, m], [residual[0, 0], -prediction[0]]])

    state = one_block(R), blocks([[f]])[0]
    updated = linear_self_attention(after(*state), gradient_descent_weights(1, 1, ETA, N), 1)
    start = make_tokens(one_block(M), one_block(Y), blocks([[m]])[0])
    proof = induction(
        vanishes(start - after(one_block(Y), blocks([[0]])[0]), "tokens before the first layer"),
        vanishes(updated - after(*step(*state, kernel, kernel_query, ETA / N)), "one more layer"),
    )
    # With B = I - eta/N K the sum of the predictions times K is Y (I - B^K) k.
    B = block("B")
    geometric = sum_is(lambda k: B ** (k - 1) * (1 - B), lambda n: 1 - B**n, quantity="geometric sum")

    def routes(case: tuple[Array, Array, Array, float, int]) -> float:
        features, y, query, rate, depth = case
        n_inputs, n_context = features.shape[-2:]
        kernel = transpose(features) @ features
        kernel_query = (transpose(features) @ query[..., None])[..., 0]
        layers = [gradient_descent_weights(n_inputs, y.shape[-2], rate, n_context)] * depth
        predictions = [
            kernel_gd_predict(kernel, y, kernel_query, rate, depth),
            read_prediction(stack_forward(make_tokens(features, y, query), layers, n_context), n_inputs),
            apply_linear(gradient_descent(features, y, [rate] * depth), query),
            kernel_gd_closed_form(kernel, y, kernel_query, rate, depth),
        ]
        # Any two of the routes; an eigenvector basis of the kernel is one more product to round.
        bound = 2 * descent_rounding(features, y, query, depth)
        return over(float(max(np.max(np.abs(one - predictions[0])) for one in predictions[1:])), bound)

    in_floats = for_all(rng, feature_prompts(), routes, 1, quantity="distance of four routes over rounding bound")

    layers = [
        Linear(rng.standard_normal((40, 10)) / 3, rng.standard_normal(40)),
        Linear(rng.standard_normal((10, 40)) / 6, rng.standard_normal(10)),
    ]
    features = mlp_features(rng.uniform(-1, 1, (200, 10, 6)), layers)
    context, query, targets = features[..., :5], features[..., 5], rng.standard_normal((200, 1, 5))
    kernel, kernel_query = transpose(context) @ context, (transpose(context) @ query[..., None])[..., 0]
    rate = stable_rate(0.45, context)
    limit = kernel_interpolant(kernel, targets, kernel_query)
    distances = [
        float(np.mean(np.abs(kernel_gd_closed_form(kernel, targets, kernel_query, rate, depth) - limit)))
        for depth in (1, 10, 100, 1_000, 10_000, 100_000)
    ]
    printed = " ".join(f"{distance:.1e}" for distance in distances)
    falling = holds(bool(np.all(np.diff(distances) < 0)), "decreasing", printed, "distance to the limit")
    return proof & geometric & in_floats & falling & at_most(distances[-1] / distances[0], 1e-3, "last over first")
