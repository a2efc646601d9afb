"""The README's comparisons: ``python -m tests.oracle.readme`` runs them; with ``--write`` it puts their output there.

They need JAX and PyTorch (extra ``bench``). Exit status 0 if the README shows what they print.
"""

import difflib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def modules(text: str) -> dict[str, str]:
    """The code blocks that begin with the name of a file."""
    return {name: f"{body}\n" for name, body in re.findall(r"```python\n# (\w+\.py)\n(.*?)\n```", text, re.DOTALL)}


def with_output(text: str) -> str:
    """The README with the output of each of its ``refimpl compare`` commands that names a framework."""
    with tempfile.TemporaryDirectory() as directory:
        for name, body in modules(text).items():
            (Path(directory) / name).write_text(body)

        def run(block: re.Match[str]) -> str:
            shown = []
            for command in re.findall(r"^\$ (refimpl compare .*)$", block[1], re.MULTILINE):
                arguments = command.split()[1:]
                outcome = subprocess.run(
                    [sys.executable, "-m", "refimpl", *arguments],
                    cwd=directory,
                    env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                shown.append(f"$ {command}\n{outcome.stdout or outcome.stderr}")
            return "```sh\n" + "\n".join(shown) + "```"

        return re.sub(r"```sh\n(\$ refimpl compare .*?)```", run, text, flags=re.DOTALL)


def main() -> int:
    text = README.read_text()
    found = with_output(text)
    if "--write" in sys.argv[1:]:
        README.write_text(found)
        return 0
    sys.stdout.writelines(difflib.unified_diff(text.splitlines(True), found.splitlines(True), "README", "printed"))
    return int(found != text)


if __name__ == "__main__":
    sys.exit(main())
