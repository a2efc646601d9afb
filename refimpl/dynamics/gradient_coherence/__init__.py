r"""On the Generalization Mystery in Deep Learning.

Satrajit Chatterjee, Piotr Zielinski. 2022, arXiv 2203.10036; consolidates Chatterjee (ICLR 2020), arXiv 2003.07422 and
arXiv 2008.01217.

One cheap number without units, the coherence of the gradients of single examples, says how far a step for one example
helps the others. Where it is near 1, gradient descent is stable and its generalisation gap small; it tells real labels
from random ones over training; and it suggests averages of gradients that are robust to what only few examples ask for,
which suppress the memorisation of wrong labels.

===============================  ===========================================  =========================================
Paper                            Code                                         Shape
===============================  ===========================================  =========================================
$G$, rows $g_i$                  ``gradients``, of examples, without $1/m$    ``(..., m, p)``
$\alpha$                         ``coherence``                                ``(...)``, in $[0,1]$
$m\alpha$                        ``m_coherence``                              ``(...)``, in $[0,m]$
$\sum g_i,\ \sum\|g_i\|^2$       ``total, squares``                           ``(..., p)``, ``(...)``
$\alpha_b$, $b$                  ``minibatch_coherence``, ``batch_size``      number in $[0,1]$, integer >= 1
$\alpha^{(k)},\pi_k$             ``layer_coherence``                          ``(..., n_layers)`` each
$\eta_t$, $T$                    ``learning_rates``                           ``(n_steps,)``, >= 0
$L,\beta$                        ``lipschitz, smoothness``                    numbers >= 0
$s$                              ``shared_scale``                             number
$c$                              ``level``                                    number in $[0,1/2)$
===============================  ===========================================  =========================================

The parts: :mod:`.coherence` (the number and its relations), :mod:`.stability` (the bound on the generalisation gap, and
logistic regression to try it on), :mod:`.illustration` (a linear model solved in closed form), :mod:`.suppression`
(robust averages), :mod:`.networks` (gradients of a perceptron's examples, and the experiments on digits).
"""

from refimpl.dynamics.gradient_coherence.coherence import (
    CoherenceAccumulator,
    LayerCoherence,
    coherence,
    coherence_debiased,
    debiased_square_of_mean,
    example_coherence,
    gradient_diversity,
    layer_coherence,
    m_coherence,
    minibatch_coherence,
    signal_to_noise,
    squared_disagreement,
    streamed_coherence,
)
from refimpl.dynamics.gradient_coherence.illustration import (
    ToyLimit,
    squared_loss_gradients,
    toy_dataset,
    toy_limit,
)
from refimpl.dynamics.gradient_coherence.networks import (
    Accuracies,
    DigitsProblem,
    batch_rule,
    coherence_curve,
    gradient_matrix,
    initial_perceptron,
    median_rule,
    mlp_m_coherence,
    rolling_median_rule,
    sample_digits,
    training_accuracies,
    winsorized_rule,
)
from refimpl.dynamics.gradient_coherence.stability import (
    disagreement_bound,
    logistic_descent,
    logistic_gradients,
    logistic_loss,
    logistic_loss_vjp,
    replace_one_bound,
    stability_bound,
    step_weights,
)
from refimpl.dynamics.gradient_coherence.suppression import (
    RollingMedian3,
    median_of_three,
    middle_of_three,
    trimmed_count,
    winsorized_mean,
)

__all__ = [
    "Accuracies",
    "CoherenceAccumulator",
    "DigitsProblem",
    "LayerCoherence",
    "RollingMedian3",
    "ToyLimit",
    "batch_rule",
    "coherence",
    "coherence_curve",
    "coherence_debiased",
    "debiased_square_of_mean",
    "disagreement_bound",
    "example_coherence",
    "gradient_diversity",
    "gradient_matrix",
    "initial_perceptron",
    "layer_coherence",
    "logistic_descent",
    "logistic_gradients",
    "logistic_loss",
    "logistic_loss_vjp",
    "m_coherence",
    "median_of_three",
    "median_rule",
    "middle_of_three",
    "minibatch_coherence",
    "mlp_m_coherence",
    "replace_one_bound",
    "rolling_median_rule",
    "sample_digits",
    "signal_to_noise",
    "squared_disagreement",
    "squared_loss_gradients",
    "stability_bound",
    "step_weights",
    "streamed_coherence",
    "toy_dataset",
    "toy_limit",
    "training_accuracies",
    "trimmed_count",
    "winsorized_mean",
    "winsorized_rule",
]
