"""Compare a candidate with a spec: draw inputs, judge each, shrink a failing one, say what the mistake is."""

import pathlib
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from hypothesis import HealthCheck, find, settings
from hypothesis.errors import NoSuchExample

from refimpl.oracle import diagnosis
from refimpl.oracle.cases import named_leaves, save_case
from refimpl.oracle.frameworks import Candidate, Framework
from refimpl.oracle.frameworks import framework as choose_framework
from refimpl.oracle.judgement import (
    ILL_CONDITIONED,
    ROUNDING_UNITS,
    Comparison,
    Expected,
    GradientCall,
    distance,
    expect,
    outputs_of,
    size,
)
from refimpl.oracle.precision import ROUNDOFF, check_dtype
from refimpl.oracle.spec import Arguments, Spec, examples, find_spec
from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import tree_map

FAILURES_TO_DIAGNOSE = 12


@dataclass(frozen=True)
class Finding:
    """What is wrong with the candidate, on which input."""

    kind: str
    quantity: str
    message: str
    arguments: Arguments = field(repr=False)
    comparison: Comparison | None = None


@dataclass
class Report:
    """The verdict on a candidate."""

    spec: str
    dtype: str
    framework: str
    seed: int
    factor: float
    examples: int = 0
    comparisons: int = 0
    relations: int = 0
    ill_conditioned: int = 0
    gradients_judged: bool = False
    worst: Comparison | None = None
    findings: list[Finding] = field(default_factory=list)
    diagnoses: list[diagnosis.Diagnosis] = field(default_factory=list)
    saved: pathlib.Path | None = None

    @property
    def informative(self) -> bool:
        """Whether most comparisons were well-conditioned enough to decide anything."""
        return self.comparisons > 2 * self.ill_conditioned

    @property
    def passes(self) -> bool:
        return not self.findings and self.informative

    def __str__(self) -> str:
        lines = [self._headline()]
        judged = self.comparisons - self.ill_conditioned
        lines.append(
            f"  {self.examples} inputs, {self.comparisons} arrays compared"
            f" ({judged} judged, {self.ill_conditioned} ill-conditioned), {self.relations} relations checked"
        )
        if not self.gradients_judged:
            lines.append("  gradients: not judged")
        if not self.informative:
            lines.append("  the gate was not informative: in this precision the reference itself has no digits left")
        if self.worst:
            w = self.worst
            lines.append(
                f"  worst: {w.quantity} error {w.error:.2e}, allowed {w.bound:.2e}"
                f" (reference in {self.dtype} {w.baseline_error:.2e}, scale {w.scale:.2e})"
            )
        for finding in self.findings:
            lines.append(f"  {finding.kind}: {finding.message}")
        for one in self.diagnoses[:3]:
            lines.append(f"  probably {one}")
        if self.findings:
            lines.append(f"  smallest failing input: {_describe(self.findings[0].arguments)}")
        if self.saved:
            lines += [
                f"  saved in {self.saved}; to see it:",
                "    from refimpl import oracle",
                f"    spec, arguments = oracle.load_case({str(self.saved)!r})",
                "    oracle.find_spec(spec).reference(**arguments)",
            ]
        return "\n".join(lines)

    def _headline(self) -> str:
        verdict = "PASSES" if self.passes else "FAILS" if self.findings else "UNDECIDED"
        return f"{verdict}: {self.spec} in {self.dtype} ({self.framework}), seed {self.seed}"

    def to_json(self) -> dict[str, Any]:
        """The report as JSON has it; infinities as strings."""

        def number(x: float) -> float | str:
            return x if np.isfinite(x) else str(x)

        def comparison(one: Comparison | None) -> dict[str, Any] | None:
            if one is None:
                return None
            names = ("error", "bound", "baseline_error", "scale")
            return {"quantity": one.quantity, **{name: number(getattr(one, name)) for name in names}}

        return {
            "format": 1,
            "spec": self.spec,
            "dtype": self.dtype,
            "framework": self.framework,
            "seed": self.seed,
            "factor": self.factor,
            "passes": self.passes,
            "informative": self.informative,
            "examples": self.examples,
            "comparisons": self.comparisons,
            "ill_conditioned": self.ill_conditioned,
            "relations": self.relations,
            "gradients_judged": self.gradients_judged,
            "worst": comparison(self.worst),
            "findings": [
                {
                    "kind": finding.kind,
                    "quantity": finding.quantity,
                    "message": finding.message,
                    "comparison": comparison(finding.comparison),
                }
                for finding in self.findings
            ],
            "diagnoses": [asdict(one) for one in self.diagnoses],
            "saved": str(self.saved) if self.saved else None,
        }


def _describe(arguments: Arguments) -> str:
    parts = []
    for name, leaf in named_leaves(arguments).items():
        array = np.asarray(leaf)
        if array.size <= 6:
            parts.append(f"{name}={np.array2string(array, precision=4, separator=', ')}".replace("\n", ""))
        else:
            parts.append(f"{name} {array.shape}")
    return ", ".join(parts)


class _Judge:
    """Judges one candidate on one input at a time."""

    def __init__(
        self,
        candidate: Candidate,
        spec: Spec,
        dtype: str,
        adapter: Framework,
        gradients: bool,
        factor: float,
        seed: int,
    ) -> None:
        self.candidate, self.spec, self.dtype, self.adapter = candidate, spec, dtype, adapter
        self.gradients = gradients and spec.vjp is not None
        self.factor, self.seed = factor, seed
        self.gradients_judged = False

    def __call__(
        self, arguments: Arguments, report: Report | None = None
    ) -> tuple[list[Finding], list[diagnosis.Failure]]:
        """The findings on this input, and for each inaccurate one what a diagnosis needs. Counts go into `report`."""
        with np.errstate(all="ignore"):  # overflow in a low precision is a case to judge, not a warning
            return self._judge(arguments, report)

    def _judge(self, arguments: Arguments, report: Report | None) -> tuple[list[Finding], list[diagnosis.Failure]]:
        rng = np.random.default_rng(self.seed)
        try:
            expected = expect(outputs_of(self.spec.reference), arguments, self.dtype, rng)
        except ValueError:
            return [], []  # rounding to the candidate's precision has led out of the domain
        if report:
            report.examples += 1
        findings: list[Finding] = []
        failures: list[diagnosis.Failure] = []
        inputs = self._to_candidate(expected.arguments)
        output = None
        try:
            output = self.candidate(**inputs)
            again = self.candidate(**inputs)
        except Exception as error:
            return [self._finding("exception", "output", f"{type(error).__name__}: {error}", expected)], []
        given, found = self._receive(output, "output", expected)
        findings += found
        if given is not None:
            repeated, _ = self._receive(again, "output", expected)
            if repeated is None or any(not np.array_equal(v, repeated[n], equal_nan=True) for n, v in given.items()):
                findings.append(self._finding("non-deterministic", "output", "two calls differ", expected))
            found, failed = self._gate(given, expected, outputs_of(self.spec.reference), report)
            findings, failures = findings + found, failures + failed
        mutated = self._mutated(inputs, expected)
        if mutated:
            findings.append(self._finding("mutation", mutated, f"the candidate changed its input {mutated}", expected))
        elif given is not None and not findings and self.gradients:
            found, failures = self._judge_gradients(inputs, expected, rng, report)
            findings += found
        if not findings:
            findings += self._judge_relations(given, expected, report)
        return findings, failures

    def _to_candidate(self, arguments: Arguments) -> Arguments:
        """The arguments with every array in the candidate's framework: numbers in its precision, masks as they are."""

        def convert(leaf: Any) -> Any:
            if not isinstance(leaf, np.ndarray):
                return leaf
            return self.adapter.to_framework(leaf, leaf.dtype.name if leaf.dtype.kind in "iub" else self.dtype)

        return {name: tree_map(convert, value) for name, value in arguments.items()}

    def _finding(self, kind: str, quantity: str, message: str, expected: Expected, *rest: Any) -> Finding:
        return Finding(kind, quantity, message, expected.rounded, *rest)

    def _mutated(self, inputs: Arguments, expected: Expected) -> str | None:
        original = named_leaves(expected.arguments)
        for name, leaf in named_leaves(inputs).items():
            if np.ndim(original[name]) or isinstance(original[name], np.ndarray):
                values, _ = self.adapter.to_numpy(leaf)
                if values.shape != original[name].shape or not np.array_equal(values, original[name]):
                    return name
        return None

    def _receive(self, tree: Any, name: str, expected: Expected) -> tuple[dict[str, Array] | None, list[Finding]]:
        """The candidate's arrays by name, if their number, shapes and dtypes are right."""
        found = named_leaves(tree, name)
        given: dict[str, Array] = {}
        if len(found) != len(expected.truth):
            message = f"expected {len(expected.truth)} arrays ({', '.join(expected.truth)}), got {len(found)}"
            return None, [self._finding("wrong structure", name, message, expected)]
        for (quantity, truth), leaf in zip(expected.truth.items(), found.values(), strict=True):
            try:
                values, dtype = self.adapter.to_numpy(leaf)
            except (TypeError, ValueError, RuntimeError) as error:
                return None, [self._finding("wrong type", quantity, f"not an array: {error}", expected)]
            if values.shape != truth.shape:
                message = f"{quantity} has shape {values.shape}, expected {truth.shape}"
                return None, [self._finding("wrong shape", quantity, message, expected)]
            if expected.floating[quantity] and dtype != self.dtype:
                message = f"{quantity} has dtype {dtype}, expected {self.dtype}"
                return None, [self._finding("wrong dtype", quantity, message, expected)]
            given[quantity] = values
        return given, []

    def _gate(
        self, given: dict[str, Array], expected: Expected, reference: Callable[..., Any], report: Report | None
    ) -> tuple[list[Finding], list[diagnosis.Failure]]:
        findings: list[Finding] = []
        bounds = {}
        for quantity, values in given.items():
            one = expected.comparison(quantity, values, self.factor, self.dtype)
            bounds[quantity] = one.bound
            if report:
                report.comparisons += 1
                report.ill_conditioned += one.ill_conditioned
            if one.ill_conditioned:
                continue
            if not np.all(np.isfinite(values)):
                message = f"{quantity} has NaN or infinite entries where the truth is finite"
                findings.append(self._finding("non-finite", quantity, message, expected, one))
                continue
            if report and (report.worst is None or one.ratio > report.worst.ratio):
                report.worst = one
            if one.ratio > 1:
                message = f"{quantity} is off by {one.error:.2e}, allowed {one.bound:.2e}, scale {one.scale:.2e}"
                findings.append(self._finding("inaccurate", quantity, message, expected, one))
        if not any(finding.kind == "inaccurate" for finding in findings):
            return findings, []
        plain = {name: values.astype(np.float64) for name, values in given.items()}
        truth = {name: values.astype(np.float64) for name, values in expected.truth.items()}
        arguments = expected.rounded

        def lower_precision() -> dict[str, float]:
            lower = [name for name, u in ROUNDOFF.items() if u > ROUNDOFF[self.dtype]]
            rng = np.random.default_rng(self.seed)
            return {name: max(expect(reference, arguments, name, rng).baseline_error.values()) for name in lower}

        failure = diagnosis.Failure(arguments, reference, plain, truth, bounds, lower_precision)
        return findings, [failure]

    def _judge_gradients(
        self, inputs: Arguments, expected: Expected, rng: np.random.Generator, report: Report | None
    ) -> tuple[list[Finding], list[diagnosis.Failure]]:
        try:
            call = GradientCall(self.spec, expected, self.dtype, rng)
            wanted = expect(call.gradients, expected.rounded, self.dtype, rng)
        except ValueError:
            return [], []
        pulled: Any
        try:
            to_candidate = tree_map(lambda leaf: self.adapter.to_framework(leaf, self.dtype), call.cotangent)
            pulled = self.adapter.gradients(self.candidate, inputs, call.names, to_candidate)
        except Exception as error:
            return [self._finding("exception", "gradient", f"{type(error).__name__}: {error}", wanted)], []
        if pulled is None:
            return [], []
        self.gradients_judged = True
        given, findings = self._receive(pulled, "gradient", wanted)
        if given is None:
            return findings, []
        return self._gate(given, wanted, call.gradients, report)

    def _judge_relations(
        self, given: dict[str, Array] | None, expected: Expected, report: Report | None
    ) -> list[Finding]:
        """Check the spec's metamorphic relations on the candidate: no reference output is asked for.

        The relation holds in exact arithmetic; how far it may fail is how far the reference in this precision misses
        it, by the same rule as the gate.
        """
        findings: list[Finding] = []
        base = expected.rounded
        for relation in self.spec.relations:
            changed = relation.transform(base)
            try:
                there = expect(outputs_of(self.spec.reference), changed, self.dtype, np.random.default_rng(self.seed))
            except ValueError:
                continue
            inputs = [self._to_candidate(a) for a in (expected.arguments, there.arguments)]
            before, after = (self.candidate(**one) for one in inputs)
            received, found = self._receive(after, "output", there)
            if received is None:
                return found
            as_float64 = tree_map(lambda leaf: self.adapter.to_numpy(leaf)[0].astype(np.float64), before)
            wanted = named_leaves(relation.expected(as_float64, base), "output")
            if report:
                report.relations += 1
            for quantity, values in received.items():
                one = there.comparison(quantity, values, self.factor, self.dtype)
                own = expected.baseline_error.get(quantity, 0.0)
                # Both calls may be off by what the gate allows, and the changed inputs by their own rounding.
                scale = max(one.scale, size(expected.truth.get(quantity, np.zeros(()))))
                bound = 2 * one.bound + self.factor * own + 2 * ROUNDING_UNITS * ROUNDOFF[self.dtype] * scale
                error = distance(values.astype(np.float64), np.asarray(wanted[quantity], np.float64))
                if not one.ill_conditioned and own <= ILL_CONDITIONED * scale and not error <= bound:
                    message = f"{relation.name}: {quantity} is off by {error:.2e}, allowed {bound:.2e}"
                    findings.append(self._finding("relation", quantity, message, expected))
        return findings


def compare(
    candidate: Candidate,
    spec: Spec | str,
    *,
    dtype: str = "float64",
    framework: str | None = None,
    gradients: bool = True,
    vjp: Candidate | None = None,
    max_examples: int = 200,
    factor: float = 4.0,
    seed: int | None = None,
    save: str | pathlib.Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Judge whether a candidate computes what the spec's reference does, as well as its precision allows.

    Parameters
    ----------
    candidate : the implementation; takes the reference's arguments by name, arrays in its framework.
    spec : what it implements, or its name.
    dtype : ``float64``, ``float32``, ``float16`` or ``bfloat16``.
    framework : ``jax`` or ``torch``; NumPy arrays otherwise.
    gradients : judge the candidate's derivative too, where the spec has a pullback.
    vjp : a NumPy candidate's own ``(**arguments) -> (output, pullback)``.
    max_examples : how many inputs to draw.
    factor : how many times the reference's own error the candidate's may be.
    seed : of the inputs; fresh if None (the report names it).
    save : where to write the smallest failing input, ``.npz``.
    progress : called with the number of inputs done and of all.

    Raises
    ------
    ValueError
        For an unknown dtype or framework, or one that is not installed.
    """
    spec = find_spec(spec) if isinstance(spec, str) else spec
    check_dtype(dtype)
    if dtype not in spec.dtypes:
        raise ValueError(f"dtype: {spec.name} is judged in {', '.join(spec.dtypes)}, got {dtype!r}")
    max_examples = check_integer("max_examples", max_examples, 1)
    factor = check_number("factor", factor, "[1, inf)")
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else check_integer("seed", seed, 0)
    adapter = choose_framework(framework, vjp)
    judge = _Judge(candidate, spec, dtype, adapter, gradients, factor, seed)
    report = Report(spec.name, dtype, framework or "numpy", seed, factor)
    failed: list[Finding] = []
    failures: list[diagnosis.Failure] = []
    drawn = examples(spec, max_examples, seed)
    for done, arguments in enumerate(drawn, 1):
        findings, failing = judge(arguments, report)
        failed += findings
        if len(failures) < FAILURES_TO_DIAGNOSE:
            failures += failing
        if progress:
            progress(done, len(drawn))
    report.gradients_judged = judge.gradients_judged
    if not failed:
        return report
    report.findings = _smallest(judge, spec, failed, seed, max_examples)
    report.diagnoses = diagnosis.diagnose(_of_one_kind(failures), _mistakes(spec))
    if save is not None:
        report.saved = save_case(save, spec.name, report.findings[0].arguments)
    return report


def _smallest(judge: _Judge, spec: Spec, failed: list[Finding], seed: int, max_examples: int) -> list[Finding]:
    """One finding of each kind and quantity, the first on the smallest input that Hypothesis can shrink it to."""
    first: dict[tuple[str, str], Finding] = {}
    for finding in failed:
        first.setdefault((finding.kind, finding.quantity), finding)
    leading = next(iter(first.values()))

    def still_fails(arguments: Arguments) -> bool:
        return any(f.kind == leading.kind and f.quantity == leading.quantity for f in judge(arguments)[0])

    try:
        options = settings(
            max_examples=max_examples, database=None, deadline=None, suppress_health_check=list(HealthCheck)
        )
        smallest = find(spec.arguments, still_fails, settings=options, random=random.Random(seed))
    except NoSuchExample:
        return list(first.values())
    shrunk = [f for f in judge(smallest)[0] if f.kind == leading.kind and f.quantity == leading.quantity]
    return shrunk[:1] + list(first.values())[1:]


def _of_one_kind(failures: list[diagnosis.Failure]) -> list[diagnosis.Failure]:
    """The failures of outputs if there are any, else those of gradients: one mistake at a time."""
    outputs = [one for one in failures if not next(iter(one.truth)).startswith("gradient")]
    return outputs or failures


def _mistakes(spec: Spec) -> dict[tuple[str, str], Callable[..., Any]]:
    return {key: outputs_of(wrong) for key, wrong in spec.mistakes.items()}
