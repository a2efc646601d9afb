"""A part of ``python -m tests.oracle.trust``: no false alarm, no mistake missed, diagnoses right."""

import numpy as np
import pytest

from refimpl.oracle.spec import Spec, all_specs
from tests.oracle import honest, plants, trust
from tests.oracle.honest import Honest

SPECS = [spec for index, (_, spec) in enumerate(sorted(all_specs().items())) if index % 16 == 0]
SHARED = [spec for name, spec in all_specs().items() if name.startswith("primitives/") and spec not in SPECS]


@pytest.mark.parametrize("candidate", honest.by_hand(), ids=lambda one: f"{one.spec}, {one.name}")
def test_no_false_alarm(candidate: Honest) -> None:
    tally = trust.judge_honest([candidate], 25, 7, trust.Tally())
    assert tally.alarms == []
    assert tally.undecided == []


@pytest.mark.parametrize("spec", [*SPECS, *SHARED], ids=lambda spec: spec.name)
def test_no_false_alarm_on_what_is_made_of_references(spec: Spec) -> None:
    """In NumPy's own precisions: bfloat16 needs the extra ``bench``, with which the command judges it too."""
    candidates = [
        one._replace(dtypes=tuple(dtype for dtype in one.dtypes if dtype != "bfloat16"))
        for one in honest.of_reference(spec)
    ]
    tally = trust.judge_honest(candidates, 6, 7, trust.Tally())
    assert tally.alarms == []
    assert [line for line in tally.undecided if "float16" not in line] == []  # of which few inputs may say nothing


def test_mistakes_are_caught_and_named() -> None:
    every = [plant for plant in plants.by_hand() if plant.spec.startswith("primitives/")]
    caught = trust.judge_plants(every[::9], 100, 7, trust.Caught())
    assert caught.missed == []
    assert caught.misnamed == []


@pytest.mark.parametrize("spec", SPECS[::4], ids=lambda spec: spec.name)
def test_mistakes_made_by_program_are_caught(spec: Spec) -> None:
    planted = list(trust.edited_specs(np.random.default_rng(0), [spec], 1))
    assert trust.judge_plants(planted, 25, 7, trust.Caught()).missed == []
