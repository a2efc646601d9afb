r"""Several layers: GD++ at its best scalars, and what trained looped transformers make of depth (Section 3, A.10)."""

from collections.abc import Callable

import numpy as np

from proofs.incontext.linear_attention.runs import (
    BEST_RATE,
    HALF_WIDTH,
    ONE_LAYER,
    SIZE,
    errors,
    fresh_tasks,
    trained,
)
from proofs.ledger import Control, Evidence, Figure, Series, at_least, at_most, claim, figure, within
from proofs.statistics import lies_below, mean_interval
from refimpl.incontext.linear_attention import (
    FittedScalars,
    LinearAttentionWeights,
    MetaTraining,
    alignment_metrics,
    evaluation_loss,
    fit_gd_plus_plus,
    gd_plus_plus_population_loss,
    gd_plus_plus_response,
    gd_plus_plus_weights,
    gradient_descent_response,
    gram_eigenvalues,
    interpolate_weights,
    key_query_scale,
    make_prompts,
    optimal_learning_rate,
    transformer_response,
)
from refimpl.primitives.numbers import Array
from refimpl.tasks.linear_regression import sample_linear_tasks, uniform_moments

FIT_TASKS = 20_000
BATCHES = 50

# The paper's trained looped two-layer transformers, by number of context points.
PAPER_GAMMAS = {10: 0.179, 25: 0.099, 50: 0.056, 100: 0.029}


def spectra(rng: np.random.Generator, n_context: int = SIZE, half_width: float = HALF_WIDTH) -> Array:
    """Eigenvalues of the inputs' second moments, task by task."""
    return gram_eigenvalues(sample_linear_tasks(FIT_TASKS, SIZE, n_context, half_width, 1.0, rng).x)


def half_losses(eigenvalues: Array, scalars: FittedScalars) -> Array:
    """The paper's loss at these scalars, averaged exactly over teachers and queries, on batches of tasks."""
    schedule = scalars.learning_rates, scalars.gammas
    return np.array(
        [gd_plus_plus_population_loss(batch, *schedule, SIZE) / 2 for batch in np.array_split(eigenvalues, BATCHES)]
    )


# --- GD++ at its best ---


def start_of_the_fit(eigenvalues: Array, n_steps: int, n_context: int, learning_rate: float, *_: bool) -> FittedScalars:
    """What the authors start their fit from, in place of its result."""
    rates = np.full(n_steps, learning_rate)
    return FittedScalars(rates, rates / n_context**2, np.nan)


@claim(
    "linear_attention/LA18",
    title="With two layers or more GD++ is far better than gradient descent, each at its best scalars",
    source="Section 3, Figure 3",
    statement=r"\mathcal L(\mathrm{GD}^{++}_K)\le0.75\,\mathcal L(\mathrm{GD}_K)\ (K=2),\quad\le0.6\ (K=3,5);"
    r"\quad\text{untied scalars better still}",
    method="experiment",
    scope="10 inputs and 10 context points; one rate and one gamma for all layers, fitted on 20000 tasks and judged on "
    "20000 others, averaged exactly over teachers and queries; untied at K = 5, on those of the others whose largest "
    "eigenvalue is not above all fitted ones: beyond them the error of untied layers may grow without bound",
    uses=("linear_attention/LA9",),
    cost="full",
    control=[
        Control("gamma held at 0", plain=True),
        Control("the authors' start of the fit, gamma = rate / N^2, not fitted", fit=start_of_the_fit),
    ],
)
def plus_plus_beats_gradient_descent(
    rng: np.random.Generator, plain: bool = False, fit: Callable[..., FittedScalars] = fit_gd_plus_plus
) -> Evidence:
    fitted_on, judged_on = spectra(rng), spectra(rng)

    evidence = Evidence(())
    for n_steps, ratio in ((2, 0.75), (3, 0.6), (5, 0.6)):
        descent = half_losses(judged_on, fit_gd_plus_plus(fitted_on, n_steps, SIZE, BEST_RATE, plain=True))
        tied = fit(fitted_on, n_steps, SIZE, BEST_RATE, True, plain)
        better = half_losses(judged_on, tied)
        evidence &= at_most(better.mean() / descent.mean(), ratio, f"K = {n_steps}: GD++ over GD")
        evidence &= lies_below(mean_interval(better - ratio * descent), 0, f"K = {n_steps}: GD++ less {ratio} GD")
    # Five different layers make a polynomial of degree 3^5 of an eigenvalue, small only where it was fitted.
    covered = judged_on[judged_on[:, -1] <= fitted_on[:, -1].max()]
    untied = fit(fitted_on, 5, SIZE, BEST_RATE, False, plain)
    gain = mean_interval(half_losses(covered, untied) - half_losses(covered, tied))
    return (
        evidence
        & lies_below(gain, 0, "K = 5: untied less tied GD++")
        & at_least(len(covered) / len(judged_on), 0.999, "share of tasks judged there")
    )


@claim(
    "linear_attention/LA19",
    title="The best curvature scalar of two tied layers is the one that trained transformers find",
    source="Appendix A.10, Figure 13",
    statement=r"\gamma^*(N)\in\{0.179,0.099,0.056,0.029\}\text{ for }N=10,25,50,100",
    method="experiment",
    scope="10 inputs; rate and gamma fitted on 20000 tasks, averaged exactly over teachers and queries; within 5% "
    "of the values that the paper read off trained looped two-layer transformers (seeds differ by 0.3%)",
    uses=("linear_attention/LA9",),
    control=Control("inputs from U(-1, 1), as in the paper's text", half_width=1.0),
)
def best_gamma_is_the_paper_s(rng: np.random.Generator, half_width: float = HALF_WIDTH) -> Evidence:
    second, fourth = uniform_moments(half_width)
    evidence = Evidence(())
    for n_context, seen in PAPER_GAMMAS.items():
        start = optimal_learning_rate(SIZE, n_context, second, fourth)
        scalars = fit_gd_plus_plus(spectra(rng, n_context, half_width), 2, n_context, start, second_moment=second)
        # The paper prints two or three digits: half a unit of the last one is up to 1.7% at N = 100, inside the 5%.
        evidence &= within(float(scalars.gammas[0]), 0.95 * seen, 1.05 * seen, f"N = {n_context}: gamma")
    return evidence


# --- looped transformers ---

TWO_LAYERS = ONE_LAYER._replace(n_layers=2, looped=True, n_steps=4000)


@claim(
    "linear_attention/LA21",
    title="A trained looped two-layer transformer is GD++, not gradient descent",
    source="Section 3, Figure 3 (a); Appendix A.10",
    statement=r"\mathcal L(\theta)\le0.85\,\mathcal L(\mathrm{GD}_2),\ "
    r"\cos(\theta,\mathrm{GD}^{++})>\cos(\theta,\mathrm{GD}),"
    r"\ \beta B_{ii}\approx-\gamma^*\ (i\le N_x),\ \mathcal L(\tfrac{\theta+\theta_{++}}2)\le\mathcal L(\theta)",
    method="experiment",
    scope="10 inputs and 10 context points; 3 runs of 4000 Adam steps on batches of 512, the worst; 10000 fresh tasks "
    "shared with both, a million for the interpolated layer; a run on the plateau of A.11 is started again",
    uses=("linear_attention/LA9", "linear_attention/LA18"),
    cost="full",
    control=Control(
        "a layer trained to be used once", train=lambda rng, settings, index: trained(rng, ONE_LAYER, index).layers * 2
    ),
)
def looped_transformer_is_plus_plus(
    rng: np.random.Generator,
    train: Callable[[np.random.Generator, MetaTraining, int], list[LinearAttentionWeights]] = lambda *run: (
        trained(*run).layers
    ),
) -> Evidence:
    tasks = fresh_tasks(rng)
    prompts = make_prompts(tasks)
    fitted_on = spectra(rng)
    plain, best = (fit_gd_plus_plus(fitted_on, 2, SIZE, BEST_RATE, plain=plain) for plain in (True, False))
    descent = gradient_descent_response(list(plain.learning_rates), tasks)
    plus_plus = gd_plus_plus_response(list(best.learning_rates), list(best.gammas), tasks)
    constructed = gd_plus_plus_weights(SIZE, 1, float(best.learning_rates[0]), float(best.gammas[0]), SIZE)

    stacks = [train(rng, TWO_LAYERS, index) for index in range(3)]
    responses = [transformer_response(layers, prompts) for layers in stacks]
    worst = max(responses, key=lambda response: evaluation_loss(response, tasks))
    cosines = np.array([[alignment_metrics(one, other).cosine for other in (plus_plus, descent)] for one in responses])
    gammas = [-key_query_scale(layer, SIZE) * np.diag(layer.projection_value[0])[:SIZE] for layer, _ in stacks]
    between = [[interpolate_weights(layer, constructed, SIZE)] * 2 for layer, _ in stacks]

    def change() -> Array:
        """What interpolation changes of the errors of 10000 new tasks, mean of the runs."""
        new = fresh_tasks(rng)
        given = make_prompts(new)
        after, before = (
            np.mean([errors(transformer_response(layers, given), new) for layers in some], axis=0)
            for some in (between, stacks)
        )
        return np.asanyarray(after - before)

    # A thousandth of the loss, which ten thousand tasks cannot tell from nothing and a million can.
    changes = np.concatenate([change() for _ in range(100)])
    excess = mean_interval(errors(worst, tasks) - 0.85 * errors(descent, tasks))
    return (
        at_most(evaluation_loss(worst, tasks) / evaluation_loss(descent, tasks), 0.85, "loss over GD's")
        & lies_below(excess, 0, "loss less 0.85 of GD's")
        & at_least(cosines[:, 0].min(), cosines[:, 1].max(), "cosine with GD++, against that with GD")
        & at_least(np.min(gammas), 0, "smallest gamma")
        & at_most(max(np.ptp(one) / abs(one.mean()) for one in gammas), 0.1, "relative spread of gammas")
        & lies_below(mean_interval(changes), 0, "interpolated loss less trained loss, mean of the runs")
    )


@figure(
    "linear_attention/F5",
    title="Trained looped transformers against depth",
    caption="Half the mean squared error on 10000 tasks of looped transformers with one to five layers (4000 Adam "
    "steps), beside gradient descent and GD++ with one rate and one gamma for all layers. With one and two "
    "layers the transformers reach GD++; deeper ones, whose tokens are clipped at 10, are still above it after these "
    "steps, and below gradient descent.",
    answers_to="Figure 3",
    cost="full",
)
def trained_loss_against_depth(rng: np.random.Generator) -> Figure:
    tasks, fitted_on = fresh_tasks(rng), spectra(rng)
    prompts = make_prompts(tasks)
    depths = [1, 2, 3, 4, 5]
    descent, plus_plus, transformer = [], [], []
    for depth in depths:
        plain, best = (fit_gd_plus_plus(fitted_on, depth, SIZE, BEST_RATE, plain=plain) for plain in (True, False))
        descent.append(evaluation_loss(gradient_descent_response(list(plain.learning_rates), tasks), tasks))
        response = gd_plus_plus_response(list(best.learning_rates), list(best.gammas), tasks)
        plus_plus.append(evaluation_loss(response, tasks))
        clip = 10.0 if depth > 2 else None
        run = trained(rng, ONE_LAYER if depth == 1 else TWO_LAYERS._replace(n_layers=depth, token_clip=clip))
        transformer.append(evaluation_loss(transformer_response(run.layers, prompts, clip), tasks))
    return Figure(
        (
            Series("gradient descent", depths, descent),
            Series("GD++", depths, plus_plus),
            Series("trained looped transformer", depths, transformer, "points"),
        ),
        x_label="layers or steps $K$",
        y_label="loss (half the mean squared error)",
        y_scale="log",
    )
