"""zodist's own method: several directions for every example, one-sided, pooled over all workers.

2026; ours, put together from parts of GRZO (arXiv:2606.02857), FZOO (arXiv:2506.09034) and EGGROLL (arXiv:2511.16652).

Derived   Let g be the gradient, s^2 the variance of one example's gradient, B the examples of a batch, d the weights, and
          B* = s^2 / |g|^2.  A probe of MeZO measures one direction on a whole batch: error d (|g|^2 + s^2 / B) for two
          forwards.  Here every example has directions of its own (GRZO), P of them, in P one-sided passes that share one
          pass at the weights (FZOO): P B directions, each on one example's gradient, error d (|g|^2 + s^2) / (P B) for
          P + 1 forwards.  At equal forwards that is a factor 2 P / (P + 1) * (B + B*) / (1 + B*) less.
          Only differences of one example's own losses are used, so no difference between examples or between the data
          of workers gets into a weight.
          Directions are outer products of signs (EGGROLL's are low-rank too; zodist.directions.rank_one): their error is that
          of dense ones, a forward costs little more than a bare one, and the update is one pass for any number of them.
          normalise = "spread" divides by the root mean square of all slopes of the step, of all workers (as FZOO and
          MEAZO, arXiv:2605.03869): the rate is then in weight units and does not depend on the loss's scale.
Replay    any order while weight decay is 0 and the rule is sgd.  State: none.  Forwards: passes + 1 per probe.
          The wire carries one float32 for each example and pass.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from zodist.directions import Combination, Param, RankOne, code_bits, code_signs, matrix_shape
from zodist.methods.claims import Gradients, Moments, root_chi, size
from zodist.methods.method import Method, Outcome, Probe, Settings, Step
from zodist.methods.steps import StepSeeds


class ZodistSettings(Settings):
    """Keys of [method] with name = "zodist"."""

    codes: ClassVar[tuple[str, ...]] = ("probes", "passes", "examples")
    probes: int = Field(1, ge=1, description="batches in a step, over all workers")
    passes: int = Field(1, ge=1, le=64, description="directions of every example, one forward each")
    examples: int = Field(16, ge=1, le=1024, description="examples of a probe: must be batch.size")
    eps: float = Field(1e-3, gt=0, description="perturbation size, in weight units")
    normalise: Literal["none", "spread"] = Field(
        "none", description="weights as slopes, or over their spread"
    )


class Zodist(Method):
    """Several directions an example, one-sided."""

    settings_type = ZodistSettings
    paper = "ours; parts from arXiv:2606.02857, arXiv:2506.09034"
    replay = "any order (sgd, no decay)"
    forwards = "passes + 1 per probe"

    def __init__(self, settings: ZodistSettings) -> None:
        self.settings = settings
        self._law = RankOne()

    def direction(self, param: Param) -> RankOne:
        """The same law for every parameter."""
        return self._law

    def count(self, values: np.ndarray) -> int:
        """A forward a pass, and one at the weights, however many scalars a probe is recorded with."""
        return (self.settings.passes + 1) * len(values)

    def step(self, seeds: StepSeeds) -> Step:
        """One round: every example at its own points of every pass, and at the weights."""
        s = self.settings
        each = s.passes * s.examples
        names = seeds.coded(s.probes * each)
        probes = []
        for n in range(0, len(names), each):
            points = tuple(Combination(names[k : k + 1], np.array([s.eps])) for k in range(n, n + each))
            probes.append(Probe(int(names[n]), points, s.examples))
        losses = yield tuple(probes)
        kept = np.isfinite(losses).all(axis=1)
        count = int(kept.sum())
        if not count:
            return Outcome(Combination.of(), math.nan, math.nan, s.probes)
        slope = ((losses[kept, :-1] - losses[kept, -1:]) / s.eps).reshape(-1)
        rms = math.sqrt(math.fsum(slope**2) / len(slope))
        weights = slope / (rms if s.normalise == "spread" and rms > 0 else 1.0) / len(slope)
        seen = names.reshape(s.probes, -1)[kept].reshape(-1)
        return Outcome(Combination(seen, weights), float(losses[kept, -1].mean()), rms, s.probes - count)

    def linear_moments(self, gradients: Gradients) -> Moments:
        """d for a direction, and for two of code w, of rows and columns, (sum of w) (sum of g^2 w); "spread": see grzo."""
        s = self.settings
        codes = np.arange(s.probes * s.passes * s.examples)
        square, numbers = size(gradients)
        common, pairs = 0.0, np.bincount((codes[:, None] ^ codes).reshape(-1))
        for code in range(1, len(pairs)):
            whole = weighed = 0.0
            for g in gradients.values():
                rows, columns = matrix_shape(g.shape)
                across, down = code_bits(rows, columns)
                over = code_signs(np.array([(code >> across) & ((1 << down) - 1)]), rows)[0].astype(
                    np.float64
                )
                along = code_signs(np.array([code & ((1 << across) - 1)]), columns)[0].astype(np.float64)
                whole += float(over.sum() * along.sum())
                weighed += float(over @ np.square(g).reshape(rows, columns) @ along)
            common += pairs[code] * whole * weighed
        error = (numbers * square + common / len(codes)) / len(codes)
        if s.normalise == "none":
            return square, error
        return math.sqrt(square) * root_chi(len(codes)) / math.sqrt(len(codes)), error / square
