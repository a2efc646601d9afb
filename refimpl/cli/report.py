"""``refimpl report``: the ledger and the papers as a static site."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refimpl.catalogue import Paper
from refimpl.cli.common import UsageError, cores, file_errors, read_results, select_papers

if TYPE_CHECKING:
    from proofs.results import Result


def add(commands: Any) -> None:
    """Add the parser."""
    parser = commands.add_parser(
        "report",
        help="build a static site of the papers, their code, claims and figures",
        description="Build a static site of the papers, their code, claims and figures (extra `report`).",
    )
    parser.add_argument("names", nargs="*", metavar="AREA|PAPER", help="area, slug or arXiv id; all by default")
    parser.add_argument("--results", metavar="FILE", help="of a `check` run; computed if not given")
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write the site")
    parser.add_argument("--full", action="store_true", help="also figures that take long")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the figures' random numbers")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Select, read or compute the results, build."""
    try:
        from proofs.report import site
    except ModuleNotFoundError as error:
        raise UsageError(f"report needs {error.name}: pip install 'refimpl[report]'") from None
    start = time.perf_counter()
    papers = select_papers(arguments.names)
    with file_errors(arguments.out):
        Path(arguments.out).mkdir(parents=True, exist_ok=True)
        results = _stored(arguments.results, papers) if arguments.results else _computed(papers, arguments.seed)
        try:
            site.build(
                papers,
                results,
                Path(arguments.out),
                seed=arguments.seed,
                full=arguments.full,
                jobs=cores(),
                progress=lambda line: print(line, file=sys.stderr, flush=True),
            )
        except ValueError as error:
            raise UsageError(str(error)) from None
    print(f"{os.path.join(arguments.out, 'index.html')}: {len(papers)} papers, {time.perf_counter() - start:.1f} s")
    return 0


def _stored(path: str, papers: list[Paper]) -> dict[str, Result]:
    """The results in the file, all of claims that are in the ledger."""
    from proofs import ledger, results

    latest = results.latest(read_results(path).results)
    known = {one.id for one in ledger.claims()}
    if unknown := [id for id in latest if id not in known]:
        raise UsageError(f"{path}: no claim {unknown[0]!r} in the ledger")
    chosen = {paper.slug for paper in papers}
    return {id: result for id, result in latest.items() if result["paper"] in chosen}


def _computed(papers: list[Paper], seed: int) -> dict[str, Result]:
    from proofs import ledger, runner

    tasks = [runner.task(one, paper, seed) for paper in papers for one in ledger.claims([paper]) if one.cost == "quick"]
    found: dict[str, Result] = {}
    for result in runner.run_on_this_machine(tasks, cores()):
        found[result["claim"]] = result
        print(f"[{len(found)}/{len(tasks)}] {result['claim']} {result['status']}", file=sys.stderr, flush=True)
    return found
