"""Moments of the last few gradients, rebuilt from their seeds and weights instead of kept for every weight.

A gradient is a combination of seeds, so the last ones are a few numbers each (``Recent``), and their decayed sum is a
combination again: momentum costs no memory.  The second moment is no combination; ``Ratio`` is what is
worked out of both, Adam's m / (sqrt(v) + epsilon).  Either costs one pass of noise over the weights for every step kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from zodist.directions.direction import Cache, Combination, Dense, Laid, coded_tables
from zodist.directions.kept import Kept
from zodist.directions.param import Param, drawn
from zodist.kernels import Kernels


class Recent:
    """The gradients of the last steps, newest first.

    seeds: uint64 [horizon, terms].  weights: float64 [horizon, terms].  count: int64 [1], rows that are filled.
    """

    def __init__(self, horizon: int, terms: int) -> None:
        self.seeds = np.zeros((horizon, terms), np.uint64)
        self.weights = np.zeros((horizon, terms), np.float64)
        self.count = np.zeros(1, np.int64)

    def add(self, gradient: Combination) -> None:
        """Take up one step's gradient, of at least one term, and forget the oldest step."""
        self.seeds[1:], self.weights[1:] = self.seeds[:-1].copy(), self.weights[:-1].copy()
        terms = len(gradient)
        self.seeds[0, :terms], self.weights[0, :terms] = gradient.seeds, gradient.weights
        # A seed that is there already fills up for the probes that were left out: it costs no noise of its own.
        self.seeds[0, terms:], self.weights[0, terms:] = gradient.seeds[0], 0.0
        self.count[0] = min(self.count[0] + 1, len(self.seeds))

    def shares(self, beta: float) -> np.ndarray:
        """Weights of the kept steps in a decayed mean, newest first: beta^age over their sum, float64 [count].

        That is (1 - beta) beta^age / (1 - beta^count): Adam's corrected mean while nothing has been forgotten.  Powers
        are repeated products and the sum goes from the oldest on, so that every CPU rounds alike.
        """
        powers = np.ones(int(self.count[0]))
        for age in range(1, len(powers)):
            powers[age] = powers[age - 1] * beta
        total = 0.0
        for power in powers[::-1]:
            total += power
        return powers / total if len(powers) else powers

    def steps(self) -> list[Combination]:
        """The gradients of the kept steps, newest first."""
        return [Combination(self.seeds[age], self.weights[age]) for age in range(int(self.count[0]))]

    def decayed(self, beta: float) -> Combination:
        """The decayed mean of the kept gradients."""
        shares = self.shares(beta)
        rows = slice(0, len(shares))
        return Combination(self.seeds[rows].reshape(-1), (self.weights[rows] * shares[:, None]).reshape(-1))


@dataclass(frozen=True, eq=False, slots=True)
class Ratio(Kept):
    """m_i / (sqrt(v_i) + epsilon) for weight i.

    m, v: decayed means of the recent gradients under ``noise`` and of their squares.
    """

    noise: Dense
    recent: Recent
    beta1: float
    beta2: float
    epsilon: float

    def lay(self, param: Param, factors: Sequence[float], cache: Cache) -> LaidRatio:
        """One set of tables serves every parameter."""
        if self not in cache:
            cache[self] = LaidRatio(param.kernels, self, factors)
        return cache[self]


class LaidRatio(Laid):
    """The tables of the recent steps."""

    def __init__(self, kernels: Kernels, ratio: Ratio, factors: Sequence[float]) -> None:
        """kernels: those that will run; the arrays go to their device here, once."""
        self.law, send = ratio.noise.law, kernels.send
        laid = [coded_tables(ratio.noise, [gradient]) for gradient in ratio.recent.steps()]
        self.keys = send(np.concatenate([keys for keys, _ in laid]))
        length = max(tables.shape[-1] for _, tables in laid)  # tables are periodic
        self.tables = send(
            np.concatenate([np.tile(t, (1, 1, length // t.shape[-1])) for _, t in laid], axis=1)
        )
        self.first = send(np.concatenate([[0], np.cumsum([len(keys) for keys, _ in laid])]).astype(np.int64))
        self.shares = send(ratio.recent.shares(ratio.beta1).astype(np.float32))
        self.squares = send(ratio.recent.shares(ratio.beta2).astype(np.float32))
        self.epsilon = np.float32(ratio.epsilon)
        self.factors = np.array(factors, np.float32)

    def write_(
        self,
        param: Param,
        start: int,
        stop: int,
        out: torch.Tensor,
        *,
        add: bool = True,
        parallel: bool = False,
    ) -> None:
        """One pass of noise for every step kept; out is float32, and add must be False."""
        if add or out.dtype != torch.float32:
            raise TypeError(
                f"a ratio of moments moves weights, in float32; it is no probe ({out.dtype}, add={add})"
            )
        run = param.kernels.ratio.of(stop - start, parallel)
        numbers = drawn(param, self.law, self.keys, self.tables)
        moments = numbers, self.first, self.shares, self.squares, self.epsilon
        for row, factor in zip(param.kernels.view(out), self.factors, strict=True):
            run(start, stop, row, *moments, factor)

    def rows_(self, param: Param, index: torch.Tensor, out: torch.Tensor, *, parallel: bool = False) -> None:
        """Not for probes."""
        raise TypeError("a ratio of moments moves weights; it is no probe")
