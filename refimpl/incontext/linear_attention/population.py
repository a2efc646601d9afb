r"""How good one step is on average over tasks, and at which learning rate (Section 3)."""

from typing import Any

import numpy as np

from refimpl.incontext.linear_attention.descent import apply_linear, check_rates, gradient_descent
from refimpl.primitives.checks import check_integer, check_number
from refimpl.tasks.linear_regression import RegressionTasks, check_tasks

LEARNING_RATE_GRID = np.arange(0.001, 25.0, 0.1)
"""The grid of the authors' line search."""


def one_step_population_loss(
    learning_rate: Any,
    n_inputs: int,
    n_context: int,
    second_moment: Any,
    fourth_moment: Any,
    n_outputs: int = 1,
    weight_variance: Any = 1,
) -> Any:
    r"""Expected squared error $\mathbb E\lVert y_q-\hat y\rVert^2$ of one gradient step from $W_0=0$, exactly.

    $$N_y\sigma_w^2\mu_2N_x\Big[1-2\eta\mu_2+\frac{\eta^2}N\big(\mu_4+(N+N_x-2)\mu_2^2\big)\Big]$$

    for noiseless tasks $W_\tau\sim\mathcal N(0,\sigma_w^2I)$ and inputs with independent, identically distributed
    coordinates of mean zero; nothing else about their law matters. The paper's figures show half of it.

    Parameters
    ----------
    learning_rate : number > 0
    n_inputs, n_context, n_outputs : int >= 1
    second_moment, fourth_moment : number > 0
        $\mu_2,\mu_4$ of a coordinate of $x$.
    weight_variance : number > 0
        $\sigma_w^2$.

    Returns
    -------
    number

    Raises
    ------
    ValueError
        If an argument is out of range.

    Source: arXiv 2212.07677, Section 3 (the loss of Eq. 5 at the construction; the average is taken in closed form).
    """
    n_outputs = check_integer("n_outputs", n_outputs, 1)
    learning_rate = check_number("learning_rate", learning_rate, "(0, inf)")
    weight_variance = check_number("weight_variance", weight_variance, "(0, inf)")
    spread = _gram_spread(n_inputs, n_context, second_moment, fourth_moment)
    factor = n_outputs * weight_variance * second_moment * n_inputs
    return factor * (1 - 2 * learning_rate * second_moment + learning_rate**2 / n_context * spread)


def optimal_learning_rate(n_inputs: int, n_context: int, second_moment: Any, fourth_moment: Any) -> Any:
    r"""$\eta^*=N\mu_2/(\mu_4+(N+N_x-2)\mu_2^2)$, which minimises :func:`one_step_population_loss`; same errors.

    Source: arXiv 2212.07677, Section 3 (where it is found by line search).
    """
    return n_context * second_moment / _gram_spread(n_inputs, n_context, second_moment, fourth_moment)


def line_search_learning_rate(tasks: RegressionTasks, grid: Any = LEARNING_RATE_GRID, n_steps: int = 1) -> float:
    """The rate of the grid at which `n_steps` gradient steps from zero have the smallest mean squared query error.

    Raises
    ------
    ValueError
        If the tasks do not fit or are none, or the grid is empty or has a rate that is not positive.

    Source: arXiv 2212.07677, Section 3 and Appendix A.12.
    """
    check_tasks(tasks)
    n_steps = check_integer("n_steps", n_steps, 1)
    grid = check_rates("grid", grid, "(0, inf)")

    def error(learning_rate: Any) -> float:
        weights = gradient_descent(tasks.x, tasks.y, [learning_rate] * n_steps)
        return float(np.mean((apply_linear(weights, tasks.x_query) - tasks.y_query) ** 2))

    return float(min(grid, key=error))


def _gram_spread(n_inputs: int, n_context: int, second_moment: Any, fourth_moment: Any) -> Any:
    r"""$\mu_4+(N+N_x-2)\mu_2^2$, where $\mathbb E\,\mathrm{tr}(XX^\top)^2=NN_x$ times this."""
    n_inputs = check_integer("n_inputs", n_inputs, 1)
    n_context = check_integer("n_context", n_context, 1)
    second_moment = check_number("second_moment", second_moment, "(0, inf)")
    fourth_moment = check_number("fourth_moment", fourth_moment, "(0, inf)")
    return fourth_moment + (n_context + n_inputs - 2) * second_moment**2
