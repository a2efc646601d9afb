"""Products with the Hessians, softmax regression in closed form, and Lanczos."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics import batch_hessian as paper
from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register, symbols
from refimpl.primitives.curvature import Layers, mlp_curvature
from refimpl.primitives.lanczos import lanczos
from refimpl.primitives.layers import Linear
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import tree_map

FULL_DTYPES = ("float64", "float32")
WIDTHS = st.sampled_from(((2, 2), (3, 4), (3, 4, 2), (5, 3, 4), (4, 3, 3, 2), (1, 6, 1)))


def unchanged(output: Any, arguments: Arguments) -> Any:
    return output


# --- products with the Hessian and with its Gauss-Newton part ---


@st.composite
def labelled_networks(draw: st.DrawFn, activations: tuple[str, ...] = ("tanh", "relu")) -> Arguments:
    """A network, inputs, and labels."""
    widths, n, biased = draw(WIDTHS), draw(st.sampled_from((1, 2, 5, 12))), draw(st.booleans())
    layers = [
        Linear(draw(real_arrays((m, k), k**-0.5)), draw(real_arrays((m,))) if biased else None)
        for k, m in itertools.pairwise(widths)
    ]
    rng = draw(generators())
    return {
        "layers": layers,
        "x": draw(real_arrays((n, widths[0]))),
        "targets": rng.integers(widths[-1], size=n),
        "activation": draw(st.sampled_from(activations)),
    }


@st.composite
def _products(draw: st.DrawFn, activations: tuple[str, ...] = ("tanh", "relu")) -> Arguments:
    case = draw(labelled_networks(activations))
    direction = tree_map(lambda leaf: draw(real_arrays(leaf.shape)), case["layers"])
    n = len(case["x"])
    indices = draw(st.one_of(st.none(), st.lists(st.integers(0, n - 1), min_size=1, unique=True).map(np.array)))
    return {
        **{name: case[name] for name in ("layers", "x", "targets")},
        "direction": direction,
        "activation": case["activation"],
        "indices": indices,
    }


def _symbolic_product() -> Arguments:
    return {
        "layers": [Linear(symbols("w", 1, 1), symbols("b", 1)), Linear(symbols("v", 2, 1), symbols("c", 2))],
        "x": symbols("x", 1, 1),
        "targets": np.array([1]),
        "direction": [Linear(symbols("r", 1, 1), symbols("s", 1)), Linear(symbols("t", 2, 1), symbols("u", 2))],
        "activation": "tanh",
        "indices": None,
    }


def _scaled(factor: float) -> Callable[[Any], Any]:
    return lambda tree: tree_map(lambda leaf: factor * leaf, tree)


def _reversed_data(arguments: Arguments) -> Arguments:
    indices, n = arguments["indices"], len(arguments["x"])
    return arguments | {
        "x": arguments["x"][::-1],
        "targets": arguments["targets"][::-1],
        "indices": None if indices is None else n - 1 - indices,
    }


def _examples_twice(arguments: Arguments) -> Arguments:
    """The batch together with a copy of it, whose Hessians' mean is that of one."""
    indices, n = arguments["indices"], len(arguments["x"])
    return arguments | {
        "x": np.concatenate([arguments["x"]] * 2),
        "targets": np.concatenate([arguments["targets"]] * 2),
        "indices": None if indices is None else np.concatenate([indices, n + indices]),
    }


def _classes_reversed(arguments: Arguments) -> Arguments:
    def flip(layers: Layers) -> list[Linear]:
        return [*layers[:-1], _flipped(layers[-1])]

    n_classes = len(arguments["layers"][-1].weight)
    return arguments | {
        "layers": flip(arguments["layers"]),
        "direction": flip(arguments["direction"]),
        "targets": n_classes - 1 - arguments["targets"],
    }


def _flipped(layer: Linear) -> Linear:
    return Linear(layer.weight[::-1], None if layer.bias is None else layer.bias[::-1])


PRODUCT_RELATIONS = (
    Relation(
        "direction times -4",
        lambda arguments: arguments | {"direction": _scaled(-4.0)(arguments["direction"])},
        lambda output, arguments: _scaled(-4.0)(output),
    ),
    Relation("examples in reverse", _reversed_data, unchanged),
    Relation("every example twice", _examples_twice, unchanged),
    Relation(
        "classes in reverse",
        _classes_reversed,
        lambda output, arguments: [*output[:-1], _flipped(output[-1])],
    ),
)


def _summed(product: Callable[..., Any]) -> Callable[..., Any]:
    def of_sum(layers: Any, x: Any, targets: Any, direction: Any, activation: Any = "tanh", indices: Any = None) -> Any:
        n = len(x) if indices is None else len(indices)
        return _scaled(n)(product(layers, x, targets, direction, activation, indices))

    return of_sum


def _without_second_derivative(
    layers: Any, x: Any, targets: Any, direction: Any, activation: Any = "tanh", indices: Any = None
) -> Any:
    """The Gauss-Newton product where the Hessian's was asked for."""
    return paper.ggn_vector_product(layers, x, targets, direction, activation, indices)


def _all_the_data(
    layers: Any, x: Any, targets: Any, direction: Any, activation: Any = "tanh", indices: Any = None
) -> Any:
    return mlp_curvature(layers, x, targets, activation).hessian_product(direction)


register(
    Spec(
        name="batch_hessian/hessian_vector_product",
        reference=paper.hessian_vector_product,
        arguments=_products(),
        symbols=_symbolic_product,
        relations=PRODUCT_RELATIONS,
        dtypes=FULL_DTYPES,
        mistakes={
            ("constant factor", "the sum over the batch, not its mean"): _summed(paper.hessian_vector_product),
            ("missing term", "Gauss-Newton in place of the Hessian"): _without_second_derivative,
            ("mask", "all the data in place of the batch"): _all_the_data,
        },
    )
)

register(
    Spec(
        name="batch_hessian/ggn_vector_product",
        reference=paper.ggn_vector_product,
        arguments=_products(),
        symbols=_symbolic_product,
        relations=PRODUCT_RELATIONS,
        dtypes=FULL_DTYPES,
        mistakes={
            ("constant factor", "the sum over the batch, not its mean"): _summed(paper.ggn_vector_product),
            ("extra term", "the Hessian in place of Gauss-Newton"): paper.hessian_vector_product,
        },
    )
)


# --- softmax regression ---


@st.composite
def _softmax(draw: st.DrawFn) -> Arguments:
    n_classes, n_inputs, n = draw(st.sampled_from(((1, 2, 3), (2, 1, 1), (3, 2, 5), (4, 6, 20))))
    return {"weights": draw(real_arrays((n_classes, n_inputs))), "inputs": draw(real_arrays((n, n_inputs)))}


def _symbolic_softmax() -> Arguments:
    return {"weights": symbols("w", 2, 1), "inputs": symbols("x", 1, 1)}


SHIFTED = Relation(
    "all classes' weights shifted by one vector",
    lambda arguments: arguments | {"weights": arguments["weights"] + np.ones_like(arguments["weights"][:1])},
    unchanged,
)

register(
    Spec(
        name="batch_hessian/softmax_regression_hessian",
        reference=paper.softmax_regression_hessian,
        arguments=_softmax(),
        symbols=_symbolic_softmax,
        relations=(
            SHIFTED,
            Relation(
                "inputs in reverse order",
                lambda arguments: arguments | {"inputs": arguments["inputs"][::-1]},
                unchanged,
            ),
            Relation(
                "inputs times 2, weights over 2",
                lambda arguments: {"weights": arguments["weights"] / 2, "inputs": 2 * arguments["inputs"]},
                lambda output, arguments: 4 * output,
            ),
        ),
        dtypes=FULL_DTYPES,
        mistakes={
            ("axis", "inputs outside, classes inside"): lambda weights, inputs: _exchanged(
                paper.softmax_regression_hessian(weights, inputs), *weights.shape
            )
        },
    )
)


def _exchanged(hessian: Array, n_classes: int, n_inputs: int) -> Array:
    four = hessian.reshape(n_classes, n_inputs, n_classes, n_inputs)
    return four.transpose(1, 0, 3, 2).reshape(hessian.shape)


@st.composite
def _example_products(draw: st.DrawFn) -> Arguments:
    case = draw(_softmax())
    return {**case, "direction": draw(real_arrays(case["weights"].shape))}


register(
    Spec(
        name="batch_hessian/per_example_products",
        reference=paper.per_example_products,
        arguments=_example_products(),
        symbols=lambda: {**_symbolic_softmax(), "direction": symbols("u", 2, 1)},
        relations=(
            SHIFTED,
            Relation(
                "direction times -4",
                lambda arguments: arguments | {"direction": -4 * arguments["direction"]},
                lambda output, arguments: -4 * output,
            ),
            Relation(
                "direction shifted by one vector in all classes",
                lambda arguments: arguments | {"direction": arguments["direction"] + 1},
                unchanged,
            ),
        ),
        dtypes=FULL_DTYPES,
    )
)

register(
    Spec(
        name="batch_hessian/per_example_norms",
        reference=paper.per_example_norms,
        arguments=_softmax(),
        symbols=_symbolic_softmax,
        relations=(SHIFTED,),
        dtypes=FULL_DTYPES,
        mistakes={
            ("power", "the norm of the input, not its square"): lambda weights, inputs: (
                paper.per_example_norms(weights, inputs) / np.maximum(np.sqrt((inputs * inputs).sum(axis=-1)), 1e-6)
            )
        },
    )
)


# --- Lanczos ---


def tridiagonal(matrix: Array, start: Array, n_steps: int) -> tuple[Array, Array]:
    """Diagonal and (positive) off-diagonal of Lanczos' tridiagonal matrix, for a symmetric matrix and a start."""
    found = lanczos(lambda v: matrix @ v, len(start), n_steps, start=start)
    return found.diagonal, found.off_diagonal


@st.composite
def _krylov(draw: st.DrawFn) -> Arguments:
    n = draw(st.sampled_from((1, 2, 5, 20, 60)))
    rng = draw(generators())
    gaussian = rng.standard_normal((n, n))
    # Few steps: later off-diagonals forget the start, and with it what two implementations have in common.
    return {
        "matrix": (gaussian + gaussian.T) / (2 * n) ** 0.5,
        "start": rng.standard_normal(n),
        "n_steps": draw(st.integers(1, min(n, 8))),
    }


register(
    Spec(
        name="batch_hessian/lanczos",
        reference=tridiagonal,
        arguments=_krylov(),
        relations=(
            Relation(
                "matrix times 2 plus the identity",
                lambda arguments: arguments | {"matrix": 2 * arguments["matrix"] + np.eye(len(arguments["matrix"]))},
                lambda output, arguments: (2 * output[0] + 1, 2 * output[1]),
            ),
            Relation(
                "matrix negated",
                lambda arguments: arguments | {"matrix": -arguments["matrix"]},
                lambda output, arguments: (-output[0], output[1]),
            ),
            Relation("start times 4", lambda arguments: arguments | {"start": 4 * arguments["start"]}, unchanged),
        ),
        dtypes=FULL_DTYPES,
    )
)
