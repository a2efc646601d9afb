r"""A transformer whose layers are Newton iterations (Section 5, Theorem 5.1 and Appendix B).

Tokens are columns. Identity behind every layer: $\mathrm{ReLU}(z)-\mathrm{ReLU}(-z)=z$, so that two heads with opposite
scores *and* opposite values (the paper prints equal ones) are one linear head, and two hidden units one linear unit.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from refimpl.primitives.checks import Checked, check_integer, check_number, check_shapes, checked
from refimpl.primitives.column_operators import mov, mul
from refimpl.primitives.linear_self_attention import sum_batch
from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.numbers import Array, constant, positive_part, transpose, unit_step
from refimpl.tasks.linear_regression import interleave_prompt


class ReluHeads(NamedTuple):
    """The heads of a ReLU attention layer; a gradient has the same type."""

    query: Array
    """Shape ``(n_heads, m, D)``."""
    key: Array
    """Shape ``(n_heads, m, D)``."""
    value: Array
    """Shape ``(n_heads, D, D)``."""


class ReluMLP(NamedTuple):
    """One hidden layer without biases; a gradient has the same type."""

    inner: Array
    """Shape ``(width, D)``."""
    outer: Array
    """Shape ``(D, width)``."""


# --- the layer ---


def _check_attention(
    hidden: Array, heads: ReluHeads, n_context: Any | None = None, key_columns: Sequence[int] | None = None
) -> None:
    check_shapes(
        hidden=(hidden, "... D n_columns"),
        query=(heads.query, "n_heads m D"),
        key=(heads.key, "n_heads m D"),
        value=(heads.value, "n_heads D D"),
    )
    if n_context is not None:
        check_integer("n_context", n_context, 1)
    if key_columns is not None:
        for column in key_columns:
            check_integer("key_columns", column, 0, hidden.shape[-1] - 1)
        if not len(key_columns) or len(set(key_columns)) != len(key_columns):
            raise ValueError(f"key_columns: expected at least one column, all different, got {list(key_columns)}")


@checked(_check_attention)
def relu_attention(
    hidden: Array, heads: ReluHeads, n_context: Any | None = None, key_columns: Sequence[int] | None = None
) -> Array:
    r"""$\tilde h_t=h_t+\sum_m\sum_j\sigma(\langle Q_mh_t,K_mh_j\rangle)V_mh_j$, $\sigma$ a ReLU over $n$ or over $t$.

    Parameters
    ----------
    hidden : array, shape (..., D, n_columns)
    heads : ReluHeads
    n_context : int >= 1, or None
        With the $n$ of $\frac1n\mathrm{ReLU}$ every column attends to every key. Without, the layer is causal: column
        $t=1,2,\dots$ attends to the keys $j\le t$ with $\frac1t\mathrm{ReLU}$.
    key_columns : sequence of ints, or None for all
        The columns that give keys and values.

    Returns
    -------
    array, shape (..., D, n_columns)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, `n_context` is below 1 or a key column is out of range.

    Source: arXiv 2310.17086, Definitions 3.1 (causal) and B.1 (full).
    """
    return _attend(hidden, heads, n_context, key_columns)[0]


@checked(_check_attention)
def relu_attention_vjp(
    hidden: Array, heads: ReluHeads, n_context: Any | None = None, key_columns: Sequence[int] | None = None
) -> tuple[Array, Callable[[Array], tuple[Array, ReluHeads]]]:
    """:func:`relu_attention` and its pullback ``cotangent -> (hidden, heads)``, with derivative 0 at the kink."""
    keys = _keys(hidden, key_columns)
    output, (tokens, keyed, queried, scores, attention, gathered) = _attend(hidden, heads, n_context, key_columns)
    query, key = _flat(heads.query), _flat(heads.key)

    def pullback(cotangent: Array) -> tuple[Array, ReluHeads]:
        to_gathered = np.stack([transpose(matrix) @ cotangent for matrix in heads.value], axis=-3)
        to_attention = transpose(tokens)[..., None, :, :] @ to_gathered
        to_scores = _normalise(to_attention, keys, n_context) * unit_step(scores)
        to_queried = _flat(keyed @ to_scores)
        to_keyed = _flat(queried @ transpose(to_scores))
        to_hidden = cotangent + transpose(query) @ to_queried
        to_tokens = transpose(key) @ to_keyed + (to_gathered @ transpose(attention)).sum(axis=-3)
        to_hidden[..., keys] += to_tokens
        to_value = cotangent[..., None, :, :] @ transpose(gathered)
        return to_hidden, ReluHeads(
            query=sum_batch(to_queried @ transpose(hidden)).reshape(heads.query.shape),
            key=sum_batch(to_keyed @ transpose(tokens)).reshape(heads.key.shape),
            value=to_value.reshape(-1, *heads.value.shape).sum(axis=0),
        )

    return output, pullback


def _attend(
    hidden: Array, heads: ReluHeads, n_context: Any | None, key_columns: Sequence[int] | None
) -> tuple[Array, tuple[Array, ...]]:
    """The layer, and what its pullback needs. All heads at once: products of small matrices cost their overhead."""
    keys = _keys(hidden, key_columns)
    tokens = hidden.take(keys, axis=-1)
    n_heads = len(heads.query)
    keyed = _by_head(_flat(heads.key) @ tokens, n_heads)
    queried = _by_head(_flat(heads.query) @ hidden, n_heads)
    scores = transpose(keyed) @ queried
    attention = _normalise(positive_part(scores), keys, n_context)
    gathered = tokens[..., None, :, :] @ attention
    values = heads.value.swapaxes(0, 1).reshape(hidden.shape[-2], -1)
    return hidden + values @ _flat(gathered), (tokens, keyed, queried, scores, attention, gathered)


def _flat(matrices: Array) -> Array:
    """Heads and rows in one axis: (..., n_heads, rows, columns) to (..., n_heads rows, columns)."""
    return matrices.reshape(*matrices.shape[:-3], -1, matrices.shape[-1])


def _by_head(rows: Array, n_heads: int) -> Array:
    return rows.reshape(*rows.shape[:-2], n_heads, -1, rows.shape[-1])


def _keys(hidden: Array, key_columns: Sequence[int] | None) -> Any:
    return np.arange(hidden.shape[-1]) if key_columns is None else np.asarray(key_columns)


def _normalise(scores: Array, keys: Any, n_context: Any | None) -> Array:
    """Divide rectified scores (..., n_keys, n_columns) by n; or mask them causally and divide by the position."""
    if n_context is not None:
        return np.asanyarray(scores / n_context)
    position = np.arange(1, scores.shape[-1] + 1)
    seen = (keys[:, None] < position).astype(int).astype(scores.dtype)  # of objects, integers
    return np.asanyarray(scores * seen / position.astype(scores.dtype))


def _check_block(
    hidden: Array,
    heads: ReluHeads | None,
    mlp: ReluMLP | None,
    n_context: Any | None = None,
    key_columns: Sequence[int] | None = None,
) -> None:
    if heads is not None:
        _check_attention(hidden, heads, n_context, key_columns)
    if mlp is not None:
        check_shapes(hidden=(hidden, "... D n_columns"), inner=(mlp.inner, "width D"), outer=(mlp.outer, "D width"))


@checked(_check_block)
def transformer_block(
    hidden: Array,
    heads: ReluHeads | None,
    mlp: ReluMLP | None,
    n_context: Any | None = None,
    key_columns: Sequence[int] | None = None,
) -> Array:
    r"""ReLU attention, then $h\leftarrow h+W_2\mathrm{ReLU}(W_1h)$ in every column; either part may be absent.

    Parameters
    ----------
    hidden : array, shape (..., D, n_columns)
    heads : ReluHeads or None
    mlp : ReluMLP or None
    n_context, key_columns
        Of the attention, as for :func:`relu_attention`.

    Returns
    -------
    array, shape (..., D, n_columns)

    Raises
    ------
    ValueError
        As for :func:`relu_attention`, and if the perceptron's shapes do not fit.

    Source: arXiv 2310.17086, Section 3.2 and Appendix B.
    """
    if heads is not None:
        hidden = relu_attention.unchecked(hidden, heads, n_context, key_columns)
    if mlp is not None:
        hidden = hidden + mlp.outer @ positive_part(mlp.inner @ hidden)
    return hidden


@checked(_check_block)
def transformer_block_vjp(
    hidden: Array,
    heads: ReluHeads | None,
    mlp: ReluMLP | None,
    n_context: Any | None = None,
    key_columns: Sequence[int] | None = None,
) -> tuple[Array, Callable[[Array], tuple[Any, ...]]]:
    """:func:`transformer_block` and its pullback ``cotangent -> (hidden, heads, mlp)``, without a part that is None."""
    pull_attention = None
    if heads is not None:
        hidden, pull_attention = relu_attention_vjp.unchecked(hidden, heads, n_context, key_columns)
    output = hidden
    if mlp is not None:
        before = mlp.inner @ hidden
        active = positive_part(before)
        output = hidden + mlp.outer @ active

    def pullback(cotangent: Array) -> tuple[Any, ...]:
        to_parts: list[Any] = []
        if mlp is not None:
            to_before = (transpose(mlp.outer) @ cotangent) * unit_step(before)
            to_parts = [ReluMLP(sum_batch(to_before @ transpose(hidden)), sum_batch(cotangent @ transpose(active)))]
            cotangent = cotangent + transpose(mlp.inner) @ to_before
        if pull_attention is not None:
            cotangent, to_heads = pull_attention(cotangent)
            to_parts = [to_heads, *to_parts]
        return (cotangent, *to_parts)

    return output, pullback


# --- the construction ---


class Layer(NamedTuple):
    """One layer as weights: attention and perceptron, either of which may be absent, and where the keys are."""

    heads: ReluHeads | None
    mlp: ReluMLP | None
    n_context: Any | None = None
    key_columns: Sequence[int] | None = None


class Operator(NamedTuple):
    """One layer as an exact operator on columns, for which the paper refers to another (its weights approximate it)."""

    name: Literal["mov", "mul"]
    arguments: dict[str, Any]


OPERATORS: dict[str, Checked[..., Array]] = {"mov": mov, "mul": mul}


class Rows(NamedTuple):
    """The rows of a hidden state of size 3 dim + 1."""

    transformed: range
    r"""$T^{(k)}x_t$."""
    token: range
    """$x_t$, or $y_t$ and zeros."""
    scratch: range
    """Empty until the read-out."""
    last: int
    """1 until the prediction takes its place."""


class Columns(NamedTuple):
    """The columns of a prompt."""

    inputs: Sequence[int]
    targets: Sequence[int]
    query: int


def hidden_rows(dim: int) -> Rows:
    """The rows of the construction's hidden states for inputs of this dimension."""
    return Rows(range(dim), range(dim, 2 * dim), range(2 * dim, 3 * dim), 3 * dim)


def prompt_columns(n_context: int) -> Columns:
    """The columns of an interleaved prompt with this many examples."""
    return Columns(range(0, 2 * n_context, 2), range(1, 2 * n_context, 2), 2 * n_context)


def _selection(dim: int, rows: Sequence[int], dtype: Any) -> Array:
    """The matrix that reads these rows of a hidden state, shape (len(rows), 3 dim + 1)."""
    return np.eye(3 * dim + 1, dtype=dtype)[list(rows)]


def _linear_heads(query: Array, key: Array, value: Array) -> ReluHeads:
    return ReluHeads(np.stack([query, -query]), np.stack([key, key]), np.stack([value, -value]))


def _linear_mlp(read: Array, write: Array) -> ReluMLP:
    return ReluMLP(np.concatenate([read, -read]), np.concatenate([write, -write], axis=-1))


def initial_layers(dim: int, n_context: Any, scale: Any, columns: Columns, dtype: Any = float) -> list[Layer]:
    r"""Three layers from $[x_t;0]$ to $[\alpha Sx_t;x_t]$: copy; add $\alpha Sx_t$ by attention; subtract $x_t$.

    The subtraction costs the digits by which $x_t$ is larger than $\alpha Sx_t$, a factor $\lambda_1$ of roundoff:
    scale the inputs so that $\lambda_1$ is near 1.

    Parameters
    ----------
    dim : int >= 1
    n_context : int >= 1
        $n$, which the values contain.
    scale : number > 0
        $\alpha$.
    columns : Columns
    dtype : dtype of the weights; ``object`` for exact ones

    Source: arXiv 2310.17086, Appendix B, proof of Theorem 5.1.
    """
    rows = hidden_rows(dim)
    transformed, token = (_selection(dim, part, dtype) for part in (rows.transformed, rows.token))
    value = n_context * scale * (transformed.T @ transformed)
    return [
        Layer(None, _linear_mlp(transformed, token.T)),
        Layer(_linear_heads(transformed, transformed, value), None, n_context, columns.inputs),
        Layer(None, _linear_mlp(token, -transformed.T)),
    ]


def newton_layer(dim: int, n_context: Any, columns: Columns, dtype: Any = float) -> Layer:
    r"""One layer from $[Tx_t;x_t]$ to $[(2T-TST)x_t;x_t]$, for any symmetric $T$.

    Attention with scores $-\frac n2x_t^\top Tx_j$ makes $Tx_t-\frac12TSTx_t$ of the first block, which the perceptron
    doubles.

    Parameters as for :func:`initial_layers`.

    Source: arXiv 2310.17086, Appendix B, proof of Theorem 5.1.
    """
    rows = hidden_rows(dim)
    transformed, token = (_selection(dim, part, dtype) for part in (rows.transformed, rows.token))
    heads = _linear_heads(-n_context * constant("0.5", token) * token, transformed, transformed.T @ transformed)
    return Layer(heads, _linear_mlp(transformed, transformed.T), n_context, columns.inputs)


def read_out_layers(dim: int, n_context: Any, columns: Columns, dtype: Any = float) -> list[Layer | Operator]:
    r"""The paper's five layers from $T$ in the hidden states to $x_{test}^\top TX^\top y$ in the query's last row.

    ``mov`` $Tx_j$ to the column of $y_j$; ``mul`` the two; sum over columns, which gives $\hat w=TX^\top y$; ``mov``
    $\hat w$ to the query; ``mul`` it with $x_{test}$. The paper moves $y_j$ to $x_j$, backwards, which its causal
    operator cannot; forwards does as well. Its fourth layer repeats what the sum, with full attention, has written.

    Parameters as for :func:`initial_layers`.

    Source: arXiv 2310.17086, Appendix B, proof of Theorem 5.1 and Lemma B.3 (the sum).
    """
    rows = hidden_rows(dim)
    one, scratch = _selection(dim, [rows.last], dtype), _selection(dim, rows.scratch, dtype)
    y_row, size = rows.token[0], {"a": dim, "b": 1, "c": 1}
    sources = {"source": list(columns.inputs), "target": list(columns.targets)}
    to_query = {"source": columns.inputs[-1], "target": columns.query}
    kept = {"rows_from": list(rows.scratch), "rows_to": list(rows.scratch)}
    total = ReluHeads(one[None], one[None], n_context * (scratch.T @ scratch)[None])
    return [
        Operator("mov", sources | kept | {"rows_from": list(rows.transformed)}),
        Operator("mul", size | {"rows_a": list(rows.scratch), "rows_b": [y_row], "rows_out": list(rows.scratch)}),
        Layer(total, None, n_context, columns.targets),
        Operator("mov", to_query | kept),
        Operator(
            "mul",
            {"a": 1, "b": dim, "c": 1}
            | {"rows_a": list(rows.scratch), "rows_b": list(rows.token), "rows_out": [rows.last]},
        ),
    ]


def short_read_out_layers(dim: int, n_context: Any, columns: Columns, dtype: Any = float) -> list[Layer | Operator]:
    r"""Two layers in place of five: the ``mov``, then attention by $\pm n\langle x_{test},Tx_j\rangle$ to $\pm y_j$.

    Its sum comes to the scratch rows, and the perceptron writes it over the last row. Parameters as for
    :func:`initial_layers`.
    """
    rows = hidden_rows(dim)
    token, scratch = (_selection(dim, part, dtype) for part in (rows.token, rows.scratch))
    last = _selection(dim, [rows.last], dtype)
    heads = _linear_heads(n_context * token, scratch, scratch[:1].T @ token[:1])
    return [
        read_out_layers(dim, n_context, columns, dtype)[0],
        Layer(heads, _linear_mlp(scratch[:1] - last, last.T), n_context, columns.targets),
    ]


def newton_transformer(
    n_iterations: int,
    dim: int,
    n_context: int,
    scale: Any,
    read_out: Literal["paper", "short"] = "paper",
    dtype: Any = float,
) -> list[Layer | Operator]:
    r"""The $k+8$ layers (short read-out: $k+5$) that predict $x_{test}^\top M_kX^\top y$ from an interleaved prompt.

    Hidden states have size 3 dim + 1, layers at most two heads. The weights contain $n$: they fit one context length.

    Parameters
    ----------
    n_iterations : int >= 0
        $k$.
    dim, n_context : int >= 1
    scale : number > 0
        $\alpha$ of $M_0=\alpha S$.
    read_out : "paper" or "short"
        See :func:`read_out_layers` and :func:`short_read_out_layers`.
    dtype : dtype of the weights; ``object`` for exact ones

    Returns
    -------
    list of Layer and Operator

    Raises
    ------
    ValueError
        If a size or the scale is out of range, or the read-out is unknown.

    Source: arXiv 2310.17086, Theorem 5.1.
    """
    n_iterations = check_integer("n_iterations", n_iterations, 0)
    dim, n_context = check_integer("dim", dim, 1), check_integer("n_context", n_context, 1)
    scale = check_number("scale", scale, "(0, inf)")
    read_outs = {"paper": read_out_layers, "short": short_read_out_layers}
    if read_out not in read_outs:
        raise ValueError(f"read_out: expected one of {', '.join(read_outs)}, got {read_out!r}")
    columns = prompt_columns(n_context)
    return [
        *initial_layers(dim, n_context, scale, columns, dtype),
        *[newton_layer(dim, n_context, columns, dtype)] * n_iterations,
        *read_outs[read_out](dim, n_context, columns, dtype),
    ]


def apply_layer(hidden: Array, layer: Layer | Operator) -> Array:
    """One layer of a constructed transformer; arguments unchecked."""
    if isinstance(layer, Operator):
        return OPERATORS[layer.name].unchecked(hidden, **layer.arguments)
    return transformer_block.unchecked(hidden, *layer)


def embed_prompt(tokens: Array) -> Array:
    """Hidden states (..., 3 dim + 1, n_columns) of a prompt (..., dim, n_columns): its tokens, zeros, a row of ones."""
    rows = hidden_rows(tokens.shape[-2])
    hidden = np.zeros((*tokens.shape[:-2], rows.last + 1, tokens.shape[-1]), dtype=tokens.dtype)
    hidden[..., rows.transformed, :] = tokens
    hidden[..., rows.last, :] = 1
    return hidden


def _check_layers(layers: Sequence[Layer | Operator], hidden: Array, n_context: int) -> None:
    seen: set[int] = set()
    for index, layer in enumerate(layers):
        if id(layer) in seen:
            continue  # the same layer comes many times
        seen.add(id(layer))
        try:
            if isinstance(layer, Operator):
                OPERATORS[layer.name].check(hidden, **layer.arguments)
                continue
            transformer_block.check(hidden, *layer)
            if layer.n_context not in (None, n_context):
                raise ValueError(f"n_context: expected {n_context} as in x, got {layer.n_context}")
        except ValueError as error:
            raise ValueError(f"layers[{index}].{error}") from None


def run_newton_transformer(layers: Sequence[Layer | Operator], x: Array, y: Array, x_query: Array) -> Array:
    r"""The prediction of the constructed transformer on the prompt $x_1,y_1,\dots,x_n,y_n,x_{test}$.

    Parameters
    ----------
    layers : list of Layer and Operator, from :func:`newton_transformer`
    x : array, shape (..., n, d)
    y : array, shape (..., n)
    x_query : array, shape (..., d)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit each other or the layers, or an entry is not finite.

    Source: arXiv 2310.17086, Theorem 5.1.
    """
    hidden = embed_prompt(interleave_prompt(x, y, x_query))
    _check_layers(layers, hidden.reshape(-1, *hidden.shape[-2:])[:1], x.shape[-2])
    keep_freed_memory()
    for layer in layers:
        hidden = apply_layer(hidden, layer)
    return np.asanyarray(hidden[..., -1, -1])
