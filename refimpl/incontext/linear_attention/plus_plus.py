r"""GD++: deeper layers also transform the inputs, which corrects the curvature of the inner loss (Appendix A.10)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.linear_attention.descent import apply_linear, check_rates
from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.linear_self_attention import LinearAttentionWeights, gradient_descent_weights
from refimpl.primitives.numbers import Array, common_dtype, transpose

# --- the construction ---


def gd_plus_plus_weights(
    n_inputs: int,
    n_outputs: int,
    learning_rate: Any,
    gamma: Any,
    n_context: int,
    initial_weights: Array | None = None,
) -> LinearAttentionWeights:
    r"""Weights of a layer with $x_j\leftarrow(I-\gamma XX^\top)x_j$ and, at once, $y_j\leftarrow y_j-\Delta Wx_j$.

    $$W_V=\begin{pmatrix}I&0\\W_0&-I\end{pmatrix},\quad P=\begin{pmatrix}-\gamma I&0\\0&\frac\eta NI\end{pmatrix}$$

    and $W_K,W_Q$ as in :func:`gradient_descent_weights`. $\gamma$ multiplies the sum $XX^\top$, not the mean.

    Parameters
    ----------
    n_inputs, n_outputs, n_context : int >= 1
    learning_rate : number > 0
    gamma : number >= 0
    initial_weights : array, shape (n_outputs, n_inputs), optional
        $W_0$ in the values. Stacking such layers is exact only for zeros: the next layer would apply $W_0$ to inputs
        that have changed. To start elsewhere, keep zeros here and give tokens $y_j-W_0x_j$.

    Returns
    -------
    LinearAttentionWeights with one head

    Raises
    ------
    ValueError
        If a size is below 1, a number is out of range, or $W_0$ has another shape.

    Source: arXiv 2212.07677, Eq. 23.
    """
    gamma = check_number("gamma", gamma, "[0, inf)")
    weights = gradient_descent_weights(n_inputs, n_outputs, learning_rate, n_context, initial_weights)
    on_x = weights.key
    projection = weights.projection - weights.projection @ on_x - gamma * on_x
    return weights._replace(value=weights.value + on_x, projection=projection)


class PlusPlusState(NamedTuple):
    r"""What $k$ GD++ layers have done: context tokens are $[Q_kx_j;\,y_j-W_kx_j]$, the query $[Q_kx_q;\,-W_kx_q]$."""

    weights: Array
    """$W_k$, shape ``(..., n_outputs, n_inputs)``."""
    transform: Array
    """$Q_k$, shape ``(..., n_inputs, n_inputs)``: a polynomial in $XX^\\top$, hence symmetric."""


def gd_plus_plus_step(state: PlusPlusState, x: Array, y: Array, learning_rate: Any, gamma: Any) -> PlusPlusState:
    r"""One GD++ layer on the original inputs: gradient descent with the preconditioner $Q_k^2=Q_k^\top Q_k$.

    $$W_{k+1}=W_k+\tfrac\eta N(Y-W_kX)X^\top Q_k^2,\qquad Q_{k+1}=(I-\gamma X_kX_k^\top)Q_k,\quad X_k=Q_kX.$$

    Arguments unchecked; `x` and `y` as for :func:`gd_plus_plus_predict`.

    Source: arXiv 2212.07677, Appendix A.10 (the recursion is the closed form of stacking Eq. 23 with $W_0=0$).
    """
    weights, transform = state
    residual = y - weights @ x
    transformed = transform @ x
    # Written as Q'Q the step needs no symmetry of Q to be what the layer does.
    gradient = (residual @ transpose(transformed)) @ transform
    return PlusPlusState(
        weights + (learning_rate / x.shape[-1]) * gradient,
        transform - gamma * (transformed @ (transpose(transformed) @ transform)),
    )


def gd_plus_plus_predict(
    x: Array, y: Array, x_query: Array, learning_rates: Sequence[Any], gammas: Sequence[Any]
) -> Array:
    r"""The prediction $W_Kx_q$ of $K$ GD++ layers from $W_0=0$; with $\gamma=0$ that of gradient descent.

    Parameters
    ----------
    x : array, shape (..., n_inputs, n_context)
    y : array, shape (..., n_outputs, n_context)
    x_query : array, shape (..., n_inputs)
    learning_rates : sequence of K numbers > 0
    gammas : sequence of K numbers >= 0

    Returns
    -------
    array, shape (..., n_outputs)

    Raises
    ------
    ValueError
        If shapes or the lengths of the sequences do not fit, or a number is out of range.

    Source: arXiv 2212.07677, Appendix A.10.
    """
    check_shapes(x=(x, "... n_inputs n_context"), y=(y, "... n_outputs n_context"), x_query=(x_query, "... n_inputs"))
    learning_rates, gammas = _check_schedule(learning_rates, gammas)
    state = initial_state(x, y)
    for learning_rate, gamma in zip(learning_rates, gammas, strict=True):
        state = gd_plus_plus_step(state, x, y, learning_rate, gamma)
    return apply_linear(state.weights, x_query)


def initial_state(x: Array, y: Array) -> PlusPlusState:
    r"""$W_0=0$, $Q_0=I$."""
    dtype, n_inputs = common_dtype(x, y), x.shape[-2]
    batch = x.shape[:-2]
    return PlusPlusState(
        np.zeros((*batch, y.shape[-2], n_inputs), dtype=dtype),
        np.broadcast_to(np.eye(n_inputs, dtype=dtype), (*batch, n_inputs, n_inputs)),
    )


# --- the loss that the scalars minimise ---


def gd_plus_plus_population_loss(
    eigenvalues: Array,
    learning_rates: Array,
    gammas: Array,
    n_context: int,
    second_moment: float = 1 / 12,
    n_outputs: int = 1,
    weight_variance: float = 1,
) -> Array:
    r"""Expected squared query error of $K$ GD++ layers, averaged exactly over $W_\tau$ and $x_q$, over samples of $X$.

    In each eigendirection of $XX^\top$ the layers multiply the error by $1-w_K$, with $w_0=0$, $q_0=1$ and

    $$w_{k+1}=w_k+\tfrac{\eta_k}N(1-w_k)\lambda q_k^2,\qquad q_{k+1}=(1-\gamma_k\lambda q_k^2)q_k,$$

    so that the error is $N_y\sigma_w^2\mu_2\,\mathbb E\sum_\lambda(1-w_K)^2$. Only the average over $X$ is left to
    sampling: several times less noise than sampling tasks and queries too.

    Parameters
    ----------
    eigenvalues : array, shape (n_tasks, n_inputs)
        Those of $XX^\top$, task by task (:func:`gram_eigenvalues`).
    learning_rates, gammas : array, shape (n_steps,)
    n_context, n_outputs : int >= 1
    second_moment : number > 0
        $\mu_2$ of a coordinate of $x_q$; 1/12 for the paper's inputs.
    weight_variance : number > 0
        $\sigma_w^2$.

    Returns
    -------
    array, shape ()

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or a number is out of range.

    Source: arXiv 2212.07677, Section 3 and Appendix A.10 (where the scalars are fitted on sampled tasks).
    """
    return gd_plus_plus_population_loss_vjp(
        eigenvalues, learning_rates, gammas, n_context, second_moment, n_outputs, weight_variance
    )[0]


def gd_plus_plus_population_loss_vjp(
    eigenvalues: Array,
    learning_rates: Array,
    gammas: Array,
    n_context: int,
    second_moment: float = 1 / 12,
    n_outputs: int = 1,
    weight_variance: float = 1,
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    """:func:`gd_plus_plus_population_loss` and its pullback ``cotangent -> (eigenvalues, learning_rates, gammas)``."""
    check_shapes(
        eigenvalues=(eigenvalues, "n_tasks n_inputs"),
        learning_rates=(learning_rates, "n_steps"),
        gammas=(gammas, "n_steps"),
    )
    n_context = check_integer("n_context", n_context, 1)
    second_moment = check_number("second_moment", second_moment, "(0, inf)")
    n_outputs = check_integer("n_outputs", n_outputs, 1)
    weight_variance = check_number("weight_variance", weight_variance, "(0, inf)")
    scale = n_outputs * weight_variance * second_moment / eigenvalues.shape[0]

    # With e = 1 - w: e' = e (1 - eta/N lam q^2) and q' = q (1 - gamma lam q^2).
    error = np.ones_like(eigenvalues)
    transform = np.ones_like(eigenvalues)
    history = []
    for learning_rate, gamma in zip(learning_rates, gammas, strict=True):
        curvature = eigenvalues * transform**2
        shrink, contract = 1 - learning_rate / n_context * curvature, 1 - gamma * curvature
        history.append((error, transform, curvature, shrink, contract))
        error, transform = error * shrink, transform * contract
    loss = np.asanyarray(scale * (error**2).sum())

    def pullback(cotangent: Array) -> tuple[Array, Array, Array]:
        to_error = 2 * scale * cotangent * error
        to_transform = np.zeros_like(transform)
        to_eigenvalues = np.zeros_like(eigenvalues)
        to_rates, to_gammas = np.zeros_like(learning_rates), np.zeros_like(gammas)
        for step in reversed(range(len(history))):
            before, q, curvature, shrink, contract = history[step]
            to_rate, to_contraction = -to_error * before / n_context, -to_transform * q
            to_rates[step] = (to_rate * curvature).sum()
            to_gammas[step] = (to_contraction * curvature).sum()
            to_curvature = to_rate * learning_rates[step] + to_contraction * gammas[step]
            to_eigenvalues = to_eigenvalues + to_curvature * q**2
            to_error = to_error * shrink
            to_transform = to_transform * contract + 2 * to_curvature * eigenvalues * q
        return to_eigenvalues, to_rates, to_gammas

    return loss, pullback


def gram_eigenvalues(x: Array) -> Array:
    r"""Eigenvalues of $XX^\top$ in ascending order, shape ``(..., n_inputs)`` from `x` ``(..., n_inputs, n_context)``.

    Uses LAPACK: floats only.
    """
    check_shapes(x=(x, "... n_inputs n_context"))
    return np.asanyarray(np.linalg.eigvalsh(x @ transpose(x)))


class FittedScalars(NamedTuple):
    """Step sizes that minimise the population loss, and that loss."""

    learning_rates: Array
    gammas: Array
    loss: float


def fit_gd_plus_plus(
    eigenvalues: Array,
    n_steps: int,
    n_context: int,
    learning_rate: float,
    tied: bool = True,
    plain: bool = False,
    second_moment: float = 1 / 12,
) -> FittedScalars:
    r"""The learning rates and curvature scalars with the smallest :func:`gd_plus_plus_population_loss`.

    Parameters
    ----------
    eigenvalues : array, shape (n_tasks, n_inputs)
    n_steps, n_context : int >= 1
    learning_rate : number > 0
        Where to start, with $\gamma=\eta/N^2$; the best rate of one step serves.
    tied : bool
        One pair of scalars for all steps (a looped transformer) or one each.
    plain : bool
        Hold $\gamma=0$: gradient descent.
    second_moment : number > 0

    Returns
    -------
    FittedScalars

    Raises
    ------
    ValueError
        If an argument is out of range.

    Source: arXiv 2212.07677, Section 3 and Appendix A.10.
    """
    from scipy import optimize

    n_steps = check_integer("n_steps", n_steps, 1)
    n_context = check_integer("n_context", n_context, 1)
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    # Logarithms keep the scalars positive, and the optimal ones span orders of magnitude.
    start = np.log([[learning_rate]] if plain else [[learning_rate], [learning_rate / n_context**2]])

    def schedules(logarithms: Array, depth: int) -> tuple[Array, Array]:
        rows = np.broadcast_to(np.exp(logarithms.reshape(len(start), -1)), (len(start), depth))
        return rows[0], np.zeros(depth) if plain else rows[1]

    def objective(logarithms: Array, depth: int) -> tuple[float, Array]:
        rows = schedules(logarithms, depth)
        loss, pullback = gd_plus_plus_population_loss_vjp(eigenvalues, *rows, n_context, second_moment)
        _, *to_rows = pullback(np.ones(()))
        gradient = np.stack(to_rows[: len(start)]) * np.stack(rows[: len(start)])
        if tied:
            gradient = gradient.sum(axis=1, keepdims=True)
        return float(np.log(loss)), gradient.reshape(-1) / loss

    def minimum(begin: Array, depth: int) -> Any:
        with np.errstate(over="ignore", invalid="ignore"):  # the line search may try steps that diverge
            return optimize.minimize(objective, begin.reshape(-1), (depth,), "BFGS", True, options={"gtol": 1e-6})

    if tied:
        found = minimum(start, n_steps)
    else:
        # One more small step before the best of one step fewer: it descends from there, and equal steps would be a
        # saddle, for the order of the steps of plain gradient descent does not matter.
        found = minimum(start, 1)
        for depth in range(2, n_steps + 1):
            found = minimum(np.concatenate([start - 1 / 2, found.x.reshape(len(start), -1)], axis=1), depth)
    return FittedScalars(*schedules(found.x, n_steps), float(np.exp(found.fun)))


# --- curvature ---


def gd_plus_plus_eigenvalue_map(eigenvalues: Any, gamma: Any) -> Any:
    r"""$f(\lambda,\gamma)=\lambda(1-\gamma\lambda)^2$: what one GD++ layer makes of an eigenvalue of $XX^\top$.

    Source: arXiv 2212.07677, Eq. 24 and 25.
    """
    return eigenvalues * (1 - gamma * eigenvalues) ** 2


def gd_plus_plus_condition_number(smallest: Any, largest: Any, gamma: Any) -> Any:
    r"""The paper's $\kappa^{++}=f(\frac1{3\gamma})/\min(f(\lambda_1),f(\lambda_n))$.

    An upper bound of :func:`spectrum_condition_number` if $\lambda_n\le\frac1{3\gamma}\le\lambda_1\le\frac1\gamma$, and
    no bound at all outside that range.

    Parameters
    ----------
    smallest, largest : number > 0
        The extreme eigenvalues of $XX^\top$.
    gamma : number > 0

    Raises
    ------
    ValueError
        If a number is not positive or `largest` is below `smallest`.

    Source: arXiv 2212.07677, Appendix A.10.
    """
    smallest = check_number("smallest", smallest, "(0, inf)")
    largest = check_number("largest", largest, f"[{smallest}, inf)")
    gamma = check_number("gamma", gamma, "(0, inf)")
    ends = gd_plus_plus_eigenvalue_map(smallest, gamma), gd_plus_plus_eigenvalue_map(largest, gamma)
    return gd_plus_plus_eigenvalue_map(1 / (3 * gamma), gamma) / min(ends)


def spectrum_condition_number(eigenvalues: Array, gamma: Any) -> Array:
    r"""The condition number of the transformed spectrum: largest over smallest $f(\lambda,\gamma)$.

    Parameters
    ----------
    eigenvalues : array, shape (..., n_inputs), entries > 0
    gamma : number >= 0; 0 gives the condition number of the spectrum itself

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If an eigenvalue is not positive or `gamma` is negative.
    """
    check_shapes(eigenvalues=(eigenvalues, "... n_inputs"))
    gamma = check_number("gamma", gamma, "[0, inf)")
    if not np.all(eigenvalues > 0):
        raise ValueError(f"eigenvalues: expected positive entries, got {np.min(eigenvalues)}")
    mapped = gd_plus_plus_eigenvalue_map(eigenvalues, gamma)
    return np.asanyarray(mapped.max(axis=-1) / mapped.min(axis=-1))


def _check_schedule(learning_rates: Sequence[Any], gammas: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    learning_rates = check_rates("learning_rates", learning_rates, "(0, inf)")
    gammas = check_rates("gammas", gammas, "[0, inf)")
    if len(gammas) != len(learning_rates):
        raise ValueError(f"gammas: expected {len(learning_rates)} numbers as in learning_rates, got {len(gammas)}")
    return learning_rates, gammas
