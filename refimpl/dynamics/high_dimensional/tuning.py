r"""When to stop, and how much to shrink: optimal early stopping and optimal ridge regression.

Both depend on the ratios $SNR=\sigma_w^2/\sigma_\epsilon^2$ and $INR=(\sigma_w^0)^2/\sigma_\epsilon^2$ alone.
"""

from typing import Any

import numpy as np

from refimpl.dynamics.high_dimensional.errors import check_eigenvalues
from refimpl.dynamics.high_dimensional.linear import at_times
from refimpl.dynamics.high_dimensional.spectrum import eigenvalue_edges, eigenvalue_resolvent, quadrature_for
from refimpl.primitives.checks import check_array, check_number
from refimpl.primitives.marchenko_pastur import Quadrature
from refimpl.primitives.numbers import Array, is_symbolic, log1p, sqrt

MAX_ITERATIONS = 200
CONVERGED = 1 / 16  # of the root of roundoff


def _check_ratios(snr: Any, inr: Any, tau: Any) -> Array:
    r"""$SNR+INR$ as an array; ``ValueError`` for a negative ratio or a time constant that is not positive."""
    snr = check_array("snr", snr)
    inr = check_number("inr", inr, "[0, inf)")
    check_number("tau", tau, "(0, inf)")
    if not is_symbolic(snr) and not np.all(snr >= 0):
        raise ValueError(f"snr: expected numbers >= 0, got {snr.min()}")
    return snr + inr


def mode_stopping_time(eigenvalues: Array, snr: Any, inr: Any = 0, tau: Any = 1) -> Array:
    r"""$t^*(\lambda)=\frac\tau\lambda\ln(1+\lambda(SNR+INR))$, when a mode alone would best stop; $\tau(SNR+INR)$ at 0.

    Parameters
    ----------
    eigenvalues : array of any shape, >= 0, or of symbols
    snr : number or array that broadcasts against them, >= 0
    inr : number >= 0
    tau : number > 0

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If an argument is negative, not finite, or the time constant not positive.

    Source: arXiv 1710.03667, optimal stopping; decreasing in the eigenvalue.
    """
    total = _check_ratios(snr, inr, tau)
    eigenvalues = check_eigenvalues(np.atleast_1d(eigenvalues)).reshape(np.shape(eigenvalues))
    zero = eigenvalues == 0
    return np.asanyarray(np.where(zero, total, log1p(eigenvalues * total) / np.where(zero, 1, eigenvalues)) * tau)


def _balance(time: Array, low: float, total: Array, quadrature: Quadrature) -> tuple[Array, Array]:
    r"""How far beyond the optimum a time is, and the derivative of that (in time, $\tau=1$).

    $\ln\int\rho(e^{-\lambda t}-e^{-2\lambda t})-\ln\big((SNR+INR)\int\rho\lambda e^{-2\lambda t}\big)$: the logarithm
    of what $dE_g/dt$ gains over what it loses. Exponentials are taken relative to the lower edge, so that nothing
    underflows; the function is then close to linear in $t$, or in $\ln t$ if the edge is 0.
    """
    nodes, weights, _ = quadrature
    above = np.exp(-np.multiply.outer(time, nodes - low))
    decay = above * np.exp(-time * low)[..., None]
    squared = above * above
    gained, lost = (above * (1 - decay)) @ weights, squared @ (weights * nodes)
    gained_rate = (above * (2 * decay - 1)) @ (weights * nodes)
    lost_rate = -2 * squared @ (weights * nodes * nodes)
    with np.errstate(divide="ignore"):
        value = time * low + np.log(gained) - np.log(total * lost)
    return value, gained_rate / gained - lost_rate / lost


def optimal_stopping_time(load: float, snr: Any, inr: float = 0, tau: float = 1) -> Array:
    r"""The time at which $E_g$ is least, to full precision.

    The root of $dE_g/dt$ between the stopping times of the largest and of the smallest eigenvalue, by Newton's method
    with bisection as its guard. A search for the minimum itself would not do: $E_g$ is flat at late times.

    Parameters
    ----------
    load : float > 0
        $\alpha=P/N$.
    snr : float or array of any shape, >= 0
    inr : float >= 0
    tau : float > 0

    Returns
    -------
    array, shape of `snr`; 0 where both ratios are 0

    Raises
    ------
    ValueError
        If the load or the time constant is not positive, a ratio negative, or a number not finite.

    Source: arXiv 1710.03667, optimal stopping.
    """
    total = _check_ratios(snr, inr, tau)
    if is_symbolic(total):
        raise ValueError("snr: expected a floating-point array, got symbols, for which no root is searched")
    low, high = (total.dtype.type(edge) for edge in eigenvalue_edges(load))
    early, late = (mode_stopping_time(np.full_like(total, edge), total) for edge in (high, low))
    quadrature = quadrature_for(check_number("load", load, "(0, inf)"), np.max(late, initial=0), total.dtype)
    positive = total > 0
    safe = np.where(positive, total, 1)
    early, late = np.where(positive, early, 1), np.where(positive, late, 1)
    time = np.sqrt(early * late)
    for _ in range(MAX_ITERATIONS):
        value, slope = _balance(time, low, safe, quadrature)
        early, late = np.where(value < 0, time, early), np.where(value < 0, late, time)
        # In ln t where the edge is 0 and the function logarithmic, in t otherwise.
        step = value / slope
        proposed = time - step if low > 0 else time * np.exp(-np.clip(step / time, -2, 2))
        inside = (proposed >= early) & (proposed <= late)
        following = np.where(inside, proposed, np.sqrt(early * late))
        # Newton's error is next that change squared.
        if np.all(np.abs(following - time) <= CONVERGED * np.finfo(total.dtype).eps ** 0.5 * time):
            break
        time = following
    return np.asanyarray(np.where(positive, following, 0) * tau)


# --- ridge ---


def ridge_generalization_error(penalty: Array, load: Any, signal_variance: Any, noise_variance: Any) -> Array:
    r"""$E_g(\gamma)=\int\rho_\alpha\frac{\sigma_w^2\gamma^2+\sigma_\epsilon^2\lambda}{(\lambda+\gamma)^2}d\lambda+
    \sigma_\epsilon^2$ of $w=yX^\top(XX^\top+\gamma I)^{-1}$, in closed form.

    With the resolvent $m$, $\int\frac\rho{(\lambda+\gamma)^2}=-m'=\frac{m(m+1)}{\sqrt{(\gamma+\alpha-1)^2+4\gamma}}$.

    Parameters
    ----------
    penalty : array of numbers > 0, or of symbols
        $\gamma$.
    load : number > 0, or a symbol
    signal_variance, noise_variance : numbers >= 0, or symbols

    Returns
    -------
    array, shape of `penalty`

    Raises
    ------
    ValueError
        If a penalty or the load is not positive, or a variance negative.

    Source: arXiv 1710.03667, comparison with ridge regression.
    """
    penalty = check_array("penalty", penalty)
    signal = check_number("signal_variance", signal_variance, "[0, inf)")
    noise = check_number("noise_variance", noise_variance, "[0, inf)")
    resolvent = eigenvalue_resolvent(penalty, load)
    squared = resolvent * (resolvent + 1) / sqrt((penalty + load - 1) ** 2 + 4 * penalty)
    return np.asanyarray(signal * penalty**2 * squared + noise * (resolvent - penalty * squared) + noise)


def ridge_generalization_error_empirical(
    penalty: Array, eigenvalues: Array, signal_variance: Any, noise_variance: Any
) -> Array:
    r"""$\frac1N\sum_i\frac{\sigma_w^2\gamma^2+\sigma_\epsilon^2\lambda_i}{(\lambda_i+\gamma)^2}+\sigma_\epsilon^2$.

    Parameters
    ----------
    penalty : array of any shape, > 0, or of symbols
    eigenvalues : array, shape (..., n_inputs), >= 0
    signal_variance, noise_variance : numbers >= 0

    Returns
    -------
    array, shape (*penalty.shape, ...)

    Raises
    ------
    ValueError
        If a penalty is not positive, or an eigenvalue or a variance negative.

    Source: arXiv 1710.03667, comparison with ridge regression at finite size.
    """
    penalty, eigenvalues = check_array("penalty", penalty), check_eigenvalues(eigenvalues)
    if not is_symbolic(penalty) and not np.all(penalty > 0):
        raise ValueError(f"penalty: expected numbers > 0, got {penalty.min()}")
    signal = check_number("signal_variance", signal_variance, "[0, inf)")
    noise = check_number("noise_variance", noise_variance, "[0, inf)")
    shift = at_times(penalty, eigenvalues)
    modes = (signal * shift**2 + noise * eigenvalues) / (eigenvalues + shift) ** 2
    return np.asanyarray(modes.sum(axis=-1) / eigenvalues.shape[-1] + noise)


def optimal_ridge(snr: float) -> float:
    r"""$\gamma=1/SNR$, whatever the spectrum; 0 for an infinite ratio, infinite for a ratio of 0.

    Raises
    ------
    ValueError
        If the ratio is negative or not a number.

    Source: arXiv 1710.03667, comparison with ridge regression.
    """
    snr = check_number("snr", snr, "[0, inf]")
    return 1 / snr if snr > 0 else float("inf")


def optimal_ridge_error(load: Any, signal_variance: Any, noise_variance: Any) -> Any:
    r"""$\sigma_\epsilon^2(1+m(\sigma_\epsilon^2/\sigma_w^2))$, the least error of ridge regression.

    Parameters
    ----------
    load : number > 0, or a symbol
    signal_variance, noise_variance : numbers > 0, or symbols

    Raises
    ------
    ValueError
        If an argument is not positive.

    Source: arXiv 1710.03667, comparison with ridge regression.
    """
    signal = check_number("signal_variance", signal_variance, "(0, inf)")
    noise = check_number("noise_variance", noise_variance, "(0, inf)")
    return noise * (1 + eigenvalue_resolvent(np.asarray(noise / signal), load)[()])
