"""LOREN: Seung, Lee, Ko 2025, "Low-Rank Curvature for Zeroth-Order Optimization in LLM Fine-Tuning", AAAI-26.

arXiv:2511.07971.  Directions have rows of covariance (rho I + a a^T)^-1, with one learned vector a per matrix; the
losses of K one-sided points give, with a leave-one-out baseline (RLOO), both the preconditioned gradient and a
score-function step for a.

Paper     covariance I_m x (rho I_n + a a^T)^-1; K points, one-sided; RLOO; plain gradient steps on a; momentum (rule).
          The body of the paper was not available to us: what is here follows its abstract, notes on it, and derivation.
Derived   root, score and mean in closed form: with D = sqrt(rho + |a|^2), c = 1 / (D (D + sqrt rho)), y = U a:
          direction U - c y a^T, score m a / D^2 - (U^T y - c |y|^2 a) / (D sqrt rho).  The direction is sqrt(rho) times
          the paper's, so that eps and rates compare with MeZO's; the mean of the estimate is rho G (rho I + a a^T)^-1.
          The score's sum over all points is made in one pass over the noise: their Walsh codes factor out of each row.
          pool = "all" takes differences to a clean loss of each probe's own batch, so that data shards do not leak
          into the baseline, and leaves one out of all points of all workers: probes * points - 1 directions
          for probes * (points + 1) forwards; pool = "probe" has probes * (points - 1) for probes * points.
Departure vectors have the rule's momentum too; a begins as addressed noise of seed 0 and learns once a step.  The released
          code is loren_released.py.
Replay    in order.  State: 4 bytes a column of each matrix, 4 a number of each vector.  Forwards: points (+ 1) per probe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from zodist import noise
from zodist.directions import Combination, Dense, Param, Projected, matrix_shape, products
from zodist.methods.claims import Gradients, Moments, left_out
from zodist.methods.method import Method, Outcome, Settings, Step
from zodist.methods.one_sided import one_sided
from zodist.methods.steps import StepSeeds, leave_one_out


class LorenSettings(Settings):
    """Keys of [method] with name = "loren"."""

    codes: ClassVar[tuple[str, ...]] = ("probes", "points")
    probes: int = Field(1, ge=1, description="groups of points that share a batch, over all workers")
    points: int = Field(6, ge=2, description="one-sided points of a probe (K; the paper's runs have 6)")
    eps: float = Field(1e-3, gt=0, description="perturbation size, in weight units")
    rho: float = Field(0.1, gt=0, description="damping of the curvature model")
    lr_a: float = Field(1e-3, ge=0, description="learning rate of a; 0 keeps it as it began")
    decay_a: float = Field(0.0, ge=0, description="weight decay of a, times lr_a")
    start_a: float = Field(1.0, ge=0, description="standard deviation of a's first numbers")
    pool: Literal["probe", "all"] = Field("probe", description="whose losses make the baseline")
    noise: Literal["gaussian", "rademacher"] = Field("gaussian", description="law of the numbers of U")
    coupling: Literal["walsh", "independent"] = Field("walsh", description="how the points of a step differ")


class Loren(Method):
    """One-sided points, RLOO, a learned rank-one covariance."""

    settings_type = LorenSettings
    paper = "Seung et al. 2025, arXiv:2511.07971"
    replay = "in order"
    forwards = "points (+ 1) per probe"
    memory = "4 bytes a column of a matrix"

    def __init__(self, settings: LorenSettings) -> None:
        self.settings = settings
        self._dense = Dense(noise.LAWS[settings.noise], settings.coupling == "walsh")
        self.a: dict[str, np.ndarray] = {}
        self._along: dict[str, np.ndarray] = {}

    def begin(self, params) -> None:
        """Vectors a from addressed noise, the same in every run."""
        super().begin(params)
        for p in params:
            _, columns = matrix_shape(p.shape)
            first = noise.numbers(noise.GAUSSIAN, 0, p.id, noise.V, 0, columns)
            self.a[p.name] = first * np.float32(self.settings.start_a)
            self._along[p.name] = np.zeros(1, np.float32)
            self._settle(p.name)

    def _settle(self, name: str) -> None:
        """The coefficient c of a direction, from a."""
        rho = self.settings.rho
        d = np.sqrt(rho + self._square(name))
        self._along[name][0] = 1.0 / (d * (d + np.sqrt(rho)))

    def _square(self, name: str) -> float:
        wide = self.a[name].astype(np.float64)
        return float(self.params[0].kernels.linalg.dot16(wide, wide))

    def direction(self, param: Param) -> Projected:
        """The rows of dense noise, shortened along a."""
        one = np.ones(1, np.float32)
        return Projected(self._dense, self.a[param.name], self._along[param.name], one)

    def step(self, seeds: StepSeeds) -> Step:
        """One round: every point at +eps; with pool = "all" the weights themselves last."""
        s = self.settings
        names = seeds.names(s.probes * s.points, s.coupling).reshape(s.probes, s.points)
        signs = seeds.signs(names.size).reshape(names.shape)
        losses = yield one_sided(names, signs, s.eps, clean=s.pool == "all")
        weights, kept = leave_one_out(losses, s.points, pool=s.pool)
        used = int(kept.sum())
        if not used:
            return Outcome(Combination.of(), float("nan"), float("nan"), s.probes)
        seen, weights = names[kept].reshape(-1), weights.reshape(-1)
        signed = weights * signs[kept].reshape(-1)
        gradient = Combination(seen, signed / s.eps)
        spread = float(np.std(losses[kept, : s.points], axis=1, ddof=1).mean()) / s.eps
        return Outcome(
            gradient,
            float(losses[kept].mean()),
            spread,
            s.probes - used,
            then=lambda: self._learn(seen, weights),
        )

    def _learn(self, seen: np.ndarray, weights: np.ndarray) -> None:
        """One score-function step on every a; weights: float64 [points], leave-one-out, summing to zero."""
        s = self.settings
        if s.lr_a == 0:
            return
        if s.coupling == "walsh":
            keys = np.array([noise.split_seed(int(seen[0]))[0]], np.uint64)
            codes = (seen & np.uint64(noise.CODES - 1)).astype(np.int64)
            table = np.zeros((1, 1 << int(codes.max()).bit_length()), np.float64)
            table[0, codes] = weights
        else:
            keys, table = seen, weights[:, None].copy()
        for p in self.params:
            a, (rows, columns) = self.a[p.name], matrix_shape(p.shape)
            total = np.empty(columns, np.float64)
            q = p.kernels.score.of(rows * columns)(
                rows, columns, products.plain(self._dense, keys, p), a, table, total
            )
            c, d = float(self._along[p.name][0]), np.sqrt(s.rho + self._square(p.name))
            score = -(total - c * q * a) / (d * np.sqrt(s.rho))
            a[:] = (1.0 - s.lr_a * s.decay_a) * a - s.lr_a * score
            self._settle(p.name)

    def state(self) -> dict[str, np.ndarray]:
        """The vectors a, by parameter name."""
        return dict(self.a)

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """The vectors, and what follows from them."""
        super().load(state)
        for name in self.a:
            self._settle(name)

    def expected(self, gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """rho G (rho I + a a^T)^-1, by the formula for rank one."""
        means = {}
        for name, g in gradients.items():
            a = self.a[name].astype(np.float64)
            rows = g.reshape(matrix_shape(g.shape))
            means[name] = (rows - np.outer(rows @ a, a) / (self.settings.rho + a @ a)).reshape(g.shape)
        return means

    def linear_moments(self, gradients: Gradients) -> Moments | None:
        """Of leave-one-out with independent points; the trace of a row's covariance is n - |a|^2 / (rho + |a|^2)."""
        s, parts = self.settings, []
        if s.noise != "gaussian" or s.coupling == "walsh":
            return None
        for name, damped in self.expected(gradients).items():
            rows, columns = matrix_shape(damped.shape)
            square = self._square(name)
            parts.append((gradients[name], damped, rows * (columns - square / (s.rho + square))))
        return left_out(parts, s.probes * s.points - (1 if s.pool == "all" else s.probes))

    def diagnose(self, gradients: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Energy of the gradient along a, over what a random vector would get; 1 is chance.  Positive damping wants > 1."""
        along = total = 0.0
        for name, g in gradients.items():
            a, rows = self.a[name].astype(np.float64), g.reshape(matrix_shape(g.shape))
            along += float(np.square(rows @ a).sum() / (a @ a)) * rows.shape[1]
            total += float(np.square(rows).sum())
        return {"a_over_chance": along / total}
