r"""Benign Oscillation of Stochastic Gradient Descent with Large Learning Rates.

Miao Lu, Beining Wu, Xiaodong Yang, Difan Zou. 2023 (ICLR 2024). arXiv 2310.17074.

Samples have a weak feature always and a strong one mostly. At a small learning rate SGD fits with the strong feature
and stops; at a large one it never settles, and the oscillating error alone makes the weak feature grow, exponentially,
until the fit that it shares in is flat enough to be stable. Tests without the strong feature tell the two apart.

===============================  ==========================================  ==============================
Paper                            Code                                        Shape
===============================  ==========================================  ==============================
$x=(x^{(1)},\dots,x^{(P)})$      ``x``, patches of each sample               ``(..., n, n_patches, d)``
$y$                              ``labels``, 1 or -1                         ``(..., n)``
$u,\ v$                          ``strong, weak``                            ``(d,)``
$\rho$                           ``strong_fraction``                         number in [0, 1]
$\xi,\ d\sigma_p^2$              third patch, ``noise_norm_squared``         number >= 0
$w_{j,r},\ j=\pm1,\ r\le m$      ``weights``, class 1 first                  ``(..., 2, n_filters, d)``
$\eta$                           ``learning_rate``                           number > 0
$\ell_t=1-y_{i_t}f(x_{i_t};W)$   ``error, errors``                           ``(..., n_steps)``
$a_u,\ a_v$                      ``strong_gain, weak_gain``                  numbers
$z_u,\ z_v$                      ``strong, weak`` shares                     ``(..., 2)``, a class each
$\delta$                         ``amplitude``                               number in (0, 1)
===============================  ==========================================  ==============================

The parts: :mod:`.network` (data, network, SGD), :mod:`.reduced` (the recursions of the features, the maps of one
sample, growth rates and where the oscillation ends), :mod:`.experiment` (small against large rates).
"""

from refimpl.dynamics.benign_oscillation.experiment import (
    Outcome,
    Setting,
    initial_weights,
    is_admissible,
    run_benign_oscillation_experiment,
    start,
    steps_for,
)
from refimpl.dynamics.benign_oscillation.network import (
    FeatureNoiseData,
    forward,
    forward_vjp,
    hessian_vector_product,
    loss,
    loss_vjp,
    sample_feature_noise_data,
    sgd_step,
    train_sgd,
)
from refimpl.dynamics.benign_oscillation.reduced import (
    FeatureShares,
    feature_gain,
    feature_shares,
    learning_steps,
    least_growth_rate,
    minimum_weak_share,
    oscillation_window,
    period_two_errors,
    period_two_growth_rate,
    signal_recursion,
    slow_weak_share,
    strong_map,
    transversal_growth_rate,
    two_feature_errors,
    two_feature_map,
)

__all__ = [
    "FeatureNoiseData",
    "FeatureShares",
    "Outcome",
    "Setting",
    "feature_gain",
    "feature_shares",
    "forward",
    "forward_vjp",
    "hessian_vector_product",
    "initial_weights",
    "is_admissible",
    "learning_steps",
    "least_growth_rate",
    "loss",
    "loss_vjp",
    "minimum_weak_share",
    "oscillation_window",
    "period_two_errors",
    "period_two_growth_rate",
    "run_benign_oscillation_experiment",
    "sample_feature_noise_data",
    "sgd_step",
    "signal_recursion",
    "slow_weak_share",
    "start",
    "steps_for",
    "strong_map",
    "train_sgd",
    "transversal_growth_rate",
    "two_feature_errors",
    "two_feature_map",
]
