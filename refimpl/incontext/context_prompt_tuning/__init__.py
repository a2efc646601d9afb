r"""Context-aware Prompt Tuning: Advancing In-Context Learning with Adversarial Methods.

Tsachi Blau, Moshe Kimhi, Yonatan Belinkov, Alexander Bronstein, Chaim Baskin. 2024. arXiv 2410.17222.

In-context examples become the prompt that is trained. The model stays frozen; the embeddings of the examples' inputs
and templates move, each inside a small ball, by projected gradient descent on a loss that includes the labels inside
the context, later ones more. An attack would maximise such a loss in such balls; here it is minimised. Labels stay.
In the closed-form model below the gain over in-context learning comes from the labels in the context, for the appended
example can be copied.

==========================  =========================================  ====================================
Paper                       Code                                       Shape
==========================  =========================================  ====================================
$(x_i,y_i)$, $i=1..N$       ``context``, ``examples``                  ``Prompt``
$E$                         ``embedding[context.tokens]``              ``(n_tokens, d)``
$\delta$                    ``perturbation``                           ``(n_tokens, d)``
$\tau_p$                    ``types``                                  ``(n_tokens,)``, integers
$\epsilon$                  ``eps_input``, ``eps_format``, ``radius``  numbers >= 0
$r_p$                       ``radii``                                  ``(n_tokens,)``
$\gamma$                    ``decay``                                  number in (0, 1]
$w_j$                       ``label_loss_weights``                     ``(n_tokens,)``
$F$                         ``model``                                  embeddings -> logits, pullback
$X,\ \tilde X$              ``inputs, keys`` of the kernel model       ``(..., n, d)``
$\kappa,\ \beta$            ``sharpness, confidence``                  numbers > 0
==========================  =========================================  ====================================

The parts: :mod:`.tokens` (types, loss, projection), :mod:`.tuning` (the method and its baselines on any model),
:mod:`.kernel_model` (a frozen model in closed form) and :mod:`.language_model` (a small transformer on symbols).
"""

from refimpl.incontext.context_prompt_tuning.kernel_model import (
    FewShots,
    KernelTuning,
    few_shots,
    kernel_predict,
    kernel_prompt_loss,
    kernel_prompt_loss_vjp,
    recency_weights,
    tune_kernel_prompt,
    with_sinks,
)
from refimpl.incontext.context_prompt_tuning.language_model import (
    SetTask,
    as_prompt,
    draw_sets,
    label_predictions,
    pretrain,
    sample_examples,
)
from refimpl.incontext.context_prompt_tuning.tokens import (
    IGNORED,
    Prompt,
    build_sequence,
    cpt_loss,
    cpt_loss_vjp,
    label_loss_weights,
    label_mask,
    project_tokens,
    token_radii,
    token_type_mask,
    trainable_mask,
)
from refimpl.incontext.context_prompt_tuning.tuning import (
    CPTResult,
    context_prompt_tuning,
    cpt_step,
    diagnose_context,
    initial_virtual_tokens,
    instruction_prompt_tuning,
)
from refimpl.primitives.language_model import LanguageModel, next_token_logits, next_token_logits_vjp

__all__ = [
    "IGNORED",
    "CPTResult",
    "FewShots",
    "KernelTuning",
    "LanguageModel",
    "Prompt",
    "SetTask",
    "as_prompt",
    "build_sequence",
    "context_prompt_tuning",
    "cpt_loss",
    "cpt_loss_vjp",
    "cpt_step",
    "diagnose_context",
    "draw_sets",
    "few_shots",
    "initial_virtual_tokens",
    "instruction_prompt_tuning",
    "kernel_predict",
    "kernel_prompt_loss",
    "kernel_prompt_loss_vjp",
    "label_loss_weights",
    "label_mask",
    "label_predictions",
    "next_token_logits",
    "next_token_logits_vjp",
    "pretrain",
    "project_tokens",
    "recency_weights",
    "sample_examples",
    "token_radii",
    "token_type_mask",
    "trainable_mask",
    "tune_kernel_prompt",
    "with_sinks",
]
