"""P-GAP: Mi, Tan, Zhang, Xu, Yuan, Huang 2025, zeroth-order steps in the subspace of an estimated gradient.

arXiv:2510.18228 (v1).  Every ``refresh`` steps a gradient is estimated from dense probes; until the next refresh
perturbations lie in the span of its leading singular vectors, their component along the estimate fixed to
+-sqrt(delta) times its norm.

Paper     per matrix U, V of rank r from h probes; Z = Z0 - ((<S, Z0> - xi sqrt(delta) |S|) / |S|^2) S; two forwards;
          delta falls linearly 2 -> 0 over the training (known from re-implementations); vectors by plain probes.
          h = 10, refresh 100, r 128 to 512.
Derived   E[c Z] = U [(1 - P_S + delta P_S)(U^T G V)] V^T: delta = 1 is plain, 0 is orthogonal to the estimate.  The signal
          of a matrix shows only beyond sqrt(m n) (|g| / sigma_1)^2 probes, far more than h = 10: so all probes of all
          workers are pooled, those of ``history`` dense steps, which are ordinary training steps and cost nothing extra.
          Perturbations carry sqrt(m n) / r, so that eps and rates compare with MeZO's on every parameter.
Departure the estimate G is never formed: a range finder (Halko et al. 2011) with one iteration, U0 = orth(G Omega),
          V = orth(G^T U0), U = orth(G V), S = U^T G V, streams the noise of the recorded seeds three times, float64 in a
          fixed order.  Z0 = U^T N V with dense noise N: then U Z V^T depends on the projectors alone, not on signs and
          rotations of the bases.  A share of the steps stays dense (``dense_share``), since probes inside a subspace can
          never leave it; until the first refresh all steps are.
Replay    in order.  State: 8 r (m + n) + 8 r^2 bytes a matrix, and the records of ``history`` dense steps.
          Forwards: 2 per probe.  A refresh makes 3 * history noise passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Literal

import numpy as np
from pydantic import Field

from zodist import noise
from zodist.directions import (
    Cache,
    Coded,
    Combination,
    Dense,
    Laid,
    Law,
    LowRank,
    Param,
    coded_tables,
    matrix_shape,
    products,
    shared_tables,
)
from zodist.methods.method import Method, Settings, Step
from zodist.methods.steps import StepSeeds
from zodist.methods.two_sided import two_sided


class PgapSettings(Settings):
    """Keys of [method] with name = "pgap"."""

    probes: int = Field(1, ge=1, le=noise.CODES, description="two-sided probes in a step, over all workers")
    eps: float = Field(1e-3, gt=0, description="perturbation size, in weight units")
    rank: int = Field(32, ge=1, le=64, description="rank of the subspaces (published: 128 to 512)")
    refresh: int = Field(100, ge=1, description="steps between two subspaces")
    history: int = Field(50, ge=1, description="dense steps whose probes make the estimate")
    dense_share: float = Field(0.5, gt=0, le=1, description="share of the steps whose probes are dense")
    delta: float = Field(2.0, ge=0, description="alignment with the estimate at the start; 1 is neutral")
    delta_end: float = Field(0.0, ge=0, description="alignment at the end of the schedule")
    delta_steps: int = Field(
        0, ge=0, description="steps over which delta changes linearly; 0: all steps of the run (published)"
    )
    noise: Literal["gaussian", "rademacher"] = Field("gaussian", description="law of the dense noise")
    coupling: Literal["walsh", "independent"] = Field("walsh", description="how the probes of a step differ")


class _Subspace(Law):
    """One matrix: dense before its first subspace and in dense steps, else low-rank."""

    def __init__(self, method: Pgap, param: Param) -> None:
        self.method, self.param = method, param
        self._low = LowRank(self.factors)

    @property
    def shape_alone(self) -> bool:
        """The method keeps factors whole."""
        return True

    def lay(self, param: Param, combinations: Sequence[Combination], cache: Cache) -> Laid:
        """By the kind of the step."""
        if self.method.dense_now:
            return self.method.dense.lay(param, combinations, cache)
        return self._low.lay(param, combinations, cache)

    def factors(self, combinations: Sequence[Combination], cache: Cache) -> tuple[np.ndarray, np.ndarray]:
        """U times the summed cores, and V^T."""
        u, v, s = self.method.bases(self.param)
        rows, columns = matrix_shape(self.param.shape)
        seeds = np.unique(np.concatenate([c.seeds for c in combinations]))
        if len(seeds) < len(combinations):  # an antithetic pair: one core for both
            units = [Combination(seeds[k : k + 1], np.ones(1)) for k in range(len(seeds))]
            mix = np.zeros((len(combinations), len(seeds)))
            for row, c in zip(mix, combinations, strict=True):
                np.add.at(row, np.searchsorted(seeds, c.seeds), c.weights)
            keys, tables = coded_tables(self.method.dense, units)
        else:
            units, mix = list(combinations), np.eye(len(combinations))
            keys, tables = shared_tables(self.method.dense, combinations, cache)
        linalg = self.param.kernels.linalg
        cores = products.core(Coded(self.method.dense, keys, tables), self.param, u, v)
        square = max(inner(linalg, s, s), 1e-300)
        level, scale = np.sqrt(self.method.delta * square), np.sqrt(rows * columns / s.size)
        for core, unit in zip(cores, units, strict=True):
            sign = inner(linalg, unit.weights, signs(unit.seeds, self.param.id))
            core -= (inner(linalg, s, core) - sign * level) / square * s
        left = np.stack(
            [scale * linalg.matmul(u, np.ascontiguousarray(np.tensordot(m, cores, 1))) for m in mix]
        )
        return left, v.T[None].astype(np.float32)


def inner(linalg: ModuleType, a: np.ndarray, b: np.ndarray) -> float:
    """The inner product of two float64 arrays, in one order on every processor.  linalg: of a parameter's kernels."""
    return float(linalg.dot16(np.ascontiguousarray(a).reshape(-1), np.ascontiguousarray(b).reshape(-1)))


def signs(seeds: np.ndarray, param: int) -> np.ndarray:
    """xi: a random sign of every (seed, parameter), float64 [n]."""
    counter = np.zeros((len(seeds), 4), np.uint32)
    counter[:, 2], counter[:, 3] = param, noise.RADIUS
    return 1.0 - 2.0 * (noise.philox(counter, seeds)[:, 0] & np.uint32(1)).astype(np.float64)


class Pgap(Method):
    """Two-sided probes, dense or in the subspace of pooled dense ones."""

    settings_type = PgapSettings
    paper = "Mi et al. 2025, arXiv:2510.18228"
    replay = "in order"
    forwards = "2 per probe"
    memory = "8 r (m + n + r) bytes a matrix"

    def __init__(self, settings: PgapSettings) -> None:
        s = self.settings = settings
        self.dense = Dense(noise.LAWS[s.noise], s.coupling == "walsh")
        self.dense_now, self.delta = True, s.delta
        self._seeds = np.zeros((s.history, s.probes), np.uint64)
        self._weights = np.zeros((s.history, s.probes), np.float64)
        self._counts = np.zeros(2, np.int64)  # dense steps recorded, refreshes done
        self._bases: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def begin(self, params: Sequence[Param]) -> None:
        """Room for the bases of every matrix."""
        super().begin(params)
        for p in params:
            if len(p.shape) > 1:
                rows, columns = matrix_shape(p.shape)
                r = min(self.settings.rank, rows, columns)
                self._bases[p.name] = np.zeros((rows, r)), np.zeros((columns, r)), np.zeros((r, r))

    def bases(self, param: Param) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """U [m, r], V [n, r], S [r, r] of a matrix, float64."""
        return self._bases[param.name]

    def direction(self, param: Param) -> Law:
        """Low-rank for matrices; vectors are probed densely in every step."""
        return _Subspace(self, param) if param.name in self._bases else self.dense

    def step(self, seeds: StepSeeds) -> Step:
        """One round of pairs; every ``refresh`` steps the subspaces are made anew once the weights have moved."""
        s, t = self.settings, seeds.step
        self.delta = self._scheduled(seeds)
        planned = int((t + 1) * s.dense_share) > int(t * s.dense_share)
        self.dense_now = dense = planned or self._counts[1] == 0
        outcome = yield from two_sided(seeds, s.probes, s.eps, s.coupling)

        def then() -> None:
            if dense:
                self._record(outcome.gradient)
            if (t + 1) % s.refresh == 0:
                self._refresh(seeds)

        return replace(outcome, then=then)

    def _scheduled(self, seeds: StepSeeds) -> float:
        """delta of a step: linear from the first step to the end of the run, or over ``delta_steps``.

        A function of the step and run.steps, as a rate is (zodist.rules.schedule): a run that is continued with more steps
        has another course for the steps that remain, and a replay that begins before them needs the steps they were made
        with.
        """
        s, over = self.settings, self.settings.delta_steps or seeds.steps
        if not over:
            raise ValueError("delta changes over a run: StepSeeds needs its steps, or delta_steps a number")
        done = min(1.0, seeds.step / over)
        return (1.0 - done) * s.delta + done * s.delta_end

    def _record(self, gradient: Combination) -> None:
        """Keep a dense step's estimate, in place of the oldest."""
        row, size = int(self._counts[0]) % self.settings.history, len(gradient)
        self._weights[row] = 0.0
        self._seeds[row, :size], self._weights[row, :size] = gradient.seeds, gradient.weights
        self._counts[0] += 1

    def _refresh(self, seeds: StepSeeds) -> None:
        """The subspaces of every matrix from the recorded probes."""
        kept = min(int(self._counts[0]), self.settings.history)
        estimate = Combination(self._seeds[:kept].reshape(-1), self._weights[:kept].reshape(-1) / kept)
        coded = Coded(self.dense, *coded_tables(self.dense, [estimate]))
        omega_seed = seeds.lasting(seeds.step)
        for p in self.params:
            if p.name not in self._bases:
                continue
            u, v, s = self._bases[p.name]
            columns, r, linalg = matrix_shape(p.shape)[1], u.shape[1], p.kernels.linalg
            omega = noise.numbers(noise.GAUSSIAN, omega_seed, p.id, noise.V, 0, columns * r).reshape(
                columns, r
            )
            first = linalg.orthonormalise(products.times(coded, p, omega)[0])
            right = linalg.orthonormalise(np.ascontiguousarray(products.back(coded, p, first)[0].T))
            if (
                right.shape[1] < r
            ):  # no signal at all, such as a matrix that nothing reaches: its old subspace stays
                continue
            y = products.times(coded, p, right)[0]
            left = linalg.orthonormalise(y)
            if left.shape[1] == r:
                u[:], v[:], s[:] = left, right, linalg.matmul_tn(left, y)
        self._counts[1] += 1

    def state(self) -> dict[str, np.ndarray]:
        """Bases, and the records that the next ones are made from."""
        held = {
            f"{name}/{part}": a
            for name, three in self._bases.items()
            for part, a in zip("uvs", three, strict=True)
        }
        return held | {"seeds": self._seeds, "weights": self._weights, "counts": self._counts}

    def expected(self, gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The mean of the estimate: the gradient's part in the subspaces, times m n / r^2 and delta along the estimate."""
        if self.dense_now:
            return dict(gradients)
        means = dict(gradients)
        for p in self.params:
            if p.name in self._bases:
                u, v, s = self._bases[p.name]
                rows, columns = matrix_shape(p.shape)
                core = u.T @ gradients[p.name].reshape(rows, columns) @ v
                core += (self.delta - 1.0) * (s * core).sum() / (s * s).sum() * s
                means[p.name] = (rows * columns / s.size * u @ core @ v.T).reshape(p.shape)
        return means

    def diagnose(self, gradients: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The gradient's energy within the subspaces, over what random ones would hold; and its cosine with the estimate."""
        held = chance = along = total = norm = 0.0
        linalg = self.params[0].kernels.linalg
        for name, (u, v, s) in self._bases.items():
            g = gradients[name].reshape(len(u), len(v))
            core, square = u.T @ g @ v, float(np.square(g).sum())
            held, total = held + float(np.square(core).sum()), total + square
            chance += square * s.size / (len(u) * len(v))
            along, norm = along + inner(linalg, s, core), norm + inner(linalg, s, s)
        cosine = along / np.sqrt(norm * total) if norm and total else 0.0
        return {
            "captured": held / total,
            "captured_over_chance": held / chance,
            "estimate_cosine": float(cosine),
        }
