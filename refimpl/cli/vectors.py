"""``refimpl vectors``: test vectors for implementations in other languages."""

from __future__ import annotations

import argparse
from typing import Any

from refimpl.cli.common import UsageError, file_errors
from refimpl.cli.compare import named_spec


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "vectors",
        help="write or verify test vectors for other languages",
        description="Test vectors: inputs, true outputs, gradients and the error allowed of each, as safetensors."
        " Exit status: 0 all is well, 1 a result is off, 2 usage or a file that cannot be trusted.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    writing = actions.add_parser("write", help="write vectors into a folder")
    writing.add_argument("directory", metavar="DIR")
    writing.add_argument("--spec", action="append", metavar="SPEC", help="may be repeated; all specs by default")
    writing.add_argument(
        "--dtype", action="append", help="float64, float32 or float16; may be repeated; all by default"
    )
    writing.add_argument("--seed", type=int, default=0, metavar="N")
    writing.add_argument("--cases", type=int, default=8, metavar="N", help="for each spec and dtype (default 8)")
    writing.set_defaults(run=write)
    verifying = actions.add_parser("verify", help="check vectors, and results computed from them")
    verifying.add_argument("directory", metavar="DIR")
    verifying.add_argument("--outputs", metavar="DIR2", help="a folder of results, in files of the same names")
    verifying.set_defaults(run=verify)


def write(arguments: argparse.Namespace) -> int:
    from refimpl import oracle
    from refimpl.oracle import vectors

    chosen = [named_spec(name) for name in arguments.spec or oracle.all_specs()]
    dtypes = arguments.dtype or ["float64", "float32", "float16"]
    with file_errors(arguments.directory):
        try:
            written = vectors.write(arguments.directory, chosen, dtypes, seed=arguments.seed, n_cases=arguments.cases)
        except ValueError as error:
            raise UsageError(str(error)) from None
    print(f"{len(written) - 1} files of vectors and their manifest in {arguments.directory}")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    from refimpl.oracle import vectors

    status = 0
    try:
        for name, problem, looked_at in vectors.verify(arguments.directory, arguments.outputs):
            print(f"{name}: {problem or 'ok, ' + looked_at}", flush=True)
            status = max(status, int(bool(problem)))
    except ValueError as error:
        raise UsageError(str(error)) from None
    return status
