"""Arguments as named arrays and a description of how they nest, for files that need no pickle."""

import importlib
import inspect
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.oracle.spec import Arguments
from refimpl.primitives.numbers import Array

_SPEC_KEY, _STRUCTURE_KEY = "__spec__", "__structure__"


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


def unflatten(structure: Any, arrays: dict[str, Array]) -> Any:
    """The tree that :func:`flatten` split.

    Raises
    ------
    ValueError
        If the description is malformed, names an array that is not there, or a record type that is not refimpl's own.
    """
    if not isinstance(structure, dict) or not structure:
        raise ValueError(f"structure: expected an object, got {structure!r:.80}")
    if "array" in structure:
        if structure["array"] not in arrays:
            raise ValueError(f"structure: names array {structure['array']!r:.80}, which is not there")
        return arrays[structure["array"]]
    if "value" in structure:
        return structure["value"]
    if "dict" in structure and isinstance(structure["dict"], dict):
        return {key: unflatten(child, arrays) for key, child in structure["dict"].items()}
    if "record" in structure and isinstance(structure.get("fields"), dict):
        return _record_type(structure["record"])(
            **{key: unflatten(child, arrays) for key, child in structure["fields"].items()}
        )
    for kind in (list, tuple):
        if isinstance(structure.get(kind.__name__), list):
            return kind(unflatten(child, arrays) for child in structure[kind.__name__])
    raise ValueError(f"structure: unknown node {structure!r:.80}")


def _record_type(name: Any) -> Callable[..., Any]:
    module, _, attribute = str(name).partition(":")
    if module.split(".")[0] != "refimpl" or not attribute.isidentifier():
        raise ValueError(f"structure: record type {name!r:.80} is not one of refimpl's")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"structure: record type {name!r:.80} does not exist") from error
    if not (inspect.isclass(found) and issubclass(found, tuple) and hasattr(found, "_fields")):
        raise ValueError(f"structure: record type {name!r:.80} is not a parameter set")
    return found


def save_case(path: str | pathlib.Path, spec: str, arguments: Arguments) -> pathlib.Path:
    """Write the arguments of one call to an ``.npz`` file; :func:`load_case` reads it back."""
    structure, arrays = flatten(arguments)
    path = pathlib.Path(path)
    np.savez(path, **{_SPEC_KEY: np.array(spec), _STRUCTURE_KEY: np.array(json.dumps(structure))}, **arrays)  # type: ignore[arg-type]
    return path


def load_case(path: str | pathlib.Path) -> tuple[str, Arguments]:
    """The spec's name and the arguments that :func:`save_case` wrote.

    Raises
    ------
    ValueError
        If the file is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        spec, structure = str(arrays.pop(_SPEC_KEY)), json.loads(str(arrays.pop(_STRUCTURE_KEY)))
    except (OSError, KeyError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a saved case ({error})") from error
    arguments = unflatten(structure, arrays)
    if not isinstance(arguments, dict):
        raise ValueError(f"{path}: not a saved case (no arguments)")
    return spec, arguments
