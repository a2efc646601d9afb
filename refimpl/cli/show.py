"""``refimpl show``: what a paper claims, how that is checked, and where the code is."""

from __future__ import annotations

import argparse
from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from refimpl.catalogue import PAPERS, Paper
from refimpl.cli.common import counted, read_results, relative, select_claims, wrapped

if TYPE_CHECKING:
    from proofs.ledger import Claim
    from proofs.results import Result


def add(commands: Any) -> None:
    """Add the parser."""
    parser = commands.add_parser("show", help="show what a paper claims, how that is checked, and where the code is")
    parser.add_argument("names", nargs="+", metavar="PAPER|CLAIM", help="slug, arXiv id, area or claim id")
    parser.add_argument("--results", metavar="FILE", help="add what became of each claim, from this results file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a paper at a time, each with its claims in order."""
    from proofs import results

    stored = results.latest(read_results(arguments.results).results) if arguments.results else {}
    claims, _ = select_claims(arguments.names)
    for paper in PAPERS:
        of_paper = [one for one in claims if one.paper == paper.slug]
        if of_paper:
            print(
                "\n\n".join([_heading(paper, of_paper), *(_claim(one, paper, stored.get(one.id)) for one in of_paper)])
            )
            print()
    return 0


def _heading(paper: Paper, claims: list[Claim]) -> str:
    methods = ", ".join(f"{count} {method}" for method, count in Counter(one.method for one in claims).items())
    lines = [
        paper.title,
        f"{paper.authors} ({paper.year}), arXiv {paper.arxiv}",
        f"{counted(len(claims), 'claim')}: {methods}",
        f"code in {_place_of_module(f'refimpl.{paper.area}.{paper.slug}')}",
    ]
    return "\n".join(map(wrapped, lines))


def _claim(one: Claim, paper: Paper, result: Result | None) -> str:
    fields = [
        ("source", one.source),
        ("method", f"{one.method}: {one.scope}"),
        ("cost", "full" if one.cost == "full" else ""),
        ("erratum", one.erratum),
        ("uses", ", ".join(one.uses)),
        ("needs", ", ".join(one.requires)),
        *([] if result and result["control"]["controls"] else [("control", c.description) for c in one.controls]),
        ("code", _place_of_claim(one)),
    ]
    if result:
        fields += _outcome(one, paper, result)
    lines = [wrapped(one.title, one.label, 6), wrapped(one.statement, indent=6)]
    lines += [wrapped(text, f"      {name}", 15) for name, text in fields if text]
    return "\n".join(lines)


def _outcome(one: Claim, paper: Paper, result: Result) -> list[tuple[str, str]]:
    from proofs import runner
    from proofs.results import explanation

    current = runner.is_current(result, runner.task(one, paper, result["seed"]))
    return [
        ("status", result["status"] + ("" if current else ", with other sources or libraries than these")),
        ("found", explanation(result)),
        *(
            ("control", f"{control['description']}: {'fails' if control['fails'] else 'PASSES'}, {control['measured']}")
            for control in result["control"]["controls"]
        ),
        ("seconds", f"{result['seconds']:.2f}"),
    ]


def _place_of_claim(one: Claim) -> str:
    code = one.function.__code__
    return f"{relative(code.co_filename)}:{code.co_firstlineno}"


def _place_of_module(name: str) -> str:
    """The file or the folder of a module, which is not imported for that."""
    spec = find_spec(name)
    return relative(str(spec.origin).removesuffix("__init__.py")) if spec else name
