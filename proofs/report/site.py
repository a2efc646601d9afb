"""The pages: a front page, one for each paper, the graph of claims, and the sources they link to."""

import importlib.resources
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import proofs
import refimpl
from proofs import ledger
from proofs.ledger import METHODS, Claim, Figure, FigureDeclaration, format_value
from proofs.report import draw, graph
from proofs.report.mathematics import document, inline, mathml
from proofs.report.source import listing, parts, shown
from proofs.results import HOLDING, STATUSES, Result
from refimpl.catalogue import Paper

NOT_RUN = "not run"


def build(
    papers: Sequence[Paper],
    results: Mapping[str, Result],
    directory: Path,
    *,
    seed: int = 0,
    full: bool = False,
    jobs: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Write the site.

    Parameters
    ----------
    papers : what it covers, in order.
    results : of the claims, by id; a claim without one is shown as not run.
    directory : where to write; created if need be.
    seed : of the figures' random numbers.
    full : draw figures that take long, too.
    jobs : processes that compute figures.
    progress : called with a line for each page and figure.

    Raises
    ------
    ValueError
        If a text holds LaTeX that does not convert.
    OSError
        If a file cannot be written.
    """
    site = _Site(papers, results, directory)
    drawn = site.figures(seed, full, jobs, progress)
    site.sources()
    for paper in papers:
        site.paper(paper, drawn)
        progress(f"papers/{paper.slug}.html")
    site.graph()
    site.front()
    progress("index.html")


class _Site:
    """What all pages share."""

    def __init__(self, papers: Sequence[Paper], results: Mapping[str, Result], directory: Path) -> None:
        self.papers, self.results, self.directory = papers, results, directory
        self.claims = {paper.slug: ledger.claims([paper]) for paper in papers}
        assets = importlib.resources.files("proofs.report") / "assets"
        self.templates = jinja2.Environment(
            loader=jinja2.FunctionLoader(lambda name: (assets / name).read_text(encoding="utf-8")),
            autoescape=True,
            trim_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        for name in ("style.css", "filter.js"):
            self.write(name, (assets / name).read_text(encoding="utf-8"))

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def page(
        self, name: str, template: str, title: str, outline: Iterable[tuple[str, str]] = (), **values: Any
    ) -> None:
        root = "../" * name.count("/")
        text = self.templates.get_template(template).render(
            title=title, root=root, outline=list(outline), footer=_provenance(self.results.values()), **values
        )
        self.write(name, text)

    def status(self, one: Claim) -> str:
        result = self.results.get(one.id)
        return result["status"] if result else NOT_RUN

    def every_claim(self) -> list[Claim]:
        return [one for paper in self.papers for one in self.claims[paper.slug]]

    def statuses(self, claims: Iterable[Claim]) -> dict[str, int]:
        count = Counter(map(self.status, claims))
        return {status: count[status] for status in (*STATUSES, NOT_RUN) if count[status]}

    def figures(self, seed: int, full: bool, jobs: int, progress: Callable[[str], None]) -> set[str]:
        """Compute, draw and store the figures; the ids of those that were drawn."""
        wanted = [one for one in ledger.figures(self.papers) if full or one.cost == "quick"]
        if not wanted:
            return set()
        with ProcessPoolExecutor(min(jobs, len(wanted))) as pool:
            computed = pool.map(_compute, [(one.id, _paper_of(one, self.papers), seed) for one in wanted])
            for one, figure in zip(wanted, computed, strict=True):
                name = one.id.replace("/", "-")
                self.write(f"figures/{name}.svg", draw.svg(figure))
                self.write(f"figures/{name}.csv", draw.data(figure))
                progress(f"figures/{name}.svg")
        return {one.id for one in wanted}

    def sources(self) -> None:
        """A page for each source file that another page links to."""
        paths = {part.path for paper in self.papers for part in parts(paper)}
        paths |= {shown(one.function.__code__.co_filename) for one in self.every_claim()}
        roots = {Path(str(package.__file__)).parent.parent for package in (refimpl, proofs)}
        for path in sorted(paths):
            (file,) = {root / path for root in roots if (root / path).exists()}
            self.page(f"source/{_page_of(path)}", "source.html", path, path=path, code=Markup(listing(file)))

    def paper(self, paper: Paper, drawn: set[str]) -> None:
        found = parts(paper)
        declared = ledger.figures([paper])
        outline = [("constructions", "Constructions"), ("claims", "Claims")] + [("figures", "Figures")] * bool(declared)
        self.page(
            f"papers/{paper.slug}.html",
            "paper.html",
            f"{paper.title} - refimpl",
            outline,
            paper=paper,
            statuses=self.statuses(self.claims[paper.slug]),
            # The docstring begins with the title and the authors, which the page has in its heading.
            introduction=Markup(document(found[0].docstring.split("\n\n", 2)[-1])),
            parts=[
                {
                    "name": part.name,
                    "page": _page_of(part.path),
                    "text": Markup(document(part.docstring)) if index else "",
                    "constructions": [
                        one._asdict()
                        | {
                            "text": Markup(document(one.docstring)),
                            "code": Markup(one.code),
                            "page": _page_of(one.path),
                        }
                        for one in part.constructions
                    ],
                }
                for index, part in enumerate(found)
                if part.constructions
            ],
            claims=[self._claim(one) for one in self.claims[paper.slug]],
            figures=[_figure(one, one.id in drawn) for one in declared],
        )

    def _claim(self, one: Claim) -> dict[str, Any]:
        code = one.function.__code__
        result: dict[str, Any] | None = dict(self.results[one.id]) if one.id in self.results else None
        if result:
            result["error"] = result.get("error", "")
            result["checks"] = [check | {"shown": format_value(check["measured"])} for check in result["checks"]]
        try:
            statement = mathml(one.statement, display=True)
        except ValueError as error:
            raise ValueError(f"{one.id}: {error}") from error
        return {
            "id": one.id,
            "label": one.label,
            "title": Markup(inline(one.title)),
            "status": self.status(one),
            "statement": Markup(statement),
            "erratum": Markup(inline(one.erratum)) if one.erratum else "",
            "source": one.source,
            "method": one.method,
            "scope": one.scope,
            "cost": one.cost,
            "controls": [control.description for control in one.controls],
            "result": result,
            "uses": [(used, f"{used.partition('/')[0]}.html#{used.partition('/')[2]}") for used in one.uses],
            "path": shown(code.co_filename),
            "page": _page_of(shown(code.co_filename)),
            "line": code.co_firstlineno,
        }

    def graph(self) -> None:
        status = {one.id: self.status(one) for one in self.every_claim()}
        area_of = {one.id: paper.area for paper in self.papers for one in self.claims[paper.slug]}
        areas = {
            area: Markup(
                graph.svg(
                    {paper.title: self.claims[paper.slug] for paper in self.papers if paper.area == area},
                    status,
                    f"Claims of the area {area} and what they build on",
                )
            )
            for area in dict.fromkeys(paper.area for paper in self.papers)
        }
        across = [
            (one.id, used)
            for one in self.every_claim()
            for used in one.uses
            if area_of.get(used, area_of[one.id]) != area_of[one.id]
        ]
        shown_statuses = self.statuses(self.every_claim())
        self.page(
            "graph.html", "graph.html", "Dependencies - refimpl", areas=areas, across=across, statuses=shown_statuses
        )

    def front(self) -> None:
        every = self.every_claim()
        controls = [c for one in every if one.id in self.results for c in self.results[one.id]["control"]["controls"]]
        areas: dict[str, list[dict[str, Any]]] = {}
        for paper in self.papers:
            claims = self.claims[paper.slug]
            methods = Counter(one.method for one in claims)
            row = {"paper": paper, "methods": methods, "statuses": self.statuses(claims)}
            areas.setdefault(paper.area, []).append(row)
        area_of = {paper.slug: paper.area for paper in self.papers}
        self.page(
            "index.html",
            "index.html",
            "refimpl: papers with their claims machine-checked",
            [("papers", "Papers"), ("claims", "Claims")],
            papers=self.papers,
            areas=areas,
            methods=METHODS,
            environment=_provenance(self.results.values()),
            filters={
                "area": list(areas),
                "method": [method for method in METHODS if any(one.method == method for one in every)],
                "status": list(self.statuses(every)),
            },
            totals={
                "claims": len(every),
                "hold": sum(self.status(one) in HOLDING for one in every),
                "errata": sum(self.status(one) == "erratum" for one in every),
                "controls": len(controls),
                "controls_failing": sum(control["fails"] for control in controls),
                "not_run": sum(self.status(one) == NOT_RUN for one in every),
            },
            claims=[
                {
                    "area": area_of[one.paper],
                    "paper": one.paper,
                    "label": one.label,
                    "title": Markup(inline(one.title)),
                    "method": one.method,
                    "status": self.status(one),
                }
                for one in every
            ],
        )


def _page_of(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".") + ".html"


def _figure(one: FigureDeclaration, is_drawn: bool) -> dict[str, Any]:
    return {
        "label": one.id.partition("/")[2],
        "file": one.id.replace("/", "-") if is_drawn else "",
        "title": one.title,
        "alt": one.caption.replace("$", ""),
        "caption": Markup(inline(one.caption)),
        "answers_to": one.answers_to,
    }


def _paper_of(one: FigureDeclaration, papers: Sequence[Paper]) -> Paper:
    return next(paper for paper in papers if paper.slug == one.id.partition("/")[0])


def _compute(job: tuple[str, Paper, int]) -> Figure:
    """The data of a figure, in a process of its own."""
    id, paper, seed = job
    return next(one for one in ledger.figures([paper]) if one.id == id).data(seed)


def _provenance(results: Iterable[Result]) -> str:
    """Where and when the results come from: libraries, seed, and the commit of these sources."""
    environments = sorted({f"{one['environment']}; seed {one['seed']}" for one in results})
    return "; ".join([*(environments or ["no results"]), _commit()])


@cache
def _commit() -> str:
    here = os.path.dirname(str(refimpl.__file__))
    try:
        found = subprocess.run(
            ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return f"refimpl {refimpl.__version__}"
    return f"refimpl {refimpl.__version__}, commit {found.stdout.strip()}"
