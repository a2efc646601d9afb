"""What may be compared with *The Implicit Regularization of Dynamical Stability in Stochastic Gradient Descent*."""

from refimpl.oracle.specs.dynamics.dynamical_stability import models, stability
from refimpl.oracle.specs.dynamics.dynamical_stability.stability import gradients, gradients_and_batch

__all__ = ["gradients", "gradients_and_batch", "models", "stability"]
