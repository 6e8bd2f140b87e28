"""KerZOO, 2025, arXiv:2505.18886: a random radius and a kernel weight cancel the eps^2 bias of the central difference.

Paper     per probe u Gaussian and r uniform in [-1, 1]; c = (L(+eps r u) - L(-eps r u)) / (2 eps) * K(r); gradient = mean
          of c u.  K(r) = C (15/4) r (5 - 7 r^2): E[r K] = C keeps the slope, E[r^3 K] = 0 drops the third derivative.
          Alternatives: 3 C r, and one of fifth order with E[r^5 K] = 0 too.
Derived   the fifth-order kernel is printed with the factor 195/64, which gives E[r K] = 1.857 C; 105/64 gives C and is
          used here.  The price of a kernel is variance: E[(r K)^2] = 1.8 C^2 (linear), 6.25 C^2 (quartic), 13.25 C^2
          (fifth), where MeZO has 1; and C only scales the rate.  At eps 1e-3 the bias that is cancelled is far below
          that noise, so expect less of it than of MeZO at equal forwards.
          Nothing is divided by r, so a tiny |r| is harmless: the record keeps the difference as float32, to 24 bits
          relative, and K falls with r, so a probe that measured little weighs little.  But what a forward adds of its
          own does not fall with r: the noise of a bfloat16 loss enters with E[K^2] = 18.75 C^2 (quartic), 3 C^2
          (linear) times its variance in MeZO, and where eps |r| is below half a unit in the last place of a 16-bit
          weight, that weight does not move in the probe at all.  Use a larger eps than MeZO's.
Unknown   to us: the published number of probes, C and rate.
Departure r of a probe is addressed by the probe's seed (role radius).  Probes are Walsh codes of one base noise;
          coupling = "independent" is the paper's.
Replay    any order while weight decay is 0 and the rule is sgd.  State: none.  Forwards a step: 2 per probe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from zodist import noise
from zodist.directions import Combination, Dense, Param
from zodist.methods.claims import Gradients, Moments, dense
from zodist.methods.method import Method, Outcome, Probe, Settings, Step
from zodist.methods.steps import StepSeeds, slopes

KERNELS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda r: 3.0 * r,
    "quartic": lambda r: 15.0 / 4.0 * r * (5.0 - 7.0 * r * r),
    "fifth": lambda r: 105.0 / 64.0 * r * (35.0 - 126.0 * r * r + 99.0 * r * r * r * r),
}


class KerZOOSettings(Settings):
    """Keys of [method] with name = "kerzoo"."""

    probes: int = Field(1, ge=1, le=noise.CODES, description="two-sided probes in a step, over all workers")
    eps: float = Field(1e-3, gt=0, description="largest perturbation size, in weight units")
    noise: Literal["gaussian", "rademacher"] = Field("gaussian", description="law of a direction's numbers")
    coupling: Literal["walsh", "independent"] = Field("walsh", description="how the probes of a step differ")
    kernel: Literal["linear", "quartic", "fifth"] = Field("quartic", description="weight of a radius")
    scale: float = Field(1.0, gt=0, description="the kernel's constant C, a factor of the rate")


def radii(seeds: np.ndarray) -> np.ndarray:
    """The radius of each probe, uniform in (-1, 1) and never 0: float64 [probes], from 52 addressed bits."""
    counter = np.zeros((len(seeds), 4), np.uint32)
    counter[:, 3] = noise.RADIUS
    w = noise.philox(counter, seeds).astype(np.uint64)
    number = (w[:, 0] >> np.uint64(6) << np.uint64(26)) | (w[:, 1] >> np.uint64(6))  # 52 bits
    return (number.astype(np.float64) + 0.5) * 2.0**-51 - 1.0


class KerZOO(Method):
    """Two-sided probes of random size, weighed by a kernel and averaged."""

    settings_type = KerZOOSettings
    paper = "KerZOO 2025, arXiv:2505.18886"
    replay = "any order (sgd, no decay)"
    forwards = "2 per probe"

    def __init__(self, settings: KerZOOSettings) -> None:
        self.settings = settings
        self._dense = Dense(noise.LAWS[settings.noise], settings.coupling == "walsh")

    def direction(self, param: Param) -> Dense:
        """The same law for every parameter."""
        return self._dense

    def step(self, seeds: StepSeeds) -> Step:
        """One round: every probe at plus and minus its own radius."""
        s = self.settings
        names = seeds.names(s.probes, s.coupling)
        r = radii(names)
        plus = [Combination(names[n : n + 1], s.eps * r[n : n + 1]) for n in range(s.probes)]
        losses = yield tuple(Probe(int(seed), (p, p * -1.0)) for seed, p in zip(names, plus, strict=True))
        slope = slopes(losses, s.eps) * (s.scale * KERNELS[s.kernel](r))
        kept = np.isfinite(slope)
        count = int(kept.sum())
        gradient = Combination(names[kept], slope[kept] / max(count, 1))
        rms = float(np.sqrt(np.mean(slope[kept] ** 2))) if count else float("nan")
        loss = float(losses[kept].mean()) if count else float("nan")
        return Outcome(gradient, loss, rms, s.probes - count)

    def linear_moments(self, gradients: Gradients) -> Moments:
        """At C = 1: a probe's square is MeZO's times E[(r K)^2], and what two have in common is as in MeZO."""
        s, inflation = self.settings, {"linear": 9 / 5, "quartic": 25 / 4, "fifth": 13.2512}
        along, square = dense(gradients, s.noise, s.coupling, s.probes)
        alone = dense(gradients, s.noise, s.coupling, 1)[1] / s.probes
        return along, square + (inflation[s.kernel] - 1.0) * alone
