r"""One layer does ``mov``, ``mul``, ``div`` or ``aff``, and how nearly (Lemmas 1, 4, 5, 6)."""

from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st
from scipy import special

from proofs.ledger import Control, Evidence, Figure, Series, at_most, claim, figure, within
from proofs.properties import for_all
from proofs.symbolic import array, block, blocks, scalar, vanishes
from refimpl.incontext.learning_algorithms import (
    ATTENTION_STRENGTH,
    LayerParams,
    aff_layer,
    bypass_layer_norm,
    div_layer,
    mov_layer,
    mul_layer,
    transformer_layer,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.learning_algorithms.operators import (
    ONE,
    PADS,
    aff_arguments,
    div_arguments,
    mov_arguments,
    mul_arguments,
    positions,
)
from refimpl.primitives import column_operators
from refimpl.primitives.activations import gelu, relu
from refimpl.primitives.numbers import Array

Construct = Callable[..., LayerParams]

ROUNDOFF = float(np.finfo(float).eps) / 2
TINY = float(np.finfo(float).tiny)
EPSILON, STRENGTH, SCALE = (scalar(name, positive=True) for name in ("epsilon", "N", "N_p"))
U, V, X = map(scalar, "uvx")


def ratio(error: Any, bound: Any) -> float:
    """The largest error over its bound, entry by entry; 0 where both are 0."""
    return float(np.max(np.asarray(error) / np.maximum(bound, TINY), initial=0))


# --- products (Lemma 4) ---


def product_of_two(construct: Construct, activation: str) -> Any:
    """What the layer makes of u, v and 0 in three rows."""
    params = construct(3, 1, 1, 1, [0], [1], [2], EPSILON, object)
    column = np.array([[U], [V], [sympy.Integer(0)]], dtype=object)
    return transformer_layer(column, params, activation=activation)[2, 0]


def with_output_factor(factor: Any) -> Construct:
    """The construction of ``mul`` with another factor at its output."""

    def construct(*arguments: Any) -> LayerParams:
        params = mul_layer(*arguments)
        assert params.mlp is not None
        first, second = params.mlp
        return LayerParams(mlp=(first, second._replace(weight=second.weight * factor)))

    return construct


@claim(
    "learning_algorithms/K1",
    title="Three GeLU units multiply, and their error is quartic",
    source="Lemma 4",
    statement=r"\sqrt{\pi/2}\,\big(g(u+v)-g(u)-g(v)\big)=uv+\tfrac1{12}\big(u^4+v^4-(u+v)^4\big)+O(6),\quad "
    r"-\tfrac{(u+v)^4}{12}\le\text{remainder}\le\tfrac{u^4+v^4}{12}",
    method="symbolic",
    scope="all u and v: the layer's expansion in epsilon up to order 3, for both forms of GeLU (the tanh form has "
    "another quartic factor); the bounds by the integral that they come from, and at 100 x 1000 points of [-5, 5]^2",
    control=[
        Control("the factor sqrt(2/pi)", construct=with_output_factor(2 / sympy.pi)),
        Control("softplus, which is curved too, in place of GeLU", activations=("softplus", "gelu_tanh")),
        Control("ReLU within the bounds", gate=relu),
    ],
)
def products_by_gelu(
    rng: np.random.Generator,
    construct: Construct = mul_layer,
    activations: tuple[str, str] = ("gelu", "gelu_tanh"),
    gate: Callable[[Array], Array] = gelu,
) -> Evidence:
    quartic = U**4 + V**4 - (U + V) ** 4
    factors = sympy.Rational(1, 12), (400000 - 26829 * sympy.pi) / (1200000 * sympy.pi)
    expansions = [
        sympy.series(product_of_two(construct, activation), EPSILON, 0, 4).removeO()
        - U * V
        - EPSILON**2 * factor * quartic
        for activation, factor in zip(activations, factors, strict=True)
    ]

    # What is even in g is z/sqrt(2 pi) times the integral of exp(-t^2/2), which lies between those of 1 - t^2/2 and 1.
    z, t = sympy.symbols("z t", real=True)
    even = z * sympy.integrate(sympy.exp(-(t**2) / 2), (t, 0, z)) / sympy.sqrt(2 * sympy.pi)
    lower = z * sympy.integrate(1 - t**2 / 2, (t, 0, z)) / sympy.sqrt(2 * sympy.pi)
    shipped = gelu(np.array([z], dtype=object))[0]
    pieces = [
        shipped - z / 2 - even,
        sympy.sqrt(sympy.pi / 2) * lower
        - (z**2 / 2 - z**4 / 12),  # the bounds of each g; those of the remainder are their sums
    ]

    def over_bound(seed: int) -> float:
        draws = np.random.default_rng(seed)
        u, v = draws.uniform(-1, 1, (2, 1000)) * 5 * draws.random(1000)
        v[::10] = -u[::10]  # where the upper bound is the leading term itself
        root = np.sqrt(np.pi / 2)
        terms = [root * gate(u + v), -root * gate(u), -root * gate(v), -u * v]
        remainder = sum(terms)
        # Each term is right to 16 units, and so are their sums.
        rounded = 32 * ROUNDOFF * sum(np.abs(term) for term in terms)
        bound = np.where(remainder < 0, (u + v) ** 4, u**4 + v**4) / 12
        return ratio(np.abs(remainder), bound + rounded)

    bounded = for_all(rng, st.integers(0, 2**32 - 1), over_bound, 1, quantity="remainder over its bound")
    return vanishes(expansions, "expansion of the layer") & vanishes(pieces, "what the bounds come from") & bounded


# --- bypasses (Lemmas 5 and 6) ---


def passed_on(shift: Any, x: Any) -> Any:
    """What an ``aff`` layer with this shift writes for the identity of x into an empty row."""
    dtype = object if isinstance(x, sympy.Expr) else float
    one = np.ones((1, 1), dtype=dtype)
    column = np.array([np.atleast_1d(x), 0 * np.atleast_1d(x)], dtype=dtype)
    return transformer_layer(column, aff_layer(2, [0], [0], [1], one, 0 * one, shift=shift))[1]


@claim(
    "learning_algorithms/K2",
    title="A biased GeLU unit passes a number on with an exponentially small error, a pair of units exactly",
    source="Lemma 5",
    statement=r"g(N+x)-N-x=-(N+x)\Phi(-(N+x)),\quad |\cdot|\le\tfrac12(N+x)e^{-(N+x)^2/2}\ \text{for }N+x>0;\qquad "
    r"g(z)-g(-z)=z",
    method="symbolic",
    scope="all N and x (both identities, on the layer); the bound at 100 x 1000 points of (0, 30]; in floats N = 8, "
    "|x| <= 1",
    control=Control("no bias", shift=0.0),
)
def bypass_of_gelu(rng: np.random.Generator, shift: float = 8.0) -> Evidence:
    moved = STRENGTH + X
    normal_cdf = (1 + sympy.erf(-moved / sympy.sqrt(2))) / 2
    identities = [passed_on(STRENGTH, X)[0] - X + moved * normal_cdf, passed_on(None, X)[0] - X]

    def tail(seed: int) -> float:
        z = 30 * (1 - np.random.default_rng(seed).random(1000))
        # Relative to Chernoff's bound, which has one half in front; the scaled error function does not underflow.
        return float(np.max(special.erfcx(z / np.sqrt(2)) / 2))

    bounded = for_all(rng, st.integers(0, 2**32 - 1), tail, 0.5, quantity="error over (N+x) exp(-(N+x)^2/2)")
    x = np.linspace(-1, 1, 201)
    # The unit holds numbers up to N + 1, which round to half a unit of 16 thrice.
    allowed = float(np.max((8 + x) * np.exp(-((8 + x) ** 2) / 2))) + 3 * 16 * ROUNDOFF
    in_floats = at_most(float(np.max(np.abs(passed_on(shift, x) - x))), allowed, "error in floats")
    return vanishes(identities, "identities") & bounded & in_floats


def without_the_sum(hidden: Array, scale: Any, separate_sum: bool = True) -> Array:
    """The bypass with pads N and -N alone, by a row that holds minus the sum of the pads of the sum."""
    rows = np.concatenate([hidden, scale + 0 * hidden[:1], -scale + 0 * hidden[:1]])
    centred = rows - rows.mean(axis=0)
    return (centred / np.sqrt((centred**2).mean(axis=0)) * scale * np.sqrt(2 / len(rows)))[: len(hidden)]


@claim(
    "learning_algorithms/K3",
    title="With large pads a layer norm passes its input on, up to a known factor",
    source="Lemma 6",
    statement=r"\lambda([h;N;-N;-\textstyle\sum h])_r\sqrt{2N^2/D}=h_r\big(1+\tfrac q{2N^2}\big)^{-1/2},\ "
    r"q=\textstyle\sum h^2+(\sum h)^2;\ \text{two pads }N,-N-\sum h\text{ leave }O(1/N)",
    method="symbolic",
    scope="the factor by entries at 1, 2 and 3 rows; in floats the exponents of the largest error of 64 columns of 8 "
    "rows between N = 10^3 and 10^5",
    control=Control("pads N and -N without the sum", bypass=without_the_sum),
)
def bypass_of_layer_norm(rng: np.random.Generator, bypass: Callable[..., Array] = bypass_layer_norm) -> Evidence:
    differences = []
    for n_rows in (1, 2, 3):
        h = array("h", (n_rows, 1), positive=True)
        q = (h**2).sum() + h.sum() ** 2
        differences.append((bypass_layer_norm(h, SCALE) ** 2) * (1 + q / (2 * SCALE**2)) - h**2)
    h = rng.standard_normal((8, 64))

    def exponent(separate: bool) -> float:
        errors = [float(np.max(np.abs(bypass(h, scale, separate) - h))) for scale in (1e3, 1e5)]
        return float(np.log(errors[1] / errors[0]) / np.log(1e2))

    # The factor is 1 - q/4N^2 (1 - 3q/8N^2...), and q is below 10^3 for 8 rows: the slope is off by less than 10^-4,
    # and roundoff at N = 10^5, where the error is 10^-9, by 10^-5. With two pads the next term is q/N of the first.
    return (
        vanishes(differences, "square of the factor")
        & within(exponent(True), -2.001, -1.999, "exponent with three pads")
        & within(exponent(False), -1.1, -0.9, "exponent with two pads")
    )


# --- the four operators (Lemma 1) ---


def at_rest(expression: Any) -> Any:
    """The limit of large attention: the expression with exp(N) sent to infinity, product of blocks by product."""
    small = sympy.Symbol("z", positive=True)
    rational = sympy.sympify(expression).xreplace({sympy.exp(STRENGTH): 1 / small, sympy.exp(-STRENGTH): small})
    coefficients: dict[Any, list[Any]] = defaultdict(list)
    for term in sympy.Add.make_args(sympy.expand(rational)):
        commuting, product = term.args_cnc()
        coefficients[sympy.Mul(*product)].append(sympy.Mul(*commuting))
    limits = {word: sympy.cancel(sympy.Add(*terms)).subs(small, 0) for word, terms in coefficients.items()}
    return sympy.Add(*(limit * word for word, limit in limits.items()))


@cache
def mov_of_blocks() -> Evidence:
    """All sizes of the moved rows and of those they are moved to, by blocks; all pairs of up to four columns."""
    differences = []
    for n_columns in range(1, 5):
        contents = [[block(f"{name}{j}") for j in range(n_columns)] for name in "ab"]
        hidden = np.concatenate([blocks(contents), np.eye(n_columns, dtype=int), np.ones((1, n_columns), dtype=int)])
        hidden = hidden.astype(object)
        codes, one = range(2, 2 + n_columns), 2 + n_columns
        for target in range(n_columns):
            for source in range(target + 1):
                params = mov_layer(len(hidden), source, target, [0], [1], codes, one, STRENGTH, object)
                moved = transformer_layer(hidden, params)[:2]
                limit = np.array([[at_rest(entry) for entry in row] for row in moved], dtype=object)
                differences.append(limit - column_operators.mov(hidden, source, target, [0], [1])[:2])
    return vanishes(differences, "mov, in the limit")


@cache
def aff_of_blocks() -> Evidence:
    """All sizes by blocks. All that a proof knows of ReLU there is that it is half its argument and something even,
    as GeLU is too (K2)."""
    hidden = blocks([[block("a")], [block("b")], [block("c")]])
    w1, w2, bias = blocks([[block("P")]]), blocks([[block("Q")]]), blocks([[block("d")]])[0]
    written = transformer_layer(hidden, aff_layer(3, [0], [1], [2], w1, w2, bias), activation="relu")
    in_place = transformer_layer(hidden, aff_layer(3, [0], [1], [0], w1, w2, bias), activation="relu")
    return vanishes(
        [
            written - column_operators.aff(hidden, [0], [1], [2], w1, w2, bias),
            in_place - column_operators.aff(hidden, [0], [1], [0], w1, w2, bias),
        ],
        "aff",
    )


@cache
def div_of_entries() -> Evidence:
    """One column, which attends to itself alone; the square of what is written, and what is not."""
    h, c = array("h", (2, 1), positive=True), scalar("c", positive=True)
    differences = []
    for sign in (1, -1):
        content = [*h[:, 0], sign * c, 0, 0, 0, 0, 1]
        hidden = np.array([[sympy.sympify(entry)] for entry in content], dtype=object)
        params = div_layer(8, [0], 2, [3], [4, 5, 6], [7], SCALE, STRENGTH, object)
        out = transformer_layer(hidden, params, use_layernorm=True, sink=False)
        q = sum(entry**2 for entry in content) + sum(content) ** 2
        differences += [out[3, 0] ** 2 * (c**2 + q / (2 * SCALE**2)) - h[0, 0] ** 2, *(out - hidden)[[0, 1, 2, 7], 0]]
    return vanishes(differences, "div, exactly")


def mov_error(case: Arguments, strength: float) -> float:
    """Over the bound: in the moved column another token has at most e^-2N of the weight and the sink e^-N, in the
    others each of T tokens e^-N, for both heads; and two sums of two numbers round."""
    hidden, source, target, rows_from, rows_to = case.values()
    n_columns, largest = hidden.shape[-1], np.max(np.abs(hidden), axis=(-2, -1), keepdims=True)
    moved = source, target, rows_from, rows_to
    written = transformer_layer(hidden, mov_layer(hidden.shape[-2], *moved, positions(hidden), ONE, strength))
    bound = (2 * (n_columns + 1) * np.exp(-ATTENTION_STRENGTH) + 8 * ROUNDOFF) * largest
    return ratio(np.abs(written - column_operators.mov(hidden, *moved)), bound)


def aff_error(case: Arguments, shift: float | None) -> float:
    """Over the bound: sums of as many products as there are inputs, then two units that are each right to 8 units in
    the last place."""
    hidden, rows_a, rows_b, rows_out, w1, w2, bias, _ = case.values()
    written = transformer_layer(hidden, aff_layer(hidden.shape[-2], rows_a, rows_b, rows_out, w1, w2, bias, shift))
    size = np.abs(hidden)
    products = np.abs(w1) @ size[..., rows_a, :] + np.abs(w2) @ size[..., rows_b, :] + np.abs(bias)[:, None]
    bound = np.zeros_like(hidden)
    bound[..., rows_out, :] = 2 * (len(rows_a) + len(rows_b) + 20) * ROUNDOFF * (products + size[..., rows_out, :])
    exact = column_operators.aff(hidden, rows_a, rows_b, rows_out, w1, w2, bias)
    return ratio(np.abs(written - exact), bound)


def mul_error(case: Arguments, construct: Construct) -> float:
    """Over the bound: each of b remainders is at most (2 epsilon M)^4 / 12 epsilon^2 (K1). The units, with their output
    weights, hold 2.6 M / epsilon for a product at most; each is right to 8 units, and so is a sum of n up to n more."""
    hidden, a, b, c, rows_a, rows_b, rows_out, epsilon = case.values()
    errors = []
    for finer in (epsilon, 1e-3, 1e-4):
        params = construct(hidden.shape[-2], a, b, c, rows_a, rows_b, rows_out, finer)
        written = transformer_layer(hidden, params)
        largest = np.max(np.abs(hidden), axis=(-2, -1), keepdims=True)
        truncated = 4 / 3 * b * finer**2 * largest**4
        rounded = (3 * b + 2 + 16) * ROUNDOFF * (2.6 * b * largest / finer + 2 * largest)
        exact = column_operators.mul(hidden, a, b, c, rows_a, rows_b, rows_out)
        errors.append(ratio(np.abs(written - exact), truncated + rounded))
    return max(errors)


def quotients(case: Arguments, construct: Construct, scale: float) -> tuple[Array, Array, Array, Array]:
    """What the layer writes, its closed form, the bound on its roundoff and that on its distance from the quotient.

    The sum of the column rounds to D units of 2N|c| + 2 sum|h|, the mean to a Dth of it, and that times
    N sqrt(2/D) over the deviation, 1/sqrt(c^2 + q/2N^2), arrives in the quotient; its other operations are relative.
    """
    hidden, rows, denom_row, rows_out, _ = case.values()
    n_rows = hidden.shape[-2]
    params = construct(n_rows, rows, denom_row, rows_out, PADS, positions(hidden), scale)
    written = transformer_layer(hidden, params, use_layernorm=True)[..., rows_out, :]
    c = np.abs(hidden[..., denom_row, None, :])
    q = (hidden**2).sum(axis=-2, keepdims=True) + hidden.sum(axis=-2, keepdims=True) ** 2
    denominator = np.sqrt(c**2 + q / (2 * scale**2))
    closed = hidden[..., rows, :] / denominator
    mean = 2 * scale * c + 2 * np.abs(hidden).sum(axis=-2, keepdims=True)
    rounded = ROUNDOFF * (2 * mean / denominator + (2 * n_rows + 40) * np.abs(closed))
    return written, closed, rounded, np.abs(hidden[..., rows, :]) / c * q / (4 * scale**2 * c**2)


def div_error(case: Arguments, construct: Construct) -> float:
    hidden, rows, denom_row, rows_out, _ = case.values()
    exact = column_operators.div(hidden, rows, denom_row, rows_out)[..., rows_out, :]
    errors = []
    for scale in (3.0, 10.0, 1e3, 1e5):
        written, closed, rounded, truncated = quotients(case, construct, scale)
        errors += [
            ratio(np.abs(written - closed), rounded),
            ratio(np.abs(written - exact), truncated + rounded),
        ]
    return max(errors)


def without_the_third_pad(*arguments: Any, **named: Any) -> LayerParams:
    """``div`` whose pads do not take the mean away."""
    params = div_layer(*arguments, **named)
    assert params.attention is not None
    value = params.attention.value.copy()
    value[:, 2] = 0
    return params._replace(attention=params.attention._replace(value=value))


@claim(
    "learning_algorithms/K4",
    title="Each of mov, mul, div and aff is one transformer layer",
    source="Lemma 1, Appendix C",
    statement=r"\text{mov: error}\le2e^{-N}(T+1)\max|h|;\quad\text{aff: none};\quad "
    r"\text{mul: }\le\tfrac43b\,\epsilon^2\max|h|^4;\quad\text{div writes }h_r\big/\sqrt{c^2+q/2N^2}",
    method="symbolic",
    scope="mov in the limit of large N for all sizes of rows (blocks), at up to four columns; aff for all sizes "
    "(blocks); div by entries at one column of 8 rows, both signs of the denominator. In floats each at 100 hidden "
    "states of up to 16 rows, to the bounds stated and the roundoff derived: mul at epsilon from 1/8 to 10^-4, div at "
    "N from 3 to 10^5",
    uses=["learning_algorithms/K1", "learning_algorithms/K2"],
    control=[
        Control("mov with the logit 2", strength=2.0),
        Control("aff with a biased unit whose bias is 0", shift=0.0),
        Control("mul with twice the factor", mul=with_output_factor(2.0)),
        Control("div without the third pad", div=without_the_third_pad),
    ],
)
def four_operators(
    rng: np.random.Generator,
    strength: float = ATTENTION_STRENGTH,
    shift: float | None = None,
    mul: Construct = mul_layer,
    div: Construct = div_layer,
) -> Evidence:
    in_floats = [
        for_all(rng, mov_arguments(), lambda case: mov_error(case, strength), 1, quantity="mov error over bound"),
        for_all(rng, aff_arguments(), lambda case: aff_error(case, shift), 1, quantity="aff error over bound"),
        for_all(rng, mul_arguments(), lambda case: mul_error(case, mul), 1, quantity="mul error over bound"),
        for_all(rng, div_arguments(), lambda case: div_error(case, div), 1, quantity="div error over bound"),
    ]
    evidence = mov_of_blocks() & aff_of_blocks() & div_of_entries()
    for one in in_floats:
        evidence &= one
    return evidence


@figure(
    "learning_algorithms/F3",
    title="The error of a product and of a quotient in one layer",
    caption="Truncation falls as the square of epsilon, and as the inverse square of N, down to a floor of roundoff "
    "that rises as 1/epsilon, and as N.",
    answers_to="Lemmas 1 and 4 (the paper has no such figure)",
)
def primitive_errors(rng: np.random.Generator) -> Figure:
    hidden = np.zeros((200, 12, 2))
    hidden[:, :4] = rng.uniform(-2, 2, (200, 4, 2))
    hidden[:, 2] = np.sign(hidden[:, 2]) * (0.5 + np.abs(hidden[:, 2]))
    hidden[:, 9] = 1
    hidden[:, 10:] = np.eye(2)
    product = column_operators.mul(hidden, 1, 2, 1, [0, 1], [2, 3], [4])
    quotient = column_operators.div(hidden, [0, 1], 2, [4, 5])
    steps = np.logspace(-8, -1, 29)
    by_mul, by_div = [], []
    for step in steps:
        layer = mul_layer(12, 1, 2, 1, [0, 1], [2, 3], [4], step)
        by_mul.append(float(np.max(np.abs(transformer_layer(hidden, layer) - product)[:, 4])))
        layer = div_layer(12, [0, 1], 2, [4, 5], PADS, [10, 11], 1 / step)
        written = transformer_layer(hidden, layer, use_layernorm=True)
        by_div.append(float(np.max(np.abs(written - quotient)[:, 4:6])))
    slope = [by_mul[-1] * (step / steps[-1]) ** 2 for step in steps[12:]]
    return Figure(
        (
            Series("mul against epsilon", steps.tolist(), by_mul, "points"),
            Series("div against 1/N", steps.tolist(), by_div, "points"),
            Series("slope 2", steps[12:].tolist(), slope),
        ),
        r"$\epsilon$; $1/N$",
        "largest error",
        "log",
        "log",
    )
