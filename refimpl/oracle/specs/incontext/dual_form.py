"""Relaxed attention, the losses it descends, and momentum."""

from hypothesis import strategies as st

from refimpl.incontext import dual_form
from refimpl.oracle.spec import Arguments, Relation, Spec, real_arrays, register, symbols

SIZES = st.sampled_from((1, 2, 3, 5))
BATCHES = st.sampled_from(((), (3,), (2, 3)))


@st.composite
def heads(draw: st.DrawFn) -> Arguments:
    batch = draw(BATCHES)
    d, d_value, d_head, n_demos, n_context = (draw(SIZES) for _ in range(5))
    shapes = {
        "value": (d_value, d),
        "key": (d_head, d),
        "demos": (d, n_demos),
        "context": (d, n_context),
        "query": (d_head,),
    }
    return {name: draw(real_arrays((*batch, *shape))) for name, shape in shapes.items()}


register(
    Spec(
        name="dual_form/relaxed_attention",
        reference=dual_form.relaxed_attention,
        arguments=heads(),
        vjp=dual_form.relaxed_attention_vjp,
        symbols=lambda: {
            "value": symbols("v", 1, 2),
            "key": symbols("k", 2, 2),
            "demos": symbols("x", 2, 2),
            "context": symbols("c", 2, 1),
            "query": symbols("q", 2),
        },
        relations=(
            Relation(
                "demonstrations in reverse",
                lambda arguments: arguments | {"demos": arguments["demos"][..., ::-1]},
                lambda output, arguments: output,
            ),
            Relation(
                "values times 4",
                lambda arguments: arguments | {"value": 4 * arguments["value"]},
                lambda output, arguments: 4 * output,
            ),
        ),
    )
)


@st.composite
def losses(draw: st.DrawFn) -> Arguments:
    batch = draw(BATCHES)
    d, d_value, n = (draw(SIZES) for _ in range(3))
    shapes = {"weights": (d_value, d), "values": (d_value, n), "keys": (d, n)}
    arguments: Arguments = {name: draw(real_arrays((*batch, *shape))) for name, shape in shapes.items()}
    return arguments | {"kind": draw(st.sampled_from(("bilinear", "squared")))}


register(
    Spec(
        name="dual_form/implied_loss",
        reference=dual_form.implied_loss,
        arguments=losses(),
        vjp=dual_form.implied_loss_vjp,
        symbols=lambda: {
            "weights": symbols("w", 2, 2),
            "values": symbols("v", 2, 2),
            "keys": symbols("k", 2, 2),
            "kind": "squared",
        },
    )
)

ETAS = st.sampled_from((0.125, 0.5, 0.75))


@st.composite
def sequences(draw: st.DrawFn) -> Arguments:
    batch, d, d_value, n = draw(BATCHES), draw(SIZES), draw(SIZES), draw(SIZES)
    shapes = {"values": (d_value, n), "keys": (d, n), "queries": (d, n)}
    arguments: Arguments = {name: draw(real_arrays((*batch, *shape))) for name, shape in shapes.items()}
    return arguments | {"eta": draw(ETAS)}


register(
    Spec(
        name="dual_form/momentum_attention",
        reference=dual_form.momentum_attention,
        arguments=sequences(),
        vjp=dual_form.momentum_attention_vjp,
        symbols=lambda: {
            "values": symbols("v", 1, 2),
            "keys": symbols("k", 1, 2),
            "queries": symbols("q", 1, 2),
            "eta": symbols("eta").item(),
        },
        relations=(
            Relation(
                "values times 4",
                lambda arguments: arguments | {"values": 4 * arguments["values"]},
                lambda output, arguments: 4 * output,
            ),
        ),
    )
)

register(
    Spec(
        name="dual_form/momentum_sum",
        reference=dual_form.momentum_sum,
        arguments=sequences().map(lambda drawn: {"values": drawn["values"], "eta": drawn["eta"]}),
        vjp=dual_form.momentum_sum_vjp,
        symbols=lambda: {"values": symbols("v", 1, 3), "eta": symbols("eta").item()},
    )
)
