r"""One layer of linear self-attention, its effective weights, and the weights with which it is one gradient step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.linear_systems import check_positive_definite, solve
from refimpl.primitives.numbers import Array, is_symbolic, transpose


class AttentionWeights(NamedTuple):
    """The layer as it is trained; a gradient has the same type."""

    key: Array
    """$W_K$, shape ``(d + 1, d + 1)``, as the next two."""
    query: Array
    value: Array
    head: Array
    """$h$, shape ``(d + 1,)``."""


class EffectiveWeights(NamedTuple):
    """All that the prediction depends on; a gradient has the same type."""

    value: Array
    """$w=W_V^\\top h=[u;c]$, shape ``(d + 1,)``."""
    key_query: Array
    """$M=[M_1;m^\\top]$, the first $d$ columns of $W_K^\\top W_Q$, shape ``(d + 1, d)``."""


# --- the prediction ---


def check_weights(weights: EffectiveWeights, batched: bool = False) -> int:
    """Raise ``ValueError`` unless the shapes fit; return the number of inputs."""
    lead = "... " if batched else ""
    sizes = check_shapes(
        value=(weights.value, f"{lead}token_size"), key_query=(weights.key_query, f"{lead}token_size n_inputs")
    )
    return _check_token_size("value", sizes["token_size"], sizes["n_inputs"])


def _check_token_size(name: str, token_size: int, n_inputs: int) -> int:
    if token_size != n_inputs + 1:
        raise ValueError(f"{name}: expected {n_inputs + 1} entries, one more than inputs, got {token_size}")
    return n_inputs


def _check_predict(weights: EffectiveWeights, x: Array, y: Array, x_query: Array) -> None:
    n_inputs = check_weights(weights)
    _check_prompt(x, y, x_query, n_inputs)


def _check_prompt(x: Array, y: Array, x_query: Array, n_inputs: int) -> None:
    check_shapes(x=(x, f"... n_context {n_inputs}"), y=(y, "... n_context"), x_query=(x_query, f"... {n_inputs}"))


@checked(_check_predict)
def lsa_predict(weights: EffectiveWeights, x: Array, y: Array, x_query: Array) -> Array:
    r"""$\hat y=w^\top G_DM\,x_{n+1}=\sum_{i\le n}(w^\top v_i)(v_i^\top Mx_{n+1})$: no softmax, no $1/n$, no residual.

    Parameters
    ----------
    weights : EffectiveWeights
    x : array, shape (..., n_context, d)
    y : array, shape (..., n_context)
    x_query : array, shape (..., d)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2307.03576, Section 2.
    """
    tokens = np.concatenate([x, y[..., None]], axis=-1)
    read = tokens @ weights.value[:, None]
    scores = tokens @ (weights.key_query @ x_query[..., None])
    return np.asanyarray((transpose(read) @ scores)[..., 0, 0])


@checked(_check_predict)
def lsa_predict_vjp(
    weights: EffectiveWeights, x: Array, y: Array, x_query: Array
) -> tuple[Array, Callable[[Array], tuple[EffectiveWeights, Array, Array, Array]]]:
    """:func:`lsa_predict` and its pullback ``cotangent -> (weights, x, y, x_query)``."""
    prediction, pull_weights = predict_and_pull_weights(weights, x, y, x_query)

    def pullback(cotangent: Array) -> tuple[EffectiveWeights, Array, Array, Array]:
        tokens = np.concatenate([x, y[..., None]], axis=-1)
        projected = weights.key_query @ x_query[..., None]
        cotangent = np.asanyarray(cotangent)
        to_read = cotangent[..., None, None] * (tokens @ projected)
        to_scores = cotangent[..., None, None] * (tokens @ weights.value[:, None])
        to_tokens = to_read * weights.value + to_scores * transpose(projected)
        to_query = (weights.key_query.T @ (transpose(tokens) @ to_scores))[..., 0]
        return pull_weights(cotangent), to_tokens[..., :-1], to_tokens[..., -1], to_query

    return prediction, pullback


def predict_and_pull_weights(
    weights: EffectiveWeights, x: Array, y: Array, x_query: Array
) -> tuple[Array, Callable[[Array], EffectiveWeights]]:
    """:func:`lsa_predict` and the pullback to the weights alone, which is all that training needs; unchecked.

    Tokens have their entries first and the tasks last: NumPy's inner loops then run over the many tasks.
    """
    batch, (n_context, n_inputs) = x.shape[:-2], x.shape[-2:]
    queries = x_query.reshape(-1, n_inputs)
    tokens = np.empty_like(x, shape=(n_inputs + 1, n_context, len(queries)))
    tokens[:-1] = x.reshape(-1, n_context, n_inputs).transpose(2, 1, 0)
    tokens[-1] = y.reshape(-1, n_context).T
    columns = tokens.reshape(n_inputs + 1, -1)
    read = (weights.value @ columns).reshape(n_context, -1)
    scores = np.add.reduce(tokens * (weights.key_query @ queries.T)[:, None], axis=0)

    def pullback(cotangent: Array) -> EffectiveWeights:
        cotangent = np.asanyarray(cotangent).reshape(-1)
        return EffectiveWeights(
            value=columns @ (cotangent * scores).reshape(-1),
            key_query=np.add.reduce(tokens * (cotangent * read), axis=1) @ queries,
        )

    return np.add.reduce(read * scores, axis=0).reshape(batch), pullback


def _over_batch(left: Array, right: Array) -> Array:
    """The sum over all leading axes of the products of the transposes of `left` with `right`: one matrix product."""
    return np.asanyarray(left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1]))


# --- the layer itself ---


def _check_full(weights: AttentionWeights, x: Array, y: Array, x_query: Array) -> None:
    n_inputs = check_attention_weights(weights)
    _check_prompt(x, y, x_query, n_inputs)


def check_attention_weights(weights: AttentionWeights) -> int:
    """Raise ``ValueError`` unless the shapes fit; return the number of inputs."""
    sizes = check_shapes(
        **{name: (getattr(weights, name), "token_size token_size") for name in ("key", "query", "value")},
        head=(weights.head, "token_size"),
    )
    if sizes["token_size"] < 2:
        raise ValueError(f"key: expected at least 2 rows, an input and a target, got {sizes['token_size']}")
    return int(sizes["token_size"]) - 1


@checked(_check_full)
def lsa_predict_full(weights: AttentionWeights, x: Array, y: Array, x_query: Array) -> Array:
    r"""$\hat y=h^\top\sum_{i\le n}W_Vv_i\,(v_i^\top W_K^\top W_Qv_{n+1})$, the layer as it is trained.

    Tokens are $v_i=[x_i;y_i]$ and $v_{n+1}=[x_{n+1};0]$. The query's token asks, and gives no key and no value.

    Parameters
    ----------
    weights : AttentionWeights
    x, y, x_query : as for :func:`lsa_predict`

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2307.03576, Section 2.
    """
    tokens = np.concatenate([x, y[..., None]], axis=-1)
    keys, values = tokens @ transpose(weights.key), tokens @ transpose(weights.value)
    query = weights.query[:, :-1] @ x_query[..., None]
    return np.asanyarray((transpose(values @ weights.head[:, None]) @ (keys @ query))[..., 0, 0])


@checked(_check_full)
def lsa_predict_full_vjp(
    weights: AttentionWeights, x: Array, y: Array, x_query: Array
) -> tuple[Array, Callable[[Array], tuple[AttentionWeights, Array, Array, Array]]]:
    """:func:`lsa_predict_full` and its pullback ``cotangent -> (weights, x, y, x_query)``."""
    tokens = np.concatenate([x, y[..., None]], axis=-1)
    keys, values = tokens @ transpose(weights.key), tokens @ transpose(weights.value)
    query = weights.query[:, :-1] @ x_query[..., None]
    read, scores = values @ weights.head[:, None], keys @ query

    def pullback(cotangent: Array) -> tuple[AttentionWeights, Array, Array, Array]:
        cotangent = np.asanyarray(cotangent)[..., None, None]
        to_read, to_scores = cotangent * scores, cotangent * read
        to_values, to_keys = to_read * weights.head, to_scores * transpose(query)
        to_query = transpose(keys) @ to_scores
        to_query_matrix = np.zeros_like(weights.query)
        to_query_matrix[:, :-1] = _over_batch(transpose(to_query), x_query[..., None, :])
        to_weights = AttentionWeights(
            key=_over_batch(to_keys, tokens),
            query=to_query_matrix,
            value=_over_batch(to_values, tokens),
            head=_over_batch(values, to_read)[:, 0],
        )
        to_tokens = to_keys @ weights.key + to_values @ weights.value
        return to_weights, to_tokens[..., :-1], to_tokens[..., -1], (weights.query[:, :-1].T @ to_query)[..., 0]

    return np.asanyarray((transpose(read) @ scores)[..., 0, 0]), pullback


def effective_weights(weights: AttentionWeights) -> EffectiveWeights:
    r"""$w=W_V^\top h$ and the first $d$ columns of $W_K^\top W_Q$; the last meets the query token's zero.

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2307.03576, Section 2 and the proof of Theorem 1.
    """
    check_attention_weights(weights)
    value = transpose(weights.value) @ weights.head[:, None]
    return EffectiveWeights(value[:, 0], transpose(weights.key) @ weights.query[:, :-1])


# --- gradient descent ---


def gd_lsa_parameters(n_inputs: int, learning_rate: Any) -> AttentionWeights:
    r"""Weights with which the layer is a gradient step: $W_K=W_Q=\mathrm{diag}(I_d,0)$, $W_V=I$, $h=\eta e_{d+1}$.

    The step starts from zero and descends the **sum** $\frac12\sum_i(w^\top x_i-y_i)^2$, so that
    $\hat y=\eta\sum_iy_ix_i^\top x_{n+1}$; a rate for the mean is $n\eta$.

    Parameters
    ----------
    n_inputs : int >= 1
    learning_rate : number >= 0

    Returns
    -------
    AttentionWeights in float64, or of symbols

    Raises
    ------
    ValueError
        If an argument is out of range.

    Source: arXiv 2307.03576, Theorem 1.
    """
    n_inputs = check_integer("n_inputs", n_inputs, 1)
    learning_rate = check_number("learning_rate", learning_rate, "[0, inf)")
    identity = np.eye(n_inputs + 1, dtype=object if is_symbolic(learning_rate) else np.float64)
    on_x = identity.copy()
    on_x[-1, -1] = 0
    return AttentionWeights(on_x, on_x.copy(), identity, learning_rate * identity[-1])


def preconditioned_lsa_parameters(cov_x: Array, learning_rate: Any) -> EffectiveWeights:
    r"""$w=e_{d+1}$, $M=[\eta\Sigma^{-1};0]$, with which $\hat y=\eta\sum_iy_i(\Sigma^{-1}x_i)^\top x_{n+1}$.

    Parameters
    ----------
    cov_x : array, shape (d, d), symmetric positive definite
    learning_rate : number >= 0

    Returns
    -------
    EffectiveWeights in the covariance's dtype

    Raises
    ------
    ValueError
        If an argument is out of range.

    Source: arXiv 2307.03576, Theorem 2.
    """
    cov_x = check_positive_definite("cov_x", cov_x)
    learning_rate = check_number("learning_rate", learning_rate, "[0, inf)")
    return on_products(learning_rate * solve(cov_x, np.eye(len(cov_x), dtype=cov_x.dtype)))


def on_products(matrix: Array) -> EffectiveWeights:
    r"""$w=e_{d+1}$, $M=[M_1;0]$: the weights of the predictor $(X^\top y)^\top M_1x_{n+1}$; `matrix` unchecked.

    Parameters
    ----------
    matrix : array, shape (..., d, d)
    """
    zeros = 0 * matrix[..., :1, :]
    value = np.concatenate([zeros[..., 0, :], zeros[..., 0, :1] + 1], axis=-1)
    return EffectiveWeights(value, np.concatenate([matrix, zeros], axis=-2))
