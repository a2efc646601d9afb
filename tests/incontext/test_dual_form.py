"""The dual form: two routes to the same value, dtypes, bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

from refimpl.incontext import dual_form as d
from refimpl.oracle.spec import Arguments, examples, find_spec
from refimpl.primitives.attention import softmax_attention

HEADS = find_spec("dual_form/softmax_attention_split").arguments
HEAD = {"value": np.ones((2, 3)), "key": np.ones((4, 3)), "demos": np.ones((3, 5)), "context": np.ones((3, 2))}


@settings(max_examples=30, deadline=None, derandomize=True)
@given(HEADS)
def test_softmax_split_is_attention_over_all_tokens(case: Arguments) -> None:
    split = d.softmax_attention_split(**case)
    tokens = np.swapaxes(np.concatenate([case["demos"], case["context"]], axis=-1), -1, -2)
    keys, values = (tokens @ np.swapaxes(case[name], -1, -2) for name in ("key", "value"))
    whole = softmax_attention(case["query"][..., None, :], keys, values)[..., 0, :]
    share = split.zero_shot_share[..., None]
    scores = np.abs(keys) @ np.abs(case["query"])[..., None]
    bound = 1e-14 * (1 + np.max(scores)) * (1 + np.max(np.abs(values)))
    assert np.max(np.abs(share * split.zero_shot_part + (1 - share) * split.demo_part - whole)) <= bound


def test_errors_along_the_trajectory_give_the_trained_layer() -> None:
    rng = np.random.default_rng(0)
    start, inputs, targets = (rng.standard_normal(shape) for shape in [(2, 3), (3, 40), (2, 40)])
    trained, errors = d.linear_layer_sgd(start, inputs, targets, 0.05)
    x = rng.standard_normal(3)
    np.testing.assert_allclose(d.dual_form(start, errors, inputs, x), trained @ x, atol=1e-13)


def test_gradient_descent_with_momentum_is_the_heavy_ball() -> None:
    start = np.array([1.0, -2.0])
    routes = [f(lambda x: x**3, start, 0.05, 0.4, 30) for f in (d.momentum_gradient_descent, d.heavy_ball)]
    np.testing.assert_allclose(*routes, atol=1e-13)
    np.testing.assert_array_equal(routes[0][0], start)


@pytest.mark.parametrize("seed", range(5))
def test_kendall_b_is_scipys(seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 5, size=(2, 12)).astype(float)
    np.testing.assert_allclose(d.kendall_tau(a, b, "b"), stats.kendalltau(a, b).statistic, atol=1e-14)


def test_kendall_with_ties() -> None:
    a, b = np.array([1.0, 2, 3, 4, 4]), np.array([1.0, 2, 4, 3, 3])
    np.testing.assert_allclose([d.kendall_tau(a, b), d.kendall_tau(a, b, "b")], [5 / 10, 5 / 9])


def test_what_is_undefined_is_nan_and_left_out() -> None:
    h = np.zeros((2, 1, 3))
    h_icl = h.copy()
    h_icl[0, 0, 0] = 1
    assert d.attention_output_update_similarity(h, h_icl, h_icl)[1] == 1
    assert np.isnan(d.attention_output_update_similarity(h, h, h)[1])
    nothing = np.zeros(2, dtype=bool)
    assert np.isnan(d.recall_to_finetuning(nothing, nothing, nothing))


def test_no_demonstration_is_a_zero_update() -> None:
    np.testing.assert_array_equal(
        d.implicit_update(np.ones((2, 3)), np.ones((4, 3)), np.ones((3, 0))), np.zeros((2, 4))
    )


def test_later_tokens_enter_no_earlier_sum() -> None:
    values, keys, queries = np.random.default_rng(0).standard_normal((3, 2, 6))
    whole = d.momentum_attention(values, keys, queries, 0.5)
    np.testing.assert_allclose(d.momentum_attention(values[:, :4], keys[:, :4], queries[:, :4], 0.5), whole[:, :4])


@pytest.mark.parametrize("name", ["relaxed_attention", "momentum_attention", "implied_loss"])
def test_the_dtype_is_kept(name: str) -> None:
    spec = find_spec(f"dual_form/{name}")
    case = examples(spec, 1)[0]
    single = {key: value.astype(np.float32) if isinstance(value, np.ndarray) else value for key, value in case.items()}
    assert spec.reference(**single).dtype == np.float32


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: d.relaxed_attention(**HEAD, query=np.ones(3)), "query"),
    (lambda: d.softmax_attention_split(**HEAD | {"context": np.ones((3, 0))}, query=np.ones(4)), "context"),
    (lambda: d.implicit_update(np.ones((2, 3)), np.ones((4, 2)), np.ones((3, 0))), "key"),
    (lambda: d.relaxed_attention(**HEAD, query=np.full(4, np.nan)), "query: expected finite"),
    (lambda: d.momentum_sum(np.ones((2, 3)), 1.0), "eta"),
    (lambda: d.momentum_attention(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 3)), 0.0), "eta"),
    (lambda: d.recall_to_finetuning(np.ones(2, bool), np.ones(3, bool), np.ones(2, bool)), "icl_correct"),
    (lambda: d.recall_to_finetuning(np.ones(2), np.ones(2, bool), np.ones(2, bool)), "zsl_correct"),
    (lambda: d.kendall_tau(np.ones(1), np.ones(1)), "number of items"),
    (lambda: d.implied_loss(np.ones((2, 2)), np.ones((2, 1)), np.ones((2, 1)), "cubic"), "kind"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
