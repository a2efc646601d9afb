"""Nested parameter sets: NamedTuples, tuples, lists and dicts whose leaves are arrays."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Tree = TypeVar("Tree")


def _children(tree: Any) -> list[Any] | None:
    """The children of an inner node, in order; None for a leaf."""
    if isinstance(tree, dict):
        return list(tree.values())
    if isinstance(tree, list | tuple):
        return list(tree)
    return None


def leaves(tree: Any) -> Iterator[Any]:
    """The leaves, depth first; ``None`` is a node without leaves, as an absent parameter is."""
    children = _children(tree)
    if children is not None:
        for child in children:
            yield from leaves(child)
    elif tree is not None:
        yield tree


def tree_map(function: Callable[..., Any], tree: Tree, *others: Any) -> Tree:
    """Apply `function` to corresponding leaves of trees of one structure; return the tree of the results.

    Raises
    ------
    ValueError
        If the trees differ in structure.
    """
    if tree is None:
        if any(other is not None for other in others):
            raise ValueError("tree_map: expected trees of one structure, got a value against None")
        return tree
    children = _children(tree)
    if children is None:
        return function(tree, *others)
    for other in others:
        if type(other) is not type(tree) or len(other) != len(tree):  # type: ignore[arg-type]
            raise ValueError(f"tree_map: expected trees of one structure, got {type(other).__name__} against {tree!r}")
    if isinstance(tree, dict):
        return {  # type: ignore[return-value]
            key: tree_map(function, child, *(other[key] for other in others)) for key, child in tree.items()
        }
    mapped = [tree_map(function, *row) for row in zip(tree, *others, strict=True)]  # type: ignore[call-overload]
    if hasattr(tree, "_fields"):
        return type(tree)(*mapped)
    return type(tree)(mapped)  # type: ignore[call-arg]
