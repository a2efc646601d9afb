r"""A transformer whose layers are Newton iterations (Section 5, Theorem 5.1 and Appendix B).

Tokens are columns. Identity behind every layer: $\mathrm{ReLU}(z)-\mathrm{ReLU}(-z)=z$, so that two heads with opposite
scores *and* opposite values (the paper prints equal ones) are one linear head, and two hidden units one linear unit.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from refimpl.incontext.higher_order.attention import ReluHeads, ReluMLP, transformer_block
from refimpl.primitives.checks import Checked, check_integer, check_number
from refimpl.primitives.column_operators import mov, mul
from refimpl.primitives.memory import keep_freed_memory
from refimpl.primitives.numbers import Array, constant
from refimpl.tasks.linear_regression import interleave_prompt


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
