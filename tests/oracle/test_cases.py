"""``oracle.cases`` in somebody's test suite."""

from typing import Any

import numpy as np
import pytest

from refimpl import oracle
from refimpl.primitives import layers, normalization


@pytest.mark.parametrize("case", oracle.cases("primitives/softmax", 6, dtype="float32"), ids=str)
def test_as_a_user_writes_it(case: oracle.Case) -> None:
    case.judge(normalization.softmax(**case.arguments))


@pytest.mark.parametrize("case", oracle.cases("primitives/mlp", 4, dtype="float64", seed=3), ids=str)
def test_with_gradients(case: oracle.Case) -> None:
    output, pullback = layers.mlp_vjp(**case.arguments)
    case.judge(output)
    case.judge_gradients(pullback(case.cotangent))
    case.check(layers.mlp, layers.mlp_vjp)


@pytest.fixture
def case() -> oracle.Case:
    return oracle.cases("primitives/linear", 5, dtype="float32", seed=1)[-1]


def test_the_same_seed_gives_the_same_cases() -> None:
    first, second = (oracle.cases("primitives/linear", 3, seed=4) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_equal(one.drawn, other.drawn)


def test_arguments_are_fresh_each_time(case: oracle.Case) -> None:
    case.arguments["x"][...] = np.nan
    case.judge(layers.linear(**case.arguments))


def test_arguments_have_the_precision(case: oracle.Case) -> None:
    assert {x.dtype.name for x in case.arguments.values() if x is not None} == {"float32"}
    assert case.cotangent.dtype == np.float32


def test_a_wrong_output(case: oracle.Case) -> None:
    with pytest.raises(AssertionError, match=r"^primitives/linear in float32: inaccurate: output is off by"):
        case.judge(2 * layers.linear(**case.arguments))
    with pytest.raises(AssertionError, match="wrong dtype: output has dtype float64, expected float32"):
        case.judge(layers.linear(**case.arguments).astype(np.float64))
    with pytest.raises(AssertionError, match="wrong shape"):
        case.judge(layers.linear(**case.arguments)[None])


def test_wrong_gradients(case: oracle.Case) -> None:
    _, pullback = layers.linear_vjp(**case.arguments)
    to_x, *others = pullback(case.cotangent)
    with pytest.raises(AssertionError, match="inaccurate: gradient of x is off by"):
        case.judge_gradients((-to_x, *others))
    with pytest.raises(AssertionError, match="expected gradients of x, weight"):
        case.judge_gradients((to_x,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype"),
        ({"n": 0}, "n: expected"),
        ({"seed": -1}, "seed"),
        ({"framework": "numba"}, "framework: expected numpy, jax or torch, got 'numba'"),
        ({"factor": 0}, "factor"),
        ({"spec": "primitives/lineer"}, "no spec 'primitives/lineer'; did you mean"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oracle.cases(**{"spec": "primitives/linear", "n": 2} | options)


def test_a_spec_without_gradient() -> None:
    (case,) = oracle.cases("dual_form/linear_attention", 1)
    with pytest.raises(ValueError, match="dual_form/linear_attention: has no gradient to compare with"):
        _ = case.cotangent
