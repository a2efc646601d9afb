r"""What holds of the projection, the weights, the radii and the steps for every input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.ledger import Control, Evidence, at_least, at_most, claim, equal, within
from proofs.properties import for_all
from proofs.symbolic import array, scalar, vanishes
from refimpl.incontext.context_prompt_tuning import (
    FewShots,
    cpt_step,
    few_shots,
    kernel_predict,
    kernel_prompt_loss,
    kernel_prompt_loss_vjp,
    label_loss_weights,
    label_mask,
    project_tokens,
    recency_weights,
    token_radii,
    token_type_mask,
    trainable_mask,
    tune_kernel_prompt,
    with_sinks,
)
from refimpl.oracle.spec import Arguments, find_spec, generators
from refimpl.primitives.numbers import Array
from refimpl.primitives.optimizers import adam

ROUNDOFF = float(np.finfo(float).eps) / 2
Project = Callable[[Array, Array], Array]


def clip_at_radius(perturbation: Array, radii: Array) -> Array:
    return np.clip(perturbation, -radii[:, None], radii[:, None])


def clip_inside(perturbation: Array, radii: Array) -> Array:
    """Clip coordinates so far that the token is surely in its ball."""
    inside = radii[:, None] / perturbation.shape[-1] ** 0.5
    return np.clip(perturbation, -inside, inside)


def norms(rows: Array) -> Array:
    return np.linalg.norm(rows, axis=-1)


@claim(
    "context_prompt_tuning/P1",
    title="Rescaling long tokens is the Euclidean projection onto the product of balls",
    source="Section 3, projection",
    statement=r"\Pi(\delta)_p=\delta_p\,\frac{r_p}{\max(\lVert\delta_p\rVert,r_p)}=\arg\min_{\lVert u_p\rVert\le r_p}"
    r"\lVert u-\delta\rVert,\qquad\langle v-\Pi v,\,u-\Pi v\rangle\le0",
    method="symbolic",
    scope="all radii and lengths, by the radial argument in the plane of the token and any point of its ball, which is "
    "all dimensions; 200 batches in floats: feasible, idempotent, non-expansive, variational inequality",
    control=[
        Control("coordinates are clipped at the radius", project=clip_at_radius, symbolic=False),
        Control("coordinates are clipped inside the ball", project=clip_inside, symbolic=False),
    ],
)
def rescaling_is_the_projection(
    rng: np.random.Generator, project: Project = project_tokens, symbolic: bool = True
) -> Evidence:
    strategy = find_spec("context_prompt_tuning/project_tokens").arguments
    # A row of d entries has length and rescaled entries to d + 4 roundings; the products below are of two such rows.
    room = 8 * ROUNDOFF

    def infeasible(case: Arguments) -> float:
        rows, radii = case["perturbation"], case["radii"]
        return float(np.max(norms(project(rows, radii)) / radii - 1)) / (room * (rows.shape[-1] + 4))

    def moves_again(case: Arguments) -> float:
        rows, radii = case["perturbation"], case["radii"]
        once = project(rows, radii)
        return float(np.max(np.abs(project(once, radii) - once)) / (room * np.max(radii) * (rows.shape[-1] + 4)))

    def expands(case: Arguments) -> float:
        rows, radii = case["perturbation"], case["radii"]
        other = rows + rng.standard_normal(rows.shape)
        apart, before = project(rows, radii) - project(other, radii), rows - other
        slack = room * (rows.shape[-1] + 4) * np.max(norms(rows) + norms(other))
        return float(np.max(norms(apart) - norms(before)) / slack)

    def angle(case: Arguments) -> float:
        rows, radii = case["perturbation"], case["radii"]
        inside = rng.standard_normal(rows.shape)
        inside *= radii[:, None] * rng.uniform(0, 1, (*rows.shape[:-1], 1)) / norms(inside)[..., None]
        nearest = project(rows, radii)
        product = ((rows - nearest) * (inside - nearest)).sum(axis=-1)
        slack = room * (rows.shape[-1] + 4) * (norms(rows) + radii) * radii * 2
        return float(np.max(product / slack))

    evidence = for_all(rng, strategy, infeasible, 1.0, 200, "excess over the radius")
    evidence &= for_all(rng, strategy, moves_again, 1.0, 200, "change when projected again")
    evidence &= for_all(rng, strategy, expands, 1.0, 200, "growth of distances")
    evidence &= for_all(rng, strategy, angle, 1.0, 200, "variational inequality")
    return _radially() & evidence if symbolic else evidence


def _radially() -> Evidence:
    """The projection of a token outside and inside, in the plane that it spans with a point u of the ball."""
    r, beyond = scalar("r", positive=True), scalar("s", positive=True)
    t, angle_u, rho = scalar("t"), scalar("f"), scalar("rho", nonnegative=True)
    direction = np.array([[sympy.cos(t), sympy.sin(t)]], dtype=object)
    radii = np.array([r], dtype=object)
    outside = (r + beyond) * direction
    nearest = project_tokens(outside, radii)
    u = rho * np.array([[sympy.cos(angle_u), sympy.sin(angle_u)]], dtype=object)
    product = ((outside - r * direction) * (u - r * direction)).sum()
    # <v - Pv, u - Pv> = s (rho cos(t - f) - r), which is at most s (rho - r) <= 0.
    return (
        vanishes(nearest - r * direction, "outside: on the sphere, same direction")
        & vanishes(product - beyond * (rho * sympy.cos(t - angle_u) - r), "outside: variational product")
        & vanishes(project_tokens(r * direction, radii + beyond) - r * direction, "inside: unchanged")
    )


def step_on_all_tokens(perturbation: Array, gradient: Array, types: Any, radii: Array, learning_rate: float) -> Array:
    return project_tokens(perturbation - learning_rate * gradient, radii)


@claim(
    "context_prompt_tuning/P2",
    title="Labels never move, and every token stays in its ball, at any learning rate",
    source="Section 3",
    statement=r"\tau_p\equiv0\ (\mathrm{mod}\ 4)\Rightarrow\delta_p=0,\qquad\lVert\delta_p\rVert\le r_p",
    method="property",
    scope="100 contexts of 1 to 4 examples, 20 plain steps at rate 0.05 to 5 or 20 Adam steps at rate 0.5, Gaussian "
    "gradients",
    uses=["context_prompt_tuning/P1"],
    control=Control("no token is masked", step=step_on_all_tokens, mask=np.ones_like),
)
def labels_never_move(
    rng: np.random.Generator,
    step: Callable[..., Array] = cpt_step,
    mask: Callable[[Any], Array] = trainable_mask,
) -> Evidence:
    lengths = st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))
    contexts = st.lists(lengths, min_size=1, max_size=4).map(token_type_mask)
    cases = st.tuples(contexts, st.sampled_from((0.05, 0.5, 5.0)), st.integers(1, 9), st.booleans())
    moved, excess = [0.0], [0.0]

    def visit(case: tuple[Any, float, int, bool]) -> float:
        types, rate, d, with_adam = case
        radii = token_radii(types, 0.2, 0.1, d)
        perturbation = np.zeros((len(types), d))
        method = adam(0.5)
        state = method.init(perturbation)
        for _ in range(20):
            gradient = rng.standard_normal(perturbation.shape)
            if with_adam:
                update, state = method.update(gradient * mask(types)[:, None], state, perturbation)
                perturbation = project_tokens(perturbation + update, radii)
            else:
                perturbation = step(perturbation, gradient, types, radii, rate)
        moved.append(float(np.max(np.abs(perturbation[label_mask(types)]))))
        excess.append(float(np.max(norms(perturbation) / radii - 1)))
        return moved[-1]

    evidence = for_all(rng, cases, visit, 0.0, quantity="largest entry of a label")
    # A rescaled row of at most 9 entries: its length is off by at most (d + 4) roundings.
    return evidence & at_most(max(excess), 13 * ROUNDOFF, "excess over the radius")


def weights_by_number(types: Any, decay: Any, weighting: str = "decay") -> Array:
    """Count by the types' own numbers, as if no example could be missing."""
    is_label = label_mask(types)
    weights = np.zeros(types.shape, dtype=object)
    weights[is_label] = [decay ** int((types.max() - one) // 4) for one in types[is_label]]
    return weights


@claim(
    "context_prompt_tuning/P3",
    title="Label weights decay by rank from the last label backwards",
    source="Section 3, decaying loss",
    statement=r"w_j=\gamma^{m-j},\quad j=1..m",
    method="symbolic",
    scope="every decay, 1 to 12 label groups, with gaps between the types and several tokens a label",
    control=Control("groups count by their numbers", weigh=weights_by_number),
)
def weights_decay_by_rank(weigh: Callable[..., Array] = label_loss_weights) -> Evidence:
    gamma = scalar("gamma", positive=True)
    differences = []
    for m in range(1, 13):
        types = np.repeat(4 * np.arange(1, m + 1) ** 2, 2)  # 4, 16, 36, ...: gaps, two tokens each
        types = np.concatenate([[0, 1, 2], types])
        weights = weigh(types, gamma)[3:].reshape(m, 2)
        differences.append(weights - np.array([[gamma ** (m - j)] * 2 for j in range(1, m + 1)], dtype=object))
    plain = weigh(np.array([4, 8, 12]), sympy.Rational(9, 10))
    flat = label_loss_weights(np.array([4, 8, 12]), 1.0) - label_loss_weights(np.array([4, 8, 12]), 0.3, "none")
    return (
        vanishes(differences, "weights")
        & equal([str(w) for w in plain], ["81/100", "9/10", "1"], "three labels at 9/10")
        & equal(float(np.max(np.abs(flat))), 0.0, "decay 1 against none")
    )


def radii_without_root(types: Any, eps_input: Any, eps_format: Any, d_model: Any, reference_dim: int = 2048) -> Array:
    return token_radii(types, eps_input, eps_format, d_model**2, reference_dim**2)


@claim(
    "context_prompt_tuning/P4",
    title="Radii grow with the root of the dimension, so relative perturbations do not depend on it",
    source="Section 3; the authors' library",
    statement=r"r=\epsilon\sqrt{d/2048},\quad\lVert E\rVert=c\sqrt d\ \Rightarrow\ "
    r"r/\lVert E\rVert=\epsilon/(c\sqrt{2048})",
    method="symbolic",
    scope="every dimension, radius and embedding scale",
    control=Control("radii proportional to the dimension", radii=radii_without_root),
)
def relative_radii_do_not_depend_on_the_dimension(radii: Callable[..., Array] = token_radii) -> Evidence:
    eps_in, eps_format, c = (scalar(name, positive=True) for name in ("e", "f", "c"))
    d = scalar("d", positive=True, integer=True)
    relative = [one / (c * sympy.sqrt(d)) for one in radii(np.array([1, 2, 3]), eps_in, eps_format, d)]
    wanted = [one / (c * sympy.sqrt(2048)) for one in (eps_format, eps_in, eps_format)]
    numbers = token_radii(np.array([1, 2]), 0.2, 0.1, 512)
    return vanishes(np.array(relative, dtype=object) - np.array(wanted, dtype=object), "relative radius") & within(
        float(np.max(np.abs(numbers - [0.05, 0.1]))), 0, 4 * ROUNDOFF, "at d = 512"
    )


@st.composite
def shot_draws(draw: st.DrawFn) -> FewShots:
    rng = draw(generators())
    n, d = draw(st.sampled_from((2, 5, 12))), draw(st.sampled_from((3, 16)))
    inputs = rng.standard_normal((4, n, d))
    inputs /= norms(inputs)[..., None]
    return few_shots(inputs, rng.integers(3, size=(4, n)), 3)


@claim(
    "context_prompt_tuning/P5",
    title="At radius zero the method is in-context learning, exactly",
    source="Section 3",
    statement=r"\epsilon\to0:\quad\delta=0,\ F(E+\delta)=F(E)",
    method="property",
    scope="100 draws of 4 few-shot sets in the kernel model, 10 steps at rate 1.2, radius 0",
    control=Control("radius 0.1", radius=0.1),
)
def radius_zero_is_in_context_learning(rng: np.random.Generator, radius: float = 0.0) -> Evidence:
    moved = [0.0]

    def difference(shots: FewShots) -> float:
        tuned = tune_kernel_prompt(shots, radius, recency_weights(shots.inputs.shape[-2], 0.9), n_steps=10)
        moved.append(float(np.max(np.abs(tuned.perturbation))))
        keys = shots.inputs + tuned.perturbation
        return float(np.max(np.abs(kernel_predict(keys, *shots[1::-1]) - kernel_predict(*shots[:2], shots.inputs))))

    # Equal numbers at another address may be multiplied in another order: 16 products a score, logits up to 6.
    evidence = for_all(rng, shot_draws(), difference, 6 * 32 * ROUNDOFF, quantity="difference in logits")
    return evidence & equal(max(moved), 0.0, "largest perturbation")


@claim(
    "context_prompt_tuning/P6",
    title="Small projected steps never increase the loss, and come to rest at a stationary point",
    source="projected gradient descent (the paper's algorithm in full batch)",
    statement=r"\eta\le1/L:\quad\mathcal L_{t+1}\le\mathcal L_t-\tfrac1{2\eta}\lVert\delta_{t+1}-\delta_t\rVert^2,\ "
    r"\min_{t<T}\lVert\delta_{t+1}-\delta_t\rVert\le\sqrt{2\eta(\mathcal L_0-\mathcal L_T)/T}",
    method="symbolic",
    scope="the lemma for all losses with L-Lipschitz gradient; the kernel model at rate 0.05, radius 0.3, 60 draws of "
    "12 random unit inputs in 4 classes, 500 steps",
    uses=["context_prompt_tuning/P1"],
    control=Control("a rate of 5", learning_rate=5.0),
)
def small_steps_descend(rng: np.random.Generator, learning_rate: float = 0.05) -> Evidence:
    # Lemma. With y = P(x - eta g) P1 gives <(x - eta g) - y, x - y> <= 0, and that product is |y-x|^2 + eta <g, y-x>.
    # So <g, y-x> <= -|y-x|^2/eta, and f(y) <= f(x) + <g, y-x> + L/2 |y-x|^2 <= f(x) - (1/eta - L/2)|y-x|^2.
    x, y, g, eta = array("x", (3,)), array("y", (3,)), array("g", (3,)), scalar("eta", positive=True)
    product = (x - eta * g - y) @ (x - y)
    lemma = vanishes(product - ((y - x) @ (y - x) + eta * (g @ (y - x))), "projection inequality in the lemma")

    n_steps, radius = 500, 0.3
    inputs = rng.standard_normal((60, 12, 16))
    inputs /= norms(inputs)[..., None]
    shots = few_shots(inputs, np.tile(np.arange(12) % 4, (60, 1)), 4)
    arguments: dict[str, Any] = shots._asdict() | {"context_weights": recency_weights(12, 0.9)}
    perturbation, radii = np.zeros_like(inputs), np.full(12, radius)
    losses, lengths = [], []
    for _ in range(n_steps):
        loss, pullback = kernel_prompt_loss_vjp(inputs + perturbation, **arguments)
        moved = project_tokens(perturbation - learning_rate * pullback(np.ones_like(loss))[0], radii)
        lengths.append(np.linalg.norm(moved - perturbation, axis=(-2, -1)))
        losses.append(loss)
        perturbation = moved
    losses.append(kernel_prompt_loss(inputs + perturbation, **arguments))
    trace, steps = np.array(losses), np.array(lengths)
    excess = trace[1:] - trace[:-1] + steps**2 / (2 * learning_rate)
    rest = np.sqrt(2 * learning_rate * (trace[0] - trace[-1]) / n_steps)
    # Losses of order one, of 12 terms with logits up to 6: a difference of two is off by some 100 roundings.
    return (
        lemma
        & at_most(float(excess.max()), 200 * ROUNDOFF, "excess over the descent bound")
        & at_most(float((steps.min(axis=0) / rest).max()), 1.0, "smallest step over its bound")
    )


@claim(
    "context_prompt_tuning/P12",
    title="To first order a loss changes by at most the radii times the gradients, and the attack attains it",
    source="the adversarial view, Section 3",
    statement=r"\lvert\Delta\mathcal L\rvert\le\sum_pr_p\lVert g_p\rVert+O(r^2),\quad "
    r"\delta_p=-r_p\,g_p/\lVert g_p\rVert\Rightarrow\Delta\mathcal L=-\sum_pr_p\lVert g_p\rVert+O(r^2)",
    method="property",
    scope="the bound is the Cauchy-Schwarz inequality token by token; 40 draws of 12 unit inputs, radii 1e-2 to 1e-4",
    control=Control("the perturbation follows the gradient", sign=1),
)
def first_order_change(rng: np.random.Generator, sign: int = -1) -> Evidence:
    inputs = rng.standard_normal((40, 12, 16))
    inputs /= norms(inputs)[..., None]
    shots = few_shots(inputs, np.tile(np.arange(12) % 4, (40, 1)), 4)
    arguments: dict[str, Any] = shots._asdict() | {"context_weights": recency_weights(12, 0.9)}
    loss, pullback = kernel_prompt_loss_vjp(inputs, **arguments)
    (gradient,) = pullback(np.ones_like(loss))
    lengths = norms(gradient)
    radii = np.array([1e-2, 1e-3, 1e-4])
    remainders = []
    for radius in radii:
        moved = kernel_prompt_loss(inputs + sign * radius * gradient / lengths[..., None], **arguments)
        remainders.append(np.abs(moved - loss + radius * lengths.sum(axis=-1)).max())
    slopes = np.diff(np.log(remainders)) / np.diff(np.log(radii))
    bounded = []
    for _ in range(20):
        direction = rng.standard_normal(inputs.shape)
        direction *= 1e-4 / norms(direction)[..., None]
        change = np.abs(kernel_prompt_loss(inputs + direction, **arguments) - loss)
        bounded.append(float(np.max(change / (1e-4 * lengths.sum(axis=-1)))))
    # A smooth remainder shrinks as r^2 up to relative corrections of order r and roundoff 1e-16/1e-8.
    return within(float(slopes.min()), 1.9, 2.1, "exponent of the remainder") & at_most(
        max(bounded), 1.0, "change in a random direction over the bound"
    )


@claim(
    "context_prompt_tuning/P14",
    title="Sinks, free keys of zero value, never change the predicted class in the kernel model",
    source="Section 4, instruction prompt tuning, in the closed-form model",
    statement=r"\mathrm{logits}'=(1-\sigma)\,\mathrm{logits},\qquad\sigma=\text{attention mass of the sinks}",
    method="symbolic",
    scope="all queries, keys and sinks at 2 context rows, 2 classes and 2 sinks (the sinks' mass factors out of any "
    "number of rows); predicted classes of 2000 queries",
    control=Control("the sinks carry values", value=1.0),
)
def sinks_change_no_class(rng: np.random.Generator, value: float = 0.0) -> Evidence:
    keys, queries, sinks = array("k", (2, 1)), array("q", (1, 1)), array("s", (2, 1))
    values = array("y", (2, 2))

    def sunk(keys: Array, values: Array, sinks: Array) -> tuple[Array, Array]:
        with_keys, with_values = with_sinks(keys, values, sinks)
        with_values[..., : sinks.shape[-2], 0] = int(value)
        return with_keys, with_values

    plain = kernel_predict(keys, values, queries, 1, 1)
    more = kernel_predict(*sunk(keys, values, sinks), queries, 1, 1)
    mass = sum(sympy.exp(queries[0, 0] * k) for k in keys[:, 0])
    with_sinks_mass = mass + sum(sympy.exp(queries[0, 0] * s) for s in sinks[:, 0])
    scaled = vanishes(sympy.Matrix(more * with_sinks_mass - plain * mass), "logits times total mass")

    inputs = rng.standard_normal((20, 12, 8))
    labels = np.eye(4)[rng.integers(4, size=(20, 12))]
    asked = rng.standard_normal((20, 100, 8))
    before = kernel_predict(inputs, labels, asked).argmax(axis=-1)
    after = kernel_predict(*sunk(inputs, labels, rng.standard_normal((20, 3, 8))), asked).argmax(axis=-1)
    return scaled & equal(int((before != after).sum()), 0, "classes changed") & at_least(before.size, 2000, "queries")
