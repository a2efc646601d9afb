"""Every spec: its metamorphic relations hold of its own reference, to more digits than a candidate is judged by."""

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.oracle.spec import Relation, Spec, all_specs, differentiable
from refimpl.primitives.trees import leaves, tree_map

RELATIONS = [(spec, relation) for spec in all_specs().values() for relation in spec.relations]


def widened(spec: Spec, arguments: Any) -> Any:
    """The arguments in longdouble, or as they are where the reference needs LAPACK."""
    if spec.symbols is None:
        return arguments
    names = differentiable(arguments)
    return arguments | {name: tree_map(lambda leaf: leaf.astype(np.longdouble), arguments[name]) for name in names}


@pytest.mark.parametrize(
    ("spec", "relation"), RELATIONS, ids=[f"{spec.name}: {relation.name}" for spec, relation in RELATIONS]
)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_relations_hold_of_the_reference(spec: Spec, relation: Relation, data: st.DataObject) -> None:
    arguments = widened(spec, data.draw(spec.arguments))
    changed = relation.transform(arguments)
    assert list(changed) == list(arguments)
    output = spec.reference(**arguments)
    expected, received = relation.expected(output, arguments), spec.reference(**changed)
    digits = 1e-7 if spec.symbols is None else 1e-13
    for a, b, before in zip(leaves(received), leaves(expected), leaves(output), strict=True):
        assert np.shape(a) == np.shape(b)
        scale = 1 + max(float(np.max(np.abs(x), initial=0)) for x in (a, b, before))
        assert float(np.max(np.abs(a - b), initial=0)) <= digits * scale


@pytest.mark.parametrize("spec", all_specs().values(), ids=lambda spec: spec.name)
def test_a_spec_fits_its_reference(spec: Spec) -> None:
    parameters = list(inspect.signature(spec.reference).parameters)
    if spec.vjp is not None:
        assert list(inspect.signature(spec.vjp).parameters) == parameters
    if spec.symbols is not None:
        assert [name for name in parameters if name in spec.symbols()] == list(spec.symbols())
