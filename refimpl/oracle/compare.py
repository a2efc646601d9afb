"""Compare a candidate with a spec: draw inputs, judge each, shrink a failing one, say what the mistake is."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.oracle import diagnosis
from refimpl.oracle.cases import Case
from refimpl.oracle.frameworks import Candidate, choose_framework
from refimpl.oracle.judge import Judge
from refimpl.oracle.judgement import Finding, outputs_of
from refimpl.oracle.precision import check_dtype
from refimpl.oracle.report import Report
from refimpl.oracle.spec import Arguments, Relation, Spec, examples, find_spec, smallest_example
from refimpl.primitives.checks import check_integer, check_number

ENOUGH = 12  # inputs that fail: more say nothing new


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
    max_examples : how many inputs to draw; the search ends early when a dozen have failed.
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
    if check_dtype(dtype) not in spec.dtypes:
        raise ValueError(f"dtype: {spec.name} is judged in {', '.join(spec.dtypes)}, got {dtype!r}")
    max_examples = check_integer("max_examples", max_examples, 1)
    factor = check_number("factor", factor, "[1, inf)")
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else check_integer("seed", seed, 0)
    judge = Judge(candidate, spec, dtype, choose_framework(framework, vjp), gradients, factor, seed)
    report = Report(spec.name, dtype, framework or "numpy", seed, factor, _name(candidate), vjp and _name(vjp))
    failed: list[Finding] = []
    failures: list[diagnosis.Failure] = []
    drawn = examples(spec, max_examples, seed)
    n_failing = 0
    for index, arguments in enumerate(drawn):
        # One relation an input, in turn: all of them would cost more than everything else.
        judged = judge(arguments, spec.relations[index % len(spec.relations) :][:1] if spec.relations else ())
        report.examples += not judged.outside_domain
        report.outside_domain += judged.outside_domain
        report.without_truth += judged.without_truth
        report.relations += judged.relations
        report.gradients_judged |= judged.gradients
        report.count(judged.comparisons)
        failed += judged.findings
        failures += judged.failures
        n_failing += bool(judged.findings)
        if progress:
            progress(index + 1, len(drawn))
        if n_failing == ENOUGH:
            break
    if not failed:
        return report
    report.findings = _one_of_each(judge, spec, failed, max_examples)
    report.diagnoses = diagnosis.diagnose(
        _of_one_kind(failures),
        {key: outputs_of(wrong) for key, wrong in spec.mistakes.items()},
    )
    report.case = Case(spec, dtype, report.findings[0].arguments, framework, factor, seed)
    if save is not None:
        report.save(save)
    return report


def _name(candidate: Any) -> str:
    """How a program would import the candidate; its name if it cannot be."""
    name, module = getattr(candidate, "__qualname__", "candidate"), getattr(candidate, "__module__", None)
    importable = module not in (None, "__main__") and name.isidentifier()
    return f"{module}:{name}" if importable else name if name.isidentifier() else "candidate"


def _one_of_each(judge: Judge, spec: Spec, failed: list[Finding], max_examples: int) -> list[Finding]:
    """One finding of each kind and quantity, the first on the smallest input that Hypothesis can shrink it to."""
    first: dict[tuple[str, str], Finding] = {}
    for finding in failed:
        first.setdefault((finding.kind, finding.quantity), finding)
    leading, *others = first.values()
    relations: list[Relation] = [one for one in spec.relations if one.name == leading.relation]
    about_gradients = "gradient" in leading.quantity or leading.message.startswith("differentiated")
    judge = Judge(judge.candidate, spec, judge.dtype, judge.adapter, about_gradients, judge.factor, judge.seed)

    def same(arguments: Arguments) -> list[Finding]:
        found = judge(arguments, relations).findings
        return [one for one in found if (one.kind, one.quantity) == (leading.kind, leading.quantity)]

    smallest = smallest_example(spec, max_examples, judge.seed, lambda arguments: bool(same(arguments)))
    shrunk = [] if smallest is None else same(smallest)  # a candidate that is not deterministic may no longer fail
    return [*(shrunk or [leading])[:1], *others]


def _of_one_kind(failures: list[diagnosis.Failure]) -> list[diagnosis.Failure]:
    """The failures of outputs if there are any, else those of gradients: one mistake at a time."""
    outputs = [one for one in failures if not next(iter(one.truth)).startswith("gradient")]
    return outputs or failures
