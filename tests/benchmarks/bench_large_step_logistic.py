"""The five algorithms beside jitted JAX, in float64, with the same stopping rule and the same record of the run.

``python -m tests.benchmarks.bench_large_step_logistic``. 5000 samples of MNIST's and CIFAR-10's shapes and a constant,
as in the paper, 20 iterations. To reach: never slower by more than a tenth, faster in most. The digits of scikit-learn
and the worst case of 1000 samples in two dimensions, to their solution, are printed too: an iteration there is some
ten calls from Python on a few hundred numbers, half of its time, and two products of matrix and vector, the other half
and about what a compiled loop takes for all.
"""

import sys

from tests.benchmarks.side_by_side import compare, pin_to_one_core  # isort: skip  (sets JAX's environment)

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from refimpl.dynamics.large_step_logistic import (
    batch_perceptron,
    hessian_vector_product,
    logistic_loss_vjp,
    lr_gd,
    normalized_batch_perceptron,
    normalized_lr_gd,
    perceptron,
    worst_case_dataset,
)
from refimpl.tasks.classification import digit_pair, signed_features


@partial(jax.jit, static_argnames=("max_iterations", "normalized"))
def descend(z, step_size, max_iterations, normalized):  # type: ignore[no-untyped-def]
    """LR+GD until every margin is positive: weights, iterations, losses, gradient norms, accuracies."""
    n = len(z)
    records = jnp.zeros((3, max_iterations + 1), z.dtype)

    def body(state):  # type: ignore[no-untyped-def]
        theta, t, _, records = state
        margins = z @ theta
        p = jax.nn.sigmoid(-margins)
        pull = p @ z
        right = jnp.mean(margins > 0)
        loss = jnp.mean(jnp.logaddexp(0.0, -margins))
        records = records.at[:, t].set(jnp.stack([loss, jnp.linalg.norm(pull) / n, right]))
        go_on = (right < 1) & (t < max_iterations)
        step = step_size * pull / (p.sum() if normalized else n)
        return jnp.where(go_on, theta + step, theta), t + go_on, go_on, records

    state = (jnp.zeros(z.shape[1], z.dtype), 0, jnp.array(True), records)
    return jax.lax.while_loop(lambda state: state[2], body, state)


@partial(jax.jit, static_argnames=("max_iterations", "kind"))
def correct(z, max_iterations, kind):  # type: ignore[no-untyped-def]
    """A perceptron until every margin is positive: weights, iterations, accuracies."""
    n = len(z)
    accuracies = jnp.zeros(max_iterations + 1, z.dtype)

    def body(state):  # type: ignore[no-untyped-def]
        theta, t, _, accuracies = state
        wrong = z @ theta <= 0
        n_wrong = wrong.sum()
        accuracies = accuracies.at[t].set(1 - n_wrong / n)
        if kind == "single":
            step = z[jnp.argmax(wrong)]
        else:
            step = wrong.astype(z.dtype) @ z / (n_wrong if kind == "normalized" else jnp.where(t == 0, 2 * n, n))
        go_on = (n_wrong > 0) & (t < max_iterations)
        return jnp.where(go_on, theta + step, theta), t + go_on, go_on, accuracies

    return jax.lax.while_loop(
        lambda state: state[2], body, (jnp.zeros(z.shape[1], z.dtype), 0, jnp.array(True), accuracies)
    )


def loss(theta, z):  # type: ignore[no-untyped-def]
    return jnp.mean(jnp.logaddexp(0.0, -z @ theta))


hessian_product = jax.jit(lambda theta, z, v: jax.jvp(lambda t: jax.grad(loss)(t, z), (theta,), (v,))[1])


def runs(name: str, z: np.ndarray, most: int) -> list[float]:
    """The ratios of all five algorithms on one data set."""
    ratios, device = [], jnp.asarray(z)
    for label, ours, normalized in (("LR+GD", lr_gd, False), ("normalized LR+GD", normalized_lr_gd, True)):
        theirs = jax.block_until_ready(descend(device, 100.0, most, normalized))
        found = ours(z, 100.0, most)
        assert found.n_iterations == theirs[1]
        ratios.append(
            compare(
                f"{label}, {name}, {found.n_iterations} iterations",
                partial(ours, z, 100.0, most),
                lambda normalized=normalized: jax.block_until_ready(descend(device, 100.0, most, normalized)),
                rounds=9,
            )
        )
    for label, perceive, kind in (
        ("batch perceptron", batch_perceptron, "batch"),
        ("normalized batch perceptron", normalized_batch_perceptron, "normalized"),
        ("perceptron", perceptron, "single"),
    ):
        theirs = jax.block_until_ready(correct(device, most, kind))
        run = perceive(z, most)
        assert run.n_iterations == theirs[1]
        ratios.append(
            compare(
                f"{label}, {name}, {run.n_iterations} iterations",
                partial(perceive, z, most),
                lambda kind=kind: jax.block_until_ready(correct(device, most, kind)),
                rounds=9,
            )
        )
    return ratios


def derivatives(name: str, z: np.ndarray, rng: np.random.Generator) -> list[float]:
    """The ratios of loss with gradient and of a product with the Hessian."""
    theta, v = rng.standard_normal((2, z.shape[1])) / z.shape[1] ** 0.5
    on_device = [jnp.asarray(x) for x in (theta, z, v)]

    def pulled() -> tuple[object, object]:
        value, pullback = logistic_loss_vjp(theta, z)
        return value, pullback(np.ones(()))

    gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return [
        compare(f"loss and its gradients, {name}", pulled, lambda: jax.block_until_ready(gradients(*on_device[:2]))),
        compare(
            f"Hessian-vector product, {name}",
            lambda: hessian_vector_product(theta, z, v),
            lambda: jax.block_until_ready(hessian_product(*on_device)),
        ),
    ]


def main() -> int:
    pin_to_one_core()
    rng = np.random.default_rng(0)
    ratios = []
    for name, d in (("5000 x 785", 785), ("5000 x 3073", 3073)):
        z = rng.standard_normal((5000, d))
        z[:2500] *= -1  # two classes that no hyperplane separates within 20 iterations
        ratios += runs(name, z, 20)
        ratios += derivatives(name, z, rng)
    runs("digits, 357 x 65", signed_features(*digit_pair(3, 8)), 1000)
    runs("worst case, 1000 x 2", signed_features(*worst_case_dataset(1000)), 1000)
    slow = [ratio for ratio in ratios if ratio < 1 / 1.1]
    print(
        f"faster in {sum(ratio > 1 for ratio in ratios)} of {len(ratios)}, slower by more than a tenth in {len(slow)}"
    )
    return bool(slow)


if __name__ == "__main__":
    sys.exit(main())
