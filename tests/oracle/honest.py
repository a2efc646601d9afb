"""Honest implementations in NumPy: the same mathematics in another order, in blocks, or with more digits inside."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.oracle.spec import Spec, all_specs
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import leaves, tree_map


class Honest(NamedTuple):
    """An implementation that must pass: of which spec, in which precisions, and its derivative."""

    name: str
    spec: str
    candidate: Callable[..., Any]
    dtypes: tuple[str, ...]
    vjp: Callable[..., Any] | None = None
    framework: str | None = None


# --- made of any reference -------------------------------------------------------------------------------------------


class Reordered(np.ndarray[Any, Any]):
    """Numbers whose sums, and the sums in whose matrix products, run over the terms in another order."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        plain = [_plain(x) for x in inputs]
        if ufunc in (np.matmul, np.vecdot) and method == "__call__" and np.ndim(plain[0]) and np.ndim(plain[1]):
            n = plain[0].shape[-1]
            order = _order(n)
            rows = plain[1][..., order] if ufunc is np.vecdot or plain[1].ndim == 1 else plain[1][..., order, :]
            plain = [plain[0][..., order], rows]
        elif ufunc is np.add and method == "reduce" and isinstance(options.get("axis", 0), int):
            axis = options.get("axis", 0)
            plain = [np.take(plain[0], _order(plain[0].shape[axis]), axis)]
        if out is not None:
            getattr(ufunc, method)(*plain, out=tuple(_plain(x) for x in out), **options)
            return out[0]
        return tree_map(reorder, getattr(ufunc, method)(*plain, **options))


def _order(n: int) -> Array:
    """Odd positions from the end, then even ones from the start."""
    return np.concatenate([np.arange(n)[1::2][::-1], np.arange(n)[::2]])


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, Reordered) else x


def reorder(x: Any) -> Any:
    floating = isinstance(x, np.ndarray | np.generic) and np.issubdtype(x.dtype, np.floating)
    return np.asarray(x).view(Reordered) if floating else x


def through(
    into: Callable[[Any], Any], out_of: Callable[[Any, Any], Any], function: Callable[..., Any]
) -> Callable[..., Any]:
    """The function on converted arrays; what it returns converted back, like the arguments."""

    def candidate(**arguments: Any) -> Any:
        return out_of(function(**tree_map(into, arguments)), arguments)

    return candidate


def through_vjp(
    into: Callable[[Any], Any], out_of: Callable[[Any, Any], Any], vjp: Callable[..., Any]
) -> Callable[..., Any]:
    def candidate(**arguments: Any) -> Any:
        output, pullback = vjp(**tree_map(into, arguments))
        return out_of(output, arguments), lambda cotangent: out_of(pullback(tree_map(into, cotangent)), arguments)

    return candidate


def widen(x: Any) -> Any:
    """Arrays in float64, whatever they were."""
    return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind not in "iub" else x


def narrow(tree: Any, arguments: Any) -> Any:
    """Results rounded, once, to the dtype of the arguments' arrays."""
    arrays = [x for x in leaves(arguments) if isinstance(x, np.ndarray) and x.dtype.kind not in "iub"]
    if not arrays:
        return tree
    return tree_map(lambda x: x.astype(arrays[0].dtype) if isinstance(x, np.ndarray | np.generic) else x, tree)


def _back(tree: Any, arguments: Any) -> Any:
    return tree_map(_plain, tree)


def of_reference(spec: Spec) -> list[Honest]:
    """What can be made of a reference without knowing it: itself, reordered, and computed with more digits."""
    reference, vjp = spec.reference, spec.vjp
    native = tuple(dtype for dtype in spec.dtypes if dtype in ("float64", "float32"))
    short = tuple(dtype for dtype in spec.dtypes if dtype != "float64")
    found = [
        Honest(
            "sums in another order",
            spec.name,
            through(reorder, _back, reference),
            native,
            vjp and through_vjp(reorder, _back, vjp),
        )
    ]
    if short:
        found.append(
            Honest(
                "float64 inside",
                spec.name,
                through(widen, narrow, reference),
                short,
                vjp and through_vjp(widen, narrow, vjp),
            )
        )
    return found


# --- attention in blocks of keys -------------------------------------------------------------------------------------

BLOCK = 3


def flash_attention_vjp(
    query: Array, key: Array, value: Array, mask: Array | None = None, scale: float | None = None
) -> Any:
    """Softmax attention with an online softmax over blocks of keys; the backward pass makes the weights again."""
    factor = query.dtype.type(1 / np.sqrt(query.shape[-1]) if scale is None else scale)
    shape = (*query.shape[:-1], key.shape[-2])
    seen = np.broadcast_to(True if mask is None else mask, shape)
    blocks = [slice(start, start + BLOCK) for start in range(0, key.shape[-2], BLOCK)]
    largest = np.full((*query.shape[:-1], 1), -np.inf, query.dtype)
    total = np.zeros_like(largest)
    output = np.zeros((*query.shape[:-1], value.shape[-1]), query.dtype)

    def scores_of(block: slice) -> Array:
        scores = (query @ np.swapaxes(key[..., block, :], -1, -2)) * factor
        return np.where(seen[..., block], scores, -np.inf).astype(query.dtype)

    for block in blocks:
        scores = scores_of(block)
        new = np.maximum(largest, scores.max(axis=-1, keepdims=True))
        safe = np.where(np.isfinite(new), new, 0)
        weights, shrink = np.exp(scores - safe), np.exp(largest - safe)
        total = total * shrink + weights.sum(axis=-1, keepdims=True)
        output = output * shrink + weights @ value[..., block, :]
        largest = new
    output = output / total
    normaliser = largest + np.log(total)

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        to_query, to_key, to_value = (np.zeros_like(x) for x in (query, key, value))
        delta = (cotangent * output).sum(axis=-1, keepdims=True)
        for block in blocks:
            weights = np.exp(scores_of(block) - normaliser)
            to_value[..., block, :] = np.swapaxes(weights, -1, -2) @ cotangent
            to_scores = weights * (cotangent @ np.swapaxes(value[..., block, :], -1, -2) - delta) * factor
            to_query += to_scores @ key[..., block, :]
            to_key[..., block, :] = np.swapaxes(to_scores, -1, -2) @ query
        return to_query, to_key, to_value

    return output, pullback


def flash_attention(**arguments: Any) -> Any:
    return flash_attention_vjp(**arguments)[0]


def unnormalised_attention_vjp(
    query: Array, key: Array, value: Array, mask: Array | None = None, scale: float | None = None
) -> Any:
    """Softmax attention that divides by the sum last, and scales the scores, not the queries."""
    factor = query.dtype.type(query.shape[-1] ** -0.5 if scale is None else scale)
    scores = (query @ np.swapaxes(key, -1, -2)) * factor
    if mask is not None:
        scores = np.where(mask, scores, query.dtype.type(-1e30))
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    total = exponentials.sum(axis=-1, keepdims=True)

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        weights = exponentials / total
        to_weights = cotangent @ np.swapaxes(value, -1, -2)
        to_scores = weights * (to_weights - (weights * to_weights).sum(axis=-1, keepdims=True)) * factor
        return to_scores @ key, np.swapaxes(to_scores, -1, -2) @ query, np.swapaxes(weights, -1, -2) @ cotangent

    return exponentials @ value / total, pullback


def unnormalised_attention(**arguments: Any) -> Any:
    return unnormalised_attention_vjp(**arguments)[0]


def recurrent_linear_attention(
    query: Array, key: Array, value: Array, causal: bool = False, key_mask: Array | None = None
) -> Array:
    """A token at a time with a running sum of outer products, as at inference."""
    if key_mask is not None:
        key = np.where(key_mask[..., None], key, 0).astype(key.dtype)
    state = np.zeros((*key.shape[:-2], key.shape[-1], value.shape[-1]), key.dtype)
    rows = []
    for t in range(key.shape[-2]):
        state = state + key[..., t, :, None] * value[..., t, None, :]
        rows.append((query[..., None, t, :] @ state)[..., 0, :] if causal else None)
    return np.stack(rows, axis=-2) if causal else query @ state


def quadratic_linear_attention(
    query: Array, key: Array, value: Array, causal: bool = False, key_mask: Array | None = None
) -> Array:
    """With the matrix of scores, which the reference never builds."""
    scores = query @ np.swapaxes(key, -1, -2)
    if causal:
        scores = np.tril(scores)
    if key_mask is not None:
        scores = np.where(key_mask[..., None, :], scores, 0).astype(scores.dtype)
    return scores @ value


def token_by_token(tokens: Array, weights: Any, n_context: int, include_query: bool = False) -> Array:
    """Linear self-attention with keys, queries and values of each token, as the papers write it."""
    context = tokens if include_query else tokens[..., :n_context]
    output = tokens.copy()
    for key, query, value, projection in zip(*weights, strict=True):
        scores = np.swapaxes(key @ context, -1, -2) @ (query @ tokens)
        output += projection @ ((value @ context) @ scores)
    return output


# --- smaller ones ----------------------------------------------------------------------------------------------------


def welford_layer_norm(x: Array, scale: Array | None, offset: Array | None, epsilon: float) -> Array:
    """Mean and variance in one pass."""
    mean, squares = np.zeros_like(x[..., 0]), np.zeros_like(x[..., 0])
    for i in range(x.shape[-1]):
        delta = x[..., i] - mean
        mean = mean + delta / (i + 1)
        squares = squares + delta * (x[..., i] - mean)
    normalized = (x - mean[..., None]) * (1 / np.sqrt(squares / x.shape[-1] + epsilon))[..., None]
    scaled = normalized if scale is None else normalized * scale
    return np.asarray(scaled if offset is None else scaled + offset, x.dtype)


def base_two_softmax(x: Array) -> Array:
    """With the exponential that graphics processors have."""
    scaled = (x - x.max(axis=-1, keepdims=True)) * x.dtype.type(np.log2(np.e))
    powers = np.exp2(scaled)
    return np.asarray(powers * (1 / powers.sum(axis=-1, keepdims=True)))


def in_two_halves(x: Array) -> Array:
    """Log-sum-exp of two halves, merged."""
    halves = [half for half in (x[..., ::2], x[..., 1::2]) if half.shape[-1]]
    parts = [
        half.max(axis=-1) + np.log(np.exp(half - half.max(axis=-1, keepdims=True)).sum(axis=-1)) for half in halves
    ]
    return parts[0] if len(parts) == 1 else np.logaddexp(*parts)


def probability_cross_entropy(logits: Array, labels: Array) -> Array:
    """Log-sum-exp less the label's logit."""
    picked = np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return np.asarray(in_two_halves(logits) - picked)


def by_hand() -> list[Honest]:
    both = ("float64", "float32")
    of = "primitives/"
    return [
        Honest("online softmax over blocks", of + "softmax_attention", flash_attention, both, flash_attention_vjp),
        Honest("divided last", of + "softmax_attention", unnormalised_attention, both, unnormalised_attention_vjp),
        Honest("a token at a time", of + "linear_attention", recurrent_linear_attention, both),
        Honest("with scores", of + "linear_attention", quadratic_linear_attention, both),
        Honest("with scores", of + "linear_self_attention", token_by_token, both),
        Honest("with scores", "linear_attention/linear_self_attention", token_by_token, both),
        Honest("in one pass", of + "layer_norm", welford_layer_norm, both),
        Honest("base two", of + "softmax", base_two_softmax, both),
        Honest("in two halves", of + "log_sum_exp", in_two_halves, both),
        Honest("log-sum-exp less logit", of + "cross_entropy", probability_cross_entropy, both),
    ]


def of_all() -> list[Honest]:
    return [one for spec in all_specs().values() for one in of_reference(spec)]
