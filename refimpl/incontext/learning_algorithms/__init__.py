r"""What learning algorithm is in-context learning? Investigations with linear models.

Ekin Akyurek, Dale Schuurmans, Jacob Andreas, Tengyu Ma, Denny Zhou. 2022, ICLR 2023. arXiv 2211.15661.

A transformer layer with explicit weights does any of four operations on its hidden state (``mov``, ``mul``, ``div``,
``aff``), and short programs of them run on the examples of a prompt: one step of SGD with O(d) rows, one
Sherman-Morrison update of ridge regression with O(d^2), in a number of layers that does not depend on d. Two metrics
say which algorithm a trained learner resembles. With noise it is the Bayes-optimal one, ridge regression with
$\lambda=\sigma^2/\tau^2$; with more layers it goes from a gradient step over ridge to least squares.

Hidden states have time steps as columns, examples of a regression problem are rows.

============================  ====================================  ===========================================
Paper                         Code                                  Shape
============================  ====================================  ===========================================
$d,\ n$                       ``n_inputs, n_examples``              integers >= 1
$X,\ Y$; $x_n$                ``x, y; x_query``                     ``(..., n, d)``, ``(..., n)``, ``(..., d)``
$w$, $f(x)=w^\top x$          ``weights``                           ``(..., d)``
$H$ with $H\times T$ entries  ``hidden``                            ``(..., n_rows, n_columns)``
$W^Q_m,W^K_m,W^V_m$, $W^F$    ``LayerParams.attention``             one each head
$W_1,\beta_1,W_2,\beta_2$     ``LayerParams.mlp``                   ``(n_hidden, n_rows)``, ...
$g,\ \lambda$                 ``gelu, layer_norm`` of primitives    elementwise; over the rows
$K(i)$                        ``time_map[i]``                       columns up to i
$\alpha$; $\lambda$           ``learning_rate``; ``weight_decay``   of $\sum(w^\top x-y)^2+\lambda\|w\|^2$
$\lambda$ (ridge), $A$        ``ridge, inverse``                    number > 0, ``(..., d, d)``
$\tau^2,\ \sigma^2$           ``prior_var, noise_var``              numbers > 0, >= 0
$\varepsilon$, $N$            ``epsilon``; ``strength, scale``      numbers > 0
SPD, ILWD, MSPD               ``squared_prediction_difference``...  ``(...)``
$s_v,\ W_v,\ \mathrm{FF}_v$   ``PositionAttentionProbe``            ``(n_columns,), (n_values, n_rows)``
$T_\theta$                    ``Learner``                           tokens ``(..., 2 n_points - 1, d + 1)``
============================  ====================================  ===========================================

The parts, in the paper's order: :mod:`.layer` (Section 2), :mod:`.operators` (Lemma 1), :mod:`.raw` (Lemmas 2 and 3),
:mod:`.programs` (Theorems 1 and 2), :mod:`.regression` and :mod:`.metrics` (Section 4), :mod:`.training` (Section 4.1),
:mod:`.probe` (Section 5). The four operations themselves are in :mod:`refimpl.primitives.column_operators`, least
squares and ridge in :mod:`refimpl.primitives.least_squares`.
"""

from refimpl.incontext.learning_algorithms.layer import LayerParams, transformer_layer, transformer_layer_vjp
from refimpl.incontext.learning_algorithms.metrics import (
    implicit_linear_weight_difference,
    implicit_linear_weights,
    mean_prediction_difference_below,
    squared_prediction_difference,
)
from refimpl.incontext.learning_algorithms.operators import (
    ATTENTION_STRENGTH,
    aff_layer,
    bypass_layer_norm,
    div_layer,
    mov_layer,
    mul_layer,
)
from refimpl.incontext.learning_algorithms.probe import (
    PositionAttentionProbe,
    fit_linear_probe,
    initial_probe,
    position_attention_probe,
    position_attention_probe_vjp,
    prefix_targets,
    train_probe,
)
from refimpl.incontext.learning_algorithms.programs import (
    Aff,
    CompiledLayer,
    Div,
    Mov,
    Mul,
    Program,
    ProgramResult,
    compile_program,
    encode_prompt,
    execute,
    gradient_descent_listing,
    gradient_descent_program,
    run_exactly,
    sherman_morrison_listing,
    sherman_morrison_program,
)
from refimpl.incontext.learning_algorithms.raw import ReadArithmeticWrite, raw, raw_layer
from refimpl.incontext.learning_algorithms.regression import (
    bayes_ridge_weights,
    gd_weights,
    knn_predict,
    least_norm_risk,
    linear_predictor,
    one_layer_rate,
    one_layer_risk,
    online_predictions,
    regularized_loss,
    regularized_loss_vjp,
    ridge_risk,
    sgd_weights,
    sherman_morrison_update,
)
from refimpl.incontext.learning_algorithms.training import (
    Learner,
    Prompts,
    initial_learner,
    learner_loss,
    learner_loss_vjp,
    learner_predictions,
    learner_predictions_vjp,
    learner_states,
    sample_law,
    sample_prompts,
    train_learner,
)

__all__ = [
    "ATTENTION_STRENGTH",
    "Aff",
    "CompiledLayer",
    "Div",
    "LayerParams",
    "Learner",
    "Mov",
    "Mul",
    "PositionAttentionProbe",
    "Program",
    "ProgramResult",
    "Prompts",
    "ReadArithmeticWrite",
    "aff_layer",
    "bayes_ridge_weights",
    "bypass_layer_norm",
    "compile_program",
    "div_layer",
    "encode_prompt",
    "execute",
    "fit_linear_probe",
    "gd_weights",
    "gradient_descent_listing",
    "gradient_descent_program",
    "implicit_linear_weight_difference",
    "implicit_linear_weights",
    "initial_learner",
    "initial_probe",
    "knn_predict",
    "learner_loss",
    "learner_loss_vjp",
    "learner_predictions",
    "learner_predictions_vjp",
    "learner_states",
    "least_norm_risk",
    "linear_predictor",
    "mean_prediction_difference_below",
    "mov_layer",
    "mul_layer",
    "one_layer_rate",
    "one_layer_risk",
    "online_predictions",
    "position_attention_probe",
    "position_attention_probe_vjp",
    "prefix_targets",
    "raw",
    "raw_layer",
    "regularized_loss",
    "regularized_loss_vjp",
    "ridge_risk",
    "run_exactly",
    "sample_law",
    "sample_prompts",
    "sgd_weights",
    "sherman_morrison_listing",
    "sherman_morrison_program",
    "sherman_morrison_update",
    "squared_prediction_difference",
    "train_learner",
    "train_probe",
    "transformer_layer",
    "transformer_layer_vjp",
]
