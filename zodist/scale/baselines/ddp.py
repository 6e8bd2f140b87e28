"""Full fine-tuning with torch's DistributedDataParallel and AdamW: every step all-reduces every gradient.

The all-reduce overlaps with the backward pass, so it cannot be timed alone: ``gather`` is how much longer a backward pass
takes than one without network (``no_sync``), the median of a few of which is taken before the first step.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from zodist.exchange import Exchange
from zodist.scale.baselines.loss import Loss
from zodist.scale.cell import Cell
from zodist.scale.systems import Spent

ALONE = 3  # backward passes without network


class Ddp:
    """One worker of it."""

    lr = 1e-5

    def __init__(self, cell: Cell, model: Any, exchange: Exchange) -> None:
        self.trained = self.prepare(model)
        numbers = sum(p.numel() * p.element_size() for p in self.trained)
        self.expected = 2.0 * (cell.workers - 1) / cell.workers * numbers  # of a ring
        self.payload = 0.0
        self.loss = Loss(cell, model)
        self.model: Any = DistributedDataParallel(model, init_sync=False) if cell.workers > 1 else model
        self.optimizer = torch.optim.AdamW(self.trained, lr=self.lr)
        self._alone = 0.0
        self._alone = median(self._backward(sync=False)[1] for _ in range(ALONE))

    def prepare(self, model: Any) -> list[torch.nn.Parameter]:
        """Let gradients flow into what is trained, and return it."""
        model.requires_grad_(True)
        return list(model.parameters())

    def step(self) -> Spent:
        start = time.perf_counter()
        forward, backward = self._backward(sync=True)
        self.optimizer.step()
        whole = time.perf_counter() - start
        self.payload += self.expected
        alone = min(backward, self._alone)
        return Spent(forward + alone, backward - alone, whole - forward - backward)

    def close(self) -> None:
        del self.model, self.optimizer

    def _backward(self, *, sync: bool) -> tuple[float, float]:
        """Seconds of the forward and of the backward pass."""
        self.optimizer.zero_grad()
        alone = nullcontext() if sync or not hasattr(self.model, "no_sync") else self.model.no_sync()
        with alone:
            start = time.perf_counter()
            loss = self.loss.of(self.model)
            middle = time.perf_counter()
            loss.backward()
            return middle - start, time.perf_counter() - middle
