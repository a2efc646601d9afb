"""The layer against loops over heads and tokens, the constructed transformer by other routes, and what they refuse."""

from typing import Any

import numpy as np
import pytest
import sympy

from refimpl.incontext.higher_order import (
    Layer,
    Operator,
    ReluHeads,
    ReluMLP,
    apply_layer,
    embed_prompt,
    iterative_newton,
    newton_transformer,
    relu_attention,
    run_newton_transformer,
    spectral_scale,
    transformer_block,
)
from refimpl.oracle.specs.incontext.higher_order.newton import gram_of
from refimpl.tasks.linear_regression import interleave_prompt


def heads(size: int = 4, n_heads: int = 2, width: int = 3) -> ReluHeads:
    rng = np.random.default_rng(0)
    query, key = rng.standard_normal((2, n_heads, width, size))
    return ReluHeads(query, key, rng.standard_normal((n_heads, size, size)))


def hidden(*batch: int, size: int = 4, n_columns: int = 6) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((*batch, size, n_columns))


@pytest.mark.parametrize(("n_context", "key_columns"), [(5, None), (3, [4, 0, 2]), (None, None), (None, [1, 3])])
def test_attention_is_its_sum(n_context: int | None, key_columns: list[int] | None) -> None:
    h, weights = hidden(), heads()
    expected = h.copy()
    for t in range(6):
        for query, key, value in zip(*weights, strict=True):
            for j in range(6) if key_columns is None else key_columns:
                if n_context is None and j > t:
                    continue
                score = (query @ h[:, t]) @ (key @ h[:, j])
                expected[:, t] += max(score, 0) / (n_context or t + 1) * (value @ h[:, j])
    np.testing.assert_allclose(relu_attention(h, weights, n_context, key_columns), expected, atol=1e-12)


def test_a_causal_layer_does_not_see_what_comes_later() -> None:
    h = hidden(2)
    changed = h.copy()
    changed[..., 4:] += 1
    before, after = (relu_attention(one, heads()) for one in (h, changed))
    np.testing.assert_array_equal(before[..., :4], after[..., :4])
    assert np.all(np.any(before[..., 4:] != after[..., 4:], axis=-2))


def test_a_block_is_attention_then_perceptron() -> None:
    h, rng = hidden(3), np.random.default_rng(2)
    mlp = ReluMLP(rng.standard_normal((7, 4)), rng.standard_normal((4, 7)))
    attended = relu_attention(h, heads(), 6)
    expected = attended + mlp.outer @ np.maximum(mlp.inner @ attended, 0)
    np.testing.assert_allclose(transformer_block(h, heads(), mlp, 6), expected, atol=1e-13)
    np.testing.assert_array_equal(transformer_block(h, None, None), h)


def prompt(n: int = 6, d: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((5, n, d)) / 2
    return x, rng.standard_normal((5, n)), rng.standard_normal((5, d)), float(np.min(spectral_scale(gram_of(x))))


@pytest.mark.parametrize(("n", "d"), [(6, 3), (1, 1), (2, 5), (1, 4)])
@pytest.mark.parametrize("read_out", ["paper", "short"])
def test_the_transformer_is_newton(n: int, d: int, read_out: Any) -> None:
    x, y, query, scale = prompt(n, d)
    for k in (0, 3):
        layers = newton_transformer(k, d, n, scale, read_out)
        assert len(layers) == k + {"paper": 8, "short": 5}[read_out]
        predicted = run_newton_transformer(layers, x, y, query)
        np.testing.assert_allclose(predicted, (iterative_newton(x, y, k, scale) * query).sum(axis=-1), atol=1e-13)


def test_after_the_sum_the_papers_move_to_the_query_repeats_what_is_there() -> None:
    x, y, query, scale = prompt()
    layers = newton_transformer(2, 3, 6, scale)
    state = embed_prompt(interleave_prompt(x, y, query))
    for layer in layers[:-2]:
        state = apply_layer(state, layer)
    np.testing.assert_array_equal(apply_layer(state, layers[-2]), state)


def test_exact_weights_give_exact_predictions() -> None:
    x = np.array(
        [[sympy.Rational(1, 2), sympy.Rational(1, 3)], [sympy.Integer(1), sympy.Rational(-1, 4)]], dtype=object
    )
    y = np.array([sympy.Integer(2), sympy.Rational(1, 5)], dtype=object)
    query = np.array([sympy.Rational(2, 7), sympy.Integer(1)], dtype=object)
    scale = sympy.Rational(1, 3)
    for read_out in ("paper", "short"):
        layers = newton_transformer(3, 2, 2, scale, read_out, object)  # type: ignore[arg-type]
        predicted = run_newton_transformer(layers, x, y, query)
        assert predicted.item() == iterative_newton(x, y, 3, scale) @ query


def test_float32_is_kept() -> None:
    x, y, query, scale = prompt()
    single = [array.astype(np.float32) for array in (x, y, query)]
    for read_out in ("paper", "short"):
        layers = newton_transformer(3, 3, 6, scale, read_out, np.float32)  # type: ignore[arg-type]
        predicted = run_newton_transformer(layers, *single)
        assert predicted.dtype == np.float32
        np.testing.assert_allclose(predicted, run_newton_transformer(layers, x, y, query), rtol=1e-3, atol=1e-4)
    cast = ReluHeads(*(matrix.astype(np.float32) for matrix in heads()))
    for n_context in (None, 3):
        assert relu_attention(hidden().astype(np.float32), cast, n_context).dtype == np.float32


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden": hidden(size=3)}, "query: expected D 3|value: expected D 3"),
        ({"hidden": hidden() * np.inf}, "hidden: expected finite entries"),
        ({"n_context": 0}, "n_context: expected an integer >= 1"),
        ({"key_columns": [6]}, "key_columns: expected an integer from 0 to 5"),
        ({"key_columns": []}, "key_columns: expected at least one column"),
        ({"key_columns": [1, 1]}, "key_columns: expected at least one column, all different"),
        ({"heads": heads()._replace(key=np.ones((1, 3, 4)))}, "key: expected n_heads 2"),
    ],
)
def test_bad_attention(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"hidden": hidden(), "heads": heads()}
    with pytest.raises(ValueError, match=message):
        relu_attention(**arguments | changed)


def test_bad_perceptron() -> None:
    with pytest.raises(ValueError, match="outer: expected width 7"):
        transformer_block(hidden(), None, ReluMLP(np.ones((7, 4)), np.ones((4, 6))))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_iterations": -1}, "n_iterations"),
        ({"dim": 0}, "dim"),
        ({"n_context": 0}, "n_context"),
        ({"scale": 0.0}, "scale"),
        ({"read_out": "long"}, "read_out: expected one of paper, short, got 'long'"),
    ],
)
def test_bad_construction(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"n_iterations": 1, "dim": 2, "n_context": 3, "scale": 0.1}
    with pytest.raises(ValueError, match=message):
        newton_transformer(**arguments | changed)


def test_a_transformer_for_other_prompts_is_refused() -> None:
    x, y, query, scale = prompt()
    with pytest.raises(ValueError, match=r"layers\[1\]\.n_context: expected 6 as in x, got 5"):
        run_newton_transformer(newton_transformer(1, 3, 5, scale), x, y, query)
    with pytest.raises(ValueError, match=r"layers\[0\]\.inner"):
        run_newton_transformer(newton_transformer(1, 2, 6, scale), x, y, query)
    with pytest.raises(ValueError, match=r"layers\[0\]\.rows_to: expected an integer from 0 to 9"):
        run_newton_transformer(
            [Operator("mov", {"source": 0, "target": 1, "rows_from": [0], "rows_to": [10]})], x, y, query
        )
    with pytest.raises(ValueError, match="y: expected n_context 6"):
        run_newton_transformer([Layer(None, None)], x, y[:, :4], query)
