"""How far the oracle can be trusted: ``python -m tests.oracle.trust``.

Honest implementations must pass: in NumPy for every spec, by hand for some, and in JAX and PyTorch where they are
installed (extra ``bench``). Planted mistakes must be found, and named if they are of a kind that is covered. Exit
status 0 if there is no false alarm, nothing is missed, and nine of ten diagnoses are right.
"""

import argparse
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refimpl import oracle
from refimpl.oracle.spec import Spec, all_specs
from tests.oracle import honest, mutants, plants
from tests.oracle.honest import Honest
from tests.oracle.plants import Plant

DIAGNOSES_SHOWN = 3
LARGEST_MEMORY = 16 * 2**30  # of the address space, for edits of a source that ask for any amount


@dataclass
class Tally:
    """Honest comparisons, and the reports that found fault with one."""

    comparisons: int = 0
    ill_conditioned: int = 0
    alarms: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)


@dataclass
class Caught:
    """Planted mistakes: those missed, those of a kind that is covered, and those of them that were not named."""

    planted: int = 0
    missed: list[str] = field(default_factory=list)
    covered: int = 0
    misnamed: list[str] = field(default_factory=list)


def judge_honest(candidates: Iterable[Honest], n: int, seed: int, tally: Tally) -> Tally:
    for one in candidates:
        for dtype in one.dtypes:
            report = oracle.compare(
                one.candidate, one.spec, dtype=dtype, framework=one.framework, vjp=one.vjp, max_examples=n, seed=seed
            )
            tally.comparisons += report.comparisons
            tally.ill_conditioned += report.ill_conditioned
            line = f"{one.spec} in {dtype}, {one.name}"
            if report.findings:
                _note("false alarm", f"{line}: {report.findings[0].message}", tally.alarms)
            elif not report.passes:
                _note("undecided", f"{line}: {', '.join(report.uninformative)}", tally.undecided)
    return tally


def judge_plants(planted: Iterable[Plant], n: int, seed: int, caught: Caught) -> Caught:
    for plant in planted:
        report = oracle.compare(
            plant.candidate, plant.spec, dtype=plant.dtype, vjp=plant.vjp, max_examples=n, seed=seed
        )
        caught.planted += 1
        if caught.planted % 100 == 0:
            print(f"  {caught.planted} planted so far", flush=True)
        line = f"{plant.spec} in {plant.dtype}: {plant.name}"
        kinds = [finding.kind for finding in report.findings]
        if not kinds or (plant.finding and plant.finding not in kinds):
            _note("missed", f"{line} (found {', '.join(kinds) or 'nothing'})", caught.missed)
            continue
        if plant.diagnosis:
            caught.covered += 1
            named = [one.kind for one in report.diagnoses[:DIAGNOSES_SHOWN]]
            if plant.diagnosis not in named:
                wrong = f"{line} (expected {plant.diagnosis}, named {', '.join(named) or 'none'})"
                _note("misnamed", wrong, caught.misnamed)
    return caught


def edited_specs(rng: np.random.Generator, specs: Iterable[Spec], per_spec: int) -> Iterator[Plant]:
    """For each spec edits of its arguments or output, of its gradients, and of its source code."""
    for spec in specs:
        offered = list(mutants.edited(spec))
        order = [offered[index] for index in rng.permutation(len(offered))]
        real = (plant for plant in order if mutants.changes_something(spec, plant.candidate))
        dtype = "float32" if "float32" in spec.dtypes else "float64"
        chosen = [plant for plant, _ in zip(real, range(per_spec), strict=False)]
        if spec.vjp is not None:
            gradients = list(mutants.edited_gradients(spec))
            chosen.append(gradients[rng.integers(len(gradients))])
        chosen += mutants.of_source(spec, rng, 1)
        yield from (plant._replace(dtype=dtype) for plant in chosen)


def in_frameworks() -> dict[str, list[Honest]]:
    """Honest implementations in the frameworks that are installed."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    found = {}
    for name in ("jax", "torch"):
        try:
            module: Any = __import__(f"tests.oracle.honest_{name}", fromlist=["candidates"])
        except ImportError as error:
            print(f"{name}: left out ({error})")
            continue
        found[name] = module.candidates()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle.trust", description=__doc__)
    parser.add_argument("--examples", type=int, default=40, help="inputs for each implementation and precision")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("honest", "zoo"), help="half of it")
    arguments = parser.parse_args()
    start, good = time.monotonic(), True
    resource.setrlimit(resource.RLIMIT_AS, (LARGEST_MEMORY, LARGEST_MEMORY))
    if arguments.only != "zoo":
        groups = {
            "NumPy, by hand": honest.by_hand(),
            "NumPy, made of every reference": honest.of_all(),
        } | in_frameworks()
        tally = Tally()
        for name, candidates in groups.items():
            before = tally.comparisons
            n = arguments.examples // 4 if name == "jax" else arguments.examples  # it compiles for each new shape
            judge_honest(candidates, n, arguments.seed, tally)
            print(f"{name}: {len(candidates)} implementations, {tally.comparisons - before} comparisons", flush=True)
        print(f"honest: {tally.comparisons} comparisons ({tally.ill_conditioned} ill-conditioned), "
              f"{len(tally.alarms)} false alarms, {len(tally.undecided)} undecided")  # fmt: skip
        good &= not tally.alarms and tally.comparisons >= 10_000
    if arguments.only != "honest":
        caught = judge_plants(plants.by_hand(), 200, arguments.seed, Caught())
        print(f"by hand: {caught.planted} mistakes", flush=True)
        rng = np.random.default_rng(arguments.seed)
        judge_plants(edited_specs(rng, all_specs().values(), 1), 60, arguments.seed, caught)
        right = caught.covered - len(caught.misnamed)
        print(f"planted: {caught.planted} mistakes, {caught.planted - len(caught.missed)} caught; "
              f"{right} of {caught.covered} diagnoses right ({right / caught.covered:.1%})")  # fmt: skip
        good &= not caught.missed and right >= 0.9 * caught.covered
    print(f"{time.monotonic() - start:.0f} s")
    return 0 if good else 1


def _note(what: str, line: str, lines: list[str]) -> None:
    """Keep the line, and print it at once: the whole takes a while."""
    lines.append(line)
    print(f"  {what}: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
