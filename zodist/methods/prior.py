"""Prior-informed ZO (MeZO-GV, MeZO-Greedy): Jin, Cen, Tan 2026; version 2 is called "Steering the Noise".

arXiv:2601.04710, algorithms 1 to 4.

Paper     M Gaussian candidates z_i, each evaluated one-sided at +eps z_i on the step's batch; a direction v from the
          order of their losses; then one two-sided probe along v on the same batch: g = (L(+eps v) - L(-eps v)) /
          (2 eps), gradient = g v.  "gv": v = mean of the best floor(alpha M) less mean of the others, alpha 0.5, not
          normalised; "greedy": v = the best candidate.  M 2 or 4.
Code      the default trainer is neither: it keeps the last best seed, and draws equal noise for tensors of equal size.
          Not offered.
Derived   a two-sided probe does not see the sign of v.  So at M = 2 the order has no effect: gv is MeZO with
          sqrt(2) eps and twice the rate, for four forwards, and greedy is MeZO; compare with MeZO at twice its rate.
          Progress of a step over MeZO's at the best rate, on a linear loss: gv M = 4: 2.10, 8: 4.55; greedy 4: 1.55;
          and M + 2 forwards where MeZO has 2.  With Rademacher noise equal weights of gv cancel: at M = 2 on half of the
          weights, at random ones in every step; means and variances are those above, the numbers are no signs.
Departure "weighted": v = -sum_i (l_i - mean) z_i / sqrt(sum_i (l_i - mean)^2), whose numbers have variance 1 across the
          gradient because its weights do not depend on those numbers; progress M - 1, since along the gradient v^2 is a
          chi-squared of M - 1 degrees of freedom.  Ours.  Equal losses: the first candidate.
          Ties are broken by the candidates' index.  Only losses within a probe are compared.  The candidates of a probe
          are unrelated noises, since a weighted sum of Walsh codes of one noise is no Gaussian direction (two of equal
          weight cancel on half of the weights).  coupling = "walsh" makes the probes of a step codes of the same M
          noises, so that an update takes M passes of noise for any number of probes; "independent" is the paper's.
Replay    any order while weight decay is 0 and the rule is sgd.  State: none.
Forwards  a step: candidates + 2 per probe, in two rounds.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from zodist import noise
from zodist.directions import Combination, Dense, Param
from zodist.methods.claims import Gradients, Moments, averaged, size
from zodist.methods.method import Method, Outcome, Probe, Settings, Step
from zodist.methods.one_sided import one_sided
from zodist.methods.steps import StepSeeds, slopes


class PriorSettings(Settings):
    """Keys of [method] with name = "prior"."""

    probes: int = Field(1, ge=1, le=1024, description="guided two-sided probes in a step, over all workers")
    candidates: int = Field(
        4, ge=2, le=64, description="one-sided candidates of a probe, M (published: 2, 4)"
    )
    guide: Literal["gv", "greedy", "weighted"] = Field("gv", description="how candidates make a direction")
    top: float = Field(0.5, gt=0, lt=1, description="share of candidates that count as good in gv, alpha")
    eps: float = Field(1e-3, gt=0, description="perturbation size, in weight units (published: 1e-3)")
    noise: Literal["gaussian", "rademacher"] = Field("gaussian", description="law of a direction's numbers")
    coupling: Literal["walsh", "independent"] = Field("walsh", description="how the probes of a step differ")


class Prior(Method):
    """Two-sided probes along directions that one-sided candidates point to."""

    settings_type = PriorSettings
    paper = "Jin et al. 2026, arXiv:2601.04710"
    replay = "any order (sgd, no decay)"
    forwards = "candidates + 2 per probe"

    def __init__(self, settings: PriorSettings) -> None:
        self.settings = settings
        self._dense = Dense(noise.LAWS[settings.noise], settings.coupling == "walsh")

    def direction(self, param: Param) -> Dense:
        """The same law for every parameter."""
        return self._dense

    def step(self, seeds: StepSeeds) -> Step:
        """Two rounds on the same batches: the candidates of every probe, then both sides of its guided direction."""
        s = self.settings
        if s.coupling == "walsh":
            names = seeds.crossed(s.probes, s.candidates)
        else:
            names = seeds.independent(s.probes * s.candidates).reshape(s.probes, s.candidates)
        first = yield one_sided(names, np.ones(names.shape), s.eps)
        usable = np.all(np.isfinite(first), axis=1)
        # A probe without a direction is asked for the clean loss twice: all probes of a round have as many points.
        guided = [
            Combination(own, self.guide(losses)) if fine else Combination.of()
            for own, losses, fine in zip(names, first, usable, strict=True)
        ]
        second = yield tuple(
            Probe(int(own[0]), (v * s.eps, v * -s.eps)) for own, v in zip(names, guided, strict=True)
        )
        slope = slopes(second, s.eps)
        kept = usable & np.isfinite(slope)
        count = int(kept.sum())
        if count == 0:
            return Outcome(Combination.of(), math.nan, math.nan, s.probes)
        weights = np.concatenate([guided[p].weights * (slope[p] / count) for p in np.flatnonzero(kept)])
        rms = float(np.sqrt(np.mean(slope[kept] ** 2)))
        gradient = Combination(names[kept].reshape(-1), weights)
        return Outcome(gradient, float(second[kept].mean()), rms, s.probes - count)

    def guide(self, losses: np.ndarray) -> np.ndarray:
        """Weights of the candidates in the guided direction, from their losses: float64 [candidates] both."""
        s = self.settings
        order = np.argsort(losses, kind="stable")
        weights = np.zeros(s.candidates)
        if s.guide == "greedy":
            weights[order[0]] = 1.0
        elif s.guide == "gv":
            good = min(max(1, math.floor(s.top * s.candidates)), s.candidates - 1)
            weights[order[:good]] = 1.0 / good
            weights[order[good:]] = -1.0 / (s.candidates - good)
        else:
            centred = losses - math.fsum(losses) / s.candidates
            length = math.sqrt(math.fsum(centred**2))
            if length > 0.0:
                weights = -centred / length
            else:
                weights[0] = 1.0
        return weights

    def linear_moments(self, gradients: Gradients) -> Moments | None:
        """With "weighted", v^2 along the gradient is chi-squared of M - 1 degrees of freedom; other guides: simulated only.

        Across it v has variance 1 a number, so that E|g . v v|^2 = (M - 1) (d - 1 + M + 1) |g|^2.  Probes that are codes
        of the same noises have more in common.
        """
        s = self.settings
        if s.guide != "weighted" or s.noise != "gaussian" or (s.coupling == "walsh" and s.probes > 1):
            return None
        square, numbers = size(gradients)
        gain = s.candidates - 1
        return square * gain, square * averaged(gain * (numbers + s.candidates), gain * gain, s.probes)
