r"""Non-linear regression: a learned representation, and gradient descent on top of it (Section 3, A.7)."""

from collections.abc import Callable
from functools import cache

import numpy as np

from proofs.ledger import Control, Evidence, Figure, Series, at_most, claim, figure, run_seed, within
from refimpl.incontext.linear_attention import (
    Prompts,
    SineControl,
    SineNetwork,
    constructed_network,
    control_loss_and_gradients,
    initial_sine_network,
    run,
    sample_sine_prompts,
    sine_loss_and_gradients,
    sine_predict,
    training_steps,
)
from refimpl.primitives.optimizers import adam, chain, clip_by_global_norm
from refimpl.primitives.schedules import cosine_decay
from refimpl.primitives.trees import tree_map

WIDTH, HIDDEN, CONTEXT = 40, 160, 10  # the paper's
AMPLITUDES = (0.1, 5.0)  # the paper's text
STEPS, BATCH, RUNS = 2000, 128, 2

Sampler = Callable[..., Prompts]


def with_another_context(n_tasks: int, *arguments: object) -> Prompts:
    """Prompts whose context belongs to the task before: nothing in it helps."""
    tokens, targets = sample_sine_prompts(n_tasks, *arguments)  # type: ignore[arg-type]
    return Prompts(np.concatenate([np.roll(tokens[:-1], 1, axis=-1), tokens[-1:]]), targets)


@cache
def trained_pair(seed: int, index: int, sample: Sampler) -> tuple[SineNetwork, SineNetwork]:
    """From one start, on the same batches: the network, and the control with its attention held at gradient descent."""
    rng = np.random.default_rng([seed, index])
    start = initial_sine_network(WIDTH, HIDDEN, rng, (0.05, 1.0))
    optimizer = chain(clip_by_global_norm(100), adam(cosine_decay(3e-3, STEPS)))  # the authors' clipping
    data = rng.spawn(1)[0].bit_generator.state  # the same batches for both

    def batches() -> Callable[[], Prompts]:
        own = np.random.default_rng()
        own.bit_generator.state = data
        return lambda: sample(BATCH, CONTEXT, AMPLITUDES, own, np.float32)

    network, _ = run(training_steps(start, sine_loss_and_gradients.unchecked, batches(), optimizer), STEPS)
    begin = SineControl(start.embedding, start.mlp, np.ones((), np.float32))
    control, _ = run(training_steps(begin, control_loss_and_gradients.unchecked, batches(), optimizer), STEPS)
    return network, constructed_network(control, CONTEXT)


def loss(network: SineNetwork, prompts: Prompts) -> float:
    """Half the mean squared error, in float64."""
    wide = tree_map(lambda leaf: leaf.astype(np.float64), network)
    return float(((sine_predict(prompts.tokens, wide) - prompts.targets) ** 2).mean() / 2)


@claim(
    "linear_attention/LA29",
    title="On sine waves a learned attention layer and a gradient step on learned features do equally well",
    source="Section 3, Figure 4; Appendix A.7",
    statement=r"\mathcal L(\mathrm{MLP}+\mathrm{LSA}),\ \mathcal L(\mathrm{MLP}+\mathrm{GD})\le0.2\,\mathcal L(0),"
    r"\quad\text{within a factor 1.6 of each other}",
    method="experiment",
    scope="the paper's network (40 wide, 160 hidden, biases in the MLP), 10 context points, amplitudes from 0.1 to 5, "
    "2 runs of 2000 Adam steps on batches of 128, the worst; 3000 fresh tasks (the paper: 20000 steps on batches of "
    "2048)",
    uses=("linear_attention/LA25",),
    cost="full",
    control=Control("the context belongs to another task, in training and after", sample=with_another_context),
)
def sine_networks_agree(rng: np.random.Generator, sample: Sampler = sample_sine_prompts) -> Evidence:
    prompts = sample(3000, CONTEXT, AMPLITUDES, rng)
    zero = float((prompts.targets**2).mean() / 2)
    pairs = [trained_pair(run_seed(rng), index, sample) for index in range(RUNS)]
    losses = np.array([[loss(network, prompts) for network in pair] for pair in pairs])
    ratios = losses[:, 1] / losses[:, 0]
    return (
        at_most(losses[:, 0].max() / zero, 0.2, "learned layer: loss over that of predicting 0")
        & at_most(losses[:, 1].max() / zero, 0.2, "gradient step: loss over that of predicting 0")
        & within(
            max(ratios, key=lambda ratio: abs(np.log(ratio))), 1 / 1.6, 1.6, "gradient step's loss over the layer's"
        )
    )


@figure(
    "linear_attention/F6",
    title="A sine wave completed from ten points",
    caption="The context of one task, the wave behind it, and what the network with a learned attention layer and the "
    "one with a gradient step predict at every query, after 2000 steps of training.",
    answers_to="Figure 4",
    cost="full",
)
def completed_wave(rng: np.random.Generator) -> Figure:
    amplitude, phase = 3.0, 1.0
    context, queries = rng.uniform(-5, 5, CONTEXT), np.linspace(-5, 5, 81)
    tokens = np.zeros((CONTEXT + 1, 2, len(queries)))
    tokens[:-1, 0] = context[:, None]
    tokens[:-1, 1] = amplitude * np.sin(context + phase)[:, None]
    tokens[-1, 0] = queries
    network, control = (
        tree_map(lambda leaf: leaf.astype(np.float64), one)
        for one in trained_pair(run_seed(rng), 0, sample_sine_prompts)
    )
    x = list(queries)
    return Figure(
        (
            Series("the wave", x, list(amplitude * np.sin(queries + phase))),
            Series("context", list(context), list(tokens[:-1, 1, 0]), "points"),
            Series("learned attention layer", x, list(sine_predict(tokens, network)[0])),
            Series("gradient step", x, list(sine_predict(tokens, control)[0])),
        ),
        x_label="$x$",
        y_label="$y$",
    )
