r"""The judgement: is a candidate as accurate as the same mathematics in the same precision?

For each input the reference runs at higher precision (the *truth*) and several times at the candidate's own (the
*baseline*). The candidate passes where

$$|c-t|_\infty\le f\cdot\max_i|b_i-t|_\infty+4u|t|_\infty,$$

with $c$ and $t$ the candidate's and the true output, $u$ the unit roundoff, $f=4$, $b_0$ the baseline's output, and
$b_1,\dots,b_6$ what it gives at inputs moved by one unit in the last place and with its roundings at random
(:mod:`.arithmetic`). Each of the $b_i$ is as good an answer in this precision as any other.

Six draws may all be lucky. So before an error is held against the candidate, 90 more are drawn: it fails if its error
exceeds four times the largest of 96.

Where the baseline's error exceeds a tenth of the output, or the output is below the precision's smallest normal number,
no correct digit is left to judge by: the case is *ill-conditioned* and counted apart. Where the truth is zero to its
own precision, as the gradient is of a query that sees one key, there are no digits to lose, and the bound decides.

Where no precision above float64 computes the function, the reference in float64 stands for the truth of a float64
candidate. Its own error is at most about as large as its spread over the moved inputs, so $f+1$ takes the place of $f$.
"""

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from refimpl.oracle.arithmetic import ROUNDOFF, at_random, to_nearest
from refimpl.oracle.frameworks import Framework
from refimpl.oracle.precision import (
    SMALLEST_NORMAL,
    baseline_arguments,
    neighbours,
    round_array,
    rounded_arguments,
)
from refimpl.oracle.spec import Arguments, Spec
from refimpl.oracle.structure import map_named, named_leaves
from refimpl.oracle.truth import Function, distance, precision_of_truth, size, to_float64, truth
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import leaves, tree_map

ROUNDING_UNITS = 4  # of the output's scale: the candidate's last operations may each round once more than ours
ILL_CONDITIONED = 0.1  # of the output's scale: less than one correct decimal digit
VANISHING = 64  # times the error that the baseline would have in the precision of the truth: the truth is zero
DRAWS = 6
MORE_DRAWS = 96
HOPELESS = 32  # times the bound: the largest of 96 draws is not so much larger than that of 6


@dataclass(frozen=True)
class Comparison:
    """One output array (or gradient) of the candidate against the truth."""

    quantity: str
    error: float
    bound: float
    baseline_error: float
    scale: float
    ill_conditioned: bool

    @property
    def ratio(self) -> float:
        """Error over bound: at most 1 passes."""
        if self.bound > 0:
            return self.error / self.bound
        return 0.0 if self.error == 0 else float("inf")

    @property
    def fails(self) -> bool:
        return not self.ill_conditioned and not self.ratio <= 1


@dataclass(frozen=True)
class Finding:
    """What is wrong with the candidate, on which input."""

    kind: str
    quantity: str
    message: str
    arguments: Arguments = field(repr=False)
    comparison: Comparison | None = None
    relation: str = ""


@dataclass(frozen=True)
class Expected:
    """What the reference says of one call, output by output.

    Parameters
    ----------
    arguments : as the candidate gets them, in float64.
    truth : the true outputs by name.
    baseline_error : the reference's own error in the candidate's precision.
    keeps_dtype : whether the reference's output has its arguments' dtype; a plain number has none.
    independent : whether the truth has more digits than the candidate.
    function, seed, draws, others : what :func:`expect` was given.
    """

    arguments: Arguments
    dtype: str
    truth: dict[str, Array]
    baseline_error: dict[str, float]
    keeps_dtype: dict[str, bool]
    independent: bool
    function: Function = field(repr=False)
    seed: int
    draws: int
    others: tuple[Function, ...]

    def redrawn(self) -> "Expected":
        """The same with so many draws that none of them being large is no accident."""
        if self.draws >= MORE_DRAWS:
            return self
        return expect(self.function, self.arguments, self.dtype, self.seed, MORE_DRAWS, self.others)

    def comparison(self, quantity: str, given: Array, factor: float) -> Comparison:
        true = self.truth[quantity]
        scale, baseline = size(true), self.baseline_error[quantity]
        smallest = SMALLEST_NORMAL[self.dtype]
        factor = factor if self.independent else factor + 1
        bound = factor * baseline + ROUNDING_UNITS * ROUNDOFF[self.dtype] * max(scale, smallest)
        own_of_truth = precision_of_truth(self.dtype) if self.independent else 0
        vanishing = scale <= VANISHING * baseline * own_of_truth / ROUNDOFF[self.dtype]
        lost = not (baseline <= ILL_CONDITIONED * scale or vanishing) or 0 < scale < smallest
        lost |= not np.isfinite(scale) or not np.isfinite(baseline)
        return Comparison(quantity, distance(given, true), bound, baseline, scale, lost)

    def finding(self, kind: str, quantity: str, message: str, comparison: Comparison | None = None) -> Finding:
        return Finding(kind, quantity, message, self.arguments, comparison)


def expect(
    function: Function,
    arguments: Arguments,
    dtype: str,
    seed: int,
    draws: int = DRAWS,
    others: tuple[Function, ...] = (),
) -> Expected:
    """Run the reference at higher precision, at the candidate's own, and with its roundings and inputs moved.

    Parameters
    ----------
    function : the reference; its outputs by name.
    others : the same mathematics written otherwise, which takes its turn in the draws.

    Raises
    ------
    ValueError
        If rounding to the candidate's precision leads out of the function's domain.
    """
    arguments = rounded_arguments(arguments, dtype)
    rng = np.random.default_rng(seed)
    kind = at_random(dtype, rng)
    with np.errstate(all="ignore"):
        first = function(**baseline_arguments(arguments, to_nearest(dtype)))
        true = truth(function, arguments, dtype)
        baselines: list[dict[str, Any] | None] = [first]
        written = itertools.cycle((function, *others))
        for moved, one in zip(neighbours(arguments, dtype, draws, rng), written, strict=False):
            for these in (moved, arguments):  # a neighbour may lie outside the domain
                with contextlib.suppress(ValueError):
                    baselines.append(_drawn(one, baseline_arguments(these, kind)))
                    break
    independent = true is not None
    if true is None:
        true = {name: np.asarray(value, np.float64) for name, value in first.items()}
    errors = {}
    for name, value in true.items():
        found = [distance(np.asarray(b[name]), value) if b is not None else float("inf") for b in baselines]
        errors[name] = max(found) if np.all(np.isfinite(found)) else float("inf")
    own = np.float32 if dtype == "bfloat16" or dtype == "float16" else np.dtype(dtype)
    keeps = {n: isinstance(v, np.ndarray | np.generic) and v.dtype == own for n, v in first.items()}
    return Expected(arguments, dtype, true, errors, keeps, independent, function, seed, draws, others)


def _drawn(function: Function, arguments: Arguments) -> dict[str, Any] | None:
    try:
        return function(**arguments)
    except np.linalg.LinAlgError:
        return None  # no digit is left


def outputs_of(reference: Callable[..., Any]) -> Function:
    """The function with its outputs by name: ``output`` or ``output.field``."""
    return lambda **arguments: named_leaves(reference(**arguments), "output")


class GradientCall:
    """The pullback at one cotangent, as a function of the arguments whose outputs are ``gradient of <argument>``.

    The cotangent is Gaussian, rounded to the candidate's precision, in a tree like the output's.
    """

    def __init__(self, spec: Spec, expected: Expected, rng: np.random.Generator) -> None:
        assert spec.vjp is not None
        self.vjp, self.other_vjps, self.dtype = spec.vjp, spec.other_vjps, expected.dtype
        self.names = spec.varied(expected.arguments)

        def draw(leaf: Any) -> Array:
            return np.asarray(round_array(rng.standard_normal(np.shape(leaf)), self.dtype), np.float64)

        self.cotangent = tree_map(draw, spec.reference(**expected.arguments))

    def gradients(self, **arguments: Any) -> dict[str, Any]:
        return self._gradients(self.vjp, **arguments)

    @property
    def others(self) -> tuple[Function, ...]:
        """The gradients by the other ways to write the pullback."""
        return tuple(partial(self._gradients, vjp) for vjp in self.other_vjps)

    def _gradients(self, vjp: Callable[..., Any], /, **arguments: Any) -> dict[str, Any]:
        like = next(leaves([arguments[name] for name in self.names]))
        kind = type(like)

        def convert(leaf: Array) -> Any:
            if like.dtype == object:
                return np.frompyfunc(type(like.flat[0]) if like.size else float, 1, 1)(leaf)
            return np.asarray(leaf, like.dtype).view(kind)

        _, pullback = vjp(**arguments)
        by_argument = dict(zip(self.names, pullback(tree_map(convert, self.cotangent)), strict=True))
        return {f"gradient of {path}": leaf for path, leaf in named_leaves(by_argument).items()}


# --- what a candidate returned ----------------------------------------------------------------------------------------


def receive(
    tree: Any, prefix: str, expected: Expected, adapter: Framework
) -> tuple[dict[str, Array] | None, list[Finding]]:
    """The candidate's arrays by name if their number, shapes and dtypes are right; else None and what is wrong.

    `prefix` is what the names of the expected arrays begin with: ``output``, or ``gradient of`` an argument. Arrays are
    matched by name if the candidate's tree has the reference's names, else by position.
    """
    if prefix == "output":
        found = named_leaves(tree, prefix)
    else:
        found = {f"{prefix} {path}": leaf for path, leaf in named_leaves(tree).items()}
    wanted = list(expected.truth)
    if len(found) != len(wanted):
        count = f"expected {len(wanted)} arrays ({', '.join(wanted)}), got {len(found)}"
        return None, [expected.finding("wrong structure", prefix, count)]
    if set(found) != set(wanted):
        found = dict(zip(wanted, found.values(), strict=True))
    given: dict[str, Array] = {}
    for quantity in wanted:
        true = expected.truth[quantity]
        try:
            values, dtype = adapter.to_numpy(found[quantity])
        except Exception as error:  # whatever a foreign object raises that does not become an array
            return None, [expected.finding("wrong type", quantity, f"{quantity} is not an array: {error}")]
        if values.dtype.kind not in "fiub":
            return None, [expected.finding("wrong type", quantity, f"{quantity} has dtype {dtype}, no real numbers")]
        if values.shape != true.shape:
            message = f"{quantity} has shape {values.shape}, expected {true.shape}"
            return None, [expected.finding("wrong shape", quantity, message)]
        if expected.keeps_dtype[quantity] and dtype != expected.dtype:
            message = f"{quantity} has dtype {dtype}, expected {expected.dtype}"
            return None, [expected.finding("wrong dtype", quantity, message)]
        given[quantity] = values
    return given, []


def gate(given: dict[str, Array], expected: Expected, factor: float) -> tuple[list[Comparison], list[Finding]]:
    """The comparison of every array, and a finding for each that is not accurate enough or not finite."""

    def compared() -> list[Comparison]:
        return [expected.comparison(quantity, values, factor) for quantity, values in given.items()]

    comparisons = compared()
    if any(one.fails and one.ratio <= HOPELESS for one in comparisons):
        expected = expected.redrawn()
        comparisons = compared()
    findings = []
    for one in comparisons:
        finite = bool(np.all(np.isfinite(given[one.quantity])))
        if not finite and np.isfinite(one.scale) and np.isfinite(one.baseline_error):
            message = f"{one.quantity} has NaN or infinite entries where the truth is finite"
            findings.append(expected.finding("non-finite", one.quantity, message, one))
        elif one.fails:
            message = f"{one.quantity} is off by {one.error:.2e}, allowed {one.bound:.2e}, scale {one.scale:.2e}"
            findings.append(expected.finding("inaccurate", one.quantity, message, one))
    return comparisons, findings


def mutated(inputs: Arguments, expected: Expected, adapter: Framework) -> Finding | None:
    """The finding that the candidate changed one of its inputs."""
    original = named_leaves(expected.arguments)
    for name, leaf in named_leaves(inputs).items():
        if isinstance(original[name], np.ndarray):
            values, _ = adapter.to_numpy(leaf)
            if values.shape != original[name].shape or not np.array_equal(values, original[name]):
                return expected.finding("mutation", name, f"the candidate changed its input {name}")
    return None


def candidate_arguments(expected: Expected, adapter: Framework) -> Arguments:
    """Fresh arrays of the candidate's framework; masks and integers too."""
    return tree_map(
        lambda leaf: adapter.to_framework(leaf, expected.dtype) if isinstance(leaf, np.ndarray) else leaf,
        expected.arguments,
    )


def like_reference(given: dict[str, Array], reference_output: Any) -> Any:
    """The candidate's arrays, in float64, in the tree that the reference returns."""
    return map_named(lambda name, leaf: to_float64(given[name]), reference_output, "output")
