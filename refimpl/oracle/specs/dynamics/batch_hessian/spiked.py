"""The closed forms of the two spiked models."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics import batch_hessian as paper
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register
from refimpl.oracle.specs.dynamics.batch_hessian.levels import FULL_DTYPES, unchanged

POSITIVE = st.floats(1 / 64, 16, allow_subnormal=False)


@st.composite
def ends(draw: st.DrawFn) -> Arguments:
    shape = draw(st.sampled_from(((), (1,), (4,), (2, 3))))
    values = np.sort(draw(real_arrays((2, *shape), 2.0)), axis=0)
    return {"lambda_max": np.asarray(values[1]), "lambda_min": np.asarray(values[0]), **draw(_noise())}


@st.composite
def _noise(draw: st.DrawFn) -> Arguments:
    return {
        "n_params": draw(st.sampled_from((1, 10, 1000))),
        "variance": draw(st.one_of(st.just(0.0), POSITIVE)),
        "effective_batch": draw(st.one_of(st.just(float("inf")), st.sampled_from((1.0, 8.0, 300.0, 4096.0)))),
    }


def _both_times(factor: float) -> Callable[[Any, Arguments], Any]:
    return lambda output, arguments: tuple(factor * end for end in output)


def _eigenvalues_and_noise_doubled(*names: str, power: int = 2) -> Callable[[Arguments], Arguments]:
    """All eigenvalues times 2, and the variance of the noise accordingly."""
    return lambda arguments: (
        arguments | {name: 2 * arguments[name] for name in names} | {"variance": 2**power * arguments["variance"]}
    )


def _symbolic_noise() -> Arguments:
    import sympy

    return {"n_params": 1, "variance": sympy.Symbol("s", positive=True) ** 2, "effective_batch": 1}


def _above() -> Any:
    """An eigenvalue above the threshold $s$."""
    import sympy

    return np.asarray(sympy.Symbol("s", positive=True) + sympy.Symbol("t", positive=True), dtype=object)


register(
    Spec(
        name="batch_hessian/additive_extremal_eigenvalues",
        reference=paper.additive_extremal_eigenvalues,
        arguments=ends(),
        symbols=lambda: {"lambda_max": _above(), "lambda_min": -_above(), **_symbolic_noise()},
        relations=(
            Relation(
                "spectrum and noise times 2", _eigenvalues_and_noise_doubled("lambda_max", "lambda_min"), _both_times(2)
            ),
            Relation(
                "spectrum reflected",
                lambda arguments: (
                    arguments | {"lambda_max": -arguments["lambda_min"], "lambda_min": -arguments["lambda_max"]}
                ),
                lambda output, arguments: (-output[1], -output[0]),
            ),
            Relation(
                "variance and batch times 4",
                lambda arguments: (
                    arguments
                    | {"variance": 4 * arguments["variance"], "effective_batch": 4 * arguments["effective_batch"]}
                ),
                unchanged,
            ),
        ),
        dtypes=FULL_DTYPES,
        mistakes={
            (
                "branch",
                "the outlier's formula at every eigenvalue",
            ): lambda lambda_max, lambda_min, n_params, variance, effective_batch: tuple(
                end + n_params * variance / effective_batch / np.where(end == 0, 1, end)
                for end in (lambda_max, lambda_min)
            )
        },
    )
)


@st.composite
def _single(draw: st.DrawFn) -> Arguments:
    return {"eigenvalue": draw(ends())["lambda_max"], **draw(_noise())}


register(
    Spec(
        name="batch_hessian/eigenvector_overlap",
        reference=paper.eigenvector_overlap,
        arguments=_single(),
        symbols=lambda: {"eigenvalue": _above(), **_symbolic_noise()},
        relations=(
            Relation("eigenvalue and noise times 2", _eigenvalues_and_noise_doubled("eigenvalue"), unchanged),
            Relation(
                "eigenvalue reflected",
                lambda arguments: arguments | {"eigenvalue": -arguments["eigenvalue"]},
                unchanged,
            ),
        ),
        dtypes=FULL_DTYPES,
        mistakes={
            ("power", "the cosine, not its square"): lambda **arguments: np.sqrt(paper.eigenvector_overlap(**arguments))
        },
    )
)


@st.composite
def _ggn(draw: st.DrawFn) -> Arguments:
    return {
        "lambda_max": np.asarray(np.abs(draw(ends())["lambda_max"])),
        "n_params": draw(st.sampled_from((1, 10, 1000))),
        "batch_size": draw(st.sampled_from((1, 10, 300))),
        "variance": draw(POSITIVE),
    }


def _symbolic_ggn() -> Arguments:
    import sympy

    return {
        "lambda_max": np.asarray(2 + sympy.Symbol("t", positive=True), dtype=object),
        "n_params": sympy.Symbol("P", positive=True, integer=True),
        "batch_size": sympy.Symbol("P", positive=True, integer=True),
        "variance": 1,
    }


register(
    Spec(
        name="batch_hessian/ggn_extremal_eigenvalue",
        reference=paper.ggn_extremal_eigenvalue,
        arguments=_ggn(),
        symbols=_symbolic_ggn,
        relations=(
            Relation(
                "spectrum times 2",
                _eigenvalues_and_noise_doubled("lambda_max", power=1),
                lambda output, arguments: 2 * output,
            ),
            Relation(
                "parameters and batch times 4",
                lambda arguments: (
                    arguments | {"n_params": 4 * arguments["n_params"], "batch_size": 4 * arguments["batch_size"]}
                ),
                unchanged,
            ),
        ),
        dtypes=FULL_DTYPES,
        mistakes={
            ("branch", "the edge at every eigenvalue"): lambda lambda_max, n_params, batch_size, variance: (
                0 * lambda_max + variance * (1 + (n_params / batch_size) ** 0.5) ** 2
            )
        },
    )
)


@st.composite
def _outliers(draw: st.DrawFn) -> Arguments:
    return {
        "lambda_max": draw(ends())["lambda_max"],
        "bulk_eigenvalues": draw(real_arrays((draw(st.sampled_from((1, 2, 7, 40))),))),
        "noise_scale": draw(st.one_of(st.just(0.0), POSITIVE)),
    }


register(
    Spec(
        name="batch_hessian/outlier_position",
        reference=paper.outlier_position,
        arguments=_outliers(),
        relations=(
            Relation(
                "spectrum and noise times 2",
                lambda arguments: {name: 2 * value for name, value in arguments.items()},
                lambda output, arguments: 2 * output,
            ),
            Relation(
                "every eigenvalue of the bulk twice",
                lambda arguments: arguments | {"bulk_eigenvalues": np.repeat(arguments["bulk_eigenvalues"], 2)},
                unchanged,
            ),
            Relation(
                "spectrum shifted by 1",
                lambda arguments: (
                    arguments | {name: 1 + arguments[name] for name in ("lambda_max", "bulk_eigenvalues")}
                ),
                lambda output, arguments: 1 + output,
            ),
        ),
        dtypes=("float64",),  # near the bulk the reciprocal distances leave single precision few digits
        mistakes={
            ("missing term", "as if the bulk were at its mean"): lambda lambda_max, bulk_eigenvalues, noise_scale: (
                paper.outlier_position(lambda_max, bulk_eigenvalues.mean(keepdims=True), noise_scale)
            )
        },
    )
)
