"""The optimizers against recurrences written in another form, exactly, in rational numbers and symbols."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import sympy

from refimpl.primitives.optimizers import (
    Optimizer,
    adam,
    adamw,
    apply_updates,
    chain,
    clip_by_global_norm,
    global_norm,
    sgd,
)
from refimpl.primitives.trees import leaves, tree_map


class Params(NamedTuple):
    matrix: Any
    nested: Any


def params(dtype: Any = np.float64) -> Params:
    rng = np.random.default_rng(0)
    return Params(
        rng.standard_normal((2, 3)).astype(dtype),
        [{"scalar": np.array(0.5, dtype)}, None, (rng.standard_normal(4).astype(dtype),)],
    )


def run(optimizer: Optimizer, start: Any, gradient: Callable[[Any], Any], n_steps: int) -> list[Any]:
    """The parameters after each step."""
    state, found = optimizer.init(start), [start]
    for _ in range(n_steps):
        updates, state = optimizer.update(gradient(found[-1]), state, found[-1])
        found.append(apply_updates(found[-1], updates))
    return found


def exact(*values: Any) -> Any:
    return np.array([sympy.Rational(value) for value in values], dtype=object)


def following(gradients: Any) -> Callable[[Any], Any]:
    """These gradients one after the other, wherever the parameters are."""
    left = iter(gradients)
    return lambda x: next(left)


def cubic(x: Any) -> Any:
    """A gradient that is no multiple of the point: what each method looks at matters."""
    return x * x * x + x


ETA, RHO = sympy.Rational(1, 10), sympy.Rational(3, 4)


def test_heavy_ball_in_its_two_step_form() -> None:
    r"""$\theta_{t+1}=\theta_t-\eta g(\theta_t)+\rho(\theta_t-\theta_{t-1})$."""
    found = run(sgd(ETA, momentum=RHO), exact("1", "-1/2"), cubic, 4)
    expected = [found[0], found[0] - ETA * cubic(found[0])]
    while len(expected) < 5:
        expected.append(expected[-1] - ETA * cubic(expected[-1]) + RHO * (expected[-1] - expected[-2]))
    assert all(np.all(a == b) for a, b in zip(found, expected, strict=True))


def test_nesterov_looks_ahead() -> None:
    r"""$v\leftarrow\rho v-\eta g(\theta+\rho v)$, $\theta\leftarrow\theta+v$: ours are the points $\theta+\rho v$."""
    found = run(sgd(ETA, momentum=RHO, nesterov=True), exact("1", "-1/2"), cubic, 4)
    theta, velocity = found[0], 0 * found[0]
    for point in found:
        assert np.all(point == theta + RHO * velocity)
        velocity = RHO * velocity - ETA * cubic(theta + RHO * velocity)
        theta = theta + velocity


def test_plain_descent_is_momentum_zero() -> None:
    plain, zero = (run(one, exact("1", "-1/2"), cubic, 3) for one in (sgd(ETA), sgd(ETA, momentum=0)))
    assert all(np.all(a == b) for a, b in zip(plain, zero, strict=True))
    assert sgd(0.1).init(params()).trace is None


def test_adam_in_closed_form() -> None:
    """The third update for any gradients: the moments as weighted means, symbols throughout."""
    g = sympy.symbols("g0:3", positive=True)
    b1, b2, eps, rate = sympy.symbols("b1 b2 eps rate", positive=True)
    optimizer = adam(rate, b1, b2, eps)
    state = optimizer.init(np.array([sympy.Integer(0)], dtype=object))
    for one in g:
        updates, state = optimizer.update(np.array([one], dtype=object), state)

    def mean(beta: Any, values: Any) -> Any:
        weights = [beta**2, beta, 1]
        return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)

    expected = -rate * mean(b1, g) / (sympy.sqrt(mean(b2, [one**2 for one in g])) + eps)
    point = {s: sympy.Rational(k + 2, 7) for k, s in enumerate([*g, b1, b2, eps, rate])}
    assert abs(sympy.N((updates[0] - expected).subs(point), 50)) < sympy.Float("1e-45")
    assert state.step == 3


def test_adam_steps_by_the_rate_while_the_gradient_is_constant() -> None:
    gradient = np.array([3.0, -1e-3, 2e5])
    found = run(adam(0.25, eps=0), np.zeros(3), lambda x: gradient, 6)
    for step, point in enumerate(found):
        np.testing.assert_allclose(point, -0.25 * step * np.sign(gradient), rtol=1e-13)


def test_adam_does_not_see_the_scale_of_the_gradient() -> None:
    rng = np.random.default_rng(1)
    gradients = rng.standard_normal((5, 3))
    small, large = (run(adam(0.1, eps=0), np.zeros(3), following(scale * gradients), 5) for scale in (1, 1024))
    np.testing.assert_array_equal(small, large)


def test_weight_decay_is_decoupled() -> None:
    r"""AdamW's update is Adam's minus $\eta\lambda\theta$, whatever the gradients: the moments never see the decay."""
    rng = np.random.default_rng(2)
    plain, decayed = adam(0.5), adamw(0.5, weight_decay=0.25)
    states = [one.init(params()) for one in (plain, decayed)]
    for _ in range(3):
        gradients = tree_map(lambda leaf: rng.standard_normal(leaf.shape), params())
        a, states[0] = plain.update(gradients, states[0])
        b, states[1] = decayed.update(gradients, states[1], params())
        difference = tree_map(lambda u, v, p: np.abs(u - v - 0.125 * p).max(), a, b, params())
        assert max(leaves(difference)) < 1e-15
    with pytest.raises(ValueError, match="params: expected the parameters, which weight decay needs, got None"):
        decayed.update(gradients, states[1])


def test_a_schedule_gives_the_rate_from_step_0_on() -> None:
    def rate(step: int) -> float:
        return float(2 ** (-step))

    ones = np.ones(2)
    for optimizer in (sgd(rate), sgd(rate, momentum=0.0), adam(rate, eps=0), chain(sgd(1.0), sgd(rate))):
        found = run(optimizer, np.zeros(2), lambda x: ones, 3)
        sign = 1 if optimizer.init(ones).__class__ is tuple else -1
        np.testing.assert_allclose(np.array(found)[:, 0], [0, sign, sign * 1.5, sign * 1.75], rtol=1e-14)


def test_clipping_keeps_the_direction_and_bounds_the_norm_of_all_leaves() -> None:
    gradients = tree_map(lambda leaf: 10 * leaf, params())
    norm = float(np.sqrt(sum((leaf**2).sum() for leaf in leaves(gradients))))
    assert global_norm(gradients) == pytest.approx(norm, rel=1e-15)
    clip = clip_by_global_norm(2.0)
    clipped, _ = clip.update(gradients, clip.init(gradients))
    assert float(global_norm(clipped)) == pytest.approx(2.0, rel=1e-15)
    ratios = tree_map(lambda c, g: np.abs(c / g - 2 / norm).max(), clipped, gradients)
    assert max(leaves(ratios)) < 1e-15
    small = tree_map(lambda leaf: leaf / 100, params())
    assert clip.update(small, ())[0] is small
    zeros = tree_map(np.zeros_like, params())
    assert all(not leaf.any() for leaf in leaves(clip.update(zeros, ())[0]))


OPTIMIZERS = {
    "sgd": sgd(0.1),
    "momentum": sgd(0.1, momentum=0.9),
    "nesterov": sgd(0.1, momentum=0.9, nesterov=True),
    "adam": adam(0.1),
    "adamw": adamw(0.1),
    "clipped": chain(clip_by_global_norm(0.5), adam(lambda step: 0.1 / (1 + step))),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble])
def test_trees_shapes_and_dtypes_are_kept_and_inputs_unchanged(optimizer: Optimizer, dtype: Any) -> None:
    start = params(dtype)
    for leaf in leaves(start):
        leaf.setflags(write=False)
    found = run(optimizer, start, lambda x: start, 3)
    for point in found:
        same = tree_map(lambda a, b: isinstance(a, np.ndarray) and (a.shape, a.dtype) == (b.shape, dtype), point, start)
        assert all(leaves(same))
    assert float(global_norm(found[-1])) < float(global_norm(start))  # the gradient of half the square descends
    state = optimizer.update(start, optimizer.init(start), start)[1]
    assert all(leaf.dtype == dtype for leaf in leaves(state) if isinstance(leaf, np.ndarray))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: sgd(0.0), "learning_rate"),
        (lambda: sgd(float("nan")), "learning_rate"),
        (lambda: sgd(0.1, momentum=1.0), "momentum"),
        (lambda: sgd(0.1, nesterov=True), "nesterov"),
        (lambda: adam(-1.0), "learning_rate"),
        (lambda: adam(0.1, b1=1.0), "b1"),
        (lambda: adam(0.1, b2=-0.1), "b2"),
        (lambda: adam(0.1, eps=-1e-8), "eps"),
        (lambda: adamw(0.1, weight_decay=-1.0), "weight_decay"),
        (lambda: clip_by_global_norm(0.0), "max_norm"),
    ],
)
def test_bad_input(call: Callable[[], Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()


def test_gradients_of_another_structure_are_refused() -> None:
    optimizer = adam(0.1)
    with pytest.raises(ValueError, match="trees of one structure"):
        optimizer.update([np.ones(2)], optimizer.init([np.ones(2), np.ones(2)]))
