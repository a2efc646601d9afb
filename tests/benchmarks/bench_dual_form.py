"""A training step of the small transformers, with attention and with momentum of values, beside jitted JAX, in float64.

``python -m tests.benchmarks.bench_dual_form``. To reach: never slower by more than a tenth. Ours leaves the last
perceptron out where nothing is read; beside JAX that does so too (in parentheses) it is not judged.
"""

import sys

from tests.benchmarks.jax_transformer import compare_training_steps, cross_entropy, hidden_states, token_loss
from tests.benchmarks.side_by_side import header, pin_to_one_core, verdict

import numpy as np  # isort: skip

from refimpl.incontext.dual_form import (
    candidate_loss_and_gradient,
    momentum_attend,
    sample_shot_tasks,
    shot_prompts,
)
from refimpl.primitives.language_model import initial_language_model, token_loss_and_gradients
from refimpl.primitives.memory import keep_freed_memory


def main() -> int:
    pin_to_one_core()
    keep_freed_memory()
    rng = np.random.default_rng(0)
    header()
    ratios = []
    for eta in (0.0, 0.5):
        model = initial_language_model(85, 32, 64, 2, 2, rng, tied=True)
        batch = rng.integers(85, size=(16, 33))
        tokens, targets = batch[:, :-1], batch[:, 1:]
        arguments = () if eta == 0 else (momentum_attend(eta),)
        ratios.append(
            compare_training_steps(
                f"characters, width 64, 16 x 32 tokens, eta = {eta}",
                model,
                lambda model, a=arguments, t=tokens, y=targets: token_loss_and_gradients(model, t, y, None, *a),
                lambda p, t, y, eta=eta: token_loss(p, t, y, slice(None), eta),
                (tokens, targets),
            )
        )
    for n_prompts, n_parts in ((64, 2), (64, 4)):
        model = initial_language_model(11, 12 * (n_parts + 1), 32, 2, 2, rng, tied=True)
        tasks = sample_shot_tasks(n_prompts, 1, 12, rng)
        prompts = shot_prompts(tasks.queries, tasks.targets, 3, n_parts)
        for early in (False, True):
            name = f"shots, width 32, {n_prompts} x {prompts.tokens.shape[1]} tokens"

            def loss(p, t, y, at=prompts.at, early=early):  # type: ignore[no-untyped-def]
                embeddings = t @ p.embedding
                hidden = hidden_states(p, embeddings, at=at) if early else hidden_states(p, embeddings)[:, at]
                return cross_entropy(hidden @ p.embedding[-3:].T, y)

            ratio = compare_training_steps(
                f"({name}, labels early)" if early else name,
                model,
                lambda model, prompts=prompts: candidate_loss_and_gradient(model, prompts, 3),
                loss,
                (prompts.tokens, prompts.labels),
            )
            if not early:
                ratios.append(ratio)
    return verdict(ratios)


if __name__ == "__main__":
    sys.exit(main())
