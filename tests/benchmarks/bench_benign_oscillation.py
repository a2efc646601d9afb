"""Steps of SGD on the patch network, its loss and gradient, and steps of the map beside jitted JAX, in float64.

``python -m tests.benchmarks.bench_benign_oscillation``. The runs are the experiment's: 14 networks at once, 500 steps,
which JAX scans. To reach: never slower by more than a tenth. The map does not reach it: six calls of NumPy a step, a
third of a microsecond each before its first number, where JAX's whole step of a few starts takes a tenth of that.
"""

import sys

from tests.benchmarks.side_by_side import compare, header, pin_to_one_core, verdict  # isort: skip  (sets JAX's environment)

import jax
import jax.numpy as jnp
import numpy as np

from refimpl.dynamics.benign_oscillation import Setting, loss_vjp, start, train_sgd, two_feature_errors
from refimpl.primitives.memory import keep_freed_memory


def output(weights: jax.Array, patches: jax.Array) -> jax.Array:
    squares = jnp.square(jax.nn.relu(jnp.einsum("jmd,...pd->...jmp", weights, patches))).sum(-1).mean(-1)
    return squares[..., 0] - squares[..., 1]


def loss(weights: jax.Array, patches: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean((output(weights, patches) - labels) ** 2) / 2


def train(weights: jax.Array, patches: jax.Array, labels: jax.Array, indices: jax.Array) -> jax.Array:
    def step(weights, index):  # type: ignore[no-untyped-def]
        return weights - 0.5 * jax.grad(loss)(weights, patches[index], labels[index]), None

    return jax.lax.scan(step, weights, indices)[0]


def errors(strong: jax.Array, weak: jax.Array, gain: jax.Array) -> jax.Array:
    def step(shares, _):  # type: ignore[no-untyped-def]
        strong, weak = shares
        error = 1 - strong - weak
        return (strong * (1 + gain * error) ** 2, weak * (1 + gain / 4 * error) ** 2), error

    return jax.lax.scan(step, (strong, weak), length=1000)[1]


def main() -> int:
    pin_to_one_core()
    keep_freed_memory()
    rng = np.random.default_rng(0)
    data, weights = start(Setting(), 14, rng)
    indices = rng.integers(40, size=(14, 500))
    strong, gain = rng.uniform(0.1, 0.9, size=(2, 1000))
    arguments = tuple(map(jnp.asarray, (weights, data.patches, data.labels)))
    trained = jax.jit(jax.vmap(train))
    graded = jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1))))
    iterated = jax.jit(errors)

    def ours():  # type: ignore[no-untyped-def]
        value, pull = loss_vjp.unchecked(weights, data.patches, data.labels)
        return value, pull(np.ones_like(value))

    given = tuple(map(jnp.asarray, (strong, strong / 100, gain)))
    cases = {
        "500 steps of SGD, 14 networks of 2 x 5 x 400": (
            lambda: train_sgd.unchecked(weights, data.patches, data.labels, 0.5, indices)[0],
            lambda: trained(*arguments, jnp.asarray(indices)).block_until_ready(),
        ),
        "loss, its gradient in weights and in 40 samples, 14 networks": (
            ours,
            lambda: jax.block_until_ready(graded(*arguments)),
        ),
    }
    for n_starts in (80, 1000):  # the figure's gains, and arrays that are worth a call
        cases[f"1000 steps of the map, {n_starts} starts"] = (
            lambda s=strong[:n_starts], g=gain[:n_starts]: two_feature_errors.unchecked(s, s / 100, g, g / 4, 1000)[0],
            lambda given=tuple(one[:n_starts] for one in given): iterated(*given).block_until_ready(),
        )
    header()
    ratios = []
    for name, (mine, theirs) in cases.items():
        for a, b in zip(jax.tree.leaves(mine()), jax.tree.leaves(theirs()), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)
        ratios.append(compare(name, mine, theirs))
    return verdict(ratios)


if __name__ == "__main__":
    sys.exit(main())
