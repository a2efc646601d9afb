r"""What Lanczos and its quadrature give, on the shipped primitives."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from proofs.ledger import Control, Evidence, at_most, claim, equal
from proofs.properties import for_all
from refimpl.oracle.spec import generators
from refimpl.primitives.lanczos import Tridiagonal, lanczos
from refimpl.primitives.numbers import Array

ROUNDOFF = float(np.finfo(float).eps)


@st.composite
def symmetric_matrices(draw: st.DrawFn) -> tuple[Array, Array, int]:
    """A Gaussian symmetric matrix at norm 1, a start, and at most 10 steps, fewer than half the dimension."""
    size = draw(st.integers(4, 80))
    rng = draw(generators())
    gaussian = rng.standard_normal((size, size))
    matrix = gaussian + gaussian.T
    return matrix / np.linalg.norm(matrix, 2), rng.standard_normal(size), draw(st.integers(1, min(10, size // 2)))


@claim(
    "batch_hessian/H16",
    title="A probe's quadrature is exact up to degree 2m - 1, and at degree 2m is off by (b_1 .. b_m)^2",
    source="Stochastic Lanczos quadrature",
    statement=r"\sum_k\tau_k\theta_k^j=q_1^\top H^jq_1\ (j<2m),\qquad q_1^\top H^{2m}q_1-\sum_k\tau_k\theta_k^{2m}="
    r"(b_1\cdots b_m)^2",
    method="property",
    scope="200 symmetric matrices of 4 to 80 parameters at norm 1, m from 1 to 10, to a rounding bound. The trace is "
    "exact in expectation over probes only",
    control=Control("one degree more", extra=1),
)
def quadrature_is_exact(rng: np.random.Generator, extra: int = 0) -> Evidence:
    def error(case: tuple[Array, Array, int]) -> float:
        matrix, start, m = case
        found = lanczos(matrix.dot, len(start), m, start=start)
        nodes, weights = found.quadrature()
        power = start / np.linalg.norm(start)
        unit, worst = power, 0.0
        # Norm 1 keeps every moment below 1, and each product rounds it by at most n units.
        bound = 4 * (2 * m + 1) * len(start) * ROUNDOFF
        for degree in range(2 * m + extra):
            worst = max(worst, abs(float(weights @ nodes**degree - unit @ power)) / bound)
            power = matrix @ power
        next_one = lanczos(matrix.dot, len(start), m + 1, start=start)
        left = float(unit @ np.linalg.matrix_power(matrix, 2 * m) @ unit - weights @ nodes ** (2 * m))
        return max(worst, abs(left - float(np.prod(next_one.off_diagonal)) ** 2) / bound)

    return for_all(rng, symmetric_matrices(), error, 1, 200, "error over rounding bound")


def no_reorthogonalisation(product: Callable[[Array], Array], n: int, n_steps: int, start: Array) -> Tridiagonal:
    """The three-term recursion alone."""
    return _lanczos(product, n_steps, start, passes=0)


def one_pass(product: Callable[[Array], Array], n: int, n_steps: int, start: Array) -> Tridiagonal:
    """Reorthogonalised once."""
    return _lanczos(product, n_steps, start, passes=1)


def shipped(product: Callable[[Array], Array], n: int, n_steps: int, start: Array) -> Tridiagonal:
    return lanczos(product, n, n_steps, start=start)


def _lanczos(product: Callable[[Array], Array], n_steps: int, start: Array, passes: int) -> Tridiagonal:
    basis = [start / np.sqrt(start @ start)]
    diagonal: list[Any] = []
    off_diagonal: list[Any] = []
    for step in range(n_steps):
        residual = product(basis[-1])
        diagonal.append(basis[-1] @ residual)
        known = np.array(basis)
        if not passes:
            residual = residual - diagonal[-1] * basis[-1] - (off_diagonal[-1] * basis[-2] if step else 0)
        for _ in range(passes):
            residual = residual - known.T @ (known @ residual)
        if step + 1 < n_steps:
            off_diagonal.append(np.sqrt(residual @ residual))
            basis.append(residual / off_diagonal[-1])
    return Tridiagonal(np.array(diagonal), np.array(off_diagonal), np.array(basis))


@st.composite
def few_eigenvalues(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    """A symmetric matrix with few distinct eigenvalues, a start, and these eigenvalues, ascending."""
    distinct = draw(st.integers(1, 8))
    rng = draw(generators())
    values = np.arange(1, distinct + 1) / distinct * rng.choice([-1, 1])
    spectrum = np.concatenate([values, rng.choice(values, 3 * distinct)])
    basis = np.linalg.qr(rng.standard_normal((len(spectrum),) * 2))[0]
    return (basis * spectrum) @ basis.T, rng.standard_normal(len(spectrum)), np.sort(values)


Lanczos = Callable[[Callable[[Array], Array], int, int, Array], Tridiagonal]


@claim(
    "batch_hessian/H17",
    title="Ritz values lie inside the spectrum, the largest only grows, and none is a ghost",
    source="Lanczos with full reorthogonalisation",
    statement=r"T_m=Q^\top HQ,\quad\theta\in[\lambda_P,\lambda_1],\quad\theta_{max}(m)\le\theta_{max}(m+1),\quad "
    r"m=\#\{\lambda\}\Rightarrow\theta=\lambda",
    method="property",
    scope="202 parameters, outliers at 5 and 10 over a bulk of width 4, m up to 60; 50 matrices with 1 to 8 distinct "
    "eigenvalues; and single precision with a norm of 10^5 over a bulk of width 1, where one pass is not enough",
    control=[
        Control("no reorthogonalisation", method=no_reorthogonalisation),
        Control("one pass of it", method=one_pass),
    ],
)
def ritz_values(rng: np.random.Generator, method: Lanczos = shipped) -> Evidence:
    n = 202
    spectrum = np.concatenate([rng.uniform(-2, 2, n - 2), [5.0, 10.0]])
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    matrix = (basis * spectrum) @ basis.T
    start = rng.standard_normal(n)
    found = method(matrix.dot, n, 60, start)
    values = [method(matrix.dot, n, m, start).eigenvalues() for m in range(1, 61)]
    tops = np.array([one[-1] for one in values])
    outside = max(max(one[-1] - spectrum.max(), spectrum.min() - one[0]) for one in values)
    compressed = found.basis @ matrix @ found.basis.T
    dense = np.diag(found.diagonal) + np.diag(found.off_diagonal, 1) + np.diag(found.off_diagonal, -1)
    evidence = (
        at_most(float(np.max(np.abs(found.basis @ found.basis.T - np.eye(60)))), 1e-13, "Q'Q - I")
        & at_most(float(np.max(np.abs(compressed - dense))), 1e-10, "Q'HQ - T")
        & at_most(float(outside), 1e-10, "Ritz values beyond the spectrum")
        & at_most(float(np.max(-np.diff(tops))), 1e-10, "largest Ritz value's fall")
        & equal(int(np.sum(values[-1] > 9.9)), 1, "Ritz values above 9.9:")
    )

    def error(case: tuple[Array, Array, Array]) -> float:
        matrix, start, distinct = case
        return float(np.max(np.abs(method(matrix.dot, len(start), len(distinct), start).eigenvalues() - distinct)))

    evidence &= for_all(rng, few_eigenvalues(), error, 1e-10, 50, "error with as many steps as eigenvalues")
    wide = np.concatenate([rng.uniform(0, 1, 198), [1e5, 3e4]]).astype(np.float32)
    single = method(lambda v: wide * v, 200, 40, np.asarray(rng.standard_normal(200), dtype=np.float32)).basis
    # Twice is enough: what is left is the roundoff of 40 inner products of 200 terms.
    bound = 40 * float(np.finfo(np.float32).eps)
    return evidence & at_most(float(np.max(np.abs(single @ single.T - np.eye(40)))), bound, "Q'Q - I in float32")
