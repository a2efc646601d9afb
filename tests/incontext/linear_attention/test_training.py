"""What is trained: other routes to the same predictions, gradients by differences, training itself, bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.incontext.linear_attention import (
    LinearAttentionWeights,
    MetaTraining,
    NormedLayer,
    Prompts,
    RawTransformer,
    SineControl,
    code_deviation,
    constructed_network,
    control_loss_and_gradients,
    copy_sensitivity,
    initial_sine_network,
    initial_weights,
    linear_self_attention,
    looped_loss_and_gradients,
    loss_and_gradients,
    make_prompts,
    make_raw_prompts,
    make_tokens,
    normed_loss_and_gradients,
    normed_predict,
    one_step_population_loss,
    optimal_learning_rate,
    positional_encoding,
    predict,
    predict_vjp,
    raw_loss_and_gradients,
    raw_predict,
    read_prediction,
    sample_sine_prompts,
    sine_loss_and_gradients,
    sine_predict,
    softmax_loss_and_gradients,
    softmax_predict,
    softmax_self_attention,
    stack_forward_vjp,
    text_deviation,
    train_lsa,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.linear_attention.training import stacks
from refimpl.primitives.layers import Linear
from refimpl.primitives.normalization import layer_norm
from refimpl.primitives.trees import leaves, tree_map
from refimpl.tasks.linear_regression import RegressionTasks, sample_linear_tasks, uniform_moments

RNG = np.random.default_rng(0)
TASKS = sample_linear_tasks(6, 3, 4, 0.5, 1.0, RNG, n_outputs=2)
PROMPTS = make_prompts(TASKS)


def layer(n_heads: int, size: int, seed: int = 0) -> LinearAttentionWeights:
    """Random weights."""
    return LinearAttentionWeights(*np.random.default_rng(seed).standard_normal((4, n_heads, size, size)) / 2)


LAYER = layer(2, 5)
NORMED = NormedLayer(*RNG.standard_normal((2, 5)), LAYER)
SINE = initial_sine_network(6, 7, RNG, (0.5, 1.0), np.float64)
SINE_PROMPTS = sample_sine_prompts(5, 4, (0.1, 5.0), RNG)
RAW = RawTransformer(layer(1, 7, 1), layer(2, 7, 2))
RAW_PROMPTS = make_raw_prompts(TASKS, 4)


def tasks_first(tokens: Any) -> Any:
    """Tokens of the training layout in the layout of the constructions."""
    return tokens.transpose(2, 1, 0)


# --- other routes ---


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 3).flatmap(stacks), st.sampled_from((None, 0.5, 10.0)), st.integers(0, 2**32 - 1))
def test_the_fast_layout_agrees_with_the_stack(case: Arguments, clip: float | None, seed: int) -> None:
    tokens, layers, n_outputs = case.values()
    prediction, pullback = predict_vjp(tokens, layers, n_outputs, clip)
    output, pull_stack = stack_forward_vjp(tasks_first(tokens), layers, len(tokens) - 1, clip)
    cotangent = np.random.default_rng(seed).standard_normal(prediction.shape)
    onto_last = np.zeros_like(output)
    onto_last[:, -n_outputs:, -1] = -cotangent.T
    to_tokens, to_layers = pullback(cotangent)
    to_stack, to_stacked = pull_stack(onto_last)
    routes = [(prediction, -output[:, -n_outputs:, -1].T), (to_tokens, tasks_first(to_stack))]
    for one, other in [*routes, *zip(leaves(to_layers), leaves(to_stacked), strict=True)]:
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11 * (1 + np.max(np.abs(other))))


def test_prompts_are_the_tokens_of_the_constructions() -> None:
    np.testing.assert_array_equal(tasks_first(PROMPTS.tokens), make_tokens(TASKS.x, TASKS.y, TASKS.x_query))
    np.testing.assert_array_equal(PROMPTS.targets, TASKS.y_query.T)
    assert PROMPTS.tokens.flags.c_contiguous
    assert PROMPTS.targets.flags.c_contiguous


def test_softmax_heads_agree_with_the_softmax_layer() -> None:
    output = softmax_self_attention(tasks_first(PROMPTS.tokens), LAYER, 4, scale=5**-0.5)
    np.testing.assert_allclose(softmax_predict(PROMPTS.tokens, LAYER, 2), read_prediction(output, 3).T, rtol=1e-12)


def test_a_large_logit_does_not_overflow() -> None:
    steep = LAYER._replace(key=LAYER.key * 1e5)
    assert np.all(np.isfinite(softmax_predict(PROMPTS.tokens, steep, 2)))


def test_normed_layer_adds_attention_on_normed_tokens_to_the_tokens() -> None:
    tokens = tasks_first(PROMPTS.tokens)
    normed = np.swapaxes(layer_norm(np.swapaxes(tokens, -1, -2), NORMED.scale, NORMED.offset), -1, -2)
    update = linear_self_attention(normed, LAYER, 4) - normed
    expected = read_prediction(tokens + update, 3).T
    np.testing.assert_allclose(normed_predict(PROMPTS.tokens, NORMED, 2), expected, rtol=1e-12, atol=1e-13)


def test_raw_transformer_is_a_softmax_layer_and_a_linear_one() -> None:
    hidden = softmax_self_attention(RAW_PROMPTS.tokens, RAW.softmax, 8, scale=7**-0.5)
    expected = read_prediction(linear_self_attention(hidden, RAW.linear, 8), 5).T
    np.testing.assert_allclose(raw_predict(RAW_PROMPTS.tokens, RAW, 2), expected, rtol=1e-12)


def test_the_control_network_descends_on_its_features() -> None:
    """With an embedding that copies and an MLP that adds nothing, it is one gradient step on $x$."""
    nothing = [Linear(np.zeros((3, 2)), np.zeros(3)), Linear(np.zeros((2, 3)), np.zeros(2))]
    network = constructed_network(SineControl(Linear(np.eye(2)), nothing, np.array(0.3)), 4)
    x, y = SINE_PROMPTS.tokens[:-1, 0], SINE_PROMPTS.tokens[:-1, 1]
    expected = 0.3 / 4 * (x * y).sum(axis=0) * SINE_PROMPTS.tokens[-1, 0]
    np.testing.assert_allclose(sine_predict(SINE_PROMPTS.tokens, network)[0], expected, rtol=1e-12)


# --- gradients of the losses ---

LOSSES: dict[str, tuple[Callable[[Any, Any], tuple[Any, Any]], Any, Any]] = {
    "linear": (loss_and_gradients, [LAYER, layer(1, 5, 3), layer(2, 5, 4)], PROMPTS),
    "linear, clipped": (lambda layers, batch: loss_and_gradients(layers, batch, 0.4), [LAYER, layer(1, 5, 3)], PROMPTS),
    "looped": (lambda weights, batch: looped_loss_and_gradients(weights, batch, 3), layer(1, 5, 3), PROMPTS),
    "softmax": (softmax_loss_and_gradients, LAYER, PROMPTS),
    "layer norm": (normed_loss_and_gradients, NORMED, PROMPTS),
    "sine": (sine_loss_and_gradients, SINE, SINE_PROMPTS),
    "sine control": (
        control_loss_and_gradients,
        SineControl(SINE.embedding, SINE.mlp, np.array(0.7)),
        SINE_PROMPTS,
    ),
    "raw": (raw_loss_and_gradients, RAW, RAW_PROMPTS),
}
each_loss = pytest.mark.parametrize(("loss", "params", "batch"), LOSSES.values(), ids=LOSSES)


@each_loss
def test_gradients_are_those_of_the_loss(loss: Callable[[Any, Any], tuple[Any, Any]], params: Any, batch: Any) -> None:
    """Central differences in longdouble at h = 1e-5, extrapolated: truncation and roundoff below 1e-13."""
    wide, wide_batch = (tree_map(lambda leaf: leaf.astype(np.longdouble), tree) for tree in (params, batch))
    value, gradients = loss(params, batch)
    rng = np.random.default_rng(1)
    directions = tree_map(lambda leaf: rng.standard_normal(leaf.shape), params)

    def along(step: float) -> Any:
        return loss(tree_map(lambda p, d: p + np.longdouble(step) * d, wide, directions), wide_batch)[0]

    slopes = [(along(h) - along(-h)) / (2 * np.longdouble(h)) for h in (1e-5, 5e-6)]
    terms = [g * d for g, d in zip(leaves(gradients), leaves(directions), strict=True)]
    claimed, size = (sum(function(term).sum() for term in terms) for function in (np.asarray, np.abs))
    assert abs(float(along(0)) - float(value)) <= 1e-13 * (1 + float(value))
    assert abs(float((4 * slopes[1] - slopes[0]) / 3) - claimed) <= 1e-10 * float(size)


@each_loss
def test_gradients_keep_tree_and_dtype_and_change_nothing(
    loss: Callable[[Any, Any], tuple[Any, Any]], params: Any, batch: Any
) -> None:
    narrow, narrow_batch = (tree_map(lambda leaf: leaf.astype(np.float32), tree) for tree in (params, batch))
    before = [leaf.copy() for leaf in [*leaves(narrow), *leaves(narrow_batch)]]
    value, gradients = loss(narrow, narrow_batch)
    tree_map(lambda gradient, leaf: np.testing.assert_equal(gradient.shape, leaf.shape), gradients, narrow)
    assert {leaf.dtype for leaf in leaves(gradients)} == {np.dtype(np.float32)}
    assert value.dtype == np.float32
    for leaf, old in zip([*leaves(narrow), *leaves(narrow_batch)], before, strict=True):
        np.testing.assert_array_equal(leaf, old)
    assert abs(value - loss(params, batch)[0]) <= 1e-4 * (1 + abs(value))


def test_the_loss_is_half_the_mean_square() -> None:
    value, _ = loss_and_gradients([LAYER], PROMPTS)
    error = predict(PROMPTS.tokens, [LAYER], 2) - PROMPTS.targets
    assert value == pytest.approx((error**2).sum(axis=0).mean() / 2, rel=1e-14)


# --- training ---

SHORT = MetaTraining(n_inputs=3, n_context=4, batch_size=64, n_steps=40)


def test_training_is_its_seed_s() -> None:
    one, again, other = (train_lsa(SHORT, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.losses, again.losses)
    assert np.any(one.losses != other.losses)
    assert len(one.losses) == 40
    assert {leaf.dtype for leaf in leaves(one.layers)} == {np.dtype(np.float32)}


def test_training_lowers_the_loss_to_that_of_a_gradient_step() -> None:
    settings = MetaTraining(n_inputs=4, n_context=8, n_steps=500, learning_rate=1e-2)
    losses = train_lsa(settings, np.random.default_rng(0)).losses
    moments = uniform_moments(0.5)
    best = one_step_population_loss(optimal_learning_rate(4, 8, *moments), 4, 8, *moments) / 2
    assert losses[0] > 2 * best
    assert losses[-100:].mean() < 1.1 * best


def test_depth_heads_and_loops() -> None:
    looped = train_lsa(SHORT._replace(n_layers=3, looped=True), np.random.default_rng(0)).layers
    untied = train_lsa(SHORT._replace(n_layers=3, n_heads=2), np.random.default_rng(0)).layers
    assert [one is looped[0] for one in looped] == [True] * 3
    assert [one.key.shape for one in untied] == [(2, 4, 4)] * 3
    assert np.any(untied[0].key != untied[1].key)


def test_a_batch_of_the_caller_s_is_what_it_trains_on() -> None:
    calls = []

    def sample() -> Prompts:
        calls.append(None)
        return Prompts(np.zeros((5, 4, 2), np.float32), np.ones((1, 2), np.float32))

    trained = train_lsa(SHORT, np.random.default_rng(0), sample)
    np.testing.assert_array_equal(trained.losses, 0.5)
    assert len(calls) == 40


def test_initial_weights_are_truncated_normal() -> None:
    weights = np.stack(initial_weights(50, 3, 0.1, np.random.default_rng(0)))
    assert np.abs(weights).max() <= 0.2
    # Truncated at two, a standard normal has deviation 0.8796; over 30000 entries the estimate's own is 0.0031.
    assert weights.std() / 0.1 == pytest.approx(0.8796, abs=0.016)
    assert abs(weights.mean()) < 0.1 * 0.8796 / 30000**0.5 * 5
    assert initial_weights(2, 1, 0.1, np.random.default_rng(0), np.float32).key.dtype == np.float32


def test_deviations_of_text_and_code() -> None:
    assert text_deviation(4) == 0.0005
    assert code_deviation(2, 11) == pytest.approx((0.001 / 11) ** 0.5, rel=1e-15)


# --- tasks ---


def test_sine_prompts_are_sines() -> None:
    tokens, targets = sample_sine_prompts(200, 30, (0.1, 5.0), np.random.default_rng(0))
    x, y = tokens[:-1].transpose(1, 2, 0)
    assert np.abs(tokens[:, 0]).max() <= 5
    np.testing.assert_array_equal(tokens[-1, 1], 0)
    # A wave a sin x + b cos x fits every context and its query, with amplitude and phase in their ranges.
    basis = np.stack([np.sin(x), np.cos(x)], axis=-1)
    coefficients = (np.linalg.pinv(basis) @ y[..., None])[..., 0]
    np.testing.assert_allclose((basis @ coefficients[..., None])[..., 0], y, atol=1e-12)
    query = np.stack([np.sin(tokens[-1, 0]), np.cos(tokens[-1, 0])], axis=-1)
    np.testing.assert_allclose((query * coefficients).sum(axis=-1), targets[0], atol=1e-10)
    amplitude = np.linalg.norm(coefficients, axis=-1)
    assert 0.1 <= amplitude.min() < 0.5
    assert 4.5 < amplitude.max() <= 5
    assert np.all(coefficients[:, 1] >= 0)  # sin of a phase in [0, pi]
    assert sample_sine_prompts(2, 3, (0.1, 0.5), np.random.default_rng(0), np.float32)[0].dtype == np.float32


def test_raw_prompts_alternate_inputs_and_padded_targets() -> None:
    tokens, targets = RAW_PROMPTS
    np.testing.assert_array_equal(tokens[:, :3, 0:-1:2], TASKS.x)
    np.testing.assert_array_equal(tokens[:, 1:3, 1::2], TASKS.y)
    np.testing.assert_array_equal(tokens[:, 0, 1::2], 0)
    np.testing.assert_array_equal(tokens[:, :3, -1], TASKS.x_query)
    np.testing.assert_array_equal(tokens[:, 3:], np.broadcast_to(positional_encoding(9, 4), (6, 4, 9)))
    np.testing.assert_array_equal(targets, TASKS.y_query.T)


def test_positional_encoding_by_hand() -> None:
    expected = [[0, np.sin(1)], [1, np.cos(1)], [0, np.sin(0.01)], [1, np.cos(0.01)]]
    np.testing.assert_allclose(positional_encoding(2, 4), expected, rtol=1e-15)


def test_copy_sensitivity_of_a_layer_that_does_nothing_and_of_one_that_averages() -> None:
    nothing = tree_map(np.zeros_like, RAW.softmax)
    own, following, other = copy_sensitivity(RAW_PROMPTS.tokens, nothing)
    assert (own, following, other) == pytest.approx((7**0.5, 0, 0))
    identity = np.eye(7)[None]
    # Equal scores: each token adds the mean of the eight context tokens.
    averaging = nothing._replace(value=identity, projection=identity)
    own, following, other = copy_sensitivity(RAW_PROMPTS.tokens, averaging)
    assert (own, following) == pytest.approx((7**0.5 * 9 / 8, 7**0.5 / 8))
    assert other == pytest.approx(7**0.5 / 8 * 6 / 7)  # of seven others the query gives no values


# --- bad input ---

NOT_FINITE = np.full((5, 5, 6), np.nan)
BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: predict(PROMPTS.tokens[:1], [LAYER], 1), "tokens: expected a context token"),
    (lambda: predict(PROMPTS.tokens[0], [LAYER], 1), "tokens: expected shape"),
    (lambda: predict(NOT_FINITE, [LAYER], 1), "tokens: expected finite"),
    (lambda: predict(np.ones((5, 5, 6), int), [LAYER], 1), "tokens: expected a floating-point"),
    (lambda: predict(PROMPTS.tokens, [], 1), "layers: expected a list of at least one"),
    (lambda: predict(PROMPTS.tokens, [LAYER, layer(1, 4)], 1), r"layers\[1\]"),
    (lambda: predict(PROMPTS.tokens, [LAYER], 5), "n_outputs"),
    (lambda: predict(PROMPTS.tokens, [LAYER], 0), "n_outputs"),
    (lambda: predict(PROMPTS.tokens, [LAYER], 1, clip=0.0), "clip"),
    (lambda: predict_vjp(PROMPTS.tokens[..., :0], [LAYER], 1), "tokens: expected n_tasks >= 1"),
    (lambda: loss_and_gradients([LAYER], PROMPTS._replace(targets=np.zeros((2, 5)))), "targets: expected n_tasks 6"),
    (lambda: loss_and_gradients([LAYER], PROMPTS, clip=-1.0), "clip"),
    (lambda: looped_loss_and_gradients(LAYER, PROMPTS, 0), "n_layers"),
    (lambda: softmax_loss_and_gradients(LAYER, PROMPTS._replace(targets=np.zeros(6))), "targets: expected shape"),
    (lambda: normed_loss_and_gradients(NORMED._replace(offset=np.ones(4)), PROMPTS), "layer.offset"),
    (lambda: sine_loss_and_gradients(SINE, PROMPTS), "tokens: expected shape"),
    (
        lambda: control_loss_and_gradients(SineControl(SINE.embedding, SINE.mlp, np.ones(1)), SINE_PROMPTS),
        "learning_rate",
    ),
    (lambda: raw_loss_and_gradients(RAW, RAW_PROMPTS._replace(targets=np.zeros((2, 5)))), "targets"),
    (lambda: make_prompts(TASKS._replace(y=TASKS.y[..., 1:])), "y: expected n_context"),
    (lambda: make_prompts(RegressionTasks(*(array[0] for array in TASKS))), "tasks: expected one leading axis"),
    (lambda: make_prompts(RegressionTasks(*(array[:0] for array in TASKS))), "tasks: expected at least one task"),
    (lambda: softmax_predict(PROMPTS.tokens, layer(1, 4), 1), "weights"),
    (lambda: normed_predict(PROMPTS.tokens, NORMED._replace(scale=np.ones(4)), 1), "layer.scale"),
    (lambda: sine_predict(SINE_PROMPTS.tokens[:, :1], SINE), "tokens: expected shape"),
    (lambda: sine_predict(SINE_PROMPTS.tokens, SINE._replace(mlp=SINE.mlp[:1])), "network.mlp"),
    (lambda: sine_predict(SINE_PROMPTS.tokens, SINE._replace(embedding=Linear(np.ones((5, 2))))), "network.mlp"),
    (lambda: raw_predict(RAW_PROMPTS.tokens, RAW._replace(linear=layer(1, 6)), 1), "layers.linear"),
    (lambda: raw_predict(RAW_PROMPTS.tokens[..., :1], RAW, 1), "tokens: expected a context token"),
    (lambda: copy_sensitivity(RAW_PROMPTS.tokens[..., :2], RAW.softmax), "n_tokens"),
    (lambda: make_raw_prompts(TASKS, 3), "size: expected an even"),
    (lambda: positional_encoding(0, 2), "n_tokens"),
    (lambda: sample_sine_prompts(0, 3, (0.1, 5.0), RNG), "n_tasks"),
    (lambda: sample_sine_prompts(2, 0, (0.1, 5.0), RNG), "n_context"),
    (lambda: sample_sine_prompts(2, 3, (0.5, 0.1), RNG), r"amplitudes\[1\]"),
    (lambda: initial_weights(3, 1, 0.0, RNG), "standard_deviation"),
    (lambda: initial_weights(3, 0, 0.1, RNG), "n_heads"),
    (lambda: text_deviation(0), "n_layers"),
    (lambda: train_lsa(SHORT._replace(n_steps=0), RNG), "n_steps"),
    (lambda: train_lsa(SHORT._replace(n_layers=0), RNG), "n_layers"),
    (lambda: train_lsa(SHORT._replace(n_inputs=0), RNG), "n_inputs"),
    (lambda: train_lsa(SHORT._replace(batch_size=0), RNG), "n_tasks"),
    (lambda: train_lsa(SHORT._replace(learning_rate=-1.0), RNG), "initial"),
    (lambda: train_lsa(SHORT._replace(clip_norm=0.0), RNG), "max_norm"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
