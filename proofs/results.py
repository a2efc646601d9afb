"""Results of claims: JSON Lines that an interrupted run leaves whole, and JUnit XML.

A results file holds one :class:`Result` a line, a strict JSON object in UTF-8, in the order in which claims ended.
Where a claim has several lines the last one counts. The last line may be cut short, by ``kill -9`` or a full disk;
everything before it is intact. Numbers that JSON lacks are the strings ``"nan"``, ``"inf"`` and ``"-inf"``. `FORMAT` is
raised whenever a field changes.
"""

import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from io import RawIOBase
from pathlib import Path
from typing import (
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    TypedDict,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import numpy as np

from proofs.ledger import Cost, Method

FORMAT = 1

Status = Literal["proved", "verified", "erratum", "failed", "vacuous", "error", "skipped"]
STATUSES: tuple[Status, ...] = get_args(Status)
HOLDING: tuple[Status, ...] = ("proved", "verified", "erratum")


class CheckResult(TypedDict):
    """One measured quantity against its criterion; `text` is both in one line."""

    quantity: str
    measured: Any
    criterion: str
    holds: bool
    text: str


class OneControl(TypedDict):
    """A negative control: what was broken, whether the check failed on it as it must, and the checks that decided."""

    description: str
    fails: bool
    measured: str


class Controls(TypedDict):
    """All negative controls of a claim: whether every one fails, and what the first measured."""

    fails: bool
    measured: str
    controls: list[OneControl]


class Result(TypedDict):
    """What became of a claim.

    | field | content |
    |---|---|
    | ``format`` | 1, the version of this table |
    | ``claim``, ``title``, ``paper``, ``area``, ``arxiv``, ``source`` | ``paper/LABEL``, the claim in words, the paper's slug, area and arXiv id, the theorem, equation or figure |
    | ``method``, ``scope``, ``cost`` | ``symbolic``, ``property``, ``statistical`` or ``experiment``; what was covered; ``quick`` or ``full`` |
    | ``seed``, ``code``, ``environment`` | the run's seed; a digest of the sources that the claim may depend on; the versions of Python and its libraries: a result is good for as long as all three are the same |
    | ``status`` | ``proved`` (symbolic, and holds), ``verified`` (holds), ``erratum`` (the paper's statement is false, the corrected one holds), ``failed``, ``vacuous`` (holds, but so does a control), ``error`` (an exception), ``skipped`` (an extra is missing) |
    | ``measured``, ``criterion`` | all that was measured, and what was required of it |
    | ``checks`` | each as ``{"quantity", "measured", "criterion", "holds", "text"}`` |
    | ``control`` | ``{"fails", "measured", "controls": [{"description", "fails", "measured"}]}``: whether every negative control fails, as it must |
    | ``seconds`` | wall time of the claim and its controls |
    | ``error``, ``traceback`` | of ``error`` and ``skipped``: what went wrong, and where |
    """  # noqa: E501 (the table is copied into the README as it stands)

    format: int
    claim: str
    title: str
    paper: str
    area: str
    arxiv: str
    source: str
    method: Method
    scope: str
    cost: Cost
    seed: int
    code: str
    environment: str
    status: Status
    measured: str
    criterion: str
    checks: list[CheckResult]
    control: Controls
    seconds: float
    error: NotRequired[str]
    traceback: NotRequired[str]


class Stored(NamedTuple):
    """The results in a file, how many bytes of it hold them, and whether a line that was cut short follows."""

    results: list[Result]
    intact: int
    cut_short: bool


def plain(value: Any) -> Any:
    """The value as strict JSON has it: numbers and lists of them as they are, anything else as it prints."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else str(float(value))
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def append(file: RawIOBase, result: Result) -> None:
    """Write a result as one line to a file without a buffer: whatever happens to this process then, it is there."""
    line = (json.dumps(result, allow_nan=False) + "\n").encode()
    while line:
        line = line[file.write(line) or 0 :]


def read(path: str | Path) -> Stored:
    """Read a results file; a last line that was cut short is left out.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If any other line is not a result of this format, naming the line and what is wrong with it.
    """
    content = Path(path).read_bytes()
    whole, newline, tail = content.rpartition(b"\n")
    start = b'{"format": '
    if not (tail.startswith(start) or start.startswith(tail)):
        raise ValueError(f"{path}: does not end in a result: {tail[:40]!r}")
    results = []
    for number, line in enumerate(whole.split(b"\n") if newline else [], 1):
        try:
            results.append(check_result(json.loads(line, parse_constant=_refuse)))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not a result: {error}") from error
    return Stored(results, len(content) - len(tail), bool(tail))


def latest(results: Iterable[Result]) -> dict[str, Result]:
    """The last result of each claim."""
    return {result["claim"]: result for result in results}


def check_result(value: Any) -> Any:
    """Return `value` if it is a :class:`Result` of this format.

    Raises
    ------
    ValueError
        If it is not, naming the field, what was expected and what came.
    """
    if isinstance(value, dict) and value.get("format", FORMAT) != FORMAT:
        raise ValueError(f"format {value['format']}, where this version reads and writes format {FORMAT}")
    _check_type("", value, Result)
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _check_type(name: str, value: Any, wanted: Any) -> None:
    """Check a parsed JSON value against an annotation of the TypedDicts above."""
    origin = get_origin(wanted)
    if wanted is Any:
        return
    if is_typeddict(wanted):
        if not isinstance(value, dict):
            raise ValueError(f"{name or 'line'}: expected an object, got {_short(value)}")
        fields, prefix = get_type_hints(wanted), f"{name}." if name else ""
        for field in fields:
            if field in wanted.__required_keys__ and field not in value:
                raise ValueError(f"{prefix}{field}: expected this field, got none")
        for field, content in value.items():
            if field not in fields:
                raise ValueError(f"{prefix}{field}: expected no such field")
            _check_type(f"{prefix}{field}", content, fields[field])
    elif origin is list:
        if not isinstance(value, list):
            raise ValueError(f"{name}: expected an array, got {_short(value)}")
        for index, entry in enumerate(value):
            _check_type(f"{name}[{index}]", entry, get_args(wanted)[0])
    elif origin is Literal:
        if value not in get_args(wanted):
            raise ValueError(f"{name}: expected one of {', '.join(get_args(wanted))}, got {_short(value)}")
    else:
        kinds = {float: (int, float)}.get(wanted, (wanted,))
        if type(value) not in kinds:
            raise ValueError(f"{name}: expected {wanted.__name__}, got {_short(value)}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def junit(results: Iterable[Result]) -> bytes:
    """The results as JUnit XML: a suite a paper, a test case a claim."""
    root = ElementTree.Element("testsuites", name="refimpl")
    suites: dict[str, ElementTree.Element] = {}
    for result in results:
        paper = result["paper"]
        if paper not in suites:
            suites[paper] = ElementTree.SubElement(root, "testsuite", name=paper)
        case = ElementTree.SubElement(
            suites[paper],
            "testcase",
            classname=f"{result['area']}.{paper}",
            name=_legal(f"{result['claim'].split('/')[1]}: {result['title']}"),
            time=f"{result['seconds']:.3f}",
        )
        status = result["status"]
        if status not in HOLDING:
            kind = {"error": "error", "skipped": "skipped"}.get(status, "failure")
            outcome = ElementTree.SubElement(case, kind, message=_legal(f"{status}: {explanation(result)}"))
            if kind != "skipped":
                outcome.set("type", status)
            outcome.text = _legal(result.get("traceback", ""))
    for suite in (*suites.values(), root):
        suite.set("tests", str(len(suite.findall(".//testcase"))))
        for kind, plural in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            suite.set(plural, str(len(suite.findall(f".//{kind}"))))
        suite.set("time", f"{sum(float(case.get('time', 0)) for case in suite.iter('testcase')):.3f}")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def explanation(result: Result) -> str:
    """Why a claim does not hold, or what it measured against which criterion."""
    if "error" in result:
        return result["error"]
    if result["status"] == "vacuous":
        passing = [one for one in result["control"]["controls"] if not one["fails"]]
        return "; ".join(f"control passes: {one['description']}: {one['measured']}" for one in passing)
    decisive = [check for check in result["checks"] if not check["holds"]] or result["checks"]
    return "; ".join(check["text"] for check in decisive)


def _legal(text: str) -> str:
    """The text without the characters that XML cannot hold, not even escaped."""
    return "".join(
        c if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "?" for c in text
    )
