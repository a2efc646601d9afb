"""The margin, and the bounds on numbers of iterations."""

from functools import partial
from typing import Any

from hypothesis import strategies as st

from refimpl.dynamics.large_step_logistic import (
    batch_perceptron_bound,
    batch_perceptron_bound_tight,
    lr_gd_bound,
    margin,
    normalized_lr_gd_bound,
    perceptron_bound,
)
from refimpl.oracle.spec import Arguments, Relation, Spec, register
from refimpl.oracle.specs.dynamics.large_step_logistic.setting import (
    DOUBLED,
    REVERSED,
    SINGLE,
    changed,
    reflect,
    separable_sets,
    unchanged,
)


def _scaled_margin(output: Any, arguments: Arguments) -> Any:
    return output._replace(margin=2 * output.margin)


register(
    Spec(
        name="large_step_logistic/margin",
        reference=margin,
        arguments=separable_sets().map(lambda z: {"z": z}),
        dtypes=SINGLE,
        relations=(
            REVERSED,
            DOUBLED,
            Relation(
                "features reflected",
                changed(z=reflect),
                lambda output, arguments: output._replace(direction=reflect(output.direction)),
            ),
            Relation("features doubled", changed(z=lambda z: 2 * z), _scaled_margin),
        ),
    )
)


@st.composite
def _geometries(draw: st.DrawFn, *names: str) -> Arguments:
    found = {
        "n_samples": draw(st.integers(1, 5000)),
        "radius": 10.0 ** draw(st.floats(-1, 2)),
        "margin": 0.0,
        "step_size": 10.0 ** draw(st.floats(-2, 4)),
    }
    found["margin"] = found["radius"] * 10.0 ** draw(st.floats(-3, 0))
    return {name: found[name] for name in names}


def _symbolic_geometry(*names: str) -> Arguments:
    import sympy

    found = {name: sympy.Symbol(name, positive=True) for name in ("radius", "margin", "step_size")} | {
        "n_samples": sympy.Symbol("n_samples", integer=True, positive=True)
    }
    return {name: found[name] for name in names}


BIGGER = Relation("radius and margin doubled", changed(radius=lambda r: 2 * r, margin=lambda m: 2 * m), unchanged)
BIGGER_FINER = Relation(
    "radius and margin doubled, step size a quarter",
    changed(radius=lambda r: 2 * r, margin=lambda m: 2 * m, step_size=lambda s: s / 4),
    unchanged,
)

for _bound, _names, _relation in (
    (perceptron_bound, ("radius", "margin"), BIGGER),
    (batch_perceptron_bound, ("n_samples", "radius", "margin"), BIGGER),
    (batch_perceptron_bound_tight, ("n_samples", "radius", "margin"), BIGGER),
    (normalized_lr_gd_bound, ("n_samples", "radius", "margin", "step_size"), BIGGER_FINER),
    (lr_gd_bound, ("n_samples", "radius", "margin", "step_size"), BIGGER_FINER),
):
    register(
        Spec(
            name=f"large_step_logistic/{_bound.__name__}",
            reference=_bound,
            arguments=_geometries(*_names),
            symbols=partial(_symbolic_geometry, *_names),
            dtypes=SINGLE,
            relations=(_relation,),
        )
    )
