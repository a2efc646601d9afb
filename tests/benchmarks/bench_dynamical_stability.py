"""Sharpness, stability and training beside jitted JAX, at the paper's sizes in float64.

``python -m tests.benchmarks.bench_dynamical_stability``. JAX is given the same algorithms, and for the critical rate
also what its user would write, the generalised eigenproblem over matrices. A step of gradient descent is JAX's own
gradient of the loss. Timed are the unchecked functions, which every loop here calls. To reach: never slower by more
than a tenth. Runs of single examples do not reach it: each step waits for the last one. One of ReLU networks is 25
calls of NumPy of half a microsecond or more, and a compiler's is one pass, so that the ratio grows with the networks at
once; one of diagonal networks passes seven times over numbers that a compiler passes twice.
"""

import sys
from collections.abc import Callable
from typing import Any

from tests.benchmarks.side_by_side import compare, pin_to_one_core  # isort: skip  (sets JAX's environment)

import jax
import jax.numpy as jnp
import numpy as np

from refimpl.dynamics.dynamical_stability import (
    DiagonalNet,
    ReluNet,
    critical_learning_rate,
    diagonal_step,
    relu_step,
    second_moment_step,
    sharpness,
    stability_radius,
)
from refimpl.dynamics.dynamical_stability.experiments import sample_sphere, sparse_target, train
from refimpl.primitives.memory import keep_freed_memory


def jax_sharpness(jacobian: jax.Array) -> tuple[jax.Array, ...]:
    kernel = jacobian @ jacobian.T / len(jacobian)
    return jnp.trace(kernel), jnp.linalg.norm(kernel), jnp.linalg.eigvalsh(kernel)[-1]


def jax_moment(covariance: jax.Array, jacobian: jax.Array) -> jax.Array:
    n, rate, batch_size = len(jacobian), 0.1, 4
    fisher = jacobian.T @ jacobian / n
    moved = covariance - rate * (fisher @ covariance + covariance @ fisher)
    energies = jnp.einsum("ip,pq,iq->i", jacobian, covariance, jacobian)
    sandwich = fisher @ covariance @ fisher
    fourth = (energies[:, None] * jacobian).T @ jacobian / n
    return moved + rate**2 * (sandwich + (fourth - sandwich) / batch_size)


def jax_coordinates(jacobian: jax.Array) -> tuple[jax.Array, jax.Array]:
    left, lengths, _ = jnp.linalg.svd(jacobian, full_matrices=False)
    x = left * lengths
    return x, (x * x).sum(axis=0) / len(x)


def jax_radius(jacobian: jax.Array) -> jax.Array:
    x, values = jax_coordinates(jacobian)
    rate, batch_size = 0.01, 4
    row, column = np.tril_indices(x.shape[1])
    products = values[row] * values[column] * (1 - 1 / batch_size)
    diagonal = 1 - rate * (values[row] + values[column]) + rate**2 * products
    pairs = x[:, row] * x[:, column] * np.where(row == column, 1, 2**0.5)
    return jnp.linalg.eigvalsh(jnp.diag(diagonal) + rate**2 * pairs.T @ pairs / (len(x) * batch_size))[-1]


def jax_critical(jacobian: jax.Array) -> jax.Array:
    """Of single examples, by the eigenproblem over examples."""
    x, values = jax_coordinates(jacobian)
    first, second = np.tril_indices(len(x))
    pairs = x[first] * x[second]
    entries = ((pairs @ (1 / (values[:, None] + values))) * pairs).sum(axis=-1) / len(x)
    matrix = jnp.zeros((len(x), len(x))).at[first, second].set(entries).at[second, first].set(entries)
    return 1 / jnp.linalg.eigvalsh(matrix)[-1]


def jax_critical_by_matrices(jacobian: jax.Array) -> jax.Array:
    x, values = jax_coordinates(jacobian)
    squares = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    root = jnp.sqrt((values[:, None] + values).reshape(-1))
    return 1 / jnp.linalg.eigvalsh(squares.T @ squares / len(x) / (root[:, None] * root))[-1]


def diagonal_loss(net: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return ((x @ (net[0] * net[1]) - y) ** 2).mean() / 2


def relu_loss(net: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return ((jax.nn.relu(x @ net[1].T) @ net[0] - y) ** 2).mean() / 2


def jax_step(loss: Callable[..., jax.Array], max_norm: float | None) -> Callable[..., Any]:
    def step(net: Any, x: jax.Array, y: jax.Array, rate: Any) -> Any:
        gradient = jax.grad(loss)(net, x, y)
        if max_norm is not None:
            norm = jnp.sqrt(sum((leaf**2).sum() for leaf in gradient))
            rate = rate * max_norm / jnp.maximum(norm, max_norm)
        return tuple(leaf - rate * moved for leaf, moved in zip(net, gradient, strict=True))

    return step


def jax_runs(loss: Callable[..., jax.Array], n_steps: int) -> Callable[..., Any]:
    """SGD of a batch of networks on one data set each."""
    step = jax.vmap(jax_step(loss, 50.0), in_axes=(0, 0, 0, None))

    def run(net: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> Any:
        drawn = jax.random.randint(key, (n_steps, len(x)), 0, x.shape[1])
        runs = jnp.arange(len(x))

        def body(net: Any, examples: jax.Array) -> tuple[Any, None]:
            return step(net, x[runs, examples][:, None], y[runs, examples][:, None], 0.01), None

        return jax.lax.scan(body, net, drawn)[0]

    return jax.jit(run)


def done(value: Any) -> Any:
    return jax.block_until_ready(value)  # type: ignore[no-untyped-call]


def main() -> int:
    pin_to_one_core()
    keep_freed_memory()
    rng = np.random.default_rng(0)
    ratios: list[float] = []
    print(f"{'':<60} {'refimpl':>13} {'jitted JAX':>13}   JAX / refimpl")

    def beside(name: str, ours: Callable[..., Any], theirs: Callable[..., Any], *arguments: Any) -> float:
        compiled, given = jax.jit(theirs), jax.tree.map(jnp.asarray, arguments)
        mine, other = jax.tree.leaves(ours(*arguments)), jax.tree.leaves(compiled(*given))
        for one, two in zip(mine, other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)
        return compare(name, lambda: ours(*arguments), lambda: done(compiled(*given)))

    for n, p in ((60, 840), (300, 2000)):
        jacobian = rng.standard_normal((n, p))
        ratios.append(
            beside(f"sharpness, n = {n}, p = {p}", lambda j: tuple(sharpness.unchecked(j)), jax_sharpness, jacobian)
        )
    covariance, jacobian = np.eye(20), rng.standard_normal((20, 20))
    ratios.append(
        beside(
            "second_moment_step, n = p = 20",
            lambda c, j: second_moment_step.unchecked(c, j, 0.1, 4),
            jax_moment,
            covariance,
            jacobian,
        )
    )
    for n in (6, 20, 40):
        jacobian = rng.standard_normal((n, 80))
        ratios.append(
            beside(
                f"stability_radius, rank {n}", lambda j: stability_radius.unchecked(j, 0.01, 4), jax_radius, jacobian
            )
        )
    for n, p in ((20, 80), (80, 400)):
        jacobian = rng.standard_normal((n, p))
        name = f"critical_learning_rate, n = {n}, p = {p}"
        ratios.append(beside(name, critical_learning_rate.unchecked, jax_critical, jacobian))
        if n <= 20:
            by_matrices = beside(
                f"{name}, JAX over matrices", critical_learning_rate.unchecked, jax_critical_by_matrices, jacobian
            )
            ratios.append(by_matrices)
    x = rng.uniform(-1, 1, (300, 1000))
    y = x @ sparse_target(1000, 3)
    diagonal = DiagonalNet(*rng.standard_normal((2, 1000)))
    ratios.append(
        beside(
            "diagonal_step of GD, n = 300, d = 1000",
            lambda net, x, y: tuple(diagonal_step.unchecked(DiagonalNet(*net), x, y, 0.01, 50.0)),
            lambda net, x, y: jax_step(diagonal_loss, 50.0)(net, x, y, 0.01),
            tuple(diagonal),
            x,
            y,
        )
    )
    inputs = sample_sphere((300, 100), rng)
    relu = ReluNet(rng.standard_normal(100), rng.standard_normal((100, 100)) / 100**0.25)
    ratios.append(
        beside(
            "relu_step of GD, n = 300, d = m = 100",
            lambda net, x, y: tuple(relu_step.unchecked(ReluNet(*net), x, y, 0.01, 50.0)),
            lambda net, x, y: jax_step(relu_loss, 50.0)(net, x, y, 0.01),
            tuple(relu),
            inputs,
            y,
        )
    )
    print("SGD, 200 steps of single examples, of one network and of the experiments' runs:")
    key = jax.random.key(0)
    sgd: list[float] = []

    def runs(name: str, loss: Callable[..., jax.Array], net: Any, x: np.ndarray, y: np.ndarray) -> None:
        """Of seeds by rates, a data set each seed."""
        batch = net.a.shape[:-1]
        copied = (np.broadcast_to(one, (*batch, *one.shape[2:])) for one in (x, y))
        flat = jax.tree.map(lambda one: jnp.asarray(one.reshape(-1, *one.shape[2:])), (tuple(net), *copied))
        compiled = jax_runs(loss, 200)
        ours = lambda: train(net, x, y, 0.01, 200, rng, 50.0)  # noqa: E731
        sgd.append(compare(f"{name}, {net.a[..., 0].size} at once", ours, lambda: done(compiled(*flat, key))))

    for seeds, rates in ((1, 1), (30, 3), (60, 3)):
        x = rng.uniform(-1, 1, (seeds, 1, 80, 200))
        diagonal = DiagonalNet(*rng.standard_normal((2, seeds, rates, 200)))
        runs("diagonal networks, d = 200", diagonal_loss, diagonal, x, x @ sparse_target(200, 3))
    for seeds, rates in ((1, 1), (20, 1), (16, 2)):
        x, y = sample_sphere((seeds, 1, 60, 20), rng), rng.standard_normal((seeds, 1, 60))
        outer, inner = rng.standard_normal((seeds, rates, 40)), rng.standard_normal((seeds, rates, 40, 20)) / 20**0.25
        runs("ReLU networks, d = 20, m = 40", relu_loss, ReluNet(outer, inner), x, y)
    print(f"slowest: {min(ratios):.2f} of JAX's speed, to reach 0.91; of SGD {min(sgd):.2f}")
    every = ratios + sgd
    print(f"faster in {sum(ratio > 1 for ratio in every)} of {len(every)}")
    return 0 if min(ratios) >= 1 / 1.1 else 1


if __name__ == "__main__":
    sys.exit(main())
