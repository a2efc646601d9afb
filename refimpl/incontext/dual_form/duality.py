"""The dual form of gradient descent and of attention without softmax (Sections 2.2 and 3.1)."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from refimpl.primitives.checks import check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, transpose
from refimpl.primitives.traces import inner


def matrix_vector(matrix: Array, vector: Array) -> Array:
    """The product over batch axes; arguments unchecked."""
    return np.asanyarray((matrix @ vector[..., None])[..., 0])


# --- gradient descent of a linear layer ---


def _check_linear(values: Array, keys: Array, query: Array) -> None:
    check_shapes(values=(values, "... d_value n"), keys=(keys, "... d n"), query=(query, "... d"))


@checked(_check_linear)
def linear_attention(values: Array, keys: Array, query: Array) -> Array:
    r"""$\sum_iv_i(k_i^\top q)=V(K^\top q)$, tokens as columns.

    Parameters
    ----------
    values : array, shape (..., d_value, n)
    keys : array, shape (..., d, n)
    query : array, shape (..., d)

    Returns
    -------
    array, shape (..., d_value)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2212.10559, Eq. 6.
    """
    return matrix_vector(values, matrix_vector(transpose(keys), query))


def _check_dual(initial_weights: Array, errors: Array, inputs: Array, x: Array) -> None:
    check_shapes(
        initial_weights=(initial_weights, "... d_out d_in"),
        errors=(errors, "... d_out n"),
        inputs=(inputs, "... d_in n"),
        x=(x, "... d_in"),
    )


@checked(_check_dual)
def dual_form(initial_weights: Array, errors: Array, inputs: Array, x: Array) -> Array:
    r"""A trained linear layer without its trained weights: $W_0x+\sum_ie_i(x_i'^\top x)$.

    Parameters
    ----------
    initial_weights : array, shape (..., d_out, d_in)
    errors : array, shape (..., d_out, n)
        $e_i=-\gamma\,\partial L/\partial(\text{output}_i)$ at the weights of step $i$; errors at $W_0$ reproduce one
        step on the full batch only.
    inputs : array, shape (..., d_in, n)
    x : array, shape (..., d_in)

    Returns
    -------
    array, shape (..., d_out)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2212.10559, Eq. 9.
    """
    return np.asanyarray(matrix_vector(initial_weights, x) + linear_attention.unchecked(errors, inputs, x))


def _squared_error_gradient(prediction: Array, target: Array) -> Array:
    return prediction - target


def linear_layer_sgd(
    weights: Array,
    inputs: Array,
    targets: Array,
    learning_rate: Any,
    gradient: Callable[[Array, Array], Array] = _squared_error_gradient,
) -> tuple[Array, Array]:
    r"""One pass of gradient descent on $\ell(Wx_i,y_i)$, one example a step.

    Parameters
    ----------
    weights : array, shape (..., d_out, d_in)
    inputs : array, shape (..., d_in, n)
    targets : array, shape (..., d_out, n)
    learning_rate : number > 0
    gradient : maps prediction and target, columns of shape (..., d_out, 1), to the loss's gradient at the prediction
        That of $\ell=\frac12\lVert Wx-y\rVert^2$ if not given.

    Returns
    -------
    The trained weights, and the errors $e_i=-\gamma\,\partial\ell(W_{i-1}x_i,y_i)$ of shape (..., d_out, n).

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the rate is not positive.

    Source: arXiv 2212.10559, Eq. 7 and 8.
    """
    check_shapes(weights=(weights, "... d_out d_in"), inputs=(inputs, "... d_in n"), targets=(targets, "... d_out n"))
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    errors = []
    for i in range(inputs.shape[-1]):
        x = inputs[..., i : i + 1]
        errors.append(-learning_rate * gradient(weights @ x, targets[..., i : i + 1]))
        weights = weights + errors[-1] @ transpose(x)
    return weights, np.concatenate(errors, axis=-1)


def layer_duality_gap(initial_weights: Array, errors: Array, inputs: Array, x: Array) -> float:
    r"""Largest distance between $(W_0+\sum_ie_i\otimes x_i')x$ and :func:`dual_form`, by which a faster one is judged.

    Parameters and errors as in :func:`dual_form`.
    """
    attended = dual_form(initial_weights, errors, inputs, x)
    return _largest(matrix_vector(initial_weights + errors @ transpose(inputs), x) - attended)


def _largest(difference: Array) -> float:
    return float(np.max(np.abs(difference)))


# --- attention without softmax ---


def stand_in(demos: Array) -> Array:
    """The demonstrations; where there are none a zero one, for no demonstration is a valid number of them."""
    none = getattr(demos, "ndim", 0) >= 2 and demos.shape[-1] == 0
    return np.zeros((*demos.shape[:-1], 1), dtype=demos.dtype) if none else demos


def _check_update(value: Array, key: Array, demos: Array) -> None:
    check_shapes(value=(value, "... d_value d"), key=(key, "... d_head d"), demos=(stand_in(demos), "... d n_demos"))


@checked(_check_update)
def implicit_update(value: Array, key: Array, demos: Array) -> Array:
    r"""$\Delta W_{ICL}=\sum_i(W_Vx_i')\otimes(W_Kx_i')$, the matrix that the demonstrations add; zero without any.

    Parameters
    ----------
    value : array, shape (..., d_value, d)
    key : array, shape (..., d_head, d)
    demos : array, shape (..., d, n_demos), n_demos >= 0

    Returns
    -------
    array, shape (..., d_value, d_head)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2212.10559, Eq. 12.
    """
    return np.asanyarray((value @ demos) @ transpose(key @ demos))


def _check_zero_shot(value: Array, key: Array, context: Array) -> None:
    check_shapes(value=(value, "... d_value d"), key=(key, "... d_head d"), context=(context, "... d n_context"))


@checked(_check_zero_shot)
def zero_shot_matrix(value: Array, key: Array, context: Array) -> Array:
    r"""$W_{ZSL}=W_VX(W_KX)^\top$, what attention does without demonstrations.

    Parameters and errors as in :func:`implicit_update`, but `context` (..., d, n_context) holds at least one token.

    Source: arXiv 2212.10559, Eq. 11.
    """
    return np.asanyarray((value @ context) @ transpose(key @ context))


def _check_head(value: Array, key: Array, demos: Array, context: Array, query: Array) -> None:
    check_shapes(
        value=(value, "... d_value d"),
        key=(key, "... d_head d"),
        demos=(stand_in(demos), "... d n_demos"),
        context=(context, "... d n_context"),
        query=(query, "... d_head"),
    )


@checked(_check_head)
def relaxed_attention(value: Array, key: Array, demos: Array, context: Array, query: Array) -> Array:
    r"""Attention over demonstrations and context without softmax and scale: $W_V[X';X](W_K[X';X])^\top q$.

    Parameters
    ----------
    value : array, shape (..., d_value, d)
    key : array, shape (..., d_head, d)
    demos : array, shape (..., d, n_demos), n_demos >= 0
    context : array, shape (..., d, n_context), n_context >= 1
    query : array, shape (..., d_head)

    Returns
    -------
    array, shape (..., d_value)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2212.10559, Eq. 11.
    """
    tokens = np.concatenate([demos, context], axis=-1)
    return matrix_vector(value @ tokens, matrix_vector(transpose(key @ tokens), query))


@checked(_check_head)
def relaxed_attention_vjp(
    value: Array, key: Array, demos: Array, context: Array, query: Array
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array, Array, Array]]]:
    """:func:`relaxed_attention` and its pullback ``cotangent -> (value, key, demos, context, query)``."""
    tokens = np.concatenate([demos, context], axis=-1)
    keys = key @ tokens
    column = query[..., None]
    scores = transpose(keys) @ column
    read = tokens @ scores

    def pullback(cotangent: Array) -> tuple[Array, Array, Array, Array, Array]:
        upstream = cotangent[..., None]
        to_read = transpose(value) @ upstream
        to_scores = transpose(tokens) @ to_read
        to_key = column @ transpose(tokens @ to_scores)
        to_tokens = to_read @ transpose(scores) + transpose(key) @ column @ transpose(to_scores)
        n_demos = demos.shape[-1]
        to_query = (keys @ to_scores)[..., 0]
        return upstream @ transpose(read), to_key, to_tokens[..., :n_demos], to_tokens[..., n_demos:], to_query

    return np.asanyarray((value @ read)[..., 0]), pullback


def _check_explicit(value: Array, key: Array, value_change: Array, key_change: Array, context: Array) -> None:
    check_shapes(
        value=(value, "... d_value d"),
        key=(key, "... d_head d"),
        value_change=(value_change, "... d_value d"),
        key_change=(key_change, "... d_head d"),
        context=(context, "... d n_context"),
    )


@checked(_check_explicit)
def explicit_update(value: Array, key: Array, value_change: Array, key_change: Array, context: Array) -> Array:
    r"""$\Delta W_{FT}=\Delta W_VXX^\top W_K^\top+W_VXX^\top\Delta W_K^\top+\Delta W_VXX^\top\Delta W_K^\top$.

    Parameters
    ----------
    value, value_change : array, shape (..., d_value, d)
    key, key_change : array, shape (..., d_head, d)
    context : array, shape (..., d, n_context)

    Returns
    -------
    array, shape (..., d_value, d_head)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2212.10559, Eq. 13.
    """
    old, changed = value @ context, value_change @ context
    key_moved = transpose(key_change @ context)
    return np.asanyarray(changed @ transpose(key @ context) + old @ key_moved + changed @ key_moved)


def attention_duality_gap(value: Array, key: Array, demos: Array, context: Array, query: Array) -> float:
    r"""Largest distance between relaxed attention and $(W_{ZSL}+\Delta W_{ICL})q$, by which a faster form is judged.

    Parameters and errors as in :func:`relaxed_attention`.
    """
    attended = relaxed_attention(value, key, demos, context, query)
    matrix = zero_shot_matrix.unchecked(value, key, context) + implicit_update.unchecked(value, key, demos)
    return _largest(attended - matrix_vector(matrix, query))


def finetuning_duality_gap(
    value: Array, key: Array, value_change: Array, key_change: Array, context: Array, query: Array
) -> float:
    r"""Largest distance between fine-tuned relaxed attention and $(W_{ZSL}+\Delta W_{FT})q$.

    Parameters and errors as in :func:`explicit_update`, with a query (..., d_head).
    """
    _check_explicit(value, key, value_change, key_change, context)
    tuned = value + value_change, key + key_change
    attended = relaxed_attention(*tuned, context[..., :0], context, query)
    update = explicit_update.unchecked(value, key, value_change, key_change, context)
    return _largest(attended - matrix_vector(zero_shot_matrix.unchecked(value, key, context) + update, query))


def _check_loss(weights: Array, values: Array, keys: Array, kind: Literal["bilinear", "squared"] = "bilinear") -> None:
    check_shapes(weights=(weights, "... d_value d"), values=(values, "... d_value n"), keys=(keys, "... d n"))
    if kind not in ("bilinear", "squared"):
        raise ValueError(f"kind: expected 'bilinear' or 'squared', got {kind!r}")


@checked(_check_loss)
def implied_loss(
    weights: Array, values: Array, keys: Array, kind: Literal["bilinear", "squared"] = "bilinear"
) -> Array:
    r"""A loss of which $\Delta W_{ICL}$ is the negative gradient.

    $$-\sum_iv_i^\top Wk_i\ \text{ (bilinear, at every }W),\qquad\tfrac12\sum_i\lVert v_i-Wk_i\rVert^2\ \text{ (squared,
    at }W=0\text{ only)}$$

    Parameters
    ----------
    weights : array, shape (..., d_value, d)
    values : array, shape (..., d_value, n)
    keys : array, shape (..., d, n)
    kind : "bilinear" or "squared"

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or `kind` is unknown.

    Source: derived; arXiv 2212.10559, Section 3.1 leaves the loss open.
    """
    return implied_loss_vjp.unchecked(weights, values, keys, kind)[0]


@checked(_check_loss)
def implied_loss_vjp(
    weights: Array, values: Array, keys: Array, kind: Literal["bilinear", "squared"] = "bilinear"
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    """:func:`implied_loss` and its pullback ``cotangent -> (weights, values, keys)``."""
    mapped = weights @ keys
    if kind == "bilinear":
        loss, to_mapped, to_values = -inner(values, mapped), -values, -mapped
    else:
        residual = values - mapped
        loss, to_mapped, to_values = inner(residual, residual) / 2, -residual, residual

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        factor = np.asanyarray(cotangent)[..., None, None]
        return factor * (to_mapped @ transpose(keys)), factor * to_values, factor * (transpose(weights) @ to_mapped)

    return np.asanyarray(loss[..., 0, 0]), pullback
