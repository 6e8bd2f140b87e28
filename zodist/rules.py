"""Update rules: how an estimate moves the weights, in one fused pass per parameter.

theta <- theta * (1 - lr * weight_decay) - lr * g, summed in float32 and rounded once; 16-bit weights are rounded
stochastically with addressed bits (role ``rounding``, keyed by run and step), because lr * g is far below half a unit in
the last place and rounding to nearest would drop it.  A rule's state changes only as a function of (state, gradient).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from zodist.direction import Combination, Dense, coded_tables
from zodist.kernels import cpu
from zodist.noise import Z
from zodist.params import Param


class RuleSettings(Protocol):
    """What a rule reads of the [rule] table."""

    @property
    def lr(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def schedule(self) -> str: ...
    @property
    def warmup(self) -> int: ...


def schedule(settings: RuleSettings, step: int, steps: int) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then constant, linear or cosine to 0 at ``steps``."""
    if step < settings.warmup:
        return settings.lr * ((step + 1) / settings.warmup)
    if settings.schedule == "constant":
        return settings.lr
    done = (step - settings.warmup) / max(1, steps - settings.warmup)
    if settings.schedule == "linear":
        return settings.lr * (1.0 - done)
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * done))


class Rule(ABC):
    """Applies gradients to the held weights."""

    def __init__(self, settings: RuleSettings, params: Sequence[Param], *, parallel: bool = False) -> None:
        self.settings, self.params, self.parallel = settings, params, parallel

    def apply_(
        self, gradient: Combination, directions: Mapping[int, Dense | None], lr: float, rounding: int
    ) -> None:
        """Move every parameter that has a direction; rounding: the step's 64-bit seed for stochastic rounding."""
        tables: dict[Dense, tuple[np.ndarray, np.ndarray]] = {}
        decay = np.float32(1.0 - lr * self.settings.weight_decay)
        for param in self.params:
            dense = directions[param.id]
            if dense is None:
                continue
            if dense not in tables:
                keys, table = coded_tables(dense, [self.scaled(gradient, lr)])
                tables[dense] = keys, table[0]
            keys, table = tables[dense]
            self.move_(param, dense.law, keys, table, decay, lr, np.uint64(rounding))
            param.publish()

    def worth_threads(self, param: Param) -> bool:
        """Whether waking the thread pool costs less than it saves on a parameter of this size."""
        return self.parallel and param.weights.numel() > cpu.SMALL

    @abstractmethod
    def scaled(self, gradient: Combination, lr: float) -> Combination:
        """The combination whose tables the kernel takes."""

    @abstractmethod
    def move_(self, param, law, keys, table, decay, lr, rounding) -> None:
        """Run the kernel on one parameter."""

    def state(self) -> dict[str, torch.Tensor]:
        """The rule's own state by name, for a snapshot."""
        return {}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up the state of a snapshot, made by a rule of the same kind over the same parameters."""
        for name, held in self.state().items():
            held.copy_(state[name])


class Sgd(Rule):
    """Plain steps along the estimate.  State: none."""

    def scaled(self, gradient: Combination, lr: float) -> Combination:
        """lr times the gradient, in float64 before the tables are rounded."""
        return gradient * lr

    def move_(self, param, law, keys, table, decay, lr, rounding) -> None:
        """One fused pass."""
        kernel = cpu.update_parallel if self.worth_threads(param) else cpu.update_serial
        name, role = np.uint64(param.id), np.uint64(Z)
        kernel(param.kind, param.words, param.origin, law, keys, table, name, role, decay, rounding)


class Momentum(Rule):
    """Heavy ball: m <- momentum * m + g; theta <- theta * decay - lr * m.  State: m, float32, 4 bytes a weight."""

    def __init__(self, settings: RuleSettings, params: Sequence[Param], *, parallel: bool = False) -> None:
        super().__init__(settings, params, parallel=parallel)
        self.buffers = {p.name: torch.zeros(p.weights.numel(), dtype=torch.float32) for p in params}

    def scaled(self, gradient: Combination, lr: float) -> Combination:
        """The gradient itself: lr acts on the buffer."""
        return gradient

    def move_(self, param, law, keys, table, decay, lr, rounding) -> None:
        """One fused pass over weights and buffer."""
        kernel = cpu.update_momentum_parallel if self.worth_threads(param) else cpu.update_momentum_serial
        buffer, name, role = self.buffers[param.name].numpy(), np.uint64(param.id), np.uint64(Z)
        beta, rate = np.float32(self.settings.momentum), np.float32(lr)
        words, origin = param.words, param.origin
        kernel(param.kind, words, buffer, origin, law, keys, table, name, role, decay, beta, rate, rounding)

    def state(self) -> dict[str, torch.Tensor]:
        """The buffers, by parameter name."""
        return dict(self.buffers)


RULES: Mapping[str, type[Rule]] = {"sgd": Sgd, "momentum": Momentum}
