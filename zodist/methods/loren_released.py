"""LOREN as its authors released it: Seung, Lee, Ko 2025, arXiv:2511.07971, repository at commit b80a32b.

What the code does differs from the paper's form (loren.py); this file keeps its arithmetic, for comparisons.

Code      a is repeated over the rows, so that ONE direction of a whole matrix is damped and not one of every row:
          v = u - (sqrt rho + D)(a~ . u) / (S D) a~ with S = m |a|^2, D = sqrt(rho + S): the root with a plus sign.
          K one-sided points, RLOO.  The step on a is the true score's times eps^2 sqrt(rho), about 3e-7: at the
          documented settings a does not change in float32, and what is left is RLOO with isotropic noise.
Departure the released heavy ball moves the weights once per point; here it is the rule's, once per step: its decay
          beta^K is rule.momentum = 0.53 for K = 6.  a is updated once a step, with the a that the points saw; the bug
          that sums a vector's gradient over its numbers is not kept.
Replay    in order.  State: 4 bytes a column for a, and a tiled copy of 4 bytes a weight.  Forwards: points per probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from zodist import noise
from zodist.directions import (
    Cache,
    Coded,
    Combination,
    Dense,
    LaidDense,
    Law,
    Param,
    matrix_shape,
    products,
    shared_tables,
)
from zodist.methods.method import Method, Outcome, Settings, Step
from zodist.methods.one_sided import one_sided
from zodist.methods.steps import StepSeeds, leave_one_out


class LorenReleasedSettings(Settings):
    """Keys of [method] with name = "loren_released"."""

    codes: ClassVar[tuple[str, ...]] = ("probes", "points")
    probes: int = Field(1, ge=1, description="groups of points that share a batch, over all workers")
    points: int = Field(6, ge=2, description="one-sided points of a probe (K)")
    eps: float = Field(1e-3, gt=0, description="perturbation size, in weight units")
    rho: float = Field(0.1, gt=0, description="damping (README 0.1, command line 1.0)")
    lr_a: float = Field(1e-3, ge=0, description="learning rate of a, which eps^2 sqrt(rho) multiplies")


@dataclass(frozen=True, eq=False, slots=True)
class Tied(Law):
    """Dense numbers with the component along one vector per matrix reflected and damped."""

    noise: Dense
    vector: np.ndarray
    tiled: np.ndarray
    rho: float

    def lay(self, param: Param, combinations: Sequence[Combination], cache: Cache) -> LaidDense:
        """The component of every combination along the tiled vector takes a noise pass of its own."""
        keys, tables = shared_tables(self.noise, combinations, cache)
        rows, along = matrix_shape(param.shape)[0], np.zeros((len(combinations), 1, 1))
        if len(keys):
            ones, vector = np.ones((rows, 1), np.float32), np.ascontiguousarray(self.vector[:, None])
            along = products.core(Coded(self.noise, keys, tables), param, ones, vector)
        wide = self.vector.astype(np.float64)
        square = rows * float(param.kernels.linalg.dot16(wide, wide))
        d = np.sqrt(self.rho + square)
        shares = (-(np.sqrt(self.rho) + d) / (square * d) * along[:, 0, 0]).astype(np.float32)
        amounts = shares if len(keys) else shares * 0
        return LaidDense(param.kernels, self.noise.law, keys, tables, amounts, self.tiled)


class LorenReleased(Method):
    """The released arithmetic on addressed noise."""

    settings_type = LorenReleasedSettings
    paper = "Seung et al. 2025, released code"
    replay = "in order"
    forwards = "points per probe"
    memory = "4 bytes a weight"

    def __init__(self, settings: LorenReleasedSettings) -> None:
        self.settings = settings
        self._dense = Dense(noise.GAUSSIAN, True)
        self.a: dict[str, np.ndarray] = {}
        self._tiled: dict[str, np.ndarray] = {}

    def begin(self, params) -> None:
        """Vectors a from addressed noise, N(0, 1)."""
        super().begin(params)
        for p in params:
            rows, columns = matrix_shape(p.shape)
            self.a[p.name] = noise.numbers(noise.GAUSSIAN, 0, p.id, noise.V, 0, columns)
            self._tiled[p.name] = np.tile(self.a[p.name], rows)

    def direction(self, param: Param) -> Tied:
        """Dense noise, damped along the tiled vector."""
        return Tied(self._dense, self.a[param.name], self._tiled[param.name], self.settings.rho)

    def step(self, seeds: StepSeeds) -> Step:
        """One round: every point at +eps."""
        s = self.settings
        names = seeds.coded(s.probes * s.points).reshape(s.probes, s.points)
        signs = seeds.signs(names.size).reshape(names.shape)
        losses = yield one_sided(names, signs, s.eps)
        weights, kept = leave_one_out(losses, s.points, pool="probe")
        used = int(kept.sum())
        if not used:
            return Outcome(Combination.of(), float("nan"), float("nan"), s.probes)
        seen, weights = names[kept].reshape(-1), weights.reshape(-1)
        signed = weights * signs[kept].reshape(-1)
        spread = float(np.std(losses[kept], axis=1, ddof=1).mean()) / s.eps
        return Outcome(
            Combination(seen, signed / s.eps),
            float(losses[kept].mean()),
            spread,
            s.probes - used,
            then=lambda: self._learn(seen, weights),
        )

    def _learn(self, seen: np.ndarray, weights: np.ndarray) -> None:
        """The released step on a: true score times eps^2 sqrt(rho)."""
        s = self.settings
        if s.lr_a == 0:
            return
        every = [Combination(seen[k : k + 1], np.ones(1)) for k in range(len(seen))]
        cache: Cache = {}
        for p in self.params:
            a, (rows, columns), dot16 = self.a[p.name], matrix_shape(p.shape), p.kernels.linalg.dot16
            coded = Coded(self._dense, *shared_tables(self._dense, every, cache))
            sums = products.back(coded, p, np.ones((rows, 1), np.float32))
            wide = a.astype(np.float64)
            square = rows * float(dot16(wide, wide))
            d, change = np.sqrt(s.rho + square), np.zeros(columns)
            for weight, row in zip(weights, sums[:, 0], strict=True):
                along = float(dot16(row, wide))
                pull = (np.sqrt(s.rho) + d) * (along * along - square) / (square * d)
                change += weight * (along * row - rows * wide - pull * rows * wide) / d
            a[:] = wide - s.lr_a * s.eps * s.eps * change
            self._tiled[p.name][:] = np.tile(a, rows)

    def state(self) -> dict[str, np.ndarray]:
        """The vectors a, by parameter name."""
        return dict(self.a)

    def load(self, state) -> None:
        """The vectors, and their tiled copies."""
        super().load(state)
        for p in self.params:
            self._tiled[p.name][:] = np.tile(self.a[p.name], matrix_shape(p.shape)[0])
