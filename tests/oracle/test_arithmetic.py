"""Arithmetic that rounds: to nearest as the formats do, and at random by about a unit in the last place."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from refimpl.oracle.arithmetic import ROUNDOFF, Emulated, Number, at_random, to_nearest
from refimpl.primitives.normalization import softmax

FORMATS = ("float64", "float32", "float16", "bfloat16")
BFLOAT16 = to_nearest("bfloat16")


def plain(x: Any) -> Any:
    return np.asarray(x).view(np.ndarray)


def random_kind(dtype: str, seed: int = 0) -> type[Emulated]:
    return at_random(dtype, np.random.default_rng(seed))


def test_bfloat16_is_the_nearest_even(rng: np.random.Generator) -> None:
    """Against all 2^16 numbers of the format."""
    every = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    every = np.unique(every[np.isfinite(every)])
    x = np.concatenate([rng.standard_normal(500) * 10.0 ** rng.integers(-30, 30, 500), [0.0, 1.0, -2.5]])
    x = np.concatenate([x, every[[1, 1000, 40000]], (every[5000:5100] / 2 + every[5001:5101] / 2)]).astype(np.float32)
    rounded = plain(BFLOAT16.of(x))
    above = np.clip(np.searchsorted(every, x), 1, len(every) - 1)
    pairs = np.stack([every[above - 1], every[above]]).astype(np.float64)
    distances = np.abs(pairs - x.astype(np.float64))
    np.testing.assert_array_equal(np.abs(rounded - x.astype(np.float64)), distances.min(axis=0))
    ties = distances[0] == distances[1]
    assert np.sum(ties) >= 90
    assert np.all((rounded[ties].view(np.uint32) >> 16) % 2 == 0)


def test_bfloat16_keeps_what_is_not_finite() -> None:
    x = np.array([np.inf, -np.inf, np.nan, 3.4e38, -0.0], dtype=np.float32)
    np.testing.assert_array_equal(plain(BFLOAT16.of(x)), [np.inf, -np.inf, np.nan, np.inf, -0.0])


@pytest.mark.parametrize("operation", [np.add, np.subtract, np.multiply, np.divide, np.maximum])
def test_float16_operations_are_numpys(operation: Callable[..., Any], rng: np.random.Generator) -> None:
    a, b = (rng.standard_normal(300).astype(np.float16) for _ in range(2))
    kind = to_nearest("float16")
    result = operation(kind.of(a), kind.of(b))
    assert isinstance(result, kind)
    np.testing.assert_array_equal(plain(result), operation(a, b).astype(np.float32))


@pytest.mark.parametrize("dtype", FORMATS)
def test_each_operation_rounds_to_the_format(dtype: str, rng: np.random.Generator) -> None:
    x = random_kind(dtype).of(rng.standard_normal((4, 5)))
    y = x.copy()
    y += x
    y *= x[0]
    results = [x + 1, 1 / x, np.exp(x), x @ x.T, x.sum(axis=0), np.mean(x), y, np.stack([x, x]), np.einsum("ij->j", x)]
    results += [x[1:].reshape(-1), np.where(x > 0, x, 0), np.linalg.solve(x[:, :4], x[:, :1]), np.cumsum(x, axis=1)]
    for result in results:
        assert isinstance(result, Emulated)
        np.testing.assert_array_equal(plain(type(x).of(result)), plain(result))


@pytest.mark.parametrize("dtype", FORMATS)
def test_at_random_by_a_unit_in_the_last_place(dtype: str, rng: np.random.Generator) -> None:
    a, b = (type_of(dtype)(rng.standard_normal(2000)) for _ in range(2))
    kind = random_kind(dtype)
    exact = a * b
    moved = plain(kind.of(a) * kind.of(b)).astype(np.float64)
    # Up to one unit by chance, and half a unit by rounding, before and after.
    relative = (moved - exact) / (2 * ROUNDOFF[dtype] * np.abs(exact))
    assert 0.5 < np.max(np.abs(relative)) <= 2
    # Uniform in [-1, 1] and the roundings: no bias beyond five standard errors.
    assert abs(np.mean(relative)) <= 5 * np.sqrt((1 / 3 + 2 / 12) / 2000)


def type_of(dtype: str) -> Callable[[Any], Any]:
    return lambda x: plain(to_nearest(dtype).of(x)).astype(np.float64)


def test_draws_differ_and_repeat() -> None:
    x = np.linspace(1, 2, 50)
    kind = random_kind("float32")
    first, second = (plain(np.exp(kind.of(x))) for _ in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, plain(np.exp(random_kind("float32").of(x))))


@pytest.mark.parametrize("dtype", FORMATS)
def test_what_is_exact_stays(dtype: str) -> None:
    kind = random_kind(dtype)
    x = kind.of([[1.0, -2.0, 0.0], [3.0, np.inf, -np.inf]])
    for result, exact in (
        (-x, [[-1, 2, 0], [-3, -np.inf, np.inf]]),
        (np.abs(x), [[1, 2, 0], [3, np.inf, np.inf]]),
        (np.maximum(x, 0), [[1, 0, 0], [3, np.inf, 0]]),
        (np.clip(x, -1, 1), [[1, -1, 0], [1, 1, -1]]),
        (x.T[0], [1, 3]),
        (0 * x[0], [0, 0, 0]),
        (np.max(x, axis=-1), [1, np.inf]),
    ):
        np.testing.assert_array_equal(plain(result), exact)
    assert plain(np.exp(x))[1, 2] == 0
    assert plain(2 * x)[1, 1] == np.inf
    assert plain(x[1:, :2].sum(axis=-1))[0] == np.inf
    assert type(x > 0) is np.ndarray


def test_a_sum_moves_as_far_as_one_after_the_other() -> None:
    r"""The standard deviation of positive terms summed in order is $u\sqrt n/3$ of the sum, and at most that."""
    n, repeats = 400, 3000
    rng = np.random.default_rng(0)
    terms = rng.uniform(1, 2, (repeats, n)).astype(np.float32)
    total = terms.astype(np.float64).sum(axis=-1)
    in_order = np.std((np.add.accumulate(terms, axis=-1)[:, -1] - total) / total)
    drawn = np.std((plain(random_kind("float32").of(terms).sum(axis=-1)) - total) / total)
    predicted = ROUNDOFF["float32"] * np.sqrt(n) / 3
    assert 0.5 * predicted < in_order < predicted
    assert 0.9 * predicted < drawn < 1.3 * predicted


def test_products_move_with_their_terms_not_their_result() -> None:
    """Where a product of matrices cancels, the error of its sums stays."""
    a = np.array([[1.0, -1.0]])
    draws = [float(plain(random_kind("float32", seed).of(a) @ np.array([[3.0], [3.0]]))[0, 0]) for seed in range(40)]
    assert 1e-8 < np.std(draws) < 1e-6


def test_a_contraction_into_an_array_is_the_one_returned() -> None:
    a = np.array([[1.0, -2.0], [-3.0, 5.0]], dtype=np.float32)
    out = np.empty_like(a)
    x = random_kind("float32").of(a)
    assert np.einsum("ij,kj->ik", x, x, out=out) is out
    assert np.array_equal(out, plain(np.einsum("ij,kj->ik", *[random_kind("float32").of(a)] * 2)))
    assert np.allclose(out, a @ a.T, rtol=1e-5)


def test_a_softmax_moves_as_if_by_logarithms() -> None:
    """Weights of one row made from logits near 1000 are as good as exp(x - log-sum-exp), which rounds 1000."""
    x = np.array([[1000.0, 990.0]])
    spread = [plain(softmax.unchecked(random_kind("float32", seed).of(x)))[0, 0] for seed in range(40)]
    assert 1e-5 < np.std(spread) < 1e-4
    shifted = [plain(softmax.unchecked(random_kind("float32", seed).of(x - 1000)))[0, 0] for seed in range(40)]
    assert np.std(shifted) < 1e-6


def test_numbers_round_too() -> None:
    kind = to_nearest("bfloat16")
    third = Number(1.0, kind) / 3
    assert isinstance(third, Number)
    assert third == float(plain(kind.of(1 / 3)))
    assert 1 - third == float(plain(kind.of(1 - float(third))))
    assert {float(Number(1.0, random_kind("float64", seed)) / 3) for seed in range(20)} != {1 / 3}
