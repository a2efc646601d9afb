"""Intervals miss as seldom as they say, and evidence built on them and on generated cases is not vacuous."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import special

from proofs.properties import for_all
from proofs.statistics import (
    Interval,
    bootstrap_interval,
    covers,
    lies_above,
    lies_below,
    mean_interval,
    proportion_interval,
    slope_interval,
)


def misses_as_often_as(rate: float, intervals: list[Interval], truth: float) -> bool:
    """Whether the intervals miss the truth at this rate; a wrong no happens once in a million runs."""
    missed = sum(not interval.low <= truth <= interval.high for interval in intervals)
    low, _, high = proportion_interval(missed, len(intervals))
    return low <= rate <= high


@pytest.mark.parametrize("n", [2, 5, 40])
def test_mean_interval_misses_at_the_stated_rate(n: int) -> None:
    rng = np.random.default_rng(n)
    intervals = [mean_interval(3 + 2 * rng.standard_normal(n), 0.05) for _ in range(4000)]
    assert misses_as_often_as(0.05, intervals, 3)


def test_mean_interval_at_one_in_a_million() -> None:
    samples = np.array([1.0, 2.0, 4.0, 5.0])
    low, estimate, high = mean_interval(samples)
    assert estimate == 3
    standard_error = np.std(samples, ddof=1) / 2
    assert special.stdtr(3, (high - 3) / standard_error) == pytest.approx(1 - 5e-7, abs=1e-12)
    assert low + high == pytest.approx(6)


@pytest.mark.parametrize("trials", [1, 7, 60])
@pytest.mark.parametrize("rate", [0.1, 1e-6])
def test_proportion_interval_never_misses_more_often(trials: int, rate: float) -> None:
    k = np.arange(trials + 1)
    intervals = [proportion_interval(int(successes), trials, rate) for successes in k]
    low, high = np.array([i.low for i in intervals]), np.array([i.high for i in intervals])
    for p in np.linspace(0, 1, 201):
        # The binomial law in closed form: no simulation.
        weights = special.binom(trials, k) * p**k * (1 - p) ** (trials - k)
        assert weights[(p < low) | (p > high)].sum() <= rate * (1 + 1e-9)


def test_proportion_interval_of_none_and_all() -> None:
    # The ends solve (1 - p)^n = rate / 2 and p^n = rate / 2.
    none, every = proportion_interval(0, 20), proportion_interval(20, 20)
    assert none == (0, 0, pytest.approx(1 - 5e-7 ** (1 / 20)))
    assert every == (pytest.approx(5e-7 ** (1 / 20)), 1, 1)


def test_slope_interval_misses_at_the_stated_rate() -> None:
    rng = np.random.default_rng(3)
    x = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    y = 5 * x**-1.5 * np.exp(0.3 * rng.standard_normal((4000, 5)))
    assert misses_as_often_as(0.05, [slope_interval(x, one, 0.05) for one in y], -1.5)
    runs = y.reshape(1000, 4, 5) * np.exp(rng.standard_normal((1000, 4, 1)))
    assert misses_as_often_as(0.05, [slope_interval(x, four, 0.05) for four in runs], -1.5)


def test_bootstrap_interval_misses_at_about_the_stated_rate() -> None:
    rng = np.random.default_rng(4)
    median = [
        bootstrap_interval(rng, rng.exponential(size=200), lambda s: np.median(s, axis=-1), 0.05, 200)
        for _ in range(600)
    ]
    assert misses_as_often_as(0.05, median, math.log(2))
    pairs = rng.exponential(size=(600, 2, 200)) * [[3.0], [1.0]]
    log_ratio = [
        bootstrap_interval(rng, pair, lambda s: np.log(s[0].mean(-1) / s[1].mean(-1)), 0.05, 200) for pair in pairs
    ]
    assert misses_as_often_as(0.05, log_ratio, math.log(3))


def test_bootstrap_interval_of_a_mean_is_students() -> None:
    samples = np.random.default_rng(5).standard_normal(5000)
    ours = bootstrap_interval(np.random.default_rng(6), samples, lambda s: s.mean(axis=-1))
    # The standard deviation over 2000 resamples is within 1/sqrt(4000) = 1.6 % of its limit; five of these.
    assert ours == pytest.approx(mean_interval(samples), rel=0.08)


def test_evidence_of_an_interval() -> None:
    interval = Interval(0.98765, 1.0, 1.01235)
    assert covers(interval, 1.01).holds
    assert not covers(interval, 1.02).holds
    assert lies_below(interval, 1.02).holds
    assert not lies_below(interval, 1.01).holds
    assert lies_above(interval, 0.98).holds
    assert not lies_above(interval, 0.99).holds
    assert covers(interval, 1.01, "loss").measured == "loss 1"
    assert covers(interval, 1.01, "loss").criterion == "loss = 1.01 within [0.9877, 1.012]"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_diverged_covers_nothing(bad: float) -> None:
    samples = np.array([1.0, 2.0, bad, 3.0])
    intervals = [
        mean_interval(samples),
        slope_interval(np.arange(1.0, 5.0), samples),
        slope_interval(np.arange(1.0, 5.0), np.array([samples, samples])),
        slope_interval(np.arange(1.0, 5.0), -np.ones(4)),
        bootstrap_interval(np.random.default_rng(0), np.repeat(samples, 5), lambda s: s.mean(axis=-1)),
    ]
    for interval in intervals:
        assert not covers(interval, 2.0).holds
        assert not covers(interval, bad).holds
        assert not lies_below(interval, math.inf).holds
        assert not lies_above(interval, -math.inf).holds


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([1.0]), r"samples: expected shape \(n,\) with n >= 2, got \(1,\)"),
        (lambda: mean_interval(np.ones((2, 3))), "samples: expected shape"),
        (lambda: mean_interval([1.0, 2.0], 0.0), r"false_alarm: expected a number in \(0, 1\), got 0.0"),
        (lambda: proportion_interval(5, 4), "successes: expected an integer from 0 to 4, got 5"),
        (lambda: proportion_interval(0, 0), "trials: expected an integer >= 1, got 0"),
        (lambda: slope_interval([1.0, 2.0], [1.0, 2.0]), r"x: expected shape \(n,\) with n >= 3"),
        (lambda: slope_interval([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), "x: expected positive numbers"),
        (lambda: slope_interval([1.0, 0.0, 1.0], [1.0, 2.0, 3.0]), "x: expected positive numbers"),
        (lambda: slope_interval([1.0, 2.0, 3.0], [1.0, 2.0]), r"y: expected shape \(3,\) or \(n_runs, 3\), got \(2,\)"),
        (lambda: bootstrap_interval(np.random.default_rng(0), [1.0] * 19, np.mean), "n_samples >= 20"),
    ],
)
def test_bad_input(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


def test_for_all_finds_the_worst_and_counts() -> None:
    seen = []
    evidence = for_all(np.random.default_rng(1), st.integers(-500, 500), lambda c: seen.append(c) or abs(c), 500, 50)
    assert evidence.holds
    assert evidence.measured == f"largest error {max(map(abs, seen)):.3g}, examples 50"
    assert evidence.criterion == "largest error <= 500, examples >= 50"
    assert not for_all(np.random.default_rng(1), st.integers(-500, 500), abs, max(map(abs, seen)) - 1, 50).holds


def test_for_all_draws_by_its_seed() -> None:
    def drawn(seed: int) -> list[float]:
        cases: list[float] = []
        for_all(np.random.default_rng(seed), st.floats(-1, 1), lambda case: cases.append(case) or 0, 1)
        return cases

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_for_all_takes_a_nan_as_a_failure() -> None:
    evidence = for_all(np.random.default_rng(1), st.integers(0, 10**6), lambda case: math.nan if case > 9 else 0, 1)
    assert not evidence.holds
    assert "nan" in evidence.measured


def test_for_all_needs_all_its_examples() -> None:
    evidence = for_all(np.random.default_rng(1), st.booleans(), lambda case: 0, 1, examples=10)
    assert not evidence.holds
    assert evidence.measured == "largest error 0, examples 2"
    with pytest.raises(hypothesis.errors.HypothesisException):
        for_all(np.random.default_rng(1), st.integers().filter(lambda case: False), lambda case: 0, 1)


def test_for_all_lets_an_exception_through() -> None:
    with pytest.raises(ZeroDivisionError):
        for_all(np.random.default_rng(1), st.integers(0, 10), lambda case: 1 / case, 1)
