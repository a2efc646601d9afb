"""How many demonstrations gradient descent needs, beside a learner that knows the tasks (Table 1)."""

from collections.abc import Callable
from math import log

import numpy as np

from proofs.ledger import Control, Evidence, at_least, claim, equal
from proofs.statistics import lies_above, mean_interval
from refimpl.incontext.order_sensitivity import (
    LabelTask,
    bayes_label_probabilities,
    draw_maps,
    train_on_demonstrations,
)
from refimpl.incontext.order_sensitivity.language import Integers
from refimpl.primitives.numbers import Array

TASK, N_MAPS, SHOTS = LabelTask(), 64, (1, 2, 4, 8)


def bayes(maps: Integers, inputs: Integers, labels: Integers) -> Array:
    return bayes_label_probabilities(maps, inputs, labels, TASK.separator)


def uninformed(maps: Integers, inputs: Integers, labels: Integers) -> Array:
    """With every map possible: known labels for inputs seen, each label alike for the others."""
    out = np.zeros((TASK.n_inputs, TASK.separator))
    out[:, TASK.n_inputs :] = 1 / TASK.n_labels
    out[inputs] = np.eye(TASK.separator)[labels]
    return out


@claim(
    "order_sensitivity/O17",
    title="Gradient descent needs many times the demonstrations of a learner that knows the tasks",
    source="Table 1 (512 demonstrations against 8)",
    statement=r"\mathrm{acc}_{GD}(N)=1-\tfrac34\big(\tfrac{11}{12}\big)^N<\mathrm{acc}_{Bayes}(N),\quad"
    r"\mathrm{acc}_{GD}(N)\ge\mathrm{acc}_{Bayes}(8)\Rightarrow N\ge5\cdot8",
    method="statistical",
    scope="12 inputs, 4 labels, pools of 64 random maps: softmax regression on one-hot inputs is right on inputs seen "
    "and ties exactly on the others, after 1 and 5 epochs, 40 draws, which gives the closed form; the Bayes learner on "
    "60 pools, 64 contexts each, N = 1, 2, 4, 8, intervals of the mean. At this size the factor is 7, not the paper's "
    "64; the trained language model is not part of this",
    control=Control("a learner for which every map is possible", learner=uninformed),
)
def gradient_descent_needs_more(rng: np.random.Generator, learner: Callable[..., Array] = bayes) -> Evidence:
    n_inputs, n_labels = TASK.n_inputs, TASK.n_labels
    wrong = 0
    for _ in range(40):
        inputs = rng.integers(n_inputs, size=rng.choice(SHOTS))
        labels = rng.integers(n_labels, size=n_inputs)
        shown = np.eye(n_inputs)[inputs]
        for epochs in (1, 5):
            zero = np.zeros((n_labels, n_inputs))
            after = train_on_demonstrations(zero, shown, labels[inputs], np.arange(len(inputs)), 0.1, epochs)
            best = after == after.max(axis=0)
            seen = np.isin(np.arange(n_inputs), inputs)
            expected = np.where(seen, np.arange(n_labels)[:, None] == labels, True)
            wrong += not np.array_equal(best, expected)
    evidence = equal(wrong, 0, "runs whose best labels are not those of inputs seen, and all of the others")
    for n_demos in SHOTS:
        by_pool = []
        for _ in range(60):
            maps = draw_maps(TASK, N_MAPS, rng)
            right = [
                # Of the maps that fit each is as likely: the best label is right as often as it is probable.
                learner(maps, inputs, one[inputs]).max(axis=-1).mean()
                for one, inputs in zip(maps, rng.integers(n_inputs, size=(N_MAPS, n_demos)), strict=True)
            ]
            by_pool.append(float(np.mean(right)))
        interval = mean_interval(by_pool)
        evidence &= lies_above(interval, 1 - 0.75 * (11 / 12) ** n_demos, f"{n_demos} demonstrations: Bayes over GD's")
    needed = log((1 - interval.low) / 0.75) / log(11 / 12)
    return evidence & at_least(needed, 40, "demonstrations that GD needs for Bayes at 8")
