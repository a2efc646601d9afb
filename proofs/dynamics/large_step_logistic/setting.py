"""What the claims share: exact data, and digits in balance and out of it."""

from functools import cache

import numpy as np
import sympy

from refimpl.primitives.numbers import Array
from refimpl.tasks.classification import digit_pair, signed_features

ROUNDOFF = float(np.finfo(float).eps) / 2


def exact(z: Array) -> Array:
    """The same numbers as exact rationals."""
    return np.array([[sympy.Rational(float(entry)) for entry in row] for row in z], dtype=object)


@cache
def digits() -> Array:
    """Signed features of all 357 threes (positive) and eights of scikit-learn's digits."""
    z = signed_features(*digit_pair(3, 8))
    z.setflags(write=False)
    return z


def threes_and(eights: Array, repeats: int = 1) -> Array:
    """All threes, that many times, and these eights, by number."""
    z = digits()
    positive = z[:, -1] > 0
    return np.concatenate([np.repeat(z[positive], repeats, axis=0), z[~positive][eights]])
