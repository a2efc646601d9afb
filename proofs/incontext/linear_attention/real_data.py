r"""Trained layers on prompts made of real patients."""

from collections.abc import Callable

import numpy as np

from proofs.incontext.linear_attention.runs import HALF_WIDTH, ONE_LAYER, SIZE, errors, trained
from proofs.ledger import Control, Evidence, at_least, at_most, claim, within
from proofs.statistics import lies_below, mean_interval
from refimpl.incontext.linear_attention import (
    LinearAttentionWeights,
    Prompts,
    Response,
    alignment_metrics,
    gradient_descent_response,
    gradient_descent_weights,
    make_prompts,
    optimal_learning_rate,
    train_lsa,
    transformer_response,
)
from refimpl.primitives.least_squares import ridge_weights
from refimpl.primitives.numbers import Array
from refimpl.tasks.linear_regression import RegressionTasks, uniform_moments
from refimpl.tasks.real_data import DIABETES_PATIENTS, diabetes_prompts

CONTEXT = 20
HELD_OUT = 142  # patients whom training never sees, a third
RATES, PENALTIES = np.geomspace(0.02, 2, 41), np.geomspace(0.5, 500, 41)
ON_PATIENTS = ONE_LAYER._replace(n_context=CONTEXT, n_steps=1500, batch_size=256)

Sampler = Callable[[int, np.random.Generator, Array], RegressionTasks]


def signed_prompts(n_tasks: int, rng: np.random.Generator, patients: Array) -> RegressionTasks:
    """Prompts of these patients, in each of which all targets have the same random sign.

    No fixed map from features to targets predicts anything then: the sign must come from the context.
    """
    tasks = diabetes_prompts(n_tasks, CONTEXT, rng, patients)
    signs = rng.choice([-1.0, 1.0], (n_tasks, 1, 1))
    return tasks._replace(y=signs * tasks.y, y_query=signs[..., 0] * tasks.y_query)


def ridge_response(penalty: float, tasks: RegressionTasks) -> Response:
    """Ridge regression on the context of each task."""
    weights = ridge_weights(np.swapaxes(tasks.x, -1, -2), tasks.y[:, 0], penalty)[:, None]
    return Response((weights @ tasks.x_query[..., None])[..., 0], weights)


def trained_on_patients(rng: np.random.Generator, patients: Array, rate: float) -> LinearAttentionWeights:
    """A layer trained on fresh prompts of these patients, in float64."""

    def sample() -> Prompts:
        return make_prompts(signed_prompts(ON_PATIENTS.batch_size, rng, patients).astype(np.float32))

    (layer,), _ = train_lsa(ON_PATIENTS, rng, sample)
    return LinearAttentionWeights(*(matrix.astype(np.float64) for matrix in layer))


def best_step(rng: np.random.Generator, patients: Array, rate: float) -> LinearAttentionWeights:
    """The gradient step at this rate."""
    return gradient_descent_weights(SIZE, 1, rate, CONTEXT)


def trained_on_synthetic_tasks(rng: np.random.Generator) -> LinearAttentionWeights:
    """The layer of LA14 for as many context points as these prompts have."""
    return trained(rng, ONE_LAYER._replace(n_context=CONTEXT)).layers[0]


@claim(
    "linear_attention/LA33",
    title="On real patients a layer trained on synthetic tasks is a gradient step, one trained on patients beats ridge",
    source="ours; Section 3 asks how trained layers transfer",
    statement=r"\mathcal L(\theta_{\mathrm{synthetic}})\in[0.95,1.05]\,\mathcal L(\mathrm{GD});\quad "
    r"\mathcal L(\theta_{\mathrm{real}})<\mathcal L(\mathrm{ridge})<\mathcal L(\mathrm{GD})<\mathcal L(0)",
    method="experiment",
    scope="scikit-learn's diabetes data: 10 standardised features, 20 patients in the context, the targets of a prompt "
    "all of one random sign; rate, penalty and training on prompts of 300 patients, losses on 40000 prompts of the 142 "
    "others (intervals are over prompts of these, not over patients); 1500 Adam steps on batches of 256",
    uses=("linear_attention/LA14", "linear_attention/LA16"),
    requires=("sklearn",),
    control=[
        Control("the best gradient step in place of the layer trained on patients", real_layer=best_step),
        Control("inputs at the variance of the synthetic tasks, not at the best rate's scale", input_scale=12**-0.5),
    ],
)
def trained_layers_on_patients(
    rng: np.random.Generator,
    real_layer: Callable[[np.random.Generator, Array, float], LinearAttentionWeights] = trained_on_patients,
    input_scale: float | None = None,
) -> Evidence:
    order = rng.permutation(DIABETES_PATIENTS)
    held_out, others = order[:HELD_OUT], order[HELD_OUT:]
    known, tasks = signed_prompts(4000, rng, others), signed_prompts(40_000, rng, held_out)

    def loss(response: Response, on: RegressionTasks) -> float:
        return float(errors(response, on).mean())

    rate = min(RATES, key=lambda rate: loss(gradient_descent_response([rate], known), known))
    penalty = min(PENALTIES, key=lambda penalty: loss(ridge_response(penalty, known), known))
    descent, ridge = gradient_descent_response([rate], tasks), ridge_response(penalty, tasks)

    # Inputs times c make of a step at the layer's rate one at c^2 times it.
    layer_rate = optimal_learning_rate(SIZE, CONTEXT, *uniform_moments(HALF_WIDTH))
    scale = input_scale or float(np.sqrt(rate / layer_rate))
    rescaled = tasks._replace(x=scale * tasks.x, x_query=scale * tasks.x_query)
    synthetic = transformer_response([trained_on_synthetic_tasks(rng)], make_prompts(rescaled))
    # What prompts have in common, the correlations of the features, a layer can learn and ridge cannot know.
    real = transformer_response([real_layer(rng, others, float(rate))], make_prompts(tasks))

    zero = float((tasks.y_query**2).mean() / 2)
    gain = mean_interval(errors(real, tasks) - errors(ridge, tasks))
    return (
        within(loss(synthetic, tasks) / loss(descent, tasks), 0.95, 1.05, "synthetic layer's loss over the best step's")
        & at_least(alignment_metrics(synthetic, descent).cosine, 0.99, "their cosine")
        & at_most(loss(descent, tasks) / zero, 0.8, "best step's loss over that of predicting 0")
        & at_most(loss(ridge, tasks) / loss(descent, tasks), 1, "ridge's loss over the best step's")
        & lies_below(gain, 0, "real layer's loss less ridge's")
    )
