r"""The two programs compute SGD and ridge regression, exactly and by a transformer (Theorems 1 and 2).

A third machine runs the shipped listings for all $d$ at once: :class:`BlockMachine` has a block in each register.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy

from proofs.ledger import Control, Evidence, claim, equal, within
from proofs.symbolic import array, block, induction, scalar, vanishes
from refimpl.incontext.learning_algorithms import (
    Aff,
    Div,
    Mov,
    Mul,
    Program,
    compile_program,
    encode_prompt,
    execute,
    gradient_descent_listing,
    run_exactly,
    sgd_weights,
    sherman_morrison_listing,
    sherman_morrison_update,
)
from refimpl.primitives.least_squares import ridge_weights
from refimpl.primitives.numbers import Array, transpose

Listing = Callable[..., Program]

D = sympy.Symbol("d", integer=True, positive=True)
RATE, DECAY, RIDGE = (scalar(name, positive=True) for name in ("alpha", "lambda", "rho"))
EPSILONS = (1e-2, 1e-3, 1e-4)


# --- a machine for all d ---


class BlockMachine:
    r"""Runs a listing on registers that are blocks: columns of any length d, d x d matrices, or numbers.

    It reads a register of size d as d x 1 or, transposed, as 1 x d, as the instruction has it: row by row these are the
    same numbers. A 1 x 1 product $u^\top v$ is a number, which commutes, so it gets a symbol of its own. A number that
    is divided by is taken to be positive.
    """

    def __init__(self, program: Program, columns: Sequence[dict[str, Any]], shared: dict[str, Any]) -> None:
        self.sizes = program.registers
        self.columns = [shared | column for column in columns]
        self.numbers: dict[Any, sympy.Symbol] = {}

    def value(self, name: str, column: int) -> Any:
        return self.columns[column].get(name, sympy.Integer(0))

    def number(self, product: Any) -> Any:
        """The commuting symbol of a 1 x 1 product, the same for its transpose."""
        product = sympy.expand(product)
        if product.is_commutative:
            return product
        for form in (product, sympy.expand(product.transpose())):
            if form in self.numbers:
                return self.numbers[form]
        self.numbers[product] = scalar(f"s_{len(self.numbers)}")
        return self.numbers[product]

    def run(self, instructions: Sequence[Any]) -> None:
        for step in instructions:
            if isinstance(step, Mov):
                moved = {out: self.value(name, step.source) for name, out in zip(step.first, step.out, strict=True)}
                self.columns[step.target] |= moved
            else:
                results = [self._results(step, column) for column in range(len(self.columns))]
                self.columns = [column | result for column, result in zip(self.columns, results, strict=True)]

    def _results(self, step: Any, column: int) -> dict[str, Any]:
        if isinstance(step, Mul):
            product = self._read(step.first, column, step.a, step.b) * self._read(step.second, column, step.b, step.c)
            return {step.out: self.number(product) if (step.a, step.c) == (1, 1) else product}
        if isinstance(step, Div):
            return {step.out: self.value(step.first, column) / self.value(step.second, column)}
        first, second = step.coefficients
        return {
            out: first * self.value(a, column) + second * self.value(b, column) + step.constant
            for a, b, out in zip(step.first, step.second, step.out, strict=True)
        }

    def _read(self, name: str, column: int, n_rows: Any, n_columns: Any) -> Any:
        value, size = self.value(name, column), self.sizes[name]
        if (n_rows, n_columns) == (1, D) and size == D:
            return sympy.transpose(value)
        if (n_rows, n_columns) != {1: (1, 1), D: (D, 1), D**2: (D, D)}[size]:
            raise ValueError(f"{name}: expected a matrix of {size} entries, got {n_rows} x {n_columns}")
        return value


X1, X2, QUERY = (block(name, "column") for name in ("x_1", "x_2", "q"))
Y1, Y2 = scalar("y_1"), scalar("y_2")


def on_two_examples(program: Program, shared: dict[str, Any]) -> BlockMachine:
    """The machine with two examples and a query in its five columns, and the same registers in all of them."""
    return BlockMachine(program, [{"x": X1}, {"y": Y1}, {"x": X2}, {"y": Y2}, {"x": QUERY}], shared)


def repeats(listing: Listing, first: int, size: int, *parameters: Any) -> Evidence:
    """Whether the `size` instructions of the second example, behind the `first` ones, come again for each further one,
    two columns on; the last instruction of the last example may differ, for its result goes to the query."""
    differing = 0
    for n in range(3, 7):
        steps = listing(D, n, *parameters).instructions
        for i in range(1, n - 1):
            moved = tuple(
                step._replace(source=step.source + 2 * i, target=step.target + 2 * i) if isinstance(step, Mov) else step
                for step in steps[first : first + size]
            )
            compared = size - (i == n - 2)
            differing += steps[first + i * size :][:compared] != moved[:compared]
    return equal(differing, 0, "further examples with other instructions:")


# --- symbols, rationals and floats ---


def symbolic_prompt(n: int, d: int) -> tuple[Array, ...]:
    """Examples, targets, a query and weights."""
    return array("x", (n, d)), array("y", (n,)), array("q", (d,)), array("w", (d,))


def rational_prompt(n: int, d: int, rng: np.random.Generator) -> tuple[Array, ...]:
    def draw(*shape: int) -> Array:
        entries = [sympy.Rational(int(p), 7) for p in rng.integers(-9, 10, int(np.prod(shape)))]
        return np.array(entries, dtype=object).reshape(shape)

    return draw(n, d), draw(n), draw(d), draw(d)


def exponent(errors: Callable[[float], Array]) -> float:
    """The slope of the logarithm of the largest error on that of epsilon."""
    largest = [float(np.max(np.abs(errors(epsilon)))) for epsilon in EPSILONS]
    return float(np.polyfit(np.log(EPSILONS), np.log(largest), 1)[0])


def exponents_are_two(exponents: Sequence[float]) -> Evidence:
    """Evidence on all sizes together."""
    return within(min(exponents), 1.95, 2.05, "least exponent") & within(max(exponents), 1.95, 2.05, "largest exponent")


def read(program: Program, hidden: Array) -> Array:
    """The prediction, and the weights it comes from."""
    return hidden[..., program.rows("out", "weights"), -1]


# --- gradient descent (Theorem 1) ---


def without_the_target(*arguments: Any) -> Program:
    """The listing whose error leaves out the target."""
    program = gradient_descent_listing(*arguments)
    steps = [
        step._replace(coefficients=(1, 0)) if isinstance(step, Aff) and step.out == ("error",) else step
        for step in program.instructions
    ]
    return program._replace(instructions=tuple(steps))


def of_half_the_loss(n_inputs: Any, n_examples: int, learning_rate: Any, weight_decay: Any = 0) -> Program:
    """The listing for a loss with one half in front."""
    return gradient_descent_listing(n_inputs, n_examples, learning_rate / 2, weight_decay)


def descent_for_all_sizes(listing: Listing) -> Evidence:
    """By induction: in the column of the next target are the weights after the examples so far."""
    program = listing(D, 2, RATE, DECAY)
    w = block("w", "column")

    def after(machine: BlockMachine, weights: Any, x: Any, y: Any) -> Any:
        product = machine.number(sympy.transpose(weights) * x)
        return weights - 2 * RATE * ((product - y) * x + DECAY * weights)

    machine = on_two_examples(program, {"weights": w})  # in every column, by the embedding's bias
    machine.run(program.instructions[:6])
    base = vanishes(machine.value("weights", 3) - after(machine, w, X1, Y1), "weights after the first example")
    machine = on_two_examples(program, {})
    machine.columns[3]["weights"] = w
    machine.run(program.instructions[6:12])
    step = vanishes(machine.value("weights", 4) - after(machine, w, X2, Y2), "weights after one more")
    machine.columns[4]["weights"] = w
    machine.run(program.instructions[12:])
    predicted = vanishes(machine.value("out", 4) - machine.number(sympy.transpose(w) * QUERY), "prediction")
    return induction(base, step) & predicted & repeats(listing, 6, 6, RATE, DECAY)


def descent_by_entries(listing: Listing) -> Evidence:
    """The exact machine on symbols, the rows and columns that the transformer has."""
    differences = []
    for n, d in ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2)):
        x, y, query, start = symbolic_prompt(n, d)
        program = listing(d, n, RATE, DECAY)
        hidden = run_exactly(program, encode_prompt(program, x, y, query, {"weights": start}))
        weights = sgd_weights(x, y, RATE, DECAY, start)
        differences.append(read(program, hidden) - np.array([weights @ query, *weights], dtype=object))
    return vanishes(differences, "exact machine at n, d <= 2, 4")


@claim(
    "learning_algorithms/K5",
    title="A transformer takes an SGD step on the examples of its prompt, in a depth that does not depend on d",
    source="Theorem 1, Appendix C",
    statement=r"6k+1\text{ layers of }4d+5+T\text{ rows leave }w'^\top x_n\text{ after }k\text{ steps }"
    r"w\leftarrow w-2\alpha(x\,w^\top x-yx+\lambda w),\ \text{up to }O(\epsilon^2)",
    method="symbolic",
    scope="the listing for all d, all numbers of examples (induction), all rates, decays and initial weights "
    "(blocks); the exact machine by entries at up to 2 examples or 4 inputs. The transformer in floats: the exponent "
    "in epsilon of the largest error of 20 standard normal prompts, at (k, d) = (1, 1), (1, 24), (3, 4), (3, 8); "
    "sizes for d up to 24",
    uses=["learning_algorithms/K4"],
    control=[
        Control("an error that leaves out the target", listing=without_the_target),
        Control("the rate of a loss with one half in front", listing=of_half_the_loss),
    ],
)
def gradient_descent_in_context(rng: np.random.Generator, listing: Listing = gradient_descent_listing) -> Evidence:
    exponents = []
    for n, d in ((1, 1), (1, 24), (3, 4), (3, 8)):
        x, y, query, start = (rng.standard_normal((20, *shape)) for shape in ((n, d), (n,), (d,), (d,)))
        program = listing(d, n, 1 / 32, 1 / 4)
        hidden = encode_prompt(program, x, y, query, {"weights": start})
        expected = (sgd_weights(x, y, 1 / 32, 1 / 4, start) * query).sum(axis=-1)

        def error(epsilon: float, program=program, hidden=hidden, expected=expected) -> Array:  # type: ignore[no-untyped-def]
            return read(program, execute(compile_program(program, epsilon), hidden))[:, 0] - expected

        exponents.append(exponent(error))
    sizes = [(listing(d, k, 1, 0), d, k) for d in range(1, 25) for k in (1, 3)]
    wrong = sum(
        len(program.instructions) != 6 * k + 1 or program.n_rows != 4 * d + 5 + 2 * k + 1 for program, d, k in sizes
    )
    return (
        descent_for_all_sizes(listing)
        & descent_by_entries(listing)
        & exponents_are_two(exponents)
        & equal(wrong, 0, "sizes other than stated:")
    )


# --- ridge regression (Theorem 2) ---


def with_half_the_one(*arguments: Any) -> Program:
    """The listing that divides by 1/2 + x^T A x; without a constant it would divide by 0 in columns without example."""
    program = sherman_morrison_listing(*arguments)
    half = sympy.Rational(1, 2)
    steps = [
        step._replace(constant=half) if isinstance(step, Aff) and step.constant else step
        for step in program.instructions
    ]
    return program._replace(instructions=tuple(steps))


def forgetting_the_state(n_inputs: Any, n_examples: int) -> Program:
    """The listing that starts every example from the prior."""
    program = sherman_morrison_listing(n_inputs, n_examples)
    kept = tuple(step for step in program.instructions if not (isinstance(step, Mov) and "inverse" in step.first))
    return program._replace(instructions=kept)


def ridge_for_all_sizes(listing: Listing) -> Evidence:
    """By induction: in the column of each target are the inverse and the moment of the examples so far."""
    program = listing(D, 2)
    inverse, moment = block("A", "symmetric"), block("b", "column")

    def after(machine: BlockMachine, inverse: Any, moment: Any, x: Any, y: Any) -> list[Any]:
        scale = 1 + machine.number(sympy.transpose(x) * inverse * x)
        return [inverse - inverse * x * sympy.transpose(x) * inverse / scale, moment + y * x]

    def state(machine: BlockMachine, column: int) -> list[Any]:
        return [machine.value(name, column) for name in ("inverse", "moment")]

    def distance(machine: BlockMachine, column: int, expected: list[Any]) -> list[Any]:
        return [a - b for a, b in zip(state(machine, column), expected, strict=True)]

    machine = on_two_examples(program, {"inverse": 1 / RIDGE})
    machine.run(program.instructions[:10])
    base = vanishes(distance(machine, 1, after(machine, 1 / RIDGE, 0, X1, Y1)), "state after the first example")
    machine = on_two_examples(program, {"inverse": 1 / RIDGE})
    machine.columns[1] |= {"inverse": inverse, "moment": moment}
    machine.run(program.instructions[10:21])
    step = vanishes(distance(machine, 3, after(machine, inverse, moment, X2, Y2)), "state after one more")
    machine.columns[3] |= {"inverse": inverse, "moment": moment}
    machine.run(program.instructions[21:])
    weights = inverse * moment
    ends = [
        machine.value("weights", 4) - weights,
        machine.value("out", 4) - machine.number(sympy.transpose(weights) * QUERY),
    ]
    return induction(base, step) & vanishes(ends, "weights and prediction") & repeats(listing, 10, 11)


def ridge_by_entries(rng: np.random.Generator, listing: Listing) -> Evidence:
    """The exact machine on rationals, the rows and columns that the transformer has."""
    differences = []
    for n, d in ((1, 1), (1, 4), (2, 3), (3, 2), (4, 1)):
        x, y, query, _ = rational_prompt(n, d, rng)
        program = listing(d, n)
        start = np.array(sympy.eye(d)).reshape(-1) * 2
        hidden = run_exactly(program, encode_prompt(program, x, y, query, {"inverse": start}))
        weights = ridge_weights(x, y, sympy.Rational(1, 2))
        differences.append(read(program, hidden) - np.array([weights @ query, *weights], dtype=object))
    return vanishes(differences, "exact machine at five sizes")


@claim(
    "learning_algorithms/K6",
    title="A transformer does ridge regression on the examples of its prompt, one rank-one update for each",
    source="Theorem 2, Appendix C",
    statement=r"11n+2\text{ layers of }3d^2+6d+7+T\text{ rows leave }x_{query}^\top(X^\top X+\lambda I)^{-1}X^\top y,\ "
    r"\text{up to }O(\epsilon^2+N^{-2})",
    method="symbolic",
    scope="the listing for all d and all numbers of examples (induction), all penalties (blocks, with K7; it divides "
    "by 1 + x^T A x, which is at least 1); the exact machine on rationals at five sizes up to n d = 6. The "
    "transformer in floats: the exponent in epsilon of the largest error of 20 standard normal prompts, at N = 10^6 "
    "and (n, d) = (1, 2), (1, 5), (2, 3), (3, 2), (4, 3)",
    uses=["learning_algorithms/K4", "learning_algorithms/K7"],
    control=[
        Control("the layer that adds 1 adds 1/2", listing=with_half_the_one),
        Control("every example starts from the prior", listing=forgetting_the_state),
    ],
)
def ridge_in_context(rng: np.random.Generator, listing: Listing = sherman_morrison_listing) -> Evidence:
    exponents, wrong = [], 0
    for n, d in ((1, 2), (1, 5), (2, 3), (3, 2), (4, 3)):
        x, y, query = (rng.standard_normal((20, *shape)) for shape in ((n, d), (n,), (d,)))
        program = listing(d, n)
        hidden = encode_prompt(program, x, y, query, {"inverse": 2 * np.eye(d).reshape(-1)})
        expected = (ridge_weights(x, y, 0.5) * query).sum(axis=-1)

        def error(epsilon: float, program=program, hidden=hidden, expected=expected) -> Array:  # type: ignore[no-untyped-def]
            return read(program, execute(compile_program(program, epsilon, 1e6), hidden))[:, 0] - expected

        exponents.append(exponent(error))
        n_rows = 3 * d * d + 6 * d + 7 + 2 * n + 1
        wrong += len(program.instructions) != 11 * n + 2 or program.n_rows != n_rows
    return (
        ridge_for_all_sizes(listing)
        & ridge_by_entries(rng, listing)
        & exponents_are_two(exponents)
        & equal(wrong, 0, "sizes other than stated:")
    )


def update_without_the_one(inverse: Array, x: Array) -> Array:
    """The update that divides by x^T A x."""
    column = x[..., None]
    direction = inverse @ column
    return inverse - direction / (transpose(column) @ direction) @ transpose(direction)


@claim(
    "learning_algorithms/K7",
    title="The rank-one update of the inverse, and that repeating it is ridge regression",
    source="Eq. 13 and 14",
    statement=r"(A^{-1}+xx^\top)\Big(A-\frac{Axx^\top A}{1+x^\top Ax}\Big)=I;\quad "
    r"A=\tfrac1\lambda I:\ w'=\frac{y\,x}{\lambda+\lVert x\rVert^2}",
    method="symbolic",
    scope="all d, all symmetric invertible A, and x of any number of columns (blocks: Woodbury's identity); n updates "
    "against ridge regression on rationals at four sizes up to n = d = 4",
    control=Control("the scale x^T A x in place of 1 + x^T A x", update=update_without_the_one),
)
def rank_one_update(
    rng: np.random.Generator, update: Callable[[Array, Array], Array] = sherman_morrison_update
) -> Evidence:
    x, K = block("x"), block("K")

    def updated(inverse: Any) -> Any:
        """The shipped update of a block, with K for the block 1 + x^T A x that it divides by."""
        result = update(np.array([[inverse]], dtype=object), np.array([x], dtype=object))[0, 0]
        return result.xreplace({1 + sympy.expand(sympy.transpose(x) * inverse * x): K})

    inverse = block("A", "symmetric")
    product = (1 / inverse + x * sympy.transpose(x)) * updated(inverse) - 1
    product = sympy.expand(product).subs(sympy.transpose(x) * inverse * x, K - 1)
    weights = sympy.expand(updated(1 / RIDGE) * x - x / K / RIDGE).subs(sympy.transpose(x) * x, RIDGE * (K - 1))

    differences = []
    for n, d in ((1, 1), (2, 3), (4, 2), (4, 4)):
        examples, targets, _, _ = rational_prompt(n, d, rng)
        state = np.array(sympy.eye(d)) * 2
        for one in examples:
            state = update(state, one)
        differences.append(state @ (examples.T @ targets) - ridge_weights(examples, targets, sympy.Rational(1, 2)))
    return (
        vanishes(product, "inverse times its update, less 1")
        & vanishes(weights, "weights of one example")
        & vanishes(differences, "n updates against ridge")
    )
