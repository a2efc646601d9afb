"""What is true of "Why Can GPT Learn In-Context?" (arXiv 2212.10559), in the paper's order."""

from proofs.incontext.dual_form import duality, finetuning, language_model, metrics, momentum, softmax, trained

__all__ = ["duality", "finetuning", "language_model", "metrics", "momentum", "softmax", "trained"]
