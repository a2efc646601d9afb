"""A paper whose claims end in every way there is, for the tests of the runner and of the command line.

Claims that leave something behind, or wait for something, do so in the directory ``$TOY``.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from proofs import ledger
from proofs.ledger import Control, Evidence, at_most, claim, equal, holds
from refimpl import catalogue

PAPER = catalogue.Paper(
    "toy", "examples", "A toy paper with a title in earnest: über alles", "Ada, Bo", 2026, "2601.00001"
)

ledger.EXTRAS.setdefault("no_such_module", "data")


def toy(label: str, title: str, method: ledger.Method = "property", **more):  # type: ignore[no-untyped-def]
    defaults = {"control": Control("the error is 1", error=1.0), "scope": "one case", "source": "Theorem 1"}
    return claim(f"toy/{label}", title=title, method=method, statement=r"$e\le\frac12$", **(defaults | more))


@toy("P1", "Proved", "symbolic")
def proved(error: float = 0.0) -> Evidence:
    return equal(error, 0.0, "error")


@toy("V1", "Verified", scope="one draw", uses=["toy/P1"])
def verified(rng: np.random.Generator, error: float = 0.0) -> Evidence:
    return at_most(error, 0.5, "error") & at_most(float(rng.random()), 1.0, "drawn")


@toy("E1", "An erratum", erratum="The paper says 0; 0.25 is right.")
def erratum(error: float = 0.25) -> Evidence:
    return at_most(error, 0.5, "error")


@toy("F1", "Failed")
def failed(error: float = np.nan) -> Evidence:
    return at_most(error, 0.5, "error") & at_most(0.1, 0.5, "other")


@toy("N1", "Vacuous", control=[Control("nothing that matters", error=0.3), Control("the error is 1", error=1.0)])
def vacuous(error: float = 0.0) -> Evidence:
    return at_most(error, 0.5, "error")


@toy("X1", "Raises")
def raises(error: float = 0.0) -> Evidence:
    raise ArithmeticError("no such\x00 luck")


@toy("X2", "Its control raises", control=[Control("the error is 1", error=1.0), Control("a typo", error="one")])
def control_raises(error: float = 0.0) -> Evidence:
    return at_most(error, 0.5, "error")


@toy("X3", "Exits")
def exits(error: float = 0.0) -> Evidence:
    sys.exit(3)


@toy("X4", "Its control checks nothing", control=Control("nothing is checked", checks=0))
def checks_nothing(checks: int = 1) -> Evidence:
    return Evidence(equal(0, 0).checks[:checks])


@toy("S1", "Needs what is not there", requires=["no_such_module"])
def needs(error: float = 0.0) -> Evidence:
    return at_most(error, 0.5, "error")


@toy("L1", "Long", cost="full")
def long(error: float = 0.0) -> Evidence:
    return at_most(error, 0.5, "error")


@toy("B1", "One thread", control=Control("two threads are expected", wanted=2))
def one_thread(wanted: int = 1) -> Evidence:
    """BLAS threads that a product starts: none."""
    matrix = np.random.default_rng(0).standard_normal((600, 600))
    before = len(os.listdir("/proc/self/task"))
    matrix @ matrix
    after = len(os.listdir("/proc/self/task"))
    count = int(os.environ["OMP_NUM_THREADS"]) + after - before
    return equal(count, wanted, "threads") & holds(before <= 2, "the worker and its watch", str(before))


def run_count(name: str) -> int:
    """Note one more run of this name in $TOY, whatever becomes of it; return how many there were before."""
    notes = Path(os.environ["TOY"]) / name
    before = len(notes.read_text().split()) if notes.exists() else 0
    with notes.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return before


@toy("K1", "Kills its worker")
def kills(error: float = 0.0) -> Evidence:
    run_count("K1")
    os.kill(os.getpid(), signal.SIGKILL)
    return at_most(error, 0.5, "error")


@toy("K2", "Kills its worker the first time")
def kills_once(error: float = 0.0) -> Evidence:
    if run_count("K2") == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return at_most(error, 0.5, "error")


def waiting(number: int) -> None:
    @toy(f"W{number}", f"Waits {number}")
    def waits(error: float = 0.0) -> Evidence:
        if not error:
            run_count(f"W{number}")
            while (Path(os.environ["TOY"]) / f"hold{number}").exists():
                time.sleep(0.01)
        return at_most(error, 0.5, "error")


for number in range(1, 7):
    waiting(number)
