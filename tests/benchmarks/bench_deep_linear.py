"""Deep linear networks beside jitted JAX, at the paper's sizes in float64.

``python -m tests.benchmarks.bench_deep_linear``. To reach: never slower by more than a tenth.
Timed are the unchecked functions, which every loop here calls. The Jacobian may miss it: there as here all its time is
that of matrix products.
"""

import sys

from tests.benchmarks.side_by_side import compare, pin_to_one_core  # isort: skip  (sets JAX's environment)

import jax
import jax.numpy as jnp
import numpy as np

from refimpl.dynamics.deep_linear import (
    decoupled_init,
    gradients,
    hessian_vector_product,
    jacobian,
    loss,
    mode_trajectory,
    orthogonal_init,
    random_products,
    scaled_gaussian_init,
    small_random_init,
    train_gd,
    variance_map,
)
from refimpl.primitives.memory import keep_freed_memory
from refimpl.tasks.hierarchy import hierarchical_dataset


def jax_loss(weights, sigma_11, sigma_31):  # type: ignore[no-untyped-def]
    product = weights[0]
    for weight in weights[1:]:
        product = weight @ product
    return jnp.sum(product * (product @ sigma_11)) / 2 - jnp.sum(product * sigma_31)


def jax_train(weights, sigma_11, sigma_31, learning_rate, n_steps):  # type: ignore[no-untyped-def]
    slope = jax.grad(jax_loss)

    def step(current, _):  # type: ignore[no-untyped-def]
        slopes = slope(current, sigma_11, sigma_31)
        new = [w - learning_rate * g for w, g in zip(current, slopes, strict=True)]
        return new, new

    return jax.lax.scan(step, weights, None, length=n_steps)[1]


def jax_jacobian(x, weights, gain):  # type: ignore[no-untyped-def]
    def layers(x):  # type: ignore[no-untyped-def]
        return jax.lax.scan(lambda x, w: (gain * (w @ jnp.tanh(x)), None), x, weights)[0]

    return jax.jacfwd(layers)(x)


def jax_trajectory(t, s, u0, n_weights, n_steps=200):  # type: ignore[no-untyped-def]
    """The mode's equation by the classical Runge-Kutta method: what one runs who has no closed form."""

    def velocity(u):  # type: ignore[no-untyped-def]
        return n_weights * u ** (2 - 2 / n_weights) * (s - u)

    def substep(u, h):  # type: ignore[no-untyped-def]
        a = velocity(u)
        b = velocity(u + h * a / 2)
        c = velocity(u + h * b / 2)
        return u + h * (a + 2 * b + 2 * c + velocity(u + h * c)) / 6

    def interval(u, h):  # type: ignore[no-untyped-def]
        u = jax.lax.fori_loop(0, n_steps, lambda _, u: substep(u, h / n_steps), u)
        return u, u

    return jax.lax.scan(interval, u0, jnp.diff(t))[1]


def main() -> int:
    pin_to_one_core()
    keep_freed_memory()  # as loops over many calls do
    rng = np.random.default_rng(0)
    ratios = []
    print(f"{'':<60} {'refimpl':>13} {'jitted JAX':>13}   JAX / refimpl")

    def race(name, ours, theirs, arguments, rtol=1e-9):  # type: ignore[no-untyped-def]
        compiled = jax.jit(theirs)
        given = jax.tree.map(jnp.asarray, arguments)
        for a, b in zip(jax.tree.leaves(ours(*arguments)), jax.tree.leaves(compiled(*given)), strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(1e-3, float(np.max(np.abs(a)))))
        ratios.append(compare(name, lambda: ours(*arguments), lambda: jax.block_until_ready(compiled(*given))))

    features = hierarchical_dataset(5, 1000, 0.1, rng)
    hierarchy = (small_random_init((32, 32, 1000), 1e-2, rng), np.eye(32), features)
    sizes = [64] * 10 + [10]
    x = rng.standard_normal((64, 1797)) / 8
    digits = (decoupled_init(rng.standard_normal((10, 64)), sizes, 0.5, rng), x @ x.T, rng.standard_normal((10, 64)))
    deep = ([orthogonal_init((100, 100), rng) for _ in range(99)], np.eye(100), rng.standard_normal((100, 100)) / 10)
    for name, problem in (
        ("hierarchy, 32-32-1000", hierarchy),
        ("digits, 10 matrices of width 64", digits),
        ("99 matrices of width 100", deep),
    ):
        race(f"gradients, {name}", gradients.unchecked, jax.grad(jax_loss), problem)
        race(
            f"loss, {name}",
            lambda w, a, b: loss.unchecked(w, a, b, 0.0),
            jax_loss,
            problem,
        )
    for name, problem in (("hierarchy, 32-32-1000", hierarchy), ("digits, 10 matrices of width 64", digits)):
        weights, sigma_11, sigma_31 = problem
        direction = [rng.standard_normal(w.shape) for w in weights]
        race(
            f"hessian_vector_product, {name}",
            hessian_vector_product.unchecked,
            lambda w, v, a, b: jax.jvp(lambda w: jax.grad(jax_loss)(w, a, b), (w,), (v,))[1],
            (weights, direction, sigma_11, sigma_31),
        )
        race(
            f"train_gd, {name}, 20 steps",
            lambda w, a, b: [layer[1:] for layer in train_gd(w, a, b, 5e-4, 20)],
            lambda w, a, b: jax_train(w, a, b, 5e-4, 20),
            problem,
        )
    layers = orthogonal_init((99, 200, 200), rng)
    race(
        "jacobian, 99 layers of 200 units",
        lambda x, weights: jacobian.unchecked(x, list(weights), 1.0),
        lambda x, weights: jax_jacobian(x, weights, 1.0),
        (rng.standard_normal(200), layers),
    )
    race(
        "variance_map, 50 variances",
        lambda q: variance_map.unchecked(q, 1.1),
        lambda q: _jax_variance_map(q, 1.1),
        (np.linspace(0, 4, 50),),
    )
    times = np.linspace(0, 12, 200)
    for n_weights in (3, 9):
        race(
            f"mode_trajectory against Runge-Kutta, n = {n_weights}, 200 times",
            lambda t, n=n_weights: mode_trajectory(t[1:], 1.5, 0.05, n),
            lambda t, n=n_weights: jax_trajectory(t, 1.5, 0.05, n),
            (times,),
            1e-7,
        )
    gaussian = scaled_gaussian_init((99, 40, 100, 100), rng)
    draws = iter(list(gaussian) * 10_000)
    race(
        "random_products, 40 draws of 99 matrices of width 100",
        lambda given: random_products(lambda shape, _: next(draws), 100, 99, 40, rng),
        lambda given: jax.lax.scan(lambda p, w: (w @ p, None), given[0], given[1:])[0],
        (gaussian,),
    )
    print(f"slowest: {min(ratios):.2f} of JAX's speed; faster in {sum(r > 1 for r in ratios)} of {len(ratios)}")
    return 0 if min(ratios) >= 1 / 1.1 else 1


def _jax_variance_map(q, gain):  # type: ignore[no-untyped-def]
    z = jnp.linspace(-12, 12, 961)
    density = jnp.exp(-z * z / 2)
    return gain**2 * (jnp.tanh(jnp.sqrt(q)[:, None] * z) ** 2 @ density) / density.sum()


if __name__ == "__main__":
    sys.exit(main())
