r"""Dissecting the Effects of SGD Noise in Distinct Regimes of Deep Learning.

Antonio Sclocchi, Mario Geiger, Matthieu Wyart. ICML 2023. arXiv 2301.13703.

Two knobs take a network out of the lazy regime: the scale $\alpha$ of its output and the temperature $T=\eta/B$ of
SGD. In the lazy regime weights change by $\Delta w\sim T^\delta P^\gamma$ until the hinge loss is zero, at times
$t^*\sim TP^b$, so that the noise matters from $T_c\sim P^{-a}$ on, $a=\gamma/\delta$. A perceptron whose data are
scarce at the boundary as $|x_1|^\chi$ has these exponents in closed form; in the feature regime temperatures
follow $\alpha^k$, $k=(D-1)/(D+1)$, by an exact symmetry of networks of depth $D$.

==================================  ==========================================  ================================
Paper                               Code                                        Shape
==================================  ==========================================  ================================
$P,\ d,\ D$                         ``n_samples, n_features, n_hidden``         integers >= 1, 2, 1
$x_\mu,\ y_\mu$                     ``inputs, labels``                          ``(P, d)``; ``(P,)``, signs
$F(w,x)=f(w,x)-f(w_0,x)$            ``predictions``                             ``(P,)``
$\alpha,\ \kappa=1/\alpha$          ``alpha, margin``                           numbers > 0, >= 0
$\eta,\ B,\ T=\eta/B$               ``learning_rate, batch_size, temperature``  numbers > 0
$t=\eta\,\times$ steps, $t^*$       ``time``                                    number >= 0
$\Delta w$                          ``relative_weight_change``                  number >= 0
$\delta,\gamma,b,a$                 ``PerceptronExponents``                     numbers
$\chi$, $k=\chi+1$                  ``chi``, ``chi + 1``                        number > -1
$m=w_1/\sqrt d$                     ``signal``                                  ``(...)``
$q=\lVert w_\perp\rVert/\sqrt d$    ``noise``                                   ``(...)``, > 0
$\lambda=m/q$                       ``overlap_ratio``                           ``(...)``, >= 0
$\tau=t/d$                          ``tau``                                     ``(n_times,)``
$n,\ g_1,\ g_\perp$                 ``PopulationFunctions``                     ``(...)``
==================================  ==========================================  ================================

The parts: :mod:`.hinge` (the loss, the perceptron and its data), :mod:`.population` (expectations over the data),
:mod:`.flow` (order parameters over time, late times, exponents), :mod:`.network` (deep networks, and the map between
scales in the feature regime), :mod:`.training` (SGD until the loss is zero, and a faster simulation of the same law).
"""

from refimpl.dynamics.sgd_noise_regimes.flow import (
    OrderParameterRates,
    OrderParameters,
    PerceptronExponents,
    TailConstants,
    critical_temperature_exponent,
    late_time_overlap_ratio,
    late_time_signal,
    order_parameter_flow,
    order_parameter_rates,
    perceptron_exponents,
    predicted_training_time,
    simulate_order_parameters,
    tail_constants,
)
from refimpl.dynamics.sgd_noise_regimes.hinge import (
    hinge_active,
    hinge_loss,
    hinge_loss_vjp,
    perceptron_data,
    perceptron_outputs,
    perceptron_outputs_vjp,
)
from refimpl.dynamics.sgd_noise_regimes.network import (
    feature_regime_map,
    hidden_layer,
    hidden_layer_vjp,
    initial_network,
    linearised_outputs,
    network_outputs,
    network_outputs_vjp,
    relative_weight_change,
)
from refimpl.dynamics.sgd_noise_regimes.population import (
    NoiseMoments,
    PopulationFunctions,
    noise_covariance,
    noise_moments,
    noise_restoring,
    noise_restoring_vjp,
    population_functions,
    population_loss,
    population_loss_vjp,
    signal_drive,
    signal_drive_vjp,
    unfitted_fraction,
    unfitted_fraction_vjp,
)
from refimpl.dynamics.sgd_noise_regimes.training import (
    EventRun,
    NetworkRun,
    SGDRun,
    event_driven_perceptron,
    sgd_hinge,
    train_network,
)

__all__ = [
    "EventRun",
    "NetworkRun",
    "NoiseMoments",
    "OrderParameterRates",
    "OrderParameters",
    "PerceptronExponents",
    "PopulationFunctions",
    "SGDRun",
    "TailConstants",
    "critical_temperature_exponent",
    "event_driven_perceptron",
    "feature_regime_map",
    "hidden_layer",
    "hidden_layer_vjp",
    "hinge_active",
    "hinge_loss",
    "hinge_loss_vjp",
    "initial_network",
    "late_time_overlap_ratio",
    "late_time_signal",
    "linearised_outputs",
    "network_outputs",
    "network_outputs_vjp",
    "noise_covariance",
    "noise_moments",
    "noise_restoring",
    "noise_restoring_vjp",
    "order_parameter_flow",
    "order_parameter_rates",
    "perceptron_data",
    "perceptron_exponents",
    "perceptron_outputs",
    "perceptron_outputs_vjp",
    "population_functions",
    "population_loss",
    "population_loss_vjp",
    "predicted_training_time",
    "relative_weight_change",
    "sgd_hinge",
    "signal_drive",
    "signal_drive_vjp",
    "simulate_order_parameters",
    "tail_constants",
    "train_network",
    "unfitted_fraction",
    "unfitted_fraction_vjp",
]
