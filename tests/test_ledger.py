"""Every claim holds and fails where it must; the ledger is complete and in order."""

import configparser
import importlib
import pkgutil
import sys
from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from proofs import ledger, results, runner
from proofs.ledger import Control, Evidence, at_least, at_most, claim, equal, figure, format_value, holds, within
from refimpl.catalogue import PAPERS

PAPER = {paper.slug: paper for paper in PAPERS}
CLAIMS = ledger.claims()
QUICK = [one for one in CLAIMS if one.cost == "quick"]


@pytest.mark.parametrize("one", QUICK, ids=lambda one: one.id)
def test_claim(one: ledger.Claim) -> None:
    found = runner.decide(runner.task(one, PAPER[one.paper]))
    assert found["status"] in results.HOLDING, found.get("traceback") or results.explanation(found)


def test_uses_name_claims_and_no_claim_builds_on_itself() -> None:
    known = {one.id for one in CLAIMS}
    unknown = {one.id: missing for one in CLAIMS if (missing := set(one.uses) - known)}
    assert not unknown
    list(TopologicalSorter({one.id: one.uses for one in CLAIMS}).static_order())  # raises CycleError


def test_every_claim_and_figure_lives_with_its_paper() -> None:
    for one in [*CLAIMS, *ledger.figures()]:
        paper = PAPER[one.id.partition("/")[0]]
        assert f"{one.function.__module__}.".startswith(f"proofs.{paper.area}.{paper.slug}.")
    entered = {*ledger._CLAIMS, *ledger._FIGURES}
    of_papers = {one.id for one in [*CLAIMS, *ledger.figures()]}
    strays = [
        id
        for id in entered - of_papers
        if (ledger._CLAIMS.get(id) or ledger._FIGURES[id]).function.__module__.startswith("proofs.")
    ]
    assert not strays


def test_every_module_of_proofs_is_in_the_ledger() -> None:
    """A part that its paper forgets to import would take its claims with it."""
    for area in sorted({paper.area for paper in PAPERS}):
        package = importlib.import_module(f"proofs.{area}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            assert module.name in sys.modules, (
                f"{module.name} is not imported by its paper, or its paper not catalogued"
            )


def test_every_paper_has_claims() -> None:
    assert not [slug for slug in PAPER if not any(one.paper == slug for one in CLAIMS)]
    assert len(PAPER) == len(PAPERS)


def test_every_extra_that_a_claim_may_require_is_one() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parent.parent / "setup.cfg")
    assert set(ledger.EXTRAS.values()) <= set(setup["options.extras_require"])


# What may enter the ledger


@pytest.fixture(autouse=True)
def own_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims that a test enters are gone after it."""
    monkeypatch.setattr(ledger, "_CLAIMS", dict(ledger._CLAIMS))
    monkeypatch.setattr(ledger, "_FIGURES", dict(ledger._FIGURES))


def enter(**changed: Any) -> Callable[..., Evidence]:
    fields: dict[str, Any] = {
        "id": "toy/Z1",
        "title": "A title",
        "source": "Theorem 1",
        "statement": "$0=0$",
        "method": "property",
        "scope": "one case",
        "control": Control("one", error=1.0),
    }

    def zero(error: float = 0.0) -> Evidence:
        return at_most(error, 0.5)

    fields |= changed
    return claim(fields.pop("id"), **fields)(zero)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"id": "LA1"}, "expected an id such as linear_attention/LA1"),
        ({"id": "toy/one"}, "expected an id such as"),
        ({"id": "toy/ABCD1"}, "expected an id such as"),
        ({"title": " "}, "expected a title, got an empty one"),
        ({"source": ""}, "expected a source"),
        ({"statement": ""}, "expected a statement"),
        ({"scope": ""}, "expected a scope"),
        ({"method": "proof"}, r"expected method in \('symbolic', .*'proof'"),
        ({"cost": "slow"}, "expected cost in .*'slow'"),
        ({"control": []}, "expected at least one negative control"),
        ({"control": Control("one", eror=1.0)}, "control 'one' replaces unknown keyword 'eror'"),
        ({"requires": ["numpi"]}, "requires module 'numpi', which no extra has"),
    ],
)
def test_what_is_wrong_with_a_claim_is_said_where_it_is_entered(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        enter(**changed)


def test_a_control_must_break_something() -> None:
    with pytest.raises(ValueError, match="control 'nothing': replaces no keyword"):
        Control("nothing")


def test_a_control_cannot_replace_what_is_not_there_to_be_broken() -> None:
    with pytest.raises(ValueError, match="replaces unknown keyword 'rng'"):

        @claim(
            "toy/Z2",
            title="t",
            source="s",
            statement="s",
            method="property",
            scope="s",
            control=Control("no numbers", rng=None),
        )
        def draws(rng: Any) -> Evidence:
            return equal(0, 0)


def test_an_id_is_taken_once_but_a_module_may_be_loaded_again() -> None:
    function = enter()
    enter()  # the same function, as importlib.reload has it
    function.__qualname__ = "another"
    with pytest.raises(ValueError, match=r"claim toy/Z1: entered twice, by .*enter.<locals>.zero and .*another"):
        claim(
            "toy/Z1",
            title="t",
            source="s",
            statement="s",
            method="property",
            scope="s",
            control=Control("one", error=1.0),
        )(function)


def test_a_figure_is_entered_once() -> None:
    def one(rng: Any) -> ledger.Figure:
        return ledger.Figure((ledger.Series("s", [rng.random()], [1.0]),))

    def two(rng: Any) -> ledger.Figure:
        return one(rng)

    figure("toy/F1", title="t", caption="c", answers_to="Figure 1")(one)
    with pytest.raises(ValueError, match="figure toy/F1: entered twice"):
        figure("toy/F1", title="t", caption="c", answers_to="Figure 1")(two)
    declared = ledger._FIGURES["toy/F1"]
    assert declared.data(1) == declared.data(1)
    assert declared.data(1) != declared.data(2)


def test_evidence_is_of_checks() -> None:
    assert not Evidence(()).holds
    assert not (equal(1, 1) & equal(1, 2)).holds
    for nothing in (None, True, Evidence(())):
        one = ledger.Claim("toy/Z1", "t", "s", "s", "property", "s", (), lambda result=nothing: result)
        with pytest.raises(ValueError, match="claim toy/Z1: expected Evidence with at least one check"):
            one.evidence()


def test_a_claim_and_its_control_draw_the_same_numbers() -> None:
    def drawn(rng: Any, factor: float = 1.0) -> Evidence:
        return at_most(factor * rng.random(), 2.0)

    control = Control("doubled", factor=2.0)
    one = ledger.Claim("toy/Z1", "t", "s", "s", "property", "s", (control,), drawn)
    assert one.evidence(5, control).checks[0].measured == 2 * one.evidence(5).checks[0].measured
    other = ledger.Claim("toy/Z2", "t", "s", "s", "property", "s", (control,), drawn)
    assert one.evidence(5) != other.evidence(5)


# Evidence


@pytest.mark.parametrize(
    ("evidence", "holding", "measured", "criterion"),
    [
        (at_most(0.1, 0.2, "error"), True, "error 0.1", "error <= 0.2"),
        (at_most(0.2, 0.2), True, "0.2", "<= 0.2"),
        (at_most(float("nan"), 1.0), False, "nan", "<= 1"),
        (at_most(0.30049, 0.3), False, "0.3005", "<= 0.3"),
        (at_least(0.29951, 0.3), False, "0.2995", ">= 0.3"),
        (at_least(float("nan"), 0.0), False, "nan", ">= 0"),
        (within(1.0, 0.99, 1.01), True, "1", "in [0.99, 1.01]"),
        (within(1.0004, 1.0001, 1.0003), False, "1.0004", "in [1.0001, 1.0003]"),
        (within(float("nan"), 0.0, 1.0), False, "nan", "in [0, 1]"),
        (equal([1, -1], [1, -1], "signs"), True, "signs [1 -1]", "signs = [1 -1]"),
        (equal(3, 4), False, "3", "= 4"),
        (holds(True, "decreasing", "3, 2, 1", "loss"), True, "loss 3, 2, 1", "loss decreasing"),
    ],
)
def test_evidence_reads_well_on_both_sides_of_its_bound(
    evidence: Evidence, holding: bool, measured: str, criterion: str
) -> None:
    assert evidence.holds == holding
    assert evidence.measured == measured
    assert evidence.criterion == criterion


def test_numpy_values_become_pythons() -> None:
    import numpy as np

    assert equal(np.array([1, 2]), [1, 2]).holds
    assert type(at_most(np.float64(0.1), 1.0).checks[0].measured) is float
    assert format_value(np.array([0.12345, 1.0])) == "[0.123 1]"
