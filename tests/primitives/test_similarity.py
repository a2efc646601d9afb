"""Cosines against angles that are known."""

import numpy as np
import pytest
import sympy

from refimpl.oracle.spec import symbols
from refimpl.primitives.similarity import cosine_similarity


def test_known_angles() -> None:
    angle = np.linspace(0.1, 3, 5)
    turned = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    first = np.broadcast_to(np.array([1.0, 0.0]), turned.shape)
    np.testing.assert_allclose(cosine_similarity(3 * first, turned / 7), np.cos(angle), atol=1e-15)


def test_tiny_and_huge_vectors_have_angles() -> None:
    v = np.array([[3.0, 4.0], [4.0, -3.0]])
    np.testing.assert_allclose(cosine_similarity(1e-200 * v, 1e200 * v[:1] + 0 * v), [1, 0], atol=1e-15)


def test_symbols_and_float32() -> None:
    a, b = symbols("a", 2), symbols("b", 2)
    value = cosine_similarity(a, b).item()
    assert sympy.simplify(value - (a @ b) / sympy.sqrt((a @ a) * (b @ b))) == 0
    assert cosine_similarity(np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)).dtype == np.float32


def test_zero_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="b: expected vectors that are not zero"):
        cosine_similarity(np.ones((2, 2)), np.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="b: expected d 2"):
        cosine_similarity(np.ones(2), np.ones(3))
