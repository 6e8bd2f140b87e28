"""DiLoCo-style training (arXiv:2311.08105): AdamW without network, and every H steps one all-reduce of all weights.

After H inner steps the workers average how far each has gone, and an outer Nesterov SGD takes that mean as its gradient.
A sweep measures inner steps and outer ones apart, because H of them would take hours: a step's share of an outer one is 1/H.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist

from zodist.exchange import Exchange
from zodist.scale.baselines.loss import Loss
from zodist.scale.cell import Cell
from zodist.scale.systems import Spent

INNER_LR, OUTER_LR, OUTER_MOMENTUM = 1e-5, 0.7, 0.9  # the paper's outer settings


class DiLoCo:
    """One worker of it."""

    def __init__(self, cell: Cell, model: Any, exchange: Exchange) -> None:
        self.every = int(cell.system.rpartition("-")[2])
        self.workers, self.payload = cell.workers, 0.0
        model.requires_grad_(True)
        self.model, self.loss = model, Loss(cell, model)
        self.weights = list(model.parameters())
        self.start = [p.detach().clone().requires_grad_() for p in self.weights]
        self.inner = torch.optim.AdamW(self.weights, lr=INNER_LR)
        self.outside = torch.optim.SGD(self.start, lr=OUTER_LR, momentum=OUTER_MOMENTUM, nesterov=True)
        sent = sum(p.numel() * p.element_size() for p in self.weights)
        self.expected = 2.0 * (cell.workers - 1) / cell.workers * sent

    def step(self) -> Spent:
        start = time.perf_counter()
        self.inner.zero_grad()
        self.loss.of(self.model).backward()
        middle = time.perf_counter()
        self.inner.step()
        return Spent(middle - start, 0.0, time.perf_counter() - middle)

    def outer(self) -> Spent:
        begun = time.perf_counter()
        with torch.no_grad():
            gone = torch.cat([(a - b).view(-1) for a, b in zip(self.start, self.weights, strict=True)])
        start = time.perf_counter()
        if self.workers > 1:
            dist.all_reduce(gone)
            self.payload += self.expected
        middle = time.perf_counter()
        with torch.no_grad():
            gone /= self.workers
            for a, part in zip(self.start, gone.split([p.numel() for p in self.start]), strict=True):
                a.grad = part.view_as(a)
        self.outside.step()
        with torch.no_grad():
            for a, b in zip(self.start, self.weights, strict=True):
                b.copy_(a)
        return Spent(0.0, middle - start, time.perf_counter() - middle + start - begun)

    def close(self) -> None:
        del self.model, self.inner, self.outside
