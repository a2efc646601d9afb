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
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

from refimpl.catalogue import PAPERS, Paper

Method = Literal["symbolic", "property", "statistical", "experiment"]
METHODS: tuple[Method, ...] = ("symbolic", "property", "statistical", "experiment")
Cost = Literal["quick", "full"]


@dataclass(frozen=True)
class Check:
    """One measured quantity against its criterion."""

    quantity: str
    measured: Any
    criterion: str
    holds: bool

    def __str__(self) -> str:
        return f"{self.quantity} {format_value(self.measured)}".strip()


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


def format_value(value: Any) -> str:
    """A number at the three digits that a reader compares; anything else as it prints."""
    if isinstance(value, float | np.floating):
        return f"{value:.3g}"
    if isinstance(value, list | tuple | np.ndarray):
        return "[" + " ".join(format_value(entry) for entry in value) + "]"
    return str(value)


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    return value.item() if isinstance(value, np.generic) else value


def at_most(measured: float, bound: float, quantity: str = "") -> Evidence:
    """Evidence that `measured` is at most `bound`; a NaN is not."""
    return Evidence((Check(quantity, _plain(measured), f"<= {format_value(bound)}", bool(measured <= bound)),))


def at_least(measured: float, bound: float, quantity: str = "") -> Evidence:
    """Evidence that `measured` is at least `bound`; a NaN is not."""
    return Evidence((Check(quantity, _plain(measured), f">= {format_value(bound)}", bool(measured >= bound)),))


def within(measured: float, low: float, high: float, quantity: str = "") -> Evidence:
    """Evidence that `measured` lies in the closed interval from `low` to `high`; a NaN does not."""
    criterion = f"in [{format_value(low)}, {format_value(high)}]"
    return Evidence((Check(quantity, _plain(measured), criterion, bool(low <= measured <= high)),))


def equal(measured: Any, expected: Any, quantity: str = "") -> Evidence:
    """Evidence that a discrete outcome (a count, a list of signs, an exact rational) is the expected one."""
    return Evidence((Check(quantity, _plain(measured), f"= {format_value(expected)}", bool(measured == expected)),))


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
        """Run the check on the shipped code, or on the broken construction of a control."""
        replaced = control.replaced if control else {}
        if "rng" in inspect.signature(self.function).parameters:
            rng = np.random.default_rng([seed, zlib.crc32(self.id.encode())])
            return self.function(rng, **replaced)
        return self.function(**replaced)


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
    id : ``paper/LABEL``, the label of the card's row.
    title, source, statement : the claim in words; its theorem, equation or figure; its LaTeX.
    method : the strongest method that decides it.
    scope : what was covered: sizes, domain and examples, samples and confidence, or seeds.
    control : the broken constructions on which the same check must fail.
    uses : ids of the claims that it builds on.
    cost : ``full`` if it takes longer than the default run should.
    erratum : where the paper's statement is false, what is wrong with it and what holds instead; the evidence then
        checks the counterexample and the corrected statement.
    requires : modules of an optional extra, without which the claim is skipped.
    """
    controls = (control,) if isinstance(control, Control) else tuple(control)
    if method not in METHODS:
        raise ValueError(f"claim {id}: expected method in {METHODS}, got {method!r}")

    def enter(function: _Function) -> _Function:
        if id in _CLAIMS and _CLAIMS[id].function.__module__ != "__main__":
            raise ValueError(f"claim {id}: entered twice, in {_CLAIMS[id].function.__module__} and {function.__module__}")
        parameters = inspect.signature(function).parameters
        for one in controls:
            for keyword in one.replaced:
                if keyword not in parameters:
                    raise ValueError(f"claim {id}: control {one.description!r} replaces unknown keyword {keyword!r}")
        _CLAIMS[id] = Claim(
            id, title, source, statement, method, scope, controls, function, tuple(uses), cost, erratum, tuple(requires)
        )
        return function

    return enter


def figure(
    id: str, *, title: str, caption: str, answers_to: str, cost: Cost = "quick"
) -> Callable[[_Function], _Function]:
    """Enter a function ``rng -> Figure`` as a figure of the paper: ``paper/F1``."""

    def enter(function: _Function) -> _Function:
        if id in _FIGURES:
            raise ValueError(f"figure {id}: entered twice")
        _FIGURES[id] = FigureDeclaration(id, title, caption, answers_to, function, cost)
        return function

    return enter


def load(papers: Sequence[Paper] = PAPERS) -> None:
    """Import the proofs of these papers, which enters their claims and figures."""
    for paper in papers:
        importlib.import_module(f"proofs.{paper.area}.{paper.slug}")


def claims(papers: Sequence[Paper] = PAPERS) -> list[Claim]:
    """The claims of these papers, in the papers' order and each paper's own."""
    load(papers)
    return [one for paper in papers for one in _CLAIMS.values() if one.paper == paper.slug]


def figures(papers: Sequence[Paper] = PAPERS) -> list[FigureDeclaration]:
    """The figures of these papers, in order."""
    load(papers)
    return [one for paper in papers for one in _FIGURES.values() if one.id.split("/")[0] == paper.slug]


def missing_requirements(one: Claim) -> list[str]:
    """The modules that the claim requires and this environment lacks."""
    return [module for module in one.requires if importlib.util.find_spec(module) is None]
