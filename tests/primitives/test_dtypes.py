"""Half precision stays half precision, through every operation and its pullback, overflow or not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.oracle.spec import Spec, all_specs, differentiable
from refimpl.primitives.trees import leaves, tree_map

SPECS = [spec for name, spec in all_specs().items() if name.startswith("primitives/") and "float16" in spec.dtypes]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_half_precision_is_kept(spec: Spec, data: st.DataObject) -> None:
    arguments = data.draw(spec.arguments)
    names = differentiable(arguments)
    half = arguments | {name: tree_map(lambda leaf: leaf.astype(np.float16), arguments[name]) for name in names}
    with np.errstate(all="ignore"):
        everything = [spec.reference(**half)]
        if spec.vjp is not None:
            output, pullback = spec.vjp(**half)
            everything += [output, *pullback(tree_map(np.ones_like, output))]
    assert {leaf.dtype for leaf in leaves(everything)} == {np.dtype(np.float16)}
