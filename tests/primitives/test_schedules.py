"""Learning rates by step."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from refimpl.primitives.schedules import cosine_decay, piecewise_constant


def test_piecewise_constant_changes_at_its_boundaries() -> None:
    schedule = piecewise_constant(0.5, {3: 0.5, 5: 0.1})
    assert [schedule(step) for step in range(7)] == [0.5, 0.5, 0.5, 0.25, 0.25, 0.025, 0.025]
    assert piecewise_constant(0.5, {})(10**6) == 0.5


def test_cosine_decay_ends_at_its_fraction_and_stays() -> None:
    schedule = cosine_decay(2.0, 8, 0.25)
    assert schedule(0) == 2.0
    assert math.isclose(schedule(4), 2.0 * (0.25 + 0.75 / 2), rel_tol=1e-15)
    assert math.isclose(schedule(2) + schedule(6), 2.0 * 1.25, rel_tol=1e-15)  # a cosine is odd about its middle
    assert schedule(8) == schedule(100) == 0.5


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: piecewise_constant(0, {}), "initial"),
        (lambda: piecewise_constant(1, {-1: 0.5}), "factors"),
        (lambda: piecewise_constant(1, {2: 0}), r"factors\[2\]"),
        (lambda: cosine_decay(-1, 5), "initial"),
        (lambda: cosine_decay(1, 0), "n_steps"),
        (lambda: cosine_decay(1, 5, 1.5), "final_fraction"),
    ],
)
def test_bad_input(call: Callable[[], Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()
