r"""High-dimensional dynamics of generalization error in neural networks.

Madhu S. Advani, Andrew M. Saxe. 2017; with Haim Sompolinsky in Neural Networks 132 (2020). arXiv 1710.03667.

Exact solutions of gradient flow and random-matrix theory give training and test error as functions of training time, in
the limit of many parameters and examples in proportion. Overtraining is worst where both are equally many. Weights in
the subspace without data are frozen, so large initial weights hurt and small ones do not; optimal early stopping and
optimal ridge both remove the peak. Deep linear and nonlinear networks show the same picture, and complexity bounds that
count frozen weights miss it.

==============================  ============================================  ===================================
Paper                           Code                                          Shape
==============================  ============================================  ===================================
$N,\ P$                         ``n_inputs, n_examples``                      integers >= 1
$\alpha=P/N$                    ``load``                                      number > 0
$X$, variance $1/N$             ``x``, examples in columns                    ``(..., n_inputs, n_examples)``
$y=\bar wX+\epsilon$            ``y``                                         ``(..., n_examples)``
$\bar w,\ w(0)$                 ``teacher, initial``                          ``(..., n_inputs)``
$\sigma_w^2,\sigma_\epsilon^2$  ``signal_variance, noise_variance``           numbers >= 0
$(\sigma_w^0)^2$                ``init_variance``                             number >= 0
SNR, INR                        ``snr, inr``                                  over the noise variance
$\lambda$, of $\Sigma=XX^\top$  ``eigenvalues``                               ``(..., n_inputs)``; a sum, no mean
$\tau$                          ``tau``                                       one over the learning rate
$E_g(t),\ E_t(t)$               ``generalization_error``, ``training_error``  shape of ``t``
$\gamma$                        ``penalty``                                   number > 0
$N_h,\ H$                       ``n_hidden, features``                        ``(..., n_hidden, n_examples)``
==============================  ============================================  ===================================

The parts: :mod:`.spectrum` (Marchenko-Pastur), :mod:`.linear` (the linear student in closed form), :mod:`.errors` (its
errors over time), :mod:`.tuning` (early stopping and ridge), :mod:`.deep` (deep linear networks), :mod:`.nonlinear`
(random features, ReLU networks, unseen inputs), :mod:`.complexity` (Rademacher bounds). Data come from
:mod:`refimpl.tasks.teacher_student`.
"""

from refimpl.dynamics.high_dimensional.complexity import (
    displacement_norm,
    rademacher_bound,
    rademacher_bound_displacement,
    rademacher_bound_naive,
)
from refimpl.dynamics.high_dimensional.deep import (
    BalancedState,
    balanced_descent_step,
    balanced_layers,
    balanced_state,
    deep_linear_descent_step,
    deep_linear_flow,
    deep_linear_flow_step,
)
from refimpl.dynamics.high_dimensional.errors import (
    asymptotic_generalization_error,
    generalization_error,
    generalization_error_empirical,
    generalization_error_slope,
    training_error,
    training_error_empirical,
    weight_norm,
    weight_norm_empirical,
)
from refimpl.dynamics.high_dimensional.linear import (
    frozen_projector,
    gradient_descent_weights,
    gradient_flow_weights,
    largest_learning_rate,
    student_loss,
    student_loss_vjp,
)
from refimpl.dynamics.high_dimensional.nonlinear import (
    StudentCurve,
    TwoLayer,
    effective_noise_variance,
    mean_squared_error,
    random_feature_student,
    random_features,
    sample_two_layer,
    train_two_layer_relu,
)
from refimpl.dynamics.high_dimensional.spectrum import (
    eigenvalue_average,
    eigenvalue_density,
    eigenvalue_edges,
    eigenvalue_resolvent,
    input_eigenvalues,
)
from refimpl.dynamics.high_dimensional.tuning import (
    mode_stopping_time,
    optimal_ridge,
    optimal_ridge_error,
    optimal_stopping_time,
    ridge_generalization_error,
    ridge_generalization_error_empirical,
)

__all__ = [
    "BalancedState",
    "StudentCurve",
    "TwoLayer",
    "asymptotic_generalization_error",
    "balanced_descent_step",
    "balanced_layers",
    "balanced_state",
    "deep_linear_descent_step",
    "deep_linear_flow",
    "deep_linear_flow_step",
    "displacement_norm",
    "effective_noise_variance",
    "eigenvalue_average",
    "eigenvalue_density",
    "eigenvalue_edges",
    "eigenvalue_resolvent",
    "frozen_projector",
    "generalization_error",
    "generalization_error_empirical",
    "generalization_error_slope",
    "gradient_descent_weights",
    "gradient_flow_weights",
    "input_eigenvalues",
    "largest_learning_rate",
    "mean_squared_error",
    "mode_stopping_time",
    "optimal_ridge",
    "optimal_ridge_error",
    "optimal_stopping_time",
    "rademacher_bound",
    "rademacher_bound_displacement",
    "rademacher_bound_naive",
    "random_feature_student",
    "random_features",
    "ridge_generalization_error",
    "ridge_generalization_error_empirical",
    "sample_two_layer",
    "student_loss",
    "student_loss_vjp",
    "train_two_layer_relu",
    "training_error",
    "training_error_empirical",
    "weight_norm",
    "weight_norm_empirical",
]
