"""What is true of "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks".

The network's identities are proved on blocks, matrices of any size; the exact solutions are put back into the
differential equation by SymPy, and meet gradient descent itself at the rate at which its steps shrink.
"""

# In the paper's order, which is the ledger's.
from proofs.dynamics.deep_linear import (  # noqa: I001
    network,
    decoupling,
    modes,
    unbalanced,
    hierarchy,
    curvature,
    depth,
    spectra,
    nonlinear,
)

__all__ = [
    "curvature",
    "decoupling",
    "depth",
    "hierarchy",
    "modes",
    "network",
    "nonlinear",
    "spectra",
    "unbalanced",
]
