r"""Training linear self-attention on prompts: a fast loss-and-gradients step, and meta-training (Section 3, A.12).

Here the tasks of a batch are the *last* axis of every array. The matrices of one task are tiny, those of a batch long
rows, so every contraction is one BLAS or ``einsum`` call over all tasks. And of the last layer only the update of the
query's $y$ entries is ever read. With $z=Ae_q$ and $b$ a row of $B$ that writes one of them,

$$\hat y=-\Big(e_{q,y}+\sum_n(b\,c_n)(c_n^\top z)\Big),$$

which takes $O(ND)$ operations a task, as its gradient does.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.linear_self_attention import LinearAttentionWeights, factor_cotangents
from refimpl.primitives.numbers import Array
from refimpl.primitives.optimizers import Optimizer, adam, chain, clip_by_global_norm
from refimpl.primitives.schedules import cosine_decay
from refimpl.primitives.training import run, training_steps
from refimpl.primitives.trees import tree_map
from refimpl.tasks.linear_regression import RegressionTasks, check_tasks, sample_linear_tasks


class Prompts(NamedTuple):
    """A batch of prompts, tasks last."""

    tokens: Array
    """Context tokens, then the query's: shape ``(n_tokens, D, n_tasks)``."""
    targets: Array
    """What the query's prediction should be: shape ``(n_outputs, n_tasks)``."""


def make_prompts(tasks: RegressionTasks) -> Prompts:
    r"""The tokens $[x_j;y_j]$ and the query $[x_q;0]$ of these tasks, tasks last.

    Raises
    ------
    ValueError
        If the arrays of the tasks do not fit each other, have not one leading axis, or there is no task.
    """
    if len(check_tasks(tasks)["..."]) != 1:
        raise ValueError(f"tasks: expected one leading axis, got {tasks.x.shape[:-2]}")
    n_tasks, n_inputs, n_context = tasks.x.shape
    n_outputs = tasks.y.shape[-2]
    tokens = np.zeros((n_context + 1, n_inputs + n_outputs, n_tasks), dtype=tasks.x.dtype)
    tokens[:-1, :n_inputs] = tasks.x.transpose(2, 1, 0)
    tokens[:-1, n_inputs:] = tasks.y.transpose(2, 1, 0)
    tokens[-1, :n_inputs] = tasks.x_query.T
    return Prompts(tokens, np.ascontiguousarray(tasks.y_query.T))


# --- prediction, loss and gradients ---


def check_read(tokens: Array, layers: Mapping[str, LinearAttentionWeights], n_outputs: int) -> None:
    """Raise ``ValueError`` unless these layers, by the names of their arguments, fit tokens with the tasks last."""
    for layer_name, layer in layers.items():
        sizes = check_shapes(
            tokens=(tokens, "n_tokens D n_tasks"),
            **{f"{layer_name}.{name}": (matrix, "n_heads D D") for name, matrix in layer._asdict().items()},
        )
    if sizes["n_tokens"] < 2:
        raise ValueError(f"tokens: expected a context token and the query, got {sizes['n_tokens']} token")
    check_integer("n_outputs", n_outputs, 1, sizes["D"] - 1)


def _check_predict(
    tokens: Array, layers: Sequence[LinearAttentionWeights], n_outputs: int, clip: float | None = None
) -> None:
    if not isinstance(layers, list | tuple) or not layers:
        raise ValueError(f"layers: expected a list of at least one LinearAttentionWeights, got {layers!r:.80}")
    check_read(tokens, {f"layers[{index}]": layer for index, layer in enumerate(layers)}, n_outputs)
    if clip is not None:
        check_number("clip", clip, "(0, inf)")


@checked(_check_predict)
def predict(
    tokens: Array, layers: Sequence[LinearAttentionWeights], n_outputs: int, clip: float | None = None
) -> Array:
    """The prediction of a stack of layers; the query gives no keys and values.

    Parameters
    ----------
    tokens : array, shape (n_tokens, D, n_tasks)
        The last token is the query's.
    layers : list of LinearAttentionWeights
    n_outputs : int from 1 to D - 1
        That many last entries of a token are its $y$.
    clip : float > 0, optional
        Clip all entries to ``[-clip, clip]`` after every layer; the paper takes 10 beyond two layers.

    Returns
    -------
    array, shape (n_outputs, n_tasks)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or a number is out of range.

    Source: arXiv 2212.07677, Section 3 and Appendix A.12.
    """
    return _forward(tokens, layers, n_outputs, clip)[0]


@checked(_check_predict)
def predict_vjp(
    tokens: Array, layers: Sequence[LinearAttentionWeights], n_outputs: int, clip: float | None = None
) -> tuple[Array, Callable[[Array], tuple[Array, Sequence[LinearAttentionWeights]]]]:
    """:func:`predict` and its pullback ``cotangent -> (tokens, layers)``; a clipped entry passes no gradient."""
    prediction, backward = _forward(tokens, layers, n_outputs, clip)

    def pullback(cotangent: Array) -> tuple[Array, Sequence[LinearAttentionWeights]]:
        to_tokens, to_layers = backward(cotangent, True)
        return to_tokens, type(layers)(to_layers)  # type: ignore[call-arg]

    return prediction, pullback


def check_targets(prompts: Prompts) -> None:
    """Raise ``ValueError`` unless there is a target for each task."""
    check_shapes(tokens=(prompts.tokens, "n_tokens D n_tasks"), targets=(prompts.targets, "n_outputs n_tasks"))


def _check_loss(layers: Sequence[LinearAttentionWeights], prompts: Prompts, clip: float | None = None) -> None:
    check_targets(prompts)
    _check_predict(prompts.tokens, layers, len(prompts.targets), clip)


@checked(_check_loss)
def loss_and_gradients(
    layers: Sequence[LinearAttentionWeights], prompts: Prompts, clip: float | None = None
) -> tuple[Any, list[LinearAttentionWeights]]:
    r"""$\frac1{2B}\sum\lVert\hat y-y_q\rVert^2$ and its gradient in every layer.

    Parameters
    ----------
    layers : list of LinearAttentionWeights
    prompts : Prompts
    clip : float > 0, optional
        As for :func:`predict`.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or `clip` is not positive.

    Source: arXiv 2212.07677, Eq. 5; the factor 1/2 is that of the authors' code and of the paper's figures.
    """
    prediction, backward = _forward(prompts.tokens, layers, len(prompts.targets), clip)
    loss, residual = half_mean_square(prediction, prompts.targets)
    return loss, backward(residual, False)[1]


def _check_looped_loss(
    weights: LinearAttentionWeights, prompts: Prompts, n_layers: int, clip: float | None = None
) -> None:
    _check_loss([weights] * check_integer("n_layers", n_layers, 1), prompts, clip)


@checked(_check_looped_loss)
def looped_loss_and_gradients(
    weights: LinearAttentionWeights, prompts: Prompts, n_layers: int, clip: float | None = None
) -> tuple[Any, LinearAttentionWeights]:
    """:func:`loss_and_gradients` of one layer repeated: the gradients of the repetitions add up."""
    loss, gradients = loss_and_gradients.unchecked([weights] * n_layers, prompts, clip)
    return loss, tree_map(lambda *each: sum(each[1:], each[0]), *gradients)


def half_mean_square(prediction: Array, targets: Array) -> tuple[Any, Array]:
    """The loss, and its gradient in the prediction."""
    n_tasks = targets.shape[-1]
    residual = prediction - targets
    return np.vdot(residual, residual) / (2 * n_tasks), residual / n_tasks


LayerPullback = Callable[[Array, bool], tuple[Any, Any]]
"""``(cotangent, wants_tokens) -> (tokens or None, weights)``: training needs no gradient in the prompts."""


def _forward(
    tokens: Array, layers: Sequence[LinearAttentionWeights], n_outputs: int, clip: float | None
) -> tuple[Array, LayerPullback]:
    backwards = []
    for layer in layers[:-1]:
        tokens, backward = _clipped(*_attend(tokens, layer), clip)
        backwards.append(backward)
    prediction, backward = _clipped(*read_query(tokens, layers[-1], n_outputs), clip)
    backwards.append(backward)

    def through_all(cotangent: Array, wants_tokens: bool) -> tuple[Any, list[LinearAttentionWeights]]:
        to_layers = []
        for index in reversed(range(len(layers))):
            cotangent, to_layer = backwards[index](cotangent, wants_tokens or index > 0)
            to_layers.append(to_layer)
        return cotangent, to_layers[::-1]

    return prediction, through_all


def _clipped(output: Array, backward: LayerPullback, clip: float | None) -> tuple[Array, LayerPullback]:
    if clip is None:
        return output, backward
    inside = np.abs(output) < clip
    return np.clip(output, -clip, clip), lambda cotangent, wants_tokens: backward(cotangent * inside, wants_tokens)


def _as_they_are(scores: Array) -> tuple[Array, Callable[[Array], Array]]:
    return scores, lambda cotangent: cotangent


def read_query(
    tokens: Array,
    weights: LinearAttentionWeights,
    n_outputs: int,
    attention_vjp: Callable[[Array], tuple[Array, Callable[[Array], Array]]] = _as_they_are,
) -> tuple[Array, LayerPullback]:
    """One layer, of which only the query's prediction is wanted; `attention_vjp` acts on the scores, context first.

    Arguments unchecked. Axes: n context tokens, h heads, o outputs, d token entries, b tasks.
    """
    context, query = tokens[:-1], tokens[-1]
    n_heads, size, _ = weights.key.shape
    a = weights.key_query.reshape(n_heads * size, size)
    rows = (weights.projection[:, -n_outputs:] @ weights.value).reshape(n_heads * n_outputs, size)
    by_output = (len(context), n_heads, n_outputs, -1)

    z = (a @ query).reshape(n_heads, size, -1)
    attention, pull_scores = attention_vjp(np.einsum("ndb,hdb->nhb", context, z))
    values = (rows @ context).reshape(by_output)
    prediction = -query[-n_outputs:] - np.einsum("nhb,nhob->ob", attention, values)

    def backward(cotangent: Array, wants_tokens: bool) -> tuple[Any, LinearAttentionWeights]:
        to_update = -cotangent
        to_values = (attention[:, :, None] * to_update).reshape(len(context), len(rows), -1)
        to_scores = pull_scores(np.einsum("nhob,ob->nhb", values, to_update))
        to_z = np.einsum("ndb,nhb->hdb", context, to_scores)
        to_rows = (to_values @ context.swapaxes(-1, -2)).sum(axis=0).reshape(n_heads, n_outputs, size)
        to_projection = np.zeros_like(weights.projection)
        to_projection[:, -n_outputs:] = to_rows @ weights.value.swapaxes(-1, -2)
        to_a = to_z @ query.T
        to_weights = LinearAttentionWeights(
            key=weights.query @ to_a.swapaxes(-1, -2),
            query=weights.key @ to_a,
            value=weights.projection[:, -n_outputs:].swapaxes(-1, -2) @ to_rows,
            projection=to_projection,
        )
        if not wants_tokens:
            return None, to_weights
        to_tokens = np.empty_like(tokens)
        to_tokens[:-1] = np.einsum("hdb,nhb->ndb", z, to_scores)
        to_tokens[:-1] += np.einsum("rd,nrb->ndb", rows, to_values)
        to_tokens[-1] = a.T @ to_z.reshape(n_heads * size, -1)
        to_tokens[-1, -n_outputs:] += to_update
        return to_tokens, to_weights

    return prediction, backward


def _attend(tokens: Array, weights: LinearAttentionWeights) -> tuple[Array, LayerPullback]:
    """One layer on all tokens; axes as in :func:`read_query`, and t all tokens, e token entries."""
    context = tokens[:-1]
    a, b = weights.key_query[:, None], weights.projection_value[:, None]
    gram = np.einsum("ndb,neb->deb", context, context)
    z = a @ tokens
    u = np.einsum("deb,hteb->htdb", gram, z)
    output = tokens + (b @ u).sum(axis=0)

    def backward(cotangent: Array, wants_tokens: bool) -> tuple[Any, LinearAttentionWeights]:
        to_u = b.swapaxes(-1, -2) @ cotangent
        to_z = np.einsum("deb,htdb->hteb", gram, to_u)
        to_a = (to_z @ tokens.swapaxes(-1, -2)).sum(axis=1)
        to_b = (cotangent @ u.swapaxes(-1, -2)).sum(axis=1)
        to_weights = factor_cotangents(weights, to_a, to_b)
        if not wants_tokens:
            return None, to_weights
        to_gram = np.einsum("htdb,hteb->deb", to_u, z)
        to_gram = to_gram + to_gram.swapaxes(0, 1)
        to_tokens = cotangent + (a.swapaxes(-1, -2) @ to_z).sum(axis=0)
        to_tokens[:-1] += np.einsum("deb,neb->ndb", to_gram, context)
        return to_tokens, to_weights

    return output, backward


# --- meta-training ---


def text_deviation(n_layers: int) -> float:
    """The standard deviation of the initial weights that the paper's text gives: 0.002 over the depth.

    Source: arXiv 2212.07677, Appendix A.12.
    """
    return 0.002 / check_integer("n_layers", n_layers, 1)


def code_deviation(n_layers: int, token_size: int) -> float:
    r"""That of the authors' code, $\sqrt{0.002/(KD)}$: there 0.002 over the depth is the scale of the *variance*.

    Source: ``init_scale`` of the authors' code, passed to Haiku's ``VarianceScaling``.
    """
    return float(np.sqrt(text_deviation(n_layers) / check_integer("token_size", token_size, 1)))


def initial_weights(
    token_size: int, n_heads: int, standard_deviation: float, rng: np.random.Generator, dtype: Any = np.float64
) -> LinearAttentionWeights:
    """The weights of one layer before training: normal, truncated at twice the standard deviation.

    Parameters
    ----------
    token_size, n_heads : int >= 1
    standard_deviation : float > 0
        Before truncation, which leaves 0.88 of it.
    rng : numpy.random.Generator
    dtype : float64 or float32

    Raises
    ------
    ValueError
        If a size is below 1 or the deviation is not positive.

    Source: arXiv 2212.07677, Appendix A.12.
    """
    shape = (4, check_integer("n_heads", n_heads, 1), check_integer("token_size", token_size, 1), token_size)
    deviation = check_number("standard_deviation", standard_deviation, "(0, inf)")
    values = rng.standard_normal(shape, dtype=dtype)
    while np.any(outside := np.abs(values) > 2):
        values[outside] = rng.standard_normal(np.count_nonzero(outside), dtype=dtype)
    return LinearAttentionWeights(*(values * deviation))


class MetaTraining(NamedTuple):
    """A meta-training run. The defaults train one layer at the paper's task sizes in about a second on one core."""

    n_inputs: int = 10
    n_context: int = 10
    input_scale: float = 0.5
    n_layers: int = 1
    looped: bool = False
    """One layer repeated; else each layer has its own weights."""
    n_heads: int = 1
    batch_size: int = 512
    n_steps: int = 2000
    learning_rate: float = 3e-3
    """Adam's at the start; it falls to zero along half a cosine."""
    clip_norm: float = 10.0
    """Of the global norm of the gradient."""
    token_clip: float | None = None
    """Of the entries of the tokens after every layer; the paper takes 10 beyond two layers."""
    standard_deviation: float | None = None
    """Of the initial weights; None for :func:`text_deviation`."""


class Trained(NamedTuple):
    """The layers, as many as the depth, and the loss of each step's batch before the step."""

    layers: list[LinearAttentionWeights]
    losses: Array


def meta_optimizer(settings: MetaTraining) -> Optimizer:
    """Adam with the decay and the clipping of these settings."""
    decayed = cosine_decay(settings.learning_rate, settings.n_steps)
    return chain(clip_by_global_norm(settings.clip_norm), adam(decayed))


def train_lsa(settings: MetaTraining, rng: np.random.Generator, sample: Callable[[], Prompts] | None = None) -> Trained:
    r"""Meta-train linear self-attention in float32 on fresh tasks, or on what `sample` returns, with one output.

    Parameters
    ----------
    settings : MetaTraining
    rng : numpy.random.Generator
    sample : function of no arguments, optional
        Returns the batch of a step; by default ``sample_linear_tasks`` at the settings' sizes.

    Returns
    -------
    Trained

    Raises
    ------
    ValueError
        If a setting is out of range.

    Source: arXiv 2212.07677, Eq. 5 and Appendix A.12.
    """
    size = check_integer("n_inputs", settings.n_inputs, 1) + 1
    n_layers = check_integer("n_layers", settings.n_layers, 1)
    check_integer("n_steps", settings.n_steps, 1)
    given = settings.standard_deviation
    deviation = text_deviation(n_layers) if given is None else given

    def start() -> LinearAttentionWeights:
        return initial_weights(size, settings.n_heads, deviation, rng, np.float32)

    def fresh() -> Prompts:
        sizes = settings.batch_size, settings.n_inputs, settings.n_context
        return make_prompts(sample_linear_tasks(*sizes, settings.input_scale, 1.0, rng, dtype=np.float32))

    clip, optimizer = settings.token_clip, meta_optimizer(settings)
    if settings.looped:

        def looped(weights: LinearAttentionWeights, batch: Prompts) -> tuple[Any, LinearAttentionWeights]:
            return looped_loss_and_gradients.unchecked(weights, batch, n_layers, clip)

        weights, losses = run(training_steps(start(), looped, sample or fresh, optimizer), settings.n_steps)
        return Trained([weights] * n_layers, losses)

    def untied(layers: list[LinearAttentionWeights], batch: Prompts) -> tuple[Any, list[LinearAttentionWeights]]:
        return loss_and_gradients.unchecked(layers, batch, clip)

    begin = [start() for _ in range(n_layers)]
    return Trained(*run(training_steps(begin, untied, sample or fresh, optimizer), settings.n_steps))
