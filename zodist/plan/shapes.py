"""What a step of a model has to touch and to multiply, counted from its configuration: no weight is loaded.

The model is built on torch's meta device, where a tensor has a shape and no memory, so a model of 175 billion parameters
is counted in seconds on a laptop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zodist.errors import ModelError

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


@dataclass(frozen=True, slots=True)
class Shape:
    """A causal language model in numbers.

    parameters: all of them, a tied one once.  linear: weights of linear layers below the head, each of which multiplies
    every token; head: weights of the head, which multiplies the positions of the loss alone.  largest: of one leaf module;
    leaves: modules that hold parameters, that is calls of a forward.  thin: of all matrices, rows + columns, the numbers of
    a direction of rank one.  attended: numbers of all attention heads of all layers, which every pair of tokens touches.
    crossing: numbers a token that enter and leave the linear layers below the head, which everything between them touches.
    """

    name: str
    parameters: int
    linear: int
    head: int
    largest: int
    leaves: int
    hidden: int
    layers: int
    vocabulary: int
    thin: int
    attended: int
    crossing: int

    def operations(self, rows: int, tokens: int, kept: int | None = None) -> float:
        """Floating-point operations of the products of one forward.

        rows: examples of so many tokens; kept: vocabulary entries in the loss at one position of each, None: all.
        """
        entries = self.vocabulary if kept is None else kept
        products = 2.0 * rows * tokens * self.linear + 2.0 * rows * entries * self.hidden
        return products + 4.0 * rows * tokens * tokens * self.attended


def shape_of(model: nn.Module, name: str) -> Shape:
    """The shape of a model, on any device.  Raises ModelError if it is no causal language model."""
    config: Any = getattr(model, "config", None)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    if config is None or head is None:
        raise ModelError(f"{name!r} is not a causal language model with a head; choose one that is")
    leaves = [
        [p.numel() for p in module.parameters(recurse=False)]
        for module in model.modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    matrices = [p.shape for p in model.parameters() if p.dim() == 2]
    text = config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        name=name,
        parameters=sum(p.numel() for p in model.parameters()),  # of tied ones torch gives one
        linear=sum(m.weight.numel() for m in linear),
        head=head.weight.numel(),
        largest=max(sum(counts) for counts in leaves),
        leaves=len(leaves),
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        vocabulary=head.weight.shape[0],
        thin=sum(sum(size) for size in matrices),
        attended=text.num_hidden_layers * text.num_attention_heads * width,
        crossing=sum(m.in_features + m.out_features for m in linear),
    )


def read_shape(name: str) -> Shape:
    """The shape of a built-in model, of a folder or config.json, or of a model of the hub.

    Raises ModelError if it is none of them.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config_of(name))
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise _unknown(name, error) from error
    return shape_of(model, name)


def config_of(name: str) -> Any:
    """The transformers configuration of what ``read_shape`` takes.  Raises ModelError if it is none of them."""
    from transformers import AutoConfig

    from zodist.models.load import PACKAGED, packaged

    given = BUILT_IN.get(name.lower())
    place = packaged() if name == PACKAGED else Path(name)
    try:
        if given is not None:
            options = dict(given)
            return AutoConfig.for_model(options.pop("model_type"), **options)
        return AutoConfig.from_pretrained(place if place.exists() else name)
    except Exception as error:  # the library raises OSError, ValueError, ImportError, KeyError, RuntimeError
        raise _unknown(name, error) from error


def _unknown(name: str, error: Exception) -> ModelError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
    known = ", ".join(BUILT_IN)
    return ModelError(
        f"the shape of {name!r} cannot be read: {reason}; give a folder with config.json, a hub name, or one of {known}"
    )
