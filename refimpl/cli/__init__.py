"""The command ``refimpl``.

A subcommand is a module of this package with its name. Its ``add`` enters a parser and the function that runs it; what
that function needs beyond the standard library it imports itself, so that no command waits for another's libraries.
Exit status: 0 all is well, 1 a claim does not hold, 2 the command line or a file is wrong, 130 interrupted.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from refimpl import __version__
from refimpl.cli import check, compare, list, report, show, vectors
from refimpl.cli.common import UsageError

COMMANDS = (list, show, check, compare, vectors, report)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="refimpl",
        description="NumPy reference implementations of machine-learning papers, with their claims machine-checked.",
    )
    parser.add_argument("--version", action="version", version=f"refimpl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    arguments = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for a terminal that lacks a sign of mathematics
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except UsageError as error:
        print(f"refimpl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has gone, as `head` does when it has enough; Python must not find out again as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
