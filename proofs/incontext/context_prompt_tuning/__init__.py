"""The claims of *Context-aware Prompt Tuning*."""

from proofs.incontext.context_prompt_tuning import experiments, language_model, method

__all__ = ["experiments", "language_model", "method"]
