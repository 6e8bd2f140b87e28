"""Published shapes of language models, and the transformers configuration that any model name stands for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zodist.config import PACKAGED
from zodist.errors import ModelError
from zodist.models.load import packaged

_OPT = {"vocab_size": 50272, "max_position_embeddings": 2048, "model_type": "opt"}
_LLAMA = {
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "model_type": "llama",
}


def _opt(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "word_embed_proj_dim": hidden, "ffn_dim": 4 * hidden}
    return {**_OPT, **sizes, "num_hidden_layers": layers, "num_attention_heads": heads}


def _llama(hidden: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "tie_word_embeddings": False}
    return {**_LLAMA, **sizes, "num_hidden_layers": layers, "num_attention_heads": heads}


# Published shapes, so that a plan needs no network.  OPT: arXiv:2205.01068, Table 1; Llama 3: arXiv:2407.21783, Table 3;
# Llama 3.2: its config.json.
BUILT_IN: Mapping[str, dict[str, Any]] = {
    "opt-13b": _opt(5120, 40, 40),
    "opt-30b": _opt(7168, 48, 56),
    "opt-66b": _opt(9216, 64, 72),
    "opt-175b": _opt(12288, 96, 96),
    "llama-3.2-3b": {**_llama(3072, 8192, 28, 24), "tie_word_embeddings": True},
    "llama-3-8b": _llama(4096, 14336, 32, 32),
    "llama-3-70b": _llama(8192, 28672, 80, 64),
}


def config_of(name: str) -> Any:
    """The transformers configuration of what ``read_shape`` takes.  Raises ModelError if it is none of them."""
    from transformers import AutoConfig

    given = BUILT_IN.get(name.lower())
    place = packaged() if name == PACKAGED else Path(name)
    try:
        if given is not None:
            options = dict(given)
            return AutoConfig.for_model(options.pop("model_type"), **options)
        return AutoConfig.from_pretrained(place if place.exists() else name)
    except Exception as error:  # the library raises OSError, ValueError, ImportError, KeyError, RuntimeError
        raise unreadable(name, error) from error


def unreadable(name: str, error: Exception) -> ModelError:
    """The error for a name whose shape cannot be read."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
    known = ", ".join(BUILT_IN)
    return ModelError(
        f"the shape of {name!r} cannot be read: {reason}; give a folder with config.json, a hub name, or one of {known}"
    )
