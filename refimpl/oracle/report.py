"""The verdict on a candidate, as text and as JSON."""

import pathlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refimpl.oracle.cases import Case, save_case
from refimpl.oracle.diagnosis import Diagnosis
from refimpl.oracle.judgement import Comparison, Finding
from refimpl.oracle.structure import named_leaves, parts
from refimpl.primitives.numbers import Array

SHORT = 6  # entries that are printed


@dataclass
class Tally:
    """How often one output, or the gradient of one argument, was compared, and how often that decided nothing."""

    compared: int = 0
    ill_conditioned: int = 0

    @property
    def informative(self) -> bool:
        return self.compared > 2 * self.ill_conditioned


@dataclass
class Report:
    """The verdict on a candidate."""

    spec: str
    dtype: str
    framework: str
    seed: int
    factor: float
    candidate: str = "candidate"
    vjp: str | None = None
    examples: int = 0
    outside_domain: int = 0
    without_truth: int = 0
    relations: int = 0
    gradients_judged: bool = False
    tallies: dict[str, Tally] = field(default_factory=dict)
    worst: Comparison | None = None
    findings: list[Finding] = field(default_factory=list)
    diagnoses: list[Diagnosis] = field(default_factory=list)
    case: Case | None = None
    saved: pathlib.Path | None = None

    def count(self, comparisons: Iterable[Comparison]) -> None:
        """Enter comparisons; layers of one kind go under one name."""
        for one in comparisons:
            tally = self.tallies.setdefault(".".join(parts(one.quantity)), Tally())
            tally.compared += 1
            tally.ill_conditioned += one.ill_conditioned
            if not one.ill_conditioned and (self.worst is None or not one.ratio <= self.worst.ratio):
                self.worst = one

    def save(self, path: str | pathlib.Path) -> None:
        """Write the smallest failing input to an ``.npz`` file; the report then shows how to run it."""
        if self.case is None:
            raise ValueError("save: nothing has failed")
        self.saved = save_case(path, self.case)

    @property
    def comparisons(self) -> int:
        return sum(tally.compared for tally in self.tallies.values())

    @property
    def ill_conditioned(self) -> int:
        return sum(tally.ill_conditioned for tally in self.tallies.values())

    @property
    def uninformative(self) -> list[str]:
        """The outputs and gradients of which too few comparisons decided anything."""
        return [name for name, tally in self.tallies.items() if not tally.informative]

    @property
    def informative(self) -> bool:
        """Whether most comparisons of every output and gradient were well-conditioned enough to decide anything."""
        return bool(self.tallies) and not self.uninformative

    @property
    def passes(self) -> bool:
        return not self.findings and self.informative

    @property
    def verdict(self) -> str:
        return "PASSES" if self.passes else "FAILS" if self.findings else "UNDECIDED"

    def __str__(self) -> str:
        return "\n".join([f"{self.verdict}: {self.spec} in {self.dtype} ({self.framework})", *self._body()])

    def _body(self) -> list[str]:
        lines = [
            f"  {self.examples} inputs from seed {self.seed}, {self.comparisons} arrays compared, "
            + (f"{self.ill_conditioned} of them ill-conditioned; " if self.ill_conditioned else "")
            + f"{self.relations} relations checked"
        ]
        if self.outside_domain:
            lines.append(f"  {self.outside_domain} inputs left out: rounded to {self.dtype} they are not valid")
        if self.without_truth:
            lines.append(
                f"  {self.without_truth} inputs without a truth of more digits: judged against the reference in float64"
                " itself, whose error is taken from inputs one unit in the last place away"
            )
        if not self.gradients_judged:
            lines.append("  gradients not judged")
        if not self.findings and not self.informative:
            what = ", ".join(self.uninformative) or "anything"
            lines.append(f"  nothing was decided about {what}: in {self.dtype} the reference itself has no digits left")
        if self.worst:
            one = self.worst
            lines.append(
                f"  worst: {one.quantity} is off by {one.error:.2e}, allowed {one.bound:.2e}"
                f" (the reference in {self.dtype} by {one.baseline_error:.2e}; largest entry {one.scale:.2e})"
            )
        lines += [f"  {finding.kind}: {finding.message}" for finding in self.findings]
        lines += [f"  probably {one}" for one in self.diagnoses[:3]]
        if self.findings:
            lines.append(f"  smallest failing input: {describe(self.findings[0].arguments)}")
        if self.saved:
            lines += ["  saved; to see it fail:", *(f"    {line}" for line in self.snippet().splitlines())]
        return lines

    def snippet(self) -> str:
        """Python that runs the candidate on the saved input and raises what is wrong."""
        lines, names = ["from refimpl import oracle"], []
        for name in filter(None, (self.candidate, self.vjp)):
            module, _, function = name.rpartition(":")
            lines += [f"from {module} import {function}"] if module else []
            names.append(function)
        framework = "" if self.framework == "numpy" else f", framework={self.framework!r}"
        call = names[0] + (f", vjp={names[1]}" if self.vjp else "")
        return "\n".join([*lines, f"case = oracle.load_case({str(self.saved)!r}{framework})", f"case.check({call})"])

    def to_json(self) -> dict[str, Any]:
        """The report as JSON has it; infinities and NaN as text."""
        return {
            "format": 1,
            "spec": self.spec,
            "candidate": self.candidate,
            "dtype": self.dtype,
            "framework": self.framework,
            "seed": self.seed,
            "factor": self.factor,
            "verdict": self.verdict,
            "examples": self.examples,
            "outside_domain": self.outside_domain,
            "without_truth": self.without_truth,
            "relations": self.relations,
            "gradients_judged": self.gradients_judged,
            "compared": {name: [t.compared, t.ill_conditioned] for name, t in self.tallies.items()},
            "worst": _comparison(self.worst),
            "findings": [
                {
                    "kind": one.kind,
                    "quantity": one.quantity,
                    "message": one.message,
                    "input": describe(one.arguments),
                    "comparison": _comparison(one.comparison),
                }
                for one in self.findings
            ],
            "diagnoses": [vars(one) for one in self.diagnoses],
            "saved": None if self.saved is None else str(self.saved),
        }


def _comparison(one: Comparison | None) -> dict[str, Any] | None:
    if one is None:
        return None
    numbers = {name: getattr(one, name) for name in ("error", "bound", "baseline_error", "scale")}
    return {"quantity": one.quantity} | {n: x if np.isfinite(x) else str(x) for n, x in numbers.items()}


def describe(arguments: dict[str, Any]) -> str:
    """Arguments in a line: short arrays by their entries, long ones by their shape."""
    return ", ".join(
        f"{name}={_printed(np.asarray(leaf))}" if np.size(leaf) <= SHORT else f"{name} of shape {np.shape(leaf)}"
        for name, leaf in named_leaves(arguments).items()
    )


def _printed(array: Array) -> str:
    if array.dtype.kind == "U":
        return repr(str(array))
    return " ".join(np.array2string(array, precision=4, separator=", ").split())
