"""The rate of Theorem 3."""

from hypothesis import strategies as st

from refimpl.incontext.one_step_optimality import (
    TargetMoments,
    nonlinear_learning_rate,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, register, symbols
from refimpl.oracle.specs.incontext.one_step_optimality.model import (
    NOISE,
    unchanged,
)
from refimpl.oracle.specs.incontext.one_step_optimality.optimum import symbolic_sizes


@st.composite
def _nonlinear_arguments(draw: st.DrawFn) -> Arguments:
    square = draw(st.floats(1 / 16, 4))
    correlation = draw(st.sampled_from((-1.0, -0.5, 0.25, 0.75, 1.0))) * square**0.5
    return {
        "moments": TargetMoments(correlation, square, square * draw(st.floats(1 / 4, 6))),
        "n_inputs": draw(st.integers(1, 50)),
        "n_context": draw(st.integers(1, 200)),
        "noise_std": draw(NOISE),
    }


def _targets_doubled(arguments: Arguments) -> Arguments:
    """Targets and noise times 2, which leaves the best rate alone."""
    correlation, square, weighted = arguments["moments"]
    return arguments | {
        "moments": TargetMoments(2 * correlation, 4 * square, 4 * weighted),
        "noise_std": 2 * arguments["noise_std"],
    }


register(
    Spec(
        name="one_step_optimality/nonlinear_learning_rate",
        reference=nonlinear_learning_rate,
        arguments=_nonlinear_arguments(),
        symbols=lambda: {
            "moments": TargetMoments(*(symbols(name).item() for name in ("k", "a", "b"))),
            **symbolic_sizes(),
        },
        relations=(Relation("targets and noise times 2", _targets_doubled, unchanged),),
        mistakes={
            ("missing term", "the noise"): lambda moments, n_inputs, n_context, noise_std: nonlinear_learning_rate(
                moments, n_inputs, n_context, 0.0
            )
        },
    )
)
