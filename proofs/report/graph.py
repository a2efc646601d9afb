"""The dependencies between claims as SVG: a box a claim, coloured by status, above those that build on it."""

import html
from collections.abc import Mapping, Sequence

from proofs.ledger import Claim

BOX, GAP, ROW, HEAD, ACROSS = (86, 26), 10, 46, 30, 10


def levels(claims: Sequence[Claim]) -> dict[str, int]:
    """For each claim the length of the longest chain of these claims that it builds on."""
    by_id = {one.id: one for one in claims}
    found: dict[str, int] = {}

    def level(id: str) -> int:
        if id not in found:
            found[id] = 1 + max((level(used) for used in by_id[id].uses if used in by_id), default=-1)
        return found[id]

    return {id: level(id) for id in by_id}


def svg(papers: Mapping[str, Sequence[Claim]], status: Mapping[str, str], title: str) -> str:
    """The graph of an area: a band a paper, whose claims stand in rows by what they build on.

    Parameters
    ----------
    papers : the claims of each paper, by its title
    status : of each claim by id
    title : what the graph shows, for those who do not see it
    """
    place: dict[str, tuple[float, float]] = {}
    bands: list[tuple[str, float]] = []
    top = 0.0
    for heading, claims in papers.items():
        bands.append((heading, top))
        top += HEAD
        level = levels(claims)
        for depth in range(max(level.values(), default=-1) + 1):
            row = [one for one in claims if level[one.id] == depth]
            for start in range(0, len(row), ACROSS):
                for column, one in enumerate(row[start : start + ACROSS]):
                    place[one.id] = (column * (BOX[0] + GAP) + GAP, top)
                top += ROW
        top += GAP
    width = ACROSS * (BOX[0] + GAP) + GAP
    every = [one for claims in papers.values() for one in claims]
    edges = [_edge(place[used], place[one.id]) for one in every for used in one.uses if used in place]
    boxes = [_box(one, *place[one.id], status.get(one.id, "not run")) for one in every]
    heads = [f'<text class="band" x="{GAP}" y="{y + 19}">{html.escape(name)}</text>' for name, y in bands]
    return (
        f'<svg class="graph" viewBox="0 0 {width} {top:.0f}" width="{width}" height="{top:.0f}" role="group" '
        f'aria-label="{html.escape(title)}">{"".join(heads)}{"".join(edges)}{"".join(boxes)}</svg>'
    )


def _edge(used: tuple[float, float], by: tuple[float, float]) -> str:
    x0, y0, x1, y1 = used[0] + BOX[0] / 2, used[1] + BOX[1], by[0] + BOX[0] / 2, by[1]
    if y1 <= y0:  # within a row: an arc below it
        return f'<path class="edge" d="M{x0} {y0}C{x0} {y0 + 24} {x1} {y0 + 24} {x1} {by[1] + BOX[1]}"/>'
    bend = (y1 - y0) / 2
    return f'<path class="edge" d="M{x0} {y0}C{x0} {y0 + bend} {x1} {y1 - bend} {x1} {y1}"/>'


def _box(one: Claim, x: float, y: float, status: str) -> str:
    label = html.escape(f"{one.label}: {one.title} ({status})")
    mark = {"failed": "✗ ", "vacuous": "✗ ", "error": "✗ ", "erratum": "! "}.get(status, "")
    kind = status.replace(" ", "-")
    return (
        f'<a href="papers/{one.paper}.html#{one.label}" aria-label="{label}"><g class="node {kind}">'
        f'<title>{label}</title><rect x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="4"/>'
        f'<text x="{x + BOX[0] / 2}" y="{y + 17}">{mark}{one.label}</text></g></a>'
    )
