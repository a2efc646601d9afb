r"""Training and test error as functions of time: integrals over $\rho_\alpha$, or sums over actual eigenvalues.

A mode of eigenvalue $\lambda$ has unlearned $e^{-\lambda t/\tau}$ of the distance from its start to the teacher, and
amplified $\frac1{\sqrt\lambda}(1-e^{-\lambda t/\tau})$ of its noise. The sums are the exact expectations over teacher,
start and noise for given inputs; the integrals are their limit $N\to\infty$ at $P/N=\alpha$.

All errors include the noise $\sigma_\epsilon^2$ of the test labels, and are means of squares without a factor 1/2.
"""

from typing import Any

import numpy as np

from refimpl.dynamics.high_dimensional.linear import at_times, check_times, flow_filter, remaining
from refimpl.dynamics.high_dimensional.spectrum import quadrature_for
from refimpl.primitives.checks import check_array, check_integer, check_number
from refimpl.primitives.marchenko_pastur import Quadrature
from refimpl.primitives.numbers import Array, is_symbolic


def check_variances(signal_variance: Any, noise_variance: Any, init_variance: Any) -> tuple[Any, Any, Any]:
    """The three variances as Python numbers; ``ValueError`` for a negative one."""
    return (
        check_number("signal_variance", signal_variance, "[0, inf)"),
        check_number("noise_variance", noise_variance, "[0, inf)"),
        check_number("init_variance", init_variance, "[0, inf)"),
    )


def check_eigenvalues(eigenvalues: Any) -> Array:
    """The eigenvalues as an array; ``ValueError`` for none, or a negative one."""
    eigenvalues = check_array("eigenvalues", eigenvalues)
    if eigenvalues.ndim < 1 or eigenvalues.shape[-1] < 1:
        raise ValueError(f"eigenvalues: expected shape (..., n_inputs), got {eigenvalues.shape}")
    if eigenvalues.dtype != object and not np.all(eigenvalues >= 0):
        raise ValueError(f"eigenvalues: expected numbers >= 0, got {eigenvalues.min()}")
    return eigenvalues


def _over_eigenvalue(values: Array, eigenvalues: Array) -> Array:
    r"""Values over $\lambda$, and 0 where $\lambda=0$: their limit, for they are $O(\lambda^2)$."""
    zero = eigenvalues == 0
    return np.asanyarray(np.where(zero, 0, values / np.where(zero, 1, eigenvalues)))


# --- expectations for given inputs ---


def generalization_error_empirical(
    t: Any,
    eigenvalues: Array,
    signal_variance: Any,
    noise_variance: Any,
    init_variance: Any,
    tau: Any = 1,
) -> Array:
    r"""$\frac1N\sum_i\big[(\sigma_w^2+(\sigma_w^0)^2)e^{-2\lambda_it/\tau}+
    \frac{\sigma_\epsilon^2}{\lambda_i}(1-e^{-\lambda_it/\tau})^2\big]+\sigma_\epsilon^2$.

    Parameters
    ----------
    t : float or array of any shape, >= 0
    eigenvalues : array, shape (..., n_inputs), >= 0
        All $N$ of them, of :func:`input_eigenvalues`; what only roundoff keeps from 0 must be 0.
    signal_variance, noise_variance, init_variance : numbers >= 0
        $\sigma_w^2,\sigma_\epsilon^2,(\sigma_w^0)^2$.
    tau : number > 0

    Returns
    -------
    array, shape (*t.shape, ...)

    Raises
    ------
    ValueError
        If a time, an eigenvalue or a variance is negative, an entry not finite or the time constant not positive.

    Source: arXiv 1710.03667, generalization dynamics at finite size.
    """
    t, eigenvalues = check_times(t, tau), check_eigenvalues(eigenvalues)
    signal, noise, init = check_variances(signal_variance, noise_variance, init_variance)
    unlearned = remaining(eigenvalues, t, tau) ** 2
    learned = flow_filter(eigenvalues, at_times(t, eigenvalues), tau) ** 2
    modes = (signal + init) * unlearned + noise * _over_eigenvalue(learned, eigenvalues)
    return np.asanyarray(modes.sum(axis=-1) / eigenvalues.shape[-1] + noise)


def training_error_empirical(
    t: Any,
    eigenvalues: Array,
    n_examples: int,
    signal_variance: Any,
    noise_variance: Any,
    init_variance: Any,
    tau: Any = 1,
) -> Array:
    r"""$\frac1P\sum_i\big[\lambda_i(\sigma_w^2+(\sigma_w^0)^2)+\sigma_\epsilon^2\big]e^{-2\lambda_it/\tau}$ over
    $\min(N,P)$ modes, and $(1-N/P)_+\sigma_\epsilon^2$ that no weights can fit.

    Parameters
    ----------
    t, eigenvalues, signal_variance, noise_variance, init_variance, tau : as for :func:`generalization_error_empirical`
        If $N>P$ the first $N-P$ eigenvalues, which must be 0, are left out: they are directions without data.
    n_examples : int >= 1
        $P$.

    Returns
    -------
    array, shape (*t.shape, ...)

    Raises
    ------
    ValueError
        As there, or if one of the eigenvalues left out is not 0.

    Source: arXiv 1710.03667, training dynamics at finite size.
    """
    t, eigenvalues = check_times(t, tau), check_eigenvalues(eigenvalues)
    n_examples = check_integer("n_examples", n_examples, 1)
    signal, noise, init = check_variances(signal_variance, noise_variance, init_variance)
    n_inputs = eigenvalues.shape[-1]
    idle, active = np.split(eigenvalues, [max(0, n_inputs - n_examples)], axis=-1)
    if np.any(idle != 0):
        raise ValueError(f"eigenvalues: expected {idle.shape[-1]} zeros first, for {n_inputs} inputs, got {idle}")
    modes = (active * (signal + init) + noise) * remaining(active, t, tau) ** 2
    return np.asanyarray((modes.sum(axis=-1) + max(0, n_examples - n_inputs) * noise) / n_examples)


def weight_norm_empirical(
    t: Any,
    eigenvalues: Array,
    signal_variance: Any,
    noise_variance: Any,
    init_variance: Any,
    tau: Any = 1,
) -> Array:
    r"""$\frac1N\sum_i\big[(\sigma_w^2+\frac{\sigma_\epsilon^2}{\lambda_i})(1-e^{-\lambda_it/\tau})^2+(\sigma_w^0)^2
    e^{-2\lambda_it/\tau}\big]$, the expectation of $\frac1N\lVert w(t)\rVert^2$ for given inputs.

    Parameters, returned shape and errors as for :func:`generalization_error_empirical`.
    """
    t, eigenvalues = check_times(t, tau), check_eigenvalues(eigenvalues)
    signal, noise, init = check_variances(signal_variance, noise_variance, init_variance)
    learned = flow_filter(eigenvalues, at_times(t, eigenvalues), tau) ** 2
    modes = signal * learned + noise * _over_eigenvalue(learned, eigenvalues)
    modes = modes + init * remaining(eigenvalues, t, tau) ** 2
    return np.asanyarray(modes.sum(axis=-1) / eigenvalues.shape[-1])


# --- their limit ---


def _in_the_limit(t: Any, load: Any, tau: Any) -> tuple[Array, Any, Quadrature, Array]:
    r"""Checked times and load, a quadrature that suffices for them, and $e^{-\lambda t/\tau}$ at its nodes."""
    t = check_times(t, tau)
    if is_symbolic(t):
        raise ValueError("t: expected a floating-point array, got symbols, over which nothing integrates")
    load = check_number("load", load, "(0, inf)")
    quadrature = quadrature_for(load, np.max(t, initial=0) / tau, t.dtype)
    return t, load, quadrature, remaining(quadrature.nodes, t, tau)


def generalization_error(
    t: Any, load: float, signal_variance: float, noise_variance: float, init_variance: float, tau: float = 1
) -> Array:
    r"""$E_g(t)=\int\rho_\alpha\big[(\sigma_w^2+(\sigma_w^0)^2)e^{-2\lambda t/\tau}+\frac{\sigma_\epsilon^2}\lambda
    (1-e^{-\lambda t/\tau})^2\big]d\lambda+\sigma_\epsilon^2$.

    Divided by $\sigma_\epsilon^2$ it depends on $SNR=\sigma_w^2/\sigma_\epsilon^2$ and
    $INR=(\sigma_w^0)^2/\sigma_\epsilon^2$ alone.

    Parameters
    ----------
    t : float or array of any shape, >= 0
    load : float > 0
        $\alpha=P/N$.
    signal_variance, noise_variance, init_variance : float >= 0
        $\sigma_w^2,\sigma_\epsilon^2,(\sigma_w^0)^2$; without noise the ratio of signal to noise is infinite.
    tau : float > 0

    Returns
    -------
    array, shape of `t`

    Raises
    ------
    ValueError
        If the load or the time constant is not positive, a time or a variance negative, or a number not finite.

    Source: arXiv 1710.03667, generalization dynamics.
    """
    signal, noise, init = check_variances(signal_variance, noise_variance, init_variance)
    t, _, (nodes, weights, at_zero), decay = _in_the_limit(t, load, tau)
    learned = 1 - decay
    unlearned = (signal + init) * ((decay * decay) @ weights + at_zero)
    return np.asanyarray(unlearned + noise * ((learned * learned) @ (weights / nodes)) + noise)


def generalization_error_slope(
    t: Any, load: float, signal_variance: float, noise_variance: float, init_variance: float, tau: float = 1
) -> Array:
    r"""$\frac{dE_g}{dt}=\frac2\tau\int\rho_\alpha\,e^{-\lambda t/\tau}\big[\sigma_\epsilon^2(1-e^{-\lambda t/\tau})
    -\lambda(\sigma_w^2+(\sigma_w^0)^2)e^{-\lambda t/\tau}\big]d\lambda$.

    Parameters, errors as for :func:`generalization_error`.
    """
    signal, noise, init = check_variances(signal_variance, noise_variance, init_variance)
    t, _, (nodes, weights, _), decay = _in_the_limit(t, load, tau)
    gained = (decay * (1 - decay)) @ weights
    lost = (decay * decay) @ (weights * nodes)
    return np.asanyarray(2 * (noise * gained - (signal + init) * lost) / tau)


def training_error(
    t: Any, load: float, signal_variance: float, noise_variance: float, init_variance: float, tau: float = 1
) -> Array:
    r"""$E_t(t)=\frac1\alpha\int_{\lambda>0}\rho_\alpha\big[\lambda(\sigma_w^2+(\sigma_w^0)^2)+\sigma_\epsilon^2\big]
    e^{-2\lambda t/\tau}d\lambda+(1-\tfrac1\alpha)_+\sigma_\epsilon^2$.

    Parameters, errors as for :func:`generalization_error`.

    Source: arXiv 1710.03667, training dynamics.
    """
    signal, noise, init = check_variances(signal_variance, noise_variance, init_variance)
    t, load, (nodes, weights, at_zero), decay = _in_the_limit(t, load, tau)
    fitted = (decay * decay) @ (weights * (nodes * (signal + init) + noise))
    missed = at_zero - max(0, 1 - load)  # of the pole at 0, by the nodes
    return np.asanyarray((fitted + noise * missed) / load + max(0, 1 - 1 / load) * noise)


def weight_norm(
    t: Any, load: float, signal_variance: float, noise_variance: float, init_variance: float, tau: float = 1
) -> Array:
    r"""$\frac1N\mathbb E\lVert w(t)\rVert^2=\int\rho_\alpha\big[(\sigma_w^2+\frac{\sigma_\epsilon^2}\lambda)
    (1-e^{-\lambda t/\tau})^2+(\sigma_w^0)^2e^{-2\lambda t/\tau}\big]d\lambda$.

    Parameters, errors as for :func:`generalization_error`.

    Source: arXiv 1710.03667, the norm of the weights.
    """
    signal, noise, init = check_variances(signal_variance, noise_variance, init_variance)
    t, _, (nodes, weights, at_zero), decay = _in_the_limit(t, load, tau)
    learned = (1 - decay) ** 2 @ (weights * (signal + noise / nodes))
    return np.asanyarray(learned + init * ((decay * decay) @ weights + at_zero))


def asymptotic_generalization_error(load: float, signal_variance: Any, noise_variance: Any, init_variance: Any) -> Any:
    r"""$E_g(\infty)=(1-\alpha)_+(\sigma_w^2+(\sigma_w^0)^2)+\sigma_\epsilon^2\frac{\min(\alpha,1)}{|1-\alpha|}+
    \sigma_\epsilon^2$, infinite at $\alpha=1$ if there is noise.

    Parameters
    ----------
    load : float > 0
    signal_variance, noise_variance, init_variance : numbers >= 0, or symbols

    Raises
    ------
    ValueError
        If the load is not positive or a variance negative.

    Source: arXiv 1710.03667, the end of training.
    """
    load = check_number("load", load, "(0, inf)")
    signal, noise, init = check_variances(signal_variance, noise_variance, init_variance)
    if load == 1:
        return noise if noise == 0 else float("inf")
    return max(0, 1 - load) * (signal + init) + noise * min(load, 1) / abs(1 - load) + noise
