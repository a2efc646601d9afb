r"""What can be read from the layers (Section 5), of the network whose algorithm is known: that of Theorem 2."""

from collections.abc import Callable

import numpy as np

from proofs.ledger import Control, Evidence, Figure, Series, at_least, at_most, claim, figure
from proofs.statistics import FALSE_ALARM, lies_above, mean_interval
from refimpl.incontext.learning_algorithms import (
    Program,
    compile_program,
    encode_prompt,
    execute,
    fit_linear_probe,
    initial_probe,
    position_attention_probe,
    sample_prompts,
    sherman_morrison_listing,
    train_probe,
)
from refimpl.primitives.least_squares import ridge_weights
from refimpl.primitives.numbers import Array

Listing = Callable[[int, int], Program]

RIDGE = 0.5
# Products of Gaussian entries have heavy tails, which epsilon's square multiplies: 10^-3 would do for most draws only.
EPSILON, SCALE = 1e-4, 1e5


def states_and_targets(
    rng: np.random.Generator, listing: Listing, n_tasks: int, n: int, d: int, n_layers: int | None = None
) -> tuple[list[Array], Array, Array]:
    """The hidden states before and after each layer, or so many, the moments $X^T y$ and the weights of ridge."""
    tasks = sample_prompts(n_tasks, n + 1, d, rng)
    x, y = tasks.x[:, :n], tasks.y[:, :n]
    program = listing(d, n)
    states = [encode_prompt(program, x, y, tasks.x[:, n], {"inverse": np.eye(d).reshape(-1) / RIDGE})]
    for layer in compile_program(program, EPSILON, SCALE)[:n_layers]:
        states.append(execute([layer], states[-1]))
    return states, (x * y[..., None]).sum(axis=1), ridge_weights(x, y, RIDGE)


def probe_errors(states: list[Array], target: Array, column: int, n_train: int = 300) -> list[float]:
    """The mean squared error a coordinate, on held-out tasks, of the best linear probe of each state."""
    errors = []
    for hidden in states:
        probe = fit_linear_probe(hidden[:n_train], target[:n_train], column)
        errors.append(float(np.mean((position_attention_probe(hidden[n_train:], probe) - target[n_train:]) ** 2)))
    return errors


def each_from_the_prior(d: int, n: int) -> Program:
    """Examples whose state does not move on to the next."""
    program = sherman_morrison_listing(d, n)
    kept = tuple(step for step in program.instructions if getattr(step, "first", None) != ("inverse", "moment"))
    return program._replace(instructions=(program.instructions[0],) * (n - 1) + kept)


def as_they_are(targets: Array) -> Array:
    return targets


def of_the_next_task(targets: Array) -> Array:
    return np.roll(targets, 1, axis=0)


@claim(
    "learning_algorithms/K16",
    title="Linear probes find the moment and then the weights from the layer on that computes them; perceptrons see "
    "the moment before",
    source="Figure 4",
    statement=r"\text{layer }11n-2\text{ computes the last term of }X^\top y\text{ and layer }11n\text{ the weights}",
    method="experiment",
    scope="the network of Theorem 2, where what is computed is known, at (n, d) = (1, 3), (2, 2), (2, 3), (3, 2), "
    "penalty 1/2, epsilon = 10^-4: errors a coordinate on 100 tasks of the best linear probe of 300 others, in the "
    "column of the last target; a perceptron of 64 units that learns where to attend, 800 steps of Adam on 4000 "
    "tasks of one example of 2 inputs, after the layer that brings x and y together, against the best linear probe on "
    "2000 others, at a false-alarm rate of 10^-6. The 16 layers that the paper trains are out of reach here",
    uses=["learning_algorithms/K6"],
    control=[
        Control("targets of another task", asked=of_the_next_task),
        Control("every example starts from the prior", listing=each_from_the_prior),
        Control("the column before that of the last target", column_back=1),
        Control("a linear probe in place of the perceptron", n_hidden=None),
    ],
)
def two_cliffs(
    rng: np.random.Generator,
    listing: Listing = sherman_morrison_listing,
    asked: Callable[[Array], Array] = as_they_are,
    column_back: int = 0,
    n_hidden: int | None = 64,
) -> Evidence:
    before, after = [], []
    for n, d in ((1, 3), (2, 2), (2, 3), (3, 2)):
        states, *targets = states_and_targets(rng, listing, 400, n, d)
        for target, layer in zip(targets, (11 * n - 2, 11 * n), strict=True):
            errors = probe_errors(states, asked(target), 2 * n - 1 - column_back)
            before += errors[:layer]
            after += errors[layer:]

    states, moment, _ = states_and_targets(rng, sherman_morrison_listing, 6000, 1, 2, n_layers=1)
    hidden, known = states[1], slice(4000)
    start = initial_probe(hidden.shape[-1], hidden.shape[-2], 2, rng, n_hidden)
    perceptron = train_probe(start, hidden[known], moment[known], 800, rng)
    linear = fit_linear_probe(hidden[known], moment[known], 1)
    missed = [
        ((position_attention_probe(hidden[4000:], probe) - moment[4000:]) ** 2).mean(axis=1)
        for probe in (linear, perceptron)
    ]
    gain = mean_interval(missed[0] - 2 * missed[1], FALSE_ALARM)
    return (
        at_least(min(before), 1e-2, "least error before the layers")
        & at_most(max(after), 1e-8, "largest error from the layers on")
        & lies_above(gain, 0, "linear probe's error less twice the perceptron's")
    )


@figure(
    "learning_algorithms/F5",
    title="What a linear probe finds in the layers of the constructed network",
    caption="Errors fall from order one to rounding at the layer that computes the target: the moment at layer 20, the "
    "ridge weights two layers later (two examples of three inputs).",
    answers_to="Figure 4",
)
def probe_error_by_layer(rng: np.random.Generator) -> Figure:
    states, *targets = states_and_targets(rng, sherman_morrison_listing, 400, 2, 3)
    layers = list(range(len(states)))
    return Figure(
        tuple(
            Series(title, layers, probe_errors(states, target, 3), "points")
            for title, target in zip(("moment", "ridge weights"), targets, strict=True)
        ),
        "layer",
        "mean squared error a coordinate",
        y_scale="log",
    )
