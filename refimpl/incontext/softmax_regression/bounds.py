r"""How far a step moves the effective target: the main theorem, the chain of inequalities behind it, and sharp bounds.

The paper bounds $\lVert\tilde b-b\rVert$ by $M=n^{1.5}e^{10R^2}$ times the step, the same for weights and data. So do
$\frac12\lVert A\rVert$ and $\frac12\lVert x\rVert$, without radius, size or small steps.
"""

from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.softmax_regression.problem import check_forward, check_problem, logits, softmax_prediction
from refimpl.incontext.softmax_regression.shifts import shifted_target
from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.normalization import log_sum_exp
from refimpl.primitives.numbers import Array, row_dot, row_max, row_sum, sqrt

SMALL_STEP = 0.01
"""The paper's bound on the change of a logit in one step."""

# --- the paper's factor, and the sharp ones ---


class ShiftFactor(NamedTuple):
    """A factor and its logarithm, for the factor overflows."""

    value: float
    log: float


def paper_shift_bound(n: int, radius: float) -> ShiftFactor:
    r"""$M=n^{1.5}e^{10R^2}$; infinite in float64 from $R=8.4$ on.

    Parameters
    ----------
    n : int >= 2
    radius : float >= 1
        $R$. The theorem asks for 4, the chain behind it for 1.

    Raises
    ------
    ValueError
        If `n` or `radius` is too small.

    Source: arXiv 2304.13276, the main theorem.
    """
    n, radius = check_integer("n", n, 2), check_number("radius", radius, "[1, inf)")
    log = float(1.5 * np.log(n) + 10 * radius**2)
    with np.errstate(over="ignore"):
        return ShiftFactor(float(np.exp(log)), log)


def sharp_weight_factor(data: Array) -> Array:
    r"""$\frac12\lVert A\rVert$: $\lVert f(A,x)-f(A,y)\rVert\le\frac12\lVert A\rVert\lVert x-y\rVert$ for all $x,y$
    (LAPACK: floats only).

    Because $v^\top Jv=\operatorname{Var}_fv\le\frac14(\max v-\min v)^2\le\frac12\lVert v\rVert^2$; attained at n = 2.

    Parameters
    ----------
    data : array, shape (..., n, d)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If `data` has another shape or an entry is not finite.
    """
    check_shapes(data=(data, "... n d"))
    return np.asanyarray(_spectral_norm(data) / 2)


def sharp_data_factor(weights: Array) -> Array:
    r"""$\frac12\lVert x\rVert$: $\lVert f(A,x)-f(A',x)\rVert\le\frac12\lVert x\rVert\lVert A-A'\rVert$ for all $A,A'$.

    Parameters
    ----------
    weights : array, shape (..., d)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If `weights` has another shape or an entry is not finite.
    """
    check_shapes(weights=(weights, "... d"))
    return np.asanyarray(_norm(weights) / 2)


class Inequality(NamedTuple):
    """The logarithms of the two sides of left <= right, each of shape (...)."""

    log_left: Array
    log_right: Array

    @property
    def log_ratio(self) -> Array:
        """Logarithm of left over right: at most 0 where the inequality holds, 0 where it is an equality."""
        return self.log_left - self.log_right


def lipschitz_chain(
    data: Array, weights: Array, next_weights: Array, radius: float, small_step: bool = True
) -> dict[str, Inequality]:
    r"""The inequalities from which the paper concludes that $f$ is Lipschitz in the weights (LAPACK: floats only).

    ==========================  ===================================================================================
    ``features``                (i) $\lVert u\rVert\le\sqrt ne^{R^2}$
    ``inverse_normaliser``      (ii) $\alpha^{-1}\le e^{R^2}$
    ``feature_shift``           (iii) $\lVert u-u'\rVert\le2\sqrt nRe^{R^2}\lVert x-x'\rVert$
    ``normaliser_shift``        (iv) $\lvert\alpha-\alpha'\rvert\le\sqrt n\lVert u-u'\rVert$
    ``inverse_shift``           (v) $\lvert\alpha^{-1}-\alpha'^{-1}\rvert\le e^{2R^2}\lvert\alpha-\alpha'\rvert$
    ``prediction_split``        (vi) $\lVert f-f'\rVert\le e^{R^2}\lVert u-u'\rVert+
                                \lvert\alpha^{-1}-\alpha'^{-1}\rvert\lVert u'\rVert$
    ``prediction_shift``        (vi) $\lVert f-f'\rVert\le(2\sqrt nRe^{2R^2}+2n^{1.5}Re^{4R^2})\lVert x-x'\rVert$
    ``theorem``                 $\lVert f-f'\rVert\le n^{1.5}e^{10R^2}\lVert x-x'\rVert$
    ==========================  ===================================================================================

    Parameters
    ----------
    data : array, shape (..., n, d), of spectral norm at most `radius`
    weights, next_weights : array, shape (..., d), of norm at most `radius`
    radius : float >= 1
        $R$.
    small_step : bool
        Ask for $\lVert A(x-x')\rVert_\infty<0.01$, which the paper needs for (iii).

    Returns
    -------
    dict of Inequality

    Raises
    ------
    ValueError
        If shapes do not fit, n < 2, an entry is not finite, or an array or the step is larger than stated.

    Source: arXiv 2304.13276, the lemmas on $u$, $\alpha$, $\alpha^{-1}$ and $f$.
    """
    check_forward(data, weights)
    check_forward(data, next_weights)
    difference = next_weights - weights
    norms = {"data": _spectral_norm(data), "weights": _norm(weights), "next_weights": _norm(next_weights)}
    z = logits(data, weights)
    return _chain(z, logits(data, difference), _norm(difference), norms, radius, small_step)


def data_lipschitz_chain(
    data: Array, next_data: Array, weights: Array, radius: float, small_step: bool = True
) -> dict[str, Inequality]:
    r"""The same for a step of the data: :func:`lipschitz_chain` with $\lVert A-A'\rVert$ for $\lVert x-x'\rVert$.

    Parameters
    ----------
    data, next_data : array, shape (..., n, d), of spectral norm at most `radius`
    weights : array, shape (..., d), of norm at most `radius`
    radius, small_step : as there, with $\lVert(A'-A)x\rVert_\infty<0.01$
    """
    check_forward(data, weights)
    check_forward(next_data, weights)
    difference = next_data - data
    norms = {"data": _spectral_norm(data), "next_data": _spectral_norm(next_data), "weights": _norm(weights)}
    z = logits(data, weights)
    return _chain(z, logits(difference, weights), _spectral_norm(difference), norms, radius, small_step)


def _chain(
    z: Array, change: Array, step: Array, norms: dict[str, Array], radius: float, small_step: bool
) -> dict[str, Inequality]:
    """The chain from the logits, their change and the norm of the step."""
    log_m = paper_shift_bound(z.shape[-1], radius).log
    for name, norm in norms.items():
        if not np.all(_at_most(norm, radius)):
            raise ValueError(f"{name}: expected a norm of at most {radius}, got {np.max(norm):.6g}")
    if small_step and not np.all(np.abs(change) < SMALL_STEP):
        raise ValueError(f"step: expected logits to move by less than {SMALL_STEP}, got {np.max(np.abs(change)):.6g}")
    log_n, square = np.log(z.shape[-1]), radius**2
    with np.errstate(divide="ignore"):  # a step of 0 has the logarithm -inf on both sides
        log_step = np.log(step)
        largest = row_max(z)
        # Relative to the largest, and from the change itself: no digits are lost to a small step.
        feature_change = np.exp(z - largest) * np.expm1(change)
        log_features, log_next_features = (log_sum_exp.unchecked(2 * logit) / 2 for logit in (z, z + change))
        log_alpha, log_next_alpha = (log_sum_exp.unchecked(logit) for logit in (z, z + change))
        log_feature_shift = largest[..., 0] + np.log(_norm(feature_change))
        log_normaliser_shift = largest[..., 0] + np.log(np.abs(row_sum(feature_change)[..., 0]))
        log_inverse_shift = log_normaliser_shift - log_alpha - log_next_alpha
        shift = np.exp(z + change - log_next_alpha[..., None]) - np.exp(z - log_alpha[..., None])
        log_shift = np.log(_norm(shift))
    log_split = np.logaddexp(square + log_feature_shift, log_inverse_shift + log_next_features)
    log_lipschitz = np.log(2 * radius) + np.logaddexp(log_n / 2 + 2 * square, 1.5 * log_n + 4 * square)
    return {
        "features": Inequality(np.maximum(log_features, log_next_features), log_n / 2 + square),
        "inverse_normaliser": Inequality(-np.minimum(log_alpha, log_next_alpha), np.asarray(square)),
        "feature_shift": Inequality(log_feature_shift, np.log(2 * radius) + log_n / 2 + square + log_step),
        "normaliser_shift": Inequality(log_normaliser_shift, log_n / 2 + log_feature_shift),
        "inverse_shift": Inequality(log_inverse_shift, 2 * square + log_normaliser_shift),
        "prediction_split": Inequality(log_shift, log_split),
        "prediction_shift": Inequality(log_shift, log_lipschitz + log_step),
        "theorem": Inequality(log_shift, log_m + log_step),
    }


# --- the two parts of the theorem ---


class Assumptions(NamedTuple):
    """Which of the theorem's assumptions hold; the sharp bound needs none of them."""

    radius_at_least_four: bool
    data_in_ball: Any
    """$\\lVert A\\rVert\\le R$ of all data: boolean, shape (...), as the following."""
    weights_in_ball: Any
    target_in_unit_ball: Any
    small_step: Any
    """No logit moves by 0.01."""

    def met(self) -> Any:
        """Whether all hold."""
        return np.logical_and.reduce(np.broadcast_arrays(*self))


class ShiftReport(NamedTuple):
    """What a shift does to the effective target, against both bounds."""

    target: Array
    r"""$\tilde b$, shape (..., n)."""
    shift_norm: Array
    r"""$\lVert\tilde b-b\rVert$, shape (...)."""
    log_paper_bound: Array
    """Logarithm of $M$ times the norm of the step."""
    sharp_bound: Array
    r"""$\frac12\lVert A\rVert\lVert\Delta x\rVert$ or $\frac12\lVert x\rVert\lVert\Delta A\rVert$."""
    assumptions: Assumptions


def weight_shift(data: Array, target: Array, weights: Array, next_weights: Array, radius: float) -> ShiftReport:
    r"""The first part of the main theorem: the weights move, the data stay (LAPACK: floats only).

    Parameters
    ----------
    data : array, shape (..., n, d)
    target : array, shape (..., n)
    weights, next_weights : array, shape (..., d)
        $x_t$ and $x_{t+1}$, of one step of gradient descent or any other.
    radius : float >= 1
        $R$; an assumption that fails is reported, and the report computed all the same.

    Returns
    -------
    ShiftReport

    Raises
    ------
    ValueError
        If shapes do not fit, n < 2, an entry is not finite or the radius is below 1.

    Source: arXiv 2304.13276, the main theorem, part 1.
    """
    check_problem(data, weights, target)
    check_forward(data, next_weights)
    step = next_weights - weights
    return _report(
        predictions=(softmax_prediction.unchecked(data, weights), softmax_prediction.unchecked(data, next_weights)),
        target=target,
        step_norm=_norm(step),
        sharp_factor=sharp_weight_factor(data),
        in_balls=(
            _at_most(_spectral_norm(data), radius),
            _at_most(_norm(weights), radius) & _at_most(_norm(next_weights), radius),
        ),
        change=logits(data, step),
        radius=radius,
    )


def data_shift_report(data: Array, next_data: Array, target: Array, weights: Array, radius: float) -> ShiftReport:
    r"""The second part of the main theorem: the data move, the weights stay (LAPACK: floats only).

    Parameters
    ----------
    data, next_data : array, shape (..., n, d)
        $A_t$ and $A_{t+1}$, of one step of self-attention (:func:`data_shift`) or any other.
    target : array, shape (..., n)
    weights : array, shape (..., d)
    radius : float >= 1

    Returns
    -------
    ShiftReport

    Raises
    ------
    ValueError
        As :func:`weight_shift`.

    Source: arXiv 2304.13276, the main theorem, part 2.
    """
    check_problem(data, weights, target)
    check_forward(next_data, weights)
    step = next_data - data
    return _report(
        predictions=(softmax_prediction.unchecked(data, weights), softmax_prediction.unchecked(next_data, weights)),
        target=target,
        step_norm=_spectral_norm(step),
        sharp_factor=sharp_data_factor(weights),
        in_balls=(
            _at_most(_spectral_norm(data), radius) & _at_most(_spectral_norm(next_data), radius),
            _at_most(_norm(weights), radius),
        ),
        change=logits(step, weights),
        radius=radius,
    )


def _report(
    predictions: tuple[Array, Array],
    target: Array,
    step_norm: Array,
    sharp_factor: Array,
    in_balls: tuple[Any, Any],
    change: Array,
    radius: float,
) -> ShiftReport:
    effective = shifted_target(*predictions, target)
    with np.errstate(divide="ignore"):
        log_bound = paper_shift_bound(target.shape[-1], radius).log + np.log(step_norm)
    assumptions = Assumptions(
        radius >= 4, *in_balls, _at_most(_norm(target), 1), np.max(np.abs(change), axis=-1) < SMALL_STEP
    )
    return ShiftReport(effective, _norm(effective - target), log_bound, sharp_factor * step_norm, assumptions)


# --- norms ---


def _norm(vectors: Array) -> Array:
    return sqrt(row_dot(vectors, vectors)[..., 0])


def _spectral_norm(matrices: Array) -> Array:
    return np.asanyarray(np.linalg.norm(matrices, ord=2, axis=(-2, -1)))


def _at_most(norm: Array, radius: float) -> Any:
    """Whether a norm is at most the radius, but for the rounding of the norm."""
    return norm <= radius * (1 + 64 * np.finfo(norm.dtype).eps)
