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

The parts, in the paper's order: :mod:`.descent` (the inner problem) and :mod:`.construction` (Section 2),
:mod:`.population` and :mod:`.plus_plus` (Section 3, A.10), :mod:`.copying` (A.5), :mod:`.kernel` (A.8), :mod:`.softmax`
(A.9); then what is trained: :mod:`.training` (A.12), :mod:`.comparison` with gradient descent (A.3, A.6),
:mod:`.variants` of the layer (A.9, A.11), :mod:`.sine` (A.7) and :mod:`.raw_tokens` (Section 4). The layer itself is
:func:`refimpl.primitives.linear_self_attention.linear_self_attention`.
"""

from refimpl.incontext.linear_attention.comparison import (
    Alignment,
    Response,
    alignment_metrics,
    dampened_roll_out,
    evaluation_loss,
    from_products,
    gd_plus_plus_response,
    gradient_descent_response,
    interpolate_weights,
    key_query_scale,
    linear_response,
    rescale_weights,
    transformer_response,
)
from refimpl.incontext.linear_attention.construction import (
    make_tokens,
    read_prediction,
    stack_forward,
    stack_forward_vjp,
)
from refimpl.incontext.linear_attention.copying import copy_layer_weights, interleave_tokens
from refimpl.incontext.linear_attention.descent import (
    apply_linear,
    gradient_descent,
    gradient_step,
    inner_loss,
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
from refimpl.incontext.linear_attention.population import (
    LEARNING_RATE_GRID,
    line_search_learning_rate,
    one_step_population_loss,
    optimal_learning_rate,
)
from refimpl.incontext.linear_attention.raw_tokens import (
    CopySensitivity,
    RawPrompts,
    RawTransformer,
    copy_sensitivity,
    make_raw_prompts,
    positional_encoding,
    raw_loss_and_gradients,
    raw_predict,
)
from refimpl.incontext.linear_attention.sine import (
    SineControl,
    SineNetwork,
    constructed_network,
    control_loss_and_gradients,
    initial_sine_network,
    sample_sine_prompts,
    sine_loss_and_gradients,
    sine_predict,
)
from refimpl.incontext.linear_attention.softmax import (
    centred,
    softmax_self_attention,
    softmax_self_attention_vjp,
    two_head_softmax_gd_weights,
)
from refimpl.incontext.linear_attention.training import (
    MetaTraining,
    Prompts,
    Trained,
    code_deviation,
    initial_weights,
    looped_loss_and_gradients,
    loss_and_gradients,
    make_prompts,
    meta_optimizer,
    predict,
    predict_vjp,
    run,
    text_deviation,
    train_lsa,
    training_steps,
)
from refimpl.incontext.linear_attention.variants import (
    NormedLayer,
    normed_loss_and_gradients,
    normed_predict,
    softmax_loss_and_gradients,
    softmax_predict,
    softmax_predict_vjp,
)
from refimpl.primitives.linear_self_attention import (
    LinearAttentionWeights,
    gradient_descent_weights,
    linear_self_attention,
    linear_self_attention_vjp,
)

__all__ = [
    "LEARNING_RATE_GRID",
    "Alignment",
    "CopySensitivity",
    "FittedScalars",
    "LinearAttentionWeights",
    "MetaTraining",
    "NormedLayer",
    "PlusPlusState",
    "Prompts",
    "RawPrompts",
    "RawTransformer",
    "Response",
    "SineControl",
    "SineNetwork",
    "Trained",
    "alignment_metrics",
    "apply_linear",
    "centred",
    "code_deviation",
    "constructed_network",
    "control_loss_and_gradients",
    "copy_layer_weights",
    "copy_sensitivity",
    "dampened_roll_out",
    "evaluation_loss",
    "fit_gd_plus_plus",
    "from_products",
    "gd_plus_plus_condition_number",
    "gd_plus_plus_eigenvalue_map",
    "gd_plus_plus_population_loss",
    "gd_plus_plus_population_loss_vjp",
    "gd_plus_plus_predict",
    "gd_plus_plus_response",
    "gd_plus_plus_step",
    "gd_plus_plus_weights",
    "gradient_descent",
    "gradient_descent_response",
    "gradient_descent_weights",
    "gradient_step",
    "gram_eigenvalues",
    "initial_sine_network",
    "initial_state",
    "initial_weights",
    "inner_loss",
    "interleave_tokens",
    "interpolate_weights",
    "kernel_gd_closed_form",
    "kernel_gd_predict",
    "kernel_gd_step",
    "kernel_interpolant",
    "key_query_scale",
    "line_search_learning_rate",
    "linear_response",
    "linear_self_attention",
    "linear_self_attention_vjp",
    "looped_loss_and_gradients",
    "loss_and_gradients",
    "make_prompts",
    "make_raw_prompts",
    "make_tokens",
    "meta_optimizer",
    "mlp_features",
    "nadaraya_watson",
    "normed_loss_and_gradients",
    "normed_predict",
    "one_step_population_loss",
    "optimal_learning_rate",
    "positional_encoding",
    "predict",
    "predict_vjp",
    "raw_loss_and_gradients",
    "raw_predict",
    "read_prediction",
    "rescale_weights",
    "run",
    "sample_sine_prompts",
    "sine_loss_and_gradients",
    "sine_predict",
    "softmax_loss_and_gradients",
    "softmax_predict",
    "softmax_predict_vjp",
    "softmax_self_attention",
    "softmax_self_attention_vjp",
    "spectrum_condition_number",
    "stack_forward",
    "stack_forward_vjp",
    "text_deviation",
    "train_lsa",
    "training_steps",
    "transform_targets",
    "transformer_response",
    "two_head_softmax_gd_weights",
]
