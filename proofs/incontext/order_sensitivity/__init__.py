"""The claims of *Do pretrained Transformers Learn In-Context by Gradient Descent?*, part by part."""

from proofs.incontext.order_sensitivity import language, sensitivity, shots, similarity, stacks, weights

__all__ = ["language", "sensitivity", "shots", "similarity", "stacks", "weights"]
