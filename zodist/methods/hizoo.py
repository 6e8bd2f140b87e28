"""HiZOO: Zhao et al. 2024, "Second-Order Fine-Tuning without Pain for LLMs: A Hessian Informed Zeroth-Order Optimizer".

arXiv:2402.15173 (ICLR 2025).  A diagonal curvature H, one number per weight, is estimated from three forwards; probes go
along z / sqrt(H), and so does the update.

Paper     losses at +eps z / sqrt(H), -eps z / sqrt(H) and at the weights; s = |l+ + l- - 2 l0| / (2 eps^2);
          H <- (1 - alpha) H + alpha s H (z^2 - 1), H from 1; gradient = slope * z / sqrt(H), with the new H.  The
          identity subtracted from z^2 is from memory and derivation: we could not read the paper's formula.
Code      does not subtract it (identity = false), and leaves alpha at 0 unless asked.
Derived   s H (z^2 - 1) has the Hessian's diagonal as its mean.  Without the 1 it has half the trace of the scaled Hessian
          on top: H tends to 1 + d / 2 times the diagonal of d weights, which for a model is growth without end, a
          hidden decay of the rate.  The noise of one draw is as large as the trace: alpha has to be small, and over a
          run of 1 / alpha steps or less H stays near 1.  One draw can be negative: H is kept within h_min .. h_max.
          On SmolLM2-135M s was about 1,300 (8 probes, batches of 8 words, bfloat16, eps 3e-3): over 700 steps noise
          moves H by 5 % with alpha = 1e-6, our default, and by 0.05 % with the published 1e-8; the diagonal it looks
          for is about 2e-5 on average, and its differences are lost in that.  The rules "adam" and "sign" scale every
          weight's step by itself, which divides H out of the update again: they are refused.
Departure H moves once a step, by the mean of s over all probes.  Walsh codes do not change z^2, so with coupling =
          "walsh" one pass of noise moves H, whatever the number of probes; "independent" takes a pass for each.  Only
          Gaussian noise: z^2 of Rademacher numbers is 1 and says nothing about a single weight.
Replay    in order.  State: H, float32, 4 bytes a weight.  Forwards a step: 3 per probe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from zodist import noise
from zodist.directions import Combination, Dense, Dressed, Param, products
from zodist.methods.method import Method, Outcome, Probe, Settings, Step
from zodist.methods.steps import StepSeeds, slopes


class HiZOOSettings(Settings):
    """Keys of [method] with name = "hizoo"."""

    probes: int = Field(
        1, ge=1, le=noise.CODES, description="probes of three points in a step, over all workers"
    )
    eps: float = Field(1e-3, gt=0, description="perturbation size where H is 1, in weight units")
    noise: Literal["gaussian"] = Field(
        "gaussian", description="law of a direction's numbers; others have no z^2"
    )
    coupling: Literal["walsh", "independent"] = Field("walsh", description="how the probes of a step differ")
    alpha: float = Field(1e-6, ge=0, le=1, description="share of the new estimate in H (published: 1e-8)")
    identity: bool = Field(True, description="subtract the identity from z^2 (false: as the released code)")
    h_min: float = Field(0.1, gt=0, description="least curvature")
    h_max: float = Field(10.0, gt=0, description="largest curvature")

    def refuses(self, rule: str) -> str:
        """Rules that give every weight a step of one size divide H out again."""
        if rule not in ("adam", "sign"):
            return ""
        return (
            f"rule.name = {rule!r} scales the step of every weight by itself, which undoes the curvature; set rule.name = "
            "'sgd' or 'momentum'"
        )

    @model_validator(mode="after")
    def _holds_one(self) -> HiZOOSettings:
        if not self.h_min <= 1.0 <= self.h_max:
            raise ValueError(
                f"h_min = {self.h_min:g} and h_max = {self.h_max:g} leave out 1, where H starts; use h_min <= 1 <= h_max"
            )
        return self


class HiZOO(Method):
    """Two-sided probes along z / sqrt(H), and H from their second differences."""

    settings_type = HiZOOSettings
    paper = "Zhao et al. 2024, arXiv:2402.15173"
    replay = "in order"
    forwards = "3 per probe"
    memory = "4 bytes a weight (curvature)"

    def __init__(self, settings: HiZOOSettings) -> None:
        self.settings = settings
        self._dense = Dense(noise.LAWS[settings.noise], settings.coupling == "walsh")
        self.curvature: dict[str, np.ndarray] = {}

    def begin(self, params: Sequence[Param]) -> None:
        """Curvature 1 everywhere."""
        super().begin(params)
        self.curvature = {p.name: np.ones(p.weights.numel(), np.float32) for p in params}

    def direction(self, param: Param) -> Dressed:
        """z / sqrt(H), for the H of the moment: probes see the old one, the update the new one."""
        return Dressed(self._dense, curvature=self.curvature[param.name])

    def step(self, seeds: StepSeeds) -> Step:
        """One round: every probe at +eps, at -eps and at the weights themselves."""
        s = self.settings
        names = seeds.names(s.probes, s.coupling)
        plus = [Combination(names[n : n + 1], np.array([s.eps])) for n in range(s.probes)]
        losses = yield tuple(
            Probe(int(seed), (p, p * -1.0, Combination.of())) for seed, p in zip(names, plus, strict=True)
        )
        kept = np.isfinite(losses).all(axis=1)
        count = int(kept.sum())
        if not count:
            return Outcome(Combination.of(), math.nan, math.nan, s.probes)
        found, seen = losses[kept], names[kept]
        slope = slopes(found, s.eps)
        bends = np.abs((found[:, 0] - found[:, 2]) + (found[:, 1] - found[:, 2])) / (2.0 * s.eps**2)
        self._learn(seen, bends)
        gradient = Combination(seen, slope / count)
        loss, rms = math.fsum(found.reshape(-1)) / found.size, math.fsum(slope**2) / count
        return Outcome(gradient, loss, math.sqrt(rms), s.probes - count)

    def _learn(self, seen: np.ndarray, bends: np.ndarray) -> None:
        """Move H by the noise of some probes; bends: float64 [probes], the s of each."""
        s = self.settings
        if s.alpha == 0:
            return
        if s.coupling == "walsh":
            keys = np.array([noise.split_seed(int(seen[0]))[0]], np.uint64)
            bends = np.array([math.fsum(bends)])
        else:
            keys = seen
        gains = (s.alpha / len(seen) * bends).astype(np.float32)
        subtract, fade = np.float32(s.identity), np.float32(s.alpha)
        bounds = np.float32(s.h_min), np.float32(s.h_max)
        for p in self.params:
            h = self.curvature[p.name]
            drawn = products.plain(self._dense, keys, p)
            p.kernels.bend.of(h.size)(h, p.origin, drawn, gains, subtract, fade, *bounds)

    def expected(self, gradients: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The gradient over the curvature."""
        return {name: g / self.curvature[name].reshape(g.shape) for name, g in gradients.items()}

    def state(self) -> dict[str, np.ndarray]:
        """The curvature, by parameter name."""
        return dict(self.curvature)
