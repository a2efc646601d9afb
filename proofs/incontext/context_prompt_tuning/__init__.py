"""The claims of *Context-aware Prompt Tuning*."""

from proofs.incontext.context_prompt_tuning import experiments, method

__all__ = ["experiments", "method"]
