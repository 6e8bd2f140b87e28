"""Update rules: how an estimate moves the weights.

What a dense, a low-rank or a rank-one gradient does under sgd is one pass over the weights; every other pair of law and
rule writes the gradient in pieces (``Kernels.piece``), on the CPU so small that they stay in cache.

theta <- theta - (lr * weight_decay * theta + lr * g), summed in float32 and rounded once; 16-bit weights are rounded
stochastically with addressed bits (role ``rounding``, keyed by run and step), because lr * g is far below half a unit in
the last place and rounding to nearest would drop it.  A rule's state changes only as a function of (state, gradient).

A decay of lr * weight_decay far below float32's last place, 6e-8 of a weight, would be lost in that rounding: it is put by
and taken off when it has come to 2^-16 of the weights, 128 places or more, by as much as it has come to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np
import torch

from zodist.directions import NONE, Cache, Gradient, Kept, Laid, LaidFused, Law, Param, lay_out
from zodist.kernels import rules as kernels

LEAST_DECAY = 2.0**-16  # the least share of the weights that is taken off at a time


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


class Rule:
    """Applies gradients to the held weights: estimates of seeds by laws, scaled states by what a method keeps.

    State, with weight decay: the share that is due, a float64.
    """

    code: ClassVar[int]  # the rule's number among the kernels

    def __init__(self, settings: RuleSettings, params: Sequence[Param], *, parallel: bool = False) -> None:
        self.settings, self.params, self.parallel = settings, params, parallel
        self._gradient = torch.empty(0)
        self._due = torch.zeros(1, dtype=torch.float64)

    def apply_(
        self, gradient: Gradient, laws: Mapping[int, Law | Kept | None], lr: float, rounding: int
    ) -> None:
        """Move every parameter that has a law; rounding: the step's 64-bit seed for stochastic rounding."""
        cache: Cache = {}
        decay, key = np.float32(self._decay(lr)), np.uint64(rounding)
        for param in self.params:
            law = laws[param.id]
            if law is not None and param.weights.numel():  # a sharded model's last range may be empty
                self.fold_(param, law, gradient, cache, decay, lr, key)
                param.publish()

    def _decay(self, lr: float) -> float:
        """The share that weights lose in a step: what is due, once it is enough to be seen."""
        self._due += lr * self.settings.weight_decay
        due = float(self._due)
        if due < LEAST_DECAY:
            return 0.0
        self._due.zero_()
        return due

    def fold_(
        self,
        param: Param,
        law: Law | Kept,
        gradient: Gradient,
        cache: Cache,
        decay: np.float32,
        lr: float,
        key: np.uint64,
    ) -> None:
        """Write the gradient of one parameter piece by piece, and move each piece; decay: the share that is lost."""
        self.sweep_(param, lay_out(law, param, [gradient], cache), decay, lr, key)

    def sweep_(self, param: Param, laid: Laid, decay: np.float32, lr: float, key: np.uint64) -> None:
        """The pieces of a parameter whose gradient is laid out as it stands, in whole grains even where a range is held."""
        grain, origin, end = laid.grain, param.origin, param.origin + param.weights.numel()
        first, last = origin - origin % grain, end + -end % grain
        size = min(max(grain, param.kernels.piece // grain * grain), last - first)
        if self._gradient.numel() < size:
            self._gradient = torch.empty(size, device=param.weights.device)
        for start in range(first, last, size):
            stop = min(start + size, last)
            piece = self._gradient[: stop - start]
            laid.write_(param, start, stop, piece.view(1, -1), add=False, parallel=self.parallel)
            a, b = max(start, origin), min(stop, end)
            self.move_(param, a - origin, piece[a - start : b - start], decay, lr, key)

    def move_(
        self, param: Param, start: int, gradient: torch.Tensor, decay: np.float32, lr: float, key: np.uint64
    ) -> None:
        """Move held numbers from ``start`` on, given their gradient."""
        stop, view = start + len(gradient), param.kernels.view
        words, buffers = (
            param.words[start:stop],
            [view(held[param.name][start:stop]) for held in self.buffers()],
        )
        first, second = (*buffers, NONE, NONE)[:2]
        run = param.kernels.move.of(stop - start, self.parallel)
        factors = np.array([decay, *self.factors(lr)], np.float32)
        place = self.code, param.kind, words, param.origin + start
        run(*place, view(gradient), first, second, factors, np.uint64(param.id), key)

    def factors(self, lr: float) -> tuple[float, ...]:
        """What the rule's formula in zodist.kernels.rules takes after the decay."""
        return (lr,)

    def buffers(self) -> tuple[Mapping[str, torch.Tensor], ...]:
        """Arrays of the weights' size that the formula changes, by parameter name."""
        return ()

    def state(self) -> dict[str, torch.Tensor]:
        """The rule's own state by name, for a snapshot."""
        return {"weight_decay": self._due} if self.settings.weight_decay else {}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up the state of a snapshot, made by a rule of the same kind over the same parameters."""
        for name, held in self.state().items():
            held.copy_(state[name])


class Sgd(Rule):
    """Plain steps along the estimate."""

    code = kernels.SGD

    def fold_(self, param, law, gradient, cache, decay, lr, key) -> None:
        """One fused pass where the law has one; lr goes into weights of seeds or the factor, in float64 before rounding."""
        if "scaled" not in cache:
            cache["scaled"] = gradient * lr
        laid = lay_out(law, param, [cache["scaled"]], cache)
        if isinstance(laid, LaidFused):
            laid.update_(param, decay, key, parallel=self.parallel)
        else:
            self.sweep_(param, laid, decay, 1.0, key)


class Sign(Rule):
    """Steps of one size along the estimate's signs (Liu et al. 2019, ZO-signSGD)."""

    code = kernels.SIGN


class Momentum(Rule):
    """Heavy ball: m <- momentum * m + g, and -lr * m for the weights.  State: m, float32, 4 bytes a weight."""

    code = kernels.MOMENTUM

    def __init__(self, settings: RuleSettings, params: Sequence[Param], *, parallel: bool = False) -> None:
        super().__init__(settings, params, parallel=parallel)
        self.mean = _zeros(params)

    def factors(self, lr: float) -> tuple[float, ...]:
        """The rate and the share of the old buffer that stays."""
        return lr, self.settings.momentum

    def buffers(self) -> tuple[Mapping[str, torch.Tensor], ...]:
        """m."""
        return (self.mean,)

    def state(self) -> dict[str, torch.Tensor]:
        """The buffers, by parameter name."""
        return super().state() | self.mean


class Adam(Rule):
    """Adam with decoupled decay (Kingma and Ba 2015; Loshchilov and Hutter 2019).

    rule.momentum is its beta1.  State: two moments, float32, 8 bytes a weight, and the number of steps.
    """

    code = kernels.ADAM

    def __init__(self, settings: RuleSettings, params: Sequence[Param], *, parallel: bool = False) -> None:
        super().__init__(settings, params, parallel=parallel)
        self.first, self.second = _zeros(params), _zeros(params)
        self.steps = torch.zeros(1, dtype=torch.int64)

    def apply_(
        self, gradient: Gradient, laws: Mapping[int, Law | Kept | None], lr: float, rounding: int
    ) -> None:
        """Count the step: the bias correction depends on it."""
        self.steps += 1
        super().apply_(gradient, laws, lr, rounding)

    def factors(self, lr: float) -> tuple[float, ...]:
        """Rate and second moment with Adam's corrections for the zeros that the moments began with."""
        s, t = self.settings, int(self.steps)
        return lr / (1.0 - s.momentum**t), s.momentum, s.beta2, 1.0 / (1.0 - s.beta2**t), s.epsilon

    def buffers(self) -> tuple[Mapping[str, torch.Tensor], ...]:
        """Both moments."""
        return self.first, self.second

    def state(self) -> dict[str, torch.Tensor]:
        """Moments by parameter name, and the count."""
        moments = {f"first/{name}": value for name, value in self.first.items()}
        moments |= {f"second/{name}": value for name, value in self.second.items()}
        return super().state() | moments | {"steps": self.steps}


def _zeros(params: Sequence[Param]) -> dict[str, torch.Tensor]:
    return {p.name: torch.zeros_like(p.weights, dtype=torch.float32) for p in params}


RULES: Mapping[str, type[Rule]] = {"sgd": Sgd, "momentum": Momentum, "adam": Adam, "sign": Sign}
