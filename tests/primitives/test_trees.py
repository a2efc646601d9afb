"""Nested parameter sets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from refimpl.primitives.trees import leaves, pack, tree_map, unpacking


class Pair(NamedTuple):
    first: Any
    second: Any


TREE = {"a": Pair(1, [2, None]), "b": (3, {"c": 4})}


def test_leaves_come_depth_first_without_none() -> None:
    assert list(leaves(TREE)) == [1, 2, 3, 4]
    assert list(leaves(None)) == []
    assert list(leaves(5)) == [5]


def test_map_keeps_the_structure() -> None:
    mapped = tree_map(lambda x, y: 10 * x + y, TREE, TREE)
    assert mapped == {"a": Pair(11, [22, None]), "b": (33, {"c": 44})}
    assert type(mapped["a"]) is Pair


def test_map_matches_dicts_by_key() -> None:
    assert tree_map(lambda x, y: x - y, {"a": 1, "b": 2}, {"b": 2, "a": 1}) == {"a": 0, "b": 0}


@pytest.mark.parametrize(
    ("tree", "other"),
    [
        ([1, 2], [1]),
        ([1], (1,)),
        (Pair(1, 2), (1, 2)),
        ({"a": 1}, {"b": 1}),
        (None, 1),
        ([1], None),
        ([1], 1),
    ],
)
def test_other_structures_are_refused(tree: Any, other: Any) -> None:
    add: Callable[..., Any] = lambda x, y: x + y  # noqa: E731
    with pytest.raises(ValueError, match="tree_map: expected trees of one structure"):
        tree_map(add, tree, other)


def test_pack_and_its_inverse() -> None:
    tree = {"a": Pair(np.arange(6.0).reshape(2, 3), [np.array(6.0), None]), "b": (np.arange(7.0, 9.0),)}
    np.testing.assert_array_equal(pack(tree), np.arange(9.0))
    again = unpacking(tree)(-pack(tree))
    assert type(again["a"]) is Pair
    tree_map(np.testing.assert_array_equal, tree_map(np.negative, tree), again)
