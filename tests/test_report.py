"""The site: what its texts become, that its links lead somewhere, and how it behaves in a browser."""

import csv
import html.parser
import io
import re
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proofs import ledger, results, runner
from proofs.ledger import Figure, Matrix, Series
from proofs.report import draw, graph, site
from proofs.report.mathematics import document, inline, mathml
from proofs.report.source import parts
from refimpl.catalogue import PAPERS, Paper
from refimpl.cli import main

(FLAGSHIP,) = (paper for paper in PAPERS if paper.slug == "linear_attention")
HOSTILE = "<script>document.title='owned'</script>"


def result_of(claim: str) -> results.Result:
    (one,) = (one for one in ledger.claims([FLAGSHIP]) if one.id == claim)
    return runner.decide(runner.task(one, FLAGSHIP))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of one paper, of which some claims ran and one has a hostile result."""
    directory = tmp_path_factory.mktemp("site")
    found = {id: result_of(id) for id in ("linear_attention/LA1", "linear_attention/LA3")}
    hostile = result_of("linear_attention/LA5")
    hostile["checks"][0]["quantity"] = hostile["checks"][0]["measured"] = HOSTILE
    hostile["control"]["controls"][0]["measured"] = HOSTILE
    hostile |= {"status": "error", "error": HOSTILE, "environment": HOSTILE}
    site.build([FLAGSHIP], found | {"linear_attention/LA5": hostile}, directory, jobs=2)
    return directory


class Page(html.parser.HTMLParser):
    """The links, anchors, images and visible text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.scripts: list[str | None] = []
        self.math = 0
        self.text: list[str] = []
        self._inside: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if "id" in found:
            self.ids.append(str(found["id"]))
        for name in ("href", "src"):
            if name in found:
                self.links.append(str(found[name]))
        if tag == "img":
            self.images.append(found)
        if tag == "script":
            self.scripts.append(found.get("src"))
        self.math += tag == "math"
        if tag not in ("img", "meta", "link", "br"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"math", "code", "pre", "script"} & set(self._inside):
            self.text.append(data)


@pytest.fixture(scope="module")
def pages(built: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in built.rglob("*.html")}


# --- mathematics ---


def test_latex_becomes_mathml_with_its_letters() -> None:
    found = mathml(r"\mathbb E\lVert x\rVert\le\mathcal N\operatorname{tr}\mathrm{softmax}")
    assert "𝔼" in found
    assert "𝒩" in found
    assert '<mi mathvariant="normal">softmax</mi>' in found
    assert "≤" in found


def test_markup_in_latex_is_text() -> None:
    element = re.sub(r'alttext="[^"]*"', "", mathml("a<b & <script>"))
    assert "<script" not in element
    assert "&lt;" in element


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.slug)
def test_every_text_of_a_paper_converts(paper: Paper) -> None:
    claims, figures, found = ledger.claims([paper]), ledger.figures([paper]), parts(paper)
    pieces = [mathml(one.statement, display=True) for one in claims]
    pieces += [inline(text) for one in claims for text in (one.title, one.erratum or "")]
    pieces += [text for one in claims for text in (one.source, one.scope)]  # shown as they are, in a terminal too
    pieces += [inline(text) for one in figures for text in (one.title, one.caption, one.answers_to)]
    pieces += [document(one.docstring) for part in found for one in (part, *part.constructions)]
    for piece in pieces:
        text = re.sub(r"<math.*?</math>|<code.*?</code>|<pre.*?</pre>", "", piece, flags=re.DOTALL)
        assert not re.search(r"\\[a-zA-Z]+|\$[^$]+\$", text), text


@pytest.mark.parametrize("latex", [r"\frac{1}{", r"\nosuchcommand x"])
def test_latex_that_does_not_convert_is_refused(latex: str) -> None:
    with pytest.raises(ValueError, match="LaTeX that does not convert"):
        mathml(latex)


def test_prose_is_escaped_and_marked_up() -> None:
    assert inline("a < b, ``x.y``, :func:`refimpl.a.b` and *so*") == (
        "a &lt; b, <code>x.y</code>, <code>b</code> and <em>so</em>"
    )
    assert inline(HOSTILE) == "&lt;script&gt;document.title=&#x27;owned&#x27;&lt;/script&gt;"
    assert inline("`n` is $n$") == f"<code>n</code> is {mathml('n')}"


def test_a_docstring_has_its_sections_lists_tables_and_displays() -> None:
    found = document(
        "Intro $x$.\n\n$$a\n=b.$$\n\n- one\n  more\n- two\n\n"
        "====  ====\nA     B\n====  ====\n$x$   ``y``\n====  ====\n\n"
        "Parameters\n----------\nx : array\n    What it is.\n\nSource: Eq. 1."
    )
    assert '<div class="display"><math' in found
    assert "<li>one more</li><li>two</li>" in found
    assert "<th>A</th><th>B</th>" in found
    assert "<dt><code>x</code> array</dt>" in found
    assert "<p>Source: Eq. 1.</p>" in found


# --- figures and graph ---


def test_a_figure_is_drawn_and_its_numbers_stored() -> None:
    figure = Figure(
        (Series("one", [1.0, 2.0], [3.0, 4.0], spread=[0.1, 0.2]), Series("two", [1.0], [5.0], style="points")),
        x_label="steps $k$",
        y_label="loss",
        y_scale="log",
    )
    assert draw.svg(figure) == draw.svg(figure)
    assert draw.svg(figure).count("<svg") == 1
    rows = list(csv.reader(io.StringIO(draw.data(figure))))
    assert rows == [
        ["part", "x", "y", "spread"],
        ["one", "1.0", "3.0", "0.1"],
        ["one", "2.0", "4.0", "0.2"],
        ["two", "1.0", "5.0", ""],
    ]


def test_matrices_stand_side_by_side() -> None:
    figure = Figure((Matrix("a", np.eye(2), "row", "column"), Matrix("b", -np.eye(2))))
    assert draw.svg(figure).count("<image") >= 2
    assert list(csv.reader(io.StringIO(draw.data(figure))))[1] == ["a", "0", "0", "1.0"]


def test_a_claim_stands_below_what_it_builds_on() -> None:
    claims = ledger.claims([FLAGSHIP])
    level = graph.levels(claims)
    assert all(level[used] < level[one.id] for one in claims for used in one.uses)
    assert graph.svg({"<b>": claims}, {}, "<i>").count("<rect") == len(claims)
    assert "<b>" not in graph.svg({"<b>": claims}, {}, "<i>")


def test_the_graph_is_laid_out_for_five_hundred_claims() -> None:
    claims = ledger.claims([FLAGSHIP])
    papers = {f"paper {index}": claims for index in range(1 + 500 // len(claims))}
    found = graph.svg(papers, {}, "many")
    assert found.count("<rect") >= 500


# --- the site ---


def test_every_link_leads_somewhere(built: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        for link in page.links:
            if link == "data:,":
                continue
            target, anchor = urllib.parse.urldefrag(link)
            assert not urllib.parse.urlsplit(target).scheme, f"{path.name} reaches outside: {link}"
            found = (path.parent / target).resolve() if target else path
            assert found.is_relative_to(built.resolve()) or found == path
            assert found.exists(), f"{path.name}: no {link}"
            if anchor and found.suffix == ".html":
                assert anchor in pages[built / found.relative_to(built.resolve())].ids, f"{path.name}: no {link}"


def test_ids_are_unique(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), path.name


def test_mathematics_is_mathml_and_not_raw_tex(built: Path, pages: dict[Path, Page]) -> None:
    assert pages[built / "papers/linear_attention.html"].math > 100
    for path, page in pages.items():
        for text in page.text:
            assert not re.search(r"\\[a-zA-Z]+|\$[^$]+\$", text), f"{path.name}: {text:.80}"


def test_every_construction_and_claim_is_there(built: Path, pages: dict[Path, Page]) -> None:
    ids = pages[built / "papers/linear_attention.html"].ids
    for one in ledger.claims([FLAGSHIP]):
        assert one.label in ids
    for name in ("gradient_descent_weights", "gd_plus_plus_predict", "copy_layer_weights", "kernel_gd_predict"):
        assert name in ids


def test_figures_have_their_data_and_an_alternative_text(built: Path, pages: dict[Path, Page]) -> None:
    images = [image for page in pages.values() for image in page.images]
    assert images
    assert all(len(str(image["alt"])) > 40 for image in images)
    for path in (built / "figures").glob("*.svg"):
        assert path.with_suffix(".csv").stat().st_size > 100


def test_hostile_text_is_escaped(built: Path, pages: dict[Path, Page]) -> None:
    assert all(src == "filter.js" for page in pages.values() for src in page.scripts)
    assert "&lt;script&gt;document.title=" in (built / "papers/linear_attention.html").read_text()


def contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_aa_in_light_and_dark(built: Path) -> None:
    """WCAG 2.2, 1.4.3: at least 4.5 to 1."""
    style = (built / "style.css").read_text()
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)]
    tokens = re.findall(r"light-dark\((#\w{6}), (#\w{6})\)", style)
    assert len(schemes) == 2
    assert len(tokens) >= 5
    for index, scheme in enumerate(schemes):
        backgrounds = (scheme["page"], scheme["panel"])
        texts = [colour for name, colour in scheme.items() if name not in ("page", "panel", "line")]
        for colour in [*texts, *(token[index] for token in tokens)]:
            assert all(contrast(colour, background) >= 4.5 for background in backgrounds), (index, colour)


# --- the command ---


def write_results(path: Path, found: list[results.Result]) -> Path:
    with path.open("ab", buffering=0) as file:
        for one in found:
            results.append(file, one)
    return path


def test_the_command_builds_from_a_results_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = write_results(tmp_path / "r.jsonl", [result_of("linear_attention/LA1")])
    out = tmp_path / "site"
    assert main(["report", "linear_attention", "--results", str(stored), "--out", str(out)]) == 0
    assert (out / "index.html").exists()
    printed = capsys.readouterr()
    assert "1 paper" in printed.out
    assert "index.html" in printed.err


@pytest.mark.parametrize("case", ["unknown claim", "missing field", "no file", "unwritable", "unknown paper"])
def test_bad_input_is_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = result_of("linear_attention/LA1")
    name, out = "linear_attention", str(tmp_path / "site")
    path = str(tmp_path / "r.jsonl")
    if case == "unknown claim":
        write_results(Path(path), [result | {"claim": HOSTILE}])  # type: ignore[list-item]
    elif case == "missing field":
        write_results(Path(path), [{k: v for k, v in result.items() if k != "status"}])  # type: ignore[list-item]
    else:
        if case != "no file":
            write_results(Path(path), [result])
        if case == "unwritable":
            (tmp_path / "site").write_text("a file where the folder should be")
        if case == "unknown paper":
            name = "linear_atention"
    assert main(["report", name, "--results", path, "--out", out]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert "Traceback" not in error


# --- in a browser ---


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("needs chromium and chromedriver on the PATH")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for switch in ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"):
        options.add_argument(f"--{switch}")
    for switch in ("disable-background-networking", "disable-component-update", "disable-dev-shm-usage"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield found
    found.quit()


def narrow(browser: Any, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_pages_load_without_an_error_and_fit_a_phone(built: Path, browser: Any) -> None:
    for width in (360, 1280):
        narrow(browser, width)
        for path in built.rglob("*.html"):
            browser.get(path.as_uri())
            assert not browser.get_log("browser"), path.name
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, path.name
            assert browser.title != "owned"


def test_mathematics_is_laid_out(built: Path, browser: Any) -> None:
    browser.get((built / "papers/linear_attention.html").as_uri())
    heights = browser.execute_script(
        "return [...document.querySelectorAll('math[display=block]')].map(m => m.getBoundingClientRect().height)"
    )
    assert len(heights) > 20
    assert min(heights) > 8


def test_the_filter_shows_what_fits(built: Path, browser: Any) -> None:
    narrow(browser, 1280)
    browser.get((built / "index.html").as_uri())
    script = """
        const select = document.querySelector(`select[name=${arguments[0]}]`);
        select.value = arguments[1]; select.dispatchEvent(new Event('change', {bubbles: true}));
        const rows = [...document.querySelectorAll('table.claims tbody tr')].filter(row => row.offsetParent);
        return [rows.length, rows.every(row => row.dataset[arguments[0]] === arguments[1]),
                document.querySelector('output').textContent];
    """
    total = len(ledger.claims([FLAGSHIP]))
    shown, fit, text = browser.execute_script(script, "status", "proved")
    assert (shown, fit, text) == (2, True, f"2 of {total} claims")
    browser.execute_script(script, "status", "")
    shown, fit, text = browser.execute_script(script, "method", "property")
    assert fit
    assert 0 < shown < total


def test_keyboard_alone_reaches_the_content(built: Path, browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get((built / "index.html").as_uri())
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to content"
    seen = set()
    for _ in range(12):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        seen.add(browser.switch_to.active_element.tag_name)
    assert {"a", "select"} <= seen
