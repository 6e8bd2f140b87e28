"""What a step of a model has to touch and to multiply, counted from its configuration: no weight is loaded.

The model is built on torch's meta device, where a tensor has a shape and no memory, so a model of 175 billion parameters
is counted in seconds on a laptop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zodist.errors import ModelError
from zodist.models import config_of, unreadable


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
        raise unreadable(name, error) from error
    return shape_of(model, name)
