"""A model around another: what an evaluator and an evaluation ask of a causal language model, answered by the one inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Wrapped(nn.Module):
    """base: the model of transformers inside; ``forward`` is the subclass's own."""

    base: Any

    @property
    def config(self) -> Any:
        return self.base.config

    @property
    def generation_config(self) -> Any:
        return self.base.generation_config

    @property
    def base_model(self) -> Any:
        return self.base.base_model

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        return self.base.device

    def get_input_embeddings(self) -> nn.Module:
        """Those of the model inside."""
        return self.base.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Those of the model inside."""
        return self.base.get_output_embeddings()
