"""Order sensitivity: second routes to the same values, what is refused, ties, dtypes, and exactness where it is due."""

from typing import Any

import numpy as np
import pytest
import scipy.special
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.incontext.order_sensitivity import (
    LabelTask,
    Pretraining,
    all_orders,
    bayes_label_probabilities,
    change_basis,
    compare_icl_gd,
    draw_chain,
    draw_maps,
    full_vocabulary_accuracy,
    gd_equivalent,
    gradient_descent_weights,
    icl_distributions,
    in_context_distributions,
    label_loss,
    label_loss_vjp,
    of_value_matrix,
    order_and_reverse,
    order_dependent_term,
    order_sensitivity,
    order_sensitivity_test,
    overlap_cosine,
    pretraining_steps,
    random_attention_stack,
    random_orders,
    regression_distributions,
    response_tensor,
    sensitivity_report,
    singular_profile,
    small_step_coefficient,
    sparsity_ratio,
    stack_label_loss,
    stack_logits,
    stack_logits_vjp,
    token_overlap,
    train_on_demonstrations,
    training_epochs,
    value_matrix,
    with_value_matrix,
    zero_shot_loss,
)
from refimpl.incontext.order_sensitivity.language import chain_documents, pair_documents
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.order_sensitivity import (
    demonstrations,
    distribution_pairs,
    ordered_distributions,
    stacks_and_prompts,
)
from refimpl.primitives.language_model import next_token_logits
from refimpl.primitives.linear_self_attention import LinearAttentionWeights
from refimpl.primitives.optimizers import sgd

each_input = settings(max_examples=40, deadline=None, derandomize=True)
EPSILON = float(np.finfo(float).eps)


def sample(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def some_distributions(seed: int, *shape: int) -> Any:
    return scipy.special.softmax(sample(seed, *shape), axis=-1)


def some_demonstrations(n_demos: int = 8, seed: int = 0) -> tuple[Any, Any]:
    return sample(seed, n_demos, 3), np.random.default_rng(seed).integers(4, size=n_demos)


# --- sensitivity ---


@each_input
@given(ordered_distributions())
def test_sensitivity_is_numpys_standard_deviation(arguments: Arguments) -> None:
    p, ddof = arguments["distributions"], arguments["ddof"]
    expected = p.std(axis=-3, ddof=ddof).sum(axis=-1).mean(axis=-1)
    np.testing.assert_allclose(order_sensitivity(p, ddof), expected, atol=p.shape[-1] * 4 * EPSILON)


@each_input
@given(ordered_distributions())
def test_the_report_adds_up(arguments: Arguments) -> None:
    report = sensitivity_report(**arguments)
    np.testing.assert_allclose(report.per_test.mean(axis=-1), report.sensitivity, rtol=1e-12)
    np.testing.assert_allclose(report.per_token.sum(axis=-1), report.sensitivity, rtol=1e-12)
    np.testing.assert_array_equal(report.sensitivity, order_sensitivity(**arguments))
    assert (report.n_orders, report.ddof) == (arguments["distributions"].shape[-3], arguments["ddof"])


def test_equal_distributions_have_no_sensitivity_at_all() -> None:
    one = some_distributions(0, 5, 30)
    assert order_sensitivity(np.broadcast_to(one, (10, 5, 30))) == 0


def test_single_precision_is_kept() -> None:
    p = some_distributions(0, 3, 2, 5).astype(np.float32)
    inputs, labels = some_demonstrations()
    weights, narrow = np.zeros((4, 3), np.float32), inputs.astype(np.float32)
    orders = random_orders(2, 8, np.random.default_rng(0))
    trained = train_on_demonstrations(weights, narrow, labels, orders, 0.1, 2, 4, "adam")
    outputs = [
        order_sensitivity(p),
        token_overlap(p[0], p[1], 2),
        overlap_cosine(p[0], p[1], 2),
        trained,
        regression_distributions(trained, narrow),
        label_loss(weights, narrow, labels),
        order_dependent_term(weights, narrow, labels, orders),
    ]
    assert {output.dtype for output in outputs} == {np.dtype(np.float32)}


def test_low_variance_of_few_orders() -> None:
    """The mean variance of samples with replacement is (R - 1)/R of that of all orders, exactly, by enumeration."""
    p = some_distributions(3, 4, 1, 1)[..., 0, 0]
    pairs = np.array([(a, b) for a in p for b in p])
    assert np.mean(pairs.var(axis=1)) == pytest.approx(p.var() / 2, rel=1e-12)
    without = np.array([(a, b) for i, a in enumerate(p) for j, b in enumerate(p) if i != j])
    assert np.mean(without.var(axis=1)) == pytest.approx(p.var() / 2 * 4 / 3, rel=1e-12)


def test_orders() -> None:
    orders = random_orders(50, 6, np.random.default_rng(0))
    assert np.all(np.sort(orders, axis=-1) == np.arange(6))
    assert len(np.unique(orders[:, 0])) == 6
    assert len(np.unique(all_orders(4), axis=0)) == 24
    np.testing.assert_array_equal(order_and_reverse(3), [[0, 1, 2], [2, 1, 0]])


def test_the_paired_test_sees_a_difference_and_none() -> None:
    rng = np.random.default_rng(0)
    loud, quiet = some_distributions(0, 10, 40, 6), np.broadcast_to(some_distributions(1, 40, 6), (10, 40, 6))
    found = order_sensitivity_test(loud, quiet, rng)
    assert found.difference == pytest.approx(float(order_sensitivity(loud)))
    assert found.low > 0
    assert found.ratio == np.inf
    same = order_sensitivity_test(loud, loud[:, :, ::-1], rng)
    assert same.low == same.high == 0 or same.low <= 0 <= same.high
    assert same.ratio == pytest.approx(1)


# --- similarity ---


@each_input
@given(distribution_pairs(), st.sampled_from(("inside", "outside")))
def test_metrics_by_sets(arguments: Arguments, penalty: Any) -> None:
    p, q, k = (arguments[name] for name in ("p", "q", "k"))
    overlaps, cosines = token_overlap(p, q, k), overlap_cosine(p, q, k, penalty)
    for index in np.ndindex(p.shape[:-1]):
        a, b = p[index], q[index]
        shared = sorted(set(np.argsort(a)[-k:]) & set(np.argsort(b)[-k:]))
        assert overlaps[index] == pytest.approx(len(shared) / k, abs=1e-15)
        squares = float(np.sum(a[shared] ** 2) * np.sum(b[shared] ** 2))
        missing = k - len(shared)
        below = (squares + missing) ** 0.5 if penalty == "inside" else squares**0.5 + missing
        assert cosines[index] == pytest.approx(float(a[shared] @ b[shared]) / below, rel=1e-12)


def test_of_equal_tokens_the_first_come_first() -> None:
    flat = np.full(4, 0.25)
    last = np.array([0.2, 0.2, 0.2, 0.4])
    assert token_overlap(flat, last, 1) == 0
    assert token_overlap(flat, last, 2) == 0.5  # tokens 0, 1 against 3, 0
    assert token_overlap(flat, flat, 3) == 1


def test_nothing_shared_has_cosine_zero() -> None:
    assert overlap_cosine(np.array([1.0, 0, 0]), np.array([0, 0, 1.0]), 1) == 0


def test_accuracy_is_of_the_whole_vocabulary() -> None:
    p = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])
    assert full_vocabulary_accuracy(p, np.array([1, 0])) == 0.5


def test_comparison_of_a_model_with_itself_does_not_differ() -> None:
    rng = np.random.default_rng(0)
    icl = some_distributions(0, 4, 30, 20)
    labels = np.arange(30) % 20
    same = np.broadcast_to(icl[:1], icl.shape)
    found = compare_icl_gd(same, same[:1], labels, rng)
    for metric in (found.agreement, found.overlap, found.cosine):
        assert metric.floor == pytest.approx(1)
        assert metric.similarity == pytest.approx(1)
        assert not metric.differs
    other = compare_icl_gd(same, some_distributions(1, 2, 30, 20), labels, rng)
    assert other.overlap.differs
    assert other.cosine.differs
    assert other.overlap.similarity == pytest.approx(
        float(np.mean([token_overlap(icl[0], one, 10) for one in some_distributions(1, 2, 30, 20)]))
    )
    assert other.icl_accuracy == pytest.approx(float(full_vocabulary_accuracy(icl[0], labels)))


# --- weights ---


def test_sparsity_counts_below_the_threshold() -> None:
    matrix = np.array([[1.0, 0.01], [0.009, 0.0]])
    assert sparsity_ratio(matrix, 100) == 0.5  # 0.01 is not below it
    assert sparsity_ratio(10 * matrix, 10, "absolute") == 0.5


@pytest.mark.parametrize("shape", [(1, 1), (3, 2)])
def test_equivalence_is_of_functions(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    made = gradient_descent_weights(*shape, 0.5, 4, sample(1, *shape[::-1]))
    size = sum(shape)
    bases = [rng.standard_normal((size, size)) + 2 * np.eye(size) for _ in range(3)]
    assert gd_equivalent(made, change_basis(made, np.eye(size), bases[1], bases[2]))
    assert not gd_equivalent(made, change_basis(made, bases[0], bases[1]))
    assert not gd_equivalent(made, made._replace(projection=1.01 * made.projection))
    traded = made._replace(projection=made.projection / 2, query=2 * made.query)
    assert gd_equivalent(made, traded)
    assert gd_equivalent(made, LinearAttentionWeights(*(np.concatenate([one, 0 * one]) for one in made)))


def test_keys_and_values_may_be_exchanged_where_both_have_rank_one() -> None:
    made = gradient_descent_weights(1, 1, 0.5, 4)  # A = v b^T reads x, B = a u^T reads y
    a, b = made.projection_value[0], made.key_query[0]
    exchanged = LinearAttentionWeights(
        key=np.array([[[0.0, 1.0], [0.0, 0.0]]]),
        query=np.array([[b[0], [0.0, 0.0]]]),
        value=np.array([[[1.0, 0.0], [0.0, 0.0]]]),
        projection=np.array([[[0.0, 0.0], [a[1, 1], 0.0]]]),
    )
    assert not np.allclose(made.key_query, exchanged.key_query)
    assert gd_equivalent(made, exchanged)
    two = gradient_descent_weights(2, 1, 0.5, 4)
    assert response_tensor(two).shape == (3, 3, 3, 3)


def test_equivalence_of_symbols() -> None:
    c = sympy.Symbol("c", positive=True)
    made = gradient_descent_weights(1, 1, sympy.Rational(1, 2), 4)
    assert gd_equivalent(made, made._replace(projection=made.projection / c, query=c * made.query))
    assert not gd_equivalent(made, made._replace(query=c * made.query))


def test_singular_profile() -> None:
    found = singular_profile(np.diag([3.0, 4.0, 0.0]))
    assert found.rank == 2
    assert found.stable_rank == pytest.approx(25 / 16)
    assert singular_profile(np.zeros((2, 2))).stable_rank == 0


def test_bases_in_longdouble() -> None:
    made = gradient_descent_weights(2, 1, 0.5, 4)
    wide = LinearAttentionWeights(*(matrix.astype(np.longdouble) for matrix in made))
    bases = [sample(seed, 3, 3) for seed in (1, 2)]
    expected = change_basis(made, *bases)
    found = change_basis(wide, *(basis.astype(np.longdouble) for basis in bases))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.longdouble
        np.testing.assert_allclose(a.astype(float), b, atol=1e-12)


# --- learners ---


@each_input
@given(demonstrations())
def test_training_takes_the_steps_of_the_loss(arguments: Arguments) -> None:
    weights, inputs, labels = arguments.values()
    expected = weights
    order = np.arange(len(inputs))[::-1]
    for start in range(0, len(inputs), 3):
        rows = order[start : start + 3]
        _, pullback = label_loss_vjp(expected, inputs[rows], labels[rows])
        expected = expected - 0.1 * pullback(np.ones(()))[0]
    found = train_on_demonstrations(weights, inputs, labels, order, 0.1, 1, min(3, len(inputs)))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_orders_at_once_are_orders_one_by_one() -> None:
    inputs, labels = some_demonstrations()
    orders = random_orders(4, 8, np.random.default_rng(1))
    together = train_on_demonstrations(np.zeros((4, 3)), inputs, labels, orders, 0.05, 6, 3, "adam")
    for one, order in zip(together, orders, strict=True):
        alone = train_on_demonstrations(np.zeros((4, 3)), inputs, labels, order, 0.05, 6, 3, "adam")
        np.testing.assert_allclose(one, alone, atol=1e-13)


def test_draws_at_once_are_draws_one_by_one() -> None:
    rng = np.random.default_rng(2)
    inputs, labels = rng.standard_normal((3, 8, 5)), rng.integers(4, size=(3, 8))
    orders = random_orders(6, 8, rng).reshape(3, 2, 8)
    together = train_on_demonstrations(np.zeros((4, 5)), inputs, labels, orders, 0.1, 4, 3)
    assert together.shape == (3, 2, 4, 5)
    for one, *draw in zip(together, inputs, labels, orders, strict=True):
        np.testing.assert_allclose(one, train_on_demonstrations(np.zeros((4, 5)), *draw, 0.1, 4, 3), atol=1e-13)
    with pytest.raises(ValueError, match="orders: expected leading axes"):
        train_on_demonstrations(np.zeros((4, 5)), inputs, labels, orders[:2], 0.1, 4, 3)


def test_no_epoch_leaves_the_weights() -> None:
    inputs, labels = some_demonstrations()
    start = sample(1, 4, 3)
    orders = all_orders(8)[:3]
    found = train_on_demonstrations(start, inputs, labels, orders, 0.1, 0)
    np.testing.assert_array_equal(found, np.broadcast_to(start, (3, 4, 3)))


def test_small_steps_have_the_coefficient_at_any_start() -> None:
    inputs, labels = some_demonstrations()
    start, queries = sample(1, 4, 3), sample(2, 10, 3)
    orders = random_orders(10, 8, np.random.default_rng(1))
    rate = 1e-4
    trained = train_on_demonstrations(start, inputs, labels, orders, rate, 1, 1)
    found = float(order_sensitivity(regression_distributions(trained, queries), 1)) / rate**2
    expected = float(small_step_coefficient(start, inputs, labels, orders, queries, 1))
    assert found == pytest.approx(expected, rel=1e-2)


@each_input
@given(stacks_and_prompts())
def test_queries_do_not_see_one_another(arguments: Arguments) -> None:
    together = stack_logits(**arguments)
    for place in range(arguments["queries"].shape[-2]):
        alone = arguments | {"queries": arguments["queries"][..., place : place + 1, :]}
        np.testing.assert_allclose(stack_logits(**alone)[..., 0, :], together[..., place, :], atol=1e-13)


def test_a_stack_by_the_paper_formula() -> None:
    rng = np.random.default_rng(0)
    stack = random_attention_stack(2, rng, n_slots=9)
    inputs, labels, query = sample(1, 8, 8), np.arange(8) % 6, sample(2, 1, 8)
    assert stack.positions is not None
    hidden = np.concatenate([inputs @ stack.embedding.T + stack.label_embedding[labels], query @ stack.embedding.T])
    hidden = hidden + stack.positions
    for block in stack.blocks:
        q, k, v = (hidden @ matrix[0].T for matrix in block.attention[:3])
        scores = np.where(np.tri(9, dtype=bool), q @ k.T / 24**0.5, -np.inf)
        hidden = hidden + scipy.special.softmax(scores, axis=-1) @ v
    expected = scipy.special.softmax(hidden[-1] @ stack.readout.T)
    found = icl_distributions(stack, inputs, labels, np.arange(8)[None], query)
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-14)


def test_the_gradient_of_one_value_matrix_by_the_paper_formula() -> None:
    rng = np.random.default_rng(0)
    stack = random_attention_stack(1, rng)
    inputs, labels = sample(1, 4, 8), np.array([0, 3, 3, 5])
    loss_and_gradient = of_value_matrix(stack_label_loss(inputs, labels), stack, 0)
    loss, gradient = loss_and_gradient(value_matrix(stack, 0), np.arange(4))
    hidden = inputs @ stack.embedding.T  # alone in its prompt a token attends to itself
    logits = (hidden + hidden @ value_matrix(stack, 0)[0].T) @ stack.readout.T
    errors = scipy.special.softmax(logits, axis=-1) - np.eye(6)[labels]
    np.testing.assert_allclose(gradient[0], stack.readout.T @ errors.T @ hidden / 4, atol=1e-14)
    assert loss == pytest.approx(float(np.mean(-scipy.special.log_softmax(logits, axis=-1)[np.arange(4), labels])))


def test_only_the_value_matrix_is_trained() -> None:
    rng = np.random.default_rng(0)
    stack = random_attention_stack(2, rng)
    inputs, labels = sample(1, 4, 8), np.array([0, 3, 3, 5])
    loss = of_value_matrix(stack_label_loss(inputs, labels), stack, 1)
    epochs = training_epochs(value_matrix(stack, 1), loss, np.arange(4), sgd(0.1), 2)
    for _ in range(3):
        value = next(epochs)
    trained = with_value_matrix(stack, 1, value)
    np.testing.assert_array_equal(value_matrix(trained, 0), value_matrix(stack, 0))
    assert loss(value, np.arange(4))[0] < loss(value_matrix(stack, 1), np.arange(4))[0]
    assert trained.readout is stack.readout


def test_no_demonstration_is_read_backwards() -> None:
    """The gradient with respect to a later demonstration does not reach through a causal mask, except to the query."""
    rng = np.random.default_rng(0)
    stack = random_attention_stack(2, rng)
    _, pullback = stack_logits_vjp(stack, sample(1, 3, 8), np.array([0, 1, 2]), sample(2, 1, 8))
    to_stack, to_inputs, to_queries = pullback(np.ones((1, 6)))
    assert to_stack.positions is None
    assert to_inputs.shape == (3, 8)
    assert np.all(np.any(to_inputs != 0, axis=-1))
    assert to_queries.shape == (1, 8)


# --- the language model ---

TASK = LabelTask(n_inputs=5, n_labels=3, vocabulary=12, n_pairs=4)


def test_documents() -> None:
    rng = np.random.default_rng(0)
    maps = draw_maps(TASK, 7, rng)
    tokens = pair_documents(TASK, maps, 50, rng).reshape(50, 4, 3)
    assert np.all(tokens[..., 2] == TASK.separator)
    fits = np.all(maps[:, tokens[..., 0]] == tokens[..., 1], axis=-1)
    assert np.all(np.any(fits, axis=0))
    chain = draw_chain(TASK, rng)
    text = chain_documents(chain, 20_000, 3, rng)
    # Of the most frequent pair, the next token has the chain's law: five standard errors of a frequency.
    pair, count = max(zip(*np.unique(text[:, :2], axis=0, return_counts=True), strict=True), key=lambda one: one[1])
    after = text[np.all(text[:, :2] == pair, axis=-1), 2]
    law = np.diff(chain[tuple(pair)], prepend=0)
    assert np.max(np.abs(np.bincount(after, minlength=12) / count - law)) < 5 / (2 * count**0.5)


@pytest.mark.parametrize("objective", ["text", "labels"])
def test_pretraining_lowers_the_loss(objective: Any) -> None:
    rng = np.random.default_rng(0)
    settings_ = Pretraining(objective, n_steps=60, batch=16, d=16, n_heads=2)
    steps = pretraining_steps(TASK, draw_maps(TASK, 1, rng), draw_chain(TASK, rng), settings_, rng)
    losses = [loss for loss, _ in (next(steps) for _ in range(60))]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_in_context_distributions_read_the_prompt() -> None:
    rng = np.random.default_rng(0)
    steps = pretraining_steps(TASK, draw_maps(TASK, 1, rng), draw_chain(TASK, rng), Pretraining(d=8, n_heads=2), rng)
    _, model = next(steps)
    inputs, labels = np.array([1, 4]), np.array([6, 7])
    found = in_context_distributions(model, TASK, inputs, labels, np.array([[1, 0]]))
    prompt = np.array([4, 7, TASK.separator, 1, 6, TASK.separator, 3])
    logits = next_token_logits(model.embedding[prompt], model)[-1]
    np.testing.assert_allclose(found[0, 3], scipy.special.softmax(logits), rtol=1e-4)
    alone = in_context_distributions(model, TASK, inputs[:0], labels[:0], np.zeros((1, 0), int))
    loss, _ = zero_shot_loss(inputs, labels)(model, np.arange(2))
    assert loss == pytest.approx(float(-np.log(alone[0, inputs, labels]).mean()), rel=1e-5)


def test_bayes_by_hand() -> None:
    maps = np.array([[2, 2], [2, 3], [3, 3]])
    found = bayes_label_probabilities(maps, np.array([0]), np.array([2]), 4)
    np.testing.assert_allclose(found, [[0, 0, 1, 0], [0, 0, 0.5, 0.5]])
    with pytest.raises(ValueError, match="labels: expected those of a map of the pool"):
        bayes_label_probabilities(maps, np.array([0, 1]), np.array([3, 2]), 4)


# --- bad input ---

P = some_distributions(0, 3, 2, 5)
INPUTS, LABELS = some_demonstrations()
ZEROS, ORDERS = np.zeros((4, 3)), np.tile(np.arange(8), (2, 1))
MADE = gradient_descent_weights(2, 1, 0.5, 4)
STACK = random_attention_stack(1, np.random.default_rng(0), n_slots=4)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: order_sensitivity(1.001 * P), "distributions: expected distributions, got entries that sum to 1.001"),
        (lambda: order_sensitivity(P * [1, 1, 1, 1, -1]), "distributions: expected distributions, got an entry -"),
        (lambda: order_sensitivity(P[:1]), "distributions: expected at least 2 orders, got 1"),
        (lambda: order_sensitivity(P, 2), "ddof: expected an integer from 0 to 1, got 2"),
        (lambda: order_sensitivity(P * np.nan), "distributions: expected finite entries"),
        (lambda: order_sensitivity_test(P, P[:, :1], RNG), "gd: expected n_test 2 as in icl"),
        (lambda: order_sensitivity_test(P, P, RNG, 0), "n_bootstrap: expected an integer >= 1, got 0"),
        (lambda: token_overlap(P, P, 6), "k: expected an integer from 1 to 5, got 6"),
        (lambda: token_overlap(P, P, 0), "k: expected an integer from 1 to 5, got 0"),
        (lambda: token_overlap(P, P[..., :4] / P[..., :4].sum(-1, keepdims=True), 2), "q: expected n_tokens 5"),
        (lambda: overlap_cosine(P, P, 2, "beside"), "penalty: expected 'inside' or 'outside', got 'beside'"),  # type: ignore[arg-type]
        (lambda: full_vocabulary_accuracy(P[0], np.array([0, 5])), "labels: expected 0 to 4, got 0 to 5"),
        (lambda: full_vocabulary_accuracy(P[0], np.array([0])), r"labels: expected integers of shape \(2,\)"),
        (lambda: compare_icl_gd(P[:1], P, np.array([0, 1]), RNG, 2), "n_orders: expected an integer >= 2, got 1"),
        (lambda: sparsity_ratio(np.ones((2, 2)), 0), r"delta: expected a number in \(0, inf\), got 0"),
        (lambda: sparsity_ratio(np.zeros((2, 2)), 10), "matrix: expected an entry that is not 0"),
        (lambda: sparsity_ratio(np.ones((2, 2)), 10, "none"), "mode: expected 'relative' or 'absolute'"),  # type: ignore[arg-type]
        (lambda: sparsity_ratio(np.ones((0, 2)), 10), "matrix: expected at least one entry"),
        (lambda: change_basis(MADE, np.ones((3, 3)), np.eye(3)), "token_basis: expected an invertible matrix"),
        (lambda: change_basis(MADE, np.eye(3), np.zeros((3, 3))), "head_basis: expected an invertible matrix"),
        (lambda: change_basis(MADE, np.eye(3), np.eye(2)), "head_basis: expected D 3"),
        (lambda: gd_equivalent(MADE, gradient_descent_weights(1, 1, 1.0, 1)), "b: expected token dimension 3"),
        (lambda: random_orders(0, 3, RNG), "n_orders: expected an integer >= 1, got 0"),
        (lambda: all_orders(9), "n_demos: expected an integer from 1 to 8, got 9"),
        (lambda: order_and_reverse(1), "n_demos: expected an integer >= 2, got 1"),
        (
            lambda: train_on_demonstrations(ZEROS, INPUTS, LABELS, ORDERS * 0, 0.1, 1),
            "orders: expected permutations of 0 to 7",
        ),
        (
            lambda: train_on_demonstrations(ZEROS, INPUTS, LABELS, ORDERS[:, :7], 0.1, 1),
            r"orders: expected integers of shape \(..., 8\)",
        ),
        (
            lambda: train_on_demonstrations(ZEROS, INPUTS, LABELS, ORDERS, -0.1, 1),
            r"learning_rate: expected a number in \(0, inf\), got -0.1",
        ),
        (lambda: train_on_demonstrations(ZEROS, INPUTS, LABELS, ORDERS, 0.1, -1), "epochs: expected an integer >= 0"),
        (
            lambda: train_on_demonstrations(ZEROS, INPUTS, LABELS, ORDERS, 0.1, 1, 9),
            "batch_size: expected an integer from 1 to 8, got 9",
        ),
        (
            lambda: train_on_demonstrations(ZEROS, INPUTS, LABELS, ORDERS, 0.1, 1, 2, "lion"),  # type: ignore[arg-type]
            "optimizer: expected one of",
        ),
        (lambda: train_on_demonstrations(ZEROS, INPUTS, LABELS + 4, ORDERS, 0.1, 1), "labels: expected 0 to 3"),
        (lambda: train_on_demonstrations(ZEROS[:, :2], INPUTS, LABELS, ORDERS, 0.1, 1), "inputs: expected d 2"),
        (lambda: stack_logits(STACK, sample(0, 4, 8), LABELS[:4], sample(1, 1, 8)), "expected fewer than 4 demon"),
        (lambda: stack_logits(STACK, sample(0, 2, 8), LABELS[:3], sample(1, 1, 8)), "labels: expected integers of"),
        (lambda: draw_maps(LabelTask(vocabulary=16), 3, RNG), "task.vocabulary: expected more than 16 tokens, got 16"),
        (
            lambda: pretraining_steps(TASK, ORDERS, P, Pretraining("both"), RNG),  # type: ignore[arg-type]
            "settings.objective: expected 'text' or 'labels'",
        ),
    ],
)
def test_bad_input(call: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        call()
