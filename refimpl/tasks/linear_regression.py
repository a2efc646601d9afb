r"""In-context linear regression: a task is a linear map $W_\tau$, a prompt a few samples of it and a query.

Arrays have a leading task axis. Within a task the columns are samples (:class:`RegressionTasks`), as papers write them
whose prompts are tokens, or the rows (:class:`ScalarTasks`), as those do whose subject is least squares.
"""

from typing import Any, NamedTuple

import numpy as np

from refimpl.primitives.checks import check_integer, check_number, check_shapes
from refimpl.primitives.linear_systems import check_positive_definite
from refimpl.primitives.numbers import Array, common_dtype


class RegressionTasks(NamedTuple):
    """A batch of prompts; any leading axes in place of ``n_tasks``."""

    x: Array
    """Context inputs, shape ``(n_tasks, n_inputs, n_context)``."""
    y: Array
    """Context targets, shape ``(n_tasks, n_outputs, n_context)``."""
    x_query: Array
    """Query inputs, shape ``(n_tasks, n_inputs)``."""
    y_query: Array
    """True targets of the query, shape ``(n_tasks, n_outputs)``."""

    def astype(self, dtype: Any) -> "RegressionTasks":
        """The same prompts in another precision."""
        return RegressionTasks(*(array.astype(dtype) for array in self))


class ScalarTasks(NamedTuple):
    """A batch of prompts with scalar targets, samples in rows; any leading axes in place of ``n_tasks``."""

    x: Array
    """Context inputs, shape ``(n_tasks, n_context, n_inputs)``."""
    y: Array
    """Context targets, shape ``(n_tasks, n_context)``."""
    x_query: Array
    """Query inputs, shape ``(n_tasks, n_inputs)``."""
    y_query: Array
    """Targets of the query, noise included, shape ``(n_tasks,)``."""
    weights: Array
    """What the targets are a function of: the linear map's weights, shape ``(n_tasks, n_inputs)``."""


def check_tasks(tasks: RegressionTasks) -> dict[str, Any]:
    """Raise ``ValueError`` unless the four arrays fit each other and hold at least one task; return the sizes."""
    sizes = check_shapes(
        x=(tasks.x, "... n_inputs n_context"),
        y=(tasks.y, "... n_outputs n_context"),
        x_query=(tasks.x_query, "... n_inputs"),
        y_query=(tasks.y_query, "... n_outputs"),
    )
    if 0 in sizes["..."]:
        raise ValueError(f"tasks: expected at least one task, got batch axes {sizes['...']}")
    return sizes


def uniform_moments(half_width: Any) -> tuple[Any, Any]:
    r"""Second and fourth moment of $\mathcal U(-a,a)$: $(a^2/3,\ a^4/5)$."""
    half_width = check_number("half_width", half_width, "(0, inf)")
    return half_width**2 / 3, half_width**4 / 5


def gaussian_moments(standard_deviation: Any) -> tuple[Any, Any]:
    r"""Second and fourth moment of $\mathcal N(0,\sigma^2)$: $(\sigma^2,\ 3\sigma^4)$."""
    standard_deviation = check_number("standard_deviation", standard_deviation, "(0, inf)")
    return standard_deviation**2, 3 * standard_deviation**4


def sample_linear_tasks(
    n_tasks: int,
    n_inputs: int,
    n_context: int,
    input_scale: float,
    weight_scale: float,
    rng: np.random.Generator,
    n_outputs: int = 1,
    dtype: Any = np.float64,
) -> RegressionTasks:
    r"""Noiseless tasks with $W_\tau\sim\mathcal N(0,1)\cdot$ `weight_scale` and inputs from $\mathcal U(-a,a)$.

    Parameters
    ----------
    n_tasks, n_inputs, n_context, n_outputs : int >= 1
    input_scale : float > 0
        The half-width $a$ of the inputs' interval.
    weight_scale : float > 0
    rng : numpy.random.Generator
    dtype : float64 or float32
        Drawn in this precision.

    Raises
    ------
    ValueError
        If a size is below 1, a scale is not positive, or the precision is another.

    Source: arXiv 2212.07677, Section 3 and Appendix A.12. The text says $a=1$, the authors' code and every reported
    number $a=1/2$.
    """
    _check_sampler(n_tasks, n_inputs, n_context, n_outputs, input_scale, weight_scale, dtype)
    unit = rng.random((n_tasks, n_inputs, n_context + 1), dtype=dtype)
    return _label((2 * unit - 1) * float(input_scale), n_outputs, float(weight_scale), rng)


def sample_out_of_distribution_tasks(
    n_tasks: int,
    n_inputs: int,
    n_context: int,
    input_scale: float,
    weight_scale: float,
    rng: np.random.Generator,
    n_outputs: int = 1,
    dtype: Any = np.float64,
) -> RegressionTasks:
    """Tasks whose inputs follow, task by task, an exponential, a normal or a Laplace law instead of the uniform one.

    Context and query are divided by the Frobenius norm of the context and multiplied by `input_scale`. Parameters and
    errors as in :func:`sample_linear_tasks`.

    Source: arXiv 2212.07677, Section 3 and Figure 6.
    """
    _check_sampler(n_tasks, n_inputs, n_context, n_outputs, input_scale, weight_scale, dtype)
    shape = (n_tasks, n_inputs, n_context + 1)
    exponential = rng.standard_exponential(shape, dtype=dtype)
    law = rng.integers(3, size=(n_tasks, 1, 1))
    signs = rng.choice(np.array([-1, 1], dtype=dtype), size=shape)
    inputs = np.choose(law, [exponential, rng.standard_normal(shape, dtype=dtype), signs * exponential])
    norm = np.sqrt(np.sum(inputs[..., :-1] ** 2, axis=(-1, -2), keepdims=True))
    return _label(inputs / norm * float(input_scale), n_outputs, float(weight_scale), rng)


def sample_gaussian_tasks(
    n_tasks: int,
    n_inputs: int,
    n_context: int,
    noise_std: float,
    rng: np.random.Generator,
    cov_x: Array | None = None,
    cov_w: Array | None = None,
    dtype: Any = np.float64,
) -> ScalarTasks:
    r"""Noisy linear tasks $y=w^\top x+\epsilon$: Gaussian $x\sim N(0,\Sigma)$, $w\sim N(0,\Sigma_w)$ and noise.

    Parameters
    ----------
    n_tasks, n_inputs, n_context : int >= 1
    noise_std : float >= 0
        $\sigma$, of the context's and the query's targets.
    rng : numpy.random.Generator
    cov_x, cov_w : array, shape (n_inputs, n_inputs), symmetric positive definite; the identity if None
    dtype : float64 or float32
        Drawn in this precision.

    Raises
    ------
    ValueError
        If a size is below 1, the noise is negative or a covariance is none of this size.

    Source: arXiv 2307.03576, Sections 2 to 4.
    """
    check_integer("n_tasks", n_tasks, 1)
    check_integer("n_inputs", n_inputs, 1)
    check_integer("n_context", n_context, 1)
    noise = float(check_number("noise_std", noise_std, "[0, inf)"))
    weights = _correlated(rng.standard_normal((n_tasks, n_inputs), dtype=dtype), "cov_w", cov_w)
    x = _correlated(rng.standard_normal((n_tasks, n_context + 1, n_inputs), dtype=dtype), "cov_x", cov_x)
    return _scalar_tasks(x, weights, noise, rng)


def _scalar_tasks(x: Array, weights: Array, noise: float, rng: np.random.Generator) -> ScalarTasks:
    """Label the rows of `x`, the last of which is the query."""
    y = (x @ weights[..., None])[..., 0] + noise * rng.standard_normal(x.shape[:-1], dtype=x.dtype.type)
    return ScalarTasks(x[:, :-1], y[:, :-1], x[:, -1], y[:, -1], weights)


def replace_targets(tasks: RegressionTasks, n_distractors: int, rng: np.random.Generator) -> RegressionTasks:
    r"""The same prompts with the targets of `n_distractors` random context points of each task drawn from $N(0,1)$.

    Raises
    ------
    ValueError
        If the tasks do not fit or `n_distractors` is not in 0..n_context.

    Source: arXiv 2212.07677, Appendix A.12 (authors' sampler).
    """
    check_tasks(tasks)
    n_context = tasks.y.shape[-1]
    n_distractors = check_integer("n_distractors", n_distractors, 0, n_context)
    ranks = np.argsort(rng.random((*tasks.y.shape[:-2], 1, n_context)), axis=-1)
    noise = np.asarray(rng.standard_normal(tasks.y.shape), dtype=tasks.y.dtype)
    return tasks._replace(y=np.where(ranks < n_distractors, noise, tasks.y))


def sample_ill_conditioned_tasks(
    n_tasks: int,
    n_inputs: int,
    n_context: int,
    condition_number: float,
    rng: np.random.Generator,
    noise_std: float = 0.0,
) -> ScalarTasks:
    r"""Linear tasks whose inputs have two scales, along directions that every task draws anew.

    $x\sim N(0,\Sigma)$ with eigenvalues $\kappa$ (half of them, of an odd number the smaller half) and 1, all scaled so
    that $\mathrm{tr}\,\Sigma=d$, and uniform eigenvectors; $w\sim N(0,I)$.

    Parameters
    ----------
    n_tasks, n_inputs, n_context : int >= 1
    condition_number : float >= 1
        $\kappa$; at 1 the inputs are standard normal.
    rng : numpy.random.Generator
    noise_std : float >= 0
        Of the context's and the query's targets.

    Raises
    ------
    ValueError
        If a size is below 1, the condition number is below 1 or the noise is negative.

    Source: arXiv 2310.17086, Section 4.3, and the authors' sampler.
    """
    check_integer("n_tasks", n_tasks, 1)
    check_integer("n_inputs", n_inputs, 1)
    check_integer("n_context", n_context, 1)
    condition_number = check_number("condition_number", condition_number, "[1, inf)")
    noise = float(check_number("noise_std", noise_std, "[0, inf)"))
    deviations = np.ones(n_inputs)
    deviations[: n_inputs // 2] = np.sqrt(condition_number)
    deviations *= np.sqrt(n_inputs / np.sum(deviations**2))
    axes, triangle = np.linalg.qr(rng.standard_normal((n_tasks, n_inputs, n_inputs)))
    # Uniform only with the signs that make the factorisation unique.
    axes *= np.sign(np.diagonal(triangle, axis1=-2, axis2=-1))[:, None]
    x = (rng.standard_normal((n_tasks, n_context + 1, n_inputs)) * deviations) @ np.swapaxes(axes, -1, -2)
    return _scalar_tasks(x, rng.standard_normal((n_tasks, n_inputs)), noise, rng)


def interleave_prompt(x: Array, y: Array, x_query: Array) -> Array:
    r"""The prompt $x_1,(y_1,0,\dots,0),\dots,x_n,(y_n,0,\dots,0),x_{test}$ as columns.

    Parameters
    ----------
    x : array, shape (..., n_context, n_inputs)
    y : array, shape (..., n_context)
    x_query : array, shape (..., n_inputs)

    Returns
    -------
    array, shape (..., n_inputs, 2 n_context + 1)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Source: Garg et al., arXiv 2208.01066, and their code; arXiv 2310.17086, Section 3.
    """
    sizes = check_shapes(x=(x, "... n_context n_inputs"), y=(y, "... n_context"), x_query=(x_query, "... n_inputs"))
    shape = (*sizes["..."], sizes["n_inputs"], 2 * sizes["n_context"] + 1)
    prompt = np.zeros(shape, dtype=common_dtype(x, y, x_query))
    prompt[..., :-1:2] = np.swapaxes(x, -1, -2)
    prompt[..., 0, 1::2] = y
    prompt[..., -1] = x_query
    return prompt


def _check_sampler(
    n_tasks: int, n_inputs: int, n_context: int, n_outputs: int, input_scale: float, weight_scale: float, dtype: Any
) -> None:
    check_integer("n_tasks", n_tasks, 1)
    check_integer("n_inputs", n_inputs, 1)
    check_integer("n_context", n_context, 1)
    check_integer("n_outputs", n_outputs, 1)
    check_number("input_scale", input_scale, "(0, inf)")
    check_number("weight_scale", weight_scale, "(0, inf)")
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"dtype: expected float32 or float64, got {np.dtype(dtype)}")


def _label(inputs: Array, n_outputs: int, weight_scale: float, rng: np.random.Generator) -> RegressionTasks:
    """Draw the linear maps and apply them; the last column of `inputs` is the query."""
    n_tasks, n_inputs, _ = inputs.shape
    weights = rng.standard_normal((n_tasks, n_outputs, n_inputs), dtype=inputs.dtype.type) * weight_scale
    targets = weights @ inputs
    return RegressionTasks(inputs[..., :-1], targets[..., :-1], inputs[..., -1], targets[..., -1])


def _correlated(white: Array, name: str, covariance: Array | None) -> Array:
    """Standard normal rows given this covariance."""
    if covariance is None:
        return white
    check_positive_definite(name, covariance, white.shape[-1])
    factor = np.linalg.cholesky(np.asarray(covariance, dtype=np.float64)).astype(white.dtype)
    return np.asanyarray(white @ factor.T)
