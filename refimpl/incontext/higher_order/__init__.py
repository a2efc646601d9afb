r"""Transformers Learn Higher-Order Optimization Methods for In-Context Learning: A Study with Linear Models.

Deqing Fu, Tian-Qi Chen, Robin Jia, Vatsal Sharan. 2023; NeurIPS 2024 as "Transformers Learn to Achieve Second-Order
Convergence Rates for In-Context Linear Regression". arXiv 2310.17086.

On in-context linear regression, the layers of trained transformers are more like iterations of Newton's method for the
inverse Gram matrix than like gradient-descent steps: as few suffice, they cope with ill-conditioned data, and matching
one more layer takes exponentially more gradient steps. A transformer with explicit weights and $k+8$ layers performs
$k$ Newton iterations exactly. Newton's error is $(1-\alpha\lambda^2)^{2^k}$ in each eigendirection of the Gram matrix.

==================================  ===================================  ==========================================
Paper                               Code                                 Shape
==================================  ===================================  ==========================================
$n,\ d$                             ``n_context`` (``n``), ``dim``       integers >= 1
$X,\ y$ (examples in rows)          ``x, y``                             ``(..., n, d)``, ``(..., n)``
$x_{test}$                          ``x_query``                          ``(..., d)``
$S=X^\top X$, $\lambda$, $\kappa$   ``gram, eigenvalues``, ...           ``(..., d, d)``, ``(..., d)``; a sum, no mean
$M_k,\ \alpha$                      ``inverse, scale``                   ``(..., d, d)``, number > 0
$\hat w_k$                          ``iterative_newton``                 ``(..., d)``
$\eta$                              ``learning_rate``                    number > 0, of the sum of squares
$H=[h_1,\dots,h_N]$                 ``hidden``                           ``(..., D, n_columns)``, D = 3 dim + 1
$Q_m,K_m,V_m$                       ``heads.query``, ...                 ``(n_heads, m, D)``, ``(n_heads, D, D)``
$T^{(\ell)}$                        ``transformed`` rows hold $Tx_t$     ``(d, d)`` acting on tokens
$\mathcal A(x_{t+1}\mid\cdot)$      ``prefix_predictions``               ``(..., n_tasks, n)``
SimE, SimW                          ``similarity_of_errors, ..weights``  ``()``
==================================  ===================================  ==========================================

The parts: :mod:`.newton` (Sections 3.1 and 5), :mod:`.solvers` (Section 3.1, A.2.3), :mod:`.attention` (Definitions 3.1
and B.1), :mod:`.construction` (Theorem 5.1), :mod:`.metrics` (Section 3.3, A.5, A.6), :mod:`.training` (a small
counterpart of Section 4). Gradient descent, least squares, ridge and induced weights are in
:mod:`refimpl.primitives.least_squares`, the ill-conditioned tasks in :mod:`refimpl.tasks.linear_regression`.
"""

from refimpl.incontext.higher_order.attention import (
    ReluHeads,
    ReluMLP,
    relu_attention,
    relu_attention_vjp,
    transformer_block,
    transformer_block_vjp,
)
from refimpl.incontext.higher_order.construction import (
    Columns,
    Layer,
    Operator,
    apply_layer,
    embed_prompt,
    hidden_rows,
    initial_layers,
    newton_layer,
    newton_transformer,
    prompt_columns,
    read_out_layers,
    run_newton_transformer,
    short_read_out_layers,
)
from refimpl.incontext.higher_order.metrics import (
    PrefixSpectra,
    best_matching_steps,
    forgetting_curve,
    prefix_predictions,
    prefix_spectra,
    similarity_matrix,
    similarity_of_errors,
    similarity_of_weights,
)
from refimpl.incontext.higher_order.newton import (
    frobenius_scale,
    gradient_steps_needed,
    iterative_newton,
    krylov_steps_needed,
    newton_iterations_needed,
    newton_moment_coefficients,
    newton_schulz_inverse,
    newton_schulz_step,
    newton_schulz_step_vjp,
    preconditioned_gradient_descent,
    spectral_filter,
    spectral_residual,
    spectral_scale,
)
from refimpl.incontext.higher_order.solvers import (
    best_learning_rate,
    bfgs,
    chebyshev_iteration,
    conjugate_gradient,
    lbfgs,
    online_gradient_descent,
)

__all__ = [
    "Columns",
    "Layer",
    "Operator",
    "PrefixSpectra",
    "ReluHeads",
    "ReluMLP",
    "apply_layer",
    "best_learning_rate",
    "best_matching_steps",
    "bfgs",
    "chebyshev_iteration",
    "conjugate_gradient",
    "embed_prompt",
    "forgetting_curve",
    "frobenius_scale",
    "gradient_steps_needed",
    "hidden_rows",
    "initial_layers",
    "iterative_newton",
    "krylov_steps_needed",
    "lbfgs",
    "newton_iterations_needed",
    "newton_layer",
    "newton_moment_coefficients",
    "newton_schulz_inverse",
    "newton_schulz_step",
    "newton_schulz_step_vjp",
    "newton_transformer",
    "online_gradient_descent",
    "preconditioned_gradient_descent",
    "prefix_predictions",
    "prefix_spectra",
    "prompt_columns",
    "read_out_layers",
    "relu_attention",
    "relu_attention_vjp",
    "run_newton_transformer",
    "short_read_out_layers",
    "similarity_matrix",
    "similarity_of_errors",
    "similarity_of_weights",
    "spectral_filter",
    "spectral_residual",
    "spectral_scale",
    "transformer_block",
    "transformer_block_vjp",
]
