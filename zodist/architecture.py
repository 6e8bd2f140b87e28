"""Which models are language models of the kind that zodist trains; the others are refused before their weights are read."""

from __future__ import annotations

from typing import Any

MASKED = ("ForMaskedLM", "ForPreTraining")


def refusal(config: Any) -> str:
    """Why a model of transformers with this configuration cannot be trained, as a sentence; "" if it may be."""
    names = config.architectures or [type(config).__name__.removesuffix("Config")]
    if config.is_encoder_decoder:
        return f"it is an encoder-decoder ({names[0]}), and zodist trains decoder-only language models; choose one of those"
    if any(name.endswith(MASKED) for name in names):
        return (
            f"it predicts masked words ({names[0]}), and zodist trains models that predict the next one; choose a causal "
            "language model"
        )
    return ""


def attention_hint(error: str) -> str:
    """What to change where transformers refuses a model for its attention; "" if it is for another reason."""
    if "does not support an attention implementation" in error:
        return "set model.attention = 'eager'"
    return ""
