"""Nested arguments and results as arrays by name, and a description of how they nest for files that need no pickle."""

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from refimpl.primitives.numbers import Array

DEEPEST = 50


def named_leaves(tree: Any, name: str = "") -> dict[str, Any]:
    """The leaves by path: ``weights.key``, ``layers.0.bias``; a tree that is one leaf goes by `name`."""
    if tree is None:
        return {}
    if isinstance(tree, dict):
        children = [(str(key), child) for key, child in tree.items()]
    elif hasattr(tree, "_fields"):
        children = list(zip(tree._fields, tree, strict=True))
    elif isinstance(tree, list | tuple):
        children = [(str(index), child) for index, child in enumerate(tree)]
    else:
        return {name: tree}
    found: dict[str, Any] = {}
    for key, child in children:
        found.update(named_leaves(child, f"{name}.{key}" if name else key))
    return found


def map_named(function: Callable[[str, Any], Any], tree: Any, name: str = "") -> Any:
    """The tree with each leaf replaced by ``function(path, leaf)``; paths as :func:`named_leaves` gives them."""

    def child(key: Any, value: Any) -> Any:
        return map_named(function, value, f"{name}.{key}" if name else str(key))

    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: child(key, value) for key, value in tree.items()}
    if hasattr(tree, "_fields"):
        return type(tree)(*(child(key, value) for key, value in zip(tree._fields, tree, strict=True)))
    if isinstance(tree, list | tuple):
        return type(tree)(child(index, value) for index, value in enumerate(tree))
    return function(name, tree)


def flatten(tree: Any, name: str = "") -> tuple[Any, dict[str, Array]]:
    """Split a tree into a JSON description of its structure and its arrays by path."""
    if isinstance(tree, np.ndarray | np.generic):
        return {"array": name}, {name: np.asarray(tree)}
    if tree is None or isinstance(tree, bool | int | float | str):
        return {"value": tree}, {}
    arrays: dict[str, Array] = {}

    def child(key: Any, value: Any) -> Any:
        structure, found = flatten(value, f"{name}.{key}" if name else str(key))
        arrays.update(found)
        return structure

    if isinstance(tree, dict):
        return {"dict": {key: child(key, value) for key, value in tree.items()}}, arrays
    if hasattr(tree, "_fields"):
        kind = f"{type(tree).__module__}:{type(tree).__qualname__}"
        fields = {key: child(key, value) for key, value in zip(tree._fields, tree, strict=True)}
        return {"record": kind, "fields": fields}, arrays
    if isinstance(tree, list | tuple):
        return {type(tree).__name__: [child(index, value) for index, value in enumerate(tree)]}, arrays
    raise ValueError(f"{name}: expected arrays, numbers and containers of them, got {type(tree).__name__}")


def unflatten(structure: Any, arrays: dict[str, Array], depth: int = 0) -> Any:
    """The tree that :func:`flatten` split.

    Raises
    ------
    ValueError
        If the description is malformed or too deep, names an array that is not there, or a record type that is not
        refimpl's own.
    """

    def child(node: Any) -> Any:
        return unflatten(node, arrays, depth + 1)

    if depth > DEEPEST or not isinstance(structure, dict):
        raise ValueError(f"structure: expected objects at most {DEEPEST} deep, got {structure!r:.80}")
    match structure:
        case {"array": str(name)} if name in arrays:
            return arrays[name]
        case {"value": None | bool() | int() | float() | str() as value}:
            return value
        case {"dict": dict(children)}:
            return {key: child(node) for key, node in children.items()}
        case {"list": list(nodes)}:
            return [child(node) for node in nodes]
        case {"tuple": list(nodes)}:
            return tuple(child(node) for node in nodes)
        case {"record": str(kind), "fields": dict(fields)}:
            record = _record_type(kind)
            if list(fields) != list(record._fields):
                raise ValueError(f"structure: {kind:.80} has other fields")
            return record(*(child(node) for node in fields.values()))
    raise ValueError(f"structure: unknown node or missing array {structure!r:.80}")


def _record_type(name: str) -> Any:
    """A parameter set of refimpl's, from a module that is loaded: reading a file imports nothing."""
    module, _, attribute = name.partition(":")
    found = getattr(sys.modules.get(module), attribute, None) if module.split(".")[0] == "refimpl" else None
    if not (inspect.isclass(found) and issubclass(found, tuple) and hasattr(found, "_fields")):
        raise ValueError(f"structure: {name!r:.80} is no parameter set of refimpl's")
    return found


def parse_json(text: str | bytes) -> Any:
    """What the JSON says.

    Raises
    ------
    ValueError
        If it is not JSON in UTF-8, too deep, names a key twice, or has a number that is not finite.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            raise ValueError("JSON: a key stands twice in one object")
        return found

    def constant(name: str) -> Any:
        raise ValueError(f"JSON: {name} is not JSON")

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError:
        raise ValueError("JSON: nested too deep") from None
    except UnicodeDecodeError:
        raise ValueError("JSON: not UTF-8") from None


def parts(path: str) -> Iterator[str]:
    """The path's steps that are names, not positions: what ``layers.0.bias`` and ``layers.1.bias`` share."""
    return (step for step in path.split(".") if not step.isdigit())
