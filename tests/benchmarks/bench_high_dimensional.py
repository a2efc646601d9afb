"""Theory curves, closed-form students and network training beside jitted JAX, at the paper's sizes in float64.

``python -m tests.benchmarks.bench_high_dimensional``. To reach: never slower by more than a tenth. Steps
of small networks, the last five rows but the largest, do not reach it: beside their products of matrices they are some
ten passes over memory of a microsecond or more each, and a compiler fuses these.
"""

import sys
from typing import Any

from tests.benchmarks.side_by_side import compare, pin_to_one_core  # isort: skip  (sets JAX's environment)

import jax
import jax.numpy as jnp
import numpy as np

from refimpl.dynamics.high_dimensional import (
    deep_linear_flow,
    generalization_error,
    gradient_flow_weights,
    optimal_stopping_time,
    sample_two_layer,
    train_two_layer_relu,
    training_error,
)
from refimpl.dynamics.high_dimensional.spectrum import quadrature_for
from refimpl.tasks.teacher_student import sample_linear_problems, sample_relu_problems

VARIANCES = (1.0, 0.5, 0.3)


def nodes_of(load: float, n_nodes: int) -> tuple[Any, Any]:
    angle = (jnp.arange(n_nodes) + 0.5) * jnp.pi / n_nodes
    nodes = 1 + load - 2 * jnp.sqrt(load) * jnp.cos(angle)
    return nodes, 4 * load * jnp.sin(angle) ** 2 / (2 * jnp.pi * nodes) * jnp.pi / n_nodes


def jax_generalization_error(t: Any, load: float, n_nodes: int) -> Any:
    nodes, weights = nodes_of(load, n_nodes)
    decay = jnp.exp(-t[:, None] * nodes)
    learned = 1 - decay
    at_zero = 1 - jnp.sum(weights)
    return 1.3 * (decay**2 @ weights + at_zero) + 0.5 * (learned**2 @ (weights / nodes)) + 0.5


def jax_training_error(t: Any, load: float, n_nodes: int) -> Any:
    nodes, weights = nodes_of(load, n_nodes)
    decay = jnp.exp(-t[:, None] * nodes)
    missed = 1 - jnp.sum(weights) - max(0, 1 - load)
    return (decay**2 @ (weights * (1.3 * nodes + 0.5)) + 0.5 * missed) / load + max(0, 1 - 1 / load) * 0.5


def jax_stopping_time(load: float, snr: Any, n_nodes: int) -> Any:
    """The same root by 60 bisections in the logarithm of time, a fixed number as a compiler likes it."""
    nodes, weights = nodes_of(load, n_nodes)
    low, high = (load**0.5 - 1) ** 2, (load**0.5 + 1) ** 2
    early, late = jnp.log1p(high * snr) / high, jnp.log1p(low * snr) / low if low > 0 else snr

    def halve(_: int, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        middle = jnp.sqrt(ends[0] * ends[1])
        decay = jnp.exp(-middle[:, None] * (nodes - low))
        edge = jnp.exp(-middle * low)
        beyond = (decay * (1 - decay * edge[:, None])) @ weights > snr * edge * (decay**2 @ (weights * nodes))
        return jnp.where(beyond, ends[0], middle), jnp.where(beyond, middle, ends[1])

    ends = jax.lax.fori_loop(0, 60, halve, (early, late))
    return jnp.sqrt(ends[0] * ends[1])


def jax_flow(x: Any, y: Any, initial: Any, t: Any) -> Any:
    left, values, right = jnp.linalg.svd(x, full_matrices=False)
    along = jnp.einsum("bkp,bp->bk", right, y - jnp.einsum("bn,bnp->bp", initial, x)) / values
    moved = -jnp.expm1(-(values**2) * t[:, None, None]) * along
    return initial + jnp.einsum("tbk,bnk->tbn", moved, left)


def jax_two_layer(x: Any, y: Any, inner: Any, outer: Any, rate: float, n_steps: int) -> Any:
    def loss(parameters: tuple[Any, Any]) -> Any:
        hidden = jax.nn.relu(parameters[0] @ x)
        return jnp.sum((y - jnp.einsum("bh,bhp->bp", parameters[1], hidden)) ** 2) / (2 * y.shape[-1])

    def step(_: int, parameters: tuple[Any, Any]) -> Any:
        return jax.tree.map(lambda p, g: p - rate * g, parameters, jax.grad(loss)(parameters))

    return jax.lax.fori_loop(0, n_steps, step, (inner, outer))


def jax_deep(weights: Any, correlation: Any, moment: Any, n_weights: int, rate: float, n_steps: int) -> Any:
    def step(_: int, w: Any) -> Any:
        g = moment - jnp.einsum("bn,bnm->bm", w, correlation)
        norm = jnp.linalg.norm(w, axis=-1, keepdims=True)
        unit = w / norm
        along = jnp.sum(unit * g, axis=-1, keepdims=True)
        return w + rate * norm ** (2 - 2 / n_weights) * (g + (n_weights - 1) * along * unit)

    return jax.lax.fori_loop(0, n_steps, step, weights)


def main() -> int:
    pin_to_one_core()
    rng = np.random.default_rng(0)
    ratios = []

    def against(name: str, ours: Any, theirs: Any, *arguments: Any) -> None:
        """Both on the same arrays, after a check that they agree."""
        compiled, given = jax.jit(theirs), [jnp.asarray(one) for one in arguments]
        for a, b in zip(jax.tree.leaves(ours(*arguments)), jax.tree.leaves(compiled(*given)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
        ratios.append(compare(name, lambda: ours(*arguments), lambda: jax.block_until_ready(compiled(*given))))

    print(f"{'':<60} {'refimpl':>13} {'jitted JAX':>13}   JAX / refimpl")
    for load, largest in ((0.5, 1e3), (1.0, 50.0), (1.0, 1e5)):
        t = np.geomspace(0.1, largest, 100)
        n = len(quadrature_for(load, largest, np.float64).nodes)
        name = f"100 times to {largest:g}, load {load:g}, {n} nodes"
        against(
            f"generalization_error, {name}",
            lambda t, load=load: generalization_error(t, load, *VARIANCES),
            lambda t, load=load, n=n: jax_generalization_error(t, load, n),
            t,
        )
        against(
            f"training_error, {name}",
            lambda t, load=load: training_error(t, load, *VARIANCES),
            lambda t, load=load, n=n: jax_training_error(t, load, n),
            t,
        )
    snr = np.geomspace(0.5, 500, 20)
    for load in (0.3, 1.0):
        n = len(quadrature_for(load, 500.0, np.float64).nodes)
        against(
            f"optimal_stopping_time, 20 ratios, load {load:g}",
            lambda snr, load=load: optimal_stopping_time(load, snr),
            lambda snr, load=load, n=n: jax_stopping_time(load, snr, n),
            snr,
        )
    t = np.array([0.5, 2.0, 10.0, 50.0])
    for n_examples in (100, 200, 400):
        problems = sample_linear_problems(6, 200, n_examples, *VARIANCES, rng)
        against(
            f"gradient_flow_weights, 6 problems, N = 200, P = {n_examples}",
            lambda x, y, w: gradient_flow_weights(x, y, w, t),
            lambda x, y, w: jax_flow(x, y, w, t),
            problems.x,
            problems.y,
            problems.initial,
        )
    for n_hidden in (10, 60, 150):
        problems_relu = sample_relu_problems(5, 10, 5, 60, 1, 0.25, rng)
        network = sample_two_layer(5, 10, n_hidden, 1.0, rng)

        def ours(x: Any, y: Any, inner: Any, outer: Any, network: Any = network) -> Any:
            return tuple(train_two_layer_relu(x, y, network._replace(inner=inner, outer=outer), 0.05, 50))

        against(
            f"train_two_layer_relu, 5 problems, {n_hidden} units, 50 steps",
            ours,
            lambda x, y, inner, outer: jax_two_layer(x, y, inner, outer, 0.05, 50),
            problems_relu.x,
            problems_relu.y,
            *network,
        )
    problems = sample_linear_problems(60, 60, 60, *VARIANCES, rng)
    for n_weights in (2, 3):
        against(
            f"deep linear flow, 60 problems, N = P = 60, n = {n_weights}, 50 steps",
            lambda w, c, m, n=n_weights: deep_linear_flow(w, c, m, n, 0.001, 50),
            lambda w, c, m, n=n_weights: jax_deep(w, c, m, n, 0.001, 50),
            problems.initial,
            problems.x @ np.swapaxes(problems.x, -1, -2),
            (problems.y[:, None] @ np.swapaxes(problems.x, -1, -2))[:, 0],
        )
    print(f"slowest: {min(ratios):.2f} of JAX's speed; faster in {sum(r > 1 for r in ratios)} of {len(ratios)}")
    return 0 if min(ratios) >= 1 / 1.1 else 1


if __name__ == "__main__":
    sys.exit(main())
