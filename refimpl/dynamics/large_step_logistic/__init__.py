r"""From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step Sizes.

Alexander Tyurin. AAAI 2025. arXiv 2412.08424.

Gradient descent on the logistic loss (LR+GD) becomes a batch perceptron as the step size grows: that is why it finds a
separator with steps of any size, while its loss and gradient grow and oscillate and say little about how close it is.
The batch perceptron may need a number of iterations proportional to the number of samples, which the perceptron does
not; dividing the step of LR+GD by the mean probability of error removes that factor (Normalized LR+GD).

==========================================  =====================================================  ==================
Paper                                       Code                                                   Shape
==========================================  =====================================================  ==================
$a_i,\ y_i$                                 ``features, labels``                                   ``(n, d)``, ``(n,)``
$z_i=y_ia_i$                                ``z``: all that an algorithm sees                      ``(n, d)``
$m_i=\langle z_i,\theta\rangle$             ``margins``                                            ``(..., n)``
$\theta_t,\ \hat\theta_t$                   ``theta``; all of them :func:`iterates`                ``(..., d)``
$f$, the mean logistic loss                 :func:`logistic_loss`                                  ``(...)``
$p_i=1/(1+e^{m_i})$                         ``p``                                                  ``(..., n)``
$\gamma$                                    ``step_size``                                          number > 0
$S_t=\{i:m_i\le0\}$                         wrong samples: a margin of 0 is one                    --
$\mu,\ R$                                   :func:`margin`, :func:`radius`                         numbers > 0
$L$                                         :func:`smoothness`                                     number
$T$                                         ``n_iterations``: updates from $\theta_0=0$            int
weights of $z_i$ in a step                  ``lr_gd_weights``, ... for each of five algorithms     ``(..., n)``
==========================================  =====================================================  ==================

The parts: :mod:`.loss`, :mod:`.weights` (what a step of LR+GD, of normalized LR+GD and of three perceptrons is),
:mod:`.algorithms` (the runs of these five, until all samples are right), :mod:`.bounds` (margin and numbers of
iterations), :mod:`.examples` (the data sets of Theorems 4.1 and 5.1). Data come from
:mod:`refimpl.tasks.classification`.
"""

from refimpl.dynamics.large_step_logistic.algorithms import (
    DescentRun,
    PerceptronRun,
    batch_perceptron,
    generalized_perceptron_step,
    lr_gd,
    normalized_batch_perceptron,
    normalized_lr_gd,
    perceptron,
)
from refimpl.dynamics.large_step_logistic.bounds import (
    Margin,
    batch_perceptron_bound,
    batch_perceptron_bound_tight,
    lr_gd_bound,
    margin,
    normalized_lr_gd_bound,
    perceptron_bound,
    radius,
)
from refimpl.dynamics.large_step_logistic.examples import (
    theorem_4_1_dataset,
    worst_case_dataset,
    worst_case_iterations,
)
from refimpl.dynamics.large_step_logistic.loss import (
    hessian_vector_product,
    logistic_gradient,
    logistic_gradient_vjp,
    logistic_hessian,
    logistic_loss,
    logistic_loss_vjp,
    normalized_margin,
    sample_margins,
    smoothness,
)
from refimpl.dynamics.large_step_logistic.weights import (
    batch_perceptron_weights,
    iterates,
    lr_gd_weights,
    normalized_batch_perceptron_weights,
    normalized_lr_gd_weights,
    perceptron_weights,
)

__all__ = [
    "DescentRun",
    "Margin",
    "PerceptronRun",
    "batch_perceptron",
    "batch_perceptron_bound",
    "batch_perceptron_bound_tight",
    "batch_perceptron_weights",
    "generalized_perceptron_step",
    "hessian_vector_product",
    "iterates",
    "logistic_gradient",
    "logistic_gradient_vjp",
    "logistic_hessian",
    "logistic_loss",
    "logistic_loss_vjp",
    "lr_gd",
    "lr_gd_bound",
    "lr_gd_weights",
    "margin",
    "normalized_batch_perceptron",
    "normalized_batch_perceptron_weights",
    "normalized_lr_gd",
    "normalized_lr_gd_bound",
    "normalized_lr_gd_weights",
    "normalized_margin",
    "perceptron",
    "perceptron_bound",
    "perceptron_weights",
    "radius",
    "sample_margins",
    "smoothness",
    "theorem_4_1_dataset",
    "worst_case_dataset",
    "worst_case_iterations",
]
