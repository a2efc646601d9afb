"""The dual form of gradient descent and of linear attention, and what softmax makes of it (Sections 2.2 and 3.1)."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from refimpl.primitives.attention import softmax_attention
from refimpl.primitives.checks import check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, constant, exp, row_max, row_sum, sqrt, transpose


def _apply(matrix: Array, vector: Array) -> Array:
    return np.asanyarray((matrix @ vector[..., None])[..., 0])


# --- gradient descent of a linear layer ---


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
    check_shapes(values=(values, "... d_value n"), keys=(keys, "... d n"), query=(query, "... d"))
    return _apply(values, _apply(transpose(keys), query))


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
    check_shapes(
        initial_weights=(initial_weights, "... d_out d_in"),
        errors=(errors, "... d_out n"),
        inputs=(inputs, "... d_in n"),
        x=(x, "... d_in"),
    )
    return _apply(initial_weights, x) + linear_attention(errors, inputs, x)


def linear_layer_sgd(weights: Array, inputs: Array, targets: Array, learning_rate: Any) -> tuple[Array, Array]:
    r"""One pass of gradient descent on $\frac12\lVert Wx_i-y_i\rVert^2$, one example a step.

    Parameters
    ----------
    weights : array, shape (..., d_out, d_in)
    inputs : array, shape (..., d_in, n)
    targets : array, shape (..., d_out, n)
    learning_rate : number > 0

    Returns
    -------
    The trained weights, and the errors $e_i=-\gamma(W_{i-1}x_i-y_i)$ of shape (..., d_out, n).

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
        errors.append(learning_rate * (targets[..., i : i + 1] - weights @ x))
        weights = weights + errors[-1] @ transpose(x)
    return weights, np.concatenate(errors, axis=-1)


# --- attention without softmax ---


def _check_demos(value: Array, key: Array, demos: Array) -> None:
    """As the shapes say, but no demonstration at all is a valid number of them."""
    empty = np.ndim(demos) >= 2 and np.shape(demos)[-1] == 0 and hasattr(demos, "dtype")
    padded = np.zeros((*np.shape(demos)[:-1], 1), dtype=demos.dtype) if empty else demos
    check_shapes(value=(value, "... d_value d"), key=(key, "... d_head d"), demos=(padded, "... d n_demos"))


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
    _check_demos(value, key, demos)
    return np.asanyarray((value @ demos) @ transpose(key @ demos))


def zero_shot_matrix(value: Array, key: Array, context: Array) -> Array:
    r"""$W_{ZSL}=W_VX(W_KX)^\top$, what attention does without demonstrations.

    Parameters and errors as in :func:`implicit_update`, but `context` (..., d, n_context) holds at least one token.

    Source: arXiv 2212.10559, Eq. 11.
    """
    check_shapes(value=(value, "... d_value d"), key=(key, "... d_head d"), context=(context, "... d n_context"))
    return np.asanyarray((value @ context) @ transpose(key @ context))


def _check_relaxed(value: Array, key: Array, demos: Array, context: Array, query: Array) -> None:
    check_shapes(
        value=(value, "... d_value d"),
        key=(key, "... d_head d"),
        demos=(demos, "... d n_demos"),
        context=(context, "... d n_context"),
        query=(query, "... d_head"),
    )


@checked(_check_relaxed)
def relaxed_attention(value: Array, key: Array, demos: Array, context: Array, query: Array) -> Array:
    r"""Attention over demonstrations and context without softmax and scale: $W_V[X';X](W_K[X';X])^\top q$.

    Parameters
    ----------
    value : array, shape (..., d_value, d)
    key : array, shape (..., d_head, d)
    demos : array, shape (..., d, n_demos)
    context : array, shape (..., d, n_context)
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
    return _apply(value @ tokens, _apply(transpose(key @ tokens), query))


@checked(_check_relaxed)
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
    check_shapes(
        value=(value, "... d_value d"),
        key=(key, "... d_head d"),
        value_change=(value_change, "... d_value d"),
        key_change=(key_change, "... d_head d"),
        context=(context, "... d n_context"),
    )
    old, changed = value @ context, value_change @ context
    key_moved = transpose(key_change @ context)
    return np.asanyarray(changed @ transpose(key @ context) + old @ key_moved + changed @ key_moved)


def duality_gap(value: Array, key: Array, demos: Array, context: Array, query: Array) -> float:
    r"""Largest distance between relaxed attention and $(W_{ZSL}+\Delta W_{ICL})q$, by which a faster form is judged.

    Parameters and errors as in :func:`relaxed_attention`.
    """
    matrix = zero_shot_matrix(value, key, context) + implicit_update(value, key, demos)
    return float(np.max(np.abs(relaxed_attention(value, key, demos, context, query) - _apply(matrix, query))))


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
        loss, to_mapped, to_values = -(values * mapped).sum(axis=(-1, -2)), -values, -mapped
    else:
        residual = values - mapped
        loss, to_mapped, to_values = (residual * residual).sum(axis=(-1, -2)) / 2, -residual, residual

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        factor = np.asanyarray(cotangent)[..., None, None]
        return factor * (to_mapped @ transpose(keys)), factor * to_values, factor * (transpose(weights) @ to_mapped)

    return np.asanyarray(loss), pullback


# --- attention with softmax ---


class SoftmaxSplit(NamedTuple):
    r"""$F=\mu\,\mathrm{Attn}(X;q)+(1-\mu)\,\mathrm{Attn}(X';q)$."""

    zero_shot_share: Array
    r"""$\mu$, shape ``(...)``."""
    zero_shot_part: Array
    """Attention over the context alone, shape ``(..., d_value)``."""
    demo_part: Array
    """Attention over the demonstrations alone, shape ``(..., d_value)``."""


def softmax_attention_split(value: Array, key: Array, demos: Array, context: Array, query: Array) -> SoftmaxSplit:
    r"""What softmax attention over demonstrations and context is made of, exactly.

    The share $\mu=Z_X/(Z_X+Z_{X'})$, $Z_S=\sum_{s\in S}e^{k_s^\top q/\sqrt{d'}}$, depends on the query, so that no
    fixed matrix added to a zero-shot matrix is the whole.

    Parameters and errors as in :func:`relaxed_attention`.

    Source: derived from arXiv 2212.10559, Eq. 10.
    """
    _check_relaxed(value, key, demos, context, query)
    tokens = np.concatenate([demos, context], axis=-1)
    scores = _apply(transpose(key @ tokens), query) / sqrt(constant(query.shape[-1], query))
    weights = exp(scores - row_max(scores))
    n_demos = demos.shape[-1]
    mass_demos, mass_context = row_sum(weights[..., :n_demos]), row_sum(weights[..., n_demos:])

    def part(columns: Array) -> Array:
        rows = softmax_attention.unchecked(query[..., None, :], transpose(key @ columns), transpose(value @ columns))
        return np.asanyarray(rows[..., 0, :])

    return SoftmaxSplit(np.asanyarray((mass_context / (mass_context + mass_demos))[..., 0]), part(context), part(demos))


def small_score_attention(values: Array, keys: Array, query: Array) -> Array:
    r"""Softmax attention to first order in the scores: $\bar v+\frac1{n\sqrt{d}}\sum_i(v_i-\bar v)k_i^\top q$.

    Parameters and errors as in :func:`linear_attention`.

    Source: derived; the zeroth-order term is what Eq. 11 of arXiv 2212.10559 loses.
    """
    check_shapes(values=(values, "... d_value n"), keys=(keys, "... d n"), query=(query, "... d"))
    n = values.shape[-1]
    mean = values.sum(axis=-1, keepdims=True) / n
    scores = _apply(transpose(keys), query) / sqrt(constant(query.shape[-1], query))
    return np.asanyarray(mean[..., 0] + _apply(values - mean, scores) / n)
