"""Population loss, loss on sampled tasks, optimum and Monte Carlo of the Bayes risk beside jitted JAX, in float64.

``python -m tests.benchmarks.bench_one_step_optimality``. JAX differentiates the closed form, as its user would. Sizes
are those of the claims. To reach: never slower by more than a tenth.
"""

import sys
from typing import Any

from tests.benchmarks.side_by_side import compare, header, pin_to_one_core, verdict  # isort: skip

import jax
import jax.numpy as jnp
import numpy as np

from refimpl.incontext.one_step_optimality import conditional_bayes_risk, ridge_predict
from refimpl.incontext.one_step_optimality.model import EffectiveWeights, lsa_predict
from refimpl.incontext.one_step_optimality.population import check_law, law_moments, population_core
from refimpl.incontext.one_step_optimality.training import sample_loss_and_gradients
from refimpl.primitives.memory import keep_freed_memory
from refimpl.tasks.linear_regression import sample_gaussian_tasks


def predict(weights: Any, x: Any, y: Any, x_query: Any) -> jax.Array:
    tokens = jnp.concatenate([x, y[..., None]], axis=-1)
    return jnp.einsum(
        "tn,tn->t", tokens @ weights.value, jnp.einsum("tna,ak,tk->tn", tokens, weights.key_query, x_query)
    )


def sample_loss(weights: Any, tasks: Any) -> jax.Array:
    return jnp.mean((predict(weights, tasks.x, tasks.y, tasks.x_query) - tasks.y_query) ** 2)


def population_loss(weights: Any, n: int, variance: Any, sigma: Any, sigma_w: Any) -> jax.Array:
    """The closed form for one set of weights, in the paper's letters."""
    u, c, m1, m = weights.value[:-1], weights.value[-1], weights.key_query[:-1], weights.key_query[-1]
    k = sigma @ sigma_w @ sigma
    first = jnp.vdot(sigma, sigma_w) + variance
    second = first**2 + 2 * jnp.vdot(k, sigma_w)
    frobenius, mu, nu = jnp.vdot(m1, sigma @ m1 @ sigma), m @ sigma @ m, u @ sigma @ u
    m1_s_m = m1 @ sigma @ m
    cross, cross_k = u @ sigma @ m1_s_m, u @ k @ m1_s_m
    back = m1.T @ sigma @ u
    diagonal = nu * (frobenius + mu * first) + c**2 * (frobenius * first + mu * second) + 4 * c * cross_k
    squared = back @ sigma @ back + 2 * c * (first * cross + cross_k) + mu * (u @ k @ u)
    squared += c**2 * (mu * second + jnp.vdot(m1, k @ m1 @ sigma))
    linear = c * jnp.vdot(m1, k) + u @ k @ m
    return n * diagonal + n * (n + 1) * squared - 2 * n * linear + first


def bayes_risk(x: Any, variance: float) -> jax.Array:
    gram = jnp.swapaxes(x, -1, -2) @ x + variance * jnp.eye(x.shape[-1])
    return variance + variance * jnp.trace(jnp.linalg.inv(gram), axis1=-2, axis2=-1)


def ridge(x: Any, y: Any, x_query: Any, variance: float) -> jax.Array:
    gram = jnp.swapaxes(x, -1, -2) @ x + variance * jnp.eye(x.shape[-1])
    weights = jnp.linalg.solve(gram, jnp.einsum("tnd,tn->td", x, y)[..., None])[..., 0]
    return jnp.einsum("td,td->t", weights, x_query)


def main() -> int:
    pin_to_one_core()
    keep_freed_memory()
    rng = np.random.default_rng(0)
    header()
    ratios = []

    def row(name: str, ours: Any, theirs: Any, *given: Any) -> None:
        compiled, placed = jax.jit(theirs), jax.tree.map(jnp.asarray, given)
        for mine, other in zip(jax.tree.leaves(ours(*given)), jax.tree.leaves(compiled(*placed)), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-8, atol=1e-8)
        ratios.append(compare(name, lambda: ours(*given), lambda: jax.block_until_ready(compiled(*placed)), rounds=7))

    for n_starts, d, n in ((1, 3, 6), (20, 3, 6), (20, 5, 9), (20, 3, 30)):
        weights = EffectiveWeights(rng.standard_normal((n_starts, d + 1)), rng.standard_normal((n_starts, d + 1, d)))
        law = check_law(weights, n, 0.7, None, None, d)

        moments = law_moments(*law)  # once, as JAX's compiler folds its constants

        def ours(weights: Any, moments: Any = moments) -> Any:
            loss, pullback = population_core(weights, moments)
            return loss, pullback(np.ones_like(loss))[0]

        def theirs(weights: Any, law: Any = law) -> Any:
            return jax.vmap(jax.value_and_grad(lambda one: population_loss(one, *law)))(weights)

        row(f"population loss and gradient, {n_starts} starts, d = {d}, n = {n}", ours, theirs, weights)

    for n_tasks, d, n in ((256, 3, 6), (256, 5, 9), (200_000, 3, 6)):
        weights = EffectiveWeights(rng.standard_normal(d + 1), rng.standard_normal((d + 1, d)))
        tasks = sample_gaussian_tasks(n_tasks, d, n, 0.7, rng)
        name = f"{n_tasks} tasks, d = {d}, n = {n}"
        row(f"loss and gradient, {name}", sample_loss_and_gradients, jax.value_and_grad(sample_loss), weights, tasks)
        if n_tasks > 256:
            data = (tasks.x, tasks.y, tasks.x_query)
            row(f"predictions, {name}", lsa_predict.unchecked, predict, weights, *data)
            row(
                f"ridge predictions, {name}",
                lambda *data: ridge_predict(*data, 0.7),
                lambda *data: ridge(*data, 0.7**2),
                *data,
            )
    for n_samples, d, n in ((20_000, 3, 50), (2000, 10, 400)):
        x = rng.standard_normal((n_samples, n, d))
        row(
            f"Bayes risk, {n_samples} samples, d = {d}, n = {n}",
            lambda x: conditional_bayes_risk(x, 0.7),
            lambda x: bayes_risk(x, 0.7**2),
            x,
        )
    return verdict(ratios)


if __name__ == "__main__":
    sys.exit(main())
