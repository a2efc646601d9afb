"""What is true of "Dissecting the Effects of SGD Noise in Distinct Regimes of Deep Learning" (arXiv 2301.13703).

The perceptron's closed forms are proved for every exponent of its data and met by quadrature, by its flow, and by SGD
itself; the exponents of deep networks are measured on digits, and their symmetry between scales is proved.
"""

from proofs.dynamics.sgd_noise_regimes import closed, networks, order_parameters, runs, scales

__all__ = ["closed", "networks", "order_parameters", "runs", "scales"]
