r"""The judgement: is a candidate as accurate as the same mathematics in the same precision?

For each input the reference runs at higher precision (the *truth*) and at the candidate's own (the *baseline*). The
candidate passes where

$$|c-t|_\infty\le f\cdot\max_i|b_i-t|_\infty+4u|t|_\infty,$$

with $c$ and $t$ the candidate's and the true output, $b_0$ the baseline's, $b_1,\dots,b_6$ the baseline's at inputs
whose entries are moved by at most one unit in the last place, $u$ the unit roundoff and $f=4$. The moved inputs cannot
be told from the given ones in this precision; they keep a baseline that was lucky from condemning an honest candidate.
Where the baseline's error exceeds a tenth of the output, or the output is below the precision's smallest normal number,
no correct digit is left to judge by: the case is *ill-conditioned* and counted apart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl.oracle.cases import named_leaves
from refimpl.oracle.precision import ROUNDOFF, SMALLEST_NORMAL, cast, neighbour, round_leaf, truth_dtype
from refimpl.oracle.spec import Arguments, Spec
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import leaves, tree_map

ROUNDING_UNITS = 4  # of the output's scale: the candidate's last operations may each round once more than ours
ILL_CONDITIONED = 0.1  # of the output's scale: less than one correct decimal digit
NEIGHBOURS = 6


@dataclass(frozen=True)
class Comparison:
    """One output array (or gradient) of the candidate against the truth."""

    quantity: str
    error: float
    bound: float
    baseline_error: float
    scale: float
    smallest_normal: float = 0.0

    @property
    def ratio(self) -> float:
        """Error over bound: at most 1 passes."""
        if self.bound > 0:
            return self.error / self.bound
        return 0.0 if self.error == 0 else float("inf")

    @property
    def ill_conditioned(self) -> bool:
        return self.baseline_error > ILL_CONDITIONED * self.scale or 0 < self.scale < self.smallest_normal


@dataclass(frozen=True)
class Expected:
    """What the reference says of one call, output by output: the truth, its own error in the candidate's precision, and
    whether the output is an array (of the candidate's dtype) or a plain number."""

    arguments: Arguments
    truth: dict[str, Array]
    baseline_error: dict[str, float]
    floating: dict[str, bool]

    @property
    def rounded(self) -> Arguments:
        """The arguments as the candidate gets them, in float64."""
        return cast(self.arguments, lambda leaf: leaf.astype(np.float64))

    def comparison(self, quantity: str, given: Array, factor: float, dtype: str) -> Comparison:
        truth = self.truth[quantity]
        scale = size(truth)
        baseline = self.baseline_error[quantity]
        bound = factor * baseline + ROUNDING_UNITS * ROUNDOFF[dtype] * scale
        return Comparison(quantity, distance(given, truth), bound, baseline, scale, SMALLEST_NORMAL[dtype])


def size(x: Array) -> float:
    return float(np.max(np.abs(x), initial=0))


def distance(a: Array, b: Array) -> float:
    return float(np.max(np.abs(a.astype(b.dtype) - b), initial=0))


def expect(
    function: Callable[..., dict[str, Any]], arguments: Arguments, dtype: str, rng: np.random.Generator
) -> Expected:
    """Run the reference at higher precision, at the candidate's own, and at neighbouring inputs."""
    rounded = cast(arguments, lambda leaf: round_leaf(leaf, dtype))
    exact = cast(rounded, lambda leaf: np.array(leaf, dtype=truth_dtype(dtype)))
    with np.errstate(all="ignore"):
        truth = {name: np.asarray(value) for name, value in function(**exact).items()}
        baselines = [function(**rounded)]
        for _ in range(NEIGHBOURS):
            try:
                baselines.append(function(**neighbour(rounded, dtype, rng)))
            except ValueError:
                continue  # the neighbour lies outside the domain
    errors = {}
    for name, value in truth.items():
        distances = [distance(np.asarray(baseline[name]), value) for baseline in baselines]
        errors[name] = max(distances) if np.all(np.isfinite(distances)) else float("inf")
    floating = {name: isinstance(value, np.ndarray | np.generic) for name, value in baselines[0].items()}
    return Expected(exact, truth, errors, floating)


def outputs_of(reference: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """The function with its outputs by name: ``output`` or ``output.field``."""
    return lambda **arguments: named_leaves(reference(**arguments), "output")


class GradientCall:
    """The pullback at one cotangent, as a function of the arguments whose outputs are ``gradient of <argument>``.

    The cotangent is Gaussian, rounded to the candidate's precision, in a tree like the output's.
    """

    def __init__(self, spec: Spec, expected: Expected, dtype: str, rng: np.random.Generator) -> None:
        assert spec.vjp is not None
        self.vjp = spec.vjp
        self.dtype = dtype
        self.names = spec.varied(expected.arguments)
        drawn = iter([rng.standard_normal(value.shape) for value in expected.truth.values()])
        self.cotangent = tree_map(
            lambda leaf: np.asarray(round_leaf(np.asarray(next(drawn)), dtype), np.float64),
            spec.reference(**expected.rounded),
        )

    def gradients(self, **arguments: Any) -> dict[str, Any]:
        like = next(leaves([arguments[name] for name in self.names]))
        in_truth = like.dtype == truth_dtype(self.dtype)
        _, pullback = self.vjp(**arguments)
        pulled = pullback(
            tree_map(
                lambda leaf: np.asarray(leaf, like.dtype) if in_truth else round_leaf(leaf, self.dtype), self.cotangent
            )
        )
        by_argument = dict(zip(self.names, pulled, strict=True))
        return {f"gradient of {path}": leaf for path, leaf in named_leaves(by_argument).items()}
