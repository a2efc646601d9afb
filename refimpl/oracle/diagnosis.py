"""Why a candidate is wrong: which usual mistake reproduces its output.

Each hypothesis predicts what the candidate would return if it made one mistake. A diagnosis is a hypothesis whose
prediction meets the candidate's output, to the bound that the right output would have to meet or to a thousandth of the
candidate's error, on *every* failing input where it predicts anything. (Of ten or more it may miss one in ten: a wrong
argument can lead to where the function loses its digits.) So its evidence is predictions that came true.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from refimpl.oracle.spec import Arguments, differentiable
from refimpl.oracle.structure import named_leaves, parts
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
    defaults: Arguments


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
    telling = [failure for failure in failures if _tells(failure)]
    failures = telling if len(telling) >= FEWEST else failures
    suspects = {name for failure in failures for name in _wrong(failure)}
    ever = {name for failure in failures for name, value in failure.truth.items() if _size(value)}
    where = "" if ever <= suspects else " in " + ", ".join(dict.fromkeys(".".join(parts(n)) for n in sorted(suspects)))
    rounds = [_explanations(failure, mistakes, suspects, where) for failure in failures]
    candidates = dict.fromkeys(key for met, _ in rounds for key in met)
    named = []
    for key in candidates:
        count = sum(key in met for met, _ in rounds)
        untestable = sum(key in silent for _, silent in rounds)
        if count >= FEWEST and count + untestable >= len(failures) - len(failures) // 10:
            named.append(Diagnosis(*key, count, len(failures)))
    named.sort(key=lambda one: _PRIORITY.index(one.kind) if one.kind in _PRIORITY else -1)
    return named or _low_precision(failures)


# More specific kinds first: an explanation by one argument says more than a factor that happens to fit.
_PRIORITY = [
    "missing gradient",
    "swapped gradients",
    "mask",
    "ignored argument",
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


def _wrong(failure: Failure) -> list[str]:
    """The arrays that are not accurate enough."""
    return [n for n, v in failure.given.items() if not _size(v - failure.truth[n]) <= failure.bounds[n]]


def _tells(failure: Failure) -> bool:
    """Whether what is wrong is known to a tenth: else nearly any mistake explains it, or none does for sure."""
    return all(failure.bounds[n] <= _size(failure.truth[n]) / 10 for n in _wrong(failure) if _size(failure.truth[n]))


def _explanations(
    failure: Failure, mistakes: dict[Key, Callable[..., Any]], suspects: set[str], where: str
) -> tuple[list[Key], set[Key]]:
    """The mistakes whose prediction is met here, and those that make no prediction here.

    Parameters
    ----------
    suspects, where : the arrays that are wrong on one of the failing inputs, and how to say so.
    """
    met: list[Key] = []
    untestable: set[Key] = set()
    for key, predicted in _hypotheses(failure, mistakes):
        if predicted is None:
            untestable.add(key)
        elif key not in met and _meets(failure, predicted):
            met.append(key)
    wrong = _wrong(failure)
    right = [n for n in failure.truth if n in suspects and n not in wrong]
    if any(_size(failure.truth[n]) > 4 * failure.bounds[n] for n in right):
        return met, untestable  # a factor would show in them too
    return met + _factors(failure, wrong, where), untestable


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
    for key, arguments in itertools.chain(_edited_arguments(failure.arguments), _edited_numbers(failure)):
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


def _is_given(value: Any, default: Any) -> bool:
    """Whether an argument that is no flag and no mask has another value than by default."""
    if value is None or isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", "") == "b":
        return False
    return default is None or (isinstance(value, float | int) and value != default)


def _edited_numbers(failure: Failure) -> Iterator[tuple[Key, Arguments]]:
    """An argument that is not used, or a number that is used with a factor."""
    arguments = failure.arguments
    for name, value in arguments.items():
        if name in failure.defaults and _is_given(value, failure.defaults[name]):
            yield ("ignored argument", f"`{name}` is ignored"), {**arguments, name: failure.defaults[name]}
        if not isinstance(value, float) or value == 0:
            continue
        yield ("missing term", f"`{name}` is taken to be 0"), {**arguments, name: 0.0}
        yield ("sign", f"`{name}` enters with the wrong sign"), {**arguments, name: -value}
        factors = [("2", 2.0), ("1/2", 0.5)]
        for path, n in _sizes(arguments).items():
            if n > 1 and "shape" in path:
                factors += [(path, float(n)), (f"1/{path}", 1 / n)]
        for text, factor in factors:
            yield ("constant factor", f"`{name}` times {text}"), {**arguments, name: factor * value}


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
    for name in dict.fromkeys([*truth, *(_whole(name) for name in truth)]):
        kind = "missing gradient" if name.startswith("gradient of ") else "missing term"
        these = [one for one in truth if name in (one, _whole(one))]
        has_any = any(_size(truth[one]) for one in these)
        zeros = {one: np.zeros_like(truth[one]) for one in these}
        yield (kind, f"{name} is zero"), {**truth, **zeros} if has_any else None
    if len(truth) > 1:
        names = list(truth)
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                if truth[first].shape == truth[second].shape:
                    swapped = {**truth, first: truth[second], second: truth[first]}
                    yield ("swapped gradients", f"{first} and {second} are swapped"), swapped


def _whole(name: str) -> str:
    """The gradient of a whole argument, of which this is that of a part; another output as it is."""
    return name.partition(".")[0] if name.startswith("gradient of ") else name


def _swap_if_matrix(x: Array) -> Array:
    return np.swapaxes(x, -1, -2) if x.ndim >= 2 else x


def _factors(failure: Failure, wrong: list[str], where: str) -> list[Key]:
    """The names of the constant that the wrong outputs, or the part of them due to one argument, are off by."""
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


def _sizes(arguments: Arguments) -> dict[str, int]:
    """The integers among the arguments and the sizes of the arrays, by what they are called."""
    sizes: dict[str, int] = {}
    for path, leaf in named_leaves(arguments).items():
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
    return sizes


def _named_constants(failure: Failure) -> Iterator[tuple[str, float]]:
    """Simple functions of the sizes, simplest first."""
    yield from (("2", 2.0), ("1/2", 0.5), ("4", 4.0), ("1/4", 0.25))
    sizes = _sizes(failure.arguments)
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
    """Whether the errors are those of a lower precision's arithmetic: never larger, and mostly not much smaller."""
    ratios: dict[str, list[float]] = {}
    for failure in failures:
        error = max(_size(v - failure.truth[n]) for n, v in failure.given.items())
        for dtype, expected in failure.lower_precision().items():
            ratios.setdefault(dtype, []).append(error / expected if expected else float("inf"))
    return [
        Diagnosis("low precision", f"the errors are those of {dtype} arithmetic", len(found), len(failures))
        for dtype, found in ratios.items()
        if FEWEST <= len(found) == len(failures) and max(found) <= 4 and np.median(found) >= 1 / 64
    ][:1]
