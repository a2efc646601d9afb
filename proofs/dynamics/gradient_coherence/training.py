"""Coherence and accuracy over training on the bundled digits, with real, random and noisy labels (G14 to G16)."""

from collections.abc import Callable

import numpy as np

from proofs.ledger import Control, Evidence, Figure, Series, at_least, at_most, claim, figure
from refimpl.dynamics.gradient_coherence import (
    Accuracies,
    batch_rule,
    coherence_curve,
    median_rule,
    rolling_median_rule,
    sample_digits,
    training_accuracies,
    winsorized_rule,
)
from refimpl.dynamics.gradient_coherence.networks import Rule
from refimpl.primitives.numbers import Array

EARLY = (0, 2, 3, 4, 5, 6, 7, 8)
LATE = tuple(range(36, 201, 4))


def coherences(rng: np.random.Generator, redrawn: float, epochs: tuple[int, ...], n_seeds: int) -> Array:
    """m-coherence of 400 digits at these epochs, of each seed."""
    return np.array(
        [coherence_curve(sample_digits(400, redrawn, one), 0.2, 25, epochs, one) for one in rng.spawn(n_seeds)]
    )


@claim(
    "gradient_coherence/G14",
    title="With real labels coherence starts high and falls; with random ones it is low, and rises in memorisation",
    source="Figures of coherence on real and random labels",
    statement=r"m\alpha_{real}(2)>3,\ m\alpha_{real}(64)<3,\quad\overline{m\alpha}_{random}(2..8)<\tfrac32,\quad"
    r"\max_{t>32}m\alpha_{random}(t)>5",
    method="experiment",
    scope="400 digits, a ReLU network of 64 hidden units, batches of 25, rate .2, 200 epochs, 4 seeds averaged; the "
    "paper has deep networks on MNIST, CIFAR and ImageNet",
    requires=["sklearn"],
    control=[
        Control("random labels as the real ones", redrawn_real=1.0),
        Control("real labels as the random ones", redrawn_random=0.0),
    ],
)
def coherence_over_training(
    rng: np.random.Generator, redrawn_real: float = 0.0, redrawn_random: float = 1.0
) -> Evidence:
    real = coherences(rng, redrawn_real, (2, 64), 4)
    random = coherences(rng, redrawn_random, EARLY[1:] + LATE, 4)
    n_early = len(EARLY) - 1
    return (
        at_least(float(real[:, 0].mean()), 3, "real: epoch 2")
        & at_most(float(real[:, 1].mean()), 3, "epoch 64")
        & at_most(float(random[:, :n_early].mean()), 1.5, "random: mean of epochs 2 to 8")
        & at_least(float(random[:, n_early:].max(axis=1).mean()), 5, "largest after epoch 32")
    )


def noisy(rng: np.random.Generator, rule: Rule, n_train: int, redrawn: float, n_seeds: int) -> list[Accuracies]:
    """Of each seed: 150 epochs in batches of 50 at a rate of .3."""
    return [
        training_accuracies(sample_digits(n_train, redrawn, one), rule, 0.3, 50, 150, one) for one in rng.spawn(n_seeds)
    ]


@claim(
    "gradient_coherence/G15",
    title="With half the labels drawn anew the clean examples are learned long before the corrupted, and test accuracy "
    "peaks early",
    source="Easy and hard examples; early stopping",
    statement=r"\mathrm{clean}(8)>.8,\quad\mathrm{corrupted}(8)<.2,\quad\max\mathrm{test}-\overline{\mathrm{test}}_{"
    r"131..150}>.15",
    method="experiment",
    scope="1000 digits, a ReLU network of 64 hidden units, batches of 50, rate .3, 150 epochs, 3 seeds "
    "averaged; corrupted are the about 45% whose label changed, their accuracy is against the wrong label",
    requires=["sklearn"],
    control=Control("no label drawn anew", redrawn=0.0),
)
def clean_before_corrupted(rng: np.random.Generator, redrawn: float = 0.5) -> Evidence:
    runs = noisy(rng, batch_rule, 1000, redrawn, 3)
    gaps = [run.test.max() - run.test[-20:].mean() for run in runs]
    evidence = at_least(float(np.mean(gaps)), 0.15, "best test accuracy less the last 20 epochs'")
    evidence &= at_least(float(np.mean([run.clean[7] for run in runs])), 0.8, "epoch 8: clean")
    if redrawn:
        evidence &= at_most(float(np.mean([run.corrupted[7] for run in runs])), 0.2, "corrupted")
    return evidence


LEVELS = (0.0, 0.02, 0.06, 0.12)


def plain_mean(level: float) -> Rule:
    return batch_rule


@claim(
    "gradient_coherence/G16",
    title="Winsorised gradients suppress memorisation, the more the higher the level; M3 and RM3 some of it",
    source="Suppression experiments",
    statement=r"\mathrm{corrupted}(c)\text{ falls over }c\in\{0,.02,.06,.12\},\quad"
    r"\mathrm{test}(.12)-\mathrm{test}(0)\ge.1,\quad\mathrm{corrupted}_{M3},\mathrm{corrupted}_{RM3}<"
    r"\mathrm{corrupted}_{SGD}",
    method="experiment",
    scope="400 digits, half the labels drawn anew, a ReLU network of 64 hidden units, batches of 50 (48 for "
    "M3), rate .3, "
    "150 epochs, means of the last 20, 3 seeds averaged",
    cost="full",
    requires=["sklearn"],
    control=Control("the plain mean at every level", winsorized=plain_mean),
)
def suppression(rng: np.random.Generator, winsorized: Callable[[float], Rule] = winsorized_rule) -> Evidence:
    seed = int(rng.integers(2**32))

    def final(rule: Rule) -> tuple[float, float]:
        # The same data, starts and orders of examples under every rule.
        runs = noisy(np.random.default_rng(seed), rule, 400, 0.5, 3)
        corrupted, test = ([getattr(run, name)[-20:].mean() for run in runs] for name in ("corrupted", "test"))
        return float(np.mean(corrupted)), float(np.mean(test))

    by_level = [final(winsorized(level) if level else batch_rule) for level in LEVELS]
    corrupted = [one for one, _ in by_level]
    evidence = at_most(float(np.max(np.diff(corrupted))), -0.01, "corrupted accuracy from level to level, at most")
    evidence &= at_most(corrupted[-1], 0.2, "corrupted at level .12")
    evidence &= at_least(by_level[-1][1] - by_level[0][1], 0.1, "gain of test accuracy at level .12")
    for name, rule in (("M3", median_rule), ("RM3", rolling_median_rule)):
        evidence &= at_most(final(rule)[0] - corrupted[0], -0.01, f"{name}: corrupted less SGD's")
    return evidence


@figure(
    "gradient_coherence/F1",
    title="m-coherence over training",
    caption="With real labels it starts above 1 and falls as examples are fitted. With random labels it is "
    "about 1 until "
    "memorisation begins, in which it rises far above 1.",
    answers_to="the figures of coherence on real and random labels",
)
def coherence_curves(rng: np.random.Generator) -> Figure:
    epochs = (*range(16), *range(16, 201, 4))
    named = {"real labels": 0.0, "random labels": 1.0}
    parts = [Series(name, epochs, coherences(rng, redrawn, epochs, 1)[0].tolist()) for name, redrawn in named.items()]
    one = Series("orthogonal gradients", [0, 200], [1, 1])
    return Figure((*parts, one), "epoch", r"m-coherence $m\alpha$", y_scale="log")


@figure(
    "gradient_coherence/F2",
    title="Accuracy over training with half the labels drawn anew",
    caption="Under SGD clean examples come first, then the corrupted ones are memorised and test accuracy falls. "
    "Winsorised at 12% the corrupted ones are not, and test accuracy stays.",
    answers_to="the suppression experiments",
    cost="full",
)
def accuracy_curves(rng: np.random.Generator) -> Figure:
    epochs = list(range(1, 151))
    parts, seed = [], int(rng.integers(2**32))
    for name, rule in (("SGD", batch_rule), ("winsorised, 12%", winsorized_rule(0.12))):
        (run,) = noisy(np.random.default_rng(seed), rule, 400, 0.5, 1)
        parts += [Series(f"{name}: {part}", epochs, getattr(run, part).tolist()) for part in run._fields]
    return Figure(tuple(parts), "epoch", "accuracy")


@figure(
    "gradient_coherence/F8",
    title="Final accuracies against the level",
    caption="Corrupted accuracy falls with the level, test accuracy rises.",
    answers_to="the suppression experiments",
    cost="full",
)
def final_accuracies(rng: np.random.Generator) -> Figure:
    seed = int(rng.integers(2**32))
    levels = (0.0, 0.02, 0.04, 0.06, 0.08, 0.12, 0.16)
    runs = [noisy(np.random.default_rng(seed), winsorized_rule(level), 400, 0.5, 1)[0] for level in levels]
    return Figure(
        tuple(
            Series(name, levels, [float(getattr(run, name)[-20:].mean()) for run in runs], "points")
            for name in Accuracies._fields
        ),
        "level $c$",
        "accuracy, mean of the last 20 epochs",
    )
