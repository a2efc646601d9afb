"""``refimpl compare``: is a faster implementation right, and if not, why?"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from refimpl.cli.common import UsageError, file_errors

if TYPE_CHECKING:
    from refimpl.oracle.spec import Spec


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="judge a faster implementation against the reference",
        description="Judge an implementation against the reference, in its own precision. Exit status: 0 it passes,"
        " 1 it does not, 2 usage.",
    )
    parser.add_argument("spec", metavar="SPEC", help="what it implements, such as linear_attention/stack_forward")
    parser.add_argument("candidate", metavar="MODULE:FUNCTION", help="takes the reference's arguments by name")
    parser.add_argument("--framework", choices=("numpy", "jax", "torch"), default="numpy", help="of its arrays")
    parser.add_argument("--dtype", default="float32", help="float64, float32 (default), float16 or bfloat16")
    parser.add_argument("--vjp", metavar="MODULE:FUNCTION", help="a NumPy candidate's own derivative")
    parser.add_argument("--no-gradients", action="store_true", help="judge the output only")
    parser.add_argument("--examples", type=int, default=200, metavar="N", help="inputs to draw (default 200)")
    parser.add_argument("--factor", type=float, default=4.0, help="allowed multiple of the reference's own error")
    parser.add_argument("--seed", type=int, metavar="N", help="of the inputs; fresh by default")
    parser.add_argument("--save", metavar="FILE", help="the smallest failing input (default FUNCTION.DTYPE.npz here)")
    parser.add_argument("--json", metavar="FILE", help="write the report there as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from refimpl import oracle

    spec = named_spec(arguments.spec)
    candidate = _load("candidate", arguments.candidate)
    vjp = _load("--vjp", arguments.vjp) if arguments.vjp else None
    save = arguments.save or f"{spec.name.rpartition('/')[2]}.{arguments.dtype}.npz"
    if arguments.json:
        with file_errors(arguments.json), open(arguments.json, "ab"):
            pass  # better to know before the search than after it
    try:
        report = oracle.compare(
            candidate,
            spec,
            dtype=arguments.dtype,
            framework=arguments.framework,
            gradients=not arguments.no_gradients,
            vjp=vjp,
            max_examples=arguments.examples,
            factor=arguments.factor,
            seed=arguments.seed,
            progress=_progress if sys.stderr.isatty() else None,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    report.candidate, report.vjp = arguments.candidate, arguments.vjp
    if report.findings:
        with file_errors(save):
            report.save(save)
    print(report)
    if arguments.json:
        with file_errors(arguments.json), open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(report.to_json(), file, indent=1, allow_nan=False)
            file.write("\n")
    return 0 if report.passes else 1


def named_spec(name: str) -> Spec:
    """The spec of this name."""
    from refimpl import oracle

    try:
        return oracle.find_spec(name)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _load(what: str, name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UsageError(f"{what}: expected MODULE:FUNCTION, got {name!r}")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the user's module raises on import is what they need to see
        raise UsageError(f"{what} {name}: {type(error).__name__}: {error}") from None
    if not callable(found):
        raise UsageError(f"{what} {name}: is not callable")
    return found


def _progress(done: int, total: int) -> None:
    end = "\r" if done < total else "\r\x1b[K"
    print(f"  {done}/{total} inputs", end=end, file=sys.stderr, flush=True)
