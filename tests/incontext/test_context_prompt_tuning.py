"""Context-aware prompt tuning: bad input, dtypes, two routes to the same value, and the loop on a model by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from refimpl.incontext.context_prompt_tuning import (
    IGNORED,
    CPTResult,
    FewShots,
    Prompt,
    SetTask,
    as_prompt,
    build_sequence,
    context_prompt_tuning,
    cpt_loss,
    diagnose_context,
    draw_sets,
    few_shots,
    initial_virtual_tokens,
    instruction_prompt_tuning,
    kernel_predict,
    kernel_prompt_loss,
    kernel_prompt_loss_vjp,
    label_loss_weights,
    project_tokens,
    recency_weights,
    sample_examples,
    token_radii,
    token_type_mask,
    trainable_mask,
    tune_kernel_prompt,
)
from refimpl.oracle.spec import Arguments, find_spec

TYPES = token_type_mask([(1, 2, 1, 1), (1, 2, 1, 1)])
PROBLEMS = find_spec("context_prompt_tuning/kernel_prompt_loss").arguments


def linear_model(readout: np.ndarray) -> Any:
    """A frozen model whose logits at a position are linear in the sum of all embeddings up to it."""

    def model(embeddings: np.ndarray) -> tuple[np.ndarray, Any]:
        logits = np.cumsum(embeddings, axis=0) @ readout.T
        return logits, lambda cotangent: np.cumsum((cotangent @ readout)[::-1], axis=0)[::-1]

    return model


def setting(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    task = SetTask()
    examples = sample_examples(task, draw_sets(task, 1, rng), np.array([[0, 1, 2]]), rng)[0]
    embedding = rng.standard_normal((task.vocabulary, 4))
    return {
        "model": linear_model(rng.standard_normal((task.vocabulary, 4)) / 4),
        "embedding": embedding,
        "context": as_prompt(examples),
        "examples": [as_prompt(one[None]) for one in examples],
    }


# --- tokens ---


def test_types_and_masks_of_a_context() -> None:
    assert TYPES.tolist() == [1, 2, 2, 3, 4, 5, 6, 6, 7, 8]
    assert trainable_mask(np.array([0, 1, 2, 3, 4, 8])).tolist() == [False, True, True, True, False, False]


def test_an_appended_example_gets_the_next_types() -> None:
    context = Prompt(np.arange(10), TYPES, np.where(TYPES % 4 == 0, np.arange(10), IGNORED))
    example = Prompt(np.arange(5), TYPES[:5], np.full(5, IGNORED))
    assert build_sequence(context, example).types.tolist() == [*TYPES, 9, 10, 10, 11, 12]


def test_a_label_of_several_tokens_has_one_weight() -> None:
    types = token_type_mask([(0, 1, 0, 2), (0, 1, 0, 1)])
    np.testing.assert_allclose(label_loss_weights(types, 0.5), [0, 0.5, 0.5, 0, 1])


def test_loss_is_the_weighted_cross_entropy_of_shifted_logits() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((10, 7))
    labels = np.where(TYPES % 4 == 0, 3, IGNORED)
    surprise = -np.log(np.exp(logits)[:, 3] / np.exp(logits).sum(axis=1))
    expected = (0.9 * surprise[3] + surprise[8]) / 2
    np.testing.assert_allclose(cpt_loss(logits, labels, TYPES, 0.9), expected, rtol=1e-14)


def test_infinity_norm_clips_coordinates() -> None:
    rows = np.array([[3.0, -0.5], [0.2, 0.1]])
    np.testing.assert_array_equal(project_tokens(rows, np.array([1.0, 1.0]), "linf"), [[1, -0.5], [0.2, 0.1]])


def test_tiny_and_zero_radii_are_met_in_float32() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32)
    found = project_tokens(rows, np.array([1e-10, 0.0]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1e-10, 0], rtol=1e-6)


# --- the kernel model ---


@settings(max_examples=30, deadline=None, derandomize=True)
@given(PROBLEMS)
def test_vectorised_loss_is_the_sum_over_examples(arguments: Arguments) -> None:
    """One example at a time, from the prediction of the model alone."""
    flat = {
        name: value.reshape(-1, *value.shape[-2:])[0] if np.ndim(value) > 1 else value
        for name, value in arguments.items()
    }
    keys, values, n = flat["keys"], flat["values"], len(flat["keys"])
    sharpness, confidence = flat["sharpness"], flat["confidence"]

    def surprise(rows: Any, query: np.ndarray, target: np.ndarray) -> float:
        logits = kernel_predict(keys[rows], values[rows], query[None], sharpness, confidence)[0]
        return float(np.log(np.exp(logits).sum()) - target @ logits)

    whole = np.arange(n)
    appended = [
        surprise(np.delete(whole, i) if flat["leave_out"] else whole, flat["inputs"][i], flat["example_targets"][i])
        for i in range(n)
    ]
    recent = [
        flat["context_weights"][j] * surprise(whole[:j], keys[j], flat["context_targets"][j]) for j in range(1, n)
    ]
    expected = (flat["example_weight"] * np.mean(appended) + sum(recent)) / n
    np.testing.assert_allclose(kernel_prompt_loss(**flat), expected, rtol=1e-10, atol=1e-12)


def test_float32_is_kept() -> None:
    rng = np.random.default_rng(1)
    shots = few_shots(rng.standard_normal((3, 6, 4)).astype(np.float32), np.tile(np.arange(6) % 2, (3, 1)), 2)
    tuning = tune_kernel_prompt(shots, 0.3, recency_weights(6, 0.9), n_steps=3)
    assert tuning.perturbation.dtype == np.float32
    loss, pullback = kernel_prompt_loss_vjp(shots.inputs, *shots, recency_weights(6, 0.9).astype(np.float32))
    assert loss.dtype == pullback(np.ones_like(loss))[0].dtype == np.float32


def test_draws_do_not_touch_one_another() -> None:
    rng = np.random.default_rng(2)
    shots = few_shots(rng.standard_normal((3, 6, 4)), np.tile(np.arange(6) % 2, (3, 1)), 2)
    together = tune_kernel_prompt(shots, 0.3, recency_weights(6, 0.9), n_steps=5)
    alone = tune_kernel_prompt(FewShots(*(part[1] for part in shots)), 0.3, recency_weights(6, 0.9), n_steps=5)
    np.testing.assert_allclose(together.perturbation[1], alone.perturbation, atol=1e-13)


# --- the method on a model ---


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_tuning_lowers_the_loss_and_keeps_the_constraints(optimizer: Any) -> None:
    arguments = setting()
    result = context_prompt_tuning(
        **arguments,
        eps_input=20.0,
        eps_format=10.0,
        learning_rate=0.1,
        n_epochs=20,
        optimizer=optimizer,
        rng=np.random.default_rng(1),
    )
    assert isinstance(result, CPTResult)
    assert result.losses[-3:].mean() < 0.9 * result.losses[:3].mean()
    types = arguments["context"].types
    assert not result.perturbation[types % 4 == 0].any()
    radii = token_radii(types, 20.0, 10.0, 4)
    assert np.all(np.linalg.norm(result.perturbation, axis=1) <= radii * (1 + 1e-14))
    used = diagnose_context(result.perturbation, radii, arguments["embedding"])
    assert used.used.max() <= 1 + 1e-14
    assert np.all(used.cosine[types % 4 == 0] == 0)


def test_ascent_raises_the_loss() -> None:
    options = {
        "eps_input": 20.0,
        "eps_format": 10.0,
        "learning_rate": 0.1,
        "n_epochs": 10,
        "rng": np.random.default_rng(2),
    }
    result = context_prompt_tuning(**setting(), **options, direction="maximise")
    assert result.losses[-3:].mean() > result.losses[:3].mean()


def test_virtual_tokens_learn_with_and_without_a_context() -> None:
    arguments = setting()
    prompt = initial_virtual_tokens(
        arguments["embedding"], init="random", n_virtual_tokens=3, rng=np.random.default_rng(3)
    )
    for context in (None, arguments["context"]):
        result = instruction_prompt_tuning(
            arguments["model"],
            arguments["embedding"],
            context,
            arguments["examples"],
            prompt,
            learning_rate=0.1,
            n_epochs=20,
            rng=np.random.default_rng(4),
        )
        assert result.perturbation.shape == prompt.shape
        assert result.losses[-3:].mean() < result.losses[:3].mean()


def test_examples_have_one_symbol_of_their_set() -> None:
    task, rng = SetTask(), np.random.default_rng(5)
    sets = draw_sets(task, 20, rng)
    classes = rng.integers(task.n_classes, size=(20, 6))
    examples = sample_examples(task, sets, classes, rng)
    for one, members, labels in zip(examples, sets, classes, strict=True):
        for example, label in zip(one, labels, strict=True):
            assert example[0] == task.input_template
            assert example[3] == task.output_template
            assert example[4] == task.label(label)
            assert np.isin(example[1:3], members[label]).sum() == 1
            assert np.isin(example[1:3], members).sum() == 1


# --- bad input ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: token_type_mask([]), "segments: expected at least one example"),
        (lambda: token_type_mask([(1, 1, 1, 0)]), r"segments\[0\]\[3\]: expected an integer >= 1"),
        (lambda: token_type_mask([(1, 1, 1)]), r"segments\[0\]: expected 4 lengths"),  # type: ignore[list-item]
        (lambda: label_loss_weights(TYPES, 0.0), "decay"),
        (lambda: label_loss_weights(TYPES, 1.5), "decay"),
        (lambda: label_loss_weights(np.array([1, 2]), 0.5), "types: expected at least one label"),
        (lambda: label_loss_weights(TYPES, 0.5, "mean"), "weighting"),  # type: ignore[arg-type]
        (lambda: token_radii(TYPES, -0.1, 0.1, 8), "eps_input"),
        (lambda: token_radii(TYPES, 0.1, -0.1, 8), "eps_format"),
        (lambda: token_radii(TYPES, 0.1, 0.1, 0), "d_model"),
        (lambda: token_radii(TYPES.astype(float), 0.1, 0.1, 8), "types: expected a row of integers"),
        (lambda: token_radii(-TYPES, 0.1, 0.1, 8), "types: expected integers >= 0"),
        (lambda: project_tokens(np.ones((2, 3)), np.ones(3)), "radii"),
        (lambda: project_tokens(np.ones((2, 3)), -np.ones(2)), "radii: expected numbers >= 0"),
        (lambda: project_tokens(np.full((2, 3), np.inf), np.ones(2)), "perturbation: expected finite"),
        (lambda: cpt_loss(np.zeros((10, 3)), np.full(10, 3), TYPES), "labels: expected 0 to 2"),
        (lambda: cpt_loss(np.zeros((10, 3)), np.zeros(9, int), TYPES), "labels: expected shape"),
        (lambda: cpt_loss(np.zeros((10, 3)), np.zeros(10, int), TYPES[:9]), "types: expected shape"),
        (lambda: few_shots(np.ones((3, 2)), np.array([0, 1, 2]), 2), "labels: expected classes 0 to 1"),
        (lambda: few_shots(np.full((3, 2), np.nan), np.array([0, 1, 1]), 2), "inputs: expected finite"),
        (lambda: recency_weights(0, 0.9), "n_examples"),
        (lambda: context_prompt_tuning(**setting() | {"examples": []}, **LOOP), "examples: expected at least one"),
        (lambda: context_prompt_tuning(**setting(), **LOOP | {"decay": 0.0}), "decay"),
        (lambda: context_prompt_tuning(**setting(), **LOOP | {"eps_input": -1.0}), "eps_input"),
        (lambda: context_prompt_tuning(**setting(), **LOOP | {"optimizer": "lbfgs"}), "optimizer"),
        (lambda: context_prompt_tuning(**setting(), **LOOP | {"direction": "down"}), "direction"),
        (lambda: context_prompt_tuning(**with_context(types=TYPES[:5]), **LOOP), "context: expected tokens, types"),
        (lambda: context_prompt_tuning(**with_context(types=np.ones(15, int)), **LOOP), "context: expected a label"),
        (
            lambda: context_prompt_tuning(**with_context(tokens=np.full(15, 99)), **LOOP),
            "context: expected tokens 0 to",
        ),
        (lambda: virtual(init="random", token_ids=[1, 2, 3]), "token_ids: expected none"),
        (lambda: virtual(init="text", token_ids=[1, 2]), "token_ids: expected 3 integers"),
        (lambda: virtual(init="text", token_ids=[1, 2, 3]), "token_types: expected 3 integers"),
        (lambda: virtual(init="random", n_virtual_tokens=0), "n_virtual_tokens"),
        (lambda: virtual(init="zeros"), "init: expected"),
        (lambda: draw_sets(SetTask(6, 3, 2), 1, np.random.default_rng(0)), "task: expected more than 6 symbols"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


LOOP: dict[str, Any] = {"learning_rate": 0.1, "n_epochs": 1, "rng": np.random.default_rng(0)}


def with_context(**changed: Any) -> dict[str, Any]:
    arguments = setting()
    return arguments | {"context": arguments["context"]._replace(**changed)}


def virtual(**changed: Any) -> np.ndarray:
    options: dict[str, Any] = {"n_virtual_tokens": 3, "rng": np.random.default_rng(0)} | changed
    return initial_virtual_tokens(np.ones((9, 2)), **options)
