r"""Why Can GPT Learn In-Context? Language Models Implicitly Perform Gradient Descent as Meta-Optimizers.

Damai Dai, Yutao Sun, Li Dong, Yaru Hao, Shuming Ma, Zhifang Sui, Furu Wei. 2022. arXiv 2212.10559.

A linear layer trained by gradient descent is linear attention over its training inputs. Read backwards, attention over
demonstrations without its softmax adds a sum of outer products to the matrix that acts without them. The identity is
exact for linear attention only: softmax attention mixes two answers with a weight that depends on the query, and no
fixed matrix does that. The paper compares the update with that of fine-tuning keys and values on the same
demonstrations, and carries momentum over from gradients to values.

=================================  ======================================  ============================
Paper                              Code                                    Shape
=================================  ======================================  ============================
$q=W_Qx$                           ``query``                               ``(..., d_head)``
$X'$                               ``demos``, columns                      ``(..., d, n_demos)``
$X$                                ``context``, columns                    ``(..., d, n_context)``
$W_V,W_K,W_Q$                      ``value, key, query`` of a ``Head``     ``(..., d_head, d)``
$W_{ZSL}$                          ``zero_shot_matrix``                    ``(..., d_value, d_head)``
$\Delta W_{ICL}$                   ``implicit_update``                     ``(..., d_value, d_head)``
$\Delta W_{FT}$                    ``explicit_update``                     ``(..., d_value, d_head)``
$e_i,\ x_i'$                       ``errors, inputs``, columns             ``(..., d_out, n)``, ``(..., d_in, n)``
$\gamma,\ \eta$                    ``learning_rate, eta``                  numbers
=================================  ======================================  ============================

The parts: :mod:`.duality` (the identities), :mod:`.softmax` (what they are not), :mod:`.momentum`, :mod:`.finetuning`
(a head that learns both ways), :mod:`.trained` (a transformer that does) and :mod:`.metrics` (how alike the two are).
"""

from refimpl.incontext.dual_form.duality import (
    attention_duality_gap,
    dual_form,
    explicit_update,
    finetuning_duality_gap,
    implicit_update,
    implied_loss,
    implied_loss_vjp,
    layer_duality_gap,
    linear_attention,
    linear_layer_sgd,
    relaxed_attention,
    relaxed_attention_vjp,
    zero_shot_matrix,
)
from refimpl.incontext.dual_form.finetuning import (
    Head,
    Outputs,
    ShotTasks,
    constructed_head,
    finetune_key_value,
    in_context_outputs,
    label_logits,
    sample_shot_tasks,
)
from refimpl.incontext.dual_form.metrics import (
    attention_map_similarity,
    attention_output_update_similarity,
    example_weights,
    finetuning_weights,
    in_context_weights,
    kendall_tau,
    random_update,
    recall_to_finetuning,
    top_k_recall,
)
from refimpl.incontext.dual_form.momentum import (
    heavy_ball,
    momentum_attend,
    momentum_attention,
    momentum_attention_vjp,
    momentum_gradient_descent,
    momentum_kernel,
    momentum_multi_head_attention,
    momentum_multi_head_attention_vjp,
    momentum_sum,
    momentum_sum_derivative,
    momentum_sum_vjp,
)
from refimpl.incontext.dual_form.softmax import (
    SoftmaxSplit,
    full_attention,
    full_attention_vjp,
    small_score_attention,
    softmax_attention_split,
)
from refimpl.incontext.dual_form.trained import (
    Prompts,
    Records,
    candidate_logits,
    candidate_loss_and_gradient,
    finetune_transformer,
    record,
    shot_prompts,
    shot_training,
)

__all__ = [
    "Head",
    "Outputs",
    "Prompts",
    "Records",
    "ShotTasks",
    "SoftmaxSplit",
    "attention_duality_gap",
    "attention_map_similarity",
    "attention_output_update_similarity",
    "candidate_logits",
    "candidate_loss_and_gradient",
    "constructed_head",
    "dual_form",
    "example_weights",
    "explicit_update",
    "finetune_key_value",
    "finetune_transformer",
    "finetuning_duality_gap",
    "finetuning_weights",
    "full_attention",
    "full_attention_vjp",
    "heavy_ball",
    "implicit_update",
    "implied_loss",
    "implied_loss_vjp",
    "in_context_outputs",
    "in_context_weights",
    "kendall_tau",
    "label_logits",
    "layer_duality_gap",
    "linear_attention",
    "linear_layer_sgd",
    "momentum_attend",
    "momentum_attention",
    "momentum_attention_vjp",
    "momentum_gradient_descent",
    "momentum_kernel",
    "momentum_multi_head_attention",
    "momentum_multi_head_attention_vjp",
    "momentum_sum",
    "momentum_sum_derivative",
    "momentum_sum_vjp",
    "random_update",
    "recall_to_finetuning",
    "record",
    "relaxed_attention",
    "relaxed_attention_vjp",
    "sample_shot_tasks",
    "shot_prompts",
    "shot_training",
    "small_score_attention",
    "softmax_attention_split",
    "top_k_recall",
    "zero_shot_matrix",
]
