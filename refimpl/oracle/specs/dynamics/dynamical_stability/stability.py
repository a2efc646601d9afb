"""Sharpness, the second-moment operator, critical learning rates and their bounds."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.dynamical_stability import (
    Sharpness,
    alignment_factor,
    critical_learning_rate,
    expected_loss_after_step,
    fisher_energies,
    fisher_kernel,
    linearized_sgd_step,
    necessary_stability_margin,
    rayleigh_learning_rate,
    residual_sgd_step,
    second_moment_operator,
    second_moment_step,
    second_moment_step_vjp,
    sharpness,
    stability_radius,
    sufficient_learning_rate,
    trace_bound,
)
from refimpl.dynamics.dynamical_stability.loss_stability import ExpectedLoss
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register, symbols
from refimpl.primitives.numbers import Array

BATCH_SIZES = st.sampled_from((1, 1, 2, 3, 16))
LEARNING_RATES = st.sampled_from((1 / 64, 0.1, 0.5, 1.0))
LAPACK = ("float64", "float32")  # it has no others


@st.composite
def gradients(draw: st.DrawFn, most: int = 6) -> Array:
    """Per-example gradients (n, p), not all zero: of sizes that differ by powers of e, or of one size."""
    n, p = draw(st.integers(1, most)), draw(st.integers(1, most))
    jacobian = draw(real_arrays((n, p)))
    jacobian = np.where(np.any(jacobian), jacobian, np.eye(n, p))
    rng = draw(generators())
    kind = draw(st.sampled_from(("plain", "uneven", "uneven", "equal", "orthogonal")))
    if kind == "uneven":
        jacobian = jacobian * np.exp(rng.standard_normal((n, 1)))
    if kind == "equal":
        jacobian = rng.standard_normal((n, p))
        jacobian = jacobian / np.linalg.norm(jacobian, axis=-1, keepdims=True)
    if kind == "orthogonal":
        jacobian = np.eye(n, p) * np.exp(rng.standard_normal((n, 1)))
    return np.asarray(jacobian)


@st.composite
def gradients_and_batch(draw: st.DrawFn, most: int = 6) -> Arguments:
    return {"jacobian": draw(gradients(most)), "batch_size": draw(BATCH_SIZES)}


@st.composite
def _operators(draw: st.DrawFn, most: int = 6) -> Arguments:
    jacobian = draw(gradients(most))
    largest = float(np.linalg.norm(jacobian, 2)) ** 2 / len(jacobian)
    # Around the edge of stability whatever the size of the gradients.
    return {
        "jacobian": jacobian,
        "learning_rate": draw(st.sampled_from((0.01, 0.3, 1.0, 3.0))) / largest,
        "batch_size": draw(BATCH_SIZES),
    }


def reflect(x: Any, axis: int = -1) -> Any:
    r"""Multiply by the orthogonal matrix $I-\frac2n\mathbf 1\mathbf 1^\top$ along an axis."""
    return x - 2 * x.sum(axis=axis, keepdims=True) / x.shape[axis]


def unchanged(output: Any, arguments: Arguments) -> Any:
    return output


def with_jacobian(arguments: Arguments, jacobian: Array) -> Arguments:
    return arguments | {"jacobian": jacobian}


ROTATED = Relation("gradients reflected", lambda a: with_jacobian(a, reflect(a["jacobian"])), unchanged)
PERMUTED = Relation("examples in reverse", lambda a: with_jacobian(a, a["jacobian"][..., ::-1, :]), unchanged)
DUPLICATED = Relation(
    "every example twice", lambda a: with_jacobian(a, np.concatenate([a["jacobian"]] * 2, axis=-2)), unchanged
)
PADDED = Relation(
    "two parameters more that do nothing",
    lambda a: with_jacobian(a, np.concatenate([a["jacobian"], 0 * a["jacobian"][..., :1].repeat(2, -1)], axis=-1)),
    unchanged,
)
RATE = Relation(
    "gradients times 2: rate over 4",
    lambda a: with_jacobian(a, 2 * a["jacobian"]),
    lambda output, a: output / 4,
)
SCALED = Relation(
    "gradients times 2, learning rate over 4",
    lambda a: with_jacobian(a, 2 * a["jacobian"]) | {"learning_rate": a["learning_rate"] / 4},
    unchanged,
)
SAME = (ROTATED, PERMUTED, DUPLICATED, PADDED)


# --- sharpness ---


@st.composite
def _jacobians(draw: st.DrawFn) -> Arguments:
    shape = (*draw(st.sampled_from(((), (3,)))), draw(st.sampled_from((1, 3, 8, 20))))
    return {"jacobian": draw(real_arrays((*shape, draw(st.sampled_from((1, 4, 30))))))}


def _scaled(output: Any, arguments: Arguments) -> Any:
    return Sharpness(*(4 * one for one in output))


register(
    Spec(
        name="dynamical_stability/fisher_kernel",
        reference=fisher_kernel,
        arguments=_jacobians(),
        symbols=lambda: {"jacobian": symbols("g", 2, 2)},
        relations=(
            ROTATED,
            Relation(
                "examples in reverse",
                lambda a: {"jacobian": a["jacobian"][..., ::-1, :]},
                lambda output, a: output[..., ::-1, ::-1],
            ),
        ),
        mistakes={
            ("normalisation", "the sum over examples, not the mean"): lambda jacobian: (
                jacobian @ np.swapaxes(jacobian, -1, -2)
            )
        },
    )
)

register(
    Spec(
        name="dynamical_stability/sharpness",
        reference=sharpness,
        arguments=_jacobians(),
        relations=(*SAME, Relation("gradients times 2", lambda a: {"jacobian": 2 * a["jacobian"]}, _scaled)),
        dtypes=LAPACK,
        mistakes={
            ("normalisation", "the sum over examples, not the mean"): lambda jacobian: Sharpness(
                *(one * jacobian.shape[-2] for one in sharpness(jacobian))
            ),
            ("wrong operation", "the norm of the Jacobian, not its square"): lambda jacobian: Sharpness(
                *(np.sqrt(one) for one in sharpness(jacobian))
            ),
        },
    )
)


# --- dynamics ---


@st.composite
def _deviations(draw: st.DrawFn) -> Arguments:
    batch = draw(st.sampled_from(((), (1,), (2, 3))))
    n, p = draw(st.sampled_from((1, 2, 5))), draw(st.sampled_from((1, 3, 20)))
    return {
        "deviation": draw(real_arrays((*batch, p))),
        "jacobian": draw(real_arrays((*batch, n, p))),
        "learning_rate": draw(LEARNING_RATES),
    }


register(
    Spec(
        name="dynamical_stability/linearized_sgd_step",
        reference=linearized_sgd_step,
        arguments=_deviations(),
        symbols=lambda: {"deviation": symbols("d", 2), "jacobian": symbols("g", 2, 2), "learning_rate": 1},
        relations=(
            PERMUTED,
            DUPLICATED,
            SCALED,
            Relation("deviation times 4", lambda a: a | {"deviation": 4 * a["deviation"]}, lambda out, a: 4 * out),
        ),
        mistakes={
            ("normalisation", "the sum over the batch, not the mean"): lambda deviation, jacobian, learning_rate: (
                linearized_sgd_step(deviation, jacobian, learning_rate * jacobian.shape[-2])
            )
        },
    )
)


@st.composite
def _residuals(draw: st.DrawFn) -> Arguments:
    batch, n = draw(st.sampled_from(((), (3,)))), draw(st.sampled_from((1, 2, 8)))
    jacobian = draw(real_arrays((n, draw(st.sampled_from((1, 3, 20))))))
    rng = draw(generators())
    return {
        "residuals": draw(real_arrays((*batch, n))),
        "kernel": fisher_kernel(jacobian),
        "batch": rng.integers(n, size=(*batch, draw(st.sampled_from((1, 3))))),
        "learning_rate": draw(LEARNING_RATES),
    }


register(
    Spec(
        name="dynamical_stability/residual_sgd_step",
        reference=residual_sgd_step,
        arguments=_residuals(),
        symbols=lambda: {
            "residuals": symbols("r", 2),
            "kernel": symbols("k", 2, 2),
            "batch": np.array([1, 1]),
            "learning_rate": 1,
        },
        relations=(
            Relation("residuals times 4", lambda a: a | {"residuals": 4 * a["residuals"]}, lambda out, a: 4 * out),
            Relation("batch in reverse", lambda a: a | {"batch": a["batch"][..., ::-1]}, unchanged),
        ),
        mistakes={
            ("constant factor", "without the number of examples"): lambda residuals, kernel, batch, learning_rate: (
                residual_sgd_step(residuals, kernel, batch, learning_rate / len(kernel))
            )
        },
    )
)


@st.composite
def _moments(draw: st.DrawFn) -> Arguments:
    n, p = draw(st.sampled_from((1, 2, 5, 20))), draw(st.sampled_from((1, 2, 4, 20)))
    return {
        "covariance": draw(real_arrays((p, p))),
        "jacobian": draw(real_arrays((n, p))),
        "learning_rate": draw(LEARNING_RATES),
        "batch_size": draw(BATCH_SIZES),
    }


def _reflected_moment(arguments: Arguments) -> Arguments:
    both = reflect(reflect(arguments["covariance"]), 0)
    return arguments | {"covariance": both, "jacobian": reflect(arguments["jacobian"])}


def _single(covariance: Array, jacobian: Array, learning_rate: float, batch_size: int) -> Array:
    return second_moment_step(covariance, jacobian, learning_rate, 1)


def _noiseless(covariance: Array, jacobian: Array, learning_rate: float, batch_size: int) -> Array:
    contraction = np.eye(len(covariance)) - learning_rate * jacobian.T @ jacobian / len(jacobian)
    return np.asarray(contraction @ covariance @ contraction)


register(
    Spec(
        name="dynamical_stability/second_moment_step",
        reference=second_moment_step,
        arguments=_moments(),
        vjp=second_moment_step_vjp,
        symbols=lambda: {
            "covariance": symbols("c", 2, 2),
            "jacobian": symbols("g", 2, 2),
            "learning_rate": symbols("eta").item(),
            "batch_size": 3,
        },
        relations=(
            PERMUTED,
            DUPLICATED,
            SCALED,
            Relation("both reflected", _reflected_moment, lambda output, a: reflect(reflect(output), 0)),
            Relation(
                "covariance transposed",
                lambda a: a | {"covariance": a["covariance"].T},
                lambda output, a: output.T,
            ),
        ),
        mistakes={
            ("missing term", "the batch size left out"): _single,
            ("missing term", "the noise of the batch left out"): _noiseless,
        },
    )
)


def _unseparated(jacobian: Array, learning_rate: float, batch_size: int) -> Array:
    """The noise without its second term."""
    fisher = jacobian.T @ jacobian / len(jacobian)
    square = np.kron(fisher, fisher) * learning_rate**2 / batch_size
    return second_moment_operator(jacobian, learning_rate, batch_size) + square


register(
    Spec(
        name="dynamical_stability/second_moment_operator",
        reference=second_moment_operator,
        arguments=_operators(),
        symbols=lambda: {"jacobian": symbols("g", 2, 2), "learning_rate": 1, "batch_size": 2},
        relations=(
            PERMUTED,
            DUPLICATED,
            SCALED,
            Relation(
                "parameters in reverse",
                lambda a: with_jacobian(a, a["jacobian"][:, ::-1]),
                lambda output, a: output[::-1, ::-1],
            ),
        ),
        mistakes={("missing term", "the square of the mean left in the noise"): _unseparated},
    )
)


# --- stability ---


def _largest_magnitude_only(jacobian: Array, learning_rate: float, batch_size: int) -> Array:
    """The radius of gradient descent."""
    eigenvalues = np.linalg.svd(jacobian, compute_uv=False) ** 2 / len(jacobian)
    return np.asarray(np.max((1 - learning_rate * eigenvalues) ** 2))


register(
    Spec(
        name="dynamical_stability/stability_radius",
        reference=stability_radius,
        arguments=_operators(),
        relations=(*SAME, SCALED),
        dtypes=LAPACK,
        mistakes={("missing term", "the noise of the batch left out"): _largest_magnitude_only},
    )
)

register(
    Spec(
        name="dynamical_stability/critical_learning_rate",
        reference=critical_learning_rate,
        arguments=gradients_and_batch(20),
        relations=(*SAME, RATE),
        dtypes=LAPACK,
        mistakes={
            ("wrong operation", "the bound by the trace"): lambda jacobian, batch_size: trace_bound(
                jacobian, batch_size
            ),
            ("missing term", "the batch size left out"): lambda jacobian, batch_size: critical_learning_rate(jacobian),
        },
    )
)

register(
    Spec(
        name="dynamical_stability/trace_bound",
        reference=trace_bound,
        arguments=gradients_and_batch(20),
        symbols=lambda: {"jacobian": symbols("g", 2, 2), "batch_size": 2},
        relations=(*SAME, RATE),
        mistakes={
            ("wrong operation", "2 over the trace at every batch size"): lambda jacobian, batch_size: (
                2 * len(jacobian) / (jacobian * jacobian).sum()
            )
        },
    )
)

register(
    Spec(
        name="dynamical_stability/sufficient_learning_rate",
        reference=sufficient_learning_rate,
        arguments=gradients_and_batch(20),
        relations=(*SAME, RATE),
        dtypes=LAPACK,
    )
)

register(
    Spec(
        name="dynamical_stability/necessary_stability_margin",
        reference=necessary_stability_margin,
        arguments=_operators(20),
        symbols=lambda: {"jacobian": symbols("g", 2, 2), "learning_rate": 1, "batch_size": 2},
        relations=(
            *SAME,
            Relation(
                "gradients times 2, learning rate over 4",
                SCALED.transform,
                lambda output, a: 16 * output,
            ),
        ),
    )
)


@st.composite
def _rayleigh(draw: st.DrawFn) -> Arguments:
    case = draw(gradients_and_batch())
    p = case["jacobian"].shape[-1]
    root = draw(real_arrays((p, p)))
    return {"covariance": root @ root.T + np.eye(p), **case}


register(
    Spec(
        name="dynamical_stability/rayleigh_learning_rate",
        reference=rayleigh_learning_rate,
        arguments=_rayleigh(),
        symbols=lambda: {"covariance": symbols("c", 2, 2), "jacobian": symbols("g", 2, 2), "batch_size": 2},
        relations=(
            PERMUTED,
            DUPLICATED,
            RATE,
            Relation("covariance times 4", lambda a: a | {"covariance": 4 * a["covariance"]}, unchanged),
            Relation("both reflected", _reflected_moment, unchanged),
        ),
    )
)


# --- loss ---


@st.composite
def _losses(draw: st.DrawFn) -> Arguments:
    shape = (*draw(st.sampled_from(((), (3,)))), draw(st.sampled_from((1, 3, 8))))
    jacobian = draw(real_arrays((*shape, draw(st.sampled_from((1, 4, 20))))))
    jacobian = np.where(np.any(jacobian, axis=(-2, -1), keepdims=True), jacobian, 1)
    residuals = draw(real_arrays(shape))
    return {"jacobian": jacobian, "residuals": np.where(np.any(residuals, axis=-1, keepdims=True), residuals, 1)}


def _reversed_residuals(arguments: Arguments) -> Arguments:
    return arguments | {
        "jacobian": arguments["jacobian"][..., ::-1, :],
        "residuals": arguments["residuals"][..., ::-1],
    }


REVERSED = Relation("examples in reverse", _reversed_residuals, unchanged)

register(
    Spec(
        name="dynamical_stability/fisher_energies",
        reference=fisher_energies,
        arguments=_jacobians(),
        symbols=lambda: {"jacobian": symbols("g", 2, 2)},
        relations=(
            ROTATED,
            Relation(
                "gradients times 2",
                lambda a: {"jacobian": 2 * a["jacobian"]},
                lambda output, a: 16 * output,
            ),
        ),
    )
)

register(
    Spec(
        name="dynamical_stability/alignment_factor",
        reference=alignment_factor,
        arguments=_losses(),
        symbols=lambda: {"jacobian": symbols("g", 2, 2), "residuals": symbols("r", 2)},
        relations=(
            ROTATED,
            REVERSED,
            Relation("gradients times 2", lambda a: with_jacobian(a, 2 * a["jacobian"]), unchanged),
            Relation("residuals times 4", lambda a: a | {"residuals": 4 * a["residuals"]}, unchanged),
        ),
        dtypes=LAPACK,  # a variance near 0 keeps no digit of a half-precision number
    )
)


@st.composite
def _loss_steps(draw: st.DrawFn) -> Arguments:
    return draw(_losses()) | {"learning_rate": draw(LEARNING_RATES), "batch_size": draw(BATCH_SIZES)}


register(
    Spec(
        name="dynamical_stability/expected_loss_after_step",
        reference=expected_loss_after_step,
        arguments=_loss_steps(),
        symbols=lambda: {
            "jacobian": symbols("g", 2, 2),
            "residuals": symbols("r", 2),
            "learning_rate": 1,
            "batch_size": 2,
        },
        relations=(
            ROTATED,
            REVERSED,
            SCALED,
            Relation(
                "residuals times 4",
                lambda a: a | {"residuals": 4 * a["residuals"]},
                lambda output, a: ExpectedLoss(*(16 * one for one in output)),
            ),
        ),
        dtypes=LAPACK,
    )
)
