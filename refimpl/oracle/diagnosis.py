"""Why a candidate is wrong: which usual mistake reproduces its output.

Each hypothesis predicts what the candidate would return if it made one mistake. A diagnosis is a hypothesis whose
prediction meets the candidate's output, to the bound that the right output would have to meet or to a thousandth of the
candidate's error, on *every* failing input where it predicts anything. So its evidence is predictions that came true.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from refimpl.oracle.spec import Arguments, differentiable
from refimpl.oracle.structure import named_leaves
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import tree_map

UNEXPLAINED = 1e-3  # of the candidate's error: what a mistake that explains it may leave over
FEWEST = 3  # failing inputs: on one or two, some simple constant always fits


@dataclass(frozen=True)
class Diagnosis:
    """A mistake that explains the failures, and on how many failing inputs its prediction was met."""

    kind: str
    description: str
    inputs: int
    failing: int

    def __str__(self) -> str:
        evidence = f"reproduces the candidate on {self.inputs} of {self.failing} failing inputs"
        return f"{self.kind}: {self.description} ({evidence})"


@dataclass(frozen=True)
class Failure:
    """A failing input: what the candidate gave and what is true, array by array, and the bound on their distance."""

    arguments: Arguments
    reference: Callable[..., dict[str, Array]]
    given: dict[str, Array]
    truth: dict[str, Array]
    bounds: dict[str, float]
    lower_precision: Callable[[], dict[str, float]]


Key = tuple[str, str]
Hypotheses = Iterator[tuple[Key, dict[str, Array] | None]]


def diagnose(failures: list[Failure], mistakes: dict[Key, Callable[..., Any]]) -> list[Diagnosis]:
    """The mistakes that explain all failures, most specific first.

    Parameters
    ----------
    failures : the failing inputs.
    mistakes : wrong versions of the reference that the spec knows of, by kind and description, each giving its outputs
        by name.
    """
    rounds = [_explanations(failure, mistakes) for failure in failures]
    candidates = dict.fromkeys(key for met, _ in rounds for key in met)
    named = []
    for key in candidates:
        count = sum(key in met for met, _ in rounds)
        untestable = sum(key in silent for _, silent in rounds)
        if count >= FEWEST and count + untestable == len(failures):
            named.append(Diagnosis(*key, count, len(failures)))
    named.sort(key=lambda one: _PRIORITY.index(one.kind) if one.kind in _PRIORITY else -1)
    return named or _low_precision(failures)


# More specific kinds first: an explanation by one argument says more than a factor that happens to fit.
_PRIORITY = [
    "missing gradient",
    "swapped gradients",
    "mask",
    "off by one",
    "missing term",
    "missing residual",
    "double application",
    "transposition",
    "axis",
    "swapped arguments",
    "sign",
    "constant factor",
]


def _explanations(failure: Failure, mistakes: dict[Key, Callable[..., Any]]) -> tuple[list[Key], set[Key]]:
    """The mistakes whose prediction is met here, and those that make no prediction here."""
    met: list[Key] = []
    untestable: set[Key] = set()
    for key, predicted in _hypotheses(failure, mistakes):
        if predicted is None:
            untestable.add(key)
        elif key not in met and _meets(failure, predicted):
            met.append(key)
    return met + _factors(failure), untestable


def _meets(failure: Failure, predicted: dict[str, Array]) -> bool:
    for name, given in failure.given.items():
        value = predicted.get(name)
        if value is None or np.shape(value) != given.shape:
            return False
        distance, truth = _size(given - value), failure.truth[name]
        # A prediction larger than the truth rounds by as much more; one that is badly conditioned, by more than that.
        growth = max(1.0, _size(value) / max(_size(truth), 1e-300)) if _size(truth) else 1.0
        allowed = 2 * growth * failure.bounds[name] + 1e-14 * _size(value)
        if not distance <= max(allowed, UNEXPLAINED * _size(given - truth)):
            return False
    return True


def _size(x: Array) -> float:
    return float(np.max(np.abs(x), initial=0.0))


def _hypotheses(failure: Failure, mistakes: dict[Key, Callable[..., Any]]) -> Hypotheses:
    for key, wrong in mistakes.items():
        yield key, _attempt(wrong, failure.arguments)
    for key, arguments in _edited_arguments(failure.arguments):
        yield key, _attempt(failure.reference, arguments)
    yield from _edited_outputs(failure)


def _attempt(function: Callable[..., Any], arguments: Arguments) -> dict[str, Array] | None:
    """What `function` returns there; None where the mistake leads out of its domain."""
    try:
        with np.errstate(all="ignore"):
            return {name: np.asarray(value) for name, value in function(**arguments).items()}
    except (ValueError, IndexError, TypeError, ArithmeticError, np.linalg.LinAlgError):
        return None


def _edited_arguments(arguments: Arguments) -> Iterator[tuple[Key, Arguments]]:
    """One mistake in how an argument is used, as the argument that a correct function would have to be given."""
    paths = named_leaves({name: arguments[name] for name in differentiable(arguments)})

    for name, value in arguments.items():
        if isinstance(value, bool):
            yield (
                ("mask" if "causal" in name or "mask" in name else "flag", f"`{name}` is ignored"),
                {
                    **arguments,
                    name: not value,
                },
            )
        elif isinstance(value, int):
            for step in (1, -1):
                yield ("off by one", f"`{name}` {'+' if step > 0 else '-'} 1"), {**arguments, name: value + step}
        elif isinstance(value, np.ndarray) and value.dtype == bool:
            yield ("mask", f"`{name}` is ignored"), {**arguments, name: np.ones_like(value)}
            yield ("mask", f"`{name}` is inverted"), {**arguments, name: ~value}
            for step in (1, -1):
                yield ("off by one", f"`{name}` is shifted by one"), {**arguments, name: np.roll(value, step, -1)}
    for path, leaf in paths.items():
        yield ("missing term", f"`{path}` has no effect"), _replaced(arguments, path, np.zeros_like(leaf))
        yield ("sign", f"`{path}` enters with the wrong sign"), _replaced(arguments, path, -leaf)
        if leaf.ndim >= 2 and leaf.shape[-1] == leaf.shape[-2] > 1:
            yield ("transposition", f"`{path}` is transposed"), _replaced(arguments, path, np.swapaxes(leaf, -1, -2))
    names = list(paths)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if paths[first].shape == paths[second].shape:
                swapped = _replaced(_replaced(arguments, first, paths[second]), second, paths[first])
                yield ("swapped arguments", f"`{first}` and `{second}` are swapped"), swapped


def _replaced(arguments: Arguments, path: str, new: Array) -> Arguments:
    """The arguments with the array at this path replaced."""

    def rebuild(tree: Any, name: str) -> Any:
        if name == path:
            return new
        if not path.startswith(name + ".") or tree is None:
            return tree
        if isinstance(tree, dict):
            return {key: rebuild(child, f"{name}.{key}") for key, child in tree.items()}
        if hasattr(tree, "_fields"):
            return type(tree)(*(rebuild(c, f"{name}.{k}") for k, c in zip(tree._fields, tree, strict=True)))
        return type(tree)(rebuild(child, f"{name}.{index}") for index, child in enumerate(tree))

    return {name: rebuild(tree, name) for name, tree in arguments.items()}


def _edited_outputs(failure: Failure) -> Hypotheses:
    """One mistake in what is done with the right output."""
    truth = failure.truth
    arrays = {name: failure.arguments[name] for name in differentiable(failure.arguments)}
    if all(value.ndim >= 2 for value in truth.values()):
        yield ("transposition", "the output is transposed"), {n: np.swapaxes(v, -1, -2) for n, v in truth.items()}
    along_other_axis = _attempt(
        failure.reference,
        {**failure.arguments, **{n: tree_map(_swap_if_matrix, tree) for n, tree in arrays.items()}},
    )
    if along_other_axis is not None:
        yield ("axis", "works along the other axis"), {n: _swap_if_matrix(v) for n, v in along_other_axis.items()}
    if len(truth) == 1:
        ((name, value),) = truth.items()
        for path, leaf in named_leaves(arrays).items():
            if leaf.shape == value.shape:
                yield ("missing residual", f"`{path}` is not added back"), {name: value - leaf}
                yield ("double residual", f"`{path}` is added once too often"), {name: value + leaf}
                if path in arrays:
                    twice = _attempt(failure.reference, {**failure.arguments, path: value.astype(leaf.dtype)})
                    if twice is not None:
                        yield ("double application", f"applied twice, to `{path}` and to the result"), twice
    else:
        for name, value in truth.items():
            if _size(failure.given[name]) == 0 and _size(value) > 0:
                yield ("missing gradient", f"{name} is zero"), {**truth, name: np.zeros_like(value)}
        names = list(truth)
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                if truth[first].shape == truth[second].shape:
                    swapped = {**truth, first: truth[second], second: truth[first]}
                    yield ("swapped gradients", f"{first} and {second} are swapped"), swapped


def _swap_if_matrix(x: Array) -> Array:
    return np.swapaxes(x, -1, -2) if x.ndim >= 2 else x


def _factors(failure: Failure) -> list[Key]:
    """The names of the constant that the wrong outputs, or the part of them due to one argument, are off by."""
    wrong = [n for n, v in failure.given.items() if not _size(v - failure.truth[n]) <= failure.bounds[n]]
    where = "" if len(wrong) == len(failure.given) else " in " + ", ".join(wrong)
    zero = {n: np.zeros_like(v) for n, v in failure.truth.items()}
    keys = _factor_beyond(failure, wrong, zero, where)
    arrays = {name: failure.arguments[name] for name in differentiable(failure.arguments)}
    for path, leaf in named_leaves(arrays).items():
        without = _attempt(failure.reference, _replaced(failure.arguments, path, np.zeros_like(leaf)))
        if without is not None and any(_size(without[n]) for n in wrong):
            keys += _factor_beyond(failure, wrong, without, f"{where} in the term with `{path}`")
    return keys


def _factor_beyond(failure: Failure, wrong: list[str], offset: dict[str, Array], where: str) -> list[Key]:
    r"""The names of $\kappa$ if the wrong outputs are $o+\kappa(t-o)$, with $t$ the truth and $o$ this offset."""
    true = {n: failure.truth[n] - offset[n] for n in wrong}
    given = {n: failure.given[n] - offset[n] for n in wrong}
    squares = sum(float(np.sum(true[n] ** 2)) for n in wrong)
    if squares == 0:
        return []
    factor = sum(float(np.sum(given[n] * true[n])) for n in wrong) / squares
    if not all(_size(given[n] - factor * true[n]) <= 2 * max(1.0, abs(factor)) * failure.bounds[n] for n in wrong):
        return []
    uncertainty = max(failure.bounds[n] / max(_size(true[n]), 1e-300) for n in wrong)

    def near(value: float) -> bool:
        return abs(factor - value) <= (1e-6 + 4 * uncertainty) * max(1.0, abs(value))

    if near(0.0):
        return []  # the term is missing: found by leaving the argument out
    if near(-1.0):
        return [("sign", f"the output has the wrong sign{where}")]
    keys: list[Key] = [
        ("constant factor", f"{sign}{text}{where}")
        for text, value in _named_constants(failure)
        for sign, signed in (("", value), ("-", -value))
        if near(signed)
    ]
    return [*keys, ("constant factor", f"{factor:.3g}{where}")]


def _named_constants(failure: Failure) -> Iterator[tuple[str, float]]:
    """Simple functions of the sizes, simplest first."""
    yield from (("2", 2.0), ("1/2", 0.5), ("4", 4.0), ("1/4", 0.25))
    sizes: dict[str, int] = {}
    for path, leaf in named_leaves(failure.arguments).items():
        if isinstance(leaf, bool):
            continue
        if isinstance(leaf, int):
            sizes[path] = leaf
        for axis in range(-np.ndim(leaf), 0):
            sizes[f"{path}.shape[{axis}]"] = np.shape(leaf)[axis]
        if np.ndim(leaf):
            sizes[f"{path}.size"] = int(np.size(leaf))
        if np.ndim(leaf) > 1:
            sizes[f"rows of {path}"] = int(np.prod(np.shape(leaf)[:-1]))
    for name, n in sizes.items():
        if n > 1:
            yield f"1/{name}", 1 / n
            yield name, float(n)
            yield f"1/sqrt({name})", 1 / sqrt(n)
            yield f"sqrt({name})", sqrt(n)
            yield f"2/{name}", 2 / n
            yield f"1/(2 {name})", 1 / (2 * n)
            yield f"({name} - 1)/{name}", (n - 1) / n
            yield f"{name}/({name} - 1)", n / (n - 1)
            yield f"{name}/({name} + 1)", n / (n + 1)
            yield f"({name} + 1)/{name}", (n + 1) / n


def _low_precision(failures: list[Failure]) -> list[Diagnosis]:
    """Whether the errors are those of a lower precision's arithmetic."""
    agreeing: dict[str, int] = {}
    for failure in failures:
        error = max(_size(v - failure.truth[n]) for n, v in failure.given.items())
        for dtype, expected in failure.lower_precision().items():
            if expected / 64 <= error <= 8 * expected:
                agreeing[dtype] = agreeing.get(dtype, 0) + 1
    return [
        Diagnosis("low precision", f"the errors are those of {dtype} arithmetic", count, len(failures))
        for dtype, count in agreeing.items()
        if FEWEST <= count == len(failures)
    ][:1]
