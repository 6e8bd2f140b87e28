"""The bare model: what a forward costs with nothing of zodist in its way, and how fast its largest layer multiplies.

It runs on modules of its own over the same weights, so that no hook of the evaluator is in its way.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from zodist.bench.variants import RandomBatch

GEMM_S = 0.02  # seconds of products in one run: long enough to time, short beside a step


class Bare:
    """Forwards of an untouched model on one batch."""

    def __init__(self, model: Any, batch: RandomBatch) -> None:
        shared = {id(tensor): tensor for tensor in model.parameters()}
        self.model, self.batch = copy.deepcopy(model, shared), batch
        self.head: nn.Linear = self.model.get_output_embeddings()
        layers = [m for m in self.model.modules() if isinstance(m, nn.Linear) and m is not self.head]
        self._linear_numbers = sum(m.weight.numel() for m in layers)
        self.largest = max(layers or [self.head], key=lambda m: m.weight.numel())
        rows = batch.input_ids.numel()
        self._x = torch.ones(rows, self.largest.in_features, dtype=self.largest.weight.dtype)
        operations = 2.0 * rows * self.largest.weight.numel()
        self.products = max(1, round(GEMM_S * 5e10 / operations))
        self.product_operations = self.products * operations

    def operations(self) -> float:
        """Floating-point operations of the matrix products of one forward; attention's own are left out."""
        batch, head = self.batch, self.head.weight
        chosen = len(head) if batch.columns is None else len(batch.columns)
        body = self._linear_numbers * batch.input_ids.numel()
        return 2.0 * (body + chosen * head.shape[1] * len(batch.input_ids))

    def multiply(self) -> None:
        """``products`` products of the largest layer with as many rows as the batch has tokens."""
        with torch.inference_mode():
            for _ in range(self.products):
                F.linear(self._x, self.largest.weight)

    def few_logits(self) -> float:
        """The loss by one forward with exactly the logits that it needs."""
        with torch.inference_mode():
            if self.batch.columns is None:
                logits = self.model(**self._inputs(), logits_to_keep=1).logits
            else:
                last = self.model.base_model(**self._inputs()).last_hidden_state[:, -1:].contiguous()
                bias = None if self.head.bias is None else self.head.bias[self.batch.columns]
                logits = F.linear(last, self.head.weight[self.batch.columns], bias)
            return float(self.batch.losses(logits).double().mean())

    def all_logits(self) -> float:
        """The same with the logits of every position and every vocabulary entry."""
        with torch.inference_mode():
            logits = self.model(**self._inputs()).logits[:, -1:]
            logits = logits if self.batch.columns is None else logits[..., self.batch.columns]
            return float(self.batch.losses(logits).double().mean())

    def _inputs(self) -> dict[str, Any]:
        b = self.batch
        masked = {"attention_mask": b.attention_mask, "position_ids": b.position_ids}
        return {"input_ids": b.input_ids, **masked, "use_cache": False}
