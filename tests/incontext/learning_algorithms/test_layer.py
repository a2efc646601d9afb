"""The layer: its formula column by column, what it may not see, dtypes, bad input."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.special import erf

from refimpl.incontext.learning_algorithms import LayerParams, transformer_layer, transformer_layer_vjp
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.learning_algorithms.operators import layers
from refimpl.primitives.attention import MultiHeadAttention
from refimpl.primitives.layers import Linear
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import leaves, tree_map


def params(n_rows: int = 4, seed: int = 0, dtype: Any = np.float64) -> LayerParams:
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> Array:
        return (rng.standard_normal(shape) / 2).astype(dtype)

    attention = MultiHeadAttention(
        matrix(2, 3, n_rows), matrix(2, 3, n_rows), matrix(2, 2, n_rows), matrix(2, n_rows, 2)
    )
    return LayerParams(attention, (Linear(matrix(5, n_rows), matrix(5)), Linear(matrix(n_rows, 5), matrix(n_rows))))


def hidden(n_rows: int = 4, n_columns: int = 6, dtype: Any = np.float64) -> Array:
    return np.random.default_rng(1).standard_normal((2, n_rows, n_columns)).astype(dtype)


def of_one_column(columns: Array, case: Arguments) -> Array:
    """The last of these columns after the layer, by the paper's formulas one after another."""
    attention, mlp = case["params"]
    last = columns[:, -1]
    out = last.copy()
    if attention is not None:
        for query, key, value, output in zip(*attention, strict=True):
            scores = [float((query @ last) @ (key @ column)) for column in columns.T]
            top = max([*scores, 0.0])
            shares = np.exp(np.array(scores) - top)
            shares = shares / (shares.sum() + (np.exp(-top) if case["sink"] else 0))
            out = out + output @ sum(share * (value @ column) for share, column in zip(shares, columns.T, strict=True))
    if mlp is not None:
        first, second = mlp
        inputs = (out - out.mean()) / out.std() if case["use_layernorm"] else out
        units = first.weight @ inputs + first.bias
        if case["activation"] == "gelu":
            units = units * (1 + erf(units / np.sqrt(2))) / 2
        else:
            units = units * (1 + np.tanh(np.sqrt(2 / np.pi) * (units + 0.044715 * units**3))) / 2
        out = out + second.weight @ units + second.bias
    return out


@settings(max_examples=60, deadline=None, derandomize=True)
@given(layers())
def test_the_layer_is_the_papers_formula_column_by_column(case: Arguments) -> None:
    output = transformer_layer(**case)
    flat = case["hidden"].reshape(-1, *case["hidden"].shape[-2:])
    for columns, found in zip(flat, output.reshape(flat.shape), strict=True):
        for i in range(columns.shape[1]):
            expected = of_one_column(columns[:, : i + 1], case)
            np.testing.assert_allclose(found[:, i], expected, rtol=1e-9, atol=1e-9 * (1 + np.abs(columns).max()))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(layers())
def test_the_pullback_comes_with_the_same_output(case: Arguments) -> None:
    np.testing.assert_allclose(transformer_layer_vjp(**case)[0], transformer_layer(**case), rtol=1e-11, atol=1e-11)


def test_a_column_does_not_see_later_ones() -> None:
    before, changed = hidden(), hidden()
    changed[..., 4:] += 1
    first, second = (transformer_layer(h, params()) for h in (before, changed))
    np.testing.assert_array_equal(first[..., :4], second[..., :4])
    assert np.all(np.any(first[..., 4:] != second[..., 4:], axis=-2))


def test_a_batch_is_its_prompts() -> None:
    together = transformer_layer(hidden(), params())
    for one, expected in zip(hidden(), together, strict=True):
        np.testing.assert_allclose(transformer_layer(one, params()), expected, rtol=1e-13)


def test_without_attention_and_perceptron_nothing_happens() -> None:
    np.testing.assert_array_equal(transformer_layer(hidden(), LayerParams()), hidden())
    output, pullback = transformer_layer_vjp(hidden(), LayerParams())
    np.testing.assert_array_equal(output, hidden())
    to_hidden, to_params = pullback(2 * hidden())
    np.testing.assert_array_equal(to_hidden, 2 * hidden())
    assert to_params == LayerParams()


def test_inputs_are_not_written_to() -> None:
    given_hidden = hidden()
    transformer_layer(given_hidden, params())
    np.testing.assert_array_equal(given_hidden, hidden())


@pytest.mark.parametrize("use_layernorm", [False, True])
def test_float32_is_kept(use_layernorm: bool) -> None:
    single = hidden(dtype=np.float32), params(dtype=np.float32), use_layernorm
    output, pullback = transformer_layer_vjp(*single)
    assert transformer_layer(*single).dtype == output.dtype == np.float32
    assert {leaf.dtype for leaf in leaves(pullback(output))} == {np.dtype(np.float32)}


def changed_attention(**fields: Any) -> LayerParams:
    attention = params().attention
    assert attention is not None
    return params()._replace(attention=attention._replace(**fields))


@pytest.mark.parametrize("function", [transformer_layer, transformer_layer_vjp])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": np.ones(4)}, "hidden: expected shape"),
        ({"hidden": np.ones((4, 0))}, "hidden: expected n_columns >= 1"),
        ({"hidden": np.full((4, 2), np.nan)}, "hidden: expected finite"),
        ({"hidden": np.ones((5, 2))}, "expected n_rows"),
        ({"params": changed_attention(query=np.ones((2, 2, 4)))}, r"params\.attention\.key: expected d_key"),
        ({"params": changed_attention(output=np.ones((1, 4, 2)))}, r"params\.attention\.output: expected n_heads"),
        (
            {"params": LayerParams(mlp=(Linear(np.ones((3, 4)), np.ones(2)), Linear(np.ones((4, 3)), np.ones(4))))},
            r"params\.mlp\[0\]\.bias: expected n_hidden",
        ),
        ({"params": tree_map(lambda leaf: leaf * np.inf, params())}, "expected finite"),
        ({"activation": "swish2"}, "activation: expected"),
    ],
)
def test_bad_input(function: Any, arguments: dict[str, Any], message: str) -> None:
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=message):
        function(**{"hidden": hidden(), "params": params()} | arguments)


@pytest.mark.parametrize("function", [transformer_layer, transformer_layer_vjp])
def test_a_constant_column_has_no_norm(function: Any) -> None:
    only_mlp = params()._replace(attention=None)
    with pytest.raises(ValueError, match="constant"):
        function(np.ones((4, 2)), only_mlp, use_layernorm=True)
