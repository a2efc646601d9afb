"""The claims of *The Implicit Regularization of Dynamical Stability in Stochastic Gradient Descent*, part by part."""

from proofs.dynamics.dynamical_stability import experiments, models, stability

__all__ = ["experiments", "models", "stability"]
