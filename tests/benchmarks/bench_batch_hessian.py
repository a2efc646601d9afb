"""Curvature products and spectra beside JAX's ``jvp(grad)``, jitted, on one core in float64.

``python -m tests.benchmarks.bench_batch_hessian``. Perceptrons on the digits: the paper's module's own with 2410
parameters on a batch and on all the data, and one with 100,234. To reach: a Hessian-vector product within four
gradients; never slower than JAX by more than a tenth; the spectrum of 100,234 parameters, 60 Lanczos steps each of 2
probes, within a minute.

Our product starts from the activations that the gradient left, as a Lanczos run on one batch does; a user of
``jvp(grad)`` computes them again for every vector. Timed too: our product from nothing, and JAX's ``linearize``, which
keeps the activations as we do. Timed are the unchecked functions, which every loop here calls.
"""

import sys
import time

from tests.benchmarks.side_by_side import compare, pin_to_one_core, seconds_a_call  # isort: skip  (sets JAX's environment)

import jax
import jax.numpy as jnp
import numpy as np

from refimpl.dynamics.batch_hessian import hessian_vector_product, initial_perceptron
from refimpl.primitives.curvature import mlp_curvature, pack, unpack
from refimpl.primitives.lanczos import lanczos
from refimpl.primitives.layers import Linear
from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.trees import tree_map
from refimpl.tasks.real_data import digit_images


def loss(layers: list[Linear], x: jax.Array, labels: jax.Array) -> jax.Array:
    for layer in layers[:-1]:
        x = jnp.tanh(x @ layer.weight.T + layer.bias)
    logits = x @ layers[-1].weight.T + layers[-1].bias
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))


def gradient_of(layers: list[Linear], x: np.ndarray, labels: np.ndarray) -> tuple[object, list[Linear]]:
    found = mlp_curvature.unchecked(layers, x, labels)
    return found.loss, found.gradient


def main() -> int:
    pin_to_one_core()
    keep_freed_memory()  # as every loop of ours does, training and Lanczos
    rng = np.random.default_rng(0)
    images, labels = digit_images()
    ratios, products_in_gradients = [], []
    print(f"{'':<60} {'refimpl':>13} {'jitted JAX':>13}   JAX / refimpl")
    for widths, n in (((64, 32, 10), 128), ((64, 32, 10), 1797), ((64, 512, 128, 10), 512)):
        layers, x, y = initial_perceptron(rng, widths), images[:n], labels[:n]
        direction = tree_map(lambda leaf: rng.standard_normal(leaf.shape), layers)
        size = pack(layers).size
        there = tuple(jax.tree.map(jnp.asarray, part) for part in (layers, x, y))
        along = jax.tree.map(jnp.asarray, direction)
        gradient = jax.jit(jax.value_and_grad(loss))
        product = jax.jit(lambda w, x, y, v: jax.jvp(lambda w: jax.grad(loss)(w, x, y), (w,), (v,))[1])
        linearised = jax.jit(jax.linearize(lambda w, x=there[1], y=there[2]: jax.grad(loss)(w, x, y), there[0])[1])
        curvature = mlp_curvature(layers, x, y)
        np.testing.assert_allclose(pack(curvature.gradient), pack(gradient(*there)[1]), atol=1e-12)
        ours, theirs = curvature.hessian_product(direction), product(*there, along)
        np.testing.assert_allclose(pack(ours), pack(theirs), atol=1e-10)
        what = f"P = {size}, n = {n}"
        ratios += [
            compare(
                f"gradient, {what}",
                lambda layers=layers, x=x, y=y: gradient_of(layers, x, y),
                lambda there=there, f=gradient: jax.block_until_ready(f(*there)),
            ),
            compare(
                f"Hessian-vector product, {what}",
                lambda c=curvature, v=direction: c.hessian_product(v),
                lambda there=there, v=along, f=product: jax.block_until_ready(f(*there, v)),
            ),
        ]
        compare(
            f"  from nothing, {what}",
            lambda layers=layers, x=x, y=y, v=direction: hessian_vector_product.unchecked(layers, x, y, v),
            lambda there=there, v=along, f=product: jax.block_until_ready(f(*there, v)),
        )
        compare(
            f"  beside jax.linearize, {what}",
            lambda c=curvature, v=direction: c.hessian_product(v),
            lambda v=along, f=linearised: jax.block_until_ready(f(v)),
        )
        calls = 20
        one = min(seconds_a_call(lambda: gradient_of(layers, x, y), calls) for _ in range(5))  # noqa: B023
        many = min(seconds_a_call(lambda: curvature.hessian_product(direction), calls) for _ in range(5))  # noqa: B023
        products_in_gradients.append(many / one)
        print(f"  one product costs {many / one:.2f} gradients")

    layers = initial_perceptron(rng, (64, 512, 128, 10))
    size = pack(layers).size
    seconds = [0.0, 0.0]
    there = tuple(jax.tree.map(jnp.asarray, part) for part in (layers, images, labels))
    jax.block_until_ready(product(*there, there[0]))  # compile
    for _ in range(2):
        start = rng.standard_normal(size)
        begin = time.perf_counter()
        curvature = mlp_curvature(layers, images, labels)
        ours = lanczos(lambda v, c=curvature: pack(c.hessian_product(unpack(v, layers))), size, 60, start=start)
        middle = time.perf_counter()
        theirs = lanczos(lambda v: pack(product(*there, unpack(v, layers))), size, 60, start=start)
        seconds[0] += middle - begin
        seconds[1] += time.perf_counter() - middle
        np.testing.assert_allclose(ours.eigenvalues()[-1], theirs.eigenvalues()[-1], rtol=1e-9)
    print(
        f"{f'spectrum of {size} parameters, 1797 images, 2 probes':<60} {seconds[0]:11.1f} s {seconds[1]:11.1f} s",
        end="",
    )
    print(f"    x {seconds[1] / seconds[0]:5.2f}")
    ratios.append(seconds[1] / seconds[0])
    print(
        f"slowest: {min(ratios):.2f} of JAX's speed, to reach 0.91; a product costs at most "
        f"{max(products_in_gradients):.2f} gradients, to reach 4; the spectrum takes {seconds[0]:.0f} s, to reach 60"
    )
    return 0 if min(ratios) >= 1 / 1.1 and max(products_in_gradients) <= 4 and seconds[0] <= 60 else 1


if __name__ == "__main__":
    sys.exit(main())
