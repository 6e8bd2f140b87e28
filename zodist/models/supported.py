"""Which models are language models of the kind that zodist trains; the others are refused before their weights are read."""

from __future__ import annotations

from typing import Any

MASKED = ("ForMaskedLM", "ForPreTraining")


def refusal(config: Any) -> str:
    """Why a model of transformers with this configuration cannot be trained, as a sentence; "" if it may be."""
    names = config.architectures or [type(config).__name__.removesuffix("Config")]
    if config.is_encoder_decoder:
        return f"it is an encoder-decoder ({names[0]}), and zodist trains decoder-only language models; choose one of those"
    return ""


def is_masked(config: Any) -> bool:
    """Whether it predicts masked words.  Transformers would load it as a causal model that sees what comes after."""
    return any(name.endswith(MASKED) for name in config.architectures or ())


def attention_hint(error: str) -> str:
    """What to change where transformers refuses a model for its attention; "" if it is for another reason."""
    if "does not support an attention implementation" in error:
        return "set model.attention = 'eager'"
    return ""
