"""Nested parameter sets: NamedTuples, tuples, lists and dicts whose leaves are arrays."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from refimpl.primitives.numbers import Array

Tree = TypeVar("Tree")


_SEQUENCES = (list, tuple)


def _children(tree: Any) -> list[Any] | None:
    """The children of an inner node, in order; None for a leaf."""
    if isinstance(tree, dict):
        return list(tree.values())
    if isinstance(tree, _SEQUENCES):
        return list(tree)
    return None


def _keys(node: Any) -> Any:
    """What two inner nodes of one type must have in common: the keys of a dict in any order, else the length."""
    return set(node) if isinstance(node, dict) else len(node)


def _describe(tree: Any) -> str:
    children = _children(tree)
    return type(tree).__name__ if children is None else f"{type(tree).__name__} of {len(children)}"


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
        if type(other) is not type(tree) or _keys(other) != _keys(tree):
            raise ValueError(
                f"tree_map: expected trees of one structure, got {_describe(other)} against {_describe(tree)}"
            )
    if isinstance(tree, dict):
        return {  # type: ignore[return-value]
            key: tree_map(function, child, *(other[key] for other in others)) for key, child in tree.items()
        }
    mapped = [tree_map(function, *row) for row in zip(tree, *others, strict=True)]  # type: ignore[call-overload]
    if hasattr(tree, "_fields"):
        return type(tree)(*mapped)
    return type(tree)(mapped)  # type: ignore[call-arg]


def pack(tree: Any) -> Array:
    """The entries of all leaves in one vector, depth first."""
    return np.concatenate([leaf.reshape(-1) for leaf in leaves(tree)])


def unpacking(tree: Tree) -> Callable[[Array], Tree]:
    """The inverse of :func:`pack` for trees like this one; the leaves are views of the vector."""
    ends = np.cumsum([leaf.size for leaf in leaves(tree)]).tolist()

    def unpack(vector: Array) -> Tree:
        parts = zip([0, *ends], ends, strict=False)

        def part(leaf: Array) -> Array:
            start, end = next(parts)
            return vector[start:end].reshape(leaf.shape)

        return tree_map(part, tree)

    return unpack
