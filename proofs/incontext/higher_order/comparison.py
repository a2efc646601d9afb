r"""How Newton compares with other methods on prompts: likeness, ill-conditioned data, noise, forgetting (3.3, 4, A)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import sympy

from proofs.incontext.higher_order.newton import ROUNDOFF
from proofs.ledger import (
    Control,
    Evidence,
    Figure,
    Matrix,
    Series,
    at_least,
    at_most,
    claim,
    equal,
    figure,
    holds,
    within,
)
from proofs.statistics import covers, lies_above, mean_interval
from proofs.symbolic import array, scalar, vanishes
from refimpl.incontext.higher_order import (
    PrefixSpectra,
    best_matching_steps,
    bfgs,
    conjugate_gradient,
    forgetting_curve,
    iterative_newton,
    online_gradient_descent,
    prefix_predictions,
    prefix_spectra,
    similarity_matrix,
    similarity_of_errors,
    similarity_of_weights,
    spectral_filter,
    spectral_residual,
    spectral_scale,
)
from refimpl.oracle.specs.incontext.higher_order.newton import gram_of
from refimpl.primitives.least_squares import gradient_descent, induced_weights, ols_weights
from refimpl.primitives.numbers import Array
from refimpl.tasks.linear_regression import sample_gaussian_tasks, sample_ill_conditioned_tasks

# The authors' learning rate, at d = 20 and n <= 40.
LEARNING_RATE = 0.01


# --- one example at a time ---


def half_the_adaptive_rate(x: Array, y: Array) -> Array:
    """One pass at half of the rate that leaves no error."""
    weights = 0 * x[..., 0, :]
    for k in range(x.shape[-2]):
        example = x[..., k : k + 1, :]
        residual = y[..., k : k + 1] - (example @ weights[..., None])[..., 0]
        weights = weights + online_gradient_descent(example, residual) / 2
    return weights


@claim(
    "higher_order/HO13",
    title="Online gradient descent with the adaptive rate fits the example just seen exactly",
    source="Eq. 4",
    statement=r"\eta_k=1/\lVert x_k\rVert^2:\quad \hat w_{k+1}^\top x_k=y_k",
    method="symbolic",
    scope="all examples and targets: the shipped pass on symbols, 1 example of 1 to 4 inputs and 2 of 2; and 200 "
    "Gaussian sequences of 20 examples of 20 inputs in floats",
    control=Control("half of the rate", online=half_the_adaptive_rate),
)
def fits_the_last_example(
    rng: np.random.Generator, online: Callable[[Array, Array], Array] = online_gradient_descent
) -> Evidence:
    left = []
    for n, d in ((1, 1), (1, 2), (1, 3), (1, 4), (2, 2)):
        x, y = array("x", (n, d)), array("y", (n,))
        left.append(online(x, y) @ x[-1] - y[-1])
    tasks = sample_gaussian_tasks(200, 20, 20, 0.0, rng)
    x, weights = tasks.x[:, -1], online(tasks.x, tasks.y)
    residual = np.abs((weights * x).sum(axis=-1) - tasks.y[:, -1])
    # Both inner products of d terms, the quotient and the update round to (2 d + 4) u of |w||x|, before and after.
    size = np.linalg.norm(x, axis=-1) * (2 * np.linalg.norm(weights, axis=-1) + np.linalg.norm(tasks.weights, axis=-1))
    bound = 2 * 44 * ROUNDOFF * size
    return vanishes(left, "error on the last example") & at_most(
        float(np.max(residual / bound)), 1, "in floats, over rounding bound"
    )


# --- induced weights ---


def linear_answers(weights: Array, queries: Array) -> Array:
    return np.asanyarray((queries @ weights[..., None])[..., 0])


def quadratic_answers(weights: Array, queries: Array) -> Array:
    answers = linear_answers(weights, queries)
    return answers + answers**2 / 10


@claim(
    "higher_order/HO14",
    title="Induced weights of an algorithm that is linear in the query are its own weights",
    source="Section 3.3, Definition 3.3",
    statement=r"(\tilde X^\top\tilde X)^{-1}\tilde X^\top\tilde Xw=w",
    method="property",
    scope="least squares, gradient descent, Newton and online descent on 50 tasks of 5 inputs and each prefix of 10 "
    "examples; 40 queries; to a rounding bound",
    control=Control("a predictor with a quadratic term", answer=quadratic_answers),
)
def induced_weights_are_the_algorithms(
    rng: np.random.Generator, answer: Callable[[Array, Array], Array] = linear_answers
) -> Evidence:
    tasks = sample_gaussian_tasks(50, 5, 10, 0.0, rng)
    queries = rng.standard_normal((50, 40, 5))
    condition = np.linalg.cond(queries)
    errors, cosines = [], []
    for t in range(1, 11):
        x, y = tasks.x[:, :t], tasks.y[:, :t]
        for weights in (
            ols_weights(x, y),
            gradient_descent(x, y, 20, LEARNING_RATE),
            iterative_newton(x, y, 5),
            online_gradient_descent(x, y),
        ):
            induced = induced_weights(queries, answer(weights, queries))
            error = np.linalg.norm(induced - weights, axis=-1) / np.linalg.norm(weights, axis=-1)
            # A stable least-squares solver, and answers with d roundoffs each.
            errors.append(np.max(error / (16 * 40 * ROUNDOFF * condition)))
            cosines.append(1 - float(similarity_of_weights(induced, weights)))
    return at_most(float(max(errors)), 1, "relative error over rounding bound") & at_most(
        max(cosines), 16 * ROUNDOFF, "1 - SimW of induced and own weights"
    )


# --- similarities along the prefixes of a prompt ---


def newton_along(spectra: PrefixSpectra, n_iterations: Any, factor: float = 1.0) -> Array:
    r"""Newton's predictions from every prefix, with $\alpha$ a multiple of $1/\lVert SS^\top\rVert_F$."""
    values = spectra.eigenvalues
    scale = factor / np.sqrt(np.sum(values**4, axis=-1, keepdims=True))
    return prefix_predictions(spectra, spectral_filter(values, scale * values**2, 2.0**n_iterations))


def descent_along(spectra: PrefixSpectra, n_steps: int) -> Array:
    """Gradient descent's predictions from every prefix, at the authors' rate."""
    values = spectra.eigenvalues
    return prefix_predictions(spectra, spectral_filter(values, LEARNING_RATE * values, n_steps))


def preconditioned_along(spectra: PrefixSpectra, n_steps: int) -> Array:
    """Those of gradient descent preconditioned by S, of which Newton's iterations are the powers of 2."""
    return newton_along(spectra, np.log2(n_steps))


def paper_prompts(rng: np.random.Generator, n_tasks: int, d: int = 20, n: int = 40) -> PrefixSpectra:
    return prefix_spectra(sample_gaussian_tasks(n_tasks, d, n, 0.0, rng))


NEXT_ITERATION = (0.991, 0.990, 0.989, 0.989, 0.990, 0.990, 0.992, 0.993, 0.995, 0.996, 0.997)
"""SimE of Newton's iterations k and k + 1, k = 1 to 11, from the paper's table (Figure 26)."""


def neighbours_of_newton(spectra: PrefixSpectra, k: int) -> tuple[Array, Array]:
    return newton_along(spectra, k, 2.0), newton_along(spectra, k + 1, 2.0)


def doublings_of_descent(spectra: PrefixSpectra, k: int) -> tuple[Array, Array]:
    return descent_along(spectra, 2**k), descent_along(spectra, 2 ** (k + 1))


@claim(
    "higher_order/HO15",
    title="Successive Newton iterations are least alike in the middle, as in the paper's table",
    source="Appendix A.5, Figure 26",
    statement=r"\mathrm{SimE}(\text{Newton }k,\text{Newton }k{+}1)="
    r".991,.990,.989,.989,.990,.990,.992,.993,.995,.996,.997",
    method="experiment",
    scope="d = 20, n = 40, 192 prompts, k = 1 to 11, the scale 2/|SS'|_F, which fits the table best (with the "
    "1/|SS'|_F of the authors' code everything comes an iteration later)",
    control=Control("gradient descent's 2^k and 2^(k+1) steps", neighbours=doublings_of_descent),
)
def successive_iterations(
    rng: np.random.Generator, neighbours: Callable[[PrefixSpectra, int], tuple[Array, Array]] = neighbours_of_newton
) -> Evidence:
    spectra = paper_prompts(rng, 192)
    seen = [float(similarity_of_errors(*neighbours(spectra, k), spectra.targets)) for k in range(1, 12)]
    off = np.abs(np.subtract(seen, NEXT_ITERATION))
    lowest = 1 + int(np.argmin(seen))
    return (
        at_most(float(np.max(off)), 0.002, "largest distance from the table")
        & at_most(float(np.mean(off)), 0.0009, "mean distance")
        & within(lowest, 3, 6, "the iteration least like its successor")
    )


POWERS_OF_TWO = [2**e for e in range(14)]


def matching_descent(spectra: PrefixSpectra, iterations: Any, steps: list[int], along: Any) -> list[int]:
    """For each number of Newton iterations the number of steps of another method that is most like it."""
    newton = np.stack([newton_along(spectra, k) for k in iterations])
    other = np.stack([along(spectra, t) for t in steps])
    return [steps[index] for index in best_matching_steps(similarity_matrix(newton, other, spectra.targets))]


@claim(
    "higher_order/HO16",
    title="Matching one more Newton iteration takes exponentially more gradient steps",
    source="Figure 26a",
    statement=r"\text{best-matching gradient steps, Newton }1,4,\dots,22:\ 1,4,8,16,32,64,128,256,512,1024,4096",
    method="experiment",
    scope="d = 20, n = 40, 16 prompts, gradient steps 2^0 to 2^13 at the authors' rate 0.01",
    control=Control("matched by Newton itself, grid 1 to 14: one step an iteration", doubling=False),
)
def matching_grows(rng: np.random.Generator, doubling: bool = True) -> Evidence:
    spectra = paper_prompts(rng, 16)
    iterations = [1, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22]
    if doubling:
        matches = matching_descent(spectra, iterations, POWERS_OF_TWO, descent_along)
    else:
        matches = matching_descent(spectra, iterations, list(range(1, 15)), newton_along)
    gained = float(np.log2(matches[6] / matches[1]))
    return holds(bool(np.all(np.diff(matches) >= 0)), "non-decreasing", str(matches), "matching steps") & at_least(
        gained, 4, "doublings from iteration 4 to 14"
    )


@claim(
    "higher_order/HO17",
    title="Per Newton iteration the matching gradient steps grow by about the root of 2",
    source="Figure 26a (exponent derived: descent resolves eigenvalues of 1/(eta t), Newton of (alpha 2^k)^-1/2)",
    statement=r"\log_2t(k)\approx\tfrac k2\ \text{ until the smallest eigenvalue is resolved}",
    method="experiment",
    scope="slope over k = 4 to 17 at (d, n) = (20, 40), (10, 20), (12, 36), the steps 2^(e/4) rounded, 12 prompts each",
    uses=["higher_order/HO16"],
    control=Control(
        "matched by descent preconditioned by S, of which an iteration takes twice the steps",
        along=preconditioned_along,
    ),
)
def matching_exponent(rng: np.random.Generator, along: Callable[..., Array] = descent_along) -> Evidence:
    steps = sorted({round(2 ** (e / 4)) for e in range(4 * 18)})
    iterations = list(range(4, 18))
    slopes = []
    for d, n in ((20, 40), (10, 20), (12, 36)):
        matches = matching_descent(paper_prompts(rng, 12, d, n), iterations, steps, along)
        slopes.append(float(np.polyfit(iterations, np.log2(matches), 1)[0]))
    return within(min(slopes), 0.45, 0.6, "smallest slope") & within(max(slopes), 0.45, 0.6, "largest slope")


# --- ill-conditioned inputs ---


def scale_of_the_root(values: Array) -> Array:
    """Newton as if from a multiple of the identity: it sees eigenvalues, not their squares."""
    return np.asanyarray(values / values[:, -1:])


def scale_of_newton(values: Array) -> Array:
    return np.asanyarray((values / values[:, -1:]) ** 2)


def equal_iterations(rates: Array, wanted: float) -> float:
    r"""The real $k$ at which $\sum(1-z)^{2^{k+1}}$ is `wanted`, by bisection."""
    low, high = 0.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.sum(spectral_residual(rates, 2.0 ** (middle + 1))) > wanted else (low, middle)
    return low


@claim(
    "higher_order/HO18",
    title="On ill-conditioned inputs 21 or 22 Newton iterations are as good as 2000 gradient steps",
    source="Section 4.3, Figure 4",
    statement=r"\sum_\lambda(1-\alpha\lambda^2)^{2^{k+1}}=\sum_\lambda(1-\eta\lambda)^{2t}\ \text{ at }\ "
    r"k\approx\log_2(2t\kappa)\approx21.9\ \text{ for }t=2000",
    method="experiment",
    scope="100 prompts of d = 20, n = 40 with condition number 100 of the inputs' law (that of S is 740 to 1700), each "
    "method at its best fixed scale; isotropic inputs beside them",
    uses=["higher_order/HO5"],
    control=Control("Newton as if from a multiple of the identity", newton_rates=scale_of_the_root),
)
def ill_conditioned_inputs(
    rng: np.random.Generator, newton_rates: Callable[[Array], Array] = scale_of_newton
) -> Evidence:
    def values(condition_number: float) -> Array:
        return np.linalg.eigvalsh(gram_of(sample_ill_conditioned_tasks(100, 20, 40, condition_number, rng).x))

    found, gaps = [], []
    for row in values(100.0):
        kappa = row[-1] / row[0]
        residual = spectral_residual(2 * row / (row[0] + row[-1]), 2 * 2000)
        found.append(equal_iterations(newton_rates(row[None])[0], float(np.sum(residual))))
        gaps.append(abs(found[-1] - np.log2(2 * 2000 * kappa)))
    isotropic = values(1.0)
    after_15 = np.sum(spectral_residual(newton_rates(isotropic), 2.0**16), axis=-1)
    descent = [np.sum(spectral_residual(LEARNING_RATE * isotropic, 2 * t), axis=-1) for t in (100, 800)]
    return (
        at_most(float(np.quantile(gaps, 0.9)), 0.3, "distance from log2(2 t kappa), 90 of 100 below")
        & at_most(max(gaps), 1, "largest")
        & within(float(np.median(found)), 21, 23, "median iterations that equal 2000 steps")
        & at_most(float(np.median(after_15)), 1e-12, "isotropic: Newton 15, median squared error")
        & within(float(np.median(descent[0])), 1e-6, 1e-1, "gradient descent 100")
        & at_most(float(np.median(descent[1])), 1e-15, "gradient descent 800")
    )


# --- noisy targets ---


def risk(left: Any, values: Any, noise: Any) -> Any:
    r"""What each eigendirection adds to $\mathbb E\lVert\hat w-w\rVert^2$ where a method leaves `left` of the error."""
    return left**2 + noise**2 / values * (1 - left) ** 2


@claim(
    "higher_order/HO22",
    title="With noisy targets Newton stopped early beats least squares, always",
    source="Appendix A.3.2 (there on trained models; derived)",
    statement=r"\mathbb E\lVert\hat w_k-w\rVert^2="
    r"\sum_i\Big[\epsilon_i^2+\tfrac{\sigma^2}{\lambda_i}(1-\epsilon_i)^2\Big]<\sum_i\tfrac{\sigma^2}{\lambda_i}"
    r"\ \text{ once }\ 0<\epsilon_i=(1-\alpha\lambda_i^2)^{2^k}<\tfrac{2\sigma^2}{\lambda_i+\sigma^2}",
    method="symbolic",
    scope="the risk of the shipped iteration on symbols (2 eigendirections, which decouple; k = 0 to 2) and its "
    "comparison with least squares for every eigenvalue and noise; 300 Gram matrices at d = 8, n = 14, noise 1; and "
    "3000 sampled problems at d = 10, n = 20, noise 1",
    uses=["higher_order/HO1"],
    control=Control("targets without noise", noise=0.0),
)
def early_stopping(rng: np.random.Generator, noise: float = 1.0) -> Evidence:
    # Examples along the axes, of any lengths: the errors' squares, averaged over independent w and noise.
    lengths = array("a", (2,), positive=True)
    weights, disturbance, sigma = array("w", (2,)), array("e", (2,)), scalar("sigma", positive=True)
    examples, alpha = np.diag(lengths), scalar("alpha", positive=True)
    differences = []
    for k in range(3):
        error = iterative_newton(examples, lengths * weights + disturbance, k, alpha) - weights
        parts = [
            [sympy.diff(entry, variable) for variable in (*weights, *disturbance)] for entry in error
        ]  # linear, so that these are its coefficients
        mean = sympy.Add(*(c**2 * (1 if i < 2 else sigma**2) for row in parts for i, c in enumerate(row)))
        left = (1 - alpha * lengths**4) ** 2**k
        differences.append(sympy.expand(mean) - sympy.expand(np.sum(risk(left, lengths**2, sigma))))
    left, value = scalar("epsilon", positive=True), scalar("lambda", positive=True)
    margin = left * (value + sigma**2) / value * (left - 2 * sigma**2 / (value + sigma**2))
    algebra = vanishes(differences, "risk of the shipped iteration") & vanishes(
        risk(left, value, sigma) - sigma**2 / value - margin, "risk less that of least squares, factored"
    )

    values = np.linalg.eigvalsh(gram_of(rng.standard_normal((300, 14, 8))))
    rates = (values / values[:, -1:]) ** 2
    of_newton = np.array([risk(spectral_residual(rates, 2.0**k), values, noise).sum(axis=-1) for k in range(30)])
    of_least_squares, of_ridge = (noise**2 / values).sum(axis=-1), (noise**2 / (values + noise**2)).sum(axis=-1)
    better = int(np.sum(np.min(of_newton, axis=0) < of_least_squares))
    below = int(np.sum(np.min(of_newton, axis=0) > of_ridge))

    tasks = sample_gaussian_tasks(3000, 10, 20, noise, rng)
    squared = [
        np.sum((solved - tasks.weights) ** 2, axis=-1)
        for solved in (
            iterative_newton(tasks.x, tasks.y, 9, spectral_scale(gram_of(tasks.x))),
            ols_weights(tasks.x, tasks.y),
        )
    ]
    return (
        algebra
        & equal(better, 300, "draws of 300 in which some k beats least squares")
        & equal(below, 300, "in which ridge at sigma^2 beats every k")
        & lies_above(mean_interval(squared[1] - squared[0]), 0, "sampled error of least squares less that of k = 9")
    )


# --- forgetting ---


@claim(
    "higher_order/HO23",
    title="Online gradient descent forgets old examples; Newton treats all alike",
    source="Appendix A.6, Figure 5",
    statement=r"\hat w_k\text{ is a function of }S=\textstyle\sum_ix_ix_i^\top\text{ and }X^\top y=\sum_iy_ix_i,"
    r"\text{ so that permuted examples give the same}",
    method="experiment",
    scope="400 prompts at n = d = 20, the error on the example seen g = 0 to 19 examples ago; 5 Newton iterations, and "
    "their weights under a random permutation of the examples",
    uses=["higher_order/HO13"],
    control=Control("online gradient descent in Newton's place", batch=online_gradient_descent),
)
def forgetting(
    rng: np.random.Generator, batch: Callable[[Array, Array], Array] = lambda x, y: iterative_newton(x, y, 5)
) -> Evidence:
    from scipy import stats

    tasks = sample_gaussian_tasks(400, 20, 20, 0.0, rng)
    online = np.mean(forgetting_curve(online_gradient_descent, tasks.x, tasks.y), axis=0)
    order = rng.permutation(20)
    moved = batch(tasks.x[:, order], tasks.y[:, order]) - batch(tasks.x, tasks.y)
    change = float(np.max(np.abs(moved)) / np.max(np.abs(batch(tasks.x, tasks.y))))
    gaps = np.arange(20)
    slopes = [np.polyfit(gaps, curve, 1)[0] for curve in forgetting_curve(batch, tasks.x, tasks.y)]
    return (
        at_most(float(online[0]), 1e-20, "online, squared error at gap 0")
        & at_least(float(stats.spearmanr(gaps, online).statistic), 0.9, "its rank correlation with the gap")
        # Two orders of 20 summands, five iterations that double the roundoff.
        & at_most(change, 1e-12, "Newton's weights under permutation, relative change")
        & covers(mean_interval(slopes), 0, "slope of Newton's error")
    )


# --- figures ---


def descend(values: Array, vectors: Array, weights: Array, n_steps: int) -> Array:
    """The weights of gradient descent at its best rate, from the eigenvalues and eigenvectors of the Gram matrix."""
    rates = 2 * values / (values[:, :1] + values[:, -1:])
    along = (weights[:, None] @ vectors)[:, 0] * (1 - spectral_residual(rates, n_steps))
    return np.asanyarray((vectors @ along[..., None])[..., 0])


@figure(
    "higher_order/F1",
    title="Distance from the solution along the iterations",
    caption="At condition number 1 all methods converge, Newton and those that end after d = 20 steps first. At 100 "
    "gradient descent is not half way after a thousand steps, and Newton takes no more than about 25 iterations.",
    answers_to="Figures 4, 11 and 12",
)
def convergence_figure(rng: np.random.Generator) -> Figure:
    few, many = list(range(1, 31)), sorted({round(2 ** (e / 2)) for e in range(21)})
    parts = []
    for condition_number in (1.0, 100.0):
        tasks = sample_ill_conditioned_tasks(20, 20, 40, condition_number, rng)
        values, vectors = np.linalg.eigh(gram_of(tasks.x))
        methods: dict[str, tuple[list[int], Callable[[int], Array]]] = {
            "Newton": (few, partial(iterative_newton, tasks.x, tasks.y)),
            "gradient descent": (many, partial(descend, values, vectors, tasks.weights)),
            "conjugate gradient": (few, partial(conjugate_gradient, tasks.x, tasks.y)),
            "BFGS": (few, lambda k, tasks=tasks: bfgs(tasks.x, tasks.y, k)[0]),  # type: ignore[misc]
        }
        for title, (counts, solve) in methods.items():
            distances = [float(np.median(np.linalg.norm(solve(k) - tasks.weights, axis=-1))) for k in counts]
            parts.append(Series(f"{title}, condition number {condition_number:g}", counts, distances))
    return Figure(
        tuple(parts),
        x_label="iterations or steps",
        y_label=r"$\Vert\hat w_k-w\Vert$, median of 20 prompts",
        x_scale="log",
        y_scale="log",
    )


@figure(
    "higher_order/F2",
    title="Similarity of errors of Newton's iterations and gradient descent's steps",
    caption="The largest entry of each row moves right by half a doubling of the steps an iteration: a straight line.",
    answers_to="Figure 26a",
)
def similarity_figure(rng: np.random.Generator) -> Figure:
    spectra = paper_prompts(rng, 16)
    newton = np.stack([newton_along(spectra, k) for k in range(1, 24)])
    descent = np.stack([descent_along(spectra, t) for t in POWERS_OF_TWO])
    similarity = similarity_matrix(newton, descent, spectra.targets)
    best = np.eye(len(POWERS_OF_TWO))[best_matching_steps(similarity)]
    rows, columns = "Newton iterations - 1", "log2 of gradient-descent steps"
    return Figure((Matrix("SimE", similarity, rows, columns), Matrix("best match", best, rows, columns)))
