"""Coherence, examples' gradients, robust averages and training beside jitted JAX, at the paper's sizes in float64.

``python -m tests.benchmarks.bench_gradient_coherence``. Of an example's and a step's gradients the unchecked functions
are timed, which training calls. To reach: never slower by more than a tenth.
Logistic descent does not reach it: 80 products of a matrix of 2000 numbers and a vector a step, each a call into BLAS
that costs more than its arithmetic. Nor does a step's mean gradient: two dozen calls of NumPy, of which five products
of matrices do the arithmetic in two fifths of the time for a small batch, two thirds for a large one.
"""

import sys
from typing import Any

from tests.benchmarks.side_by_side import compare, header, pin_to_one_core, verdict  # isort: skip  (sets JAX's environment)

import jax
import jax.numpy as jnp
import numpy as np

from refimpl.dynamics.gradient_coherence import (
    batch_rule,
    coherence,
    gradient_matrix,
    initial_perceptron,
    layer_coherence,
    logistic_descent,
    median_of_three,
    mlp_m_coherence,
    winsorized_mean,
)
from refimpl.primitives.layers import Linear
from refimpl.primitives.memory import keep_freed_memory


def jax_coherence(gradients: Any) -> Any:
    total = gradients.sum(axis=0)
    return total @ total / (len(gradients) * jnp.sum(gradients**2))


def jax_layers(a: Any, b: Any) -> Any:
    squares = jnp.stack([jnp.sum(one**2) for one in (a, b)])
    totals = jnp.stack([jnp.sum(one.sum(axis=0) ** 2) for one in (a, b)])
    return totals / (len(a) * squares), squares / squares.sum()


def jax_winsorized(gradients: Any, count: int) -> Any:
    ordered = jnp.sort(gradients, axis=0)
    return jnp.clip(gradients, ordered[count], ordered[-count - 1]).mean(axis=0)


def jax_loss(parameters: Any, x: Any, label: Any) -> Any:
    w, b, v, c = parameters
    logits = v @ jax.nn.relu(w @ x + b) + c
    return jax.nn.logsumexp(logits) - logits[label]


def jax_matrix(w: Any, b: Any, v: Any, c: Any, x: Any, labels: Any) -> Any:
    gradients = jax.vmap(jax.grad(jax_loss), (None, 0, 0))((w, b, v, c), x, labels)
    return jnp.concatenate([one.reshape(len(x), -1) for one in gradients], axis=1)


def jax_m_coherence(w: Any, b: Any, v: Any, c: Any, x: Any, labels: Any) -> Any:
    gradients = jax_matrix(w, b, v, c, x, labels)
    return jnp.sum(gradients.sum(axis=0) ** 2) / jnp.sum(gradients**2)


def jax_batch(w: Any, b: Any, v: Any, c: Any, x: Any, labels: Any) -> Any:
    def mean(parameters: Any) -> Any:
        return jax.vmap(jax_loss, (None, 0, 0))(parameters, x, labels).mean()

    return jnp.concatenate([one.reshape(-1) for one in jax.grad(mean)((w, b, v, c))])


def jax_descent(x: Any, y: Any, rates: Any) -> Any:
    def step(w: Any, rate: Any) -> tuple[Any, Any]:
        doubts = y * jax.nn.sigmoid(-y * jnp.einsum("rnd,rd->rn", x, w))
        after = w + rate * jnp.einsum("rn,rnd->rd", doubts, x) / y.shape[-1]
        return after, after

    start = jnp.zeros((x.shape[0], x.shape[2]))
    return jnp.concatenate([start[None], jax.lax.scan(step, start, rates)[1]])


def main() -> int:
    pin_to_one_core()
    keep_freed_memory()
    rng = np.random.default_rng(0)
    ratios: list[float] = []

    def against(name: str, ours: Any, theirs: Any, *arguments: Any) -> None:
        """Both on the same arrays, after a check that they agree."""
        compiled, given = jax.jit(theirs), [jnp.asarray(one) for one in arguments]
        for a, b in zip(jax.tree.leaves(ours(*arguments)), jax.tree.leaves(compiled(*given)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
        ratios.append(
            compare(name, lambda: ours(*arguments), lambda: jax.block_until_ready(compiled(*given)), rounds=9)
        )

    header()
    gradients = rng.standard_normal((400, 4810)) + 0.1
    against("coherence, 400 gradients of 4810", coherence, jax_coherence, gradients)
    against(
        "layer_coherence, 400 gradients of 4160 and 650",
        lambda a, b: tuple(layer_coherence([a, b])),
        jax_layers,
        np.ascontiguousarray(gradients[:, :4160]),
        np.ascontiguousarray(gradients[:, 4160:]),
    )
    for level, count in ((0.02, 1), (0.06, 3), (0.12, 6)):
        against(
            f"winsorized_mean, 50 gradients of 4810, level {level:g}",
            lambda g, level=level: winsorized_mean(g, level),
            lambda g, count=count: jax_winsorized(g, count),
            gradients[:50],
        )
    against(
        "median_of_three, 48 gradients of 4810",
        median_of_three,
        lambda g: jnp.median(g.reshape(3, 16, -1).mean(axis=1), axis=0),
        gradients[:48],
    )
    layers = initial_perceptron(rng)
    flat = [array for layer in layers for array in layer]

    def ours(function: Any) -> Any:
        return lambda w, b, v, c, *given: function([Linear(w, b), Linear(v, c)], *given)

    for n in (50, 400):
        x, labels = rng.uniform(0, 1, (n, 64)), rng.integers(10, size=n)
        against(f"gradient_matrix, {n} examples", ours(gradient_matrix.unchecked), jax_matrix, *flat, x, labels)
        against(f"mlp_m_coherence, {n} examples", ours(mlp_m_coherence.unchecked), jax_m_coherence, *flat, x, labels)
        against(
            f"one step's gradient, {n} examples",
            ours(lambda *given: batch_rule(None, *given)[0]),
            jax_batch,
            *flat,
            x,
            labels,
        )
    x = rng.standard_normal((40, 100, 20))
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    y = rng.choice([-1.0, 1.0], (40, 100))
    against(
        "logistic_descent, 40 runs, m = 100, d = 20, 30 steps", logistic_descent, jax_descent, x, y, np.full(30, 0.5)
    )
    return verdict(ratios)


if __name__ == "__main__":
    sys.exit(main())
