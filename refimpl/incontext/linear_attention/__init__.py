r"""Transformers learn in-context by gradient descent.

Johannes von Oswald, Eyvind Niklasson, Ettore Randazzo, Joao Sacramento, Alexander Mordvintsev, Andrey Zhmoginov,
Max Vladymyrov. 2022, ICML 2023. arXiv 2212.07677.

A linear self-attention layer with explicit weights does one step of gradient descent on the least-squares loss of the
regression problem in its prompt, and a stack of layers one step each. Layers that also transform the inputs do GD++,
a preconditioned descent that is faster. An MLP before the layers makes it descent in the MLP's features, softmax heads
in pairs make it descent on centred data, and one copying layer turns raw sequences into the tokens that all this needs.
Layers trained on such problems find these weights, up to a scale that does not matter.

Tokens are columns, as in the paper: the context is $N$ tokens, the query comes last and gives no keys and values.

======================  ==================================  =======================================================
Paper                   Code                                Shape
======================  ==================================  =======================================================
$N,\ N_x,\ N_y$         ``n_context, n_inputs, n_outputs``  integers >= 1
$D=N_x+N_y$             ``D``
$X,\ Y$                 ``x, y``                            ``(..., n_inputs, n_context)``; ``n_outputs`` for y
$x_q=x_{N+1},\ y_q$     ``x_query, y_query``                ``(..., n_inputs)``; ``n_outputs`` for y
$E$, $e_j=[x_j;y_j]$    ``tokens``                          ``(..., D, n_context + 1)``
$W_K,W_Q,W_V,P$         ``weights.key``, ...                ``(n_heads, D, D)``
$W_K^\top W_Q$, $PW_V$  ``weights.key_query``, ...          ``(n_heads, D, D)``
$W_0$                   ``initial_weights``                 ``(n_outputs, n_inputs)``, zeros if None
$L(W)$, $W+\Delta W$    ``inner_loss, gradient_step``
$\eta,\ \gamma$         ``learning_rate, gamma``            numbers > 0, >= 0
$W_k$, $Q_k$            ``PlusPlusState``                   ``(..., n_outputs | n_inputs, n_inputs)``
$\lambda$               ``eigenvalues`` of $XX^\top$        ``(..., n_inputs)``
$\mu_2,\ \mu_4$         ``second_moment``, ...              numbers > 0
$m(x)$, $k(x,x')$       ``mlp_features, kernel``            ``(..., n_context, n_context)``
$T=2N+1$                ``n_tokens``, raw sequence
======================  ==================================  =======================================================

The parts, in the paper's order: :mod:`.gradient_descent` (Section 2), :mod:`.plus_plus` (Section 3, A.10),
:mod:`.kernel` (A.8), :mod:`.softmax` (A.9), :mod:`.copying` (A.5), and :mod:`.training` for what trained layers find.
The layer itself is :func:`refimpl.primitives.linear_self_attention.linear_self_attention`.
"""

from refimpl.incontext.linear_attention.copying import copy_layer_weights, interleave_tokens
from refimpl.incontext.linear_attention.gradient_descent import (
    LEARNING_RATE_GRID,
    apply_linear,
    gradient_descent,
    gradient_descent_weights,
    gradient_step,
    inner_loss,
    line_search_learning_rate,
    make_tokens,
    one_step_population_loss,
    optimal_learning_rate,
    read_prediction,
    stack_forward,
    stack_forward_vjp,
    transform_targets,
)
from refimpl.incontext.linear_attention.kernel import (
    kernel_gd_closed_form,
    kernel_gd_predict,
    kernel_gd_step,
    kernel_interpolant,
    mlp_features,
    nadaraya_watson,
)
from refimpl.incontext.linear_attention.plus_plus import (
    FittedScalars,
    PlusPlusState,
    fit_gd_plus_plus,
    gd_plus_plus_condition_number,
    gd_plus_plus_eigenvalue_map,
    gd_plus_plus_population_loss,
    gd_plus_plus_population_loss_vjp,
    gd_plus_plus_predict,
    gd_plus_plus_step,
    gd_plus_plus_weights,
    gram_eigenvalues,
    initial_state,
    spectrum_condition_number,
)
from refimpl.incontext.linear_attention.softmax import (
    centred,
    softmax_self_attention,
    softmax_self_attention_vjp,
    two_head_softmax_gd_weights,
)
from refimpl.primitives.linear_self_attention import (
    LinearAttentionWeights,
    linear_self_attention,
    linear_self_attention_vjp,
)

__all__ = [
    "LEARNING_RATE_GRID",
    "FittedScalars",
    "LinearAttentionWeights",
    "PlusPlusState",
    "apply_linear",
    "centred",
    "copy_layer_weights",
    "fit_gd_plus_plus",
    "gd_plus_plus_condition_number",
    "gd_plus_plus_eigenvalue_map",
    "gd_plus_plus_population_loss",
    "gd_plus_plus_population_loss_vjp",
    "gd_plus_plus_predict",
    "gd_plus_plus_step",
    "gd_plus_plus_weights",
    "gradient_descent",
    "gradient_descent_weights",
    "gradient_step",
    "gram_eigenvalues",
    "initial_state",
    "inner_loss",
    "interleave_tokens",
    "kernel_gd_closed_form",
    "kernel_gd_predict",
    "kernel_gd_step",
    "kernel_interpolant",
    "line_search_learning_rate",
    "linear_self_attention",
    "linear_self_attention_vjp",
    "make_tokens",
    "mlp_features",
    "nadaraya_watson",
    "one_step_population_loss",
    "optimal_learning_rate",
    "read_prediction",
    "softmax_self_attention",
    "softmax_self_attention_vjp",
    "spectrum_condition_number",
    "stack_forward",
    "stack_forward_vjp",
    "transform_targets",
    "two_head_softmax_gd_weights",
]
