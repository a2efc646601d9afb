"""The closed forms of Theorems 1 and 2."""

from hypothesis import strategies as st

from refimpl.incontext.one_step_optimality import (
    optimal_learning_rate,
    optimal_loss,
    preconditioned_lsa_parameters,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, register, symbols
from refimpl.oracle.specs.incontext.one_step_optimality.model import (
    INPUTS,
    NOISE,
    SINGLE,
    covariances,
    reflect,
    reflect_weights,
    unchanged,
)


@st.composite
def _sizes(draw: st.DrawFn) -> Arguments:
    return {"n_inputs": draw(st.integers(1, 50)), "n_context": draw(st.integers(1, 200)), "noise_std": draw(NOISE)}


def symbolic_sizes() -> Arguments:
    return {name: symbols(name).item() for name in ("n_inputs", "n_context", "noise_std")}


def _one_input_to_context(arguments: Arguments) -> Arguments:
    return arguments | {"n_inputs": arguments["n_inputs"] + 1, "n_context": arguments["n_context"] - 1}


register(
    Spec(
        name="one_step_optimality/optimal_learning_rate",
        reference=optimal_learning_rate,
        arguments=_sizes(),
        symbols=symbolic_sizes,
        relations=(Relation("one input more, one context point fewer", _one_input_to_context, unchanged),),
        mistakes={
            ("normaliser", "the rate of the mean"): lambda n_inputs, n_context, noise_std: (
                n_context * optimal_learning_rate(n_inputs, n_context, noise_std)
            ),
            ("missing term", "the noise"): lambda n_inputs, n_context, noise_std: optimal_learning_rate(
                n_inputs, n_context, 0.0
            ),
        },
    )
)
register(
    Spec(
        name="one_step_optimality/optimal_loss",
        reference=optimal_loss,
        arguments=_sizes(),
        symbols=symbolic_sizes,
        relations=(
            Relation(
                "without context, the variance of the target",
                lambda arguments: arguments | {"n_context": 0},
                lambda output, arguments: arguments["n_inputs"] + arguments["noise_std"] ** 2,
            ),
        ),
        mistakes={
            ("missing term", "the noise of the query's target"): lambda n_inputs, n_context, noise_std: (
                optimal_loss(n_inputs, n_context, noise_std) - noise_std**2
            )
        },
    )
)


@st.composite
def _preconditioned_arguments(draw: st.DrawFn) -> Arguments:
    return {"cov_x": draw(covariances(draw(INPUTS))), "learning_rate": draw(st.floats(1 / 64, 1))}


register(
    Spec(
        name="one_step_optimality/preconditioned_lsa_parameters",
        reference=preconditioned_lsa_parameters,
        arguments=_preconditioned_arguments(),
        symbols=lambda: {"cov_x": symbols("s", 2, 2), "learning_rate": symbols("eta").item()},
        relations=(
            Relation(
                "covariance times 4",
                lambda arguments: arguments | {"cov_x": 4 * arguments["cov_x"]},
                lambda output, arguments: output._replace(key_query=output.key_query / 4),
            ),
            Relation(
                "inputs reflected",
                lambda arguments: arguments | {"cov_x": reflect(reflect(arguments["cov_x"]), -2)},
                lambda output, arguments: reflect_weights(output),
            ),
        ),
        dtypes=SINGLE,
    )
)
