"""What is true of "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks".

The network's identities are proved on blocks, matrices of any size; the exact solutions are put back into the
differential equation by SymPy, and meet gradient descent itself at the rate at which its steps shrink.
"""

from proofs.dynamics.deep_linear import (
    curvature,
    decoupling,
    depth,
    hierarchy,
    modes,
    network,
    nonlinear,
    spectra,
    unbalanced,
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
