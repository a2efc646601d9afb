r"""What stability says about norms, and norms about generalisation (Section 4).

A stable learning rate bounds the sharpness, the sharpness a norm, and the norm the Rademacher complexity of all
functions within it: for SGD a norm that controls it, for gradient descent one that does not.
"""

from typing import Any

import numpy as np

from refimpl.dynamics.dynamical_stability.relu_net import mean_activation
from refimpl.primitives.checks import check_integer, check_number, check_shapes, checked
from refimpl.primitives.numbers import Array


def sgd_path_norm_bound(learning_rate: Any, d: int) -> Any:
    r"""$\|\theta\|_{\mathcal P}\le\frac2{\eta\sqrt d}$ for ReLU networks at which SGD is stable, in the population.

    Raises
    ------
    ValueError
        If a parameter is not positive.

    Source: arXiv 2305.17490, Section 4.
    """
    check_integer("d", d, 1)
    return 2 / (check_number("learning_rate", learning_rate, "(0, inf)") * d**0.5)


def gd_path_norm_bound(learning_rate: Any, d: int) -> Any:
    r"""$\|\theta\|_{\mathcal P}\le\frac1{c_d^2\eta}\approx\frac{2\pi}\eta$, all that the stability of GD gives.

    Raises
    ------
    ValueError
        If a parameter is not positive.

    Source: arXiv 2305.17490, Section 4; constant derived.
    """
    check_integer("d", d, 1)
    return 1 / (check_number("learning_rate", learning_rate, "(0, inf)") * mean_activation(d) ** 2)


def diagonal_norm_bound(learning_rate: Any, variance: Any = 1) -> Any:
    r"""$\frac1{\eta v}$, inputs of variance $v$: bounds $\|\beta\|_1$ by SGD's stability, $\|\beta\|_\infty$ by GD's.

    Raises
    ------
    ValueError
        If a parameter is not positive.

    Source: arXiv 2305.17490, Section 4.
    """
    check_number("variance", variance, "(0, inf)")
    return 1 / (check_number("learning_rate", learning_rate, "(0, inf)") * variance)


def _check_inputs(x: Array, norm: Any = 1) -> None:
    check_shapes(x=(x, "... n d"))
    check_number("norm", norm, "[0, inf)")


@checked(_check_inputs)
def rademacher_l1(x: Array, norm: Any = 1) -> Array:
    r"""$\hat{\mathcal R}_n\le\|\beta\|_1\max_i\|x_i\|_\infty\sqrt{2\ln(2d)/n}$ for linear functions of bounded norm.

    Parameters
    ----------
    x : array, shape (..., n, d)
    norm : number >= 0

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If it is empty, an entry is not finite or the norm is negative.

    Source: arXiv 2305.17490, Section 4 (generalisation); Massart's lemma on the 2 d vertices.
    """
    n, d = x.shape[-2:]
    return np.asanyarray(norm * np.abs(x).max(axis=(-2, -1)) * (2 * float(np.log(2 * d)) / n) ** 0.5)


@checked(_check_inputs)
def rademacher_path_norm(x: Array, norm: Any = 1) -> Array:
    r"""$\hat{\mathcal R}_n\le2\|\theta\|_{\mathcal P}\max_i\|x_i\|/\sqrt n$ for ReLU networks of bounded path norm.

    On the sphere of radius $\sqrt d$ that is $2\|\theta\|_{\mathcal P}\sqrt{d/n}$.

    Parameters
    ----------
    x : array, shape (..., n, d)
    norm : number >= 0

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If it is empty, an entry is not finite or the norm is negative.

    Source: arXiv 2305.17490, Section 4 (generalisation); the contraction lemma.
    """
    return np.asanyarray(2 * norm * np.sqrt((x * x).sum(axis=-1).max(axis=-1) / x.shape[-2]))


def _check_signs(x: Array, signs: Array) -> None:
    check_shapes(x=(x, "n d"), signs=(signs, "... n"))


@checked(_check_signs)
def l1_supremum(x: Array, signs: Array) -> Array:
    r"""$\sup_{\|\beta\|_1\le1}\frac1n\sum_i\varepsilon_i\beta^\top x_i=\|\frac1n\sum_i\varepsilon_ix_i\|_\infty$.

    Its mean over random signs is $\hat{\mathcal R}_n$.

    Parameters
    ----------
    x : array, shape (n, d)
    signs : array, shape (..., n)

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    return np.asanyarray(np.abs(signs @ x).max(axis=-1) / len(x))
