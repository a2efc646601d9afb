"""The truth: linear algebra in longdouble, digits that are not lost, and SymPy where longdouble has no more of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from refimpl.oracle import linalg
from refimpl.oracle import truth as module
from refimpl.oracle.longdouble import LongDouble
from refimpl.oracle.spec import examples, find_spec
from refimpl.oracle.truth import truth
from refimpl.primitives.numbers import Array

EPSILON = float(np.finfo(np.longdouble).eps)
SHAPES = [(3, 3), (5, 3), (2, 4, 4), (1, 1), (3, 2)]


@pytest.fixture
def draw(rng: np.random.Generator) -> Callable[..., Array]:
    return lambda *shape: rng.standard_normal(shape).astype(np.longdouble)


def residual(a: Any, b: Any) -> float:
    """The largest difference, in units of longdouble's roundoff and of the largest entry."""
    scale = max(float(np.max(np.abs(a), initial=0)), 1e-300)
    return float(np.max(np.abs(a - b), initial=0)) / (scale * EPSILON)


def transposed(x: Array) -> Array:
    return np.swapaxes(x, -1, -2)


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_solve_and_determinant(n: int, draw: Callable[..., Array]) -> None:
    a, b = draw(2, n, n), draw(2, n, 3)
    condition = float(np.max(np.linalg.cond(a.astype(np.float64))))
    assert residual(a @ linalg.solve(a, b), b) <= 30 * n * condition
    assert residual(linalg.solve(a[0], b[0, :, 0]), linalg.solve(a[0], b[0])[:, 0]) <= 1
    assert residual(a @ linalg.inv(a), np.eye(n)) <= 30 * n * condition
    np.testing.assert_allclose(linalg.det(a).astype(float), np.linalg.det(a.astype(float)), rtol=1e-12)
    sign, logarithm = linalg.slogdet(a)
    np.testing.assert_allclose((sign * np.exp(logarithm)).astype(float), np.linalg.det(a.astype(float)), rtol=1e-12)
    with pytest.raises(np.linalg.LinAlgError):
        linalg.solve(np.zeros((n, n), np.longdouble), b[0])


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_symmetric_matrices(n: int, draw: Callable[..., Array]) -> None:
    half = draw(2, n, n)
    a = half @ transposed(half) + np.eye(n)
    values, vectors = linalg.eigh(a)
    assert residual(a, vectors * values[..., None, :] @ transposed(vectors)) <= 40 * n
    assert residual(np.eye(n) + 0 * a, transposed(vectors) @ vectors) <= 40 * n
    theirs = np.linalg.eigh(a.astype(float))
    np.testing.assert_allclose(values.astype(float), theirs.eigenvalues, rtol=1e-12)
    np.testing.assert_allclose(vectors.astype(float), theirs.eigenvectors, atol=1e-8)
    assert residual(values, linalg.eigvalsh(a)) <= 1
    lower = linalg.cholesky(a)
    assert residual(a, lower @ transposed(lower)) <= 10 * n
    with pytest.raises(np.linalg.LinAlgError):
        linalg.cholesky(-a)


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values(shape: tuple[int, ...], draw: Callable[..., Array]) -> None:
    a = draw(*shape)
    left, values, right = linalg.svd(a, full_matrices=False)
    n = max(shape)
    assert residual(a, left * values[..., None, :] @ right) <= 40 * n
    theirs = np.linalg.svd(a.astype(float), full_matrices=False)
    np.testing.assert_allclose(values.astype(float), theirs.S, rtol=1e-12)
    np.testing.assert_allclose(left.astype(float), theirs.U, atol=1e-8)
    assert residual(a @ linalg.pinv(a) @ a, a) <= 400 * n
    q, r = linalg.qr(a)
    assert residual(a, q @ r) <= 40 * n
    assert residual(transposed(q) @ q, np.eye(q.shape[-1]) + 0 * transposed(q) @ q) <= 40 * n
    np.testing.assert_allclose(q.astype(float), np.linalg.qr(a.astype(float)).Q, atol=1e-8)
    for order in (2, -2, "nuc"):
        ours, theirs_ = linalg.norm(a, order, (-2, -1)), np.linalg.norm(a.astype(float), order, (-2, -1))
        np.testing.assert_allclose(ours.astype(float), theirs_, rtol=1e-12)


def test_rank_deficient(draw: Callable[..., Array]) -> None:
    a = draw(5, 2) @ draw(2, 4)
    b = draw(5)
    x, _, rank, _ = linalg.lstsq(a, b)
    assert rank == 2
    np.testing.assert_allclose(x.astype(float), np.linalg.lstsq(a.astype(float), b.astype(float))[0], rtol=1e-10)
    left, values, _ = linalg.svd(a, full_matrices=False)
    assert values[2] <= 100 * EPSILON * values[0]
    assert residual(left.T @ left, np.eye(4)) <= 400


def test_functions_of_numpy_run_in_longdouble(draw: Callable[..., Array]) -> None:
    a = LongDouble.of(draw(4, 4))
    for result in (np.linalg.inv(a), np.linalg.svd(a).S, np.linalg.norm(a), a @ a, np.einsum("ij,jk", a, a), a.sum()):
        assert isinstance(result, LongDouble)
        assert result.dtype == np.longdouble
    assert residual(np.linalg.inv(a) @ a, np.eye(4)) < 1e5


@pytest.mark.parametrize(
    "loses", [lambda a: a * np.full(2, 0.1), lambda a: np.linalg.eig(a), lambda a: np.linalg.svd(a[:1])]
)
def test_what_would_lose_digits_is_refused(loses: Callable[[Any], Any], draw: Callable[..., Array]) -> None:
    with pytest.raises(linalg.LosesDigits):
        loses(LongDouble.of(draw(2, 2)))


def test_no_truth_is_none_and_not_a_guess() -> None:
    def by_lapack(x: Array) -> dict[str, Any]:
        return {"output": np.linalg.eigvals(x @ x.T)}

    assert truth(by_lapack, {"x": np.eye(2) / 3}, "float64") is None
    assert truth(by_lapack, {"x": np.eye(2) / 3}, "float32") is not None


@pytest.mark.parametrize("name", ["primitives/softmax", "primitives/layer_norm", "primitives/linear", "primitives/erf"])
def test_sympy_where_longdouble_is_no_longer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec(name)
    arguments = next(a for a in examples(spec, 20, 2) if 1 < a["x"].size < 20)

    def outputs(**given: Any) -> dict[str, Any]:
        return {"output": spec.reference(**given)}

    long = truth(outputs, arguments, "float64")
    monkeypatch.setattr(module, "HAS_LONGDOUBLE", False)
    symbolic = truth(outputs, arguments, "float64")
    assert long is not None
    assert symbolic is not None
    assert symbolic["output"].dtype == object
    rounded = long["output"].astype(float)
    assert module.distance(rounded, symbolic["output"]) <= 2.0**-53 * np.max(np.abs(rounded))
