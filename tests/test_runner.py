"""Every claim ends exactly once, as what it is, whatever happens to the process that runs it."""

import json
import math
import os
import signal
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy

from proofs import ledger, results, runner
from proofs.results import Result
from proofs.runner import Task
from tests import toy_claims

STATUS = {
    "P1": "proved",
    "V1": "verified",
    "E1": "erratum",
    "F1": "failed",
    "N1": "vacuous",
    "X1": "error",
    "X2": "error",
    "X3": "error",
    "X4": "error",
    "S1": "skipped",
    "L1": "verified",
}


def task(label: str, seed: int = 0) -> Task:
    return runner.task(ledger.find("tests.toy_claims", f"toy/{label}"), toy_claims.PAPER, seed)


def result(label: str, seed: int = 0) -> Result:
    return runner.decide(task(label, seed))


def by_label(found: Iterable[Result]) -> dict[str, Result]:
    """The results by label, after a check that there is one each."""
    found = list(found)
    labels = [one["claim"].removeprefix("toy/") for one in found]
    assert len(set(labels)) == len(labels)
    return dict(zip(labels, found, strict=True))


def runs(toy: Path, label: str) -> list[int]:
    """The processes in which a toy claim was run."""
    file = toy / label
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Deciding


@pytest.mark.parametrize("label", STATUS)
def test_status(label: str) -> None:
    found = result(label)
    assert found["status"] == STATUS[label]
    assert results.check_result(json.loads(json.dumps(found, allow_nan=False))) == found


def test_a_result_says_what_was_found() -> None:
    found = result("V1", seed=3)
    assert found["measured"].startswith("error 0, drawn 0.")
    assert found["criterion"] == "error <= 0.5, drawn <= 1"
    assert found["checks"][0] == {
        "quantity": "error",
        "measured": 0.0,
        "criterion": "<= 0.5",
        "holds": True,
        "text": "error 0 (<= 0.5)",
    }
    assert found["control"] == {
        "fails": True,
        "measured": "error 1",
        "controls": [{"description": "the error is 1", "fails": True, "measured": "error 1"}],
    }
    described = {"paper": "toy", "area": "examples", "arxiv": "2601.00001", "source": "Theorem 1", "seed": 3}
    assert found.items() >= described.items()


def test_the_seed_decides_what_is_drawn() -> None:
    assert result("V1", seed=1)["checks"] == result("V1", seed=1)["checks"]
    assert result("V1", seed=1)["checks"] != result("V1", seed=2)["checks"]


def test_what_json_lacks_is_a_string() -> None:
    assert result("F1")["checks"][0]["measured"] == "nan"
    values = [np.float32(0.5), np.longdouble(1), -math.inf, np.arange(2), sympy.Rational(1, 3), (True, None, 2**70)]
    assert results.plain(values) == [0.5, 1.0, "-inf", [0, 1], "1/3", [True, None, 2**70]]
    json.dumps(results.plain(values), allow_nan=False)


def test_errors_keep_their_message_and_place() -> None:
    found = result("X1")
    assert found["error"] == "ArithmeticError: no such\x00 luck"
    assert "toy_claims.py" in found["traceback"]
    in_control = result("X2")
    assert in_control["error"].startswith("control 'a typo': TypeError")
    assert in_control["checks"][0]["holds"]
    assert not in_control["control"]["fails"]
    assert "expected Evidence with at least one check" in result("X4")["error"]
    assert result("S1")["error"] == "needs no_such_module: pip install 'refimpl[data]'"


def test_one_passing_control_of_two_is_enough_to_be_vacuous() -> None:
    control = result("N1")["control"]
    assert [one["fails"] for one in control["controls"]] == [False, True]
    assert not control["fails"]


def test_a_worker_with_other_sources_is_found_out() -> None:
    asked = task("P1")
    assert runner.decide(asked, elsewhere=True)["status"] == "proved"
    found = runner.decide(Task(asked.module, asked.header | {"code": "0" * 16}), elsewhere=True)
    assert found["status"] == "error"
    assert "has other sources" in found["error"]


def test_a_module_that_cannot_be_imported_is_an_error() -> None:
    found = runner.decide(Task("no_such_module", task("P1").header))
    assert (found["status"], found["error"]) == ("error", "ModuleNotFoundError: No module named 'no_such_module'")


def test_a_result_is_good_for_one_seed_source_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    found = result("P1")
    assert runner.is_current(found, task("P1"))
    assert not runner.is_current(found, task("P1", seed=1))
    assert not runner.is_current({**found, "environment": "python 2.7"}, task("P1"))

    def version(*sources: tuple[str, bytes]) -> str:
        monkeypatch.setattr(runner, "_sources", lambda: [(Path(path), content) for path, content in sources])
        runner.code_version.cache_clear()
        return runner.code_version("toy", "tests.toy_claims")

    other = runner.PAPERS[0]
    shared, own = ("proofs/ledger.py", b"a"), ("refimpl/examples/toy/core.py", b"b")
    base = version(shared, own)
    assert version(("proofs/ledger.py", b"x"), own) != base
    assert version(shared, ("refimpl/examples/toy/core.py", b"x")) != base
    assert version(shared, own, (f"refimpl/{other.area}/{other.slug}.py", b"c")) == base
    assert version(shared, own, (f"proofs/{other.area}/{other.slug}/part.py", b"c")) == base
    runner.code_version.cache_clear()


# Results files


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    with path.open("wb", buffering=0) as file:
        for label in ("P1", "F1"):
            results.append(file, result(label))
    return path


def test_results_are_read_as_written(stored: Path) -> None:
    read = results.read(stored)
    assert [one["claim"] for one in read.results] == ["toy/P1", "toy/F1"]
    assert (read.intact, read.cut_short) == (stored.stat().st_size, False)


def test_a_line_cut_anywhere_is_left_out(stored: Path) -> None:
    whole = stored.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole) + 1, 7):
        stored.write_bytes(whole[:length])
        read = results.read(stored)
        assert (len(read.results), read.intact, read.cut_short) == (1, first, length > first)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 1: not a result: Expecting"),
        (b"", "line 1: not a result: Expecting value"),
        (b"\xff\xfe", "line 1: not a result: "),
        (b"[" * 100_000, "line 1: not a result: "),
        (b"3", "line 1: not a result: line: expected an object, got 3"),
        (b"{}", "line 1: not a result: format: expected this field, got none"),
        (b'{"format": 2}', "line 1: not a result: format 2, where this version reads and writes format 1"),
    ],
)
def test_a_corrupt_line_is_named(stored: Path, line: bytes, message: str) -> None:
    stored.write_bytes(line + b"\n" + stored.read_bytes())
    with pytest.raises(ValueError, match=r"results\.jsonl, line 1") as caught:
        results.read(stored)
    assert message in str(caught.value)


def test_any_other_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "thesis.tex"
    path.write_text("\\section{Introduction}")
    with pytest.raises(ValueError, match="does not end in a result"):
        results.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": "1"}, 'seconds: expected float, got "1"'),
        ({"seed": True}, "seed: expected int, got true"),
        ({"status": "green"}, "status: expected one of proved, verified"),
        ({"checks": {}}, "checks: expected an array, got {}"),
        ({"checks": [{"quantity": "x"}]}, "checks[0].measured: expected this field, got none"),
        ({"control": {"fails": True, "measured": "", "controls": [{}]}}, "control.controls[0].description: expected"),
        ({"colour": "green"}, "colour: expected no such field"),
    ],
)
def test_the_schema_names_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        results.check_result({**result("P1"), **change})
    assert str(caught.value).startswith(message)


def test_not_a_number_is_not_json(stored: Path) -> None:
    stored.write_text(stored.read_text().replace('"measured": 0.0', '"measured": NaN'))
    with pytest.raises(ValueError, match="line 1: not a result: NaN is not JSON"):
        results.read(stored)


def test_junit() -> None:
    root = ElementTree.fromstring(results.junit([result(label) for label in STATUS]))
    cases = {case.get("name", "").partition(":")[0]: case for case in root.iter("testcase")}
    assert list(cases) == list(STATUS)
    kinds = {"failed": "failure", "vacuous": "failure", "error": "error", "skipped": "skipped"}
    for label, status in STATUS.items():
        assert [child.tag for child in cases[label]] == ([kinds[status]] if status in kinds else [])
    for suite in (root, root[0]):
        counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
        assert counts == {"tests": "11", "failures": "2", "errors": "4", "skipped": "1"}
    assert cases["X1"][0].get("message") == "error: ArithmeticError: no such? luck"
    assert "toy_claims.py" in (cases["X1"][0].text or "")
    assert cases["N1"][0].get("message") == "vacuous: control passes: nothing that matters: error 0.3"
    assert cases["P1"].get("classname") == "examples.toy"


# Processes on this machine


def test_every_claim_once_with_one_thread_each(toy: Path) -> None:
    labels = [*STATUS, "B1", "W1", "W2", "W3"]
    before = dict(os.environ)
    found = by_label(runner.run_on_this_machine([task(label) for label in labels], 2))
    assert {label: one["status"] for label, one in found.items()} == STATUS | dict.fromkeys(
        labels[len(STATUS) :], "verified"
    )
    assert next(iter(found)) in ("L1", "P1")  # the full one is among the first two to start
    assert dict(os.environ) == before


def test_a_dead_worker_costs_only_the_claim_that_kills_it(toy: Path) -> None:
    (toy / "hold1").touch()
    running = runner.run_on_this_machine([task(label) for label in ("W1", "K1", "K2", "W2", "W3")], 2)
    found = []
    for one in running:
        found.append(one)
        if len(found) == 4:
            (toy / "hold1").unlink()
    statuses = {label: one["status"] for label, one in by_label(found).items()}
    assert statuses == {"W1": "verified", "W2": "verified", "W3": "verified", "K1": "error", "K2": "verified"}
    assert "died 2 times" in by_label(found)["K1"]["error"]
    # W1 ran all the while in the other worker. K2 ran again, and its control, once each.
    assert [len(runs(toy, label)) for label in ("W1", "W2", "W3", "K1", "K2")] == [1, 1, 1, 2, 3]


def test_a_worker_that_dies_while_idle_is_replaced(toy: Path) -> None:
    (toy / "hold2").touch()
    running = runner.run_on_this_machine([task("W1"), task("W2"), task("W3")], 2)
    found = [next(running)]
    os.kill(runs(toy, "W1")[0], signal.SIGKILL)
    time.sleep(0.2)
    (toy / "hold2").unlink()
    statuses = {label: one["status"] for label, one in by_label([*found, *running]).items()}
    assert statuses == dict.fromkeys(("W1", "W2", "W3"), "verified")


def test_leaving_early_ends_the_workers(toy: Path) -> None:
    (toy / "hold1").touch()
    running = runner.run_on_this_machine([task("W1"), task("P1")], 2)
    next(running)
    wait_until(lambda: runs(toy, "W1"))
    running.close()
    wait_until(lambda: not Path(f"/proc/{runs(toy, 'W1')[0]}").exists())


# Dask


@pytest.fixture
def fresh_sources() -> None:
    """Other processes read the sources when they start; so do we, in case somebody edited them since."""
    runner._sources.cache_clear()
    runner.code_version.cache_clear()


@pytest.fixture
def cluster(fresh_sources: None) -> Iterator[Any]:
    """A cluster of two processes that names the culprit at once: Dask's own default lets four workers die first."""
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as started,
    ):
        yield started


def test_a_dask_worker_that_dies_loses_no_result_and_counts_none_twice(cluster: Any, toy: Path) -> None:
    (toy / "hold6").touch()
    collected: list[Result] = []

    def kill() -> None:
        # All but one are here, and the cluster has been told to forget them.
        wait_until(lambda: runs(toy, "W6") and len(collected) == 8 and len(cluster.scheduler.tasks) == 1)
        os.kill(runs(toy, "W6")[0], signal.SIGKILL)
        (toy / "hold6").unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    labels = ["W6", "W1", "P1", "F1", "X3", "W2", "W3", "W4", "W5"]
    for one in runner.run_on_dask([task(label) for label in labels], cluster.scheduler_address):
        collected.append(one)
    killer.join()
    found = by_label(collected)
    expected = dict.fromkeys(labels, "verified") | {"P1": "proved", "F1": "failed", "X3": "error"}
    assert {label: one["status"] for label, one in found.items()} == expected
    # The one in flight ran again; what the dead worker had finished did not.
    assert [len(runs(toy, f"W{number}")) for number in (1, 2, 3, 4, 5, 6)] == [1, 1, 1, 1, 1, 2]

    found = by_label(runner.run_on_dask([task(label) for label in ("W1", "K1", "W2")], cluster.scheduler_address))
    assert {label: one["status"] for label, one in found.items()} == {"W1": "verified", "K1": "error", "W2": "verified"}
    assert "died" in found["K1"]["error"]


def test_dask_at_its_default_runs_a_claim_again_elsewhere(fresh_sources: None, toy: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as started:
        found = by_label(runner.run_on_dask([task("K2"), task("P1")], started.scheduler_address))
    assert {label: one["status"] for label, one in found.items()} == {"K2": "verified", "P1": "proved"}


@pytest.mark.parametrize("address", ["nowhere", "bad://127.0.0.1:1"])
def test_an_address_that_makes_no_sense(address: str) -> None:
    with pytest.raises(ConnectionError, match=f"no Dask scheduler at {address}"):
        list(runner.run_on_dask([task("P1")], address))
