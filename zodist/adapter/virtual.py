"""Virtual tokens before every row, in the prompt or in the keys and values of every layer, as peft has them.

Prompts: Lester et al. 2021, arXiv:2104.08691; prefixes: Li and Liang 2021, arXiv:2101.00190.  Rows are padded on the left,
so the virtual tokens stand before the padding; positions are given, and are those that peft has for a row without padding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from zodist import noise
from zodist.config import Kind
from zodist.directions import Param, address
from zodist.models import Wrapped

PREFIX_SIZE = 0.02  # standard deviation of a prefix at first: keys and values that hardly matter
WEIGHT = "virtual.weight"


def described(model: Any, kind: Kind, tokens: int) -> Any:
    """peft's configuration of the tokens for this model."""
    from peft import PrefixTuningConfig, PromptTuningConfig

    c = model.config.get_text_config()
    sizes = {"num_virtual_tokens": tokens, "num_layers": c.num_hidden_layers}
    names = {"task_type": "CAUSAL_LM", "base_model_name_or_path": model.name_or_path}
    if kind == "prompt":
        width = model.get_input_embeddings().weight.shape[1]
        return PromptTuningConfig(
            **names, **sizes, token_dim=width, num_attention_heads=c.num_attention_heads
        )
    heads = getattr(c, "num_key_value_heads", None) or c.num_attention_heads
    size = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    return PrefixTuningConfig(
        **names, **sizes, token_dim=heads * size, num_attention_heads=heads, encoder_hidden_size=heads * size
    )


class Virtual(Wrapped):
    """A causal language model with virtual tokens."""

    def __init__(self, base: Any, kind: Kind, tokens: int, seed: int) -> None:
        super().__init__()
        self.base, self.kind, self.tokens = base, kind, tokens
        self.shape = described(base, kind, tokens)
        self.virtual = nn.Embedding.from_pretrained(self._initial(seed), freeze=False)
        base.requires_grad_(False)
        self.eval()

    def _initial(self, seed: int) -> torch.Tensor:
        """Words of the vocabulary for a prompt, small numbers for a prefix: float32 [tokens, width]."""
        words = self.base.get_input_embeddings().weight
        if self.kind == "prompt":
            chosen = noise.permutation(noise.derive(seed, 0, 0, noise.INITIAL), len(words))
            chosen = chosen[np.arange(self.tokens) % len(words)]
            return words.detach()[torch.from_numpy(chosen).to(words.device)].float()
        width = 2 * self.shape.num_layers * self.shape.token_dim
        key = noise.derive(seed, 0, 0, noise.INITIAL)
        drawn = noise.numbers(
            noise.GAUSSIAN, key, address(WEIGHT), noise.INITIAL, 0, self.tokens * width
        ) * np.float32(PREFIX_SIZE)
        return torch.from_numpy(drawn).view(self.tokens, width).to(words.device)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        logits_to_keep: int = 0,
        use_cache: bool = False,
    ) -> Any:
        """The model's output for the rows after the virtual tokens."""
        rows, device = len(input_ids), input_ids.device
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        positions = (mask.cumsum(1) - 1).clamp(min=0) if position_ids is None else position_ids
        mask = torch.cat([mask.new_ones(rows, self.tokens), mask], 1)
        numbers = torch.arange(self.tokens, device=device).expand(rows, -1)
        first, positions = self.virtual(numbers).to(self.dtype), positions + self.tokens
        given: dict[str, Any] = {"attention_mask": mask, "use_cache": False}
        if logits_to_keep:
            given["logits_to_keep"] = logits_to_keep
        if self.kind == "prefix":
            return self.base(
                input_ids=input_ids, position_ids=positions, past_key_values=self._past(first), **given
            )
        words = self.base.get_input_embeddings()(input_ids)
        positions = torch.cat([numbers, positions], 1)
        out = self.base(inputs_embeds=torch.cat([first, words], 1), position_ids=positions, **given)
        if not logits_to_keep:
            out.logits = out.logits[:, self.tokens :]
        return out

    def _past(self, prefix: torch.Tensor) -> Any:
        """Keys and values of the virtual tokens, [rows, tokens, layers * (key, value) * heads * size], as a cache."""
        from transformers import DynamicCache

        shape = self.shape
        heads = prefix.view(*prefix.shape[:2], shape.num_layers, 2, shape.num_attention_heads, -1).permute(
            2, 3, 0, 4, 1, 5
        )
        cache = DynamicCache(config=self.config)
        for layer, (key, value) in enumerate(heads):
            cache.update(key, value, layer)
        return cache


def saved(base: Any, kind: Kind, tokens: int, weights: Param) -> tuple[Any, dict[str, torch.Tensor]]:
    """The tokens as peft has them in files: its configuration, and tensors by name."""
    return described(base, kind, tokens), {"prompt_embeddings": weights.model.view(weights.shape)}
