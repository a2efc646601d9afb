r"""How many steps each method takes, and why no first-order method takes as few as Newton (Sections 3.1 and 5)."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from proofs.incontext.higher_order.newton import iterates, one_block
from proofs.ledger import (
    Control,
    Evidence,
    Figure,
    Series,
    at_least,
    at_most,
    claim,
    equal,
    figure,
    within,
)
from proofs.symbolic import scalar, vanishes
from refimpl.incontext.higher_order import (
    best_learning_rate,
    bfgs,
    chebyshev_iteration,
    conjugate_gradient,
    gradient_steps_needed,
    iterative_newton,
    krylov_steps_needed,
    newton_iterations_needed,
    spectral_scale,
)
from refimpl.oracle.specs.incontext.higher_order.newton import gram_of
from refimpl.primitives.least_squares import gradient_descent, ols_weights
from refimpl.primitives.numbers import Array
from refimpl.tasks.linear_regression import sample_ill_conditioned_tasks

Count = Callable[[Any, Any], Any]
CONDITION_NUMBERS = (1.0, 10.0, 100.0, 1e3, 1e4)
ROUNDOFF = float(np.finfo(float).eps) / 2


def sampled_grams(rng: np.random.Generator, n_tasks: int, condition_number: float) -> Array:
    """Gram matrices of the paper's sizes, d = 20 and n = 40."""
    return gram_of(sample_ill_conditioned_tasks(n_tasks, 20, 40, condition_number, rng).x)


def condition_numbers(grams: Array) -> Array:
    eigenvalues = np.linalg.eigvalsh(grams)
    return np.asanyarray(eigenvalues[..., -1] / eigenvalues[..., 0])


def from_identity(condition_number: Any, accuracy: Any) -> Any:
    """Newton's count from a multiple of the identity, which has no square of the condition number."""
    return newton_iterations_needed(np.sqrt(condition_number), accuracy)


def at_the_inverse_of_the_largest(condition_number: Any, accuracy: Any) -> Any:
    """Gradient descent's count at the rate 1/lambda_1."""
    return np.log(accuracy) / np.log1p(-1 / condition_number)


@claim(
    "higher_order/HO5",
    title="Newton takes logarithmically many iterations in the condition number, gradient descent linearly many",
    source="Section 3.1",
    statement=r"k=\log_2\frac{\ln\epsilon}{\ln(1-\kappa^{-2})}\in2\log_2\kappa+\log_2\ln\tfrac1\epsilon-"
    r"\big[0,\log_2\tfrac{\kappa^2}{\kappa^2-1}\big],\quad t=\frac{\ln\epsilon}{\ln\frac{\kappa-1}{\kappa+1}}\in"
    r"\tfrac\kappa2\ln\tfrac1\epsilon\,[1-\kappa^{-2},1]",
    method="property",
    scope="20 draws at d = 20, n = 40 for each condition number 1, 10, .., 10^4 of the inputs' law; accuracy 10^-6; "
    "the iteration itself on all draws up to 10^3",
    uses=["higher_order/HO3"],
    control=[
        Control("Newton as if from a multiple of the identity", newton=from_identity),
        Control("descent at the rate 1/lambda_1", descent=at_the_inverse_of_the_largest),
    ],
)
def steps_needed(
    rng: np.random.Generator, newton: Count = newton_iterations_needed, descent: Count = gradient_steps_needed
) -> Evidence:
    accuracy = 1e-6
    newton_gap, descent_gap, missed = [], [], []
    for condition_number in CONDITION_NUMBERS:
        grams = sampled_grams(rng, 20, condition_number)
        kappa = condition_numbers(grams)
        k = newton(kappa, accuracy)
        short = 2 * np.log2(kappa) + np.log2(np.log(1 / accuracy)) - k
        newton_gap += [-np.min(short), np.max(short + np.log1p(-(kappa**-2.0)) / np.log(2))]
        ratio = descent(kappa, accuracy) / (kappa / 2 * np.log(1 / accuracy))
        descent_gap += [np.max(ratio) - 1, np.max(1 - kappa**-2.0 - ratio)]
        if condition_number <= 1e3:
            found = iterates(grams, int(np.ceil(np.max(k))), spectral_scale(grams))
            error = [np.linalg.norm(np.eye(20) - m @ grams, 2, axis=(-2, -1)) for m in found]
            missed.append(np.max(np.abs(np.sum(np.array(error) > accuracy, axis=0) - np.ceil(k))))
    # The brackets hold exactly; a count of some forty is evaluated to a few roundoffs of itself.
    return (
        at_most(float(max(newton_gap)), 1000 * ROUNDOFF, "Newton's count out of its bracket by")
        & at_most(float(max(descent_gap)), 1000 * ROUNDOFF, "descent's ratio out of its bracket by")
        & equal(int(max(missed)), 0, "iterations run less those predicted")
    )


# --- digits ---


def newton_error(x: Array, y: Array, n_steps: int) -> Array:
    return iterative_newton(x, y, n_steps, float(spectral_scale(gram_of(x))))


def descent_error(x: Array, y: Array, n_steps: int) -> Array:
    return gradient_descent(x, y, n_steps, float(best_learning_rate(gram_of(x))))


def first_below(solve: Callable[..., Array], x: Array, y: Array, solution: Array, accuracy: float) -> int:
    """The fewest steps that leave a relative error of at most `accuracy`, by bisection."""
    low, high = -1, 1

    def reached(n_steps: int) -> bool:
        return bool(np.linalg.norm(solve(x, y, n_steps) - solution) <= accuracy * np.linalg.norm(solution))

    while not reached(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


@claim(
    "higher_order/HO6",
    title="Twice the digits cost Newton one iteration more and gradient descent twice the steps",
    source="Section 3.1",
    statement=r"k(\epsilon^2)=k(\epsilon)+1,\qquad t(\epsilon^2)=2t(\epsilon)",
    method="property",
    scope="5 problems of 8 inputs with condition number 32, the error along the slowest direction, run to accuracies "
    "10^-1, 10^-2, 10^-4, 10^-8; the formulas to 10^-16",
    uses=["higher_order/HO5"],
    control=Control("gradient descent in Newton's place", fast=descent_error),
)
def doubling_the_digits(rng: np.random.Generator, fast: Callable[..., Array] = newton_error) -> Evidence:
    accuracies = [1e-1, 1e-2, 1e-4, 1e-8]
    gains, ratios = [], []
    for _ in range(5):
        left, right = (np.linalg.qr(rng.standard_normal((8, 8)))[0] for _ in range(2))
        x = (left * np.sqrt(np.concatenate([[1, 32], rng.uniform(1, 32, 6)]))) @ right.T
        slowest = right[:, 0]
        y = x @ slowest
        iterations = [first_below(fast, x, y, slowest, accuracy) for accuracy in accuracies]
        steps = [first_below(descent_error, x, y, slowest, accuracy) for accuracy in accuracies]
        gains.append(np.diff(iterations).tolist())
        ratios += [2 * few - many for few, many in itertools.pairwise(steps)]
    digits = 10.0 ** -np.array([1.0, 2, 4, 8, 16])
    formula = np.array(
        [[count(32.0, d) for d in digits] for count in (newton_iterations_needed, gradient_steps_needed)]
    )
    return (
        equal(gains, [[1, 1, 1]] * 5, "further iterations")
        # Rounded up, twice the steps may be one fewer.
        & within(min(ratios), 0, 1, "fewest of twice the steps less those taken")
        & within(max(ratios), 0, 1, "most")
        & at_most(
            float(np.max(np.abs(np.diff(formula[0]) - 1))), 100 * ROUNDOFF, "iterations by the formula, gain less 1"
        )
        & at_most(
            float(np.max(np.abs(formula[1, 1:] / formula[1, :-1] - 2))),
            100 * ROUNDOFF,
            "steps by the formula, ratio less 2",
        )
    )


# --- the best first-order method ---


def smallest_worst_case(condition_number: float, degree: int, n_points: int = 400) -> float:
    r"""The least $\max_\lambda|p(\lambda)|$ over polynomials of this degree with $p(0)=1$, by a linear programme.

    On Chebyshev's points of the interval, so that between them a polynomial is larger by a factor of at most
    $1/\cos\frac{\pi t}{2N}$ (Ehlich and Zeller).
    """
    from scipy import optimize

    points = np.cos((2 * np.arange(n_points) + 1) * np.pi / (2 * n_points))
    origin = -(condition_number + 1) / (condition_number - 1)
    basis = np.polynomial.chebyshev.chebvander(np.append(points, origin), degree)
    # Scaled to 1 at the origin the unknowns are of one size.
    basis /= np.abs(basis[-1])
    rows, at_origin = basis[:-1], np.append(basis[-1], 0)
    bound = np.block([[rows, -np.ones((n_points, 1))], [-rows, -np.ones((n_points, 1))]])
    objective = np.append(np.zeros(degree + 1), 1)
    found = optimize.linprog(
        objective, A_ub=bound, b_ub=np.zeros(2 * n_points), A_eq=at_origin[None], b_eq=[1], bounds=(None, None)
    )
    return float(np.asarray(found.x)[-1])


def chebyshev_value(condition_number: Any, degree: int) -> Any:
    r"""$1/T_t(\frac{\kappa+1}{\kappa-1})$."""
    return 1 / np.cosh(degree * np.arccosh((condition_number + 1) / (condition_number - 1)))


def diagonal_problem(eigenvalues: Array) -> tuple[Array, Array]:
    """Examples with this spectrum whose solution is all ones."""
    roots = np.sqrt(eigenvalues)
    return np.diag(roots), roots


def by_chebyshev(x: Array, y: Array, n_steps: int, smallest: float, largest: float) -> Array:
    return chebyshev_iteration(x, y, n_steps, smallest, largest)


def by_gradient_descent(x: Array, y: Array, n_steps: int, smallest: float, largest: float) -> Array:
    return gradient_descent(x, y, n_steps, 2 / (smallest + largest))


@claim(
    "higher_order/HO26",
    title="No first-order method does better than Chebyshev's, which takes exponentially more steps than Newton",
    source="Section 5 (its lower bound for first-order methods; derived)",
    statement=r"\min_{p(0)=1,\deg p=t}\ \max_{\lambda_d\le\lambda\le\lambda_1}|p(\lambda)|="
    r"1/T_t\big(\tfrac{\kappa+1}{\kappa-1}\big),\quad t(\epsilon)\approx\tfrac{\sqrt\kappa}2\ln\tfrac2\epsilon",
    method="symbolic",
    scope="the shipped iteration's residual is Chebyshev's polynomial for every interval and eigenvalue, t = 1 to 5; "
    "that no polynomial does better: a smaller one would cross it at its t + 1 alternations, confirmed by linear "
    "programmes at condition numbers 5, 20, 100 and t = 2, 5, 8; counts at accuracy 10^-6",
    uses=["higher_order/HO5", "higher_order/HO25"],
    control=Control("gradient descent at its best rate", method=by_gradient_descent),
)
def first_order_lower_bound(method: Callable[..., Array] = by_chebyshev) -> Evidence:
    r, c = scalar("r", positive=True), scalar("c", positive=True)
    differences = []
    for t in range(1, 6):
        # The interval in units of its half-width, and r the root of an eigenvalue.
        weight = method(one_block(r), np.array([r], dtype=object), t, c - 1, c + 1)[0]
        difference = 1 - weight - sympy.chebyshevt(t, c - r**2) / sympy.chebyshevt(t, c)
        differences.append(sympy.together(difference).as_numer_denom()[0])
    optimal, attained = [], []
    for kappa in (5.0, 20.0, 100.0):
        eigenvalues = (kappa + 1) / 2 + (kappa - 1) / 2 * np.cos(np.linspace(0, np.pi, 401))
        for t in (2, 5, 8):
            best = float(chebyshev_value(kappa, t))
            optimal.append(abs(smallest_worst_case(kappa, t) / best - 1))
            worst = np.max(np.abs(1 - method(*diagonal_problem(eigenvalues), t, 1.0, kappa)))
            # Each step rounds weights of at most 2 a few times.
            attained.append(abs(float(worst) - best) / (32 * t * ROUNDOFF))
    decades = 10.0 ** np.arange(1, 5)
    krylov, approximate = krylov_steps_needed(decades, 1e-6), np.sqrt(decades) / 2 * np.log(2e6)
    newton = newton_iterations_needed(decades, 1e-6)
    # A polynomial of degree 8 at 400 Chebyshev points is at most 1/cos(8 pi/800) times as large between; the programme
    # is solved to 10^-7. A decade is 2 log2(10) iterations of Newton plus at most the bracket of HO5 at its lower end.
    return (
        vanishes(differences, "residual less Chebyshev's polynomial")
        & at_most(max(optimal), 1 / np.cos(np.pi * 8 / 800) - 1 + 1e-6, "linear programme off by")
        & at_most(max(attained), 1, "worst error on 401 eigenvalues off by, over rounding bound")
        & at_most(float(np.max(np.abs(krylov / approximate - 1))), 0.04, "counts off the approximation by")
        & at_least(float(np.min(np.diff(np.log(krylov)))), 1, "log of first-order steps gained a decade")
        & at_most(
            float(np.max(np.diff(newton))), 2 * np.log2(10) - np.log2(1 - 0.01), "Newton's iterations gained a decade"
        )
    )


# --- conjugate gradients and BFGS ---


@claim(
    "higher_order/HO19",
    title="Conjugate gradients and BFGS with exact line search are one method and reach least squares in d steps",
    source="Appendix A.2.3, Figures 11 and 12",
    statement=r"w^{CG}_k=w^{BFGS}_k,\quad w_d=\hat w^{OLS},\quad H_d=S^{-1}",
    method="property",
    scope="100 Gaussian problems of 6 inputs and 20 examples, to a rounding bound; and how roundoff delays it at 20 "
    "inputs with condition number 100 of the inputs' law",
    control=Control("one step fewer", fewer=1),
)
def finite_termination(rng: np.random.Generator, fewer: int = 0) -> Evidence:
    d, n = 6, 20
    tasks = sample_ill_conditioned_tasks(100, d, n, 1.0, rng)
    grams = gram_of(tasks.x)
    kappa = condition_numbers(grams)
    solution = ols_weights(tasks.x, tasks.y)

    def off(weights: Array, target: Array) -> Array:
        return np.asanyarray(np.linalg.norm(weights - target, axis=-1) / np.linalg.norm(solution, axis=-1))

    apart = [off(conjugate_gradient(tasks.x, tasks.y, k), bfgs(tasks.x, tasks.y, k)[0]) for k in range(1, d + 1)]
    weights, inverse = bfgs(tasks.x, tasks.y, d - fewer)
    hessian = np.linalg.norm(inverse @ grams - np.eye(d), 2, axis=(-2, -1))
    arrived = off(conjugate_gradient(tasks.x, tasks.y, d - fewer), solution) + off(weights, solution)
    # Each of d steps rounds by about (n + d) u, and the recurrences pass it on times the condition number, twice.
    bound = 8 * d * (n + d) * ROUNDOFF * kappa**2
    hard = sample_ill_conditioned_tasks(40, 20, 40, 100.0, rng)
    late = conjugate_gradient(hard.x, hard.y, 20) - hard.weights
    delayed = float(np.median(np.linalg.norm(late, axis=-1) / np.linalg.norm(hard.weights, axis=-1)))
    return (
        at_most(float(np.max(np.array(apart) / bound)), 1, "between the two methods, over rounding bound")
        & at_most(float(np.max(arrived / bound)), 1, "from least squares after d steps, over rounding bound")
        & at_most(float(np.max(hessian / bound)), 1, "|HS - I| after d steps, over rounding bound")
        & within(delayed, 1e-4, 0.1, "median error after d steps at condition number 100, in float64")
    )


@figure(
    "higher_order/F3",
    title="Steps to a relative error of 1e-6 against the condition number",
    caption="Newton's iterations grow with the logarithm of the condition number. On these axes gradient descent is a "
    "line of slope 1, the best first-order method one of slope 1/2. Means over 20 draws at d = 20, n = 40.",
    answers_to="the rates of Section 3.1",
)
def steps_figure(rng: np.random.Generator) -> Figure:
    kappa = np.array([condition_numbers(sampled_grams(rng, 20, c)) for c in CONDITION_NUMBERS])
    counts = {
        "Newton": newton_iterations_needed,
        "Chebyshev, the best first-order method": krylov_steps_needed,
        "gradient descent at its best rate": gradient_steps_needed,
    }
    return Figure(
        tuple(
            Series(title, CONDITION_NUMBERS, np.mean(count(kappa, 1e-6), axis=1).tolist())
            for title, count in counts.items()
        ),
        x_label="condition number of the inputs' law",
        y_label="steps",
        x_scale="log",
        y_scale="log",
    )
