"""What the subcommands share: selecting papers and claims, files, and plain-text layout."""

from __future__ import annotations

import contextlib
import difflib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refimpl.catalogue import PAPERS, Paper

if TYPE_CHECKING:
    from proofs.ledger import Claim
    from proofs.results import Stored


class UsageError(Exception):
    """What the user can put right: printed as one line, exit status 2."""


def select_papers(names: Sequence[str]) -> list[Paper]:
    """The papers with these slugs, arXiv ids or areas, or all if there is no name, in the catalogue's order."""
    chosen: set[Paper] = set()
    for name in names:
        if not (found := _papers(name)):
            raise UsageError(f"no paper or area {name!r}; {_did_you_mean(name, _known_names())}")
        chosen.update(found)
    return [paper for paper in PAPERS if paper in chosen or not names]


def select_claims(names: Sequence[str]) -> tuple[list[Claim], set[str]]:
    """The claims of these papers, areas and ids, in the ledger's order; and the ids that were named themselves."""
    from proofs import ledger

    whole = {paper for name in names for paper in _papers(name)} if names else set(PAPERS)
    ids = {name for name in names if not _papers(name)}
    slugs = {one.slug for one in whole} | {id.partition("/")[0] for id in ids}
    claims = ledger.claims([paper for paper in PAPERS if paper.slug in slugs])
    for name in names:
        if name in ids and name not in {one.id for one in claims}:
            every = ledger.claims(PAPERS)
            same = [one.id for one in every if name.lower() in (one.id.lower(), one.label.lower())]
            hint = _did_you_mean(name, [*_known_names(), *(one.id for one in every)], same)
            raise UsageError(f"no paper, area or claim {name!r}; {hint}")
    of_whole = {paper.slug for paper in whole}
    return [one for one in claims if one.paper in of_whole or one.id in ids], ids


def _papers(name: str) -> list[Paper]:
    arxiv = name.lower().removeprefix("arxiv:").partition("v")[0]
    return [paper for paper in PAPERS if name in (paper.slug, paper.area) or arxiv == paper.arxiv]


def _known_names() -> list[str]:
    return [name for paper in PAPERS for name in (paper.slug, paper.area, paper.arxiv)]


def _did_you_mean(name: str, known: Iterable[str], same: Sequence[str] = ()) -> str:
    close = list(same) or difflib.get_close_matches(name, dict.fromkeys(known), n=3)
    return f"did you mean {' or '.join(close[:3])}?" if close else "`refimpl list` names them all"


def read_results(path: str) -> Stored:
    """The results in a file."""
    from proofs import results

    with file_errors(path):
        try:
            return results.read(path)
        except ValueError as error:
            raise UsageError(str(error)) from None


@contextlib.contextmanager
def file_errors(path: str) -> Iterator[None]:
    """Turn a failure to read or write this file into one line."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None


def table(rows: Sequence[Sequence[str]], right: str = "") -> str:
    """Rows in aligned columns; those whose heading is in `right`, or is empty, are flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    flush = [heading in right.split() for heading in rows[0]]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, flush, strict=True)
        ).rstrip()
        for row in rows
    )


def counted(number: int, noun: str) -> str:
    """The number and the noun in its number."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def wrapped(text: str, first: str = "", indent: int = 0) -> str:
    """The text as a paragraph no wider than a page or the terminal, led by `first` and indented."""
    return textwrap.fill(
        " ".join(text.split()),
        page_width(),
        initial_indent=first.ljust(indent),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def page_width() -> int:
    """What fits the terminal and is good to read."""
    return min(100, shutil.get_terminal_size((100, 24)).columns)


def is_terminal() -> bool:
    """Whether somebody watches standard output, rather than a file or a program."""
    return sys.stdout.isatty()


def coloured(text: str, colour: str) -> str:
    """The text in green, yellow or red, where a terminal shows it and the user has not asked for none."""
    if not is_terminal() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{ {'red': 31, 'green': 32, 'yellow': 33}[colour] }m{text}\033[0m"


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def relative(path: str) -> str:
    """The path as seen from the working directory, where it lies below."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
