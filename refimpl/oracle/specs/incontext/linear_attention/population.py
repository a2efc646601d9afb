"""The population loss of one step."""

from hypothesis import strategies as st

from refimpl.incontext.linear_attention import one_step_population_loss
from refimpl.oracle.spec import Arguments, Relation, Spec, register, symbols
from refimpl.oracle.specs.incontext.linear_attention.construction import CONTEXT, INPUTS, OUTPUTS


@st.composite
def _population_arguments(draw: st.DrawFn) -> Arguments:
    second = draw(st.floats(1 / 16, 2))
    return {
        "learning_rate": draw(st.floats(1 / 16, 8)),
        "n_inputs": draw(INPUTS),
        "n_context": draw(CONTEXT),
        "second_moment": second,
        "fourth_moment": second**2 * draw(st.floats(1, 6)),
        "n_outputs": draw(OUTPUTS),
        "weight_variance": draw(st.floats(1 / 16, 4)),
    }


def _scale_inputs(arguments: Arguments) -> Arguments:
    """Inputs times 2, learning rate over 4."""
    return arguments | {
        "learning_rate": arguments["learning_rate"] / 4,
        "second_moment": arguments["second_moment"] * 4,
        "fourth_moment": arguments["fourth_moment"] * 16,
    }


register(
    Spec(
        name="linear_attention/one_step_population_loss",
        reference=one_step_population_loss,
        arguments=_population_arguments(),
        symbols=lambda: {
            "learning_rate": symbols("eta").item(),
            "n_inputs": symbols("m").item(),
            "n_context": symbols("n").item(),
            "second_moment": symbols("mu2").item(),
            "fourth_moment": symbols("mu4").item(),
        },
        relations=(
            Relation("inputs times 2, rate over 4", _scale_inputs, lambda output, arguments: 4 * output),
            Relation(
                "teacher times 2",
                lambda arguments: arguments | {"weight_variance": 4 * arguments["weight_variance"]},
                lambda output, arguments: 4 * output,
            ),
        ),
    )
)
