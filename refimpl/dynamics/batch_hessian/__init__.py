r"""Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to Neural Network Training.

Diego Granziol, Stefan Zohren, Stephen Roberts. 2020; JMLR 2022. arXiv 2006.09092.

The Hessian that a mini-batch sees has larger extreme eigenvalues than that of all the data. Random-matrix theory says
by how much: noise adds a semicircle to the Hessian and multiplies the Gauss-Newton matrix. The largest stable learning
rate is two over the batch's curvature, which gives a linear rule for SGD and a square-root rule for Adam, a minimal
damping, and a learner that measures the curvature of a batch by Lanczos and sets rate and momentum from it.

=========================================  =====================================  ====================================
Paper                                      Code                                   Shape
=========================================  =====================================  ====================================
$N,\ B,\ P$                                ``n_samples, batch_size, n_params``    integers, $1\le B\le N$
$w$                                        ``layers`` (``weights``)               list of Linear (one, ``(C, D)``)
$H_{emp},\ H_{batch}$                      ``batch_hessian`` by ``indices``       ``(P, P)``, or products
$G$                                        ``batch_ggn``                          ``(P, P)``, or products
$h_i$                                      ``per_example_products``               ``(N, C, D)`` for one direction
$\epsilon(w)=H_{batch}-H_{emp}$            ``wigner_noise`` (model)               ``(P, P)``
$\mathfrak b=B/(1-B/N)$                    ``effective_batch``                    number > 0, may be infinite
$\sigma_\epsilon^2$                        ``variance``                           number >= 0, of one example
$s=\sigma_\epsilon\sqrt{P/\mathfrak b}$    ``noise_scale``                        number >= 0
$\lambda_1,\ \lambda_P$                    ``lambda_max, lambda_min``             ``(...)``
$\lambda_1',\ \lambda_P'$                  ``lambda_max_batch``, ...              ``(...)``
$u_1$                                      ``u1``, last of ``eigenvectors``       ``(P,)``
$\alpha$ (here $\eta$), $\rho$             ``learning_rate, momentum``: Pace      numbers
$\delta$                                   ``damping``                            number >= 0
=========================================  =====================================  ====================================

The parts: :mod:`.levels` (the Hessians and their fluctuations), :mod:`.spiked` (the two random-matrix models),
:mod:`.learning_rates` (stability, scaling rules, damping), :mod:`.learner` (rates from Lanczos), :mod:`.models` (small
networks). Products with the Hessian are in :mod:`refimpl.primitives.curvature`, Lanczos and its quadrature in
:mod:`refimpl.primitives.lanczos`.

The additive model moves an eigenvalue of the spiked phase to less than twice its value, and below the threshold gives
$2s\propto B^{-1/2}$; a long stretch of $\lambda_1'\propto1/B$, which the linear rule needs, comes from the
multiplicative model with $P\gg B$ alone.
"""

from refimpl.dynamics.batch_hessian.learner import Epoch, LanczosMomentumLearner, learned_pace, train
from refimpl.dynamics.batch_hessian.learning_rates import (
    Pace,
    damped_step,
    heavy_ball_matrix,
    max_learning_rate_adaptive,
    max_learning_rate_sgd,
    minimal_damping,
    polyak_pace,
    scale_learning_rate,
)
from refimpl.dynamics.batch_hessian.levels import (
    batch_ggn,
    batch_hessian,
    exact_hessian_noise_variance,
    ggn_vector_product,
    hessian_noise_variance,
    hessian_vector_product,
    per_example_norms,
    per_example_products,
    rayleigh_excess,
    second_order_excess,
    softmax_output_hessians,
    softmax_regression_hessian,
)
from refimpl.dynamics.batch_hessian.models import initial_perceptron, train_softmax_regression, with_constant
from refimpl.dynamics.batch_hessian.spiked import (
    additive_extremal_eigenvalues,
    bulk_edge,
    effective_batch_size,
    eigenvector_overlap,
    ggn_extremal_eigenvalue,
    noise_scale,
    outlier_position,
    spiked_covariance_samples,
    spiked_wigner,
    stieltjes_slope,
    stieltjes_transform,
    wigner_noise,
)

__all__ = [
    "Epoch",
    "LanczosMomentumLearner",
    "Pace",
    "additive_extremal_eigenvalues",
    "batch_ggn",
    "batch_hessian",
    "bulk_edge",
    "damped_step",
    "effective_batch_size",
    "eigenvector_overlap",
    "exact_hessian_noise_variance",
    "ggn_extremal_eigenvalue",
    "ggn_vector_product",
    "heavy_ball_matrix",
    "hessian_noise_variance",
    "hessian_vector_product",
    "initial_perceptron",
    "learned_pace",
    "max_learning_rate_adaptive",
    "max_learning_rate_sgd",
    "minimal_damping",
    "noise_scale",
    "outlier_position",
    "per_example_norms",
    "per_example_products",
    "polyak_pace",
    "rayleigh_excess",
    "scale_learning_rate",
    "second_order_excess",
    "softmax_output_hessians",
    "softmax_regression_hessian",
    "spiked_covariance_samples",
    "spiked_wigner",
    "stieltjes_slope",
    "stieltjes_transform",
    "train",
    "train_softmax_regression",
    "wigner_noise",
    "with_constant",
]
