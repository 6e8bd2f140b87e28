"""MeZO: Malladi, Gao, Nichani, Damian, Lee, Chen, Arora 2023, "Fine-Tuning Language Models with Just Forward Passes".

arXiv:2305.17333, Algorithm 1 (one probe a step) and n-SPSA of its appendix A.2 (the mean over several probes).

Paper     two forwards at +eps z and -eps z on one batch; slope = difference / (2 eps); gradient = slope * z, z Gaussian.
Departure the n probes of a step are Walsh codes of one base noise (coupling = "walsh"), so that replaying them costs
          one pass over the weights; coupling = "independent" is the paper's setting.  noise = "rademacher" is offered.
          Weights are perturbed in a copy, never in place; the published code's in-place arithmetic is bench/inplace.py.
Derived   probes with a loss that is not finite leave the mean (zodist.methods.two_sided has the step).
Memory    memory = "momentum" is appendix B's momentum without a buffer, and memory = "adam" the truncation of both
          moments in AdaMeZO (arXiv:2605.00650): the gradients g_a of the last ``horizon`` steps are rebuilt from their
          seeds and weights.  m = sum of beta1^age g_a * (1 - beta1) / (1 - beta1^h) over the h <= horizon steps there
          are, a mean with Adam's correction, so that the rate means what it means without memory; our choice.  "adam"
          moves by m / (sqrt(v) + epsilon), v the same mean of squares under beta2; then rule.lr is in weights moved.
          The published horizon is not known to us.  With one Rademacher probe a step, v is the same number for every
          weight.  Rules but "sgd" are refused.  An update costs one pass of noise over the weights for each step kept.
Replay    without memory: any order while weight decay is 0 and the rule is sgd.  With it: in order, from the last steps.
State     none; with memory 16 bytes a probe for each step kept.  Forwards a step: 2 per probe.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from zodist import noise
from zodist.directions import Dense, Kept, Law, Param, Ratio, Recent, Scaled
from zodist.methods.claims import Gradients, Moments, dense
from zodist.methods.method import Method, Outcome, Settings, Step, second_rule
from zodist.methods.steps import StepSeeds
from zodist.methods.two_sided import two_sided


class MeZOSettings(Settings):
    """Keys of [method] with name = "mezo"."""

    probes: int = Field(1, ge=1, le=noise.CODES, description="two-sided probes in a step, over all workers")
    eps: float = Field(1e-3, gt=0, description="perturbation size, in weight units")
    noise: Literal["gaussian", "rademacher"] = Field("gaussian", description="law of a direction's numbers")
    coupling: Literal["walsh", "independent"] = Field("walsh", description="how the probes of a step differ")
    memory: Literal["none", "momentum", "adam"] = Field(
        "none", description="moments of the last steps' gradients, rebuilt at every update"
    )
    horizon: int = Field(
        8, ge=1, le=1024, description="steps that memory reaches back, the present one included"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment, per step")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay of the second moment, per step")
    epsilon: float = Field(1e-8, gt=0, description="added to the root of adam's second moment")

    def refuses(self, rule: str) -> str:
        """Memory is a rule of its own."""
        return "" if self.memory == "none" else second_rule(rule, "memory", self.memory, "none")


class MeZO(Method):
    """Two-sided probes, averaged."""

    settings_type = MeZOSettings
    paper = "Malladi et al. 2023, arXiv:2305.17333"
    replay = "any order (sgd, no decay)"
    forwards = "2 per probe"
    memory = "none; with memory, 16 bytes a probe and step kept"

    def __init__(self, settings: MeZOSettings) -> None:
        s = self.settings = settings
        self._dense = Dense(noise.LAWS[s.noise], s.coupling == "walsh")
        self._recent = Recent(0 if s.memory == "none" else s.horizon, s.probes)
        self._ratio = Ratio(self._dense, self._recent, s.beta1, s.beta2, s.epsilon)

    def direction(self, param: Param) -> Dense:
        """The same law for every parameter."""
        return self._dense

    def update(self, param: Param) -> Law | Kept:
        """Adam's quotient is no combination of directions, but worked out for every weight."""
        return self._ratio if self.settings.memory == "adam" else self._dense

    def state(self) -> dict[str, np.ndarray]:
        """What memory keeps of the last steps."""
        kept = self._recent
        if self.settings.memory == "none":
            return {}
        return {"seeds": kept.seeds, "weights": kept.weights, "count": kept.count}

    def step(self, seeds: StepSeeds) -> Step:
        """One round: every probe at +eps and -eps."""
        s = self.settings
        outcome = yield from two_sided(seeds, s.probes, s.eps, s.coupling)
        if s.memory == "none" or outcome.empty:
            return outcome
        self._recent.add(outcome.gradient)
        if s.memory == "momentum":
            return replace(outcome, gradient=self._recent.decayed(s.beta1))
        return Outcome(Scaled(1.0), outcome.loss, outcome.slope, outcome.skipped)

    def linear_moments(self, gradients: Gradients) -> Moments | None:
        """Of n-SPSA; memory adds what it remembers."""
        s = self.settings
        return dense(gradients, s.noise, s.coupling, s.probes) if s.memory == "none" else None
