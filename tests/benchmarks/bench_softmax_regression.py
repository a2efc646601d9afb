"""Gradient, Hessian-vector product, Hessian and training step beside jitted JAX, at the paper's sizes in float64.

``python -m tests.benchmarks.bench_softmax_regression``. JAX differentiates the loss, as its user would; the Hessian is
also given to it in our factored form. Timed are the unchecked functions, which every loop here calls. To reach with
them: never slower by more than a tenth. The gradient is timed with the check of its arguments too, which JAX does not
make: one more reading of the data.
"""

import sys
from collections.abc import Callable
from typing import Any

from tests.benchmarks.side_by_side import compare, pin_to_one_core  # isort: skip  (sets JAX's environment)

import jax
import jax.numpy as jnp
import numpy as np

from refimpl.incontext.softmax_regression import hessian, hessian_vector_product, loss_gradient
from refimpl.incontext.softmax_regression.experiment import loss_and_gradient
from refimpl.tasks.softmax_regression import SoftmaxTasks, sample_softmax_tasks


def loss(data: jax.Array, x: jax.Array, target: jax.Array) -> jax.Array:
    c = jax.nn.softmax(data @ x) - target
    return c @ c / 2


def product(data: jax.Array, x: jax.Array, target: jax.Array, v: jax.Array) -> jax.Array:
    return jax.jvp(lambda weights: jax.grad(loss, 1)(data, weights, target), (x,), (v,))[1]


def factored_hessian(data: jax.Array, x: jax.Array, target: jax.Array) -> jax.Array:
    f = jax.nn.softmax(data @ x)
    c = f - target
    centred = data - f @ data
    return centred.T @ ((f * (c + f - f @ c))[:, None] * centred)


def training_loss(matrix: jax.Array, data: jax.Array, target: jax.Array) -> jax.Array:
    weights = jnp.einsum("tnd,tn->td", data, target) @ matrix.T
    c = jax.nn.softmax(jnp.einsum("tnd,td->tn", data, weights)) - target
    return jnp.mean(jnp.sum(c**2, axis=-1)) / 2


def main() -> int:
    pin_to_one_core()
    rng = np.random.default_rng(0)
    ratios = []
    print(f"{'':<60} {'refimpl':>13} {'jitted JAX':>13}   JAX / refimpl")
    for n_tasks, n, d in ((16, 25, 20), (16, 200, 20), (16, 200, 40), (1, 200, 20), (1, 4096, 512)):
        data, target = sample_softmax_tasks(n_tasks, n, d, rng)
        x, v = rng.standard_normal((2, n_tasks, d))
        if n_tasks == 1:
            data, target, x, v = data[0], target[0], x[0], v[0]
        rows: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]] = {
            "gradient": (loss_gradient.unchecked, jax.grad(loss, 1), (data, x, target)),
            "Hessian-vector product": (hessian_vector_product.unchecked, product, (data, x, target, v)),
            "Hessian": (hessian.unchecked, jax.hessian(loss, 1), (data, x, target)),
            "Hessian, factored in JAX too": (hessian.unchecked, factored_hessian, (data, x, target)),
            "(gradient, arguments checked)": (loss_gradient, jax.grad(loss, 1), (data, x, target)),
        }
        for name, (ours, theirs, arguments) in rows.items():
            compiled = jax.jit(jax.vmap(theirs) if n_tasks > 1 else theirs)
            given = [jnp.asarray(array) for array in arguments]
            np.testing.assert_allclose(ours(*arguments), compiled(*given), rtol=1e-7, atol=1e-10)
            ratio = compare(
                f"{name}, {n_tasks} x {n} x {d}",
                lambda ours=ours, arguments=arguments: ours(*arguments),
                lambda f=compiled, given=given: f(*given).block_until_ready(),
            )
            if not name.startswith("("):
                ratios.append(ratio)
    for n, d in ((25, 20), (200, 20)):
        tasks = sample_softmax_tasks(16, n, d, rng)
        matrix = rng.standard_normal((d, d))
        step = jax.jit(jax.value_and_grad(training_loss))
        on_device = [jnp.asarray(array) for array in (matrix, *tasks)]
        np.testing.assert_allclose(loss_and_gradient(matrix, tasks)[1], step(*on_device)[1], rtol=1e-9, atol=1e-12)

        def ours_step(matrix: Any = matrix, tasks: SoftmaxTasks = tasks) -> Any:
            return loss_and_gradient(matrix, tasks)

        def their_step(step: Any = step, on_device: Any = on_device) -> Any:
            return jax.block_until_ready(step(*on_device))

        ratios.append(compare(f"loss and gradient of a training step, 16 x {n} x {d}", ours_step, their_step))
    print(f"slowest: {min(ratios):.2f} of JAX's speed; to reach: 0.91")
    return 0 if min(ratios) >= 1 / 1.1 else 1


if __name__ == "__main__":
    sys.exit(main())
