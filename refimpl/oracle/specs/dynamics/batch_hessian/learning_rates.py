"""Learning rates and damping."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.dynamics import batch_hessian as paper
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols
from refimpl.oracle.specs.dynamics.batch_hessian.levels import FULL_DTYPES, unchanged
from refimpl.oracle.specs.dynamics.batch_hessian.spiked import POSITIVE, ends
from refimpl.primitives.numbers import Array


@st.composite
def _curvatures(draw: st.DrawFn) -> Array:
    return np.asarray(np.abs(draw(ends())["lambda_max"]) + draw(POSITIVE))


def _symbolic_curvature(name: str) -> Any:
    import sympy

    return np.asarray(sympy.Symbol(name, positive=True), dtype=object)


register(
    Spec(
        name="batch_hessian/max_learning_rate_sgd",
        reference=paper.max_learning_rate_sgd,
        arguments=st.fixed_dictionaries({"lambda_max_batch": _curvatures(), "momentum": st.floats(0, 0.99)}),
        symbols=lambda: {"lambda_max_batch": _symbolic_curvature("l"), "momentum": symbols("rho").item()},
        relations=(
            Relation(
                "curvature times 4",
                lambda arguments: arguments | {"lambda_max_batch": 4 * arguments["lambda_max_batch"]},
                lambda output, arguments: output / 4,
            ),
        ),
        dtypes=FULL_DTYPES,
        mistakes={
            ("missing term", "momentum left out"): lambda lambda_max_batch, momentum: 2 / lambda_max_batch,
        },
    )
)

register(
    Spec(
        name="batch_hessian/max_learning_rate_adaptive",
        reference=paper.max_learning_rate_adaptive,
        arguments=st.fixed_dictionaries(
            {"lambda_max_batch": _curvatures(), "damping": st.one_of(st.just(0.0), POSITIVE)}
        ),
        symbols=lambda: {"lambda_max_batch": _symbolic_curvature("l"), "damping": symbols("delta").item()},
        relations=(
            Relation(
                "curvature times 4, damping times 2",
                lambda arguments: (
                    arguments
                    | {"lambda_max_batch": 4 * arguments["lambda_max_batch"], "damping": 2 * arguments["damping"]}
                ),
                lambda output, arguments: output / 2,
            ),
        ),
        dtypes=FULL_DTYPES,
        mistakes={
            ("power", "the curvature for its root"): lambda lambda_max_batch, damping: (
                2 * (lambda_max_batch + damping) / lambda_max_batch
            )
        },
    )
)

register(
    Spec(
        name="batch_hessian/scale_learning_rate",
        reference=paper.scale_learning_rate,
        arguments=st.fixed_dictionaries(
            {
                "base_rate": _curvatures(),
                "base_batch": st.sampled_from((1, 32, 100)),
                "batch_size": st.sampled_from((1, 32, 2048)),
                "rule": st.sampled_from(("linear", "sqrt")),
            }
        ),
        symbols=lambda: {
            "base_rate": _symbolic_curvature("eta"),
            "base_batch": symbols("B0").item(),
            "batch_size": symbols("B").item(),
            "rule": "linear",
        },
        relations=(
            Relation(
                "both batches times 3",
                lambda arguments: (
                    arguments | {"base_batch": 3 * arguments["base_batch"], "batch_size": 3 * arguments["batch_size"]}
                ),
                unchanged,
            ),
        ),
        dtypes=FULL_DTYPES,
        mistakes={
            ("power", "the linear rule for either"): lambda base_rate, base_batch, batch_size, rule: (
                base_rate * (batch_size / base_batch)
            )
        },
    )
)


@st.composite
def _dampings(draw: st.DrawFn) -> Arguments:
    shape = draw(st.sampled_from(((), (1,), (4,), (2, 3))))
    return {
        "learning_rate": draw(POSITIVE),
        "batch_curvature": np.asarray(draw(real_arrays(shape, 2.0))),
        "estimated_curvature": np.asarray(draw(real_arrays(shape))),
    }


register(
    Spec(
        name="batch_hessian/minimal_damping",
        reference=paper.minimal_damping,
        arguments=_dampings(),
        symbols=lambda: {
            "learning_rate": symbols("eta").item(),
            "batch_curvature": symbols("b", 1),
            "estimated_curvature": symbols("e", 1),
        },
        relations=(
            Relation(
                "curvatures times 2",
                lambda arguments: (
                    arguments | {name: 2 * arguments[name] for name in ("batch_curvature", "estimated_curvature")}
                ),
                lambda output, arguments: 2 * output,
            ),
            Relation(
                "rate times 2, batch curvature over 2",
                lambda arguments: (
                    arguments
                    | {
                        "learning_rate": 2 * arguments["learning_rate"],
                        "batch_curvature": arguments["batch_curvature"] / 2,
                    }
                ),
                unchanged,
            ),
        ),
        dtypes=FULL_DTYPES,
        mistakes={
            ("missing term", "not clipped at 0"): lambda learning_rate, batch_curvature, estimated_curvature: (
                learning_rate * batch_curvature / 2 - estimated_curvature
            )
        },
    )
)
