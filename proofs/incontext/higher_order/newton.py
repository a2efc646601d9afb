r"""What Newton's iteration does to the Gram matrix, exactly and in floating point (Sections 3.1 and 5, Appendix B)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st

from proofs.ledger import Control, Evidence, at_least, at_most, claim, equal
from proofs.properties import for_all
from proofs.symbolic import block, blocks, induction, scalar, vanishes
from refimpl.incontext.higher_order import (
    iterative_newton,
    newton_moment_coefficients,
    newton_schulz_inverse,
    newton_schulz_step,
    preconditioned_gradient_descent,
    spectral_residual,
    spectral_scale,
)
from refimpl.oracle.spec import generators
from refimpl.oracle.specs.incontext.higher_order.newton import gram_of, largest_eigenvalue, problems
from refimpl.primitives.least_squares import gradient_descent
from refimpl.primitives.numbers import Array

Step = Callable[[Any, Any], Any]

# Blocks: matrices of any size. S is symmetric, M any square matrix.
S, M, X, y = map(block, ("S", "M", "X", "y"))
ALPHA = scalar("alpha", positive=True)
ROUNDOFF = float(np.finfo(float).eps) / 2


def one_block(entry: Any) -> Array:
    """A matrix of any size as the 1 x 1 array of its only block."""
    return blocks([[entry]])


def inverse_block(n_iterations: int, scale: Any = ALPHA) -> Any:
    """The shipped $M_k$ of the block S."""
    return newton_schulz_inverse(one_block(S), n_iterations, scale)[0, 0]


def iterates(gram: Array, n_iterations: int, scale: Any, step: Step = newton_schulz_step) -> list[Array]:
    """$M_0,\\dots,M_k$, by this step from the shipped start."""
    found = [newton_schulz_inverse(gram, 0, scale)]
    for _ in range(n_iterations):
        found.append(step(found[-1], gram))
    return found


def newton_rounding(gram: Array, n_iterations: int, largest: float) -> float:
    r"""What roundoff may add to $SM_k$, in norm, where all $\lVert S\rVert\lVert M_j\rVert$ are at most `largest`.

    A step rounds $2M-(MS)M$ by at most $4(d+2)^{3/2}u\lVert M\rVert^2\lVert S\rVert$, that is $SM$ by $\lVert S\rVert$
    times as much, and passes an error of $SM$ on at most doubled while $\lVert I-SM\rVert\le1$.
    """
    size = gram.shape[-1]
    return 2.0**n_iterations * 8 * (size + 2) ** 1.5 * ROUNDOFF * largest**2


@st.composite
def spectra(draw: st.DrawFn, largest_condition: float = 10.0) -> dict[str, Any]:
    """A symmetric matrix with eigenvalues between 1 and `largest_condition`, both attained, times a power of two."""
    d = draw(st.integers(2, 12))
    rng = draw(generators())
    eigenvalues = np.concatenate([[1.0, largest_condition], rng.uniform(1, largest_condition, d - 2)])
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    gram = (axes * eigenvalues) @ axes.T
    factor = 2.0 ** draw(st.integers(-8, 8))
    return {"gram": factor * (gram + gram.T) / 2, "eigenvalues": factor * np.sort(eigenvalues)}


# --- the error is squared ---


def half_of_the_product(inverse: Any, gram: Any) -> Any:
    return 2 * inverse - inverse @ gram @ inverse / 2


@claim(
    "higher_order/HO1",
    title="Every Newton iteration squares the error",
    source="Eq. 10 (derived)",
    statement=r"I-SM_{k+1}=(I-SM_k)^2,\quad\text{hence}\quad I-SM_k=(I-\alpha S^2)^{2^k}",
    method="symbolic",
    scope="all sizes, all k (blocks, induction), any square S; and to a rounding bound on 100 Gram matrices of 1 to 32 "
    "inputs, k <= 6",
    control=Control("half of the second term: 2M - MSM/2", step=half_of_the_product),
)
def errors_are_squared(rng: np.random.Generator, step: Step = newton_schulz_step) -> Evidence:
    after = step(one_block(M), one_block(S))[0, 0]
    proof = induction(
        vanishes(1 - S * inverse_block(0) - (1 - ALPHA * S**2), "error of the first iterate"),
        vanishes(1 - S * after - (1 - S * M) ** 2, "error after one more"),
    )

    def error(case: dict[str, Any]) -> float:
        gram = gram_of(case["x"])
        identity = np.eye(gram.shape[-1])
        scale = spectral_scale(gram)
        expected = identity - scale[..., None, None] * gram @ gram
        worst = 0.0
        for k, inverse in enumerate(iterates(gram, 6, scale, step)):
            # Here |M_k| <= 2^k alpha lambda_1 and alpha lambda_1^2 = 1; squaring loses no more than the iteration.
            bound = 2 * newton_rounding(gram, k, 2.0**k)
            worst = max(worst, float(np.max(np.abs(identity - gram @ inverse - expected))) / bound)
            expected = expected @ expected
        return worst

    in_floats = for_all(rng, problems(), error, 1, examples=100, quantity="error over rounding bound")
    return proof & in_floats


def printed_coefficients(n_iterations: int, scale: Any) -> Array:
    """The expansions of $M_1$ and $M_2$ as the paper prints them."""
    printed = {1: (2, -4), 2: (4, -12, 16, -16)}
    if n_iterations not in printed:
        return newton_moment_coefficients(n_iterations, scale)
    return np.array([number * scale**j for j, number in enumerate(printed[n_iterations], 1)])


@claim(
    "higher_order/HO2",
    title="The k-th iterate is a polynomial in the odd powers of S up to the power 2^(k+1) - 1",
    source="Section 5, Appendix B.3",
    statement=r"M_k=\sum_{j=1}^{2^k}(-1)^{j+1}\binom{2^k}j\alpha^jS^{2j-1}",
    method="symbolic",
    scope="all sizes (blocks), k = 0 to 3 on the shipped iteration; every k by HO1 and the binomial theorem",
    uses=["higher_order/HO1"],
    erratum="The paper prints M_1 = 2aS - 4a^2S^3 and M_2 = 4aS - 12a^2S^3 + 16a^3S^5 - 16a^4S^7. The powers are right "
    "and the coefficients are not: by the binomial theorem they are 2, -1 in M_1 and 4, -6, 4, -1 in M_2.",
    control=Control("the coefficients as printed", coefficients=printed_coefficients),
)
def moment_expansion(coefficients: Callable[[int, Any], Array] = newton_moment_coefficients) -> Evidence:
    differences = [
        inverse_block(k) - sympy.Add(*(c * S ** (2 * j + 1) for j, c in enumerate(coefficients(k, ALPHA))))
        for k in range(4)
    ]
    s = scalar("s")
    powers = [
        sorted(power for (power,) in sympy.Poly(newton_schulz_inverse(one_block(s), k, ALPHA)[0, 0], s).monoms())
        for k in range(4)
    ]
    odd = [list(range(1, 2 ** (k + 1), 2)) for k in range(4)]
    return vanishes(differences, "M_k minus the sum") & equal(powers == odd, True, "powers are 1, 3, .., 2^(k+1) - 1:")


# --- where it converges ---


@claim(
    "higher_order/HO3",
    title="Newton converges if and only if the scale lies between 0 and 2/lambda_1^2, at a known rate",
    source="Section 3.1",
    statement=r"\lVert I-M_kS\rVert_2=\max_\lambda\lvert1-\alpha\lambda^2\rvert^{2^k}",
    method="property",
    scope="200 matrices of 2 to 12 inputs with condition number 10, alpha lambda_1^2 from 0.05 to 1.95, k <= 6, to a "
    "rounding bound; and what happens at 2 and beyond",
    uses=["higher_order/HO1"],
    control=Control("each iteration adds a factor, as gradient descent does", power=lambda k: k + 1),
)
def convergence(rng: np.random.Generator, power: Callable[[int], int] = lambda k: 2**k) -> Evidence:
    cases = st.tuples(spectra(), st.floats(0.05, 1.95), st.integers(0, 6))

    def error(case: tuple[dict[str, Any], float, int]) -> float:
        (gram, eigenvalues), fraction, k = case[0].values(), case[1], case[2]
        scale = fraction / eigenvalues[-1] ** 2
        seen = np.linalg.norm(np.eye(len(gram)) - newton_schulz_inverse(gram, k, scale) @ gram, 2)
        predicted = np.max(np.abs(spectral_residual(scale * eigenvalues**2, power(k))))
        # Every SM_k has norm at most 2, so |S||M_k| is at most twice the condition number.
        return float(abs(seen - predicted) / newton_rounding(gram, k, 20.0))

    at_and_beyond = [
        np.max(np.abs(spectral_residual(fraction * np.array([0.01, 1.0]), 2.0**k)))
        for fraction in (2.0, 2.1)
        for k in (4, 6)
    ]
    gram = np.diag([1.0, 4.0])  # exact in floating point, as are the scales
    lost = np.linalg.norm(np.eye(2) - newton_schulz_inverse(gram, 30, 2 / 16) @ gram, 2)
    away = np.linalg.norm(np.eye(2) - newton_schulz_inverse(gram, 6, 2.5 / 16) @ gram, 2)
    return (
        for_all(rng, cases, error, 1, examples=200, quantity="error over rounding bound")
        & at_least(float(np.min(at_and_beyond)), 1, "predicted error at 2 and 2.1 over lambda_1^2")
        & equal(float(lost), 1.0, "error at 2/lambda_1^2 after 30 iterations")
        & at_least(float(away), 1e11, "error at 2.5/lambda_1^2 after 6 iterations")
    )


@claim(
    "higher_order/HO4",
    title="From the scale that the text gives Newton loses the top eigenvector at once and for good",
    source="Eq. 5 and the text below it",
    statement=r"\alpha=2/\lVert SS^\top\rVert_2:\quad M_kv_1=0\ \text{ for all }k\ge1",
    method="symbolic",
    scope="all top eigenvalues; S = diag(1, 2) in exact rationals, 10 iterations; and in floats 20 Gram matrices of 5 "
    "inputs, whose error after 20 iterations is still near 1",
    uses=["higher_order/HO3"],
    erratum="The text sets alpha = 2/|SS'|_2, where convergence needs strictly less. In the authors' code it is "
    "1/|SS'|_F; 2/|SS'|_F, with the Frobenius norm, lies below 2/lambda_1^2 too unless S has rank 1.",
    control=Control("a scale just below, 1.9/|SS'|_2", factor=sympy.Rational(19, 10)),
)
def printed_scale(rng: np.random.Generator, factor: Any = 2) -> Evidence:
    top = scalar("lambda_1", positive=True)
    after = newton_schulz_inverse(one_block(top), 1, factor / top**2)
    again = newton_schulz_step(0 * after, one_block(top))
    gram = np.array([[1, 0], [0, 2]], dtype=object)
    exact = newton_schulz_inverse(gram, 10, factor / sympy.Integer(4))
    corrected = newton_schulz_inverse(gram, 10, sympy.Rational(49, 100))
    x = rng.standard_normal((20, 9, 5))
    grams = gram_of(x)
    inverse = newton_schulz_inverse(grams, 20, float(factor) * spectral_scale(grams))
    residual = np.linalg.norm(np.eye(5) - inverse @ grams, 2, axis=(-2, -1))
    return (
        vanishes([after, again], "M_1 on the top eigenvector, and what becomes of 0")
        & vanishes(exact[1, 1], "last entry of M_10 for diag(1, 2)")
        & at_most(float(abs(corrected[1, 1] - sympy.Rational(1, 2))), 1e-9, "its error at alpha = 0.49")
        & at_least(float(np.min(residual)), 0.99, "error in floats at k = 20")
    )


# --- what it is equal to, and what it is like on the way ---


@claim(
    "higher_order/HO7",
    title="k Newton iterations are 2^k gradient steps preconditioned by S",
    source="Section 3.1 (derived)",
    statement=r"\hat w_k=v_{2^k}\ \text{ where }\ v_0=0,\ v_{j+1}=v_j+\alpha S(X^\top y-Sv_j)",
    method="symbolic",
    scope="all sizes (blocks): k = 0 to 3 on the shipped functions; every k by induction over the residuals, which a "
    "step multiplies by 1 - alpha S^2 and an iteration squares (polynomials in S, so that it may be singular); and "
    "k = 5 against 32 steps in floats",
    uses=["higher_order/HO1"],
    control=[Control("one step fewer", extra=-1), Control("one step more", extra=1)],
)
def newton_is_preconditioned_descent(rng: np.random.Generator, extra: int = 0) -> Evidence:
    x_block, y_block = one_block(X), np.array([y], dtype=object)
    differences = [
        iterative_newton(x_block, y_block, k, ALPHA)
        - preconditioned_gradient_descent(x_block, y_block, 2**k + extra, ALPHA)
        for k in range(4)
    ]
    # One step on weights N b with b = X'y: N becomes N + alpha S (1 - S N).
    N = block("N")
    stepped = N + ALPHA * S * (1 - S * N)
    step = vanishes(1 - S * stepped - (1 - ALPHA * S**2) * (1 - S * N), "residual of one more preconditioned step")

    def error(case: dict[str, Any]) -> float:
        x, y_ = case["x"], case["y"]
        scale = 1 / largest_eigenvalue(x) ** 2
        weights = iterative_newton(x, y_, 5, scale)
        other = preconditioned_gradient_descent(x, y_, 2**5 + extra, scale)
        # The factor of X'y is at most 2^5 alpha lambda_1; both routes round each of 32 steps by a few (n + d) u of it.
        n, d = x.shape[-2:]
        largest = 2**5 * scale * largest_eigenvalue(x) ** 1.5 * np.max(np.linalg.norm(y_, axis=-1))
        bound = 2 * 32 * 8 * (n + d) * d**0.5 * ROUNDOFF * largest
        return float(np.max(np.abs(weights - other)) / bound) if bound else 0.0

    in_floats = for_all(rng, problems(), error, 1, examples=100, quantity="k = 5 against 32 steps, over rounding bound")
    return vanishes(differences, "k = 0 to 3") & step & in_floats


def all_iterates(case: tuple[dict[str, Any], float], n_iterations: int = 8) -> list[Array]:
    (gram, eigenvalues), fraction = case[0].values(), case[1]
    return iterates(gram, n_iterations, fraction / eigenvalues[-1] ** 2)


@claim(
    "higher_order/HO8",
    title="The iterates are symmetric, commute with S and increase towards its inverse from below",
    source="Section 3.1 (derived)",
    statement=r"M_k=M_k^\top,\quad M_kS=SM_k,"
    r"\quad M_k\preceq M_{k+1}\preceq S^{-1}\ \text{ for }\ \alpha\le1/\lambda_1^2",
    method="property",
    scope="100 matrices of 2 to 12 inputs with condition number 10, alpha lambda_1^2 from 0.05 to 1, k <= 8, to a "
    "rounding bound; symmetry and commuting for all sizes and k (blocks, induction)",
    uses=["higher_order/HO1"],
    control=Control("scales from 1.2 to 1.9 over lambda_1^2", fractions=(1.2, 1.9)),
)
def iterates_increase(rng: np.random.Generator, fractions: tuple[float, float] = (0.05, 1.0)) -> Evidence:
    after = newton_schulz_step(one_block(M), one_block(S))[0, 0]
    commutator = M * S - S * M
    algebra = induction(
        vanishes(sympy.transpose(inverse_block(0)) - inverse_block(0), "symmetric", symmetric=[S])
        & vanishes(inverse_block(0) * S - S * inverse_block(0), "commutes"),
        vanishes(sympy.transpose(after) - after, "symmetric if M is", symmetric=[S, M])
        # A combination of MS - SM, which is zero if M and S commute.
        & vanishes(
            after * S - S * after - (2 * commutator - M * S * commutator - commutator * S * M), "commutes if M does"
        ),
    )

    def violation(case: tuple[dict[str, Any], float]) -> float:
        gram, eigenvalues = case[0].values()
        found = all_iterates(case)
        inverse = np.linalg.inv(gram)
        worst = 0.0
        for k, (now, following) in enumerate(zip([0 * gram, *found], [*found, inverse], strict=True)):
            for lower, upper in ((now, following), (following, inverse)):
                lowest = np.linalg.eigvalsh((upper - lower + (upper - lower).T) / 2)[0]
                # |S||M_k| is at most the condition number, 10; S^-1 itself is off by less.
                bound = newton_rounding(gram, k, 10.0) / eigenvalues[0]
                worst = max(worst, float(-lowest / bound))
        return worst

    cases = st.tuples(spectra(), st.floats(*fractions))
    return algebra & for_all(
        rng, cases, violation, 1, examples=100, quantity="most negative eigenvalue of a difference over rounding bound"
    )


# --- fewer examples than inputs ---


@st.composite
def short_problems(draw: st.DrawFn, n: int = 3, d: int = 8) -> dict[str, Any]:
    """Fewer examples than inputs, and targets; the examples are of one size and far from dependent."""
    rng = draw(generators())
    left, right = np.linalg.qr(rng.standard_normal((n, n)))[0], np.linalg.qr(rng.standard_normal((d, n)))[0]
    return {"x": (left * rng.uniform(1, 2, n)) @ right.T, "y": rng.standard_normal(n), "span": right}


def from_scaled_identity(gram: Array, n_iterations: int, scale: Any) -> Array:
    inverse = scale * np.eye(len(gram))
    for _ in range(n_iterations):
        inverse = newton_schulz_step(inverse, gram)
    return inverse


@claim(
    "higher_order/HO20",
    title="With fewer examples than inputs the weights stay in the examples' span and tend to the shortest solution",
    source="Appendix B.4",
    statement=r"\hat w_k\in\mathrm{span}\{x_i\},\quad \hat w_k\to X^\dagger y,\quad M_k\to S^\dagger",
    method="property",
    scope="100 problems of 3 examples and 8 inputs, the singular values of X between 1 and 2, k = 20 (M_k) and k = 40 "
    "(weights), to rounding bounds",
    uses=["higher_order/HO1"],
    control=Control(
        "from a multiple of the identity: the weights stay in the span, M_k tends to nothing",
        invert=from_scaled_identity,
    ),
)
def shortest_solution(
    rng: np.random.Generator, invert: Callable[[Array, int, Any], Array] = newton_schulz_inverse
) -> Evidence:
    # With alpha = 1/lambda_1^2 and a condition number of S up to 16, M_k has converged by k = 14. Roundoff: a step adds
    # at most 8 (d + 2)^1.5 u |M|^2 |S|, which the null space doubles and mixed directions keep; |S||M| <= 16, |M| <= 1.
    unit = 16 * 8 * 10**1.5 * ROUNDOFF

    def inverse_error(case: dict[str, Any]) -> float:
        gram = gram_of(case["x"])
        inverse = invert(gram, 20, float(spectral_scale(gram)))
        return float(np.linalg.norm(inverse - np.linalg.pinv(gram), 2) / (2**21 * unit))

    def weight_error(case: dict[str, Any]) -> float:
        x, y_, span = case.values()
        weights = iterative_newton(x, y_, 40)
        outside = np.linalg.norm(weights - span @ (span.T @ weights))
        away = np.linalg.norm(weights - np.linalg.pinv(x) @ y_)
        # X'y lies in the span up to its own roundoff, of which the null space makes at most 2^41 of its square.
        return float(max(outside, away) / (40 * unit * 16 * np.linalg.norm(y_)))

    return for_all(
        rng, short_problems(), inverse_error, 1, quantity="distance of M_20 from the pseudo-inverse over rounding bound"
    ) & for_all(rng, short_problems(), weight_error, 1, quantity="weights out of the span or off, over rounding bound")


@claim(
    "higher_order/HO21",
    title="Where S is singular, roundoff in its null space doubles at every iteration, and predictions do not feel it",
    source="Section 3.1 (derived)",
    statement=r"PS=SP=0:\quad PM_{k+1}P=2PM_kP",
    method="property",
    scope="50 problems of 3 examples and 8 inputs in float64: the growth from k = 44 to 60, predictions at k = 50; and "
    "the identity for all sizes (blocks: range and null space of S apart)",
    uses=["higher_order/HO20"],
    control=Control("as many examples as inputs, so that there is no null space", n=8),
)
def null_space_noise(rng: np.random.Generator, n: int = 3) -> Evidence:
    # In an eigenbasis of S, with its range first.
    R, C, N = block("R"), block("C"), block("N")
    gram = blocks([[block("L"), 0], [0, 0]])
    inverse = blocks([[R, C], [sympy.transpose(C), N]])
    after = newton_schulz_step(inverse, gram)[1, 1]
    first_order = after - (2 * N - sympy.transpose(C) * block("L") * C)

    def growth(case: dict[str, Any]) -> float:
        gram = gram_of(case["x"])
        target = np.linalg.pinv(gram, rcond=1e-10)
        noise = [np.linalg.norm(newton_schulz_inverse(gram, k) - target, 2) for k in (44, 60)]
        return float(abs(np.log2(noise[1] / noise[0]) / 16 - 1))

    def prediction_error(case: dict[str, Any]) -> float:
        x, y_ = case["x"], case["y"]
        return float(np.max(np.abs(x @ iterative_newton(x, y_, 50) - y_)) / np.max(np.abs(y_)))

    # 2^50 u^2, and the roundoff of HO20's bound.
    bound = 2.0**50 * ROUNDOFF**2 * 1e3 + 50 * 16 * 16 * 8 * 10**1.5 * ROUNDOFF
    return (
        vanishes(first_order, "null space of one more iterate, C the mixed directions")
        & for_all(rng, short_problems(n), growth, 1e-3, 50, "log2 of the growth, distance from 1")
        & for_all(rng, short_problems(n), prediction_error, bound, 50, "relative error of predictions at k = 50")
    )


# --- powers of S ---


def newton_degree(n_iterations: int) -> int:
    """The largest power of S in the Newton weights, beyond that in X'y."""
    s = scalar("s")
    return int(sympy.degree(sympy.expand(newton_schulz_inverse(one_block(s), n_iterations, ALPHA)[0, 0]), s))


def can_match(n_steps: int, n_iterations: int) -> bool:
    """Whether some first-order method of so many steps does on 2^(k+1) distinct eigenvalues what k iterations do."""
    eigenvalues = [sympy.Integer(i) for i in range(1, 2 ** (n_iterations + 1) + 1)]
    scale = 1 / sympy.Integer(2 * len(eigenvalues) ** 2)
    wanted = [newton_schulz_inverse(one_block(value), n_iterations, scale)[0, 0] for value in eigenvalues]
    powers = sympy.Matrix([[value**i for i in range(n_steps)] for value in eigenvalues])
    return bool(powers.rank() == powers.row_join(sympy.Matrix(wanted)).rank())


@claim(
    "higher_order/HO25",
    title="Gradient descent gains one power of S a step where Newton doubles them",
    source="Section 5",
    statement=r"\hat w_k^{GD}=\eta\sum_{i<k}(I-\eta S)^iX^\top y,\quad \text{and }k\text{ Newton iterations take }"
    r"2^{k+1}\text{ first-order steps or more}",
    method="symbolic",
    scope="all sizes and steps (blocks, induction); that fewer steps cannot match, for k = 0 to 2 by exact ranks on "
    "2^(k+1) distinct eigenvalues, for every k since so many points determine a polynomial of degree 2^(k+1) - 1",
    uses=["higher_order/HO2"],
    control=[
        Control("descent with twice the rate", factor=2),
        Control("2^(k+1) steps said to be too few", missing=0),
    ],
)
def powers_of_the_gram_matrix(factor: int = 1, missing: int = 1) -> Evidence:
    eta = scalar("eta", positive=True)
    gram, moment = sympy.transpose(X) * X, sympy.transpose(X) * y
    x_block, y_block = one_block(X), np.array([y], dtype=object)

    def closed(n_steps: int) -> Any:
        return eta * sympy.Add(*((1 - eta * gram) ** i * moment for i in range(n_steps)))

    few = [gradient_descent(x_block, y_block, k, factor * eta)[0] - closed(k) for k in range(1, 5)]
    # One shipped step from eta Q b, where Q is the sum so far: the sum's terms times (I - eta S), and one more.
    Q = block("Q")
    stepped = gradient_descent(x_block, y_block, 1, factor * eta, np.array([eta * Q * moment], dtype=object))[0]
    step = vanishes(stepped - (eta * moment + (1 - eta * gram) * eta * Q * moment), "one more step")
    return (
        induction(vanishes(few, "1 to 4 steps"), step)
        & equal([newton_degree(k) for k in range(4)], [2 ** (k + 1) - 1 for k in range(4)], "Newton's powers")
        & equal([can_match(2 ** (k + 1) - missing, k) for k in range(3)], [False] * 3, "2^(k+1) - 1 steps match")
        & equal([can_match(2 ** (k + 1), k) for k in range(3)], [True] * 3, "2^(k+1) steps match")
    )
