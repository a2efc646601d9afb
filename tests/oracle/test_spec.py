"""Inputs as Hypothesis draws them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.oracle.spec import generators, real_arrays


@settings(derandomize=True, deadline=None)
@given(st.data())
def test_no_two_parts_of_an_input_are_equal(data: st.DataObject) -> None:
    """Though Hypothesis likes to draw the seed of one part again for another."""
    first, second = (data.draw(generators()).standard_normal() for _ in range(2))
    third = data.draw(generators().map(lambda rng: rng.standard_normal()))
    fourth = data.draw(real_arrays(()).filter(lambda x: x not in (0, 1)))
    assert len({first, second, third, float(fourth)}) == 4
