"""The claims of *The Implicit Regularization of Dynamical Stability in Stochastic Gradient Descent*, part by part."""

from proofs.dynamics.dynamical_stability import critical_rates, experiments, loss_stability, models, stability

__all__ = ["critical_rates", "experiments", "loss_stability", "models", "stability"]
