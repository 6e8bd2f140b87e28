"""Zeroth-order training that all-reduces its update: every worker sums its own directions, then all sum the vectors.

What distributed zeroth-order training costs when workers do not rebuild each other's directions from seeds.  Probes, noise
and forward passes are zodist's; only what crosses the network differs, one number for every weight.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from zodist.bench import EPS, LR, SEED
from zodist.directions import Combination, Dense
from zodist.evaluator import Evaluator
from zodist.exchange import Exchange
from zodist.methods import StepSeeds
from zodist.models import collect
from zodist.noise import LAWS
from zodist.scale.cell import Cell
from zodist.scale.systems import Spent, batch_of


class Naive:
    """One worker of it."""

    def __init__(self, cell: Cell, model: Any, exchange: Exchange) -> None:
        self.cell, self.worker, self.params = cell, exchange.worker, collect(model)
        self.law, self.batch = Dense(LAWS[cell.noise], coded=True), batch_of(cell, model)
        self.evaluator = Evaluator(model, self.params, lambda param: self.law, parallel=cell.threads > 1)
        numbers = sum(p.weights.numel() for p in self.params)
        self.vector = torch.empty(numbers, dtype=self.params[0].weights.dtype)
        self.expected = 2.0 * (cell.workers - 1) / cell.workers * numbers * self.vector.element_size()
        self.payload, self.made = 0.0, 0

    def step(self) -> Spent:
        start = time.perf_counter()
        seeds = StepSeeds(SEED, self.made).coded(self.cell.probes)[self.worker :: self.cell.workers]
        slopes = np.zeros(len(seeds))
        for place, seed in enumerate(seeds):
            points = tuple(Combination.of((int(seed), sign * EPS)) for sign in (1.0, -1.0))
            plus, minus = self.evaluator.losses(points, [self.batch])
            slopes[place] = (plus - minus) / (2.0 * EPS)
        evaluated = time.perf_counter()
        gradient = Combination(seeds, slopes / self.cell.probes)
        cache: Any = {}
        with torch.inference_mode():
            for p, out in self._parts():
                self.law.lay(p, [gradient], cache).write_(p, 0, len(out), out[None], add=False)
        summed = time.perf_counter()
        if self.cell.workers > 1:
            dist.all_reduce(self.vector)
            self.payload += self.expected
        reduced = time.perf_counter()
        with torch.inference_mode():
            for p, out in self._parts():
                p.weights.sub_(out, alpha=LR)
        self.made += 1
        return Spent(evaluated - start, reduced - summed, time.perf_counter() - reduced + summed - evaluated)

    def close(self) -> None:
        self.evaluator.close()

    def _parts(self) -> list[tuple[Any, torch.Tensor]]:
        parts = self.vector.split([p.weights.numel() for p in self.params])
        return list(zip(self.params, parts, strict=True))
