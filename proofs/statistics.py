r"""Confidence intervals at a stated false-alarm rate, and the evidence that they give.

Every interval is two-sided: with probability at most ``false_alarm`` it misses the true value, under the assumptions
that its docstring states. The default of one in a million keeps a ledger of hundreds of claims quiet for as long as
they are true; a claim with several intervals has at most the sum of their rates. A wide interval covers anything: that
it is narrow enough to tell right from wrong is what the claim's negative control shows.

Samples that are not finite give an interval of NaN, which covers nothing: a run that diverged counts as a failure.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from proofs.ledger import Check, Evidence, digits_apart, format_value
from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.numbers import Array

FALSE_ALARM = 1e-6


class Interval(NamedTuple):
    """A confidence interval and the estimate that it surrounds."""

    low: float
    estimate: float
    high: float


def mean_interval(samples: Any, false_alarm: float = FALSE_ALARM) -> Interval:
    r"""Student's interval for the mean, $\bar x\pm t_{n-1}\,s/\sqrt n$.

    Exact for independent Gaussian samples, and close for others once the sum of so many is Gaussian as far out as the
    false-alarm rate asks: five standard errors at the default. Average heavy-tailed samples in batches first, and use
    :func:`proportion_interval` for frequencies.

    Parameters
    ----------
    samples : array, shape (n_samples,), at least 2
    false_alarm : float in (0, 1)
    """
    samples = _vector("samples", samples, 2)
    with np.errstate(invalid="ignore"):
        deviation = np.std(samples, ddof=1) / np.sqrt(samples.size)
        return _around(float(np.mean(samples)), float(deviation), samples.size - 1, false_alarm)


def proportion_interval(successes: int, trials: int, false_alarm: float = FALSE_ALARM) -> Interval:
    """Clopper and Pearson's exact interval for the success probability of independent trials; it never misses more
    often than stated, whatever the probability.

    Parameters
    ----------
    successes : int from 0 to trials
    trials : int >= 1
    false_alarm : float in (0, 1)
    """
    trials = check_integer("trials", trials, 1)
    successes = check_integer("successes", successes, 0, trials)
    tail = check_number("false_alarm", false_alarm, "(0, 1)") / 2
    low = special.betaincinv(successes, trials - successes + 1, tail) if successes else 0.0
    high = special.betainccinv(successes + 1, trials - successes, tail) if successes < trials else 1.0
    return Interval(float(low), successes / trials, float(high))


def slope_interval(x: Any, y: Any, false_alarm: float = FALSE_ALARM) -> Interval:
    r"""Interval for the exponent $p$ of a power law $y\propto x^p$: the least-squares slope of $\log y$ on $\log x$.

    With one run, Student's interval of linear regression on ``n_points - 2`` degrees of freedom: exact if the points
    scatter independently, with the same Gaussian spread of $\log y$. With several independent runs, each gives a
    slope, and :func:`mean_interval` of the slopes assumes nothing of the scatter within a run. Curvature is bias, not
    scatter, and is not covered; an exponent without noise is no matter of statistics.

    Parameters
    ----------
    x : array, shape (n_points,), positive and not all equal, at least 3
    y : array, shape (n_points,) or (n_runs, n_points)
    false_alarm : float in (0, 1)
    """
    x = _vector("x", x, 3)
    if not np.all(x > 0) or np.ptp(x) == 0:
        raise ValueError(f"x: expected positive numbers that are not all equal, got {x}")
    y = np.asarray(y, dtype=np.float64)
    if y.ndim not in (1, 2) or y.shape[-1] != x.size:
        raise ValueError(f"y: expected shape ({x.size},) or (n_runs, {x.size}), got {y.shape}")
    with np.errstate(divide="ignore", invalid="ignore"):
        log_x, log_y = np.log(x), np.log(y)
        log_x = log_x - np.mean(log_x)
        slopes = log_y @ log_x / (log_x @ log_x)
        if y.ndim == 2:
            return mean_interval(slopes, false_alarm)
        residual = log_y - np.mean(log_y) - slopes * log_x
        deviation = np.sqrt(residual @ residual / (x.size - 2) / (log_x @ log_x))
    return _around(float(slopes), float(deviation), x.size - 2, false_alarm)


def bootstrap_interval(
    rng: np.random.Generator,
    samples: Any,
    statistic: Callable[[Array], Any],
    false_alarm: float = FALSE_ALARM,
    resamples: int = 2000,
) -> Interval:
    r"""Interval for a statistic without a closed form: Student's, with the standard deviation over resamples as error.

    Why not the percentile or BCa interval: their ends are order statistics of the resamples, at the default rate the
    one in two million, so that a thousandfold more resamples would be needed than for a standard deviation, to read
    tails that so few samples do not determine. The price is that the statistic must be near Gaussian: take the
    logarithm of a positive, skewed one. Bias of the statistic is not covered.

    Parameters
    ----------
    rng : np.random.Generator
    samples : array, shape (..., n_samples), at least 20
        Independent along the last axis; leading axes are resampled together.
    statistic : callable
        Maps ``(..., n_resamples, n_samples)`` to ``(n_resamples,)``.
    false_alarm : float in (0, 1)
    resamples : int >= 100
    """
    samples = np.asarray(samples, dtype=np.float64)
    if samples.ndim < 1 or samples.shape[-1] < 20:
        raise ValueError(f"samples: expected shape (..., n_samples) with n_samples >= 20, got {samples.shape}")
    size = samples.shape[-1]
    resamples = check_integer("resamples", resamples, 100)
    batch = max(1, 2**20 // samples.size)  # bounds the memory, whatever the number of samples
    drawn = [
        statistic(samples[..., rng.integers(size, size=(min(batch, resamples - start), size))])
        for start in range(0, resamples, batch)
    ]
    estimate = statistic(samples[..., None, :])
    with np.errstate(invalid="ignore"):
        return _around(float(estimate[0]), float(np.std(np.concatenate(drawn), ddof=1)), size - 1, false_alarm)


def covers(interval: Interval, expected: float, quantity: str = "") -> Evidence:
    """Evidence that the true value is the expected one: the interval holds it. A true claim fails at most at the
    interval's false-alarm rate."""
    low, estimate, high = interval
    digits = digits_apart(low, high, expected)
    around = f"[{format_value(low, digits)}, {format_value(high, digits)}]"
    criterion = f"= {format_value(expected, digits)} within {around}"
    return Evidence((Check(quantity, estimate, criterion, bool(low <= expected <= high), digits),))


def lies_below(interval: Interval, bound: float, quantity: str = "") -> Evidence:
    """Evidence that the true value is at most `bound`: the whole interval is. This shows it rather than failing to
    refute it, and so needs samples enough for the margin; where a bound is attained use :func:`covers`."""
    digits = digits_apart(interval.high, bound)
    criterion = f"<= {format_value(bound, digits)}, upper end {format_value(interval.high, digits)}"
    return Evidence((Check(quantity, interval.estimate, criterion, bool(interval.high <= bound), digits),))


def lies_above(interval: Interval, bound: float, quantity: str = "") -> Evidence:
    """Evidence that the true value is at least `bound`: the whole interval is (see :func:`lies_below`)."""
    digits = digits_apart(interval.low, bound)
    criterion = f">= {format_value(bound, digits)}, lower end {format_value(interval.low, digits)}"
    return Evidence((Check(quantity, interval.estimate, criterion, bool(interval.low >= bound), digits),))


def _vector(name: str, values: Any, least: int) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size < least:
        raise ValueError(f"{name}: expected shape (n,) with n >= {least}, got {array.shape}")
    return array


def _around(estimate: float, deviation: float, freedom: int, false_alarm: float) -> Interval:
    tail = check_number("false_alarm", false_alarm, "(0, 1)") / 2
    half_width = -float(special.stdtrit(freedom, tail)) * deviation
    return Interval(estimate - half_width, estimate, estimate + half_width)
