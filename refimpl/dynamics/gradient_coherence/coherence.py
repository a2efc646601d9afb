r"""Coherence of gradients, and what follows from it alone.

$$\alpha=\frac{\mathbb E_{z,z'}[g_z\cdot g_{z'}]}{\mathbb E_z[g_z\cdot g_z]}=\frac{\|\mu\|^2}{\mathbb E\|g_z\|^2}.$$

To first order a step along the mean gradient lowers the mean loss by the numerator, and steps that every example could
take alone by the denominator. On a sample the pairs of an example with itself are counted. Gradients of which all are
zero have no coherence.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, transpose


def squared_norm(vectors: Array) -> Array:
    """Of each vector along the last axis; entries that are blocks of a row give that of the row."""
    rows = vectors[..., None, :]
    return np.asanyarray((rows @ transpose(rows))[..., 0, 0])


def _sums(gradients: Array) -> tuple[Array, Array]:
    """The sum of the gradients and the sum of their squared norms; half precision is summed in single."""
    if gradients.dtype == np.float16:
        gradients = gradients.astype(np.float32)
    *batch, n_examples, n_parameters = gradients.shape
    total = (np.ones((1, n_examples), dtype=gradients.dtype) @ gradients)[..., 0, :]
    return total, squared_norm(gradients.reshape(*batch, n_examples * n_parameters))


def _nonzero(squares: Array, name: str = "gradients") -> Array:
    if np.any(np.asanyarray(squares == 0)):
        raise ValueError(f"{name}: expected a gradient whose squared norm is not 0, got none; coherence is undefined")
    return squares


def _check_gradients(gradients: Array) -> None:
    check_shapes(gradients=(gradients, "... m p"))


@checked(_check_gradients)
def coherence(gradients: Array) -> Array:
    r"""$\alpha=\|\bar g\|^2/\overline{\|g_i\|^2}$ of a sample of gradients; in $[0,1]$.

    Around $1/m$ or below it means little: that is what gradients without a mean give.

    Parameters
    ----------
    gradients : array, shape (..., m, p)
        Of single examples in rows, at the same parameters, without a factor 1/m.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If there is no example, an entry is not finite or all gradients are zero.

    Source: the definition of coherence.
    """
    return np.asanyarray(m_coherence.unchecked(gradients) / gradients.shape[-2])


@checked(_check_gradients)
def m_coherence(gradients: Array) -> Array:
    r"""$m\alpha=\|\sum g_i\|^2/\sum\|g_i\|^2$: how many examples a step along one's gradient helps on average.

    It is 1 if the gradients are orthogonal, whatever their norms. Parameters, errors as for :func:`coherence`.
    """
    total, squares = _sums(gradients)
    return np.asanyarray(squared_norm(total) / _nonzero(squares)).astype(gradients.dtype, copy=False)


class CoherenceAccumulator(NamedTuple):
    """Coherence of a stream of gradients: what to keep of those seen, of a size that does not grow with them."""

    total: Array
    """Their sum, shape ``(p,)``."""
    squares: Array
    """The sum of their squared norms."""
    count: Any
    """How many."""

    @classmethod
    def empty(cls, n_parameters: int, dtype: Any = np.float64) -> "CoherenceAccumulator":
        n_parameters = check_integer("n_parameters", n_parameters, 1)
        return cls(np.zeros(n_parameters, dtype), np.zeros((), dtype), 0)

    def update(self, gradients: Array) -> "CoherenceAccumulator":
        """With these gradients, shape ``(m, p)``, too."""
        check_shapes(gradients=(gradients, "m p"), total=(self.total, "p"))
        return self.merge(CoherenceAccumulator(*_sums(gradients), gradients.shape[0]))

    def merge(self, other: "CoherenceAccumulator") -> "CoherenceAccumulator":
        """Of both streams."""
        check_shapes(total=(self.total, "p"), other=(other.total, "p"))
        total, squares = self.total + other.total, self.squares + other.squares
        return CoherenceAccumulator(total, np.asanyarray(squares), self.count + other.count)

    def m_coherence(self) -> Array:
        return np.asanyarray(squared_norm(self.total) / _nonzero(self.squares))

    def coherence(self) -> Array:
        return np.asanyarray(self.m_coherence() / self.count)

    def squared_disagreement(self) -> Array:
        """As :func:`squared_disagreement`."""
        return np.asanyarray(2 * (self.squares / self.count - squared_norm(self.total) / self.count**2))


def streamed_coherence(chunks: Sequence[Array]) -> Array:
    """Coherence of all gradients of these chunks, each of shape (m, p), looked at once.

    Raises
    ------
    ValueError
        If there is no chunk, shapes do not fit, an entry is not finite or all gradients are zero.
    """
    if not len(chunks):
        raise ValueError("chunks: expected at least one, got none")
    check_shapes(**{f"chunks[{index}]": (chunk, f"m_{index} p") for index, chunk in enumerate(chunks)})
    accumulator = CoherenceAccumulator(*_sums(chunks[0]), len(chunks[0]))
    for chunk in chunks[1:]:
        accumulator = accumulator.update(chunk)
    return accumulator.coherence()


def debiased_square_of_mean(square_of_total: Any, squares: Any, n_examples: Any) -> Any:
    r"""$\frac{\|\sum g_i\|^2-\sum\|g_i\|^2}{m(m-1)}$, whose expectation is $\|\mu\|^2$; may be negative.

    Parameters
    ----------
    square_of_total, squares : array
        $\|\sum g_i\|^2$ and $\sum\|g_i\|^2$.
    n_examples : int >= 2

    Raises
    ------
    ValueError
        If there are fewer than two examples.
    """
    n_examples = check_integer("n_examples", n_examples, 2)
    return (square_of_total - squares) / (n_examples * (n_examples - 1))


@checked(_check_gradients)
def coherence_debiased(gradients: Array) -> Array:
    r"""$\alpha_U=\frac{m\alpha-1}{m-1}$: coherence with an unbiased numerator; 0 on average without a mean gradient.

    Parameters, errors as for :func:`coherence`, and ``ValueError`` for fewer than two examples.
    """
    n_examples = check_integer("gradients: the number of examples", gradients.shape[-2], 2)
    total, squares = _sums(gradients)
    debiased = debiased_square_of_mean(squared_norm(total), _nonzero(squares), n_examples)
    return np.asanyarray(debiased * n_examples / squares).astype(gradients.dtype, copy=False)


def minibatch_coherence(alpha: Any, batch_size: Any) -> Any:
    r"""$\alpha_b=\frac{b\alpha}{1+(b-1)\alpha}$: coherence of the means of batches drawn with replacement.

    Parameters
    ----------
    alpha : number in [0, 1]
    batch_size : int >= 1

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: the theorem on mini-batches.
    """
    alpha, batch_size = check_number("alpha", alpha, "[0, 1]"), check_integer("batch_size", batch_size, 1)
    return batch_size * alpha / (1 + (batch_size - 1) * alpha)


def example_coherence(alpha_b: Any, batch_size: Any) -> Any:
    """Coherence of examples from that of batches, the inverse of :func:`minibatch_coherence`; errors as there."""
    alpha_b, batch_size = check_number("alpha_b", alpha_b, "[0, 1]"), check_integer("batch_size", batch_size, 1)
    return alpha_b / (batch_size - (batch_size - 1) * alpha_b)


class LayerCoherence(NamedTuple):
    """Coherence of each block of parameters, and the block's share of the squared norms, which sums to 1."""

    coherences: Array
    """Shape ``(..., n_layers)``."""
    weights: Array
    """Shape ``(..., n_layers)``."""


def layer_coherence(blocks: Sequence[Array]) -> LayerCoherence:
    r"""Coherence by blocks of parameters: $\alpha=\sum_k\pi_k\alpha^{(k)}$.

    Parameters
    ----------
    blocks : sequence of arrays, shapes (..., m, p_k)

    Raises
    ------
    ValueError
        If there is no block, shapes do not fit, an entry is not finite or a block's gradients are all zero.

    Source: the decomposition by layers.
    """
    if not len(blocks):
        raise ValueError("blocks: expected at least one, got none")
    check_shapes(**{f"blocks[{index}]": (block, f"... m p_{index}") for index, block in enumerate(blocks)})
    sums = [_sums(block) for block in blocks]
    squares = np.stack([_nonzero(square, f"blocks[{index}]") for index, (_, square) in enumerate(sums)], axis=-1)
    squares_of_totals = np.stack([squared_norm(total) for total, _ in sums], axis=-1)
    dtype = blocks[0].dtype
    return LayerCoherence(
        (squares_of_totals / (blocks[0].shape[-2] * squares)).astype(dtype, copy=False),
        (squares / squares.sum(axis=-1, keepdims=True)).astype(dtype, copy=False),
    )


def gradient_diversity(gradients: Array) -> Array:
    r"""$\sum\|g_i\|^2/\|\sum g_i\|^2=1/(m\alpha)$; infinite if the gradients cancel.

    Parameters, errors as for :func:`coherence`.
    """
    mean = m_coherence(gradients)
    with np.errstate(divide="ignore"):
        return np.asanyarray(1 / mean)


def signal_to_noise(alpha: Any) -> Any:
    r"""$\|\mu\|^2/S=\alpha/(1-\alpha)$.

    Parameters
    ----------
    alpha : number in [0, 1)

    Raises
    ------
    ValueError
        If it is out of range.
    """
    alpha = check_number("alpha", alpha, "[0, 1)")
    return alpha / (1 - alpha)


@checked(_check_gradients)
def squared_disagreement(gradients: Array) -> Array:
    r"""$\mathbb E_{z,z'}\|g_z-g_{z'}\|^2=2\,\mathbb E\|g_z\|^2(1-\alpha)$, without a look at any pair.

    Parameters
    ----------
    gradients : array, shape (..., m, p)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If there is no example or an entry is not finite.

    Source: the key step of the stability theorem's proof.
    """
    # Centred first: what the norms and the norm of the mean have in common would cancel.
    n_examples = gradients.shape[-2]
    mean = (np.ones((1, n_examples), dtype=gradients.dtype) @ gradients) / n_examples
    _, squares = _sums(gradients - mean)
    return np.asanyarray(2 * squares / n_examples).astype(gradients.dtype, copy=False)
