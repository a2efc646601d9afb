r"""Signal and noise of the perceptron over time in the limit of many features, late times, and the exponents."""

from typing import Any, NamedTuple

import numpy as np

from refimpl.dynamics.sgd_noise_regimes.population import (
    check_chi,
    noise_restoring,
    population_functions,
    signal_drive,
    unfitted_fraction,
)
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array, constant, is_symbolic, sqrt
from refimpl.primitives.special import gamma_ratio

# --- the flow ---


class OrderParameters(NamedTuple):
    """Signal and noise at all times."""

    signal: Array
    r"""$m=w_1/\sqrt d$."""
    noise: Array
    r"""$q=\lVert w_\perp\rVert/\sqrt d$."""


class OrderParameterRates(NamedTuple):
    """What the order parameters change by in a unit of rescaled time."""

    signal: Array
    r"""$dm/d\tau$."""
    log_noise: Array
    r"""$d\ln q/d\tau$."""


def _check_rates(signal: Array, noise: Array, temperature: Any, margin: Any, chi: Any) -> None:
    check_shapes(signal=(signal, "..."), noise=(noise, "..."))
    if not np.min(noise, initial=np.inf) > 0:
        raise ValueError(f"noise: expected numbers > 0, got {np.min(noise)}")
    check_number("temperature", temperature, "[0, inf)")
    check_number("margin", margin, "[0, inf)")
    check_chi(chi)


@checked(_check_rates)
def order_parameter_rates(signal: Array, noise: Array, temperature: Any, margin: Any, chi: Any) -> OrderParameterRates:
    r"""$\frac{dm}{d\tau}=g_1$, $\frac{d\ln q}{d\tau}=-\frac{g_\perp}q+\frac{Tn}{2q^2}$.

    The noise enters by its logarithm: at temperature 0 it decays exponentially, and $q^2$ would step below 0.

    Parameters
    ----------
    signal : array
        $m$.
    noise : array of the same shape, > 0
        $q$.
    temperature : number >= 0
        $T=\eta/B$.
    margin : number >= 0
        $\kappa$.
    chi : number > -1

    Returns
    -------
    OrderParameterRates

    Raises
    ------
    ValueError
        If shapes do not fit or a number is out of range or not finite.

    Source: arXiv 2301.13703, the stochastic differential equation, averaged by the formula of Ito (derived).
    """
    if margin == 0:
        ratio = np.asanyarray(signal / noise)
        n = unfitted_fraction.unchecked(ratio, chi)
        drive, restoring = signal_drive.unchecked(ratio, chi), noise_restoring.unchecked(ratio, chi)
    else:
        n, drive, restoring = population_functions.unchecked(signal, noise, np.full_like(signal, margin), chi)
    return OrderParameterRates(drive, np.asanyarray(temperature * n / (2 * noise * noise) - restoring / noise))


def _check_times(tau: Array) -> None:
    check_shapes(tau=(tau, "n_times"))
    if tau[0] < 0 or np.any(np.diff(tau) < 0):
        raise ValueError(f"tau: expected times >= 0 that do not decrease, got {tau!r:.80}")


def order_parameter_flow(
    temperature: float, chi: float, margin: float, tau: Array, signal0: float, noise0: float
) -> OrderParameters:
    r"""The order parameters at the times $\tau=t/d$, from $(m_0,q_0)$ at 0, to eight digits (LSODA; float64 only).

    Parameters
    ----------
    temperature : float >= 0
    chi : float > -1
    margin : float >= 0
    tau : array, shape (n_times,), n_times >= 1
        Not decreasing, >= 0.
    signal0 : float
    noise0 : float > 0

    Returns
    -------
    OrderParameters of shape (n_times,)

    Raises
    ------
    ValueError
        If a number is out of range or the times are none, negative or decreasing.
    ArithmeticError
        If the solver gives up.

    Source: arXiv 2301.13703, the perceptron in the limit of many features (derived).
    """
    from scipy.integrate import solve_ivp

    temperature = check_number("temperature", temperature, "[0, inf)")
    chi, margin = check_chi(chi), check_number("margin", margin, "[0, inf)")
    _check_times(tau)
    signal0, noise0 = check_number("signal0", signal0), check_number("noise0", noise0, "(0, inf)")

    def rates(_: float, state: Array) -> Array:
        # At temperature 0 the noise underflows, and the ratio with it.
        signal, noise = np.asarray(state[0]), np.exp(np.asarray(max(state[1], -300.0)))
        return np.array(order_parameter_rates.unchecked(signal, noise, temperature, margin, chi))

    start = np.array([signal0, np.log(noise0)])
    if tau[-1] == 0:
        path = np.repeat(start[:, None], len(tau), axis=1)
    else:
        once, places = np.unique(np.asarray(tau, float), return_inverse=True)
        solved = solve_ivp(rates, (0, once[-1]), start, "LSODA", once, rtol=1e-8, atol=1e-10 * noise0)
        if not solved.success:
            raise ArithmeticError(f"order_parameter_flow: {solved.message}")
        path = solved.y[:, places]
    return OrderParameters(path[0], np.exp(path[1]))


def simulate_order_parameters(
    n_runs: int,
    n_features: int,
    temperature: float,
    batch_size: int,
    chi: float,
    margin: float,
    tau: Array,
    signal0: float,
    noise0: float,
    rng: np.random.Generator,
) -> OrderParameters:
    r"""Online SGD, a fresh batch each step, at finitely many features, in its order parameters alone: exact in law.

    The step depends on $w_\perp$ only through its length, and active points have independent normal components across
    it. So $K$ of them move $w_\perp/\sqrt d$ by $c\sum z_i$ along itself, $c=\eta/(Bd)$, and by a vector of squared
    length $c^2K\chi^2_{d-2}$ across.

    Parameters
    ----------
    n_runs, batch_size : int >= 1
    n_features : int >= 3
    temperature : float > 0
        $T$; the learning rate is $TB$.
    chi : float > -1
    margin : float >= 0
    tau : array, shape (n_times,), n_times >= 1
        Not decreasing, >= 0; each is rounded to a number of steps.
    signal0 : float
    noise0 : float > 0
    rng : numpy.random.Generator

    Returns
    -------
    OrderParameters of shape (n_times, n_runs)

    Raises
    ------
    ValueError
        If a number is out of range or the times are none, negative or decreasing.

    Source: arXiv 2301.13703, the algorithm of the setting, on fresh samples.
    """
    n_runs, batch_size = check_integer("n_runs", n_runs, 1), check_integer("batch_size", batch_size, 1)
    n_features = check_integer("n_features", n_features, 3)
    temperature = check_number("temperature", temperature, "(0, inf)")
    chi, margin = check_chi(chi), check_number("margin", margin, "[0, inf)")
    _check_times(tau)
    state = np.empty((n_runs, 2))
    state[:] = check_number("signal0", signal0), check_number("noise0", noise0, "(0, inf)")
    stops = np.rint(tau * n_features / (temperature * batch_size)).astype(int)
    per_point = temperature / n_features
    path = np.empty((len(stops), n_runs, 2))
    block = 256
    points = np.ones((block, n_runs, 3, batch_size))
    for step in range(stops[-1] + 1):
        place = step % block
        if place == 0:
            points[:, :, 0] = np.sqrt(rng.chisquare(chi + 1, (block, n_runs, batch_size)))
            points[:, :, 1] = rng.standard_normal((block, n_runs, batch_size))
            across = per_point**2 * rng.chisquare(n_features - 2, (block, n_runs))
            due = set(stops[(stops >= step) & (stops < step + block)].tolist())
        if step in due:
            path[stops == step] = state
        drawn = points[place]
        active = (state[:, None] @ drawn[:, :2])[:, 0] < margin
        # Sums over active points of s, of z and of one.
        sums = (drawn @ active[..., None].astype(float))[..., 0]
        state = state + per_point * sums[:, :2]
        state[:, 1] = np.sqrt(state[:, 1] ** 2 + sums[:, 2] * across[place])
    return OrderParameters(path[..., 0], path[..., 1])


# --- late times ---


class TailConstants(NamedTuple):
    r"""Prefactors at large $\lambda$, without a margin; $k=\chi+1$."""

    unfitted: Any
    r"""$C_n=\frac{\Gamma((k+1)/2)}{\sqrt\pi\,k\,\Gamma(k/2)}$ of $n\simeq C_n\lambda^{-k}$."""
    drive: Any
    r"""$C_1=\frac k{\sqrt{2\pi}(k+1)}$ of $g_1\simeq C_1\lambda^{-(k+1)}$."""
    noise: Any
    r"""$c_q=\frac{\Gamma((k+1)/2)}{\sqrt2\,k\,\Gamma(k/2)}$ of the quasi-static noise $q^*=c_qT$."""


def tail_constants(chi: Any) -> TailConstants:
    r"""The prefactors of the tails, numbers or expressions.

    Parameters
    ----------
    chi : number > -1, or a symbol

    Raises
    ------
    ValueError
        If `chi` is out of range.

    Source: arXiv 2301.13703, the perceptron (derived).
    """
    chi = check_chi(chi)
    like = np.asarray(chi, dtype=object if getattr(chi, "is_commutative", False) else np.result_type(chi, float))
    k = chi + 1
    ratio, pi, two = gamma_ratio(k / 2, like), constant("pi", like), constant(2, like)
    found = ratio / (sqrt(pi) * k), k / (sqrt(two * pi) * (k + 1)), ratio / (sqrt(two) * k)
    return TailConstants(*(np.asarray(value)[()] for value in found))


def _check_late(tau: Array, temperature: Any, chi: Any) -> None:
    check_shapes(tau=(tau, "..."))
    if not is_symbolic(tau) and not np.min(tau, initial=1) > 0:
        raise ValueError(f"tau: expected times > 0, got {np.min(tau)}")
    check_number("temperature", temperature, "(0, inf)")
    check_chi(chi)


def _constants_for(tau: Array, chi: Any) -> tuple[Array, ...]:
    return tuple(np.asarray(value, dtype=tau.dtype) for value in tail_constants(chi))


@checked(_check_late)
def late_time_overlap_ratio(tau: Array, temperature: Any, chi: Any) -> Array:
    r"""$\lambda=[(k+2)C_1\tau/q^*]^{1/(k+2)}\propto(\tau/T)^{1/(\chi+3)}$, $q^*=c_qT$, without a margin.

    Parameters
    ----------
    tau : array, > 0
        $t/d$, large.
    temperature : number > 0
    chi : number > -1

    Returns
    -------
    array of the same shape

    Raises
    ------
    ValueError
        If a number is out of range or not finite.

    Source: arXiv 2301.13703, the perceptron at late times (derived).
    """
    _, drive, noise = _constants_for(tau, chi)
    return np.asanyarray(((chi + 3) * drive * tau / (noise * temperature)) ** (1 / (chi + 3)))


@checked(_check_late)
def late_time_signal(tau: Array, temperature: Any, chi: Any) -> Array:
    r"""$m=\lambda q^*=[(k+2)C_1(q^*)^{k+1}\tau]^{1/(k+2)}$, which solves $\dot m=C_1(q^*/m)^{k+1}$.

    Parameters
    ----------
    tau, temperature, chi : as for :func:`late_time_overlap_ratio`

    Returns
    -------
    array of the same shape

    Raises
    ------
    ValueError
        As :func:`late_time_overlap_ratio`.

    Source: arXiv 2301.13703, the perceptron at late times (derived).
    """
    noise = _constants_for(tau, chi)[2] * temperature
    return np.asanyarray(noise * late_time_overlap_ratio.unchecked(tau, temperature, chi))


def predicted_training_time(temperature: Any, n_samples: Any, n_features: Any, chi: Any) -> Any:
    r"""$t^*=\frac{d\,c_qT(\lambda^*)^{k+2}}{(k+2)C_1}$, where one point is left: $\lambda^*=(C_nP)^{1/k}$.

    Parameters
    ----------
    temperature : number > 0
    n_samples : int >= 1
    n_features : int >= 2
    chi : number > -1

    Returns
    -------
    number, or an expression of symbols

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: arXiv 2301.13703, the training time of the perceptron.
    """
    temperature = check_number("temperature", temperature, "(0, inf)")
    n_samples, n_features = check_integer("n_samples", n_samples, 1), check_integer("n_features", n_features, 2)
    unfitted, drive, noise = tail_constants(chi)
    ratio = (unfitted * n_samples) ** (1 / (chi + 1))
    return n_features * noise * temperature * ratio ** (chi + 3) / ((chi + 3) * drive)


# --- exponents ---


class PerceptronExponents(NamedTuple):
    r"""Of $\Delta w\sim T^\delta P^\gamma$, $t^*\sim TP^b$, $T_c\sim P^{-a}$."""

    delta: Any
    gamma: Any
    b: Any
    a: Any


def perceptron_exponents(chi: Any) -> PerceptronExponents:
    r"""$\delta=1$, $\gamma=\frac1{1+\chi}$, $b=1+\frac2{1+\chi}$, $a=\gamma/\delta$.

    Parameters
    ----------
    chi : number > -1, or a symbol

    Raises
    ------
    ValueError
        If `chi` is out of range.

    Source: arXiv 2301.13703, the exponents of the perceptron.
    """
    gamma = 1 / (1 + check_chi(chi))
    return PerceptronExponents(1, gamma, 1 + 2 * gamma, critical_temperature_exponent(1, gamma))


def critical_temperature_exponent(delta: Any, gamma: Any) -> Any:
    r"""$a=\gamma/\delta$: $T^\delta P^\gamma$ is of order one along $T_c\sim P^{-a}$, where the lazy regime ends.

    Parameters
    ----------
    delta : number > 0
    gamma : number >= 0

    Raises
    ------
    ValueError
        If a number is out of range.

    Source: arXiv 2301.13703, the escape from the lazy regime.
    """
    return check_number("gamma", gamma, "[0, inf)") / check_number("delta", delta, "(0, inf)")
