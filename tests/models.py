"""Tiny random models of several families, and batches for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from zodist.tasks import Batch

VOCABULARY = 97

_rope: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama-tied": LlamaConfig(**_rope, tie_word_embeddings=True),
    "llama-untied": LlamaConfig(**_rope, attention_bias=True),
    "qwen2": Qwen2Config(**_rope),
    "qwen3": Qwen3Config(**_rope),
    "gemma3": Gemma3TextConfig(**_rope, sliding_window=16),
    "opt": OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        ffn_dim=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
    ),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=24, n_layer=2, n_head=4, n_positions=64),
}
_plain = {key: value for key, value in _rope.items() if key not in ("head_dim", "num_key_value_heads")}
MORE: dict[str, PretrainedConfig] = {
    "mistral": MistralConfig(**_rope, sliding_window=16),
    "gemma": GemmaConfig(**_rope),
    "gemma2": Gemma2Config(**_rope, sliding_window=16),
    "phi": PhiConfig(**{**_plain, "hidden_size": 32}, qk_layernorm=True),
    "phi3": Phi3Config(**{**_plain, "hidden_size": 32}, pad_token_id=0),
    "gpt-neox": GPTNeoXConfig(**{**_plain, "hidden_size": 32}),
    "cohere": CohereConfig(**_plain),
    "falcon": FalconConfig(**_plain),
    "mixtral": MixtralConfig(**_rope, num_local_experts=4),
    "qwen3-moe": Qwen3MoeConfig(**_rope, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    "mamba": MambaConfig(
        vocab_size=VOCABULARY, hidden_size=24, num_hidden_layers=2, state_size=4, pad_token_id=0
    ),
}
EAGER = ("gemma2", "mamba")


def tiny(family: str, dtype: torch.dtype = torch.float32, **sizes: int) -> Any:
    """A random model in eval mode; every weight, biases and norms too, is away from its initial constant.

    sizes: of its configuration, where they are to be others.
    """
    torch.manual_seed(1)
    config = (CONFIGS | MORE)[family]
    config = type(config).from_dict(config.to_dict() | sizes) if sizes else config
    attention = "eager" if family in EAGER else "sdpa"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.to(dtype).eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class TinyBatch(Batch):
    """Random rows of unequal length, left padded; loss on the last token among all or some entries."""

    def losses(self, logits: torch.Tensor) -> torch.Tensor:
        assert self.labels is not None
        return F.cross_entropy(logits[:, -1].float(), self.labels, reduction="none")

    def scores(self, logits: torch.Tensor) -> torch.Tensor | None:
        return None


def batch(
    rows: int = 4, length: int = 11, *, columns: bool = False, keep: int = 1, seed: int = 0
) -> TinyBatch:
    """A batch; with columns, the loss is over three vocabulary entries."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=g)
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, : row % 4] = 0
    position = (mask.cumsum(1) - 1).clamp(min=0)
    chosen = torch.tensor([5, 40, 96]) if columns else None
    labels = torch.randint(0, 3 if columns else VOCABULARY, (rows,), generator=g)
    return TinyBatch(ids, mask, position, keep, chosen, rows, labels)
