"""Masked language models (RoBERTa, BERT) asked as causal ones are: which word follows the prompt?

A mask and the end token are put behind every row, and the logits at the mask are those of the word that follows.  So a
classification task whose label words are one token each is the same task for both kinds of model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import MaskedLMOutput

from zodist.errors import ModelError
from zodist.models.wrapped import Wrapped

ONE_WORD = (
    "a masked language model answers with one word; choose a classification task whose label words are one token each, "
    "or a causal language model"
)


class Masked(Wrapped):
    """A masked language model, asked as a causal one."""

    def __init__(self, base: Any, tokenizer: Any) -> None:
        """Raises ModelError where the tokenizer has no mask or no end."""
        super().__init__()
        ends = (tokenizer.mask_token_id, tokenizer.sep_token_id)
        if None in ends:
            raise ModelError(
                f"{type(base).__name__} predicts masked words, and its tokenizer has no mask or no separator; choose a "
                "causal language model"
            )
        self.base, self.ends = base, ends
        # RoBERTa's first position stands behind that of padding.
        learned = [m for m in base.modules() if isinstance(m, nn.Embedding) and m.padding_idx is not None]
        words = base.get_input_embeddings()
        self.first = max((int(m.padding_idx or 0) + 1 for m in learned if m is not words), default=0)

    def save_pretrained(self, out: str | Path) -> None:
        """Write the model as transformers does."""
        self.base.save_pretrained(out)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int = 1,
        use_cache: bool = False,
    ) -> MaskedLMOutput:
        """Logits of the word that follows each row, [rows, 1, vocabulary].  Raises ModelError if more are asked for."""
        if logits_to_keep != 1:
            raise ModelError(ONE_WORD)
        ends = torch.tensor(self.ends, device=input_ids.device).expand(len(input_ids), -1)
        mask = torch.cat([attention_mask, torch.ones_like(ends)], 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0) + self.first
        ids = torch.cat([input_ids, ends], 1)
        logits = self.base(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        return MaskedLMOutput(logits=logits[:, -2:-1])

    @property
    def generation_config(self) -> Any:
        """Refuse to write a text."""
        raise ModelError(ONE_WORD)
