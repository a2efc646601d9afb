"""The programs: layer by layer, in batches, in float32, and what is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.incontext.learning_algorithms import (
    Aff,
    Mul,
    Program,
    compile_program,
    encode_prompt,
    execute,
    gradient_descent_listing,
    gradient_descent_program,
    run_exactly,
    sgd_weights,
    sherman_morrison_listing,
    sherman_morrison_program,
    transformer_layer,
)
from refimpl.oracle.specs.incontext.learning_algorithms.programs import prompt
from refimpl.primitives.least_squares import ridge_weights
from refimpl.primitives.numbers import Array


def small(n: int = 2, d: int = 3, batch: tuple[int, ...] = (4,), dtype: Any = np.float64) -> tuple[Array, ...]:
    rng = np.random.default_rng(0)
    return tuple(rng.uniform(-1, 1, (*batch, *shape)).astype(dtype) for shape in ((n, d), (n,), (d,)))


@pytest.mark.parametrize("name", ["descent", "ridge"])
def test_a_program_is_its_layers_one_after_another(name: str) -> None:
    program = gradient_descent_listing(3, 2, 0.1, 0.5) if name == "descent" else sherman_morrison_listing(3, 2)
    start = {"weights": np.ones(3)} if name == "descent" else {"inverse": np.eye(3).reshape(-1)}
    expected = hidden = encode_prompt(program, *small(), start)
    layers = compile_program(program, 1e-2, 1e3)
    for layer in layers:
        expected = transformer_layer(expected, layer.params, layer.use_layernorm)
    # The divisor's pads hold 10^3 times the other rows, whose rounding the products at epsilon magnify.
    np.testing.assert_allclose(execute(layers, hidden), expected, rtol=1e-8, atol=1e-8)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.composite(prompt)(3, 4))
def test_the_exact_machine_learns_as_the_algorithms_do(case: dict[str, Array]) -> None:
    x, y, query = case.values()
    (n, d), start = x.shape[-2:], 0.5 * np.ones(x.shape[-1])
    descent = gradient_descent_listing(d, n, 0.0625, 0.25)
    ridge = sherman_morrison_listing(d, n)
    learned = {
        "descent": (
            run_exactly(descent, encode_prompt(descent, x, y, query, {"weights": start})),
            descent,
            sgd_weights(x, y, 0.0625, 0.25, np.broadcast_to(start, query.shape)),
        ),
        "ridge": (
            run_exactly(ridge, encode_prompt(ridge, x, y, query, {"inverse": 2 * np.eye(d).reshape(-1)})),
            ridge,
            ridge_weights(x, y, 0.5),
        ),
    }
    for hidden, program, weights in learned.values():
        np.testing.assert_allclose(hidden[..., program.rows("weights"), -1], weights, rtol=1e-10, atol=1e-10)
        prediction = (weights * query).sum(axis=-1)
        np.testing.assert_allclose(hidden[..., program.rows("out")[0], -1], prediction, rtol=1e-10, atol=1e-10)


def test_a_batch_is_its_prompts() -> None:
    x, y, query = small(batch=(2, 2))
    together = sherman_morrison_program(x, y, query, 0.5)
    assert (together.prediction.shape, together.weights.shape) == ((2, 2), (2, 2, 3))
    alone = sherman_morrison_program(x[1, 0], y[1, 0], query[1, 0], 0.5)
    np.testing.assert_allclose(together.weights[1, 0], alone.weights, rtol=1e-8)
    assert (alone.prediction.shape, alone.weights.shape) == ((), (3,))


def test_where_the_prompt_goes() -> None:
    program = gradient_descent_listing(2, 2, 0.1)
    x, y, query = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([5.0, 6.0]), np.array([7.0, 8.0])
    hidden = encode_prompt(program, x, y, query, {"weights": np.array([0.5, 0.25])})
    np.testing.assert_array_equal(hidden[program.rows("x")], [[1, 0, 3, 0, 7], [2, 0, 4, 0, 8]])
    np.testing.assert_array_equal(hidden[program.rows("y")], [[0, 5, 0, 6, 0]])
    np.testing.assert_array_equal(hidden[program.rows("positions", "one")], np.r_[np.eye(5), np.ones((1, 5))])
    np.testing.assert_array_equal(hidden[program.rows("weights")], np.repeat([[0.5], [0.25]], 5, axis=1))
    assert not hidden[program.rows("product", "error", "gradient", "copied_x", "out")].any()


def test_float32_is_kept_and_good_to_three_digits() -> None:
    x, y, query = small(n=1, d=2, dtype=np.float32)
    found = sherman_morrison_program(x, y, query, 1.0, 1e-2, 1e3)
    expected = ridge_weights(x.astype(float), y.astype(float), 1.0)
    assert found.prediction.dtype == found.weights.dtype == np.float32
    np.testing.assert_allclose(found.weights, expected, atol=1e-3)
    descent = gradient_descent_program(x, y, query, np.zeros_like(query), 0.1, 0.0, 1e-2)
    assert descent.prediction.dtype == np.float32
    np.testing.assert_allclose(descent.weights, sgd_weights(x.astype(float), y.astype(float), 0.1), atol=1e-3)


X, Y, QUERY = small(batch=())
PROGRAM = gradient_descent_listing(3, 2, 0.1)
HIDDEN = encode_prompt(PROGRAM, X, Y, QUERY)
ZERO = np.zeros(3)


def program_of(step: Any) -> Program:
    return Program((step,), {"x": 2, "y": 1, "out": 1, "positions": 3, "one": 1})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sherman_morrison_program(X, Y, QUERY, 0.0), "ridge: expected"),
        (lambda: sherman_morrison_program(X, Y, QUERY, -1.0), "ridge: expected"),
        (lambda: sherman_morrison_program(X, Y[:1], QUERY, 1.0), "y: expected n 2"),
        (lambda: sherman_morrison_program(X, Y, QUERY[:2], 1.0), "x_query: expected d 3"),
        (lambda: sherman_morrison_program(X[:0], Y[:0], QUERY, 1.0), "x: expected n >= 1"),
        (lambda: sherman_morrison_program(X * np.inf, Y, QUERY, 1.0), "x: expected finite"),
        (lambda: sherman_morrison_program(X, Y, QUERY, 1.0, epsilon=0.0), "epsilon: expected"),
        (lambda: sherman_morrison_program(X, Y, QUERY, 1.0, scale=0.0), "scale: expected"),
        (lambda: gradient_descent_program(X, Y, QUERY, ZERO, 0.0), "learning_rate: expected"),
        (lambda: gradient_descent_program(X, Y, QUERY, ZERO, 0.1, -1.0), "weight_decay: expected"),
        (lambda: gradient_descent_program(X, Y, QUERY, ZERO, 0.1, 0.0, 0.0), "epsilon: expected"),
        (lambda: gradient_descent_program(X, Y, QUERY, ZERO[:2], 0.1), "initial_weights: expected d 3"),
        (lambda: gradient_descent_program(X, Y * np.nan, QUERY, ZERO, 0.1), "y: expected finite"),
        (lambda: gradient_descent_listing(0, 1, 0.1), "n_inputs: expected an integer >= 1"),
        (lambda: sherman_morrison_listing(2, 0), "n_examples: expected an integer >= 1"),
        (lambda: encode_prompt(gradient_descent_listing(2, 2, 0.1), X, Y, QUERY), "x: expected 2 examples of 2 inputs"),
        (lambda: encode_prompt(PROGRAM, X, Y, QUERY, {"weights": np.ones(2)}), "weights: expected"),
        (lambda: run_exactly(PROGRAM, HIDDEN[1:]), "hidden: expected"),
        (lambda: execute([], HIDDEN), "layers: expected at least one"),
        (lambda: execute(compile_program(PROGRAM), HIDDEN[1:]), "hidden: expected"),
        (lambda: compile_program(program_of(Mul(1, 2, 1, "x", "y", "out"))), "rows_b: expected 2 rows, got 1"),
        (lambda: compile_program(program_of(Aff(("x",), ("y",), ("out",), (1, 1)))), "rows_a: expected 1 rows, got 2"),
    ],
)
def test_bad_input(call: Callable[[], Any], message: str) -> None:
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=message):
        call()
