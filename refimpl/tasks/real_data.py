"""Small real data sets as prompts (extra ``data``)."""

import numpy as np

from refimpl.primitives.checks import check_integer
from refimpl.tasks.linear_regression import RegressionTasks


def diabetes_prompts(n_tasks: int, n_context: int, rng: np.random.Generator) -> RegressionTasks:
    """Prompts whose rows are patients of scikit-learn's bundled diabetes data, each row at most once in a prompt.

    The ten features and the target (progression of the disease after a year) are standardised over all 442 patients to
    mean 0 and variance 1.

    Parameters
    ----------
    n_tasks : int >= 1
    n_context : int from 1 to 441
    rng : numpy.random.Generator

    Returns
    -------
    RegressionTasks with 10 inputs and 1 output

    Raises
    ------
    ValueError
        If a size is out of range.
    """
    from sklearn.datasets import load_diabetes

    features, target = load_diabetes(return_X_y=True)
    rows = np.column_stack([features, target])
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    n_tasks = check_integer("n_tasks", n_tasks, 1)
    n_context = check_integer("n_context", n_context, 1, len(rows) - 1)
    chosen = rng.permuted(np.tile(np.arange(len(rows)), (n_tasks, 1)), axis=1)[:, : n_context + 1]
    columns = np.swapaxes(rows[chosen], -1, -2)
    return RegressionTasks(columns[:, :-1, :-1], columns[:, -1:, :-1], columns[:, :-1, -1], columns[:, -1:, -1])
