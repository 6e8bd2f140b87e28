"""Configurations of Llama models without weights, small unless a test says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import LlamaConfig

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


def shaped(folder: Path, **changes: Any) -> Path:
    """A configuration without weights."""
    LlamaConfig(**(SMALL | changes)).save_pretrained(folder)
    return folder / "config.json"
