"""The step that MeZO and all methods share that only change what a direction is: two-sided probes, averaged."""

from __future__ import annotations

import math

import numpy as np

from zodist.directions import Combination
from zodist.methods.method import Estimate, Outcome, Probe
from zodist.methods.steps import StepSeeds, slopes


def two_sided(seeds: StepSeeds, probes: int, eps: float, coupling: str) -> Estimate:
    """One round: every probe at +eps and -eps; the gradient is the mean of slope * direction.

    Probes with a loss that is not finite are left out; the outcome's gradient is empty when none is left.
    Source: MeZO (arXiv:2305.17333), Algorithm 1 and appendix A.2.
    """
    names = seeds.names(probes, coupling)
    plus = [Combination(names[n : n + 1], np.array([eps])) for n in range(probes)]
    losses = yield tuple(Probe(int(seed), (p, p * -1.0)) for seed, p in zip(names, plus, strict=True))
    slope = slopes(losses, eps)
    kept = np.isfinite(slope)
    count = int(kept.sum())
    if not count:
        return Outcome(Combination.of(), math.nan, math.nan, probes)
    gradient = Combination(names[kept], slope[kept] / count)
    loss, rms = math.fsum(losses[kept].reshape(-1)) / (2 * count), math.fsum(slope[kept] ** 2) / count
    return Outcome(gradient, loss, math.sqrt(rms), probes - count)
