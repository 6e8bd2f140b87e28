"""The loss of a cell with gradients: the same tokens, and the same few logits, as zodist's."""

from __future__ import annotations

from typing import Any

import torch

from zodist.scale.cell import Cell
from zodist.scale.systems import batch_of


class Loss:
    """Cross-entropy over few vocabulary entries at the last position of random tokens."""

    def __init__(self, cell: Cell, model: Any) -> None:
        self.batch = batch_of(cell, model)
        b = self.batch
        masked = {"attention_mask": b.attention_mask, "position_ids": b.position_ids}
        # A number makes a view of the last position, whose product with frozen weights copies them for every row.
        last = torch.tensor([b.input_ids.shape[1] - 1])
        self.inputs = {"input_ids": b.input_ids, **masked, "use_cache": False, "logits_to_keep": last}

    def of(self, model: Any) -> torch.Tensor:
        """The mean loss, with a graph where gradients are wanted."""
        logits = model(**self.inputs).logits
        columns = self.batch.columns
        return self.batch.losses(logits if columns is None else logits[..., columns]).mean()
