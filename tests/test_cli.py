"""The command line says what is so, loses nothing, and answers a mistake with one line."""

import importlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from proofs import results
from refimpl import cli
from tests import toy_claims
from tests.test_runner import runs, wait_until

ROOT = Path(__file__).parent.parent

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def refimpl(toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, over a catalogue of the toy paper: status, output and errors."""
    for name in ("common", "show", "check"):
        monkeypatch.setattr(importlib.import_module(f"refimpl.cli.{name}"), "PAPERS", (toy_claims.PAPER,))
    for package in ("proofs", "refimpl"):
        monkeypatch.setitem(sys.modules, f"{package}.examples.toy", toy_claims)
    monkeypatch.setenv("COLUMNS", "100")

    def command(*arguments: object) -> tuple[int, str, str]:
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def one_line(errors: str) -> str:
    """What follows ``refimpl: ``, after a check that there is nothing else."""
    assert re.fullmatch(r"refimpl: [^\n]+\n", errors), errors
    return errors.removeprefix("refimpl: ").strip()


def stored(path: Path) -> list[str]:
    return [result["claim"] for result in results.read(path).results]


# list and show


def test_list_prints_the_catalogue_and_imports_no_proof(refimpl: Command) -> None:
    status, output, _ = refimpl("list", "examples")
    assert status == 0
    assert output.splitlines() == [
        "area      paper  arXiv       year  title",
        "examples  toy    2601.00001  2026  A toy paper with a title in earnest: über alles",
    ]
    loaded = "import sys, refimpl.cli; refimpl.cli.main(['list']); print({'numpy', 'sympy', 'proofs'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "set()"
    assert "linear_attention" in run.stdout


def test_list_as_json(refimpl: Command) -> None:
    status, output, _ = refimpl("list", "toy", "--json")
    listing = json.loads(output)
    assert status == 0
    assert (
        next(one for one in listing if one["claim"] == "toy/P1").items()
        >= {
            "claim": "toy/P1",
            "title": "Proved",
            "paper": "toy",
            "area": "examples",
            "source": "Theorem 1",
            "method": "symbolic",
            "cost": "quick",
        }.items()
    )


@pytest.mark.parametrize("name", ["toy", "examples", "2601.00001", "arXiv:2601.00001v2"])
def test_selection(refimpl: Command, name: str) -> None:
    assert len(json.loads(refimpl("list", name, "--json")[1])) == 20
    assert "toy/V1" in refimpl("show", name)[1] or "V1    Verified" in refimpl("show", name)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "toys"), "no paper or area 'toys'; did you mean toy?"),
        (("show", "tou"), "no paper, area or claim 'tou'; did you mean toy?"),
        (("check", "toy/W9"), "no paper, area or claim 'toy/W9'; did you mean toy/W6 or toy/W5 or toy/W4?"),
        (("check", "v1"), "no paper, area or claim 'v1'; did you mean toy/V1"),
        (("check", "toy/p1"), "no paper, area or claim 'toy/p1'; did you mean toy/P1?"),
        (("check", "toy", "quantum"), "no paper, area or claim 'quantum'; `refimpl list` names them all"),
        (("check", "toy", "--method", "statistical"), "nothing to check"),
        (("check", "toy/P1", "--method", "property"), "nothing to check"),
        (("check", "toy/P1", "--dask", "nowhere"), "no Dask scheduler at nowhere: missing port number in address"),
    ],
)
def test_a_miss(refimpl: Command, arguments: tuple[str, ...], message: str) -> None:
    status, _, errors = refimpl(*arguments)
    assert status == 2
    assert one_line(errors).startswith(message)


@pytest.mark.parametrize(
    "arguments", [(), ("chekc",), ("check", "-j", "0"), ("check", "--seed", "x"), ("check", "-j", "2", "--dask", "a")]
)
def test_usage(refimpl: Command, arguments: tuple[str, ...]) -> None:
    status, _, errors = refimpl(*arguments)
    assert status == 2
    assert errors.startswith("usage: refimpl")


def test_show(refimpl: Command, tmp_path: Path) -> None:
    status, output, _ = refimpl("show", "toy/V1", "toy/E1")
    assert status == 0
    assert output.splitlines()[:4] == [
        "A toy paper with a title in earnest: über alles",
        "Ada, Bo (2026), arXiv 2601.00001",
        "2 claims: 2 property",
        "code in tests/toy_claims.py",
    ]
    line = next(
        n for n, text in enumerate(Path(toy_claims.__file__).read_text().splitlines(), 1) if '@toy("V1"' in text
    )
    for expected in [
        "uses     toy/P1",
        "erratum  The paper says 0",
        "control  the error is 1",
        f"toy_claims.py:{line}\n",
    ]:
        assert expected in output
    file = tmp_path / "results.jsonl"
    refimpl("check", "toy/V1", "toy/F1", "--json", file)
    output = refimpl("show", "toy/V1", "toy/F1", "--results", file)[1]
    assert "status   verified\n" in output
    assert "found    error nan (<= 0.5)" in output
    assert "control  the error is 1: fails, error 1" in output
    file.write_text(file.read_text().replace("python", "pythn"))
    assert (
        "status   verified, with other sources or libraries than these"
        in refimpl("show", "toy/V1", "--results", file)[1]
    )
    assert max(map(len, refimpl("show", "toy")[1].splitlines())) <= 100


# check


def test_check(refimpl: Command, tmp_path: Path) -> None:
    junit, file = tmp_path / "junit.xml", tmp_path / "results.jsonl"
    status, output, errors = refimpl("check", "toy/P1", "toy/V1", "toy/E1", "-j", 1, "--json", file, "--junit", junit)
    assert (status, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == "3 claims on 1 process"
    assert re.fullmatch(r"\[2/3\] proved   toy/P1  symbolic     +\d\.\d\d s  error 0 \(= 0\)", lines[2])
    assert [line.split()[:2] for line in (lines[1], lines[3])] == [["[1/3]", "erratum"], ["[3/3]", "verified"]]
    assert "paper  claims  proved  verified  erratum  seconds" in lines
    assert lines[-2:] == ["controls: 3 of 3 fail, as they must", "3 of 3 claims hold"]
    assert stored(file) == ["toy/E1", "toy/P1", "toy/V1"]
    assert ElementTree.parse(junit).getroot().get("tests") == "3"


def test_check_of_what_does_not_hold(refimpl: Command) -> None:
    status, output, _ = refimpl("check", "toy/P1", "toy/F1", "toy/N1", "toy/X1", "toy/S1", "-j", 1)
    assert status == 1
    assert output.splitlines()[-6:] == [
        "controls: 3 of 4 fail, and every one must",
        "failed   toy/F1: error nan (<= 0.5)",
        "vacuous  toy/N1: control passes: nothing that matters: error 0.3",
        "skipped  toy/S1: needs no_such_module: pip install 'refimpl[data]'",
        "error    toy/X1: ArithmeticError: no such\x00 luck",
        "1 of 5 claims hold",
    ]
    for label in ("F1", "N1", "X1", "S1"):
        assert refimpl("check", f"toy/{label}", "-j", 1)[0] == 1


def test_a_full_claim_runs_if_asked_for(refimpl: Command) -> None:
    assert refimpl("check", "toy/L1", "-j", 1)[1].endswith("1 of 1 claims hold\n")
    assert "1 left out, which --full runs" in refimpl("check", "toy", "--method", "property", "-j", 2)[1]
    assert "toy/L1" in refimpl("check", "toy", "--method", "property", "-j", 2, "--full")[1]


def test_resume(refimpl: Command, toy: Path, tmp_path: Path) -> None:
    file, copy = tmp_path / "results.jsonl", tmp_path / "copy.jsonl"
    refimpl("check", "toy/F1", "toy/W1", "toy/W2", "-j", 1, "--json", file)
    lines = file.read_text().splitlines(keepends=True)
    gone = lines[1].replace("toy/W1", "toy/G1")
    file.write_text("".join([*lines[:2], gone, lines[2][:50]]))

    status, output, _ = refimpl("check", "toy/F1", "toy/W1", "toy/W2", "-j", 1, "--resume", file, "--json", copy)
    assert output.splitlines()[0] == (
        f"{file}: 1 result taken; 1 that do not hold run again; 1 of claims no longer in the ledger ignored; "
        "the last line was cut short and is dropped"
    )
    assert file.read_text().endswith(lines[2][:50])
    assert stored(copy) == ["toy/W1", "toy/F1", "toy/W2"]

    status, output, _ = refimpl("check", "toy/F1", "toy/W1", "toy/W2", "-j", 1, "--resume", file)
    assert status == 1
    assert "[3/3]" in output
    assert "2 of 3 claims hold" in output
    assert stored(file) == ["toy/F1", "toy/W1", "toy/G1", "toy/F1", "toy/W2"]
    assert len(runs(toy, "W1")) == 1

    status, output, _ = refimpl("check", "toy/W1", "toy/W2", "--resume", file)
    assert status == 0
    assert "nothing left to run" in output
    output = refimpl("check", "toy/W1", "-j", 1, "--resume", file, "--seed", 1)[1]
    assert "0 results taken; 1 of another seed, source or library version run again" in output
    assert len(runs(toy, "W1")) == 2


def test_nothing_is_overwritten_or_lost(refimpl: Command, tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    refimpl("check", "toy/P1", "-j", 1, "--json", file)
    before = file.read_bytes()
    corrupt = tmp_path / "corrupt.jsonl"
    corrupt.write_bytes(b'{"format": 1}\n' + before)
    other = tmp_path / "thesis.tex"
    other.write_text("\\section{Introduction}")
    folder = tmp_path / "folder"
    folder.mkdir()
    for arguments, message in [
        (("--json", file), f"{file}: already there; go on with it by --resume, or remove it"),
        (("--resume", corrupt), f"{corrupt}, line 1: not a result: claim: expected this field, got none"),
        (("--resume", other), f"{other}: does not end in a result"),
        (("--resume", tmp_path / "none"), f"{tmp_path / 'none'}: No such file or directory"),
        (("--json", tmp_path / "none" / "r"), f"{tmp_path / 'none' / 'r'}: No such file or directory"),
        (("--json", folder), f"{folder}: Is a directory"),
        (("--junit", folder), f"{folder}: Is a directory"),
        (
            ("--json", tmp_path / "new", "--junit", tmp_path / "new"),
            f"{tmp_path / 'new'}: named for results and for JUnit",
        ),
    ]:
        status, output, errors = refimpl("check", "toy/P1", *arguments)
        assert (status, output) == (2, "")
        assert one_line(errors).startswith(message)
    assert file.read_bytes() == before
    assert corrupt.read_bytes() == b'{"format": 1}\n' + before
    assert other.read_text() == "\\section{Introduction}"


def test_a_full_disk_is_one_line(refimpl: Command) -> None:
    status, _, errors = refimpl("check", "toy/P1", "-j", 1, "--json", "/dev/full")
    assert (status, one_line(errors)) == (2, "/dev/full: No space left on device")


# Signals and terminals: a process of its own


def start(toy: Path, *arguments: str, **more: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.toy_command", *arguments]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    environment = os.environ | {"TOY": str(toy)}
    return subprocess.Popen(  # type: ignore[call-overload]
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        start_new_session=True,
        # A shell's background job ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **output,
    )


def is_alive(pid: int) -> bool:
    """Whether the process is there, and not only waits for its parent to notice that it ended."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_goes_on(toy: Path, tmp_path: Path, how: signal.Signals) -> None:
    file = tmp_path / "results.jsonl"
    (toy / "hold3").touch()
    claims = ["toy/W1", "toy/W2", "toy/W3", "toy/P1"]
    running = start(toy, "check", *claims, "-j", "2", "--json", str(file))
    wait_until(lambda: file.exists() and file.read_text().count("\n") == 3 and runs(toy, "W3"))
    if how == signal.SIGKILL:
        running.kill()
        _, errors = running.communicate()
        wait_until(lambda: not any(is_alive(pid) for label in ("W1", "W2", "W3") for pid in runs(toy, label)))
        with file.open("a") as results_file:
            results_file.write('{"format": 1, "claim": "toy/W3", "tit')
        command = ["check", *claims, "-j", "2", "--resume", str(file)]
    else:
        os.killpg(running.pid, how)  # as a terminal does: to the workers too
        _, errors = running.communicate(timeout=10)
        assert running.returncode == 130
        assert one_line(errors.lstrip()).startswith("interrupted, 3 of 4 claims done; go on with: refimpl check")
        command = shlex.split(errors.partition("go on with: refimpl ")[2])
        assert not any(is_alive(pid) for label in ("W1", "W2", "W3") for pid in runs(toy, label))
    assert "Traceback" not in errors
    (toy / "hold3").unlink()

    resumed = start(toy, *command)
    output, errors = resumed.communicate(timeout=30)
    assert (resumed.returncode, errors) == (0, "")
    assert "3 results taken" in output
    assert ("cut short" in output) == (how == signal.SIGKILL)
    assert sorted(stored(file)) == sorted(claims)
    assert [len(runs(toy, label)) for label in ("W1", "W2", "W3")] == [1, 1, 2]


def test_a_reader_that_leaves_is_no_error(toy: Path) -> None:
    for arguments in (["check", "toy/P1", "toy/V1", "-j", "1"], ["list"], ["show", "toy"]):
        running = start(toy, *arguments)
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
        assert running.wait(30) == 141
        running.stderr.close()


@pytest.mark.parametrize("colour", [True, False])
def test_colour_is_for_terminals_that_want_it(toy: Path, monkeypatch: pytest.MonkeyPatch, colour: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "" if colour else "1")
    ours, theirs = pty.openpty()
    running = start(toy, "check", "toy/P1", "toy/X4", "-j", "1", stdout=theirs)
    os.close(theirs)
    output = b""
    while True:
        try:
            output += os.read(ours, 65536)
        except OSError:  # how a terminal ends
            break
    os.close(ours)
    running.communicate(timeout=30)
    text = output.decode()
    assert ("\033[32mproved  \033[0m" in text) == colour
    assert ("\033[" in text) == colour
    assert "…" in text  # a long line is cut where the terminal ends
