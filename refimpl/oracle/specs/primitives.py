"""What the shared operations offer to be compared with."""

import itertools
from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.oracle.spec import Arguments, Relation, Spec, generators, real_arrays, register, symbols
from refimpl.primitives import activations, attention, layers, linear_self_attention, losses, normalization
from refimpl.primitives.attention import MultiHeadAttention
from refimpl.primitives.layers import Linear
from refimpl.primitives.linear_self_attention import LinearAttentionWeights
from refimpl.primitives.numbers import Array, exp, log

SIZES = st.sampled_from((1, 2, 3, 5, 8))
BATCHES = st.sampled_from(((), (1,), (3,), (2, 3)))


def _rescale(arguments: Arguments, **factors: float) -> Arguments:
    """Multiply arguments by numbers; powers of two, so that the change itself does not round."""
    return arguments | {name: arguments[name] * factor for name, factor in factors.items()}


def _reverse(x: Any, axis: int) -> Any:
    return np.flip(x, axis)


# --- activations -----------------------------------------------------------------------------------------------------


@st.composite
def _any_array(draw: st.DrawFn) -> Arguments:
    shape = (*draw(BATCHES), draw(SIZES))
    return {"x": draw(real_arrays(shape, draw(st.sampled_from((1.0, 4.0)))))}


def _negate(arguments: Arguments) -> Arguments:
    return _rescale(arguments, x=-1)


ODD = Relation("f(-x) = -f(x)", _negate, lambda output, arguments: -output)
RAMP = Relation("f(x) - f(-x) = x", _negate, lambda output, arguments: output - arguments["x"])
POINT = Relation("f(x) + f(-x) = 1", _negate, lambda output, arguments: 1 - output)
HOMOGENEOUS = Relation(
    "f(4x) = 4f(x)", lambda arguments: _rescale(arguments, x=4), lambda output, arguments: 4 * output
)


def _sigmoid_vjp_of_the_output(x: Array) -> Any:
    """The textbook's derivative, which loses digits where the output rounds to nearly 1."""
    output = activations.sigmoid(x)
    return output, lambda cotangent: (cotangent * output * (1 - output),)


def _softplus_vjp_by_logarithms(x: Array) -> Any:
    """The exponential of a difference, as of any log-sum-exp: the exponent rounds to a unit of x."""
    output = activations.softplus(x)
    return output, lambda cotangent: (cotangent * exp(x - output),)


_OTHER_VJPS = {"sigmoid": _sigmoid_vjp_of_the_output, "softplus": _softplus_vjp_by_logarithms}

for _name, _relations in {
    "relu": (RAMP, HOMOGENEOUS),
    "tanh": (ODD,),
    "erf": (ODD,),
    "sigmoid": (POINT,),
    "softplus": (RAMP,),
    "gelu": (RAMP,),
    "gelu_tanh": (RAMP,),
}.items():
    register(
        Spec(
            name=f"primitives/{_name}",
            reference=getattr(activations, _name),
            arguments=_any_array(),
            vjp=getattr(activations, f"{_name}_vjp"),
            symbols=lambda: {"x": symbols("x", 2)},
            relations=_relations,
            other_vjps=(_OTHER_VJPS[_name],) if _name in _OTHER_VJPS else (),
        )
    )


# --- normalisation ---------------------------------------------------------------------------------------------------


def _shift_rows(arguments: Arguments, name: str = "x") -> Arguments:
    """Add 1/2 to the first row, 1 to the next, and so on."""
    x = arguments[name]
    rows = x.shape[:-1]
    return arguments | {name: x + (np.arange(1, np.prod(rows, dtype=int) + 1) / 2).reshape(*rows, 1)}


def _unchanged(output: Any, arguments: Arguments) -> Any:
    return output


REVERSED = Relation(
    "reversed entries",
    lambda arguments: {"x": _reverse(arguments["x"], -1)},
    lambda output, arguments: _reverse(output, -1),
)

register(
    Spec(
        name="primitives/softmax",
        reference=normalization.softmax,
        arguments=_any_array(),
        vjp=normalization.softmax_vjp,
        symbols=lambda: {"x": symbols("x", 2, 3)},
        relations=(Relation("a shift of each row changes nothing", _shift_rows, _unchanged), REVERSED),
    )
)

register(
    Spec(
        name="primitives/log_sum_exp",
        reference=normalization.log_sum_exp,
        arguments=_any_array(),
        vjp=normalization.log_sum_exp_vjp,
        symbols=lambda: {"x": symbols("x", 2, 3)},
        relations=(
            Relation(
                "a shift of each row shifts the value",
                _shift_rows,
                lambda output, arguments: output + (_shift_rows(arguments)["x"] - arguments["x"])[..., 0],
            ),
            Relation(
                "every entry twice adds log 2",
                lambda arguments: {"x": np.concatenate([arguments["x"]] * 2, axis=-1)},
                lambda output, arguments: output + log(2),
            ),
        ),
    )
)


@st.composite
def _layer_norm_arguments(draw: st.DrawFn) -> Arguments:
    n = draw(SIZES)
    x = draw(real_arrays((*draw(BATCHES), n)))
    scale, offset = (draw(st.none() | real_arrays((n,))) for _ in range(2))
    return {"x": x, "scale": scale, "offset": offset, "epsilon": draw(st.sampled_from((2.0**-17, 2.0**-10, 1.0)))}


def _layer_norm_symbols() -> Arguments:
    return {
        "x": symbols("x", 1, 3),
        "scale": symbols("s", 3),
        "offset": symbols("t", 3),
        "epsilon": symbols("e").item(),
    }


register(
    Spec(
        name="primitives/layer_norm",
        reference=normalization.layer_norm,
        arguments=_layer_norm_arguments(),
        vjp=normalization.layer_norm_vjp,
        symbols=_layer_norm_symbols,
        relations=(
            Relation("a shift of each row changes nothing", _shift_rows, _unchanged),
            Relation(
                "rows times 2 with epsilon times 4 change nothing",
                lambda arguments: _rescale(arguments, x=2, epsilon=4),
                _unchanged,
            ),
        ),
    )
)


# --- losses ----------------------------------------------------------------------------------------------------------


@st.composite
def _squared_error_arguments(draw: st.DrawFn) -> Arguments:
    shape = (*draw(BATCHES), draw(SIZES))
    return {"prediction": draw(real_arrays(shape)), "target": draw(real_arrays(shape))}


register(
    Spec(
        name="primitives/squared_error",
        reference=losses.squared_error,
        arguments=_squared_error_arguments(),
        vjp=losses.squared_error_vjp,
        symbols=lambda: {"prediction": symbols("p", 2, 2), "target": symbols("t", 2, 2)},
        relations=(
            Relation(
                "symmetric",
                lambda arguments: {"prediction": arguments["target"], "target": arguments["prediction"]},
                _unchanged,
            ),
            Relation(
                "quadratic",
                lambda arguments: _rescale(arguments, prediction=2, target=2),
                lambda output, arguments: 4 * output,
            ),
        ),
    )
)


@st.composite
def _cross_entropy_arguments(draw: st.DrawFn) -> Arguments:
    rows, n_classes = draw(BATCHES), draw(SIZES)
    rng = draw(generators())
    return {
        "logits": draw(real_arrays((*rows, n_classes), 3.0)),
        "labels": np.asarray(rng.integers(n_classes, size=rows)),
    }


register(
    Spec(
        name="primitives/cross_entropy",
        reference=losses.cross_entropy,
        arguments=_cross_entropy_arguments(),
        vjp=losses.cross_entropy_vjp,
        symbols=lambda: {"logits": symbols("z", 2, 3), "labels": np.array([2, 0])},
        relations=(
            Relation(
                "a shift of each row changes nothing", lambda arguments: _shift_rows(arguments, "logits"), _unchanged
            ),
            Relation(
                "classes renamed backwards",
                lambda arguments: {
                    "logits": _reverse(arguments["logits"], -1),
                    "labels": np.asarray(arguments["logits"].shape[-1] - 1 - arguments["labels"]),
                },
                _unchanged,
            ),
        ),
    )
)


# --- layers ----------------------------------------------------------------------------------------------------------


@st.composite
def _linear_arguments(draw: st.DrawFn) -> Arguments:
    n_inputs, n_outputs = draw(SIZES), draw(SIZES)
    return {
        "x": draw(real_arrays((*draw(BATCHES), n_inputs))),
        "weight": draw(real_arrays((n_outputs, n_inputs))),
        "bias": draw(st.none() | real_arrays((n_outputs,))),
    }


register(
    Spec(
        name="primitives/linear",
        reference=layers.linear,
        arguments=_linear_arguments(),
        vjp=layers.linear_vjp,
        symbols=lambda: {"x": symbols("x", 1, 2, 3), "weight": symbols("w", 2, 3), "bias": symbols("b", 2)},
        relations=(
            Relation(
                "affine in x",
                lambda arguments: _rescale(arguments, x=2),
                lambda output, arguments: 2 * output - (0 if arguments["bias"] is None else arguments["bias"]),
            ),
            Relation(
                "inputs reversed with the columns of the weight",
                lambda arguments: arguments | {name: _reverse(arguments[name], -1) for name in ("x", "weight")},
                _unchanged,
            ),
        ),
    )
)


@st.composite
def _mlp_arguments(draw: st.DrawFn) -> Arguments:
    widths = draw(st.lists(SIZES, min_size=2, max_size=4))
    return {
        "x": draw(real_arrays((*draw(BATCHES), widths[0]))),
        "layers": [
            Linear(draw(real_arrays((n_outputs, n_inputs))), draw(st.none() | real_arrays((n_outputs,))))
            for n_inputs, n_outputs in itertools.pairwise(widths)
        ],
        "activation": draw(st.sampled_from(sorted(activations.ACTIVATIONS))),
    }


def _reverse_hidden_units(arguments: Arguments) -> Arguments:
    changed = list(arguments["layers"])
    for index in range(len(changed) - 1):
        weight, bias = changed[index]
        changed[index] = Linear(_reverse(weight, 0), None if bias is None else _reverse(bias, 0))
        changed[index + 1] = changed[index + 1]._replace(weight=_reverse(changed[index + 1].weight, 1))
    return arguments | {"layers": changed}


register(
    Spec(
        name="primitives/mlp",
        reference=layers.mlp,
        arguments=_mlp_arguments(),
        vjp=layers.mlp_vjp,
        symbols=lambda: {
            "x": symbols("x", 1, 2),
            "layers": [Linear(symbols("u", 2, 2), symbols("b", 2)), Linear(symbols("v", 1, 2))],
            "activation": "tanh",
        },
        relations=(Relation("hidden units reversed", _reverse_hidden_units, _unchanged),),
    )
)


# --- attention -------------------------------------------------------------------------------------------------------


@st.composite
def _masks(draw: st.DrawFn, shape: tuple[int, ...]) -> Array:
    """A boolean array with at least one True in each row."""
    rng = draw(generators())
    mask = np.asarray(rng.random(shape) < draw(st.sampled_from((0.1, 0.7))))
    np.put_along_axis(mask, rng.integers(shape[-1], size=(*shape[:-1], 1)), True, axis=-1)
    return mask


@st.composite
def _softmax_attention_arguments(draw: st.DrawFn) -> Arguments:
    batch, n_queries, n_keys, d = draw(BATCHES), draw(SIZES), draw(SIZES), draw(SIZES)
    masks = st.none() | _masks((n_queries, n_keys)) | _masks((*batch, 1, n_keys)) | _masks((*batch, n_queries, n_keys))
    if n_queries == n_keys:
        masks = masks | st.just(attention.causal_mask(n_keys))
    return {
        "query": draw(real_arrays((*batch, n_queries, d))),
        "key": draw(real_arrays((*batch, n_keys, d))),
        "value": draw(real_arrays((*batch, n_keys, draw(SIZES)))),
        "mask": draw(masks),
        "scale": draw(st.sampled_from((None, 0.5, -1.0))),
    }


def _reverse_keys(arguments: Arguments) -> Arguments:
    mask = arguments["mask"]
    return arguments | {
        "key": _reverse(arguments["key"], -2),
        "value": _reverse(arguments["value"], -2),
        "mask": None if mask is None else _reverse(mask, -1),
    }


def _shift_keys(arguments: Arguments) -> Arguments:
    """Add one vector to all keys."""
    return arguments | {"key": arguments["key"] + np.arange(arguments["key"].shape[-1]) / 4}


register(
    Spec(
        name="primitives/softmax_attention",
        reference=attention.softmax_attention,
        arguments=_softmax_attention_arguments(),
        vjp=attention.softmax_attention_vjp,
        symbols=lambda: {
            "query": symbols("q", 2, 1),
            "key": symbols("k", 2, 1),
            "value": symbols("v", 2, 1),
            "mask": attention.causal_mask(2),
            "scale": symbols("s").item(),
        },
        relations=(
            Relation("keys reversed with their values and mask", _reverse_keys, _unchanged),
            Relation("one vector added to all keys changes nothing", _shift_keys, _unchanged),
            Relation(
                "values plus 1 give outputs plus 1",
                lambda arguments: arguments | {"value": arguments["value"] + 1},
                lambda output, arguments: output + 1,
            ),
        ),
        mistakes={
            ("constant factor", "scores are not divided by sqrt(d)"): lambda scale=None, **arguments: (
                attention.softmax_attention(**arguments, scale=1.0 if scale is None else scale)
            ),
            ("off by one", "a query sees one key less"): lambda mask=None, **arguments: attention.softmax_attention(
                **arguments, mask=None if mask is None else np.roll(mask, -1, axis=-2)
            ),
        },
    )
)


@st.composite
def _linear_attention_arguments(draw: st.DrawFn) -> Arguments:
    batch, causal, d = draw(BATCHES), draw(st.booleans()), draw(SIZES)
    # Beyond one chunk of tokens, and beyond two.
    n_keys = draw(SIZES | st.sampled_from((attention.CHUNK + 1, 2 * attention.CHUNK + 2)))
    n_queries = n_keys if causal else draw(SIZES)
    return {
        "query": draw(real_arrays((*batch, n_queries, d))),
        "key": draw(real_arrays((*batch, n_keys, d))),
        "value": draw(real_arrays((*batch, n_keys, draw(SIZES)))),
        "causal": causal,
        "key_mask": draw(st.none() | _masks((n_keys,)) | _masks((*batch, n_keys))),
    }


def _reverse_or_cut(arguments: Arguments) -> Arguments:
    """Reverse the keys; where causal, cut off the last third of the tokens instead."""

    def change(x: Any, axis: int) -> Any:
        return _first(x, axis) if arguments["causal"] else _reverse(x, axis)

    mask = arguments["key_mask"]
    changed = {name: change(arguments[name], -2) for name in ("key", "value")}
    if arguments["causal"]:
        changed["query"] = change(arguments["query"], -2)
    return arguments | changed | {"key_mask": None if mask is None else change(mask, -1)}


def _first(x: Any, axis: int) -> Any:
    """The first two thirds."""
    return np.take(x, np.arange(-(-2 * x.shape[axis] // 3)), axis)


register(
    Spec(
        name="primitives/linear_attention",
        reference=attention.linear_attention,
        arguments=_linear_attention_arguments(),
        vjp=attention.linear_attention_vjp,
        symbols=lambda: {
            "query": symbols("q", 3, 1),
            "key": symbols("k", 3, 1),
            "value": symbols("v", 3, 2),
            "causal": True,
            "key_mask": np.array([True, False, True]),
        },
        relations=(
            Relation(
                "queries times 2 with keys over 2 change nothing",
                lambda arguments: _rescale(arguments, query=2, key=0.5),
                _unchanged,
            ),
            Relation(
                "keys reversed with their values and mask change nothing; where causal, nor do later tokens",
                _reverse_or_cut,
                lambda output, arguments: _first(output, -2) if arguments["causal"] else output,
            ),
        ),
    )
)


@st.composite
def _multi_head_attention_arguments(draw: st.DrawFn) -> Arguments:
    batch, n_tokens, d = draw(BATCHES), draw(SIZES), draw(SIZES)
    n_heads, d_head, d_value = (draw(st.sampled_from((1, 2, 3))) for _ in range(3))
    causal = draw(st.booleans())
    mask = draw(st.none() | _masks((n_tokens,)) | _masks((*batch, n_tokens)))
    if mask is not None and causal:
        mask[..., 0] = True
    return {
        "x": draw(real_arrays((*batch, n_tokens, d))),
        "weights": MultiHeadAttention(
            query=draw(real_arrays((n_heads, d_head, d))),
            key=draw(real_arrays((n_heads, d_head, d))),
            value=draw(real_arrays((n_heads, d_value, d))),
            output=draw(real_arrays((n_heads, d, d_value))),
        ),
        "kind": draw(st.sampled_from(("softmax", "linear"))),
        "causal": causal,
        "key_mask": mask,
    }


def _multi_head_attention_symbols() -> Arguments:
    weights = MultiHeadAttention(*(symbols(name, 2, 1, 1) for name in ("q", "k", "v", "o")))
    return {"x": symbols("x", 2, 1), "weights": weights, "kind": "softmax", "causal": True}


register(
    Spec(
        name="primitives/multi_head_attention",
        reference=attention.multi_head_attention,
        arguments=_multi_head_attention_arguments(),
        vjp=attention.multi_head_attention_vjp,
        symbols=_multi_head_attention_symbols,
        relations=(
            Relation(
                "heads reversed",
                lambda arguments: (
                    arguments
                    | {"weights": MultiHeadAttention(*(_reverse(matrix, 0) for matrix in arguments["weights"]))}
                ),
                _unchanged,
            ),
            Relation(
                "queries times 2 with keys over 2 change nothing",
                lambda arguments: (
                    arguments
                    | {"weights": MultiHeadAttention(**_rescale(arguments["weights"]._asdict(), query=2, key=0.5))}
                ),
                _unchanged,
            ),
        ),
    )
)


# --- linear self-attention on columns --------------------------------------------------------------------------------


@st.composite
def _linear_self_attention_arguments(draw: st.DrawFn) -> Arguments:
    d, n_heads = draw(SIZES), draw(st.sampled_from((1, 2, 3)))
    n_tokens = draw(SIZES) + 1
    return {
        "tokens": draw(real_arrays((*draw(BATCHES), d, n_tokens))),
        "weights": LinearAttentionWeights(*(draw(real_arrays((n_heads, d, d))) for _ in range(4))),
        "n_context": draw(st.integers(1, n_tokens - 1)),
        "include_query": draw(st.booleans()),
    }


def _reverse_first(tokens: Any, n: int) -> Any:
    return np.concatenate([_reverse(tokens[..., :n], -1), tokens[..., n:]], axis=-1)


def _context_reversed(count: str) -> Relation:
    """The first ``arguments[count]`` tokens, which alone give keys and values, in reverse."""
    return Relation(
        "context tokens reversed",
        lambda arguments: arguments | {"tokens": _reverse_first(arguments["tokens"], arguments[count])},
        lambda output, arguments: _reverse_first(output, arguments[count]),
    )


register(
    Spec(
        name="primitives/linear_self_attention",
        reference=linear_self_attention.linear_self_attention,
        arguments=_linear_self_attention_arguments(),
        vjp=linear_self_attention.linear_self_attention_vjp,
        symbols=lambda: {
            "tokens": symbols("e", 1, 3),
            "weights": LinearAttentionWeights(*(symbols(name, 2, 1, 1) for name in ("k", "q", "v", "p"))),
            "n_context": 2,
            "include_query": False,
        },
        relations=(
            _context_reversed("n_context"),
            Relation(
                "queries times 2 with keys over 2 change nothing",
                lambda arguments: (
                    arguments
                    | {"weights": LinearAttentionWeights(**_rescale(arguments["weights"]._asdict(), query=2, key=0.5))}
                ),
                _unchanged,
            ),
        ),
    )
)


@st.composite
def _attend_arguments(draw: st.DrawFn) -> Arguments:
    d, n_heads, n_tokens = draw(SIZES), draw(st.sampled_from((1, 2, 3))), draw(SIZES)
    return {
        "tokens": draw(real_arrays((*draw(BATCHES), d, n_tokens))),
        "key_query": draw(real_arrays((n_heads, d, d))),
        "projection_value": draw(real_arrays((n_heads, d, d))),
        "n_keys": draw(st.integers(1, n_tokens)),
    }


register(
    Spec(
        name="primitives/attend",
        reference=linear_self_attention.attend,
        arguments=_attend_arguments(),
        vjp=linear_self_attention.attend_vjp,
        symbols=lambda: {
            "tokens": symbols("e", 2, 2),
            "key_query": symbols("a", 1, 2, 2),
            "projection_value": symbols("b", 1, 2, 2),
            "n_keys": 1,
        },
        relations=(_context_reversed("n_keys"),),
    )
)
