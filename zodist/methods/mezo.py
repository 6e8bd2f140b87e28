"""MeZO: Malladi, Gao, Nichani, Damian, Lee, Chen, Arora 2023, "Fine-Tuning Language Models with Just Forward Passes".

arXiv:2305.17333, Algorithm 1 (one probe a step) and n-SPSA of its appendix A.2 (the mean over several probes).

Paper     two forwards at +eps z and -eps z on one batch; slope = difference / (2 eps); gradient = slope * z, z Gaussian.
Departure the n probes of a step are Walsh codes of one base noise (coupling = "walsh"), so that replaying them costs
          one pass over the weights; coupling = "independent" is the paper's setting.  noise = "rademacher" is offered.
          Weights are perturbed in a copy, never in place; the published code's in-place arithmetic is bench/inplace.py.
Derived   probes with a loss that is not finite get weight zero and leave the mean.
Replay    any order while weight decay is 0 and the rule is sgd.  State: none.  Forwards a step: 2 per probe.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from zodist import noise
from zodist.direction import Combination, Dense
from zodist.methods import Method, Outcome, Probe, Settings, Step
from zodist.methods.steps import StepSeeds, slopes
from zodist.params import Param


class MeZOSettings(Settings):
    """Keys of [method] with name = "mezo"."""

    probes: int = Field(1, ge=1, le=noise.CODES, description="two-sided probes in a step, over all workers")
    eps: float = Field(1e-3, gt=0, description="perturbation size, in weight units")
    noise: Literal["gaussian", "rademacher"] = Field("gaussian", description="law of a direction's numbers")
    coupling: Literal["walsh", "independent"] = Field("walsh", description="how the probes of a step differ")


class MeZO(Method):
    """Two-sided probes, averaged."""

    settings_type = MeZOSettings
    paper = "Malladi et al. 2023, arXiv:2305.17333"
    replay = "any order (sgd, no decay)"
    forwards = "2 per probe"

    def __init__(self, settings: MeZOSettings) -> None:
        self.settings = settings
        self._dense = Dense(noise.LAWS[settings.noise], settings.coupling == "walsh")

    def direction(self, param: Param) -> Dense:
        """The same law for every parameter."""
        return self._dense

    def step(self, seeds: StepSeeds) -> Step:
        """One round: every probe at +eps and -eps."""
        s = self.settings
        names = seeds.names(s.probes, s.coupling)
        plus = [Combination(names[n : n + 1], np.array([s.eps])) for n in range(s.probes)]
        losses = yield tuple(Probe(int(seed), (p, p * -1.0)) for seed, p in zip(names, plus, strict=True))
        slope = slopes(losses, s.eps)
        kept = np.isfinite(slope)
        count = int(kept.sum())
        gradient = Combination(names[kept], slope[kept] / max(count, 1))
        rms = float(np.sqrt(np.mean(slope[kept] ** 2))) if count else float("nan")
        loss = float(losses[kept].mean()) if count else float("nan")
        return Outcome(gradient, loss, rms, s.probes - count)
