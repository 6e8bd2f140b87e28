"""GRZO: 2026, one perturbation per example of a batch, in two forward passes for all of them.

arXiv:2606.02857 (authors not known to us).  A noise U is shared; example i sees U * (r_i s_i^T) with random signs r_i
of rows and s_i of columns, and its own loss difference weighs its own direction.

Paper     sign-factored directions, one an example; weights delta_i / std(delta).  We read a summary of the paper only.
Derived   the directions of two examples are uncorrelated number by number, so B examples give B directions for two
          forwards: each is measured on one example's gradient, and their mean estimates the mean gradient.  Error on a
          linear loss: about d / B of MeZO's d with equal examples; more where the examples' gradients differ.
Departure U is Rademacher by default.  normalise = "none" gives slopes, as MeZO's; "spread" the paper's weights, with the
          root mean square of delta over all examples of all workers.
Replay    any order without "spread" too: weights are functions of one step's records.  State: none.
          Forwards: 2 per probe, each with a second product in every layer (x * s) U^T: a step costs more than MeZO's with
          as many forwards.  The wire carries one scalar an example.  The update is one noise pass and a product of rank
          probes * examples.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from zodist import noise
from zodist.directions import Combination, Param, Signed
from zodist.methods.claims import Gradients, Moments, dense, root_chi
from zodist.methods.method import Method, Outcome, Probe, Settings, Step
from zodist.methods.steps import StepSeeds


class GRZOSettings(Settings):
    """Keys of [method] with name = "grzo"."""

    codes: ClassVar[tuple[str, ...]] = ("probes", "examples")
    probes: int = Field(1, ge=1, description="batches in a step, over all workers")
    examples: int = Field(16, ge=1, le=1024, description="directions of a probe: must be batch.size")
    eps: float = Field(1e-3, gt=0, description="perturbation size, in weight units")
    normalise: Literal["none", "spread"] = Field(
        "spread", description="weights as slopes, or over their spread"
    )
    noise: Literal["gaussian", "rademacher"] = Field("rademacher", description="law of the shared noise")


class GRZO(Method):
    """A direction an example."""

    settings_type = GRZOSettings
    paper = "GRZO 2026, arXiv:2606.02857"
    replay = "any order (sgd, no decay)"
    forwards = "2 per probe"

    def __init__(self, settings: GRZOSettings) -> None:
        self.settings = settings
        self._signed = Signed(noise.LAWS[settings.noise])

    def direction(self, param: Param) -> Signed:
        """The same law for every parameter."""
        return self._signed

    def count(self, values: np.ndarray) -> int:
        """Two forwards a probe, however many scalars it is recorded with."""
        return 2 * len(values)

    def step(self, seeds: StepSeeds) -> Step:
        """One round: all examples at plus and minus their own directions."""
        s = self.settings
        names = seeds.coded(s.probes * s.examples)
        probes = []
        for n in range(0, len(names), s.examples):
            points = tuple(Combination(names[k : k + 1], np.array([s.eps])) for k in range(n, n + s.examples))
            probes.append(Probe(int(names[n]), points, s.examples, paired=True))
        losses = yield tuple(probes)
        kept = np.isfinite(losses).all(axis=1)
        count = int(kept.sum())
        if not count:
            return Outcome(Combination.of(), math.nan, math.nan, s.probes)
        slope = ((losses[kept, :-1] - losses[kept, -1:]) / (2.0 * s.eps)).reshape(-1)
        rms = math.sqrt(math.fsum(slope**2) / len(slope))
        weights = slope / (rms if s.normalise == "spread" and rms > 0 else 1.0) / len(slope)
        seen = names.reshape(s.probes, -1)[kept].reshape(-1)
        return Outcome(Combination(seen, weights), float(losses[kept, -1].mean()), rms, s.probes - count)

    def linear_moments(self, gradients: Gradients) -> Moments:
        """Of B independent directions for every probe.

        "spread" divides by the root mean square of n = B * probes slopes, about chi / sqrt(n) |gradient|: what it leaves
        is E[chi] / sqrt(n) along the gradient, and the square of the plain estimate over |gradient|^2.
        """
        s, count = self.settings, self.settings.probes * self.settings.examples
        along, square = dense(gradients, s.noise, "independent", count)
        if s.normalise == "none":
            return along, square
        return math.sqrt(along) * root_chi(count) / math.sqrt(count), square / along
