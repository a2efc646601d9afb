r"""The judgement: is a candidate as accurate as the same mathematics in the same precision?

For each input the reference runs at higher precision (the *truth*) and at the candidate's own (the *baseline*). The
candidate passes where

$$|c-t|_\infty\le f\cdot\max_i|b_i-t|_\infty+4u|t|_\infty,$$

with $c$ and $t$ the candidate's and the true output, $b_0$ the baseline's, $b_1,\dots,b_6$ the baseline's at inputs
whose entries are moved by one unit in the last place, $u$ the unit roundoff and $f=4$. The moved inputs cannot be told
from the given ones in this precision; they keep a baseline that was lucky from condemning an honest candidate.

Where the baseline's error exceeds a tenth of the output, or the output is below the precision's smallest normal number,
no correct digit is left to judge by: the case is *ill-conditioned* and counted apart.

Where no precision above float64 computes the function, the reference in float64 stands for the truth of a float64
candidate. Its own error is at most about as large as its spread over the moved inputs, so $f+1$ takes the place of $f$.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refimpl.oracle.frameworks import Framework
from refimpl.oracle.precision import (
    BESIDE_ZERO,
    ROUNDOFF,
    SMALLEST_NORMAL,
    baseline_arguments,
    neighbours,
    round_array,
    rounded_arguments,
)
from refimpl.oracle.spec import Arguments, Spec
from refimpl.oracle.structure import map_named, named_leaves
from refimpl.oracle.truth import Function, distance, size, to_float64, truth
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import leaves, tree_map

ROUNDING_UNITS = 4  # of the output's scale: the candidate's last operations may each round once more than ours
ILL_CONDITIONED = 0.1  # of the output's scale: less than one correct decimal digit
NEGLIGIBLE = 256  # times what zeros were moved by: where the truth is 0, the error that this alone can make
NEIGHBOURS = 6


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
    """

    arguments: Arguments
    dtype: str
    truth: dict[str, Array]
    baseline_error: dict[str, float]
    keeps_dtype: dict[str, bool]
    independent: bool

    def comparison(self, quantity: str, given: Array, factor: float) -> Comparison:
        true = self.truth[quantity]
        scale, baseline = size(true), self.baseline_error[quantity]
        smallest = SMALLEST_NORMAL[self.dtype]
        factor = factor if self.independent else factor + 1
        bound = factor * baseline + ROUNDING_UNITS * ROUNDOFF[self.dtype] * max(scale, smallest)
        tolerable = ILL_CONDITIONED * scale if scale else NEGLIGIBLE * BESIDE_ZERO[self.dtype]
        lost = not baseline <= tolerable or 0 < scale < smallest or not np.isfinite(scale)
        return Comparison(quantity, distance(given, true), bound, baseline, scale, lost)

    def finding(self, kind: str, quantity: str, message: str, comparison: Comparison | None = None) -> Finding:
        return Finding(kind, quantity, message, self.arguments, comparison)


def expect(function: Function, arguments: Arguments, dtype: str, rng: np.random.Generator) -> Expected:
    """Run the reference at higher precision, at the candidate's own, and at neighbouring inputs.

    Raises
    ------
    ValueError
        If rounding to the candidate's precision leads out of the function's domain.
    """
    arguments = rounded_arguments(arguments, dtype)
    with np.errstate(all="ignore"):
        first = function(**baseline_arguments(arguments, dtype))
        true = truth(function, arguments, dtype)
        baselines: list[dict[str, Any] | None] = [first]
        for moved in neighbours(arguments, dtype, NEIGHBOURS, rng):
            try:
                baselines.append(function(**baseline_arguments(moved, dtype)))
            except np.linalg.LinAlgError:
                baselines.append(None)
            except ValueError:
                continue  # the neighbour lies outside the domain
    independent = true is not None
    if true is None:
        true = {name: np.asarray(value, np.float64) for name, value in first.items()}
    errors = {}
    for name, value in true.items():
        found = [distance(np.asarray(b[name]), value) if b is not None else float("inf") for b in baselines]
        errors[name] = max(found) if np.all(np.isfinite(found)) else float("inf")
    own = np.float32 if dtype == "bfloat16" or dtype == "float16" else np.dtype(dtype)
    keeps = {n: isinstance(v, np.ndarray | np.generic) and v.dtype == own for n, v in first.items()}
    return Expected(arguments, dtype, true, errors, keeps, independent)


def outputs_of(reference: Callable[..., Any]) -> Function:
    """The function with its outputs by name: ``output`` or ``output.field``."""
    return lambda **arguments: named_leaves(reference(**arguments), "output")


class GradientCall:
    """The pullback at one cotangent, as a function of the arguments whose outputs are ``gradient of <argument>``.

    The cotangent is Gaussian, rounded to the candidate's precision, in a tree like the output's.
    """

    def __init__(self, spec: Spec, expected: Expected, rng: np.random.Generator) -> None:
        assert spec.vjp is not None
        self.vjp, self.dtype = spec.vjp, expected.dtype
        self.names = spec.varied(expected.arguments)

        def draw(leaf: Any) -> Array:
            return np.asarray(round_array(rng.standard_normal(np.shape(leaf)), self.dtype), np.float64)

        self.cotangent = tree_map(draw, spec.reference(**expected.arguments))

    def gradients(self, **arguments: Any) -> dict[str, Any]:
        like = next(leaves([arguments[name] for name in self.names]))
        kind = type(like)

        def convert(leaf: Array) -> Any:
            if like.dtype == object:
                return np.frompyfunc(type(like.flat[0]) if like.size else float, 1, 1)(leaf)
            return np.asarray(leaf, like.dtype).view(kind)

        _, pullback = self.vjp(**arguments)
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
    comparisons = [expected.comparison(quantity, values, factor) for quantity, values in given.items()]
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
