"""Mistakes written by hand, as people make them, each with what the oracle has to find and, if covered, to name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from refimpl.oracle.spec import find_spec
from refimpl.primitives import activations, attention, layers, linear_self_attention, losses, normalization
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import tree_map


class Plant(NamedTuple):
    """A wrong implementation: the finding it must cause and the diagnosis it should get, if it is of a kind covered."""

    name: str
    spec: str
    candidate: Callable[..., Any]
    diagnosis: str | None = None
    finding: str | None = None
    dtype: str = "float32"
    vjp: Callable[..., Any] | None = None


def _softmax(x: Array, axis: int = -1) -> Array:
    weights = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(weights / weights.sum(axis=axis, keepdims=True))


def _scores(query: Array, key: Array, mask: Array | None, scale: float | None) -> Array:
    factor = query.dtype.type(query.shape[-1] ** -0.5 if scale is None else scale)
    scores = query @ np.swapaxes(key, -1, -2) * factor
    return scores if mask is None else np.where(mask, scores, -np.inf).astype(scores.dtype)


def _attention(weights: Callable[[Array], Array], **changes: Any) -> Callable[..., Array]:
    def candidate(query: Any, key: Any, value: Any, mask: Any, scale: Any) -> Array:
        return weights(_scores(query, key, changes.get("mask", mask), scale)) @ value

    return candidate


def _in(dtype: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Each argument and the result rounded to a lower precision on the way."""

    def rounded(x: Any) -> Any:
        return x.astype(dtype).astype(x.dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

    return lambda **arguments: tree_map(rounded, function(**tree_map(rounded, arguments)))


def _unscaled(query: Array, key: Array, value: Array, mask: Any, scale: Any) -> Array:
    return attention.softmax_attention(query, key, value, mask, 1.0 if scale is None else scale)


def _by_d(query: Array, key: Array, value: Array, mask: Any, scale: Any) -> Array:
    return attention.softmax_attention(query, key, value, mask, 1 / query.shape[-1] if scale is None else scale)


def _exponential_without_shift(scores: Array) -> Array:
    weights = np.exp(8 * scores) ** np.float32(0.125)
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _strictly_causal(query: Array, key: Array, value: Array, causal: bool, key_mask: Any) -> Array:
    scores = query @ np.swapaxes(key, -1, -2)
    scores = np.tril(scores, -1) if causal else scores
    if key_mask is not None:
        scores = np.where(key_mask[..., None, :], scores, 0).astype(scores.dtype)
    return scores @ value


def _linear_attention_ignoring(**fixed: Any) -> Callable[..., Array]:
    return lambda **arguments: attention.linear_attention(**arguments | fixed)


def _averaged_linear_attention(**arguments: Any) -> Array:
    output = attention.linear_attention(**arguments)
    return output / output.dtype.type(arguments["key"].shape[-2])


def _layer_norm(
    *, sample: bool = False, outside: bool = False, centre: bool = True, without: str = ""
) -> Callable[..., Array]:
    def candidate(x: Array, scale: Any, offset: Any, epsilon: float) -> Array:
        n = x.shape[-1]
        centred = x - x.mean(axis=-1, keepdims=True) if centre else x
        variance = (centred * centred).sum(axis=-1, keepdims=True) / (max(n - 1, 1) if sample else n)
        epsilon = 0 if without == "epsilon" else epsilon
        deviation = np.sqrt(variance) + epsilon if outside else np.sqrt(variance + epsilon)
        normalized = centred / np.maximum(deviation, np.finfo(x.dtype).tiny)
        if scale is not None and without != "scale":
            normalized = normalized * scale
        return np.asarray(normalized + offset if offset is not None and without != "offset" else normalized, x.dtype)

    return candidate


def _one_pass_layer_norm(x: Array, scale: Any, offset: Any, epsilon: float) -> Array:
    """The mean of squares less the square of the mean: cancels where the mean is large."""
    mean, squares = x.mean(axis=-1, keepdims=True), (x * x).mean(axis=-1, keepdims=True)
    normalized = (x - mean) / np.sqrt(np.maximum(squares - mean * mean, 0) + x.dtype.type(epsilon))
    scaled = normalized if scale is None else normalized * scale
    return np.asarray(scaled if offset is None else scaled + offset, x.dtype)


def _linear_vjp(
    *, last_only: bool = False, mean: bool = False, zero: bool = False, half: bool = False, swap: bool = False
) -> Callable[..., Any]:
    def vjp(**arguments: Any) -> Any:
        output, pullback = layers.linear_vjp(**arguments)

        def wrong(cotangent: Array) -> Any:
            to_x, to_weight, *to_bias = pullback(cotangent)
            rows = cotangent.reshape(-1, cotangent.shape[-1])
            if last_only and to_bias:
                to_bias = [rows[-1]]
            if mean and to_bias:
                to_bias = [to_bias[0] / rows.dtype.type(len(rows))]
            if zero:
                to_weight = np.zeros_like(to_weight)
            if half:
                to_x = to_x / 2
            if swap and to_x.shape == to_weight.shape:
                to_x, to_weight = to_weight, to_x
            return to_x, to_weight, *to_bias

        return output, wrong

    return vjp


def _activated_last(x: Array, layers: Any, activation: str) -> Array:
    function = activations.ACTIVATIONS[activation].function
    from refimpl.primitives.layers import mlp

    return function(mlp(x, layers, activation))


def _without_biases(x: Array, layers: Any, activation: str) -> Array:
    from refimpl.primitives.layers import mlp

    return mlp(x, [layer._replace(bias=None) for layer in layers], activation)


def _activated_first(x: Array, layers: Any, activation: str) -> Array:
    from refimpl.primitives.layers import mlp

    return mlp(activations.ACTIVATIONS[activation].function(x), layers, activation)


def _no_residual(**arguments: Any) -> Array:
    return linear_self_attention.linear_self_attention(**arguments) - arguments["tokens"]


def _twice(**arguments: Any) -> Array:
    once = linear_self_attention.linear_self_attention(**arguments)
    return linear_self_attention.linear_self_attention(**arguments | {"tokens": once})


def _with_weights(change: Callable[[Any], Any]) -> Callable[..., Array]:
    return lambda weights, **rest: linear_self_attention.linear_self_attention(weights=change(weights), **rest)


def _context(step: int) -> Callable[..., Array]:
    def candidate(tokens: Array, weights: Any, n_context: int, include_query: bool) -> Array:
        n_keys = tokens.shape[-1] if include_query else max(n_context + step, 0)
        return linear_self_attention.attend(tokens, weights.key_query, weights.projection_value, n_keys)

    return candidate


def _heads(weights: Any, head: int = 0) -> Any:
    return type(weights)(*(matrix[head : head + 1] for matrix in weights))


def _with_attention(change: Callable[[Any], Any]) -> Callable[..., Array]:
    return lambda weights, **rest: attention.multi_head_attention(weights=change(weights), **rest)


def _head_averaged(weights: Any, **rest: Any) -> Array:
    return attention.multi_head_attention(weights=weights, **rest) / len(weights.query)


def _of(name: str, change: Callable[[Array], Any]) -> Callable[..., Any]:
    """The reference with its output changed."""
    return lambda **arguments: change(find_spec(name).reference(**arguments))


def _with(name: str, **change: Callable[[Any], Any]) -> Callable[..., Any]:
    """The reference with arguments changed."""
    return lambda **arguments: find_spec(name).reference(
        **arguments | {key: function(arguments[key]) for key, function in change.items()}
    )


class _Drifting:
    """Returns something else each time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Array) -> Array:
        self.calls += 1
        return np.asarray(normalization.softmax(x) * x.dtype.type(1 + 1e-3 * self.calls))


def _in_place_softmax(x: Array) -> Array:
    x -= x.max(axis=-1, keepdims=True) + 1
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x.copy()


def _negative_relu_slope(x: Array) -> Array:
    return np.where(x > 0, x, x / 100).astype(x.dtype)


def _relu_vjp_of_ones(x: Array) -> Any:
    return activations.relu(x), lambda cotangent: (cotangent,)


def _torch_softplus(x: Array) -> Array:
    """The identity from 20 on, as PyTorch's default has it."""
    return np.where(x > 20, x, np.logaddexp(np.minimum(x, 20), 0)).astype(x.dtype)


def _smoothed_labels(logits: Array, labels: Array) -> Array:
    mean = normalization.log_sum_exp(logits) - logits.mean(axis=-1)
    return np.asarray(0.9 * losses.cross_entropy(logits, labels) + 0.1 * mean).astype(logits.dtype)


def by_hand() -> list[Plant]:
    one = "primitives/"
    soft, line, multi = one + "softmax_attention", one + "linear_attention", one + "multi_head_attention"
    norm, lsa, dense, perceptron = one + "layer_norm", one + "linear_self_attention", one + "linear", one + "mlp"
    square, entropy, softmax = one + "squared_error", one + "cross_entropy", one + "softmax"
    return [
        # softmax attention
        Plant("scores not divided by sqrt(d)", soft, _unscaled, "constant factor"),
        Plant("scores divided by d", soft, _by_d),
        Plant("scale forgotten", soft, _with(soft, scale=lambda scale: None), "ignored argument"),
        Plant("mask forgotten", soft, _with(soft, mask=lambda mask: None), "mask"),
        Plant(
            "mask shifted by one query",
            soft,
            _with(soft, mask=lambda mask: None if mask is None else np.roll(mask, -1, axis=-2)),
            "off by one",
        ),
        Plant("softmax over the queries", soft, _attention(lambda scores: np.nan_to_num(_softmax(scores, -2)))),
        Plant("exponentials overflow", soft, _attention(_exponential_without_shift), None, "non-finite"),
        Plant("not divided by their sum", soft, _attention(lambda s: np.exp(s - s.max(axis=-1, keepdims=True)))),
        Plant("weights in half precision", soft, _attention(lambda s: _softmax(s).astype(np.float16).astype(s.dtype)),
              "low precision"),
        Plant("query and key swapped", soft, lambda query, key, **rest: find_spec(soft).reference(
            **({"query": key, "key": query} if query.shape == key.shape else {"query": query, "key": key}) | rest),
            "swapped arguments"),
        Plant("keys of the wrong sign", soft, _with(soft, key=np.negative), "sign"),
        Plant("output of the wrong sign", soft, _of(soft, np.negative), "sign"),
        # linear attention
        Plant("a token does not see itself", line, _strictly_causal),
        Plant("causality forgotten", line, _linear_attention_ignoring(causal=False), "mask"),
        Plant("key mask forgotten", line, _linear_attention_ignoring(key_mask=None), "mask"),
        Plant("divided by the number of tokens", line, _averaged_linear_attention, "constant factor"),
        Plant("in half precision's digits", line, _in(np.float16, find_spec(line).reference), "low precision"),
        # multi-head attention
        Plant("only the first head", multi, _with_attention(_heads)),
        Plant("mean over heads", multi, _head_averaged, "constant factor"),
        Plant("causality forgotten", multi, _with(multi, causal=lambda causal: False), "mask"),
        Plant("queries and keys swapped", multi, _with_attention(lambda w: w._replace(query=w.key, key=w.query)),
              "swapped arguments"),
        # layer normalisation
        Plant("sample variance", norm, _layer_norm(sample=True)),
        Plant("epsilon outside the root", norm, _layer_norm(outside=True)),
        Plant("epsilon forgotten", norm, _layer_norm(without="epsilon")),
        Plant("scale forgotten", norm, _layer_norm(without="scale"), "ignored argument"),
        Plant("offset forgotten", norm, _layer_norm(without="offset"), "missing term"),
        Plant("not centred", norm, _layer_norm(centre=False)),
        # softmax, log-sum-exp, losses
        Plant("over the other axis", softmax, lambda x: _softmax(x, -2 if x.ndim > 1 else -1), "axis"),
        Plant("its logarithm", softmax, lambda x: np.log(np.maximum(normalization.softmax(x), np.finfo(x.dtype).tiny))),
        Plant("mean, not sum", one + "log_sum_exp", lambda x: normalization.log_sum_exp(x) - np.log(x.shape[-1])
              .astype(x.dtype)),
        Plant("one half in front", square, _of(square, lambda x: x / 2), "constant factor"),
        Plant("mean over outputs", square, lambda prediction, target: losses.squared_error(prediction, target)
              / prediction.dtype.type(prediction.shape[-1]), "constant factor"),
        Plant("absolute, not squared", square, lambda prediction, target: np.abs(prediction - target).sum(axis=-1)),
        Plant("wrong sign", entropy, _of(entropy, np.negative), "sign"),
        Plant("in bits", entropy, _of(entropy, lambda x: x / x.dtype.type(np.log(2))), "constant factor"),
        Plant("labels off by one", entropy, lambda logits, labels: losses.cross_entropy(
            logits, (labels + 1) % logits.shape[-1])),
        Plant("smoothed labels", entropy, _smoothed_labels),
        # layers
        Plant("bias forgotten", dense, _with(dense, bias=lambda bias: None), "missing term"),
        Plant("weight transposed where it is square", dense, _with(dense, weight=lambda w: w.T.copy() if len(w) ==
              w.shape[1] else w), "transposition"),
        Plant("gradient of the bias from the last row", dense, layers.linear, vjp=_linear_vjp(last_only=True)),
        Plant("gradient of the bias a mean", dense, layers.linear, "constant factor", vjp=_linear_vjp(mean=True)),
        Plant("gradient of the weight missing", dense, layers.linear, "missing gradient", vjp=_linear_vjp(zero=True)),
        Plant("gradient of the input halved", dense, layers.linear, "constant factor", vjp=_linear_vjp(half=True)),
        Plant("gradients swapped where they fit", dense, layers.linear, "swapped gradients",
              vjp=_linear_vjp(swap=True)),
        Plant("activation after the last layer", perceptron, _activated_last),
        Plant("activation before the first layer", perceptron, _activated_first),
        Plant("no biases", perceptron, _without_biases),
        Plant("leaky", one + "relu", _negative_relu_slope),
        Plant("gradient passes everywhere", one + "relu", activations.relu, vjp=_relu_vjp_of_ones),
        Plant("by the hyperbolic tangent", one + "gelu", _of(one + "gelu_tanh", lambda x: x)),
        Plant("clipped line", one + "sigmoid", lambda x: np.clip(x / 6 + x.dtype.type(0.5), 0, 1)),
        Plant("identity from 20 on", one + "softplus", _torch_softplus, dtype="float64"),
        Plant("in single precision", one + "erf", lambda x: special.erf(x.astype(np.float32)).astype(x.dtype),
              "low precision", dtype="float64"),
        # linear self-attention
        Plant("no residual connection", lsa, _no_residual, "missing residual"),
        Plant("applied twice", lsa, _twice, "double application"),
        Plant("queries and keys swapped", lsa, _with_weights(lambda w: w._replace(key=w.query, query=w.key)),
              "swapped arguments"),
        Plant("projection transposed", lsa, _with_weights(
            lambda w: w._replace(projection=np.swapaxes(w.projection, -1, -2).copy())), "transposition"),
        Plant("one context token too few", lsa, _context(-1)),
        Plant("the query attends to itself", lsa, _context(1)),
        Plant("include_query ignored", lsa, _with(lsa, include_query=lambda flag: False), "flag"),
        Plant("only the first head", lsa, _with_weights(_heads)),
        # not about values
        Plant("changes its input", softmax, _in_place_softmax, None, "mutation"),
        Plant("another value each time", softmax, _Drifting(), None, "non-deterministic"),
        Plant("keeps the summed axis", one + "log_sum_exp", lambda x: normalization.log_sum_exp(x)[..., None], None,
              "wrong shape"),
        Plant("single precision out", one + "tanh", lambda x: np.tanh(x).astype(np.float32), None, "wrong dtype",
              "float64"),
        Plant("two results", one + "tanh", lambda x: (np.tanh(x), x), None, "wrong structure"),
        Plant("complex", one + "tanh", lambda x: np.tanh(x + 0j), None, "wrong type"),
        Plant("fails on three axes", softmax, lambda x: normalization.softmax(x) if x.ndim < 3 else x[0, 0, 0, 0, 0],
              None, "exception"),
    ]  # fmt: skip
