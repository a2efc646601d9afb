"""A paper's constructions: its public functions and parameter sets in the order of the code, with their source.

Those that other papers use too live in the primitives or the tasks; the paper exports them, and they close its page.
"""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from refimpl.catalogue import Paper


class Construction(NamedTuple):
    """A function or parameter set: its name, docstring, highlighted source without it, and where it is."""

    name: str
    docstring: str
    code: str
    path: str
    line: int


class Part(NamedTuple):
    """A module of a paper: its name, docstring and constructions."""

    name: str
    docstring: str
    path: str
    constructions: list[Construction]


@cache
def parts(paper: Paper) -> list[Part]:
    """The modules of a paper, in the order in which its docstring names them."""
    top = importlib.import_module(f"refimpl.{paper.area}.{paper.slug}")
    modules = [top]
    if hasattr(top, "__path__"):
        named = re.findall(r":mod:`~?\.?([\w.]+)`", top.__doc__ or "")
        names = [module.name for module in pkgutil.iter_modules(top.__path__)]
        order = sorted(names, key=lambda name: named.index(name) if name in named else len(named))
        modules += [importlib.import_module(f"{top.__name__}.{name}") for name in order]
    return [*(_part(module) for module in modules), *_shared(top)]


def _shared(top: ModuleType) -> Iterator[Part]:
    """What the paper exports of the modules that papers share: a part for each, with these constructions alone."""
    exported: dict[str, set[str]] = {}
    for name in getattr(top, "__all__", ()):
        home = str(getattr(getattr(top, name), "__module__", ""))
        if home.startswith(("refimpl.primitives.", "refimpl.tasks.")):
            exported.setdefault(home, set()).add(name)
    for home, names in sorted(exported.items()):
        part = _part(importlib.import_module(home))
        text = part.docstring.split("\n\n")[0]
        name = home.removeprefix("refimpl.")
        yield Part(name, text, part.path, [one for one in part.constructions if one.name in names])


def _part(module: ModuleType) -> Part:
    path = str(module.__file__)
    return Part(
        module.__name__.rpartition(".")[2], inspect.getdoc(module) or "", shown(path), list(_constructions(path))
    )


def shown(path: str) -> str:
    """The path from the package on."""
    pieces = Path(path).parts
    start = max(i for i, piece in enumerate(pieces) if piece in ("refimpl", "proofs"))
    return "/".join(pieces[start:])


def _constructions(path: str) -> Iterator[Construction]:
    """The public functions and classes; below each the private functions that do its work, but not those that check."""
    source = Path(path).read_text(encoding="utf-8")
    lines = source.split("\n")
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    private = {node.name: node for node in nodes if node.name.startswith("_") and "check" not in node.name}
    for node in nodes:
        if node.name.startswith("_"):
            continue
        docstring = ast.get_docstring(node) or ""
        used = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
        code = [_without_docstring(node, lines)]
        code += [_without_docstring(helper, lines, keep=True) for name, helper in private.items() if name in used]
        yield Construction(node.name, docstring, highlighted("\n\n\n".join(code)), shown(path), _first_line(node))


def _first_line(node: ast.FunctionDef | ast.ClassDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _without_docstring(node: ast.FunctionDef | ast.ClassDef, lines: list[str], keep: bool = False) -> str:
    start = _first_line(node) - 1
    if keep or ast.get_docstring(node) is None:
        return "\n".join(lines[start : node.end_lineno])
    text = node.body[0]
    assert text.end_lineno is not None
    return "\n".join(lines[start : text.lineno - 1] + lines[text.end_lineno : node.end_lineno])


def highlighted(code: str) -> str:
    """Python as HTML with classes for its tokens."""
    return str(highlight(code, PythonLexer(), HtmlFormatter(nowrap=False, cssclass="code")))


def listing(path: Path) -> str:
    """A whole file with numbered lines that can be linked to: ``#L12``."""
    formatter = HtmlFormatter(cssclass="code listing", linenos="inline", lineanchors="L", anchorlinenos=True)
    code = str(highlight(path.read_text(encoding="utf-8"), PythonLexer(), formatter))
    return code.replace('"L-', '"L').replace('"#L-', '"#L')
