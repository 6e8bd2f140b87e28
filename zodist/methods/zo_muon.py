"""ZO-Muon, 2026, arXiv:2602.17155: a gradient estimated in a random subspace, its singular values set to 1.

Paper     P [m, r] Haar orthonormal, drawn anew every ``refresh`` steps; N one-sided points on one batch: c_i = (L(W +
          mu P Psi_i) - L(W)) / mu with Psi_i [r, n] Gaussian, all parameters at once; G = mean of c_i Psi_i; O =
          msign(G) by 5 quintic Newton-Schulz steps; W <- W - lr * P O.  No momentum.  Vectors move by plain steps
          along their estimate.
          Published for OPT-13B: lr 1e-2, mu 1e-3, rank 64, refresh 100, N = 4.
Code      has a rate of 1e-7 for vectors written into it: vector_rate = 1e-7 / 1e-2 of rule.lr.  At a refresh it draws
          P anew for each of the N points and updates with the last.  Newton-Schulz runs in the weights' dtype.
Derived   a matrix moves by sqrt(r) * lr in Frobenius norm whatever the losses say, one without gradient as well: the
          rate has to decay.  So eps matters only for the losses, not for the size of a step.  Rules that scale every
          weight's step by itself, "adam" and "sign", would undo O and vector_rate, and are refused.
Departure directions are sqrt(m / r) P Psi: unit variance, as vectors have, so that eps compares with MeZO's; a
          published mu is ours * sqrt(m / r), matrix by matrix.  Singular values are set to 1 after the points of all
          probes of the step, which are those of all workers, are added up; float64 with a fixed order of sums; exact
          = true converges.  P comes from Gram-Schmidt with positive signs.  Points are Walsh codes of one Psi
          (coupling = "walsh"), and noise = "rademacher" is offered.  Slopes are differences to the clean loss of the
          same probe.
Replay    in any order, a step from its own losses alone.  State: none.
Memory    4 bytes for each of the m r numbers of P.  Forwards a step: points + 1 per probe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from zodist import noise
from zodist.directions import (
    Cache,
    Combination,
    Dense,
    Kept,
    Law,
    LowRank,
    Param,
    Product,
    Recalled,
    Scaled,
    factor,
    matrix_shape,
)
from zodist.methods.method import Method, Outcome, Probe, Settings, Step
from zodist.methods.steps import StepSeeds
from zodist.methods.thin import ONES, Bases, is_matrix

QUINTICS = 5
TOLERANCE = 1e-6  # of a number of O, whose root mean square is about 1 / sqrt(n)


class ZOMuonSettings(Settings):
    """Keys of [method] with name = "zo_muon"."""

    codes: ClassVar[tuple[str, ...]] = ("probes", "points")
    probes: int = Field(
        1, ge=1, le=1024, description="groups of points, each on a batch of its own (paper: 1)"
    )
    points: int = Field(4, ge=1, le=64, description="perturbed points of a probe, N (published: 4)")
    eps: float = Field(1e-3, gt=0, description="perturbation size, in weight units (published: mu = 1e-3)")
    rank: int = Field(64, ge=1, le=1024, description="r, columns of P (published: 64)")
    refresh: int = Field(100, ge=0, description="steps that P lasts; 0: all (published: 100)")
    vector_rate: float = Field(
        1e-5, ge=0, description="learning rate of vectors over rule.lr (published: 1e-7 / 1e-2)"
    )
    exact: bool = Field(
        False, description="singular values of exactly 1, instead of 0.7 to 1.2 after 5 steps"
    )
    noise: Literal["gaussian", "rademacher"] = Field(
        "gaussian", description="law of Psi and of vectors' numbers"
    )
    coupling: Literal["walsh", "independent"] = Field("walsh", description="how the points of a step differ")

    def refuses(self, rule: str) -> str:
        """Rules that give every weight a step of one size leave nothing of the singular values, nor of vector_rate."""
        if rule not in ("adam", "sign"):
            return ""
        return (
            f"rule.name = {rule!r} scales the step of every weight by itself, which undoes the singular values of 1 and "
            "method.vector_rate; set rule.name = 'sgd' or 'momentum'"
        )


class ZOMuon(Method):
    """One-sided points along P Psi; steps along P msign(sum of slope * Psi)."""

    settings_type = ZOMuonSettings
    paper = "ZO-Muon 2026, arXiv:2602.17155"
    replay = "any order (sgd, no decay)"
    forwards = "points + 1 per probe"

    def __init__(self, settings: ZOMuonSettings) -> None:
        self.settings = settings
        self._dense = Dense(noise.LAWS[settings.noise], settings.coupling == "walsh")
        self._bases = Bases(settings.rank, settings.refresh, orthonormal=True)
        self._gradient = Combination.of()  # of the step whose update is under way

    def direction(self, param: Param) -> Law:
        """sqrt(m / r) * P Psi for a matrix."""
        return LowRank(partial(self._factors, param)) if is_matrix(param) else self._dense

    def update(self, param: Param) -> Kept:
        """P O for a matrix, the estimate at a rate of its own for a vector."""
        return (
            Product(partial(self._moved, param)) if is_matrix(param) else Recalled(self._dense, self._paced)
        )

    def step(self, seeds: StepSeeds) -> Step:
        """One round: every point of every probe, and last the clean weights."""
        s = self.settings
        self._bases.enter(seeds)
        names = seeds.names(s.probes * s.points, s.coupling).reshape(s.probes, s.points)
        eps = np.array([s.eps])
        losses = yield tuple(
            Probe(
                int(own[0]), (*(Combination(own[i : i + 1], eps) for i in range(s.points)), Combination.of())
            )
            for own in names
        )
        kept = np.isfinite(losses).all(axis=1)
        found = losses[kept]
        if not len(found):
            return Outcome(Combination.of(), math.nan, math.nan, s.probes)
        slope = ((found[:, : s.points] - found[:, s.points :]) / s.eps).reshape(-1)
        self._gradient = Combination(names[kept].reshape(-1), slope / slope.size)
        rms = math.sqrt(math.fsum(slope**2) / slope.size)
        loss = math.fsum(found.reshape(-1)) / found.size
        return Outcome(Scaled(1.0), loss, rms, s.probes - len(found))

    def expected(self, gradients: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """With many points: P msign(P^T G) for a matrix of gradient G, vector_rate * g for a vector."""
        found = {name: self.settings.vector_rate * g for name, g in gradients.items()}
        for p in filter(is_matrix, self.params):
            basis = self._bases.left(p).astype(np.float64)
            signs = p.kernels.linalg.msign(basis.T @ gradients[p.name].reshape(len(basis), -1), TOLERANCE)
            found[p.name] = (basis @ signs).reshape(p.shape)
        return found

    def _paced(self) -> Combination:
        return self._gradient * self.settings.vector_rate

    def _factors(
        self, param: Param, combinations: Sequence[Combination], cache: Cache
    ) -> tuple[np.ndarray, np.ndarray]:
        basis = self._bases.left(param)
        scale = np.float32(math.sqrt(basis.shape[0] / basis.shape[1]))
        return (basis * scale)[None], self._psi(param, combinations, cache)

    def _moved(self, param: Param, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """P and O: msign of the pooled sum, which is not the sum of msigns."""
        pooled = self._psi(param, [self._gradient], cache.setdefault("pooled", {}))[0].astype(np.float64)
        if self.settings.exact:
            signs = param.kernels.linalg.msign(pooled, TOLERANCE)
        else:
            signs = param.kernels.linalg.newton_schulz(pooled, QUINTICS)
        return self._bases.left(param), ONES, signs

    def _psi(self, param: Param, combinations: Sequence[Combination], cache: Cache) -> np.ndarray:
        shape = self._bases.rank(param), matrix_shape(param.shape)[1]
        return factor(self._dense, combinations, cache, param.id, noise.U, *shape)
