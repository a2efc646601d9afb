"""Properties of every generated input: Hypothesis draws the cases, the evidence is the worst of them."""

from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, strategies

from proofs.ledger import Evidence, at_least, at_most


def for_all(
    rng: np.random.Generator,
    strategy: strategies.SearchStrategy[Any],
    error: Callable[[Any], Any],
    bound: float,
    examples: int = 100,
    quantity: str = "largest error",
) -> Evidence:
    """Evidence that ``error(case) <= bound`` on every case drawn from `strategy`; a NaN is a failure.

    The evidence holds the worst error and the number of cases it was taken over. That number must reach `examples`: a
    strategy that runs dry, or a filter that lets little through, is not passed over. Nothing is shrunk and no example
    database is read, so the seed decides the cases; with Hypothesis it may also take numbers from the source of the
    modules that are loaded.

    Parameters
    ----------
    rng : np.random.Generator
    strategy : of the cases; share it with the oracle's specs.
    error : maps a case to a number; where the bound differs between cases, to the ratio of the error to it.
    bound : what no error may exceed.
    examples : how many cases.
    quantity : what the error is of, for the reader.
    """
    errors: list[float] = []

    @hypothesis.seed(int(rng.integers(2**63)))
    @hypothesis.settings(
        database=None,
        deadline=None,
        max_examples=examples,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        # These two judge the speed of the machine and the size of the cases, which are ours to choose.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @hypothesis.given(strategy)
    def visit(case: Any) -> None:
        errors.append(float(error(case)))

    visit()
    return at_most(float(np.max(errors)), bound, quantity) & at_least(len(errors), examples, "examples")
