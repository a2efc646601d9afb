"""What a claim is, what its evidence is, and the ledger of all claims.

A claim is a function whose keyword defaults are the shipped code under test. It returns :class:`Evidence`. Its negative
control is the *same function* with some of those keywords replaced by something broken, and must fail::

    @claim(
        "linear_attention/LA1",
        title="One layer is one gradient step",
        source="Proposition 1",
        statement=r"...",
        method="symbolic",
        scope="all sizes",
        control=Control("values carry -0.9 y", construct=weak_values),
    )
    def one_layer_is_one_step(construct=gradient_descent_weights) -> Evidence:
        ...

A claim that draws random numbers takes a first parameter ``rng``; the runner seeds it from the run's seed and the
claim's id, so that no claim has a seed of its own.
"""

import importlib
import importlib.util
import inspect
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from refimpl.catalogue import PAPERS, Paper

Entry = TypeVar("Entry")
Method = Literal["symbolic", "property", "statistical", "experiment"]
METHODS: tuple[Method, ...] = get_args(Method)
Cost = Literal["quick", "full"]

# The modules of optional extras that a claim may require, and the extra that has each.
EXTRAS = {"sklearn": "data", "safetensors": "vectors", "distributed": "dask", "jax": "bench", "torch": "bench"}


@dataclass(frozen=True)
class Check:
    """One measured quantity against its criterion; `digits` are those it takes to see on which side it lies."""

    quantity: str
    measured: Any
    criterion: str
    holds: bool
    digits: int = 3

    def __str__(self) -> str:
        return f"{self.quantity} {format_value(self.measured, self.digits)}".strip()


@dataclass(frozen=True)
class Evidence:
    """The checks that a claim made; it holds if there is at least one and every one holds."""

    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        return bool(self.checks) and all(check.holds for check in self.checks)

    @property
    def measured(self) -> str:
        return ", ".join(str(check) for check in self.checks)

    @property
    def criterion(self) -> str:
        return ", ".join(f"{check.quantity} {check.criterion}".strip() for check in self.checks)

    def __and__(self, other: "Evidence") -> "Evidence":
        return Evidence(self.checks + other.checks)


def format_value(value: Any, digits: int = 3) -> str:
    """A number at the few digits that a reader compares; anything else as it prints."""
    if isinstance(value, float | np.floating):
        return f"{value:.{digits}g}"
    if isinstance(value, list | tuple | np.ndarray):
        return "[" + " ".join(format_value(entry, digits) for entry in value) + "]"
    return str(value)


def digits_apart(*values: Any) -> int:
    """The fewest digits, from three, at which those of the values that differ also print differently."""
    different = len(set(values))
    return next((digits for digits in range(3, 17) if len({format_value(v, digits) for v in values}) == different), 17)


def _plain(value: Any) -> Any:
    """The value without NumPy's types, as far as Python has one for it."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def at_most(measured: float, bound: float, quantity: str = "") -> Evidence:
    """Evidence that `measured` is at most `bound`; a NaN is not."""
    digits = digits_apart(measured, bound)
    criterion = f"<= {format_value(bound, digits)}"
    return Evidence((Check(quantity, _plain(measured), criterion, bool(measured <= bound), digits),))


def at_least(measured: float, bound: float, quantity: str = "") -> Evidence:
    """Evidence that `measured` is at least `bound`; a NaN is not."""
    digits = digits_apart(measured, bound)
    criterion = f">= {format_value(bound, digits)}"
    return Evidence((Check(quantity, _plain(measured), criterion, bool(measured >= bound), digits),))


def within(measured: float, low: float, high: float, quantity: str = "") -> Evidence:
    """Evidence that `measured` lies in the closed interval from `low` to `high`; a NaN does not."""
    digits = digits_apart(measured, low, high)
    criterion = f"in [{format_value(low, digits)}, {format_value(high, digits)}]"
    return Evidence((Check(quantity, _plain(measured), criterion, bool(low <= measured <= high), digits),))


def equal(measured: Any, expected: Any, quantity: str = "") -> Evidence:
    """Evidence that a discrete outcome (a count, a list of signs, an exact rational) is the expected one."""
    measured, expected = _plain(measured), _plain(expected)
    return Evidence((Check(quantity, measured, f"= {format_value(expected)}", bool(measured == expected)),))


def holds(condition: bool, criterion: str, measured: str, quantity: str = "") -> Evidence:
    """Evidence of a condition that no single number decides; say in words what is required and what was seen."""
    return Evidence((Check(quantity, measured, criterion, bool(condition)),))


class Control:
    """A negative control: what is broken, and the keywords of the claim function that break it."""

    def __init__(self, description: str, /, **replaced: Any) -> None:
        if not replaced:
            raise ValueError(f"control {description!r}: replaces no keyword, so it would repeat the claim itself")
        self.description = description
        self.replaced = replaced


@dataclass(frozen=True)
class Claim:
    """A statement of a paper and the function that decides it."""

    id: str
    title: str
    source: str
    statement: str
    method: Method
    scope: str
    controls: tuple[Control, ...]
    function: Callable[..., Evidence] = field(repr=False)
    uses: tuple[str, ...] = ()
    cost: Cost = "quick"
    erratum: str = ""
    requires: tuple[str, ...] = ()

    @property
    def paper(self) -> str:
        return self.id.split("/")[0]

    @property
    def label(self) -> str:
        return self.id.split("/")[1]

    def evidence(self, seed: int = 0, control: Control | None = None) -> Evidence:
        """Run the check on the shipped code, or on the broken construction of a control.

        Raises
        ------
        ValueError
            If it returns no evidence, or evidence without a check: a control must not fail for checking nothing.
        """
        drawn = []
        if "rng" in inspect.signature(self.function).parameters:
            # A claim and its controls draw the same numbers, so that only what is broken differs.
            drawn = [np.random.default_rng([seed, zlib.crc32(self.id.encode())])]
        evidence = self.function(*drawn, **(control.replaced if control else {}))
        if not isinstance(evidence, Evidence) or not evidence.checks:
            raise ValueError(f"claim {self.id}: expected Evidence with at least one check, got {evidence!r}")
        return evidence


@dataclass(frozen=True)
class Series:
    """One titled curve or point set of a figure; ``spread`` is the half-width of its interval, if it has one."""

    title: str
    x: Sequence[float]
    y: Sequence[float]
    style: Literal["line", "points", "steps"] = "line"
    spread: Sequence[float] | None = None


@dataclass(frozen=True)
class Matrix:
    """A titled matrix of a figure, drawn as a heat map."""

    title: str
    values: Any
    rows: str = ""
    columns: str = ""


@dataclass(frozen=True)
class Figure:
    """The data of a figure: curves on shared axes, or matrices side by side. No plotting here: the report draws it."""

    parts: tuple[Series | Matrix, ...]
    x_label: str = ""
    y_label: str = ""
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"


@dataclass(frozen=True)
class FigureDeclaration:
    """A figure's title, caption (what one should see), the paper's figure it answers to, and the function that computes
    its data from an ``rng``."""

    id: str
    title: str
    caption: str
    answers_to: str
    function: Callable[[np.random.Generator], Figure] = field(repr=False)
    cost: Cost = "quick"

    def data(self, seed: int = 0) -> Figure:
        return self.function(np.random.default_rng([seed, zlib.crc32(self.id.encode())]))


def run_seed(rng: np.random.Generator) -> int:
    """The seed of the whole run, which the generators of all its claims and figures have in common."""
    return int(np.atleast_1d(rng.bit_generator.seed_seq.entropy)[0])  # type: ignore[attr-defined]


_CLAIMS: dict[str, Claim] = {}
_FIGURES: dict[str, FigureDeclaration] = {}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def claim(
    id: str,
    *,
    title: str,
    source: str,
    statement: str,
    method: Method,
    scope: str,
    control: Control | Sequence[Control],
    uses: Sequence[str] = (),
    cost: Cost = "quick",
    erratum: str = "",
    requires: Sequence[str] = (),
) -> Callable[[_Function], _Function]:
    """Enter a function into the ledger as the check of a claim.

    Parameters
    ----------
    id : ``paper/LABEL``: the paper's slug, one to three capitals and a number.
    title, source, statement : the claim in words; its theorem, equation or figure; its LaTeX.
    method : the strongest method that decides it.
    scope : what was covered: sizes, domain and examples, samples and confidence, or seeds.
    control : the broken constructions on which the same check must fail.
    uses : ids of the claims that it builds on.
    cost : ``full`` if it takes longer than the default run should.
    erratum : where the paper's statement is false, what is wrong with it and what holds instead; the evidence then
        checks the counterexample and the corrected statement.
    requires : modules of optional extras (see `EXTRAS`), without which the claim is skipped.

    Raises
    ------
    ValueError
        If a field is empty or out of range, there is no control, a control replaces something that is no keyword with
        a default, or the id is taken.
    """
    controls = (control,) if isinstance(control, Control) else tuple(control)
    if not re.fullmatch(r"[a-z][a-z0-9_]*/[A-Z]{1,3}\d+[a-z]?", id):
        raise ValueError(f"claim {id}: expected an id such as linear_attention/LA1")
    if not controls:
        raise ValueError(f"claim {id}: expected at least one negative control")
    for name, text in {"title": title, "source": source, "statement": statement, "scope": scope}.items():
        if not text.strip():
            raise ValueError(f"claim {id}: expected a {name}, got an empty one")
    for name, value, known in [("method", method, METHODS), ("cost", cost, get_args(Cost))]:
        if value not in known:
            raise ValueError(f"claim {id}: expected {name} in {known}, got {value!r}")
    for module in requires:
        if module not in EXTRAS:
            raise ValueError(f"claim {id}: requires module {module!r}, which no extra has: {sorted(EXTRAS)}")

    def enter(function: _Function) -> _Function:
        parameters = inspect.signature(function).parameters
        for one in controls:
            for keyword in one.replaced:
                if keyword not in parameters or parameters[keyword].default is inspect.Parameter.empty:
                    raise ValueError(f"claim {id}: control {one.description!r} replaces unknown keyword {keyword!r}")
        known = _CLAIMS.get(id)
        if known and _place(known.function) != _place(function):  # the same function again is a reloaded module
            raise ValueError(f"claim {id}: entered twice, by {_place(known.function)} and {_place(function)}")
        _CLAIMS[id] = Claim(
            id, title, source, statement, method, scope, controls, function, tuple(uses), cost, erratum, tuple(requires)
        )
        return function

    return enter


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def figure(
    id: str, *, title: str, caption: str, answers_to: str, cost: Cost = "quick"
) -> Callable[[_Function], _Function]:
    """Enter a function ``rng -> Figure`` as a figure of the paper: ``paper/F1``."""

    def enter(function: _Function) -> _Function:
        known = _FIGURES.get(id)
        if known and _place(known.function) != _place(function):
            raise ValueError(f"figure {id}: entered twice, by {_place(known.function)} and {_place(function)}")
        _FIGURES[id] = FigureDeclaration(id, title, caption, answers_to, function, cost)
        return function

    return enter


def load(papers: Sequence[Paper] = PAPERS) -> None:
    """Import the proofs of these papers, which enters their claims and figures."""
    for paper in papers:
        importlib.import_module(f"proofs.{paper.area}.{paper.slug}")


def claims(papers: Sequence[Paper] = PAPERS) -> list[Claim]:
    """The claims of these papers, in the papers' order and within a paper by label."""
    return _of_papers(_CLAIMS, papers)


def figures(papers: Sequence[Paper] = PAPERS) -> list[FigureDeclaration]:
    """The figures of these papers, in the same order."""
    return _of_papers(_FIGURES, papers)


def _of_papers(entries: Mapping[str, Entry], papers: Sequence[Paper]) -> list[Entry]:
    load(papers)
    slugs = [paper.slug for paper in papers]

    def order(id: str) -> tuple[int, str, int, str]:
        """LA2 before LA10, LA10 before LA10a."""
        slug, _, label = id.partition("/")
        letters, number, suffix = re.findall(r"([A-Z]+)(\d+)(.*)", label)[0]
        return slugs.index(slug), letters, int(number), suffix

    return [entries[id] for id in sorted((id for id in entries if id.partition("/")[0] in slugs), key=order)]


def find(module: str, id: str) -> Claim:
    """The claim that this module enters, for a process that has not imported it yet."""
    importlib.import_module(module)
    return _CLAIMS[id]


def missing_requirements(one: Claim) -> list[str]:
    """The modules that the claim requires and this environment lacks."""
    return [module for module in one.requires if importlib.util.find_spec(module) is None]
