"""A head that classifies from demonstrations, in its context or by fine-tuning its keys and values (Section 4.1)."""

from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.dual_form.duality import relaxed_attention_vjp, stand_in
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.losses import cross_entropy_vjp
from refimpl.primitives.numbers import Array, constant, sqrt, transpose


class Head(NamedTuple):
    """The projections of one relaxed attention head on tokens ``[x; y]``; one coordinate of the output a class."""

    value: Array
    """Shape ``(..., n_classes, d)``."""
    key: Array
    """Shape ``(..., d_head, d)``."""
    query: Array
    """Shape ``(..., d_head, d)``."""


class ShotTasks(NamedTuple):
    """Classification tasks: labelled demonstrations and labelled queries, columns."""

    demos: Array
    """Shape ``(n_tasks, n_inputs, n_demos)``."""
    labels: Any
    """Integers, shape ``(n_tasks, n_demos)``."""
    queries: Array
    """Shape ``(n_tasks, n_inputs, n_queries)``."""
    targets: Any
    """Integers, shape ``(n_tasks, n_queries)``."""


class Outputs(NamedTuple):
    """Outputs of a head without and with demonstrations, shape ``(n_tasks, n_queries, n_classes)``."""

    zero_shot: Array
    in_context: Array


def label_logits(hidden: Array, label_embeddings: Array) -> Array:
    r"""$l_j=h\cdot e_{y_j}$: the score of each candidate label.

    Parameters
    ----------
    hidden : array, shape (..., d)
    label_embeddings : array, shape (n_classes, d)

    Returns
    -------
    array, shape (..., n_classes)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: arXiv 2212.10559, Eq. 1.
    """
    check_shapes(hidden=(hidden, "... d"), label_embeddings=(label_embeddings, "n_classes d"))
    return np.asanyarray(hidden @ transpose(label_embeddings))


def sample_shot_tasks(
    n_tasks: int,
    n_demos: int,
    n_queries: int,
    rng: np.random.Generator,
    n_inputs: int = 8,
    n_classes: int = 3,
    spread: float = 1.2,
) -> ShotTasks:
    r"""Mixtures of unit Gaussians with class means $\mathcal N(0,s^2I)$; demonstrations take the classes in turn.

    Parameters
    ----------
    n_tasks, n_demos, n_queries, n_inputs, n_classes : int >= 1
    rng : numpy.random.Generator
    spread : float > 0
        $s$.

    Raises
    ------
    ValueError
        If a size is below 1 or the spread is not positive.
    """
    sizes = {"n_tasks": n_tasks, "n_demos": n_demos, "n_queries": n_queries, "n_inputs": n_inputs}
    sizes["n_classes"] = n_classes
    for name, size in sizes.items():
        check_integer(name, size, 1)
    means = check_number("spread", spread, "(0, inf)") * rng.standard_normal((n_tasks, n_classes, n_inputs))
    labels = np.broadcast_to(np.arange(n_demos) % n_classes, (n_tasks, n_demos))
    targets = rng.integers(n_classes, size=(n_tasks, n_queries))

    def inputs(classes: Any) -> Array:
        centres = np.take_along_axis(means, classes[..., None], axis=1)
        return np.swapaxes(centres + rng.standard_normal(centres.shape), -1, -2)

    return ShotTasks(inputs(labels), labels, inputs(targets), targets)


def constructed_head(
    n_tasks: int, n_inputs: int, n_classes: int, rng: np.random.Generator, noise: float = 0.02
) -> Head:
    r"""A head whose values read the label and whose keys and queries read the input, one a task, with Gaussian noise.

    $W_V=[0,I]+\delta_V$, $W_K=W_Q=[I,0]+\delta_K$.

    Parameters
    ----------
    n_tasks, n_inputs, n_classes : int >= 1
    rng : numpy.random.Generator
    noise : float >= 0
        Standard deviation of the entries of $\delta$.

    Raises
    ------
    ValueError
        If a size is below 1 or the noise is negative.
    """
    for name, size in {"n_tasks": n_tasks, "n_inputs": n_inputs, "n_classes": n_classes}.items():
        check_integer(name, size, 1)
    check_number("noise", noise, "[0, inf)")
    width = n_inputs + n_classes
    value = np.eye(n_classes, width, n_inputs) + noise * rng.standard_normal((n_tasks, n_classes, width))
    key = np.eye(n_inputs, width) + noise * rng.standard_normal((n_tasks, n_inputs, width))
    return Head(value, key, key.copy())


def _query_tokens(inputs: Array, n_classes: int) -> Array:
    """Columns ``[x; 0]``."""
    blank = np.zeros((*inputs.shape[:-2], n_classes, inputs.shape[-1]), dtype=inputs.dtype)
    return np.concatenate([inputs, blank], axis=-2)


def _demo_tokens(inputs: Array, labels: Any, n_classes: int) -> Array:
    r"""Columns $[x;\mathrm{onehot}(y)-1/C]/\sqrt N$."""
    one_hot = (labels[..., None, :] == np.arange(n_classes)[:, None]).astype(int).astype(inputs.dtype)
    centred = one_hot - 1 / constant(n_classes, inputs)
    return np.asanyarray(np.concatenate([inputs, centred], axis=-2) / sqrt(constant(inputs.shape[-1], inputs)))


def _check_inputs(name: str, inputs: Array, head: Head) -> dict[str, Any]:
    sizes = check_shapes(
        **{
            name: (inputs, "... n_inputs n"),
            "head.value": (head.value, "... n_classes d"),
            "head.key": (head.key, "... d_head d"),
            "head.query": (head.query, "... d_head d"),
        }
    )
    width = sizes["n_inputs"] + sizes["n_classes"]
    if sizes["d"] != width:
        raise ValueError(f"head.value: expected d = {width}, inputs and classes, got {sizes['d']}")
    return sizes


def _check_labels(labels: Any, n_columns: int, sizes: dict[str, Any]) -> None:
    cross_entropy_vjp.check(np.zeros((*sizes["..."], n_columns, sizes["n_classes"])), labels)


def _check_outputs(head: Head, tasks: ShotTasks) -> None:
    sizes = _check_inputs("tasks.demos", tasks.demos, head)
    _check_labels(tasks.labels, sizes["n"], sizes)
    _check_inputs("tasks.queries", tasks.queries, head)


@checked(_check_outputs)
def in_context_outputs(head: Head, tasks: ShotTasks) -> Outputs:
    r"""What the head gives each query token $t=[x;0]$ alone, and after the demonstrations.

    The query token attends to itself: $W_Vt\,(W_Kt)^\top W_Qt$.

    Parameters
    ----------
    head : Head
    tasks : ShotTasks

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or a label is no class.
    """
    n_classes = head.value.shape[-2]
    tokens = _query_tokens(tasks.queries, n_classes)
    demos = _demo_tokens(tasks.demos, tasks.labels, n_classes)
    query = head.query @ tokens
    own = ((head.key @ tokens) * query).sum(axis=-2, keepdims=True)
    alone = (head.value @ tokens) * own
    read = (head.value @ demos) @ (transpose(head.key @ demos) @ query)
    return Outputs(transpose(alone), transpose(alone + read))


def _check_finetuning(head: Head, demos: Array, labels: Any, learning_rate: float) -> None:
    _check_labels(labels, demos.shape[-1], _check_inputs("demos", stand_in(demos), head))
    check_number("learning_rate", learning_rate, "[0, inf)")


@checked(_check_finetuning)
def finetune_key_value(head: Head, demos: Array, labels: Any, learning_rate: float) -> Head:
    """One pass over the demonstrations in their order, one step of cross-entropy each, on keys and values only.

    Each demonstration is presented as a query without its label, as at test time; both gradients are taken at the
    same weights.

    Parameters
    ----------
    head : Head
    demos : array, shape (..., n_inputs, n_demos), n_demos >= 0
        Without any the head stays as it is.
    labels : integers, shape (..., n_demos)
    learning_rate : float >= 0

    Returns
    -------
    Head

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a label is no class or the rate is negative.

    Source: arXiv 2212.10559, Section 4.1.
    """
    rate = check_number("learning_rate", learning_rate, "[0, inf)")
    tokens = _query_tokens(demos, head.value.shape[-2])
    queries = head.query @ tokens
    value, key = head.value, head.key
    nothing = tokens[..., :0]
    for i in range(demos.shape[-1]):
        output, pull = relaxed_attention_vjp.unchecked(value, key, nothing, tokens[..., i : i + 1], queries[..., i])
        (to_output,) = cross_entropy_vjp.unchecked(output, labels[..., i])[1](np.ones_like(output[..., 0]))
        to_value, to_key, *_ = pull(to_output)
        value, key = value - rate * to_value, key - rate * to_key
    return head._replace(value=value, key=key)
