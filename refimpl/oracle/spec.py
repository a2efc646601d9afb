"""What can be compared: a reference function, its valid inputs, its pullback and its metamorphic relations."""

import contextlib
import difflib
import importlib
import itertools
import pkgutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import leaves

Arguments = dict[str, Any]

SHORT_RUN = 9  # inputs of one run of Hypothesis: from ten on it tries small and similar ones


@dataclass(frozen=True)
class Relation:
    """A property of the function that needs no reference to be checked.

    ``transform`` maps arguments to other valid arguments; ``expected`` maps the output at the old arguments (and those
    arguments) to what the output at the new ones must be.
    """

    name: str
    transform: Callable[[Arguments], Arguments]
    expected: Callable[[Any, Arguments], Any]


@dataclass(frozen=True)
class Spec:
    """A function that a candidate may be compared with.

    Parameters
    ----------
    name : ``paper/function`` (``primitives/function`` for a shared operation).
    reference : the function; its parameter names are the keys of the arguments.
    arguments : Hypothesis strategy for keyword arguments over the valid domain, arrays in float64.
    vjp : the pullback's twin, ``op_vjp``, if there is one.
    symbols : small arguments made of SymPy symbols, or None where the function needs LAPACK.
    relations : metamorphic relations.
    dtypes : the precisions in which a candidate may be judged.
    constants : names of array arguments that the pullback leaves out, for their entries cannot vary one by one: a
        covariance matrix stays symmetric.
    other_vjps : other plain ways to write the pullback, which may be less accurate: a candidate may be as inaccurate.
    mistakes : wrong versions of the reference that people write, by ``(kind, description)``, beyond those that a
        diagnosis tries by itself: an off-by-one causal mask, a normaliser left out.
    """

    name: str
    reference: Callable[..., Any]
    arguments: st.SearchStrategy[Arguments]
    vjp: Callable[..., Any] | None = None
    symbols: Callable[[], Arguments] | None = None
    relations: tuple[Relation, ...] = ()
    dtypes: tuple[str, ...] = ("float64", "float32", "float16", "bfloat16")
    constants: tuple[str, ...] = ()
    other_vjps: tuple[Callable[..., Any], ...] = ()
    mistakes: Mapping[tuple[str, str], Callable[..., Any]] = field(default_factory=dict)

    def varied(self, arguments: Arguments) -> list[str]:
        """The names of the arguments that the pullback returns cotangents for, in the order of the signature."""
        return [name for name in differentiable(arguments) if name not in self.constants]


_SPECS: dict[str, Spec] = {}


def register(spec: Spec) -> Spec:
    """Enter a spec; a name may be taken once."""
    if spec.name in _SPECS:
        raise ValueError(f"spec {spec.name}: entered twice")
    _SPECS[spec.name] = spec
    return spec


def find_spec(name: str) -> Spec:
    """The spec of this name.

    Raises
    ------
    ValueError
        If there is none; names the closest.
    """
    known = all_specs()
    if name in known:
        return known[name]
    same = [one for one in known if one.rpartition("/")[2] == name.rpartition("/")[2]]
    close = same or difflib.get_close_matches(name, known)
    raise ValueError(f"no spec {name!r}" + (f"; did you mean {' or '.join(close[:3])}?" if close else ""))


def all_specs() -> Mapping[str, Spec]:
    """All specs by name; imports every module below ``refimpl.oracle.specs``."""
    from refimpl.oracle import specs as package

    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    return _SPECS


def is_differentiable(argument: Any) -> bool:
    """Whether a pullback returns a cotangent for this argument: an array, or a tree of arrays, of real numbers."""
    found = list(leaves(argument))
    return bool(found) and all(isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "iub" for leaf in found)


def differentiable(arguments: Arguments) -> list[str]:
    """The names of the arguments that are arrays of real numbers, in the order of the signature."""
    return [name for name, value in arguments.items() if is_differentiable(value)]


def symbols(name: str, *shape: int) -> Array:
    """An array of distinct real SymPy symbols ``name_i_j``."""
    import sympy

    out = np.empty(shape, dtype=object)
    for index in np.ndindex(*shape):
        out[index] = sympy.Symbol("_".join([name, *map(str, index)]), real=True)
    return out


@st.composite
def generators(draw: st.DrawFn) -> np.random.Generator:
    """A generator seeded by Hypothesis, so that what is sampled costs one draw whatever its size."""
    # Hypothesis likes to draw the same integer again; two parts of one input must not be equal each time it does.
    position = next(draw(st.shared(st.builds(itertools.count, st.just(1)), key="generators")))
    return np.random.default_rng([draw(st.integers(0, 2**32 - 1)), position])


@st.composite
def real_arrays(draw: st.DrawFn, shape: tuple[int, ...], scale: float = 1.0) -> Array:
    """A float64 array of this shape: Gaussian of this scale, or one of the degenerate cases that break kernels.

    The degenerate cases are zeros, ones, entries that repeat along the last axis, one dominant entry, and a large and a
    small scale.
    """
    rng = draw(generators())
    kind = draw(st.sampled_from(["gaussian"] * 6 + ["zeros", "ones", "repeated", "dominant", "large", "small"]))
    values = rng.standard_normal(shape)
    if kind == "zeros":
        values = np.zeros(shape)
    elif kind == "ones":
        values = np.ones(shape)
    elif kind == "repeated" and values.ndim:
        values = np.broadcast_to(values[..., :1], shape).copy()
    elif kind == "dominant" and values.size:
        values.reshape(-1)[rng.integers(values.size)] = 10.0
    elif kind == "large":
        values = values * 8
    elif kind == "small":
        values = values / 1024
    return values * scale


def examples(spec: Spec, n: int, seed: int = 0) -> list[Arguments]:
    """`n` inputs from the spec's domain, the same ones for the same seed."""
    drawn: list[Arguments] = []
    _search(spec, n, seed, drawn.append, shrink=False)
    return drawn


def smallest_example(
    spec: Spec, n: int, seed: int, fails: Callable[[Arguments], bool], seconds: float = 20.0
) -> Arguments | None:
    """The smallest input that fails, shrunk from the first that does of ``examples(spec, n, seed)``; None if none does.

    Parameters
    ----------
    seconds : how long to shrink.
    """
    smallest: list[Arguments] = []
    deadline = float("inf")

    def visit(arguments: Arguments) -> None:
        nonlocal deadline
        if time.monotonic() > deadline:
            raise _OutOfTime
        if fails(arguments):
            smallest[:] = [arguments]
            deadline = min(deadline, time.monotonic() + seconds)
            raise _Fails

    with contextlib.suppress(_Fails, _OutOfTime):
        _search(spec, n, seed, visit, shrink=True)
    return smallest[0] if smallest else None


class _Fails(Exception):
    """An input is what a search looks for."""


class _OutOfTime(BaseException):
    """Not an Exception, which Hypothesis would take for one more failure."""


class _Unprinted:
    """Arguments of which Hypothesis makes no text, which for large arrays takes longer than all else."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments

    def __repr__(self) -> str:
        return "arguments"


@st.composite
def _unprinted(draw: st.DrawFn, arguments: st.SearchStrategy[Arguments]) -> _Unprinted:
    return _Unprinted(draw(arguments))


def _search(spec: Spec, n: int, seed: int, visit: Callable[[Arguments], None], shrink: bool) -> None:
    """Visit `n` inputs drawn independently, the simplest first; a visit that fails is shrunk.

    In one run Hypothesis soon repeats parts of earlier inputs, and most of what it draws is alike. It does not in its
    first nine, so many short runs take the place of one. Each begins with the simplest input, which is visited once.
    """
    from hypothesis import HealthCheck, Phase, Verbosity, given, settings
    from hypothesis import seed as seeded

    left = n
    for run in range(-(-n // (SHORT_RUN - 1))):
        simplest = run > 0 and not shrink

        @seeded(f"{seed}/{run}")
        @settings(
            max_examples=SHORT_RUN,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        @given(_unprinted(spec.arguments))
        def search(drawn: _Unprinted) -> None:
            nonlocal left, simplest
            if simplest:
                simplest = False
            elif left > 0 or shrink:
                left -= 1
                visit(drawn.arguments)

        search()
