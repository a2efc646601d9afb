r"""Exact solutions to the nonlinear dynamics of learning in deep linear neural networks.

Andrew M. Saxe, James L. McClelland, Surya Ganguli. 2013; ICLR 2014. arXiv 1312.6120.

A deep linear network computes a linear map, yet learns it with all the plateaus and steps of a deep network. From
decoupled starting weights each singular mode of the data evolves by itself and in closed form, stronger ones sooner.
With a learning rate fit for the depth, the time to learn stays finite as depth grows. Pretraining and random orthogonal
weights achieve that; scaled Gaussian ones do not, for their products keep only the mean length of a vector. Orthogonal
weights at gain 1 keep gradients alive through a hundred saturating layers too.

=====================================  ====================================  ==========================================
Paper                                  Code                                  Shape
=====================================  ====================================  ==========================================
$N_l$ (layers of neurons)              ``layer_sizes``, of this length       widths from the input to the output
$n=N_l-1$                              ``n_weights``, ``len(weights)``       int >= 1; the paper's exponents use both
$W^{21},W^{32}$; $W^l$                 ``weights``                           ``(..., n_l, n_(l-1))`` each
$\Sigma^{11}=\sum_\mu x^\mu x^{\mu T}$ ``sigma_11``                          ``(n_inputs, n_inputs)``; a sum, no mean
$\Sigma^{31}=USV^T$                    ``sigma_31``, ``u, s, v``             ``(n_outputs, n_inputs)``
$\lambda,\ \tau=1/\lambda$             ``learning_rate, tau``                numbers > 0; time counts steps
$a^\alpha,\ b^\alpha$                  ``a, b``, a mode a row                ``(..., n_1, n_2), (..., n_3, n_2)``
$u=\prod_ia_i$                         ``u``, ``mode_strengths``             number > 0; ``(..., k)``
$c_0=a^2-b^2,\ \theta,\ \zeta$         in ``mode_trajectory_unbalanced``     numbers
$\alpha_{opt}$                         ``optimal_learning_rate``             number > 0
$g,\ \phi,\ q^l$                       ``gain``, tanh, ``q``                 numbers
=====================================  ====================================  ==========================================

The parts: :mod:`.network` (Section 1, Eq. 13), :mod:`.decoupling` (Sections 1.3, 2), :mod:`.modes` (Sections 1.3, 2,
Appendix E), :mod:`.unbalanced` (Appendix A), :mod:`.curvature` (Appendix B), :mod:`.initialisation` (Sections 2, 3),
:mod:`.pretraining` (Section 3), :mod:`.nonlinear` (Section 4, Figure 3). The tree-structured data of Figure 3 are in
:mod:`refimpl.tasks.hierarchy`.
"""

from refimpl.dynamics.deep_linear.curvature import (
    mode_hessian,
    mode_hessian_eigenvalues,
    optimal_learning_rate,
    solution_sharpness,
)
from refimpl.dynamics.deep_linear.decoupling import (
    connectivity_modes,
    decoupled_weights,
    mode_energy,
    mode_flow,
    mode_strengths,
)
from refimpl.dynamics.deep_linear.initialisation import (
    decoupled_init,
    eigenvalue_radius_law,
    estimate_lyapunov_exponents,
    lyapunov_exponents,
    moment_step,
    orthogonal_init,
    product_eigenvalues,
    product_moments,
    product_singular_values,
    random_products,
    scaled_gaussian_init,
    small_random_init,
)
from refimpl.dynamics.deep_linear.modes import (
    chain_energy,
    chain_gradients,
    learning_time,
    learning_time_infinite_depth,
    mode_trajectory,
    mode_trajectory_nonwhite,
    mode_velocity,
    time_above,
    time_around,
    time_below,
)
from refimpl.dynamics.deep_linear.network import (
    end_to_end,
    gradient_flow,
    gradient_steps,
    gradients,
    hessian_vector_product,
    loss,
    loss_vjp,
    train_gd,
)
from refimpl.dynamics.deep_linear.nonlinear import (
    fixed_point_variance,
    forward,
    forward_vjp,
    jacobian,
    tanh_gradient_steps,
    tanh_mode_strengths,
    variance_map,
)
from refimpl.dynamics.deep_linear.pretraining import (
    greedy_pretraining,
    pretraining_consistency,
)
from refimpl.dynamics.deep_linear.unbalanced import (
    hyperbolic_time,
    learning_time_unbalanced,
    mode_trajectory_unbalanced,
)

__all__ = [
    "chain_energy",
    "chain_gradients",
    "connectivity_modes",
    "decoupled_init",
    "decoupled_weights",
    "eigenvalue_radius_law",
    "end_to_end",
    "estimate_lyapunov_exponents",
    "fixed_point_variance",
    "forward",
    "forward_vjp",
    "gradient_flow",
    "gradient_steps",
    "gradients",
    "greedy_pretraining",
    "hessian_vector_product",
    "hyperbolic_time",
    "jacobian",
    "learning_time",
    "learning_time_infinite_depth",
    "learning_time_unbalanced",
    "loss",
    "loss_vjp",
    "lyapunov_exponents",
    "mode_energy",
    "mode_flow",
    "mode_hessian",
    "mode_hessian_eigenvalues",
    "mode_strengths",
    "mode_trajectory",
    "mode_trajectory_nonwhite",
    "mode_trajectory_unbalanced",
    "mode_velocity",
    "moment_step",
    "optimal_learning_rate",
    "orthogonal_init",
    "pretraining_consistency",
    "product_eigenvalues",
    "product_moments",
    "product_singular_values",
    "random_products",
    "scaled_gaussian_init",
    "small_random_init",
    "solution_sharpness",
    "tanh_gradient_steps",
    "tanh_mode_strengths",
    "time_above",
    "time_around",
    "time_below",
    "train_gd",
    "variance_map",
]
