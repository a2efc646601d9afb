r"""Every pullback in the package, found automatically and checked against mathematics.

A function named ``op_vjp`` anywhere in ``refimpl`` must be the ``vjp`` of a registered spec, else a test fails. Then

- numerically, on inputs from the spec's own domain, $\langle\bar x,d\rangle$ for the float64 pullback's cotangent
  $\bar x$ and a random direction $d$ is compared with the reference's directional derivative, argument by argument;
- symbolically, the reference and its pullback run on SymPy symbols, and SymPy differentiates the former;
- the pullback keeps trees, shapes and dtypes, changes none of its inputs and gives the same twice.

**The derivative and its error.** Central differences $D(h)$ at $h=10^{-5}$ and $h/2$ in ``longdouble`` (unit roundoff
$u=2^{-64}$), extrapolated to $(4D(h/2)-D(h))/3$: truncation $O(h^4)\sim10^{-20}$, roundoff about $4u/h=2\cdot10^{-14}$
of $\sum|g_if_i|$. The float64 cotangent is off by its condition times $10^{-16}$. Where the reference needs LAPACK,
which has no ``longdouble``, $h=10^{-3}$ in float64: truncation $10^{-12}$, roundoff $4\cdot10^{-13}$.

**Kinks.** At a point where the one-sided slopes disagree (a ReLU at 0, say) no two-sided difference is a derivative;
the point is moved a little at random, for a random point lies on no kink.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

import refimpl
from proofs.symbolic import vanishes
from refimpl.oracle.spec import Arguments, Spec, all_specs, differentiable, examples, generators, symbols
from refimpl.primitives import numbers
from refimpl.primitives.trees import leaves, tree_map

SPECS = [spec for spec in all_specs().values() if spec.vjp is not None]
RELATIVE = 1e-9  # of the sum of absolute terms: condition numbers up to 10^6 at roundoff 10^-16
EXAMPLES = 20

each_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def pullbacks() -> Iterator[Callable[..., Any]]:
    """Every public function named ``*_vjp``, from the module that defines it."""
    for module in pkgutil.walk_packages(refimpl.__path__, "refimpl."):
        if module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if name.endswith("_vjp") and not name.startswith("_") and value.__module__ == module.name:
                yield value


def cast(arguments: Arguments, names: list[str], dtype: Any) -> Arguments:
    """The named arguments in another dtype, the others as they are."""
    return arguments | {name: tree_map(lambda leaf: leaf.astype(dtype), arguments[name]) for name in names}


def inner(a: Any, b: Any, of: Callable[[Any], Any] = lambda product: product) -> Any:
    """The sum over two trees of one structure of `of` the products of their entries."""
    return sum(np.sum(of(x * y)) for x, y in zip(leaves(a), leaves(b), strict=True))


def random_like(tree: Any, rng: np.random.Generator) -> Any:
    return tree_map(lambda leaf: rng.standard_normal(np.shape(leaf)).astype(leaf.dtype), tree)


class Contracted:
    """The scalar $\\langle g,f(x)\\rangle$ along a line, in the highest precision that the reference has."""

    def __init__(self, spec: Spec, arguments: Arguments, cotangent: Any) -> None:
        self.reference = spec.reference
        self.names = spec.varied(arguments)
        self.dtype, self.h = (np.float64, 1e-3) if spec.symbols is None else (np.longdouble, 1e-5)
        self.arguments = cast(arguments, differentiable(arguments), self.dtype)
        self.cotangent = tree_map(lambda leaf: np.asarray(leaf, self.dtype), cotangent)

    def __call__(self, name: str, direction: Any, step: float) -> Any:
        moved = tree_map(lambda x, d: x + self.dtype(step) * d, self.arguments[name], direction)
        return inner(self.cotangent, self.reference(**self.arguments | {name: moved}))

    def noise(self) -> float:
        """The roundoff of one difference quotient, with room for sums of a thousand terms."""
        size = float(inner(self.cotangent, self.reference(**self.arguments), of=np.abs))
        return 1000 * float(np.finfo(self.dtype).eps) / self.h * size

    def derivative(self, name: str, direction: Any) -> float:
        def central(h: float) -> Any:
            return (self(name, direction, h) - self(name, direction, -h)) / (2 * self.dtype(h))

        return float((4 * central(self.h / 2) - central(self.h)) / 3)

    def has_kink(self, rng: np.random.Generator) -> bool:
        for name in self.names:
            direction = unit(random_like(self.arguments[name], rng))
            here = self(name, direction, 0)
            right = float(self(name, direction, self.h) - here) / self.h
            left = float(here - self(name, direction, -self.h)) / self.h
            if abs(right - left) > 1e-3 * (abs(right) + abs(left)) + self.noise():
                return True
        return False


def unit(direction: Any) -> Any:
    """The direction at norm 1, so that a step of h is one whatever the number of parameters."""
    norm = np.sqrt(inner(direction, direction))
    return tree_map(lambda leaf: leaf / norm, direction)


def check_numerically(spec: Spec, arguments: Arguments, rng: np.random.Generator) -> None:
    """Raise ``AssertionError`` unless the pullback agrees with directional derivatives."""
    assert spec.vjp is not None
    names = spec.varied(arguments)
    cotangent = random_like(spec.reference(**arguments), rng)
    for _ in range(5):
        line = Contracted(spec, arguments, cotangent)
        if not line.has_kink(rng):
            break
        arguments = arguments | {
            name: tree_map(lambda leaf: leaf + rng.uniform(-1, 1, leaf.shape) / 16, arguments[name]) for name in names
        }
    _, pullback = spec.vjp(**arguments)
    pulled = dict(zip(names, pullback(cotangent), strict=True))
    for name in names:
        direction = unit(random_like(line.arguments[name], rng))
        claimed = float(inner(pulled[name], direction))
        measured = line.derivative(name, direction)
        allowed = RELATIVE * float(inner(pulled[name], direction, of=np.abs)) + line.noise()
        assert abs(claimed - measured) <= allowed, (
            f"{spec.name}: gradient of {name} along a direction is {measured:.12g}, the pullback says {claimed:.12g}"
        )


def check_symbolically(spec: Spec) -> None:
    """Raise ``AssertionError`` unless SymPy's derivatives of the reference are the pullback's cotangents."""
    assert spec.vjp is not None
    assert spec.symbols is not None
    arguments = spec.symbols()
    names = spec.varied(arguments)
    output, pullback = spec.vjp(**arguments)
    expected = spec.reference(**arguments)
    differences = [np.reshape(a - b, -1) for a, b in zip(leaves(output), leaves(expected), strict=True)]
    count = iter(range(10**6))
    cotangent = tree_map(lambda leaf: symbols(f"cotangent{next(count)}", *np.shape(leaf)), expected)
    contracted = inner(cotangent, expected)
    for name, pulled in zip(names, pullback(cotangent), strict=True):
        for x, to_x in zip(leaves(arguments[name]), leaves(pulled), strict=True):
            assert all(entry.is_Symbol for entry in x.flat), f"{spec.name}: {name} has an entry that is no symbol"
            differences.append(
                np.array([sympy.diff(contracted, a) - b for a, b in zip(x.flat, to_x.flat, strict=True)], dtype=object)
            )
    evidence = vanishes([off_kinks(difference) for difference in differences])
    assert evidence.holds, f"{spec.name}: {evidence.measured}"


def off_kinks(expressions: Any) -> Any:
    """Forget what unit steps are at 0, where SymPy's derivative of max(x, 0) is 1/2 and ours 0: there is none."""
    step = sympy.Heaviside

    def implied(product: Any) -> set[Any]:
        bases = [factor.as_base_exp()[0] for factor in product.args]
        return {step(base.args[1]) for base in bases if base.func == sympy.Max and base.args[0] == 0}

    def off(expression: Any) -> Any:
        expression = sympy.expand(sympy.sympify(expression).replace(step, lambda *args: step(args[0])))
        # max(x, 0) is its own product with the unit step, which SymPy does not know.
        return expression.replace(
            lambda e: e.is_Mul, lambda e: sympy.Mul(*(factor for factor in e.args if factor not in implied(e)))
        )

    return np.array([off(expression) for expression in expressions], dtype=object)


def check_conventions(spec: Spec, arguments: Arguments, rng: np.random.Generator) -> None:
    """Raise ``AssertionError`` unless trees, shapes, dtypes and inputs are kept, results finite and repeatable."""
    assert spec.vjp is not None
    names = spec.varied(arguments)
    order = [name for name in inspect.signature(spec.reference).parameters if name in arguments]
    assert list(arguments) == order, f"{spec.name}: arguments {list(arguments)}, not in the signature's order"
    for dtype in (np.float64, np.float32, np.longdouble)[: 2 if spec.symbols is None else 3]:
        frozen = cast(arguments, differentiable(arguments), dtype)
        cotangent = random_like(spec.reference(**frozen), rng)
        for leaf in leaves([list(frozen.values()), cotangent]):
            if isinstance(leaf, np.ndarray):
                leaf.setflags(write=False)
        expected = spec.reference(**frozen)
        output, pullback = spec.vjp(**frozen)
        tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=forward_tolerance(b)), output, expected)
        assert {leaf.dtype for leaf in leaves(output)} == {np.dtype(dtype)}, f"{spec.name}: output dtype"
        first, second = pullback(cotangent), pullback(cotangent)
        assert all(np.all(np.isfinite(leaf)) for leaf in leaves([output, first])), f"{spec.name}: not finite"
        assert isinstance(first, tuple), f"{spec.name}: the pullback returns a {type(first).__name__}, not a tuple"
        assert len(first) == len(names), f"{spec.name}: {len(first)} cotangents, not one for each of {names}"
        for name, pulled, again in zip(names, first, second, strict=True):
            tree_map(lambda a, b: np.testing.assert_array_equal(a, b), pulled, again)
            kept = tree_map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, frozen[name], pulled)
            assert all(leaves(kept)), f"{spec.name}: cotangent of {name} has another shape or dtype"


def forward_tolerance(output: Any) -> float:
    """Two orders of the same operations differ by a few roundoffs of the output's scale."""
    return 64 * float(np.finfo(output.dtype).eps) * (1 + float(np.max(np.abs(output), initial=0)))


def test_every_pullback_has_a_spec() -> None:
    registered = {spec.vjp for spec in SPECS}
    missing = [f"{one.__module__}.{one.__name__}" for one in pullbacks() if one not in registered]
    assert not missing, f"no spec has as its vjp: {', '.join(missing)}"


def test_specs_name_pullbacks_of_their_own() -> None:
    assert len({spec.vjp for spec in SPECS}) == len(SPECS)


@each_spec
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(data=st.data())
def test_pullback_is_the_derivative(spec: Spec, data: st.DataObject) -> None:
    rng = data.draw(generators())
    check_numerically(spec, data.draw(spec.arguments), rng)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.symbols], ids=lambda spec: spec.name)
def test_pullback_is_the_derivative_for_all_values(spec: Spec) -> None:
    check_symbolically(spec)


@each_spec
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(data=st.data())
def test_pullback_keeps_the_conventions(spec: Spec, data: st.DataObject) -> None:
    rng = data.draw(generators())
    check_conventions(spec, data.draw(spec.arguments), rng)


# --- does this test catch anything? A small operation with a right pullback, and with planted mistakes ---------------


def bilinear(x: Any, weight: Any) -> Any:
    return (x @ weight) * (x @ weight)


def bilinear_pullback(
    sign: int = 1, factor: int = 2, transposed: bool = True, weight_from: str = "x", swapped: bool = False
) -> Callable[..., Any]:
    """The twin of :func:`bilinear`; with its defaults the right one."""

    def twin(x: Any, weight: Any) -> Any:
        product = x @ weight

        def pullback(cotangent: Any) -> Any:
            to_product = factor * cotangent * product
            to_x = to_product @ (weight.T if transposed else weight)
            to_weight = {"x": x, "product": product}[weight_from].T @ to_product
            return (to_weight, sign * to_x) if swapped else (sign * to_x, to_weight)

        return bilinear(x, weight), pullback

    return twin


def bilinear_spec(vjp: Callable[..., Any]) -> Spec:
    def draw(seed: int) -> Arguments:
        rng = np.random.default_rng(seed)
        return {"x": rng.standard_normal((2, 2)), "weight": rng.standard_normal((2, 2))}

    return Spec(
        "test/bilinear",
        bilinear,
        st.integers(0, 99).map(draw),
        vjp,
        lambda: {"x": symbols("x", 2, 2), "weight": symbols("w", 2, 2)},
    )


def drawn(spec: Spec) -> tuple[Arguments, np.random.Generator]:
    return examples(spec, 1)[0], np.random.default_rng(1)


def test_the_right_pullback_passes() -> None:
    spec = bilinear_spec(bilinear_pullback())
    check_numerically(spec, *drawn(spec))
    check_symbolically(spec)
    check_conventions(spec, *drawn(spec))


@pytest.mark.parametrize(
    "mistake",
    [{"sign": -1}, {"factor": 1}, {"transposed": False}, {"weight_from": "product"}, {"swapped": True}],
    ids=str,
)
def test_planted_mistakes_are_caught(mistake: dict[str, Any]) -> None:
    spec = bilinear_spec(bilinear_pullback(**mistake))
    with pytest.raises(AssertionError, match="gradient of"):
        check_numerically(spec, *drawn(spec))
    with pytest.raises(AssertionError, match="test/bilinear: difference"):
        check_symbolically(spec)


def relative_error(size: float) -> Callable[..., Any]:
    """A pullback off by this relative amount."""

    def twin(x: Any, weight: Any) -> Any:
        output, pullback = bilinear_pullback()(x, weight)
        return output, lambda cotangent: tuple(c * (1 + size) for c in pullback(cotangent))

    return twin


def test_a_relative_error_of_a_ten_millionth_is_caught() -> None:
    spec = bilinear_spec(relative_error(1e-7))
    with pytest.raises(AssertionError, match="gradient of"):
        check_numerically(spec, *drawn(spec))


def promoting(x: Any, weight: Any) -> Any:
    output, pullback = bilinear_pullback()(x, weight)
    return output, lambda cotangent: tuple(c * np.float64(1) for c in pullback(cotangent))


def overwriting(x: Any, weight: Any) -> Any:
    output, pullback = bilinear_pullback()(x, weight)

    def pull(cotangent: Any) -> Any:
        cotangent *= 2
        return pullback(cotangent / 2)

    return output, pull


def forgetful(x: Any, weight: Any) -> Any:
    output, pullback = bilinear_pullback()(x, weight)
    calls = iter(range(10))
    return output, lambda cotangent: tuple(c + next(calls) for c in pullback(cotangent))


def listing(x: Any, weight: Any) -> Any:
    output, pullback = bilinear_pullback()(x, weight)
    return output, lambda cotangent: list(pullback(cotangent))


def undefined(x: Any, weight: Any) -> Any:
    output, pullback = bilinear_pullback()(x, weight)
    return output, lambda cotangent: tuple(c * np.nan for c in pullback(cotangent))


def other_output(x: Any, weight: Any) -> Any:
    return x @ weight, bilinear_pullback()(x, weight)[1]


@pytest.mark.parametrize(
    ("twin", "complaint"),
    [
        (promoting, "another shape or dtype"),
        (overwriting, "read-only"),
        (forgetful, "Arrays are not equal"),
        (listing, "not a tuple"),
        (undefined, "not finite"),
        (other_output, "Not equal to tolerance"),
    ],
)
def test_broken_conventions_are_caught(twin: Callable[..., Any], complaint: str) -> None:
    spec = bilinear_spec(twin)
    with pytest.raises((AssertionError, ValueError), match=complaint):
        check_conventions(spec, *drawn(spec))


def test_an_unregistered_pullback_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def stray_vjp() -> None: ...

    stray_vjp.__module__ = "refimpl.primitives.numbers"
    monkeypatch.setattr(numbers, "stray_vjp", stray_vjp, raising=False)
    with pytest.raises(AssertionError, match=r"refimpl\.primitives\.numbers\.stray_vjp"):
        test_every_pullback_has_a_spec()


def test_a_kink_is_moved_off_and_not_passed_over() -> None:
    """At 0 the one-sided slopes of |x| are -1 and 1; a wrong pullback must still be caught there."""

    def magnitude(x: Any) -> Any:
        return np.abs(x)

    def spec(sign: int) -> Spec:
        return Spec(
            "test/magnitude",
            magnitude,
            st.just({"x": np.zeros(3)}),
            lambda x: (np.abs(x), lambda cotangent: (sign * cotangent * np.sign(x),)),
            lambda: {"x": symbols("x", 3)},
        )

    check_numerically(spec(1), *drawn(spec(1)))
    with pytest.raises(AssertionError, match="gradient of x"):
        check_numerically(spec(-1), *drawn(spec(-1)))
