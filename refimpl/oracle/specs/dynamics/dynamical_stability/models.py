"""ReLU and diagonal networks: outputs, Jacobians, steps, norms, population sharpness."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics.dynamical_stability import (
    DiagonalNet,
    ReluNet,
    balance_ratio,
    diagonal_net,
    diagonal_net_jacobian,
    diagonal_net_vjp,
    diagonal_step,
    imbalance,
    isotropic_eigenvalues,
    isotropic_sharpness,
    l1_supremum,
    net_of_ratio,
    path_norm,
    population_error,
    population_fisher,
    population_operator_norm_bounds,
    population_trace,
    rademacher_l1,
    rademacher_path_norm,
    relu_step,
    two_layer_relu,
    two_layer_relu_jacobian,
    two_layer_relu_vjp,
)
from refimpl.dynamics.dynamical_stability.sharpness import Sharpness
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register, symbols
from refimpl.oracle.specs.dynamics.dynamical_stability.stability import LEARNING_RATES, reflect, unchanged
from refimpl.primitives.numbers import Array

BATCHES = st.sampled_from(((), (1,), (2, 2)))
DIMENSIONS = st.sampled_from((1, 2, 3, 8))
PAIRS = ("float64", "float32")


def changed(arguments: Arguments, **leaves: Any) -> Arguments:
    """The arguments with some arrays of the network replaced."""
    return arguments | {"net": arguments["net"]._replace(**leaves)}


EXAMPLES_TWICE = Relation(
    "every example twice",
    lambda a: a | {"x": np.concatenate([a["x"]] * 2, axis=-2), "y": np.concatenate([a["y"]] * 2, axis=-1)},
    unchanged,
)


# --- ReLU networks ---


@st.composite
def relu_nets(draw: st.DrawFn, batch: tuple[int, ...] | None = None) -> ReluNet:
    batch = draw(BATCHES) if batch is None else batch
    m, d = draw(st.sampled_from((1, 2, 5))), draw(DIMENSIONS)
    return ReluNet(draw(real_arrays((*batch, m))), draw(real_arrays((*batch, m, d))))


@st.composite
def _relu(draw: st.DrawFn) -> Arguments:
    net = draw(relu_nets())
    n = draw(st.sampled_from((1, 4)))
    return {"net": net, "x": draw(real_arrays((*net.a.shape[:-1], n, net.w.shape[-1])))}


def _reversed_units(arguments: Arguments) -> Arguments:
    net = arguments["net"]
    return changed(arguments, a=net.a[..., ::-1], w=net.w[..., ::-1, :])


def _rescaled_units(arguments: Arguments) -> Arguments:
    net = arguments["net"]
    return changed(arguments, a=net.a / 4, w=net.w * 4)


UNITS = Relation("units in reverse", _reversed_units, unchanged)
RESCALED = Relation("weights times 4, outputs' over 4", _rescaled_units, unchanged)
SIGN = Relation(
    "output weights negated",
    lambda a: changed(a, a=-a["net"].a),
    lambda output, a: -output,
)


def relu_symbols() -> ReluNet:
    return ReluNet(symbols("a", 2), symbols("w", 2, 2))


def _without_rectifier(net: ReluNet, x: Array) -> Array:
    return np.asarray(((x @ np.swapaxes(net.w, -1, -2)) @ net.a[..., None])[..., 0])


register(
    Spec(
        name="dynamical_stability/two_layer_relu",
        reference=two_layer_relu,
        arguments=_relu(),
        vjp=two_layer_relu_vjp,
        symbols=lambda: {"net": relu_symbols(), "x": symbols("x", 1, 2)},
        relations=(UNITS, RESCALED, SIGN),
        mistakes={
            ("normalisation", "the mean over units"): lambda net, x: two_layer_relu(net, x) / net.a.shape[-1],
            ("missing term", "no rectifier"): _without_rectifier,
        },
    )
)


def _jacobian_of_negated(output: Array, arguments: Arguments) -> Array:
    m = arguments["net"].a.shape[-1]
    return np.concatenate([output[..., :m], -output[..., m:]], axis=-1)


register(
    Spec(
        name="dynamical_stability/two_layer_relu_jacobian",
        reference=two_layer_relu_jacobian,
        arguments=_relu(),
        symbols=lambda: {"net": relu_symbols(), "x": symbols("x", 1, 2)},
        relations=(
            Relation("output weights negated", lambda a: changed(a, a=-a["net"].a), _jacobian_of_negated),
            Relation(
                "inputs in reverse",
                lambda a: a | {"x": a["x"][..., ::-1, :]},
                lambda output, a: output[..., ::-1, :],
            ),
        ),
    )
)


@st.composite
def _relu_norms(draw: st.DrawFn) -> Arguments:
    return {"net": draw(relu_nets())}


register(
    Spec(
        name="dynamical_stability/path_norm",
        reference=path_norm,
        arguments=_relu_norms(),
        symbols=lambda: {"net": relu_symbols()},
        relations=(UNITS, RESCALED, Relation("output weights negated", SIGN.transform, unchanged)),
        mistakes={
            ("wrong operation", "the l1 norm of the weights"): lambda net: (
                np.abs(net.a) * np.abs(net.w).sum(axis=-1)
            ).sum(axis=-1)
        },
    )
)

register(
    Spec(
        name="dynamical_stability/population_trace",
        reference=population_trace,
        arguments=_relu_norms(),
        symbols=lambda: {"net": relu_symbols()},
        relations=(
            UNITS,
            Relation(
                "all weights times 2",
                lambda a: changed(a, a=2 * a["net"].a, w=2 * a["net"].w),
                lambda output, a: 4 * output,
            ),
            Relation("weights reflected", lambda a: changed(a, w=reflect(a["net"].w)), unchanged),
        ),
        mistakes={
            ("missing term", "without the dimension"): lambda net: (
                ((net.w**2).sum(axis=(-2, -1)) + (net.a**2).sum(axis=-1)) / 2
            )
        },
    )
)

register(
    Spec(
        name="dynamical_stability/population_operator_norm_bounds",
        reference=population_operator_norm_bounds,
        arguments=_relu_norms(),
        relations=(UNITS, Relation("weights reflected", lambda a: changed(a, w=reflect(a["net"].w)), unchanged)),
        dtypes=PAIRS,
    )
)


@st.composite
def _plain_relu_nets(draw: st.DrawFn, batch: tuple[int, ...] = ()) -> ReluNet:
    """Gaussian weights: between nearly parallel ones an angle keeps half the digits."""
    rng = draw(generators())
    m, d = draw(st.sampled_from((1, 2, 5))), draw(st.sampled_from((2, 3, 8)))
    return ReluNet(rng.standard_normal(m), rng.standard_normal((m, d)))


@st.composite
def _fishers(draw: st.DrawFn) -> Arguments:
    return {"net": draw(_plain_relu_nets())}


register(
    Spec(
        name="dynamical_stability/population_fisher",
        reference=population_fisher,
        arguments=_fishers(),
        relations=(
            Relation("output weights negated", lambda a: changed(a, a=-a["net"].a), lambda out, a: _flipped(out, a)),
        ),
        dtypes=PAIRS,
        mistakes={
            ("missing term", "cosines in place of rectified ones"): lambda net: (
                population_fisher(net) * 0 + _linear_fisher(net)
            )
        },
    )
)


def _flipped(output: Array, arguments: Arguments) -> Array:
    m, total = arguments["net"].a.shape[-1], len(output)
    signs = np.where(np.arange(total) < m, 1, -1).astype(output.dtype)
    return signs[:, None] * output * signs


def _linear_fisher(net: ReluNet) -> Array:
    """Of a network without rectifiers, halved."""
    m, d = net.w.shape
    mixed = (net.a[None, :, None] * net.w[:, None, :]).reshape(m, m * d)
    block = np.kron(net.a[:, None] * net.a, np.eye(d, dtype=net.a.dtype))
    return np.block([[net.w @ net.w.T, mixed], [mixed.T, block]]) / 2


@st.composite
def _teachers(draw: st.DrawFn) -> Arguments:
    net = draw(_plain_relu_nets())
    rng = draw(generators())
    k = draw(st.sampled_from((1, 3)))
    return {"net": net, "teacher": ReluNet(rng.standard_normal(k), rng.standard_normal((k, net.w.shape[1])))}


register(
    Spec(
        name="dynamical_stability/population_error",
        reference=population_error,
        arguments=_teachers(),
        relations=(
            UNITS,
            RESCALED,
            Relation("student and teacher exchanged", lambda a: {"net": a["teacher"], "teacher": a["net"]}, unchanged),
        ),
        dtypes=PAIRS,
    )
)


@st.composite
def _relu_steps(draw: st.DrawFn) -> Arguments:
    case = draw(_relu())
    return case | {
        "y": draw(real_arrays(case["x"].shape[:-1])),
        "learning_rate": draw(LEARNING_RATES),
        "max_norm": draw(st.sampled_from((None, 1.0))),
    }


def _sum_relu_step(net: ReluNet, x: Array, y: Array, learning_rate: float, max_norm: float | None) -> ReluNet:
    return relu_step(net, x, y, learning_rate * y.shape[-1], max_norm)


register(
    Spec(
        name="dynamical_stability/relu_step",
        reference=relu_step,
        arguments=_relu_steps(),
        symbols=lambda: {
            "net": relu_symbols(),
            "x": symbols("x", 1, 2),
            "y": symbols("y", 1),
            "learning_rate": symbols("eta").item(),
        },
        relations=(
            Relation(
                "units in reverse",
                _reversed_units,
                lambda output, a: ReluNet(output.a[..., ::-1], output.w[..., ::-1, :]),
            ),
            EXAMPLES_TWICE,
        ),
        mistakes={("normalisation", "the sum over examples, not the mean"): _sum_relu_step},
    )
)


# --- diagonal networks ---


@st.composite
def diagonal_nets(draw: st.DrawFn) -> DiagonalNet:
    shape = (*draw(BATCHES), draw(st.sampled_from((1, 2, 5, 20))))
    return DiagonalNet(draw(real_arrays(shape)), draw(real_arrays(shape)))


@st.composite
def _diagonal(draw: st.DrawFn) -> Arguments:
    net = draw(diagonal_nets())
    shape = (*net.a.shape[:-1], draw(st.sampled_from((1, 4))), net.a.shape[-1])
    return {"net": net, "x": draw(real_arrays(shape))}


def diagonal_symbols() -> DiagonalNet:
    return DiagonalNet(symbols("a", 2), symbols("b", 2))


def _exchanged(arguments: Arguments) -> Arguments:
    net = arguments["net"]
    return changed(arguments, a=net.b, b=net.a)


def _traded(arguments: Arguments) -> Arguments:
    net = arguments["net"]
    return changed(arguments, a=net.a * 4, b=net.b / 4)


EXCHANGED = Relation("layers exchanged", _exchanged, unchanged)

register(
    Spec(
        name="dynamical_stability/diagonal_net",
        reference=diagonal_net,
        arguments=_diagonal(),
        vjp=diagonal_net_vjp,
        symbols=lambda: {"net": diagonal_symbols(), "x": symbols("x", 1, 2)},
        relations=(
            EXCHANGED,
            Relation("a times 4, b over 4", _traded, unchanged),
            Relation("inputs times 2", lambda a: a | {"x": 2 * a["x"]}, lambda output, a: 2 * output),
        ),
    )
)


def _halves_exchanged(output: Array, arguments: Arguments) -> Array:
    return np.roll(output, output.shape[-1] // 2, axis=-1)


register(
    Spec(
        name="dynamical_stability/diagonal_net_jacobian",
        reference=diagonal_net_jacobian,
        arguments=_diagonal(),
        symbols=lambda: {"net": diagonal_symbols(), "x": symbols("x", 1, 2)},
        relations=(Relation("layers exchanged", _exchanged, _halves_exchanged),),
    )
)


@st.composite
def _diagonal_norms(draw: st.DrawFn) -> Arguments:
    net = draw(diagonal_nets())
    # No product is zero, where the ratio would be infinite.
    return {"net": DiagonalNet(*(np.where(one == 0, 1, one) for one in net))}


register(
    Spec(
        name="dynamical_stability/isotropic_eigenvalues",
        reference=isotropic_eigenvalues,
        arguments=_diagonal_norms(),
        symbols=lambda: {"net": diagonal_symbols()},
        relations=(EXCHANGED, Relation("a negated", lambda a: changed(a, a=-a["net"].a), unchanged)),
    )
)

register(
    Spec(
        name="dynamical_stability/isotropic_sharpness",
        reference=isotropic_sharpness,
        arguments=_diagonal_norms(),
        relations=(
            EXCHANGED,
            Relation(
                "all weights times 2",
                lambda a: changed(a, a=2 * a["net"].a, b=2 * a["net"].b),
                lambda output, a: Sharpness(*(4 * one for one in output)),
            ),
        ),
        dtypes=PAIRS,  # fourth powers
        mistakes={
            ("wrong operation", "sizes of the product's square"): lambda net: Sharpness(
                2 * np.abs(net.a * net.b).sum(axis=-1),
                2 * np.sqrt(((net.a * net.b) ** 2).sum(axis=-1)),
                2 * np.abs(net.a * net.b).max(axis=-1),
            )
        },
    )
)

register(
    Spec(
        name="dynamical_stability/balance_ratio",
        reference=balance_ratio,
        arguments=_diagonal_norms(),
        symbols=lambda: {"net": diagonal_symbols()},
        relations=(
            EXCHANGED,
            Relation("all weights times 2", lambda a: changed(a, a=2 * a["net"].a, b=2 * a["net"].b), unchanged),
        ),
        dtypes=PAIRS,
    )
)

register(
    Spec(
        name="dynamical_stability/imbalance",
        reference=imbalance,
        arguments=_diagonal_norms(),
        symbols=lambda: {"net": diagonal_symbols()},
        relations=(
            EXCHANGED,
            Relation("a negated", lambda a: changed(a, a=-a["net"].a), unchanged),
        ),
    )
)


@st.composite
def _ratios(draw: st.DrawFn) -> Arguments:
    a = draw(diagonal_nets()).a
    rng = draw(generators())
    return {"a": a, "signs": rng.choice([-1.0, 1.0], a.shape), "ratio": draw(st.sampled_from((1.25, 2.0, 16.0)))}


register(
    Spec(
        name="dynamical_stability/net_of_ratio",
        reference=net_of_ratio,
        arguments=_ratios(),
        symbols=lambda: {"a": symbols("a", 2), "signs": symbols("s", 2), "ratio": 2},
        relations=(
            Relation(
                "signs flipped",
                lambda a: a | {"signs": -a["signs"]},
                lambda output, a: DiagonalNet(output.a, -output.b),
            ),
        ),
        mistakes={
            ("wrong operation", "b is r0 times a"): lambda a, signs, ratio: DiagonalNet(a, signs * ratio * a),
        },
    )
)


@st.composite
def _diagonal_steps(draw: st.DrawFn) -> Arguments:
    case = draw(_diagonal())
    return case | {
        "y": draw(real_arrays(case["x"].shape[:-1])),
        "learning_rate": draw(LEARNING_RATES),
        "max_norm": draw(st.sampled_from((None, 1.0))),
    }


def _sequential(net: DiagonalNet, x: Array, y: Array, learning_rate: float, max_norm: float | None) -> DiagonalNet:
    moved = diagonal_step(net, x, y, learning_rate, max_norm)
    again = diagonal_step(DiagonalNet(moved.a, net.b), x, y, learning_rate, max_norm)
    return DiagonalNet(moved.a, again.b)


register(
    Spec(
        name="dynamical_stability/diagonal_step",
        reference=diagonal_step,
        arguments=_diagonal_steps(),
        symbols=lambda: {
            "net": diagonal_symbols(),
            "x": symbols("x", 1, 2),
            "y": symbols("y", 1),
            "learning_rate": symbols("eta").item(),
        },
        relations=(
            Relation("layers exchanged", _exchanged, lambda output, a: DiagonalNet(output.b, output.a)),
            EXAMPLES_TWICE,
        ),
        mistakes={("order of operations", "the second layer updated by the new first one"): _sequential},
    )
)


# --- generalisation ---


@st.composite
def _rademacher(draw: st.DrawFn) -> Arguments:
    shape = (*draw(BATCHES), draw(st.sampled_from((1, 8, 30))), draw(st.sampled_from((1, 4, 50))))
    return {"x": draw(real_arrays(shape)), "norm": draw(st.sampled_from((1.0, 3.0)))}


NORM = Relation("norm times 2", lambda a: a | {"norm": 2 * a["norm"]}, lambda output, a: 2 * output)

for _bound in (rademacher_l1, rademacher_path_norm):
    register(
        Spec(
            name=f"dynamical_stability/{_bound.__name__}",  # type: ignore[attr-defined]
            reference=_bound,
            arguments=_rademacher(),
            relations=(
                NORM,
                Relation("inputs times 2", lambda a: a | {"x": 2 * a["x"]}, lambda output, a: 2 * output),
            ),
            dtypes=PAIRS,
        )
    )


@st.composite
def _signs(draw: st.DrawFn) -> Arguments:
    x = draw(real_arrays((draw(st.sampled_from((1, 8))), draw(st.sampled_from((1, 4))))))
    rng = draw(generators())
    return {"x": x, "signs": rng.choice([-1.0, 1.0], (*draw(BATCHES), len(x)))}


register(
    Spec(
        name="dynamical_stability/l1_supremum",
        reference=l1_supremum,
        arguments=_signs(),
        relations=(Relation("signs flipped", lambda a: a | {"signs": -a["signs"]}, unchanged),),
        dtypes=PAIRS,
    )
)
