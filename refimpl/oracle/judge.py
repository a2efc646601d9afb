"""One candidate on one input: everything that can be found wrong with it."""

import contextlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from refimpl.oracle.arithmetic import ROUNDOFF
from refimpl.oracle.diagnosis import Failure
from refimpl.oracle.frameworks import Candidate, Framework
from refimpl.oracle.judgement import (
    ILL_CONDITIONED,
    ROUNDING_UNITS,
    Comparison,
    Expected,
    Finding,
    GradientCall,
    candidate_arguments,
    expect,
    gate,
    like_reference,
    mutated,
    outputs_of,
    receive,
)
from refimpl.oracle.spec import Arguments, Relation, Spec
from refimpl.oracle.structure import named_leaves
from refimpl.oracle.truth import Function, distance, size, to_float64
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import tree_map


@dataclass
class Judged:
    """What one input showed."""

    findings: list[Finding] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    relations: int = 0
    gradients: bool = False
    outside_domain: bool = False
    without_truth: bool = False


class _Wrong(Exception):
    """The input has shown a mistake that makes the rest of the judgement pointless."""

    def __init__(self, *findings: Finding) -> None:
        self.findings = findings


class Judge:
    """Judges a candidate on one input at a time.

    Parameters
    ----------
    candidate, spec, dtype, adapter, gradients, factor : see :func:`refimpl.oracle.compare`.
    seed : of the moved inputs and the cotangents; the same input is judged the same way.
    """

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
        parameters = inspect.signature(spec.reference).parameters.values()
        self.defaults = {one.name: one.default for one in parameters if one.default is not one.empty}

    def __call__(self, arguments: Arguments, relations: Sequence[Relation]) -> Judged:
        """Judge the output, then, if all is well, the gradients, and then these relations."""
        judged = Judged()
        try:
            expected = self._expect(outputs_of(self.spec.reference), arguments)
        except ValueError:
            judged.outside_domain = True
        else:
            judged.without_truth = not expected.independent
            try:
                with np.errstate(all="ignore"):  # overflow in a low precision is a case to judge, not a warning
                    self._judge(expected, relations, judged)
            except _Wrong as wrong:
                judged.findings += wrong.findings
        return judged

    def _expect(self, function: Function, arguments: Arguments, others: tuple[Function, ...] = ()) -> Expected:
        return expect(function, arguments, self.dtype, self.seed, others=others)

    def _judge(self, expected: Expected, relations: Sequence[Relation], judged: Judged) -> None:
        inputs = candidate_arguments(expected, self.adapter)
        given = self._output(self._call(inputs, expected), expected)
        self._check_unchanged(inputs, expected)
        again = self._output(self._call(inputs, expected), expected)
        if any(not np.array_equal(values, again[name], equal_nan=True) for name, values in given.items()):
            raise _Wrong(expected.finding("non-deterministic", "output", "two calls on the same input differ"))
        self._gate(given, expected, outputs_of(self.spec.reference), judged)
        if self.gradients:
            self._judge_gradients(expected, inputs, judged)
        for relation in relations:
            self._judge_relation(relation, given, expected, judged)

    def _call(self, inputs: Arguments, expected: Expected) -> Any:
        try:
            return self.candidate(**inputs)
        except Exception as error:
            raise _Wrong(_exception("output", error, expected)) from error

    def _output(self, tree: Any, expected: Expected) -> dict[str, Array]:
        return self._received(tree, "output", expected)

    def _received(self, tree: Any, prefix: str, expected: Expected) -> dict[str, Array]:
        given, findings = receive(tree, prefix, expected, self.adapter)
        if given is None:
            raise _Wrong(*findings)
        return given

    def _check_unchanged(self, inputs: Arguments, expected: Expected) -> None:
        changed = mutated(inputs, expected, self.adapter)
        if changed is not None:
            raise _Wrong(changed)

    def _gate(self, given: dict[str, Array], expected: Expected, reference: Function, judged: Judged) -> None:
        comparisons, findings = gate(given, expected, self.factor)
        judged.comparisons += comparisons
        if any(finding.kind == "inaccurate" for finding in findings):
            judged.failures.append(self._failure(given, expected, comparisons, reference))
        if findings:
            raise _Wrong(*findings)

    def _failure(
        self, given: dict[str, Array], expected: Expected, comparisons: list[Comparison], reference: Function
    ) -> Failure:
        def lower_precision() -> dict[str, float]:
            found = {}
            for name in (name for name, u in ROUNDOFF.items() if u > ROUNDOFF[self.dtype]):
                with contextlib.suppress(ValueError):  # rounded so far, the input is not valid
                    errors = expect(reference, expected.arguments, name, self.seed).baseline_error
                    found[name] = max(errors.values())
            return found

        return Failure(
            expected.arguments,
            reference,
            {name: to_float64(values) for name, values in given.items()},
            {name: to_float64(values) for name, values in expected.truth.items()},
            {one.quantity: one.bound for one in comparisons},
            lower_precision,
            self.defaults,
        )

    def _judge_gradients(self, expected: Expected, inputs: Arguments, judged: Judged) -> None:
        call = GradientCall(self.spec, expected, np.random.default_rng(self.seed))
        if not call.names:
            return
        cotangent = tree_map(lambda leaf: self.adapter.to_framework(leaf, self.dtype), call.cotangent)
        try:
            pulled = self.adapter.differentiate(self.candidate, inputs, call.names, cotangent)
        except Exception as error:
            raise _Wrong(_exception("gradient", error, expected)) from error
        if pulled is None:
            return
        wanted = self._expect(call.gradients, expected.arguments, call.others)
        judged.gradients = True
        output, gradients = pulled
        # What is differentiated may be other code than what is called: a custom derivative has its own forward pass.
        try:
            self._gate(self._output(output, expected), expected, outputs_of(self.spec.reference), judged)
        except _Wrong as wrong:
            raise _Wrong(*(replace(f, message="differentiated: " + f.message) for f in wrong.findings)) from None
        self._gate(self._received(gradients, "gradient of", wanted), wanted, call.gradients, judged)
        self._check_unchanged(inputs, expected)

    def _judge_relation(self, relation: Relation, given: dict[str, Array], expected: Expected, judged: Judged) -> None:
        """Check a metamorphic relation on the candidate: no reference output is asked for.

        The relation holds in exact arithmetic; how far it may fail is how far the reference in this precision misses
        it, by the same rule as the gate.
        """
        base = expected.arguments
        try:
            there = self._expect(outputs_of(self.spec.reference), relation.transform(base))
        except ValueError:
            return
        after = self._output(self._call(candidate_arguments(there, self.adapter), there), there)
        before = like_reference(given, self.spec.reference(**base))
        wanted = named_leaves(relation.expected(before, base), "output")
        judged.relations += 1
        for quantity, values in after.items():
            error = distance(to_float64(values), to_float64(wanted[quantity]))
            bound = self._bound_of_relation(quantity, expected, there)
            if error > bound:
                bound = self._bound_of_relation(quantity, expected.redrawn(), there.redrawn())
            if np.isfinite(bound) and not error <= bound:
                message = f"{relation.name}: {quantity} is off by {error:.2e}, allowed {bound:.2e}"
                judged.findings.append(Finding("relation", quantity, message, base, relation=relation.name))

    def _bound_of_relation(self, quantity: str, before: Expected, after: Expected) -> float:
        """Both calls may be off by what the gate allows, and the changed inputs by their own rounding."""
        truths = [one.truth[quantity] for one in (before, after) if quantity in one.truth]
        there = after.comparison(quantity, after.truth[quantity], self.factor)
        own = before.baseline_error.get(quantity, 0.0)
        scale = max(size(truth) for truth in truths)
        if there.ill_conditioned or own > ILL_CONDITIONED * scale:
            return float("inf")
        return 2 * there.bound + self.factor * own + 2 * ROUNDING_UNITS * ROUNDOFF[self.dtype] * scale


def _exception(quantity: str, error: Exception, expected: Expected) -> Finding:
    text = " ".join(str(error).split())
    return expected.finding("exception", quantity, f"{type(error).__name__}: {text[:300]}")
