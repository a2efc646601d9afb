r"""Order sensitivity (Section 4): what cannot depend on the order, what does, and by how much."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import sympy

from proofs.ledger import Control, Evidence, Figure, Series, at_most, claim, figure, within
from proofs.properties import for_all
from proofs.statistics import lies_above, lies_below, mean_interval
from proofs.symbolic import array, block, blocks, induction, scalar, vanishes
from refimpl.incontext.order_sensitivity import (
    gradient_descent_weights,
    icl_distributions,
    linear_self_attention,
    order_dependent_term,
    order_sensitivity,
    random_attention_stack,
    random_orders,
    regression_distributions,
    regression_epochs,
    small_step_coefficient,
    train_on_demonstrations,
    training_epochs,
)
from refimpl.incontext.order_sensitivity.finetuning import mean_gradient, prediction_errors
from refimpl.oracle.specs.incontext.order_sensitivity import ordered_distributions
from refimpl.primitives.normalization import softmax
from refimpl.primitives.numbers import Array, transpose
from refimpl.primitives.optimizers import Optimizer, adam, adamw, chain, clip_by_global_norm, sgd

Gradients = Callable[[Any, Any], tuple[Any, Any]]
EPSILON = float(np.finfo(float).eps)
CLASSES, D_INPUT, N_DEMOS, N_ORDERS, N_TEST = 6, 8, 8, 10, 40
EPOCHS = (1, 5, 20, 100)
ETA = scalar("eta", positive=True)


def setting(rng: np.random.Generator) -> tuple[Array, Any, Any, Array]:
    """Demonstrations with random labels, ten orders of them, and inputs to test on."""
    inputs = rng.standard_normal((N_DEMOS, D_INPUT))
    labels = rng.integers(CLASSES, size=N_DEMOS)
    return inputs, labels, random_orders(N_ORDERS, N_DEMOS, rng), rng.standard_normal((N_TEST, D_INPUT))


ZERO = np.zeros((CLASSES, D_INPUT))


def regression_sensitivities(
    data: list[tuple[Array, Any, Any, Array]],
    learning_rate: float,
    epochs: int,
    batch_size: int | None,
    optimizer: Any,
) -> list[float]:
    """Sen of softmax regression from 0 after some epochs, in each setting."""
    inputs, labels, orders, tests = (np.stack(parts) for parts in zip(*data, strict=True))
    trained = train_on_demonstrations(ZERO, inputs, labels, orders, learning_rate, epochs, batch_size, optimizer)
    return [float(order_sensitivity(regression_distributions(*one))) for one in zip(trained, tests, strict=True)]


# --- equivalence ---


def constructed_layer(rng: np.random.Generator, inputs: Array, labels: Any, orders: Any, tests: Array) -> Array:
    """Distributions of the constructed layer: its predictions of the one-hot label are the logits."""
    targets = np.eye(CLASSES)[labels]
    tokens = np.concatenate([inputs, targets], axis=-1)[orders]
    weights = gradient_descent_weights(D_INPUT, CLASSES, 1.0, len(inputs))
    asked = np.concatenate([tests, np.zeros((len(tests), CLASSES))], axis=-1)
    columns = np.concatenate([tokens, np.broadcast_to(asked, (len(orders), *asked.shape))], axis=-2)
    updated = linear_self_attention(columns.swapaxes(-1, -2), weights, len(inputs))
    return softmax(-updated[:, D_INPUT:, len(inputs) :].swapaxes(-1, -2))


def one_step(inputs: Array, labels: Any, orders: Any, tests: Array) -> Array:
    """Distributions after one step of gradient descent on the squared error of the one-hot labels."""
    targets = np.eye(CLASSES)[labels]
    after = [
        next(training_epochs(ZERO, squared_error_gradients(inputs, targets), order, sgd(1.0 / len(inputs))))
        for order in orders
    ]
    return softmax(np.stack([tests @ weights.T for weights in after]))


def squared_error_gradients(inputs: Array, targets: Array) -> Gradients:
    r"""Of $\frac12\sum_i\lVert Wx_i-y_i\rVert^2$ on rows."""

    def loss_and_gradients(weights: Array, rows: Any) -> tuple[None, Array]:
        return None, transpose(inputs[rows] @ transpose(weights) - targets[rows]) @ inputs[rows]

    return loss_and_gradients


def causal_stack(rng: np.random.Generator, inputs: Array, labels: Any, orders: Any, tests: Array) -> Array:
    stack = random_attention_stack(2, rng)
    return icl_distributions(stack, inputs, labels, orders, tests)


@claim(
    "order_sensitivity/O6",
    title="Learners that are equivalent have the same sensitivity, and near ones nearly",
    source="Theorem 1",
    statement=r"|\mathrm{Sen}_A-\mathrm{Sen}_{ICL}|\le\tfrac1{|\text{test}|}\sum_x\sum_v\sqrt{\tfrac1R\sum_\pi"
    r"(p_\pi-q_\pi)^2},\quad\text{so }A\equiv ICL\Rightarrow\mathrm{Sen}_A=\mathrm{Sen}_{ICL}",
    method="property",
    scope="the inequality, of which the theorem is the case 0, on 200 pairs of families of distributions, 2 to 24 "
    "orders, up to 1000 tokens; the constructed layer beside a step of gradient descent, 20 draws of 8 demonstrations "
    "in 10 orders: distributions and sensitivities agree to roundoff. Equal sensitivity is necessary, not sufficient",
    uses=["order_sensitivity/O1"],
    control=Control("a two-layer causal stack as the learner", learner=causal_stack),
)
def equivalent_learners_are_equally_sensitive(
    rng: np.random.Generator, learner: Callable[..., Array] = constructed_layer
) -> Evidence:
    def excess(case: dict[str, Any]) -> float:
        p, ddof = case["distributions"], case["ddof"]
        q = np.roll(p, 1, axis=-1) / 4 + 3 * p / 4
        n_orders = p.shape[-3]
        apart = np.sqrt(np.sum((p - q) ** 2, axis=-3) / (n_orders - ddof)).sum(axis=-1).mean(axis=-1)
        return float(np.max(np.abs(order_sensitivity(p, ddof) - order_sensitivity(q, ddof)) - apart))

    differences, sensitivities = [], []
    for _ in range(20):
        data = setting(rng)
        icl, gd = learner(rng, *data), one_step(*data)
        differences.append(float(np.max(np.abs(icl - gd))))
        sensitivities.append(abs(float(order_sensitivity(icl)) - float(order_sensitivity(gd))))
    # Logits of size some units, as sums of 8 products of 8: rounded to some hundred units.
    room = 1000 * EPSILON
    return (
        # Sums over up to 1000 tokens of deviations, each off by a few units of at most 1.
        for_all(rng, ordered_distributions(), excess, 1000 * EPSILON, examples=200, quantity="over the bound")
        & at_most(max(differences), room, "layer and step: probabilities apart")
        & at_most(max(sensitivities), room, "sensitivities apart")
    )


# --- what a sum cannot see ---


def mean_over_halves(errors: Array, inputs: Array) -> Array:
    """The mean of the means over a first batch of all but one, and over the last demonstration."""
    return (
        mean_gradient(errors[..., :-1, :], inputs[..., :-1, :])
        + mean_gradient(errors[..., -1:, :], inputs[..., -1:, :])
    ) / 2


def regression_gradients(inputs: Array, labels: Any, gradient: Any, clip: float | None = None) -> Gradients:
    """Softmax regression's gradient, each demonstration's clipped to a norm if one is given."""

    def loss_and_gradients(weights: Array, rows: Any) -> tuple[None, Array]:
        errors, seen = prediction_errors(weights, inputs[rows], labels[rows]), inputs[rows]
        if clip is not None:
            norms = np.linalg.norm(errors, axis=-1) * np.linalg.norm(seen, axis=-1)
            errors = errors * np.minimum(1, clip / norms)[:, None]
        return None, gradient(errors, seen)

    return loss_and_gradients


OPTIMIZERS: dict[str, tuple[Callable[[], Optimizer], float | None]] = {
    "gradient descent": (partial(sgd, 0.1), None),
    "momentum": (partial(sgd, 0.1, 0.9), None),
    "Adam": (partial(adam, 0.05), None),
    "Adam with weight decay": (partial(adamw, 0.05, weight_decay=0.1), None),
    "summed gradient clipped": (lambda: chain(clip_by_global_norm(0.3), sgd(0.1)), None),
    "each gradient clipped": (partial(sgd, 0.1), 0.5),
}


@claim(
    "order_sensitivity/O7",
    title="An optimizer that sees only the gradient summed over all demonstrations does not see their order",
    source="Section 4",
    statement=r"\Phi\big(\theta,s,\tfrac1N\sum_ig_i(\theta)\big)\text{ is the same for every }\pi:\ "
    r"\mathrm{Sen}=0\text{ at every epoch}",
    method="symbolic",
    scope="all sizes: the gradient of two groups of demonstrations is their sum whichever comes first, and errors are "
    "taken row by row (2 rows by entries); so equal parameters and states stay equal, by induction over steps. In "
    "floats, 8 demonstrations in 5 orders, at epochs 1, 5, 20, 100: gradient descent, momentum, Adam, weight "
    "decay, clipping of the sum and of each gradient",
    control=[
        Control("the mean of the means over batches of unequal size", gradient=mean_over_halves),
        Control("batches of half the demonstrations", batch_size=4),
    ],
)
def full_batches_are_order_stable(
    rng: np.random.Generator, gradient: Callable[[Array, Array], Array] = mean_gradient, batch_size: int | None = None
) -> Evidence:
    # Row blocks: errors R_i (N_i x V) and inputs X_i (N_i x d) of two groups.
    errors, inputs = ([block(f"{name}{group}") for group in (1, 2)] for name in ("R", "X"))
    first, second = (gradient(blocks([[e] for e in errors[::s]]), blocks([[x] for x in inputs[::s]])) for s in (1, -1))
    summed = [2 * first - sum(sympy.transpose(e) * x for e, x in zip(errors, inputs, strict=True)), first - second]
    weights, rows, labels = array("w", (2, 1)), array("x", (2, 1)), np.array([0, 1])
    by_row = prediction_errors(weights, rows[::-1], labels[::-1])[::-1] - prediction_errors(weights, rows, labels)

    evidence = vanishes(summed, "two groups in either order") & vanishes(by_row, "errors row by row")
    data, labels, orders, tests = setting(rng)
    worst = 0.0
    for make, clip in OPTIMIZERS.values():
        loss = regression_gradients(data, labels, gradient, clip)
        runs = [islice(training_epochs(ZERO, loss, order, make(), batch_size), EPOCHS[-1]) for order in orders[:5]]
        for epoch, now in enumerate(zip(*runs, strict=True), start=1):
            if epoch in EPOCHS:
                worst = max(worst, float(order_sensitivity(regression_distributions(np.stack(now), tests))))
    # An update is off by some 20 units of the size of its terms; a hundred of them add, and 6 deviations of products
    # of 8 entries: 1e-12. The convex loss does not let errors grow; what an order does is larger than 1e-3.
    return evidence & at_most(worst, 1e-12, "largest sensitivity")


# --- single steps ---


def two_orders(step: Gradients, first: Any) -> tuple[Any, Any]:
    """The weights after demonstrations 0, 1 and after 1, 0, one step of size eta each."""
    after = [next(training_epochs(first, step, np.array(order), sgd(ETA), 1)) for order in ((0, 1), (1, 0))]
    return after[0], after[1]


@claim(
    "order_sensitivity/O8",
    title="What exchanging two steps of SGD changes",
    source="derived (Section 4: SGD depends on the order)",
    statement=r"w_{ab}-w_{ba}=\eta^2(H_bg_a-H_ag_b)=\eta^2(x_a^\top x_b)\,"
    r"[x_a(y_b-x_b^\top w)-x_b(y_a-x_a^\top w)]",
    method="symbolic",
    scope="squared error, all numbers of inputs (blocks); again by entries at 3 inputs",
    control=[
        Control("eta in place of its square", power=1),
        Control("the orders exchanged", sign=-1),
    ],
)
def exchanged_steps(power: int = 2, sign: int = 1) -> Evidence:
    # Rows are demonstrations: w is a row block, x_a and x_b are rows.
    w, a, b = block("w"), block("a"), block("b")
    y = [block("y_a"), block("y_b")]

    row, row_a, row_b, y_a, y_b = (blocks([[entry]]) for entry in (w, a, b, *y))
    # The inner product of the two rows, a number, stands between the residual and the row.
    residual_a, residual_b = y_a - row @ transpose(row_a), y_b - row @ transpose(row_b)
    expected = residual_b @ row_b @ transpose(row_a) @ row_a - residual_a @ row_a @ transpose(row_b) @ row_b
    step = squared_error_gradients(blocks([[a], [b]]), blocks([[sympy.transpose(v)] for v in y]))
    first, second = two_orders(step, row)
    all_sizes = sign * (first - second) - ETA**power * expected

    inputs, targets, weights = array("x", (2, 3)), array("y", (2, 1)), array("w", (1, 3))
    first, second = two_orders(squared_error_gradients(inputs, targets), weights)
    x_a, x_b, (y_a, y_b) = inputs[0], inputs[1], targets[:, 0]
    bracket = x_a * (y_b - x_b @ weights[0]) - x_b * (y_a - x_a @ weights[0])
    entries = sign * (first - second)[0] - ETA**power * (x_a @ x_b) * bracket
    return vanishes(all_sizes, "all sizes") & vanishes(entries, "entries")


def all_pairs(weights: Array, inputs: Array, labels: Any, orders: Any) -> Array:
    """The sum over all pairs, whichever comes first."""
    return order_dependent_term(weights, inputs, labels, orders) + order_dependent_term(
        weights, inputs, labels, orders[..., ::-1]
    )


RATES = np.array([0.02, 0.01, 0.005])


@claim(
    "order_sensitivity/O9",
    title="One epoch of batch-1 SGD has a sensitivity of c eta^2, with c explicit",
    source="derived (Section 4)",
    statement=r"W_\pi=W_0-\eta\sum_ig_i+\eta^2\sum_{a\text{ before }b}H_bg_a+O(\eta^3),\quad\mathrm{Sen}=c\,\eta^2+"
    r"O(\eta^3)",
    method="symbolic",
    scope="the expansion for all numbers of demonstrations by induction over steps (blocks, any loss to second order), "
    "and by entries for softmax regression at 2 classes, 1 input, 3 demonstrations in two orders; 20 draws of 8 "
    "demonstrations: slope over eta = .02, .01, .005, and Sen/eta^2 against c at .001",
    uses=["order_sensitivity/O8"],
    control=Control("the sum over all pairs, whichever comes first", term=all_pairs),
)
def sensitivity_of_small_steps(rng: np.random.Generator, term: Callable[..., Array] = order_dependent_term) -> Evidence:
    # After some steps W = W0 - eta G + eta^2 Q + O(eta^3), with one loss more: gradient g + (W - W0) H on rows.
    start, gradient, hessian, total, term_block = (block(name) for name in ("W", "g", "H", "G", "Q"))

    def next_loss(weights: Any, rows: Any) -> tuple[None, Any]:
        return None, blocks([[gradient + (weights[0, 0] - start) * hessian]])

    def left(total: Any, term_block: Any) -> list[Any]:
        now = blocks([[start - ETA * total + ETA**2 * term_block]])
        after = sympy.expand(next(training_epochs(now, next_loss, np.array([0]), sgd(ETA)))[0, 0])
        return [after.coeff(ETA, 1) + total + gradient, after.coeff(ETA, 2) - term_block - total * hessian]

    inputs, labels = array("x", (3, 1)), np.array([0, 1, 1])
    zero = np.zeros((2, 1), dtype=int).astype(object)
    entries = []
    for order in ((0, 1, 2), (2, 0, 1)):
        orders = np.array(order)
        weights = next(regression_epochs(zero, inputs, labels, orders, sgd(ETA), 1))
        second = [sympy.diff(w, ETA, 2).subs(ETA, 0) / 2 for w in weights.flat]
        entries.append(np.array(second) - term(zero, inputs, labels, orders).reshape(-1))

    data = [setting(rng) for _ in range(20)]
    found = [regression_sensitivities(data, rate, 1, 1, "sgd") for rate in RATES]
    slopes = np.polyfit(np.log(RATES), np.log(found), 1)[0]
    apart = []
    smallest = regression_sensitivities(data, 0.001, 1, 1, "sgd")
    for (inputs, labels, orders, tests), least in zip(data, smallest, strict=True):
        change = term(ZERO, inputs, labels, orders)
        flat = np.full(CLASSES, 1 / CLASSES)
        shifts = (tests @ transpose(change)) @ (np.diag(flat) - np.outer(flat, flat))
        c = shifts.std(axis=0).sum() / len(tests)
        apart.append(abs(least / 1e-6 - c) / max(c, 1e-300))
    return (
        induction(vanishes(left(0, 0), "the first"), vanishes(left(total, term_block), "one demonstration more"))
        & vanishes(entries, "second derivative less the term")
        & within(float(min(slopes)), 1.9, 2.1, "least slope")
        & within(float(max(slopes)), 1.9, 2.1, "largest slope")
        & at_most(max(apart), 0.01, "Sen/eta^2 less c, over c")
    )


# --- batch sizes ---

BATCHES = (1, 2, 4, 8)
DRAWS = 40


def common_rate(batch: int) -> float:
    return 0.1


def matched_rate(batch: int) -> float:
    """The rate at which an epoch moves the weights alike, whatever its number of steps."""
    return 0.05 * batch


@claim(
    "order_sensitivity/O10",
    title="At a common learning rate larger batches are less sensitive; at matched movement they are not, until full",
    source="Section 4 (SGD of batch size 1, 2, 4)",
    statement=r"\eta=0.1:\ \mathrm{Sen}_1>\mathrm{Sen}_2>\mathrm{Sen}_4>\mathrm{Sen}_8=0;\quad"
    r"\eta\propto\text{batch}:\ \mathrm{Sen}_1\approx\mathrm{Sen}_2\approx\mathrm{Sen}_4",
    method="experiment",
    scope="softmax regression, 6 classes, 8 inputs, 8 demonstrations, 10 orders, 40 draws; 20 epochs at rate 0.1, 5 "
    "epochs at 0.05 times the batch: means with their intervals. The drop that the paper sees is that larger batches "
    "step less often; only the full batch is special",
    control=Control("rates in proportion to the batch where they should be common", rate=matched_rate),
)
def larger_batches_are_less_sensitive(rng: np.random.Generator, rate: Callable[[int], float] = common_rate) -> Evidence:
    data = [setting(rng) for _ in range(DRAWS)]

    def found(rate: Callable[[int], float], epochs: int) -> Array:
        return np.array([regression_sensitivities(data, rate(b), epochs, b, "sgd") for b in BATCHES]).T

    common, matched = found(rate, 20), found(matched_rate, 5)
    evidence = Evidence(())
    for place in range(2):
        drop = np.log(common[:, place] / common[:, place + 1])
        evidence &= lies_above(mean_interval(drop), 0.1, f"log Sen, batch {BATCHES[place]} less {BATCHES[place + 1]}:")
        flat = mean_interval(np.log(matched[:, place] / matched[:, place + 1]))
        evidence &= lies_below(flat, 0.35, "matched:") & lies_above(flat, -0.35)
    return evidence & at_most(max(float(common[:, 3].max()), float(matched[:, 3].max())), 1e-13, "full batch")


# --- figures ---


@figure(
    "order_sensitivity/F1",
    title="Order sensitivity over epochs",
    caption="Softmax regression on 8 demonstrations (mean of 10 draws), and as horizontal lines causal attention "
    "stacks with random weights that read them. Full batches stay at 0, small batches rise a little, stacks lie far "
    "above. Random stacks are no pretrained models.",
    answers_to="Figure 4",
)
def sensitivity_by_epoch(rng: np.random.Generator) -> Figure:
    data = [setting(rng) for _ in range(10)]
    inputs, labels, orders, tests = (np.stack(parts) for parts in zip(*data, strict=True))
    learners: dict[str, tuple[Callable[[], Optimizer], int | None]] = {
        "GD": (partial(sgd, 0.1), None),
        "Adam": (partial(adam, 0.05), None),
        "SGD, batch 1": (partial(sgd, 0.1), 1),
        "SGD, batch 2": (partial(sgd, 0.1), 2),
        "SGD, batch 4": (partial(sgd, 0.1), 4),
        "Adam, batch 1": (partial(adam, 0.05), 1),
    }
    epochs = list(range(1, 101))
    curves = []
    for title, (make, batch) in learners.items():
        runs: Iterator[Array] = regression_epochs(ZERO, inputs, labels, orders, make(), batch)
        by_epoch = [
            [float(order_sensitivity(regression_distributions(*one))) for one in zip(weights, tests, strict=True)]
            for weights in islice(runs, len(epochs))
        ]
        curves.append(Series(title, epochs, np.mean(by_epoch, axis=1).tolist()))
    for n_layers in (2, 3):
        found = [
            float(order_sensitivity(icl_distributions(random_attention_stack(n_layers, rng), *one))) for one in data
        ]
        level = float(np.mean(found))
        curves.append(Series(f"{n_layers} causal layers, random", [epochs[0], epochs[-1]], [level, level]))
    return Figure(tuple(curves), "epoch", "Sen", y_scale="linear")


@figure(
    "order_sensitivity/F3",
    title="Sensitivity of one epoch of single steps",
    caption="Sen of three draws against the learning rate, and the explicit c eta^2 of each: slope 2.",
    answers_to="none (derived)",
)
def sensitivity_by_rate(rng: np.random.Generator) -> Figure:
    rates = np.logspace(-3, -0.5, 11)
    parts = []
    for draw in range(3):
        inputs, labels, orders, tests = data = setting(rng)
        c = float(small_step_coefficient(ZERO, inputs, labels, orders, tests))
        found = [regression_sensitivities([data], float(rate), 1, 1, "sgd")[0] for rate in rates]
        parts += [
            Series(f"draw {draw + 1}", rates.tolist(), found, "points"),
            Series(f"$c\\,\\eta^2$, draw {draw + 1}", rates.tolist(), (c * rates**2).tolist()),
        ]
    return Figure(tuple(parts), r"$\eta$", "Sen", x_scale="log", y_scale="log")
