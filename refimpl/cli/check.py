"""``refimpl check``: whether the claims hold, and fail where they must."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refimpl.catalogue import PAPERS
from refimpl.cli.common import (
    UsageError,
    coloured,
    cores,
    counted,
    file_errors,
    is_terminal,
    read_results,
    select_claims,
    table,
    wrapped,
)

if TYPE_CHECKING:
    from proofs.results import Result, Stored
    from proofs.runner import Task


def add(commands: Any) -> None:
    """Add the parser."""
    parser = commands.add_parser(
        "check",
        help="check claims, and that each fails where it must",
        description="Check claims and their negative controls. Exit status: 0 every claim holds and every control "
        "fails, 1 not so or something was skipped, 2 the command line or a file is wrong, 130 interrupted.",
    )
    parser.add_argument("names", nargs="*", metavar="AREA|PAPER|CLAIM", help="area, slug, arXiv id or claim id")
    parser.add_argument("--method", choices=("symbolic", "property", "statistical", "experiment"), help="only these")
    parser.add_argument("--full", action="store_true", help="also claims that take long (or name them by their id)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-j", dest="jobs", type=_positive, metavar="N", help=f"processes (default {cores()})")
    where.add_argument("--dask", metavar="ADDRESS", help="run on the Dask scheduler at this address, tcp://HOST:PORT")
    parser.add_argument("--resume", metavar="FILE", help="go on with the run that wrote this results file")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file as claims end, one a line")
    parser.add_argument("--junit", metavar="FILE", help="write JUnit XML to this file at the end")
    parser.add_argument("--seed", type=_natural, default=0, metavar="N", help="of all random numbers (%(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Select, open the files, run, summarise."""
    from proofs import results

    tasks, left_out = _select(arguments)
    stored = read_results(arguments.resume) if arguments.resume else None
    done = _taken(stored, tasks, arguments.resume) if stored else []
    taken = {result["claim"] for result in done}
    waiting = [task for task in tasks if task.header["claim"] not in taken]
    with contextlib.ExitStack() as opened:
        path, file = _open_results(arguments, stored, done, opened)
        place = (
            f"Dask at {arguments.dask}"
            if arguments.dask
            else counted(min(arguments.jobs or cores(), len(waiting)), "process")
        )
        print(f"{counted(len(waiting), 'claim')} on {place}" if waiting else "nothing left to run", flush=True)
        try:
            with contextlib.closing(_results(waiting, arguments)) as running:
                for result in running:
                    done.append(result)
                    if file:
                        with file_errors(path):
                            results.append(file, result)
                    _print_line(result, len(done), tasks)
        except KeyboardInterrupt:
            print(
                f"\nrefimpl: interrupted, {len(done)} of {len(tasks)} claims done; {_go_on(arguments, path)}",
                file=sys.stderr,
            )
            return 130
    order = [task.header["claim"] for task in tasks]
    done.sort(key=lambda result: order.index(result["claim"]))
    if arguments.junit:
        with file_errors(arguments.junit):
            Path(arguments.junit).write_bytes(results.junit(done))
    _print_summary(done, left_out)
    return 0 if all(result["status"] in results.HOLDING for result in done) else 1


def _select(arguments: argparse.Namespace) -> tuple[list[Task], int]:
    """The tasks asked for, and how many full claims are not among them."""
    from proofs import runner

    claims, named = select_claims(arguments.names)
    claims = [one for one in claims if arguments.method in (None, one.method)]
    quick = [one for one in claims if arguments.full or one.cost == "quick" or one.id in named]
    left_out = len(claims) - len(quick)
    if not quick:
        raise UsageError(
            f"nothing to check: {left_out} claims of cost full need --full" if left_out else "nothing to check"
        )
    papers = {paper.slug: paper for paper in PAPERS}
    return [runner.task(one, papers[one.paper], arguments.seed) for one in quick], left_out


def _taken(stored: Stored, tasks: Sequence[Task], path: str) -> list[Result]:
    """The stored results that need no run: they hold, and seed, sources and versions are the same."""
    from proofs import ledger, results, runner

    latest = results.latest(stored.results)
    found = [(task, latest[task.header["claim"]]) for task in tasks if task.header["claim"] in latest]
    taken = [
        result for task, result in found if result["status"] in results.HOLDING and runner.is_current(result, task)
    ]
    stale = [result for task, result in found if not runner.is_current(result, task)]
    papers = {result["paper"] for result in latest.values()}
    known = {one.id for one in ledger.claims([paper for paper in PAPERS if paper.slug in papers])}
    gone = [claim for claim in latest if claim not in known]
    notes = [
        f"{counted(len(taken), 'result')} taken",
        f"{len(stale)} of another seed, source or library version run again" if stale else "",
        f"{len(found) - len(taken) - len(stale)} that do not hold run again"
        if len(found) > len(taken) + len(stale)
        else "",
        f"{len(gone)} of claims no longer in the ledger ignored" if gone else "",
        "the last line was cut short and is dropped" if stored.cut_short else "",
    ]
    print(f"{path}: {'; '.join(note for note in notes if note)}")
    return taken


def _open_results(
    arguments: argparse.Namespace, stored: Stored | None, taken: Sequence[Result], opened: contextlib.ExitStack
) -> tuple[str, RawIOBase | None]:
    """Open what will be written, before anything runs; whatever is in it already stays."""
    from proofs import results

    path = arguments.json or arguments.resume
    if arguments.junit:
        if path and os.path.realpath(arguments.junit) == os.path.realpath(path):
            raise UsageError(f"{path}: named for results and for JUnit XML")
        with file_errors(arguments.junit), open(arguments.junit, "ab"):
            pass
    if not path:
        return "", None
    with file_errors(path):
        going_on = arguments.resume and os.path.realpath(path) == os.path.realpath(arguments.resume)
        if going_on and stored and stored.cut_short:
            os.truncate(path, stored.intact)
        elif not going_on and os.path.isfile(path) and os.path.getsize(path):
            raise UsageError(f"{path}: already there; go on with it by --resume, or remove it")
        file = opened.enter_context(open(path, "ab", buffering=0))  # noqa: SIM115 (`opened` closes it)
        for result in [] if going_on else taken:
            results.append(file, result)
    return path, file


def _results(tasks: Sequence[Task], arguments: argparse.Namespace) -> Generator[Result, None, None]:
    from proofs import runner

    if not arguments.dask:
        yield from runner.run_on_this_machine(tasks, arguments.jobs or cores())
        return
    try:
        yield from runner.run_on_dask(tasks, arguments.dask)
    except ModuleNotFoundError as error:
        raise UsageError(f"--dask needs {error.name}: pip install 'refimpl[dask]'") from None
    except ConnectionError as error:
        raise UsageError(str(error)) from None


def _print_line(result: Result, count: int, tasks: Sequence[Task]) -> None:
    """What became of a claim, in a line that fits the terminal if there is one; in full if it does not hold."""
    from proofs.results import explanation

    digits, width = len(str(len(tasks))), max(len(task.header["claim"]) for task in tasks)
    counter = f"[{count:{digits}d}/{len(tasks)}]"
    rest = f"{result['claim']:<{width}}  {result['method']:<11}  {result['seconds']:7.2f} s  "
    text = " ".join(explanation(result).split())
    room = shutil.get_terminal_size().columns - len(f"{counter} {'':8} {rest}")
    if is_terminal() and len(text) > room:
        text = text[: max(room - 1, 0)] + "…"
    print(f"{counter} {_coloured_status(result['status'])} {rest}{text}", flush=True)


def _print_summary(done: Sequence[Result], left_out: int) -> None:
    """Tables by paper and by method, the controls, and what does not hold."""
    from proofs.ledger import METHODS
    from proofs.results import HOLDING, STATUSES, explanation

    for field, values in (("paper", dict.fromkeys(result["paper"] for result in done)), ("method", METHODS)):
        seen = [status for status in STATUSES if any(result["status"] == status for result in done)]
        rows = [(field, "claims", *seen, "seconds")]
        for value in values:
            of_value = [result for result in done if result[field] == value]  # type: ignore[literal-required]
            statuses = Counter(result["status"] for result in of_value)
            seconds = sum(result["seconds"] for result in of_value)
            rows.append(
                (value, str(len(of_value)), *(str(statuses[status] or "") for status in seen), f"{seconds:.1f}")
            )
        print("\n" + table([row for row in rows if row[1] != "0"], right=" ".join(rows[0][1:])))
    controls = [control for result in done for control in result["control"]["controls"]]
    failing = sum(control["fails"] for control in controls)
    print(
        f"\ncontrols: {failing} of {len(controls)} fail, "
        + ("as they must" if failing == len(controls) else "and every one must")
    )
    wrong = [result for result in done if result["status"] not in HOLDING]
    for result in wrong:
        first = explanation(result).strip().partition("\n")[0]
        print(wrapped(f"{result['claim']}: {first}", f"{_coloured_status(result['status'])} ", 9))
    print(
        f"{len(done) - len(wrong)} of {len(done)} claims hold"
        + (f"; {left_out} left out, which --full runs" if left_out else "")
    )


def _coloured_status(status: str) -> str:
    colour = {"proved": "green", "verified": "green", "erratum": "yellow", "skipped": "yellow"}.get(status, "red")
    return coloured(f"{status:<8}", colour)


def _go_on(arguments: argparse.Namespace, path: str) -> str:
    """How to resume this run."""
    if not path:
        return "nothing is kept without --json FILE"
    command = ["refimpl", "check", *arguments.names, *(["--full"] if arguments.full else [])]
    command += ["-j", str(arguments.jobs)] if arguments.jobs else []
    for option in ("method", "dask", "junit", "seed"):
        if value := getattr(arguments, option):
            command += [f"--{option}", str(value)]
    return f"go on with: {shlex.join([*command, '--resume', path])}"


def _positive(text: str) -> int:
    return _integer(text, 1)


def _natural(text: str) -> int:
    return _integer(text, 0)


def _integer(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected an integer >= {least}, got {text!r}")
    return int(text)
