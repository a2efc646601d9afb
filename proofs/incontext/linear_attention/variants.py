r"""Trained variants of the layer: softmax heads, two linear heads, layer normalisation (A.9, A.11)."""

from collections.abc import Callable
from functools import cache

import numpy as np

from proofs.incontext.linear_attention.runs import (
    BEST_RATE,
    HALF_WIDTH,
    ONE_LAYER,
    SIZE,
    errors,
    fresh_tasks,
)
from proofs.ledger import Control, Evidence, at_least, at_most, claim, run_seed, within
from proofs.statistics import lies_above, lies_below, mean_interval, proportion_interval
from refimpl.incontext.linear_attention import (
    LinearAttentionWeights,
    NormedLayer,
    Prompts,
    Response,
    centred,
    code_deviation,
    evaluation_loss,
    gradient_descent_response,
    initial_weights,
    loss_and_gradients,
    make_prompts,
    meta_optimizer,
    normed_loss_and_gradients,
    normed_predict,
    one_step_population_loss,
    predict,
    run,
    softmax_loss_and_gradients,
    softmax_predict,
    training_steps,
)
from refimpl.primitives.numbers import Array
from refimpl.primitives.optimizers import adam
from refimpl.primitives.trees import tree_map
from refimpl.tasks.linear_regression import RegressionTasks, sample_linear_tasks, uniform_moments

RUNS = 3
TOKEN_SIZE = SIZE + 1
# A rate and an initialisation at which no variant stays on a plateau for long.
VARIANT = ONE_LAYER._replace(learning_rate=1e-2, n_steps=3000, standard_deviation=0.5)


def batches(n_tasks: int, rng: np.random.Generator) -> Callable[[], Prompts]:
    """What returns a batch of fresh prompts in float32."""
    return lambda: make_prompts(sample_linear_tasks(n_tasks, SIZE, SIZE, HALF_WIDTH, 1.0, rng, dtype=np.float32))


def response(prediction: Array) -> Response:
    """A prediction, tasks last, as a response of which nothing else is asked."""
    return Response(prediction.T, np.empty((prediction.shape[-1], 0)))


# --- softmax heads ---


@cache
def softmax_heads(seed: int, n_heads: int, index: int) -> LinearAttentionWeights:
    """A trained layer of softmax heads, in float64."""
    rng = np.random.default_rng([seed, n_heads, index])
    start = initial_weights(TOKEN_SIZE, n_heads, 0.5, rng, np.float32)
    steps = training_steps(
        start, softmax_loss_and_gradients.unchecked, batches(VARIANT.batch_size, rng), meta_optimizer(VARIANT)
    )
    weights, _ = run(steps, VARIANT.n_steps)
    return tree_map(lambda matrix: matrix.astype(np.float64), weights)


@claim(
    "linear_attention/LA23",
    title="One softmax head stays far from gradient descent, two come close to it",
    source="Appendix A.9, Figures 11 and 12",
    statement=r"\mathcal L(1\text{ head})\ge1.3\,\mathcal L(\mathrm{GD}),\quad "
    r"\mathcal L(2\text{ heads})\le1.07\,\mathcal L(\mathrm{GD})",
    method="experiment",
    scope="10 inputs and 10 context points; 3 runs each of 3000 Adam steps on batches of 512; the best run with "
    "one head, the worst with two; 10000 fresh tasks shared with gradient descent, and with gradient descent on "
    "centred data at its best rate",
    uses=("linear_attention/LA22",),
    cost="full",
    control=Control("one head in place of two and two in place of one", heads=(2, 1)),
)
def two_softmax_heads_come_close(rng: np.random.Generator, heads: tuple[int, int] = (1, 2)) -> Evidence:
    tasks = fresh_tasks(rng)
    prompts = make_prompts(tasks)
    descent = gradient_descent_response([BEST_RATE], tasks)
    losses = [
        [
            evaluation_loss(response(softmax_predict(prompts.tokens, softmax_heads(run_seed(rng), n, index), 1)), tasks)
            for index in range(RUNS)
        ]
        for n in heads
    ]
    one, two = np.array(losses) / evaluation_loss(descent, tasks)
    middle = tasks._replace(x=centred(tasks.x), y=centred(tasks.y))
    centred_loss = min(
        evaluation_loss(gradient_descent_response([rate], middle), tasks) for rate in np.arange(5.0, 9.0, 0.25)
    )
    return (
        at_least(one.min(), 1.3, "one head, best run: loss over GD's")
        & at_most(two.max(), 1.07, "two heads, worst run: loss over GD's")
        & at_most(two.max() * evaluation_loss(descent, tasks) / centred_loss, 1.01, "two heads: loss over centred GD's")
    )


# --- linear heads and layer normalisation ---

PAIRS, PATIENCE, TARGET, WINDOW = 150, 800, 0.26, 50


@cache
def arrival(seed: int, n_heads: int, index: int) -> tuple[int, float]:
    """Steps until the running loss is below the target (the patience, if it never is), and the loss of the end."""
    rng = np.random.default_rng([seed, n_heads, index])
    start = [initial_weights(TOKEN_SIZE, n_heads, code_deviation(1, TOKEN_SIZE), rng, np.float32)]
    _, losses = run(training_steps(start, loss_and_gradients.unchecked, batches(128, rng), adam(1e-3)), PATIENCE)
    running = np.convolve(losses, np.full(WINDOW, 1 / WINDOW), "valid")
    below = np.flatnonzero(running < TARGET)
    return (int(below[0]) + WINDOW if len(below) else PATIENCE), float(losses[-WINDOW * 4 :].mean())


def plateau_loss(n_heads: int) -> float:
    r"""The loss of a layer whose keys read $y$ and whose values read $x$: with each head it descends in one direction.

    Such a head predicts $\eta\,(b^\top x_q)\,\frac1N\sum_n(a^\top x_n)y_n$: the gradient step in one of the $N_x$
    directions, and so one $N_x$-th of its gain.
    """
    moments = uniform_moments(HALF_WIDTH)
    zero = SIZE * moments[0]
    gain = zero - one_step_population_loss(BEST_RATE, SIZE, SIZE, *moments)
    return float(zero - n_heads * gain / SIZE) / 2


@cache
def normed_layer(seed: int, index: int) -> NormedLayer:
    """A trained layer with layer normalisation, in float64."""
    rng = np.random.default_rng([seed, index])
    ones = np.ones(TOKEN_SIZE, np.float32)
    start = NormedLayer(ones, 0 * ones, initial_weights(TOKEN_SIZE, 1, 0.2, rng, np.float32))
    steps = training_steps(
        start, normed_loss_and_gradients.unchecked, batches(VARIANT.batch_size, rng), meta_optimizer(VARIANT)
    )
    layer, _ = run(steps, VARIANT.n_steps)
    return tree_map(lambda leaf: leaf.astype(np.float64), layer)


@cache
def plain_layer(seed: int, index: int) -> LinearAttentionWeights:
    """The same without the normalisation."""
    rng = np.random.default_rng([seed, index])
    start = [initial_weights(TOKEN_SIZE, 1, 0.2, rng, np.float32)]
    steps = training_steps(
        start, loss_and_gradients.unchecked, batches(VARIANT.batch_size, rng), meta_optimizer(VARIANT)
    )
    (layer,), _ = run(steps, VARIANT.n_steps)
    return tree_map(lambda leaf: leaf.astype(np.float64), layer)


def normed_errors(seed: int, index: int, tasks: RegressionTasks) -> Array:
    prompts = make_prompts(tasks)
    return errors(response(normed_predict(prompts.tokens, normed_layer(seed, index), 1)), tasks)


def plain_errors(seed: int, index: int, tasks: RegressionTasks) -> Array:
    prompts = make_prompts(tasks)
    return errors(response(predict(prompts.tokens, [plain_layer(seed, index)], 1)), tasks)


@claim(
    "linear_attention/LA30",
    title="Two linear heads train faster and more evenly than one; layer normalisation hurts",
    source="Appendix A.11, Figure 15; Appendix A.9, Figure 14",
    statement=r"\Pr[T_2<T_1]>\tfrac12;\quad\text{plateau at }\tfrac12\mu_2N_x-\tfrac1{N_x}"
    r"\big(\tfrac12\mu_2N_x-\mathcal L(\mathrm{GD})\big);\quad "
    r"\mathcal L(\text{LayerNorm})\ge1.1\,\mathcal L(\mathrm{GD})",
    method="experiment",
    scope="10 inputs and 10 context points. Heads: 150 pairs of runs of at most 800 Adam steps at rate 0.001 on "
    "batches of 128 from the code's initialisation, T the steps until the running loss is below 0.26. Normalisation: "
    "3 runs of 3000 steps, the best, on 10000 fresh tasks shared with gradient descent",
    uses=("linear_attention/LA12", "linear_attention/LA14"),
    cost="full",
    control=[
        Control("one head in place of the two", heads=(1, 1)),
        Control("no layer normalisation", with_norm=plain_errors),
    ],
)
def heads_help_and_normalisation_hurts(
    rng: np.random.Generator,
    heads: tuple[int, int] = (1, 2),
    with_norm: Callable[[int, int, RegressionTasks], Array] = normed_errors,
) -> Evidence:
    seed = run_seed(rng)
    # Disjoint indices, so that one head against one head is not a run against itself.
    one, two = (
        [arrival(seed, n_heads, 2 * index + side) for index in range(PAIRS)] for side, n_heads in enumerate(heads)
    )
    first = sum(b[0] < a[0] for a, b in zip(one, two, strict=True))
    stuck = [[loss for steps, loss in runs if steps == PATIENCE] for runs in (one, two)]
    evidence = lies_above(proportion_interval(first, PAIRS), 0.5, "pairs in which two heads are faster")
    evidence &= at_least(len(stuck[0]) - len(stuck[1]), 0, "runs on the plateau: with one head more than with two by")
    # Each loss averages 25600 tasks, whose squared errors have a standard deviation of about 1.7 of their mean: 1%.
    evidence &= within(
        float(np.mean(stuck[0])) / plateau_loss(1), 0.97, 1.03, "loss on the plateau over that of a rank-one layer"
    )

    tasks = fresh_tasks(rng)
    descent = errors(gradient_descent_response([BEST_RATE], tasks), tasks)
    normed = min((with_norm(seed, index, tasks) for index in range(RUNS)), key=np.mean)
    evidence &= at_least(normed.mean() / descent.mean(), 1.1, "layer normalisation, best run: loss over GD's")
    return evidence & lies_below(mean_interval(1.1 * descent - normed), 0, "1.1 of GD's loss less that")
