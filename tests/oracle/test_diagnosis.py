"""Diagnoses: each kind on a mistake written by hand, by name, and none where none fits."""

import pytest

from refimpl import oracle
from tests.oracle import plants
from tests.oracle.plants import Plant

KINDS = {plant.diagnosis: plant for plant in plants.by_hand() if plant.diagnosis}


@pytest.mark.parametrize("plant", KINDS.values(), ids=KINDS.keys())
def test_each_kind(plant: Plant) -> None:
    report = oracle.compare(plant.candidate, plant.spec, dtype=plant.dtype, vjp=plant.vjp, max_examples=100, seed=1)
    assert plant.diagnosis in [one.kind for one in report.diagnoses[:3]]
    assert "reproduces the candidate on" in str(report)


@pytest.mark.parametrize(
    ("spec", "name", "words"),
    [
        ("primitives/linear_attention", "divided by the number of tokens", "1/key.shape[-2]"),
        ("primitives/softmax_attention", "scores not divided by sqrt(d)", "scores are not divided by sqrt(d)"),
        ("primitives/linear", "bias forgotten", "`bias` has no effect"),
        ("primitives/linear", "gradient of the input halved", "1/2 in gradient of x"),
        ("primitives/linear", "gradient of the bias a mean", "1/rows of x in gradient of bias"),
        ("primitives/softmax_attention", "mask forgotten", "`mask` is ignored"),
        ("primitives/erf", "in single precision", "the errors are those of float32 arithmetic"),
    ],
)
def test_the_words(spec: str, name: str, words: str) -> None:
    (plant,) = (one for one in plants.by_hand() if (one.spec, one.name) == (spec, name))
    report = oracle.compare(plant.candidate, spec, dtype=plant.dtype, vjp=plant.vjp, max_examples=200, seed=2)
    assert words in [one.description for one in report.diagnoses]


@pytest.mark.parametrize("name", ["not centred", "epsilon outside the root"])
def test_no_diagnosis_where_none_fits(name: str) -> None:
    (plant,) = (one for one in plants.by_hand() if one.name == name)
    report = oracle.compare(plant.candidate, plant.spec, dtype=plant.dtype, max_examples=100, seed=0)
    assert report.findings
    assert not report.diagnoses
