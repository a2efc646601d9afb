r"""The Closeness of In-Context Learning and Weight Shifting for Softmax Regression.

Shuai Li, Zhao Song, Yu Xia, Tong Yu, Tianyi Zhou. 2023, NeurIPS 2024. arXiv 2304.13276.

In-context learning is often explained on linear regression; here the model is the softmax unit itself,
$\min_x\frac12\lVert\langle e^{Ax},\mathbf 1\rangle^{-1}e^{Ax}-b\rVert^2$. A step of gradient descent moves the weights
$x$, a layer of self-attention moves the data $A$, and either has the effect of moving the target $b$. The paper bounds
both moves of the target by one factor, $M=n^{1.5}e^{10R^2}$ times the step. Here stand its gradient, Hessian and every
inequality of its chain, the sharp factors $\frac12\lVert A\rVert$ and $\frac12\lVert x\rVert$ beside them, and the
experiment in which a trained attention layer comes close to one step of gradient descent.

================================  ==================================  =================================================
Paper                             Code                                Shape
================================  ==================================  =================================================
$A$, rows $a_i$                   ``data``                            ``(..., n, d)``, n >= 2 words
$x$                               ``weights``                         ``(..., d)``
$b$, $\tilde b$                   ``target``, ``shifted_target``      ``(..., n)``
$u=e^{Ax}$, $\alpha$              ``exp_features``, ``normaliser``    ``(..., n)``, ``(...)``
$f=\alpha^{-1}u$                  ``softmax_prediction``              ``(..., n)``, on the simplex
$c=f-b$                           ``residual``                        ``(..., n)``
$L$, $\nabla_xL$, $\nabla_x^2L$   ``softmax_regression_loss``, ...    ``(...)``, ``(..., d)``, ``(..., d, d)``
$B$, $\nabla_x^2L=A^\top BA$      ``hessian_core``                    ``(..., n, n)``
$J=\operatorname{diag}f-ff^\top$  Jacobian of the softmax             ``(..., n, n)``, never formed
$R$, $\beta=e^{-R^2}$             ``radius``                          number >= 1; the theorem asks for 4
$M=n^{1.5}e^{10R^2}$              ``paper_shift_bound``               number, and its logarithm
$\eta$                            ``learning_rate``                   number > 0
$W_Q,W_K,W_V,P$                   ``query, key, value, projection``   of one attention head
$W$                               ``matrix`` of the attention model   ``(d, d)``
================================  ==================================  =================================================

The parts, in the paper's order: :mod:`.problem`, :mod:`.derivatives` and :mod:`.descent` for the regression,
:mod:`.shifts` and :mod:`.bounds` for the theorem, :mod:`.experiment`. Tasks are drawn by
:mod:`refimpl.tasks.softmax_regression`.
"""

from refimpl.incontext.softmax_regression.bounds import (
    SMALL_STEP,
    Assumptions,
    Inequality,
    ShiftFactor,
    ShiftReport,
    data_lipschitz_chain,
    data_shift_report,
    lipschitz_chain,
    paper_shift_bound,
    sharp_data_factor,
    sharp_weight_factor,
    weight_shift,
)
from refimpl.incontext.softmax_regression.derivatives import (
    core_product,
    gauss_newton,
    hessian,
    hessian_core,
    hessian_quadratic_form,
    hessian_vector_product,
    loss_gradient,
    loss_gradient_vjp,
)
from refimpl.incontext.softmax_regression.descent import (
    gradient_descent,
    regularised_newton_step,
)
from refimpl.incontext.softmax_regression.experiment import (
    TRAINING,
    AttentionTraining,
    ModelComparison,
    attention_model,
    attention_model_vjp,
    attention_sensitivity,
    attention_training,
    compare_models,
    grid_search_learning_rate,
    one_step_model,
    one_step_sensitivity,
    train_attention_model,
)
from refimpl.incontext.softmax_regression.problem import (
    exp_features,
    normaliser,
    residual,
    softmax_prediction,
    softmax_prediction_vjp,
    softmax_regression_loss,
    softmax_regression_loss_vjp,
)
from refimpl.incontext.softmax_regression.shifts import (
    accumulated_target,
    data_shift,
    equivalent_data_shift,
    linear_shifted_target,
    shifted_target,
)

__all__ = [
    "SMALL_STEP",
    "TRAINING",
    "Assumptions",
    "AttentionTraining",
    "Inequality",
    "ModelComparison",
    "ShiftFactor",
    "ShiftReport",
    "accumulated_target",
    "attention_model",
    "attention_model_vjp",
    "attention_sensitivity",
    "attention_training",
    "compare_models",
    "core_product",
    "data_lipschitz_chain",
    "data_shift",
    "data_shift_report",
    "equivalent_data_shift",
    "exp_features",
    "gauss_newton",
    "gradient_descent",
    "grid_search_learning_rate",
    "hessian",
    "hessian_core",
    "hessian_quadratic_form",
    "hessian_vector_product",
    "linear_shifted_target",
    "lipschitz_chain",
    "loss_gradient",
    "loss_gradient_vjp",
    "normaliser",
    "one_step_model",
    "one_step_sensitivity",
    "paper_shift_bound",
    "regularised_newton_step",
    "residual",
    "sharp_data_factor",
    "sharp_weight_factor",
    "shifted_target",
    "softmax_prediction",
    "softmax_prediction_vjp",
    "softmax_regression_loss",
    "softmax_regression_loss_vjp",
    "train_attention_model",
    "weight_shift",
]
