"""``refimpl compare``: 0 it passes, 1 it does not, 2 usage, and the report as JSON."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from refimpl import cli
from refimpl.oracle import load_case

ROOT = Path(__file__).parents[2]
SPEC = "primitives/squared_error"
MINE = """
import numpy as np
from refimpl.primitives import losses

def right(prediction, target):
    return np.square(target - prediction).sum(axis=-1)

def pulled(prediction, target):
    residual = prediction - target
    return right(prediction, target), lambda g: (2 * residual * g[..., None], -2 * residual * g[..., None])

def halved(prediction, target):
    return right(prediction, target) / 2

def raises(**arguments):
    raise ValueError("not today")

constant = 3
"""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``refimpl compare`` in a folder with MINE as a module: status, output and errors."""
    module = f"mine_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def command(spec: str, candidate: str, *arguments: str) -> tuple[int, str, str]:
        arguments = tuple(one.replace("mine:", f"{module}:") for one in (candidate, *arguments))
        try:
            status = cli.main(["compare", spec, *arguments, "--seed", "0", "--examples", "30"])
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def test_it_passes(compare: Command) -> None:
    status, out, err = compare(SPEC, "mine:right")
    assert (status, err) == (0, "")
    assert out.startswith(f"PASSES: {SPEC} in float32 (numpy)\n  30 inputs from seed 0, 30 arrays compared")
    assert "gradients not judged" in out
    assert not list(Path().glob("*.npz"))


def test_with_its_derivative(compare: Command) -> None:
    status, out, _ = compare(SPEC, "mine:right", "--vjp", "mine:pulled", "--dtype", "float64")
    assert status == 0
    assert "gradients not judged" not in out


def test_it_does_not_pass(compare: Command) -> None:
    status, out, err = compare(SPEC, "mine:halved", "--json", "report.json")
    assert (status, err) == (1, "")
    assert "probably constant factor: 1/2" in out
    assert "case = oracle.load_case('squared_error.float32.npz')" in out
    report = json.loads(Path("report.json").read_text())
    assert report["format"] == 1
    assert report["verdict"] == "FAILS"
    assert report["spec"] == SPEC
    assert report["findings"][0]["kind"] == "inaccurate"
    assert report["findings"][0]["comparison"]["error"] > report["findings"][0]["comparison"]["bound"]
    assert report["diagnoses"][0]["kind"] == "constant factor"
    assert load_case(report["saved"]).spec.name == SPEC


def test_the_snippet_that_is_printed_runs(compare: Command) -> None:
    _, out, _ = compare(SPEC, "mine:halved")
    snippet = "\n".join(line.strip() for line in out.split("to see it fail:\n")[1].splitlines())
    outcome = subprocess.run(
        [sys.executable, "-c", snippet],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.stderr.splitlines()[-1].startswith(
        f"AssertionError: {SPEC} in float32: inaccurate: output is off by"
    )


def test_an_exception_of_the_candidate_is_a_finding(compare: Command) -> None:
    status, out, _ = compare(SPEC, "mine:raises", "--json", "report.json")
    assert status == 1
    assert "exception: ValueError: not today" in out
    assert json.loads(Path("report.json").read_text())["worst"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["primitives/square_error", "mine:right"], "no spec 'primitives/square_error'; did you mean"),
        (["softmax", "mine:right"], "did you mean primitives/softmax?"),
        ([SPEC, "mine"], "candidate: expected MODULE:FUNCTION, got 'mine'"),
        ([SPEC, "nowhere:right"], "candidate nowhere:right: ModuleNotFoundError"),
        ([SPEC, "broken:right"], "candidate broken:right: ModuleNotFoundError: No module named 'no_such_module'"),
        ([SPEC, "mine:nothing"], "AttributeError"),
        ([SPEC, "mine:constant"], "is not callable"),
        ([SPEC, "mine:right", "--vjp", "pulled"], "--vjp: expected MODULE:FUNCTION, got 'pulled'"),
        ([SPEC, "mine:right", "--dtype", "float8"], "dtype: expected one of float64, float32, float16, bfloat16"),
        ([SPEC, "mine:right", "--factor", "0.1"], "factor: expected a number in [1, inf), got 0.1"),
        ([SPEC, "mine:right", "--json", "no/where.json"], "no/where.json: No such file or directory"),
        ([SPEC, "mine:halved", "--save", "no/where.npz"], "no/where.npz: No such file or directory"),
    ],
)
def test_usage(compare: Command, arguments: list[str], message: str) -> None:
    status, _, err = compare(*arguments)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_framework_that_is_not_there(compare: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    status, _, err = compare(SPEC, "mine:right", "--framework", "torch")
    assert status == 2
    assert err.startswith("refimpl: framework: torch is not installed")


def test_progress_on_a_terminal(compare: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    status, _, _ = compare(SPEC, "mine:right")
    assert status == 0
    assert terminal.getvalue().startswith("  1/30 inputs\r")
    assert terminal.getvalue().endswith("  30/30 inputs\r\x1b[K")
