r"""The population loss of any weights in closed form, for Gaussian inputs, tasks and noise, with its gradient.

Given the task $\theta$ the tokens are independent $N(0,\Gamma_\theta)$, and Isserlis' theorem gives the loss as a
polynomial of degree 4 in $\theta$ (:func:`loss_given_task`); the same theorem for $\theta\sim N(0,\Sigma_w)$ gives the
rest (:func:`population_loss`). With $w=[u;c]$, $M=[M_1;m^\top]$ everything is a product of $d\times d$ matrices,
whatever $n$.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.one_step_optimality.model import EffectiveWeights, check_weights
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.linear_systems import check_positive_definite
from refimpl.primitives.numbers import Array, common_dtype, transpose
from refimpl.primitives.traces import inner

MAX_NODES = 3**9
"""The most points of a tensor rule that :func:`population_loss_by_quadrature` takes."""


# --- given the task ---


def loss_given_task(
    weights: EffectiveWeights, task: Array, n_context: int, noise_std: Any, cov_x: Array | None = None
) -> Array:
    r"""$\mathbb E[(y_{n+1}-\hat y)^2\mid\theta]$ over inputs $N(0,\Sigma)$ and noise, exactly.

    $$n\,\mathrm{tr}(\mathcal M\Gamma_\theta)\,w^\top\Gamma_\theta w
    +n(n+1)\,w^\top\Gamma_\theta\mathcal M\Gamma_\theta w
    -2n\,\theta^\top\Sigma M^\top\Gamma_\theta w+\theta^\top\Sigma\theta+\sigma^2$$

    where $\Gamma_\theta$ is the covariance of a token and $\mathcal M=M\Sigma M^\top$. With $v=u+c\theta$ and
    $A=M_1+\theta m^\top$ no $\Gamma_\theta$ is built: $w^\top\Gamma_\theta w=v^\top\Sigma v+c^2\sigma^2$ and
    $M^\top\Gamma_\theta w=A^\top\Sigma v+\sigma^2cm$.

    Parameters
    ----------
    weights : EffectiveWeights
    task : array, shape (..., d)
        $\theta$.
    n_context : int >= 0
    noise_std : number >= 0
    cov_x : array, shape (d, d), symmetric positive definite; the identity if None

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a number is out of range, or `cov_x` is no covariance.

    Source: derived from arXiv 2307.03576, Section 2 (the loss) and the proof of Theorem 1.
    """
    return loss_given_task_vjp(weights, task, n_context, noise_std, cov_x)[0]


def loss_given_task_vjp(
    weights: EffectiveWeights, task: Array, n_context: int, noise_std: Any, cov_x: Array | None = None
) -> tuple[Array, Callable[[Array], tuple[EffectiveWeights, Array]]]:
    """:func:`loss_given_task` and its pullback ``cotangent -> (weights, task)``; the covariance is a constant."""
    n_inputs = check_weights(weights)
    check_shapes(task=(task, f"... {n_inputs}"))
    n, variance, sigma, _ = check_law(weights, n_context, noise_std, cov_x, None, n_inputs)
    u, c, m1, m = _parts(weights)
    theta = task[..., None]

    v, a = u + c * theta, m1 + theta @ transpose(m)
    s_v, s_m, s_a, s_theta = sigma @ v, sigma @ m, sigma @ a, sigma @ theta
    s_a_s = s_a @ sigma
    spread = inner(a, s_a_s) + variance * inner(m, s_m)  # tr(M Sigma M^T Gamma)
    size = inner(v, s_v) + variance * c**2  # w^T Gamma w
    mean = transpose(a) @ s_v + variance * c * m  # M^T Gamma w
    s_mean = sigma @ mean
    loss = n * spread * size + n * (n + 1) * inner(mean, s_mean) - 2 * n * inner(s_theta, mean)
    loss = loss + inner(theta, s_theta) + variance

    def pullback(cotangent: Array) -> tuple[EffectiveWeights, Array]:
        to_mean = 2 * n * ((n + 1) * s_mean - s_theta)
        to_v = 2 * n * spread * s_v + s_a @ to_mean
        to_a = 2 * n * size * s_a_s + s_v @ transpose(to_mean)
        to_c = 2 * n * spread * variance * c + variance * inner(m, to_mean) + inner(theta, to_v)
        to_m = 2 * n * size * variance * s_m + variance * c * to_mean + transpose(to_a) @ theta
        to_theta = 2 * (s_theta - n * s_mean) + c * to_v + to_a @ m
        cotangent = np.asanyarray(cotangent)[..., None, None]
        each = [cotangent * part for part in (to_v, to_c, to_a, to_m)]
        to_u, to_c, to_m1, to_m = (part.reshape(-1, *part.shape[-2:]).sum(axis=0) for part in each)
        return _joined(to_u, to_c, to_m1, to_m), np.asanyarray((cotangent * to_theta)[..., 0])

    return np.asanyarray(loss[..., 0, 0]), pullback


# --- over the tasks ---


def population_loss(
    weights: EffectiveWeights,
    n_context: int,
    noise_std: Any,
    cov_x: Array | None = None,
    cov_w: Array | None = None,
) -> Array:
    r"""$L(w,M)=\mathbb E(y_{n+1}-\hat y)^2$ for $x\sim N(0,\Sigma)$ and $\theta\sim N(0,\Sigma_w)$, exactly.

    The full square: no factor 1/2. The noise of the query's target is in it.

    Parameters
    ----------
    weights : EffectiveWeights
        With any leading batch axes, the same for both.
    n_context : int >= 0
    noise_std : number >= 0
        $\sigma$.
    cov_x, cov_w : array, shape (d, d), symmetric positive definite; the identity if None
        $\Sigma$ and $\Sigma_w$.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a number is out of range, or a covariance is none.

    Source: arXiv 2307.03576, Section 2 (the loss; its value at arbitrary weights is derived here).
    """
    return population_loss_vjp(weights, n_context, noise_std, cov_x, cov_w)[0]


def population_loss_vjp(
    weights: EffectiveWeights,
    n_context: int,
    noise_std: Any,
    cov_x: Array | None = None,
    cov_w: Array | None = None,
) -> tuple[Array, Callable[[Array], tuple[EffectiveWeights]]]:
    """:func:`population_loss` and its pullback ``cotangent -> (weights,)``; the covariances are constants."""
    n_inputs = check_weights(weights, batched=True)
    return population_core(weights, law_moments(*check_law(weights, n_context, noise_std, cov_x, cov_w, n_inputs)))


class LawMoments(NamedTuple):
    r"""What the population loss knows of the law, with $T=\theta^\top\Sigma\theta$."""

    n_context: Any
    sigma: Array
    k: Array
    r"""$K=\Sigma\Sigma_w\Sigma$."""
    first: Array
    r"""$\mathbb E[T]+\sigma^2$, shape (1, 1), as the next."""
    second: Array
    r"""$\mathbb E[(T+\sigma^2)^2]$."""


def law_moments(n_context: Any, variance: Any, sigma: Array, sigma_w: Array) -> LawMoments:
    """The moments from what :func:`check_law` returns."""
    k, first = sigma @ sigma_w @ sigma, inner(sigma, sigma_w) + variance
    return LawMoments(n_context, sigma, k, first, first**2 + 2 * inner(k, sigma_w))


def population_core(
    weights: EffectiveWeights, law: LawMoments
) -> tuple[Array, Callable[[Array], tuple[EffectiveWeights]]]:
    """:func:`population_loss_vjp` for the moments of a law; arguments unchecked."""
    n, sigma, k, first, second = law
    u, c, m1, m = _parts(weights)
    c_squared, m1_t = c * c, transpose(m1)
    s_u, s_m, k_u, k_m = sigma @ u, sigma @ m, k @ u, k @ m
    m1_s = m1 @ sigma
    m1_s_m, k_m1_s, m1_s_u = m1 @ s_m, k @ m1_s, m1_t @ s_u
    back = sigma @ m1_s_u  # Sigma M_1^T Sigma u
    back_k = sigma @ (m1_t @ k_u)
    s_m1_s = sigma @ m1_s
    frobenius, mu, nu = inner(m1, s_m1_s), inner(m, s_m), inner(u, s_u)
    cross, cross_k, u_k_u, own = inner(s_u, m1_s_m), inner(k_u, m1_s_m), inner(u, k_u), inner(m1, k_m1_s)

    # The expectations of tr(M Sigma M^T Gamma) w^T Gamma w, |M^T Gamma w|^2 (in Sigma) and theta^T Sigma M^T Gamma w.
    diagonal = nu * (frobenius + mu * first) + c_squared * (frobenius * first + mu * second) + 4 * c * cross_k
    squared = inner(m1_s_u, back) + 2 * c * (first * cross + cross_k) + c_squared * (mu * second + own)
    squared = squared + mu * u_k_u
    on_k = inner(m1, k)
    linear = c * on_k + inner(u, k_m)
    loss = n * diagonal + n * (n + 1) * squared - 2 * n * linear + first

    def pullback(cotangent: Array) -> tuple[EffectiveWeights]:
        s_h, k_h, twice = sigma @ m1_s_m, k @ m1_s_m, 2 * (n + 1)
        to_u = 2 * (frobenius + mu * first) * s_u + 4 * c * k_h
        to_u = to_u + twice * (s_m1_s @ m1_s_u + c * (first * s_h + k_h) + mu * k_u) - 2 * k_m
        to_c = 2 * c * (frobenius * first + mu * second) + 4 * cross_k
        to_c = to_c + twice * (first * cross + cross_k + c * (mu * second + own)) - 2 * on_k
        to_m1 = 2 * (nu + c_squared * first) * s_m1_s + 4 * c * k_u @ transpose(s_m)
        row = s_u @ transpose(back) + c * (first * s_u + k_u) @ transpose(s_m) + c_squared * k_m1_s
        to_m1 = to_m1 + twice * row - 2 * c * k
        to_m = 2 * (nu * first + c_squared * second) * s_m + 4 * c * back_k
        to_m = to_m + twice * (c * (first * back + back_k) + (c_squared * second + u_k_u) * s_m) - 2 * k_u
        to_value, to_key_query = _joined(to_u, to_c, to_m1, to_m)
        scale = np.asanyarray(n * np.asanyarray(cotangent))
        return (EffectiveWeights(scale[..., None] * to_value, scale[..., None, None] * to_key_query),)

    return np.asanyarray(loss[..., 0, 0]), pullback


def _check_quadrature(
    weights: EffectiveWeights,
    n_context: int,
    noise_std: Any,
    cov_x: Array | None = None,
    cov_w: Array | None = None,
    n_nodes: int = 3,
) -> None:
    n_inputs = check_weights(weights)
    check_law(weights, n_context, noise_std, cov_x, cov_w, n_inputs)
    n_nodes = check_integer("n_nodes", n_nodes, 3)
    if n_nodes**n_inputs > MAX_NODES:
        raise ValueError(f"n_nodes: expected at most {MAX_NODES} points, got {n_nodes}**{n_inputs}")


@checked(_check_quadrature)
def population_loss_by_quadrature(
    weights: EffectiveWeights,
    n_context: int,
    noise_std: Any,
    cov_x: Array | None = None,
    cov_w: Array | None = None,
    n_nodes: int = 3,
) -> Any:
    r""":func:`population_loss` by another route: :func:`loss_given_task` averaged by a tensor Gauss-Hermite rule.

    The integrand has degree 4 in $\theta$ and three nodes a dimension are exact up to degree 5; two are not.

    Parameters
    ----------
    weights, n_context, noise_std, cov_x, cov_w : as for :func:`population_loss`, without batch axes; floats only
    n_nodes : int >= 3
        Of each dimension; ``n_nodes**d`` is at most 3**9.

    Returns
    -------
    number

    Raises
    ------
    ValueError
        As :func:`population_loss`, or if there are too few nodes or too many points.
    """
    n_inputs = weights.key_query.shape[-1]
    points, masses = np.polynomial.hermite_e.hermegauss(n_nodes)
    grid, mass = (
        np.stack(np.meshgrid(*[values] * n_inputs, indexing="ij"), axis=-1).reshape(-1, n_inputs)
        for values in (points, masses / masses.sum())
    )
    if cov_w is not None:
        grid = grid @ np.linalg.cholesky(cov_w).T
    return mass.prod(axis=-1) @ loss_given_task(weights, grid, n_context, noise_std, cov_x)


# --- changes of variables ---


def whiten_parameters(weights: EffectiveWeights, cov_x: Array) -> EffectiveWeights:
    r"""The weights that do on $x'=\Sigma^{-1/2}x$ what these do on $x$.

    $u\mapsto\Sigma^{1/2}u$, $M_1\mapsto\Sigma^{1/2}M_1\Sigma^{1/2}$, $m\mapsto\Sigma^{1/2}m$. The targets
    stay, and the task becomes $\theta'=\Sigma^{1/2}\theta$. Uses LAPACK: floats only.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or `cov_x` is no covariance.

    Source: arXiv 2307.03576, Section 4 (proof of Theorem 2).
    """
    n_inputs = check_weights(weights)
    check_positive_definite("cov_x", cov_x, n_inputs)
    eigenvalues, vectors = np.linalg.eigh(cov_x)
    root = (vectors * np.sqrt(eigenvalues)) @ vectors.T
    value, key_query = weights
    # The targets are read as before.
    return EffectiveWeights(
        np.concatenate([root @ value[:-1], value[-1:]]), np.concatenate([root @ key_query[:-1], key_query[-1:]]) @ root
    )


def rescaled(weights: EffectiveWeights, factor: Any) -> EffectiveWeights:
    """The weights with the prediction multiplied by `factor`; unchecked."""
    return weights._replace(key_query=factor * weights.key_query)


def best_scale(
    weights: EffectiveWeights,
    n_context: int,
    noise_std: Any,
    cov_x: Array | None = None,
    cov_w: Array | None = None,
) -> Array:
    r"""The factor of the prediction at which the population loss is least: the best learning rate in this direction.

    The loss is a quadratic of the factor, so its values at -1, 0 and 1 say all. Arguments and errors as for
    :func:`population_loss`; the prediction must not vanish.
    """
    there, zero, back = (
        population_loss(rescaled(weights, factor), n_context, noise_std, cov_x, cov_w) for factor in (1, 0, -1)
    )
    return np.asanyarray((back - there) / (2 * (there + back - 2 * zero)))


# --- the pieces ---


def check_law(
    weights: EffectiveWeights,
    n_context: int,
    noise_std: Any,
    cov_x: Array | None,
    cov_w: Array | None,
    n_inputs: int,
) -> tuple[Any, Any, Array, Array]:
    """The number of context points, the noise variance, and the covariances with the identity for None."""
    n_context = check_integer("n_context", n_context, 0)
    variance = check_number("noise_std", noise_std, "[0, inf)") ** 2
    identity = np.eye(n_inputs, dtype=common_dtype(*weights))
    sigma = identity if cov_x is None else check_positive_definite("cov_x", cov_x, n_inputs)
    sigma_w = identity if cov_w is None else check_positive_definite("cov_w", cov_w, n_inputs)
    return n_context, variance, sigma, sigma_w


def _parts(weights: EffectiveWeights) -> tuple[Array, Array, Array, Array]:
    """$u$, $c$, $M_1$ and $m$, all as matrices."""
    value, key_query = weights.value[..., None], weights.key_query
    return value[..., :-1, :], value[..., -1:, :], key_query[..., :-1, :], transpose(key_query[..., -1:, :])


def _joined(u: Array, c: Array, m1: Array, m: Array) -> EffectiveWeights:
    value = np.concatenate([u, c], axis=-2)[..., 0]
    return EffectiveWeights(np.asanyarray(value), np.asanyarray(np.concatenate([m1, transpose(m)], axis=-2)))
