"""Mistakes made by program: every spec's reference with one edit of its arguments, its output, or its source code."""

import ast
import inspect
import signal
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from refimpl.oracle.spec import Arguments, Spec, examples
from refimpl.oracle.structure import map_named, named_leaves
from refimpl.primitives.trees import tree_map
from tests.oracle.plants import Plant

CHANGED = 1e-3  # of the output's scale: an edit that changes less on every input is no mistake but another formula
INPUTS_TO_CHANGE = 40


def changes_something(spec: Spec, wrong: Callable[..., Any], share: float = 0.2) -> bool:
    """Whether an edit is a mistake: it changes the output on a fair share of valid inputs, in float64.

    No judgement of the oracle's: that must find by its own means what is known here to be wrong.
    """
    changed = 0
    drawn = examples(spec, INPUTS_TO_CHANGE, seed=99)
    with np.errstate(all="ignore"):
        for arguments in drawn:
            true = named_leaves(spec.reference(**arguments), "output")
            try:
                given = named_leaves(wrong(**tree_map(_copied, arguments)), "output")
            except Exception:
                return False  # too easy
            if set(given) != set(true) or any(np.shape(given[n]) != np.shape(true[n]) for n in true):
                return False
            if not all(np.all(np.isfinite(x)) for x in given.values()):
                return False
            scale = max(float(np.max(np.abs(x), initial=0)) for x in true.values())
            distance = max(float(np.max(np.abs(given[n] - true[n]), initial=0)) for n in true)
            changed += scale > 0 and distance > CHANGED * scale
    return changed >= share * len(drawn)


def _copied(x: Any) -> Any:
    return x.copy() if isinstance(x, np.ndarray) else x


# --- edits of arguments and outputs ----------------------------------------------------------------------------------


def edited(spec: Spec) -> Iterator[Plant]:
    """The reference with its output or one argument edited: kinds that a diagnosis covers."""
    reference = spec.reference

    def scaled(factor: float) -> Callable[..., Any]:
        def times(leaf: Any) -> Any:
            return leaf * (np.asarray(leaf).dtype.type(factor) if isinstance(leaf, np.ndarray | np.generic) else factor)

        return lambda **arguments: tree_map(times, reference(**arguments))

    yield Plant("twice", spec.name, scaled(2), "constant factor")
    yield Plant("a third", spec.name, scaled(1 / 3), "constant factor")
    yield Plant("of the wrong sign", spec.name, scaled(-1), "sign")
    for path in sorted({path for arguments in examples(spec, 10, 1) for path in _arrays(arguments)}):
        for name, kind, edit in (
            ("has no effect", "missing term", np.zeros_like),
            ("enters with the wrong sign", "sign", np.negative),
            ("is transposed", "transposition", _transposed),
        ):
            yield Plant(f"{path} {name}", spec.name, _with_edited(reference, path, edit), kind)
    for name, value in examples(spec, 1, 1)[0].items():
        if isinstance(value, bool):
            flipped = lambda name=name, **arguments: reference(**arguments | {name: not arguments[name]})  # noqa: E731
            kind = "mask" if "causal" in name or "mask" in name else "flag"
            yield Plant(f"{name} is read the other way round", spec.name, flipped, kind)


def _arrays(arguments: Arguments) -> list[str]:
    found = named_leaves(arguments)
    return [path for path, leaf in found.items() if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f"]


def _transposed(x: Any) -> Any:
    return np.swapaxes(x, -1, -2).copy() if x.ndim >= 2 and x.shape[-1] == x.shape[-2] else x


def _with_edited(reference: Callable[..., Any], path: str, edit: Callable[[Any], Any]) -> Callable[..., Any]:
    def candidate(**arguments: Any) -> Any:
        return reference(**map_named(lambda name, leaf: edit(leaf) if name == path else leaf, arguments))

    return candidate


def edited_gradients(spec: Spec) -> Iterator[Plant]:
    """The right output and a pullback with one edit."""
    vjp = spec.vjp
    assert vjp is not None

    def pulled(edit: Callable[[list[Any]], list[Any]]) -> Callable[..., Any]:
        def wrong(**arguments: Any) -> Any:
            output, pullback = vjp(**arguments)
            return output, lambda cotangent: tuple(edit(list(pullback(cotangent))))

        return wrong

    count = len(spec.varied(examples(spec, 1, 1)[0]))
    if count >= 2:
        yield Plant("first gradient is zero", spec.name, spec.reference, "missing gradient",
                    vjp=pulled(lambda found: [tree_map(np.zeros_like, found[0]), *found[1:]]))  # fmt: skip
    yield Plant("last gradient is doubled", spec.name, spec.reference, "constant factor",
                vjp=pulled(lambda found: [*found[:-1], tree_map(lambda x: x * 2, found[-1])]))  # fmt: skip
    yield Plant("gradients have the wrong sign", spec.name, spec.reference, "sign",
                vjp=pulled(lambda found: tree_map(lambda x: -x, found)))  # fmt: skip


# --- edits of the source ---------------------------------------------------------------------------------------------


class _Edit(ast.NodeTransformer):
    """Makes the edit number `wanted` of those that the tree offers, and counts them."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.seen, self.made = wanted, 0, ""

    def _offer(self, node: ast.AST, edit: Callable[[], ast.AST], what: str) -> ast.AST:
        here = self.seen == self.wanted
        self.seen += 1
        if not here:
            return node
        self.made = f"line {getattr(node, 'lineno', 0)}: {what}"
        return ast.copy_location(edit(), node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        other = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult}.get(type(node.op))
        if other is not None:
            changed = ast.BinOp(node.left, other(), node.right)
            return self._offer(node, lambda: changed, f"{type(node.op).__name__} becomes {other.__name__}")
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        other = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}.get(type(node.op))
        if other is not None:
            changed = ast.AugAssign(node.target, other(), node.value)
            return self._offer(node, lambda: changed, f"{type(node.op).__name__}= becomes {other.__name__}=")
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if type(node.value) is int and node.value > 0:
            return self._offer(node, lambda: ast.Constant(node.value + 1), f"{node.value} becomes {node.value + 1}")
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = getattr(node.func, "id", "")
        if name in ("exp", "sqrt", "log", "transpose", "tanh", "absolute") and len(node.args) == 1:
            return self._offer(node, lambda: node.args[0], f"{name} left out")
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.USub):
            return self._offer(node, lambda: node.operand, "minus left out")
        return node


def _within_time(function: Callable[..., bool], *arguments: Any, seconds: float = 20.0) -> bool:
    """What the function says; False if it takes too long, as a loop may whose condition is edited."""

    def late(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return function(*arguments)
    except TimeoutError:
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def of_source(spec: Spec, rng: np.random.Generator, count: int) -> list[Plant]:
    """Up to `count` edits of the source of the reference that change its output."""
    function = inspect.unwrap(getattr(spec.reference, "unchecked", spec.reference))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return []
    (definition,) = tree.body
    if not isinstance(definition, ast.FunctionDef):
        return []
    definition.decorator_list, definition.returns = [], None
    if isinstance(definition.body[0], ast.Expr):
        definition.body = definition.body[1:] or definition.body
    for argument in ast.walk(definition.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    counter = _Edit(-1)
    counter.visit(tree)
    found: list[Plant] = []
    for wanted in rng.permutation(counter.seen):
        edit = _Edit(int(wanted))
        changed = ast.fix_missing_locations(edit.visit(ast.parse(ast.unparse(tree))))
        namespace = dict(function.__globals__)
        exec(compile(changed, f"<mutant of {spec.name}>", "exec"), namespace)
        mutant = namespace[definition.name]
        if _within_time(changes_something, spec, mutant):
            found.append(Plant(edit.made, spec.name, mutant))
        if len(found) == count:
            break
    return found
