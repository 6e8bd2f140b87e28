"""Update rules: how an estimate moves the weights.

What a dense gradient does under sgd is one pass over the weights; every other pair of law and rule writes the gradient in
pieces of ``PIECE`` numbers that stay in cache.

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

from zodist.direction import Cache, Combination, Laid, LaidDense, Law
from zodist.kernels import cpu
from zodist.kernels import rules as kernels
from zodist.params import Param


class RuleSettings(Protocol):
    """What a rule reads of the [rule] table."""

    @property
    def lr(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def beta2(self) -> float: ...
    @property
    def epsilon(self) -> float: ...
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


PIECE = 1 << 18  # numbers of a gradient at a time


class Rule(ABC):
    """Applies gradients to the held weights."""

    def __init__(self, settings: RuleSettings, params: Sequence[Param], *, parallel: bool = False) -> None:
        self.settings, self.params, self.parallel = settings, params, parallel
        self._gradient = torch.empty(0)

    def apply_(self, gradient: Combination, laws: Mapping[int, Law | None], lr: float, rounding: int) -> None:
        """Move every parameter that has a law; rounding: the step's 64-bit seed for stochastic rounding."""
        cache: Cache = {}
        decay, key = np.float32(1.0 - lr * self.settings.weight_decay), np.uint64(rounding)
        for param in self.params:
            law = laws[param.id]
            if law is not None:
                self.fold_(param, law, gradient, cache, decay, lr, key)
                param.publish()

    def fold_(
        self,
        param: Param,
        law: Law,
        gradient: Combination,
        cache: Cache,
        decay: np.float32,
        lr: float,
        key: np.uint64,
    ) -> None:
        """Write the gradient of one parameter piece by piece, and move each piece."""
        self.sweep_(param, law.lay(param, [gradient], cache), decay, lr, key)

    def sweep_(self, param: Param, laid: Laid, decay: np.float32, lr: float, key: np.uint64) -> None:
        """The pieces of a parameter whose gradient is laid out as it stands."""
        numbers = param.weights.numel()
        size = max(laid.grain, PIECE // laid.grain * laid.grain)
        if self._gradient.numel() < min(size, numbers):
            self._gradient = torch.empty(min(size, numbers))
        words = param.words
        for start in range(0, numbers, size):
            stop = min(start + size, numbers)
            piece = self._gradient[: stop - start].view(1, -1)
            laid.write_(
                param, param.origin + start, param.origin + stop, piece, add=False, parallel=self.parallel
            )
            self.move_(param, words[start:stop], start, stop, piece[0].numpy(), decay, lr, key)

    @abstractmethod
    def move_(
        self,
        param: Param,
        words: np.ndarray,
        start: int,
        stop: int,
        gradient: np.ndarray,
        decay: np.float32,
        lr: float,
        key: np.uint64,
    ) -> None:
        """Run the rule's kernel on held numbers start .. stop - 1, given their words and their gradient."""

    def many(self, words: np.ndarray) -> bool:
        """Whether waking the thread pool costs less than it saves on so many numbers."""
        return self.parallel and words.size > cpu.SMALL

    def state(self) -> dict[str, torch.Tensor]:
        """The rule's own state by name, for a snapshot."""
        return {}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up the state of a snapshot, made by a rule of the same kind over the same parameters."""
        for name, held in self.state().items():
            held.copy_(state[name])


class Sgd(Rule):
    """Plain steps along the estimate.  State: none."""

    def fold_(self, param, law, gradient, cache, decay, lr, key) -> None:
        """One fused pass where the law is dense; lr goes into the tables, in float64 before they are rounded."""
        if "scaled" not in cache:
            cache["scaled"] = gradient * lr
        laid = law.lay(param, [cache["scaled"]], cache)
        if isinstance(laid, LaidDense):
            laid.update_(param, decay, key, parallel=self.parallel)
        else:
            self.sweep_(param, laid, decay, 1.0, key)

    def move_(self, param, words, start, stop, gradient, decay, lr, key) -> None:
        """Weights <- weights * decay - lr * gradient."""
        kernel = kernels.sgd_parallel if self.many(words) else kernels.sgd_serial
        kernel(
            param.kind, words, param.origin + start, gradient, np.uint64(param.id), decay, np.float32(lr), key
        )


class Sign(Rule):
    """Steps of one size along the estimate's signs (Liu et al. 2019, ZO-signSGD).  State: none."""

    def move_(self, param, words, start, stop, gradient, decay, lr, key) -> None:
        """Weights <- weights * decay - lr * sign(gradient)."""
        kernel = kernels.sign_parallel if self.many(words) else kernels.sign_serial
        kernel(
            param.kind, words, param.origin + start, gradient, np.uint64(param.id), decay, np.float32(lr), key
        )


class Momentum(Rule):
    """Heavy ball: m <- momentum * m + g; theta <- theta * decay - lr * m.  State: m, float32, 4 bytes a weight."""

    def __init__(self, settings: RuleSettings, params: Sequence[Param], *, parallel: bool = False) -> None:
        super().__init__(settings, params, parallel=parallel)
        self.buffers = {p.name: torch.zeros(p.weights.numel(), dtype=torch.float32) for p in params}

    def move_(self, param, words, start, stop, gradient, decay, lr, key) -> None:
        """One pass over weights and buffer."""
        kernel = kernels.momentum_parallel if self.many(words) else kernels.momentum_serial
        buffer = self.buffers[param.name].numpy()[start:stop]
        beta, rate, name = np.float32(self.settings.momentum), np.float32(lr), np.uint64(param.id)
        kernel(param.kind, words, param.origin + start, gradient, buffer, name, decay, beta, rate, key)

    def state(self) -> dict[str, torch.Tensor]:
        """The buffers, by parameter name."""
        return dict(self.buffers)


class Adam(Rule):
    """Adam with decoupled decay (Kingma and Ba 2015; Loshchilov and Hutter 2019).

    rule.momentum is its beta1.  State: two moments, float32, 8 bytes a weight, and the number of steps.
    """

    def __init__(self, settings: RuleSettings, params: Sequence[Param], *, parallel: bool = False) -> None:
        super().__init__(settings, params, parallel=parallel)
        self.first = {p.name: torch.zeros(p.weights.numel(), dtype=torch.float32) for p in params}
        self.second = {p.name: torch.zeros(p.weights.numel(), dtype=torch.float32) for p in params}
        self.steps = torch.zeros(1, dtype=torch.int64)

    def apply_(self, gradient: Combination, laws: Mapping[int, Law | None], lr: float, rounding: int) -> None:
        """Count the step: the bias correction depends on it."""
        self.steps += 1
        super().apply_(gradient, laws, lr, rounding)

    def move_(self, param, words, start, stop, gradient, decay, lr, key) -> None:
        """One pass over weights and moments."""
        kernel = kernels.adam_parallel if self.many(words) else kernels.adam_serial
        s, t = self.settings, int(self.steps)
        first, second = (held[param.name].numpy()[start:stop] for held in (self.first, self.second))
        rate, root = np.float32(lr / (1.0 - s.momentum**t)), np.float32(1.0 / (1.0 - s.beta2**t))
        betas, name = (np.float32(s.momentum), np.float32(s.beta2)), np.uint64(param.id)
        at, rest = param.origin + start, (rate, root, np.float32(s.epsilon), key)
        kernel(param.kind, words, at, gradient, first, second, name, decay, *betas, *rest)

    def state(self) -> dict[str, torch.Tensor]:
        """Moments by parameter name, and the count."""
        moments = {f"first/{name}": value for name, value in self.first.items()}
        return (
            moments | {f"second/{name}": value for name, value in self.second.items()} | {"steps": self.steps}
        )


RULES: Mapping[str, type[Rule]] = {"sgd": Sgd, "momentum": Momentum, "adam": Adam, "sign": Sign}
