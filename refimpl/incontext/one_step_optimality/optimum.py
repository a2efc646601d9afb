r"""The optimum in closed form, for isotropic and correlated inputs and any Gaussian prior, and the Bayes predictor."""

from typing import Any, NamedTuple

import numpy as np

from refimpl.incontext.one_step_optimality.model import EffectiveWeights, on_products
from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.least_squares import gram_matrix, ridge_weights
from refimpl.primitives.linear_systems import check_positive_definite, solve
from refimpl.primitives.numbers import Array, row_dot
from refimpl.primitives.traces import inner


def optimal_learning_rate(n_inputs: int, n_context: int, noise_std: Any) -> Any:
    r"""$\eta^*=\dfrac{\mathbb E[\hat w_D^\top X^\top y]}{\mathbb E[y^\top XX^\top y]}=\dfrac1{n+d+1+\sigma^2}$.

    Of the **sum** of squares, for $x\sim N(0,I)$, $\theta\sim N(0,I)$; for the mean it is $n$ times this.

    Parameters
    ----------
    n_inputs : int >= 1
    n_context : int >= 0
    noise_std : number >= 0

    Returns
    -------
    number

    Raises
    ------
    ValueError
        If an argument is out of range.

    Source: arXiv 2307.03576, Theorem 1 (the first form; the second is derived here).
    """
    n_inputs, n_context, variance = _check_sizes(n_inputs, n_context, noise_std)
    return 1 / (n_context + n_inputs + 1 + variance)


def optimal_loss(n_inputs: int, n_context: int, noise_std: Any) -> Any:
    r"""$L^*=\sigma^2+\dfrac{d(d+1+\sigma^2)}{n+d+1+\sigma^2}$, the loss of one step at $\eta^*$.

    Arguments and errors as for :func:`optimal_learning_rate`.

    Source: arXiv 2307.03576, Theorem 1 (the value is derived here).
    """
    n_inputs, n_context, variance = _check_sizes(n_inputs, n_context, noise_std)
    return variance + n_inputs * (n_inputs + 1 + variance) / (n_context + n_inputs + 1 + variance)


class GaussianOptimum(NamedTuple):
    """The best predictor under a Gaussian law, and its population loss."""

    weights: EffectiveWeights
    loss: Array


def preconditioned_optimum(cov_x: Array, cov_w: Array, n_context: int, noise_std: Any) -> GaussianOptimum:
    r"""The optimum for $x\sim N(0,\Sigma)$ and $\theta\sim N(0,\Sigma_w)$: a step preconditioned by $M_1$ (and $c=1$),

    $$M_1=\big[(n+1)\Sigma+(\mathrm{tr}(\Sigma\Sigma_w)+\sigma^2)\Sigma_w^{-1}\big]^{-1},\quad
    L=\mathrm{tr}(\Sigma\Sigma_w)+\sigma^2-n\,\mathrm{tr}(M_1\Sigma\Sigma_w\Sigma).$$

    For $\Sigma_w=\Sigma^{-1}$ it is $\eta^*\Sigma^{-1}$ (Theorem 2); for $\Sigma_w=I$ it is not proportional to
    $\Sigma^{-1}$.

    Parameters
    ----------
    cov_x, cov_w : array, shape (d, d), symmetric positive definite
    n_context : int >= 0
    noise_std : number >= 0

    Returns
    -------
    GaussianOptimum

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a number is out of range, or a covariance is none.

    Source: arXiv 2307.03576, Theorem 2, generalised here to any prior.
    """
    cov_x = check_positive_definite("cov_x", cov_x)
    cov_w = check_positive_definite("cov_w", cov_w, len(cov_x))
    n_context = check_integer("n_context", n_context, 0)
    variance = check_number("noise_std", noise_std, "[0, inf)") ** 2
    identity = np.eye(len(cov_x), dtype=cov_x.dtype)
    size = inner(cov_x, cov_w) + variance
    matrix = solve((n_context + 1) * cov_x + size * solve(cov_w, identity), identity)
    loss = size - n_context * inner(matrix, cov_x @ cov_w @ cov_x)
    return GaussianOptimum(on_products(matrix), np.asanyarray(loss[0, 0]))


# --- the Bayes predictor ---


def ridge_predict(x: Array, y: Array, x_query: Array, noise_std: float) -> Array:
    r"""$\hat w_D^\top x_{n+1}$ with $\hat w_D=(X^\top X+\sigma^2I)^{-1}X^\top y$: the mean of $\theta$ given $D$.

    Parameters
    ----------
    x : array, shape (..., n_context, d)
    y : array, shape (..., n_context)
    x_query : array, shape (..., d)
    noise_std : number > 0

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite or the noise is not positive.

    Source: arXiv 2307.03576, Lemma 1.
    """
    check_shapes(x=(x, "... n_context n_inputs"), y=(y, "... n_context"), x_query=(x_query, "... n_inputs"))
    variance = check_number("noise_std", noise_std, "(0, inf)") ** 2
    weights = ridge_weights.unchecked(x, y, variance)
    return row_dot(weights, x_query)[..., 0]


def conditional_bayes_risk(x: Array, noise_std: Any) -> Array:
    r"""$\sigma^2+\sigma^2\,\mathrm{tr}(X^\top X+\sigma^2I)^{-1}$, the error of :func:`ridge_predict` given the inputs.

    Its mean over the inputs is the constant $C$ of Lemma 1, below which no predictor gets.

    Parameters
    ----------
    x : array, shape (..., n_context, d)
    noise_std : number > 0

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If an entry is not finite or the noise is not positive.

    Source: arXiv 2307.03576, Lemma 1.
    """
    sizes = check_shapes(x=(x, "... n_context n_inputs"))
    variance = check_number("noise_std", noise_std, "(0, inf)") ** 2
    identity = np.eye(sizes["n_inputs"], dtype=x.dtype)
    inverse = solve(gram_matrix(x) + variance * identity, identity)
    return np.asanyarray(variance + variance * inner(inverse, identity)[..., 0, 0])


def bayes_risk_monte_carlo(
    n_inputs: int, n_context: int, noise_std: float, n_samples: int, rng: np.random.Generator
) -> Array:
    """:func:`conditional_bayes_risk` at independent Gaussian inputs: its mean estimates the Bayes risk.

    Returns
    -------
    array, shape (n_samples,)

    Raises
    ------
    ValueError
        If a size is below 1 or the noise is not positive.

    Source: arXiv 2307.03576, Lemma 1.
    """
    n_inputs = check_integer("n_inputs", n_inputs, 1)
    n_context = check_integer("n_context", n_context, 1)
    n_samples = check_integer("n_samples", n_samples, 1)
    return conditional_bayes_risk(rng.standard_normal((n_samples, n_context, n_inputs)), noise_std)


def bayes_risk_bounds(n_inputs: int, n_context: int, noise_std: Any) -> tuple[Any, Any]:
    r"""$\sigma^2+\frac{\sigma^2d}{n+\sigma^2}\le C\le\sigma^2+\frac{\sigma^2d}{n-d-1}$ for $n>d+1$.

    By Jensen's inequality, and by dropping $\sigma^2I$ from the inverse, whose mean is then the inverse Wishart's.

    Raises
    ------
    ValueError
        If an argument is out of range or ``n_context <= n_inputs + 1``.

    Source: derived here from arXiv 2307.03576, Lemma 1.
    """
    n_inputs, n_context, variance = _check_sizes(n_inputs, n_context, noise_std)
    if not getattr(n_context, "free_symbols", None):
        check_integer("n_context", n_context, n_inputs + 2)
    return (
        variance + variance * n_inputs / (n_context + variance),
        variance + variance * n_inputs / (n_context - n_inputs - 1),
    )


def _check_sizes(n_inputs: int, n_context: int, noise_std: Any) -> tuple[Any, Any, Any]:
    return (
        check_integer("n_inputs", n_inputs, 1),
        check_integer("n_context", n_context, 0),
        check_number("noise_std", noise_std, "[0, inf)") ** 2,
    )
