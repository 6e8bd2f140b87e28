"""Adapters with peft, in DistributedDataParallel with AdamW: every step all-reduces the gradients of the adapters.

LoRA of rank 8 beside the query and the value of every layer, which is peft's default for these models.
"""

from __future__ import annotations

from typing import Any

import torch

from zodist.errors import ModelError
from zodist.scale.baselines.ddp import Ddp

RANK = 8


class Lora(Ddp):
    """One worker of it."""

    lr = 1e-4

    def prepare(self, model: Any) -> list[torch.nn.Parameter]:
        """Put the adapters into the model, and return them."""
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ModelError(
                "the system ddp-lora needs peft, which is not installed: pip install 'zodist[peft]', or change --systems"
            ) from error
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=2 * RANK), model)
        return [p for p in model.parameters() if p.requires_grad]
