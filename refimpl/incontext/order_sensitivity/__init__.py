r"""Do pretrained Transformers Learn In-Context by Gradient Descent?

Lingfeng Shen, Aayush Mishra, Daniel Khashabi. 2023, ICML 2024. arXiv 2310.08540.

That a transformer *can* run gradient descent does not say that pretrained models *do*. The paper tests the difference
on three counts: constructed weights are almost all zeros and of low rank, trained ones are not; in-context learning
depends on the order of the demonstrations, gradient descent on all of them does not; and output distributions differ.
Here stand the construction, the metrics, the learners that are compared, and what limits each argument: sparsity is a
property of a basis, one layer of attention is free of the order too, and larger batches are stable because they step
less often.

=================================  =================================  ==================================================
Paper                              Code                               Shape
=================================  =================================  ==================================================
$S=(z_1,\dots,z_N)$                ``inputs``, ``labels``             ``(n_demos, d)`` and integers ``(n_demos,)``
$\pi$                              ``orders``                         integers ``(n_orders, n_demos)``
$V$                                ``n_tokens``                       number of tokens or classes
$M(\cdot\mid S_\pi,x)$             ``icl``, ``distributions``         ``(n_orders, n_test, n_tokens)``, on the simplex
$M_{\Theta(S_\pi)}(\cdot\mid x)$   ``gd``                             the same
$\mathrm{Sen}$                     ``order_sensitivity``              number
$K$                                ``k``                              int, 10
GD, $\widehat{GD}$                 ``training_epochs``                on a model; on one block's value matrices
ICL, $\widehat{ICL}$               ``Pretraining.objective``          "text" (every token), "labels" (those alone)
$W_K,W_Q,W_V,P$                    ``LinearAttentionWeights``         each ``(n_heads, D, D)``
$\delta$                           ``delta``                          number > 0, 1e2 to 1e6
=================================  =================================  ==================================================

The parts: :mod:`.weights` (Section 3), :mod:`.sensitivity` (Section 4) with the learners of :mod:`.finetuning` and
:mod:`.stacks`, :mod:`.similarity` (Section 5), and :mod:`.language`, a small model trained here. The constructed
weights themselves are :func:`refimpl.primitives.linear_self_attention.gradient_descent_weights`.
"""

from refimpl.incontext.order_sensitivity.finetuning import (
    label_loss,
    label_loss_vjp,
    of_value_matrix,
    order_dependent_term,
    regression_distributions,
    regression_epochs,
    small_step_coefficient,
    train_on_demonstrations,
    training_epochs,
    value_matrix,
    with_value_matrix,
)
from refimpl.incontext.order_sensitivity.language import (
    LabelTask,
    Pretraining,
    bayes_label_probabilities,
    draw_chain,
    draw_maps,
    in_context_distributions,
    pretraining_steps,
    zero_shot_loss,
)
from refimpl.incontext.order_sensitivity.sensitivity import (
    OrderSensitivityReport,
    OrderSensitivityTest,
    all_orders,
    order_and_reverse,
    order_sensitivity,
    order_sensitivity_test,
    random_orders,
    sensitivity_report,
)
from refimpl.incontext.order_sensitivity.similarity import (
    Comparison,
    Similarity,
    compare_icl_gd,
    full_vocabulary_accuracy,
    overlap_cosine,
    token_overlap,
)
from refimpl.incontext.order_sensitivity.stacks import (
    AttentionStack,
    icl_distributions,
    random_attention_stack,
    stack_label_loss,
    stack_logits,
    stack_logits_vjp,
)
from refimpl.incontext.order_sensitivity.weights import (
    SingularProfile,
    change_basis,
    gd_equivalent,
    response_tensor,
    singular_profile,
    sparsity_ratio,
)
from refimpl.primitives.linear_self_attention import (
    LinearAttentionWeights,
    gradient_descent_weights,
    linear_self_attention,
)

__all__ = [
    "AttentionStack",
    "Comparison",
    "LabelTask",
    "LinearAttentionWeights",
    "OrderSensitivityReport",
    "OrderSensitivityTest",
    "Pretraining",
    "Similarity",
    "SingularProfile",
    "all_orders",
    "bayes_label_probabilities",
    "change_basis",
    "compare_icl_gd",
    "draw_chain",
    "draw_maps",
    "full_vocabulary_accuracy",
    "gd_equivalent",
    "gradient_descent_weights",
    "icl_distributions",
    "in_context_distributions",
    "label_loss",
    "label_loss_vjp",
    "linear_self_attention",
    "of_value_matrix",
    "order_and_reverse",
    "order_dependent_term",
    "order_sensitivity",
    "order_sensitivity_test",
    "overlap_cosine",
    "pretraining_steps",
    "random_attention_stack",
    "random_orders",
    "regression_distributions",
    "regression_epochs",
    "response_tensor",
    "sensitivity_report",
    "singular_profile",
    "small_step_coefficient",
    "sparsity_ratio",
    "stack_label_loss",
    "stack_logits",
    "stack_logits_vjp",
    "token_overlap",
    "train_on_demonstrations",
    "training_epochs",
    "value_matrix",
    "with_value_matrix",
    "zero_shot_loss",
]
