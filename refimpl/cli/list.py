"""``refimpl list``: the papers, or their claims as JSON."""

import argparse
import json
from typing import Any

from refimpl.cli.common import select_papers, table


def add(commands: Any) -> None:
    """Add the parser."""
    parser = commands.add_parser("list", help="list the papers, or their claims as JSON")
    parser.add_argument("names", nargs="*", metavar="AREA|PAPER", help="area, slug or arXiv id (default: all)")
    parser.add_argument("--json", action="store_true", help="the claims, as a JSON array")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the catalogue, which needs nothing imported; or the claims, which needs the proofs."""
    papers = select_papers(arguments.names)
    if not arguments.json:
        heading = ("area", "paper", "arXiv", "year", "title")
        print(
            table([heading, *((paper.area, paper.slug, paper.arxiv, str(paper.year), paper.title) for paper in papers)])
        )
        return 0
    from proofs import ledger

    area = {paper.slug: paper.area for paper in papers}
    fields = ("title", "paper", "source", "method", "scope", "cost")
    listing = [
        {"claim": one.id, "area": area[one.paper]} | {field: getattr(one, field) for field in fields}
        for one in ledger.claims(papers)
    ]
    print(json.dumps(listing, indent=1))
    return 0
