r"""The Implicit Regularization of Dynamical Stability in Stochastic Gradient Descent.

Lei Wu, Weijie J. Su. 2023 (ICML). arXiv 2305.17490.

Which interpolating minima can SGD at learning rate $\eta$ stay at? Those where its linearisation is stable in mean
square, and they have a Hessian of trace at most $2/\eta$, where gradient descent bounds only its largest eigenvalue.
For two-layer ReLU networks and diagonal linear networks the trace is equivalent to the path norm and the $\ell_1$
norm, so that minima stable for SGD generalise; those stable for gradient descent need not. Noise also balances the
layers.

==================================  ====================================  =====================================
Paper                               Code                                  Shape
==================================  ====================================  =====================================
$g_i=\nabla_\theta f(x_i;\theta)$   rows of ``jacobian``                  ``(..., n, p)``
$G=\frac1n\sum_ig_ig_i^\top$        ``fisher``; the Hessian where r = 0   ``(p, p)``
$K=JJ^\top/n$                       ``kernel``                            ``(..., n, n)``
$r_i=f(x_i;\theta)-y_i$             ``residuals``                         ``(..., n)``
$L=\frac1{2n}\sum_ir_i^2$           half the mean square                  ``(...)``
$\eta,\ B$                          ``learning_rate``, ``batch_size``     number > 0, integer >= 1 (replacement)
$\delta_t=\theta_t-\theta^*$        ``deviation``                         ``(..., p)``
$C_t=\mathbb E\delta\delta^\top$    ``covariance``                        ``(p, p)``
$\mathcal T$                        ``second_moment_step, .._operator``   $C\mapsto C$, ``(p^2, p^2)``
$\eta^*$                            ``critical_learning_rate``            ``()``
$\mu(\theta)$                       ``alignment_factor``                  ``(...)``
$a_j,\ w_j$                         ``ReluNet(a, w)``                     ``(..., m)``, ``(..., m, d)``
$\|\theta\|_{\mathcal P}$           ``path_norm``                         ``(...)``
$a,\ b,\ \beta=a\odot b$            ``DiagonalNet(a, b)``                 ``(..., d)``
$r(\theta)$                         ``balance_ratio``                     ``(...)``, at least 1
==================================  ====================================  =====================================

The parts: :mod:`.sharpness`, :mod:`.stability`, :mod:`.critical_rates` and :mod:`.loss_stability` (Section 3),
:mod:`.relu_net`, :mod:`.diagonal_net` and :mod:`.generalization` (Section 4), :mod:`.experiments` (Section 5). With a
loss without the factor $\frac12$ replace $\eta$ by $2\eta$.
"""

from refimpl.dynamics.dynamical_stability.critical_rates import (
    critical_learning_rate,
    gd_critical_learning_rate,
    necessary_stability_margin,
    rayleigh_learning_rate,
    span_coordinates,
    stability_radius,
    sufficient_learning_rate,
    trace_bound,
)
from refimpl.dynamics.dynamical_stability.diagonal_net import (
    DiagonalNet,
    balance_ratio,
    diagonal_net,
    diagonal_net_jacobian,
    diagonal_net_vjp,
    diagonal_step,
    imbalance,
    isotropic_eigenvalues,
    isotropic_sharpness,
    net_of_ratio,
)
from refimpl.dynamics.dynamical_stability.experiments import (
    DiagonalSettings,
    ReluSettings,
    gd_stable_but_sgd_unstable,
    run_balancing_experiment,
    run_diagonal_experiment,
    run_relu_experiment,
)
from refimpl.dynamics.dynamical_stability.generalization import (
    diagonal_norm_bound,
    gd_path_norm_bound,
    l1_supremum,
    rademacher_l1,
    rademacher_path_norm,
    sgd_path_norm_bound,
)
from refimpl.dynamics.dynamical_stability.loss_stability import (
    ExpectedLoss,
    alignment_factor,
    expected_loss_after_step,
    fisher_energies,
    frobenius_bound,
)
from refimpl.dynamics.dynamical_stability.relu_net import (
    ReluNet,
    mean_activation,
    path_norm,
    population_error,
    population_fisher,
    population_operator_norm_bounds,
    population_trace,
    relu_step,
    two_layer_relu,
    two_layer_relu_jacobian,
    two_layer_relu_vjp,
)
from refimpl.dynamics.dynamical_stability.sharpness import Sharpness, fisher_kernel, sharpness
from refimpl.dynamics.dynamical_stability.stability import (
    linearized_sgd_step,
    residual_sgd_step,
    second_moment_operator,
    second_moment_step,
    second_moment_step_vjp,
)

__all__ = [
    "DiagonalNet",
    "DiagonalSettings",
    "ExpectedLoss",
    "ReluNet",
    "ReluSettings",
    "Sharpness",
    "alignment_factor",
    "balance_ratio",
    "critical_learning_rate",
    "diagonal_net",
    "diagonal_net_jacobian",
    "diagonal_net_vjp",
    "diagonal_norm_bound",
    "diagonal_step",
    "expected_loss_after_step",
    "fisher_energies",
    "fisher_kernel",
    "frobenius_bound",
    "gd_critical_learning_rate",
    "gd_path_norm_bound",
    "gd_stable_but_sgd_unstable",
    "imbalance",
    "isotropic_eigenvalues",
    "isotropic_sharpness",
    "l1_supremum",
    "linearized_sgd_step",
    "mean_activation",
    "necessary_stability_margin",
    "net_of_ratio",
    "path_norm",
    "population_error",
    "population_fisher",
    "population_operator_norm_bounds",
    "population_trace",
    "rademacher_l1",
    "rademacher_path_norm",
    "rayleigh_learning_rate",
    "relu_step",
    "residual_sgd_step",
    "run_balancing_experiment",
    "run_diagonal_experiment",
    "run_relu_experiment",
    "second_moment_operator",
    "second_moment_step",
    "second_moment_step_vjp",
    "sgd_path_norm_bound",
    "sharpness",
    "span_coordinates",
    "stability_radius",
    "sufficient_learning_rate",
    "trace_bound",
    "two_layer_relu",
    "two_layer_relu_jacobian",
    "two_layer_relu_vjp",
]
