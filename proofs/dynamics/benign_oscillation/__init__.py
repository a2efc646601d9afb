"""Claims of "Benign Oscillation of Stochastic Gradient Descent with Large Learning Rates", in the paper's order."""

from proofs.dynamics.benign_oscillation import experiment, maps, network

__all__ = ["experiment", "maps", "network"]
