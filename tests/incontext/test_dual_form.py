"""The dual form: two routes to the same value, dtypes, bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

from refimpl.incontext import dual_form as d
from refimpl.oracle.spec import Arguments, examples, find_spec
from refimpl.primitives.attention import MultiHeadAttention, multi_head_attention, softmax_attention
from refimpl.primitives.language_model import LanguageModel, initial_language_model, next_token_logits
from refimpl.primitives.losses import cross_entropy
from refimpl.primitives.normalization import softmax
from refimpl.primitives.numbers import Array
from refimpl.primitives.optimizers import adam
from refimpl.primitives.trees import leaves, tree_map

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


def test_gaps_are_roundoff() -> None:
    rng = np.random.default_rng(0)
    value, key, to_value, to_key = rng.standard_normal((4, 3, 4, 5))
    demos, context, query = (rng.standard_normal(shape) for shape in [(3, 5, 6), (3, 5, 2), (3, 4)])
    assert d.attention_duality_gap(value, key, demos, context, query) < 1e-12
    assert d.finetuning_duality_gap(value, key, to_value, to_key, context, query) < 1e-12
    assert d.layer_duality_gap(value, demos[:, :4], demos, query @ np.ones((4, 5))) < 1e-12


def test_each_part_of_the_split_has_a_softmax_of_its_own() -> None:
    """A score of 1000 in the context leaves the demonstrations no mass, but their own mean is still defined."""
    demos, context = np.array([[0.0, 0.0], [1.0, 3.0]]), np.array([[1000.0], [5.0]])
    split = d.softmax_attention_split(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]), demos, context, np.ones(1))
    np.testing.assert_array_equal([split.zero_shot_share, *split.zero_shot_part, *split.demo_part], [1, 5, 2])


def test_small_scores_are_the_first_order_of_attention() -> None:
    values, keys, query = np.random.default_rng(0).standard_normal((3, 4, 4))
    t = 1e-4
    slope = (with_softmax(values, keys, t * query[0]) - with_softmax(values, keys, -t * query[0])) / (2 * t)
    linear = d.small_score_attention(values, keys, query[0]) - values.mean(axis=-1)
    np.testing.assert_allclose(slope, linear, atol=1e-7)


def with_softmax(values: Array, keys: Array, query: Array) -> Array:
    return softmax_attention(query[None], keys.T, values.T)[0]


# --- momentum ---


def test_derivative_by_eta_is_the_slope() -> None:
    values, eta, h = np.random.default_rng(0).standard_normal((2, 9)), 0.6, 1e-5
    slope = (d.momentum_sum(values, eta + h) - d.momentum_sum(values, eta - h)) / (2 * h)
    np.testing.assert_allclose(d.momentum_sum_derivative(values, eta), slope, atol=1e-8)


def test_padding_changes_nothing_after_it() -> None:
    values, keys, queries = np.random.default_rng(0).standard_normal((3, 2, 6))
    padded = [np.concatenate([np.full((2, 3), 7.0), x], axis=1) for x in (values, keys, queries)]
    mask = np.arange(9) >= 3
    found = d.momentum_attention(*padded, 0.5, mask)  # type: ignore[arg-type]
    np.testing.assert_allclose(found[:, 3:], d.momentum_attention(values, keys, queries, 0.5), atol=1e-14)


def test_heads_are_momentum_attentions() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 6))
    weights = MultiHeadAttention(*(rng.standard_normal(shape) for shape in [(2, 3, 6)] * 3 + [(2, 6, 3)]))
    columns, expected = np.swapaxes(x, 1, 2), 0
    for query, key, value, output in zip(*weights, strict=True):
        expected = expected + output @ d.momentum_attention(value @ columns, key @ columns, query @ columns, 0.4)
    np.testing.assert_allclose(
        d.momentum_multi_head_attention(x, weights, 0.4), np.swapaxes(expected, 1, 2), atol=1e-12
    )
    plain = multi_head_attention(x, weights, causal=True)
    np.testing.assert_allclose(d.momentum_multi_head_attention(x, weights, 0), plain, atol=1e-13)


# --- the head ---


def test_head_is_relaxed_attention_and_its_tuning_descends() -> None:
    rng = np.random.default_rng(0)
    tasks, head = d.sample_shot_tasks(1, 5, 2, rng), d.constructed_head(1, 8, 3, rng)
    value, key, query = (matrix[0] for matrix in head)
    one_hot = np.eye(3)[tasks.labels[0]].T - 1 / 3
    demos = np.concatenate([tasks.demos[0], one_hot]) / 5**0.5
    outputs = d.in_context_outputs(head, tasks)
    for i in range(2):
        token = np.concatenate([tasks.queries[0, :, i], np.zeros(3)])
        for found, context in ((outputs.zero_shot, demos[:, :0]), (outputs.in_context, demos)):
            expected = d.relaxed_attention(value, key, context, token[:, None], query @ token)
            np.testing.assert_allclose(found[0, i], expected, rtol=1e-12)

    tuned = d.finetune_key_value(head, tasks.demos, tasks.labels, 0.002)
    for i, label in enumerate(tasks.labels[0]):  # the update as the two rank-one matrices that it is
        token = np.concatenate([tasks.demos[0, :, i], np.zeros(3)])
        projected = query @ token
        error = softmax(value @ token * (key @ token @ projected)) - np.eye(3)[label]
        to_value = np.outer(error, token * (key @ token @ projected))
        to_key = np.outer(projected, token * (value @ token @ error))
        value, key = value - 0.002 * to_value, key - 0.002 * to_key
    np.testing.assert_allclose(tuned.value[0], value, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(tuned.key[0], key, rtol=1e-12, atol=1e-14)


def test_label_logits_are_inner_products() -> None:
    np.testing.assert_array_equal(d.label_logits(np.array([1.0, 2.0]), np.array([[3.0, 4.0], [0.0, 1.0]])), [11, 2])


# --- the transformer ---


def shots(n_prompts: int = 3) -> tuple[LanguageModel, d.Prompts]:
    rng = np.random.default_rng(0)
    tasks = d.sample_shot_tasks(n_prompts, 1, 4, rng, n_inputs=4)
    model = initial_language_model(7, 12, 8, 2, 2, rng, tied=True)
    return model, d.shot_prompts(tasks.queries, tasks.targets, 3, 2)


def test_prompts_hold_each_input_in_parts_and_then_its_label() -> None:
    inputs = np.arange(1.0, 9.0).reshape(4, 2)
    prompts = d.shot_prompts(inputs, np.array([1, 0]), 2, 2)
    np.testing.assert_array_equal(prompts.at, [1, 4])
    expected = [[1, 3, 0, 0, 0, 0], [0, 0, 5, 7, 0, 0], [0, 0, 0, 0, 0, 1]]
    np.testing.assert_array_equal(prompts.tokens[:3], expected)
    np.testing.assert_array_equal(prompts.tokens[5], [0, 0, 0, 0, 1, 0])


@pytest.mark.parametrize("attend", [None, d.momentum_attend(0.4)], ids=["attention", "momentum"])
def test_gradient_of_the_candidates_loss(attend: Any) -> None:
    model, prompts = shots()
    arguments = () if attend is None else (attend,)
    rng = np.random.default_rng(1)
    direction = tree_map(lambda leaf: rng.standard_normal(leaf.shape) / 30, model)
    _, gradient = d.candidate_loss_and_gradient(model, prompts, 3, *arguments)
    claimed = sum(float(np.sum(a * b)) for a, b in zip(leaves(gradient), leaves(direction), strict=True))

    def loss(step: float) -> float:
        moved = tree_map(lambda leaf, way: leaf + step * way, model, direction)
        return float(cross_entropy(d.candidate_logits(moved, prompts, 3, *arguments), prompts.labels).mean())

    h = 1e-4
    np.testing.assert_allclose((loss(h) - loss(-h)) / (2 * h), claimed, rtol=1e-6)


def test_candidates_are_the_last_rows_of_the_vocabulary() -> None:
    model, prompts = shots()
    logits = next_token_logits(prompts.tokens @ model.embedding, model)
    np.testing.assert_allclose(d.candidate_logits(model, prompts, 3), logits[:, prompts.at, -3:], rtol=1e-14)


def test_records_are_what_attention_is_made_of() -> None:
    model, prompts = shots()
    first = model._replace(blocks=model.blocks[:1])
    logits, records = d.record(first, prompts, 3)
    np.testing.assert_array_equal(logits, d.candidate_logits(first, prompts, 3))
    block = first.blocks[0]
    embedded = prompts.tokens @ model.embedding + model.positions
    norm = embedded - embedded.mean(axis=-1, keepdims=True)
    rows = norm / np.sqrt((norm**2).mean(axis=-1, keepdims=True) + 1e-5)
    attended = multi_head_attention(rows, block.attention, causal=True)[:, -1]
    np.testing.assert_allclose(records.outputs[:, 0], attended, atol=1e-12)
    values = rows[:, None] @ np.swapaxes(block.attention.value, -1, -2)
    mixed = (softmax(records.scores[:, 0])[..., None] * values).sum(axis=-2)
    from_scores = sum(mixed[:, h] @ block.attention.output[h].T for h in range(2))
    np.testing.assert_allclose(from_scores, attended, atol=1e-12)


def test_tuning_touches_keys_and_values_alone_and_records_queries_on_the_way() -> None:
    model, prompts = shots(1)
    demos = prompts._replace(tokens=prompts.tokens[0], labels=prompts.labels[0])
    tuned, queries = d.finetune_transformer(model, demos, 3, 0.1)
    assert queries.shape == (2, 12, 8)
    for before, after in zip(model.blocks, tuned.blocks, strict=True):
        assert np.any(before.attention.key != after.attention.key) or before is model.blocks[-1]
        assert np.any(before.attention.value != after.attention.value)
        kept = before._replace(
            attention=before.attention._replace(key=after.attention.key, value=after.attention.value)
        )
        tree_map(np.testing.assert_array_equal, kept, after)
    alone = d.Prompts(demos.tokens[None, :3], demos.labels[None, :1], demos.at[:1])
    np.testing.assert_allclose(queries[:, :3], d.record(model, alone, 3)[1].queries[0], rtol=1e-14)
    tree_map(np.testing.assert_array_equal, d.finetune_transformer(model, demos, 3, 0.0)[0], model)


def test_training_lowers_the_loss_in_single_precision() -> None:
    rng = np.random.default_rng(0)
    model = tree_map(lambda leaf: leaf.astype(np.float32), initial_language_model(7, 9, 8, 1, 2, rng, tied=True))
    steps = d.shot_training(model, adam(0.01), 3, 3, 2, 16, rng)
    losses = []
    for _ in range(60):
        loss, model = next(steps)
        losses.append(loss)
    assert all(leaf.dtype == np.float32 for leaf in leaves(model))
    assert np.mean(losses[-10:]) < np.mean(losses[:5]) - 0.1


# --- metrics ---


def test_uniform_noise_is_not_at_a_right_angle() -> None:
    rng = np.random.default_rng(0)
    update = 0.5 + rng.standard_normal((1, 1, 200_000))
    nothing = np.zeros_like(update)
    for centred, expected in ((True, 0), (False, 0.75**0.5 * 0.5 / 1.25**0.5)):
        noise = d.random_update(update, rng, centred)
        found = d.attention_output_update_similarity(nothing, update, noise, normalize=False)[1]
        assert abs(found - expected) < 5 / 200_000**0.5


def test_masked_examples_are_left_out() -> None:
    states = np.random.default_rng(0).standard_normal((3, 5, 2, 4))
    mask = np.array([True, False, True, True, False])
    for masked, kept in zip(
        d.attention_output_update_similarity(*states, mask=mask),
        d.attention_output_update_similarity(*states[:, mask]),
        strict=True,
    ):
        np.testing.assert_array_equal(masked, kept)


def test_a_constant_moves_the_similarity_of_maps_though_not_attention() -> None:
    scores = np.random.default_rng(0).standard_normal((2, 3, 1, 2, 4))
    plain, moved = d.attention_map_similarity(*scores), d.attention_map_similarity(*(scores + 3))
    assert abs(plain - moved) > 0.1


def test_weights_of_examples_and_recall() -> None:
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(d.example_weights(weights, np.array([0, 0, 1, 1])), [0.3, 0.7])
    assert d.top_k_recall(weights, weights[::-1].copy(), 2) == 0
    assert d.top_k_recall(weights, weights[::-1].copy(), 3) == pytest.approx(2 / 3)


def test_weights_ignore_what_softmax_ignores() -> None:
    scores = np.random.default_rng(0).standard_normal((2, 5))
    np.testing.assert_allclose(d.in_context_weights(scores), softmax(scores.sum(axis=0)))
    np.testing.assert_allclose(d.finetuning_weights(scores.T.copy(), np.ones(2)), softmax(scores.sum(axis=0)))


@pytest.mark.parametrize(
    "name",
    [
        "relaxed_attention",
        "full_attention",
        "softmax_attention_split",
        "small_score_attention",
        "momentum_attention",
        "momentum_sum_derivative",
        "momentum_multi_head_attention",
        "implied_loss",
        "attention_output_update_similarity",
        "attention_map_similarity",
        "kendall_tau",
        "in_context_weights",
        "finetuning_weights",
        "finetune_key_value",
    ],
)
def test_the_dtype_is_kept(name: str) -> None:
    spec = find_spec(f"dual_form/{name}")
    case = examples(spec, 1)[0]

    def single(leaf: Any) -> Any:
        return leaf.astype(np.float32) if getattr(leaf, "dtype", None) == np.float64 else leaf

    output = spec.reference(
        **{key: tree_map(single, x) if isinstance(x, tuple) else single(x) for key, x in case.items()}
    )
    assert {leaf.dtype for leaf in leaves(output)} == {np.dtype(np.float32)}


def bad_shots(**changed: Any) -> d.Prompts:
    return shots()[1]._replace(**changed)


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
    (lambda: d.softmax_attention_split(**HEAD | {"demos": np.ones((3, 0))}, query=np.ones(4)), "demos"),
    (lambda: d.dual_form(np.ones((2, 3)), np.ones((2, 4)), np.ones((3, 5)), np.ones(3)), "inputs: expected n 4"),
    (lambda: d.explicit_update(*[np.ones((2, 3))] * 3, np.ones((2, 4)), np.ones((3, 2))), "key_change"),
    (lambda: d.linear_layer_sgd(np.ones((2, 3)), np.ones((3, 4)), np.ones((2, 4)), 0.0), "learning_rate"),
    (lambda: d.momentum_kernel(0, 0.5, np.ones(1)), "n: expected"),
    (lambda: d.momentum_attend(1.0), "eta"),
    (lambda: d.heavy_ball(lambda x: x[:1], np.ones(2), 0.1, 0.5, 3), "gradient: expected shape"),
    (lambda: d.momentum_gradient_descent(lambda x: x, np.ones(2), 0.1, 0.0, 3), "eta"),
    (lambda: d.momentum_attention(*[np.ones((2, 3))] * 3, 0.5, np.ones(3)), "mask: expected a boolean"),  # type: ignore[arg-type]
    (lambda: d.momentum_attention(*[np.ones((2, 3))] * 3, 0.5, np.ones(2, bool)), "mask: expected shape"),
    (lambda: d.label_logits(np.ones(2), np.ones((3, 4))), "label_embeddings"),
    (lambda: d.sample_shot_tasks(1, 1, 1, np.random.default_rng(0), spread=0.0), "spread"),
    (lambda: d.constructed_head(1, 8, 3, np.random.default_rng(0), noise=-1.0), "noise"),
    (lambda: d.finetune_key_value(HEAD3, np.ones((8, 2)), np.array([0, 3]), 0.1), "labels: expected classes"),
    (lambda: d.finetune_key_value(HEAD3, np.ones((7, 2)), np.array([0, 1]), 0.1), "head.value: expected d = 10"),
    (lambda: d.finetune_key_value(HEAD3, np.ones((8, 2)), np.array([0, 1]), -0.1), "learning_rate"),
    (lambda: d.shot_prompts(np.ones((4, 2)), np.array([0, 1]), 2, 3), "n_parts: expected a divisor"),
    (lambda: d.shot_prompts(np.ones((4, 2)), np.array([0, 2]), 2, 2), "labels: expected classes"),
    (lambda: d.candidate_logits(shots()[0], bad_shots(tokens=np.ones((1, 2, 5))), 3), "embedding: expected width 5"),
    (lambda: d.candidate_logits(shots()[0], bad_shots(tokens=np.ones((1, 13, 7))), 3), "at most 12 tokens"),
    (lambda: d.candidate_logits(shots()[0]._replace(readout=np.ones((7, 8))), bad_shots(), 3), "model.readout"),
    (lambda: d.candidate_logits(shots()[0], bad_shots(), 8), "n_classes"),
    (lambda: d.attention_output_update_similarity(*np.ones((3, 2, 1, 2)), mask=np.ones(3, bool)), "mask"),
    (lambda: d.attention_map_similarity(np.ones((2, 1, 1, 3)), np.ones((2, 1, 1, 4))), "scores_b"),
    (lambda: d.kendall_tau(np.ones(3), np.ones(3), "c"), "variant"),  # type: ignore[arg-type]
    (lambda: d.kendall_tau(np.array([1.0, np.nan]), np.ones(2)), "a: expected finite"),
    (lambda: d.top_k_recall(np.ones(3), np.ones(3), 4), "k: expected"),
    (lambda: d.example_weights(np.ones(3), np.array([0, 2, 2])), "example_of: expected all numbers"),
    (lambda: d.example_weights(np.ones(3), np.array([0, 1])), "example_of: expected an integer array"),
]
HEAD3 = d.Head(np.ones((3, 11)), np.ones((8, 11)), np.ones((8, 11)))


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
