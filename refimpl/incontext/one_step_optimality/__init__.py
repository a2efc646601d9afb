r"""One step of gradient descent is provably the optimal in-context learner with one layer of linear self-attention.

Arvind Mahankali, Tatsunori B. Hashimoto, Tengyu Ma. 2023, ICLR 2024. arXiv 2307.03576.

Trained on noisy linear regression with Gaussian inputs and tasks, the global minimum of the population loss of one
linear self-attention layer is one gradient step from zero on the least-squares loss of the prompt, at a rate in closed
form; with correlated inputs it is a preconditioned step, and with nonlinear targets whose law does not change under
rotations still a step on the *linear* loss. The population loss of arbitrary weights is here in closed form too, and so
is what else the landscape has.

Samples are rows, and the prompt ends with the query token $[x_{n+1};0]$, which gives no key and no value.

======================  ========================================  ==================================================
Paper                   Code                                      Shape
======================  ========================================  ==================================================
$d,\ n$                 ``n_inputs, n_context``                   integers >= 1
$X,\ y$                 ``x, y``                                  ``(..., n_context, d)``, ``(..., n_context)``
$x_{n+1},\ y_{n+1}$     ``x_query, y_query``                      ``(..., d)``, ``(...)``
$w$ (here $\theta$)     ``task``                                  ``(..., d)``
$\sigma$                ``noise_std``                             number >= 0
$W_K,W_Q,W_V;\ h$       ``AttentionWeights.key``, ...; ``.head``  ``(d + 1, d + 1)``; ``(d + 1,)``
$w=W_V^\top h=[u;c]$    ``EffectiveWeights.value``                ``(d + 1,)``
$M=[M_1;m^\top]$        ``EffectiveWeights.key_query``            ``(d + 1, d)``
$\Sigma,\ \Sigma_w$     ``cov_x, cov_w``                          ``(d, d)``, the identity if None
$\eta$                  ``learning_rate``                         number >= 0, of the sum of squares
$L(w,M)$                ``population_loss``                       the full square, no 1/2
$\hat w_D$              ``ridge_predict``                         penalty $\sigma^2$
$\phi,\ \kappa$         ``phi, TargetMoments.correlation``        $\mathbb E[g\phi(g)]$
$c_{abk}$               ``weights_tensor``                        ``(d + 1, d + 1, d)``
======================  ========================================  ==================================================

The parts, in the paper's order: :mod:`.model` (Section 2), :mod:`.population` (the loss), :mod:`.optimum` (Theorems 1
and 2), :mod:`.relaxation` (what makes it global), :mod:`.nonlinear` (Theorem 3), :mod:`.landscape` and
:mod:`.training`.
"""

from refimpl.incontext.one_step_optimality.landscape import (
    one_direction_curvature,
    one_direction_gap,
    one_direction_weights,
)
from refimpl.incontext.one_step_optimality.model import (
    AttentionWeights,
    EffectiveWeights,
    effective_weights,
    gd_lsa_parameters,
    lsa_predict,
    lsa_predict_full,
    lsa_predict_full_vjp,
    lsa_predict_vjp,
    on_products,
    preconditioned_lsa_parameters,
)
from refimpl.incontext.one_step_optimality.nonlinear import (
    TargetMoments,
    nonlinear_learning_rate,
    nonlinear_loss,
    sample_single_index_tasks,
    target_moments,
)
from refimpl.incontext.one_step_optimality.optimum import (
    GaussianOptimum,
    bayes_risk_bounds,
    bayes_risk_monte_carlo,
    conditional_bayes_risk,
    optimal_learning_rate,
    optimal_loss,
    preconditioned_optimum,
    ridge_predict,
)
from refimpl.incontext.one_step_optimality.population import (
    best_scale,
    loss_given_task,
    loss_given_task_vjp,
    population_loss,
    population_loss_by_quadrature,
    population_loss_vjp,
    rescaled,
    whiten_parameters,
)
from refimpl.incontext.one_step_optimality.relaxation import (
    RelaxedFit,
    TensorBlocks,
    cubic_features,
    relaxed_least_squares,
    rotate_tensor,
    signed_permutations,
    symmetrised,
    tensor_blocks,
    weights_tensor,
)
from refimpl.incontext.one_step_optimality.training import (
    PopulationTraining,
    SampleTraining,
    balanced,
    random_weights,
    train_on_population_loss,
    train_on_tasks,
)

__all__ = [
    "AttentionWeights",
    "EffectiveWeights",
    "GaussianOptimum",
    "PopulationTraining",
    "RelaxedFit",
    "SampleTraining",
    "TargetMoments",
    "TensorBlocks",
    "balanced",
    "bayes_risk_bounds",
    "bayes_risk_monte_carlo",
    "best_scale",
    "conditional_bayes_risk",
    "cubic_features",
    "effective_weights",
    "gd_lsa_parameters",
    "loss_given_task",
    "loss_given_task_vjp",
    "lsa_predict",
    "lsa_predict_full",
    "lsa_predict_full_vjp",
    "lsa_predict_vjp",
    "nonlinear_learning_rate",
    "nonlinear_loss",
    "on_products",
    "one_direction_curvature",
    "one_direction_gap",
    "one_direction_weights",
    "optimal_learning_rate",
    "optimal_loss",
    "population_loss",
    "population_loss_by_quadrature",
    "population_loss_vjp",
    "preconditioned_lsa_parameters",
    "preconditioned_optimum",
    "random_weights",
    "relaxed_least_squares",
    "rescaled",
    "ridge_predict",
    "rotate_tensor",
    "sample_single_index_tasks",
    "signed_permutations",
    "symmetrised",
    "target_moments",
    "tensor_blocks",
    "train_on_population_loss",
    "train_on_tasks",
    "weights_tensor",
    "whiten_parameters",
]
