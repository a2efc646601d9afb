"""Honest implementations in PyTorch, as somebody would write them who has the formula and not our code."""

from typing import Any

import torch
from torch.nn import functional

from tests.oracle.honest import Honest

ACTIVATIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "sigmoid": torch.sigmoid,
    # Not functional.softplus, which is the identity from 20 on: off by 2e-9 there, far more than float64 rounds.
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


def layer_norm(x: Any, scale: Any, offset: Any, epsilon: Any) -> Any:
    return functional.layer_norm(x, x.shape[-1:], scale, offset, epsilon)


def linear(x: Any, weight: Any, bias: Any) -> Any:
    return functional.linear(x, weight, bias)


def mlp(x: Any, layers: Any, activation: str) -> Any:
    for index, layer in enumerate(layers):
        x = functional.linear(ACTIVATIONS[activation](x) if index else x, *layer)
    return x


def squared_error(prediction: Any, target: Any) -> Any:
    return functional.mse_loss(prediction, target, reduction="none").sum(-1)


def cross_entropy(logits: Any, labels: Any) -> Any:
    flat = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="none")
    return flat.reshape(labels.shape)


def softmax_attention(query: Any, key: Any, value: Any, mask: Any, scale: Any) -> Any:
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return torch.softmax(scores, dim=-1) @ value


def scaled_dot_product_attention(query: Any, key: Any, value: Any, mask: Any, scale: Any) -> Any:
    return functional.scaled_dot_product_attention(query, key, value, mask, scale=scale)


class Online(torch.autograd.Function):
    """Softmax attention in blocks of keys, and the backward pass that makes the weights again from their logarithms."""

    BLOCK = 2

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any, scale: float) -> Any:
        wide = torch.promote_types(query.dtype, torch.float32)
        rows = (*query.shape[:-1], 1)
        largest = torch.full(rows, -1e30, dtype=wide)
        total, output = torch.zeros(rows, dtype=wide), torch.zeros((*rows[:-1], value.shape[-1]), dtype=wide)
        for start in range(0, key.shape[-2], Online.BLOCK):
            here = slice(start, start + Online.BLOCK)
            scores = (query.to(wide) @ key[..., here, :].to(wide).mT * scale).masked_fill(~mask[..., here], -torch.inf)
            new = torch.maximum(largest, scores.amax(-1, keepdim=True))
            weights, shrink = torch.exp(scores - new), torch.exp(largest - new)
            total = total * shrink + weights.sum(-1, keepdim=True)
            output = output * shrink + weights @ value[..., here, :].to(wide)
            largest = new
        output = (output / total).to(query.dtype)
        ctx.save_for_backward(query, key, value, mask, output, largest + total.log())
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, cotangent: Any) -> Any:
        query, key, value, mask, output, normaliser = ctx.saved_tensors
        wide = normaliser.dtype
        to_output = cotangent.to(wide)
        delta = (to_output * output.to(wide)).sum(-1, keepdim=True)
        scores = (query.to(wide) @ key.to(wide).mT * ctx.scale).masked_fill(~mask, -torch.inf)
        weights = torch.exp(scores - normaliser)
        to_scores = weights * (to_output @ value.to(wide).mT - delta) * ctx.scale
        cotangents = to_scores @ key.to(wide), to_scores.mT @ query.to(wide), weights.mT @ to_output
        return *(x.to(query.dtype) for x in cotangents), None, None


def online_softmax_attention(query: Any, key: Any, value: Any, mask: Any, scale: Any) -> Any:
    shape = (*query.shape[:-1], key.shape[-2])
    seen = torch.ones(shape, dtype=torch.bool) if mask is None else mask.expand(shape)
    return Online.apply(query, key, value, seen, query.shape[-1] ** -0.5 if scale is None else scale)


def linear_attention(query: Any, key: Any, value: Any, causal: Any, key_mask: Any) -> Any:
    scores = query @ key.mT
    if causal:
        scores = scores.tril()
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[..., None, :], 0)
    return scores @ value


def multi_head_attention(x: Any, weights: Any, kind: str, causal: bool, key_mask: Any) -> Any:
    query, key, value = (torch.einsum("...td,hed->...hte", x, w) for w in weights[:3])
    seen = None if key_mask is None else key_mask[..., None, :]
    if kind == "linear":
        heads = linear_attention(query, key, value, causal, seen)
    else:
        mask = torch.ones((x.shape[-2],) * 2, dtype=torch.bool)
        mask = mask.tril() if causal else mask
        heads = softmax_attention(query, key, value, mask if seen is None else mask & seen[..., None, :], None)
    return torch.einsum("...hte,hde->...td", heads, weights.output)


def linear_self_attention(tokens: Any, weights: Any, n_context: int, include_query: bool) -> Any:
    context = tokens if include_query else tokens[..., :n_context]
    update = torch.zeros_like(tokens)
    for key, query, value, projection in zip(*weights, strict=True):
        update = update + projection @ (value @ context) @ ((key @ context).mT @ (query @ tokens))
    return tokens + update


def attend(tokens: Any, key_query: Any, projection_value: Any, n_keys: int) -> Any:
    context = tokens[..., :n_keys]
    heads = [b @ context @ (context.mT @ (a @ tokens)) for a, b in zip(key_query, projection_value, strict=True)]
    return tokens + torch.stack(heads).sum(0)


def stack_forward(tokens: Any, layers: Any, n_context: int, clip: Any, dampening: Any) -> Any:
    for layer in layers:
        tokens = linear_self_attention(
            tokens, layer._replace(projection=dampening * layer.projection), n_context, False
        )
        tokens = tokens if clip is None else tokens.clamp(-clip, clip)
    return tokens


def candidates() -> list[Honest]:
    named = ACTIVATIONS | {
        "softmax": lambda x: torch.softmax(x, -1),
        "log_sum_exp": lambda x: torch.logsumexp(x, -1),
        "layer_norm": layer_norm,
        "squared_error": squared_error,
        "cross_entropy": cross_entropy,
        "linear": linear,
        "mlp": mlp,
        "softmax_attention": softmax_attention,
        "linear_attention": linear_attention,
        "multi_head_attention": multi_head_attention,
        "linear_self_attention": linear_self_attention,
        "attend": attend,
    }
    dtypes = ("float64", "float32", "bfloat16")
    of = "primitives/softmax_attention"
    found = [
        Honest("PyTorch", f"primitives/{name}", function, dtypes, None, "torch") for name, function in named.items()
    ]
    return [
        *found,
        Honest("PyTorch's own attention", of, scaled_dot_product_attention, dtypes, None, "torch"),
        Honest("PyTorch, online softmax", of, online_softmax_attention, dtypes, None, "torch"),
        Honest("PyTorch", "linear_attention/stack_forward", stack_forward, ("float64", "float32"), None, "torch"),
    ]
